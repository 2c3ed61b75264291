//! Upstreams' addresses that can't be right, as far as a file shows them.
//!
//! Resolves nothing: what a name stands for is looked at when it is reached.

use super::Check;
use crate::admin::settings::Settings as Admin;
use crate::config::path::Path;
use crate::egress::settings::{Own, ProxyUrl, Settings, Why, literal, why, why_name};
use crate::listen::settings::Listener;
use crate::types::BaseUrl;
use std::net::{IpAddr, Ipv4Addr};

/// Where weir listens, as far as the file says it.
pub(super) fn own(listeners: &[Listener], admin: Option<&Admin>) -> Own {
    let clients = listeners.iter().map(|it| &it.socket);
    let all = clients.chain(admin.map(|it| &it.socket));
    Own::new(all.filter_map(|socket| socket.address.tcp()))
}

/// Notes an address or a name that no upstream may have.
pub(super) fn forbidden(url: &BaseUrl, path: &Path, check: &mut Check<'_>) {
    let host = bare(&url.host);
    let why = address(&host).and_then(|ip| reason(ip, url.port, check));
    if let Some(why) = why.or_else(|| why_name(&host)) {
        let found = format!("{} ({why})", check.findings.found(path));
        let allowed = "the URL of a model server";
        check.findings.wrong_because(path, found, allowed);
    }
}

/// Why there can't be a proxy. A metadata service is none either, but gives nothing away to CONNECT.
pub(super) fn why_no_proxy(proxy: &ProxyUrl, check: &Check<'_>) -> Option<Why> {
    let why = reason(address(&bare(&proxy.host))?, proxy.port, check)?;
    (!matches!(why, Why::Metadata(_))).then_some(why)
}

fn reason(address: IpAddr, port: u16, check: &Check<'_>) -> Option<Why> {
    let own = || check.own.takes_anywhere(address, port).then_some(Why::Own);
    why(address).or_else(own)
}

/// The host as it is compared; a dot at its end changes nothing about where it is.
fn bare(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// The address that can be told without asking anybody.
fn address(host: &str) -> Option<IpAddr> {
    match host {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => literal(host),
    }
}

/// Warns of lists that don't do what they seem to say.
pub(super) fn lists(egress: &Settings, check: &mut Check<'_>) {
    if egress.proxies.is_empty() && !egress.proxied.is_empty() {
        check.warnings.push(
            "egress.proxied: there is no proxy_url, so these hosts can't be reached".to_owned(),
        );
    }
    for direct in &egress.direct {
        if let Some(proxied) = egress.proxied.iter().find(|it| it.covers(direct)) {
            check.warnings.push(format!(
                "egress.direct: {direct} has no effect, as egress.proxied has {proxied}"
            ));
        }
    }
}

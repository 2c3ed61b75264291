//! Upstreams' addresses that can't be right, as far as a file shows them.
//!
//! Resolves nothing: what a name stands for is looked at when it is reached.

use super::Check;
use crate::admin::settings::Settings as Admin;
use crate::config::path::Path;
use crate::egress::settings::{Own, Why, literal, why};
use crate::listen::settings::Listener;
use crate::types::BaseUrl;
use std::net::{IpAddr, Ipv4Addr};

/// Where weir listens, as far as the file says it.
pub(super) fn own(listeners: &[Listener], admin: Option<&Admin>) -> Own {
    let clients = listeners.iter().map(|it| &it.socket);
    let all = clients.chain(admin.map(|it| &it.socket));
    Own::new(all.filter_map(|socket| socket.address.tcp()))
}

/// Notes an address that no upstream may have.
pub(super) fn forbidden(url: &BaseUrl, path: &Path, check: &mut Check<'_>) {
    let address = match &*url.host {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => literal(host),
    };
    let Some(address) = address else {
        return;
    };
    let own = || check.own.takes_anywhere(address, url.port);
    if let Some(why) = why(address).or_else(|| own().then_some(Why::Own)) {
        let found = format!("{} ({why})", check.findings.found(path));
        let allowed = "the URL of a model server";
        check.findings.wrong_because(path, found, allowed);
    }
}

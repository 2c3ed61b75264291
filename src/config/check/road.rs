//! `proxy_url`, `egress`, `dns`: the road out.

use super::{Check, bounds};
use crate::config::file::{Dns, Egress, File};
use crate::config::lists::List;
use crate::config::path::Path;
use crate::config::units::{Span, Text};
use crate::egress::settings::{Pattern, ProxyUrl, ProxyUrlError, Settings};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Reads the rules of the road.
pub(super) fn road(file: &File, check: &mut Check<'_>) -> Settings {
    let no_egress = Egress::default();
    let egress = file.egress.as_ref().unwrap_or(&no_egress);
    let path = check.key("egress");
    let url = check.key("proxy_url");
    let secret = check.secret(file.proxy_url.as_ref(), &url);
    Settings {
        proxy: secret.and_then(|text| proxy(text.expose(), &url, "proxy_url", check)),
        direct: patterns(egress.direct.as_ref(), &path.key("direct"), check),
        proxied: patterns(egress.proxied.as_ref(), &path.key("proxied"), check),
        dns: dns(file.dns.as_ref().unwrap_or(&Dns::default()), check),
    }
}

/// A proxy's URL; `key` names where it stands, without its place.
pub(super) fn proxy(text: &str, path: &Path, key: &str, check: &mut Check<'_>) -> Option<ProxyUrl> {
    match text.parse() {
        Ok(url) => return Some(url),
        Err(ProxyUrlError::NotBuilt(scheme)) => {
            check.findings.not_built(path, format!("{key} ({scheme}://)"));
        }
        Err(_) => check.findings.wrong(
            path,
            "http://[user:password@]host:port (%25 %3A %40 %2F for %, :, @ and / in user or password)",
        ),
    }
    None
}

fn patterns(list: Option<&List<Text>>, path: &Path, check: &mut Check<'_>) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for (index, text) in list.iter().flat_map(|list| list.items()) {
        match text.0.parse() {
            Ok(pattern) => patterns.push(pattern),
            Err(_) => check.findings.wrong(
                &path.index(index),
                "a host, .suffix, *.suffix, IP address or network such as 10.0.0.0/8, each with or \
                 without :port",
            ),
        }
    }
    patterns
}

fn dns(dns: &Dns, check: &mut Check<'_>) -> weir_dns::Config {
    let path = check.key("dns");
    let standard = weir_dns::Config::default();
    let or = |span: Option<Span>, standard: Duration| span.map_or(standard, |span| span.0);
    let min_ttl = or(dns.min_ttl, standard.min_ttl);
    let max_ttl = or(dns.max_ttl, standard.max_ttl);
    if min_ttl > max_ttl {
        let key = if dns.min_ttl.is_some() {
            "min_ttl"
        } else {
            "max_ttl"
        };
        check
            .findings
            .wrong(&path.key(key), "a min_ttl that isn't longer than max_ttl");
    }
    let timeout = bounds::positive(dns.timeout, &path.key("timeout"), check);
    let mut servers = Vec::new();
    for (index, text) in dns.servers.iter().flat_map(|list| list.items()) {
        match server(&text.0) {
            Some(server) => servers.push(server),
            None => {
                let path = path.key("servers").index(index);
                check
                    .findings
                    .wrong(&path, "the IP or IP:PORT of a DNS server");
            }
        }
    }
    weir_dns::Config {
        servers,
        min_ttl,
        max_ttl,
        negative_ttl: or(dns.negative_ttl, standard.negative_ttl),
        stale: or(dns.stale, standard.stale),
        timeout: timeout.unwrap_or(standard.timeout),
        ..standard
    }
}

const DNS_PORT: u16 = 53;

fn server(text: &str) -> Option<SocketAddr> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Some((ip, DNS_PORT).into()),
        Err(_) => text
            .parse()
            .ok()
            .filter(|address: &SocketAddr| address.port() != 0),
    }
}

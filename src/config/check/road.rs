//! `proxy_url`, `egress`, `dns`: the road out.

use super::{Check, bounds, exits, from_env};
use crate::config::file::{Dns, Egress, File, OneOrMore};
use crate::config::lists::List;
use crate::config::path::Path;
use crate::config::units::{Span, Text, Whole};
use crate::egress::settings::{Pattern, ProxyUrl, ProxyUrlError, Settings, is_name};
use crate::types::Secret;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Reads the rules of the road.
pub(super) fn road(file: &File, check: &mut Check<'_>) -> Settings {
    let no_egress = Egress::default();
    let egress = file.egress.as_ref().unwrap_or(&no_egress);
    let path = check.key("egress");
    let url = check.key("proxy_url");
    let mut proxies = proxies(file.proxy_url.as_ref(), &url, check);
    let mut no_proxy = Vec::new();
    if egress.from_env.is_some_and(|from_env| from_env.0) {
        if proxies.is_empty() && !check.findings.covers(&url) {
            proxies = from_env::proxies(&path.key("from_env"), check);
        }
        no_proxy = from_env::no_proxy(check);
    }
    Settings {
        proxies,
        direct: patterns(egress.direct.as_ref(), &path.key("direct"), check),
        proxied: patterns(egress.proxied.as_ref(), &path.key("proxied"), check),
        no_proxy,
        connection_max_age: max_age(egress.connection_max_age, &path, check),
        prewarm_max: prewarm(egress.prewarm, &path, check),
        dns: dns(file.dns.as_ref().unwrap_or(&Dns::default()), check),
    }
}

/// `proxy_url`: none where its one text is empty, as `${PROXY:-}` may be.
fn proxies(given: Option<&OneOrMore>, path: &Path, check: &mut Check<'_>) -> Vec<ProxyUrl> {
    let url = |secret: Secret<String>, path: &Path, check: &mut Check<'_>| {
        proxy(secret.expose(), path, check)
    };
    match given {
        None => Vec::new(),
        Some(OneOrMore::One(text)) => {
            let secret = check.secret(Some(text), path);
            secret
                .and_then(|secret| url(secret, path, check))
                .into_iter()
                .collect()
        }
        Some(OneOrMore::More(list)) => proxy_texts(list, path, check)
            .into_iter()
            .filter_map(|text| text.expose().parse().ok())
            .collect(),
    }
}

/// The URLs of a list of proxies, each looked at.
pub(super) fn proxy_texts(
    list: &List<Text>,
    path: &Path,
    check: &mut Check<'_>,
) -> Vec<Secret<String>> {
    if !(1..=PROXIES_MAX).contains(&list.0.len()) {
        let found = format!("a list of {}", list.0.len());
        check
            .findings
            .wrong_because(path, found, "a list of 1 to 16 proxies");
    }
    let mut texts = Vec::new();
    for (index, text) in list.items() {
        let path = path.index(index);
        let before = check.findings.len();
        let secret = check.secret(Some(text), &path).unwrap_or_default();
        if check.findings.len() == before {
            proxy(secret.expose(), &path, check);
            texts.push(secret);
        }
    }
    texts
}

const PROXIES_MAX: usize = 16;

/// How a proxy is written.
pub(super) const PROXY: &str = "http://[user:password@]host:port, or https, socks5, socks5h (%25 \
                                %3A %40 %2F for %, :, @ and / in user or password)";

/// Where a proxy can be.
pub(super) const PROXY_PLACE: &str = "the address of a proxy";

/// A proxy's URL.
pub(super) fn proxy(text: &str, path: &Path, check: &mut Check<'_>) -> Option<ProxyUrl> {
    match text.parse() {
        Ok(url) => {
            if let Some(why) = exits::why_no_proxy(&url, check) {
                let found = format!("{} ({why})", check.findings.found(path));
                check.findings.wrong_because(path, found, PROXY_PLACE);
            }
            return Some(url);
        }
        Err(ProxyUrlError::CredentialsLength) => check.findings.wrong(
            path,
            "socks5://user:password@host:port with 1 to 255 bytes each for user and password",
        ),
        Err(_) => check.findings.wrong(path, PROXY),
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
                "a host, .suffix, *.suffix, IP address, network such as 10.0.0.0/8 or <local>, each \
                 with or without :port",
            ),
        }
    }
    patterns
}

/// `None` is never.
fn max_age(span: Option<Span>, path: &Path, check: &mut Check<'_>) -> Option<Duration> {
    const MAX: Duration = Duration::from_secs(30 * 24 * 3600);
    let Some(span) = span else {
        return Settings::default().connection_max_age;
    };
    let age = bounds::seconds(span, "never", MAX, &path.key("connection_max_age"), check);
    (!age.is_zero()).then_some(age)
}

fn prewarm(count: Option<Whole>, path: &Path, check: &mut Check<'_>) -> usize {
    const MAX: u64 = 1000;
    let Some(Whole(count)) = count else {
        return Settings::default().prewarm_max;
    };
    if count > MAX {
        let path = path.key("prewarm");
        check.findings.wrong(&path, "a number from 0 (off) to 1000");
    }
    usize::try_from(count.min(MAX)).unwrap_or_default()
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
        search: search(dns.search.as_ref(), &path.key("search"), check),
        ndots: ndots(dns.ndots, &path.key("ndots"), check),
    }
}

fn search(list: Option<&List<Text>>, path: &Path, check: &mut Check<'_>) -> Option<Vec<String>> {
    let list = list?;
    if list.0.len() > SEARCH_MAX {
        let found = format!("a list of {}", list.0.len());
        check
            .findings
            .wrong_because(path, found, "at most 16 domains");
    }
    let mut domains = Vec::new();
    for (index, Text(text)) in list.items() {
        let domain = text.trim_matches('.').to_ascii_lowercase();
        match is_name(&domain) {
            true => domains.push(domain),
            false => check
                .findings
                .wrong(&path.index(index), "a domain such as corp.example"),
        }
    }
    Some(domains)
}

/// Each costs a query for a name that doesn't exist.
const SEARCH_MAX: usize = 16;

fn ndots(count: Option<Whole>, path: &Path, check: &mut Check<'_>) -> Option<u8> {
    // What glibc allows.
    let dots = u8::try_from(count?.0).ok().filter(|dots| *dots <= 15);
    if dots.is_none() {
        check.findings.wrong(path, "a number from 0 to 15");
    }
    dots
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

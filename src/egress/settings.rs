//! What the road is told by the configuration: the proxies (`proxy_url.rs`), and which hosts go
//! around them (`pattern.rs`).
//!
//! Plain values and their texts; `config` fills them, `rules.rs` applies them.

mod no_proxy;
mod pattern;
mod proxy_url;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

pub use super::forbidden::{Why, literal, why, why_name};
pub use super::own::Own;
pub use no_proxy::NoProxy;
pub use pattern::{Pattern, PatternError};
pub use proxy_url::{Login, ProxyKind, ProxyUrl, ProxyUrlError};

/// Everything that `egress`, `proxy_url` and `dns` say.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `proxy_url`: the ways to all that isn't reached directly; the first that works is used. Empty
    /// where there is none.
    pub proxies: Vec<ProxyUrl>,
    /// `egress.direct`: reached directly, besides the intranet ranges.
    pub direct: Vec<Pattern>,
    /// `egress.proxied`: always through the proxy; wins over `direct`.
    pub proxied: Vec<Pattern>,
    /// What `NO_PROXY` says where `egress.from_env` is true: reached directly, after `direct`.
    pub no_proxy: Vec<Pattern>,
    /// `egress.connection_max_age`: a pooled connection carries no new request at this age, give or
    /// take a fifth so that not all end at once; `None` is never. Default: 10 minutes.
    pub connection_max_age: Option<Duration>,
    /// `egress.prewarm`: upstreams that are connected to at the start, at most; 0 is off. Default: 8.
    pub prewarm_max: usize,
    /// How names are resolved.
    pub dns: weir_dns::Config,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            proxies: Vec::new(),
            direct: Vec::new(),
            proxied: Vec::new(),
            no_proxy: Vec::new(),
            connection_max_age: Some(Duration::from_secs(600)),
            prewarm_max: 8,
            dns: weir_dns::Config::default(),
        }
    }
}

// === texts ===

/// `host:port`, IPv6 in brackets.
pub(super) struct Authority<'a>(pub(super) &'a str, pub(super) u16);

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') {
            write!(f, "[{}]:{}", self.0, self.1)
        } else {
            write!(f, "{}:{}", self.0, self.1)
        }
    }
}

/// An IP literal (IPv6 without brackets) or a host name.
pub(super) fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || is_name(text)
}

/// A host name: labels of letters, digits, `-` and `_`.
pub(crate) fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// What is in front of the port, without an IPv6 literal's brackets, and the port's text.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some((inner, after)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return match after.strip_prefix(':') {
            Some(port) => (inner, Some(port)),
            None if after.is_empty() => (inner, None),
            // Neither a host nor a port: refused by what looks at the host.
            None => (text, None),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

//! What the road is told by the configuration: the proxy, and which hosts go around it.
//!
//! Plain values and their texts; `config` fills them, `rules.rs` applies them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::types::Secret;

/// Everything that `egress`, `proxy_url` and `dns` say.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `proxy_url`: the way to all that isn't reached directly.
    pub proxy: Option<ProxyUrl>,
    /// `egress.direct`: reached directly, besides the intranet ranges.
    pub direct: Vec<Pattern>,
    /// `egress.proxied`: always through the proxy; wins over `direct`.
    pub proxied: Vec<Pattern>,
    /// How names are resolved.
    pub dns: weir_dns::Config,
}

/// A forward proxy that is spoken to in plain HTTP with CONNECT. Displayed without credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyUrl {
    /// Name or IP literal (IPv6 without brackets), lower case.
    pub host: String,
    /// Port; 80 unless the URL has one.
    pub port: u16,
    /// Value of `Proxy-Authorization`, where the URL has a user.
    pub authorization: Option<Secret<String>>,
}

/// Why a text isn't a proxy's URL. Never repeats the text: it may have a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyUrlError {
    /// A scheme that proxies do have, but that isn't supported: `https`, `socks5`, ….
    NotBuilt(&'static str),
    /// No scheme, or none of a proxy.
    Scheme,
    /// The host is missing or has a character that hosts don't have.
    Host,
    /// The port isn't 1 to 65535.
    Port,
    /// Something after the port: a path, a query, a fragment.
    Path,
    /// The user or password has a `%` that isn't followed by two hexadecimal digits, or a user
    /// contains `:`.
    Credentials,
}

/// Hosts, as `egress.direct` and `egress.proxied` name them. All forms may end in `:port`.
///
/// | text | means |
/// | --- | --- |
/// | `api.example.com` | this name |
/// | `.example.com` | this name and all below it |
/// | `*.example.com` | all names below it |
/// | `10.0.0.7`, `fd00::7`, `[fd00::7]:443` | this address |
/// | `10.0.0.0/8`, `fd00::/8`, `[fd00::/8]:443` | addresses of this network |
/// | `*` | everything |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    Any,
    Exact(String),
    /// Apex and below; without the dot in front.
    Suffix(String),
    /// Below only; without `*.` in front.
    Below(String),
    Net(IpNet),
}

/// Why a text isn't a [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// Nothing, or characters that host names don't have; also a `*` anywhere but in front.
    Host,
    /// The port isn't 1 to 65535.
    Port,
    /// Not a network, such as `10.0.0.0/33`.
    Net,
}

// === impl ProxyUrl ===

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(ProxyUrlError::Scheme)?;
        supported(scheme)?;
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        if place.contains(['/', '?', '#']) {
            return Err(ProxyUrlError::Path);
        }
        let (host, port) = split_port(place);
        let port = match port {
            Some(port) => parse_port(port).ok_or(ProxyUrlError::Port)?,
            None => 80,
        };
        let host = host.to_ascii_lowercase();
        if !is_host(&host) {
            return Err(ProxyUrlError::Host);
        }
        let authorization = user.map(basic).transpose()?;
        Ok(Self {
            host,
            port,
            authorization,
        })
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", Authority(&self.host, self.port))
    }
}

fn supported(scheme: &str) -> Result<(), ProxyUrlError> {
    let other = ["https", "socks5", "socks5h", "socks4", "socks4a"];
    if scheme.eq_ignore_ascii_case("http") {
        return Ok(());
    }
    match other.iter().find(|name| scheme.eq_ignore_ascii_case(name)) {
        Some(name) => Err(ProxyUrlError::NotBuilt(name)),
        None => Err(ProxyUrlError::Scheme),
    }
}

fn basic(user_info: &str) -> Result<Secret<String>, ProxyUrlError> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let mut pair = unescape(user).ok_or(ProxyUrlError::Credentials)?;
    if pair.contains(&b':') {
        return Err(ProxyUrlError::Credentials);
    }
    pair.push(b':');
    pair.extend(unescape(password).ok_or(ProxyUrlError::Credentials)?);
    Ok(Secret::new(format!("Basic {}", base64(&pair))))
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        plain.push((high * 16 + low) as u8);
    }
    Some(plain)
}

/// RFC 4648 section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            if at <= group.len() {
                let sextet = word >> (18 - 6 * at) & 63;
                text.push(char::from(ALPHABET[sextet as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

// === impl Pattern ===

impl Pattern {
    /// Whether a host written as a name is meant, by the name alone.
    pub(super) fn takes_name(&self, host: &str, port: u16) -> bool {
        let hosts = match &self.hosts {
            Hosts::Any => true,
            Hosts::Exact(name) => host == name,
            Hosts::Suffix(suffix) => host == suffix || is_below(host, suffix),
            Hosts::Below(suffix) => is_below(host, suffix),
            Hosts::Net(_) => false,
        };
        hosts && self.takes_port(port)
    }

    /// Whether an address is in the network that is meant.
    pub(super) fn takes_address(&self, address: IpAddr, port: u16) -> bool {
        match &self.hosts {
            Hosts::Net(net) => net.contains(&address.to_canonical()) && self.takes_port(port),
            _ => false,
        }
    }

    /// Whether only addresses can tell if a host on this port is meant.
    pub(super) fn needs_addresses(&self, port: u16) -> bool {
        matches!(self.hosts, Hosts::Net(_)) && self.takes_port(port)
    }

    fn takes_port(&self, port: u16) -> bool {
        self.port.is_none_or(|only| only == port)
    }
}

/// `host` ends in `.suffix`; `notexample.com` isn't below `example.com`.
fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix)
        .is_some_and(|front| front.len() > 1 && front.ends_with('.'))
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (hosts, port) = split_port(text.trim());
        let port = match port {
            Some(port) => Some(parse_port(port).ok_or(PatternError::Port)?),
            None => None,
        };
        let hosts = Hosts::parse(&hosts.to_ascii_lowercase())?;
        Ok(Self { hosts, port })
    }
}

impl Hosts {
    fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.to_canonical().into()));
        }
        if text.contains('/') {
            let net = text.parse::<IpNet>().map_err(|_| PatternError::Net)?;
            return Ok(Self::Net(net.trunc()));
        }
        let (form, name): (fn(String) -> Self, &str) = if let Some(name) = text.strip_prefix("*.") {
            (Self::Below, name)
        } else if let Some(name) = text.strip_prefix('.') {
            (Self::Suffix, name)
        } else {
            (Self::Exact, text)
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_name(name) {
            return Err(PatternError::Host);
        }
        Ok(form(name.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.hosts {
            Hosts::Any => f.write_str("*")?,
            Hosts::Exact(name) => f.write_str(name)?,
            Hosts::Suffix(name) => write!(f, ".{name}")?,
            Hosts::Below(name) => write!(f, "*.{name}")?,
            Hosts::Net(net) => {
                let one = net.prefix_len() == net.max_prefix_len();
                let bracket = port.is_some() && matches!(net, IpNet::V6(_));
                match (bracket, one) {
                    (true, true) => write!(f, "[{}]", net.addr())?,
                    (true, false) => write!(f, "[{net}]")?,
                    (false, true) => write!(f, "{}", net.addr())?,
                    (false, false) => write!(f, "{net}")?,
                }
            }
        }
        match port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
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

fn is_name(text: &str) -> bool {
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

impl fmt::Display for ProxyUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt(scheme) => {
                write!(
                    f,
                    "{scheme}:// proxies are not built yet; use http://host:port"
                )
            }
            Self::Scheme => f.write_str("a proxy is written http://[user:password@]host:port"),
            Self::Host => f.write_str("the proxy's host is missing or malformed"),
            Self::Port => f.write_str("the proxy's port must be 1 to 65535"),
            Self::Path => f.write_str("a proxy's URL ends after the port"),
            Self::Credentials => f.write_str(
                "the proxy's user or password is malformed; write %, :, @ and / as %25 %3A %40 %2F \
                 (a user can't have a colon)",
            ),
        }
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => {
                "expected a host, .suffix, *.suffix, address or network (CIDR), each with or \
                 without :port"
            }
            Self::Port => "the port must be 1 to 65535",
            Self::Net => "not a network; expected for example 10.0.0.0/8 or fd00::/8",
        })
    }
}

impl std::error::Error for ProxyUrlError {}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_url_is_read_with_port_and_credentials() {
        let plain: ProxyUrl = "http://Proxy.Example:3128".parse().expect("a URL");
        assert_eq!((plain.host.as_str(), plain.port), ("proxy.example", 3128));
        assert_eq!(plain.authorization, None);
        let six: ProxyUrl = "HTTP://[fd00::1]/".parse().expect("a URL");
        assert_eq!((six.host.as_str(), six.port), ("fd00::1", 80));
        assert_eq!(six.to_string(), "http://[fd00::1]:80");
        let user: ProxyUrl = "http://us%40er:p:ss%25@p:1".parse().expect("a URL");
        let authorization = user.authorization.as_ref().expect("credentials");
        assert_eq!(authorization.expose(), "Basic dXNAZXI6cDpzcyU=");
        assert_eq!(user.to_string(), "http://p:1");
        assert!(!format!("{user:?}").contains("dXNAZXI"), "{user:?}");
    }

    #[test]
    fn what_is_not_a_proxy_url_is_refused_with_its_reason() {
        use ProxyUrlError::*;
        for (text, reason) in [
            ("proxy:3128", Scheme),
            ("ftp://proxy:3128", Scheme),
            ("socks5://proxy:1080", NotBuilt("socks5")),
            ("https://proxy", NotBuilt("https")),
            ("http://", Host),
            ("http://a b", Host),
            ("http://[fd00::1]x", Host),
            ("http://proxy:0", Port),
            ("http://proxy:65536", Port),
            ("http://proxy:+1", Port),
            ("http://proxy:1/path", Path),
            ("http://u:%zz@proxy", Credentials),
            ("http://u%3a:x@proxy", Credentials),
        ] {
            assert_eq!(text.parse::<ProxyUrl>(), Err(reason), "{text}");
        }
        assert!(
            NotBuilt("socks5")
                .to_string()
                .contains("socks5:// proxies are not built yet")
        );
    }

    #[test]
    fn base64_has_the_padding_of_the_standard() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn patterns_take_the_names_they_say_and_no_others() {
        for (pattern, host, port, taken) in [
            ("example.com", "example.com", 443, true),
            ("example.com", "www.example.com", 443, false),
            (".example.com", "example.com", 443, true),
            (".example.com", "a.b.example.com", 443, true),
            (".example.com", "notexample.com", 443, false),
            (".example.com", ".example.com", 443, false),
            ("*.example.com", "example.com", 443, false),
            ("*.example.com", "www.example.com", 443, true),
            ("*.example.com", "notexample.com", 443, false),
            ("Example.COM", "example.com", 443, true),
            ("example.com:8443", "example.com", 8443, true),
            ("example.com:8443", "example.com", 443, false),
            ("*", "anything", 1, true),
            ("*:80", "anything", 80, true),
            ("*:80", "anything", 443, false),
            ("10.0.0.0/8", "10.example", 443, false),
        ] {
            let read: Pattern = pattern.parse().expect(pattern);
            assert_eq!(
                read.takes_name(host, port),
                taken,
                "{pattern} {host}:{port}"
            );
        }
    }

    #[test]
    fn networks_take_the_addresses_they_say_also_mapped_ones() {
        for (pattern, address, port, taken) in [
            ("10.0.0.0/8", "10.255.0.1", 443, true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("10.0.0.0/8:80", "10.0.0.1", 443, false),
            ("10.0.0.0/8:80", "10.0.0.1", 80, true),
            ("10.0.0.7", "10.0.0.7", 443, true),
            ("10.0.0.7", "10.0.0.8", 443, false),
            ("fd00::/8", "fd12::1", 443, true),
            ("[fd00::/8]:443", "fd12::1", 443, true),
            ("[fd00::7]:443", "fd00::7", 80, false),
            (".example.com", "10.0.0.1", 443, false),
        ] {
            let read: Pattern = pattern.parse().expect(pattern);
            let address = address.parse().expect(address);
            assert_eq!(
                read.takes_address(address, port),
                taken,
                "{pattern} {address}:{port}"
            );
        }
    }

    #[test]
    fn a_pattern_displays_as_it_is_written() {
        for text in [
            "*",
            "example.com",
            ".example.com",
            "*.example.com:8443",
            "10.0.0.0/8",
            "10.0.0.7:80",
            "fd00::/8",
            "fd00::7",
            "[fd00::7]:443",
            "[fd00::/8]:443",
        ] {
            assert_eq!(text.parse::<Pattern>().expect(text).to_string(), text);
        }
        let host_bits = "10.1.2.3/8".parse::<Pattern>().expect("a network");
        assert_eq!(host_bits.to_string(), "10.0.0.0/8");
    }

    #[test]
    fn what_is_not_a_pattern_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", PatternError::Host),
            (".", PatternError::Host),
            ("a*b.example", PatternError::Host),
            ("exa mple", PatternError::Host),
            ("a..b", PatternError::Host),
            ("http://example.com", PatternError::Port),
            ("example.com:0", PatternError::Port),
            ("example.com:x", PatternError::Port),
            ("10.0.0.0/33", PatternError::Net),
            ("example.com/24", PatternError::Net),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(reason), "{text}");
        }
    }
}

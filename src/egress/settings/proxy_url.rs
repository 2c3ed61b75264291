//! A forward proxy's URL, read and told without its credentials.

use std::fmt;
use std::str::FromStr;

use super::{Authority, is_host, parse_port, split_port};
use crate::egress::endpoint::key;
use crate::types::Secret;

/// A forward proxy. Displayed without credentials; equal and hashed with them, as connections of
/// different users aren't shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyUrl {
    /// How it is spoken to.
    pub kind: ProxyKind,
    /// Name or IP literal (IPv6 without brackets), lower case.
    pub host: String,
    /// Port; unless the URL has one 80, 443 for `https`, 1080 for SOCKS.
    pub port: u16,
    /// Where the URL has a user.
    pub login: Option<Secret<Login>>,
    /// Tells it from proxies that differ in any of these.
    pub(in crate::egress) id: u64,
}

/// The scheme of a proxy's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyKind {
    /// HTTP/1.1 with CONNECT.
    Http,
    /// The same within TLS; the proxy's certificate is verified against the system's authorities.
    Https,
    /// SOCKS 5 (RFC 1928); names are resolved here, the proxy is given an address.
    Socks5,
    /// SOCKS 5; the proxy is given the name.
    Socks5h,
}

/// User and password, as bytes: neither protocol says in which encoding.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Login {
    /// The user.
    pub user: Vec<u8>,
    /// The password; may be empty for HTTP.
    pub password: Vec<u8>,
}

/// Why a text isn't a proxy's URL. Never repeats the text: it may have a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyUrlError {
    /// A scheme that proxies do have, but that can't be used: SOCKS 4 has no passwords and no IPv6.
    Unsupported(&'static str),
    /// No scheme, or none of a proxy.
    Scheme,
    /// The host is missing or has a character that hosts don't have.
    Host,
    /// The port isn't 1 to 65535.
    Port,
    /// Something after the port: a path, a query, a fragment.
    Path,
    /// The user or password has a `%` that isn't followed by two hexadecimal digits, or a user
    /// of HTTP contains `:`.
    Credentials,
    /// SOCKS has one byte for the length of each, and means 1 to 255 by it (RFC 1929).
    CredentialsLength,
}

// === impl ProxyUrl ===

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(ProxyUrlError::Scheme)?;
        let kind: ProxyKind = scheme.parse()?;
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
            None => kind.port(),
        };
        let host = host.to_ascii_lowercase();
        if !is_host(&host) {
            return Err(ProxyUrlError::Host);
        }
        let login = user.map(|user| Login::read(user, kind)).transpose()?;
        let id = key(&(kind, &host, port, &login));
        Ok(Self {
            kind,
            host,
            port,
            login: login.map(Secret::new),
            id,
        })
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind, Authority(&self.host, self.port))
    }
}

// === impl ProxyKind ===

impl ProxyKind {
    const ALL: [Self; 4] = [Self::Http, Self::Https, Self::Socks5, Self::Socks5h];

    /// The scheme, for URLs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Socks5 | Self::Socks5h => 1080,
        }
    }

    const fn is_socks(self) -> bool {
        matches!(self, Self::Socks5 | Self::Socks5h)
    }
}

impl FromStr for ProxyKind {
    type Err = ProxyUrlError;

    fn from_str(scheme: &str) -> Result<Self, Self::Err> {
        let named = |name: &str| scheme.eq_ignore_ascii_case(name);
        if let Some(kind) = Self::ALL.into_iter().find(|kind| named(kind.as_str())) {
            return Ok(kind);
        }
        match ["socks", "socks4", "socks4a"]
            .into_iter()
            .find(|name| named(name))
        {
            Some(name) => Err(ProxyUrlError::Unsupported(name)),
            None => Err(ProxyUrlError::Scheme),
        }
    }
}

impl fmt::Display for ProxyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Login ===

impl Login {
    fn read(user_info: &str, kind: ProxyKind) -> Result<Self, ProxyUrlError> {
        let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
        let login = Self {
            user: unescape(user).ok_or(ProxyUrlError::Credentials)?,
            password: unescape(password).ok_or(ProxyUrlError::Credentials)?,
        };
        let fits = |part: &[u8]| (1..=255).contains(&part.len());
        match kind.is_socks() {
            true if fits(&login.user) && fits(&login.password) => Ok(login),
            true => Err(ProxyUrlError::CredentialsLength),
            // RFC 7617: the first colon ends the user.
            false if login.user.contains(&b':') => Err(ProxyUrlError::Credentials),
            false => Ok(login),
        }
    }

    /// The value of `Proxy-Authorization` (RFC 7617).
    pub fn basic(&self) -> String {
        let pair = [&self.user[..], b":", &self.password[..]].concat();
        format!("Basic {}", base64(&pair))
    }
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

impl fmt::Display for ProxyUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported(scheme) => write!(
                f,
                "{scheme}:// proxies can't be used; write socks5:// (names are resolved here) or \
                 socks5h:// (the proxy resolves them)"
            ),
            Self::Scheme => f.write_str(
                "a proxy is written http://[user:password@]host:port, or with https, socks5 or \
                 socks5h",
            ),
            Self::Host => f.write_str("the proxy's host is missing or malformed"),
            Self::Port => f.write_str("the proxy's port must be 1 to 65535"),
            Self::Path => f.write_str("a proxy's URL ends after the port"),
            Self::Credentials => f.write_str(
                "the proxy's user or password is malformed; write %, :, @ and / as %25 %3A %40 %2F \
                 (a user can't have a colon)",
            ),
            Self::CredentialsLength => {
                f.write_str("a SOCKS proxy's user and password have 1 to 255 bytes each")
            }
        }
    }
}

impl std::error::Error for ProxyUrlError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> ProxyUrl {
        text.parse().expect("a URL")
    }

    #[test]
    fn a_proxy_url_is_read_with_port_and_credentials() {
        let plain = url("http://Proxy.Example:3128");
        assert_eq!((plain.host.as_str(), plain.port), ("proxy.example", 3128));
        assert_eq!(plain.login, None);
        let six = url("HTTP://[fd00::1]/");
        assert_eq!((six.host.as_str(), six.port), ("fd00::1", 80));
        assert_eq!(six.to_string(), "http://[fd00::1]:80");
        let user = url("http://us%40er:p:ss%25@p:1");
        let login = user.login.as_ref().expect("credentials");
        assert_eq!(login.expose().basic(), "Basic dXNAZXI6cDpzcyU=");
        assert_eq!(user.to_string(), "http://p:1");
        assert!(!format!("{user:?}").contains("ss%"), "{user:?}");
    }

    #[test]
    fn each_kind_has_its_scheme_and_its_port() {
        for (text, shown) in [
            ("http://p", "http://p:80"),
            ("https://p", "https://p:443"),
            ("HTTPS://me:pw@p:8443/", "https://p:8443"),
            ("socks5://me:pw@p", "socks5://p:1080"),
            ("Socks5h://[::1]:9", "socks5h://[::1]:9"),
        ] {
            assert_eq!(url(text).to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_proxy_url_is_refused_with_its_reason() {
        use ProxyUrlError::*;
        for (text, reason) in [
            ("proxy:3128", Scheme),
            ("ftp://proxy:3128", Scheme),
            ("socks4://proxy:1080", Unsupported("socks4")),
            ("socks://proxy", Unsupported("socks")),
            ("http://", Host),
            ("http://a b", Host),
            ("http://[fd00::1]x", Host),
            ("http://proxy:0", Port),
            ("http://proxy:65536", Port),
            ("http://proxy:+1", Port),
            ("http://proxy:1/path", Path),
            ("http://u:%zz@proxy", Credentials),
            ("http://u%3a:x@proxy", Credentials),
            ("socks5://u@proxy", CredentialsLength),
            ("socks5h://:p@proxy", CredentialsLength),
        ] {
            assert_eq!(text.parse::<ProxyUrl>(), Err(reason), "{text}");
        }
        assert!(Unsupported("socks4").to_string().contains("socks5://"));
    }

    #[test]
    fn socks_takes_users_and_passwords_up_to_255_bytes() {
        let of = |user: usize, password: usize| {
            let (user, password) = ("u".repeat(user), "p".repeat(password));
            format!("socks5://{user}:{password}@p").parse::<ProxyUrl>()
        };
        assert!(of(255, 255).is_ok());
        assert_eq!(of(256, 1), Err(ProxyUrlError::CredentialsLength));
        assert_eq!(of(1, 256), Err(ProxyUrlError::CredentialsLength));
        // A colon is no end there: both have their length.
        let colon = url("socks5://a%3ab:c@p");
        let login = colon.login.expect("credentials");
        assert_eq!(login.expose().user, b"a:b");
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
}

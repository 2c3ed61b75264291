//! A forward proxy's URL, read and told without its credentials.

use std::fmt;
use std::str::FromStr;

use super::{Authority, is_host, parse_port, split_port};
use crate::types::Secret;

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

impl std::error::Error for ProxyUrlError {}

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
}

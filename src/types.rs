//! The nouns that more than one room uses. Plain values: no I/O, no state, no policy.

pub mod digest;
pub mod glob;
pub mod identity;
pub mod money;
pub mod socket;
pub mod turns;

pub use money::Money;
pub use turns::{Priority, Tenant};

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// A value that must never be seen: its `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that must send or compare it.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What went wrong with a try before its answer began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There was no connection: the upstream can't have acted.
    Connect,
    /// The connection broke before the answer's head.
    Reset,
    /// No first byte in time.
    Timeout,
    /// It answered that it has no time: 408, 409, 429, 503, 529.
    Busy,
    /// It answered with another 5xx.
    Error,
    /// It doesn't accept weir's account there: 401, 402, 403.
    Account,
}

/// A name that may stand in a metric's label, in a header and beside a `/`: 1 to 64 letters, digits and
/// `. _ - :`.
pub fn is_name(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(letters)
}

/// What counts as one client: an IPv4 address, or an IPv6 network of 64 bits, for that is what one
/// household or machine is given (RFC 6177).
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            const NETWORK: u128 = !0 << 64;
            Ipv6Addr::from_bits(v6.to_bits() & NETWORK).into()
        }
        v4 => v4,
    }
}

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plaintext HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The port that a URL without one means.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// Where an upstream's API begins: `https://host[:port][/path]`, without query, fragment or user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host name or IP literal (IPv6 without brackets), lower case.
    pub host: Arc<str>,
    /// Port, the scheme's own unless the URL names one.
    pub port: u16,
    /// Path without a trailing `/`; empty when the URL has none.
    pub path: Arc<str>,
}

impl BaseUrl {
    /// `host[:port]` as a `Host` header has it: IPv6 in brackets, the scheme's own port left out.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.to_string()
        };
        if self.port == self.scheme.default_port() {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority(), self.path)
    }
}

impl std::str::FromStr for BaseUrl {
    type Err = String;

    /// Reads an absolute `http` or `https` URL.
    ///
    /// # Errors
    /// A sentence that says what a base URL may not have.
    fn from_str(text: &str) -> Result<Self, String> {
        let uri: http::Uri = text
            .parse()
            .map_err(|_| "a URL such as https://host/path".to_owned())?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(other) => return Err(format!("http:// or https://, not {other}://")),
            None => return Err("a URL that begins with http:// or https://".to_owned()),
        };
        let authority = uri.authority().ok_or("a URL with a host")?;
        if authority.as_str().contains('@') {
            return Err("a URL without user or password (use `api_key`)".to_owned());
        }
        if uri.query().is_some() || text.contains('#') {
            return Err("a URL without `?query` or `#fragment`".to_owned());
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_ascii_lowercase();
        if host.is_empty() {
            return Err("a URL with a host".to_owned());
        }
        if authority.as_str().ends_with(':') || authority.port_u16() == Some(0) {
            return Err("a port from 1 to 65535".to_owned());
        }
        Ok(Self {
            scheme,
            host: host.into(),
            port: authority.port_u16().unwrap_or(scheme.default_port()),
            path: uri.path().trim_end_matches('/').into(),
        })
    }
}

/// A header value with placeholders such as `{request_id}`, checked when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Text and placeholders in order.
    pub pieces: Vec<Piece>,
}

/// One piece of a [`Template`]. Its text may be a secret, so `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text as it stands.
    Text(String),
    /// `{request_id}`
    RequestId,
    /// `{client_ip}`
    ClientIp,
    /// `{client_cert}`
    ClientCert,
    /// `{team}`
    Team,
    /// `{key}`
    Key,
    /// `{model}`
    Model,
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "***",
            Self::RequestId => "{request_id}",
            Self::ClientIp => "{client_ip}",
            Self::ClientCert => "{client_cert}",
            Self::Team => "{team}",
            Self::Key => "{key}",
            Self::Model => "{model}",
        })
    }
}

impl std::str::FromStr for Template {
    type Err = String;

    /// Reads a header value; `{` begins a placeholder, `{{` is a brace.
    ///
    /// # Errors
    /// A sentence that names the placeholders that exist, or the byte that a header may not have.
    fn from_str(text: &str) -> Result<Self, String> {
        if http::HeaderValue::from_str(text).is_err() {
            return Err("a header value: visible ASCII, no line breaks".to_owned());
        }
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('{') {
                plain.push('{');
                rest = after;
                continue;
            }
            let end = rest.find('}').ok_or("a `}` for each `{`")?;
            let piece = match &rest[..end] {
                "request_id" => Piece::RequestId,
                "client_ip" => Piece::ClientIp,
                "client_cert" => Piece::ClientCert,
                "team" => Piece::Team,
                "key" => Piece::Key,
                "model" => Piece::Model,
                other => {
                    return Err(format!(
                        "{{request_id}}, {{client_ip}}, {{client_cert}}, {{team}}, {{key}} or {{model}}, \
                         not {{{other}}}"
                    ));
                }
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
            rest = &rest[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self { pieces })
    }
}

/// Headers to set and to remove, in this order: remove, then set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replaces every value of that name.
    pub set: Vec<(http::HeaderName, Template)>,
    /// Names to remove.
    pub remove: Vec<http::HeaderName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_keeps_what_routing_needs() {
        let url: BaseUrl = "https://Open.BigModel.cn/api/paas/v4/".parse().unwrap();
        assert_eq!(url.host.as_ref(), "open.bigmodel.cn");
        assert_eq!((url.port, url.path.as_ref()), (443, "/api/paas/v4"));
        assert_eq!(url.to_string(), "https://open.bigmodel.cn/api/paas/v4");
        let url: BaseUrl = "http://[::1]:8000".parse().unwrap();
        assert_eq!((url.host.as_ref(), url.path.as_ref()), ("::1", ""));
        assert_eq!(url.authority(), "[::1]:8000");
    }

    #[test]
    fn a_base_url_refuses_what_it_cannot_carry() {
        for bad in [
            "api.openai.com/v1",
            "ftp://host/",
            "https://user:pass@host/",
            "https://host/?key=1",
            "https:///v1",
            "https://host:0/",
        ] {
            assert!(bad.parse::<BaseUrl>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_template_knows_its_placeholders() {
        let template: Template = "a {request_id}{{x".parse().unwrap();
        assert_eq!(
            template.pieces,
            [
                Piece::Text("a ".into()),
                Piece::RequestId,
                Piece::Text("{x".into())
            ]
        );
        assert!("{nobody}".parse::<Template>().is_err());
        assert!("a\r\nb".parse::<Template>().is_err());
    }

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("sk-1");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(*secret.expose(), "sk-1");
    }
}

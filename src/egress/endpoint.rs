//! What is reached, as the configuration has it: an origin, how it wants to be reached, its TLS.
//! Plain values with the keys that tell their connections apart; `mod.rs` finds the way to them.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pingora::protocols::tls::CaType;
use pingora::utils::tls::CertKey;
use weir_dns::Answer;

use super::forbidden::{self, Why};
use super::settings::{ProxyUrl, is_host};
use crate::types::Scheme;

/// What is reached: one origin, with how it wants to be reached. Made from the configuration,
/// never changed; what is the same for each request is computed here once.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(super) scheme: Scheme,
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    pub(super) mode: Mode,
    pub(super) tls: Tls,
    /// The host's own address where it is an IP literal.
    pub(super) literal: Option<Answer>,
    /// Why no upstream may have this name, where none may.
    pub(super) forbidden: Option<Why>,
    /// What the certificate must name; empty for plain HTTP, and only there: Pingora verifies
    /// nothing for an empty name.
    pub(super) server_name: String,
    /// Differs where a connection mustn't be shared.
    pub(super) pool_key: u64,
}

/// Forward proxies in the order in which they are preferred. Never empty where it is a way out.
pub type Proxies = Arc<[Arc<ProxyUrl>]>;

/// A provider's `egress` key.
#[derive(Clone, Debug, Default)]
pub enum Mode {
    /// As the rules say.
    #[default]
    Auto,
    /// Without a proxy.
    Direct,
    /// Through `proxy_url`, or through proxies of its own.
    Proxy(Option<Proxies>),
}

/// A provider's `tls` key.
#[derive(Clone, Debug)]
pub struct Tls {
    /// What the certificate must name, where it isn't the host.
    pub server_name: Option<String>,
    /// Whether the certificate is verified at all.
    pub verify: bool,
    /// The authorities to trust instead of the system's. Costs a configuration of TLS, and the
    /// handshake its resumption, for each new connection.
    pub ca: Option<Arc<CaType>>,
    /// Our own certificate and key.
    pub client: Option<Arc<CertKey>>,
}

/// The host, or the server name of `tls`, is neither a host name nor an IP literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadHost(
    /// What was given.
    pub String,
);

// === impl Endpoint ===

impl Endpoint {
    /// Another origin that is reached as this one is, with the same authorities.
    ///
    /// # Errors
    /// When its host is none.
    pub fn at(&self, scheme: Scheme, host: &str, port: u16) -> Result<Self, BadHost> {
        let tls = Tls {
            server_name: None,
            client: None,
            ..self.tls.clone()
        };
        Self::new(scheme, host, port, self.mode.clone(), tls)
    }

    /// An endpoint at `host` (a name or an IP literal; the brackets of IPv6 are dropped).
    pub fn new(
        scheme: Scheme,
        host: &str,
        port: u16,
        mode: Mode,
        tls: Tls,
    ) -> Result<Self, BadHost> {
        let host = bare(host)?;
        let name = match &tls.server_name {
            Some(name) => bare(name)?,
            None => host.clone(),
        };
        let server_name = match scheme {
            Scheme::Http => String::new(),
            Scheme::Https => name,
        };
        let pool_key = key(&(scheme, &host, port, &server_name, tls.identity()));
        let literal = forbidden::literal(&host);
        let refused = forbidden::why_name(&host);
        Ok(Self {
            scheme,
            host: host.into(),
            port,
            mode,
            tls,
            forbidden: refused,
            literal: literal.map(|address| Arc::from([address])),
            server_name,
            pool_key,
        })
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Name or IP literal, lower case, without brackets.
    pub fn host(&self) -> &Arc<str> {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            server_name: None,
            verify: true,
            ca: None,
            client: None,
        }
    }
}

impl Tls {
    /// All that distinguishes connections and that Pingora's pool may not look at.
    fn identity(&self) -> (bool, Option<u64>, Option<u64>) {
        let ca = self.ca.as_ref().map(|authorities| {
            let certificates: Vec<_> = authorities.iter().map(|ca| ca.borrow_raw_cert()).collect();
            key(&certificates)
        });
        let client = self
            .client
            .as_ref()
            .map(|client| key(client.leaf().borrow_raw_cert()));
        (self.verify, ca, client)
    }
}

fn bare(host: &str) -> Result<String, BadHost> {
    let inner = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'));
    let bare = inner
        .or_else(|| host.strip_suffix('.'))
        .unwrap_or(host)
        .to_ascii_lowercase();
    if is_host(&bare) {
        Ok(bare)
    } else {
        Err(BadHost(host.to_owned()))
    }
}

/// The same in each process, so that generations of one configuration have the same keys.
pub(super) fn key(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl fmt::Display for BadHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is neither a host name nor an IP address", self.0)
    }
}

impl std::error::Error for BadHost {}

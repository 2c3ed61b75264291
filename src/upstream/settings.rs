//! The providers as the operator named them. Filled by `config::check`.

use crate::types::{BaseUrl, HeaderEdits, Secret};
use std::path::PathBuf;
use std::time::Duration;

/// All providers; the implicit ones of `target_map` and `model_routes` URLs included.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// In the order of the file; `route::ProviderIndex` points here.
    pub providers: Vec<Provider>,
    /// `hedge` of routes that have one, by pattern.
    pub hedges: Vec<(String, Hedge)>,
    /// `batch` of routes that have one, by pattern.
    pub batches: Vec<(String, Batch)>,
    /// `limits.retry_budget`: share of a route's requests that may be tried again, 0 to 1.
    pub retry_budget: f64,
}

/// `hedge` of a route: a second call for a short request whose first one takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// When it is made.
    pub after: After,
    /// The share of the route's requests that may get one, in millionths; above 0.
    pub max_millionths: u32,
}

/// `batch` of a route: requests for one embedding that become one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// How long the first of them waits for others.
    pub window: Duration,
    /// So many are sent at once; 2 or more.
    pub size: usize,
    /// So many tokens are in one call at most.
    pub tokens: u64,
}

/// How long a first call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// As long as this many percent of the route's calls do, 50 to 99.
    Percentile(u8),
    /// So long.
    Time(Duration),
}

/// One provider: an API at one or more base URLs.
#[derive(Clone, Debug, Default)]
pub struct Provider {
    /// Name in logs, metrics and `x-weir-provider`. A provider made from a bare URL is named by its
    /// host (and port, when it isn't the scheme's own).
    pub name: String,
    /// Equal endpoints, used in turns. Never empty.
    pub urls: Vec<BaseUrl>,
    /// Sent as `Authorization: Bearer`; without it the client's own credential is passed on.
    pub api_key: Option<Secret<String>>,
    /// Edits of the request's headers for this provider, after the general ones.
    pub headers: HeaderEdits,
    /// `egress:` of the provider.
    pub egress: Egress,
    /// `tls:` of the provider.
    pub tls: Tls,
    /// Each replaces the general one.
    pub timeouts: Timeouts,
    /// `include_usage:` of the provider.
    pub include_usage: IncludeUsage,
    /// `on_disconnect: drain`: an answer whose client has left is read on for this long; `None` closes
    /// it at once.
    pub drain: Option<Duration>,
}

/// Whether streams are asked for usage that the client didn't ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeUsage {
    /// Unless the provider refuses it.
    #[default]
    Auto,
    /// In any case.
    Always,
    /// In no case: such streams are counted.
    Never,
}

/// Which road a provider is reached by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// By the rules of the road.
    #[default]
    Auto,
    /// Never through a proxy.
    Direct,
    /// Always through `proxy_url`.
    Proxy,
    /// Always through one of these proxies, the first that works; never empty. Each may hold a
    /// password.
    Urls(Vec<Secret<String>>),
}

/// How a provider's TLS is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM file of roots that replaces the system's for this provider.
    pub ca: Option<PathBuf>,
    /// PEM files of the client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Name to verify and to send as SNI, when it isn't the URL's host.
    pub server_name: Option<String>,
    /// `false` accepts any certificate.
    pub verify: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ca: None,
            client: None,
            server_name: None,
            verify: true,
        }
    }
}

/// A provider's own deadlines; `None` takes the general one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, CONNECT and TLS together.
    pub connect: Option<Duration>,
    /// From the sent request to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// Between two bytes of the answer.
    pub idle: Option<Duration>,
}

//! The providers as the operator named them. Filled by `config::check`.

use crate::dialect::provider as dialect;
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
    /// `routing.all_open`.
    pub all_open: AllOpen,
}

/// What becomes of a request when all that could serve it is paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllOpen {
    /// It is refused.
    #[default]
    Refuse,
    /// The one that is to be asked again the soonest is tried.
    Try,
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
#[derive(Clone, Debug)]
pub struct Provider {
    /// Name in logs, metrics and `x-weir-provider`. A provider made from a bare URL is named by its
    /// host (and port, when it isn't the scheme's own).
    pub name: String,
    /// Equal endpoints, used in turns. Never empty.
    pub urls: Vec<BaseUrl>,
    /// Sent in the header that its dialect has for it; without it the client's own credential is passed on.
    pub api_key: Option<Secret<String>>,
    /// What it speaks; `None` takes requests as they come.
    pub dialect: Option<dialect::Provider>,
    /// By which its requests are signed (Bedrock).
    pub aws: Option<AwsKeys>,
    /// Key file of the service account by which it is used (Vertex).
    pub service_account: Option<Secret<String>>,
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
    /// When its endpoints are paused; `None` never.
    pub breaker: Option<Breaker>,
    /// How its endpoints are asked whether they live; `None` not at all.
    pub health: Option<Health>,
    /// Time over which an endpoint that comes back gets its whole share again.
    pub slow_start: Duration,
    /// `max_in_flight:`, `endpoint_max_in_flight:` and `queue:` of the provider.
    pub places: Places,
}

/// Keys of Amazon's.
#[derive(Clone, Debug, PartialEq)]
pub struct AwsKeys {
    /// Its id.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Secret<String>,
    /// Of temporary keys.
    pub session_token: Option<Secret<String>>,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            name: String::new(),
            urls: Vec::new(),
            api_key: None,
            dialect: None,
            aws: None,
            service_account: None,
            headers: HeaderEdits::default(),
            egress: Egress::default(),
            tls: Tls::default(),
            timeouts: Timeouts::default(),
            include_usage: IncludeUsage::default(),
            drain: None,
            breaker: Some(Breaker::default()),
            health: None,
            slow_start: Duration::from_secs(10),
            places: Places::default(),
        }
    }
}

/// When an endpoint is paused that fails or is slow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker {
    /// At least so many failures, or slow answers.
    pub failures: u32,
    /// And at least this share of all that is known, 0 to 1.
    pub failure_rate: f64,
    /// An answer that takes longer to begin is slow; zero for none.
    pub slow: Duration,
    /// The share of slow ones, 0 to 1.
    pub slow_rate: f64,
    /// Time in which they are counted.
    pub window: Duration,
    /// How long it is paused the first time.
    pub open: Duration,
    /// How many tries find out whether it is over.
    pub probes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 5,
            failure_rate: 0.5,
            slow: Duration::ZERO,
            slow_rate: 0.8,
            window: Duration::from_secs(10),
            open: Duration::from_secs(15),
            probes: 1,
        }
    }
}

/// How an endpoint is asked whether it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked for, below the base URL.
    pub path: String,
    /// Time from one question to the next, give or take a tenth.
    pub interval: Duration,
    /// What an answer may take.
    pub timeout: Duration,
    /// Good answers in a row after which it lives.
    pub rise: u32,
    /// Bad ones in a row after which it doesn't.
    pub fall: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            path: "/v1/models".to_owned(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        }
    }
}

/// How many requests a provider carries at once, and how many wait for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// At all its endpoints together; 0 = no cap.
    pub max: usize,
    /// At each of them; 0 = no cap.
    pub endpoint_max: usize,
    /// So many may wait.
    pub queue_max: usize,
    /// No longer than this.
    pub queue_timeout: Duration,
}

impl Places {
    /// Whether there is a cap.
    pub fn are_bounded(&self) -> bool {
        self.max > 0 || self.endpoint_max > 0
    }
}

impl Default for Places {
    fn default() -> Self {
        Self {
            max: 0,
            endpoint_max: 0,
            queue_max: 1000,
            queue_timeout: Duration::from_secs(10),
        }
    }
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

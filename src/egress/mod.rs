//! The road out: an [`Endpoint`] in, the [`Way`] to it and Pingora's `HttpPeer` out.
//!
//! `rules.rs` says direct or proxy, `connect.rs` dials (`order.rs` and `race.rs` addresses,
//! `tunnel.rs`, `socks.rs` and `outer.rs` proxies), `lane.rs` lets many requests share one HTTP/2
//! connection, `memory.rs` keeps what dialling teaches,
//! `explain.rs` tells why, `settings.rs` holds what the configuration says. `forbidden.rs` and
//! `own.rs` say what is never reached, `steady.rs` keeps a road while answers change. Both roads have
//! a logical address and a key of their own in Pingora's pool, so that connections are shared by
//! host, whatever its addresses, and never between roads, proxies, credentials or TLS settings;
//! `age.rs` and the memory's generations end what is too old or leads to where a host was. It never
//! chooses which endpoint; `proxy/connect` calls it for each attempt.

mod age;
mod ahead;
mod connect;
mod error;
mod explain;
mod forbidden;
mod lane;
mod memory;
mod order;
mod outer;
mod own;
mod race;
mod rules;
pub mod settings;
mod socks;
mod steady;
mod tls;
mod tunnel;

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::protocols::ALPN;
use pingora::protocols::l4::ext::TcpKeepalive;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::CertKey;
use weir_dns::{Answer, LookupError, Resolver};

pub use crate::types::Scheme;
pub use error::{Blame, Cause, ConnectError, Said};
pub use explain::Explanation;
pub use forbidden::Why;
pub use lane::Lead;
pub use memory::Memory;
pub use own::Own;
pub use rules::{Road, Rule};
pub use settings::{Login, Pattern, PatternError, ProxyKind, ProxyUrl, ProxyUrlError, Settings};

use connect::{Dialler, Hop, Reach};
use lane::Lanes;
use rules::Rules;
use settings::is_host;
use steady::Steady;

/// How long the choice of a road waits for DNS where a proxy could resolve the name as well.
const PATIENCE: Duration = Duration::from_millis(300);

/// Idle connections are closed after this. Tunnels sooner, as many proxies cut them at 60 s.
const POOL_IDLE: Duration = Duration::from_secs(60);
const POOL_IDLE_TUNNEL: Duration = Duration::from_secs(45);

/// Requests at a time on one HTTP/2 connection.
const H2_STREAMS_MAX: usize = 100;

/// What an upstream may send on one stream, and on one connection, before it was read here. A client
/// that reads slowly holds up to the former, and dozens of such leave room for the others.
const H2_STREAM_WINDOW_BYTES: u32 = 512 << 10;
const H2_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// An HTTP/2 connection is asked for a sign of life this often; Pingora gives it 5 s to answer.
/// Keepalive of TCP would notice a dead proxy, but no dead endpoint behind it.
const H2_PING: Duration = Duration::from_secs(30);

/// What is reached: one origin, with how it wants to be reached. Made from the configuration,
/// never changed; what is the same for each request is computed here once.
#[derive(Clone, Debug)]
pub struct Endpoint {
    scheme: Scheme,
    host: Arc<str>,
    port: u16,
    mode: Mode,
    tls: Tls,
    /// The host's own address where it is an IP literal.
    literal: Option<Answer>,
    /// What the certificate must name; empty for plain HTTP, and only there: Pingora verifies
    /// nothing for an empty name.
    server_name: String,
    /// Differs where a connection mustn't be shared.
    pool_key: u64,
    /// What is remembered of its name's answers.
    steady: Arc<Steady>,
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

/// How long the steps of one attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From nothing to a connection that can carry a request: TCP, the tunnel and TLS.
    pub connect: Duration,
    /// From the request to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer. Pingora has one timeout for this and `first_byte`, so the
    /// longer of the two is set on the peer; the caller sees to the shorter.
    pub idle: Duration,
    /// For one write to be taken.
    pub write: Duration,
}

/// The rules, the proxies and the resolver. Replaced as a whole by a reload; the pools are
/// Pingora's and stay, and so does what was learnt.
#[derive(Debug)]
pub struct Egress {
    proxies: Proxies,
    rules: Rules,
    own: Own,
    resolver: Resolver,
    memory: Arc<Memory>,
    connection_max_age: Option<Duration>,
    prewarm_max: usize,
}

/// The road chosen for one attempt, with all that is needed to take it.
#[derive(Clone, Debug)]
pub struct Way {
    /// Direct or by proxy.
    pub road: Road,
    /// What chose it.
    pub rule: Rule,
    reach: Reach,
    pool_key: u64,
    others: usize,
    memory: Arc<Memory>,
}

/// Why there is no road.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoadError {
    /// The name doesn't exist, or has no address, and there is no proxy to ask.
    NotFound {
        /// The name.
        host: Box<str>,
    },
    /// DNS doesn't work for this name, and there is no proxy to ask.
    Dns {
        /// The name.
        host: Box<str>,
        /// What the last try brought.
        reason: Arc<str>,
    },
    /// No upstream may have the address that the host is, or any of those that its name has.
    Forbidden {
        /// The host.
        host: Box<str>,
        /// The first of its addresses.
        address: IpAddr,
        /// Why not.
        why: Why,
    },
    /// A proxy is prescribed, and there is none.
    NoProxy {
        /// The host to be reached.
        host: Box<str>,
        /// What prescribes it.
        rule: Rule,
    },
}

/// The host, or the server name of `tls`, is neither a host name nor an IP literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadHost(
    /// What was given.
    pub String,
);

// === impl Endpoint ===

impl Endpoint {
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
        Ok(Self {
            scheme,
            host: host.into(),
            port,
            mode,
            tls,
            literal: literal.map(|address| Arc::from([address])),
            server_name,
            pool_key,
            steady: Arc::new(Steady::new(Instant::now())),
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
fn key(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

// === impl Egress ===

impl Egress {
    /// The road of `settings`; resolver and memory are given, as they outlive a reload.
    pub fn new(settings: Settings, resolver: Resolver, memory: Arc<Memory>) -> Self {
        Self {
            proxies: settings.proxies.into_iter().map(Arc::new).collect(),
            rules: Rules {
                direct: settings.direct,
                proxied: settings.proxied,
                no_proxy: settings.no_proxy,
            },
            own: Own::default(),
            resolver,
            memory,
            connection_max_age: settings.connection_max_age,
            prewarm_max: settings.prewarm_max,
        }
    }

    /// No request goes to one of these.
    pub fn refusing(self, own: Own) -> Self {
        Self { own, ..self }
    }

    /// The road to `endpoint`. Waits for DNS only where the resolver has no answer yet: for as
    /// long as it takes where the road is direct, for 300 ms where a proxy could resolve it as
    /// well. Safe to drop.
    pub async fn way(&self, endpoint: &Endpoint) -> Result<Way, RoadError> {
        self.way_around(endpoint, &[]).await
    }

    /// The same without the proxies that failed the request already; see [`Way::proxy_id`].
    pub async fn way_around(&self, endpoint: &Endpoint, avoided: &[u64]) -> Result<Way, RoadError> {
        self.memory.used(endpoint.pool_key);
        self.road(endpoint, avoided).await
    }

    async fn road(&self, endpoint: &Endpoint, avoided: &[u64]) -> Result<Way, RoadError> {
        match &endpoint.mode {
            Mode::Direct => self.direct(endpoint, Rule::Provider, None).await,
            Mode::Proxy(own) => {
                let proxies = own.as_ref().unwrap_or(&self.proxies);
                let rule = Rule::Provider;
                // What the proxy mustn't be asked for is refused.
                let known = self.glance(endpoint).await?;
                self.proxied(endpoint, rule, proxies, avoided, known).await
            }
            Mode::Auto => self.by_rules(endpoint, avoided).await,
        }
    }

    async fn by_rules(&self, endpoint: &Endpoint, avoided: &[u64]) -> Result<Way, RoadError> {
        let (host, port, has_proxy) = (&*endpoint.host, endpoint.port, !self.proxies.is_empty());
        let mut known = None;
        let (road, rule) = match self.rules.by_name(host, port, has_proxy) {
            Some((Road::Direct, rule)) => (Road::Direct, rule),
            by_name => {
                known = self.glance(endpoint).await?;
                let addresses = known.as_deref().unwrap_or_default();
                match by_name {
                    Some(choice) => choice,
                    None => self.by_addresses(endpoint, addresses, has_proxy),
                }
            }
        };
        match road {
            Road::Direct => self.direct(endpoint, rule, known).await,
            Road::Proxy => {
                self.proxied(endpoint, rule, &self.proxies, avoided, known)
                    .await
            }
        }
    }

    fn by_addresses(
        &self,
        endpoint: &Endpoint,
        addresses: &[IpAddr],
        has_proxy: bool,
    ) -> (Road, Rule) {
        let (host, port, steady) = (&*endpoint.host, endpoint.port, &endpoint.steady);
        let (road, rule) = self.rules.by_addresses(host, port, addresses, has_proxy);
        if rule == Rule::External {
            steady.external(Instant::now());
            if addresses.iter().any(|ip| rules::is_intranet(*ip)) && steady.first_mixed() {
                tracing::warn!(
                    host,
                    ?addresses,
                    "not all addresses of this host are intranet, so it is reached by proxy; list \
                     it in egress.direct or in egress.proxied"
                );
            }
        } else if self.rules.is_by_address(rule) && !steady.is_settled(Instant::now) {
            return (Road::Proxy, Rule::Unsettled);
        }
        (road, rule)
    }

    /// The road of our own, to the very addresses that it was chosen by.
    async fn direct(
        &self,
        endpoint: &Endpoint,
        rule: Rule,
        known: Option<Answer>,
    ) -> Result<Way, RoadError> {
        let addresses = self.addresses(endpoint, known).await?;
        let now = Instant::now();
        let generation = match endpoint.literal {
            Some(_) => 0,
            None => self.memory.generation(&endpoint.host, &addresses, now),
        };
        Ok(Way {
            road: Road::Direct,
            rule,
            pool_key: self.pool_key(endpoint, None, generation, now),
            reach: Reach::Direct(addresses),
            others: 0,
            memory: Arc::clone(&self.memory),
        })
    }

    async fn proxied(
        &self,
        endpoint: &Endpoint,
        rule: Rule,
        proxies: &Proxies,
        avoided: &[u64],
        known: Option<Answer>,
    ) -> Result<Way, RoadError> {
        let now = Instant::now();
        let chosen = self.memory.proxy(proxies, endpoint.pool_key, avoided, now);
        let (proxy, others) = chosen.ok_or_else(|| RoadError::NoProxy {
            host: (*endpoint.host).into(),
            rule,
        })?;
        let addresses = match proxy.kind {
            ProxyKind::Socks5 => Some(self.addresses(endpoint, known).await?),
            ProxyKind::Http | ProxyKind::Https | ProxyKind::Socks5h => None,
        };
        // Where the proxy is; whoever dials it waits for DNS, this only looks.
        let seen = self.resolver.glance(&proxy.host, Duration::ZERO).await;
        let generation = seen.map_or(0, |it| self.memory.generation(&proxy.host, &it, now));
        Ok(Way {
            road: Road::Proxy,
            rule,
            pool_key: self.pool_key(endpoint, Some(proxy.id), generation, now),
            reach: Reach::Proxy(Arc::new(Hop {
                proxy: Arc::clone(proxy),
                resolver: self.resolver.clone(),
                own: self.own.clone(),
                addresses,
            })),
            others,
            memory: Arc::clone(&self.memory),
        })
    }

    /// Connections are shared where this is the same: endpoint and TLS, the proxy with its
    /// credentials, where the next host is, and which epoch it is.
    fn pool_key(
        &self,
        endpoint: &Endpoint,
        proxy: Option<u64>,
        generation: u32,
        now: Instant,
    ) -> u64 {
        let running = self.memory.age(now);
        let phase = endpoint.pool_key;
        let epoch = age::epoch(running, phase, self.connection_max_age, rand::random);
        key(&(endpoint.pool_key, proxy, generation, epoch))
    }

    /// The addresses that a connection is made to: those that the road was chosen by, which are
    /// checked already, or else those of DNS.
    async fn addresses(
        &self,
        endpoint: &Endpoint,
        known: Option<Answer>,
    ) -> Result<Answer, RoadError> {
        if let Some(allowed) = known {
            return Ok(allowed);
        }
        let addresses = match &endpoint.literal {
            Some(literal) => Arc::clone(literal),
            None => self.resolver.lookup(&endpoint.host).await?,
        };
        self.allowed(endpoint, addresses)
    }

    /// The addresses of the endpoint as far as they are known without much waiting.
    async fn glance(&self, endpoint: &Endpoint) -> Result<Option<Answer>, RoadError> {
        let known = match &endpoint.literal {
            Some(literal) => Some(Arc::clone(literal)),
            None => self.resolver.glance(&endpoint.host, PATIENCE).await.ok(),
        };
        known
            .map(|addresses| self.allowed(endpoint, addresses))
            .transpose()
    }

    /// The addresses without those that no upstream may have.
    fn allowed(&self, endpoint: &Endpoint, addresses: Answer) -> Result<Answer, RoadError> {
        let forbidden = |ip: &IpAddr| Some((*ip, self.why(*ip, endpoint.port)?));
        let Some((address, why)) = addresses.iter().find_map(forbidden) else {
            return Ok(addresses);
        };
        let left: Vec<IpAddr> = (addresses.iter().copied())
            .filter(|ip| self.why(*ip, endpoint.port).is_none())
            .collect();
        let host = &*endpoint.host;
        if left.is_empty() {
            let host = host.into();
            return Err(RoadError::Forbidden { host, address, why });
        }
        if endpoint.steady.first_forbidden() {
            tracing::warn!(host, %address, %why, "an address that no upstream may have is left out");
        }
        Ok(left.into())
    }

    /// Why no upstream on this port may have this address.
    fn why(&self, address: IpAddr, port: u16) -> Option<Why> {
        forbidden::why(address).or_else(|| self.own.takes(address, port).then_some(Why::Own))
    }
}

// === impl Way ===

impl Way {
    /// Whether the endpoint is in the intranet: reached directly, and known to be near.
    pub fn is_intranet(&self) -> bool {
        match (&self.reach, self.rule) {
            (Reach::Proxy(_), _) => false,
            (Reach::Direct(_), Rule::Direct(_) | Rule::Intranet) => true,
            (Reach::Direct(addresses), _) => addresses.iter().all(|ip| rules::is_intranet(*ip)),
        }
    }

    /// The proxy, where the road leads through one.
    pub fn proxy(&self) -> Option<&ProxyUrl> {
        match &self.reach {
            Reach::Direct(_) => None,
            Reach::Proxy(hop) => Some(&hop.proxy),
        }
    }

    /// What tells this proxy, with its credentials, from others.
    pub fn proxy_id(&self) -> Option<u64> {
        self.proxy().map(|proxy| proxy.id)
    }

    /// Proxies that could be asked if this one fails.
    pub fn others(&self) -> usize {
        self.others
    }

    /// Waits, for half of the time to connect at most, where another request is opening an HTTP/2
    /// connection that could carry this one too; where nobody is, the request opens it for others.
    /// What is returned is to be told when there is a connection. Safe to drop.
    pub async fn join(&self, endpoint: &Endpoint, limits: &Limits) -> Option<Lead> {
        match endpoint.scheme {
            Scheme::Http => None,
            Scheme::Https => {
                let patience = limits.connect / 2;
                let (memory, endpoint) = (&self.memory, endpoint.pool_key);
                Lanes::join(memory, self.pool_key, endpoint, patience).await
            }
        }
    }

    fn dialler(&self, endpoint: &Endpoint, budget: Duration) -> Dialler {
        Dialler {
            host: Arc::clone(&endpoint.host),
            port: endpoint.port,
            budget,
            reach: self.reach.clone(),
            pool_key: self.pool_key,
            endpoint: endpoint.pool_key,
            share: false,
            memory: Arc::clone(&self.memory),
        }
    }

    /// What Pingora connects to. `endpoint` is the one that the way was asked for.
    /// Where `share` is true and an HTTP/2 connection lives, a dial ends in
    /// [`ConnectError::Shared`]: the pool is to be asked once more.
    pub fn peer(&self, endpoint: &Endpoint, limits: &Limits, share: bool) -> HttpPeer {
        // A logical address: Pingora doesn't compare 0.0.0.0 with the socket's when it reuses a
        // connection, so the pool is by name, and any of the addresses will do.
        let logical = SocketAddr::from(([0, 0, 0, 0], endpoint.port));
        let is_tls = endpoint.scheme == Scheme::Https;
        let mut peer = HttpPeer::new(logical, is_tls, endpoint.server_name.clone());
        peer.group_key = self.pool_key;
        peer.client_cert_key.clone_from(&endpoint.tls.client);
        let options = &mut peer.options;
        // A little less than the whole, so that the dialler's own error comes first.
        let budget = limits.connect - limits.connect / 20;
        options.custom_l4 = Some(Arc::new(Dialler {
            share,
            ..self.dialler(endpoint, budget)
        }));
        options.tracer = Some(lane::tracer(&self.memory, self.pool_key, self.road));
        options.total_connection_timeout = Some(limits.connect);
        options.read_timeout = Some(limits.first_byte.max(limits.idle));
        options.write_timeout = Some(limits.write);
        options.idle_timeout = Some(match self.road {
            Road::Direct => POOL_IDLE,
            Road::Proxy => POOL_IDLE_TUNNEL,
        });
        options.tcp_keepalive = Some(keepalive());
        options.max_h2_streams = H2_STREAMS_MAX;
        options.h2_stream_window_size = Some(H2_STREAM_WINDOW_BYTES);
        options.h2_connection_window_size = Some(H2_CONNECTION_WINDOW_BYTES);
        options.h2_ping_interval = Some(H2_PING);
        options.verify_cert = endpoint.tls.verify;
        options.verify_hostname = endpoint.tls.verify;
        options.ca.clone_from(&endpoint.tls.ca);
        options.alpn = if is_tls { ALPN::H2H1 } else { ALPN::H1 };
        peer
    }
}

/// A peer that vanished is noticed after a minute and a half, also where nothing is sent.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive {
        idle: Duration::from_secs(45),
        interval: Duration::from_secs(15),
        count: 3,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    }
}

// === impl RoadError ===

impl From<LookupError> for RoadError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NotFound { host } => Self::NotFound { host },
            LookupError::Unavailable { host, reason } => Self::Dns { host, reason },
        }
    }
}

impl fmt::Display for RoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { host } => write!(
                f,
                "{host} doesn't exist in DNS: correct the URL, or set proxy_url if only a proxy \
                 can resolve it (http://, https:// or socks5h://; with socks5:// names are resolved \
                 here)"
            ),
            Self::Dns { host, reason } => write!(
                f,
                "{host} can't be resolved ({reason}): see dns.servers or /etc/resolv.conf"
            ),
            Self::Forbidden { host, address, why } => {
                if forbidden::literal(host) == Some(*address) {
                    write!(f, "no upstream may have the address {address} ({why})")
                } else {
                    write!(
                        f,
                        "{host} resolves only to {address}, which no upstream may have ({why})"
                    )
                }
            }
            Self::NoProxy { host, rule } => {
                write!(
                    f,
                    "{host} is to be reached by proxy ({rule}): set proxy_url"
                )
            }
        }
    }
}

impl std::error::Error for RoadError {}

impl fmt::Display for BadHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is neither a host name nor an IP address", self.0)
    }
}

impl std::error::Error for BadHost {}

#[cfg(test)]
mod tests;

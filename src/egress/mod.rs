//! The road out: an [`Endpoint`] in, the [`Way`] to it and Pingora's `HttpPeer` out.
//!
//! `endpoint.rs` is what is reached, `way.rs` a road that was chosen. `rules.rs` says direct or proxy,
//! `forbidden.rs` and `own.rs` what is never reached, `steady.rs` keeps a road while answers change,
//! `explain.rs` tells why. `connect.rs` dials (`order.rs` and `race.rs` addresses, `tunnel.rs`,
//! `socks.rs` and `outer.rs` proxies), `lane.rs` lets many requests share one HTTP/2 connection,
//! `ahead.rs` keeps connections that were made early, `memory.rs` what dialling teaches. `settings.rs`
//! holds what the configuration says.
//!
//! Both roads have a logical address and a key of their own in Pingora's pool, so that connections
//! are shared by host, whatever its addresses, and never between roads, proxies, credentials or TLS
//! settings; `age.rs` and the memory's generations end what is too old or leads to where a host was.
//! It never chooses which endpoint; `proxy/connect` calls it for each attempt.

mod age;
mod ahead;
mod connect;
mod endpoint;
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
mod way;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_dns::{Answer, LookupError, Resolver};

pub use crate::types::Scheme;
pub use endpoint::{BadHost, Endpoint, Mode, Proxies, Tls};
pub use error::{Blame, Cause, ConnectError, Said};
pub use explain::Explanation;
pub use forbidden::Why;
pub use lane::Lead;
pub use memory::Memory;
pub use own::Own;
pub use rules::{Road, Rule};
pub use settings::{Login, Pattern, PatternError, ProxyKind, ProxyUrl, ProxyUrlError, Settings};
pub use way::{Limits, Way};

use connect::{Hop, Reach};
use endpoint::key;
use rules::Rules;

/// How long the choice of a road waits for DNS where a proxy could resolve the name as well.
const PATIENCE: Duration = Duration::from_millis(300);

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
    /// No upstream may have this name, the address that the host is, or any of those that its name
    /// has.
    Forbidden {
        /// The host.
        host: Box<str>,
        /// The first of its addresses, where it isn't the name that is refused.
        address: Option<IpAddr>,
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

// === impl Egress ===

impl Egress {
    /// The road of `settings`; resolver and memory are given, as they outlive a reload. Files are
    /// read again by it: those of the authorities that proxies are trusted by.
    pub fn new(settings: Settings, resolver: Resolver, memory: Arc<Memory>) -> Self {
        memory.forget_outer();
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
        if let Some(why) = endpoint.forbidden {
            let host = (*endpoint.host).into();
            return Err(RoadError::Forbidden {
                host,
                address: None,
                why,
            });
        }
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
        let (host, port) = (&*endpoint.host, endpoint.port);
        let (road, rule) = self.rules.by_addresses(host, port, addresses, has_proxy);
        let steady = || self.memory.steady.of(&endpoint.host, port);
        if rule == Rule::External {
            let steady = steady();
            steady.external(Instant::now());
            if addresses.iter().any(|ip| rules::is_intranet(*ip)) && steady.first_mixed() {
                tracing::warn!(
                    host,
                    ?addresses,
                    "not all addresses of this host are intranet, so it is reached by proxy; list \
                     it in egress.direct or in egress.proxied"
                );
            }
        } else if self.rules.is_by_address(rule) {
            // Those that nobody could say may be others.
            if endpoint.literal.is_none() && self.resolver.lacks_ipv4(host) {
                return (Road::Proxy, Rule::Unresolved);
            }
            if !steady().is_settled(Instant::now) {
                return (Road::Proxy, Rule::Unsettled);
            }
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
            asked: 0,
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
            asked: avoided.len(),
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
            return Err(RoadError::Forbidden {
                host: host.into(),
                address: Some(address),
                why,
            });
        }
        if self
            .memory
            .steady
            .of(&endpoint.host, endpoint.port)
            .first_forbidden()
        {
            tracing::warn!(host, %address, %why, "an address that no upstream may have is left out");
        }
        Ok(left.into())
    }

    /// Why no upstream on this port may have this address.
    fn why(&self, address: IpAddr, port: u16) -> Option<Why> {
        forbidden::why(address).or_else(|| self.own.takes(address, port).then_some(Why::Own))
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
            Self::Forbidden {
                host,
                address: None,
                why,
            } => write!(f, "no upstream may have the name {host} ({why})"),
            Self::Forbidden {
                host,
                address: Some(address),
                why,
            } => {
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

#[cfg(test)]
mod tests;

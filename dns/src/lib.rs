//! A caching DNS resolver: TTL honoured within bounds, one query a name at a time.
//!
//! [`Resolver::lookup`] answers from memory where it can, in some tens of nanoseconds and without
//! waiting. Else it looks into `/etc/hosts` (`hosts.rs`), then asks the servers
//! (`transport.rs`, hickory without its cache) and keeps what they say (`cache.rs`):
//!
//! - an answer for its TTL, clamped to `min_ttl..=max_ttl`, and asked for again in the background
//!   from four fifths of it on, so that a name in use never makes anybody wait;
//! - "no such name" for `negative_ttl`;
//! - while the servers fail, an old answer for up to `stale` past its TTL.
//!
//! It never chooses among the addresses and never connects to them.

mod cache;
mod hosts;
#[cfg(test)]
mod server;
mod transport;

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use cache::{Cache, Outcome, Verdict};
use hosts::Hosts;
use transport::{Servers, Transport};

/// The addresses of a name, never empty, IPv4 first. Cheap to clone; an answer that didn't change
/// keeps its allocation.
pub type Answer = Arc<[IpAddr]>;

/// Names asked for at the same time, at most.
const FLIGHTS_MAX: usize = 256;

/// How long a caller waits for a new answer while it holds an old one that may be served.
const STALE_PATIENCE: Duration = Duration::from_millis(400);

/// How to resolve. [`Config::default`] has the defaults that are named here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The servers to ask, two at a time; none (the default) means those of `/etc/resolv.conf`,
    /// whose search list then serves names without a dot.
    pub servers: Vec<SocketAddr>,
    /// An answer is kept at least this long: 1 s.
    pub min_ttl: Duration,
    /// An answer is kept at most this long: 5 min.
    pub max_ttl: Duration,
    /// How long "no such name" is kept, and the longest pause between queries that fail: 5 s.
    pub negative_ttl: Duration,
    /// How long past its TTL an answer may be used while the servers fail: 1 h.
    pub stale: Duration,
    /// What one lookup may take, with all its tries: 2 s.
    pub timeout: Duration,
    /// Domains that names with fewer than `ndots` dots are looked up below, in this order; `None`
    /// (the default) means those of `/etc/resolv.conf`.
    pub search: Option<Vec<String>>,
    /// Names with at least so many dots are only looked up as they are, 0 to 15; `None` (the
    /// default) means what `/etc/resolv.conf` says, else 1.
    pub ndots: Option<u8>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(5),
            stale: Duration::from_secs(3600),
            timeout: Duration::from_secs(2),
            search: None,
            ndots: None,
        }
    }
}

/// A name and what it stands for, as one resolver tells another; see [`Resolver::known`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The name, in lower case, without a dot at its end.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How long they are still the truth; zero for those that only stand in for it.
    pub fresh: Duration,
    /// How long they may stand in for it, from now.
    pub stale: Duration,
}

/// Why no resolver could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// `/etc/resolv.conf` can't be read or understood.
    ResolvConf(String),
    /// The transport can't be set up.
    Transport(String),
}

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// The name doesn't exist, or has no address.
    NotFound {
        /// The name that was asked for.
        host: Box<str>,
    },
    /// Nobody could say: no answer in time, or the servers fail or refuse.
    Unavailable {
        /// The name that was asked for.
        host: Box<str>,
        /// What the last try brought.
        reason: Arc<str>,
    },
}

/// The resolver. Clones share everything.
///
/// Works from any Tokio runtime with time and I/O enabled; a query runs as a task of the runtime
/// that first asked, and whoever waits for it asks again if that runtime ends.
#[derive(Clone, Debug)]
pub struct Resolver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cache: Cache,
    hosts: Hosts,
    transport: Box<dyn Transport>,
    timeout: Duration,
    flights: Mutex<AHashMap<Box<str>, Flight>>,
}

/// A query under way. Its sender goes with its task, so a flight that was lost shows.
type Flight = watch::Receiver<Option<Outcome>>;

// === impl Resolver ===

impl Resolver {
    /// A resolver with an empty cache. Reads `/etc/resolv.conf` where `config` names no servers;
    /// where that file is missing or names none, the server of this machine is asked.
    pub fn new(config: Config) -> Result<Self, Error> {
        let servers = Servers::new(&config)?;
        Ok(Self::with(
            &config,
            Hosts::new("/etc/hosts"),
            Box::new(servers),
        ))
    }

    fn with(config: &Config, hosts: Hosts, transport: Box<dyn Transport>) -> Self {
        let shared = Shared {
            cache: Cache::new(config, cache::NAMES_MAX),
            hosts,
            transport,
            timeout: config.timeout,
            flights: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The addresses of `host`: a name, or an IP literal, which is its own answer.
    ///
    /// Waits for at most `timeout`, and for a fresh answer not at all. Dropping the future is
    /// safe: the query goes on for those who wait for it too, and its answer is kept.
    pub async fn lookup(&self, host: &str) -> Result<Answer, LookupError> {
        let name = plain(host);
        match self.remembered(&name) {
            Remembered::Result(result) => result,
            Remembered::Ask { fallback, .. } => {
                let patience = if fallback.is_some() {
                    STALE_PATIENCE
                } else {
                    Duration::MAX
                };
                self.wait(&name, fallback, patience).await
            }
        }
    }

    /// As [`Resolver::lookup`], for callers that have another way: waits for at most `patience`,
    /// and not at all where the last query for this name had an unhappy end. The query goes on
    /// behind, so a later call knows better.
    pub async fn glance(&self, host: &str, patience: Duration) -> Result<Answer, LookupError> {
        let name = plain(host);
        match self.remembered(&name) {
            Remembered::Result(result) => result,
            Remembered::Ask {
                echo: Some(echo), ..
            } => {
                self.ask_behind(&name);
                Err(echo)
            }
            Remembered::Ask { fallback, .. } => {
                self.wait(&name, fallback, patience.min(STALE_PATIENCE))
                    .await
            }
        }
    }

    /// The names that it can answer for without asking, for a successor to begin with.
    pub fn known(&self) -> Vec<Known> {
        self.shared.cache.known(Instant::now())
    }

    /// Takes over what another resolver knew, for names that this one doesn't know.
    pub fn learn(&self, known: impl IntoIterator<Item = Known>) {
        let now = Instant::now();
        known.into_iter().for_each(|known| {
            self.shared.cache.learn(known, now);
        });
    }

    /// All that can be said without waiting.
    fn remembered(&self, name: &str) -> Remembered {
        if let Some(address) = literal(name) {
            return Remembered::Result(Ok(Arc::from([address])));
        }
        match self.shared.cache.probe(name, Instant::now()) {
            Verdict::Use { result, ask } => {
                if ask {
                    self.ask_behind(name);
                }
                Remembered::Result(result)
            }
            Verdict::Ask { fallback, echo } => match self.shared.listed(name) {
                Some(answer) => Remembered::Result(Ok(answer)),
                None => Remembered::Ask { fallback, echo },
            },
        }
    }

    async fn wait(
        &self,
        name: &str,
        fallback: Option<Answer>,
        patience: Duration,
    ) -> Result<Answer, LookupError> {
        let outcome = if patience == Duration::MAX {
            self.outcome(name).await
        } else {
            match tokio::time::timeout(patience, self.outcome(name)).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Unavailable(format!("no answer within {patience:?}").into()),
            }
        };
        match outcome {
            Outcome::Found { addresses, .. } => Ok(addresses),
            Outcome::NotFound => Err(LookupError::NotFound { host: name.into() }),
            Outcome::Unavailable(reason) => fallback.ok_or_else(|| LookupError::Unavailable {
                host: name.into(),
                reason,
            }),
        }
    }

    /// Waits for the query of this name: the one under way, or a new one.
    async fn outcome(&self, name: &str) -> Outcome {
        // A flight is lost only with the runtime it ran on; the next one runs on ours.
        for _ in 0..2 {
            let mut flight = match self.board(name) {
                Boarding::Flight(flight) => flight,
                Boarding::Landed(outcome) => return outcome,
            };
            if let Ok(outcome) = flight.wait_for(Option::is_some).await
                && let Some(outcome) = outcome.clone()
            {
                return outcome;
            }
        }
        Outcome::Unavailable("the query was given up".into())
    }

    fn ask_behind(&self, name: &str) {
        if tokio::runtime::Handle::try_current().is_ok() {
            drop(self.board(name));
        }
    }

    /// Joins the query of this name, starting it where there is none.
    fn board(&self, name: &str) -> Boarding {
        let mut flights = self.shared.flights.lock();
        // An open flight without a change is under way; a closed one was lost.
        if let Some(flight) = flights.get(name)
            && flight.has_changed().is_ok()
        {
            return Boarding::Flight(flight.clone());
        }
        // Another one may have landed since the caller looked.
        if let Verdict::Use {
            result: Ok(addresses),
            ask: false,
        } = self.shared.cache.probe(name, Instant::now())
        {
            let ttl = Duration::ZERO;
            return Boarding::Landed(Outcome::Found { addresses, ttl });
        }
        if flights.len() >= FLIGHTS_MAX {
            flights.retain(|_, flight| flight.has_changed().is_ok());
            if flights.len() >= FLIGHTS_MAX {
                let reason = format!("{FLIGHTS_MAX} names are being asked for already");
                return Boarding::Landed(Outcome::Unavailable(reason.into()));
            }
        }
        let (landing, flight) = watch::channel(None);
        flights.insert(name.into(), flight.clone());
        drop(flights);
        let (shared, name) = (Arc::clone(&self.shared), Box::<str>::from(name));
        tokio::spawn(async move {
            let outcome = shared.ask(&name).await;
            shared.cache.keep(&name, outcome.clone(), Instant::now());
            shared.flights.lock().remove(&name);
            // Nobody waits where the query was started ahead of time.
            drop(landing.send(Some(outcome)));
        });
        Boarding::Flight(flight)
    }
}

enum Remembered {
    Result(Result<Answer, LookupError>),
    Ask {
        fallback: Option<Answer>,
        echo: Option<LookupError>,
    },
}

enum Boarding {
    Flight(Flight),
    Landed(Outcome),
}

// === impl Shared ===

impl Shared {
    fn listed(&self, name: &str) -> Option<Answer> {
        let addresses = self.hosts.find(name)?;
        let outcome = Outcome::Found {
            addresses: Arc::clone(&addresses),
            ttl: hosts::HOSTS_TTL,
        };
        self.cache.keep(name, outcome, Instant::now());
        Some(addresses)
    }

    async fn ask(&self, name: &str) -> Outcome {
        if let Some(addresses) = self.hosts.find(name) {
            let ttl = hosts::HOSTS_TTL;
            return Outcome::Found { addresses, ttl };
        }
        match tokio::time::timeout(self.timeout, self.transport.ask(name)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Unavailable(format!("no answer within {:?}", self.timeout).into()),
        }
    }
}

/// Lower case, without the root's dot and without the brackets of an IPv6 literal.
fn plain(host: &str) -> Cow<'_, str> {
    let bare = host.strip_suffix('.').unwrap_or(host);
    let bare = bare
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(bare);
    if bare.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}

fn literal(name: &str) -> Option<IpAddr> {
    // Only what ends in a digit or has a colon can be one: most names cost one look.
    let last = *name.as_bytes().last()?;
    let maybe = last.is_ascii_digit() || name.contains(':');
    maybe.then(|| name.parse().ok()).flatten()
}

// === impl Display ===

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResolvConf(cause) => write!(f, "/etc/resolv.conf: {cause}"),
            Self::Transport(cause) => write!(f, "DNS transport: {cause}"),
        }
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { host } => write!(f, "{host} doesn't exist or has no address"),
            Self::Unavailable { host, reason } => write!(f, "{host} can't be resolved: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

impl std::error::Error for LookupError {}

#[cfg(test)]
mod tests;

//! A caching DNS resolver that never makes a known name wait.
//!
//! ```
//! use weir_dns::{Config, Resolver};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let resolver = Resolver::new(Config {
//!     servers: vec!["127.0.0.1:53".parse()?], // none: those of /etc/resolv.conf
//!     ..Config::default()
//! })?;
//! // A name of the hosts file, and a literal: no server is asked for either.
//! let addresses = resolver.lookup("localhost").await?;
//! assert!(addresses.iter().all(|address| address.is_loopback()));
//! assert_eq!(resolver.lookup("[2001:db8::1]").await?.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! [`Resolver::lookup`] answers from memory where it can, without a lock and without waiting. Only
//! the very first lookup of a name waits: it looks into `/etc/hosts` (`hosts.rs`), then asks the
//! servers (`transport.rs`, `nameserver.rs`; hickory carries the messages) and keeps what they say
//! (`cache.rs`, `entry.rs`):
//!
//! - an answer for its TTL, clamped to `min_ttl..=max_ttl`, and a name in use is asked for again in
//!   the background from four fifths of it on (`renew.rs`);
//! - where the servers say only one address family, what was known of the other one serves on for
//!   up to `stale`, and both are asked for again in 5 s;
//! - past its TTL the old answer still serves, for up to `stale`, while the servers fail (RFC 8767)
//!   or are being asked;
//! - "no such name" for `negative_ttl`, or for less where its zone says so (RFC 2308); for a name
//!   that had addresses it must be said twice, ten seconds apart, and by the first server of the
//!   list, which may know names that the others don't;
//! - a failure for 1 s to 5 s (RFC 9520).
//!
//! A name is asked for once, however many wait for it (`flight.rs`). `/etc/hosts` and
//! `/etc/resolv.conf` are read again when they change, with the search list and `ndots`. A server
//! that is silent is soon asked last. [`Observer`] is told of each lookup and each query,
//! [`Resolver::dump`] and [`Resolver::flush`] are for operators.
//!
//! It never chooses among the addresses and never connects to them.

mod cache;
mod entry;
mod flight;
mod hosts;
mod name;
mod nameserver;
mod observe;
mod renew;
mod resolv_conf;
mod resolver;
mod stamp;
#[cfg(test)]
mod tests;
mod transport;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use observe::{Lookup, Observer, Query, QueryEnd, Tally};
pub use resolver::Resolver;

/// The addresses of a name, never empty, IPv4 first. Cheap to clone; an answer that didn't change
/// keeps its allocation.
pub type Answer = Arc<[IpAddr]>;

/// How to resolve. [`Config::default`] has the defaults that are named here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The servers to ask: the next one where one fails, or is slower than usual. None (the
    /// default) means those of `/etc/resolv.conf`, and its search list and `ndots` with them.
    pub servers: Vec<SocketAddr>,
    /// The domains in which names with fewer dots than `ndots` are searched for, instead of those
    /// of `/etc/resolv.conf`: not set.
    pub search: Option<Vec<String>>,
    /// A name with so many dots is asked for only as it is, instead of what `/etc/resolv.conf`
    /// says: not set, and 1 where the file doesn't say.
    pub ndots: Option<u8>,
    /// An answer is kept at least this long: 1 s.
    pub min_ttl: Duration,
    /// An answer is kept at most this long: 5 min.
    pub max_ttl: Duration,
    /// How long "no such name" is kept at most: 5 s.
    pub negative_ttl: Duration,
    /// How long past its TTL an answer may be used while there is no newer one: 1 h.
    pub stale: Duration,
    /// What one lookup may take, with all its tries: 2 s.
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: None,
            ndots: None,
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(5),
            stale: Duration::from_secs(3600),
            timeout: Duration::from_secs(2),
        }
    }
}

/// A name and what it stands for, as one resolver tells another; see [`Resolver::known`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The name, in lower case. A dot at its end only where it would be searched for without it.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How long they are still the truth; zero for those that only stand in for it.
    pub fresh: Duration,
    /// How long they may stand in for it, from now.
    pub stale: Duration,
    /// How long ago the servers first said that there is no such name, where that isn't confirmed.
    pub missing_for: Option<Duration>,
}

/// Who said what a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `/etc/hosts`, or the rule that `localhost` is this machine.
    Hosts,
    /// A DNS server.
    Dns,
    /// Another resolver; see [`Resolver::learn`].
    HandedOver,
}

impl Source {
    /// Its words for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Dns => "dns",
            Self::HandedOver => "handed over",
        }
    }
}

/// All that is remembered of one name; see [`Resolver::dump`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// As in [`Known::name`].
    pub name: String,
    /// Its addresses; none where it doesn't exist or nobody could say.
    pub addresses: Vec<IpAddr>,
    /// Who said so.
    pub source: Source,
    /// How long this is still the truth; zero for what only stands in for it.
    pub fresh: Duration,
    /// How long it may stand in for it, from now.
    pub stale: Duration,
    /// How long ago it was said.
    pub age: Duration,
    /// How long ago the name was last looked up, give or take a second.
    pub idle: Duration,
    /// The servers say that there is no such name. With addresses: they said so once, and the old
    /// ones serve until that is confirmed.
    pub is_missing: bool,
    /// Queries in a row that failed.
    pub failures: u8,
    /// What the last of them brought.
    pub last_error: Option<String>,
}

/// How a server fares; see [`Resolver::servers`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReport {
    /// The server.
    pub address: SocketAddr,
    /// Questions that it was asked and that have ended.
    pub queries: u64,
    /// Those that it didn't answer, failed or refused.
    pub failures: u64,
    /// How long it takes, smoothed; `None` before its first answer.
    pub latency: Option<Duration>,
    /// It was silent several times in a row, and is tried now and then.
    pub is_dead: bool,
}

/// Why no resolver could be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// `/etc/resolv.conf` is there and can't be read.
    ResolvConf(String),
}

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// The name doesn't exist, has no address, or is none that a server can be asked for.
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

// === impl LookupError ===

impl LookupError {
    fn lookup(&self) -> Lookup {
        match self {
            Self::NotFound { .. } => Lookup::Negative,
            Self::Unavailable { .. } => Lookup::Failure,
        }
    }
}

// === impl Display ===

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResolvConf(cause) => write!(
                f,
                "/etc/resolv.conf can't be read: {cause}; make it readable, or name the servers"
            ),
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

//! Questions to DNS servers, by hickory: UDP, then TCP where an answer doesn't fit or is lost.
//!
//! It remembers nothing (hickory's own cache is off) and decides nothing; [`crate::Resolver`]
//! calls it with one name at a time.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;

use crate::cache::Outcome;
use crate::{Config, Error};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// An answer of one address family whose sister couldn't be had is kept only this long.
const HALF_TTL: Duration = Duration::from_secs(5);

/// How long an address family is waited for once the other one is there.
const SISTER_PATIENCE: Duration = Duration::from_millis(250);

/// Addresses kept of one family, at most.
const ADDRESSES_MAX: usize = 32;

/// Somebody who can be asked for a name's addresses.
pub(crate) trait Transport: Send + Sync + fmt::Debug {
    /// Asks. The name is in lower case and has no dot at its end. Doesn't bound its own time.
    fn ask<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;
}

/// DNS servers.
pub(crate) struct Servers {
    resolver: TokioResolver,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Servers")
    }
}

impl Servers {
    /// The servers of `config`, else those of `/etc/resolv.conf`, else (as resolv.conf(5) says)
    /// the one on this machine.
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let (servers, mut options) = if config.servers.is_empty() {
            system(std::fs::read(RESOLV_CONF))?
        } else {
            (chosen(&config.servers), ResolverOpts::default())
        };
        // Two tries fit into the time that one lookup has.
        options.timeout = config.timeout / 2;
        options.attempts = 1;
        options.cache_size = 0;
        options.edns0 = true;
        options.use_hosts_file = ResolveHosts::Never;
        options.try_tcp_on_error = true;
        // An alias's TTL counts as well.
        options.preserve_intermediates = true;
        let resolver = TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(|cause| Error::Transport(cause.to_string()))?;
        Ok(Self { resolver })
    }

    async fn family(&self, name: &str, family: RecordType) -> Family {
        match self.resolver.lookup(name, family).await {
            Ok(lookup) => {
                let addresses: Vec<IpAddr> = lookup
                    .answers()
                    .iter()
                    .filter_map(|record| match record.data {
                        RData::A(address) => Some(IpAddr::V4(address.0)),
                        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                        _ => None,
                    })
                    .take(ADDRESSES_MAX)
                    .collect();
                let ttl = lookup.answers().iter().map(|record| record.ttl).min();
                if addresses.is_empty() {
                    return Family::None;
                }
                Family::Some(addresses, Duration::from_secs(ttl.unwrap_or(0).into()))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Family::None,
            Err(cause) => Family::Failed(cause.to_string().into()),
        }
    }
}

impl Transport for Servers {
    fn ask<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move {
            // A name with a dot is meant whole: no walk through the search list.
            let whole = if name.contains('.') {
                format!("{name}.")
            } else {
                name.to_owned()
            };
            let four = self.family(&whole, RecordType::A);
            let six = self.family(&whole, RecordType::AAAA);
            tokio::pin!(four, six);
            tokio::select! {
                first = &mut four => {
                    let second = sister(&first, six).await;
                    join(first, second)
                }
                first = &mut six => {
                    let second = sister(&first, four).await;
                    join(second, first)
                }
            }
        })
    }
}

/// What was learnt of one address family.
enum Family {
    Some(Vec<IpAddr>, Duration),
    None,
    Failed(Arc<str>),
}

/// The other family. Some servers never answer for IPv6: who has an answer waits no longer than
/// [`SISTER_PATIENCE`] for it.
async fn sister(first: &Family, other: impl Future<Output = Family>) -> Family {
    if !matches!(first, Family::Some(..)) {
        return other.await;
    }
    match tokio::time::timeout(SISTER_PATIENCE, other).await {
        Ok(other) => other,
        Err(_) => Family::Failed("no answer in time".into()),
    }
}

/// IPv4 first: without a race between the families it is the one that seldom leads nowhere.
fn join(four: Family, six: Family) -> Outcome {
    match (four, six) {
        (Family::Some(mut four, ttl), Family::Some(six, ttl_six)) => {
            four.extend(six);
            Outcome::Found {
                addresses: four.into(),
                ttl: ttl.min(ttl_six),
            }
        }
        (Family::Some(one, ttl), Family::None) | (Family::None, Family::Some(one, ttl)) => {
            Outcome::Found {
                addresses: one.into(),
                ttl,
            }
        }
        (Family::Some(one, ttl), Family::Failed(_))
        | (Family::Failed(_), Family::Some(one, ttl)) => Outcome::Found {
            addresses: one.into(),
            ttl: ttl.min(HALF_TTL),
        },
        (Family::None, Family::None) => Outcome::NotFound,
        (Family::Failed(reason), _) | (_, Family::Failed(reason)) => Outcome::Unavailable(reason),
    }
}

fn chosen(servers: &[SocketAddr]) -> ResolverConfig {
    let servers = servers.iter().map(|server| {
        let mut udp = ConnectionConfig::udp();
        let mut tcp = ConnectionConfig::tcp();
        udp.port = server.port();
        tcp.port = server.port();
        NameServerConfig::new(server.ip(), true, vec![udp, tcp])
    });
    ResolverConfig::from_parts(None, Vec::new(), servers.collect())
}

fn system(read: std::io::Result<Vec<u8>>) -> Result<(ResolverConfig, ResolverOpts), Error> {
    let text = match read {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(cause) => return Err(Error::ResolvConf(cause.to_string())),
    };
    let lists_server = String::from_utf8_lossy(&text)
        .lines()
        .any(|line| line.trim_start().starts_with("nameserver"));
    if !lists_server {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
        return Ok((chosen(&[here]), ResolverOpts::default()));
    }
    parse_resolv_conf(text).map_err(|cause| Error::ResolvConf(cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Reply, Server};

    fn servers(server: &Server, timeout: Duration) -> Servers {
        let config = Config {
            servers: vec![server.address()],
            timeout,
            ..Config::default()
        };
        Servers::new(&config).expect("a transport")
    }

    #[tokio::test]
    async fn both_families_are_asked_and_the_smaller_ttl_wins() {
        let server = Server::start(|name, kind| match (name, kind) {
            ("api.example.com", 1) => Reply::Addresses(vec!["192.0.2.1", "192.0.2.2"], 60),
            ("api.example.com", 28) => Reply::Addresses(vec!["2001:db8::1"], 30),
            _ => Reply::Code(3),
        })
        .await;
        let outcome = servers(&server, Duration::from_secs(2))
            .ask("api.example.com")
            .await;
        let Outcome::Found { addresses, ttl } = outcome else {
            panic!("{outcome:?}");
        };
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        assert_eq!(ttl, Duration::from_secs(30));
        assert_eq!(server.queries(), 2);
    }

    #[tokio::test]
    async fn a_name_without_addresses_and_a_missing_one_are_not_found() {
        let server = Server::start(|name, _| match name {
            "empty.example" => Reply::Code(0),
            _ => Reply::Code(3),
        })
        .await;
        let servers = servers(&server, Duration::from_secs(2));
        for name in ["empty.example", "missing.example"] {
            let outcome = servers.ask(name).await;
            assert!(matches!(outcome, Outcome::NotFound), "{name}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_fails_or_refuses_makes_the_name_unavailable() {
        let server = Server::start(|name, _| match name {
            "servfail.example" => Reply::Code(2),
            _ => Reply::Code(5),
        })
        .await;
        let servers = servers(&server, Duration::from_millis(400));
        for name in ["servfail.example", "refused.example"] {
            let outcome = servers.ask(name).await;
            assert!(
                matches!(outcome, Outcome::Unavailable(_)),
                "{name}: {outcome:?}"
            );
        }
    }

    #[tokio::test]
    async fn one_family_that_cannot_be_had_shortens_the_ttl_of_the_other() {
        let server = Server::start(|_, kind| match kind {
            1 => Reply::Addresses(vec!["192.0.2.1"], 300),
            _ => Reply::Code(2),
        })
        .await;
        let outcome = servers(&server, Duration::from_millis(400))
            .ask("a.example")
            .await;
        assert!(
            matches!(outcome, Outcome::Found { ttl, .. } if ttl == HALF_TTL),
            "{outcome:?}"
        );
    }

    #[tokio::test]
    async fn a_server_that_is_silent_on_ipv6_does_not_cost_the_ipv4_answer() {
        let server = Server::start(|_, kind| match kind {
            1 => Reply::Addresses(vec!["192.0.2.1"], 300),
            _ => Reply::Silence,
        })
        .await;
        let servers = servers(&server, Duration::from_secs(20));
        let asked = std::time::Instant::now();
        let outcome = servers.ask("a.example").await;
        assert!(matches!(outcome, Outcome::Found { .. }), "{outcome:?}");
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "one try takes 10 s"
        );
    }

    #[tokio::test]
    async fn an_alias_is_followed_and_its_ttl_counts() {
        let server = Server::start(|name, kind| match (name, kind) {
            ("www.example", 1) => Reply::Alias("target.example", 7, vec!["192.0.2.9"], 60),
            _ => Reply::Code(0),
        })
        .await;
        let outcome = servers(&server, Duration::from_secs(2))
            .ask("www.example")
            .await;
        assert!(
            matches!(&outcome, Outcome::Found { addresses, ttl }
                if addresses.len() == 1 && *ttl == Duration::from_secs(7)),
            "{outcome:?}"
        );
    }

    #[test]
    fn without_a_resolv_conf_the_server_of_this_machine_is_asked() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        for read in [Err(missing), Ok(b"# nothing\n".to_vec())] {
            let (config, _) = system(read).expect("a configuration");
            assert_eq!(config.name_servers()[0].ip, IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let (config, _) = system(Ok(b"nameserver 192.0.2.53\n".to_vec())).expect("parsed");
        assert_eq!(config.name_servers()[0].ip.to_string(), "192.0.2.53");
    }
}

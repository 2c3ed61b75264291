//! Names to addresses by asking DNS servers: the search list, both families, aliases, and which
//! server to ask when.
//!
//! It remembers nothing but how each server fares (`nameserver.rs`); [`crate::Resolver`] calls it
//! with one name at a time.

use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_net::proto::rr::Name;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::entry::{Family, Outcome};
use crate::name::candidates;
use crate::nameserver::{Failure, NameServer, Said, Standing};
use crate::observe::Observer;
use crate::resolv_conf::{self, ResolvConf};
use crate::stamp::Stamp;
use crate::{Config, Error, ServerReport, Source};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A larger file isn't a resolv.conf.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// An answer of one address family whose sister couldn't be had is kept only this long.
const HALF_TTL: Duration = Duration::from_secs(5);

/// How long an address family is waited for once the other one is there.
const SISTER_PATIENCE: Duration = Duration::from_millis(250);

/// How long a server has before the next one is asked as well: between these, four times what it
/// takes mostly.
const HEAD_START_MIN: Duration = Duration::from_millis(50);
const HEAD_START_MAX: Duration = Duration::from_millis(300);

/// Aliases followed from server to server; RFC 1034 leaves the number to us.
const ALIASES_MAX: usize = 8;

/// Questions in a row that all servers let down, after which the transport is made anew.
const RENEW_AFTER: u32 = 8;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Somebody who can be asked for a name's addresses.
pub(crate) trait Transport: Send + Sync + fmt::Debug {
    /// Asks for `key`, as [`crate::name::key`] writes it. Doesn't bound its own time.
    fn ask<'a>(&'a self, key: &'a str) -> Boxed<'a, Outcome>;

    /// Looks whether whom to ask, or for what, has changed. True: what was heard before may be
    /// wrong now. Blocks for the time of reading a small file.
    fn look_again(&self) -> bool {
        false
    }

    /// Names with fewer dots are searched for.
    fn ndots(&self) -> u8 {
        1
    }

    /// How the servers fare.
    fn servers(&self) -> Vec<ServerReport> {
        Vec::new()
    }
}

/// DNS servers.
#[derive(Debug)]
pub(crate) struct Servers {
    roster: ArcSwap<Roster>,
    /// Where the configuration is in a file.
    file: Option<File>,
    search: Option<Vec<String>>,
    ndots: Option<u8>,
    timeout: Duration,
    /// Questions in a row that all servers let down.
    failures: AtomicU32,
    observer: Arc<dyn Observer>,
}

/// Whom to ask, and what for. Replaced as a whole.
#[derive(Debug)]
struct Roster {
    servers: Vec<Arc<NameServer>>,
    search: Vec<String>,
    ndots: u8,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    stamp: Mutex<Option<Stamp>>,
}

/// A question under way. One that is given up counts as one that nobody answered.
struct Question<'a> {
    failures: &'a AtomicU32,
    answered: bool,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if self.answered {
            self.failures.store(0, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// === impl Servers ===

impl Servers {
    /// The servers of `config`, else those of `/etc/resolv.conf`, else (as resolv.conf(5) says)
    /// the one on this machine.
    pub(crate) fn new(config: &Config, observer: Arc<dyn Observer>) -> Result<Self, Error> {
        Self::of(config, RESOLV_CONF, observer)
    }

    pub(crate) fn of(
        config: &Config,
        file: impl Into<PathBuf>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, Error> {
        let given = ResolvConf {
            servers: config.servers.clone(),
            search: Vec::new(),
            ndots: 1,
        };
        let file = config.servers.is_empty().then(|| File {
            path: file.into(),
            stamp: Mutex::default(),
        });
        let mut conf = match &file {
            Some(file) => {
                *file.stamp.lock() = Stamp::of(&file.path);
                match file.read() {
                    Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => given,
                    read => read.map_err(|cause| Error::ResolvConf(cause.to_string()))?,
                }
            }
            None => given,
        };
        if conf.servers.is_empty() {
            conf.servers = vec![(Ipv4Addr::LOCALHOST, 53).into()];
        }
        let listed = |list: &Vec<String>| list.iter().map(|it| resolv_conf::domain(it)).collect();
        let servers = Self {
            roster: ArcSwap::from_pointee(Roster {
                servers: Vec::new(),
                search: Vec::new(),
                ndots: 1,
            }),
            file,
            search: config.search.as_ref().map(listed),
            ndots: config.ndots,
            timeout: config.timeout,
            failures: AtomicU32::new(0),
            observer,
        };
        servers.roster.store(Arc::new(servers.roster_of(conf, &[])));
        Ok(servers)
    }

    /// Servers that are among `kept` already keep what is known of them.
    fn roster_of(&self, conf: ResolvConf, kept: &[Arc<NameServer>]) -> Roster {
        let server = |address: SocketAddr| {
            let same = kept.iter().find(|it| it.address == address);
            same.map_or_else(|| Arc::new(NameServer::new(address)), Arc::clone)
        };
        Roster {
            servers: conf.servers.into_iter().map(server).collect(),
            search: self.search.clone().unwrap_or(conf.search),
            ndots: self.ndots.unwrap_or(conf.ndots),
        }
    }

    /// Both families of one whole name.
    async fn both(&self, roster: &Arc<Roster>, whole: &str) -> Outcome {
        // Not ASCII: as IDNA writes it.
        let name = if whole.is_ascii() {
            Name::from_ascii(whole)
        } else {
            Name::from_utf8(whole)
        };
        let Ok(name) = name else {
            return Outcome::NotFound {
                ttl: None,
                sure: true,
            };
        };
        let four = self.family(roster, name.clone(), false);
        let six = self.family(roster, name, true);
        tokio::pin!(four, six);
        tokio::select! {
            first = &mut four => {
                let gone = matches!(first, Ok(Said::None { exists: false, .. }));
                let second = sister(gone || is_found(&first), six).await;
                join(first, second)
            }
            first = &mut six => {
                let second = sister(is_found(&first), four).await;
                join(second, first)
            }
        }
    }

    /// One family of one name, along its aliases.
    async fn family(
        &self,
        roster: &Arc<Roster>,
        mut name: Name,
        ipv6: bool,
    ) -> Result<Said, Arc<str>> {
        let mut least = Duration::MAX;
        for _ in 0..=ALIASES_MAX {
            match self.one(roster, &name, ipv6).await? {
                Said::Alias(target, ttl) => (name, least) = (target, least.min(ttl)),
                Said::Addresses(list, ttl) => return Ok(Said::Addresses(list, ttl.min(least))),
                none @ Said::None { .. } => return Ok(none),
            }
        }
        Err(format!("more than {ALIASES_MAX} aliases").into())
    }

    /// One question, to one server after another: the next one is asked as soon as one fails, and
    /// when it is silent for longer than is usual. Their order is that of the configuration, for
    /// the first may know names that the others don't; so "no such name" counts only when no
    /// earlier one is still thinking, and isn't sure where the first one fails or seems dead.
    async fn one(&self, roster: &Arc<Roster>, name: &Name, ipv6: bool) -> Result<Said, Arc<str>> {
        let mut question = Question {
            failures: &self.failures,
            answered: false,
        };
        let (order, together) = roster.order(Instant::now());
        let (tell, mut told) = mpsc::channel(order.len().max(1));
        let mut waiting = order.iter().enumerate();
        let mut asked: Vec<bool> = Vec::with_capacity(order.len());
        let mut best: Option<(usize, Said)> = None;
        let mut first_agrees = false;
        let mut reason: Arc<str> = "there is no server".into();
        let mut head_start = Duration::ZERO;
        let mut starts = together;
        loop {
            while starts > 0
                && let Some((rank, server)) = waiting.next()
            {
                self.send(Arc::clone(server), rank, name.clone(), ipv6, tell.clone());
                asked.push(true);
                starts -= 1;
                head_start = server.report().latency.map_or(HEAD_START_MAX, |usual| {
                    (usual * 4).clamp(HEAD_START_MIN, HEAD_START_MAX)
                });
            }
            starts = 1;
            if !asked.contains(&true) {
                break;
            }
            let more = waiting.len() > 0;
            let heard: Option<(usize, Result<Said, Failure>)> = tokio::select! {
                heard = told.recv() => heard,
                () = tokio::time::sleep(head_start), if more => continue,
            };
            let Some((rank, result)) = heard else {
                break;
            };
            asked[rank] = false;
            match result {
                Ok(none @ Said::None { .. }) => {
                    let first = roster.servers.first();
                    first_agrees |= first.is_some_and(|first| Arc::ptr_eq(first, &order[rank]));
                    if best.as_ref().is_none_or(|(before, _)| rank < *before) {
                        best = Some((rank, none));
                    }
                    starts = 0;
                }
                Ok(found) => {
                    question.answered = true;
                    return Ok(found);
                }
                Err(failure) => {
                    reason = failure.reason;
                    starts = usize::from(best.is_none());
                }
            }
            if let Some((rank, _)) = best
                && !asked[..rank].contains(&true)
            {
                break;
            }
        }
        question.answered = best.is_some();
        match best {
            Some((_, Said::None { exists, ttl, .. })) => Ok(Said::None {
                exists,
                ttl,
                sure: first_agrees,
            }),
            _ => Err(reason),
        }
    }

    /// In a task of its own: an answer that comes too late for this question still tells that the
    /// server lives, and none at all that it doesn't.
    fn send(
        &self,
        server: Arc<NameServer>,
        rank: usize,
        name: Name,
        ipv6: bool,
        tell: mpsc::Sender<(usize, Result<Said, Failure>)>,
    ) {
        let (timeout, observer) = (self.timeout, Arc::clone(&self.observer));
        tokio::spawn(async move {
            let result = server.ask(&name, ipv6, timeout, &*observer).await;
            // Nobody listens any more where another one was faster.
            drop(tell.try_send((rank, result)));
        });
    }
}

impl Transport for Servers {
    fn ask<'a>(&'a self, key: &'a str) -> Boxed<'a, Outcome> {
        Box::pin(async move {
            let roster = self.roster.load_full();
            let mut shortest: Option<Duration> = None;
            let mut all_sure = true;
            for whole in candidates(key, &roster.search, roster.ndots) {
                match self.both(&roster, &whole).await {
                    Outcome::NotFound { ttl, sure } => {
                        all_sure &= sure;
                        shortest = match (shortest, ttl) {
                            (Some(one), Some(other)) => Some(one.min(other)),
                            (one, other) => one.or(other),
                        };
                    }
                    // A name that nobody can say anything of ends the search as well: what the
                    // next domain has under this name is another host.
                    told => return told,
                }
            }
            Outcome::NotFound {
                ttl: shortest,
                sure: all_sure,
            }
        })
    }

    fn look_again(&self) -> bool {
        let failures = self.failures.load(Ordering::Relaxed);
        let wedged = failures >= RENEW_AFTER;
        if wedged {
            self.failures.store(0, Ordering::Relaxed);
        }
        let conf = self.file.as_ref().and_then(|file| file.changed(wedged));
        let old = self.roster.load();
        let kept: &[Arc<NameServer>] = if wedged { &[] } else { &old.servers };
        let Some(conf) = conf else {
            if wedged {
                let conf = ResolvConf {
                    servers: old.servers.iter().map(|it| it.address).collect(),
                    search: old.search.clone(),
                    ndots: old.ndots,
                };
                self.roster.store(Arc::new(self.roster_of(conf, kept)));
            }
            return false;
        };
        let new = self.roster_of(conf, kept);
        let is_other = !old.is_like(&new);
        self.roster.store(Arc::new(new));
        is_other
    }

    fn ndots(&self) -> u8 {
        self.roster.load().ndots
    }

    fn servers(&self) -> Vec<ServerReport> {
        let roster = self.roster.load();
        roster.servers.iter().map(|it| it.report()).collect()
    }
}

// === impl Roster ===

impl Roster {
    /// The servers in the order in which to ask them: as configured, those that seem dead last.
    /// And how many to ask at once: one that is being tried isn't waited for.
    fn order(&self, now: Instant) -> (Vec<Arc<NameServer>>, usize) {
        let alone = self.servers.len() == 1;
        let mut ranked: Vec<(Standing, &Arc<NameServer>)> = (self.servers.iter())
            .map(|server| match server.standing(now) {
                Standing::Dead if alone => (Standing::Alive, server),
                standing => (standing, server),
            })
            .collect();
        ranked.sort_by_key(|(standing, _)| *standing);
        let probes = ranked.iter().filter(|(it, _)| *it == Standing::Probe);
        let together = 1 + probes.count();
        let order = ranked.into_iter().map(|(_, it)| Arc::clone(it));
        (order.collect(), together)
    }

    fn is_like(&self, other: &Self) -> bool {
        let addresses = |roster: &Self| -> Vec<SocketAddr> {
            roster.servers.iter().map(|it| it.address).collect()
        };
        let lists = (&self.search, self.ndots) == (&other.search, other.ndots);
        lists && addresses(self) == addresses(other)
    }
}

// === impl File ===

impl File {
    fn read(&self) -> std::io::Result<ResolvConf> {
        let text = std::fs::read(&self.path)?;
        Ok(ResolvConf::parse(&String::from_utf8_lossy(&text)))
    }

    /// What the file says, where it has changed (or `anyway`). One that can't be read or lists no
    /// server isn't believed: it is being written.
    fn changed(&self, anyway: bool) -> Option<ResolvConf> {
        let mut stamp = self.stamp.lock();
        let seen = Stamp::of(&self.path).filter(|seen| seen.bytes <= FILE_BYTES_MAX)?;
        if *stamp == Some(seen) && !anyway {
            return None;
        }
        let conf = self.read().ok()?;
        *stamp = Some(seen);
        (!conf.servers.is_empty()).then_some(conf)
    }
}

fn is_found(family: &Result<Said, Arc<str>>) -> bool {
    matches!(family, Ok(Said::Addresses(..)))
}

/// The other family. Some servers never answer for IPv6: where the first one is enough this one is
/// waited for no longer than [`SISTER_PATIENCE`].
async fn sister(
    is_enough: bool,
    other: impl Future<Output = Result<Said, Arc<str>>>,
) -> Result<Said, Arc<str>> {
    if !is_enough {
        return other.await;
    }
    match tokio::time::timeout(SISTER_PATIENCE, other).await {
        Ok(other) => other,
        Err(_) => Err("no answer in time".into()),
    }
}

/// IPv4 first: without a race between the families it is the one that seldom leads nowhere.
fn join(four: Result<Said, Arc<str>>, six: Result<Said, Arc<str>>) -> Outcome {
    use Said::{Addresses, None as Nothing};
    let found = |addresses: Vec<_>, ttl, lost| Outcome::Found {
        addresses: addresses.into(),
        ttl,
        source: Source::Dns,
        lost,
    };
    match (four, six) {
        (Ok(Addresses(mut four, ttl)), Ok(Addresses(six, ttl_six))) => {
            four.extend(six);
            found(four, ttl.min(ttl_six), None)
        }
        (Ok(Addresses(one, ttl)), Ok(_)) | (Ok(_), Ok(Addresses(one, ttl))) => {
            found(one, ttl, None)
        }
        (Ok(Addresses(four, ttl)), Err(_)) => found(four, ttl.min(HALF_TTL), Some(Family::V6)),
        (Err(_), Ok(Addresses(six, ttl))) => found(six, ttl.min(HALF_TTL), Some(Family::V4)),
        // A name that doesn't exist has neither (RFC 8020). But for IPv6 alone some servers say so
        // of each name that has only IPv4 addresses (RFC 4074, 4.2).
        (
            Ok(Nothing {
                exists: false,
                ttl,
                sure,
            }),
            Err(_),
        ) => Outcome::NotFound { ttl, sure },
        (
            Ok(Nothing { ttl, sure, .. }),
            Ok(Nothing {
                ttl: other,
                sure: both,
                ..
            }),
        ) => Outcome::NotFound {
            ttl: ttl
                .zip(other)
                .map(|(one, other)| one.min(other))
                .or(ttl)
                .or(other),
            sure: sure && both,
        },
        (Err(reason), _) | (_, Err(reason)) => Outcome::Unavailable(reason),
        // Aliases are followed to their end before.
        (Ok(Said::Alias(..)), _) | (_, Ok(Said::Alias(..))) => Outcome::NotFound {
            ttl: None,
            sure: true,
        },
    }
}

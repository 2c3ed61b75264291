//! What is known of one name, and what an outcome makes of it.
//!
//! ```text
//!            found                     failure (n)
//!   Nothing ───────► Found ◄──────────────────────► Found, failures = n     served as stale
//!      │               │  found                        past `stale` ──► Nothing
//!      │ no such name  │ no such name       after 10 s, again
//!      └────► Missing ◄┼──────────── Found, missing_since ──► Missing
//!                      └──────────────────► (served as stale meanwhile)
//! ```
//!
//! Where only one address family was found, what is held of the other one stands in for it.
//!
//! Pure: it neither asks nor waits; time and chance are arguments. `cache.rs` calls it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Answer, Config, Known, LookupError, Source};

/// The pause after a first failure; it doubles with each further one (RFC 9520, 3.2: at least 1 s).
pub(crate) const FAILURE_PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause after failures. RFC 8767 proposes 30 s for a resolver that asks the world's
/// servers; here a few of our own are asked, and traffic should notice soon that they are back.
pub(crate) const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(5);

/// "No such name" must come twice, this far apart, to end a name that had addresses: a zone that
/// is being reloaded, or a server that has just started, says so for some seconds.
pub(crate) const CONFIRM_AFTER: Duration = Duration::from_secs(10);

/// How long an unhappy outcome that has run out may still be told to a caller that has another way.
const ECHO: Duration = Duration::from_secs(60);

/// Names in use aren't asked for more often than this, however short their TTL is.
pub(crate) const RENEWAL_PAUSE_MIN: Duration = Duration::from_millis(500);

/// What a query brought.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Addresses, and how long their source lets them be kept. `lost`: nobody could say those of
    /// this family.
    Found {
        addresses: Answer,
        ttl: Duration,
        source: Source,
        lost: Option<Family>,
    },
    /// The name doesn't exist or has no address, and for how long its zone says so. Not `sure`: a
    /// server says so that is asked only because an earlier one fails, which may know more.
    NotFound { ttl: Option<Duration>, sure: bool },
    /// Nobody could say.
    Unavailable(Arc<str>),
}

/// What to do about a name now.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// Use this; `due`: and start a query behind it.
    Use {
        addresses: Answer,
        stale: bool,
        due: bool,
    },
    /// The last outcome was unhappy and it is too early to ask again.
    Unhappy(LookupError),
    /// Ask and wait. `echo` is the last unhappy outcome, for callers that have another way.
    Ask { echo: Option<LookupError> },
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What the last answer couldn't say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    pub(crate) family: Family,
    /// Up to here what was known of it stands in, be it addresses or that there are none. `None`:
    /// nothing is known.
    pub(crate) known_until: Option<Instant>,
}

/// How long outcomes are kept; from [`Config`].
#[derive(Debug)]
pub(crate) struct Bounds {
    min_ttl: Duration,
    max_ttl: Duration,
    negative_ttl: Duration,
    stale: Duration,
}

/// The state of one name. Replaced as a whole, never changed.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) held: Held,
    /// When `held` was last heard.
    pub(crate) heard: Instant,
    /// Up to here `held` is the truth.
    pub(crate) fresh_until: Instant,
    /// Up to here it may stand in for the truth.
    pub(crate) stale_until: Instant,
    /// The family that only stands in for the truth, or isn't there, while the other one is fresh.
    pub(crate) lost: Option<Lost>,
    /// From here on a query is due.
    pub(crate) ask_at: Instant,
    /// When "no such name" first came, while addresses are held and it isn't confirmed.
    pub(crate) missing_since: Option<Instant>,
    /// The addresses were to be forgotten: whoever wants them asks first, and falls back on them
    /// where that fails.
    pub(crate) flushed: bool,
    /// Failures in a row since the last outcome that said something.
    pub(crate) failures: u8,
    /// The last failure's words, while `failures` isn't 0.
    pub(crate) reason: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Held {
    Found(Answer, Source),
    Missing,
    Nothing,
}

// === impl Bounds ===

impl Bounds {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            min_ttl: config.min_ttl,
            max_ttl: config.max_ttl.max(config.min_ttl),
            negative_ttl: config.negative_ttl,
            stale: config.stale,
        }
    }

    /// The state after `outcome`. `chance` is from `0.0..1.0` and spreads renewals.
    pub(crate) fn after(
        &self,
        earlier: Option<&Entry>,
        outcome: Outcome,
        now: Instant,
        chance: f32,
    ) -> Entry {
        match outcome {
            Outcome::Found {
                addresses,
                ttl,
                source,
                lost,
            } => {
                let ttl = ttl.clamp(self.min_ttl, self.max_ttl);
                let lost = lost.map(|family| Lost::of(family, earlier, now));
                let addresses = match (earlier, lost) {
                    (Some(entry), Some(lost)) if lost.known_until.is_some() => {
                        entry.completing(addresses, lost.family)
                    }
                    _ => addresses,
                };
                Entry {
                    held: Held::Found(unchanged(earlier, addresses), source),
                    heard: now,
                    fresh_until: now + ttl,
                    stale_until: now + ttl + self.stale,
                    lost,
                    ask_at: now + renewal(ttl, chance),
                    missing_since: None,
                    flushed: false,
                    failures: 0,
                    reason: None,
                }
            }
            Outcome::NotFound { sure: false, .. }
                if earlier.is_some_and(|it| it.is_better(now)) =>
            {
                let reason = "no such name at a later server, and an earlier one fails";
                failed(earlier, reason.into(), now)
            }
            Outcome::NotFound { ttl, .. } => match earlier {
                Some(entry) if entry.is_doubtful(now) => entry.doubted(now, self.stale),
                _ => {
                    let ttl = ttl.map_or(self.negative_ttl, |ttl| {
                        ttl.max(FAILURE_PAUSE_MIN).min(self.negative_ttl)
                    });
                    Entry {
                        held: Held::Missing,
                        heard: now,
                        fresh_until: now + ttl,
                        stale_until: now + ttl + ECHO,
                        lost: None,
                        ask_at: now + ttl,
                        missing_since: None,
                        flushed: false,
                        failures: 0,
                        reason: None,
                    }
                }
            },
            Outcome::Unavailable(reason) => failed(earlier, reason, now),
        }
    }

    /// What another resolver knew, within this one's bounds.
    pub(crate) fn learnt(&self, known: &Known, now: Instant, chance: f32) -> Entry {
        let fresh = known.fresh.min(self.max_ttl);
        Entry {
            held: Held::Found(known.addresses.as_slice().into(), Source::HandedOver),
            heard: now,
            fresh_until: now + fresh,
            stale_until: now + known.stale.min(fresh + self.stale),
            lost: None,
            ask_at: now + fresh.mul_f32(share(chance)),
            // A doubt from before this machine's clock began is as good as one from now.
            missing_since: known
                .missing_for
                .map(|since| now.checked_sub(since).unwrap_or(now)),
            flushed: false,
            failures: 0,
            reason: None,
        }
    }
}

// === impl Entry ===

impl Entry {
    pub(crate) fn verdict(&self, name: &str, now: Instant) -> Verdict {
        let fresh = now < self.fresh_until;
        let usable = now < self.stale_until;
        match &self.held {
            Held::Found(..) if self.flushed => Verdict::Ask { echo: None },
            Held::Found(addresses, _) if fresh || usable => Verdict::Use {
                addresses: Arc::clone(addresses),
                stale: !fresh,
                due: now >= self.ask_at,
            },
            Held::Missing | Held::Nothing if fresh => Verdict::Unhappy(self.unhappy(name)),
            Held::Missing | Held::Nothing if usable => Verdict::Ask {
                echo: Some(self.unhappy(name)),
            },
            _ => Verdict::Ask { echo: None },
        }
    }

    /// Whether a query ahead of the next lookup has a use.
    pub(crate) fn is_renewable(&self, now: Instant) -> bool {
        matches!(self.held, Held::Found(..)) && now < self.stale_until
    }

    /// Whether addresses are held that aren't all, as nobody could say the IPv4 ones and nothing is
    /// known of them from before.
    pub(crate) fn lacks_ipv4(&self, now: Instant) -> bool {
        let is_found = matches!(self.held, Held::Found(..));
        is_found
            && self.lost.is_some_and(|lost| {
                lost.family == Family::V4 && lost.known_until.is_none_or(|until| until <= now)
            })
    }

    /// `half`, and the addresses of the other family that are held. IPv4 first.
    fn completing(&self, half: Answer, lost: Family) -> Answer {
        let Held::Found(held, _) = &self.held else {
            return half;
        };
        let kept = held.iter().filter(|ip| lost.has(**ip));
        match lost {
            Family::V4 => kept.chain(half.iter()).copied().collect(),
            Family::V6 => half.iter().chain(kept).copied().collect(),
        }
    }

    /// Without what is too old of the family that was lost.
    fn trimmed(&self, now: Instant) -> Held {
        match (&self.held, self.lost) {
            (Held::Found(addresses, source), Some(lost))
                if lost.known_until.is_some_and(|until| until <= now)
                    && addresses.iter().any(|ip| lost.family.has(*ip)) =>
            {
                let left = addresses.iter().copied().filter(|ip| !lost.family.has(*ip));
                Held::Found(left.collect(), *source)
            }
            _ => self.held.clone(),
        }
    }

    /// Whether "no such name" is to be doubted: addresses are held, and it wasn't said long enough
    /// ago before. The hosts file is never doubted: what it lost is lost.
    fn is_doubtful(&self, now: Instant) -> bool {
        let confirmed = self
            .missing_since
            .is_some_and(|since| now >= since + CONFIRM_AFTER);
        self.is_better(now) && !confirmed && !self.flushed
    }

    /// Whether addresses are held that outweigh what is only half believed.
    fn is_better(&self, now: Instant) -> bool {
        let held = matches!(self.held, Held::Found(_, source) if source != Source::Hosts);
        held && now < self.stale_until
    }

    /// The state after a flush; `None` where nothing of it is worth keeping.
    pub(crate) fn flush(&self, now: Instant) -> Option<Self> {
        self.is_better(now).then(|| Self {
            fresh_until: self.fresh_until.min(now),
            ask_at: now,
            flushed: true,
            ..self.clone()
        })
    }

    /// From now on it only stands in for the truth.
    fn doubted(&self, now: Instant, stale: Duration) -> Self {
        let since = self.missing_since.unwrap_or(now);
        Self {
            fresh_until: self.fresh_until.min(now),
            stale_until: self.stale_until.min(now + stale),
            ask_at: since + CONFIRM_AFTER,
            missing_since: Some(since),
            failures: 0,
            reason: None,
            ..self.clone()
        }
    }

    fn unhappy(&self, name: &str) -> LookupError {
        match &self.reason {
            Some(reason) => LookupError::Unavailable {
                host: name.into(),
                reason: Arc::clone(reason),
            },
            None => LookupError::NotFound { host: name.into() },
        }
    }
}

// === impl Family ===

impl Family {
    fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

// === impl Lost ===

impl Lost {
    /// Time and again the same family may be lost: what is known of it doesn't get younger by that.
    fn of(family: Family, earlier: Option<&Entry>, now: Instant) -> Self {
        let earlier = earlier.filter(|entry| match &entry.held {
            // What the hosts file lost is lost.
            Held::Found(_, Source::Hosts) => false,
            Held::Found(_, Source::Dns) => true,
            // What isn't in it may have been lost already.
            Held::Found(addresses, Source::HandedOver) => {
                addresses.iter().any(|ip| family.has(*ip))
            }
            Held::Missing | Held::Nothing => false,
        });
        let known_until = earlier.and_then(|entry| match entry.lost {
            Some(lost) if lost.family == family => lost.known_until,
            _ => Some(entry.stale_until),
        });
        Self {
            family,
            known_until: known_until.filter(|until| now < *until),
        }
    }
}

/// A failure doesn't displace addresses that may still be served.
fn failed(earlier: Option<&Entry>, reason: Arc<str>, now: Instant) -> Entry {
    let before = earlier.map_or(0, |entry| entry.failures);
    let ask_at = now + (FAILURE_PAUSE_MIN * (1 << before.min(5))).min(FAILURE_PAUSE_MAX);
    let failures = before.saturating_add(1);
    match earlier {
        Some(entry) if entry.is_renewable(now) => Entry {
            held: entry.trimmed(now),
            flushed: false,
            ask_at,
            failures,
            reason: Some(reason),
            ..entry.clone()
        },
        _ => Entry {
            held: Held::Nothing,
            heard: now,
            fresh_until: ask_at,
            stale_until: ask_at + ECHO,
            lost: None,
            ask_at,
            missing_since: None,
            flushed: false,
            failures,
            reason: Some(reason),
        },
    }
}

/// When to ask again: at four fifths of the TTL, give or take a twentieth, so that names that were
/// first asked for together don't stay together.
fn renewal(ttl: Duration, chance: f32) -> Duration {
    ttl.mul_f32(share(chance)).max(RENEWAL_PAUSE_MIN)
}

fn share(chance: f32) -> f32 {
    0.75 + 0.1 * chance
}

/// The earlier value where a new answer says the same, so that holders of the old one and of the
/// new one can see by pointer that nothing changed.
fn unchanged(earlier: Option<&Entry>, addresses: Arc<[IpAddr]>) -> Answer {
    match earlier.map(|entry| &entry.held) {
        Some(Held::Found(same, _)) if *same == addresses => Arc::clone(same),
        _ => addresses,
    }
}

//! What is known of each name, and until when.
//!
//! Pure: it neither asks nor waits, and the time is an argument. [`crate::Resolver`] calls it,
//! before a query to see whether one is needed and after it to keep the outcome.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::{Answer, Config, Known, LookupError};

/// Names kept at most. Names come from the configuration, so this is a fuse and not a budget.
pub(crate) const NAMES_MAX: usize = 4096;

/// How long a failure or a "no such name" that has run out may still stand in for an answer
/// where the caller doesn't want to wait.
const ECHO: Duration = Duration::from_secs(60);

/// The pause after a first failure; it doubles with each further one, up to `negative_ttl`.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// What a query brought.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Addresses, and how long their source lets them be kept.
    Found { addresses: Answer, ttl: Duration },
    /// The name doesn't exist or has no address.
    NotFound,
    /// Nobody could say.
    Unavailable(Arc<str>),
}

/// What to do about a name now.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// Use this. `ask`: and start a query behind it.
    Use {
        result: Result<Answer, LookupError>,
        ask: bool,
    },
    /// Ask and wait. `fallback` is what may be used instead of waiting for long; `echo` is the
    /// last unhappy outcome, for callers that have another way.
    Ask {
        fallback: Option<Answer>,
        echo: Option<LookupError>,
    },
}

/// The names and what is known of them.
#[derive(Debug)]
pub(crate) struct Cache {
    min_ttl: Duration,
    max_ttl: Duration,
    negative_ttl: Duration,
    stale: Duration,
    names_max: usize,
    names: RwLock<AHashMap<Box<str>, Entry>>,
}

#[derive(Clone, Debug)]
struct Entry {
    held: Held,
    /// Up to here `held` is the truth.
    fresh_until: Instant,
    /// Up to here it may stand in for the truth.
    stale_until: Instant,
    /// From here on a query is due.
    ask_at: Instant,
    /// Failures in a row since the last outcome that said something.
    failures: u8,
    /// The last failure's words, while `failures` isn't 0.
    reason: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
enum Held {
    Found(Answer),
    NotFound,
    Nothing,
}

impl Cache {
    pub(crate) fn new(config: &Config, names_max: usize) -> Self {
        Self {
            min_ttl: config.min_ttl,
            max_ttl: config.max_ttl.max(config.min_ttl),
            negative_ttl: config.negative_ttl,
            stale: config.stale,
            names_max,
            names: RwLock::new(AHashMap::new()),
        }
    }

    /// Answers that are or may stand in for the truth.
    pub(crate) fn known(&self, now: Instant) -> Vec<Known> {
        let names = self.names.read();
        let found = names.iter().filter_map(|(name, entry)| match &entry.held {
            Held::Found(addresses) if entry.stale_until > now => Some(Known {
                name: name.to_string(),
                addresses: addresses.to_vec(),
                fresh: entry.fresh_until.saturating_duration_since(now),
                stale: entry.stale_until.saturating_duration_since(now),
            }),
            _ => None,
        });
        found.collect()
    }

    /// Keeps what another cache knew, where nothing is known here. Bounds are this cache's own.
    pub(crate) fn learn(&self, known: Known, now: Instant) {
        let mut names = self.names.write();
        if known.addresses.is_empty()
            || names.len() >= self.names_max
            || names.contains_key(&*known.name)
        {
            return;
        }
        let fresh = known.fresh.min(self.max_ttl);
        let entry = Entry {
            held: Held::Found(known.addresses.into()),
            fresh_until: now + fresh,
            stale_until: now + known.stale.min(fresh + self.stale),
            ask_at: now + fresh.mul_f32(0.8),
            failures: 0,
            reason: None,
        };
        names.insert(known.name.into(), entry);
    }

    /// What to do about `name`, which is in lower case and has no dot at its end.
    pub(crate) fn probe(&self, name: &str, now: Instant) -> Verdict {
        match self.names.read().get(name) {
            Some(entry) => entry.verdict(name, now),
            None => Verdict::Ask {
                fallback: None,
                echo: None,
            },
        }
    }

    /// Keeps an outcome and says what it makes of the name: a failure doesn't displace an answer
    /// that may still be served.
    pub(crate) fn keep(&self, name: &str, outcome: Outcome, now: Instant) {
        let mut names = self.names.write();
        let earlier = names.get(name).cloned();
        if earlier.is_none() && names.len() >= self.names_max {
            make_room(&mut names, now);
        }
        let entry = self.entry(earlier, outcome, now);
        names.insert(name.into(), entry);
    }

    fn entry(&self, earlier: Option<Entry>, outcome: Outcome, now: Instant) -> Entry {
        match outcome {
            Outcome::Found { addresses, ttl } => {
                let ttl = ttl.clamp(self.min_ttl, self.max_ttl);
                Entry {
                    held: Held::Found(unchanged(earlier, addresses)),
                    fresh_until: now + ttl,
                    stale_until: now + ttl + self.stale,
                    ask_at: now + ttl.mul_f32(0.8),
                    failures: 0,
                    reason: None,
                }
            }
            Outcome::NotFound => Entry {
                held: Held::NotFound,
                fresh_until: now + self.negative_ttl,
                stale_until: now + self.negative_ttl + ECHO,
                ask_at: now + self.negative_ttl,
                failures: 0,
                reason: None,
            },
            Outcome::Unavailable(reason) => {
                let mut entry = earlier
                    .filter(|held| now < held.stale_until)
                    .unwrap_or(Entry {
                        held: Held::Nothing,
                        fresh_until: now,
                        stale_until: now,
                        ask_at: now,
                        failures: 0,
                        reason: None,
                    });
                let pause = PAUSE_MIN * (1 << entry.failures.min(5));
                entry.ask_at = now + pause.min(self.negative_ttl.max(PAUSE_MIN));
                if !matches!(entry.held, Held::Found(_)) {
                    entry.held = Held::Nothing;
                    entry.fresh_until = entry.ask_at;
                    entry.stale_until = entry.ask_at + ECHO;
                }
                entry.failures = entry.failures.saturating_add(1);
                entry.reason = Some(reason);
                entry
            }
        }
    }
}

impl Entry {
    fn verdict(&self, name: &str, now: Instant) -> Verdict {
        let due = now >= self.ask_at;
        let fresh = now < self.fresh_until;
        let usable = now < self.stale_until;
        match &self.held {
            // While the resolver fails an old answer is used without waiting: the query behind it
            // tells when that is over.
            Held::Found(addresses) if fresh || (usable && self.failures > 0) => Verdict::Use {
                result: Ok(Arc::clone(addresses)),
                ask: due,
            },
            Held::Found(addresses) => Verdict::Ask {
                fallback: usable.then(|| Arc::clone(addresses)),
                echo: None,
            },
            Held::NotFound | Held::Nothing if fresh => Verdict::Use {
                result: Err(self.unhappy(name)),
                ask: false,
            },
            Held::NotFound | Held::Nothing => Verdict::Ask {
                fallback: None,
                echo: usable.then(|| self.unhappy(name)),
            },
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

/// The earlier value where a new answer says the same, so that holders of the old one and of the
/// new one can see by pointer that nothing changed.
fn unchanged(earlier: Option<Entry>, addresses: Arc<[IpAddr]>) -> Answer {
    match earlier.map(|entry| entry.held) {
        Some(Held::Found(same)) if same == addresses => same,
        _ => addresses,
    }
}

/// Forgets what is past use; where that isn't enough, the name that was last heard of longest ago.
fn make_room(names: &mut AHashMap<Box<str>, Entry>, now: Instant) {
    let before = names.len();
    names.retain(|_, entry| now < entry.stale_until);
    if names.len() < before {
        return;
    }
    let oldest = names
        .iter()
        .min_by_key(|(_, entry)| entry.ask_at)
        .map(|(name, _)| name.clone());
    if let Some(oldest) = oldest {
        names.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cache(names_max: usize) -> Cache {
        let config = Config {
            min_ttl: 5 * SECOND,
            max_ttl: 100 * SECOND,
            negative_ttl: 4 * SECOND,
            stale: 1000 * SECOND,
            ..Config::default()
        };
        Cache::new(&config, names_max)
    }

    fn found(last: u8, ttl: u32) -> Outcome {
        Outcome::Found {
            addresses: Arc::from([IpAddr::from([192, 0, 2, last])]),
            ttl: ttl * SECOND,
        }
    }

    fn failed() -> Outcome {
        Outcome::Unavailable("refused".into())
    }

    /// `u`se, `U`se and ask, `a`sk, `f` ask with fallback, `e` ask with echo, `n`ot found,
    /// `x` unavailable.
    fn letter(cache: &Cache, name: &str, now: Instant) -> char {
        match cache.probe(name, now) {
            Verdict::Use { result: Ok(_), ask } => {
                if ask {
                    'U'
                } else {
                    'u'
                }
            }
            Verdict::Use {
                result: Err(LookupError::NotFound { .. }),
                ..
            } => 'n',
            Verdict::Use { result: Err(_), .. } => 'x',
            Verdict::Ask {
                fallback: Some(_), ..
            } => 'f',
            Verdict::Ask { echo: Some(_), .. } => 'e',
            Verdict::Ask { .. } => 'a',
        }
    }

    #[test]
    fn an_answer_is_fresh_for_its_ttl_and_asked_again_at_four_fifths() {
        let (cache, start) = (cache(8), Instant::now());
        cache.keep("a", found(1, 50), start);
        let at = |seconds: u32| letter(&cache, "a", start + seconds * SECOND);
        assert_eq!(at(0), 'u');
        assert_eq!(at(39), 'u');
        assert_eq!(at(40), 'U', "due at 80 %");
        assert_eq!(at(49), 'U');
        assert_eq!(
            at(50),
            'f',
            "the TTL is honoured, the old answer only a fallback"
        );
        assert_eq!(at(1049), 'f');
        assert_eq!(at(1050), 'a', "past stale");
    }

    #[test]
    fn ttls_are_clamped_at_both_ends() {
        let (cache, start) = (cache(8), Instant::now());
        cache.keep("short", found(1, 0), start);
        cache.keep("long", found(1, 86400), start);
        assert_eq!(letter(&cache, "short", start + 3 * SECOND), 'u');
        assert_eq!(letter(&cache, "short", start + 5 * SECOND), 'f');
        assert_eq!(letter(&cache, "long", start + 99 * SECOND), 'U');
        assert_eq!(letter(&cache, "long", start + 100 * SECOND), 'f');
    }

    #[test]
    fn a_missing_name_is_remembered_for_the_negative_ttl() {
        let (cache, start) = (cache(8), Instant::now());
        cache.keep("a", Outcome::NotFound, start);
        assert_eq!(letter(&cache, "a", start + 3 * SECOND), 'n');
        assert_eq!(letter(&cache, "a", start + 4 * SECOND), 'e');
        assert_eq!(letter(&cache, "a", start + 64 * SECOND), 'a');
    }

    #[test]
    fn a_failing_resolver_leaves_the_old_answer_in_use() {
        let (cache, start) = (cache(8), Instant::now());
        cache.keep("a", found(1, 50), start);
        cache.keep("a", failed(), start + 50 * SECOND);
        assert_eq!(letter(&cache, "a", start + 50 * SECOND), 'u');
        assert_eq!(
            letter(&cache, "a", start + 51 * SECOND),
            'U',
            "after the pause"
        );
        assert_eq!(letter(&cache, "a", start + 1049 * SECOND), 'U');
        assert_eq!(letter(&cache, "a", start + 1050 * SECOND), 'a');
        cache.keep("a", failed(), start + 1050 * SECOND);
        assert_eq!(letter(&cache, "a", start + 1050 * SECOND), 'x');
    }

    #[test]
    fn the_pause_after_failures_doubles_up_to_the_negative_ttl() {
        let (cache, mut now) = (cache(8), Instant::now());
        for pause in [1, 2, 4, 4] {
            cache.keep("a", failed(), now);
            assert_eq!(letter(&cache, "a", now + pause * SECOND - SECOND / 10), 'x');
            now += pause * SECOND;
            assert_eq!(letter(&cache, "a", now), 'e');
        }
    }

    #[test]
    fn a_good_answer_ends_a_series_of_failures() {
        let (cache, start) = (cache(8), Instant::now());
        cache.keep("a", failed(), start);
        cache.keep("a", found(1, 50), start);
        assert_eq!(letter(&cache, "a", start + 50 * SECOND), 'f');
    }

    #[test]
    fn no_such_name_displaces_an_answer() {
        let (cache, start) = (cache(8), Instant::now());
        cache.keep("a", found(1, 50), start);
        cache.keep("a", Outcome::NotFound, start);
        assert_eq!(letter(&cache, "a", start), 'n');
    }

    #[test]
    fn the_number_of_names_is_bounded_and_the_oldest_leaves() {
        let (cache, start) = (cache(2), Instant::now());
        cache.keep("a", found(1, 50), start);
        cache.keep("b", found(2, 50), start + SECOND);
        cache.keep("a", found(1, 50), start + 2 * SECOND);
        cache.keep("c", found(3, 50), start + 3 * SECOND);
        let now = start + 3 * SECOND;
        assert_eq!(letter(&cache, "a", now), 'u');
        assert_eq!(letter(&cache, "b", now), 'a', "the oldest");
        assert_eq!(letter(&cache, "c", now), 'u');
        assert_eq!(cache.names.read().len(), 2);
    }

    #[test]
    fn an_unchanged_answer_keeps_its_allocation() {
        let (cache, start) = (cache(2), Instant::now());
        let held = |now| match cache.probe("a", now) {
            Verdict::Use {
                result: Ok(held), ..
            } => held,
            other => panic!("{other:?}"),
        };
        cache.keep("a", found(1, 50), start);
        let first = held(start);
        cache.keep("a", found(1, 50), start);
        assert!(Arc::ptr_eq(&first, &held(start)));
        cache.keep("a", found(2, 50), start);
        assert!(!Arc::ptr_eq(&first, &held(start)));
    }
}

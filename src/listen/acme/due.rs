//! When a certificate is due, and when to try again after a failure. Pure: the time and chance are
//! arguments. Called by the renewal for every certificate it looks after.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

/// Certificates of no more than this are renewed when half of their lifetime is left.
const SHORT_LIVED: Duration = Duration::from_secs(10 * 24 * 3600);

/// The first pause after a failure; it doubles with every further one.
const PAUSE_MIN: Duration = Duration::from_secs(60);

/// The longest pause that weir chooses by itself.
const PAUSE_MAX: Duration = Duration::from_secs(6 * 3600);

/// The longest pause that a server can ask for.
const WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What counts about a certificate that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// It is valid from then …
    pub not_before: SystemTime,
    /// … until then.
    pub not_after: SystemTime,
    /// The names it is for, in lower case.
    pub names: BTreeSet<String>,
}

/// Whether a new certificate is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// There is none.
    Missing,
    /// What is there can't be used.
    Unusable,
    /// What is there is for other names than configured.
    OtherNames,
    /// What is there is no longer valid.
    Expired,
    /// The time to renew has come.
    Due,
    /// Not before then.
    Later(SystemTime),
}

/// When the server suggests to renew (RFC 9773 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Not before.
    pub start: SystemTime,
    /// Not after.
    pub end: SystemTime,
}

/// How often in a row it has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

/// What a server asks for, as far as it is followed.
pub(super) fn within_limits(asked: Duration) -> Duration {
    asked.min(WAIT_MAX)
}

// === impl Need ===

impl Need {
    /// What a certificate that can be used needs, for these names and with the moment that was
    /// chosen in the server's window, if it has one.
    pub fn of(
        held: &Held,
        domains: &[String],
        now: SystemTime,
        suggested: Option<SystemTime>,
    ) -> Self {
        if !held
            .names
            .iter()
            .eq(domains.iter().collect::<BTreeSet<_>>())
        {
            return Self::OtherNames;
        }
        if now >= held.not_after {
            return Self::Expired;
        }
        let moment = match suggested {
            // A server's mistake must not let a certificate run out.
            Some(moment) => moment.min(held.last_moment()),
            None => held.renewal(),
        };
        if now >= moment {
            Self::Due
        } else {
            Self::Later(moment)
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "there is none",
            Self::Unusable => "what is there can't be used",
            Self::OtherNames => "what is there is for other names",
            Self::Expired => "it has expired",
            Self::Due => "it is due",
            Self::Later(_) => "not yet due",
        })
    }
}

// === impl Held ===

impl Held {
    fn lifetime(&self) -> Duration {
        self.not_after
            .duration_since(self.not_before)
            .unwrap_or_default()
    }

    /// Where the server suggests nothing: a third of the lifetime before the end, half of it with
    /// short-lived ones.
    fn renewal(&self) -> SystemTime {
        let lifetime = self.lifetime();
        let left = if lifetime <= SHORT_LIVED {
            lifetime / 2
        } else {
            lifetime / 3
        };
        self.not_after - left
    }

    /// Later than this no suggestion is followed.
    fn last_moment(&self) -> SystemTime {
        self.not_after - self.lifetime() / 10
    }
}

// === impl Window ===

impl Window {
    /// A moment in it, `chance` (0 to 1) of its length after the start; `None` where it ends before
    /// it starts, which is to be ignored.
    pub fn moment(&self, chance: f64) -> Option<SystemTime> {
        let length = self.end.duration_since(self.start).ok()?;
        (!length.is_zero()).then(|| self.start + length.mul_f64(chance.clamp(0.0, 1.0)))
    }
}

// === impl Backoff ===

impl Backoff {
    /// One more failure: how long to leave the server alone, in view of what it asks for. `chance`
    /// (0 to 1) spreads those who failed together: up to a fifth more.
    pub fn after_failure(&mut self, asked: Option<Duration>, chance: f64) -> Duration {
        let pause = PAUSE_MIN
            .saturating_mul(1 << self.failures.min(16))
            .min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        let pause = pause.max(within_limits(asked.unwrap_or_default()));
        pause
            + (pause / 5)
                .min(PAUSE_MAX / 5)
                .mul_f64(chance.clamp(0.0, 1.0))
    }

    /// It worked.
    pub fn after_success(&mut self) {
        *self = Self::default();
    }

    /// How often in a row it has failed.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    fn held(days: u32) -> Held {
        Held {
            not_before: start(),
            not_after: start() + days * DAY,
            names: ["a.test", "b.test"].map(str::to_owned).into(),
        }
    }

    fn need(held: &Held, now: SystemTime, suggested: Option<SystemTime>) -> Need {
        let domains = ["b.test", "a.test"].map(str::to_owned);
        Need::of(held, &domains, now, suggested)
    }

    #[test]
    fn a_long_lived_one_is_due_when_a_third_is_left() {
        let at = start() + 60 * DAY;
        assert_eq!(need(&held(90), at - SECOND, None), Need::Later(at));
        assert_eq!(need(&held(90), at, None), Need::Due);
    }

    #[test]
    fn a_short_lived_one_is_due_when_half_is_left() {
        let at = start() + 3 * DAY;
        assert_eq!(need(&held(6), at - SECOND, None), Need::Later(at));
        assert_eq!(need(&held(6), at, None), Need::Due);
        // Ten days are short, eleven are not.
        let at = start() + 5 * DAY;
        assert_eq!(need(&held(10), at, None), Need::Due);
        assert!(matches!(need(&held(11), at, None), Need::Later(_)));
    }

    #[test]
    fn what_the_server_suggests_counts_more() {
        let early = start() + DAY;
        assert_eq!(need(&held(90), early, Some(early)), Need::Due);
        let late = start() + 75 * DAY;
        assert_eq!(
            need(&held(90), late - SECOND, Some(late)),
            Need::Later(late)
        );
    }

    #[test]
    fn no_suggestion_lets_it_run_out() {
        let never = start() + 900 * DAY;
        let at = start() + 81 * DAY;
        assert_eq!(need(&held(90), at - SECOND, Some(never)), Need::Later(at));
        assert_eq!(need(&held(90), at, Some(never)), Need::Due);
    }

    #[test]
    fn expired_and_for_other_names_are_due_at_once() {
        assert_eq!(need(&held(90), start() + 90 * DAY, None), Need::Expired);
        for names in [vec!["a.test"], vec!["a.test", "b.test", "c.test"], vec![]] {
            let mut held = held(90);
            held.names = names.into_iter().map(str::to_owned).collect();
            assert_eq!(need(&held, start(), None), Need::OtherNames);
        }
    }

    #[test]
    fn a_moment_lies_in_the_window() {
        let window = Window {
            start: start(),
            end: start() + 2 * DAY,
        };
        assert_eq!(window.moment(0.0), Some(start()));
        assert_eq!(window.moment(0.5), Some(start() + DAY));
        assert_eq!(window.moment(1.0), Some(start() + 2 * DAY));
        let nonsense = Window {
            start: window.end,
            end: window.start,
        };
        assert_eq!(nonsense.moment(0.5), None);
    }

    #[test]
    fn pauses_grow_from_a_minute_to_six_hours() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..12)
            .map(|_| backoff.after_failure(None, 0.0).as_secs() / 60)
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360]);
        assert_eq!(backoff.failures(), 12);
        backoff.after_success();
        assert_eq!(backoff.after_failure(None, 0.0), PAUSE_MIN);
        assert_eq!(
            Backoff { failures: u32::MAX }.after_failure(None, 0.0),
            PAUSE_MAX
        );
    }

    #[test]
    fn chance_makes_pauses_longer_never_shorter() {
        let pause = |chance| Backoff::default().after_failure(None, chance).as_secs();
        assert_eq!([pause(0.0), pause(0.5), pause(1.0)], [60, 66, 72]);
    }

    #[test]
    fn what_the_server_asks_for_is_respected_within_a_week() {
        let pause = |asked| Backoff::default().after_failure(Some(asked), 0.0);
        assert_eq!(pause(SECOND), PAUSE_MIN);
        assert_eq!(pause(DAY), DAY);
        assert_eq!(pause(1000 * DAY), 7 * DAY);
    }
}

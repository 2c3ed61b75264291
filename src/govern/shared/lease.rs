//! How much of a shared allowance a host should have at hand, and when it draws or gives back. Pure:
//! time is an argument. Called by `keeper`, which looks at each every few ten milliseconds.
//!
//! ```text
//!   total ──────────▶│◀──── stock ────▶│ granted          what others have │ left │ limit
//!   used and held    │ the next requests│                                         │
//! ```

use super::draw::{Answer, Kind};
use std::time::{Duration, Instant};

/// What is seen of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) total: i64,
    pub(super) granted: i64,
    /// What requests wait for.
    pub(super) waiting: i64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// To have that much then: at least `need`, rather `want`.
    Draw { need: i64, want: i64 },
    /// To have no more than this beyond the total.
    Keep(i64),
    /// To say how it stands, and hear.
    Tell,
}

/// One allowance's lease.
#[derive(Debug)]
pub(super) struct Lease {
    kind: Kind,
    /// Used in a second, as it has been lately.
    pace: f64,
    /// The same of all other hosts; means nothing for a rate.
    pace_elsewhere: f64,
    /// The most that was held at once lately; of slots.
    peak: f64,
    seen: Option<(Seen, Instant)>,
    /// When something was last used.
    used: Option<Instant>,
    heard: Option<Heard>,
    /// What was told is forgotten.
    again: bool,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    answer: Answer,
    hosts: i64,
    at: Instant,
    /// The total that was told.
    told: i64,
    /// What was asked for wasn't there.
    dry: bool,
}

/// What was used before counts for so long.
const MEMORY: Duration = Duration::from_millis(500);
/// Others are told what has changed, and asked how they stand, every so often.
const TELL: Duration = Duration::from_millis(500);
/// The same where little is left, so that it is found by who needs it.
const TELL_SHORT: Duration = Duration::from_millis(50);
/// A stock that nobody draws from is given back after that long when little is left,
const IDLE_SHORT: Duration = Duration::from_millis(200);
/// when nothing else is left, after that long: somebody may be waiting for it,
const IDLE_LAST: Duration = Duration::from_millis(10);
/// else after that long.
const IDLE: Duration = Duration::from_secs(10);
/// Where nothing was left, requests that wait ask again after this long, stocks after that.
const AGAIN_WAITING: Duration = Duration::from_millis(10);
const AGAIN: Duration = Duration::from_millis(100);

// === impl Seen ===

impl Seen {
    pub(super) fn stock(self) -> i64 {
        self.granted.saturating_sub(self.total)
    }
}

// === impl Lease ===

impl Lease {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            pace: 0.0,
            pace_elsewhere: 0.0,
            peak: 0.0,
            seen: None,
            used: None,
            heard: None,
            again: false,
        }
    }

    /// Looks, and says what is to be done.
    pub(super) fn look(&mut self, seen: Seen, now: Instant) -> Option<Step> {
        self.learn(seen, now);
        let ahead = self.ahead(seen);
        let stock = seen.stock();
        if stock < seen.waiting || stock < 0 {
            if self.heard.is_some_and(|heard| heard.is_useless(seen)) {
                return Some(Step::Keep(0));
            }
            let need = seen.total.saturating_add(seen.waiting);
            let again = if seen.waiting > 0 {
                AGAIN_WAITING
            } else {
                AGAIN
            };
            let step = Step::Draw {
                need,
                want: need.saturating_add(ahead),
            };
            return self.may_ask_again(again, now).then_some(step);
        }
        // Who has just stopped gives back, and would draw it again at once.
        let is_used = self.idle(now) <= IDLE_SHORT;
        if stock < ahead / 2 && is_used && self.may_ask_again(AGAIN, now) {
            return Some(Step::Draw {
                need: seen.total,
                want: seen.total.saturating_add(ahead),
            });
        }
        let keep = self.keep(seen, ahead, now);
        if stock > keep.saturating_add(keep / 4) {
            return Some(Step::Keep(keep));
        }
        self.is_due(seen, now).then_some(Step::Tell)
    }

    /// What came back for what was told and asked; `met`: all that was asked for was there.
    pub(super) fn heard(&mut self, answer: Answer, hosts: i64, told: i64, met: bool, now: Instant) {
        if let Some(before) = self.heard {
            let elapsed = now.saturating_duration_since(before.at);
            let used = answer.told.saturating_sub(before.answer.told);
            self.pace_elsewhere = Self::pace(self.pace_elsewhere, used, elapsed);
        }
        self.again = false;
        self.heard = Some(Heard {
            answer,
            hosts,
            at: now,
            told,
            dry: !met,
        });
    }

    /// Whoever was told has forgotten.
    pub(super) fn tell_again(&mut self) {
        self.again = true;
    }

    pub(super) fn answer(&self) -> Option<Answer> {
        self.heard.map(|heard| heard.answer)
    }

    /// It is to be looked at soon again: requests wait, here or elsewhere.
    pub(super) fn is_pressing(&self, seen: Seen) -> bool {
        seen.waiting > 0 || self.heard.is_some_and(|heard| heard.is_last(seen))
    }

    /// Nobody has used it for so long that there is nothing to look after.
    pub(super) fn is_over(&self, seen: Seen, now: Instant) -> bool {
        let told = self.heard.is_some_and(|heard| heard.told == seen.total);
        told && seen.stock() <= 0 && seen.waiting == 0 && self.idle(now) > IDLE
    }

    /// An equal part of what was left, for a host that can ask nobody; less what others are likely to
    /// have drawn since this one has heard.
    pub(super) fn share(
        &self,
        seen: Seen,
        limit: i64,
        elsewhere: i64,
        hosts: i64,
        now: Instant,
    ) -> i64 {
        let left = match self.heard {
            Some(heard) => {
                let since = now.saturating_duration_since(heard.at).as_secs_f64();
                let drawn = self.pace_elsewhere * since;
                heard.answer.left.saturating_sub(drawn as i64)
            }
            None => limit
                .saturating_sub(elsewhere)
                .saturating_sub(seen.granted.max(seen.total)),
        };
        left.max(0) / hosts.max(1)
    }

    fn learn(&mut self, seen: Seen, now: Instant) {
        let before = self.seen.replace((seen, now));
        let Some((before, then)) = before else {
            self.used = Some(now);
            return;
        };
        let elapsed = now.saturating_duration_since(then);
        let used = seen.total.saturating_sub(before.total);
        self.pace = Self::pace(self.pace, used, elapsed);
        let held = seen.total.saturating_add(seen.waiting) as f64;
        self.peak = (self.peak * (1.0 - forgotten(elapsed))).max(held);
        if seen.total != before.total || seen.waiting > 0 {
            self.used = Some(now);
        }
    }

    /// The pace after some time in which that much was used.
    fn pace(before: f64, used: i64, elapsed: Duration) -> f64 {
        let used = used.max(0) as f64;
        let seconds = elapsed.as_secs_f64();
        // What was used within no time counts as much as over the time that is remembered.
        let rate = if seconds > 0.0 {
            used / seconds * forgotten(elapsed)
        } else {
            used / MEMORY.as_secs_f64()
        };
        before * (1.0 - forgotten(elapsed)) + rate
    }

    /// What the next moments will ask for.
    fn ahead(&self, seen: Seen) -> i64 {
        let next = match self.kind {
            Kind::Budget => self.pace,
            // What is at hand of a rate is what can come at once, on each host.
            Kind::Rate { .. } => self.pace / 5.0,
            Kind::Slots => self.peak / 4.0,
        };
        // Saturates, which is as good.
        (next.ceil() as i64).max(seen.waiting)
    }

    fn keep(&self, seen: Seen, ahead: i64, now: Instant) -> i64 {
        let idle = self.idle(now);
        let rate_is_over = matches!(self.kind, Kind::Rate { .. }) && idle > MEMORY * 2;
        if idle > IDLE || rate_is_over {
            return 0;
        }
        match self.heard {
            Some(heard) if heard.is_last(seen) && idle > IDLE_LAST => 0,
            Some(heard) if heard.is_short(seen) && idle > IDLE_SHORT => 0,
            Some(heard) if heard.is_short(seen) => ahead,
            _ => i64::MAX,
        }
    }

    fn is_due(&self, seen: Seen, now: Instant) -> bool {
        let Some(heard) = self.heard else { return true };
        let age = now.saturating_duration_since(heard.at);
        let changed = heard.told != seen.total || seen.stock() > 0;
        let watched = seen.stock() > 0 && heard.is_short(seen);
        self.again || changed && age >= TELL || watched && age >= TELL_SHORT
    }

    fn may_ask_again(&self, after: Duration, now: Instant) -> bool {
        self.heard
            .is_none_or(|heard| !heard.dry || now.saturating_duration_since(heard.at) >= after)
    }

    fn idle(&self, now: Instant) -> Duration {
        self.used
            .map_or(Duration::ZERO, |used| now.saturating_duration_since(used))
    }
}

/// The part of what is remembered that is forgotten after some time.
fn forgotten(elapsed: Duration) -> f64 {
    1.0 - (-elapsed.as_secs_f64() / MEMORY.as_secs_f64()).exp()
}

impl Heard {
    /// Others may look for what this host sits on.
    fn is_short(&self, seen: Seen) -> bool {
        self.hosts > 1 && self.answer.left <= seen.stock().saturating_mul(4)
    }

    /// This host has too little for who waits, and so may others: two parts make a whole.
    fn is_useless(&self, seen: Seen) -> bool {
        self.hosts > 1 && self.dry && seen.stock() > 0
    }

    /// This host sits on the last of it.
    fn is_last(&self, seen: Seen) -> bool {
        self.hosts > 1 && self.answer.left <= 0 && seen.stock() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(total: i64, granted: i64, waiting: i64) -> Seen {
        Seen {
            total,
            granted,
            waiting,
        }
    }

    fn left(left: i64) -> Answer {
        Answer {
            left,
            ..Answer::default()
        }
    }

    #[test]
    fn the_first_request_draws_for_itself_and_the_next() {
        let mut lease = Lease::new(Kind::Budget);
        let step = lease.look(seen(0, 0, 5), Instant::now());
        assert_eq!(step, Some(Step::Draw { need: 5, want: 10 }));
    }

    #[test]
    fn a_stock_is_drawn_ahead_for_a_second_of_use() {
        let mut lease = Lease::new(Kind::Budget);
        let mut now = Instant::now();
        lease.look(seen(0, 10_000, 0), now);
        for tick in 1..=100 {
            now += Duration::from_millis(50);
            let step = lease.look(seen(tick * 50, 10_000, 0), now);
            assert!(!matches!(step, Some(Step::Draw { .. })), "{step:?}");
        }
        // 1,000 in a second were used.
        now += Duration::from_millis(50);
        let Some(Step::Draw { need, want }) = lease.look(seen(5050, 5100, 0), now) else {
            panic!("a stock for 50 ms is low");
        };
        assert_eq!(need, 5050);
        assert!((5950..=6150).contains(&want), "{want}");
    }

    #[test]
    fn who_has_stopped_draws_nothing_ahead() {
        let mut lease = Lease::new(Kind::Budget);
        let mut now = Instant::now();
        lease.look(seen(0, 1_000_000, 0), now);
        now += Duration::from_millis(50);
        let step = lease.look(seen(1_000_000, 1_000_000, 0), now);
        assert!(matches!(step, Some(Step::Draw { .. })), "{step:?}");
        now += IDLE_SHORT + Duration::from_millis(1);
        lease.heard(left(5_000_000), 2, 1_000_000, true, now);
        assert_eq!(lease.look(seen(1_000_000, 1_000_000, 0), now), None);
    }

    #[test]
    fn who_found_nothing_asks_again_only_after_a_while() {
        let mut lease = Lease::new(Kind::Budget);
        let now = Instant::now();
        lease.look(seen(0, 0, 5), now);
        lease.heard(left(0), 2, 0, false, now);
        let soon = now + Duration::from_millis(5);
        assert_eq!(lease.look(seen(0, 0, 5), soon), None);
        let later = now + AGAIN_WAITING;
        assert!(matches!(
            lease.look(seen(0, 0, 5), later),
            Some(Step::Draw { .. })
        ));
    }

    #[test]
    fn a_stock_that_is_too_small_for_who_waits_is_given_back_where_no_more_was_left() {
        let mut lease = Lease::new(Kind::Budget);
        let now = Instant::now();
        assert!(matches!(
            lease.look(seen(0, 3, 5), now),
            Some(Step::Draw { .. })
        ));
        lease.heard(left(0), 2, 0, false, now);
        assert_eq!(lease.look(seen(0, 3, 5), now), Some(Step::Keep(0)));
        lease.heard(left(3), 2, 0, true, now);
        assert!(matches!(
            lease.look(seen(0, 0, 5), now),
            Some(Step::Draw { need: 5, .. })
        ));
    }

    #[test]
    fn an_idle_stock_goes_back_soon_where_little_is_left_and_late_where_there_is_plenty() {
        let (none, tick) = (Duration::ZERO, Duration::from_millis(50));
        for (hosts, rest, kept) in [(2, 10, none), (2, 10_000, IDLE), (1, 10, IDLE)] {
            let mut lease = Lease::new(Kind::Budget);
            let mut now = Instant::now();
            let start = now;
            lease.look(seen(7, 107, 0), now);
            let gives = loop {
                lease.heard(left(rest), hosts, 7, true, now);
                now += tick;
                if let Some(Step::Keep(0)) = lease.look(seen(7, 107, 0), now) {
                    break now - start;
                }
                assert!(now - start < IDLE * 2);
            };
            assert!(gives > kept && gives <= kept + tick * 2, "{gives:?}");
        }
    }

    #[test]
    fn what_was_used_beyond_the_grant_is_asked_for() {
        let mut lease = Lease::new(Kind::Budget);
        let step = lease.look(seen(12, 10, 0), Instant::now());
        assert!(
            matches!(step, Some(Step::Draw { need: 12, .. })),
            "{step:?}"
        );
    }

    #[test]
    fn a_host_alone_takes_an_equal_part_of_what_was_left() {
        let mut lease = Lease::new(Kind::Budget);
        let now = Instant::now();
        assert_eq!(lease.share(seen(5, 20, 0), 100, 30, 2, now), 25);
        lease.heard(left(9), 3, 0, true, now);
        assert_eq!(lease.share(seen(5, 20, 0), 100, 30, 3, now), 3);
        let second = now + Duration::from_secs(1);
        let used = Answer {
            told: 40,
            ..left(100)
        };
        lease.heard(used, 2, 0, true, second);
        let share = lease.share(seen(5, 20, 0), 200, 40, 2, second + Duration::from_secs(1));
        assert!((30..50).contains(&share), "{share}: others went on");
        lease.heard(left(-9), 3, 0, true, second);
        assert_eq!(lease.share(seen(5, 20, 0), 100, 30, 3, second), 0);
    }
}

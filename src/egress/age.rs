//! When a pooled connection is too old for new requests. Pure; time and chance are arguments.
//!
//! Pingora's pool has no age, but a key; so the key has an *epoch*. A request is given connections
//! of one epoch only. Epochs follow each other, each endpoint's at times of its own; in the second
//! half of each, more and more requests take the next one:
//!
//! ```text
//!          0.8 max      0.8 max
//!   share ├────────────┼────────────┤
//!    1    ───────╲     ╱──────╲     ╱─── …       epoch n, epoch n + 1, …
//!    0            ╲___╱        ╲___╱
//!                  0.4 max
//! ```
//!
//! So connections of an epoch fall idle one by one, HTTP/2 ones too, and end by the pool's idle
//! time; no request is cut, and no crowd connects at once. An epoch is in use for 1.2 times the age
//! that is allowed, which is the longest that a connection of it can carry new requests; one that is
//! made when an epoch begins carries them for at least 0.8 of it.

use std::time::Duration;

/// In tenths of the age: how long an epoch lasts, and how long two overlap.
const LASTS: u32 = 8;
const OVERLAP: u32 = 4;
/// Over how much of it the endpoints' epochs are spread. So none is in an overlap at the start, when
/// all connections are new anyway.
const SPREAD: u32 = 3;

/// The epoch that a request takes. `running` counts from a fixed time, `phase` is the endpoint's,
/// `chance` is drawn evenly from `0.0..1.0`, once and only where it matters.
pub(super) fn epoch(
    running: Duration,
    phase: u64,
    max_age: Option<Duration>,
    chance: impl FnOnce() -> f64,
) -> u64 {
    let Some(max_age) = max_age.filter(|age| !age.is_zero()) else {
        return 0;
    };
    let lasts = (max_age * LASTS / 10).as_secs_f64();
    let overlap = (max_age * OVERLAP / 10).as_secs_f64();
    let spread = (max_age * SPREAD / 10).as_secs_f64();
    let offset = spread * (phase % 4096) as f64 / 4096.0;
    let at = running.as_secs_f64() + offset;
    let number = (at / lasts).floor();
    let into_overlap = at - number * lasts - (lasts - overlap);
    let next = into_overlap > 0.0 && chance() < into_overlap / overlap;
    number as u64 + u64::from(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const AGE: Duration = Duration::from_secs(600);
    const SECOND: Duration = Duration::from_secs(1);

    /// First and last second at which an epoch can be taken at all.
    fn spans(phase: u64) -> BTreeMap<u64, (u32, u32)> {
        let mut spans = BTreeMap::new();
        for second in 0..6000 {
            for chance in [0.0, 1.0] {
                let epoch = epoch(second * SECOND, phase, Some(AGE), || chance);
                let span = spans.entry(epoch).or_insert((second, second));
                span.1 = second;
            }
        }
        spans
    }

    #[test]
    fn an_epoch_is_in_use_for_a_fifth_more_than_the_age_and_for_sure_until_a_fifth_less() {
        for phase in [0, 1, 1000, 4095, u64::MAX] {
            let spans = spans(phase);
            assert!(spans.len() > 10);
            // Those at both ends are cut by the test.
            for (epoch, (first, last)) in spans.iter().skip(2).take(spans.len() - 4) {
                let length = last - first;
                assert!((718..=720).contains(&length), "{epoch}: {length} s");
            }
        }
        // What is made when an epoch becomes the only one is for all until 0.4 later, and for some
        // until 0.8.
        let sure = epoch(Duration::ZERO, 0, Some(AGE), || 0.0);
        assert_eq!(epoch(240 * SECOND, 0, Some(AGE), || 0.0), sure);
        assert_eq!(epoch(479 * SECOND, 0, Some(AGE), || 0.999), sure);
        assert_eq!(epoch(480 * SECOND, 0, Some(AGE), || 0.999), sure + 1);
    }

    #[test]
    fn the_share_of_the_next_epoch_rises_steadily() {
        let mut before = 0;
        for second in (241..480).step_by(10) {
            let share = (0..1000)
                .filter(|chance| {
                    let chance = f64::from(*chance) / 1000.0;
                    epoch(second * SECOND, 0, Some(AGE), || chance) == 1
                })
                .count();
            assert!(share > before && share - before <= 45, "{second}: {share}");
            before = share;
        }
    }

    #[test]
    fn each_endpoint_changes_at_its_own_time() {
        let at =
            |phase| (0..480).find(|second| epoch(*second * SECOND, phase, Some(AGE), || 1.0) == 1);
        let times: Vec<_> = (1..=8).map(|eighth| at(eighth * 512 - 1)).collect();
        assert!(times.windows(2).all(|two| two[0] > two[1]), "{times:?}");
    }

    #[test]
    fn at_the_start_nobody_has_two_epochs() {
        for phase in 0..4096 {
            let chance = || panic!("one epoch only");
            assert_eq!(epoch(59 * SECOND, phase, Some(AGE), chance), 0, "{phase}");
        }
    }

    #[test]
    fn without_an_age_there_is_one_epoch_for_ever() {
        for age in [None, Some(Duration::ZERO)] {
            for second in [0, 1_000_000] {
                let chance = || panic!("nothing to decide");
                assert_eq!(epoch(second * SECOND, 9, age, chance), 0);
            }
        }
    }

    #[test]
    fn chance_is_asked_for_only_where_two_epochs_overlap() {
        let chance = || panic!("one epoch only");
        assert_eq!(epoch(200 * SECOND, 0, Some(AGE), chance), 0);
    }
}

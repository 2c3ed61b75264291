//! `providers[].breaker` and `providers[].health`: what is noticed of an endpoint.

use super::{Check, bounds};
use crate::config::file::{Breaker, Breaking, Health};
use crate::config::path::Path;
use crate::config::units::{Fraction, Span, Whole};
use crate::upstream::settings;
use std::time::Duration;

/// When endpoints are paused; `None` for never.
pub(super) fn breaker(
    given: Option<&Breaking>,
    path: &Path,
    check: &mut Check<'_>,
) -> Option<settings::Breaker> {
    let standard = settings::Breaker::default();
    let given = match given {
        Some(Breaking::Off) => return None,
        Some(Breaking::On(rules)) => rules,
        None => &Breaker::default(),
    };
    Some(settings::Breaker {
        failures: count(
            given.failures,
            standard.failures,
            1_000_000,
            &path.key("failures"),
            check,
        ),
        failure_rate: share(
            given.failure_rate,
            standard.failure_rate,
            &path.key("failure_rate"),
            check,
        ),
        slow: given.slow.map_or(standard.slow, |span| span.0),
        slow_rate: share(
            given.slow_rate,
            standard.slow_rate,
            &path.key("slow_rate"),
            check,
        ),
        window: window(given.window, standard.window, &path.key("window"), check),
        open: bounds::positive(given.open, &path.key("open"), check).unwrap_or(standard.open),
        probes: count(
            given.probes,
            standard.probes,
            100,
            &path.key("probes"),
            check,
        ),
    })
}

/// How endpoints are asked whether they live; `None` for not at all.
pub(super) fn health(
    given: Option<&Health>,
    path: &Path,
    check: &mut Check<'_>,
) -> Option<settings::Health> {
    let given = given?;
    let standard = settings::Health::default();
    let target = given.path.as_ref().map_or(&*standard.path, |text| &*text.0);
    let visible = target.bytes().all(|byte| byte.is_ascii_graphic());
    if !target.starts_with('/') || target.contains('#') || !visible {
        check
            .findings
            .wrong(&path.key("path"), "a path such as /v1/models");
    }
    let mut positive = |span, key: &str| bounds::positive(span, &path.key(key), check);
    let (interval, timeout) = (
        positive(given.interval, "interval"),
        positive(given.timeout, "timeout"),
    );
    Some(settings::Health {
        path: target.to_owned(),
        interval: interval.unwrap_or(standard.interval),
        timeout: timeout.unwrap_or(standard.timeout),
        rise: count(given.rise, standard.rise, 100, &path.key("rise"), check),
        fall: count(given.fall, standard.fall, 100, &path.key("fall"), check),
    })
}

fn count(given: Option<Whole>, standard: u32, max: u64, path: &Path, check: &mut Check<'_>) -> u32 {
    let Some(Whole(count)) = given else {
        return standard;
    };
    if !(1..=max).contains(&count) {
        check
            .findings
            .wrong(path, format!("a whole number from 1 to {max}"));
    }
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn share(given: Option<Fraction>, standard: f64, path: &Path, check: &mut Check<'_>) -> f64 {
    let share = given.map_or(standard, |share| share.0);
    if !(0.0..=1.0).contains(&share) {
        check
            .findings
            .wrong(path, "a share from 0 to 1, such as 0.5");
    }
    share
}

/// It is counted in tenths.
fn window(given: Option<Span>, standard: Duration, path: &Path, check: &mut Check<'_>) -> Duration {
    const LEAST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(3600);
    let span = given.map_or(standard, |span| span.0);
    if !(LEAST..=MOST).contains(&span) {
        check.findings.wrong(path, "a duration from 100ms to 1h");
    }
    span
}

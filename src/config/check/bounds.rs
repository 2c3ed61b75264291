//! `limits`, `timeouts`, `upgrade`, `rate_limit`: how much and how long.

use super::allowance::{allowance, terms};
use super::{Check, teams};
use crate::config::file::{
    CachedTokens, File, Limits, Queue, RateLimit, Timeouts, Unmetered, Unpriced, Upgrade,
};
use crate::config::path::Path;
use crate::config::units::{Fraction, Size, Span, Whole};
use crate::{
    govern::settings as govern, proxy::settings as proxy, supervise::settings as supervise,
};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Bounds of several rooms.
pub(super) struct Bounds {
    pub(super) connections_max: usize,
    pub(super) connections_per_client_max: usize,
    pub(super) header_bytes_max: usize,
    pub(super) client_header: Duration,
    pub(super) keepalive: Duration,
    pub(super) drain: Duration,
    pub(super) idle_close_delay: Duration,
    pub(super) timeouts: proxy::Timeouts,
    pub(super) retry_budget: f64,
    pub(super) govern: govern::Settings,
}

/// Reads them all.
pub(super) fn bounds(file: &File, check: &mut Check<'_>) -> Bounds {
    let (no_limits, no_timeouts) = (Limits::default(), Timeouts::default());
    let limits = file.limits.as_ref().unwrap_or(&no_limits);
    let timeouts = file.timeouts.as_ref().unwrap_or(&no_timeouts);
    let limit = check.key("limits");
    let timeout = check.key("timeouts");
    let mut positive = |span, key: &str, seconds| {
        self::positive(span, &timeout.key(key), check).unwrap_or(Duration::from_secs(seconds))
    };
    let client_header = positive(timeouts.client_header, "client_header", 10);
    let keepalive = positive(timeouts.keepalive, "keepalive", 75);
    let no_queue = Queue::default();
    let queue = limits.queue.as_ref().unwrap_or(&no_queue);
    let any =
        |span: Option<Span>, seconds| span.map_or(Duration::from_secs(seconds), |span| span.0);
    let (drain, idle_close_delay) = (
        any(timeouts.drain, 3600),
        any(timeouts.idle_close_delay, 10),
    );
    let timeouts = proxy::Timeouts {
        client_body: positive(timeouts.client_body, "client_body", 60),
        connect: positive(timeouts.connect, "connect", 5),
        first_byte: positive(timeouts.first_byte, "first_byte", 300),
        idle: positive(timeouts.idle, "idle", 120),
        total: any(timeouts.total, 0),
        heartbeat: any(timeouts.heartbeat, 0),
    };
    let mut size = |size: Option<Size>, key: &str, range: RangeInclusive<u64>, standard: usize| {
        let path = limit.key(key);
        self::size(size, &path, range, check).unwrap_or(standard)
    };
    // Pingora reads no headers beyond 1 MiB.
    let header_bytes_max = size(
        limits.header_bytes,
        "header_bytes",
        1 << 10..=1 << 20,
        64 << 10,
    );
    let body_bytes_max = size(limits.body_bytes, "body_bytes", 1..=1 << 40, 32 << 20);
    let buffered_bytes_max = size(
        limits.buffered_bytes,
        "buffered_bytes",
        1..=1 << 50,
        1 << 30,
    );
    Bounds {
        connections_max: count(limits.connections, 10_000),
        connections_per_client_max: count(limits.connections_per_client, 2_000),
        header_bytes_max,
        client_header,
        keepalive,
        drain,
        idle_close_delay,
        timeouts,
        retry_budget: retry_budget(limits.retry_budget, &limit.key("retry_budget"), check),
        govern: govern::Settings {
            rate_limit: rate_limit(file.rate_limit.as_ref(), check),
            in_flight_max: count(limits.in_flight, 10_000),
            in_flight_tokens_max: limits.in_flight_tokens.map_or(0, |max| max.0),
            per_address: allowance(
                limits.per_address.as_ref(),
                &limit.key("per_address"),
                check,
            ),
            cached_tokens_count: !matches!(limits.cached_tokens, Some(CachedTokens::Ignore)),
            unpriced: match limits.unpriced {
                None | Some(Unpriced::Refuse) => govern::Unpriced::Refuse,
                Some(Unpriced::Allow) => govern::Unpriced::Allow,
            },
            unmetered: match limits.unmetered {
                None | Some(Unmetered::Refuse) => govern::Unmetered::Refuse,
                Some(Unmetered::Allow) => govern::Unmetered::Allow,
            },
            queue: govern::Queue {
                size: count(queue.size, 1000),
                timeout: any(queue.timeout, 10),
            },
            routes: terms(file, check),
            drains_max: count(limits.drains, 1000),
            body_bytes_max,
            buffered_bytes_max,
            teams: teams::teams(file, check),
        },
    }
}

/// Rules of an upgrade.
pub(super) fn upgrade(file: &File, check: &mut Check<'_>) -> supervise::Settings {
    let path = check.key("upgrade");
    let nothing = Upgrade::default();
    let upgrade = file.upgrade.as_ref().unwrap_or(&nothing);
    let ready = positive(upgrade.ready, &path.key("ready"), check);
    let generations = upgrade.generations.map_or(8, |generations| generations.0);
    if !(2..=64).contains(&generations) {
        let path = path.key("generations");
        check.findings.wrong(&path, "a number from 2 to 64");
    }
    let probation = upgrade.probation.map(|span| span.0);
    supervise::Settings {
        ready: ready.unwrap_or(Duration::from_secs(60)),
        probation: probation.unwrap_or(Duration::from_secs(3)),
        generations_max: usize::try_from(generations).unwrap_or(usize::MAX),
    }
}

fn count(count: Option<Whole>, standard: usize) -> usize {
    count.map_or(standard, |count| {
        usize::try_from(count.0).unwrap_or(usize::MAX)
    })
}

fn retry_budget(given: Option<Fraction>, path: &Path, check: &mut Check<'_>) -> f64 {
    const STANDARD: f64 = 0.2;
    let share = given.map_or(STANDARD, |share| share.0);
    if !(0.0..=1.0).contains(&share) {
        check
            .findings
            .wrong(path, "a share from 0 to 1, such as 0.2");
    }
    share
}

/// A duration above zero.
pub(super) fn positive(span: Option<Span>, path: &Path, check: &mut Check<'_>) -> Option<Duration> {
    let span = span?.0;
    if span.is_zero() {
        check
            .findings
            .wrong(path, "a duration above zero, such as 10s");
        return None;
    }
    Some(span)
}

/// Whole seconds up to `max`, or zero, which is `off`.
pub(super) fn seconds(
    span: Span,
    off: &str,
    max: Duration,
    path: &Path,
    check: &mut Check<'_>,
) -> Duration {
    let span = span.0;
    if !span.is_zero() && (span.subsec_nanos() > 0 || span > max) {
        let max = match max.as_secs() / 3600 {
            hours if hours % 24 == 0 => format!("{}d", hours / 24),
            hours => format!("{hours}h"),
        };
        let allowed = format!("0s ({off}), or whole seconds up to {max}");
        check.findings.wrong(path, allowed);
    }
    span
}

/// A size within a range of bytes.
pub(super) fn size(
    size: Option<Size>,
    path: &Path,
    range: RangeInclusive<u64>,
    check: &mut Check<'_>,
) -> Option<usize> {
    let bytes = size?.0;
    match usize::try_from(bytes) {
        Ok(fitting) if range.contains(&bytes) => Some(fitting),
        _ => {
            let (low, high) = range.into_inner();
            check.findings.wrong(
                path,
                format!("a size from {} to {}", words(low), words(high)),
            );
            None
        }
    }
}

fn words(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(bits, _)| bytes >> bits > 0) {
        Some((bits, unit)) => format!("{}{unit}", bytes >> bits),
        None => bytes.to_string(),
    }
}

fn rate_limit(limit: Option<&RateLimit>, check: &mut Check<'_>) -> Option<govern::RateLimit> {
    let limit = limit?;
    let path = check.key("rate_limit");
    // A burst is what comes back in so many seconds: a limit by the minute is meant to be coarser.
    let (per_second, burst_seconds, key) = match (limit.rate, limit.requests_per_minute) {
        (Some(rate), None) => (rate.0, 2.0, "rate"),
        (None, Some(rate)) => (rate.0 / 60.0, 10.0, "requests_per_minute"),
        (Some(_), Some(_)) => {
            let allowed = "either `rate` or `requests_per_minute`, not both";
            check
                .findings
                .wrong(&path.key("requests_per_minute"), allowed);
            return None;
        }
        (None, None) => {
            if !check.findings.covers(&path) {
                let found = "neither `rate` nor `requests_per_minute`";
                check.findings.wrong_because(&path, found, "one of them");
            }
            return None;
        }
    };
    if !RATES.contains(&per_second) {
        let allowed = "a number above 0: at least one request a day, at most a million a second";
        check.findings.wrong(&path.key(key), allowed);
        return None;
    }
    let burst = match limit.burst {
        Some(burst) => u32::try_from(burst.0).ok().filter(|burst| *burst > 0),
        None => Some((per_second * burst_seconds).ceil().max(1.0) as u32),
    };
    let Some(burst) = burst else {
        check
            .findings
            .wrong(&path.key("burst"), "a whole number from 1 to 4294967295");
        return None;
    };
    Some(govern::RateLimit { per_second, burst })
}

const RATES: RangeInclusive<f64> = 1.0 / 86_400.0..=1e6;

//! How the endpoints stand.

use crate::admin::api::nouns::{Upstream, Upstreams};
use crate::snapshot::Snapshot;
use crate::upstream::breaker::Look;
use std::time::{Duration, Instant};

/// All of them, as this process knows them.
pub(super) fn upstreams(snapshot: &Snapshot, now: Instant) -> Upstreams {
    let all = &snapshot.upstreams;
    let seconds = |time: Option<Duration>| time.map(|it| it.as_secs_f64());
    let told = all.endpoints().iter().map(|endpoint| {
        let known = endpoint.known(now);
        Upstream {
            provider: all.provider(endpoint.provider).name.to_string(),
            endpoint: endpoint.base.to_string(),
            breaker: known.breaker.as_str(),
            healthy: known.healthy,
            in_flight: known.in_flight as u64,
            failures: known.failures,
            first_byte_seconds: seconds(known.first_byte),
            paused_seconds: seconds(known.paused),
            resting_seconds: seconds(known.resting),
            unaccepted_seconds: seconds(known.unaccepted),
        }
    });
    Upstreams {
        upstreams: told.collect(),
    }
}

/// Endpoints that are not tried now, or after others, with the reason.
pub(in crate::app) fn unwell(snapshot: &Snapshot) -> Vec<String> {
    /// More of them nobody reads.
    const TOLD_MAX: usize = 50;
    let (now, all) = (Instant::now(), &snapshot.upstreams);
    let told = all.endpoints().iter().filter_map(|endpoint| {
        let known = endpoint.known(now);
        let why = match (known.healthy, known.breaker) {
            (Some(false), _) => "doesn't answer its health checks".to_owned(),
            (_, Look::Open) => format!("paused for {} s", known.paused?.as_secs() + 1),
            (_, Look::HalfOpen) => "being tried again".to_owned(),
            (_, Look::Closed) => match (known.unaccepted, known.resting) {
                (Some(left), _) => {
                    format!(
                        "doesn't accept its api_key; asked last for {} s",
                        left.as_secs() + 1
                    )
                }
                (None, left) => format!("has no time; asked last for {} s", left?.as_secs() + 1),
            },
        };
        let provider = &all.provider(endpoint.provider).name;
        Some(format!("{provider} {}: {why}", endpoint.base))
    });
    told.take(TOLD_MAX).collect()
}

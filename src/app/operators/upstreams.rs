//! How the endpoints stand.

use crate::admin::api::nouns::{Upstream, Upstreams};
use crate::snapshot::Snapshot;
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

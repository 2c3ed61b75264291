//! What a request will use, for whoever must know before it is sent. A part of `plan`.
//!
//! Short bodies are estimated where they are. Long ones, for which that takes milliseconds, go to
//! threads that serve nobody, a few at once; where too many wait already, a glance must do. While the
//! vocabulary is still being made ready, nothing is counted.

use super::plan::Plan;
use crate::snapshot::Snapshot;
use crate::tokens::calibration::Key;
use crate::tokens::count::{family, loaded};
use crate::tokens::estimate::{
    Estimate, INLINE_BYTES_MAX, admission, admission_at_a_glance, admission_uncounted,
};
use crate::tokens::prompt::Api;
use bytes::Bytes;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// Estimates the request for the first of its candidates. `None` where its body isn't held or its
/// interface isn't known. Dropping the future leaves an estimate that was begun to end by itself.
pub async fn weigh(snapshot: &Snapshot, plan: &Plan) -> Option<Estimate> {
    let api = Api::of(plan.surface.metered()?)?;
    let body = plan.body.plain()?;
    let first = plan.course.untried().first()?;
    let endpoint = snapshot.upstreams.endpoint(first.endpoint);
    let provider = snapshot.upstreams.provider(endpoint.provider);
    let model = first.model.as_deref().or(plan.model.as_deref());
    let key = Key {
        provider: &provider.name,
        model: model.unwrap_or_default(),
    };
    let estimate = match body.len() <= INLINE_BYTES_MAX {
        true => estimated(api, key.model, body),
        false => {
            let answers = plan.body.choices().unwrap_or(1).max(1);
            aside(api, key.model, body, answers).await
        }
    };
    Some(snapshot.calibration.admission(key, estimate))
}

/// A vocabulary that is still being made ready would have to be waited for.
fn estimated(api: Api, model: &str, body: &[u8]) -> Estimate {
    match loaded(family(model).encoding) {
        true => admission(api, model, body),
        false => admission_uncounted(api, model, body),
    }
}

/// Estimates that are made at once: half of the machine, one at least.
static SEATS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Semaphore::new((cores / 2).max(1))
});
/// Those that may wait for a seat. Each takes some milliseconds.
const WAITING_MAX: usize = 16;
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// One of those that wait.
struct Waiting;

impl Waiting {
    fn join() -> Option<Self> {
        let waiting = Self;
        (WAITING.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(waiting)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn aside(api: Api, model: &str, body: &Bytes, answers: u64) -> Estimate {
    let Some(waiting) = Waiting::join() else {
        return admission_at_a_glance(model, body, answers);
    };
    let seat = SEATS.acquire().await;
    drop(waiting);
    let (name, bytes) = (model.to_owned(), body.clone());
    let made = tokio::task::spawn_blocking(move || {
        let estimate = estimated(api, &name, &bytes);
        drop(seat);
        estimate
    });
    // A runtime that ends makes none.
    made.await
        .unwrap_or_else(|_| admission_at_a_glance(model, body, answers))
}

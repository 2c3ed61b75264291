//! Metrics of the calls that weir makes itself.

use super::names;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

/// What they count.
#[derive(Clone, Debug)]
pub struct Calls {
    hedges: IntCounterVec,
    batches: IntCounterVec,
    requests: HistogramVec,
}

/// What a second call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedged {
    /// Its answer was passed on.
    Won,
    /// The first one's answer came before.
    Lost,
    /// Neither had a good one.
    Failed,
}

/// What a call for several requests came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batched {
    /// Nobody had come beside the first.
    Single,
    /// Each request had its part of the answer.
    Divided,
    /// It was refused, and each request was.
    Shared,
    /// Its requests went on alone.
    Undone,
}

impl Calls {
    /// The same, told by this registry.
    pub(super) fn registered(registry: &Registry) -> Self {
        let calls = Self::default();
        for counter in [&calls.hedges, &calls.batches] {
            super::metrics::kept(registry, Ok(counter.clone()));
        }
        super::metrics::kept(registry, Ok(calls.requests.clone()));
        calls
    }

    /// A request had a second call; `model` is its route.
    pub fn hedged(&self, model: &str, hedged: Hedged) {
        let outcome = match hedged {
            Hedged::Won => "won",
            Hedged::Lost => "lost",
            Hedged::Failed => "failed",
        };
        self.hedges.with_label_values(&[model, outcome]).inc();
    }

    /// A call was made for so many requests; `model` is their route.
    pub fn batched(&self, model: &str, requests: usize, batched: Batched) {
        let outcome = match batched {
            Batched::Single => "single",
            Batched::Divided => "divided",
            Batched::Shared => "shared",
            Batched::Undone => "undone",
        };
        self.batches.with_label_values(&[model, outcome]).inc();
        let requests_of = self.requests.with_label_values(&[model]);
        requests_of.observe(requests as f64);
    }
}

impl Default for Calls {
    fn default() -> Self {
        const VALID: &str = "names and labels are constants that follow Prometheus' rules";
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect(VALID)
        };
        let requests = HistogramOpts::new(names::BATCH_REQUESTS, "Requests in such a call.")
            .buckets(names::BATCH_BUCKETS.to_vec());
        Self {
            hedges: counters(
                names::HEDGES,
                "Second calls of requests, by what came of them.",
                names::HEDGE_LABELS,
            ),
            batches: counters(
                names::BATCHES,
                "Calls for several requests, by what came of them.",
                names::BATCH_LABELS,
            ),
            requests: HistogramVec::new(requests, names::BATCH_REQUEST_LABELS).expect(VALID),
        }
    }
}

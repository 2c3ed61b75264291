//! Metrics of the calls that weir makes itself.

use super::names;
use prometheus::{IntCounterVec, Opts, Registry};

/// What they count.
#[derive(Clone, Debug)]
pub struct Calls {
    hedges: IntCounterVec,
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

impl Calls {
    /// The same, told by this registry.
    pub(super) fn registered(registry: &Registry) -> Self {
        let calls = Self::default();
        super::metrics::kept(registry, Ok(calls.hedges.clone()));
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
}

impl Default for Calls {
    fn default() -> Self {
        const VALID: &str = "names and labels are constants that follow Prometheus' rules";
        let hedges = Opts::new(
            names::HEDGES,
            "Second calls of requests, by what came of them.",
        );
        Self {
            hedges: IntCounterVec::new(hedges, names::HEDGE_LABELS).expect(VALID),
        }
    }
}

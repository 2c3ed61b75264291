//! Metrics of breakers and health: handles that whoever keeps them is given at build.

use super::names;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// What breakers count. By default they count for nobody.
#[derive(Clone, Debug)]
pub struct Breakers {
    opened: IntCounterVec,
    state: IntGaugeVec,
    healthy: IntGaugeVec,
}

impl Breakers {
    /// The same, told by this registry.
    pub(super) fn registered(registry: &Registry) -> Self {
        let breakers = Self::default();
        super::metrics::kept(registry, Ok(breakers.opened.clone()));
        super::metrics::kept(registry, Ok(breakers.state.clone()));
        super::metrics::kept(registry, Ok(breakers.healthy.clone()));
        breakers
    }

    /// A breaker has opened; that of the provider as a whole, where `endpoint` is empty.
    pub fn opened(&self, provider: &str, endpoint: &str) {
        self.opened.with_label_values(&[provider, endpoint]).inc();
    }

    /// Forgets which endpoints there are: they are told anew.
    pub fn none(&self) {
        self.state.reset();
        self.healthy.reset();
    }

    /// Says how an endpoint stands: its breaker (0 closed, 1 half open, 2 open), and whether it lives,
    /// where it is asked. URLs at one host share a name: the one that is most open is told.
    pub fn stands(&self, provider: &str, endpoint: &str, breaker: i64, healthy: Option<bool>) {
        let labels = &[provider, endpoint];
        let state = self.state.with_label_values(labels);
        state.set(state.get().max(breaker));
        if let Some(healthy) = healthy {
            self.healthy
                .with_label_values(labels)
                .set(i64::from(healthy));
        }
    }
}

impl Default for Breakers {
    fn default() -> Self {
        const VALID: &str = "names and labels are constants that follow Prometheus' rules";
        let labels = names::ENDPOINT_LABELS;
        let gauge = |name, help| IntGaugeVec::new(Opts::new(name, help), labels).expect(VALID);
        Self {
            opened: IntCounterVec::new(
                Opts::new(
                    names::BREAKER_OPENED,
                    "How often a breaker opened; without an endpoint, that of a whole provider.",
                ),
                labels,
            )
            .expect(VALID),
            state: gauge(
                names::BREAKER_STATE,
                "An endpoint's breaker: 0 closed, 1 half open, 2 open.",
            ),
            healthy: gauge(
                names::UPSTREAM_HEALTHY,
                "Whether an endpoint answers its health checks.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_urls_at_one_host_the_one_that_is_most_open_is_told() {
        let breakers = Breakers::default();
        let state = || breakers.state.with_label_values(&["p", "h"]).get();
        for breaker in [0, 2, 1] {
            breakers.stands("p", "h", breaker, None);
        }
        assert_eq!(state(), 2);
        breakers.none();
        breakers.stands("p", "h", 0, None);
        assert_eq!(state(), 0, "told anew");
    }
}

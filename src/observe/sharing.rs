//! Metrics of allowances that hosts share: handles that whoever keeps them is given at build.

use super::names;
use prometheus::{GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};
use std::time::Duration;

/// What sharing counts. By default it counts for nobody.
#[derive(Clone, Debug)]
pub struct Sharing {
    up: IntGauge,
    hosts: IntGauge,
    exchanges: IntCounterVec,
    seconds: Histogram,
    granted: GaugeVec,
    used: GaugeVec,
}

// === impl Sharing ===

impl Sharing {
    /// The same, told by this registry.
    pub(super) fn registered(registry: &Registry) -> Self {
        let sharing = Self::default();
        super::metrics::kept(registry, Ok(sharing.up.clone()));
        super::metrics::kept(registry, Ok(sharing.hosts.clone()));
        super::metrics::kept(registry, Ok(sharing.exchanges.clone()));
        super::metrics::kept(registry, Ok(sharing.seconds.clone()));
        super::metrics::kept(registry, Ok(sharing.granted.clone()));
        super::metrics::kept(registry, Ok(sharing.used.clone()));
        sharing
    }

    /// Whether the server answers.
    pub fn up(&self, up: bool) {
        self.up.set(i64::from(up));
    }

    /// How many hosts share.
    pub fn hosts(&self, hosts: i64) {
        self.hosts.set(hosts);
    }

    /// An exchange has ended: `ok`, or a word of a closed set for what went wrong.
    pub fn exchanged(&self, result: &str, took: Duration) {
        self.exchanges.with_label_values(&[result]).inc();
        if result == "ok" {
            self.seconds.observe(took.as_secs_f64());
        }
    }

    /// What this host was granted of all allowances of a kind and hasn't used, and what it has used.
    pub fn stands(&self, kind: &str, granted: f64, used: f64) {
        self.granted.with_label_values(&[kind]).set(granted);
        self.used.with_label_values(&[kind]).set(used);
    }
}

impl Default for Sharing {
    fn default() -> Self {
        const KIND: &[&str] = &["kind"];
        let valid = "names and labels are constants that follow Prometheus' rules";
        let gauge = |name, help| IntGauge::new(name, help).expect(valid);
        let gauges = |name, help| GaugeVec::new(Opts::new(name, help), KIND).expect(valid);
        let options = Opts::new(
            names::SHARED_EXCHANGES,
            "Round trips to the server that hosts share allowances through, by result.",
        );
        let seconds = HistogramOpts::new(
            names::SHARED_SECONDS,
            "How long such a round trip takes, seconds.",
        );
        Self {
            up: gauge(
                names::SHARED_UP,
                "1 while the server that hosts share allowances through answers.",
            ),
            hosts: gauge(names::SHARED_HOSTS, "Hosts that share allowances."),
            exchanges: IntCounterVec::new(options, &["result"]).expect(valid),
            seconds: Histogram::with_opts(seconds.buckets(names::DNS_BUCKETS.to_vec()))
                .expect(valid),
            granted: gauges(
                names::SHARED_STOCK,
                "Granted to this host and not used, of all shared allowances of a kind; budgets in US dollars.",
            ),
            used: gauges(
                names::SHARED_USED,
                "Used and held by this host, of all shared allowances of a kind; budgets in US dollars.",
            ),
        }
    }
}

//! Metrics of connections to upstreams: handles that whoever dials is given at build.

use super::names;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
};
use std::time::Duration;

/// What dialling counts. By default it counts for nobody.
#[derive(Clone, Debug)]
pub struct Pool {
    requests: IntCounterVec,
    handshakes: IntCounterVec,
    dials: IntCounterVec,
    seconds: HistogramVec,
    ahead: IntCounterVec,
    open: IntGaugeVec,
}

/// One of the steps to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// TCP, with an endpoint or a proxy.
    Tcp,
    /// TLS with an endpoint.
    Tls,
    /// TLS with a proxy.
    ProxyTls,
    /// CONNECT or SOCKS, to its good end.
    Tunnel,
}

// === impl Pool ===

impl Pool {
    /// The same, told by this registry.
    pub(super) fn registered(registry: &Registry) -> Self {
        let pool = Self::default();
        let counters = [&pool.requests, &pool.handshakes, &pool.dials, &pool.ahead];
        for counter in counters {
            super::metrics::kept(registry, Ok(counter.clone()));
        }
        super::metrics::kept(registry, Ok(pool.seconds.clone()));
        super::metrics::kept(registry, Ok(pool.open.clone()));
        pool
    }

    /// A request has a connection. `road` is one of a closed set.
    pub fn carried(&self, road: &str, reused: bool) {
        let reused = if reused { "true" } else { "false" };
        self.requests.with_label_values(&[road, reused]).inc();
    }

    /// A connection lives.
    pub fn opened(&self, road: &str) {
        self.open.with_label_values(&[road]).inc();
    }

    /// It has ended.
    pub fn closed(&self, road: &str) {
        self.open.with_label_values(&[road]).dec();
    }

    /// A handshake was completed.
    pub fn handshake(&self, handshake: Handshake) {
        self.handshakes
            .with_label_values(&[handshake.as_str()])
            .inc();
    }

    /// A dial has ended: `ok`, or the word of its error.
    pub fn dialled(&self, road: &str, outcome: &str, took: Duration) {
        self.dials.with_label_values(&[road, outcome]).inc();
        if outcome == "ok" {
            let seconds: Histogram = self.seconds.with_label_values(&[road]);
            seconds.observe(took.as_secs_f64());
        }
    }

    /// A connection was made ahead, or couldn't be.
    pub fn ahead_made(&self, made: bool) {
        let outcome = if made { "made" } else { "failed" };
        self.ahead.with_label_values(&[outcome]).inc();
    }

    /// A request has taken a connection that was made ahead.
    pub fn ahead_taken(&self) {
        self.ahead.with_label_values(&["used"]).inc();
    }
}

impl Default for Pool {
    fn default() -> Self {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
                .expect("names and labels are constants that follow Prometheus' rules")
        };
        let seconds = HistogramOpts::new(
            names::POOL_DIAL_SECONDS,
            "From nothing to a connection or tunnel, without TLS with the upstream.",
        )
        .buckets(names::DIAL_BUCKETS.to_vec());
        Self {
            requests: counters(
                names::POOL_REQUESTS,
                "Requests that were given a connection to an upstream, by whether it was there already.",
                &["road", "reused"],
            ),
            handshakes: counters(
                names::POOL_HANDSHAKES,
                "Handshakes that were completed on the way to upstreams.",
                &["kind"],
            ),
            dials: counters(
                names::POOL_DIALS,
                "Attempts to connect to an upstream, by how they ended.",
                &["road", "outcome"],
            ),
            seconds: HistogramVec::new(seconds, &["road"])
                .expect("names and labels are constants that follow Prometheus' rules"),
            ahead: counters(
                names::POOL_AHEAD,
                "Connections that were made ahead of requests.",
                &["outcome"],
            ),
            open: IntGaugeVec::new(
                Opts::new(names::POOL_CONNECTIONS, "Open connections to upstreams."),
                &["road"],
            )
            .expect("names and labels are constants that follow Prometheus' rules"),
        }
    }
}

// === impl Handshake ===

impl Handshake {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::ProxyTls => "proxy_tls",
            Self::Tunnel => "tunnel",
        }
    }
}

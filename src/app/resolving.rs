//! The resolver as an operator sees it: its metrics, and its answers to `weir dns`.

use super::question::{DnsAnswer, DnsName, DnsServer};
use crate::observe::Metrics;
use crate::observe::names;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts};
use std::sync::Arc;
use std::time::Duration;
use weir_dns::{Lookup, Observer, Query, Resolver, Tally};

/// Tells metrics of a resolver's queries, and counts its lookups.
#[derive(Debug)]
pub(super) struct Watch {
    lookups: Arc<Tally>,
    queries: IntCounterVec,
    seconds: prometheus::HistogramVec,
}

impl Watch {
    /// Registers what it counts. To be made once for these metrics.
    pub(super) fn new(metrics: &Metrics) -> Self {
        let lookups = Arc::<Tally>::default();
        metrics.add(Box::new(Lookups::new(Arc::clone(&lookups))));
        Self {
            lookups,
            queries: metrics.dns_queries.clone(),
            seconds: metrics.dns_seconds.clone(),
        }
    }
}

impl Observer for Watch {
    fn lookup(&self, lookup: Lookup) {
        self.lookups.lookup(lookup);
    }

    fn query(&self, query: &Query) {
        // Servers come from the configuration or from resolv.conf.
        let server = query.server.to_string();
        self.queries
            .with_label_values(&[&server, query.end.as_str()])
            .inc();
        self.seconds
            .with_label_values(&[&server])
            .observe(query.took.as_secs_f64());
    }
}

/// The lookups as a metric that is read when somebody asks: threads count them apart.
struct Lookups {
    tally: Arc<Tally>,
    counters: IntCounterVec,
}

impl Lookups {
    fn new(tally: Arc<Tally>) -> Self {
        let options = Opts::new(names::DNS_LOOKUPS, "Lookups of names by how they ended.");
        let counters = IntCounterVec::new(options, &["result"])
            .expect("names and labels are constants that follow Prometheus' rules");
        Self { tally, counters }
    }
}

impl Collector for Lookups {
    fn desc(&self) -> Vec<&Desc> {
        self.counters.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let read = Self::new(Arc::clone(&self.tally));
        for lookup in Lookup::ALL {
            let count = self.tally.lookups(lookup);
            read.counters
                .with_label_values(&[lookup.as_str()])
                .inc_by(count);
        }
        read.counters.collect()
    }
}

/// All that the resolver remembers, and how its servers do.
pub(super) fn dump(resolver: &Resolver) -> DnsAnswer {
    let names = resolver.dump().into_iter().map(|it| DnsName {
        name: it.name,
        addresses: it.addresses,
        source: it.source.as_str().to_owned(),
        fresh_seconds: seconds(it.fresh),
        stale_seconds: seconds(it.stale),
        age_seconds: seconds(it.age),
        idle_seconds: seconds(it.idle),
        missing: it.is_missing,
        failures: it.failures,
        error: it.last_error,
    });
    let servers = resolver.servers().into_iter().map(|it| DnsServer {
        address: it.address,
        queries: it.queries,
        failures: it.failures,
        latency_ms: it.latency.map(millis),
        silent: it.is_dead,
    });
    DnsAnswer {
        names: names.collect(),
        servers: servers.collect(),
    }
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}

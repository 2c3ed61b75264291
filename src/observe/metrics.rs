//! The metrics of `/metrics`.

use super::access::{Record, Usage};
use super::books::Books;
use super::breakers::Breakers;
use super::calls::Calls;
use super::names;
use super::pool::Pool;
use prometheus::{
    CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

/// All metrics, registered in a registry of their own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    tokens: IntCounterVec,
    cost: CounterVec,
    budget_used: GaugeVec,
    budget_warnings: IntCounterVec,
    latency: HistogramVec,
    first_token: HistogramVec,
    inter_token: HistogramVec,
    upstream_errors: IntCounterVec,
    overhead: prometheus::Histogram,
    reloads: IntCounterVec,
    in_flight: IntGauge,
    queue_depth: IntGauge,
    upstream_queue_depth: IntGaugeVec,
    upstream_in_flight: IntGaugeVec,
    /// How long requests waited for a place, by provider.
    pub queue_wait: HistogramVec,
    buffered_bytes: IntGauge,
    streams: IntGauge,
    drains: IntGauge,
    accounts_homeless: IntGauge,
    connections_refused: IntCounterVec,
    auth_failures: IntCounterVec,
    certificate_days: GaugeVec,
    /// Open client connections; the accept loop keeps it.
    pub connections: IntGauge,
    /// Access log records that were lost.
    pub access_log_dropped: IntCounter,
    /// Requests that weren't tried again because there were too many retries lately.
    pub retries_denied: IntCounter,
    /// Queries to DNS servers, by server and result.
    pub dns_queries: IntCounterVec,
    /// How long they took, by server.
    pub dns_seconds: HistogramVec,
    /// Connections to upstreams; whoever dials is given it.
    pub pool: Pool,
    /// The ledger; whoever keeps it is given it.
    pub books: Books,
    /// Breakers and health; whoever keeps them is given it.
    pub breakers: Breakers,
    /// Calls that weir makes itself.
    pub calls: Calls,
}

/// Gauges that are read when somebody asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Requests in flight.
    pub in_flight: usize,
    /// Requests that wait for a limit to let them in.
    pub waiting: usize,
    /// Bytes held in request buffers.
    pub buffered_bytes: usize,
    /// Open streams of events.
    pub streams: usize,
    /// Answers that are read on after their clients have left.
    pub drains: usize,
    /// Accounts of limits and budgets that found no room.
    pub accounts_homeless: usize,
}

impl Metrics {
    /// Registers all metrics.
    pub fn new() -> Self {
        let registry = Registry::new();
        let build_info = kept(
            &registry,
            IntGaugeVec::new(
                Opts::new(names::BUILD_INFO, "Always 1; the version is a label."),
                &["version"],
            ),
        );
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        let reloads = counters(
            &registry,
            names::RELOADS,
            "Reloads of the configuration by result.",
            &["result"],
        );
        for result in ["ok", "refused"] {
            reloads.with_label_values(&[result]).reset();
        }
        let auth_failures = counters(
            &registry,
            names::AUTH_FAILURES,
            "Requests that showed no good key, by reason.",
            &["reason"],
        );
        for reason in ["missing_key", "invalid_key", "expired_key"] {
            auth_failures.with_label_values(&[reason]).reset();
        }
        Self {
            requests: counters(
                &registry,
                names::REQUESTS,
                "Requests by outcome.",
                names::REQUEST_LABELS,
            ),
            tokens: counters(
                &registry,
                names::TOKENS,
                "Tokens by kind and by who counted them.",
                names::TOKEN_LABELS,
            ),
            cost: kept(
                &registry,
                CounterVec::new(
                    Opts::new(names::COST, "What requests cost, in US dollars."),
                    names::COST_LABELS,
                ),
            ),
            budget_used: kept(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        names::BUDGET_USED,
                        "The share of a budget that is spent in the current period.",
                    ),
                    names::BUDGET_LABELS,
                ),
            ),
            budget_warnings: counters(
                &registry,
                names::BUDGET_WARNINGS,
                "Warnings that a budget is nearly spent.",
                names::BUDGET_LABELS,
            ),
            latency: times(
                &registry,
                names::LATENCY,
                "From arrival to the answer's last byte.",
                names::TIME_BUCKETS,
            ),
            first_token: times(
                &registry,
                names::FIRST_TOKEN,
                "From arrival to the first byte of the answer's body.",
                names::TIME_BUCKETS,
            ),
            inter_token: times(
                &registry,
                names::INTER_TOKEN,
                "Mean gap between the tokens of a stream.",
                names::GAP_BUCKETS,
            ),
            upstream_errors: counters(
                &registry,
                names::UPSTREAM_ERRORS,
                "Failed tries at upstreams by what went wrong.",
                names::ERROR_LABELS,
            ),
            overhead: kept(
                &registry,
                prometheus::Histogram::with_opts(
                    HistogramOpts::new(
                        names::OVERHEAD,
                        "From a request's last byte to the choice of an upstream.",
                    )
                    .buckets(names::OVERHEAD_BUCKETS.to_vec()),
                ),
            ),
            reloads,
            in_flight: gauge(&registry, names::IN_FLIGHT, "Requests in flight."),
            queue_depth: gauge(
                &registry,
                names::QUEUE_DEPTH,
                "Requests that wait for a limit to let them in.",
            ),
            upstream_queue_depth: kept(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        names::UPSTREAM_QUEUE_DEPTH,
                        "Requests that wait for a place at a provider.",
                    ),
                    &["provider"],
                ),
            ),
            upstream_in_flight: kept(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        names::UPSTREAM_IN_FLIGHT,
                        "Requests that an endpoint carries.",
                    ),
                    &["provider", "endpoint"],
                ),
            ),
            queue_wait: kept(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        names::QUEUE_WAIT,
                        "How long requests waited for a place at a provider, those that had to.",
                    )
                    .buckets(names::TIME_BUCKETS.to_vec()),
                    &["provider"],
                ),
            ),
            buffered_bytes: gauge(
                &registry,
                names::BUFFERED_BYTES,
                "Bytes held in request buffers.",
            ),
            streams: gauge(&registry, names::STREAMS, "Open streams of events."),
            drains: gauge(
                &registry,
                names::DRAINS,
                "Answers that are read on after their clients have left.",
            ),
            accounts_homeless: gauge(
                &registry,
                names::ACCOUNTS_HOMELESS,
                "Accounts of limits and budgets for which there is no room.",
            ),
            connections_refused: counters(
                &registry,
                names::CONNECTIONS_REFUSED,
                "Connections that were closed before a request, by reason.",
                &["reason"],
            ),
            auth_failures,
            certificate_days: kept(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        names::CERTIFICATE_DAYS,
                        "Days until a listener's certificate expires.",
                    ),
                    &["listener", "name"],
                ),
            ),
            connections: gauge(&registry, names::CONNECTIONS, "Open client connections."),
            access_log_dropped: kept(
                &registry,
                IntCounter::new(
                    names::ACCESS_LOG_DROPPED,
                    "Access log records that were lost.",
                ),
            ),
            retries_denied: kept(
                &registry,
                IntCounter::new(
                    names::RETRIES_DENIED,
                    "Requests that weren't tried again because there were too many retries lately.",
                ),
            ),
            dns_queries: counters(
                &registry,
                names::DNS_QUERIES,
                "Queries to DNS servers by server and result.",
                &["server", "result"],
            ),
            dns_seconds: kept(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        names::DNS_SECONDS,
                        "How long a DNS server takes to answer.",
                    )
                    .buckets(names::DNS_BUCKETS.to_vec()),
                    &["server"],
                ),
            ),
            pool: Pool::registered(&registry),
            books: Books::registered(&registry),
            breakers: Breakers::registered(&registry),
            calls: Calls::registered(&registry),
            registry,
        }
    }

    /// Counts one request.
    pub(super) fn request(&self, record: &Record<'_>) {
        let mut status = itoa::Buffer::new();
        let (team, model) = (
            record.team.unwrap_or(names::OTHER),
            record.model_label.unwrap_or(names::OTHER),
        );
        let provider = record.provider.unwrap_or(names::OTHER);
        self.requests
            .with_label_values(&[team, model, provider, status.format(record.status)])
            .inc();
        if let Some(usage) = &record.usage {
            self.usage(usage, team, model, provider);
        }
        if let Some(cost) = record.cost {
            self.cost
                .with_label_values(&[team, model])
                .inc_by(cost.usd());
        }
        if record.provider.is_some() {
            let labels = &[model, provider];
            self.latency
                .with_label_values(labels)
                .observe(record.latency.as_secs_f64());
            if let Some(first) = record.first_byte {
                self.first_token
                    .with_label_values(labels)
                    .observe(first.as_secs_f64());
            }
            if let Some(gap) = record.inter_token() {
                self.inter_token
                    .with_label_values(labels)
                    .observe(gap.as_secs_f64());
            }
        }
        if let Some(overhead) = record.overhead {
            self.overhead.observe(overhead.as_secs_f64());
        }
    }

    fn usage(&self, usage: &Usage, team: &str, model: &str, provider: &str) {
        for (kind, tokens) in [
            ("input", usage.input),
            ("output", usage.output),
            ("cached", usage.cached),
            ("reasoning", usage.reasoning),
        ] {
            if tokens > 0 {
                self.tokens
                    .with_label_values(&[team, model, provider, kind, usage.source])
                    .inc_by(tokens);
            }
        }
    }

    /// Counts a warning of a budget; of the team's own, where there is no key.
    pub fn budget_warning(&self, team: &str, key: Option<&str>, period: &str) {
        let labels = &[team, key.unwrap_or_default(), period];
        self.budget_warnings.with_label_values(labels).inc();
    }

    /// Forgets which budgets there are: they are told anew.
    pub fn no_budgets(&self) {
        self.budget_used.reset();
    }

    /// Says how much of a budget is spent.
    pub fn budget(&self, team: &str, key: Option<&str>, period: &str, used: f64) {
        let labels = &[team, key.unwrap_or_default(), period];
        self.budget_used.with_label_values(labels).set(used);
    }

    /// Forgets which upstreams there are: they are told anew.
    pub fn no_upstreams(&self) {
        self.upstream_queue_depth.reset();
        self.upstream_in_flight.reset();
    }

    /// Says how many wait for a provider, and what each of its endpoints carries. Bare URLs may share names.
    pub fn upstream<'e>(
        &self,
        provider: &str,
        waiting: usize,
        endpoints: impl IntoIterator<Item = (&'e str, usize)>,
    ) {
        let depth = self.upstream_queue_depth.with_label_values(&[provider]);
        depth.add(gauge_value(waiting));
        for (endpoint, in_flight) in endpoints {
            let labels = &[provider, endpoint];
            let gauge = self.upstream_in_flight.with_label_values(labels);
            gauge.add(gauge_value(in_flight));
        }
    }

    /// Counts a failed try.
    pub fn upstream_error(&self, provider: &str, error_type: &str) {
        self.upstream_errors
            .with_label_values(&[provider, error_type])
            .inc();
    }

    /// Counts a reload.
    pub fn reload(&self, applied: bool) {
        let result = if applied { "ok" } else { "refused" };
        self.reloads.with_label_values(&[result]).inc();
    }

    /// Counts a connection that was closed before a request; `reason` is one of a closed set.
    pub fn connection_refused(&self, reason: &str) {
        self.connections_refused.with_label_values(&[reason]).inc();
    }

    /// Counts a request that showed no good key; `reason` is one of a closed set.
    pub fn auth_failure(&self, reason: &str) {
        self.auth_failures.with_label_values(&[reason]).inc();
    }

    /// Says which certificates there are now: listener, first name, days left.
    pub fn certificates<'c>(&self, all: impl IntoIterator<Item = (&'c str, &'c str, f64)>) {
        self.certificate_days.reset();
        for (listener, name, days) in all {
            self.certificate_days
                .with_label_values(&[listener, name])
                .set(days);
        }
    }

    /// Adds one that somebody else counts.
    pub fn add(&self, collector: Box<dyn Collector>) {
        self.registry
            .register(collector)
            .expect("each metric is registered once, in a registry of its own");
    }

    /// What a weir that shares allowances with other hosts counts. To be asked for once.
    pub fn sharing(&self) -> super::Sharing {
        super::Sharing::registered(&self.registry)
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self, now: Now) -> Vec<u8> {
        self.in_flight.set(gauge_value(now.in_flight));
        self.queue_depth.set(gauge_value(now.waiting));
        self.buffered_bytes.set(gauge_value(now.buffered_bytes));
        self.streams.set(gauge_value(now.streams));
        self.drains.set(gauge_value(now.drains));
        self.accounts_homeless
            .set(gauge_value(now.accounts_homeless));
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics could not be written");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn gauge_value(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    kept(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    kept(registry, IntGauge::new(name, help))
}

fn times(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    kept(registry, HistogramVec::new(options, names::TIME_LABELS))
}

pub(super) fn kept<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("names and labels are constants that follow Prometheus' rules");
    registry
        .register(Box::new(metric.clone()))
        .expect("each metric is registered once, in a registry of its own");
    metric
}

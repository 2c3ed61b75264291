//! Every metric and every label, once. Names follow Prometheus: a unit at the end, `_total` for counters.
//!
//! A label's value comes from the configuration or from a closed set, never from text that a client
//! chose: a model that no route names is [`OTHER`].

/// The value of a label whose true value a client chose, or that doesn't exist.
pub const OTHER: &str = "other";

/// Requests by outcome.
pub const REQUESTS: &str = "llm_requests_total";
/// Tokens by kind and by who counted them.
pub const TOKENS: &str = "llm_token_usage_total";
/// What requests cost, in US dollars.
pub const COST: &str = "llm_cost_usd_total";
/// The share of a budget that is spent in the current period.
pub const BUDGET_USED: &str = "weir_budget_used_ratio";
/// Warnings that a budget is nearly spent.
pub const BUDGET_WARNINGS: &str = "weir_budget_warnings_total";
/// From the request's arrival to the answer's last byte.
pub const LATENCY: &str = "llm_request_latency_seconds";
/// From the request's arrival to the first byte of the answer's body.
pub const FIRST_TOKEN: &str = "llm_time_to_first_token_seconds";
/// Mean gap between the tokens of a stream.
pub const INTER_TOKEN: &str = "llm_inter_token_seconds";
/// Failed tries by what went wrong.
pub const UPSTREAM_ERRORS: &str = "llm_upstream_error_total";
/// Requests that weren't tried again because there were too many retries lately.
pub const RETRIES_DENIED: &str = "weir_retries_denied_total";
/// How often a breaker opened.
pub const BREAKER_OPENED: &str = "weir_breaker_opened_total";
/// An endpoint's breaker.
pub const BREAKER_STATE: &str = "weir_breaker_state";
/// Whether an endpoint answers its health checks.
pub const UPSTREAM_HEALTHY: &str = "weir_upstream_healthy";
/// Requests that wait for a limit to let them in.
pub const QUEUE_DEPTH: &str = "weir_queue_depth";
/// Requests that wait for a place at a provider.
pub const UPSTREAM_QUEUE_DEPTH: &str = "weir_upstream_queue_depth";
/// Requests that an endpoint carries.
pub const UPSTREAM_IN_FLIGHT: &str = "weir_upstream_in_flight";
/// How long requests waited for a place at a provider, those that had to.
pub const QUEUE_WAIT: &str = "weir_queue_wait_seconds";
/// Requests in flight.
pub const IN_FLIGHT: &str = "weir_in_flight";
/// Bytes held in request buffers.
pub const BUFFERED_BYTES: &str = "weir_buffered_bytes";
/// Open client connections.
pub const CONNECTIONS: &str = "weir_connections";
/// Streams of events that are open.
pub const STREAMS: &str = "weir_streams";
/// Answers that are read on after their clients have left.
pub const DRAINS: &str = "weir_drains";
/// Accounts of limits and budgets for which there is no room: above 0 requests are refused.
pub const ACCOUNTS_HOMELESS: &str = "weir_accounts_homeless";
/// Connections of clients that were closed before a request, by reason.
pub const CONNECTIONS_REFUSED: &str = "weir_connections_refused_total";
/// Days until a certificate of a listener expires, by its first name; negative when it has.
pub const CERTIFICATE_DAYS: &str = "weir_certificate_expires_days";
/// weir's own share of a request: from its last byte to the choice of an upstream.
pub const OVERHEAD: &str = "weir_overhead_seconds";
/// Reloads by result.
pub const RELOADS: &str = "weir_config_reload_total";
/// Requests that showed no good key, by reason: `missing_key`, `invalid_key`, `expired_key`.
pub const AUTH_FAILURES: &str = "weir_auth_failures_total";
/// Always 1; the version is a label.
pub const BUILD_INFO: &str = "weir_build_info";
/// Access log records that were lost because the log's disk didn't keep up or failed.
pub const ACCESS_LOG_DROPPED: &str = "weir_access_log_dropped_total";
/// Lookups of names by result: hit, stale, miss, negative or failure.
pub const DNS_LOOKUPS: &str = "weir_dns_lookups_total";
/// Queries to DNS servers by server and result.
pub const DNS_QUERIES: &str = "weir_dns_queries_total";
/// How long a DNS server takes to answer.
pub const DNS_SECONDS: &str = "weir_dns_query_seconds";

/// Second calls of requests whose first one took long, by what came of them: `won`, `lost`, `failed`.
pub const HEDGES: &str = "weir_hedges_total";
/// Calls for several requests, by what came of them: `single`, `divided`, `shared`, `undone`.
pub const BATCHES: &str = "weir_batches_total";
/// Requests in such a call.
pub const BATCH_REQUESTS: &str = "weir_batch_requests";

/// Open connections to upstreams, idle ones too, by road.
pub const POOL_CONNECTIONS: &str = "weir_pool_connections";
/// Requests that were given a connection to an upstream, by road and whether it was reused.
pub const POOL_REQUESTS: &str = "weir_pool_requests_total";
/// Handshakes on the way to upstreams: `tcp`, `tls`, `proxy_tls`, `tunnel`.
pub const POOL_HANDSHAKES: &str = "weir_pool_handshakes_total";
/// Attempts to connect, by road and how they ended.
pub const POOL_DIALS: &str = "weir_pool_dials_total";
/// From nothing to a connection or tunnel.
pub const POOL_DIAL_SECONDS: &str = "weir_pool_dial_seconds";
/// Connections that were made ahead of requests, by what became of them.
pub const POOL_AHEAD: &str = "weir_pool_ahead_total";

/// 1 while the server that hosts share allowances through answers.
pub const SHARED_UP: &str = "weir_shared_state_up";
/// Hosts that share allowances.
pub const SHARED_HOSTS: &str = "weir_shared_state_hosts";
/// Round trips to that server by result.
pub const SHARED_EXCHANGES: &str = "weir_shared_state_exchanges_total";
/// How long such a round trip takes.
pub const SHARED_SECONDS: &str = "weir_shared_state_exchange_seconds";
/// Granted to this host and not used, by kind: `budget` (US dollars), `slots`, `rate`.
pub const SHARED_STOCK: &str = "weir_shared_state_stock";
/// Used and held by this host, by kind.
pub const SHARED_USED: &str = "weir_shared_state_used";

/// Settled requests in the ledger.
pub const LEDGER_APPENDED: &str = "weir_ledger_appended_total";
/// Those that it lost.
pub const LEDGER_DROPPED: &str = "weir_ledger_dropped_total";
/// Writes that failed, by place: `journal` or `store`.
pub const LEDGER_FAILURES: &str = "weir_ledger_failures_total";
/// Lines that were carried into the store.
pub const LEDGER_CARRIED: &str = "weir_ledger_carried_total";
/// Lines that can't be read, set aside.
pub const LEDGER_TORN: &str = "weir_ledger_torn_total";
/// Bytes that wait in memory for the disk.
pub const LEDGER_WAITING: &str = "weir_ledger_waiting_bytes";
/// Bytes on disk that wait for the store.
pub const LEDGER_UNCARRIED: &str = "weir_ledger_uncarried_bytes";
/// How long ago the store had everything.
pub const LEDGER_LAG: &str = "weir_ledger_lag_seconds";

/// Labels of [`REQUESTS`].
pub const REQUEST_LABELS: &[&str] = &["team", "model", "provider", "status"];
/// Labels of [`TOKENS`].
pub const TOKEN_LABELS: &[&str] = &["team", "model", "provider", "kind", "source"];
/// Labels of [`COST`].
pub const COST_LABELS: &[&str] = &["team", "model"];
/// Labels of [`BUDGET_USED`] and [`BUDGET_WARNINGS`]; `key` is empty for a team's own budget.
pub const BUDGET_LABELS: &[&str] = &["team", "key", "period"];
/// Labels of [`HEDGES`].
pub const HEDGE_LABELS: &[&str] = &["model", "outcome"];
/// Labels of [`BATCHES`].
pub const BATCH_LABELS: &[&str] = &["model", "outcome"];
/// Labels of [`BATCH_REQUESTS`].
pub const BATCH_REQUEST_LABELS: &[&str] = &["model"];
/// Bounds of [`BATCH_REQUESTS`].
pub const BATCH_BUCKETS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0,
];
/// Labels of the histograms of a request.
pub const TIME_LABELS: &[&str] = &["model", "provider"];
/// Labels of what is known of an endpoint.
pub const ENDPOINT_LABELS: &[&str] = &["provider", "endpoint"];
/// Labels of [`UPSTREAM_ERRORS`].
pub const ERROR_LABELS: &[&str] = &["provider", "error_type"];

/// Bounds of [`LATENCY`] and [`FIRST_TOKEN`], seconds: OpenTelemetry's gen_ai advice, with finer
/// steps at the low end for embeddings.
pub const TIME_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    163.84, 327.68,
];
/// Bounds of [`INTER_TOKEN`], seconds.
pub const GAP_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5,
];
/// Bounds of [`DNS_SECONDS`], seconds.
pub const DNS_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];
/// Bounds of [`OVERHEAD`], seconds.
pub const OVERHEAD_BUCKETS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.05,
    0.1, 0.5,
];
/// Bounds of [`POOL_DIAL_SECONDS`], seconds: a LAN, a continent, a lost packet, a proxy that thinks.
pub const DIAL_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

//! The file exactly as it is written: every key, its meaning and its default.
//!
//! Nothing is required and nothing is concluded here; that is done by [`super::check`]. The
//! docstrings are the descriptions in `conf/schema.json`. Read by [`super::shape`].

use super::lists::{List, Map};
use super::units::{
    Flag, Fraction, Part, Scalar, Size, Span, Text, Whole, duration, scalar, words,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;

/// The configuration of weir.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Where clients connect. Default: `0.0.0.0:8080`.
    pub(super) listen: Option<List<ListenEntry>>,
    /// Short for one plaintext listener on all IPv4 addresses; instead of `listen`.
    pub(super) port: Option<Whole>,
    /// The listener for health, metrics and the admin API; `off` for none. Default:
    /// `127.0.0.1:9900`.
    pub(super) admin: Option<Admin>,
    /// Networks whose `X-Forwarded-For`, `X-Real-IP`, `X-Request-Id` and PROXY protocol are
    /// believed. Default: `[127.0.0.0/8, "::1/128"]`.
    pub(super) trusted_proxies: Option<List<Text>>,
    /// Worker threads; `auto` is one for each processor. Default: `auto`.
    pub(super) threads: Option<Threads>,
    /// Reload when the file changes. Default: `false`.
    pub(super) watch: Option<Flag>,
    /// Bounds of the host.
    pub(super) limits: Option<Limits>,
    /// Deadlines of connections and requests.
    pub(super) timeouts: Option<Timeouts>,
    /// How one generation of weir takes over from another.
    pub(super) upgrade: Option<Upgrade>,
    /// The proxy on the road to external hosts: `http://[user:password@]host:port`, the same with
    /// `https` (TLS to the proxy), `socks5` (names are resolved here) or `socks5h` (by the proxy), or
    /// a list of them: the first that works is used. Default: none.
    pub(super) proxy_url: Option<OneOrMore>,
    /// Which hosts are reached through the proxy.
    pub(super) egress: Option<Egress>,
    /// How names are resolved.
    pub(super) dns: Option<Dns>,
    /// Path prefixes, and the URL (or the provider's name) that serves each. Default: none.
    pub(super) target_map: Option<Map<Text>>,
    /// Models, by exact name or glob, and what serves each: a URL, another route's name (an alias),
    /// or a mapping. Default: none.
    pub(super) model_routes: Option<Map<Route>>,
    /// What happens to requests that no rule names.
    pub(super) routing: Option<Routing>,
    /// APIs that serve models. Default: none.
    pub(super) providers: Option<List<Provider>>,
    /// Edits of all requests and answers.
    pub(super) headers: Option<Headers>,
    /// Requests allowed for each client address. Default: no limit.
    pub(super) rate_limit: Option<RateLimit>,
    /// Who may use what; without it the proxy is open. Needs a `state_dir` that can be written. Default:
    /// none.
    pub(super) teams: Option<List<Team>>,
    /// What tokens cost, by model name or glob, or `PROVIDER/MODEL`; wins over `prices_file`. Default:
    /// `{}`.
    pub(super) prices: Option<Map<Price>>,
    /// A list of prices, as `conf/prices.yaml` is one. Default: that one, as of weir's release.
    pub(super) prices_file: Option<Text>,
    /// A Redis through which several hosts share limits and budgets: its URL,
    /// `redis://[[user]:password@]host[:port][/db]` or `rediss` for TLS (or `file:/path` of one), or a
    /// mapping with more. Default: none.
    pub(super) shared_state: Option<SharedState>,
    /// Short for `shared_state.on_down`.
    pub(super) on_shared_state_down: Option<OnDown>,
    /// How what each request used is kept; `off` for not at all. Default: `off`, but with `teams`
    /// `{store: sqlite}`.
    pub(super) usage: Option<Usage>,
    /// The access log and the program's own log.
    pub(super) logging: Option<Logging>,
    /// Distributed tracing.
    pub(super) tracing: Option<Tracing>,
    /// Folder for what must survive a restart. Default: `/var/lib/weir`.
    pub(super) state_dir: Option<Text>,
}

// === listeners ===

/// One entry of `listen`.
pub(super) enum ListenEntry {
    /// Only an address.
    Address(String),
    /// An address and more.
    Full(Box<Listener>),
}

/// A listener.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    /// `IP:PORT`, or `unix:/absolute/path`. Required.
    pub(super) address: Option<Text>,
    /// Certificates; without it the listener is plaintext.
    pub(super) tls: Option<ListenTls>,
    /// Accept HTTP/2 beside HTTP/1.1. Default: `true`.
    pub(super) h2: Option<Flag>,
    /// Each connection begins with the PROXY protocol (v1 or v2), from trusted proxies only.
    /// Default: `false`.
    pub(super) proxy_protocol: Option<Flag>,
    /// Connections that may wait to be accepted, 1 to 65535. Default: `4096`.
    pub(super) backlog: Option<Whole>,
    /// Silence after which TCP asks whether the client is there; `0s` = never. Default: `60s`.
    pub(super) keepalive: Option<Span>,
    /// Accept a connection only when its first byte is there. Default: `false`.
    pub(super) defer_accept: Option<Flag>,
    /// File mode of a Unix socket, in octal and quotes. Default: `"0660"`.
    pub(super) mode: Option<Text>,
    /// Owner of a Unix socket: `user` or `user:group`. Default: who runs weir.
    pub(super) owner: Option<Text>,
}

/// TLS of a listener; with `certificates`, `acme`, or both.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenTls {
    /// Picked by server name: exact, then wildcard; the first is the default. Default: `[]`.
    pub(super) certificates: Option<List<Certificate>>,
    /// A certificate that weir gets, and renews, by ACME. Default: none.
    pub(super) acme: Option<Acme>,
    /// Oldest version of TLS: `"1.2"` or `"1.3"`. Default: `"1.2"`.
    pub(super) min_version: Option<TlsVersion>,
    /// PEM file of the authorities of client certificates; needs `client_auth`. Default: none.
    pub(super) client_ca: Option<Text>,
    /// Whether clients show a certificate: `none`, `optional`, `required`. Default: `none`.
    pub(super) client_auth: Option<ClientAuth>,
    /// How long browsers may come back by `https` only (`Strict-Transport-Security`); `0s` = no such
    /// header. Default: `365d`.
    pub(super) hsts: Option<Span>,
}

/// A certificate and its key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    /// PEM file of the certificate chain. Required.
    pub(super) cert: Option<Text>,
    /// PEM file of the private key. Required.
    pub(super) key: Option<Text>,
}

/// A certificate that weir gets by ACME (RFC 8555), asked by tls-alpn-01 or http-01.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acme {
    /// URL of the ACME server's directory. Default: Let's Encrypt's,
    /// `https://acme-v02.api.letsencrypt.org/directory`.
    pub(super) directory: Option<Text>,
    /// Who is told about trouble with the account. Default: none.
    pub(super) email: Option<Text>,
    /// Names that the certificate is for, 1 to 100, no wildcards. Required.
    pub(super) domains: Option<List<Text>>,
    /// PEM file of the authorities that the ACME server is verified by. Default: the system's.
    pub(super) ca: Option<Text>,
}

/// Oldest version of TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsVersion {
    /// 1.2 and 1.3.
    Tls12,
    /// 1.3 alone.
    Tls13,
}

words! {
    /// Whether a client shows a certificate.
    ClientAuth {
        None = "none",
        Optional = "optional",
        Required = "required",
    }
}

/// `shared_state`: a URL, or a mapping.
pub(super) enum SharedState {
    /// A URL.
    Url(String),
    /// A mapping.
    Form(Box<SharedStateForm>),
}

/// How several hosts share limits and budgets.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SharedStateForm {
    /// Where the Redis is: `redis://[[user]:password@]host[:port][/db]`, `rediss` for TLS, or
    /// `file:/path` of such a URL. Required.
    pub(super) url: Option<Text>,
    /// What a host does when it can't reach it, once its leases are used up: `refuse`, or `local`: go
    /// on with an equal share of what was left. Default: `refuse`.
    pub(super) on_down: Option<OnDown>,
    /// Begins the name of each key there. Default: `weir`.
    pub(super) prefix: Option<Text>,
    /// How long a silent host keeps what it was granted and didn't use, 3s to 1h. Default: `15s`.
    pub(super) lease: Option<Span>,
}

words! {
    /// What a host does that can't reach the shared state.
    OnDown {
        Local = "local",
        Refuse = "refuse",
    }
}

/// `admin`: a listener or `off`.
pub(super) enum Admin {
    /// No admin listener.
    Off,
    /// With one.
    On(AdminListener),
}

/// The admin listener.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminListener {
    /// `IP:PORT`, or `unix:/absolute/path`. Default: `127.0.0.1:9900`.
    pub(super) address: Option<Text>,
    /// File mode of a Unix socket, in octal and quotes. Default: `"0660"`.
    pub(super) mode: Option<Text>,
    /// Owner of a Unix socket: `user` or `user:group`. Default: who runs weir.
    pub(super) owner: Option<Text>,
    /// Asked for as a bearer token; empty for none; may be `file:/path`. Default: none.
    pub(super) token: Option<Text>,
}

/// A number of threads.
#[derive(Clone, Copy)]
pub(super) enum Threads {
    /// As many as there are processors.
    Auto,
    /// This many.
    Count(u64),
}

// === bounds ===

/// Bounds of the host.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// Open client connections; 0 = no cap. Default: `10000`.
    pub(super) connections: Option<Whole>,
    /// Open connections of one address (IPv6: one /64) that is no trusted proxy; 0 = no cap.
    /// Default: `2000`.
    pub(super) connections_per_client: Option<Whole>,
    /// Request line and headers; 431 over it. Default: `64KiB`.
    pub(super) header_bytes: Option<Size>,
    /// A request's body, also decompressed; 413 over it. Default: `32MiB`.
    pub(super) body_bytes: Option<Size>,
    /// Bodies, and what slow readers haven't taken, of all requests together; 503 over it. Default: `1GiB`.
    pub(super) buffered_bytes: Option<Size>,
    /// Requests at once; 0 = no cap. Default: `10000`.
    pub(super) in_flight: Option<Whole>,
    /// Answers that are read on after their clients have left (`on_disconnect: drain`); past it
    /// they are cancelled; 0 = none is read on. Default: `1000`.
    pub(super) drains: Option<Whole>,
    /// Tokens of all requests at once, as estimated for each: prompt and longest answer; 0 = no cap.
    /// Default: `0`.
    pub(super) in_flight_tokens: Option<Whole>,
    /// Limits of each client address (IPv6: one /64), besides `rate_limit`. Default: none.
    pub(super) per_address: Option<TeamLimits>,
    /// Whether prompt tokens that came from a provider's cache count against tokens per minute.
    /// Default: `count`.
    pub(super) cached_tokens: Option<CachedTokens>,
    /// What becomes of requests under a budget that have no price: `refuse`, or `allow`, which serves
    /// them for nothing. Default: `refuse`.
    pub(super) unpriced: Option<Unpriced>,
    /// What becomes of requests under a budget or a limit of tokens that nobody can meter (WebSockets,
    /// answers that are made in the background, batches): `refuse`, or `allow`, which charges what was
    /// reserved for them. Default: `refuse`.
    pub(super) unmetered: Option<Unmetered>,
    /// Where requests wait for a limit, on routes with `on_limit: wait`.
    pub(super) queue: Option<Queue>,
    /// Share of a route's requests that may load a provider once more, 0 to 1, besides 10 in 10 s. Tries
    /// after one that reached nobody, or at another provider, aren't counted. Default: `0.2`.
    pub(super) retry_budget: Option<Fraction>,
}

words! {
    /// Whether tokens from a cache count.
    CachedTokens {
        Count = "count",
        Ignore = "ignore",
    }
}

words! {
    /// What becomes of what has no price.
    Unpriced {
        Refuse = "refuse",
        Allow = "allow",
    }
}

words! {
    /// What becomes of what can't be metered.
    Unmetered {
        Refuse = "refuse",
        Allow = "allow",
    }
}

/// Where requests wait for a limit.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Queue {
    /// Requests that may wait; 503 over it. Default: `1000`.
    pub(super) size: Option<Whole>,
    /// How long one may wait; 429 over it, at once where that can be told. Default: `10s`.
    pub(super) timeout: Option<Span>,
}

/// Deadlines of connections and requests.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Timeouts {
    /// For the handshake and the first request's headers together; for later ones from their first
    /// byte to the end of the headers. Default: `10s`.
    pub(super) client_header: Option<Span>,
    /// From the end of the headers to the end of the body. Default: `60s`.
    pub(super) client_body: Option<Span>,
    /// TCP, proxy and TLS to an upstream together. Default: `5s`.
    pub(super) connect: Option<Span>,
    /// From the sent request to the first byte of the answer. Default: `300s`.
    pub(super) first_byte: Option<Span>,
    /// Between two bytes of an answer. Default: `120s`.
    pub(super) idle: Option<Span>,
    /// The whole request; `0s` = no limit. Default: `0s`.
    pub(super) total: Option<Span>,
    /// A stream of events whose upstream is silent this long gets a comment line, so that what stands
    /// between keeps its connection; `0s` = none. Default: `0s`.
    pub(super) heartbeat: Option<Span>,
    /// How long a connection may be silent between two requests. Default: `75s`.
    pub(super) keepalive: Option<Span>,
    /// How long open requests may go on when weir stops or is replaced. Default: `1h`.
    pub(super) drain: Option<Span>,
    /// Time over which idle connections are closed, one by one, when weir is replaced; one that
    /// stops closes them at once. Default: `10s`.
    pub(super) idle_close_delay: Option<Span>,
}

/// How one generation of weir takes over from another.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Upgrade {
    /// By when a new generation must be ready. Default: `60s`.
    pub(super) ready: Option<Span>,
    /// How long it must then live beside the old one, before that one drains. Default: `3s`.
    pub(super) probation: Option<Span>,
    /// Generations that may live at once, 2 to 64; past it the oldest is ended. Default: `8`.
    pub(super) generations: Option<Whole>,
}

/// A token bucket for each client address.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimit {
    /// Requests per second; more than 0.
    pub(super) rate: Option<Fraction>,
    /// Requests at once after a pause; 1 or more. Default: two seconds' worth.
    pub(super) burst: Option<Whole>,
    /// Requests per minute; instead of `rate`.
    pub(super) requests_per_minute: Option<Fraction>,
}

// === the road ===

/// Which hosts are reached through the proxy. Patterns: `host`, `.suffix`, `*.suffix`, address,
/// network, `<local>` (names without a dot), each with or without `:port`; `*`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Egress {
    /// Reached directly, besides loopback, private and link-local addresses. Default: `[]`.
    pub(super) direct: Option<List<Text>>,
    /// Always through the proxy; wins over `direct`. Default: `[]`.
    pub(super) proxied: Option<List<Text>>,
    /// Take `HTTPS_PROXY` for `proxy_url`, unless the file has one, and the hosts of `NO_PROXY` for
    /// `direct`; in lower case too. Default: `false`.
    pub(super) from_env: Option<Flag>,
    /// Connections to upstreams are given up at this age, give or take a fifth, when they carry
    /// nothing; `0s` = never. Default: `10m`.
    pub(super) connection_max_age: Option<Span>,
    /// Upstreams that are connected to at the start, before a request asks for them; 0 = none.
    /// Default: `8`.
    pub(super) prewarm: Option<Whole>,
}

/// One text, or a list.
pub(super) enum OneOrMore {
    /// A text.
    One(Text),
    /// A list, in its order.
    More(List<Text>),
}

/// How names are resolved.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Dns {
    /// `IP` or `IP:PORT`; none means those of `/etc/resolv.conf`. Default: `[]`.
    pub(super) servers: Option<List<Text>>,
    /// An answer is kept at least this long. Default: `1s`.
    pub(super) min_ttl: Option<Span>,
    /// An answer is kept at most this long. Default: `5m`.
    pub(super) max_ttl: Option<Span>,
    /// How long "no such name" is kept. Default: `5s`.
    pub(super) negative_ttl: Option<Span>,
    /// How long an old answer may be used while the servers fail. Default: `1h`.
    pub(super) stale: Option<Span>,
    /// What one lookup may take. Default: `2s`.
    pub(super) timeout: Option<Span>,
    /// Domains that names with few dots are looked up below; `[]` for none. Default: those of
    /// `/etc/resolv.conf`.
    pub(super) search: Option<List<Text>>,
    /// Names with at least so many dots aren't looked up below `search`, 0 to 15. Default: that of
    /// `/etc/resolv.conf`, else `1`.
    pub(super) ndots: Option<Whole>,
}

// === routes and providers ===

/// One value of `model_routes`.
pub(super) enum Route {
    /// A URL, or the name of another route.
    Text(String),
    /// A mapping.
    Form(Box<RouteForm>),
}

/// A route of a model.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteForm {
    /// One base URL.
    pub(super) url: Option<Text>,
    /// Equal base URLs, used in turns.
    pub(super) urls: Option<List<Text>>,
    /// Providers that serve the model.
    pub(super) targets: Option<List<Target>>,
    /// How a target is chosen: `round_robin`, `random`, `least_loaded` (the better of two, by requests and
    /// first-byte time) or `hash`. Default: `round_robin`.
    pub(super) balance: Option<Balance>,
    /// What requests have in common that go to the same target; needs `balance: hash`.
    pub(super) hash: Option<Hash>,
    /// Models whose routes are tried, in order, when no target could answer. Their own fallbacks aren't.
    /// Default: `[]`.
    pub(super) fallback: Option<List<Text>>,
    /// Further tries after the first, 0 to 20. Default: `2`.
    pub(super) retries: Option<Whole>,
    /// What they follow: `connect` (no connection), `reset` (it broke before the answer's head), `timeout`
    /// (no first byte in time), `busy` (408, 409, 429, 503, 529), `5xx` (all others), `account` (401, 402,
    /// 403 for the provider's `api_key`). Default: all of them, but `reset`, `timeout` and `5xx` only where a
    /// second try does no harm.
    pub(super) retry_on: Option<List<RetryOn>>,
    /// Limits of all requests of the route together. Default: none.
    pub(super) limits: Option<TeamLimits>,
    /// What becomes of a request that a limit doesn't let in: `refuse`, or `wait` in `limits.queue`.
    /// Default: `refuse`.
    pub(super) on_limit: Option<OnLimit>,
    /// What of a request can't be said in a provider's dialect is dropped, and listed in `x-weir-dropped`;
    /// else such a request is refused. Default: `false`.
    pub(super) lenient: Option<Flag>,
    /// A second call for a short request (embeddings, rerank, moderations) whose first one takes long: to
    /// the next target, or to the same one where there is no other. The first good answer counts, the
    /// other call is given up. Default: none.
    pub(super) hedge: Option<Hedge>,
    /// Puts requests for one embedding each, which come within a few milliseconds and differ in nothing but
    /// their `input`, into one call. `batch: {}` takes the defaults. Default: none.
    pub(super) batch: Option<Batch>,
}

/// How many requests become one call.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch {
    /// How long the first of them waits for others, 1 ms to 1 s: the most that it costs a request that comes
    /// alone. Default: `3ms`.
    pub(super) window: Option<Span>,
    /// So many of them are sent without waiting longer, 2 to 2048. Default: `32`.
    pub(super) size: Option<Whole>,
    /// So many tokens, by weir's own count, are in one call at most; a request with more goes alone. Default:
    /// `8192`.
    pub(super) tokens: Option<Whole>,
}

/// When a second call is made, and how often.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Hedge {
    /// A duration, or `p50` to `p99`: as long as that many percent of the route's latest calls took, once
    /// it had 100 in the last 5 minutes. Default: `p95`.
    pub(super) after: Option<Text>,
    /// The share of the route's requests that may have a second call, never more. Default: `5%`.
    pub(super) max: Option<Part>,
}

words! {
    /// What went wrong with a try that another may follow.
    RetryOn {
        Connect = "connect",
        Reset = "reset",
        Timeout = "timeout",
        Busy = "busy",
        Error = "5xx",
        Account = "account",
    }
}

words! {
    /// What becomes of a request that a limit doesn't let in.
    OnLimit {
        Refuse = "refuse",
        Wait = "wait",
    }
}

/// One way to serve a route.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    /// A provider's name. Required.
    pub(super) provider: Option<Text>,
    /// The name that the upstream knows. Default: the client's.
    pub(super) model: Option<Text>,
    /// Share of requests relative to the other targets, 1 to 1000. Default: `1`.
    pub(super) weight: Option<Whole>,
}

words! {
    /// How a target is chosen.
    Balance {
        RoundRobin = "round_robin",
        Random = "random",
        LeastLoaded = "least_loaded",
        Hash = "hash",
    }
}

/// What requests have in common that go to the same target.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Hash {
    /// `prefix` (the prompt's beginning: the system's text and the first message), `user` (the body's
    /// `user`, `metadata.user_id` or `prompt_cache_key`), `key` (weir's; without teams, the address) or
    /// `header`. What isn't there is replaced by user, key, address. Default: `prefix`.
    pub(super) by: Option<HashBy>,
    /// The header's name; needs `by: header`.
    pub(super) header: Option<Text>,
    /// How much of the prompt counts, 1 to 1MiB. Default: `1KiB`.
    pub(super) prefix: Option<Size>,
    /// A target that carries more than so many times its share is passed over, 1 to 100. Default: `1.25`.
    pub(super) bound: Option<Fraction>,
}

words! {
    /// What requests have in common.
    HashBy {
        Prefix = "prefix",
        User = "user",
        Key = "key",
        Header = "header",
    }
}

/// What happens to requests that no rule names.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Routing {
    /// A provider's name, for models that no route names. Default: none, which answers 404.
    pub(super) default_provider: Option<Text>,
    /// What becomes of a request when all that could serve it is paused: `refuse` (503), or `try` the one
    /// that is to be asked again the soonest. Default: `refuse`.
    pub(super) all_open: Option<AllOpen>,
}

words! {
    /// What becomes of a request when all is paused.
    AllOpen {
        Refuse = "refuse",
        Try = "try",
    }
}

/// An API that serves models.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    /// Its name in routes, logs and metrics. Required.
    pub(super) name: Option<Text>,
    /// What it speaks; requests in another dialect are translated. Default: what its host is known to
    /// speak; where that isn't known, nothing is translated.
    pub(super) dialect: Option<Dialect>,
    /// What a server that speaks OpenAI's dialect differs in, by its name: `vllm`, `deepseek`, … Default:
    /// by its host, else `openai`.
    pub(super) quirks: Option<Text>,
    /// The version of its API: `api-version` of Azure, `anthropic-version` of Anthropic. Default: the one that
    /// weir was made for.
    pub(super) api_version: Option<Text>,
    /// Region of Bedrock (default: that of its host) or Vertex (default: `global`).
    pub(super) region: Option<Text>,
    /// Project of Vertex. Default: that of the service account.
    pub(super) project: Option<Text>,
    /// Path of the JSON key file of a Google service account, by which Vertex is used. Default: none.
    pub(super) service_account: Option<Text>,
    /// Keys of Amazon's, by which requests to Bedrock are signed. Default: none.
    pub(super) aws: Option<AwsKeys>,
    /// Where its API begins. Required, unless `urls` is given.
    pub(super) base_url: Option<Text>,
    /// Equal base URLs, used in turns; instead of `base_url`.
    pub(super) urls: Option<List<Text>>,
    /// Sent as bearer token; may be `file:/path`. Default: none, which passes the client's own on.
    pub(super) api_key: Option<Text>,
    /// Short for routes of these names (or globs) to this provider. Default: `[]`.
    pub(super) models: Option<List<Text>>,
    /// Edits of requests to this provider, after the general ones.
    pub(super) headers: Option<HeaderEdits>,
    /// Requests at once, at all its endpoints together; 0 = no cap. Default: three quarters of
    /// `limits.in_flight` where there are several providers, so that one that hangs leaves room for the
    /// others; else `0`.
    pub(super) max_in_flight: Option<Whole>,
    /// Requests at once at each of its endpoints, such as the batch slots of an engine; 0 = no cap.
    /// Default: `0`.
    pub(super) endpoint_max_in_flight: Option<Whole>,
    /// Where requests wait for a place at it.
    pub(super) queue: Option<PlaceQueue>,
    /// When an endpoint is paused that fails or is slow; `off` for never. Default: `{}`.
    pub(super) breaker: Option<Breaking>,
    /// Asks each endpoint whether it lives; one that doesn't isn't tried. Default: none.
    pub(super) health: Option<Health>,
    /// Time over which an endpoint that comes back gets its whole share again; `0s` = at once. Default:
    /// `10s`.
    pub(super) slow_start: Option<Span>,
    /// Each replaces the general one.
    pub(super) timeouts: Option<ProviderTimeouts>,
    /// The road: `auto`, `direct`, `proxy`, a proxy's URL, or a list of them: the first that works
    /// is used. Default: `auto`.
    pub(super) egress: Option<OneOrMore>,
    /// How its TLS is verified.
    pub(super) tls: Option<ProviderTls>,
    /// Whether streams are asked for usage (`stream_options`) that the client didn't ask for: `auto`
    /// unless the provider refuses it, `always`, `never`. Default: `auto`.
    pub(super) include_usage: Option<IncludeUsage>,
    /// What becomes of its answer when the client leaves: `cancel` closes it at once, `drain` reads
    /// it on for the usage at its end. Default: `cancel`.
    pub(super) on_disconnect: Option<OnDisconnect>,
    /// How long at most an answer is read on; needs `on_disconnect: drain`. Default: `10s`.
    pub(super) drain_timeout: Option<Span>,
}

/// Where requests wait for a place at a provider, in fair turns between teams.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaceQueue {
    /// Requests that may wait; 503 over it. Default: that of `limits.queue`; where `max_in_flight` has its
    /// default of several providers, at most an eighth of `limits.in_flight`.
    pub(super) size: Option<Whole>,
    /// How long one may wait; 503 over it, at once where that can be told. Default: that of
    /// `limits.queue`.
    pub(super) timeout: Option<Span>,
}

words! {
    /// What becomes of an answer whose client has left.
    OnDisconnect {
        Cancel = "cancel",
        Drain = "drain",
    }
}

words! {
    /// Whether streams are asked for usage.
    IncludeUsage {
        Auto = "auto",
        Always = "always",
        Never = "never",
    }
}

words! {
    /// What a provider speaks.
    Dialect {
        Openai = "openai",
        Azure = "azure",
        Anthropic = "anthropic",
        Gemini = "gemini",
        Vertex = "vertex",
        Ollama = "ollama",
        Dashscope = "dashscope",
        Cohere = "cohere",
        Bedrock = "bedrock",
        Grpc = "grpc",
    }
}

/// Keys of Amazon's.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AwsKeys {
    /// Its id. Required.
    pub(super) access_key_id: Option<Text>,
    /// Its secret; may be `file:/path`. Required.
    pub(super) secret_access_key: Option<Text>,
    /// Of temporary keys; may be `file:/path`. Default: none.
    pub(super) session_token: Option<Text>,
}

/// `breaker`: rules or `off`.
pub(super) enum Breaking {
    /// Nothing is paused.
    Off,
    /// By these rules.
    On(Breaker),
}

/// When an endpoint is paused: after `failures`, where they are at least `failure_rate` of all, and
/// likewise of slow answers.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Breaker {
    /// Failures, or slow answers, within the window; 1 or more. Default: `5`.
    pub(super) failures: Option<Whole>,
    /// Their share of all, 0 to 1. Default: `0.5`.
    pub(super) failure_rate: Option<Fraction>,
    /// An answer that takes longer to begin is slow; `0s` = none is. Default: `0s`.
    pub(super) slow: Option<Span>,
    /// The share of slow ones, 0 to 1. Default: `0.8`.
    pub(super) slow_rate: Option<Fraction>,
    /// Time in which they are counted, 100ms to 1h. Default: `10s`.
    pub(super) window: Option<Span>,
    /// How long it is paused; twice as long each time that the probes fail, up to 8 times. Default: `15s`.
    pub(super) open: Option<Span>,
    /// Requests that then find out whether it is over; 1 to 100. Default: `1`.
    pub(super) probes: Option<Whole>,
}

/// Asks each endpoint whether it lives: any answer below 500 says so.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    /// What is asked for with GET; joined with the base URL as a request's path is. Of a `grpc` worker the service that its health service is asked for, such as `/llm.LLMService`; of any other path the worker as a whole. Default: `/v1/models`.
    pub(super) path: Option<Text>,
    /// Time between two questions, give or take a tenth. Default: `10s`.
    pub(super) interval: Option<Span>,
    /// What an answer may take, connection included. Default: `2s`.
    pub(super) timeout: Option<Span>,
    /// Good answers in a row after which it is tried again; 1 to 100. Default: `2`.
    pub(super) rise: Option<Whole>,
    /// Bad ones in a row after which it isn't tried; 1 to 100. Default: `3`.
    pub(super) fall: Option<Whole>,
}

/// A provider's own deadlines.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderTimeouts {
    /// TCP, proxy and TLS together. Default: the general one.
    pub(super) connect: Option<Span>,
    /// From the sent request to the first byte of the answer. Default: the general one.
    pub(super) first_byte: Option<Span>,
    /// Between two bytes of an answer. Default: the general one.
    pub(super) idle: Option<Span>,
}

/// How a provider's TLS is verified.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderTls {
    /// PEM file of authorities instead of the system's. Default: none.
    pub(super) ca: Option<Text>,
    /// PEM file of the client certificate; needs `client_key`. Default: none.
    pub(super) client_cert: Option<Text>,
    /// PEM file of the client certificate's key; needs `client_cert`. Default: none.
    pub(super) client_key: Option<Text>,
    /// Name to verify and to ask for. Default: the URL's host.
    pub(super) server_name: Option<Text>,
    /// `false` accepts any certificate. Default: `true`.
    pub(super) verify: Option<Flag>,
}

/// Edits of all requests and answers.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Headers {
    /// Edits of every request to an upstream.
    pub(super) request: Option<HeaderEdits>,
    /// Edits of every answer to a client.
    pub(super) response: Option<HeaderEdits>,
}

/// Headers to remove and to set, in this order.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderEdits {
    /// Names and values; values may use `{request_id}` `{client_ip}` `{client_cert}` `{team}`
    /// `{key}` `{model}` and be `file:/path`. Default: `{}`.
    pub(super) set: Option<Map<Text>>,
    /// Names. Default: `[]`.
    pub(super) remove: Option<List<Text>>,
}

// === teams and money ===

/// Who may use what.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Team {
    /// Its name in logs and metrics: 1 to 64 letters, digits and `. _ - :`. Required.
    pub(super) name: Option<Text>,
    /// Names or globs of the models that it may use, and of the paths of requests that name no model.
    /// Default: all.
    pub(super) models: Option<List<Text>>,
    /// Limits of all its keys together.
    pub(super) limits: Option<TeamLimits>,
    /// How urgent its requests are where they must wait: `high`, `normal` or `batch`. Default: `normal`.
    pub(super) priority: Option<Priority>,
    /// What `x-weir-priority` of a request may do: `lower` its priority, set `any`, or nothing (`off`).
    /// Default: `lower`.
    pub(super) priority_header: Option<PriorityHeader>,
    /// What it may spend: a mapping, or a list of them with one for each period. Default: no bound.
    pub(super) budget: Option<Budgets>,
    /// Its keys; others are made by `weir keys new`. Default: `[]`.
    pub(super) keys: Option<List<Key>>,
}

words! {
    /// How urgent requests are where they must wait.
    Priority {
        High = "high",
        Normal = "normal",
        Batch = "batch",
    }
}

words! {
    /// What a request may say of its own priority.
    PriorityHeader {
        Lower = "lower",
        Any = "any",
        Off = "off",
    }
}

/// Limits of a team, a key, a route or an address.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamLimits {
    /// Requests in a minute; 0 = no limit. Default: `0`.
    pub(super) requests_per_minute: Option<Whole>,
    /// Requests at once after a pause, of `requests_per_minute`. Default: all of a minute's.
    pub(super) requests_burst: Option<Whole>,
    /// Tokens in a minute; 0 = no limit. Default: `0`.
    pub(super) tokens_per_minute: Option<Whole>,
    /// Tokens at once after a pause, of `tokens_per_minute`; a larger request is never let in. Default:
    /// all of a minute's.
    pub(super) tokens_burst: Option<Whole>,
    /// Requests at once; 0 = no limit. Default: `0`.
    pub(super) in_flight: Option<Whole>,
    /// Estimated tokens at once; 0 = no limit. Default: `0`.
    pub(super) in_flight_tokens: Option<Whole>,
}

/// One budget, or several.
pub(super) enum Budgets {
    /// A mapping.
    One(Budget),
    /// A list of them.
    More(List<Budget>),
}

/// What may be spent.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    /// US dollars; more than 0. Required.
    pub(super) usd: Option<Fraction>,
    /// After which it begins anew, in UTC; `total` for never. Required.
    pub(super) per: Option<Period>,
    /// Shares of it at which a warning is given, more than 0 and less than 1. Default: `[0.8]`.
    pub(super) warn: Option<List<Fraction>>,
}

words! {
    /// A budget's period.
    Period {
        Day = "day",
        Week = "week",
        Month = "month",
        Year = "year",
        Total = "total",
    }
}

/// A key of a team, with `sha256` or `client_cert`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    /// Its name in logs, as a team's. Required.
    pub(super) name: Option<Text>,
    /// Hexadecimal SHA-256 of the key.
    pub(super) sha256: Option<Text>,
    /// Subject (such as `CN=ana,O=search`) or URI of a client certificate, instead of a key.
    pub(super) client_cert: Option<Text>,
    /// Day from which it isn't accepted, `YYYY-MM-DD` in UTC, or a moment as RFC 3339 has it. Default:
    /// never.
    pub(super) expires: Option<Text>,
    /// Names or globs of the models that it may use, of those of its team. Default: all of them.
    pub(super) models: Option<List<Text>>,
    /// Limits of this key, within those of its team.
    pub(super) limits: Option<TeamLimits>,
    /// How urgent its requests are where they must wait. Default: that of its team.
    pub(super) priority: Option<Priority>,
    /// What it may spend, within what its team may. Default: no bound.
    pub(super) budget: Option<Budgets>,
}

/// A model's price: US dollars per million tokens.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Price {
    /// Of the prompt. Default: `0`.
    pub(super) input: Option<Fraction>,
    /// Of the prompt's part that came from a cache. Default: as `input`.
    pub(super) cached: Option<Fraction>,
    /// Of the prompt's part that was written to a cache. Default: as `input`.
    pub(super) cache_write: Option<Fraction>,
    /// Of the answer. Default: `0`.
    pub(super) output: Option<Fraction>,
    /// Of the answer's part that was reasoning. Default: as `output`.
    pub(super) reasoning: Option<Fraction>,
    /// Of the prompt's part that is sound. Default: as `input`.
    pub(super) audio_input: Option<Fraction>,
    /// Of the answer's part that is sound. Default: as `output`.
    pub(super) audio_output: Option<Fraction>,
    /// Of the prompt's part that is pictures. Default: as `input`.
    pub(super) image_input: Option<Fraction>,
    /// Of a million characters that are read out, in US dollars. Default: `0`.
    pub(super) characters: Option<Fraction>,
    /// Of one image that is made, in US dollars. Default: `0`.
    pub(super) image: Option<Fraction>,
    /// Of one minute of sound, in US dollars. Default: `0`.
    pub(super) audio_minute: Option<Fraction>,
    /// The most tokens that the model answers with: what a request that doesn't say how long its answer
    /// may be reserves of a budget. Default: what is common.
    pub(super) max_output: Option<Whole>,
}

/// A list of prices.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceList {
    /// The day of which it is: `YYYY-MM-DD`. Required.
    pub(super) as_of: Option<Text>,
    /// As `prices` in the configuration. Required.
    pub(super) models: Option<Map<Price>>,
}

/// `usage`: a ledger or `off`.
pub(super) enum Usage {
    /// Nothing is kept.
    Off,
    /// What each request used.
    On(Ledger),
}

/// How usage is kept.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Ledger {
    /// `sqlite`, a file in `state_dir`; or a `postgres://` URL, for several hosts (`sslmode` and
    /// `sslrootcert` as in libpq); may be `file:/path`. Default: `sqlite`.
    pub(super) store: Option<Text>,
    /// How long single requests are kept, whole days; sums of days stay. Default: `90d`.
    pub(super) retain: Option<Span>,
    /// How often what was written is forced to the disk: what a power cut can lose; `never` leaves
    /// it to the system. Default: `1s`.
    pub(super) fsync: Option<Fsync>,
    /// A file of the journal is closed past this size. Default: `16MiB`.
    pub(super) segment_size: Option<Size>,
    /// A file of the journal is closed past this age. Default: `1h`.
    pub(super) segment_age: Option<Span>,
}

/// How often something is made durable.
#[derive(Clone, Copy)]
pub(super) enum Fsync {
    /// When the system does it.
    Never,
    /// After this long.
    Every(Span),
}

// === telling ===

/// The access log and the program's own log.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Logging {
    /// Least severity of the program's own log. Default: `info`.
    pub(super) level: Option<Level>,
    /// Shape of both logs. Default: `json`.
    pub(super) format: Option<Format>,
    /// The access log's file. Default: none, which is standard output.
    pub(super) file: Option<LogFile>,
    /// Log bodies too. Default: `false`. (`true` is not built yet)
    pub(super) bodies: Option<Flag>,
    /// Estimate each request's tokens before it is sent, and log that beside what it used. Default:
    /// `false`.
    pub(super) estimates: Option<Flag>,
}

words! {
    /// Severity of a log.
    Level {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
}

words! {
    /// Shape of a log.
    Format {
        Json = "json",
        Text = "text",
    }
}

/// A log file that is rotated by size.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogFile {
    /// Where it is. Required.
    pub(super) path: Option<Text>,
    /// Rotated past this size. Default: `100MB`.
    pub(super) max_size: Option<Size>,
    /// Rotated files that are kept. Default: `20`.
    pub(super) keep: Option<Whole>,
    /// Compress rotated files with gzip. Default: `true`.
    pub(super) compress: Option<Flag>,
}

/// Distributed tracing.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tracing {
    /// Where spans are sent. Default: none. (not built yet)
    pub(super) otlp_endpoint: Option<Text>,
    /// Share of requests that are traced, 0 to 1. Default: `0.01`.
    pub(super) sample: Option<Fraction>,
}

// === values with several forms ===

impl<'de> Deserialize<'de> for ListenEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrMapping {
            allowed: "an address such as 0.0.0.0:8080, or a mapping with one",
            text: |text| Some(Self::Address(text.to_owned())),
            mapping: |listener| Self::Full(Box::new(listener)),
        })
    }
}

impl<'de> Deserialize<'de> for Route {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrMapping {
            allowed: "a URL, the name of another route, or a mapping with url, urls or targets",
            text: |text| Some(Self::Text(text.to_owned())),
            mapping: |form| Self::Form(Box::new(form)),
        })
    }
}

impl<'de> Deserialize<'de> for Admin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrMapping {
            allowed: "off, or a mapping with address, mode, owner and token",
            text: |text| matches!(text, "off" | "false" | "no").then_some(Self::Off),
            mapping: Self::On,
        })
    }
}

impl<'de> Deserialize<'de> for Breaking {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrMapping {
            allowed: "off, or a mapping with failures, failure_rate, slow, slow_rate, window, open and probes",
            text: |text| matches!(text, "off" | "false" | "no").then_some(Self::Off),
            mapping: Self::On,
        })
    }
}

impl<'de> Deserialize<'de> for SharedState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrMapping {
            allowed: "a URL such as redis://127.0.0.1:6379, or a mapping with url",
            text: |text| Some(Self::Url(text.to_owned())),
            mapping: |form| Self::Form(Box::new(form)),
        })
    }
}

impl<'de> Deserialize<'de> for Usage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrMapping {
            allowed: "off, or a mapping with store, retain, fsync, segment_size and segment_age",
            text: |text| matches!(text, "off" | "false" | "no").then_some(Self::Off),
            mapping: Self::On,
        })
    }
}

impl<'de> Deserialize<'de> for Fsync {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(
            deserializer,
            "never, or a duration such as 1s",
            |scalar| match scalar {
                Scalar::Text("never") => Some(Self::Never),
                other => duration(other).map(|every| Self::Every(Span(every))),
            },
        )
    }
}

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrList)
    }
}

/// Reads [`OneOrMore`].
struct TextOrList;

impl<'de> Visitor<'de> for TextOrList {
    type Value = OneOrMore;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMore, E> {
        Ok(OneOrMore::One(Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<OneOrMore, A::Error> {
        List::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMore::More)
    }
}

impl<'de> Deserialize<'de> for Budgets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MappingOrList)
    }
}

/// Reads [`Budgets`].
struct MappingOrList;

impl<'de> Visitor<'de> for MappingOrList {
    type Value = Budgets;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping such as {usd: 500, per: month}, or a list of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Budgets, A::Error> {
        Budget::deserialize(MapAccessDeserializer::new(map)).map(Budgets::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Budgets, A::Error> {
        List::deserialize(SeqAccessDeserializer::new(seq)).map(Budgets::More)
    }
}

/// Reads `text` from a text (or from `false`), `mapping` from a mapping; the place within the
/// mapping isn't lost, as it would be with an untagged enum.
struct TextOrMapping<T, M> {
    allowed: &'static str,
    text: fn(&str) -> Option<T>,
    mapping: fn(M) -> T,
}

impl<'de, T, M: Deserialize<'de>> Visitor<'de> for TextOrMapping<T, M> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.allowed)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        match value {
            // Only `off` is read from it: the others have no use for the text.
            false => (self.text)("false").ok_or_else(|| E::custom(self.allowed)),
            true => Err(E::custom(self.allowed)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).ok_or_else(|| E::custom(self.allowed))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        M::deserialize(MapAccessDeserializer::new(map)).map(self.mapping)
    }
}

impl<'de> Deserialize<'de> for Threads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer, "auto, or a number from 1 to 1024", |scalar| {
            let count = match scalar {
                Scalar::Text("auto") => return Some(Self::Auto),
                Scalar::Text(text) => text.parse().ok()?,
                Scalar::Whole(count) => *count,
                _ => return None,
            };
            (1..=1024).contains(&count).then_some(Self::Count(count))
        })
    }
}

impl<'de> Deserialize<'de> for TlsVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer, "\"1.2\" or \"1.3\"", |scalar| match scalar {
            Scalar::Text("1.2") => Some(Self::Tls12),
            Scalar::Text("1.3") => Some(Self::Tls13),
            // Without quotes YAML reads a number.
            Scalar::Fraction(number) if *number == 1.2 => Some(Self::Tls12),
            Scalar::Fraction(number) if *number == 1.3 => Some(Self::Tls13),
            _ => None,
        })
    }
}

/// The schema of a value with several forms.
macro_rules! forms {
    ($($name:ident: |$generator:ident| $schema:expr;)*) => {$(
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

forms! {
    ListenEntry: |generator| json_schema!({
        "anyOf": [{ "type": "string" }, generator.subschema_for::<Listener>()]
    });
    Route: |generator| json_schema!({
        "anyOf": [{ "type": "string" }, generator.subschema_for::<RouteForm>()]
    });
    Admin: |generator| json_schema!({
        "anyOf": [{ "enum": ["off", false] }, generator.subschema_for::<AdminListener>()]
    });
    Breaking: |generator| json_schema!({
        "anyOf": [{ "enum": ["off", false] }, generator.subschema_for::<Breaker>()]
    });
    SharedState: |generator| json_schema!({
        "anyOf": [{ "type": "string" }, generator.subschema_for::<SharedStateForm>()]
    });
    Usage: |generator| json_schema!({
        "anyOf": [{ "enum": ["off", false] }, generator.subschema_for::<Ledger>()]
    });
    Fsync: |generator| json_schema!({
        "anyOf": [{ "const": "never" }, generator.subschema_for::<Span>()]
    });
    OneOrMore: |generator| json_schema!({
        "anyOf": [{ "type": "string" }, generator.subschema_for::<List<Text>>()]
    });
    Budgets: |generator| json_schema!({
        "anyOf": [
            generator.subschema_for::<Budget>(),
            generator.subschema_for::<List<Budget>>()
        ]
    });
    TlsVersion: |_generator| json_schema!({ "enum": ["1.2", "1.3", 1.2, 1.3] });
    Threads: |_generator| json_schema!({
        "anyOf": [
            { "const": "auto" },
            { "type": "integer", "minimum": 1, "maximum": 1024 },
            { "type": "string", "pattern": r"\$\{" }
        ]
    });
}

//! The configuration as operators write it: what loads, and what is told of what doesn't.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use weir::config::{Mistakes, Settings, from_env, load, parse, schema};
use weir::listen::tls::settings::ClientAuth;
use weir::route::settings::{Balance, ProviderIndex};
use weir::upstream::settings::Egress;

fn no_env(_: &str) -> Option<String> {
    None
}

fn read(text: &str) -> Result<Settings, Mistakes> {
    parse(text, "weir.yaml", &no_env)
}

#[track_caller]
fn settings(text: &str) -> Settings {
    read(text).unwrap_or_else(|mistakes| panic!("mistakes in a sound file:\n{mistakes}"))
}

/// What is told of a file, with one line a mistake.
#[track_caller]
fn told(text: &str) -> String {
    match read(text) {
        Ok(_) => panic!("no mistake was found in:\n{text}"),
        Err(mistakes) => mistakes.to_string(),
    }
}

#[track_caller]
fn tells(text: &str, mistake: &str) {
    assert_eq!(told(text), mistake, "for the file:\n{text}");
}

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conf")
        .join(name)
}

/// The configuration that users of go-llm-proxy already have.
const GO_LLM_PROXY: &str = r#"# proxy_url: "http://proxy.example.com:8080"
port: 8000
rate_limit: { rate: 5, burst: 10 }
target_map:
  "/chat/completions": "https://ark.cn-beijing.volces.com/api/v3"
  "/v1/search": "https://api.firecrawl.dev"
  "/embeddings": "https://open.bigmodel.cn/api/paas/v4"
  "/v1/embeddings": "http://10.236.50.39:10032"
model_routes:
  "gpt-4": "https://api.openai.com/v1"
  "claude-3-opus-20240229": "https://api.anthropic.com/v1"
  "embedding-2":
    urls: ["https://open.bigmodel.cn/api/paas/v3", "https://open.bigmodel.cn/api/paas/v4"]
"#;

// === what loads ===

#[test]
fn the_reference_loads_and_has_the_defaults() {
    let reference = load(&conf("weir.yaml"), &no_env).unwrap_or_else(|it| panic!("{it}"));
    assert_eq!(
        format!("{reference:#?}"),
        format!("{:#?}", settings("port: 8080"))
    );
}

#[test]
fn the_reference_names_every_key_of_the_schema() {
    let text = std::fs::read_to_string(conf("weir.yaml")).expect("conf/weir.yaml");
    let schema: serde_json::Value = serde_json::from_str(&schema()).expect("JSON");
    let mut keys = Vec::new();
    properties(&schema, &mut keys);
    assert!(keys.len() > 80, "the schema has {} keys", keys.len());
    // `url` is named beside `urls`, as are `rate` and `requests_per_minute`.
    let absent: Vec<_> = keys
        .iter()
        .filter(|key| !text.contains(&format!("{key}:")))
        .collect();
    assert!(absent.is_empty(), "missing in conf/weir.yaml: {absent:?}");
}

fn properties(schema: &serde_json::Value, keys: &mut Vec<String>) {
    match schema {
        serde_json::Value::Object(object) => {
            if let Some(serde_json::Value::Object(properties)) = object.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| properties_of(value, keys));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|it| properties_of(it, keys)),
        _ => {}
    }
}

fn properties_of(schema: &serde_json::Value, keys: &mut Vec<String>) {
    properties(schema, keys);
}

#[test]
fn the_reference_loads_with_its_examples_too() {
    let text = std::fs::read_to_string(conf("weir.yaml")).expect("conf/weir.yaml");
    let mut uncommented = String::new();
    for line in text.lines() {
        let example = line.trim_start().strip_prefix("# ").filter(|rest| {
            let word = rest.trim_start().trim_start_matches("- ").split(':').next();
            let key = word.unwrap_or_default();
            rest.contains(':')
                && key.starts_with(|first: char| first.is_ascii_lowercase() || "/{".contains(first))
                && key
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-/{".contains(&byte))
                && !rest.starts_with("yaml-language-server")
        });
        let indent = line.len() - line.trim_start().len();
        match example {
            Some(rest) => writeln!(uncommented, "{:indent$}{rest}", "").expect("a String"),
            None => writeln!(uncommented, "{line}").expect("a String"),
        }
    }
    // Keys of which the examples are another form, and keys that exclude each other.
    for line in [
        "providers: []",
        "model_routes: {}",
        "target_map: {}",
        "prices: {}",
        "port: 8080",
    ] {
        let at = uncommented.find(&format!("\n{line}")).expect(line) + 1;
        uncommented.replace_range(at..at + line.len(), "");
    }
    let env = |name: &str| (name == "OPENAI_API_KEY").then(|| "sk-1".to_owned());
    let mistakes = parse(&uncommented, "w", &env).expect_err("some keys aren't built");
    let other: Vec<String> = mistakes
        .0
        .iter()
        .map(ToString::to_string)
        .filter(|line| !line.contains("not built yet: "))
        // The examples name what only the reader has.
        .filter(|line| !line.contains("azure-east") && !line.contains("\"/etc/weir/tls/"))
        .collect();
    assert!(other.is_empty(), "{}\n{uncommented}", other.join("\n"));
    assert!(mistakes.to_string().contains("azure-east"), "{mistakes}");
}

#[test]
fn the_minimal_file_loads_with_a_key_and_without() {
    let env = |name: &str| (name == "OPENAI_API_KEY").then(|| "sk-1".to_owned());
    let settings = load(&conf("minimal.yaml"), &env).unwrap_or_else(|it| panic!("{it}"));
    assert_eq!(settings.route.default_provider, Some(ProviderIndex(0)));
    let key = settings.upstream.providers[0]
        .api_key
        .as_ref()
        .map(|key| key.expose().as_str());
    assert_eq!(key, Some("sk-1"));
    let settings = load(&conf("minimal.yaml"), &no_env).unwrap_or_else(|it| panic!("{it}"));
    assert_eq!(settings.upstream.providers[0].api_key, None);
}

#[test]
fn the_schema_in_conf_is_fresh() {
    let path = conf("schema.json");
    if std::env::var_os("WEIR_BLESS").is_some() {
        std::fs::write(&path, schema()).expect("conf/schema.json is written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == schema(),
        "conf/schema.json is old: run this test with WEIR_BLESS=1"
    );
}

#[test]
fn a_go_llm_proxy_file_works_unchanged() {
    let settings = settings(GO_LLM_PROXY);
    assert_eq!(settings.listen.listeners.len(), 1);
    assert_eq!(
        settings.listen.listeners[0].socket.address.to_string(),
        "0.0.0.0:8000"
    );
    let limit = settings.govern.rate_limit.expect("a rate limit");
    assert_eq!((limit.per_second, limit.burst), (5.0, 10));
    let providers = &settings.upstream.providers;
    let target = |index: ProviderIndex| providers[index.0].urls[0].to_string();
    let map: Vec<_> = settings
        .route
        .target_map
        .iter()
        .map(|(p, i)| (p.as_str(), target(*i)))
        .collect();
    assert_eq!(
        map,
        [
            (
                "/chat/completions",
                "https://ark.cn-beijing.volces.com/api/v3".to_owned()
            ),
            ("/v1/search", "https://api.firecrawl.dev".to_owned()),
            (
                "/embeddings",
                "https://open.bigmodel.cn/api/paas/v4".to_owned()
            ),
            ("/v1/embeddings", "http://10.236.50.39:10032".to_owned()),
        ]
    );
    let routes = &settings.route.models;
    assert_eq!(routes.len(), 3);
    assert_eq!(
        target(routes[0].targets[0].provider),
        "https://api.openai.com/v1"
    );
    let equal = &providers[routes[2].targets[0].provider.0];
    assert_eq!(equal.urls.len(), 2);
    assert_eq!(equal.name, "open.bigmodel.cn");
    assert_eq!(
        (routes[2].retries, routes[2].balance.clone()),
        (2, Balance::RoundRobin)
    );
    assert_eq!(providers[3].name, "10.236.50.39:10032");
}

#[test]
fn a_file_without_a_key_is_a_mistake() {
    const ALLOWED: &str = "; allowed: at least one key, such as `providers`, `model_routes` or \
                           `target_map`; see conf/weir.yaml";
    for text in ["", "\n", "# only a comment\n", "---\n", "\u{feff}"] {
        tells(text, &format!("weir.yaml: found an empty file{ALLOWED}"));
    }
    for text in ["{}", "null", "--- {}\n"] {
        tells(
            text,
            &format!("weir.yaml: found a file without any key{ALLOWED}"),
        );
    }
}

#[test]
fn what_a_file_does_not_name_has_the_defaults() {
    for text in [
        "port: 8080",
        "providers: []",
        "model_routes:\n",
        "{dns: {}}",
    ] {
        let settings = settings(text);
        assert_eq!(
            settings.listen.listeners[0].socket.address.to_string(),
            "0.0.0.0:8080"
        );
        assert!(settings.listen.listeners[0].h2);
        let admin = settings.admin.expect("an admin listener");
        assert_eq!(admin.socket.address.to_string(), "127.0.0.1:9900");
        assert!(admin.token.is_none());
        assert_eq!(settings.listen.connections_max, 10_000);
        assert_eq!(settings.listen.connections_per_client_max, 2_000);
        assert_eq!(settings.listen.header_bytes_max, 64 << 10);
        assert_eq!(settings.listen.client_header, Duration::from_secs(10));
        assert_eq!(settings.listen.keepalive, Duration::from_secs(75));
        assert_eq!(settings.listen.drain, Duration::from_secs(3600));
        assert_eq!(settings.listen.idle_close_delay, Duration::from_secs(10));
        assert_eq!(settings.listen.trusted, settings.proxy.trusted_proxies);
        assert_eq!(settings.listen.trusted.len(), 2);
        assert_eq!(settings.upgrade.ready, Duration::from_secs(60));
        assert_eq!(settings.upgrade.probation, Duration::from_secs(3));
        assert_eq!(settings.upgrade.generations_max, 8);
        assert_eq!(settings.govern.body_bytes_max, 32 << 20);
        assert_eq!(settings.govern.buffered_bytes_max, 1 << 30);
        assert_eq!(settings.govern.in_flight_max, 10_000);
        assert_eq!(settings.govern.drains_max, 1000);
        assert!(settings.govern.rate_limit.is_none());
        assert_eq!(settings.proxy.timeouts.first_byte, Duration::from_secs(300));
        assert_eq!(settings.proxy.timeouts.total, Duration::ZERO);
        assert_eq!(settings.egress.dns.max_ttl, Duration::from_secs(300));
        assert!(settings.threads >= 1 && !settings.watch);
        assert_eq!(settings.state_dir, Path::new("/var/lib/weir"));
    }
}

#[test]
fn the_complete_form_is_understood() {
    let folder = Folder::new("complete");
    let ca = folder.write("ca.pem", "-----BEGIN CERTIFICATE-----\n");
    folder.write("token", "admin-token\n");
    let path = folder.write(
        "weir.yaml",
        r#"
listen: ["127.0.0.1:0", {address: "[::1]:8443", h2: off}]
admin: {address: "127.0.0.1:9901", token: "file:token"}
trusted_proxies: [10.1.2.3/8, 192.0.2.1]
threads: "${THREADS}"
watch: "${WATCH:-true}"
limits: {in_flight: 0, body_bytes: 1MB}
proxy_url: "http://user:${PROXY_PASSWORD}@egress.corp.example:3128"
egress: {direct: [".corp.example", "100.64.0.0/10"]}
dns: {servers: [192.0.2.53, "192.0.2.54:5353"]}
rate_limit: {requests_per_minute: 60}
target_map: {/v1/search: "openai"}
routing: {default_provider: azure-east}
providers:
  - name: openai
    urls: [https://one.example/v1, https://two.example/v1]
    api_key: file:token
    models: [gpt-4o-mini, "o?-*"]
    headers: {set: {OpenAI-Organization: org-1, X-Id: "{request_id}"}, remove: [X-Internal]}
    timeouts: {first_byte: 60s}
    egress: "http://other:secret@proxy:3128"
    tls: {ca: ca.pem, server_name: api.example, verify: false}
  - {name: azure-east, base_url: https://azure.example, dialect: openai, egress: direct}
model_routes:
  fast: quick
  quick: gpt-4o-mini
  tiny: o9-mini
  gpt-4o:
    targets:
      - {provider: openai, weight: 3}
      - {provider: azure-east, model: my-gpt4o}
    balance: random
    retries: 0
  again: {url: https://one.example/v1}
  other: https://one.example/v1
logging: {level: debug, format: text, file: {path: /tmp/a.log, max_size: 1MiB, keep: 3, compress: no}}
"#,
    );
    let env = |name: &str| match name {
        "THREADS" => Some("3".to_owned()),
        "PROXY_PASSWORD" => Some("p%40ss".to_owned()),
        _ => None,
    };
    let settings = load(&path, &env).unwrap_or_else(|it| panic!("{it}"));
    assert!(!settings.listen.listeners[1].h2);
    let admin = settings.admin.as_ref().expect("an admin listener");
    assert_eq!(
        admin.token.as_ref().map(|it| it.expose().as_str()),
        Some("admin-token")
    );
    let nets: Vec<_> = settings
        .proxy
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(nets, ["10.0.0.0/8", "192.0.2.1/32"]);
    assert_eq!((settings.threads, settings.watch), (3, true));
    assert_eq!(
        (
            settings.govern.in_flight_max,
            settings.govern.body_bytes_max
        ),
        (0, 1_000_000)
    );
    let limit = settings.govern.rate_limit.expect("a rate limit");
    assert_eq!((limit.per_second, limit.burst), (1.0, 10));
    assert_eq!(settings.egress.proxies.len(), 1);
    assert_eq!(settings.egress.proxies[0].port, 3128);
    let dns: Vec<_> = settings
        .egress
        .dns
        .servers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(dns, ["192.0.2.53:53", "192.0.2.54:5353"]);
    let openai = &settings.upstream.providers[0];
    assert_eq!(openai.urls.len(), 2);
    assert_eq!(openai.headers.set.len(), 2);
    assert_eq!(openai.timeouts.first_byte, Some(Duration::from_secs(60)));
    assert_eq!(openai.tls.ca.as_deref(), Some(ca.as_path()));
    assert!(!openai.tls.verify);
    assert_eq!(
        settings.route.target_map,
        [("/v1/search".to_owned(), ProviderIndex(0))]
    );
    assert_eq!(settings.route.default_provider, Some(ProviderIndex(1)));
    let aliases: Vec<_> = settings
        .route
        .aliases
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(aliases, ["fast", "quick", "tiny"]);
    let patterns: Vec<_> = settings
        .route
        .models
        .iter()
        .map(|it| it.pattern.as_str())
        .collect();
    assert_eq!(
        patterns,
        ["gpt-4o", "again", "other", "gpt-4o-mini", "o?-*"]
    );
    let targets = &settings.route.models[0].targets;
    assert_eq!((targets[0].weight, targets[1].weight), (3, 1));
    assert_eq!(targets[1].model.as_deref(), Some("my-gpt4o"));
    assert_eq!(settings.route.models[0].balance, Balance::Random);
    let (again, other) = (&settings.route.models[1], &settings.route.models[2]);
    assert_eq!(
        again.targets[0].provider, other.targets[0].provider,
        "the same URL"
    );
    assert_eq!(settings.upstream.providers.len(), 3);
    let log = settings.observe.file.as_ref().expect("a log file");
    assert_eq!(
        (log.size_bytes_max, log.keep, log.compress),
        (1 << 20, 3, false)
    );
    let printed = format!("{settings:?}");
    for secret in ["admin-token", "p%40ss", "secret", "org-1"] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}

/// As much as is looked at here.
const PEM: &str = "-----BEGIN CERTIFICATE-----\n";

/// Every key in one file, as the documentation of the whole form has it.
const COMPLETE: &str = r#"
listen:
  - 0.0.0.0:8000
  - address: 0.0.0.0:8443
    tls:
      certificates: [{cert: /etc/weir/tls/a.pem, key: /etc/weir/tls/a.key}]
      min_version: "1.2"
      acme:
        directory: https://acme-v02.api.letsencrypt.org/directory
        email: ops@example.com
        domains: [api.example.com]
        ca: null
      client_ca: /etc/weir/tls/teams-ca.pem
      client_auth: optional
      hsts: 365d
    h2: true
    proxy_protocol: false
    backlog: 4096
    keepalive: 60s
    defer_accept: false
  - address: unix:/run/weir/weir.sock
    mode: "0660"
    owner: weir:weir
admin: {address: 127.0.0.1:9900, token: "${WEIR_ADMIN_TOKEN:-}"}
trusted_proxies: [127.0.0.0/8]
threads: auto
limits:
  connections: 10000
  connections_per_client: 2000
  header_bytes: 64KiB
  body_bytes: 32MiB
  buffered_bytes: 1GiB
  in_flight: 10000
  in_flight_tokens: 0
  per_address: {requests_per_minute: 60, requests_burst: 10, tokens_per_minute: 1000, tokens_burst: 500, in_flight: 5, in_flight_tokens: 1000}
  cached_tokens: count
  unpriced: refuse
  unmetered: refuse
  queue: {size: 1000, timeout: 10s}
timeouts: {client_header: 10s, client_body: 60s, connect: 5s, first_byte: 300s, idle: 120s, total: 0s, keepalive: 75s, drain: 1h, idle_close_delay: 10s}
upgrade: {ready: 60s, probation: 3s, generations: 8}
proxy_url: http://egress.corp.example:3128
egress:
  direct: [".corp.example", "100.64.0.0/10"]
  proxied: []
  from_env: false
  connection_max_age: 10m
  prewarm: 8
dns: {servers: [], min_ttl: 1s, max_ttl: 5m, negative_ttl: 5s, stale: 1h, timeout: 2s, search: [corp.example], ndots: 1}
target_map: {"/v1/search": https://api.firecrawl.dev}
model_routes:
  gpt-4o:
    targets:
      - {provider: openai, weight: 3}
      - {provider: azure-east, model: my-gpt4o, weight: 1}
    balance: hash
    hash: {by: prefix, header: null, prefix: 1KiB, bound: 1.25}
    fallback: [gpt-4o-mini]
    retries: 2
    limits: {requests_per_minute: 600, tokens_per_minute: 200000, in_flight: 50, in_flight_tokens: 500000}
    on_limit: wait
  embedding-2: {urls: [https://open.bigmodel.cn/api/paas/v3, https://open.bigmodel.cn/api/paas/v4]}
  fast: gpt-4o-mini
routing: {default_provider: openai, all_open: refuse}
providers:
  - name: openai
    dialect: openai
    base_url: https://api.openai.com/v1
    api_key: ${OPENAI_API_KEY}
    models: [gpt-4o, gpt-4o-mini]
    headers: {set: {OpenAI-Organization: org-1}, remove: [X-Internal]}
    max_in_flight: 1000
    breaker: {failures: 5, failure_rate: 0.5, slow: 0s, slow_rate: 0.8, window: 10s, open: 15s, probes: 1}
    health: {path: /v1/models, interval: 10s, timeout: 2s, rise: 2, fall: 3}
    slow_start: 10s
    timeouts: {first_byte: 60s}
    egress: auto
    tls: {ca: null, client_cert: null, client_key: null, server_name: null, verify: true}
  - {name: azure-east, base_url: https://azure.example}
headers: {request: {set: {}, remove: []}, response: {set: {}, remove: []}}
rate_limit: {rate: 5, burst: 10}
teams:
  - name: search
    models: ["gpt-4o*", "embedding-*"]
    limits: {requests_per_minute: 600, tokens_per_minute: 200000, in_flight: 50, in_flight_tokens: 500000}
    budget: {usd: 500, per: month}
    keys:
      - {name: ci, sha256: "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", expires: 2027-01-01, limits: {requests_per_minute: 60}}
      - {name: laptop, client_cert: "CN=ana,O=search"}
prices: {gpt-4o: {input: 2.50, cached: 1.25, cache_write: 2.5, output: 10.00, reasoning: 10, audio_input: 40, audio_output: 80, image_input: 10, characters: 15, image: 0, audio_minute: 0, max_output: 16384}}
prices_file: null
shared_state: redis://127.0.0.1:6379
usage: {store: sqlite, retain: 90d}
logging:
  level: info
  format: json
  file: {path: /var/log/weir/access.log, max_size: 100MB, keep: 20, compress: true}
  bodies: false
tracing: {otlp_endpoint: null, sample: 0.01}
state_dir: /var/lib/weir
"#;

#[test]
fn every_key_of_the_complete_form_is_known() {
    let env = |name: &str| (name == "OPENAI_API_KEY").then(|| "sk-1".to_owned());
    let folder = Folder::new("every");
    for name in ["a.pem", "a.key", "teams-ca.pem"] {
        folder.write(name, PEM);
    }
    let text = COMPLETE.replace("/etc/weir/tls", &folder.0.display().to_string());
    parse(&text, "weir.yaml", &env).unwrap_or_else(|mistakes| panic!("{mistakes}"));
}

#[test]
fn usage_is_kept_where_it_is_asked_for() {
    use weir::govern::ledger::settings::{Store, Tls};
    assert_eq!(settings("port: 1").usage, None);
    assert_eq!(settings("usage: off").usage, None);
    let standard = settings("usage: {}\nstate_dir: /srv/weir")
        .usage
        .expect("on");
    assert_eq!(standard.store, Store::Sqlite);
    assert_eq!(standard.journal(), Path::new("/srv/weir/usage"));
    assert_eq!(standard.retain, Duration::from_secs(90 * 86_400));
    assert_eq!(standard.fsync, Some(Duration::from_secs(1)));
    let given = settings(
        "usage: {store: \"postgres://u:p@db/usage?sslmode=verify-full\", retain: 7d, fsync: never, \
         segment_size: 1MiB, segment_age: 1m}",
    );
    let given = given.usage.expect("on");
    let Store::Postgres(postgres) = given.store else {
        panic!("{:?}", given.store);
    };
    assert_eq!(postgres.tls, Tls::VerifyFull);
    assert_eq!((given.fsync, given.segment_bytes_max), (None, 1 << 20));
    for (text, mistake) in [
        (
            "usage: {retain: 36h}",
            "usage.retain: found \"36h\"; allowed: whole days, such as 90d, up to 36500d",
        ),
        (
            "usage: {store: \"mysql://u:secret@db/usage\"}",
            "usage.store: found \"mysql://***\"; allowed: sqlite, or postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full",
        ),
        (
            "usage: {store: \"postgres://u:secret@db/usage?sslmode=maybe\"}",
            "usage.store: found \"postgres://***\"; allowed: sslmode: disable, allow, prefer, require, verify-ca or verify-full",
        ),
        (
            "usage: {fsync: 0s}",
            "usage.fsync: found \"0s\"; allowed: a duration above zero, such as 10s",
        ),
        (
            "usage: {segment_size: 1KiB}",
            "usage.segment_size: found \"1KiB\"; allowed: a size from 4KiB to 1GiB",
        ),
        (
            "usage: sqlite",
            "usage: found \"sqlite\"; allowed: off, or a mapping with store, retain, fsync, segment_size and segment_age",
        ),
    ] {
        tells(text, &format!("weir.yaml:1: {mistake}"));
    }
}

#[test]
fn anchors_and_merge_keys_are_followed() {
    let settings = settings(
        "providers:
  - &one {name: one, base_url: https://one.example, timeouts: &t {connect: 1s, idle: 2s}}
  - {<<: *one, name: two, timeouts: {<<: [*t], idle: 3s}}
",
    );
    let two = &settings.upstream.providers[1];
    assert_eq!(
        (two.name.as_str(), two.urls[0].host.as_ref()),
        ("two", "one.example")
    );
    assert_eq!(two.timeouts.connect, Some(Duration::from_secs(1)));
    assert_eq!(two.timeouts.idle, Some(Duration::from_secs(3)));
}

#[test]
fn off_is_off() {
    assert!(settings("admin: off").admin.is_none());
    assert!(settings("admin: false").admin.is_none());
    settings(
        "limits: {in_flight_tokens: 0, queue: null}
teams: null
prices: {}
shared_state: null
usage: off
tracing: {otlp_endpoint: null}
logging: {bodies: false}
listen: [{address: 0.0.0.0:80, proxy_protocol: false, tls: null}]
providers: [{name: a, base_url: http://a, max_in_flight: 0, breaker: null, health: null}]
model_routes: {m: {url: http://a, fallback: [], balance: round_robin}}
",
    );
}

#[test]
fn the_environment_alone_is_enough() {
    let with = |pairs: &'static [(&str, &str)]| {
        from_env(&|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    };
    assert!(with(&[]).is_none());
    assert!(with(&[("OPENAI_API_KEY", "")]).is_none());
    let settings = with(&[("OPENAI_API_KEY", "sk-1")])
        .expect("set")
        .expect("sound");
    assert_eq!(
        settings.listen.listeners[0].socket.address.to_string(),
        "0.0.0.0:8080"
    );
    assert_eq!(settings.route.default_provider, Some(ProviderIndex(0)));
    let provider = &settings.upstream.providers[0];
    assert_eq!(provider.urls[0].to_string(), "https://api.openai.com/v1");
    for base in [
        "http://localhost:11434",
        "http://localhost:11434/",
        "http://localhost:11434/v1/",
    ] {
        let env = |name: &str| (name == "OLLAMA_BASE").then(|| base.to_owned());
        let settings = from_env(&env).expect("set").expect("sound");
        let provider = &settings.upstream.providers[0];
        assert_eq!(provider.name, "ollama");
        assert_eq!(provider.urls[0].to_string(), "http://localhost:11434/v1");
        assert!(provider.api_key.is_none());
    }
    let proxied = with(&[
        ("OPENAI_API_KEY", "sk-1"),
        ("HTTPS_PROXY", "http://proxy.example:3128"),
        ("NO_PROXY", "corp.example"),
    ]);
    let road = proxied.expect("set").expect("sound").egress;
    assert_eq!((road.proxies.len(), road.no_proxy.len()), (1, 1));
    let both = with(&[
        ("OPENAI_API_KEY", "sk-1"),
        ("OPENAI_BASE_URL", "https://gateway.example/v1"),
        ("OLLAMA_BASE", "http://localhost:11434"),
    ]);
    let both = both.expect("set").expect("sound");
    assert_eq!(
        both.upstream.providers[0].urls[0].host.as_ref(),
        "gateway.example"
    );
    assert_eq!(both.route.default_provider, Some(ProviderIndex(1)));
    let patterns: Vec<_> = both
        .route
        .models
        .iter()
        .map(|it| it.pattern.as_str())
        .collect();
    assert_eq!(
        patterns,
        ["gpt-*", "chatgpt-*", "o?", "o?-*", "text-embedding-*"]
    );
    let wrong = with(&[("OLLAMA_BASE", "localhost:11434")])
        .expect("set")
        .expect_err("no URL");
    assert_eq!(wrong.0[0].path, "OLLAMA_BASE");
    assert_eq!(wrong.0[0].file, "environment");
    assert_eq!(wrong.0[0].line, None);
}

#[test]
fn a_wrong_variable_is_told_by_its_name_without_secrets() {
    for (pairs, told) in [
        (
            &[("OLLAMA_BASE", "localhost:11434")][..],
            "environment: OLLAMA_BASE: found \"localhost:11434\"; allowed: ",
        ),
        (
            &[
                ("OPENAI_API_KEY", "geheim"),
                ("OLLAMA_BASE", "ftp://u:geheim@h"),
            ],
            "environment: OLLAMA_BASE: found \"ftp://***@h\"; allowed: ",
        ),
        (
            &[("OPENAI_API_KEY", "geheim"), ("OPENAI_BASE_URL", "gateway")],
            "environment: OPENAI_BASE_URL: found \"gateway\"; allowed: ",
        ),
        (
            &[("OPENAI_API_KEY", "geheim geheim")],
            "environment: OPENAI_API_KEY: found a value that isn't shown; allowed: ",
        ),
    ] {
        let env = |name: &str| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let mistakes = from_env(&env).expect("set").expect_err("wrong").to_string();
        assert!(mistakes.starts_with(told), "{mistakes}");
        assert_eq!(mistakes.lines().count(), 1, "{mistakes}");
        assert!(!mistakes.contains("geheim"), "{mistakes}");
    }
}

// === mistakes of form ===

#[test]
fn an_unknown_key_is_told_with_the_nearest_one() {
    tells(
        "port: 1\nlimits:\n  bodybytes: 1MiB\n",
        "weir.yaml:3: limits.bodybytes: found an unknown key; allowed: connections, connections_per_client, \
         header_bytes, \
         body_bytes, buffered_bytes, in_flight, drains, in_flight_tokens, per_address, cached_tokens, unpriced, unmetered, queue, retry_budget (did you mean `body_bytes`?)",
    );
    let text = told("providers:\n  - name: a\n    base_url: http://a\n    apikey: sk-secret\n");
    assert!(
        text.starts_with("weir.yaml:4: providers[0].apikey: found an unknown key; allowed: name")
    );
    assert!(text.ends_with("(did you mean `api_key`?)"), "{text}");
    assert!(!text.contains("sk-secret"));
}

#[test]
fn a_value_of_another_form_is_told() {
    for (text, mistake) in [
        (
            "timeouts:\n  idle: 5\n",
            "2: timeouts.idle: found 5; allowed: a duration such as 250ms, 30s, 5m, 1h, at most ten years",
        ),
        (
            "timeouts: {idle: -5s}",
            "1: timeouts.idle: found \"-5s\"; allowed: a duration such as 250ms, 30s, 5m, 1h, at most ten years",
        ),
        (
            "limits: {body_bytes: 1QiB}",
            "1: limits.body_bytes: found \"1QiB\"; allowed: a size such as 4096, 64KiB, 32MiB, 100MB",
        ),
        (
            "limits: {body_bytes: -1}",
            "1: limits.body_bytes: found -1; allowed: a size such as 4096, 64KiB, 32MiB, 100MB",
        ),
        (
            "limits: {body_bytes: 99999999999TiB}",
            "1: limits.body_bytes: found \"99999999999TiB\"; allowed: a size such as 4096, 64KiB, 32MiB, 100MB",
        ),
        (
            "port: [1]",
            "1: port: found a list; allowed: a whole number, 0 or more",
        ),
        (
            "watch: perhaps",
            "1: watch: found \"perhaps\"; allowed: true or false",
        ),
        (
            "threads: 0",
            "1: threads: found 0; allowed: auto, or a number from 1 to 1024",
        ),
        ("limits: 5", "1: limits: found 5; allowed: a mapping"),
        (
            "providers: {a: b}",
            "1: providers: found a mapping; allowed: a list",
        ),
        (
            "target_map: []",
            "1: target_map: found a list; allowed: a mapping",
        ),
        (
            "admin: on",
            "1: admin: found \"on\"; allowed: off, or a mapping with address, mode, owner and token",
        ),
        (
            "state_dir: 5",
            "1: state_dir: found 5; allowed: a text (in quotes if it looks like a number)",
        ),
        (
            "logging: {level: inof}",
            "1: logging.level: found \"inof\"; allowed: error, warn, info, debug, trace (did you mean `info`?)",
        ),
        (
            "listen: [5]",
            "1: listen[0]: found 5; allowed: an address such as 0.0.0.0:8080, or a mapping with one",
        ),
        (
            "model_routes: {m: 5}",
            "1: model_routes.m: found 5; allowed: a URL, the name of another route, or a mapping with url, urls or targets",
        ),
        (
            "listen:\n  - 0.0.0.0:80\n  -\n",
            "3: listen[1]: found nothing; allowed: a value, or no `-` at all",
        ),
        ("- a", "1: found a list; allowed: a mapping"),
        (
            "port: !env PORT",
            "1: port: found a value with a `!tag`; allowed: a value without a tag",
        ),
    ] {
        tells(text, &format!("weir.yaml:{mistake}"));
    }
}

#[test]
fn what_is_no_yaml_is_told_with_its_line() {
    let text = told("port: 1\nlimits: {a: 1\nlogging: x\n");
    assert!(
        text.starts_with("weir.yaml:3: found text that isn't YAML (")
            || text.starts_with("weir.yaml:2: "),
        "{text}"
    );
    assert!(told("a: *nowhere").contains("unknown anchor"));
    assert!(told("a: 1\n---\nb: 2\n").contains("more than one document"));
    let deep = "[".repeat(100_000);
    assert!(told(&deep).contains("isn't YAML"));
}

#[test]
fn keys_that_stand_twice_are_told_with_both_lines() {
    tells(
        "port: 1\nlimits: {in_flight: 1}\nport: 2\nlimits: {in_flight: x}\n",
        "weir.yaml:3: port: found the key a second time (first on line 1); allowed: each key once\n\
         weir.yaml:4: limits: found the key a second time (first on line 2); allowed: each key once",
    );
}

#[test]
fn what_a_merge_brings_is_checked_where_it_is_written() {
    tells(
        "providers:\n  - &one\n    name: one\n    base_url: ftp://one\n  - <<: *one\n    name: two\n    base_url: http://x\n  - <<: 5\n    name: three\n    base_url: http://y\n",
        "weir.yaml:4: providers[0].base_url: found \"ftp://one\"; allowed: http:// or https://\n\
         weir.yaml:8: providers[2].<<: found something else; allowed: a mapping or a list of mappings to merge"
            .replace("providers[2].<<", "providers[2].\"<<\"")
            .as_str(),
    );
}

#[test]
fn references_to_nothing_are_told_by_name() {
    tells(
        "state_dir: ${NOWHERE}/x\n",
        "weir.yaml:1: state_dir: found ${NOWHERE}, which is not set; allowed: a variable of the \
         environment that is set, or ${NAME:-default}",
    );
    let text = told("providers: [{name: a, base_url: http://a, api_key: \"file:/nowhere/key\"}]");
    assert!(
        text.starts_with(
            "weir.yaml:1: providers[0].api_key: found \"file:/nowhere/key\", which can't be read ("
        ),
        "{text}"
    );
    let folder = Folder::new("references");
    folder.write("empty", "\n");
    let path = folder.write("weir.yaml", "admin: {token: file:empty}");
    let text = load(&path, &no_env).expect_err("empty").to_string();
    assert!(
        text.contains("admin.token: found ") && text.contains("which is empty"),
        "{text}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    let text = load(Path::new("/nowhere/weir.yaml"), &no_env)
        .expect_err("absent")
        .to_string();
    assert!(
        text.starts_with("/nowhere/weir.yaml: found no file to read (No such file"),
        "{text}"
    );
    let folder = Folder::new("bytes");
    let path = folder.0.join("weir.yaml");
    std::fs::write(&path, b"port: 1\nstate_dir: \xff\n").expect("written");
    let text = load(&path, &no_env).expect_err("not UTF-8").to_string();
    assert!(text.contains("bytes on line 2 that aren't UTF-8"), "{text}");
}

// === mistakes of meaning ===

#[test]
fn listeners_are_checked() {
    for (text, mistake) in [
        (
            "port: 70000",
            "1: port: found 70000; allowed: a port from 0 (any free one) to 65535",
        ),
        (
            "port: 1\nlisten: []",
            "1: port: found 1; allowed: either `port` or `listen`, not both",
        ),
        (
            "listen: []",
            "1: listen: found an empty list; allowed: at least one address",
        ),
        (
            "listen: [localhost:80]",
            "1: listen[0]: found \"localhost:80\"; allowed: IP:PORT such as 0.0.0.0:8080 or [::]:8080, or unix:/absolute/path",
        ),
        (
            "listen:\n  - h2: true\n",
            "2: listen[0].address: found nothing; allowed: IP:PORT such as 0.0.0.0:8080 or [::]:8080, or unix:/absolute/path",
        ),
        (
            "listen:\n- 0.0.0.0:80\n- {address: \"127.0.0.1:80\"}\n",
            "3: listen[1].address: found \"127.0.0.1:80\"; allowed: an address that no other listener has",
        ),
        (
            "port: 9900",
            "1: admin.address: found an address where clients connect; allowed: an admin address of its own, or `admin: off`",
        ),
        (
            "trusted_proxies: [10.0.0.0/40]",
            "1: trusted_proxies[0]: found \"10.0.0.0/40\"; allowed: an IP address or a network such as 10.0.0.0/8",
        ),
        (
            "admin: {token: \"a b\"}",
            "1: admin.token: found a value that isn't shown; allowed: visible ASCII without spaces",
        ),
    ] {
        tells(text, &format!("weir.yaml:{mistake}"));
    }
}

#[test]
fn a_listener_in_full_is_understood() {
    let folder = Folder::new("listener");
    for name in ["a.pem", "a.key", "b.pem", "b.key", "ca.pem"] {
        folder.write(name, PEM);
    }
    let path = folder.write(
        "weir.yaml",
        r#"
listen:
  - address: 0.0.0.0:8443
    tls:
      certificates: [{cert: a.pem, key: a.key}, {cert: b.pem, key: b.key}]
      acme: {domains: [API.example.com, localhost], email: ops@example.com, ca: ca.pem}
      min_version: "1.3"
      client_ca: ca.pem
      client_auth: required
      hsts: 0s
    proxy_protocol: true
    backlog: 65535
    keepalive: 9h
    defer_accept: true
  - address: unix:/run/weir/weir.sock
    mode: "0600"
    owner: weir:www-data
    proxy_protocol: true
    keepalive: 0s
    defer_accept: false
  - unix:/run/weir/other.sock
  - {address: "127.0.0.1:0", keepalive: 0, tls: {acme: {domains: [a.example], directory: "https://127.0.0.1:14000/dir"}}}
admin: {address: "unix:/run/weir/admin.sock", mode: "0666", owner: "1000"}
trusted_proxies: [10.0.0.0/8]
limits: {connections_per_client: 0}
timeouts: {keepalive: 1s, idle_close_delay: 0s}
upgrade: {ready: 1s, probation: 0s, generations: 2}
"#,
    );
    let settings = load(&path, &no_env).unwrap_or_else(|it| panic!("{it}"));
    let [full, unix, short, other] = &settings.listen.listeners[..] else {
        panic!("{:?}", settings.listen.listeners);
    };
    let at = |name: &str| folder.0.join(name);
    let tls = full.tls.as_ref().expect("TLS");
    let certificates: Vec<_> = (tls.certificates.iter())
        .map(|it| (it.cert.clone(), it.key.clone()))
        .collect();
    assert_eq!(
        certificates,
        [(at("a.pem"), at("a.key")), (at("b.pem"), at("b.key"))]
    );
    let acme = tls.acme.as_ref().expect("ACME");
    assert_eq!(
        acme.directory,
        "https://acme-v02.api.letsencrypt.org/directory"
    );
    assert_eq!(acme.domains, ["api.example.com", "localhost"]);
    assert_eq!(acme.email.as_deref(), Some("ops@example.com"));
    assert_eq!(acme.ca, Some(at("ca.pem")));
    assert!(!tls.tls12);
    assert_eq!(tls.client_auth, ClientAuth::Required(at("ca.pem")));
    assert_eq!(tls.hsts, Duration::ZERO);
    assert!(full.proxy_protocol && full.socket.defer_accept && full.h2);
    assert_eq!(full.socket.backlog, 65_535);
    assert_eq!(full.tcp_keepalive, Duration::from_secs(9 * 3600));
    assert_eq!((full.socket.mode, &full.socket.owner), (None, &None));
    assert_eq!(unix.socket.address.to_string(), "unix:/run/weir/weir.sock");
    assert_eq!(unix.socket.mode, Some(0o600));
    let owner = ("weir".to_owned(), Some("www-data".to_owned()));
    assert_eq!(unix.socket.owner, Some(owner));
    assert!(unix.proxy_protocol && unix.tls.is_none());
    assert_eq!(
        (short.socket.mode, short.socket.backlog),
        (Some(0o660), 4096)
    );
    assert_eq!(
        (other.tcp_keepalive, other.socket.mode),
        (Duration::ZERO, None)
    );
    let tls = other.tls.as_ref().expect("TLS");
    let acme = tls.acme.as_ref().expect("ACME");
    assert_eq!(acme.directory, "https://127.0.0.1:14000/dir");
    assert_eq!((&acme.email, &acme.ca), (&None, &None));
    assert!(tls.tls12 && tls.certificates.is_empty());
    assert_eq!(tls.client_auth, ClientAuth::None);
    assert_eq!(tls.hsts, Duration::from_secs(365 * 86_400));
    let admin = settings.admin.expect("an admin listener").socket;
    assert_eq!(admin.address.to_string(), "unix:/run/weir/admin.sock");
    assert_eq!(
        (admin.mode, admin.owner),
        (Some(0o666), Some(("1000".to_owned(), None)))
    );
    assert_eq!(settings.listen.trusted, settings.proxy.trusted_proxies);
    assert_eq!(settings.listen.trusted.len(), 1);
    assert_eq!(settings.listen.connections_per_client_max, 0);
    assert_eq!(settings.listen.keepalive, Duration::from_secs(1));
    assert_eq!(settings.listen.idle_close_delay, Duration::ZERO);
    assert_eq!(settings.upgrade.ready, Duration::from_secs(1));
    assert_eq!(settings.upgrade.probation, Duration::ZERO);
    assert_eq!(settings.upgrade.generations_max, 2);
}

#[test]
fn sockets_are_checked_at_the_limit_and_past_it() {
    let fits = format!("/{}", "a".repeat(106));
    settings(&format!("listen: [\"unix:{fits}\"]"));
    tells(
        &format!("listen: [\"unix:{fits}a\"]"),
        &format!(
            "weir.yaml:1: listen[0]: found \"unix:/{}\"…; allowed: unix: and the path of a file, at most 107 bytes long",
            "a".repeat(74)
        ),
    );
    for good in [
        "backlog: 1",
        "backlog: 65535",
        "keepalive: 1s",
        "keepalive: 9h",
    ] {
        settings(&format!("listen: [{{address: 0.0.0.0:80, {good}}}]"));
    }
    settings("trusted_proxies: []\nlisten: [{address: \"unix:/a\", proxy_protocol: true}]");
    for (fields, mistake) in [
        (
            "address: \"unix:a.sock\"",
            "address: found \"unix:a.sock\"; allowed: IP:PORT such as 0.0.0.0:8080 or [::]:8080, or unix:/absolute/path",
        ),
        (
            "address: \"unix:/run/\"",
            "address: found \"unix:/run/\"; allowed: unix: and the path of a file, at most 107 bytes long",
        ),
        (
            "address: 0.0.0.0:80, backlog: 0",
            "backlog: found 0; allowed: a number from 1 to 65535",
        ),
        (
            "address: 0.0.0.0:80, backlog: 65536",
            "backlog: found 65536; allowed: a number from 1 to 65535",
        ),
        (
            "address: 0.0.0.0:80, keepalive: 32401s",
            "keepalive: found \"32401s\"; allowed: 0s (never), or whole seconds up to 9h",
        ),
        (
            "address: 0.0.0.0:80, keepalive: 500ms",
            "keepalive: found \"500ms\"; allowed: 0s (never), or whole seconds up to 9h",
        ),
        (
            "address: 0.0.0.0:80, mode: \"0660\"",
            "mode: found \"0660\"; allowed: no `mode`, which only a unix: address has",
        ),
        (
            "address: 0.0.0.0:80, owner: weir",
            "owner: found \"weir\"; allowed: no `owner`, which only a unix: address has",
        ),
        (
            "address: \"unix:/a\", mode: \"1777\"",
            "mode: found \"1777\"; allowed: a file mode in octal such as \"0660\", at most \"0777\"",
        ),
        (
            "address: \"unix:/a\", mode: 660",
            "mode: found 660; allowed: a text (in quotes if it looks like a number)",
        ),
        (
            "address: \"unix:/a\", owner: \":weir\"",
            "owner: found \":weir\"; allowed: user or user:group, by name or by number",
        ),
        (
            "address: \"unix:/a\", keepalive: 5s",
            "keepalive: found \"5s\"; allowed: no `keepalive`, which a unix: address can't have",
        ),
        (
            "address: \"unix:/a\", defer_accept: true",
            "defer_accept: found true; allowed: no `defer_accept`, which a unix: address can't have",
        ),
        (
            "address: \"unix:/a\", tls: {certificates: [{cert: /nowhere}]}",
            "tls: found a mapping; allowed: no `tls`, which a unix: address can't have",
        ),
    ] {
        tells(
            &format!("listen: [{{{fields}}}]"),
            &format!("weir.yaml:1: listen[0].{mistake}"),
        );
    }
    for (text, mistake) in [
        (
            "listen: [\"unix:/run/a\", {address: \"unix:/run//a\"}]",
            "listen[1].address: found \"unix:/run//a\"; allowed: an address that no other listener has",
        ),
        (
            "listen: [\"unix:/run/a\"]\nadmin: {address: \"unix:/run/a\"}",
            "admin.address: found an address where clients connect; allowed: an admin address of its own, or `admin: off`",
        ),
        (
            "admin: {mode: \"0660\"}",
            "admin.mode: found \"0660\"; allowed: no `mode`, which only a unix: address has",
        ),
        (
            "admin: {address: \"unix:/a\", mode: rw, token: \"geheim 1\"}",
            "admin.token: found a value that isn't shown; allowed: visible ASCII without spaces\n\
             weir.yaml:1: admin.mode: found \"rw\"; allowed: a file mode in octal such as \"0660\", at most \"0777\"",
        ),
        (
            "trusted_proxies: []\nlisten: [{address: 0.0.0.0:80, proxy_protocol: true}]",
            "listen[0].proxy_protocol: found true; allowed: false, or `trusted_proxies` that may speak it (nobody could connect)",
        ),
        (
            "trusted_proxies: [x]\nlisten: [{address: 0.0.0.0:80, proxy_protocol: true}]",
            "trusted_proxies[0]: found \"x\"; allowed: an IP address or a network such as 10.0.0.0/8",
        ),
    ] {
        let text = told(text);
        assert_eq!(
            text.replacen("weir.yaml:2:", "weir.yaml:1:", 1),
            format!("weir.yaml:1: {mistake}")
        );
    }
}

#[test]
fn tls_of_listeners_is_checked() {
    let folder = Folder::new("tls");
    let pem = folder.write("a.pem", PEM).display().to_string();
    let certificates = format!("certificates: [{{cert: {pem}, key: {pem}}}]");
    for (fields, mistake) in [
        (
            "{}",
            ": found neither `certificates` nor `acme`; allowed: one of them, or both",
        ),
        (
            "{certificates: []}",
            ": found neither `certificates` nor `acme`; allowed: one of them, or both",
        ),
        (
            "{certificates: [{cert: PEM}]}",
            ".certificates[0].key: found nothing; allowed: the path of the certificate's private key in PEM",
        ),
        (
            "{certificates: [{key: PEM}]}",
            ".certificates[0].cert: found nothing; allowed: the path of a certificate in PEM",
        ),
        (
            "{certificates: [{cert: PEM, key: /etc/hostname}]}",
            ".certificates[0].key: found \"/etc/hostname\", which isn't PEM; allowed: the path of a readable PEM file",
        ),
        (
            "{CERTIFICATES, min_version: \"1.1\"}",
            ".min_version: found \"1.1\"; allowed: \"1.2\" or \"1.3\"",
        ),
        (
            "{CERTIFICATES, client_auth: optional}",
            ".client_ca: found nothing; allowed: the path of a PEM file with the authorities of client certificates",
        ),
        (
            "{CERTIFICATES, client_ca: PEM}",
            ".client_auth: found nothing; allowed: optional or required, beside a `client_ca`",
        ),
        (
            "{CERTIFICATES, client_ca: PEM, client_auth: none}",
            ".client_auth: found \"none\"; allowed: optional or required, beside a `client_ca`",
        ),
        (
            "{CERTIFICATES, client_ca: PEM, client_auth: requird}",
            ".client_auth: found \"requird\"; allowed: none, optional, required (did you mean `required`?)",
        ),
        (
            "{CERTIFICATES, hsts: 10ms}",
            ".hsts: found \"10ms\"; allowed: 0s (no such header), or whole seconds up to 3650d",
        ),
        (
            "{acme: {}}",
            ".acme.domains: found nothing; allowed: at least one name that the certificate is for",
        ),
        (
            "{acme: {domains: []}}",
            ".acme.domains: found an empty list; allowed: at least one name that the certificate is for",
        ),
        (
            "{acme: {domains: [\"*.example.com\"]}}",
            ".acme.domains[0]: found \"*.example.com\"; allowed: a name without `*`: wildcards are proven by dns-01, which weir doesn't speak (use `certificates`)",
        ),
        (
            "{acme: {domains: [192.0.2.1]}}",
            ".acme.domains[0]: found \"192.0.2.1\"; allowed: a DNS name such as api.example.com (xn--… where it has other letters)",
        ),
        (
            "{acme: {domains: [a.example, A.Example]}}",
            ".acme.domains[1]: found \"A.Example\"; allowed: each name once",
        ),
        (
            "{acme: {domains: [a.example], email: \"mailto:a@b.example\"}}",
            ".acme.email: found \"***@b.example\"; allowed: an e-mail address such as ops@example.com",
        ),
        (
            "{acme: {domains: [a.example], directory: \"http://ca.example/dir\"}}",
            ".acme.directory: found \"http://ca.example/dir\"; allowed: a URL with https://",
        ),
        (
            "{acme: {domains: [a.example], directory: ca.example}}",
            ".acme.directory: found \"ca.example\"; allowed: a URL that begins with http:// or https://",
        ),
        (
            "{acme: {domains: [a.example], ca: /nowhere}}",
            ".acme.ca: found \"/nowhere\", which can't be read (No such file or directory (os error 2)); allowed: the path of a readable PEM file",
        ),
    ] {
        let fields = fields
            .replace("CERTIFICATES", &certificates)
            .replace("PEM", &pem);
        tells(
            &format!("listen: [{{address: \"0.0.0.0:8443\", tls: {fields}}}]"),
            &format!("weir.yaml:1: listen[0].tls{mistake}"),
        );
    }
    settings(&format!(
        "listen: [{{address: 0.0.0.0:443, tls: {{{certificates}, min_version: 1.3, hsts: 3650d}}}}]"
    ));
    for directory in ["https://localhost:14000/dir", "https://[::1]/dir"] {
        settings(&format!(
            "listen: [{{address: 0.0.0.0:443, tls: {{acme: {{domains: [a.example], email: \"\", directory: \"{directory}\"}}}}}}]"
        ));
    }
    let names = |count: usize| {
        let names: Vec<_> = (0..count).map(|it| format!("n{it}.example")).collect();
        let names = names.join(", ");
        format!("listen: [{{address: 0.0.0.0:443, tls: {{acme: {{domains: [{names}]}}}}}}]")
    };
    settings(&names(100));
    tells(
        &names(101),
        "weir.yaml:1: listen[0].tls.acme.domains: found 101 names; allowed: at most 100",
    );
    let two = |other: &str| {
        let acme = |port: u16, acme: &str| {
            format!("{{address: 0.0.0.0:{port}, tls: {{acme: {{{acme}}}}}}}")
        };
        let one = acme(443, "domains: [a.example, b.example]");
        format!("listen: [{one}, {}]", acme(8443, other))
    };
    settings(&two("domains: [a.example, b.example]"));
    settings(&two("domains: [b.example, a.example]"));
    tells(
        &two("domains: [a.example]"),
        "weir.yaml:1: listen[1].tls.acme: found the first domain of another listener's `acme` that differs from this one; allowed: the same `acme` throughout, or another first domain",
    );
}

#[test]
fn all_mistakes_of_a_listener_are_told_at_once() {
    let text = r#"listen:
  - addres: 0.0.0.0:8443
    tls:
      certificates:
        - {cert: /nowhere/a.pem}
      acme:
        directory: http://ca.example
        email: ops
        domains: ["*.a", b_c, d.example]
      min_version: "1.0"
      client_auth: required
    backlog: 0
    keepalive: 1ms
    mode: rw
    owner: "a:b:c"
  - address: 0.0.0.0:x
    mode: rw
upgrade:
  ready: 0s
  generations: 65
timeouts:
  keepalive: 0s
"#;
    let mistakes = read(text).expect_err("mistakes");
    let places: Vec<(usize, &str)> = (mistakes.0.iter())
        .map(|mistake| (mistake.line.expect("a line"), mistake.path.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            (2, "listen[0].addres"),
            (2, "listen[0].address"),
            (3, "listen[0].tls.client_ca"),
            (5, "listen[0].tls.certificates[0].cert"),
            (5, "listen[0].tls.certificates[0].key"),
            (7, "listen[0].tls.acme.directory"),
            (8, "listen[0].tls.acme.email"),
            (9, "listen[0].tls.acme.domains[0]"),
            (9, "listen[0].tls.acme.domains[1]"),
            (10, "listen[0].tls.min_version"),
            (12, "listen[0].backlog"),
            (13, "listen[0].keepalive"),
            (14, "listen[0].mode"),
            (15, "listen[0].owner"),
            (16, "listen[1].address"),
            (17, "listen[1].mode"),
            (19, "upgrade.ready"),
            (20, "upgrade.generations"),
            (22, "timeouts.keepalive"),
        ],
        "{mistakes}"
    );
}

#[test]
fn bounds_are_checked_at_the_limit_and_past_it() {
    settings("upgrade: {generations: 2}");
    settings("upgrade: {generations: 64}");
    settings("limits: {header_bytes: 1KiB}");
    settings("limits: {header_bytes: 1MiB}");
    settings("rate_limit: {rate: 0.5, burst: 1}");
    settings("dns: {min_ttl: 5m, max_ttl: 5m}");
    for (text, mistake) in [
        (
            "limits: {header_bytes: 1023}",
            "1: limits.header_bytes: found 1023; allowed: a size from 1KiB to 1MiB",
        ),
        (
            "limits: {header_bytes: 1048577}",
            "1: limits.header_bytes: found 1048577; allowed: a size from 1KiB to 1MiB",
        ),
        (
            "limits: {body_bytes: 0}",
            "1: limits.body_bytes: found 0; allowed: a size from 1 to 1TiB",
        ),
        (
            "timeouts: {connect: 0s}",
            "1: timeouts.connect: found \"0s\"; allowed: a duration above zero, such as 10s",
        ),
        (
            "timeouts: {keepalive: 0s}",
            "1: timeouts.keepalive: found \"0s\"; allowed: a duration above zero, such as 10s",
        ),
        (
            "upgrade: {ready: 0s}",
            "1: upgrade.ready: found \"0s\"; allowed: a duration above zero, such as 10s",
        ),
        (
            "upgrade: {generations: 1}",
            "1: upgrade.generations: found 1; allowed: a number from 2 to 64",
        ),
        (
            "upgrade: {generations: 65}",
            "1: upgrade.generations: found 65; allowed: a number from 2 to 64",
        ),
        (
            "rate_limit: {rate: 0}",
            "1: rate_limit.rate: found 0; allowed: a number above 0: at least one request a day, at most a million a second",
        ),
        (
            "rate_limit: {rate: -1}",
            "1: rate_limit.rate: found -1; allowed: a number, 0 or more",
        ),
        (
            "rate_limit: {rate: .inf}",
            "1: rate_limit.rate: found .inf; allowed: a number, 0 or more",
        ),
        (
            "rate_limit: {rate: 1, burst: 0}",
            "1: rate_limit.burst: found 0; allowed: a whole number from 1 to 4294967295",
        ),
        (
            "rate_limit: {burst: 1}",
            "1: rate_limit: found neither `rate` nor `requests_per_minute`; allowed: one of them",
        ),
        (
            "rate_limit: {rate: 1, requests_per_minute: 1}",
            "1: rate_limit.requests_per_minute: found 1; allowed: either `rate` or `requests_per_minute`, not both",
        ),
        (
            "dns: {min_ttl: 6m}",
            "1: dns.min_ttl: found \"6m\"; allowed: a min_ttl that isn't longer than max_ttl",
        ),
        (
            "dns: {max_ttl: 1ms}",
            "1: dns.max_ttl: found \"1ms\"; allowed: a min_ttl that isn't longer than max_ttl",
        ),
        (
            "dns: {servers: [one.example]}",
            "1: dns.servers[0]: found \"one.example\"; allowed: the IP or IP:PORT of a DNS server",
        ),
        (
            "tracing: {sample: 1.5}",
            "1: tracing.sample: found 1.5; allowed: a number from 0 to 1",
        ),
        (
            "logging: {file: {keep: 3}}",
            "1: logging.file.path: found nothing; allowed: the path of a file",
        ),
        (
            "logging: {file: {path: a, keep: 10001}}",
            "1: logging.file.keep: found 10001; allowed: a number from 0 to 10000",
        ),
        (
            "state_dir: \"\"",
            "1: state_dir: found \"\"; allowed: the path of a folder",
        ),
    ] {
        tells(text, &format!("weir.yaml:{mistake}"));
    }
}

#[test]
fn providers_are_checked() {
    for (fields, mistake) in [
        (
            "base_url: http://a",
            "providers[0].name: found nothing; allowed: a name of 1 to 64 letters, digits and . _ - :",
        ),
        (
            "name: a b, base_url: http://a",
            "providers[0].name: found \"a b\"; allowed: a name of 1 to 64 letters, digits and . _ - :",
        ),
        (
            "name: a",
            "providers[0].base_url: found nothing; allowed: a URL such as https://host/v1, or several as `urls`",
        ),
        (
            "name: a, urls: []",
            "providers[0].urls: found an empty list; allowed: at least one URL",
        ),
        (
            "name: a, base_url: http://a, urls: [http://b]",
            "providers[0].base_url: found \"http://a\"; allowed: either `base_url` or `urls`, not both",
        ),
        (
            "name: a, base_url: \"http://u:secret@a\"",
            "providers[0].base_url: found \"http://***@a\"; allowed: a URL without user or password (use `api_key`)",
        ),
        (
            "name: a, base_url: \"http://a?key=secret\"",
            "providers[0].base_url: found \"http://a?***\"; allowed: a URL without `?query` or `#fragment`",
        ),
        (
            "name: a, urls: [http://a, b]",
            "providers[0].urls[1]: found \"b\"; allowed: a URL that begins with http:// or https://",
        ),
        (
            "name: a, base_url: http://a, api_key: \"sécret\"",
            "providers[0].api_key: found a value that isn't shown; allowed: visible ASCII without spaces",
        ),
        (
            "name: a, base_url: http://a, egress: diret",
            "providers[0].egress: found \"diret\"; allowed: auto, direct, proxy, http://[user:password@]host:port, or a list of such URLs (did you mean `direct`?)",
        ),
        (
            "name: a, base_url: http://a, egress: [direct]",
            "providers[0].egress[0]: found \"direct\"; allowed: http://[user:password@]host:port, or https, socks5, socks5h (%25 %3A %40 %2F for %, :, @ and / in user or password)",
        ),
        (
            "name: a, base_url: http://a, egress: []",
            "providers[0].egress: found a list of 0; allowed: a list of 1 to 16 proxies",
        ),
        (
            "name: a, base_url: http://a, egress: proxy",
            "providers[0].egress: found \"proxy\"; allowed: auto, direct or a proxy's URL (there is no `proxy_url`)",
        ),
        (
            "name: a, base_url: http://a, timeouts: {idle: 0}",
            "providers[0].timeouts.idle: found 0; allowed: a duration above zero, such as 10s",
        ),
        (
            "name: a, base_url: http://a, tls: {ca: /nowhere/ca.pem}",
            "providers[0].tls.ca: found \"/nowhere/ca.pem\", which can't be read (No such file or directory (os error 2)); allowed: the path of a readable PEM file",
        ),
        (
            "name: a, base_url: http://a, tls: {ca: /etc/hostname}",
            "providers[0].tls.ca: found \"/etc/hostname\", which isn't PEM; allowed: the path of a readable PEM file",
        ),
        (
            "name: a, base_url: http://a, dialect: opnai",
            "providers[0].dialect: found \"opnai\"; allowed: openai, azure, anthropic, gemini, vertex, ollama, dashscope, cohere, bedrock, grpc (did you mean `openai`?)",
        ),
        (
            "name: a, base_url: http://a, include_usage: nevr",
            "providers[0].include_usage: found \"nevr\"; allowed: auto, always, never (did you mean `never`?)",
        ),
        (
            "name: a, base_url: http://a, on_disconnect: drane",
            "providers[0].on_disconnect: found \"drane\"; allowed: cancel, drain (did you mean `drain`?)",
        ),
        (
            "name: a, base_url: http://a, drain_timeout: 5s",
            "providers[0].drain_timeout: found \"5s\"; allowed: nothing, unless `on_disconnect: drain`",
        ),
        (
            "name: a, base_url: http://a, on_disconnect: drain, drain_timeout: 0s",
            "providers[0].drain_timeout: found \"0s\"; allowed: a duration above zero, up to 10m",
        ),
        (
            "name: a, base_url: http://a, on_disconnect: drain, drain_timeout: 601s",
            "providers[0].drain_timeout: found \"601s\"; allowed: a duration above zero, up to 10m",
        ),
    ] {
        tells(
            &format!("providers: [{{{fields}}}]"),
            &format!("weir.yaml:1: {mistake}"),
        );
    }
    tells(
        "providers:\n  - {name: a, base_url: http://a}\n  - {name: a, base_url: http://b}\n",
        "weir.yaml:3: providers[1].name: found \"a\"; allowed: a name that no other provider has",
    );
    let text = told("providers: [{name: a, base_url: http://a, tls: {client_cert: /nowhere}}]");
    assert!(
        text.contains(
            "providers[0].tls.client_key: found nothing; allowed: the key of `client_cert`"
        ),
        "{text}"
    );
}

#[test]
fn routes_are_checked() {
    let provider = "providers: [{name: openai, base_url: http://a, models: [m1]}]\n";
    for (text, mistake) in [
        (
            "routing: {default_provider: opnai}",
            "routing.default_provider: found \"opnai\"; allowed: a provider: openai (did you mean `openai`?)",
        ),
        (
            "model_routes: {a: {targets: [{provider: x}]}}",
            "model_routes.a.targets[0].provider: found \"x\"; allowed: a provider: openai",
        ),
        (
            "model_routes: {a: {targets: [{weight: 1}]}}",
            "model_routes.a.targets[0].provider: found nothing; allowed: a provider's name",
        ),
        (
            "model_routes: {a: {targets: [{provider: openai, weight: 0}]}}",
            "model_routes.a.targets[0].weight: found 0; allowed: a weight from 1 to 1000",
        ),
        (
            "model_routes: {a: {targets: [{provider: openai, weight: 1001}]}}",
            "model_routes.a.targets[0].weight: found 1001; allowed: a weight from 1 to 1000",
        ),
        (
            "model_routes: {a: {targets: []}}",
            "model_routes.a.targets: found an empty list; allowed: at least one target",
        ),
        (
            "model_routes: {a: {urls: []}}",
            "model_routes.a.urls: found an empty list; allowed: at least one URL",
        ),
        (
            "model_routes: {a: {}}",
            "model_routes.a: found none of `url`, `urls` and `targets`; allowed: one of them",
        ),
        (
            "model_routes: {a: {url: http://a, urls: [http://b]}}",
            "model_routes.a: found more than one of `url`, `urls` and `targets`; allowed: one of them",
        ),
        (
            "model_routes: {a: {url: http://a, hedge: {after: p49}}}",
            "model_routes.a.hedge.after: found \"p49\"; allowed: p50 to p99, or a duration such as 200ms, from 1ms to 1h",
        ),
        (
            "model_routes: {a: {url: http://a, hedge: {after: 2h}}}",
            "model_routes.a.hedge.after: found \"2h\"; allowed: p50 to p99, or a duration such as 200ms, from 1ms to 1h",
        ),
        (
            "model_routes: {a: {url: http://a, hedge: {max: 0}}}",
            "model_routes.a.hedge.max: found 0; allowed: a share above 0 (without `hedge` there is no second call)",
        ),
        (
            "model_routes: {a: {url: http://a, hedge: {max: 101%}}}",
            "model_routes.a.hedge.max: found \"101%\"; allowed: a share such as 5% or 0.05, at most 100%",
        ),
        (
            "model_routes: {a: {url: http://a, batch: {window: 2s}}}",
            "model_routes.a.batch.window: found \"2s\"; allowed: a duration from 1ms to 1s",
        ),
        (
            "model_routes: {a: {url: http://a, batch: {size: 1}}}",
            "model_routes.a.batch.size: found 1; allowed: a number from 2 to 2048",
        ),
        (
            "model_routes: {a: {url: http://a, batch: {tokens: 0}}}",
            "model_routes.a.batch.tokens: found a value that isn't shown; allowed: a number above 0",
        ),
        (
            "model_routes: {a: {url: http://a, retries: 21}}",
            "model_routes.a.retries: found 21; allowed: a number from 0 to 20",
        ),
        (
            "model_routes: {a: ftp://host}",
            "model_routes.a: found \"ftp://host\"; allowed: http:// or https://",
        ),
        (
            "model_routes: {a: }",
            "model_routes.a: found nothing; allowed: a URL, the name of another route, or a mapping with url, urls or targets",
        ),
        (
            "model_routes: {\"\": http://a}",
            "model_routes.\"\": found an empty name; allowed: a model's name or a glob, without control characters",
        ),
        (
            "model_routes: {\"a\\nb\": http://a}",
            "model_routes.\"a\\nb\": found a name with a control character; allowed: a model's name or a glob, without control characters",
        ),
        (
            "model_routes: {\"a\\tb\": m1}",
            "model_routes.\"a\\tb\": found a name with a control character; allowed: a model's name or a glob, without control characters",
        ),
        (
            "model_routes: {\"m*\": http://a, a: \"m\\t2\"}",
            "model_routes.a: found \"m\\t2\"; allowed: a URL, the name of another route, or a mapping with url, urls or targets",
        ),
        (
            "model_routes: {a: {targets: [{provider: openai, model: \"m\\t2\"}]}}",
            "model_routes.a.targets[0].model: found \"m\\t2\"; allowed: the name that the upstream knows",
        ),
        (
            "model_routes: {a: m2}",
            "model_routes.a: found \"m2\"; allowed: a URL with http:// or https://, or the name of another route (did you mean `m1`?)",
        ),
        (
            "model_routes: {\"a*\": m1}",
            "model_routes.\"a*\": found \"m1\"; allowed: a URL or a mapping (an alias has an exact name, no glob)",
        ),
        (
            "model_routes: {a: b, b: c, c: a}",
            "model_routes.a: found an alias that leads back to itself (a → b → c → a); allowed: the name of another route",
        ),
        (
            "model_routes: {a: a}",
            "model_routes.a: found an alias that leads back to itself (a → a); allowed: the name of another route",
        ),
        (
            "model_routes: {z: a, a: b, b: a}",
            "model_routes.a: found an alias that leads back to itself (a → b → a); allowed: the name of another route",
        ),
        (
            "target_map: {v1/search: http://a}",
            "target_map.\"v1/search\": found the path \"v1/search\"; allowed: a path that begins with `/`, without `?query` or `#fragment`",
        ),
        (
            "target_map: {/x: opena}",
            "target_map.\"/x\": found \"opena\"; allowed: a provider: openai (did you mean `openai`?)",
        ),
        (
            "target_map: {/x: \"\"}",
            "target_map.\"/x\": found \"\"; allowed: a provider: openai",
        ),
        (
            "target_map: {/x: }",
            "target_map.\"/x\": found nothing; allowed: a URL, or a provider's name",
        ),
    ] {
        tells(
            &format!("{provider}{text}"),
            &format!("weir.yaml:2: {mistake}"),
        );
    }
    for route in ["http://b", "m2", "{targets: [{provider: other}]}"] {
        let text = format!(
            "{provider}  - {{name: other, base_url: http://b, models: [m2]}}\nmodel_routes: {{m1: {route}}}"
        );
        tells(
            &text
                .replace("providers: [", "providers:\n  - ")
                .replace("]}]", "]}"),
            "weir.yaml:2: providers[0].models[0]: found \"m1\"; allowed: a model whose entry in \
             `model_routes` has this provider as a target",
        );
    }
    let twice = told(
        "providers: [{name: a, base_url: http://a, models: [m]}, {name: b, base_url: http://b, models: [m]}]",
    );
    assert!(twice.starts_with("weir.yaml:1: providers[1].models[0]: found \"m\"; allowed: a model that no other provider lists"), "{twice}");
}

#[test]
fn unknown_providers_are_told_beside_a_faulty_one() {
    for fault in ["{base_url: http://b}", "{name: a b, base_url: http://b}"] {
        let text = format!(
            "providers: [{{name: openai, base_url: http://a}}, {fault}]\n\
             model_routes: {{m: {{targets: [{{provider: opnai}}]}}, n: {{targets: [{{provider: openai}}]}}}}\n\
             routing: {{default_provider: nobody}}\n"
        );
        let told = told(&text);
        assert_eq!(told.lines().count(), 3, "{told}");
        for mistake in [
            "weir.yaml:1: providers[1].name: ",
            "weir.yaml:2: model_routes.m.targets[0].provider: found \"opnai\"; ",
            "weir.yaml:3: routing.default_provider: found \"nobody\"; ",
        ] {
            assert!(told.contains(mistake), "{told}");
        }
    }
    // The name itself is wrong, and who uses it means that provider.
    let once =
        told("providers: [{name: a b, base_url: http://b}]\nrouting: {default_provider: a b}\n");
    assert_eq!(once.lines().count(), 1, "{once}");
    let tab = told("providers: [{name: \"a\\tb\", base_url: http://b, models: [\"m\\nn\"]}]");
    assert_eq!(tab.lines().count(), 2, "{tab}");
}

#[test]
fn a_path_with_and_without_a_slash_is_the_same() {
    tells(
        "target_map:\n  /x: http://a\n  /x/: http://b\n",
        "weir.yaml:3: target_map.\"/x/\": found the path of \"/x\" again; allowed: each path once",
    );
}

#[test]
fn the_road_out_is_read_with_its_standards() {
    let plain = settings("port: 1").egress;
    assert!(plain.proxies.is_empty());
    assert_eq!(plain.connection_max_age, Some(Duration::from_secs(600)));
    assert_eq!(plain.prewarm_max, 8);
    assert_eq!((plain.dns.search, plain.dns.ndots), (None, None));
    let full = settings(
        "proxy_url: [\"http://one:1\", \"http://u:p@two:2\"]\n\
         egress: {connection_max_age: 0s, prewarm: 0}\n\
         dns: {search: [Corp.Example., \".lan\"], ndots: 15}\n\
         providers: [{name: a, base_url: http://a, egress: [\"http://three:3\", \"http://four:4\"]}]",
    );
    let ports: Vec<u16> = full.egress.proxies.iter().map(|it| it.port).collect();
    assert_eq!(ports, [1, 2]);
    assert_eq!(full.egress.connection_max_age, None);
    assert_eq!(full.egress.prewarm_max, 0);
    let search = full.egress.dns.search.expect("domains");
    assert_eq!(search, ["corp.example", "lan"]);
    assert_eq!(full.egress.dns.ndots, Some(15));
    let Egress::Urls(own) = &full.upstream.providers[0].egress else {
        panic!(
            "proxies of its own: {:?}",
            full.upstream.providers[0].egress
        );
    };
    assert_eq!(own.len(), 2);
    let none = settings("dns: {search: []}\nproxy_url: \"\"").egress;
    assert_eq!(none.dns.search, Some(Vec::new()));
    assert!(none.proxies.is_empty());
}

#[test]
fn urls_that_no_upstream_may_have_are_mistakes() {
    let listeners = "listen: [\"127.0.0.1:8080\", \"0.0.0.0:8443\", \"[::1]:81\"]\n\
                     admin: {address: \"127.0.0.1:9900\"}\n";
    for (url, why) in [
        (
            "http://169.254.169.254/v1",
            "the metadata service of most clouds",
        ),
        (
            "http://[fd00:ec2::254]",
            "the metadata service of Amazon EC2",
        ),
        (
            "http://[::ffff:169.254.169.254]",
            "the metadata service of most clouds",
        ),
        ("http://2852039166", "the metadata service of most clouds"),
        (
            "http://169.254.169.254./v1",
            "the metadata service of most clouds",
        ),
        (
            "http://Metadata.Google.internal./v1",
            "the metadata service of Google Cloud",
        ),
        ("http://localhost.:8080", "weir itself listens there"),
        ("http://0.0.0.0:11434", "an unspecified address"),
        ("http://[::]:11434", "an unspecified address"),
        ("http://239.1.1.1", "a multicast address"),
        ("http://240.0.0.1", "a reserved address"),
        ("http://255.255.255.255", "the broadcast address"),
        ("http://127.0.0.1:8080", "weir itself listens there"),
        ("http://localhost:8080", "weir itself listens there"),
        ("http://127.0.0.1:9900", "weir itself listens there"),
        ("http://127.0.0.2:8443", "weir itself listens there"),
        ("http://[::1]:81", "weir itself listens there"),
    ] {
        for (form, path) in [
            (
                "providers: [{name: a, base_url: \"URL\"}]",
                "providers[0].base_url",
            ),
            (
                "providers: [{name: a, urls: [\"URL\"]}]",
                "providers[0].urls[0]",
            ),
            ("target_map: {/a: \"URL\"}", "target_map.\"/a\""),
            ("model_routes: {m: \"URL\"}", "model_routes.m"),
            ("model_routes: {m: {url: \"URL\"}}", "model_routes.m.url"),
        ] {
            tells(
                &format!("{listeners}{}", form.replace("URL", url)),
                &format!(
                    "weir.yaml:3: {path}: found {url:?} ({why}); allowed: the URL of a model server"
                ),
            );
        }
    }
    for url in [
        "http://127.0.0.1:8081",
        "http://127.0.0.2:8080",
        "http://localhost:11434",
        "http://10.0.0.1:8443",
        "http://[::1]:8443",
        "http://169.254.1.1",
    ] {
        settings(&format!("{listeners}target_map: {{/a: \"{url}\"}}"));
    }
}

#[test]
fn a_proxy_is_neither_weir_itself_nor_nobody() {
    let listen = "listen: [\"127.0.0.1:3128\"]\n";
    for (host, why) in [
        ("127.0.0.1:3128", "weir itself listens there"),
        ("localhost:3128", "weir itself listens there"),
        ("0.0.0.0:3129", "an unspecified address"),
        ("[ff02::1]:3128", "a multicast address"),
    ] {
        tells(
            &format!("{listen}proxy_url: \"http://u:secret@{host}\""),
            &format!(
                "weir.yaml:2: proxy_url: found \"http://***\" ({why}); allowed: the address of a proxy"
            ),
        );
        tells(
            &format!(
                "{listen}providers: [{{name: a, base_url: http://a, egress: \"http://{host}\"}}]"
            ),
            &format!(
                "weir.yaml:2: providers[0].egress: found \"http://***\" ({why}); allowed: the address of a proxy"
            ),
        );
        let env = |name: &str| (name == "HTTPS_PROXY").then(|| host.to_owned());
        let text = format!("{listen}egress: {{from_env: true}}");
        let mistakes = parse(&text, "weir.yaml", &env).expect_err("no proxy");
        assert_eq!(
            mistakes.to_string(),
            format!(
                "weir.yaml:2: egress.from_env: found the variable HTTPS_PROXY, which names no proxy ({why}); allowed: the address of a proxy"
            )
        );
    }
    settings(&format!("{listen}proxy_url: \"http://127.0.0.1:3129\""));
}

#[test]
fn lists_that_do_not_do_what_they_say_are_warned_of() {
    let warnings = |text: &str| settings(text).warnings;
    assert_eq!(
        warnings("proxy_url: http://p:1\negress: {direct: [a.b.test, c.test], proxied: [.b.test]}"),
        ["egress.direct: a.b.test has no effect, as egress.proxied has .b.test"]
    );
    assert_eq!(
        warnings("egress: {proxied: [.b.test]}"),
        ["egress.proxied: there is no proxy_url, so these hosts can't be reached"]
    );
    assert_eq!(
        warnings("proxy_url: http://p:1\negress: {direct: [.b.test], proxied: [a.b.test]}"),
        [""; 0]
    );
}

#[test]
fn the_environment_names_the_proxy_where_the_file_lets_it() {
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let with = |text: &str, variables: Variables<'_>| {
        let env = |name: &str| {
            let mut found = variables.iter().filter(|(key, _)| *key == name);
            found.next().map(|(_, value)| (*value).to_owned())
        };
        parse(text, "weir.yaml", &env)
    };
    const FROM_ENV: &str = "egress: {from_env: true}";
    for (text, variables, proxy, warnings) in [
        (FROM_ENV, &[][..], None, 0),
        ("port: 1", &[("HTTPS_PROXY", "http://p:1")], None, 0),
        (
            "egress: {from_env: false}",
            &[("HTTPS_PROXY", "http://p:1")],
            None,
            0,
        ),
        (FROM_ENV, &[("HTTPS_PROXY", "http://p:1")], Some("p:1"), 0),
        (FROM_ENV, &[("https_proxy", "http://p:1/")], Some("p:1"), 0),
        (FROM_ENV, &[("ALL_PROXY", "http://p:1")], Some("p:1"), 0),
        (FROM_ENV, &[("all_proxy", "p:1")], Some("p:1"), 0),
        (FROM_ENV, &[("HTTPS_PROXY", " u:pw@p:1 ")], Some("p:1"), 0),
        (FROM_ENV, &[("HTTPS_PROXY", "u:pw@p")], Some("p:80"), 1),
        (FROM_ENV, &[("HTTPS_PROXY", "http://p/")], Some("p:80"), 1),
        (
            FROM_ENV,
            &[("HTTPS_PROXY", "http://[fd00::1]")],
            Some("fd00::1:80"),
            1,
        ),
        (FROM_ENV, &[("HTTPS_PROXY", "https://p")], Some("p:443"), 0),
        (
            FROM_ENV,
            &[("HTTPS_PROXY", "socks5://p")],
            Some("p:1080"),
            0,
        ),
        (FROM_ENV, &[("HTTPS_PROXY", "")], None, 0),
        // Used for all, which is told.
        (FROM_ENV, &[("http_proxy", "http://p:1")], Some("p:1"), 1),
        (FROM_ENV, &[("HTTP_PROXY", "http://p:1")], Some("p:1"), 1),
        // A client's header.
        (
            FROM_ENV,
            &[("HTTP_PROXY", "http://p:1"), ("REQUEST_METHOD", "GET")],
            None,
            0,
        ),
        (
            FROM_ENV,
            &[
                ("HTTPS_PROXY", "http://p:1"),
                ("HTTP_PROXY", "http://p:1"),
                ("ALL_PROXY", "http://p:1"),
            ],
            Some("p:1"),
            0,
        ),
        (
            FROM_ENV,
            &[("HTTPS_PROXY", "http://p:1"), ("https_proxy", "http://q:2")],
            Some("q:2"),
            1,
        ),
        (
            FROM_ENV,
            &[("HTTPS_PROXY", "http://p:1"), ("http_proxy", "http://q:2")],
            Some("p:1"),
            1,
        ),
        // The file's own wins.
        (
            "egress: {from_env: true}\nproxy_url: \"http://own:3\"",
            &[("HTTPS_PROXY", "not a proxy")],
            Some("own:3"),
            0,
        ),
    ] {
        let found = with(text, variables).unwrap_or_else(|it| panic!("{variables:?}: {it}"));
        let proxies: Vec<String> = (found.egress.proxies.iter())
            .map(|it| format!("{}:{}", it.host, it.port))
            .collect();
        let proxies: Vec<&str> = proxies.iter().map(String::as_str).collect();
        assert_eq!(proxies, proxy.as_slice(), "{variables:?}");
        assert_eq!(
            found.warnings.len(),
            warnings,
            "{variables:?}: {:?}",
            found.warnings
        );
    }

    let faulty = with(FROM_ENV, &[("HTTPS_PROXY", "ftp://geheim@p:1")]);
    let faulty = faulty.expect_err("no proxy").to_string();
    assert!(
        faulty.starts_with(
            "weir.yaml:1: egress.from_env: found the variable HTTPS_PROXY, which is no proxy's URL"
        ),
        "{faulty}"
    );
    assert!(!faulty.contains("geheim"), "{faulty}");
    // A provider may have `egress: proxy` then.
    let proxied = "egress: {from_env: true}\n\
                   providers: [{name: a, base_url: http://a, egress: proxy}]";
    assert!(with(proxied, &[("HTTPS_PROXY", "http://p:1")]).is_ok());
    assert!(with(proxied, &[]).is_err());
}

#[test]
fn the_environment_names_the_hosts_without_a_proxy_where_the_file_lets_it() {
    let with = |text: &str, lower: Option<&str>, upper: Option<&str>| {
        let env = |name: &str| match name {
            "no_proxy" => lower.map(str::to_owned),
            "NO_PROXY" => upper.map(str::to_owned),
            _ => None,
        };
        let found = parse(text, "weir.yaml", &env).unwrap_or_else(|it| panic!("{it}"));
        let patterns = found.egress.no_proxy.iter().map(ToString::to_string);
        (patterns.collect::<Vec<_>>(), found.warnings)
    };
    const FROM_ENV: &str = "egress: {from_env: true, direct: [a.test]}";
    let some = Some("corp.test,10.0.0.0/8");
    assert_eq!(with("port: 1", some, some), (vec![], vec![]));
    let both = vec![".corp.test".to_owned(), "10.0.0.0/8".to_owned()];
    assert_eq!(with(FROM_ENV, some, None), (both.clone(), vec![]));
    assert_eq!(with(FROM_ENV, None, some), (both.clone(), vec![]));
    assert_eq!(with(FROM_ENV, some, some), (both.clone(), vec![]));
    let (patterns, warnings) = with(FROM_ENV, some, Some("other.test"));
    assert_eq!((patterns, warnings.len()), (both, 1));
    let (patterns, warnings) = with(FROM_ENV, None, Some("10.,corp.test"));
    assert_eq!(patterns, [".corp.test"]);
    assert_eq!(
        warnings,
        ["egress.from_env: NO_PROXY: \"10.\" is left out: networks are written such as 10.0.0.0/8"]
    );
}

#[test]
fn headers_and_the_road_are_checked() {
    for (text, mistake) in [
        (
            "headers: {request: {set: {\"a b\": x}}}",
            "headers.request.set.\"a b\": found the header \"a b\"; allowed: a header's name: letters, digits and `-`",
        ),
        (
            "headers: {response: {remove: [Transfer-Encoding]}}",
            "headers.response.remove[0]: found \"Transfer-Encoding\"; allowed: a header that doesn't belong to the connection",
        ),
        (
            "headers: {request: {set: {X-A: a, x-a: b}}}",
            "headers.request.set.x-a: found the same header again; allowed: each header once",
        ),
        (
            "headers: {request: {set: {X-A: \"{nobody}\"}}}",
            "headers.request.set.X-A: found the placeholder {nobody}; allowed: a header's value: one line of text, with {request_id}, {client_ip}, {client_cert}, {team}, {key}, {model}, and {{ for a brace",
        ),
        (
            "egress: {direct: [\"a b\"]}",
            "egress.direct[0]: found \"a b\"; allowed: a host, .suffix, *.suffix, IP address, network such as 10.0.0.0/8 or <local>, each with or without :port",
        ),
        (
            "egress: {connection_max_age: 1500ms}",
            "egress.connection_max_age: found \"1500ms\"; allowed: 0s (never), or whole seconds up to 30d",
        ),
        (
            "egress: {connection_max_age: 31d}",
            "egress.connection_max_age: found \"31d\"; allowed: 0s (never), or whole seconds up to 30d",
        ),
        (
            "egress: {prewarm: 1001}",
            "egress.prewarm: found 1001; allowed: a number from 0 (off) to 1000",
        ),
        (
            "dns: {search: [corp.example, \"a b\"]}",
            "dns.search[1]: found \"a b\"; allowed: a domain such as corp.example",
        ),
        (
            "dns: {search: [a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a]}",
            "dns.search: found a list of 17; allowed: at most 16 domains",
        ),
        (
            "dns: {ndots: 16}",
            "dns.ndots: found 16; allowed: a number from 0 to 15",
        ),
        (
            "proxy_url: [\"http://one:1\", \"http://user:secret\"]",
            "proxy_url[1]: found \"http://***\"; allowed: http://[user:password@]host:port, or https, socks5, socks5h (%25 %3A %40 %2F for %, :, @ and / in user or password)",
        ),
        (
            "proxy_url: {a: b}",
            "proxy_url: found a mapping; allowed: a text or a list of texts",
        ),
        (
            "proxy_url: \"http://user:secret\"",
            "proxy_url: found \"http://***\"; allowed: http://[user:password@]host:port, or https, socks5, socks5h (%25 %3A %40 %2F for %, :, @ and / in user or password)",
        ),
        (
            "proxy_url: \"user:secret@proxy:3128\"",
            "proxy_url: found \"***\"; allowed: http://[user:password@]host:port, or https, socks5, socks5h (%25 %3A %40 %2F for %, :, @ and / in user or password)",
        ),
    ] {
        tells(text, &format!("weir.yaml:1: {mistake}"));
    }
}

#[test]
fn keys_of_later_versions_are_answered() {
    let text = told(
        r#"limits: {in_flight_tokens: 5, queue: {size: 10, timeout: 1s}}
# teams were once later, too
prices: {gpt-4o: {input: 2.5}}
shared_state: redis://:secret@127.0.0.1
usage: {store: sqlite, retain: 90d}
tracing: {otlp_endpoint: http://127.0.0.1:4317}
logging: {bodies: true}
proxy_url: socks4://user:secret@proxy:1080
providers:
  - name: a
    base_url: https://a.example
    dialect: anthropic
    max_in_flight: 5
    egress: https://proxy:3128
model_routes:
  m: {url: http://a, fallback: [n]}
  n: {url: http://a}
"#,
    );
    let lines: Vec<&str> = text.lines().collect();
    let expected = [
        "6: tracing.otlp_endpoint: not built yet: tracing.otlp_endpoint",
        "7: logging.bodies: not built yet: logging.bodies",
        "8: proxy_url: found \"socks4://***\"; allowed: http://[user:password@]host:port, or https, socks5, socks5h (%25 %3A %40 %2F for %, :, @ and / in user or password)",
    ];
    let expected: Vec<String> = expected
        .iter()
        .map(|line| format!("weir.yaml:{line}"))
        .collect();
    assert_eq!(lines, expected);
}

#[test]
fn fallbacks_lead_to_other_routes_once_each() {
    let text = told(
        r#"model_routes:
  m: {url: http://a, fallback: [n, nick, m, small, "qwen*", qwen-7b, n]}
  n: {url: http://a}
  nick: name
  name: m
  "qwen*": {url: http://a, fallback: [qwen-7b]}
"#,
    );
    let lines: Vec<&str> = text.lines().collect();
    let at = |index: usize, found: &str| {
        format!(
            "weir.yaml:2: model_routes.m.fallback[{index}]: found {found}; allowed: the name of another \
             model that `model_routes` has"
        )
    };
    let expected = [
        at(1, "another name of the same route"),
        at(2, "\"m\""),
        at(3, "\"small\""),
        at(4, "\"qwen*\""),
        at(6, "\"n\" again"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn how_endpoints_are_watched_and_chosen_is_checked() {
    let text = told(
        r#"routing: {all_open: maybe}
providers:
  - name: a
    base_url: https://a.example
    breaker: {failures: 0, failure_rate: 1.5, slow_rate: 2, window: 10ms, open: 0s, probes: 101}
    health: {path: ready, interval: 0s, timeout: 0s, rise: 0, fall: 101}
  - {name: b, base_url: https://b.example, breaker: on}
model_routes:
  m: {url: http://a, hash: {by: key}}
  n: {url: http://a, balance: hash, hash: {by: header, prefix: 0, bound: 0.9}}
  o: {url: http://a, balance: hash, hash: {header: "a b"}}
  p: {url: http://a, balance: hash, hash: {header: x-session}}
"#,
    );
    for part in [
        "1: routing.all_open: ",
        "5: providers[0].breaker.failures: found 0; allowed: a whole number from 1 to 1000000",
        "5: providers[0].breaker.failure_rate: found 1.5; allowed: a share from 0 to 1, such as 0.5",
        "5: providers[0].breaker.slow_rate: ",
        "5: providers[0].breaker.window: ",
        "5: providers[0].breaker.open: ",
        "5: providers[0].breaker.probes: ",
        "6: providers[0].health.path: found \"ready\"; allowed: a path such as /v1/models",
        "6: providers[0].health.interval: ",
        "6: providers[0].health.timeout: ",
        "6: providers[0].health.rise: ",
        "6: providers[0].health.fall: ",
        "7: providers[1].breaker: ",
        "9: model_routes.m.hash: ",
        "10: model_routes.n.hash.header: ",
        "10: model_routes.n.hash.prefix: ",
        "10: model_routes.n.hash.bound: ",
        "11: model_routes.o.hash.header: ",
        "12: model_routes.p.hash.header: ",
    ] {
        assert!(
            text.contains(&format!("weir.yaml:{part}")),
            "{part} in\n{text}"
        );
    }
    assert_eq!(text.lines().count(), 19, "{text}");
}

#[test]
fn endpoints_are_watched_unless_that_is_off() {
    let of = |text: &str| settings(text).upstream.providers[0].clone();
    let standard = of("model_routes: {m: http://a}");
    assert!(
        standard
            .breaker
            .is_some_and(|it| it.failures == 5 && it.probes == 1)
    );
    assert_eq!(standard.health, None);
    assert_eq!(standard.slow_start, Duration::from_secs(10));
    let off =
        of("providers: [{name: a, base_url: http://a, breaker: off, health: {}, slow_start: 0s}]");
    assert_eq!(off.breaker, None);
    assert!(
        off.health
            .is_some_and(|it| it.path == "/v1/models" && it.fall == 3)
    );
    assert_eq!(off.slow_start, Duration::ZERO);
}

// === all at once ===

#[test]
fn twelve_mistakes_are_told_at_once_without_echoes() {
    let text = r#"prot: 8080
listen: ["0.0.0.0:80", "0.0.0.0:80"]
limits: {body_bytes: huge}
timeouts:
  connect: 0s
  first_byt: 3s
dns: {min_ttl: 10m}
proxy_url: "${PROXY}"
providers:
  - nme: openai
    base_url: htp://api.openai.com
  - name: second
    base_url: https://second.example
    egress: proxy
model_routes:
  a: {targets: [{provider: openai}, {provider: second, weight: 0}]}
  b: [not, a, route]
  c: b
  d: nowhere
target_map: {v1: https://a.example}
"#;
    let mistakes = read(text).expect_err("mistakes");
    let places: Vec<(usize, &str)> = mistakes
        .0
        .iter()
        .map(|mistake| (mistake.line.expect("a line"), mistake.path.as_str()))
        .collect();
    assert_eq!(
        places,
        [
            (1, "prot"),
            (2, "listen[1]"),
            (3, "limits.body_bytes"),
            (5, "timeouts.connect"),
            (6, "timeouts.first_byt"),
            (7, "dns.min_ttl"),
            (8, "proxy_url"),
            (10, "providers[0].nme"),
            (10, "providers[0].name"),
            (11, "providers[0].base_url"),
            (16, "model_routes.a.targets[1].weight"),
            (17, "model_routes.b"),
            (19, "model_routes.d"),
            (20, "target_map.v1"),
        ],
        "{mistakes}"
    );
}

#[test]
fn mistakes_can_be_read_by_programs() {
    let mistakes = read("prot: 1\nlogging: {bodies: true}").expect_err("mistakes");
    let json = serde_json::to_value(&mistakes).expect("JSON");
    assert_eq!(json[0]["file"], "weir.yaml");
    assert_eq!(json[0]["line"], 1);
    assert_eq!(json[0]["path"], "prot");
    assert_eq!(json[0]["found"], "an unknown key");
    assert_eq!(json[0]["did_you_mean"], "port");
    assert_eq!(json[1]["not_built_yet"], "logging.bodies");
}

#[test]
fn no_mistake_shows_a_secret() {
    let env = |name: &str| match name {
        "SECRET" => Some("geheim 1".to_owned()),
        "WORD" => Some("geheim".to_owned()),
        _ => None,
    };
    for text in [
        "admin: {token: \"${SECRET}\"}",
        "port: ${SECRET}",
        "threads: ${SECRET}",
        "state_dir: [\"${SECRET}\"]",
        "logging: {level: \"${SECRET}\"}",
        "proxy_url: \"${SECRET}\"",
        "proxy_url: \"http://u:${SECRET}@h:x\"",
        "proxy_url: [\"http://u:${SECRET}@h:x\", \"http://geheim@h:x\", geheim@h]",
        "proxy_url: \"http://geheim:geheim@h:x\"",
        "proxy_url: \"http://u:geheim:@h:0/geheim\"",
        "port: ${NOPE:-geheim}",
        "headers: {request: {remove: [\"${SECRET}\"]}}",
        "providers: [{name: a, base_url: \"${WORD}://host\"}]",
        "providers: [{name: \"${SECRET}\", base_url: http://a}]\nrouting: {default_provider: b}",
        "model_routes: {a: \"${WORD}\"}",
        "providers: [{name: \"${SECRET}\", base_url: \"http://${SECRET}\"}]",
        "providers: [{name: a, base_url: \"http://geheim@h\"}]",
        "providers: [{name: a, base_url: http://h, api_key: [geheim]}]",
        "providers: [{name: a, base_url: http://h, api_key: \"geheim \"}]",
        "providers: [{name: a, base_url: http://h, egress: \"http://geheim@h:p\"}]",
        "providers: [{name: a, base_url: http://h, egress: \"${SECRET}\"}]",
        "providers: [{name: a, base_url: http://h, headers: {set: {X-Key: \"geheim {\"}}}]",
        "headers: {request: {set: {X-A: \"${SECRET}\\u0001\"}}}",
        "headers: {request: {set: {X-A: \"{${WORD}}\"}}}",
        "headers: {request: {set: {X-A: '{\"password\":\"geheim\"}'}}}",
        "headers: {request: {set: {X-A: \"$${${WORD}}\"}}}",
        "model_routes: {a: \"${SECRET}\"}",
        "model_routes: {a: \"${SECRET}://x\"}",
        "target_map: {/a: \"${SECRET}\"}",
        "routing: {default_provider: \"${SECRET}\"}",
        "dns: {servers: [\"${SECRET}\"]}",
        "egress: {direct: [\"${SECRET}\"]}",
        "listen: [\"${SECRET}\"]",
        "listen: [{address: \"unix:/a\", mode: \"${SECRET}\", owner: \"${SECRET}\"}]",
        "listen: [{address: 0.0.0.0:1, tls: {certificates: [{cert: \"${SECRET}\", key: \"${SECRET}\"}]}}]",
        "listen: [{address: 0.0.0.0:1, tls: {acme: {domains: [\"${SECRET}\"], email: \"${SECRET}\"}}}]",
        "listen: [{address: 0.0.0.0:1, tls: {acme: {domains: [a], directory: \"https://u:geheim@h\"}}}]",
        "listen: [{address: 0.0.0.0:1, tls: {acme: {domains: [a], directory: \"https://h?key=geheim\"}}}]",
        "listen: [{address: 0.0.0.0:1, tls: {acme: {domains: [a], directory: \"${WORD}://h\"}}}]",
        "trusted_proxies: [\"${SECRET}\"]",
        "providers: [{name: a, base_url: http://h, tls: {ca: \"${SECRET}\"}}]",
        "providers: [{name: a, base_url: http://h, api_key: \"file:${SECRET}\"}]",
    ] {
        let mistakes = parse(text, "w", &env).expect_err(text);
        let shown = format!("{mistakes} {mistakes:?}");
        assert!(!shown.contains("geheim"), "{text}\n{shown}");
    }
}

#[test]
fn a_bomb_of_aliases_is_refused_quickly() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        let list = vec![below; 9].join(", ");
        writeln!(text, "a{level}: &a{level} [{list}]").expect("a String");
    }
    assert!(told(&text).contains("repetition limit exceeded"));
    assert!(told("a: &a [*a]").contains("isn't YAML"));
    let lists = "[".repeat(100) + &"]".repeat(100);
    assert!(told(&format!("target_map: {lists}")).contains("found a list; allowed: a mapping"));
}

#[test]
fn after_many_mistakes_the_rest_is_left() {
    let mut text = String::new();
    for key in 0..5000 {
        writeln!(text, "key{key}: {key}").expect("a String");
    }
    assert_eq!(read(&text).expect_err("mistakes").0.len(), 200);
}

#[test]
fn no_mutation_of_the_reference_panics() {
    let reference = std::fs::read_to_string(conf("weir.yaml")).expect("conf/weir.yaml");
    let env = |name: &str| (name == "OPENAI_API_KEY").then(|| "sk-1".to_owned());
    let pieces = [
        "",
        ":",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "\n",
        "  ",
        "'",
        "\"",
        "&a ",
        "*a",
        "<<: *a",
        "!x ",
        "|",
        ">",
        "? ",
        "${",
        "}",
        "null",
        "-1",
        "1e99",
        "0x1F",
        ".nan",
        "é",
        "\u{feff}",
        "\0",
        "\t",
        "# ",
        "---\n",
        "%",
        "@",
        "99999999999999999999",
        "file:",
        "unix:",
        "http://",
        "true",
    ];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut refused = 0;
    for text in [
        reference.replace("# ", ""),
        reference,
        GO_LLM_PROXY.to_owned(),
    ] {
        for _ in 0..400 {
            let mut bytes: Vec<char> = text.chars().collect();
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len());
                let end = (at + random.below(12)).min(bytes.len());
                let piece = pieces[random.below(pieces.len())];
                bytes.splice(at..end, piece.chars());
            }
            let mutated: String = bytes.into_iter().collect();
            if let Err(mistakes) = parse(&mutated, "w", &env) {
                assert!(!mistakes.0.is_empty());
                let last = mutated.lines().count() + 1;
                let lines = mistakes.0.iter().filter_map(|mistake| mistake.line);
                assert!(
                    lines.clone().all(|line| (1..=last).contains(&line)),
                    "{mistakes}\n{mutated}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "only {refused} mutations were refused");
}

/// xorshift64*: the same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        (number as usize) % bound.max(1)
    }
}

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("weir-config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// === limits and prices ===

#[test]
fn limits_of_addresses_and_routes_and_the_queue_are_read() {
    let read = settings(
        r#"
limits:
  in_flight_tokens: 5000
  per_address: {requests_per_minute: 60, requests_burst: 10, tokens_per_minute: 100, in_flight: 3}
  cached_tokens: ignore
  unpriced: allow
  unmetered: allow
  queue: {size: 7, timeout: 2s}
model_routes:
  a: {url: http://a, limits: {requests_per_minute: 5}, on_limit: wait}
  b: {url: http://b}
"#,
    );
    let govern = &read.govern;
    let address = &govern.per_address;
    assert_eq!(
        (address.requests_per_minute, address.requests_burst),
        (60, 10)
    );
    assert_eq!((address.tokens_per_minute, address.in_flight), (100, 3));
    assert_eq!(govern.in_flight_tokens_max, 5000);
    assert!(!govern.cached_tokens_count);
    let allow = weir::govern::settings::Unmetered::Allow;
    assert_eq!(govern.unmetered, allow);
    assert_eq!((govern.queue.size, govern.queue.timeout.as_secs()), (7, 2));
    let [(route, terms)] = &govern.routes[..] else {
        panic!("one route has terms: {:?}", govern.routes);
    };
    assert_eq!((route.as_str(), terms.waits), ("a", true));
    assert_eq!(terms.allowance.requests_per_minute, 5);
    tells(
        "model_routes: {a: {url: \"http://a\", limits: {requests_burst: 5}}}",
        "weir.yaml:1: model_routes.a.limits.requests_burst: found 5; allowed: none without `requests_per_minute`",
    );
}

#[test]
fn of_several_providers_none_takes_all_seats_unless_the_file_says_so() {
    let places = |text: &str| {
        let read = settings(text);
        let all = read.upstream.providers.into_iter().map(|it| it.places);
        let places = all.map(|it| (it.max, it.endpoint_max, it.queue_max));
        places.collect::<Vec<_>>()
    };
    let one = "model_routes: {a: http://a}";
    assert_eq!(places(one), [(0, 0, 1000)]);
    let two = "model_routes: {a: http://a, b: http://b}";
    assert_eq!(places(two), [(7500, 0, 1000); 2]);
    let of = |limits: &str| places(&format!("{two}\nlimits: {limits}"));
    assert_eq!(of("{in_flight: 0, queue: {size: 5}}"), [(0, 0, 5); 2]);
    assert_eq!(of("{in_flight: 1000}"), [(750, 0, 125); 2]);
    let said = "providers:
- {name: a, base_url: http://a, max_in_flight: 0}
- {name: b, base_url: http://b, max_in_flight: 5, endpoint_max_in_flight: 2, queue: {size: 0}}
- {name: c, base_url: http://c, queue: {timeout: 3s}}
limits: {in_flight: 8, queue: {timeout: 2s}}";
    assert_eq!(places(said), [(0, 0, 1000), (5, 2, 0), (6, 0, 1)]);
    let timeouts = settings(said).upstream.providers;
    let timeouts = timeouts.iter().map(|it| it.places.queue_timeout.as_secs());
    assert_eq!(timeouts.collect::<Vec<_>>(), [2, 2, 3]);
}

#[test]
fn teams_and_keys_have_a_priority() {
    use weir::govern::settings::PriorityHeader;
    use weir::types::Priority;
    let read = settings(
        "teams:
- {name: a, keys: [{name: k, client_cert: CN=a, priority: high}]}
- {name: b, priority: batch, priority_header: any}",
    );
    let teams = read.govern.teams.expect("teams");
    let told = |at: usize| (teams[at].priority, teams[at].priority_header);
    assert_eq!(told(0), (Priority::Normal, PriorityHeader::Lower));
    assert_eq!(told(1), (Priority::Batch, PriorityHeader::Any));
    assert_eq!(teams[0].keys[0].priority, Some(Priority::High));
    tells(
        "teams: [{name: a, priority: urgent}]",
        "weir.yaml:1: teams[0].priority: found \"urgent\"; allowed: high, normal, batch",
    );
}

#[test]
fn prices_are_read_and_a_list_of_ones_own_replaces_the_shipped_one() {
    let read = settings(
        r#"
providers: [{name: east, base_url: "http://east"}]
prices: {gpt-4o: {input: 2.5, output: 10, max_output: 5}, "east/org/x": {input: 1}, "org/*": {image: 0.04}}
"#,
    );
    let own: Vec<_> = (read.tokens.own.iter())
        .map(|it| (it.provider.as_deref(), it.model.as_str()))
        .collect();
    let wanted = [(None, "gpt-4o"), (Some("east"), "org/x"), (None, "org/*")];
    assert_eq!(own, wanted);
    assert_eq!(read.tokens.own[0].price.output_max, 5);
    assert!(read.tokens.list.len() > 50, "the shipped list");
    let folder = Folder::new("prices");
    folder.write(
        "mine.yaml",
        "as_of: \"2026-01-01\"\nmodels: {mine: {input: 1}}\n",
    );
    folder.write("broken.yaml", "models: {mine: {input: 1}}\n");
    let file = |name: &str| {
        let path = folder.0.join(name);
        parse(&format!("prices_file: {}", path.display()), "w", &no_env)
    };
    let read = file("mine.yaml").unwrap_or_else(|it| panic!("{it}"));
    assert_eq!(read.tokens.list.len(), 1);
    let told = file("broken.yaml").expect_err("no as_of").to_string();
    assert!(told.contains("as_of"), "{told}");
    let told = file("absent.yaml").expect_err("no file").to_string();
    assert!(told.contains("can't be read"), "{told}");
    tells(
        "prices: {a: {input: 10000000}}",
        "weir.yaml:1: prices.a.input: found 10000000; allowed: US dollars: a number from 0 to 1000000",
    );
}

// === teams ===

const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

#[test]
fn teams_and_keys_are_read_with_their_limits_and_budgets() {
    use weir::govern::settings::{Credential, Period};
    let text = format!(
        "teams:
  - name: search
    models: [\"gpt-4o*\", /v1/search*]
    limits: {{requests_per_minute: 600, tokens_per_minute: 200000, in_flight: 50, in_flight_tokens: 500000}}
    budget: [{{usd: 500, per: month}}, {{usd: 12.5, per: day, warn: [0.9, 0.5]}}]
    keys:
      - {{name: ci, sha256: {HASH}, expires: 2999-01-01, models: [gpt-4o], limits: {{requests_per_minute: 60}}, budget: {{usd: 1, per: total, warn: []}}}}
      - {{name: laptop, client_cert: \"CN=ana,O=search\"}}
  - {{name: empty}}
"
    );
    let settings = settings(&text);
    let teams = settings.govern.teams.expect("teams");
    assert_eq!(teams.len(), 2);
    let (search, empty) = (&teams[0], &teams[1]);
    assert_eq!((&*search.name, &*empty.name), ("search", "empty"));
    let models = search.models.as_ref().expect("models");
    assert!(
        models.contain("gpt-4o-mini") && models.contain("/v1/search/x") && !models.contain("o1")
    );
    let allowance = &search.allowance;
    let limits = [
        allowance.requests_per_minute,
        allowance.tokens_per_minute,
        allowance.in_flight,
        allowance.in_flight_tokens,
    ];
    assert_eq!(limits, [600, 200_000, 50, 500_000]);
    let budgets: Vec<_> = (allowance.budgets.iter())
        .map(|it| (it.limit.to_string(), it.per, it.warn_at.clone()))
        .collect();
    assert_eq!(
        budgets,
        [
            ("500.00".into(), Period::Month, vec![0.8]),
            ("12.50".into(), Period::Day, vec![0.5, 0.9])
        ]
    );
    let [ci, laptop] = &search.keys[..] else {
        panic!("{:?}", search.keys)
    };
    let Credential::Sha256(digest) = &ci.credential else {
        panic!("{ci:?}")
    };
    assert_eq!((digest[0], digest[31]), (0x2b, 0x5b));
    let expires = ci
        .expires
        .expect("a day")
        .duration_since(std::time::UNIX_EPOCH);
    assert_eq!(expires.expect("later").as_secs(), 32_472_144_000);
    assert_eq!(ci.allowance.requests_per_minute, 60);
    assert_eq!(ci.allowance.budgets[0].per, Period::Total);
    assert!(ci.allowance.budgets[0].warn_at.is_empty());
    assert_eq!(
        laptop.credential,
        Credential::ClientCert("CN=ana,O=search".into())
    );
    assert!(empty.models.is_none() && empty.keys.is_empty());
    let [warning] = &settings.warnings[..] else {
        panic!("{:?}", settings.warnings)
    };
    assert!(
        warning.contains("teams[0].keys[1].client_cert: no listener asks"),
        "{warning}"
    );
}

#[test]
fn mistakes_of_teams_are_told_with_their_places_and_no_secret() {
    let text = told(&format!(
        "teams:
  - {{name: a, models: [], keys: [{{name: k, sha256: {HASH}}}, {{name: k, sha256: sk-plaintext-secret}}]}}
  - {{name: a, budget: {{usd: 0, per: month}}}}
  - {{name: b/c, budget: [{{usd: 1, per: day}}, {{usd: 2, per: day}}, {{usd: 3}}, {{per: dya}}]}}
  - name: d
    keys:
      - {{name: one, sha256: {HASH}}}
      - {{name: two, sha256: {HASH}, client_cert: CN=x}}
      - {{name: three}}
      - {{sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}}
      - {{name: five, client_cert: CN=x, expires: tomorrow, models: [\"\"]}}
      - {{name: six, client_cert: CN=x, budget: 5}}
  - {{name: other}}
"
    ));
    for expected in [
        "2: teams[0].models: found an empty list; allowed: at least one name or glob",
        "2: teams[0].keys[1].name: found \"k\" a second time (first at teams[0].keys[0].name)",
        "2: teams[0].keys[1].sha256: found 19 characters, which aren't shown; allowed: the SHA-256 of the \
         key in 64 hexadecimal digits, which `printf %s \"$KEY\" | sha256sum` prints",
        "3: teams[1].name: found \"a\" a second time (first at teams[0].name)",
        "3: teams[1].budget.usd: found 0; allowed: US dollars: a number above 0",
        "4: teams[2].name: found \"b/c\"; allowed: a name of 1 to 64 letters",
        "4: teams[2].budget[1].per: found \"day\"; allowed: each period once",
        "4: teams[2].budget[2].per: found nothing; allowed: day, week, month, year or total",
        "4: teams[2].budget[3].per: found \"dya\"",
        "4: teams[2].budget[3].usd: found nothing; allowed: US dollars",
        "7: teams[3].keys[0].sha256: found what is the key at teams[0].keys[0].sha256 already",
        "8: teams[3].keys[1].client_cert: found \"CN=x\"; allowed: either `sha256` or `client_cert`, not both",
        "9: teams[3].keys[2]: found neither `sha256` nor `client_cert`",
        "10: teams[3].keys[3].name: found nothing",
        "10: teams[3].keys[3].sha256: found the SHA-256 of an empty text",
        "11: teams[3].keys[4].expires: found \"tomorrow\"; allowed: a day such as 2027-01-31",
        "11: teams[3].keys[4].models[0]: found \"\"",
        "12: teams[3].keys[5].client_cert: found what is the key at teams[3].keys[4].client_cert already",
        "12: teams[3].keys[5].budget: found 5; allowed: a mapping such as {usd: 500, per: month}",
        "13: teams[4].name: found \"other\", which stands for no team in metrics",
    ] {
        let found = text.lines().any(|line| line.contains(expected));
        assert!(found, "no {expected:?} in:\n{text}");
    }
    assert!(!text.contains("plaintext-secret"), "{text}");
    let empty = told("teams: []");
    assert!(
        empty.contains("at least one team, or no `teams` at all"),
        "{empty}"
    );
}

#[test]
fn a_key_whose_time_is_over_is_a_warning() {
    let warnings = settings(&format!(
        "teams: [{{name: a, keys: [{{name: k, sha256: {HASH}, expires: 2020-01-01}}]}}]"
    ))
    .warnings;
    assert!(
        warnings[0].contains("teams[0].keys[0].expires: the key has expired (2020-01-01)"),
        "{warnings:?}"
    );
}

// === shared state ===

#[test]
fn a_shared_state_is_a_url_or_a_mapping_and_its_password_is_never_told() {
    use weir::govern::shared::OnDown;
    let shared = |text: &str| settings(text).shared_state.expect("a shared state");
    let short = shared("shared_state: redis://127.0.0.1\non_shared_state_down: local");
    assert_eq!(short.server.to_string(), "redis://127.0.0.1:6379/0");
    assert_eq!(
        (short.on_down, short.prefix.as_str()),
        (OnDown::Local, "weir")
    );
    assert_eq!(short.lease, Duration::from_secs(15));
    let long = shared(
        "shared_state: {url: \"rediss://ana:s3cret@cache.example:7000/2\", on_down: refuse, prefix: edge, lease: 3s}",
    );
    assert_eq!(long.server.to_string(), "rediss://cache.example:7000/2");
    assert_eq!(
        (long.on_down, long.prefix.as_str()),
        (OnDown::Refuse, "edge")
    );
    assert!(!format!("{long:?}").contains("s3cret"));
    assert_eq!(settings("shared_state: null").shared_state, None);
    assert_eq!(settings("shared_state: \"\"").shared_state, None);
    for (text, mistake) in [
        (
            "shared_state: http://s3cret@cache",
            "weir.yaml:1: shared_state: found \"http://***\"; allowed: a URL such as redis://:password@host:6379/0, or rediss:// for TLS",
        ),
        (
            "shared_state: {url: \"redis://:s3cret@cache/x\"}",
            "weir.yaml:1: shared_state.url: found \"redis://***\"; allowed: the number of a database after the host",
        ),
        (
            "shared_state: {on_down: local}",
            "weir.yaml:1: shared_state.url: found nothing; allowed: a URL such as redis://127.0.0.1:6379",
        ),
        (
            "shared_state: {url: \"redis://cache\", lease: 2s}",
            "weir.yaml:1: shared_state.lease: found \"2s\"; allowed: a duration from 3s to 1h",
        ),
        (
            "shared_state: {url: \"redis://cache\", prefix: \"a b\"}",
            "weir.yaml:1: shared_state.prefix: found \"a b\"; allowed: 1 to 100 visible ASCII characters, none of them { or }",
        ),
        (
            "on_shared_state_down: local\nshared_state: {url: \"redis://cache\", on_down: refuse}",
            "weir.yaml:1: on_shared_state_down: found \"local\"; allowed: the same as `shared_state.on_down`, or nothing",
        ),
        (
            "on_shared_state_down: local",
            "weir.yaml:1: on_shared_state_down: found \"local\"; allowed: nothing without `shared_state`",
        ),
    ] {
        tells(text, mistake);
    }
}

#[test]
fn a_provider_says_whether_usage_is_asked_for_and_answers_are_read_on() {
    use weir::upstream::IncludeUsage;
    let read = |keys: &str| {
        let text = format!("providers: [{{name: a, base_url: http://a{keys}}}]");
        let provider = settings(&text).upstream.providers.remove(0);
        (provider.include_usage, provider.drain)
    };
    assert_eq!(read(""), (IncludeUsage::Auto, None));
    let never = (IncludeUsage::Never, None);
    assert_eq!(read(", include_usage: never, on_disconnect: cancel"), never);
    let drains = |time| (IncludeUsage::Always, Some(time));
    assert_eq!(
        read(", include_usage: always, on_disconnect: drain"),
        drains(Duration::from_secs(10))
    );
    assert_eq!(
        read(", include_usage: always, on_disconnect: drain, drain_timeout: 10m"),
        drains(Duration::from_secs(600)),
        "at the limit"
    );
}

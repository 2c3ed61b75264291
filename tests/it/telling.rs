//! What weir tells of itself: a record of each request, metrics, health, and never a secret.

use crate::support::gateway::Launch;
use crate::support::{Client, ForwardProxy, Gate, Gateway, Provider, eventually, get};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"gpt-4o","messages":[]}"#;
const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":1}}}"#;

fn config(url: &str) -> String {
    format!("model_routes: {{gpt-4o: \"{url}\"}}\n")
}

// === the access log ===

#[test]
fn a_record_has_all_its_fields() {
    let provider = Provider::json(ANSWER);
    let url = provider.url();
    let gateway = Gateway::start(&format!(
        "providers: [{{name: near, base_url: \"{url}/v1\"}}]\n\
         model_routes: {{gpt-4o: {{targets: [{{provider: near, model: my-gpt}}]}}}}\n"
    ));
    let headers = [
        ("content-type", "application/json"),
        ("x-forwarded-for", "192.0.2.77"),
        ("x-request-id", "0190a0a0-0000-7000-8000-00000000abcd"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ];
    let answer = gateway.post_with(&format!("{CHAT}?key=in-the-query"), &headers, ASK);
    assert_eq!(answer.status(), 200);
    let record = gateway.records(1).remove(0);
    let names: BTreeSet<&str> = record
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    let expected = "time request_id client_ip client_cert method path status latency_ms ttft_ms team key model \
                    upstream_model provider endpoint road attempts input_tokens output_tokens \
                    cached_tokens reasoning_tokens token_source cost_usd bytes_in bytes_out stream end \
                    trace_id";
    assert_eq!(names, expected.split_whitespace().collect());
    for (name, value) in [
        (
            "request_id",
            Value::from("0190a0a0-0000-7000-8000-00000000abcd"),
        ),
        ("client_ip", "192.0.2.77".into()),
        ("client_cert", Value::Null),
        ("method", "POST".into()),
        ("path", CHAT.into()),
        ("status", 200.into()),
        ("team", Value::Null),
        ("key", Value::Null),
        ("model", "gpt-4o".into()),
        ("upstream_model", "my-gpt".into()),
        ("provider", "near".into()),
        ("endpoint", provider.address().to_string().into()),
        ("road", "direct".into()),
        ("attempts", 1.into()),
        ("input_tokens", 9.into()),
        ("output_tokens", 2.into()),
        ("cached_tokens", 4.into()),
        ("reasoning_tokens", 1.into()),
        ("token_source", "upstream".into()),
        ("cost_usd", Value::Null),
        ("bytes_in", ASK.len().into()),
        ("bytes_out", ANSWER.len().into()),
        ("stream", false.into()),
        ("end", "complete".into()),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c".into()),
    ] {
        assert_eq!(record[name], value, "{name}");
    }
    let time = record["time"].as_str().expect("a time");
    assert!(
        time.len() == 24 && time.ends_with('Z') && &time[10..11] == "T",
        "{time}"
    );
    let (first, whole) = (record["ttft_ms"].as_f64(), record["latency_ms"].as_f64());
    assert!(first > Some(0.0) && first <= whole, "{first:?} {whole:?}");
}

/// The `key=value` pairs of a record in text.
fn pairs(line: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = line;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = if after.starts_with('"') {
            let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
            let value = values.next().expect("a value").expect("a JSON text");
            (value, after[values.byte_offset()..].trim_start())
        } else {
            let (value, next) = after.split_once(' ').unwrap_or((after, ""));
            (value.to_owned(), next)
        };
        pairs.insert(name.to_owned(), value);
        rest = next;
    }
    pairs
}

#[test]
fn a_record_in_text_is_one_line_of_pairs() {
    let provider = Provider::json(ANSWER);
    let text = "logging: {format: text, file: {path: \"{folder}/text.log\"}}\n";
    let gateway = Gateway::start(&(config(&provider.url()) + text));
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    gateway.post(CHAT, r#"{"model":"a b=\"c\"\nd","messages":[]}"#);
    let path = gateway.folder().join("text.log");
    let lines = eventually("two records", || {
        let text = std::fs::read_to_string(&path).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= 2 && text.ends_with('\n')).then_some(lines)
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    let first = pairs(&lines[0]);
    assert_eq!(
        (&*first["status"], &*first["model"]),
        ("200", "gpt-4o"),
        "{}",
        lines[0]
    );
    assert_eq!(
        (&*first["output_tokens"], &*first["end"]),
        ("2", "complete"),
        "{}",
        lines[0]
    );
    let second = pairs(&lines[1]);
    assert_eq!(second["end"], "refused:model_not_found", "{}", lines[1]);
    assert_eq!(
        second.get("model").map_or("a b=\"c\"\nd", String::as_str),
        "a b=\"c\"\nd"
    );
}

#[test]
fn a_refused_model_is_named_in_the_record() {
    let gateway = Gateway::start("model_routes: {gpt-4o: \"http://127.0.0.1:9\"}\n");
    let ask = r#"{"model":"gpt-4","messages":[]}"#;
    gateway
        .post(CHAT, ask)
        .assert_refused(404, "model_not_found");
    let record = &gateway.records(1)[0];
    assert_eq!(record["model"], "gpt-4", "{record}");
    assert_eq!(record["bytes_in"], ask.len(), "{record}");
}

#[test]
fn without_a_file_records_go_to_standard_output_and_nothing_else_does() {
    let provider = Provider::json(ANSWER);
    let gateway = Gateway::start(&(config(&provider.url()) + "logging: {level: info}\n"));
    gateway.post(CHAT, ASK);
    gateway.get("/nowhere");
    gateway.wait_printed("refused:no_route");
    for line in gateway.printed().lines() {
        let record: Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no record: {line}"));
        assert!(record["request_id"].is_string(), "{line}");
    }
    assert_eq!(gateway.printed().lines().count(), 2);
    assert!(
        !gateway.log().contains("\"latency_ms\""),
        "{}",
        gateway.log()
    );
}

fn names(folder: &Path, prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// A log file's lines, decompressed; none where it isn't there.
fn lines(path: &Path) -> Vec<String> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        read => read.expect("a log file"),
    };
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        flate2::read::GzDecoder::new(&*bytes)
            .read_to_string(&mut text)
            .expect("gzip");
    } else {
        text = String::from_utf8(bytes).expect("text");
    }
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "{} ends in a line",
        path.display()
    );
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_full_log_file_is_rotated_compressed_and_the_oldest_goes() {
    const REQUESTS: usize = 24;
    for compress in [true, false] {
        let gateway = Gateway::start(&format!(
            "target_map: {{/x: \"http://127.0.0.1:9\"}}\n\
             logging: {{file: {{path: \"{{folder}}/logs/rotated.log\", max_size: 2KiB, keep: 2, \
             compress: {compress}}}}}\n"
        ));
        let folder = gateway.folder().join("logs");
        let end = if compress { ".gz" } else { "" };
        let expected = [
            "rotated.log".into(),
            format!("rotated.log.1{end}"),
            format!("rotated.log.2{end}"),
        ];
        let mut client = gateway.client();
        for number in 0..REQUESTS {
            client.request("GET", &format!("/nowhere/{number:04}"), &[], b"");
            let answer = client.answer();
            let last = answer.header("x-request-id").expect("an id").to_owned();
            // One by one, so that each is a write of its own. Whatever ends in .gz is whole.
            eventually("the record", || {
                ["rotated.log", "rotated.log.1", "rotated.log.1.gz"]
                    .iter()
                    .flat_map(|name| lines(&folder.join(name)))
                    .any(|line| line.contains(&last))
                    .then_some(())
            });
        }
        eventually("the last compression", || {
            (names(&folder, "rotated") == expected).then_some(())
        });
        let kept: Vec<String> = [&expected[2], &expected[1], &expected[0]]
            .iter()
            .flat_map(|name| lines(&folder.join(name)))
            .collect();
        let numbers: Vec<usize> = kept
            .iter()
            .map(|line| {
                let record: Value = serde_json::from_str(line).expect("a whole record");
                let path = record["path"].as_str().expect("a path").to_owned();
                path[path.len() - 4..].parse().expect("a number")
            })
            .collect();
        assert!(kept.len() < REQUESTS, "the oldest are gone");
        let expected: Vec<usize> = (REQUESTS - kept.len()..REQUESTS).collect();
        assert_eq!(
            numbers, expected,
            "the newest are kept, each once and in order"
        );
        let size = std::fs::metadata(folder.join("rotated.log"))
            .expect("the log")
            .len();
        assert!(size < 2048 + 1024, "{size} bytes");
    }
}

#[test]
fn a_signal_opens_the_log_file_anew() {
    let gateway = Gateway::start("target_map: {/x: \"http://127.0.0.1:9\"}\n");
    gateway.get("/first");
    gateway.records(1);
    let moved = gateway.folder().join("moved.log");
    std::fs::rename(gateway.access_log(), &moved).expect("renamed");
    gateway.get("/second");
    eventually("the second record, still in the old file", || {
        std::fs::read_to_string(&moved)
            .ok()?
            .contains("/second")
            .then_some(())
    });
    gateway.signal(libc::SIGUSR1);
    eventually("the new file", || {
        gateway.access_log().exists().then_some(())
    });
    gateway.get("/third");
    let records = gateway.records(1);
    assert_eq!(
        (records.len(), &records[0]["path"]),
        (1, &Value::from("/third"))
    );
    assert!(
        !std::fs::read_to_string(&moved)
            .expect("the old file")
            .contains("/third")
    );
}

#[test]
fn a_full_disk_costs_records_and_never_traffic() {
    let provider = Provider::json(ANSWER);
    let full = "logging: {file: {path: /dev/full}}\n";
    let gateway = Gateway::start(&(config(&provider.url()) + full));
    for _ in 0..3 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    }
    gateway.wait_value("weir_access_log_dropped_total", &[], 3.0);
    gateway.wait_log("access log lines are being lost");
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    gateway.wait_value("llm_token_usage_total", &[("kind", "output")], 8.0);
}

// === secrets ===

const SECRETS: [&str; 7] = [
    "sk-secret-api-key",
    "secret-proxy-password",
    "secret-admin-token",
    "secret-header-value",
    "secret-client-credential",
    "secret-in-query",
    "secret-in-body",
];

#[test]
fn no_secret_appears_in_anything_that_weir_tells() {
    let provider = Provider::start(|exchange| {
        let body = exchange.request.text();
        match body.contains("fail") {
            true => exchange.close(),
            false => exchange.json(200, ANSWER),
        }
    });
    let proxy = ForwardProxy::start();
    proxy.lead("far.test:80", provider.address());
    let url = provider.url();
    let yaml = format!(
        "admin: {{address: \"127.0.0.1:0\", token: \"${{TOKEN}}\"}}\n\
         proxy_url: \"http://user:secret-proxy-password@{}\"\n\
         egress: {{proxied: [far.test]}}\n\
         providers:\n\
         - {{name: near, base_url: \"{url}\", models: [gpt-4o], api_key: \"${{KEY}}\"}}\n\
         - {{name: far, base_url: \"http://far.test\", models: [far], api_key: sk-secret-api-key, \
            headers: {{set: {{x-secret: secret-header-value}}}}}}\n\
         - {{name: gone, base_url: \"http://127.0.0.1:1\", models: [gone], api_key: sk-secret-api-key}}\n\
         logging: {{level: trace, file: {{path: \"{{folder}}/access.log\"}}}}\n",
        proxy.address()
    );
    let launch = |yaml: &str| {
        let launch = Launch::file(yaml);
        launch
            .env("TOKEN", "secret-admin-token")
            .env("KEY", "sk-secret-api-key")
    };
    let gateway = launch(&yaml).start();
    let headers = [
        ("content-type", "application/json"),
        ("authorization", "Bearer secret-client-credential"),
        ("x-api-key", "secret-client-credential"),
    ];
    let mut told = String::new();
    let path = format!("{CHAT}?api_key=secret-in-query");
    for model in ["gpt-4o", "far", "gone", "unknown"] {
        for word in ["ok", "fail"] {
            let ask = format!(
                r#"{{"model":"{model}","messages":[{{"role":"user","content":"{word} secret-in-body"}}]}}"#
            );
            let answer = gateway.post_with(&path, &headers, &ask);
            told.push_str(&String::from_utf8_lossy(&answer.head.raw));
            told.push_str(&answer.text());
            let answer = gateway
                .h2_client()
                .request("POST", &path, &headers, ask.as_bytes());
            told.push_str(&format!("{answer:?}"));
        }
    }
    let mut operator = Client::connect(gateway.admin());
    for token in ["wrong", "secret-admin-token"] {
        let authorization = format!("Bearer {token}");
        operator.request("GET", "/metrics", &[("authorization", &authorization)], b"");
        told.push_str(&operator.answer().text());
    }
    assert!(told.contains("llm_requests_total"), "the metrics were read");
    gateway.records(16);
    // A reload, good and bad, tells of the file.
    gateway.signal(libc::SIGHUP);
    gateway.wait_log("configuration reloaded");
    gateway.write_config(
        &yaml
            .replace("name: far", "name: near")
            .replace("api_key: sk-", "api_kee: sk-"),
    );
    gateway.signal(libc::SIGHUP);
    gateway.wait_log("configuration refused");
    let log = gateway.log();
    assert!(
        log.contains("\"DEBUG\""),
        "the most talkative log was asked for"
    );
    told.push_str(&log);
    told.push_str(&gateway.printed());
    told.push_str(&std::fs::read_to_string(gateway.access_log()).expect("the access log"));

    // They were used all the same.
    let requests = provider.requests();
    let header = |name: &str, value: &str| {
        requests
            .iter()
            .any(|request| request.header(name) == Some(value))
    };
    assert!(header("authorization", "Bearer sk-secret-api-key"));
    assert!(header("x-secret", "secret-header-value"));
    for request in &requests {
        let head = String::from_utf8_lossy(&request.head).into_owned();
        assert!(!head.contains("secret-client-credential"), "{head}");
    }
    for secret in SECRETS {
        let found = told.lines().find(|line| line.contains(secret));
        assert_eq!(found, None, "{secret} was told");
    }
}

#[test]
fn no_secret_appears_in_what_a_check_says() {
    let yaml = "proxy_url: \"socks9://user:secret-proxy-password@127.0.0.1:1\"\n\
                admin: {address: nowhere, token: secret-admin-token}\n\
                providers: [{name: p, base_url: \"http://user:secret-header-value@127.0.0.1:1\", \
                api_key: sk-secret-api-key, egress: \"http://u:secret-client-credential@\"}]\n\
                api_key: sk-secret-api-key\n";
    let launch = Launch::verb(&["check", "-c"]);
    let path = launch.folder().write("weir.yaml", yaml);
    let output = launch.arg(path).output();
    assert!(!output.status.success());
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(
        told.contains("proxy_url") && told.contains("egress"),
        "{told}"
    );
    for secret in SECRETS {
        assert!(!told.contains(secret), "{secret} was told:\n{told}");
    }
}

#[test]
fn no_secret_appears_in_an_explanation() {
    let yaml = "proxy_url: \"http://user:secret-proxy-password@127.0.0.1:1\"\n\
                providers: [{name: p, base_url: \"http://far.test\", models: [m], egress: proxy, \
                api_key: sk-secret-api-key, headers: {set: {x: secret-header-value}}}]\n";
    let launch = Launch::verb(&["explain", "--path", CHAT, "--model", "m", "-c"]);
    let path = launch.folder().write("weir.yaml", yaml);
    let output = launch.arg(path).output();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(
        output.status.success() && told.contains("127.0.0.1:1"),
        "{told}"
    );
    for secret in SECRETS {
        assert!(!told.contains(secret), "{secret} was told:\n{told}");
    }
}

// === metrics ===

/// Splits one line of Prometheus' text format.
fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let is_name = |name: &str| {
        let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
        name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
    };
    let (series, value) = line.rsplit_once(' ')?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        value => value.parse().ok()?,
    };
    let mut labels = BTreeMap::new();
    let (name, mut rest) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (series, ""),
    };
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let mut end = 0;
        let bytes = after.as_bytes();
        while *bytes.get(end)? != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        if !is_name(label)
            || labels
                .insert(label.to_owned(), after[..end].to_owned())
                .is_some()
        {
            return None;
        }
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    is_name(name).then(|| (name.to_owned(), labels, value))
}

#[test]
fn the_metrics_are_prometheus_text_line_by_line() {
    let provider = Provider::start(
        |exchange| match exchange.request.text().contains("stream") {
            true => {
                exchange.stream();
                exchange.event(ANSWER);
                exchange.event("[DONE]");
                exchange.end();
            }
            false => exchange.json(200, ANSWER),
        },
    );
    let gateway = Gateway::start(&format!(
        "model_routes: {{\"a\\\"b\\\\c*\": \"{0}\", gpt-4o: \"{0}\", gone: \"http://127.0.0.1:1\"}}\n",
        provider.url()
    ));
    gateway.post(CHAT, ASK);
    gateway.post(CHAT, r#"{"model":"gpt-4o","stream":true,"messages":[]}"#);
    assert_eq!(
        gateway
            .post(CHAT, r#"{"model":"a\"b\\c1","messages":[]}"#)
            .status(),
        200
    );
    gateway.post(CHAT, r#"{"model":"gone","messages":[]}"#);
    gateway.post(CHAT, "{");
    gateway.records(5);
    let answer = get(gateway.admin(), "/metrics");
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let text = answer.text();
    assert!(text.ends_with('\n'));
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helped: BTreeSet<&str> = BTreeSet::new();
    let mut samples = Vec::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("a help");
            assert!(words.ends_with('.') && helped.insert(name), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kinds.insert(name, kind), None, "{line}");
        } else {
            let sample = sample(line).unwrap_or_else(|| panic!("no sample: {line}"));
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| {
                    sample
                        .0
                        .strip_suffix(end)
                        .filter(|it| kinds.contains_key(it))
                })
                .unwrap_or(&sample.0)
                .to_owned();
            let kind = kinds
                .get(&*family)
                .unwrap_or_else(|| panic!("no type before {line}"));
            assert_eq!(*kind == "counter", family.ends_with("_total"), "{line}");
            assert!(helped.contains(&*family), "no help before {line}");
            samples.push(sample);
        }
    }
    let series: BTreeSet<_> = samples
        .iter()
        .map(|(name, labels, _)| (name, labels))
        .collect();
    assert_eq!(series.len(), samples.len(), "no series twice");
    for name in [
        "llm_requests_total",
        "llm_token_usage_total",
        "llm_request_latency_seconds_bucket",
        "llm_time_to_first_token_seconds_bucket",
        "llm_upstream_error_total",
        "weir_in_flight",
        "weir_buffered_bytes",
        "weir_overhead_seconds_bucket",
        "weir_config_reload_total",
        "weir_build_info",
    ] {
        assert!(
            samples.iter().any(|(found, ..)| found == name),
            "{name} is missing:\n{text}"
        );
    }
    // A histogram's buckets grow, and the last one has all.
    let mut before: Option<(BTreeMap<String, String>, f64)> = None;
    for (name, labels, value) in &samples {
        let Some(family) = name.strip_suffix("_bucket") else {
            continue;
        };
        let mut own = labels.clone();
        let bound = own.remove("le").expect("a bound");
        own.insert("name".into(), family.into());
        if let Some((same, smaller)) = &before
            && *same == own
        {
            assert!(smaller <= value, "{name} {labels:?}");
        }
        if bound == "+Inf" {
            let count = samples.iter().find(|(count, labels, _)| {
                let mut labels = labels.clone();
                labels.insert("name".into(), family.into());
                *count == format!("{family}_count") && labels == own
            });
            assert_eq!(
                count.map(|(.., count)| count),
                Some(value),
                "{name} {labels:?}"
            );
        }
        before = Some((own, *value));
    }
}

#[test]
fn refusals_and_upstream_errors_are_counted() {
    let gateway =
        Gateway::start("model_routes: {gpt-4o: {url: \"http://127.0.0.1:1\", retries: 0}}\n");
    gateway.post(CHAT, "{");
    gateway.post(CHAT, r#"{"model":"a","model":"b"}"#);
    gateway.post(CHAT, r#"{"model":"unknown"}"#);
    gateway.get("/nowhere");
    gateway.post(CHAT, ASK);
    for (status, count) in [("400", 2.0), ("404", 2.0), ("502", 1.0)] {
        gateway.wait_value("llm_requests_total", &[("status", status)], count);
    }
    let labels = [
        ("error_type", "connect_refused"),
        ("provider", "127.0.0.1:1"),
    ];
    gateway.wait_value("llm_upstream_error_total", &labels, 1.0);
    gateway.wait_value(
        "llm_requests_total",
        &[("status", "502"), ("model", "gpt-4o")],
        1.0,
    );
    gateway.wait_value("llm_requests_total", &[("team", "other")], 5.0);
}

#[test]
fn gauges_go_up_and_come_back_to_nothing() {
    let gate = Gate::new();
    let open = gate.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&open);
        exchange.json(200, ANSWER);
    });
    let gateway = Gateway::start(&config(&provider.url()));
    gateway.wait_value("weir_connections", &[], 0.0);
    let mut clients: Vec<Client> = (0..3).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.post(CHAT, ASK);
    }
    provider.wait_requests(3);
    gateway.wait_value("weir_in_flight", &[], 3.0);
    #[expect(clippy::cast_precision_loss, reason = "some bytes")]
    let held = (3 * ASK.len()) as f64;
    gateway.wait_value("weir_buffered_bytes", &[], held);
    gateway.wait_value("weir_connections", &[], 3.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
    gateway.wait_value("weir_in_flight", &[], 0.0);
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
    gateway.wait_value("weir_connections", &[], 3.0);
    drop(clients);
    gateway.wait_value("weir_connections", &[], 0.0);
}

// === operators ===

#[test]
fn health_is_open_and_metrics_want_the_token() {
    let gateway = Gateway::start(
        "admin: {address: \"127.0.0.1:0\", token: let-me-in}\ntarget_map: {/x: \"http://127.0.0.1:9\"}\n",
    );
    let ask = |method: &str, path: &str, authorization: Option<&str>| {
        let mut client = Client::connect(gateway.admin());
        let headers: Vec<_> = authorization
            .map(|it| ("authorization", it))
            .into_iter()
            .collect();
        client.request(method, path, &headers, b"");
        client.answer_to(method)
    };
    for path in ["/health/live", "/health/ready", "/healthz"] {
        let answer = ask("GET", path, None);
        assert_eq!((answer.status(), &*answer.text()), (200, "OK"), "{path}");
        assert_eq!(ask("HEAD", path, None).status(), 200, "{path}");
    }
    for wrong in [
        None,
        Some("Bearer let-me-i"),
        Some("Bearer let-me-inn"),
        Some("Bearer "),
        Some("let-me-in"),
        Some("Basic let-me-in"),
    ] {
        let answer = ask("GET", "/metrics", wrong);
        assert_eq!(answer.status(), 401, "{wrong:?}");
        assert!(!answer.text().contains("weir_"), "{wrong:?}");
        assert_eq!(ask("GET", "/nowhere", wrong).status(), 401, "{wrong:?}");
    }
    let right = Some("Bearer let-me-in");
    assert!(
        ask("GET", "/metrics", right)
            .text()
            .contains("weir_build_info")
    );
    assert_eq!(ask("GET", "/nowhere", right).status(), 404);
    assert_eq!(ask("POST", "/metrics", right).status(), 405);
    // Operators' pages aren't for clients.
    assert_eq!(gateway.get("/healthz").text(), "OK");
    gateway.get("/metrics").assert_refused(404, "no_route");
    gateway.get("/health/live").assert_refused(404, "no_route");
}

#[test]
fn without_a_token_metrics_are_open_and_a_connection_can_ask_again() {
    let gateway = Gateway::start("target_map: {/x: \"http://127.0.0.1:9\"}\n");
    let mut client = Client::connect(gateway.admin());
    for _ in 0..3 {
        client.request("GET", "/metrics", &[], b"");
        let answer = client.answer();
        assert_eq!(answer.status(), 200);
        let version = env!("CARGO_PKG_VERSION");
        let info = format!("weir_build_info{{version=\"{version}\"}} 1");
        assert!(answer.text().contains(&info), "{}", answer.text());
    }
}

#[test]
fn a_draining_weir_is_alive_but_not_ready() {
    let gate = Gate::new();
    let open = gate.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&open);
        exchange.json(200, ANSWER);
    });
    let mut gateway = Gateway::start(&config(&provider.url()));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    provider.wait_requests(1);
    gateway.signal(libc::SIGTERM);
    gateway.wait_log("draining");
    eventually("weir to say that it isn't ready", || {
        (get(gateway.admin(), "/health/ready").status() == 503).then_some(())
    });
    assert_eq!(get(gateway.admin(), "/health/live").status(), 200);
    gate.open();
    assert_eq!(client.answer().status(), 200, "what was open is finished");
    assert!(gateway.wait_exit().success());
}

#[test]
fn without_an_admin_listener_there_is_none() {
    let gateway = Gateway::start("admin: off\ntarget_map: {/x: \"http://127.0.0.1:9\"}\n");
    assert_eq!(gateway.get("/healthz").status(), 200);
    assert_eq!(gateway.count_log("admin listening"), 0);
}

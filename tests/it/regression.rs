//! Promises that were broken once, each in a way that the other tests did not see.

use crate::support::provider::nobody;
use crate::support::{Answer, Client, DEADLINE, DnsServer, Exchange, Gate, Gateway, Provider};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m"}"#;
const DONE: &str = r#"{"ok":true}"#;
const JSON: (&str, &str) = ("content-type", "application/json");
/// A body of this type passes through unread.
const AUDIO: (&str, &str) = ("content-type", "audio/wav");
const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");

/// weir with everything led to one provider `p`, and more of the configuration.
fn gateway(url: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{url}\", breaker: off}}]\nrouting: {{default_provider: p}}\n\
         model_routes: {{m: {{targets: [{{provider: p, model: real}}]}}}}\n{more}"
    ))
}

/// Reads bodies as they come and answers at their end.
fn at_head() -> Provider {
    Provider::start_at_head(|exchange| {
        exchange.record();
        if exchange.read_body() {
            exchange.json(200, DONE);
        }
    })
}

/// A head that waits for `100 Continue`, then the body; what comes in the end.
#[track_caller]
fn after_continue(client: &mut Client, media: (&str, &str), body: &[u8]) -> Answer {
    let length = body.len().to_string();
    let headers = [
        media,
        ("expect", "100-continue"),
        ("content-length", &*length),
    ];
    client.send_head("POST", CHAT, &headers);
    assert_eq!(client.read_head().status, 100);
    client.send(body);
    client.answer()
}

/// Sends chunks until weir has enough of them or there were far too many; the answer.
#[track_caller]
fn flood(client: &mut Client, headers: &[(&str, &str)], method: &str) -> Answer {
    client.send_head(method, CHAT, headers);
    let piece = [b' '; 16 << 10];
    for _ in 0..64 {
        let framed = crate::support::client::chunk(&piece);
        if client.try_send(framed).is_err() {
            break;
        }
    }
    client.answer()
}

/// Its first connection ends when a second request comes on it; the others serve.
fn dies_when_used_again() -> Provider {
    Provider::start(|exchange| {
        let again = exchange.request.header("x-first").is_none();
        if exchange.request.connection == 0 && again {
            return exchange.reset();
        }
        exchange.json(200, DONE);
    })
}

/// A client whose first request has left a kept connection behind.
#[track_caller]
fn kept(weir: &Gateway) -> Client {
    let mut client = weir.client();
    client.request("POST", CHAT, &[JSON, ("x-first", "1")], BODY.as_bytes());
    assert_eq!(client.answer().status(), 200);
    client
}

/// The errors of upstreams that were counted.
fn upstream_errors(weir: &Gateway) -> f64 {
    weir.value("llm_upstream_error_total", &[]).unwrap_or(0.0)
}

// === after an interim answer ===

#[test]
fn an_upstream_that_cannot_be_reached_is_told_after_100_continue_too() {
    let weir = gateway(&format!("http://{}", nobody()), "");
    for (number, media) in [JSON, AUDIO].into_iter().enumerate() {
        after_continue(&mut weir.client(), media, BODY.as_bytes())
            .assert_refused(502, "upstream_failed");
        let record = &weir.records(number + 1)[number];
        assert_eq!(
            (&record["status"], &record["end"]),
            (&json!(502), &json!("refused:upstream_failed"))
        );
    }
}

#[test]
fn an_upstream_that_breaks_before_its_answer_is_told_after_100_continue_too() {
    let provider = Provider::start(Exchange::close);
    let weir = gateway(&provider.url(), "");
    for media in [JSON, AUDIO] {
        after_continue(&mut weir.client(), media, BODY.as_bytes())
            .assert_refused(502, "upstream_failed");
    }
}

#[test]
fn a_late_upstream_is_told_after_100_continue_too() {
    let provider = Provider::start(|exchange| exchange.wait_end());
    let weir = gateway(&provider.url(), "timeouts: {first_byte: 200ms}");
    for media in [JSON, AUDIO] {
        after_continue(&mut weir.client(), media, BODY.as_bytes())
            .assert_refused(504, "upstream_timeout");
    }
}

#[test]
fn an_upstream_that_breaks_after_early_hints_is_told() {
    let provider = Provider::start(|exchange| {
        exchange.head(103, &[("link", "</a>; rel=preload")]);
        exchange.close();
    });
    let weir = gateway(&provider.url(), "");
    let answer = weir.post(CHAT, BODY);
    answer.assert_refused(502, "upstream_failed");
    weir.get("/v1/other").assert_refused(502, "upstream_failed");
    for record in weir.records(2) {
        assert_eq!(record["end"], "refused:upstream_failed", "{record}");
    }
}

#[test]
fn a_kept_connection_that_died_gets_its_second_chance_after_100_continue_too() {
    let provider = dies_when_used_again();
    let weir = gateway(&provider.url(), "");
    let answer = after_continue(&mut kept(&weir), JSON, BODY.as_bytes());
    assert_eq!((answer.status(), answer.text().as_str()), (200, DONE));
    assert_eq!((provider.connections(), provider.requests().len()), (2, 3));
}

#[test]
fn a_body_that_passes_through_and_grows_past_its_limit_is_413() {
    let provider = at_head();
    let weir = gateway(&provider.url(), "limits: {body_bytes: 64KiB}");
    for headers in [
        &[AUDIO, CHUNKED][..],
        &[AUDIO, CHUNKED, ("expect", "100-continue")],
    ] {
        let answer = flood(&mut weir.client(), headers, "POST");
        answer.assert_refused(413, "body_too_large");
    }
    for record in weir.records(2) {
        assert_eq!(record["status"], 413, "{record}");
    }
}

#[test]
fn an_upstreams_early_hints_leave_the_first_byte_its_time() {
    let open = Gate::new();
    let gate = open.clone();
    let provider = Provider::start(move |exchange| {
        exchange.head(103, &[("link", "</a>; rel=preload")]);
        exchange.wait(&gate);
        exchange.json(200, DONE);
    });
    let weir = gateway(&provider.url(), "timeouts: {first_byte: 4s, idle: 300ms}");
    let mut held = weir.client();
    held.post(CHAT, BODY);
    let mut passing = weir.client();
    passing.request("POST", "/v1/audio/x", &[AUDIO], b"abc");
    for client in [&mut held, &mut passing] {
        assert_eq!(client.read_head().status, 103);
    }
    let silent = held.is_silent_for(Duration::from_millis(900));
    open.open();
    assert!(silent, "weir gave up after the time between two bytes");
    for mut client in [held, passing] {
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text().as_str()), (200, DONE));
    }
}

// === Upgrade ===

/// Headers of clients that would take HTTP/2, or anything at all.
const UPGRADES: [&[(&str, &str)]; 4] = [
    &[
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAEAAEAAAAIAAAAB"),
    ],
    &[("connection", "Upgrade"), ("upgrade", "h2c")],
    &[("upgrade", "x")],
    &[("connection", "upgrade"), ("upgrade", "websocket")],
];

fn with<'a>(
    first: &[(&'a str, &'a str)],
    second: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    [first, second].concat()
}

#[test]
fn a_post_that_offers_an_upgrade_is_routed_mapped_and_metered_like_others() {
    const ANSWER: &str = r#"{"object":"chat.completion","model":"real","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}"#;
    let provider = Provider::json(ANSWER);
    let weir = Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{}\"}}]\n\
         model_routes: {{m: {{targets: [{{provider: p, model: real}}]}}}}\n",
        provider.url()
    ));
    for (number, upgrade) in UPGRADES.into_iter().enumerate() {
        let answer = weir.post_with(CHAT, &with(&[JSON], upgrade), BODY);
        assert_eq!(answer.status(), 200, "{upgrade:?}: {}", answer.text());
        assert_eq!(answer.text(), ANSWER);
        let request = provider.only_request();
        assert_eq!(request.text(), r#"{"model":"real"}"#, "{upgrade:?}");
        for name in ["upgrade", "http2-settings"] {
            assert_eq!(request.header(name), None, "{upgrade:?}");
        }
        let connection = request.header("connection").unwrap_or_default();
        assert!(
            !connection.to_ascii_lowercase().contains("upgrade"),
            "{connection}"
        );
        provider.forget();
        let record = &weir.records(number + 1)[number];
        assert_eq!(
            (&record["model"], &record["upstream_model"]),
            (&json!("m"), &json!("real")),
            "{upgrade:?}"
        );
        assert_eq!(
            (
                &record["input_tokens"],
                &record["output_tokens"],
                &record["token_source"]
            ),
            (&json!(5), &json!(7), &json!("upstream")),
            "{upgrade:?}"
        );
    }
}

#[test]
fn a_stream_that_offers_an_upgrade_is_asked_for_its_usage() {
    let provider = Provider::events(&["[DONE]"]);
    let weir = gateway(&provider.url(), "");
    for upgrade in UPGRADES {
        let body = r#"{"model":"m","stream":true}"#;
        let answer = weir.post_with(CHAT, &with(&[JSON], upgrade), body);
        assert_eq!(answer.status(), 200, "{upgrade:?}");
        let asked = provider.only_request().json();
        assert_eq!(
            asked["stream_options"]["include_usage"], true,
            "{upgrade:?}: {asked}"
        );
        provider.forget();
    }
}

#[test]
fn an_offered_upgrade_loosens_no_check_of_the_body() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider.url(), "");
    for upgrade in UPGRADES {
        let two = r#"{"model":"m","model":"n"}"#;
        weir.post_with(CHAT, &with(&[JSON], upgrade), two)
            .assert_refused(400, "duplicate_field");
        let coded = with(&[JSON, ("content-encoding", "whatever")], upgrade);
        weir.post_with(CHAT, &coded, BODY)
            .assert_refused(400, "invalid_request");
    }
    assert_eq!(provider.connections(), 0);
}

#[test]
fn an_offered_upgrade_loosens_no_limit_of_the_body() {
    let provider = at_head();
    let weir = gateway(&provider.url(), "limits: {body_bytes: 64KiB}");
    for upgrade in UPGRADES {
        for media in [JSON, AUDIO] {
            let headers = with(&[media, CHUNKED], upgrade);
            flood(&mut weir.client(), &headers, "POST").assert_refused(413, "body_too_large");
        }
    }
    // A WebSocket's request has no body.
    let headers = with(&[AUDIO, CHUNKED], UPGRADES[3]);
    flood(&mut weir.client(), &headers, "GET").assert_refused(413, "body_too_large");
}

#[test]
fn a_websocket_passes_whatever_the_case_of_its_headers() {
    let provider = Provider::start(|exchange| {
        let headers = [("upgrade", "websocket"), ("connection", "upgrade")];
        exchange.head(101, &headers);
        while let Some(bytes) = exchange.take(4) {
            exchange.raw(bytes.to_ascii_uppercase());
        }
        exchange.close();
    });
    // More bytes go than a body may have: another protocol has no body.
    let weir = gateway(&provider.url(), "limits: {body_bytes: 1KiB}");
    let mut client = weir.client();
    let headers = [
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "WebSocket"),
        ("Sec-WebSocket-Version", "13"),
    ];
    client.send_head("GET", "/v1/realtime?model=m", &headers);
    assert_eq!(client.read_head().status, 101);
    for _ in 0..512 {
        client.send(b"abcd");
        assert_eq!(client.read_raw(4), b"ABCD");
    }
    client.close();
    let record = &weir.records(1)[0];
    assert_eq!(
        (&record["status"], &record["bytes_in"]),
        (&json!(101), &json!(2048)),
        "{record}"
    );
}

// === tries ===

#[test]
fn a_try_whose_name_is_unknown_counts_like_one_that_was_refused() {
    let dns = DnsServer::start();
    let provider = Provider::json(DONE);
    for order in [["unknown", "refuses"], ["refuses", "unknown"]] {
        let weir = Gateway::start(&format!(
            "dns: {{servers: [\"{}\"]}}\nproviders:\n\
             - {{name: unknown, base_url: \"http://nowhere.test\"}}\n\
             - {{name: refuses, base_url: \"http://{}\"}}\n\
             - {{name: answers, base_url: \"{}\"}}\n\
             model_routes: {{m: {{retries: 2, targets: \
             [{{provider: {}}}, {{provider: {}}}, {{provider: answers}}]}}}}\n",
            dns.address(),
            nobody(),
            provider.url(),
            order[0],
            order[1],
        ));
        // Each request begins with another target.
        let mut told = Vec::new();
        for _ in 0..3 {
            let answer = weir.post(CHAT, BODY);
            assert_eq!(answer.status(), 200, "{order:?}: {}", answer.text());
            assert_eq!(answer.header("x-weir-provider"), Some("answers"));
            let attempts = answer.header("x-weir-attempts").expect("the tries");
            told.push(attempts.parse::<u64>().expect("a number"));
        }
        let records = weir.records(3);
        let mut recorded: Vec<_> = records
            .iter()
            .filter_map(|record| record["attempts"].as_u64())
            .collect();
        told.sort_unstable();
        recorded.sort_unstable();
        assert_eq!(
            (told, recorded),
            (vec![1, 2, 3], vec![1, 2, 3]),
            "{order:?}"
        );
    }
}

#[test]
fn where_every_name_is_unknown_the_last_try_is_told() {
    let dns = DnsServer::start();
    let weir = Gateway::start(&format!(
        "dns: {{servers: [\"{}\"]}}\nproviders:\n\
         - {{name: one, base_url: \"http://one.test\"}}\n\
         - {{name: two, base_url: \"http://two.test\"}}\n\
         model_routes: {{m: {{retries: 1, targets: [{{provider: one}}, {{provider: two}}]}}}}\n",
        dns.address()
    ));
    let answer = weir.post(CHAT, BODY);
    answer.assert_refused(502, "upstream_failed");
    let record = &weir.records(1)[0];
    assert_eq!(record["attempts"], 2, "{record}");
    let provider = record["provider"].as_str().expect("a provider");
    assert!(["one", "two"].contains(&provider), "{record}");
    let endpoint = record["endpoint"].as_str().expect("an endpoint");
    assert!(
        endpoint.starts_with(&format!("{provider}.test")),
        "{record}"
    );
    assert_eq!(answer.header("x-weir-provider"), Some(provider));
    assert_eq!(answer.header("x-weir-attempts"), Some("2"));
    let labels = [("provider", provider)];
    weir.wait_value("llm_requests_total", &labels, 1.0);
}

#[test]
fn a_kept_connection_that_died_is_no_failure_of_the_upstream() {
    let provider = dies_when_used_again();
    let weir = gateway(&provider.url(), "");
    let mut client = kept(&weir);
    client.post(CHAT, BODY);
    assert_eq!(client.answer().status(), 200);
    // One of three was sent in vain.
    assert_eq!((provider.connections(), provider.requests().len()), (2, 3));
    weir.wait_value("llm_requests_total", &[], 2.0);
    assert!(upstream_errors(&weir) < 1.0, "{}", weir.metrics());
}

#[test]
fn a_stream_that_breaks_after_its_last_event_is_no_failure_of_the_upstream() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.event(r#"{"choices":[{"index":0,"delta":{"content":"one"}}]}"#);
        exchange.event("[DONE]");
        exchange.close();
    });
    let weir = gateway(&provider.url(), "");
    let answer = weir.post(CHAT, r#"{"model":"m","stream":true}"#);
    assert!(
        answer.text().ends_with("data: [DONE]\n\n"),
        "{}",
        answer.text()
    );
    assert_eq!(weir.records(1)[0]["end"], "complete");
    weir.wait_value("llm_requests_total", &[], 1.0);
    assert!(upstream_errors(&weir) < 1.0, "{}", weir.metrics());
}

// === what a refusal says ===

#[test]
fn a_failure_says_that_the_connection_ends_and_it_does() {
    let silent = Provider::start(|exchange| exchange.wait_end());
    let refused = gateway(&format!("http://{}", nobody()), "");
    let late = gateway(&silent.url(), "timeouts: {first_byte: 200ms}");
    for (weir, status, code) in [
        (&refused, 502, "upstream_failed"),
        (&late, 504, "upstream_timeout"),
    ] {
        for method in ["POST", "GET"] {
            let mut client = weir.client();
            let body = if method == "POST" { BODY } else { "" };
            client.request(method, CHAT, &[JSON], body.as_bytes());
            let answer = client.answer();
            answer.assert_refused(status, code);
            assert_eq!(
                answer.header("connection"),
                Some("close"),
                "{status} {method}"
            );
            assert!(client.try_read_head().is_none());
        }
    }
}

#[test]
fn the_operators_headers_and_what_was_tried_are_on_weirs_own_answers_too() {
    let weir = Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"http://{}\"}}]\n\
         model_routes: {{m: {{targets: [{{provider: p}}], retries: 0}}}}\n\
         headers: {{response: {{set: {{X-Site: \"here {{request_id}}\"}}}}}}\n",
        nobody()
    ));
    let missing = weir.get("/nothing");
    let failed = weir.post(CHAT, BODY);
    let listed = weir.get("/v1/models");
    let statuses = [&missing, &failed, &listed].map(Answer::status);
    assert_eq!(statuses, [404, 502, 200]);
    for answer in [&missing, &failed, &listed] {
        let id = answer.header("x-request-id").expect("an id");
        assert_eq!(
            answer.header("x-site"),
            Some(&*format!("here {id}")),
            "{}",
            answer.status()
        );
    }
    assert_eq!(failed.header("x-weir-provider"), Some("p"));
    assert_eq!(failed.header("x-weir-attempts"), Some("1"));
    assert_eq!(missing.header("x-weir-provider"), None);
}

#[test]
fn probes_are_neither_recorded_nor_counted() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider.url(), "");
    for _ in 0..3 {
        assert_eq!(weir.get("/healthz").text(), "OK");
        let mut client = weir.client();
        client.request("HEAD", "/healthz", &[], b"");
        assert_eq!(client.answer_to("HEAD").status(), 200);
    }
    assert_eq!(
        weir.h2_client().request("GET", "/healthz", &[], b"").status,
        200
    );
    assert_eq!(weir.post(CHAT, BODY).status(), 200);
    weir.wait_value("llm_requests_total", &[], 1.0);
    let records = weir.records(1);
    let paths: Vec<_> = records.iter().map(|record| &record["path"]).collect();
    assert_eq!(paths, [CHAT]);
}

// === bodies that pass through ===

#[test]
fn a_malformed_chunk_of_a_body_that_passes_through_is_told() {
    let provider = at_head();
    let weir = gateway(&provider.url(), "");
    for (number, broken) in ["zz\r\nx\r\n", "-1\r\nx\r\n", "2\r\nxyz\r\n0\r\n\r\n"]
        .into_iter()
        .enumerate()
    {
        let mut client = weir.client();
        client.send_head("POST", "/v1/audio/x", &[AUDIO, CHUNKED]);
        client.send_chunk(b"abc");
        // The upstream has the head: the body is on its way.
        provider.wait_requests(number + 1);
        client.send(broken);
        client.answer().assert_refused(400, "invalid_request");
        let record = &weir.records(number + 1)[number];
        assert_eq!(
            (&record["status"], &record["end"]),
            (&json!(400), &json!("refused:invalid_request")),
            "{broken:?}"
        );
    }
}

#[test]
fn a_body_that_passes_through_and_stalls_is_408() {
    let provider = at_head();
    let weir = gateway(&provider.url(), "timeouts: {client_body: 400ms}");
    for (number, framing) in [CHUNKED, ("content-length", "1000")]
        .into_iter()
        .enumerate()
    {
        let began = Instant::now();
        let mut client = weir.client();
        client.send_head("POST", "/v1/audio/x", &[AUDIO, framing]);
        client.send("3\r\nabc\r\n");
        client.answer().assert_refused(408, "client_timeout");
        assert!(began.elapsed() < Duration::from_secs(5), "{framing:?}");
        provider.wait_end(number);
        let record = &weir.records(number + 1)[number];
        assert_eq!(record["end"], "refused:client_timeout", "{framing:?}");
    }
    weir.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn a_body_that_trickles_through_is_408_when_its_whole_time_is_over() {
    let provider = at_head();
    let weir = gateway(&provider.url(), "timeouts: {client_body: 600ms}");
    for framing in [CHUNKED, ("content-length", "1000000")] {
        let began = Instant::now();
        let mut client = weir.client();
        client.send_head("POST", "/v1/audio/x", &[AUDIO, framing]);
        let _ = client.try_send("1\r\nx\r\n");
        while client.is_silent_for(Duration::from_millis(50)) {
            assert!(began.elapsed() < Duration::from_secs(6), "it trickles on");
            let _ = client.try_send("1\r\nx\r\n");
        }
        client.answer().assert_refused(408, "client_timeout");
        assert!(began.elapsed() >= Duration::from_millis(600), "{framing:?}");
    }
    weir.wait_value("weir_in_flight", &[], 0.0);
}

/// Sends a body that never ends, a byte each 50 ms, and waits for the answer's status and code.
async fn trickled(weir: std::net::SocketAddr) -> (u16, Option<String>) {
    let socket = tokio::net::TcpStream::connect(weir)
        .await
        .expect("a connection");
    let (send, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
    let moving = tokio::spawn(connection);
    let request = http::Request::post("http://weir.test/v1/audio/x")
        .header(AUDIO.0, AUDIO.1)
        .body(())
        .expect("a request");
    let mut send = send.ready().await.expect("a place for a stream");
    let (mut answer, mut body) = send.send_request(request, false).expect("a stream");
    let began = Instant::now();
    let answer = loop {
        assert!(began.elapsed() < Duration::from_secs(6), "it trickles on");
        // weir may have ended the stream.
        let _ = body.send_data("x".into(), false);
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(50), &mut answer).await {
            break answer.expect("an answer, not the stream's end");
        }
    };
    moving.abort();
    let code = answer.headers().get("x-weir-error");
    let code = code.and_then(|code| Some(code.to_str().ok()?.to_owned()));
    (answer.status().as_u16(), code)
}

#[test]
fn a_body_that_trickles_through_over_http2_is_408_too() {
    let provider = at_head();
    let weir = gateway(&provider.url(), "timeouts: {client_body: 600ms}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let told = runtime
        .block_on(async { tokio::time::timeout(DEADLINE, trickled(weir.address())).await })
        .expect("an answer in time");
    assert_eq!(told, (408, Some("client_timeout".to_owned())));
    weir.wait_value("weir_in_flight", &[], 0.0);
}

// === one meaning only ===

#[test]
fn a_path_that_climbs_is_refused_and_reaches_nobody() {
    let provider = Provider::json(DONE);
    let more = format!("target_map: {{/v1/search: \"{}/api\"}}\n", provider.url());
    let weir = gateway(&provider.url(), &more);
    let http2 = weir.h2_client();
    for path in [
        "/v1/search/../../admin",
        "/v1/search/./x",
        "/v1/search/%2e%2E/x",
        "/v1/search/.%2e/x",
        "/v1/search/%2E/x",
        "/v1/search/..",
        "/v1/search/.",
        "/../x",
        "/v1/search/../x?q=1",
    ] {
        weir.get(path).assert_refused(400, "invalid_request");
        weir.post(path, BODY).assert_refused(400, "invalid_request");
        let answer = http2.request("GET", path, &[], b"");
        assert_eq!(
            (answer.status, answer.header("x-weir-error")),
            (400, Some("invalid_request")),
            "{path}, HTTP/2"
        );
    }
    assert_eq!(provider.connections(), 0, "{:?}", provider.requests());
}

#[test]
fn dots_that_do_not_climb_pass() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider.url(), "");
    for path in [
        "/v1/a..b",
        "/v1/...",
        "/v1/.../x",
        "/v1/.well-known/x",
        "/v1/a./x",
        "/v1/..a",
        "/v1/x?path=/../y",
    ] {
        assert_eq!(weir.get(path).status(), 200, "{path}");
        assert_eq!(provider.only_request().target, path);
        provider.forget();
    }
}

#[test]
fn a_bodys_length_that_has_two_meanings_is_refused_told_and_recorded() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider.url(), "");
    let cases = [
        ("HTTP/1.1", "Content-Length: x"),
        ("HTTP/1.1", "Content-Length: 1, 2"),
        ("HTTP/1.1", "Content-Length: 13\r\nContent-Length: 14"),
        (
            "HTTP/1.1",
            "Content-Length: 13\r\nTransfer-Encoding: chunked",
        ),
        (
            "HTTP/1.1",
            "Transfer-Encoding: chunked\r\nContent-Length: 13",
        ),
        ("HTTP/1.1", "Transfer-Encoding: gzip"),
        ("HTTP/1.0", "Transfer-Encoding: chunked"),
    ];
    for (number, (version, framing)) in cases.into_iter().enumerate() {
        let mut client = weir.client();
        client.send(format!(
            "POST {CHAT} {version}\r\nHost: w\r\n{framing}\r\n\r\n{BODY}"
        ));
        let answer = client.answer();
        assert_eq!(answer.status(), 400, "{framing}");
        answer.assert_refused(400, "invalid_request");
        let record = &weir.records(number + 1)[number];
        assert_eq!(
            (&record["status"], &record["end"]),
            (&json!(400), &json!("refused:invalid_request")),
            "{framing}"
        );
    }
    assert_eq!(provider.connections(), 0);
    assert_eq!(weir.records_now().len(), cases.len());
}

// === models ===

#[test]
fn an_alias_reaches_the_upstream_as_the_name_that_it_stands_for() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!(
        "model_routes: {{fast: m1, m1: \"{}\"}}\n",
        provider.url()
    ));
    let body = |model: &str| {
        format!(
            "{{ \"t\" : 1.0e0,\t\"model\" :\"{model}\" , \"user\":\"fast\",\"n\":[\"fast\"]}}\n"
        )
    };
    for asked in ["fast", "m1"] {
        let answer = weir.post(CHAT, body(asked));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(provider.only_request().text(), body("m1"), "{asked}");
        assert_eq!(answer.header("x-weir-model"), Some("m1"), "{asked}");
        provider.forget();
    }
    let list = weir.get("/v1/models").json();
    let mut ids: Vec<&str> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["fast", "m1"]);
}

const SURFACES: [&str; 3] = [CHAT, "/v1/completions", "/v1/embeddings"];
const NAMELESS: [&str; 4] = ["{}", r#"{"model":null}"#, r#"{"model":""}"#, ""];

#[test]
fn a_body_that_names_no_model_is_told_what_is_missing() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!("model_routes: {{m: \"{}\"}}\n", provider.url()));
    for path in SURFACES {
        for body in NAMELESS {
            let answer = weir.post(path, body);
            assert_eq!(answer.status(), 400, "{path} {body:?}: {}", answer.text());
            answer.assert_refused(400, "invalid_request");
            let error: &Value = &answer.json()["error"];
            assert_eq!(error["param"], "model", "{path} {body:?}");
        }
    }
    assert_eq!(provider.connections(), 0);
}

#[test]
fn a_body_that_names_no_model_goes_where_something_else_takes_its_path() {
    let provider = Provider::json(DONE);
    let url = provider.url();
    let by_path = Gateway::start(&format!(
        "model_routes: {{m: \"http://{}\"}}\ntarget_map: {{/v1: \"{url}/v1\"}}\n",
        nobody()
    ));
    let by_default = gateway(&url, "");
    for weir in [&by_path, &by_default] {
        for path in SURFACES {
            for body in NAMELESS {
                let answer = weir.post(path, body);
                assert_eq!(answer.status(), 200, "{path} {body:?}: {}", answer.text());
                let request = provider.only_request();
                assert_eq!((&*request.target, &*request.text()), (path, body));
                provider.forget();
            }
        }
    }
}

/// The reason to stop came, and then the event that says it was cut: whoever reads whole events has not
/// seen it.
#[test]
fn a_stream_that_is_cut_in_its_last_event_does_not_look_whole() {
    const CUT: &[&str] = &[
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}],\"id\":\"chat",
    ];
    const WHOLE: &[&str] = &[
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}],\"id\":\"chat\"}\n\n",
    ];
    for (sent, cut) in [(CUT, true), (WHOLE, false)] {
        let provider = Provider::start(move |exchange| {
            exchange.stream();
            for piece in sent {
                exchange.chunk(piece);
            }
            exchange.end();
        });
        let weir = gateway(&provider.url(), "");
        let answer = weir.post(CHAT, r#"{"model":"m","stream":true}"#).text();
        assert_eq!(answer.contains("upstream_failed"), cut, "{answer}");
        assert!(answer.starts_with(&sent.concat()), "{answer}");
        let end = if cut { "upstream_broke" } else { "complete" };
        assert_eq!(weir.records(1)[0]["end"], end);
    }
}

/// RFC 9110, section 8.6: an answer with this status has no length.
#[test]
fn a_length_that_an_answer_without_a_body_cannot_have_is_not_passed_on() {
    let provider = Provider::start(|exchange| {
        exchange.raw("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n");
        exchange.close();
    });
    let weir = gateway(&provider.url(), "");
    let answer = weir.post(CHAT, BODY);
    assert_eq!((answer.status(), answer.body.len()), (204, 0));
    assert_eq!(answer.header("content-length"), None);
}

/// The client would take for its answer what comes in a protocol that it doesn't speak.
#[test]
fn an_upstream_that_switches_protocols_unasked_has_failed() {
    let provider = Provider::start(|exchange| {
        exchange
            .raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhi");
        exchange.wait_end();
    });
    let weir = gateway(&provider.url(), "");
    let answer = weir.post(CHAT, BODY);
    answer.assert_refused(502, "upstream_failed");
    let record = &weir.records(1)[0];
    assert_eq!(record["end"], "refused:upstream_failed");
    assert_eq!(record["output_tokens"], Value::Null);
}

//! What a request and its answer look like on the other side: headers, credentials, connections,
//! deadlines.

use crate::support::client::chunk;
use crate::support::provider::{Request, nobody};
use crate::support::{Answer, Gate, Gateway, Launch, Provider};
use serde_json::json;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m"}"#;
const DONE: &str = r#"{"ok":true}"#;
const JSON: (&str, &str) = ("content-type", "application/json");

/// weir with one route `m` to a provider, and more of the configuration.
fn gateway(provider: &Provider, more: &str) -> Gateway {
    let url = provider.url();
    Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{url}\"}}]\nrouting: {{default_provider: p}}\n{more}"
    ))
}

/// What arrives at a provider when this is sent.
#[track_caller]
fn arrives(weir: &Gateway, provider: &Provider, headers: &[(&str, &str)]) -> (Answer, Request) {
    let mut all = vec![JSON];
    all.extend_from_slice(headers);
    let answer = weir.post_with(CHAT, &all, BODY);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let request = provider.only_request();
    provider.forget();
    (answer, request)
}

// === headers ===

#[test]
fn headers_of_one_connection_are_not_passed_on() {
    let provider = Provider::start(|exchange| {
        let headers = [
            ("connection", "x-answer-hop, keep-alive"),
            ("keep-alive", "timeout=5"),
            ("x-answer-hop", "1"),
            ("x-kept", "2"),
        ];
        exchange.answer(200, &headers, b"");
    });
    let weir = gateway(&provider, "");
    let (answer, request) = arrives(
        &weir,
        &provider,
        &[
            ("connection", "keep-alive, x-hop"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic c2VjcmV0"),
            ("te", "trailers"),
            ("trailer", "x-t"),
            ("x-hop", "1"),
            ("x-kept", "2"),
        ],
    );
    for name in [
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "x-hop",
        "te",
        "trailer",
    ] {
        assert_eq!(request.header(name), None, "{name} went to the upstream");
    }
    assert_eq!(request.header("x-kept"), Some("2"));
    assert_eq!(answer.header("x-kept"), Some("2"));
    for name in ["keep-alive", "x-answer-hop"] {
        assert_eq!(answer.header(name), None, "{name} went to the client");
    }
}

#[test]
fn other_headers_arrive_as_they_were_sent_and_host_is_the_upstreams() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, "");
    let (_, request) = arrives(
        &weir,
        &provider,
        &[
            ("User-Agent", "OpenAI/Python 9.9"),
            ("OpenAI-Beta", "assistants=v2"),
            ("X-Twice", "a"),
            ("X-Twice", "b"),
            ("Cookie", "a=b; c=d"),
            ("X-Latin", "caf\u{e9}"),
        ],
    );
    assert_eq!(request.header("user-agent"), Some("OpenAI/Python 9.9"));
    assert_eq!(request.header("openai-beta"), Some("assistants=v2"));
    assert_eq!(request.all("x-twice"), ["a", "b"]);
    assert_eq!(request.header("cookie"), Some("a=b; c=d"));
    assert_eq!(request.all("host"), [provider.address().to_string()]);
    assert!(request.header("x-latin").is_some());
    assert!(
        request
            .head
            .starts_with(b"POST /v1/chat/completions HTTP/1.1\r\n")
    );
}

#[test]
fn an_answer_that_is_metered_is_asked_for_without_compression() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, "");
    let zip = [("accept-encoding", "gzip, br")];
    assert_eq!(
        arrives(&weir, &provider, &zip).1.header("accept-encoding"),
        Some("identity")
    );
    assert_eq!(weir.post_with("/v1/other", &zip, "{}").status(), 200);
    assert_eq!(
        provider.only_request().header("accept-encoding"),
        Some("gzip, br")
    );
}

#[test]
fn the_operators_edits_apply_general_ones_first_with_their_placeholders() {
    let provider = Provider::start(|exchange| {
        let headers = [("x-internal", "1"), ("server", "secret/1.0"), JSON];
        exchange.answer(200, &headers, b"{}");
    });
    let weir = Gateway::start(&format!(
        r#"
providers:
  - name: p
    base_url: "{0}"
    headers: {{set: {{X-Both: provider, X-Own: "{{model}}"}}, remove: [X-Internal]}}
model_routes: {{m: {{targets: [{{provider: p}}]}}}}
headers:
  request: {{set: {{X-Both: general, X-Id: "id={{request_id}}", X-Who: "{{client_ip}}", X-Empty: "{{team}}{{key}}"}}, remove: [Cookie]}}
  response: {{set: {{X-Answer: "{{model}} for {{client_ip}} {{{{x"}}, remove: [Server, X-Internal]}}
"#,
        provider.url()
    ));
    let (answer, request) = arrives(
        &weir,
        &provider,
        &[("x-internal", "1"), ("cookie", "a"), ("x-both", "client")],
    );
    let id = answer.header("x-request-id").unwrap().to_owned();
    assert_eq!(request.all("x-both"), ["provider"]);
    assert_eq!(request.header("x-own"), Some("m"));
    assert_eq!(request.header("x-id"), Some(&*format!("id={id}")));
    assert_eq!(request.header("x-who"), Some("127.0.0.1"));
    for name in ["x-internal", "cookie", "x-empty"] {
        assert_eq!(request.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-answer"), Some("m for 127.0.0.1 {x"));
    for name in ["server", "x-internal"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

#[test]
fn a_model_name_cannot_smuggle_a_header() {
    let provider = Provider::json(DONE);
    let weir = gateway(
        &provider,
        "headers: {request: {set: {X-Model: \"{model}\"}}}",
    );
    let body = r#"{"model":"a\r\nX-Evil: 1\r\n\r\nGET / HTTP/1.1"}"#;
    assert_eq!(weir.post(CHAT, body).status(), 200);
    let request = provider.only_request();
    assert_eq!(request.header("x-evil"), None);
    assert_eq!(request.header("x-model"), Some("aX-Evil: 1GET / HTTP/1.1"));
}

// === credentials ===

#[test]
fn the_clients_own_credential_passes_where_the_provider_has_no_key() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, "");
    let (_, request) = arrives(
        &weir,
        &provider,
        &[
            ("authorization", "Bearer sk-client"),
            ("x-api-key", "k1"),
            ("api-key", "k2"),
        ],
    );
    assert_eq!(request.all("authorization"), ["Bearer sk-client"]);
    assert_eq!(
        (request.header("x-api-key"), request.header("api-key")),
        (Some("k1"), Some("k2"))
    );
}

#[test]
fn the_providers_key_takes_the_place_of_all_the_client_sent() {
    let provider = Provider::json(DONE);
    let weir = Launch::file(&format!(
        r#"
providers: [{{name: p, base_url: "{}", api_key: "${{KEY}}"}}]
routing: {{default_provider: p}}
"#,
        provider.url()
    ))
    .env("KEY", "sk-provider")
    .start();
    for headers in [
        &[][..],
        &[
            ("authorization", "Bearer sk-client"),
            ("x-api-key", "k1"),
            ("api-key", "k2"),
        ],
        &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
    ] {
        let (_, request) = arrives(&weir, &provider, headers);
        assert_eq!(request.all("authorization"), ["Bearer sk-provider"]);
        assert_eq!(
            (request.header("x-api-key"), request.header("api-key")),
            (None, None)
        );
    }
    weir.records(3);
    let logged = std::fs::read_to_string(weir.access_log()).unwrap();
    for secret in ["sk-provider", "sk-client"] {
        assert!(
            !logged.contains(secret) && !weir.log().contains(secret),
            "{secret} was logged"
        );
    }
}

// === ids, traces, addresses ===

#[test]
fn each_request_has_an_id_and_only_a_trusted_proxy_may_give_it() {
    let provider = Provider::json(DONE);
    let trusting = gateway(&provider, "");
    let (answer, request) = arrives(&trusting, &provider, &[]);
    let id = answer.header("x-request-id").unwrap();
    let id = uuid::Uuid::parse_str(id).unwrap();
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(request.all("x-request-id"), [id.to_string()]);
    assert_eq!(trusting.records(1)[0]["request_id"], id.to_string());
    let given = [("x-request-id", "their-own-7")];
    let (answer, request) = arrives(&trusting, &provider, &given);
    assert_eq!(answer.header("x-request-id"), Some("their-own-7"));
    assert_eq!(request.all("x-request-id"), ["their-own-7"]);
    // Loopback isn't trusted any more.
    let strict = gateway(&provider, "trusted_proxies: [192.0.2.0/24]");
    let (answer, request) = arrives(&strict, &provider, &given);
    let own = answer.header("x-request-id").unwrap();
    assert!(uuid::Uuid::parse_str(own).is_ok(), "{own}");
    assert_eq!(request.all("x-request-id"), [own]);
}

#[test]
fn refusals_and_weirs_own_answers_have_an_id_too() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!("model_routes: {{m: \"{}\"}}", provider.url()));
    for path in ["/healthz", "/v1/models", "/nothing"] {
        assert!(weir.get(path).header("x-request-id").is_some(), "{path}");
    }
}

#[test]
fn a_trace_goes_on_and_one_that_is_no_trace_begins_anew() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, "");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let given = [("traceparent", &*parent), ("tracestate", "a=b")];
    let (_, request) = arrives(&weir, &provider, &given);
    let sent = request.header("traceparent").unwrap();
    let parts: Vec<&str> = sent.split('-').collect();
    assert_eq!((parts[0], parts[1], parts[3]), ("00", trace, "01"));
    assert_ne!(parts[2], "00f067aa0ba902b7", "weir is a span of its own");
    assert_eq!(request.header("tracestate"), Some("a=b"));
    assert_eq!(weir.records(1)[0]["trace_id"], trace);
    let (_, request) = arrives(&weir, &provider, &[("traceparent", "00-nonsense")]);
    let sent = request.header("traceparent").unwrap();
    assert!(sent.len() == 55 && !sent.contains("nonsense"), "{sent}");
}

#[test]
fn an_intranet_upstream_is_told_the_client_and_only_a_trusted_proxy_may_speak_for_others() {
    let provider = Provider::json(DONE);
    let forwarded = [
        ("x-forwarded-for", "203.0.113.9, 198.51.100.7"),
        ("x-real-ip", "203.0.113.1"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-proto", "https"),
    ];
    let trusting = gateway(&provider, "");
    let (_, request) = arrives(&trusting, &provider, &forwarded);
    assert_eq!(
        request.all("x-forwarded-for"),
        ["203.0.113.9, 198.51.100.7, 127.0.0.1"]
    );
    assert_eq!(trusting.records(1)[0]["client_ip"], "198.51.100.7");
    let strict = gateway(&provider, "trusted_proxies: []");
    let (_, request) = arrives(&strict, &provider, &forwarded);
    assert_eq!(request.all("x-forwarded-for"), ["127.0.0.1"]);
    for name in ["x-real-ip", "forwarded", "x-forwarded-host"] {
        assert_eq!(request.header(name), None, "{name}");
    }
    assert_eq!(strict.records(1)[0]["client_ip"], "127.0.0.1");
}

#[test]
fn all_lines_of_x_forwarded_for_count() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, "");
    let (_, request) = arrives(
        &weir,
        &provider,
        &[
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "198.51.100.7"),
        ],
    );
    let chain = request.all("x-forwarded-for").join(", ");
    assert_eq!(chain, "203.0.113.9, 198.51.100.7, 127.0.0.1");
    assert_eq!(weir.records(1)[0]["client_ip"], "198.51.100.7");
}

// === other protocols ===

#[test]
fn a_websocket_passes_both_ways_and_is_recorded_at_its_end() {
    let provider = Provider::start(|exchange| {
        let headers = [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-accept", "x"),
        ];
        exchange.head(101, &headers);
        exchange.raw(b"\x81\x05hello");
        while let Some(bytes) = exchange.take(4) {
            exchange.raw(bytes.to_ascii_uppercase());
        }
        exchange.close();
    });
    let weir = Gateway::start(&format!("model_routes: {{rt: \"{}/v1\"}}", provider.url()));
    let mut client = weir.client();
    client.send_head(
        "GET",
        "/v1/realtime?model=rt",
        &[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ],
    );
    let head = client.read_head();
    assert_eq!(head.status, 101);
    assert_eq!(head.header("sec-websocket-accept"), Some("x"));
    assert_eq!(client.read_raw(7), b"\x81\x05hello");
    for _ in 0..3 {
        client.send(b"abcd");
        assert_eq!(client.read_raw(4), b"ABCD");
    }
    let request = provider.only_request();
    assert_eq!(request.target, "/v1/realtime?model=rt");
    assert_eq!(request.header("upgrade"), Some("websocket"));
    assert_eq!(
        request.header("sec-websocket-key"),
        Some("dGhlIHNhbXBsZSBub25jZQ==")
    );
    assert!(
        weir.records_now().is_empty(),
        "it was recorded before its end"
    );
    client.close();
    provider.wait_end(0);
    let record = &weir.records(1)[0];
    assert_eq!(
        (&record["status"], &record["model"]),
        (&json!(101), &json!("rt"))
    );
    assert_eq!(
        (&record["bytes_in"], &record["bytes_out"]),
        (&json!(12), &json!(19))
    );
    weir.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn an_upgrade_that_is_refused_is_an_answer_like_others() {
    let provider = Provider::start(|exchange| exchange.json(403, r#"{"no":1}"#));
    let weir = gateway(&provider, "");
    let mut client = weir.client();
    let headers = [("connection", "upgrade"), ("upgrade", "websocket")];
    client.send_head("GET", "/v1/realtime", &headers);
    let answer = client.answer();
    assert_eq!(
        (answer.status(), answer.text().as_str()),
        (403, r#"{"no":1}"#)
    );
}

#[test]
fn http2_clients_are_served_many_at_once_on_one_connection() {
    let all_here = Gate::new();
    let gate = all_here.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&gate);
        let body = exchange.request.body.clone();
        exchange.answer(200, &[("x-echo", "1")], &body);
    });
    let weir = gateway(&provider, "");
    let client = weir.h2_client();
    std::thread::scope(|scope| {
        let answers: Vec<_> = (0..20)
            .map(|n| {
                let client = &client;
                scope.spawn(move || (n, client.post(CHAT, format!(r#"{{"model":"m","n":{n}}}"#))))
            })
            .collect();
        provider.wait_requests(20);
        all_here.open();
        for answer in answers {
            let (n, answer) = answer.join().unwrap();
            assert_eq!((answer.status, answer.header("x-echo")), (200, Some("1")));
            assert_eq!(answer.text(), format!(r#"{{"model":"m","n":{n}}}"#));
        }
    });
    assert!(
        weir.records(20)
            .iter()
            .all(|record| record["end"] == "complete")
    );
}

#[test]
fn a_cancelled_http2_stream_closes_its_upstream_and_leaves_the_others_alone() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.event(r#"{"choices":[]}"#);
        exchange.wait_end();
    });
    let weir = gateway(&provider, "");
    let client = weir.h2_client();
    let body = br#"{"model":"m","stream":true}"#;
    let mut first = client.begin("POST", CHAT, &[JSON], body);
    first.read_text_until("\n\n");
    let mut second = client.begin("POST", CHAT, &[JSON], body);
    second.read_text_until("\n\n");
    first.cancel();
    provider.wait_end(0);
    assert_eq!(provider.ends().len(), 1);
    assert_eq!(weir.records(1)[0]["end"], "client_closed");
    second.cancel();
    provider.wait_end(1);
    assert_eq!(weir.records(2)[1]["end"], "client_closed");
}

// === answers ===

#[test]
fn an_answer_passes_whole_whatever_its_framing() {
    let provider = Provider::start(|exchange| match &*exchange.request.target {
        "/length" => exchange.answer(200, &[], b"abc"),
        "/chunks" => {
            exchange.head(200, &[("transfer-encoding", "chunked")]);
            exchange.chunk("ab");
            exchange.chunk("c");
            exchange.end();
        }
        "/close" => {
            exchange.head(200, &[]);
            exchange.raw("abc");
            exchange.close();
        }
        "/empty" => exchange.answer(204, &[], b""),
        "/hints" => {
            exchange.head(103, &[("link", "</x>")]);
            exchange.answer(200, &[], b"abc");
        }
        _ => exchange.answer(418, &[("x-own", "1")], b"abc"),
    });
    let weir = gateway(&provider, "");
    for (path, status, body) in [
        ("/length", 200, "abc"),
        ("/chunks", 200, "abc"),
        ("/close", 200, "abc"),
        ("/empty", 204, ""),
        ("/hints", 200, "abc"),
        ("/teapot", 418, "abc"),
    ] {
        let answer = weir.get(path);
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (status, body),
            "{path}"
        );
        assert!(answer.whole, "{path}");
        let record = weir.record_where("the record", |it| it["path"] == path);
        assert_eq!(
            (&record["status"], &record["end"]),
            (&json!(status), &json!("complete")),
            "{path}"
        );
    }
    let mut client = weir.client();
    client.request("HEAD", "/length", &[], b"");
    let head = client.answer_to("HEAD");
    assert_eq!(
        (head.status(), head.header("content-length")),
        (200, Some("3"))
    );
}

/// The first half of an answer that is framed like this must be at the client while the upstream still
/// keeps the second.
#[track_caller]
fn first_half_comes_first(
    headers: &'static [(&str, &str)],
    halves: [&'static str; 2],
    end: &'static str,
) {
    let gate = Gate::new();
    let waited = gate.clone();
    let provider = Provider::start(move |exchange| {
        exchange.head(200, headers);
        exchange.raw(halves[0]);
        exchange.wait(&waited);
        exchange.raw(halves[1]);
        exchange.raw(end);
        exchange.close();
    });
    let weir = gateway(&provider, "");
    let mut client = weir.client();
    client.request("GET", "/", &[], b"");
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_text_until("ab"), "ab");
    gate.open();
    assert_eq!(client.rest(), (b"cd".to_vec(), true));
}

#[test]
fn each_chunk_of_an_answer_reaches_the_client_before_the_next_is_there() {
    let headers = &[
        ("content-type", "application/x-ndjson"),
        ("transfer-encoding", "chunked"),
    ];
    first_half_comes_first(headers, ["2\r\nab\r\n", "2\r\ncd\r\n"], "0\r\n\r\n");
}

#[test]
fn each_piece_of_an_answer_with_a_length_reaches_the_client_before_the_next_is_there() {
    first_half_comes_first(&[("content-length", "4")], ["ab", "cd"], "");
}

#[test]
fn each_piece_of_an_answer_until_the_end_reaches_the_client_before_the_next_is_there() {
    first_half_comes_first(&[], ["ab", "cd"], "");
}

#[test]
fn an_upstreams_error_passes_with_its_body_and_headers() {
    let provider = Provider::start(|exchange| {
        let headers = [
            JSON,
            ("retry-after", "7"),
            ("x-ratelimit-limit-requests", "9"),
        ];
        exchange.answer(429, &headers, br#"{"error":{"message":"slow down"}}"#);
    });
    let weir = gateway(&provider, "");
    let answer = weir.post(CHAT, BODY);
    assert_eq!(
        (answer.status(), answer.text().as_str()),
        (429, r#"{"error":{"message":"slow down"}}"#)
    );
    assert_eq!(answer.header("retry-after"), Some("7"));
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("9"));
    assert_eq!(
        answer.header("x-weir-error"),
        None,
        "it isn't weir that refuses"
    );
}

#[test]
fn an_answer_that_breaks_off_never_looks_whole() {
    let provider = Provider::start(|exchange| {
        let reset = exchange.request.target.starts_with("/reset");
        if exchange.request.target.ends_with("length") {
            exchange.head(200, &[("content-length", "10")]);
            exchange.raw("abc");
        } else {
            exchange.head(200, &[("transfer-encoding", "chunked")]);
            exchange.chunk("abc");
        }
        if reset {
            exchange.reset()
        } else {
            exchange.close()
        }
    });
    let weir = gateway(&provider, "");
    for path in [
        "/close-length",
        "/close-chunks",
        "/reset-length",
        "/reset-chunks",
    ] {
        let mut client = weir.client();
        client.request("GET", path, &[], b"");
        if let Some(head) = client.try_read_head() {
            assert!(head.status == 502 || !client.rest().1, "{path} looks whole");
        }
        let record = weir.record_where("its record", |it| it["path"] == path);
        let end = record["end"].as_str().unwrap();
        assert!(
            ["upstream_broke", "refused:upstream_failed"].contains(&end),
            "{path}: {end}"
        );
    }
    weir.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn garbage_from_an_upstream_is_502() {
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"",
    ] {
        let provider = Provider::start(move |exchange| {
            exchange.raw(garbage);
            exchange.close();
        });
        let weir = gateway(&provider, "");
        weir.post(CHAT, BODY).assert_refused(502, "upstream_failed");
        assert_eq!(weir.records(1)[0]["end"], "refused:upstream_failed");
    }
}

/// A body that no socket's buffers can hold.
fn large_body() -> Vec<u8> {
    let mut body = br#"{"model":"m","x":""#.to_vec();
    body.resize(24 << 20, b'x');
    body.extend_from_slice(b"\"}");
    body
}

#[test]
fn an_upstream_that_answers_before_it_has_read_is_heard() {
    let provider = Provider::start_at_head(|exchange| {
        exchange.record();
        exchange.answer(401, &[JSON], br#"{"error":"who"}"#);
        exchange.read_body();
    });
    let weir = gateway(&provider, "");
    for _ in 0..3 {
        let answer = weir.post(CHAT, large_body());
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (401, r#"{"error":"who"}"#)
        );
    }
}

#[test]
fn an_upstream_that_answers_and_reads_no_further_holds_nobody_for_long() {
    let gone = Gate::new();
    let gate = gone.clone();
    let provider = Provider::raw(move |mut stream| {
        let mut head = [0; 1024];
        assert!(stream.read(&mut head).is_ok());
        let answer = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno";
        assert!(stream.write_all(answer.as_bytes()).is_ok());
        gate.wait();
    });
    let weir = gateway(&provider, "timeouts: {idle: 2s}");
    let started = Instant::now();
    let answer = weir.post(CHAT, large_body());
    assert!(started.elapsed() < Duration::from_secs(15));
    // It has answered; what it says is better than that it is slow.
    assert_eq!((answer.status(), answer.text().as_str()), (401, "no"));
    gone.open();
}

#[test]
fn an_upstream_that_never_reads_is_given_up() {
    let gone = Gate::new();
    let gate = gone.clone();
    let provider = Provider::raw(move |stream| {
        gate.wait();
        drop(stream);
    });
    let weir = gateway(&provider, "timeouts: {idle: 300ms, first_byte: 300ms}");
    let started = Instant::now();
    let answer = weir.post(CHAT, large_body());
    assert!([502, 504].contains(&answer.status()), "{}", answer.text());
    assert!(answer.header("x-weir-error").is_some());
    assert!(started.elapsed() < Duration::from_secs(5));
    gone.open();
    weir.wait_value("weir_buffered_bytes", &[], 0.0);
}

// === connections ===

#[test]
fn connections_are_kept_on_both_sides() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, "");
    let mut client = weir.client();
    for _ in 0..10 {
        client.post(CHAT, BODY);
        assert_eq!(client.answer().text(), DONE);
    }
    client.request("GET", "/healthz", &[], b"");
    assert_eq!(client.answer().status(), 200);
    client.request("GET", "/other", &[], b"");
    assert_eq!(client.answer().status(), 200);
    assert_eq!(provider.connections(), 1);
    let close = [JSON, ("connection", "close")];
    client.request("POST", CHAT, &close, BODY.as_bytes());
    assert_eq!(client.answer().header("connection"), Some("close"));
    assert!(client.try_read_head().is_none(), "the connection goes on");
    assert_eq!(provider.connections(), 1);
}

#[test]
fn requests_without_bodies_that_come_at_once_are_answered_in_turn() {
    let provider = Provider::start(|exchange| {
        let target = exchange.request.target.clone();
        exchange.answer(200, &[], target.as_bytes());
    });
    let weir = gateway(&provider, "");
    let mut client = weir.client();
    let all: String = (0..3)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: w\r\n\r\n"))
        .collect();
    client.send(all);
    for n in 0..3 {
        let head = client.try_read_head();
        assert_eq!(head.map(|head| head.status), Some(200), "of answer {n}");
        assert_eq!(client.rest().0, format!("/{n}").as_bytes());
    }
}

#[test]
fn a_kept_connection_that_died_unnoticed_gets_one_second_chance() {
    // Each connection serves one request and ends when the next one comes.
    let provider = Provider::start(|exchange| {
        let first = exchange.request.header("x-first").is_some();
        if exchange.request.connection == 0 && !first {
            return exchange.reset();
        }
        exchange.json(200, DONE);
    });
    let weir = gateway(&provider, "");
    let mut client = weir.client();
    client.request("POST", CHAT, &[JSON, ("x-first", "1")], BODY.as_bytes());
    assert_eq!(client.answer().status(), 200);
    client.post(CHAT, BODY);
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text().as_str()), (200, DONE));
    assert_eq!(provider.connections(), 2);
    assert_eq!(provider.requests().len(), 3);
    assert_eq!(provider.requests()[2].text(), BODY);
}

#[test]
fn a_fresh_connection_that_breaks_gets_no_second_chance() {
    let provider = Provider::start(crate::support::Exchange::reset);
    let careful = "model_routes: {\"*\": {targets: [{provider: p}], retry_on: [connect]}}";
    let weir = gateway(&provider, careful);
    weir.post(CHAT, BODY).assert_refused(502, "upstream_failed");
    assert_eq!(
        provider.requests().len(),
        1,
        "a request that may have been carried out was repeated"
    );
    assert_eq!(
        weir.value("llm_upstream_error_total", &[("provider", "p")]),
        Some(1.0)
    );
}

#[test]
fn a_client_that_leaves_before_the_answer_closes_the_upstream() {
    let provider = Provider::start(|exchange| exchange.wait_end());
    let weir = gateway(&provider, "");
    for number in 0..2 {
        let mut client = weir.client();
        client.post(CHAT, BODY);
        provider.wait_requests(number + 1);
        let left = Instant::now();
        if number == 0 {
            client.close()
        } else {
            client.reset()
        }
        let end = provider.wait_end(number);
        assert!(end.at.saturating_duration_since(left) < Duration::from_secs(1));
        let record = &weir.records(number + 1)[number];
        assert_eq!(
            (&record["end"], &record["status"]),
            (&json!("client_closed"), &json!(499))
        );
    }
    weir.wait_value("weir_in_flight", &[], 0.0);
}

// === deadlines ===

#[test]
fn an_upstream_that_cannot_be_reached_in_time_is_504_or_502() {
    // An address of a network for documentation: packets to it go nowhere, or are refused.
    let weir =
        Gateway::start("model_routes: {m: \"http://192.0.2.1:81\"}\ntimeouts: {connect: 200ms}");
    let started = Instant::now();
    let answer = weir.post(CHAT, BODY);
    assert!([502, 504].contains(&answer.status()), "{}", answer.text());
    let code = if answer.status() == 504 {
        "upstream_timeout"
    } else {
        "upstream_failed"
    };
    answer.assert_refused(answer.status(), code);
    assert!(started.elapsed() < Duration::from_secs(5));
    let weir = Gateway::start(&format!("model_routes: {{m: \"http://{}\"}}", nobody()));
    weir.post(CHAT, BODY).assert_refused(502, "upstream_failed");
}

#[test]
fn a_first_byte_that_is_late_is_504() {
    let provider = Provider::start(|exchange| exchange.wait_end());
    let weir = gateway(&provider, "timeouts: {first_byte: 200ms}");
    let started = Instant::now();
    let answer = weir.post(CHAT, BODY);
    answer.assert_refused(504, "upstream_timeout");
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(answer.json()["error"]["type"], "server_error");
    provider.wait_end(0);
    let record = &weir.records(1)[0];
    assert_eq!(
        (&record["status"], &record["end"]),
        (&json!(504), &json!("refused:upstream_timeout"))
    );
    let labels = [("error_type", "first_byte_timeout"), ("provider", "p")];
    assert_eq!(weir.value("llm_upstream_error_total", &labels), Some(1.0));
}

#[test]
fn an_upstream_whose_kernel_alone_accepts_is_504_too() {
    let provider = Provider::never_accepting();
    let weir = gateway(&provider, "timeouts: {first_byte: 200ms}");
    weir.post(CHAT, BODY)
        .assert_refused(504, "upstream_timeout");
    // With a body that passes through, and with none.
    let audio = [("content-type", "audio/wav")];
    weir.post_with("/v1/audio/x", &audio, [7; 100])
        .assert_refused(504, "upstream_timeout");
    weir.get("/v1/other")
        .assert_refused(504, "upstream_timeout");
}

#[test]
fn a_providers_own_deadline_replaces_the_general_one() {
    let provider = Provider::start(|exchange| exchange.wait_end());
    let weir = Gateway::start(&format!(
        r#"
providers: [{{name: p, base_url: "{}", timeouts: {{first_byte: 200ms}}}}]
routing: {{default_provider: p}}
"#,
        provider.url()
    ));
    let started = Instant::now();
    weir.post(CHAT, BODY)
        .assert_refused(504, "upstream_timeout");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_provider_may_be_given_more_time_than_the_others() {
    let late = Gate::new();
    let gate = late.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&gate);
        exchange.json(200, DONE);
    });
    let weir = Gateway::start(&format!(
        r#"
providers: [{{name: p, base_url: "{}", timeouts: {{first_byte: 30s}}}}]
routing: {{default_provider: p}}
timeouts: {{first_byte: 200ms}}
"#,
        provider.url()
    ));
    let mut client = weir.client();
    client.post(CHAT, BODY);
    assert!(
        client.is_silent_for(Duration::from_millis(600)),
        "the general deadline was applied"
    );
    late.open();
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn an_answer_that_falls_silent_is_broken_off() {
    let provider = Provider::start(|exchange| {
        exchange.head(200, &[("content-length", "10")]);
        exchange.raw("abc");
        exchange.wait_end();
    });
    let weir = gateway(&provider, "timeouts: {idle: 200ms}");
    let answer = weir.post(CHAT, BODY);
    assert_eq!(answer.status(), 200);
    assert!(!answer.whole && answer.body == b"abc");
    provider.wait_end(0);
    assert_eq!(weir.records(1)[0]["end"], "upstream_broke");
    let labels = [("error_type", "idle_timeout")];
    assert_eq!(weir.value("llm_upstream_error_total", &labels), Some(1.0));
}

/// A model server that never answers `/never`, and never ends its answer to anything else.
fn without_end() -> Provider {
    Provider::start(|exchange| {
        if exchange.request.target == "/never" {
            return exchange.wait_end();
        }
        exchange.head(200, &[("transfer-encoding", "chunked")]);
        // Never silent for long.
        while exchange.raw(chunk(b"x")) {
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

#[track_caller]
fn ends_in_time(weir: &Gateway, provider: &Provider) {
    let started = Instant::now();
    weir.post("/never", BODY)
        .assert_refused(504, "upstream_timeout");
    let answer = weir.post("/endless", BODY);
    assert!(answer.status() == 200 && !answer.whole);
    assert!(started.elapsed() < Duration::from_secs(8));
    provider.wait_end(1);
    let labels = [("error_type", "total_timeout")];
    assert_eq!(weir.value("llm_upstream_error_total", &labels), Some(2.0));
}

#[test]
fn a_request_that_takes_too_long_in_all_is_ended() {
    let provider = without_end();
    let more = format!(
        "model_routes: {{m: \"{}\"}}\ntimeouts: {{total: 400ms}}",
        provider.url()
    );
    ends_in_time(&gateway(&provider, &more), &provider);
}

#[test]
fn a_request_that_passes_through_and_takes_too_long_in_all_is_ended() {
    let provider = without_end();
    ends_in_time(&gateway(&provider, "timeouts: {total: 400ms}"), &provider);
}

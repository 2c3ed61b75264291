//! Limits of the host, at the limit, one past it, and while it is being crossed.

use crate::support::{Answer, Client, Gate, Gateway, Provider, eventually};
use std::net::Shutdown;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"gpt-4o","messages":[]}"#;

fn config(url: &str) -> String {
    format!("model_routes: {{gpt-4o: \"{url}\"}}\n")
}

/// A model server that answers when the gate is open.
fn waiting(gate: &Gate) -> Provider {
    let gate = gate.clone();
    Provider::start(move |exchange| {
        exchange.wait(&gate);
        exchange.json(200, "{}");
    })
}

/// What `Retry-After` says.
#[track_caller]
fn retry_after(answer: &Answer) -> u64 {
    let value = answer.header("retry-after").expect("Retry-After");
    value.parse().expect("seconds")
}

// === requests per client address ===

#[test]
fn the_burst_goes_through_and_who_waits_as_told_gets_in() {
    let provider = Provider::json("{}");
    let limit = "rate_limit: {rate: 0.5, burst: 3}\n";
    let gateway = Gateway::start(&(config(&provider.url()) + limit));
    for number in 0..3 {
        assert_eq!(
            gateway.post(CHAT, ASK).status(),
            200,
            "request {number} of the burst"
        );
    }
    let refused = gateway.post(CHAT, ASK);
    let told = Instant::now();
    refused.assert_refused(429, "rate_limited");
    let wait = retry_after(&refused);
    assert!(
        (1..=2).contains(&wait),
        "{wait} s for half a request a second"
    );
    gateway.post(CHAT, ASK).assert_refused(429, "rate_limited");
    assert_eq!(
        provider.requests().len(),
        3,
        "a refused request goes nowhere"
    );
    // The promise is about time, so time must pass.
    std::thread::sleep(Duration::from_secs(wait).saturating_sub(told.elapsed()));
    assert_eq!(
        gateway.post(CHAT, ASK).status(),
        200,
        "after {wait} s as told"
    );
    let records = gateway.records(6);
    let refused = records
        .iter()
        .filter(|record| record["end"] == "refused:rate_limited");
    assert_eq!(refused.count(), 2);
    gateway.wait_value("llm_requests_total", &[("status", "429")], 2.0);
}

#[test]
fn the_burst_is_exact_when_all_come_at_once() {
    let provider = Provider::json("{}");
    let limit = "rate_limit: {requests_per_minute: 1, burst: 7}\n";
    let gateway = Gateway::start(&(config(&provider.url()) + limit));
    let address = gateway.address();
    let clients: Vec<_> = (0..30)
        .map(|_| std::thread::spawn(move || crate::support::post(address, CHAT, ASK).status()))
        .collect();
    let statuses: Vec<u16> = clients
        .into_iter()
        .map(|it| it.join().expect("a client"))
        .collect();
    let count = |status| statuses.iter().filter(|it| **it == status).count();
    assert_eq!((count(200), count(429)), (7, 23), "{statuses:?}");
}

#[test]
fn clients_behind_a_trusted_proxy_have_limits_of_their_own() {
    let provider = Provider::json("{}");
    let limit = "rate_limit: {requests_per_minute: 1, burst: 1}\ntrusted_proxies: [127.0.0.0/8]\n";
    let gateway = Gateway::start(&(config(&provider.url()) + limit));
    let ask = |from: &str| {
        let headers = [
            ("content-type", "application/json"),
            ("x-forwarded-for", from),
        ];
        gateway.post_with(CHAT, &headers, ASK)
    };
    assert_eq!(ask("192.0.2.1").status(), 200);
    ask("192.0.2.1").assert_refused(429, "rate_limited");
    assert_eq!(ask("192.0.2.2").status(), 200);
    // What stands to the left of the client's own address the client may have made up.
    ask("198.51.100.9, 192.0.2.1").assert_refused(429, "rate_limited");
    ask("192.0.2.2, 127.0.0.9").assert_refused(429, "rate_limited");
    assert_eq!(
        gateway.post(CHAT, ASK).status(),
        200,
        "the proxy for itself"
    );
    gateway.record_where("the first record", |record| {
        record["client_ip"] == "192.0.2.1" && record["status"] == 200
    });
}

#[test]
fn a_client_that_nobody_trusts_cannot_pass_for_another() {
    let provider = Provider::json("{}");
    let limit = "rate_limit: {requests_per_minute: 1, burst: 1}\ntrusted_proxies: [10.0.0.0/8]\n";
    let gateway = Gateway::start(&(config(&provider.url()) + limit));
    let ask = |from: &str| {
        let headers = [("x-forwarded-for", from), ("x-real-ip", from)];
        gateway.post_with(CHAT, &headers, ASK)
    };
    assert_eq!(ask("192.0.2.1").status(), 200);
    ask("192.0.2.2").assert_refused(429, "rate_limited");
    assert_eq!(gateway.records(2)[1]["client_ip"], "127.0.0.1");
}

#[test]
fn the_question_for_life_is_never_limited() {
    let provider = Provider::json("{}");
    let limit = "rate_limit: {requests_per_minute: 1, burst: 1}\nlimits: {in_flight: 1}\n";
    let gateway = Gateway::start(&(config(&provider.url()) + limit));
    for _ in 0..5 {
        assert_eq!(gateway.get("/healthz").text(), "OK");
    }
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
}

// === requests at once ===

#[test]
fn as_many_as_allowed_are_in_flight_and_one_more_is_refused_until_one_ends() {
    let gate = Gate::new();
    let provider = waiting(&gate);
    let gateway = Gateway::start(&(config(&provider.url()) + "limits: {in_flight: 2}\n"));
    let mut clients = [gateway.client(), gateway.client()];
    for client in &mut clients {
        client.post(CHAT, ASK);
    }
    provider.wait_requests(2);
    gateway.wait_value("weir_in_flight", &[], 2.0);
    let mut third = gateway.client();
    third.post(CHAT, ASK);
    let refused = third.answer();
    refused.assert_refused(503, "overloaded");
    assert!(retry_after(&refused) >= 1);
    let http2 = gateway.h2_client().post(CHAT, ASK);
    assert_eq!(
        (http2.status, http2.header("x-weir-error")),
        (503, Some("overloaded"))
    );
    assert_eq!(gateway.get("/healthz").status(), 200, "life isn't load");
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer().status(), 200);
    }
    gateway.wait_value("weir_in_flight", &[], 0.0);
    // Its body was not read, so the connection may have ended; but then that was said.
    if refused.header("connection") == Some("close") {
        assert_eq!(third.read_to_end(), b"");
        third = gateway.client();
    }
    third.post(CHAT, ASK);
    assert_eq!(third.answer().status(), 200);
}

#[test]
fn clients_that_vanish_give_their_places_back() {
    let provider = Provider::start(|exchange| {
        if exchange.request.text().contains("wait") {
            exchange.wait_end();
            return exchange.close();
        }
        exchange.json(200, "{}");
    });
    let gateway = Gateway::start(&(config(&provider.url()) + "limits: {in_flight: 3}\n"));
    let wait = r#"{"model":"gpt-4o","messages":[],"user":"wait"}"#;
    let mut clients: Vec<Client> = (0..2).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.post(CHAT, wait);
    }
    // The third vanishes in the middle of its body.
    let mut half = gateway.client();
    let headers = [
        ("content-type", "application/json"),
        ("content-length", "100"),
    ];
    half.send_head("POST", CHAT, &headers);
    half.send("{\"model\"");
    provider.wait_requests(2);
    gateway.wait_value("weir_in_flight", &[], 3.0);
    gateway.post(CHAT, ASK).assert_refused(503, "overloaded");
    for client in clients {
        client.reset();
    }
    half.close();
    gateway.wait_value("weir_in_flight", &[], 0.0);
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
}

#[test]
fn the_cap_holds_while_it_is_being_crossed() {
    let gate = Gate::new();
    let provider = waiting(&gate);
    let gateway = Gateway::start(&(config(&provider.url()) + "limits: {in_flight: 5}\n"));
    let address = gateway.address();
    let clients: Vec<_> = (0..40)
        .map(|_| std::thread::spawn(move || crate::support::post(address, CHAT, ASK).status()))
        .collect();
    // All that are past the cap have their answer before the first of the others has.
    gateway.wait_value("llm_requests_total", &[("status", "503")], 35.0);
    assert_eq!(provider.wait_requests(5).len(), 5);
    gate.open();
    let statuses: Vec<u16> = clients
        .into_iter()
        .map(|it| it.join().expect("a client"))
        .collect();
    let count = |status| statuses.iter().filter(|it| **it == status).count();
    assert_eq!((count(200), count(503)), (5, 35), "{statuses:?}");
    gateway.wait_value("weir_in_flight", &[], 0.0);
}

// === bytes ===

/// A request of just this many bytes.
fn sized(bytes: usize) -> Vec<u8> {
    let mut body = br#"{"model":"gpt-4o","messages":[],"user":""#.to_vec();
    body.resize(bytes - 2, b'x');
    body.extend_from_slice(b"\"}");
    body
}

#[test]
fn all_buffers_together_stay_below_their_cap() {
    let gate = Gate::new();
    let provider = waiting(&gate);
    let limits = "limits: {buffered_bytes: 100000}\n";
    let gateway = Gateway::start(&(config(&provider.url()) + limits));
    let mut first = gateway.client();
    first.post(CHAT, sized(60_000));
    provider.wait_requests(1);
    gateway.wait_value("weir_buffered_bytes", &[], 60_000.0);

    let refused = gateway.post(CHAT, sized(40_001));
    refused.assert_refused(503, "overloaded");
    assert!(retry_after(&refused) >= 1);
    let mut last = gateway.client();
    last.post(CHAT, sized(40_000));
    provider.wait_requests(2);
    gateway.wait_value("weir_buffered_bytes", &[], 100_000.0);
    gateway.post(CHAT, ASK).assert_refused(503, "overloaded");
    assert_eq!(gateway.get("/healthz").status(), 200);

    gate.open();
    assert_eq!(
        (first.answer().status(), last.answer().status()),
        (200, 200)
    );
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
    assert_eq!(
        gateway
            .post(CHAT, sized(100_000 - (100_000 % 65_536)))
            .status(),
        200
    );
}

#[test]
fn buffers_of_clients_that_vanish_are_given_back() {
    let provider = Provider::start(|exchange| {
        exchange.wait_end();
        exchange.close();
    });
    let limits = "limits: {buffered_bytes: 200000}\n";
    let gateway = Gateway::start(&(config(&provider.url()) + limits));
    let mut answered = gateway.client();
    answered.post(CHAT, sized(50_000));
    let mut half = gateway.client();
    let headers = [
        ("content-type", "application/json"),
        ("content-length", "90000"),
    ];
    half.send_head("POST", CHAT, &headers);
    half.send(&sized(60_000)[..50_000]);
    provider.wait_requests(1);
    eventually("half a body to be held", || {
        (gateway.value("weir_buffered_bytes", &[])? >= 100_000.0).then_some(())
    });
    answered.reset();
    half.reset();
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
    gateway.wait_value("weir_in_flight", &[], 0.0);
}

// === connections ===

#[test]
fn a_connection_past_the_cap_waits_and_is_served_when_one_ends() {
    let provider = Provider::json("{}");
    let gateway = Gateway::start(&(config(&provider.url()) + "limits: {connections: 2}\n"));
    let mut open = [gateway.client(), gateway.client()];
    for client in &mut open {
        client.post(CHAT, ASK);
        assert_eq!(client.answer().status(), 200);
    }
    let mut third = gateway.client();
    third.post(CHAT, ASK);
    assert!(
        third.is_silent_for(Duration::from_millis(300)),
        "it has to wait"
    );
    assert_eq!(provider.requests().len(), 2);
    assert_eq!(
        crate::support::get(gateway.admin(), "/healthz").status(),
        200,
        "operators get in"
    );
    let [first, mut second] = open;
    first.close();
    assert_eq!(third.answer().status(), 200);
    second.post(CHAT, ASK);
    assert_eq!(second.answer().status(), 200, "who was in stays in");
}

// === heads ===

/// A request whose head has just this many bytes.
fn head(bytes: usize) -> Vec<u8> {
    let mut head = b"GET /healthz HTTP/1.1\r\nHost: x\r\na: ".to_vec();
    head.resize(bytes - 4, b'x');
    head.extend_from_slice(b"\r\n\r\n");
    head
}

#[test]
fn a_head_at_the_limit_is_served_and_one_byte_more_is_431() {
    let gateway =
        Gateway::start("limits: {header_bytes: 2KiB}\ntarget_map: {/x: \"http://127.0.0.1:9\"}\n");
    let mut client = gateway.client();
    for _ in 0..2 {
        client.send(head(2048));
        assert_eq!(client.answer().status(), 200);
    }
    client.send(head(2049));
    let refused = client.answer();
    refused.assert_refused(431, "header_too_large");
    assert_eq!(client.read_to_end(), b"", "the connection is closed");
    // One that has no end is refused as soon as it is too long.
    let mut endless = gateway.client();
    endless.send(vec![b'x'; 2049]);
    endless.answer().assert_refused(431, "header_too_large");
    gateway.wait_value("llm_requests_total", &[("status", "431")], 2.0);
    let refused = |record: &serde_json::Value| record["end"] == "refused:header_too_large";
    assert_eq!(gateway.records(2).into_iter().filter(refused).count(), 2);
}

#[test]
fn a_large_head_of_http2_is_refused_and_the_server_lives_on() {
    let gateway =
        Gateway::start("limits: {header_bytes: 2KiB}\ntarget_map: {/x: \"http://127.0.0.1:9\"}\n");
    let small = "x".repeat(1000);
    let answer = gateway
        .h2_client()
        .request("GET", "/healthz", &[("a", &small)], b"");
    assert_eq!(answer.status, 200);
    let large = "x".repeat(4000);
    let address = gateway.address();
    let answer = std::thread::spawn(move || {
        let client = crate::support::h2c::Client::connect(address);
        client
            .request("GET", "/healthz", &[("a", &large)], b"")
            .status
    });
    // An error of the stream or of the connection is as good an answer as 431.
    if let Ok(status) = answer.join() {
        assert_eq!(status, 431);
    }
    assert_eq!(gateway.get("/healthz").status(), 200);
}

#[test]
fn a_head_that_trickles_is_408_and_a_silent_client_is_let_go() {
    let gateway = Gateway::start(
        "timeouts: {client_header: 300ms}\ntarget_map: {/x: \"http://127.0.0.1:9\"}\n",
    );
    let mut silent = gateway.client();
    let mut slow = gateway.client();
    let began = Instant::now();
    slow.send("GET /healthz HTTP/1.1\r\nHost: x\r\n");
    // A byte now and then must not put the deadline off.
    let mut socket = slow.socket().try_clone().expect("a socket");
    let trickle = std::thread::spawn(move || {
        use std::io::Write;
        while socket.write_all(b"a: b\r\n").is_ok() && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let answer = slow.answer();
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    answer.assert_refused(408, "client_timeout");
    let _ = slow.socket().shutdown(Shutdown::Both);
    assert_eq!(
        silent.read_to_end(),
        b"",
        "nobody asked, so nobody is answered"
    );
    trickle.join().expect("the trickle");
    gateway.record_where("the refusal", |record| {
        record["end"] == "refused:client_timeout"
    });
}

#[test]
fn a_body_that_trickles_is_408() {
    let provider = Provider::json("{}");
    let timeouts = "timeouts: {client_body: 300ms}\n";
    let gateway = Gateway::start(&(config(&provider.url()) + timeouts));
    let mut client = gateway.client();
    let headers = [
        ("content-type", "application/json"),
        ("content-length", "100"),
    ];
    client.send_head("POST", CHAT, &headers);
    client.send("{\"model\":");
    client.answer().assert_refused(408, "client_timeout");
    assert_eq!(client.read_to_end(), b"");
    assert!(provider.requests().is_empty());
    gateway.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn bare_line_feeds_are_refused() {
    let gateway = Gateway::start("target_map: {/x: \"http://127.0.0.1:9\"}\n");
    for request in [
        "GET /healthz HTTP/1.1\nHost: x\n\n",
        "GET /healthz HTTP/1.1\r\nHost: x\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\n\n",
        "\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut client = gateway.client();
        client.send(request);
        client.answer().assert_refused(400, "invalid_request");
        assert_eq!(client.read_to_end(), b"", "{request:?}");
    }
}

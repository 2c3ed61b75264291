//! A second call for a short request whose first one takes long: the first good answer is the client's,
//! the other call is given up, and it is one request in all books.

use crate::streaming::Http2;
use crate::support::{Client, Exchange, Gate, Gateway, H2Provider, Provider, provider};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const PATH: &str = "/v1/embeddings";
const ASK: &str = r#"{"model":"e","input":"Hi there"}"#;

fn vectors(value: f64) -> String {
    let data = json!([{"object": "embedding", "index": 0, "embedding": [value]}]);
    let usage = json!({"prompt_tokens": 7, "total_tokens": 7});
    json!({"object": "list", "model": "e", "data": data, "usage": usage}).to_string()
}

fn answering(value: f64) -> impl Fn(&mut Exchange) {
    move |exchange| exchange.json(200, &vectors(value))
}

/// Its connection must be closed by weir.
fn hanging(exchange: &mut Exchange) {
    exchange.wait_end();
    exchange.close();
}

/// The urls in turns: the first request asks the first of them.
fn start(urls: &[String], hedge: &str) -> Gateway {
    Gateway::start(&format!(
        "model_routes: {{e: {{urls: {urls:?}, hedge: {hedge}}}}}\n"
    ))
}

const SOON: &str = "{after: 20ms, max: 100%}";

#[track_caller]
fn assert_embedded(answer: &crate::support::Answer, value: f64) {
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.json()["data"][0]["embedding"][0], value);
}

#[track_caller]
fn assert_hedges(gateway: &Gateway, outcome: &str, count: f64) {
    let labels = [("model", "e"), ("outcome", outcome)];
    gateway.wait_value("weir_hedges_total", &labels, count);
}

/// It is one request, its tokens are counted once, and nothing is held any more.
#[track_caller]
fn assert_one_request(gateway: &Gateway, attempts: u32) {
    let record = &gateway.records(1)[0];
    assert_eq!(record["attempts"], attempts, "{record}");
    assert_eq!(record["input_tokens"], 7, "{record}");
    assert_eq!(record["end"], "complete", "{record}");
    gateway.wait_value("llm_requests_total", &[], 1.0);
    gateway.wait_value("llm_token_usage_total", &[("kind", "input")], 7.0);
    for gauge in ["weir_in_flight", "weir_buffered_bytes"] {
        gateway.wait_value(gauge, &[], 0.0);
    }
}

#[test]
fn a_slow_first_call_is_overtaken_by_the_next_target_and_closed() {
    let slow = Provider::start(hanging);
    let quick = Provider::start(answering(2.0));
    let gateway = start(&[slow.url(), quick.url()], SOON);
    let answer = gateway.post_with(PATH, &[("authorization", "Bearer k")], ASK);
    assert_embedded(&answer, 2.0);
    assert_eq!(answer.header("x-weir-attempts"), Some("2"));
    slow.wait_end(0);
    assert_hedges(&gateway, "won", 1.0);
    assert_one_request(&gateway, 2);
    assert_eq!(
        gateway.records(1)[0]["endpoint"],
        quick.address().to_string()
    );
    let (one, two) = (slow.only_request(), quick.only_request());
    for name in [
        "x-request-id",
        "authorization",
        "content-length",
        "content-type",
    ] {
        assert_eq!(one.header(name), two.header(name), "{name}");
    }
    assert_eq!((one.text(), two.text()), (ASK.into(), ASK.into()));
    assert_eq!(one.header("host"), Some(&*slow.address().to_string()));
    assert_eq!(two.header("host"), Some(&*quick.address().to_string()));
}

#[test]
fn a_first_call_that_is_answered_after_all_closes_the_second() {
    let asked_twice = Gate::new();
    let (gate, opener) = (asked_twice.clone(), asked_twice);
    let first = Provider::start(move |exchange| {
        exchange.wait(&gate);
        exchange.json(200, &vectors(1.0));
    });
    let second = Provider::start(move |exchange| {
        opener.open();
        hanging(exchange);
    });
    let gateway = start(&[first.url(), second.url()], SOON);
    assert_embedded(&gateway.post(PATH, ASK), 1.0);
    second.wait_end(0);
    assert_hedges(&gateway, "lost", 1.0);
    assert_one_request(&gateway, 2);
    assert!(first.ends().is_empty(), "its connection is kept");
    // Both connections of the pool can be used: the next one is second's turn.
    let third = gateway.post(PATH, ASK);
    assert_embedded(&third, 1.0);
}

#[test]
fn a_route_with_one_endpoint_asks_it_again_on_another_connection() {
    let calls = AtomicUsize::new(0);
    let only = Provider::start(move |exchange| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => hanging(exchange),
        _ => exchange.json(200, &vectors(3.0)),
    });
    let gateway = start(&[only.url()], SOON);
    assert_embedded(&gateway.post(PATH, ASK), 3.0);
    only.wait_end(0);
    let connections: Vec<_> = only.requests().iter().map(|it| it.connection).collect();
    assert_eq!(connections, [0, 1]);
    assert_one_request(&gateway, 2);
    // The second's connection is kept, and reused.
    assert_embedded(&gateway.post(PATH, ASK), 3.0);
    assert_eq!(only.connections(), 2);
}

#[test]
fn over_http2_the_slow_stream_is_reset() {
    let calls = AtomicUsize::new(0);
    let provider = H2Provider::start(move |exchange| {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            return exchange.wait_cancelled();
        }
        exchange.head(200, &[("content-type", "application/json")]);
        exchange.data(vectors(4.0), false);
        exchange.trailers();
    });
    let http2 = Http2::start_as(
        provider,
        "model_routes: {e: {targets: [{provider: p}], hedge: {after: 20ms, max: 100%}}}\n",
    );
    let answer = http2.gateway.h2_client().post(PATH, ASK);
    assert_eq!(
        (
            answer.status,
            answer.json()["data"][0]["embedding"][0].as_f64()
        ),
        (200, Some(4.0))
    );
    http2.provider.wait_cancelled(1);
    assert_one_request(&http2.gateway, 2);
}

#[test]
fn nothing_is_hedged_before_the_routes_latencies_are_known() {
    let slow = std::sync::Arc::new(AtomicUsize::new(usize::MAX));
    let (calls, number) = (AtomicUsize::new(0), slow.clone());
    let provider = Provider::start(move |exchange| {
        match calls.fetch_add(1, Ordering::SeqCst) == number.load(Ordering::SeqCst) {
            true => hanging(exchange),
            false => exchange.json(200, &vectors(1.0)),
        }
    });
    let gateway = start(&[provider.url()], "{after: p95, max: 100%}");
    let mut client = gateway.client();
    for _ in 0..100 {
        client.post(PATH, ASK);
        assert_embedded(&client.answer(), 1.0);
    }
    assert_eq!(provider.requests().len(), 100);
    slow.store(100, Ordering::SeqCst);
    assert_embedded(&gateway.post(PATH, ASK), 1.0);
    provider.wait_end(0);
    assert_hedges(&gateway, "won", 1.0);
}

#[test]
fn no_more_requests_than_the_share_are_hedged() {
    const REQUESTS: usize = 50;
    // A model server that always takes longer than a call may.
    let provider = Provider::start(|exchange| {
        std::thread::sleep(Duration::from_millis(5));
        exchange.json(200, &vectors(1.0));
    });
    let gateway = start(&[provider.url()], "{after: 1ms, max: 10%}");
    let mut client = gateway.client();
    for _ in 0..REQUESTS {
        client.post(PATH, ASK);
        assert_embedded(&client.answer(), 1.0);
    }
    let hedges = gateway.value("weir_hedges_total", &[]).unwrap_or_default();
    assert_eq!(hedges, (REQUESTS / 10) as f64);
}

#[test]
fn a_call_that_fails_waits_for_the_other() {
    for failure in ["reset", "503", "429"] {
        let asked_twice = Gate::new();
        let (gate, opener, done) = (asked_twice.clone(), asked_twice, Gate::new());
        let failed = done.clone();
        let first = Provider::start(move |exchange| {
            exchange.wait(&gate);
            match failure {
                "reset" => exchange.reset(),
                status => exchange.json(status.parse().expect("a status"), "{}"),
            }
            failed.open();
        });
        let second = Provider::start(move |exchange| {
            opener.open();
            exchange.wait(&done);
            exchange.json(200, &vectors(2.0));
        });
        let gateway = start(&[first.url(), second.url()], SOON);
        assert_embedded(&gateway.post(PATH, ASK), 2.0);
        assert_hedges(&gateway, "won", 1.0);
        assert_one_request(&gateway, 2);
        let kind = if failure == "reset" { "closed" } else { "busy" };
        gateway.wait_value("llm_upstream_error_total", &[("error_type", kind)], 1.0);
    }
}

#[test]
fn a_mistake_of_the_client_is_its_answer_at_once() {
    const MISTAKE: &str = r#"{"error":{"message":"input is empty"}}"#;
    let asked_twice = Gate::new();
    let (gate, opener) = (asked_twice.clone(), asked_twice);
    let first = Provider::start(move |exchange| {
        exchange.wait(&gate);
        exchange.json(400, MISTAKE);
    });
    let second = Provider::start(move |exchange| {
        opener.open();
        hanging(exchange);
    });
    let gateway = start(&[first.url(), second.url()], SOON);
    let answer = gateway.post(PATH, ASK);
    assert_eq!((answer.status(), answer.text()), (400, MISTAKE.into()));
    second.wait_end(0);
}

#[test]
fn where_neither_answers_well_the_client_is_told() {
    let refusing = || Provider::start(|exchange| exchange.reset());
    let (one, two) = (refusing(), refusing());
    let gateway = start(&[one.url(), two.url()], SOON);
    gateway
        .post(PATH, ASK)
        .assert_refused(502, "upstream_failed");
    let gateway = start(&[format!("http://{}", provider::nobody())], SOON);
    gateway
        .post(PATH, ASK)
        .assert_refused(502, "upstream_failed");
    gateway.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn a_target_that_cannot_be_reached_leaves_the_request_to_the_next() {
    let there = Provider::start(answering(2.0));
    let gateway = start(
        &[format!("http://{}", provider::nobody()), there.url()],
        SOON,
    );
    let answer = gateway.post(PATH, ASK);
    assert_embedded(&answer, 2.0);
    assert_one_request(&gateway, 2);
}

#[test]
fn a_connection_of_the_pool_that_has_died_is_no_failure() {
    let provider = Provider::start(|exchange| {
        exchange.json(200, &vectors(1.0));
        exchange.close();
    });
    let gateway = start(&[provider.url()], "{after: 1h}");
    let mut client = gateway.client();
    for _ in 0..50 {
        client.post(PATH, ASK);
        let answer = client.answer();
        assert_embedded(&answer, 1.0);
        assert_eq!(answer.header("x-weir-attempts"), Some("1"));
    }
    assert_eq!(gateway.value("llm_upstream_error_total", &[]), None);
}

#[test]
fn a_client_that_leaves_ends_both_calls() {
    let (one, two) = (Provider::start(hanging), Provider::start(hanging));
    let gateway = start(&[one.url(), two.url()], SOON);
    let mut client = gateway.client();
    client.post(PATH, ASK);
    one.wait_requests(1);
    two.wait_requests(1);
    client.close();
    one.wait_end(0);
    two.wait_end(0);
    let record = &gateway.records(1)[0];
    assert_eq!(
        [&record["end"], &record["status"]],
        [&json!("client_closed"), &json!(499)]
    );
    // Its prompt is at an upstream all the same.
    assert_eq!(record["input_tokens"], 2, "{record}");
    for gauge in ["weir_in_flight", "weir_buffered_bytes"] {
        gateway.wait_value(gauge, &[], 0.0);
    }
}

#[test]
fn an_answer_is_read_on_where_its_provider_drains() {
    let left = Gate::new();
    let gate = left.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&gate);
        exchange.json(200, &vectors(1.0));
    });
    let gateway = Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{}\", on_disconnect: drain}}]\n\
         model_routes: {{e: {{targets: [{{provider: p}}], hedge: {{after: 1h}}}}}}\n",
        provider.url()
    ));
    let mut client = gateway.client();
    client.post(PATH, ASK);
    provider.wait_requests(1);
    client.close();
    gateway.wait_value("weir_drains", &[], 1.0);
    left.open();
    let record = &gateway.records(1)[0];
    assert_eq!(
        [&record["end"], &record["input_tokens"]],
        [&json!("client_closed"), &json!(7)]
    );
}

#[test]
fn two_calls_that_hang_end_with_the_time_for_a_first_byte() {
    let (one, two) = (Provider::start(hanging), Provider::start(hanging));
    let gateway = Gateway::start(&format!(
        "timeouts: {{first_byte: 300ms}}\n\
         model_routes: {{e: {{urls: [{:?}, {:?}], hedge: {SOON}, retries: 1}}}}\n",
        one.url(),
        two.url()
    ));
    let answer = gateway.post(PATH, ASK);
    answer.assert_refused(504, "upstream_timeout");
    one.wait_end(0);
    two.wait_end(0);
}

#[test]
fn a_second_call_that_waits_for_a_place_is_no_further_try() {
    let provider = Provider::start(hanging);
    let gateway = Gateway::start(&format!(
        "timeouts: {{first_byte: 300ms}}\n\
         providers: [{{name: p, base_url: \"{}\", max_in_flight: 1}}]\n\
         model_routes: {{e: {{targets: [{{provider: p}}], hedge: {SOON}, retries: 1}}}}\n",
        provider.url()
    ));
    let answer = gateway.post(PATH, ASK);
    answer.assert_refused(504, "upstream_timeout");
    assert_eq!(answer.header("x-weir-attempts"), Some("1"));
    assert_eq!(provider.requests().len(), 1, "who hangs isn't asked twice");
    gateway.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn an_answer_passes_as_it_comes_in_chunks_and_when_it_breaks() {
    let provider = Provider::start(|exchange| {
        let headers = [
            ("content-type", "application/json"),
            ("transfer-encoding", "chunked"),
        ];
        exchange.head(200, &headers);
        let broken = exchange.request.text().contains("break");
        let whole = vectors(5.0);
        let (one, two) = whole.split_at(20);
        exchange.chunk(one);
        if broken {
            return exchange.reset();
        }
        exchange.chunk(two);
        exchange.end();
    });
    let gateway = start(&[provider.url()], SOON);
    let mut client = gateway.client();
    for _ in 0..2 {
        client.post(PATH, ASK);
        assert_embedded(&client.answer(), 5.0);
    }
    assert_eq!(provider.connections(), 1, "it is kept");
    client.post(PATH, r#"{"model":"e","input":"break"}"#);
    assert_broken(client);
    let record = gateway.record_where("a broken one", |it| it["end"] != "complete");
    assert_eq!(record["end"], "upstream_broke");
}

#[track_caller]
fn assert_broken(mut client: Client) {
    let head = client.read_head();
    assert_eq!(head.status, 200);
    let (_, whole) = client.rest();
    assert!(!whole, "a broken answer never looks like a whole one");
}

#[test]
fn a_streamed_chat_is_never_hedged_nor_is_another() {
    let hold = Gate::new();
    let gate = hold.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&gate);
        exchange.json(200, "{}");
    });
    let gateway = start(&[provider.url()], "{after: 1ms, max: 100%}");
    let mut client = gateway.client();
    client.post("/v1/chat/completions", r#"{"model":"e","messages":[]}"#);
    provider.wait_requests(1);
    // Moderations beside it are: by then the chat would have been.
    let mut other = gateway.client();
    other.post("/v1/moderations", r#"{"model":"e","input":"x"}"#);
    let all = provider.wait_requests(3);
    hold.open();
    assert_eq!(
        (client.answer().status(), other.answer().status()),
        (200, 200)
    );
    let chats = all.iter().filter(|it| it.target.contains("chat")).count();
    assert_eq!(chats, 1);
}

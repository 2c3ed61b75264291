//! Clients that leave: their upstreams are closed at once, or read on for the usage at the end, and
//! nothing stays behind.

use crate::streaming::Http2;
use crate::support::gate::Board;
use crate::support::{
    Client, Exchange, Gate, Gateway, H2Provider, Launch, Provider, eventually, h2c,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str =
    r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hi there"}]}"#;
const USAGE: &str =
    r#"data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}"#;
const FINISH: &str = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

fn said(text: &str) -> String {
    let delta =
        json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]});
    format!("data: {delta}\n\n")
}

fn tokens(text: &str) -> usize {
    tiktoken_rs::o200k_base_singleton()
        .encode_ordinary(text)
        .len()
}

fn prompt(ask: &str) -> u64 {
    let api = weir::tokens::prompt::Api::Chat;
    weir::tokens::prompt::prompt_tokens(api, "gpt-4o", ask.as_bytes())
}

fn config(url: &str, keys: &str) -> String {
    format!("providers:\n- {{name: p, base_url: \"{url}\", models: [gpt-4o]{keys}}}\n")
}

/// Everything that a request holds is back.
#[track_caller]
fn assert_nothing_is_left(gateway: &Gateway) {
    for gauge in [
        "weir_in_flight",
        "weir_buffered_bytes",
        "weir_streams",
        "weir_drains",
    ] {
        gateway.wait_value(gauge, &[], 0.0);
    }
}

// === at once ===

/// When a client leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    BeforeTheHead,
    InTheStream,
    /// In the stream, of which it has long read nothing.
    WithoutReading,
}

/// More than all sockets on the way take.
const FLOOD_PIECES: usize = 512;
const FLOOD_PIECE_BYTES: usize = 64 << 10;

/// A model server of either kind, and weir in front of it.
struct Upstream {
    gateway: Gateway,
    h1: Option<Provider>,
    h2: Option<(H2Provider, crate::support::tls::TlsFront)>,
    /// Pieces of a flood that the model server could send.
    sent: Arc<AtomicUsize>,
}

impl When {
    fn ask(self) -> String {
        ASK.replace("Hi there", &format!("{self:?}"))
    }

    fn of(ask: &str) -> Self {
        let all = [Self::BeforeTheHead, Self::InTheStream, Self::WithoutReading];
        let asked = |when: &Self| ask.contains(&format!("{when:?}"));
        all.into_iter().find(asked).expect("one of them")
    }
}

impl Upstream {
    fn start(http2: bool) -> Self {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let flood = format!(": {}\n\n", "x".repeat(FLOOD_PIECE_BYTES));
        if http2 {
            let http2 = Http2::start(H2Provider::start(move |exchange| {
                let when = When::of(&exchange.text());
                if when != When::BeforeTheHead {
                    exchange.stream();
                    exchange.data(said("one two three"), false);
                }
                if when == When::WithoutReading {
                    for _ in 0..FLOOD_PIECES {
                        exchange.data(flood.clone(), false);
                    }
                }
                exchange.wait_cancelled();
            }));
            let (gateway, kept) = http2.split();
            return Self {
                gateway,
                h1: None,
                h2: Some(kept),
                sent,
            };
        }
        let provider = Provider::start(move |exchange| {
            let when = When::of(&exchange.request.text());
            if when != When::BeforeTheHead {
                exchange.stream();
                exchange.chunk(said("one two three"));
            }
            if when == When::WithoutReading {
                while exchange.chunk(&flood) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            exchange.wait_end();
            exchange.close();
        });
        Self {
            gateway: Gateway::start(&config(&provider.url(), "")),
            h1: Some(provider),
            h2: None,
            sent,
        }
    }

    fn wait_request(&self, number: usize) {
        match (&self.h1, &self.h2) {
            (Some(provider), _) => drop(provider.wait_requests(number + 1)),
            (_, Some((provider, _))) => provider.wait_requests(number + 1),
            _ => {}
        }
    }

    /// Waits until the flood stands still: every buffer on the way is full.
    fn wait_still(&self) {
        let mut last = usize::MAX;
        eventually("a stream that stands still", || {
            let sent = self.sent.load(Ordering::Relaxed);
            if sent == std::mem::replace(&mut last, sent) {
                return Some(());
            }
            // Longer than any step of a stream that moves.
            std::thread::sleep(Duration::from_millis(100));
            None
        });
    }

    /// Waits until the upstream is rid of its request.
    fn wait_closed(&self, number: usize) {
        match (&self.h1, &self.h2) {
            (Some(provider), _) => drop(provider.wait_end(number)),
            (_, Some((provider, _))) => provider.wait_cancelled(number + 1),
            _ => {}
        }
    }
}

/// Leaves as said, and gives the time until the upstream knew.
fn leave(upstream: &Upstream, number: usize, http2: bool, when: When) -> Duration {
    let (text, ask) = ("one two three", when.ask());
    let left = if http2 {
        let client = upstream.gateway.h2_client();
        let left = std::cell::Cell::new(Instant::now());
        if when == When::BeforeTheHead {
            client.post_and_cancel(CHAT, &ask, || {
                upstream.wait_request(number);
                left.set(Instant::now());
            });
        } else {
            let headers = [("content-type", "application/json")];
            let mut stream = client.begin("POST", CHAT, &headers, ask.as_bytes());
            stream.read_text_until(text);
            if when == When::WithoutReading {
                upstream.wait_still();
            }
            left.set(Instant::now());
            stream.cancel();
        }
        upstream.wait_closed(number);
        left.get()
    } else {
        let mut client: Client = upstream.gateway.client();
        client.post(CHAT, &ask);
        if when == When::BeforeTheHead {
            upstream.wait_request(number);
        } else {
            client.read_head();
            client.read_text_until(text);
        }
        if when == When::WithoutReading {
            upstream.wait_still();
        }
        let left = Instant::now();
        client.close();
        upstream.wait_closed(number);
        left
    };
    left.elapsed()
}

#[test]
fn a_client_that_leaves_closes_its_upstream_whatever_both_speak_and_nothing_stays() {
    for up in [false, true] {
        let upstream = Upstream::start(up);
        let mut number = 0;
        for when in [When::BeforeTheHead, When::InTheStream, When::WithoutReading] {
            for down in [false, true] {
                let took = leave(&upstream, number, down, when);
                println!("{when:?}, HTTP/2 client: {down}, HTTP/2 upstream: {up}: {took:?}");
                number += 1;
                let record = &upstream.gateway.records(number)[number - 1];
                let (status, output) = match when {
                    When::BeforeTheHead => (499, 0),
                    _ => (200, tokens("one two three")),
                };
                assert_eq!(
                    [
                        &record["end"],
                        &record["status"],
                        &record["input_tokens"],
                        &record["output_tokens"],
                        &record["token_source"]
                    ],
                    [
                        &json!("client_closed"),
                        &json!(status),
                        &json!(prompt(&when.ask())),
                        &json!(output),
                        &json!("counted")
                    ],
                    "{when:?} {record}"
                );
                assert_nothing_is_left(&upstream.gateway);
                assert_eq!(upstream.gateway.records_now().len(), number);
            }
        }
    }
}

// === read on ===

const DRAIN: &str = ", on_disconnect: drain, drain_timeout: 60s";

/// Leaves when the first words have come; gives when.
#[track_caller]
fn leave_in_the_stream(gateway: &Gateway) -> Instant {
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    client.read_head();
    client.read_text_until("three\"");
    let left = Instant::now();
    client.close();
    left
}

/// Streams a word, waits at the gate, and then all the rest.
fn stream_in_two(exchange: &mut Exchange, gate: &Gate) {
    exchange.stream();
    exchange.chunk(said("one two three"));
    exchange.wait(gate);
    exchange.chunk(said(" four five"));
    exchange.chunk(format!("{FINISH}\n\n{USAGE}\n\ndata: [DONE]\n\n"));
    exchange.end();
}

#[track_caller]
fn assert_read_on(record: &Value, status: u16) {
    assert_eq!(
        [
            &record["end"],
            &record["token_source"],
            &record["input_tokens"],
            &record["output_tokens"],
            &record["status"]
        ],
        [
            &json!("client_closed"),
            &json!("upstream"),
            &json!(11),
            &json!(7),
            &json!(status)
        ],
        "{record}"
    );
}

#[test]
fn an_answer_is_read_on_for_its_usage_and_the_clients_connection_isnt_held() {
    let gate = Gate::new();
    let closed = gate.clone();
    let provider = Provider::start(move |exchange| stream_in_two(exchange, &closed));
    let gateway = Gateway::start(&config(&provider.url(), DRAIN));
    leave_in_the_stream(&gateway);
    gateway.wait_value("weir_drains", &[], 1.0);
    gateway.wait_value("weir_connections", &[], 0.0);
    assert_eq!(gateway.value("weir_in_flight", &[]), Some(1.0));
    assert!(gateway.records_now().is_empty(), "it isn't over");
    gate.open();
    let record = &gateway.records(1)[0];
    assert_read_on(record, 200);
    assert_eq!(record["bytes_out"], said("one two three").len());
    assert_nothing_is_left(&gateway);
    // The upstream's connection ended well: the next request has it.
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    assert_eq!(provider.connections(), 1);
    assert_eq!(gateway.value("llm_upstream_error_total", &[]), None);
}

#[test]
fn an_answer_is_read_on_without_the_stream_of_an_http2_client_whose_connection_lives() {
    let gate = Gate::new();
    let closed = gate.clone();
    let http2 = Http2::start_with(
        H2Provider::start(move |exchange| {
            if exchange.text().contains("plain") {
                exchange.head(200, &[("content-type", "application/json")]);
                let usage = r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
                return exchange.data(usage, true);
            }
            exchange.stream();
            exchange.data(said("one two three"), false);
            closed.wait();
            exchange.data(format!("{FINISH}\n\n{USAGE}\n\ndata: [DONE]\n\n"), true);
        }),
        DRAIN,
        |launch| launch,
    );
    let gateway = &http2.gateway;
    let client: h2c::Client = gateway.h2_client();
    let headers = [("content-type", "application/json")];
    let mut stream = client.begin("POST", CHAT, &headers, ASK.as_bytes());
    stream.read_text_until("three\"");
    stream.cancel();
    gateway.wait_value("weir_drains", &[], 1.0);
    let plain = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"plain"}]}"#;
    assert_eq!(client.post(CHAT, plain).status, 200, "it serves on");
    gate.open();
    let left = |record: &Value| record["end"] == "client_closed";
    assert_read_on(&gateway.record_where("the record of who left", left), 200);
    assert_nothing_is_left(gateway);
}

#[test]
fn an_answer_that_had_not_begun_is_read_on_too() {
    let gate = Gate::new();
    let closed = gate.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&closed);
        let usage = r#""usage":{"prompt_tokens":11,"completion_tokens":7}"#;
        exchange.json(200, &format!(r#"{{"choices":[],{usage}}}"#));
    });
    let gateway = Gateway::start(&config(&provider.url(), DRAIN));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    provider.wait_requests(1);
    client.close();
    gateway.wait_value("weir_drains", &[], 1.0);
    gate.open();
    let record = &gateway.records(1)[0];
    assert_read_on(record, 499);
    assert_eq!(record["bytes_out"], 0);
    assert_nothing_is_left(&gateway);
}

#[test]
fn an_answer_whose_client_leaves_without_reading_is_read_on() {
    let upstream_done = Gate::new();
    let done = upstream_done.clone();
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        exchange.chunk(said("one two three"));
        // More than the sockets take, less than is read on.
        for _ in 0..12 << 4 {
            exchange.chunk(format!(": {}\n\n", "x".repeat(FLOOD_PIECE_BYTES)));
        }
        exchange.chunk(format!("{FINISH}\n\n{USAGE}\n\ndata: [DONE]\n\n"));
        exchange.end();
        done.open();
    });
    let gateway = Gateway::start(&config(&provider.url(), DRAIN));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    client.read_head();
    client.read_text_until("three\"");
    client.reset();
    upstream_done.wait();
    assert_read_on(&gateway.records(1)[0], 200);
    assert_nothing_is_left(&gateway);
}

#[test]
fn an_answer_that_takes_too_long_is_closed_and_what_came_is_counted() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.chunk(said("one two three"));
        exchange.wait_end();
        exchange.close();
    });
    let keys = ", on_disconnect: drain, drain_timeout: 300ms";
    let gateway = Gateway::start(&config(&provider.url(), keys));
    let left = leave_in_the_stream(&gateway);
    provider.wait_end(0);
    assert!(
        left.elapsed() >= Duration::from_millis(300),
        "it had its time"
    );
    let record = &gateway.records(1)[0];
    assert_eq!(
        [
            &record["end"],
            &record["token_source"],
            &record["input_tokens"],
            &record["output_tokens"]
        ],
        [
            &json!("client_closed"),
            &json!("counted"),
            &json!(prompt(ASK)),
            &json!(tokens("one two three"))
        ],
        "{record}"
    );
    assert_nothing_is_left(&gateway);
    assert_eq!(
        gateway.value("llm_upstream_error_total", &[]),
        None,
        "nobody is to blame"
    );
}

#[test]
fn an_answer_that_goes_on_for_ever_is_closed() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        exchange.chunk(said("one two three"));
        exchange.chunk(format!("{USAGE}\n\n"));
        while exchange.chunk(format!(": {}\n\n", "x".repeat(FLOOD_PIECE_BYTES))) {
            count.fetch_add(FLOOD_PIECE_BYTES, Ordering::Relaxed);
        }
    });
    let keys = ", on_disconnect: drain, drain_timeout: 10m";
    let gateway = Gateway::start(&config(&provider.url(), keys));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    client.read_head();
    client.read_text_until("three\"");
    client.reset();
    provider.wait_end(0);
    assert!(sent.load(Ordering::Relaxed) > 16 << 20, "it had its bytes");
    assert_eq!(gateway.records(1)[0]["end"], "client_closed");
    assert_nothing_is_left(&gateway);
}

#[test]
fn past_the_limit_answers_are_cancelled_and_a_place_that_is_free_again_is_used() {
    let gates: Arc<Board<Vec<Gate>>> = Arc::default();
    let opened = Arc::clone(&gates);
    let provider = Provider::start(move |exchange| {
        let gate = Gate::new();
        opened.change(|gates| gates.push(gate.clone()));
        exchange.stream();
        exchange.chunk(said("one two three"));
        exchange.wait(&gate);
        exchange.chunk(format!("{FINISH}\n\n{USAGE}\n\ndata: [DONE]\n\n"));
        exchange.end();
    });
    let limited =
        |max: usize| config(&provider.url(), DRAIN) + &format!("limits: {{drains: {max}}}\n");
    let gateway = Gateway::start(&limited(1));
    let begin_and_leave = || leave_in_the_stream(&gateway);
    let open = |number: usize| gates.change(|gates| gates[number].open());
    begin_and_leave();
    gateway.wait_value("weir_drains", &[], 1.0);
    begin_and_leave();
    let cancelled = &gateway.records(1)[0];
    assert_eq!(cancelled["token_source"], "counted", "one past the limit");
    assert_eq!(gateway.value("weir_drains", &[]), Some(1.0));
    open(1);
    open(0);
    assert_read_on(&gateway.records(2)[1], 200);
    begin_and_leave();
    gateway.wait_value("weir_drains", &[], 1.0);
    open(2);
    assert_read_on(&gateway.records(3)[2], 200);
    gateway.wait_value("weir_drains", &[], 0.0);
    gateway.reload(&limited(0));
    begin_and_leave();
    assert_eq!(
        gateway.records(4)[3]["token_source"],
        "counted",
        "0 is none"
    );
    open(3);
    assert_nothing_is_left(&gateway);
}

#[test]
fn a_weir_that_ends_doesnt_wait_longer_than_it_may_for_answers_that_nobody_waits_for() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.chunk(format!("{}{USAGE}\n\n", said("one two three")));
        exchange.wait_end();
        exchange.close();
    });
    let keys = ", on_disconnect: drain, drain_timeout: 10m";
    let mut gateway = Launch::file(
        &(config(&provider.url(), keys) + "timeouts: {drain: 1s, idle_close_delay: 0s}\n"),
    )
    .start();
    leave_in_the_stream(&gateway);
    gateway.wait_value("weir_drains", &[], 1.0);
    gateway.signal(libc::SIGTERM);
    gateway.wait_exit();
    assert_read_on(&gateway.records(1)[0], 200);
}

#[test]
fn a_request_that_the_upstream_has_not_whole_is_cancelled() {
    let provider = Provider::start_at_head(|exchange| {
        exchange.record();
        exchange.wait_end();
        exchange.close();
    });
    let gateway = Gateway::start(&format!(
        "{}target_map: {{/v1/files: p}}\n",
        config(&provider.url(), DRAIN)
    ));
    let mut client = gateway.client();
    client.send(
        "POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-type: audio/wav\r\ncontent-length: 100\r\n\r\nhalf",
    );
    provider.wait_requests(1);
    client.close();
    provider.wait_end(0);
    assert_eq!(gateway.records(1)[0]["end"], "client_closed");
    assert_nothing_is_left(&gateway);
}

#[test]
fn an_upstream_that_fails_after_its_client_has_left_isnt_replaced_by_another() {
    let gate = Gate::new();
    let closed = gate.clone();
    let failing = Provider::start(move |exchange| {
        exchange.wait(&closed);
        exchange.close();
    });
    let other = Provider::json("{}");
    let gateway = Gateway::start(&format!(
        "providers:\n- {{name: p, urls: [\"{}\", \"{}\"], models: [gpt-4o]{DRAIN}}}\n",
        failing.url(),
        other.url()
    ));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    failing.wait_requests(1);
    client.close();
    gateway.wait_value("weir_drains", &[], 1.0);
    gate.open();
    let record = &gateway.records(1)[0];
    assert_eq!(
        [&record["end"], &record["status"]],
        [&json!("client_closed"), &json!(499)],
        "{record}"
    );
    // Its one try is told of, though no other one follows.
    assert_eq!(
        [&record["attempts"], &record["provider"]],
        [&json!(1), &json!("p")],
        "{record}"
    );
    assert!(other.requests().is_empty());
    assert_nothing_is_left(&gateway);
}

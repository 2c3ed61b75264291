//! Streams as clients see them: nothing waits, nothing is lost, nothing that was cut looks whole.

use crate::support::client::Framing;
use crate::support::gate::{Steps, eventually};
use crate::support::{Authority, Client, Exchange, Gate, Gateway, H2Provider, Launch, Provider};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hi"}]}"#;
const EVENTS: usize = 5;

fn config(url: &str) -> String {
    format!("model_routes: {{gpt-4o: \"{url}\"}}\n")
}

/// The data of an event that says `text`.
fn said(text: &str) -> String {
    format!(
        r#"{{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]}}"#
    )
}

const FINISH: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

/// A whole stream in chunks, with a step before each event but the first.
fn stepwise(exchange: &mut Exchange, steps: &Steps) {
    exchange.stream();
    for number in 0..EVENTS {
        if number > 0 {
            steps.wait();
        }
        exchange.event(&said(&format!("word{number} ")));
    }
    steps.wait();
    exchange.event(FINISH);
    steps.wait();
    exchange.event("[DONE]");
    exchange.end();
}

// === at once ===

#[test]
fn each_event_reaches_an_http1_client_before_the_next_is_sent() {
    let steps = Steps::default();
    let allowed = steps.clone();
    let provider = Provider::start(move |exchange| stepwise(exchange, &allowed));
    let gateway = Gateway::start(&config(&provider.url()));
    let mut client = gateway.client();
    // The second request goes over the same connections.
    for _ in 0..2 {
        client.post(CHAT, ASK);
        let head = client.read_head();
        assert_eq!(head.status, 200);
        assert_eq!(head.framing(), Framing::Chunked);
        assert_eq!(head.header("x-accel-buffering"), Some("no"));
        assert_eq!(head.header("cache-control"), Some("no-cache"));
        for number in 0..EVENTS {
            let event = format!("data: {}\n\n", said(&format!("word{number} ")));
            assert_eq!(client.read_text_until("\n\n"), event);
            steps.allow();
        }
        assert_eq!(
            client.read_text_until("\n\n"),
            format!("data: {FINISH}\n\n")
        );
        steps.allow();
        assert_eq!(client.rest(), (b"data: [DONE]\n\n".to_vec(), true));
    }
    assert_eq!(provider.connections(), 1);
}

#[test]
fn each_event_reaches_an_http2_client_before_the_next_is_sent() {
    let steps = Steps::default();
    let allowed = steps.clone();
    let provider = Provider::start(move |exchange| stepwise(exchange, &allowed));
    let gateway = Gateway::start(&config(&provider.url()));
    let client = gateway.h2_client();
    let json = [("content-type", "application/json")];
    for _ in 0..2 {
        let mut answer = client.begin("POST", CHAT, &json, ASK.as_bytes());
        assert_eq!(answer.status(), 200);
        for number in 0..EVENTS {
            let event = format!("data: {}\n\n", said(&format!("word{number} ")));
            assert_eq!(answer.read_text_until("\n\n"), event);
            steps.allow();
        }
        assert_eq!(
            answer.read_text_until("\n\n"),
            format!("data: {FINISH}\n\n")
        );
        steps.allow();
        let rest = answer.answer();
        assert_eq!(
            (rest.text().as_str(), rest.cut.is_none()),
            ("data: [DONE]\n\n", true)
        );
    }
}

/// weir in front of a model server that speaks HTTP/2 behind TLS.
pub struct Http2 {
    pub provider: H2Provider,
    pub gateway: Gateway,
    front: crate::support::tls::TlsFront,
}

impl Http2 {
    pub fn start(provider: H2Provider) -> Self {
        Self::start_with(provider, "", |launch| launch)
    }

    /// weir alone, and what must live as long.
    pub fn split(self) -> (Gateway, (H2Provider, crate::support::tls::TlsFront)) {
        (self.gateway, (self.provider, self.front))
    }

    /// With more keys of the provider, and more of the command line's.
    pub fn start_with(
        provider: H2Provider,
        keys: &str,
        launch: impl FnOnce(Launch) -> Launch,
    ) -> Self {
        Self::start_in(provider, keys, "", launch)
    }

    /// With routes to the provider `p` in the file.
    pub fn start_as(provider: H2Provider, routes: &str) -> Self {
        Self::start_in(provider, "", routes, |launch| launch)
    }

    /// With more of the configuration, too.
    pub fn start_in(
        provider: H2Provider,
        keys: &str,
        more: &str,
        launch: impl FnOnce(Launch) -> Launch,
    ) -> Self {
        let authority = Authority::new();
        let front = authority.front("IP:127.0.0.1", &["h2", "http/1.1"], provider.address());
        let gateway = launch(Launch::file(&format!(
            "providers:\n- {{name: p, base_url: \"https://{}\", models: [gpt-4o], tls: {{ca: {:?}}}{keys}}}\n{more}\n",
            front.address(),
            authority.ca(),
        )));
        let gateway = gateway.start();
        // What was read from the authority's file is kept; the file may go.
        Self {
            provider,
            gateway,
            front,
        }
    }
}

#[test]
fn each_event_of_an_http2_upstream_reaches_the_client_before_the_next_is_sent() {
    let steps = Steps::default();
    let allowed = steps.clone();
    let http2 = Http2::start(H2Provider::start(move |exchange| {
        exchange.stream();
        for number in 0..EVENTS {
            exchange.event(&said(&format!("word{number} ")));
            allowed.wait();
        }
        exchange.event(FINISH);
        allowed.wait();
        exchange.event("[DONE]");
        exchange.end();
    }));
    let mut client = http2.gateway.client();
    client.post(CHAT, ASK);
    assert_eq!(client.read_head().status, 200);
    for number in 0..EVENTS {
        let event = format!("data: {}\n\n", said(&format!("word{number} ")));
        assert_eq!(client.read_text_until("\n\n"), event);
        steps.allow();
    }
    assert_eq!(
        client.read_text_until("\n\n"),
        format!("data: {FINISH}\n\n")
    );
    steps.allow();
    assert_eq!(client.rest(), (b"data: [DONE]\n\n".to_vec(), true));
    assert_eq!(http2.front.handshakes()[0].protocol.as_deref(), Some("h2"));
}

#[test]
fn a_piece_of_an_event_doesnt_wait_for_the_rest_where_nothing_is_to_be_taken_out() {
    let steps = Steps::default();
    let allowed = steps.clone();
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        exchange.chunk("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hal");
        allowed.wait();
        exchange.chunk("f\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n");
        exchange.end();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let ask = ASK.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1);
    let mut client = gateway.client();
    client.post(CHAT, ask);
    client.read_head();
    client.read_text_until("hal");
    steps.allow();
    let (rest, whole) = client.rest();
    assert!(
        whole && rest.starts_with(b"f\"}"),
        "{:?}",
        String::from_utf8_lossy(&rest)
    );
}

#[test]
fn signs_of_life_and_every_kind_of_line_end_pass_at_once() {
    const PIECES: [&str; 7] = [
        ": ping\n\n",
        "\n",
        "data: {\"choices\":[]}\r\n\r\n",
        "data: {\"choices\":[]}\r\r",
        ":\n\n",
        "event: ping\ndata: {}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    ];
    let steps = Steps::default();
    let allowed = steps.clone();
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        for piece in PIECES {
            exchange.chunk(piece);
            allowed.wait();
        }
        exchange.end();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    client.read_head();
    for piece in PIECES {
        assert_eq!(client.read_text_until(piece), piece);
        steps.allow();
    }
    assert_eq!(client.rest(), (Vec::new(), true));
}

// === byte by byte ===

#[test]
fn a_stream_that_is_cut_at_odd_places_arrives_unchanged() {
    let mut whole = String::from(": a comment\r\n\r\nevent: x\nid: 7\n");
    for text in ["Grüße ", "堰 ", "😀", "\\ud83d\\ude00", ""] {
        whole.push_str(&format!("data: {}\n\n", said(text)));
    }
    whole.push_str(&format!("data:{FINISH}\r\n\r\ndata: [DONE]\n\n"));
    let stream = whole.clone();
    let size = Arc::new(AtomicUsize::new(1));
    let sizes = Arc::clone(&size);
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        for piece in stream.as_bytes().chunks(sizes.load(Ordering::Relaxed)) {
            exchange.chunk(piece);
        }
        exchange.end();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let mut client = gateway.client();
    let http2 = gateway.h2_client();
    for pieces in [1, 2, 3, 7, 16, 61, 1000, 1 << 20] {
        size.store(pieces, Ordering::Relaxed);
        client.post(CHAT, ASK);
        let answer = client.answer();
        assert_eq!(answer.text(), whole, "in pieces of {pieces}");
        assert!(answer.whole);
        assert_eq!(
            http2.post(CHAT, ASK).text(),
            whole,
            "in pieces of {pieces}, HTTP/2"
        );
    }
}

#[test]
fn a_stream_with_a_length_arrives_whole_and_the_connection_lives_on() {
    let provider = Provider::start(|exchange| {
        let body = format!(
            "data: {}\n\ndata: {FINISH}\n\ndata: [DONE]\n\n",
            said("all")
        );
        exchange.answer(
            200,
            &[("content-type", "text/event-stream; charset=utf-8")],
            body.as_bytes(),
        );
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let mut client = gateway.client();
    for _ in 0..2 {
        client.post(CHAT, ASK);
        let answer = client.answer();
        assert!(answer.whole);
        assert!(
            answer.text().ends_with("data: [DONE]\n\n"),
            "{}",
            answer.text()
        );
        assert!(!answer.text().contains("error"), "{}", answer.text());
    }
    assert_eq!(provider.connections(), 1);
    assert_eq!(gateway.records(2)[1]["end"], "complete");
}

#[test]
fn a_stream_without_done_that_has_finished_is_whole() {
    let provider = Provider::start(|exchange| {
        exchange.head(
            200,
            &[
                ("content-type", "text/event-stream"),
                ("connection", "close"),
            ],
        );
        exchange.raw(format!("data: {}\n\ndata: {FINISH}\n\n", said("all")));
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let answer = gateway.post(CHAT, ASK);
    assert!(answer.whole);
    assert_eq!(
        answer.text(),
        format!("data: {}\n\ndata: {FINISH}\n\n", said("all"))
    );
    assert_eq!(gateway.records(1)[0]["end"], "complete");
}

// === clients that leave ===

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Close,
    Reset,
    Http2Stream,
    Http2Connection,
}

const LEAVES: [Leave; 4] = [
    Leave::Close,
    Leave::Reset,
    Leave::Http2Stream,
    Leave::Http2Connection,
];

fn holding(exchange: &mut Exchange) {
    exchange.wait_end();
    exchange.close();
}

#[test]
fn a_client_that_leaves_before_the_answer_closes_the_upstream_connection() {
    for leave in LEAVES {
        let provider = Provider::start(holding);
        let gateway = Gateway::start(&config(&provider.url()));
        let left;
        match leave {
            Leave::Close | Leave::Reset => {
                let mut client = gateway.client();
                client.post(CHAT, ASK);
                provider.wait_requests(1);
                left = Instant::now();
                match leave {
                    Leave::Reset => client.reset(),
                    _ => client.close(),
                }
            }
            Leave::Http2Stream => {
                let client = gateway.h2_client();
                client.post_and_cancel(CHAT, ASK, || {
                    provider.wait_requests(1);
                });
                left = Instant::now();
                let end = provider.wait_end(0);
                println!(
                    "{leave:?} before the head: {:?}",
                    end.at.saturating_duration_since(left)
                );
                assert_eq!(client.request("GET", "/healthz", &[], b"").status, 200);
            }
            Leave::Http2Connection => {
                let client = gateway.h2_client();
                client.post_and_cancel(CHAT, ASK, || {
                    provider.wait_requests(1);
                });
                left = Instant::now();
                drop(client);
            }
        }
        let end = provider.wait_end(0);
        println!(
            "{leave:?} before the head: {:?}",
            end.at.saturating_duration_since(left)
        );
        let record = gateway.record_where("the record", |record| record["path"] == CHAT);
        assert_eq!(record["end"], "client_closed", "{leave:?}: {record}");
        assert_eq!(record["status"], 499, "{leave:?}: {record}");
        gateway.wait_value("weir_in_flight", &[], 0.0);
    }
}

#[test]
fn a_client_that_leaves_in_a_stream_closes_the_upstream_connection_and_pays_what_it_got() {
    for leave in LEAVES {
        let provider = Provider::start(|exchange| {
            exchange.stream();
            for word in ["Rivers ", "and ", "weirs"] {
                exchange.event(&said(word));
            }
            holding(exchange);
        });
        let gateway = Gateway::start(&config(&provider.url()));
        let left;
        match leave {
            Leave::Close | Leave::Reset => {
                let mut client = gateway.client();
                client.post(CHAT, ASK);
                client.read_head();
                client.read_text_until("\"weirs\"");
                left = Instant::now();
                match leave {
                    Leave::Reset => client.reset(),
                    _ => client.close(),
                }
            }
            Leave::Http2Stream | Leave::Http2Connection => {
                let client = gateway.h2_client();
                let json = [("content-type", "application/json")];
                let mut answer = client.begin("POST", CHAT, &json, ASK.as_bytes());
                answer.read_text_until("\"weirs\"");
                left = Instant::now();
                answer.cancel();
                if matches!(leave, Leave::Http2Stream) {
                    provider.wait_end(0);
                    assert_eq!(client.request("GET", "/healthz", &[], b"").status, 200);
                }
            }
        }
        let end = provider.wait_end(0);
        println!(
            "{leave:?} in a stream: {:?}",
            end.at.saturating_duration_since(left)
        );
        let record = gateway.record_where("the record", |record| record["path"] == CHAT);
        assert_eq!(record["end"], "client_closed", "{leave:?}: {record}");
        assert_eq!(record["status"], 200, "{leave:?}: {record}");
        assert_eq!(record["token_source"], "counted", "{leave:?}: {record}");
        let tokens = tiktoken_rs::o200k_base_singleton().encode_ordinary("Rivers and weirs");
        assert_eq!(record["output_tokens"], tokens.len(), "{leave:?}: {record}");
        gateway.wait_value("weir_in_flight", &[], 0.0);
        gateway.wait_value("weir_buffered_bytes", &[], 0.0);
    }
}

#[test]
fn a_client_that_leaves_takes_its_request_back_from_an_http2_upstream() {
    let http2 = Http2::start(H2Provider::start(|exchange| {
        exchange.stream();
        exchange.event(&said("one"));
        exchange.wait_cancelled();
    }));
    let mut client = http2.gateway.client();
    client.post(CHAT, ASK);
    client.read_head();
    client.read_text_until("\"one\"");
    let left = Instant::now();
    client.close();
    http2.provider.wait_cancelled(1);
    println!("Close in a stream, HTTP/2 upstream: {:?}", left.elapsed());
    assert_eq!(http2.gateway.records(1)[0]["end"], "client_closed");
}

#[test]
fn a_client_that_leaves_before_the_answer_takes_its_request_back_from_an_http2_upstream() {
    let http2 = Http2::start(H2Provider::start(|exchange| exchange.wait_cancelled()));
    let mut client = http2.gateway.client();
    client.post(CHAT, ASK);
    http2.provider.wait_requests(1);
    let left = Instant::now();
    client.close();
    http2.provider.wait_cancelled(1);
    println!(
        "Close before the head, HTTP/2 upstream: {:?}",
        left.elapsed()
    );
    let record = &http2.gateway.records(1)[0];
    assert_eq!(
        (&record["end"], &record["status"]),
        (&"client_closed".into(), &499.into())
    );
}

// === streams that break ===

/// How a model server breaks its stream off.
#[derive(Clone, Copy, Debug)]
enum Break {
    Reset,
    CloseInChunk,
    CloseBetweenChunks,
    CloseInEvent,
    GarbageChunk,
    Silence,
    EndWithoutFinish,
    EndInEvent,
}

const BREAKS: [Break; 8] = [
    Break::Reset,
    Break::CloseInChunk,
    Break::CloseBetweenChunks,
    Break::CloseInEvent,
    Break::GarbageChunk,
    Break::Silence,
    Break::EndWithoutFinish,
    Break::EndInEvent,
];

fn breaking(exchange: &mut Exchange, how: Break, read: &Gate) {
    exchange.stream();
    exchange.event(&said("one"));
    exchange.wait(read);
    match how {
        Break::Reset => exchange.reset(),
        Break::CloseInChunk => {
            exchange.raw("40\r\ndata: {\"cho");
            exchange.close();
        }
        Break::CloseBetweenChunks => exchange.close(),
        Break::CloseInEvent => {
            exchange.chunk("data: {\"choices\":[{\"ind");
            exchange.close();
        }
        Break::GarbageChunk => {
            exchange.raw("this is no chunk\r\n");
            exchange.wait_end();
            exchange.close();
        }
        Break::Silence => {
            exchange.wait_end();
            exchange.close();
        }
        Break::EndWithoutFinish => exchange.end(),
        Break::EndInEvent => {
            exchange.chunk("data: {\"choices\":[{\"ind");
            exchange.end();
        }
    }
}

/// Events as an SDK reads them: the data of each whole event.
fn events(stream: &str) -> Vec<String> {
    let mut events: Vec<&str> = stream.split("\n\n").collect();
    events.pop();
    let data = |event: &str| {
        let lines = event.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.collect::<Vec<_>>().join("\n")
    };
    events
        .into_iter()
        .map(data)
        .filter(|data| !data.is_empty())
        .collect()
}

#[track_caller]
fn assert_ends_with_an_error(stream: &str, how: Break) {
    assert!(!stream.contains("[DONE]"), "{how:?}: {stream}");
    let events = events(stream);
    let last = events
        .last()
        .unwrap_or_else(|| panic!("{how:?}: no event in {stream:?}"));
    let last: serde_json::Value = serde_json::from_str(last)
        .unwrap_or_else(|error| panic!("{how:?}: no JSON at the end ({error}): {stream:?}"));
    assert_eq!(
        last["error"]["code"], "upstream_failed",
        "{how:?}: {stream}"
    );
    assert!(last["error"]["message"].is_string(), "{how:?}: {stream}");
}

#[test]
fn a_stream_that_breaks_ends_with_an_error_event_and_without_done() {
    for how in BREAKS {
        let read = Gate::new();
        let gate = read.clone();
        let provider = Provider::start(move |exchange| breaking(exchange, how, &gate));
        let gateway = Gateway::start(&(config(&provider.url()) + "timeouts: {idle: 400ms}\n"));
        let mut client = gateway.client();
        client.post(CHAT, ASK);
        assert_eq!(client.read_head().status, 200);
        let mut stream = client.read_text_until("\n\n");
        read.open();
        let (rest, _) = client.rest();
        stream.push_str(&String::from_utf8_lossy(&rest));
        assert_ends_with_an_error(&stream, how);
        if !matches!(how, Break::EndWithoutFinish | Break::EndInEvent) {
            assert_eq!(
                client.read_to_end(),
                b"",
                "{how:?}: the connection is closed"
            );
        }
        let record = &gateway.records(1)[0];
        assert_eq!(record["end"], "upstream_broke", "{how:?}: {record}");
        assert_eq!(record["output_tokens"], 1, "{how:?}: {record}");
        assert_eq!(record["token_source"], "counted", "{how:?}: {record}");
        gateway.wait_value("weir_in_flight", &[], 0.0);
    }
}

#[test]
fn a_stream_that_breaks_ends_with_an_error_event_over_http2_too() {
    for how in BREAKS {
        let read = Gate::new();
        let gate = read.clone();
        let provider = Provider::start(move |exchange| breaking(exchange, how, &gate));
        let gateway = Gateway::start(&(config(&provider.url()) + "timeouts: {idle: 400ms}\n"));
        let client = gateway.h2_client();
        let json = [("content-type", "application/json")];
        let mut answer = client.begin("POST", CHAT, &json, ASK.as_bytes());
        let mut stream = answer.read_text_until("\n\n");
        read.open();
        stream.push_str(&answer.answer().text());
        assert_ends_with_an_error(&stream, how);
        assert_eq!(gateway.records(1)[0]["end"], "upstream_broke", "{how:?}");
        assert_eq!(
            client.request("GET", "/healthz", &[], b"").status,
            200,
            "{how:?}"
        );
    }
}

#[test]
fn a_stream_of_an_http2_upstream_that_breaks_ends_with_an_error_event() {
    let http2 = Http2::start(H2Provider::start(|exchange| {
        exchange.stream();
        exchange.event(&said("one"));
        exchange.reset();
    }));
    let answer = http2.gateway.post(CHAT, ASK);
    // The reset may overtake what was sent before it.
    if answer.status() == 200 {
        assert_ends_with_an_error(&answer.text(), Break::Reset);
    } else {
        answer.assert_refused(502, "upstream_failed");
    }
}

#[test]
fn an_http2_upstream_gets_a_request_again_only_when_it_refused_it() {
    for (reason, status, requests) in [
        (h2::Reason::REFUSED_STREAM, 200, 3),
        (h2::Reason::INTERNAL_ERROR, 502, 2),
    ] {
        let turn = AtomicUsize::new(0);
        let provider = H2Provider::start(move |exchange| {
            if turn.fetch_add(1, Ordering::Relaxed) == 1 {
                return exchange.reject(reason);
            }
            exchange.stream();
            exchange.event("[DONE]");
            exchange.end();
        });
        let no_retries = "}\nmodel_routes: {gpt-4o: {targets: [{provider: p}], retries: 0}";
        let http2 = Http2::start_with(provider, no_retries, |launch| launch);
        assert_eq!(http2.gateway.post(CHAT, ASK).status(), 200, "{reason}");
        assert_eq!(http2.gateway.post(CHAT, ASK).status(), status, "{reason}");
        assert_eq!(http2.provider.requests(), requests, "{reason}");
    }
}

#[test]
fn a_stream_of_an_http2_upstream_may_end_with_trailers() {
    let http2 = Http2::start(H2Provider::start(|exchange| {
        exchange.stream();
        exchange.event(&said("one"));
        exchange.event(FINISH);
        exchange.event("[DONE]");
        exchange.trailers();
    }));
    let answer = http2.gateway.post(CHAT, ASK);
    assert!(answer.whole);
    assert!(
        answer.text().ends_with("data: [DONE]\n\n"),
        "{}",
        answer.text()
    );
    assert_eq!(http2.gateway.records(1)[0]["end"], "complete");
}

#[test]
fn a_stream_in_anthropics_dialect_breaks_with_an_event_of_its_own() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.chunk("event: message_start\ndata: {\"type\":\"message_start\"}\n\n");
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let ask = r#"{"model":"gpt-4o","stream":true,"max_tokens":5,"messages":[]}"#;
    let answer = gateway.post("/v1/messages", ask);
    let text = answer.text();
    let (_, event) = text
        .rsplit_once("event: error\ndata: ")
        .expect("an error event");
    let event: serde_json::Value = serde_json::from_str(event.trim_end()).expect("JSON");
    assert_eq!(event["type"], "error");
    assert_eq!(event["error"]["type"], "api_error");
}

#[test]
fn an_error_event_of_the_upstream_itself_is_passed_on_and_not_doubled() {
    let whole = format!(
        "data: {}\n\ndata: {{\"error\":{{\"message\":\"no\",\"type\":\"server_error\",\"param\":null,\"code\":null}}}}\n\n",
        said("one")
    );
    let stream = whole.clone();
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        exchange.chunk(&stream);
        exchange.end();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    assert_eq!(gateway.post(CHAT, ASK).text(), whole);
}

#[test]
fn a_stream_that_breaks_before_its_first_event_has_only_an_error_event() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.chunk(": soon\n\n");
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let answer = gateway.post(CHAT, ASK);
    assert_eq!(answer.status(), 200);
    assert_ends_with_an_error(&answer.text(), Break::CloseBetweenChunks);
}

#[test]
fn a_break_behind_done_breaks_nothing() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.event(&said("one"));
        exchange.event(FINISH);
        exchange.event("[DONE]");
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let answer = gateway.post(CHAT, ASK);
    assert!(
        answer.text().ends_with("data: [DONE]\n\n"),
        "{}",
        answer.text()
    );
    let http2 = gateway.h2_client().post(CHAT, ASK);
    assert!(
        http2.text().ends_with("data: [DONE]\n\n"),
        "{}",
        http2.text()
    );
}

#[test]
fn a_compressed_stream_that_breaks_is_cut_and_nothing_plain_is_put_into_it() {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(format!("data: {}\n\n", said("one")).as_bytes())
        .expect("memory");
    gzip.flush().expect("memory");
    let begin = gzip.get_ref().clone();
    let piece = begin.clone();
    let provider = Provider::start(move |exchange| {
        let headers = [
            ("content-type", "text/event-stream"),
            ("content-encoding", "gzip"),
            ("transfer-encoding", "chunked"),
        ];
        exchange.head(200, &headers);
        exchange.chunk(&piece);
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let answer = gateway.post(CHAT, ASK);
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(
        answer.body,
        begin,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    assert!(!answer.whole);
}

// === answers of JSON that break ===

#[test]
fn a_json_answer_that_is_cut_looks_cut() {
    for (chunked, broken) in [
        (false, "close"),
        (false, "silence"),
        (true, "close"),
        (true, "reset"),
        (true, "silence"),
    ] {
        let begun = Gate::new();
        let gate = begun.clone();
        let provider = Provider::start(move |exchange| {
            let framing = match chunked {
                true => ("transfer-encoding", "chunked"),
                false => ("content-length", "100"),
            };
            exchange.head(200, &[("content-type", "application/json"), framing]);
            let begin = b"{\"choices\":[{\"message\":{\"content\":\"one\"";
            match chunked {
                true => exchange.chunk(begin),
                false => exchange.raw(begin),
            };
            match broken {
                "close" => exchange.close(),
                "reset" => {
                    // What was sent is not to be overtaken by the reset.
                    exchange.wait(&gate);
                    exchange.reset();
                }
                _ => holding(exchange),
            }
        });
        let timeouts = "timeouts: {idle: 400ms}\n";
        let gateway = Gateway::start(&(config(&provider.url()) + timeouts));
        let ask = r#"{"model":"gpt-4o","messages":[]}"#;
        let case = format!("chunked: {chunked}, {broken}");
        let mut client = gateway.client();
        client.post(CHAT, ask);
        let answer = client.answer();
        assert_eq!(answer.status(), 200, "{case}");
        assert!(!answer.whole, "{case}: {}", answer.text());
        assert!(
            !answer.text().contains("error"),
            "{case}: {}",
            answer.text()
        );
        let record = &gateway.records(1)[0];
        assert_eq!(record["end"], "upstream_broke", "{case}: {record}");
        let answer = gateway.h2_client().post(CHAT, ask);
        assert!(answer.cut.is_some(), "{case}, HTTP/2: {}", answer.text());
    }
}

// === clients that don't read ===

/// What weir's process has in memory, bytes.
fn resident(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("/proc");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    let kib: usize = line
        .split_whitespace()
        .nth(1)
        .expect("a size")
        .parse()
        .expect("a number");
    kib << 10
}

/// The same, once the vocabularies are loaded, which takes its time and tens of megabytes.
fn settled(gateway: &Gateway) -> usize {
    const STILL: Duration = Duration::from_millis(700);
    let mut last = (0, Instant::now());
    eventually("weir's memory to stand still", || {
        let now = resident(gateway);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > STILL).then_some(now)
    })
}

const LARGE: usize = 64 << 20;
/// What the kernel's socket buffers of both connections may take, generously.
const IN_SOCKETS: usize = 24 << 20;
const GROWTH_MAX: usize = 16 << 20;

/// A model server that sends as much as it can, and how much that was.
fn flooding(events: bool) -> (Provider, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let provider = Provider::start(move |exchange| {
        let media = if events {
            "text/event-stream"
        } else {
            "application/octet-stream"
        };
        exchange.head(
            200,
            &[
                ("content-type", media),
                ("content-length", &LARGE.to_string()),
            ],
        );
        let piece = match events {
            true => format!("data: {:065520}\n\n", 0).into_bytes(),
            false => vec![b'x'; 1 << 16],
        };
        let mut left = LARGE;
        while left > 0 {
            let count = piece.len().min(left);
            if !exchange.raw(&piece[..count]) {
                return;
            }
            counter.fetch_add(count, Ordering::Relaxed);
            left -= count;
        }
    });
    (provider, sent)
}

/// Waits until a counter stands still, and returns it.
fn standing(counter: &AtomicUsize) -> usize {
    const STILL: Duration = Duration::from_millis(700);
    let mut last = (counter.load(Ordering::Relaxed), Instant::now());
    eventually("the model server to be blocked", || {
        let now = counter.load(Ordering::Relaxed);
        if now != last.0 || now == 0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > STILL).then_some(now)
    })
}

#[test]
fn a_client_that_doesnt_read_slows_the_upstream_and_grows_no_buffer() {
    for events in [false, true] {
        let (provider, sent) = flooding(events);
        let gateway = Gateway::start(&config(&provider.url()));
        let before = settled(&gateway);
        let mut client = gateway.client();
        client.post(CHAT, ASK);
        assert_eq!(client.read_head().status, 200);
        let blocked = standing(&sent);
        let growth = settled(&gateway).saturating_sub(before);
        println!("events: {events}: blocked after {blocked} bytes, {growth} bytes of growth");
        assert!(
            blocked < IN_SOCKETS,
            "events: {events}: {blocked} bytes were taken"
        );
        assert!(
            growth < GROWTH_MAX,
            "events: {events}: {growth} bytes of growth"
        );
        if events {
            client.close();
            provider.wait_end(0);
        } else {
            let (body, whole) = client.rest();
            assert!(whole && body.len() == LARGE, "{} bytes", body.len());
        }
    }
}

#[test]
fn an_http2_client_that_doesnt_read_slows_the_upstream_and_the_others_go_on() {
    let (provider, sent) = flooding(false);
    let gateway = Gateway::start(&config(&provider.url()));
    let client = gateway.h2_client();
    let before = settled(&gateway);
    let json = [("content-type", "application/json")];
    let slow = client.begin("POST", CHAT, &json, ASK.as_bytes());
    let blocked = standing(&sent);
    let growth = settled(&gateway).saturating_sub(before);
    println!("HTTP/2: blocked after {blocked} bytes, {growth} bytes of growth");
    assert!(blocked < IN_SOCKETS, "{blocked} bytes were taken");
    assert!(growth < GROWTH_MAX, "{growth} bytes of growth");
    assert_eq!(client.request("GET", "/healthz", &[], b"").status, 200);
    let whole = slow.answer();
    assert!(
        whole.cut.is_none() && whole.body.len() == LARGE,
        "{} bytes",
        whole.body.len()
    );
}

#[test]
fn a_client_that_never_reads_is_let_go_when_its_time_is_over() {
    let (provider, _) = flooding(true);
    let timeouts = "timeouts: {idle: 500ms}\n";
    let gateway = Gateway::start(&(config(&provider.url()) + timeouts));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    assert_eq!(client.read_head().status, 200);
    provider.wait_end(0);
    let record = &gateway.records(1)[0];
    assert_eq!(record["end"], "client_closed", "{record}");
    gateway.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn a_stream_that_moves_may_last_longer_than_the_idle_time() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        for number in 0..8 {
            exchange.event(&said(&format!("{number}")));
            // Time is the matter here.
            std::thread::sleep(Duration::from_millis(200));
        }
        exchange.event(FINISH);
        exchange.event("[DONE]");
        exchange.end();
    });
    let timeouts = "timeouts: {idle: 1s, first_byte: 1s, client_body: 1s, client_header: 1s}\n";
    let gateway = Gateway::start(&(config(&provider.url()) + timeouts));
    let answer = gateway.post(CHAT, ASK);
    assert!(
        answer.text().ends_with("data: [DONE]\n\n"),
        "{}",
        answer.text()
    );
    assert_eq!(gateway.records(1)[0]["end"], "complete");
    let http2 = gateway.h2_client().post(CHAT, ASK);
    assert!(
        http2.text().ends_with("data: [DONE]\n\n"),
        "{}",
        http2.text()
    );
}

#[test]
fn a_stream_that_has_used_up_its_whole_time_ends_with_an_error_event() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        while exchange.event(&said("one ")) {
            std::thread::sleep(Duration::from_millis(20));
        }
        exchange.close();
    });
    let timeouts = "timeouts: {total: 600ms}\n";
    let gateway = Gateway::start(&(config(&provider.url()) + timeouts));
    let began = Instant::now();
    let answer = gateway.post(CHAT, ASK);
    assert_ends_with_an_error(&answer.text(), Break::Silence);
    assert!(
        began.elapsed() >= Duration::from_millis(600),
        "{:?}",
        began.elapsed()
    );
    provider.wait_end(0);
}

// === many at once ===

#[test]
fn many_streams_at_once_keep_apart_and_leave_nothing_behind() {
    const STREAMS: usize = 120;
    let gate = Gate::new();
    let open = gate.clone();
    let provider = Provider::start(move |exchange| {
        let user = exchange.request.json()["user"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        exchange.stream();
        exchange.event(&said(&format!("{user} begins")));
        exchange.wait(&open);
        for number in 0..20 {
            exchange.event(&said(&format!("{user} {number}")));
        }
        exchange.event(FINISH);
        exchange.event("[DONE]");
        exchange.end();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let mut clients: Vec<Client> = (0..STREAMS).map(|_| gateway.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let user = format!("{{\"user\":\"u{number:03}\",");
        client.post(CHAT, ASK.replacen('{', &user, 1));
        client.read_head();
        client.read_text_until(&format!("u{number:03} begins"));
    }
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let all = STREAMS as f64;
    gateway.wait_value("weir_in_flight", &[], all);
    // Each third leaves now.
    let mut left = 0;
    let mut stayed = Vec::new();
    for (number, client) in clients.into_iter().enumerate() {
        if number % 3 == 0 {
            client.close();
            left += 1;
        } else {
            stayed.push((number, client));
        }
    }
    gate.open();
    for (number, client) in &mut stayed {
        let (rest, whole) = client.rest();
        let rest = String::from_utf8(rest).expect("text");
        assert!(
            whole && rest.ends_with("data: [DONE]\n\n"),
            "u{number:03}: {rest}"
        );
        assert_eq!(
            rest.matches(&format!("\"u{number:03} ")).count(),
            20,
            "{rest}"
        );
        assert_eq!(
            rest.matches("\"u").count(),
            20,
            "u{number:03} has events of others: {rest}"
        );
    }
    let records = gateway.records(STREAMS);
    let ends = |end: &str| records.iter().filter(|record| record["end"] == end).count();
    assert_eq!(
        (ends("client_closed"), ends("complete")),
        (left, STREAMS - left)
    );
    gateway.wait_value("weir_in_flight", &[], 0.0);
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
}

// === answers without a body ===

#[test]
fn answers_without_a_body_leave_the_connection_usable() {
    let provider = Provider::start(|exchange| match exchange.request.target.as_str() {
        "/no-content" => exchange.answer(204, &[], b""),
        "/not-modified" => exchange.answer(304, &[("etag", "\"x\"")], b""),
        "/hints" => {
            exchange.head(103, &[("link", "</a>; rel=preload")]);
            exchange.json(200, "{}");
        }
        "/continue" => {
            exchange.head(100, &[]);
            exchange.json(200, "{}");
        }
        "/empty" => exchange.answer(200, &[], b""),
        _ if exchange.request.method == "HEAD" => {
            exchange.head(
                200,
                &[("content-length", "12345"), ("content-type", "text/plain")],
            );
        }
        _ => exchange.answer(404, &[], b"?"),
    });
    let gateway = Gateway::start(&format!("target_map: {{\"/\": \"{}\"}}\n", provider.url()));
    let mut client = gateway.client();
    let mut ask = |method: &str, path: &str| {
        client.request(method, path, &[], b"");
        client.answer_to(method)
    };
    for (method, path, status) in [
        ("HEAD", "/file", 200),
        ("GET", "/no-content", 204),
        ("DELETE", "/no-content", 204),
        ("GET", "/not-modified", 304),
        ("GET", "/hints", 200),
        ("GET", "/continue", 200),
        ("GET", "/empty", 200),
        ("GET", "/hints", 200),
        ("HEAD", "/file", 200),
    ] {
        let answer = ask(method, path);
        assert_eq!(answer.status(), status, "{method} {path}");
        assert!(answer.whole, "{method} {path}");
        match path {
            "/file" => assert_eq!(answer.header("content-length"), Some("12345")),
            "/hints" | "/continue" => assert_eq!(answer.text(), "{}", "{path}"),
            "/not-modified" => assert_eq!(answer.header("etag"), Some("\"x\"")),
            _ => assert_eq!(answer.body, b"", "{path}"),
        }
    }
    let http2 = gateway.h2_client();
    for (method, path, status) in [
        ("HEAD", "/file", 200),
        ("GET", "/no-content", 204),
        ("GET", "/not-modified", 304),
        ("GET", "/hints", 200),
    ] {
        let answer = http2.request(method, path, &[], b"");
        assert_eq!(answer.status, status, "{method} {path}, HTTP/2");
        assert!(answer.cut.is_none(), "{method} {path}, HTTP/2");
    }
    for record in gateway.records(13) {
        assert_eq!(record["end"], "complete", "{record}");
    }
    assert!(
        provider.connections() <= 2,
        "{} connections",
        provider.connections()
    );
}

#[test]
fn a_connection_on_which_a_stream_broke_is_never_used_again() {
    let breaks = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&breaks);
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        exchange.event(&said("one"));
        if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            exchange.close();
        } else {
            exchange.event(FINISH);
            exchange.event("[DONE]");
            exchange.end();
        }
    });
    let gateway = Gateway::start(&config(&provider.url()));
    for turn in 0..6 {
        let mut client = Client::connect(gateway.address());
        client.post(CHAT, ASK);
        let text = client.answer().text();
        assert_eq!(text.contains("[DONE]"), turn % 2 == 1, "{turn}: {text}");
    }
}

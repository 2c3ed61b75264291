//! What an answer used is settled before the client has its last byte: whatever becomes of weir in
//! the next moment, no answered request is lost.

use crate::streaming::Http2;
use crate::support::{Client, Gate, Gateway, H2Provider, Launch, Provider};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi there"}]}"#;
const STREAM: &str =
    r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hi there"}]}"#;
const USAGE: &str = r#""usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}"#;
const CHOICE: &str = r#"{"index":0,"message":{"role":"assistant","content":"a whole answer"},"finish_reason":"stop"}"#;
const DELTA: &str = r#"{"index":0,"delta":{"content":"a whole answer"},"finish_reason":"stop"}"#;

/// Makes each settled request a line of weir's log, which is written at once.
fn telling(launch: Launch) -> Launch {
    launch.env("RUST_LOG", "info,weir=trace")
}

fn start(url: &str) -> Gateway {
    telling(Launch::file(&format!(
        "model_routes: {{gpt-4o: \"{url}\"}}\n"
    )))
    .start()
}

/// What weir has settled when it is killed in the moment that the client has its answer.
#[track_caller]
fn killed_when(gateway: &mut Gateway, ask: &str, has: impl FnOnce(&mut Client)) -> Vec<Value> {
    let mut client = gateway.client();
    client.post(CHAT, ask);
    has(&mut client);
    kill(gateway)
}

#[track_caller]
fn kill(gateway: &mut Gateway) -> Vec<Value> {
    gateway.signal(libc::SIGKILL);
    gateway.wait_exit();
    // The pipe keeps what was written before.
    gateway.wait_log_end();
    let log = gateway.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|line: &Value| line["message"] == "settled")
        .collect()
}

#[track_caller]
fn assert_settled(settled: &[Value]) {
    assert_eq!(settled.len(), 1, "{settled:?}");
    let line = &settled[0];
    assert_eq!(
        [&line["input"], &line["output"], &line["last"]],
        [&json!(11), &json!(7), &json!(true)],
        "{line}"
    );
}

fn whole(client: &mut Client) {
    assert_eq!(client.answer().status(), 200);
}

#[test]
fn a_stream_is_settled_when_the_client_hears_that_it_is_done() {
    let never = Gate::new();
    let gate = never.clone();
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        exchange.chunk(format!(
            "data: {{\"choices\":[{DELTA}]}}\n\ndata: {{\"choices\":[],{USAGE}}}\n\ndata: [DONE]\n\n"
        ));
        // Its connection doesn't say that it is over.
        exchange.wait(&gate);
    });
    let settled = killed_when(&mut start(&provider.url()), STREAM, |client| {
        client.read_head();
        client.read_text_until("[DONE]\n\n");
    });
    assert_settled(&settled);
    never.open();
}

#[test]
fn a_stream_that_doesnt_say_so_is_settled_before_its_last_chunk() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.chunk(format!("data: {{\"choices\":[{DELTA}],{USAGE}}}\n\n"));
        exchange.end();
    });
    let settled = killed_when(&mut start(&provider.url()), STREAM, whole);
    assert_settled(&settled);
}

#[test]
fn an_answer_of_known_length_is_settled_before_its_last_byte() {
    let body = format!(r#"{{"choices":[{CHOICE}],{USAGE}}}"#);
    let provider = Provider::start(move |exchange| exchange.json(200, &body));
    let settled = killed_when(&mut start(&provider.url()), ASK, whole);
    assert_settled(&settled);
}

#[test]
fn an_answer_of_known_length_is_settled_though_its_http2_stream_is_open() {
    let body = format!(r#"{{"choices":[{CHOICE}],{USAGE}}}"#);
    let never = Gate::new();
    let gate = never.clone();
    let provider = H2Provider::start(move |exchange| {
        let length = body.len().to_string();
        let headers = [
            ("content-type", "application/json"),
            ("content-length", &*length),
        ];
        exchange.head(200, &headers);
        exchange.data(body.clone(), false);
        gate.wait();
    });
    let mut http2 = Http2::start_with(provider, "", telling);
    let settled = killed_when(&mut http2.gateway, ASK, whole);
    assert_settled(&settled);
    never.open();
}

#[test]
fn what_must_be_counted_is_settled_provisionally_and_then_for_good() {
    let body = format!(r#"{{"choices":[{CHOICE}]}}"#);
    let provider = Provider::start(move |exchange| exchange.json(200, &body));
    let mut gateway = start(&provider.url());
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    let record = gateway.records(1).remove(0);
    assert_eq!(record["token_source"], "counted");
    let settled = kill(&mut gateway);
    assert_eq!(settled.len(), 2, "{settled:?}");
    assert_eq!(settled[0]["last"], false);
    assert_eq!(
        [
            &settled[1]["input"],
            &settled[1]["output"],
            &settled[1]["last"]
        ],
        [
            &record["input_tokens"],
            &record["output_tokens"],
            &json!(true)
        ]
    );
}

#[test]
fn each_request_is_settled_for_good_once_however_it_ends() {
    let provider = Provider::start(|exchange| {
        let text = exchange.request.text();
        match () {
            () if text.contains("refuse") => exchange.json(429, "{}"),
            () if text.contains("leave") => {
                exchange.stream();
                exchange.event(r#"{"choices":[{"index":0,"delta":{"content":"one"}}]}"#);
                exchange.wait_end();
                exchange.close();
            }
            () if text.contains("break") => {
                exchange.stream();
                exchange.event(r#"{"choices":[{"index":0,"delta":{"content":"one"}}]}"#);
                exchange.close();
            }
            () if text.contains("nothing") => exchange.answer(204, &[], b""),
            () => exchange.json(200, &format!(r#"{{"choices":[{CHOICE}],{USAGE}}}"#)),
        }
    });
    let mut gateway = start(&provider.url());
    let ask = |word: &str| STREAM.replace("Hi there", word);
    for word in ["refuse", "break", "nothing", "whole"] {
        gateway.post(CHAT, ask(word));
    }
    gateway.post(CHAT, "{");
    let mut client = gateway.client();
    client.post(CHAT, ask("leave"));
    client.read_head();
    client.read_text_until("one");
    client.close();
    let records = gateway.records(6);
    let settled = kill(&mut gateway);
    for record in records {
        let of_it = settled
            .iter()
            .filter(|line| line["request_id"] == record["request_id"]);
        let last = of_it.filter(|line| line["last"] == true);
        assert_eq!(last.count(), 1, "{record}\n{settled:#?}");
    }
}

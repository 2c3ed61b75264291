//! Signs of life in a stream whose upstream is silent: between two events, in streams of events only, and
//! no sign of the upstream's life.

use crate::sdk;
use crate::support::gate::Steps;
use crate::support::{Exchange, Gate, Gateway, Provider, h2c};
use std::io::Write;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}"#;
const ONE: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"one"},"finish_reason":null}]}"#;
const FINISH: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const BEAT: &str = ": heartbeat\n\n";
/// Many heartbeats long.
const QUIET: Duration = Duration::from_millis(400);

fn gateway(provider: &Provider, timeouts: &str) -> Gateway {
    Gateway::start(&format!(
        "model_routes: {{m: \"{}\"}}\ntimeouts: {{{timeouts}}}\n",
        provider.url()
    ))
}

fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

/// A stream with a silence after its head, after an event, in one, and after the last.
fn stepwise(steps: &Steps) -> Provider {
    let steps = steps.clone();
    Provider::start(move |exchange| {
        exchange.stream();
        steps.wait();
        exchange.event(ONE);
        steps.wait();
        let (half, rest) = FINISH.split_at(20);
        exchange.chunk(format!("data: {half}"));
        steps.wait();
        exchange.chunk(format!("{rest}\n\ndata: [DONE]\n\n"));
        steps.wait();
        exchange.end();
    })
}

#[test]
fn a_silent_stream_has_heartbeats_between_its_events_only() {
    let steps = Steps::default();
    let provider = stepwise(&steps);
    let weir = gateway(&provider, "heartbeat: 30ms");
    let mut client = weir.client();
    client.post(
        CHAT,
        ASK.replacen('{', r#"{"stream_options":{"include_usage":true},"#, 1),
    );
    assert_eq!(client.read_head().status, 200);
    let mut all = client.read_text_until(&BEAT.repeat(2));
    steps.allow();
    all += &client.read_text_until(&event(ONE));
    all += &client.read_text_until(&BEAT.repeat(2));
    steps.allow();
    let half = format!("data: {}", &FINISH[..20]);
    all += &client.read_text_until(&half);
    assert!(client.is_silent_for(QUIET), "a heartbeat in an event");
    steps.allow();
    all += &client.read_text_until("data: [DONE]\n\n");
    assert!(
        client.is_silent_for(QUIET),
        "a heartbeat behind the last event"
    );
    steps.allow();
    assert_eq!(client.rest(), (Vec::new(), true));
    let events = event(ONE) + &event(FINISH) + "data: [DONE]\n\n";
    assert_eq!(all.replace(BEAT, ""), events);
    let record = &weir.records(1)[0];
    assert_eq!(record["end"], "complete", "{record}");
    assert_eq!(
        record["bytes_out"],
        events.len(),
        "heartbeats are no bytes of the answer"
    );
    // The connection goes on.
    client.post(CHAT, ASK);
    for _ in 0..4 {
        steps.allow();
    }
    assert!(client.answer().text().contains("[DONE]"));
}

#[test]
fn a_silent_stream_has_heartbeats_over_http2_too() {
    let steps = Steps::default();
    let provider = stepwise(&steps);
    let weir = gateway(&provider, "heartbeat: 30ms");
    let client = weir.h2_client();
    let json = [("content-type", "application/json")];
    let mut answer = client.begin("POST", CHAT, &json, ASK.as_bytes());
    let mut all = answer.read_text_until(&BEAT.repeat(2));
    steps.allow();
    all += &answer.read_text_until(&event(ONE));
    all += &answer.read_text_until(&BEAT.repeat(2));
    for _ in 0..3 {
        steps.allow();
    }
    let rest = answer.answer();
    assert!(rest.cut.is_none(), "{:?}", rest.cut);
    all += &rest.text();
    let events = event(ONE) + &event(FINISH) + "data: [DONE]\n\n";
    assert_eq!(all.replace(BEAT, ""), events);
}

#[test]
fn a_heartbeat_that_a_client_took_half_is_finished_before_the_next_event() {
    let steps = Steps::default();
    let allowed = steps.clone();
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        exchange.event(ONE);
        allowed.wait();
        exchange.event(FINISH);
        exchange.event("[DONE]");
        exchange.end();
    });
    let weir = gateway(&provider, "heartbeat: 30ms");
    for taken in 1..BEAT.len() {
        let window = event(ONE).len() + taken;
        let client = h2c::Client::with_window(weir.address(), window);
        let json = [("content-type", "application/json")];
        let mut answer = client.begin("POST", CHAT, &json, ASK.as_bytes());
        // weir has used up the window: it is in the middle of a heartbeat.
        let ahead = answer.read_unreleased(window);
        assert_eq!(ahead, (event(ONE) + BEAT).as_bytes()[..window]);
        steps.allow();
        let events = event(FINISH) + "data: [DONE]\n\n";
        assert_eq!(
            answer.answer().text(),
            event(ONE) + BEAT + &events,
            "{taken} bytes of a heartbeat were taken"
        );
    }
}

#[test]
fn heartbeats_keep_no_dead_stream_alive_and_are_no_first_byte() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.wait_end();
        exchange.close();
    });
    let weir = gateway(&provider, "heartbeat: 30ms, idle: 500ms");
    let answer = weir.post(CHAT, ASK);
    let text = answer.text();
    assert!(text.starts_with(&BEAT.repeat(2)), "{text}");
    assert!(
        text.contains("upstream_failed") && !text.contains("[DONE]"),
        "{text}"
    );
    let record = &weir.records(1)[0];
    assert_eq!(record["end"], "upstream_broke", "{record}");
    assert_eq!(record["ttft_ms"], serde_json::Value::Null, "{record}");
    weir.wait_value(
        "llm_upstream_error_total",
        &[("error_type", "idle_timeout")],
        1.0,
    );
    weir.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn a_client_that_leaves_is_noticed_between_heartbeats() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.wait_end();
        exchange.close();
    });
    let weir = gateway(&provider, "heartbeat: 30ms");
    let mut client = weir.client();
    client.post(CHAT, ASK);
    client.read_head();
    client.read_text_until(BEAT);
    client.reset();
    provider.wait_end(0);
    assert_eq!(weir.records(1)[0]["end"], "client_closed");
}

/// The parts of an answer, with a silence between them.
fn in_two(
    headers: &'static [(&'static str, &'static str)],
    parts: [Vec<u8>; 2],
) -> (Provider, Gate) {
    let gate = Gate::new();
    let opened = gate.clone();
    let provider = Provider::start(move |exchange: &mut Exchange| {
        exchange.head(200, headers);
        exchange.chunk(&parts[0]);
        exchange.wait(&opened);
        exchange.chunk(&parts[1]);
        exchange.end();
    });
    (provider, gate)
}

#[test]
fn other_forms_and_compressed_streams_have_none() {
    let text = event(ONE) + &event(FINISH) + "data: [DONE]\n\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).expect("a vector takes it");
    let gzip = gzip.finish().expect("a vector takes it");
    let chunked = ("transfer-encoding", "chunked");
    let cases: [(&'static [_], Vec<u8>); 4] = [
        (
            Box::leak(Box::new([("content-type", "application/json"), chunked])),
            br#"{"a": "b"}"#.to_vec(),
        ),
        (
            Box::leak(Box::new([
                ("content-type", "application/x-ndjson"),
                chunked,
            ])),
            b"{}\n{\"done\":true}\n".to_vec(),
        ),
        (
            Box::leak(Box::new([("content-type", "text/plain"), chunked])),
            text.clone().into_bytes(),
        ),
        (
            Box::leak(Box::new([
                ("content-type", "text/event-stream"),
                ("content-encoding", "gzip"),
                chunked,
            ])),
            gzip,
        ),
    ];
    for (headers, body) in cases {
        let middle = body.len() / 2;
        let (provider, gate) = in_two(headers, [body[..middle].to_vec(), body[middle..].to_vec()]);
        let weir = gateway(&provider, "heartbeat: 30ms");
        let mut client = weir.client();
        let lines = headers[0].1 == "application/x-ndjson";
        client.post(if lines { "/api/chat" } else { CHAT }, ASK);
        assert_eq!(client.read_head().status, 200);
        std::thread::sleep(QUIET);
        gate.open();
        let (got, whole) = client.rest();
        assert!(
            whole && got == body,
            "{headers:?}: {:?}",
            String::from_utf8_lossy(&got)
        );
    }
}

#[test]
fn without_the_setting_there_is_none() {
    let (provider, gate) = in_two(
        &[
            ("content-type", "text/event-stream"),
            ("transfer-encoding", "chunked"),
        ],
        [
            event(ONE).into_bytes(),
            (event(FINISH) + "data: [DONE]\n\n").into_bytes(),
        ],
    );
    let weir = gateway(&provider, "idle: 60s");
    let mut client = weir.client();
    client.post(CHAT, ASK);
    client.read_head();
    client.read_text_until(&event(ONE));
    assert!(client.is_silent_for(QUIET));
    gate.open();
    client.rest();
}

const SCRIPT: &str = r#"
import sys
try:
    import openai
except ImportError:
    sys.exit("the openai SDK is missing: pip install openai, or name a Python that has it with WEIR_TEST_PYTHON")

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, timeout=30)
events = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
text = [event.choices[0].delta.content for event in events]
assert text == ["one", "one", None], text
print("all is well")
"#;

#[test]
fn the_openai_sdk_reads_over_heartbeats() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        for data in [ONE, ONE, FINISH, "[DONE]"] {
            // The silence of a model that thinks.
            std::thread::sleep(QUIET / 2);
            exchange.event(data);
        }
        exchange.end();
    });
    let weir = gateway(&provider, "heartbeat: 20ms");
    sdk::runs(&weir, SCRIPT, &format!("http://{}", weir.address()));
}

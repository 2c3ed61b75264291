//! Answers in other dialects than chat's go through the front door: metered, unchanged, and with an
//! error of their own dialect where they break off. What they say in detail is `fixtures`' affair.

use crate::support::{Gateway, Provider};
use serde_json::Value;
use std::io::Write;
use std::path::Path;

/// An API: its path, the type of its answer, a golden answer, and what that reports.
type Api = (&'static str, &'static str, &'static str, [u64; 2]);

const EVENTS: &str = "text/event-stream; charset=utf-8";
const JSON: &str = "application/json; charset=UTF-8";
const LINES: &str = "application/x-ndjson";
const FRAMES: &str = "application/vnd.amazon.eventstream";
const GEMINI: &str = "/v1beta/models/gemini-2.5-flash:streamGenerateContent";

const APIS: [Api; 14] = [
    (
        "/v1/messages",
        EVENTS,
        "anthropic/cache-thinking-and-tool-stream.in.sse",
        [1199, 201],
    ),
    (
        "/v1/messages",
        JSON,
        "anthropic/body-with-blocks.in.json",
        [15, 20],
    ),
    (
        "/v1/responses",
        EVENTS,
        "openai/responses-stream-of-every-kind.in.sse",
        [90, 30],
    ),
    (
        "/v1/audio/transcriptions",
        JSON,
        "openai/transcription-in-tokens.in.json",
        [14, 45],
    ),
    (
        "/v1/images/generations",
        JSON,
        "openai/images-body.in.json",
        [10, 4156],
    ),
    (
        GEMINI,
        EVENTS,
        "gemini/stream-with-thoughts-and-tools.in.sse",
        [780, 43],
    ),
    (
        GEMINI,
        JSON,
        "gemini/list-of-chunks.in.list.json",
        [780, 43],
    ),
    ("/api/chat", LINES, "ollama/chat-lines.in.ndjson", [26, 17]),
    ("/api/embed", JSON, "ollama/embed.in.json", [8, 0]),
    (
        "/api/v1/services/aigc/text-generation/generation",
        EVENTS,
        "dashscope/stream-whose-events-repeat-the-text.in.sse",
        [35, 2],
    ),
    ("/v2/chat", EVENTS, "cohere/chat-stream.in.sse", [968, 83]),
    (
        "/model/m/converse",
        JSON,
        "bedrock/converse-body.in.json",
        [1951, 121],
    ),
    (
        "/model/m/converse-stream",
        FRAMES,
        "bedrock/converse-frames.in.frames",
        [10, 10],
    ),
    (
        "/model/m/invoke-with-response-stream",
        FRAMES,
        "bedrock/claude-frames.in.frames",
        [392, 133],
    ),
];

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::fs::read(folder.join(name)).expect(name)
}

fn config(url: &str) -> String {
    let prefixes = ["/v1", "/v1beta", "/v2", "/api", "/model"];
    let targets = prefixes.map(|prefix| format!("{prefix}: p"));
    format!(
        "providers: [{{name: p, base_url: \"{url}\", breaker: off}}]\ntarget_map: {{{}}}\n",
        targets.join(", ")
    )
}

/// A gateway whose upstream answers everything with `body` in pieces of odd sizes.
fn answering(headers: &[(&'static str, &'static str)], body: Vec<u8>) -> (Gateway, Provider) {
    let headers = [headers, &[("transfer-encoding", "chunked")]].concat();
    let provider = Provider::start(move |exchange| {
        exchange.head(200, &headers);
        for piece in body.chunks(61) {
            exchange.chunk(piece);
        }
        exchange.end();
    });
    (Gateway::start(&config(&provider.url())), provider)
}

#[track_caller]
fn assert_usage(record: &Value, [input, output]: [u64; 2], what: &str) {
    let figures = [&record["input_tokens"], &record["output_tokens"]];
    assert_eq!(
        figures,
        [&Value::from(input), &Value::from(output)],
        "{what}: {record}"
    );
    assert_eq!(record["token_source"], "upstream", "{what}: {record}");
    assert_eq!(record["end"], "complete", "{what}: {record}");
}

const ASK: &str = r#"{"model":"m","messages":[],"input":"Hi"}"#;

#[test]
fn answers_of_every_dialect_are_metered_and_pass_unchanged() {
    for (path, content_type, name, usage) in APIS {
        let body = golden(name);
        let (gateway, _provider) = answering(&[("content-type", content_type)], body.clone());
        let answer = gateway.post(path, ASK);
        assert!(
            answer.whole && answer.body == body,
            "{name}: {}",
            answer.text()
        );
        assert_usage(&gateway.records(1)[0], usage, name);
    }
}

#[test]
fn compressed_answers_are_metered_and_pass_unchanged() {
    for (coding, compress) in CODINGS {
        for (path, content_type, name, usage) in [APIS[0], APIS[1], APIS[7]] {
            let body = compress(&golden(name));
            let headers = [("content-type", content_type), ("content-encoding", coding)];
            let (gateway, provider) = answering(&headers, body.clone());
            let answer = gateway.post(path, ASK);
            assert!(answer.whole && answer.body == body, "{name}, {coding}");
            assert_eq!(answer.header("content-encoding"), Some(coding));
            assert_usage(&gateway.records(1)[0], usage, name);
            let asked = provider.only_request();
            assert_eq!(asked.header("accept-encoding"), Some("identity"));
        }
    }
}

#[test]
fn a_compressed_stream_that_ends_early_is_noticed_and_gets_nothing_put_into_it() {
    let whole = golden(APIS[0].2);
    let body = gzip(&whole[..whole.len() / 2]);
    let headers = [("content-type", EVENTS), ("content-encoding", "gzip")];
    let (gateway, _provider) = answering(&headers, body.clone());
    let answer = gateway.post("/v1/messages", ASK);
    assert!(answer.body == body);
    assert_eq!(gateway.records(1)[0]["end"], "upstream_broke");
}

#[test]
fn what_is_not_compressed_as_it_says_still_passes() {
    let headers = [("content-type", EVENTS), ("content-encoding", "zstd")];
    let (gateway, _provider) = answering(&headers, golden(APIS[0].2));
    let answer = gateway.post("/v1/messages", ASK);
    assert!(answer.whole && answer.body == golden(APIS[0].2));
    assert_eq!(gateway.records(1)[0]["end"], "complete");
    gateway.wait_log("can't be followed");
}

#[test]
fn the_tokens_of_an_answer_in_an_unknown_coding_are_estimated() {
    let headers = [("content-type", EVENTS), ("content-encoding", "compress")];
    let (gateway, _provider) = answering(&headers, golden(APIS[0].2));
    let answer = gateway.post("/v1/messages", ASK);
    assert!(answer.whole && answer.body == golden(APIS[0].2));
    let record = &gateway.records(1)[0];
    assert_eq!(record["end"], "complete");
    assert_eq!(record["token_source"], "estimated");
    assert!(record["input_tokens"].as_u64() > Some(0));
    let by_length = answer.body.len() as u64 / 7;
    assert_eq!(record["output_tokens"].as_u64(), Some(by_length));
    gateway.wait_log("can't be followed");
}

#[test]
fn tokens_that_are_only_counted_are_spent_by_nobody() {
    let body = golden("anthropic/counted-tokens.in.json");
    let (gateway, _provider) = answering(&[("content-type", JSON)], body.clone());
    let answer = gateway.post("/v1/messages/count_tokens", ASK);
    assert!(answer.body == body);
    assert_eq!(gateway.records(1)[0]["input_tokens"], Value::Null);
}

/// A gateway whose upstream answers each of these paths with its golden answer, which ends early.
fn cutting(apis: &'static [(&'static str, &'static str, &'static str)]) -> (Gateway, Provider) {
    let provider = Provider::start(move |exchange| {
        let asked = |api: &&(&str, &str, &str)| exchange.request.target == api.0;
        let (_, content_type, name) = apis
            .iter()
            .find(asked)
            .unwrap_or_else(|| panic!("nothing is scripted for {}", exchange.request.target));
        let headers = [
            ("content-type", *content_type),
            ("transfer-encoding", "chunked"),
        ];
        exchange.head(200, &headers);
        exchange.chunk(golden(name));
        exchange.end();
    });
    (Gateway::start(&config(&provider.url())), provider)
}

/// What follows the golden answer of the path.
#[track_caller]
fn told(gateway: &Gateway, (path, _, name): (&str, &str, &str)) -> String {
    let answer = gateway.post(path, ASK);
    let rest = answer.body.strip_prefix(&golden(name)[..]);
    String::from_utf8(rest.expect("the answer as it came").to_vec()).expect("UTF-8")
}

#[track_caller]
fn event(told: &str, name: &str) -> Value {
    let data = told.strip_prefix("\n\n").expect("a line end first");
    let data = data.strip_prefix(name).expect(told);
    let data = data.strip_prefix("data: ").expect(told);
    serde_json::from_str(data.strip_suffix("\n\n").expect("an end")).expect("JSON")
}

const CUT: [(&str, &str, &str); 7] = [
    (
        "/v1/messages",
        EVENTS,
        "anthropic/cut-after-some-text.in.sse",
    ),
    (
        "/v1/responses",
        EVENTS,
        "openai/responses-stream-cut.in.sse",
    ),
    (
        "/v1beta/models/g:streamGenerateContent?alt=sse",
        EVENTS,
        "gemini/stream-cut.in.sse",
    ),
    ("/v2/chat", EVENTS, "cohere/chat-stream-cut.in.sse"),
    (
        "/api/v1/services/aigc/text-generation/generation",
        EVENTS,
        "dashscope/stream-cut.in.sse",
    ),
    ("/api/generate", LINES, "ollama/lines-cut.in.ndjson"),
    (GEMINI, JSON, "gemini/list-cut-between-chunks.in.list.json"),
];

#[test]
fn a_stream_that_ends_early_ends_with_an_error_in_its_dialect() {
    let (gateway, _provider) = cutting(&CUT);
    let [messages, responses, gemini, cohere, dashscope, ollama, list] =
        CUT.map(|api| told(&gateway, api));
    let error = event(&messages, "event: error\n");
    assert_eq!(error["error"]["type"], "api_error");
    let error = event(&responses, "event: error\n");
    assert_eq!(error["type"], "error");
    assert_eq!(error["code"], "upstream_failed");
    assert_eq!(event(&gemini, "")["error"]["status"], "UNAVAILABLE");
    let error = event(&cohere, "event: message-end\n");
    assert_eq!(error["delta"]["finish_reason"], "ERROR");
    let error = event(&dashscope, "event: error\n");
    assert_eq!(error["code"], "upstream_failed");
    let error: Value = serde_json::from_str(&ollama).expect("JSON on a line of its own");
    assert!(
        ollama.starts_with('\n') && error["error"].is_string(),
        "{ollama}"
    );
    // A list is closed behind its error.
    let whole = String::from_utf8(golden(CUT[6].2)).expect("UTF-8") + &list;
    let whole: Vec<Value> = serde_json::from_str(&whole).expect("a list that is whole");
    let last = whole.last().expect("an element");
    assert_eq!(last["error"]["status"], "UNAVAILABLE");
    for record in gateway.records(CUT.len()) {
        assert_eq!(record["end"], "upstream_broke", "{record}");
    }
}

#[test]
fn frames_that_end_early_get_nothing_put_behind_them() {
    let mut body = golden("bedrock/converse-frames.in.frames");
    body.truncate(body.len() / 2);
    let (gateway, _provider) = answering(&[("content-type", FRAMES)], body.clone());
    let answer = gateway.post("/model/m/converse-stream", ASK);
    assert!(answer.body == body);
    assert_eq!(gateway.records(1)[0]["end"], "upstream_broke");
}

// === codings ===

pub type Compress = fn(&[u8]) -> Vec<u8>;

pub const CODINGS: [(&str, Compress); 4] = [
    ("gzip", gzip),
    ("zstd", |bytes| zstd::encode_all(bytes, 1).expect("memory")),
    ("br", |bytes| {
        let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
        encoder.write_all(bytes).expect("memory");
        encoder.into_inner()
    }),
    ("deflate", |bytes| {
        let fast = flate2::Compression::fast();
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), fast);
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }),
];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

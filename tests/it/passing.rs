//! Where client and provider speak the same dialect, bytes pass as they came: each recording of a real
//! provider, through the front door, over HTTP/1 and over HTTP/2 on both sides.

use super::fixtures::{index, recordings};
use super::streaming::Http2;
use crate::support::{Gateway, H2Provider, Provider};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A recorded exchange.
#[derive(Clone, Default)]
struct Case {
    id: String,
    target: String,
    status: u16,
    content_type: String,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// What the model server is to answer now, and what it was sent.
type Now = Arc<Mutex<(Case, Vec<u8>)>>;

/// The dialect whose provider has this API; such providers get a request as it came.
fn dialect(api: &str) -> &'static str {
    match api {
        "anthropic-messages" | "anthropic-count-tokens" => "anthropic",
        "gemini" | "gemini-count-tokens" | "gemini-embeddings" => "gemini",
        "ollama-chat" | "ollama-generate" => "ollama",
        "dashscope-generation" => "dashscope",
        "cohere-v2-chat" | "cohere-v2-embed" => "cohere",
        "bedrock-converse" | "bedrock-invoke" => "bedrock",
        _ => "openai",
    }
}

const DIALECTS: [&str; 7] = [
    "openai",
    "anthropic",
    "gemini",
    "ollama",
    "dashscope",
    "cohere",
    "bedrock",
];

fn cases(folder: &Path, wanted: &str) -> Vec<Case> {
    let of = index(folder);
    let of = of
        .iter()
        .filter(|case| dialect(case["api"].as_str().unwrap_or_default()) == wanted);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of.map(|case| {
        let query = case["query"].as_object().into_iter().flatten();
        let query: Vec<_> = query
            .map(|(name, value)| format!("{name}={}", text(value)))
            .collect();
        let path = text(&case["path"]);
        let file = |name: &str| {
            let file = case[name].as_str();
            file.map_or_else(Vec::new, |file| {
                fs::read(folder.join(file)).expect("a recording")
            })
        };
        Case {
            id: text(&case["id"]),
            target: match query.is_empty() {
                true => path,
                false => format!("{path}?{}", query.join("&")),
            },
            status: case["status"]
                .as_u64()
                .and_then(|it| it.try_into().ok())
                .expect("a status"),
            content_type: text(&case["content_type"]),
            request: file("request"),
            answer: file("response"),
        }
    })
    .collect()
}

/// Routes all to the provider `p`, which isn't asked for usage in the client's stead: then nothing has to
/// be taken out again.
fn keys(dialect: &str) -> String {
    format!(", dialect: {dialect}, include_usage: never, breaker: off")
}

/// A stream in nobody's dialect, without an end by any account: weir says so after it.
const ENDLESS: &str = "writer/openai-completions-stream-01";

/// What the client has got of the recording: all of it, and nothing else.
fn is_whole(case: &Case, got: &[u8]) -> bool {
    match case.id == ENDLESS {
        true => got
            .strip_prefix(&*case.answer)
            .is_some_and(|more| more.starts_with(b"\n\ndata: {\"error\"")),
        false => got == case.answer,
    }
}

const ALL: &str = "routing: {default_provider: p}\n";

#[test]
fn recordings_pass_byte_for_byte_over_http1() {
    let Some(folder) = recordings() else { return };
    for dialect in DIALECTS {
        let now = Now::default();
        let told = Arc::clone(&now);
        let provider = Provider::start(move |exchange| {
            let case = {
                let mut now = told.lock().expect("a case");
                now.1 = exchange.request.body.clone();
                now.0.clone()
            };
            let headers = [
                ("content-type", &*case.content_type),
                ("transfer-encoding", "chunked"),
            ];
            exchange.head(case.status, &headers);
            for piece in case.answer.chunks(97) {
                exchange.chunk(piece);
            }
            exchange.end();
        });
        let gateway = Gateway::start(&format!(
            "providers: [{{name: p, base_url: \"{}\"{}}}]\n{ALL}",
            provider.url(),
            keys(dialect)
        ));
        let cases = cases(&folder, dialect);
        assert!(!cases.is_empty(), "{dialect}");
        for case in &cases {
            now.lock().expect("a case").0 = case.clone();
            let answer = gateway.post(&case.target, &case.request);
            assert_eq!(answer.head.status, case.status, "{}", case.id);
            assert!(
                answer.whole && is_whole(case, &answer.body),
                "{}: {}",
                case.id,
                answer.text()
            );
            assert!(
                now.lock().expect("a case").1 == case.request,
                "{}: the request",
                case.id
            );
        }
    }
}

#[test]
fn recordings_pass_byte_for_byte_over_http2() {
    let Some(folder) = recordings() else { return };
    for dialect in DIALECTS {
        let now = Now::default();
        let told = Arc::clone(&now);
        let provider = H2Provider::start(move |exchange| {
            let case = {
                let mut now = told.lock().expect("a case");
                now.1 = exchange.body().to_vec();
                now.0.clone()
            };
            exchange.head(case.status, &[("content-type", &case.content_type)]);
            let mut pieces = case.answer.chunks(97).peekable();
            while let Some(piece) = pieces.next() {
                exchange.data(piece.to_vec(), pieces.peek().is_none());
            }
            if case.answer.is_empty() {
                exchange.end();
            }
        });
        let http2 = Http2::start_in(provider, &keys(dialect), ALL, |launch| launch);
        let client = http2.gateway.h2_client();
        for case in cases(&folder, dialect) {
            now.lock().expect("a case").0 = case.clone();
            let answer = client.post(&case.target, &case.request);
            assert_eq!(answer.status, case.status, "{}", case.id);
            assert!(
                answer.cut.is_none() && is_whole(&case, &answer.body),
                "{}: {}",
                case.id,
                answer.text()
            );
            assert!(
                now.lock().expect("a case").1 == case.request,
                "{}: the request",
                case.id
            );
        }
    }
}

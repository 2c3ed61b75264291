//! Providers as they would be asked by weir: each answers in its own dialect, by the name of the model.
//!
//! `text`, `tools`, `reasoning`, ... answer with the golden file of that name, or with the stream of it where
//! a stream is asked for; a request that has the result of a tool gets the answer to that. `error-404` fails
//! so. `busy-WHO` has no time at first, and wants to be asked again in a second. `endless-WHO` begins to
//! speak and doesn't end; `GET /left/WHO` is answered as soon as the other side has left that answer.
//! Other models answer with the recordings that they are given.

use super::gate::Board;
use super::provider::{Exchange, Provider};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A recorded answer.
#[derive(Clone)]
pub struct Recording {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// The files of a dialect's golden answers, without their folders.
const GOLDEN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/golden/translate/upstreams"
);

/// Starts a provider of this dialect with these recordings, by the names of their models.
pub fn simulated(dialect: &'static str, recordings: HashMap<String, Recording>) -> Provider {
    let left: Arc<Board<HashSet<String>>> = Arc::default();
    let asked: Mutex<HashSet<String>> = Mutex::default();
    Provider::start(move |exchange| {
        if let Some(who) = exchange.request.target.strip_prefix("/left/") {
            let who = who.to_owned();
            left.wait("a client to leave", |left| {
                left.contains(&who).then_some(())
            });
            return exchange.json(200, "{}");
        }
        let body: Value = serde_json::from_slice(&exchange.request.body).unwrap_or_default();
        let model = model(&exchange.request.target, &body);
        if let Some(recording) = recordings.get(&model) {
            return play(exchange, recording);
        }
        let streamed = is_streamed(exchange, &body);
        if let Some(status) = model.strip_prefix("error-") {
            let status = status.parse().expect("a status");
            let headers = [("content-type", "application/json")];
            exchange.answer(status, &headers, error(dialect, status).as_bytes());
        } else if model.starts_with("busy-") && asked.lock().expect("names").insert(model.clone()) {
            let headers = [("content-type", "application/json"), ("retry-after", "1")];
            exchange.answer(429, &headers, error(dialect, 429).as_bytes());
        } else if let Some(who) = model.strip_prefix("endless-") {
            begin(exchange, dialect);
            exchange.wait_end();
            left.change(|left| left.insert(who.to_owned()));
            exchange.close();
        } else if model.starts_with("busy-") {
            golden(exchange, dialect, "text", streamed);
        } else if exchange.request.text().contains("18 degrees") {
            golden(exchange, dialect, "tool_result", false);
        } else {
            golden(exchange, dialect, &model, streamed);
        }
    })
}

/// The name of the model: in the body, or in the path.
fn model(target: &str, body: &Value) -> String {
    if let Some(model) = body["model"].as_str() {
        return model.to_owned();
    }
    let after = ["/models/", "/model/", "/deployments/"]
        .iter()
        .find_map(|place| target.split_once(place))
        .map_or("", |(_, after)| after);
    let end = after.find(['/', ':', '?']).unwrap_or(after.len());
    after[..end].to_owned()
}

fn is_streamed(exchange: &Exchange, body: &Value) -> bool {
    let target = &exchange.request.target;
    body["stream"] == true
        || target.contains(":streamGenerateContent")
        || target.contains("/converse-stream")
        || exchange.request.header("x-dashscope-sse") == Some("enable")
}

/// The end of a stream's file in this dialect, and its type.
fn form(dialect: &str) -> (&'static str, &'static str) {
    match dialect {
        "ollama" => ("ndjson", "application/x-ndjson"),
        "bedrock" => ("frames", "application/vnd.amazon.eventstream"),
        _ => ("sse", "text/event-stream"),
    }
}

fn read(dialect: &str, name: &str) -> Vec<u8> {
    let path = Path::new(GOLDEN).join(dialect).join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Answers with a golden file; a feature of which there is no stream is told in the stream of the text.
fn golden(exchange: &mut Exchange, dialect: &str, feature: &str, streamed: bool) {
    if !streamed {
        let body = read(dialect, &format!("{feature}.json"));
        return exchange.answer(200, &[("content-type", "application/json")], &body);
    }
    let (end, content_type) = form(dialect);
    let name = match feature {
        "text" => format!("stream.{end}"),
        feature => format!("{feature}_stream.{end}"),
    };
    let status = 200;
    play(
        exchange,
        &Recording {
            status,
            content_type: content_type.to_owned(),
            body: read(dialect, &name),
        },
    );
}

/// Answers in pieces that have nothing to do with what is in them.
fn play(exchange: &mut Exchange, recording: &Recording) {
    let headers = [
        ("content-type", &*recording.content_type),
        ("transfer-encoding", "chunked"),
    ];
    exchange.head(recording.status, &headers);
    for piece in recording.body.chunks(193) {
        exchange.chunk(piece);
    }
    exchange.end();
}

/// Says the first word of the golden stream.
fn begin(exchange: &mut Exchange, dialect: &str) {
    let (end, content_type) = form(dialect);
    let body = read(dialect, &format!("stream.{end}"));
    let headers = [
        ("content-type", content_type),
        ("transfer-encoding", "chunked"),
    ];
    exchange.head(200, &headers);
    for event in events(&body, end) {
        exchange.chunk(event);
        if String::from_utf8_lossy(event).contains("Hello") {
            return;
        }
    }
    panic!("{dialect}: the stream doesn't say hello");
}

fn events<'a>(mut body: &'a [u8], end: &str) -> Vec<&'a [u8]> {
    let mut events = Vec::new();
    let separator: &[u8] = if end == "sse" { b"\n\n" } else { b"\n" };
    while !body.is_empty() {
        let length = match end {
            "frames" => {
                let length = body.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
                length.map(|length| usize::try_from(length).expect("a length"))
            }
            _ => super::client::find(body, separator).map(|at| at + separator.len()),
        };
        let (event, rest) = body.split_at(length.unwrap_or(body.len()));
        events.push(event);
        body = rest;
    }
    events
}

/// What providers of this dialect say with such a status.
fn error(dialect: &str, status: u16) -> String {
    let said = format!("{status} is what it comes to.");
    let said = &*said;
    let error = match dialect {
        "anthropic" => {
            let kind = match status {
                400 => "invalid_request_error",
                401 => "authentication_error",
                403 => "permission_error",
                404 => "not_found_error",
                429 => "rate_limit_error",
                529 => "overloaded_error",
                _ => "api_error",
            };
            json!({"type": "error", "error": {"type": kind, "message": said}, "request_id": "req_1"})
        }
        "gemini" => {
            let word = match status {
                400 => "INVALID_ARGUMENT",
                401 => "UNAUTHENTICATED",
                403 => "PERMISSION_DENIED",
                404 => "NOT_FOUND",
                429 => "RESOURCE_EXHAUSTED",
                503 | 529 => "UNAVAILABLE",
                _ => "INTERNAL",
            };
            json!({"error": {"code": status, "message": said, "status": word}})
        }
        "ollama" => json!({"error": said}),
        "bedrock" | "cohere" => json!({"message": said}),
        "dashscope" => json!({"code": "Whatever", "message": said, "request_id": "1"}),
        "azure" => json!({"error": {"code": status.to_string(), "message": said}}),
        _ => {
            let (kind, code) = match status {
                401 => ("invalid_request_error", "invalid_api_key"),
                404 => ("invalid_request_error", "model_not_found"),
                429 => ("requests", "rate_limit_exceeded"),
                500.. => ("server_error", "server_error"),
                _ => ("invalid_request_error", "invalid_value"),
            };
            json!({"error": {"message": said, "type": kind, "param": null, "code": code}})
        }
    };
    error.to_string()
}

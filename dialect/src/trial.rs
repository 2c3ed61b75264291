//! For the tests of dialects: a request through one API to another, and its answer back.

use std::path::Path;

use serde_json::Value;

use crate::ir::{Failure, Unfit};
use crate::provider::{Dialect, Provider};
use crate::surface::{Form, Surface};
use crate::translate::{Ask, Target, Translated, request};

/// A client's API.
#[derive(Clone, Copy)]
pub struct Client(pub Surface, pub &'static str);

pub const CHAT: Client = Client(Surface::Chat, "/v1/chat/completions");
pub const COMPLETIONS: Client = Client(Surface::Completions, "/v1/completions");
pub const EMBEDDINGS: Client = Client(Surface::Embeddings, "/v1/embeddings");
pub const OLLAMA_CHAT: Client = Client(Surface::Ollama, "/api/chat");
pub const OLLAMA_GENERATE: Client = Client(Surface::Ollama, "/api/generate");
pub const OLLAMA_EMBED: Client = Client(Surface::OllamaEmbed, "/api/embed");
pub const OLLAMA_EMBEDDINGS: Client = Client(Surface::OllamaEmbed, "/api/embeddings");

/// A request to a provider of that dialect, which knows the model as `m`.
pub fn ask(client: Client, body: &str, to: Dialect, lenient: bool) -> Result<Translated, Unfit> {
    let ask = Ask {
        surface: client.0,
        path: client.1,
        query: None,
        body: body.as_bytes(),
        id: "1",
        now: 1_760_000_000,
        model: "my-model",
    };
    let provider = Provider::new(to);
    let target = Target {
        provider: &provider,
        model: "m",
        base: "",
        lenient,
        ask_usage: true,
    };
    request(&ask, &target)
}

/// The upstream's request, as JSON.
pub fn asked(client: Client, body: &str, to: Dialect) -> Value {
    let translated = ask(client, body, to, false).expect("a request");
    serde_json::from_slice(&translated.body).expect("JSON")
}

/// What the client gets of an answer that comes in pieces of `cut` bytes.
pub fn answered(
    mut translated: Translated,
    answer: &str,
    form: Form,
    cut: usize,
) -> Result<String, Failure> {
    translated.answer.begin(form);
    let mut out = Vec::new();
    for piece in answer.as_bytes().chunks(cut) {
        translated.answer.feed(piece, &mut out)?;
    }
    translated.answer.end(&mut out)?;
    Ok(String::from_utf8(out).expect("text"))
}

/// The same whichever way it is cut.
pub fn answered_any(client: Client, body: &str, from: Dialect, answer: &str, form: Form) -> String {
    let of = |cut| {
        let translated = ask(client, body, from, false).expect("a request");
        answered(translated, answer, form, cut).expect("an answer")
    };
    let whole = of(answer.len().max(1));
    for cut in [1, 2, 3, 7, 64] {
        assert_eq!(of(cut), whole, "pieces of {cut}");
    }
    whole
}

/// The data of a stream's events but for the last word, or its lines.
pub fn events(stream: &str) -> Vec<Value> {
    (stream.lines())
        .map(|line| line.strip_prefix("data: ").unwrap_or(line))
        .filter(|data| !data.is_empty() && *data != "[DONE]")
        .map(|data| serde_json::from_str(data).expect("JSON"))
        .collect()
}

/// A file of `tests/golden/translate`.
pub fn golden(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/translate");
    std::fs::read_to_string(root.join(path)).expect(path)
}

/// The recordings of an API, with what they report: `None` where the folder isn't there.
pub fn recordings(api: &str) -> Option<Vec<(Value, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    let Ok(index) = std::fs::read(root.join("index.json")) else {
        println!("skipped: there are no recordings in {}", root.display());
        return None;
    };
    let index: Vec<Value> = serde_json::from_slice(&index).expect("an index");
    let of = index.into_iter().filter(|case| case["api"] == api);
    let read = |case: Value| {
        let path = root.join(case["response"].as_str().expect("a file"));
        let text = std::fs::read_to_string(path).expect("an answer");
        (case, text)
    };
    Some(of.map(read).collect())
}

/// Each golden request and answer of these dialects with some bytes changed: whatever comes of it, nothing
/// breaks.
#[test]
fn bytes_that_make_no_sense_break_nothing() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    const BYTES: &[u8] = b"\"{}[]:,\\\n0-9nulte. \xff\xc3";
    let mut random = StdRng::seed_from_u64(7);
    let mut changed = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            let byte = BYTES[random.random_range(0..BYTES.len())];
            match random.random_range(0..3) {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    };
    let clients = [
        (
            CHAT,
            r#"{"messages":[{"role":"user","content":"Hi"}],"stream":true}"#.to_owned(),
        ),
        (OLLAMA_CHAT, golden("clients/ollama-chat/tool_result.json")),
        (
            OLLAMA_GENERATE,
            golden("clients/ollama-generate/image.json"),
        ),
        (COMPLETIONS, golden("clients/completions/stream.json")),
        (
            EMBEDDINGS,
            r#"{"input":["a",[1,2]],"dimensions":3}"#.to_owned(),
        ),
    ];
    let upstreams = [
        (
            Dialect::Ollama,
            "ollama/parallel_tools_stream.ndjson",
            Form::Lines,
        ),
        (Dialect::Ollama, "ollama/reasoning.json", Form::Body),
        (
            Dialect::Cohere,
            "cohere/parallel_tools_stream.sse",
            Form::Events,
        ),
        (Dialect::Cohere, "cohere/tool_result.json", Form::Body),
        (
            Dialect::DashScope,
            "dashscope/parallel_tools_stream.sse",
            Form::Events,
        ),
        (Dialect::DashScope, "dashscope/image.json", Form::Body),
    ];
    for (to, file, form) in upstreams {
        let answer = golden(&format!("upstreams/{file}"));
        for (client, body) in &clients {
            for round in 0..200 {
                let asked = String::from_utf8_lossy(&changed(body)).into_owned();
                let _ = ask(*client, &asked, to, true);
                let Ok(mut translated) = ask(*client, body, to, true) else {
                    continue;
                };
                translated.answer.begin(form);
                let (mut out, bytes) = (Vec::new(), changed(&answer));
                let fed = (bytes.chunks(1 + round % 40))
                    .try_for_each(|piece| translated.answer.feed(piece, &mut out));
                if fed.is_ok() {
                    let _ = translated.answer.end(&mut out);
                }
                translated.answer.refusal(500, &bytes);
            }
        }
    }
}

const HI: &str = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;
const HI_STREAMED: &str = r#"{"messages":[{"role":"user","content":"Hi"}],"stream":true,"stream_options":{"include_usage":true}}"#;

/// What a client of chat reads of an upstream's golden answer.
pub fn whole(upstream: &str, dialect: Dialect, feature: &str) -> Value {
    let text = golden(&format!("upstreams/{upstream}/{feature}.json"));
    let out = answered_any(CHAT, HI, dialect, &text, Form::Body);
    serde_json::from_str(&out).expect("JSON")
}

/// The same of a stream, event by event.
pub fn stream(upstream: &str, dialect: Dialect, feature: &str) -> Vec<Value> {
    let text = golden(&format!("upstreams/{upstream}/{feature}.sse"));
    let out = answered_any(CHAT, HI_STREAMED, dialect, &text, Form::Events);
    assert!(out.ends_with("data: [DONE]\n\n"), "{out}");
    events(&out)
}

/// All pieces of a field of the first choice's deltas.
pub fn joined(said: &[Value], field: &str) -> String {
    (said.iter())
        .filter_map(|it| it["choices"][0]["delta"][field].as_str())
        .collect()
}

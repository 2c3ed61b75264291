//! Recorded answers of Bedrock and Azure, read and written for OpenAI's chat clients: the same text and
//! usage as recorded. The recordings stay outside of the repository; without them nothing is tested.

use serde_json::Value;
use weir_dialect::provider::{Dialect, Provider};
use weir_dialect::surface::{Form, Surface};
use weir_dialect::translate::{Ask, Target, request};

const ASKED: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#;

/// The answer as an OpenAI chat client gets it whole.
fn told(dialect: Dialect, form: Form, answer: &[u8], cut: usize) -> Value {
    let ask = Ask {
        surface: Surface::Chat,
        path: "/v1/chat/completions",
        query: None,
        body: ASKED.as_bytes(),
        id: "1",
        now: 7,
        model: "m",
    };
    let provider = Provider::new(dialect);
    let target = Target {
        provider: &provider,
        model: "m",
        base: "",
        lenient: false,
        ask_usage: true,
    };
    let mut translated = request(&ask, &target).expect("a request");
    translated.answer.begin(form);
    let mut out = Vec::new();
    for piece in answer.chunks(cut) {
        translated.answer.feed(piece, &mut out).expect("an answer");
    }
    translated.answer.end(&mut out).expect("an end");
    serde_json::from_slice(&out).expect("JSON")
}

#[test]
fn recordings_keep_their_text_and_usage() {
    let folder = format!("{}/../../shared/fixtures", env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::var("WEIR_FIXTURES").unwrap_or(folder);
    let Ok(index) = std::fs::read(format!("{folder}/index.json")) else {
        eprintln!("skipped: there are no recordings in {folder}");
        return;
    };
    let index: Vec<Value> = serde_json::from_slice(&index).expect("JSON");
    let mut seen = 0;
    for case in index {
        let dialect = match (case["provider"].as_str(), case["api"].as_str()) {
            (_, Some("bedrock-converse")) => Dialect::Bedrock,
            (Some("azure"), Some("openai-chat")) => Dialect::Azure,
            _ => continue,
        };
        let id = case["id"].as_str().expect("an id");
        let file = case["response"].as_str().expect("a file");
        let answer = std::fs::read(format!("{folder}/{file}")).expect("an answer");
        let form = match file.rsplit('.').next() {
            Some("bin") => Form::Frames,
            Some("sse") => Form::Events,
            _ => Form::Body,
        };
        let whole = told(dialect, form, &answer, usize::MAX);
        assert_eq!(told(dialect, form, &answer, 13), whole, "{id}");
        for (name, place) in [
            ("input", "/usage/prompt_tokens"),
            ("output", "/usage/completion_tokens"),
            ("cached", "/usage/prompt_tokens_details/cached_tokens"),
        ] {
            if let Some(expected) = case["usage"][name].as_u64() {
                let said = whole.pointer(place).and_then(Value::as_u64);
                // A server that says nothing of a cache has given nothing from it.
                assert_eq!(
                    said.or((expected == 0).then_some(0)),
                    Some(expected),
                    "{id}: {name}"
                );
            }
        }
        let message = &whole["choices"][0]["message"];
        let text = message["content"].as_str().unwrap_or_default();
        let calls = message["tool_calls"].as_array().map_or(0, Vec::len);
        assert!(!text.is_empty() || calls > 0, "{id} says something");
        if form == Form::Body {
            let original: Value = serde_json::from_slice(&answer).expect("JSON");
            let said = match dialect {
                Dialect::Azure => original["choices"][0]["message"]["content"].clone(),
                _ => (original["output"]["message"]["content"]
                    .as_array()
                    .into_iter()
                    .flatten())
                .filter_map(|block| block["text"].as_str())
                .collect::<String>()
                .into(),
            };
            assert_eq!(message["content"].as_str(), said.as_str(), "{id}");
        }
        seen += 1;
    }
    assert!(seen > 0, "there are recordings of Bedrock and Azure");
    eprintln!("{seen} recordings");
}

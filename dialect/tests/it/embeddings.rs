//! Embeddings: each client's API with each upstream's.
//!
//! Answers are as in the providers' references; two of them come in another order than they were asked
//! for, with their places said.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use weir_dialect::ir::Unfit;
use weir_dialect::provider::{Dialect, Provider};
use weir_dialect::surface::{Form, Surface};
use weir_dialect::translate::{Ask, Target, Translated, request};

/// Exact in 32 bits, so that base64 loses nothing.
const VECTORS: [[f64; 3]; 2] = [[0.5, -0.25, 0.0], [0.125, 1.0, -3.5]];

struct Client {
    name: &'static str,
    surface: Surface,
    path: &'static str,
    body: Value,
    base64: bool,
}

fn clients() -> Vec<Client> {
    vec![
        Client {
            name: "openai",
            surface: Surface::Embeddings,
            path: "/v1/embeddings",
            body: json!({"model": "e", "input": ["red", "green"], "encoding_format": "float"}),
            base64: false,
        },
        Client {
            name: "openai, base64",
            surface: Surface::Embeddings,
            path: "/v1/embeddings",
            body: json!({"model": "e", "input": ["red", "green"], "encoding_format": "base64"}),
            base64: true,
        },
        Client {
            name: "gemini",
            surface: Surface::GeminiEmbed,
            path: "/v1beta/models/e:batchEmbedContents",
            body: json!({"requests": [
                {"model": "models/e", "content": {"parts": [{"text": "red"}]}},
                {"model": "models/e", "content": {"parts": [{"text": "green"}]}},
            ]}),
            base64: false,
        },
        Client {
            name: "ollama",
            surface: Surface::OllamaEmbed,
            path: "/api/embed",
            body: json!({"model": "e", "input": ["red", "green"]}),
            base64: false,
        },
    ]
}

/// Each upstream's answer, and the tokens that it reports.
fn upstreams() -> Vec<(Dialect, Value, Option<u64>)> {
    let [red, green] = VECTORS;
    let openai = json!({
        "object": "list",
        "data": [
            {"object": "embedding", "index": 1, "embedding": green},
            {"object": "embedding", "index": 0, "embedding": red},
        ],
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    });
    let vertex = |values: [f64; 3], count: u64| json!({"embeddings": {"values": values, "statistics": {"truncated": false, "token_count": count}}});
    vec![
        (Dialect::OpenAi, openai.clone(), Some(5)),
        (Dialect::Azure, openai, Some(5)),
        (
            Dialect::Gemini,
            json!({"embeddings": [{"values": red}, {"values": green}]}),
            None,
        ),
        (
            Dialect::Vertex,
            json!({"predictions": [vertex(red, 2), vertex(green, 3)], "metadata": {"billableCharacterCount": 8}}),
            Some(5),
        ),
        (
            Dialect::Ollama,
            json!({"model": "e", "embeddings": [red, green], "total_duration": 14143917,
                "load_duration": 1019500, "prompt_eval_count": 5}),
            Some(5),
        ),
        (
            Dialect::DashScope,
            json!({
                "output": {"embeddings": [
                    {"text_index": 1, "embedding": green},
                    {"text_index": 0, "embedding": red},
                ]},
                "usage": {"total_tokens": 5},
                "request_id": "1ba94ac8-e058-99bc-9cc1-7fdb37940a46",
            }),
            Some(5),
        ),
        (
            Dialect::Cohere,
            json!({
                "id": "da6e531f-54c5-4a73-bf92-f60566d8d753",
                "embeddings": {"float": [red, green]},
                "texts": ["red", "green"],
                "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 5}},
                "response_type": "embeddings_by_type",
            }),
            Some(5),
        ),
    ]
}

#[test]
fn each_client_gets_the_vectors_of_each_upstream() {
    let mut bad = String::new();
    for client in clients() {
        for (dialect, answer, tokens) in upstreams() {
            let checked = std::panic::catch_unwind(|| check(&client, dialect, &answer, tokens));
            if let Err(panic) = checked {
                let panic = crate::matrix::message(&*panic);
                let _ = writeln!(bad, "{} from {}: {panic}", client.name, dialect.as_str());
            }
        }
    }
    assert!(bad.is_empty(), "\n{bad}");
}

fn check(client: &Client, dialect: Dialect, answer: &Value, tokens: Option<u64>) {
    let translated = ask(client, dialect).unwrap_or_else(|unfit| panic!("{unfit}"));
    let body: Value = serde_json::from_slice(&translated.body).expect("JSON");
    let asked = body.to_string();
    let (red, green) = (asked.find("\"red\""), asked.find("\"green\""));
    assert!(red.is_some() && green.is_some() && red < green, "{asked}");
    let said = through(translated, answer.to_string().as_bytes(), 7);
    assert_eq!(vectors(client, &said), VECTORS, "{said}");
    let used = match client.surface {
        Surface::Embeddings => said["usage"]["prompt_tokens"].as_u64(),
        Surface::OllamaEmbed => said["prompt_eval_count"].as_u64(),
        // Its embeddings tell of no tokens everywhere.
        _ => tokens,
    };
    assert_eq!(used.unwrap_or(0), tokens.unwrap_or(0), "{said}");
}

#[test]
fn who_has_no_embeddings_says_so() {
    for client in clients() {
        for dialect in [Dialect::Anthropic, Dialect::Bedrock] {
            let refused = ask(&client, dialect).map(|_| ()).expect_err("a refusal");
            let target = dialect.as_str();
            assert_eq!(refused, Unfit::NoSuchApi { target }, "{}", client.name);
        }
    }
}

fn ask(client: &Client, dialect: Dialect) -> Result<Translated, Unfit> {
    let body = client.body.to_string();
    let ask = Ask {
        surface: client.surface,
        path: client.path,
        query: None,
        body: body.as_bytes(),
        id: "0198",
        now: 1_764_300_000,
        model: "e",
    };
    let provider = Provider {
        region: Some("europe-west1".to_owned()),
        project: Some("p".to_owned()),
        ..Provider::new(dialect)
    };
    let target = Target {
        provider: &provider,
        model: "embedder",
        base: "",
        lenient: false,
        ask_usage: true,
    };
    request(&ask, &target)
}

fn through(translated: Translated, answer: &[u8], cut: usize) -> Value {
    let mut translator = translated.answer;
    translator.begin(Form::Body);
    let mut out = Vec::new();
    for piece in answer.chunks(cut) {
        translator.feed(piece, &mut out).expect("an answer");
    }
    translator.end(&mut out).expect("an answer");
    serde_json::from_slice(&out).expect("JSON")
}

fn vectors(client: &Client, said: &Value) -> Vec<Vec<f64>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let numbers = |value: &Value| -> Vec<f64> {
        match client.base64 {
            true => {
                let text = value.as_str().expect("base64");
                let bytes = STANDARD.decode(text).expect("base64");
                let float = |it: &[u8]| f32::from_le_bytes(it.try_into().expect("4 bytes"));
                bytes.chunks(4).map(|it| f64::from(float(it))).collect()
            }
            false => list(value).iter().filter_map(Value::as_f64).collect(),
        }
    };
    match client.surface {
        Surface::Embeddings => (list(&said["data"]).iter().enumerate())
            .map(|(place, it)| {
                assert_eq!(it["index"], place);
                numbers(&it["embedding"])
            })
            .collect(),
        Surface::GeminiEmbed => (list(&said["embeddings"]).iter())
            .map(|it| numbers(&it["values"]))
            .collect(),
        _ => list(&said["embeddings"]).iter().map(numbers).collect(),
    }
}

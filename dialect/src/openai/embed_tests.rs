use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::provider::Dialect;
use crate::surface::Form;
use crate::trial::{
    Client, EMBEDDINGS, OLLAMA_EMBED, OLLAMA_EMBEDDINGS, answered_any, ask, asked, recordings,
};

const TWO: &str = r#"{"model":"e","input":["a","b"]}"#;

/// Numbers that a careless parser or writer would change.
const NUMBERS: &str =
    "[-0.006929283495992422,5e-324,0.1,0.013916396463019643,-0.014399788819632497]";

/// What each provider answers to two inputs, the second of which has these numbers.
fn answer(of: Dialect) -> String {
    match of {
        Dialect::OpenAi => format!(
            r#"{{"object":"list","data":[{{"index":1,"embedding":{NUMBERS}}},{{"index":0,"embedding":[1,2]}}],"model":"x","usage":{{"prompt_tokens":5,"total_tokens":5}}}}"#
        ),
        Dialect::Ollama => format!(
            r#"{{"model":"x","embeddings":[[1,2],{NUMBERS}],"total_duration":14143917,"prompt_eval_count":5}}"#
        ),
        Dialect::Cohere => format!(
            r#"{{"id":"a","embeddings":{{"float":[[1,2],{NUMBERS}]}},"texts":["a","b"],"meta":{{"api_version":{{"version":"2"}},"billed_units":{{"input_tokens":5}}}},"response_type":"embeddings_by_type"}}"#
        ),
        _ => format!(
            r#"{{"output":{{"embeddings":[{{"embedding":{NUMBERS},"text_index":1}},{{"embedding":[1,2],"text_index":0}}]}},"usage":{{"total_tokens":5}},"request_id":"a"}}"#
        ),
    }
}

const ALL: [Dialect; 4] = [
    Dialect::OpenAi,
    Dialect::Ollama,
    Dialect::Cohere,
    Dialect::DashScope,
];

fn got(client: Client, body: &str, from: Dialect) -> Value {
    let out = answered_any(client, body, from, &answer(from), Form::Body);
    if body == TWO {
        assert!(out.contains(&NUMBERS[1..NUMBERS.len() - 1]), "{out}");
    }
    serde_json::from_str(&out).expect("JSON")
}

#[test]
fn requests_are_said_in_each_providers_words() {
    let body = r#"{"model":"e","input":["a","b"],"dimensions":8,"encoding_format":"base64"}"#;
    let path = |to| ask(EMBEDDINGS, body, to, false).expect("a request").path;
    assert_eq!(
        (
            path(Dialect::OpenAi),
            asked(EMBEDDINGS, body, Dialect::OpenAi)
        ),
        (
            "/v1/embeddings".to_owned(),
            json!({"model": "m", "input": ["a", "b"], "dimensions": 8})
        )
    );
    assert_eq!(
        (
            path(Dialect::Ollama),
            asked(EMBEDDINGS, body, Dialect::Ollama)
        ),
        (
            "/api/embed".to_owned(),
            json!({"model": "m", "input": ["a", "b"], "dimensions": 8})
        )
    );
    assert_eq!(
        (
            path(Dialect::Cohere),
            asked(EMBEDDINGS, body, Dialect::Cohere)
        ),
        (
            "/v2/embed".to_owned(),
            json!({"model": "m", "texts": ["a", "b"], "input_type": "search_document",
                "embedding_types": ["float"], "output_dimension": 8})
        )
    );
    assert_eq!(
        (
            path(Dialect::DashScope),
            asked(EMBEDDINGS, body, Dialect::DashScope)
        ),
        (
            "/api/v1/services/embeddings/text-embedding/text-embedding".to_owned(),
            json!({"model": "m", "input": {"texts": ["a", "b"]}, "parameters": {"dimension": 8}})
        )
    );
}

#[test]
fn tokens_go_only_where_tokens_are_taken() {
    for input in ["[1,2]", "[[1,2],[3]]"] {
        let body = format!(r#"{{"input":{input}}}"#);
        ask(EMBEDDINGS, &body, Dialect::OpenAi, false).expect("a request");
        for to in [Dialect::Ollama, Dialect::Cohere, Dialect::DashScope] {
            for lenient in [false, true] {
                let refused = ask(EMBEDDINGS, &body, to, lenient).expect_err("a refusal");
                assert!(refused.to_string().contains("`input`"), "{refused}");
            }
        }
    }
    for input in ["[]", "[1.5]", "[[]]", "{}", "7"] {
        let body = format!(r#"{{"input":{input}}}"#);
        ask(EMBEDDINGS, &body, Dialect::OpenAi, true).expect_err(input);
    }
}

#[test]
fn answers_keep_their_order_numbers_and_usage() {
    for from in ALL {
        let said = got(EMBEDDINGS, TWO, from);
        assert_eq!(said["object"], "list");
        assert_eq!(said["data"][0]["index"], 0);
        assert_eq!(said["data"][0]["embedding"], json!([1.0, 2.0]), "{from:?}");
        assert_eq!(
            said["data"][1]["embedding"].as_array().map(Vec::len),
            Some(5)
        );
        assert_eq!(
            said["usage"],
            json!({"prompt_tokens": 5, "total_tokens": 5}),
            "{from:?}"
        );
        let said = got(OLLAMA_EMBED, TWO, from);
        assert_eq!(said["embeddings"][0], json!([1.0, 2.0]));
        assert_eq!(said["prompt_eval_count"], 5, "{from:?}");
    }
}

#[test]
fn base64_has_floats_of_32_bits() {
    let body = r#"{"input":["a","b"],"encoding_format":"base64"}"#;
    let said = got(EMBEDDINGS, body, Dialect::Cohere);
    let bytes = STANDARD.decode(said["data"][0]["embedding"].as_str().expect("text"));
    assert_eq!(bytes.expect("base64"), [0, 0, 128, 63, 0, 0, 0, 64]);
}

#[test]
fn the_elder_method_has_one_prompt() {
    let body = r#"{"model":"e","prompt":"a"}"#;
    assert_eq!(
        asked(OLLAMA_EMBEDDINGS, body, Dialect::OpenAi)["input"],
        json!(["a"])
    );
    let said = got(OLLAMA_EMBEDDINGS, body, Dialect::Cohere);
    assert_eq!(said, json!({"embedding": [1.0, 2.0]}));
    let body = r#"{"model":"e","prompt":"a","options":{"num_ctx":9}}"#;
    let refused = ask(OLLAMA_EMBEDDINGS, body, Dialect::Cohere, false).expect_err("a refusal");
    assert!(
        refused.to_string().contains("`options.num_ctx`"),
        "{refused}"
    );
}

#[test]
fn recordings_say_the_same_to_other_clients() {
    let Some(cases) = recordings("openai-embeddings") else {
        return;
    };
    let mut seen = 0;
    for (case, text) in cases.into_iter().filter(|(case, _)| case["status"] == 200) {
        let body = r#"{"input":"a"}"#;
        let out = answered_any(OLLAMA_EMBED, body, Dialect::OpenAi, &text, Form::Body);
        let said: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(
            said["prompt_eval_count"], case["usage"]["input"],
            "{}",
            case["id"]
        );
        assert!(
            said["embeddings"][0]
                .as_array()
                .is_some_and(|it| it.len() > 1)
        );
        seen += 1;
    }
    assert!(seen > 0);
}

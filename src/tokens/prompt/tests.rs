use serde_json::json;

use super::*;
use crate::tokens::count::{self, Encoding};

fn chat(body: serde_json::Value) -> u64 {
    prompt_tokens(Api::Chat, "gpt-4o", body.to_string().as_bytes())
}

fn words(text: &str) -> u64 {
    count::count(Encoding::O200k, text)
}

#[test]
fn the_published_example_counts_as_published() {
    // OpenAI's cookbook, "How to count tokens with tiktoken": 129 tokens for the GPT-4 and GPT-3.5
    // family, 124 for GPT-4o.
    let system = "You are a helpful, pattern-following assistant that translates corporate jargon \
                  into plain English.";
    let messages = json!([
        {"role": "system", "content": system},
        {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
        {"role": "system", "name": "example_assistant", "content": "Things working well together will increase revenue."},
        {"role": "system", "name": "example_user", "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."},
        {"role": "system", "name": "example_assistant", "content": "Let's talk later when we're less busy about how to do better."},
        {"role": "user", "content": "This late pivot means we don't have time to boil the ocean for the client deliverable."},
    ]);
    let body = json!({"messages": messages}).to_string();
    for (model, expected) in [("gpt-4o", 124), ("gpt-4-0613", 129), ("gpt-3.5-turbo", 129)] {
        assert_eq!(
            prompt_tokens(Api::Chat, model, body.as_bytes()),
            expected,
            "{model}"
        );
    }
}

#[test]
fn the_published_tools_count_as_published() {
    // The same source: 101 tokens for GPT-4o, 105 for GPT-4 and GPT-3.5.
    let body = json!({
        "messages": [
            {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
            {"role": "user", "content": "What's the weather like in San Francisco?"},
        ],
        "tools": [{"type": "function", "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {"type": "object", "required": ["location"], "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "unit": {"type": "string", "description": "The unit of temperature to return", "enum": ["celsius", "fahrenheit"]},
            }},
        }}],
    })
    .to_string();
    for (model, expected) in [("gpt-4o", 101), ("gpt-4", 105), ("gpt-3.5-turbo", 105)] {
        assert_eq!(
            prompt_tokens(Api::Chat, model, body.as_bytes()),
            expected,
            "{model}"
        );
    }
}

#[test]
fn calls_and_parts_count_by_their_text() {
    let one = |message: serde_json::Value| chat(json!({"messages": [message]})) - 6;
    let parts = json!([{"type": "text", "text": "Hello"}, {"type": "text", "text": " world"}]);
    assert_eq!(
        one(json!({"content": parts})),
        words("Hello") + words(" world")
    );
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{\"zone\":\"UTC\"}"}});
    let expected = words("assistant") + 1 + words("now") + words("{\"zone\":\"UTC\"}");
    let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    assert_eq!(one(message), expected);
    assert_eq!(
        one(json!({"role": "tool", "tool_call_id": "call_1", "content": "12:00"})),
        words("tool") + words("12:00")
    );
}

#[test]
fn values_that_are_written_as_text_count_as_the_shortest_json() {
    let value = json!({"a": [1, -2.5, 1e300, true, null, "q\"\n"], "b": {}, "c": []});
    let function = json!({"name": "f", "arguments": value});
    let message = json!({"tool_calls": [{"function": function}]});
    let expected = 6 + 1 + words("f") + words(&value.to_string());
    assert_eq!(chat(json!({"messages": [message]})), expected);
}

/// What OpenAI reported for recorded requests.
#[test]
fn recorded_requests_count_as_they_were_billed() {
    let beside = || concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/fixtures").to_owned();
    let fixtures = std::env::var("WEIR_FIXTURES").unwrap_or_else(|_| beside());
    let Ok(index) = std::fs::read(format!("{fixtures}/index.json")) else {
        println!("skipped: no recordings at {fixtures}");
        return;
    };
    let index: Vec<serde_json::Value> = serde_json::from_slice(&index).expect("the index is JSON");
    let mut compared = 0;
    for case in index.iter().filter(|case| case["provider"] == "openai") {
        let api = match case["api"].as_str() {
            Some("openai-chat") => Api::Chat,
            Some("openai-completions") => Api::Completions,
            Some("openai-embeddings") => Api::Embeddings,
            _ => continue,
        };
        let (Some(model), Some(path), Some(billed), Some(true)) = (
            case["model"].as_str(),
            case["request"].as_str(),
            case["usage"]["input"].as_u64(),
            case["request_recorded"].as_bool(),
        ) else {
            continue;
        };
        let body = std::fs::read(format!("{fixtures}/{path}")).expect("the index names it");
        let tokens = prompt_tokens(api, model, &body);
        assert!(
            tokens.abs_diff(billed) <= 1,
            "{}: {tokens}, billed {billed}",
            case["id"]
        );
        compared += 1;
    }
    assert!(compared > 0, "no recording was compared");
}

#[test]
fn special_tokens_written_out_are_ordinary_text() {
    let body = json!({"messages": [{"role": "user", "content": "<|endoftext|>".repeat(1000)}]});
    assert!(chat(body) > 6000);
}

#[test]
fn images_count_by_size_and_never_as_text() {
    // A PNG of 1024 × 1024, and a megabyte behind its header.
    let header = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAABAAAAAQA";
    let url = format!("{header}{}", "QUJD".repeat(1 << 18));
    let one = |image: serde_json::Value| {
        let part = json!({"type": "image_url", "image_url": image});
        chat(json!({"messages": [{"content": [part]}]})) - 6
    };
    assert_eq!(one(json!({"url": url})), 765);
    assert_eq!(one(json!({"detail": "low", "url": url})), 85);
    assert_eq!(one(json!(url)), 765);
    assert_eq!(
        one(json!({"url": "https://example.com/a.png"})),
        85 + 8 * 170
    );
    let audio = json!({"type": "input_audio", "input_audio": {"data": "QUJD".repeat(1 << 18)}});
    assert_eq!(chat(json!({"messages": [{"content": [audio]}]})), 6);
}

#[test]
fn a_broken_body_with_an_image_is_estimated_without_the_image() {
    let data = "QUJD".repeat(1 << 18);
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"lone \ud83d half"}},
        {{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}]}}]}}"#
    );
    let tokens = prompt_tokens(Api::Chat, "gpt-4o", body.as_bytes());
    assert!((1445..1600).contains(&tokens), "{tokens}");
}

#[test]
fn half_a_surrogate_pair_does_not_lose_the_request() {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(200);
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{text}\ud83d"}}]}}"#);
    let tokens = prompt_tokens(Api::Chat, "gpt-4o", body.as_bytes());
    let exact = words(&text);
    assert!(
        tokens.abs_diff(exact) < exact / 4,
        "{tokens}, about {exact}"
    );
}

#[test]
fn inputs_count_as_texts_or_as_numbers() {
    let embedded = |input: serde_json::Value| {
        let body = json!({"model": "text-embedding-3-small", "input": input}).to_string();
        prompt_tokens(Api::Embeddings, "text-embedding-3-small", body.as_bytes())
    };
    let text = "Grüße aus München";
    let tokens = count::count(Encoding::Cl100k, text);
    assert_eq!(embedded(json!(text)), tokens);
    assert_eq!(embedded(json!([text, text])), 2 * tokens);
    assert_eq!(embedded(json!([1, 2, 3])), 3);
    assert_eq!(embedded(json!([[1, 2, 3], [4]])), 4);
    let body = json!({"prompt": ["Say this", [1, 2]], "suffix": " end"}).to_string();
    assert_eq!(
        prompt_tokens(Api::Completions, "gpt-4o", body.as_bytes()),
        words("Say this") + 2 + words(" end"),
    );
}

#[test]
fn what_is_of_another_shape_is_skipped() {
    for message in [
        json!(null),
        json!(3),
        json!("text"),
        json!([[]]),
        json!({"role": 3, "content": {"text": {}}, "tool_calls": {"a": 1}, "name": null}),
        json!({"content": [null, 1, [], {"image_url": 1, "text": []}]}),
    ] {
        chat(json!({"messages": [message], "tools": [1, {"function": []}], "functions": {}}));
        chat(json!({"messages": message}));
    }
    let names = r#"{"messages":[{"name":"","name":"","name":"","name":"","name":"","name":""}]}"#;
    prompt_tokens(Api::Chat, "gpt-3.5-turbo-0301", names.as_bytes());
}

#[test]
fn any_bytes_are_answered() {
    let whole = json!({
        "messages": [{"role": "user", "content": [{"type": "text", "text": "ä\u{1f600}\n"}]}],
        "tools": [{"function": {"name": "f", "parameters": {"properties": {"a": {"enum": [1, "b"]}}}}}],
    })
    .to_string()
    .into_bytes();
    for end in 0..whole.len() {
        let tokens = prompt_tokens(Api::Chat, "gpt-4o", &whole[..end]);
        assert_eq!(tokens, estimate(&whole[..end]), "cut at {end}");
    }
    for at in 0..whole.len() {
        for byte in [0, b'"', b'{', b'\\', 0xff] {
            let mut changed = whole.clone();
            changed[at] = byte;
            prompt_tokens(Api::Chat, "gpt-4o", &changed);
        }
    }
    let deep = [b"{\"messages\":".as_slice(), &b"[".repeat(100_000)].concat();
    assert!(prompt_tokens(Api::Chat, "gpt-4o", &deep) > 0);
}

#[test]
fn a_body_without_a_prompt_is_estimated() {
    let body = br#"{"input": "of another interface", "model": "gpt-4o"}"#;
    assert_eq!(prompt_tokens(Api::Chat, "gpt-4o", body), estimate(body));
}

use serde_json::{Value, json};

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

/// Recorded requests with what was billed for them: interface, model, body, tokens.
fn recordings() -> Vec<(serde_json::Value, Vec<u8>, u64)> {
    let beside = || concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/fixtures").to_owned();
    let fixtures = std::env::var("WEIR_FIXTURES").unwrap_or_else(|_| beside());
    let Ok(index) = std::fs::read(format!("{fixtures}/index.json")) else {
        println!("skipped: no recordings at {fixtures}");
        return Vec::new();
    };
    let index: Vec<serde_json::Value> = serde_json::from_slice(&index).expect("the index is JSON");
    let cases = index.into_iter().filter_map(|case| {
        let billed = case["usage"]["input"].as_u64()?;
        let recorded = case["request_recorded"].as_bool()?;
        let path = format!("{fixtures}/{}", case["request"].as_str()?);
        let body = std::fs::read(path).expect("the index names it");
        recorded.then_some((case, body, billed))
    });
    cases.collect()
}

#[test]
fn recorded_requests_of_other_dialects_are_about_what_was_billed() {
    let mut errors = Vec::new();
    for (case, body, billed) in recordings() {
        let api = match case["api"].as_str().unwrap_or_default() {
            "openai-chat" => Api::Chat,
            "openai-responses" => Api::Responses,
            "anthropic-messages" => Api::Messages,
            "ollama-chat" => Api::Ollama,
            "dashscope-generation" => Api::DashScope,
            "bedrock-converse" => Api::Converse,
            it if it.starts_with("gemini") => Api::Gemini,
            _ => continue,
        };
        // Servers put in introductions of tools, and what those found.
        let known: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let model = case["model"].as_str().unwrap_or_default();
        let prompt = prompt(api, model, &body);
        let introduced = known.get("tools").is_some() || model.starts_with("compound");
        if introduced || prompt.media || known.get("parameters").is_some() {
            continue;
        }
        let estimate = family(model).seeded(&prompt);
        errors.push(estimate.abs_diff(billed) * 100 / billed);
        println!("{}: {estimate}, billed {billed}", case["id"]);
    }
    errors.sort_unstable();
    let Some(middle) = errors.get(errors.len() / 2) else {
        return;
    };
    println!("{} requests, {middle} % off at the median", errors.len());
    assert!(errors.len() > 20 && *middle <= 15, "{errors:?}");
}

/// What OpenAI reported for recorded requests.
#[test]
fn recorded_requests_count_as_they_were_billed() {
    let recordings = recordings();
    if recordings.is_empty() {
        return;
    }
    let mut compared = 0;
    for (case, body, billed) in recordings {
        let api = match (case["provider"].as_str(), case["api"].as_str()) {
            (Some("openai"), Some("openai-chat")) => Api::Chat,
            (Some("openai"), Some("openai-completions")) => Api::Completions,
            (Some("openai"), Some("openai-embeddings")) => Api::Embeddings,
            _ => continue,
        };
        let tokens = prompt_tokens(api, case["model"].as_str().unwrap_or_default(), &body);
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
    // 786,432 bytes are 50 seconds of 32 tokens.
    assert_eq!(chat(json!({"messages": [{"content": [audio]}]})), 6 + 1600);
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
fn nothing_hides_a_text_behind_half_a_character() {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(200);
    let exact = words(&text);
    for hidden in [
        format!(r"\ud800;base64,{text}"),
        format!(r"\udfff data:image/png;base64,QUJD {text}"),
        format!("\u{1};base64,{text}"),
        format!(r"\ud800\u0041 ;base64,{text}"),
    ] {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"{hidden}"}}]}}"#);
        let tokens = prompt_tokens(Api::Chat, "gpt-4o", body.as_bytes());
        assert!(
            (exact..exact + 60).contains(&tokens),
            "{tokens}, not {exact}: {hidden:.40}"
        );
    }
    // Nor in what nobody can read.
    for broken in [
        format!(r#"{{"messages":[{{"content":";base64,{text}"}}]"#),
        format!(r#"{}{{"messages":";base64,{text}"}}"#, "[".repeat(200)),
    ] {
        let tokens = prompt_tokens(Api::Chat, "gpt-4o", broken.as_bytes());
        assert!(tokens > exact / 4 * 3, "{tokens} of {exact}");
    }
    let body = b"{\"messages\":[{\"content\":\"\xff;base64,one two\"}]}";
    let mended = "{\"messages\":[{\"content\":\"\u{fffd};base64,one two\"}]}";
    let tokens = |body: &[u8]| prompt_tokens(Api::Chat, "gpt-4o", body);
    assert_eq!(tokens(body), tokens(mended.as_bytes()));
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
// === each dialect: what is text, by hand, and the rules around it ===

/// The tokens of texts, one by one.
fn sum(texts: &[&str]) -> u64 {
    texts.iter().map(|text| words(text)).sum()
}

/// A model that is counted by the published rules, though it speaks another dialect.
#[track_caller]
fn assert_prompt(api: Api, body: serde_json::Value, fixed: u64, texts: &[&str]) {
    let prompt = prompt(api, "gpt-4o", body.to_string().as_bytes());
    assert_eq!(
        (prompt.fixed, prompt.text),
        (fixed, sum(texts)),
        "{api:?}: {body}"
    );
    assert!(prompt.counted);
}

const MESSAGE: u64 = 3;
const REPLY: u64 = 3;

#[test]
fn responses_count_by_their_items() {
    assert_prompt(
        Api::Responses,
        json!({"model": "gpt-4o", "instructions": "Be brief.", "input": "Hello there"}),
        // A text is a message of the user, and a role is a token.
        2 * MESSAGE + 1 + REPLY,
        &["Be brief.", "Hello there"],
    );
    assert_prompt(
        Api::Responses,
        json!({"input": [
            {"role": "user", "content": [{"type": "input_text", "text": "What is the time?"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "A clock is needed"}], "encrypted_content": "gAAAAA".repeat(500)},
            {"type": "function_call", "call_id": "call_1", "name": "now", "arguments": "{\"zone\":\"UTC\"}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "12:00"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Noon", "annotations": []}]},
        ]}),
        5 * MESSAGE + 1 + REPLY,
        &[
            "user",
            "What is the time?",
            "A clock is needed",
            "now",
            "{\"zone\":\"UTC\"}",
            "12:00",
            "assistant",
            "Noon",
        ],
    );
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}});
    assert_prompt(
        Api::Responses,
        json!({"input": "Hi", "text": {"format": {"type": "json_schema", "name": "Person", "schema": schema}}}),
        MESSAGE + 1 + REPLY,
        &["Hi", "Person", &schema.to_string()],
    );
}

#[test]
fn anthropic_messages_count_by_their_blocks() {
    assert_prompt(
        Api::Messages,
        json!({
            "system": [{"type": "text", "text": "You are terse.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": "What is the weather?"},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "I must look", "signature": "EqQB".repeat(200)},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
                ]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Sunny"}]}]},
            ],
            "max_tokens": 100,
        }),
        4 * MESSAGE + 1 + REPLY,
        &[
            "You are terse.",
            "user",
            "What is the weather?",
            "assistant",
            "I must look",
            "Let me see.",
            "weather",
            "{\"city\":\"Rome\"}",
            "user",
            "Sunny",
        ],
    );
    let tool = json!({"name": "get_weather", "description": "Gets it.", "input_schema": {"type": "object", "properties": {"city": {"type": "string", "description": "Which."}}}});
    assert_prompt(
        Api::Messages,
        json!({"messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}),
        MESSAGE + REPLY + 12 + 7 + 3 + 3,
        &["user", "Hi", "get_weather:Gets it", "city:string:Which"],
    );
}

#[test]
fn gemini_contents_count_by_their_parts() {
    assert_prompt(
        Api::Gemini,
        json!({
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "What is"}, {"text": " the time?"}]},
                {"role": "model", "parts": [{"functionCall": {"name": "now", "args": {"zone": "UTC"}}, "thoughtSignature": "CpEC".repeat(300)}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "now", "response": {"time": "12:00"}}}]},
            ],
            "generationConfig": {"maxOutputTokens": 10},
        }),
        4 * MESSAGE + 2 + REPLY,
        &[
            "Be brief.",
            "user",
            "What is",
            " the time?",
            "model",
            "now",
            "{\"zone\":\"UTC\"}",
            "user",
            "now",
            "{\"time\":\"12:00\"}",
        ],
    );
    let tools = json!({"functionDeclarations": [
        {"name": "a", "description": "First", "parameters": {"type": "OBJECT", "properties": {"x": {"type": "STRING"}}}},
        {"name": "b"},
    ]});
    for tools in [tools.clone(), json!([tools])] {
        assert_prompt(
            Api::Gemini,
            json!({"contents": {"parts": [{"text": "Hi"}]}, "tools": tools}),
            MESSAGE + REPLY + 12 + 2 * 7 + 3 + 3,
            &["Hi", "a:First", "x:STRING:", "b"],
        );
    }
    assert_prompt(
        Api::Gemini,
        json!({"requests": [{"content": {"parts": [{"text": "one"}]}}, {"content": {"parts": [{"text": "two"}]}}]}),
        0,
        &["one", "two"],
    );
    // Nothing but the parts is counted for Gemini itself.
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "Hello there"}]}]});
    let own = prompt(Api::Gemini, "gemini-2.0-flash", body.to_string().as_bytes());
    assert_eq!((own.fixed, own.text), (0, words("Hello there")));
}

#[test]
fn ollama_counts_chats_and_prompts() {
    assert_prompt(
        Api::Ollama,
        json!({"messages": [{"role": "user", "content": "Why is the sky blue?"}], "format": "json"}),
        MESSAGE + REPLY,
        &["user", "Why is the sky blue?"],
    );
    assert_prompt(
        Api::Ollama,
        json!({"system": "Be brief.", "prompt": "Why is the sky blue?", "suffix": " end", "context": [1, 2, 3]}),
        MESSAGE + 3,
        &["Be brief.", "Why is the sky blue?", " end"],
    );
}

#[test]
fn dashscope_cohere_and_converse_count_by_their_fields() {
    let messages = json!([{"role": "user", "content": "Hi there"}]);
    assert_prompt(
        Api::DashScope,
        json!({"input": {"messages": messages}, "parameters": {"tools": [{"type": "function", "function": {"name": "f"}}]}}),
        MESSAGE + REPLY + 12 + 7,
        &["user", "Hi there", "f"],
    );
    assert_prompt(
        Api::DashScope,
        json!({"input": {"prompt": "Hi there"}}),
        0,
        &["Hi there"],
    );
    assert_prompt(
        Api::DashScope,
        json!({"input": {"texts": ["one", "two"]}}),
        0,
        &["one", "two"],
    );
    assert_prompt(
        Api::Cohere,
        json!({"messages": [{"role": "tool", "tool_call_id": "x", "content": [{"type": "document", "document": {"id": "1", "data": "Sunny"}}]}], "documents": [{"data": {"title": "Rome"}}, "plain"]}),
        MESSAGE + REPLY,
        &["tool", "Sunny", "{\"title\":\"Rome\"}", "plain"],
    );
    assert_prompt(
        Api::Cohere,
        json!({"texts": ["one", "two"], "input_type": "search_query"}),
        0,
        &["one", "two"],
    );
    assert_prompt(
        Api::Cohere,
        json!({"query": "where?", "documents": ["here", {"text": "there"}]}),
        0,
        &["where?", "here", "there"],
    );
    assert_prompt(
        Api::Converse,
        json!({
            "system": [{"text": "Be brief."}],
            "messages": [
                {"role": "user", "content": [{"text": "Time?"}]},
                {"role": "assistant", "content": [{"toolUse": {"toolUseId": "1", "name": "now", "input": {"zone": "UTC"}}}]},
                {"role": "user", "content": [{"toolResult": {"toolUseId": "1", "content": [{"json": {"time": 12}}]}}]},
            ],
            "toolConfig": {"tools": [{"toolSpec": {"name": "now", "inputSchema": {"json": {"type": "object", "properties": {"zone": {"type": "string"}}}}}}]},
        }),
        4 * MESSAGE + 1 + REPLY + 12 + 7 + 3 + 3,
        &[
            "Be brief.",
            "user",
            "Time?",
            "assistant",
            "now",
            "{\"zone\":\"UTC\"}",
            "user",
            "{\"time\":12}",
            "now",
            "zone:string:",
        ],
    );
}

#[test]
fn images_and_documents_of_every_dialect_count_by_rule_and_never_as_text() {
    let big = "QUJD".repeat(1 << 16);
    // A PNG of 1024 × 1024.
    let png = format!("iVBORw0KGgoAAAANSUhEUgAABAAAAAQA{big}");
    let user = |part: serde_json::Value| json!([{"role": "user", "content": [part]}]);
    let four = [
        (
            Api::Responses,
            json!({"input": user(json!({"type": "input_image", "image_url": format!("data:image/png;base64,{png}")}))}),
        ),
        (
            Api::Messages,
            json!({"messages": user(json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png}}))}),
        ),
        (
            Api::Gemini,
            json!({"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": png}}]}]}),
        ),
        (
            Api::Gemini,
            json!({"contents": [{"role": "user", "parts": [{"inline_data": {"data": png, "mime_type": "image/png"}}]}]}),
        ),
        (
            Api::Ollama,
            json!({"messages": [{"role": "user", "images": [png]}]}),
        ),
        (
            Api::DashScope,
            json!({"input": {"messages": user(json!({"image": format!("data:image/png;base64,{png}")}))}}),
        ),
        (
            Api::Cohere,
            json!({"messages": user(json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{png}")}}))}),
        ),
        (
            Api::Converse,
            json!({"messages": user(json!({"image": {"format": "png", "source": {"bytes": png}}}))}),
        ),
    ];
    for (api, body) in four {
        let prompt = prompt(api, "gpt-4o", body.to_string().as_bytes());
        assert!(prompt.media, "{api:?}");
        assert_eq!(prompt.tokens() - MESSAGE - REPLY - 1, 765, "{api:?}");
        let claude = super::prompt(api, "claude-sonnet-4-5", body.to_string().as_bytes());
        assert_eq!(claude.fixed - MESSAGE - REPLY, 1399, "{api:?}");
    }
    let pdf = [
        (
            Api::Messages,
            json!({"messages": user(json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": big}}))}),
        ),
        (
            Api::Gemini,
            json!({"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "application/pdf", "data": big}}]}]}),
        ),
        (
            Api::Responses,
            json!({"input": user(json!({"type": "input_file", "filename": "a.pdf", "file_data": format!("data:application/pdf;base64,{big}")}))}),
        ),
        (
            Api::Chat,
            json!({"messages": user(json!({"type": "file", "file": {"file_data": format!("data:application/pdf;base64,{big}")}}))}),
        ),
    ];
    for (api, body) in pdf {
        let prompt = prompt(api, "gpt-4o", body.to_string().as_bytes());
        // 196,608 bytes are three usual pages.
        assert!(prompt.media, "{api:?}");
        assert_eq!(prompt.tokens() - MESSAGE - REPLY - 1, 3 * 1500, "{api:?}");
    }
    // A document that is text counts as text, wherever its type stands.
    for source in [
        r#"{"type":"text","media_type":"text/plain","data":"Hello there"}"#,
        r#"{"data":"Hello there","media_type":"text/plain","type":"text"}"#,
    ] {
        let body = format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"document","source":{source}}}]}}]}}"#
        );
        let prompt = prompt(Api::Messages, "gpt-4o", body.as_bytes());
        assert_eq!(
            (prompt.text, prompt.media),
            (sum(&["user", "Hello there"]), false)
        );
    }
}

#[test]
fn no_dialect_falls_over_garbage_and_work_grows_with_length_alone() {
    let apis = [
        Api::Chat,
        Api::Completions,
        Api::Embeddings,
        Api::Responses,
        Api::Messages,
        Api::Gemini,
        Api::Ollama,
        Api::DashScope,
        Api::Cohere,
        Api::Converse,
    ];
    let keys = [
        "messages",
        "input",
        "contents",
        "content",
        "parts",
        "system",
        "instructions",
        "prompt",
        "tools",
        "functionDeclarations",
        "function",
        "parameters",
        "properties",
        "enum",
        "text",
        "source",
        "data",
        "inlineData",
        "image_url",
        "url",
        "name",
        "arguments",
        "requests",
        "generationConfig",
        "max_tokens",
        "n",
        "documents",
        "document",
        "toolConfig",
        "images",
        "role",
        "type",
    ];
    let mut state = 11_u64;
    let mut roll = |most: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % most
    };
    for round in 0..600 {
        // Values of every kind where others are expected.
        let mut body = String::new();
        let mut open = Vec::new();
        for _ in 0..60 {
            if open.last() == Some(&'}') {
                body.push_str(&format!("\"{}\":", keys[roll(keys.len())]));
            }
            match roll(6) {
                0 if open.len() < 40 => {
                    body.push('[');
                    open.push(']');
                    continue;
                }
                1 | 2 if open.len() < 40 => {
                    body.push('{');
                    open.push('}');
                    continue;
                }
                3 => body.push_str("\"data:image/png;base64,iVBORw0KGgo\""),
                4 => body.push_str(["-1e300", "18446744073709551615", "null", "true"][roll(4)]),
                _ => body.push_str("\"ä\\ud83d\\ude00 text\""),
            }
            while roll(3) == 0
                && let Some(close) = open.pop()
            {
                body.push(close);
            }
            if open.is_empty() {
                break;
            }
            body.push(',');
        }
        let trailing = body.trim_end_matches([',', ':']).to_owned();
        let mut whole = trailing
            .strip_suffix("\":")
            .map_or(trailing.clone(), str::to_owned);
        while let Some(close) = open.pop() {
            whole.push(close);
        }
        for api in apis {
            for body in [&body, &whole] {
                let tokens = prompt_tokens(api, "gpt-4o", body.as_bytes());
                // The most is a list of images without data.
                let most = 100 * (body.len() as u64 + 100);
                assert!(tokens <= most, "{round} {api:?} {tokens}: {body}");
            }
        }
    }
}

#[test]
fn what_is_more_than_text_in_messages_is_known_to_be_guessed() {
    let image = "data:image/png;base64,QUJD";
    let text = json!([{"role": "user", "content": "Hi"}]);
    let part = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
    let with = |api_field: &str, field: &str, value: Value| json!({api_field: text, field: value});
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let call = json!({"messages": [{"role": "assistant", "tool_calls":
        [{"function": {"name": "f", "arguments": "{}"}}]}]});
    let cases = [
        (Api::Chat, json!({"messages": text}), false),
        (
            Api::Chat,
            part(json!({"type": "text", "text": "Hi"})),
            false,
        ),
        (Api::Chat, part(json!({"image_url": {"url": image}})), true),
        (Api::Chat, part(json!({"file": {"file_id": "f-1"}})), true),
        (
            Api::Chat,
            part(json!({"input_audio": {"data": "QUJD"}})),
            true,
        ),
        (Api::Chat, with("messages", "tools", tools), true),
        (Api::Chat, with("messages", "tools", json!([])), false),
        (
            Api::Chat,
            with("messages", "web_search_options", json!({})),
            true,
        ),
        (Api::Chat, call, true),
        (Api::Responses, json!({"input": "Hi"}), false),
        (
            Api::Responses,
            with("input", "previous_response_id", json!("resp_1")),
            true,
        ),
        (
            Api::Responses,
            with("input", "previous_response_id", Value::Null),
            false,
        ),
        (
            Api::Responses,
            with("input", "conversation", json!("conv_1")),
            true,
        ),
        (
            Api::Responses,
            with("input", "conversation", json!({"id": "conv_1"})),
            true,
        ),
        (
            Api::Responses,
            with("input", "prompt", json!({"id": "pmpt_1"})),
            true,
        ),
        (
            Api::Responses,
            json!({"input": [{"type": "item_reference", "id": "1"}]}),
            true,
        ),
        (
            Api::Responses,
            json!({"input": [{"content": [{"type": "input_file", "file_id": "1"}]}]}),
            true,
        ),
        (
            Api::Messages,
            part(json!({"type": "document", "source": {"data": "QUJD"}})),
            true,
        ),
        (
            Api::Messages,
            with("messages", "container", json!("c")),
            true,
        ),
        (
            Api::Gemini,
            with("contents", "cachedContent", json!("cachedContents/1")),
            true,
        ),
        (Api::Embeddings, json!({"input": [1, 2, 3]}), false),
    ];
    for (api, body, guessed) in cases {
        let prompt = prompt(api, "gpt-4o", body.to_string().as_bytes());
        assert_eq!(prompt.guessed, guessed, "{api:?}: {body}");
    }
}

#[test]
fn no_part_of_a_prompt_is_free_for_where_it_stands() {
    let text = "a weir is a low dam ".repeat(100);
    let chat = r#""messages":[{"role":"user","content":"hi"}]"#;
    let cohere = r#""message":"hi""#;
    for (api, hidden) in [
        (
            Api::Chat,
            format!(r#"{{{chat},"documents":[{{"title":"t","text":"{text}"}}]}}"#),
        ),
        (Api::Chat, format!(r#"{{{chat},"chat_template":"{text}"}}"#)),
        (
            Api::Ollama,
            format!(r#"{{"prompt":"hi","template":"{text}"}}"#),
        ),
        (
            Api::Cohere,
            format!(r#"{{{cohere},"chat_history":[{{"role":"USER","message":"{text}"}}]}}"#),
        ),
        (Api::Cohere, format!(r#"{{{cohere},"preamble":"{text}"}}"#)),
        (
            Api::Converse,
            format!(
                r#"{{"messages":[{{"role":"user","content":[{{"toolResult":{{"content":[{{"json":["{text}"]}}]}}}}]}}]}}"#
            ),
        ),
        (
            Api::DashScope,
            format!(r#"{{"input":{{"prompt":"hi","history":[{{"user":"{text}","bot":"yes"}}]}}}}"#),
        ),
    ] {
        let tokens = prompt_tokens(api, "m", hidden.as_bytes());
        assert!(
            (550..800).contains(&tokens),
            "{tokens}: {api:?} {}",
            &hidden[..60]
        );
    }
}

//! Whole ways through the dialect: requests and answers, as other APIs' clients and upstreams see them.

use serde_json::{Value, json};

use crate::ir::Unfit;
use crate::provider::{Dialect, Provider};
use crate::surface::{Form, Surface};
use crate::translate::{Ask, Target, Translated, request};

fn ask<'a>(surface: Surface, path: &'a str, query: Option<&'a str>, body: &'a str) -> Ask<'a> {
    Ask {
        surface,
        path,
        query,
        body: body.as_bytes(),
        id: "1",
        now: 7,
        model: "m",
    }
}

fn to(dialect: Dialect, model: &str, ask: &Ask<'_>, lenient: bool) -> Result<Translated, Unfit> {
    let mut provider = Provider::new(dialect);
    provider.project = Some("p".into());
    provider.region = Some("europe-west1".into());
    let target = Target {
        provider: &provider,
        model,
        base: "",
        lenient,
        ask_usage: true,
    };
    request(ask, &target)
}

/// A chat completion's request at Gemini.
fn chat(body: &Value) -> Result<Translated, Unfit> {
    let body = body.to_string();
    let ask = ask(Surface::Chat, "/v1/chat/completions", None, &body);
    to(Dialect::Gemini, "gemini-2.5-flash", &ask, false)
}

/// A Gemini client's request at a server that speaks OpenAI's dialect.
fn gemini(method: &str, query: Option<&str>, body: &Value) -> Result<Translated, Unfit> {
    let (path, body) = (format!("/v1beta/models/m:{method}"), body.to_string());
    let surface = match method.contains("mbed") {
        true => Surface::GeminiEmbed,
        false => Surface::Gemini,
    };
    to(
        Dialect::OpenAi,
        "gpt",
        &ask(surface, &path, query, &body),
        false,
    )
}

fn body(translated: &Translated) -> Value {
    serde_json::from_slice(&translated.body).expect("JSON")
}

fn answer(mut translated: Translated, form: Form, answer: &str, cut: usize) -> String {
    let mut out = Vec::new();
    translated.answer.begin(form);
    for piece in answer.as_bytes().chunks(cut) {
        translated.answer.feed(piece, &mut out).expect("a piece");
    }
    translated.answer.end(&mut out).expect("an end");
    String::from_utf8(out).expect("text")
}

fn whole(translated: Translated, said: &Value) -> Value {
    let out = answer(translated, Form::Body, &said.to_string(), 64);
    serde_json::from_str(&out).expect("JSON")
}

#[test]
fn a_chat_is_said_in_geminis_words() {
    let translated = chat(&json!({
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"},
                 "extra_content": {"google": {"thought_signature": "c2ln"}}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
            ]},
            {"role": "tool", "tool_call_id": "b", "content": "{\"ok\": true}"},
            {"role": "tool", "tool_call_id": "a", "content": "18 degrees"},
            {"role": "user", "content": "And?"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "additionalProperties": false}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"$ref": "#/$defs/a"}}},
        "max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 4,
        "stop": "END", "n": 2, "logprobs": true, "top_logprobs": 2, "presence_penalty": 0.1,
        "reasoning_effort": "medium", "safety_settings": [{"category": "c", "threshold": "t"}],
    }))
    .expect("a request");
    assert_eq!(
        translated.path,
        "/v1beta/models/gemini-2.5-flash:generateContent"
    );
    assert_eq!(translated.query, None);
    let wanted = json!({
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [
                {"text": "What is this?"},
                {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
            ]},
            {"role": "model", "parts": [
                {"functionCall": {"name": "f", "args": {"x": 1}, "id": "a"}, "thoughtSignature": "c2ln"},
                {"functionCall": {"name": "g", "args": {}, "id": "b"}},
            ]},
            {"role": "user", "parts": [
                {"functionResponse": {"name": "g", "response": {"ok": true}, "id": "b"}},
                {"functionResponse": {"name": "f", "response": {"output": "18 degrees"}, "id": "a"}},
                {"text": "And?"},
            ]},
        ],
        "tools": [{"functionDeclarations": [
            {"name": "f", "parametersJsonSchema": {"type": "object", "additionalProperties": false}},
        ]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "generationConfig": {
            "mediaResolution": "MEDIA_RESOLUTION_LOW",
            "temperature": 0.5, "topP": 0.9, "topK": 3, "maxOutputTokens": 9,
            "stopSequences": ["END"], "seed": 4, "candidateCount": 2, "presencePenalty": 0.1,
            "responseLogprobs": true, "logprobs": 2,
            "responseMimeType": "application/json", "responseJsonSchema": {"$ref": "#/$defs/a"},
            "thinkingConfig": {"thinkingBudget": 8192, "includeThoughts": true},
        },
        "safetySettings": [{"category": "c", "threshold": "t"}],
    });
    assert_eq!(body(&translated), wanted);
}

#[test]
fn what_gemini_has_no_word_for_is_named() {
    let mut said = json!({"messages": [{"role": "user", "content": "Hi"}]});
    for (name, value) in [
        ("parallel_tool_calls", json!(false)),
        ("logit_bias", json!({"1": 2})),
    ] {
        let mut with = said.clone();
        with[name] = value;
        let unfit = chat(&with).expect_err("a refusal");
        let wanted = Unfit::Inexpressible {
            at: name.into(),
            target: "gemini",
        };
        assert_eq!(unfit, wanted);
    }
    said["messages"] = json!([{"role": "tool", "tool_call_id": "x", "content": ""}]);
    let unfit = chat(&said).expect_err("a refusal");
    assert!(matches!(unfit, Unfit::Invalid { at, .. } if at == "messages[0]"));
}

#[test]
fn lenient_routes_list_what_was_left_out() {
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "user": "u"}).to_string();
    let ask = ask(Surface::Chat, "/v1/chat/completions", None, &body);
    let translated = to(Dialect::Gemini, "gemini-2.5-flash", &ask, true).expect("a request");
    assert_eq!(translated.dropped, ["user"]);
}

#[test]
fn vertex_has_paths_of_its_own() {
    let said = r#"{"messages":[{"role":"user","content":"Hi"}],"stream":true}"#;
    let ask = ask(Surface::Chat, "/v1/chat/completions", None, said);
    for (model, path) in [
        ("gemini-2.5-pro", "publishers/google/models/gemini-2.5-pro"),
        (
            "google/gemini-2.5-pro",
            "publishers/google/models/gemini-2.5-pro",
        ),
        ("endpoints/12", "endpoints/12"),
    ] {
        let translated = to(Dialect::Vertex, model, &ask, false).expect("a request");
        assert_eq!(
            translated.path,
            format!("/v1/projects/p/locations/europe-west1/{path}:streamGenerateContent")
        );
        assert_eq!(translated.query.as_deref(), Some("alt=sse"));
    }
}

#[test]
fn calls_of_other_models_pass_where_a_seal_is_wanted() {
    let said = json!({"messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ]},
    ]})
    .to_string();
    let ask = ask(Surface::Chat, "/v1/chat/completions", None, &said);
    let translated = to(Dialect::Gemini, "gemini-3-pro-preview", &ask, false).expect("a request");
    let parts = body(&translated)["contents"][1]["parts"].take();
    assert_eq!(
        parts[0]["thoughtSignature"],
        "skip_thought_signature_validator"
    );
    assert_eq!(parts[1].get("thoughtSignature"), None);
}

#[test]
fn a_stream_of_gemini_is_one_of_openai_however_it_is_cut() {
    let stream = concat!(
        r#"data: {"candidates":[{"content":{"parts":[{"text":"Hm.","thought":true}]},"index":0}],"usageMetadata":{"promptTokenCount":12,"thoughtsTokenCount":3,"totalTokenCount":15},"modelVersion":"g","responseId":"r"}"#,
        "\r\n\r\n",
        r#"data: {"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"x":1}},"thoughtSignature":"c2ln"},{"functionCall":{"name":"f","args":{}}}]},"index":0,"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":12,"candidatesTokenCount":2,"thoughtsTokenCount":3,"totalTokenCount":17}}"#,
        "\r\n\r\n",
    );
    let said = json!({
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let run = |cut| answer(chat(&said).expect("a request"), Form::Events, stream, cut);
    let out = run(stream.len());
    for wanted in [
        r#""reasoning_content":"Hm.""#,
        r#""id":"call_af63ef4c86020cd5_0","type":"function","function":{"name":"f","arguments":""},"extra_content":{"google":{"thought_signature":"c2ln"}},"index":0"#,
        r#""tool_calls":[{"index":0,"function":{"arguments":"{\"x\":1}"}}]"#,
        r#""id":"call_af63ef4c86020cd5_1""#,
        r#""finish_reason":"tool_calls""#,
        r#""usage":{"prompt_tokens":12,"completion_tokens":5,"total_tokens":17,"completion_tokens_details":{"reasoning_tokens":3}}"#,
    ] {
        assert!(out.contains(wanted), "{wanted} in {out}");
    }
    assert!(out.ends_with("data: [DONE]\n\n"), "{out}");
    for cut in 1..stream.len() {
        assert_eq!(run(cut), out, "pieces of {cut}");
    }
}

#[test]
fn a_gemini_clients_request_is_said_in_openais_words() {
    let translated = gemini(
        "generateContent",
        None,
        &json!({
            "system_instruction": {"parts": [{"text": "Be brief."}], "role": "user"},
            "contents": [
                {"role": "user", "parts": [{"text": "Hi"}, {"inline_data": {"mime_type": "image/png", "data": "-_A"}}]},
                {"role": "model", "parts": [{"text": "Two "}]},
                {"role": "model", "parts": [{"text": "calls."}, {"functionCall": {"name": "f", "args": {"x": 1}}}]},
                {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
                {"role": "user", "parts": [
                    {"functionResponse": {"name": "f", "response": {"output": "one"}}},
                    {"functionResponse": {"name": "f", "response": {"a": 2}}},
                ]},
            ],
            "tools": [{"function_declarations": [{"name": "f", "parameters": {"type": "OBJECT", "properties": {"x": {"type": "INTEGER"}}}}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
            "generationConfig": {
                "maxOutputTokens": 5, "top_p": 0.5, "stopSequences": ["END"], "candidateCount": 1,
                "responseMimeType": "application/json", "responseSchema": {"type": "STRING"},
                "thinkingConfig": {"thinkingLevel": "low"},
            },
            "safetySettings": [],
        }),
    )
    .expect("a request");
    let wanted = json!({
        "model": "gpt",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "Hi"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,+/A="}},
            ]},
            {"role": "assistant", "content": "Two calls.", "tool_calls": [
                {"id": "call_096e4d18bf89481c_0", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "call_096e4d18bf89481c_1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ]},
            {"role": "tool", "tool_call_id": "call_096e4d18bf89481c_0", "content": "one"},
            {"role": "tool", "tool_call_id": "call_096e4d18bf89481c_1", "content": "{\"a\":2}"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}}],
        "tool_choice": "required",
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "string"}, "strict": true}},
        "reasoning_effort": "low",
        "max_completion_tokens": 5, "top_p": 0.5, "stop": ["END"],
    });
    assert_eq!(body(&translated), wanted);
}

#[test]
fn what_only_google_has_is_named_in_the_clients_words() {
    let contents = json!([{"parts": [{"text": "Hi"}]}]);
    for (said, wanted) in [
        (
            json!({"safetySettings": [{"category": "c"}]}),
            "safetySettings",
        ),
        (
            json!({"tools": [{"googleSearch": {}}]}),
            "tools[0].googleSearch",
        ),
        (json!({"cached_content": "c"}), "cached_content"),
        (
            json!({"generationConfig": {"speechConfig": {}}}),
            "generationConfig.speechConfig",
        ),
    ] {
        let mut said = said;
        said["contents"] = contents.clone();
        let unfit = gemini("generateContent", None, &said).expect_err("a refusal");
        assert!(
            matches!(&unfit, Unfit::Inexpressible { at, .. } if at == wanted),
            "{unfit:?}"
        );
    }
}

const OPENAI: &str = concat!(
    "data: {\"id\":\"a\",\"model\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hi\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\"\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"d\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\":\\\"}\\\"}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":4,\"total_tokens\":9,\"completion_tokens_details\":{\"reasoning_tokens\":1}}}\n\n",
    "data: [DONE]\n\n",
);

fn pieces() -> Vec<Value> {
    let piece = |part: Value| {
        json!({
            "candidates": [{"content": {"parts": [part], "role": "model"}, "index": 0}],
            "modelVersion": "x", "responseId": "a",
        })
    };
    vec![
        piece(json!({"text": "Hi"})),
        piece(json!({"functionCall": {"id": "c", "name": "f", "args": {"x": "}"}}})),
        piece(json!({"functionCall": {"id": "d", "name": "g", "args": {}}})),
        json!({
            "candidates": [{
                "content": {"parts": [{"text": ""}], "role": "model"},
                "finishReason": "STOP", "index": 0,
            }],
            "usageMetadata": {
                "promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 9,
                "thoughtsTokenCount": 1,
            },
            "modelVersion": "x", "responseId": "a",
        }),
    ]
}

#[test]
fn a_stream_is_events_where_the_client_wants_them() {
    let said = json!({"contents": [{"parts": [{"text": "Hi"}]}]});
    let translated = gemini("streamGenerateContent", Some("alt=sse"), &said).expect("a request");
    let out = answer(translated, Form::Events, OPENAI, 7);
    let events: Vec<Value> = (out.split_terminator("\r\n\r\n"))
        .map(|it| serde_json::from_str(it.strip_prefix("data: ").expect("data")).expect("JSON"))
        .collect();
    assert_eq!(events, pieces());
}

#[test]
fn a_stream_is_one_array_without_alt_sse() {
    let said = json!({"contents": [{"parts": [{"text": "Hi"}]}]});
    let mut translated = gemini("streamGenerateContent", None, &said).expect("a request");
    assert_eq!(translated.answer.begin(Form::Events), Form::List);
    let out = answer(translated, Form::Events, OPENAI, 7);
    let list: Vec<Value> = serde_json::from_str(&out).expect("a list");
    assert_eq!(list, pieces());
}

#[test]
fn arguments_that_are_no_json_are_a_malformed_call() {
    let said = json!({"contents": [{"parts": [{"text": "Hi"}]}]});
    let translated = gemini("generateContent", None, &said).expect("a request");
    let out = whole(
        translated,
        &json!({"choices": [{"index": 0, "finish_reason": "tool_calls", "message": {"tool_calls": [
            {"id": "c", "function": {"name": "f", "arguments": "{\"x\":"}},
        ]}}]}),
    );
    assert_eq!(
        out["candidates"][0]["finishReason"],
        "MALFORMED_FUNCTION_CALL"
    );
    assert_eq!(
        out["candidates"][0]["finishMessage"],
        "Malformed function call: f({\"x\":)"
    );
}

#[test]
fn an_error_is_one_of_googles() {
    let said = json!({"contents": [{"parts": [{"text": "Hi"}]}]});
    let translated = gemini("generateContent", None, &said).expect("a request");
    let body = br#"{"error":{"message":"Slow down","type":"rate_limit_error","code":"rate_limit_exceeded"}}"#;
    let (status, out) = translated.answer.refusal(429, body);
    let out: Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(status, 429);
    assert_eq!(out["error"]["code"], 429);
    assert_eq!(out["error"]["status"], "RESOURCE_EXHAUSTED");
    assert_eq!(out["error"]["message"], "Slow down");
}

#[test]
fn a_stream_that_fails_stays_a_list() {
    let said = json!({"contents": [{"parts": [{"text": "Hi"}]}]});
    let mut translated = gemini("streamGenerateContent", None, &said).expect("a request");
    translated.answer.begin(Form::Events);
    let mut out = Vec::new();
    let error = b"data: {\"error\":{\"message\":\"Gone\",\"code\":503}}\n\n";
    translated
        .answer
        .feed(error, &mut out)
        .expect_err("a failure");
    let list: Vec<Value> = serde_json::from_slice(&out).expect("a list");
    assert_eq!(list[0]["error"]["status"], "UNAVAILABLE");
}

#[test]
fn embeddings_go_to_google_and_to_vertex() {
    let embed = || crate::ir::Embed {
        inputs: ["a", "b"]
            .map(|it| crate::ir::EmbedInput::Text(it.into()))
            .into(),
        dimensions: Some(crate::ir::Said::new("dimensions", 8)),
        ..Default::default()
    };
    let write = |dialect, model: &str| {
        let provider = Provider::new(dialect);
        let target = Target {
            provider: &provider,
            model,
            base: "",
            lenient: false,
            ask_usage: true,
        };
        let mut fit = crate::ir::Fit::new("x", false);
        super::embed_out::write(embed(), &target, &mut fit)
    };
    let mut out = write(Dialect::Gemini, "gemini-embedding-001").expect("a request");
    assert_eq!(
        out.path,
        "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    );
    let body: Value = serde_json::from_slice(&out.body).expect("JSON");
    assert_eq!(
        body["requests"][1],
        json!({
            "content": {"parts": [{"text": "b"}]}, "outputDimensionality": 8,
            "model": "models/gemini-embedding-001",
        })
    );
    let answer = br#"{"embeddings":[{"values":[1,2]},{"values":[0.5]}]}"#;
    let embedded = out.reader.embedded(answer).expect("embeddings");
    assert_eq!(embedded.vectors, [vec![1.0, 2.0], vec![0.5]]);
    assert!(out.reader.embedded(br#"{"embeddings":[]}"#).is_err());

    let mut out = write(Dialect::Vertex, "text-embedding-005").expect("a request");
    assert_eq!(
        out.path,
        "/v1/publishers/google/models/text-embedding-005:predict"
    );
    let body: Value = serde_json::from_slice(&out.body).expect("JSON");
    assert_eq!(
        body,
        json!({
            "instances": [{"content": "a"}, {"content": "b"}],
            "parameters": {"outputDimensionality": 8},
        })
    );
    let one = r#"{"embeddings":{"values":[1],"statistics":{"token_count":3,"truncated":false}}}"#;
    let answer = format!(r#"{{"predictions":[{one},{one}]}}"#);
    let embedded = out.reader.embedded(answer.as_bytes()).expect("embeddings");
    assert_eq!(embedded.usage.and_then(|usage| usage.input), Some(6));
    assert!(write(Dialect::Vertex, "gemini-embedding-2").is_err());
}

/// Recorded answers of Google's, where this machine has them.
const RECORDINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");

/// What a client sees of an answer, read from its bytes without the dialect.
fn seen(said: &str) -> (String, String, Vec<Value>) {
    let (mut text, mut thoughts, mut calls) = (String::new(), String::new(), Vec::new());
    let chunks = match said.trim_start().starts_with('{') {
        true => vec![said],
        false => said
            .lines()
            .filter_map(|it| it.strip_prefix("data:"))
            .collect(),
    };
    for chunk in chunks {
        let chunk: Value = serde_json::from_str(chunk).expect("JSON");
        let parts = chunk["candidates"][0]["content"]["parts"].as_array();
        for part in parts.into_iter().flatten() {
            let piece = part["text"].as_str().unwrap_or_default();
            match part["thought"] == true {
                true => thoughts.push_str(piece),
                false => text.push_str(piece),
            }
            if let Some(code) = part["executableCode"]["code"].as_str() {
                text.push_str(code);
            }
            if part["functionCall"]["name"].is_string() {
                calls.push(part["functionCall"].clone());
            }
        }
    }
    (text, thoughts, calls)
}

#[test]
fn recorded_answers_say_the_same_to_clients_of_openai() {
    let Ok(index) = std::fs::read(format!("{RECORDINGS}/index.json")) else {
        eprintln!("skipped: no recordings at {RECORDINGS}");
        return;
    };
    let cases: Vec<Value> = serde_json::from_slice(&index).expect("an index");
    let mut count = 0;
    for case in cases.iter().filter(|it| it["api"] == "gemini") {
        let id = case["id"].as_str().expect("an id");
        let file = |name: &str| {
            let path = format!("{RECORDINGS}/{}", case[name].as_str().expect("a path"));
            std::fs::read_to_string(path).expect("a file")
        };
        let said = file("response");
        let streamed = case["streamed"] == true;
        let translated = chat(&json!({
            "messages": [{"role": "user", "content": "Hi"}],
            "stream": streamed,
            "stream_options": {"include_usage": true},
        }))
        .expect("a request");
        if case["status"] != 200 {
            let (status, out) = translated.answer.refusal(400, said.as_bytes());
            let out: Value = serde_json::from_slice(&out).expect("JSON");
            let said: Value = serde_json::from_str(&said).expect("JSON");
            assert_eq!(u64::from(status), case["status"].as_u64().unwrap_or(0));
            assert_eq!(out["error"]["message"], said["error"]["message"], "{id}");
            count += 1;
            continue;
        }
        let (text, thoughts, calls) = seen(&said);
        let form = if streamed { Form::Events } else { Form::Body };
        let out = answer(translated, form, &said, 37);
        let chunks: Vec<Value> = match streamed {
            false => vec![serde_json::from_str(&out).expect("JSON")],
            true => (out.lines().filter_map(|it| it.strip_prefix("data: ")))
                .filter(|it| *it != "[DONE]")
                .map(|it| serde_json::from_str(it).expect("JSON"))
                .collect(),
        };
        let of = |name: &str| -> String {
            let texts = chunks.iter().filter_map(|chunk| {
                let choice = &chunk["choices"][0];
                choice["delta"][name]
                    .as_str()
                    .or(choice["message"][name].as_str())
            });
            texts.collect()
        };
        let plain = |text: &str| text.replace("```python\n", "").replace("```\n", "");
        assert_eq!(plain(&of("content")), plain(&text), "{id}");
        assert_eq!(of("reasoning_content"), thoughts, "{id}");
        let mut names = Vec::new();
        for chunk in &chunks {
            let choice = &chunk["choices"][0];
            for list in [
                &choice["delta"]["tool_calls"],
                &choice["message"]["tool_calls"],
            ] {
                let all = list.as_array().into_iter().flatten();
                names.extend(all.filter_map(|it| it["function"]["name"].as_str()));
            }
        }
        let wanted: Vec<_> = calls.iter().filter_map(|it| it["name"].as_str()).collect();
        assert_eq!(names, wanted, "{id}");
        let usage = &chunks.last().expect("a chunk")["usage"];
        assert_eq!(usage["prompt_tokens"], case["usage"]["input"], "{id}");
        assert_eq!(usage["completion_tokens"], case["usage"]["output"], "{id}");
        assert_eq!(
            usage["completion_tokens_details"]["reasoning_tokens"], case["usage"]["reasoning"],
            "{id}"
        );
        // What was asked is understood, too.
        let method = if streamed {
            "streamGenerateContent"
        } else {
            "generateContent"
        };
        let asked: Value = serde_json::from_str(&file("request")).expect("JSON");
        match gemini(method, None, &asked) {
            Ok(_) | Err(Unfit::Inexpressible { .. }) => {}
            Err(unfit) => panic!("{id}: {unfit}"),
        }
        count += 1;
    }
    eprintln!("{count} recordings");
    assert!(count > 0, "an index without Gemini's API");
}

#[test]
fn golden_requests_and_answers_are_understood() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/translate");
    let read = |path: &str| std::fs::read_to_string(format!("{golden}/{path}")).expect("a file");
    for feature in [
        "text",
        "stream",
        "system",
        "tools",
        "tools_stream",
        "parallel_tools",
        "parallel_tools_stream",
        "tool_result",
        "image",
        "schema",
        "reasoning",
        "reasoning_stream",
        "stop",
    ] {
        let streamed = feature.contains("stream");
        let (method, end) = match streamed {
            true => ("streamGenerateContent", "sse"),
            false => ("generateContent", "json"),
        };
        let asked = read(&format!("clients/gemini/{feature}.json"));
        let asked: Value = serde_json::from_str(&asked).expect("JSON");
        gemini(method, Some("alt=sse"), &asked)
            .unwrap_or_else(|unfit| panic!("{feature}: {unfit}"));
        let said = read(&format!("upstreams/gemini/{feature}.{end}"));
        let translated = chat(&json!({
            "messages": [{"role": "user", "content": "Hi"}], "stream": streamed,
        }))
        .expect("a request");
        let form = if streamed { Form::Events } else { Form::Body };
        let out = answer(translated, form, &said, 11);
        let wanted = match feature {
            "tools" | "tools_stream" | "parallel_tools" | "parallel_tools_stream" => "Paris",
            "tool_result" => "It is 18 degrees in Paris.",
            "image" => "pixel",
            "schema" => "Ada",
            "reasoning" | "reasoning_stream" => "c2ln",
            _ => "Hello",
        };
        assert!(out.contains(wanted), "{feature}: {out}");
    }
}

fn embed(method: &str, body: &Value) -> Result<crate::translate::Read, Unfit> {
    let (path, body) = (format!("/v1beta/models/m:{method}"), body.to_string());
    let ask = ask(Surface::GeminiEmbed, &path, None, &body);
    let mut fit = crate::ir::Fit::new("openai", false);
    super::request_in::read(&ask, &mut fit)
}

#[test]
fn a_gemini_client_gets_its_embeddings() {
    use crate::ir::{EmbedInput, Embedded};
    use crate::translate::Read;
    let content = |text: &str| json!({"parts": [{"text": text}]});
    let one = json!({
        "content": content("a"), "taskType": "RETRIEVAL_QUERY", "output_dimensionality": 8,
    });
    let Ok(Read::Embed(asked, mut writer)) = embed("embedContent", &one) else {
        panic!("no request for embeddings");
    };
    assert_eq!(asked.inputs, [EmbedInput::Text("a".into())]);
    assert_eq!(asked.dimensions.expect("dimensions").value, 8);
    assert_eq!(asked.purpose.expect("a purpose").value, "search_query");
    let answer = writer.embedded(Embedded {
        vectors: vec![vec![1.0]],
        ..Embedded::default()
    });
    assert_eq!(answer, br#"{"embedding":{"values":[1.0]}}"#);

    let mut several = json!({"requests": [
        {"model": "models/m", "content": content("a"), "outputDimensionality": 8},
        {"model": "models/m", "content": content("b"), "outputDimensionality": 8},
    ]});
    let Ok(Read::Embed(asked, mut writer)) = embed("batchEmbedContents", &several) else {
        panic!("no request for embeddings");
    };
    assert_eq!(asked.inputs.len(), 2);
    assert!(asked.rest.is_empty(), "{:?}", asked.rest);
    let answer = writer.embedded(Embedded {
        vectors: vec![vec![1.0], vec![2.0]],
        ..Embedded::default()
    });
    assert_eq!(
        answer,
        br#"{"embeddings":[{"values":[1.0]},{"values":[2.0]}]}"#
    );

    several["requests"][1]["outputDimensionality"] = 9.into();
    let unfit = embed("batchEmbedContents", &several).expect_err("a refusal");
    assert!(
        matches!(&unfit, Unfit::Inexpressible { at, .. } if at == "requests[1].outputDimensionality"),
        "{unfit:?}"
    );
}

/// Any JSON, made of the names that the dialect knows.
fn any_json(random: &mut impl rand::Rng, depth: u32) -> Value {
    use rand::RngExt as _;
    const NAMES: [&str; 40] = [
        "candidates",
        "content",
        "parts",
        "text",
        "thought",
        "thoughtSignature",
        "functionCall",
        "functionResponse",
        "name",
        "args",
        "id",
        "partialArgs",
        "jsonPath",
        "stringValue",
        "willContinue",
        "inlineData",
        "mimeType",
        "data",
        "fileData",
        "fileUri",
        "executableCode",
        "finishReason",
        "index",
        "usageMetadata",
        "promptTokenCount",
        "error",
        "code",
        "contents",
        "role",
        "tools",
        "functionDeclarations",
        "parameters",
        "generationConfig",
        "thinkingConfig",
        "thinkingBudget",
        "responseSchema",
        "type",
        "systemInstruction",
        "toolConfig",
        "response",
    ];
    const TEXTS: [&str; 9] = [
        "",
        "user",
        "model",
        "STOP",
        "$.a[3].b",
        "$[9999999]",
        "c2ln",
        "image/png",
        "\u{e9}\"\\",
    ];
    match random.random_range(0..if depth == 0 { 5 } else { 9 }) {
        0 => Value::Null,
        1 => random.random_bool(0.5).into(),
        2 => random.random_range(-3i64..1 << 40).into(),
        3 | 4 => TEXTS[random.random_range(0..TEXTS.len())].into(),
        5 | 6 => (0..random.random_range(0..3))
            .map(|_| any_json(random, depth - 1))
            .collect(),
        _ => {
            let mut map = serde_json::Map::new();
            for _ in 0..random.random_range(0..5) {
                let name = NAMES[random.random_range(0..NAMES.len())];
                map.insert(name.into(), any_json(random, depth - 1));
            }
            map.into()
        }
    }
}

/// One that is mostly right, with members exchanged for anything.
fn disturbed(random: &mut impl rand::Rng, value: &mut Value) {
    use rand::RngExt as _;
    if random.random_range(0..12) == 0 {
        *value = any_json(random, 4);
        return;
    }
    match value {
        Value::Array(list) => list.iter_mut().for_each(|it| disturbed(random, it)),
        Value::Object(map) => map.values_mut().for_each(|it| disturbed(random, it)),
        _ => {}
    }
}

#[test]
fn no_request_and_no_answer_makes_it_panic() {
    use rand::SeedableRng as _;
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let request = json!({
        "systemInstruction": {"parts": [{"text": "a"}]},
        "contents": [
            {"role": "model", "parts": [{"text": "t", "thought": true, "thoughtSignature": "c2ln"},
                {"functionCall": {"id": "a", "name": "f", "args": {}}}]},
            {"role": "user", "parts": [{"functionResponse": {"id": "a", "response": {"output": 1}}},
                {"inlineData": {"mimeType": "image/png", "data": "AA"}}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT",
            "nullable": true, "properties": {"a": {"type": "STRING"}}}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "generationConfig": {"topK": 1, "stopSequences": ["a"], "thinkingConfig": {"thinkingBudget": 1},
            "responseMimeType": "application/json", "responseSchema": {"type": "STRING"}},
    });
    let reply = json!({
        "candidates": [{"index": 0, "finishReason": "STOP", "content": {"parts": [
            {"text": "a", "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "f", "willContinue": true, "partialArgs": [
                {"jsonPath": "$.a[0]", "stringValue": "b", "willContinue": true}]}},
            {"functionCall": {"name": "g", "args": {"a": 1}}},
        ]}}],
        "usageMetadata": {"promptTokenCount": 1}, "modelVersion": "m", "responseId": "r",
    });
    let said = json!({"messages": [{"role": "user", "content": "Hi"}], "stream": true});
    let (mut understood, mut answered) = (0, 0);
    for _ in 0..4000 {
        let mut asked = request.clone();
        disturbed(&mut random, &mut asked);
        understood += u32::from(gemini("generateContent", None, &asked).is_ok());
        let mut translated = chat(&said).expect("a request");
        let (mut out, mut ok) = (Vec::new(), true);
        translated.answer.begin(Form::Events);
        for _ in 0..3 {
            let mut event = reply.clone();
            disturbed(&mut random, &mut event);
            let event = format!("data: {event}\r\n\r\n");
            ok = ok && translated.answer.feed(event.as_bytes(), &mut out).is_ok();
        }
        if ok {
            answered += u32::from(translated.answer.end(&mut out).is_ok());
        }
        assert!(out.len() < 1 << 20, "an answer grew to {} bytes", out.len());
    }
    assert!(
        understood > 0 && answered > 0,
        "{understood} and {answered}"
    );
}

//! Nothing that a client says is lost silently.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};
use weir_dialect::translate::Translated;

use crate::golden::{CLIENTS, Client, FEATURES, UPSTREAMS, is_stream};

/// A member that no API has.
const UNKNOWN: &str = "zz_unknown";

#[test]
fn what_is_unknown_is_refused_or_goes_on_or_is_listed() {
    let (mut lost, mut asked) = (BTreeSet::new(), 0);
    for client in &CLIENTS {
        let golden = FEATURES.into_iter().filter_map(|feature| {
            let body = client.body(feature)?;
            let body = serde_json::from_slice::<Value>(&body).expect("JSON");
            Some((is_stream(feature), body))
        });
        let rich = rich(client).into_iter().map(|body| (false, body));
        for (stream, body) in golden.chain(rich) {
            let mut places = Vec::new();
            objects(&body, String::new(), &mut places);
            for place in places {
                let mut body = body.clone();
                let object = body.pointer_mut(&place).expect("an object");
                object[UNKNOWN] = json!("zz");
                let bytes = body.to_string().into_bytes();
                for upstream in &UPSTREAMS {
                    for lenient in [false, true] {
                        let Ok(translated) = client.ask(&bytes, stream, upstream, lenient) else {
                            continue;
                        };
                        asked += 1;
                        let member = format!("{place}/{UNKNOWN}");
                        if !accounts_for(&translated, &place) && !is_known(client, &member) {
                            lost.insert(format!(
                                "{} to {}: {place}/{UNKNOWN} {:?}",
                                client.name, upstream.name, translated.dropped
                            ));
                        }
                    }
                }
            }
        }
    }
    println!("{asked} requests went on");
    let mut bad = String::new();
    for lost in &lost {
        let _ = writeln!(bad, "{lost}");
    }
    assert!(lost.is_empty(), "lost silently:\n{bad}");
}

/// Members that go on in another way, or say nothing that an upstream must know.
const WITHOUT_EFFECT: &[&str] = &[
    // The route chooses it.
    "model",
    // Weir always asks for usage.
    "stream_options",
    "include_usage",
    // What is the only one there is.
    "type",
    // Asking for alternatives asks for the rest; who has neither lists the one.
    "logprobs",
    "top_logprobs",
    // Where thinking has amounts only, that it is wanted is the default.
    "think",
    // Thoughts of earlier turns are for who thought them: others are sent the rest of the turn.
    "reasoning_content",
    "thinking_blocks",
    "thinking",
    "signature",
    "thoughtSignature",
    "extra_content",
    "google",
    "thought_signature",
    // The answer's form, in some APIs a matter of the answer only.
    "stream",
    // Which call a result is of, where there is only one.
    "tool_name",
    // A schema is followed exactly, and needs no name, where there is nothing else.
    "strict",
    "json_schema.name",
];

/// Places whose members have no effect everywhere, by client. Some say what is so anyway (`role`, ids of
/// what has no ids elsewhere, media types of what says its own); some are losses that remain to be
/// listed, such as names of documents.
const KNOWN: &[(&str, &str)] = &[
    ("chat", "/messages/1/content/1/file/filename"),
    ("messages", "/messages/0/content/0/title"),
    ("messages", "/messages/0/content/1/source/media_type"),
    ("messages", "/messages/0/content/3/title"),
    ("messages", "/output_config"),
    ("messages", "/temperature"),
    ("messages", "/tool_choice"),
    ("gemini", "/contents/0/parts/1/fileData/mimeType"),
    ("gemini", "/contents/0/role"),
    ("gemini", "/contents/1/parts/0/functionCall/id"),
    ("gemini", "/contents/1/parts/0/text"),
    ("gemini", "/contents/1/parts/1/functionCall/id"),
    ("gemini", "/contents/2/parts/0/functionResponse"),
    ("gemini", "/contents/2/role"),
    ("gemini", "/generationConfig/responseMimeType"),
    ("gemini", "/generationConfig/thinkingConfig/includeThoughts"),
    ("gemini", "/toolConfig"),
    ("responses", "/include"),
    ("responses", "/input/0/content/2/filename"),
    ("responses", "/input/1"),
    ("responses", "/input/2"),
    ("responses", "/input/3/id"),
    ("responses", "/parallel_tool_calls"),
    ("responses", "/text/format"),
    ("responses", "/tool_choice"),
];

fn is_known(client: &Client, place: &str) -> bool {
    let holds = |(of, known): &(&str, &str)| *of == client.name && place.starts_with(known);
    KNOWN.iter().any(holds)
}

/// Saying it is as good as leaving it out.
fn is_neutral(value: &Value) -> bool {
    let none = [
        json!(""),
        json!("{}"),
        json!({}),
        json!(false),
        json!("auto"),
        json!({"type": "object", "properties": {}}),
    ];
    value.is_null() || none.contains(value)
}

#[test]
fn what_is_said_has_an_effect_or_is_listed() {
    let (mut lost, mut asked) = (BTreeSet::new(), 0);
    for client in &CLIENTS {
        let golden = FEATURES.into_iter().filter_map(|feature| {
            let body = client.body(feature)?;
            let body = serde_json::from_slice::<Value>(&body).expect("JSON");
            Some((is_stream(feature), body))
        });
        let rich = rich(client).into_iter().map(|body| (false, body));
        for (stream, body) in golden.chain(rich) {
            let mut places = Vec::new();
            objects(&body, String::new(), &mut places);
            for upstream in &UPSTREAMS {
                let ask = |body: &Value| {
                    let bytes = body.to_string().into_bytes();
                    client.ask(&bytes, stream, upstream, true)
                };
                let Ok(with) = ask(&body) else { continue };
                for place in &places {
                    let object = body.pointer(place).expect("an object");
                    for (name, value) in object.as_object().expect("an object") {
                        let last = place.rsplit('/').next().expect("a step");
                        if WITHOUT_EFFECT.contains(&&**name)
                            || WITHOUT_EFFECT.contains(&&*format!("{last}.{name}"))
                            || is_neutral(value)
                        {
                            continue;
                        }
                        let mut less = body.clone();
                        let object = less.pointer_mut(place).expect("an object");
                        object
                            .as_object_mut()
                            .expect("an object")
                            .shift_remove(name);
                        let Ok(without) = ask(&less) else { continue };
                        asked += 1;
                        let same = with.body == without.body
                            && with.path == without.path
                            && with.headers == without.headers;
                        let member = format!("{place}/{name}");
                        if same && !is_listed(&with, place, name) && !is_known(client, &member) {
                            lost.insert(format!(
                                "{} to {}: {place}/{name}",
                                client.name, upstream.name
                            ));
                        }
                    }
                }
            }
        }
    }
    println!("{asked} members were left out");
    let lost: Vec<_> = lost.into_iter().collect();
    assert!(lost.is_empty(), "without effect:\n{}", lost.join("\n"));
}

/// It is in the body, or was dropped by name, or with all that it was in.
fn accounts_for(translated: &Translated, place: &str) -> bool {
    let body = &translated.body;
    if (body.windows(UNKNOWN.len())).any(|it| it == UNKNOWN.as_bytes()) {
        return true;
    }
    is_listed(translated, place, UNKNOWN)
}

/// A member was dropped by name, or with all that it was in.
fn is_listed(translated: &Translated, place: &str, name: &str) -> bool {
    let mut path = String::new();
    for step in place.split('/').skip(1).chain([name]) {
        match step.parse::<usize>() {
            Ok(number) => {
                let _ = write!(path, "[{number}]");
            }
            Err(_) if path.is_empty() => path.push_str(step),
            Err(_) => {
                path.push('.');
                path.push_str(step);
            }
        }
    }
    let holds = |dropped: &String| {
        let rest = path.strip_prefix(dropped.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let is_in = |dropped: &String| dropped.starts_with(&path);
    translated
        .dropped
        .iter()
        .any(|it| holds(it) || name != UNKNOWN && is_in(it))
}

/// The places of all objects.
fn objects(value: &Value, at: String, to: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let name = name.replace('~', "~0").replace('/', "~1");
                objects(value, format!("{at}/{name}"), to);
            }
            to.push(at);
        }
        Value::Array(list) => {
            for (place, value) in list.iter().enumerate() {
                objects(value, format!("{at}/{place}"), to);
            }
        }
        _ => {}
    }
}

/// Requests with what the golden ones don't have.
fn rich(client: &Client) -> Vec<Value> {
    let tool = json!({"type": "object", "properties": {}});
    match client.name {
        "chat" => vec![json!({
            "messages": [
                {"role": "system", "content": [
                    {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                ]},
                {"role": "user", "name": "u", "content": [
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
                    {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
                ]},
                {"role": "assistant", "content": "b", "reasoning_content": "c", "thinking_blocks": [
                    {"type": "thinking", "thinking": "c", "signature": "c2ln"},
                    {"type": "redacted_thinking", "data": "ZGF0YQ=="},
                ], "tool_calls": [{"id": "1", "type": "function",
                    "function": {"name": "f", "arguments": "{}"},
                    "extra_content": {"google": {"thought_signature": "c2ln"}}}]},
                {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "d"}]},
                {"role": "assistant", "content": null, "refusal": "no"},
                {"role": "user", "content": "e"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": tool, "strict": true},
                "cache_control": {"type": "ephemeral"}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_object"},
            "logprobs": true, "top_logprobs": 2, "n": 2, "seed": 1, "top_p": 0.5, "top_k": 3,
            "temperature": 0.5, "frequency_penalty": 1, "presence_penalty": 1, "user": "u", "max_tokens": 9,
            "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"},
            "prediction": {"type": "content", "content": "x"},
        })],
        "messages" => vec![json!({
            "max_tokens": 4000,
            "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            "messages": [
                {"role": "user", "content": [
                    {"type": "document", "title": "t", "context": "c", "citations": {"enabled": true},
                        "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "b"}},
                    {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                    {"type": "search_result", "source": "s", "title": "t",
                        "content": [{"type": "text", "text": "c"}]},
                ]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "c", "signature": "c2ln"},
                    {"type": "redacted_thinking", "data": "ZGF0YQ=="},
                    {"type": "text", "text": "d"},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {}},
                ]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "is_error": true,
                    "content": [{"type": "text", "text": "e"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}],
                    "cache_control": {"type": "ephemeral"}}]},
            ],
            "tools": [{"name": "f", "description": "g", "input_schema": tool,
                "cache_control": {"type": "ephemeral"}}],
            "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": true},
            "thinking": {"type": "enabled", "budget_tokens": 2000},
            "metadata": {"user_id": "u"}, "temperature": 1, "top_k": 3, "top_p": 0.99,
            "output_config": {"effort": "low"}, "context_management": {"edits": []},
        })],
        "gemini" => vec![json!({
            "systemInstruction": {"parts": [{"text": "a"}]},
            "contents": [
                {"role": "user", "parts": [
                    {"text": "b"},
                    {"fileData": {"mimeType": "image/png", "fileUri": "https://example.com/a.png"}},
                    {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
                    {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}},
                    {"inlineData": {"mimeType": "video/mp4", "data": "AAAA"},
                        "videoMetadata": {"fps": 1}},
                ]},
                {"role": "model", "parts": [
                    {"text": "c", "thought": true, "thoughtSignature": "c2ln"},
                    {"functionCall": {"id": "1", "name": "f", "args": {}}, "thoughtSignature": "c2ln"},
                ]},
                {"role": "user", "parts": [{"functionResponse": {"id": "1", "name": "f", "response": {}}}]},
            ],
            "tools": [{"functionDeclarations": [{"name": "f", "description": "d", "parameters": tool}]},
                {"googleSearch": {}}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
            "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
            "generationConfig": {"temperature": 0.5, "topP": 0.5, "topK": 3, "maxOutputTokens": 9,
                "stopSequences": ["END"], "seed": 1, "candidateCount": 2, "presencePenalty": 1,
                "responseLogprobs": true, "logprobs": 2, "responseModalities": ["TEXT", "IMAGE"],
                "responseMimeType": "application/json", "responseSchema": tool,
                "thinkingConfig": {"includeThoughts": true, "thinkingBudget": 100},
                "speechConfig": {"languageCode": "de"}},
        })],
        "responses" => vec![json!({
            "instructions": "a",
            "input": [
                {"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": "b"},
                    {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
                    {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
                ]},
                {"type": "reasoning", "id": "rs_1", "encrypted_content": "c2ln",
                    "summary": [{"type": "summary_text", "text": "c"}]},
                {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
                    "content": [{"type": "output_text", "text": "d", "annotations": []}]},
                {"type": "function_call", "id": "fc_1", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "1", "output": "e"},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": tool, "strict": true}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": tool}, "verbosity": "low"},
            "reasoning": {"effort": "low", "summary": "auto"},
            "max_output_tokens": 9, "temperature": 0.5, "top_p": 0.5, "parallel_tool_calls": true,
        })],
        "ollama-chat" => vec![json!({
            "messages": [
                {"role": "user", "content": "a", "images": ["AAAA"]},
                {"role": "assistant", "content": "b", "thinking": "c",
                    "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
                {"role": "tool", "tool_name": "f", "content": "d"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": tool}}],
            "format": {"type": "object"}, "think": true, "stream": false, "keep_alive": "5m",
            "options": {"temperature": 0.5, "top_k": 3, "num_predict": 9, "num_ctx": 4096, "stop": ["END"]},
        })],
        "ollama-generate" => vec![json!({
            "prompt": "a", "system": "b", "images": ["AAAA"], "think": "high", "stream": false,
            "options": {"seed": 1, "mirostat": 1}, "format": "json",
        })],
        _ => Vec::new(),
    }
}

use serde_json::{Value, json};

use crate::provider::Dialect;
use crate::surface::Form;
use crate::trial::{self, CHAT, answered, answered_any, ask, asked, golden, joined, recordings};

const ASKED: &str = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;

fn value(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn whole(feature: &str) -> Value {
    trial::whole("dashscope", Dialect::DashScope, feature)
}

fn stream(feature: &str) -> Vec<Value> {
    trial::stream("dashscope", Dialect::DashScope, feature)
}

#[test]
fn a_request_is_said_in_its_words() {
    let body = r#"{"messages":[
        {"role":"system","content":"Be brief."},
        {"role":"user","content":"How is it?"},
        {"role":"assistant","content":null,"tool_calls":[
            {"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
        {"role":"tool","tool_call_id":"c","content":"18 degrees"}],
        "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}],
        "tool_choice":{"type":"function","function":{"name":"f"}},
        "max_tokens":50,"top_k":3,"stop":"END","reasoning_effort":"medium","stream":true,
        "response_format":{"type":"json_object"}}"#;
    let translated = ask(CHAT, body, Dialect::DashScope, false).expect("a request");
    assert_eq!(
        translated.path,
        "/api/v1/services/aigc/text-generation/generation"
    );
    assert_eq!(
        translated.headers,
        [("x-dashscope-sse", "enable".to_owned())]
    );
    let said = asked(CHAT, body, Dialect::DashScope);
    assert_eq!(said["model"], "m");
    assert_eq!(
        said["input"]["messages"],
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "How is it?"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "function",
                "index": 0, "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
            {"role": "tool", "content": "18 degrees", "tool_call_id": "c"},
        ])
    );
    let parameters = &said["parameters"];
    assert_eq!(parameters["result_format"], "message");
    assert_eq!(parameters["incremental_output"], true);
    assert_eq!(
        parameters["tool_choice"],
        json!({"type": "function", "function": {"name": "f"}})
    );
    assert_eq!(parameters["parallel_tool_calls"], true);
    assert_eq!(
        (&parameters["max_tokens"], &parameters["top_k"]),
        (&json!(50), &json!(3))
    );
    assert_eq!(parameters["enable_thinking"], true);
    assert_eq!(
        parameters["response_format"],
        json!({"type": "json_object"})
    );
}

#[test]
fn pictures_go_to_the_service_that_sees() {
    let body = golden("clients/ollama-chat/image.json");
    let image = asked(crate::trial::OLLAMA_CHAT, &body, Dialect::DashScope);
    let content = image["input"]["messages"][0]["content"].clone();
    let url = content[0]["image"].as_str().expect("a URL");
    assert!(url.starts_with("data:image/png;base64,"), "{url}");
    assert_eq!(content[1], json!({"text": "What is this?"}));
    let translated =
        ask(crate::trial::OLLAMA_CHAT, &body, Dialect::DashScope, false).expect("a request");
    assert!(
        translated
            .path
            .ends_with("/multimodal-generation/generation")
    );
}

#[test]
fn what_it_has_no_word_for_is_refused_by_name() {
    for (field, at) in [
        (r#""frequency_penalty":0.5"#, "frequency_penalty"),
        (r#""tool_choice":"required""#, "tool_choice"),
    ] {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"Hi"}}],{field}}}"#);
        let refused = ask(CHAT, &body, Dialect::DashScope, false).expect_err(at);
        assert!(
            refused.to_string().contains(&format!("`{at}`")),
            "{refused}"
        );
    }
}

#[test]
fn its_answers_are_read() {
    let said = whole("text");
    assert_eq!(said["choices"][0]["message"]["content"], "Hello there!");
    assert_eq!(said["usage"]["prompt_tokens"], 12);
    assert_eq!(said["usage"]["completion_tokens"], 4);
    assert_eq!(
        whole("image")["choices"][0]["message"]["content"],
        "A single pixel."
    );
    let said = whole("parallel_tools");
    let message = &said["choices"][0]["message"];
    assert_eq!(message["tool_calls"][0]["id"], "call_1");
    assert_eq!(
        message["tool_calls"][1]["function"]["arguments"],
        r#"{"city":"Rome"}"#
    );
    assert_eq!(said["choices"][0]["finish_reason"], "tool_calls");
    let said = whole("reasoning");
    assert_eq!(
        said["choices"][0]["message"]["reasoning_content"],
        "Simple sum."
    );
    assert_eq!(
        said["usage"]["completion_tokens_details"]["reasoning_tokens"],
        3
    );
}

#[test]
fn its_streams_are_read() {
    let said = stream("stream");
    assert_eq!(joined(&said, "content"), "Hello there!");
    assert_eq!(said.last().expect("usage")["usage"]["total_tokens"], 16);
    let said = stream("reasoning_stream");
    assert_eq!(joined(&said, "reasoning_content"), "Simple sum.");
    assert_eq!(joined(&said, "content"), "4");
    let said = stream("parallel_tools_stream");
    let mut arguments = [String::new(), String::new()];
    for call in said
        .iter()
        .map(|it| &it["choices"][0]["delta"]["tool_calls"][0])
    {
        if let Some(index) = call["index"].as_u64() {
            let piece = call["function"]["arguments"].as_str().unwrap_or_default();
            arguments[index as usize].push_str(piece);
        }
    }
    assert_eq!(arguments, [r#"{"city": "Paris"}"#, r#"{"city": "Rome"}"#]);
}

#[test]
fn failures_are_told() {
    let translated = ask(CHAT, ASKED, Dialect::DashScope, false).expect("a request");
    let error = golden("upstreams/dashscope/error.json");
    let (status, said) = translated.answer.refusal(429, error.as_bytes());
    let said: Value = serde_json::from_slice(&said).expect("JSON");
    assert_eq!(status, 429);
    assert_eq!(said["error"]["code"], "Throttling.RateQuota");
    let stream = "id:1\nevent:error\n:HTTP_STATUS/400\ndata:{\"code\":\"InvalidParameter\",\"message\":\"no\",\"request_id\":\"a\"}\n\n";
    let failed = answered(translated, stream, Form::Events, 9).expect_err("a failure");
    assert_eq!(failed.message, "no");
    assert_eq!(failed.kind, crate::ir::FailureKind::Invalid);
    let broke = "Arrearage";
    let body = format!(r#"{{"code":"{broke}","message":"pay","request_id":"a"}}"#);
    let translated = ask(CHAT, ASKED, Dialect::DashScope, false).expect("a request");
    let (_, said) = translated.answer.refusal(400, body.as_bytes());
    let said: Value = serde_json::from_slice(&said).expect("JSON");
    assert_eq!(said["error"]["type"], "insufficient_quota");
}

#[test]
fn recordings_say_the_same_to_other_clients() {
    let Some(cases) = recordings("dashscope-generation") else {
        return;
    };
    assert!(!cases.is_empty());
    for (case, text) in cases {
        let form = match case["streamed"] == true {
            true => Form::Events,
            false => Form::Body,
        };
        let request = std::fs::read(
            std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../shared/fixtures")
                .join(case["request"].as_str().expect("a file")),
        );
        let request: Value = serde_json::from_slice(&request.expect("a request")).expect("JSON");
        let incremental = request["parameters"]["incremental_output"] == true;
        let out = answered_any(CHAT, ASKED, Dialect::DashScope, &text, form);
        let said = value(&out);
        let (id, used) = (&case["id"], &case["usage"]);
        assert_eq!(said["usage"]["prompt_tokens"], used["input"], "{id}");
        assert_eq!(said["usage"]["completion_tokens"], used["output"], "{id}");
        // Weir asks for increments only.
        if form == Form::Events && !incremental {
            continue;
        }
        let bodies: Vec<Value> = match form {
            Form::Body => vec![value(&text)],
            _ => (text.lines())
                .filter_map(|line| line.strip_prefix("data:"))
                .map(value)
                .collect(),
        };
        let expected: String = (bodies.iter())
            .filter_map(|it| it["output"]["choices"][0]["message"]["content"].as_str())
            .collect();
        let content = said["choices"][0]["message"]["content"].as_str();
        assert_eq!(content.unwrap_or_default(), expected, "{id}");
    }
}

use serde_json::{Value, json};

use crate::provider::Dialect;
use crate::surface::Form;
use crate::trial::{self, CHAT, answered, answered_any, ask, asked, golden, joined, recordings};

const ASKED: &str = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;

fn value(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn whole(feature: &str) -> Value {
    trial::whole("cohere", Dialect::Cohere, feature)
}

fn stream(feature: &str) -> Vec<Value> {
    trial::stream("cohere", Dialect::Cohere, feature)
}

#[test]
fn a_request_is_said_in_its_words() {
    let body = r#"{"messages":[
        {"role":"system","content":"Be brief."},
        {"role":"user","content":[{"type":"text","text":"What is this?"},
            {"type":"image_url","image_url":{"url":"data:image/png;base64,iVBO","detail":"low"}}]},
        {"role":"assistant","content":null,"reasoning_content":"Hm","tool_calls":[
            {"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
        {"role":"tool","tool_call_id":"c","content":"18 degrees"}],
        "tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"},"strict":true}},
            {"type":"function","function":{"name":"g","parameters":{"type":"object"},"strict":true}}],
        "tool_choice":{"type":"function","function":{"name":"f"}},
        "max_tokens":50,"top_p":0.5,"top_k":3,"stop":"END","reasoning_effort":"medium",
        "response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}}}"#;
    let translated = ask(CHAT, body, Dialect::Cohere, false).expect("a request");
    assert_eq!(translated.path, "/v2/chat");
    let said = asked(CHAT, body, Dialect::Cohere);
    assert_eq!(
        said["messages"],
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is this?"},
                {"type": "image_url",
                    "image_url": {"url": "data:image/png;base64,iVBO", "detail": "low"}}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm"}],
                "tool_calls": [{"id": "c", "type": "function",
                    "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "18 degrees"},
        ])
    );
    assert_eq!(
        said["tools"].as_array().map(Vec::len),
        Some(1),
        "the one that is chosen"
    );
    assert_eq!(
        (&said["tool_choice"], &said["strict_tools"]),
        (&json!("REQUIRED"), &json!(true))
    );
    assert_eq!((&said["p"], &said["k"]), (&json!(0.5), &json!(3)));
    assert_eq!(said["stop_sequences"], json!(["END"]));
    assert_eq!(said["thinking"], json!({"type": "enabled"}));
    assert_eq!(
        said["response_format"],
        json!({"type": "json_object", "json_schema": {"type": "object"}})
    );
}

#[test]
fn what_it_has_no_word_for_is_refused_by_name() {
    for (field, at) in [
        (r#""n":2"#, "n"),
        (r#""logprobs":true"#, "logprobs"),
        (
            r#""tool_choice":{"type":"function","function":{"name":"f"}}"#,
            "tool_choice",
        ),
    ] {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"Hi"}}],{field}}}"#);
        let refused = ask(CHAT, &body, Dialect::Cohere, false).expect_err(at);
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
    assert_eq!(
        said["usage"],
        json!({"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16})
    );
    let said = whole("parallel_tools");
    let message = &said["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "I will look up both.");
    assert_eq!(message["tool_calls"][0]["id"], "get_weather_1");
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
    assert_eq!(said["choices"][0]["message"]["content"], "4");
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
    assert_eq!(arguments, [r#"{"city":"Paris"}"#, r#"{"city":"Rome"}"#]);
}

#[test]
fn an_answer_that_failed_is_none() {
    let stream = concat!(
        "data: {\"type\":\"message-start\",\"id\":\"a\",\"delta\":{\"message\":{\"content\":[]}}}\n\n",
        "data: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"ERROR\",\"error\":\"it broke\"}}\n\n",
    );
    let translated = ask(CHAT, ASKED, Dialect::Cohere, false).expect("a request");
    let failed = answered(translated, stream, Form::Events, 9).expect_err("a failure");
    assert_eq!(failed.message, "it broke");
    let body =
        r#"{"id":"a","message":{"role":"assistant","content":[]},"finish_reason":"TIMEOUT"}"#;
    let translated = ask(CHAT, ASKED, Dialect::Cohere, false).expect("a request");
    answered(translated, body, Form::Body, 9).expect_err("a failure");
    let translated = ask(CHAT, ASKED, Dialect::Cohere, false).expect("a request");
    let refused =
        (translated.answer).refusal(429, golden("upstreams/cohere/error.json").as_bytes());
    let said: Value = serde_json::from_slice(&refused.1).expect("JSON");
    assert_eq!(refused.0, 429);
    assert_eq!(said["error"]["code"], "rate_limit_exceeded");
}

#[test]
fn recordings_say_the_same_to_other_clients() {
    let Some(cases) = recordings("cohere-v2-chat") else {
        return;
    };
    assert!(!cases.is_empty());
    for (case, text) in cases {
        let form = match case["streamed"] == true {
            true => Form::Events,
            false => Form::Body,
        };
        let out = answered_any(CHAT, ASKED, Dialect::Cohere, &text, form);
        let said = value(&out);
        let id = &case["id"];
        assert_eq!(
            said["usage"]["prompt_tokens"], case["usage_raw"]["tokens"]["input_tokens"],
            "{id}"
        );
        assert_eq!(
            said["usage"]["completion_tokens"], case["usage_raw"]["tokens"]["output_tokens"],
            "{id}"
        );
        let message = &said["choices"][0]["message"];
        match form {
            Form::Body => {
                let expected = &value(&text)["message"]["content"][0]["text"];
                assert_eq!(message["content"], *expected, "{id}");
            }
            _ => {
                let calls = message["tool_calls"].as_array().expect("calls");
                assert_eq!(calls.len(), 2, "{id}");
                for call in calls {
                    value(call["function"]["arguments"].as_str().expect("text"));
                }
            }
        }
    }
}

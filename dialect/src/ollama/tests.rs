use serde_json::{Value, json};

use crate::ir::Unfit;
use crate::provider::Dialect;
use crate::surface::Form;
use crate::trial::{
    CHAT, OLLAMA_CHAT, OLLAMA_GENERATE, answered, answered_any, ask, asked, events, golden,
    recordings,
};

fn client(feature: &str) -> String {
    golden(&format!("clients/ollama-chat/{feature}.json"))
}

fn upstream(feature: &str) -> String {
    golden(&format!("upstreams/ollama/{feature}"))
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

// === clients ===

#[test]
fn a_client_streams_unless_it_says_no() {
    let body = r#"{"model":"a","messages":[{"role":"user","content":"Hi"}],"format":"","options":{},"keep_alive":null}"#;
    let said = asked(OLLAMA_CHAT, body, Dialect::OpenAi);
    assert_eq!(said["stream"], true);
    assert_eq!(said["messages"], json!([{"role": "user", "content": "Hi"}]));
    let said = asked(OLLAMA_CHAT, &client("text"), Dialect::OpenAi);
    assert!(said.get("stream").is_none_or(|stream| stream == false));
}

#[test]
fn options_find_their_places() {
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"format":"json","think":"high","options":{
        "temperature":0.5,"top_p":0.9,"num_predict":50,"stop":["END"],"seed":-1,"frequency_penalty":0.0}}"#;
    let said = asked(OLLAMA_CHAT, body, Dialect::OpenAi);
    assert_eq!(said["temperature"], 0.5);
    assert_eq!(said["max_completion_tokens"], 50);
    assert_eq!(said["stop"], json!(["END"]));
    assert_eq!(said["seed"], -1);
    assert_eq!(said["response_format"], json!({"type": "json_object"}));
    assert_eq!(said["reasoning_effort"], "high");
    assert_eq!(said.get("frequency_penalty"), None);
}

#[test]
fn what_only_a_server_of_ones_own_has_is_refused_by_name() {
    for (field, at) in [
        (r#""options":{"num_ctx":4096}"#, "options.num_ctx"),
        (r#""keep_alive":"5m""#, "keep_alive"),
    ] {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"Hi"}}],{field}}}"#);
        let refused = ask(OLLAMA_CHAT, &body, Dialect::OpenAi, false).expect_err("a refusal");
        assert!(
            matches!(&refused, Unfit::Inexpressible { at: named, .. } if named == at),
            "{refused}"
        );
        let lenient = ask(OLLAMA_CHAT, &body, Dialect::OpenAi, true).expect("a request");
        assert_eq!(lenient.dropped, [at]);
    }
    for field in [r#""raw":true"#, r#""template":"x""#, r#""suffix":"x""#] {
        let body = format!(r#"{{"prompt":"Hi",{field}}}"#);
        ask(OLLAMA_GENERATE, &body, Dialect::OpenAi, false).expect_err(field);
    }
}

#[test]
fn results_belong_to_calls_without_ids() {
    let body = r#"{"messages":[
        {"role":"user","content":"Both?"},
        {"role":"assistant","content":"","tool_calls":[
            {"function":{"name":"f","arguments":{"a":1}}},{"function":{"name":"g","arguments":{}}},
            {"function":{"name":"f","arguments":{"a":2}}}]},
        {"role":"tool","content":"of g","tool_name":"g"},
        {"role":"tool","content":"of f"},
        {"role":"tool","content":"of the second f","tool_name":"f"}]}"#;
    let said = asked(OLLAMA_CHAT, body, Dialect::OpenAi);
    let messages = &said["messages"];
    let ids: Vec<_> = (0..3)
        .map(|it| messages[1]["tool_calls"][it]["id"].clone())
        .collect();
    assert_eq!(
        messages[1]["tool_calls"][0]["function"]["arguments"],
        r#"{"a":1}"#
    );
    assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    assert_eq!(messages[2]["tool_call_id"], ids[1]);
    assert_eq!(messages[3]["tool_call_id"], ids[0]);
    assert_eq!(messages[4]["tool_call_id"], ids[2]);
    assert_eq!(messages[4]["content"], "of the second f");
}

#[test]
fn a_prompt_with_pictures_is_one_turn() {
    let said = asked(
        OLLAMA_GENERATE,
        &golden("clients/ollama-generate/image.json"),
        Dialect::OpenAi,
    );
    let content = &said["messages"][0]["content"];
    let url = content[0]["image_url"]["url"].as_str().expect("a URL");
    assert!(url.starts_with("data:image/png;base64,iVBOR"), "{url}");
    assert_eq!(content[1]["text"], "What is this?");
}

const OPENAI: &str = concat!(
    "data: {\"id\":\"a\",\"created\":1760000001,\"model\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"reasoning_content\":\"Hm\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c0\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"c1\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"1}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":4,\"total_tokens\":16}}\n\n",
    "data: [DONE]\n\n",
);

#[test]
fn a_stream_is_lines_with_whole_calls_and_one_last_word() {
    let body = client("tools_stream");
    let out = answered_any(OLLAMA_CHAT, &body, Dialect::OpenAi, OPENAI, Form::Events);
    let lines = events(&out);
    assert_eq!(
        lines[0],
        json!({"model": "x", "created_at": "2025-10-09T08:53:21Z",
            "message": {"role": "assistant", "content": "", "thinking": "Hm"}, "done": false})
    );
    assert_eq!(lines[1]["message"]["content"], "Hi");
    assert_eq!(
        lines[2]["message"]["tool_calls"],
        json!([{"id": "c0", "function": {"name": "f", "arguments": {"a": 1}}}])
    );
    assert_eq!(
        lines[3]["message"]["tool_calls"],
        json!([{"id": "c1", "function": {"name": "g", "arguments": {}}}])
    );
    let last = &lines[4];
    assert_eq!(
        (&last["done"], &last["done_reason"]),
        (&json!(true), &json!("stop"))
    );
    assert_eq!(last["prompt_eval_count"], 12);
    assert_eq!(last["eval_count"], 4);
    assert_eq!(lines.len(), 5, "{out}");
}

#[test]
fn a_call_is_told_when_its_arguments_are_there() {
    let body = client("tools_stream");
    let mut translated = ask(OLLAMA_CHAT, &body, Dialect::OpenAi, false).expect("a request");
    translated.answer.begin(Form::Events);
    let stream = concat!(
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]}}]}\n\n",
    );
    let mut out = Vec::new();
    translated
        .answer
        .feed(stream.as_bytes(), &mut out)
        .expect("events");
    let lines = events(std::str::from_utf8(&out).expect("text"));
    assert_eq!(lines.len(), 1, "the second waits for its arguments");
    assert_eq!(
        lines[0]["message"]["tool_calls"][0]["function"]["name"],
        "f"
    );
}

#[test]
fn arguments_that_are_no_object_are_text() {
    let stream = concat!(
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"ci\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n",
    );
    let body = client("tools_stream");
    let out = answered_any(OLLAMA_CHAT, &body, Dialect::OpenAi, stream, Form::Events);
    let lines = events(&out);
    assert_eq!(lines[0]["message"]["content"], "{\"ci");
    assert_eq!(lines[1]["done_reason"], "length");
}

#[test]
fn a_whole_answer_is_one_object() {
    let body = client("tools");
    let out = answered_any(OLLAMA_CHAT, &body, Dialect::OpenAi, OPENAI, Form::Events);
    let said = value(&out);
    assert_eq!(said["message"]["content"], "Hi");
    assert_eq!(said["message"]["thinking"], "Hm");
    assert_eq!(
        said["message"]["tool_calls"][0]["function"]["arguments"],
        json!({"a": 1})
    );
    assert_eq!(said["message"]["tool_calls"][1]["function"]["name"], "g");
    assert_eq!(
        (&said["done"], &said["eval_count"]),
        (&json!(true), &json!(4))
    );
    let generate = golden("clients/ollama-generate/text.json");
    let out = answered_any(
        OLLAMA_GENERATE,
        &generate,
        Dialect::OpenAi,
        OPENAI,
        Form::Events,
    );
    assert_eq!(value(&out)["response"], "Hi");
    assert_eq!(value(&out).get("message"), None);
}

#[test]
fn failures_are_told_in_its_words() {
    let body = client("stream");
    let translated = ask(OLLAMA_CHAT, &body, Dialect::OpenAi, false).expect("a request");
    let (status, said) = (translated.answer).refusal(429, br#"{"error":{"message":"slow down"}}"#);
    assert_eq!(status, 429);
    assert_eq!(
        value(std::str::from_utf8(&said).expect("text")),
        json!({"error": "slow down"})
    );
    let mut translated = translated;
    translated.answer.begin(Form::Events);
    let mut out = Vec::new();
    let stream = b"data: {\"error\":{\"message\":\"broken\"}}\n\n";
    translated
        .answer
        .feed(stream, &mut out)
        .expect_err("a failure");
    assert_eq!(out, b"{\"error\":\"broken\"}\n");
}

// === upstreams ===

#[test]
fn a_request_is_said_in_its_words() {
    let body = r#"{"messages":[
        {"role":"system","content":"Be brief."},
        {"role":"user","content":[{"type":"text","text":"What is this?"},
            {"type":"image_url","image_url":{"url":"data:image/png;base64,iVBO"}}]},
        {"role":"assistant","content":null,"reasoning_content":"Hm","tool_calls":[
            {"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
        {"role":"tool","tool_call_id":"c","content":"18 degrees"}],
        "tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],
        "max_tokens":50,"temperature":0.5,"seed":7,"stop":"END","reasoning_effort":"medium",
        "response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}}}"#;
    let translated = ask(CHAT, body, Dialect::Ollama, false).expect("a request");
    assert_eq!(translated.path, "/api/chat");
    let said = asked(CHAT, body, Dialect::Ollama);
    assert_eq!(
        said["messages"],
        json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is this?", "images": ["iVBO"]},
            {"role": "assistant", "content": "", "thinking": "Hm",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "content": "18 degrees", "tool_name": "f"},
        ])
    );
    assert_eq!(
        said["options"],
        json!({"num_predict": 50, "temperature": 0.5, "seed": 7, "stop": ["END"]})
    );
    assert_eq!(said["format"], json!({"type": "object"}));
    assert_eq!(
        (&said["think"], &said["stream"]),
        (&json!("medium"), &json!(false))
    );
}

#[test]
fn what_it_has_no_word_for_is_refused_by_name() {
    for (field, at) in [
        (r#""n":2"#, "n"),
        (r#""tool_choice":"required""#, "tool_choice"),
        (r#""logit_bias":{"1":2}"#, "logit_bias"),
    ] {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"Hi"}}],{field}}}"#);
        let refused = ask(CHAT, &body, Dialect::Ollama, false).expect_err(at);
        assert!(
            refused.to_string().contains(&format!("`{at}`")),
            "{refused}"
        );
    }
    let url = r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://a/b.png"}}]}]}"#;
    let refused = ask(CHAT, url, Dialect::Ollama, false).expect_err("a refusal");
    assert!(
        refused.to_string().contains("`messages[0].content[0]`"),
        "{refused}"
    );
}

#[test]
fn its_answers_are_read() {
    let body = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;
    let whole = |feature: &str| {
        let text = upstream(&format!("{feature}.json"));
        value(&answered_any(
            CHAT,
            body,
            Dialect::Ollama,
            &text,
            Form::Body,
        ))
    };
    let said = whole("text");
    assert_eq!(said["choices"][0]["message"]["content"], "Hello there!");
    assert_eq!(said["choices"][0]["finish_reason"], "stop");
    assert_eq!(said["model"], "llama3.2");
    assert_eq!(said["created"], 1_760_000_000);
    assert_eq!(
        said["usage"],
        json!({"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16})
    );
    let said = whole("parallel_tools");
    let calls = &said["choices"][0]["message"]["tool_calls"];
    assert_eq!(calls[0]["function"]["arguments"], {
        let arguments = calls[0]["function"]["arguments"].as_str().expect("text");
        assert_eq!(value(arguments), json!({"city": "Paris"}));
        arguments
    });
    assert_eq!(calls[1]["function"]["name"], "get_weather");
    assert_ne!(calls[0]["id"], calls[1]["id"]);
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
    let body = r#"{"messages":[{"role":"user","content":"Hi"}],"stream":true,"stream_options":{"include_usage":true}}"#;
    let stream = |feature: &str| {
        let text = upstream(&format!("{feature}.ndjson"));
        let out = answered_any(CHAT, body, Dialect::Ollama, &text, Form::Lines);
        assert!(out.ends_with("data: [DONE]\n\n"), "{out}");
        events(&out)
    };
    let said = stream("stream");
    let text: String = (said.iter())
        .filter_map(|it| it["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "Hello there!");
    assert_eq!(said.last().expect("usage")["usage"]["total_tokens"], 16);
    let said = stream("parallel_tools_stream");
    let begun: Vec<_> = (said.iter())
        .filter_map(|it| it["choices"][0]["delta"]["tool_calls"][0]["id"].as_str())
        .collect();
    assert_eq!(begun.len(), 2);
    assert_ne!(begun[0], begun[1]);
    assert!(
        said.iter()
            .any(|it| it["choices"][0]["finish_reason"] == "tool_calls")
    );
}

#[test]
fn a_stream_that_breaks_off_is_no_answer() {
    let body = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;
    let text = upstream("stream.ndjson");
    let cut = text.find("\"!\"").expect("a last piece");
    let translated = ask(CHAT, body, Dialect::Ollama, false).expect("a request");
    let cut = text[..cut].rfind('\n').expect("a line");
    answered(translated, &text[..=cut], Form::Lines, 10).expect_err("a cut stream");
    let translated = ask(CHAT, body, Dialect::Ollama, false).expect("a request");
    let failed = answered(translated, "{\"error\":\"no memory\"}\n", Form::Lines, 10);
    assert_eq!(failed.expect_err("a failure").message, "no memory");
}

#[test]
fn recordings_say_the_same_to_other_clients() {
    for (api, field) in [("ollama-chat", "message"), ("ollama-generate", "response")] {
        let Some(cases) = recordings(api) else { return };
        assert!(!cases.is_empty());
        for (case, text) in cases {
            let form = match case["streamed"] == true {
                true => Form::Lines,
                false => Form::Body,
            };
            let expected: String = (events(&text).iter())
                .filter_map(|line| {
                    let said = &line[field];
                    said.as_str()
                        .or(said["content"].as_str())
                        .map(str::to_owned)
                })
                .collect();
            let body = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;
            let out = answered_any(CHAT, body, Dialect::Ollama, &text, form);
            let said = value(&out);
            let id = &case["id"];
            assert_eq!(said["choices"][0]["message"]["content"], expected, "{id}");
            let used = &case["usage"];
            assert_eq!(said["usage"]["completion_tokens"], used["output"], "{id}");
            if !used["input"].is_null() {
                assert_eq!(said["usage"]["prompt_tokens"], used["input"], "{id}");
            }
        }
    }
}

// === lists ===

#[test]
fn the_list_of_models_names_them() {
    let said = super::tags(["a", "b:latest"]);
    let said = value(std::str::from_utf8(&said).expect("text"));
    assert_eq!(said["models"][0]["name"], "a");
    assert_eq!(said["models"][1]["model"], "b:latest");
    for list in [super::version(), super::running()] {
        value(std::str::from_utf8(&list).expect("text"));
    }
}

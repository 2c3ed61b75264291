//! Chat clients in front of Bedrock: what only some models take, what Converse can't say, and what becomes
//! of exceptions.

use serde_json::{Value, json};
use weir_dialect::ir::Unfit;
use weir_dialect::provider::{Dialect, Provider};
use weir_dialect::surface::{Form, Surface};
use weir_dialect::translate::{Ask, Target, Translated, request};

fn translated(body: &Value, model: &str, lenient: bool) -> Result<Translated, Unfit> {
    let body = body.to_string();
    let ask = Ask {
        surface: Surface::Chat,
        path: "/v1/chat/completions",
        query: None,
        body: body.as_bytes(),
        id: "1",
        now: 7,
        model: "m",
    };
    let provider = Provider::new(Dialect::Bedrock);
    let target = Target {
        provider: &provider,
        model,
        base: "",
        lenient,
        ask_usage: true,
    };
    request(&ask, &target)
}

fn said(body: &Value, model: &str) -> Value {
    let translated = translated(body, model, false).expect("a request");
    serde_json::from_slice(&translated.body).expect("JSON")
}

const CLAUDE: &str = "anthropic.claude-sonnet-4-5-20250929-v1:0";
const NOVA: &str = "us.amazon.nova-2-lite-v1:0";
const GPT_OSS: &str = "openai.gpt-oss-120b-1:0";
const PROFILE: &str = "arn:aws:bedrock:us-east-1:1:application-inference-profile/x";

fn hello(more: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    let to = body.as_object_mut().expect("an object");
    to.extend(more.as_object().expect("an object").clone());
    body
}

#[test]
fn each_family_has_its_own_fields_for_what_converse_has_no_place_for() {
    let body = hello(json!({"top_k": 5, "reasoning_effort": "high", "max_tokens": 3000}));
    let own = |body: &Value, model| said(body, model)["additionalModelRequestFields"].clone();
    let thinking = json!({"type": "enabled", "budget_tokens": 2999});
    assert_eq!(
        own(&body, CLAUDE),
        json!({"thinking": thinking, "top_k": 5})
    );
    let config = json!({"type": "enabled", "maxReasoningEffort": "high"});
    let nova = json!({"reasoningConfig": config, "inferenceConfig": {"topK": 5}});
    assert_eq!(own(&body, NOVA), nova);
    let body = hello(json!({"reasoning_effort": "high"}));
    assert_eq!(own(&body, GPT_OSS), json!({"reasoning_effort": "high"}));
    let path = translated(&hello(json!({})), PROFILE, false)
        .expect("a request")
        .path;
    let id = "arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aapplication-inference-profile%2Fx";
    assert_eq!(path, format!("/model/{id}/converse"));
}

#[test]
fn what_converse_cannot_say_is_refused_or_listed() {
    let image = |url: &str| json!([{"type": "image_url", "image_url": {"url": url}}]);
    for (body, at) in [
        (hello(json!({"seed": 1})), "seed"),
        (hello(json!({"presence_penalty": 0.5})), "presence_penalty"),
        (
            hello(json!({"frequency_penalty": 0.5})),
            "frequency_penalty",
        ),
        (hello(json!({"n": 2})), "n"),
        (hello(json!({"logprobs": true})), "logprobs"),
        (hello(json!({"top_k": 5})), "top_k"),
        (
            hello(json!({"reasoning_effort": "low"})),
            "reasoning_effort",
        ),
        (
            hello(json!({"response_format": {"type": "json_object"}})),
            "response_format",
        ),
        (
            hello(json!({"parallel_tool_calls": false})),
            "parallel_tool_calls",
        ),
        (hello(json!({"logit_bias": {"1": 2}})), "logit_bias"),
        (
            hello(json!({"messages": [{"role": "user", "content": image("https://x/y.png")}]})),
            "messages[0].content[0]",
        ),
        (
            hello(
                json!({"messages": [{"role": "user", "content": image("data:image/tiff;base64,AA==")}]}),
            ),
            "messages[0].content[0]",
        ),
    ] {
        let refused = translated(&body, PROFILE, false).expect_err("a refusal");
        let target = "bedrock";
        assert_eq!(
            refused,
            Unfit::Inexpressible {
                at: at.into(),
                target
            }
        );
        let lenient = translated(&body, PROFILE, true).expect("a request");
        assert_eq!(lenient.dropped, [at], "{body}");
    }
}

#[test]
fn turns_of_one_side_are_one_turn() {
    let call = |id: &str, city: &str| {
        let arguments = json!({"city": city}).to_string();
        json!({"id": id, "type": "function",
               "function": {"name": "get_weather", "arguments": arguments}})
    };
    let body = json!({"messages": [
        {"role": "user", "content": "Paris and Rome?"},
        {"role": "assistant", "tool_calls": [call("a", "Paris"), call("b", "Rome")]},
        {"role": "tool", "tool_call_id": "a", "content": "18 degrees"},
        {"role": "tool", "tool_call_id": "b", "content": ""},
        {"role": "user", "content": "Which is warmer?"},
    ]});
    let messages = &said(&body, CLAUDE)["messages"];
    let roles: Vec<_> = (messages.as_array().expect("a list").iter())
        .map(|it| it["role"].as_str().expect("a role"))
        .collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    let last = json!([
        {"toolResult": {"toolUseId": "a", "content": [{"text": "18 degrees"}]}},
        {"toolResult": {"toolUseId": "b", "content": [{"text": "(empty)"}]}},
        {"text": "Which is warmer?"},
    ]);
    assert_eq!(messages[2]["content"], last);
}

/// A message of Amazon's event stream; its checksums are 0.
fn frame(message_type: &str, name: &str, kind: &str, payload: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [(":message-type", message_type), (name, kind)] {
        headers.push(name.len() as u8);
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&(value.len() as u16).to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let len = 16 + headers.len() + payload.len();
    let mut frame = (len as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&headers);
    frame.extend_from_slice(payload.as_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame
}

#[test]
fn an_exception_ends_a_stream_with_an_error() {
    for (kind, code) in [
        ("throttlingException", "rate_limit_error"),
        ("validationException", "invalid_request_error"),
        ("modelStreamErrorException", "server_error"),
    ] {
        let body = hello(json!({"stream": true}));
        let mut translated = translated(&body, CLAUDE, false).expect("a request");
        translated.answer.begin(Form::Frames);
        let mut out = Vec::new();
        let first = frame(
            "event",
            ":event-type",
            "messageStart",
            r#"{"role":"assistant"}"#,
        );
        translated
            .answer
            .feed(&first, &mut out)
            .expect("a beginning");
        let broken = frame(
            "exception",
            ":exception-type",
            kind,
            r#"{"message":"No more."}"#,
        );
        let failure = translated
            .answer
            .feed(&broken, &mut out)
            .expect_err("a failure");
        assert_eq!(failure.message, "No more.");
        let out = String::from_utf8(out).expect("text");
        let last = out.trim_end().rsplit("\n\n").next().expect("an event");
        let told: Value = serde_json::from_str(&last["data: ".len()..]).expect("JSON");
        assert_eq!(told["error"]["type"], code, "{kind}");
        assert!(!out.contains("[DONE]"), "{kind}");
    }
}

#[test]
fn an_error_says_what_it_is() {
    let translated = translated(&hello(json!({})), CLAUDE, false).expect("a request");
    for (status, body, expected_status, kind) in [
        (429, r#"{"message":"Too many."}"#, 429, "rate_limit_error"),
        (
            400,
            r#"{"__type":"com.amazon.coral.service#ThrottlingException","message":"Too many."}"#,
            429,
            "rate_limit_error",
        ),
        (
            403,
            r#"{"__type":"ExpiredTokenException","Message":"It has expired."}"#,
            401,
            "authentication_error",
        ),
        (
            403,
            r#"{"Message":"You may not."}"#,
            403,
            "permission_error",
        ),
        (
            404,
            r#"{"message":"No such model."}"#,
            404,
            "invalid_request_error",
        ),
        (
            424,
            r#"{"message":"The model failed.","originalStatusCode":500}"#,
            502,
            "server_error",
        ),
        (503, "oops", 503, "server_error"),
    ] {
        let (status, told) = translated.answer.refusal(status, body.as_bytes());
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        assert_eq!(
            (status, &told["error"]["type"]),
            (expected_status, &json!(kind)),
            "{body}"
        );
    }
}

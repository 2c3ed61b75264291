//! Clients of the Responses API in front of Bedrock and Azure: what is asked, and what they are told,
//! whole and in pieces. The answers are those of `tests/golden/translate`.

use serde_json::{Value, json};
use weir_dialect::ir::Unfit;
use weir_dialect::provider::{Dialect, Provider};
use weir_dialect::surface::{Form, Surface};
use weir_dialect::translate::{Ask, Target, Translated, request};

fn golden(path: &str) -> Vec<u8> {
    let path = format!(
        "{}/../tests/golden/translate/{path}",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn translated(body: &[u8], dialect: Dialect, model: &str) -> Result<Translated, Unfit> {
    let ask = Ask {
        surface: Surface::Responses,
        path: "/v1/responses",
        query: None,
        body,
        id: "1",
        now: 7,
        model: "m",
    };
    let provider = Provider::new(dialect);
    let target = Target {
        provider: &provider,
        model,
        base: "",
        lenient: false,
        ask_usage: true,
    };
    request(&ask, &target)
}

const CLAUDE: &str = "us.anthropic.claude-sonnet-4-5-20250929-v1:0";

fn asked(feature: &str) -> (Translated, Value) {
    let body = golden(&format!("clients/responses/{feature}.json"));
    let translated = translated(&body, Dialect::Bedrock, CLAUDE).expect("a request");
    let said = serde_json::from_slice(&translated.body).expect("JSON");
    (translated, said)
}

/// The answer to a feature's request, fed in pieces of `cut` bytes.
fn answered(feature: &str, dialect: Dialect, cut: usize) -> String {
    let body = golden(&format!("clients/responses/{feature}.json"));
    let mut translated = translated(&body, dialect, CLAUDE).expect("a request");
    let stream = feature.contains("stream");
    let (ending, form) = match (dialect, stream) {
        (_, false) => ("json", Form::Body),
        (Dialect::Bedrock, true) => ("frames", Form::Frames),
        (_, true) => ("sse", Form::Events),
    };
    let answer = golden(&format!(
        "upstreams/{}/{feature}.{ending}",
        dialect.as_str()
    ));
    translated.answer.begin(form);
    let mut out = Vec::new();
    for piece in answer.chunks(cut) {
        translated.answer.feed(piece, &mut out).expect("an answer");
    }
    translated.answer.end(&mut out).expect("an end");
    String::from_utf8(out).expect("text")
}

/// The events of a stream, whose names and numbers must be right.
fn events(stream: &str) -> Vec<Value> {
    let mut events = Vec::new();
    for (number, event) in stream.trim_end().split("\n\n").enumerate() {
        let (name, data) = event.split_once('\n').expect("two lines");
        let data: Value = serde_json::from_str(&data["data: ".len()..]).expect("JSON");
        assert_eq!(
            name,
            format!("event: {}", data["type"].as_str().expect("a type"))
        );
        assert_eq!(data["sequence_number"], number);
        events.push(data);
    }
    events
}

#[test]
fn what_is_asked_stands_where_converse_has_it() {
    let (translated, said) = asked("text");
    let path = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse";
    assert_eq!(translated.path, path);
    let hello = json!([{"role": "user", "content": [{"text": "Say hello."}]}]);
    assert_eq!(said, json!({"messages": hello}));
    let (translated, _) = asked("stream");
    assert_eq!(translated.path, format!("{path}-stream"));
    let (_, said) = asked("system");
    assert_eq!(
        said,
        json!({"messages": hello, "system": [{"text": "Be brief."}]})
    );
    let (_, said) = asked("tools");
    assert_eq!(
        said["toolConfig"]["tools"][0]["toolSpec"]["name"],
        "get_weather"
    );
    assert_eq!(said["toolConfig"]["toolChoice"], Value::Null);
    let (_, said) = asked("tool_result");
    let history = json!([
        {"role": "user", "content": [{"text": "What is the weather in Paris?"}]},
        {"role": "assistant", "content": [
            {"toolUse": {"toolUseId": "call_1", "name": "get_weather", "input": {"city": "Paris"}}},
        ]},
        {"role": "user", "content": [
            {"toolResult": {"toolUseId": "call_1", "content": [{"text": "18 degrees"}]}},
        ]},
    ]);
    assert_eq!(said["messages"], history);
    let (_, said) = asked("image");
    assert_eq!(said["messages"][0]["content"][1]["image"]["format"], "png");
    let (_, said) = asked("schema");
    let schema = &said["outputConfig"]["textFormat"]["structure"]["jsonSchema"];
    let schema: Value =
        serde_json::from_str(schema["schema"].as_str().expect("text")).expect("JSON");
    assert_eq!(schema["required"], json!(["name", "age"]));
    let (_, said) = asked("reasoning");
    let thinking = json!({"thinking": {"type": "enabled", "budget_tokens": 4096}});
    assert_eq!(said["additionalModelRequestFields"], thinking);
}

#[test]
fn what_needs_a_state_is_refused_by_name() {
    for (body, at) in [
        (
            r#"{"input":"x","previous_response_id":"resp_1"}"#,
            "previous_response_id",
        ),
        (r#"{"input":"x","conversation":"conv_1"}"#, "conversation"),
        (r#"{"input":"x","prompt":{"id":"p"}}"#, "prompt"),
        (r#"{"input":"x","background":true}"#, "background"),
        (r#"{"input":"x","store":true}"#, "store"),
        (
            r#"{"input":[{"type":"item_reference","id":"i"}]}"#,
            "input[0]",
        ),
        (
            r#"{"input":[{"type":"web_search_call","id":"i"}]}"#,
            "input[0]",
        ),
        (
            r#"{"input":"x","tools":[{"type":"web_search"}]}"#,
            "tools[0]",
        ),
        (
            r#"{"input":"x","include":["file_search_call.results"]}"#,
            "include[0]",
        ),
        (r#"{"input":"x","truncation":"auto"}"#, "truncation"),
        (r"{}", "input"),
    ] {
        match translated(body.as_bytes(), Dialect::Bedrock, CLAUDE) {
            Err(Unfit::Invalid { at: said, .. } | Unfit::Inexpressible { at: said, .. }) => {
                assert_eq!(said, at, "{body}");
            }
            other => panic!("{body}: {other:?}"),
        }
    }
    let neutral = r#"{"input":"x","store":false,"background":false,"truncation":"disabled",
        "service_tier":"auto","metadata":{"a":"b"},"text":{"format":{"type":"text"}}}"#;
    translated(neutral.as_bytes(), Dialect::Bedrock, CLAUDE).expect("nothing that matters");
}

#[test]
fn a_whole_answer_is_a_response() {
    for dialect in [Dialect::Bedrock, Dialect::Azure] {
        let of = |feature| -> Value {
            serde_json::from_str(&answered(feature, dialect, 7)).expect("JSON")
        };
        let said = of("text");
        assert_eq!(said["output"][0]["content"][0]["text"], "Hello there!");
        assert_eq!(
            (&said["status"], &said["store"]),
            (&json!("completed"), &json!(false))
        );
        // The official SDK's types want all of it.
        let usage = json!({
            "input_tokens": 12,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 16,
        });
        assert_eq!(said["usage"], usage);
        let said = of("parallel_tools");
        for (place, city) in [(0, "Paris"), (1, "Rome")] {
            let arguments = said["output"][place]["arguments"].as_str().expect("text");
            let arguments: Value = serde_json::from_str(arguments).expect("JSON");
            assert_eq!(arguments, json!({"city": city}));
        }
    }
    let said: Value =
        serde_json::from_str(&answered("reasoning", Dialect::Bedrock, 7)).expect("JSON");
    assert_eq!(said["output"][0]["summary"][0]["text"], "Simple sum.");
    assert_eq!(said["output"][0]["encrypted_content"], "c2ln");
    assert_eq!(said["output"][1]["content"][0]["text"], "4");
}

#[test]
fn a_stream_tells_all_however_it_is_cut_and_repeats_it_at_its_end() {
    for dialect in [Dialect::Bedrock, Dialect::Azure] {
        for feature in [
            "stream",
            "tools_stream",
            "parallel_tools_stream",
            "reasoning_stream",
        ] {
            let whole = answered(feature, dialect, usize::MAX);
            for cut in [1, 2, 3, 5, 16, 100] {
                assert_eq!(
                    answered(feature, dialect, cut),
                    whole,
                    "{feature} in pieces of {cut}"
                );
            }
            let events = events(&whole);
            assert_eq!(events[0]["type"], "response.created");
            assert_eq!(events[1]["type"], "response.in_progress");
            // Azure's first chunk names nothing: the second does.
            let model = match dialect {
                Dialect::Azure => "gpt-4o-2024-11-20",
                _ => "m",
            };
            assert_eq!(events[0]["response"]["model"], model, "{feature}");
            let last = events.last().expect("an end");
            assert_eq!(last["type"], "response.completed");
            let output = last["response"]["output"].as_array().expect("a list");
            for (place, item) in output.iter().enumerate() {
                let of = |kind: &str| {
                    let mut found = events
                        .iter()
                        .filter(|it| it["type"] == kind && it["output_index"] == place);
                    let one = found.next().unwrap_or_else(|| panic!("{feature}: {kind}"));
                    assert_eq!(found.next(), None, "{feature}: {kind} comes once");
                    one
                };
                assert_eq!(of("response.output_item.added")["item"]["id"], item["id"]);
                assert_eq!(&of("response.output_item.done")["item"], item);
                let deltas: String = (events.iter())
                    .filter(|it| it["output_index"] == place)
                    .filter_map(|it| it["delta"].as_str())
                    .collect();
                let said = match item["type"].as_str().expect("a type") {
                    "message" => &item["content"][0]["text"],
                    "function_call" => &item["arguments"],
                    _ => &item["summary"][0]["text"],
                };
                assert_eq!(said, &deltas, "{feature}");
            }
        }
    }
}

#[test]
fn what_was_answered_can_be_sent_back() {
    let said: Value =
        serde_json::from_str(&answered("reasoning", Dialect::Bedrock, 7)).expect("JSON");
    let mut input = vec![json!({"role": "user", "content": "What is 2 + 2?"})];
    input.extend(said["output"].as_array().expect("a list").clone());
    input.push(json!({"role": "user", "content": "And 3?"}));
    let body = json!({"model": "m", "input": input}).to_string();
    let back = translated(body.as_bytes(), Dialect::Bedrock, CLAUDE).expect("a request");
    let back: Value = serde_json::from_slice(&back.body).expect("JSON");
    let turn = json!([
        {"reasoningContent": {"reasoningText": {"text": "Simple sum.", "signature": "c2ln"}}},
        {"text": "4"},
    ]);
    assert_eq!(back["messages"][1]["content"], turn);
}

#[test]
fn errors_keep_their_meaning() {
    let body = golden("clients/responses/error.json");
    for (dialect, code) in [
        (Dialect::Bedrock, json!("rate_limit_exceeded")),
        (Dialect::Azure, json!("429")),
    ] {
        let translated = translated(&body, dialect, CLAUDE).expect("a request");
        let error = golden(&format!("upstreams/{}/error.json", dialect.as_str()));
        let (status, told) = translated.answer.refusal(429, &error);
        let told: Value = serde_json::from_slice(&told).expect("JSON");
        assert_eq!(status, 429);
        assert_eq!(told["error"]["type"], "rate_limit_error");
        assert_eq!(told["error"]["code"], code);
    }
    // In the middle of a stream.
    let body = golden("clients/responses/stream.json");
    let mut translated = translated(&body, Dialect::Azure, "m").expect("a request");
    translated.answer.begin(Form::Events);
    let mut out = Vec::new();
    let broken =
        b"data: {\"error\":{\"message\":\"Slow down.\",\"type\":\"rate_limit_error\"}}\n\n";
    translated
        .answer
        .feed(broken, &mut out)
        .expect_err("a failure");
    let events = events(std::str::from_utf8(&out).expect("text"));
    let last = events.last().expect("an end");
    assert_eq!(last["type"], "response.failed");
    let error = json!({"code": "rate_limit_exceeded", "message": "Slow down."});
    assert_eq!(last["response"]["error"], error);
}

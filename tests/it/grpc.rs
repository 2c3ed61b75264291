//! Workers that speak `proto/llm_service.proto`, behind clients that don't: through the front door, with a
//! worker of the official gRPC library. That it understands what is asked, and is understood, shows that the
//! messages are those of the proto file.

use crate::support::grpc_worker::Worker;
use crate::support::{Answer, Gateway};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn gateway(worker: &Worker, more: &str) -> Gateway {
    Gateway::start(&format!(
        "providers:\n- {{name: w, dialect: grpc, base_url: \"{}\", api_key: sk-w, breaker: off}}\n\
         model_routes:\n  m: {{targets: [{{provider: w, model: echo}}]}}\n{more}",
        worker.url()
    ))
}

fn ask(text: &str, more: Value) -> String {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body.to_string()
}

fn content(answer: &Answer) -> Value {
    answer.json()["choices"][0]["message"]["content"].clone()
}

/// The data of each event of a stream.
fn data(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).expect("JSON"))
        .collect()
}

#[test]
fn a_workers_answer_comes_whole_with_the_usage_of_the_record() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "");
    let answer = gateway.post(CHAT, ask("Hello there you all!", json!({})));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(content(&answer), "Hello there you all!");
    let said = answer.json();
    assert_eq!(said["id"], "chunk-1");
    assert_eq!(said["created"], 1_700_000_000);
    assert_eq!(said["choices"][0]["finish_reason"], "stop");
    assert_eq!(said["usage"]["prompt_tokens"], 12);
    assert_eq!(said["usage"]["completion_tokens"], 4);
    assert_eq!(said["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    let record = &gateway.records(1)[0];
    for (name, value) in [
        ("input_tokens", json!(12)),
        ("output_tokens", json!(4)),
        ("cached_tokens", json!(2)),
        ("token_source", json!("upstream")),
        ("end", json!("complete")),
        ("status", json!(200)),
    ] {
        assert_eq!(record[name], value, "{name} of {record}");
    }
}

#[test]
fn a_stream_comes_word_by_word_and_says_that_it_is_whole() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "");
    let body = ask(
        "Hello there!",
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let answer = gateway.post(CHAT, &body);
    assert_eq!(answer.status(), 200);
    let text = answer.text();
    assert!(answer.whole && text.ends_with("data: [DONE]\n\n"), "{text}");
    let events = data(&text);
    let words: Vec<_> = (events.iter())
        .filter_map(|it| it["choices"][0]["delta"]["content"].as_str())
        .filter(|word| !word.is_empty())
        .collect();
    assert_eq!(words, ["Hello", " there!"]);
    assert_eq!(
        events.last().expect("events")["usage"]["prompt_tokens"],
        12,
        "{text}"
    );
    for name in ["grpc-status", "grpc-message", "grpc-accept-encoding"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    let by_h2 = gateway.h2_client().post(CHAT, &body);
    assert_eq!(by_h2.text(), text, "by HTTP/2");
    let record = &gateway.records(1)[0];
    assert_eq!(
        (&record["output_tokens"], &record["end"]),
        (&json!(2), &json!("complete"))
    );
}

#[test]
fn thoughts_come_with_their_seal() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "");
    let body = ask("2 + 2", json!({"reasoning_effort": "medium"}));
    let answer = gateway.post(CHAT, body);
    let said = answer.json();
    let message = &said["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "Simple sum.");
    assert_eq!(message["thinking_blocks"][0]["signature"], "c2ln");
    let details = &said["usage"]["completion_tokens_details"];
    assert_eq!(details["reasoning_tokens"], 3);
}

#[test]
fn parallel_calls_keep_their_ids_and_pieces() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "");
    let tools = json!([{"type": "function", "function": {
        "name": "get_weather", "parameters": {"type": "object"},
    }}]);
    for stream in [false, true] {
        let body = ask("Paris and Rome?", json!({"tools": tools, "stream": stream}));
        let answer = gateway.post(CHAT, body);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let mut calls = vec![(String::new(), String::new()); 2];
        let choices = match stream {
            true => data(&answer.text()),
            false => vec![answer.json()],
        };
        let mut finish = Value::Null;
        for said in &choices {
            let choice = &said["choices"][0];
            let delta = if stream { "delta" } else { "message" };
            let list = choice[delta]["tool_calls"].as_array();
            for (at, call) in list.into_iter().flatten().enumerate() {
                let at = call["index"].as_u64().map_or(at, |it| it as usize);
                calls[at]
                    .0
                    .push_str(call["id"].as_str().unwrap_or_default());
                let arguments = call["function"]["arguments"].as_str();
                calls[at].1.push_str(arguments.unwrap_or_default());
            }
            if choice["finish_reason"].is_string() {
                finish = choice["finish_reason"].clone();
            }
        }
        let expected = [
            ("call_1".to_owned(), r#"{"city": "Paris"}"#.to_owned()),
            ("call_2".to_owned(), r#"{"city": "Rome"}"#.to_owned()),
        ];
        assert_eq!(calls, expected, "stream: {stream}");
        assert_eq!(finish, "tool_calls");
    }
}

/// What the worker read of a request.
fn told(gateway: &Gateway, body: &Value) -> Value {
    let answer = gateway.post(CHAT, body.to_string());
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let text = content(&answer);
    serde_json::from_str(text.as_str().expect("text")).expect("JSON")
}

#[test]
fn a_worker_reads_all_that_a_client_said() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "timeouts: {total: 60s}\n");
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}});
    let body = json!({
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw==", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            ]},
            {"role": "assistant", "content": "Let me see.", "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Paris\"}"}},
            ]},
            {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
            {"role": "user", "name": "ana", "content": "tell"},
        ],
        "tools": [{"type": "function", "function": {
            "name": "get_weather", "description": "The weather.", "parameters": {"type": "object"}, "strict": true,
        }}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "parallel_tool_calls": false,
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": true}},
        "reasoning_effort": "high",
        "max_completion_tokens": 100, "temperature": 0.5, "top_p": 0.75,
        "frequency_penalty": 0.25, "presence_penalty": -0.25, "seed": -7, "stop": ["END"],
        "n": 2, "logprobs": true, "top_logprobs": 3, "user": "u-1",
    });
    let told = told(&gateway, &body);
    let request = json!({
        "model": "echo",
        "messages": [
            {"role": "ROLE_SYSTEM", "parts": [{"text": "Be brief."}]},
            {"role": "ROLE_USER", "parts": [
                {"text": "What is this?"},
                {"image": {"data": "iVBORw==", "media_type": "image/png", "detail": "low"}},
                {"image": {"url": "https://a.test/b.png"}},
                {"audio": {"data": "AAAA", "media_type": "audio/wav"}},
            ]},
            {"role": "ROLE_ASSISTANT", "parts": [{"text": "Let me see."}], "tool_calls": [
                {"id": "call_1", "name": "get_weather", "arguments": "{\"city\": \"Paris\"}"},
            ]},
            {"role": "ROLE_TOOL", "tool_call_id": "call_1", "name": "get_weather", "parts": [{"text": "18 degrees"}]},
            {"role": "ROLE_USER", "name": "ana", "parts": [{"text": "tell"}]},
        ],
        "tools": [{
            "name": "get_weather", "description": "The weather.", "parameters": "{\"type\":\"object\"}", "strict": true,
        }],
        "tool_choice": {"mode": "MODE_REQUIRED", "names": ["get_weather"]},
        "parallel_tool_calls": false,
        "response_format": {
            "type": "TYPE_JSON_SCHEMA", "name": "person", "schema": schema.to_string(), "strict": true,
        },
        "reasoning_effort": "high",
        "max_tokens": "100", "temperature": 0.5, "top_p": 0.75,
        "frequency_penalty": 0.25, "presence_penalty": -0.25, "seed": "-7", "stop": ["END"],
        "n": 2, "top_logprobs": 3, "user": "u-1",
    });
    assert_eq!(told["request"], request);
    assert_eq!(told["metadata"]["authorization"], "Bearer sk-w");
    let seconds = told["seconds"].as_f64().expect("a deadline");
    assert!((0.0..=60.0).contains(&seconds), "{seconds}");
}

#[test]
fn logprobs_come_with_their_words() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "");
    let answer = gateway.post(
        CHAT,
        ask("Hi", json!({"logprobs": true, "top_logprobs": 1})),
    );
    let said = answer.json();
    let token = &said["choices"][0]["logprobs"]["content"][0];
    assert_eq!(
        (&token["token"], &token["logprob"]),
        (&json!("Hi"), &json!(-0.5))
    );
    assert_eq!(token["top_logprobs"][0]["token"], "x");
}

#[test]
fn a_call_that_fails_at_once_has_the_status_of_http_and_the_workers_words() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "");
    for (code, status, kind) in [
        (3, 400, "invalid_request_error"),
        (4, 504, "server_error"),
        (5, 404, "invalid_request_error"),
        (7, 403, "permission_error"),
        (8, 429, "rate_limit_error"),
        (13, 500, "server_error"),
        (14, 503, "server_error"),
        (16, 401, "authentication_error"),
    ] {
        for stream in [false, true] {
            let body = ask(
                &format!("fail {code} zu müde: 100%"),
                json!({"stream": stream}),
            );
            let answer = gateway.post(CHAT, body);
            assert_eq!(answer.status(), status, "{code}: {}", answer.text());
            let error = &answer.json()["error"];
            assert_eq!(
                (&error["message"], &error["type"]),
                (&json!("zu müde: 100%"), &json!(kind)),
                "{code}"
            );
            let after = (code == 14).then_some("2");
            assert_eq!(answer.header("retry-after"), after, "{code}");
        }
    }
}

#[test]
fn a_call_that_fails_later_never_looks_like_a_whole_answer() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "");
    for text in ["break 8 worn out", "error 8 worn out"] {
        let answer = gateway.post(CHAT, ask(text, json!({"stream": true})));
        assert_eq!(answer.status(), 200);
        let stream = answer.text();
        assert!(!stream.contains("[DONE]"), "{stream}");
        let last = data(&stream).pop().expect("an event");
        assert_eq!(last["error"]["message"], "worn out", "{stream}");
        assert_eq!(last["error"]["type"], "rate_limit_error", "{stream}");
        let answer = gateway.post(CHAT, ask(text, json!({})));
        assert_eq!(answer.status(), 502, "{}", answer.text());
        assert!(answer.text().contains("worn out"), "{}", answer.text());
    }
    let ends: Vec<_> = (gateway.records(4).iter())
        .map(|record| record["end"].clone())
        .collect();
    assert!(ends.iter().all(|end| end != "complete"), "{ends:?}");
}

#[test]
fn a_worker_that_says_little_is_understood_and_its_tokens_are_counted() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "");
    let answer = gateway.post(CHAT, ask("silent", json!({"stream": true})));
    let text = answer.text();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(text.contains(r#""finish_reason":"stop""#), "{text}");
    let record = &gateway.records(1)[0];
    assert_ne!(record["token_source"], "upstream", "{record}");
    assert_eq!(record["output_tokens"], 1, "{record}");
}

#[test]
fn a_client_that_leaves_cancels_the_call() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "");
    let mut client = gateway.client();
    client.post(CHAT, ask("tick", json!({"stream": true})));
    assert_eq!(client.read_head().status, 200);
    client.read_text_until("tick");
    client.close();
    worker.wait_said("cancelled tick");
    assert_eq!(gateway.records(1)[0]["end"], "client_closed");
}

#[test]
fn a_deadline_ends_the_call_at_the_worker_too() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "timeouts: {total: 500ms}\n");
    let answer = gateway.post(CHAT, ask("tick", json!({"stream": true})));
    assert!(!answer.text().contains("[DONE]"));
    worker.wait_said("cancelled tick");
}

#[test]
fn embeddings_are_the_workers_numbers() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = gateway(&worker, "");
    let body = json!({"model": "m", "input": ["a", "bcd"], "dimensions": 2});
    let answer = gateway.post("/v1/embeddings", body.to_string());
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let said = answer.json();
    assert_eq!(said["data"][0]["embedding"], json!([1.0, 1.1]));
    assert_eq!(said["data"][1]["embedding"], json!([3.0, 3.1]));
    assert_eq!(said["usage"]["prompt_tokens"], 4);
    let record = &gateway.records(1)[0];
    assert_eq!(
        (&record["input_tokens"], &record["token_source"]),
        (&json!(4), &json!("upstream"))
    );
    let body = json!({"model": "m", "input": "fail"});
    let answer = gateway.post("/v1/embeddings", body.to_string());
    assert_eq!(answer.status(), 429, "{}", answer.text());
    assert_eq!(answer.json()["error"]["message"], "too many texts");
}

#[test]
fn calls_share_a_connection_and_go_to_the_worker_that_lives() {
    let (Some(one), Some(mut two)) = (Worker::start(), Worker::start()) else {
        return;
    };
    let gateway = Gateway::start(&format!(
        "providers:\n- {{name: w, dialect: grpc, urls: [\"{}\", \"{}\"]}}\n\
         model_routes:\n  m: {{targets: [{{provider: w, model: echo}}], retries: 2}}\n",
        one.url(),
        two.url()
    ));
    for _ in 0..6 {
        assert_eq!(content(&gateway.post(CHAT, ask("Hi", json!({})))), "Hi");
    }
    let reused = gateway.value(
        "weir_pool_requests_total",
        &[("road", "direct"), ("reused", "true")],
    );
    assert_eq!(reused, Some(4.0), "one connection for each worker");
    let endpoints: std::collections::BTreeSet<_> = (gateway.records(6).iter())
        .map(|record| record["endpoint"].to_string())
        .collect();
    assert_eq!(endpoints.len(), 2, "{endpoints:?}");
    two.kill();
    for _ in 0..6 {
        let answer = gateway.post(CHAT, ask("Hi", json!({})));
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
}

#[test]
fn a_worker_is_asked_for_its_health_by_the_standard_service() {
    let Some(worker) = Worker::start() else {
        return;
    };
    let gateway = Gateway::start(&format!(
        "providers:\n- {{name: w, dialect: grpc, base_url: \"{}\", health: {{interval: 50ms, rise: 1, fall: 1}}}}\n\
         model_routes:\n  m: {{targets: [{{provider: w, model: echo}}]}}\n",
        worker.url()
    ));
    assert_eq!(gateway.post(CHAT, ask("sick", json!({}))).status(), 200);
    gateway.wait_log("an endpoint doesn't answer its health checks");
}

#[test]
fn who_doesnt_speak_grpc_is_told_of() {
    let provider = crate::support::h2_provider::H2Provider::start(|exchange| {
        exchange.head(200, &[("content-type", "application/json")]);
        exchange.data("{}", true);
    });
    let gateway = Gateway::start(&format!(
        "providers:\n- {{name: w, dialect: grpc, base_url: \"http://{}\", breaker: off}}\n\
         model_routes:\n  m: {{targets: [{{provider: w, model: echo}}]}}\n",
        provider.address()
    ));
    let answer = gateway.post(CHAT, ask("Hi", json!({})));
    answer.assert_refused(502, "upstream_failed");
    assert!(answer.text().contains("gRPC"), "{}", answer.text());
}

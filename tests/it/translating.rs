//! Clients of one dialect, providers of another: through the front door. What each pair of dialects says
//! in detail is the golden matrix' affair; here it is what the proxy does with it.

use super::keys::sha256;
use crate::support::gate::Steps;
use crate::support::{Answer, Exchange, Gateway, Launch, Provider};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

/// What an Anthropic server streams, event by event.
const EVENTS: [(&str, &str); 7] = [
    (
        "message_start",
        r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"cache_read_input_tokens":2,"output_tokens":1}}}"#,
    ),
    (
        "content_block_start",
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
    ),
    (
        "content_block_delta",
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}"#,
    ),
    (
        "content_block_delta",
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" there!"}}"#,
    ),
    (
        "content_block_stop",
        r#"{"type":"content_block_stop","index":0}"#,
    ),
    (
        "message_delta",
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":4}}"#,
    ),
    ("message_stop", r#"{"type":"message_stop"}"#),
];

const WHOLE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"Hello there!"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":10,"cache_read_input_tokens":2,"output_tokens":4}}"#;

fn event(exchange: &mut Exchange, (name, data): (&str, &str)) -> bool {
    exchange.chunk(format!("event: {name}\ndata: {data}\n\n"))
}

fn asks_stream(exchange: &Exchange) -> bool {
    exchange.request.json()["stream"] == true
}

/// An Anthropic server that greets.
fn anthropic() -> Provider {
    Provider::start(|exchange| match asks_stream(exchange) {
        true => {
            exchange.stream();
            for said in EVENTS {
                event(exchange, said);
            }
            exchange.end();
        }
        false => exchange.json(200, WHOLE),
    })
}

/// A server of OpenAI's dialect that greets.
fn openai() -> Provider {
    Provider::start(|exchange| {
        exchange.json(
            200,
            r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt","choices":[{"index":0,"message":{"role":"assistant","content":"Hi from GPT"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}"#,
        );
    })
}

/// A gateway with providers `a` (of `dialect`) and what `more` says.
fn gateway(provider: &Provider, dialect: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "providers:\n- {{name: a, dialect: {dialect}, base_url: \"{}\", api_key: sk-a, breaker: off}}\n{more}",
        provider.url()
    ))
}

const ROUTE: &str = "model_routes:\n  m: {targets: [{provider: a, model: claude}]}\n";
const LENIENT: &str =
    "model_routes:\n  m: {targets: [{provider: a, model: claude}], lenient: true}\n";

fn ask(more: Value) -> String {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Say hello."}]});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body.to_string()
}

fn content(answer: &Answer) -> Value {
    answer.json()["choices"][0]["message"]["content"].clone()
}

#[test]
fn an_answer_of_another_dialect_comes_in_the_clients_own_with_the_usage_of_the_record() {
    let provider = anthropic();
    let gateway = gateway(&provider, "anthropic", ROUTE);
    let answer = gateway.post(CHAT, ask(json!({"max_tokens": 50})));
    assert_eq!(
        (answer.head.status, answer.whole),
        (200, true),
        "{}",
        answer.text()
    );
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(content(&answer), "Hello there!");
    let usage = &answer.json()["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"]),
        (&json!(12), &json!(4))
    );
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 2);
    let record = &gateway.records(1)[0];
    assert_eq!(
        (&record["input_tokens"], &record["output_tokens"]),
        (&json!(12), &json!(4))
    );
    assert_eq!(
        (&record["end"], &record["token_source"]),
        (&json!("complete"), &json!("upstream"))
    );
    let asked = provider.only_request();
    assert_eq!(asked.target, "/v1/messages");
    let body = asked.json();
    assert_eq!(
        (&body["model"], &body["max_tokens"]),
        (&json!("claude"), &json!(50))
    );
    assert_eq!(asked.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(
        (asked.header("x-api-key"), asked.header("authorization")),
        (Some("sk-a"), None)
    );
}

#[test]
fn each_event_of_a_stream_is_translated_before_the_next_is_sent() {
    let steps = Steps::default();
    let allowed = steps.clone();
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        for said in EVENTS {
            event(exchange, said);
            if said.1.contains("text_delta") {
                allowed.wait();
            }
        }
        exchange.end();
    });
    let gateway = gateway(&provider, "anthropic", ROUTE);
    let mut client = gateway.client();
    client.post(
        CHAT,
        ask(json!({"stream": true, "stream_options": {"include_usage": true}})),
    );
    let head = client.read_head();
    assert_eq!(head.status, 200);
    assert!(
        head.header("content-type")
            .is_some_and(|it| it.starts_with("text/event-stream"))
    );
    for text in ["Hello", " there!"] {
        let said = client.read_text_until(&format!("{{\"content\":\"{text}\"}}"));
        assert!(!said.contains("[DONE]"), "{said}");
        steps.allow();
    }
    let (rest, whole) = client.rest();
    let rest = String::from_utf8(rest).expect("text");
    assert!(whole && rest.ends_with("data: [DONE]\n\n"), "{rest}");
    assert!(
        rest.contains(r#""finish_reason":"stop""#) && rest.contains(r#""prompt_tokens":12"#),
        "{rest}"
    );
}

#[test]
fn a_client_of_anthropics_dialect_uses_a_server_of_openais() {
    let provider = openai();
    let gateway = gateway(&provider, "openai", ROUTE);
    let body = ask(json!({"max_tokens": 50, "system": "Be brief."}));
    let headers = [
        ("content-type", "application/json"),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "tools-2024-04-04"),
    ];
    let answer = gateway.post_with(MESSAGES, &headers, body);
    assert_eq!(answer.head.status, 200, "{}", answer.text());
    let said = answer.json();
    assert_eq!(said["content"][0]["text"], "Hi from GPT");
    assert_eq!(
        (&said["type"], &said["stop_reason"]),
        (&json!("message"), &json!("end_turn"))
    );
    assert_eq!(
        (
            &said["usage"]["input_tokens"],
            &said["usage"]["output_tokens"]
        ),
        (&json!(9), &json!(4))
    );
    let asked = provider.only_request();
    assert_eq!(asked.target, CHAT);
    assert_eq!(asked.header("authorization"), Some("Bearer sk-a"));
    assert_eq!(
        (
            asked.header("anthropic-version"),
            asked.header("anthropic-beta")
        ),
        (None, None)
    );
    let roles: Vec<_> = asked.json()["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .map(|it| it["role"].clone())
        .collect();
    assert_eq!(roles[1], "user");
    assert_eq!(asked.json()["messages"][0]["content"], "Be brief.");
}

#[test]
fn what_the_provider_cant_express_is_refused_by_name_or_dropped_and_listed() {
    let provider = anthropic();
    let strict = gateway(&provider, "anthropic", ROUTE);
    let body = ask(json!({"logit_bias": {"50256": -100}, "frequency_penalty": 0.5}));
    let answer = strict.post(CHAT, &body);
    assert_eq!(answer.head.status, 400, "{}", answer.text());
    assert_eq!(
        answer.header("x-weir-error"),
        Some("unsupported_by_provider")
    );
    let error = &answer.json()["error"];
    let named = error["param"].as_str().expect("a field");
    assert!(
        ["logit_bias", "frequency_penalty"].contains(&named),
        "{error}"
    );
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|it| it.contains(named)),
        "{error}"
    );
    assert!(provider.requests().is_empty());
    let lenient = gateway(&provider, "anthropic", LENIENT);
    let answer = lenient.post(CHAT, &body);
    assert_eq!(
        (answer.head.status, content(&answer)),
        (200, json!("Hello there!"))
    );
    let dropped = answer.header("x-weir-dropped").expect("a list");
    assert!(
        dropped.contains("logit_bias") && dropped.contains("frequency_penalty"),
        "{dropped}"
    );
}

#[test]
fn what_one_target_cant_express_goes_to_one_that_can() {
    let (first, second) = (anthropic(), openai());
    let gateway = gateway(
        &first,
        "anthropic",
        &format!(
            "- {{name: b, dialect: openai, base_url: \"{}\", api_key: sk-b}}\nmodel_routes:\n  m: {{targets: [{{provider: a, \
             weight: 1000}}, {{provider: b}}]}}\n",
            second.url()
        ),
    );
    let body = ask(json!({"logit_bias": {"50256": -100}}));
    for _ in 0..4 {
        let answer = gateway.post(CHAT, &body);
        assert_eq!(
            (answer.head.status, content(&answer)),
            (200, json!("Hi from GPT")),
            "{}",
            answer.text()
        );
    }
    assert!(first.requests().is_empty());
    assert_eq!(second.requests()[0].body, body.as_bytes(), "as it came");
    for record in gateway.records(4) {
        assert_eq!(record["provider"], "b");
    }
}

#[test]
fn a_fallback_of_another_dialect_gets_the_clients_own_request() {
    let first = Provider::start(|exchange| {
        exchange.json(
            529,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
        );
    });
    let second = openai();
    let gateway = gateway(
        &first,
        "anthropic",
        &format!(
            "- {{name: b, dialect: openai, base_url: \"{}\"}}\nmodel_routes:\n  m: {{targets: [{{provider: a}}], retries: 0, fallback: \
             [n]}}\n  n: {{targets: [{{provider: b}}]}}\n",
            second.url()
        ),
    );
    let answer = gateway.post(CHAT, ask(json!({})));
    assert_eq!(
        (answer.head.status, content(&answer)),
        (200, json!("Hi from GPT"))
    );
    assert_eq!(first.only_request().target, "/v1/messages");
    assert_eq!(second.only_request().target, CHAT);
}

#[test]
fn errors_come_in_the_clients_dialect_with_status_and_retry_after() {
    let provider = Provider::start(|exchange| {
        let body =
            br#"{"type":"error","error":{"type":"rate_limit_error","message":"Slow down."}}"#;
        exchange.answer(
            429,
            &[("retry-after", "7"), ("content-type", "application/json")],
            body,
        );
    });
    let gateway = gateway(
        &provider,
        "anthropic",
        "model_routes:\n  m: {targets: [{provider: a}], retries: 0}\n",
    );
    for stream in [false, true] {
        let answer = gateway.post(CHAT, ask(json!({"stream": stream})));
        assert_eq!((answer.head.status, answer.whole), (429, true));
        assert_eq!(answer.header("retry-after"), Some("7"));
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["message"], &error["type"]),
            (&json!("Slow down."), &json!("rate_limit_error"))
        );
    }
}

#[test]
fn an_answer_that_makes_no_sense_is_a_failure_and_no_cut_success() {
    for (body, coding) in [
        ("{\"id\":\"msg_1\",\"cont", None),
        ("<html>", None),
        ("", None),
        (WHOLE, Some("gzip")),
    ] {
        let provider = Provider::start(move |exchange| {
            let mut headers = vec![("content-type", "application/json")];
            headers.extend(coding.map(|coding| ("content-encoding", coding)));
            exchange.answer(200, &headers, body.as_bytes());
        });
        let gateway = gateway(&provider, "anthropic", ROUTE);
        let answer = gateway.post(CHAT, ask(json!({})));
        assert_eq!(
            (answer.head.status, answer.whole),
            (502, true),
            "{body}: {}",
            answer.text()
        );
        assert_eq!(
            answer.header("x-weir-error"),
            Some("upstream_failed"),
            "{body}"
        );
        assert!(answer.json()["error"]["message"].is_string());
    }
}

#[test]
fn a_stream_that_breaks_ends_with_an_error_in_the_clients_dialect() {
    type Broken = fn(&mut Exchange);
    let ways: [(Broken, &str); 4] = [
        (|exchange| exchange.reset(), "upstream_broke"),
        (|exchange| exchange.end(), "upstream_broke"),
        (
            |exchange| {
                exchange.chunk("event: content_block_delta\ndata: {\"type\":\n\n");
                exchange.end();
            },
            "upstream_broke",
        ),
        (
            |exchange| {
                let said = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
                event(exchange, ("error", said));
                exchange.end();
            },
            "upstream_broke",
        ),
    ];
    for (number, (way, end)) in ways.into_iter().enumerate() {
        let provider = Provider::start(move |exchange| {
            exchange.stream();
            for said in &EVENTS[..3] {
                event(exchange, *said);
            }
            way(exchange);
        });
        let gateway = gateway(&provider, "anthropic", ROUTE);
        let answer = gateway.post(CHAT, ask(json!({"stream": true})));
        let text = answer.text();
        assert!(
            text.contains("Hello") && !text.contains("[DONE]"),
            "{number}: {text}"
        );
        let errors = text.matches("\"error\":").count();
        assert_eq!(errors, 1, "{number}: {text}");
        assert_eq!(gateway.records(1)[0]["end"], end, "{number}");
    }
}

#[test]
fn tokens_are_counted_for_a_provider_that_counts_none() {
    let provider = openai();
    let gateway = gateway(&provider, "openai", ROUTE);
    let count = |text: &str| {
        let body =
            json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string();
        let answer = gateway.post("/v1/messages/count_tokens", body);
        assert_eq!(answer.head.status, 200, "{}", answer.text());
        answer.json()["input_tokens"].as_u64().expect("a number")
    };
    let (short, long) = (count("Hi"), count(&"word ".repeat(100)));
    assert!(
        (1..30).contains(&short) && (100..140).contains(&long),
        "{short} {long}"
    );
    assert!(provider.requests().is_empty());
    let answer = gateway.post("/v1/messages/count_tokens", r#"{"model":"m","messages":"#);
    assert_eq!(answer.head.status, 400);
}

#[test]
fn the_clients_own_key_goes_where_the_providers_dialect_has_it() {
    let provider = anthropic();
    let gateway = Gateway::start(&format!(
        "providers: [{{name: a, dialect: anthropic, base_url: \"{}\"}}]\n{ROUTE}",
        provider.url()
    ));
    let headers = [
        ("content-type", "application/json"),
        ("authorization", "Bearer sk-theirs"),
    ];
    let answer = gateway.post_with(CHAT, &headers, ask(json!({})));
    assert_eq!(answer.head.status, 200);
    let asked = provider.only_request();
    assert_eq!(
        (asked.header("x-api-key"), asked.header("authorization")),
        (Some("sk-theirs"), None)
    );
}

#[test]
fn the_same_dialect_passes_as_it_came() {
    let provider = anthropic();
    let gateway = gateway(
        &provider,
        "anthropic",
        "model_routes:\n  m: {targets: [{provider: a}]}\n",
    );
    let body = "{ \"model\":\"m\", \"future\" : [1.50, \"\\u00e9\"], \"messages\":[]}";
    let answer = gateway.post(MESSAGES, body);
    assert_eq!(answer.text(), WHOLE);
    assert_eq!(provider.only_request().body, body.as_bytes());
}

#[test]
fn usage_that_a_server_refuses_to_report_is_asked_for_once() {
    let asked = AtomicUsize::new(0);
    let provider = Provider::start(move |exchange| {
        if exchange.request.json()["stream_options"].is_object() {
            asked.fetch_add(1, Ordering::Relaxed);
            let message = r#"{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error"}}"#;
            return exchange.json(400, message);
        }
        exchange.stream();
        exchange.event(r#"{"id":"c","model":"gpt","created":1,"choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"}}]}"#);
        exchange.event(r#"{"id":"c","model":"gpt","created":1,"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
        exchange.event("[DONE]");
        exchange.end();
    });
    let gateway = gateway(&provider, "openai", ROUTE);
    for _ in 0..2 {
        let answer = gateway.post(MESSAGES, ask(json!({"max_tokens": 9, "stream": true})));
        let text = answer.text();
        assert_eq!(answer.head.status, 200, "{text}");
        assert!(
            text.contains("Hello") && text.contains("event: message_stop"),
            "{text}"
        );
    }
    assert_eq!(provider.requests().len(), 3, "once with, then without");
}

#[test]
fn geminis_clients_list_the_models_that_they_may_use() {
    let provider = openai();
    let gateway = gateway(&provider, "openai", ROUTE);
    let answer = gateway.get("/v1beta/models");
    assert_eq!(answer.head.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["models"][0]["name"], "models/m");
}

/// A key file of a service account whose tokens come from there.
fn service_account(folder: &std::path::Path, tokens: &str) {
    let key = std::process::Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
        ])
        .output()
        .expect("openssl");
    let file = json!({
        "type": "service_account",
        "client_email": "weir@project.iam.example",
        "private_key": String::from_utf8(key.stdout).expect("PEM"),
        "token_uri": format!("{tokens}/token"),
        "project_id": "project",
    });
    std::fs::write(folder.join("account.json"), file.to_string()).expect("a file");
}

const GEMINI: &str = r#"{"candidates":[{"content":{"role":"model","parts":[{"text":"Hello there!"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":12,"candidatesTokenCount":4,"totalTokenCount":16}}"#;

/// weir with a provider of Vertex whose tokens come from there, and a fallback.
fn vertex(provider: &Provider, tokens: &str, second: &Provider) -> Gateway {
    let launch = Launch::file(&format!(
        "providers:\n- {{name: v, dialect: vertex, base_url: \"{}\", region: europe-west4, service_account: account.json, \
         breaker: off}}\n- {{name: b, dialect: openai, base_url: \"{}\"}}\nmodel_routes:\n  m: {{targets: [{{provider: v, model: \
         gemini-2.5-flash}}], fallback: [n]}}\n  n: {{targets: [{{provider: b}}]}}\n",
        provider.url(),
        second.url()
    ));
    service_account(launch.folder().path(), tokens);
    launch.start()
}

#[test]
fn vertex_is_used_by_a_token_of_the_service_account_and_never_by_the_clients_key() {
    let tokens =
        Provider::json(r#"{"access_token":"tok-1","expires_in":3600,"token_type":"Bearer"}"#);
    let (provider, second) = (Provider::json(GEMINI), openai());
    let gateway = vertex(&provider, &tokens.url(), &second);
    tokens.wait_requests(1);
    gateway.wait_log("has a new token");
    let headers = [
        ("content-type", "application/json"),
        ("authorization", "Bearer theirs"),
    ];
    let answer = gateway.post_with(CHAT, &headers, ask(json!({})));
    assert_eq!(
        (answer.head.status, content(&answer)),
        (200, json!("Hello there!"))
    );
    let native = "/v1beta/models/m:generateContent";
    let body = r#"{"contents":[{"role":"user","parts":[{"text":"Hi"}]}]}"#;
    let answer = gateway.post_with(native, &headers, body);
    assert_eq!(answer.text(), GEMINI, "as it came");
    for asked in provider.requests() {
        let path = "/v1/projects/project/locations/europe-west4/publishers/google/models/gemini-2.5-flash:generateContent";
        assert_eq!(asked.target, path);
        assert_eq!(asked.all("authorization"), ["Bearer tok-1"]);
    }
    let asked = tokens.only_request();
    assert!(
        asked.text().contains(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=ey"
        )
    );
}

#[test]
fn without_a_token_nobody_is_asked_and_the_fallback_serves() {
    let tokens = Provider::start(|exchange| {
        exchange.json(
            400,
            r#"{"error":"invalid_grant","error_description":"No such account."}"#,
        );
    });
    let (provider, second) = (Provider::json(GEMINI), openai());
    let gateway = vertex(&provider, &tokens.url(), &second);
    let told = gateway.wait_log("no token could be got");
    assert!(
        told.contains("invalid_grant") && !told.contains("PRIVATE KEY"),
        "{told}"
    );
    let answer = gateway.post(CHAT, ask(json!({})));
    assert_eq!(
        (answer.head.status, content(&answer)),
        (200, json!("Hi from GPT"))
    );
    assert!(provider.requests().is_empty());
}

#[test]
fn what_goes_to_bedrock_is_what_was_signed() {
    use weir::dialect::bedrock::sign;
    let provider = Provider::json(
        r#"{"output":{"message":{"role":"assistant","content":[{"text":"Hello there!"}]}},"stopReason":"end_turn","usage":{"inputTokens":12,"outputTokens":4,"totalTokens":16}}"#,
    );
    let gateway = Gateway::start(&format!(
        "providers: [{{name: a, dialect: bedrock, base_url: \"{}\", region: eu-west-1, aws: {{access_key_id: AKID, \
         secret_access_key: sk}}}}]\nmodel_routes:\n  m: {{targets: [{{provider: a, model: \"amazon.nova-lite-v1:0\"}}]}}\n",
        provider.url()
    ));
    let headers = [
        ("content-type", "application/json"),
        ("authorization", "Bearer theirs"),
    ];
    let answer = gateway.post_with(CHAT, &headers, ask(json!({"max_tokens": 9})));
    assert_eq!(
        (answer.head.status, content(&answer)),
        (200, json!("Hello there!")),
        "{}",
        answer.text()
    );
    let asked = provider.only_request();
    assert_eq!(asked.target, "/model/amazon.nova-lite-v1%3A0/converse");
    let date = asked.header("x-amz-date").expect("a date");
    let then = chrono::NaiveDateTime::parse_from_str(date, "%Y%m%dT%H%M%SZ").expect("a date");
    let request = sign::Request {
        method: "POST",
        host: asked.header("host").expect("a host"),
        path: &asked.target,
        query: None,
        headers: &[],
        body: &asked.body,
        region: "eu-west-1",
        service: "bedrock",
    };
    let keys = sign::Keys {
        access: "AKID",
        secret: "sk",
        session: None,
    };
    let signed = sign::sign(&request, keys, then.and_utc().into()).expect("a signature");
    let (_, expected) = signed
        .iter()
        .find(|(name, _)| name == "authorization")
        .expect("one");
    assert_eq!(asked.all("authorization"), [expected.as_str()]);
}

#[test]
fn azures_paths_are_those_of_its_deployments() {
    let provider = openai();
    let gateway = gateway(
        &provider,
        "azure",
        "model_routes:\n  m: {targets: [{provider: a, model: my-gpt}]}\n",
    );
    let body = ask(json!({}));
    let answer = gateway.post(CHAT, &body);
    assert_eq!(
        (answer.head.status, content(&answer)),
        (200, json!("Hi from GPT"))
    );
    let answer = gateway.post(MESSAGES, ask(json!({"max_tokens": 9})));
    assert_eq!(answer.json()["content"][0]["text"], "Hi from GPT");
    for asked in provider.requests() {
        assert_eq!(
            asked.target,
            "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"
        );
        assert_eq!(
            (asked.header("api-key"), asked.header("authorization")),
            (Some("sk-a"), None)
        );
    }
}

#[test]
fn a_key_of_weir_goes_to_nobody_in_any_dialect() {
    let provider = anthropic();
    let gateway = Gateway::start(&format!(
        "providers: [{{name: a, dialect: anthropic, base_url: \"{}\"}}]\n{ROUTE}teams:\n- name: t\n  keys: [{{name: k, \
         sha256: {}}}]\n",
        provider.url(),
        sha256("wk-secret")
    ));
    for credential in [
        ("authorization", "Bearer wk-secret"),
        ("x-api-key", "wk-secret"),
    ] {
        let headers = [("content-type", "application/json"), credential];
        let answer = gateway.post_with(CHAT, &headers, ask(json!({})));
        assert_eq!(
            (answer.head.status, content(&answer)),
            (200, json!("Hello there!"))
        );
    }
    for asked in provider.wait_requests(2) {
        let head = String::from_utf8_lossy(&asked.head).into_owned();
        assert!(
            !head.contains("wk-secret") && !asked.text().contains("wk-secret"),
            "{head}"
        );
        assert_eq!(
            (asked.header("x-api-key"), asked.header("authorization")),
            (None, None)
        );
    }
}

#[test]
fn a_client_that_leaves_a_translated_stream_ends_it_at_once() {
    let steps = Steps::default();
    let allowed = steps.clone();
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        for said in &EVENTS[..3] {
            event(exchange, *said);
        }
        allowed.wait();
        exchange.wait_end();
    });
    let gateway = gateway(&provider, "anthropic", ROUTE);
    let mut client = gateway.client();
    client.post(CHAT, ask(json!({"stream": true})));
    client.read_head();
    client.read_text_until("Hello");
    client.close();
    steps.allow();
    provider.wait_end(0);
    let record = &gateway.records(1)[0];
    assert_eq!(record["end"], "client_closed", "{record}");
    gateway.wait_value("weir_in_flight", &[], 0.0);
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
}

#[test]
fn a_long_request_is_translated_as_a_short_one_is() {
    let provider = anthropic();
    let gateway = gateway(&provider, "anthropic", ROUTE);
    let text = "words, \"quoted\" \u{1f600} ".repeat(20_000);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string();
    let answer = gateway.post(CHAT, body);
    assert_eq!(
        (answer.head.status, content(&answer)),
        (200, json!("Hello there!"))
    );
    let said = provider.only_request().json();
    let said = &said["messages"][0]["content"];
    assert!(said == &json!(text) || said[0]["text"] == json!(text));
}

#[test]
fn what_a_whole_answer_takes_is_bounded_and_given_back() {
    let text = "x".repeat(3 << 20);
    let whole = WHOLE.replace("Hello there!", &text);
    let provider = Provider::start(move |exchange| {
        exchange.answer(
            200,
            &[("content-type", "application/json")],
            whole.as_bytes(),
        );
    });
    let gateway = gateway(
        &provider,
        "anthropic",
        "limits: {buffered_bytes: 2MiB}\nmodel_routes:\n  m: {targets: [{provider: a}], retries: 0}\n",
    );
    let answer = gateway.post(CHAT, ask(json!({})));
    assert_eq!(
        (answer.head.status, answer.whole),
        (503, true),
        "{}",
        answer.text()
    );
    assert_eq!(answer.header("x-weir-error"), Some("overloaded"));
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
}

#[test]
fn geminis_clients_get_a_list_or_events_as_they_ask() {
    let provider = anthropic();
    let gateway = gateway(&provider, "anthropic", ROUTE);
    let body = r#"{"contents":[{"role":"user","parts":[{"text":"Say hello."}]}]}"#;
    let path = "/v1beta/models/m:streamGenerateContent";
    let list = gateway.post(path, body);
    assert_eq!(list.header("content-type"), Some("application/json"));
    let said = list.json();
    let texts = said.as_array().expect("a list").iter();
    let texts = texts.filter_map(|it| it["candidates"][0]["content"]["parts"][0]["text"].as_str());
    assert_eq!(texts.collect::<String>(), "Hello there!");
    let events = gateway.post(&format!("{path}?alt=sse"), body);
    let text = events.text();
    assert!(
        text.starts_with("data: {") && text.contains("Hello"),
        "{text}"
    );
    assert_eq!(
        provider.requests()[1].target,
        "/v1/messages",
        "the query is the client's dialect's"
    );
}

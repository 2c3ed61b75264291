//! Which provider a request goes to, and under which URL and name it arrives there.

use crate::support::client::Client;
use crate::support::provider::nobody;
use crate::support::{Answer, Gateway, Launch, Provider};
use parking_lot::Mutex;
use serde_json::json;
use std::net::SocketAddr;

const CHAT: &str = "/v1/chat/completions";
const DONE: &str = r#"{"ok":true}"#;

/// Held by tests that need ports which are always the same (8000, 8080, 9900).
pub static PORTS: Mutex<()> = Mutex::new(());

/// One small JSON body that names a model.
fn naming(model: &str) -> String {
    json!({"model": model}).to_string()
}

/// The targets (path and query) that a provider was asked for, in order.
fn targets(provider: &Provider) -> Vec<String> {
    provider
        .requests()
        .into_iter()
        .map(|request| request.target)
        .collect()
}

#[track_caller]
fn assert_ok(answer: &Answer) {
    assert_eq!((answer.status(), answer.text().as_str()), (200, DONE));
}

// === which rule ===

#[test]
fn the_file_of_go_llm_proxy_starts_weir_as_it_stands() {
    const GO_LLM_PROXY: &str = r#"# proxy_url: "http://proxy.example.com:8080"
port: 8000
rate_limit: { rate: 5, burst: 10 }
target_map:
  "/chat/completions": "https://ark.cn-beijing.volces.com/api/v3"
  "/v1/search": "https://api.firecrawl.dev"
  "/embeddings": "https://open.bigmodel.cn/api/paas/v4"
  "/v1/embeddings": "http://10.236.50.39:10032"
model_routes:
  "gpt-4": "https://api.openai.com/v1"
  "claude-3-opus-20240229": "https://api.anthropic.com/v1"
  "embedding-2":
    urls: ["https://open.bigmodel.cn/api/paas/v3", "https://open.bigmodel.cn/api/paas/v4"]
"#;
    let _ports = PORTS.lock();
    for port in [8000, 9900] {
        if let Err(error) = std::net::TcpListener::bind(("0.0.0.0", port)) {
            panic!("port {port} must be free for this test: {error}");
        }
    }
    let weir = Launch::exactly(GO_LLM_PROXY).start();
    assert_eq!(weir.address(), "0.0.0.0:8000".parse().unwrap());
    assert_eq!(weir.admin(), "127.0.0.1:9900".parse().unwrap());
    let public = SocketAddr::from(([127, 0, 0, 1], 8000));
    let mut client = Client::connect(public);
    client.request("GET", "/healthz", &[], b"");
    let health = client.answer();
    assert_eq!((health.status(), health.text().as_str()), (200, "OK"));
    // What goes nowhere is told so; nothing is sent anywhere.
    client.post("/v1/nowhere", naming("unknown"));
    client.answer().assert_refused(404, "model_not_found");
    client.request("GET", "/v1/models", &[], b"");
    let models = client.answer().json();
    let ids: Vec<_> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["id"])
        .collect();
    assert_eq!(ids, ["gpt-4", "claude-3-opus-20240229", "embedding-2"]);
}

#[test]
fn an_exact_name_wins_then_the_longest_glob_then_the_path_then_the_default() {
    let [exact, long, short, path, default] = std::array::from_fn(|_| Provider::json(DONE));
    let weir = Gateway::start(&format!(
        r#"
model_routes:
  gpt-4o: "{}"
  "gpt-4*": "{}"
  "gpt-*": "{}"
  quick: gpt-4o
  quicker: quick
target_map: {{/v1/chat: "{}"}}
providers: [{{name: rest, base_url: "{}"}}]
routing: {{default_provider: rest}}
"#,
        exact.url(),
        long.url(),
        short.url(),
        path.url(),
        default.url(),
    ));
    for (at, model, provider) in [
        (CHAT, "gpt-4o", &exact),
        (CHAT, "quicker", &exact),
        (CHAT, "gpt-4-turbo", &long),
        (CHAT, "gpt-3.5", &short),
        (CHAT, "unknown", &path),
        ("/v1/chatter", "unknown", &default),
        ("/v1/search", "gpt-4o", &exact),
    ] {
        assert_ok(&weir.post(at, naming(model)));
        let request = provider.only_request();
        // An alias isn't known upstream: the name that it stands for is sent.
        let sent = if model == "quicker" { "gpt-4o" } else { model };
        assert_eq!(
            (request.target.as_str(), request.text()),
            (at, naming(sent))
        );
        provider.forget();
    }
    for provider in [exact, long, short, path, default] {
        assert!(provider.requests().is_empty(), "somebody was asked twice");
    }
}

#[test]
fn without_a_rule_the_answer_is_404_and_says_what_was_missing() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!("model_routes: {{known: \"{}\"}}", provider.url()));
    let unknown = weir.post(CHAT, naming("unknown"));
    unknown.assert_refused(404, "model_not_found");
    assert_eq!(unknown.json()["error"]["param"], "model");
    assert_eq!(unknown.json()["error"]["type"], "invalid_request_error");
    let none = weir.post(CHAT, "{}");
    none.assert_refused(400, "invalid_request");
    assert_eq!(none.json()["error"]["param"], "model");
    weir.get("/nothing").assert_refused(404, "no_route");
    assert!(provider.requests().is_empty());
    let mut ends: Vec<_> = weir
        .records(3)
        .iter()
        .map(|record| record["end"].as_str().unwrap_or_default().to_owned())
        .collect();
    ends.sort_unstable();
    assert_eq!(
        ends,
        [
            "refused:invalid_request",
            "refused:model_not_found",
            "refused:no_route"
        ]
    );
}

#[test]
fn target_map_takes_the_longest_path_at_a_slash_boundary() {
    let [short, long] = std::array::from_fn(|_| Provider::json(DONE));
    let weir = Gateway::start(&format!(
        "target_map: {{/v1: \"{}\", /v1/search/: \"{}\"}}",
        short.url(),
        long.url()
    ));
    for (path, provider) in [
        ("/v1", &short),
        ("/v1/", &short),
        ("/v1/searching", &short),
        ("/v1/search", &long),
        ("/v1/search/", &long),
        ("/v1/search/x?a=b", &long),
    ] {
        assert_ok(&weir.get(path));
        assert_eq!(targets(provider), [path]);
        provider.forget();
    }
    weir.get("/v10").assert_refused(404, "no_route");
}

// === which URL ===

#[test]
fn a_base_with_a_path_replaces_v1_and_the_query_is_kept_as_it_came() {
    let provider = Provider::json(DONE);
    let url = provider.url();
    let weir = Gateway::start(&format!(
        r#"
model_routes: {{deep: "{url}/api/paas/v4", v1: "{url}/v1/", bare: "{url}"}}
target_map: {{/embeddings: "{url}/api/v3", /v1/embeddings: "{url}"}}
"#
    ));
    for (model, path, target) in [
        ("deep", "/v1/embeddings", "/api/paas/v4/embeddings"),
        ("deep", "/embeddings", "/api/paas/v4/embeddings"),
        ("v1", "/v1/embeddings", "/v1/embeddings"),
        ("v1", "/embeddings", "/v1/embeddings"),
        ("bare", "/v1/embeddings", "/v1/embeddings"),
        ("bare", "/embeddings", "/embeddings"),
        ("none", "/embeddings", "/api/v3/embeddings"),
        ("none", "/v1/embeddings", "/v1/embeddings"),
        (
            "deep",
            "/v1/embeddings?api-version=2024-02-01&x=%2F%20+&&=",
            "/api/paas/v4/embeddings?api-version=2024-02-01&x=%2F%20+&&=",
        ),
        ("bare", "/v1/a%2Fb//c/?", "/v1/a%2Fb//c/?"),
    ] {
        assert_ok(&weir.post(path, naming(model)));
        assert_eq!(targets(&provider), [target], "{model} {path}");
        provider.forget();
    }
}

#[test]
fn several_urls_are_used_in_turns() {
    let providers: [Provider; 3] = std::array::from_fn(|_| Provider::json(DONE));
    let urls: Vec<_> = providers
        .iter()
        .map(|it| format!("\"{}/v1\"", it.url()))
        .collect();
    let weir = Gateway::start(&format!(
        "model_routes: {{m: {{urls: [{}]}}}}",
        urls.join(", ")
    ));
    let mut client = weir.client();
    for _ in 0..12 {
        client.post(CHAT, naming("m"));
        assert_ok(&client.answer());
    }
    let counts: Vec<_> = providers.iter().map(|it| it.requests().len()).collect();
    assert_eq!(counts, [4, 4, 4]);
}

#[test]
fn targets_get_their_share_by_weight_and_each_its_own_name_of_the_model() {
    let [heavy, light] = std::array::from_fn(|_| Provider::json(DONE));
    let weir = Gateway::start(&format!(
        r#"
providers:
  - {{name: heavy, base_url: "{}/v1"}}
  - {{name: light, base_url: "{}/v1"}}
model_routes:
  m: {{targets: [{{provider: heavy, weight: 3}}, {{provider: light, model: "other/m", weight: 1}}]}}
"#,
        heavy.url(),
        light.url()
    ));
    let mut client = weir.client();
    for _ in 0..40 {
        client.post(CHAT, r#"{ "model" : "m" , "x":1}"#);
        let answer = client.answer();
        assert_ok(&answer);
        assert_eq!(answer.header("x-weir-model"), Some("m"));
    }
    assert_eq!((heavy.requests().len(), light.requests().len()), (30, 10));
    assert_eq!(heavy.requests()[0].text(), r#"{ "model" : "m" , "x":1}"#);
    assert_eq!(
        light.requests()[0].text(),
        r#"{ "model" : "other/m" , "x":1}"#
    );
    let record = weir.record_where("a record of the light one", |it| it["provider"] == "light");
    assert_eq!(
        (&record["model"], &record["upstream_model"]),
        (&json!("m"), &json!("other/m"))
    );
}

#[test]
fn models_of_a_provider_are_routes_of_these_names() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{}/v1\", models: [a, \"b*\"]}}]",
        provider.url()
    ));
    assert_ok(&weir.post(CHAT, naming("a")));
    assert_ok(&weir.post(CHAT, naming("b7")));
    weir.post(CHAT, naming("c"))
        .assert_refused(404, "model_not_found");
}

// === where the model is named ===

#[test]
fn the_path_of_a_deployment_names_the_model_and_its_mapped_name_stands_there() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!(
        r#"
providers: [{{name: azure, base_url: "{0}"}}]
model_routes:
  gpt-4o: "{0}"
  mapped: {{targets: [{{provider: azure, model: "my gpt/4o"}}]}}
"#,
        provider.url()
    ));
    let deployment = |name| format!("/openai/deployments/{name}/chat/completions?api-version=1");
    assert_ok(&weir.post(&deployment("gpt-4o"), r#"{"messages":[]}"#));
    assert_ok(&weir.post(&deployment("mapped"), r#"{"messages":[]}"#));
    assert_ok(&weir.post(&deployment("gpt%2D4o"), r#"{"messages":[]}"#));
    weir.post(&deployment("unknown"), "{}")
        .assert_refused(404, "model_not_found");
    assert_eq!(
        targets(&provider),
        [
            deployment("gpt-4o"),
            deployment("my%20gpt%2F4o"),
            deployment("gpt%2D4o"),
        ]
    );
}

#[test]
fn the_path_of_gemini_names_the_model_and_its_mapped_name_stands_there() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!(
        r#"
providers: [{{name: google, base_url: "{0}"}}]
model_routes:
  "gemini-*": "{0}"
  mapped: {{targets: [{{provider: google, model: gemini-2.5-pro}}]}}
"#,
        provider.url()
    ));
    for (path, target) in [
        (
            "/v1beta/models/gemini-x:generateContent",
            "/v1beta/models/gemini-x:generateContent",
        ),
        (
            "/v1beta/models/mapped:streamGenerateContent?alt=sse",
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
        ),
    ] {
        assert_ok(&weir.post(path, r#"{"contents":[]}"#));
        assert_eq!(targets(&provider), [target]);
        provider.forget();
    }
    let refused = weir.post("/v1beta/models/x:generateContent", "{}");
    assert_eq!(refused.header("x-weir-error"), Some("model_not_found"));
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["code"], &error["status"]),
        (&404.into(), &"NOT_FOUND".into())
    );
}

#[test]
fn a_form_names_the_model_and_only_the_mapped_name_changes_in_it() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!(
        r#"
providers: [{{name: p, base_url: "{0}"}}]
model_routes: {{whisper-1: "{0}", mapped: {{targets: [{{provider: p, model: whisper-large-v3}}]}}}}
"#,
        provider.url()
    ));
    let form = |model: &str| {
        let mut form = Vec::new();
        form.extend_from_slice(b"--xyz\r\nContent-Disposition: form-data; name=\"file\"; ");
        form.extend_from_slice(b"filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n");
        form.extend(0..=255_u8);
        form.extend_from_slice(
            b"\r\n--xyz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n",
        );
        form.extend_from_slice(model.as_bytes());
        form.extend_from_slice(b"\r\n--xyz--\r\n");
        form
    };
    let headers = [("content-type", "multipart/form-data; boundary=\"xyz\"")];
    for (model, arrives) in [("whisper-1", "whisper-1"), ("mapped", "whisper-large-v3")] {
        let answer = weir.post_with("/v1/audio/transcriptions", &headers, form(model));
        assert_ok(&answer);
        assert_eq!(answer.header("x-weir-model"), Some(model));
        assert_eq!(provider.only_request().body, form(arrives));
        provider.forget();
    }
    let unknown = weir.post_with("/v1/audio/transcriptions", &headers, form("unknown"));
    unknown.assert_refused(404, "model_not_found");
}

// === the list of models ===

#[test]
fn the_list_of_models_is_answered_from_the_configuration() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!(
        r#"
providers: [{{name: p, base_url: "{0}/v1", models: ["org/m", "glob-*"]}}]
model_routes: {{gpt-4: "{0}", fast: gpt-4}}
routing: {{default_provider: p}}
"#,
        provider.url()
    ));
    for path in ["/v1/models", "/models"] {
        let list = weir.get(path);
        assert_eq!(list.header("content-type"), Some("application/json"));
        let list = list.json();
        assert_eq!(list["object"], "list");
        let mut ids: Vec<_> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| {
                assert_eq!(model["object"], "model");
                assert!(
                    model["created"].is_i64() && model["owned_by"].is_string(),
                    "{model}"
                );
                model["id"].as_str().unwrap()
            })
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, ["fast", "gpt-4", "org/m"]);
    }
    assert_eq!(weir.get("/v1/models/gpt-4").json()["id"], "gpt-4");
    assert_eq!(weir.get("/v1/models/org/m").json()["id"], "org/m");
    assert_eq!(weir.get("/v1/models/org%2Fm").json()["id"], "org/m");
    assert_eq!(weir.get("/v1/models/org%2Fm").json()["owned_by"], "p");
    weir.get("/v1/models/none")
        .assert_refused(404, "model_not_found");
    assert!(provider.requests().is_empty());
}

#[test]
fn the_list_of_models_is_asked_of_the_provider_where_the_configuration_names_none() {
    let provider = Provider::json(r#"{"object":"list","data":[]}"#);
    let weir = Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{}/v1\"}}]\nrouting: {{default_provider: p}}",
        provider.url()
    ));
    assert_eq!(
        weir.get("/v1/models").text(),
        r#"{"object":"list","data":[]}"#
    );
    assert_eq!(weir.get("/v1/models/some").status(), 200);
    assert_eq!(targets(&provider), ["/v1/models", "/v1/models/some"]);
}

// === what can't be reached ===

#[test]
fn a_connect_failure_tries_the_next_url() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!(
        "model_routes: {{m: {{urls: [\"http://{}/v1\", \"{}/v1\"]}}}}",
        nobody(),
        provider.url()
    ));
    let mut attempts = Vec::new();
    for _ in 0..4 {
        let answer = weir.post(CHAT, naming("m"));
        assert_ok(&answer);
        attempts.push(answer.header("x-weir-attempts").unwrap().to_owned());
    }
    attempts.sort_unstable();
    assert_eq!(attempts, ["1", "1", "2", "2"]);
    let requests = provider.requests();
    assert!(
        requests.iter().all(|it| it.text() == naming("m")),
        "the body is sent again whole"
    );
    assert_eq!(
        weir.value(
            "llm_upstream_error_total",
            &[("error_type", "connect_refused")]
        ),
        Some(2.0)
    );
    let record = weir.record_where("a second try", |it| it["attempts"] == 2);
    assert_eq!(
        (&record["status"], &record["end"]),
        (&json!(200), &json!("complete"))
    );
    assert_eq!(record["endpoint"], provider.address().to_string());
}

#[test]
fn retries_bound_the_tries_and_the_last_failure_is_told() {
    let weir = Gateway::start(&format!(
        "model_routes: {{m: {{urls: [\"http://{}\", \"http://{}\", \"http://{}\"], retries: 1}}}}",
        nobody(),
        nobody(),
        nobody()
    ));
    let answer = weir.post(CHAT, naming("m"));
    answer.assert_refused(502, "upstream_failed");
    assert_eq!(answer.json()["error"]["type"], "server_error");
    let record = &weir.records(1)[0];
    assert_eq!(
        (&record["attempts"], &record["status"]),
        (&json!(2), &json!(502))
    );
    assert_eq!(record["end"], "refused:upstream_failed");
    assert_eq!(weir.value("llm_upstream_error_total", &[]), Some(2.0));
}

// === what weir tells of it ===

#[test]
fn answers_say_which_route_and_provider_served_them() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!(
        r#"
providers: [{{name: Prime, base_url: "{0}"}}]
model_routes: {{"gpt-*": {{targets: [{{provider: Prime}}]}}}}
routing: {{default_provider: Prime}}
"#,
        provider.url()
    ));
    let answer = weir.post(CHAT, naming("gpt-77"));
    assert_eq!(answer.header("x-weir-model"), Some("gpt-*"));
    assert_eq!(answer.header("x-weir-provider"), Some("Prime"));
    assert_eq!(answer.header("x-weir-attempts"), Some("1"));
    assert_eq!(answer.header("x-weir-error"), None);
    let other = weir.post(CHAT, naming("else"));
    assert_eq!(other.header("x-weir-model"), None);
    assert_eq!(other.header("x-weir-provider"), Some("Prime"));
}

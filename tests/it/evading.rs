//! What somebody in a team does to get more than it may: limits that no upstream believes, prompts and
//! models that are hidden, paths that are written otherwise, and what nobody can meter.

use crate::keys::sha256;
use crate::support::{Answer, Gateway, Provider};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const JSON: &str = "application/json";
const SECRET: &str = "weir-correct-horse-battery-staple";
const DONE: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":0,"completion_tokens":1,"total_tokens":1}}"#;

/// One team, and models whose tokens cost a dollar each: answers of `m` have ten at most, nobody has said
/// how many those of `long` have; `unpriced` has no price.
fn gateway(provider: &Provider, limits: &str, team: &str) -> Gateway {
    let (hash, url) = (sha256(SECRET), provider.url());
    Gateway::start(&format!(
        "limits: {{{limits}}}\n\
         prices: {{m: {{input: 0, output: 1000000, max_output: 10}}, long: {{input: 0, output: 1000000}}}}\n\
         model_routes: {{m: \"{url}\", long: \"{url}\", unpriced: \"{url}\"}}\n\
         target_map: {{\"/\": \"{url}\"}}\n\
         teams: [{{name: search{team}, keys: [{{name: ci, sha256: {hash}}}]}}]\n"
    ))
}

fn post(weir: &Gateway, path: &str, media: Option<&str>, body: &str) -> Answer {
    let authorization = format!("Bearer {SECRET}");
    let mut headers = vec![("authorization", &*authorization)];
    headers.extend(media.map(|media| ("content-type", media)));
    let mut client = weir.client();
    client.request("POST", path, &headers, body.as_bytes());
    client.answer()
}

/// The status, and weir's code where it refuses.
fn outcome(answer: &Answer) -> (u16, String) {
    let code = answer.header("x-weir-error").unwrap_or_default();
    (answer.status(), code.to_owned())
}

fn ask(weir: &Gateway, path: &str, body: &str) -> (u16, String) {
    outcome(&post(weir, path, Some(JSON), body))
}

fn upgrade(weir: &Gateway, path: &str) -> (u16, String) {
    let authorization = format!("Bearer {SECRET}");
    let headers = [
        ("authorization", &*authorization),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];
    let mut client = weir.client();
    client.send_head("GET", path, &headers);
    let head = client.read_head();
    let code = head.header("x-weir-error").unwrap_or_default();
    (head.status, code.to_owned())
}

fn no(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn yes() -> (u16, String) {
    no(200, "")
}

/// A model server that takes WebSockets too.
fn provider() -> Provider {
    Provider::start(|exchange| {
        if exchange.request.header("upgrade").is_none() {
            return exchange.json(200, DONE);
        }
        exchange.head(
            101,
            &[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-accept", "x"),
            ],
        );
        exchange.close();
    })
}

const GEMINI: &str = "/v1beta/models/m:generateContent";
const CONVERSE: &str = "/model/m/converse";
const DASHSCOPE: &str = "/api/v1/services/aigc/text-generation/generation";

// === how long an answer may be ===

#[test]
fn only_what_its_own_api_understands_bounds_an_answer() {
    let provider = provider();
    let weir = gateway(&provider, "", ", budget: {usd: 9.5, per: total}");
    for (path, body) in [
        (CHAT, r#"{"model":"m","messages":[],"max_output_tokens":1}"#),
        (CHAT, r#"{"model":"m","messages":[],"max_tokens":"1"}"#),
        (CHAT, r#"{"model":"m","messages":[],"max_tokens":-1}"#),
        (CHAT, r#"{"model":"m","messages":[],"max_tokens":0}"#),
        (CHAT, r#"{"model":"m","messages":[],"max_tokens":1.5}"#),
        (CHAT, r#"{"model":"m","messages":[],"max_tokens":null}"#),
        (CHAT, r#"{"model":"m","messages":[],"max_tokens":1e300}"#),
        (CHAT, r#"{"model":"m","messages":[],"max_tokens":[1]}"#),
        (
            CHAT,
            r#"{"model":"m","messages":[],"max_tokens":1,"max_tokens":100}"#,
        ),
        (
            CHAT,
            r#"{"model":"m","messages":[],"max_tokens":1,"max_completion_tokens":-1}"#,
        ),
        (
            CHAT,
            r#"{"model":"m","messages":[],"max_tokens":1,"n_predict":100}"#,
        ),
        (CHAT, r#"{"model":"m","messages":[],"max_tokens":1,"n":10}"#),
        (
            CHAT,
            r#"{"model":"m","messages":[],"max_tokens":1,"n":"10"}"#,
        ),
        (
            CHAT,
            r#"{"model":"m","messages":[],"options":{"num_predict":1}}"#,
        ),
        // After half a character, which some readers stop at.
        (
            CHAT,
            r#"{"model":"m","max_tokens":1,"messages":[{"content":"\ud800"}],"max_tokens":100}"#,
        ),
        (
            CHAT,
            r#"{"model":"m","max_tokens":1,"messages":[{"content":"\ud800"}],"n":10}"#,
        ),
        (
            "/v1/completions",
            r#"{"model":"m","prompt":"a","max_completion_tokens":1}"#,
        ),
        (
            "/v1/completions",
            r#"{"model":"m","prompt":"a","max_tokens":1,"best_of":10}"#,
        ),
        (RESPONSES, r#"{"model":"m","input":"a","max_tokens":1}"#),
        (
            "/v1/messages",
            r#"{"model":"m","messages":[],"max_completion_tokens":1}"#,
        ),
        (GEMINI, r#"{"contents":[],"maxOutputTokens":1}"#),
        (
            GEMINI,
            r#"{"contents":[],"generationConfig":{"max_tokens":1}}"#,
        ),
        (
            GEMINI,
            r#"{"contents":[],"generationConfig":{"maxOutputTokens":1,"candidateCount":10}}"#,
        ),
        (
            "/api/chat",
            r#"{"model":"m","messages":[],"num_predict":1}"#,
        ),
        (
            "/api/chat",
            r#"{"model":"m","messages":[],"options":{"num_predict":-1}}"#,
        ),
        (
            "/v2/chat",
            r#"{"model":"m","messages":[],"max_output_tokens":1}"#,
        ),
        (
            DASHSCOPE,
            r#"{"model":"m","input":{"prompt":"a"},"max_tokens":1}"#,
        ),
        (CONVERSE, r#"{"messages":[],"maxTokens":1}"#),
        ("/model/m/invoke", r#"{"messages":[],"max_tokens":1}"#),
        // Nobody has said how long these are.
        (CHAT, r#"{"model":"long","messages":[]}"#),
        (CHAT, r#"{"model":"long","messages":[],"max_tokens":1e6}"#),
    ] {
        assert_eq!(
            ask(&weir, path, body),
            no(429, "budget_exceeded"),
            "{path} {body}"
        );
    }
    assert!(provider.requests().is_empty());
}

#[test]
fn what_its_api_understands_does_bound_it() {
    // Whoever refuses has used nothing.
    let provider = Provider::start(|exchange| exchange.json(400, "{}"));
    let weir = gateway(&provider, "", ", budget: {usd: 9.5, per: total}");
    for (path, body) in [
        (CHAT, r#"{"model":"m","messages":[],"max_tokens":9}"#),
        (
            CHAT,
            r#"{"model":"m","messages":[],"max_completion_tokens":3,"n":3}"#,
        ),
        (
            CHAT,
            r#"{"model":"m","messages":[],"max_tokens":9,"max_completion_tokens":null}"#,
        ),
        (
            "/v1/completions",
            r#"{"model":"m","prompt":"a","max_tokens":9}"#,
        ),
        (
            RESPONSES,
            r#"{"model":"m","input":"a","max_output_tokens":9}"#,
        ),
        (
            "/v1/messages",
            r#"{"model":"m","messages":[],"max_tokens":9}"#,
        ),
        (
            GEMINI,
            r#"{"contents":[],"generationConfig":{"maxOutputTokens":9}}"#,
        ),
        (
            GEMINI,
            r#"{"contents":[],"generation_config":{"max_output_tokens":9}}"#,
        ),
        (
            "/api/chat",
            r#"{"model":"m","messages":[],"options":{"num_predict":9}}"#,
        ),
        ("/v2/chat", r#"{"model":"m","messages":[],"max_tokens":9}"#),
        (
            DASHSCOPE,
            r#"{"model":"m","input":{"prompt":"a"},"parameters":{"max_tokens":9}}"#,
        ),
        (
            CONVERSE,
            r#"{"messages":[],"inferenceConfig":{"maxTokens":9}}"#,
        ),
    ] {
        assert_eq!(ask(&weir, path, body), no(400, ""), "{path} {body}");
    }
}

#[test]
fn no_answer_is_thought_longer_than_its_model_makes_them() {
    let provider = provider();
    let weir = gateway(&provider, "", ", budget: {usd: 20.5, per: total}");
    let body = r#"{"model":"m","messages":[],"max_tokens":1000000,"n":2}"#;
    assert_eq!(ask(&weir, CHAT, body), yes());
}

// === what can't be metered ===

const METERED: [&str; 3] = [
    ", budget: {usd: 1000000, per: total}",
    ", limits: {tokens_per_minute: 1000000}",
    ", limits: {in_flight_tokens: 1000000}",
];

#[test]
fn what_cant_be_metered_is_refused_to_whom_it_is_metered_for() {
    let provider = provider();
    for team in METERED {
        let weir = gateway(&provider, "", team);
        for path in [
            "/v1/realtime?model=m",
            "/v1/realtime?intent=transcription",
            "/v1/responses?model=m",
            "/v1/anything",
        ] {
            assert_eq!(upgrade(&weir, path), no(403, "unmetered"), "{team} {path}");
        }
        for (path, body) in [
            (
                RESPONSES,
                r#"{"model":"m","input":"a","max_output_tokens":1,"background":true}"#,
            ),
            (
                RESPONSES,
                r#"{"model":"m","input":"a","max_output_tokens":1,"background":1}"#,
            ),
            ("/v1/unknown", r#"{"model":"m","max_tokens":1}"#),
            (
                "/v1/realtime/client_secrets",
                r#"{"session":{"type":"realtime"}}"#,
            ),
            ("/v1/realtime/sessions", r#"{"model":"m"}"#),
            ("/v1/batches", r#"{"input_file_id":"f"}"#),
            ("/v1/messages/batches", r#"{"requests":[]}"#),
            ("/v1/threads/t/runs", r#"{"assistant_id":"a"}"#),
            ("/v1beta/models/m:batchGenerateContent", "{}"),
            (
                "/v1beta/models/m:generateContent?fields=candidates",
                r#"{"contents":[]}"#,
            ),
            ("/generate", r#"{"inputs":"a"}"#),
            ("/models/org/name", r#"{"inputs":"a"}"#),
        ] {
            assert_eq!(
                ask(&weir, path, body),
                no(403, "unmetered"),
                "{team} {path} {body}"
            );
        }
        assert!(provider.requests().is_empty(), "{team}");
        let spends_nothing = ask(&weir, "/v1/moderations", r#"{"model":"m","input":"a"}"#);
        assert_eq!(spends_nothing, yes(), "{team}");
        let whole = r#"{"model":"m","input":"a","max_output_tokens":1,"background":false}"#;
        assert_eq!(ask(&weir, RESPONSES, whole), yes(), "{team}");
        provider.forget();
    }
    let weir = gateway(&provider, "", METERED[0]);
    let refused = post(
        &weir,
        "/v1/realtime/sessions",
        Some(JSON),
        r#"{"model":"m"}"#,
    );
    assert!(
        refused.text().contains("`limits.unmetered`"),
        "{}",
        refused.text()
    );
    assert_eq!(refused.header("x-should-retry"), Some("false"));
}

#[test]
fn what_cant_be_metered_passes_where_nobody_meters_or_the_setting_says_so() {
    let provider = provider();
    let free = gateway(&provider, "", "");
    assert_eq!(upgrade(&free, "/v1/realtime?model=m"), no(101, ""));
    let weir = gateway(&provider, "unmetered: allow", METERED[0]);
    assert_eq!(upgrade(&weir, "/v1/realtime?model=m"), no(101, ""));
    // Nobody has said what this costs, which is another setting.
    let transcription = upgrade(&weir, "/v1/realtime?intent=transcription");
    assert_eq!(transcription, no(403, "unpriced_model"));
}

#[test]
fn what_goes_on_in_the_background_is_charged_as_it_was_reserved() {
    let provider = Provider::json(
        r#"{"id":"resp_1","object":"response","status":"queued","output":[],"usage":null}"#,
    );
    let weir = gateway(
        &provider,
        "unmetered: allow",
        ", budget: {usd: 15, per: total}",
    );
    let body = r#"{"model":"m","input":"a","max_output_tokens":8,"background":true}"#;
    assert_eq!(ask(&weir, RESPONSES, body), yes());
    weir.records(1);
    assert_eq!(ask(&weir, RESPONSES, body), no(429, "budget_exceeded"));
}

// === which model ===

const GLOBS: &str = ", models: [m, \"open-*\", \"/v1/free*\"]";

#[test]
fn a_websocket_passes_globs_only_where_its_model_is_fixed_and_allowed() {
    let provider = provider();
    let weir = gateway(&provider, "", GLOBS);
    for path in [
        "/v1/responses?model=m",
        "/v1/realtime",
        "/v1/realtime?intent=transcription",
        "/v1/realtime?model=m&intent=transcription",
        "/v1/realtime?model=m&Model=long",
        "/v1/realtime?model=m&deployment=long",
        "/openai/realtime?deployment=long",
        "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent?model=m",
    ] {
        assert_eq!(upgrade(&weir, path), no(403, "model_not_allowed"), "{path}");
    }
    assert!(provider.requests().is_empty());
    for path in [
        "/v1/realtime?model=m",
        "/openai/realtime?deployment=m",
        "/v1/free?model=open-x",
        "/v1beta/models/m:bidiGenerateContent",
    ] {
        assert_eq!(upgrade(&weir, path), no(101, ""), "{path}");
    }
}

#[test]
fn a_field_that_another_server_reads_as_a_known_one_is_refused() {
    let provider = provider();
    let weir = gateway(&provider, "", "");
    for (body, code) in [
        (
            r#"{"model":"m","Model":"long","messages":[]}"#,
            "duplicate_field",
        ),
        (
            r#"{"MODEL":"long","model":"m","messages":[]}"#,
            "duplicate_field",
        ),
        (r#"{"Model":"long","messages":[]}"#, "invalid_request"),
        (
            r#"{"model":"m","messages":[],"max_tokens":1,"Max_Tokens":100}"#,
            "duplicate_field",
        ),
        (
            "{\"model\":\"m\",\"messages\":[],\"max_to\u{212a}ens\":100}",
            "invalid_request",
        ),
        (
            "{\"model\":\"m\",\"messages\":[],\"\u{17f}tream\":true}",
            "invalid_request",
        ),
        (
            r#"{"model":"m","messages":[],"Stream":true}"#,
            "invalid_request",
        ),
    ] {
        assert_eq!(ask(&weir, CHAT, body), no(400, code), "{body}");
    }
    // An API that nobody knows has fields of its own.
    assert_eq!(
        ask(&weir, "/v1/search", r#"{"Options":1,"Model":"x"}"#),
        yes()
    );
    let restricted = gateway(&provider, "", GLOBS);
    let twice = r#"{"model":"m","Model":"long"}"#;
    assert_eq!(
        ask(&restricted, "/v1/free", twice),
        no(400, "duplicate_field")
    );
    assert_eq!(ask(&restricted, "/v1/free", r#"{"Options":1}"#), yes());
    let nested = r#"{"model":"m","messages":[],"metadata":{"Model":"x"}}"#;
    assert_eq!(ask(&weir, CHAT, nested), yes());
}

#[test]
fn each_model_of_a_list_must_be_allowed_and_priced() {
    let provider = provider();
    let weir = gateway(&provider, "", ", models: [m]");
    for body in [
        r#"{"model":"m","models":["m","long"],"route":"fallback","messages":[]}"#,
        r#"{"model":"m","models":"long","messages":[]}"#,
        r#"{"models":["long"],"messages":[]}"#,
        r#"{"model":"m","fallbacks":[{"model":"long"}],"messages":[]}"#,
        r#"{"model":"m","fallbacks":["long"],"messages":[]}"#,
    ] {
        assert_eq!(
            ask(&weir, CHAT, body),
            no(403, "model_not_allowed"),
            "{body}"
        );
    }
    let allowed = r#"{"model":"m","models":["m"],"messages":[]}"#;
    assert_eq!(ask(&weir, CHAT, allowed), yes());
    let weir = gateway(&provider, "", ", budget: {usd: 15, per: total}");
    let unpriced = r#"{"model":"m","models":["unpriced"],"messages":[],"max_tokens":1}"#;
    assert_eq!(ask(&weir, CHAT, unpriced), no(403, "unpriced_model"));
    let dear = r#"{"model":"m","models":["long"],"messages":[]}"#;
    assert_eq!(ask(&weir, CHAT, dear), no(429, "budget_exceeded"));
}

#[test]
fn the_model_in_a_path_is_the_one_that_counts() {
    let provider = provider();
    let weir = gateway(&provider, "", ", models: [m]");
    for path in [
        "/v1beta/models/long:generateContent",
        "/v1beta/Models/long:generateContent",
        "/v1beta/models%2Flong:generateContent",
        "/v1beta/tunedModels/long:generateContent",
        "/v1beta/models/tunedModels/long:generateContent",
        "/v1/projects/p/locations/l/endpoints/1:generateContent",
        "/model/long/converse",
        "/Model/long/converse",
        "/model/l%6fng/invoke",
        "/openai/Deployments/long/chat/completions",
    ] {
        let answer = ask(&weir, path, r#"{"model":"m"}"#);
        assert!(matches!(answer.0, 400 | 403), "{path} {answer:?}");
    }
    assert!(provider.requests().is_empty());
    // Its price, too.
    let weir = gateway(&provider, "", ", budget: {usd: 15, per: total}");
    let body = r#"{"model":"m","contents":[]}"#;
    let dear = ask(&weir, "/v1beta/models/long:generateContent", body);
    assert_eq!(dear, no(429, "budget_exceeded"));
    let unpriced = ask(
        &weir,
        "/openai/deployments/unpriced/chat/completions",
        r#"{"model":"m","messages":[]}"#,
    );
    assert_eq!(unpriced, no(403, "unpriced_model"));
}

#[test]
fn a_query_names_no_other_model_than_the_body() {
    let provider = provider();
    let weir = gateway(&provider, "", METERED[0]);
    let body = r#"{"model":"m","messages":[],"max_tokens":1}"#;
    for query in [
        "model=long",
        "Model=long",
        "%6dodel=long",
        "model=m&deployment=long",
    ] {
        let path = format!("{CHAT}?{query}");
        assert_eq!(
            ask(&weir, &path, body),
            no(400, "invalid_request"),
            "{query}"
        );
    }
    assert!(provider.requests().is_empty());
    assert_eq!(ask(&weir, &format!("{CHAT}?model=m&x=long"), body), yes());
}

// === how it is written ===

#[test]
fn a_path_is_known_however_it_is_written_and_goes_on_as_it_was() {
    let provider = provider();
    let weir = gateway(&provider, "", ", budget: {usd: 9.5, per: total}");
    for path in [
        "/v1/chat/%63ompletions",
        "/v1/chat/completions/",
        "//v1/chat//completions",
        "/V1/Chat/Completions",
    ] {
        let body = r#"{"model":"m","messages":[]}"#;
        assert_eq!(ask(&weir, path, body), no(429, "budget_exceeded"), "{path}");
        let body = r#"{"model":"m","messages":[],"max_tokens":1}"#;
        assert_eq!(ask(&weir, path, body), yes(), "{path}");
        let record =
            weir.record_where("its record", |it| it["path"] == path && it["status"] == 200);
        assert_eq!(record["output_tokens"], 1, "{record}");
        let targets: Vec<_> = provider
            .requests()
            .into_iter()
            .map(|it| it.target)
            .collect();
        assert_eq!(targets, [path]);
        provider.forget();
    }
    for path in [
        "/v1%2Fchat/completions",
        "/v1/chat%2fcompletions",
        "/v1/chat/completions;a=b",
        "/v1\\chat\\completions",
        "/v1/chat%5Ccompletions",
        "/v1/x%2F..%2Fchat/completions",
        "/v1/x%2F..",
    ] {
        let body = r#"{"model":"m","messages":[],"max_tokens":1}"#;
        assert_eq!(ask(&weir, path, body).0, 400, "{path}");
    }
    assert!(provider.requests().is_empty());
}

#[test]
fn a_body_is_read_whatever_it_is_called() {
    let provider = provider();
    let weir = gateway(
        &provider,
        "",
        ", models: [m], budget: {usd: 9.5, per: total}",
    );
    let form = "multipart/form-data; boundary=b";
    for media in [
        None,
        Some("application/octet-stream"),
        Some("text/plain"),
        Some("image/png"),
        Some("application/pdf"),
        Some("application/x-www-form-urlencoded"),
    ] {
        let post = |body: &str| outcome(&post(&weir, CHAT, media, body));
        assert_eq!(
            post(r#"{"model":"m","messages":[]}"#),
            no(429, "budget_exceeded"),
            "{media:?}"
        );
        assert_eq!(
            post(r#"{"model":"long"}"#),
            no(403, "model_not_allowed"),
            "{media:?}"
        );
        assert_eq!(post("model=m"), no(400, "invalid_json"), "{media:?}");
        assert_eq!(
            post(r#"{"model":"m","messages":[],"max_tokens":1}"#),
            yes(),
            "{media:?}"
        );
    }
    provider.forget();
    // The first value is JSON to those that stop at its end, the whole is a form to others.
    let both = "{\"model\":\"long\",\"messages\":[]}\r\n--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n";
    for path in [CHAT, "/v1/images/edits"] {
        assert_eq!(
            outcome(&post(&weir, path, Some(form), both)).0,
            400,
            "{path}"
        );
    }
    assert!(provider.requests().is_empty());
}

#[test]
fn what_lax_servers_take_for_a_wish_to_stream_is_one() {
    let provider = Provider::start(|exchange| {
        let asked = exchange.request.text().contains("\"include_usage\":true");
        exchange.head(200, &[("content-type", "text/event-stream")]);
        exchange.raw(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n");
        if asked {
            exchange.raw(b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\n");
        }
        exchange.raw(b"data: [DONE]\n\n");
        exchange.close();
    });
    let weir = gateway(&provider, "", "");
    for (number, stream) in [
        "1", "1.0", "\"true\"", "\"True\"", "\"1\"", "\"yes\"", "\"on\"", "\"t\"",
    ]
    .into_iter()
    .enumerate()
    {
        let body = format!(r#"{{"model":"m","messages":[],"stream":{stream}}}"#);
        let answer = post(&weir, CHAT, Some(JSON), &body);
        assert!(
            !answer.text().contains("usage"),
            "{stream}: {}",
            answer.text()
        );
        let record = weir.records(number + 1).pop().expect("a record");
        assert_eq!(record["output_tokens"], 3, "{stream}: {record}");
        assert_eq!(record["token_source"], "upstream", "{stream}: {record}");
    }
    for stream in ["0", "false", "null", "\"false\"", "\"x\""] {
        provider.forget();
        let body = format!(r#"{{"model":"m","messages":[],"stream":{stream}}}"#);
        post(&weir, CHAT, Some(JSON), &body);
        assert_eq!(provider.requests()[0].text(), body, "{stream}");
    }
}

//! Teams and their keys, through the front door: who comes in, who is turned away and how, what nobody
//! else sees of a key, and keys that are made while weir runs.

use crate::support::tls_client::{Settings, TlsClient};
use crate::support::{Answer, Authority, Client, Gateway, Launch, Provider, eventually};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const DONE: &str = r#"{"choices":[]}"#;
const BODY: &str = r#"{"model":"m","messages":[]}"#;
const SECRET: &str = "weir-correct-horse-battery-staple";

pub(crate) fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// One team `search` with one key `ci`; `more` are further keys of the team, as in `, models: [m]`.
fn team(more: &str) -> String {
    let hash = sha256(SECRET);
    format!("teams: [{{name: search, keys: [{{name: ci, sha256: {hash}}}]{more}}}]\n")
}

/// Routes the model `m` and all of `/x` to this provider.
fn routes(provider: &Provider) -> String {
    let url = provider.url();
    format!("model_routes: {{m: \"{url}\"}}\ntarget_map: {{/x: \"{url}\", /v1: \"{url}\"}}\n")
}

fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

#[track_caller]
fn ask(client: &mut Client, secret: &str) -> Answer {
    let authorization = bearer(secret);
    let headers = [
        ("content-type", "application/json"),
        ("authorization", &*authorization),
    ];
    client.request("POST", CHAT, &headers, BODY.as_bytes());
    client.answer()
}

#[track_caller]
pub(crate) fn status(weir: &Gateway, secret: &str) -> u16 {
    ask(&mut weir.client(), secret).status()
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// `weir keys … -c FILE`, which changes the file of the keys itself.
pub(crate) fn directly(weir: &Gateway, arguments: &[&str]) -> Output {
    let mut launch = Launch::verb(&["keys", "-c"]).arg(weir.folder().join("weir.yaml"));
    for argument in arguments {
        launch = launch.arg(argument);
    }
    launch.output()
}

#[track_caller]
pub(crate) fn made(output: &Output) -> String {
    let (secret, note) = said(output);
    assert!(output.status.success(), "{note}");
    assert!(
        secret.starts_with("weir-") && !note.contains(&secret),
        "{secret} {note}"
    );
    secret
}

// === who comes in ===

#[test]
fn a_request_needs_a_key_and_is_told_which_way_it_fails_in_its_own_dialect() {
    let provider = Provider::json(DONE);
    let past = sha256("past");
    let keys = format!(
        "teams: [{{name: search, keys: [{{name: ci, sha256: {}}}, {{name: old, sha256: {past}, expires: 2020-01-01}}]}}]\n",
        sha256(SECRET)
    );
    let weir = Gateway::start(&(keys + &routes(&provider)));
    let good = ask(&mut weir.client(), SECRET);
    assert_eq!((good.status(), &*good.text()), (200, DONE));
    provider.forget();

    let refused = |path: &str, headers: &[(&str, &str)]| {
        // Of the body nothing is sent: nobody waits for it.
        let mut client = weir.client();
        let head = [
            headers,
            &[
                ("content-type", "application/json"),
                ("content-length", "30"),
            ],
        ];
        client.send_head("POST", path, &head.concat());
        let answer = client.answer();
        assert_eq!(answer.status(), 401, "{path}");
        answer
    };
    let missing = refused(CHAT, &[]);
    assert_eq!(missing.header("x-weir-error"), Some("missing_key"));
    assert_eq!(missing.header("www-authenticate"), Some("Bearer"));
    assert_eq!(missing.json()["error"]["code"], "missing_key");
    assert_eq!(missing.json()["error"]["type"], "invalid_request_error");
    let invalid = refused(CHAT, &[("authorization", "Bearer nobody")]);
    assert_eq!(invalid.header("x-weir-error"), Some("invalid_key"));
    assert_eq!(
        invalid.header("www-authenticate"),
        Some("Bearer error=\"invalid_token\"")
    );
    assert!(!invalid.text().contains("nobody"), "{}", invalid.text());
    let expired = refused(CHAT, &[("authorization", "Bearer past")]);
    assert_eq!(expired.header("x-weir-error"), Some("expired_key"));
    let anthropic = refused("/v1/messages", &[("x-api-key", "nobody")]);
    assert_eq!(anthropic.json()["type"], "error");
    assert_eq!(anthropic.json()["error"]["type"], "authentication_error");
    let gemini = refused("/v1beta/models/m:generateContent?key=nobody", &[]);
    assert_eq!(gemini.json()["error"]["code"], 401);
    assert_eq!(gemini.json()["error"]["status"], "UNAUTHENTICATED");
    assert_eq!(gemini.header("x-weir-error"), Some("invalid_key"));

    assert_eq!(weir.get("/healthz").status(), 200);
    assert_eq!(weir.get("/v1/models").status(), 401);
    assert!(provider.requests().is_empty());
    for (reason, count) in [
        ("missing_key", 2.0),
        ("invalid_key", 3.0),
        ("expired_key", 1.0),
    ] {
        weir.wait_value("weir_auth_failures_total", &[("reason", reason)], count);
    }
    let record = weir.record_where("a refused one", |it| it["end"] == "refused:expired_key");
    assert_eq!(
        (&record["status"], &record["team"]),
        (&Value::from(401), &Value::Null)
    );
}

#[test]
fn a_key_is_taken_from_wherever_sdks_put_it_and_goes_no_further() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&(team("") + &routes(&provider)));
    let authorization = format!("bEaReR  {SECRET}");
    let query = format!("/v1/chat/completions?alt=sse&key={SECRET}&x=1");
    let coded = format!("/v1/chat/completions?%6Bey={}", SECRET.replace('-', "%2d"));
    let twice = bearer(SECRET);
    type Case<'c> = (&'c str, &'c [(&'c str, &'c str)], &'c str);
    let cases: &[Case<'_>] = &[
        (CHAT, &[("authorization", &authorization)], CHAT),
        (CHAT, &[("x-api-key", SECRET)], CHAT),
        (CHAT, &[("api-key", SECRET)], CHAT),
        (CHAT, &[("X-Goog-Api-Key", SECRET)], CHAT),
        (
            CHAT,
            &[("authorization", &twice), ("x-api-key", SECRET)],
            CHAT,
        ),
        // Another scheme is no key, and no business of the upstream's either.
        (
            CHAT,
            &[("authorization", "Basic eDp5"), ("x-api-key", SECRET)],
            CHAT,
        ),
        (&query, &[], "/v1/chat/completions?alt=sse&x=1"),
        (&coded, &[], CHAT),
        // A header says it better than a query, which goes without a key all the same.
        (
            "/v1/chat/completions?key=other",
            &[("x-api-key", SECRET)],
            CHAT,
        ),
    ];
    for (path, headers, target) in cases {
        let mut client = weir.client();
        let headers = [headers, &[("content-type", "application/json")][..]].concat();
        client.request("POST", path, &headers, BODY.as_bytes());
        let answer = client.answer();
        assert_eq!(
            answer.status(),
            200,
            "{path} {headers:?}: {}",
            answer.text()
        );
        let request = provider.only_request();
        assert_eq!(request.target, *target, "{path}");
        let head = String::from_utf8_lossy(&request.head).to_lowercase();
        for word in [&SECRET[5..], "authorization", "api-key", "key="] {
            assert!(!head.contains(word), "{word} in {head}");
        }
        provider.forget();
    }
    assert!(!weir.log().contains(SECRET));
    let log = std::fs::read_to_string(weir.access_log()).unwrap();
    assert!(!log.contains(SECRET), "{log}");
}

#[test]
fn a_websockets_key_is_taken_from_its_subprotocols_and_out_of_them() {
    let provider = Provider::start(|exchange| {
        exchange.head(
            101,
            &[
                ("upgrade", "websocket"),
                ("connection", "Upgrade"),
                ("sec-websocket-protocol", "realtime"),
            ],
        );
    });
    let weir = Gateway::start(&(team("") + &routes(&provider)));
    let mut client = weir.client();
    let offered = format!("realtime, openai-insecure-api-key.{SECRET}, openai-beta.realtime-v1");
    client.send_head(
        "GET",
        "/v1/realtime?model=m",
        &[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", &offered),
        ],
    );
    assert_eq!(client.read_head().status, 101);
    let request = provider.only_request();
    let kept = request.header("sec-websocket-protocol");
    assert_eq!(kept, Some("realtime, openai-beta.realtime-v1"));
}

#[test]
fn what_is_odd_about_a_key_is_refused_and_hurts_nobody() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&(team("") + &routes(&provider)));
    let long = "k".repeat(10_000);
    let upper = SECRET.to_uppercase();
    let one = bearer(SECRET);
    let cut = bearer(&SECRET[..SECRET.len() - 1]);
    let hash = bearer(&sha256(SECRET));
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("authorization", "")], "missing_key"),
        (&[("authorization", "Bearer")], "missing_key"),
        (&[("authorization", "Bearer   ")], "missing_key"),
        (&[("authorization", SECRET)], "missing_key"),
        (&[("authorization", &bearer(&long))], "invalid_key"),
        (&[("authorization", &bearer(&upper))], "invalid_key"),
        (&[("authorization", &cut)], "invalid_key"),
        (&[("authorization", &hash)], "invalid_key"),
        (&[("authorization", &format!("{one} x"))], "invalid_key"),
        (
            &[("authorization", &format!("{one}, {one}"))],
            "invalid_key",
        ),
        (
            &[("authorization", &one), ("authorization", "Bearer other")],
            "invalid_key",
        ),
        (
            &[("authorization", &one), ("x-api-key", "other")],
            "invalid_key",
        ),
        (&[("x-api-key", "")], "missing_key"),
    ];
    for (headers, code) in cases {
        let mut client = weir.client();
        client.request("POST", CHAT, headers, BODY.as_bytes());
        let answer = client.answer();
        assert_eq!(answer.header("x-weir-error"), Some(*code), "{headers:?}");
        assert_eq!(answer.status(), 401);
    }
    // Bytes that are no UTF-8.
    let mut client = weir.client();
    client
        .send(b"GET /v1/models HTTP/1.1\r\nhost: a\r\nauthorization: Bearer \xff\xfe\x80\r\n\r\n");
    assert_eq!(client.answer().header("x-weir-error"), Some("invalid_key"));
    let mut client = weir.client();
    client.send(format!(
        "GET /v1/models?key=%ff%00{SECRET} HTTP/1.1\r\nhost: a\r\n\r\n"
    ));
    assert_eq!(client.answer().header("x-weir-error"), Some("invalid_key"));
    assert!(provider.requests().is_empty());
    assert_eq!(status(&weir, SECRET), 200);
}

#[test]
fn who_fails_too_often_is_told_to_wait_and_a_good_key_still_works() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&(team("") + &routes(&provider)));
    let mut client = weir.client();
    let mut failures = 0;
    let limited = loop {
        client.request("GET", "/v1/models", &[("x-api-key", "guess")], b"");
        let answer = client.answer();
        match answer.status() {
            401 => failures += 1,
            _ => break answer,
        }
        assert!(failures < 1000, "nobody stops it");
    };
    assert!(failures >= 100, "{failures}");
    assert_eq!(limited.header("x-weir-error"), Some("rate_limited"));
    assert!(limited.header("retry-after").is_some());
    assert_eq!(status(&weir, SECRET), 200);
}

#[test]
fn who_asks_is_told_to_the_log_the_metrics_and_the_upstream() {
    let provider = Provider::json(DONE);
    let yaml = format!(
        "{}{}headers: {{request: {{set: {{X-Who: \"{{team}}/{{key}}\"}}}}}}\n",
        team(""),
        routes(&provider)
    );
    let weir = Gateway::start(&yaml);
    let mut client = weir.client();
    let authorization = bearer(SECRET);
    let headers = [("authorization", &*authorization), ("x-who", "somebody")];
    client.request("POST", CHAT, &headers, BODY.as_bytes());
    assert_eq!(client.answer().status(), 200);
    assert_eq!(provider.only_request().header("x-who"), Some("search/ci"));
    let record = &weir.records(1)[0];
    assert_eq!(
        (&record["team"], &record["key"]),
        (&Value::from("search"), &Value::from("ci"))
    );
    let labels = [("team", "search"), ("status", "200")];
    weir.wait_value("llm_requests_total", &labels, 1.0);
    // A refusal after the door is the team's, too.
    assert_eq!(
        weir.post_with("/nowhere", &[("x-api-key", SECRET)], "")
            .header("x-weir-error"),
        Some("no_route")
    );
    weir.wait_value(
        "llm_requests_total",
        &[("team", "search"), ("status", "404")],
        1.0,
    );
}

#[test]
fn a_provider_gets_its_own_key_and_without_teams_the_clients_passes() {
    let provider = Provider::json(DONE);
    let url = provider.url();
    let yaml = format!(
        "providers: [{{name: p, base_url: \"{url}\", api_key: sk-own}}]\nmodel_routes: {{m: {{targets: [{{provider: p}}]}}}}\n"
    );
    let weir = Gateway::start(&(team("") + &yaml));
    assert_eq!(status(&weir, SECRET), 200);
    assert_eq!(
        provider.only_request().header("authorization"),
        Some("Bearer sk-own")
    );
    provider.forget();
    // A reload opens the door, and shuts it.
    let open = format!("model_routes: {{m: \"{url}\"}}\nstate_dir: {{folder}}/state\n");
    weir.reload(&open);
    assert_eq!(status(&weir, "sk-client"), 200);
    assert_eq!(
        provider.only_request().header("authorization"),
        Some("Bearer sk-client")
    );
    let with_query = weir.post("/v1/chat/completions?key=mine", BODY);
    assert_eq!(with_query.status(), 200);
    let last = provider.requests().pop().unwrap();
    assert_eq!(last.target, "/v1/chat/completions?key=mine");
    weir.reload(&(team("") + &yaml));
    assert_eq!(status(&weir, "sk-client"), 401);
    assert_eq!(status(&weir, SECRET), 200);
}

#[test]
fn a_client_certificate_is_a_key() {
    let authority = Authority::new();
    let server = authority.issue("server", "/CN=server", "DNS:a.test", 1);
    let ana = authority.issue("ana", "/O=search/CN=ana", "DNS:ana.test", 1);
    let machine = authority.issue("machine", "/CN=m", "URI:spiffe://corp/m", 1);
    let other = authority.issue("other", "/CN=other", "DNS:other.test", 1);
    let provider = Provider::json(DONE);
    let (cert, key) = &server;
    let ca = authority.ca();
    let weir = Gateway::start(&format!(
        "listen: [{{address: \"127.0.0.1:0\", tls: {{certificates: [{{cert: {cert:?}, key: {key:?}}}], \
         client_ca: {ca:?}, client_auth: optional}}}}]\n\
         teams: [{{name: search, keys: [{{name: laptop, client_cert: \"CN=ana,O=search\"}}, \
         {{name: robot, client_cert: \"spiffe://corp/m\"}}]}}]\n{}",
        routes(&provider)
    ));
    let ask = |certificate: Option<&(std::path::PathBuf, std::path::PathBuf)>, path: &str| {
        let settings = Settings {
            certificate: certificate.cloned(),
            ..Settings::new(&authority)
        };
        let mut client = TlsClient::connect(&settings.config(), weir.address(), "a.test").unwrap();
        client.get(path).unwrap()
    };
    assert!(ask(Some(&ana), "/x").starts_with("HTTP/1.1 200"));
    assert!(ask(Some(&machine), "/x").starts_with("HTTP/1.1 200"));
    // SDKs send some key, whether one is needed or not.
    assert!(ask(Some(&ana), "/x?key=unused").starts_with("HTTP/1.1 200"));
    assert_eq!(provider.requests().pop().unwrap().target, "/x");
    for (certificate, code) in [(Some(&other), "missing_key"), (None, "missing_key")] {
        let answer = ask(certificate, "/x");
        assert!(
            answer.starts_with("HTTP/1.1 401") && answer.contains(code),
            "{answer}"
        );
    }
    assert!(ask(Some(&other), "/x?key=unused").contains("invalid_key"));
    let records = weir.records(6);
    let keys: Vec<_> = records.iter().take(3).map(|it| it["key"].clone()).collect();
    assert_eq!(keys, ["laptop", "robot", "laptop"]);
}

// === which models ===

/// A team that may use `m`, what `fast` stands for, and search; the key `mini` may use less.
fn restricted(provider: &Provider) -> String {
    let url = provider.url();
    let (all, mini) = (sha256(SECRET), sha256("mini"));
    format!(
        "teams: [{{name: search, models: [m, \"gpt-4o*\", \"/v1/search*\"], \
         keys: [{{name: ci, sha256: {all}}}, {{name: mini, sha256: {mini}, models: [\"*mini\"]}}]}}]\n\
         model_routes: {{m: \"{url}\", gpt-4o: \"{url}\", gpt-4o-mini: \"{url}\", o1: \"{url}\", fast: gpt-4o, slow: o1}}\n\
         target_map: {{/v1: \"{url}\", /openai: \"{url}\"}}\n"
    )
}

#[test]
fn a_team_uses_its_models_by_name_or_alias_and_no_others() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&restricted(&provider));
    let ask = |secret: &str, model: &str| {
        let body = format!("{{\"model\":\"{model}\"}}");
        weir.post_with(CHAT, &[("x-api-key", secret)], body)
    };
    for (secret, model, allowed) in [
        (SECRET, "m", true),
        (SECRET, "gpt-4o", true),
        (SECRET, "fast", true),
        (SECRET, "o1", false),
        (SECRET, "slow", false),
        (SECRET, "M", false),
        (SECRET, "nobody-has-this", false),
        ("mini", "gpt-4o-mini", true),
        ("mini", "gpt-4o", false),
        ("mini", "m", false),
    ] {
        let answer = ask(secret, model);
        let expected = if allowed { 200 } else { 403 };
        assert_eq!(answer.status(), expected, "{model}: {}", answer.text());
        if !allowed {
            assert_eq!(answer.header("x-weir-error"), Some("model_not_allowed"));
            assert_eq!(answer.json()["error"]["param"], "model");
        }
    }
    // In what the team may, and nobody serves, it is told so.
    assert_eq!(
        ask(SECRET, "gpt-4o-nobody").status(),
        200,
        "the path takes it"
    );
    let messages = weir.post_with(
        "/v1/messages",
        &[("x-api-key", SECRET)],
        r#"{"model":"o1"}"#,
    );
    assert_eq!(messages.json()["error"]["type"], "permission_error");
    let record = weir.record_where("a refusal", |it| it["end"] == "refused:model_not_allowed");
    assert_eq!(record["team"], "search");
}

#[test]
fn what_hides_its_model_gets_no_further_than_what_names_it() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&restricted(&provider));
    let key = ("x-api-key", SECRET);
    let ask = |path: &str, media: &str, body: &str| {
        let answer = weir.post_with(path, &[key, ("content-type", media)], body);
        (
            answer.status(),
            answer.header("x-weir-error").unwrap_or("").to_owned(),
        )
    };
    let no = (403, "model_not_allowed".to_owned());
    let json = "application/json";
    // weir can't see a model in these; an upstream might.
    assert_eq!(
        ask(CHAT, "application/octet-stream", r#"{"model":"o1"}"#),
        no
    );
    assert_eq!(ask("/v1/batches", json, "{}"), no);
    assert_eq!(ask("/v1/files", "application/pdf", "x"), no);
    assert_eq!(ask("/v1/responses", json, r#"{"prompt":{"id":"p"}}"#), no);
    assert_eq!(ask("/v1/responses", json, r#"{"model":""}"#), no);
    assert_eq!(
        ask("/v1/x", "application/x-www-form-urlencoded", "model=o1"),
        no
    );
    // Where the path and the body name one each, both must be allowed.
    let azure = "/openai/deployments/o1/chat/completions";
    assert_eq!(ask(azure, json, r#"{"model":"m"}"#), no);
    assert_eq!(
        ask(
            "/openai/deployments/m/chat/completions",
            json,
            r#"{"model":"o1"}"#
        ),
        no
    );
    assert_eq!(
        ask("/openai/deployments/m/chat/completions", json, "{}").0,
        200
    );
    assert_eq!(
        ask("/openai/deployments/%6f1/chat/completions", json, "{}"),
        no
    );
    for path in [
        "/v1/projects/p/publishers/google/models/o1:generateContent",
        "/v1/mod%65ls/o1:generateContent",
        "/v1/model/o1/converse",
    ] {
        assert_eq!(ask(path, json, r#"{"model":"m"}"#), no, "{path}");
        assert_eq!(ask(&path.replace("o1", "m"), json, "{}").0, 200, "{path}");
    }
    // What the team's list names as a path.
    assert_eq!(ask("/v1/search/x", json, "{}").0, 200);
    assert_eq!(ask("/v1/search/x", json, r#"{"model":"o1"}"#), no);
    assert_eq!(ask("/v1/searc", json, "{}"), no);
    assert_eq!(ask("/v1/search/../batches", json, "{}").0, 400);
    // A WebSocket names it in its query, in any way.
    for (query, status) in [
        ("model=m", 200),
        ("model=o1", 403),
        ("model=m&%6dodel=o1", 403),
        ("", 403),
    ] {
        let mut client = weir.client();
        let path = format!("/v1/realtime?{query}");
        client.send_head(
            "GET",
            &path,
            &[
                key,
                ("connection", "Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-version", "13"),
            ],
        );
        assert_eq!(client.answer().status(), status, "{query}");
    }
}

#[test]
fn the_list_of_models_has_those_that_the_caller_may_use() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&restricted(&provider));
    let get = |secret: &str, path: &str| {
        let mut client = weir.client();
        client.request("GET", path, &[("x-api-key", secret)], b"");
        client.answer()
    };
    let names = |secret: &str| -> Vec<String> {
        let answer = get(secret, "/v1/models");
        let data = answer.json()["data"].as_array().unwrap().clone();
        data.iter()
            .map(|it| it["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(SECRET), ["m", "gpt-4o", "gpt-4o-mini", "fast"]);
    assert_eq!(names("mini"), ["gpt-4o-mini"]);
    assert_eq!(get(SECRET, "/v1/models/fast").json()["id"], "fast");
    assert_eq!(get(SECRET, "/v1/models/o1").status(), 404);
    assert_eq!(get("mini", "/models/m").status(), 404);
    assert!(provider.requests().is_empty());
    // Where weir has no list of its own, an upstream's would show too much.
    let hash = sha256(SECRET);
    weir.reload(&format!(
        "teams: [{{name: search, models: [x], keys: [{{name: ci, sha256: {hash}}}]}}]\n\
         target_map: {{/v1: \"{}\"}}\n",
        provider.url()
    ));
    assert_eq!(names(SECRET), [""; 0]);
    assert!(provider.requests().is_empty());
}

// === keys made at run time ===

#[test]
fn a_key_is_made_replaced_and_revoked_while_weir_runs() {
    let provider = Provider::json(DONE);
    let prices = "prices: {m: {input: 1, output: 1}}\n";
    let weir = Gateway::start(&(team("") + &routes(&provider) + prices));
    let new = directly(
        &weir,
        &[
            "new",
            "--team",
            "search",
            "--name",
            "tmp",
            "--expires",
            "90d",
            "--rpm",
            "60",
            "--budget",
            "10/month",
        ],
    );
    let first = made(&new);
    assert!(said(&new).1.contains("search/tmp") && said(&new).1.contains("expires at"));
    eventually("the new key to be known", || {
        (status(&weir, &first) == 200).then_some(())
    });
    let record = weir.record_where("its record", |it| it["status"] == 200);
    assert_eq!(record["key"], "tmp");
    let file = weir.folder().join("state/keys.json");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!std::fs::read_to_string(&file).unwrap().contains(&first));

    let second = made(&directly(
        &weir,
        &["rotate", "search/tmp", "--overlap", "1h"],
    ));
    eventually("the new secret to be known", || {
        (status(&weir, &second) == 200).then_some(())
    });
    assert_eq!(status(&weir, &first), 200, "both are good for a while");
    let third = made(&directly(
        &weir,
        &["rotate", "search/tmp", "--overlap", "0"],
    ));
    eventually("those before to be known no more", || {
        (status(&weir, &second) == 401).then_some(())
    });
    assert_eq!((status(&weir, &first), status(&weir, &third)), (401, 200));

    let (list, _) = said(&directly(&weir, &["list"]));
    for words in [
        "search/ci",
        "file (sha256)",
        "search/tmp",
        "made",
        "60 requests/min",
        "10.00 USD a month",
    ] {
        assert!(list.contains(words), "no {words:?} in:\n{list}");
    }
    let (json, _) = said(&directly(&weir, &["list", "--json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json[1]["name"], &json[1]["state"]),
        (&"tmp".into(), &"active".into())
    );
    for secret in [&first, &second, &third] {
        assert!(!list.contains(&**secret) && !json.to_string().contains(&sha256(secret)));
    }

    let revoked = directly(&weir, &["revoke", "search/tmp"]);
    assert_eq!(said(&revoked).0, "search/tmp is revoked");
    eventually("the key to be refused", || {
        (status(&weir, &third) == 401).then_some(())
    });
    assert_eq!(status(&weir, SECRET), 200);
    for (arguments, words) in [
        (&["revoke", "search/tmp"][..], "there is no key search/tmp"),
        (&["revoke", "search/ci"], "stands in the configuration"),
        (&["rotate", "search/ci"], "stands in the configuration"),
        (&["new", "--team", "nobody"], "no team is called \"nobody\""),
        (
            &["new", "--team", "search", "--name", "ci"],
            "there is a key search/ci already",
        ),
        (
            &["new", "--team", "search", "--name", "a b"],
            "1 to 64 letters",
        ),
        (
            &["new", "--team", "search", "--expires", "2020-01-01"],
            "expired already",
        ),
    ] {
        let output = directly(&weir, arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            said(&output).1.contains(words),
            "{arguments:?}: {}",
            said(&output).1
        );
    }
}

#[test]
fn a_key_whose_team_is_gone_is_refused_and_listed_as_such() {
    let provider = Provider::json(DONE);
    let two = team("").replace("}]\n", "}, {name: guests}]\n");
    let weir = Gateway::start(&(two + &routes(&provider)));
    let guest = made(&directly(
        &weir,
        &["new", "--team", "guests", "--name", "g"],
    ));
    eventually("the new key to be known", || {
        (status(&weir, &guest) == 200).then_some(())
    });
    weir.reload(&(team("") + &routes(&provider)));
    assert_eq!(status(&weir, &guest), 401);
    let (list, _) = said(&directly(&weir, &["list"]));
    assert!(
        list.contains("guests/g") && list.contains("refused: no such team"),
        "{list}"
    );
}

#[test]
fn a_revoked_key_is_refused_by_every_generation_within_a_second() {
    const ROUNDS: usize = 3;
    const OLD_CONNECTIONS: usize = 40;
    let provider = Provider::json(DONE);
    let yaml = format!(
        "{}{}upgrade: {{probation: 0s}}\ntimeouts: {{idle_close_delay: 10h}}\n",
        team(""),
        routes(&provider)
    );
    let weir = Launch::supervised(&yaml).start();
    weir.wait_settled();
    let keys = |arguments: &[&str]| weir.supervised().command("keys", arguments);
    let mut slowest = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("k{round}");
        // Asked of the generation that leads, which knows it at once.
        let secret = made(&keys(&["new", "--team", "search", "--name", &name]));
        assert_eq!(status(&weir, &secret), 200);
        let mut old: Vec<Client> = (0..OLD_CONNECTIONS).map(|_| weir.client()).collect();
        for client in &mut old {
            assert_eq!(ask(client, &secret).status(), 200);
        }
        let upgraded = weir.upgrade();
        assert!(upgraded.status.success(), "{:?}", said(&upgraded));
        weir.wait_generations("an old one that drains beside the new one", |all| {
            all.iter().any(|it| it.state == "draining")
                && all.iter().any(|it| it.state == "serving")
        });
        assert_eq!(
            ask(&mut old.pop().unwrap(), &secret).status(),
            200,
            "it serves on"
        );
        let (done, _) = said(&keys(&["revoke", &format!("search/{name}")]));
        let since = Instant::now();
        assert_eq!(done, format!("search/{name} is revoked"));
        assert_eq!(status(&weir, &secret), 401, "the one that leads did it");
        // A connection of the old one has one request left.
        let took = loop {
            let mut client = old.pop().expect("the old generation never refused the key");
            if ask(&mut client, &secret).status() == 401 {
                break since.elapsed();
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(status(&weir, SECRET), 200);
        slowest.push(took);
        drop(old);
    }
    println!("a revoked key was refused by an old generation after {slowest:?}");
    // On a machine that does other things, too, one may be late.
    let best = slowest.iter().min().unwrap();
    assert!(*best < Duration::from_secs(1), "{slowest:?}");
    let (list, _) = said(&keys(&["list"]));
    assert!(
        list.contains("search/ci") && !list.contains("search/k0"),
        "{list}"
    );
    let log = weir.log();
    assert!(log.contains("a key was revoked"), "{log}");
}

#[test]
fn weir_keys_says_whom_it_could_not_ask() {
    let launch = |arguments: &[&str]| {
        let launch = Launch::verb(&["keys", "--control", "/dev/null/nobody.sock"]);
        let state = launch.folder().join("state");
        let text = format!("{}state_dir: {state:?}\n", team(""));
        let path = launch.folder().write("weir.yaml", text);
        let launch = arguments.iter().fold(launch, |launch, it| launch.arg(it));
        (launch, path)
    };
    let (alone, _) = launch(&["new", "--team", "search"]);
    let output = alone.output();
    assert!(!output.status.success());
    assert!(
        said(&output)
            .1
            .contains("no weir answers at /dev/null/nobody.sock"),
        "{output:?}"
    );
    // With a configuration its file is changed instead.
    let (other, path) = launch(&["new", "--team", "search", "-c"]);
    made(&other.arg(path).output());
}

#[test]
fn a_damaged_file_of_keys_keeps_nobody_out_who_was_in_and_weir_from_nothing() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&(team("") + &routes(&provider)));
    let secret = made(&directly(&weir, &["new", "--team", "search"]));
    eventually("the new key to be known", || {
        (status(&weir, &secret) == 200).then_some(())
    });
    let file = weir.folder().join("state/keys.json");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    weir.wait_log("can't be used");
    assert_eq!((status(&weir, &secret), status(&weir, SECRET)), (200, 200));
    let refused = directly(&weir, &["new", "--team", "search"]);
    assert!(!refused.status.success() && said(&refused).1.contains("is damaged"));
    assert_eq!(std::fs::read(&file).unwrap(), &good[..good.len() / 2]);

    // One that starts with it.
    let other = Gateway::start(&format!(
        "{}{}state_dir: {:?}\n",
        team(""),
        routes(&provider),
        file.parent().unwrap()
    ));
    other.wait_log("can't be used");
    assert_eq!(
        (status(&other, &secret), status(&other, SECRET)),
        (401, 200)
    );
    std::fs::write(&file, &good).unwrap();
    eventually("the mended file to be read", || {
        (status(&other, &secret) == 200).then_some(())
    });
}

#[test]
fn teams_need_a_folder_for_state_and_say_so() {
    let yaml = format!(
        "{}state_dir: /dev/null/state\nlisten: [\"127.0.0.1:0\"]\nadmin: off\n",
        team("")
    );
    for verb in [&["check", "-c"][..], &["run", "--single", "-c"]] {
        let launch = Launch::verb(verb);
        let path = launch.folder().write("weir.yaml", &yaml);
        let output = launch.arg(path).output();
        let (_, told) = said(&output);
        assert!(!output.status.success(), "{verb:?}");
        assert!(
            told.contains("/dev/null/state") && told.contains("state_dir"),
            "{told}"
        );
    }
    assert!(!Path::new("/dev/null/state").exists());
}

// === what is told to people ===

#[test]
fn explain_and_check_tell_whose_key_it_is_and_what_it_may_use() {
    let hash = sha256(SECRET);
    let launch = || {
        let launch = Launch::verb(&["explain", "-c"]);
        let state = launch.folder().join("state");
        let path = launch.folder().write(
            "weir.yaml",
            format!(
                "teams: [{{name: search, models: [\"gpt*\"], limits: {{requests_per_minute: 600}}, \
                 budget: {{usd: 500, per: month}}, keys: [{{name: ci, sha256: {hash}, expires: 2999-01-01, \
                 limits: {{in_flight: 2}}}}]}}]\nstate_dir: {state:?}\n\
                 model_routes: {{gpt-4o: \"http://127.0.0.1:1\", o1: \"http://127.0.0.1:1\"}}\n"
            ),
        );
        launch.arg(path)
    };
    let explain = |arguments: &[&str]| {
        let mut launch = launch();
        for argument in arguments {
            launch = launch.arg(argument);
        }
        let output = launch.output();
        assert!(output.status.success(), "{:?}", said(&output));
        said(&output).0
    };
    for key in [SECRET, "search/ci"] {
        let told = explain(&["--key", key, "--model", "gpt-4o"]);
        for words in [
            "key:        search/ci, until 2999-01-01T00:00:00Z",
            "of the team: 600 requests/min, 500.00 USD a month",
            "of the key: 2 requests at once",
            "credential: none: keys of weir go no further",
        ] {
            assert!(told.contains(words), "no {words:?} in:\n{told}");
        }
        assert!(!told.contains(SECRET), "{told}");
        let refused = explain(&["--key", key, "--model", "o1"]);
        assert!(refused.contains("403, model_not_allowed"), "{refused}");
    }
    assert!(explain(&["--key", "nobody", "--model", "gpt-4o"]).contains("401, invalid_key"));
    assert!(explain(&["--model", "gpt-4o"]).contains("401, missing_key"));

    let launch = Launch::verb(&["check", "-c"]);
    let state = launch.folder().join("state");
    let text = format!(
        "{}state_dir: {state:?}\nmodel_routes: {{m: \"http://127.0.0.1:1\"}}\n",
        team(", limits: {tokens_per_minute: 1000}, budget: {usd: 5, per: total}")
    );
    let path = launch.folder().write("weir.yaml", text);
    let output = launch.arg(path).output();
    let (told, warned) = said(&output);
    assert!(output.status.success(), "{warned}");
    for words in [
        "1 team, 1 key",
        "team search: 1000 tokens/min, 5.00 USD in total",
    ] {
        assert!(told.contains(words), "no {words:?} in:\n{told}");
    }
    assert!(!state.exists(), "a check changes nothing");
}

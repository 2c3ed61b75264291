//! What operators are told and do over the admin API, while requests of teams pass.

use crate::support::{Answer, Client, Gate, Gateway, Launch, Provider, eventually};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"m","messages":[],"max_tokens":10}"#;
const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#;
const TOKEN: (&str, &str) = ("authorization", "Bearer an-admin-token");
const JSON: (&str, &str) = ("content-type", "application/json");
/// Of the key `written`.
const SECRET: &str = "weir-correct-horse-battery-staple";

fn config(provider: &Provider) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, SECRET.as_bytes());
    let hash: String = (digest.as_ref().iter())
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "admin: {{address: \"127.0.0.1:0\", token: an-admin-token}}\n\
         state_dir: \"{{folder}}/state\"\n\
         model_routes: {{m: {{urls: [\"{}\"], limits: {{in_flight: 7}}}}}}\n\
         prices: {{m: {{input: 1000, output: 1000}}}}\n\
         teams:\n\
         - name: search\n\
         \x20 limits: {{requests_per_minute: 100, in_flight: 5}}\n\
         \x20 budget: {{usd: 500, per: month}}\n\
         \x20 keys: [{{name: written, sha256: {hash}, limits: {{tokens_per_minute: 60}}}}]\n\
         - name: idle\n\
         \x20 models: [\"gpt-*\"]\n",
        provider.url()
    )
}

fn ask(weir: &Gateway, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let mut client = Client::connect(weir.admin());
    let body = body.map(Value::to_string).unwrap_or_default();
    client.request(method, path, &[TOKEN, JSON], body.as_bytes());
    client.answer()
}

#[track_caller]
fn told(weir: &Gateway, path: &str) -> Value {
    let answer = ask(weir, "GET", path, None);
    assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
    answer.json()
}

fn chat(weir: &Gateway, secret: &str) -> Answer {
    let authorization = format!("Bearer {secret}");
    weir.post_with(CHAT, &[JSON, ("authorization", &authorization)], ASK)
}

/// A client that has asked and waits for its answer.
fn chatting(weir: &Gateway, secret: &str) -> Client {
    let mut client = weir.client();
    let authorization = format!("Bearer {secret}");
    let headers = [JSON, ("authorization", &*authorization)];
    client.request("POST", CHAT, &headers, ASK.as_bytes());
    client
}

#[track_caller]
fn made(weir: &Gateway, key: &Value) -> (Value, String) {
    let answer = ask(weir, "POST", "/api/keys", Some(key));
    assert_eq!(answer.status(), 201, "{}", answer.text());
    let key = answer.json();
    let place = format!("/api/keys/search/{}", key["name"].as_str().expect("a name"));
    assert_eq!(answer.header("location"), Some(&*place));
    let secret = key["secret"].as_str().expect("a secret").to_owned();
    (key, secret)
}

// === keys ===

#[test]
fn a_key_is_made_replaced_and_ended_and_its_secret_is_told_once() {
    let provider = Provider::json(ANSWER);
    let weir = Gateway::start(&config(&provider));
    let wish = json!({
        "team": "search", "name": "ci", "expires": "90d", "models": ["m"],
        "limits": {"requests_per_minute": 60}, "budgets": [{"usd": 5, "per": "day"}],
    });
    let (mut key, first) = made(&weir, &wish);
    assert_eq!(chat(&weir, &first).status(), 200);
    key.as_object_mut().expect("an object").remove("secret");
    assert_eq!(told(&weir, "/api/keys/search/ci"), key);
    assert_eq!(
        (&key["source"], &key["state"]),
        (&json!("made"), &json!("active"))
    );
    assert_eq!(key["limits"], json!({"requests_per_minute": 60}));
    assert_eq!(key["budgets"][0]["usd"], 5.0);
    assert_eq!(told(&weir, "/api/keys?team=search")["keys"][0], key);
    let second = ask(&weir, "POST", "/api/keys", Some(&wish));
    assert_eq!(second.status(), 409, "{}", second.text());

    let rotate = |overlap: Value| {
        let path = "/api/keys/search/ci/rotate";
        let answer = ask(&weir, "POST", path, Some(&overlap));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let key = answer.json();
        key["secret"].as_str().expect("a secret").to_owned()
    };
    let second = rotate(json!({"overlap": "24h"}));
    assert_eq!(chat(&weir, &first).status(), 200, "the overlap isn't over");
    assert_eq!(chat(&weir, &second).status(), 200);
    assert!(told(&weir, "/api/keys/search/ci")["replaced_until"].is_string());
    let third = rotate(json!({}));
    assert_eq!(chat(&weir, &third).status(), 200);
    for old in [&first, &second] {
        assert_eq!(chat(&weir, old).status(), 401, "there is no overlap");
    }

    for path in [
        "/api/keys",
        "/api/teams",
        "/api/limits",
        "/api/usage?by=key",
        "/metrics",
    ] {
        let text = ask(&weir, "GET", path, None).text();
        for secret in [&first, &second, &third] {
            assert!(!text.contains(&**secret), "{path}: {text}");
        }
    }
    let end = ask(&weir, "DELETE", "/api/keys/search/ci", None);
    assert_eq!((end.status(), end.body.len()), (204, 0), "{}", end.text());
    assert_eq!(chat(&weir, &third).status(), 401);
    assert_eq!(ask(&weir, "GET", "/api/keys/search/ci", None).status(), 404);
    assert_eq!(
        ask(&weir, "DELETE", "/api/keys/search/ci", None).status(),
        404
    );
    let log = weir.log() + &std::fs::read_to_string(weir.access_log()).expect("a log");
    for secret in [&first, &second, &third] {
        assert!(!log.contains(&**secret), "{log}");
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let provider = Provider::json(ANSWER);
    let weir = Gateway::start(&config(&provider));
    let before = told(&weir, "/api/keys");
    for (wish, status) in [
        (json!({"team": "nobody"}), 422),
        (json!({"team": "search", "name": "written"}), 409),
        (json!({"team": "search", "name": "a b"}), 422),
        (json!({"team": "search", "expires": "2020-01-01"}), 422),
        (json!({"team": "search", "limits": {"in_flight": 0}}), 400),
        (
            json!({"team": "search", "budgets": [{"usd": 0, "per": "day"}]}),
            422,
        ),
        (
            json!({"team": "search", "budgets": [{"usd": 1, "per": "decade"}]}),
            400,
        ),
        (json!({"team": "search", "secret": "mine"}), 400),
        (json!([]), 400),
    ] {
        let answer = ask(&weir, "POST", "/api/keys", Some(&wish));
        assert_eq!(answer.status(), status, "{wish}: {}", answer.text());
    }
    for (method, path) in [
        ("DELETE", "/api/keys/search/written"),
        ("POST", "/api/keys/search/written/rotate"),
    ] {
        let answer = ask(&weir, method, path, Some(&json!({})));
        assert_eq!(answer.status(), 409, "{}", answer.text());
        assert!(answer.text().contains("configuration"), "{}", answer.text());
    }
    assert_eq!(told(&weir, "/api/keys"), before);
    assert_eq!(before["keys"].as_array().map(Vec::len), Some(1));
    assert_eq!(chat(&weir, SECRET).status(), 200);
}

// === usage and limits ===

#[test]
fn usage_is_summed_as_asked() {
    let provider = Provider::json(ANSWER);
    let weir = Gateway::start(&config(&provider));
    let (_, secret) = made(&weir, &json!({"team": "search", "name": "ci"}));
    for secret in [SECRET, &secret, &secret] {
        assert_eq!(chat(&weir, secret).status(), 200);
    }
    let rows = |path: &str| told(&weir, path)["rows"].as_array().expect("rows").clone();
    let all = rows("/api/usage");
    assert_eq!(all.len(), 1);
    let sums = ["requests", "input", "output", "unpriced"].map(|sum| all[0][sum].as_u64());
    assert_eq!(sums, [3, 27, 6, 0].map(Some), "{all:?}");
    assert_eq!(all[0]["cost_usd"], 0.033, "a thousandth each token");
    let by_key = rows("/api/usage?by=team,key&since=1d");
    let told: Vec<_> = (by_key.iter())
        .map(|row| {
            (
                row["team"].as_str(),
                row["key"].as_str(),
                row["requests"].as_u64(),
            )
        })
        .collect();
    let team = Some("search");
    assert_eq!(
        told,
        [
            (team, Some("ci"), Some(2)),
            (team, Some("written"), Some(1))
        ]
    );
    let one = rows("/api/usage?by=model&key=ci&team=search&provider=&until=2099-01-01");
    assert!(one.is_empty(), "no provider is called nothing: {one:?}");
    let one = rows("/api/usage?by=model&key=ci");
    assert_eq!((one.len(), one[0]["model"].as_str()), (1, Some("m")));
    assert_eq!(one[0]["requests"], 2);
    assert!(rows("/api/usage?by=day&until=2020-01-01").is_empty());
    assert_eq!(rows("/api/usage?until=2020-01-01")[0]["requests"], 0);
}

#[test]
fn limits_are_told_as_they_stand_while_a_request_is_in_flight() {
    let gate = Gate::new();
    let waiting = gate.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&waiting);
        exchange.json(200, ANSWER);
    });
    let weir = Gateway::start(&config(&provider));
    let before = told(&weir, "/api/limits");
    assert_eq!(before["teams"][0]["requests"]["remaining"], 100);
    assert_eq!(
        before["teams"][0]["in_flight"],
        json!({"limit": 5, "used": 0, "remaining": 5})
    );
    assert_eq!(before["models"][0]["model"], "m");
    let mut client = chatting(&weir, SECRET);
    provider.wait_requests(1);
    let during = told(&weir, "/api/limits");
    assert_eq!(during["host"]["in_flight"]["used"], 1);
    let team = &during["teams"][0];
    assert_eq!(team["team"], "search");
    assert_eq!(team["requests"]["limit"], 100);
    assert_eq!(
        team["in_flight"],
        json!({"limit": 5, "used": 1, "remaining": 4})
    );
    let key = &during["keys"][0];
    assert_eq!(
        (key["team"].as_str(), key["key"].as_str()),
        (Some("search"), Some("written"))
    );
    assert!(key["tokens"]["remaining"].as_u64() < Some(60), "{key}");
    assert_eq!(during["models"][0]["in_flight"]["used"], 1);
    let reserved = team["budgets"][0]["used_usd"].as_f64().expect("money");
    assert!(reserved > 0.0, "what it may cost counts: {team}");
    gate.open();
    assert_eq!(client.answer().status(), 200);
    let after = eventually("the request to be settled", || {
        let told = told(&weir, "/api/teams");
        let mut teams = told["teams"].as_array().expect("teams").iter();
        let team = teams.find(|team| team["team"] == "search").expect("a team");
        (team["standing"]["in_flight"]["used"] == 0).then(|| team.clone())
    });
    assert_eq!(after["standing"]["budgets"][0]["used_usd"], 0.011);
    assert_eq!(after["standing"]["budgets"][0]["remaining_usd"], 499.989);
    assert_eq!(after["budgets"][0]["per"], "month");
    let idle = told(&weir, "/api/limits?team=idle");
    assert_eq!((&idle["teams"], &idle["models"]), (&json!([]), &json!([])));
}

#[test]
fn a_new_generation_tells_of_what_the_old_one_carries() {
    let gate = Gate::new();
    let waiting = gate.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&waiting);
        exchange.json(200, ANSWER);
    });
    let weir = Launch::supervised(&config(&provider)).start();
    let (_, secret) = made(&weir, &json!({"team": "search", "name": "ci"}));
    let mut client = chatting(&weir, &secret);
    provider.wait_requests(1);
    assert!(weir.upgrade().status.success());
    let limits = told(&weir, "/api/limits");
    assert_eq!(limits["teams"][0]["in_flight"]["used"], 1, "{limits}");
    assert_eq!(told(&weir, "/api/keys/search/ci")["state"], "active");
    gate.open();
    assert_eq!(client.answer().status(), 200);
    let usage = eventually("what the old generation wrote", || {
        let usage = told(&weir, "/api/usage?by=key");
        let rows = usage["rows"].as_array().expect("rows");
        (!rows.is_empty()).then(|| usage.clone())
    });
    assert_eq!(usage["rows"][0]["requests"], 1);
}

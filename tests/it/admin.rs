//! The admin listener: who may ask, what goes wrong, and that the document of the API tells the truth.

use crate::support::client::chunk;
use crate::support::{Answer, Client, Gateway, Launch};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

const TOKEN: &str = "an-admin-token";
const BEARER: (&str, &str) = ("authorization", "Bearer an-admin-token");
const HERE: (&str, &str) = ("host", "localhost");
const JSON: (&str, &str) = ("content-type", "application/json");
const BODY_BYTES_MAX: usize = 64 << 10;

fn config() -> String {
    format!("admin: {{address: \"127.0.0.1:0\", token: {TOKEN}}}\n")
}

fn ask(weir: &Gateway, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut client = Client::connect(weir.admin());
    client.request(method, path, headers, body);
    client.answer_to(method)
}

/// Checks the one form of all that goes wrong, and returns its sentence.
#[track_caller]
fn problem(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status(), status, "{}", answer.text());
    let media = answer.header("content-type");
    assert_eq!(media, Some("application/problem+json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    assert!(problem["title"].is_string(), "{problem}");
    problem["detail"].as_str().expect("a sentence").to_owned()
}

/// Paths of the document, with their methods.
fn documented(weir: &Gateway) -> Vec<(String, Vec<String>)> {
    let document = ask(weir, "GET", "/api/openapi.json", &[BEARER], b"").json();
    let paths = document["paths"].as_object().expect("paths").iter();
    let methods = |at: &Value| {
        let methods = at.as_object().expect("methods").keys();
        methods.map(|it| it.to_ascii_uppercase()).collect()
    };
    paths
        .map(|(path, at)| (path.clone(), methods(at)))
        .collect()
}

// === who may ask ===

#[test]
fn everything_but_health_needs_the_token() {
    let weir = Gateway::start(&config());
    let mut paths = documented(&weir);
    assert!(paths.len() > 10, "{paths:?}");
    paths.push(("/nothing".to_owned(), vec!["GET".to_owned()]));
    for (path, methods) in paths {
        let path = path.replace("{team}", "a").replace("{name}", "b");
        let health = path.starts_with("/health");
        for method in &methods {
            for wrong in [None, Some("Bearer wrong"), Some("Basic an-admin-token")] {
                let headers: Vec<_> = wrong.map(|it| ("authorization", it)).into_iter().collect();
                let answer = ask(&weir, method, &path, &headers, b"");
                if health {
                    assert_eq!((answer.status(), answer.text().as_str()), (200, "OK"));
                    continue;
                }
                problem(&answer, 401);
                let challenge = answer.header("www-authenticate");
                assert_eq!(challenge, Some("Bearer realm=\"weir\""), "{method} {path}");
            }
            let answer = ask(&weir, method, &path, &[BEARER], b"");
            assert!(![401, 403].contains(&answer.status()), "{method} {path}");
        }
    }
}

#[test]
fn without_a_token_a_loopback_address_tells_and_changes_nothing() {
    let weir = Gateway::start("admin: {address: \"127.0.0.1:0\"}\n");
    assert_eq!(ask(&weir, "GET", "/metrics", &[], b"").status(), 200);
    let answer = ask(&weir, "GET", "/api/limits", &[HERE], b"");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    for (method, path) in [
        ("POST", "/api/keys"),
        ("POST", "/api/keys/a/b/rotate"),
        ("DELETE", "/api/keys/a/b"),
    ] {
        let answer = ask(&weir, method, path, &[JSON, HERE], b"{}");
        let detail = problem(&answer, 403);
        assert!(detail.contains("admin.token"), "{detail}");
    }
}

/// A page in a browser on this host, whose name was given the address 127.0.0.1.
#[test]
fn without_a_token_nobody_asks_under_a_name_of_their_own() {
    let weir = Gateway::start("admin: {address: \"127.0.0.1:0\"}\n");
    let status = |host: &str| {
        let mut client = Client::connect(weir.admin());
        client.send(format!("GET /api/keys HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.answer().status()
    };
    assert_eq!(status("evil.example"), 403);
    assert_eq!(status("localhost.evil.example:9900"), 403);
    assert_eq!(status("localhost:9900"), 200);
    assert_eq!(status("[::1]:9900"), 200);
}

#[test]
fn without_a_token_an_address_of_the_network_tells_health_and_metrics() {
    let weir = Gateway::start("admin: {address: \"0.0.0.0:0\"}\n");
    let port = weir.admin().port();
    let get = |path: &str| {
        let mut client = Client::connect(([127, 0, 0, 1], port).into());
        client.request("GET", path, &[], b"");
        client.answer()
    };
    assert_eq!(get("/health/ready").status(), 200);
    assert_eq!(get("/metrics").status(), 200);
    let detail = problem(&get("/api/usage"), 403);
    assert!(detail.contains("admin.token"), "{detail}");
}

#[test]
fn a_unix_socket_stands_for_the_token() {
    let weir =
        Launch::file("admin: {address: \"unix:{folder}/admin.sock\", mode: \"0600\"}\n").spawn();
    weir.wait_log("admin listening");
    let mut stream = UnixStream::connect(weir.folder().join("admin.sock")).expect("a socket");
    stream
        .set_read_timeout(Some(crate::support::DEADLINE))
        .expect("a socket");
    let request = "DELETE /api/keys/a/b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("a listener");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    // It was tried: there is no such key, and no team either.
    let status = answer.split(' ').nth(1).unwrap_or_default();
    assert!(["404", "409"].contains(&status), "{answer}");
}

// === what goes wrong ===

#[test]
fn what_goes_wrong_is_told_in_one_form() {
    let weir = Gateway::start(&config());
    let said = |method: &str, path: &str, headers: &[(&str, &str)], body: &str, status: u16| {
        let headers = [&[BEARER], headers].concat();
        problem(&ask(&weir, method, path, &headers, body.as_bytes()), status)
    };
    let detail = said("GET", "/api/nothing", &[], "", 404);
    assert!(detail.contains("/api/openapi.json"), "{detail}");
    said("GET", "/api/keys/", &[], "", 404);
    said("GET", "/API/KEYS", &[], "", 404);
    let detail = said("GET", "/api/usage?by=team,colour", &[], "", 400);
    assert!(
        detail.contains("colour") && detail.contains("provider"),
        "{detail}"
    );
    let detail = said("GET", "/api/usage?sinse=1d", &[], "", 400);
    assert!(
        detail.contains("sinse") && detail.contains("since"),
        "{detail}"
    );
    said("GET", "/api/usage?by=team&by=key", &[], "", 400);
    said("GET", "/api/usage?since=yesterday", &[], "", 400);
    let probe = ask(&weir, "GET", "/health/live?x=1&x=1", &[], b"");
    assert_eq!(probe.status(), 200, "what a probe adds means nothing");
    let detail = said("POST", "/api/keys", &[], "{}", 415);
    assert!(detail.contains("application/json"), "{detail}");
    let form = ("content-type", "application/x-www-form-urlencoded");
    said("POST", "/api/keys", &[form], "team=a", 415);
    said(
        "POST",
        "/api/keys",
        &[("content-type", "text/plain")],
        "{}",
        415,
    );
    said(
        "POST",
        "/api/keys",
        &[JSON, ("content-encoding", "gzip")],
        "{}",
        415,
    );
    said("POST", "/api/keys", &[JSON], "", 400);
    said("POST", "/api/keys", &[JSON], "{\"team\":\"a\"} {}", 400);
    said(
        "POST",
        "/api/keys",
        &[JSON],
        "{\"team\":\"a\",\"team\":\"b\"}",
        400,
    );
    let deep = "[".repeat(20_000);
    said("POST", "/api/keys", &[JSON], &deep, 400);
    let detail = said(
        "POST",
        "/api/keys",
        &[JSON],
        "{\"team\":\"a\",\"limits\":{\"rpm\":1}}",
        400,
    );
    assert!(detail.contains("limits.rpm"), "{detail}");
}

#[test]
fn a_method_that_a_path_lacks_is_told_which_it_has() {
    let weir = Gateway::start(&config());
    for (method, path, allowed) in [
        ("POST", "/api/usage", "GET, HEAD"),
        ("PUT", "/api/keys", "GET, HEAD, POST"),
        ("OPTIONS", "/api/keys", "GET, HEAD, POST"),
        ("TRACE", "/api/keys/a/b", "GET, HEAD, DELETE"),
        ("GET", "/api/keys/a/b/rotate", "POST"),
        ("POST", "/metrics", "GET, HEAD"),
    ] {
        let answer = ask(&weir, method, path, &[BEARER, JSON], b"");
        problem(&answer, 405);
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
    }
}

#[test]
fn head_is_get_without_its_body() {
    let weir = Gateway::start(&config());
    for path in ["/health/ready", "/api/limits", "/api/openapi.json"] {
        let get = ask(&weir, "GET", path, &[BEARER], b"");
        let mut client = Client::connect(weir.admin());
        client.request("HEAD", path, &[BEARER], b"");
        let head = client.answer_to("HEAD");
        assert_eq!((get.status(), head.status()), (200, 200), "{path}");
        assert_eq!(head.header("content-length"), get.header("content-length"));
        assert!(head.body.is_empty());
        // No byte of a body came after all.
        client.request("GET", "/health/live", &[], b"");
        assert_eq!(client.answer().text(), "OK");
    }
}

// === bodies ===

#[test]
fn a_body_at_the_limit_is_read_and_one_past_it_is_not() {
    let weir = Gateway::start(&config());
    let body = |bytes: usize| format!("{{\"team\":\"a\"{}}}", " ".repeat(bytes - 12));
    let post = |body: &str| ask(&weir, "POST", "/api/keys", &[BEARER, JSON], body.as_bytes());
    let at = post(&body(BODY_BYTES_MAX));
    assert!([404, 409].contains(&at.status()), "{}", at.text());
    let past = post(&body(BODY_BYTES_MAX + 1));
    let detail = problem(&past, 413);
    assert!(detail.contains("65536"), "{detail}");
}

#[test]
fn a_body_without_a_length_is_cut_while_it_comes() {
    let weir = Gateway::start(&config());
    let chunked = ("transfer-encoding", "chunked");
    let mut client = Client::connect(weir.admin());
    client.send_head("POST", "/api/keys", &[BEARER, JSON, chunked]);
    client.send(chunk(&vec![b' '; BODY_BYTES_MAX]));
    assert!(
        client.is_silent_for(Duration::from_millis(100)),
        "it isn't over yet"
    );
    client.send(chunk(b" "));
    // Its end never comes, and isn't waited for.
    problem(&client.answer(), 413);
    assert!(
        client.read_to_end().is_empty(),
        "the connection is of no more use"
    );
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for_long() {
    let weir = Gateway::start(&config());
    let mut client = Client::connect(weir.admin());
    client.send_head(
        "POST",
        "/api/keys",
        &[BEARER, JSON, ("content-length", "10")],
    );
    client.send("{");
    problem(&client.answer(), 408);
}

#[test]
fn who_asks_before_sending_a_body_is_told_to_go_on() {
    let weir = Gateway::start(&config());
    let mut client = Client::connect(weir.admin());
    let expect = ("expect", "100-continue");
    let headers = [BEARER, JSON, ("content-length", "2"), expect];
    client.send_head("POST", "/api/keys", &headers);
    assert_eq!(client.read_head().status, 100);
    client.send("{}");
    problem(&client.answer(), 400);
    // And who may not send one isn't.
    let mut client = Client::connect(weir.admin());
    client.send_head("POST", "/api/keys", &headers[1..]);
    problem(&client.answer(), 401);
}

#[test]
fn a_body_that_nobody_reads_costs_only_its_connection() {
    let weir = Gateway::start(&config());
    let mut client = Client::connect(weir.admin());
    let endless = ("content-length", "1000000000");
    client.send_head("GET", "/api/limits", &[BEARER, endless]);
    assert_eq!(client.answer().status(), 200);
    assert!(client.read_to_end().is_empty());
}

// === the document ===

/// Schemathesis reads the document and asks what it says, and what it doesn't: valid requests must be
/// taken, others refused, and every answer must be as it is described.
///
/// `WEIR_TEST_PYTHON` names the Python that has it (default: `python3`).
#[test]
fn the_document_is_true() {
    let python = std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let weir = Gateway::start(&format!(
        "{}state_dir: \"{{folder}}/state\"\n\
         teams: [{{name: search, limits: {{requests_per_minute: 9}}, budget: {{usd: 5, per: month}}}}]\n",
        config()
    ));
    let mut document = ask(&weir, "GET", "/api/openapi.json", &[BEARER], b"").json();
    // Of all names that a team could have, one that there is.
    document["components"]["schemas"]["NewKey"]["properties"]["team"]["enum"] = json!(["search"]);
    let document = weir.folder().write("openapi.json", document.to_string());
    // What is well said and can't be, such as a date in the past, is no mistake of the document.
    let expected = "expected-statuses = [\"2xx\", 401, 403, 404, 409, 422]\n";
    let checks = format!("[checks.positive_data_acceptance]\n{expected}");
    weir.folder().write("schemathesis.toml", checks);
    let output = Command::new(&python)
        .args([
            "-c",
            "from schemathesis.cli import schemathesis; schemathesis()",
            "run",
        ])
        .arg(document)
        .args(["--url", &format!("http://{}", weir.admin())])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .args(["--checks", "all", "--mode", "all"])
        .args(["--phases", "examples,coverage,fuzzing,stateful"])
        .args(["--max-examples", "20", "--max-time", "25", "--seed", "1"])
        .args(["--generation-database", "none", "--no-color"])
        .current_dir(weir.folder().path())
        .env("NO_PROXY", "*")
        .env("COLUMNS", "120")
        .output()
        .unwrap_or_else(|error| panic!("{python} can't be run: {error}"));
    let told = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{wrong}");
    let operations: usize = documented(&weir)
        .iter()
        .map(|(_, methods)| methods.len())
        .sum();
    let tested = format!("Tested: {operations}");
    assert!(told.contains(&tested), "not {tested}: {told}");
}

//! The command line, and how a running weir stops.

use crate::support::{Authority, Folder, Gateway, Launch, Provider};
use std::process::Output;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const STREAM: &str = r#"{"model":"m","stream":true,"messages":[]}"#;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a verb with a file of this text.
fn with_file(verb: &str, yaml: &str, arguments: &[&str]) -> Output {
    let folder = Folder::new();
    let path = folder.write("weir.yaml", yaml);
    let mut launch = Launch::verb(&[verb, "-c"]).arg(path);
    for argument in arguments {
        launch = launch.arg(argument);
    }
    launch.output()
}

// === verbs that end by themselves ===

#[test]
fn a_sound_file_is_told_to_be_sound() {
    let output = with_file(
        "check",
        "model_routes: {m: \"http://a.example\", n: m}",
        &[],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("ok: "), "{}", stdout(&output));
    assert!(
        stdout(&output).contains("ok: 1 listener, 1 provider, 1 model route, 0 paths\n"),
        "{}",
        stdout(&output)
    );
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_file_that_routes_nothing_is_sound_with_a_warning() {
    for yaml in [
        "port: 8080",
        "providers: [{name: a, base_url: \"http://a.example\"}]",
    ] {
        let output = with_file("check", yaml, &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(
            stderr(&output),
            "warning: nothing is routed: every request will be answered with 404\n"
        );
    }
}

#[test]
fn what_this_host_lacks_is_told_and_what_expires_soon() {
    let folder = Folder::new();
    let in_the_way = folder.write("file", "").display().to_string();
    let acme = "listen: [{address: \"127.0.0.1:0\", tls: {acme: {domains: [a.test]}}}]\n";
    let routes = "model_routes: {m: \"http://a.example\"}\n";
    let text = format!("{routes}{acme}state_dir: {in_the_way}/state\n");
    let output = with_file("check", &text, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("state_dir: ") && said.contains("is no folder"),
        "{said}"
    );
    let missing = folder.join("state/below");
    let text = format!("{routes}{acme}state_dir: {}\n", missing.display());
    let output = with_file("check", &text, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!folder.join("state").exists(), "it was only looked for");

    let authority = Authority::new();
    for (days, warns) in [(13, true), (15, false)] {
        let (cert, key) = authority.issue("soon", "/CN=soon", "DNS:a.test", days);
        let text = format!(
            "{routes}listen: [{{address: \"127.0.0.1:0\", tls: {{certificates: [{{cert: {cert:?}, key: {key:?}}}]}}}}]\n"
        );
        let output = with_file("check", &text, &[]);
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        assert_eq!(
            said.contains("warning: ") && said.contains("expires in 12 days"),
            warns,
            "{said}"
        );
    }
}

#[test]
fn all_mistakes_are_told_at_once_with_their_lines_and_the_exit_code_says_so() {
    let yaml = "port: 99999\nmodel_rautes: {}\ntarget_map: {/x: \"ftp://a\"}\ndns: {}\n\
                providers: [{name: p, base_url: \"http://a\", api_key: \"${WEIR_IT_NOT_SET}\"}]\n";
    for verb in ["check", "run"] {
        let output = with_file(verb, yaml, &[]);
        assert_eq!(output.status.code(), Some(1), "{verb}");
        assert_eq!(stdout(&output), "");
        let told = stderr(&output);
        for (line, words) in [
            (1, "99999"),
            (2, "model_routes"),
            (3, "ftp://a"),
            (5, "WEIR_IT_NOT_SET"),
        ] {
            let place = format!("weir.yaml:{line}:");
            let found = told
                .lines()
                .any(|it| it.contains(&place) && it.contains(words));
            assert!(found, "no {place} with {words} in:\n{told}");
        }
    }
    let later = with_file("check", "logging: {bodies: true}", &[]);
    assert!(
        stderr(&later).contains("not built yet: logging.bodies"),
        "{}",
        stderr(&later)
    );
    assert!(!later.status.success());
}

#[test]
fn a_file_that_is_not_there_is_told_by_its_name() {
    for verb in ["run", "check", "explain"] {
        let output = Launch::verb(&[verb, "-f", "/not/there.yaml"]).output();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("/not/there.yaml"),
            "{verb}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn without_any_configuration_weir_says_what_to_do() {
    if std::path::Path::new("/etc/weir/weir.yaml").exists() {
        println!("skipped: this machine has /etc/weir/weir.yaml");
        return;
    }
    let output = Launch::verb(&["run"]).output();
    assert_eq!(output.status.code(), Some(1));
    for words in ["-c FILE", "OPENAI_API_KEY", "OLLAMA_BASE"] {
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn explain_tells_rule_candidates_names_credentials_and_roads() {
    let yaml = r#"
proxy_url: http://user:hidden-word@127.0.0.1:3128
providers:
  - {name: near, base_url: "http://127.0.0.1:1234/v1", api_key: sk-hidden-key}
  - {name: far, base_url: "http://203.0.113.7/api/v4"}
model_routes: {"m*": {targets: [{provider: near}, {provider: far, model: other}]}}
target_map: {/v1/search: near}
routing: {default_provider: far}
"#;
    let model = with_file("explain", yaml, &["--model", "m1"]);
    let said = stdout(&model);
    for words in [
        "model_routes \"m*\"",
        "near http://127.0.0.1:1234/v1/chat/completions",
        "far http://203.0.113.7/api/v4/chat/completions",
        "model there: other",
        "its own api_key",
        "the client's own",
        "direct",
        "proxy",
    ] {
        assert!(said.contains(words), "no {words:?} in:\n{said}");
    }
    let path = with_file("explain", yaml, &["--path", "/v1/search/x"]);
    assert!(
        stdout(&path).contains("target_map \"/v1/search\""),
        "{}",
        stdout(&path)
    );
    let rest = with_file("explain", yaml, &["--path", "/v1/rest"]);
    assert!(
        stdout(&rest).contains("routing.default_provider"),
        "{}",
        stdout(&rest)
    );
    let deployment = with_file(
        "explain",
        yaml,
        &["--path", "/openai/deployments/m7/chat/completions"],
    );
    assert!(
        stdout(&deployment).contains("m7"),
        "{}",
        stdout(&deployment)
    );
    for output in [&model, &path, &rest] {
        assert!(output.status.success());
        let all = stdout(output) + &stderr(output);
        assert!(!all.contains("hidden"), "a secret is shown:\n{all}");
    }
    let nowhere = with_file(
        "explain",
        "model_routes: {m: \"http://127.0.0.1:1\"}",
        &["--model", "x"],
    );
    assert!(stdout(&nowhere).contains("404"), "{}", stdout(&nowhere));
}

#[test]
fn explain_follows_aliases_and_knows_what_weir_answers() {
    let yaml = r#"
providers: [{name: near, base_url: "http://127.0.0.1:1234/v1"}]
model_routes: {gpt-4o: {targets: [{provider: near}]}, quick: gpt-4o, fast: quick}
"#;
    let said = |arguments: &[&str]| {
        let output = with_file("explain", yaml, arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let alias = said(&["--model", "fast"]);
    for words in [
        "alias:      fast → gpt-4o\n",
        "model there: gpt-4o\n",
        "body up to 32MiB, 1GiB buffered in all\n",
    ] {
        assert!(alias.contains(words), "no {words:?} in:\n{alias}");
    }
    let plain = said(&["--model", "gpt-4o"]);
    assert!(
        !plain.contains("alias:") && !plain.contains("model there:"),
        "{plain}"
    );
    let query = said(&["--model", "fast", "--path", "/v1/embeddings?key=hidden"]);
    assert!(query.contains("path:       /v1/embeddings\n"), "{query}");
    assert!(
        query.contains("near http://127.0.0.1:1234/v1/embeddings\n"),
        "{query}"
    );
    assert!(!query.contains("hidden"), "{query}");
    for path in ["/healthz", "/healthz?x", "/v1/models"] {
        let own = said(&["--path", path]);
        assert!(own.contains("answered by weir itself"), "{path}: {own}");
    }
    let globs = with_file(
        "explain",
        "model_routes: {\"m*\": \"http://127.0.0.1:1\"}",
        &["--path", "/v1/models"],
    );
    assert!(!stdout(&globs).contains("itself"), "{}", stdout(&globs));
    let relative = with_file("explain", yaml, &["--path", "v1/models"]);
    assert!(!relative.status.success());
    assert!(
        stderr(&relative).contains("begins with `/`"),
        "{}",
        stderr(&relative)
    );
}

#[test]
fn explain_sends_nothing() {
    let provider = Provider::json("{}");
    let yaml = format!("model_routes: {{m: \"{}\"}}", provider.url());
    assert!(
        with_file("explain", &yaml, &["--model", "m"])
            .status
            .success()
    );
    assert!(with_file("check", &yaml, &[]).status.success());
    assert_eq!(provider.connections(), 0);
}

#[test]
fn completions_are_written_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Launch::verb(&["completions", shell]).output();
        assert!(output.status.success());
        for verb in ["run", "check", "explain", "demo"] {
            assert!(stdout(&output).contains(verb), "{shell} without {verb}");
        }
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let output = Launch::verb(&["--version"]).output();
    assert_eq!(
        stdout(&output).trim(),
        format!("weir {}", env!("CARGO_PKG_VERSION"))
    );
    for arguments in [&["--help"][..], &["run", "--help"]] {
        let help = stdout(&Launch::verb(arguments).output());
        for words in ["port 8080", "With both, OpenAI's model names go to OpenAI"] {
            assert!(help.contains(words), "{help}");
        }
    }
    let help = Launch::verb(&["--help"]).output();
    for verb in ["run", "check", "explain", "demo", "completions"] {
        assert!(stdout(&help).contains(verb), "{}", stdout(&help));
    }
}

#[test]
fn a_port_that_is_taken_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let yaml = format!("listen: [\"127.0.0.1:{port}\"]\nadmin: off\n");
    let output = with_file("run", &yaml, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains(&format!("127.0.0.1:{port}")),
        "{}",
        stderr(&output)
    );
}

// === run ===

#[test]
fn the_environment_alone_serves_a_provider_on_port_8080() {
    if std::path::Path::new("/etc/weir/weir.yaml").exists() {
        println!("skipped: this machine has /etc/weir/weir.yaml");
        return;
    }
    let _ports = crate::routing::PORTS.lock();
    let provider = Provider::json(r#"{"ok":true}"#);
    let url = format!("{}/v1", provider.url());
    for (variables, authorization) in [
        (
            &[("OPENAI_API_KEY", "sk-env"), ("OPENAI_BASE_URL", &*url)][..],
            Some("Bearer sk-env"),
        ),
        (&[("OLLAMA_BASE", &*provider.url())][..], None),
    ] {
        let mut launch = Launch::verb(&["run"]);
        for (name, value) in variables {
            launch = launch.env(name, value);
        }
        let weir = launch.start();
        assert_eq!(weir.address().port(), 8080);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 8080));
        let answer = crate::support::post(address, CHAT, r#"{"model":"whatever"}"#);
        assert_eq!(answer.text(), r#"{"ok":true}"#);
        let request = provider.only_request();
        assert_eq!(request.target, CHAT);
        assert_eq!(request.header("authorization"), authorization);
        provider.forget();
        // Without a file the access log goes to standard output.
        weir.wait_printed("\"status\":200");
    }
}

/// A provider whose streams go on until they are let go, and a gateway in front of it with one open
/// stream.
struct Streaming {
    weir: Gateway,
    client: crate::support::Client,
    go_on: crate::support::Gate,
    provider: Provider,
}

fn streaming(more: &str) -> Streaming {
    let go_on = crate::support::Gate::new();
    let gate = go_on.clone();
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        exchange.event(r#"{"choices":[{"index":0,"delta":{"content":"first"}}]}"#);
        exchange.wait(&gate);
        exchange.event(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#);
        exchange.event("[DONE]");
        exchange.end();
    });
    let weir = Gateway::start(&format!(
        "model_routes: {{m: \"{}\"}}\n{more}",
        provider.url()
    ));
    let mut client = weir.client();
    client.post(CHAT, STREAM);
    assert_eq!(client.read_head().status, 200);
    client.read_text_until("first");
    Streaming {
        weir,
        client,
        go_on,
        provider,
    }
}

#[test]
fn sigterm_lets_an_open_stream_end_takes_nobody_new_and_exits_with_0() {
    let mut streaming = streaming("");
    let mut idle = streaming.weir.client();
    idle.request("GET", "/healthz", &[], b"");
    assert_eq!(idle.answer().status(), 200);
    streaming.weir.signal(libc::SIGTERM);
    streaming.weir.wait_log("draining");
    let admin = streaming.weir.admin();
    crate::support::eventually("weir to say that it isn't ready", || {
        (crate::support::get(admin, "/health/ready").status() == 503).then_some(())
    });
    assert_eq!(crate::support::get(admin, "/health/live").status(), 200);
    assert!(
        idle.try_read_head().is_none(),
        "an idle connection is let go"
    );
    let address = streaming.weir.address();
    crate::support::eventually("the listener to be closed", || {
        std::net::TcpStream::connect(address).err()
    });
    assert!(
        streaming.weir.exited().is_none(),
        "it left an open stream alone"
    );
    streaming.go_on.open();
    let (rest, whole) = streaming.client.rest();
    assert!(
        whole && rest.ends_with(b"data: [DONE]\n\n"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    assert_eq!(streaming.weir.wait_exit().code(), Some(0));
    let records = streaming.weir.records(1);
    assert_eq!(records[0]["path"], CHAT);
    assert_eq!(records[0]["end"], "complete");
}

#[test]
fn sigint_ends_at_once_and_the_open_request_is_recorded() {
    let mut streaming = streaming("");
    streaming.weir.signal(libc::SIGINT);
    assert_eq!(streaming.weir.wait_exit().code(), Some(0));
    streaming.provider.wait_end(0);
    let records = streaming.weir.records(1);
    assert_eq!(records[0]["end"], "aborted", "{records:?}");
    assert_eq!(records[0]["status"], 200);
    streaming.go_on.open();
}

#[test]
fn the_time_to_drain_is_bounded() {
    let mut streaming = streaming("timeouts: {drain: 300ms}");
    let started = Instant::now();
    streaming.weir.signal(libc::SIGTERM);
    assert_eq!(streaming.weir.wait_exit().code(), Some(0));
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(streaming.weir.records(1).len(), 1);
    streaming.go_on.open();
}

#[test]
fn a_second_sigterm_doesnt_wait_any_longer() {
    let mut streaming = streaming("");
    streaming.weir.signal(libc::SIGTERM);
    streaming.weir.wait_log("draining");
    // The second one counts from when the drain has begun; it may come a little later than the log.
    crate::support::eventually("weir's end", || {
        if streaming.weir.exited().is_none() {
            streaming.weir.signal(libc::SIGTERM);
        }
        streaming.weir.exited()
    });
    streaming.go_on.open();
}

// === demo ===

#[test]
fn the_demo_echoes_with_true_token_counts_and_needs_no_configuration() {
    let weir = Launch::verb(&["demo", "--port", "0", "--admin-port", "0", "--pace", "1"]).spawn();
    let line = weir.wait_printed("curl -N http://");
    weir.wait_printed("Ctrl-C");
    let address = line
        .split("http://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    let address = address.parse().unwrap();
    let body = r#"{"model":"echo","stream":true,"stream_options":{"include_usage":true},
        "messages":[{"role":"user","content":"Hello from the weir"}]}"#;
    let answer = crate::support::post(address, CHAT, body);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let events: Vec<serde_json::Value> = answer
        .text()
        .split("\n\n")
        .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
        .collect();
    let said: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, "Hello from the weir");
    let usage = &events.last().unwrap()["usage"];
    // "Hello", " from", " the", " we", "ir" in o200k_base.
    assert_eq!(usage["completion_tokens"], 5, "{usage}");
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    let metrics = weir.wait_printed("/metrics");
    let admin = metrics
        .split("http://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    let admin = admin.parse().unwrap();
    // The record is told behind the answer's last byte.
    crate::support::eventually("the demo's tokens in its metrics", || {
        let metrics = crate::support::get(admin, "/metrics").text();
        metrics.contains("llm_token_usage_total").then_some(())
    });
}

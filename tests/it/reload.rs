//! A new configuration comes into use at once and whole, or not at all.

use crate::support::{Gate, Gateway, Launch, Provider};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m"}"#;
const DONE: &str = r#"{"ok":true}"#;

fn reloads(weir: &Gateway, result: &str) -> f64 {
    weir.value("weir_config_reload_total", &[("result", result)])
        .unwrap_or(-1.0)
}

#[test]
fn a_hangup_brings_new_routes_providers_and_headers() {
    let [old, new] = std::array::from_fn(|_| Provider::json(DONE));
    let weir = Gateway::start(&format!(
        "model_routes: {{m: \"{}\"}}\nheaders: {{response: {{set: {{X-Config: one}}}}}}",
        old.url()
    ));
    assert_eq!(
        (reloads(&weir, "ok"), reloads(&weir, "refused")),
        (0.0, 0.0)
    );
    assert_eq!(weir.post(CHAT, BODY).header("x-config"), Some("one"));
    weir.reload(&format!(
        r#"
providers: [{{name: fresh, base_url: "{}/v9", api_key: sk-new}}]
model_routes: {{m: {{targets: [{{provider: fresh, model: renamed}}]}}, n: m}}
headers: {{response: {{set: {{X-Config: two}}}}}}
"#,
        new.url()
    ));
    let answer = weir.post(CHAT, r#"{"model":"n"}"#);
    assert_eq!(answer.header("x-config"), Some("two"));
    assert_eq!(answer.header("x-weir-provider"), Some("fresh"));
    let request = new.only_request();
    assert_eq!(request.target, "/v9/chat/completions");
    assert_eq!(request.text(), r#"{"model":"renamed"}"#);
    assert_eq!(request.header("authorization"), Some("Bearer sk-new"));
    assert_eq!(old.requests().len(), 1);
    assert_eq!(
        (reloads(&weir, "ok"), reloads(&weir, "refused")),
        (1.0, 0.0)
    );
    let models = weir.get("/v1/models").json();
    assert_eq!(models["data"].as_array().unwrap().len(), 2);
}

#[test]
fn a_file_that_was_emptied_is_refused() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!("model_routes: {{m: \"{}\"}}", provider.url()));
    let path = weir.folder().join("weir.yaml");
    std::fs::write(&path, "").unwrap();
    weir.signal(libc::SIGHUP);
    let refused = weir.wait_log("configuration refused");
    assert!(refused.contains("found an empty file"), "{refused}");
    assert_eq!(weir.post(CHAT, BODY).status(), 200);
    let path = path.display().to_string();
    for verb in [["check", "-c"].as_slice(), &["run", "--single", "-c"]] {
        let output = Launch::verb(verb).arg(&path).output();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("{path}: found an empty file")),
            "{said}"
        );
    }
}

#[test]
fn an_open_request_keeps_the_configuration_that_it_began_with() {
    let gate = Gate::new();
    let waited = gate.clone();
    let old = Provider::start(move |exchange| {
        exchange.wait(&waited);
        exchange.json(200, DONE);
    });
    let new = Provider::json(r#"{"new":true}"#);
    let weir = Gateway::start(&format!(
        "model_routes: {{m: \"{}\"}}\nheaders: {{response: {{set: {{X-Config: one}}}}}}",
        old.url()
    ));
    let mut open = weir.client();
    open.post(CHAT, BODY);
    old.wait_requests(1);
    weir.reload(&format!(
        "model_routes: {{m: \"{}\"}}\nheaders: {{response: {{set: {{X-Config: two}}}}}}",
        new.url()
    ));
    let answer = weir.post(CHAT, BODY);
    assert_eq!(
        (answer.text().as_str(), answer.header("x-config")),
        (r#"{"new":true}"#, Some("two"))
    );
    assert_eq!(
        weir.value("weir_in_flight", &[]),
        Some(1.0),
        "what is open stays counted"
    );
    gate.open();
    let answer = open.answer();
    assert_eq!(
        (answer.text().as_str(), answer.header("x-config")),
        (DONE, Some("one"))
    );
    // The same connection has the new one from its next request on.
    open.post(CHAT, BODY);
    assert_eq!(open.answer().header("x-config"), Some("two"));
    weir.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn a_mistake_keeps_the_old_configuration_and_is_counted_and_told() {
    let provider = Provider::json(DONE);
    let sound = format!("model_routes: {{m: \"{}\"}}", provider.url());
    let weir = Gateway::start(&sound);
    for (count, broken) in [
        "model_routes: {m: \"ftp://nowhere\"}",
        "model_rautes: {}",
        "{",
        "teams: []",
        "providers: [{name: p, base_url: \"http://x\", api_key: \"${NOT_SET_ANYWHERE}\"}]",
        "providers: [{name: p, base_url: \"https://x\", tls: {ca: /not/there.pem}}]",
    ]
    .into_iter()
    .enumerate()
    {
        weir.write_config(broken);
        weir.signal(libc::SIGHUP);
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        weir.wait_value(
            "weir_config_reload_total",
            &[("result", "refused")],
            (count + 1) as f64,
        );
        assert_eq!(weir.post(CHAT, BODY).text(), DONE, "{broken}");
    }
    assert!(
        weir.log().contains("model_rautes"),
        "the mistake isn't told"
    );
    assert_eq!(reloads(&weir, "ok"), 0.0);
    std::fs::remove_file(weir.folder().join("weir.yaml")).unwrap();
    weir.signal(libc::SIGHUP);
    weir.wait_value("weir_config_reload_total", &[("result", "refused")], 7.0);
    assert_eq!(weir.post(CHAT, BODY).text(), DONE);
    weir.reload(&sound);
    assert_eq!(reloads(&weir, "ok"), 1.0);
}

#[test]
fn a_changed_file_is_loaded_by_itself_where_that_is_asked_for() {
    let [old, new] = std::array::from_fn(|_| Provider::json(DONE));
    let weir = Gateway::start(&format!(
        "watch: true\nmodel_routes: {{m: \"{}\"}}",
        old.url()
    ));
    assert_eq!(weir.post(CHAT, BODY).status(), 200);
    weir.write_config(&format!(
        "watch: true\nmodel_routes: {{m: \"{}\"}}",
        new.url()
    ));
    weir.wait_value("weir_config_reload_total", &[("result", "ok")], 1.0);
    assert_eq!(weir.post(CHAT, BODY).status(), 200);
    assert_eq!((old.requests().len(), new.requests().len()), (1, 1));
    weir.write_config("watch: true\nmodel_routes: 7");
    weir.wait_value("weir_config_reload_total", &[("result", "refused")], 1.0);
    assert_eq!(weir.post(CHAT, BODY).status(), 200);
}

#[test]
fn connections_and_limits_survive_a_reload() {
    let provider = Provider::json(DONE);
    let config = format!(
        "model_routes: {{m: \"{}\"}}\nrate_limit: {{rate: 0.001, burst: 3}}",
        provider.url()
    );
    let weir = Gateway::start(&config);
    let mut client = weir.client();
    for _ in 0..2 {
        client.post(CHAT, BODY);
        assert_eq!(client.answer().status(), 200);
    }
    weir.reload(&config);
    client.post(CHAT, BODY);
    assert_eq!(client.answer().status(), 200);
    assert_eq!(provider.connections(), 1, "the pool was thrown away");
    client.post(CHAT, BODY);
    client.answer().assert_refused(429, "rate_limited");
}

#[test]
fn a_signal_right_after_the_start_is_obeyed() {
    let provider = Provider::json(DONE);
    let config = format!("model_routes: {{m: \"{}\"}}", provider.url());
    for _ in 0..10 {
        // It comes while weir still starts other things.
        let weir = Gateway::start(&config);
        weir.signal(libc::SIGHUP);
        weir.wait_log("configuration reloaded");
    }
}

#[test]
fn no_request_is_lost_while_the_configuration_changes() {
    let provider = Provider::json(DONE);
    let config = |n: usize| {
        format!(
            "model_routes: {{m: \"{}\"}}\nheaders: {{request: {{set: {{X-A: \"{n}\", X-B: \"{n}\"}}}}}}",
            provider.url()
        )
    };
    let weir = Gateway::start(&config(0));
    let stop = Gate::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (weir, stop) = (&weir, stop.clone());
                scope.spawn(move || {
                    let mut client = weir.client();
                    let mut count = 0;
                    while !stop.is_open() {
                        client.post(CHAT, BODY);
                        assert_eq!(client.answer().text(), DONE);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for n in 1..=20 {
            weir.reload(&config(n));
        }
        stop.open();
        let counts: Vec<usize> = clients.into_iter().map(|it| it.join().unwrap()).collect();
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    });
    for request in provider.requests() {
        assert_eq!(
            request.header("x-a"),
            request.header("x-b"),
            "half of a configuration"
        );
    }
}

//! Providers that break: who fails is paused and comes back, who has no time is left alone, who doesn't
//! accept the account is asked last, and who isn't well isn't asked.

use crate::support::{Client, Exchange, Gate, Gateway, Provider, eventually};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"m","messages":[]}"#;

/// A model server that answers with the status that it is told to.
struct Moody {
    status: Arc<AtomicU16>,
    server: Provider,
}

impl Moody {
    fn new(status: u16, headers: &'static [(&'static str, &'static str)]) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let shared = Arc::clone(&status);
        let server = Provider::start(move |exchange| {
            exchange.answer(shared.load(Ordering::SeqCst), headers, b"{}");
        });
        Self { status, server }
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn chats(&self) -> usize {
        let requests = self.server.requests();
        requests.iter().filter(|it| it.method == "POST").count()
    }
}

/// One provider `p` without retries; `more` belongs to it.
fn one(server: &Provider, more: &str) -> String {
    format!(
        "admin: {{address: \"127.0.0.1:0\"}}\n\
         providers: [{{name: p, base_url: \"{}\", {more}}}]\n\
         model_routes: {{m: {{targets: [{{provider: p}}], retries: 0}}}}\n",
        server.url()
    )
}

/// Two providers with keys of their own, in turns.
fn two(first: &Provider, second: &Provider, more: &str) -> String {
    format!(
        "admin: {{address: \"127.0.0.1:0\"}}\n\
         providers:\n\
         - {{name: p, base_url: \"{}\", api_key: a, {more}}}\n\
         - {{name: q, base_url: \"{}\", api_key: b}}\n\
         model_routes: {{m: {{targets: [{{provider: p}}, {{provider: q}}]}}}}\n",
        first.url(),
        second.url()
    )
}

fn upstreams(gateway: &Gateway) -> Vec<Value> {
    let mut client = Client::connect(gateway.admin());
    client.request("GET", "/api/upstreams", &[("host", "localhost")], b"");
    let answer = client.answer();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()["upstreams"]
        .as_array()
        .expect("a list")
        .clone()
}

fn state(gateway: &Gateway) -> Option<f64> {
    gateway.value("weir_breaker_state", &[("provider", "p")])
}

#[test]
fn who_fails_is_paused_and_comes_back() {
    let moody = Moody::new(500, &[]);
    let gateway = Gateway::start(&one(&moody.server, "breaker: {failures: 3, open: 1s}"));
    for _ in 0..3 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 500);
    }
    let refused = gateway.post(CHAT, ASK);
    refused.assert_refused(503, "breaker_open");
    assert!(matches!(refused.header("retry-after"), Some("1" | "2")));
    assert_eq!(moody.chats(), 3);
    assert_eq!(state(&gateway), Some(2.0));
    assert_eq!(gateway.value("weir_breaker_opened_total", &[]), Some(1.0));
    let told = &upstreams(&gateway)[0];
    assert_eq!(
        (&told["provider"], &told["breaker"]),
        (&"p".into(), &"open".into())
    );
    assert_eq!(told["failures"], 3);
    assert!(
        told["paused_seconds"].as_f64().is_some_and(|it| it <= 1.1),
        "{told}"
    );
    moody.answers(200);
    let before = eventually("a probe", || {
        let answer = gateway.post(CHAT, ASK);
        (answer.status() == 200).then(|| moody.chats())
    });
    assert_eq!(before, 4, "one probe");
    assert_eq!(state(&gateway), Some(0.0));
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    assert_eq!(gateway.count_log("it is paused"), 1);
    assert_eq!(gateway.count_log("an endpoint answers again"), 1);
}

#[test]
fn what_clients_do_wrong_pauses_nobody() {
    let moody = Moody::new(400, &[]);
    let gateway = Gateway::start(&one(&moody.server, "breaker: {failures: 2}"));
    for status in [400, 404, 413, 422, 401, 403] {
        moody.answers(status);
        for _ in 0..5 {
            assert_eq!(gateway.post(CHAT, ASK).status(), status);
        }
    }
    assert_eq!(state(&gateway), Some(0.0));
}

#[test]
fn a_breaker_that_is_off_pauses_nobody() {
    let moody = Moody::new(500, &[]);
    let gateway = Gateway::start(&one(&moody.server, "breaker: off"));
    for _ in 0..20 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 500);
    }
}

#[test]
fn a_breaker_that_is_turned_off_is_closed() {
    let moody = Moody::new(500, &[]);
    let config = one(&moody.server, "breaker: {failures: 2, open: 1h}");
    let gateway = Gateway::start(&config);
    for _ in 0..2 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 500);
    }
    gateway.post(CHAT, ASK).assert_refused(503, "breaker_open");
    gateway.reload(&one(&moody.server, "breaker: off"));
    assert_eq!(gateway.post(CHAT, ASK).status(), 500);
    assert_eq!(state(&gateway), Some(0.0));
    assert_eq!(upstreams(&gateway)[0]["breaker"], "closed");
    gateway.reload(&config);
    assert_eq!(gateway.post(CHAT, ASK).status(), 500, "it begins anew");
}

#[test]
fn who_is_too_slow_is_paused() {
    const SLOW: Duration = Duration::from_millis(50);
    let slow = Provider::start(|exchange| {
        std::thread::sleep(SLOW * 2);
        exchange.json(200, "{}");
    });
    let more = "breaker: {slow: 50ms, slow_rate: 1, failures: 3, open: 1h}";
    let gateway = Gateway::start(&one(&slow, more));
    for _ in 0..3 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    }
    gateway.post(CHAT, ASK).assert_refused(503, "breaker_open");
    assert_eq!(state(&gateway), Some(2.0));
    assert_eq!(upstreams(&gateway)[0]["failures"], 0);
    assert_eq!(slow.requests().len(), 3);
}

#[test]
fn who_comes_back_gets_its_share_bit_by_bit() {
    let back = Moody::new(500, &[]);
    let other = Provider::json("{}");
    let more = "slow_start: 1h, breaker: {failures: 1, open: 100ms}";
    let gateway = Gateway::start(&two(&back.server, &other, more));
    eventually("a failure", || {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
        (back.chats() == 1).then_some(())
    });
    back.answers(200);
    eventually("a probe", || {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
        (back.chats() == 2).then_some(())
    });
    assert_eq!(state(&gateway), Some(0.0));
    for _ in 0..44 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    }
    let share = back.chats() - 2;
    assert!((2..=6).contains(&share), "a tenth of the other's: {share}");
}

#[test]
fn where_all_are_paused_the_least_bad_may_be_tried() {
    let moody = Moody::new(500, &[]);
    let config = one(&moody.server, "breaker: {failures: 2, open: 1h}");
    let gateway = Gateway::start(&format!("{config}routing: {{all_open: try}}\n"));
    for _ in 0..5 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 500);
    }
    assert_eq!(state(&gateway), Some(2.0));
    moody.answers(200);
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    assert_eq!(moody.chats(), 6);
}

#[test]
fn a_pause_outlives_a_reload() {
    let moody = Moody::new(500, &[]);
    let config = one(&moody.server, "breaker: {failures: 2, open: 1h}");
    let gateway = Gateway::start(&config);
    for _ in 0..2 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 500);
    }
    gateway.reload(&format!("{config}timeouts: {{total: 10m}}\n"));
    gateway.post(CHAT, ASK).assert_refused(503, "breaker_open");
    assert_eq!(moody.chats(), 2);
}

/// Fails three times, then does what it is told to.
fn after_failures(then: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Provider {
    let asked = AtomicU16::new(0);
    Provider::start(move |exchange| match asked.fetch_add(1, Ordering::SeqCst) {
        0..3 => exchange.json(500, "{}"),
        _ => then(exchange),
    })
}

#[test]
fn a_probe_is_good_when_its_answer_begins() {
    let gate = Gate::new();
    let held = gate.clone();
    let server = after_failures(move |exchange| {
        exchange.stream();
        exchange.event("{}");
        exchange.wait(&held);
        exchange.event("[DONE]");
        exchange.end();
    });
    let gateway = Gateway::start(&one(&server, "breaker: {failures: 3, open: 100ms}"));
    for _ in 0..3 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 500);
    }
    let mut probe = eventually("a probe", || {
        let mut client = gateway.client();
        client.post(CHAT, ASK);
        (client.read_head().status == 200).then_some(client)
    });
    let mut next = gateway.client();
    next.post(CHAT, ASK);
    assert_eq!(next.read_head().status, 200, "the first is still under way");
    assert_eq!(state(&gateway), Some(0.0));
    gate.open();
    probe.read_text_until("[DONE]");
    next.read_text_until("[DONE]");
}

#[test]
fn a_probe_whose_client_leaves_gives_its_place_to_the_next() {
    let gate = Gate::new();
    let held = gate.clone();
    let server = after_failures(move |exchange| {
        if !held.is_open() {
            exchange.wait_end();
            return exchange.close();
        }
        exchange.json(200, "{}");
    });
    let gateway = Gateway::start(&one(&server, "breaker: {failures: 3, open: 4s}"));
    for _ in 0..3 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 500);
    }
    eventually("the pause's end", || {
        (state(&gateway) == Some(1.0)).then_some(())
    });
    let mut probe = gateway.client();
    probe.post(CHAT, ASK);
    server.wait_requests(4);
    gateway.post(CHAT, ASK).assert_refused(503, "breaker_open");
    probe.reset();
    gateway.wait_value("weir_in_flight", &[], 0.0);
    gate.open();
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    assert_eq!(state(&gateway), Some(0.0));
}

#[test]
fn who_has_no_time_is_left_alone_for_as_long_as_it_says() {
    let busy = Moody::new(429, &[("retry-after", "50")]);
    let other = Provider::json("{}");
    let gateway = Gateway::start(&two(&busy.server, &other, "breaker: {failures: 1}"));
    for _ in 0..10 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    }
    assert_eq!(busy.chats(), 1);
    assert_eq!(state(&gateway), Some(0.0), "it isn't broken");
    let told = &upstreams(&gateway)[0];
    assert!(
        told["resting_seconds"].as_f64().is_some_and(|it| it > 30.0),
        "{told}"
    );
}

#[test]
fn who_has_no_time_is_asked_where_nobody_else_is() {
    let busy = Moody::new(429, &[("retry-after", "50")]);
    let more = "api_key: a, breaker: {failures: 1}";
    let gateway = Gateway::start(&one(&busy.server, more));
    assert_eq!(gateway.post(CHAT, ASK).status(), 429);
    busy.answers(200);
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
}

#[test]
fn who_does_not_accept_the_account_is_asked_last() {
    let wrong = Moody::new(401, &[]);
    let other = Moody::new(200, &[]);
    let gateway = Gateway::start(&two(&wrong.server, &other.server, "breaker: {failures: 1}"));
    for _ in 0..10 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    }
    assert_eq!(wrong.chats(), 1);
    assert_eq!(gateway.count_log("doesn't accept weir's account"), 1);
    assert_eq!(state(&gateway), Some(0.0));
    let told = &upstreams(&gateway)[0];
    assert!(
        told["unaccepted_seconds"]
            .as_f64()
            .is_some_and(|it| it > 30.0),
        "{told}"
    );
    // It is tried where the other one can't, and with that it is one of all again.
    wrong.answers(200);
    other.answers(500);
    assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    assert_eq!(upstreams(&gateway)[0]["unaccepted_seconds"], Value::Null);
}

#[test]
fn another_key_is_another_account() {
    let wrong = Moody::new(401, &[]);
    let other = Provider::json("{}");
    let config = two(&wrong.server, &other, "breaker: off");
    let gateway = Gateway::start(&config);
    for _ in 0..4 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    }
    assert_eq!(wrong.chats(), 1);
    wrong.answers(200);
    gateway.reload(&config.replace("api_key: a", "api_key: c"));
    for _ in 0..4 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    }
    assert_eq!(wrong.chats(), 3);
}

#[test]
fn who_is_not_well_is_not_asked_until_it_is() {
    let sick = Moody::new(503, &[]);
    let other = Provider::json("{}");
    let more = "slow_start: 0s, health: {path: /v1/ready?deep=1, interval: 50ms, rise: 2, fall: 2}";
    let gateway = Gateway::start(&two(&sick.server, &other, more));
    let healthy = |due| {
        gateway.wait_value("weir_upstream_healthy", &[("provider", "p")], due);
    };
    healthy(0.0);
    let asked = sick.server.requests();
    let first = asked.first().expect("a question");
    assert_eq!(
        (&*first.method, &*first.target),
        ("GET", "/v1/ready?deep=1")
    );
    assert_eq!(first.header("authorization"), Some("Bearer a"));
    assert_eq!(
        first.header("host"),
        Some(&*sick.server.address().to_string())
    );
    for _ in 0..6 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    }
    assert_eq!(sick.chats(), 0);
    assert_eq!(
        gateway.value("weir_upstream_healthy", &[("provider", "q")]),
        None
    );
    // A page that isn't there is an answer.
    sick.answers(404);
    healthy(1.0);
    sick.answers(200);
    for _ in 0..6 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    }
    assert_eq!(sick.chats(), 3);
    gateway.reload(&two(&sick.server, &other, "slow_start: 0s"));
    let no_more = sick.server.requests().len();
    for _ in 0..4 {
        assert_eq!(gateway.post(CHAT, ASK).status(), 200);
    }
    assert!(
        sick.server.requests().len() <= no_more + 3,
        "nobody asks any more"
    );
}

//! Sharing a model server: caps of providers and endpoints, and whose turn it is for a place.

use crate::support::{Answer, Board, Gateway, Provider, post};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"m","messages":[]}"#;

/// An engine whose requests end one by one, as the test says.
struct Engine {
    provider: Provider,
    leave: Arc<Board<usize>>,
}

impl Engine {
    fn start() -> Self {
        let leave = Arc::new(Board::<usize>::default());
        let left = Arc::clone(&leave);
        let provider = Provider::start(move |exchange| {
            let one = |left: &mut usize| left.checked_sub(1).map(|rest| *left = rest);
            left.wait("leave to answer", one);
            exchange.json(200, "{}");
        });
        Self { provider, leave }
    }

    /// So many of its requests may end.
    fn ends(&self, count: usize) {
        self.leave.change(|left| *left += count);
    }

    /// What stands in the prompts that came, in their order.
    fn prompts(&self, count: usize) -> Vec<String> {
        let requests = self.provider.wait_requests(count);
        let prompt = |body: serde_json::Value| body["messages"][0]["content"].as_str().map(first);
        let prompts = requests.iter().map(|request| prompt(request.json()));
        prompts.map(|it| it.expect("a prompt")).collect()
    }

    fn config(&self, provider: &str) -> String {
        let url = self.provider.url();
        format!("providers: [{{name: one, base_url: \"{url}\", models: [m], {provider}}}]\n")
    }
}

fn first(text: &str) -> String {
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// A prompt that begins with this word and has this many bytes more.
fn prompt(word: &str, bytes: usize) -> String {
    let text = "x".repeat(bytes);
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{word} {text}"}}]}}"#)
}

#[track_caller]
fn wait_depth(weir: &Gateway, depth: usize) {
    weir.wait_value(
        "weir_upstream_queue_depth",
        &[("provider", "one")],
        depth as f64,
    );
}

#[track_caller]
fn wait_nothing_left(weir: &Gateway) {
    wait_depth(weir, 0);
    weir.wait_value("weir_upstream_in_flight", &[], 0.0);
    weir.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn places_are_given_one_by_one_as_the_engine_finishes() {
    let engine = Engine::start();
    let weir = Gateway::start(&engine.config("endpoint_max_in_flight: 2"));
    let address = weir.address();
    let clients: Vec<_> = (0..5)
        .map(|_| std::thread::spawn(move || post(address, CHAT, ASK).status()))
        .collect();
    wait_depth(&weir, 3);
    engine.provider.wait_requests(2);
    for (ended, waiting) in [(1, 2), (2, 1), (3, 0)] {
        assert_eq!(engine.provider.requests().len(), ended + 1);
        engine.ends(1);
        engine.provider.wait_requests(ended + 2);
        wait_depth(&weir, waiting);
        weir.wait_value("weir_upstream_in_flight", &[("provider", "one")], 2.0);
    }
    engine.ends(2);
    for client in clients {
        assert_eq!(client.join().expect("a client"), 200);
    }
    let records = weir.records(5);
    let queued = records
        .iter()
        .filter(|record| record["queued_ms"].is_number());
    assert_eq!(queued.count(), 3, "the others didn't wait");
    wait_nothing_left(&weir);
    let waited = weir.value("weir_queue_wait_seconds_count", &[("provider", "one")]);
    assert_eq!(waited, Some(3.0));
}

#[test]
fn each_endpoint_of_a_provider_tells_what_it_carries() {
    let engines = [Engine::start(), Engine::start()];
    let urls = engines.each_ref().map(|it| it.provider.url());
    let weir = Gateway::start(&format!(
        "providers: [{{name: one, urls: {urls:?}, models: [m]}}]\n"
    ));
    let address = weir.address();
    let clients: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(move || post(address, CHAT, ASK).status()))
        .collect();
    for (engine, url) in engines.iter().zip(&urls) {
        engine.provider.wait_requests(2);
        let endpoint = url.trim_start_matches("http://").split('/').next();
        let labels = [("provider", "one"), ("endpoint", endpoint.expect("a host"))];
        weir.wait_value("weir_upstream_in_flight", &labels, 2.0);
        engine.ends(2);
    }
    for client in clients {
        assert_eq!(client.join().expect("a client"), 200);
    }
    wait_nothing_left(&weir);
}

#[test]
fn who_leaves_the_line_is_forgotten_at_once_and_never_sent() {
    let engine = Engine::start();
    let weir = Gateway::start(&engine.config("max_in_flight: 1, queue: {size: 2}"));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| weir.post(CHAT, prompt("first", 0)).status());
        engine.provider.wait_requests(1);
        let mut leaves = weir.client();
        leaves.post(CHAT, prompt("leaves", 0));
        wait_depth(&weir, 1);
        let stays = scope.spawn(|| weir.post(CHAT, prompt("stays", 0)).status());
        wait_depth(&weir, 2);
        let full = weir.post(CHAT, ASK);
        full.assert_refused(503, "queue_full");
        assert!(retry_after(&full) >= 1);
        leaves.close();
        wait_depth(&weir, 1);
        engine.ends(2);
        assert_eq!(
            (first.join().expect("one"), stays.join().expect("one")),
            (200, 200)
        );
    });
    assert_eq!(engine.prompts(2), ["first", "stays"]);
    let left = weir.record_where("the one that left", |it| it["end"] == "client_closed");
    assert_eq!(
        (left["status"].as_u64(), left["attempts"].as_u64()),
        (Some(499), Some(0))
    );
    wait_nothing_left(&weir);
}

#[track_caller]
fn retry_after(answer: &Answer) -> u64 {
    let value = answer.header("retry-after").expect("Retry-After");
    value.parse().expect("seconds")
}

#[test]
fn the_cap_is_exact_while_two_hundred_clients_cross_it_and_no_place_leaks() {
    const CAP: usize = 7;
    const CLIENTS: usize = 200;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let provider = {
        let (now, most) = (Arc::clone(&now), Arc::clone(&most));
        Provider::start(move |exchange| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // What an engine takes; before its answer, so that nobody comes while it counts.
            std::thread::sleep(Duration::from_millis(5));
            now.fetch_sub(1, Ordering::SeqCst);
            exchange.json(200, "{}");
        })
    };
    let url = provider.url();
    let weir = Gateway::start(&format!(
        "providers: [{{name: one, base_url: \"{url}\", models: [m], max_in_flight: {CAP}}}]\n"
    ));
    let address = weir.address();
    for _ in 0..2 {
        let ask = |_| std::thread::spawn(move || post(address, CHAT, ASK).status());
        let clients: Vec<_> = (0..CLIENTS).map(ask).collect();
        for client in clients {
            assert_eq!(client.join().expect("a client"), 200);
        }
        assert_eq!(
            most.swap(0, Ordering::SeqCst),
            CAP,
            "all places and no more"
        );
        wait_nothing_left(&weir);
    }
}

#[test]
fn a_provider_that_hangs_takes_nothing_of_another() {
    const SEATS: usize = 40;
    const HUNG: usize = 2 * SEATS;
    let hung = Engine::start();
    let well = Provider::json("{}");
    let weir = Gateway::start(&format!(
        "limits: {{in_flight: {SEATS}, queue: {{timeout: 60s}}}}\n\
         providers:\n\
         - {{name: one, base_url: \"{}\", models: [m]}}\n\
         - {{name: well, base_url: \"{}\", models: [w]}}\n",
        hung.provider.url(),
        well.url()
    ));
    let address = weir.address();
    let ask = || {
        let asked = r#"{"model":"w","messages":[]}"#;
        let began = Instant::now();
        let status = post(address, CHAT, asked).status();
        (status, began.elapsed())
    };
    let slowest = |all: Vec<(u16, Duration)>| {
        assert!(all.iter().all(|(status, _)| *status == 200), "{all:?}");
        let mut all: Vec<Duration> = all.into_iter().map(|(_, took)| took).collect();
        all.sort_unstable();
        (all[all.len() / 2], all[all.len() * 99 / 100])
    };
    let alone = slowest((0..200).map(|_| ask()).collect());
    let clients: Vec<_> = (0..HUNG)
        .map(|_| std::thread::spawn(move || post(address, CHAT, ASK)))
        .collect();
    // Three quarters of the seats are at it, and an eighth of them wait for that.
    hung.provider.wait_requests(SEATS * 3 / 4);
    wait_depth(&weir, SEATS / 8);
    let beside = slowest((0..200).map(|_| ask()).collect());
    println!("p50 and p99: {alone:?} without, {beside:?} with a provider that hangs");
    assert_eq!(hung.provider.requests().len(), SEATS * 3 / 4);
    hung.ends(HUNG);
    let mut served = 0;
    for client in clients {
        let answer = client.join().expect("a client");
        match answer.status() {
            200 => served += 1,
            _ => answer.assert_refused(503, "queue_full"),
        }
    }
    assert!(served >= SEATS * 7 / 8, "{served}");
    wait_nothing_left(&weir);
}

/// Two teams whose keys are their names.
fn teams(greedy: &str, modest: &str) -> String {
    let team = |name: &str, more: &str| {
        let hash = weir::govern::keys::digest(name.as_bytes());
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("- {{name: {name}, keys: [{{name: k, sha256: {hash}}}]{more}}}\n")
    };
    format!(
        "teams:\n{}{}",
        team("greedy", greedy),
        team("modest", modest)
    )
}

fn bearer(team: &str) -> String {
    format!("Bearer {team}")
}

/// Sends each of these, of a team with a prompt and a header, when the one before waits; then lets them
/// end one by one. What came in which order, after the first, which had the place.
fn order(weir: &Gateway, engine: &Engine, all: &[(&str, String, Option<&str>)]) -> Vec<String> {
    let address = weir.address();
    let send = |(team, body, priority): &(&str, String, Option<&str>)| {
        let (bearer, body) = (bearer(team), body.clone());
        let priority = priority.map(str::to_owned);
        std::thread::spawn(move || {
            let mut client = crate::support::Client::connect(address);
            let mut headers = vec![
                ("authorization", &*bearer),
                ("content-type", "application/json"),
            ];
            headers.extend(priority.as_deref().map(|it| ("x-weir-priority", it)));
            client.request("POST", CHAT, &headers, body.as_bytes());
            assert_eq!(client.answer().status(), 200);
        })
    };
    let mut clients = vec![send(&("greedy", prompt("place", 0), None))];
    engine.provider.wait_requests(1);
    for (number, it) in all.iter().enumerate() {
        clients.push(send(it));
        wait_depth(weir, number + 1);
    }
    for number in 1..=all.len() {
        engine.ends(1);
        engine.provider.wait_requests(number + 1);
    }
    engine.ends(1);
    for client in clients {
        client.join().expect("a client");
    }
    wait_nothing_left(weir);
    engine.prompts(all.len() + 1).split_off(1)
}

#[test]
fn a_team_that_sends_fifty_times_the_tokens_gets_no_more_than_another() {
    let engine = Engine::start();
    let weir = Gateway::start(&(engine.config("max_in_flight: 1") + &teams("", "")));
    // About 51 and 1 thousand tokens, with what answers are thought to have.
    let large = ("greedy", prompt("large", 200_000), None);
    let small = ("modest", prompt("small", 16), None);
    let mut all = vec![large; 4];
    all.extend(vec![small; 60]);
    let order = order(&weir, &engine, &all);
    // Of what is served until the small ones are through, each has about a half.
    let large = order[..62].iter().filter(|it| *it == "large");
    let large = large.count();
    println!("{large} of 51 thousand tokens among 60 of one thousand: {order:?}");
    assert!((1..=2).contains(&large), "{order:?}");
    let first = order.iter().position(|it| it == "large").expect("one");
    assert!(
        (45..=55).contains(&first),
        "the first one after {first} small ones"
    );
}

#[test]
fn a_request_for_the_longest_answer_that_can_be_written_waits_its_turn() {
    let engine = Engine::start();
    let limits = ", limits: {requests_per_minute: 1000}";
    let weir = Gateway::start(&(engine.config("max_in_flight: 1") + &teams(limits, "")));
    let most = format!(
        r#"{{"model":"m","max_tokens":{},"messages":[{{"role":"user","content":"most {}"}}]}}"#,
        u64::MAX,
        "x".repeat(64)
    );
    let all = [
        ("greedy", most, None),
        ("modest", prompt("small", 16), None),
        ("modest", prompt("small", 16), None),
    ];
    assert_eq!(order(&weir, &engine, &all), ["small", "small", "most"]);
}

#[test]
fn who_is_more_urgent_goes_first_and_batches_still_go() {
    let engine = Engine::start();
    let of_team = (", priority: batch", ", priority_header: any");
    let weir = Gateway::start(&(engine.config("max_in_flight: 1") + &teams(of_team.0, of_team.1)));
    let batch = ("greedy", prompt("batch", 16), Some("high"));
    let normal = ("modest", prompt("normal", 16), None);
    let high = ("modest", prompt("high", 16), Some("high"));
    let mut all = vec![batch; 3];
    all.extend(vec![normal; 12]);
    all.extend(vec![high; 12]);
    let order = order(&weir, &engine, &all);
    let among = |word: &str, first: usize| order[..first].iter().filter(|it| *it == word).count();
    // Who may only lower its priority doesn't raise it: 16 : 4 : 1.
    assert!(among("high", 10) >= 7, "{order:?}");
    assert!(among("normal", 15) >= 2, "{order:?}");
    assert!(among("batch", 26) >= 1, "{order:?}");
    let sent = engine.provider.requests();
    assert!(sent.iter().all(|it| it.header("x-weir-priority").is_none()));
}

#[test]
fn a_priority_that_there_is_not_is_a_mistake_unless_nobody_asks() {
    let provider = Provider::json("{}");
    let route = format!("model_routes: {{m: \"{}\"}}\n", provider.url());
    let weir = Gateway::start(&(route.clone() + &teams("", ", priority_header: off")));
    let ask = |team: &str, priority: &str| {
        let (bearer, ask) = (bearer(team), ASK);
        let headers = [("authorization", &*bearer), ("x-weir-priority", priority)];
        weir.post_with(CHAT, &headers, ask)
    };
    let refused = ask("greedy", "urgent");
    refused.assert_refused(400, "invalid_request");
    assert!(
        refused.text().contains("high, normal, batch"),
        "{}",
        refused.text()
    );
    assert_eq!(ask("greedy", "batch").status(), 200);
    assert_eq!(ask("modest", "urgent").status(), 200);
    let open = Gateway::start(&route);
    let headers = [("x-weir-priority", "")];
    open.post_with(CHAT, &headers, ASK)
        .assert_refused(400, "invalid_request");
}

#[test]
fn what_has_no_place_in_time_is_refused_at_once_and_told_when_to_come() {
    let engine = Engine::start();
    let weir = Gateway::start(&engine.config("max_in_flight: 1, queue: {timeout: 1s}"));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| weir.post(CHAT, ASK).status());
        engine.provider.wait_requests(1);
        // How long a place is taken is what this is about.
        std::thread::sleep(Duration::from_millis(2500));
        engine.ends(1);
        assert_eq!(first.join().expect("a client"), 200);
        wait_nothing_left(&weir);
        let second = scope.spawn(|| weir.post(CHAT, ASK).status());
        engine.provider.wait_requests(2);
        let refused = weir.post(CHAT, ASK);
        refused.assert_refused(503, "overloaded");
        let wait = retry_after(&refused);
        assert!((1..=3).contains(&wait), "{wait}");
        engine.ends(1);
        assert_eq!(second.join().expect("a client"), 200);
    });
    let record = weir.record_where("the refusal", |it| it["end"] == "refused:overloaded");
    assert!(record["queued_ms"].is_null(), "it waited: {record}");
}

#[test]
fn who_waits_in_vain_is_refused_when_its_time_is_over() {
    let engine = Engine::start();
    let weir = Gateway::start(&engine.config("max_in_flight: 1, queue: {timeout: 200ms}"));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| weir.post(CHAT, ASK).status());
        engine.provider.wait_requests(1);
        let refused = weir.post(CHAT, ASK);
        refused.assert_refused(503, "overloaded");
        assert!(retry_after(&refused) >= 1);
        engine.ends(1);
        assert_eq!(first.join().expect("a client"), 200);
    });
    let record = weir.record_where("the refusal", |it| it["end"] == "refused:overloaded");
    assert!(record["queued_ms"].as_f64() >= Some(200.0), "{record}");
    wait_nothing_left(&weir);
}

#[test]
fn a_reload_changes_caps_for_those_who_wait() {
    let engine = Engine::start();
    let weir = Gateway::start(&engine.config("max_in_flight: 1"));
    let address = weir.address();
    let clients: Vec<_> = (0..6)
        .map(|_| std::thread::spawn(move || post(address, CHAT, ASK).status()))
        .collect();
    wait_depth(&weir, 5);
    weir.reload(&engine.config("max_in_flight: 4"));
    engine.provider.wait_requests(4);
    wait_depth(&weir, 2);
    weir.reload(&engine.config("max_in_flight: 1"));
    engine.ends(3);
    weir.wait_value("weir_upstream_in_flight", &[], 1.0);
    wait_depth(&weir, 2);
    assert_eq!(
        engine.provider.requests().len(),
        4,
        "as many must leave first"
    );
    engine.ends(3);
    for client in clients {
        assert_eq!(client.join().expect("a client"), 200);
    }
    wait_nothing_left(&weir);
}

//! What teams and keys may use, through the front door: tokens and requests by the minute, places in
//! flight, money; at the limit, past it, while it is crossed, and over an upgrade and a kill.

use crate::keys::sha256;
use crate::keys::{directly, made};
use crate::support::postgres::Postgres;
use crate::support::{Answer, Client, Gate, Gateway, Launch, Provider, eventually};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const SECRET: &str = "weir-correct-horse-battery-staple";
/// Ten tokens, of which five are the answer's.
const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":5,"total_tokens":10}}"#;
/// An answer of five tokens at most.
const ASK: &str = r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;

/// One team `search` with the key `ci`, and a route to the model `m`, which costs a dollar for each
/// answer of five tokens, and nothing for its prompt.
fn config(provider: &Provider, team: &str, key: &str) -> String {
    let (hash, url) = (sha256(SECRET), provider.url());
    format!(
        "prices: {{m: {{input: 0, output: 200000}}}}\n\
         model_routes: {{m: \"{url}\", unpriced: \"{url}\"}}\n\
         teams: [{{name: search{team}, keys: [{{name: ci, sha256: {hash}{key}}}]}}]\n"
    )
}

fn send(client: &mut Client, body: &str) -> Answer {
    send_as(client, SECRET, body)
}

fn send_as(client: &mut Client, secret: &str, body: &str) -> Answer {
    let authorization = format!("Bearer {secret}");
    let headers = [
        ("content-type", "application/json"),
        ("authorization", &*authorization),
    ];
    client.request("POST", CHAT, &headers, body.as_bytes());
    client.answer()
}

fn ask(weir: &Gateway) -> Answer {
    send(&mut weir.client(), ASK)
}

fn number(answer: &Answer, header: &str) -> u64 {
    let value = answer.header(header).unwrap_or_else(|| panic!("{header}"));
    value
        .parse()
        .unwrap_or_else(|_| panic!("{header}: {value}"))
}

// === by the minute ===

#[test]
fn each_answer_tells_how_the_nearest_limit_stands() {
    let provider = Provider::json(ANSWER);
    let weir = Gateway::start(&config(
        &provider,
        ", limits: {requests_per_minute: 600, tokens_per_minute: 100000}",
        ", limits: {requests_per_minute: 1, requests_burst: 2}",
    ));
    let first = ask(&weir);
    assert_eq!(first.status(), 200);
    assert_eq!(number(&first, "x-ratelimit-limit-requests"), 1);
    assert_eq!(number(&first, "x-ratelimit-remaining-requests"), 1);
    assert_eq!(number(&first, "x-ratelimit-limit-tokens"), 100_000);
    let reset = first.header("x-ratelimit-reset-requests").expect("reset");
    assert!(reset.ends_with('s'), "{reset}");
    assert_eq!(ask(&weir).status(), 200);
    let refused = ask(&weir);
    refused.assert_refused(429, "rate_limited");
    assert_eq!(number(&refused, "x-ratelimit-remaining-requests"), 0);
    let text = refused.text();
    assert!(text.contains("this key is 1 requests a minute"), "{text}");
    assert_eq!(
        provider.requests().len(),
        2,
        "a refused request goes nowhere"
    );
}

#[test]
fn who_is_refused_and_waits_as_told_gets_in() {
    let provider = Provider::json(ANSWER);
    let limits = ", limits: {requests_per_minute: 20, requests_burst: 1}";
    let weir = Gateway::start(&config(&provider, "", limits));
    let refused = eventually("a refusal", || {
        Some(ask(&weir)).filter(|answer| answer.status() != 200)
    });
    let told = Instant::now();
    refused.assert_refused(429, "rate_limited");
    let wait = number(&refused, "retry-after-ms");
    assert!(
        (1..=3000).contains(&wait),
        "{wait} ms for one of 20 a minute"
    );
    assert_eq!(number(&refused, "retry-after"), wait.div_ceil(1000));
    // The promise is about time, so time must pass.
    std::thread::sleep(Duration::from_millis(wait).saturating_sub(told.elapsed()));
    assert_eq!(ask(&weir).status(), 200, "after {wait} ms as told");
}

#[test]
fn tokens_are_reserved_as_thought_and_settled_as_used() {
    let provider = Provider::json(ANSWER);
    let weir = Gateway::start(&config(
        &provider,
        "",
        ", limits: {tokens_per_minute: 1000}",
    ));
    let long = ASK.replace("\"max_tokens\":5", "\"max_tokens\":900");
    let mut client = weir.client();
    for _ in 0..5 {
        // Each thinks of some 900 and uses 10.
        assert_eq!(send(&mut client, &long).status(), 200);
    }
    let too_long = ASK.replace("\"max_tokens\":5", "\"max_tokens\":1001");
    let never = send(&mut client, &too_long);
    never.assert_refused(400, "tokens_limited");
    assert_eq!(never.header("retry-after"), None);
    assert_eq!(never.header("x-should-retry"), Some("false"));
    assert!(
        never.text().contains("may use 1000 in a minute"),
        "{}",
        never.text()
    );
}

#[test]
fn what_an_answer_used_beyond_what_was_thought_is_paid_off_whole_and_told_truly() {
    let used = ANSWER.replace("_tokens\":5", "_tokens\":5000");
    let provider = Provider::start(move |exchange| exchange.json(200, &used));
    let folder = crate::support::Folder::new();
    let yaml = format!(
        "state_dir: {}\n{}",
        folder.path().display(),
        config(&provider, ", limits: {tokens_per_minute: 100}", "")
    );
    let mut first = Gateway::start(&yaml);
    assert_eq!(ask(&first).status(), 200);
    // Ten thousand tokens at a hundred a minute, of which the last hundred may still be owed.
    let owes = |weir: &Gateway| {
        let refused = ask(weir);
        refused.assert_refused(429, "tokens_limited");
        let wait = number(&refused, "retry-after");
        assert!((5_900..=6_000).contains(&wait), "{wait}");
        assert_eq!(number(&refused, "x-ratelimit-remaining-tokens"), 0);
        let reset = refused.header("x-ratelimit-reset-tokens").expect("a reset");
        let minutes = reset
            .split('m')
            .next()
            .and_then(|it| it.parse::<u64>().ok());
        assert!(
            minutes.is_some_and(|it| (98..=100).contains(&it)),
            "{reset}"
        );
    };
    owes(&first);
    first.signal(libc::SIGKILL);
    first.wait_exit();
    owes(&Gateway::start(&yaml));
}

#[test]
fn a_routes_limit_holds_for_all_who_ask_for_it_and_nobody_else() {
    let provider = Provider::json(ANSWER);
    let url = provider.url();
    let weir = Gateway::start(&format!(
        "model_routes: {{m: {{url: \"{url}\", limits: {{requests_per_minute: 2}}}}, n: \"{url}\"}}\n"
    ));
    let other = ASK.replace("\"m\"", "\"n\"");
    for remaining in [1, 0] {
        let answer = weir.post(CHAT, ASK);
        assert_eq!(number(&answer, "x-ratelimit-remaining-requests"), remaining);
    }
    weir.post(CHAT, ASK).assert_refused(429, "rate_limited");
    let free = weir.post(CHAT, other);
    assert_eq!(free.status(), 200);
    assert_eq!(free.header("x-ratelimit-limit-requests"), None);
}

// === at once ===

#[test]
fn a_key_has_so_many_in_flight_and_one_that_leaves_makes_room() {
    let gate = Gate::new();
    let waiting = gate.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&waiting);
        exchange.json(200, ANSWER);
    });
    let weir = Gateway::start(&config(&provider, "", ", limits: {in_flight: 1}"));
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| ask(&weir));
        provider.wait_requests(1);
        ask(&weir).assert_refused(429, "rate_limited");
        gate.open();
        first.join().expect("a client")
    });
    assert_eq!(first.status(), 200);
    eventually("room", || (ask(&weir).status() == 200).then_some(()));
}

// === waiting ===

#[test]
fn where_a_route_says_so_a_request_waits_for_its_turn_and_who_leaves_is_forgotten() {
    let gate = Gate::new();
    let waiting = gate.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&waiting);
        exchange.json(200, ANSWER);
    });
    let url = provider.url();
    let weir = Gateway::start(&format!(
        "limits: {{queue: {{size: 2, timeout: 60s}}}}\n\
         model_routes: {{m: {{url: \"{url}\", limits: {{in_flight: 1}}, on_limit: wait}}}}\n"
    ));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| weir.post(CHAT, ASK).status());
        provider.wait_requests(1);
        let mut leaves = weir.client();
        leaves.post(CHAT, ASK);
        weir.wait_value("weir_queue_depth", &[], 1.0);
        let second = scope.spawn(|| weir.post(CHAT, ASK).status());
        weir.wait_value("weir_queue_depth", &[], 2.0);
        let full = weir.post(CHAT, ASK);
        full.assert_refused(503, "queue_full");
        assert!(number(&full, "retry-after") >= 1);
        leaves.close();
        weir.wait_value("weir_queue_depth", &[], 1.0);
        assert_eq!(provider.requests().len(), 1);
        gate.open();
        assert_eq!(
            (first.join().expect("one"), second.join().expect("one")),
            (200, 200)
        );
    });
    weir.wait_value("weir_queue_depth", &[], 0.0);
    assert_eq!(provider.requests().len(), 2);
}

#[test]
fn what_cant_be_let_in_in_time_is_refused_at_once() {
    let provider = Provider::json(ANSWER);
    let url = provider.url();
    let weir = Gateway::start(&format!(
        "limits: {{queue: {{timeout: 5s}}}}\n\
         model_routes: {{m: {{url: \"{url}\", limits: {{requests_per_minute: 1}}, on_limit: wait}}}}\n"
    ));
    assert_eq!(weir.post(CHAT, ASK).status(), 200);
    let refused = weir.post(CHAT, ASK);
    refused.assert_refused(429, "rate_limited");
    let wait = number(&refused, "retry-after");
    assert!((50..=60).contains(&wait), "{wait}");
    assert_eq!(weir.value("weir_queue_depth", &[]), Some(0.0));
}

// === money ===

#[test]
fn a_budget_ends_as_openai_says_it_and_warns_before() {
    let provider = Provider::json(ANSWER);
    let weir = Gateway::start(&config(
        &provider,
        ", budget: {usd: 4, per: month, warn: [0.5]}",
        "",
    ));
    let warning = |answer: &Answer| answer.header("x-weir-budget-warning").map(str::to_owned);
    let mut client = weir.client();
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(send(&mut client, ASK));
    }
    let statuses: Vec<_> = answers.iter().map(Answer::status).collect();
    assert_eq!(statuses, [200; 4]);
    assert_eq!(
        warning(&answers[1]),
        None,
        "half is spent by the answer itself"
    );
    assert_eq!(
        warning(&answers[2]).as_deref(),
        Some("team;per=month;used=0.50")
    );
    let refused = send(&mut client, ASK);
    refused.assert_refused_as(429, "budget_exceeded", "insufficient_quota");
    assert_eq!(refused.json()["error"]["type"], "insufficient_quota");
    assert!(number(&refused, "retry-after") >= 1, "the month ends");
    let record = weir.record_where("an answer", |record| record["status"] == 200);
    assert_eq!(record["cost_usd"], 1.0);
    let labels = [("team", "search"), ("key", ""), ("period", "month")];
    weir.wait_value("weir_budget_warnings_total", &labels, 1.0);
    let used = weir
        .value("weir_budget_used_ratio", &labels)
        .expect("a gauge");
    assert!((used - 1.0).abs() < 1e-9, "{used}");
    let cost = weir.value("llm_cost_usd_total", &[("team", "search"), ("model", "m")]);
    assert!((cost.expect("a cost") - 4.0).abs() < 1e-9);
}

#[test]
fn what_has_no_price_is_refused_under_a_budget_or_served_for_nothing_as_the_setting_says() {
    let provider = Provider::json(ANSWER);
    let yaml = config(&provider, ", budget: {usd: 1, per: total}", "");
    let unpriced = ASK.replace("\"m\"", "\"unpriced\"");
    let weir = Gateway::start(&yaml);
    let refused = send(&mut weir.client(), &unpriced);
    refused.assert_refused(403, "unpriced_model");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    weir.reload(&format!("limits: {{unpriced: allow}}\n{yaml}"));
    assert_eq!(send(&mut weir.client(), &unpriced).status(), 200);
}

#[test]
fn the_check_tells_which_models_under_a_budget_have_no_price() {
    let provider = Provider::json(ANSWER);
    let yaml = config(&provider, ", budget: {usd: 1, per: day}", "");
    let launch = Launch::verb(&["check", "-c"]);
    let path = launch.folder().write("weir.yaml", yaml.as_str());
    let state = launch.folder().path().join("state");
    std::fs::create_dir(&state).expect("a folder");
    std::fs::write(&path, format!("state_dir: {}\n{yaml}", state.display())).expect("written");
    let output = launch.arg(&path).output();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("model_routes.unpriced:"), "{said}");
    assert!(!said.contains("model_routes.m:"), "{said}");
}

/// What many clients spend.
struct Spenders {
    through: AtomicUsize,
    refused: AtomicUsize,
    tried: AtomicUsize,
    enough: AtomicBool,
}

/// As many clients as this spend until the budget is gone; each tries until it was refused so often.
const REFUSALS_EACH: usize = 9;

impl Spenders {
    fn start(clients: usize, address: SocketAddr) -> (Arc<Self>, Vec<JoinHandle<()>>) {
        let all = Arc::new(Self {
            through: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            tried: AtomicUsize::new(0),
            enough: AtomicBool::new(false),
        });
        let threads = (0..clients)
            .map(|_| {
                let all = Arc::clone(&all);
                std::thread::spawn(move || all.spend(address))
            })
            .collect();
        (all, threads)
    }

    /// Waits until more than this many requests got through.
    fn wait_through(&self, count: usize) {
        eventually("some of the budget to be spent", || {
            (self.through.load(Ordering::Relaxed) > count).then_some(())
        });
    }

    fn spend(&self, address: SocketAddr) {
        let mut refusals = 0;
        while refusals < REFUSALS_EACH && !self.enough.load(Ordering::Relaxed) {
            self.tried.fetch_add(1, Ordering::Relaxed);
            match spend_once(address) {
                Some(200) => {
                    self.through.fetch_add(1, Ordering::Relaxed);
                }
                Some(429) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    refusals += 1;
                }
                // Its weir was killed.
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// Waits until all have done what they do.
fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("a client");
    }
}

fn spend_once(address: SocketAddr) -> Option<u16> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .ok()?;
    let length = ASK.len();
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: weir\r\ncontent-type: application/json\r\nauthorization: \
         Bearer {SECRET}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{ASK}"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1)?.parse().ok()
}

#[test]
fn sixty_four_clients_spend_a_budget_for_a_thousand_requests_to_the_last_one() {
    let provider = Provider::json(ANSWER);
    let weir = Gateway::start(&config(&provider, ", budget: {usd: 1000, per: total}", ""));
    let (all, threads) = Spenders::start(64, weir.address());
    join(threads);
    let (through, refused) = (
        all.through.load(Ordering::Relaxed),
        all.refused.load(Ordering::Relaxed),
    );
    println!("through {through}, refused {refused}");
    assert_eq!(through, 1000);
    assert_eq!(refused, 64 * REFUSALS_EACH);
    assert_eq!(provider.requests().len(), 1000);
}

/// Clients of the tests in which weir changes meanwhile.
const CLIENTS: usize = 16;

#[test]
fn an_upgrade_in_the_middle_changes_nothing() {
    let provider = Provider::json(ANSWER);
    let yaml = config(&provider, ", budget: {usd: 400, per: total}", "");
    let weir = Launch::supervised(&yaml).start();
    let (all, threads) = Spenders::start(CLIENTS, weir.address());
    all.wait_through(100);
    let upgraded = weir.upgrade();
    assert!(
        upgraded.status.success(),
        "{}",
        String::from_utf8_lossy(&upgraded.stderr)
    );
    join(threads);
    let through = all.through.load(Ordering::Relaxed);
    println!(
        "through {through}, refused {}",
        all.refused.load(Ordering::Relaxed)
    );
    assert_eq!(through, 400);
    assert_eq!(provider.requests().len(), 400);
    // The sums that both generations made are those of the books.
    let used = weir.value("weir_budget_used_ratio", &of_team("total"));
    assert_eq!(used, Some(1.0));
    assert_eq!(booked(&weir.folder().join("weir.yaml")), 400.0);
}

#[test]
fn a_kill_in_the_middle_forgets_nothing_that_was_settled() {
    let provider = Provider::json(ANSWER);
    let yaml = config(&provider, ", budget: {usd: 400, per: total}", "");
    let weir = Launch::supervised(&yaml).start();
    let (all, threads) = Spenders::start(CLIENTS, weir.address());
    all.wait_through(100);
    let leading = weir.wait_settled().number;
    weir.kill_generation(leading);
    join(threads);
    let through = all.through.load(Ordering::Relaxed);
    let asked = provider.requests().len();
    println!("through {through}, asked of the provider {asked}");
    // What was in flight when it was killed is given back, whether the provider had it or not.
    assert!((400 - CLIENTS..=400).contains(&through), "{through}");
    assert!((400..=400 + CLIENTS).contains(&asked), "{asked}");
}

#[test]
fn what_was_spent_is_spent_after_a_restart() {
    let provider = Provider::json(ANSWER);
    let yaml = config(&provider, ", budget: {usd: 2.1, per: total}", "");
    let folder = crate::support::Folder::new();
    let yaml = format!("state_dir: {}\n{yaml}", folder.path().display());
    let mut first = Gateway::start(&yaml);
    assert_eq!(ask(&first).status(), 200);
    first.signal(libc::SIGKILL);
    first.wait_exit();
    let second = Gateway::start(&yaml);
    assert_eq!(ask(&second).status(), 200);
    ask(&second).assert_refused_as(429, "budget_exceeded", "insufficient_quota");
}

#[test]
fn a_key_that_is_replaced_or_made_anew_has_spent_what_its_name_has() {
    let provider = Provider::json(ANSWER);
    let weir = Gateway::start(&config(&provider, "", ""));
    let status = |secret: &str| send_as(&mut weir.client(), secret, ASK).status();
    // Asks for what costs nothing until the key is as it should be.
    let becomes = |secret: &str, wanted: u16| {
        eventually("the keys to be known", || {
            let authorization = format!("Bearer {secret}");
            let mut client = weir.client();
            client.request(
                "GET",
                "/v1/models",
                &[("authorization", &*authorization)],
                b"",
            );
            (client.answer().status() == wanted).then_some(())
        });
    };
    let new = [
        "new", "--team", "search", "--name", "tmp", "--budget", "3/total",
    ];
    let first = made(&directly(&weir, &new));
    becomes(&first, 200);
    assert_eq!(status(&first), 200);
    let second = made(&directly(
        &weir,
        &["rotate", "search/tmp", "--overlap", "0"],
    ));
    becomes(&second, 200);
    assert_eq!(status(&second), 200);
    assert!(directly(&weir, &["revoke", "search/tmp"]).status.success());
    becomes(&second, 401);
    let third = made(&directly(&weir, &new));
    becomes(&third, 200);
    assert_eq!(status(&third), 200);
    assert_eq!(status(&third), 429, "three were spent under this name");
}

/// Labels of the team's own budget.
fn of_team(period: &str) -> [(&str, &str); 3] {
    [("team", "search"), ("key", ""), ("period", period)]
}

/// What all requests cost by the books that this configuration names, dollars.
#[track_caller]
fn booked(config: &Path) -> f64 {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["usage", "--json", "-c"])
        .arg(config)
        .output()
        .expect("weir's binary");
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    rows[0]["cost_usd"].as_f64().expect("a cost")
}

/// What becomes of a file's bytes.
type Damage<'d> = &'d dyn Fn(&mut Vec<u8>);

#[test]
fn accounts_that_are_damaged_keep_nobody_from_starting_and_are_made_anew_from_the_books() {
    let provider = Provider::json(ANSWER);
    let yaml = config(&provider, ", budget: {usd: 20, per: total}", "");
    let folder = crate::support::Folder::new();
    let yaml = format!("state_dir: {}\n{yaml}", folder.path().display());
    let file = folder.path().join("accounts.v1");
    let cut = |length| move |bytes: &mut Vec<u8>| bytes.truncate(length);
    let junk = |bytes: &mut Vec<u8>| bytes[..9].copy_from_slice(b"no table.");
    let damages: [(bool, Damage<'_>); 5] = [
        (true, &junk),
        (false, &cut(0)),
        (false, &cut(700)),
        (false, &cut(4096)),
        (true, &|bytes: &mut Vec<u8>| {
            *bytes = b"not a table at all".to_vec()
        }),
    ];
    let mut spent = 0.0;
    for (is_said, damage) in damages {
        let mut weir = Gateway::start(&yaml);
        assert_eq!(ask(&weir).status(), 200);
        spent += 1.0;
        weir.signal(libc::SIGKILL);
        weir.wait_exit();
        let mut bytes = std::fs::read(&file).expect("the accounts");
        damage(&mut bytes);
        std::fs::write(&file, bytes).expect("written");
        let mut weir = Gateway::start(&yaml);
        let used = weir.value("weir_budget_used_ratio", &of_team("total"));
        assert_eq!(used, Some(spent / 20.0));
        if is_said {
            weir.wait_log("accounts.v1 can't be read");
        }
        weir.wait_log("were raised to what the books have");
        weir.signal(libc::SIGKILL);
        weir.wait_exit();
    }
}

#[test]
fn books_that_come_late_are_counted_beside_what_was_spent_meanwhile_and_once() {
    let Some(mut postgres) = Postgres::start(None) else {
        return;
    };
    let provider = Provider::json(ANSWER);
    let folder = crate::support::Folder::new();
    let yaml = format!(
        "state_dir: {}\nusage: {{store: \"{}\"}}\n{}",
        folder.path().display(),
        postgres.url("sslmode=disable"),
        config(&provider, ", budget: {usd: 10, per: month}", "")
    );
    let mut first = Gateway::start(&yaml);
    for _ in 0..3 {
        assert_eq!(ask(&first).status(), 200);
    }
    first.wait_value("weir_ledger_carried_total", &[], 3.0);
    first.signal(libc::SIGKILL);
    first.wait_exit();
    std::fs::remove_file(folder.path().join("accounts.v1")).expect("the accounts");
    postgres.kill();
    let second = Gateway::start(&yaml);
    for _ in 0..2 {
        assert_eq!(ask(&second).status(), 200);
    }
    second.wait_value("weir_budget_used_ratio", &of_team("month"), 0.2);
    postgres.start_again();
    second.wait_value("weir_budget_used_ratio", &of_team("month"), 0.5);
    for _ in 0..5 {
        assert_eq!(ask(&second).status(), 200);
    }
    ask(&second).assert_refused_as(429, "budget_exceeded", "insufficient_quota");
}

#[test]
fn who_asks_for_more_than_can_be_counted_is_refused_and_nothing_is_forgotten() {
    let provider = Provider::json(ANSWER);
    let team = ", budget: {usd: 9000000, per: total}, limits: {in_flight_tokens: \
                 9223372036854775807, tokens_per_minute: 9223372036854775807}";
    let weir = Gateway::start(&config(&provider, team, ""));
    assert_eq!(ask(&weir).status(), 200);
    let vast = ASK.replace(":5", ":18446744073709551615");
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| send(&mut weir.client(), &vast).status()))
            .collect();
        all.into_iter()
            .map(|it| it.join().expect("a client"))
            .collect()
    });
    assert!(
        answers.iter().all(|it| [400, 429].contains(it)),
        "{answers:?}"
    );
    assert_eq!(ask(&weir).status(), 200);
    let used = weir.value("weir_budget_used_ratio", &of_team("total"));
    let used = used.expect("a gauge") * 9e6;
    assert!((used - 2.0).abs() < 1e-6, "{used}");
    assert_eq!(provider.requests().len(), 2);
}

#[test]
fn a_budget_that_is_lowered_below_what_is_spent_refuses_until_it_is_raised() {
    let provider = Provider::json(ANSWER);
    let of = |usd: &str| {
        config(
            &provider,
            &format!(", budget: {{usd: {usd}, per: total}}"),
            "",
        )
    };
    let weir = Gateway::start(&of("4"));
    for _ in 0..2 {
        assert_eq!(ask(&weir).status(), 200);
    }
    weir.reload(&of("1"));
    ask(&weir).assert_refused_as(429, "budget_exceeded", "insufficient_quota");
    weir.wait_value("weir_budget_used_ratio", &of_team("total"), 2.0);
    weir.reload(&of("3"));
    assert_eq!(ask(&weir).status(), 200);
    ask(&weir).assert_refused_as(429, "budget_exceeded", "insufficient_quota");
}

#[test]
fn who_loses_its_accounts_is_told_by_the_books_what_was_spent() {
    let provider = Provider::json(ANSWER);
    let budgets = ", budget: [{usd: 3.1, per: total}, {usd: 2.1, per: year}]";
    let yaml = config(&provider, ", budget: {usd: 9, per: day}", budgets);
    let folder = crate::support::Folder::new();
    let yaml = format!("state_dir: {}\n{yaml}", folder.path().display());
    let mut first = Gateway::start(&yaml);
    assert_eq!(ask(&first).status(), 200);
    first.signal(libc::SIGKILL);
    first.wait_exit();
    std::fs::remove_file(folder.path().join("accounts.v1")).expect("the accounts");
    let second = Gateway::start(&yaml);
    assert_eq!(ask(&second).status(), 200);
    ask(&second).assert_refused_as(429, "budget_exceeded", "insufficient_quota");
    let labels = |key, period| [("team", "search"), ("key", key), ("period", period)];
    let used = |key, period| second.value("weir_budget_used_ratio", &labels(key, period));
    let near = |used: Option<f64>, share: f64| used.is_some_and(|it| (it - share).abs() < 1e-9);
    assert!(near(used("", "day"), 2.0 / 9.0), "{:?}", used("", "day"));
    assert!(
        near(used("ci", "total"), 2.0 / 3.1),
        "{:?}",
        used("ci", "total")
    );
}

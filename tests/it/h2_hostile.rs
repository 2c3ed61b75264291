//! HTTP/2 clients that mean harm: each is sent away or let wait in vain, costs little memory, and
//! others are served meanwhile.
//!
//! The clients are `tests/hostile/h2_attacks.py`, which writes frames that no HTTP/2 library sends.
//! `WEIR_TEST_PYTHON` names the Python that has the package `h2` (default: `python3`); without it
//! these tests say so and do nothing.

use crate::support::{Client, DEADLINE, Gate, Gateway, Provider, eventually};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const ATTACKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/h2_attacks.py");
/// More than a client of this kind may cost, all its streams together.
const MEMORY_MAX_KIB: u64 = 32 << 10;
/// A hundred answers that are held by their windows, about half a megabyte each.
const HELD_MEMORY_MAX_KIB: u64 = 96 << 10;

fn python() -> String {
    std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// False, with a word about it, where Python's `h2` isn't there.
fn can_attack() -> bool {
    let there = Command::new(python())
        .args(["-c", "import h2, hyperframe, hpack"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("skipped: {} has no package h2 (pip install h2)", python());
    }
    there
}

fn gateway(provider: &Provider, more: &str) -> Gateway {
    let weir = Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{}\"}}]\nrouting: {{default_provider: p}}\n{more}",
        provider.url()
    ));
    settle(&weir);
    weir
}

/// Waits until the vocabularies are loaded, which takes its time and tens of megabytes.
fn settle(weir: &Gateway) {
    const STILL: Duration = Duration::from_millis(700);
    let mut last = (0, Instant::now());
    eventually("weir's memory to stand still", || {
        let now = memory_kib(weir, "VmRSS:");
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > STILL).then_some(())
    });
}

/// Runs an attack to its end and returns what it has to tell.
#[track_caller]
fn attack(weir: &Gateway, name: &str, more: &[&str]) -> Value {
    let output = Command::new(python())
        .arg(ATTACKS)
        .args([&weir.address().to_string(), name])
        // No attack waits longer for the server to end its connection.
        .args(["--seconds", &DEADLINE.as_secs().to_string()])
        .args(more)
        .output()
        .expect("Python");
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("a line of JSON")
}

/// The process's memory as proc(5) has it: VmRSS now, VmHWM at its peak.
fn memory_kib(weir: &Gateway, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", weir.pid())).expect("procfs");
    let line = status.lines().find(|line| line.starts_with(what));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kib.expect("an amount of memory")
}

/// Attacks while another client goes on asking; returns what the attack tells. The peak of memory
/// may not grow by more than `kib_max` meanwhile.
#[track_caller]
fn survived(weir: &Gateway, name: &str, more: &[&str], kib_max: u64) -> Value {
    // The peak begins anew (proc(5)); where that isn't allowed the old one stands.
    let _ = std::fs::write(format!("/proc/{}/clear_refs", weir.pid()), "5");
    let before = memory_kib(weir, "VmHWM:");
    let over = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    let told = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = Client::connect(weir.address());
            loop {
                other.request("GET", "/other", &[], b"");
                assert_eq!(other.answer().status(), 200, "while {name}");
                served.fetch_add(1, Ordering::Relaxed);
                if over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let told = attack(weir, name, more);
        over.store(true, Ordering::Relaxed);
        told
    });
    let grown = memory_kib(weir, "VmHWM:").saturating_sub(before);
    assert!(grown < kib_max, "{name} cost {grown} KiB: {told}");
    assert!(served.into_inner() > 0, "nobody was served during {name}");
    told
}

#[test]
fn floods_are_told_to_calm_down() {
    if !can_attack() {
        return;
    }
    let provider = Provider::json("{}");
    let weir = gateway(&provider, "");
    for name in [
        "rapid-reset",
        "slow-rapid-reset",
        "made-you-reset",
        "continuation-flood",
        "empty-continuations",
        "header-bomb",
        "hpack-bomb",
        "cookie-crumbs",
        "empty-data",
        "tiny-data",
        "padded-data",
        "ping-flood",
        "ping-flood-unread",
        "settings-flood",
        "priority-flood",
        "unknown-flood",
        "window-update-flood",
        "window-dribble",
    ] {
        let told = survived(&weir, name, &[], MEMORY_MAX_KIB);
        // Whether a header block without an end is too much or malformed depends on where it was cut
        // when it was looked at.
        let malformed = name.contains("continuation") && told["goaway"] == "PROTOCOL_ERROR";
        assert!(malformed || told["goaway"] == "ENHANCE_YOUR_CALM", "{told}");
        assert_eq!(told["closed"], true, "{told}");
    }
    weir.wait_value("weir_in_flight", &[], 0.0);
    weir.wait_value("weir_buffered_bytes", &[], 0.0);
    weir.wait_value("weir_connections", &[], 0.0);
}

#[test]
fn a_client_that_takes_streams_back_is_served_up_to_its_allowance() {
    if !can_attack() {
        return;
    }
    let provider = Provider::json("{}");
    let weir = gateway(&provider, "");
    let few = ["--count", "100", "--seconds", "1"];
    let told = survived(&weir, "slow-rapid-reset", &few, MEMORY_MAX_KIB);
    assert_eq!(told["goaway"], Value::Null, "{told}");
}

#[test]
fn a_connection_ends_after_its_ten_thousand_requests() {
    if !can_attack() {
        return;
    }
    let provider = Provider::json("{}");
    let weir = gateway(&provider, "");
    // Ten thousand requests, one after another, take a busy machine longer than anything else here.
    let path = ["--path", "/healthz", "--seconds", "60"];
    let told = survived(&weir, "many-streams", &path, MEMORY_MAX_KIB);
    assert_eq!(told["answered"], 10_000, "{told}");
    assert_eq!(told["statuses"]["200"], 10_000, "{told}");
    assert_eq!(told["goaway"], "NO_ERROR", "{told}");
    assert_eq!(told["closed"], true, "{told}");
    let told = survived(&weir, "deaf-to-goaway", &path, MEMORY_MAX_KIB);
    assert_eq!(told["goaway"], "ENHANCE_YOUR_CALM", "{told}");
    assert_eq!(
        told["answered"], 10_200,
        "those that were under way, {told}"
    );
}

#[test]
fn a_client_that_doesnt_go_on_is_let_go() {
    if !can_attack() {
        return;
    }
    let provider = Provider::json("{}");
    let weir = gateway(&provider, "timeouts: {client_header: 500ms}");
    for (name, reason) in [
        ("silence", "NO_ERROR"),
        ("half-a-block", "NO_ERROR"),
        ("no-settings", "PROTOCOL_ERROR"),
    ] {
        let told = survived(&weir, name, &[], MEMORY_MAX_KIB);
        assert_eq!(told["goaway"], reason, "{told}");
        assert_eq!(told["closed"], true, "{told}");
    }
}

#[test]
fn bodies_that_trickle_are_408_and_too_many_headers_431() {
    if !can_attack() {
        return;
    }
    let provider = Provider::json("{}");
    let weir = gateway(&provider, "timeouts: {client_body: 500ms}");
    for path in ["/v1/chat/completions", "/somewhere"] {
        let told = survived(&weir, "slow-bodies", &["--path", path], MEMORY_MAX_KIB);
        assert_eq!(told["statuses"]["408"], 100, "{told}");
    }
    let told = survived(&weir, "header-hold", &[], MEMORY_MAX_KIB);
    assert_eq!(told["statuses"]["431"], 100, "{told}");
    weir.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn answers_that_nobody_reads_are_not_held_for_long() {
    if !can_attack() {
        return;
    }
    let provider = Provider::start(|exchange| {
        if exchange.request.target == "/other" {
            return exchange.json(200, "{}");
        }
        let piece = vec![b'x'; 1 << 20];
        exchange.head(200, &[("content-length", "67108864")]);
        for _ in 0..64 {
            if !exchange.raw(&piece) {
                return;
            }
        }
    });
    let weir = gateway(&provider, "timeouts: {idle: 1s}");
    let told = survived(&weir, "window-stall", &[], HELD_MEMORY_MAX_KIB);
    assert_eq!(told["statuses"]["200"], 100, "{told}");
    assert_eq!(told["resets"]["CANCEL"], 100, "{told}");
    weir.wait_value("weir_in_flight", &[], 0.0);
    let told = survived(
        &weir,
        "socket-stall",
        &["--seconds", "4"],
        HELD_MEMORY_MAX_KIB,
    );
    assert_eq!(told["closed"], true, "{told}");
    weir.wait_value("weir_in_flight", &[], 0.0);
    weir.wait_value("weir_connections", &[], 0.0);
}

#[test]
fn requests_that_are_malformed_go_nowhere() {
    if !can_attack() {
        return;
    }
    let provider = Provider::json("{}");
    let weir = gateway(&provider, "");
    let told = attack(&weir, "malformed", &["--path", "/asked"]);
    let answers = told["answers"].as_object().expect("answers");
    assert!(answers.len() > 40, "{told}");
    for (name, answer) in answers {
        let answer = answer.as_str().expect("text");
        // What RFC 9113 allows, though it looks odd.
        let sound = name.starts_with("well formed")
            || name == "host instead of authority"
            || name == "fragment in the path";
        let expected = if sound {
            answer == "200"
        } else {
            answer.ends_with(" PROTOCOL_ERROR") || answer == "400" || answer == "405"
        };
        assert!(expected, "{name}: {answer}");
    }
    for request in provider.requests() {
        assert!(request.target.starts_with('/'), "{}", request.target);
        for forbidden in ["x-evil", "connection", "upgrade", "te", "x-test"] {
            let found = request.header(forbidden);
            assert!(found.is_none_or(|it| it == "keep-alive"), "{found:?}");
        }
    }
}

// === the end of weir ===

#[test]
fn a_weir_that_stops_lets_an_open_stream_end_and_waits_for_nobody_who_is_idle() {
    let go_on = Gate::new();
    let gate = go_on.clone();
    let provider = Provider::start(move |exchange| {
        exchange.head(200, &[("content-length", "10")]);
        exchange.raw("first");
        exchange.wait(&gate);
        exchange.raw(" last");
    });
    let mut weir = gateway(&provider, "");
    let busy = weir.h2_client();
    let mut answer = busy.begin("GET", "/slow", &[], b"");
    answer.read_text_until("first");
    // It has no request open, and doesn't answer the PING that goes with GOAWAY.
    let mut idle = TcpStream::connect(weir.address()).expect("a connection");
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    idle.write_all(hello).expect("a socket");
    weir.wait_value("weir_connections", &[], 2.0);
    weir.signal(libc::SIGTERM);
    weir.wait_log("draining");
    idle.set_read_timeout(Some(DEADLINE)).expect("a socket");
    let mut said = Vec::new();
    idle.read_to_end(&mut said).expect("its end, in time");
    let goaway_of_no_error = |frame: &[u8]| frame[3] == 7 && frame[13..17] == [0; 4];
    assert!(said.windows(17).any(goaway_of_no_error), "{said:?}");
    assert!(weir.exited().is_none(), "it left an open stream alone");
    go_on.open();
    let rest = answer.answer();
    assert_eq!((rest.text().as_str(), rest.cut.is_none()), (" last", true));
    drop(idle);
    assert_eq!(weir.wait_exit().code(), Some(0));
}

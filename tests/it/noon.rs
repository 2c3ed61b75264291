//! An upgrade at noon that nobody notices: generations change under load, fail to start, are killed,
//! drain; and no client can tell.
//!
//! `WEIR_TEST_ROUNDS` (3) is how many upgrades or reloads follow each other under load,
//! `WEIR_TEST_ROUNDS_LONG` (5) how many are made to look for leaks. The counts are printed.

use crate::support::load::model::{self, Model};
use crate::support::load::tally::{Counts, DONE, Kind};
use crate::support::load::{Load, TLS, clients};
use crate::support::supervised::{Generation, Memory, descriptors, said, signal};
use crate::support::{Authority, Client, Gate, Gateway, Launch, Provider, client, eventually};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::net::{SocketAddr, TcpStream};
use std::process::Output;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m"}"#;
/// Streams of this batch are open from the beginning to the end.
const LAST: u64 = u64::MAX - 1;

fn rounds(variable: &str, default: u64) -> u64 {
    let told = std::env::var(variable).ok();
    told.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}"))
    })
}

/// A configuration that leads all to the model server, with a short probation.
fn config(url: &str, more: &str) -> String {
    let upgrade = "upgrade: {probation: 200ms}\n";
    let upgrade = if more.contains("upgrade:") {
        ""
    } else {
        upgrade
    };
    format!("model_routes: {{m: \"{url}\"}}\n{upgrade}{more}\n")
}

fn start(model: &Model, more: &str) -> Gateway {
    Launch::supervised(&config(&model.url(), more)).start()
}

#[track_caller]
fn assert_done(output: &Output) {
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        said(output)
    );
    assert!(
        !said(output).trim().is_empty(),
        "it was done without a word"
    );
}

/// The sentence that it failed with.
#[track_caller]
fn assert_failed(output: &Output) -> String {
    let said = said(output);
    let status = output.status;
    assert!(!status.success(), "it should have failed: {said}");
    // 124 is what `timeout` says.
    assert_ne!(status.code(), Some(124), "it didn't come to an end: {said}");
    assert!(!said.trim().is_empty(), "it failed without a word");
    said.trim().to_owned()
}

#[track_caller]
fn assert_no_failure(counts: &Counts) {
    assert_eq!(counts.all_failures(), 0, "\n{counts}");
}

/// A client that has an open stream, and has got its first event.
fn streaming(address: SocketAddr, batch: u64) -> Client {
    let mut client = Client::connect(address);
    client.post(CHAT, model::stream_request(0, batch));
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_text_until("\n\n"), model::event(0, 0));
    client
}

// === under load ===

/// Does `change` again and again under the load of all kinds of clients; it says how many requests it
/// has made itself.
fn under_load(change: impl Fn(&Gateway, u64) -> u64) -> (Gateway, Counts) {
    const STREAMS: u64 = 300;
    const STREAMS_A_ROUND: u64 = 10;
    /// Rounds that a round's streams live for.
    const LIFE: u64 = 2;
    let rounds = rounds("WEIR_TEST_ROUNDS", 3);
    let model = Model::start();
    let authority = Authority::new();
    let (certificates, roots) = certificate(&authority);
    let listen = format!(
        "listen:\n- 127.0.0.1:0\n\
         - {{address: \"127.0.0.2:0\", tls: {{certificates: [{certificates}]}}}}"
    );
    let weir = start(&model, &listen);
    let load = Load::on(weir.address())
        .new_connections()
        .keep_alive()
        .http2()
        .websocket()
        .tls(weir.addresses()[1], roots)
        .admin(weir.admin());
    load.open_streams(STREAMS, LAST);
    load.wait_more(20);
    let mut other_requests = 0;
    for round in 0..rounds {
        load.open_streams(STREAMS_A_ROUND, round);
        let began = Instant::now();
        other_requests += change(&weir, round);
        println!("round {round}: {:?}", began.elapsed());
        load.wait_more(20);
        if let Some(old) = round.checked_sub(LIFE) {
            model.end_batch(old);
        }
    }
    let oldest = &weir.generations()[0];
    assert_eq!(oldest.number, 1, "the first generation's streams are open");
    model.end_batch(LAST);
    let streams = STREAMS + rounds * STREAMS_A_ROUND;
    load.wait_ended_streams(streams);
    let counts = load.finish();
    println!("{counts}");
    assert_no_failure(&counts);
    assert_eq!(counts.of(Kind::Stream, DONE), streams);
    assert_eq!(counts.of(Kind::Tls, clients::FULL), TLS);
    assert!(counts.of(Kind::Tls, clients::RESUMED) > 0);
    assert_eq!(weir.status()["pid"], weir.pid());
    weir.wait_settled();
    // Every generation's requests are counted, each once.
    let kinds = [
        Kind::NewConnection,
        Kind::KeepAlive,
        Kind::Http2,
        Kind::Tls,
        Kind::Stream,
    ];
    let requests: u64 = kinds.iter().map(|kind| counts.of(*kind, DONE)).sum();
    let requests = requests + other_requests + counts.of(Kind::WebSocket, "connections");
    #[expect(clippy::cast_precision_loss, reason = "far from 2^52")]
    let expected = requests as f64;
    println!("{expected} requests; now counted:\n{}", weir.metrics());
    weir.wait_value("llm_requests_total", &[], expected);
    (weir, counts)
}

/// A certificate as the configuration names it, and the store that trusts it.
fn certificate(authority: &Authority) -> (String, RootCertStore) {
    let (cert, key) = authority.issue("noon", "/CN=noon", "IP:127.0.0.2", 30);
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(authority.ca()).unwrap();
    roots.add(ca).unwrap();
    (format!("{{cert: {cert:?}, key: {key:?}}}"), roots)
}

#[test]
fn upgrades_under_load_lose_nothing() {
    let (weir, counts) = under_load(|weir, _| {
        weir.replace_binary();
        assert_done(&weir.upgrade());
        0
    });
    let rounds = rounds("WEIR_TEST_ROUNDS", 3);
    assert_eq!(weir.wait_settled().number, 1 + rounds);
    if rounds > 0 {
        assert!(counts.of(Kind::Http2, "asked to leave") > 0, "\n{counts}");
        assert!(
            counts.of(Kind::KeepAlive, "told to close") > 0,
            "\n{counts}"
        );
    }
}

#[test]
fn reloads_under_load_lose_nothing() {
    let (weir, _) = under_load(|weir, round| {
        let text = std::fs::read_to_string(weir.folder().join("weir.yaml")).unwrap();
        let text = text.split("headers:").next().unwrap();
        let headers = format!("headers: {{response: {{set: {{X-Round: \"{round}\"}}}}}}\n");
        weir.write_config(&format!("{text}{headers}"));
        assert_done(&weir.reload_by_command());
        let answer = weir.post(CHAT, BODY);
        assert_eq!(answer.header("x-round"), Some(round.to_string().as_str()));
        1
    });
    assert_eq!(weir.wait_settled().number, 1, "a reload made a generation");
}

// === upgrades that fail ===

/// Whether requests may be lost in an upgrade that fails.
#[derive(PartialEq)]
enum Loss {
    /// None.
    Never,
    /// Those that the new generation had accepted when it was killed.
    OfTheKilled,
}

/// What is wrong must be told, and no client may notice; then a sound upgrade works.
fn fails(
    rules: &str,
    loss: Loss,
    spoil: impl Fn(&Gateway),
    attempt: impl Fn(&Gateway) -> Output,
) -> String {
    let model = Model::start();
    let more = format!("upgrade: {{{rules}}}");
    let weir = start(&model, &more);
    let load = Load::on(weir.address()).new_connections().keep_alive();
    load.open_streams(5, 0);
    load.wait_more(10);
    spoil(&weir);
    let sentence = assert_failed(&attempt(&weir));
    load.wait_more(10);
    let lost = load.counts().all_failures();
    println!("{sentence} ({lost} requests lost)");
    assert!(lost == 0 || loss == Loss::OfTheKilled, "{}", load.counts());
    assert_eq!(weir.wait_settled().number, 1, "the first one serves");
    let last = &weir.status()["last"];
    assert_eq!(last["ok"], false, "{last}");
    weir.replace_binary_with(env!("CARGO_BIN_EXE_weir").as_ref());
    weir.write_config(&config(&model.url(), &more));
    assert_done(&weir.upgrade());
    load.wait_more(10);
    model.end_batch(0);
    load.wait_ended_streams(5);
    let counts = load.finish();
    assert_eq!(counts.all_failures(), lost, "\n{counts}");
    assert!(weir.wait_settled().number > 1);
    sentence
}

/// Puts a shell script where the program is. `$real` in it is the real one.
fn script(weir: &Gateway, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let real = env!("CARGO_BIN_EXE_weir");
    let text = format!("#!/bin/sh\nreal='{real}'\n{text}\n");
    let path = weir.folder().write("script", text);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    weir.replace_binary_with(&path);
}

/// Answers what is asked before a generation is started, as a sound program does.
const PLANS: &str = r#"case "$*" in *--plan*|*check*) exec "$real" "$@";; esac"#;

/// As [`fails`], when a program is to blame that no client ever meets.
fn program_fails(rules: &str, spoil: impl Fn(&Gateway)) -> String {
    fails(rules, Loss::Never, spoil, Gateway::upgrade)
}

#[test]
fn a_program_that_exits_at_once_changes_nothing() {
    program_fails("probation: 200ms", |weir| script(weir, "exit 3"));
}

#[test]
fn a_program_that_exits_when_it_is_to_serve_changes_nothing() {
    let text = format!("{PLANS}\nexit 3");
    let sentence = program_fails("probation: 200ms", |weir| script(weir, &text));
    assert!(sentence.contains('3'), "{sentence}");
}

#[test]
fn a_program_that_hangs_changes_nothing() {
    let text = format!("{PLANS}\nkill -STOP $$");
    program_fails("probation: 200ms", |weir| {
        // The first generation, with nothing else to serve yet, may take its time.
        let config = std::fs::read_to_string(weir.folder().join("weir.yaml")).unwrap();
        weir.write_config(&config.replace("probation:", "ready: 1s, probation:"));
        script(weir, &text);
    });
}

#[test]
fn a_program_that_is_none_changes_nothing() {
    program_fails("probation: 200ms", |weir| {
        let path = weir.folder().write("text", "not a program");
        weir.replace_binary_with(&path);
    });
}

#[test]
fn a_configuration_with_a_mistake_changes_nothing() {
    for attempt in [Gateway::upgrade, Gateway::reload_by_command] {
        let spoil = |weir: &Gateway| weir.write_config("model_rautes: {}");
        let sentence = fails("probation: 200ms", Loss::Never, spoil, attempt);
        assert!(sentence.contains("model_rautes"), "{sentence}");
    }
}

/// Upgrades, and does this to the new generation when it has said that it is ready.
fn upgrade_and_then(weir: &Gateway, act: impl Fn(&Generation)) -> Output {
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| weir.upgrade());
        let found = |all: &[Generation]| all.last().is_some_and(|it| it.state == "probation");
        weir.wait_generations("a probation", found);
        act(weir.generations().last().unwrap());
        upgrade.join().unwrap()
    })
}

/// Long enough to be met by a signal on a busy machine too.
const SLOW_PROBATION: &str = "probation: 8s";

#[test]
fn a_crash_right_after_it_was_ready_changes_nothing() {
    let crash = |weir: &Gateway| upgrade_and_then(weir, |new| signal(new.pid, libc::SIGKILL));
    fails(SLOW_PROBATION, Loss::OfTheKilled, |_| {}, crash);
}

#[test]
fn a_generation_that_hangs_right_after_it_was_ready_changes_nothing() {
    let freeze = |weir: &Gateway| upgrade_and_then(weir, |new| signal(new.pid, libc::SIGSTOP));
    fails(SLOW_PROBATION, Loss::OfTheKilled, |_| {}, freeze);
}

#[test]
fn two_upgrades_at_once_are_put_in_order() {
    let model = Model::start();
    let weir = start(&model, "");
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| weir.upgrade()));
        for upgrade in both {
            assert_done(&upgrade.join().unwrap());
        }
    });
    assert!(weir.wait_settled().number > 1);
    assert_eq!(weir.post(CHAT, BODY).status(), 200);
}

// === kill -9 ===

#[test]
fn a_killed_generation_is_replaced_from_the_same_listeners() {
    let model = Model::start();
    let weir = start(&model, "");
    let load = Load::on(weir.address()).new_connections().keep_alive();
    load.wait_more(20);
    assert_no_failure(&load.counts());
    let killed = Instant::now();
    weir.kill_generation(1);
    // A connection that waits in the queue is answered by the next generation; one that the killed
    // one had accepted already is reset.
    let served = eventually("an answer", || {
        let mut client = Client::connect(weir.address());
        client
            .try_send(b"GET /healthz HTTP/1.1\r\nHost: weir.test\r\n\r\n")
            .ok()?;
        client.try_read_head().map(|_| killed.elapsed())
    });
    assert!(weir.wait_settled().number > 1);
    println!("served again after {served:?}; {}", load.counts());
    let failed = load.counts().all_failures();
    load.wait_more(50);
    let counts = load.finish();
    assert_eq!(
        counts.all_failures(),
        failed,
        "it goes on failing:\n{counts}"
    );
}

#[test]
fn where_no_generation_can_be_started_it_is_tried_again_and_clients_wait() {
    const FAILURES: usize = 5;
    let model = Model::start();
    let weir = start(&model, "");
    assert_eq!(weir.wait_settled().number, 1);
    weir.write_config("model_rautes: {}");
    weir.kill_generation(1);
    eventually("some failures to start one", || {
        let log = weir.log();
        let failed = log.matches("no generation could be started").count();
        (failed >= FAILURES).then_some(())
    });
    assert!(weir.log().contains("model_rautes"), "the log says why");
    // The socket is open all the time: a client gets its answer late, not a refusal.
    let mut waiting = weir.client();
    waiting.post(CHAT, BODY);
    weir.write_config(&config(&model.url(), ""));
    assert_eq!(waiting.answer().status(), 200);
    assert!(weir.wait_settled().number > 1);
}

#[test]
fn a_generation_outlives_its_supervisor_where_another_is_to_come() {
    let model = Model::start();
    let mut weir = Launch::supervised(&config(&model.url(), ""))
        .env("WEIR_ADOPT", "1")
        .start();
    let load = Load::on(weir.address())
        .new_connections()
        .keep_alive()
        .http2();
    load.open_streams(5, 0);
    load.wait_more(20);
    weir.kill_supervisor();
    weir.wait_log("the supervisor is gone");
    load.wait_more(50);
    model.end_batch(0);
    load.wait_ended_streams(5);
    assert_no_failure(&load.finish());
}

#[test]
fn a_generation_without_a_supervisor_finishes_what_is_open() {
    let model = Model::start();
    let mut weir = start(&model, "");
    let mut stream = streaming(weir.address(), 0);
    weir.kill_supervisor();
    weir.wait_log("draining");
    assert_eq!(stream.read_text_until("\n\n"), model::event(0, 1));
    model.end_batch(0);
    let (rest, whole) = stream.rest();
    assert!(whole && rest.ends_with(b"data: [DONE]\n\n"));
    drop(stream);
    eventually("the generation's end", || {
        weir.supervised().processes().is_empty().then_some(())
    });
}

// === what stays ===

#[test]
fn upgrades_leave_no_descriptor_and_no_memory_behind() {
    /// What an allocator may keep of it all, KiB.
    const SLACK: u64 = 1024;
    let rounds = rounds("WEIR_TEST_ROUNDS_LONG", 5);
    let model = Model::start();
    let weir = start(
        &model,
        "upgrade: {probation: 50ms}\ntimeouts: {idle_close_delay: 50ms}",
    );
    let once = || {
        weir.replace_binary();
        assert_done(&weir.upgrade());
        assert_eq!(weir.post(CHAT, BODY).status(), 200);
    };
    let look = || {
        let generation = weir.wait_settled();
        let supervisor = i32::try_from(weir.pid()).unwrap();
        [supervisor, generation.pid].map(|pid| (descriptors(pid), Memory::of(pid)))
    };
    // What is opened once, and the first use of everything.
    (0..2).for_each(|_| once());
    let before = look();
    (0..rounds).for_each(|_| once());
    let after = look();
    println!("{rounds} upgrades: supervisor and generation {before:?} -> {after:?}");
    let [(supervisor, memory), (generation, _)] = before;
    let [(_, memory_after), (generation_after, _)] = after;
    // A question's connection may still be there.
    eventually(
        "the supervisor's descriptors to be as many as before",
        || {
            let pid = i32::try_from(weir.pid()).unwrap();
            (descriptors(pid) <= supervisor).then_some(())
        },
    );
    let grown = memory_after.own_kib.saturating_sub(memory.own_kib);
    assert!(grown <= SLACK, "the supervisor has grown by {grown} KiB");
    // A connection to the model server may be there or not.
    assert!(generation_after <= generation + 2, "a generation's");
}

#[test]
fn counters_never_fall_and_the_admin_listener_always_answers() {
    let model = Model::start();
    let weir = start(&model, "timeouts: {idle_close_delay: 100ms}");
    let load = Load::on(weir.address())
        .new_connections()
        .keep_alive()
        .admin(weir.admin());
    for _ in 0..rounds("WEIR_TEST_ROUNDS", 3) {
        load.open_streams(3, 0);
        load.wait_more(10);
        assert_done(&weir.upgrade());
    }
    load.wait_more(10);
    model.end_batch(0);
    let counts = load.finish();
    println!("{counts}");
    assert_no_failure(&counts);
}

#[test]
fn an_upgrade_gives_no_client_its_spent_requests_back() {
    let model = Model::start();
    let weir = start(&model, "rate_limit: {rate: 0.001, burst: 3}");
    let status = || client::post(weir.address(), CHAT, BODY).status();
    assert_eq!([(); 2].map(|()| status()), [200, 200]);
    assert_done(&weir.upgrade());
    assert_eq!(status(), 200);
    assert_done(&weir.upgrade());
    assert_eq!([(); 2].map(|()| status()), [429, 429]);
}

#[test]
fn a_reload_that_needs_a_new_generation_makes_one() {
    let model = Model::start();
    let [first, second] = std::array::from_fn(|_| crate::support::provider::nobody());
    let with = |listen: &[SocketAddr], threads: u8| {
        config(
            &model.url(),
            &format!("listen: {listen:?}\nthreads: {threads}"),
        )
    };
    let weir = Launch::supervised(&with(&[first], 2)).start();
    let mut stream = streaming(first, 0);
    weir.write_config(&with(&[first, second], 2));
    assert_done(&weir.reload_by_command());
    for address in [first, second] {
        assert_eq!(client::post(address, CHAT, BODY).status(), 200);
    }
    let mut other = streaming(second, 0);
    weir.write_config(&with(&[first], 2));
    assert_done(&weir.reload_by_command());
    eventually("the removed listener to refuse", || {
        TcpStream::connect(second).is_err().then_some(())
    });
    assert_eq!(client::post(first, CHAT, BODY).status(), 200);
    weir.write_config(&with(&[first], 1));
    assert_done(&weir.reload_by_command());
    let all = weir.generations();
    assert_eq!(all.last().map(|it| it.number), Some(4), "{all:?}");
    assert_eq!(client::post(first, CHAT, BODY).status(), 200);
    model.end_batch(0);
    for stream in [&mut stream, &mut other] {
        let (rest, whole) = stream.rest();
        assert!(whole && rest.ends_with(b"data: [DONE]\n\n"));
    }
    drop((stream, other));
    weir.wait_settled();
}

// === draining ===

#[test]
fn a_stream_that_is_open_when_the_time_is_over_ends_with_an_error_event() {
    let model = Model::start();
    for stop in [true, false] {
        let mut weir = start(&model, "timeouts: {drain: 1s}");
        let mut stream = streaming(weir.address(), LAST);
        if stop {
            weir.signal(libc::SIGTERM);
        } else {
            assert_done(&weir.upgrade());
        }
        let (rest, whole) = stream.rest();
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.contains("shutting_down"), "{rest}");
        assert!(whole && !rest.contains("[DONE]"), "{rest}");
        drop(stream);
        if stop {
            let status = weir.wait_exit();
            assert!(status.success(), "{status}");
        } else {
            assert_eq!(weir.wait_settled().number, 2);
        }
    }
}

#[test]
fn past_the_generations_that_may_live_at_once_the_oldest_is_ended() {
    let model = Model::start();
    let weir = start(&model, "upgrade: {probation: 50ms, generations: 2}");
    let mut oldest = streaming(weir.address(), LAST);
    assert_done(&weir.upgrade());
    assert_eq!(weir.generations().len(), 2, "as many as may be");
    assert_eq!(oldest.read_text_until("\n\n"), model::event(0, 1));
    let mut old = streaming(weir.address(), 0);
    assert_done(&weir.upgrade());
    let (rest, whole) = oldest.rest();
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.contains("shutting_down"), "{rest}");
    assert!(whole && !rest.contains("[DONE]"), "{rest}");
    drop(oldest);
    weir.wait_generations("one to end", |all| all.len() == 2);
    assert_eq!(old.read_text_until("\n\n"), model::event(0, 1));
    model.end_batch(0);
    let (rest, whole) = old.rest();
    assert!(whole && rest.ends_with(b"data: [DONE]\n\n"));
}

#[test]
fn a_stopped_weir_ends_when_its_last_stream_does() {
    let model = Model::start();
    let mut weir = start(&model, "");
    let mut stream = streaming(weir.address(), 0);
    weir.signal(libc::SIGTERM);
    weir.wait_log("draining");
    eventually("the listener's end", || {
        TcpStream::connect(weir.address()).is_err().then_some(())
    });
    assert_eq!(stream.read_text_until("\n\n"), model::event(0, 1));
    assert!(weir.exited().is_none(), "it didn't wait");
    model.end_batch(0);
    let (rest, whole) = stream.rest();
    assert!(whole && rest.ends_with(b"data: [DONE]\n\n"));
    let status = weir.wait_exit();
    assert!(status.success(), "{status}");
    assert!(weir.supervised().processes().is_empty());
}

#[test]
fn a_second_sigterm_ends_all_at_once() {
    let model = Model::start();
    let mut weir = start(&model, "");
    let mut stream = streaming(weir.address(), LAST);
    weir.signal(libc::SIGTERM);
    weir.wait_log("draining");
    weir.signal(libc::SIGTERM);
    weir.wait_exit();
    assert!(weir.supervised().processes().is_empty());
    let (rest, _) = stream.rest();
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
}

#[test]
fn connections_that_wait_between_requests_are_closed_by_a_generation_that_drains() {
    let model = Model::start();
    let weir = start(&model, "timeouts: {idle_close_delay: 500ms}");
    let mut idle: Vec<Client> = (0..5).map(|_| weir.client()).collect();
    for client in &mut idle {
        client.post(CHAT, BODY);
        assert_eq!(client.answer().status(), 200);
    }
    assert_done(&weir.upgrade());
    for client in &mut idle {
        assert_eq!(client.read_to_end(), b"");
    }
    assert_eq!(weir.wait_settled().number, 2);
}

#[test]
fn answers_of_a_generation_that_drains_say_that_the_connection_ends() {
    let gate = Gate::new();
    let waited = gate.clone();
    let provider = Provider::start(move |exchange| {
        if exchange.request.text().contains("slow") {
            exchange.wait(&waited);
        }
        exchange.json(200, r#"{"ok":true}"#);
    });
    let more = "timeouts: {idle_close_delay: 10m}";
    let weir = Launch::supervised(&config(&provider.url(), more)).start();
    let [mut kept, mut open] = std::array::from_fn(|_| weir.client());
    kept.post(CHAT, BODY);
    assert_ne!(kept.answer().header("connection"), Some("close"));
    open.post(CHAT, r#"{"model":"m","slow":1}"#);
    provider.wait_requests(2);
    assert_done(&weir.upgrade());
    weir.wait_log("draining");
    gate.open();
    kept.post(CHAT, BODY);
    for client in [&mut kept, &mut open] {
        let answer = client.answer();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(client.read_to_end(), b"");
    }
    assert_eq!(weir.wait_settled().number, 2);
}

#[test]
fn an_http2_connection_is_asked_to_end_and_its_stream_goes_on() {
    let model = Model::start();
    let weir = start(&model, "");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let address = weir.address();
    let within = Duration::from_secs(60);
    let talk = async {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let (send, connection) = h2::client::handshake(socket).await.unwrap();
        let mut connection = tokio::spawn(connection);
        let request = http::Request::post(format!("http://weir.test{CHAT}"));
        let request = request.header("content-type", "application/json").body(());
        let mut send = send.ready().await.unwrap();
        let (answer, mut body) = send.send_request(request.unwrap(), false).unwrap();
        let asked = model::stream_request(7, 0);
        body.send_data(asked.into(), true).unwrap();
        let mut events = answer.await.unwrap().into_body();
        let mut text = Vec::new();
        let mut count = 0;
        let mut asked_to_leave = false;
        while let Some(piece) = events.data().await {
            let piece = piece.unwrap();
            events.flow_control().release_capacity(piece.len()).unwrap();
            text.extend_from_slice(&piece);
            count += 1;
            if count == 1 {
                // Nothing else needs this thread meanwhile.
                assert_done(&weir.upgrade());
            }
            if !asked_to_leave && send.clone().ready().await.is_err_and(|it| it.is_go_away()) {
                asked_to_leave = true;
                model.end_batch(0);
            }
        }
        assert!(asked_to_leave, "there was no GOAWAY");
        assert!(text.ends_with(b"data: [DONE]\n\n"));
        (&mut connection).await.unwrap().unwrap();
    };
    let done = runtime.block_on(async { tokio::time::timeout(within, talk).await });
    done.expect("the stream's end");
    assert_eq!(weir.wait_settled().number, 2);
}

//! Regressions of listeners, draining and generations: promises that were broken once, each where one
//! listener, one signal or one generation met another.

use crate::support::supervised::said;
use crate::support::tls_client::{Settings, TlsClient};
use crate::support::{Authority, Client, Gate, Gateway, Launch, Provider, client, eventually};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m"}"#;
const DONE: &str = r#"{"ok":true}"#;
const GET: &str = "GET /healthz HTTP/1.1\r\nHost: w\r\n\r\n";

/// A certificate and its key.
type Pair = (PathBuf, PathBuf);

/// A listener as the configuration names it.
fn tls_listener(address: &str, certificates: &[&Pair], more: &str) -> String {
    let all: Vec<String> = certificates
        .iter()
        .map(|(cert, key)| format!("{{cert: {cert:?}, key: {key:?}}}"))
        .collect();
    format!(
        "{{address: \"{address}\", tls: {{certificates: [{}]{more}}}}}",
        all.join(", ")
    )
}

fn listen(listeners: &[&str]) -> String {
    format!("listen: [{}]\n", listeners.join(", "))
}

fn answers(address: SocketAddr) -> u16 {
    client::get(address, "/healthz").status()
}

// === reloads of one process ===

#[test]
fn a_reload_gives_no_open_socket_the_terms_of_another() {
    let authority = Authority::new();
    let server = authority.issue("server", "/CN=server", "DNS:a.test", 1);
    let ana = authority.issue("ana", "/CN=ana", "DNS:ana.test", 1);
    let ca = authority.ca();
    let known = format!(", client_ca: {ca:?}, client_auth: required");
    // They differ in what they ask of a client.
    let guarded = tls_listener("127.0.0.1:0", &[&server], &known);
    let open = tls_listener("127.0.0.2:0", &[&server], "");
    let fresh = tls_listener("127.0.0.3:0", &[&server], "");
    let plain = "\"127.0.0.4:0\"";
    let both = listen(&[&guarded, &open]);
    let weir = Gateway::start(&both);
    let [at_guarded, at_open] = [0, 1].map(|place| weir.addresses()[place]);
    let ask = |address, certificate: Option<&Pair>| {
        let settings = Settings {
            certificate: certificate.cloned(),
            ..Settings::new(&authority)
        };
        TlsClient::connect(&settings.config(), address, "a.test")?.get("/healthz")
    };
    let assert_unchanged = |what: &str| {
        assert!(ask(at_guarded, None).is_err(), "{what}: let in unknown");
        for (address, certificate) in [(at_guarded, Some(&ana)), (at_open, None)] {
            let answer = ask(address, certificate).expect(what);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{what}: {answer}");
        }
    };
    assert_unchanged("at the start");
    for (what, listeners) in [
        ("the guarded one is removed", &[&*open][..]),
        ("the other one is removed", &[&*guarded]),
        ("they change places", &[&*open, &*guarded]),
        ("one is put before them", &[&*fresh, &*guarded, &*open]),
        ("one of plaintext is put before them", &[plain, &*guarded]),
        ("both are replaced", &[&*fresh, plain]),
        ("all is as at the start", &[&*guarded, &*open]),
    ] {
        weir.reload(&listen(listeners));
        assert_unchanged(what);
    }
    // Where the sockets are the same, the new terms are theirs.
    let other = tls_listener("127.0.0.1:0", &[&server], "");
    weir.reload(&listen(&[&other, &open]));
    assert!(ask(at_guarded, None).is_ok());
}

#[test]
fn the_size_of_heads_and_the_certificates_change_by_a_reload() {
    let authority = Authority::new();
    let one = authority.issue("one", "/CN=one", "DNS:one.test", 1);
    let two = authority.issue("two", "/CN=two", "DNS:two.test", 1);
    let text = |certificates: &[&Pair], more: &str| {
        let tls = tls_listener("127.0.0.1:0", certificates, "");
        format!("{}{more}", listen(&["\"127.0.0.2:0\"", &tls]))
    };
    let weir = Gateway::start(&text(&[&one], ""));
    let [plain, secure] = [0, 1].map(|place| weir.addresses()[place]);
    let config = Settings::new(&authority).config();
    let knows = |name: &str| TlsClient::connect(&config, secure, name).is_ok();
    let sized = |bytes: usize| {
        let (start, end) = ("GET /healthz HTTP/1.1\r\nHost: w\r\nX: ", "\r\n\r\n");
        let filling = "x".repeat(bytes - start.len() - end.len());
        format!("{start}{filling}{end}")
    };
    let status = |client: &mut Client, bytes: usize| {
        client.send(sized(bytes));
        client.answer().status()
    };
    let mut earlier = Client::connect(plain);
    assert_eq!(status(&mut earlier, 2048), 200);
    assert_eq!((knows("one.test"), knows("two.test")), (true, false));

    weir.reload(&text(&[&one, &two], "limits: {header_bytes: 1KiB}\n"));
    for (bytes, expected) in [(1024, 200), (1025, 431), (2048, 431)] {
        assert_eq!(status(&mut Client::connect(plain), bytes), expected);
    }
    // It keeps what it has begun with.
    assert_eq!(status(&mut earlier, 2048), 200);
    assert_eq!((knows("one.test"), knows("two.test")), (true, true));

    weir.reload(&text(&[&two], "limits: {header_bytes: 2KiB}\n"));
    for (bytes, expected) in [(2048, 200), (2049, 431)] {
        assert_eq!(status(&mut Client::connect(plain), bytes), expected);
    }
    assert_eq!((knows("one.test"), knows("two.test")), (false, true));
    assert_eq!(weir.count_log("until a restart"), 0, "nothing has to wait");
}

#[test]
fn a_signal_to_upgrade_is_told_and_survived_where_there_is_no_supervisor() {
    let mut weir = Gateway::start("");
    weir.signal(libc::SIGUSR2);
    weir.wait_log("only the supervisor");
    assert_eq!(answers(weir.address()), 200);
    assert!(weir.exited().is_none());
}

// === headers that say who is who ===

#[test]
fn what_a_client_says_of_its_certificate_is_never_taken_for_one() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&format!(
        "model_routes: {{m: \"{}\"}}\n\
         headers: {{request: {{set: {{X-Client-Cert: \"{{client_cert}}\", X-Kept: \"1\"}}}}}}\n",
        provider.url()
    ));
    let json = ("content-type", "application/json");
    for forged in ["X-Client-Cert", "x-client-cert", "X-CLIENT-CERT"] {
        let headers = [json, (forged, "CN=admin"), ("X-Own", "1"), (forged, "CN=b")];
        let answer = weir.post_with(CHAT, &headers, BODY);
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    let headers = [json, ("x-client-cert", "CN=admin"), ("x-own", "1")];
    let answer = weir
        .h2_client()
        .request("POST", CHAT, &headers, BODY.as_bytes());
    assert_eq!(answer.status, 200);
    let requests = provider.wait_requests(4);
    for request in &requests {
        assert_eq!(request.all("x-client-cert"), [""; 0]);
        assert_eq!(request.all("x-kept"), ["1"]);
        assert_eq!(request.all("x-own"), ["1"], "other headers pass");
    }
}

#[test]
fn an_upstream_has_no_say_in_whether_this_host_is_reached_by_tls_alone() {
    const HSTS: &str = "strict-transport-security";
    let provider = Provider::start(|exchange| {
        let theirs = ("Strict-Transport-Security", "max-age=7; preload");
        exchange.answer(200, &[theirs, ("x-own", "1")], b"ok");
    });
    let authority = Authority::new();
    let server = authority.issue("server", "/CN=server", "DNS:a.test", 1);
    let off = tls_listener("127.0.0.1:0", &[&server], ", hsts: 0s");
    let standard = tls_listener("127.0.0.2:0", &[&server], "");
    let day = tls_listener("127.0.0.3:0", &[&server], ", hsts: 1d");
    let weir = Gateway::start(&format!(
        "{}target_map: {{/x: \"{}\"}}\n",
        listen(&[&off, &standard, &day]),
        provider.url()
    ));
    let config = Settings::new(&authority).config();
    let expected = [None, Some("max-age=31536000"), Some("max-age=86400")];
    for (address, expected) in weir.addresses().iter().zip(expected) {
        let mut client = TlsClient::connect(&config, *address, "a.test").unwrap();
        let answer = client.get("/x").unwrap().to_ascii_lowercase();
        assert!(answer.contains("\r\nx-own: 1\r\n"), "{answer}");
        let told: Vec<&str> = answer
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter_map(|(name, value)| (name == HSTS).then_some(value))
            .collect();
        assert_eq!(told, Vec::from_iter(expected), "{answer}");
    }
}

// === room for connections ===

#[test]
fn listeners_without_clients_hold_no_room_that_another_needs() {
    let weir = Gateway::start(
        "listen: [\"127.0.0.1:0\", \"127.0.0.2:0\", \"127.0.0.3:0\"]\n\
         limits: {connections: 2}\n",
    );
    for address in weir.addresses() {
        assert_eq!(answers(*address), 200, "{address}");
    }
    weir.wait_value("weir_connections", &[], 0.0);
    // Each has all of it, where the others have no clients, and not more.
    for address in weir.addresses() {
        let served = || {
            let mut client = Client::connect(*address);
            client.send(GET);
            assert_eq!(client.answer().status(), 200, "{address}");
            client
        };
        let held = [served(), served()];
        assert_eq!(weir.value("weir_connections", &[]), Some(2.0));
        let waiting = weir.addresses().iter().map(|other| {
            let mut client = Client::connect(*other);
            client.send(GET);
            client
        });
        let waiting: Vec<Client> = waiting.collect();
        assert_eq!(weir.value("weir_connections", &[]), Some(2.0));
        drop(held);
        // Any two are served first, and the third when one of them has left.
        std::thread::scope(|scope| {
            for mut client in waiting {
                scope.spawn(move || assert_eq!(client.answer().status(), 200));
            }
        });
        weir.wait_value("weir_connections", &[], 0.0);
    }
}

// === draining ===

/// Waits until a process has heard that it is to stand still.
fn wait_stopped(pid: u32) {
    eventually("weir to stand still", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, state) = stat.rsplit_once(") ")?;
        state.starts_with('T').then_some(())
    });
}

#[test]
fn whoever_is_connected_when_an_idle_weir_is_stopped_is_served() {
    const CLIENTS: usize = 20;
    for _ in 0..3 {
        let mut weir = Gateway::start("threads: 1\n");
        assert_eq!(answers(weir.address()), 200);
        weir.wait_value("weir_connections", &[], 0.0);
        weir.signal(libc::SIGSTOP);
        wait_stopped(weir.pid());
        let mut queued: Vec<Client> = (0..CLIENTS)
            .map(|_| {
                let mut client = weir.client();
                client.send(GET);
                client
            })
            .collect();
        weir.signal(libc::SIGTERM);
        weir.signal(libc::SIGCONT);
        for client in &mut queued {
            assert_eq!(client.answer().status(), 200);
        }
        drop(queued);
        assert_eq!(weir.wait_exit().code(), Some(0));
    }
}

/// How many descriptors a process may have from now on; those that it has stay open.
fn limit_descriptors(pid: u32, count: u64) {
    let pid = i32::try_from(pid).expect("a process id");
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls read and write limits that live through them.
    let done = unsafe {
        libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) == 0 && {
            limit.rlim_cur = count.min(limit.rlim_max);
            libc::prlimit(
                pid,
                libc::RLIMIT_NOFILE,
                &raw const limit,
                std::ptr::null_mut(),
            ) == 0
        }
    };
    assert!(done, "{}", std::io::Error::last_os_error());
}

#[test]
fn whoever_waits_because_descriptors_were_short_is_served_when_weir_is_stopped() {
    let mut weir = Gateway::start("");
    assert_eq!(answers(weir.address()), 200);
    weir.wait_value("weir_connections", &[], 0.0);
    limit_descriptors(weir.pid(), 0);
    let mut queued: Vec<Client> = (0..5)
        .map(|_| {
            let mut client = weir.client();
            client.send(GET);
            client
        })
        .collect();
    // For a moment it doesn't try again.
    weir.wait_log("accept failed");
    limit_descriptors(weir.pid(), u64::MAX);
    weir.signal(libc::SIGTERM);
    for client in &mut queued {
        assert_eq!(client.answer().status(), 200);
    }
    drop(queued);
    assert_eq!(weir.wait_exit().code(), Some(0));
}

#[test]
fn an_upload_that_is_half_way_when_the_time_to_drain_is_over_is_told() {
    let provider = Provider::json(DONE);
    let mut weir = Gateway::start(&format!(
        "model_routes: {{m: \"{}\"}}\ntimeouts: {{drain: 1s}}\n",
        provider.url()
    ));
    let framings = [("content-length", "1000"), ("transfer-encoding", "chunked")];
    let mut uploads = framings.map(|framing| {
        let mut client = weir.client();
        let expected = ("expect", "100-continue");
        let headers = [("content-type", "application/json"), expected, framing];
        client.send_head("POST", CHAT, &headers);
        assert_eq!(client.read_head().status, 100);
        match framing.0 {
            "content-length" => client.send(br#"{"model":"#),
            _ => client.send_chunk(br#"{"model":"#),
        }
        client
    });
    weir.signal(libc::SIGTERM);
    for client in &mut uploads {
        let answer = client.answer();
        answer.assert_refused(503, "shutting_down");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    for record in weir.records(2) {
        assert_eq!(
            (&record["status"], &record["end"]),
            (&503.into(), &"refused:shutting_down".into()),
            "{record}"
        );
    }
    drop(uploads);
    assert_eq!(weir.wait_exit().code(), Some(0));
    assert_eq!(provider.connections(), 0);
}

#[test]
fn a_drain_whose_time_is_over_is_not_made_longer_by_a_stop() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.event(r#"{"choices":[]}"#);
        exchange.wait_end();
    });
    let text = |drain: &str| {
        format!(
            "model_routes: {{m: \"{}\"}}\nupgrade: {{probation: 50ms}}\n\
             timeouts: {{drain: {drain}, idle_close_delay: 10h}}\n",
            provider.url()
        )
    };
    let mut weir = Launch::supervised(&text("1s")).start();
    // It could stay for hours, for all that a drain does to it.
    let mut idle = weir.client();
    idle.send(GET);
    assert_eq!(idle.answer().status(), 200);
    let mut open = weir.client();
    open.post(CHAT, r#"{"model":"m","stream":true}"#);
    assert_eq!(open.read_head().status, 200);
    weir.write_config(&text("1h"));
    let output = weir.upgrade();
    assert!(output.status.success(), "{}", said(&output));
    weir.wait_log("requests were still open when the time to drain was over");
    // The time to drain is an hour now, and not for the one whose time is over.
    weir.signal(libc::SIGTERM);
    let (rest, whole) = open.rest();
    let rest = String::from_utf8(rest).unwrap();
    assert!(whole && rest.contains("shutting_down"), "{rest}");
    assert!(weir.wait_exit().success());
    assert_eq!(idle.read_to_end(), b"");
    assert!(weir.supervised().processes().is_empty());
}

// === generations ===

/// What `/metrics` says of the requests so far; `None` where it is cut off.
fn counted(admin: SocketAddr) -> Option<f64> {
    let mut client = Client::connect(admin);
    client
        .try_send("GET /metrics HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n")
        .ok()?;
    client.try_read_head()?;
    let (body, whole) = client.rest();
    let text = String::from_utf8(body).expect("text");
    let series = text
        .lines()
        .filter(|it| it.starts_with("llm_requests_total"));
    let values = series.filter_map(|it| it.rsplit_once(' ')?.1.parse::<f64>().ok());
    whole.then(|| values.sum())
}

/// Calls `look` all the time, on several threads, while generations that have nothing to finish follow
/// each other. It gets the admin address, the requests made so far, and what it left on its thread.
fn over_upgrades(look: impl Fn(SocketAddr, &AtomicU32, &mut f64) + Sync) {
    const LOOKING: usize = 4;
    const UPGRADES: u32 = 6;
    let provider = Provider::json(DONE);
    let weir = Launch::supervised(&format!(
        "model_routes: {{m: \"{}\"}}\nupgrade: {{probation: 50ms}}\n\
         timeouts: {{idle_close_delay: 0s}}\nthreads: 1\n",
        provider.url()
    ))
    .start();
    let made = AtomicU32::new(0);
    let over = Gate::new();
    std::thread::scope(|scope| {
        let looking = [(); LOOKING].map(|()| {
            scope.spawn(|| {
                let mut left = 0.0;
                while !over.is_open() {
                    look(weir.admin(), &made, &mut left);
                }
            })
        });
        let changing = scope.spawn(|| {
            for number in 0..UPGRADES {
                for _ in 0..5 {
                    made.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(weir.post(CHAT, BODY).status(), 200);
                }
                let output = weir.upgrade();
                assert!(output.status.success(), "{}", said(&output));
                assert_eq!(weir.wait_settled().number, u64::from(number) + 2);
                let all = f64::from(made.load(Ordering::SeqCst));
                eventually("all requests to be counted", || {
                    counted(weir.admin()).filter(|now| *now >= all)
                });
            }
        });
        let changed = changing.join();
        over.open();
        for looking in looking {
            looking.join().expect("sound answers");
        }
        changed.expect("sound upgrades");
    });
}

#[test]
fn each_request_is_counted_once_while_generations_end() {
    over_upgrades(|admin, made, last| {
        // That an answer is cut off is the other test's affair.
        let Some(now) = counted(admin) else { return };
        let most = f64::from(made.load(Ordering::SeqCst));
        assert!(now >= *last, "it fell from {last} to {now}");
        assert!(now <= most, "{now} of {most} requests were counted");
        *last = now;
    });
}

#[test]
fn no_counter_falls_while_the_supervisor_is_silent() {
    let gate = Gate::new();
    let waited = gate.clone();
    let provider = Provider::start(move |exchange| {
        if exchange.request.text().contains("slow") {
            exchange.wait(&waited);
        }
        exchange.json(200, DONE);
    });
    let weir = Launch::supervised(&format!(
        "model_routes: {{m: \"{}\"}}\nupgrade: {{probation: 50ms}}\n",
        provider.url()
    ))
    .start();
    let ask = |count| (0..count).for_each(|_| assert_eq!(weir.post(CHAT, BODY).status(), 200));
    ask(5);
    // The first generation stays, and what it has counted.
    let mut open = weir.client();
    open.post(CHAT, r#"{"model":"m","slow":1}"#);
    provider.wait_requests(6);
    let output = weir.upgrade();
    assert!(output.status.success(), "{}", said(&output));
    ask(2);
    weir.wait_value("llm_requests_total", &[], 7.0);
    weir.signal(libc::SIGSTOP);
    wait_stopped(weir.pid());
    let now = counted(weir.admin());
    weir.signal(libc::SIGCONT);
    assert_eq!(now, Some(7.0));
    gate.open();
    assert_eq!(open.answer().status(), 200);
    weir.wait_value("llm_requests_total", &[], 8.0);
}

#[test]
fn an_operators_answer_is_not_cut_off_by_the_end_of_a_generation() {
    over_upgrades(|admin, _, _| {
        assert!(counted(admin).is_some(), "no answer, or half of one");
    });
}

/// Puts a program where weir's is that can say what it would do, and can't do it.
fn spoil_program(weir: &Gateway) {
    let real = env!("CARGO_BIN_EXE_weir");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *--plan*|*check*) exec '{real}' \"$@\";; esac\nexit 3\n"
    );
    let path = weir.folder().write("script", text);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    weir.replace_binary_with(&path);
}

#[test]
fn tickets_of_a_generation_that_was_killed_are_good_at_the_next() {
    let authority = Authority::new();
    let server = authority.issue("server", "/CN=server", "DNS:a.test", 1);
    let tls = tls_listener("127.0.0.1:0", &[&server], "");
    let weir = Launch::supervised(&format!(
        "{}upgrade: {{probation: 50ms}}\n",
        listen(&[&tls])
    ))
    .start();
    let configs = [&rustls::version::TLS12, &rustls::version::TLS13].map(|version| {
        let settings = Settings {
            versions: &[version],
            ..Settings::new(&authority)
        };
        settings.config()
    });
    for config in &configs {
        let mut first = TlsClient::connect(config, weir.address(), "a.test").unwrap();
        assert!(!first.resumed());
        assert!(first.get("/healthz").unwrap().starts_with("HTTP/1.1 200 "));
    }
    // Before an upgrade the supervisor has the one that serves tell what it knows.
    spoil_program(&weir);
    let output = weir.upgrade();
    assert!(!output.status.success(), "{}", said(&output));
    weir.replace_binary_with(env!("CARGO_BIN_EXE_weir").as_ref());
    assert_eq!(weir.wait_settled().number, 1);

    weir.kill_generation(1);
    weir.wait_generations(
        "a replacement that serves",
        |all| matches!(all, [only] if only.number > 1 && only.state == "serving"),
    );
    for config in &configs {
        let mut second = TlsClient::connect(config, weir.address(), "a.test").unwrap();
        assert!(second.resumed(), "{:?}", second.protocol());
        assert!(second.get("/healthz").unwrap().starts_with("HTTP/1.1 200 "));
    }
}

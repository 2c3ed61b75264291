//! The supervisor's own doors: the control socket, and what it says to systemd. What clients notice of
//! generations is in the tests of upgrades under load.

use crate::support::supervised::said;
use crate::support::{DEADLINE, Gate, Gateway, Launch, Provider, eventually};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;

/// Nothing is ever forwarded.
const CONFIG: &str = "model_routes: {m: \"http://127.0.0.1:9\"}\nupgrade: {probation: 200ms}\n";

fn start() -> Gateway {
    Launch::supervised(CONFIG).start()
}

fn control(weir: &Gateway) -> PathBuf {
    weir.folder().join("control.sock")
}

/// A client of the control socket that has said this.
fn client(weir: &Gateway, line: &str) -> UnixStream {
    let mut stream = UnixStream::connect(control(weir)).expect("the control socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream.write_all(line.as_bytes()).expect("to be heard");
    stream
}

#[track_caller]
fn answer(stream: UnixStream) -> Value {
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .expect("an answer in time");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("no answer ({error}): {line:?}"))
}

const STATUS: &str = "{\"command\":\"status\"}\n";
/// Clients that the control socket hears at once.
const CLIENTS_MAX: usize = 64;

#[test]
fn the_control_socket_is_for_its_user_alone() {
    let weir = start();
    let mode = |path: PathBuf| {
        let found = std::fs::metadata(path).expect("a file");
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode(control(&weir)), 0o600);
}

#[test]
fn what_is_no_command_is_refused_and_a_line_without_an_end_is_not_read() {
    const LINE_BYTES_MAX: usize = 64 << 10;
    let weir = start();
    for line in ["{}\n", "no\n", "{\"command\":\"of tomorrow\"}\n"] {
        let outcome = answer(client(&weir, line));
        assert_eq!(outcome["ok"], false, "{line}: {outcome}");
    }
    let padded = |length: usize| {
        let spaces = " ".repeat(length - (STATUS.len() - 1));
        format!("{spaces}{STATUS}")
    };
    assert_eq!(answer(client(&weir, &padded(LINE_BYTES_MAX)))["ok"], true);
    let mut stream = UnixStream::connect(control(&weir)).expect("the control socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    // It may be closed before all is written.
    let _ = stream.write_all(padded(LINE_BYTES_MAX + 1).as_bytes());
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(String::from_utf8_lossy(&rest), "", "it was obeyed");
    assert_eq!(answer(client(&weir, STATUS))["ok"], true);
}

#[test]
fn silent_clients_keep_others_waiting_only_while_they_are_too_many() {
    let weir = start();
    let mut silent: Vec<UnixStream> = (1..CLIENTS_MAX).map(|_| client(&weir, "")).collect();
    assert_eq!(answer(client(&weir, STATUS))["ok"], true, "the last place");
    silent.push(client(&weir, ""));
    let waiting = client(&weir, STATUS);
    drop(silent.pop());
    assert_eq!(answer(waiting)["ok"], true, "a place was given back");
    let mut rest = Vec::new();
    let mut first = silent.swap_remove(0);
    first.read_to_end(&mut rest).expect("to be dropped in time");
    assert!(rest.is_empty());
}

#[test]
fn a_generation_that_is_none_is_not_adopted() {
    let weir = start();
    let offer = "{\"command\":\"adopt\",\"number\":9,\"pid\":1}\n";
    let mut rest = Vec::new();
    client(&weir, offer)
        .read_to_end(&mut rest)
        .expect("to be dropped");
    assert!(rest.is_empty());
    let numbers: Vec<u64> = weir.generations().iter().map(|it| it.number).collect();
    assert_eq!(numbers, [1]);
}

#[test]
fn a_number_that_no_generation_has_is_not_adopted() {
    let weir = start();
    let pid = std::process::id();
    for number in [0, (1_u64 << 48) + 1, u64::MAX] {
        let offer = format!("{{\"command\":\"adopt\",\"number\":{number},\"pid\":{pid}}}\n");
        let mut rest = Vec::new();
        client(&weir, &offer)
            .read_to_end(&mut rest)
            .expect("to be dropped");
        assert!(rest.is_empty());
    }
    let output = weir.upgrade();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(weir.wait_settled().number, 2);
}

#[test]
fn a_control_socket_that_nobody_listens_at_is_replaced_and_another_weirs_is_not() {
    let launch = Launch::supervised(CONFIG);
    let path = launch.folder().join("control.sock");
    drop(UnixListener::bind(&path).expect("a socket that is left over"));
    let weir = launch.start();
    assert_eq!(answer(client(&weir, STATUS))["ok"], true);

    let path = control(&weir).display().to_string();
    let config = weir.folder().join("weir.yaml").display().to_string();
    let second = Launch::verb(&["run", "--control", &path, "-c", &config]).output();
    assert!(!second.status.success(), "{}", said(&second));
    assert!(said(&second).contains(&path), "{}", said(&second));
    for words in ["another weir", "--control"] {
        assert!(said(&second).contains(words), "{}", said(&second));
    }
    assert_eq!(
        answer(client(&weir, STATUS))["ok"],
        true,
        "the first one lives"
    );
}

#[test]
fn where_nobody_listens_the_commands_say_so() {
    let launch = Launch::verb(&["status"]);
    let path = launch.folder().join("nobody.sock").display().to_string();
    let output = launch.arg("--control").arg(&path).output();
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(
        said.contains(&format!("no weir answers at {path}")),
        "{said}"
    );
}

#[test]
fn reloads_that_wait_for_each_other_all_get_an_answer() {
    let weir = start();
    let waiting: Vec<UnixStream> = (0..10)
        .map(|number| {
            let verb = if number % 3 == 0 { "upgrade" } else { "reload" };
            client(&weir, &format!("{{\"command\":\"{verb}\"}}\n"))
        })
        .collect();
    for stream in waiting {
        let outcome = answer(stream);
        assert_eq!(outcome["ok"], true, "{outcome}");
        assert!(!outcome["message"].as_str().unwrap_or_default().is_empty());
    }
    let status = weir.status();
    assert_eq!(status["last"]["ok"], true, "{status}");
}

#[test]
fn a_weir_that_stops_refuses_reloads_and_upgrades_at_once() {
    let gate = Gate::new();
    let waited = gate.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&waited);
        exchange.json(200, "{}");
    });
    let config = format!(
        "model_routes: {{m: \"{}\"}}\nupgrade: {{probation: 1h}}\n",
        provider.url()
    );
    let mut weir = Launch::supervised(&config).start();
    let mut open = weir.client();
    open.post("/v1/chat/completions", r#"{"model":"m"}"#);
    provider.wait_requests(1);
    let upgrade = client(&weir, "{\"command\":\"upgrade\"}\n");
    let waiting = client(&weir, "{\"command\":\"reload\"}\n");
    weir.wait_generations("a probation", |all| {
        all.last().is_some_and(|it| it.state == "probation")
    });
    weir.signal(libc::SIGTERM);
    weir.wait_log("stopping");
    let late = ["upgrade", "reload"].map(|verb| {
        let command = format!("{{\"command\":\"{verb}\"}}\n");
        client(&weir, &command)
    });
    // The request is still open: nothing but an answer ends these.
    for stream in [upgrade, waiting].into_iter().chain(late) {
        let outcome = answer(stream);
        assert_eq!(outcome["ok"], false, "{outcome}");
        assert_eq!(outcome["message"], "weir is stopping", "{outcome}");
    }
    gate.open();
    assert_eq!(open.answer().status(), 200);
    assert!(weir.wait_exit().success());
}

#[test]
fn a_socket_that_can_not_be_opened_changes_nothing() {
    let weir = start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("a port");
    weir.write_config(&format!(
        "{}listen: [\"127.0.0.1:0\", \"{address}\"]\n",
        CONFIG
    ));
    let output = weir.reload_by_command();
    assert!(!output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains(&address.to_string()),
        "{}",
        said(&output)
    );
    let numbers: Vec<u64> = weir.generations().iter().map(|it| it.number).collect();
    assert_eq!(numbers, [1]);
}

#[test]
fn a_generation_that_can_not_open_its_log_says_why() {
    let weir = start();
    let wanted = |path: &str| {
        weir.write_config(&format!(
            "{CONFIG}logging: {{file: {{path: {:?}}}}}\n",
            weir.folder().join(path)
        ));
    };
    // A file stands where a folder is to be, and the other way round.
    for path in ["weir.yaml/access.log", "."] {
        wanted(path);
        for output in [weir.reload_by_command(), weir.upgrade()] {
            let said = said(&output);
            assert!(!output.status.success(), "{said}");
            assert!(said.contains("the access log can't be opened"), "{said}");
            assert!(said.contains("generation 1 goes on serving"), "{said}");
        }
        let config = weir.folder().join("weir.yaml").display().to_string();
        let check = Launch::verb(&["check", "-c", &config]).output();
        assert_eq!(check.status.code(), Some(1), "{}", said(&check));
        let said = said(&check);
        assert!(said.contains("logging.file.path: "), "{said}");
    }
    wanted("logs/access.log");
    let output = weir.reload_by_command();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn an_owner_that_is_not_there_is_a_mistake_and_changes_nothing() {
    let launch = Launch::supervised(CONFIG);
    let path = launch.folder().join("clients.sock");
    let with = |owner: &str| {
        format!(
            "{CONFIG}listen: [\"127.0.0.1:0\", {{address: \"unix:{}\", mode: \"0600\"{owner}}}]\n",
            path.display()
        )
    };
    let weir = launch.start();
    weir.write_config(&with(""));
    assert!(weir.reload_by_command().status.success());
    assert!(path.exists());
    weir.write_config(&with(", owner: nobody-of-that-name"));
    let config = weir.folder().join("weir.yaml").display().to_string();
    for output in [
        Launch::verb(&["check", "-c", &config]).output(),
        weir.reload_by_command(),
    ] {
        let said = said(&output);
        assert!(!output.status.success(), "{said}");
        assert!(
            said.contains("there is no user nobody-of-that-name"),
            "{said}"
        );
        assert!(!said.contains("folder must"), "{said}");
    }
    assert_eq!(weir.wait_settled().number, 2);
    UnixStream::connect(&path).expect("the old one listens");
    // A start leaves nothing behind.
    let other = weir.folder().join("other.sock");
    let text = with(", owner: nobody-of-that-name");
    let text = text.replace("clients.sock", "other.sock");
    let file = weir.folder().write("other.yaml", text + "admin: off\n");
    let single = Launch::verb(&["run", "--single", "-c"]).arg(&file).output();
    let no_log = format!(
        "{CONFIG}admin: off\nlisten: [\"unix:{}\"]\nlogging: {{file: {{path: {config}/log}}}}\n",
        other.display()
    );
    let no_log = weir.folder().write("no-log.yaml", no_log);
    let late = Launch::verb(&["run", "--single", "-c"])
        .arg(&no_log)
        .output();
    let control = weir.folder().join("other-control.sock");
    let supervised = Launch::verb(&["run", "-c"]).arg(&file);
    let supervised = supervised.arg("--control").arg(&control).output();
    for output in [single, late, supervised] {
        assert!(!output.status.success(), "{}", said(&output));
        assert!(!other.exists(), "{}", said(&output));
    }
}

#[test]
fn sockets_whose_files_were_removed_are_made_again() {
    let launch = Launch::supervised(CONFIG);
    let path = launch.folder().join("clients.sock");
    let weir = launch.start();
    weir.write_config(&format!(
        "{CONFIG}listen: [\"127.0.0.1:0\", \"unix:{}\"]\n",
        path.display()
    ));
    assert!(weir.reload_by_command().status.success());
    for attempt in [Gateway::reload_by_command, Gateway::upgrade] {
        std::fs::remove_file(&path).expect("the listener's file");
        let output = attempt(&weir);
        assert!(output.status.success(), "{}", said(&output));
        UnixStream::connect(&path).expect("the new socket");
    }
    // A reload that has nothing to mend makes no generation.
    let before = weir.wait_settled().number;
    assert!(weir.reload_by_command().status.success());
    assert_eq!(weir.wait_settled().number, before);
    std::fs::remove_file(control(&weir)).expect("the control socket's file");
    weir.signal(libc::SIGHUP);
    let again = || UnixStream::connect(control(&weir)).ok().map(drop);
    eventually("the control socket to be there again", again);
    assert_eq!(answer(client(&weir, STATUS))["ok"], true);
}

#[test]
fn a_stop_while_the_first_start_is_under_way_waits_for_nothing() {
    let launch = Launch::supervised(CONFIG);
    let path = launch.folder().join("weir.yaml");
    std::fs::remove_file(&path).expect("the test's file");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let mut weir = launch.spawn();
    // Opened when the program that is to say the plan reads it; there is nothing to read.
    let pipe = std::fs::File::options().write(true).open(&path);
    weir.signal(libc::SIGTERM);
    let status = weir.wait_exit();
    assert!(status.success(), "{status}: {}", weir.log());
    assert!(!weir.log().contains("doesn't end"), "{}", weir.log());
    drop(pipe);
}

// === systemd ===

/// What a service manager hears.
struct Systemd(UnixDatagram);

impl Systemd {
    /// The next message that begins so.
    #[track_caller]
    fn wait(&self, start: &str) -> String {
        let mut buffer = [0; 4096];
        let mut heard = Vec::new();
        loop {
            let count = self.0.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("no message {start:?} ({error}), but {heard:?}");
            });
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if text.starts_with(start) {
                return text;
            }
            heard.push(text);
        }
    }
}

#[test]
fn systemd_hears_of_the_start_of_reloads_of_life_and_of_the_end() {
    let launch = Launch::supervised(CONFIG);
    let path = launch.folder().join("notify.sock");
    let systemd = Systemd(UnixDatagram::bind(&path).expect("a socket"));
    systemd.0.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let path = path.display().to_string();
    let mut weir = launch
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "2000000")
        .start();
    let stored = systemd.wait("FDSTORE=1\nFDNAME=weir.");
    let name = stored.lines().last().unwrap_or_default().to_owned();
    systemd.wait("READY=1");
    systemd.wait("STATUS=generation 1 serves");
    systemd.wait("WATCHDOG=1");
    systemd.wait("WATCHDOG=1");
    assert!(weir.reload_by_command().status.success());
    let reloading = systemd.wait("RELOADING=1");
    let since = reloading.lines().nth(1).unwrap_or_default();
    let micros = since.strip_prefix("MONOTONIC_USEC=");
    assert!(
        micros.is_some_and(|it| it.parse::<u64>().is_ok()),
        "{reloading}"
    );
    systemd.wait("READY=1");
    weir.signal(libc::SIGTERM);
    systemd.wait("STOPPING=1");
    systemd.wait(&format!("FDSTOREREMOVE=1\n{name}"));
    assert!(weir.wait_exit().success());
    let gone = || (!control(&weir).exists()).then_some(());
    eventually("the control socket to be removed", gone);
}

//! The real program, started with a configuration of the test's.

use super::client::{self, Answer, Client};
use super::folder::Folder;
use super::gate::{Board, eventually};
use super::supervised::{Generation, Supervised};
use super::{DEADLINE, h2c};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;

/// How the program is to be started.
pub struct Launch {
    command: Command,
    folder: Folder,
    admin: bool,
    supervised: bool,
}

/// The running program. It is killed when this is dropped, and with it every process that it started.
pub struct Gateway {
    child: Child,
    supervised: Option<Supervised>,
    folder: Folder,
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    told: Arc<Board<Vec<String>>>,
    printed: Arc<Board<Vec<String>>>,
}

const ACCESS_LOG: &str = "access.log";

/// The text with `listen`, `admin` and `logging` added where it has none, all on free ports and in the
/// test's folder, and without connections made ahead unless it says otherwise. `{folder}` in it stands for that folder.
fn completed(yaml: &str, folder: &Path) -> String {
    let has = |key: &str| yaml.lines().any(|line| line.starts_with(key));
    let mut text = yaml.replace("{folder}", &folder.display().to_string());
    text.push('\n');
    if !has("listen:") && !has("port:") {
        text.push_str("listen: [\"127.0.0.1:0\"]\n");
    }
    if !has("admin:") {
        text.push_str("admin: {address: \"127.0.0.1:0\"}\n");
    }
    if !has("logging:") {
        let path = folder.join(ACCESS_LOG);
        text.push_str(&format!(
            "logging: {{level: info, format: json, file: {{path: {path:?}}}}}\n"
        ));
    }
    if has("teams:") && !has("state_dir:") {
        text.push_str(&format!("state_dir: {:?}\n", folder.join("state")));
    }
    if !has("threads:") {
        text.push_str("threads: 2\n");
    }
    // Tests count connections: none is made ahead of a request unless a test is about that.
    if !has("egress:") {
        text.push_str("egress: {prewarm: 0}\n");
    } else if !text.contains("prewarm:") {
        text = text.replacen("egress: {", "egress: {prewarm: 0, ", 1);
    }
    text
}

// === impl Launch ===

impl Launch {
    /// `weir run --single` with a file of this text: one process.
    pub fn file(yaml: &str) -> Self {
        Self::verb(&["run", "--single", "-c"]).completed(yaml)
    }

    /// `weir run` with a file of this text: a supervisor and its generations. The program is a copy in
    /// the test's folder, which the test can replace.
    pub fn supervised(yaml: &str) -> Self {
        let folder = Folder::new();
        let program = Supervised::program(&folder);
        let mut launch = Self::program(&program, folder, &["run", "--control"]);
        launch.command.arg(Supervised::control(&launch.folder));
        launch.supervised = true;
        launch.arg("-c").completed(yaml)
    }

    /// `weir run --single` with a file of exactly this text: nothing is added.
    pub fn exactly(yaml: &str) -> Self {
        let launch = Self::verb(&["run", "--single", "-c"]);
        let path = launch.folder.write("weir.yaml", yaml);
        launch.arg(path)
    }

    fn completed(mut self, yaml: &str) -> Self {
        let text = completed(yaml, self.folder.path());
        let path = self.folder.write("weir.yaml", text);
        self.admin = !yaml.lines().any(|line| line.starts_with("admin: off"));
        self.arg(path)
    }

    /// Any command line. None of the environment reaches the program but for `PATH`.
    pub fn verb(arguments: &[&str]) -> Self {
        let program = env!("CARGO_BIN_EXE_weir");
        Self::program(program.as_ref(), Folder::new(), arguments)
    }

    fn program(program: &Path, folder: Folder, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self {
            command,
            folder,
            admin: true,
            supervised: false,
        }
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// The same, run by another program, which becomes it: its name and arguments.
    pub fn within(mut self, program: &[&str]) -> Self {
        let mut command = Command::new(program[0]);
        command
            .args(&program[1..])
            .arg(self.command.get_program())
            .args(self.command.get_args())
            .env_clear()
            .envs(
                self.command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.command = command;
        self
    }

    /// A variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// The folder that the program starts in.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Gateway {
        let wants_admin = self.admin;
        let mut gateway = self.spawn();
        let found = gateway.told.wait_within(DEADLINE, |lines| {
            let clients: Vec<_> = lines
                .iter()
                .filter_map(|it| bound(it, "listening"))
                .collect();
            let admin = lines.iter().find_map(|it| bound(it, "admin listening"));
            let done = !clients.is_empty() && (admin.is_some() || !wants_admin);
            let ended = lines.last().is_some_and(|line| line == END_OF_OUTPUT);
            (done || ended).then_some((clients, admin))
        });
        let (addresses, admin) = found.unwrap_or_default();
        assert!(
            !addresses.is_empty(),
            "weir doesn't listen; it says:\n{}",
            gateway.log()
        );
        (gateway.addresses, gateway.admin) = (addresses, admin);
        gateway
    }

    /// Starts it without waiting for anything.
    pub fn spawn(mut self) -> Gateway {
        let mut child = self.command.spawn().expect("weir's binary");
        let told = Arc::new(Board::default());
        let printed = Arc::new(Board::default());
        collect(child.stderr.take().expect("piped"), &told);
        collect(child.stdout.take().expect("piped"), &printed);
        Gateway {
            child,
            supervised: self.supervised.then(|| Supervised::of(&self.folder)),
            folder: self.folder,
            addresses: Vec::new(),
            admin: None,
            told,
            printed,
        }
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn output(self) -> Output {
        let mut gateway = self.spawn();
        let status = gateway.wait_exit();
        let whole = |board: &Board<Vec<String>>| {
            let lines = board.wait("the end of the output", |lines| {
                let end = lines.last().is_some_and(|line| line == END_OF_OUTPUT);
                end.then(|| lines[..lines.len() - 1].to_vec())
            });
            lines
                .iter()
                .flat_map(|line| [line.as_str(), "\n"])
                .collect::<String>()
                .into_bytes()
        };
        Output {
            status,
            stdout: whole(&gateway.printed),
            stderr: whole(&gateway.told),
        }
    }
}

/// Stands for the end of a stream of lines; no line of the program contains a NUL.
const END_OF_OUTPUT: &str = "\0";

fn collect(from: impl Read + Send + 'static, to: &Arc<Board<Vec<String>>>) {
    let to = Arc::clone(to);
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            to.change(|lines| lines.push(String::from_utf8_lossy(&line).into_owned()));
        }
        to.change(|lines| lines.push(END_OF_OUTPUT.to_owned()));
    });
}

/// The address in a line of the program's log with this message, in either of its formats.
fn bound(line: &str, message: &str) -> Option<SocketAddr> {
    if let Ok(line) = serde_json::from_str::<Value>(line) {
        let said = line["message"].as_str() == Some(message);
        return said
            .then(|| line["address"].as_str()?.parse().ok())
            .flatten();
    }
    let (before, address) = line.split_once(" address=")?;
    let said = before.ends_with(message) && !before.ends_with(&format!("admin {message}"));
    said.then(|| address.split_whitespace().next()?.parse().ok())
        .flatten()
}

// === impl Gateway ===

impl Gateway {
    /// Starts it with a configuration; see [`Launch::file`].
    #[track_caller]
    pub fn start(yaml: &str) -> Self {
        Launch::file(yaml).start()
    }

    /// Where clients connect (the first listener).
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Where clients connect, all listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where operators connect.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        self.admin
            .expect("weir was started without an admin listener")
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    // As an operator of a supervisor.

    /// The supervisor's control socket and program.
    #[track_caller]
    pub fn supervised(&self) -> &Supervised {
        let supervised = self.supervised.as_ref();
        supervised.expect("weir was started without a supervisor")
    }

    /// Puts another file with the same content where the program is.
    #[track_caller]
    pub fn replace_binary(&self) {
        self.supervised().replace();
    }

    /// Puts this file where the program is.
    #[track_caller]
    pub fn replace_binary_with(&self, file: &Path) {
        self.supervised().replace_with(file);
    }

    /// `weir upgrade`, to its end.
    #[track_caller]
    pub fn upgrade(&self) -> Output {
        self.supervised().command("upgrade", &[])
    }

    /// `weir reload`, to its end.
    #[track_caller]
    pub fn reload_by_command(&self) -> Output {
        self.supervised().command("reload", &[])
    }

    /// What `weir status --json` prints.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.supervised().status()
    }

    /// The living generations, the newest last.
    #[track_caller]
    pub fn generations(&self) -> Vec<Generation> {
        self.supervised().generations()
    }

    /// Waits until the living generations are as wanted.
    #[track_caller]
    pub fn wait_generations(&self, what: &str, fits: impl Fn(&[Generation]) -> bool) {
        self.supervised().wait_generations(what, fits);
    }

    /// The generation that serves, when no other lives or is about to.
    #[track_caller]
    pub fn wait_settled(&self) -> Generation {
        self.wait_generations(
            "only one generation, which serves",
            |all| matches!(all, [only] if only.state == "serving"),
        );
        self.generations().remove(0)
    }

    /// Kills a generation, without a warning.
    #[track_caller]
    pub fn kill_generation(&self, number: u64) {
        self.supervised().kill_generation(number);
    }

    /// Kills the supervisor, without a warning, and waits for its end.
    pub fn kill_supervisor(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait_exit();
    }

    // As a client.

    /// A new connection.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.address())
    }

    /// A new HTTP/2 connection.
    #[track_caller]
    pub fn h2_client(&self) -> h2c::Client {
        h2c::Client::connect(self.address())
    }

    /// One GET on a connection of its own.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        client::get(self.address(), path)
    }

    /// One POST of JSON on a connection of its own.
    #[track_caller]
    pub fn post(&self, path: &str, json: impl AsRef<[u8]>) -> Answer {
        client::post(self.address(), path, json)
    }

    /// One POST with headers on a connection of its own.
    #[track_caller]
    pub fn post_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        let mut client = self.client();
        client.request("POST", path, headers, body.as_ref());
        client.answer()
    }

    // As an operator.

    /// Writes another configuration in the file that it was started with; doesn't reload.
    pub fn write_config(&self, yaml: &str) {
        self.folder
            .write("weir.yaml", completed(yaml, self.folder.path()));
    }

    /// Writes another configuration, sends SIGHUP, and waits until it is in use.
    #[track_caller]
    pub fn reload(&self, yaml: &str) {
        let before = self.count_log("configuration reloaded");
        self.write_config(yaml);
        self.signal(libc::SIGHUP);
        self.wait_log_until("configuration reloaded", |lines| {
            lines
                .iter()
                .filter(|line| line.contains("configuration reloaded"))
                .count()
                > before
        });
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill reads its two numbers; the child isn't reaped yet, so the id is still its own.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "signal {signal} could not be sent");
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("weir's end", || child.try_wait().expect("a child"))
        }));
        ended.unwrap_or_else(|_| panic!("weir doesn't end; it says:\n{}", self.log()))
    }

    /// `Some` when it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// The program's log so far.
    pub fn log(&self) -> String {
        self.told.lock().join("\n")
    }

    /// What it printed to standard output so far.
    pub fn printed(&self) -> String {
        self.printed.lock().join("\n")
    }

    /// Waits until standard output has a line with this text, and returns the line.
    #[track_caller]
    pub fn wait_printed(&self, text: &str) -> String {
        self.printed
            .wait(&format!("{text:?} on standard output"), |lines| {
                lines.iter().find(|line| line.contains(text)).cloned()
            })
    }

    /// Lines of the program's log with this text.
    pub fn count_log(&self, text: &str) -> usize {
        self.told
            .lock()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }

    /// Waits until the program's log has a line with this text, and returns the line.
    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        let found = self.told.wait_within(DEADLINE, |lines| {
            lines.iter().find(|line| line.contains(text)).cloned()
        });
        found.unwrap_or_else(|| panic!("no {text:?} in the log:\n{}", self.log()))
    }

    #[track_caller]
    fn wait_log_until(&self, what: &str, mut ready: impl FnMut(&[String]) -> bool) {
        let found = self
            .told
            .wait_within(DEADLINE, |lines| ready(lines).then_some(()));
        found.unwrap_or_else(|| panic!("no {what:?} in the log:\n{}", self.log()));
    }

    /// Waits until the program's log has all that it will have.
    #[track_caller]
    pub fn wait_log_end(&self) {
        self.wait_log_until("end", |lines| {
            lines.last().is_some_and(|line| line == END_OF_OUTPUT)
        });
    }

    /// The access log's file.
    pub fn access_log(&self) -> PathBuf {
        self.folder.join(ACCESS_LOG)
    }

    /// Waits until the access log has `count` records, and returns all that it has.
    #[track_caller]
    pub fn records(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} access records"), || {
            let records = self.records_now();
            (records.len() >= count).then_some(records)
        })
    }

    /// Waits for one record that fits.
    #[track_caller]
    pub fn record_where(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.records_now().into_iter().find(&fits))
    }

    /// The access records so far.
    pub fn records_now(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.access_log()).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| {
                    panic!("the access log has a line that is no JSON ({error}): {line}")
                })
            })
            .collect()
    }

    /// All metrics as text.
    #[track_caller]
    pub fn metrics(&self) -> String {
        client::get(self.admin(), "/metrics").text()
    }

    /// The sum of all series of a metric that have these labels; `None` where there is no such series.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let metrics = self.metrics();
        let values: Vec<f64> = metrics
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let (found, given) = series.split_once('{').unwrap_or((series, "}"));
                let has = |(label, value): &(&str, &str)| {
                    let pair = format!("{label}=\"{value}\"");
                    given.trim_end_matches('}').split(',').any(|it| it == pair)
                };
                (found == name && labels.iter().all(has))
                    .then(|| value.parse().ok())
                    .flatten()
            })
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Waits until a metric has a value.
    #[track_caller]
    pub fn wait_value(&self, name: &str, labels: &[(&str, &str)], expected: f64) {
        eventually(&format!("{name}{labels:?} to be {expected}"), || {
            let value = self.value(name, labels).unwrap_or(0.0);
            ((value - expected).abs() < 1e-9).then_some(())
        });
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(supervised) = &self.supervised {
            supervised.kill_all();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(8000);
            let tail = (tail..log.len())
                .find(|at| log.is_char_boundary(*at))
                .unwrap_or(log.len());
            eprintln!("--- weir's log ---\n{}\n---", &log[tail..]);
        }
    }
}

//! The real weir: its configuration, its process, and what it says of itself.

use super::plan::Team;
use super::provider::Server;
use super::wire::{Pace, read_body, read_message};
use crate::Result;
use crate::http::Buffer;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// All requests at once that weir takes.
pub const IN_FLIGHT_MAX: f64 = 100.0;
pub const BUFFERED_BYTES_MAX: f64 = (12 << 20) as f64;
pub const QUEUE_MAX: f64 = 8.0;
/// How long a breaker is open at most: eight times as long as at first, and a tenth.
pub const OPEN_MAX: Duration = Duration::from_millis(500 * 8 * 11 / 10);
/// Requests at once of the team `busy`.
pub const BUSY_IN_FLIGHT_MAX: u64 = 10;
/// Longer than any of weir's deadlines together.
pub const LATENCY_MAX: Duration = Duration::from_secs(30);

/// What a provider carries: all that may be with those that fail leave room for the others.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub provider: &'static str,
    /// Requests at once.
    pub in_flight: u64,
    /// Of them at each endpoint.
    pub at_endpoint: u64,
    /// So many wait for one of these places.
    pub queue: u64,
}

/// Of each provider.
pub const PLACES: [Places; 6] = [
    places("steady", 60, 60, 10),
    places("spare", 12, 12, 4),
    places("red", 6, 6, 4),
    places("green", 5, 5, 4),
    places("blue", 4, 4, 4),
    places("twins", 6, 3, 4),
];

const fn places(provider: &'static str, in_flight: u64, at_endpoint: u64, queue: u64) -> Places {
    Places {
        provider,
        in_flight,
        at_endpoint,
        queue,
    }
}

/// Model servers by their place: who they are to weir.
pub const SERVERS: [(&str, bool); 7] = [
    ("steady", true),
    ("spare", true),
    ("red", false),
    ("green", false),
    ("blue", false),
    ("twins", false),
    ("twins", false),
];

/// When an endpoint is paused, and how it comes back.
const BREAKER: &str = ", breaker: {failures: 5, window: 3s, open: 500ms}, slow_start: 1s";
const HEALTH: &str = ", health: {path: /models, interval: 500ms, timeout: 500ms, rise: 1, fall: 2}";

const KEYS: [(Team, &str); 5] = [
    (
        Team::Steady,
        "a8362d8b218d38f522c450c894e1eb95070d1c5e8b0b0053e48d7a4b6ff2f2c8",
    ),
    (
        Team::Wild,
        "d3b2f66510d2953162283376c3eea9c790f66a2770c59419359febc9e22b222c",
    ),
    (
        Team::Busy,
        "b3b34f24244d0628b03cc108c6452f20eae7580186c3f8b880a8b8ee9e72ecc5",
    ),
    (
        Team::Poor,
        "7f940e32fe035b0a49338cb537115734cf50a75ff8e1f61028f53fc35aa808d4",
    ),
    (
        Team::Thrifty,
        "59d1cda8fd00140d905ef529b2c07758460125becf2de925781784742fca244a",
    ),
];

/// How large a file of the access log gets.
const LOG_BYTES: &str = "30MB";

fn configuration(folder: &Path, servers: &[Rc<Server>]) -> String {
    let mut providers = String::new();
    let mut known = "";
    for (name, steady) in SERVERS {
        if name == std::mem::replace(&mut known, name) {
            continue;
        }
        let of_it = SERVERS
            .iter()
            .zip(servers)
            .filter(|((its, _), _)| *its == name);
        let urls: Vec<String> = of_it
            .map(|(_, server)| format!("\"http://{}/v1\"", server.address))
            .collect();
        // Where the processors are busy with something else, all are slow, and that is no fault.
        let patience = match steady {
            true => ", timeouts: {first_byte: 12s, idle: 12s}",
            false => "",
        };
        // Writing to a string can't fail.
        let of_it = PLACES.iter().find(|it| it.provider == name);
        let places = of_it.map_or_else(String::new, |it| {
            format!(
                ", max_in_flight: {}, endpoint_max_in_flight: {}, queue: {{size: {}, timeout: 2s}}",
                it.in_flight, it.at_endpoint, it.queue
            )
        });
        // Whoever left is read on for, and holds a place so long.
        let drain = match name {
            "green" | "twins" => ", on_disconnect: drain, drain_timeout: 2s",
            _ => "",
        };
        // What a server says of its time and of an account is heeded where the account is weir's own.
        let account = match name {
            "red" | "twins" => ", api_key: of-weir",
            _ => "",
        };
        let health = match name {
            "red" | "twins" => HEALTH,
            _ => "",
        };
        let _ = writeln!(
            providers,
            "  - {{name: {name}, urls: [{}]{patience}{places}{BREAKER}{health}{drain}{account}}}",
            urls.join(", "),
        );
    }
    let mut teams = String::new();
    for (team, hash) in KEYS {
        let more = match team {
            Team::Steady => "priority: high, ".to_owned(),
            Team::Wild => "priority_header: any, ".to_owned(),
            Team::Busy => format!(
                "priority: batch, limits: {{requests_per_minute: 300, requests_burst: 20, in_flight: {BUSY_IN_FLIGHT_MAX}}}, "
            ),
            Team::Poor => "budget: {usd: 0.2, per: year}, ".to_owned(),
            Team::Thrifty => "limits: {tokens_per_minute: 60000, in_flight_tokens: 20000}, ".into(),
            _ => String::new(),
        };
        let name = team.name();
        let _ = writeln!(
            teams,
            "  - {{name: {name}, {more}keys: [{{name: k, sha256: {hash}}}]}}"
        );
    }
    let access = folder.join("access.log");
    let state = folder.join("state");
    format!(
        r#"
listen: ["127.0.0.1:0"]
admin: {{address: "127.0.0.1:0"}}
threads: 2
limits:
  header_bytes: 32KiB
  body_bytes: 4MiB
  buffered_bytes: {BUFFERED_BYTES_MAX}
  in_flight: {IN_FLIGHT_MAX}
  queue: {{size: {QUEUE_MAX}, timeout: 2s}}
timeouts: {{client_header: 2s, client_body: 3s, connect: 1s, first_byte: 2s, idle: 2s, total: 15s, heartbeat: 500ms, keepalive: 5s, drain: 10s}}
egress: {{prewarm: 0}}
providers:
{providers}
model_routes:
  steady: {{targets: [{{provider: steady}}]}}
  spare: {{targets: [{{provider: spare}}]}}
  red: {{targets: [{{provider: red}}]}}
  green: {{targets: [{{provider: green}}]}}
  blue: {{targets: [{{provider: blue}}]}}
  twins: {{targets: [{{provider: twins}}], retries: 2}}
  mixed: {{targets: [{{provider: red, weight: 2}}, {{provider: green}}], retries: 3, fallback: [spare]}}
  least: {{targets: [{{provider: red}}, {{provider: green}}, {{provider: twins}}], balance: least_loaded, retries: 2}}
  hashed: {{targets: [{{provider: twins}}, {{provider: blue}}], balance: hash, retries: 2, fallback: [spare]}}
  connected: {{targets: [{{provider: blue}}, {{provider: green}}], balance: random, retries: 2, retry_on: [connect, busy]}}
  hedged: {{targets: [{{provider: red}}, {{provider: twins}}], hedge: {{after: 100ms, max: 50%}}, retries: 1}}
  batched: {{targets: [{{provider: twins}}, {{provider: green}}], batch: {{window: 30ms, size: 6}}, retries: 1}}
  both: {{targets: [{{provider: spare}}, {{provider: blue}}], batch: {{window: 10ms, size: 4}}, hedge: {{after: p95, max: 20%}}, retries: 1}}
  waiting: {{targets: [{{provider: spare}}], limits: {{in_flight: 2}}, on_limit: wait}}
teams:
{teams}
prices: {{"*": {{input: 1, output: 2, max_output: 400}}}}
usage: {{store: sqlite, retain: 1d}}
logging: {{level: info, format: json, file: {{path: {access:?}, max_size: {LOG_BYTES}, keep: 2, compress: false}}}}
state_dir: {state:?}
"#
    )
}

/// The process. It is killed when this is dropped.
pub struct Gateway {
    child: RefCell<Child>,
    pid: u32,
    folder: PathBuf,
    text: String,
    pub address: SocketAddr,
    admin: SocketAddr,
    said: Arc<Mutex<Said>>,
    reloads: Cell<u64>,
}

/// What a weir has said in its log.
#[derive(Default)]
struct Said {
    address: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    /// Lines that no log should have.
    complaints: Vec<String>,
    /// The last lines, for whoever must find out what happened.
    last: VecDeque<String>,
    ended: bool,
}

/// How a gauge or counter is called, and its value, for all of its label sets together.
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// The sum of a metric's values whose labels contain `label`.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let fits = |series: &str| {
            let (known, labels) = series.split_once('{').unwrap_or((series, ""));
            known == name && labels.contains(label)
        };
        self.0
            .iter()
            .filter(|(series, _)| fits(series))
            .map(|(_, value)| value)
            .sum()
    }
}

impl Gateway {
    /// Starts weir in a folder and waits until it listens.
    pub async fn start(program: &Path, folder: &Path, servers: &[Rc<Server>]) -> Result<Gateway> {
        let text = configuration(folder, servers);
        let file = folder.join("weir.yaml");
        std::fs::write(&file, &text)?;
        let mut child = Command::new(program)
            .args(["run", "--single", "-c"])
            .arg(&file)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}; build it first", program.display()))?;
        let said = Arc::new(Mutex::new(Said::default()));
        if let Some(stderr) = child.stderr.take() {
            listen_to(stderr, &said);
        }
        let mut gateway = Gateway {
            pid: child.id(),
            child: RefCell::new(child),
            folder: folder.to_owned(),
            text,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            admin: SocketAddr::from(([0, 0, 0, 0], 0)),
            said,
            reloads: Cell::new(0),
        };
        const READY: Duration = Duration::from_secs(60);
        let began = Instant::now();
        loop {
            let (addresses, ended) = gateway.listens();
            if let Some((address, admin)) = addresses {
                (gateway.address, gateway.admin) = (address, admin);
                return Ok(gateway);
            }
            if ended || began.elapsed() > READY {
                let last = gateway.last_words().join("\n");
                return Err(format!("weir doesn't listen; it says:\n{last}").into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where it listens, for clients and operators, and whether its log has ended.
    fn listens(&self) -> (Option<(SocketAddr, SocketAddr)>, bool) {
        let said = self.said();
        (said.address.zip(said.admin), said.ended)
    }

    pub fn access_log(&self) -> PathBuf {
        self.folder.join("access.log")
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines of its log that tell of panics and errors.
    pub fn complaints(&self) -> Vec<String> {
        self.said().complaints.clone()
    }

    /// The last lines of its log.
    pub fn last_words(&self) -> Vec<String> {
        self.said().last.iter().cloned().collect()
    }

    /// Its exit, if it has ended by itself.
    pub fn ended(&self) -> Option<String> {
        let status = self.child.borrow_mut().try_wait();
        status
            .ok()
            .flatten()
            .map(|status| format!("weir ended: {status}"))
    }

    /// Resident memory, KiB.
    pub fn rss_kib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", self.pid));
        let pages = text
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
        pages.unwrap_or_default() * 4
    }

    /// Reloads another file that means the same, or, where it is `broken`, one that must be refused.
    pub async fn reload(&self, broken: bool) -> Result<()> {
        let number = self.reloads.get() + 1;
        self.reloads.set(number);
        let text = match broken {
            true => format!("{}\nno_such_key: {number}\n", self.text),
            false => format!("# Version {number}.\n{}\nwatch: false\n", self.text),
        };
        let before = self.metrics().await?.sum("weir_config_reload_total", "");
        std::fs::write(self.folder.join("weir.yaml"), text)?;
        // SAFETY: sends a signal to a child that hasn't been waited for.
        unsafe { libc::kill(self.pid as libc::pid_t, libc::SIGHUP) };
        let began = Instant::now();
        while self.metrics().await?.sum("weir_config_reload_total", "") <= before {
            if began.elapsed() > Duration::from_secs(10) {
                return Err("a reload wasn't done within 10 s".into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub async fn metrics(&self) -> Result<Metrics> {
        let text = self.ask("/metrics").await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Ok(Metrics(series.collect()))
    }

    /// An answer of the admin API.
    pub async fn api(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask(path).await?)?)
    }

    async fn ask(&self, path: &str) -> Result<String> {
        const DEADLINE: Duration = Duration::from_secs(10);
        let asking = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            let host = self.admin;
            let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let (mut buffer, mut body) = (Buffer::default(), Vec::new());
            let message = read_message(&mut stream, &mut buffer)
                .await?
                .ok_or("closed unanswered")?;
            let framing = Some(message.head.framing);
            let keep = |piece: &[u8]| body.extend_from_slice(piece);
            read_body(&mut stream, &mut buffer, framing, Pace::default(), keep).await?;
            let body = String::from_utf8(body)?;
            match message.status() {
                Some(200) => Ok(body),
                _ => Err(format!("{path}: {} {body}", message.head.start).into()),
            }
        };
        let late = |_| format!("the admin listener didn't answer {path} within {DEADLINE:?}");
        timeout(DEADLINE, asking).await.map_err(late)?
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // One that has ended can't be killed.
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Reads what weir logs, as long as it lives.
fn listen_to(from: impl Read + Send + 'static, said: &Arc<Mutex<Said>>) {
    /// The errors that a run brings about on purpose: a file that is refused, a model server that says 401.
    const EXPECTED: [&str; 2] = ["configuration refused", "doesn't accept weir's account"];
    const LINES_KEPT: usize = 2000;
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            let expected = EXPECTED.iter().any(|part| line.contains(part));
            let error = line.contains("\"level\":\"ERROR\"") && !expected;
            if error || line.contains("panicked") {
                said.complaints.push(line.clone());
            }
            if said.admin.is_none() || said.address.is_none() {
                let told: Value = serde_json::from_str(&line).unwrap_or_default();
                let address = told["address"].as_str().and_then(|it| it.parse().ok());
                match told["message"].as_str() {
                    Some("listening") => said.address = address,
                    Some("admin listening") => said.admin = address,
                    _ => {}
                }
            }
            said.last.push_back(line);
            if said.last.len() > LINES_KEPT {
                said.last.pop_front();
            }
        }
        said.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
    });
}

//! A server program of the system's, as a child process of one test: found, started, awaited, ended.
//!
//! Each gets a loopback address of its own (127.77.0.0/16), so that its port is never one that another
//! test's `127.0.0.1:0` was given meanwhile.

use super::DEADLINE;
use super::folder::Folder;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A running server. It is killed when this is dropped, and with it its folder goes.
pub struct Daemon {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    address: SocketAddr,
    folder: Folder,
    child: Option<Child>,
    /// What ends it with all its children.
    end: i32,
}

/// A server that is about to be started: where it is to listen, and its folder.
pub struct Plan {
    /// An address that is free at the moment.
    pub address: SocketAddr,
    /// For its configuration and its logs; whatever user it becomes may write there.
    pub folder: Folder,
}

/// The program's file; `None`, and a word on standard error, where it isn't installed.
pub fn installed(name: &str, package: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = folders
        .iter()
        .map(|it| Path::new(it).join(name))
        .find(|it| it.exists());
    if found.is_none() {
        eprintln!("skipped: {name} isn't installed (apt-get install {package})");
    }
    found
}

/// Whether the tests run as root: servers want to be told then who they are to become.
pub fn is_root() -> bool {
    // SAFETY: it reads nothing of ours.
    unsafe { libc::geteuid() == 0 }
}

impl Plan {
    fn new() -> Self {
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let [high, low] = NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        // Neither .0 nor .255, which are broadcast addresses to some.
        let ip = Ipv4Addr::new(127, 77, high, low.clamp(1, 254));
        let listener = TcpListener::bind((ip, 0)).expect("a free port");
        let folder = Folder::new();
        let everybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), everybody).expect("a folder of our own");
        Self {
            address: listener.local_addr().expect("bound"),
            folder,
        }
    }
}

impl Daemon {
    /// Starts a program with the arguments that `configure` returns, and waits until it accepts.
    #[track_caller]
    pub fn start(
        name: &'static str,
        program: PathBuf,
        configure: impl Fn(&Plan) -> Vec<String>,
    ) -> Self {
        /// Its port may have been taken between the look and its bind.
        const TRIES: usize = 3;
        for _ in 1..TRIES {
            if let Ok(daemon) = Self::try_start(name, &program, &configure) {
                return daemon;
            }
        }
        Self::try_start(name, &program, &configure).unwrap_or_else(|told| panic!("{told}"))
    }

    fn try_start(
        name: &'static str,
        program: &Path,
        configure: impl Fn(&Plan) -> Vec<String>,
    ) -> Result<Self, String> {
        let plan = Plan::new();
        let mut daemon = Self {
            name,
            program: program.to_owned(),
            arguments: configure(&plan),
            address: plan.address,
            folder: plan.folder,
            child: None,
            end: libc::SIGKILL,
        };
        daemon.spawn();
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Ends with this signal instead of SIGKILL: for who has children that wouldn't notice.
    pub fn ends_with(mut self, signal: i32) -> Self {
        self.end = signal;
        self
    }

    fn spawn(&mut self) {
        let output = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.output_file())
            .expect("a file in the temporary folder");
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("PYTHONUNBUFFERED", "1")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{} can't be started: {error}", self.name));
        self.child = Some(child);
    }

    /// Waits until it accepts; the sentence tells why it never will.
    fn wait_ready(&mut self) -> Result<(), String> {
        let due = Instant::now() + DEADLINE;
        loop {
            let child = self.child.as_mut().expect("it was started");
            let ended = child.try_wait().expect("a child");
            if ended.is_none() && TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if ended.is_some() || Instant::now() > due {
                return Err(format!(
                    "{} doesn't accept at {} ({ended:?}); it says:\n{}",
                    self.name,
                    self.address,
                    self.output()
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(self.output_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has printed this.
    #[track_caller]
    pub fn wait_output(&self, text: &str) {
        super::eventually(&format!("{text:?} from {}", self.name), || {
            self.output().contains(text).then_some(())
        });
    }

    fn output_file(&self) -> PathBuf {
        self.folder.join("output")
    }

    /// Sends a signal to its process.
    #[track_caller]
    pub fn signal(&self, signal: i32) {
        let child = self.child.as_ref().expect("it runs");
        let pid = i32::try_from(child.id()).expect("a process id");
        // SAFETY: kill reads its two numbers; the child isn't reaped yet, so the id is still its own.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "signal {signal} could not be sent");
    }

    /// Ends it without a warning: its connections break, its port is closed.
    pub fn kill(&mut self) {
        if self.child.is_none() {
            return;
        }
        self.signal(self.end);
        let child = self.child.as_mut().expect("it runs");
        let due = Instant::now() + DEADLINE;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < due {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        self.child = None;
    }

    /// Starts it once more, at the same address.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.kill();
        self.spawn();
        self.wait_ready().unwrap_or_else(|told| panic!("{told}"));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            const LINES: usize = 40;
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let last = &lines[lines.len().saturating_sub(LINES)..];
            eprintln!("--- {} ---\n{}\n---", self.name, last.join("\n"));
        }
    }
}

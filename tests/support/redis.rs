//! A Redis server of a test's own, which keeps nothing on disk unless it is told to.

use super::daemon::{Daemon, installed};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A server that runs.
pub struct Redis {
    daemon: Daemon,
}

impl Redis {
    /// Starts it, with further arguments; `None`, and a word on standard error, where it isn't
    /// installed.
    pub fn start(more: &[&str]) -> Option<Self> {
        let program = installed("redis-server", "redis-server")?;
        let daemon = Daemon::start("redis-server", program, |plan| {
            let plain = [
                "--bind",
                &plan.address.ip().to_string(),
                "--port",
                &plan.address.port().to_string(),
                "--dir",
                &plan.folder.path().display().to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
            ]
            .map(str::to_owned);
            let more = more.iter().map(|it| (*it).to_owned());
            plain.into_iter().chain(more).collect()
        });
        Some(Self { daemon })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.daemon.address()
    }

    /// Its URL, as weir is told.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Ends it with SIGKILL: what it knew is gone.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Starts it once more, at the same address.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.daemon.start_again();
    }

    /// Stops it: it takes connections and says nothing.
    pub fn freeze(&self) {
        self.daemon.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.daemon.signal(libc::SIGCONT);
    }

    /// How often it has run a script.
    #[track_caller]
    pub fn scripts(&self) -> u64 {
        let told = self.ask("INFO commandstats");
        let calls = |command: &str| {
            let line = told.lines().find(|line| line.starts_with(command))?;
            let (_, rest) = line.split_once("calls=")?;
            rest.split(',').next()?.parse::<u64>().ok()
        };
        ["cmdstat_eval:", "cmdstat_evalsha:"]
            .into_iter()
            .filter_map(calls)
            .sum()
    }

    /// Bytes that it has received and sent.
    #[track_caller]
    pub fn bytes(&self) -> u64 {
        let told = self.ask("INFO stats");
        let count = |name: &str| {
            let line = told.lines().find(|line| line.starts_with(name))?;
            line.split_once(':')?.1.trim().parse::<u64>().ok()
        };
        ["total_net_input_bytes:", "total_net_output_bytes:"]
            .into_iter()
            .filter_map(count)
            .sum()
    }

    /// What it answers to a command that is written as a line.
    #[track_caller]
    pub fn ask(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).expect("redis accepts");
        let asked = format!("{command}\r\nQUIT\r\n");
        stream.write_all(asked.as_bytes()).expect("redis reads");
        let mut told = String::new();
        stream.read_to_string(&mut told).expect("redis answers");
        told
    }
}

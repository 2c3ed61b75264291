//! dnsmasq, the resolver of many edge hosts, with names of a test's own below `.test`; TTL one second.

use super::daemon::{Daemon, installed};
use super::gate::eventually;
use std::net::{IpAddr, SocketAddr};

/// A resolver that runs.
pub struct Dnsmasq {
    daemon: Daemon,
}

/// What it knows names from, in its folder.
const NAMES: &str = "names";

impl Dnsmasq {
    /// Starts it with these names; `None`, and a word on standard error, where it isn't installed.
    pub fn start(names: &[(&str, IpAddr)]) -> Option<Self> {
        let program = installed("dnsmasq", "dnsmasq-base")?;
        let daemon = Daemon::start("dnsmasq", program, |plan| {
            let file = plan.folder.write(NAMES, lines(names));
            [
                "--no-daemon",
                "--conf-file=/dev/null",
                "--bind-interfaces",
                "--no-resolv",
                "--no-hosts",
                "--pid-file=",
                "--local=/test/",
                "--local-ttl=1",
                "--log-queries",
                "--log-facility=-",
                &format!("--listen-address={}", plan.address.ip()),
                &format!("--port={}", plan.address.port()),
                &format!("--addn-hosts={}", file.display()),
            ]
            .map(str::to_owned)
            .to_vec()
        });
        Some(Self { daemon })
    }

    /// Where it is asked.
    pub fn address(&self) -> SocketAddr {
        self.daemon.address()
    }

    /// From now on it knows these names and no others. Waits until it does.
    #[track_caller]
    pub fn know(&self, names: &[(&str, IpAddr)]) {
        let read = |dnsmasq: &Self| dnsmasq.said(NAMES);
        let before = read(self);
        self.daemon.folder().write(NAMES, lines(names));
        self.daemon.signal(libc::SIGHUP);
        eventually("dnsmasq to read its names", || {
            (read(self) > before).then_some(())
        });
    }

    /// Stops it: it takes questions and says nothing.
    pub fn stop(&self) {
        self.daemon.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.daemon.signal(libc::SIGCONT);
    }

    /// Lines of its log with this text. It tells of each question (`query[A] a.test from ..`) and each
    /// answer (`/path a.test is 127.0.0.1`, `config a.test is NXDOMAIN`).
    pub fn said(&self, text: &str) -> usize {
        let output = self.daemon.output();
        output.lines().filter(|line| line.contains(text)).count()
    }

    /// Waits until its log has as many lines more with this text.
    #[track_caller]
    pub fn wait_said(&self, text: &str, more: usize) {
        let before = self.said(text);
        eventually(&format!("{more} times more {text:?} from dnsmasq"), || {
            (self.said(text) >= before + more).then_some(())
        });
    }
}

fn lines(names: &[(&str, IpAddr)]) -> String {
    names
        .iter()
        .map(|(name, address)| format!("{address} {name}\n"))
        .collect()
}

//! Egress proxies as they are in use: squid, tinyproxy, microsocks and dante of Debian, pproxy of PyPI.
//!
//! Each constructor returns `None`, and says so, where its program isn't installed.

use super::daemon::{Daemon, Plan, installed, is_root};
use super::tls::Authority;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A proxy that runs.
pub struct RealProxy {
    daemon: Daemon,
    scheme: &'static str,
    kind: Kind,
    /// Signs the certificate that a proxy behind TLS shows.
    authority: Option<Authority>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Squid,
    Tinyproxy,
    Microsocks,
    Dante,
    Pproxy,
}

/// User and password that a proxy wants.
pub type Login<'a> = Option<(&'a str, &'a str)>;

// === impl RealProxy ===

impl RealProxy {
    /// squid, for HTTP. It knows `model.test`, which nobody else does, as 127.0.0.1.
    pub fn squid(login: Login) -> Option<Self> {
        let program = installed("squid", "squid")?;
        let daemon = Daemon::start("squid", program, |plan| {
            squid(plan, &format!("http_port {}", plan.address), login)
        });
        Some(Self::new(daemon, "http", Kind::Squid))
    }

    /// squid behind TLS.
    pub fn squid_tls(login: Login) -> Option<Self> {
        let program = installed("squid", "squid")?;
        let authority = Authority::new();
        let daemon = Daemon::start("squid", program, |plan| {
            let (certificate, key) = certificate(&authority, plan);
            let port = format!(
                "https_port {} tls-cert={certificate} tls-key={key}",
                plan.address
            );
            squid(plan, &port, login)
        });
        Some(Self::new(daemon, "https", Kind::Squid).behind(authority))
    }

    /// tinyproxy.
    pub fn tinyproxy(login: Login) -> Option<Self> {
        let program = installed("tinyproxy", "tinyproxy")?;
        let daemon = Daemon::start("tinyproxy", program, |plan| {
            let mut text = format!(
                "Listen {}\nPort {}\nTimeout 600\nMaxClients 200\nLogLevel Info\n",
                plan.address.ip(),
                plan.address.port()
            );
            if let Some((user, password)) = login {
                text.push_str(&format!("BasicAuth {user} {password}\n"));
            }
            let path = plan.folder.write("tinyproxy.conf", text);
            arguments(&["-d", "-c"], &path)
        });
        Some(Self::new(daemon, "http", Kind::Tinyproxy))
    }

    /// microsocks, for SOCKS5.
    pub fn microsocks(login: Login) -> Option<Self> {
        let program = installed("microsocks", "microsocks")?;
        let daemon = Daemon::start("microsocks", program, |plan| {
            let (ip, port) = (plan.address.ip().to_string(), plan.address.port());
            let mut all = vec!["-i".to_owned(), ip, "-p".to_owned(), port.to_string()];
            if let Some((user, password)) = login {
                all.extend(["-u", user, "-P", password].map(str::to_owned));
            }
            all
        });
        Some(Self::new(daemon, "socks5", Kind::Microsocks))
    }

    /// dante, for SOCKS5, without a login: its users are the system's.
    pub fn dante() -> Option<Self> {
        let program = installed("danted", "dante-server")?;
        let daemon = Daemon::start("danted", program, |plan| {
            let users = if is_root() {
                "user.privileged: root\nuser.unprivileged: nobody\n"
            } else {
                ""
            };
            let text = format!(
                "logoutput: stdout\ninternal: {} port = {}\nexternal: 127.0.0.1\n\
                 clientmethod: none\nsocksmethod: none\n{users}\
                 client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\n\
                 socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 log: connect error }}\n",
                plan.address.ip(),
                plan.address.port(),
            );
            let path = plan.folder.write("danted.conf", text);
            let pid = plan.folder.join("danted.pid").display().to_string();
            let mut all = arguments(&["-N", "1", "-f"], &path);
            all.extend(["-p".to_owned(), pid]);
            all
        });
        // Its children go when it goes in good form.
        let daemon = daemon.ends_with(libc::SIGTERM);
        Some(Self::new(daemon, "socks5", Kind::Dante))
    }

    /// pproxy of PyPI: CONNECT behind TLS. `WEIR_TEST_PYTHON` names the Python that has it.
    pub fn pproxy(login: Login) -> Option<Self> {
        let python = std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let has = Command::new(&python).args(["-c", "import pproxy"]).output();
        if !has.is_ok_and(|it| it.status.success()) {
            eprintln!("skipped: {python} has no pproxy (pip install pproxy; see tests/run)");
            return None;
        }
        let authority = Authority::new();
        let daemon = Daemon::start("pproxy", python.into(), |plan| {
            let (certificate, key) = certificate(&authority, plan);
            let mut listen = format!("http+ssl://{}", plan.address);
            if let Some((user, password)) = login {
                listen.push_str(&format!("#{user}:{password}"));
            }
            let certificate = format!("{certificate},{key}");
            // Who has given a login once isn't trusted because of that.
            let strict = "--auth=-1";
            let words = [
                "-m",
                "pproxy",
                "-v",
                strict,
                "-l",
                &listen,
                "--ssl",
                &certificate,
            ];
            words.map(str::to_owned).to_vec()
        });
        Some(Self::new(daemon, "https", Kind::Pproxy).behind(authority))
    }

    fn new(daemon: Daemon, scheme: &'static str, kind: Kind) -> Self {
        Self {
            daemon,
            scheme,
            kind,
            authority: None,
        }
    }

    fn behind(mut self, authority: Authority) -> Self {
        self.authority = Some(authority);
        self
    }

    /// Names are left to the proxy: `socks5h` instead of `socks5`.
    pub fn resolving(mut self) -> Self {
        assert_eq!(self.scheme, "socks5");
        self.scheme = "socks5h";
        self
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.daemon.address()
    }

    /// Its URL without a login.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address())
    }

    /// Its URL with a login, good or bad.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("{}://{user}:{password}@{}", self.scheme, self.address())
    }

    /// Who signed its certificate, where it is behind TLS.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// What runs.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Whether it has printed this.
    pub fn said(&self, text: &str) -> bool {
        self.daemon.output().contains(text)
    }

    /// Tunnels that its own log tells of. squid tells of a tunnel when it ends.
    pub fn tunnels(&self) -> usize {
        let output = self.daemon.output();
        let count = |text: &str, what: &str| text.lines().filter(|it| it.contains(what)).count();
        match self.kind {
            Kind::Squid => {
                let log = std::fs::read_to_string(self.daemon.folder().join("access.log"));
                count(&log.unwrap_or_default(), "/200 ")
            }
            Kind::Tinyproxy => count(&output, "Established connection to host"),
            Kind::Microsocks => count(&output, "connected to"),
            Kind::Dante => count(&output, "pass(1): tcp/connect ["),
            Kind::Pproxy => count(&output, " -> "),
        }
    }
}

// === what they are told ===

fn arguments(before: &[&str], path: &Path) -> Vec<String> {
    let mut all: Vec<String> = before.iter().map(|it| (*it).to_owned()).collect();
    all.push(path.display().to_string());
    all
}

/// A certificate for where it is to listen, and its key, where whoever it becomes can read them.
fn certificate(authority: &Authority, plan: &Plan) -> (String, String) {
    let names = format!("IP:{}", plan.address.ip());
    let (certificate, key) = authority.issue("proxy", "/CN=proxy", &names, 2);
    let copy = |from: &Path, name: &str| {
        let path = plan.folder.join(name);
        std::fs::copy(from, &path).expect("a file in the temporary folder");
        let readable = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&path, readable).expect("a file of our own");
        path.display().to_string()
    };
    (copy(&certificate, "proxy.pem"), copy(&key, "proxy.key"))
}

fn squid(plan: &Plan, port: &str, login: Login) -> Vec<String> {
    let folder = plan.folder.path().display();
    let hosts = plan.folder.write("hosts", "127.0.0.1 model.test\n");
    let access = match login {
        None => "http_access allow localhost\n".to_owned(),
        Some((user, password)) => {
            let hashed = Command::new("openssl")
                .args(["passwd", "-apr1", password])
                .output()
                .expect("openssl is installed");
            let hashed = String::from_utf8_lossy(&hashed.stdout).trim().to_owned();
            let users = plan.folder.write("users", format!("{user}:{hashed}\n"));
            format!(
                "auth_param basic program /usr/lib/squid/basic_ncsa_auth {}\n\
                 auth_param basic realm weir\nacl known proxy_auth REQUIRED\n\
                 http_access allow known\n",
                users.display()
            )
        }
    };
    let text = format!(
        "{port}\nhosts_file {hosts}\nacl CONNECT method CONNECT\nacl denied dstdomain denied.test\n\
         http_access deny !CONNECT\nhttp_access deny denied\n{access}http_access deny all\n\
         cache deny all\ncache_store_log none\naccess_log stdio:{folder}/access.log\n\
         cache_log {folder}/cache.log\ncoredump_dir {folder}\npid_filename {folder}/squid.pid\n\
         shutdown_lifetime 0 seconds\npinger_enable off\n",
        hosts = hosts.display(),
    );
    let path = plan.folder.write("squid.conf", text);
    arguments(&["-N", "-f"], &path)
}

//! A real PostgreSQL, as an unprivileged user, with a cluster in the test's own folder.

use super::daemon::{Daemon, is_root};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A running server with the database `postgres`, whose user `weir` has a password.
pub struct Postgres {
    daemon: Daemon,
    password: &'static str,
}

/// The newest that is installed; `None`, and a word on standard error, where there is none.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok();
    let mut found: Vec<PathBuf> = versions
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    if found.is_empty() {
        eprintln!("skipped: PostgreSQL isn't installed (apt-get install postgresql)");
    }
    found.pop()
}

/// A command as a user that PostgreSQL agrees to run as.
fn unprivileged(program: &Path) -> Vec<String> {
    let program = program.display().to_string();
    if is_root() {
        let user = [
            "setpriv",
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
        ];
        user.map(str::to_owned)
            .into_iter()
            .chain([program])
            .collect()
    } else {
        vec![program]
    }
}

impl Postgres {
    /// Starts one; `None` where it isn't installed. With `certificate`, its PEM files' paths: the chain
    /// and the key.
    #[track_caller]
    pub fn start(certificate: Option<(&Path, &Path)>) -> Option<Self> {
        const PASSWORD: &str = "s3cret";
        let bin = programs()?;
        let server = unprivileged(&bin.join("postgres"));
        let daemon = Daemon::start("postgres", PathBuf::from("/usr/bin/env"), |plan| {
            let folder = plan.folder.path();
            let cluster = folder.join("cluster");
            let password = folder.join("password");
            std::fs::write(&password, PASSWORD).expect("a file in the test's folder");
            let initdb = unprivileged(&bin.join("initdb"));
            let made = Command::new(&initdb[0])
                .args(&initdb[1..])
                .args([
                    "--no-sync",
                    "--auth=scram-sha-256",
                    "--username=weir",
                    "--encoding=UTF8",
                ])
                .arg(format!("--pwfile={}", password.display()))
                .arg("-D")
                .arg(&cluster)
                .current_dir(folder)
                .output()
                .expect("initdb");
            assert!(
                made.status.success(),
                "{}",
                String::from_utf8_lossy(&made.stderr)
            );
            let mut arguments = server.clone();
            arguments.push("-D".into());
            arguments.push(cluster.display().to_string());
            let mut settings = vec![
                format!("listen_addresses={}", plan.address.ip()),
                format!("port={}", plan.address.port()),
                format!("unix_socket_directories={}", folder.display()),
                "fsync=off".to_owned(),
                "shared_buffers=16MB".to_owned(),
                "max_connections=20".to_owned(),
            ];
            if let Some((chain, key)) = certificate {
                // Its key must be its own, and nobody else's.
                for (from, name) in [(chain, "server.crt"), (key, "server.key")] {
                    let to = cluster.join(name);
                    let mut install = Command::new("install");
                    install.args(["-m", "600"]);
                    if is_root() {
                        install.args(["-o", "postgres", "-g", "postgres"]);
                    }
                    let done = install.arg(from).arg(&to).status();
                    assert!(done.is_ok_and(|it| it.success()), "{}", to.display());
                }
                settings.push("ssl=on".to_owned());
            }
            for setting in settings {
                arguments.push("-c".into());
                arguments.push(setting);
            }
            arguments
        });
        Some(Self {
            // Its children go with it: an immediate shutdown.
            daemon: daemon.ends_with(libc::SIGQUIT),
            password: PASSWORD,
        })
    }

    /// `postgres://…` with these parameters.
    pub fn url(&self, parameters: &str) -> String {
        let (address, password) = (self.daemon.address(), self.password);
        format!("postgres://weir:{password}@{address}/postgres?{parameters}")
    }

    /// The same, whose server is asked for by this name.
    pub fn url_named(&self, name: &str, parameters: &str) -> String {
        let (address, password) = (self.daemon.address(), self.password);
        let (port, ip) = (address.port(), address.ip());
        format!("postgres://weir:{password}@{name}:{port}/postgres?hostaddr={ip}&{parameters}")
    }

    /// The same, through its Unix socket.
    pub fn url_unix(&self, parameters: &str) -> String {
        let (port, password) = (self.daemon.address().port(), self.password);
        let folder = self.daemon.folder().path().display().to_string();
        let folder = folder.replace('/', "%2F");
        format!("postgres://weir:{password}@{folder}:{port}/postgres?{parameters}")
    }

    /// Ends it.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Starts it once more, with what it had.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.daemon.start_again();
    }
}

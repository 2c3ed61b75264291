//! The control socket: one command a connection, one answer when all is done. Whoever isn't the same
//! user, or root, hears nothing.

use super::generation::{Generation, Held, State};
use super::job::{Job, Kind, STOPS};
use super::lines::{Lines, line_of};
use super::link::Link;
use super::protocol::{Command, Outcome};
use super::sockets::bound_unix;
use super::supervisor::Supervisor;
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

/// The control socket's path where nobody names another.
pub fn default_path() -> PathBuf {
    const NAME: &str = "control.sock";
    let folders = std::env::var_os("RUNTIME_DIRECTORY").unwrap_or_default();
    let first = std::env::split_paths(&folders).next();
    first
        .filter(|folder| folder.is_absolute())
        .unwrap_or_else(|| "/run/weir".into())
        .join(NAME)
}

/// The path that was named: on the command line, else in the environment.
pub fn named_path(argument: Option<PathBuf>) -> Option<PathBuf> {
    let path = argument.or_else(|| {
        let path = std::env::var_os("WEIR_CONTROL").filter(|path| !path.is_empty())?;
        Some(path.into())
    })?;
    Some(std::path::absolute(&path).unwrap_or(path))
}

/// Opens the control socket, for its own user alone.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    const WAITING_MAX: i32 = 128;
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let socket = bound_unix(path, Some(Mode::S_IRUSR | Mode::S_IWUSR))?;
    socket.listen(WAITING_MAX)?;
    Ok(socket.into())
}

/// Clients at once.
const CLIENTS_MAX: usize = 64;
/// For a client to say what it wants, and to take the answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

impl Supervisor {
    /// Makes the control socket anew where somebody removed its file.
    pub(super) fn mend_control(&self) {
        let Some(path) = &self.control else { return };
        if std::fs::symlink_metadata(path).is_ok() {
            return;
        }
        let made = open(path).and_then(|socket| UnixListener::from_std(socket.into()));
        let path = path.display();
        match made {
            Ok(listener) => {
                tracing::warn!(%path, "the control socket's file was gone; it is there again");
                *self.listener.borrow_mut() = Some(Rc::new(listener));
                self.changed.notify_waiters();
            }
            Err(error) => {
                tracing::error!(%error, %path, "the control socket's file is gone, and can't be made again");
            }
        }
    }

    /// Answers clients for as long as there is a control socket.
    pub(super) async fn attend(self: Rc<Self>) {
        loop {
            while self.clients.get() >= CLIENTS_MAX || self.is_closed_to_clients.get() {
                self.changed.notified().await;
            }
            let Some(listener) = self.listener.borrow().clone() else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // Perhaps the door is shut now, or is another one.
                () = self.changed.notified() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    self.clients.set(self.clients.get() + 1);
                    let own = Rc::clone(&self);
                    tokio::task::spawn_local(async move {
                        own.client(stream).await;
                        own.clients.set(own.clients.get() - 1);
                        own.changed.notify_waiters();
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn client(self: &Rc<Self>, stream: UnixStream) {
        const COMMAND_BYTES_MAX: usize = 64 << 10;
        let pid = match peer(&stream) {
            Ok(pid) => pid,
            Err(user) => {
                tracing::warn!(user, "refused at the control socket");
                return;
            }
        };
        let mut lines = Lines::new(stream, COMMAND_BYTES_MAX);
        let Ok(Ok(Some(line))) = tokio::time::timeout(PATIENCE, lines.next()).await else {
            return;
        };
        let command = serde_json::from_slice(&line);
        let (mut stream, rest) = lines.into_parts();
        let outcome = match command {
            Ok(Command::Adopt {
                number,
                pid: said,
                sockets,
            }) => {
                if Some(said) == pid && said > 0 {
                    self.adopt(number, said, sockets, Link::new(stream, rest, Vec::new()));
                }
                return;
            }
            Ok(command) => self.obey(command).await,
            Err(error) => Outcome::refused(format!(
                "this weir ({}) doesn't know that command: {error}",
                env!("CARGO_PKG_VERSION")
            )),
        };
        if let Ok(line) = line_of(&outcome) {
            let _ = tokio::time::timeout(PATIENCE, stream.write_all(&line)).await;
        }
    }

    async fn obey(&self, command: Command) -> Outcome {
        let kind = match command {
            Command::Status => {
                return Outcome {
                    status: Some(self.status()),
                    ..Outcome::done(self.status_line())
                };
            }
            Command::Question { question, everyone } => return self.ask(&question, everyone).await,
            Command::Reopen => {
                self.reopen();
                return Outcome::done("log files are opened anew");
            }
            // Nobody does jobs any more.
            Command::Reload | Command::Upgrade if self.held.borrow().stop.is_some() => {
                return Outcome::refused(STOPS);
            }
            Command::Reload => Kind::Reload,
            Command::Upgrade => Kind::Upgrade,
            Command::Adopt { .. } => return Outcome::refused("no command for this"),
        };
        let (answer, outcome) = oneshot::channel();
        let job = Job {
            kind,
            answers: vec![answer],
        };
        self.held.borrow_mut().queue(job);
        self.changed.notify_waiters();
        outcome
            .await
            .unwrap_or_else(|_| Outcome::refused("weir has stopped"))
    }

    /// A generation of a supervisor that is gone.
    fn adopt(self: &Rc<Self>, number: u64, pid: i32, sockets: Vec<String>, link: Link) {
        /// No weir gets so far; those that come after it need numbers too.
        const NUMBER_MAX: u64 = 1 << 48;
        let mut held = self.held.borrow_mut();
        if !(1..=NUMBER_MAX).contains(&number) {
            tracing::warn!(
                number,
                pid,
                "offered as a generation, with a number that none has"
            );
            return;
        }
        if held.generations.contains_key(&number) || held.stop.is_some() {
            return;
        }
        let mut generation = Generation::new(number, pid, Rc::new(link));
        generation.is_child = false;
        generation.enter(State::Serving);
        generation.sockets = sockets
            .into_iter()
            .map(|address| Held {
                name: String::new(),
                address,
            })
            .collect();
        let plan = held.plan.as_ref();
        generation.drain = plan.map_or(ADOPTED_DRAIN, |plan| plan.drain);
        tracing::info!(generation = number, pid, "adopted");
        let (leader, addresses) = (held.leader, held.table.addresses());
        match leader {
            // Before the first start: the newest of them leads for now.
            None if plan.is_none() => {
                generation.is_ready = true;
                held.leader = Some(number);
            }
            Some(newest) if plan.is_none() => held.leader = Some(newest.max(number)),
            _ => {
                let gone = generation.sockets.iter().enumerate();
                let gone = gone.filter(|(_, it)| !addresses.contains(&it.address));
                let close = gone.map(|(at, _)| at).collect();
                generation.drain(close);
            }
        }
        drop(held);
        self.take_in(generation);
    }
}

/// Until a plan says how long a generation may drain; whoever adopts has none yet.
const ADOPTED_DRAIN: Duration = Duration::from_secs(60 * 60);

/// The process at the other end, or the user who may not command.
fn peer(stream: &UnixStream) -> Result<Option<i32>, u32> {
    let Ok(peer) = stream.peer_cred() else {
        return Err(u32::MAX);
    };
    let own = nix::unistd::geteuid().as_raw();
    if peer.uid() != own && peer.uid() != 0 {
        return Err(peer.uid());
    }
    Ok(peer.pid())
}

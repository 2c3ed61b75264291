//! The supervisor replaces itself by another program: same process, same children, same descriptors.
//! What it knows goes through a file in memory, in JSON, so that another version can read it.

use super::control::PATIENCE;
use super::generation::{Generation, Held, State};
use super::link::Link;
use super::program::{Stamp, set_inherited, whole};
use super::protocol::{Last, Report, Summary};
use super::settings::Plan;
use super::supervisor::{Dead, Holdings, Supervisor};
use super::table::{Entry, Table};
use crate::types::socket::Socket;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// The variable that names the descriptor of what the program before this one knew.
const HEIR: &str = "WEIR_SUPERVISOR";

/// What goes from one program to the next. Fields may be added, with a default.
#[derive(Debug, Serialize, Deserialize)]
struct Will {
    sockets: Vec<Given<Socket>>,
    opened: u64,
    control: Option<(i32, PathBuf)>,
    generations: Vec<Ward>,
    dead: Vec<Dead>,
    plan: Option<Plan>,
    leader: Option<u64>,
    last_number: u64,
    last: Option<Last>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Given<T> {
    what: T,
    descriptor: i32,
    name: String,
}

/// A generation that gets a new guardian.
#[derive(Debug, Serialize, Deserialize)]
struct Ward {
    number: u64,
    pid: i32,
    is_child: bool,
    version: String,
    state: State,
    age: Duration,
    stamp: Option<Stamp>,
    sockets: Vec<Held>,
    drain: Duration,
    channel: i32,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    summary: Summary,
    report: Option<Report>,
    end_in: Option<Duration>,
    kill_in: Option<Duration>,
}

/// What the program before this one left.
pub(super) struct Inherited {
    pub(super) held: Holdings,
    pub(super) generations: Vec<Generation>,
    pub(super) control: Option<(OwnedFd, PathBuf)>,
}

impl Supervisor {
    /// Where a newer program serves, it supervises too. If it can't, everything goes on as it is.
    pub(super) async fn succeed_if_replaced(self: &Rc<Self>) {
        let on_disk = self.program.stamp();
        if on_disk.is_none() || on_disk == self.own_stamp {
            return;
        }
        // Whoever connects now waits for the new program.
        self.is_closed_to_clients.set(true);
        self.changed.notify_waiters();
        let quiet = |held: &mut Holdings| {
            let busy = !held.jobs.is_empty() || held.stop.is_some();
            let idle = self.clients.get() == 0 && held.questions == 0;
            (busy || idle).then_some(())
        };
        let until = Instant::now() + 2 * PATIENCE;
        loop {
            self.until(until, quiet).await;
            let masked = mask(SigmaskHow::SIG_BLOCK);
            // A signal that came before is in the runtime's hands: let it be seen.
            tokio::time::sleep(Duration::from_millis(2)).await;
            let (is_free, is_asked) = {
                let held = self.held.borrow();
                let is_free = held.jobs.is_empty() && held.stop.is_none() && held.leader.is_some();
                (is_free, held.questions > 0)
            };
            if is_free && is_asked && Instant::now() < until {
                // A question that came meanwhile would be lost with this program.
                unmask();
                continue;
            }
            if is_free && masked.is_ok() {
                let Err(error) = self.succeed();
                let program = self.program.path.display();
                tracing::warn!(%error, %program, "the supervisor couldn't be replaced; the old one goes on");
            }
            unmask();
            break;
        }
        self.is_closed_to_clients.set(false);
        self.changed.notify_waiters();
    }

    /// Comes back only when it failed.
    fn succeed(&self) -> io::Result<std::convert::Infallible> {
        tracing::info!(program = %self.program.path.display(), "the supervisor is replaced");
        let held = self.held.borrow();
        let listener = self.listener.borrow().clone();
        let will = held.will(
            listener.as_ref().map(|it| it.as_raw_fd()),
            self.control.clone(),
        );
        let mut file = std::fs::File::from(memfd_create("weir-supervisor", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&serde_json::to_vec(&will).map_err(io::Error::other)?)?;
        let generations = held.generations.values();
        let mut kept: Vec<BorrowedFd> = generations.map(|it| it.link.stream.as_fd()).collect();
        kept.extend(held.table.entries.iter().map(|it| it.descriptor.as_fd()));
        kept.extend(listener.iter().map(|it| it.as_fd()));
        kept.push(file.as_fd());
        let text = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::other);
        let path = text(self.program.path.clone().into_os_string().into_vec())?;
        let arguments = std::env::args_os().map(|it| text(it.into_vec()));
        let arguments = arguments.collect::<io::Result<Vec<_>>>()?;
        let variables = std::env::vars_os()
            .filter(|(name, _)| name != HEIR)
            .chain([(HEIR.into(), file.as_raw_fd().to_string().into())])
            .map(|(name, value)| {
                let mut variable = name.into_vec();
                variable.push(b'=');
                variable.extend(value.into_vec());
                text(variable)
            })
            .collect::<io::Result<Vec<_>>>()?;
        let done = kept.iter().try_for_each(|it| set_inherited(it, true));
        let done = done.and_then(|()| Ok(nix::unistd::execve(&path, &arguments, &variables)?));
        for descriptor in &kept {
            let _ = set_inherited(descriptor, false);
        }
        done
    }
}

/// The signals that weir understands: between two programs they must wait, or they would end it.
fn understood() -> SigSet {
    let signals = [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTERM,
        Signal::SIGINT,
    ];
    signals.into_iter().collect()
}

fn mask(how: SigmaskHow) -> nix::Result<()> {
    sigprocmask(how, Some(&understood()), None)
}

/// Lets signals in again, when somebody listens for them.
pub(super) fn unmask() {
    if let Err(error) = mask(SigmaskHow::SIG_UNBLOCK) {
        tracing::error!(%error, "signals can't be let in");
    }
}

impl Holdings {
    fn will(&self, listener: Option<i32>, control: Option<PathBuf>) -> Will {
        let sockets = self.table.entries.iter().map(|entry| Given {
            what: entry.socket.clone(),
            descriptor: entry.descriptor.as_raw_fd(),
            name: entry.name.clone(),
        });
        Will {
            sockets: sockets.collect(),
            opened: self.table.opened,
            control: listener.zip(control),
            generations: self.generations.values().map(Ward::from).collect(),
            dead: self.dead.clone(),
            plan: self.plan.clone(),
            leader: self.leader,
            last_number: self.last_number,
            last: self.last.clone(),
        }
    }
}

impl From<&Generation> for Ward {
    fn from(generation: &Generation) -> Self {
        let now = Instant::now();
        let rest = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
        Self {
            number: generation.number,
            pid: generation.pid,
            is_child: generation.is_child,
            version: generation.version.clone(),
            state: generation.state,
            age: generation.started.elapsed(),
            stamp: generation.stamp,
            sockets: generation.sockets.clone(),
            drain: generation.drain,
            channel: generation.link.stream.as_raw_fd(),
            incoming: generation.link.incoming.borrow().clone(),
            outgoing: generation.link.outgoing.borrow().iter().copied().collect(),
            summary: generation.summary.clone(),
            report: generation.report.clone(),
            end_in: rest(generation.end_at),
            kill_in: rest(generation.kill_at),
        }
    }
}

impl Ward {
    fn received(self) -> io::Result<Generation> {
        let stream = std::os::unix::net::UnixStream::from(owned(self.channel)?);
        let link = Link::new(UnixStream::from_std(stream)?, self.incoming, self.outgoing);
        let mut generation = Generation::new(self.number, self.pid, Rc::new(link));
        let now = Instant::now();
        generation.is_child = self.is_child;
        generation.version = self.version;
        generation.state = self.state;
        generation.started = now.checked_sub(self.age).unwrap_or(now);
        generation.stamp = self.stamp;
        generation.sockets = self.sockets;
        generation.drain = self.drain;
        generation.summary = self.summary;
        generation.report = self.report;
        generation.is_ready = true;
        generation.end_at = self.end_in.and_then(|rest| now.checked_add(rest));
        generation.kill_at = self.kill_in.and_then(|rest| now.checked_add(rest));
        Ok(generation)
    }
}

/// What the program before this one left; `None` where there was none. To be called once, within the
/// runtime, before there is a second thread: it changes the environment.
///
/// # Errors
/// What it left can't be used.
pub(super) fn inherited() -> io::Result<Option<Inherited>> {
    let Some(number) = std::env::var_os(HEIR) else {
        return Ok(None);
    };
    // SAFETY: the supervisor has one thread.
    unsafe { std::env::remove_var(HEIR) };
    let number = number.to_str().and_then(|text| text.parse().ok());
    let file = owned(number.ok_or(io::ErrorKind::InvalidData)?)?;
    let will: Will = serde_json::from_slice(&whole(file)?)?;
    let mut entries = Vec::new();
    for given in will.sockets {
        entries.push(Entry {
            socket: given.what,
            descriptor: Rc::new(owned(given.descriptor)?),
            name: given.name,
        });
    }
    let wards = will.generations.into_iter();
    let generations = wards.map(Ward::received).collect::<io::Result<_>>()?;
    let control = match will.control {
        Some((number, path)) => Some((owned(number)?, path)),
        None => None,
    };
    let held = Holdings {
        table: Table::restored(entries, will.opened),
        dead: will.dead,
        plan: will.plan,
        leader: will.leader,
        last_number: will.last_number,
        last: will.last,
        ..Holdings::default()
    };
    Ok(Some(Inherited {
        held,
        generations,
        control,
    }))
}

/// A descriptor that the program before this one left open for it.
fn owned(number: i32) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: it is only asked for, and changed where it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    set_inherited(&borrowed, false)?;
    // SAFETY: it is open, and was left for whoever reads this; each number is in the will once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

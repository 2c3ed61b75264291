//! `weir run`: starts the supervisor, and turns signals into what it does.

use super::control;
use super::job::{Job, Kind};
use super::notify::{Notifier, handed_over};
use super::program::{Program, stamp_of};
use super::succeed::{self, Inherited};
use super::supervisor::{Holdings, Stop, Supervisor};
use super::table::Table;
use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

/// Supervises generations until weir is told to stop. `arguments` name the configuration, as `weir
/// serve` takes them; `control` is the control socket's path, if one was given.
///
/// To be called before there is a second thread: it changes the environment.
///
/// # Errors
/// Why the first generation couldn't start.
pub fn run(arguments: Vec<OsString>, control: Option<PathBuf>) -> Result<(), String> {
    // First of all: another descriptor could take their numbers.
    let handed = handed_over();
    abort_on_panic();
    let name = std::env::args_os().next();
    let program = Program::started_as(name.as_deref().map(Path::new), arguments)
        .map_err(|error| format!("this program's own file can't be found: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let all = tokio::task::LocalSet::new();
    all.block_on(&runtime, async {
        let signals = Signals::new().map_err(|error| format!("no signals: {error}"))?;
        let inherited = succeed::inherited();
        succeed::unmask();
        let inherited = inherited
            .map_err(|error| format!("what the supervisor before this one left: {error}"))?;
        supervise(program, Table::new(handed), inherited, control, signals).await
    })
}

/// A panic ends this process, whichever task it is in: a supervisor that is only half there would let weir
/// go on until the first thing that it doesn't do. Where systemd starts another one, that one adopts the
/// generations.
fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tell(info);
        tracing::error!("the supervisor is at fault: {info}");
        std::process::abort();
    }));
}

async fn supervise(
    program: Program,
    table: Table,
    inherited: Option<Inherited>,
    control: Option<PathBuf>,
    signals: Signals,
) -> Result<(), String> {
    let is_heir = inherited.is_some();
    let was_kept = table.was_kept();
    let (held, generations, control) = match inherited {
        Some(it) => (it.held, it.generations, it.control),
        None => {
            let held = Holdings {
                table,
                ..Holdings::default()
            };
            (held, Vec::new(), open_control(control)?)
        }
    };
    let (listener, control) = control.unzip();
    let listener = listener
        .map(|it| UnixListener::from_std(it.into()).map(Rc::new))
        .transpose()
        .map_err(|error| format!("the control socket can't be used: {error}"))?;
    let notifier = Notifier::from_environment();
    let adopts = std::env::var_os("WEIR_ADOPT").is_some_and(|it| it == "1");
    let supervisor = Rc::new(Supervisor {
        program,
        own_stamp: stamp_of(Path::new("/proc/self/exe")),
        orphans_go_on: notifier.is_heard() || adopts,
        notifier,
        control,
        listener: RefCell::new(listener),
        held: RefCell::new(held),
        changed: Notify::new(),
        clients: Cell::new(0),
        is_closed_to_clients: Cell::new(false),
    });
    for generation in generations {
        supervisor.take_in(generation);
    }
    tokio::task::spawn_local(Rc::clone(&supervisor).attend());
    let watch = tokio::task::spawn_local(Rc::clone(&supervisor).watch(signals));
    if is_heir {
        let version = env!("CARGO_PKG_VERSION");
        tracing::info!(version, "the supervisor goes on in a new program");
    } else {
        supervisor.begin(was_kept || adopts).await?;
    }
    tokio::task::spawn_local(Rc::clone(&supervisor).work());
    let _ = watch.await;
    supervisor.finish().await;
    Ok(())
}

/// The socket and its path; `None` where the usual one can't be had, which is no mistake.
fn open_control(argument: Option<PathBuf>) -> Result<Option<(OwnedFd, PathBuf)>, String> {
    let named = control::named_path(argument);
    let is_named = named.is_some();
    let path = named.unwrap_or_else(control::default_path);
    match control::open(&path) {
        Ok(socket) => Ok(Some((socket, path))),
        Err(error) if is_named => Err(format!(
            "the control socket {} can't be opened: {}",
            path.display(),
            why_not(&error)
        )),
        Err(error) => {
            tracing::warn!(
                error = why_not(&error),
                path = %path.display(),
                "no control socket: `weir reload` and the like won't reach this weir; set another \
                 path with --control"
            );
            Ok(None)
        }
    }
}

fn why_not(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another weir that runs uses it; name another path with --control".to_owned()
        }
        _ => error.to_string(),
    }
}

struct Signals {
    hangup: Signal,
    reopen: Signal,
    upgrade: Signal,
    terminate: Signal,
    interrupt: Signal,
    child: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
        })
    }
}

impl Supervisor {
    /// The first generation starts.
    async fn begin(self: &Rc<Self>, may_adopt: bool) -> Result<(), String> {
        /// Generations of a supervisor that was killed look for this one several times in it.
        const ORPHANS: Duration = Duration::from_millis(300);
        if may_adopt && self.control.is_some() {
            tokio::time::sleep(ORPHANS).await;
        }
        let done = self.renew(&self.program).await;
        match done {
            Ok(message) => tracing::info!(said = message, "started"),
            Err(_) if self.held.borrow().stop.is_some() => {}
            Err(reason) if self.held.borrow().leader.is_some() => {
                tracing::error!(reason, "no new generation; an adopted one goes on");
            }
            Err(reason) => {
                self.finish().await;
                return Err(reason);
            }
        }
        self.tell_ready();
        Ok(())
    }

    /// Obeys signals and the clock until weir has stopped.
    async fn watch(self: Rc<Self>, mut signals: Signals) {
        const TICK: Duration = Duration::from_millis(250);
        /// Past it this process stood still, not the others.
        const LATE: Duration = Duration::from_secs(1);
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Told::default();
        let mut before = Instant::now();
        loop {
            tokio::select! {
                _ = signals.child.recv() => self.reap(),
                _ = signals.hangup.recv() => self.ask_for(Kind::Reload),
                _ = signals.upgrade.recv() => self.ask_for(Kind::Upgrade),
                _ = signals.reopen.recv() => self.reopen(),
                _ = signals.terminate.recv() => self.stop(Stop::Drain),
                _ = signals.interrupt.recv() => self.stop(Stop::Now),
                _ = clock.tick() => {
                    self.tick(before.elapsed() > LATE);
                    self.tell_systemd(&mut told);
                    before = Instant::now();
                }
                () = self.changed.notified() => {}
            }
            let held = self.held.borrow();
            // The end of a program that says a plan is heard of here too.
            let is_alone = held.generations.is_empty() && held.planners.is_empty();
            if held.stop.is_some() && is_alone {
                return;
            }
        }
    }

    fn ask_for(&self, kind: Kind) {
        self.held.borrow_mut().queue(Job::unasked(kind));
        self.changed.notify_waiters();
    }

    fn tell_systemd(&self, told: &mut Told) {
        const STATUS_EVERY: Duration = Duration::from_secs(2);
        let since = |at: Option<Instant>| at.map(|at| at.elapsed());
        if let Some(every) = self.notifier.watchdog
            && since(told.watchdog_at).is_none_or(|it| it >= every.saturating_sub(SLACK))
        {
            self.notifier.tell("WATCHDOG=1");
            told.watchdog_at = Some(Instant::now());
        }
        if since(told.status_at).is_none_or(|it| it >= STATUS_EVERY) {
            let status = self.status_line();
            if status != told.status {
                self.notifier.tell(&format!("STATUS={status}"));
                told.status = status;
                told.status_at = Some(Instant::now());
            }
        }
    }

    /// The last generation is gone.
    async fn finish(&self) {
        const LIMIT: Duration = Duration::from_secs(1);
        self.answer_at_stop();
        let answered = |_: &mut Holdings| (self.clients.get() == 0).then_some(());
        self.until(Instant::now() + LIMIT, answered).await;
        self.held.borrow_mut().table.close(&self.notifier);
        if let Some(path) = &self.control {
            let _ = std::fs::remove_file(path);
        }
        tracing::info!("stopped");
    }
}

/// The clock's tick may come that much too late for the watchdog's half time.
const SLACK: Duration = Duration::from_millis(300);

/// What systemd was last told.
#[derive(Default)]
struct Told {
    watchdog_at: Option<Instant>,
    status_at: Option<Instant>,
    status: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    /// Runs itself in a process of its own, whose end is looked at.
    #[test]
    fn a_panic_in_any_task_ends_the_process() {
        const ITSELF: &str = "supervise::run::tests::a_panic_in_any_task_ends_the_process";
        const VARIABLE: &str = "WEIR_TEST_PANICS";
        if std::env::var_os(VARIABLE).is_none() {
            let itself = std::env::current_exe().unwrap();
            let status = std::process::Command::new(itself)
                .args(["--exact", ITSELF])
                .env(VARIABLE, "1")
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .status()
                .unwrap();
            assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
            return;
        }
        abort_on_panic();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let task = tokio::task::spawn_local(async { panic!("as a test wants it") });
            let _ = task.await;
        });
    }
}

//! The supervisor: what it holds, what it hears, and its watch over the generations. One thread, no
//! waiting on anything but events. Reloads and upgrades are in [`super::job`] and
//! [`super::renew`].

use super::generation::{Generation, State};
use super::link::Link;
use super::notify::Notifier;
use super::program::{Program, Stamp, ending};
use super::protocol::{Last, Order, Report, Status, Summary, Told};
use super::question::Asked;
use super::settings::Plan;
use super::table::Table;
use super::{job, job::Job};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The process that systemd sees.
pub(super) struct Supervisor {
    pub(super) program: Program,
    /// The file that this process runs.
    pub(super) own_stamp: Option<Stamp>,
    pub(super) notifier: Notifier,
    /// The control socket, where it could be opened.
    pub(super) control: Option<PathBuf>,
    pub(super) listener: RefCell<Option<Rc<UnixListener>>>,
    /// Generations look for another supervisor when this one is gone.
    pub(super) orphans_go_on: bool,
    pub(super) held: RefCell<Holdings>,
    /// Something in `held` changed.
    pub(super) changed: Notify,
    pub(super) clients: Cell<usize>,
    /// New clients wait: this program is about to be replaced.
    pub(super) is_closed_to_clients: Cell<bool>,
}

/// What changes.
#[derive(Default)]
pub(super) struct Holdings {
    pub(super) table: Table,
    pub(super) generations: BTreeMap<u64, Generation>,
    /// Last reports of the ended whose totals nobody has added yet.
    pub(super) dead: Vec<Dead>,
    /// Processes that say a plan, and how they ended.
    pub(super) planners: BTreeMap<i32, Option<WaitStatus>>,
    pub(super) plan: Option<Plan>,
    pub(super) leader: Option<u64>,
    /// How the last few generations ended.
    pub(super) ended: BTreeMap<u64, Ended>,
    /// How the last leader ended.
    pub(super) lost: Option<String>,
    /// What it last knew.
    pub(super) lost_state: Option<serde_json::Value>,
    pub(super) last_number: u64,
    pub(super) jobs: VecDeque<Job>,
    pub(super) last: Option<Last>,
    /// Generations in a row that ended soon after their start.
    pub(super) early_ends: u32,
    /// Questions that wait for reports.
    pub(super) questions: usize,
    /// What clients of the control socket asked of generations, and the answers so far.
    pub(super) asked: Asked,
    pub(super) stop: Option<Stop>,
}

/// A report that waits to be added.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Dead {
    pub(super) report: Report,
    /// Who was told to add it; nobody else may while that one lives.
    pub(super) given_to: Option<u64>,
}

/// How a generation ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) how: String,
    /// Its own words.
    pub(super) failed: Option<String>,
}

/// How weir is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Requests are finished.
    Drain,
    /// Requests are ended.
    Now,
}

/// A serving generation that says nothing for so long is hung.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A draining one is given longer: its streams die with it.
const SILENCE_DRAINING_MAX: Duration = Duration::from_secs(30);

impl Supervisor {
    /// Waits for something to be so, until the deadline.
    pub(super) async fn until<T>(
        &self,
        deadline: Instant,
        mut look: impl FnMut(&mut Holdings) -> Option<T>,
    ) -> Option<T> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.held.borrow_mut()) {
                return Some(found);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return look(&mut self.held.borrow_mut());
            }
        }
    }

    /// Takes a generation in, and listens to it.
    pub(super) fn take_in(self: &Rc<Self>, generation: Generation) {
        let (number, link) = (generation.number, Rc::clone(&generation.link));
        let mut held = self.held.borrow_mut();
        held.last_number = held.last_number.max(number);
        held.generations.insert(number, generation);
        drop(held);
        tokio::task::spawn_local(Rc::clone(self).listen(number, link));
        self.changed.notify_waiters();
    }

    async fn listen(self: Rc<Self>, number: u64, link: Rc<Link>) {
        link.run(|line| match serde_json::from_slice(line) {
            Ok(told) => self.hear(number, told),
            // A newer program says what this one can't know.
            Err(error) => tracing::debug!(%error, generation = number, "told what is not known"),
        })
        .await;
        /// A generation that has nothing more to say is about to exit.
        const EXIT_MAX: Duration = Duration::from_secs(5);
        if let Some(generation) = self.held.borrow_mut().generations.get_mut(&number) {
            generation.is_closed = true;
            let at = Instant::now() + EXIT_MAX;
            generation.kill_at = Some(generation.kill_at.map_or(at, |earlier| earlier.min(at)));
        }
        self.bury();
    }

    pub(super) fn hear(self: &Rc<Self>, number: u64, told: Told) {
        let mut held = self.held.borrow_mut();
        let Some(generation) = held.generations.get_mut(&number) else {
            return;
        };
        generation.heard = Instant::now();
        match told {
            Told::Ready { version } => {
                tracing::info!(generation = number, version, "ready");
                generation.version = version;
                generation.is_ready = true;
            }
            Told::Failed { reason } => generation.failed = Some(reason),
            Told::Reloaded { outcome } => generation.reloaded = Some(outcome),
            Told::Watched { outcome } => {
                if held.leader == Some(number) {
                    held.queue(Job::unasked(job::Kind::Watched(outcome)));
                }
            }
            Told::WantGeneration { keys } => {
                if held.leader == Some(number) {
                    tracing::info!(
                        generation = number,
                        ?keys,
                        "the file asks for a new generation"
                    );
                    held.queue(Job::unasked(job::Kind::Renew(keys)));
                }
            }
            Told::Leaving => {
                tracing::warn!(generation = number, "was told to end, alone");
                generation.is_leaving = true;
                if held.leader == Some(number) && held.stop.is_none() {
                    held.queue_first(Job::unasked(job::Kind::Replace(number)));
                }
            }
            Told::Beat { summary } => generation.summary = summary,
            Told::Report { report } => {
                generation.summary = report.summary.clone();
                generation.reports += 1;
                let absorbed = report.absorbed.clone();
                generation.report = Some(*report);
                held.dead
                    .retain(|it| !absorbed.contains(&it.report.generation));
            }
            Told::Ask { id } => {
                held.questions += 1;
                tokio::task::spawn_local(Rc::clone(self).answer(number, id));
            }
            Told::Answer { id, answer } => held.asked.take_in(id, answer),
        }
        drop(held);
        self.changed.notify_waiters();
    }

    /// Tells one generation what all others know.
    async fn answer(self: Rc<Self>, number: u64, id: u64) {
        const LIMIT: Duration = Duration::from_millis(500);
        let asked = self.held.borrow().ask_for_reports(|it| it != number);
        let limit = Instant::now() + LIMIT;
        self.until(limit, |held| held.have_reported(&asked).then_some(()))
            .await;
        let mut held = self.held.borrow_mut();
        held.questions -= 1;
        let others = held.generations.values().filter(|it| it.number != number);
        let reports = others.filter_map(|it| it.report.clone()).collect();
        let dead = held.dead.iter().filter(|it| it.given_to != Some(number));
        let dead = dead.map(|it| it.report.clone()).collect();
        if let Some(generation) = held.generations.get(&number) {
            generation.send(&Order::Others { id, reports, dead });
        }
        drop(held);
        self.changed.notify_waiters();
    }

    /// Collects the processes that have ended.
    pub(super) fn reap(&self) {
        let mut held = self.held.borrow_mut();
        for (pid, status) in &mut held.planners {
            if status.is_none() {
                *status = ended(*pid);
            }
        }
        for generation in held.generations.values_mut() {
            if generation.is_child && generation.ending.is_none() {
                generation.ending = ended(generation.pid).map(ending);
            }
        }
        drop(held);
        self.bury();
    }

    /// Forgets the generations of which nothing more is to come, but for their last reports.
    fn bury(&self) {
        /// One that lived so long was well.
        const LIFE_MIN: Duration = Duration::from_secs(10);
        let mut held = self.held.borrow_mut();
        let gone: Vec<u64> = held
            .generations
            .values()
            .filter(|it| it.is_gone())
            .map(|it| it.number)
            .collect();
        for number in gone {
            let Some(generation) = held.generations.remove(&number) else {
                continue;
            };
            let how = generation.epitaph();
            let expected = matches!(generation.state, State::Draining | State::Stopping)
                && generation.ending.as_deref() == Some("exited with status 0");
            if expected {
                tracing::info!(generation = number, how, "generation is gone");
            } else {
                tracing::warn!(generation = number, how, "generation is gone");
            }
            held.note_end(&generation);
            if held.leader == Some(number) {
                held.lost_state = generation.report.as_ref().map(|it| it.state.clone());
            }
            held.bury(generation.report, number);
            if held.leader == Some(number) {
                held.early_ends = if generation.started.elapsed() < LIFE_MIN {
                    held.early_ends + 1
                } else {
                    0
                };
                held.leader = None;
                held.lost = Some(format!("generation {number} {how}"));
                held.resume();
            }
        }
        drop(held);
        self.changed.notify_waiters();
    }

    /// What is due now. `is_late`: this process itself stood still, so silence means nothing.
    pub(super) fn tick(&self, is_late: bool) {
        let now = Instant::now();
        let mut held = self.held.borrow_mut();
        let leader = held.leader;
        for generation in held.generations.values_mut() {
            if is_late {
                generation.heard = now;
            }
            let silent = now.duration_since(generation.heard);
            let is_hung = match generation.state {
                State::Serving => silent > SILENCE_MAX,
                State::Draining => silent > SILENCE_DRAINING_MAX,
                // Jobs, and the time to stop, have bounds of their own.
                State::Starting | State::Probation | State::Stopping => false,
            };
            let number = generation.number;
            if (is_hung || generation.link.is_overfull()) && generation.ending.is_none() {
                tracing::warn!(
                    generation = number,
                    "says nothing, or hears nothing: killed"
                );
                generation.kill();
            }
            if generation.end_at.is_some_and(|at| at <= now) {
                tracing::warn!(generation = number, "had its time to drain: ended");
                generation.end_within(END_MAX);
            }
            if generation.kill_at.is_some_and(|at| at <= now) {
                tracing::warn!(generation = number, "doesn't end: killed");
                generation.kill();
            }
        }
        held.tell_elsewhere();
        if let Some(leader) = leader {
            held.give_dead_to(leader);
        }
        drop(held);
        // A process whose end was not signalled is found all the same.
        self.reap();
    }

    /// weir stops: for good order first, at once when asked again.
    pub(super) fn stop(&self, how: Stop) {
        /// What generations have past the deadline, to end streams in good order.
        const GRACE: Duration = Duration::from_secs(10);
        const NOW_MAX: Duration = Duration::from_secs(2);
        let mut held = self.held.borrow_mut();
        let how = match held.stop {
            None => how,
            Some(_) => Stop::Now,
        };
        if held.stop == Some(Stop::Now) {
            return;
        }
        if held.stop.is_none() {
            self.notifier.tell("STOPPING=1");
        }
        held.stop = Some(how);
        tracing::info!(?how, "stopping");
        // Nobody accepts any more. Closed here first: the generations are the last to close, when they
        // have accepted what waits.
        held.table.close(&self.notifier);
        for generation in held.generations.values_mut() {
            match how {
                Stop::Now => generation.end_within(NOW_MAX),
                // One that is starting may serve already, and not have said so yet.
                Stop::Drain => {
                    let drain = generation.drain;
                    let seconds = drain.as_secs();
                    generation.send(&Order::Stop { seconds });
                    generation.end_at = Instant::now().checked_add(drain + GRACE);
                }
            }
            generation.enter(State::Stopping);
        }
        drop(held);
        self.changed.notify_waiters();
    }

    /// Has all generations open their log files anew.
    pub(super) fn reopen(&self) {
        for generation in self.held.borrow().generations.values() {
            generation.send(&Order::Reopen);
        }
    }

    /// For `weir status`.
    pub(super) fn status(&self) -> Status {
        let held = self.held.borrow();
        Status {
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            last: held.last.clone(),
            generations: held.generations.values().map(Generation::told).collect(),
        }
    }

    /// For systemd: one line.
    pub(super) fn status_line(&self) -> String {
        let held = self.held.borrow();
        let connections: u64 = held
            .generations
            .values()
            .map(|it| it.summary.connections)
            .sum();
        let draining = held
            .generations
            .values()
            .filter(|it| it.state == State::Draining)
            .count();
        let serves = match (held.stop, held.leader) {
            (Some(_), _) => "stopping".to_owned(),
            (None, Some(leader)) => format!("generation {leader} serves"),
            (None, None) => "starting".to_owned(),
        };
        format!("{serves}, {draining} drain; {connections} connections")
    }
}

/// What an ended one has for its last words before it is killed.
pub(super) const END_MAX: Duration = Duration::from_secs(5);

fn ended(pid: i32) -> Option<WaitStatus> {
    match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) => None,
        Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => Some(status),
        Ok(_) => None,
        // Somebody else has reaped it.
        Err(nix::errno::Errno::ECHILD) => Some(WaitStatus::Exited(Pid::from_raw(pid), -1)),
        Err(_) => None,
    }
}

impl Holdings {
    /// Asks generations for reports: who was asked, and how many reports each had sent before.
    pub(super) fn ask_for_reports(&self, who: impl Fn(u64) -> bool) -> Vec<(u64, u64)> {
        let asked = self.generations.values().filter(|it| who(it.number));
        asked
            .map(|generation| {
                generation.send(&Order::Report);
                (generation.number, generation.reports)
            })
            .collect()
    }

    /// Whether all that were asked have answered, or are gone.
    pub(super) fn have_reported(&self, asked: &[(u64, u64)]) -> bool {
        asked.iter().all(|(number, before)| {
            let generation = self.generations.get(number);
            generation.is_none_or(|it| it.reports > *before)
        })
    }

    fn note_end(&mut self, generation: &Generation) {
        const KEPT: usize = 16;
        let ended = Ended {
            how: generation.ending.clone().unwrap_or("ended".to_owned()),
            failed: generation.failed.clone(),
        };
        self.ended.insert(generation.number, ended);
        if self.ended.len() > KEPT {
            self.ended.pop_first();
        }
    }

    /// Keeps what an ended generation said last.
    fn bury(&mut self, report: Option<Report>, number: u64) {
        // What it was to add and didn't is for another.
        for dead in &mut self.dead {
            if dead.given_to == Some(number) {
                dead.given_to = None;
            }
        }
        if let Some(report) = report {
            self.dead.push(Dead {
                report: Report {
                    // Nothing of it goes on; only its totals matter.
                    summary: Summary::default(),
                    state: serde_json::Value::Null,
                    ..report
                },
                given_to: None,
            });
        }
    }

    /// The dead that this one is to add, each given to one only.
    pub(super) fn take_dead(&mut self, number: u64) -> Vec<Report> {
        let free = self.dead.iter_mut().filter(|it| it.given_to.is_none());
        free.map(|dead| {
            dead.given_to = Some(number);
            dead.report.clone()
        })
        .collect()
    }

    pub(super) fn give_dead_to(&mut self, leader: u64) {
        for report in self.take_dead(leader) {
            if let Some(generation) = self.generations.get(&leader) {
                let report = Box::new(report);
                generation.send(&Order::Absorb { report });
            }
        }
    }

    /// Nobody leads: the newest that drains accepts again until somebody does.
    fn resume(&mut self) {
        if self.stop.is_some() {
            return;
        }
        let accepts = |it: &Generation| matches!(it.state, State::Serving | State::Probation);
        if self.generations.values().any(accepts) {
            return;
        }
        let mut draining = self.generations.values_mut().rev();
        if let Some(newest) =
            draining.find(|it| it.state == State::Draining && !it.is_closed && it.kill_at.is_none())
        {
            newest.send(&Order::Resume);
            newest.end_at = None;
            newest.heard = Instant::now();
            newest.enter(State::Serving);
        }
    }

    fn tell_elsewhere(&mut self) {
        let summaries: Vec<(u64, Summary)> = self
            .generations
            .values()
            .map(|it| (it.number, it.summary.clone()))
            .collect();
        for generation in self.generations.values_mut() {
            let others = summaries.iter().filter(|(it, _)| *it != generation.number);
            let mut sum = Summary::default();
            for (_, other) in others {
                sum.connections += other.connections;
                sum.in_flight += other.in_flight;
                sum.buffered_bytes += other.buffered_bytes;
                sum.streams += other.streams;
                sum.oldest_stream_seconds =
                    sum.oldest_stream_seconds.max(other.oldest_stream_seconds);
            }
            let is_started = generation.state != State::Starting;
            if is_started && generation.elsewhere != sum {
                generation.send(&Order::Elsewhere {
                    summary: sum.clone(),
                });
                generation.elsewhere = sum;
            }
        }
    }
}

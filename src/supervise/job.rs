//! What the supervisor does one after another: reloads, upgrades, and the replacement of a leader that
//! is gone. Each either comes to its end or leaves everything as it was.

use super::generation::{Generation, Held, State};
use super::link::Link;
use super::program::{Program, ending};
use super::protocol::{Last, Order, Outcome, Reloaded};
use super::settings::Plan;
use super::sockets::told_address;
use super::supervisor::{END_MAX, Ended, Holdings, Supervisor};
use super::table::Entry;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What is to be done, and who waits for it.
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) answer: Option<oneshot::Sender<Outcome>>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reload,
    Upgrade,
    /// A new generation, because of these keys of the configuration.
    Renew(Vec<String>),
}

impl Job {
    /// By a signal, or a change of the file.
    pub(super) fn unasked(kind: Kind) -> Self {
        Self { kind, answer: None }
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Reload | Self::Renew(_) => "reload",
            Self::Upgrade => "upgrade",
        }
    }
}

/// Longer than weir lives.
const FOREVER: Duration = Duration::from_secs(60 * 60 * 24 * 365);

impl Supervisor {
    /// Does all jobs, in order, until weir stops.
    pub(super) async fn work(self: Rc<Self>) {
        loop {
            let due = |held: &mut Holdings| {
                let due = held.stop.is_some() || held.leader.is_none() || !held.jobs.is_empty();
                due.then(|| (held.stop.is_some(), held.leader.is_none()))
            };
            match self.until(Instant::now() + FOREVER, due).await {
                None => {}
                Some((true, _)) => return self.answer_at_stop(),
                Some((false, true)) => self.replace().await,
                Some((false, false)) => self.one_job().await,
            }
        }
    }

    /// The start, or a reload, is over. What stops is never ready again.
    pub(super) fn tell_ready(&self) {
        if self.held.borrow().stop.is_none() {
            self.notifier.tell("READY=1");
        }
    }

    fn answer_at_stop(&self) {
        for job in self.held.borrow_mut().jobs.drain(..) {
            if let Some(answer) = job.answer {
                let _ = answer.send(refusal(STOPS.to_owned()));
            }
        }
    }

    /// One for all that wait for the same.
    async fn one_job(self: &Rc<Self>) {
        let (kind, answers) = {
            let mut held = self.held.borrow_mut();
            let Some(first) = held.jobs.pop_front() else {
                return;
            };
            let mut answers: Vec<_> = first.answer.into_iter().collect();
            while let Some(next) = held.jobs.pop_front_if(|it| it.kind == first.kind) {
                answers.extend(next.answer);
            }
            (first.kind, answers)
        };
        self.notifier.reloading();
        let done = match &kind {
            Kind::Reload => self.reload().await,
            Kind::Upgrade => self.renew(&self.program).await,
            Kind::Renew(keys) => self.renew_for(keys).await,
        };
        self.tell_ready();
        let (ok, message) = match done {
            Ok(message) => (true, message),
            Err(message) => (false, message),
        };
        let what = kind.name();
        if ok {
            tracing::info!(said = message, what, "done");
        } else {
            tracing::error!(reason = message, what, "refused");
        }
        self.held.borrow_mut().last = Some(Last {
            what: what.to_owned(),
            at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            ok,
            message: message.clone(),
        });
        for answer in answers {
            let _ = answer.send(Outcome {
                ok,
                message: message.clone(),
                status: None,
            });
        }
        if ok {
            self.succeed_if_replaced().await;
        }
    }

    /// The configuration on disk is made live; by a new generation where the program was replaced.
    async fn reload(self: &Rc<Self>) -> Result<String, String> {
        const LIMIT: Duration = Duration::from_secs(60);
        let on_disk = self.program.stamp();
        let leader = {
            let mut held = self.held.borrow_mut();
            let leader = held.leader.and_then(|it| held.generations.get_mut(&it));
            let leader = leader.ok_or("no generation serves now")?;
            if on_disk.is_some() && leader.stamp != on_disk {
                None
            } else {
                leader.reloaded = None;
                leader.send(&Order::Reload);
                Some(leader.number)
            }
        };
        let Some(leader) = leader else {
            return self.renew(&self.program).await;
        };
        let answer = |held: &mut Holdings| {
            if held.stop.is_some() {
                return Some(Err(STOPS.to_owned()));
            }
            match held.generations.get_mut(&leader) {
                Some(generation) => generation.reloaded.take().map(Ok),
                None => Some(Err(held.loss())),
            }
        };
        let outcome = self
            .until(Instant::now() + LIMIT, answer)
            .await
            .unwrap_or_else(|| {
                Err(format!(
                    "generation {leader} didn't say within {} s what came of it",
                    LIMIT.as_secs()
                ))
            })?;
        match outcome {
            Reloaded::Applied { config_hash } => {
                self.learn_plan().await;
                Ok(format!(
                    "configuration reloaded: generation {leader} serves {config_hash}"
                ))
            }
            Reloaded::Refused { reason } => Err(format!(
                "configuration refused; the old configuration goes on serving: {reason}"
            )),
            Reloaded::NeedsGeneration { keys } => self.renew_for(&keys).await,
        }
    }

    async fn renew_for(self: &Rc<Self>, keys: &[String]) -> Result<String, String> {
        let keys = keys.join(", ");
        let done = self.renew(&self.program).await?;
        Ok(format!("{done}; a new generation was needed for: {keys}"))
    }

    /// How long generations drain, and the like, may be new.
    async fn learn_plan(&self) {
        let Ok(plan) = self.ask_plan(&self.program).await else {
            return;
        };
        let mut held = self.held.borrow_mut();
        if held
            .plan
            .as_ref()
            .is_some_and(|it| it.sockets == plan.sockets)
        {
            let leader = held.leader;
            if let Some(leader) = leader.and_then(|it| held.generations.get_mut(&it)) {
                leader.drain = plan.drain;
            }
            held.plan = Some(plan);
        }
    }

    /// A new generation takes the lead. If it can't, nothing has changed.
    pub(super) async fn renew(self: &Rc<Self>, program: &Program) -> Result<String, String> {
        let old = self.held.borrow().leader;
        let goes_on = |reason: String| match self.held.borrow().leader {
            Some(leader) => format!("{reason}; generation {leader} goes on serving"),
            None => reason,
        };
        let plan = self.ask_plan(program).await.map_err(goes_on)?;
        let entries = self.held.borrow_mut().table.prepare(&plan.sockets);
        let entries = entries.map_err(|error| goes_on(error.to_string()))?;
        let proved = match self.start(program, &plan, &entries).await {
            Ok(number) => match self.prove(number, &plan).await {
                Ok(()) => Ok(number),
                Err(reason) => {
                    self.put_down(number).await;
                    Err(reason)
                }
            },
            Err(reason) => Err(reason),
        };
        match proved {
            Ok(number) => Ok(self.commit(number, old, plan, entries)),
            Err(reason) => {
                self.held.borrow().table.discard(&entries);
                Err(goes_on(reason))
            }
        }
    }

    /// What the program on disk asks for, with the configuration as it is now.
    async fn ask_plan(&self, program: &Program) -> Result<Plan, String> {
        const LIMIT: Duration = Duration::from_secs(30);
        let name = program.path.display();
        let unusable = |error: io::Error| format!("{name} can't be started: {error}");
        let (pid, out, err) = program.ask_plan().map_err(unusable)?;
        let had_leader = {
            let mut held = self.held.borrow_mut();
            held.planners.insert(pid, None);
            held.leader.is_some()
        };
        let deadline = Instant::now() + LIMIT;
        let given_up = self.until(deadline, |held| {
            if held.stop.is_some() {
                return Some(STOPS.to_owned());
            }
            // The replacement is more urgent.
            (had_leader && held.leader.is_none()).then(|| held.loss())
        });
        let ended = async {
            let (out, err) = tokio::join!(all_of(out), all_of(err));
            let ended = |held: &mut Holdings| held.planners.get(&pid).copied().flatten();
            (self.until(deadline, ended).await, out, err)
        };
        let said = tokio::select! {
            said = ended => Ok(said),
            reason = given_up => Err(reason.unwrap_or_else(|| {
                format!("`{name} serve --plan` didn't end within {} s", LIMIT.as_secs())
            })),
        };
        self.forget_planner(pid).await;
        let (status, out, err) = said?;
        let status = status.ok_or_else(|| format!("`{name} serve --plan` doesn't end"))?;
        let (out, err) = (out.map_err(unusable)?, err.map_err(unusable)?);
        if !matches!(status, WaitStatus::Exited(_, 0)) {
            let reason = String::from_utf8_lossy(&err).trim().to_owned();
            return Err(if reason.is_empty() {
                format!(
                    "`{name} serve --plan` {} and gave no reason",
                    ending(status)
                )
            } else {
                reason
            });
        }
        serde_json::from_slice(&out)
            .map_err(|error| format!("`{name} serve --plan` said what is no plan: {error}"))
    }

    async fn forget_planner(&self, pid: i32) {
        let is_alive = self.held.borrow().planners.get(&pid) == Some(&None);
        if is_alive {
            // Not reaped yet, so the number is its own.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            let ended = |held: &mut Holdings| held.planners.get(&pid).copied().flatten();
            self.until(Instant::now() + END_MAX, ended).await;
        }
        self.held.borrow_mut().planners.remove(&pid);
    }

    /// Starts a generation and tells it what it begins with.
    async fn start(
        self: &Rc<Self>,
        program: &Program,
        plan: &Plan,
        entries: &[Entry],
    ) -> Result<u64, String> {
        let state = self.leaders_state().await;
        let started = self.spawn(program, plan, entries);
        let generation = started
            .map_err(|error| format!("{} can't be started: {error}", program.path.display()))?;
        let number = generation.number;
        tracing::info!(generation = number, pid = generation.pid, "started");
        self.take_in(generation);
        let mut held = self.held.borrow_mut();
        let totals = held.take_dead(number);
        if let Some(generation) = held.generations.get(&number) {
            generation.send(&Order::Begin { state, totals });
        }
        held.end_oldest(plan.upgrade.generations_max);
        Ok(number)
    }

    /// What the leader knows now; what it last knew, if it doesn't answer.
    async fn leaders_state(&self) -> Option<serde_json::Value> {
        const LIMIT: Duration = Duration::from_secs(1);
        let leader = self.held.borrow().leader?;
        let asked = self.held.borrow().ask_for_reports(|it| it == leader);
        let limit = Instant::now() + LIMIT;
        self.until(limit, |held| held.have_reported(&asked).then_some(()))
            .await;
        let held = self.held.borrow();
        let report = held.generations.get(&leader)?.report.as_ref()?;
        Some(report.state.clone())
    }

    fn spawn(&self, program: &Program, plan: &Plan, entries: &[Entry]) -> io::Result<Generation> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let link = Rc::new(Link::new(
            UnixStream::from_std(ours)?,
            Vec::new(),
            Vec::new(),
        ));
        let number = {
            let mut held = self.held.borrow_mut();
            held.last_number += 1;
            held.last_number
        };
        let sockets: Vec<_> = entries.iter().map(|it| it.descriptor.as_fd()).collect();
        let control = self.control.clone().filter(|_| self.orphans_go_on);
        let stamp = program.stamp();
        let pid = program.start(number, &sockets, &OwnedFd::from(theirs), control)?;
        let mut generation = Generation::new(number, pid, link);
        generation.stamp = stamp;
        generation.drain = plan.drain;
        generation.sockets = entries
            .iter()
            .map(|entry| Held {
                name: entry.name.clone(),
                address: told_address(&entry.descriptor),
            })
            .collect();
        Ok(generation)
    }

    /// Waits until a new generation is ready, and has lived through its probation.
    async fn prove(&self, number: u64, plan: &Plan) -> Result<(), String> {
        let limit = plan.upgrade.ready;
        let ready = |held: &mut Holdings| {
            if let Some(fault) = held.fault_of(number, "before it was ready") {
                return Some(Err(fault));
            }
            let generation = held.generations.get_mut(&number)?;
            generation.is_ready.then(|| {
                generation.enter(State::Probation);
                Ok(())
            })
        };
        let ready = self.until(Instant::now() + limit, ready).await;
        ready.unwrap_or_else(|| {
            Err(format!(
                "generation {number} wasn't ready within {} s",
                limit.as_secs_f32()
            ))
        })?;
        self.stand_probation(number, plan.upgrade.probation).await
    }

    async fn stand_probation(&self, number: u64, probation: Duration) -> Result<(), String> {
        const SILENCE_MIN: Duration = Duration::from_secs(3);
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let silence_max = SILENCE_MIN.max(probation / 2);
        let begun = Instant::now();
        let look = |held: &mut Holdings| {
            if let Some(fault) = held.fault_of(number, "in its probation") {
                return Some(Err(fault));
            }
            let has_old = held.leader.is_some();
            let generation = held.generations.get(&number)?;
            let silent = generation.heard.elapsed();
            if silent > silence_max {
                let seconds = silent.as_secs();
                return Some(Err(format!(
                    "generation {number} hangs: it said nothing for {seconds} s in its probation"
                )));
            }
            let was_heard = generation.heard > begun || probation.is_zero();
            // Where there is nobody to go back to, waiting helps nobody.
            let is_proved = begun.elapsed() >= probation && was_heard;
            (is_proved || !has_old).then_some(Ok(()))
        };
        loop {
            if let Some(proved) = self.until(Instant::now() + LOOK_EVERY, look).await {
                return proved;
            }
        }
    }

    /// Ends a generation that failed.
    async fn put_down(&self, number: u64) {
        if let Some(generation) = self.held.borrow_mut().generations.get_mut(&number) {
            generation.enter(State::Stopping);
            generation.kill();
        }
        let gone = |held: &mut Holdings| (!held.generations.contains_key(&number)).then_some(());
        self.until(Instant::now() + END_MAX, gone).await;
    }

    /// The new one leads, all others drain, and its plan is in force.
    fn commit(&self, number: u64, old: Option<u64>, plan: Plan, entries: Vec<Entry>) -> String {
        let mut held = self.held.borrow_mut();
        let names: Vec<String> = entries.iter().map(|it| it.name.clone()).collect();
        let addresses: Vec<String> = entries
            .iter()
            .map(|it| told_address(&it.descriptor))
            .collect();
        let is_wanted = |it: &Held| {
            if it.name.is_empty() {
                addresses.contains(&it.address)
            } else {
                names.contains(&it.name)
            }
        };
        held.table.commit(entries, &self.notifier);
        held.plan = Some(plan);
        held.leader = Some(number);
        held.lost = None;
        let mut message = String::new();
        if let Some(new) = held.generations.get_mut(&number) {
            new.send(&Order::Lead);
            new.enter(State::Serving);
            let (pid, version) = (new.pid, &new.version);
            message = match old {
                Some(_) => format!("upgraded to {version}: generation {number} serves (pid {pid})"),
                None => format!("weir {version}: generation {number} serves (pid {pid})"),
            };
        }
        for other in held.generations.values_mut() {
            if other.number == number || other.state != State::Serving {
                continue;
            }
            let sockets = other.sockets.iter().enumerate();
            let gone = sockets.filter(|(_, it)| !is_wanted(it)).map(|(at, _)| at);
            let close = gone.collect();
            other.drain(close);
            if old == Some(other.number) {
                message += &format!(
                    ", generation {} drains {} connections",
                    other.number, other.summary.connections
                );
            }
        }
        held.give_dead_to(number);
        drop(held);
        self.changed.notify_waiters();
        message
    }

    /// The leader is gone: tries until another one leads.
    async fn replace(self: &Rc<Self>) {
        let mut attempt = 0_u32;
        loop {
            let pause = {
                let held = self.held.borrow();
                let how = held.lost.as_deref().unwrap_or_default();
                tracing::warn!(how, "no generation leads; starting one");
                pause_after(held.early_ends)
            };
            let stopped = |held: &mut Holdings| held.stop.map(drop);
            if !pause.is_zero() && self.until(Instant::now() + pause, stopped).await.is_some() {
                return;
            }
            // The program that served is the one that this process runs, if it isn't on disk any
            // more. After failures each gets its turn.
            let is_replaced = self.program.stamp() != self.own_stamp;
            let done = if is_replaced && attempt.is_multiple_of(2) {
                self.renew(&self.program.of_this_process()).await
            } else {
                self.renew(&self.program).await
            };
            attempt += 1;
            let mut held = self.held.borrow_mut();
            match done {
                Ok(message) => {
                    tracing::info!(said = message, "replaced");
                    return;
                }
                Err(_) if held.stop.is_some() => return,
                Err(reason) => {
                    tracing::error!(reason, "no generation could be started; trying again");
                    held.early_ends = held.early_ends.saturating_add(1);
                }
            }
        }
    }
}

const STOPS: &str = "weir is stopping";

pub(super) fn refusal(message: String) -> Outcome {
    Outcome {
        ok: false,
        message,
        status: None,
    }
}

/// None at first; then ever longer, while generations end soon after their start.
fn pause_after(early_ends: u32) -> Duration {
    const FREE: u32 = 3;
    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);
    match early_ends.checked_sub(FREE) {
        None => Duration::ZERO,
        Some(more) => FIRST.saturating_mul(1 << more.min(10)).min(MAX),
    }
}

/// All that comes out of a pipe, up to a bound; more is an error.
async fn all_of(pipe: OwnedFd) -> io::Result<Vec<u8>> {
    const BYTES_MAX: u64 = 1 << 20;
    let mut bytes = Vec::new();
    let pipe = pipe::Receiver::from_owned_fd(pipe)?;
    pipe.take(BYTES_MAX + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::other("it says more than a megabyte"));
    }
    Ok(bytes)
}

impl Holdings {
    fn loss(&self) -> String {
        let lost = self
            .lost
            .as_deref()
            .unwrap_or("the generation that served is gone");
        format!("{lost} meanwhile; it is replaced, try again")
    }

    /// Why a new generation won't do; `None` while it may.
    fn fault_of(&self, number: u64, when: &str) -> Option<String> {
        if self.stop.is_some() {
            return Some(STOPS.to_owned());
        }
        match self.generations.get(&number) {
            Some(generation) => {
                let reason = generation
                    .failed
                    .as_ref()
                    .filter(|_| generation.is_closed)?;
                Some(format!("generation {number} can't start: {reason}"))
            }
            None => Some(match self.ended.get(&number) {
                Some(Ended {
                    failed: Some(reason),
                    ..
                }) => format!("generation {number} can't start: {reason}"),
                Some(Ended { how, .. }) => format!("generation {number} {how} {when}"),
                None => format!("generation {number} ended {when}"),
            }),
        }
    }

    /// Too many live: the oldest of those that drain is ended.
    fn end_oldest(&mut self, generations_max: usize) {
        let is_ending = |it: &Generation| it.kill_at.is_some();
        let mut living = self
            .generations
            .values()
            .filter(|it| !is_ending(it))
            .count();
        for generation in self.generations.values_mut() {
            if living <= generations_max {
                return;
            }
            if generation.state == State::Draining && generation.kill_at.is_none() {
                let number = generation.number;
                tracing::warn!(generation = number, generations_max, "too many live: ended");
                generation.end_within(END_MAX);
                living -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ends_cost_no_pause_and_a_loop_costs_at_most_five_seconds() {
        assert_eq!(pause_after(2), Duration::ZERO);
        assert_eq!(pause_after(3), Duration::from_millis(100));
        assert_eq!(pause_after(5), Duration::from_millis(400));
        assert_eq!(pause_after(u32::MAX), Duration::from_secs(5));
    }
}

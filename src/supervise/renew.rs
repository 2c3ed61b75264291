//! A new generation takes over: the program on disk says its plan, is started, proves itself, and leads;
//! the others drain. If any of it fails everything is as it was.

use super::generation::{Generation, Held, State};
use super::job::STOPS;
use super::link::Link;
use super::program::{Program, ending};
use super::protocol::Order;
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
use tokio::time::Instant;

impl Supervisor {
    /// A new generation takes the lead. If it can't, nothing has changed.
    pub(super) async fn renew(self: &Rc<Self>, program: &Program) -> Result<String, String> {
        let old = self.held.borrow().leader;
        let goes_on = |reason: String| {
            let held = self.held.borrow();
            match held.leader {
                Some(leader) if held.stop.is_none() => {
                    format!("{reason}; generation {leader} goes on serving")
                }
                _ => reason,
            }
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
            Ok(number) => {
                let drain = self.commit(number, plan, entries);
                self.hand_lead_to(number, &drain).await;
                Ok(self.taken_over(number, old))
            }
            Err(reason) => {
                self.held.borrow_mut().table.discard(&entries);
                Err(goes_on(reason))
            }
        }
    }

    /// What the program on disk asks for, with the configuration as it is now.
    pub(super) async fn ask_plan(&self, program: &Program) -> Result<Plan, String> {
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
            let ended = self.until(Instant::now() + END_MAX, ended).await;
            if ended.is_none() {
                tracing::warn!(pid, "what was to say the plan doesn't end");
            }
        }
        self.held.borrow_mut().planners.remove(&pid);
        self.changed.notify_waiters();
    }

    /// Starts a generation and tells it what it begins with.
    async fn start(
        self: &Rc<Self>,
        program: &Program,
        plan: &Plan,
        entries: &[Entry],
    ) -> Result<u64, String> {
        let state = self.leaders_state().await;
        let urgent = self.held.borrow().leader.is_none();
        let started = self.spawn(program, plan, entries);
        let generation = started
            .map_err(|error| format!("{} can't be started: {error}", program.path.display()))?;
        let number = generation.number;
        tracing::info!(generation = number, pid = generation.pid, "started");
        self.take_in(generation);
        let mut held = self.held.borrow_mut();
        let totals = held.take_dead(number);
        if let Some(generation) = held.generations.get(&number) {
            generation.send(&Order::Begin {
                state,
                totals,
                urgent,
            });
        }
        held.end_oldest(plan.upgrade.generations_max);
        Ok(number)
    }

    /// What the leader knows now; what it last knew, if it doesn't answer.
    async fn leaders_state(&self) -> Option<serde_json::Value> {
        const LIMIT: Duration = Duration::from_secs(1);
        let Some(leader) = self.held.borrow().leader else {
            return self.held.borrow().lost_state.clone();
        };
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
        if self.held.borrow().stop.is_some() {
            // It may serve already: it stops as all others do.
            return;
        }
        if let Some(generation) = self.held.borrow_mut().generations.get_mut(&number) {
            generation.enter(State::Stopping);
            generation.kill();
        }
        let gone = |held: &mut Holdings| (!held.generations.contains_key(&number)).then_some(());
        self.until(Instant::now() + END_MAX, gone).await;
    }

    /// The new one is the leader, all others drain, and its plan is in force. Answers which ones drain now;
    /// see [`Self::hand_lead_to`].
    fn commit(&self, number: u64, plan: Plan, entries: Vec<Entry>) -> Vec<u64> {
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
        let mut drain = Vec::new();
        for generation in held.generations.values_mut() {
            if generation.number == number {
                generation.enter(State::Serving);
            } else if generation.state == State::Serving {
                let sockets = generation.sockets.iter().enumerate();
                let gone = sockets.filter(|(_, it)| !is_wanted(it)).map(|(at, _)| at);
                let close = gone.collect();
                generation.drain(close);
                drain.push(generation.number);
            }
        }
        held.give_dead_to(number);
        drop(held);
        self.changed.notify_waiters();
        drain
    }

    /// Lets the new one lead when the old ones have said that they don't: two must never turn the same log,
    /// or renew the same certificate. Who says nothing isn't waited for long.
    async fn hand_lead_to(&self, number: u64, drain: &[u64]) {
        const LIMIT: Duration = Duration::from_secs(1);
        let heard = |held: &mut Holdings| {
            let drains = |it: &u64| {
                let generation = held.generations.get(it);
                let report = generation.map(|it| it.report.as_ref());
                report.is_none_or(|report| report.is_some_and(|it| it.drains))
            };
            (held.stop.is_some() || drain.iter().all(drains)).then_some(())
        };
        self.until(Instant::now() + LIMIT, heard).await;
        let held = self.held.borrow();
        if let (None, Some(new)) = (held.stop, held.generations.get(&number)) {
            new.send(&Order::Lead);
        }
    }

    /// Says who serves now.
    fn taken_over(&self, number: u64, old: Option<u64>) -> String {
        let held = self.held.borrow();
        let Some(new) = held.generations.get(&number) else {
            return held.loss();
        };
        let (pid, version) = (new.pid, &new.version);
        let Some(old) = old else {
            return format!("weir {version}: generation {number} serves (pid {pid})");
        };
        let connections = held.generations.get(&old);
        let connections = connections.map_or(0, |it| it.summary.connections);
        format!(
            "upgraded to {version}: generation {number} serves (pid {pid}), generation {old} \
             drains {connections} connections"
        )
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
    /// Why a new generation won't do; `None` while it may.
    fn fault_of(&self, number: u64, when: &str) -> Option<String> {
        if self.stop.is_some() {
            return Some(STOPS.to_owned());
        }
        match self.generations.get(&number) {
            Some(generation) if generation.is_leaving => {
                Some(format!("generation {number} was told to end {when}"))
            }
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
    use super::super::lines::{CONVERSATION_BYTES_MAX, Lines};
    use super::super::notify::Notifier;
    use super::super::protocol::{Report, Told};
    use super::super::settings::Settings;
    use super::*;
    use std::cell::{Cell, RefCell};
    use tokio::sync::Notify;

    /// A supervisor without a program, and the other ends of two generations: one that leads, and one that
    /// has proved itself.
    fn supervisor() -> (Rc<Supervisor>, [UnixStream; 2]) {
        let supervisor = Rc::new(Supervisor {
            program: Program::started_as(None, Vec::new()).unwrap(),
            own_stamp: None,
            notifier: Notifier::from_environment(),
            control: None,
            listener: RefCell::default(),
            orphans_go_on: false,
            held: RefCell::default(),
            changed: Notify::new(),
            clients: Cell::default(),
            is_closed_to_clients: Cell::default(),
        });
        let ends = [(1, State::Serving), (2, State::Probation)].map(|(number, state)| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let link = Rc::new(Link::new(ours, Vec::new(), Vec::new()));
            let mut generation = Generation::new(number, i32::MAX, link);
            generation.is_child = false;
            generation.state = state;
            supervisor.take_in(generation);
            theirs
        });
        supervisor.held.borrow_mut().leader = Some(1);
        (supervisor, ends)
    }

    fn plan() -> Plan {
        Plan {
            version: String::new(),
            config_hash: String::new(),
            sockets: Vec::new(),
            upgrade: Settings {
                ready: Duration::ZERO,
                probation: Duration::ZERO,
                generations_max: 2,
            },
            drain: Duration::from_secs(60),
        }
    }

    async fn next<R: tokio::io::AsyncRead + Unpin>(lines: &mut Lines<R>) -> Order {
        let line = lines.next().await.unwrap().expect("a line");
        serde_json::from_slice(&line).unwrap()
    }

    fn report(drains: bool) -> Told {
        let report = Report {
            drains,
            ..Report::default()
        };
        let report = Box::new(report);
        Told::Report { report }
    }

    #[tokio::test(start_paused = true)]
    async fn the_new_one_leads_when_the_old_one_has_said_that_it_drains() {
        let test = async {
            let (supervisor, [mut old, mut new]) = supervisor();
            let drain = supervisor.commit(2, plan(), Vec::new());
            assert_eq!(drain, [1]);
            let mut to_old = Lines::new(&mut old, CONVERSATION_BYTES_MAX);
            assert!(matches!(next(&mut to_old).await, Order::Drain { .. }));
            // Sent before it heard the order.
            supervisor.hear(1, report(false));
            let own = Rc::clone(&supervisor);
            let begun = Instant::now();
            let lead = tokio::task::spawn_local(async move { own.hand_lead_to(2, &drain).await });
            tokio::task::yield_now().await;
            let waiting = supervisor.held.borrow().generations[&2]
                .link
                .outgoing
                .borrow()
                .len();
            assert_eq!(waiting, 0, "it isn't told to lead yet");
            supervisor.hear(1, report(true));
            lead.await.unwrap();
            assert_eq!(begun.elapsed(), Duration::ZERO, "it waited for the clock");
            let mut to_new = Lines::new(&mut new, CONVERSATION_BYTES_MAX);
            assert_eq!(next(&mut to_new).await, Order::Lead);
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_one_that_says_nothing_keeps_the_new_one_waiting_for_a_second() {
        let test = async {
            let (supervisor, [_old, mut new]) = supervisor();
            let drain = supervisor.commit(2, plan(), Vec::new());
            let begun = Instant::now();
            supervisor.hand_lead_to(2, &drain).await;
            assert_eq!(begun.elapsed().as_secs(), 1);
            let mut to_new = Lines::new(&mut new, CONVERSATION_BYTES_MAX);
            assert_eq!(next(&mut to_new).await, Order::Lead);
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }
}

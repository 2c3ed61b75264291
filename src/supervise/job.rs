//! What the supervisor does one after another: reloads, upgrades, and the replacement of a leader that
//! is gone. How a generation takes over is in [`super::renew`].

use super::program::Program;
use super::protocol::{Last, Order, Outcome, Reloaded};
use super::supervisor::{Holdings, Supervisor};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What is to be done, and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) answers: Vec<oneshot::Sender<Outcome>>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reload,
    Upgrade,
    /// A new generation, because of these keys of the configuration.
    Renew(Vec<String>),
    /// A new generation, because this one, which leads, was told to end.
    Replace(u64),
    /// The leader has reloaded by itself: what came of it is noted; of several, the last.
    Watched(Reloaded),
}

impl Job {
    /// By a signal, or a change of the file.
    pub(super) fn unasked(kind: Kind) -> Self {
        Self {
            kind,
            answers: Vec::new(),
        }
    }

    /// Takes another one into this one, which waits: what this one does will do for both, as it hasn't begun.
    /// Gives it back where it won't.
    fn join(&mut self, other: Self) -> Option<Self> {
        match (&mut self.kind, &other.kind) {
            (Kind::Renew(keys), Kind::Renew(more)) => {
                let new = more.iter().filter(|it| !keys.contains(it));
                let new: Vec<String> = new.cloned().collect();
                keys.extend(new);
            }
            (Kind::Watched(older), Kind::Watched(newer)) => older.clone_from(newer),
            (own, others) if own == others => {}
            _ => return Some(other),
        }
        self.answers.extend(other.answers);
        None
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Reload | Self::Renew(_) | Self::Watched(_) => "reload",
            Self::Upgrade => "upgrade",
            Self::Replace(_) => "replacement",
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

    /// Whoever still waits for something to be done hears that it won't be.
    pub(super) fn answer_at_stop(&self) {
        let jobs: Vec<Job> = self.held.borrow_mut().jobs.drain(..).collect();
        for answer in jobs.into_iter().flat_map(|it| it.answers) {
            let _ = answer.send(Outcome::refused(STOPS));
        }
    }

    async fn one_job(self: &Rc<Self>) {
        let next = self.held.borrow_mut().jobs.pop_front();
        let Some(Job { kind, answers }) = next else {
            return;
        };
        if let Kind::Replace(number) = kind
            && self.held.borrow().leader != Some(number)
        {
            // Another job has done it.
            return;
        }
        // It is over already.
        let is_news = matches!(kind, Kind::Watched(_));
        let brings_what_is_on_disk = !matches!(kind, Kind::Watched(_) | Kind::Replace(_));
        if !is_news {
            self.notifier.reloading();
            self.mend_control();
        }
        let done = match &kind {
            Kind::Reload => self.reload().await,
            Kind::Upgrade => self.renew(&self.program).await,
            Kind::Renew(keys) => self.renew_for(keys).await,
            Kind::Replace(number) => self.renew_instead_of(*number).await,
            Kind::Watched(outcome) => self.reloaded(outcome).await,
        };
        if !is_news {
            self.tell_ready();
        }
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
                ..Outcome::done(message.clone())
            });
        }
        if ok && brings_what_is_on_disk {
            self.succeed_if_replaced().await;
        }
    }

    /// The configuration on disk is made live; by a new generation where the program was replaced.
    async fn reload(self: &Rc<Self>) -> Result<String, String> {
        const LIMIT: Duration = Duration::from_secs(60);
        let on_disk = self.program.stamp();
        let leader = {
            let mut held = self.held.borrow_mut();
            // Only a new generation can have a new socket.
            let lost = held.table.has_lost_a_file();
            let leader = held.leader.and_then(|it| held.generations.get_mut(&it));
            let leader = leader.ok_or("no generation serves now")?;
            if on_disk.is_some() && leader.stamp != on_disk || lost {
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
        self.reloaded(&outcome).await
    }

    /// What the leader said of a reload.
    async fn reloaded(self: &Rc<Self>, outcome: &Reloaded) -> Result<String, String> {
        match outcome {
            Reloaded::Applied { config_hash } => {
                self.learn_plan().await;
                let held = self.held.borrow();
                let serves = match held.leader {
                    Some(leader) => format!("generation {leader} serves {config_hash}"),
                    None => held.loss(),
                };
                Ok(format!("configuration reloaded: {serves}"))
            }
            Reloaded::Refused { reason } => Err(format!(
                "configuration refused; the old configuration goes on serving: {reason}"
            )),
            Reloaded::NeedsGeneration { keys } => self.renew_for(keys).await,
        }
    }

    async fn renew_for(self: &Rc<Self>, keys: &[String]) -> Result<String, String> {
        let keys = keys.join(", ");
        let done = self.renew(&self.program).await?;
        Ok(format!("{done}; a new generation was needed for: {keys}"))
    }

    /// The leader was told to end, alone. It serves until another one does.
    async fn renew_instead_of(self: &Rc<Self>, number: u64) -> Result<String, String> {
        let why = format!("generation {number} was told to end");
        let mut done = self.renew(&self.programs().0).await;
        if let (Err(reason), Some(other)) = (&done, self.programs().1)
            && self.held.borrow().leader == Some(number)
            && self.held.borrow().stop.is_none()
        {
            tracing::error!(reason, "it can't be replaced; trying the program on disk");
            done = self.renew(&other).await;
        }
        done.map(|done| format!("{why}: {done}"))
            .map_err(|reason| format!("{why}, and can't be replaced: {reason}"))
    }

    /// What a successor is made of that nobody has asked for: the program that served is the one that
    /// this process runs, if it isn't on disk any more; and what may serve where that one doesn't.
    fn programs(&self) -> (Program, Option<Program>) {
        if self.program.stamp() == self.own_stamp {
            return (self.program.clone(), None);
        }
        (self.program.of_this_process(), Some(self.program.clone()))
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
            // After failures each gets its turn.
            let program = match self.programs() {
                (_, Some(other)) if !attempt.is_multiple_of(2) => other,
                (first, _) => first,
            };
            let done = self.renew(&program).await;
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

pub(super) const STOPS: &str = "weir is stopping";

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

impl Holdings {
    /// Puts a job at the end of the queue, or to one that waits and does the same.
    pub(super) fn queue(&mut self, job: Job) {
        self.queue_at(job, VecDeque::push_back);
    }

    /// As [`Self::queue`], but before all others.
    pub(super) fn queue_first(&mut self, job: Job) {
        self.queue_at(job, VecDeque::push_front);
    }

    fn queue_at(&mut self, job: Job, put: impl FnOnce(&mut VecDeque<Job>, Job)) {
        let mut job = Some(job);
        for waiting in &mut self.jobs {
            job = job.and_then(|job| waiting.join(job));
        }
        if let Some(job) = job {
            put(&mut self.jobs, job);
        }
    }

    /// Why what was asked of the leader can't be done: it is gone.
    pub(super) fn loss(&self) -> String {
        let lost = self
            .lost
            .as_deref()
            .unwrap_or("the generation that served is gone");
        format!("{lost} meanwhile; it is replaced, try again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(held: &Holdings) -> Vec<Kind> {
        held.jobs.iter().map(|it| it.kind.clone()).collect()
    }

    #[test]
    fn signals_in_turns_make_one_job_of_each_kind() {
        let mut held = Holdings::default();
        for _ in 0..30 {
            held.queue(Job::unasked(Kind::Reload));
            held.queue(Job::unasked(Kind::Upgrade));
        }
        assert_eq!(waiting(&held), [Kind::Reload, Kind::Upgrade]);
        // One that began doesn't count: what was changed since is for the next.
        held.jobs.pop_front();
        held.queue(Job::unasked(Kind::Reload));
        assert_eq!(waiting(&held), [Kind::Upgrade, Kind::Reload]);
    }

    #[tokio::test]
    async fn who_asks_for_what_waits_already_gets_the_same_outcome() {
        let mut held = Holdings::default();
        held.queue(Job::unasked(Kind::Reload));
        let outcomes = [Kind::Upgrade, Kind::Reload, Kind::Upgrade].map(|kind| {
            let (answer, outcome) = oneshot::channel();
            let answers = vec![answer];
            held.queue(Job { kind, answers });
            outcome
        });
        assert_eq!(waiting(&held), [Kind::Reload, Kind::Upgrade]);
        let mut said = Vec::new();
        for (number, job) in held.jobs.drain(..).enumerate() {
            for answer in job.answers {
                answer.send(Outcome::refused(number.to_string())).unwrap();
            }
        }
        for outcome in outcomes {
            said.push(outcome.await.unwrap().message);
        }
        assert_eq!(said, ["1", "0", "1"]);
    }

    #[test]
    fn what_a_generation_wants_is_put_together() {
        let renew = |key: &str| Kind::Renew(vec![key.to_owned()]);
        let applied = |hash: &str| {
            Kind::Watched(Reloaded::Applied {
                config_hash: hash.to_owned(),
            })
        };
        let mut held = Holdings::default();
        for kind in [
            renew("listen"),
            applied("one"),
            renew("dns"),
            applied("two"),
            renew("dns"),
        ] {
            held.queue(Job::unasked(kind));
        }
        held.queue_first(Job::unasked(Kind::Replace(1)));
        let both = Kind::Renew(vec!["listen".to_owned(), "dns".to_owned()]);
        assert_eq!(waiting(&held), [Kind::Replace(1), both, applied("two")]);
    }

    #[test]
    fn the_first_ends_cost_no_pause_and_a_loop_costs_at_most_five_seconds() {
        assert_eq!(pause_after(2), Duration::ZERO);
        assert_eq!(pause_after(3), Duration::from_millis(100));
        assert_eq!(pause_after(5), Duration::from_millis(400));
        assert_eq!(pause_after(u32::MAX), Duration::from_secs(5));
    }
}

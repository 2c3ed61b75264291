//! What the supervisor does one after another: reloads, upgrades, and the replacement of a leader that
//! is gone. How a generation takes over is in [`super::renew`].

use super::protocol::{Last, Order, Outcome, Reloaded};
use super::supervisor::{Holdings, Supervisor};
use std::rc::Rc;
use std::time::Duration;
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
                let _ = answer.send(Outcome::refused(STOPS));
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
            while held.jobs.front().is_some_and(|it| it.kind == first.kind) {
                answers.extend(held.jobs.pop_front().and_then(|next| next.answer));
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
                ..Outcome::done(message.clone())
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

    #[test]
    fn the_first_ends_cost_no_pause_and_a_loop_costs_at_most_five_seconds() {
        assert_eq!(pause_after(2), Duration::ZERO);
        assert_eq!(pause_after(3), Duration::from_millis(100));
        assert_eq!(pause_after(5), Duration::from_millis(400));
        assert_eq!(pause_after(u32::MAX), Duration::from_secs(5));
    }
}

//! The course of a request's tries: what is tried next, and what became of what was tried. Pure; walked
//! by `connect`.

use crate::observe::access::FailedTry;
use crate::upstream::retry::{Budget, Failure, Fault, Nature, Policy, pause};
use crate::upstream::{Choice, Upstreams};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The way through a route's candidates, and then through those of its fallbacks.
#[derive(Debug, Default)]
pub struct Course {
    legs: Vec<Leg>,
    /// Which leg it is at.
    leg: usize,
    /// Tries so far.
    tries: u32,
    /// The next try is the last one once more, which then was none.
    again: bool,
    /// The same endpoints are tried anew after this.
    pause: Option<Duration>,
    /// What became of the tries that failed.
    story: Vec<FailedTry>,
}

/// One route's candidates.
#[derive(Debug)]
pub struct Leg {
    /// Best first; those before `next` were tried in this round.
    choices: Vec<Choice>,
    next: usize,
    rounds: u32,
    /// The tries that it may still have.
    left: u32,
    policy: Policy,
    budget: Arc<Budget>,
    /// The route's name, where it is another than the one that was asked for.
    pub fallback: Option<Arc<str>>,
}

/// Another try would be right, and can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMore {
    /// It went wrong in a way that no other try is made after.
    Final,
    /// All tries are made.
    Spent,
    /// There were too many retries lately.
    OverBudget,
}

// === impl Leg ===

impl Leg {
    /// A leg over these choices; `fallback` names the route, where it isn't the one that was asked for.
    pub fn new(
        choices: Vec<Choice>,
        policy: Policy,
        budget: &Arc<Budget>,
        fallback: Option<Arc<str>>,
    ) -> Self {
        Self {
            left: policy.retries.saturating_add(1),
            choices,
            next: 0,
            rounds: 0,
            policy,
            budget: Arc::clone(budget),
            fallback,
        }
    }

    fn untried(&self) -> &[Choice] {
        match self.left {
            0 => &[],
            _ => &self.choices[self.next..],
        }
    }
}

// === impl Course ===

impl Course {
    /// Begins a course.
    pub fn new(legs: Vec<Leg>) -> Self {
        Self {
            legs,
            ..Self::default()
        }
    }

    /// All candidates, of the fallbacks too.
    pub fn candidates(&self) -> impl Iterator<Item = &Choice> {
        self.legs.iter().flat_map(|leg| &leg.choices)
    }

    /// Tries so far.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// What became of the tries that failed.
    pub fn story(&self) -> &[FailedTry] {
        &self.story
    }

    /// The route whose candidates are tried, where it is another than the one that was asked for.
    pub fn fallback(&self) -> Option<&Arc<str>> {
        self.legs.get(self.leg)?.fallback.as_ref()
    }

    /// True once, where the last try is to be made once more.
    pub fn takes_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }

    /// The pause before the next try, once.
    pub fn takes_pause(&mut self) -> Option<Duration> {
        self.pause.take()
    }

    /// What may be tried now, best first; empty at the end.
    pub fn untried(&self) -> &[Choice] {
        self.legs.get(self.leg).map_or(&[], Leg::untried)
    }

    /// The choice at this place of [`Self::untried`] is tried now.
    ///
    /// # Panics
    /// Where there is no such place.
    pub fn tries_at(&mut self, place: usize) -> Choice {
        let leg = &mut self.legs[self.leg];
        let next = leg.next;
        leg.choices[next..=next + place].rotate_right(1);
        leg.next += 1;
        leg.left -= 1;
        self.tries += 1;
        leg.choices[next].clone()
    }

    /// The try that was just made is made once more: nobody was asked, or the answer was weir's doing.
    pub fn again(&mut self) {
        self.again = true;
    }

    /// A try is made beside the last one, at the next candidate of its leg, or at the same once more
    /// where there is no other. It is none of those that may follow a fault.
    pub fn doubles(&mut self) {
        if let Some(leg) = self.legs.get_mut(self.leg) {
            leg.left = leg.left.saturating_add(1);
            if leg.next == leg.choices.len() {
                leg.next = leg.next.saturating_sub(1);
            }
        }
    }

    /// The next try is made for other requests too, of which one has chosen its candidate.
    pub fn shares(&mut self) {
        self.tries += 1;
        if let Some(leg) = self.legs.get_mut(self.leg) {
            leg.left = leg.left.saturating_sub(1);
        }
    }

    /// The last try was made for other requests too, and brought nothing for which its endpoint or this
    /// request is to blame: it may be made once more. `chose` tells whether this one had chosen its
    /// candidate.
    pub fn undoes(&mut self, chose: bool) {
        if let Some(leg) = self.legs.get_mut(self.leg) {
            leg.left = leg.left.saturating_add(1);
            leg.next -= usize::from(chose && leg.next > 0);
        }
    }

    /// No candidate of this leg can be tried: the next one is. `false` where there is none.
    pub fn turns_to_fallback(&mut self) -> bool {
        self.leg = (self.leg + 1).min(self.legs.len());
        self.leg < self.legs.len()
    }

    /// Notes what became of the last try.
    pub fn tells(&mut self, told: FailedTry) {
        /// A course has no more tries than this that anybody would read.
        const STORY_MAX: usize = 64;
        if self.story.len() < STORY_MAX {
            self.story.push(told);
        }
    }

    /// Whether a fault of the last try is followed by another one, which is then next.
    ///
    /// # Errors
    /// Why not.
    pub fn goes_on(
        &mut self,
        failure: Failure,
        nature: Nature,
        upstreams: &Upstreams,
        now: Instant,
    ) -> Result<(), NoMore> {
        let fault = failure.fault;
        let Some(leg) = self.legs.get_mut(self.leg) else {
            return Err(NoMore::Spent);
        };
        if !leg.policy.follows(fault, nature) {
            return Err(NoMore::Final);
        }
        let provider = |choice: &Choice| upstreams.endpoint(choice.endpoint).provider;
        let last = leg.next.checked_sub(1);
        let last = last.and_then(|last| leg.choices.get(last)).map(provider);
        if fault == Fault::Account {
            // All endpoints of a provider know the same account.
            let untried = leg.choices.split_off(leg.next);
            let others = untried.into_iter().filter(|it| Some(provider(it)) != last);
            leg.choices.extend(others);
        }
        let here = upstreams.any_open(leg.untried(), now);
        let later = || {
            let mut others = self.legs[self.leg + 1..].iter();
            others.position(|leg| upstreams.any_open(&leg.choices, now))
        };
        let (mut to, mut pausing) = (self.leg, None);
        if !here {
            let leg = &self.legs[self.leg];
            pausing = (failure.may_pass() && leg.left > 0 && upstreams.any_open(&leg.choices, now))
                .then(|| pause(leg.rounds, failure.retry_after, rand::random()))
                .flatten();
            if pausing.is_none() {
                to += 1 + later().ok_or(NoMore::Spent)?;
            }
        }
        // What never reached an upstream is no load to it, and neither is an account's refusal; another
        // provider has no load of the first one's.
        let next = match (to == self.leg, pausing) {
            (true, None) => self.legs[to].untried(),
            _ => &self.legs[to].choices,
        };
        let next = upstreams.first_open(next, now).map(provider);
        let is_load = next == last && !matches!(fault, Fault::Connect | Fault::Account);
        if is_load && !self.legs[self.leg].budget.take(now) {
            return Err(NoMore::OverBudget);
        }
        self.leg = to;
        if pausing.is_some() {
            let leg = &mut self.legs[to];
            leg.next = 0;
            leg.rounds += 1;
        }
        self.pause = pausing;
        Ok(())
    }
}

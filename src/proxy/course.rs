//! The course of a request's tries: what is tried next, and what became of what was tried. Pure; walked
//! by `connect`.

use crate::observe::access::FailedTry;
use crate::route::RouteIndex;
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
    /// Best first, once it is known who that is; those before `next` were tried in this round.
    choices: Vec<Choice>,
    /// The route whose turns are still to be taken.
    untaken: Option<RouteIndex>,
    next: usize,
    rounds: u32,
    /// The tries that it may still have.
    left: u32,
    policy: Policy,
    budget: Arc<Budget>,
    /// What can't be said in a provider's dialect is dropped.
    lenient: bool,
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
    /// A leg over these choices, best first; `fallback` names the route, where it isn't the one that was asked
    /// for.
    pub fn new(
        choices: Vec<Choice>,
        policy: Policy,
        budget: &Arc<Budget>,
        fallback: Option<Arc<str>>,
    ) -> Self {
        Self {
            left: policy.retries.saturating_add(1),
            choices,
            untaken: None,
            next: 0,
            rounds: 0,
            policy,
            budget: Arc::clone(budget),
            lenient: false,
            fallback,
        }
    }

    /// The same where what can't be said in a provider's dialect is dropped.
    pub fn lenient(self, lenient: bool) -> Self {
        Self { lenient, ..self }
    }

    /// The same for a fallback to `route`, whose turns are taken when the course comes to it: most requests
    /// never do.
    pub fn later(self, route: RouteIndex) -> Self {
        Self {
            untaken: Some(route),
            ..self
        }
    }

    /// Brings all that were tried into the order of another round: who is paused, or said when to come back,
    /// is asked after the others. After which time the first may be asked; `retry_after` is what the last one
    /// said.
    fn begins_anew(
        &mut self,
        retry_after: Option<Duration>,
        upstreams: &Upstreams,
        now: Instant,
    ) -> Option<Duration> {
        let rests = |it: &Choice| {
            let endpoint = upstreams.endpoint(it.endpoint);
            endpoint.wait(now).max(endpoint.rests(now))
        };
        let last = self.choices[..self.next].last().map(|it| it.endpoint);
        let said = |it: &Choice| match Some(it.endpoint) == last {
            true => rests(it).max(retry_after),
            false => rests(it),
        };
        self.choices.sort_by_cached_key(said);
        self.choices.first().and_then(said)
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

    /// The routes that it may fall back to.
    pub fn fallbacks(&self) -> impl Iterator<Item = &Arc<str>> {
        self.legs.iter().filter_map(|leg| leg.fallback.as_ref())
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

    /// What can't be said in the provider's dialect is dropped, where it is now.
    pub fn is_lenient(&self) -> bool {
        self.legs.get(self.leg).is_some_and(|leg| leg.lenient)
    }

    /// True once, where the last try is to be made once more.
    pub fn takes_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }

    /// The pause before the next try, once.
    pub fn takes_pause(&mut self) -> Option<Duration> {
        self.pause.take()
    }

    /// Once for a fallback that the course has come to: whose turns are to be taken. [`Self::takes_turns`]
    /// is told.
    pub fn untaken(&mut self) -> Option<RouteIndex> {
        self.legs.get_mut(self.leg)?.untaken.take()
    }

    /// The candidates where it is now come in this order.
    pub fn takes_turns(&mut self, order: &[Choice]) {
        let Some(leg) = self.legs.get_mut(self.leg) else {
            return;
        };
        // A choice that names no model has the route's name by now.
        let is = |it: &Choice, other: &Choice| {
            it.endpoint == other.endpoint && (other.model.is_none() || it.model == other.model)
        };
        let place = |it: &Choice| order.iter().position(|other| is(it, other));
        leg.choices.sort_by_key(place);
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

    /// What may be tried beside the last try: the other candidates of its leg, or the same once more where
    /// there is no other.
    pub fn beside(&self) -> &[Choice] {
        self.legs.get(self.leg).map_or(&[], |leg| {
            let last = leg.choices.len().saturating_sub(1);
            &leg.choices[leg.next.min(last)..]
        })
    }

    /// The choice at this place of [`Self::beside`] is tried now. That is none of the tries that may follow
    /// a fault.
    ///
    /// # Panics
    /// Where there is no such place.
    pub fn tries_beside(&mut self, place: usize) -> Choice {
        let leg = &mut self.legs[self.leg];
        leg.next = leg.next.min(leg.choices.len() - 1);
        leg.left += 1;
        self.tries_at(place)
    }

    /// The next try is made for other requests too, of which one has chosen its candidate.
    pub fn shares(&mut self) {
        self.tries += 1;
        if let Some(leg) = self.legs.get_mut(self.leg) {
            leg.left = leg.left.saturating_sub(1);
        }
    }

    /// The try that it shares was made at this choice, which another request has chosen: what follows goes
    /// on from there.
    pub fn shared_at(&mut self, choice: &Choice) {
        let legs = self.legs.iter_mut().enumerate().skip(self.leg);
        for (number, leg) in legs {
            let next = leg.next;
            if let Some(place) = leg.choices[next..].iter().position(|it| it == choice) {
                leg.choices[next..=next + place].rotate_right(1);
                leg.next += 1;
                leg.untaken = None;
                if number != self.leg {
                    leg.left = leg.left.saturating_sub(1);
                    self.leg = number;
                }
                return;
            }
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
        let (mut to, mut pausing) = (self.leg, None);
        if !here {
            let leg = &mut self.legs[self.leg];
            if failure.may_pass() && leg.left > 0 && upstreams.any_open(&leg.choices, now) {
                let after = leg.begins_anew(failure.retry_after, upstreams, now);
                pausing = pause(leg.rounds, after, rand::random());
            }
            if pausing.is_none() {
                let mut others = self.legs[self.leg + 1..].iter();
                let later = others.position(|leg| upstreams.any_open(&leg.choices, now));
                to += 1 + later.ok_or(NoMore::Spent)?;
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

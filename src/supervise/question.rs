//! What a client of the control socket asks and only generations know, such as their DNS cache: the
//! question goes to them, their answers go back. The supervisor looks into neither.

use super::generation::State;
use super::protocol::{Order, Outcome};
use super::supervisor::Supervisor;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Questions under way, by their numbers, each with its answer when it has come.
#[derive(Debug, Default)]
pub(super) struct Asked {
    last: u64,
    answers: BTreeMap<u64, Option<Value>>,
}

impl Asked {
    fn begin(&mut self) -> u64 {
        self.last += 1;
        self.answers.insert(self.last, None);
        self.last
    }

    /// An answer; one that nobody waits for any more is dropped.
    pub(super) fn take_in(&mut self, id: u64, answer: Value) {
        if let Some(place) = self.answers.get_mut(&id) {
            *place = Some(answer);
        }
    }
}

impl Supervisor {
    /// Asks the generation that leads, or all with that one first, and waits for the answers.
    pub(super) async fn ask(&self, question: &Value, everyone: bool) -> Outcome {
        const LIMIT: Duration = Duration::from_secs(5);
        let asked = self.put(question, everyone);
        if asked.is_empty() {
            return Outcome::refused("no generation serves now; try again");
        }
        let limit = Instant::now() + LIMIT;
        self.until(limit, |held| {
            let over = asked.iter().all(|(number, id)| {
                let gone = !held.generations.contains_key(number);
                gone || held.asked.answers.get(id).is_none_or(Option::is_some)
            });
            over.then_some(())
        })
        .await;
        let mut held = self.held.borrow_mut();
        let mut outcome = Outcome::done("");
        for (number, id) in asked {
            match held.asked.answers.remove(&id).flatten() {
                Some(answer) => outcome.answers.push(answer),
                // One that drains may end meanwhile; what it knew went with it.
                None if !held.generations.contains_key(&number) && held.leader != Some(number) => {}
                None => {
                    outcome.ok = false;
                    outcome.message = format!("generation {number} doesn't answer");
                }
            }
        }
        outcome
    }

    /// The generations that were asked, with the question's number for each.
    fn put(&self, question: &Value, everyone: bool) -> Vec<(u64, u64)> {
        let held = &mut *self.held.borrow_mut();
        let mut asked = Vec::new();
        for generation in held.generations.values() {
            let leads = held.leader == Some(generation.number);
            let lives = generation.is_ready || generation.state == State::Draining;
            if !(leads || everyone && lives) {
                continue;
            }
            let id = held.asked.begin();
            generation.send(&Order::Question {
                id,
                question: question.clone(),
            });
            let place = if leads { 0 } else { asked.len() };
            asked.insert(place, (generation.number, id));
        }
        asked
    }
}

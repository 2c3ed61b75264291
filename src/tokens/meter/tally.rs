//! The tokens of what was delivered, counted as late as possible.
//!
//! Text waits as it came, escaped, in one small buffer; most streams end with a report of the
//! upstream and then it is dropped uncounted. One counter per choice and field, since tokens do
//! not join across fields.

use crate::dialect::answer::Field;
use crate::dialect::json::Unescape;
use crate::tokens::count::{Encoding, Running};

/// Counters of one answer; texts of further fields join the last one.
const COUNTERS_MAX: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Tally {
    counters: Vec<Counter>,
    /// Escaped text that waits, and whose it is, in order.
    waiting: Vec<u8>,
    runs: Vec<Run>,
    waiting_bytes_max: usize,
    /// The counter that was asked for last: mostly the next one too.
    last: usize,
}

#[derive(Debug)]
struct Counter {
    choice: u32,
    field: Field,
    unescape: Unescape,
    running: Option<Running>,
}

#[derive(Debug)]
struct Run {
    counter: usize,
    len: usize,
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(waiting_bytes_max: usize) -> Tally {
        Tally {
            counters: Vec::new(),
            waiting: Vec::new(),
            runs: Vec::new(),
            waiting_bytes_max,
            last: 0,
        }
    }

    /// Takes a piece of the inside of a JSON string.
    pub(super) fn add(
        &mut self,
        choice: u32,
        field: Field,
        raw: &[u8],
        encoding: impl FnOnce() -> Encoding,
    ) {
        let counter = self.counter(choice, field);
        let full = self.waiting.len() + raw.len() > self.waiting_bytes_max;
        if full || self.runs.len() == RUNS_MAX {
            let encoding = encoding();
            self.count_waiting(encoding);
            if raw.len() > self.waiting_bytes_max {
                self.counters[counter].take(raw, encoding, &mut String::new());
                return;
            }
        }
        self.waiting.extend_from_slice(raw);
        match self.runs.last_mut() {
            Some(run) if run.counter == counter => run.len += raw.len(),
            _ => self.runs.push(Run {
                counter,
                len: raw.len(),
            }),
        }
    }

    /// The tokens of everything that was added, as if no text followed.
    pub(super) fn total(&mut self, encoding: Encoding) -> u64 {
        self.count_waiting(encoding);
        let totals: Vec<_> = self
            .counters
            .iter_mut()
            .map(|counter| (counter.choice, counter.field, counter.total(encoding)))
            .collect();
        let twin_of = |choice, field| {
            let twin = match field {
                Field::Reasoning => Field::ReasoningTwin,
                Field::ReasoningTwin => Field::Reasoning,
                _ => return 0,
            };
            let found = totals
                .iter()
                .find(|total| (total.0, total.1) == (choice, twin));
            found.map_or(0, |total| total.2)
        };
        // The same reasoning under two names is one: the longer counts, the first of equals.
        let counts = |&(choice, field, tokens): &(u32, Field, u64)| {
            let twin = twin_of(choice, field);
            tokens > twin || (tokens == twin && field != Field::ReasoningTwin)
        };
        totals
            .iter()
            .filter(|total| counts(total))
            .map(|total| total.2)
            .sum()
    }

    /// The room that waiting text takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.waiting.capacity() + self.runs.capacity() * size_of::<Run>()
    }

    fn counter(&mut self, choice: u32, field: Field) -> usize {
        let wanted = |counter: &Counter| counter.choice == choice && counter.field == field;
        if !self.counters.get(self.last).is_some_and(wanted) {
            self.last = match self.counters.iter().position(wanted) {
                Some(found) => found,
                None if self.counters.len() == COUNTERS_MAX => COUNTERS_MAX - 1,
                None => {
                    let unescape = Unescape::default();
                    self.counters.push(Counter {
                        choice,
                        field,
                        unescape,
                        running: None,
                    });
                    self.counters.len() - 1
                }
            };
        }
        self.last
    }

    fn count_waiting(&mut self, encoding: Encoding) {
        let (mut text, mut at) = (String::with_capacity(self.waiting.len()), 0);
        for run in self.runs.drain(..) {
            let raw = &self.waiting[at..at + run.len];
            self.counters[run.counter].take(raw, encoding, &mut text);
            at += run.len;
        }
        self.waiting.clear();
    }
}

/// Runs that may wait; only streams that alternate between choices have many.
const RUNS_MAX: usize = 32;

// === impl Counter ===

impl Counter {
    fn take(&mut self, raw: &[u8], encoding: Encoding, text: &mut String) {
        text.clear();
        self.unescape.push(raw, text);
        self.running(encoding).push(text);
    }

    fn total(&mut self, encoding: Encoding) -> u64 {
        let mut text = String::new();
        self.unescape.end(&mut text);
        let running = self.running(encoding);
        running.push(&text);
        running.total()
    }

    fn running(&mut self, encoding: Encoding) -> &mut Running {
        self.running.get_or_insert_with(|| Running::new(encoding))
    }
}

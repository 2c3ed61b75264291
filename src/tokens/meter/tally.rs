//! The text that was delivered, to be counted as late as possible and elsewhere.
//!
//! While an answer passes its text is only copied, escaped as it came; most answers end with a report
//! of the upstream, and then it is dropped uncounted. What of a long answer doesn't fit is handed out as
//! an [`Overdue`], for a thread that serves nobody to count. One counter per choice and field, since
//! tokens do not join across fields.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::dialect::answer::Field;
use crate::dialect::json::Unescape;
use crate::tokens::count::{Encoding, Running, family};
use crate::tokens::estimate::linear::estimate;

/// Counters of one answer; texts of further fields join the last one.
const COUNTERS_MAX: usize = 256;
/// Pieces that may wait; only streams that alternate between choices have many.
const RUNS_MAX: usize = 1024;
/// What waits is never more, whether somebody takes it or not: it is estimated then. Twice the longest
/// event, so that only a compressed answer can come to it.
const HOARD_BYTES_MAX: usize = 2 * super::EVENT_BYTES_MAX;
const HOARD_RUNS_MAX: usize = HOARD_BYTES_MAX / size_of::<Run>();

/// See the module.
#[derive(Debug)]
pub(super) struct Tally {
    names: Vec<Name>,
    /// Escaped text that waits, and whose it is, in order.
    waiting: Vec<u8>,
    runs: Vec<Run>,
    waiting_bytes_max: usize,
    /// The counter that was asked for last: mostly the next one too.
    last: usize,
    /// What was handed out; `None` as long as nothing was.
    counts: Option<Arc<Counts>>,
}

/// Text of a long answer that waits to be counted. Parts of one answer are counted in the order in
/// which they were handed out, and before the answer is settled.
#[derive(Debug)]
pub struct Overdue {
    model: Arc<str>,
    names: Box<[Name]>,
    waiting: Vec<u8>,
    runs: Vec<Run>,
    counts: Arc<Counts>,
}

/// Whose a text is.
type Name = (u32, Field);

#[derive(Debug, Clone, Copy)]
struct Run {
    counter: u32,
    len: u32,
}

/// What was counted of an answer; shared with those who count.
#[derive(Debug, Default)]
struct Counts {
    counters: Mutex<Vec<Counter>>,
    /// Tokens of text that found no time to be counted.
    guessed: AtomicU64,
    /// Bytes of text that the counters keep: what they can't count before they have seen its end.
    kept_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Counter {
    unescape: Unescape,
    running: Option<Running>,
}

// === impl Tally ===

impl Tally {
    /// More than `waiting_bytes_max` bytes of text are [overdue](Tally::overdue).
    pub(super) fn new(waiting_bytes_max: usize) -> Tally {
        Tally {
            names: Vec::new(),
            waiting: Vec::new(),
            runs: Vec::new(),
            waiting_bytes_max,
            last: 0,
            counts: None,
        }
    }

    /// Takes a piece of the inside of a JSON string.
    pub(super) fn add(&mut self, choice: u32, field: Field, raw: &[u8]) {
        let counter = self.counter((choice, field)) as u32;
        let full = self.waiting.len() + raw.len() > HOARD_BYTES_MAX;
        if full || self.runs.len() == HOARD_RUNS_MAX {
            self.guess(counter, raw);
            return;
        }
        self.waiting.extend_from_slice(raw);
        let len = raw.len() as u32;
        match self.runs.last_mut() {
            Some(run) if run.counter == counter => run.len += len,
            _ => self.runs.push(Run { counter, len }),
        }
    }

    /// What waits, once it is too much to be kept here.
    pub(super) fn overdue(&mut self, model: &Arc<str>) -> Option<Overdue> {
        if self.waiting.len() <= self.waiting_bytes_max && self.runs.len() <= RUNS_MAX {
            return None;
        }
        let room = Vec::with_capacity(self.waiting_bytes_max.next_power_of_two());
        Some(Overdue {
            model: Arc::clone(model),
            names: self.names.as_slice().into(),
            waiting: std::mem::replace(&mut self.waiting, room),
            runs: std::mem::take(&mut self.runs),
            counts: Arc::clone(self.counts.get_or_insert_default()),
        })
    }

    /// The tokens of everything that was added, as if no text followed.
    pub(super) fn total(&mut self, encoding: Encoding) -> u64 {
        let counts = self.counts.get_or_insert_default();
        counts.take(&self.names, &self.waiting, &self.runs, encoding);
        self.waiting.clear();
        self.runs.clear();
        counts.total(&self.names, encoding)
    }

    /// Estimates what waits.
    pub(super) fn let_go(&mut self) {
        if !self.waiting.is_empty() {
            let counts = self.counts.get_or_insert_default();
            counts.guess(&self.names, &self.waiting, &self.runs);
        }
        (self.waiting, self.runs) = (Vec::new(), Vec::new());
    }

    /// Some of it found no time to be counted: the total is only about right.
    pub(super) fn is_guessed(&self) -> bool {
        let guessed = |counts: &Arc<Counts>| counts.guessed.load(Ordering::Relaxed) > 0;
        self.counts.as_ref().is_some_and(guessed)
    }

    /// The room that text takes.
    pub(super) fn bytes(&self) -> usize {
        let kept = |counts: &Arc<Counts>| counts.kept_bytes.load(Ordering::Relaxed);
        let kept = self.counts.as_ref().map_or(0, kept);
        self.waiting.capacity() + self.runs.capacity() * size_of::<Run>() + kept
    }

    fn counter(&mut self, name: Name) -> usize {
        if self.names.get(self.last) != Some(&name) {
            self.last = match self.names.iter().position(|known| *known == name) {
                Some(found) => found,
                None if self.names.len() == COUNTERS_MAX => COUNTERS_MAX - 1,
                None => {
                    self.names.push(name);
                    self.names.len() - 1
                }
            };
        }
        self.last
    }

    #[cold]
    fn guess(&mut self, counter: u32, raw: &[u8]) {
        let counts = self.counts.get_or_insert_default();
        let len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        counts.guess(&self.names, raw, &[Run { counter, len }]);
    }
}

// === impl Overdue ===

impl Overdue {
    /// The room that it takes.
    pub fn bytes(&self) -> usize {
        self.waiting.capacity() + self.runs.capacity() * size_of::<Run>()
    }

    /// Counts it, which takes as long as its text is; the first count of all waits for the vocabulary.
    pub fn count(self) {
        let encoding = family(&self.model).encoding;
        (self.counts).take(&self.names, &self.waiting, &self.runs, encoding);
    }

    /// Makes do with an estimate, at the speed of memory.
    pub fn guess(self) {
        (self.counts).guess(&self.names, &self.waiting, &self.runs);
    }
}

// === impl Counts ===

impl Counts {
    fn take(&self, names: &[Name], waiting: &[u8], runs: &[Run], encoding: Encoding) {
        let mut counters = self.counters.lock();
        if counters.len() < names.len() {
            counters.resize_with(names.len(), Counter::default);
        }
        let (mut text, mut rest) = (String::new(), waiting);
        for run in runs {
            let (raw, after) = rest.split_at(run.len as usize);
            counters[run.counter as usize].take(raw, encoding, &mut text);
            rest = after;
        }
        let kept = counters
            .iter()
            .filter_map(|counter| counter.running.as_ref());
        let kept = kept.map(Running::bytes).sum();
        self.kept_bytes.store(kept, Ordering::Relaxed);
    }

    fn guess(&self, names: &[Name], waiting: &[u8], runs: &[Run]) {
        let (mut tokens, mut rest) = (0, waiting);
        for run in runs {
            let (raw, after) = rest.split_at(run.len as usize);
            rest = after;
            let name = names[run.counter as usize];
            if name.1 != Field::ReasoningTwin || !names.contains(&twin(name)) {
                tokens += estimate(raw);
            }
        }
        self.guessed.fetch_add(tokens, Ordering::Relaxed);
    }

    fn total(&self, names: &[Name], encoding: Encoding) -> u64 {
        let mut counters = self.counters.lock();
        let tokens = counters.iter_mut().map(|counter| counter.total(encoding));
        let tokens: Vec<u64> = tokens.collect();
        let of = |name| {
            let found = names.iter().position(|known| *known == name);
            found.map_or(0, |at| tokens[at])
        };
        // The same reasoning under two names is one: the longer counts, the first of equals.
        let counts = |name: Name, own: u64| {
            let other = match twin(name) {
                same if same == name => 0,
                twin => of(twin),
            };
            own > other || (own == other && name.1 != Field::ReasoningTwin)
        };
        let counted = names.iter().zip(&tokens);
        let counted = counted.filter(|(name, tokens)| counts(**name, **tokens));
        counted.map(|(_, tokens)| *tokens).sum::<u64>() + self.guessed.load(Ordering::Relaxed)
    }
}

/// The other name under which the same reasoning may come; else the same.
fn twin((choice, field): Name) -> Name {
    let field = match field {
        Field::Reasoning => Field::ReasoningTwin,
        Field::ReasoningTwin => Field::Reasoning,
        field => field,
    };
    (choice, field)
}

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

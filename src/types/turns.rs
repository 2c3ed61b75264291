//! A fair line: whose turn it is, among teams that wait for the same thing. Deficit round robin
//! (Shreedhar and Varghese, "Efficient fair queueing using deficit round robin", 1995), in tokens: in each
//! round every team that waits is given [`QUANTUM`] tokens, and its first entry goes when it has saved what
//! that costs. Rounds in which nobody has saved enough are skipped by arithmetic, so a large request costs
//! no more time than a small one. Classes of priority take turns in the same way, with [`Priority::weight`]
//! quanta a round: under load high ones get four times the tokens of normal ones, and those four times the
//! tokens of batches, but nobody gets nothing, and what others don't ask for anybody gets.
//!
//! No clocks, no locks, no chance: the same calls give the same turns.

use ahash::AHashMap;
use std::collections::BTreeMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

/// Tokens that a team is given in a round: about what a short chat uses. With smaller ones turns are
/// finer, with larger ones more of a team's requests follow each other.
pub const QUANTUM: u64 = 1024;

/// No entry costs more tokens, so that sums of many are none too large.
pub const COST_MAX: u64 = u32::MAX as u64;

/// How urgent a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Nobody waits for it.
    Batch,
    /// As most.
    #[default]
    Normal,
    /// Somebody waits for each word.
    High,
}

impl Priority {
    /// All of them, the most urgent one first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Batch];

    /// Its share relative to the others.
    pub const fn weight(self) -> u64 {
        match self {
            Self::High => 16,
            Self::Normal => 4,
            Self::Batch => 1,
        }
    }

    /// Its name, as configuration and clients write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Batch => "batch",
        }
    }
}

impl std::str::FromStr for Priority {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let named = |it: &Self| it.as_str() == name;
        Self::ALL.into_iter().find(named).ok_or(())
    }
}

/// Whose requests share a turn.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tenant {
    /// A team's.
    Team(Arc<str>),
    /// Without teams, those of a client's address.
    Address(IpAddr),
    /// Those of whom nothing is known.
    Nobody,
}

/// Entries that wait, of teams `K`.
#[derive(Debug)]
pub struct Turns<K, T> {
    /// In the order of [`Priority::ALL`].
    classes: [Class<K, T>; 3],
    round: u64,
    /// Numbers what comes, and what comes back.
    next: u64,
    len: usize,
}

/// A place in the line.
#[derive(Clone, Debug)]
pub struct Ticket<K> {
    team: K,
    priority: Priority,
    number: u64,
}

#[derive(Debug)]
struct Class<K, T> {
    purse: Purse,
    /// The round of its teams.
    round: u64,
    lanes: AHashMap<K, Lane<T>>,
    /// Who comes when: by the round in which a team's first entry is paid, then by who came there first.
    order: BTreeMap<(u64, u64), K>,
    /// What its entries cost together.
    tokens: u64,
}

/// One team's entries.
#[derive(Debug)]
struct Lane<T> {
    purse: Purse,
    /// Its place in the order of its class.
    due: (u64, u64),
    /// By number: who came first goes first.
    entries: BTreeMap<u64, Entry<T>>,
    tokens: u64,
}

#[derive(Debug)]
struct Entry<T> {
    cost: u64,
    value: T,
}

/// What is saved, and since which round more is given.
#[derive(Clone, Copy, Debug)]
struct Purse {
    saved: u64,
    since: u64,
}

// === impl Purse ===

impl Purse {
    fn new(round: u64) -> Self {
        Self {
            saved: 0,
            since: round,
        }
    }

    /// The round in which this much is saved.
    fn due(self, cost: u64, quantum: u64) -> u64 {
        let missing = cost.saturating_sub(self.saved);
        self.since.saturating_add(missing.div_ceil(quantum))
    }

    /// Pays in the round when it is due, or later: nothing is saved up while nobody asks.
    fn pay(&mut self, cost: u64, quantum: u64, round: u64) {
        let rounds = self.due(cost, quantum) - self.since;
        let had = self.saved.saturating_add(quantum.saturating_mul(rounds));
        self.saved = had.saturating_sub(cost);
        self.since = round;
    }
}

// === impl Turns ===

impl<K, T> Default for Turns<K, T> {
    fn default() -> Self {
        Self {
            classes: std::array::from_fn(|_| Class {
                purse: Purse::new(0),
                round: 0,
                lanes: AHashMap::new(),
                order: BTreeMap::new(),
                tokens: 0,
            }),
            round: 0,
            next: 0,
            len: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, T> Turns<K, T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts an entry behind those of its team and class; `cost` in tokens, taken for 1 to [`COST_MAX`].
    pub fn push(&mut self, team: K, priority: Priority, cost: u64, value: T) -> Ticket<K> {
        let number = self.next;
        self.next += 1;
        self.len += 1;
        let cost = cost.clamp(1, COST_MAX);
        let round = self.round;
        let class = &mut self.classes[place(priority)];
        if class.lanes.is_empty() {
            class.purse = Purse::new(round);
        }
        class.tokens += cost;
        let entry = Entry { cost, value };
        match class.lanes.get_mut(&team) {
            Some(lane) => {
                lane.tokens += cost;
                lane.entries.insert(number, entry);
            }
            None => {
                let purse = Purse::new(class.round);
                let due = (purse.due(cost, QUANTUM), number);
                class.order.insert(due, team.clone());
                let lane = Lane {
                    purse,
                    due,
                    entries: BTreeMap::from([(number, entry)]),
                    tokens: cost,
                };
                class.lanes.insert(team.clone(), lane);
            }
        }
        Ticket {
            team,
            priority,
            number,
        }
    }

    /// Takes an entry out, wherever it stands; `None` where it is out already.
    pub fn remove(&mut self, ticket: &Ticket<K>) -> Option<T> {
        let class = &mut self.classes[place(ticket.priority)];
        let entry = class.take(&ticket.team, ticket.number, None)?;
        self.len -= 1;
        Some(entry.value)
    }

    /// Takes the entry out whose turn it is, of those that fit: O(log n), and a look at each before it that
    /// doesn't.
    pub fn pop(&mut self, mut fits: impl FnMut(&T) -> bool) -> Option<T> {
        let mut best: Option<(u64, usize, Priority, K, u64, u64)> = None;
        for (index, priority) in Priority::ALL.into_iter().enumerate() {
            let class = &self.classes[index];
            let Some((team, number, cost)) = class.first(&mut fits) else {
                continue;
            };
            let due = class.purse.due(cost, class_quantum(priority));
            if best.as_ref().is_none_or(|(earliest, ..)| due < *earliest) {
                best = Some((due, index, priority, team.clone(), number, cost));
            }
        }
        let (due, index, priority, team, number, cost) = best?;
        self.round = self.round.max(due);
        let class = &mut self.classes[index];
        class.purse.pay(cost, class_quantum(priority), self.round);
        let lane = class.lanes.get_mut(&team)?;
        class.round = class.round.max(lane.purse.due(cost, QUANTUM));
        lane.purse.pay(cost, QUANTUM, class.round);
        let entry = class.take(&team, number, Some(self.next))?;
        self.next += 1;
        self.len -= 1;
        Some(entry.value)
    }

    /// About what goes before an entry that this team would push now.
    pub fn ahead(&self, team: &K, priority: Priority, cost: u64) -> Ahead {
        let own = &self.classes[place(priority)];
        let cost = cost.clamp(1, COST_MAX);
        // Until it is its turn, any other team gets as much as it does.
        let share = own.lanes.get(team).map_or(0, |lane| lane.tokens) + cost;
        let mut ahead = Ahead::default();
        for lane in own.lanes.values() {
            ahead.add(lane.entries.len(), lane.tokens, share as f64);
        }
        let class = ahead.tokens + cost as f64;
        for (other, others) in Priority::ALL.into_iter().zip(&self.classes) {
            if other != priority {
                let share = class * other.weight() as f64 / priority.weight() as f64;
                let entries = others.lanes.values().map(|lane| lane.entries.len());
                ahead.add(entries.sum(), others.tokens, share);
            }
        }
        ahead
    }
}

/// What goes before an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ahead {
    /// How many.
    pub entries: f64,
    /// What they cost together.
    pub tokens: f64,
}

impl Ahead {
    /// Of these entries with these tokens, as many as have this share.
    fn add(&mut self, entries: usize, tokens: u64, share: f64) {
        let tokens = tokens.max(1) as f64;
        self.entries += entries as f64 * (share / tokens).min(1.0);
        self.tokens += if entries > 0 { tokens.min(share) } else { 0.0 };
    }
}

// === impl Class ===

impl<K: Clone + Eq + Hash, T> Class<K, T> {
    /// The entry whose turn it is in this class: its team, number and cost.
    fn first(&self, fits: &mut impl FnMut(&T) -> bool) -> Option<(&K, u64, u64)> {
        self.order.values().find_map(|team| {
            let mut entries = self.lanes.get(team)?.entries.iter();
            let (number, entry) = entries.find(|(_, entry)| fits(&entry.value))?;
            Some((team, *number, entry.cost))
        })
    }

    /// Takes an entry out; its team's turn is then that of its next one, `behind` those that came before
    /// with that many. A team without an entry is forgotten with what it has saved.
    fn take(&mut self, team: &K, number: u64, behind: Option<u64>) -> Option<Entry<T>> {
        let lane = self.lanes.get_mut(team)?;
        let entry = lane.entries.remove(&number)?;
        lane.tokens -= entry.cost;
        self.tokens -= entry.cost;
        self.order.remove(&lane.due);
        match lane.entries.first_key_value() {
            Some((_, next)) => {
                let round = lane.purse.due(next.cost, QUANTUM);
                lane.due = (round, behind.unwrap_or(lane.due.1));
                self.order.insert(lane.due, team.clone());
            }
            None => {
                self.lanes.remove(team);
            }
        }
        Some(entry)
    }
}

fn class_quantum(priority: Priority) -> u64 {
    QUANTUM * priority.weight()
}

/// A class's place in [`Priority::ALL`].
const fn place(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Batch => 2,
    }
}

#[cfg(test)]
mod tests;

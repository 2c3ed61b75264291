//! The names and what is known of each: `entry.rs` has the state of one.
//!
//! Readers take no lock: the names of a shard are a set that is replaced when one comes or goes, a
//! name's entry is replaced when something is heard of it. Writers of one shard take turns. Pure
//! as `entry.rs`: it neither asks nor waits. [`crate::Resolver`] calls it, before a query to see
//! whether one is needed and after it to keep the outcome.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use ahash::{AHashSet, RandomState};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::entry::{Bounds, Entry, Held, Outcome, Verdict};
use crate::{Answer, Config, Known, Listing, LookupError, Source};

/// Names kept at most: some 45 MB. Names come from a configuration mostly, so this is a fuse and
/// not a budget.
pub(crate) const NAMES_MAX: usize = 1 << 17;

/// Names handed to a successor at most, the last used first.
const KNOWN_MAX: usize = 4096;

/// A shard's set is copied when a name comes: more shards make that cheaper, and cost 64 bytes each.
const SHARDS_MAX: usize = 512;

/// The names and what is known of them.
#[derive(Debug)]
pub(crate) struct Cache {
    bounds: Bounds,
    names_max: usize,
    names: AtomicUsize,
    shards: Box<[Shard]>,
    hasher: RandomState,
    /// What [`Slot::used`] counts from.
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Shard {
    slots: ArcSwap<AHashSet<ByName>>,
    writer: Mutex<()>,
}

#[derive(Debug)]
struct Slot {
    name: Box<str>,
    /// Seconds from the epoch to the last lookup. Written once a second at most: two threads that
    /// look up the same name don't fight for it.
    used: AtomicU32,
    entry: ArcSwap<Entry>,
}

/// A slot in a set, by its name.
#[derive(Clone, Debug)]
struct ByName(Arc<Slot>);

// === impl Cache ===

impl Cache {
    pub(crate) fn new(config: &Config, names_max: usize, now: Instant) -> Self {
        let shards = (names_max / 64).next_power_of_two().min(SHARDS_MAX);
        Self {
            bounds: Bounds::new(config),
            names_max,
            names: AtomicUsize::new(0),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
            epoch: now,
        }
    }

    /// What to do about `name`, as [`crate::name::key`] writes it. Counts as a use of the name.
    pub(crate) fn probe(&self, name: &str, now: Instant) -> Verdict {
        let slots = self.shard(name).slots.load();
        match slots.get(name) {
            Some(ByName(slot)) => {
                slot.touch(self.second(now));
                slot.entry.load().verdict(name, now)
            }
            None => Verdict::Ask { echo: None },
        }
    }

    /// Keeps an outcome. Answers when the next query is due, where one makes sense ahead of a
    /// lookup.
    pub(crate) fn keep(
        &self,
        name: &str,
        outcome: Outcome,
        now: Instant,
        chance: f32,
    ) -> Option<Instant> {
        let shard = self.shard(name);
        let _writer = shard.writer.lock();
        let slots = shard.slots.load();
        if let Some(ByName(slot)) = slots.get(name) {
            let entry = self
                .bounds
                .after(Some(&slot.entry.load()), outcome, now, chance);
            return slot.replace(entry, now);
        }
        let entry = self.bounds.after(None, outcome, now, chance);
        let due = entry.is_renewable(now).then_some(entry.ask_at);
        self.insert(shard, &slots, name, entry, self.second(now), now);
        due
    }

    /// The addresses that are held of `name`, where they may be used. Not a use of the name.
    pub(crate) fn held(&self, name: &str, now: Instant) -> Option<Answer> {
        let slots = self.shard(name).slots.load();
        let ByName(slot) = slots.get(name)?;
        let entry = slot.entry.load();
        match &entry.held {
            Held::Found(addresses, _) if entry.is_renewable(now) => Some(Arc::clone(addresses)),
            _ => None,
        }
    }

    /// Whether addresses are held of `name`, and it isn't known which IPv4 ones it has.
    pub(crate) fn lacks_ipv4(&self, name: &str, now: Instant) -> bool {
        let slots = self.shard(name).slots.load();
        slots
            .get(name)
            .is_some_and(|ByName(slot)| slot.entry.load().lacks_ipv4(now))
    }

    /// Keeps what another cache knew, where nothing is known here. Answers when a query is due.
    pub(crate) fn learn(&self, known: &Known, now: Instant, chance: f32) -> Option<Instant> {
        if known.addresses.is_empty() || self.names.load(Ordering::Relaxed) >= self.names_max {
            return None;
        }
        let shard = self.shard(&known.name);
        let _writer = shard.writer.lock();
        let slots = shard.slots.load();
        if slots.contains(&*known.name) {
            return None;
        }
        let entry = self.bounds.learnt(known, now, chance);
        let due = entry.ask_at;
        self.insert(shard, &slots, &known.name, entry, 0, now);
        Some(due)
    }

    /// Answers that are or may stand in for the truth.
    pub(crate) fn known(&self, now: Instant) -> Vec<Known> {
        let mut found: Vec<(u32, Known)> = Vec::new();
        self.each(|slot, entry| {
            if let Held::Found(addresses, _) = &entry.held
                && now < entry.stale_until
                && !entry.flushed
            {
                let known = Known {
                    name: slot.name.to_string(),
                    addresses: addresses.to_vec(),
                    fresh: entry.fresh_until.saturating_duration_since(now),
                    stale: entry.stale_until.saturating_duration_since(now),
                    missing_for: entry
                        .missing_since
                        .map(|since| now.saturating_duration_since(since)),
                };
                found.push((slot.used.load(Ordering::Relaxed), known));
            }
        });
        found.sort_unstable_by_key(|(used, _)| std::cmp::Reverse(*used));
        found.truncate(KNOWN_MAX);
        found.into_iter().map(|(_, known)| known).collect()
    }

    /// All names, in their order, for people.
    pub(crate) fn list(&self, now: Instant) -> Vec<Listing> {
        let mut listings = Vec::new();
        self.each(|slot, entry| {
            if entry.flushed {
                return;
            }
            let (addresses, source) = match &entry.held {
                Held::Found(addresses, source) => (addresses.to_vec(), *source),
                Held::Missing | Held::Nothing => (Vec::new(), Source::Dns),
            };
            let used = Duration::from_secs(slot.used.load(Ordering::Relaxed).into());
            listings.push(Listing {
                name: slot.name.to_string(),
                addresses,
                source,
                fresh: entry.fresh_until.saturating_duration_since(now),
                stale: entry.stale_until.saturating_duration_since(now),
                age: now.saturating_duration_since(entry.heard),
                idle: now.saturating_duration_since(self.epoch + used),
                is_missing: matches!(entry.held, Held::Missing) || entry.missing_since.is_some(),
                failures: entry.failures,
                last_error: entry.reason.as_deref().map(str::to_owned),
            });
        });
        listings.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        listings
    }

    /// Forgets one name; says whether it was there.
    pub(crate) fn forget(&self, name: &str) -> bool {
        let shard = self.shard(name);
        let _writer = shard.writer.lock();
        let slots = shard.slots.load();
        let is_there = slots.contains(name);
        if is_there {
            let mut fewer = AHashSet::clone(&slots);
            fewer.remove(name);
            shard.slots.store(Arc::new(fewer));
            self.names.fetch_sub(1, Ordering::Relaxed);
        }
        is_there
    }

    /// Forgets one name as far as can be: the next lookup asks, and addresses are kept only for
    /// when nobody answers. Says whether it was there.
    pub(crate) fn flush(&self, name: &str, now: Instant) -> bool {
        let shard = self.shard(name);
        let writer = shard.writer.lock();
        let slots = shard.slots.load();
        let Some(ByName(slot)) = slots.get(name) else {
            return false;
        };
        let entry = slot.entry.load();
        if entry.flushed {
            return false;
        }
        if let Some(flushed) = entry.flush(now) {
            slot.entry.store(Arc::new(flushed));
            return true;
        }
        drop(writer);
        self.forget(name)
    }

    /// The same with all names; says how many there were.
    pub(crate) fn flush_all(&self, now: Instant) -> usize {
        let mut names: Vec<Box<str>> = Vec::new();
        self.each(|slot, _| names.push(slot.name.clone()));
        names.iter().filter(|name| self.flush(name, now)).count()
    }

    /// A query for `name` is under way: no other is due before `until`.
    pub(crate) fn postpone(&self, name: &str, until: Instant) {
        let shard = self.shard(name);
        let _writer = shard.writer.lock();
        if let Some(ByName(slot)) = shard.slots.load().get(name) {
            let entry = Entry::clone(&slot.entry.load());
            let ask_at = until;
            slot.entry.store(Arc::new(Entry { ask_at, ..entry }));
        }
    }

    /// Makes a query due for each name that has addresses, as whom to ask has changed, and forgets
    /// the unhappy outcomes: they are others' by now. Calls `due` for each name that is due.
    pub(crate) fn doubt_all(&self, now: Instant, mut due: impl FnMut(&str)) {
        let mut unhappy: Vec<Box<str>> = Vec::new();
        for shard in &self.shards {
            let _writer = shard.writer.lock();
            for ByName(slot) in shard.slots.load().iter() {
                let entry = slot.entry.load();
                if entry.is_renewable(now) {
                    slot.entry.store(Arc::new(Entry {
                        ask_at: now,
                        ..Entry::clone(&entry)
                    }));
                    due(&slot.name);
                } else {
                    unhappy.push(slot.name.clone());
                }
            }
        }
        for name in unhappy {
            self.forget(&name);
        }
    }

    /// Whether a query for `name` is due, and it was looked up within `in_use`.
    pub(crate) fn is_due(&self, name: &str, in_use: Duration, now: Instant) -> bool {
        let since = self.second(now).saturating_sub(in_use.as_secs() as u32);
        let slots = self.shard(name).slots.load();
        slots.get(name).is_some_and(|ByName(slot)| {
            let entry = slot.entry.load();
            let used = slot.used.load(Ordering::Relaxed) >= since;
            used && now >= entry.ask_at && entry.is_renewable(now)
        })
    }

    /// What is known of `name`, where it is too early to ask again. Not a use of the name.
    pub(crate) fn settled(&self, name: &str, now: Instant) -> Option<Outcome> {
        let slots = self.shard(name).slots.load();
        let ByName(slot) = slots.get(name)?;
        let entry = slot.entry.load();
        match entry.verdict(name, now) {
            Verdict::Use {
                addresses,
                due: false,
                ..
            } => Some(Outcome::Found {
                addresses,
                ttl: Duration::ZERO,
                source: Source::Dns,
                lost: None,
            }),
            Verdict::Unhappy(LookupError::NotFound { .. }) => Some(Outcome::NotFound {
                ttl: None,
                sure: true,
            }),
            Verdict::Unhappy(LookupError::Unavailable { reason, .. }) => {
                Some(Outcome::Unavailable(reason))
            }
            Verdict::Use { .. } | Verdict::Ask { .. } => None,
        }
    }

    fn insert(
        &self,
        shard: &Shard,
        slots: &AHashSet<ByName>,
        name: &str,
        entry: Entry,
        used: u32,
        now: Instant,
    ) {
        let mut more = AHashSet::with_capacity_and_hasher(slots.len() + 1, Default::default());
        more.extend(slots.iter().cloned());
        if self.names.load(Ordering::Relaxed) >= self.names_max {
            let left = make_room(&mut more, now);
            self.names.fetch_sub(left, Ordering::Relaxed);
        }
        more.insert(ByName(Arc::new(Slot {
            name: name.into(),
            used: AtomicU32::new(used),
            entry: ArcSwap::from_pointee(entry),
        })));
        shard.slots.store(Arc::new(more));
        self.names.fetch_add(1, Ordering::Relaxed);
    }

    fn each(&self, mut act: impl FnMut(&Slot, &Entry)) {
        for shard in &self.shards {
            for ByName(slot) in shard.slots.load().iter() {
                act(slot, &slot.entry.load());
            }
        }
    }

    fn shard(&self, name: &str) -> &Shard {
        // The number of shards is a power of two.
        let index = self.hasher.hash_one(name) as usize & (self.shards.len() - 1);
        &self.shards[index]
    }

    fn second(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.epoch).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

/// Forgets what is past use; where that isn't enough, the name that was used longest ago. Of one
/// shard only, which has its share of the oldest. Says how many left.
fn make_room(slots: &mut AHashSet<ByName>, now: Instant) -> usize {
    let before = slots.len();
    slots.retain(|ByName(slot)| now < slot.entry.load().stale_until);
    if slots.len() == before {
        let oldest = slots
            .iter()
            .min_by_key(|ByName(slot)| (slot.used.load(Ordering::Relaxed), slot.entry.load().heard))
            .cloned();
        if let Some(oldest) = oldest {
            slots.remove(&oldest);
        }
    }
    before - slots.len()
}

// === impl Slot ===

impl Slot {
    fn touch(&self, second: u32) {
        if self.used.load(Ordering::Relaxed) != second {
            self.used.store(second, Ordering::Relaxed);
        }
    }

    fn replace(&self, entry: Entry, now: Instant) -> Option<Instant> {
        let due = entry.is_renewable(now).then_some(entry.ask_at);
        self.entry.store(Arc::new(entry));
        due
    }
}

// === impl ByName ===

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

#[cfg(test)]
mod tests;

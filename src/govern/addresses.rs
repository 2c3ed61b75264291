//! What each client's address has used. Of this process alone: an address costs an attacker nothing, so
//! it gets no account that would outlive a restart; generations tell each other by message. Bounded,
//! however many addresses come.
//!
//! An IPv6 client counts by its /64: whoever has one address has the whole network behind it.

use super::accounts::Full;
use super::rate::{Bucket, Cells, Moment};
use super::scope::Measure;
use crate::types::client_network;
use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

const SHARDS: usize = 16;
/// Addresses that one shard remembers; past it the shard forgets those that may use all of their
/// limits again, and if none may, all that have nothing in flight. An attacker with that many
/// addresses costs memory of a few MB.
const ADDRESSES_PER_SHARD_MAX: usize = 8192;

/// All addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    shards: [Mutex<AHashMap<IpAddr, Arc<Slot>>>; SHARDS],
    hasher: RandomState,
}

/// What one address has used.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Of `rate_limit`; see [`super::rate`].
    pub(super) rate: AtomicI64,
    sums: [Cells; Measure::COUNT],
}

/// A place among what an address has in flight. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct SlotHeld {
    slot: Arc<Slot>,
    measure: Measure,
    amount: i64,
}

// === impl Addresses ===

impl Addresses {
    /// What that client has used.
    pub(super) fn slot(&self, client: IpAddr, now: Moment) -> Arc<Slot> {
        let client = client_network(client);
        let mut slots = self.shards[self.shard(client)].lock();
        if let Some(slot) = slots.get(&client) {
            return Arc::clone(slot);
        }
        if slots.len() >= ADDRESSES_PER_SHARD_MAX {
            slots.retain(|_, slot| is_used(slot) || !slot.is_full(now));
            if slots.len() >= ADDRESSES_PER_SHARD_MAX {
                slots.retain(|_, slot| is_used(slot));
            }
        }
        Arc::clone(slots.entry(client).or_default())
    }

    /// The addresses that have used something, as `{address: [moments and what is owed]}`; where they are many, those
    /// that have used most.
    pub(super) fn hand_over(&self, now: Moment) -> Value {
        const TOLD_MAX: usize = 10_000;
        let mut all: Vec<(IpAddr, [i64; 4])> = Vec::new();
        for shard in &self.shards {
            let slots = shard.lock();
            let told = slots.iter().filter(|(_, slot)| !slot.is_full(now));
            all.extend(told.map(|(client, slot)| (*client, slot.numbers())));
        }
        if all.len() > TOLD_MAX {
            let last =
                |numbers: [i64; 4]| std::cmp::Reverse((numbers[3], numbers.into_iter().max()));
            all.select_nth_unstable_by_key(TOLD_MAX, |(_, numbers)| last(*numbers));
            all.truncate(TOLD_MAX);
        }
        let told = all.into_iter();
        Value::Object(
            told.map(|(it, moments)| (it.to_string(), json!(moments)))
                .collect(),
        )
    }

    /// Goes on where [`Addresses::hand_over`] says that another process stands: nobody gets more than
    /// both allow. What isn't understood is skipped: it was written by another version.
    pub(super) fn take_over(&self, state: &Value, now: Moment) {
        for (client, moments) in state.as_object().into_iter().flatten() {
            let (Ok(client), Some(moments)) = (client.parse::<IpAddr>(), moments.as_array()) else {
                continue;
            };
            let slot = self.slot(client, now);
            for (cell, moment) in slot.cells().into_iter().zip(moments) {
                if let Some(moment) = moment.as_i64() {
                    cell.fetch_max(moment, Ordering::Relaxed);
                }
            }
        }
    }

    fn shard(&self, client: IpAddr) -> usize {
        self.hasher.hash_one(client) as usize % SHARDS
    }
}

/// Slots are only shared under their shard's lock: one that nobody else has then stays so.
fn is_used(slot: &Arc<Slot>) -> bool {
    Arc::strong_count(slot) > 1
}

// === impl Slot ===

impl Slot {
    pub(super) fn bucket(&self, measure: Measure) -> Bucket<'_> {
        self.sums[measure as usize].bucket()
    }

    fn cell(&self, measure: Measure) -> &AtomicI64 {
        &self.sums[measure as usize].full_at
    }

    /// Holds `amount` where the sum stays within `max`.
    pub(super) fn hold(
        self: &Arc<Self>,
        measure: Measure,
        amount: i64,
        max: i64,
    ) -> Result<SlotHeld, Full> {
        let fits = |total: i64| {
            let next = total.saturating_add(amount);
            (next <= max).then_some(next)
        };
        let sum = self.cell(measure);
        sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map_err(|total| Full { total })?;
        Ok(SlotHeld {
            slot: Arc::clone(self),
            measure,
            amount,
        })
    }

    /// Three moments, and the tokens that are owed.
    fn cells(&self) -> [&AtomicI64; 4] {
        let [requests, tokens] = [Measure::Requests, Measure::Tokens].map(|it| self.cell(it));
        let owed = self.bucket(Measure::Tokens).owed;
        [&self.rate, requests, tokens, owed]
    }

    fn numbers(&self) -> [i64; 4] {
        self.cells().map(|cell| cell.load(Ordering::Relaxed))
    }

    fn is_full(&self, now: Moment) -> bool {
        let [moments @ .., owed] = self.numbers();
        owed == 0 && moments.into_iter().all(|it| it <= now.unix_ns())
    }
}

impl Drop for SlotHeld {
    fn drop(&mut self) {
        self.slot
            .cell(self.measure)
            .fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::rate::Rate;
    use super::*;
    use std::time::Duration;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn take(addresses: &Addresses, client: &str, burst: u32, now: Moment) -> bool {
        let rate = Rate::per_second(1.0, burst);
        let slot = addresses.slot(ip(client), now);
        rate.take(&slot.rate, 1, now).is_ok()
    }

    #[test]
    fn clients_dont_share_a_bucket_but_an_ipv6_network_does() {
        let addresses = Addresses::default();
        let now = Moment::now();
        let take = |client| take(&addresses, client, 1, now);
        assert!(take("192.0.2.1"));
        assert!(take("192.0.2.2"));
        assert!(!take("::ffff:192.0.2.2"));
        assert!(take("2001:db8::1"));
        assert!(!take("2001:db8::2"));
        assert!(take("2001:db8:0:1::1"));
    }

    #[test]
    fn what_a_client_has_spent_is_spent_with_the_successor_too() {
        let (old, new) = (Addresses::default(), Addresses::default());
        let now = Moment::now();
        for _ in 0..10 {
            assert!(take(&old, "192.0.2.1", 10, now));
            assert!(take(&old, "2001:db8::1", 10, now));
        }
        assert!(take(&old, "192.0.2.9", 10, now));
        new.take_over(&old.hand_over(now), now);
        assert!(!take(&new, "192.0.2.1", 10, now));
        assert!(!take(&new, "2001:db8::2", 10, now));
        let left = (0..10).filter(|_| take(&new, "192.0.2.9", 10, now));
        assert_eq!(left.count(), 9);
        // Nothing is given back by who knows less.
        new.take_over(&Addresses::default().hand_over(now), now);
        new.take_over(&json!({"x": 1, "192.0.2.1": "y", "192.0.2.2": 3.5}), now);
        assert!(!take(&new, "192.0.2.1", 10, now));
    }

    #[test]
    fn many_addresses_dont_grow_without_bound_nor_lose_what_is_in_flight() {
        let addresses = Addresses::default();
        let now = Moment::now();
        let slot = addresses.slot(ip("192.0.2.1"), now);
        let held = slot.hold(Measure::InFlight, 1, 1).unwrap();
        drop(slot);
        for n in 0..400_000_u32 {
            let slot = addresses.slot(IpAddr::from(n.to_be_bytes()), now);
            let _ = Rate::per_second(1.0, 1).take(&slot.rate, 1, now);
        }
        let kept: usize = addresses.shards.iter().map(|it| it.lock().len()).sum();
        assert!(kept <= SHARDS * ADDRESSES_PER_SHARD_MAX, "{kept}");
        let slot = addresses.slot(ip("192.0.2.1"), now);
        assert!(
            slot.hold(Measure::InFlight, 1, 1).is_err(),
            "it is in flight"
        );
        drop(held);
        assert!(slot.hold(Measure::InFlight, 1, 1).is_ok());
    }

    #[test]
    fn of_too_many_that_have_spent_the_most_spent_are_handed_over() {
        let addresses = Addresses::default();
        let now = Moment::now();
        for n in 0..12_000_u32 {
            let slot = addresses.slot(IpAddr::from(n.to_be_bytes()), now);
            let spent = if n < 2_000 { 1 } else { 2 };
            Rate::per_second(1.0, 5)
                .take(&slot.rate, spent, now)
                .unwrap();
        }
        let told = addresses.hand_over(now.plus(Duration::from_millis(500)));
        let told = told.as_object().unwrap();
        assert_eq!(told.len(), 10_000);
        assert!(!told.contains_key("0.0.0.1"));
    }
}

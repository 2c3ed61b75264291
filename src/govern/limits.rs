//! Token buckets per client address. Time is an argument.
//!
//! An IPv6 client counts by its /64: whoever has one address has the whole network behind it.

use super::settings::RateLimit;
use crate::types::client_network;
use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;
use serde_json::Value;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const SHARDS: usize = 16;
/// Addresses that one shard remembers; past it the shard forgets those whose bucket is full again,
/// and if none is, it starts anew. An attacker with that many addresses costs memory of a few MB.
const ADDRESSES_PER_SHARD_MAX: usize = 8192;

/// All buckets.
#[derive(Debug, Default)]
pub struct Buckets {
    shards: [Mutex<AHashMap<IpAddr, Bucket>>; SHARDS],
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Buckets {
    /// Takes one token of a client's bucket.
    ///
    /// # Errors
    /// How long until a token is there: a client that waits that long gets in.
    pub fn take(&self, client: IpAddr, limit: RateLimit, now: Instant) -> Result<(), Duration> {
        let client = client_network(client);
        let mut buckets = self.shards[self.shard(client)].lock();
        if buckets.len() >= ADDRESSES_PER_SHARD_MAX && !buckets.contains_key(&client) {
            buckets.retain(|_, bucket| bucket.refilled(limit, now) < f64::from(limit.burst));
            if buckets.len() >= ADDRESSES_PER_SHARD_MAX {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(client).or_insert(Bucket {
            tokens: f64::from(limit.burst),
            at: now,
        });
        bucket.take(limit, now)
    }

    /// The buckets that aren't full, as `{address: tokens}`; where they are many, the emptiest.
    pub fn hand_over(&self, limit: RateLimit, now: Instant) -> Value {
        const TOLD_MAX: usize = 10_000;
        let mut all: Vec<(IpAddr, f64)> = Vec::new();
        for shard in &self.shards {
            let buckets = shard.lock();
            let tokens = buckets
                .iter()
                .map(|(client, bucket)| (*client, bucket.refilled(limit, now)));
            all.extend(tokens.filter(|(_, tokens)| *tokens < f64::from(limit.burst)));
        }
        if all.len() > TOLD_MAX {
            all.select_nth_unstable_by(TOLD_MAX, |a, b| a.1.total_cmp(&b.1));
            all.truncate(TOLD_MAX);
        }
        let told = all
            .into_iter()
            .map(|(client, tokens)| (client.to_string(), tokens.into()));
        Value::Object(told.collect())
    }

    /// Lowers each bucket to what [`Buckets::hand_over`] says of it. What isn't understood is
    /// skipped: it was written by another version.
    pub fn take_over(&self, state: &Value, limit: RateLimit, now: Instant) {
        for (client, tokens) in state.as_object().into_iter().flatten() {
            let (Ok(client), Some(tokens)) = (client.parse::<IpAddr>(), tokens.as_f64()) else {
                continue;
            };
            let mut buckets = self.shards[self.shard(client)].lock();
            let known = buckets.contains_key(&client);
            if !known && buckets.len() >= ADDRESSES_PER_SHARD_MAX {
                continue;
            }
            let bucket = buckets.entry(client).or_insert(Bucket {
                tokens: f64::from(limit.burst),
                at: now,
            });
            bucket.tokens = bucket.refilled(limit, now).min(tokens.max(0.0));
            bucket.at = now.max(bucket.at);
        }
    }

    fn shard(&self, client: IpAddr) -> usize {
        self.hasher.hash_one(client) as usize % SHARDS
    }
}

impl Bucket {
    fn refilled(&self, limit: RateLimit, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + elapsed * limit.per_second).min(f64::from(limit.burst))
    }

    fn take(&mut self, limit: RateLimit, now: Instant) -> Result<(), Duration> {
        /// Keeps a wait that was obeyed to the nanosecond from failing by rounding.
        const ROUNDING: f64 = 1e-6;
        self.tokens = self.refilled(limit, now);
        self.at = now.max(self.at);
        if self.tokens + ROUNDING >= 1.0 {
            self.tokens = (self.tokens - 1.0).max(0.0);
            return Ok(());
        }
        let wait = (1.0 - self.tokens) / limit.per_second;
        // A rate such as one a century must not overflow a Duration.
        Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit {
        per_second: 5.0,
        burst: 10,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_burst_goes_through_and_one_past_it_is_told_when_to_come_back() {
        let buckets = Buckets::default();
        let start = Instant::now();
        for _ in 0..10 {
            assert_eq!(buckets.take(ip("192.0.2.1"), LIMIT, start), Ok(()));
        }
        let wait = buckets.take(ip("192.0.2.1"), LIMIT, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(200));
        let early = start + wait - Duration::from_millis(1);
        assert!(buckets.take(ip("192.0.2.1"), LIMIT, early).is_err());
        assert_eq!(buckets.take(ip("192.0.2.1"), LIMIT, start + wait), Ok(()));
        assert!(buckets.take(ip("192.0.2.1"), LIMIT, start + wait).is_err());
    }

    #[test]
    fn clients_dont_share_a_bucket_but_an_ipv6_network_does() {
        let buckets = Buckets::default();
        let now = Instant::now();
        let one = RateLimit {
            per_second: 1.0,
            burst: 1,
        };
        assert!(buckets.take(ip("192.0.2.1"), one, now).is_ok());
        assert!(buckets.take(ip("192.0.2.2"), one, now).is_ok());
        assert!(buckets.take(ip("::ffff:192.0.2.2"), one, now).is_err());
        assert!(buckets.take(ip("2001:db8::1"), one, now).is_ok());
        assert!(buckets.take(ip("2001:db8::2"), one, now).is_err());
        assert!(buckets.take(ip("2001:db8:0:1::1"), one, now).is_ok());
    }

    #[test]
    fn what_a_client_has_spent_is_spent_with_the_successor_too() {
        let (old, new) = (Buckets::default(), Buckets::default());
        let now = Instant::now();
        for _ in 0..10 {
            assert!(old.take(ip("192.0.2.1"), LIMIT, now).is_ok());
            assert!(old.take(ip("2001:db8::1"), LIMIT, now).is_ok());
        }
        assert!(old.take(ip("192.0.2.9"), LIMIT, now).is_ok());
        new.take_over(&old.hand_over(LIMIT, now), LIMIT, now);
        assert!(new.take(ip("192.0.2.1"), LIMIT, now).is_err());
        assert!(new.take(ip("2001:db8::2"), LIMIT, now).is_err());
        for _ in 0..9 {
            assert!(new.take(ip("192.0.2.9"), LIMIT, now).is_ok());
        }
        assert!(new.take(ip("192.0.2.9"), LIMIT, now).is_err());
        // Nothing is given back by who knows less.
        new.take_over(&Buckets::default().hand_over(LIMIT, now), LIMIT, now);
        new.take_over(&serde_json::json!({"x": 1, "192.0.2.1": "y"}), LIMIT, now);
        assert!(new.take(ip("192.0.2.1"), LIMIT, now).is_err());
    }

    #[test]
    fn many_addresses_dont_grow_without_bound() {
        let buckets = Buckets::default();
        let now = Instant::now();
        for n in 0..400_000_u32 {
            let _ = buckets.take(IpAddr::from(n.to_be_bytes()), LIMIT, now);
        }
        let held: usize = buckets.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(held <= SHARDS * ADDRESSES_PER_SHARD_MAX, "{held}");
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_away() {
        let buckets = Buckets::default();
        let now = Instant::now() + Duration::from_secs(10);
        for _ in 0..10 {
            assert!(buckets.take(ip("192.0.2.1"), LIMIT, now).is_ok());
        }
        let earlier = now - Duration::from_secs(5);
        assert!(buckets.take(ip("192.0.2.1"), LIMIT, earlier).is_err());
        assert!(buckets.take(ip("192.0.2.1"), LIMIT, now).is_err());
    }
}

//! Session tickets (RFC 8446, section 4.6.1; RFC 5077) that every listener and every process can
//! read, for as long as they have the ring of keys in common. Called by [`super::load()`]; whoever
//! owns the clock calls [`Tickets::rotate`], whoever hands over calls [`Tickets::export`].
//!
//! A ticket holds what a client proved once. So each *scope*, the policy by which it was proved, has
//! keys of its own, derived from the ring: a ticket of another scope is as good as none. Keys that
//! left the ring are freed, not wiped.

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a key makes tickets. A ticket is taken for at least this long, and at most twice.
pub const PERIOD: Duration = Duration::from_secs(12 * 60 * 60);
/// Of [`Tickets::export`].
const VERSION: u32 = 1;
const KEY_BYTES: usize = 32;
const NAME_BYTES: usize = 16;
/// What is longer isn't ours: a ticket holds a session and at most a client's certificates.
const TICKET_BYTES_MAX: usize = 16 << 10;

/// The ring of keys. A clone is the same ring.
#[derive(Clone)]
pub struct Tickets {
    ring: Arc<ArcSwap<Ring>>,
}

/// Keys move from `next` by `current` to `previous`. `next` makes no tickets here yet, but is known to
/// those who got a copy of the ring: a process that is ahead of us by one turn is understood.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Ring {
    version: u32,
    /// When `current` became that; seconds since 1970.
    since: u64,
    previous: Option<[u8; KEY_BYTES]>,
    current: [u8; KEY_BYTES],
    next: [u8; KEY_BYTES],
}

/// A ring of keys that can't be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRing(String);

impl fmt::Display for NoRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ticket keys can't be taken over ({}): own keys are kept, clients make full handshakes",
            self.0
        )
    }
}

impl std::error::Error for NoRing {}

impl Tickets {
    /// A ring of new keys.
    pub fn new(now: SystemTime) -> Self {
        // aws-lc ends the process by itself where the system has no random numbers.
        let key = || fresh().expect("random numbers");
        let ring = Ring {
            version: VERSION,
            since: seconds(now),
            previous: None,
            current: key(),
            next: key(),
        };
        Self {
            ring: Arc::new(ArcSwap::from_pointee(ring)),
        }
    }

    /// The ring for another process. **Secret**: whoever has it can read what clients that resume say.
    pub fn export(&self) -> serde_json::Value {
        // Numbers and arrays of them: nothing in it can fail.
        serde_json::to_value(&**self.ring.load()).unwrap_or_default()
    }

    /// Takes over the ring of another process.
    ///
    /// # Errors
    /// When it is no ring that we know; our own is kept then. Says nothing of what was in it.
    pub fn import(&self, ring: &serde_json::Value) -> Result<(), NoRing> {
        match ring.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => return Err(NoRing(format!("of version {version}, not {VERSION}"))),
            None => return Err(NoRing("without a version".to_owned())),
        }
        let ring = Ring::deserialize(ring).map_err(|_| NoRing("incomplete".to_owned()))?;
        self.ring.store(Arc::new(ring));
        Ok(())
    }

    /// Moves the ring on by as many periods as have gone by; `true` if it moved. To be called every
    /// few minutes: keys live for as long as nobody calls.
    pub fn rotate(&self, now: SystemTime) -> bool {
        let now = seconds(now);
        let mut moved = false;
        self.ring.rcu(|ring| {
            moved = false;
            let mut ring = Ring::clone(ring);
            let turns = now.saturating_sub(ring.since) / PERIOD.as_secs();
            // After three turns no key is left of those that were.
            for _ in 0..turns.min(3) {
                let Some(next) = fresh() else { break };
                ring.previous = Some(ring.current);
                ring.current = ring.next;
                ring.next = next;
                moved = true;
            }
            if moved {
                ring.since += turns * PERIOD.as_secs();
            }
            ring
        });
        moved
    }

    /// Makes and reads the tickets of one scope.
    pub fn ticketer(&self, scope: &[u8]) -> Arc<dyn ProducesTickets> {
        let ring = self.ring.load_full();
        Arc::new(Ticketer {
            derived: ArcSwap::from_pointee(Derived::new(ring, scope)),
            ring: Arc::clone(&self.ring),
            scope: scope.to_vec(),
        })
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets")
            .field("since", &self.ring.load().since)
            .finish_non_exhaustive()
    }
}

/// The ring as one scope sees it.
struct Ticketer {
    ring: Arc<ArcSwap<Ring>>,
    scope: Vec<u8>,
    derived: ArcSwap<Derived>,
}

impl Ticketer {
    /// The keys of now; derived anew when the ring has moved.
    fn keys(&self) -> Arc<Derived> {
        let ring = self.ring.load();
        let derived = self.derived.load_full();
        if Arc::ptr_eq(&derived.of, &ring) {
            return derived;
        }
        let derived = Arc::new(Derived::new(Arc::clone(&ring), &self.scope));
        self.derived.store(Arc::clone(&derived));
        derived
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").finish_non_exhaustive()
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(PERIOD.as_secs()).unwrap_or(u32::MAX)
    }

    /// `name ‖ nonce ‖ sealed ‖ tag`. Nonces are random: 2^32 tickets of one key (NIST SP 800-38D,
    /// section 8.3) are 99,000 a second for a whole period.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let overhead = NAME_BYTES + NONCE_LEN + AES_256_GCM.tag_len();
        if plain.len() > TICKET_BYTES_MAX - overhead {
            return None;
        }
        let keys = self.keys();
        let key = keys.current.as_ref()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(overhead + plain.len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        let mut sealed = plain.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.key
            .seal_in_place_append_tag(nonce, Aad::from(key.name), &mut sealed)
            .ok()?;
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys();
        // Names are no secret: they stand in the ticket.
        let key = [&keys.current, &keys.previous, &keys.next]
            .into_iter()
            .flatten()
            .find(|key| key.name == *name)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key
            .key
            .open_in_place(nonce, Aad::from(key.name), &mut plain)
            .ok()?
            .len();
        plain.truncate(length);
        Some(plain)
    }
}

/// The keys of one scope, and the ring that they are of.
struct Derived {
    of: Arc<Ring>,
    previous: Option<Key>,
    current: Option<Key>,
    next: Option<Key>,
}

struct Key {
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

impl Derived {
    fn new(ring: Arc<Ring>, scope: &[u8]) -> Self {
        Self {
            previous: ring.previous.and_then(|secret| Key::derive(&secret, scope)),
            current: Key::derive(&ring.current, scope),
            next: Key::derive(&ring.next, scope),
            of: ring,
        }
    }
}

impl Key {
    /// HKDF (RFC 5869) of a key of the ring. `None` never happens with these lengths.
    fn derive(secret: &[u8; KEY_BYTES], scope: &[u8]) -> Option<Self> {
        struct Length(usize);
        impl KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let pseudorandom = Salt::new(HKDF_SHA256, b"weir tickets 1").extract(secret);
        let info: [&[u8]; 1] = [scope];
        let mut derived = [0; NAME_BYTES + KEY_BYTES];
        let material = pseudorandom.expand(&info, Length(derived.len())).ok()?;
        material.fill(&mut derived).ok()?;
        let (name, key) = derived.split_first_chunk::<NAME_BYTES>()?;
        Some(Self {
            name: *name,
            key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?),
        })
    }
}

fn fresh() -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    rand::fill(&mut key).ok().map(|()| key)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn a_ticket_lives_for_one_turn_of_the_ring_and_dies_with_the_second() {
        let tickets = Tickets::new(start());
        let ticketer = tickets.ticketer(b"a");
        let ticket = ticketer.encrypt(b"session").unwrap();
        assert!(!tickets.rotate(start() + PERIOD - Duration::from_secs(1)));
        assert!(tickets.rotate(start() + PERIOD));
        assert!(!tickets.rotate(start() + PERIOD), "once a period");
        assert_eq!(ticketer.decrypt(&ticket).unwrap(), b"session");
        assert!(tickets.rotate(start() + 2 * PERIOD));
        assert_eq!(ticketer.decrypt(&ticket), None);
    }

    #[test]
    fn a_ring_that_slept_for_long_has_no_old_key_and_keeps_its_beat() {
        let tickets = Tickets::new(start());
        let ticketer = tickets.ticketer(b"a");
        let ticket = ticketer.encrypt(b"session").unwrap();
        assert!(tickets.rotate(start() + 100 * PERIOD + PERIOD / 2));
        assert_eq!(ticketer.decrypt(&ticket), None);
        assert!(tickets.rotate(start() + 101 * PERIOD));
        assert!(!tickets.rotate(start()), "the clock went back");
    }

    #[test]
    fn a_process_that_is_ahead_by_one_turn_is_understood() {
        let ours = Tickets::new(start());
        let theirs = Tickets::new(start());
        theirs.import(&ours.export()).unwrap();
        theirs.rotate(start() + PERIOD);
        let ticket = theirs.ticketer(b"a").encrypt(b"session").unwrap();
        assert_eq!(ours.ticketer(b"a").decrypt(&ticket).unwrap(), b"session");
    }

    #[test]
    fn scopes_know_nothing_of_each_other() {
        let tickets = Tickets::new(start());
        let ticket = tickets.ticketer(b"optional").encrypt(b"session").unwrap();
        assert_eq!(tickets.ticketer(b"required").decrypt(&ticket), None);
        assert!(tickets.ticketer(b"optional").decrypt(&ticket).is_some());
    }

    #[test]
    fn what_was_touched_is_no_ticket() {
        let ticketer = Tickets::new(start()).ticketer(b"a");
        let ticket = ticketer.encrypt(b"session").unwrap();
        for at in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[at] ^= 1;
            assert_eq!(ticketer.decrypt(&touched), None, "byte {at}");
            assert_eq!(ticketer.decrypt(&ticket[..at]), None, "the first {at}");
        }
    }

    #[test]
    fn tickets_have_a_largest_size() {
        let ticketer = Tickets::new(start()).ticketer(b"a");
        let overhead = NAME_BYTES + NONCE_LEN + 16;
        let largest = ticketer.encrypt(&vec![0; TICKET_BYTES_MAX - overhead]);
        assert!(ticketer.decrypt(&largest.unwrap()).is_some());
        let larger = vec![0; TICKET_BYTES_MAX - overhead + 1];
        assert_eq!(ticketer.encrypt(&larger), None);
        assert_eq!(ticketer.decrypt(&vec![0; TICKET_BYTES_MAX + 1]), None);
    }

    #[test]
    fn what_is_no_ring_leaves_the_own_one_as_it_is() {
        let tickets = Tickets::new(start());
        let before = tickets.export();
        let mut later = before.clone();
        later["version"] = 2.into();
        let mut cut = before.clone();
        cut["current"] = serde_json::json!([1, 2, 3]);
        for (bad, said) in [
            (later, "version 2"),
            (cut, "incomplete"),
            (serde_json::Value::Null, "without a version"),
        ] {
            let error = tickets.import(&bad).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert_eq!(tickets.export(), before);
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let tickets = Tickets::new(start());
        let shown = format!("{tickets:?} {:?}", tickets.ticketer(b"a"));
        assert_eq!(shown, "Tickets { since: 1800000000, .. } Ticketer { .. }");
    }
}

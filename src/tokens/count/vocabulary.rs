//! The tokens of one encoding, keyed by their bytes: "is this slice a token, and which?" in one or
//! two memory accesses.
//!
//! The bytes come from `tiktoken-rs`, which carries the published vocabularies, by decoding every
//! token number once; it never sees the text of a request. A key keeps its length, so slices that
//! end in zero bytes can't be taken for shorter ones. Read-only after it is built: no locks.

use tiktoken_rs::CoreBPE;

use super::classes::Classes;
use super::work;

/// No token has this rank.
pub(super) const NONE: u32 = u32::MAX;

/// The tokens and the character classes that one encoding counts with (about 9 MB for `o200k`).
pub(super) struct Vocabulary {
    pub(super) classes: &'static Classes,
    longest: usize,
    /// Rank by two bytes: every merge begins here.
    pairs: Vec<u32>,
    /// Tokens of 3 to 8 bytes.
    short: Table<u64>,
    /// Tokens of 9 to 16 bytes.
    long: Table<[u64; 2]>,
    /// Longer tokens: key is the hash and where the bytes lie.
    rest: Table<(u64, u32)>,
    bytes: Vec<u8>,
    /// One bit per hash of a token: most slices that are none are refused without leaving the
    /// second-level cache.
    filter: Vec<u64>,
}

impl Vocabulary {
    /// All ordinary tokens of `core`, whose numbers run from 0 to the first gap. Special tokens lie
    /// behind the gap and are never counted as such.
    pub(super) fn new(core: &CoreBPE, classes: &'static Classes) -> Self {
        let tokens: Vec<Vec<u8>> = (0..NONE)
            .map_while(|rank| core.decode_bytes(&[rank]).ok())
            .collect();
        let sized = |low: usize, high: usize| {
            tokens
                .iter()
                .filter(|token| (low..=high).contains(&token.len()))
                .count()
        };
        let mut vocabulary = Self {
            classes,
            longest: tokens.iter().map(Vec::len).max().unwrap_or(0),
            pairs: vec![NONE; 1 << 16],
            short: Table::new(sized(3, 8)),
            long: Table::new(sized(9, 16)),
            rest: Table::new(sized(17, usize::MAX)),
            bytes: Vec::new(),
            filter: vec![0; 1 << (FILTER_BITS - 6)],
        };
        for (rank, token) in tokens.iter().enumerate() {
            vocabulary.insert(
                token,
                u32::try_from(rank).expect("ranks are counted in u32"),
            );
        }
        vocabulary
    }

    fn insert(&mut self, token: &[u8], rank: u32) {
        let hash = match token.len() {
            // A single byte is always a token: nothing merges into it, so nobody asks.
            0 | 1 => return,
            2 => {
                self.pairs[pair(token[0], token[1])] = rank;
                return;
            }
            3..=8 => {
                let key = load(token, 0, token.len());
                let hash = hash_short(key, token.len());
                self.short.insert(hash, key, token.len(), rank);
                hash
            }
            9..=16 => {
                let key = [load(token, 0, 8), load(token, 8, token.len() - 8)];
                let hash = hash_long(key, token.len());
                self.long.insert(hash, key, token.len(), rank);
                hash
            }
            length => {
                let at = u32::try_from(self.bytes.len()).expect("a vocabulary is a few megabytes");
                self.bytes.extend_from_slice(token);
                let hash = hash_bytes(token);
                self.rest.insert(hash, (hash, at), length, rank);
                hash
            }
        };
        let bit = hash >> (64 - FILTER_BITS);
        self.filter[(bit >> 6) as usize] |= 1 << (bit & 63);
    }

    /// Whether `text[from..to]`, which is not empty, is one token.
    #[inline]
    pub(super) fn is_token(&self, text: &[u8], from: usize, to: usize) -> bool {
        to - from == 1 || self.rank(text, from, to) != NONE
    }

    /// The rank of `text[from..to]`, or [`NONE`]. The range must be at least one byte long; for one
    /// byte the answer is `NONE`, though it is a token.
    #[inline]
    pub(super) fn rank(&self, text: &[u8], from: usize, to: usize) -> u32 {
        work::spend(1);
        let length = to - from;
        match length {
            0 | 1 => NONE,
            2 => self.pair_rank(text, from),
            3..=8 => {
                let key = load(text, from, length);
                let hash = hash_short(key, length);
                if self.refuses(hash) {
                    NONE
                } else {
                    self.short.find(hash, length, |k| *k == key)
                }
            }
            9..=16 => {
                let key = [load(text, from, 8), load(text, from + 8, length - 8)];
                let hash = hash_long(key, length);
                if self.refuses(hash) {
                    NONE
                } else {
                    self.long.find(hash, length, |k| *k == key)
                }
            }
            _ if length > self.longest => NONE,
            _ => {
                let slice = &text[from..to];
                let hash = hash_bytes(slice);
                if self.refuses(hash) {
                    return NONE;
                }
                self.rest.find(hash, length, |&(known, at)| {
                    let at = at as usize;
                    known == hash && self.bytes.get(at..at + length) == Some(slice)
                })
            }
        }
    }

    /// The rank of the two bytes at `at`, or [`NONE`].
    #[inline(always)]
    pub(super) fn pair_rank(&self, text: &[u8], at: usize) -> u32 {
        self.pairs[pair(text[at], text[at + 1])]
    }

    #[inline(always)]
    fn refuses(&self, hash: u64) -> bool {
        let bit = hash >> (64 - FILTER_BITS);
        self.filter[(bit >> 6) as usize] & (1 << (bit & 63)) == 0
    }

    /// How many ordinary tokens there are.
    #[cfg(test)]
    pub(super) fn tokens(&self) -> usize {
        let pairs = self.pairs.iter().filter(|rank| **rank != NONE).count();
        256 + pairs + self.short.entries() + self.long.entries() + self.rest.entries()
    }

    /// The most slots that one look-up can read: a property of the vocabulary that no text changes.
    #[cfg(test)]
    pub(super) fn longest_probe(&self) -> usize {
        self.short
            .longest_probe()
            .max(self.long.longest_probe())
            .max(self.rest.longest_probe())
    }
}

/// 4 million bits are 512 KB; 200,000 tokens set one in twenty.
const FILTER_BITS: u32 = 22;

fn pair(first: u8, second: u8) -> usize {
    usize::from(first) << 8 | usize::from(second)
}

// === impl Table ===

/// Open addressing with linear probing; half empty, never grown, never written after it is built.
struct Table<K> {
    slots: Vec<Slot<K>>,
    shift: u32,
}

#[derive(Clone, Copy)]
struct Slot<K> {
    key: K,
    /// Length in the upper 8 bits, rank in the lower 24; [`NONE`] where the slot is empty.
    meta: u32,
}

const RANK_BITS: u32 = 24;
const RANK: u32 = (1 << RANK_BITS) - 1;

impl<K: Copy + Default> Table<K> {
    fn new(entries: usize) -> Self {
        let slots = (entries * 3 / 2).next_power_of_two().max(2);
        let empty = Slot {
            key: K::default(),
            meta: NONE,
        };
        Self {
            slots: vec![empty; slots],
            shift: 64 - slots.trailing_zeros(),
        }
    }

    fn insert(&mut self, hash: u64, key: K, length: usize, rank: u32) {
        assert!(
            length < 255 && rank <= RANK,
            "a token's length or rank is past what a slot holds"
        );
        let mut at = (hash >> self.shift) as usize;
        while self.slots[at].meta != NONE {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = Slot {
            key,
            meta: (length as u32) << RANK_BITS | rank,
        };
    }

    #[inline(always)]
    fn find(&self, hash: u64, length: usize, is: impl Fn(&K) -> bool) -> u32 {
        let mut at = (hash >> self.shift) as usize;
        loop {
            let slot = &self.slots[at & (self.slots.len() - 1)];
            if slot.meta == NONE {
                return NONE;
            }
            if slot.meta >> RANK_BITS == length as u32 && is(&slot.key) {
                return slot.meta & RANK;
            }
            at += 1;
        }
    }

    #[cfg(test)]
    fn entries(&self) -> usize {
        self.slots.iter().filter(|slot| slot.meta != NONE).count()
    }

    #[cfg(test)]
    fn longest_probe(&self) -> usize {
        let run = self
            .slots
            .split(|slot| slot.meta == NONE)
            .map(<[_]>::len)
            .max();
        run.unwrap_or(0) + 1
    }
}

// === keys and hashes ===

/// `length` (at most 8) bytes of `text` at `at` as a number, filled up with zero bytes.
#[inline(always)]
fn load(text: &[u8], at: usize, length: usize) -> u64 {
    if let Some(whole) = text.get(at..at + 8) {
        let whole = u64::from_le_bytes(whole.try_into().expect("eight bytes are eight bytes"));
        return whole & (u64::MAX >> (64 - 8 * length));
    }
    let mut padded = [0; 8];
    padded[..length].copy_from_slice(&text[at..at + length]);
    u64::from_le_bytes(padded)
}

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
const SPREAD: u64 = 0xd6e8_feb8_6659_fd93;

// The upper bits are the good ones: the tables and the filter take theirs from there.

#[inline(always)]
fn hash_short(key: u64, length: usize) -> u64 {
    let mixed = (key ^ (length as u64).wrapping_mul(SPREAD)).wrapping_mul(MIX);
    (mixed ^ mixed >> 32).wrapping_mul(SPREAD)
}

#[inline(always)]
fn hash_long(key: [u64; 2], length: usize) -> u64 {
    hash_short(hash_short(key[0], length).rotate_left(29) ^ key[1], length)
}

fn hash_bytes(token: &[u8]) -> u64 {
    let fold = |hash: u64, word: &[u8]| hash_short(hash ^ load(word, 0, word.len()), word.len());
    token.chunks(8).fold(token.len() as u64, |hash, word| {
        fold(hash.rotate_left(29), word)
    })
}

//! Byte pair merging: how many tokens a piece that is no token itself falls into.
//!
//! Always the leftmost pair of the lowest rank is merged, as the reference does. Short pieces are
//! merged on the stack by scanning all pairs for the lowest; longer ones with a heap, so that a
//! piece of n bytes costs n log n. Only the number of tokens comes out. Called by `count` alone.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::vocabulary::{NONE, Vocabulary};
use super::work;

/// The tokens of `text[from..to]`, which is not empty and at most [`super::PIECE_BYTES_MAX`] long.
#[inline]
pub(super) fn merge(vocabulary: &Vocabulary, text: &[u8], from: usize, to: usize) -> u64 {
    match to - from {
        1 => 1,
        // Two bytes that are no token are two tokens.
        2 => 2,
        length if length <= SHORT => merge_short(vocabulary, &text[from..], length),
        length => SCRATCH.with_borrow_mut(|scratch| {
            let tokens = scratch.merge(vocabulary, &text[from..], length);
            scratch.shrink();
            tokens
        }),
    }
}

/// The longest piece that is merged by scanning all its pairs.
const SHORT: usize = 64;
const LANES: usize = 8;
/// Larger than any `rank << SHIFT | position`.
const IDLE: i32 = i32::MAX;
const SHIFT: u32 = SHORT.trailing_zeros();

/// Part `i` starts at byte `i`; `pairs[i]` is the rank of it joined with the part behind it, over
/// its position, so that one minimum finds both the lowest rank and the leftmost place.
fn merge_short(vocabulary: &Vocabulary, text: &[u8], length: usize) -> u64 {
    let mut pairs = [IDLE; SHORT];
    let mut ends = [0_u8; SHORT + 1];
    let mut previous = [0_u8; SHORT + 1];
    let keyed = |rank: u32, at: usize| match rank {
        NONE => IDLE,
        rank => (rank << SHIFT) as i32 | at as i32,
    };
    for at in 0..length {
        ends[at] = at as u8 + 1;
        previous[at + 1] = at as u8;
        if at + 1 < length {
            pairs[at] = keyed(vocabulary.pair_rank(text, at), at);
        }
    }
    let lanes = length.div_ceil(LANES);
    let mut parts = length as u64;
    loop {
        let lowest = lowest(&pairs, lanes);
        if lowest == IDLE {
            return parts;
        }
        parts -= 1;
        let left = lowest as usize % SHORT;
        let right = usize::from(ends[left]);
        let end = usize::from(ends[right]);
        ends[left] = end as u8;
        previous[end] = left as u8;
        pairs[right] = IDLE;
        pairs[left] = match end < length {
            true => keyed(vocabulary.rank(text, left, usize::from(ends[end])), left),
            false => IDLE,
        };
        if left > 0 {
            let before = usize::from(previous[left]);
            pairs[before] = keyed(vocabulary.rank(text, before, end), before);
        }
    }
}

#[inline(always)]
fn lowest(pairs: &[i32; SHORT], lanes: usize) -> i32 {
    work::spend(lanes as u64);
    let mut lowest = [IDLE; LANES];
    for lane in pairs.chunks_exact(LANES).take(lanes) {
        for (lowest, pair) in lowest.iter_mut().zip(lane) {
            *lowest = (*lowest).min(*pair);
        }
    }
    lowest.into_iter().fold(IDLE, i32::min)
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a thread keeps for long pieces, so that they don't allocate each time.
#[derive(Default)]
struct Scratch {
    heap: BinaryHeap<Reverse<u64>>,
    parts: Vec<Part>,
}

/// The part that starts at the byte of its index, if there still is one.
#[derive(Clone, Copy)]
struct Part {
    end: u32,
    previous: u32,
    /// Rank of this part joined with the next.
    rank: u32,
}

/// Above this a thread gives its scratch back after use.
const SCRATCH_BYTES_MAX: usize = 64 * 1024;

impl Scratch {
    fn merge(&mut self, vocabulary: &Vocabulary, text: &[u8], length: usize) -> u64 {
        let Self { heap, parts } = self;
        let keyed = |rank: u32, at: usize| Reverse(u64::from(rank) << 32 | at as u64);
        parts.clear();
        heap.clear();
        parts.extend((0..length).map(|at| Part {
            end: at as u32 + 1,
            previous: (at as u32).saturating_sub(1),
            rank: if at + 1 < length {
                vocabulary.pair_rank(text, at)
            } else {
                NONE
            },
        }));
        let known = parts
            .iter()
            .enumerate()
            .filter(|(_, part)| part.rank != NONE);
        heap.extend(known.map(|(at, part)| keyed(part.rank, at)));

        let mut count = length as u64;
        while let Some(Reverse(lowest)) = heap.pop() {
            work::spend(1);
            let (rank, left) = ((lowest >> 32) as u32, lowest as u32 as usize);
            if parts[left].rank != rank {
                continue; // one of the two was merged with another since
            }
            count -= 1;
            let right = parts[left].end as usize;
            let end = parts[right].end as usize;
            parts[left].end = end as u32;
            parts[right].rank = NONE;
            parts[left].rank = NONE;
            if end < length {
                parts[end].previous = left as u32;
                let rank = vocabulary.rank(text, left, parts[end].end as usize);
                parts[left].rank = rank;
                if rank != NONE {
                    heap.push(keyed(rank, left));
                }
            }
            if left > 0 {
                let before = parts[left].previous as usize;
                let rank = vocabulary.rank(text, before, end);
                parts[before].rank = rank;
                if rank != NONE {
                    heap.push(keyed(rank, before));
                }
            }
        }
        count
    }

    fn bytes(&self) -> usize {
        self.heap.capacity() * size_of::<u64>() + self.parts.capacity() * size_of::<Part>()
    }

    fn shrink(&mut self) {
        if self.bytes() > SCRATCH_BYTES_MAX {
            *self = Self::default();
        }
    }
}

/// The bytes that this thread keeps for merging.
#[cfg(test)]
pub(super) fn scratch_bytes() -> usize {
    SCRATCH.with_borrow(Scratch::bytes)
}

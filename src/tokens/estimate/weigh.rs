//! The tokens of a text that comes in pieces: counted as far as the work allows, then estimated.
//!
//! The first bytes are counted. Of all that follows the linear model is taken, times what the exact
//! count of small samples bears to the model's estimate of the same samples: within about 4 % of the
//! count for mixed text, and linear in the text whatever it is. Where the samples lie is drawn anew
//! for each text, so that nobody can write between them.

use super::linear;
use crate::tokens::count::{Encoding, count};

/// How much of a text is counted before the rest is estimated.
#[derive(Clone, Copy, Debug)]
pub(in crate::tokens) struct Care {
    /// Bytes that are counted.
    pub exact_bytes_max: usize,
    /// Samples that are counted of the rest; without any no vocabulary is needed, if nothing else is
    /// counted.
    pub samples_max: usize,
    /// Bytes that may follow, which is how far apart samples are.
    pub bytes: usize,
    /// Chance.
    pub seed: u64,
}

/// The tokens of a text so far; see the module.
#[derive(Debug)]
pub(in crate::tokens) struct Scale {
    encoding: Encoding,
    /// Bytes that may still be counted.
    left: usize,
    /// Bytes of the text, and those of them that aren't ASCII.
    bytes: u64,
    wide: u64,
    counted: u64,
    rest: Rest,
}

/// What was only estimated.
#[derive(Debug)]
struct Rest {
    /// By the linear model.
    model: u64,
    /// Samples: by count and by the linear model.
    exact: u64,
    sampled: u64,
    /// Bytes until the sample at hand ends, or the next one begins.
    until: usize,
    within: bool,
    samples: usize,
    samples_max: usize,
    stride: usize,
    chance: u64,
}

/// A sample's length, bytes. Pieces at its edges count for more than they are: it is long enough for
/// that to be below a hundredth.
const SAMPLE_BYTES: usize = 1024;
/// Samples of a whole text.
pub(in crate::tokens) const SAMPLES_MAX: usize = 64;

// === impl Scale ===

impl Scale {
    pub(in crate::tokens) fn new(encoding: Encoding, care: Care) -> Self {
        let stride = (care.bytes / SAMPLES_MAX).max(2 * SAMPLE_BYTES);
        let mut rest = Rest {
            model: 0,
            exact: 0,
            sampled: 0,
            until: 0,
            within: false,
            samples: 0,
            samples_max: care.samples_max,
            stride,
            chance: care.seed | 1,
        };
        // The first sample begins soon: a short rest has one too.
        rest.until = match care.samples_max {
            0 => usize::MAX,
            _ => rest.below(SAMPLE_BYTES),
        };
        Self {
            encoding,
            left: care.exact_bytes_max,
            bytes: 0,
            wide: 0,
            counted: 0,
            rest,
        }
    }

    /// More text, whose tokens don't join with those before it.
    pub(in crate::tokens) fn add(&mut self, text: &str) {
        self.bytes += text.len() as u64;
        self.wide += wide_bytes(text);
        let mut cut = text.len().min(self.left);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let (counted, rest) = text.split_at(cut);
        self.counted += count(self.encoding, counted);
        self.left -= cut;
        if !rest.is_empty() {
            // What is left is less than a character.
            self.left = 0;
            self.rest.add(self.encoding, rest);
        }
    }

    /// The tokens so far.
    pub(in crate::tokens) fn tokens(&self) -> u64 {
        self.counted + self.rest.tokens()
    }

    /// Whether all of them were counted.
    pub(in crate::tokens) fn is_counted(&self) -> bool {
        self.rest.model == 0
    }

    /// Bytes of text so far, and those of them that aren't ASCII.
    pub(in crate::tokens) fn bytes(&self) -> (u64, u64) {
        (self.bytes, self.wide)
    }
}

fn wide_bytes(text: &str) -> u64 {
    text.as_bytes()
        .iter()
        .filter(|byte| !byte.is_ascii())
        .count() as u64
}

// === impl Rest ===

impl Rest {
    fn add(&mut self, encoding: Encoding, text: &str) {
        self.model += linear::estimate(text.as_bytes());
        let mut at = 0;
        while at < text.len() {
            let mut end = at.saturating_add(self.until).min(text.len());
            while !text.is_char_boundary(end) {
                end += 1;
            }
            if self.within {
                let sample = &text[at..end];
                self.exact += count(encoding, sample);
                self.sampled += linear::estimate(sample.as_bytes());
            }
            self.until = self.until.saturating_sub(end - at);
            if self.until == 0 {
                self.turn();
            }
            at = end;
        }
    }

    /// A sample ends, or one begins.
    fn turn(&mut self) {
        self.within = !self.within && self.samples < self.samples_max;
        if self.within {
            self.samples += 1;
            self.until = SAMPLE_BYTES;
        } else if self.samples < self.samples_max {
            // On average one a stride; never nearer than half of one.
            let gap = self.stride - SAMPLE_BYTES;
            self.until = gap / 2 + self.below(gap);
        } else {
            self.until = usize::MAX;
        }
    }

    fn tokens(&self) -> u64 {
        if self.sampled == 0 {
            return self.model;
        }
        let tokens = u128::from(self.model) * u128::from(self.exact) / u128::from(self.sampled);
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }

    /// A number below `most`, by chance (xorshift64*).
    fn below(&mut self, most: usize) -> usize {
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        let drawn = self.chance.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        (drawn as usize) % most.max(1)
    }
}

//! Exact token counts of text, by the two public vocabularies of OpenAI.
//!
//! Counts what the reference tokenizer counts, for any text, at a bounded price per byte: no
//! regular expression runs, nothing is locked, nothing panics on hostile text, and special tokens
//! written out in a text (`<|endoftext|>`) are ordinary text. A piece of more than
//! [`PIECE_BYTES_MAX`] bytes without a place to split (natural text has none of a thirtieth of
//! that) is cut there; only then may a count be off, by less than 0.1 %.
//!
//! The meter counts responses with a [`Running`], `prompt` counts requests; `app` calls [`load`] on
//! a thread of its own at start.

mod classes;
mod merge;
mod running;
mod scan;
mod vocabulary;
pub(super) mod work;

#[cfg(test)]
mod tests;

use std::sync::{LazyLock, OnceLock};

pub use self::running::{BUFFER_BYTES, Running};
pub use super::family::{Family, family};

use self::classes::Classes;
use self::scan::{Piece, Scan};
use self::vocabulary::Vocabulary;

/// Pieces are never longer; longer ones are cut (at a character's start).
pub const PIECE_BYTES_MAX: usize = 16 * 1024;

/// A public vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// GPT-4o and everything after it. The harmony encoding of gpt-oss counts text alike.
    O200k,
    /// GPT-4, GPT-3.5 and the embedding models.
    Cl100k,
}

static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::new);
static O200K: OnceLock<Vocabulary> = OnceLock::new();
static CL100K: OnceLock<Vocabulary> = OnceLock::new();

/// Fills both vocabularies, which takes about 0.4 s of one CPU, once. Until then a count waits for
/// its vocabulary: call this at start, off the threads that serve.
pub fn load() {
    vocabulary(Encoding::O200k);
    vocabulary(Encoding::Cl100k);
}

/// Whether a count in this encoding would begin at once.
pub fn loaded(encoding: Encoding) -> bool {
    cell(encoding).get().is_some()
}

fn vocabulary(encoding: Encoding) -> &'static Vocabulary {
    cell(encoding).get_or_init(|| {
        let core = match encoding {
            Encoding::O200k => tiktoken_rs::o200k_base(),
            Encoding::Cl100k => tiktoken_rs::cl100k_base(),
        };
        Vocabulary::new(
            &core.expect("the vocabulary is part of the binary"),
            &CLASSES,
        )
    })
}

fn cell(encoding: Encoding) -> &'static OnceLock<Vocabulary> {
    match encoding {
        Encoding::O200k => &O200K,
        Encoding::Cl100k => &CL100K,
    }
}

/// The tokens of `text`. Linear: about 10 ns per byte of ordinary text, some 100 ns of the worst.
pub fn count(encoding: Encoding, text: &str) -> u64 {
    walk(encoding, text, End::Text).0
}

/// The tokens of those pieces at the start of `text` that no text behind it can change, and where
/// they end. What is left is shorter than [`PIECE_BYTES_MAX`].
fn settled(encoding: Encoding, text: &str) -> (u64, usize) {
    walk(encoding, text, End::Unknown)
}

/// What comes behind the text that is walked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing.
    Text,
    /// Perhaps more: pieces that depend on it are left.
    Unknown,
}

/// Each piece is looked for in a window of at most [`PIECE_BYTES_MAX`] from its start, as if the
/// text ended there. So the work is linear, and where a piece ends never depends on how much of
/// the text beyond the window has arrived: a text in parts counts as the whole.
fn walk(encoding: Encoding, text: &str, end: End) -> (u64, usize) {
    if text.is_empty() {
        return (0, 0);
    }
    let vocabulary = vocabulary(encoding);
    let bytes = text.as_bytes();
    let (mut tokens, mut start) = (0, 0);
    while start < bytes.len() {
        let full = bytes.len() - start >= PIECE_BYTES_MAX;
        let mut limit = bytes.len().min(start + PIECE_BYTES_MAX);
        while !text.is_char_boundary(limit) {
            limit -= 1;
        }
        let scan = Scan::new(vocabulary.classes, &bytes[..limit]);
        let piece: Piece = match encoding {
            Encoding::O200k => scan.o200k(start),
            Encoding::Cl100k => scan.cl100k(start),
        };
        if end == End::Unknown && !full && piece.reach >= limit {
            break;
        }
        tokens += match vocabulary.is_token(bytes, start, piece.end) {
            true => 1,
            false => merge::merge(vocabulary, bytes, start, piece.end),
        };
        start = piece.end;
    }
    (tokens, start)
}

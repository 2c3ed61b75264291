//! The tokens of a text that arrives in pieces: the same count as for the whole text, however it
//! was cut, from a bounded memory. One per text field of a stream; the meter of a response holds
//! them.

use super::{Encoding, PIECE_BYTES_MAX, settled};

/// A count that is fed with deltas.
///
/// `push` only copies until [`BUFFER_BYTES`] are waiting; then it counts all pieces that no later
/// text can change and keeps the rest: at most [`PIECE_BYTES_MAX`] and the last delta. Most streams
/// end with the provider's own usage before that, and cost a copy.
#[derive(Debug)]
pub struct Running {
    encoding: Encoding,
    /// Tokens of the text before `tail`.
    done: u64,
    /// Text that begins at the start of a piece.
    tail: String,
    /// Length of `tail` that is worth another scan.
    due: usize,
}

/// The text that waits uncounted, normally.
pub const BUFFER_BYTES: usize = 4 * 1024;

impl Running {
    /// A text of which nothing has arrived. Allocates nothing yet.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            done: 0,
            tail: String::new(),
            due: BUFFER_BYTES,
        }
    }

    /// More of the text arrived.
    #[inline]
    pub fn push(&mut self, delta: &str) {
        self.tail.push_str(delta);
        if self.tail.len() >= self.due {
            self.settle();
        }
    }

    /// The tokens of all text that arrived so far, as if it ended here. Exact; counts what waits
    /// (at most about [`PIECE_BYTES_MAX`]) anew on each call.
    pub fn total(&self) -> u64 {
        self.done + super::count(self.encoding, &self.tail)
    }

    #[cold]
    #[inline(never)]
    fn settle(&mut self) {
        let (tokens, end) = settled(self.encoding, &self.tail);
        self.done += tokens;
        self.tail.drain(..end);
        // An unfinished piece is scanned from its start again: double it first, lest a stream of
        // one long piece be scanned at each delta.
        self.due = (2 * self.tail.len()).clamp(BUFFER_BYTES, PIECE_BYTES_MAX);
        if self.tail.capacity() > 2 * PIECE_BYTES_MAX {
            self.tail.shrink_to(BUFFER_BYTES);
        }
    }

    /// The room that waiting text takes.
    pub fn bytes(&self) -> usize {
        self.tail.capacity()
    }

    /// The bytes that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.tail.len()
    }
}

//! Puts together what the client gets of one chunk: a slice of it as long as one will do.

use bytes::{Bytes, BytesMut};

use super::Fate;

/// Collects kept places of a chunk, and bytes from before it, in order.
#[derive(Debug)]
pub(super) struct Outlet<'a> {
    chunk: &'a Bytes,
    /// The place that was kept last, not yet copied.
    run: (usize, usize),
    /// The most bytes that can come together.
    most: usize,
    /// The client may get other bytes than the upstream sent.
    edits: bool,
    edited: &'a mut BytesMut,
}

/// Room for edited bytes that is taken at once; it is used again when the client has its bytes.
const EDITED_BYTES_MIN: usize = 1024;
/// Room that is kept for that.
const EDITED_BYTES_KEPT_MAX: usize = 16 * 1024;

// === impl Outlet ===

impl<'a> Outlet<'a> {
    /// For `chunk`, with `before` bytes that were held before it; `edited` is empty but may have
    /// room left from earlier chunks. Without `edits` all this does nothing: the chunk passes.
    pub(super) fn new(
        chunk: &'a Bytes,
        before: usize,
        edits: bool,
        edited: &'a mut BytesMut,
    ) -> Self {
        Outlet {
            chunk,
            run: (0, 0),
            most: chunk.len() + before,
            edits,
            edited,
        }
    }

    /// Keeps a place of the chunk.
    pub(super) fn keep(&mut self, start: usize, end: usize) {
        if self.run.1 == start {
            self.run.1 = end;
        } else {
            self.copy_run();
            self.run = (start, end);
        }
    }

    /// Keeps of a place of the chunk what its fate leaves; cuts are relative to its start.
    pub(super) fn keep_of(&mut self, start: usize, end: usize, fate: Fate) {
        let cuts = match fate {
            Fate::Drop => return,
            Fate::Keep => return self.keep(start, end),
            Fate::Cut(cuts) => cuts,
        };
        let mut from = start;
        for (cut, until) in cuts.into_iter().flatten() {
            self.keep(from, start + cut);
            from = start + until;
        }
        self.keep(from, end);
    }

    /// Adds bytes that are not the chunk's, as their fate says.
    pub(super) fn add(&mut self, bytes: &[u8], fate: Fate) {
        let cuts = match fate {
            Fate::Drop => return,
            Fate::Keep => [None; 2],
            Fate::Cut(cuts) => cuts,
        };
        self.copy_run();
        let mut from = 0;
        for (cut, until) in cuts.into_iter().flatten() {
            self.copy(&bytes[from..cut]);
            from = until;
        }
        self.copy(&bytes[from..]);
    }

    /// What the client gets.
    pub(super) fn finish(mut self) -> Bytes {
        if !self.edits {
            return self.chunk.clone();
        }
        if self.edited.is_empty() {
            return self.chunk.slice(self.run.0..self.run.1);
        }
        self.copy_run();
        let edited = self.edited.split().freeze();
        if self.most > EDITED_BYTES_KEPT_MAX {
            // As much is seldom needed again.
            *self.edited = BytesMut::new();
        }
        edited
    }

    fn copy_run(&mut self) {
        let (start, end) = std::mem::take(&mut self.run);
        let chunk = self.chunk;
        self.copy(&chunk[start..end]);
    }

    fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || !self.edits {
            return;
        }
        if self.edited.is_empty() && self.edited.capacity() < self.most {
            self.edited.reserve(self.most.max(EDITED_BYTES_MIN));
        }
        self.edited.extend_from_slice(bytes);
    }
}

//! The events of a stream: held until they are whole, read, and left to the client as they are or
//! without their usage.

use bytes::Bytes;

use super::outlet::Outlet;
use super::{EVENT_BYTES_MAX, Fate, HELD_BYTES_KEPT_MAX, Meter};
use crate::dialect::answer::{Choices, Facts};
use crate::dialect::eventstream;
use crate::dialect::framing::Framer;
use crate::dialect::sse::{self, Line};

impl Meter {
    /// Goes on with the event that was begun; gives where the next one begins.
    pub(super) fn resume(&mut self, chunk: &Bytes, outlet: &mut Outlet<'_>) -> usize {
        let end = self.frame(chunk);
        let piece = &chunk[..end.unwrap_or(chunk.len())];
        if self.long {
            outlet.keep(0, piece.len());
            self.read_piece(piece);
            self.long = end.is_none();
            return piece.len();
        }
        self.hold(piece, 0, outlet);
        if end.is_some() {
            // Whole now, unless it has just become too long.
            if !std::mem::take(&mut self.long) {
                let mut held = std::mem::take(&mut self.held);
                let fate = match self.known(&held) {
                    Some((_, fate)) => fate,
                    None => self.event(&held),
                };
                outlet.add(&held, fate);
                held.clear();
                held.shrink_to(HELD_BYTES_KEPT_MAX);
                self.held = held;
            }
        }
        piece.len()
    }

    /// Keeps a piece of an event, which stands at `at` in the chunk, until the rest comes.
    pub(super) fn hold(&mut self, piece: &[u8], at: usize, outlet: &mut Outlet<'_>) {
        if self.held.len() + piece.len() > EVENT_BYTES_MAX {
            let held = std::mem::take(&mut self.held);
            outlet.add(&held, Fate::Keep);
            outlet.keep(at, at + piece.len());
            self.long = true;
            self.begin_long(&held, piece);
            return;
        }
        self.held.extend_from_slice(piece);
    }

    /// Takes an event of the known shape from the beginning of `bytes`; gives its length.
    pub(super) fn known(&mut self, bytes: &[u8]) -> Option<(usize, Fate)> {
        let fit = self.shape.fit(bytes)?;
        self.say(fit.choice, fit.field, &bytes[fit.text]);
        let fate = match fit.usage_at.filter(|_| self.strip) {
            None => Fate::Keep,
            cut => Fate::Cut([cut, None]),
        };
        Some((fit.len, fate))
    }

    /// The end of the event that `bytes` go on with.
    pub(super) fn frame(&mut self, bytes: &[u8]) -> Option<usize> {
        self.framer.as_mut()?.next(bytes)
    }

    /// Reads a whole event.
    pub(super) fn event(&mut self, event: &[u8]) -> Fate {
        match self.framer {
            Some(Framer::Events(_)) => self.sent_event(event),
            Some(Framer::Frames(_)) => {
                self.message(event);
                Fate::Keep
            }
            _ => {
                self.reader.begin();
                self.reader.push(0, event);
                self.heed(event);
                Fate::Keep
            }
        }
    }

    /// Reads a server-sent event.
    fn sent_event(&mut self, event: &[u8]) -> Fate {
        self.reader.begin();
        let mut lines = 0;
        for line in sse::lines(event) {
            match line {
                Line::Event(name) => self.error |= name == b"error",
                Line::Data(_, b"[DONE]") => self.done = true,
                Line::Data(at, content) => {
                    if lines > 0 {
                        self.reader.push(at, b"\n");
                    }
                    self.reader.push(at, content);
                    lines += 1;
                }
            }
        }
        if lines == 0 {
            return Fate::Keep;
        }
        self.heed(event);
        self.shape.learn(event, &self.reader);
        if self.strip {
            fate(self.reader.facts())
        } else {
            Fate::Keep
        }
    }

    /// Reads a message of Amazon's event stream.
    fn message(&mut self, bytes: &[u8]) {
        let Some(message) = eventstream::message(bytes) else {
            return;
        };
        self.error |= message.exception;
        let unwrapped = eventstream::wrapped(message.payload);
        let payload = unwrapped.as_deref().unwrap_or(message.payload);
        self.reader.begin();
        self.reader.push(0, payload);
        self.heed(payload);
    }

    /// Begins to read an event that comes in pieces: what was held of it, and what follows that.
    pub(super) fn begin_long(&mut self, held: &[u8], piece: &[u8]) {
        self.reader.begin_long();
        let (mut data, mut error) = (None, false);
        match self.framer {
            Some(Framer::Events(_)) => {
                for line in sse::lines(if held.is_empty() { piece } else { held }) {
                    match line {
                        Line::Event(name) => error |= name == b"error",
                        Line::Data(at, _) => data = data.or(Some(at)),
                    }
                }
            }
            Some(Framer::Lines) => data = Some(0),
            _ => {}
        }
        self.error |= error;
        let Some(at) = data else {
            // Nothing of it is JSON.
            self.reader.push(0, b"?");
            return;
        };
        match held.len() {
            0 => self.read_piece(&piece[at..]),
            _ => {
                self.read_piece(&held[at..]);
                self.read_piece(piece);
            }
        }
    }
}

/// What becomes of an event whose usage the client didn't ask for.
fn fate(facts: &Facts) -> Fate {
    if facts.usage_at[0].is_none() {
        return Fate::Keep;
    }
    let separate = facts.usage_given && facts.choices != Choices::Some && !facts.error;
    if separate {
        Fate::Drop
    } else {
        Fate::Cut(facts.usage_at)
    }
}

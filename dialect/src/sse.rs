//! Server-sent events without I/O: where each event ends, and which of its lines are data.
//!
//! The framer looks at bytes where they lie and copies none; who holds a half event is the
//! caller's business (the meter). LF, CRLF and CR end lines, mixed as well.

use memchr::memchr2;

/// Finds the ends of events in bytes that come in pieces.
///
/// An event is everything up to and with its blank line; a blank line alone is an event without
/// content. The result does not depend on how the bytes were cut: a CR that ends a blank line
/// closes the event at once where the line before ended with a bare CR, else the next byte is
/// awaited, since it may be the LF of a CRLF.
#[derive(Debug, Clone, Default)]
pub struct Framer {
    /// The current line has at least one byte.
    filled: bool,
    /// The line before ended with a bare CR.
    bare_cr: bool,
    /// The last byte was a CR; an LF now belongs to it.
    after_cr: bool,
    /// That CR ended a blank line.
    closing: bool,
}

// === impl Framer ===

impl Framer {
    /// The offset after the first event that ends in `bytes`, which continue what earlier calls
    /// were given; `None` when no event ends here. After `Some` give it the rest.
    pub fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            if self.after_cr {
                let next = *bytes.get(at)?;
                at += usize::from(next == b'\n');
                self.after_cr = false;
                self.bare_cr = next != b'\n';
                if self.closing {
                    return self.end(at);
                }
            }
            let Some(found) = memchr2(b'\n', b'\r', &bytes[at..]) else {
                self.filled |= at < bytes.len();
                return None;
            };
            let blank = !self.filled && found == 0;
            self.filled = false;
            at += found + 1;
            match (bytes[at - 1], blank) {
                (b'\n', true) => return self.end(at),
                (b'\n', false) => self.bare_cr = false,
                (_, true) if self.bare_cr => return self.end(at),
                (_, blank) => {
                    self.after_cr = true;
                    self.closing = blank;
                }
            }
        }
    }

    /// Whether the last byte seen was the end of an event (or nothing was seen yet).
    pub fn is_between(&self) -> bool {
        !(self.filled || self.bare_cr || self.after_cr || self.closing)
    }

    fn end(&mut self, at: usize) -> Option<usize> {
        *self = Framer::default();
        Some(at)
    }
}

/// One line of an event that says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// The content of a `data` line and its offset in the event.
    Data(usize, &'a [u8]),
    /// The content of an `event` line.
    Event(&'a [u8]),
}

/// The `data` and `event` lines of one event; comments and other fields are passed over.
pub fn lines(event: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut at = if event.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    std::iter::from_fn(move || {
        while at < event.len() {
            let start = at;
            let len = memchr2(b'\n', b'\r', &event[start..]).unwrap_or(event.len() - start);
            let line = &event[start..start + len];
            at = start + len + 1;
            if let Some(content) = field(line, b"data") {
                return Some(Line::Data(start + line.len() - content.len(), content));
            }
            if let Some(content) = field(line, b"event") {
                return Some(Line::Event(content));
            }
        }
        None
    })
}

/// What follows `name:` and at most one space.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let content = line.strip_prefix(name)?.strip_prefix(b":")?;
    Some(content.strip_prefix(b" ").unwrap_or(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut framer, mut events, mut held) = (Framer::default(), vec![], vec![]);
        for piece in pieces {
            let mut rest = *piece;
            while let Some(end) = framer.next(rest) {
                held.extend_from_slice(&rest[..end]);
                rest = &rest[end..];
                events.push(std::mem::take(&mut held));
            }
            held.extend_from_slice(rest);
        }
        (events, held)
    }

    #[test]
    fn each_line_ending_ends_events_and_no_cut_moves_the_end() {
        let streams: [(&[u8], &[&[u8]]); 6] = [
            (
                b"data: a\n\ndata: b\ndata: c\n\n",
                &[b"data: a\n\n", b"data: b\ndata: c\n\n"],
            ),
            (
                b"data: a\r\n\r\ndata: b\r\n\r\n",
                &[b"data: a\r\n\r\n", b"data: b\r\n\r\n"],
            ),
            (b"data: a\r\rdata: b\r\r", &[b"data: a\r\r", b"data: b\r\r"]),
            (
                b": hi\n\n\ndata: b\n\n",
                &[b": hi\n\n", b"\n", b"data: b\n\n"],
            ),
            (
                b"data: a\n\r\ndata: b\r\n\n",
                &[b"data: a\n\r\n", b"data: b\r\n\n"],
            ),
            (
                b"\r\ndata: a\r\n\rdata: b\n\n",
                &[b"\r\n", b"data: a\r\n\r", b"data: b\n\n"],
            ),
        ];
        for (stream, expected) in streams {
            for first in 0..=stream.len() {
                for second in first..=stream.len() {
                    let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                    let (found, held) = events(&pieces);
                    assert_eq!(found, expected, "{stream:?} cut at {first} and {second}");
                    assert!(held.is_empty());
                }
            }
        }
    }

    #[test]
    fn an_event_with_bare_crs_is_not_held_for_a_byte_that_may_never_come() {
        assert_eq!(Framer::default().next(b"data: a\r\r"), Some(9));
    }

    #[test]
    fn an_unfinished_event_stays_open() {
        let mut framer = Framer::default();
        assert!(framer.is_between());
        assert_eq!(framer.next(b"data: a\n"), None);
        assert_eq!(framer.next(b"\n"), Some(1));
        assert!(framer.is_between());
        assert_eq!(framer.next(b"d"), None);
        assert!(!framer.is_between());
    }

    #[test]
    fn data_and_event_lines_are_told_from_the_rest() {
        let event = b"\xef\xbb\xbfevent: error\r\n: data: no\r\ndata:  a\r\ndata:b\rdatax: no\n\n";
        let found: Vec<_> = lines(event).collect();
        assert_eq!(found[0], Line::Event(b"error"));
        assert_eq!(found[1], Line::Data(35, b" a"));
        assert_eq!(found[2], Line::Data(44, b"b"));
        assert_eq!(found.len(), 3);
        assert_eq!(&event[35..37], b" a");
    }
}

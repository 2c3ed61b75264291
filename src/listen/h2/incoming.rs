//! What a client sends over HTTP/2, frame by frame.
//!
//! The `h2` crate decides what frames mean; this only reads their heads. It stops what is cheap to
//! send and dear to serve (resets, pings, settings, window updates in excess), and what the crate
//! would take for a lesser mistake than RFC 9113 says. It decodes no headers and does no I/O; time
//! is an argument. Called by `frames`.

use super::allowance::{Allowance, Purse};
use super::h2_crate::Reason;
use std::collections::BTreeSet;
use std::ops::Range;
use tokio::time::Instant;

/// Streams that a client may take back at once.
pub const RESETS_AT_ONCE: u64 = 100;
/// Streams that a client takes back: at once, and per second from then on. Clients of models do
/// cancel; a rapid reset (CVE-2023-44487) cancels thousands.
const RESETS: Allowance = Allowance {
    at_once: RESETS_AT_ONCE,
    per_second: 10,
};
/// Frames that carry nothing of a request, in [`FRAME_COST`]s: at once, and per second.
const CONTROL: Allowance = Allowance {
    at_once: 1000 * FRAME_COST,
    per_second: 100 * FRAME_COST,
};
/// What such a frame costs. A byte that goes to the client earns one back: whoever reads much
/// sends many window updates, and whoever asks for an answer byte by byte doesn't earn them.
const FRAME_COST: u64 = 64;
/// SETTINGS are applied to every stream.
const SETTINGS_COST: u64 = 10 * FRAME_COST;

const PREFACE_BYTES: u32 = 24;
const HEAD_BYTES: usize = 9;

/// Where in the client's bytes we are, and which streams it may still send on.
///
/// ```text
/// preface → head (9 bytes) → payload → head → …
/// ```
#[derive(Debug)]
pub struct Incoming {
    /// Bytes of the preface or of a payload that are still to come.
    skip: u32,
    head: [u8; HEAD_BYTES],
    /// How much of `head` is known.
    known: usize,
    /// The payload is one of SETTINGS: the parameter that is being read.
    settings: Option<Parameter>,
    /// The client has sent its first SETTINGS.
    pub greeted: bool,
    /// A header block goes on in CONTINUATION frames: nothing else may come.
    in_block: bool,
    /// When a header block began that isn't whole.
    pub block: Option<Instant>,
    /// The client's last stream.
    last: u32,
    /// Streams that it has not ended yet.
    open: BTreeSet<u32>,
    /// Ids that it left out (RFC 9113, section 5.1.1); as many gaps as [`GAPS_MAX`].
    gaps: Vec<Range<u32>>,
    resets: Purse,
    control: Purse,
}

/// A client that leaves out ids is rare, and one that goes back to one isn't right.
const GAPS_MAX: usize = 8;

#[derive(Debug, Default)]
struct Parameter {
    bytes: [u8; 6],
    known: usize,
}

/// The head of a frame (RFC 9113, section 4.1).
#[derive(Clone, Copy, Debug)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    const END_STREAM: u8 = 0x1;
    const ACK: u8 = 0x1;
    const END_HEADERS: u8 = 0x4;

    fn new(bytes: [u8; HEAD_BYTES]) -> Self {
        let [a, b, c, kind, flags, w, x, y, z] = bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes([w, x, y, z]) & (u32::MAX >> 1),
        }
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

impl Incoming {
    /// Before the preface.
    pub fn new(now: Instant) -> Self {
        Self {
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            known: 0,
            settings: None,
            greeted: false,
            in_block: false,
            block: None,
            last: 0,
            open: BTreeSet::new(),
            gaps: Vec::new(),
            resets: Purse::new(RESETS, now),
            control: Purse::new(CONTROL, now),
        }
    }

    /// So many bytes went to the client.
    pub fn earn(&mut self, bytes: usize) {
        self.control.earn(bytes as u64);
    }

    /// Looks at the next bytes.
    ///
    /// # Errors
    /// How many of them come before what is wrong, and what is.
    pub fn scan(
        &mut self,
        bytes: &[u8],
        now: impl Fn() -> Instant + Copy,
    ) -> Result<(), (usize, Reason)> {
        let mut at = 0;
        while at < bytes.len() {
            if self.skip > 0 {
                let count = (bytes.len() - at).min(self.skip as usize);
                if let Some(parameter) = &mut self.settings {
                    let payload = &bytes[at..at + count];
                    parameter.read(payload).map_err(|reason| (at, reason))?;
                }
                self.skip -= u32::try_from(count).unwrap_or(self.skip);
                at += count;
                self.end_block();
                continue;
            }
            let start = at;
            let count = (bytes.len() - at).min(HEAD_BYTES - self.known);
            self.head[self.known..self.known + count].copy_from_slice(&bytes[at..at + count]);
            self.known += count;
            at += count;
            if self.known == HEAD_BYTES {
                self.known = 0;
                let head = Head::new(self.head);
                self.settings = (head.kind == kind::SETTINGS).then(Parameter::default);
                self.skip = head.length;
                self.judge(head, now).map_err(|reason| (start, reason))?;
                self.end_block();
            }
        }
        Ok(())
    }

    /// Forgets the block's beginning when its last payload is whole.
    fn end_block(&mut self) {
        if self.skip == 0 && !self.in_block {
            self.block = None;
        }
    }

    fn judge(&mut self, head: Head, now: impl Fn() -> Instant) -> Result<(), Reason> {
        if self.in_block && head.kind != kind::CONTINUATION {
            // The crate knows: PROTOCOL_ERROR.
            return Ok(());
        }
        // RFC 9113, section 3.4: the first frame is SETTINGS.
        let hello = head.kind == kind::SETTINGS && !head.has(Head::ACK);
        if !self.greeted && !hello {
            return Err(Reason::PROTOCOL_ERROR);
        }
        self.greeted = true;
        let sized = |right: bool| right.then_some(()).ok_or(Reason::FRAME_SIZE_ERROR);
        let cost = match head.kind {
            kind::DATA => {
                self.sends_on(head)?;
                0
            }
            kind::HEADERS => {
                self.in_block = !head.has(Head::END_HEADERS);
                self.block = Some(now());
                self.begins(head)?;
                0
            }
            kind::CONTINUATION => {
                self.in_block &= !head.has(Head::END_HEADERS);
                0
            }
            kind::RST_STREAM => {
                sized(head.length == 4)?;
                self.open.remove(&head.stream);
                if !self.resets.spend(1, now()) {
                    return Err(Reason::ENHANCE_YOUR_CALM);
                }
                return Ok(());
            }
            kind::PRIORITY => {
                sized(head.length == 5)?;
                FRAME_COST
            }
            kind::SETTINGS => {
                let ack = head.has(Head::ACK);
                sized(head.length.is_multiple_of(6) && !(ack && head.length > 0))?;
                SETTINGS_COST
            }
            kind::PUSH_PROMISE => return Err(Reason::PROTOCOL_ERROR),
            kind::PING => {
                sized(head.length == 8)?;
                FRAME_COST
            }
            kind::WINDOW_UPDATE => {
                sized(head.length == 4)?;
                FRAME_COST
            }
            _ => FRAME_COST,
        };
        if cost > 0 && !self.control.spend(cost, now()) {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        Ok(())
    }

    /// HEADERS: a new stream, or the trailers of one that is open.
    fn begins(&mut self, head: Head) -> Result<(), Reason> {
        let id = head.stream;
        if id.is_multiple_of(2) {
            return Ok(());
        }
        if id <= self.last {
            return self.sends_on(head);
        }
        if id > self.last + 2 && self.gaps.len() < GAPS_MAX {
            self.gaps.push(self.last + 1..id);
        }
        self.last = id;
        if !head.has(Head::END_STREAM) {
            self.open.insert(id);
        }
        Ok(())
    }

    /// What a client sends on a stream that it has ended, or taken back, is STREAM_CLOSED (RFC
    /// 9113, section 5.1); the crate knows of streams that never were.
    fn sends_on(&mut self, head: Head) -> Result<(), Reason> {
        let id = head.stream;
        let never_was = id == 0
            || id.is_multiple_of(2)
            || id > self.last
            || self.gaps.iter().any(|gap| gap.contains(&id));
        if never_was {
            return Ok(());
        }
        let open = if head.has(Head::END_STREAM) {
            self.open.remove(&id)
        } else {
            self.open.contains(&id)
        };
        if open {
            Ok(())
        } else {
            Err(Reason::STREAM_CLOSED)
        }
    }
}

impl Parameter {
    /// RFC 9113, section 6.5.2: no window is larger than 2^31-1.
    fn read(&mut self, payload: &[u8]) -> Result<(), Reason> {
        const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
        for byte in payload {
            self.bytes[self.known] = *byte;
            self.known += 1;
            if self.known == self.bytes.len() {
                self.known = 0;
                if self.bytes[..2] == INITIAL_WINDOW_SIZE && self.bytes[2] > 0x7f {
                    return Err(Reason::FLOW_CONTROL_ERROR);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A frame whose payload is zeros.
    fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> Vec<u8> {
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(HEAD_BYTES + length as usize, 0);
        bytes
    }

    /// After the preface and the first SETTINGS.
    fn begun(now: Instant) -> Incoming {
        let mut incoming = Incoming::new(now);
        incoming.skip = 0;
        incoming.greeted = true;
        incoming
    }

    fn fed(frames: &[Vec<u8>]) -> Result<(), (usize, Reason)> {
        let now = Instant::now();
        let mut incoming = begun(now);
        let all = frames.concat();
        let whole = incoming.scan(&all, || now);
        // However the bytes are cut, the verdict is the same.
        let mut incoming = begun(now);
        let one = all
            .iter()
            .find_map(|byte| incoming.scan(&[*byte], || now).err());
        assert_eq!(whole.err().map(|it| it.1), one.map(|it| it.1));
        whole
    }

    const OPENED: u8 = Head::END_HEADERS;
    const ENDED: u8 = Head::END_HEADERS | Head::END_STREAM;

    #[test]
    fn an_ordinary_conversation_passes() {
        let sound = [
            frame(kind::SETTINGS, 0, 0, 18),
            frame(kind::SETTINGS, Head::ACK, 0, 0),
            frame(kind::HEADERS, OPENED, 1, 40),
            frame(kind::DATA, 0, 1, 100),
            frame(kind::PING, 0, 0, 8),
            frame(kind::HEADERS, 0, 3, 40),
            frame(kind::CONTINUATION, Head::END_HEADERS, 3, 40),
            frame(kind::DATA, Head::END_STREAM, 3, 0),
            frame(kind::HEADERS, ENDED, 1, 7),
            frame(kind::WINDOW_UPDATE, 0, 1, 4),
            frame(kind::RST_STREAM, 0, 3, 4),
            frame(0xfa, 0, 0, 3),
        ];
        assert_eq!(fed(&sound), Ok(()));
    }

    #[test]
    fn a_conversation_begins_with_settings() {
        let now = Instant::now();
        let first = |first: Vec<u8>| {
            let mut bytes = vec![b'P'; PREFACE_BYTES as usize];
            bytes.extend(first);
            Incoming::new(now).scan(&bytes, || now)
        };
        assert_eq!(first(frame(kind::SETTINGS, 0, 0, 0)), Ok(()));
        for other in [
            frame(kind::SETTINGS, Head::ACK, 0, 0),
            frame(kind::HEADERS, ENDED, 1, 0),
        ] {
            assert_eq!(first(other), Err((24, Reason::PROTOCOL_ERROR)));
        }
    }

    #[test]
    fn what_comes_before_a_wrong_frame_is_passed_on() {
        let first = frame(kind::PING, 0, 0, 8);
        let found = fed(&[first.clone(), frame(kind::PING, 0, 0, 6)]);
        assert_eq!(found, Err((first.len(), Reason::FRAME_SIZE_ERROR)));
    }

    #[test]
    fn frames_of_the_wrong_size_are_told_as_such() {
        for wrong in [
            frame(kind::PING, 0, 0, 9),
            frame(kind::PRIORITY, 0, 1, 4),
            frame(kind::RST_STREAM, 0, 1, 3),
            frame(kind::SETTINGS, 0, 0, 5),
            frame(kind::SETTINGS, Head::ACK, 0, 6),
            frame(kind::WINDOW_UPDATE, 0, 0, 3),
        ] {
            assert_eq!(fed(&[wrong]), Err((0, Reason::FRAME_SIZE_ERROR)));
        }
    }

    #[test]
    fn a_window_of_two_to_the_31_is_too_large() {
        let settings = |value: u32| {
            let mut bytes = frame(kind::SETTINGS, 0, 0, 6);
            bytes[HEAD_BYTES..HEAD_BYTES + 2].copy_from_slice(&[0, 4]);
            bytes[HEAD_BYTES + 2..].copy_from_slice(&value.to_be_bytes());
            bytes
        };
        assert_eq!(fed(&[settings((1 << 31) - 1)]), Ok(()));
        let reason = fed(&[settings(1 << 31)]).map_err(|it| it.1);
        assert_eq!(reason, Err(Reason::FLOW_CONTROL_ERROR));
    }

    #[test]
    fn a_stream_that_the_client_ended_takes_nothing_more() {
        let closed = |frames: &[Vec<u8>]| fed(frames).map_err(|it| it.1);
        let ended = frame(kind::HEADERS, ENDED, 5, 1);
        let again = [ended.clone(), ended.clone()];
        assert_eq!(closed(&again), Err(Reason::STREAM_CLOSED));
        let data = [ended.clone(), frame(kind::DATA, 0, 5, 1)];
        assert_eq!(closed(&data), Err(Reason::STREAM_CLOSED));
        let reset = [
            frame(kind::HEADERS, OPENED, 5, 1),
            frame(kind::RST_STREAM, 0, 5, 4),
            frame(kind::DATA, 0, 5, 1),
        ];
        assert_eq!(closed(&reset), Err(Reason::STREAM_CLOSED));
        // One that it left out is the crate's affair.
        assert_eq!(closed(&[ended, frame(kind::HEADERS, ENDED, 3, 1)]), Ok(()));
    }

    #[test]
    fn a_block_of_headers_is_timed_until_it_is_whole() {
        let now = Instant::now();
        let mut incoming = begun(now);
        let opening = frame(kind::HEADERS, 0, 1, 4);
        let closing = frame(kind::CONTINUATION, Head::END_HEADERS, 1, 4);
        for (bytes, since) in [
            (&opening[..], Some(now)),
            (&closing[..HEAD_BYTES + 3], Some(now)),
            (&closing[HEAD_BYTES + 3..], None),
            (&frame(kind::HEADERS, ENDED, 3, 4)[..HEAD_BYTES], Some(now)),
        ] {
            assert_eq!(incoming.scan(bytes, || now), Ok(()));
            assert_eq!(incoming.block, since);
        }
    }

    #[test]
    fn resets_are_taken_up_to_their_allowance() {
        let now = Instant::now();
        let mut incoming = begun(now);
        let reset = frame(kind::RST_STREAM, 0, 1, 4);
        let many = reset.repeat(100);
        assert_eq!(incoming.scan(&many, || now), Ok(()));
        let later = now + Duration::from_millis(100);
        assert_eq!(incoming.scan(&reset, || later), Ok(()), "ten in a second");
        let one_more = incoming.scan(&reset, || later);
        assert_eq!(one_more, Err((0, Reason::ENHANCE_YOUR_CALM)));
    }

    #[test]
    fn pings_are_taken_up_to_their_allowance_and_window_updates_are_earned() {
        let now = Instant::now();
        let mut incoming = begun(now);
        let pings = frame(kind::PING, 0, 0, 8).repeat(1000);
        assert_eq!(incoming.scan(&pings, || now), Ok(()));
        incoming.control.earn(FRAME_COST);
        let update = frame(kind::WINDOW_UPDATE, 0, 0, 4);
        assert_eq!(incoming.scan(&update, || now), Ok(()));
        let one_more = incoming.scan(&update, || now);
        assert_eq!(one_more, Err((0, Reason::ENHANCE_YOUR_CALM)));
    }
}

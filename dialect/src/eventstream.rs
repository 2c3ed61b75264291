//! Amazon's event stream (`application/vnd.amazon.eventstream`) without I/O: where each message ends,
//! and what is in it.
//!
//! ```text
//! ├ length, 4 ┼ length of headers, 4 ┼ checksum, 4 ┼ headers ┼ payload ┼ checksum, 4 ┤
//! ```
//!
//! The checksums are the client's to check: weir changes nothing.

use crate::json;

/// Finds the ends of messages in bytes that come in pieces.
#[derive(Debug, Clone, Default)]
pub struct Framer {
    /// The length of the message at hand, as far as it came.
    length: [u8; 4],
    length_len: u8,
    /// Bytes that are still missing, once the length is known.
    missing: Option<usize>,
    /// What came is no message: nothing is looked for any more.
    lost: bool,
}

/// Longer messages aren't; Bedrock's are below 16 MiB.
const MESSAGE_BYTES_MAX: usize = 24 * 1024 * 1024;
const PRELUDE_LEN: usize = 12;
const CHECKSUM_LEN: usize = 4;

// === impl Framer ===

impl Framer {
    /// The offset after the first message that ends in `bytes`; see
    /// [`framing::Framer::next`](super::framing::Framer::next).
    pub fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.lost {
            return (!bytes.is_empty()).then_some(bytes.len());
        }
        let mut at = 0;
        let missing = loop {
            if let Some(missing) = self.missing {
                break missing;
            }
            self.length[usize::from(self.length_len)] = *bytes.get(at)?;
            self.length_len += 1;
            at += 1;
            if usize::from(self.length_len) == self.length.len() {
                let length = u32::from_be_bytes(self.length) as usize;
                if !(PRELUDE_LEN + CHECKSUM_LEN..=MESSAGE_BYTES_MAX).contains(&length) {
                    self.lost = true;
                    return Some(bytes.len());
                }
                self.missing = Some(length - self.length.len());
            }
        };
        let there = bytes.len() - at;
        if there < missing {
            self.missing = Some(missing - there);
            return None;
        }
        *self = Framer::default();
        Some(at + missing)
    }
}

/// What one message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// It tells of an error.
    pub exception: bool,
    /// What happened: the type of the event or exception; empty where it isn't said.
    pub kind: &'a [u8],
    pub payload: &'a [u8],
}

/// Takes a whole message apart; `None` when it is none.
pub fn message(bytes: &[u8]) -> Option<Message<'_>> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    if length != bytes.len() {
        // Bytes of a stream in which nothing is found any more.
        return None;
    }
    let headers_len = u32::from_be_bytes(*bytes.get(4..)?.first_chunk()?) as usize;
    let headers_end = PRELUDE_LEN.checked_add(headers_len)?;
    let headers = bytes.get(PRELUDE_LEN..headers_end)?;
    let payload = bytes.get(headers_end..bytes.len().checked_sub(CHECKSUM_LEN)?)?;
    let message = header(headers, b":message-type");
    let kind = header(headers, b":event-type").or_else(|| header(headers, b":exception-type"));
    Some(Message {
        exception: matches!(message, Some(b"exception" | b"error")),
        kind: kind.unwrap_or_default(),
        payload,
    })
}

/// The value of a header that is a string.
fn header<'a>(mut headers: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    const STRING: u8 = 7;
    loop {
        let (&name_len, rest) = headers.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(name_len))?;
        let (&kind, rest) = rest.split_first()?;
        let (len, rest) = match kind {
            0 | 1 => (0, rest),
            2 => (1, rest),
            3 => (2, rest),
            4 => (4, rest),
            5 | 8 => (8, rest),
            6 | STRING => {
                let (len, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*len)), rest)
            }
            9 => (16, rest),
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(len)?;
        if name == wanted && kind == STRING {
            return Some(value);
        }
        headers = rest;
    }
}

/// The bytes that a payload wraps (`{"bytes":"…"}` in base64), as InvokeModel sends them.
pub fn wrapped(payload: &[u8]) -> Option<Vec<u8>> {
    let mut members = json::members(payload).map_while(Result::ok);
    let found = members.find(|member| member.key == "bytes")?;
    let text = payload[found.value_at]
        .strip_prefix(b"\"")?
        .strip_suffix(b"\"")?;
    base64(text)
}

/// RFC 4648, section 4, with its padding or without.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"=").unwrap_or(text);
    let text = text.strip_suffix(b"=").unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for four in text.chunks(4) {
        let mut bits = 0u32;
        for &letter in four {
            let six = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        let [_, a, b, c] = (bits << (6 * (4 - four.len()))).to_be_bytes();
        match four.len() {
            4 => out.extend_from_slice(&[a, b, c]),
            3 => out.extend_from_slice(&[a, b]),
            2 => out.push(a),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(kind: &str, payload: &[u8]) -> Vec<u8> {
        let mut headers = vec![13];
        headers.extend_from_slice(b":message-type");
        headers.push(7);
        headers.extend_from_slice(&(kind.len() as u16).to_be_bytes());
        headers.extend_from_slice(kind.as_bytes());
        let length = PRELUDE_LEN + headers.len() + payload.len() + CHECKSUM_LEN;
        let mut message = (length as u32).to_be_bytes().to_vec();
        message.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&headers);
        message.extend_from_slice(payload);
        message.extend_from_slice(&[0; 4]);
        message
    }

    #[test]
    fn messages_end_where_they_say_however_they_are_cut() {
        let two = [made("event", b"{}"), made("exception", b"{\"a\":1}")];
        let stream = two.concat();
        for cut in 0..=stream.len() {
            let (mut framer, mut ends, mut at) = (Framer::default(), Vec::new(), 0);
            for piece in [&stream[..cut], &stream[cut..]] {
                let mut rest = piece;
                while let Some(end) = framer.next(rest) {
                    at += end;
                    ends.push(at);
                    rest = &rest[end..];
                }
                at += rest.len();
            }
            assert_eq!(ends, [two[0].len(), stream.len()], "cut at {cut}");
        }
        let [first, second] = two
            .each_ref()
            .map(|bytes| message(bytes).expect("a message"));
        assert_eq!((first.payload, first.exception), (&b"{}"[..], false));
        assert_eq!(
            (second.payload, second.exception),
            (&b"{\"a\":1}"[..], true)
        );
    }

    #[test]
    fn what_is_no_message_is_passed_over() {
        let mut framer = Framer::default();
        assert_eq!(framer.next(b"\0\0\0\x01abcd"), Some(8));
        assert_eq!(framer.next(b"more"), Some(4));
        assert_eq!(framer.next(b""), None);
        for bytes in [
            &b""[..],
            b"\0\0\0\x10",
            b"\0\0\0\x10\xff\xff\xff\xff\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(message(bytes), None);
        }
    }

    #[test]
    fn wrapped_bytes_are_unwrapped() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9vYg", b"foob"),
            ("+/8=", b"\xfb\xff"),
        ] {
            let payload = format!("{{\"p\":\"x\",\"bytes\":\"{text}\"}}");
            assert_eq!(wrapped(payload.as_bytes()).as_deref(), Some(bytes));
        }
        for payload in [
            "{}",
            "{\"bytes\":1}",
            "{\"bytes\":\"Z\"}",
            "{\"bytes\":\"Zg-_\"}",
        ] {
            assert_eq!(wrapped(payload.as_bytes()), None, "{payload}");
        }
    }
}

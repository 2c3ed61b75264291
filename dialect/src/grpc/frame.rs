//! Messages of gRPC without I/O: where each ends, and what is in it.
//!
//! ```text
//! ├ compressed, 1 ┼ length, 4 ┼ message ┤
//! ```
//!
//! Source: gRPC over HTTP/2, "Length-Prefixed-Message".

/// Finds the ends of messages in bytes that come in pieces.
#[derive(Debug, Clone, Default)]
pub struct Framer {
    prefix: [u8; PREFIX_LEN],
    prefix_len: u8,
    /// Bytes that are still missing, once the length is known.
    missing: Option<usize>,
    /// What came is no message: nothing is looked for any more.
    lost: bool,
}

/// A longer message isn't read.
const MESSAGE_BYTES_MAX: usize = 24 << 20;
const PREFIX_LEN: usize = 5;

// === impl Framer ===

impl Framer {
    /// The offset after the first message that ends in `bytes`; see
    /// [`framing::Framer::next`](crate::framing::Framer::next).
    pub fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.lost {
            return (!bytes.is_empty()).then_some(bytes.len());
        }
        let mut at = 0;
        let missing = loop {
            if let Some(missing) = self.missing {
                break missing;
            }
            self.prefix[usize::from(self.prefix_len)] = *bytes.get(at)?;
            self.prefix_len += 1;
            at += 1;
            if let (PREFIX_LEN, [_, length @ ..]) = (usize::from(self.prefix_len), self.prefix) {
                let length = u32::from_be_bytes(length) as usize;
                if length > MESSAGE_BYTES_MAX {
                    self.lost = true;
                    return Some(bytes.len());
                }
                self.missing = Some(length);
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

/// What one whole frame holds.
///
/// # Errors
/// What is wrong with it.
pub fn message(frame: &[u8]) -> Result<&[u8], &'static str> {
    let Some(([compressed, length @ ..], message)) = frame.split_first_chunk::<PREFIX_LEN>() else {
        return Err("its stream ends in the middle of a message");
    };
    match (compressed, u32::from_be_bytes(*length) as usize) {
        (1, _) => Err("a message of its stream is compressed, though that wasn't asked for"),
        (0, length) if length == message.len() => Ok(message),
        (0, length) if length <= MESSAGE_BYTES_MAX => {
            Err("its stream ends in the middle of a message")
        }
        _ => Err("its stream has no messages of gRPC, or one that is too long"),
    }
}

/// A message in its frame.
pub fn framed(message: &impl prost::Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(PREFIX_LEN + length);
    frame.push(0);
    // A request's body is below what a length of 32 bits can say.
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // A vector grows.
    let _ = message.encode(&mut frame);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::message::HealthCheckRequest;

    /// The messages in `bytes` that come in pieces of `cut`.
    fn messages(bytes: &[u8], cut: usize) -> Vec<Result<Vec<u8>, &'static str>> {
        let (mut framer, mut held, mut found) = (Framer::default(), Vec::new(), Vec::new());
        for mut piece in bytes.chunks(cut) {
            while let Some(end) = framer.next(piece) {
                held.extend_from_slice(&piece[..end]);
                found.push(message(&held).map(<[u8]>::to_vec));
                held.clear();
                piece = &piece[end..];
            }
            held.extend_from_slice(piece);
        }
        if !held.is_empty() {
            found.push(message(&held).map(<[u8]>::to_vec));
        }
        found
    }

    #[test]
    fn messages_are_the_same_however_they_are_cut() {
        let said = |service: &str| {
            framed(&HealthCheckRequest {
                service: service.to_owned(),
            })
        };
        let bytes = [said("one"), said(""), said(&"x".repeat(300))].concat();
        let whole = messages(&bytes, bytes.len());
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[1], Ok(Vec::new()));
        for cut in 1..bytes.len() {
            assert_eq!(messages(&bytes, cut), whole, "pieces of {cut}");
        }
    }

    #[test]
    fn what_is_no_message_says_why() {
        let why = |bytes: &[u8]| messages(bytes, 3).remove(0).expect_err("no message");
        assert!(why(&[1, 0, 0, 0, 1, 7]).contains("compressed"));
        assert!(why(&[0, 0, 0, 0, 9, 7]).contains("in the middle"));
        assert!(why(&[0, 0, 0]).contains("in the middle"));
        assert!(why(b"HTTP/1.1 400 Bad Request").contains("no messages"));
        let too_long = [&[0][..], &(MESSAGE_BYTES_MAX as u32 + 1).to_be_bytes()].concat();
        assert!(why(&too_long).contains("too long"));
    }
}

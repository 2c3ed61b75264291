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

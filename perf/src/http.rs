//! HTTP/1.1 messages as they are read off a socket: heads, and bodies by length or in chunks.
//! Strict where a proxy could go wrong, ignorant of everything else. Used by simulator and
//! generator alike.

use memchr::{memchr, memmem};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::Result;

const BUFFER_BYTES: usize = 64 * 1024;

/// Reads the next head, or `None` when the peer closed between messages.
pub async fn read_head(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut Buffer,
) -> Result<Option<Head>> {
    loop {
        if let Some(head) = Head::parse(buffer.filled())? {
            buffer.take(head.bytes);
            return Ok(Some(head));
        }
        if buffer.fill(from).await? == 0 {
            return match buffer.filled() {
                [] => Ok(None),
                _ => Err("closed inside a head".into()),
            };
        }
    }
}

/// Reads one body to its end and hands each decoded piece to `sink` as it arrives.
pub async fn read_body(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut Buffer,
    framing: Framing,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut body = Body::new(framing);
    loop {
        let used = body.feed(buffer.filled(), &mut sink)?;
        buffer.take(used);
        if body == Body::Done {
            return Ok(());
        }
        if buffer.fill(from).await? == 0 {
            return Err("closed inside a body".into());
        }
    }
}

/// What the framing of one message depends on.
pub struct Head {
    /// Length of the head with its empty line.
    pub bytes: usize,
    /// The first line, as it came.
    pub start: String,
    pub framing: Framing,
    /// The sender closes the connection after this message.
    pub close: bool,
    /// The sender waits for `100 Continue`.
    pub expects_continue: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Framing {
    Absent,
    Length(u64),
    Chunked,
}

impl Head {
    /// The head at the start of `input`, once all of it is there.
    pub fn parse(input: &[u8]) -> Result<Option<Head>> {
        let Some(end) = memmem::find(input, b"\r\n\r\n") else {
            return match input.len() {
                BUFFER_BYTES => Err("a head longer than the buffer".into()),
                _ => Ok(None),
            };
        };
        let mut lines = std::str::from_utf8(&input[..end])?.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let mut head = Head {
            bytes: end + 4,
            start,
            framing: Framing::Absent,
            close: false,
            expects_continue: false,
        };
        for line in lines {
            let (name, value) = line.split_once(':').ok_or("a header without a colon")?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.frame(Framing::Length(value.parse()?))?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                if !value.eq_ignore_ascii_case("chunked") {
                    return Err(format!("transfer-encoding: {value}").into());
                }
                head.frame(Framing::Chunked)?;
            } else if name.eq_ignore_ascii_case("connection") {
                head.close |= value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("expect") {
                head.expects_continue = true;
            }
        }
        Ok(Some(head))
    }

    fn frame(&mut self, framing: Framing) -> Result<()> {
        if self.framing != Framing::Absent {
            return Err("the body's length is given twice".into());
        }
        self.framing = framing;
        Ok(())
    }
}

/// Where the decoder of one body stands.
///
/// ```text
/// Plain(n) ───────────────────────────────► Done
/// Size ─► Data(n) ─► DataEnd ─► Size … ─► Trailer ─► Done
/// ```
#[derive(PartialEq)]
pub(crate) enum Body {
    Plain(u64),
    Size,
    Data(u64),
    DataEnd,
    Trailer,
    Done,
}

impl Body {
    pub(crate) fn new(framing: Framing) -> Body {
        match framing {
            Framing::Absent | Framing::Length(0) => Body::Done,
            Framing::Length(bytes) => Body::Plain(bytes),
            Framing::Chunked => Body::Size,
        }
    }

    /// Decodes what it can of `input` and says how much of it is used up.
    pub(crate) fn feed(
        &mut self,
        input: &[u8],
        sink: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<usize> {
        let mut used = 0;
        while *self != Body::Done && used < input.len() {
            let rest = &input[used..];
            if let Body::Plain(left) | Body::Data(left) = self {
                let piece = &rest[..rest.len().min(*left as usize)];
                sink(piece)?;
                used += piece.len();
                *left -= piece.len() as u64;
                match self {
                    Body::Plain(0) => *self = Body::Done,
                    Body::Data(0) => *self = Body::DataEnd,
                    _ => {}
                }
                continue;
            }
            let Some(end) = memchr(b'\n', rest) else {
                break;
            };
            let line = rest[..end]
                .strip_suffix(b"\r")
                .ok_or("a chunk line without CR")?;
            used += end + 1;
            *self = match self {
                Body::Size => match u64::from_str_radix(std::str::from_utf8(line)?, 16)? {
                    0 => Body::Trailer,
                    bytes => Body::Data(bytes),
                },
                Body::DataEnd if line.is_empty() => Body::Size,
                Body::Trailer if line.is_empty() => Body::Done,
                _ => return Err("bytes between chunks, or trailers".into()),
            };
        }
        Ok(used)
    }
}

/// The bytes read from a connection and not yet used.
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer {
            bytes: vec![0; BUFFER_BYTES].into(),
            start: 0,
            end: 0,
        }
    }
}

impl Buffer {
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    pub(crate) async fn fill(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
    ) -> std::io::Result<usize> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let read = from.read(&mut self.bytes[self.end..]).await?;
        self.end += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] = b"5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\nHTTP/1.1";

    #[test]
    fn a_chunked_body_is_the_same_however_the_bytes_arrive() {
        for step in 1..CHUNKED.len() {
            let (mut body, mut text, mut held) = (Body::new(Framing::Chunked), vec![], vec![]);
            for piece in CHUNKED.chunks(step) {
                held.extend_from_slice(piece);
                let used = body
                    .feed(&held, &mut |data| {
                        text.extend_from_slice(data);
                        Ok(())
                    })
                    .expect("well-formed");
                held.drain(..used);
            }
            assert_eq!(text, b"hello world", "in steps of {step}");
            assert!(
                b"HTTP/1.1".starts_with(&held[..]),
                "the next message is left alone"
            );
            assert!(body == Body::Done);
        }
    }

    #[test]
    fn a_chunk_longer_than_it_says_is_an_error() {
        let fed = Body::new(Framing::Chunked).feed(b"2\r\nhello\r\n0\r\n\r\n", &mut |_| Ok(()));
        assert!(fed.is_err());
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: Close\r\n\r\n";
        assert!(
            Head::parse(&whole[..whole.len() - 1])
                .expect("no mistake yet")
                .is_none()
        );
        let head = Head::parse(whole).expect("well-formed").expect("whole");
        assert_eq!((head.framing, head.close), (Framing::Length(7), true));
    }

    #[test]
    fn two_lengths_are_an_error() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(Head::parse(head).is_err());
    }
}

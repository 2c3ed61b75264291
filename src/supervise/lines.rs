//! Lines of bounded length over a stream, and JSON in them. Knows nothing of what they say.

use serde::Serialize;
use std::io;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// The longest line between the supervisor and a generation: a report with all its metrics.
pub(super) const CONVERSATION_BYTES_MAX: usize = 64 << 20;

/// Reads lines of at most so many bytes.
pub(super) struct Lines<R> {
    from: BufReader<R>,
    line: Vec<u8>,
    bytes_max: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(from: R, bytes_max: usize) -> Self {
        Self {
            from: BufReader::new(from),
            line: Vec::new(),
            bytes_max,
        }
    }

    /// The next line without its end; `None` at the end of the stream, where half a line is lost.
    ///
    /// Cancel safe: what was read is kept for the next call.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let chunk = self.from.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let end = memchr::memchr(b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            if self.line.len() + part.len() > self.bytes_max {
                let max = self.bytes_max;
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a line of more than {max} bytes"),
                ));
            }
            self.line.extend_from_slice(part);
            let used = part.len() + usize::from(end.is_some());
            self.from.consume(used);
            if end.is_some() {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
        }
    }

    /// The stream, and what was read of it past the last line.
    pub(super) fn into_parts(mut self) -> (R, Vec<u8>) {
        let mut rest = std::mem::take(&mut self.line);
        rest.extend_from_slice(self.from.buffer());
        (self.from.into_inner(), rest)
    }
}

/// A value as one line with its end.
pub(super) fn line_of(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_may_be_as_long_as_allowed_and_no_longer() {
        let mut lines = Lines::new(&b"12345\n\n1234"[..], 5);
        assert_eq!(lines.next().await.unwrap(), Some(b"12345".to_vec()));
        assert_eq!(lines.next().await.unwrap(), Some(Vec::new()));
        assert_eq!(lines.next().await.unwrap(), None, "half a line is no line");
        let mut lines = Lines::new(&b"123456\n"[..], 5);
        assert!(lines.next().await.is_err());
    }
}

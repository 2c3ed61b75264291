//! Messages on a connection, with their headers; what neither model servers nor clients of a run do
//! by themselves.

use crate::Result;
use crate::http::{Body, Buffer, Framing, Head};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A head, and its headers by lower-case name.
pub struct Message {
    pub head: Head,
    headers: Vec<(String, String)>,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The status of an answer.
    pub fn status(&self) -> Option<u16> {
        self.head.start.split(' ').nth(1)?.parse().ok()
    }
}

/// Reads the next head; `None` when the peer ended the connection before its first byte.
pub async fn read_message(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut Buffer,
) -> Result<Option<Message>> {
    loop {
        if let Some(head) = Head::parse(buffer.filled())? {
            let text = String::from_utf8_lossy(&buffer.filled()[..head.bytes]).into_owned();
            buffer.take(head.bytes);
            let lines = text.split("\r\n").skip(1);
            let headers = lines.filter_map(|line| line.split_once(':'));
            let headers =
                headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
            return Ok(Some(Message {
                head,
                headers: headers.collect(),
            }));
        }
        if buffer.fill(from).await? == 0 {
            return match buffer.filled() {
                [] => Ok(None),
                _ => Err("closed inside a head".into()),
            };
        }
    }
}

/// How fast a body is read, and how much of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Between two reads.
    pub pause: Duration,
    /// Reads end after so many bytes of the body.
    pub bytes_max: Option<u64>,
}

/// Where a body's reading ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Finish {
    /// All of it came.
    Whole,
    /// As far as was wanted.
    Enough,
    /// It has no length, and the connection ended.
    Closed,
}

/// Reads one body and hands its pieces to `sink`.
pub async fn read_body(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut Buffer,
    framing: Option<Framing>,
    pace: Pace,
    mut sink: impl FnMut(&[u8]),
) -> Result<Finish> {
    let mut body = framing.map(Body::new);
    let mut bytes = 0;
    loop {
        let mut piece = |piece: &[u8]| {
            bytes += piece.len() as u64;
            sink(piece);
            Ok(())
        };
        let used = match &mut body {
            Some(body) => body.feed(buffer.filled(), &mut piece)?,
            None => piece(buffer.filled()).map(|()| buffer.filled().len())?,
        };
        buffer.take(used);
        if body == Some(Body::Done) {
            return Ok(Finish::Whole);
        }
        if pace.bytes_max.is_some_and(|max| bytes >= max) {
            return Ok(Finish::Enough);
        }
        tokio::time::sleep(pace.pause).await;
        if buffer.fill(from).await? == 0 {
            return match body {
                Some(_) => Err("closed inside a body".into()),
                None => Ok(Finish::Closed),
            };
        }
    }
}

/// Writes bytes in pieces with pauses.
pub async fn write_slowly(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    piece: usize,
    pause: Duration,
) -> io::Result<()> {
    for piece in bytes.chunks(piece.max(1)) {
        to.write_all(piece).await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

/// Reads and forgets until the peer ends the connection, or so long.
pub async fn hold(from: &mut (impl AsyncRead + Unpin), time: Duration) {
    let ended = async {
        let mut sink = [0; 4096];
        while !matches!(from.read(&mut sink).await, Ok(0) | Err(_)) {}
    };
    // Either will do.
    let _ = tokio::time::timeout(time, ended).await;
}

/// One chunk.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

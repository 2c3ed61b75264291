//! What a client sees of a request.

use super::plan::{Id, Surface, Team, Way};
use super::words::Stream;
use crate::Result;
use std::time::{Duration, Instant};
use tokio::time::error::Elapsed;

/// What is kept of an answer that is no stream.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What a client saw of one request.
#[derive(Debug)]
pub struct Seen {
    pub id: Id,
    pub act: u64,
    pub surface: Surface,
    pub team: Team,
    pub model: &'static str,
    pub way: Way,
    /// It asked for a stream, and for usage in it.
    pub stream: bool,
    pub usage: bool,
    /// All of its head went out.
    pub head_sent: bool,
    /// It left with a reset, which can take what it had sent with it.
    pub reset: bool,
    /// It came behind another one on its connection.
    pub behind: bool,
    pub answer: Option<Answer>,
    pub ending: Ending,
    pub started: Instant,
    pub took: Duration,
}

impl Seen {
    /// It is over, in its time or not.
    pub fn close(&mut self, end: std::result::Result<Result<()>, Elapsed>) {
        match end {
            Err(_) => self.ending = Ending::Late,
            Ok(Err(error)) => self.ending = Ending::Broke(error.to_string()),
            Ok(Ok(())) => {}
        }
        self.took = self.started.elapsed();
    }

    /// How many records weir must have of it: at least, at most.
    pub fn records(&self) -> (usize, usize) {
        let unheard = self.answer.is_none() && (self.reset || self.behind);
        match self.head_sent {
            false => (0, 0),
            true if unheard => (0, 1),
            true => (1, 1),
        }
    }
}

/// What came of an answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// `x-weir-error`.
    pub refusal: Option<String>,
    /// `x-weir-provider`.
    pub provider: Option<String>,
    pub retry_after: Option<String>,
    /// `x-should-retry: false`.
    pub is_final: bool,
    pub encoded: bool,
    pub closes: bool,
    /// Where it is a stream of events.
    pub events: Option<Stream>,
    /// Its first bytes, where it is none.
    pub body: Vec<u8>,
    pub bytes: u64,
    pub first_byte: Option<Duration>,
}

/// How a request ended for its client.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// All of the answer came.
    Whole,
    /// All until the connection ended; the answer had no length.
    Closed,
    /// The connection or its framing broke, in or before the answer.
    Broke(String),
    /// The client left.
    Left,
    /// The client waited too long.
    Late,
}

impl Answer {
    /// An answer whose head has come.
    pub fn of<'a>(status: u16, closes: bool, header: impl Fn(&str) -> Option<&'a str>) -> Answer {
        let owned = |name| header(name).map(str::to_owned);
        let media = header("content-type").unwrap_or_default();
        let encoded = header("content-encoding").is_some();
        let is_stream = media.starts_with("text/event-stream") && !encoded;
        Answer {
            status,
            refusal: owned("x-weir-error"),
            provider: owned("x-weir-provider"),
            retry_after: owned("retry-after"),
            is_final: header("x-should-retry") == Some("false"),
            encoded,
            closes,
            events: is_stream.then(Stream::default),
            body: Vec::new(),
            bytes: 0,
            first_byte: None,
        }
    }

    /// A piece of its body has come.
    pub fn take(&mut self, piece: &[u8], started: Instant) {
        if piece.is_empty() {
            return;
        }
        self.first_byte.get_or_insert_with(|| started.elapsed());
        self.bytes += piece.len() as u64;
        match &mut self.events {
            Some(stream) => stream.feed(piece),
            None => {
                let room = BODY_BYTES_MAX - self.body.len();
                self.body.extend_from_slice(&piece[..piece.len().min(room)]);
            }
        }
    }
}

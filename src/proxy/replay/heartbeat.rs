//! Signs of life in a stream of events whose upstream is silent: comment lines, which every reader of
//! server-sent events skips (the HTML standard, section 9.2.6), so that what stands between weir and the
//! client keeps the connection.
//!
//! They stand between two events only, and never in an answer of another form, a compressed one or one with
//! a length, nor behind the last event. They are no sign of the upstream's life, nor bytes of its answer.
//!
//! A heartbeat is written while the upstream's next piece is awaited, by a future that is dropped when
//! that comes. So it is never waited for: what a client doesn't take at once is owed, and goes before
//! whatever comes next. See [`Heartbeat::beat`].

use crate::dialect::sse::Framer;
use bytes::Bytes;
use http::{StatusCode, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::{HttpTask, ServerSession};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// A comment, and the blank line that lets readers take it for an event without content.
const COMMENT: &[u8] = b": heartbeat\n\n";

/// The heartbeat of one answer.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// So much silence; zero = there is none.
    every: Duration,
    /// The answer is one that may have it.
    beats: bool,
    /// Where the client is in the stream.
    framer: Framer,
    /// When something went to the client last.
    said: Instant,
    /// The last one didn't go to the client at once: there is no other before something else has.
    stuck: bool,
    /// What the client hasn't of it.
    owed: &'static [u8],
}

impl Heartbeat {
    pub(super) fn every(every: Duration) -> Self {
        Self {
            every,
            beats: false,
            framer: Framer::default(),
            said: Instant::now(),
            stuck: false,
            owed: &[],
        }
    }

    /// A try begins.
    pub(super) fn restart(&mut self) {
        *self = Self::every(self.every);
    }

    /// An answer begins; `may` says whether its client reads what comes after its head.
    pub(super) fn begins(&mut self, head: &ResponseHeader, may: bool) {
        let named = |name| head.headers.get(name).map(http::HeaderValue::as_bytes);
        let media = named(header::CONTENT_TYPE).unwrap_or_default();
        let media = media.split(|byte| *byte == b';').next().unwrap_or_default();
        self.beats = may
            && !self.every.is_zero()
            && head.status == StatusCode::OK
            && media
                .trim_ascii()
                .eq_ignore_ascii_case(b"text/event-stream")
            && named(header::CONTENT_ENCODING).is_none()
            && named(header::CONTENT_LENGTH).is_none();
        self.said = Instant::now();
    }

    /// This is about to go to the client.
    pub(super) fn passes(&mut self, tasks: &[HttpTask]) {
        if !self.beats {
            return;
        }
        self.beats = !tasks.iter().any(HttpTask::is_end);
        for task in tasks {
            let HttpTask::Body(Some(piece), _) = task else {
                continue;
            };
            if piece.is_empty() {
                continue;
            }
            (self.said, self.stuck) = (Instant::now(), false);
            let mut rest = &piece[..];
            while let Some(end) = self.framer.next(rest) {
                rest = &rest[end..];
            }
        }
    }

    /// When the next one is due, if nothing comes before; `None` where none may stand.
    pub(super) fn due(&self) -> Option<Instant> {
        let may = self.beats && !self.stuck && self.framer.is_between();
        may.then(|| self.said + self.every)
    }

    /// Writes a comment as far as the client takes it at once; never waits.
    ///
    /// Over HTTP/1 all of it goes into the connection's own buffer, which holds nothing then (whatever
    /// was written before was waited for), and from there on as the socket takes it. Over HTTP/2 the
    /// client's window may have room for a part, and a future that is dropped doesn't say for which: so
    /// each byte is a write of its own, which is done or not.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) async fn beat(&mut self, client: &mut ServerSession) -> Result<()> {
        let step = match client.is_http2() {
            true => 1,
            false => COMMENT.len(),
        };
        self.said = Instant::now();
        self.owed = COMMENT;
        while let Some((piece, rest)) = self.owed.split_at_checked(step) {
            match at_once(client, piece).await {
                Poll::Ready(written) => written?,
                Poll::Pending => {
                    self.stuck = true;
                    if step == 1 {
                        return Ok(());
                    }
                }
            }
            self.owed = rest;
        }
        Ok(())
    }

    /// Writes what is owed.
    ///
    /// # Errors
    /// When the client is gone, or takes nothing for too long.
    pub(super) async fn finish(&mut self, client: &mut ServerSession) -> Result<()> {
        let owed = std::mem::take(&mut self.owed);
        if owed.is_empty() {
            return Ok(());
        }
        let owed = Bytes::from_static(owed);
        let written = client.write_response_body(owed, false).await;
        written.map_err(|error| error.into_down())
    }
}

/// Writes as much as can be without waiting.
async fn at_once(client: &mut ServerSession, piece: &'static [u8]) -> Poll<Result<()>> {
    let mut write = pin!(client.write_response_body(Bytes::from_static(piece), false));
    poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await
}

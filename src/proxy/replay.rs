//! The downstream session that stands in for the real one between `request_filter` and `logging`.
//!
//! It gives a body that was read in `request_filter` again for each try at an upstream: Pingora sends
//! such a body only from its retry buffer, which holds 64 KiB. And it watches the clock while the
//! answer is awaited: Pingora's read timeout is one number for the first byte and for each gap, and
//! a session is polled while neither side moves.

mod clock;
mod heartbeat;
mod sink;

pub use clock::{BODY_LATE, ENDING, FIRST_BYTE_LATE, IDLE, TOTAL};

use super::ask;
use super::settings::Timeouts;
use crate::govern::{Buffers, Drains, Ending};
use crate::listen::Conn;
use async_trait::async_trait;
use bytes::Bytes;
use clock::{BEAT, Clock, DRAINED};
use heartbeat::Heartbeat;
use http::HeaderMap;
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session as CustomSession;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;
use sink::Sink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// By when what must have happened.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// When the request arrived.
    pub began: std::time::Instant,
    /// A body that passes through has `timeouts.client_body` for all of it; another protocol's bytes
    /// don't.
    pub upload: bool,
    /// When weir itself ends.
    pub ending: Ending,
    /// Places for answers that are read on after their clients have left.
    pub drains: Drains,
    /// What slow clients haven't taken is counted here.
    pub buffers: Buffers,
}

/// What holds for the next try: a provider may have its own.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// From the sent request to the first byte.
    pub first_byte: Duration,
    /// Between two bytes.
    pub idle: Duration,
    /// How long the answer is read on when the client has left; `None` ends it then.
    pub drain: Option<Duration>,
}

/// What the corridor keeps of a session that is stood in for.
pub struct Slot(Arc<Shared>);

struct Shared {
    /// Where the real session waits to come back.
    back: Mutex<Option<Box<ServerSession>>>,
    /// What holds for the next try.
    terms: Mutex<Terms>,
    /// The client has left, and its answer is read on.
    left: AtomicBool,
    /// The answer is held back; see [`Slot::hold_back`].
    holding: AtomicBool,
    /// No upstream is asked now; see [`Slot::wait`].
    waiting: AtomicBool,
    /// The client has all that will come; see [`Slot::said_all`].
    said_all: AtomicBool,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

struct Replay {
    /// Taken only by `drop`.
    inner: Option<Box<ServerSession>>,
    /// `None`: the body passes through.
    body: Option<Bytes>,
    shared: Arc<Shared>,
    clock: Clock,
    heartbeat: Heartbeat,
    ending: Ending,
    drains: Drains,
    buffers: Buffers,
    /// How long this try's answer is read on when the client has left.
    drain: Option<Duration>,
    /// No more of the request is awaited from the client.
    whole: bool,
    /// The head of an upgrade has just gone to the upstream; see `is_body_empty`.
    upgrading: bool,
    /// What is held back of an answer.
    held: Vec<HttpTask>,
}

/// Puts the stand-in into the place of the real session, with the body that it is to give, or with
/// `None` where the body passes through. After this `set_keepalive` and the like have no effect.
pub fn install(session: &mut Session, body: Option<Bytes>, deadlines: Deadlines) -> Slot {
    if body.is_some()
        && let Some(stream) = session.stream()
        && let Some(conn) = stream.as_any().downcast_ref::<Conn>()
    {
        conn.keep_the_rest();
    }
    let shared = Arc::new(Shared {
        back: Mutex::default(),
        terms: Mutex::new(Terms {
            first_byte: deadlines.timeouts.first_byte,
            idle: deadlines.timeouts.idle,
            drain: None,
        }),
        left: AtomicBool::new(false),
        holding: AtomicBool::new(false),
        waiting: AtomicBool::new(false),
        said_all: AtomicBool::new(false),
    });
    let placeholder = Box::new(ServerSession::new_custom(Box::new(())));
    let inner = std::mem::replace(&mut session.downstream_session, placeholder);
    let replay = Replay {
        inner: Some(inner),
        upgrading: false,
        held: Vec::new(),
        ending: deadlines.ending.clone(),
        drains: deadlines.drains.clone(),
        buffers: deadlines.buffers.clone(),
        drain: None,
        heartbeat: Heartbeat::every(deadlines.timeouts.heartbeat),
        clock: Clock::new(deadlines, body.is_none()),
        whole: body.is_some(),
        body,
        shared: Arc::clone(&shared),
    };
    *session.downstream_session = ServerSession::new_custom(Box::new(replay));
    Slot(shared)
}

impl Slot {
    /// Sets what holds for the next try.
    pub fn set_terms(&self, terms: Terms) {
        *self.0.terms.lock() = terms;
    }

    /// True when the client has left and its answer is read on without it.
    pub fn client_left(&self) -> bool {
        self.0.left.load(Ordering::Relaxed)
    }

    /// Holds the answer's head back from the client, or lets it go with what comes next. The pieces of
    /// its body are the caller's to hold: an answer that ends while its head is held back is none that
    /// could be understood, and fails as one that refuses usage.
    pub fn hold_back(&self, hold: bool) {
        self.0.holding.store(hold, Ordering::Relaxed);
    }

    /// No upstream is asked until this ends: none is late, whatever the last try's deadlines were.
    pub fn wait(&self, wait: bool) {
        self.0.waiting.store(wait, Ordering::Relaxed);
    }

    /// Says that the last event of a stream has come, though its end may not have: nothing is put in
    /// behind it.
    pub fn said_all(&self) {
        self.0.said_all.store(true, Ordering::Relaxed);
    }

    /// Puts the real session back, so that its connection can serve the next request.
    pub fn restore(&self, session: &mut Session) {
        let placeholder = Box::new(ServerSession::new_custom(Box::new(())));
        drop(std::mem::replace(
            &mut session.downstream_session,
            placeholder,
        ));
        if let Some(inner) = self.0.back.lock().take() {
            session.downstream_session = inner;
        }
    }
}

impl Replay {
    fn inner(&self) -> &ServerSession {
        self.inner
            .as_deref()
            .expect("the inner session is taken only by drop")
    }

    fn inner_mut(&mut self) -> &mut ServerSession {
        self.inner
            .as_deref_mut()
            .expect("the inner session is taken only by drop")
    }

    /// What may go to the client of what has come; `None` while the answer is held back.
    fn let_through(&mut self, tasks: Vec<HttpTask>) -> Result<Option<Vec<HttpTask>>> {
        if !self.shared.holding.load(Ordering::Relaxed) {
            if self.held.is_empty() {
                return Ok(Some(tasks));
            }
            let mut all = std::mem::take(&mut self.held);
            all.extend(tasks);
            return Ok(Some(all));
        }
        for task in tasks {
            match task {
                HttpTask::Failed(error) => return Err(error),
                task if task.is_end() => return Err(ask::refused()),
                HttpTask::Body(..) => {}
                task => self.held.push(task),
            }
        }
        self.clock.moved();
        Ok(None)
    }

    /// The client has left. Where its answer is to be read on, a sink takes its place, and its own
    /// session and connection end here. Not while the upstream still waits for a piece of the request, nor
    /// where none is asked.
    fn goes_on_alone(&mut self) -> bool {
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        let may = self.whole && !waiting && !self.inner().is_upgrade_req() && !self.has_left();
        let Some(time) = self.drain.filter(|_| may) else {
            return false;
        };
        let Some(place) = self.drains.begin() else {
            return false;
        };
        let sink = Sink::of(self.inner(), place);
        self.inner = Some(Box::new(ServerSession::new_custom(Box::new(sink))));
        self.shared.left.store(true, Ordering::Relaxed);
        self.clock.end_in(time);
        true
    }

    /// Gives the client's session what goes to the client, of large pieces a little at a time: each write has
    /// `timeouts.idle`, and a client that takes so little in that time is as good as gone. What is small
    /// goes in one write, for which the session copies it.
    async fn write(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        /// Of a piece of an answer, what is written at a time.
        const WRITE_BYTES: usize = 16 << 10;
        let bytes = |task: &HttpTask| match task {
            HttpTask::Body(Some(piece), _) | HttpTask::UpgradedBody(Some(piece), _) => piece.len(),
            _ => 0,
        };
        let all = tasks.iter().map(bytes).sum::<usize>();
        if all <= WRITE_BYTES {
            return self.inner_mut().response_duplex_vec(tasks).await;
        }
        // As much again is read from the upstream meanwhile, and waits.
        let mut hold = self.buffers.hold();
        hold.take(2 * all);
        let mut ended = false;
        for task in tasks {
            let (piece, end, form): (_, _, fn(_, _) -> _) = match task {
                HttpTask::Body(Some(piece), end) => (piece, end, HttpTask::Body),
                HttpTask::UpgradedBody(Some(piece), end) => (piece, end, HttpTask::UpgradedBody),
                other => {
                    ended |= self.inner_mut().response_duplex_vec(vec![other]).await?;
                    continue;
                }
            };
            let mut rest = piece;
            loop {
                let next = rest.split_to(rest.len().min(WRITE_BYTES));
                let last = rest.is_empty();
                let task = form(Some(next), end && last);
                ended |= self.inner_mut().response_duplex_vec(vec![task]).await?;
                if last {
                    break;
                }
                self.clock.moved();
                if let Some(late) = self.clock.is_over() {
                    return Error::e_explain(late, "in the middle of a large piece");
                }
            }
        }
        Ok(ended)
    }

    /// Writes what is owed of a heartbeat, before anything else goes to the client.
    async fn finish_beat(&mut self) -> Result<()> {
        let inner = self
            .inner
            .as_deref_mut()
            .expect("the inner session is taken only by drop");
        self.heartbeat.finish(inner).await
    }

    fn has_left(&self) -> bool {
        self.shared.left.load(Ordering::Relaxed)
    }

    /// An answer begins. The last one on a connection says so (RFC 9112, section 9.6).
    fn begins(&mut self, head: &ResponseHeader) {
        if !is_interim(head) {
            self.clock.moved();
            let asked = &self.inner().req_header().method;
            let may = asked != http::Method::HEAD && !self.has_left();
            self.heartbeat.begins(head, may);
            if self.ending.is_draining() {
                self.inner_mut().set_keepalive(None);
            }
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        *self.shared.back.lock() = self.inner.take();
    }
}

/// True for what went wrong on the way to the client.
fn is_clients(error: &Error) -> bool {
    matches!(
        error.esource(),
        ErrorSource::Downstream | ErrorSource::Unset
    )
}

/// True for a head after which the answer itself is still awaited.
fn is_interim(head: &ResponseHeader) -> bool {
    head.status.is_informational() && head.status != http::StatusCode::SWITCHING_PROTOCOLS
}

#[async_trait]
impl CustomSession for Replay {
    // What makes it a replay.

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.body.clone().filter(|body| !body.is_empty())
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.body.is_none()
    }

    /// Pingora calls this once for each try, when the request's head has gone to the upstream.
    fn enable_retry_buffering(&mut self) {
        let terms = *self.shared.terms.lock();
        self.clock.restart(terms.first_byte, terms.idle);
        self.drain = terms.drain;
        self.held.clear();
        self.heartbeat.restart();
        self.upgrading = self.inner().is_upgrade_req();
    }

    fn is_body_done(&mut self) -> bool {
        self.body.is_some() || self.inner_mut().is_body_done()
    }

    /// Asked before a request's head is written, and again right after it: then an empty body makes
    /// Pingora queue its end at once. An upgrade has no such end: where the upstream answers before the
    /// queue is looked at, it would end what has just begun.
    fn is_body_empty(&mut self) -> bool {
        if std::mem::take(&mut self.upgrading) {
            return false;
        }
        match &self.body {
            Some(body) => body.is_empty(),
            None => self.inner_mut().is_body_empty(),
        }
    }

    /// Waits for a piece of the body, for the client to leave, or for a deadline.
    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if self.shared.waiting.load(Ordering::Relaxed) {
            self.clock.rest();
        }
        self.clock.asks();
        let idle = no_body_expected || self.body.is_some();
        if idle {
            self.whole = true;
            self.clock.uploaded();
        }
        let read = loop {
            let inner = self
                .inner
                .as_deref_mut()
                .expect("the inner session is taken only by drop");
            let beat = match self.shared.said_all.load(Ordering::Relaxed) {
                true => None,
                false => self.heartbeat.due(),
            };
            let late = tokio::select! {
                biased;
                read = inner.read_body_or_idle(idle) => break read,
                late = self.clock.over(beat) => late,
            };
            match late {
                BEAT => match self.heartbeat.beat(inner).await {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
                DRAINED => {
                    return Error::e_explain(ErrorType::ConnectionClosed, "the client left");
                }
                late => return Error::e_explain(late, "no byte in time"),
            }
        };
        match read {
            Ok(read) => {
                self.clock.heard();
                Ok(read)
            }
            // Whoever asks next waits for the end of the answer, or of its time.
            Err(_) if self.goes_on_alone() => self.read_body_or_idle(true).await,
            Err(error) => Err(error),
        }
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        match self.body {
            Some(_) => Ok(None),
            None => self.inner_mut().read_request_body().await,
        }
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        match self.body {
            Some(_) => Ok(()),
            None => self.inner_mut().drain_request_body().await,
        }
    }

    fn is_upgrade_req(&self) -> bool {
        self.inner().is_upgrade_req()
    }

    fn was_upgraded(&self) -> bool {
        self.inner().was_upgraded()
    }

    // The rest is the real session's.

    fn req_header(&self) -> &RequestHeader {
        self.inner().req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner_mut().req_header_mut()
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.begins(&head);
        self.inner_mut().write_response_header(head).await
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, _end: bool) -> Result<()> {
        self.begins(head);
        self.inner_mut().write_response_header_ref(head).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.clock.moved();
        self.finish_beat().await?;
        self.inner_mut().write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.finish_beat().await?;
        self.inner_mut().write_response_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let Some(tasks) = self.let_through(tasks)? else {
            return Ok(false);
        };
        // Several can come at once.
        let interim = (tasks.iter())
            .all(|task| matches!(task, HttpTask::Header(head, _) if is_interim(head)));
        for task in &tasks {
            if let HttpTask::Header(head, _) = task {
                self.begins(head);
            }
        }
        let end = tasks.iter().any(HttpTask::is_end);
        self.heartbeat.passes(&tasks);
        let written = match self.finish_beat().await {
            Ok(()) => self.write(tasks).await,
            Err(error) => Err(error),
        };
        if !interim {
            self.clock.moved();
        }
        match written {
            Err(error) if is_clients(&error) && self.goes_on_alone() => Ok(end),
            written => written,
        }
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.inner().get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner().get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner().get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner().request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner().response_written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.inner_mut().shutdown().await;
    }

    async fn finish(&mut self) -> Result<()> {
        self.inner_mut().finish_body().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.inner().body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.inner().body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner().digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner_mut().digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner().client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner().server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner().to_h1_raw()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn futures_core::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>>
    {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<
            dyn futures_core::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static,
        >,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(
        &mut self,
        _writer: Box<dyn CustomMessageWrite>,
    ) -> Result<()> {
        Ok(())
    }
}

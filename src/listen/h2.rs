//! A client's HTTP/2 connection: its streams are handed to the service, one task each, within
//! bounds. Called by `accept` once a connection is known to be HTTP/2 (by its preface, or by ALPN).
//!
//! The `h2` crate speaks the protocol and Pingora makes a session of each stream; what Pingora's
//! own loop doesn't have is here: a bound on the streams of a connection, on what a client takes
//! back and on frames that carry nothing (`incoming`), on silence at its beginning, on a client
//! that reads nothing, and a GOAWAY in each case, so that a client knows which requests to send
//! again elsewhere.

mod allowance;
mod frames;
mod incoming;

use super::head::Fault;
use ::h2 as h2_crate;
use bytes::Bytes;
use frames::{Frames, Told};
use h2_crate::Reason;
use h2_crate::server::Connection;
use http::{Method, header};
use parking_lot::Mutex;
use pingora::apps::HttpServerApp;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{
    H2Accept, H2Options, HttpSession, default_h2_options, handshake,
};
use pingora::protocols::{Digest, Stream};
use pingora::server::ShutdownWatch;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// Streams of one connection; after these it is asked to go (GOAWAY), as keep-alive connections of
/// other servers are after so many requests.
const STREAMS_MAX: u32 = 10_000;
/// Streams that a client may still open after it was asked to go: those that were under way.
const STREAMS_AFTER_GOAWAY_MAX: u32 = 200;
/// Requests that are malformed; Pingora's own bound for its own loop.
const MALFORMED_MAX: u32 = 32;
/// Streams that we had to reset because of what the client sent on them (CVE-2025-8671).
const OUR_RESETS_MAX: usize = 128;
/// Windows for what clients send: the default of 64 KiB for all streams together makes a 5 MB
/// prompt take a second at 20 ms of distance.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// For all streams of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;
/// Of one stream's answer, what has been handed over and waits for the socket.
const SEND_BUFFER_BYTES_MAX: usize = 128 << 10;
/// A request's headers as RFC 9113, section 6.5.2, counts them, whatever `limits.header_bytes` is:
/// a hundred streams can hold as much each.
const HEADER_LIST_BYTES_MAX: usize = 64 << 10;
/// As many as over HTTP/1. Small ones cost more memory than their bytes.
const HEADERS_MAX: usize = 256;
/// Streams that were taken back before we looked at them: [`incoming`] bounds them. The crate's own
/// 20 would send away a client that cancels a batch while we are busy.
const UNSEEN_RESETS_MAX: usize = 2 * incoming::RESETS_AT_ONCE as usize;
/// How long a GOAWAY may take to be written.
const FAREWELL: Duration = Duration::from_secs(1);
/// A client that was asked to go and has no request open is waited for this long.
const LEAVE: Duration = Duration::from_secs(5);

/// Bounds that are configured.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `limits.header_bytes`, and never more than 64 KiB.
    pub header_bytes_max: usize,
    /// `timeouts.client_header`: for the client's first SETTINGS, and for each header block.
    pub client_header: Duration,
    /// `timeouts.keepalive`: without a request open.
    pub keepalive: Duration,
    /// `timeouts.idle`: that a client takes none of the bytes that wait for it.
    pub stall: Duration,
}

/// Serves a connection to its end. When `shutdown` turns true the client is asked to go, and its
/// open requests go on. `refused` is told of requests that the service never sees.
///
/// Dropping this closes the connection; requests that are open notice and end by themselves.
pub async fn serve<A>(
    app: &Arc<A>,
    io: Stream,
    limits: Limits,
    shutdown: &ShutdownWatch,
    refused: impl Fn(Fault),
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let digest = Arc::new(Digest {
        ssl_digest: io.get_ssl_digest(),
        timing_digest: io.get_timing_digest(),
        proxy_digest: io.get_proxy_digest(),
        socket_digest: io.get_socket_digest(),
    });
    let told = Arc::new(Told::default());
    let frames = Box::new(Frames::new(io, Arc::clone(&told)));
    let settings_sent = handshake(frames, Some(options(limits.header_bytes_max)));
    let mut h2 = match timeout(limits.client_header, settings_sent).await {
        Ok(Ok(h2)) => h2,
        Ok(Err(error)) => return tracing::debug!(%error, "no HTTP/2 connection"),
        Err(_) => return,
    };
    let mut conversation = Conversation::new(limits, told);
    let mut down = shutdown.clone();
    loop {
        match conversation.next(&mut h2, &digest, &mut down).await {
            Event::Accepted(H2Accept::Session(mut session)) => {
                conversation.opened += 1;
                if is_malformed(session.req_header()) {
                    session.shutdown_with_reason(Reason::PROTOCOL_ERROR);
                    conversation.malformed += 1;
                    refused(Fault::Malformed);
                } else if session.req_header().headers.len() > HEADERS_MAX {
                    tell(&mut session, Fault::TooLarge);
                    refused(Fault::TooLarge);
                } else {
                    let app = Arc::clone(app);
                    let shutdown = shutdown.clone();
                    let open = Open::new(&conversation.requests);
                    tokio::spawn(async move {
                        let session = ServerSession::new_http2(session);
                        app.process_new_http(session, &shutdown).await;
                        drop(open);
                    });
                }
            }
            Event::Accepted(H2Accept::Rejected) => {
                conversation.opened += 1;
                conversation.malformed += 1;
                refused(Fault::Malformed);
            }
            Event::Leave => conversation.ask_to_go(&mut h2),
            Event::End(reason) => return farewell(h2, reason).await,
            Event::Gone => return,
        }
        if let Some(reason) = conversation.too_much() {
            return farewell(h2, reason).await;
        }
        if conversation.opened >= STREAMS_MAX {
            conversation.ask_to_go(&mut h2);
        }
    }
}

fn options(header_bytes_max: usize) -> H2Options {
    let header_list = header_bytes_max.min(HEADER_LIST_BYTES_MAX);
    let mut options = default_h2_options();
    options
        .max_header_list_size(u32::try_from(header_list).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(UNSEEN_RESETS_MAX)
        .max_local_error_reset_streams(Some(OUR_RESETS_MAX));
    options
}

/// What the crate and Pingora let through (RFC 9113, sections 8.2.1 and 8.3.1): white space around
/// a value, which HTTP/1 would drop, and a target that HTTP/1 would not see as a path.
fn is_malformed(head: &RequestHeader) -> bool {
    let padded = |value: &[u8]| {
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        blank(value.first()) || blank(value.last())
    };
    let target = head.raw_path();
    let is_path = target.first() == Some(&b'/')
        || (head.method == Method::OPTIONS && target == b"*")
        || head.method == Method::CONNECT;
    !is_path || head.headers.values().any(|value| padded(value.as_bytes()))
}

/// Answers without a body; it is the client's affair whether it can be sent.
fn tell(session: &mut HttpSession, fault: Fault) {
    let (status, code, _) = fault.answer();
    let head = ResponseHeader::build(status, Some(2)).and_then(|mut head| {
        head.insert_header("x-weir-error", code)?;
        head.insert_header(header::CONTENT_LENGTH, "0")?;
        session.write_response_header(Box::new(head), true)
    });
    if let Err(error) = head {
        tracing::debug!(%error, "a refusal could not be sent");
    }
}

/// Says why the connection ends, and ends it.
async fn farewell(mut h2: Connection<Stream, Bytes>, reason: Reason) {
    h2.abrupt_shutdown(reason);
    let written = async { while h2.accept().await.is_some() {} };
    // Who doesn't take it goes without.
    let _ = timeout(FAREWELL, written).await;
}

#[expect(
    clippy::large_enum_variant,
    reason = "made once a stream and taken apart at once; a box would be an allocation a stream"
)]
enum Event {
    Accepted(H2Accept),
    /// weir stops, or is replaced.
    Leave,
    /// The connection is to be ended for this reason.
    End(Reason),
    /// The connection has ended.
    Gone,
}

/// One connection, as far as it is counted.
struct Conversation {
    limits: Limits,
    told: Arc<Told>,
    requests: Arc<Requests>,
    began: Instant,
    /// Streams so far.
    opened: u32,
    malformed: u32,
    /// It was asked to go: when, and how many it had opened by then.
    leaving: Option<(Instant, u32)>,
    timer: Pin<Box<Sleep>>,
}

impl Conversation {
    fn new(limits: Limits, told: Arc<Told>) -> Self {
        let began = Instant::now();
        Self {
            limits,
            told,
            requests: Arc::new(Requests(Mutex::new((0, began)))),
            began,
            opened: 0,
            malformed: 0,
            leaving: None,
            timer: Box::pin(sleep_until(began + limits.client_header)),
        }
    }

    fn ask_to_go(&mut self, h2: &mut Connection<Stream, Bytes>) {
        if self.leaving.is_none() {
            self.leaving = Some((Instant::now(), self.opened));
            h2.graceful_shutdown();
        }
    }

    /// Why the client has had enough.
    fn too_much(&self) -> Option<Reason> {
        let goes_on = |(_, opened)| self.opened - opened > STREAMS_AFTER_GOAWAY_MAX;
        let much = self.malformed >= MALFORMED_MAX || self.leaving.is_some_and(goes_on);
        much.then_some(Reason::ENHANCE_YOUR_CALM)
    }

    /// Moves the connection until something is to be done. Can be dropped and called again.
    async fn next(
        &mut self,
        h2: &mut Connection<Stream, Bytes>,
        digest: &Arc<Digest>,
        shutdown: &mut ShutdownWatch,
    ) -> Event {
        let mut accept = pin!(HttpSession::from_h2_conn(h2, Arc::clone(digest)));
        let mut down = pin!(shutdown.wait_for(|down| *down));
        poll_fn(|cx| {
            if self.leaving.is_none() && down.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Leave);
            }
            match accept.as_mut().poll(cx) {
                Poll::Ready(Ok(Some(accepted))) => return Poll::Ready(Event::Accepted(accepted)),
                Poll::Ready(Ok(None)) => return Poll::Ready(Event::Gone),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a client's HTTP/2 connection broke");
                    return Poll::Ready(Event::Gone);
                }
                Poll::Pending => {}
            }
            // After the frames that came before it.
            if let Some(reason) = self.told.fault() {
                return Poll::Ready(Event::End(reason));
            }
            self.poll_late(cx)
        })
        .await
    }

    /// By when what must have happened; the timer is moved only when it fires, or is too late.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let now = Instant::now();
            let (due, event) = self.due(now);
            if due <= now {
                return Poll::Ready(event);
            }
            if self.timer.is_elapsed() || self.timer.deadline() > due {
                self.timer.as_mut().reset(due);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn due(&self, now: Instant) -> (Instant, Event) {
        let limits = &self.limits;
        let end = || Event::End(Reason::NO_ERROR);
        let idle = match (self.requests.idle_since(), self.leaving) {
            // Looked at again by then: a request that ends wakes nobody here.
            (None, _) => now + limits.keepalive.max(Duration::from_secs(1)),
            (Some(since), None) => since + limits.keepalive,
            (Some(since), Some((asked, _))) => since.max(asked) + LEAVE,
        };
        let hello = (!self.told.greeted()).then_some(self.began);
        let headers = hello.or(self.told.block());
        let others = [
            headers.map(|since| (since + limits.client_header, end())),
            // There is no way to tell it anything.
            (self.told.stalled()).map(|since| (since + limits.stall, Event::Gone)),
        ];
        let soonest = others.into_iter().flatten();
        soonest.fold((idle, end()), |a, b| if b.0 < a.0 { b } else { a })
    }
}

/// Requests that are open, and since when none is.
struct Requests(Mutex<(usize, Instant)>);

impl Requests {
    fn idle_since(&self) -> Option<Instant> {
        let (open, since) = *self.0.lock();
        (open == 0).then_some(since)
    }
}

/// A request that is open.
struct Open(Arc<Requests>);

impl Open {
    fn new(requests: &Arc<Requests>) -> Self {
        requests.0.lock().0 += 1;
        Self(Arc::clone(requests))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut requests = self.0.0.lock();
        *requests = (requests.0 - 1, Instant::now());
    }
}

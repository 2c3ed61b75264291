//! One connection from its first byte to its last: PROXY header, handshake, and then head after head,
//! each handed to the service when it is whole. All that comes before the first request has one
//! deadline together.

use super::accept::{Refusal, Shared};
use super::caps::Place;
use super::conn::{Conn, Secure};
use super::h2;
use super::head::{self, Bounds, Head};
use super::phase::Leave;
use super::proxy_protocol;
use super::terms::Terms;
use super::tls::{self, Tls};
use super::transport::Socket;
use pingora::apps::{HttpPersistentSettings, HttpServerApp};
use pingora::protocols::http::ServerSession;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// What is known of an accepted connection, beside its bytes.
pub(super) struct Connection<A> {
    pub(super) shared: Arc<Shared<A>>,
    /// Whose it is: who holds the other end, or whom a proxy speaks for.
    pub(super) peer: Option<SocketAddr>,
    pub(super) leave: Leave,
}

/// Which of Pingora's services goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    /// HTTP/2, by ALPN.
    Http2,
    /// HTTP/1, or HTTP/2 with prior knowledge.
    Anything,
}

impl<A: HttpServerApp + Send + Sync + 'static> Connection<A> {
    pub(super) async fn run(mut self, socket: Socket, place: Place, terms: Arc<Terms>) {
        let due = Instant::now() + terms.client_header;
        let later = Later {
            bounds: Bounds {
                bytes_max: terms.header_bytes_max,
                h2: terms.h2 && terms.tls.is_none(),
            },
            complete: terms.client_header,
            keepalive: terms.keepalive,
        };
        let limits = h2::Limits {
            header_bytes_max: terms.header_bytes_max,
            client_header: terms.client_header,
            keepalive: terms.keepalive,
            stall: terms.stall,
        };
        let opened = if terms.proxy_protocol || terms.tls.is_some() {
            // In a box: a connection that is open carries none of it.
            Box::pin(self.open(socket, place, terms, due)).await
        } else {
            Some((Conn::new(socket, self.peer, Some(place)), Speaks::Anything))
        };
        let Some((mut conn, speaks)) = opened else {
            return;
        };
        let head = match speaks {
            Speaks::Http2 => head::read_preface(&mut conn, due).await,
            Speaks::Anything => head::read(&mut conn, later.bounds, due).await,
        };
        match head {
            Ok(Head::Http2) => self.serve_h2(conn, limits).await,
            head => self.serve_h1(conn, head, later).await,
        }
    }

    /// Learns whose connection it is, and makes it secure.
    async fn open(
        &mut self,
        mut socket: Socket,
        mut place: Place,
        terms: Arc<Terms>,
        due: Instant,
    ) -> Option<(Conn, Speaks)> {
        if terms.proxy_protocol {
            if !terms.trusts(self.peer.map(|peer| peer.ip())) {
                self.shared.refuse(self.peer, &Refusal::Untrusted);
                return None;
            }
            let told = timeout_at(due, proxy_protocol::read(&mut socket)).await;
            match told.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) {
                Ok(told) => self.peer = told.or(self.peer),
                Err(fault) => {
                    let refusal = Refusal::ProxyProtocol(fault);
                    self.shared.refuse(self.peer, &refusal);
                    return None;
                }
            }
            if !self.shared.claim(&mut place, self.peer, &terms) {
                return None;
            }
        }
        match &terms.tls {
            Some(tls) => self.secure(socket, place, tls, &terms, due).await,
            None => Some((Conn::new(socket, self.peer, Some(place)), Speaks::Anything)),
        }
    }

    async fn secure(
        &self,
        socket: Socket,
        place: Place,
        tls: &Tls,
        terms: &Terms,
        due: Instant,
    ) -> Option<(Conn, Speaks)> {
        let handshake = tls::handshake(socket, tls, SystemTime::now());
        let (fault, stream) = match timeout_at(due, handshake).await {
            Ok(Ok((stream, secured))) => {
                let mut conn = Conn::new(stream, self.peer, Some(place));
                if secured.acme_challenge {
                    return None;
                }
                let speaks = if secured.h2 {
                    Speaks::Http2
                } else {
                    Speaks::Anything
                };
                conn.set_secured(Secure {
                    with: secured,
                    hsts: terms.hsts.clone(),
                });
                return Some((conn, speaks));
            }
            Ok(Err(failed)) => (failed.fault, failed.stream),
            Err(_) => (tls::Fault::Timeout, None),
        };
        if let Some(stream) = stream {
            let mut conn = Conn::new(stream, self.peer, Some(place));
            // What is written here leaves when the connection lingers.
            if let Some(response) = fault.response() {
                let _ = conn.write_all(&response).await;
            }
        }
        self.shared.refuse(self.peer, &Refusal::Tls(fault));
        None
    }

    /// The whole connection. The client is asked to go (GOAWAY: RFC 9113, section 6.8) at a moment of
    /// the connection's own; the streams that are open then finish.
    async fn serve_h2(mut self, conn: Conn, limits: h2::Limits) {
        let (goaway, watch) = watch::channel(false);
        let shared = Arc::clone(&self.shared);
        let peer = self.peer;
        let refused = |fault| shared.refuse(peer, &Refusal::Head(fault));
        let io = Box::new(conn);
        let app = &shared.acceptor.app;
        // In a box: an HTTP/1 connection carries none of it.
        let mut served = Box::pin(h2::serve(app, io, limits, &watch, refused));
        tokio::select! {
            biased;
            () = &mut served => return,
            () = self.turn() => {}
        }
        goaway.send_replace(true);
        served.await;
    }

    async fn serve_h1(mut self, mut conn: Conn, head: io::Result<Head>, later: Later) {
        let mut kept: Option<HttpPersistentSettings> = None;
        let mut head = head;
        loop {
            let length = match head {
                Ok(Head::Http1(length)) => length,
                // HTTP/2 is looked for in a first head only.
                Ok(Head::Closed | Head::Http2) => return,
                Ok(Head::Refused(fault)) => {
                    self.shared.refuse(self.peer, &Refusal::Head(fault));
                    // Leaves in one piece when the connection lingers, which has its own deadline.
                    let _ = conn.write_all(&fault.response()).await;
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, peer = ?self.peer, "a client's connection broke");
                    return;
                }
            };
            if let Some(answer) = self.challenge(&conn, length) {
                let _ = conn.write_all(&answer).await;
                return;
            }
            let head_bytes = conn.take_head(length);
            let mut session = ServerSession::new_http1(Box::new(conn));
            match kept.take() {
                // Without this, the session keeps no connection.
                None => session.set_keepalive(Some(later.keepalive.as_secs().max(1))),
                Some(settings) => settings.apply_to_session(&mut session),
            }
            // The head is whole: Pingora parses these bytes and reads none by itself.
            session.set_pipelined_prefix(head_bytes);
            let shutdown = if self.leave.is_due() {
                &self.shared.leave
            } else {
                &self.shared.stay
            };
            let app = &self.shared.acceptor.app;
            let Some(reused) = app.process_new_http(session, shutdown).await else {
                return;
            };
            let (stream, settings) = reused.consume();
            let Ok(same) = stream.into_any().downcast::<Conn>() else {
                tracing::error!("Pingora gave back another stream than it was given");
                return;
            };
            conn = *same;
            kept = settings;
            head = self.next_head(&mut conn, later).await;
        }
    }

    /// Between two requests, a connection that is silent too long or that has to leave is closed. Not
    /// when something has come already: half a request is waited for.
    async fn next_head(&mut self, conn: &mut Conn, later: Later) -> io::Result<Head> {
        if !begins_before(conn, later, self.turn()).await? {
            return Ok(Head::Closed);
        }
        let bounds = Bounds {
            h2: false,
            ..later.bounds
        };
        head::read(conn, bounds, Instant::now() + later.complete).await
    }

    async fn turn(&mut self) {
        let terms = &self.shared.acceptor.terms;
        self.leave.turn(|| terms.load().idle_close_delay).await;
    }

    /// The answer to an ACME server that asks by http-01 (RFC 8555, section 8.3).
    fn challenge(&self, conn: &Conn, length: usize) -> Option<Vec<u8>> {
        const ASKS: &[u8] = b"GET /.well-known/acme-challenge/";
        let challenges = self.shared.acceptor.challenges.as_ref()?;
        let rest = conn.ahead()[..length].strip_prefix(ASKS)?;
        if conn.is_secured() {
            return None;
        }
        let token = rest.split(|byte| *byte == b' ').next()?;
        let answer = challenges.http(std::str::from_utf8(token).ok()?)?;
        let response = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{answer}",
            answer.len()
        );
        Some(response.into_bytes())
    }
}

/// Waits for a request to begin, and says whether one does before the connection has been silent too long
/// or `turn` is over. What had come by then isn't left unanswered, also where a busy host hasn't been told
/// of it yet.
async fn begins_before(
    conn: &mut Conn,
    later: Later,
    turn: impl Future<Output = ()>,
) -> io::Result<bool> {
    tokio::select! {
        biased;
        begins = timeout(later.keepalive, head::begins(conn)) => {
            if let Ok(begins) = begins {
                return begins;
            }
        }
        () = turn => {}
    }
    if !conn.has_news() {
        return Ok(false);
    }
    let begins = timeout(later.complete, head::begins(conn)).await;
    begins.unwrap_or(Ok(false))
}

/// What holds for the requests of a connection after its first.
#[derive(Clone, Copy)]
struct Later {
    bounds: Bounds,
    /// From a head's first byte to its end.
    complete: Duration,
    /// Until its first byte.
    keepalive: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tokio::net::{TcpListener, TcpStream};

    const LATER: Later = Later {
        bounds: Bounds {
            bytes_max: 64 << 10,
            h2: false,
        },
        complete: Duration::from_secs(3600),
        keepalive: Duration::from_secs(3600),
    };

    #[tokio::test]
    async fn a_request_that_came_before_its_idle_connection_was_to_leave_begins() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut client, (socket, peer)) = (client.unwrap().into_std().unwrap(), accepted.unwrap());
        let mut conn = Conn::new(socket, peer, None);
        let quiet = begins_before(&mut conn, LATER, async {}).await;
        assert!(!quiet.unwrap(), "nothing came");
        // The runtime, which is looking at this, hasn't been told of what comes.
        let turn = async { client.write_all(b"GET").unwrap() };
        assert!(begins_before(&mut conn, LATER, turn).await.unwrap());
        assert_eq!(conn.ahead(), b"GET");
    }
}

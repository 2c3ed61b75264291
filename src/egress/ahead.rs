//! Connections that are made ahead, for the first requests after a start: TCP, and the tunnel where
//! there is one. Dials take from here first. It keeps one for each endpoint, and not for long:
//! servers close what says nothing.
//!
//! TLS with the endpoint is left to the request that takes the connection: Pingora makes it, in a
//! connector that nobody else can reach, and keeps no HTTP/1.1 connection that carried nothing.

use std::cmp::Reverse;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use parking_lot::Mutex;
use pingora::protocols::l4::stream::Stream;
use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};

use super::connect::Dialler;
use super::{Egress, Endpoint, Limits};

/// What waits here longer is closed: many servers give a client about as long to begin.
const KEPT: Duration = Duration::from_secs(10);

/// All that waits.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    waiting: Mutex<AHashMap<u64, (Carrier, Instant)>>,
}

/// A connection whose next byte is the endpoint's.
#[derive(Debug)]
pub(super) enum Carrier {
    Tcp(TcpStream),
    /// Leads through TLS to a proxy.
    Pair(UnixStream),
}

// === impl Egress ===

impl Egress {
    /// Connects to the busiest of these endpoints, those of the same rank in their order, no more
    /// than `egress.prewarm`. Nothing is sent to them. What fails is counted, and left to the
    /// requests. The work goes on where the future is dropped.
    pub async fn connect_ahead<'e>(
        &self,
        endpoints: impl IntoIterator<Item = (&'e Endpoint, &'e Limits)>,
    ) {
        let mut all: Vec<_> = Vec::new();
        for (endpoint, limits) in endpoints {
            let same = |(known, _): &(&Endpoint, _)| known.pool_key == endpoint.pool_key;
            if !all.iter().any(same) {
                all.push((endpoint, limits));
            }
        }
        all.sort_by_key(|(endpoint, _)| Reverse(self.memory.uses(endpoint.pool_key)));
        let mut dials = Vec::new();
        for (endpoint, limits) in all.into_iter().take(self.prewarm_max) {
            // Its name was resolved before; who must wait for it is left out.
            let road = self.road(endpoint, &[]);
            let Ok(Ok(way)) = tokio::time::timeout(NAME_PATIENCE, road).await else {
                self.memory.pool.ahead_made(false);
                continue;
            };
            let dialler = way.dialler(endpoint, limits.connect);
            dials.push(tokio::spawn(keep(dialler)));
        }
        for dial in dials {
            // A dial that panics is a connection that isn't there.
            drop(dial.await);
        }
    }
}

async fn keep(dialler: Dialler) {
    let memory = Arc::clone(&dialler.memory);
    let dialled = dialler.dial().await;
    memory.pool.ahead_made(dialled.is_ok());
    match dialled {
        Ok(carrier) => {
            memory.ahead.keep(dialler.pool_key, carrier, Instant::now());
            tokio::spawn(async move {
                tokio::time::sleep(KEPT).await;
                memory.ahead.tidy(Instant::now());
            });
        }
        Err(error) => tracing::debug!(%error, "no connection was made ahead"),
    }
}

/// How long a connection that is made ahead waits for DNS.
const NAME_PATIENCE: Duration = Duration::from_millis(100);

// === impl Ahead ===

impl Ahead {
    /// Keeps one connection for dials with this pool key, until it is taken or too old.
    pub(super) fn keep(&self, key: u64, carrier: Carrier, now: Instant) {
        self.waiting.lock().insert(key, (carrier, now));
    }

    /// The connection that waits for this key, if it still lives and nobody has spoken on it.
    pub(super) fn take(&self, key: u64, now: Instant) -> Option<Carrier> {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            return None;
        }
        let (carrier, since) = waiting.remove(&key)?;
        let fresh = now.saturating_duration_since(since) < KEPT;
        (fresh && carrier.is_silent()).then_some(carrier)
    }

    /// Closes what is too old.
    pub(super) fn tidy(&self, now: Instant) {
        let fresh = |since: Instant| now.saturating_duration_since(since) < KEPT;
        self.waiting.lock().retain(|_, (_, since)| fresh(*since));
    }
}

// === impl Carrier ===

impl Carrier {
    /// Open, and without a byte to read: an endpoint speaks only when spoken to.
    pub(super) fn is_silent(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Pair(stream) => SockRef::from(stream),
        };
        let peeked = socket.peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl From<Carrier> for Stream {
    fn from(carrier: Carrier) -> Self {
        match carrier {
            Carrier::Tcp(stream) => stream.into(),
            Carrier::Pair(stream) => stream.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// A connection and its other end.
    async fn pair() -> (Carrier, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let client = TcpStream::connect(address).await.expect("connected");
        let (server, _) = listener.accept().await.expect("a client");
        (Carrier::Tcp(client), server)
    }

    #[tokio::test]
    async fn one_connection_is_taken_once_and_by_its_key_only() {
        let (ahead, now) = (Ahead::default(), Instant::now());
        let (carrier, _server) = pair().await;
        ahead.keep(1, carrier, now);
        assert!(ahead.take(2, now).is_none());
        assert!(ahead.take(1, now).is_some());
        assert!(ahead.take(1, now).is_none());
    }

    #[tokio::test]
    async fn what_has_waited_too_long_is_closed() {
        let (ahead, now) = (Ahead::default(), Instant::now());
        for (after, taken) in [(KEPT - Duration::from_nanos(1), true), (KEPT, false)] {
            let (carrier, _server) = pair().await;
            ahead.keep(1, carrier, now);
            assert_eq!(ahead.take(1, now + after).is_some(), taken, "{after:?}");
        }
        let (carrier, server) = pair().await;
        ahead.keep(1, carrier, now);
        ahead.tidy(now + KEPT);
        let read = server
            .readable()
            .await
            .and_then(|()| server.try_read(&mut [0]));
        assert_eq!(read.expect("an end"), 0);
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_or_that_somebody_spoke_on_is_not_used() {
        let (ahead, now) = (Ahead::default(), Instant::now());
        let (carrier, server) = pair().await;
        drop(server);
        ahead.keep(1, carrier, now);
        assert!(ahead.take(1, now).is_none(), "it has ended");
        let (carrier, mut server) = pair().await;
        server.write_all(b"x").await.expect("written");
        ahead.keep(1, carrier, now);
        assert!(ahead.take(1, now).is_none(), "it speaks first");
    }
}

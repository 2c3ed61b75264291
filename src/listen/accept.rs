//! The accept loop: a task per connection, never more than the cap, ended by the shutdown signal.

use super::conn::{Conn, Place};
use super::h2;
use super::head::{self, Bounds, Fault, Head};
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use prometheus::IntGauge;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;

/// How long a connection may be silent between two requests.
const KEEPALIVE: Duration = Duration::from_secs(75);
/// After accept failed for want of descriptors or memory.
const CALM: Duration = Duration::from_millis(100);

/// Opens a listening socket.
///
/// # Errors
/// Says which address could not be bound and why.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    const BACKLOG: u32 = 4096;
    let open = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // An address whose last owner's connections still wait for their end can be bound.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|error| {
        io::Error::new(error.kind(), format!("can't listen on {address}: {error}"))
    })
}

/// Hands connections to an HTTP service.
pub struct Acceptor<A> {
    /// The service.
    pub app: Arc<A>,
    /// Permits are connections; the cap of all listeners together.
    pub permits: Arc<Semaphore>,
    /// Bounds of each request's head.
    pub bounds: Bounds,
    /// Bounds of an HTTP/2 connection.
    pub h2: h2::Limits,
    /// Open connections.
    pub open: IntGauge,
    /// Told of heads that were refused before the service saw them.
    pub refused: Arc<dyn Fn(SocketAddr, Fault) + Send + Sync>,
}

impl<A: HttpServerApp + Send + Sync + 'static> Acceptor<A> {
    /// Accepts until the shutdown signal.
    pub async fn serve(self, listener: TcpListener, mut shutdown: ShutdownWatch) {
        let acceptor = Arc::new(self);
        loop {
            // At the cap nothing is accepted: clients wait in the kernel's queue.
            let next = async {
                // The semaphore is never closed.
                let permit = Arc::clone(&acceptor.permits).acquire_owned().await.ok();
                let accepted = listener.accept().await;
                accepted.map(|(socket, peer)| (socket, peer, permit))
            };
            let accepted = tokio::select! {
                biased;
                _ = shutdown.wait_for(|down| *down) => return,
                accepted = next => accepted,
            };
            match accepted {
                Ok((socket, peer, permit)) => {
                    if let Err(error) = socket.set_nodelay(true) {
                        tracing::debug!(%error, %peer, "nodelay could not be set");
                    }
                    let acceptor = Arc::clone(&acceptor);
                    let shutdown = shutdown.clone();
                    let place = permit.map(|permit| Place::new(permit, &acceptor.open));
                    let conn = Conn::new(socket, peer, place);
                    tokio::spawn(async move { acceptor.connection(conn, peer, shutdown).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(CALM).await;
                }
            }
        }
    }

    async fn connection(&self, mut conn: Conn, peer: SocketAddr, mut shutdown: ShutdownWatch) {
        let mut kept = None;
        let mut bounds = Bounds {
            // A fresh connection has no reason to wait.
            idle: self.bounds.complete,
            ..self.bounds
        };
        loop {
            let head = tokio::select! {
                biased;
                head = head::read(&mut conn, bounds) => head,
                _ = shutdown.wait_for(|down| *down) => return conn.close(),
            };
            let length = match head {
                Ok(Head::Http1(length)) => length,
                Ok(Head::Http2) => {
                    let refused = |fault| (self.refused)(peer, fault);
                    let io = Box::new(conn);
                    return h2::serve(&self.app, io, self.h2, &shutdown, refused).await;
                }
                Ok(Head::Closed) => return,
                Ok(Head::Refused(fault)) => {
                    (self.refused)(peer, fault);
                    // Written in one piece when the connection lingers, which has its own deadline.
                    let _ = conn.write_all(&fault.response()).await;
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, %peer, "a client's connection broke");
                    return;
                }
            };
            let head = conn.take_head(length);
            let mut session = ServerSession::new_http1(Box::new(conn));
            match kept.take() {
                None => session.set_keepalive(Some(KEEPALIVE.as_secs())),
                Some(settings) => {
                    let settings: pingora::apps::HttpPersistentSettings = settings;
                    settings.apply_to_session(&mut session);
                }
            }
            // The head is whole: Pingora parses these bytes and reads none by itself.
            session.set_pipelined_prefix(head);
            let Some(reused) = self.app.process_new_http(session, &shutdown).await else {
                return;
            };
            let (stream, settings) = reused.consume();
            let Ok(same) = stream.into_any().downcast::<Conn>() else {
                tracing::error!("Pingora gave back another stream than it was given");
                return;
            };
            conn = *same;
            kept = settings;
            bounds.idle = KEEPALIVE;
            bounds.h2 = false;
        }
    }
}

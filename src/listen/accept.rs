//! The accept loop: a task per connection, never more than the cap, started and stopped by a phase.

use super::caps::{Caps, Place};
use super::connection::Connection;
use super::head;
use super::listening::{Armed, Listening};
use super::phase::{Leave, Phase};
use super::proxy_protocol;
use super::terms::Terms;
use super::tls;
use super::transport::Socket;
use arc_swap::ArcSwap;
use pingora::apps::HttpServerApp;
use pingora::server::ShutdownWatch;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// After accept failed for want of descriptors or memory.
const CALM: Duration = Duration::from_millis(100);

/// Why a client was not served.
#[derive(Debug)]
pub enum Refusal {
    /// Its address has too many connections.
    PerClient,
    /// It isn't a proxy that may speak for others.
    Untrusted,
    /// It spoke for nobody, or not as the PROXY protocol wants it.
    ProxyProtocol(proxy_protocol::Fault),
    /// There is no agreement by TLS.
    Tls(tls::Fault),
    /// Its request's head can't be taken; it was answered.
    Head(head::Fault),
}

/// Told of each client that was not served; a Unix socket's has no address.
pub type Refused = Arc<dyn Fn(Option<IpAddr>, &Refusal) + Send + Sync>;

/// Hands the connections of one listener to an HTTP service.
pub struct Acceptor<A> {
    /// The service.
    pub app: Arc<A>,
    /// Terms of the connections that come.
    pub terms: Arc<ArcSwap<Terms>>,
    /// Of all listeners together.
    pub caps: Caps,
    /// Told of those that are not served.
    pub refused: Refused,
    /// Answers that an ACME server may come for on plaintext.
    pub challenges: Option<tls::Challenges>,
}

/// What the connections of a listener share.
pub(super) struct Shared<A> {
    pub(super) acceptor: Acceptor<A>,
    /// What a service is told while connections are kept, and when they aren't. Neither ever changes.
    pub(super) stay: ShutdownWatch,
    pub(super) leave: ShutdownWatch,
}

impl<A: HttpServerApp + Send + Sync + 'static> Acceptor<A> {
    /// Does what the phase says until the socket is closed by [`Phase::Closing`], or until the phase
    /// has no sender any more. Connections live on.
    ///
    /// # Errors
    /// When the socket can't be used at all.
    pub async fn serve(
        self,
        listening: Listening,
        mut phase: watch::Receiver<Phase>,
    ) -> io::Result<()> {
        let shared = Arc::new(Shared {
            acceptor: self,
            stay: watch::channel(false).1,
            leave: watch::channel(true).1,
        });
        let mut listening = listening;
        loop {
            let now = *phase.borrow_and_update();
            let told = match now {
                Phase::Accepting => {
                    let armed = listening.arm()?;
                    let told = shared.accept_while_told(&armed, &mut phase).await;
                    listening = armed.rest()?;
                    told
                }
                Phase::Closing => {
                    shared.accept_the_rest(&listening, &phase).await;
                    return Ok(());
                }
                Phase::Paused | Phase::Draining => phase.changed().await.is_ok(),
            };
            if !told {
                return Ok(());
            }
        }
    }
}

impl<A: HttpServerApp + Send + Sync + 'static> Shared<A> {
    /// Accepts until the phase is another; `false` when nobody is left to change it.
    async fn accept_while_told(
        self: &Arc<Self>,
        armed: &Armed,
        phase: &mut watch::Receiver<Phase>,
    ) -> bool {
        loop {
            let accepted = tokio::select! {
                biased;
                told = async { phase.wait_for(|phase| *phase != Phase::Accepting).await.is_ok() } => {
                    return told;
                }
                accepted = armed.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    // At the cap one client waits here and the others in the kernel's queue. A
                    // listener without clients holds no room that another one needs.
                    let room = tokio::select! {
                        biased;
                        room = self.acceptor.caps.room() => room,
                        _ = phase.wait_for(|phase| *phase != Phase::Accepting) => {
                            self.acceptor.caps.room_beyond()
                        }
                    };
                    self.welcome(socket, peer, room.take(), phase);
                }
                // The client has left the queue.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(CALM).await;
                }
            }
        }
    }

    /// What waits in the kernel's queue when a socket is closed would be reset: these clients are
    /// connected already. They are served even beyond the cap, for nobody else can; whoever comes
    /// after so many keeps on coming.
    async fn accept_the_rest(
        self: &Arc<Self>,
        listening: &Listening,
        phase: &watch::Receiver<Phase>,
    ) {
        /// As many as the largest usual queue holds (`net.core.somaxconn`).
        const REST_MAX: usize = 4096;
        /// So many in a row keep others waiting no longer than a busy accept loop does.
        const IN_A_ROW: usize = 32;
        for number in 1..=REST_MAX {
            let Some(accepted) = listening.accept_now() else {
                return;
            };
            if number.is_multiple_of(IN_A_ROW) {
                tokio::task::yield_now().await;
            }
            match accepted {
                Ok((socket, peer)) => {
                    let room = self.acceptor.caps.room_beyond();
                    self.welcome(socket, peer, room.take(), phase);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "connections were lost when a socket was closed");
                    return;
                }
            }
        }
    }

    fn welcome(
        self: &Arc<Self>,
        socket: Socket,
        peer: Option<SocketAddr>,
        mut place: Place,
        phase: &watch::Receiver<Phase>,
    ) {
        let terms = self.acceptor.terms.load_full();
        if let Err(error) = options(&socket, &terms) {
            tracing::debug!(%error, ?peer, "options of a socket could not be set");
        }
        // With the PROXY protocol, whose connection it is stands in its first bytes.
        if !terms.proxy_protocol && !self.claim(&mut place, peer, &terms) {
            return;
        }
        let connection = Connection {
            shared: Arc::clone(self),
            peer,
            leave: Leave::new(phase.clone()),
        };
        tokio::spawn(connection.run(socket, place, terms));
    }

    /// Counts the connection as its client's; `false` when it is one too many.
    pub(super) fn claim(&self, place: &mut Place, peer: Option<SocketAddr>, terms: &Terms) -> bool {
        let Some(client) = peer.map(|peer| peer.ip()) else {
            return true;
        };
        let may = terms.trusts(Some(client)) || place.claim(client);
        if !may {
            self.refuse(peer, &Refusal::PerClient);
        }
        may
    }

    pub(super) fn refuse(&self, peer: Option<SocketAddr>, refusal: &Refusal) {
        tracing::debug!(?peer, %refusal, "a client was not served");
        (self.acceptor.refused)(peer.map(|peer| peer.ip()), refusal);
    }
}

/// Of what was written to a client, what the kernel holds besides what is on its way: without a bound it is
/// megabytes for each client that reads slowly.
const UNSENT_BYTES_MAX: libc::c_int = 128 << 10;

/// Lets a socket take more only while it holds less than this that wasn't sent yet (tcp(7)).
fn unsent_at_most(socket: &TcpStream, bytes: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option is a number, which lives through the call and whose size is said.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            size,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn options(socket: &Socket, terms: &Terms) -> io::Result<()> {
    /// From the first question on; then the client is taken for gone.
    const PROBE_INTERVAL: Duration = Duration::from_secs(15);
    const PROBES: u32 = 4;
    let Socket::Tcp(socket) = socket else {
        return Ok(());
    };
    socket.set_nodelay(true)?;
    if !terms.tcp_keepalive.is_zero() {
        let keepalive = TcpKeepalive::new()
            .with_time(terms.tcp_keepalive)
            .with_interval(PROBE_INTERVAL)
            .with_retries(PROBES);
        SockRef::from(socket).set_tcp_keepalive(&keepalive)?;
    }
    // Last: not every kernel has it.
    unsent_at_most(socket, UNSENT_BYTES_MAX)
}

// === impl Refusal ===

impl Refusal {
    /// Its value in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::PerClient => "per_client",
            Self::Untrusted | Self::ProxyProtocol(_) => "proxy_protocol",
            Self::Tls(tls::Fault::Plaintext) => "plaintext_on_tls",
            Self::Tls(fault) => fault.label(),
            Self::Head(fault) => fault.answer().1,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PerClient => f.write_str("its address has too many connections"),
            Self::Untrusted => {
                f.write_str("it isn't a trusted proxy, and the PROXY protocol is on")
            }
            Self::ProxyProtocol(fault) => fault.fmt(f),
            Self::Tls(fault) => fault.fmt(f),
            Self::Head(fault) => f.write_str(fault.answer().2),
        }
    }
}

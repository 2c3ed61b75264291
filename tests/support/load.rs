//! A load that goes on while a test does things to weir: clients of every kind, which compare every
//! byte that they get and count what fails, by kind of client and of failure.

pub mod clients;
mod http2;
pub mod model;
pub mod tally;
pub mod wire;

use self::clients::{BEGAN, Client};
use self::tally::{Counts, DONE, Kind, Tally};
use super::DEADLINE;
use rustls::RootCertStore;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Clients at work.
pub struct Load {
    runtime: Runtime,
    address: SocketAddr,
    tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    /// Kinds at work that can be waited for.
    kinds: Vec<Kind>,
    clients: Vec<JoinHandle<()>>,
    streams: AtomicU64,
}

/// How many clients of a kind there are.
const NEW_CONNECTIONS: u64 = 2;
const KEEP_ALIVE: u64 = 8;
const HTTP2: u64 = 2;
/// Each has tickets of its own: as many handshakes are full ones.
pub const TLS: u64 = 2;

impl Load {
    /// Nobody is at work yet.
    pub fn on(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        Self {
            runtime,
            address,
            tally: Arc::new(Tally::new()),
            stop: watch::channel(false).0,
            kinds: Vec::new(),
            clients: Vec::new(),
            streams: AtomicU64::new(0),
        }
    }

    fn client(&self, address: SocketAddr, number: u64) -> Client {
        Client {
            address,
            number,
            tally: Arc::clone(&self.tally),
            stop: self.stop.subscribe(),
        }
    }

    fn begin(
        &mut self,
        kind: Kind,
        address: SocketAddr,
        count: u64,
        client: impl Fn(Client) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
    ) {
        self.kinds.push(kind);
        for number in 0..count {
            let task = self.runtime.spawn(client(self.client(address, number)));
            self.clients.push(task);
        }
    }

    /// Clients that make a connection for each request.
    pub fn new_connections(mut self) -> Self {
        let kind = Kind::NewConnection;
        self.begin(kind, self.address, NEW_CONNECTIONS, |it| {
            Box::pin(it.new_connections())
        });
        self
    }

    /// A pool of connections that are kept.
    pub fn keep_alive(mut self) -> Self {
        self.begin(Kind::KeepAlive, self.address, KEEP_ALIVE, |it| {
            Box::pin(it.keep_alive())
        });
        self
    }

    /// Clients of HTTP/2.
    pub fn http2(mut self) -> Self {
        self.begin(Kind::Http2, self.address, HTTP2, |it| Box::pin(it.http2()));
        self
    }

    /// One WebSocket.
    pub fn websocket(mut self) -> Self {
        self.begin(Kind::WebSocket, self.address, 1, |it| {
            Box::pin(it.websocket())
        });
        self
    }

    /// Clients of another address that speak TLS 1.3 and trust these authorities.
    pub fn tls(mut self, address: SocketAddr, roots: RootCertStore) -> Self {
        let roots = Arc::new(roots);
        self.begin(Kind::Tls, address, TLS, move |it| {
            let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(crypto)
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("TLS 1.3")
                .with_root_certificates(Arc::clone(&roots))
                .with_no_client_auth();
            Box::pin(it.tls(Arc::new(config)))
        });
        self
    }

    /// One that reads metrics all the time.
    pub fn admin(mut self, address: SocketAddr) -> Self {
        self.begin(Kind::Admin, address, 1, |it| Box::pin(it.admin()));
        self
    }

    /// Opens streams and waits until each has got its first event. They end with their batch.
    #[track_caller]
    pub fn open_streams(&self, count: u64, batch: u64) {
        let first = self.streams.fetch_add(count, Ordering::Relaxed);
        for number in first..first + count {
            let client = self.client(self.address, number);
            self.runtime.spawn(client.stream(batch));
        }
        self.tally.wait("all streams to begin", PATIENCE, |counts| {
            counts.of(Kind::Stream, BEGAN) + counts.failures(Kind::Stream) >= first + count
        });
    }

    /// Waits until so many streams of all have ended, well or not.
    #[track_caller]
    pub fn wait_ended_streams(&self, count: u64) {
        self.tally.wait("streams to end", PATIENCE, |counts| {
            counts.of(Kind::Stream, DONE) + counts.failures(Kind::Stream) >= count
        });
    }

    /// Waits until every client's kind has done more: so much as `each`.
    #[track_caller]
    pub fn wait_more(&self, each: u64) {
        let total = |counts: &Counts, kind| counts.of(kind, DONE) + counts.failures(kind);
        let before = self.tally.now();
        self.tally.wait("more of every kind", PATIENCE, |counts| {
            let mut kinds = self.kinds.iter();
            kinds.all(|kind| total(counts, *kind) >= total(&before, *kind) + each)
        });
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.tally.now()
    }

    /// Ends all clients but the streams, which must have ended, and returns the counts.
    pub fn finish(self) -> Counts {
        self.stop.send_replace(true);
        let clients = self.clients;
        self.runtime.block_on(async {
            for client in clients {
                let ended = tokio::time::timeout(2 * DEADLINE, client).await;
                assert!(
                    ended.is_ok_and(|it| it.is_ok()),
                    "a client of the load broke"
                );
            }
        });
        self.tally.now()
    }
}

/// For what many clients do together on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

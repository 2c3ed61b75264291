//! A road that was chosen, and the `HttpPeer` that Pingora takes it by.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora::protocols::ALPN;
use pingora::protocols::l4::ext::TcpKeepalive;
use pingora::upstreams::peer::HttpPeer;

use super::connect::{Dialler, Reach};
use super::endpoint::Endpoint;
use super::lane::{self, Lanes, Lead};
use super::memory::Memory;
use super::rules::{self, Road, Rule};
use super::settings::ProxyUrl;
use crate::types::Scheme;

/// Idle connections are closed after this. Tunnels sooner, as many proxies cut them at 60 s.
const POOL_IDLE: Duration = Duration::from_secs(60);
const POOL_IDLE_TUNNEL: Duration = Duration::from_secs(45);

/// Requests at a time on one HTTP/2 connection.
const H2_STREAMS_MAX: usize = 100;

/// What an upstream may send on one stream, and on one connection, before it was read here. A client
/// that reads slowly holds up to the former, and as many as a connection carries leave room for others.
const H2_STREAM_WINDOW_BYTES: u32 = 160 << 10;
const H2_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const _: () =
    assert!(H2_STREAM_WINDOW_BYTES as usize * H2_STREAMS_MAX < H2_CONNECTION_WINDOW_BYTES as usize);

/// An HTTP/2 connection is asked for a sign of life this often; Pingora gives it 5 s to answer.
/// Keepalive of TCP would notice a dead proxy, but no dead endpoint behind it.
const H2_PING: Duration = Duration::from_secs(30);

/// How long the steps of one attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From nothing to a connection that can carry a request: TCP, the tunnel and TLS.
    pub connect: Duration,
    /// From the request to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer. Pingora has one timeout for this and `first_byte`, so the
    /// longer of the two is set on the peer; the caller sees to the shorter.
    pub idle: Duration,
    /// For one write to be taken.
    pub write: Duration,
}

/// The road chosen for one attempt, with all that is needed to take it.
#[derive(Clone, Debug)]
pub struct Way {
    /// Direct or by proxy.
    pub road: Road,
    /// What chose it.
    pub rule: Rule,
    pub(super) reach: Reach,
    pub(super) pool_key: u64,
    pub(super) others: usize,
    /// Proxies that failed for the same request before.
    pub(super) asked: usize,
    pub(super) memory: Arc<Memory>,
}

// === impl Way ===

impl Way {
    /// Whether the endpoint is in the intranet: reached directly, and known to be near.
    pub fn is_intranet(&self) -> bool {
        match (&self.reach, self.rule) {
            (Reach::Proxy(_), _) => false,
            (Reach::Direct(_), Rule::Direct(_) | Rule::Intranet) => true,
            (Reach::Direct(addresses), _) => addresses.iter().all(|ip| rules::is_intranet(*ip)),
        }
    }

    /// The proxy, where the road leads through one.
    pub fn proxy(&self) -> Option<&ProxyUrl> {
        match &self.reach {
            Reach::Direct(_) => None,
            Reach::Proxy(hop) => Some(&hop.proxy),
        }
    }

    /// What tells this proxy, with its credentials, from others.
    pub fn proxy_id(&self) -> Option<u64> {
        self.proxy().map(|proxy| proxy.id)
    }

    /// Proxies that could be asked if this one fails.
    pub fn others(&self) -> usize {
        self.others
    }

    /// Waits, for half of the time to connect at most, where another request is opening an HTTP/2
    /// connection that could carry this one too; where nobody is, the request opens it for others.
    /// What is returned is to be told what the connection speaks. Safe to drop.
    pub async fn join(&self, endpoint: &Endpoint, limits: &Limits) -> Option<Lead> {
        match endpoint.scheme {
            Scheme::Http => None,
            Scheme::Https => {
                let patience = limits.connect / 2;
                let (memory, endpoint) = (&self.memory, endpoint.pool_key);
                let lead = Lanes::join(memory, self.pool_key, endpoint, patience).await;
                Some(lead.unwrap_or_else(|| Lead::alone(memory, self.pool_key, endpoint)))
            }
        }
    }

    pub(super) fn dialler(&self, endpoint: &Endpoint, budget: Duration) -> Dialler {
        Dialler {
            host: Arc::clone(&endpoint.host),
            port: endpoint.port,
            budget,
            reach: self.reach.clone(),
            pool_key: self.pool_key,
            endpoint: endpoint.pool_key,
            share: false,
            others: self.others,
            asked: self.asked,
            memory: Arc::clone(&self.memory),
        }
    }

    /// What Pingora connects to. `endpoint` is the one that the way was asked for.
    /// Where `share` is true and an HTTP/2 connection lives, a dial ends in
    /// [`ConnectError::Shared`](super::ConnectError::Shared): the pool is to be asked once more.
    pub fn peer(&self, endpoint: &Endpoint, limits: &Limits, share: bool) -> HttpPeer {
        // A logical address: Pingora doesn't compare 0.0.0.0 with the socket's when it reuses a
        // connection, so the pool is by name, and any of the addresses will do.
        let logical = SocketAddr::from(([0, 0, 0, 0], endpoint.port));
        let is_tls = endpoint.scheme == Scheme::Https;
        let mut peer = HttpPeer::new(logical, is_tls, endpoint.server_name.clone());
        peer.group_key = self.pool_key;
        peer.client_cert_key.clone_from(&endpoint.tls.client);
        let options = &mut peer.options;
        // A little less than the whole, so that the dialler's own error comes first.
        let budget = limits.connect - limits.connect / 20;
        options.custom_l4 = Some(Arc::new(Dialler {
            share,
            ..self.dialler(endpoint, budget)
        }));
        let lane = is_tls.then_some(self.pool_key);
        options.tracer = Some(lane::tracer(&self.memory, lane, self.road));
        options.total_connection_timeout = Some(limits.connect);
        options.read_timeout = Some(limits.first_byte.max(limits.idle));
        options.write_timeout = Some(limits.write);
        options.idle_timeout = Some(match self.road {
            Road::Direct => POOL_IDLE,
            Road::Proxy => POOL_IDLE_TUNNEL,
        });
        options.tcp_keepalive = Some(keepalive());
        options.max_h2_streams = H2_STREAMS_MAX;
        options.h2_stream_window_size = Some(H2_STREAM_WINDOW_BYTES);
        options.h2_connection_window_size = Some(H2_CONNECTION_WINDOW_BYTES);
        options.h2_ping_interval = Some(H2_PING);
        options.verify_cert = endpoint.tls.verify;
        options.verify_hostname = endpoint.tls.verify;
        options.ca.clone_from(&endpoint.tls.ca);
        options.alpn = if is_tls { ALPN::H2H1 } else { ALPN::H1 };
        peer
    }

    /// Has the peer speak HTTP/2 only, without TLS by prior knowledge (RFC 9113, section 3.3), as gRPC does.
    pub fn only_http2(&self, peer: &mut HttpPeer) {
        peer.options.alpn = ALPN::H2;
    }

    /// Has the peer speak HTTP/1.1 only, as other protocols (WebSocket) are taken over from that.
    pub fn only_http1(&self, peer: &mut HttpPeer) {
        peer.options.alpn = ALPN::H1;
        peer.options.tracer = Some(lane::tracer(&self.memory, None, self.road));
    }
}

/// A peer that vanished is noticed after a minute and a half, also where nothing is sent.
pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive {
        idle: Duration::from_secs(45),
        interval: Duration::from_secs(15),
        count: 3,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    }
}

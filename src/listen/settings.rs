//! Where weir listens. Filled by `config::check`.

use super::tls;
use crate::types::socket::Socket;
use ipnet::IpNet;
use std::time::Duration;

/// All listeners of client traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Never empty.
    pub listeners: Vec<Listener>,
    /// `limits.connections`: open client connections at once; 0 = no cap.
    pub connections_max: usize,
    /// `limits.connections_per_client`: of one address (IPv6: one /64) that is no trusted proxy;
    /// 0 = no cap.
    pub connections_per_client_max: usize,
    /// `limits.header_bytes`: request line and headers together; 431 over it.
    pub header_bytes_max: usize,
    /// `timeouts.client_header`: for the handshake and the complete first head together, and from
    /// the first byte of each later one to its end.
    pub client_header: Duration,
    /// `timeouts.keepalive`: how long a connection may be silent between two requests.
    pub keepalive: Duration,
    /// `timeouts.idle`: how long a client of HTTP/2 may take nothing of what waits for it.
    pub stall: Duration,
    /// `timeouts.drain`: how long open requests may go on when weir stops or is replaced.
    pub drain: Duration,
    /// `timeouts.idle_close_delay`: idle connections of a weir that is replaced are closed one by one
    /// over this time (none in its first fifth), so that few clients meet a closed one just as they send.
    pub idle_close_delay: Duration,
    /// `trusted_proxies`: who may speak the PROXY protocol.
    pub trusted: Vec<IpNet>,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where, and how it is opened.
    pub socket: Socket,
    /// `None`: plaintext.
    pub tls: Option<tls::settings::Settings>,
    /// Accept HTTP/2 (with prior knowledge on plaintext) beside HTTP/1.1.
    pub h2: bool,
    /// Each connection begins with a PROXY protocol header (v1 or v2); one from an address that is
    /// no trusted proxy is closed.
    pub proxy_protocol: bool,
    /// Silence after which TCP asks whether the client is there (`SO_KEEPALIVE`); zero: never.
    pub tcp_keepalive: Duration,
}

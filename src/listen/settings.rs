//! Where weir listens. Filled by `config::check`.

use std::net::SocketAddr;
use std::time::Duration;

/// All listeners of client traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Never empty.
    pub listeners: Vec<Listener>,
    /// `limits.connections`: open client connections at once; 0 = no cap.
    pub connections_max: usize,
    /// `limits.header_bytes`: request line and headers together; 431 over it.
    pub header_bytes_max: usize,
    /// `timeouts.client_header`: from the first byte to the end of the headers.
    pub client_header: Duration,
    /// `timeouts.drain`: how long open requests may go on after `SIGTERM`.
    pub drain: Duration,
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it is bound.
    pub address: SocketAddr,
    /// Accept HTTP/2 (with prior knowledge on plaintext) beside HTTP/1.1.
    pub h2: bool,
}

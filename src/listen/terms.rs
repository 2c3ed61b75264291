//! Under which terms a listener takes connections. A reload swaps them for the connections that come;
//! those that are open keep what they have agreed on.

use super::settings::Settings;
use super::tls::Tls;
use http::HeaderValue;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Terms of one listener.
#[derive(Clone, Debug)]
pub struct Terms {
    /// `None`: plaintext.
    pub tls: Option<Arc<Tls>>,
    /// `Strict-Transport-Security`, for the answers of a TLS listener.
    pub hsts: Option<HeaderValue>,
    /// HTTP/2 with prior knowledge is spoken on plaintext. Under TLS, [`Terms::tls`] says it.
    pub h2: bool,
    /// Each connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Who may speak the PROXY protocol, and has no cap of its own.
    pub trusted: Arc<[IpNet]>,
    /// Size of a request's head; 431 over it.
    pub header_bytes_max: usize,
    /// From accept to the end of the first head, all that comes before included; and from the first
    /// byte of each later head to its end.
    pub client_header: Duration,
    /// Silence between two requests.
    pub keepalive: Duration,
    /// How long a client of HTTP/2 may take nothing of what waits for it.
    pub stall: Duration,
    /// Over which time idle connections leave when weir drains.
    pub idle_close_delay: Duration,
    /// Silence after which TCP asks whether the client is there; zero: never.
    pub tcp_keepalive: Duration,
}

impl Terms {
    /// Terms of the listener at a place in the settings, with the TLS that was loaded for it.
    /// `None` where there is no such listener.
    pub fn of(settings: &Settings, place: usize, tls: Option<Arc<Tls>>) -> Option<Self> {
        let listener = settings.listeners.get(place)?;
        let hsts = listener.tls.as_ref().map(|tls| tls.hsts.as_secs());
        Some(Self {
            tls,
            hsts: hsts
                .filter(|age| *age > 0)
                .and_then(|age| format!("max-age={age}").parse().ok()),
            h2: listener.h2,
            proxy_protocol: listener.proxy_protocol,
            tcp_keepalive: listener.tcp_keepalive,
            ..Self::plain(settings)
        })
    }

    /// Plaintext HTTP/1.1 and nothing else, within the same bounds: for operators.
    pub fn plain(settings: &Settings) -> Self {
        Self {
            tls: None,
            hsts: None,
            h2: false,
            proxy_protocol: false,
            trusted: settings.trusted.as_slice().into(),
            header_bytes_max: settings.header_bytes_max,
            client_header: settings.client_header,
            keepalive: settings.keepalive,
            stall: settings.stall,
            idle_close_delay: settings.idle_close_delay,
            tcp_keepalive: Duration::ZERO,
        }
    }

    /// Whether a peer is a trusted proxy. One without an address came through a Unix socket, whose
    /// file says who may.
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|peer| {
            let peer = peer.to_canonical();
            self.trusted.iter().any(|network| network.contains(&peer))
        })
    }
}

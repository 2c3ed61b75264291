//! weir's own listeners, so that no request is sent to whom it came from.
//!
//! Made by `app` from the sockets that are really bound, and by the check of the configuration from
//! the addresses that are written there; asked by [`super::Egress`] for each address of an upstream.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::forbidden::forms;

/// Where weir listens. Clones share what they know of this host.
#[derive(Clone, Debug, Default)]
pub struct Own {
    listeners: Arc<[SocketAddr]>,
    here: Arc<Here>,
}

/// The addresses of this host's interfaces, as last read.
#[derive(Debug, Default)]
struct Here(RwLock<Option<(Instant, Vec<IpAddr>)>>);

/// An interface may get another address while weir runs.
const HERE_FOR: Duration = Duration::from_secs(10);

// === impl Own ===

impl Own {
    /// weir listens at these; a port 0 is nowhere yet.
    pub fn new(listeners: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            listeners: listeners.into_iter().filter(|it| it.port() != 0).collect(),
            here: Arc::default(),
        }
    }

    /// Whether a connection to this address would reach one of weir's own listeners. One on all
    /// addresses is reached by each address of this host.
    pub fn takes(&self, address: IpAddr, port: u16) -> bool {
        self.takes_where(address, port, |ip| self.here.has(ip, Instant::now()))
    }

    /// As [`Own::takes`], for a file that may be of another host: what every host has is loopback.
    pub fn takes_anywhere(&self, address: IpAddr, port: u16) -> bool {
        self.takes_where(address, port, |_| false)
    }

    fn takes_where(&self, address: IpAddr, port: u16, is_here: impl Fn(IpAddr) -> bool) -> bool {
        // Most upstreams have another port, and that is all that is looked at.
        let mut near = self.listeners.iter().filter(|it| it.port() == port);
        near.any(|listener| {
            forms(address).any(|form| match listener.ip() {
                IpAddr::V4(all) if all.is_unspecified() => {
                    form.is_ipv4() && (form.is_loopback() || is_here(form))
                }
                // Takes IPv4 too.
                IpAddr::V6(all) if all.is_unspecified() => form.is_loopback() || is_here(form),
                one => one.to_canonical() == form.to_canonical(),
            })
        })
    }
}

// === impl Here ===

impl Here {
    fn has(&self, address: IpAddr, now: Instant) -> bool {
        let is_old = |read: Instant| now.saturating_duration_since(read) >= HERE_FOR;
        if self.0.read().as_ref().is_none_or(|(read, _)| is_old(*read)) {
            // Some tens of microseconds, at most once in a while.
            let mut known = self.0.write();
            if known.as_ref().is_none_or(|(read, _)| is_old(*read)) {
                *known = Some((now, addresses_here()));
            }
        }
        let known = self.0.read();
        known
            .as_ref()
            .is_some_and(|(_, all)| all.contains(&address))
    }
}

/// None where the system doesn't tell: then only loopback is known to be here.
fn addresses_here() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(listeners: &[&str]) -> Own {
        Own::new(listeners.iter().map(|it| it.parse().expect(it)))
    }

    #[test]
    fn a_listener_is_reached_by_its_address_and_by_each_address_where_it_has_none() {
        let is_here = |ip: IpAddr| ["10.1.1.1", "fd00::1"].contains(&&*ip.to_string());
        for (listener, address, port, taken) in [
            ("127.0.0.1:8080", "127.0.0.1", 8080, true),
            ("127.0.0.1:8080", "127.0.0.1", 8081, false),
            ("127.0.0.1:8080", "127.0.0.2", 8080, false),
            ("127.0.0.1:8080", "::ffff:127.0.0.1", 8080, true),
            ("127.0.0.1:8080", "64:ff9b::127.0.0.1", 8080, true),
            ("127.0.0.1:8080", "::1", 8080, false),
            ("127.0.0.1:0", "127.0.0.1", 0, false),
            ("10.1.1.1:80", "10.1.1.1", 80, true),
            ("0.0.0.0:80", "10.1.1.1", 80, true),
            ("0.0.0.0:80", "10.1.1.1", 81, false),
            ("0.0.0.0:80", "10.1.1.2", 80, false),
            ("0.0.0.0:80", "127.9.9.9", 80, true),
            ("0.0.0.0:80", "::ffff:10.1.1.1", 80, true),
            ("0.0.0.0:80", "fd00::1", 80, false),
            ("0.0.0.0:80", "::1", 80, false),
            ("[::]:80", "fd00::1", 80, true),
            ("[::]:80", "::1", 80, true),
            ("[::]:80", "10.1.1.1", 80, true),
            ("[::]:80", "fd00::2", 80, false),
            ("[::1]:80", "::1", 80, true),
            ("[::1]:80", "127.0.0.1", 80, false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1", 80, true),
        ] {
            let ip = address.parse().expect(address);
            let got = own(&[listener]).takes_where(ip, port, is_here);
            assert_eq!(got, taken, "{listener} {address}:{port}");
        }
    }

    #[test]
    fn the_addresses_of_this_host_are_read_from_the_system() {
        let here = Here::default();
        let now = Instant::now();
        let loopback: IpAddr = "127.0.0.1".parse().expect("an IP");
        assert!(here.has(loopback, now));
        assert!(!here.has("192.0.2.77".parse().expect("an IP"), now));
        // What was read is kept, and read again when its time is over.
        *here.0.write() = Some((now, Vec::new()));
        assert!(!here.has(loopback, now + HERE_FOR - Duration::from_millis(1)));
        assert!(here.has(loopback, now + HERE_FOR));
    }
}

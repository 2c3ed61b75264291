//! A loopback address that leads to a server elsewhere, byte by byte: so that one port is served at
//! several addresses, and connections are counted by address.

use super::gate::Board;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// An address that leads on. It stops accepting when it is dropped.
pub struct Relay {
    address: SocketAddr,
    state: Arc<Board<State>>,
}

#[derive(Default)]
struct State {
    connections: usize,
    open: usize,
    stop: bool,
}

impl Relay {
    /// One relay for each of these servers, at 127.0.0.2, 127.0.0.3 and so on, all with the same port.
    #[track_caller]
    pub fn side_by_side(to: &[SocketAddr]) -> Vec<Self> {
        const TRIES: usize = 50;
        let listeners = (0..TRIES).find_map(|_| {
            let first = TcpListener::bind((nth(0), 0)).expect("a free port");
            let port = first.local_addr().expect("bound").port();
            let mut all = vec![first];
            for number in 1..to.len() {
                all.push(TcpListener::bind((nth(number), port)).ok()?);
            }
            Some(all)
        });
        let listeners = listeners.expect("a port that is free at all addresses");
        let pairs = listeners.into_iter().zip(to);
        pairs.map(|(it, to)| Self::start(it, *to)).collect()
    }

    fn start(listener: TcpListener, to: SocketAddr) -> Self {
        let relay = Self {
            address: listener.local_addr().expect("bound"),
            state: Arc::default(),
        };
        let state = Arc::clone(&relay.state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if state.lock().stop {
                    return;
                }
                state.change(|state| {
                    state.connections += 1;
                    state.open += 1;
                });
                let state = Arc::clone(&state);
                std::thread::spawn(move || {
                    join(client, to);
                    state.change(|state| state.open -= 1);
                });
            }
        });
        relay
    }

    /// Its own address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.state.lock().connections
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.state.lock().open
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.change(|state| state.stop = true);
        let _ = TcpStream::connect(self.address);
    }
}

fn nth(number: usize) -> IpAddr {
    let last = u8::try_from(number + 2).expect("a few relays");
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}

/// Carries bytes both ways until both have ended.
fn join(client: TcpStream, to: SocketAddr) {
    let Ok(server) = TcpStream::connect(to) else {
        return;
    };
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let back = std::thread::spawn(move || carry(server_too, client_too));
    carry(client, server);
    let _ = back.join();
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let _ = to.set_nodelay(true);
    let mut piece = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

//! A name server that knows what a test tells it. UDP only.

use super::gate::Board;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// A name server on a port of its own.
pub struct DnsServer {
    address: SocketAddr,
    state: Arc<Board<State>>,
}

#[derive(Default)]
struct State {
    names: HashMap<String, Known>,
    /// Names that were asked for, with the type's number (1 = A, 28 = AAAA).
    questions: Vec<(String, u16)>,
    stop: bool,
}

/// What is known of a name. Unknown names don't exist (NXDOMAIN).
#[derive(Clone, Debug)]
pub enum Known {
    /// These addresses, for this many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// The server fails (SERVFAIL).
    Failure,
    /// No answer comes.
    Silence,
}

const A: u16 = 1;
const AAAA: u16 = 28;

impl DnsServer {
    /// A server that knows no name.
    pub fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a socket");
        let server = Self {
            address: socket.local_addr().expect("bound"),
            state: Arc::default(),
        };
        let state = Arc::clone(&server.state);
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while !state.lock().stop {
                let Ok((size, from)) = socket.recv_from(&mut packet) else {
                    continue;
                };
                if let Some(answer) = answer(&packet[..size], &state) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is known of a name.
    pub fn know(&self, name: &str, known: Known) {
        self.state
            .change(|state| state.names.insert(name.to_owned(), known));
    }

    /// From now on a name has these addresses for an hour.
    pub fn lead(&self, name: &str, addresses: &[IpAddr]) {
        self.know(name, Known::Addresses(addresses.to_vec(), 3600));
    }

    /// How often a name was asked for, with any type.
    pub fn asked(&self, name: &str) -> usize {
        self.state
            .lock()
            .questions
            .iter()
            .filter(|(asked, _)| asked == name)
            .count()
    }

    /// Waits until a name was asked for.
    #[track_caller]
    pub fn wait_asked(&self, name: &str) {
        self.state.wait(&format!("a question for {name}"), |state| {
            state
                .questions
                .iter()
                .any(|(asked, _)| asked == name)
                .then_some(())
        });
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.state.change(|state| state.stop = true);
    }
}

/// RFC 1035, section 4: the header, the question again, and the answers.
fn answer(query: &[u8], state: &Board<State>) -> Option<Vec<u8>> {
    let (name, end) = name(query)?;
    let kind = u16::from_be_bytes([*query.get(end)?, *query.get(end + 1)?]);
    let known = state.change(|state| {
        state.questions.push((name.clone(), kind));
        state.names.get(&name).cloned()
    });
    let (code, addresses, ttl) = match known {
        Some(Known::Addresses(addresses, ttl)) => (0, addresses, ttl),
        Some(Known::Failure) => (2, Vec::new(), 0),
        Some(Known::Silence) => return None,
        None => (3, Vec::new(), 0),
    };
    let addresses: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|address| match (address, kind) {
            (IpAddr::V4(address), A) => Some(address.octets().to_vec()),
            (IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();
    let count = u8::try_from(addresses.len()).ok()?;
    let mut packet = query.get(..2)?.to_vec();
    packet.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    packet.extend_from_slice(query.get(12..end + 4)?);
    for address in addresses {
        // The name is the question's, at byte 12.
        packet.extend_from_slice(&[0xc0, 12]);
        packet.extend_from_slice(&kind.to_be_bytes());
        packet.extend_from_slice(&[0, 1]);
        packet.extend_from_slice(&ttl.to_be_bytes());
        packet.extend_from_slice(&u16::try_from(address.len()).ok()?.to_be_bytes());
        packet.extend_from_slice(&address);
    }
    Some(packet)
}

/// The question's name in lower case without its last dot, and where it ends.
fn name(query: &[u8]) -> Option<(String, usize)> {
    let mut labels: Vec<String> = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            return Some((labels.join("."), at + 1));
        }
        let label = query.get(at + 1..at + 1 + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + length;
    }
}

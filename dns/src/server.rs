//! A DNS server on loopback whose answers a test scripts. UDP only, one question a message.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// What the script says to one question.
pub(crate) enum Reply {
    /// Addresses (those of the asked family) and their TTL in seconds.
    Addresses(Vec<&'static str>, u32),
    /// An alias with its TTL, and the addresses of its target with theirs.
    Alias(&'static str, u32, Vec<&'static str>, u32),
    /// No records and this response code.
    Code(u8),
    /// Nothing at all.
    Silence,
}

pub(crate) struct Server {
    address: SocketAddr,
    queries: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts to answer; `script` is given the name in lower case and the record type's number.
    pub(crate) async fn start(script: impl Fn(&str, u16) -> Reply + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("bound");
        let queries = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&queries);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                counter.fetch_add(1, Ordering::SeqCst);
                if let Some(reply) = reply(&buffer[..length], &script) {
                    drop(socket.send_to(&reply, client).await);
                }
            }
        });
        Self {
            address,
            queries,
            task,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Questions so far.
    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn reply(query: &[u8], script: &dyn Fn(&str, u16) -> Reply) -> Option<Vec<u8>> {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let question = &query[12..at + 5];
    let (code, records) = match script(&labels.join("."), kind) {
        Reply::Silence => return None,
        Reply::Code(code) => (code, Vec::new()),
        Reply::Addresses(list, ttl) => {
            let owner = [0xc0, 12];
            (0, list.iter().map(|ip| address(&owner, ip, ttl)).collect())
        }
        Reply::Alias(target, ttl, list, ttl_target) => {
            let target = name(target);
            let mut records = vec![record(&[0xc0, 12], 5, ttl, &target)];
            records.extend(list.iter().map(|ip| address(&target, ip, ttl_target)));
            (0, records)
        }
    };
    let mut message = vec![query[0], query[1], 0x81, 0x80 | code, 0, 1];
    message.extend_from_slice(&(records.len() as u16).to_be_bytes());
    message.extend_from_slice(&[0, 0, 0, 0]);
    message.extend_from_slice(question);
    message.extend(records.concat());
    Some(message)
}

fn address(owner: &[u8], ip: &str, ttl: u32) -> Vec<u8> {
    match ip.parse().expect("an address in the script") {
        IpAddr::V4(ip) => record(owner, 1, ttl, &ip.octets()),
        IpAddr::V6(ip) => record(owner, 28, ttl, &ip.octets()),
    }
}

fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = owner.to_vec();
    record.extend_from_slice(&kind.to_be_bytes());
    record.extend_from_slice(&[0, 1]);
    record.extend_from_slice(&ttl.to_be_bytes());
    record.extend_from_slice(&(data.len() as u16).to_be_bytes());
    record.extend_from_slice(data);
    record
}

fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

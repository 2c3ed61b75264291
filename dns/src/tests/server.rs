//! A DNS server on loopback whose answers a test scripts: UDP and TCP on one port, one question a
//! message.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;

/// What is asked.
pub(crate) struct Question<'a> {
    /// In lower case, without a dot at its end.
    pub(crate) name: &'a str,
    /// The record type's number.
    pub(crate) kind: u16,
    pub(crate) tcp: bool,
    /// How long a UDP answer may be, by EDNS.
    pub(crate) payload: Option<u16>,
}

/// What the script says to one question.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Addresses (those of the asked family) and their TTL in seconds.
    Addresses(Vec<&'static str>, u32),
    /// An alias with its TTL, and the addresses of its target with theirs.
    Alias(&'static str, u32, Vec<&'static str>, u32),
    /// No records and this response code.
    Code(u8),
    /// No records, this response code, and a zone that says for how many seconds.
    Gone(u8, u32),
    /// An address of a name that wasn't asked for, beside the question.
    Unasked(&'static str, &'static str),
    /// No records: the answer doesn't fit.
    Truncated,
    /// Addresses, and more of them that don't fit.
    Part(Vec<&'static str>, u32),
    /// The answer with another message's number.
    WrongId(Vec<&'static str>),
    /// The answer to the question for another name.
    WrongQuestion(Vec<&'static str>),
    /// Not DNS.
    Rubbish,
    /// One datagram after the other.
    Several(Vec<Reply>),
    /// After a while.
    Late(Duration, Box<Reply>),
    /// Nothing at all.
    Silence,
}

pub(crate) struct Server {
    address: SocketAddr,
    queries: Arc<AtomicUsize>,
    tasks: [JoinHandle<()>; 2],
}

type Script = dyn Fn(&Question<'_>) -> Reply + Send + Sync;

impl Server {
    /// Starts to answer.
    pub(crate) async fn start(
        script: impl Fn(&Question<'_>) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (socket, listener) = sockets().await;
        let address = socket.local_addr().expect("bound");
        let queries = Arc::new(AtomicUsize::new(0));
        let script: Arc<Script> = Arc::new(script);
        let by_udp = udp(Arc::new(socket), Arc::clone(&script), Arc::clone(&queries));
        let by_tcp = tcp(listener, script, Arc::clone(&queries));
        Self {
            address,
            queries,
            tasks: [tokio::spawn(by_udp), tokio::spawn(by_tcp)],
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
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A port that is free for both.
async fn sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        if let Ok(socket) = UdpSocket::bind(address).await {
            return (socket, listener);
        }
    }
    panic!("no port is free for UDP and TCP");
}

async fn udp(socket: Arc<UdpSocket>, script: Arc<Script>, queries: Arc<AtomicUsize>) {
    let mut buffer = [0; 1500];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        queries.fetch_add(1, Ordering::SeqCst);
        let query = buffer[..length].to_vec();
        let reply = replied(&query, false, &*script);
        let socket = Arc::clone(&socket);
        tokio::spawn(async move {
            let (pause, reply) = delayed(reply);
            tokio::time::sleep(pause).await;
            for message in messages(&query, reply) {
                drop(socket.send_to(&message, client).await);
            }
        });
    }
}

async fn tcp(listener: TcpListener, script: Arc<Script>, queries: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (script, queries) = (Arc::clone(&script), Arc::clone(&queries));
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut query = vec![0; length.into()];
                if stream.read_exact(&mut query).await.is_err() {
                    return;
                }
                queries.fetch_add(1, Ordering::SeqCst);
                let (pause, reply) = delayed(replied(&query, true, &*script));
                tokio::time::sleep(pause).await;
                for message in messages(&query, reply) {
                    let mut bytes = (message.len() as u16).to_be_bytes().to_vec();
                    bytes.extend(message);
                    drop(stream.write_all(&bytes).await);
                }
            }
        });
    }
}

fn replied(query: &[u8], tcp: bool, script: &Script) -> Reply {
    let (name, end) = read_name(query);
    // Without a record the message ends after the question; ours are EDNS's and nothing else.
    let edns = query.get(end + 4 + 3..end + 4 + 5);
    script(&Question {
        name: &name,
        kind: u16::from_be_bytes([query[end], query[end + 1]]),
        tcp,
        payload: edns.map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]])),
    })
}

fn delayed(reply: Reply) -> (Duration, Reply) {
    match reply {
        Reply::Late(pause, reply) => (pause, *reply),
        reply => (Duration::ZERO, reply),
    }
}

fn messages(query: &[u8], reply: Reply) -> Vec<Vec<u8>> {
    match reply {
        Reply::Several(replies) => (replies.into_iter())
            .flat_map(|reply| messages(query, reply))
            .collect(),
        Reply::Silence => Vec::new(),
        Reply::Rubbish => {
            // The right number, so that it is looked at.
            let mut message = query[..2].to_vec();
            message.extend([0x81, 0x80, 0xff, 0xff]);
            vec![message]
        }
        reply => vec![message(query, reply)],
    }
}

fn message(query: &[u8], reply: Reply) -> Vec<u8> {
    let (_, end) = read_name(query);
    let (mut id, mut question) = ([query[0], query[1]], query[12..end + 4].to_vec());
    let (mut code, mut truncated, mut zone) = (0, false, None);
    let owner = [0xc0, 12];
    let all = |list: Vec<&str>, ttl| {
        list.into_iter()
            .map(|ip| address(&owner, ip, ttl))
            .collect()
    };
    let records: Vec<Vec<u8>> = match reply {
        Reply::Addresses(list, ttl) => all(list, ttl),
        Reply::Alias(target, ttl, list, ttl_target) => {
            let target = name(target);
            let mut records = vec![record(&owner, 5, ttl, &target)];
            records.extend(list.iter().map(|ip| address(&target, ip, ttl_target)));
            records
        }
        Reply::Code(it) => {
            code = it;
            Vec::new()
        }
        Reply::Gone(it, seconds) => {
            (code, zone) = (it, Some(soa(seconds)));
            Vec::new()
        }
        Reply::Unasked(other, ip) => vec![address(&name(other), ip, 60)],
        Reply::Truncated => {
            truncated = true;
            Vec::new()
        }
        Reply::Part(list, ttl) => {
            truncated = true;
            all(list, ttl)
        }
        Reply::WrongId(list) => {
            id[1] = !id[1];
            all(list, 60)
        }
        Reply::WrongQuestion(list) => {
            question = name("other.example");
            question.extend(&query[end..end + 4]);
            all(list, 60)
        }
        Reply::Several(_) | Reply::Late(..) | Reply::Silence | Reply::Rubbish => Vec::new(),
    };
    let flags = 0x81 | u8::from(truncated) << 1;
    let mut message = vec![id[0], id[1], flags, 0x80 | code, 0, 1];
    message.extend_from_slice(&(records.len() as u16).to_be_bytes());
    message.extend_from_slice(&u16::from(zone.is_some()).to_be_bytes());
    message.extend_from_slice(&[0, 0]);
    message.extend_from_slice(&question);
    message.extend(records.concat());
    message.extend(zone.unwrap_or_default());
    message
}

/// The name of the question, and where it ends.
fn read_name(query: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    (labels.join("."), at + 1)
}

fn soa(seconds: u32) -> Vec<u8> {
    let mut data = [name("ns.example"), name("root.example")].concat();
    for number in [1, 3600, 600, 86400, seconds] {
        data.extend_from_slice(&u32::to_be_bytes(number));
    }
    record(&name("example"), 6, 3600, &data)
}

fn address(owner: &[u8], ip: &str, ttl: u32) -> Vec<u8> {
    match ip.parse().expect("an address in the script") {
        IpAddr::V4(ip) => record(owner, A, ttl, &ip.octets()),
        IpAddr::V6(ip) => record(owner, AAAA, ttl, &ip.octets()),
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

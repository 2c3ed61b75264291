//! An egress proxy that speaks CONNECT, and refuses when it is told to.

use super::client::find;
use super::gate::Board;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// A proxy on a port of its own.
pub struct ForwardProxy {
    address: SocketAddr,
    state: Arc<Board<State>>,
}

#[derive(Default)]
struct State {
    hosts: HashMap<String, SocketAddr>,
    reply: Reply,
    connects: Vec<Connect>,
    to_target: usize,
    from_target: usize,
    stop: bool,
}

/// What a CONNECT is answered with.
#[derive(Clone, Debug, Default)]
pub enum Reply {
    /// The tunnel.
    #[default]
    Tunnel,
    /// The tunnel, after this long.
    Slow(Duration),
    /// Exactly these bytes, then the end.
    Bytes(Vec<u8>),
    /// Nothing, for ever.
    Silence,
    /// The end of the connection.
    Close,
}

/// A CONNECT as it came.
#[derive(Clone, Debug)]
pub struct Connect {
    /// `host:port`.
    pub target: String,
    /// Names as they came, in order.
    pub headers: Vec<(String, String)>,
}

impl ForwardProxy {
    /// A proxy that tunnels to whatever it is asked for.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let proxy = Self {
            address: listener.local_addr().expect("bound"),
            state: Arc::default(),
        };
        let state = Arc::clone(&proxy.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if state.lock().stop {
                    return;
                }
                let state = Arc::clone(&state);
                std::thread::spawn(move || connection(stream, &state));
            }
        });
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Tunnels for `target` (`host:port`) end at this address.
    pub fn lead(&self, target: &str, to: SocketAddr) {
        self.state
            .change(|state| state.hosts.insert(target.to_owned(), to));
    }

    /// Answers each CONNECT from now on like this.
    pub fn reply(&self, reply: Reply) {
        self.state.change(|state| state.reply = reply);
    }

    /// Refuses each CONNECT from now on with this status.
    pub fn refuse(&self, status: u16) {
        let answer = format!("HTTP/1.1 {status} Refused\r\ncontent-length: 0\r\n\r\n");
        self.reply(Reply::Bytes(answer.into_bytes()));
    }

    /// CONNECTs so far.
    pub fn connects(&self) -> Vec<Connect> {
        self.state.lock().connects.clone()
    }

    /// Waits until `count` CONNECTs have come, and returns all.
    #[track_caller]
    pub fn wait_connects(&self, count: usize) -> Vec<Connect> {
        self.state.wait(&format!("{count} CONNECTs"), |state| {
            (state.connects.len() >= count).then(|| state.connects.clone())
        })
    }

    /// Bytes that went through: to targets, and from them.
    pub fn bytes(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.to_target, state.from_target)
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        self.state.change(|state| state.stop = true);
        let _ = TcpStream::connect(self.address);
    }
}

fn connection(mut client: TcpStream, state: &Arc<Board<State>>) {
    let _ = client.set_nodelay(true);
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    let end = loop {
        if let Some(at) = find(&bytes, b"\r\n\r\n") {
            break at + 4;
        }
        match client.read(&mut piece) {
            Ok(count @ 1..) => bytes.extend_from_slice(&piece[..count]),
            _ => return,
        }
    };
    let early = bytes.split_off(end);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text.trim_end().split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let ["CONNECT", target, "HTTP/1.1"] = first[..] else {
        let _ = client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n");
        return;
    };
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let (reply, to) = state.change(|state| {
        state.connects.push(Connect {
            target: target.to_owned(),
            headers,
        });
        (state.reply.clone(), state.hosts.get(target).copied())
    });
    match reply {
        Reply::Tunnel => {}
        Reply::Slow(takes) => std::thread::sleep(takes),
        Reply::Bytes(bytes) => {
            let _ = client.write_all(&bytes);
            return;
        }
        Reply::Silence => {
            while matches!(client.read(&mut piece), Ok(1..)) {}
            return;
        }
        Reply::Close => return,
    }
    let target = match to {
        Some(address) => TcpStream::connect(address),
        None => TcpStream::connect(target),
    };
    let Ok(mut target) = target else {
        let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n");
        return;
    };
    let _ = target.set_nodelay(true);
    if client
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .is_err()
        || target.write_all(&early).is_err()
    {
        return;
    }
    let (Ok(client_too), Ok(target_too)) = (client.try_clone(), target.try_clone()) else {
        return;
    };
    let counting = Arc::clone(state);
    let back = std::thread::spawn(move || {
        copy(target_too, client_too, |count| {
            counting.change(|state| state.from_target += count);
        });
    });
    copy(client, target, |count| {
        state.change(|state| state.to_target += count)
    });
    let _ = back.join();
}

pub(super) fn copy(mut from: TcpStream, mut to: TcpStream, counted: impl Fn(usize)) {
    let mut piece = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
        counted(count);
    }
    let _ = to.shutdown(Shutdown::Write);
}

impl Connect {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        super::header(&self.headers, name)
    }
}

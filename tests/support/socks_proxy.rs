//! A SOCKS 5 proxy that notes what it is asked for, and refuses when it is told to.

use super::forward_proxy::copy;
use super::gate::Board;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// A proxy on a port of its own.
pub struct SocksProxy {
    address: SocketAddr,
    state: Arc<Board<State>>,
}

#[derive(Default)]
struct State {
    hosts: HashMap<String, SocketAddr>,
    /// Whom it lets in; without one everybody.
    login: Option<(String, String)>,
    reply: u8,
    asked: Vec<Asked>,
    stop: bool,
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `host:port`, the host as it was sent: a name, or an address.
    pub target: String,
    /// It was sent as a name.
    pub by_name: bool,
    /// User and password, where they were asked for.
    pub login: Option<(String, String)>,
}

impl SocksProxy {
    /// A proxy that connects to whatever it is asked for.
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
                // A client that leaves in the middle ends its thread.
                std::thread::spawn(move || drop(connection(stream, &state)));
            }
        });
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections to `target` (`host:port`) end at this address.
    pub fn lead(&self, target: &str, to: SocketAddr) {
        self.state
            .change(|state| state.hosts.insert(target.to_owned(), to));
    }

    /// Lets in nobody else from now on.
    pub fn wants(&self, user: &str, password: &str) {
        let login = Some((user.to_owned(), password.to_owned()));
        self.state.change(|state| state.login = login);
    }

    /// Answers each request from now on with this reply; 0 is success.
    pub fn reply(&self, reply: u8) {
        self.state.change(|state| state.reply = reply);
    }

    /// Requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().asked.clone()
    }
}

impl Drop for SocksProxy {
    fn drop(&mut self) {
        self.state.change(|state| state.stop = true);
        let _ = TcpStream::connect(self.address);
    }
}

fn connection(mut client: TcpStream, state: &Arc<Board<State>>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let [version, count] = read(&mut client)?;
    assert_eq!(version, 5, "SOCKS 5 is what the test's proxy speaks");
    let mut methods = vec![0; usize::from(count)];
    client.read_exact(&mut methods)?;
    let wanted = state.lock().login.clone();
    let method = if wanted.is_some() { 2 } else { 0 };
    if !methods.contains(&method) {
        return client.write_all(&[5, 0xff]);
    }
    client.write_all(&[5, method])?;
    let mut login = None;
    if wanted.is_some() {
        let [_version] = read(&mut client)?;
        login = Some((text(&mut client)?, text(&mut client)?));
        let refused = u8::from(login != wanted);
        client.write_all(&[1, refused])?;
        if refused != 0 {
            return Ok(());
        }
    }
    let [_version, command, _reserved, kind] = read(&mut client)?;
    assert_eq!(command, 1, "CONNECT");
    let host = match kind {
        1 => Ipv4Addr::from(read::<4>(&mut client)?).to_string(),
        4 => Ipv6Addr::from(read::<16>(&mut client)?).to_string(),
        _ => text(&mut client)?,
    };
    let port = u16::from_be_bytes(read(&mut client)?);
    let target = format!("{host}:{port}");
    let (reply, to) = state.change(|state| {
        state.asked.push(Asked {
            target: target.clone(),
            by_name: kind == 3,
            login,
        });
        (state.reply, state.hosts.get(&target).copied())
    });
    if reply != 0 {
        return client.write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
    let connected = match to {
        Some(address) => TcpStream::connect(address),
        None => TcpStream::connect(&target),
    };
    let Ok(server) = connected else {
        return client.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
    };
    server.set_nodelay(true)?;
    client.write_all(b"\x05\x00\x00\x03\x05bound\x00\x50")?;
    let (client_too, server_too) = (client.try_clone()?, server.try_clone()?);
    let back = std::thread::spawn(move || copy(server_too, client_too, |_| {}));
    copy(client, server, |_| {});
    drop(back.join());
    Ok(())
}

fn read<const COUNT: usize>(stream: &mut TcpStream) -> std::io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Its length in one byte, then the text.
fn text(stream: &mut TcpStream) -> std::io::Result<String> {
    let [length] = read(stream)?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

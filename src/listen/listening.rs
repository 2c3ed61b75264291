//! A listening socket that was opened by someone else, perhaps in another process, and is given as a
//! descriptor. It is never bound here, and its file (Unix) is never removed.

use super::transport::Socket;
use crate::types::socket::Address;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// A listening socket at rest.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A Unix stream socket.
    Unix(std::os::unix::net::UnixListener),
}

/// A listening socket that can be waited on.
#[derive(Debug)]
pub(super) enum Armed {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Listening {
    /// Where it listens.
    ///
    /// # Errors
    /// What the socket says; or it is a Unix socket without a path.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(Address::Tcp),
            Self::Unix(socket) => {
                let address = socket.local_addr()?;
                let path = address
                    .as_pathname()
                    .ok_or_else(|| io::Error::other("a listening Unix socket has no path"))?;
                Ok(Address::Unix(path.to_owned()))
            }
        }
    }

    pub(super) fn arm(self) -> io::Result<Armed> {
        match self {
            Self::Tcp(socket) => tokio::net::TcpListener::from_std(socket).map(Armed::Tcp),
            Self::Unix(socket) => tokio::net::UnixListener::from_std(socket).map(Armed::Unix),
        }
    }

    /// Accepts what waits, without waiting itself; `None` when there is nothing more.
    pub(super) fn accept_now(&self) -> Option<io::Result<(Socket, Option<SocketAddr>)>> {
        let accepted = match self {
            Self::Tcp(socket) => socket.accept().and_then(|(socket, peer)| {
                socket.set_nonblocking(true)?;
                let socket = tokio::net::TcpStream::from_std(socket)?;
                Ok((Socket::Tcp(socket), Some(peer)))
            }),
            Self::Unix(socket) => socket.accept().and_then(|(socket, _)| {
                socket.set_nonblocking(true)?;
                let socket = tokio::net::UnixStream::from_std(socket)?;
                Ok((Socket::Unix(socket), None))
            }),
        };
        match accepted {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            accepted => Some(accepted),
        }
    }
}

impl TryFrom<OwnedFd> for Listening {
    type Error = io::Error;

    /// Takes over a descriptor.
    fn try_from(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = SockRef::from(&descriptor);
        if !socket.is_listener()? {
            return Err(io::Error::other("an inherited socket doesn't listen"));
        }
        // Whoever shares the descriptor shares this too, and is of the same mind.
        socket.set_nonblocking(true)?;
        let is_unix = socket.local_addr()?.is_unix();
        Ok(if is_unix {
            Self::Unix(descriptor.into())
        } else {
            Self::Tcp(descriptor.into())
        })
    }
}

impl Armed {
    /// Accepts the next connection; a Unix socket's peer has no address.
    pub(super) async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(socket) => {
                let (socket, peer) = socket.accept().await?;
                Ok((Socket::Tcp(socket), Some(peer)))
            }
            Self::Unix(socket) => Ok((Socket::Unix(socket.accept().await?.0), None)),
        }
    }

    pub(super) fn rest(self) -> io::Result<Listening> {
        match self {
            Self::Tcp(socket) => socket.into_std().map(Listening::Tcp),
            Self::Unix(socket) => socket.into_std().map(Listening::Unix),
        }
    }
}

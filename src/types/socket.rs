//! Listening sockets as the configuration means them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a socket is bound: `IP:PORT`, or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket; an absolute path.
    Unix(PathBuf),
}

impl Address {
    /// Where it is bound, for TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

/// A text that is no [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAddress;

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither IP:PORT nor unix:/absolute/path")
    }
}

impl std::error::Error for NoAddress {}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') && path.len() > 1 => Ok(Self::Unix(path.into())),
            Some(_) => Err(NoAddress),
            None => text.parse().map(Self::Tcp).map_err(|_| NoAddress),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = NoAddress;

    fn try_from(text: String) -> Result<Self, NoAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listening socket: all that must be known to open it. Two that are equal can share a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Socket {
    /// Where.
    pub address: Address,
    /// Connections that may wait to be accepted; the system caps it (`net.core.somaxconn`).
    pub backlog: u32,
    /// `TCP_DEFER_ACCEPT`: a connection is handed over when its first byte is there.
    pub defer_accept: bool,
    /// File mode of a Unix socket, such as `0o660`.
    pub mode: Option<u32>,
    /// Owner of a Unix socket: user, and group where named.
    pub owner: Option<(String, Option<String>)>,
}

impl Socket {
    /// A socket with the standard options.
    pub fn at(address: Address) -> Self {
        const BACKLOG: u32 = 4096;
        Self {
            address,
            backlog: BACKLOG,
            defer_accept: false,
            mode: None,
            owner: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["127.0.0.1:8080", "[::]:443", "unix:/run/weir/weir.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "8080",
            "unix:",
            "unix:weir.sock",
            "unix:/",
            "localhost:1",
        ] {
            assert_eq!(text.parse::<Address>(), Err(NoAddress), "{text}");
        }
    }
}

//! The PROXY protocol, versions 1 and 2, as its authors wrote it down
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>): a proxy says before anything else
//! whose connection it passes on. Exactly the header is taken from the socket: what follows it may be
//! a TLS handshake. Read by the accept loop, and only from peers that may speak for others.

use super::transport::Socket;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::AsyncReadExt;

/// Section 2.1: with the line's end.
const V1_BYTES_MAX: usize = 107;
/// Section 2.2.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;
/// A whole header of version 2, what is added to the addresses included. The protocol allows 64 KiB.
const V2_BYTES_MAX: usize = 4096;

/// Why a connection's beginning is no PROXY header that can be taken.
#[derive(Debug)]
pub enum Fault {
    /// The connection begins with something else.
    Missing,
    /// It isn't what the protocol says.
    Malformed(&'static str),
    /// The peer left, or broke off.
    Broken(io::Error),
}

/// Reads the header; `None` where it doesn't tell a source, so that the peer stands for itself: a
/// proxy's own health check, or a protocol that it doesn't know.
///
/// # Errors
/// Why there is none.
pub async fn read(socket: &mut Socket) -> Result<Option<SocketAddr>, Fault> {
    let mut start = [0; V2_SIGNATURE.len()];
    socket.read_exact(&mut start).await?;
    if start == V2_SIGNATURE {
        let mut header = start.to_vec();
        header.resize(V2_FIXED_BYTES, 0);
        socket.read_exact(&mut header[V2_SIGNATURE.len()..]).await?;
        let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > V2_BYTES_MAX {
            return Err(Fault::Malformed("it is longer than 4 KiB"));
        }
        header.resize(length, 0);
        socket.read_exact(&mut header[V2_FIXED_BYTES..]).await?;
        return v2(&header).map_err(Fault::Malformed);
    }
    if !start.starts_with(b"PROXY ") {
        return Err(Fault::Missing);
    }
    let mut line = start.to_vec();
    while line.last() != Some(&b'\n') {
        let mut ahead = [0; V1_BYTES_MAX];
        let room = V1_BYTES_MAX - line.len();
        if room == 0 {
            return Err(Fault::Malformed("its line doesn't end"));
        }
        let seen = socket.peek(&mut ahead[..room]).await?;
        if seen == 0 {
            return Err(Fault::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        // All up to the line's end is the header's; where no end is seen, all that is seen.
        let mine = memchr::memchr(b'\n', &ahead[..seen]).map_or(seen, |at| at + 1);
        socket.read_exact(&mut ahead[..mine]).await?;
        line.extend_from_slice(&ahead[..mine]);
    }
    v1(&line).map_err(Fault::Malformed)
}

/// Section 2.1. One space between fields, addresses and ports in their one form.
fn v1(line: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
    const SHAPE: &str = "its line isn't PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT";
    let line = line.strip_suffix(b"\r\n").ok_or(SHAPE)?;
    let line = std::str::from_utf8(line).map_err(|_| SHAPE)?;
    let mut fields = line.split(' ').skip(1);
    let family = fields.next().ok_or(SHAPE)?;
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let mut address = || -> Option<IpAddr> {
        let text = fields.next()?;
        match family {
            "TCP4" => text.parse().ok().map(IpAddr::V4),
            "TCP6" => text.parse().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let source = address().ok_or(SHAPE)?;
    address().ok_or(SHAPE)?;
    let mut port = || -> Option<u16> {
        let text = fields.next()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        plain.then(|| text.parse().ok()).flatten()
    };
    let source_port = port().ok_or(SHAPE)?;
    port().ok_or(SHAPE)?;
    if fields.next().is_some() {
        return Err(SHAPE);
    }
    Ok(Some(SocketAddr::new(source, source_port)))
}

/// Section 2.2.
fn v2(header: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
    const LOCAL: u8 = 0;
    const PROXY: u8 = 1;
    let rest = &header[V2_FIXED_BYTES..];
    if header[12] >> 4 != 2 {
        return Err("its version is not 1 or 2");
    }
    let command = header[12] & 0xf;
    if command != LOCAL && command != PROXY {
        return Err("its command is neither LOCAL nor PROXY");
    }
    let (family, protocol) = (header[13] >> 4, header[13] & 0xf);
    let addresses = match family {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Err("its address family is unknown"),
    };
    if protocol > 2 {
        return Err("its transport protocol is unknown");
    }
    if command == LOCAL || family == 0 || protocol == 0 {
        // Section 2.2: whatever stands there is to be skipped; but a checksum is one.
        check(header, addresses.min(rest.len()), false)?;
        return Ok(None);
    }
    if rest.len() < addresses {
        return Err("its addresses are cut off");
    }
    check(header, addresses, true)?;
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    // A stream can't be what was told as datagrams, and a path is no address.
    Ok(match (family, protocol, rest) {
        (1, 1, &[a, b, c, d, ..]) => {
            Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port(8)))
        }
        (2, 1, _) => {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&rest[..16]);
            Some(SocketAddr::new(Ipv6Addr::from(bytes).into(), port(32)))
        }
        _ => None,
    })
}

/// Section 2.2.1: what follows the addresses are types, lengths and values; one of them may be a
/// checksum (section 2.2.4) of the whole header, with zeros in its own place.
fn check(header: &[u8], addresses: usize, strict: bool) -> Result<(), &'static str> {
    const CRC32C: u8 = 3;
    let mut at = V2_FIXED_BYTES + addresses;
    while at < header.len() {
        let value = at + 3;
        let end = match header.get(at + 1..value) {
            Some(&[high, low]) => value + usize::from(u16::from_be_bytes([high, low])),
            _ => usize::MAX,
        };
        if end > header.len() {
            return if strict {
                Err("a field after its addresses is cut off")
            } else {
                Ok(())
            };
        }
        if header[at] == CRC32C {
            let told: [u8; 4] = header[value..end]
                .try_into()
                .map_err(|_| "its checksum has not 4 bytes")?;
            let parts = [&header[..value], &[0; 4], &header[end..]];
            return if u32::from_be_bytes(told) == crc32c(&parts) {
                Ok(())
            } else {
                Err("its checksum is wrong")
            };
        }
        at = end;
    }
    Ok(())
}

/// RFC 3720, appendix B.4: Castagnoli's polynomial, reflected. Short headers need no table.
fn crc32c(parts: &[&[u8]]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = !0_u32;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = (crc & 1).wrapping_neg();
            crc = (crc >> 1) ^ (POLYNOMIAL & carry);
        }
    }
    !crc
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("it doesn't begin with a PROXY header"),
            Self::Malformed(what) => write!(f, "its PROXY header can't be read: {what}"),
            Self::Broken(error) => write!(f, "it broke before its PROXY header was whole: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    /// What is read, and what is left for others.
    async fn told(bytes: &[u8]) -> (Result<Option<SocketAddr>, String>, Vec<u8>) {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let mut server = Socket::Unix(server);
        let read = read(&mut server).await.map_err(|fault| fault.to_string());
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        (read, rest)
    }

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        header.extend_from_slice(rest);
        header
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x30, 0x39, 0x01, 0xbb];

    #[tokio::test]
    async fn version_1_tells_the_source_and_leaves_the_rest() {
        let tell = async |line: &str| {
            let (told, rest) = told(format!("{line}\r\nGET").as_bytes()).await;
            assert_eq!(rest, b"GET", "{line}");
            told.unwrap().map(|address| address.to_string())
        };
        let four = tell("PROXY TCP4 192.0.2.1 198.51.100.1 12345 443").await;
        assert_eq!(four.as_deref(), Some("192.0.2.1:12345"));
        let six = tell("PROXY TCP6 2001:db8::1 2001:db8::2 0 65535").await;
        assert_eq!(six.as_deref(), Some("[2001:db8::1]:0"));
        assert_eq!(tell("PROXY UNKNOWN").await, None);
        let long = format!("PROXY UNKNOWN {}", "f".repeat(V1_BYTES_MAX - 16));
        assert_eq!(tell(&long).await, None);
    }

    #[tokio::test]
    async fn what_is_no_line_of_version_1_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.1 12345 443\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 12345 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 12345 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 12345\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 01 443\r\n",
            "PROXY TCP4 2001:db8::1 198.51.100.1 1 443\r\n",
            "PROXY TCP6 192.0.2.1 2001:db8::1 1 443\r\n",
            "PROXY TCP5 192.0.2.1 198.51.100.1 1 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.1 1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 443",
            "PROXY \r\n                       ",
            "GET / HTTP/1.1\r\n\r\n",
            "short",
        ] {
            assert!(told(line.as_bytes()).await.0.is_err(), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 15));
        assert!(told(long.as_bytes()).await.0.is_err());
    }

    #[tokio::test]
    async fn version_2_tells_the_source_and_leaves_the_rest() {
        let tell = async |mut header: Vec<u8>| {
            header.extend_from_slice(b"\x16\x03\x01");
            let (told, rest) = told(&header).await;
            assert_eq!(rest, b"\x16\x03\x01");
            told.unwrap().map(|address| address.to_string())
        };
        let four = tell(header(1, 0x11, &V4)).await;
        assert_eq!(four.as_deref(), Some("192.0.2.1:12345"));
        let mut six = [0; 36];
        six[..2].copy_from_slice(&[0x20, 0x01]);
        six[15] = 1;
        six[33] = 80;
        let six = tell(header(1, 0x21, &six)).await;
        assert_eq!(six.as_deref(), Some("[2001::1]:80"));
        assert_eq!(tell(header(0, 0x11, &V4)).await, None, "LOCAL");
        assert_eq!(tell(header(0, 0, b"")).await, None, "LOCAL");
        assert_eq!(tell(header(1, 0, b"what")).await, None, "UNSPEC");
        assert_eq!(tell(header(1, 0x31, &[0; 216])).await, None, "a path");
        assert_eq!(tell(header(1, 0x12, &V4)).await, None, "datagrams");
        let mut long = V4.to_vec();
        long.extend([4, 0x0f, 0xe1]);
        long.resize(V2_BYTES_MAX - V2_FIXED_BYTES, 0);
        assert!(tell(header(1, 0x11, &long)).await.is_some());
    }

    #[tokio::test]
    async fn what_is_no_header_of_version_2_is_refused() {
        let mut other_version = header(1, 0x11, &V4);
        other_version[12] = 0x11;
        let long = vec![0; V2_BYTES_MAX - V2_FIXED_BYTES + 1];
        let with = |more: &[u8]| [&V4, more].concat();
        for bad in [
            other_version,
            header(2, 0x11, &V4),
            header(1, 0x41, &V4),
            header(1, 0x13, &V4),
            header(1, 0x11, &V4[..11]),
            header(1, 0x21, &V4),
            header(1, 0x11, &with(&[1])),
            header(1, 0x11, &with(&[1, 0, 2, 9])),
            header(1, 0x11, &with(&[3, 0, 3, 1, 2, 3])),
            header(1, 0x11, &long),
            header(1, 0x11, &V4)[..20].to_vec(),
        ] {
            assert!(told(&bad).await.0.is_err(), "{bad:02x?}");
        }
    }

    #[tokio::test]
    async fn a_checksum_is_checked_where_there_is_one() {
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283);
        for (command, family, start) in [(1, 0x11, &V4[..]), (0, 0, &[])] {
            let blank = header(command, family, &[start, &[3, 0, 4, 0, 0, 0, 0]].concat());
            let place = blank.len() - 4;
            let mut sound = blank.clone();
            sound[place..].copy_from_slice(&crc32c(&[&blank]).to_be_bytes());
            assert!(told(&sound).await.0.is_ok());
            sound[place] ^= 1;
            let fault = told(&sound).await.0.unwrap_err();
            assert!(fault.contains("checksum"), "{fault}");
        }
    }
}

//! The dialler behind Pingora's connector: a TCP connection to one of an endpoint's addresses, or
//! a CONNECT tunnel to it through a forward proxy.
//!
//! Pingora calls it through `PeerOptions::custom_l4` when its pool has nothing to reuse; TLS, where
//! there is any, comes on top. It keeps its own time (Pingora's `connection_timeout` doesn't cover
//! it), never chooses the road and never retries what a proxy refused.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::{Error, ErrorType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use weir_dns::{Answer, LookupError, Resolver};

use super::settings::{Authority, ProxyUrl};

/// The longest answer to CONNECT, interim ones included.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Addresses tried for one connection, at most.
const ADDRESSES_MAX: usize = 8;

/// How one endpoint is dialled.
#[derive(Debug)]
pub(super) struct Dialler {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    /// For the connection and the tunnel together; TLS has its own.
    pub(super) budget: Duration,
    pub(super) reach: Reach,
}

/// By which way.
#[derive(Clone, Debug)]
pub(super) enum Reach {
    /// To one of these, in this order.
    Direct(Answer),
    /// Through this proxy, whose name is resolved when it is dialled.
    Tunnel(Arc<ProxyUrl>, Resolver),
}

/// Why there is no connection. It is the cause inside the `pingora::Error` of a failed dial;
/// [`ConnectError::within`] finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// The endpoint took no connection on any of its addresses.
    Endpoint {
        /// `host:port` of the endpoint.
        target: String,
        /// The last address that was tried.
        address: SocketAddr,
        /// What it did.
        cause: Cause,
    },
    /// The proxy's own name has no address.
    ProxyName {
        /// The proxy, without credentials.
        proxy: String,
        /// Why not.
        cause: LookupError,
    },
    /// The proxy took no connection.
    ProxyAddress {
        /// The proxy, without credentials.
        proxy: String,
        /// The last address that was tried.
        address: SocketAddr,
        /// What it did.
        cause: Cause,
    },
    /// The proxy wants credentials, or others (407).
    ProxyCredentials {
        /// The proxy, without credentials.
        proxy: String,
        /// Whether it was given some.
        given: bool,
    },
    /// The proxy doesn't allow this endpoint: any other status that is neither 2xx nor 5xx.
    ProxyDenied {
        /// The proxy, without credentials.
        proxy: String,
        /// `host:port` of the endpoint.
        target: String,
        /// What the proxy answered.
        status: u16,
    },
    /// The proxy couldn't reach the endpoint (5xx).
    ProxyFailed {
        /// The proxy, without credentials.
        proxy: String,
        /// `host:port` of the endpoint.
        target: String,
        /// What the proxy answered.
        status: u16,
    },
    /// The proxy took the connection and didn't answer in time.
    ProxySilent {
        /// The proxy, without credentials.
        proxy: String,
        /// `host:port` of the endpoint.
        target: String,
    },
    /// The proxy closed the connection, or spoke something else than HTTP.
    ProxyBroken {
        /// The proxy, without credentials.
        proxy: String,
        /// What it did.
        what: &'static str,
    },
}

/// What an address did instead of taking a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Refused it.
    Refused,
    /// Didn't answer in its share of the time.
    TimedOut,
    /// Can't be reached from here.
    NoRoute,
    /// Something else.
    Other(io::ErrorKind),
}

// === impl Dialler ===

#[async_trait]
impl Connect for Dialler {
    async fn connect(&self, _logical: &PeerAddr) -> pingora::Result<Stream> {
        let by = Instant::now() + self.budget;
        let stream = match &self.reach {
            Reach::Direct(addresses) => self.direct(addresses, by).await,
            Reach::Tunnel(proxy, resolver) => self.tunnel(proxy, resolver, by).await,
        };
        Ok(stream?.into())
    }
}

impl Dialler {
    async fn direct(&self, addresses: &[IpAddr], by: Instant) -> Result<TcpStream, ConnectError> {
        let dialled = dial(addresses, self.port, by).await;
        dialled.map_err(|(address, cause)| ConnectError::Endpoint {
            target: self.target(),
            address,
            cause,
        })
    }

    async fn tunnel(
        &self,
        proxy: &ProxyUrl,
        resolver: &Resolver,
        by: Instant,
    ) -> Result<TcpStream, ConnectError> {
        let named = match timeout_at(by, resolver.lookup(&proxy.host)).await {
            Ok(named) => named,
            Err(_) => Err(LookupError::Unavailable {
                host: proxy.host.as_str().into(),
                reason: "no answer in time".into(),
            }),
        };
        let addresses = named.map_err(|cause| ConnectError::ProxyName {
            proxy: proxy.to_string(),
            cause,
        })?;
        let dialled = dial(&addresses, proxy.port, by).await;
        let mut stream = dialled.map_err(|(address, cause)| ConnectError::ProxyAddress {
            proxy: proxy.to_string(),
            address,
            cause,
        })?;
        // Best effort: Pingora sets it again on what it is given.
        drop(stream.set_nodelay(true));
        match timeout_at(by, self.negotiate(proxy, &mut stream)).await {
            Ok(opened) => opened.map(|()| stream),
            Err(_) => Err(ConnectError::ProxySilent {
                proxy: proxy.to_string(),
                target: self.target(),
            }),
        }
    }

    /// Asks for the tunnel. What the stream carries afterwards is the endpoint's.
    async fn negotiate(
        &self,
        proxy: &ProxyUrl,
        stream: &mut TcpStream,
    ) -> Result<(), ConnectError> {
        let broken = |what| ConnectError::ProxyBroken {
            proxy: proxy.to_string(),
            what,
        };
        let request = self.request(proxy);
        if stream.write_all(request.as_bytes()).await.is_err() {
            return Err(broken("it closed the connection before it was asked"));
        }
        let mut received = Vec::with_capacity(1024);
        let (status, rest) = loop {
            match final_status(&received).map_err(broken)? {
                Some(answer) => break answer,
                None if received.len() >= HEAD_BYTES_MAX => {
                    return Err(broken("its answer to CONNECT is longer than 16 KiB"));
                }
                None => {}
            }
            let room = HEAD_BYTES_MAX - received.len();
            match (&mut *stream)
                .take(room as u64)
                .read_buf(&mut received)
                .await
            {
                Ok(0) | Err(_) => {
                    return Err(broken("it closed the connection without answering CONNECT"));
                }
                Ok(_) => {}
            }
        };
        match status {
            // The endpoint speaks only when spoken to: whatever came along isn't its word.
            200..=299 if rest > 0 => Err(broken("it sent data before the tunnel was used")),
            200..=299 => Ok(()),
            407 => Err(ConnectError::ProxyCredentials {
                proxy: proxy.to_string(),
                given: proxy.authorization.is_some(),
            }),
            500..=599 => Err(ConnectError::ProxyFailed {
                proxy: proxy.to_string(),
                target: self.target(),
                status,
            }),
            _ => Err(ConnectError::ProxyDenied {
                proxy: proxy.to_string(),
                target: self.target(),
                status,
            }),
        }
    }

    fn request(&self, proxy: &ProxyUrl) -> String {
        let target = Authority(&self.host, self.port);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &proxy.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization.expose());
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        request
    }

    fn target(&self) -> String {
        Authority(&self.host, self.port).to_string()
    }
}

/// Tries the addresses in order, each with its share of the time that is left.
async fn dial(
    addresses: &[IpAddr],
    port: u16,
    by: Instant,
) -> Result<TcpStream, (SocketAddr, Cause)> {
    let tried = &addresses[..addresses.len().min(ADDRESSES_MAX)];
    // The resolver never answers with no address; the placeholder is for who calls without one.
    let mut last = (SocketAddr::from(([0, 0, 0, 0], port)), Cause::NoRoute);
    for (at, address) in tried.iter().enumerate() {
        let address = SocketAddr::new(*address, port);
        let left = by.saturating_duration_since(Instant::now());
        let share = left / (tried.len() - at) as u32;
        let cause = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(cause)) => Cause::from(cause.kind()),
            Err(_) => Cause::TimedOut,
        };
        last = (address, cause);
    }
    Err(last)
}

/// The status of the first answer that isn't an interim one, and how many bytes came after its
/// head. `None`: not all of it is there yet.
fn final_status(mut received: &[u8]) -> Result<Option<(u16, usize)>, &'static str> {
    loop {
        let Some(length) = head_length(received)? else {
            return Ok(None);
        };
        let status = head_status(&received[..length])?;
        received = &received[length..];
        match status {
            101 => return Err("it switched protocols instead of opening a tunnel"),
            100..=199 => {}
            _ => return Ok(Some((status, received.len()))),
        }
    }
}

const NOT_HTTP: &str = "its answer to CONNECT is not HTTP/1.1";

/// The length of the head with its empty line. Wrong bytes are refused as soon as they are seen:
/// who doesn't speak HTTP may never send an empty line.
fn head_length(received: &[u8]) -> Result<Option<usize>, &'static str> {
    let prefix = received.len().min(7);
    if received[..prefix] != b"HTTP/1."[..prefix] {
        return Err(NOT_HTTP);
    }
    for (at, byte) in received.iter().enumerate() {
        match byte {
            b'\n' if at == 0 || received[at - 1] != b'\r' => return Err(NOT_HTTP),
            b'\n' if received[..at - 1].ends_with(b"\r\n") => return Ok(Some(at + 1)),
            b'\n' | b'\t' => {}
            // A CR belongs to the LF that follows it.
            b'\r' if received.get(at + 1).is_none_or(|next| *next == b'\n') => {}
            0..=31 | 127 => return Err(NOT_HTTP),
            _ => {}
        }
    }
    Ok(None)
}

/// `HTTP/1.x SSS[ reason]` and lines of `name: value`, nothing else.
fn head_status(head: &[u8]) -> Result<u16, &'static str> {
    let text = &head[..head.len() - 4];
    let mut lines = text.split(|byte| *byte == b'\n');
    let status = lines.next().unwrap_or_default();
    let status = status.strip_suffix(b"\r").unwrap_or(status);
    let (version, code) = match status {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            minor,
            b' ',
            a,
            b,
            c,
        ] => (minor, [a, b, c]),
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            minor,
            b' ',
            a,
            b,
            c,
            b' ',
            ..,
        ] => (minor, [a, b, c]),
        _ => return Err(NOT_HTTP),
    };
    if !b"01".contains(version) || !code.iter().all(|digit| digit.is_ascii_digit()) {
        return Err(NOT_HTTP);
    }
    if !lines.all(is_header) {
        return Err(NOT_HTTP);
    }
    let number = code
        .iter()
        .fold(0, |sum, digit| sum * 10 + u16::from(*digit - b'0'));
    if number < 100 {
        Err(NOT_HTTP)
    } else {
        Ok(number)
    }
}

fn is_header(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.len() < line.len() && name.iter().all(is_token)
}

// === impl ConnectError ===

impl ConnectError {
    /// The error of the dialler inside one of Pingora's, where there is one.
    pub fn within(error: &Error) -> Option<&Self> {
        let cause = error.cause.as_deref()?;
        if let Some(found) = cause.downcast_ref::<Self>() {
            return Some(found);
        }
        // Pingora wraps an error of its own with the box around it.
        let inner = cause
            .downcast_ref::<Error>()
            .or_else(|| cause.downcast_ref::<Box<Error>>().map(|inner| &**inner))?;
        Self::within(inner)
    }

    /// Whether the proxy is at fault, and not the endpoint.
    pub fn is_proxy(&self) -> bool {
        !matches!(self, Self::Endpoint { .. } | Self::ProxyFailed { .. })
    }

    /// The word for logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Endpoint { cause, .. } => match cause {
                Cause::Refused => "connect_refused",
                Cause::TimedOut => "connect_timeout",
                Cause::NoRoute => "connect_no_route",
                Cause::Other(_) => "connect_error",
            },
            Self::ProxyName { .. } => "proxy_name",
            Self::ProxyAddress { .. } => "proxy_unreachable",
            Self::ProxyCredentials { .. } => "proxy_credentials",
            Self::ProxyDenied { .. } => "proxy_denied",
            Self::ProxyFailed { .. } => "proxy_failed",
            Self::ProxySilent { .. } => "proxy_timeout",
            Self::ProxyBroken { .. } => "proxy_protocol",
        }
    }

    fn kind(&self) -> ErrorType {
        match self {
            Self::Endpoint { cause, .. } => match cause {
                Cause::Refused => ErrorType::ConnectRefused,
                Cause::TimedOut => ErrorType::ConnectTimedout,
                Cause::NoRoute => ErrorType::ConnectNoRoute,
                Cause::Other(_) => ErrorType::ConnectError,
            },
            _ => ErrorType::ConnectProxyFailure,
        }
    }
}

impl From<ConnectError> for Box<Error> {
    fn from(cause: ConnectError) -> Self {
        let mut error = Error::because(cause.kind(), "", cause);
        error.as_up();
        error
    }
}

impl From<io::ErrorKind> for Cause {
    fn from(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::AddrNotAvailable => Self::NoRoute,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("it refused the connection"),
            Self::TimedOut => f.write_str("it didn't answer in time"),
            Self::NoRoute => f.write_str("there is no route to it"),
            Self::Other(kind) => write!(f, "{kind}"),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint {
                target,
                address,
                cause,
            } => write!(f, "no connection to {target} at {address}: {cause}"),
            Self::ProxyName { proxy, cause } => write!(f, "no way to the proxy {proxy}: {cause}"),
            Self::ProxyAddress {
                proxy,
                address,
                cause,
            } => write!(
                f,
                "no connection to the proxy {proxy} at {address}: {cause}"
            ),
            Self::ProxyCredentials { proxy, given: true } => {
                write!(
                    f,
                    "the proxy {proxy} doesn't accept the credentials of its URL (407)"
                )
            }
            Self::ProxyCredentials { proxy, .. } => write!(
                f,
                "the proxy {proxy} wants credentials (407): write them in its URL"
            ),
            Self::ProxyDenied {
                proxy,
                target,
                status,
            } => write!(f, "the proxy {proxy} doesn't allow {target} ({status})"),
            Self::ProxyFailed {
                proxy,
                target,
                status,
            } => write!(f, "the proxy {proxy} can't reach {target} ({status})"),
            Self::ProxySilent { proxy, target } => write!(
                f,
                "the proxy {proxy} didn't open a tunnel to {target} in time"
            ),
            Self::ProxyBroken { proxy, what } => write!(f, "the proxy {proxy}: {what}"),
        }
    }
}

impl std::error::Error for ConnectError {}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A proxy that takes one connection, reads the request's head, answers with `answer` and
    /// hands the head back. It closes after that where `close` says so, else waits for the client.
    async fn proxy(
        answer: &'static [u8],
        close: bool,
    ) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a head"));
            }
            stream.write_all(answer).await.expect("written");
            if !close {
                drop(stream.read_to_end(&mut Vec::new()).await);
            }
            String::from_utf8(head).expect("text")
        });
        (address, task)
    }

    fn dialler(proxy: &str, budget: Duration) -> Dialler {
        let resolver = Resolver::new(weir_dns::Config::default()).expect("a resolver");
        Dialler {
            host: "api.example".into(),
            port: 443,
            budget,
            reach: Reach::Tunnel(Arc::new(proxy.parse().expect("a URL")), resolver),
        }
    }

    async fn connect(dialler: &Dialler) -> pingora::Result<Stream> {
        let logical = PeerAddr::Inet(SocketAddr::from(([0, 0, 0, 0], dialler.port)));
        dialler.connect(&logical).await
    }

    /// What the proxy's answer makes of a dial.
    async fn fault(answer: &'static [u8]) -> (ErrorType, ConnectError) {
        let (address, _task) = proxy(answer, true).await;
        let dialler = dialler(&format!("http://{address}"), Duration::from_secs(5));
        let error = connect(&dialler).await.expect_err("refused");
        let cause = ConnectError::within(&error).expect("our cause").clone();
        (error.etype().clone(), cause)
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_by_name_with_the_credentials() {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 Connection established\r\n\
                       Via: x\r\n\r\n";
        let (address, task) = proxy(answer, false).await;
        let dialler = dialler(&format!("http://me:pw@{address}"), Duration::from_secs(5));
        drop(connect(&dialler).await.expect("a tunnel"));
        assert_eq!(
            task.await.expect("joined"),
            "CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n\
             Proxy-Authorization: Basic bWU6cHc=\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn each_refusal_of_a_proxy_has_its_own_error() {
        for (answer, word) in [
            (&b"HTTP/1.1 407 Auth\r\n\r\n"[..], "proxy_credentials"),
            (
                b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno",
                "proxy_denied",
            ),
            (b"HTTP/1.1 302 Found\r\n\r\n", "proxy_denied"),
            (b"HTTP/1.1 502 Bad\r\n\r\n", "proxy_failed"),
            (b"HTTP/1.1 504\r\n\r\n", "proxy_failed"),
            (b"", "proxy_protocol"),
            (b"HTTP/1.1 200 O", "proxy_protocol"),
            (b"SSH-2.0-OpenSSH\r\n", "proxy_protocol"),
            (b"HTTP/1.1 200 OK\r\n\r\nHTTP", "proxy_protocol"),
            (b"HTTP/1.1 101 Switching\r\n\r\n", "proxy_protocol"),
        ] {
            let (kind, cause) = fault(answer).await;
            let text = String::from_utf8_lossy(answer);
            assert_eq!(cause.as_str(), word, "{text:?}: {cause}");
            assert_eq!(kind, ErrorType::ConnectProxyFailure, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_byte_after_the_head_is_refused_even_where_the_status_is_good() {
        let (_, cause) = fault(b"HTTP/1.1 200 OK\r\n\r\n\x16").await;
        assert!(
            cause.to_string().contains("data before the tunnel"),
            "{cause}"
        );
    }

    #[tokio::test]
    async fn an_endless_head_is_cut_at_its_limit() {
        let mut answer = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
        answer.resize(HEAD_BYTES_MAX + 1, b'a');
        let (_, cause) = fault(answer.leak()).await;
        assert!(cause.to_string().contains("16 KiB"), "{cause}");
    }

    #[tokio::test]
    async fn a_head_of_just_the_limit_is_read() {
        let mut answer = b"HTTP/1.1 403 No\r\nx: ".to_vec();
        answer.resize(HEAD_BYTES_MAX - 4, b'a');
        answer.extend_from_slice(b"\r\n\r\n");
        let (_, cause) = fault(answer.leak()).await;
        assert_eq!(cause.as_str(), "proxy_denied");
    }

    #[tokio::test]
    async fn a_silent_proxy_ends_with_the_budget() {
        let (address, _task) = proxy(b"HTTP/1.1 200 OK\r\n", false).await;
        let dialler = dialler(&format!("http://{address}"), Duration::from_millis(50));
        let error = connect(&dialler).await.expect_err("silent");
        let cause = ConnectError::within(&error).expect("our cause");
        assert_eq!(cause.as_str(), "proxy_timeout");
        assert!(!cause.to_string().contains('@'));
    }

    #[tokio::test]
    async fn a_proxy_that_cannot_be_found_or_reached_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let closed = listener.local_addr().expect("bound");
        drop(listener);
        let dialler = dialler(&format!("http://me:pw@{closed}"), Duration::from_secs(5));
        let error = connect(&dialler).await.expect_err("closed");
        let cause = ConnectError::within(&error).expect("our cause");
        assert_eq!(cause.as_str(), "proxy_unreachable");
        assert!(cause.is_proxy());
        assert!(
            !format!("{error:?} {error}").contains("bWU6cHc"),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn the_next_address_is_tried_and_the_last_ones_fault_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let mut dialler = Dialler {
            host: "api.example".into(),
            port,
            budget: Duration::from_secs(5),
            reach: Reach::Direct(Arc::from([
                IpAddr::from([127, 0, 0, 2]),
                IpAddr::from([127, 0, 0, 1]),
            ])),
        };
        drop(connect(&dialler).await.expect("the second address"));
        dialler.reach = Reach::Direct(Arc::from([IpAddr::from([127, 0, 0, 2])]));
        let error = connect(&dialler).await.expect_err("nobody there");
        assert_eq!(error.etype(), &ErrorType::ConnectRefused);
        let cause = ConnectError::within(&error).expect("our cause");
        assert_eq!(cause.as_str(), "connect_refused");
        assert!(!cause.is_proxy());
    }

    #[test]
    fn our_cause_is_found_below_contexts_too() {
        let cause = ConnectError::ProxyBroken {
            proxy: String::new(),
            what: "x",
        };
        let inner: Box<Error> = cause.clone().into();
        let outer = Error::because(
            ErrorType::ConnectError,
            "around",
            inner.more_context("more"),
        );
        assert_eq!(ConnectError::within(&outer), Some(&cause));
        assert_eq!(
            ConnectError::within(&Error::new(ErrorType::ConnectError)),
            None
        );
    }

    #[test]
    fn heads_are_read_strictly() {
        for (head, status) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], Ok(Some((200, 0)))),
            (b"HTTP/1.0 200\r\n\r\n", Ok(Some((200, 0)))),
            (
                b"HTTP/1.1 200 \r\na: b\r\nc:\r\n\r\nrest",
                Ok(Some((200, 4))),
            ),
            (
                b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
                Ok(Some((200, 0))),
            ),
            (b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 2", Ok(None)),
            (b"", Ok(None)),
            (b"HTT", Ok(None)),
            (b"HTTP/1.1 200 OK\r\n\r", Ok(None)),
            (b"HTTX", Err(NOT_HTTP)),
            (b"HTTP/2.0 200 OK\r\n\r\n", Err(NOT_HTTP)),
            (b"HTTP/1.2 200 OK\r\n\r\n", Err(NOT_HTTP)),
            (b"HTTP/1.1 2000 OK\r\n\r\n", Err(NOT_HTTP)),
            (b"HTTP/1.1 20 OK\r\n\r\n", Err(NOT_HTTP)),
            (b"HTTP/1.1 099 OK\r\n\r\n", Err(NOT_HTTP)),
            (b"HTTP/1.1  200 OK\r\n\r\n", Err(NOT_HTTP)),
            (b"HTTP/1.1 200 OK\n\n", Err(NOT_HTTP)),
            (b"HTTP/1.1 200 OK\r\na: b\n", Err(NOT_HTTP)),
            (b"HTTP/1.1 200 OK\r\na: \rb", Err(NOT_HTTP)),
            (b"HTTP/1.1 200 OK\r\na: \0", Err(NOT_HTTP)),
            (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Err(NOT_HTTP)),
            (b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n", Err(NOT_HTTP)),
            (b"HTTP/1.1 200 OK\r\n: x\r\n\r\n", Err(NOT_HTTP)),
        ] {
            let text = String::from_utf8_lossy(head);
            assert_eq!(final_status(head), status, "{text:?}");
        }
    }
}

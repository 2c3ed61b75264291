//! A request's head, read whole before Pingora sees it: one deadline and one size for all of it,
//! and no bare line feeds. Pingora's own limits are 60 s between two reads and 1 MiB.

use super::conn::Conn;
use super::strict;
use memchr::memchr;
use std::io;
use tokio::time::{Instant, timeout_at};

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// A whole HTTP/1 head of this many bytes, ready to be taken.
    Http1(usize),
    /// The client speaks HTTP/2.
    Http2,
    /// The client left before its head was whole, or said nothing at all.
    Closed,
    /// The head can't be taken.
    Refused(Fault),
}

/// Why a head can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It isn't HTTP/1: a line ends without CR (RFC 9112, section 2.2).
    BareLineFeed,
    /// It isn't what RFC 9112 says a head is.
    Malformed,
    /// HTTP/1.1 without `Host`, with two, with one that is no host, or with one that the target contradicts
    /// (RFC 9112, 3.2).
    Host,
    /// `CONNECT`, which weir doesn't do for clients.
    Connect,
    /// `Expect` names something that weir doesn't do (RFC 9110, section 10.1.1).
    Expectation,
    /// Its target is longer than any that is in use.
    LongTarget,
    /// It is larger than `limits.header_bytes`, or has very many fields.
    TooLarge,
    /// It took longer than `timeouts.client_header`.
    TooSlow,
}

/// Bounds of a head.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Its size.
    pub bytes_max: usize,
    /// HTTP/2 may be spoken (with prior knowledge).
    pub h2: bool,
}

/// Waits for the first byte of a request; `false` when the client left instead. Can be dropped at any
/// time: what was read isn't lost.
///
/// # Errors
/// What the socket says.
pub async fn begins(conn: &mut Conn) -> io::Result<bool> {
    Ok(!conn.ahead().is_empty() || conn.read_ahead().await?)
}

/// Reads until a head is complete, or `due`.
///
/// # Errors
/// What the socket says.
pub async fn read(conn: &mut Conn, bounds: Bounds, due: Instant) -> io::Result<Head> {
    let mut scan = Scan::default();
    let whole = async {
        loop {
            if let Some(head) = scan.step(conn, bounds) {
                return Ok(head);
            }
            if !conn.read_ahead().await? {
                return Ok(Head::Closed);
            }
        }
    };
    match timeout_at(due, whole).await {
        Ok(head) => head,
        Err(_) if conn.ahead().is_empty() => Ok(Head::Closed),
        Err(_) => Ok(Head::Refused(Fault::TooSlow)),
    }
}

/// Waits for the preface of HTTP/2, which TLS has promised (RFC 9113, section 3.4).
///
/// # Errors
/// What the socket says.
pub async fn read_preface(conn: &mut Conn, due: Instant) -> io::Result<Head> {
    let preface = async {
        loop {
            let known = conn.ahead().len().min(H2_PREFACE.len());
            if conn.ahead()[..known] != H2_PREFACE[..known] {
                return Ok(Head::Closed);
            }
            if known == H2_PREFACE.len() {
                conn.choose_h2();
                return Ok(Head::Http2);
            }
            if !conn.read_ahead().await? {
                return Ok(Head::Closed);
            }
        }
    };
    timeout_at(due, preface).await.unwrap_or(Ok(Head::Closed))
}

/// How far the head was looked at.
#[derive(Debug, Default)]
struct Scan {
    line: usize,
}

impl Scan {
    fn step(&mut self, conn: &mut Conn, bounds: Bounds) -> Option<Head> {
        // RFC 9112, section 2.2: an empty line before a request line is to be ignored.
        while self.line == 0 && conn.ahead().starts_with(b"\r\n") {
            conn.skip(2);
        }
        if bounds.h2 && conn.ahead().starts_with(b"PRI ") {
            let known = conn.ahead().len().min(H2_PREFACE.len());
            if conn.ahead()[..known] == H2_PREFACE[..known] {
                return (known == H2_PREFACE.len()).then(|| {
                    conn.choose_h2();
                    Head::Http2
                });
            }
        }
        let ahead = conn.ahead();
        while let Some(at) = memchr(b'\n', &ahead[self.line..]) {
            let end = self.line + at;
            if end == 0 || ahead[end - 1] != b'\r' {
                return Some(Head::Refused(Fault::BareLineFeed));
            }
            let empty = end - 1 == self.line;
            self.line = end + 1;
            if empty {
                let length = self.line;
                return Some(if length > bounds.bytes_max {
                    Head::Refused(Fault::TooLarge)
                } else if let Err(fault) = strict::check(&ahead[..length]) {
                    Head::Refused(fault)
                } else {
                    Head::Http1(length)
                });
            }
        }
        (ahead.len() > bounds.bytes_max).then_some(Head::Refused(Fault::TooLarge))
    }
}

impl Fault {
    /// Status, code and sentence of the answer.
    pub fn answer(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BareLineFeed => (
                400,
                "invalid_request",
                "The request's head has a line that doesn't end in CR LF.",
            ),
            Self::Malformed => (
                400,
                "invalid_request",
                "The request's head is not valid HTTP/1.1.",
            ),
            Self::Host => (
                400,
                "invalid_request",
                "The request needs one Host header with a host that agrees with its target.",
            ),
            Self::Connect => (
                405,
                "method_not_allowed",
                "This server makes no tunnels: CONNECT is not for it.",
            ),
            Self::Expectation => (
                417,
                "invalid_request",
                "The request expects something other than 100-continue.",
            ),
            Self::LongTarget => (
                414,
                "uri_too_long",
                "The request's target is longer than this server takes.",
            ),
            Self::TooLarge => (
                431,
                "header_too_large",
                "The request's head is larger than this server takes.",
            ),
            Self::TooSlow => (
                408,
                "client_timeout",
                "The request's head didn't arrive in time.",
            ),
        }
    }

    /// The whole answer as bytes, in OpenAI's shape; the connection ends after it.
    pub fn response(self) -> Vec<u8> {
        let (status, code, message) = self.answer();
        refusal(status, code, message)
    }
}

/// A whole answer to a client that gets no further, in OpenAI's shape; the connection ends after it.
pub(super) fn refusal(status: u16, code: &str, message: &str) -> Vec<u8> {
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default();
    let body = serde_json::json!({"error": {
        "message": message, "type": "invalid_request_error", "param": null, "code": code,
    }})
    .to_string();
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nx-weir-error: {code}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    const BOUNDS: Bounds = Bounds {
        bytes_max: 64,
        h2: true,
    };

    fn due() -> Instant {
        Instant::now() + std::time::Duration::from_secs(10)
    }

    async fn pair() -> (Conn, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (socket, peer) = accepted.unwrap();
        (Conn::new(socket, peer, None), client.unwrap())
    }

    async fn head_of(bytes: &[u8]) -> Head {
        let (mut conn, mut client) = pair().await;
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        read(&mut conn, BOUNDS, due()).await.unwrap()
    }

    fn sized(bytes: usize) -> Vec<u8> {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\na: ".to_vec();
        head.resize(bytes - 4, b'x');
        head.extend_from_slice(b"\r\n\r\n");
        head
    }

    #[tokio::test]
    async fn a_head_at_the_limit_is_taken_and_one_past_it_is_refused() {
        assert_eq!(head_of(&sized(64)).await, Head::Http1(64));
        assert_eq!(head_of(&sized(65)).await, Head::Refused(Fault::TooLarge));
        let endless = vec![b'x'; 65];
        assert_eq!(head_of(&endless).await, Head::Refused(Fault::TooLarge));
    }

    #[tokio::test]
    async fn bare_line_feeds_are_refused_and_leading_empty_lines_ignored() {
        let bare = Head::Refused(Fault::BareLineFeed);
        assert_eq!(head_of(b"GET / HTTP/1.1\n\n").await, bare);
        assert_eq!(head_of(b"GET / HTTP/1.1\r\na: b\n\r\n").await, bare);
        assert_eq!(head_of(b"\n\n").await, bare);
        assert_eq!(
            head_of(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await,
            Head::Http1(27)
        );
    }

    #[tokio::test]
    async fn the_preface_of_http2_is_known_and_half_of_it_is_waited_for() {
        assert_eq!(head_of(H2_PREFACE).await, Head::Http2);
        assert_eq!(head_of(&H2_PREFACE[..20]).await, Head::Closed);
        let other = b"PRI /x HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(head_of(other).await, Head::Http1(other.len()));
    }

    #[tokio::test]
    async fn a_preface_that_was_promised_must_come_first_and_in_time() {
        let preface_of = async |bytes: &[u8]| {
            let (mut conn, mut client) = pair().await;
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let head = read_preface(&mut conn, due()).await.unwrap();
            (head, conn.ahead().len())
        };
        let more = [H2_PREFACE, b"more"].concat();
        assert_eq!(preface_of(&more).await, (Head::Http2, more.len()));
        assert_eq!(preface_of(&H2_PREFACE[..20]).await.0, Head::Closed);
        assert_eq!(preface_of(b"GET / HTTP/1.1\r\n\r\n").await.0, Head::Closed);
        let (mut conn, mut client) = pair().await;
        client.write_all(&H2_PREFACE[..20]).await.unwrap();
        assert!(begins(&mut conn).await.unwrap());
        tokio::time::pause();
        assert_eq!(read_preface(&mut conn, due()).await.unwrap(), Head::Closed);
    }

    #[tokio::test]
    async fn a_head_that_trickles_is_refused_when_its_time_is_over() {
        let (mut conn, mut client) = pair().await;
        client.write_all(b"GET / HT").await.unwrap();
        assert!(begins(&mut conn).await.unwrap());
        tokio::time::pause();
        let head = read(&mut conn, BOUNDS, due()).await.unwrap();
        assert_eq!(head, Head::Refused(Fault::TooSlow));
        client.write_all(b"TP/1.1\r\n\r\n").await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_client_is_let_go_without_an_answer() {
        let (mut conn, client) = pair().await;
        tokio::time::pause();
        assert_eq!(read(&mut conn, BOUNDS, due()).await.unwrap(), Head::Closed);
        drop(client);
    }
}

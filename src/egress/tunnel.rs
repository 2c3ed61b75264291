//! CONNECT (RFC 9110 section 9.3.6): asks an HTTP proxy for a tunnel and reads its answer strictly.
//!
//! Sends nothing but the request. After it the stream is the endpoint's: a proxy that has said more
//! than its head by then is refused. `connect` calls it.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::{Fault, Said};
use super::settings::{Authority, Login};

/// The longest answer to CONNECT, interim ones included.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Asks for a tunnel to `target`. Takes as long as the proxy does; safe to drop with the stream.
pub(super) async fn open<S>(
    stream: &mut S,
    target: &Authority<'_>,
    login: Option<&Login>,
) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = request(target, login);
    let sent = async {
        stream.write_all(request.as_bytes()).await?;
        // TLS to the proxy keeps what isn't flushed.
        stream.flush().await
    };
    if sent.await.is_err() {
        return Err(Fault::Broken(
            "it closed the connection before it was asked",
        ));
    }
    let mut received = Vec::with_capacity(1024);
    let mut seen = Seen::default();
    let (status, rest) = loop {
        match final_status(&received, &mut seen).map_err(Fault::Broken)? {
            Some(answer) => break answer,
            None if received.len() >= HEAD_BYTES_MAX => {
                return Err(Fault::Broken("its answer to CONNECT is longer than 16 KiB"));
            }
            None => {}
        }
        let room = HEAD_BYTES_MAX - received.len();
        let mut rest = (&mut *stream).take(room as u64);
        match rest.read_buf(&mut received).await {
            Ok(0) | Err(_) => {
                return Err(Fault::Broken(
                    "it closed the connection without answering CONNECT",
                ));
            }
            Ok(_) => {}
        }
    };
    match status {
        // The endpoint speaks only when spoken to: whatever came along isn't its word.
        200..=299 if rest > 0 => Err(Fault::EARLY),
        200..=299 => Ok(()),
        // 401 is how tinyproxy 1.11.1 refuses a wrong login (tinyproxy#532).
        401 | 407 => Err(Fault::Credentials),
        500..=599 => Err(Fault::Failed(Said::Status(status))),
        _ => Err(Fault::Denied(Said::Status(status))),
    }
}

fn request(target: &Authority<'_>, login: Option<&Login>) -> String {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(login) = login {
        request.push_str("Proxy-Authorization: ");
        request.push_str(&login.basic());
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request
}

/// How far an answer was read, so that no byte is looked at once for each piece that comes.
#[derive(Debug, Default)]
struct Seen {
    /// Where the current head begins.
    head: usize,
    /// How many of its bytes are known to be good and not to end it.
    bytes: usize,
}

/// The status of the first answer that isn't an interim one, and how many bytes came after its
/// head. `None`: not all of it is there yet; it is called again with more, and with the same `seen`.
fn final_status(received: &[u8], seen: &mut Seen) -> Result<Option<(u16, usize)>, &'static str> {
    loop {
        let rest = &received[seen.head..];
        let Some(length) = head_length(rest, &mut seen.bytes)? else {
            return Ok(None);
        };
        let status = head_status(&rest[..length])?;
        *seen = Seen {
            head: seen.head + length,
            bytes: 0,
        };
        match status {
            101 => return Err("it switched protocols instead of opening a tunnel"),
            100..=199 => {}
            _ => return Ok(Some((status, rest.len() - length))),
        }
    }
}

const NOT_HTTP: &str = "its answer to CONNECT is not HTTP/1.1";

/// The length of the head with its empty line. Wrong bytes are refused as soon as they are seen:
/// who doesn't speak HTTP may never send an empty line. Begins after the `seen` bytes.
fn head_length(received: &[u8], seen: &mut usize) -> Result<Option<usize>, &'static str> {
    let prefix = received.len().min(7);
    if received[..prefix] != b"HTTP/1."[..prefix] {
        return Err(NOT_HTTP);
    }
    for (at, byte) in received.iter().enumerate().skip(*seen) {
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
    // What the last one is depends on the next.
    *seen = received.len().saturating_sub(1);
    Ok(None)
}

/// `HTTP/1.x SSS[ reason]` and lines of `name: value`, nothing else.
fn head_status(head: &[u8]) -> Result<u16, &'static str> {
    let text = &head[..head.len() - 4];
    let mut lines = text.split(|byte| *byte == b'\n');
    let status = lines.next().unwrap_or_default();
    let status = status.strip_suffix(b"\r").unwrap_or(status);
    let (version, code) = match status.strip_prefix(b"HTTP/1.") {
        Some([minor, b' ', a, b, c] | [minor, b' ', a, b, c, b' ', ..]) => (minor, [a, b, c]),
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

#[cfg(test)]
mod tests {
    use super::*;

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
            let whole = final_status(head, &mut Seen::default());
            assert_eq!(whole, status, "{text:?}");
            // The same byte by byte, up to where it is decided.
            let mut seen = Seen::default();
            let mut piecewise = (0..=head.len()).map(|to| final_status(&head[..to], &mut seen));
            let decided = piecewise.find(|it| *it != Ok(None)).unwrap_or(Ok(None));
            let status = status.map(|it| it.map(|(code, _)| (code, 0)));
            assert_eq!(decided, status, "{text:?}");
        }
    }

    #[test]
    fn no_byte_is_looked_at_twice_however_small_the_pieces_are() {
        let mut head = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
        head.resize(HEAD_BYTES_MAX, b'a');
        let mut seen = Seen::default();
        for to in 1..=head.len() {
            assert_eq!(final_status(&head[..to], &mut seen), Ok(None));
            assert_eq!(seen.bytes, to - 1);
        }
    }
}

//! A small HTTP/1.1 client that sends exactly what it is told and shows exactly what it gets.

use super::DEADLINE;
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// One connection.
pub struct Client {
    stream: TcpStream,
    /// Read and not yet understood.
    ahead: Vec<u8>,
    /// How the body that is being read ends.
    framing: Framing,
    /// Decoded and not yet taken by [`Client::read_text_until`].
    body: Vec<u8>,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none, or it is over.
    None,
    /// After this many bytes.
    Length(usize),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// An answer's head.
#[derive(Clone, Debug)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Names as they came, in order.
    pub headers: Vec<(String, String)>,
    /// Exactly as it came.
    pub raw: Vec<u8>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its head.
    pub head: Head,
    /// Its body, out of its chunks.
    pub body: Vec<u8>,
    /// The body came to its end in good form.
    pub whole: bool,
}

/// One GET on a connection of its own.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Answer {
    let mut client = Client::connect(address);
    client.request("GET", path, &[], b"");
    client.answer()
}

/// One POST of JSON on a connection of its own.
#[track_caller]
pub fn post(address: SocketAddr, path: &str, json: impl AsRef<[u8]>) -> Answer {
    let mut client = Client::connect(address);
    client.post(path, json);
    client.answer()
}

impl Client {
    /// Connects.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)
            .unwrap_or_else(|error| panic!("no connection to {address}: {error}"));
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        stream.set_write_timeout(Some(DEADLINE)).expect("a socket");
        Self {
            stream,
            ahead: Vec::new(),
            framing: Framing::None,
            body: Vec::new(),
        }
    }

    /// The socket itself.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes)
            .expect("weir takes what the client sends");
    }

    /// Sends bytes as they are; the other side may have left.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a request: `Host`, the given headers, and `Content-Length` unless a header says how the
    /// body is framed or there is none.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut message = head(method, path, headers, Some(body.len()));
        message.extend_from_slice(body);
        self.send(message);
    }

    /// Sends only a request's head with these headers (and `Host`).
    #[track_caller]
    pub fn send_head(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        self.send(head(method, path, headers, None));
    }

    /// Sends a POST of JSON.
    #[track_caller]
    pub fn post(&mut self, path: &str, json: impl AsRef<[u8]>) {
        let headers = [("content-type", "application/json")];
        self.request("POST", path, &headers, json.as_ref());
    }

    /// Sends one chunk.
    #[track_caller]
    pub fn send_chunk(&mut self, bytes: &[u8]) {
        self.send(chunk(bytes));
    }

    /// Reads the next head, be it informational or not.
    #[track_caller]
    pub fn read_head(&mut self) -> Head {
        self.try_read_head()
            .expect("an answer, not the connection's end")
    }

    /// Reads the next head; `None` when the connection ends instead.
    #[track_caller]
    pub fn try_read_head(&mut self) -> Option<Head> {
        let end = loop {
            if let Some(at) = find(&self.ahead, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.read_more() {
                assert!(
                    self.ahead.is_empty(),
                    "the connection ended in a head: {:?}",
                    String::from_utf8_lossy(&self.ahead)
                );
                return None;
            }
        };
        let raw: Vec<u8> = self.ahead.drain(..end).collect();
        let head = Head::parse(raw);
        self.framing = head.framing();
        self.body.clear();
        Some(head)
    }

    /// Reads the final answer whole; informational ones are skipped.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// The same, knowing that an answer to HEAD has no body.
    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Answer {
        let head = loop {
            let head = self.read_head();
            if head.status >= 200 || head.status == 101 {
                break head;
            }
        };
        if method == "HEAD" {
            self.framing = Framing::None;
        }
        let (body, whole) = self.rest();
        Answer { head, body, whole }
    }

    /// Reads the body to its end; `false` when it was cut off.
    #[track_caller]
    pub fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut whole = std::mem::take(&mut self.body);
        loop {
            match self.piece() {
                Piece::Bytes(bytes) => whole.extend_from_slice(&bytes),
                Piece::End => return (whole, true),
                Piece::Cut => return (whole, false),
            }
        }
    }

    /// Reads the body until it has this text, and returns all up to its end. Later bytes stay.
    #[track_caller]
    pub fn read_text_until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = find(&self.body, text.as_bytes()) {
                let taken: Vec<u8> = self.body.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            match self.piece() {
                Piece::Bytes(bytes) => self.body.extend_from_slice(&bytes),
                Piece::End | Piece::Cut => panic!(
                    "the body ended without {text:?}; it has {:?}",
                    String::from_utf8_lossy(&self.body)
                ),
            }
        }
    }

    /// The next `count` bytes of the connection, as they are: after an upgrade.
    #[track_caller]
    pub fn read_raw(&mut self, count: usize) -> Vec<u8> {
        while self.ahead.len() < count {
            assert!(self.read_more(), "the connection ended too early");
        }
        self.ahead.drain(..count).collect()
    }

    /// Waits for the connection's end and returns what came before it.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.read_more() {}
        std::mem::take(&mut self.ahead)
    }

    /// True when nothing comes in the given time (which is always waited for).
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a socket");
        let mut piece = [0; 4096];
        let read = self.stream.read(&mut piece);
        self.stream
            .set_read_timeout(Some(DEADLINE))
            .expect("a socket");
        match read {
            Ok(count) => {
                self.ahead.extend_from_slice(&piece[..count]);
                false
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// True when something has come that wasn't read yet; never waits.
    pub fn has_answer(&self) -> bool {
        let _ = self.stream.set_nonblocking(true);
        let peeked = self.stream.peek(&mut [0]);
        let _ = self.stream.set_nonblocking(false);
        peeked.is_ok()
    }

    /// Ends the sending side only.
    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection in good form.
    pub fn close(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        super::provider::reset(&self.stream);
    }

    /// The next piece of a body.
    fn piece(&mut self) -> Piece {
        match self.framing {
            Framing::None | Framing::Length(0) => {
                self.framing = Framing::None;
                Piece::End
            }
            Framing::Length(left) => {
                if self.ahead.is_empty() && !self.read_more() {
                    return Piece::Cut;
                }
                let count = left.min(self.ahead.len());
                self.framing = Framing::Length(left - count);
                Piece::Bytes(self.ahead.drain(..count).collect())
            }
            Framing::Close => {
                if self.ahead.is_empty() && !self.read_more() {
                    self.framing = Framing::None;
                    return Piece::End;
                }
                Piece::Bytes(std::mem::take(&mut self.ahead))
            }
            Framing::Chunked => self.chunk(),
        }
    }

    fn chunk(&mut self) -> Piece {
        let line = loop {
            match find(&self.ahead, b"\r\n") {
                Some(at) => break at,
                None if self.read_more() => {}
                None => return Piece::Cut,
            }
        };
        let size = String::from_utf8_lossy(&self.ahead[..line]).into_owned();
        let size = size.split(';').next().unwrap_or_default().trim().to_owned();
        let size = usize::from_str_radix(&size, 16)
            .unwrap_or_else(|_| panic!("{size:?} is no chunk's size"));
        if size == 0 {
            // Trailers, if any, end with an empty line.
            loop {
                if let Some(at) = find(&self.ahead[line..], b"\r\n\r\n") {
                    self.ahead.drain(..line + at + 4);
                    self.framing = Framing::None;
                    return Piece::End;
                }
                if !self.read_more() {
                    return Piece::Cut;
                }
            }
        }
        while self.ahead.len() < line + 2 + size + 2 {
            if !self.read_more() {
                return Piece::Cut;
            }
        }
        let bytes = self.ahead[line + 2..line + 2 + size].to_vec();
        assert_eq!(
            &self.ahead[line + 2 + size..][..2],
            b"\r\n",
            "a chunk's end"
        );
        self.ahead.drain(..line + 2 + size + 2);
        Piece::Bytes(bytes)
    }

    /// Reads more from the socket; `false` at its end.
    #[track_caller]
    fn read_more(&mut self) -> bool {
        let mut piece = [0; 65536];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(count) => {
                self.ahead.extend_from_slice(&piece[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!(
                "nothing from weir in {DEADLINE:?} ({error}); so far: {:?}",
                String::from_utf8_lossy(&self.ahead)
            ),
        }
    }
}

enum Piece {
    Bytes(Vec<u8>),
    End,
    Cut,
}

/// A chunk with its frame; an empty one is the last.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
    framed.extend_from_slice(bytes);
    framed.extend_from_slice(b"\r\n");
    framed
}

fn head(method: &str, path: &str, headers: &[(&str, &str)], length: Option<usize>) -> Vec<u8> {
    let has = |name: &str| {
        headers
            .iter()
            .any(|(given, _)| given.eq_ignore_ascii_case(name))
    };
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !has("host") {
        head.push_str("Host: weir.test\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = length
        && !has("content-length")
        && !has("transfer-encoding")
        && (length > 0 || matches!(method, "POST" | "PUT" | "PATCH"))
    {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Where `needle` begins in `hay`.
pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(hay, needle)
}

impl Head {
    fn parse(raw: Vec<u8>) -> Self {
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().unwrap_or_default();
        let status = status
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .unwrap_or_else(|| panic!("{status:?} is no status line"));
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Self {
            status,
            headers,
            raw,
        }
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        super::header(&self.headers, name)
    }

    /// How the body after this head ends.
    pub fn framing(&self) -> Framing {
        if self.status < 200 || matches!(self.status, 204 | 304) {
            return Framing::None;
        }
        if self
            .header("transfer-encoding")
            .is_some_and(|value| value.contains("chunked"))
        {
            return Framing::Chunked;
        }
        match self
            .header("content-length")
            .and_then(|value| value.parse().ok())
        {
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        }
    }
}

impl Answer {
    /// Status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {:?}", self.text()))
    }

    /// Asserts that weir refused with this status and code, in OpenAI's shape.
    #[track_caller]
    pub fn assert_refused(&self, status: u16, code: &str) {
        self.assert_refused_as(status, code, code);
    }

    /// As [`Answer::assert_refused`], where OpenAI's own word for it is another than weir's.
    #[track_caller]
    pub fn assert_refused_as(&self, status: u16, code: &str, openai: &str) {
        assert_eq!(
            (self.status(), self.header("x-weir-error")),
            (status, Some(code)),
            "{}",
            self.text()
        );
        let error = &self.json()["error"];
        assert_eq!(error["code"], openai);
        assert!(
            error["message"].is_string() && error["type"].is_string(),
            "{error}"
        );
        assert!(error.get("param").is_some(), "{error}");
        assert!(self.whole);
    }
}

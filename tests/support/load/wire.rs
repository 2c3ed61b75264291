//! A client's end of an HTTP/1.1 connection, which says exactly how it ended.

use super::super::DEADLINE;
use super::super::client::find;
use super::tally::{Failed, Failure};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection and what was read of it but not yet taken.
pub struct Wire<S> {
    stream: S,
    ahead: Vec<u8>,
}

/// An answer's head.
pub struct Head {
    /// Status code.
    pub status: u16,
    headers: Vec<(String, String)>,
}

/// A TCP connection.
pub async fn connect(address: SocketAddr) -> Result<TcpStream, Failed> {
    let connected = within(TcpStream::connect(address)).await;
    let stream = connected.map_err(|failed| failed.during("connecting"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A POST of JSON.
pub fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: weir.test\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

async fn within<R>(work: impl Future<Output = std::io::Result<R>>) -> Result<R, Failed> {
    match timeout(DEADLINE, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failed::new(Failure::Timeout, format!("{DEADLINE:?}"))),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Takes over a connection.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            ahead: Vec::new(),
        }
    }

    /// The connection itself.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Failed> {
        let stream = &mut self.stream;
        let sent = within(async {
            stream.write_all(bytes.as_ref()).await?;
            stream.flush().await
        });
        sent.await.map_err(|failed| failed.during("sending"))
    }

    /// Reads an answer's head.
    pub async fn head(&mut self) -> Result<Head, Failed> {
        let end = loop {
            if let Some(at) = find(&self.ahead, b"\r\n\r\n") {
                break at + 4;
            }
            self.more("the head").await?;
        };
        let text = String::from_utf8_lossy(&self.take(end)).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().unwrap_or_default();
        let code = status
            .strip_prefix("HTTP/1.1 ")
            .and_then(|it| it.get(..3)?.parse().ok());
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        match code {
            Some(status) => Ok(Head { status, headers }),
            None => Err(Failed::new(
                Failure::WrongBytes,
                format!("status {status:?}"),
            )),
        }
    }

    /// Reads a head and its body, which must be a 200 with exactly these bytes.
    pub async fn expect(&mut self, body: &[u8]) -> Result<Head, Failed> {
        let head = self.head().await?;
        let got = self.body(&head).await?;
        if head.status != 200 {
            let text = String::from_utf8_lossy(&got).into_owned();
            return Err(Failed::new(Failure::Status(head.status), text));
        }
        if got != body {
            let text = String::from_utf8_lossy(&got).into_owned();
            return Err(Failed::new(Failure::WrongBytes, text));
        }
        Ok(head)
    }

    /// Reads a body whole.
    pub async fn body(&mut self, head: &Head) -> Result<Vec<u8>, Failed> {
        if let Some(length) = head.header("content-length") {
            let length = length.parse().unwrap_or_default();
            return self.raw(length).await;
        }
        let mut body = Vec::new();
        if head.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().await? {
                body.extend(chunk);
            }
        }
        Ok(body)
    }

    /// Reads a chunk; `None` is the last.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Failed> {
        let line = loop {
            match find(&self.ahead, b"\r\n") {
                Some(at) => break self.take(at + 2),
                None => self.more("a chunk").await?,
            }
        };
        let size = String::from_utf8_lossy(&line).into_owned();
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            return Err(Failed::new(Failure::WrongBytes, format!("size {size:?}")));
        };
        let mut bytes = self.raw(size + 2).await?;
        bytes.truncate(size);
        Ok((size > 0).then_some(bytes))
    }

    /// Reads this many bytes as they are.
    pub async fn raw(&mut self, count: usize) -> Result<Vec<u8>, Failed> {
        while self.ahead.len() < count {
            self.more("the body").await?;
        }
        Ok(self.take(count))
    }

    /// Waits for the connection's end; what comes before it is wrong.
    pub async fn end(&mut self) -> Result<(), Failed> {
        match self.more("the end").await {
            Err(failed) if failed.failure == Failure::Eof => Ok(()),
            Err(failed) => Err(failed),
            Ok(()) => {
                let text = String::from_utf8_lossy(&self.ahead).into_owned();
                Err(Failed::new(Failure::WrongBytes, text))
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.ahead.split_off(count);
        std::mem::replace(&mut self.ahead, rest)
    }

    async fn more(&mut self, what: &str) -> Result<(), Failed> {
        let mut piece = [0; 4096];
        let read = within(self.stream.read(&mut piece)).await;
        let during = || format!("waiting for {what} after {} bytes", self.ahead.len());
        match read {
            Ok(0) => Err(Failed::new(Failure::Eof, during())),
            Ok(count) => {
                self.ahead.extend_from_slice(&piece[..count]);
                Ok(())
            }
            Err(failed) => Err(failed.during(&during())),
        }
    }
}

impl Wire<TcpStream> {
    /// True where the other side has ended the connection already: what a pool looks at before it
    /// takes a connection that it kept.
    pub fn has_ended(&self) -> bool {
        let mut byte = 0_u8;
        // SAFETY: one byte is written at most, into a byte that lives through the call.
        let read = unsafe {
            libc::recv(
                self.stream.as_raw_fd(),
                (&raw mut byte).cast(),
                1,
                libc::MSG_PEEK | libc::MSG_DONTWAIT,
            )
        };
        let nothing = || std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock;
        read >= 0 || !nothing()
    }
}

impl Head {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        super::super::header(&self.headers, name)
    }

    /// The connection is not for further requests.
    pub fn closes(&self) -> bool {
        self.header("connection")
            .is_some_and(|it| it.eq_ignore_ascii_case("close"))
    }
}

//! A client's connection as Pingora's HTTP sessions read and write it.
//!
//! Pingora's own stream allocates 64 KiB to read into and takes the time of each read; an open
//! stream that waits for the next token needs neither. This one reads straight into the caller's
//! buffer and gathers small writes until they are flushed, so that a head and a short body, or a
//! chunk with its frame, leave in one system call.

use super::caps::Place;
use super::tls::Secured;
use super::transport::Transport;
use bytes::{Buf, BytesMut};
use http::HeaderValue;
use pingora::http::ResponseHeader;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest,
    Ssl, TimingDigest, UniqueID, UniqueIDType,
};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Writes that together stay below this wait for the flush.
const GATHER_BYTES_MAX: usize = 4096;
/// A gathering buffer above this is given back after a flush: idle streams are many.
const GATHER_BYTES_KEPT: usize = 1024;
/// A connection that we end while the client still sends is read on for at most this long, so that
/// the client sees our answer and not a reset (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 64 << 20;

/// A client's connection.
#[derive(Debug)]
pub struct Conn {
    /// Taken only by `drop`.
    transport: Option<Transport>,
    /// Read but not yet given to the session.
    ahead: BytesMut,
    gathered: Vec<u8>,
    digest: Arc<SocketDigest>,
    secured: Option<Carrier>,
    h2: bool,
    read_end: bool,
    /// The transport has bytes that it was not yet made to send.
    held_back: bool,
    /// The current request has been read whole: what comes now belongs to the next one.
    between: AtomicBool,
    /// Its place among the open connections, given back when the socket is closed.
    place: Option<Place>,
}

/// What a request's client can be told of TLS, and what is known of it by TLS.
#[derive(Clone, Debug)]
pub struct Secure {
    /// What was agreed.
    pub with: Secured,
    /// `Strict-Transport-Security` of the listener.
    pub hsts: Option<HeaderValue>,
}

/// The same as Pingora carries it to whoever serves the request.
#[derive(Clone, Debug)]
struct Carrier {
    /// Says that there is TLS at all.
    ssl: Arc<SslDigest>,
    /// The one digest that takes a value of ours, of HTTP/1 and HTTP/2 alike. Pingora reads it on
    /// connections to upstreams only.
    value: Arc<ProxyDigest>,
}

/// How a request's client came by TLS; `None` for plaintext. To be asked with the session's digest.
pub fn secured(digest: &Digest) -> Option<&Secure> {
    let value = digest.proxy_digest.as_ref()?.user_data.as_ref()?;
    value.downcast_ref()
}

impl Conn {
    /// Takes over an accepted socket, bare or under TLS. A Unix socket's peer has no address.
    pub fn new(
        transport: impl Into<Transport>,
        peer: impl Into<Option<SocketAddr>>,
        place: Option<Place>,
    ) -> Self {
        let transport = transport.into();
        let digest = SocketDigest::from_raw_fd(transport.as_raw_fd());
        let known = digest.peer_addr.set(peer.into().map(PingoraAddr::Inet));
        debug_assert!(known.is_ok(), "a new digest knows nothing");
        Self {
            transport: Some(transport),
            ahead: BytesMut::new(),
            gathered: Vec::new(),
            digest: Arc::new(digest),
            secured: None,
            h2: false,
            read_end: false,
            held_back: false,
            between: AtomicBool::new(false),
            place,
        }
    }

    /// Keeps what is known by TLS, for [`secured()`].
    pub fn set_secured(&mut self, secured: Secure) {
        let (cipher, version) = (secured.with.cipher, secured.with.version);
        let ssl = SslDigest::new(cipher, version, None, None, Vec::new());
        let (empty, ()) = http::Response::new(()).into_parts();
        let value = ProxyDigest::new(
            Box::new(ResponseHeader::from(empty)),
            Some(Box::new(secured)),
        );
        self.secured = Some(Carrier {
            ssl: Arc::new(ssl),
            value: Arc::new(value),
        });
    }

    /// Whether it is under TLS.
    pub fn is_secured(&self) -> bool {
        self.secured.is_some()
    }

    /// What was read and not yet taken.
    pub fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Reads more into [`Conn::ahead`]; `false` at the end of the stream.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn read_ahead(&mut self) -> io::Result<bool> {
        const STEP: usize = 4096;
        self.ahead.reserve(STEP);
        let Some(transport) = &mut self.transport else {
            return Ok(false);
        };
        let read = transport.read_buf(&mut self.ahead).await;
        self.read_end = !matches!(read, Ok(1..));
        Ok(read? > 0)
    }

    /// Whether the socket has something to read, its end too: the system is asked, not the runtime, which
    /// on a busy host hears of it late.
    pub fn has_news(&self) -> bool {
        self.transport.as_ref().is_some_and(Transport::has_news)
    }

    /// Drops the first `bytes` of what was read ahead.
    pub fn skip(&mut self, bytes: usize) {
        self.ahead.advance(bytes);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
    }

    /// Begins a request: takes its first `bytes`, the head, out of what was read ahead. They are
    /// copied, so that an open stream holds on to them and not to a whole read.
    pub fn take_head(&mut self, bytes: usize) -> BytesMut {
        *self.between.get_mut() = false;
        let head = BytesMut::from(&self.ahead[..bytes]);
        self.skip(bytes);
        head
    }

    /// Says that the current request has been read whole. What the client sends from now on (RFC
    /// 9112, section 9.3.2: pipelining) waits until the next one begins; the session sees only that
    /// the client is there, or that it left.
    pub fn keep_the_rest(&self) {
        self.between.store(true, Ordering::Relaxed);
    }

    /// Reads what belongs to the next request; ready only when the client has left, or broke off.
    fn poll_between(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        /// A client that sends more than this ahead is not read until its turn comes.
        const AHEAD_BYTES_MAX: usize = 64 << 10;
        while self.ahead.len() < AHEAD_BYTES_MAX {
            let mut scrap = [MaybeUninit::<u8>::uninit(); 4096];
            let mut read = ReadBuf::uninit(&mut scrap);
            ready!(self.transport()?.poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                self.read_end = true;
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(read.filled());
        }
        Poll::Pending
    }

    /// Makes Pingora speak HTTP/2 on this connection.
    pub fn choose_h2(&mut self) {
        self.h2 = true;
    }

    fn transport(&mut self) -> io::Result<Pin<&mut Transport>> {
        let closed = || io::Error::from(io::ErrorKind::NotConnected);
        self.transport.as_mut().map(Pin::new).ok_or_else(closed)
    }

    /// Sends what lies in the transport.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = ready!(self.transport()?.poll_flush(cx));
        self.held_back = false;
        Poll::Ready(sent)
    }

    /// Writes out what was gathered, with `more` behind it; returns how much of `more` went too.
    fn poll_write_out(
        &mut self,
        cx: &mut Context<'_>,
        more: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let gathered = std::mem::take(&mut self.gathered);
            let written = if gathered.is_empty() {
                self.transport()?.poll_write_vectored(cx, more)
            } else {
                const SLICES: usize = 8;
                let mut slices = [IoSlice::new(&[]); SLICES];
                slices[0] = IoSlice::new(&gathered);
                let count = more.len().min(SLICES - 1);
                slices[1..=count].copy_from_slice(&more[..count]);
                self.transport()?.poll_write_vectored(cx, &slices[..=count])
            };
            let before = gathered.len();
            self.gathered = gathered;
            let written = ready!(written)?;
            self.held_back |= self.transport.as_ref().is_some_and(Transport::holds_back);
            if written == 0 && (before > 0 || more.iter().any(|slice| !slice.is_empty())) {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if written < before {
                self.gathered.drain(..written);
                continue;
            }
            self.gathered.clear();
            if self.gathered.capacity() > GATHER_BYTES_KEPT {
                self.gathered = Vec::new();
            }
            let of_more = written - before;
            if of_more > 0 || more.iter().all(|slice| slice.is_empty()) {
                return Poll::Ready(Ok(of_more));
            }
        }
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever reads has nothing more to write for now: what was gathered must not wait for it.
        if !self.gathered.is_empty() {
            let _ = self.poll_write_out(cx, &[]);
        }
        if self.held_back {
            let _ = self.poll_send(cx);
        }
        if self.between.load(Ordering::Relaxed) {
            return self.poll_between(cx);
        }
        if self.ahead.is_empty() {
            let before = buf.filled().len();
            let read = ready!(self.transport()?.poll_read(cx, buf));
            self.read_end = read.is_err() || buf.filled().len() == before;
            return Poll::Ready(read);
        }
        let count = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..count]);
        self.skip(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let more: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.gathered.len() + more > GATHER_BYTES_MAX {
            return self.poll_write_out(cx, bufs);
        }
        for buf in bufs {
            self.gathered.extend_from_slice(buf);
        }
        Poll::Ready(Ok(more))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathered.is_empty() {
            ready!(self.poll_write_out(cx, &[]))?;
        }
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.transport()?.poll_shutdown(cx)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        let Some(transport) = self.transport.take() else {
            return;
        };
        let unsent = !self.gathered.is_empty() || self.held_back;
        if (!self.read_end || unsent)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let last = std::mem::take(&mut self.gathered);
            let place = self.place.take();
            runtime.spawn(async move {
                let _ = tokio::time::timeout(LINGER, linger(transport, last)).await;
                drop(place);
            });
        }
    }
}

/// Writes what was gathered, ends our side and reads on until the client ends its own. What comes
/// then isn't looked at: under TLS, nothing is decrypted any more.
async fn linger(mut transport: Transport, last: Vec<u8>) -> io::Result<()> {
    transport.write_all(&last).await?;
    transport.shutdown().await?;
    let mut socket = transport.into_socket();
    let mut scrap = [0; 4096];
    let mut left = LINGER_BYTES_MAX;
    while left > 0 {
        match socket.read(&mut scrap).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

#[async_trait::async_trait]
impl Shutdown for Conn {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            tracing::debug!(%error, "a client's connection could not be shut down");
        }
    }
}

impl UniqueID for Conn {
    fn id(&self) -> UniqueIDType {
        self.transport.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl Ssl for Conn {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.h2.then_some(ALPN::H2)
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.secured.as_ref().map(|it| Arc::clone(&it.ssl))
    }
}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.secured.as_ref().map(|it| Arc::clone(&it.value))
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

impl Peek for Conn {}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (Conn, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (socket, peer) = accepted.unwrap();
        (Conn::new(socket, peer, None), client.unwrap())
    }

    #[tokio::test]
    async fn what_follows_a_request_waits_for_the_next_one() {
        let (mut conn, mut client) = pair().await;
        client.write_all(b"HEADbody").await.unwrap();
        while conn.ahead().len() < 8 {
            assert!(conn.read_ahead().await.unwrap());
        }
        assert_eq!(&conn.take_head(4)[..], b"HEAD");
        let mut buf = [0; 16];
        let read = conn.read(&mut buf).await.unwrap();
        assert_eq!(&buf[..read], b"body");
        conn.keep_the_rest();
        client.write_all(b"NEXT").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(
            conn.read(&mut buf).await.unwrap(),
            0,
            "only the end is seen"
        );
        assert_eq!(conn.ahead(), b"NEXT");
    }

    #[tokio::test]
    async fn small_writes_wait_for_the_flush_and_order_is_kept() {
        let (mut conn, mut client) = pair().await;
        conn.write_all(b"small,").await.unwrap();
        let mut nothing = [0; 1];
        let silent = client.try_read(&mut nothing).unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::WouldBlock);
        let large = vec![b'x'; 3_000_000];
        let (sent, received) = tokio::join!(
            async {
                conn.write_all(&large).await?;
                conn.write_all(b"end").await?;
                AsyncWriteExt::shutdown(&mut conn).await
            },
            async {
                let mut all = Vec::new();
                client.read_to_end(&mut all).await.map(|_| all)
            }
        );
        sent.unwrap();
        let received = received.unwrap();
        assert_eq!(received.len(), 6 + large.len() + 3);
        assert!(received.starts_with(b"small,xxx") && received.ends_with(b"xend"));
    }

    #[tokio::test]
    async fn a_client_that_still_sends_gets_the_answer_and_not_a_reset() {
        let (mut conn, mut client) = pair().await;
        client.write_all(&[b'u'; 100_000]).await.unwrap();
        conn.write_all(b"413").await.unwrap();
        conn.flush().await.unwrap();
        drop(conn);
        client.write_all(&[b'u'; 100_000]).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"413");
    }
}

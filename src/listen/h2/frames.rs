//! The frames of a client's HTTP/2 connection, looked at as they pass ([`Incoming`] judges them).
//!
//! An offending frame is held back and its error told to `h2::serve`, which ends the connection.

use super::h2_crate::Reason;
use super::incoming::Incoming;
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What `h2::serve` is told.
#[derive(Debug, Default)]
pub struct Told(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    fault: Option<Reason>,
    greeted: bool,
    block: Option<Instant>,
    stalled: Option<Instant>,
}

impl Told {
    /// The client broke the protocol, or a bound: nothing more is read, and this is why.
    pub fn fault(&self) -> Option<Reason> {
        self.0.lock().fault
    }

    /// The client has sent its first SETTINGS (RFC 9113, section 3.4).
    pub fn greeted(&self) -> bool {
        self.0.lock().greeted
    }

    /// Since when a block of headers is incomplete.
    pub fn block(&self) -> Option<Instant> {
        self.0.lock().block
    }

    /// Since when the client takes no byte of those that wait for it.
    pub fn stalled(&self) -> Option<Instant> {
        self.0.lock().stalled
    }
}

/// A stream of bytes that is HTTP/2.
#[derive(Debug)]
pub struct Frames {
    io: Stream,
    incoming: Incoming,
    told: Arc<Told>,
}

impl Frames {
    /// The client's preface is still to be read.
    pub fn new(io: Stream, told: Arc<Told>) -> Self {
        Self {
            io,
            incoming: Incoming::new(Instant::now()),
            told,
        }
    }

    fn wrote<T>(&mut self, written: &Poll<io::Result<T>>, bytes: usize) {
        self.incoming.earn(bytes);
        match written {
            Poll::Ready(_) => self.told.0.lock().stalled = None,
            Poll::Pending => {
                let mut told = self.told.0.lock();
                told.stalled.get_or_insert_with(Instant::now);
            }
        }
    }
}

impl AsyncRead for Frames {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.told.fault().is_some() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if !matches!(read, Poll::Ready(Ok(()))) || buf.filled().len() == before {
            return read;
        }
        let scanned = this.incoming.scan(&buf.filled()[before..], Instant::now);
        let mut told = this.told.0.lock();
        told.greeted = this.incoming.greeted;
        told.block = this.incoming.block;
        if let Err((sound, reason)) = scanned {
            told.fault = Some(reason);
            buf.set_filled(before + sound);
            if sound == 0 {
                // Whoever polls looks for the fault next.
                return Poll::Pending;
            }
        }
        read
    }
}

impl AsyncWrite for Frames {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(&written, count(&written));
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(&written, count(&written));
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.wrote(&flushed, 0);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
fn count(written: &Poll<io::Result<usize>>) -> usize {
    match written {
        Poll::Ready(Ok(bytes)) => *bytes,
        _ => 0,
    }
}

// What Pingora asks of a stream besides bytes is the inner one's.

#[async_trait]
impl Shutdown for Frames {
    async fn shutdown(&mut self) {
        self.io.shutdown().await;
    }
}

impl UniqueID for Frames {
    fn id(&self) -> UniqueIDType {
        self.io.id()
    }
}

impl Ssl for Frames {}

impl GetTimingDigest for Frames {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.io.get_timing_digest()
    }
}

impl GetProxyDigest for Frames {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.io.get_proxy_digest()
    }
}

impl GetSocketDigest for Frames {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.get_socket_digest()
    }
}

impl Peek for Frames {}

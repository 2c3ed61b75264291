//! What lies below HTTP: a socket, TCP or Unix, bare or under TLS. Bytes go through unchanged and
//! unbuffered, but for TLS's own records. Used by [`super::conn::Conn`] and by the PROXY protocol.

use socket2::SockRef;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// An accepted socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix stream socket.
    Unix(UnixStream),
}

/// A connection's bytes.
#[derive(Debug)]
pub enum Transport {
    /// As they are on the wire.
    Plain(Socket),
    /// Under TLS. Boxed: most of it are rustls's own buffers.
    Tls(Box<TlsStream<Socket>>),
}

impl Socket {
    /// Waits for bytes and copies them into `buf`, without taking them; 0 at the end of the stream.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.peek(buf).await,
            Self::Unix(socket) => {
                let peek = || {
                    let mut room = [MaybeUninit::uninit(); 128];
                    let most = buf.len().min(room.len());
                    let count = SockRef::from(socket).peek(&mut room[..most])?;
                    for (to, from) in buf.iter_mut().zip(&room[..count]) {
                        // SAFETY: the kernel has written the first `count` of them.
                        *to = unsafe { from.assume_init() };
                    }
                    Ok(count)
                };
                socket.async_io(Interest::READABLE, peek).await
            }
        }
    }
}

impl Transport {
    /// The socket itself; what TLS holds in its buffers is lost.
    pub fn into_socket(self) -> Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.into_inner().0,
        }
    }

    /// Whether the system has something to read, the end too.
    pub fn has_news(&self) -> bool {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_ref().0,
        };
        let mut byte = [MaybeUninit::uninit()];
        let peeked = match socket {
            Socket::Tcp(socket) => SockRef::from(socket).peek(&mut byte),
            Socket::Unix(socket) => SockRef::from(socket).peek(&mut byte),
        };
        peeked.is_ok()
    }

    /// Whether bytes can wait in it after they were written, until a flush.
    pub fn holds_back(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl From<TcpStream> for Socket {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl From<UnixStream> for Socket {
    fn from(socket: UnixStream) -> Self {
        Self::Unix(socket)
    }
}

impl<S: Into<Socket>> From<S> for Transport {
    fn from(socket: S) -> Self {
        Self::Plain(socket.into())
    }
}

impl From<TlsStream<Socket>> for Transport {
    fn from(tls: TlsStream<Socket>) -> Self {
        Self::Tls(Box::new(tls))
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(socket) => socket.as_raw_fd(),
            Self::Unix(socket) => socket.as_raw_fd(),
        }
    }
}

impl AsRawFd for Transport {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Plain(socket) => socket.as_raw_fd(),
            Self::Tls(tls) => tls.get_ref().0.as_raw_fd(),
        }
    }
}

/// Reads and writes go to whichever it is.
macro_rules! passes_bytes {
    ($type:ty, $($variant:path)|+) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($variant(inner) => Pin::new(inner).poll_read(cx, buf),)+
                }
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($variant(inner) => Pin::new(inner).poll_write(cx, buf),)+
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($variant(inner) => Pin::new(inner).poll_write_vectored(cx, bufs),)+
                }
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($variant(inner) => Pin::new(inner).poll_flush(cx),)+
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($variant(inner) => Pin::new(inner).poll_shutdown(cx),)+
                }
            }
        }
    };
}

passes_bytes!(Socket, Self::Tcp | Self::Unix);
passes_bytes!(Transport, Self::Plain | Self::Tls);

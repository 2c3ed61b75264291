//! TLS to a proxy (`https://`), and how a stream within it becomes one that Pingora keeps.
//!
//! Pingora's pool tells connections apart by their descriptor, and has none for a stream that isn't
//! a socket. So the endpoint's bytes go through a pair of Unix sockets: one end is Pingora's, the
//! other is carried to and from the proxy by a task. It holds 32 KiB, takes no more than the other
//! side takes, passes on each side's end, and is over when either side is gone.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pingora::protocols::l4::ext::TcpKeepalive;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::unix::ReadHalf;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// One piece that is carried.
const PIECE_BYTES: usize = 16 * 1024;

/// How often it is looked after whether Pingora's end is still there, where nothing else would tell.
const LOOK: Duration = Duration::from_secs(5);

/// What a proxy doesn't take for this long is given up, also after the connection was closed here: as
/// long as keepalive takes to notice one that vanished.
const TAKEN: Duration = Duration::from_secs(90);

/// Of the connection to the proxy.
pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive {
        #[cfg(target_os = "linux")]
        user_timeout: TAKEN,
        ..super::way::keepalive()
    }
}

/// Shared by all connections to proxies, so that sessions are resumed.
pub(super) type Config = Arc<ClientConfig>;

/// Reads the system's authorities, and those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
pub(super) fn config() -> Result<Config, String> {
    let mut roots = RootCertStore::empty();
    pingora::tls::load_platform_certs_incl_env_into_store(&mut roots)
        .map_err(|error| format!("the system's authorities can't be read: {error}"))?;
    Ok(trusting(roots))
}

fn trusting(roots: RootCertStore) -> Config {
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // CONNECT is spoken in HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The handshake; the certificate must name `host`.
pub(super) async fn handshake(
    config: &Config,
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| "its name can't be in a certificate".to_owned())?;
    let connector = TlsConnector::from(Arc::clone(config));
    let connected = connector.connect(name, stream).await;
    connected.map_err(|error| error.to_string())
}

/// Whether it has nothing to read, not even an end.
pub(super) async fn is_silent<S: AsyncRead + Unpin>(stream: &mut S) -> bool {
    let mut byte = [0];
    let mut byte = ReadBuf::new(&mut byte);
    let polled = |context: &mut Context<'_>| {
        Poll::Ready(
            Pin::new(&mut *stream)
                .poll_read(context, &mut byte)
                .is_pending(),
        )
    };
    std::future::poll_fn(polled).await
}

/// A socket that leads through `outer`, for as long as both live.
pub(super) fn socket<S>(outer: S) -> io::Result<UnixStream>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (ours, theirs) = UnixStream::pair()?;
    tokio::spawn(carry_all(theirs, outer));
    Ok(ours)
}

/// Carries both ways until one side is gone, or both have said their last word.
async fn carry_all<S>(mut local: UnixStream, outer: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_local, mut to_local) = local.split();
    let (mut from_outer, mut to_outer) = tokio::io::split(outer);
    let back = carry(&mut from_outer, &mut to_local);
    tokio::pin!(back);
    let ended = {
        let forth = carry_forth(&mut from_local, &mut to_outer);
        tokio::pin!(forth);
        tokio::select! {
            ended = &mut forth => ended,
            ended = &mut back => {
                if ended.is_ok() {
                    // Who reads this end may still have something to say.
                    drop(forth.await);
                }
                return;
            }
        }
    };
    if ended.is_err() {
        return;
    }
    // Pingora closes both directions at once; a proxy that doesn't answer that by its own end
    // mustn't keep this task.
    while !is_gone(from_local.as_ref()).await {
        if tokio::time::timeout(LOOK, &mut back).await.is_ok() {
            return;
        }
    }
}

/// From Pingora's end to the proxy. A proxy that takes nothing is waited for only as long as the end
/// lives.
async fn carry_forth<W>(from: &mut ReadHalf<'_>, to: &mut W) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = from.read(&mut piece).await?;
        let taken = async {
            if count == 0 {
                return to.shutdown().await;
            }
            to.write_all(&piece[..count]).await?;
            to.flush().await
        };
        tokio::select! {
            biased;
            taken = taken => taken?,
            () = gone(from.as_ref()) => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        if count == 0 {
            return Ok(());
        }
    }
}

/// Until the other end of a pair is closed.
async fn gone(local: &UnixStream) {
    loop {
        tokio::time::sleep(LOOK).await;
        if is_gone(local).await {
            return;
        }
    }
}

/// Until the end of `from`, which is passed on.
async fn carry<R, W>(from: &mut R, to: &mut W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = from.read(&mut piece).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..count]).await?;
        to.flush().await?;
    }
}

/// True when the other end of a pair is closed, and not only silent for good. Of use also where our
/// own last word was said: a write would fail then in either case.
async fn is_gone(local: &UnixStream) -> bool {
    let ready = local.ready(Interest::WRITABLE);
    match tokio::time::timeout(Duration::ZERO, ready).await {
        Ok(Ok(ready)) => ready.is_write_closed(),
        Ok(Err(_)) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    fn pair() -> (UnixStream, DuplexStream) {
        let (outer, proxy) = duplex(64 * 1024);
        (socket(outer).expect("a pair"), proxy)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_in_order() {
        let (ours, mut proxy) = pair();
        let (mut read, mut write) = ours.into_split();
        let sent: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 251) as u8).collect();
        let echo = tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(&mut proxy);
            tokio::io::copy(&mut read, &mut write)
                .await
                .expect("echoed");
            write.shutdown().await.expect("open");
        });
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            write.write_all(&sent).await.expect("written");
            write.shutdown().await.expect("open");
        });
        let mut received = Vec::new();
        read.read_to_end(&mut received).await.expect("read");
        assert!(received == expected, "{} bytes", received.len());
        writing.await.expect("joined");
        echo.await.expect("joined");
    }

    #[tokio::test]
    async fn who_has_said_the_last_word_still_hears_the_answer() {
        let (mut ours, mut proxy) = pair();
        ours.write_all(b"question").await.expect("written");
        ours.shutdown().await.expect("open");
        let mut heard = Vec::new();
        proxy.read_to_end(&mut heard).await.expect("read");
        assert_eq!(heard, b"question");
        proxy.write_all(b"answer").await.expect("written");
        drop(proxy);
        let mut heard = Vec::new();
        ours.read_to_end(&mut heard).await.expect("read");
        assert_eq!(heard, b"answer");
    }

    #[tokio::test]
    async fn the_proxys_last_word_leaves_room_for_ours() {
        let (mut ours, mut proxy) = pair();
        proxy.write_all(b"early answer").await.expect("written");
        proxy.shutdown().await.expect("open");
        let mut heard = Vec::new();
        ours.read_to_end(&mut heard).await.expect("read");
        assert_eq!(heard, b"early answer");
        ours.write_all(b"rest").await.expect("written");
        drop(ours);
        let mut heard = Vec::new();
        proxy.read_to_end(&mut heard).await.expect("read");
        assert_eq!(heard, b"rest");
    }

    #[tokio::test]
    async fn a_silent_proxy_does_not_outlive_the_connection() {
        let (outer, mut proxy) = duplex(1024);
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let task = tokio::spawn(carry_all(theirs, outer));
        drop(ours);
        task.await
            .expect("it ends while the proxy keeps its side open");
        let mut heard = Vec::new();
        proxy.read_to_end(&mut heard).await.expect("read");
        assert!(heard.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_proxy_is_noticed_when_the_connection_closes_later() {
        let (outer, _proxy) = duplex(1024);
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let task = tokio::spawn(carry_all(theirs, outer));
        ours.shutdown().await.expect("open");
        tokio::time::sleep(3 * LOOK).await;
        assert!(!task.is_finished(), "half a close is none");
        drop(ours);
        task.await.expect("it ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_reads_nothing_does_not_outlive_the_connection() {
        for proxy_says_its_last_word in [false, true] {
            let (outer, mut proxy) = duplex(1024);
            let (mut ours, theirs) = UnixStream::pair().expect("a pair");
            let task = tokio::spawn(carry_all(theirs, outer));
            if proxy_says_its_last_word {
                proxy.shutdown().await.expect("open");
                assert_eq!(ours.read(&mut [0]).await.expect("an end"), 0);
            }
            ours.write_all(&[0; 2 * PIECE_BYTES]).await.expect("room");
            tokio::time::sleep(3 * LOOK).await;
            assert!(!task.is_finished(), "it is only slow");
            drop(ours);
            task.await.expect("it ends");
            drop(proxy);
        }
    }

    #[tokio::test]
    async fn who_reads_nothing_stops_the_other_side() {
        let (ours, mut proxy) = pair();
        let piece = [0; 4096];
        let mut taken = 0;
        let patience = Duration::from_millis(300);
        while let Ok(written) = tokio::time::timeout(patience, proxy.write(&piece)).await {
            taken += written.expect("open");
            assert!(taken < 4 << 20, "{taken} bytes are somewhere in between");
        }
        drop(ours);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_ends_the_other_side() {
        let (mut ours, proxy) = pair();
        drop(proxy);
        assert_eq!(ours.read(&mut [0; 1]).await.expect("an end"), 0);
    }
}

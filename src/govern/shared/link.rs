//! One connection to the server that hosts meet at. The `redis` crate speaks, over bytes that weir brings:
//! its own resolver, its own TLS. Whoever drops a link in the middle of a command ends its connection, and
//! what would have been answered goes with it. Used by `keeper`.
//!
//! The URL is read by [`Server`]: the crate's own reader refuses `rediss://` where it wasn't built with a
//! TLS of its own, and passes over what it doesn't know.

use super::settings::Server;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, RedisError, Script, Value,
};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;

/// A connection as bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Makes a connection, with TLS where the server wants it: names and roads are none of this room's
/// business.
pub type Dial = Arc<
    dyn Fn(&Server) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>
        + Send
        + Sync,
>;

/// What a script is to be run with.
pub(super) struct Call {
    pub(super) script: &'static Script,
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<String>,
}

/// A connection that has logged in.
pub(super) struct Link {
    connection: MultiplexedConnection,
    /// What moves its bytes.
    driver: JoinHandle<()>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    /// What the server says, or what is wrong with it.
    Server(RedisError),
    /// Of hosts there are two where there should be one.
    Twins,
    /// It says something that isn't an answer to what was asked.
    Unexpected,
    Slow,
}

// === impl Fault ===

impl Fault {
    /// In metrics.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::Server(error) => match error.kind() {
                ErrorKind::Io => "io",
                ErrorKind::Parse | ErrorKind::UnexpectedReturnType => "malformed",
                _ => "refused",
            },
            Self::Twins => "refused",
            Self::Unexpected => "malformed",
            Self::Slow => "slow",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Server(error) => write!(f, "{error}"),
            Self::Twins => f.write_str(
                "another host has the same name: remove shared.v1 from the state_dir of one of them",
            ),
            Self::Unexpected => f.write_str("it answers something else than what was asked"),
            Self::Slow => f.write_str("no answer in time"),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        Self::Server(error)
    }
}

// === impl Link ===

impl Link {
    /// Connects, and logs in. That is said here, since the crate keeps the server's reason for a refusal
    /// to itself.
    pub(super) async fn open(dial: &Dial, server: &Server) -> Result<Self, Fault> {
        let stream = Bounded {
            stream: dial(server).await?,
            received: 0,
        };
        let nobody = RedisConnectionInfo::default().set_skip_set_lib_name();
        // Whoever asks has a time of its own.
        let how = AsyncConnectionConfig::new().set_response_timeout(None);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&nobody, stream, how).await?;
        let mut link = Self {
            connection,
            driver: tokio::spawn(driver),
        };
        if let Some(password) = &server.password {
            let mut login = Cmd::new();
            login.arg("AUTH").arg(server.user.as_ref());
            link.call(login.arg(password.expose())).await?;
        }
        if server.database != 0 {
            link.call(Cmd::new().arg("SELECT").arg(server.database))
                .await?;
        }
        Ok(link)
    }

    async fn call(&mut self, command: &Cmd) -> Result<(), Fault> {
        Ok(command.query_async(&mut self.connection).await?)
    }

    /// Runs a script: by its hash, once the server knows it.
    ///
    /// # Errors
    /// Why there is no answer; the link is to be dropped then.
    pub(super) async fn run(&mut self, call: &Call) -> Result<Value, Fault> {
        let mut prepared = call.script.prepare_invoke();
        prepared.key(&call.keys).arg(&call.arguments);
        Ok(prepared.invoke_async(&mut self.connection).await?)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Else it would wait for the answers to whatever was asked.
        self.driver.abort();
    }
}

/// A stream of which no more is read between two writes than the longest answer has: the crate itself
/// takes whatever comes.
struct Bounded {
    stream: Box<dyn Stream>,
    /// Since something was last sent, bytes.
    received: usize,
}

/// The longest answer, bytes.
const ANSWER_BYTES_MAX: usize = 8 << 20;

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        self.received += into.filled().len() - before;
        Poll::Ready(if self.received > ANSWER_BYTES_MAX {
            Err(io::Error::other("an answer that is too long"))
        } else {
            Ok(())
        })
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.received = 0;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new("return 1"));

    /// What a server that says `answers`, one to each command, and then stays silent is heard to say.
    async fn hears(answers: Vec<Vec<u8>>) -> Result<Value, Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4096];
            for answer in answers {
                if stream.read(&mut asked).await.unwrap() == 0 {
                    return;
                }
                // It may be refused before its end.
                let _ = stream.write_all(&answer).await;
            }
            // Until the link is dropped.
            while stream.read(&mut asked).await.is_ok_and(|read| read > 0) {}
        });
        let dial: Dial = Arc::new(move |_| {
            Box::pin(
                async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Stream>) },
            )
        });
        let mut link = Link::open(&dial, &"redis://x".parse().unwrap()).await?;
        let call = Call {
            script: &SCRIPT,
            keys: vec!["k".into()],
            arguments: Vec::new(),
        };
        let heard = tokio::time::timeout(Duration::from_secs(10), link.run(&call)).await;
        drop(link);
        server.await.unwrap();
        heard.unwrap_or(Err(Fault::Slow))
    }

    #[tokio::test]
    async fn a_script_that_the_server_doesnt_know_is_told_to_it() {
        let hash = format!("$40\r\n{}\r\n", SCRIPT.get_hash());
        let answers = ["-NOSCRIPT no\r\n", &hash, ":7\r\n"];
        let heard = hears(answers.map(|it| it.as_bytes().to_vec()).to_vec()).await;
        assert!(matches!(heard, Ok(Value::Int(7))), "{heard:?}");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused_at_once_however_long_or_deep_it_is() {
        let endless = [b"+".as_slice(), &vec![b'x'; ANSWER_BYTES_MAX + (1 << 20)]].concat();
        for (answer, word) in [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "malformed"),
            (b":x\r\n".to_vec(), "malformed"),
            (b"*1\r\n".repeat(200), "malformed"),
            (b"-NOAUTH Authentication required.\r\n".to_vec(), "refused"),
            (endless, "io"),
        ] {
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(40)]).into_owned();
            let heard = hears(vec![answer]).await;
            assert_eq!(heard.map_err(|it| it.word()), Err(word), "{shown}");
        }
    }

    #[tokio::test]
    async fn a_list_that_is_said_to_be_longer_than_memory_takes_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            stream
                .write_all(b"*99999999999999\r\n:1\r\n")
                .await
                .unwrap();
        });
        let dial: Dial = Arc::new(move |_| {
            Box::pin(
                async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Stream>) },
            )
        });
        let mut link = Link::open(&dial, &"redis://x".parse().unwrap())
            .await
            .unwrap();
        let call = Call {
            script: &SCRIPT,
            keys: Vec::new(),
            arguments: Vec::new(),
        };
        let heard = link.run(&call).await;
        assert!(heard.is_err(), "it ended in the middle: {heard:?}");
    }
}

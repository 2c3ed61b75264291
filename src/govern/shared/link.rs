//! One connection to the server that hosts meet at. Whoever drops it in the middle of a command ends
//! it: what is answered to that command is never taken for the answer to another. Used by `keeper`.

use super::resp::{self, Reply};
use super::settings::Server;
use aws_lc_rs::digest;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

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

/// A connection that has logged in.
pub(super) struct Link {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
    /// Scripts that the server has taken, with their hashes.
    scripts: Vec<(&'static str, String)>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Malformed(resp::Malformed),
    /// What the server says.
    Refused(String),
    /// It says something that isn't an answer to what was asked.
    Unexpected,
    Slow,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Malformed(why) => write!(f, "{why}"),
            Self::Refused(why) => write!(f, "it says: {why}"),
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

// === impl Link ===

impl Link {
    /// Connects, and logs in.
    pub(super) async fn open(dial: &Dial, server: &Server) -> Result<Self, Fault> {
        let mut link = Self {
            stream: dial(server).await?,
            received: Vec::new(),
            scripts: Vec::new(),
        };
        if let Some(password) = &server.password {
            let password = password.expose().as_bytes();
            match &server.user {
                Some(user) => link.call(&[b"AUTH", user.as_bytes(), password]).await?,
                None => link.call(&[b"AUTH", password]).await?,
            };
        }
        if server.database != 0 {
            let database = server.database.to_string();
            link.call(&[b"SELECT", database.as_bytes()]).await?;
        }
        Ok(link)
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// Why there is none; the link is to be dropped then.
    pub(super) async fn call(&mut self, words: &[&[u8]]) -> Result<Reply, Fault> {
        match self.exchange(words).await? {
            Reply::Error(why) => Err(Fault::Refused(why)),
            reply => Ok(reply),
        }
    }

    /// Runs a script: by its hash, once the server knows it.
    pub(super) async fn run(
        &mut self,
        script: &'static str,
        words: &[String],
    ) -> Result<Reply, Fault> {
        let rest = || words.iter().map(String::as_bytes);
        let known = self.scripts.iter().find(|(known, _)| *known == script);
        if let Some((_, hash)) = known.cloned() {
            let by_hash: Vec<&[u8]> = [b"EVALSHA", hash.as_bytes()]
                .into_iter()
                .chain(rest())
                .collect();
            match self.exchange(&by_hash).await? {
                Reply::Error(why) if why.starts_with("NOSCRIPT") => {}
                Reply::Error(why) => return Err(Fault::Refused(why)),
                reply => return Ok(reply),
            }
        }
        let whole: Vec<&[u8]> = [b"EVAL", script.as_bytes()]
            .into_iter()
            .chain(rest())
            .collect();
        let reply = self.call(&whole).await?;
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, script.as_bytes());
        let hash = hash.as_ref().iter().map(|byte| format!("{byte:02x}"));
        self.scripts.retain(|(known, _)| *known != script);
        self.scripts.push((script, hash.collect()));
        Ok(reply)
    }

    async fn exchange(&mut self, words: &[&[u8]]) -> Result<Reply, Fault> {
        if !self.received.is_empty() {
            return Err(Fault::Unexpected);
        }
        let mut bytes = Vec::new();
        resp::command(&mut bytes, words);
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await?;
        loop {
            if let Some((reply, length)) = resp::reply(&self.received).map_err(Fault::Malformed)? {
                self.received.drain(..length);
                return Ok(reply);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

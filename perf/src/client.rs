//! A client's side: one request as it goes out, and the check of all that comes back. The generator
//! runs many of these at once.

use std::net::SocketAddr;

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    Result,
    http::{Buffer, Framing, read_body, read_head},
    scene::{self, Scene, StreamCheck},
};

/// What each request is sent with; a proxy with teams knows it.
pub const CREDENTIAL: &str = "sk-none";

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub path: String,
}

/// One kind of request, and what must come back.
pub struct Job {
    request: Vec<u8>,
    /// The whole answer, unless it is a stream.
    answer: Vec<u8>,
    scene: Scene,
}

impl Job {
    /// A request of `bytes` bytes of body.
    pub fn new(scene: Scene, bytes: usize, target: &Target) -> Job {
        Job::of(scene, scene::request(scene, bytes), target)
    }

    /// A request with this body.
    pub fn of(scene: Scene, body: Vec<u8>, target: &Target) -> Job {
        let Target { address, path } = target;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: weir-perf\r\n\
            accept: */*\r\nauthorization: Bearer {CREDENTIAL}\r\ncontent-type: application/json\r\n\
            content-length: {}\r\n\r\n",
            body.len()
        );
        let answer = scene::answer(scene::sum(&body));
        Job {
            request: [head.into_bytes(), body].concat(),
            answer,
            scene,
        }
    }

    /// One request and its whole, right answer. Returns how many events came; `sent` is called
    /// with the time at which each was sent.
    pub async fn perform(&self, client: &mut Client, mut sent: impl FnMut(u64)) -> Result<u32> {
        match self.scene {
            Scene::Answer => {
                let mut left = self.answer.as_slice();
                let piece = |piece: &[u8]| {
                    left = left
                        .strip_prefix(piece)
                        .ok_or("not the answer to this request")?;
                    Ok(())
                };
                client.exchange(&self.request, piece).await?;
                if left.is_empty() {
                    Ok(0)
                } else {
                    Err("the answer's end is missing".into())
                }
            }
            Scene::Stream { events, .. } => {
                let mut check = StreamCheck::default();
                let piece = |piece: &[u8]| check.feed(piece, &mut sent);
                client.exchange(&self.request, piece).await?;
                check.finish(events)?;
                Ok(check.events)
            }
        }
    }
}

/// One kept connection.
pub struct Client {
    target: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Buffer,
    /// Connections opened so far; one, unless the proxy closes them.
    pub connects: u64,
}

impl Client {
    pub fn new(target: SocketAddr) -> Client {
        Client {
            target,
            stream: None,
            buffer: Buffer::default(),
            connects: 0,
        }
    }

    /// A question that the proxy answers by itself.
    pub async fn probe(&mut self) -> Result<()> {
        let request = format!("GET /healthz HTTP/1.1\r\nhost: {}\r\n\r\n", self.target);
        self.exchange(request.as_bytes(), |_| Ok(())).await
    }

    async fn exchange(
        &mut self,
        request: &[u8],
        piece: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        stream.write_all(request).await?;
        let head = read_head(&mut stream, &mut self.buffer)
            .await?
            .ok_or("closed unanswered")?;
        if !head.start.starts_with("HTTP/1.1 200 ") || head.framing == Framing::Absent {
            let body = String::from_utf8_lossy(self.buffer.filled());
            return Err(format!("{} ({:?}) {body}", head.start, head.framing).into());
        }
        read_body(&mut stream, &mut self.buffer, head.framing, piece).await?;
        if !self.buffer.filled().is_empty() {
            return Err("bytes after the end of the answer".into());
        }
        self.stream = (!head.close).then_some(stream);
        Ok(())
    }

    async fn connect(&mut self) -> Result<TcpStream> {
        self.connects += 1;
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

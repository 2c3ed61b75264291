//! A model server for hundreds of streams at once. It answers a POST with what it was sent, or, where
//! that asks for a stream, with numbered events until it is told to end them; and it echoes what
//! comes on an upgraded connection.

use super::super::client::{chunk, find};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// The running server. Its connections end with it.
pub struct Model {
    address: SocketAddr,
    /// Streams of batches below this end.
    over: watch::Sender<u64>,
    _runtime: Runtime,
}

/// From one event of a stream to the next.
const PACE: Duration = Duration::from_millis(250);
/// The last event, with the usage that saves weir counting.
const END: &str = "[DONE]";

/// The event with this number of a stream.
pub fn event(stream: u64, number: u64) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":\
         [{{\"index\":0,\"delta\":{{\"content\":\"stream {stream} event {number} \"}},\"finish_reason\":null}}]}}\n\n"
    )
}

/// What comes after all events, given their count.
pub fn ending(count: u64) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":\
         [{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n\
         data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],\
         \"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":{count},\"total_tokens\":{}}}}}\n\n\
         data: {END}\n\n",
        count + 1
    )
}

/// A request for a stream, which ends with its batch.
pub fn stream_request(stream: u64, batch: u64) -> String {
    format!(
        r#"{{"model":"m","stream":true,"stream_options":{{"include_usage":true}},"stream_number":{stream},"batch":{batch}}}"#
    )
}

impl Model {
    /// Starts it on a port of its own.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let bound = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = bound.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (over, end) = watch::channel(0);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let end = end.clone();
                tokio::spawn(async move {
                    let _ = connection(stream, end).await;
                });
            }
        });
        Self {
            address,
            over,
            _runtime: runtime,
        }
    }

    /// Its base URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends the streams of this batch and of all before it.
    pub fn end_batch(&self, batch: u64) {
        self.over.send_modify(|over| *over = (*over).max(batch + 1));
    }
}

async fn connection(mut stream: TcpStream, end: watch::Receiver<u64>) -> std::io::Result<()> {
    let mut ahead = Vec::new();
    loop {
        let length = loop {
            if let Some(at) = find(&ahead, b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut ahead).await? == 0 {
                return Ok(());
            }
        };
        let head: Vec<u8> = ahead.drain(..length).collect();
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        if head.contains("\r\nupgrade:") {
            return echo(stream, ahead).await;
        }
        let length = (head.lines())
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
            .unwrap_or(0);
        while ahead.len() < length {
            if stream.read_buf(&mut ahead).await? == 0 {
                return Ok(());
            }
        }
        let body: Vec<u8> = ahead.drain(..length).collect();
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        if asked["stream"] == true {
            let number = |key: &str| asked[key].as_u64().unwrap_or_default();
            events(&mut stream, number("stream_number"), number("batch"), &end).await?;
            continue;
        }
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        answer.extend(body);
        stream.write_all(&answer).await?;
    }
}

async fn events(
    stream: &mut TcpStream,
    number: u64,
    batch: u64,
    end: &watch::Receiver<u64>,
) -> std::io::Result<()> {
    let mut end = end.clone();
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
              transfer-encoding: chunked\r\n\r\n",
        )
        .await?;
    // Streams that began together don't speak together.
    let mut pause = PACE * u32::try_from(number % 10).unwrap_or_default() / 10;
    let mut count = 0;
    loop {
        let piece = chunk(event(number, count).as_bytes());
        stream.write_all(&piece).await?;
        count += 1;
        let over = tokio::time::timeout(pause, end.wait_for(|over| *over > batch)).await;
        if over.is_ok() {
            break;
        }
        pause = PACE;
    }
    let mut last = chunk(ending(count).as_bytes());
    last.extend(chunk(b""));
    stream.write_all(&last).await
}

/// Answers each message of four bytes with the same, as WebSocket frames (RFC 6455, section 5.2; the
/// client masks with zeros).
async fn echo(mut stream: TcpStream, ahead: Vec<u8>) -> std::io::Result<()> {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
                  connection: upgrade\r\nsec-websocket-accept: x\r\n\r\n";
    stream.write_all(answer.as_bytes()).await?;
    let mut bytes = ahead;
    loop {
        while bytes.len() >= MESSAGE {
            let frame: Vec<u8> = bytes.drain(..MESSAGE).collect();
            stream.write_all(&[0x82, 4]).await?;
            stream.write_all(&frame[MESSAGE - 4..]).await?;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

/// Bytes of a client's frame with four bytes of content.
const MESSAGE: usize = 10;

/// A client's frame with this content.
pub fn message(number: u32) -> [u8; MESSAGE] {
    let [a, b, c, d] = number.to_be_bytes();
    [0x82, 0x84, 0, 0, 0, 0, a, b, c, d]
}

//! A model server that does as little as possible: HTTP/1.1 with kept connections on loopback,
//! where the request's `model` chooses the answer (see [`Scene`]). It prints its address, serves
//! until its standard input closes, and is started by `perf/run`.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    net::SocketAddr,
    sync::mpsc,
    thread,
};

use clap::Parser;
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
};
use weir_perf::{
    Result, exact_timers,
    http::{Buffer, read_body, read_head},
    now_ns,
    scene::{self, Scene},
    sleep_until,
};

const BACKLOG: u32 = 8192;
const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
    cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(Options::parse().listen)?;
    let listener = socket.listen(BACKLOG)?;
    println!("{}", listener.local_addr()?);
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let (slow, arrivals) = mpsc::channel();
    thread::spawn(move || pace(arrivals));
    loop {
        let (stream, _) = listener.accept().await?;
        let slow = slow.clone();
        tokio::spawn(async move {
            // Clients that leave midway are usual; any other mistake shows itself at the generator.
            let _ = serve(stream, slow).await;
        });
    }
}

async fn serve(stream: TcpStream, slow: mpsc::Sender<SlowStream>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let mut buffer = Buffer::default();
    let mut body = Vec::new();
    while read_request(&mut reader, &mut writer, &mut buffer, &mut body).await? {
        match Scene::of(&body) {
            None => writer.write_all(&whole("400 Bad Request", b"{}")).await?,
            Some(Scene::Answer) => {
                let answer = scene::answer(scene::sum(&body));
                writer.write_all(&whole("200 OK", &answer)).await?;
            }
            Some(Scene::Stream {
                events,
                pause_ms: 0,
            }) => {
                writer.write_all(STREAM_HEAD).await?;
                for number in 0..events {
                    let event = scene::content_event(number, now_ns());
                    writer.write_all(&chunk(&event)).await?;
                }
                for event in scene::closing_events(scene::asks_usage(&body)) {
                    writer.write_all(&chunk(&event)).await?;
                }
                writer.write_all(LAST_CHUNK).await?;
            }
            Some(Scene::Stream { events, pause_ms }) => {
                writer.write_all(STREAM_HEAD).await?;
                let first = scene::content_event(0, now_ns());
                writer.write_all(&chunk(&first)).await?;
                let (back, returned) = oneshot::channel();
                slow.send(SlowStream {
                    writer,
                    events,
                    next: 1,
                    pause_ns: pause_ms * 1_000_000,
                    with_usage: scene::asks_usage(&body),
                    unsent: Vec::new(),
                    back,
                })?;
                writer = returned.await?;
            }
        }
    }
    Ok(())
}

/// Reads a request into `body`; false when the client has closed the connection.
async fn read_request(
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
    buffer: &mut Buffer,
    body: &mut Vec<u8>,
) -> Result<bool> {
    let Some(head) = read_head(reader, buffer).await? else {
        return Ok(false);
    };
    if head.expects_continue {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    body.clear();
    read_body(reader, buffer, head.framing, |data| {
        body.extend_from_slice(data);
        Ok(())
    })
    .await?;
    Ok(true)
}

fn whole(status: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn chunk(event: &str) -> Vec<u8> {
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

/// A stream with pauses; one thread drives all of them, so that waiting costs nothing per stream.
struct SlowStream {
    writer: OwnedWriteHalf,
    events: u32,
    next: u32,
    pause_ns: u64,
    with_usage: bool,
    unsent: Vec<u8>,
    /// Gives the connection back to its task when the stream is complete.
    back: oneshot::Sender<OwnedWriteHalf>,
}

/// Writes each event of each slow stream when it is due. A stream whose client left is dropped.
fn pace(arrivals: mpsc::Receiver<SlowStream>) {
    /// How soon a new stream is noticed, and when a full socket is tried again.
    const TURN_NS: u64 = 1_000_000;
    exact_timers();
    let mut waiting = BTreeMap::new();
    let mut arrived = 0_u64;
    loop {
        let idle = waiting.is_empty();
        let first = if idle { arrivals.recv().ok() } else { None };
        for stream in first.into_iter().chain(arrivals.try_iter()) {
            arrived += 1;
            // Multiples of the golden ratio spread the streams evenly over the pause.
            let phase = (arrived as f64 * 0.618_033_988_749_895).fract();
            let due = now_ns() + (stream.pause_ns as f64 * phase) as u64;
            waiting.insert((due, arrived), stream);
        }
        while let Some(entry) = waiting
            .first_entry()
            .filter(|entry| entry.key().0 <= now_ns())
        {
            let ((due, id), mut stream) = entry.remove_entry();
            if stream.advance().is_err() {
                continue;
            }
            if stream.complete() {
                // A task that is gone needs no connection.
                let _ = stream.back.send(stream.writer);
                continue;
            }
            let wait_ns = if stream.unsent.is_empty() {
                stream.pause_ns
            } else {
                TURN_NS
            };
            waiting.insert((due + wait_ns, id), stream);
        }
        if let Some(((due, _), _)) = waiting.first_key_value() {
            sleep_until(*due.min(&(now_ns() + TURN_NS)));
        }
    }
}

impl SlowStream {
    /// Sends the next event, or more of the last one if the socket was full.
    fn advance(&mut self) -> io::Result<()> {
        if self.unsent.is_empty() {
            self.unsent = if self.next < self.events {
                chunk(&scene::content_event(self.next, now_ns()))
            } else {
                let events = scene::closing_events(self.with_usage);
                let chunks = events.iter().flat_map(|event| chunk(event));
                chunks.chain(LAST_CHUNK.iter().copied()).collect()
            };
            self.next += 1;
        }
        match self.writer.try_write(&self.unsent) {
            Ok(sent) => drop(self.unsent.drain(..sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn complete(&self) -> bool {
        self.next > self.events && self.unsent.is_empty()
    }
}

//! A client that behaves, or doesn't, and what it sees.

use super::dice::Dice;
use super::multiplexed;
use super::plan::{Act, Id, Surface, Team, Way};
use super::seen::{Answer, Ending, Seen};
use super::wire::{Finish, Pace, chunk, read_body, read_message, write_slowly};
use crate::Result;
use crate::http::{Buffer, Framing};
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// By then weir has ended any request by its own deadlines, also for a client that stays away a while.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// How long a client stays that doesn't read.
pub(super) const STAY: Duration = Duration::from_secs(12);
/// A client with a kernel buffer as small as this slows its answer down.
const SMALL_BUFFER_BYTES: u32 = 4096;

/// Sends requests to weir.
#[derive(Clone, Copy)]
pub struct User {
    pub weir: SocketAddr,
    pub seed: u32,
}

struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    buffer: Buffer,
}

/// A request as it goes out.
struct Request {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl User {
    /// Performs an act to its end.
    pub async fn perform(&self, act: &Act) -> Vec<Seen> {
        match act.way {
            Way::KeepAlive(requests) => self.one_after_other(act, requests).await,
            Way::Pipeline(requests) => self.pipeline(act, requests).await,
            Way::Together(requests) => self.together(act, requests).await,
            Way::Behave if act.team == Team::Steady => self.insist(act).await,
            _ => {
                let id = Id::of(self.seed, act.number, 0);
                vec![self.one(act, id, &mut None).await]
            }
        }
    }

    /// Some leave, so early that others wait with them.
    async fn together(&self, act: &Act, requests: u64) -> Vec<Seen> {
        let asking = (0..requests).map(|part| {
            let id = Id::of(self.seed, act.number, part);
            let mut dice = Dice::of(id.number, &[10]);
            let way = match dice.percent(20) {
                true => Way::LeaveAfter(dice.pick(&[(0, 1), (10, 1), (40, 1), (300, 1)])),
                false => Way::Behave,
            };
            let (user, act) = (*self, Act { way, ..act.clone() });
            spawn_local(async move { user.one(&act, id, &mut None).await })
        });
        let asking: Vec<_> = asking.collect();
        let mut all = Vec::new();
        for asked in asking {
            // A client that panics is a fault of ours, and its request has a record that nobody awaits.
            all.extend(asked.await);
        }
        all
    }

    /// Does as it is told where weir has no room now, as SDKs do.
    async fn insist(&self, act: &Act) -> Vec<Seen> {
        const TRIES: u64 = 15;
        let mut all = Vec::new();
        for part in 0..TRIES {
            let id = Id::of(self.seed, act.number, part);
            let seen = self.one(act, id, &mut None).await;
            let answer = seen.answer.as_ref();
            let refusal = answer.and_then(|answer| answer.refusal.as_deref());
            let wait = answer.and_then(|answer| answer.retry_after.as_deref()?.parse().ok());
            let again = refusal == Some("overloaded");
            all.push(seen);
            match wait {
                Some(seconds) if again => sleep(Duration::from_secs(seconds)).await,
                _ => break,
            }
        }
        all
    }

    /// One request under this id, on a connection of its own.
    pub async fn ask(&self, act: &Act, id: Id) -> Seen {
        self.one(act, id, &mut None).await
    }

    async fn one_after_other(&self, act: &Act, requests: u64) -> Vec<Seen> {
        let mut all: Vec<Seen> = Vec::new();
        let mut connection = None;
        for part in 0..requests {
            let id = Id::of(self.seed, act.number, part);
            // weir may close a connection that is idle; then nobody has heard of the next one.
            let behind = connection.is_some();
            let mut seen = self.one(act, id, &mut connection).await;
            seen.behind = behind;
            all.push(seen);
        }
        all
    }

    /// One request, on this connection if there is one; it is left there if it can be used again.
    async fn one(&self, act: &Act, id: Id, connection: &mut Option<Connection>) -> Seen {
        let mut seen = self.unseen(act, id);
        let reset = act.reset;
        if act.h2 {
            let asking = multiplexed::exchange(self.weir, act, body(act, id), &mut seen);
            let end = timeout(DEADLINE, asking).await;
            seen.close(end);
            // What was about to go out, and was not, weir hasn't heard.
            seen.reset = seen.ending == Ending::Left;
            return seen;
        }
        let kept = connection.take();
        let done = async {
            let mut open = match kept {
                Some(open) => open,
                None => self.connect(act.way).await?,
            };
            let end = self.exchange(act, &mut open, &mut seen).await;
            if seen.ending == Ending::Left && reset {
                open.writer.as_ref().set_zero_linger()?;
            }
            end.map(|()| open)
        };
        match timeout(DEADLINE, done).await {
            Err(_) => seen.ending = Ending::Late,
            Ok(Err(error)) => seen.ending = Ending::Broke(error.to_string()),
            Ok(Ok(open)) => {
                // Its head couldn't say that the connection ends with a stream that breaks.
                let broke =
                    |answer: &Answer| answer.events.as_ref().is_some_and(|it| it.error.is_some());
                let stays = |answer: &Answer| !answer.closes && !broke(answer);
                if seen.ending == Ending::Whole && seen.answer.as_ref().is_some_and(stays) {
                    *connection = Some(open);
                }
            }
        }
        seen.reset = seen.ending == Ending::Left && reset;
        seen.took = seen.started.elapsed();
        seen
    }

    fn unseen(&self, act: &Act, id: Id) -> Seen {
        Seen {
            id,
            act: act.number,
            surface: act.surface,
            team: act.team,
            model: act.model,
            way: act.way,
            stream: act.stream,
            usage: act.usage,
            head_sent: false,
            reset: false,
            behind: false,
            answer: None,
            ending: Ending::Broke("not connected".into()),
            started: Instant::now(),
            took: Duration::ZERO,
        }
    }

    async fn connect(&self, way: Way) -> Result<Connection> {
        let socket = TcpSocket::new_v4()?;
        if matches!(way, Way::ReadSlowly | Way::StopReading(_)) {
            socket.set_recv_buffer_size(SMALL_BUFFER_BYTES)?;
        }
        let stream: TcpStream = socket.connect(self.weir).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Connection {
            reader,
            writer,
            buffer: Buffer::default(),
        })
    }

    /// Sends one request as its act says, and reads what comes.
    async fn exchange(&self, act: &Act, open: &mut Connection, seen: &mut Seen) -> Result<()> {
        let request = self.request(act, seen.id);
        let Connection {
            reader,
            writer,
            buffer,
        } = open;
        let share = |whole: usize, percent: u64| whole * percent as usize / 100;
        if let Way::LeaveInHead(percent) = act.way {
            let sent = share(request.head.len(), percent).min(request.head.len() - 1);
            writer.write_all(&request.head[..sent]).await?;
            sleep(Duration::from_millis(5)).await;
            seen.ending = Ending::Left;
            return Ok(());
        }
        if act.way == Way::StallInHead {
            writer
                .write_all(&request.head[..request.head.len() / 2])
                .await?;
            return receive(reader, buffer, Pace::default(), seen).await;
        }
        if let Way::LeaveInBody(percent) = act.way {
            writer.write_all(&request.head).await?;
            seen.head_sent = true;
            let sent = share(request.body.len(), percent);
            writer.write_all(&request.body[..sent]).await?;
            sleep(Duration::from_millis(5)).await;
            seen.ending = Ending::Left;
            return Ok(());
        }
        let (pace, stays) = match act.way {
            Way::ReadSlowly => (
                Pace {
                    pause: Duration::from_millis(20),
                    bytes_max: None,
                },
                false,
            ),
            Way::LeaveInAnswer(bytes) => (
                Pace {
                    bytes_max: Some(bytes),
                    ..Pace::default()
                },
                false,
            ),
            Way::StopReading(bytes) => (
                Pace {
                    bytes_max: Some(bytes),
                    ..Pace::default()
                },
                true,
            ),
            _ => (Pace::default(), false),
        };
        let head_sent = Cell::new(false);
        let received = {
            let sending = send(act, &request, writer, &head_sent);
            let receiving = receive(reader, buffer, pace, seen);
            both(act.way, sending, receiving).await
        };
        seen.head_sent = head_sent.get();
        received?;
        if let (Way::LeaveAfter(_), Ending::Broke(_)) = (act.way, &seen.ending) {
            seen.ending = Ending::Left;
        }
        if stays && seen.ending == Ending::Left {
            sleep(STAY).await;
        }
        Ok(())
    }

    async fn pipeline(&self, act: &Act, requests: u64) -> Vec<Seen> {
        let mut all: Vec<Seen> = (0..requests)
            .map(|part| self.unseen(act, Id::of(self.seed, act.number, part)))
            .collect();
        let mut bytes = Vec::new();
        for seen in &mut all {
            let request = self.request(act, seen.id);
            bytes.extend_from_slice(&request.head);
            bytes.extend_from_slice(&request.body);
        }
        let Ok(mut open) = self.connect(act.way).await else {
            return all;
        };
        let Connection {
            reader,
            writer,
            buffer,
        } = &mut open;
        let mut behind = false;
        let reading = async {
            for seen in &mut all {
                seen.head_sent = true;
                seen.behind = std::mem::replace(&mut behind, true);
                let received = timeout(DEADLINE, receive(reader, buffer, Pace::default(), seen));
                match received.await {
                    Err(_) => seen.ending = Ending::Late,
                    Ok(Err(error)) => seen.ending = Ending::Broke(error.to_string()),
                    Ok(Ok(())) => {}
                }
                seen.took = seen.started.elapsed();
            }
        };
        // What can't be written will not be answered.
        let (_, ()) = tokio::join!(writer.write_all(&bytes), reading);
        all
    }

    fn request(&self, act: &Act, id: Id) -> Request {
        let (host, path, key) = (self.weir, act.surface.path(), act.team.key());
        let body = body(act, id);
        let framing = match act.way {
            Way::Chunked => "transfer-encoding: chunked".to_owned(),
            _ => format!("content-length: {}", body.len()),
        };
        let expect = if act.way == Way::Expect {
            "expect: 100-continue\r\n"
        } else {
            ""
        };
        let urgent = act
            .priority
            .map_or_else(String::new, |it| format!("x-weir-priority: {it}\r\n"));
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n\
             x-request-id: {id}\r\ncontent-type: application/json\r\n{urgent}{expect}{framing}\r\n\r\n"
        );
        if act.way == Way::Garbage {
            let mut dice = Dice::of(id.number, &[8]);
            let noise = (0..500).map(|_| dice.below(256) as u8).collect();
            return Request {
                head: noise,
                body: b"\r\n\r\n".into(),
            };
        }
        let body = match act.way {
            Way::Chunked => {
                let mut chunks: Vec<u8> = body.chunks(3000).flat_map(chunk).collect();
                chunks.extend_from_slice(b"0\r\n\r\n");
                chunks
            }
            _ => body,
        };
        Request {
            head: head.into_bytes(),
            body,
        }
    }
}

/// What a request asks for. Model servers look for what stands first in it.
fn body(act: &Act, id: Id) -> Vec<u8> {
    /// Past `limits.body_bytes`.
    const TOO_LARGE_BYTES: usize = 5 << 20;
    let Act { stream, .. } = act;
    let model = if act.way == Way::NoModel {
        "no-such-model"
    } else {
        act.model
    };
    let bytes = if act.way == Way::TooLarge {
        TOO_LARGE_BYTES
    } else {
        act.prompt_bytes
    };
    let prompt = "Let it rain. ".repeat(bytes.div_ceil(13));
    if act.way == Way::NoJson {
        return format!(r#"{{"model":"{model}" "messages":"{prompt}"}}"#).into_bytes();
    }
    let asked = match act.usage && *stream && act.surface == Surface::Chat {
        true => r#""stream_options":{"include_usage":true},"#,
        false => "",
    };
    let text = match act.surface {
        // One of several that become one call is known by its input alone.
        Surface::Embeddings => format!(r#"{{"model":"{model}","input":"{id} {prompt}"}}"#),
        _ => format!(
            r#"{{"model":"{model}","stream":{stream},{asked}"max_tokens":200,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
        ),
    };
    text.into_bytes()
}

/// Sends and reads at the same time: an answer may come to a body that isn't taken. It is over when the
/// answer is, or when its client leaves.
async fn both(
    way: Way,
    sending: impl Future<Output = Result<()>>,
    receiving: impl Future<Output = Result<()>>,
) -> Result<()> {
    tokio::pin!(sending, receiving);
    tokio::select! {
        // What can't be sent may be answered all the same.
        _ = &mut sending => {}
        received = &mut receiving => return received,
    }
    match way {
        Way::LeaveAfter(millis) => {
            let received = timeout(Duration::from_millis(millis), receiving).await;
            received.unwrap_or(Ok(()))
        }
        _ => receiving.await,
    }
}

async fn send(
    act: &Act,
    request: &Request,
    writer: &mut OwnedWriteHalf,
    head_sent: &Cell<bool>,
) -> Result<()> {
    writer.write_all(&request.head).await?;
    head_sent.set(act.way != Way::Garbage);
    match act.way {
        // Servers that don't care about it say nothing; then clients begin anyway.
        Way::Expect => sleep(Duration::from_millis(300)).await,
        Way::StallInBody => {
            writer
                .write_all(&request.body[..request.body.len() / 2])
                .await?;
            return std::future::pending().await;
        }
        Way::SendSlowly => {
            let piece = request.body.len() / 20 + 1;
            return Ok(
                write_slowly(writer, &request.body, piece, Duration::from_millis(50)).await?,
            );
        }
        _ => {}
    }
    writer.write_all(&request.body).await?;
    if act.way == Way::HalfClose {
        writer.shutdown().await?;
    }
    Ok(())
}

/// Reads an answer. An error is a connection or a framing that broke.
async fn receive(
    reader: &mut OwnedReadHalf,
    buffer: &mut Buffer,
    pace: Pace,
    seen: &mut Seen,
) -> Result<()> {
    let message = loop {
        let message = read_message(reader, buffer)
            .await?
            .ok_or("closed unanswered")?;
        match message.status() {
            Some(100..=199) => {}
            Some(_) => break message,
            None => return Err(format!("no status: {}", message.head.start).into()),
        }
    };
    let status = message.status().unwrap_or_default();
    let closes = message.head.close;
    let answer = seen
        .answer
        .insert(Answer::of(status, closes, |name| message.header(name)));
    if pace.bytes_max == Some(0) {
        seen.ending = Ending::Left;
        return Ok(());
    }
    let started = seen.started;
    let take = |piece: &[u8]| answer.take(piece, started);
    let framing = match (message.head.framing, status) {
        // Whatever its head says of one (RFC 9112, section 6.3).
        (_, 204 | 304) => Some(Framing::Absent),
        (Framing::Absent, _) => None,
        (framing, _) => Some(framing),
    };
    // Until the end is there, it isn't.
    seen.ending = Ending::Broke("cut by its client's deadline".into());
    seen.ending = match read_body(reader, buffer, framing, pace, take).await? {
        Finish::Whole => Ending::Whole,
        Finish::Closed => Ending::Closed,
        Finish::Enough => Ending::Left,
    };
    Ok(())
}

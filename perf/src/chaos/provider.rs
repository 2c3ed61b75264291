//! A model server that fails in as many ways as there are [`Fault`]s, and one that never does.

use super::dice::Dice;
use super::fault::{Fault, Weather};
use super::plan::{Id, Surface};
use super::wire::{Message, Pace, chunk, hold, read_body, read_message, write_slowly};
use super::words::{self, Events, Usage};
use super::world::{Served, World};
use crate::Result;
use crate::http::Buffer;
use crate::scene::asks_usage;
use flate2::Compression;
use flate2::write::GzEncoder;
use memchr::memmem;
use serde_json::Value;
use std::cell::Cell;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// Longer than weir waits for anything: a server that hangs has hung for good.
const HUNG: Duration = Duration::from_secs(20);

/// One model server, on a loopback address of its own: while it refuses connections nobody else can
/// get its port.
pub struct Server {
    world: Rc<World>,
    index: usize,
    pub address: SocketAddr,
    /// It never fails.
    steady: bool,
    weather: Cell<Weather>,
    changed: Notify,
}

/// How a connection goes on after an answer.
enum Next {
    Open,
    Close,
    Reset,
}

impl Server {
    /// Starts server `index` of a run.
    pub async fn start(world: &Rc<World>, index: usize, steady: bool) -> Result<Rc<Server>> {
        let listener = TcpListener::bind((format!("127.0.1.{}", index + 1), 0)).await?;
        let server = Rc::new(Server {
            world: Rc::clone(world),
            index,
            address: listener.local_addr()?,
            steady,
            weather: Cell::new(Weather::Fair),
            changed: Notify::new(),
        });
        spawn_local(Rc::clone(&server).live(listener));
        Ok(server)
    }

    /// Goes through the weather; in calm and at a steady server it is fair.
    async fn live(self: Rc<Server>, first: TcpListener) {
        let mut listener = Some(first);
        for window in 0.. {
            let (mut weather, mut time) = Weather::draw(self.world.seed, self.index, window);
            if self.steady || self.world.is_calm() {
                (weather, time) = (Weather::Fair, Duration::from_millis(100));
            } else {
                self.world.weather_came(weather);
            }
            self.weather.set(weather);
            self.changed.notify_waiters();
            if weather == Weather::Refuses {
                listener = None;
            } else if listener.is_none() {
                listener = TcpListener::bind(self.address).await.ok();
            }
            let Some(open) = &listener else {
                sleep(time).await;
                continue;
            };
            let accepting = async {
                while let Ok((stream, _)) = open.accept().await {
                    spawn_local(Rc::clone(&self).serve(stream));
                }
            };
            // The end of the window is the usual end.
            let _ = timeout(time, accepting).await;
        }
    }

    async fn serve(self: Rc<Server>, stream: TcpStream) {
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let (mut reader, mut writer) = stream.into_split();
        let mut buffer = Buffer::default();
        loop {
            // A connection that breaks here is what the other side wanted.
            match self.turn(&mut reader, &mut writer, &mut buffer).await {
                Ok(Next::Open) => {}
                Ok(Next::Reset) => {
                    let _ = writer.as_ref().set_zero_linger();
                    return;
                }
                Ok(Next::Close) | Err(_) => return,
            }
        }
    }

    /// One request and its answer.
    async fn turn(
        &self,
        reader: &mut OwnedReadHalf,
        writer: &mut OwnedWriteHalf,
        buffer: &mut Buffer,
    ) -> Result<Next> {
        if self.weather.get() == Weather::Deaf {
            self.changed.notified().await;
            return Ok(Next::Close);
        }
        let Some(message) = read_message(reader, buffer).await? else {
            return Ok(Next::Close);
        };
        if matches!(self.weather.get(), Weather::Deaf | Weather::Hangs) {
            self.changed.notified().await;
            return Ok(Next::Close);
        }
        if message.head.start.starts_with("GET ") {
            return self.tell_health(writer).await;
        }
        let (id, surface) = addressed(&message).ok_or("a request that isn't of this run")?;
        let round = self.world.round(id, self.index);
        let fault = match self.weather.get() {
            _ if id.muster().is_some() => Fault::None,
            Weather::Storm => Fault::RetryAfterSeconds,
            Weather::Down => Fault::Status(503),
            Weather::Mixed => Fault::draw(self.world.seed, self.index, id, round),
            _ => Fault::None,
        };
        let mut body = Vec::new();
        let unread = [Fault::HangUnread, Fault::EarlyAnswer, Fault::EarlyRefusal];
        if !unread.contains(&fault) {
            if message.head.expects_continue {
                writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            let framing = Some(message.head.framing);
            let keep = |piece: &[u8]| body.extend_from_slice(piece);
            read_body(reader, buffer, framing, Pace::default(), keep).await?;
        }
        let stream = memmem::find(&body, b"\"stream\":true").is_some();
        let members = match surface {
            Surface::Embeddings => members(&body),
            _ => Vec::new(),
        };
        // The first of those who came as one call may have left: it is its name that the call has.
        let members = if members.is_empty() {
            vec![id]
        } else {
            members
        };
        let id = members[0];
        let mut dice = Dice::of(self.world.seed.into(), &[6, id.number, round]);
        let turn = Turn {
            id,
            surface,
            stream,
            asked: asks_usage(&body),
            words: self.world.words(id),
            members: (members.iter())
                .map(|id| (*id, self.world.words(*id)))
                .collect(),
            usage: self.world.usage(id, self.index, round),
            fault: fault.of(stream),
            wait: Duration::from_millis(dice.between(0, 15)),
            pause: Duration::from_millis(dice.pick(&[(0, 2), (2, 2), (10, 1)])),
        };
        let several = members.len() as u64;
        let served = Served {
            shared: (several > 1).then(|| (self.world.next_call(), several)),
            server: self.index,
            fault: turn.fault,
            surface,
            stream,
            usage: turn.usage,
            whole: false,
        };
        let tries: Vec<_> = (members.iter())
            .map(|id| (*id, self.world.begins(*id, served)))
            .collect();
        if let Some((wave, size)) = id.muster() {
            self.world.muster(wave, size).await;
        }
        let (right, next) = turn.answer(reader, writer).await?;
        for (id, number) in tries.into_iter().filter(|_| right) {
            self.world.was_whole(id, number);
        }
        Ok(next)
    }

    /// An answer to weir's own question, as the weather is.
    async fn tell_health(&self, writer: &mut OwnedWriteHalf) -> Result<Next> {
        match self.weather.get() {
            Weather::Down => refuse(writer, 503, "").await?,
            Weather::Storm => refuse(writer, 429, "").await?,
            _ => write_page(writer, 200, "application/json", "", "{}").await?,
        }
        Ok(Next::Open)
    }
}

/// Whose inputs a body has; of one that is no list, nobody's.
fn members(body: &[u8]) -> Vec<Id> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let inputs = body["input"].as_array().into_iter().flatten();
    inputs
        .filter_map(|input| Id::parse(input.as_str()?.split(' ').next()?))
        .collect()
}

fn addressed(message: &Message) -> Option<(Id, Surface)> {
    let id = Id::parse(message.header("x-request-id")?)?;
    let path = message.head.start.split(' ').nth(1)?;
    Some((id, Surface::of(path)?))
}

impl Fault {
    /// As it can happen to a stream, or to an answer that is none.
    fn of(self, stream: bool) -> Fault {
        let streams_only = [
            Fault::EmptyStream,
            Fault::NoEndMark,
            Fault::CutStream,
            Fault::CutInEvent,
            Fault::ErrorInStream,
        ];
        match !stream && streams_only.contains(&self) {
            true => Fault::None,
            false => self,
        }
    }
}

/// One request, and how it is to be answered.
struct Turn {
    id: Id,
    surface: Surface,
    stream: bool,
    /// Usage was asked for in a stream.
    asked: bool,
    words: u64,
    /// Requests that came as one call, each with its words; one, as a rule.
    members: Vec<(Id, u64)>,
    usage: Usage,
    fault: Fault,
    wait: Duration,
    pause: Duration,
}

/// A right answer in its pieces, without framing.
struct Answer {
    media: &'static str,
    pieces: Vec<String>,
}

impl Answer {
    /// A head with more headers, each with its line end.
    fn head(&self, more: &str) -> String {
        let media = self.media;
        format!("HTTP/1.1 200 OK\r\ncontent-type: {media}\r\n{more}\r\n")
    }

    fn body(&self) -> String {
        self.pieces.concat()
    }
}

const CHUNKED: &str = "transfer-encoding: chunked\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Turn {
    fn events(&self) -> Events {
        words::events(self.surface, self.id, self.words, self.usage, self.asked)
    }

    fn right(&self) -> Answer {
        if self.stream {
            let Events {
                mut words,
                closing,
                last,
            } = self.events();
            words.extend(closing);
            words.push(last);
            return Answer {
                media: "text/event-stream",
                pieces: words,
            };
        }
        let body = match &self.members[..] {
            [_] => words::whole(self.surface, self.id, self.words, self.usage),
            several => words::whole_of_several(several, self.usage),
        };
        let (front, back) = body.split_at(body.len() / 2);
        Answer {
            media: "application/json",
            pieces: vec![front.to_owned(), back.to_owned()],
        }
    }

    /// Answers; says whether a whole and right answer went out, and how the connection goes on.
    async fn answer(
        &self,
        reader: &mut OwnedReadHalf,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(bool, Next)> {
        sleep(self.wait).await;
        let answer = self.right();
        let head = answer.head(CHUNKED);
        let half = answer.pieces.len() / 2;
        let in_head = &head.as_bytes()[..head.len() / 2];
        match self.fault {
            Fault::ResetBeforeHead => return Ok((false, Next::Reset)),
            Fault::CloseBeforeHead => return Ok((false, Next::Close)),
            Fault::ResetInHead | Fault::CloseInHead | Fault::HangInHead => {
                writer.write_all(in_head).await?;
                sleep(Duration::from_millis(10)).await;
            }
            Fault::HangAfterHead => writer.write_all(head.as_bytes()).await?,
            Fault::ResetInBody
            | Fault::CloseInBody
            | Fault::HalfCloseInBody
            | Fault::HangInBody
            | Fault::BadChunk => {
                writer.write_all(head.as_bytes()).await?;
                self.pieces(writer, &answer.pieces[..half], self.pause)
                    .await?;
                if self.fault == Fault::BadChunk {
                    writer.write_all(b"xyz\r\nabc\r\n").await?;
                }
                sleep(Duration::from_millis(10)).await;
            }
            Fault::SlowHead => {
                sleep(self.wait * 40 + Duration::from_millis(200)).await;
                return self.well(writer, &answer, self.pause).await;
            }
            Fault::SlowBody => {
                let pause = self.pause * 5 + Duration::from_millis(30);
                return self.well(writer, &answer, pause).await;
            }
            Fault::TrickleHead => {
                write_slowly(writer, head.as_bytes(), 1, Duration::from_secs(1)).await?;
            }
            Fault::TrickleBody => {
                writer.write_all(head.as_bytes()).await?;
                let body = self.chunked(&answer.pieces);
                write_slowly(writer, &body, 1, Duration::from_secs(1)).await?;
            }
            Fault::Garbage => {
                let mut dice = Dice::of(self.id.number, &[7]);
                let noise: Vec<u8> = (0..2000).map(|_| dice.below(256) as u8).collect();
                writer.write_all(&noise).await?;
            }
            Fault::LengthTooLong | Fault::LengthTooShort | Fault::LengthAndChunks => {
                return self.lie(writer, &answer).await;
            }
            Fault::UntilClose => {
                writer
                    .write_all(answer.head("connection: close\r\n").as_bytes())
                    .await?;
                writer.write_all(answer.body().as_bytes()).await?;
                return Ok((true, Next::Close));
            }
            Fault::BodyWith204 => {
                let text = "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello";
                writer.write_all(text.as_bytes()).await?;
            }
            Fault::Unasked101 => {
                let text = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chaos\r\n\r\nhello";
                writer.write_all(text.as_bytes()).await?;
                hold(reader, HUNG).await;
            }
            Fault::Continue100 => {
                writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                return self.well(writer, &answer, self.pause).await;
            }
            Fault::Flood1xx => {
                let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100);
                for _ in 0..30 {
                    writer.write_all(hints.as_bytes()).await?;
                    tokio::task::yield_now().await;
                }
                return self.well(writer, &answer, self.pause).await;
            }
            Fault::HugeHead | Fault::ManyHeaders => {
                let more = match self.fault {
                    Fault::HugeHead => format!("x-huge: {}\r\n", "h".repeat(1 << 20)),
                    _ => (0..2000)
                        .map(|number| format!("x-{number}: {number}\r\n"))
                        .collect(),
                };
                writer
                    .write_all(answer.head(&(more + CHUNKED)).as_bytes())
                    .await?;
                writer.write_all(&self.chunked(&answer.pieces)).await?;
                writer.write_all(LAST_CHUNK).await?;
                return Ok((true, Next::Open));
            }
            Fault::GzipBomb => {
                let bomb = gzip_bomb()?;
                let length = bomb.len();
                let more = format!("content-encoding: gzip\r\ncontent-length: {length}\r\n");
                writer.write_all(answer.head(&more).as_bytes()).await?;
                writer.write_all(&bomb).await?;
                return Ok((false, Next::Open));
            }
            Fault::Endless => {
                writer.write_all(head.as_bytes()).await?;
                let piece = match self.stream {
                    true => answer.pieces[0].repeat(20),
                    false => " ".repeat(4096),
                };
                loop {
                    writer.write_all(&chunk(piece.as_bytes())).await?;
                    sleep(Duration::from_millis(10)).await;
                }
            }
            Fault::EarlyAnswer => {
                let well = self.well(writer, &answer, self.pause).await?;
                sleep(Duration::from_millis(20)).await;
                return Ok((well.0, Next::Close));
            }
            Fault::EarlyRefusal => {
                refuse(writer, 413, "").await?;
                sleep(Duration::from_millis(20)).await;
            }
            Fault::RetryAfterSeconds => {
                refuse(writer, 429, "retry-after: 1\r\n").await?;
                return Ok((false, Next::Open));
            }
            Fault::RetryAfterDate => {
                let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
                refuse(writer, 429, &format!("retry-after: {date}\r\n")).await?;
                return Ok((false, Next::Open));
            }
            Fault::Status(status) => {
                refuse(writer, status, "").await?;
                return Ok((false, Next::Open));
            }
            Fault::Html502 | Fault::Html200 => {
                let status = if self.fault == Fault::Html200 {
                    200
                } else {
                    502
                };
                let page = "<html><body><h1>Something</h1></body></html>";
                write_page(writer, status, "text/html", "", page).await?;
                return Ok((false, Next::Open));
            }
            Fault::EmptyStream
            | Fault::NoEndMark
            | Fault::CutStream
            | Fault::CutInEvent
            | Fault::ErrorInStream => return self.end_badly(writer, &answer).await,
            Fault::HangUnread => {
                sleep(HUNG).await;
                return Ok((false, Next::Reset));
            }
            Fault::HangBeforeHead => {}
            Fault::SecondAnswer => {
                let more = forged();
                return self
                    .well_and(writer, &answer, self.pause, more.as_bytes())
                    .await;
            }
            Fault::CloseAfterAnswer => {
                let (right, _) = self.well(writer, &answer, self.pause).await?;
                return Ok((right, Next::Close));
            }
            Fault::None => return self.well(writer, &answer, self.pause).await,
        }
        let next = match self.fault {
            Fault::ResetInHead | Fault::ResetInBody => Next::Reset,
            Fault::HalfCloseInBody => {
                writer.shutdown().await?;
                hold(reader, HUNG).await;
                Next::Close
            }
            Fault::HangBeforeHead
            | Fault::HangInHead
            | Fault::HangAfterHead
            | Fault::HangInBody => {
                hold(reader, HUNG).await;
                Next::Close
            }
            _ => Next::Close,
        };
        Ok((false, next))
    }

    /// A right answer.
    async fn well(
        &self,
        writer: &mut OwnedWriteHalf,
        answer: &Answer,
        pause: Duration,
    ) -> Result<(bool, Next)> {
        self.well_and(writer, answer, pause, b"").await
    }

    /// A right answer, and more bytes with its end.
    async fn well_and(
        &self,
        writer: &mut OwnedWriteHalf,
        answer: &Answer,
        pause: Duration,
        more: &[u8],
    ) -> Result<(bool, Next)> {
        if self.stream {
            writer.write_all(answer.head(CHUNKED).as_bytes()).await?;
            self.pieces(writer, &answer.pieces, pause).await?;
            // What comes with the end can be seen before the connection is used again.
            writer.write_all(&[LAST_CHUNK, more].concat()).await?;
        } else {
            let length = format!("content-length: {}\r\n", answer.body().len());
            writer.write_all(answer.head(&length).as_bytes()).await?;
            let (front, back) = (&answer.pieces[0], &answer.pieces[1]);
            writer.write_all(front.as_bytes()).await?;
            sleep(pause).await;
            writer.write_all(&[back.as_bytes(), more].concat()).await?;
        }
        Ok((true, Next::Open))
    }

    async fn pieces(
        &self,
        writer: &mut OwnedWriteHalf,
        pieces: &[String],
        pause: Duration,
    ) -> Result<()> {
        for piece in pieces {
            writer.write_all(&chunk(piece.as_bytes())).await?;
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
        Ok(())
    }

    fn chunked(&self, pieces: &[String]) -> Vec<u8> {
        pieces
            .iter()
            .flat_map(|piece| chunk(piece.as_bytes()))
            .collect()
    }

    /// A length that isn't the body's.
    async fn lie(&self, writer: &mut OwnedWriteHalf, answer: &Answer) -> Result<(bool, Next)> {
        let body = answer.body();
        let (more, body) = match self.fault {
            Fault::LengthTooLong => (
                format!("content-length: {}\r\n", body.len() + 10),
                body.into(),
            ),
            Fault::LengthTooShort => (
                format!("content-length: {}\r\n", body.len() / 2),
                body.into(),
            ),
            _ => {
                let body = [self.chunked(&answer.pieces), LAST_CHUNK.into()].concat();
                (format!("content-length: 5\r\n{CHUNKED}"), body)
            }
        };
        writer.write_all(answer.head(&more).as_bytes()).await?;
        writer.write_all(&body).await?;
        sleep(Duration::from_millis(10)).await;
        Ok((false, Next::Close))
    }

    /// A stream that ends in good form, and not as a stream should.
    async fn end_badly(
        &self,
        writer: &mut OwnedWriteHalf,
        answer: &Answer,
    ) -> Result<(bool, Next)> {
        writer.write_all(answer.head(CHUNKED).as_bytes()).await?;
        let Events {
            words,
            closing,
            last,
        } = self.events();
        let half = words.len() / 2;
        let half_an_event = &words[half][..words[half].len() / 2];
        let error = words::error_event(self.surface);
        let pieces: Vec<String> = match self.fault {
            Fault::EmptyStream => Vec::new(),
            Fault::NoEndMark => [words, closing].concat(),
            Fault::CutInEvent => [&words[..half], &[half_an_event.to_owned()]].concat(),
            Fault::ErrorInStream if self.words.is_multiple_of(2) => {
                [&words[..half], &[error, last]].concat()
            }
            Fault::ErrorInStream => [&words[..half], &[error]].concat(),
            _ => words[..half].to_vec(),
        };
        self.pieces(writer, &pieces, self.pause).await?;
        writer.write_all(LAST_CHUNK).await?;
        Ok((false, Next::Open))
    }
}

async fn refuse(writer: &mut OwnedWriteHalf, status: u16, more: &str) -> Result<()> {
    let body = r#"{"error":{"message":"no","type":"chaos","param":null,"code":"chaos"}}"#;
    write_page(writer, status, "application/json", more, body).await
}

async fn write_page(
    writer: &mut OwnedWriteHalf,
    status: u16,
    media: &str,
    more: &str,
    body: &str,
) -> Result<()> {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} Chaos\r\ncontent-type: {media}\r\ncontent-length: {length}\r\n{more}\r\n{body}"
    );
    Ok(writer.write_all(text.as_bytes()).await?)
}

/// An answer that nobody asked for.
fn forged() -> String {
    let body = r#"{"forged":true}"#;
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

/// 64 MiB of nothing in 64 KiB.
fn gzip_bomb() -> Result<Vec<u8>> {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..64 {
        bomb.write_all(&vec![0; 1 << 20])?;
    }
    Ok(bomb.finish()?)
}

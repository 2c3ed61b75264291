//! What a model server can do wrong, one fault at a time: [`Fault::provider`] does it to each request.

use super::DEADLINE;
use super::gate::Gate;
use super::provider::{Exchange, Provider, reset};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

/// What a model server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nobody listens.
    Refuse,
    /// Connections are never taken: the kernel's queue is full.
    ConnectHangs,
    /// The connection is reset before the request is read.
    ResetAtConnect,
    /// The connection is reset instead of an answer.
    ResetBeforeHead,
    /// The connection is closed instead of an answer.
    CloseBeforeHead,
    /// The connection is reset in the answer's head.
    ResetInHead,
    /// The connection is closed in the answer's head.
    CloseInHead,
    /// Silence instead of an answer.
    Silent,
    /// Only our side of the connection is closed, instead of an answer.
    HalfCloseBeforeHead,
    /// Silence in the answer's head.
    SilentInHead,
    /// The answer's head comes byte by byte and never ends.
    TrickledHead,
    /// Bytes that are no HTTP.
    Garbage,
    /// A version of HTTP that there isn't.
    StrangeVersion,
    /// `content-length` isn't a number.
    LengthIsNoNumber,
    /// Two different lengths.
    TwoLengths,
    /// `100 Continue` and the like without end.
    InterimFlood,
    /// A head of more than a megabyte.
    GiganticHead,
    /// A head of very many fields.
    ManyHeaders,
    /// 429 with `Retry-After` in seconds.
    ThrottledSeconds,
    /// 429 with `Retry-After` as a date.
    ThrottledDate,
    /// 503 with `Retry-After`.
    Unavailable,
    /// 500 as JSON.
    InternalError,
    /// 502 as an HTML page.
    HtmlError,
    /// 401: the account isn't known.
    Unauthorized,
    /// 402: the account has no money.
    PaymentRequired,
    /// 413 as soon as the head has come; the request's body is never read.
    EarlyAnswer,
    /// The answer's head, then silence.
    SilentAfterHead,
    /// Silence in the middle of a body with a length.
    SilentInBody,
    /// The body comes byte by byte.
    TrickledBody,
    /// What may stand behind a chunk's size comes byte by byte and never ends.
    TrickledChunkHead,
    /// The body ends before its length.
    LengthTooLong,
    /// A chunk without a size.
    MalformedChunk,
    /// The connection is closed between two chunks.
    CloseBetweenChunks,
    /// Spaces, compressed to a thousandth: [`BOMB_BYTES`].
    GzipBomb,
    /// A stream: an event, then silence.
    SilentStream,
    /// A stream: an event, then a reset.
    ResetInStream,
    /// A stream: comments without end, and never an event.
    OnlyComments,
    /// A stream without end.
    EndlessStream,
    /// A stream: an event without end.
    EndlessEvent,
    /// A stream without an event.
    EmptyStream,
    /// A stream: an error in place of the rest, status 200.
    ErrorInStream,
    /// A stream: an error and nothing else, status 200.
    ErrorFirstInStream,
    /// A stream that is whole but for `[DONE]`.
    NoDone,
    /// `100 Continue` though nobody asked, then the answer.
    UnaskedContinue,
    /// The answer, then our side of the connection is closed.
    HalfClose,
    /// More bytes than the answer's length, in one piece with it.
    LengthTooShort,
    /// A second answer in one piece with the first.
    TwoAnswers,
    /// Something is said on a connection that nobody waits on.
    Unsolicited,
}

/// How far a fault lets an answer come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// No answer: there is no connection, no head, or none that could be understood.
    Nothing,
    /// A status that isn't 2xx, whole.
    Refusal,
    /// A good head; what follows is wrong.
    Head,
    /// An answer that is whole. Only what comes after it, or before, is wrong.
    Whole,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 48] = [
        Self::Refuse,
        Self::ConnectHangs,
        Self::ResetAtConnect,
        Self::ResetBeforeHead,
        Self::CloseBeforeHead,
        Self::ResetInHead,
        Self::CloseInHead,
        Self::Silent,
        Self::HalfCloseBeforeHead,
        Self::SilentInHead,
        Self::TrickledHead,
        Self::Garbage,
        Self::StrangeVersion,
        Self::LengthIsNoNumber,
        Self::TwoLengths,
        Self::InterimFlood,
        Self::GiganticHead,
        Self::ManyHeaders,
        Self::ThrottledSeconds,
        Self::ThrottledDate,
        Self::Unavailable,
        Self::InternalError,
        Self::HtmlError,
        Self::Unauthorized,
        Self::PaymentRequired,
        Self::EarlyAnswer,
        Self::SilentAfterHead,
        Self::SilentInBody,
        Self::TrickledBody,
        Self::TrickledChunkHead,
        Self::LengthTooLong,
        Self::MalformedChunk,
        Self::CloseBetweenChunks,
        Self::GzipBomb,
        Self::SilentStream,
        Self::ResetInStream,
        Self::OnlyComments,
        Self::EndlessStream,
        Self::EndlessEvent,
        Self::EmptyStream,
        Self::ErrorInStream,
        Self::ErrorFirstInStream,
        Self::NoDone,
        Self::UnaskedContinue,
        Self::HalfClose,
        Self::LengthTooShort,
        Self::TwoAnswers,
        Self::Unsolicited,
    ];

    /// How far an answer comes.
    pub fn reach(self) -> Reach {
        match self as usize {
            n if n <= Self::ManyHeaders as usize => Reach::Nothing,
            n if n <= Self::EarlyAnswer as usize => Reach::Refusal,
            n if n <= Self::ErrorFirstInStream as usize => Reach::Head,
            _ => Reach::Whole,
        }
    }

    /// It is an answer that streams, and concerns requests for one.
    pub fn streams(self) -> bool {
        let n = self as usize;
        (Self::SilentStream as usize..=Self::NoDone as usize).contains(&n)
    }

    /// It keeps the connection to itself: there is no end of what it says, or of its silence.
    pub fn hangs(self) -> bool {
        matches!(
            self,
            Self::ConnectHangs
                | Self::Silent
                | Self::SilentInHead
                | Self::TrickledHead
                | Self::InterimFlood
                | Self::EarlyAnswer
                | Self::SilentAfterHead
                | Self::SilentInBody
                | Self::TrickledBody
                | Self::TrickledChunkHead
                | Self::SilentStream
                | Self::OnlyComments
                | Self::EndlessStream
                | Self::EndlessEvent
        )
    }

    /// It shows only where the request is larger than what sockets buffer.
    pub fn wants_large_request(self) -> bool {
        self == Self::EarlyAnswer
    }

    /// A model server that does it to each request.
    pub fn provider(self) -> Provider {
        self.provider_until(&Gate::new())
    }

    /// A model server that does it to each request, and is healthy once the gate is open.
    pub fn provider_until(self, healed: &Gate) -> Provider {
        if self == Self::GzipBomb {
            bomb();
        }
        let gate = healed.clone();
        let script = move |exchange: &mut Exchange| {
            if !exchange.read_body() {
                return;
            }
            exchange.record();
            if gate.is_open() {
                return healthy(exchange);
            }
            self.happens(exchange);
        };
        let gate = healed.clone();
        match self {
            Self::Refuse => Provider::start_late(healed, false, script),
            Self::ConnectHangs => Provider::start_late(healed, true, script),
            Self::ResetAtConnect => Provider::start_at_connection(
                move |stream| {
                    if gate.is_open() {
                        return Some(stream);
                    }
                    reset(&stream);
                    None
                },
                script,
            ),
            Self::EarlyAnswer => Provider::start_at_connection(
                move |stream| {
                    if gate.is_open() {
                        return Some(stream);
                    }
                    answer_unread(stream, &gate);
                    None
                },
                script,
            ),
            _ => Provider::start_at_head(script),
        }
    }

    fn happens(self, exchange: &mut Exchange) {
        match self {
            // They happened before there was a request.
            Self::Refuse | Self::ConnectHangs | Self::ResetAtConnect | Self::EarlyAnswer => {}
            Self::ResetBeforeHead => exchange.reset(),
            Self::CloseBeforeHead => exchange.close(),
            Self::ResetInHead => {
                exchange.raw("HTTP/1.1 200 OK\r\ncontent-ty");
                exchange.reset();
            }
            Self::CloseInHead => {
                exchange.raw("HTTP/1.1 200 OK\r\ncontent-ty");
                exchange.close();
            }
            Self::Silent => hold(exchange),
            Self::HalfCloseBeforeHead => {
                exchange.half_close();
                hold(exchange);
            }
            Self::SilentInHead => {
                exchange.raw("HTTP/1.1 200 OK\r\ncontent-ty");
                hold(exchange);
            }
            Self::TrickledHead => {
                exchange.raw("HTTP/1.1 200 OK\r\nx: ");
                trickle(exchange, b"x");
            }
            Self::Garbage => {
                exchange.raw([0xff_u8; 512]);
                hold(exchange);
            }
            Self::StrangeVersion => {
                exchange.raw("HTTP/9.9 200 OK\r\ncontent-length: 2\r\n\r\n{}");
                hold(exchange);
            }
            Self::LengthIsNoNumber => {
                exchange.raw("HTTP/1.1 200 OK\r\ncontent-length: 2x\r\n\r\n{}");
                hold(exchange);
            }
            Self::TwoLengths => {
                exchange
                    .raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}\n");
                hold(exchange);
            }
            Self::InterimFlood => {
                while exchange.raw("HTTP/1.1 102 Processing\r\n\r\n") {}
                exchange.close();
            }
            Self::GiganticHead => {
                exchange.raw("HTTP/1.1 200 OK\r\nx: ");
                let piece = [b'x'; 1 << 16];
                for _ in 0..32 {
                    if !exchange.raw(piece) {
                        break;
                    }
                }
                exchange.raw("\r\ncontent-length: 0\r\n\r\n");
                hold(exchange);
            }
            Self::ManyHeaders => {
                let many: String = (0..1000).map(|n| format!("x-{n}: 1\r\n")).collect();
                exchange.raw(format!(
                    "HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n"
                ));
                hold(exchange);
            }
            Self::ThrottledSeconds => {
                let seconds = RETRY_AFTER_SECS.to_string();
                refuse(exchange, 429, &[("retry-after", &seconds)]);
            }
            Self::ThrottledDate => {
                let due = chrono::Utc::now() + Duration::from_secs(RETRY_AFTER_SECS);
                let date = due.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
                refuse(exchange, 429, &[("retry-after", &date)]);
            }
            Self::Unavailable => refuse(exchange, 503, &[("retry-after", "1")]),
            Self::InternalError => refuse(exchange, 500, &[]),
            Self::HtmlError => {
                let page = b"<html><head><title>502 Bad Gateway</title></head></html>";
                exchange.answer(502, &[("content-type", "text/html")], page);
            }
            Self::Unauthorized => refuse(exchange, 401, &[]),
            Self::PaymentRequired => refuse(exchange, 402, &[]),
            Self::SilentAfterHead => {
                json_head(exchange, ANSWER.len());
                hold(exchange);
            }
            Self::SilentInBody => {
                json_head(exchange, ANSWER.len());
                exchange.raw(&ANSWER[..20]);
                hold(exchange);
            }
            Self::TrickledBody => {
                json_head(exchange, 1 << 20);
                trickle(exchange, b" ");
            }
            Self::TrickledChunkHead => {
                json_chunks(exchange);
                exchange.chunk(&ANSWER[..20]);
                exchange.raw("1;");
                trickle(exchange, b"x");
            }
            Self::LengthTooLong => {
                json_head(exchange, ANSWER.len() + 100);
                exchange.raw(ANSWER);
                exchange.close();
            }
            Self::MalformedChunk => {
                json_chunks(exchange);
                exchange.chunk(&ANSWER[..20]);
                exchange.raw("zz\r\nxx\r\n");
                hold(exchange);
            }
            Self::CloseBetweenChunks => {
                json_chunks(exchange);
                exchange.chunk(&ANSWER[..20]);
                exchange.close();
            }
            Self::GzipBomb => exchange.answer(
                200,
                &[
                    ("content-type", "application/json"),
                    ("content-encoding", "gzip"),
                ],
                bomb(),
            ),
            Self::SilentStream => {
                exchange.stream();
                exchange.event(ONE);
                hold(exchange);
            }
            Self::ResetInStream => {
                exchange.stream();
                exchange.event(ONE);
                exchange.wait_taken();
                exchange.reset();
            }
            Self::OnlyComments => {
                exchange.stream();
                while exchange.chunk(": PROCESSING\n\n") {
                    std::thread::sleep(PAUSE);
                }
                exchange.close();
            }
            Self::EndlessStream => {
                exchange.stream();
                while exchange.event(ONE) {
                    std::thread::sleep(PAUSE);
                }
                exchange.close();
            }
            Self::EndlessEvent => {
                exchange.stream();
                exchange.chunk("data: ");
                let piece = [b'x'; 1 << 16];
                while exchange.chunk(piece) {}
                exchange.close();
            }
            Self::EmptyStream => {
                exchange.stream();
                exchange.end();
            }
            Self::ErrorInStream => {
                exchange.stream();
                exchange.event(ONE);
                exchange.event(ERROR);
                exchange.end();
            }
            Self::ErrorFirstInStream => {
                exchange.stream();
                exchange.event(ERROR);
                exchange.end();
            }
            Self::NoDone => {
                exchange.stream();
                exchange.event(ONE);
                exchange.event(FINISH);
                exchange.end();
            }
            Self::UnaskedContinue => {
                exchange.raw("HTTP/1.1 100 Continue\r\n\r\n");
                healthy(exchange);
            }
            Self::HalfClose => {
                healthy(exchange);
                exchange.half_close();
                hold(exchange);
            }
            Self::LengthTooShort => {
                exchange.raw(whole(ANSWER) + "and more");
            }
            Self::TwoAnswers => {
                exchange.raw(whole(ANSWER) + &whole(r#"{"second":"answer"}"#));
            }
            Self::Unsolicited => {
                healthy(exchange);
                // By then the answer has gone on to its client.
                std::thread::sleep(PAUSE * 5);
                exchange.raw(whole(r#"{"nobody":"asked"}"#));
            }
        }
    }
}

/// What a healthy model server answers to a request that doesn't stream.
pub const ANSWER: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"one"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;
/// The first event of a healthy stream.
pub const ONE: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"one"},"finish_reason":null}]}"#;
const FINISH: &str = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
/// What a model server says that breaks in its stream, in OpenAI's shape.
pub const ERROR: &str =
    r#"{"error":{"message":"The engine died.","type":"server_error","param":null,"code":null}}"#;

/// What [`Fault::ThrottledSeconds`] and [`Fault::ThrottledDate`] say.
pub const RETRY_AFTER_SECS: u64 = 7;

/// What [`Fault::GzipBomb`] unpacks to.
pub const BOMB_BYTES: usize = 64 << 20;

/// Between two bytes that trickle, and between two events of a stream without end.
const PAUSE: Duration = Duration::from_millis(20);

/// Answers as it should be, with a stream where one is asked for.
pub fn healthy(exchange: &mut Exchange) {
    let streams = exchange.request.text().contains("\"stream\":true");
    if !streams {
        return exchange.json(200, ANSWER);
    }
    exchange.stream();
    for event in [ONE, FINISH, "[DONE]"] {
        exchange.event(event);
    }
    exchange.end();
}

/// Leaves the connection as it is until the other side ends it.
fn hold(exchange: &mut Exchange) {
    exchange.wait_end();
    exchange.close();
}

/// Sends the same byte again and again, until the other side ends the connection.
fn trickle(exchange: &mut Exchange, byte: &[u8; 1]) {
    while exchange.raw(byte) {
        std::thread::sleep(PAUSE);
    }
    exchange.close();
}

fn refuse(exchange: &mut Exchange, status: u16, headers: &[(&str, &str)]) {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    let body = r#"{"error":{"message":"No.","type":"server_error","param":null,"code":null}}"#;
    exchange.answer(status, &all, body.as_bytes());
}

fn json_head(exchange: &mut Exchange, length: usize) {
    let length = length.to_string();
    let headers = [
        ("content-type", "application/json"),
        ("content-length", &length),
    ];
    exchange.head(200, &headers);
}

fn json_chunks(exchange: &mut Exchange) {
    let headers = [
        ("content-type", "application/json"),
        ("transfer-encoding", "chunked"),
    ];
    exchange.head(200, &headers);
}

fn whole(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads a request's head, answers, and reads nothing more until the gate is open.
fn answer_unread(mut stream: TcpStream, healed: &Gate) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let body = r#"{"error":{"message":"Too long.","type":"invalid_request_error","param":null,"code":null}}"#;
    let answer = format!(
        "HTTP/1.1 413 Payload Too Large\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes());
    healed.opens_within(DEADLINE);
}

/// 64 megabytes of spaces in 64 kilobytes. Made once: it takes its time.
fn bomb() -> &'static [u8] {
    static BOMB: OnceLock<Vec<u8>> = OnceLock::new();
    BOMB.get_or_init(|| {
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let spaces = vec![b' '; 1 << 20];
        for _ in 0..BOMB_BYTES / spaces.len() {
            bomb.write_all(&spaces).expect("a vector takes it");
        }
        bomb.finish().expect("a vector takes it")
    })
}

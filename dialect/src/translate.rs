//! From the client's API to the provider's, and back: which pairs there are, and what carries an
//! answer over.
//!
//! ```text
//! client's body ─ request_in ─▶ ir::Chat ─ request_out ─▶ upstream's body, path, headers
//! upstream's answer ─ framer ─ answer_in (Reads) ─▶ ir::Event ─ answer_out (Writes) ─▶ client's answer
//! ```
//!
//! Sans-IO. The proxy asks [`request`] once for each try, and feeds the answer to the
//! [`Translator`] that came with it.

use std::fmt::Debug;

use bytes::Bytes;

use crate::framing::Framer;
use crate::grpc;
use crate::ir::{Chat, Embed, Embedded, Event, Failure, FailureKind, Fit, Unfit};
use crate::provider::{Dialect, Provider};
use crate::surface::{Form, Surface};
use crate::{eventstream, sse};

/// What a client asks, as the proxy knows it.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub surface: Surface,
    /// The client's path, without its query.
    pub path: &'a str,
    /// Its query, if it has one.
    pub query: Option<&'a str>,
    /// The body, decompressed.
    pub body: &'a [u8],
    /// The request's id: ids that the client's dialect needs and the upstream doesn't give are made of it.
    pub id: &'a str,
    /// Seconds since 1970.
    pub now: u64,
    /// The model as the client named it: what its answer says, where the upstream says nothing.
    pub model: &'a str,
}

/// Where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub provider: &'a Provider,
    /// The model as the provider knows it.
    pub model: &'a str,
    /// The path of the base URL, without a `/` at its end: `/v1`, or empty.
    pub base: &'a str,
    /// What can't be expressed is dropped and listed.
    pub lenient: bool,
    /// Where usage must be asked for, it is: some servers refuse that.
    pub ask_usage: bool,
}

/// The upstream's request, and how its answer comes back.
#[derive(Debug)]
pub struct Translated {
    /// The whole path, the base URL's included, encoded.
    pub path: String,
    pub query: Option<String>,
    pub body: Bytes,
    /// Headers that the API needs.
    pub headers: Vec<(&'static str, String)>,
    /// What the upstream's answer is, for the meter.
    pub surface: Surface,
    /// What was left out, in the client's words.
    pub dropped: Vec<String>,
    /// Where what meters can't read the upstream's answer: makes it one of `surface` before. How it ended
    /// is known by other means than its bytes, and told by [`Translator::end`] or [`Translator::fails`].
    pub first: Option<Translator>,
    pub answer: Translator,
}

/// A request as it goes to an upstream: what the `request_out` of a dialect makes.
#[derive(Debug)]
pub struct Outgoing {
    pub path: String,
    pub query: Option<String>,
    pub body: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
    pub surface: Surface,
    /// Reads the answer.
    pub reader: Box<dyn Reads>,
}

/// Reads what an upstream answers.
///
/// The surface's table says where text and usage are for the meter; this reads all that a client may
/// want. Bytes that make no sense are a [`Failure`], as is an error that the upstream tells in the
/// middle of a stream ([`Event::Failed`]); unknown members and types of events are passed over.
pub trait Reads: Debug + Send + Sync {
    /// One event of a stream: of server-sent events its name (empty without one) and its data; of
    /// NDJSON a line; of Amazon's event stream the type and the payload. Not called with `[DONE]`, which is
    /// [`Event::End`].
    ///
    /// # Errors
    /// When it can't be read: the answer is broken.
    fn event(
        &mut self,
        name: &[u8],
        data: &[u8],
        to: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Failure>;

    /// A whole answer with a 2xx status, with its `Start` and `End`.
    ///
    /// # Errors
    /// When it can't be read.
    fn whole(&mut self, body: &[u8], to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure>;

    /// The stream is over: what is owed, if anything. A stream without [`Event::End`] before is taken
    /// for cut, unless this gives it.
    fn end(&mut self, to: &mut dyn FnMut(Event<'_>)) {
        let _ = to;
    }

    /// Bytes of the answer that it holds back.
    fn bytes(&self) -> usize {
        0
    }

    /// What an answer with an error status says.
    fn failure(&self, status: u16, body: &[u8]) -> Failure;

    /// A whole answer to a request for embeddings.
    ///
    /// # Errors
    /// When it can't be read, or isn't one.
    fn embedded(&mut self, body: &[u8]) -> Result<Embedded, Failure> {
        let _ = body;
        Err(unreadable("it is no answer to a request for embeddings"))
    }
}

/// Writes the answer that a client gets.
pub trait Writes: Debug + Send + Sync {
    /// One event of a stream, framed. [`Event::End`] is followed by the dialect's last word.
    fn event(&mut self, event: Event<'_>, out: &mut Vec<u8>);

    /// A whole answer. None of the events is [`Event::Failed`].
    fn whole(&mut self, events: Vec<Event<'static>>) -> Vec<u8>;

    /// An error as a whole answer: its status and body.
    fn failure(&self, failure: &Failure) -> (u16, Vec<u8>);

    /// Bytes of the answer that it holds: what it can't write yet, or must say again at the end.
    fn bytes(&self) -> usize {
        0
    }

    /// The answer to a request for embeddings.
    fn embedded(&mut self, embedded: Embedded) -> Vec<u8> {
        let _ = embedded;
        Vec::new()
    }

    /// The form of its streams.
    fn stream_form(&self) -> Form {
        Form::Events
    }
}

/// What an answer is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Stream,
    Whole,
    Embedded,
}

/// Carries one answer over. Any cut of the bytes gives the same result. Holds at most one event of a
/// stream, or the whole of an answer that isn't one.
#[derive(Debug)]
pub struct Translator {
    reader: Box<dyn Reads>,
    writer: Box<dyn Writes>,
    wanted: Wanted,
    /// Known from the answer's head: how its events end; `None` of a body.
    framer: Option<Framer>,
    /// The beginning of an event, or of a body.
    held: Vec<u8>,
    /// What is collected for a client that wants it whole.
    events: Vec<Event<'static>>,
    /// What those events take.
    collected: usize,
    ended: bool,
    failed: Option<Failure>,
}

/// An event or body that is longer is no answer that weir translates.
pub const HELD_BYTES_MAX: usize = 64 << 20;
/// The room for held events that is kept between them.
const HELD_BYTES_KEPT_MAX: usize = 4096;

// === impl Translator ===

impl Translator {
    fn new(reader: Box<dyn Reads>, writer: Box<dyn Writes>, wanted: Wanted) -> Self {
        Self {
            reader,
            writer,
            wanted,
            framer: None,
            held: Vec::new(),
            events: Vec::new(),
            collected: 0,
            ended: false,
            failed: None,
        }
    }

    /// A translator of an answer for a client that wants a stream.
    pub fn of_stream(reader: Box<dyn Reads>, writer: Box<dyn Writes>) -> Self {
        Self::new(reader, writer, Wanted::Stream)
    }

    /// A translator of an answer for a client that wants it whole.
    pub fn of_whole(reader: Box<dyn Reads>, writer: Box<dyn Writes>) -> Self {
        Self::new(reader, writer, Wanted::Whole)
    }

    /// A translator of an answer to a request for embeddings.
    pub fn of_embedded(reader: Box<dyn Reads>, writer: Box<dyn Writes>) -> Self {
        Self::new(reader, writer, Wanted::Embedded)
    }

    /// The answer's head has come, with a 2xx status: its body has this form. Gives the form that the
    /// client's has.
    pub fn begin(&mut self, form: Form) -> Form {
        self.framer = form.framer();
        match self.wanted {
            Wanted::Stream => self.writer.stream_form(),
            Wanted::Whole | Wanted::Embedded => Form::Body,
        }
    }

    /// Takes the next bytes of the answer, and writes what the client gets now.
    ///
    /// # Errors
    /// The answer can't be understood, or failed by its own account: of a stream the client was told in
    /// `out`, else nothing was written and nothing more is to be fed; see [`Translator::refusal`].
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(mut framer) = self.framer.take() else {
            return self.hold(bytes, out);
        };
        let mut result = Ok(());
        while result.is_ok() {
            let Some(end) = framer.next(bytes) else {
                result = self.hold(bytes, out);
                break;
            };
            let (event, rest) = bytes.split_at(end);
            bytes = rest;
            result = if self.held.is_empty() {
                self.event(&framer, event, out)
            } else {
                self.held.extend_from_slice(event);
                let held = std::mem::take(&mut self.held);
                let result = self.event(&framer, &held, out);
                self.held = held;
                self.held.clear();
                self.held.shrink_to(HELD_BYTES_KEPT_MAX);
                result
            };
        }
        self.framer = Some(framer);
        result
    }

    /// The upstream has ended its answer in good form: the rest.
    ///
    /// # Errors
    /// As [`Translator::feed`]; also where a stream was cut by its own account, or a body can't be
    /// understood.
    pub fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        let held = std::mem::take(&mut self.held);
        match self.framer.take() {
            Some(framer) => {
                if !held.is_empty() {
                    self.event(&framer, &held, out)?;
                }
                if !self.ended {
                    self.read(out, |reader, to| {
                        reader.end(to);
                        Ok(())
                    })?;
                }
                if !self.ended && self.wanted != Wanted::Stream {
                    return Err(unreadable("its answer ended early"));
                }
            }
            None if self.wanted == Wanted::Embedded => {
                let embedded = self.reader.embedded(&held)?;
                out.extend_from_slice(&self.writer.embedded(embedded));
                return Ok(());
            }
            None => self.read(out, |reader, to| reader.whole(&held, to))?,
        }
        if self.wanted == Wanted::Whole {
            let events = std::mem::take(&mut self.events);
            out.extend_from_slice(&self.writer.whole(events));
        }
        Ok(())
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.held.capacity() + self.collected + self.reader.bytes() + self.writer.bytes()
    }

    /// An answer with an error status, as the client gets it: its status and body.
    pub fn refusal(&self, status: u16, body: &[u8]) -> (u16, Vec<u8>) {
        self.writer.failure(&self.reader.failure(status, body))
    }

    /// Tells the client of a stream that it broke; nothing more is to be fed.
    pub fn fails(&mut self, failure: Failure, out: &mut Vec<u8>) {
        // The client is told in `out`.
        let _ = self.fail(failure, out);
    }

    /// The answer failed.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// The upstream has said its last word.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    fn hold(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        if self.held.len() + bytes.len() > HELD_BYTES_MAX {
            let failure = unreadable("a piece of its answer is too long to be translated");
            return self.fail(failure, out);
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    /// Reads one event of a stream.
    fn event(&mut self, framer: &Framer, event: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        match framer {
            Framer::Events(_) => {
                let (mut name, mut data, mut several) = (&b""[..], None::<&[u8]>, Vec::new());
                for line in sse::lines(event) {
                    match line {
                        sse::Line::Event(said) => name = said,
                        sse::Line::Data(_, said) => match data.replace(said) {
                            None => {}
                            Some(before) => {
                                if several.is_empty() {
                                    several.extend_from_slice(before);
                                }
                                several.push(b'\n');
                                several.extend_from_slice(said);
                            }
                        },
                    }
                }
                let data = if several.is_empty() {
                    data
                } else {
                    Some(&several[..])
                };
                match data.map(<[u8]>::trim_ascii) {
                    None | Some(b"") => Ok(()),
                    Some(b"[DONE]") => self.read(out, |_, to| {
                        to(Event::End);
                        Ok(())
                    }),
                    Some(data) => self.read(out, |reader, to| reader.event(name, data, to)),
                }
            }
            Framer::Lines => match event.trim_ascii() {
                b"" => Ok(()),
                line => self.read(out, |reader, to| reader.event(b"", line, to)),
            },
            Framer::Frames(_) => {
                let Some(message) = eventstream::message(event) else {
                    return self.fail(unreadable("a frame of its stream is malformed"), out);
                };
                self.read(out, |reader, to| {
                    reader.event(message.kind, message.payload, to)
                })
            }
            Framer::Grpc(_) => match grpc::frame::message(event) {
                Ok(message) => self.read(out, |reader, to| reader.event(b"", message, to)),
                Err(what) => self.fail(unreadable(what), out),
            },
        }
    }

    fn read(
        &mut self,
        out: &mut Vec<u8>,
        read: impl FnOnce(&mut dyn Reads, &mut dyn FnMut(Event<'_>)) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self {
            reader,
            writer,
            wanted,
            events,
            collected,
            ended,
            failed,
            ..
        } = self;
        let before = out.len();
        let mut to = |event: Event<'_>| {
            if *ended || failed.is_some() {
                return;
            }
            match &event {
                Event::End => *ended = true,
                Event::Failed(failure) => *failed = Some(failure.clone()),
                _ => {}
            }
            if *wanted == Wanted::Stream {
                writer.event(event, out);
            } else if !matches!(event, Event::Failed(_)) {
                let event = event.into_owned();
                *collected += size_of::<Event<'_>>() + event.text_len();
                events.push(event);
            }
        };
        let read = read(&mut **reader, &mut to);
        if let Err(failure) = read {
            out.truncate(before);
            return self.fail(failure, out);
        }
        if self.collected + self.reader.bytes() + self.writer.bytes() > HELD_BYTES_MAX {
            return self.fail(unreadable("its answer is too long to be translated"), out);
        }
        match &self.failed {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    /// Tells the client of a stream.
    fn fail(&mut self, failure: Failure, out: &mut Vec<u8>) -> Result<(), Failure> {
        if self.wanted == Wanted::Stream && self.failed.is_none() && !self.ended {
            self.writer.event(Event::Failed(failure.clone()), out);
        }
        self.failed = Some(failure.clone());
        Err(failure)
    }
}

/// An upstream's answer that makes no sense.
pub fn unreadable(message: impl Into<String>) -> Failure {
    Failure {
        status: 502,
        kind: FailureKind::Server,
        message: message.into(),
        code: Some("upstream_failed".to_owned()),
        param: None,
    }
}

/// Translates a request.
///
/// # Errors
/// What can't be said in the provider's dialect, or what is wrong with the request.
pub fn request(ask: &Ask<'_>, target: &Target<'_>) -> Result<Translated, Unfit> {
    let mut fit = Fit::new(target.provider.dialect.as_str(), target.lenient);
    let read = crate::table::read(ask, &mut fit)?;
    let (outgoing, wanted, writer) = match read {
        Read::Chat(chat, writer) => {
            let wanted = match chat.stream {
                true => Wanted::Stream,
                false => Wanted::Whole,
            };
            (
                crate::table::chat_out(*chat, target, &mut fit)?,
                wanted,
                writer,
            )
        }
        Read::Embed(embed, writer) => {
            let outgoing = crate::table::embed_out(*embed, target, &mut fit)?;
            (outgoing, Wanted::Embedded, writer)
        }
    };
    let first = match (target.provider.dialect, wanted) {
        (Dialect::Grpc, Wanted::Embedded) => Some(grpc::first_embedded(ask)),
        (Dialect::Grpc, _) => Some(grpc::first(ask)),
        _ => None,
    };
    Ok(Translated {
        path: outgoing.path,
        query: outgoing.query,
        body: outgoing.body.into(),
        headers: outgoing.headers,
        surface: outgoing.surface,
        dropped: fit.dropped(),
        first,
        answer: Translator::new(outgoing.reader, writer, wanted),
    })
}

/// A client's request as it was read, and what writes its answer.
#[derive(Debug)]
pub enum Read {
    Chat(Box<Chat>, Box<dyn Writes>),
    Embed(Box<Embed>, Box<dyn Writes>),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request through `surface` to a provider, and its answer in pieces of `cut` bytes.
    fn chat(body: &str, answer: &str, form: Form, cut: usize) -> String {
        let ask = Ask {
            surface: Surface::Chat,
            path: "/v1/chat/completions",
            query: None,
            body: body.as_bytes(),
            id: "1",
            now: 7,
            model: "m",
        };
        let provider = Provider::new(Dialect::OpenAi);
        let target = Target {
            provider: &provider,
            model: "m",
            base: "",
            lenient: false,
            ask_usage: true,
        };
        let mut translated = request(&ask, &target).expect("a request");
        assert_eq!(translated.path, "/v1/chat/completions");
        translated.answer.begin(form);
        let mut out = Vec::new();
        for piece in answer.as_bytes().chunks(cut) {
            translated.answer.feed(piece, &mut out).expect("an answer");
        }
        translated.answer.end(&mut out).expect("an end");
        String::from_utf8(out).expect("text")
    }

    const STREAM: &str = concat!(
        "data: {\"id\":\"a\",\"created\":3,\"model\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        ": a comment\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi \\\"you\\\"\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{}\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let body = r#"{"messages":[{"role":"user","content":"Hi"}],"stream":true,"stream_options":{"include_usage":true}}"#;
        let whole = chat(body, STREAM, Form::Events, STREAM.len());
        assert!(whole.contains(r#""content":"Hi \"you\"""#), "{whole}");
        assert!(
            whole.contains(r#""choices":[],"usage":{"prompt_tokens":5"#),
            "{whole}"
        );
        assert!(whole.ends_with("data: [DONE]\n\n"));
        for cut in 1..STREAM.len() {
            assert_eq!(
                chat(body, STREAM, Form::Events, cut),
                whole,
                "pieces of {cut}"
            );
        }
    }

    #[test]
    fn a_stream_becomes_a_whole_answer_for_a_client_that_wants_one() {
        let body = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;
        let whole = chat(body, STREAM, Form::Events, 10);
        let said: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
        let message = &said["choices"][0]["message"];
        assert_eq!(message["content"], "Hi \"you\"");
        assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{}");
        assert_eq!(said["usage"]["total_tokens"], 7);
    }
}

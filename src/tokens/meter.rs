//! Follows one answer on its way to the client and knows what it used.
//!
//! Sans-IO: the caller feeds what the upstream sends and passes on what comes back. The result does
//! not depend on how the bytes were cut. At most one event is held; of a JSON body only the first
//! piece, until a second one comes: mostly it is the whole, and a glance at its end will do.
//! Where the upstream reports usage that is the truth; else what was delivered can be counted.
//! While an answer passes nothing is counted: what of a long one doesn't fit is [`Overdue`], for another
//! thread. Prompts are not the meter's business. Called by the proxy's reply step, one meter an attempt.
//!
//! ```text
//! feed ─ events ─┬ of the known shape ──────────── text ─┐
//!      │         └ else framer → reader ─ usage, end, ───┼─ tally (counts only when asked)
//!      └ body ──┬─ reader ──────────────── text ─────────┘
//!               └ in one piece: glance ── usage
//! ```

mod coding;
mod events;
mod outlet;

mod tally;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

pub use self::coding::Coding;
use self::coding::Decoder;
use self::outlet::Outlet;
pub use self::tally::Overdue;
use self::tally::Tally;
pub use crate::dialect::answer::Gap;
pub use crate::dialect::surface::{Form, Surface};

use crate::dialect::answer::{Field, Reader};
use crate::dialect::framing::Framer;
use crate::dialect::openai::glance;
use crate::dialect::shape::Shape;
pub use crate::dialect::usage::Media;
use crate::dialect::usage::Reported;
use crate::tokens::count::{self, Family};

/// What a request used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, those from a cache included.
    pub input: Option<u64>,
    /// Tokens of the answer, reasoning included.
    pub output: Option<u64>,
    /// Tokens of the prompt that came from a cache.
    pub cached: Option<u64>,
    /// Tokens of the prompt that were written to a cache.
    pub cache_write: Option<u64>,
    /// Tokens of the answer that were reasoning.
    pub reasoning: Option<u64>,
    /// What of it was sound or pictures.
    pub media: Media,
    /// Who says so.
    pub source: Source,
}

// === impl Usage ===

impl Usage {
    /// Of prompt and answer.
    pub fn tokens(&self) -> u64 {
        let (input, output) = (self.input.unwrap_or(0), self.output.unwrap_or(0));
        input.saturating_add(output)
    }
}

/// Where the numbers of a [`Usage`] come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The upstream reported them.
    Upstream,
    /// Counted with the model's own vocabulary, all of it.
    Counted,
    /// Counted with the nearest vocabulary, or not all of it: what nobody delivers (thoughts, the server's
    /// part of a prompt) or only rules of thumb tell (images, documents, tools) is more or less than that.
    Estimated,
}

/// How far an answer has come by its own account; whether the connection broke is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nothing says that it is complete: a stream that ends now may have been cut.
    Open,
    /// Each choice has its finish reason, or the JSON body is closed.
    Finished,
    /// Its last word was said: `[DONE]`, or what the dialect has instead.
    Done,
    /// The upstream reported an error inside the answer; more need not come.
    Error,
    /// Nobody can tell: the answer is compressed and [can't be followed](Meter::is_blind).
    Unread,
}

/// See the module. Dropping it at any time is right.
#[derive(Debug)]
pub struct Meter {
    surface: Surface,
    /// How the events of a stream are framed; `None` of a JSON body.
    framer: Option<Framer>,
    /// The answer is compressed.
    decoder: Option<Box<Decoder>>,
    body: Body,
    strip: bool,
    model: Arc<str>,
    family: Option<Family>,
    reader: Reader,
    shape: Shape,
    tally: Tally,
    /// The beginning of an event, as far as it came.
    held: Vec<u8>,
    /// The event at hand is too long to be held: it passes unedited and is read in pieces.
    long: bool,
    /// Where edited bytes are put together.
    edited: BytesMut,
    done: bool,
    error: bool,
    said: bool,
    /// Pieces of text.
    deltas: u64,
    /// Text of a stream that came after the last report of usage.
    unreported: bool,
}

/// Longer events pass unedited.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// Escaped text that waits uncounted; most answers have less. More is overdue. With the delta that is
/// one too many it takes 8 KiB.
const STREAM_WAITING_BYTES_MAX: usize = 7 * 1024;
/// A body's answer is there at once and its usage near the end, so it waits for that.
const BODY_WAITING_BYTES_MAX: usize = 60 * 1024;
/// The room for held events that a meter keeps between events.
const HELD_BYTES_KEPT_MAX: usize = 2048;

/// A longer first piece of a body is read at once.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// How a JSON body comes.
///
/// ```text
/// Awaited ── first piece ──▶ Unread ── second piece, or its text is asked for ──▶ Reading
///    └────── a long one ───────────────────────────────────────────────────────────┘
/// ```
#[derive(Debug)]
enum Body {
    Awaited,
    /// All that came so far.
    Unread(Bytes),
    Reading,
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Drop,
    /// These places go, the rest stays.
    Cut([Option<(usize, usize)>; 2]),
}

// === impl Meter ===

impl Meter {
    /// A meter for the answer of `model` (the name that the upstream knows) in one form.
    /// `strip_usage`: usage was asked for in the client's stead, so that it is taken out of a stream
    /// again; of server-sent events only.
    pub fn new(surface: Surface, model: &str, form: Form, strip_usage: bool) -> Meter {
        let table = surface.table();
        let framer = form.framer();
        let (room, reader) = match framer {
            Some(_) => (STREAM_WAITING_BYTES_MAX, Reader::of_events(table)),
            None => (BODY_WAITING_BYTES_MAX, Reader::of_body(table)),
        };
        Meter {
            surface,
            framer,
            decoder: None,
            // A list is a stream; one piece is seldom all of it.
            body: if form == Form::List {
                Body::Reading
            } else {
                Body::Awaited
            },
            strip: strip_usage && form == Form::Events && surface.takes_usage_option(),
            model: model.into(),
            family: None,
            reader,
            shape: Shape::default(),
            tally: Tally::new(room),
            held: Vec::new(),
            long: false,
            edited: BytesMut::new(),
            done: false,
            error: false,
            said: false,
            deltas: 0,
            unreported: false,
        }
    }

    /// The same meter for an answer that is compressed: it passes as it is, nothing is stripped. `None`
    /// is a coding that weir doesn't know.
    pub fn decoding(mut self, coding: Option<Coding>) -> Meter {
        let decoder = coding.map_or_else(Decoder::unknown, Decoder::new);
        self.strip = false;
        self.decoder = Some(Box::new(decoder));
        self
    }

    /// The answer can't be followed: its coding is unknown, it isn't compressed as it says, or it grew
    /// beyond all measure.
    pub fn is_blind(&self) -> bool {
        self.decoder
            .as_ref()
            .is_some_and(|decoder| decoder.is_given_up())
    }

    /// Takes the next bytes from the upstream and gives what may go to the client now: the same
    /// bytes, uncopied, unless usage is stripped. Only then is the beginning of an event held.
    pub fn feed(&mut self, chunk: Bytes) -> Bytes {
        if let Some(decoder) = self.decoder.take() {
            return self.feed_coded(decoder, chunk);
        }
        if self.framer.is_none() {
            self.piece(&chunk);
            return chunk;
        }
        let mut edited = std::mem::take(&mut self.edited);
        let mut outlet = Outlet::new(&chunk, self.held.len(), self.strip, &mut edited);
        let mut at = 0;
        if self.long || !self.held.is_empty() {
            at = self.resume(&chunk, &mut outlet);
        }
        while at < chunk.len() {
            let rest = &chunk[at..];
            let (end, fate) = match self.known(rest) {
                Some(known) => known,
                None => match self.frame(rest) {
                    Some(end) => (end, self.event(&rest[..end])),
                    None => {
                        self.hold(rest, at, &mut outlet);
                        break;
                    }
                },
            };
            outlet.keep_of(at, at + end, fate);
            at += end;
        }
        let out = outlet.finish();
        self.edited = edited;
        out
    }

    /// Reads beside its way to the client what was compressed.
    #[cold]
    fn feed_coded(&mut self, mut decoder: Box<Decoder>, chunk: Bytes) -> Bytes {
        decoder.push(&chunk, |plain| {
            self.feed(Bytes::copy_from_slice(plain));
        });
        self.decoder = Some(decoder);
        chunk
    }

    /// Text that is too much to wait here, to be counted on a thread that serves nobody. To be asked
    /// for after each [`Meter::feed`]; what isn't taken waits on, up to 2 MiB.
    pub fn overdue(&mut self) -> Option<Overdue> {
        self.tally.overdue(&self.model)
    }

    /// The room that it takes beside its own size: text that waits, an event that hasn't ended, a body
    /// that is unread, the window of what is compressed.
    pub fn bytes(&self) -> usize {
        let unread = match &self.body {
            Body::Unread(body) => body.len(),
            Body::Awaited | Body::Reading => 0,
        };
        let decoder = self.decoder.as_ref().map_or(0, |decoder| decoder.bytes());
        self.tally.bytes() + self.held.capacity() + unread + decoder
    }

    /// Lets go of all that can be done without: the event at hand passes unedited, what is compressed
    /// isn't followed any more, text is estimated. Gives what was held for the client.
    #[cold]
    pub fn let_go(&mut self) -> Bytes {
        if let Some(decoder) = &mut self.decoder {
            decoder.give_up();
        }
        self.read();
        self.tally.let_go();
        if self.held.len() <= HELD_BYTES_KEPT_MAX {
            // It may not have come to its data yet.
            return Bytes::new();
        }
        let held = std::mem::take(&mut self.held);
        self.long = true;
        self.begin_long(&held, b"");
        if self.strip {
            held.into()
        } else {
            Bytes::new()
        }
    }

    /// The upstream ended cleanly: what was still held for the client.
    pub fn end(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Bytes::new();
        }
        let fate = self.event(&held);
        let nothing = Bytes::new();
        let mut outlet = Outlet::new(&nothing, held.len(), self.strip, &mut self.edited);
        outlet.add(&held, fate);
        outlet.finish()
    }

    /// How far the answer has come by its own account. Each call reads a JSON body that came in one
    /// piece.
    pub fn saw_finish(&self) -> Ending {
        let aside = self.read_aside();
        let facts = aside.as_ref().unwrap_or(&self.reader).facts();
        match () {
            () if self.is_blind() => Ending::Unread,
            () if self.error || facts.error => Ending::Error,
            () if self.done => Ending::Done,
            () if self.framer.is_none() && facts.closed => Ending::Finished,
            () if self.framer.is_none() => Ending::Open,
            // What an event says counts for whoever reads whole ones only.
            () if self.reader.is_midway() => Ending::Open,
            () if self.reader.is_complete() => Ending::Done,
            () if self.reader.all_finished() => Ending::Finished,
            () => Ending::Open,
        }
    }

    /// Where a list was broken off, if between two elements.
    pub fn gap(&self) -> Option<Gap> {
        self.reader.gap()
    }

    /// What the upstream has reported so far, if anything. In a stream the last report counts, unless
    /// it is all zeros.
    pub fn usage(&mut self) -> Option<Usage> {
        self.look();
        self.reported()
            .map(|reported| usage(reported, Source::Upstream))
    }

    /// What the upstream has reported, if nothing of it is missing: [`Meter::settle`] would say the
    /// same.
    pub fn usage_is_whole(&mut self) -> bool {
        self.look();
        let reported = self.reported().unwrap_or_default();
        let output = reported.output.is_some() && !self.is_early();
        reported.input.is_some() && (output || !self.surface.has_output())
    }

    /// The upstream has reported usage, but not (yet) the output of all that it delivers: that can be
    /// counted.
    pub fn lacks_output(&mut self) -> bool {
        self.look();
        let output = |reported: Reported| reported.output.is_some() && !self.is_early();
        self.has_output() && self.reported().is_some_and(|reported| !output(reported))
    }

    /// Its answers have text whose tokens can be counted.
    pub fn has_output(&self) -> bool {
        self.surface.has_output()
    }

    /// The tokens of the text that was delivered, as if the answer ended here. Counts what waits;
    /// the first call may have to wait for the vocabulary. Half of a surrogate pair that still
    /// misses the other is U+FFFD, for good.
    pub fn delivered(&mut self) -> u64 {
        self.read();
        let family = family(&mut self.family, &self.model);
        self.tally.total(family.encoding)
    }

    /// The usage to settle with, when nothing more comes: the upstream's report, else counts of
    /// what was delivered and of the prompt (`prompt` is asked only where it is needed).
    pub fn settle(&mut self, prompt: impl FnOnce() -> u64) -> Usage {
        let whole = self.usage_is_whole();
        let reported = self.reported().unwrap_or_default();
        if whole {
            return usage(reported, Source::Upstream);
        }
        let family = family(&mut self.family, &self.model);
        let input = reported.input.unwrap_or_else(prompt);
        let output = match reported.output {
            None => self.delivered(),
            Some(early) if self.is_early() => early.max(self.delivered()),
            Some(output) => output,
        };
        // Of an answer whose output is reported only the prompt is counted.
        let counts_output = reported.output.is_none() || self.is_early();
        let short = counts_output && family.hides && self.has_output();
        let source = match family.exact && !short && !self.tally.is_guessed() {
            true => Source::Counted,
            false => Source::Estimated,
        };
        usage(
            Reported {
                input: Some(input),
                output: Some(output),
                ..reported
            },
            source,
        )
    }

    /// Whether any text has been delivered. Each call reads a JSON body that came in one piece.
    pub fn first_token_seen(&self) -> bool {
        let texts = |reader: Reader| self.has_output() && !reader.facts().texts.is_empty();
        self.said || self.read_aside().is_some_and(texts)
    }

    /// In how many pieces the text of a stream has come; `None` of a JSON body.
    pub fn deltas(&self) -> Option<u64> {
        self.framer.is_some().then_some(self.deltas)
    }

    /// Takes a piece of a JSON body.
    fn piece(&mut self, piece: &Bytes) {
        let first = matches!(self.body, Body::Awaited);
        if piece.is_empty() {
            return;
        }
        if first && self.surface.at_a_glance().is_some() && piece.len() <= UNREAD_BYTES_MAX {
            self.body = Body::Unread(piece.clone());
            return;
        }
        self.read();
        self.read_piece(piece);
    }

    /// Finds the usage of a body that came in one piece.
    fn look(&mut self) {
        if let (Body::Unread(body), None) = (&self.body, self.reader.reported()) {
            let sheet = self.surface.at_a_glance();
            match sheet.and_then(|sheet| glance::usage(body, sheet)) {
                Some(reported) => self.reader.believe(reported),
                None => self.read(),
            }
        }
    }

    /// Reads what waits unread, and from now on what comes.
    fn read(&mut self) {
        if let Body::Unread(body) = std::mem::replace(&mut self.body, Body::Reading) {
            self.read_piece(&body);
        }
    }

    /// What is still unread, read by a reader of its own.
    fn read_aside(&self) -> Option<Reader> {
        let Body::Unread(body) = &self.body else {
            return None;
        };
        let mut reader = Reader::of_body(self.surface.table());
        reader.push(0, body);
        Some(reader)
    }

    fn read_piece(&mut self, piece: &[u8]) {
        if !self.reader.facts().closed {
            self.reader.push(0, piece);
            self.heed(piece);
        }
    }

    /// Takes over what the reader found in `bytes`.
    fn heed(&mut self, bytes: &[u8]) {
        let facts = self.reader.facts();
        self.error |= facts.error;
        // A report speaks for the text of its own event too.
        let covered = facts.reported_some;
        if facts.reported && self.framer.is_some() && self.surface.table().repeats {
            // The usage of what was said so far is better than a count of it.
            self.said |= !facts.texts.is_empty();
            self.unreported &= !covered;
            return;
        }
        for text in 0..facts.texts.len() {
            let text = self.reader.facts().texts[text].clone();
            self.say(text.choice, text.field, &bytes[text.at]);
        }
        self.unreported &= !covered;
    }

    /// The output that was reported is not that of the whole answer: it is that of the beginning, or
    /// more text came after it and the stream isn't over.
    fn is_early(&self) -> bool {
        let over = || matches!(self.saw_finish(), Ending::Done | Ending::Finished);
        self.reader.is_early() || (self.unreported && self.framer.is_some() && !over())
    }

    /// What was reported: found at a glance, or by the reader. No output beside text that was delivered
    /// is no report of it, and nothing at all beside it is no report.
    fn reported(&self) -> Option<Reported> {
        let reported = self.reader.reported();
        let mut reported = reported.map(|reported| self.surface.table().whole(reported))?;
        let tokens = reported.input.or(reported.output);
        if self.surface.is_media() && tokens.is_none() {
            // Time or pictures are paid: that is all, whatever text there is.
            return Some(Reported {
                input: Some(0),
                output: Some(0),
                ..reported
            });
        }
        if reported.output == Some(0) && self.first_token_seen() {
            reported.output = None;
            return Some(reported).filter(|reported| !reported.is_zero());
        }
        Some(reported)
    }

    fn say(&mut self, choice: u32, field: Field, raw: &[u8]) {
        if raw.is_empty() || !self.has_output() {
            return;
        }
        self.said = true;
        self.unreported = true;
        self.deltas += 1;
        self.tally.add(choice, field, raw);
    }
}

/// The family of `model`, looked up once, and only when something is counted.
fn family(known: &mut Option<Family>, model: &str) -> Family {
    *known.get_or_insert_with(|| count::family(model))
}

fn usage(reported: Reported, source: Source) -> Usage {
    let Reported {
        input,
        output,
        cached,
        cache_write,
        reasoning,
        media,
    } = reported;
    Usage {
        input,
        output,
        cached,
        cache_write,
        reasoning,
        media,
        source,
    }
}

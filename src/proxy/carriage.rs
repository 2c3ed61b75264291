//! A request whose client and provider speak different dialects: what goes up instead, and what carries
//! the answer back. The translating itself is `dialect`'s affair; this gives it bytes and holds to the
//! bounds. Made by `connect` once for each try, used by `forward` and `reply`.

mod first;

use self::first::First;
use super::arrive::Arrival;
use super::ask;
use super::peek::Body;
use super::plan::Plan;
use super::refuse::Refusal;
use super::surface::Surface;
use crate::dialect::ir::Failure;
use crate::dialect::provider::Provider;
use crate::dialect::translate::{self, Ask, Target, Translated, Translator};
use crate::govern::{Buffers, Hold};
use crate::tokens::meter::{self, Form};
use crate::upstream;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use pingora::http::ResponseHeader;
use pingora::{Error, Result};
use std::time::{SystemTime, UNIX_EPOCH};

/// See the module.
#[derive(Debug)]
pub struct Carriage {
    /// The path for the upstream, with that of its base URL.
    pub path: String,
    /// Its query.
    pub query: Option<String>,
    /// Headers that its API needs.
    pub headers: Vec<(&'static str, String)>,
    /// What the upstream answers.
    pub surface: meter::Surface,
    /// What of the request was left out, in the client's words.
    pub dropped: Vec<String>,
    /// Carries the answer to where the meter can read it.
    first: Option<First>,
    answer: Translator,
    state: State,
    /// The part of an answer that isn't translated yet, among the buffered bytes.
    hold: Hold,
}

/// How far an answer has come.
#[derive(Debug)]
enum State {
    /// Its head hasn't come.
    Awaited,
    /// Piece by piece.
    Streaming,
    /// The client gets it at its end; its head is held back as long.
    Whole,
    /// An error with this status, as far as it came.
    Refused(u16, Vec<u8>),
    /// The client was told of a failure, or has all: what still comes is passed over.
    Over,
}

/// A longer error isn't read to its end.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// A longer request is translated by a thread that serves nobody.
const ASIDE_BYTES: usize = 128 << 10;
/// What a stream's translator may hold without being counted among the buffered bytes.
const FREE_BYTES: usize = 32 << 10;

/// Whether a request must be translated for this provider.
pub fn is_needed(plan: &Plan, arrival: &Arrival, provider: Option<&Provider>) -> bool {
    let Surface::Metered(surface) = plan.surface else {
        return false;
    };
    let posted = arrival.method == http::Method::POST && !plan.upgrade;
    posted && provider.is_some_and(|provider| !provider.speaks(surface))
}

/// The request in the provider's dialect, and whether weir asks for usage in it.
///
/// # Errors
/// Where it can't be said there, or is wrong.
pub async fn carry(
    plan: &mut Plan,
    arrival: &Arrival,
    provider: &upstream::Provider,
    endpoint: &upstream::Endpoint,
    choice: &upstream::Choice,
    buffers: &Buffers,
) -> Result<(Bytes, Box<Carriage>, bool), Refusal> {
    let Some(dialect) = &provider.dialect else {
        return Err(Refusal::invalid("its provider's dialect isn't known"));
    };
    let model = choice.model.as_deref().or(plan.model.as_deref());
    let model = model.unwrap_or_default();
    let base = endpoint.base.path.trim_end_matches('/');
    let may_ask = ask::may_ask(plan.unasked, provider, endpoint);
    let loaded = load(plan, arrival, dialect, base, model, may_ask, buffers);
    let (body, carriage) = loaded.await?;
    if let Body::Held(held) = &mut plan.body {
        held.holds_edited(body.len())?;
    }
    let asks = may_ask && carriage.first.is_none() && carriage.surface.takes_usage_option();
    Ok((body, Box::new(carriage), asks))
}

/// Translates a request; the body for the upstream, and the rest.
///
/// # Errors
/// Where it can't be said in the provider's dialect, or is wrong.
async fn load(
    plan: &Plan,
    arrival: &Arrival,
    provider: &Provider,
    base: &str,
    model: &str,
    ask_usage: bool,
    buffers: &Buffers,
) -> Result<(Bytes, Carriage), Refusal> {
    let (Surface::Metered(surface), Some(body)) = (plan.surface, plan.body.plain()) else {
        return Err(Refusal::invalid(
            "its body is too long, or of a form, to be translated for this model's provider",
        ));
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let ask = Ask {
        surface,
        path: &arrival.path,
        query: arrival.query.as_deref(),
        body,
        id: &arrival.request_id,
        now: now.map_or(0, |now| now.as_secs()),
        model: plan.model.as_deref().unwrap_or_default(),
    };
    let target = Target {
        provider,
        model,
        base,
        lenient: plan.course.is_lenient(),
        ask_usage,
    };
    let translated = match body.len() > ASIDE_BYTES {
        true => aside(ask, target, body.clone()).await?,
        false => translate::request(&ask, &target)?,
    };
    let Translated {
        path,
        query,
        body,
        headers,
        surface,
        dropped,
        first,
        answer,
    } = translated;
    let carriage = Carriage {
        path,
        query,
        headers,
        surface,
        dropped,
        first: first.map(First::new),
        answer,
        state: State::Awaited,
        hold: buffers.hold(),
    };
    Ok((body, carriage))
}

/// The same on another thread.
async fn aside(ask: Ask<'_>, target: Target<'_>, body: Bytes) -> Result<Translated, Refusal> {
    let (path, id) = (ask.path.to_owned(), ask.id.to_owned());
    let query = ask.query.map(str::to_owned);
    let (model, there) = (ask.model.to_owned(), target.model.to_owned());
    let (base, provider) = (target.base.to_owned(), target.provider.clone());
    let (surface, now) = (ask.surface, ask.now);
    let (lenient, ask_usage) = (target.lenient, target.ask_usage);
    let translating = tokio::task::spawn_blocking(move || {
        let ask = Ask {
            surface,
            path: &path,
            query: query.as_deref(),
            body: &body,
            id: &id,
            now,
            model: &model,
        };
        let target = Target {
            provider: &provider,
            model: &there,
            base: &base,
            lenient,
            ask_usage,
        };
        translate::request(&ask, &target)
    });
    match translating.await {
        Ok(translated) => Ok(translated?),
        Err(_) => Err(Refusal::Overloaded("threads for long requests")),
    }
}

// === impl State ===

impl State {
    /// An answer comes, and no error.
    fn is_translated(&self) -> bool {
        matches!(self, Self::Streaming | Self::Whole)
    }
}

// === impl Carriage ===

impl Carriage {
    /// Whether it is a call of gRPC.
    pub fn is_call(&self) -> bool {
        self.first.is_some()
    }

    /// An answer's head has come: what of it HTTP says otherwise is said so.
    ///
    /// # Errors
    /// Where the head can't be changed.
    pub fn hears(&mut self, response: &mut ResponseHeader) -> Result<()> {
        match &mut self.first {
            Some(first) => first.head(response, self.surface),
            None => Ok(()),
        }
    }

    /// A call that ended with its head; HTTP would end the answer there, without a word.
    pub fn ended_at_once(&self) -> Option<Refusal> {
        let first = self.first.as_ref()?;
        match first.ended_at_once()? {
            Ok(()) => Some(Refusal::UpstreamFailed(
                "it ended its answer without a message".to_owned(),
            )),
            Err(said) => {
                let (status, body) = self.answer.refusal(said, &first.refusal());
                Some(Refusal::Told(status, body.into(), first.pushback()))
            }
        }
    }

    /// The form in which the meter gets the answer, where it isn't the upstream's.
    pub fn first_form(&self) -> Option<Form> {
        Some(self.first.as_ref()?.form(self.surface))
    }

    /// A piece of the upstream's answer as the meter reads it; `None` where it can read it as it is.
    ///
    /// # Errors
    /// When weir may hold no more.
    pub fn first_piece(&mut self, piece: &[u8]) -> Result<Option<Bytes>> {
        let Some(first) = self.first.as_mut().filter(|_| self.state.is_translated()) else {
            return Ok(None);
        };
        let out = first.piece(piece);
        let held = self.held();
        self.holds(held)?;
        Ok(Some(out))
    }

    /// Its rest, once the upstream has ended it.
    pub fn first_rest(&mut self) -> Bytes {
        match self.first.as_mut().filter(|_| self.state.is_translated()) {
            Some(first) => first.end(),
            None => Bytes::new(),
        }
    }

    /// The trailers of an answer concern weir alone.
    pub fn trailers(&mut self, trailers: &mut HeaderMap) {
        if let Some(first) = &mut self.first {
            first.trailers(trailers);
        }
        trailers.clear();
    }

    /// The answer's head has come: it becomes that of the client's answer. Gives the form of the client's
    /// answer.
    ///
    /// # Errors
    /// Where it is none that can be translated.
    pub fn begin(
        &mut self,
        response: &mut ResponseHeader,
        form: Form,
        coded: bool,
    ) -> Result<Form> {
        for name in [
            header::CONTENT_LENGTH,
            header::ETAG,
            header::CONTENT_LOCATION,
        ] {
            response.remove_header(&name);
        }
        if coded {
            return Err(broken(
                "its answer is compressed, though that wasn't asked for",
            ));
        }
        let status = response.status;
        if !status.is_success() {
            let (told, _) = self.answer.refusal(status.as_u16(), b"");
            response.set_status(told)?;
            self.state = State::Refused(status.as_u16(), Vec::new());
            response.insert_header(header::CONTENT_TYPE, JSON)?;
            return Ok(Form::Body);
        }
        if self.first.as_ref().is_some_and(|first| !first.is_grpc()) {
            return Err(broken("its answer is none of gRPC"));
        }
        let form = self.answer.begin(form);
        self.state = match form {
            Form::Body => State::Whole,
            _ => State::Streaming,
        };
        response.insert_header(
            header::CONTENT_TYPE,
            match form {
                Form::Body | Form::List => JSON,
                Form::Lines => HeaderValue::from_static("application/x-ndjson"),
                _ => HeaderValue::from_static("text/event-stream; charset=utf-8"),
            },
        )?;
        Ok(form)
    }

    /// The answer's head must wait for its end: only then is it known whether there is one.
    pub fn holds_head(&self) -> bool {
        matches!(self.state, State::Whole)
    }

    /// The answer failed, by its own account or because it can't be read.
    pub fn has_failed(&self) -> bool {
        self.answer.has_failed()
    }

    /// Translates a piece of the answer.
    ///
    /// # Errors
    /// An answer that makes no sense, of which the client has got nothing yet.
    pub fn piece(&mut self, piece: &[u8]) -> Result<Bytes> {
        let mut out = Vec::new();
        match &mut self.state {
            State::Refused(_, body) => {
                let room = REFUSAL_BYTES_MAX.saturating_sub(body.len());
                body.extend_from_slice(&piece[..piece.len().min(room)]);
                let held = body.len();
                self.holds(held)?;
            }
            State::Streaming => {
                if self.answer.feed(piece, &mut out).is_err() {
                    self.state = State::Over;
                }
                let held = self.held();
                self.holds(held)?;
            }
            State::Whole => {
                let fed = self.answer.feed(piece, &mut out);
                fed.map_err(|failure| failed(&failure))?;
                let held = self.held();
                self.holds(held)?;
            }
            // The client knows: the rest isn't waited for.
            State::Over if self.answer.has_failed() && !piece.is_empty() => {
                return Err(broken("its answer failed"));
            }
            State::Awaited | State::Over => {}
        }
        Ok(out.into())
    }

    /// The upstream has ended its answer in good form: the rest.
    ///
    /// # Errors
    /// As for a piece.
    pub fn end(&mut self) -> Result<Bytes> {
        let mut out = Vec::new();
        match std::mem::replace(&mut self.state, State::Over) {
            State::Refused(status, body) => out = self.answer.refusal(status, &body).1,
            State::Streaming => {
                // What is wrong with it the client was told.
                let ended = self.answer.end(&mut out);
                if ended.is_ok() && !self.answer.is_ended() {
                    self.state = State::Streaming;
                }
            }
            State::Whole => {
                let ended = self.answer.end(&mut out);
                ended.map_err(|failure| failed(&failure))?;
            }
            State::Awaited | State::Over => {}
        }
        self.hold.shrink_to(0);
        Ok(out.into())
    }

    /// What ends a stream that broke, in the client's dialect; `None` where it was told already.
    pub fn broke(&mut self, code: &str, message: &str) -> Option<Bytes> {
        if !matches!(self.state, State::Streaming) {
            return None;
        }
        self.state = State::Over;
        let mut out = Vec::new();
        self.answer
            .fails(Failure::of_gateway(code, message), &mut out);
        Some(out.into())
    }

    /// What of the answer is held here and is to be counted.
    fn held(&self) -> usize {
        let free = match self.state {
            State::Streaming => FREE_BYTES,
            _ => 0,
        };
        let first = self.first.as_ref().map_or(0, First::bytes);
        (first + self.answer.bytes()).saturating_sub(free)
    }

    /// Counts what is held among the buffered bytes.
    fn holds(&mut self, bytes: usize) -> Result<()> {
        self.hold.shrink_to(bytes);
        match self.hold.grow_to(bytes) {
            Ok(()) => Ok(()),
            Err(_) => Err(Refusal::Overloaded("buffered bytes").into()),
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer that can't be understood.
fn failed(failure: &Failure) -> Box<Error> {
    broken(&failure.message)
}

fn broken(what: &str) -> Box<Error> {
    let error: Box<Error> = Refusal::UpstreamFailed(what.trim_end_matches('.').to_owned()).into();
    error.into_up()
}

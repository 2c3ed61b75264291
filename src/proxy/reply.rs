//! Fifth step: the answer as the client gets it, and what it tells of itself.

use super::ask::{self, Suspect, Verdict};
use super::carriage::Carriage;
use super::connect::{self, broke_inside};
use super::forward::{X_REQUEST_ID, rendered, upstream_model};
use super::journey::Journey;
use super::peek::Body;
use super::plan::Surface;
use super::refuse::{SHORT_STREAM, stream_error};
use super::settle::{self, Booked};
use super::standing;
use crate::govern::{Hold, OpenStream};
use crate::observe::Room;
use crate::observe::access::End;
use crate::snapshot::Snapshot;
use crate::tokens::meter::{Coding, Ending, Form, Meter, Overdue};
use crate::upstream::Outcome;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::Session;
use std::time::Instant;

/// What the client got.
#[derive(Debug, Default)]
pub struct Reply {
    /// Status that was sent.
    pub status: u16,
    /// The client has gone without its head.
    pub unseen: bool,
    /// The answer is a stream.
    pub stream: bool,
    /// How it comes.
    pub form: Form,
    /// Its body is compressed: nothing can be put into it.
    pub encoded: bool,
    /// Its place among the open streams.
    pub open: Option<OpenStream>,
    /// When the first byte of its body came.
    pub first_byte: Option<Instant>,
    /// Body bytes for the client.
    pub bytes_out: u64,
    /// What was used.
    pub meter: Option<Meter>,
    /// What that takes of the buffered bytes, once it is much.
    metered: Option<Hold>,
    /// How it ended, once somebody knows.
    pub end: Option<End<'static>>,
    /// The length that its head announced, where weir doesn't change it.
    length: Option<u64>,
    /// The last byte was handed on, or is about to be.
    complete: bool,
    /// A refusal that may be of weir's own making is held back until that is known; see `ask`.
    suspect: Option<Suspect>,
    /// What was held of it, until its trailers are through.
    cleared: Option<Bytes>,
    /// What was booked before it was; see `settle`.
    pub settled: Option<Booked>,
}

impl Reply {
    /// True once an upstream's answer is being passed on.
    pub fn began(&self) -> bool {
        self.status != 0
    }

    /// True once the answer was handed on whole.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// True for a stream that has said `[DONE]`: what its connection does then is of no matter.
    pub fn is_done(&self) -> bool {
        let done = |meter: &Meter| meter.saw_finish() == Ending::Done;
        self.stream && self.meter.as_ref().is_some_and(done)
    }

    /// True when the client can tell by itself that nothing more comes, though the upstream's
    /// connection may not have said so yet.
    fn is_whole(&self) -> bool {
        let counted = self.length.is_some_and(|length| self.bytes_out >= length);
        self.settled.is_none() && (counted || self.is_done())
    }
}

const X_WEIR_MODEL: HeaderName = HeaderName::from_static("x-weir-model");
const X_WEIR_PROVIDER: HeaderName = HeaderName::from_static("x-weir-provider");
const X_WEIR_ATTEMPTS: HeaderName = HeaderName::from_static("x-weir-attempts");
const X_WEIR_DROPPED: HeaderName = HeaderName::from_static("x-weir-dropped");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Headers that concern one connection only; Pingora makes the client's own.
const HOP_BY_HOP: [HeaderName; 3] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Learns what kind of answer it is, and adds weir's headers.
///
/// # Errors
/// When it is none to this request.
pub fn head(session: &Session, response: &mut ResponseHeader, journey: &mut Journey) -> Result<()> {
    if response.status.is_informational()
        && response.status != http::StatusCode::SWITCHING_PROTOCOLS
    {
        return Ok(());
    }
    let asked = (journey.plan.as_ref()).is_some_and(|plan| plan.upgrade);
    if response.status == http::StatusCode::SWITCHING_PROTOCOLS && !asked {
        // RFC 9110, section 15.2.2. The client would take what follows for the answer.
        const UNASKED: &str = "it switches to another protocol unasked";
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, UNASKED).into_up());
    }
    if let Some(carriage) = carriage_of(journey) {
        carriage.hears(response)?;
    }
    connect::answered(journey, response)?;
    if let Some(current) = journey.attempt.as_mut()
        && let Some(refusal) = (current.carriage.as_deref()).and_then(Carriage::ended_at_once)
    {
        current.attempt.ended(Outcome::Answered);
        return Err(refusal.into());
    }
    forget_case(response);
    let upstreams = form(response, journey);
    let coding = coding(response);
    let form = translated(response, journey, upstreams, coding.is_some())?;
    let stream = form != Form::Body;
    journey.reply.status = response.status.as_u16();
    forget_edited_body(journey);
    journey.reply.stream = stream;
    journey.reply.form = form;
    if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
        return mark(response, journey);
    }
    drop_hop_by_hop(response);
    journey.reply.encoded = coding.is_some();
    let head_only = session.req_header().method == http::Method::HEAD;
    journey.reply.suspect = Suspect::of(journey, response.status, coding.is_some());
    let current = journey.attempt.as_ref();
    let carriage = current.and_then(|current| current.carriage.as_deref());
    let waits = carriage.is_some_and(Carriage::holds_head) && !head_only;
    if let Some(plan) = journey.plan.as_mut()
        && (journey.reply.suspect.is_some() || waits)
    {
        plan.body.hold_back();
    }
    if response.status.is_success() {
        ask::learn(journey);
    }
    journey.reply.meter = None;
    if response.status == http::StatusCode::NO_CONTENT {
        // RFC 9110, section 8.6: it has none, whatever it is.
        response.remove_header(&header::CONTENT_LENGTH);
    }
    let bodiless = head_only || matches!(response.status.as_u16(), 204 | 304);
    let translated = carriage.is_some();
    journey.reply.length = match (bodiless, stream || translated) {
        (true, _) => Some(0),
        (false, true) => None,
        (false, false) => announced(response),
    };
    if response.status.is_success()
        && !head_only
        && let (Some(plan), Some(current)) = (&journey.plan, &journey.attempt)
        && let Some(surface) =
            (current.carriage.as_ref()).map_or(plan.surface.metered(), |it| Some(it.surface))
    {
        let strip = current.asks_usage && current.carriage.is_none();
        let model = upstream_model(journey)
            .or(plan.model.as_deref())
            .unwrap_or_default();
        let meter = Meter::new(surface, model, upstreams, strip);
        journey.reply.meter = Some(match coding {
            Some(coding) => meter.decoding(coding),
            None => meter,
        });
    }
    if stream {
        journey.reply.open = Some(journey.snapshot.governor.streams().open(Instant::now()));
        // Its length can change (usage taken out, an error event put in).
        response.remove_header(&header::CONTENT_LENGTH);
        response.insert_header(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))?;
        response.insert_header(X_ACCEL_BUFFERING, HeaderValue::from_static("no"))?;
    }
    mark(response, journey)?;
    if journey.reply.suspect.is_none() && journey.reply.is_whole() {
        settle::complete(journey);
    }
    Ok(())
}

/// What `Content-Length` says.
fn announced(response: &ResponseHeader) -> Option<u64> {
    let length = response.headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.trim().parse().ok()
}

/// Passes a piece of the answer on, and meters it.
///
/// # Errors
/// When the answer is a refusal of weir's own making.
pub fn body(body: &mut Option<Bytes>, end: bool, journey: &mut Journey) -> Result<()> {
    if journey.reply.suspect.is_some() {
        *body = clear(body.take().unwrap_or_default(), end, journey)?;
        if body.is_none() && !end {
            return Ok(());
        }
    }
    let left = (journey.plan.as_ref()).is_some_and(|plan| plan.body.client_left());
    if let Some(carriage) = carriage_of(journey)
        && let Some(piece) = body.as_mut()
        && let Some(carried) = carriage.first_piece(piece)?
    {
        *piece = carried;
    }
    let reply = &mut journey.reply;
    if let Some(piece) = body.as_mut().filter(|piece| !piece.is_empty()) {
        if !left {
            reply.first_byte.get_or_insert_with(Instant::now);
        }
        if let Some(meter) = reply.meter.as_mut() {
            *piece = meter.feed(std::mem::take(piece));
            if let Some(overdue) = meter.overdue() {
                count_aside(overdue, &journey.snapshot);
            }
            let bytes = meter.bytes();
            if bytes > METER_BYTES_FREE || reply.metered.is_some() {
                let buffers = journey.snapshot.governor.buffers();
                let hold = reply.metered.get_or_insert_with(|| buffers.hold());
                if !holds(hold, bytes) {
                    let held = meter.let_go();
                    holds(hold, meter.bytes());
                    *piece = joined(std::mem::take(piece), held);
                }
            }
        }
    }
    if let Some(carriage) = carriage_of(journey)
        && let Some(piece) = body.as_mut()
    {
        *piece = carriage.piece(piece)?;
    }
    if end && let Some(last) = last_bytes(journey)? {
        *body = Some(joined(body.take().unwrap_or_default(), last));
    }
    if !left {
        journey.reply.bytes_out += body.as_ref().map_or(0, |piece| piece.len() as u64);
    }
    if end || journey.reply.is_whole() {
        settle::complete(journey);
        if let Some(plan) = journey.plan.as_mut() {
            plan.body.said_all();
        }
    }
    Ok(())
}

/// What the meter of an answer may take without being counted among the buffered bytes: of most
/// streams all that it takes.
const METER_BYTES_FREE: usize = 32 * 1024;
const METER_BYTES_STEP: usize = 16 * 1024;

/// Counts what a meter takes among the buffered bytes; `false` when weir may hold no more.
fn holds(hold: &mut Hold, bytes: usize) -> bool {
    let counted = match bytes > METER_BYTES_FREE {
        true => bytes.next_multiple_of(METER_BYTES_STEP),
        false => 0,
    };
    hold.shrink_to(counted);
    hold.grow_to(counted).is_ok()
}

/// Two pieces as one.
fn joined(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() || second.is_empty() {
        return if second.is_empty() { first } else { second };
    }
    let mut joined = BytesMut::with_capacity(first.len() + second.len());
    joined.extend_from_slice(&first);
    joined.extend_from_slice(&second);
    joined.freeze()
}

/// Has the text of a long answer counted by the thread that serves nobody. Where it has no time, or
/// weir may hold no more, an estimate must do.
#[cold]
fn count_aside(overdue: Overdue, snapshot: &Snapshot) {
    let (bytes, mut hold) = (overdue.bytes(), snapshot.governor.buffers().hold());
    if hold.grow_to(bytes).is_err() {
        return overdue.guess();
    }
    let count = move |room| {
        match room {
            Room::Enough => overdue.count(),
            Room::None => overdue.guess(),
        }
        drop(hold);
    };
    snapshot.observer.aside(bytes, count);
}

/// Holds a piece of a suspect refusal, or gives all that was held.
fn clear(piece: Bytes, end: bool, journey: &mut Journey) -> Result<Option<Bytes>> {
    let Some(suspect) = journey.reply.suspect.as_mut() else {
        return Ok(Some(piece));
    };
    let held = match suspect.feed(&piece, end) {
        Verdict::Open => return Ok(None),
        Verdict::Ours => return Err(ask::refused()),
        Verdict::Theirs(held) => held,
    };
    journey.reply.suspect = None;
    if let Some(plan) = journey.plan.as_mut() {
        plan.body.let_go();
    }
    Ok(Some(held))
}

/// An HTTP/2 upstream's trailers have come: its answer is whole. What is wrong with it must be said here:
/// later Pingora passes over it.
///
/// # Errors
/// When the answer is a refusal of weir's own making; as [`body`] where it is translated.
pub fn trailers(trailers: &mut HeaderMap, journey: &mut Journey) -> Result<()> {
    if journey.reply.suspect.is_some() {
        journey.reply.cleared = clear(Bytes::new(), true, journey)?;
    }
    if let Some(carriage) = carriage_of(journey) {
        carriage.trailers(trailers);
        journey.reply.cleared = ended(journey)?;
    }
    Ok(())
}

/// An HTTP/2 upstream may end its answer with trailers instead of a last piece.
///
/// # Errors
/// As [`body`].
pub fn ended_by_trailers(journey: &mut Journey) -> Result<Option<Bytes>> {
    match carriage_of(journey) {
        Some(_) => Ok(journey.reply.cleared.take()),
        None => ended(journey),
    }
}

/// The last bytes of an answer that ended with trailers.
fn ended(journey: &mut Journey) -> Result<Option<Bytes>> {
    if journey.reply.complete {
        return Ok(None);
    }
    let mut cleared = journey.reply.cleared.take().unwrap_or_default();
    if let Some(carriage) = carriage_of(journey) {
        cleared = carriage.piece(&cleared)?;
    }
    let last = joined(cleared, last_bytes(journey)?.unwrap_or_default());
    journey.reply.bytes_out += last.len() as u64;
    settle::complete(journey);
    Ok(Some(last).filter(|last| !last.is_empty()))
}

/// The upstream has ended its answer in good form: what was still held, and an error event if the
/// stream by its own account isn't over. A cut answer never looks like a whole one.
fn last_bytes(journey: &mut Journey) -> Result<Option<Bytes>> {
    let mut last = carriage_of(journey).map_or_else(Bytes::new, Carriage::first_rest);
    let reply = &mut journey.reply;
    let mut outcome = Outcome::Answered;
    let mut ending = Ending::Finished;
    let mut failed = false;
    if let Some(meter) = reply.meter.as_mut() {
        if !last.is_empty() {
            last = meter.feed(last);
        }
        if reply.stream {
            last = joined(last, meter.end());
            ending = meter.saw_finish();
        }
    }
    if let Some(carriage) = carriage_of(journey) {
        // The client has none of what the meter held.
        let held = carriage.piece(&last)?;
        last = joined(held, carriage.end()?);
        failed = carriage.has_failed();
        if let Some(plan) = journey.plan.as_mut() {
            plan.body.let_go();
        }
    }
    let reply = &mut journey.reply;
    reply.complete = true;
    if reply.meter.as_ref().is_some_and(Meter::is_blind) {
        let metered = match settle::has_prompt(journey.plan.as_ref()) {
            true => "what it didn't report is estimated",
            false => "it passed unmetered",
        };
        tracing::warn!(
            request_id = journey.arrival.request_id,
            "an answer's compression can't be followed: {metered}"
        );
    }
    if failed && ending != Ending::Open {
        ending = Ending::Error;
    }
    if matches!(ending, Ending::Open | Ending::Error) {
        reply.end = Some(End::UpstreamBroke);
        outcome = Outcome::Failed;
    }
    if ending == Ending::Open {
        broke_inside(journey, "short_stream", "it ended its stream early");
        if let Some(told) = stream_error(journey, SHORT_STREAM) {
            last = joined(last, told);
        }
    } else if ending == Ending::Error {
        // The client has its own error event already.
        broke_inside(journey, "error_in_stream", "its stream ended with an error");
    }
    if let Some(current) = journey.attempt.as_mut() {
        current.attempt.ended(outcome);
    }
    Ok(Some(last).filter(|last| !last.is_empty()))
}

/// What carries the answer over to the client's dialect, where that is another one.
fn carriage_of(journey: &mut Journey) -> Option<&mut Carriage> {
    journey.attempt.as_mut()?.carriage.as_deref_mut()
}

/// Makes the head that of an answer in the client's dialect, and gives the form that it has there.
fn translated(
    response: &mut ResponseHeader,
    journey: &mut Journey,
    form: Form,
    coded: bool,
) -> Result<Form> {
    match carriage_of(journey) {
        Some(carriage) if response.status != http::StatusCode::SWITCHING_PROTOCOLS => {
            carriage.begin(response, form, coded)
        }
        _ => Ok(form),
    }
}

/// No other try comes: the body that this upstream got is not needed any more.
fn forget_edited_body(journey: &mut Journey) {
    let edited = journey
        .attempt
        .as_mut()
        .and_then(|current| current.body.take());
    if let (Some(_), Some(plan)) = (edited, journey.plan.as_mut())
        && let Body::Held(held) = &mut plan.body
    {
        held.forget_edited();
    }
}

/// As for requests: names without their case, in one map.
fn forget_case(head: &mut ResponseHeader) {
    let (empty, ()) = http::Response::new(()).into_parts();
    let whole = std::mem::replace(head, ResponseHeader::from(empty));
    *head = ResponseHeader::from(http::response::Parts::from(whole));
}

/// RFC 9110, section 7.6.1: what `Connection` names concerns one connection too.
fn drop_hop_by_hop(response: &mut ResponseHeader) {
    let named: Vec<HeaderName> = response
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::TRANSFER_ENCODING)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        response.remove_header(name);
    }
}

/// weir's own headers, and the operator's edits: on every answer.
pub fn mark(response: &mut ResponseHeader, journey: &Journey) -> Result<()> {
    let snapshot = &journey.snapshot;
    response.insert_header(X_REQUEST_ID, journey.arrival.request_id.as_str())?;
    if let Some(plan) = &journey.plan
        && let Some(label) = plan.course.fallback().or(plan.label.as_ref())
    {
        response.insert_header(X_WEIR_MODEL, &**label)?;
    }
    let current = journey.attempt.as_ref();
    let current = current.map(|it| (it.attempt.endpoint().provider, it.number));
    let before = || {
        let tried = journey.plan.as_ref()?.tried.as_ref()?;
        Some((tried.provider(), tried.number()))
    };
    if let Some((provider, tries)) = current.or_else(before) {
        let provider = snapshot.upstreams.provider(provider);
        response.insert_header(X_WEIR_PROVIDER, &*provider.name)?;
        let mut number = itoa::Buffer::new();
        response.insert_header(X_WEIR_ATTEMPTS, number.format(tries))?;
    }
    if let Some(current) = &journey.attempt
        && let Some(carriage) = current.carriage.as_deref()
        && let Some(dropped) = dropped(&carriage.dropped)
    {
        response.insert_header(X_WEIR_DROPPED, dropped)?;
    }
    if let Some(grant) = &journey.grant {
        standing::mark(response, grant, journey.surface())?;
    }
    if journey.arrival.secure {
        secure(response, journey.arrival.hsts.as_ref())?;
    }
    for name in &snapshot.corridor.response_headers.remove {
        response.remove_header(name);
    }
    for (name, template) in &snapshot.corridor.response_headers.set {
        if let Some(value) = rendered(template, journey) {
            response.insert_header(name.clone(), value)?;
        }
    }
    Ok(())
}

/// What of a request was left out, as a list for a header; what doesn't fit is told by `…` alone.
fn dropped(fields: &[String]) -> Option<HeaderValue> {
    /// A longer header is refused by some clients.
    const BYTES_MAX: usize = 2048;
    let mut list = String::new();
    for field in fields {
        if list.len() + field.len() > BYTES_MAX {
            list.push_str(", ...");
            break;
        }
        if !list.is_empty() {
            list.push_str(", ");
        }
        // What a client wrote may be anything.
        list.extend(
            field
                .chars()
                .map(|c| if c.is_ascii_graphic() { c } else { '?' }),
        );
    }
    HeaderValue::from_str(&list)
        .ok()
        .filter(|list| !list.is_empty())
}

/// What browsers are to make of answers that came by TLS. Whether this host is to be reached by TLS
/// alone is its own affair, not the upstream's (RFC 6797, section 6.1).
fn secure(response: &mut ResponseHeader, hsts: Option<&HeaderValue>) -> Result<()> {
    match hsts {
        Some(hsts) => response.insert_header(header::STRICT_TRANSPORT_SECURITY, hsts.clone())?,
        None => drop(response.remove_header(&header::STRICT_TRANSPORT_SECURITY)),
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        if !response.headers.contains_key(&name) {
            response.insert_header(name, HeaderValue::from_static(value))?;
        }
    }
    Ok(())
}

/// How an answer is compressed, if it is; `Some(None)` where weir doesn't know how.
fn coding(response: &ResponseHeader) -> Option<Option<Coding>> {
    let named = response.headers.get_all(header::CONTENT_ENCODING).iter();
    let mut named = named.map(HeaderValue::as_bytes).filter(|name| {
        let name = name.trim_ascii();
        !name.is_empty() && !name.eq_ignore_ascii_case(b"identity")
    });
    let first = named.next()?;
    let only = named.next().is_none();
    Some(Coding::named(first).filter(|_| only))
}

/// The form of an answer.
fn form(response: &ResponseHeader, journey: &Journey) -> Form {
    let content_type = response.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let current = journey.attempt.as_ref();
    match current.and_then(|current| current.carriage.as_deref()) {
        Some(carriage) => (carriage.first_form()).unwrap_or_else(|| {
            Surface::Metered(carriage.surface).form(content_type, &carriage.path)
        }),
        None => journey.surface().form(content_type, &journey.arrival.path),
    }
}

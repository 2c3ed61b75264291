//! Looks into a request's body for the model, without losing a byte.
//!
//! A body that can name a model is read whole (Pingora chooses the upstream before it sends a body)
//! and then replayed; see `replay`. Other bodies pass through unread.

use super::journey::Journey;
use super::plan::Surface;
use super::refuse::Refusal;
use super::replay::{self, Deadlines, Slot, Terms};
use crate::dialect::multipart;
use crate::dialect::openai::request::{self, Asked, AskedError};
use crate::govern::{Caller, Grant, Hold};
use bytes::{Bytes, BytesMut};
use http::header;
use pingora_proxy::Session;
use std::io::Read;

/// A request's body.
#[derive(Debug)]
pub enum Body {
    /// It passes through, at most this long.
    Streamed {
        /// `limits.body_bytes`.
        bytes_max: usize,
        /// What `Content-Length` says.
        length: Option<usize>,
        /// Bytes that have passed.
        passed: u64,
        /// The session that is stood in for.
        slot: Option<Slot>,
    },
    /// It is held whole (it may be empty).
    Held(Held),
}

/// A body in memory.
#[derive(Debug)]
pub struct Held {
    /// As it came.
    pub bytes: Bytes,
    /// Decompressed, where it came compressed.
    plain: Option<Bytes>,
    /// What it asks for.
    pub kind: Kind,
    slot: Option<Slot>,
    hold: Hold,
}

/// What a body is.
#[derive(Debug)]
pub enum Kind {
    /// A JSON object, or something that names nothing.
    Json(Box<Asked>),
    /// `multipart/form-data`.
    Form(multipart::Form),
}

/// Reads the body if it can name a model or is to be metered.
///
/// # Errors
/// The refusal to answer with.
pub async fn body(
    session: &mut Session,
    journey: &Journey,
    surface: Surface,
) -> Result<Body, Refusal> {
    let snapshot = &journey.snapshot;
    let bytes_max = snapshot.governor.body_bytes_max();
    let length = content_length(session);
    if length.is_some_and(|length| length > bytes_max) {
        return Err(Refusal::BodyTooLarge(bytes_max));
    }
    let media = Media::of(session);
    let restricted = (journey.arrival.caller.as_ref()).is_some_and(Caller::is_restricted);
    let limited = journey.grant.as_ref().is_some_and(Grant::is_limited);
    let metered = surface.metered().is_some();
    let wanted = surface.prompt().is_some()
        || !snapshot.routes.models.is_empty()
        || restricted
        || limited && metered;
    let empty = session.is_body_empty();
    if !empty && wants_continue(session) && session.write_continue_response().await.is_err() {
        return Err(Refusal::ClientLeft);
    }
    if session.is_upgrade_req()
        || !empty && (media == Media::Opaque && !speaks_json(surface) || !wanted)
    {
        return Ok(Body::Streamed {
            bytes_max,
            length,
            passed: 0,
            slot: None,
        });
    }
    let mut hold = snapshot.governor.buffers().hold();
    let bytes = if empty {
        Bytes::new()
    } else {
        let whole = read(session, &mut hold, length, bytes_max);
        let in_time = tokio::time::timeout(snapshot.corridor.timeouts.client_body, whole);
        let mut over = snapshot.governor.ending().over();
        tokio::select! {
            biased;
            read = in_time => match read {
                Ok(bytes) => bytes?,
                Err(_) => return Err(Refusal::ClientTimeout),
            },
            () = std::future::poll_fn(|cx| over.poll(cx)) => return Err(Refusal::ShuttingDown),
        }
    };
    let (plain, hold) = decompressed(session, &bytes, hold, bytes_max).await?;
    let kind = read_kind(plain.as_ref().unwrap_or(&bytes), media, surface)?;
    if let Kind::Json(asked) = &kind
        && let Some(odd) = asked.odd
    {
        // An API that weir doesn't know may have fields of its own; which model is meant matters to whoever
        // may not use all.
        let matters = match odd {
            AskedError::NotNames(_) | AskedError::DuplicateField("model") => restricted || limited,
            _ => false,
        };
        if matters || metered && !matches!(odd, AskedError::NotNames(_)) {
            return Err(Refusal::from(odd));
        }
    }
    Ok(Body::Held(Held {
        bytes,
        plain,
        kind,
        slot: None,
        hold,
    }))
}

/// Reads a body whole, never more than `bytes_max` and never more than the host may hold.
async fn read(
    session: &mut Session,
    hold: &mut Hold,
    length: Option<usize>,
    bytes_max: usize,
) -> Result<Bytes, Refusal> {
    let gone = |error: Box<pingora::Error>| Refusal::client_broke(&error);
    // Whoever can't come to an end now doesn't begin: bodies that all came half would keep each other from
    // ever being whole. What is only announced is not held, or announcing would be an attack.
    if length.is_some_and(|length| !hold.has_room(length)) {
        return Err(Refusal::Overloaded("buffered bytes"));
    }
    let Some(first) = session.read_request_body().await.map_err(gone)? else {
        return Ok(Bytes::new());
    };
    if length == Some(first.len()) {
        hold_more(hold, first.len())?;
        return Ok(first);
    }
    let mut whole = BytesMut::new();
    let mut next = Some(first);
    while let Some(piece) = next {
        let size = whole.len() + piece.len();
        if size > bytes_max {
            return Err(Refusal::BodyTooLarge(bytes_max));
        }
        hold_more(hold, size)?;
        if whole.capacity() < size {
            // Room for all that was announced: pages that nobody has sent yet cost nothing.
            let room = length.unwrap_or(size * 2).clamp(size, bytes_max);
            whole.reserve(room - whole.len());
        }
        whole.extend_from_slice(&piece);
        drop(piece);
        next = session.read_request_body().await.map_err(gone)?;
    }
    Ok(whole.freeze())
}

fn hold_more(hold: &mut Hold, bytes: usize) -> Result<(), Refusal> {
    /// The shared counter is touched once in this many bytes.
    const STEP: usize = 64 << 10;
    if bytes <= hold.bytes() {
        return Ok(());
    }
    let rounded = if bytes <= STEP {
        bytes
    } else {
        bytes.next_multiple_of(STEP)
    };
    hold.grow_to(rounded)
        .map_err(|_| Refusal::Overloaded("buffered bytes"))
}

/// What a body's media type says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Media {
    /// JSON by name: what isn't JSON is refused.
    Json,
    /// A form with this boundary.
    Form(String),
    /// Sound, pictures, archives: nothing in it can name a model.
    Opaque,
    /// Unknown (curl calls everything a form): JSON if it looks like it.
    Unknown,
}

impl Media {
    fn of(session: &Session) -> Self {
        let Some(value) = session.get_header(header::CONTENT_TYPE) else {
            return Self::Unknown;
        };
        let Ok(text) = value.to_str() else {
            return Self::Opaque;
        };
        let essence = text.split(';').next().unwrap_or_default().trim();
        let essence = essence.to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Self::Json,
            "multipart/form-data" => multipart::boundary(text).map_or(Self::Opaque, Self::Form),
            "application/octet-stream"
            | "application/gzip"
            | "application/zip"
            | "application/pdf" => Self::Opaque,
            other if other.ends_with("+json") => Self::Json,
            other
                if ["audio/", "image/", "video/", "font/"]
                    .iter()
                    .any(|kind| other.starts_with(kind)) =>
            {
                Self::Opaque
            }
            _ => Self::Unknown,
        }
    }
}

fn read_kind(body: &[u8], media: Media, surface: Surface) -> Result<Kind, Refusal> {
    let is_json = media == Media::Json || speaks_json(surface);
    if let Media::Form(boundary) = media {
        let form = multipart::read(body, &boundary).map_err(Refusal::from)?;
        return Ok(Kind::Form(form));
    }
    if body.is_empty() {
        return Ok(Kind::Json(Box::default()));
    }
    match request::read(body) {
        Ok(asked) => Ok(Kind::Json(Box::new(asked))),
        // Where neither type nor path say that it is JSON, what can't be read is the upstream's affair. A
        // field that is there twice never is: servers differ in which one they believe.
        Err(AskedError::InvalidJson { .. } | AskedError::TooDeep) if !is_json => {
            Ok(Kind::Json(Box::default()))
        }
        Err(error) => Err(Refusal::from(error)),
    }
}

/// Its requests are JSON: many of its servers don't look at the type that a body is said to have. Sound and
/// pictures are sent as they are, too.
fn speaks_json(surface: Surface) -> bool {
    use crate::tokens::meter::Surface::{Audio, Images};
    let metered = surface.metered();
    metered.is_some_and(|surface| !matches!(surface, Audio | Images))
}

/// Decompresses a body under the same cap.
async fn decompressed(
    session: &Session,
    bytes: &Bytes,
    mut hold: Hold,
    bytes_max: usize,
) -> Result<(Option<Bytes>, Hold), Refusal> {
    let Some(encoding) = session.get_header(header::CONTENT_ENCODING) else {
        return Ok((None, hold));
    };
    let encoding = encoding
        .to_str()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if bytes.is_empty() || encoding.is_empty() || encoding == "identity" {
        return Ok((None, hold));
    }
    let bytes = bytes.clone();
    // A few kilobytes can become megabytes: not on a thread that serves.
    let job = tokio::task::spawn_blocking(move || {
        let compressed: &[u8] = &bytes;
        let decoder: Box<dyn Read> = match encoding.as_str() {
            "gzip" | "x-gzip" => Box::new(flate2::read::MultiGzDecoder::new(compressed)),
            "deflate" => Box::new(flate2::read::ZlibDecoder::new(compressed)),
            "br" => Box::new(brotli::Decompressor::new(compressed, 4096)),
            "zstd" => Box::new(
                zstd::Decoder::new(compressed)
                    .map_err(|error| Refusal::invalid(&format!("the body isn't zstd: {error}")))?,
            ),
            other => {
                let allowed = "gzip, deflate, br or zstd";
                return Err(Refusal::invalid(&format!(
                    "content-encoding must be {allowed}, not {other}"
                )));
            }
        };
        let mut plain = Vec::new();
        let mut decoder = decoder.take(bytes_max as u64 + 1);
        let mut piece = vec![0; 64 << 10];
        loop {
            let read = decoder.read(&mut piece).map_err(|error| {
                Refusal::invalid(&format!("the body isn't {encoding}: {error}"))
            })?;
            if read == 0 {
                break;
            }
            if plain.len() + read > bytes_max {
                return Err(Refusal::BodyTooLarge(bytes_max));
            }
            hold_more(&mut hold, bytes.len() + plain.len() + read)?;
            plain.extend_from_slice(&piece[..read]);
        }
        Ok((Some(Bytes::from(plain)), hold))
    });
    job.await
        .unwrap_or_else(|_| Err(Refusal::invalid("the body can't be decompressed")))
}

fn content_length(session: &Session) -> Option<usize> {
    let value = session.get_header(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.trim().parse().ok()
}

fn wants_continue(session: &Session) -> bool {
    session
        .get_header(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Body {
    /// The model that it names.
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Held(Held {
                kind: Kind::Json(asked),
                ..
            }) => asked.model.as_ref().map(|model| model.name.as_str()),
            Self::Held(Held {
                kind: Kind::Form(form),
                ..
            }) => form.model.as_deref(),
            Self::Streamed { .. } => None,
        }
    }

    /// Other models that may answer instead.
    pub fn others(&self) -> &[String] {
        self.asked().map_or(&[], |asked| &asked.others)
    }

    /// How many answers it asks for, where it says so.
    pub fn choices(&self) -> Option<u64> {
        match self {
            Self::Held(Held {
                kind: Kind::Form(form),
                ..
            }) => form.choices,
            _ => self.asked().and_then(|asked| asked.choices),
        }
    }

    /// What a JSON body asks for.
    pub fn asked(&self) -> Option<&Asked> {
        match self {
            Self::Held(Held {
                kind: Kind::Json(asked),
                ..
            }) => Some(asked),
            _ => None,
        }
    }

    /// The form that it is.
    pub fn form(&self) -> Option<&multipart::Form> {
        match self {
            Self::Held(Held {
                kind: Kind::Form(form),
                ..
            }) => Some(form),
            _ => None,
        }
    }

    /// How many bytes it has; how many it has at most, before they have passed.
    pub fn length(&self) -> u64 {
        match self {
            Self::Held(_) => self.plain().map_or(0, Bytes::len) as u64,
            Self::Streamed {
                passed,
                length,
                bytes_max,
                ..
            } if *passed == 0 => length.unwrap_or(*bytes_max) as u64,
            Self::Streamed { passed, .. } => *passed,
        }
    }

    /// The body as the model server should see it, for counting.
    pub fn plain(&self) -> Option<&Bytes> {
        match self {
            Self::Held(held) => Some(held.plain.as_ref().unwrap_or(&held.bytes)),
            Self::Streamed { .. } => None,
        }
    }

    /// Bytes that came from the client.
    pub fn bytes_in(&self) -> u64 {
        match self {
            Self::Held(held) => held.bytes.len() as u64,
            Self::Streamed { passed, .. } => *passed,
        }
    }

    /// Puts the stand-in into the session's place; see `replay`.
    pub fn install(&mut self, session: &mut Session, deadlines: Deadlines) {
        let body = match self {
            Self::Held(held) => Some(held.bytes.clone()),
            Self::Streamed { .. } => None,
        };
        *self.slot() = Some(replay::install(session, body, deadlines));
    }

    /// Sets what holds for the next try.
    pub fn set_terms(&mut self, terms: Terms) {
        if let Some(slot) = self.slot() {
            slot.set_terms(terms);
        }
    }

    /// True when the client has left and its answer is read on without it.
    pub fn client_left(&self) -> bool {
        let slot = match self {
            Self::Held(held) => &held.slot,
            Self::Streamed { slot, .. } => slot,
        };
        slot.as_ref().is_some_and(Slot::client_left)
    }

    /// Holds the answer back from the client until [`Body::let_go`].
    pub fn hold_back(&mut self) {
        if let Some(slot) = self.slot() {
            slot.hold_back(true);
        }
    }

    /// Ends what [`Body::hold_back`] began.
    pub fn let_go(&mut self) {
        if let Some(slot) = self.slot() {
            slot.hold_back(false);
        }
    }

    /// No upstream is asked until this ends: none is late.
    pub fn wait(&self, wait: bool) {
        let slot = match self {
            Self::Held(held) => &held.slot,
            Self::Streamed { slot, .. } => slot,
        };
        if let Some(slot) = slot {
            slot.wait(wait);
        }
    }

    /// Says that the client has all of a stream, though its end may not have come yet.
    pub fn said_all(&mut self) {
        if let Some(slot) = self.slot() {
            slot.said_all();
        }
    }

    /// Gives the session its own connection back.
    pub fn restore(&mut self, session: &mut Session) {
        if let Some(slot) = self.slot().take() {
            slot.restore(session);
        }
    }

    fn slot(&mut self) -> &mut Option<Slot> {
        match self {
            Self::Held(held) => &mut held.slot,
            Self::Streamed { slot, .. } => slot,
        }
    }
}

impl Held {
    /// The body for one upstream: `None` when it goes as it came. An edited body goes plain even
    /// if it came compressed. It is held beside the other until [`Held::forget_edited`].
    ///
    /// # Errors
    /// When the host may hold no more.
    pub fn edited(
        &mut self,
        model: Option<&str>,
        ask_usage: bool,
    ) -> Result<Option<Bytes>, Refusal> {
        let source = self.plain.as_ref().unwrap_or(&self.bytes);
        let edited = match &self.kind {
            Kind::Json(asked) => asked.edited(source, model, ask_usage),
            Kind::Form(form) => form.edited(source, model),
        };
        if edited.as_ptr() == source.as_ptr() && edited.len() == source.len() {
            return Ok(None);
        }
        self.holds_edited(edited.len())?;
        Ok(Some(edited))
    }

    /// Counts a body that goes up instead of this one among the buffered bytes.
    ///
    /// # Errors
    /// When the host may hold no more.
    pub fn holds_edited(&mut self, bytes: usize) -> Result<(), Refusal> {
        let own = self.own_bytes();
        hold_more(&mut self.hold, own + bytes)
    }

    /// What a JSON body asks for.
    pub fn asked(&self) -> Option<&Asked> {
        match &self.kind {
            Kind::Json(asked) => Some(asked),
            Kind::Form(_) => None,
        }
    }

    /// The edited body is gone: its share among the buffered bytes is given back.
    pub fn forget_edited(&mut self) {
        let own = self.own_bytes();
        self.hold.shrink_to(own);
    }

    fn own_bytes(&self) -> usize {
        self.bytes.len() + self.plain.as_ref().map_or(0, Bytes::len)
    }
}

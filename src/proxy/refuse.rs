//! When weir answers instead of an upstream: which status, which code, in which shape.
//!
//! Rooms return errors of their own; this is the only file that knows statuses. Each refusal has
//! two texts: one for the caller, one (with the cause) for the log.

mod denied;

use super::connect;
use super::journey::Journey;
use super::plan::Surface;
use super::replay::{BODY_LATE, ENDING, FIRST_BYTE_LATE, IDLE, TOTAL};
use super::reply::mark;
use crate::dialect::ir::Unfit;
use crate::dialect::multipart::FormError;
use crate::dialect::openai::request::{AskedError, OTHERS_MAX};
use crate::egress::{ConnectError, RoadError};
use crate::govern::Denied;
use crate::govern::keys::KeyFault;
use crate::observe::access::End;
use crate::tokens::meter::{self, Form, Gap, Meter};
use crate::upstream::Unavailable;
use bytes::Bytes;
use http::{HeaderValue, header};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::{FailToProxy, Session};
use serde_json::json;
use std::fmt;
use std::time::Duration;

/// Why a request isn't served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The body should be JSON and isn't.
    InvalidJson(String),
    /// A deciding field is there twice.
    DuplicateField(&'static str),
    /// Something else is wrong with the request.
    InvalidRequest(String),
    /// It can't be said in the dialect of the model's provider.
    Unfit(Unfit),
    /// The path asks for a model, and the request names none.
    NoModel,
    /// No route serves this model.
    ModelNotFound(String),
    /// No route serves this path.
    NoRoute(String),
    /// Nobody is known by what the client showed of itself.
    NoKey(KeyFault),
    /// The caller may not use this model.
    ModelNotAllowed(String),
    /// The request names no model, and the caller may not use this path for such requests.
    PathNotAllowed(String),
    /// The client was too slow with its body.
    ClientTimeout,
    /// The client left in the middle of its body; nobody is there to be answered.
    ClientLeft,
    /// The body is larger than this many bytes.
    BodyTooLarge(usize),
    /// A limit or a budget says no.
    Limited(Denied),
    /// The host has no room for this now.
    Overloaded(&'static str),
    /// weir ends, or is replaced, and the request has had its time.
    ShuttingDown,
    /// No upstream takes the request now.
    Unavailable(Unavailable),
    /// The upstream could not be reached or broke.
    UpstreamFailed(String),
    /// The upstream was too slow.
    UpstreamTimeout(&'static str),
    /// The upstream's own refusal, which HTTP couldn't carry: a status and a body in the client's dialect,
    /// and when to come back.
    Told(u16, Bytes, Option<Duration>),
}

/// What a request hears that weir can't wait for any longer.
const ENDED: &str = "This server is shutting down or being replaced; send the request again.";
/// OpenAI's code and type of a budget that is spent.
const INSUFFICIENT_QUOTA: &str = "insufficient_quota";
/// A host that is full now may have room in this long.
const OVERLOADED_RETRY_AFTER: Duration = Duration::from_secs(1);

impl Refusal {
    /// A request that is wrong in the way that `text` says.
    pub fn invalid(text: &str) -> Self {
        Self::InvalidRequest(text.to_owned())
    }

    /// What a client's connection that broke in its body comes to.
    pub fn client_broke(error: &Error) -> Self {
        match error.etype() {
            ErrorType::ReadTimedout => Self::ClientTimeout,
            etype if *etype == BODY_LATE => Self::ClientTimeout,
            ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => {
                Self::invalid("its body's chunks are malformed")
            }
            ErrorType::InvalidHTTPHeader => Self::invalid("its framing is malformed"),
            _ => Self::ClientLeft,
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::InvalidJson(_)
            | Self::DuplicateField(_)
            | Self::InvalidRequest(_)
            | Self::Unfit(_)
            | Self::NoModel => 400,
            Self::NoKey(_) => 401,
            Self::ModelNotAllowed(_) | Self::PathNotAllowed(_) => 403,
            Self::ModelNotFound(_) | Self::NoRoute(_) => 404,
            Self::ClientTimeout | Self::ClientLeft => 408,
            Self::BodyTooLarge(_) => 413,
            Self::Limited(denied) => denied::status(denied),
            Self::UpstreamFailed(_) => 502,
            Self::Overloaded(_) | Self::ShuttingDown | Self::Unavailable(_) => 503,
            Self::UpstreamTimeout(_) => 504,
            Self::Told(status, ..) => *status,
        }
    }

    /// `x-weir-error`, and `code` in the body.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidJson(_) => "invalid_json",
            Self::DuplicateField(_) => "duplicate_field",
            Self::InvalidRequest(_) | Self::NoModel => "invalid_request",
            Self::Unfit(Unfit::Invalid { .. }) => "invalid_request",
            Self::Unfit(_) => "unsupported_by_provider",
            Self::NoKey(fault) => fault.code(),
            Self::ModelNotAllowed(_) | Self::PathNotAllowed(_) => "model_not_allowed",
            Self::ModelNotFound(_) => "model_not_found",
            Self::NoRoute(_) => "no_route",
            Self::ClientTimeout | Self::ClientLeft => "client_timeout",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::Limited(denied) => denied::code(denied),
            Self::UpstreamFailed(_) | Self::Told(..) => "upstream_failed",
            Self::Overloaded(_) | Self::Unavailable(Unavailable::NotInTime { .. }) => "overloaded",
            Self::Unavailable(Unavailable::QueueFull { .. }) => "queue_full",
            Self::Unavailable(Unavailable::Paused { .. }) => "breaker_open",
            Self::ShuttingDown => "shutting_down",
            Self::UpstreamTimeout(_) => "upstream_timeout",
        }
    }

    /// OpenAI's `type`.
    fn openai_type(&self) -> &'static str {
        match self.status() {
            429 if self.is_over_budget() => INSUFFICIENT_QUOTA,
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// Anthropic's `type`.
    fn anthropic_type(&self) -> &'static str {
        match self.status() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The field that is wrong, for OpenAI's `param`.
    fn param(&self) -> Option<&str> {
        match self {
            Self::Unfit(Unfit::Invalid { at, .. } | Unfit::Inexpressible { at, .. }) => Some(at),
            Self::DuplicateField(field) => Some(field),
            Self::ModelNotFound(_) | Self::ModelNotAllowed(_) | Self::NoModel => Some("model"),
            _ => None,
        }
    }

    /// When to come back: whoever waits that long gets in.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited(denied) => denied.wait(),
            Self::Unavailable(unavailable) => Some(unavailable.wait()),
            Self::Overloaded(_) | Self::ShuttingDown => Some(OVERLOADED_RETRY_AFTER),
            Self::Told(_, _, wait) => *wait,
            _ => None,
        }
    }

    /// Trying again wouldn't help: SDKs that would are told so.
    fn is_final(&self) -> bool {
        matches!(self, Self::Limited(denied) if denied.wait().is_none())
    }

    fn is_over_budget(&self) -> bool {
        matches!(self, Self::Limited(Denied::Budget { .. }))
    }

    /// `code` in OpenAI's body: its SDKs know their own word for a budget.
    fn openai_code(&self) -> &'static str {
        match self.is_over_budget() {
            true => INSUFFICIENT_QUOTA,
            false => self.code(),
        }
    }

    /// Google's `status`.
    fn google_status(&self) -> &'static str {
        match self.status() {
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            408 | 504 => "DEADLINE_EXCEEDED",
            429 => "RESOURCE_EXHAUSTED",
            500.. => "UNAVAILABLE",
            _ => "INVALID_ARGUMENT",
        }
    }

    /// The challenge that belongs to a 401 (RFC 6750, section 3).
    fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::NoKey(KeyFault::Missing) => Some("Bearer"),
            Self::NoKey(KeyFault::Several) => Some("Bearer error=\"invalid_request\""),
            Self::NoKey(_) => Some("Bearer error=\"invalid_token\""),
            _ => None,
        }
    }

    /// The body of the answer in the client's dialect.
    fn body(&self, surface: Surface) -> Bytes {
        if let Self::Told(_, body, _) = self {
            return body.clone();
        }
        let message = self.to_string();
        let body = match surface {
            surface if surface.is_google() => json!({"error": {
                "code": self.status(),
                "message": message,
                "status": self.google_status(),
            }}),
            surface if surface.is_anthropic() => json!({
                "type": "error",
                "error": {"type": self.anthropic_type(), "message": message},
            }),
            Surface::Metered(meter::Surface::Ollama | meter::Surface::OllamaEmbed) => {
                json!({"error": message})
            }
            _ => json!({"error": {
                "message": message,
                "type": self.openai_type(),
                "param": self.param(),
                "code": self.openai_code(),
            }}),
        };
        body.to_string().into()
    }
}

impl fmt::Display for Refusal {
    /// The sentence for the caller.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidJson(what) => write!(f, "The request's body is not valid JSON: {what}."),
            Self::DuplicateField(field) => write!(
                f,
                "The request's body has the field `{field}` more than once; send it once."
            ),
            Self::InvalidRequest(what) => write!(f, "The request can't be served: {what}."),
            Self::Unfit(unfit) => write!(f, "The request can't be served: {unfit}."),
            Self::NoModel => f.write_str("The request names no model; send the field `model`."),
            Self::ModelNotFound(model) => {
                let shown: String = model.chars().take(128).collect();
                write!(
                    f,
                    "The model `{shown}` does not exist here; see GET /v1/models."
                )
            }
            Self::NoRoute(path) => {
                let shown: String = path.chars().take(128).collect();
                write!(f, "No route serves the path `{shown}`.")
            }
            Self::NoKey(KeyFault::Missing) => f.write_str(
                "A key is needed; send it as `Authorization: Bearer KEY`, `x-api-key` or `api-key`.",
            ),
            Self::NoKey(KeyFault::Several) => f.write_str(
                "The request has several keys that differ (Authorization, x-api-key, api-key, \
                 x-goog-api-key); send one.",
            ),
            Self::NoKey(KeyFault::Invalid) => f.write_str("The key is not known here, or was revoked."),
            Self::NoKey(KeyFault::Expired) => f.write_str("The key has expired; ask for a new one."),
            Self::ModelNotAllowed(model) => {
                let shown: String = model.chars().take(128).collect();
                write!(f, "This key may not use the model `{shown}`; see GET /v1/models.")
            }
            Self::PathNotAllowed(path) => {
                let shown: String = path.chars().take(128).collect();
                write!(
                    f,
                    "The request names no model, and this key may not use the path `{shown}` for such \
                     requests."
                )
            }
            Self::ClientTimeout => f.write_str("The request's body didn't arrive in time."),
            Self::ClientLeft => f.write_str("The client left in the middle of its body."),
            Self::BodyTooLarge(max) => {
                write!(f, "The request's body is larger than {max} bytes.")
            }
            Self::Limited(denied) => denied::sentence(denied, f),
            Self::Overloaded(what) => write!(
                f,
                "The server is at its limit ({what}); wait as Retry-After says and try again."
            ),
            Self::ShuttingDown => f.write_str(ENDED),
            Self::Unavailable(Unavailable::Paused { .. }) => f.write_str(
                "The model server has failed too often lately; wait as Retry-After says and try again.",
            ),
            Self::Unavailable(Unavailable::QueueFull { .. }) => f.write_str(
                "The model server is at its limit, and so many wait for it already; wait as Retry-After \
                 says and try again.",
            ),
            Self::Unavailable(Unavailable::NotInTime { .. }) => f.write_str(
                "The model server is at its limit and has no place in time; wait as Retry-After says and \
                 try again.",
            ),
            Self::UpstreamFailed(what) => write!(f, "The model server could not be used: {what}."),
            Self::UpstreamTimeout(what) => write!(f, "The model server was too slow: {what}."),
            Self::Told(status, ..) => write!(f, "The model server refused ({status})."),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Box<Error> {
    fn from(refusal: Refusal) -> Self {
        Error::because(
            ErrorType::HTTPStatus(refusal.status()),
            refusal.code(),
            refusal,
        )
    }
}

impl From<Unfit> for Refusal {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit)
    }
}

impl From<AskedError> for Refusal {
    fn from(error: AskedError) -> Self {
        match error {
            AskedError::InvalidJson { at, what } => Self::InvalidJson(format!("byte {at}: {what}")),
            AskedError::DuplicateField(field) => Self::DuplicateField(field),
            AskedError::NotAString(field) => {
                Self::InvalidRequest(format!("`{field}` must be a string"))
            }
            AskedError::NotNames(field) => Self::InvalidRequest(format!(
                "`{field}` must be a list of at most {OTHERS_MAX} names of models"
            )),
            AskedError::OtherCase(field) => Self::InvalidRequest(format!(
                "it has a field that some servers take for `{field}` and others don't; write `{field}`"
            )),
            AskedError::TooDeep => Self::InvalidJson("it is nested too deep".into()),
        }
    }
}

impl From<FormError> for Refusal {
    fn from(error: FormError) -> Self {
        match error {
            FormError::Boundary => Self::invalid("the form's boundary is not a valid one"),
            FormError::Malformed { at, what } => {
                Self::InvalidRequest(format!("the form is malformed at byte {at}: {what}"))
            }
            FormError::DuplicateField(field) => Self::DuplicateField(field),
            FormError::NotText(field) => Self::InvalidRequest(format!("`{field}` must be text")),
        }
    }
}

impl From<RoadError> for Refusal {
    fn from(error: RoadError) -> Self {
        Self::UpstreamFailed(match error {
            RoadError::NotFound { .. } => "its name is not known".into(),
            RoadError::Dns { .. } => "its name could not be resolved".into(),
            RoadError::Forbidden { .. } => "its address is not allowed".into(),
            RoadError::NoProxy { .. } => "it needs an egress proxy and none is configured".into(),
        })
    }
}

/// Answers with a refusal; Pingora's sign that the request is done.
///
/// # Errors
/// When the client is gone.
pub async fn answer(
    session: &mut Session,
    journey: &mut Journey,
    refusal: Refusal,
) -> Result<bool> {
    if refusal == Refusal::ClientLeft {
        journey.reply.end = Some(End::ClientClosed);
        return Error::e_explain(ErrorType::ConnectionClosed, "the client left in its body")
            .map_err(|error| error.into_down());
    }
    let surface = journey.surface();
    let body = refusal.body(surface);
    let mut head = ResponseHeader::build_no_case(refusal.status(), Some(12))?;
    head.insert_header(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )?;
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    let is_theirs = matches!(refusal, Refusal::Told(..));
    if !is_theirs {
        head.insert_header("x-weir-error", refusal.code())?;
    }
    if let Some(wait) = refusal.retry_after() {
        let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        head.insert_header(header::RETRY_AFTER, millis.div_ceil(1000).max(1))?;
        head.insert_header("retry-after-ms", millis.max(1))?;
    }
    if refusal.is_final() {
        head.insert_header("x-should-retry", "false")?;
    }
    if let Some(challenge) = refusal.challenge() {
        head.insert_header(header::WWW_AUTHENTICATE, challenge)?;
    }
    journey.reply.status = refusal.status();
    journey.reply.end = Some(match is_theirs {
        true => End::Complete,
        false => End::Refused(refusal.code()),
    });
    tracing::debug!(
        request_id = journey.arrival.request_id,
        code = refusal.code(),
        %refusal,
        "refused"
    );
    write(session, journey, head, body)
        .await
        .map_err(|error| error.into_down())?;
    Ok(true)
}

/// Answers with JSON that weir made.
///
/// # Errors
/// When the client is gone.
pub async fn json(session: &mut Session, journey: &mut Journey, body: Bytes) -> Result<()> {
    own(session, journey, body, "application/json").await
}

/// Answers with a word.
///
/// # Errors
/// When the client is gone.
pub async fn text(session: &mut Session, journey: &mut Journey, word: &'static str) -> Result<()> {
    own(
        session,
        journey,
        Bytes::from_static(word.as_bytes()),
        "text/plain",
    )
    .await
}

async fn own(
    session: &mut Session,
    journey: &mut Journey,
    body: Bytes,
    media: &'static str,
) -> Result<()> {
    let mut head = ResponseHeader::build_no_case(200, Some(8))?;
    head.insert_header(header::CONTENT_TYPE, HeaderValue::from_static(media))?;
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    journey.reply.status = 200;
    journey.reply.end = Some(End::Complete);
    write(session, journey, head, body).await
}

async fn write(
    session: &mut Session,
    journey: &mut Journey,
    mut head: ResponseHeader,
    body: Bytes,
) -> Result<()> {
    mark(&mut head, journey)?;
    let head_only = session.req_header().method == http::Method::HEAD;
    session
        .write_response_header(Box::new(head), head_only)
        .await?;
    if !head_only {
        journey.reply.bytes_out = body.len() as u64;
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// True once the head of an answer has gone to the client; `100 Continue` and the like are none.
pub fn has_begun(session: &Session) -> bool {
    session.response_written().is_some_and(|head| {
        !head.status.is_informational() || head.status == http::StatusCode::SWITCHING_PROTOCOLS
    })
}

/// Answers for a request that could not be served: with a refusal where nothing was sent yet, with an
/// error event where a stream had begun, with the connection's end where nothing else would be honest.
pub async fn failed(session: &mut Session, journey: &mut Journey, error: &Error) -> FailToProxy {
    let from_client = *error.esource() == ErrorSource::Downstream && !connect::is_late(error);
    let refusal = match own_refusal(error) {
        Some(refusal) => refusal,
        None if from_client => Refusal::client_broke(error),
        None => from_upstream(error),
    };
    let mut status = 0;
    let left = (journey.plan.as_ref()).is_some_and(|plan| plan.body.client_left());
    if left || refusal == Refusal::ClientLeft || (from_client && has_begun(session)) {
        journey.reply.end.get_or_insert(End::ClientClosed);
    } else if has_begun(session) {
        end_what_began(session, journey, refusal == Refusal::ShuttingDown).await;
    } else {
        status = refusal.status();
        if let Some(plan) = journey.plan.as_mut() {
            // Pingora ends the connection after a failure: the client's own session can say so.
            plan.body.restore(session);
            session.set_keepalive(None);
        }
        if let Err(error) = answer(session, journey, refusal).await {
            tracing::debug!(%error, "a client left before its refusal");
        }
    }
    FailToProxy {
        error_code: status,
        can_reuse_downstream: false,
    }
}

/// Ends an answer whose upstream broke, or that weir itself can't wait for any longer.
async fn end_what_began(session: &mut Session, journey: &mut Journey, shutting_down: bool) {
    let last = if journey.reply.is_done() {
        journey.reply.end = Some(End::Complete);
        Bytes::new()
    } else {
        let (end, broken) = if shutting_down {
            (End::Refused(Refusal::ShuttingDown.code()), ENDED_STREAM)
        } else {
            (End::UpstreamBroke, BROKEN_STREAM)
        };
        journey.reply.end = Some(end);
        if !journey.reply.stream || journey.reply.is_complete() {
            return;
        }
        let Some(told) = stream_error(journey, broken) else {
            return;
        };
        told
    };
    journey.reply.bytes_out += last.len() as u64;
    if let Err(error) = session.write_response_body(Some(last), true).await {
        tracing::debug!(%error, "a client left before the end of its stream");
    }
}

/// What a request comes to that ended while it waited for an upstream.
pub fn while_waiting(error: &Error) -> Refusal {
    match connect::is_late(error) {
        true => from_upstream(error),
        false => Refusal::ClientLeft,
    }
}

fn own_refusal(error: &Error) -> Option<Refusal> {
    error
        .cause
        .as_deref()
        .and_then(|cause| cause.downcast_ref::<Refusal>())
        .cloned()
}

fn from_upstream(error: &Error) -> Refusal {
    let failed = |what: &str| Refusal::UpstreamFailed(what.to_owned());
    if let Some(cause) = ConnectError::within(error) {
        // The caller isn't told of proxies, hosts and ports; the log is.
        return failed(match cause {
            ConnectError::Endpoint { .. } => "it could not be reached",
            ConnectError::ProxyDenied { .. } => "the egress proxy doesn't allow it",
            ConnectError::ProxyFailed { .. } => "the egress proxy could not reach it",
            _ => "the egress proxy could not be used",
        });
    }
    match error.etype() {
        etype if *etype == FIRST_BYTE_LATE => Refusal::UpstreamTimeout("no answer in time"),
        etype if *etype == IDLE => Refusal::UpstreamTimeout("it fell silent"),
        etype if *etype == TOTAL => Refusal::UpstreamTimeout("the request took too long"),
        etype if *etype == ENDING => Refusal::ShuttingDown,
        ErrorType::ReadTimedout => Refusal::UpstreamTimeout("no answer in time"),
        ErrorType::WriteTimedout => Refusal::UpstreamTimeout("it didn't take the request"),
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
            failed("it didn't take a connection in time")
        }
        ErrorType::InvalidCert => failed("its certificate is not valid"),
        ErrorType::TLSHandshakeFailure | ErrorType::HandshakeError => failed("TLS failed"),
        ErrorType::ConnectRefused => failed("it refused the connection"),
        ErrorType::ConnectNoRoute | ErrorType::ConnectError | ErrorType::SocketError => {
            failed("it could not be reached")
        }
        ErrorType::ConnectProxyFailure => failed("the egress proxy refused"),
        ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2 | ErrorType::H2Error => {
            failed("its answer is not valid HTTP")
        }
        _ => failed("it broke the connection"),
    }
}

/// What the last event of a stream says: a code, and a sentence.
pub type Broken = (&'static str, &'static str);

/// The upstream's connection broke.
const BROKEN_STREAM: Broken = ("upstream_failed", "The upstream broke off its stream.");
/// weir's time was over.
const ENDED_STREAM: Broken = ("shutting_down", ENDED);
/// The upstream ended its answer in good form, and the stream in it isn't over.
pub const SHORT_STREAM: Broken = ("upstream_failed", "The upstream ended its stream early.");

/// What ends a stream which broke, in the client's dialect; no `[DONE]` follows. `None` where nothing
/// can be put in, so that the stream must end without.
pub fn stream_error(journey: &mut Journey, broken: Broken) -> Option<Bytes> {
    let current = journey.attempt.as_mut();
    if let Some(carriage) = current.and_then(|current| current.carriage.as_mut()) {
        return carriage.broke(broken.0, broken.1);
    }
    let reply = &journey.reply;
    if reply.encoded {
        return None;
    }
    let plan = journey.plan.as_ref();
    let surface = plan.map_or(Surface::Other, |plan| plan.surface);
    let gap = reply.meter.as_ref().and_then(Meter::gap);
    broken_off(surface, reply.form, gap, broken)
}

/// See [`stream_error`]; `gap` is where a list was broken off.
fn broken_off(
    surface: Surface,
    form: Form,
    gap: Option<Gap>,
    (code, message): Broken,
) -> Option<Bytes> {
    use meter::Surface as Of;
    let google = || json!({"error": {"code": 502, "message": message, "status": "UNAVAILABLE"}});
    let (name, data) = match (surface, form) {
        (_, Form::Body | Form::Frames) => return None,
        (_, Form::List) => {
            let (before, data) = (gap?.closing(), google());
            return Some(format!("{before}{data}]").into());
        }
        // The line end before it ends a line that was cut in the middle.
        (_, Form::Lines) => return Some(format!("\n{}\n", json!({"error": message})).into()),
        (surface, _) if surface.is_anthropic() => (
            "event: error\n",
            json!({"type": "error", "error": {"type": "api_error", "message": message}}),
        ),
        (Surface::Metered(Of::Gemini), _) => ("", google()),
        (Surface::Metered(Of::DashScope), _) => {
            ("event: error\n", json!({"code": code, "message": message}))
        }
        (Surface::Metered(Of::Cohere), _) => (
            "event: message-end\n",
            json!({"type": "message-end", "delta": {"finish_reason": "ERROR", "error": message}}),
        ),
        (Surface::Metered(Of::Responses), _) => (
            "event: error\n",
            json!({
                "type": "error",
                "code": code,
                "message": message,
                "param": null,
                "error": openai_error(code, message),
            }),
        ),
        _ => ("", json!({"error": openai_error(code, message)})),
    };
    // The empty line before it ends an event that was cut in the middle.
    Some(format!("\n\n{name}data: {data}\n\n").into())
}

fn openai_error(code: &str, message: &str) -> serde_json::Value {
    json!({"message": message, "type": "server_error", "param": null, "code": code})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_as_told_gets_in() {
        let wait = Duration::from_micros(1_000_001);
        let refusal = Refusal::Limited(Denied::RateLimited(wait));
        assert_eq!(refusal.retry_after(), Some(wait));
        assert!(!refusal.is_final());
        let refusal = Refusal::Limited(Denied::Unpriced);
        assert_eq!((refusal.retry_after(), refusal.is_final()), (None, true));
    }

    #[test]
    fn a_refusal_has_the_shape_of_the_clients_dialect() {
        let refusal = Refusal::ModelNotFound("x".repeat(1000));
        let read = |surface| -> serde_json::Value {
            serde_json::from_slice(&refusal.body(surface)).unwrap()
        };
        let openai = read(Surface::Other);
        assert_eq!(openai["error"]["code"], "model_not_found");
        assert_eq!(openai["error"]["param"], "model");
        assert!(openai["error"]["message"].as_str().unwrap().len() < 200);
        let anthropic = read(Surface::of("/v1/messages"));
        assert_eq!(anthropic["type"], "error");
        assert_eq!(anthropic["error"]["type"], "not_found_error");
    }
}

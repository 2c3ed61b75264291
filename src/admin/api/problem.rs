//! What goes wrong, as RFC 9457 tells it: `application/problem+json`, the same for every path.

use http::{HeaderValue, Method, Response, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

/// Why the weir behind the API can't do what is asked. Each has one sentence, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There is nothing of that name.
    Unknown(String),
    /// What is asked doesn't go with what is: a name that is taken, a part of weir that is off.
    Conflict(String),
    /// What is asked is well said and can't be: an end before the beginning, a team that there isn't.
    Wrong(String),
    /// Not now: a disk or a database doesn't answer.
    Failed(String),
}

impl From<Trouble> for Problem {
    fn from(trouble: Trouble) -> Self {
        let (status, detail) = match trouble {
            Trouble::Unknown(detail) => (StatusCode::NOT_FOUND, detail),
            Trouble::Conflict(detail) => (StatusCode::CONFLICT, detail),
            Trouble::Wrong(detail) => (StatusCode::UNPROCESSABLE_ENTITY, detail),
            Trouble::Failed(detail) => (StatusCode::SERVICE_UNAVAILABLE, detail),
        };
        Self::new(status, detail)
    }
}

/// The media type of problems.
pub(super) const MEDIA: &str = "application/problem+json";

/// A problem, and the headers that go with it.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    header: Option<(header::HeaderName, HeaderValue)>,
}

/// A problem as it is written (RFC 9457). Its type is always `about:blank`: the status says what kind
/// it is.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct Written<'a> {
    /// The status in words.
    title: &'a str,
    /// The answer's status code.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// What is wrong here, and what to do.
    detail: &'a str,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            header: None,
        }
    }

    fn with(mut self, name: header::HeaderName, value: &str) -> Self {
        self.header = HeaderValue::from_str(value).ok().map(|value| (name, value));
        self
    }

    pub(super) fn not_found(path: &str) -> Self {
        /// Of a path that is quoted.
        const SHOWN_CHARS_MAX: usize = 100;
        let shown: String = path.chars().take(SHOWN_CHARS_MAX).collect();
        let detail = format!("there is no {shown} here; /api/openapi.json says what there is");
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// The path has no such method; it has those that are `allowed`.
    pub(super) fn method(method: &Method, allowed: &str) -> Self {
        let detail = format!("{method} isn't answered here, only {allowed}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, detail).with(header::ALLOW, allowed)
    }

    pub(super) fn no_token() -> Self {
        let detail = "the admin token is wanted: Authorization: Bearer TOKEN";
        Self::new(StatusCode::UNAUTHORIZED, detail)
            .with(header::WWW_AUTHENTICATE, "Bearer realm=\"weir\"")
    }

    pub(super) fn media(given: &str) -> Self {
        let given = if given.is_empty() {
            "without Content-Type"
        } else {
            "of another type"
        };
        let detail = format!("the body is {given}; send Content-Type: application/json");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
            .with(header::ACCEPT, "application/json")
    }

    pub(super) fn body_too_large(bytes_max: usize) -> Self {
        let detail = format!("the body is larger than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    pub(super) fn response(&self) -> Response<Vec<u8>> {
        let written = Written {
            title: self.status.canonical_reason().unwrap_or("Problem"),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let body = serde_json::to_vec(&written).unwrap_or_default();
        let mut response = super::answer::with_type(self.status, MEDIA, body);
        if let Some((name, value)) = &self.header {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

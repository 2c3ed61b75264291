//! What the admin listener answers.
//!
//! One table (`routes`) says which requests there are; both the router and the OpenAPI document are
//! made of it, and so are the readers and writers of what goes in and out. A request is let in by
//! `guard`, read here within its bounds, and answered by its route; all that goes wrong is told as
//! RFC 9457 has it (`problem`).

mod answer;
pub mod ask;
mod document;
mod guard;
pub mod nouns;
mod problem;
mod route;
mod routes;

pub use ask::Moment;
pub use problem::Trouble;

use self::guard::{Guard, Leave, Needs};
use self::nouns::{
    KeyName, KeyQuery, Keys, LimitQuery, Limits, Made, NewKey, Overlap, Teams, Upstreams, Usage,
    UsageQuery,
};
use self::problem::Problem;
use self::route::Request;
use super::Settings;
use async_trait::async_trait;
use http::{HeaderValue, Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::time::timeout;

/// Tells the metrics, in Prometheus' text format, of all processes of this weir.
pub type Metrics = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// What operators ask of this weir. Every process answers for all of them.
///
/// Dropping a future that changes something leaves it either done or not begun.
#[async_trait]
pub trait Weir: Send + Sync {
    /// What was used, by whatever is asked for.
    async fn usage(&self, query: UsageQuery) -> Result<Usage, Trouble>;
    /// The endpoints, with how they stand in the process that answers.
    async fn upstreams(&self) -> Result<Upstreams, Trouble>;
    /// The teams of the file, with what they have used.
    async fn teams(&self) -> Result<Teams, Trouble>;
    /// Keys, of the file and made at run time.
    async fn keys(&self, query: KeyQuery) -> Result<Keys, Trouble>;
    /// One key.
    async fn key(&self, name: KeyName) -> Result<nouns::Key, Trouble>;
    /// Makes a key; its secret is told this once.
    async fn make_key(&self, key: NewKey) -> Result<Made, Trouble>;
    /// Gives a key another secret; the old one works until the overlap is over.
    async fn rotate_key(&self, name: KeyName, overlap: Overlap) -> Result<Made, Trouble>;
    /// Ends a key.
    async fn revoke_key(&self, name: KeyName) -> Result<(), Trouble>;
    /// What is in use now.
    async fn limits(&self, query: LimitQuery) -> Result<Limits, Trouble>;
}

/// All that answers are made of.
pub struct Known {
    /// What `/metrics` says.
    pub metrics: Metrics,
    /// What `/health/ready` says: false from the moment that weir drains.
    pub ready: Arc<AtomicBool>,
    /// What the rest says.
    pub weir: Arc<dyn Weir>,
}

/// The admin listener's service.
pub struct Admin {
    known: Arc<Known>,
    guard: Guard,
}

/// A request's body.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Until all of it is there.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

impl Admin {
    /// A service that tells what is `known`, to whom `settings` allow it.
    pub fn new(known: Known, settings: &Settings) -> Self {
        Self {
            known: Arc::new(known),
            guard: Guard::new(settings),
        }
    }

    async fn answer(&self, session: &mut ServerSession) -> Result<Response<Vec<u8>>, Problem> {
        let head = session.req_header();
        let (method, uri) = (head.method.clone(), head.uri.clone());
        let path = uri.path();
        let found = routes::all().iter().find_map(|at| {
            let captured = at.captures(path)?;
            Some((at, captured))
        });
        // Who may not look isn't told what there is.
        let needs = found.as_ref().map_or(Needs::Leave, |(at, _)| at.needs);
        let leave = self.guard.leave(needs, &head.headers, &uri);
        if let Leave::None(problem) = leave {
            return Err(problem);
        }
        let Some((at, captured)) = found else {
            return Err(Problem::not_found(path));
        };
        let route = at.route(&method).ok_or_else(|| {
            let allowed = at.methods();
            Problem::method(&method, &allowed)
        })?;
        if !route.only_tells() {
            leave.to_change()?;
        }
        let body = if route.wants_body() {
            json_body(session).await?
        } else {
            Vec::new()
        };
        // What a probe or a scraper adds to its path means nothing.
        let query = uri.query().filter(|_| at.needs == Needs::Leave);
        let request = Request {
            captured,
            query: query.unwrap_or_default().to_owned(),
            body,
        };
        route.act(&self.known, request).await
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let answer = self.answer(session).await;
        let mut response = answer.unwrap_or_else(|problem| problem.response());
        if !session.is_body_done() {
            // The rest of a body that nobody reads isn't waited for.
            session.set_keepalive(None);
        }
        let length = response.body().len();
        let empty = response.status() == StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        if !empty {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        let fixed = [
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if session.req_header().method == Method::HEAD {
            response.body_mut().clear();
        }
        response
    }
}

/// The whole body, of the one type that is read here. Another site's page can't make a browser send
/// that without asking first, which nobody answers.
async fn json_body(session: &mut ServerSession) -> Result<Vec<u8>, Problem> {
    let headers = &session.req_header().headers;
    let media = headers.get(header::CONTENT_TYPE);
    let media = media.and_then(|it| it.to_str().ok()).unwrap_or_default();
    let essence = media.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Problem::media(media));
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        let detail = "the body is encoded; send it as it is, without Content-Encoding";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let length = headers.get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|it| it.to_str().ok()?.parse().ok());
    if length.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        return Err(Problem::body_too_large(BODY_BYTES_MAX));
    }
    let cut = |_| Problem::new(StatusCode::BAD_REQUEST, "the body ends before its end");
    if headers.contains_key(header::EXPECT) {
        session.write_continue_response().await.map_err(cut)?;
    }
    let read = async {
        let mut body = Vec::new();
        while let Some(bytes) = session.read_request_body().await.map_err(cut)? {
            if body.len() + bytes.len() > BODY_BYTES_MAX {
                return Err(Problem::body_too_large(BODY_BYTES_MAX));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    };
    timeout(BODY_PATIENCE, read).await.unwrap_or_else(|_| {
        let seconds = BODY_PATIENCE.as_secs();
        let detail = format!("the body wasn't there after {seconds} seconds");
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
    })
}

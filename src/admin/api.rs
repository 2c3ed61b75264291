//! What the admin listener answers.

use crate::types::Secret;
use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tells the metrics, in Prometheus' text format, of all processes of this weir.
pub type Metrics = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// The admin listener's service.
pub struct Admin {
    metrics: Metrics,
    /// False from the moment that weir drains.
    ready: Arc<AtomicBool>,
    token: Option<Secret<String>>,
}

impl Admin {
    /// A service that tells `metrics`; `ready` is what `/health/ready` says.
    pub fn new(metrics: Metrics, ready: Arc<AtomicBool>, token: Option<Secret<String>>) -> Self {
        Self {
            metrics,
            ready,
            token,
        }
    }

    async fn answer(&self, method: &Method, path: &str, authorization: &[u8]) -> Response<Vec<u8>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET is answered here\n",
            );
        }
        match path {
            "/health/live" | "/healthz" => return plain(StatusCode::OK, "OK"),
            "/health/ready" if self.ready.load(Ordering::Relaxed) => {
                return plain(StatusCode::OK, "OK");
            }
            "/health/ready" => return plain(StatusCode::SERVICE_UNAVAILABLE, "draining"),
            _ => {}
        }
        if !self.may(authorization) {
            return plain(
                StatusCode::UNAUTHORIZED,
                "the admin token is wanted: Authorization: Bearer TOKEN\n",
            );
        }
        match path {
            "/metrics" => with_type(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                (self.metrics)().await.into_bytes(),
            ),
            _ => plain(
                StatusCode::NOT_FOUND,
                "not here; there are /health/live, /health/ready, /healthz and /metrics\n",
            ),
        }
    }

    fn may(&self, authorization: &[u8]) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let given = authorization.strip_prefix(b"Bearer ").unwrap_or_default();
        same(given, token.expose().as_bytes())
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let authorization = session.get_header_bytes(header::AUTHORIZATION);
        self.answer(&request.method, request.uri.path(), authorization)
            .await
    }
}

/// Compares in a time that depends on the lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    let different = a.iter().zip(b).fold(0, |bits, (a, b)| bits | (a ^ b));
    a.len() == b.len() && std::hint::black_box(different) == 0
}

fn plain(status: StatusCode, text: &str) -> Response<Vec<u8>> {
    with_type(status, "text/plain; charset=utf-8", text.into())
}

fn with_type(status: StatusCode, media: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let length = response.body().len();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(media));
    headers.insert(header::CONTENT_LENGTH, length.into());
    response
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same(b"token", b"token"));
        assert!(!same(b"token", b"tokem"));
        assert!(!same(b"toke", b"token"));
        assert!(!same(b"", b"token"));
    }
}

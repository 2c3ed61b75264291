//! HTTP to an ACME server: what `instant-acme` sends goes out through Pingora's own client, so that
//! weir has one HTTP and one TLS. Never speaks plaintext, never keeps a connection (a certificate
//! takes a dozen requests every few weeks), never follows a redirection.

use super::due::within_limits;
use super::error::Error;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use parking_lot::Mutex;
use pingora::connectors::http::v1::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// For one address to take the connection, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// For one request with its answer.
const EXCHANGE: Duration = Duration::from_secs(60);

/// No answer of an ACME server is longer.
const BODY_BYTES_MAX: usize = 1 << 20;

const USER_AGENT: &str = concat!("weir/", env!("CARGO_PKG_VERSION"), " instant-acme");

/// A client of one ACME server. Cloning it is cheap.
#[derive(Clone)]
pub(super) struct Client(Arc<Inner>);

struct Inner {
    connector: Connector,
    /// Instead of the system's.
    authorities: Option<Arc<CaType>>,
    /// What the last answer that refused something asked for.
    wait: Mutex<Option<Duration>>,
}

/// There was no answer of an ACME server.
#[derive(Debug)]
pub(super) struct NoAnswer(String);

type Failed = instant_acme::Error;

// === impl Client ===

impl Client {
    /// Reads the authorities that the server is verified by; the system's where there are none.
    ///
    /// # Errors
    /// The file can't be read, or holds something else.
    pub(super) fn new(ca: Option<&Path>) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner {
            authorities: ca.map(authorities).transpose()?,
            connector: Connector::new(None),
            wait: Mutex::new(None),
        })))
    }

    /// How long the server asked to be left alone when it last refused something; asked once.
    pub(super) fn take_wait(&self) -> Option<Duration> {
        self.0.wait.lock().take()
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Failed>> + Send>> {
        let client = Arc::clone(&self.0);
        Box::pin(async move {
            match tokio::time::timeout(EXCHANGE, client.exchange(request)).await {
                Ok(Ok(response)) => Ok(response.map(Full::new).into()),
                Ok(Err(none)) => Err(Failed::Other(Box::new(none))),
                Err(_) => {
                    let none = NoAnswer(format!("none within {} s", EXCHANGE.as_secs()));
                    Err(Failed::Other(Box::new(none)))
                }
            }
        })
    }
}

// === impl Inner ===

impl Inner {
    async fn exchange(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Bytes>, NoAnswer> {
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let body = body.to_bytes();
        let (host, addresses) = resolve(&parts.uri).await?;
        let asked = head(&parts, body.len())
            .map_err(|error| NoAnswer(format!("{}: {error}", parts.uri)))?;
        let mut session = self.connect(&host, &addresses).await?;
        let broken = |error: Box<pingora::Error>| NoAnswer(format!("{host}: {}", one_line(&error)));
        session
            .write_request_header(Box::new(asked))
            .await
            .map_err(broken)?;
        if !body.is_empty() {
            session.write_body(&body).await.map_err(broken)?;
        }
        session.finish_body().await.map_err(broken)?;
        let answered = session.read_resp_header_parts().await.map_err(broken)?;
        let mut text = BytesMut::new();
        while let Some(piece) = session.read_body_bytes().await.map_err(broken)? {
            if text.len() + piece.len() > BODY_BYTES_MAX {
                let why = format!("{host}: an answer of more than {BODY_BYTES_MAX} bytes");
                return Err(NoAnswer(why));
            }
            text.extend_from_slice(&piece);
        }
        let text = text.freeze();
        if answered.status.is_client_error() || answered.status.is_server_error() {
            *self.wait.lock() = retry_after(&answered.headers, SystemTime::now());
            // Only POST has its problem documents read by the library.
            let readable = parts.method == Method::POST && is_json(&answered.headers);
            if !readable {
                let said = detail(&text);
                let why = format!("{} answers {}{said}", parts.uri, answered.status);
                return Err(NoAnswer(why));
            }
        }
        let mut response = Response::new(text);
        *response.status_mut() = answered.status;
        *response.headers_mut() = answered.headers.clone();
        if let Some(value) = response.headers_mut().get_mut(header::RETRY_AFTER) {
            // The library adds it to the time of day, which must not overflow.
            let wait = retry_after(&answered.headers, SystemTime::now()).unwrap_or_default();
            *value = within_limits(wait).as_secs().into();
        }
        Ok(response)
    }

    /// To the first of the addresses that takes the connection and shows a certificate that holds.
    async fn connect(
        &self,
        host: &str,
        addresses: &[SocketAddr],
    ) -> Result<pingora::protocols::http::v1::client::HttpSession, NoAnswer> {
        let mut why = "no address".to_owned();
        for address in addresses {
            let mut peer = HttpPeer::new(address, true, host.to_owned());
            peer.options.connection_timeout = Some(CONNECT);
            peer.options.total_connection_timeout = Some(CONNECT);
            peer.options.read_timeout = Some(EXCHANGE);
            peer.options.write_timeout = Some(EXCHANGE);
            peer.options.ca = self.authorities.clone();
            match self.connector.get_http_session(&peer).await {
                Ok((session, _)) => return Ok(session),
                Err(error) => why = format!("{address}: {}", one_line(&error)),
            }
        }
        Err(NoAnswer(format!("{host}: {why}")))
    }
}

/// The host that is asked for, and where it is.
async fn resolve(uri: &Uri) -> Result<(String, Vec<SocketAddr>), NoAnswer> {
    let (Some("https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(NoAnswer(format!("{uri} is not an https URL")));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(443);
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| NoAnswer(format!("{host} can't be resolved: {error}")))?;
    Ok((host.to_owned(), found.collect()))
}

fn head(parts: &http::request::Parts, body_bytes: usize) -> pingora::Result<RequestHeader> {
    let path = parts.uri.path_and_query().map_or("/", |it| it.as_str());
    let mut head = RequestHeader::build(parts.method.clone(), path.as_bytes(), None)?;
    for (name, value) in &parts.headers {
        head.append_header(name.clone(), value.clone())?;
    }
    let authority = parts.uri.authority().map_or("", |it| it.as_str());
    head.insert_header(header::HOST, authority)?;
    head.insert_header(header::USER_AGENT, USER_AGENT)?;
    head.insert_header(header::CONNECTION, "close")?;
    if parts.method == Method::POST {
        head.insert_header(header::CONTENT_LENGTH, body_bytes)?;
    }
    Ok(head)
}

fn authorities(path: &Path) -> Result<Arc<CaType>, Error> {
    let error = |why: &dyn fmt::Display| Error::Authorities {
        path: path.to_owned(),
        why: why.to_string(),
    };
    let mut all = Vec::new();
    for der in CertificateDer::pem_file_iter(path).map_err(|it| error(&it))? {
        let der = der.map_err(|it| error(&it))?.to_vec();
        // Pingora panics on what isn't a certificate.
        X509Certificate::from_der(&der).map_err(|_| error(&"not a certificate"))?;
        all.push(WrappedX509::new(der, parse_x509));
    }
    if all.is_empty() {
        return Err(error(&"no certificate in it"));
    }
    Ok(all.into())
}

/// RFC 9110 section 10.2.3.
fn retry_after(headers: &HeaderMap<HeaderValue>, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value)
            .ok()?
            .duration_since(now)
            .ok(),
    }
}

/// `application/problem+json`, or what some send instead.
fn is_json(headers: &HeaderMap<HeaderValue>) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|it| it.to_str().ok());
    kind.is_some_and(|kind| kind.contains("json"))
}

fn detail(text: &[u8]) -> String {
    let problem = serde_json::from_slice::<instant_acme::Problem>(text).ok();
    let detail = problem.and_then(|problem| problem.detail);
    detail.map_or_else(String::new, |detail| format!(": {detail}"))
}

/// Pingora's errors without the line that says where they were made.
fn one_line(error: &pingora::Error) -> String {
    let mut error = error;
    while let Some(cause) = &error.cause {
        match cause.downcast_ref::<Box<pingora::Error>>() {
            Some(inner) => error = inner,
            None => return cause.to_string(),
        }
    }
    match &error.context {
        Some(context) => format!("{}: {}", error.etype().as_str(), context.as_str()),
        None => error.etype().as_str().to_owned(),
    }
}

// === impl NoAnswer ===

impl std::error::Error for NoAnswer {}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        let date = "Sun, 06 Nov 1994 08:50:37 GMT";
        assert_eq!(read(date), Some(Duration::from_secs(60)));
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT"), None);
        assert_eq!(read("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[tokio::test]
    async fn only_https_is_spoken() {
        for uri in ["http://acme.test/directory", "/directory"] {
            let refused = resolve(&Uri::from_static(uri)).await;
            assert!(refused.expect_err(uri).0.contains("not an https URL"));
        }
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        let missing = Client::new(Some(Path::new("/nowhere/ca.pem")));
        let error = missing.err().expect("no file").to_string();
        assert!(error.contains("acme.ca /nowhere/ca.pem"), "{error}");
        let empty = Client::new(Some(Path::new("/dev/null")));
        let error = empty.err().expect("an empty file").to_string();
        assert!(error.contains("no certificate in it"), "{error}");
    }
}

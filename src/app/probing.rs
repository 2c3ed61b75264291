//! Asks endpoints whether they live, where the configuration says so (`providers[].health`): one question
//! at a time for each, over the road that requests take, with the provider's credential. What the
//! answers mean is `upstream::health`'s affair. `weir check` asks nobody.

use crate::dialect::grpc;
use crate::egress::Limits;
use crate::route::join;
use crate::snapshot::Snapshot;
use crate::upstream::{EndpointId, health};
use bytes::Bytes;
use http::header;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::{Error, ErrorType, OrErr, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The questions to the endpoints of one configuration. Dropping it ends them.
#[derive(Debug, Default)]
pub(super) struct Probing(Vec<JoinHandle<()>>);

impl Probing {
    /// Begins to ask.
    pub(super) fn of(snapshot: &Arc<Snapshot>) -> Self {
        let all = 0..snapshot.upstreams.endpoints().len();
        let asked = all.map(EndpointId).filter(|id| {
            let endpoint = snapshot.upstreams.endpoint(*id);
            endpoint.health().is_some()
        });
        Self(
            asked
                .map(|id| tokio::spawn(ask_on(Arc::clone(snapshot), id)))
                .collect(),
        )
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn ask_on(snapshot: Arc<Snapshot>, id: EndpointId) {
    /// The first question comes within this time.
    const FIRST: Duration = Duration::from_millis(500);
    let endpoint = snapshot.upstreams.endpoint(id);
    let Some(rules) = endpoint.health() else {
        return;
    };
    let connector = Connector::new(None);
    let mut pause = FIRST.min(rules.interval).mul_f64(rand::random());
    loop {
        tokio::time::sleep(pause).await;
        let asked = ask(&connector, &snapshot, id, &rules.path, rules.timeout);
        let good = match tokio::time::timeout(rules.timeout, asked).await {
            Ok(Ok(good)) => good,
            Ok(Err(error)) => {
                tracing::debug!(endpoint = %endpoint.name, %error, "a health check failed");
                false
            }
            Err(_) => false,
        };
        endpoint.told(good, Instant::now());
        // Those that begin together don't stay so.
        pause = rules.interval.mul_f64(0.9 + 0.2 * rand::random::<f64>());
    }
}

/// Whether the answer is a good one.
async fn ask(
    connector: &Connector,
    snapshot: &Snapshot,
    id: EndpointId,
    path: &str,
    timeout: Duration,
) -> Result<bool> {
    let endpoint = snapshot.upstreams.endpoint(id);
    let exit = snapshot.exit(id);
    let way = snapshot.egress.way(&exit.endpoint).await;
    let way = way.or_err(ErrorType::ConnectNoRoute, "no road to the endpoint")?;
    let limits = Limits {
        connect: exit.limits.connect.min(timeout),
        first_byte: timeout,
        idle: timeout,
        write: timeout,
    };
    let mut peer = way.peer(&exit.endpoint, &limits, false);
    let provider = snapshot.upstreams.provider(endpoint.provider);
    match provider.is_called() {
        true => way.only_http2(&mut peer),
        false => way.only_http1(&mut peer),
    }
    let (mut session, _) = connector.get_http_session(&peer).await?;
    let (path, query) = path
        .split_once('?')
        .map_or((path, None), |(path, query)| (path, Some(query)));
    let target = join(&endpoint.base.path, path, query);
    let mut request = match provider.is_called() {
        true => calling(&endpoint.base.path, timeout)?,
        false => RequestHeader::build("GET", target.to_string().as_bytes(), None)?,
    };
    request.insert_header(header::HOST, endpoint.host_header.clone())?;
    request.insert_header(header::USER_AGENT, "weir")?;
    if let Some((name, credential)) = &provider.credential {
        request.insert_header(name.clone(), credential.clone())?;
    }
    session.write_request_header(Box::new(request)).await?;
    if provider.is_called() {
        let body = Bytes::from(grpc::health::request(service(path)));
        session.write_request_body(body, true).await?;
    }
    session.finish_request_body().await?;
    session.read_response_header().await?;
    if provider.is_called() {
        return serves(&mut session).await;
    }
    let answer = session.response_header();
    let status = answer.map(|answer| answer.status.as_u16());
    let status = status.ok_or_else(|| Error::explain(ErrorType::ReadError, "no answer"))?;
    Ok(health::is_good(status))
}

/// The head of a call of `grpc.health.v1.Health/Check`.
fn calling(base: &str, timeout: Duration) -> Result<RequestHeader> {
    let path = format!("{}{}", base.trim_end_matches('/'), grpc::health::CHECK);
    let mut request = RequestHeader::build("POST", path.as_bytes(), None)?;
    for (name, value) in grpc::headers() {
        request.insert_header(name, value)?;
    }
    request.insert_header("grpc-timeout", format!("{}m", timeout.as_millis().max(1)))?;
    Ok(request)
}

/// The service that is asked for: `/llm.LLMService`; `/`, and what is a page of HTTP, ask for the whole worker.
fn service(path: &str) -> &str {
    let name = path.trim_matches('/');
    match name.contains('/') {
        true => "",
        false => name,
    }
}

/// Whether a worker says that it serves.
async fn serves(session: &mut HttpSession) -> Result<bool> {
    /// The answer has a few bytes.
    const BYTES_MAX: usize = 4096;
    let mut body = Vec::new();
    while let Some(piece) = session.read_response_body().await? {
        body.extend_from_slice(&piece);
        if body.len() > BYTES_MAX {
            return Ok(false);
        }
    }
    Ok(grpc::health::serves(&body))
}

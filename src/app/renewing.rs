//! Gets the tokens of providers that take none that lasts (`providers[].service_account`), over the road
//! that their requests take, and again before they end. What is sent and what comes back is
//! `dialect`'s affair. `weir check` asks nobody.

use crate::dialect::gemini::vertex_token::{self, FORM_TYPE, ServiceAccount};
use crate::egress::Limits;
use crate::snapshot::Snapshot;
use crate::types::BaseUrl;
use crate::upstream::{Provider, Renewed};
use bytes::Bytes;
use http::header;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

/// The tasks of one configuration. Dropping it ends them.
#[derive(Debug, Default)]
pub(super) struct Renewing(Vec<JoinHandle<()>>);

/// What one request for a token may take.
const EXCHANGE: Duration = Duration::from_secs(20);
/// No answer with a token is longer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

impl Renewing {
    /// Begins to ask.
    pub(super) fn of(snapshot: &Arc<Snapshot>) -> Self {
        let providers = snapshot.upstreams.providers().iter().enumerate();
        let tasks = providers.filter_map(|(place, provider)| {
            let renewed = Arc::clone(provider.renewed.as_ref()?);
            Some(tokio::spawn(renew_on(Arc::clone(snapshot), place, renewed)))
        });
        Self(tasks.collect())
    }
}

impl Drop for Renewing {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn renew_on(snapshot: Arc<Snapshot>, place: usize, renewed: Arc<Renewed>) {
    /// So long before its end a token is replaced.
    const AHEAD: Duration = Duration::from_secs(300);
    const PAUSE_FIRST: Duration = Duration::from_secs(1);
    const PAUSE_MAX: Duration = Duration::from_secs(60);
    let provider = &snapshot.upstreams.providers()[place];
    let mut pause = PAUSE_FIRST;
    loop {
        // A reload keeps what is good.
        if let Some(left) = renewed.left(Instant::now()).filter(|left| *left > AHEAD) {
            tokio::time::sleep(left - AHEAD).await;
        }
        let asked = token(&snapshot, provider, &renewed);
        match tokio::time::timeout(EXCHANGE, asked).await {
            Ok(Ok(())) => {
                pause = PAUSE_FIRST;
                // One that lasts hardly longer than that is not asked for in a circle.
                let left = renewed.left(Instant::now()).unwrap_or_default();
                tokio::time::sleep(left.saturating_sub(AHEAD).max(left / 2).max(PAUSE_FIRST)).await;
                continue;
            }
            Ok(Err(error)) => tell(provider, &error),
            Err(_) => tell(provider, "no answer in time"),
        }
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

fn tell(provider: &Provider, error: &str) {
    tracing::error!(
        provider = %provider.name,
        error,
        "no token could be got by the service account; its requests go elsewhere or fail"
    );
}

/// Asks for one token.
async fn token(snapshot: &Snapshot, provider: &Provider, renewed: &Renewed) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let account = ServiceAccount::parse(renewed.account.expose().as_bytes());
    let account = account.map_err(|error| said(&error))?;
    let uri: BaseUrl = account.token_uri().parse().map_err(|error| said(&error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let form = account.form(now.map_or(0, |now| now.as_secs()));
    let form = Bytes::from(form.map_err(|error| said(&error))?);
    // As the provider's own requests go.
    let first = provider.endpoints.first().ok_or("it has no endpoint")?;
    let exit = &snapshot.exit(*first).endpoint;
    let endpoint = exit
        .at(uri.scheme, &uri.host, uri.port)
        .map_err(|error| said(&error))?;
    let way = snapshot.egress.way(&endpoint).await;
    let way = way.map_err(|error| said(&error))?;
    let limits = Limits {
        connect: EXCHANGE,
        first_byte: EXCHANGE,
        idle: EXCHANGE,
        write: EXCHANGE,
    };
    let mut peer = way.peer(&endpoint, &limits, false);
    way.only_http1(&mut peer);
    let sent = Instant::now();
    let (status, body) = exchange(&peer, &uri, form)
        .await
        .map_err(|error| said(&error))?;
    let token = vertex_token::read(status, &body).map_err(|error| said(&error))?;
    renewed.renew(&token.secret, sent + Duration::from_secs(token.expires_in));
    tracing::info!(provider = %provider.name, seconds = token.expires_in, "has a new token");
    Ok(())
}

async fn exchange(
    peer: &pingora::prelude::HttpPeer,
    uri: &BaseUrl,
    form: Bytes,
) -> pingora::Result<(u16, Vec<u8>)> {
    let connector = Connector::<()>::new(None);
    let (mut session, _) = connector.get_http_session(peer).await?;
    let mut request = RequestHeader::build("POST", uri.path.as_bytes(), None)?;
    request.insert_header(header::HOST, uri.authority())?;
    request.insert_header(header::USER_AGENT, "weir")?;
    request.insert_header(header::CONTENT_TYPE, FORM_TYPE)?;
    request.insert_header(header::CONTENT_LENGTH, form.len())?;
    session.write_request_header(Box::new(request)).await?;
    session.write_request_body(form, true).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session
        .response_header()
        .map_or(0, |head| head.status.as_u16());
    let mut body = Vec::new();
    while let Some(piece) = session.read_response_body().await? {
        body.extend_from_slice(&piece);
        if body.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok((status, body))
}

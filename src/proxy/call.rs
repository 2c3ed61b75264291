//! Calls that weir makes itself, where Pingora's one connection for each request isn't enough: a second
//! one beside the first (`hedge`), or one for several (`batch`). For short requests whose body is held;
//! between `plan` and `connect`.
//!
//! A call goes the way of every try: `connect` chooses its candidate, `forward` writes its head, `reply`
//! passes its answer on and meters it, `settle` books it. What fails before an answer has begun is given
//! back to `connect`, which says whether the request goes on in the usual way.

mod answer;
mod batch;
mod hedge;
mod wire;

use super::carriage;
use super::connect::{self, Sent, Try};
use super::forward;
use super::journey::Journey;
use super::peek::Body;
use super::plan::Plan;
use crate::snapshot::Snapshot;
use crate::upstream::retry::{Fault, Nature};
use batch::Batches;
use bytes::Bytes;
use http::{HeaderName, Method, header};
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::server::configuration::ServerConf;
use pingora::{Error, Result};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::Instant;
use wire::Wire;

/// Where connections of such calls are kept; Pingora's own pool is out of reach.
pub struct Calls {
    connector: Connector,
    batches: Batches,
}

impl Calls {
    /// A pool as `conf` describes it.
    pub fn new(conf: &ServerConf) -> Self {
        let options = ConnectorOptions::from_server_conf(conf);
        Self {
            connector: Connector::new(Some(options)),
            batches: Batches::default(),
        }
    }
}

/// Serves a request whose route has weir call for it; `false` where it goes the usual way, from the
/// beginning or from where its calls have come to.
///
/// # Errors
/// What the client is to be told, as `refuse` reads it.
pub async fn serve(
    session: &mut Session,
    journey: &mut Journey,
    calls: &Arc<Calls>,
) -> Result<bool> {
    let snapshot = Arc::clone(&journey.snapshot);
    let posted = journey.arrival.method == Method::POST;
    let plan = journey
        .plan
        .as_ref()
        .filter(|plan| posted && is_short(plan));
    let Some(label) = plan.and_then(|plan| plan.label.clone()) else {
        return Ok(false);
    };
    if let Some(batch) = snapshot.batches.get(&*label)
        && !is_translated(journey)
        && let Some(place) = batch::join(session, journey, calls, batch, &label).await
    {
        return batch::serve(session, journey, calls, place).await;
    }
    match snapshot.hedges.get(&*label) {
        // How a call of gRPC ended, only its trailers say.
        Some(_) if is_called(journey) => Ok(false),
        Some(hedge) => hedge::serve(session, journey, calls, hedge).await,
        None => Ok(false),
    }
}

/// Some candidate gets it in another dialect: what is put together for one isn't for the other.
fn is_translated(journey: &Journey) -> bool {
    let upstreams = &journey.snapshot.upstreams;
    journey.plan.as_ref().is_some_and(|plan| {
        plan.course.candidates().any(|choice| {
            let provider = upstreams.endpoint(choice.endpoint).provider;
            let dialect = upstreams.provider(provider).dialect.as_ref();
            carriage::is_needed(plan, &journey.arrival, dialect)
        })
    })
}

/// Some candidate is called by gRPC.
fn is_called(journey: &Journey) -> bool {
    let upstreams = &journey.snapshot.upstreams;
    journey.plan.as_ref().is_some_and(|plan| {
        plan.course.candidates().any(|choice| {
            let provider = upstreams.endpoint(choice.endpoint).provider;
            upstreams.provider(provider).is_called()
        })
    })
}

/// It may be sent twice, and its answer comes in one piece.
fn is_short(plan: &Plan) -> bool {
    let held = matches!(&plan.body, Body::Held(held) if !held.bytes.is_empty());
    let streams = plan.body.asked().is_some_and(|asked| asked.stream);
    plan.surface.is_short() && held && !streams && !plan.upgrade && !plan.untold
}

/// A call to one upstream. Dropping it gives it up: a connection of HTTP/1 is closed, a stream of HTTP/2
/// reset, and its attempt ends as nobody's fault.
struct Call {
    current: Try,
    wire: Wire,
    head: RequestHeader,
    body: Bytes,
    nature: Nature,
    snapshot: Arc<Snapshot>,
}

/// The head of an answer.
struct Head {
    head: Box<ResponseHeader>,
    /// A success, or a mistake of the client's, which every upstream would find.
    good: bool,
}

impl Call {
    /// A call to the next candidate, not begun; one beside another call without a session.
    ///
    /// # Errors
    /// As [`connect::next`].
    async fn next(
        asked: &RequestHeader,
        session: Option<&mut Session>,
        journey: &mut Journey,
    ) -> Result<Self> {
        let peer = connect::next(session, journey).await?;
        let mut head = asked.clone();
        strip_hop_by_hop(&mut head);
        forward::rewrite(&mut head, journey)?;
        let (Some(current), Some(plan)) = (journey.attempt.take(), journey.plan.as_mut()) else {
            return Err(unplanned());
        };
        plan.detour.end();
        let Body::Held(held) = &plan.body else {
            return Err(unplanned());
        };
        Ok(Self {
            body: current.body.clone().unwrap_or_else(|| held.bytes.clone()),
            wire: Wire::to(peer),
            nature: plan.nature(&journey.arrival.method),
            current,
            head,
            snapshot: Arc::clone(&journey.snapshot),
        })
    }

    /// Has another body; `false` where its length can't be said.
    fn carry(&mut self, body: Bytes) -> bool {
        let said = self.head.insert_header(header::CONTENT_LENGTH, body.len());
        self.body = body;
        said.is_ok()
    }

    /// Sends the request, and waits for the answer's head. To be called once. `sent` is told when the
    /// upstream may be at work.
    ///
    /// # Errors
    /// What came instead.
    async fn head(&mut self, calls: &Calls, sent: impl FnOnce(&Try)) -> Result<Head> {
        let (http2, reused) = self.wire.connect(&calls.connector).await?;
        if let Some(lead) = self.current.lead.take() {
            lead.connected(http2);
        }
        if let Some(road) = self.current.road {
            let pool = &self.snapshot.observer.metrics.pool;
            pool.carried(road.as_str(), reused);
        }
        self.current.sent = Some(Sent {
            at: Instant::now(),
            http2,
        });
        sent(&self.current);
        let head = self.wire.ask(&self.head, self.body.clone()).await?;
        let provider = self.current.attempt.endpoint().provider;
        let own_account = self.snapshot.upstreams.provider(provider);
        let own_account = own_account.has_own_account();
        let fault = Fault::of_status(head.status.as_u16(), self.nature, own_account);
        Ok(Head {
            head,
            good: fault.is_none(),
        })
    }

    /// It has failed, or its client has left, before an answer had begun: what [`serve`] returns.
    fn failed(self, error: Box<Error>, session: &Session, journey: &mut Journey) -> Result<bool> {
        journey.attempt = Some(self.current);
        let error = match self.wire.reused() {
            None => connect::failed(journey, error),
            Some(reused) => connect::broke(session, journey, error, reused),
        };
        match error.retry() {
            true => Ok(false),
            false => Err(error),
        }
    }
}

fn unplanned() -> Box<Error> {
    Error::explain(pingora::ErrorType::InternalError, "a call without a plan")
}

/// RFC 9110, section 7.6.1: what concerns the client's connection only.
fn strip_hop_by_hop(head: &mut RequestHeader) {
    const HOP_BY_HOP: [HeaderName; 7] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("http2-settings"),
        header::TE,
        header::TRAILER,
        header::UPGRADE,
    ];
    let named: Vec<HeaderName> = (head.headers.get_all(header::CONNECTION).iter())
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        head.remove_header(name);
    }
}

/// Resolves when the client has left, or a deadline of its answer is over.
async fn interrupted(session: &mut Session) -> Box<Error> {
    loop {
        match session.downstream_session.read_body_or_idle(true).await {
            Ok(Some(_)) => {}
            Ok(None) => std::future::pending().await,
            Err(error) => return error.into_down(),
        }
    }
}

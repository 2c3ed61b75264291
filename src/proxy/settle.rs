//! Last step: one usage, one access record, the metrics. It hangs on the journey's `Drop`, so that a
//! client that vanishes, a panic and a runtime that ends are settled like everything else.

use super::arrive::Arrival;
use super::journey::Journey;
use super::plan::{Plan, Surface};
use super::reply::Reply;
use crate::egress::Road;
use crate::observe::Record;
use crate::observe::access::{End, Usage};
use crate::snapshot::Snapshot;
use crate::tokens::meter::{self, Source};
use crate::tokens::prompt::{Api, prompt_tokens};
use crate::types::identity::Identity;
use crate::upstream::Endpoint;
use pingora::{Error, ErrorSource};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::Instant;

/// nginx's status for a client that left before it had an answer.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Pingora is done with the request: what only it knows is written down, and the client's
/// connection gets its own session back.
pub fn over(session: &mut Session, error: Option<&Error>, journey: &mut Journey) {
    if let Some(plan) = journey.plan.as_mut() {
        plan.body.restore(session);
    }
    journey.reply.end.get_or_insert_with(|| match error {
        None => End::Complete,
        Some(error) if *error.esource() == ErrorSource::Downstream => End::ClientClosed,
        Some(_) => End::UpstreamBroke,
    });
}

impl Drop for Journey {
    fn drop(&mut self) {
        let ended = Instant::now();
        if Surface::of(&self.arrival.path) == Surface::Health {
            // A probe every second is no traffic.
            return;
        }
        let tried = self.attempt.take().map(|current| Tried {
            endpoint: current.attempt.shared_endpoint(),
            model: current.choice.model.clone(),
            road: current.road,
            sent: current.sent.is_some(),
            number: current.number,
        });
        // Its places among those in flight are free when it is told of, or left to be counted: a weir
        // that waits for the last request to end must not end between the two.
        let places = (self.grant.take(), self.reply.open.take());
        let settled = Settled {
            ended,
            tried,
            snapshot: Arc::clone(&self.snapshot),
            arrival: std::mem::replace(&mut self.arrival, Arrival::now()),
            plan: self.plan.take(),
            reply: std::mem::take(&mut self.reply),
        };
        settled.tell_where_it_belongs();
        drop(places);
    }
}

/// A journey that is over.
struct Settled {
    ended: Instant,
    snapshot: Arc<Snapshot>,
    arrival: Arrival,
    plan: Option<Plan>,
    tried: Option<Tried>,
    reply: Reply,
}

/// The last try.
struct Tried {
    endpoint: Arc<Endpoint>,
    model: Option<Arc<str>>,
    road: Option<Road>,
    sent: bool,
    number: u32,
}

/// The model that the upstream was asked for: its own name, else the client's.
fn asked_model<'a>(tried: Option<&'a Tried>, plan: &'a Plan) -> &'a str {
    tried
        .and_then(|tried| tried.model.as_deref())
        .or(plan.model.as_deref())
        .unwrap_or_default()
}

impl Settled {
    /// Tokens that the upstream reported are told at once. Where some must be counted, a thread that
    /// serves nobody does it; the body waits there, still among the buffered bytes.
    fn tell_where_it_belongs(mut self) {
        self.meter_what_was_not_answered();
        let Some(meter) = self.reply.meter.as_mut() else {
            return self.tell(None);
        };
        // Embeddings have no output that could be missing.
        let embeddings =
            (self.plan.as_ref()).is_some_and(|plan| plan.surface == Surface::Embeddings);
        let reported = meter
            .usage()
            .filter(|usage| usage.input.is_some() && (usage.output.is_some() || embeddings));
        if let Some(usage) = reported {
            return self.tell(Some(usage));
        }
        let observer = Arc::clone(&self.snapshot.observer);
        observer.aside(move || {
            let usage = self.counted();
            self.tell(usage);
        });
    }

    /// A client that left before the answer's head: its prompt is at the upstream all the same.
    fn meter_what_was_not_answered(&mut self) {
        let sent = self.tried.as_ref().is_some_and(|tried| tried.sent);
        let left = self.reply.status == 0 && self.reply.end == Some(End::ClientClosed);
        if let Some(plan) = self.plan.as_ref().filter(|_| sent && left)
            && let Some(surface) = plan.surface.metered()
        {
            let model = asked_model(self.tried.as_ref(), plan);
            self.reply.meter = Some(meter::Meter::new(surface, model, false, false));
        }
    }

    fn counted(&mut self) -> Option<meter::Usage> {
        let plan = self.plan.as_ref()?;
        let model = asked_model(self.tried.as_ref(), plan);
        let api = match plan.surface {
            Surface::Chat => Api::Chat,
            Surface::Completions => Api::Completions,
            _ => Api::Embeddings,
        };
        let body = plan.body.plain();
        let prompt = || body.map_or(0, |body| prompt_tokens(api, model, body));
        Some(self.reply.meter.as_mut()?.settle(prompt))
    }

    fn tell(self, usage: Option<meter::Usage>) {
        let (arrival, reply, plan) = (&self.arrival, &self.reply, self.plan.as_ref());
        let since = |instant: Instant| instant.saturating_duration_since(arrival.started);
        let end = reply.end.unwrap_or(End::Aborted);
        let status = match (reply.status, end) {
            (0, End::ClientClosed) => CLIENT_CLOSED_REQUEST,
            (0, _) => 500,
            (status, _) => status,
        };
        let tried = self.tried.as_ref();
        let upstreams = &self.snapshot.upstreams;
        self.snapshot.observer.request(&Record {
            time: arrival.time,
            request_id: &arrival.request_id,
            trace_id: &arrival.trace.id,
            client_ip: arrival.client,
            client_cert: arrival.identity.as_deref().map(Identity::name),
            method: arrival.method.as_str(),
            path: &arrival.path,
            status,
            latency: since(self.ended),
            first_byte: reply.first_byte.map(since),
            overhead: plan.and_then(|plan| plan.overhead),
            team: None,
            key: None,
            model: plan.and_then(|plan| plan.model.as_deref()),
            model_label: plan.and_then(|plan| plan.label.as_deref()),
            upstream_model: tried.and_then(|tried| tried.model.as_deref()),
            provider: tried.map(|tried| &*upstreams.provider(tried.endpoint.provider).name),
            endpoint: tried.map(|tried| &*tried.endpoint.name),
            road: tried.and_then(|tried| tried.road).map(|road| match road {
                Road::Direct => "direct",
                Road::Proxy => "proxy",
            }),
            attempts: tried.map_or(0, |tried| tried.number),
            usage: usage.map(figures),
            bytes_in: plan.map_or(0, |plan| plan.body.bytes_in()),
            bytes_out: reply.bytes_out,
            stream: reply.stream,
            end,
        });
    }
}

fn figures(usage: meter::Usage) -> Usage {
    Usage {
        input: usage.input.unwrap_or(0),
        output: usage.output.unwrap_or(0),
        cached: usage.cached.unwrap_or(0),
        reasoning: usage.reasoning.unwrap_or(0),
        source: match usage.source {
            Source::Upstream => "upstream",
            Source::Counted => "counted",
            Source::Estimated => "estimated",
        },
    }
}

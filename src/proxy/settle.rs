//! Last step: one usage, one access record, the metrics. What a completed answer used is settled
//! before its last bytes go to the client; see [`complete`]. The rest hangs on the journey's `Drop`, so
//! that a client that vanishes, a panic and a runtime that ends are settled like everything else.

mod count;
mod pay;

pub use pay::Bill;

use super::arrive::Arrival;
use super::connect::Try;
use super::journey::Journey;
use super::plan::{Plan, Surface};
use super::refuse;
use super::reply::Reply;
use crate::egress::Road;
use crate::govern::Grant;
use crate::govern::grant::Stake;
use crate::govern::ledger::Entry;
use crate::observe::access::{End, Usage};
use crate::observe::{Record, Room};
use crate::snapshot::Snapshot;
use crate::tokens::estimate::at_a_glance;
use crate::tokens::meter::{self, Source};
use crate::types::identity::Identity;
use crate::upstream::{Endpoint, ProviderId};
use pingora::{Error, ErrorSource};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::Instant;

/// nginx's status for a client that left before it had an answer.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Pingora is done with the request: what only it knows is written down, and the client's
/// connection gets its own session back.
pub fn over(session: &mut Session, error: Option<&Error>, journey: &mut Journey) {
    journey.reply.unseen = !refuse::has_begun(session);
    if has_left(journey.plan.as_ref()) {
        journey.reply.end = Some(End::ClientClosed);
    }
    if let Some(plan) = journey.plan.as_mut() {
        plan.body.restore(session);
    }
    journey.reply.end.get_or_insert_with(|| match error {
        None => End::Complete,
        Some(error) if *error.esource() == ErrorSource::Downstream => End::ClientClosed,
        Some(_) => End::UpstreamBroke,
    });
}

/// Settles what a completed answer used, once, at the moment when its last bytes are about to be handed
/// on: `reply` calls this before they are. So what is booked here is never lost for an answer that a
/// client has whole, whatever becomes of weir in the next moment. A usage that must be counted is
/// booked provisionally; the final one follows from the thread that counts.
///
/// What never comes here (refusals, broken answers, clients that left) is settled by the journey's
/// `Drop`, like everything else.
pub fn complete(journey: &mut Journey) {
    if journey.reply.settled.is_some() {
        return;
    }
    let tried = journey.attempt.as_ref().map(Tried::of);
    let plan = journey.plan.as_ref();
    let reported = reported(&mut journey.reply, plan);
    let last = reported.is_some() || !is_counted(&mut journey.reply, plan);
    let usage = match last {
        true => reported,
        false => Some(roughly(plan, &journey.reply)),
    };
    let told = Told {
        ended: Instant::now(),
        snapshot: &journey.snapshot,
        arrival: &journey.arrival,
        plan,
        tried: tried.as_ref(),
        reply: &journey.reply,
        end: match has_left(plan) {
            true => End::ClientClosed,
            false => journey.reply.end.unwrap_or(End::Complete),
        },
    };
    let bill = told.bill(usage);
    told.book(&bill, last);
    if let (true, Some(grant)) = (last, &mut journey.grant) {
        told.pay(grant.stake(), &bill);
    }
    journey.reply.settled = Some(match last {
        true => Booked::Finally(bill),
        false => Booked::Provisionally,
    });
}

/// Whether the answer is one that was read on after its client had left.
fn has_left(plan: Option<&Plan>) -> bool {
    plan.is_some_and(|plan| plan.body.client_left())
}

/// How an answer's usage was booked before its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Booked {
    /// By a rough estimate: it is being counted.
    Provisionally,
    /// As it stays.
    Finally(Bill),
}

impl Drop for Journey {
    fn drop(&mut self) {
        let ended = Instant::now();
        if self.surface() == Surface::Health {
            // A probe every second is no traffic.
            return;
        }
        let tried = self.attempt.take().map(|current| Tried::of(&current));
        let tried = tried.or_else(|| self.plan.as_mut()?.tried.take());
        // Its places among those in flight are free when it is told of, or left to be counted: a weir
        // that waits for the last request to end must not end between the two.
        let (seat, stake) = self.grant.take().map(Grant::parts).unzip();
        let places = (seat, self.reply.open.take());
        let settled = Settled {
            ended,
            tried,
            snapshot: Arc::clone(&self.snapshot),
            arrival: std::mem::replace(&mut self.arrival, Arrival::now()),
            plan: self.plan.take(),
            stake,
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
    stake: Option<Stake>,
    tried: Option<Tried>,
    reply: Reply,
}

/// What is told of a request, over or about to be.
struct Told<'a> {
    ended: Instant,
    snapshot: &'a Snapshot,
    arrival: &'a Arrival,
    plan: Option<&'a Plan>,
    tried: Option<&'a Tried>,
    reply: &'a Reply,
    end: End<'a>,
}

/// The last try.
#[derive(Debug)]
pub struct Tried {
    endpoint: Arc<Endpoint>,
    model: Option<Arc<str>>,
    road: Option<Road>,
    sent: bool,
    number: u32,
}

impl Tried {
    /// One that is over, and that another may follow: its upstream has refused the request, or never had it.
    pub fn in_vain(current: &Try) -> Self {
        Self {
            sent: false,
            ..Self::of(current)
        }
    }

    /// Whose endpoint it was.
    pub fn provider(&self) -> ProviderId {
        self.endpoint.provider
    }

    /// Which try it was, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The current one.
    pub fn of(current: &Try) -> Self {
        Self {
            endpoint: current.attempt.shared_endpoint(),
            model: current.choice.model.clone(),
            road: current.road,
            sent: current.sent.is_some(),
            number: current.number,
        }
    }
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
    /// serves nobody does it; the body waits there, still among the buffered bytes. Where too much
    /// waits there, an estimate must do.
    fn tell_where_it_belongs(mut self) {
        if let Some(Booked::Finally(bill)) = self.reply.settled {
            self.told().tell(&bill);
            if std::thread::panicking() {
                return;
            }
            return self.teach(bill.usage);
        }
        if std::thread::panicking() {
            return self.settle_in_a_panic();
        }
        self.meter_what_was_not_answered();
        let reported = reported(&mut self.reply, self.plan.as_ref());
        let counted = is_counted(&mut self.reply, self.plan.as_ref());
        if !counted || reported.is_some() {
            self.settle(reported);
            return self.teach(reported);
        }
        let observer = Arc::clone(&self.snapshot.observer);
        observer.aside(self.body_bytes(), move |room| {
            let usage = match room {
                Room::Enough => self.counted(),
                Room::None => self.guessed(),
            };
            self.settle(usage);
        });
    }

    /// A second panic would end the process, and the meter may be where the first one came from: it
    /// isn't asked any more.
    #[cold]
    fn settle_in_a_panic(&mut self) {
        let counted = self.reply.meter.take().is_some() && has_prompt(self.plan.as_ref());
        let usage = counted.then(|| roughly(self.plan.as_ref(), &self.reply));
        self.settle(usage);
    }

    fn settle(&mut self, usage: Option<meter::Usage>) {
        let stake = self.stake.take();
        let told = self.told();
        let bill = told.bill(usage);
        if let Some(mut stake) = stake {
            told.pay(&mut stake, &bill);
        }
        told.book(&bill, true);
        told.tell(&bill);
    }

    /// A client that left before the answer's head: its prompt is at the upstream all the same.
    fn meter_what_was_not_answered(&mut self) {
        let sent = self.tried.as_ref().is_some_and(|tried| tried.sent);
        let left = self.reply.status == 0 && self.reply.end == Some(End::ClientClosed);
        if let Some(plan) = self.plan.as_ref().filter(|_| sent && left)
            && let Some(surface) = plan.surface.metered()
        {
            let model = asked_model(self.tried.as_ref(), plan);
            self.reply.meter = Some(meter::Meter::new(surface, model, meter::Form::Body, false));
        }
    }

    /// The body that waits until it is counted, bytes.
    fn body_bytes(&self) -> usize {
        let body = self.plan.as_ref().and_then(|plan| plan.body.plain());
        body.map_or(0, bytes::Bytes::len)
    }

    /// What must do where there is no time to count.
    fn guessed(&mut self) -> Option<meter::Usage> {
        let rough = roughly(self.plan.as_ref(), &self.reply);
        let reported = self.reply.meter.as_mut()?.usage();
        Some(reported.map_or(rough, |reported| meter::Usage {
            input: reported.input.or(rough.input),
            output: reported.output.max(rough.output),
            source: Source::Estimated,
            ..reported
        }))
    }

    fn told(&self) -> Told<'_> {
        Told {
            ended: self.ended,
            snapshot: &self.snapshot,
            arrival: &self.arrival,
            plan: self.plan.as_ref(),
            tried: self.tried.as_ref(),
            reply: &self.reply,
            end: self.reply.end.unwrap_or(End::Aborted),
        }
    }
}

impl<'a> Told<'a> {
    /// The one place that a settled request passes before its answer's last byte does: the books are
    /// written here. Each request comes once with `last`; one whose tokens must be counted came before
    /// with an estimate, which that replaces.
    fn book(&self, bill: &Bill, last: bool) {
        if let Some(ledger) = &self.snapshot.ledger
            && let Some(entry) = Entry::of(&self.record(bill), last)
        {
            ledger.append(&entry);
        }
        tracing::trace!(
            request_id = self.arrival.request_id,
            input = bill.usage.map(|usage| usage.input.unwrap_or(0)),
            output = bill.usage.map(|usage| usage.output.unwrap_or(0)),
            last,
            "settled"
        );
    }

    fn tell(&self, bill: &Bill) {
        self.snapshot.observer.request(&self.record(bill));
    }

    fn record(&self, bill: &Bill) -> Record<'a> {
        let (arrival, reply, plan, tried) = (self.arrival, self.reply, self.plan, self.tried);
        let since = |instant: Instant| instant.saturating_duration_since(arrival.started);
        let end = self.end;
        let status = match (reply.status, end) {
            (0, End::ClientClosed) => CLIENT_CLOSED_REQUEST,
            (_, End::ClientClosed) if reply.unseen => CLIENT_CLOSED_REQUEST,
            (0, _) => 500,
            (status, _) => status,
        };
        let upstreams = &self.snapshot.upstreams;
        Record {
            time: arrival.time,
            number: arrival.number,
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
            team: arrival.caller.as_ref().map(|caller| &*caller.team.name),
            key: arrival.caller.as_ref().map(|caller| &*caller.key.name),
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
            failed_tries: plan.map_or(&[], |plan| plan.course.story()),
            estimate: plan.and_then(|plan| plan.estimate).map(|it| it.input),
            usage: bill.usage.map(figures),
            cost: bill.cost,
            bytes_in: plan.map_or(0, |plan| plan.body.bytes_in()),
            bytes_out: reply.bytes_out,
            stream: reply.stream,
            end,
        }
    }
}

/// What the upstream reported: all of it, or where nothing is counted what there is.
fn reported(reply: &mut Reply, plan: Option<&Plan>) -> Option<meter::Usage> {
    let whole = reply.meter.as_mut()?.usage_is_whole();
    let usable = whole || !is_counted(reply, plan);
    reply.meter.as_mut()?.usage().filter(|_| usable)
}

/// What isn't reported of it is counted: all of it where the prompt is known, else what was delivered
/// beside a report that leaves it out.
fn is_counted(reply: &mut Reply, plan: Option<&Plan>) -> bool {
    let meter = reply.meter.as_mut();
    meter.is_some_and(|meter| has_prompt(plan) || meter.lacks_output())
}

/// The prompt can be counted.
pub(super) fn has_prompt(plan: Option<&Plan>) -> bool {
    plan.is_some_and(|plan| plan.surface.prompt().is_some())
}

/// What stands for a count until it is made: cheap, whatever the sizes.
fn roughly(plan: Option<&Plan>, reply: &Reply) -> meter::Usage {
    /// An event of a stream carries about one token, in about this many bytes.
    const EVENT_BYTES: u64 = 200;
    /// A token of a text.
    const TOKEN_BYTES: u64 = 4;
    /// Compression makes a thirtieth of events that are alike, and about half of a text.
    const ENCODED_EVENT_BYTES: u64 = 7;
    const ENCODED_TOKEN_BYTES: u64 = 2;
    let estimate = plan.and_then(|plan| plan.estimate).map(|it| it.input);
    let body = plan.and_then(|plan| plan.body.plain());
    let input = estimate.unwrap_or_else(|| body.map_or(0, |body| at_a_glance(body)));
    let bytes_each = match (reply.stream, reply.encoded) {
        (true, false) => EVENT_BYTES,
        (true, true) => ENCODED_EVENT_BYTES,
        (false, false) => TOKEN_BYTES,
        (false, true) => ENCODED_TOKEN_BYTES,
    };
    meter::Usage {
        input: Some(input),
        output: Some(reply.bytes_out / bytes_each),
        cached: None,
        cache_write: None,
        reasoning: None,
        media: meter::Media::default(),
        source: Source::Estimated,
    }
}

fn figures(usage: meter::Usage) -> Usage {
    Usage {
        input: usage.input.unwrap_or(0),
        output: usage.output.unwrap_or(0),
        cached: usage.cached.unwrap_or(0),
        cache_write: usage.cache_write.unwrap_or(0),
        reasoning: usage.reasoning.unwrap_or(0),
        audio_seconds: usage.media.seconds,
        images: usage.media.images,
        characters: usage.media.characters,
        source: match usage.source {
            Source::Upstream => "upstream",
            Source::Counted => "counted",
            Source::Estimated => "estimated",
        },
    }
}

//! One call for several requests for one embedding each, which come within a few milliseconds and differ in
//! nothing but their input. Each gets its part of the answer, and of what was used as much as its own tokens
//! are of all; the parts together are what the upstream reported.
//!
//! The first of them is who the call is made by; it is made on a task of its own, so that whoever leaves
//! keeps nobody waiting. What can't be divided, and what was refused because of one of them, is undone: its
//! requests go the usual way, each once.

mod alike;
mod gather;

pub use gather::Batches;

use super::{Call, Calls, answer, interrupted};
use crate::dialect::openai::embeddings;
use crate::govern::Hold;
use crate::observe::Batched;
use crate::proxy::connect::{self, Try};
use crate::proxy::journey::Journey;
use crate::proxy::peek::Body;
use crate::proxy::plan::Plan;
use crate::proxy::replay::Terms;
use crate::proxy::surface::Surface;
use crate::proxy::weigh;
use crate::tokens::meter;
use crate::upstream::Outcome;
use crate::upstream::settings::Batch;
use bytes::{Bytes, BytesMut};
use gather::{Gather, Gathering, Member, Part};
use http::header;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// A request's place among those that become one call.
pub struct Place {
    gather: Arc<Gather>,
    /// It began to gather.
    leads: Option<Gathering>,
    part: oneshot::Receiver<Part>,
    batch: Batch,
    label: Arc<str>,
    joined: Instant,
}

/// A place for the request; `None` where it isn't for one embedding, or is too large to be one of several.
pub async fn join(
    session: &Session,
    journey: &Journey,
    calls: &Arc<Calls>,
    batch: &Batch,
    label: &Arc<str>,
) -> Option<Place> {
    let plan = journey.plan.as_ref()?;
    let head = session.req_header();
    let (Surface::Metered(meter::Surface::Embeddings), Body::Held(held)) =
        (plan.surface, &plan.body)
    else {
        return None;
    };
    if head.headers.contains_key(header::CONTENT_ENCODING)
        || !calls.batches.may(label, Instant::now())
    {
        return None;
    }
    let single = embeddings::read(&held.bytes)?;
    let snapshot = &journey.snapshot;
    let estimate = match plan.estimate {
        None => weigh::weigh(snapshot, plan).await,
        known => known,
    };
    let weight = estimate.map_or(held.bytes.len() as u64 / 4, |estimate| estimate.input);
    if weight > batch.tokens {
        return None;
    }
    let key = alike::key(snapshot, journey, plan, head, &single.rest(&held.bytes));
    let (sender, part) = oneshot::channel();
    let member = Member {
        item: held.bytes.slice_ref(single.item(&held.bytes)),
        weight: weight.max(1),
        leads: false,
        part: sender,
    };
    let (gather, leads) = Gathering::join(calls, snapshot, key, member, batch);
    Some(Place {
        gather,
        leads,
        part,
        batch: *batch,
        label: Arc::clone(label),
        joined: Instant::now(),
    })
}

/// Waits for the request's part of the call, and passes it on; what [`super::serve`] returns.
pub async fn serve(
    session: &mut Session,
    journey: &mut Journey,
    calls: &Arc<Calls>,
    place: Place,
) -> Result<bool> {
    let Place { gather, part, .. } = place;
    let leads = place.leads.is_some();
    match place.leads {
        Some(gathering) => {
            let asked = session.req_header().clone();
            let call = Call::next(&asked, Some(session), journey).await?;
            let due = place.joined + place.batch.window;
            tokio::spawn(run(call, gathering, due, place.label, Arc::clone(calls)));
        }
        None => follow(journey),
    }
    session.downstream_session.enable_retry_buffering();
    let part = tokio::select! {
        biased;
        part = part => part.unwrap_or(Part::Alone),
        error = interrupted(session) => {
            journey.attempt = gather.sight(tries(journey));
            if let (false, Some(current)) = (leads, &journey.attempt) {
                shared_at(&mut journey.plan, current);
            }
            let error = connect::broke(session, journey, error, false);
            return match error.retry() {
                true => Ok(false),
                false => Err(error),
            };
        }
    };
    match part {
        Part::Answer {
            head,
            body,
            hold,
            tried,
        } => {
            let number = tries(journey);
            journey.attempt = match tried {
                Some(tried) => Some(Try { number, ..*tried }),
                None => gather.sight(number),
            };
            if let (false, Some(current)) = (leads, &journey.attempt) {
                shared_at(&mut journey.plan, current);
            }
            let passed = answer::whole(head, body, session, journey).await;
            drop(hold);
            passed
        }
        Part::Failed(call, error) => {
            if !leads {
                shared_at(&mut journey.plan, &call.current);
            }
            call.failed(error, session, journey)
        }
        Part::Alone => {
            if let Some(plan) = journey.plan.as_mut() {
                plan.course.undoes(leads);
            }
            Ok(false)
        }
    }
}

fn tries(journey: &Journey) -> u32 {
    journey.plan.as_ref().map_or(1, |plan| plan.course.tries())
}

/// It was made there.
fn shared_at(plan: &mut Option<Plan>, current: &Try) {
    if let Some(plan) = plan {
        plan.course.shared_at(&current.choice);
    }
}

/// Another request's call is this one's try. Its deadlines are those of the first candidate: that is where
/// most of such calls go.
fn follow(journey: &mut Journey) {
    let snapshot = Arc::clone(&journey.snapshot);
    let Some(plan) = journey.plan.as_mut() else {
        return;
    };
    plan.course.shares();
    let ready = plan.ready;
    (plan.overhead).get_or_insert_with(|| Instant::now().saturating_duration_since(ready));
    let first = plan
        .course
        .candidates()
        .next()
        .map(|choice| choice.endpoint);
    if let Some(first) = first {
        let limits = &snapshot.exit(first).limits;
        let provider = snapshot.upstreams.endpoint(first).provider;
        plan.body.set_terms(Terms {
            first_byte: limits.first_byte,
            idle: limits.idle,
            drain: snapshot.upstreams.provider(provider).drain,
        });
    }
}

/// Makes the call when nobody more is awaited, and gives each its part.
async fn run(
    mut call: Call,
    gathering: Gathering,
    due: Instant,
    label: Arc<str>,
    calls: Arc<Calls>,
) {
    tokio::select! {
        biased;
        () = gathering.full() => {}
        () = tokio::time::sleep_until(due.into()) => {}
    }
    let mut members = gathering.close();
    members.retain(|member| !member.part.is_closed());
    let mut hold = call.snapshot.governor.buffers().hold();
    if !matches!(&members[..], [only] if only.leads) && !compose(&mut call, &members, &mut hold) {
        return;
    }
    let asked = Instant::now();
    let came = tokio::select! {
        biased;
        came = exchange(&mut call, &calls, &gathering.gather, &mut hold) => came,
        () = all_left(&mut members) => {
            let limits = &call.snapshot.exit(call.current.choice.endpoint).limits;
            if asked.elapsed() >= limits.first_byte {
                call.current.attempt.ended(Outcome::Failed);
            }
            return;
        }
    };
    divide(call, members, came, hold, &label, &calls).await;
}

/// The body for all of them; `false` where there is nobody, or no room.
fn compose(call: &mut Call, members: &[Member], hold: &mut Hold) -> bool {
    let Some(single) = embeddings::read(&call.body).filter(|_| !members.is_empty()) else {
        return false;
    };
    let size: usize = members.iter().map(|member| member.item.len() + 1).sum();
    if hold.grow_to(call.body.len() + size).is_err() {
        return false;
    }
    let items = members.iter().map(|member| &*member.item);
    call.carry(single.with(&call.body, items).into())
}

/// Resolves when no client waits any more.
async fn all_left(members: &mut [Member]) {
    for member in members {
        member.part.closed().await;
    }
}

/// A longer answer isn't held; of 2048 embeddings with 3072 dimensions, in text, it is about this.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What comes of the call; the body is `None` where it is more than weir may hold.
type Came = Result<(super::Head, Option<Bytes>)>;

async fn exchange(call: &mut Call, calls: &Calls, gather: &Gather, hold: &mut Hold) -> Came {
    let head = call.head(calls, |current| gather.sent(current)).await?;
    let (mut body, before) = (BytesMut::new(), hold.bytes());
    while let Some(piece) = call.wire.piece().await? {
        let size = body.len() + piece.len();
        // Twice: it is divided.
        if size > ANSWER_BYTES_MAX || hold.grow_to(before + 2 * size).is_err() {
            return Ok((head, None));
        }
        body.extend_from_slice(&piece);
    }
    Ok((head, Some(body.freeze())))
}

async fn divide(
    mut call: Call,
    members: Vec<Member>,
    came: Came,
    hold: Hold,
    label: &Arc<str>,
    calls: &Calls,
) {
    let count = members.len();
    let snapshot = Arc::clone(&call.snapshot);
    let tell = |batched: Batched, undone: Option<bool>| {
        let metrics = &snapshot.observer.metrics;
        metrics.calls.batched(label, count, batched);
        calls.batches.ended(label, undone, Instant::now());
    };
    let (head, body) = match came {
        Ok((head, Some(body))) => (head, body),
        Ok((_, None)) => {
            tell(Batched::Undone, Some(true));
            return tracing::warn!(
                model = &**label,
                "an answer to {count} requests is too long to be held"
            );
        }
        Err(error) => {
            tell(Batched::Undone, Some(false));
            let mut members = members.into_iter();
            if let Some(first) = members.next() {
                // Who has left isn't told.
                let _ = first.part.send(Part::Failed(Box::new(call), error));
            }
            return;
        }
    };
    let status = head.head.status;
    let bodies: Vec<Bytes> = if count == 1 {
        tell(Batched::Single, None);
        vec![body]
    } else if status.is_success() {
        let weights: Vec<u64> = members.iter().map(|member| member.weight).collect();
        let split = (!is_encoded(&head.head)).then(|| embeddings::split(&body, &weights));
        let Some(parts) = split.flatten() else {
            tell(Batched::Undone, Some(true));
            call.current.attempt.ended(Outcome::Answered);
            call.wire.release(&calls.connector).await;
            return tracing::warn!(
                model = &**label,
                "an answer to {count} requests isn't one embedding for each: they are sent again, one by \
                 one, and others aren't put together for a minute; take `batch` from this route if it \
                 happens again"
            );
        };
        tell(Batched::Divided, None);
        parts.into_iter().map(Bytes::from).collect()
    } else if head.good && !matches!(status.as_u16(), 401..=403) {
        // One of them may be to blame for it.
        tell(Batched::Undone, Some(false));
        call.current.attempt.ended(Outcome::Answered);
        return call.wire.release(&calls.connector).await;
    } else {
        tell(Batched::Shared, None);
        vec![body; count]
    };
    let (hold, mut tried) = (Arc::new(hold), Some(Box::new(call.current)));
    for (member, body) in members.into_iter().zip(bodies) {
        let part = Part::Answer {
            head: head.head.clone(),
            body,
            hold: Arc::clone(&hold),
            tried: tried.take(),
        };
        // Where its client has left, the next one tells how the call went.
        if let Err(Part::Answer { tried: back, .. }) = member.part.send(part) {
            tried = tried.or(back);
        }
    }
    call.wire.release(&calls.connector).await;
}

fn is_encoded(head: &ResponseHeader) -> bool {
    let coding = head.headers.get(header::CONTENT_ENCODING);
    coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

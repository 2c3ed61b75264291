//! A second call for a request whose first one takes long. The first good answer is passed on, the other
//! call is given up at once: what it has cost the upstream is nobody's bill.

use super::{Call, Calls, Head, answer, interrupted};
use crate::observe::Hedged;
use crate::proxy::connect;
use crate::proxy::journey::Journey;
use crate::upstream::Hedge;
use pingora::http::RequestHeader;
use pingora::{Error, Result};
use pingora_proxy::Session;
use std::pin::pin;
use std::time::{Duration, Instant};

/// What came of a call.
type Outcome = Result<Head>;

/// Serves a request by one call, or by two; see [`super::serve`].
pub async fn serve(
    session: &mut Session,
    journey: &mut Journey,
    calls: &Calls,
    hedge: &Hedge,
) -> Result<bool> {
    let asked = session.req_header().clone();
    let mut first = Call::next(&asked, Some(session), journey).await?;
    session.downstream_session.enable_retry_buffering();
    let began = Instant::now();
    let patience = hedge.begin(began);
    let race = race(session, journey, calls, hedge, patience, &mut first, &asked).await;
    let learn = || hedge.learn(began.elapsed(), Instant::now());
    let tell = |journey: &Journey, hedged| {
        let label = journey.plan.as_ref().and_then(|plan| plan.label.as_deref());
        let metrics = &journey.snapshot.observer.metrics;
        metrics.calls.hedged(label.unwrap_or_default(), hedged);
    };
    match race {
        Race::Alone(Ok(head)) => {
            if head.good {
                learn();
            }
            answer::pass(first, head.head, session, journey, calls).await
        }
        Race::First(head) => {
            learn();
            tell(journey, Hedged::Lost);
            answer::pass(first, head.head, session, journey, calls).await
        }
        Race::Second(second, head, earlier) => {
            tell(journey, Hedged::Won);
            if earlier.is_none() {
                // It would have taken longer than this.
                learn();
            }
            give_up(journey, first, earlier);
            answer::pass(*second, head.head, session, journey, calls).await
        }
        Race::Neither(outcome, second) => {
            tell(journey, Hedged::Failed);
            match (outcome, second) {
                (Ok(head), second) => {
                    if let Some((second, came)) = second {
                        give_up(journey, *second, Some(came));
                    }
                    answer::pass(first, head.head, session, journey, calls).await
                }
                (Err(error), None) => first.failed(error, session, journey),
                (Err(error), Some((second, came))) => {
                    give_up(journey, first, Some(Err(error)));
                    match came {
                        Ok(head) => answer::pass(*second, head.head, session, journey, calls).await,
                        Err(error) => second.failed(error, session, journey),
                    }
                }
            }
        }
        Race::Alone(Err(error)) | Race::Interrupted(error) => first.failed(error, session, journey),
    }
}

/// How it went.
enum Race {
    /// There was no second call.
    Alone(Outcome),
    /// The first call was answered well, before the second.
    First(Head),
    /// The second; with what had come of the first before, where it wasn't good.
    Second(Box<Call>, Head, Option<Outcome>),
    /// No answer is good.
    Neither(Outcome, Second),
    /// The client has left, or time is over.
    Interrupted(Box<Error>),
}

/// The second call, and what came of it; `None` where nobody could be called.
type Second = Option<(Box<Call>, Outcome)>;

async fn race(
    session: &mut Session,
    journey: &mut Journey,
    calls: &Calls,
    hedge: &Hedge,
    patience: Option<Duration>,
    first: &mut Call,
    asked: &RequestHeader,
) -> Race {
    let mut interrupted = pin!(interrupted(session));
    let mut primary = pin!(first.head(calls, |_| ()));
    let overdue = async {
        match patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
        hedge.spend()
    };
    let hedged = tokio::select! {
        biased;
        outcome = &mut primary => return Race::Alone(outcome),
        error = &mut interrupted => return Race::Interrupted(error),
        hedged = overdue => hedged,
    };
    if !hedged {
        return tokio::select! {
            biased;
            outcome = &mut primary => Race::Alone(outcome),
            error = &mut interrupted => Race::Interrupted(error),
        };
    }
    let mut second = pin!(second(asked, journey, calls));
    let (mut one, mut two) = (None, None);
    loop {
        tokio::select! {
            biased;
            outcome = &mut primary, if one.is_none() => match outcome {
                Ok(head) if head.good => return Race::First(head),
                outcome => one = Some(outcome),
            },
            outcome = &mut second, if two.is_none() => match outcome {
                Some((call, Ok(head))) if head.good => return Race::Second(call, head, one),
                outcome => two = Some(outcome),
            },
            error = &mut interrupted => return Race::Interrupted(error),
        }
        match (one, two) {
            (Some(one), Some(two)) => return Race::Neither(one, two),
            open => (one, two) = open,
        }
    }
}

/// A call to the next candidate, or to the last one again, on another connection or stream.
async fn second(asked: &RequestHeader, journey: &mut Journey, calls: &Calls) -> Second {
    let mut call = Box::new(Call::next(asked, None, journey).await.ok()?);
    let outcome = call.head(calls, |_| ()).await;
    Some((call, outcome))
}

/// The other call's answer is passed on. What has come of this one, if anything, is its endpoint's fault.
fn give_up(journey: &mut Journey, call: Call, came: Option<Outcome>) {
    journey.attempt = Some(call.current);
    match came {
        Some(Ok(head)) => drop(connect::heard(journey, &head.head)),
        Some(Err(error)) => connect::failed_try(journey, &error),
        None => {}
    }
    journey.attempt = None;
}

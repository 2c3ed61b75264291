//! A second call for a request whose first one takes long. The first good answer is passed on, the other
//! call is given up at once: what it has cost the upstream is nobody's bill.

use super::{Call, Calls, answer, interrupted};
use crate::observe::Hedged;
use crate::proxy::connect;
use crate::proxy::journey::Journey;
use crate::proxy::plan::Plan;
use crate::upstream::Hedge;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, Result};
use pingora_proxy::Session;
use std::pin::pin;
use std::time::{Duration, Instant};

/// What came of a call.
type Outcome = Result<Box<ResponseHeader>>;

/// Serves a request by one call, or by two; see [`super::serve`].
pub async fn serve(
    session: &mut Session,
    journey: &mut Journey,
    calls: &Calls,
    hedge: &Hedge,
) -> Result<bool> {
    let asked = session.req_header().clone();
    let mut first = Call::next(&asked, journey).await?;
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
            if is_good(&head) {
                learn();
            }
            answer::pass(first, head, session, journey, calls).await
        }
        Race::Alone(Err(error)) => first.failed(error, session, journey),
        Race::First(head) => {
            learn();
            tell(journey, Hedged::Lost);
            answer::pass(first, head, session, journey, calls).await
        }
        Race::Second(second, head, error) => {
            tell(journey, Hedged::Won);
            match error {
                Some(error) => give_up(journey, first, Some(error)),
                // It would have taken longer than this.
                None => {
                    learn();
                    give_up(journey, first, None);
                }
            }
            answer::pass(*second, head, session, journey, calls).await
        }
        Race::Neither(outcome, second) => {
            tell(journey, Hedged::Failed);
            match (outcome, second) {
                (Ok(head), second) => {
                    drop(second);
                    answer::pass(first, head, session, journey, calls).await
                }
                (Err(error), Ok((second, head))) => {
                    give_up(journey, first, Some(error));
                    answer::pass(*second, head, session, journey, calls).await
                }
                (Err(error), Err(None)) => first.failed(error, session, journey),
                (Err(error), Err(Some((second, last)))) => {
                    give_up(journey, first, Some(error));
                    second.failed(last, session, journey)
                }
            }
        }
        Race::Interrupted(error) => first.failed(error, session, journey),
    }
}

/// How it went.
enum Race {
    /// There was no second call.
    Alone(Outcome),
    /// The first call was answered well, before the second.
    First(Box<ResponseHeader>),
    /// The second; with what had come of the first, where it has failed.
    Second(Box<Call>, Box<ResponseHeader>, Option<Box<Error>>),
    /// No answer is good.
    Neither(Outcome, Second),
    /// The client has left, or time is over.
    Interrupted(Box<Error>),
}

/// What came of the second call; `None` where there was nobody to be called.
type Second = Result<(Box<Call>, Box<ResponseHeader>), Option<(Box<Call>, Box<Error>)>>;

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
    let mut primary = pin!(first.head(calls));
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
                Ok(head) if is_good(&head) => return Race::First(head),
                outcome => one = Some(outcome),
            },
            outcome = &mut second, if two.is_none() => match outcome {
                Ok((call, head)) if is_good(&head) => {
                    return Race::Second(call, head, one.and_then(Result::err));
                }
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
    if let Some(plan) = journey.plan.as_mut().filter(|plan| is_exhausted(plan)) {
        plan.next -= 1;
    }
    let Ok(call) = Call::next(asked, journey).await else {
        return Err(None);
    };
    let mut call = Box::new(call);
    match call.head(calls).await {
        Ok(head) => Ok((call, head)),
        Err(error) => Err(Some((call, error))),
    }
}

fn is_exhausted(plan: &Plan) -> bool {
    plan.next == plan.candidates.len()
}

/// The other call's answer is passed on.
fn give_up(journey: &mut Journey, call: Call, error: Option<Box<Error>>) {
    if let Some(error) = error {
        journey.attempt = Some(call.current);
        connect::failed_try(journey, &error);
    }
    journey.attempt = None;
}

/// A success, or a mistake of the client's, which every upstream would find.
fn is_good(head: &ResponseHeader) -> bool {
    match head.status.as_u16() {
        // The account, or the moment, is to blame.
        401..=403 | 408 | 409 | 425 | 429 => false,
        status => status < 500,
    }
}

//! Third step, once for each try: the next candidate, its road, its peer.

mod told;

use self::told::{error_type, error_type_of_road, in_words, status_kind, tell};
use super::arrive::Arrival;
use super::ask::{self, USAGE_REFUSED};
use super::carriage::{self, Carriage};
use super::course::NoMore;
use super::journey::Journey;
use super::peek::Body;
use super::plan::{self, Plan};
use super::refuse::{self, Refusal};
use super::replay::{ENDING, FIRST_BYTE_LATE, IDLE, TOTAL, Terms};
use super::settle::Tried;
use crate::egress::{Blame, ConnectError, Lead, Limits, Road};
use crate::observe::pool::Handshake;
use crate::route::Found;
use crate::snapshot::Snapshot;
use crate::upstream::retry::{Failure, Fault, retry_after};
use crate::upstream::{Attempt, Choice, Outcome, Turn, Unavailable};
use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::prelude::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// The current try.
#[derive(Debug)]
pub struct Try {
    /// The endpoint's permit; tells it how the try ended.
    pub attempt: Attempt,
    /// Which candidate it is.
    pub choice: Choice,
    /// How it is reached; `None` when no road was found.
    pub road: Option<Road>,
    /// The egress proxy, where the road has one, and how many others could be asked.
    pub proxy: Option<(u64, usize)>,
    /// Is told what the connection speaks; others may wait for that.
    pub lead: Option<Lead>,
    /// It is in the intranet.
    pub intranet: bool,
    /// The body for this upstream, where it isn't the client's.
    pub body: Option<Bytes>,
    /// weir asked for usage in the client's stead.
    pub asks_usage: bool,
    /// Carries it over to another dialect.
    pub carriage: Option<Box<Carriage>>,
    /// When it began.
    pub began: Instant,
    /// The request has gone out: the upstream may be at work on it.
    pub sent: Option<Sent>,
    /// Which try this is, from 1.
    pub number: u32,
}

/// How a request went out.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// When its head was about to be written.
    pub at: Instant,
    /// On a stream of HTTP/2.
    pub http2: bool,
}

/// The peer of the next candidate that has a road. Without a session for a try beside another one, which
/// never turns to a fallback and isn't followed by others.
///
/// # Errors
/// A [`Refusal`] as the cause, when no candidate is left.
pub async fn next(
    mut session: Option<&mut Session>,
    journey: &mut Journey,
) -> Result<Box<HttpPeer>> {
    let snapshot = Arc::clone(&journey.snapshot);
    loop {
        let before = journey.attempt.take();
        let Some(plan) = journey.plan.as_mut() else {
            return Err(Refusal::NoRoute(journey.arrival.path.clone()).into());
        };
        if plan.body.client_left() {
            plan.tried = before.as_ref().map(Tried::in_vain);
            return Err(Refusal::ClientLeft.into());
        }
        let (choice, attempt) = match before {
            // The same try once more keeps its place.
            Some(before) if plan.course.takes_again() => (before.choice, before.attempt),
            before => {
                plan.tried = before.as_ref().map(Tried::in_vain);
                // The one before reports itself here.
                drop(before);
                choose(session.as_deref_mut(), plan, &snapshot, &journey.arrival).await?
            }
        };
        let mut current = Try {
            attempt,
            choice,
            road: None,
            proxy: None,
            lead: None,
            intranet: false,
            body: None,
            asks_usage: false,
            carriage: None,
            began: Instant::now(),
            sent: None,
            number: plan.course.tries(),
        };
        let exit = snapshot.exit(current.choice.endpoint);
        let avoided = &plan.detour.avoided;
        let way = match snapshot.egress.way_around(&exit.endpoint, avoided).await {
            Ok(way) => way,
            Err(error) => {
                current.attempt.ended(Outcome::Failed);
                journey.attempt = Some(current);
                tell(journey, error_type_of_road(&error), &error);
                match session.is_some() && goes_on(journey, LASTING) {
                    true => continue,
                    false => return Err(Refusal::from(error).into()),
                }
            }
        };
        let provider = current.attempt.endpoint().provider;
        let renewed = snapshot.upstreams.provider(provider).renewed.as_ref();
        if renewed.is_some_and(|it| it.value(Instant::now()).is_none()) {
            current.attempt.ended(Outcome::Failed);
            journey.attempt = Some(current);
            tell(
                journey,
                "no_credential",
                &"no token could be got for it yet",
            );
            match session.is_some() && goes_on(journey, LASTING) {
                true => continue,
                false => {
                    let what = "weir has no valid credential for it now".to_owned();
                    return Err(Refusal::UpstreamFailed(what).into());
                }
            }
        }
        current.road = Some(way.road);
        current.proxy = way.proxy_id().map(|id| (id, way.others()));
        current.intranet = way.is_intranet();
        let since = *plan.detour.since.get_or_insert(current.began);
        // What is waited for others, and for proxies that failed, is time to connect.
        if !plan.upgrade {
            current.lead = way.join(&exit.endpoint, &exit.limits).await;
        }
        let limits = Limits {
            connect: exit.limits.connect.saturating_sub(since.elapsed()),
            ..exit.limits
        };
        /// The pool is asked again this often before a connection is made beside one that lives.
        const SHARES_MAX: u32 = 3;
        let share = !plan.upgrade && plan.detour.shares < SHARES_MAX;
        let mut peer = way.peer(&exit.endpoint, &limits, share);
        if plan.upgrade {
            way.only_http1(&mut peer);
        }
        let endpoint = current.attempt.endpoint();
        let provider = snapshot.upstreams.provider(endpoint.provider);
        if provider.is_called() {
            way.only_http2(&mut peer);
        }
        plan.body.set_terms(Terms {
            first_byte: exit.limits.first_byte,
            idle: exit.limits.idle,
            drain: provider.drain,
        });
        if carriage::is_needed(plan, &journey.arrival, provider.dialect.as_ref()) {
            let (buffers, arrival) = (snapshot.governor.buffers(), &journey.arrival);
            match carriage::carry(plan, arrival, provider, endpoint, &current.choice, buffers).await
            {
                Ok((body, carriage, asks_usage)) => {
                    current.body = Some(body);
                    current.carriage = Some(carriage);
                    current.asks_usage = asks_usage;
                }
                Err(refusal) => {
                    // Another candidate may speak what this one doesn't.
                    drop(current);
                    match session.is_some() && goes_on(journey, LASTING) {
                        true => continue,
                        false => return Err(refusal.into()),
                    }
                }
            }
        } else if let Body::Held(held) = &mut plan.body {
            let ask = ask::asks(plan.surface, plan.unasked, held.asked(), provider, endpoint);
            current.body = held.edited(current.choice.model.as_deref(), ask)?;
            current.asks_usage = ask;
        }
        plan.overhead
            .get_or_insert_with(|| Instant::now().saturating_duration_since(plan.ready));
        journey.attempt = Some(current);
        return Ok(Box::new(peer));
    }
}

/// The next candidate that takes the request, and its permit; waits for both where it must.
async fn choose(
    mut session: Option<&mut Session>,
    plan: &mut Plan,
    snapshot: &Snapshot,
    arrival: &Arrival,
) -> Result<(Choice, Attempt), Refusal> {
    /// What is refused sooner than this didn't wait.
    const WAITED_MIN: Duration = Duration::from_millis(1);
    if let Some(pause) = plan.course.takes_pause() {
        let watched = is_watched(plan);
        let session = session.as_deref_mut();
        watching(session, &plan.body, watched, tokio::time::sleep(pause)).await?;
    }
    let turn = turn(plan, snapshot, arrival);
    let mut soonest = None::<Unavailable>;
    loop {
        if let Some(session) = session.as_deref()
            && let Some(route) = plan.course.untaken()
        {
            let (request, found) = (session.req_header(), Found::Model(route));
            let order = plan::in_turn(snapshot, request, arrival, plan, found);
            plan.course.takes_turns(&order);
        }
        let untried = match session.is_some() {
            true => plan.course.untried(),
            false => plan.course.beside(),
        };
        let attempt = snapshot.upstreams.attempt(untried, &turn);
        let (watched, began) = (is_watched(plan), Instant::now());
        let ended = watching(session.as_deref_mut(), &plan.body, watched, attempt).await;
        let waited = match &ended {
            Ok(Ok((_, attempt))) => attempt.waited(),
            _ => Some(began.elapsed()).filter(|waited| *waited >= WAITED_MIN),
        };
        if let Some(waited) = waited {
            *plan.queued.get_or_insert_default() += waited;
        }
        match ended? {
            Ok((place, attempt)) => {
                if let Some(waited) = waited {
                    let provider = snapshot.upstreams.provider(attempt.endpoint().provider);
                    let wait = &snapshot.observer.metrics.queue_wait;
                    let wait = wait.with_label_values(&[&provider.name]);
                    wait.observe(waited.as_secs_f64());
                }
                let choice = match session.is_some() {
                    true => plan.course.tries_at(place),
                    false => plan.course.tries_beside(place),
                };
                return Ok((choice, attempt));
            }
            Err(unavailable) => {
                let before = soonest.take();
                let before = before.filter(|it| it.wait() <= unavailable.wait());
                let unavailable = before.unwrap_or(unavailable);
                if session.is_none() || !plan.course.turns_to_fallback() {
                    return Err(Refusal::Unavailable(unavailable));
                }
                soonest = Some(unavailable);
            }
        }
    }
}

/// What is known of a request for the line that it may have to wait in.
fn turn(plan: &Plan, snapshot: &Snapshot, arrival: &Arrival) -> Turn {
    /// About as many tokens as an answer has whose length isn't given.
    const ANSWER: u64 = 1024;
    /// About as many bytes as a token has.
    const TOKEN_BYTES: u64 = 4;
    let tokens = match plan.estimate {
        // What a client says of its answer may be any number.
        Some(estimate) if estimate.output_said => {
            estimate.input.saturating_add(estimate.output_max)
        }
        Some(estimate) => estimate
            .input
            .saturating_add(estimate.output_max.min(ANSWER)),
        None => plan.body.length() / TOKEN_BYTES + ANSWER,
    };
    let total = snapshot.corridor.timeouts.total;
    Turn {
        tenant: arrival.tenant(),
        priority: plan.priority,
        tokens,
        until: (!total.is_zero()).then(|| arrival.started + total),
    }
}

/// Whether the client's leaving can be seen while weir waits: no byte of the request is awaited.
fn is_watched(plan: &Plan) -> bool {
    matches!(plan.body, Body::Held(_)) && !plan.upgrade
}

/// Waits for something, as long as the client does and the request may take.
async fn watching<T>(
    session: Option<&mut Session>,
    body: &Body,
    watched: bool,
    awaited: impl Future<Output = T>,
) -> Result<T, Refusal> {
    let mut awaited = std::pin::pin!(awaited);
    // Most of the time there is nothing to wait for.
    if let Some(ready) = poll_once(awaited.as_mut()).await {
        return Ok(ready);
    }
    let Some(session) = session.filter(|_| watched) else {
        return Ok(awaited.await);
    };
    body.wait(true);
    let left = async {
        loop {
            match session.downstream_session.read_body_or_idle(true).await {
                Ok(Some(_)) => {}
                Ok(None) => std::future::pending().await,
                Err(error) => return error,
            }
        }
    };
    let ended = tokio::select! {
        biased;
        ready = &mut awaited => Ok(ready),
        error = left => Err(refuse::while_waiting(&error)),
    };
    body.wait(false);
    ended
}

async fn poll_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(ready) => Some(ready),
            Poll::Pending => None,
        })
    })
    .await
}

/// A connection could not be made: the next proxy, or the next candidate, if there is one.
pub fn failed(journey: &mut Journey, mut error: Box<Error>) -> Box<Error> {
    let blame = ConnectError::within(&error).map(ConnectError::blame);
    if let (Some(Blame::Nobody), Some(plan)) = (blame, journey.plan.as_mut()) {
        plan.detour.shares += 1;
        plan.course.again();
        error.set_retry(true);
        return error;
    }
    if asks_another_proxy(journey, &error) {
        error.set_retry(true);
        return error;
    }
    if let Some(plan) = journey.plan.as_mut() {
        plan.detour.end();
    }
    failed_try(journey, &error);
    error.set_retry(goes_on(journey, no_connection(&error)));
    error
}

/// There is no way to the endpoint.
const LASTING: Failure = Failure {
    fault: Fault::Connect,
    retry_after: None,
    lasting: true,
};

/// A certificate that isn't good stays so for a while, and so does what a proxy has decided.
fn no_connection(error: &Error) -> Failure {
    let decided = ConnectError::within(error).is_some_and(|it| it.blame() == Blame::Decision);
    let unverified = matches!(
        error.etype(),
        ErrorType::InvalidCert | ErrorType::TLSHandshakeFailure
    );
    match decided || unverified {
        true => LASTING,
        false => Fault::Connect.into(),
    }
}

/// Whether a fault of the current try is followed by another one.
pub fn goes_on(journey: &mut Journey, failure: impl Into<Failure>) -> bool {
    let failure = failure.into();
    let Some(plan) = journey.plan.as_mut() else {
        return false;
    };
    // What has gone out of a body that isn't held is gone.
    if !matches!(plan.body, Body::Held(_)) && failure.fault != Fault::Connect {
        return false;
    }
    let nature = plan.nature(&journey.arrival.method);
    let snapshot = &journey.snapshot;
    let upstreams = &snapshot.upstreams;
    let on = plan
        .course
        .goes_on(failure, nature, upstreams, Instant::now());
    if on == Err(NoMore::OverBudget) {
        snapshot.observer.metrics.retries_denied.inc();
    }
    on.is_ok()
}

/// Where a proxy is to blame and another one is left, the same candidate is tried through that one:
/// the endpoint has done nothing wrong. What a proxy decided (403, credentials) stands.
fn asks_another_proxy(journey: &mut Journey, error: &Error) -> bool {
    /// With less time than this no proxy is worth asking.
    const LEAST: Duration = Duration::from_millis(100);
    let Some(cause) = ConnectError::within(error) else {
        return false;
    };
    let (Some(plan), Some(current)) = (journey.plan.as_mut(), &journey.attempt) else {
        return false;
    };
    let (Some((proxy, 1..)), Blame::Proxy | Blame::Pair) = (current.proxy, cause.blame()) else {
        return false;
    };
    let limits = &journey.snapshot.exit(current.choice.endpoint).limits;
    let spent = plan
        .detour
        .since
        .map_or(Duration::ZERO, |since| since.elapsed());
    if spent + LEAST > limits.connect {
        return false;
    }
    plan.detour.avoided.push(proxy);
    plan.course.again();
    tracing::warn!(
        request_id = journey.arrival.request_id,
        kind = cause.as_str(),
        error = %cause,
        "an egress proxy failed; the next one is asked"
    );
    true
}

/// A connection is there, a new one or one of the pool's.
pub fn connected(journey: &mut Journey, peer: &HttpPeer, reused: bool) {
    if let Some(plan) = journey.plan.as_mut() {
        plan.detour.end();
    }
    let pool = &journey.snapshot.observer.metrics.pool;
    if let Some(road) = journey.attempt.as_ref().and_then(|current| current.road) {
        pool.carried(road.as_str(), reused);
    }
    if !reused && peer.is_tls() {
        pool.handshake(Handshake::Tls);
    }
}

/// The answer's status asks for another try; see [`answered`].
pub const ANOTHER: ErrorType = ErrorType::Custom("AnotherTry");

/// The head of an answer has come: what it says of the endpoint, and whether another one is tried
/// instead of handing it on.
///
/// # Errors
/// Another try is made; Pingora begins it.
pub fn answered(journey: &mut Journey, response: &ResponseHeader) -> Result<()> {
    let begun = journey.reply.began();
    let Some((fault, after)) = heard(journey, response) else {
        return Ok(());
    };
    let failure = Failure {
        retry_after: after,
        ..fault.into()
    };
    let endpoint = journey.attempt.as_ref().map(|it| it.choice.endpoint);
    let unasked = journey.plan.as_ref().and_then(|plan| plan.unasked);
    let again = unasked.is_some() && unasked == endpoint;
    if begun || again || !goes_on(journey, failure) {
        return Ok(());
    }
    Err(Error::explain(ANOTHER, "the answer asks for another try").into_up())
}

/// What the head of an answer says of the endpoint; a fault, and after which time it may be asked again.
pub fn heard(
    journey: &mut Journey,
    response: &ResponseHeader,
) -> Option<(Fault, Option<Duration>)> {
    let status = response.status.as_u16();
    let (Some(plan), Some(current)) = (&journey.plan, &mut journey.attempt) else {
        return None;
    };
    let provider = current.attempt.endpoint().provider;
    let provider = journey.snapshot.upstreams.provider(provider);
    let own_account = provider.has_own_account();
    let nature = plan.nature(&journey.arrival.method);
    let Some(fault) = Fault::of_status(status, nature, own_account) else {
        if let Some(sent) = current.sent {
            current.attempt.heard(sent.at.elapsed());
        }
        return None;
    };
    let header = |name: &str| response.headers.get(name)?.to_str().ok();
    let (millis, after) = (header("retry-after-ms"), header("retry-after"));
    let after = retry_after(millis, after, chrono::Utc::now());
    current.attempt.ended(match fault {
        Fault::Busy if !own_account => Outcome::Busy(None),
        Fault::Busy => Outcome::Busy(after),
        Fault::Account => Outcome::Unaccepted,
        _ => Outcome::Failed,
    });
    tell(
        journey,
        status_kind(fault),
        &format_args!("it answered {status}"),
    );
    Some((fault, after))
}

/// A connection broke after it was made. Where nothing was said before, and the upstream can't have
/// acted, the request gets a second chance, at the same endpoint; see [`is_untouched`]. Else another
/// try may follow.
pub fn broke(
    session: &Session,
    journey: &mut Journey,
    mut error: Box<Error>,
    reused: bool,
) -> Box<Error> {
    let unseen = !refuse::has_begun(session);
    let asked = (journey.attempt.as_ref()).is_some_and(|current| current.asks_usage);
    if *error.etype() == USAGE_REFUSED && unseen && asked {
        ask::ask_no_more(journey);
        error.set_retry(true);
        return error;
    }
    if *error.etype() == ANOTHER && unseen {
        error.set_retry(true);
        return error;
    }
    let died = matches!(
        error.etype(),
        ErrorType::ConnectionClosed
            | ErrorType::ReadError
            | ErrorType::WriteError
            | ErrorType::H2Error
            | ErrorType::InvalidH2
    );
    let from_upstream = *error.esource() == ErrorSource::Upstream;
    let silent = unseen && !journey.reply.began();
    let mut again = false;
    if let Some(plan) = journey.plan.as_mut() {
        let repeatable = matches!(plan.body, Body::Held(_));
        let safe = session.req_header().method.is_safe() && reused && died;
        let sent = journey.attempt.as_ref().and_then(|current| current.sent);
        let untouched = || safe || sent.is_some_and(|it| is_untouched(&error, it, reused && died));
        again = from_upstream && silent && repeatable && !plan.second_chance && untouched();
        if again {
            // The endpoint has done nothing wrong: that was no try.
            plan.second_chance = true;
            plan.course.again();
        }
    }
    let late = is_late(&error) && *error.etype() != ENDING;
    let theirs = from_upstream || late;
    if !again && !journey.reply.is_done() && theirs {
        failed_try(journey, &error);
        let fault = match late || *error.etype() == ErrorType::WriteTimedout {
            true => Fault::Timeout,
            false => Fault::Reset,
        };
        again = silent && *error.etype() != TOTAL && goes_on(journey, fault);
    }
    error.set_retry(again);
    error
}

/// Whether no upstream can have acted on the request. HTTP/2 says so: `REFUSED_STREAM`, a GOAWAY
/// whose last stream is before this one (RFC 9113, section 8.7), or a connection that took no new
/// stream. HTTP/1 never does; there it is a pooled connection that turns out to have died, which
/// shows within one round trip. What dies later may have died of the request.
fn is_untouched(error: &Error, sent: Sent, pooled_died: bool) -> bool {
    /// A round trip to the other side of the earth.
    const AT_ONCE: Duration = Duration::from_millis(300);
    if !sent.http2 {
        return pooled_died && sent.at.elapsed() <= AT_ONCE;
    }
    let Some(cause) = error.root_cause().downcast_ref::<h2::Error>() else {
        return false;
    };
    let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
    // h2 gives this error to the streams after the last one only; the others learn of the end.
    let went_away = cause.is_go_away();
    // Read errors have a type of their own: this one is of opening the stream.
    let unopened = cause.is_io() && *error.etype() == ErrorType::H2Error;
    cause.is_remote() && (refused || went_away) || unopened
}

/// True for weir's own deadlines on an upstream's answer.
pub fn is_late(error: &Error) -> bool {
    [FIRST_BYTE_LATE, IDLE, TOTAL, ENDING].contains(error.etype())
        || *error.etype() == ErrorType::ReadTimedout && *error.esource() == ErrorSource::Upstream
}

/// Says of the current try that it has failed.
pub fn failed_try(journey: &mut Journey, error: &Error) {
    // What weir itself lacks is no failure of the endpoint.
    let local = ConnectError::within(error).is_some_and(|it| it.blame() == Blame::Local);
    if let Some(current) = journey.attempt.as_mut().filter(|_| !local) {
        current.attempt.ended(Outcome::Failed);
    }
    if let Some(current) = &journey.attempt {
        let limits = &journey.snapshot.exit(current.choice.endpoint).limits;
        let said = in_words(error, limits);
        tell(journey, error_type(error), &said);
    }
}

/// An answer came whole by its framing, and isn't by its own account: counts and logs it, as `kind`.
pub fn broke_inside(journey: &mut Journey, kind: &'static str, said: &'static str) {
    tell(journey, kind, &said);
}

#[cfg(test)]
mod tests {
    use super::*;
    use h2::Reason;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// What the first request of an HTTP/2 connection breaks with, when the upstream has it, sends
    /// this frame and closes.
    async fn broken(frame: &[u8]) -> h2::Error {
        const PREFACE: usize = 24;
        const HEADERS: u8 = 1;
        const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        let (near, mut far) = duplex(1 << 16);
        let (client, connection) = h2::client::handshake(near).await.expect("a handshake");
        let driven = tokio::spawn(connection);
        let mut client = client.ready().await.expect("ready");
        let request = http::Request::post("http://a.test/").body(());
        let request = request.expect("a request");
        let (answer, _) = client.send_request(request, true).expect("sent");
        far.write_all(SETTINGS).await.expect("written");
        far.read_exact(&mut [0; PREFACE]).await.expect("a preface");
        let mut head = [0; 9];
        while head[3] != HEADERS {
            far.read_exact(&mut head).await.expect("a frame");
            let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
            far.read_exact(&mut vec![0; length]).await.expect("whole");
        }
        far.write_all(frame).await.expect("written");
        drop(far);
        let error = answer.await.expect_err("no answer");
        drop(driven.await);
        error
    }

    fn rst(reason: Reason) -> Vec<u8> {
        let code = u32::from(reason).to_be_bytes();
        [&[0, 0, 4, 3, 0, 0, 0, 0, 1][..], &code].concat()
    }

    fn goaway(last: u32, reason: Reason) -> Vec<u8> {
        let code = u32::from(reason).to_be_bytes();
        [&[0, 0, 8, 7, 0, 0, 0, 0, 0][..], &last.to_be_bytes(), &code].concat()
    }

    #[tokio::test]
    async fn an_http2_upstream_that_may_have_acted_is_not_asked_twice() {
        let sent = Sent {
            at: Instant::now(),
            http2: true,
        };
        for (frame, untouched) in [
            (rst(Reason::REFUSED_STREAM), true),
            (rst(Reason::INTERNAL_ERROR), false),
            (rst(Reason::NO_ERROR), false),
            (goaway(0, Reason::NO_ERROR), true),
            (goaway(0, Reason::INTERNAL_ERROR), true),
            (goaway(1, Reason::NO_ERROR), false),
            (goaway(1, Reason::INTERNAL_ERROR), false),
            (Vec::new(), false),
        ] {
            let cause = broken(&frame).await;
            let told = cause.to_string();
            let etype = match cause.is_io() {
                true => ErrorType::ReadError,
                false => ErrorType::H2Error,
            };
            let error = Error::because(etype, "while reading h2 header", cause);
            assert_eq!(is_untouched(&error, sent, true), untouched, "{told}");
        }
    }

    #[test]
    fn an_http1_connection_that_dies_late_may_have_died_of_the_request() {
        let error = Error::new(ErrorType::ConnectionClosed);
        let sent = |ago: Duration| Sent {
            at: Instant::now() - ago,
            http2: false,
        };
        assert!(is_untouched(&error, sent(Duration::ZERO), true));
        assert!(!is_untouched(&error, sent(Duration::ZERO), false));
        assert!(!is_untouched(
            &error,
            sent(Duration::from_millis(301)),
            true
        ));
    }
}

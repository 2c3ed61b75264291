//! The answer of a call, on its way to the client: piece by piece, through the same step as every
//! other answer.

use super::{Call, Calls, interrupted};
use crate::proxy::connect;
use crate::proxy::journey::Journey;
use crate::proxy::reply;
use bytes::Bytes;
use http::{HeaderValue, Version, header};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::HttpTask;
use pingora_proxy::Session;

/// Passes the answer on whose head has come; what [`super::serve`] returns.
pub async fn pass(
    mut call: Call,
    mut head: Box<ResponseHeader>,
    session: &mut Session,
    journey: &mut Journey,
    calls: &Calls,
) -> Result<bool> {
    if let Some(plan) = &journey.plan {
        call.current.number = plan.course.tries();
    }
    let mut wire = call.wire;
    let reused = wire.reused().unwrap_or_default();
    journey.attempt = Some(call.current);
    let mut end = wire.is_done();
    frame(&mut head, end)?;
    if let Err(error) = reply::head(session, &mut head, journey) {
        return refused(session, journey, error, reused);
    }
    let mut tasks = vec![HttpTask::Header(head, end)];
    if end {
        reply::body(&mut None, true, journey)?;
    }
    loop {
        let written = session.write_response_tasks(tasks).await;
        written.map_err(|error| error.into_down())?;
        if end {
            break;
        }
        let piece = tokio::select! {
            biased;
            piece = wire.piece() => piece,
            error = interrupted(session) => Err(error),
        };
        let mut piece = match piece {
            Ok(piece) => piece,
            Err(error) => return refused(session, journey, error, reused),
        };
        end = piece.is_none() || wire.is_done();
        reply::body(&mut piece, end, journey)?;
        tasks = vec![HttpTask::Body(
            piece.filter(|piece: &Bytes| !piece.is_empty()),
            end,
        )];
    }
    wire.release(&calls.connector).await;
    Ok(true)
}

/// Passes an answer on that is here whole. The try that it came of is the journey's.
pub async fn whole(
    mut head: Box<ResponseHeader>,
    body: Bytes,
    session: &mut Session,
    journey: &mut Journey,
) -> Result<bool> {
    head.remove_header(&header::TRANSFER_ENCODING);
    head.insert_header(header::CONTENT_LENGTH, body.len())?;
    frame(&mut head, true)?;
    if let Err(error) = reply::head(session, &mut head, journey) {
        return refused(session, journey, error, false);
    }
    let mut body = Some(body);
    reply::body(&mut body, true, journey)?;
    let tasks = vec![HttpTask::Header(head, false), HttpTask::Body(body, true)];
    let written = session.write_response_tasks(tasks).await;
    written.map_err(|error| error.into_down())?;
    Ok(true)
}

/// The answer has broken, or isn't passed on.
fn refused(
    session: &Session,
    journey: &mut Journey,
    error: Box<pingora::Error>,
    reused: bool,
) -> Result<bool> {
    let error = connect::broke(session, journey, error, reused);
    match error.retry() {
        true => Ok(false),
        false => Err(error),
    }
}

/// The framing that Pingora gives to answers of the usual way.
fn frame(head: &mut ResponseHeader, end: bool) -> Result<()> {
    head.set_version(Version::HTTP_11);
    let has = |name| head.headers.contains_key(name);
    let bodiless = end || matches!(head.status.as_u16(), 204 | 304);
    if !bodiless && !has(header::CONTENT_LENGTH) && !has(header::TRANSFER_ENCODING) {
        let chunked = HeaderValue::from_static("chunked");
        head.insert_header(header::TRANSFER_ENCODING, chunked)?;
    }
    Ok(())
}

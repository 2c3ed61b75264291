//! A client that speaks HTTP/2, without TLS and with prior knowledge: one request on a connection of
//! its own.

use super::plan::{Act, Way};
use super::seen::{Answer, Ending, Seen};
use super::user::STAY;
use crate::Result;
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// What weir may send ahead to a client that reads slowly.
const SMALL_WINDOW_BYTES: u32 = 1024;
const WINDOW_BYTES: u32 = 1 << 20;

/// Performs the one request of an act.
///
/// # Errors
/// A connection or stream that broke.
pub async fn exchange(weir: SocketAddr, act: &Act, body: Vec<u8>, seen: &mut Seen) -> Result<()> {
    let stream = TcpStream::connect(weir).await?;
    stream.set_nodelay(true)?;
    let slow = matches!(act.way, Way::ReadSlowly | Way::StopReading(_));
    let window = if slow {
        SMALL_WINDOW_BYTES
    } else {
        WINDOW_BYTES
    };
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window).enable_push(false);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await?;
    // Its end is the streams' end, which tell of it.
    let driven = spawn_local(async move { drop(connection.await) });
    let end = on(sender, weir, act, body, seen).await;
    if seen.ending == Ending::Left && act.reset {
        // The reset of the stream that was dropped goes out before the connection ends.
        sleep(Duration::from_millis(20)).await;
    }
    driven.abort();
    end
}

async fn on(
    sender: h2::client::SendRequest<Bytes>,
    weir: SocketAddr,
    act: &Act,
    body: Vec<u8>,
    seen: &mut Seen,
) -> Result<()> {
    let path = act.surface.path();
    let request = http::Request::post(format!("http://{weir}{path}"))
        .header("authorization", format!("Bearer {}", act.team.key()))
        .header("x-request-id", seen.id.to_string())
        .header("content-type", "application/json");
    let request = match act.priority {
        Some(urgent) => request.header("x-weir-priority", urgent),
        None => request,
    };
    let request = request.body(())?;
    let mut sender = sender.ready().await?;
    let (response, to) = sender.send_request(request, false)?;
    seen.head_sent = true;
    let received = both(act, send(act, body, to), receive(act, response, seen)).await;
    if received.is_none() {
        seen.ending = Ending::Left;
    }
    received.unwrap_or(Ok(()))
}

/// Sends and reads at the same time, until the answer is there; `None` when the client leaves first.
async fn both(
    act: &Act,
    sending: impl Future<Output = Result<()>>,
    receiving: impl Future<Output = Result<()>>,
) -> Option<Result<()>> {
    tokio::pin!(sending, receiving);
    tokio::select! {
        // What can't be sent may be answered all the same.
        _ = &mut sending => {}
        received = &mut receiving => return Some(received),
    }
    match act.way {
        Way::LeaveInBody(_) => None,
        Way::LeaveAfter(millis) => timeout(Duration::from_millis(millis), receiving).await.ok(),
        _ => Some(receiving.await),
    }
}

/// Sends a body, or as much of it as the act says. Whoever stalls never comes back.
async fn send(act: &Act, body: Vec<u8>, mut to: SendStream<Bytes>) -> Result<()> {
    let share = match act.way {
        Way::LeaveInBody(percent) => body.len() * percent as usize / 100,
        Way::StallInBody => body.len() / 2,
        _ => body.len(),
    };
    let pieces = if act.way == Way::SendSlowly { 20 } else { 1 };
    let whole = share == body.len();
    let mut body = Bytes::from(body).slice(..share);
    let step = share / pieces + 1;
    while !body.is_empty() {
        to.reserve_capacity(body.len().min(step));
        let room = poll_fn(|context| to.poll_capacity(context)).await;
        let room = room.ok_or("the stream is closed")??;
        let piece = body.split_to(room.min(body.len()).min(step));
        to.send_data(piece, whole && body.is_empty())?;
        if pieces > 1 {
            sleep(Duration::from_millis(50)).await;
        }
    }
    match whole {
        true => Ok(()),
        // A stream that is dropped is reset; this one is left as it is.
        false if act.way == Way::StallInBody => std::future::pending().await,
        false => {
            sleep(Duration::from_millis(5)).await;
            to.send_reset(Reason::CANCEL);
            Ok(())
        }
    }
}

async fn receive(act: &Act, response: ResponseFuture, seen: &mut Seen) -> Result<()> {
    let (head, mut body) = response.await?.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let answer = seen
        .answer
        .insert(Answer::of(head.status.as_u16(), false, header));
    let most = match act.way {
        Way::LeaveInAnswer(bytes) | Way::StopReading(bytes) => Some(bytes),
        _ => None,
    };
    while most.is_none_or(|most| answer.bytes < most) {
        let Some(piece) = body.data().await else {
            seen.ending = Ending::Whole;
            return Ok(());
        };
        let piece = piece?;
        answer.take(&piece, seen.started);
        body.flow_control().release_capacity(piece.len())?;
        if act.way == Way::ReadSlowly {
            sleep(Duration::from_millis(20)).await;
        }
    }
    seen.ending = Ending::Left;
    if matches!(act.way, Way::StopReading(_)) {
        sleep(STAY).await;
    }
    Ok(())
}

//! A client of HTTP/2 with several requests at once, which leaves a connection when it is asked to.

use super::super::DEADLINE;
use super::clients::{CHAT, Client, body};
use super::tally::{DONE, Failed, Failure, Kind};
use super::wire::connect;
use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Why a request got no answer.
enum Unanswered {
    /// The server says that it did nothing with it (RFC 9113, sections 6.8 and 8.7).
    Untouched,
    /// It can't be known what was done.
    Failed(Failed),
}

impl Client {
    /// Works over one connection at a time.
    pub async fn http2(self) {
        /// Requests at once on a connection.
        const AT_ONCE: u64 = 4;
        const REST: Duration = Duration::from_millis(5);
        let kind = Kind::Http2;
        let mut number = 0;
        let mut connection: Option<SendRequest<Bytes>> = None;
        while !*self.stop.borrow() {
            let send = match connection.take() {
                Some(send) => Ok(send),
                None => self.http2_connection().await,
            };
            // An answer to the question whether it can be used; nothing was sent yet.
            let send = match send {
                Ok(send) => send.ready().await.map_err(unanswered),
                Err(failed) => Err(Unanswered::Failed(failed)),
            };
            let send = match send {
                Ok(send) => send,
                Err(Unanswered::Untouched) => {
                    self.tally.count(kind, "asked to leave");
                    continue;
                }
                Err(Unanswered::Failed(failed)) => {
                    self.tally.fail(kind, &failed.during("before a request"));
                    sleep(REST).await;
                    continue;
                }
            };
            let mut requests = JoinSet::new();
            for _ in 0..AT_ONCE {
                number += 1;
                requests.spawn(request(send.clone(), body("h2", number)));
            }
            while let Some(Ok(result)) = requests.join_next().await {
                match result {
                    Ok(()) => self.tally.count(kind, DONE),
                    // May be sent again, and the next ones are.
                    Err(Unanswered::Untouched) => self.tally.count(kind, "untouched, sent again"),
                    Err(Unanswered::Failed(failed)) => self.tally.fail(kind, &failed),
                }
            }
            connection = Some(send);
            sleep(REST).await;
        }
    }

    async fn http2_connection(&self) -> Result<SendRequest<Bytes>, Failed> {
        let socket = connect(self.address).await?;
        let (send, connection) = h2::client::handshake(socket).await.map_err(failed)?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        self.tally.count(Kind::Http2, "connections");
        Ok(send)
    }
}

async fn request(send: SendRequest<Bytes>, body: String) -> Result<(), Unanswered> {
    let answered = timeout(DEADLINE, exchange(send, body.clone().into())).await;
    let Ok(answered) = answered else {
        let failed = Failed::new(Failure::Timeout, format!("{DEADLINE:?}"));
        return Err(Unanswered::Failed(failed));
    };
    let (status, got) = answered.map_err(unanswered)?;
    let text = String::from_utf8_lossy(&got).into_owned();
    if status != 200 {
        return Err(Unanswered::Failed(Failed::new(
            Failure::Status(status),
            text,
        )));
    }
    if got != body.as_bytes() {
        return Err(Unanswered::Failed(Failed::new(Failure::WrongBytes, text)));
    }
    Ok(())
}

async fn exchange(send: SendRequest<Bytes>, body: Bytes) -> Result<(u16, Vec<u8>), h2::Error> {
    let request = Request::post(format!("http://weir.test{CHAT}"))
        .header("content-type", "application/json")
        .body(())
        .expect("a request");
    let (answer, mut stream) = send.ready().await?.send_request(request, false)?;
    stream.send_data(body, true)?;
    let answer = answer.await?;
    let status = answer.status().as_u16();
    let mut from = answer.into_body();
    let mut got = Vec::new();
    while let Some(piece) = from.data().await {
        let piece = piece?;
        from.flow_control().release_capacity(piece.len())?;
        got.extend_from_slice(&piece);
    }
    Ok((status, got))
}

fn unanswered(error: h2::Error) -> Unanswered {
    let left =
        error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    if left || refused {
        return Unanswered::Untouched;
    }
    Unanswered::Failed(failed(error))
}

fn failed(error: h2::Error) -> Failed {
    let detail = error.to_string();
    match error.into_io() {
        Some(error) => Failed::from(error).during("HTTP/2"),
        None => Failed::new(Failure::Other, detail),
    }
}

//! The clients of a load, each a task that works until it is told to stop and counts what it sees.

use super::model::{ending, event, message, stream_request};
use super::tally::{DONE, Failed, Failure, Kind, Tally};
use super::wire::{Wire, connect, post};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

/// What every client is given.
#[derive(Clone)]
pub struct Client {
    /// Where it connects.
    pub address: SocketAddr,
    /// Tells this client from others of its kind.
    pub number: u64,
    /// Where it counts.
    pub tally: Arc<Tally>,
    /// Turns true when it is to stop.
    pub stop: watch::Receiver<bool>,
}

pub const CHAT: &str = "/v1/chat/completions";
/// What clients that make a connection for each request rest between two: the machine has other
/// things to do, and only so many ports.
const REST: Duration = Duration::from_millis(10);

/// A body that comes back as it is. It has a usage, so that nothing needs to be counted.
pub fn body(client: &str, number: u64) -> String {
    format!(
        r#"{{"model":"m","who":"{client}","number":{number},"usage":{{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}}}"#
    )
}

impl Client {
    fn stops(&self) -> bool {
        *self.stop.borrow()
    }

    fn settle(&self, kind: Kind, result: Result<(), Failed>) {
        match result {
            Ok(()) => self.tally.count(kind, DONE),
            Err(failed) => self.tally.fail(kind, &failed),
        }
    }

    /// A connection for each request.
    pub async fn new_connections(self) {
        let mut number = 0;
        while !self.stops() {
            number += 1;
            let done = async {
                let mut wire = Wire::new(connect(self.address).await?);
                let body = body("new", number);
                wire.send(post(CHAT, &body)).await?;
                wire.expect(body.as_bytes()).await.map(drop)
            };
            let done = done.await;
            self.settle(Kind::NewConnection, done);
            sleep(REST).await;
        }
    }

    /// One connection of a pool: kept, looked at before it is used again, left when it is said to.
    pub async fn keep_alive(self) {
        let kind = Kind::KeepAlive;
        let mut kept: Option<Wire<TcpStream>> = None;
        let mut number = 0;
        while !self.stops() {
            number += 1;
            if kept.as_ref().is_some_and(Wire::has_ended) {
                self.tally.count(kind, "closed while idle");
                kept = None;
            }
            let reused = kept.is_some();
            let wire = match kept.take() {
                Some(wire) => Ok(wire),
                None => connect(self.address).await.map(Wire::new),
            };
            if !reused {
                self.tally.count(kind, "connections");
            }
            let done = async {
                let mut wire = wire?;
                let body = body("kept", number);
                wire.send(post(CHAT, &body)).await?;
                let head = wire.expect(body.as_bytes()).await?;
                Ok((wire, head.closes()))
            };
            match done.await {
                Ok((wire, closes)) => {
                    self.tally.count(kind, DONE);
                    if closes {
                        self.tally.count(kind, "told to close");
                    } else {
                        kept = Some(wire);
                    }
                }
                Err(failed) => {
                    let failed: Failed = failed;
                    let what = if reused {
                        "on a kept connection"
                    } else {
                        "on a new one"
                    };
                    self.tally.fail(kind, &failed.during(what));
                }
            }
            // 0 to 20 ms, differently for each.
            sleep(Duration::from_millis((number * 7 + self.number * 3) % 21)).await;
        }
    }

    /// TLS 1.3, a connection for each request. The configuration keeps tickets.
    pub async fn tls(self, config: Arc<rustls::ClientConfig>) {
        let kind = Kind::Tls;
        let connector = TlsConnector::from(config);
        let mut number = 0;
        while !self.stops() {
            number += 1;
            let done = async {
                let socket = connect(self.address).await?;
                let name = self.address.ip().into();
                let tls = connector.connect(name, socket).await;
                let mut wire = Wire::new(tls.map_err(|error| Failed::from(error).during("TLS"))?);
                let body = body("tls", number);
                wire.send(post(CHAT, &body)).await?;
                wire.expect(body.as_bytes()).await?;
                Ok(wire.stream().get_ref().1.handshake_kind())
            };
            match done.await {
                Ok(handshake) => {
                    self.tally.count(kind, DONE);
                    let resumed = handshake == Some(rustls::HandshakeKind::Resumed);
                    let what = if resumed { RESUMED } else { FULL };
                    self.tally.count(kind, what);
                }
                Err(failed) => {
                    let failed: Failed = failed;
                    self.tally.fail(kind, &failed);
                }
            }
            sleep(REST).await;
        }
    }

    /// One stream of events, each compared with what was sent, to its end mark and the end of the
    /// body.
    pub async fn stream(self, batch: u64) {
        let kind = Kind::Stream;
        let done = self.one_stream(batch).await;
        self.settle(kind, done);
    }

    async fn one_stream(&self, batch: u64) -> Result<(), Failed> {
        let kind = Kind::Stream;
        let mut wire = Wire::new(connect(self.address).await?);
        let body = stream_request(self.number, batch);
        wire.send(post(CHAT, &body)).await?;
        let head = wire.head().await?;
        if head.status != 200 {
            let text = wire.body(&head).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            return Err(Failed::new(Failure::Status(head.status), text));
        }
        let (mut number, mut text) = (0, String::new());
        while let Some(piece) = wire
            .chunk()
            .await
            .map_err(|failed| failed.during(&format!("stream {} event {number}", self.number)))?
        {
            text.push_str(&String::from_utf8_lossy(&piece));
            loop {
                let expected = event(self.number, number);
                if !text.starts_with(&expected) {
                    break;
                }
                text.drain(..expected.len());
                self.tally
                    .count(kind, if number == 0 { BEGAN } else { "events" });
                number += 1;
            }
            // A part of an event, or the end.
            let whole = text.ends_with("\n\n");
            if whole && !ending(number).starts_with(&text) {
                break;
            }
        }
        if text != ending(number) {
            let detail = format!("stream {} after {number} events: {text:?}", self.number);
            return Err(Failed::new(Failure::WrongBytes, detail));
        }
        Ok(())
    }

    /// A WebSocket that echoes, one message after the other.
    pub async fn websocket(self) {
        let done = self.echoes().await;
        if let Err(failed) = done {
            self.tally.fail(Kind::WebSocket, &failed);
        }
    }

    async fn echoes(&self) -> Result<(), Failed> {
        let mut wire = Wire::new(connect(self.address).await?);
        wire.send(
            "GET /v1/realtime?model=m HTTP/1.1\r\nHost: weir.test\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n",
        )
        .await?;
        let head = wire.head().await?;
        if head.status != 101 {
            return Err(Failed::new(Failure::Status(head.status), "no upgrade"));
        }
        self.tally.count(Kind::WebSocket, "connections");
        let mut number: u32 = 0;
        while !self.stops() {
            number += 1;
            let sent = message(number);
            wire.send(sent).await?;
            let echo = wire.raw(6).await?;
            if echo[..2] != [0x82, 4] || echo[2..] != sent[6..] {
                return Err(Failed::new(Failure::WrongBytes, format!("{echo:?}")));
            }
            self.tally.count(Kind::WebSocket, DONE);
            sleep(REST).await;
        }
        Ok(())
    }

    /// Asks for the metrics again and again; no counter may ever fall or vanish.
    pub async fn admin(self) {
        let kind = Kind::Admin;
        let mut before = BTreeMap::new();
        while !self.stops() {
            let done = async {
                let live = self.get("/health/live").await?;
                if live != "OK" && live != "OK\n" {
                    return Err(Failed::new(Failure::WrongBytes, live));
                }
                let after = counters(&self.get("/metrics").await?);
                // Each fall is told once.
                let before = std::mem::replace(&mut before, after.clone());
                for (series, old) in before {
                    let new = after.get(&series);
                    if new.is_none_or(|new| *new < old) {
                        let detail = format!("{series} was {old} and is {new:?}");
                        return Err(Failed::new(Failure::WrongBytes, detail));
                    }
                }
                Ok(())
            };
            let done = done.await;
            self.settle(kind, done);
            sleep(REST).await;
        }
    }

    async fn get(&self, path: &str) -> Result<String, Failed> {
        let mut wire = Wire::new(connect(self.address).await?);
        let request = format!("GET {path} HTTP/1.1\r\nHost: weir.test\r\n\r\n");
        wire.send(request).await?;
        let head = wire.head().await?;
        let body = wire.body(&head).await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        if head.status != 200 {
            return Err(Failed::new(Failure::Status(head.status), text).during(path));
        }
        Ok(text)
    }
}

/// A TLS connection without a ticket.
pub const FULL: &str = "full handshakes";
/// A TLS connection with one.
pub const RESUMED: &str = "resumed handshakes";
/// A stream's first event.
pub const BEGAN: &str = "began";

/// Every series that may never fall, with its value.
fn counters(metrics: &str) -> BTreeMap<String, f64> {
    let mut kinds = BTreeMap::new();
    let mut found = BTreeMap::new();
    for line in metrics.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            kinds.extend(line.split_once(' '));
        }
        let Some((series, value)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let name = series.split('{').next().unwrap_or_default();
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|it| name.strip_suffix(it))
            .find(|it| kinds.get(it) == Some(&"histogram"));
        if (family.is_some() || kinds.get(name) == Some(&"counter"))
            && let Ok(value) = value.parse()
        {
            found.insert(series.to_owned(), value);
        }
    }
    found
}

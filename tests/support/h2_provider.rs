//! A model server that speaks HTTP/2 without TLS; [`super::tls`] puts TLS in front of it.

use super::DEADLINE;
use super::gate::{Board, Gate};
use bytes::Bytes;
use h2::server::SendResponse;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// A model server on a port of its own. Each request is answered by the script on a thread of its own.
pub struct H2Provider {
    address: SocketAddr,
    seen: Arc<Board<Seen>>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Seen {
    requests: usize,
    cancelled: usize,
}

/// One request, to be answered.
pub struct H2Exchange {
    /// Its body.
    body: Vec<u8>,
    respond: SendResponse<Bytes>,
    stream: Option<h2::SendStream<Bytes>>,
    runtime: tokio::runtime::Handle,
    seen: Arc<Board<Seen>>,
}

impl H2Provider {
    /// Calls `script` with each request, once its body is read.
    pub fn start(script: impl Fn(&mut H2Exchange) + Send + Sync + 'static) -> Self {
        let open = Gate::new();
        open.open();
        Self::start_late(&open, script)
    }

    /// The same, but no body is read before the gate is open.
    pub fn start_late(
        gate: &Gate,
        script: impl Fn(&mut H2Exchange) + Send + Sync + 'static,
    ) -> Self {
        let gate = gate.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let bind = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = runtime.block_on(bind).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let seen: Arc<Board<Seen>> = Arc::default();
        let (known, script) = (Arc::clone(&seen), Arc::new(script));
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let (seen, script) = (Arc::clone(&known), Arc::clone(&script));
                let gate = gate.clone();
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(socket).await else {
                        return;
                    };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                        let (mut body, gate) = (request.into_body(), gate.clone());
                        tokio::spawn(async move {
                            if !gate.is_open() {
                                let _ = tokio::task::spawn_blocking(move || gate.wait()).await;
                            }
                            let mut whole = Vec::new();
                            while let Some(Ok(piece)) = body.data().await {
                                whole.extend_from_slice(&piece);
                                let _ = body.flow_control().release_capacity(piece.len());
                            }
                            seen.change(|seen| seen.requests += 1);
                            let mut exchange = H2Exchange {
                                body: whole,
                                respond,
                                stream: None,
                                runtime: tokio::runtime::Handle::current(),
                                seen,
                            };
                            let _ =
                                tokio::task::spawn_blocking(move || script(&mut exchange)).await;
                        });
                    }
                });
            }
        });
        Self {
            address,
            seen,
            _runtime: runtime,
        }
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.seen.change(|seen| seen.requests)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until `count` requests have come.
    #[track_caller]
    pub fn wait_requests(&self, count: usize) {
        self.seen.wait(&format!("{count} HTTP/2 requests"), |seen| {
            (seen.requests >= count).then_some(())
        });
    }

    /// Waits until `count` requests were taken back, as [`H2Exchange::wait_cancelled`] saw.
    #[track_caller]
    pub fn wait_cancelled(&self, count: usize) {
        self.seen
            .wait(&format!("{count} cancelled HTTP/2 requests"), |seen| {
                (seen.cancelled >= count).then_some(())
            });
    }
}

impl H2Exchange {
    /// The request's body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The request's body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The request's body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// An answer's head.
    pub fn head(&mut self, status: u16, headers: &[(&str, &str)]) {
        let mut head = http::Response::builder().status(status);
        for (name, value) in headers {
            head = head.header(*name, *value);
        }
        let head = head.body(()).expect("a head");
        self.stream = self.respond.send_response(head, false).ok();
    }

    /// The head of a stream of events.
    pub fn stream(&mut self) {
        self.head(200, &[("content-type", "text/event-stream")]);
    }

    /// One event with this data.
    pub fn event(&mut self, data: &str) {
        self.data(format!("data: {data}\n\n"), false);
    }

    /// Bytes of the body, perhaps the last ones.
    pub fn data(&mut self, bytes: impl Into<Bytes>, end: bool) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.send_data(bytes.into(), end);
        }
    }

    /// Bytes of the body, as the other side makes room for them; `false` when it has left.
    pub fn data_as_taken(&mut self, bytes: &[u8]) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let mut left = Bytes::copy_from_slice(bytes);
        while !left.is_empty() {
            stream.reserve_capacity(left.len());
            let room = std::future::poll_fn(|cx| stream.poll_capacity(cx));
            let Some(Ok(room)) = self.runtime.block_on(room) else {
                return false;
            };
            let piece = left.split_to(room.min(left.len()));
            if stream.send_data(piece, false).is_err() {
                return false;
            }
        }
        true
    }

    /// The end of the body.
    pub fn end(&mut self) {
        self.data(Bytes::new(), true);
    }

    /// Trailers, which end the answer.
    pub fn trailers(&mut self) {
        if let Some(stream) = &mut self.stream {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-trailer", http::HeaderValue::from_static("1"));
            let _ = stream.send_trailers(trailers);
        }
    }

    /// Takes the request back without an answer.
    pub fn reject(&mut self, reason: h2::Reason) {
        self.respond.send_reset(reason);
    }

    /// Breaks the answer off.
    pub fn reset(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    }

    /// Waits until the other side takes its request back.
    pub fn wait_cancelled(&mut self) {
        let gone = std::future::poll_fn(|cx| match &mut self.stream {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        });
        let within = self
            .runtime
            .block_on(async { timeout(DEADLINE, gone).await });
        if within.is_ok() {
            self.seen.change(|seen| seen.cancelled += 1);
        }
    }
}

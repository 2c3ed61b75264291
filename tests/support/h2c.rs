//! An HTTP/2 client without TLS, by prior knowledge.

use super::DEADLINE;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// One connection.
pub struct Client {
    runtime: Runtime,
    send: SendRequest<Bytes>,
}

/// A stream whose answer's head has come.
pub struct Reading<'a> {
    client: &'a Client,
    /// Status and headers.
    pub head: Response<()>,
    body: h2::RecvStream,
    ahead: Vec<u8>,
    /// Bytes that were read and not yet told of.
    unreleased: usize,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    /// Why the body was cut off, if it was.
    pub cut: Option<h2::Error>,
}

impl Client {
    /// Connects; a thread of its own moves the connection.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::with_window(address, 1 << 20)
    }

    /// Connects; of one answer so many bytes are taken before they are read.
    #[track_caller]
    pub fn with_window(address: SocketAddr, window: usize) -> Self {
        let window = u32::try_from(window).expect("a window of HTTP/2");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let send = runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(address)
                .await
                .expect("a connection");
            socket.set_nodelay(true).expect("a socket");
            let (send, connection) = h2::client::Builder::new()
                .initial_window_size(window)
                .initial_connection_window_size(4 << 20)
                .handshake(socket)
                .await
                .expect("HTTP/2");
            tokio::spawn(async move {
                let _ = connection.await;
            });
            send
        });
        Self { runtime, send }
    }

    /// Sends a request whole and reads its answer whole.
    #[track_caller]
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        self.begin(method, path, headers, body).answer()
    }

    /// Sends a POST of JSON and reads its answer whole.
    #[track_caller]
    pub fn post(&self, path: &str, json: impl AsRef<[u8]>) -> Answer {
        let headers = [("content-type", "application/json")];
        self.request("POST", path, &headers, json.as_ref())
    }

    /// Sends a request whole and waits for its answer's head.
    #[track_caller]
    pub fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reading<'_> {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(format!("http://weir.test{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let body = Bytes::copy_from_slice(body);
        let send = self.send.clone();
        let response = self.within("an HTTP/2 answer", async move {
            let mut send = send.ready().await?;
            let (response, mut stream) = send.send_request(request, body.is_empty())?;
            // Both ways at once: the server may answer before it has read.
            tokio::spawn(async move {
                let _ = send_body(&mut stream, body).await;
            });
            response.await
        });
        let (head, body) = response.expect("an HTTP/2 answer").into_parts();
        Reading {
            client: self,
            head: Response::from_parts(head, ()),
            body,
            ahead: Vec::new(),
            unreleased: 0,
        }
    }

    /// Sends a POST of these bytes as weir takes them, which `sent` counts, and reads its answer.
    #[track_caller]
    pub fn upload(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        sent: &AtomicUsize,
    ) -> Answer {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://weir.test{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let mut body = Bytes::from(body);
        let send = self.send.clone();
        // As long as the test takes: each of its own steps has a bound.
        let response = self.runtime.block_on(async move {
            let (response, mut stream) = send.ready().await?.send_request(request, false)?;
            while !body.is_empty() {
                let piece = body.split_to(body.len().min(1 << 16));
                let count = piece.len();
                send_piece(&mut stream, piece, body.is_empty()).await?;
                sent.fetch_add(count, Ordering::Relaxed);
            }
            response.await
        });
        let (head, body) = response.expect("an HTTP/2 answer").into_parts();
        let reading = Reading {
            client: self,
            head: Response::from_parts(head, ()),
            body,
            ahead: Vec::new(),
            unreleased: 0,
        };
        reading.answer()
    }

    /// Sends a POST of JSON and takes it back (RST_STREAM) after `sent`, before any answer is read.
    pub fn post_and_cancel(&self, path: &str, json: impl AsRef<[u8]>, sent: impl FnOnce()) {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://weir.test{path}"))
            .header("content-type", "application/json")
            .body(())
            .expect("a request");
        let body = Bytes::copy_from_slice(json.as_ref());
        let send = self.send.clone();
        let answer = self.within("a sent request", async move {
            let (answer, mut stream) = send.ready().await?.send_request(request, false)?;
            send_body(&mut stream, body).await?;
            Ok::<_, h2::Error>(answer)
        });
        sent();
        drop(answer.expect("a sent request"));
    }

    /// Sends a request and takes it back in the same breath.
    pub fn reset_at_once(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(format!("http://weir.test{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let body = Bytes::copy_from_slice(body);
        let send = self.send.clone();
        self.within("a place for a stream", async move {
            // A server that has had enough may end the connection.
            let Ok(mut send) = send.ready().await else {
                return;
            };
            if let Ok((_answer, mut stream)) = send.send_request(request, false) {
                let _ = stream.send_data(body, true);
                stream.send_reset(h2::Reason::CANCEL);
            }
        });
    }

    #[track_caller]
    fn within<R>(&self, what: &str, future: impl Future<Output = R>) -> R {
        self.runtime
            .block_on(async { timeout(DEADLINE, future).await })
            .unwrap_or_else(|_| panic!("waited {DEADLINE:?} in vain for {what}"))
    }
}

async fn send_body(stream: &mut h2::SendStream<Bytes>, body: Bytes) -> Result<(), h2::Error> {
    send_piece(stream, body, true).await
}

async fn send_piece(
    stream: &mut h2::SendStream<Bytes>,
    mut body: Bytes,
    last: bool,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len().min(1 << 18));
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(capacity) = capacity else {
            return Ok(());
        };
        let count = capacity?.min(body.len());
        let piece = body.split_to(count);
        stream.send_data(piece, last && body.is_empty())?;
    }
    Ok(())
}

impl Reading<'_> {
    /// Status code.
    pub fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    /// Reads until the body has this text, and returns all up to its end.
    #[track_caller]
    pub fn read_text_until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = super::client::find(&self.ahead, text.as_bytes()) {
                let taken: Vec<u8> = self.ahead.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            match self.piece() {
                Some(Ok(piece)) => self.ahead.extend_from_slice(&piece),
                other => panic!(
                    "the body ended ({other:?}) without {text:?}; it has {:?}",
                    String::from_utf8_lossy(&self.ahead)
                ),
            }
        }
    }

    /// Reads `count` bytes, or a few more, without telling weir that they were read.
    #[track_caller]
    pub fn read_unreleased(&mut self, count: usize) -> Vec<u8> {
        while self.ahead.len() < count {
            let piece = self
                .client
                .within("a piece of an HTTP/2 body", self.body.data());
            let piece = piece.expect("not the end").expect("a piece");
            self.unreleased += piece.len();
            self.ahead.extend_from_slice(&piece);
        }
        self.ahead.clone()
    }

    /// Reads to the end.
    #[track_caller]
    pub fn answer(mut self) -> Answer {
        let mut body = std::mem::take(&mut self.ahead);
        let mut cut = None;
        while let Some(piece) = self.piece() {
            match piece {
                Ok(piece) => body.extend_from_slice(&piece),
                Err(error) => {
                    cut = Some(error);
                    break;
                }
            }
        }
        Answer {
            status: self.status(),
            headers: self.head.headers().clone(),
            body,
            cut,
        }
    }

    /// Takes the stream back (RST_STREAM), while the connection lives on.
    pub fn cancel(self) {}

    /// The next piece; `None` at the end.
    #[track_caller]
    pub fn next_piece(&mut self) -> Option<Result<Bytes, h2::Error>> {
        self.piece()
    }

    #[track_caller]
    fn piece(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let body = &mut self.body;
        let unreleased = std::mem::take(&mut self.unreleased);
        if unreleased > 0 {
            let _ = body.flow_control().release_capacity(unreleased);
        }
        let piece = self.client.within("a piece of an HTTP/2 body", body.data());
        if let Some(Ok(piece)) = &piece {
            let _ = body.flow_control().release_capacity(piece.len());
        }
        piece
    }
}

impl Answer {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

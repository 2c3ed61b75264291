//! A model server that does what a test tells it, and tells the test what it was sent, byte by byte.

use super::DEADLINE;
use super::client::{chunk, find};
use super::gate::{Board, Gate, eventually};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A queue of the kernel's is full when it takes no connection in this time.
const FULL: Duration = Duration::from_millis(100);

/// A model server on a port of its own. It stops accepting when it is dropped; connections that a
/// script still holds end with the script.
pub struct Provider {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Keeps the port bound where nobody accepts.
    _listener: TcpListener,
}

#[derive(Default)]
struct Shared {
    seen: Board<Seen>,
    stop: AtomicBool,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    connections: usize,
    ends: Vec<ConnectionEnd>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names as they came, in order.
    pub headers: Vec<(String, String)>,
    /// The head exactly as it came.
    pub head: Vec<u8>,
    /// The body, out of its chunks.
    pub body: Vec<u8>,
    /// The body came in chunks.
    pub chunked: bool,
    /// Which connection of this server it came on, from 0.
    pub connection: usize,
    /// When its head was complete.
    pub at: Instant,
}

/// The other side has ended a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionEnd {
    /// Which connection, from 0.
    pub connection: usize,
    /// When.
    pub at: Instant,
    /// With a reset.
    pub reset: bool,
}

/// One request and the connection that its answer goes to.
pub struct Exchange {
    /// What is asked. The body is empty as long as [`Exchange::read_body`] wasn't called in a script
    /// that began at the head.
    pub request: Request,
    wire: Arc<Wire>,
    stream: TcpStream,
    open: bool,
}

/// What has come on a connection; a thread of its own reads, so that the end is seen at once.
#[derive(Default)]
struct Wire {
    inbox: Board<Inbox>,
}

#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    end: Option<(Instant, bool)>,
}

// === impl Provider ===

impl Provider {
    /// Calls `script` with each request, once its body is read.
    pub fn start(script: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        Self::start_at_head(move |exchange| {
            if exchange.read_body() {
                exchange.record();
                script(exchange);
            }
        })
    }

    /// Calls `script` with each request's head; the body is its own affair, and so is
    /// [`Exchange::record`].
    pub fn start_at_head(script: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        let script = Arc::new(script);
        Self::accepting(move |shared, stream, connection| {
            serve(&shared, stream, connection, &*script);
        })
    }

    /// Answers each request with 200 and this JSON.
    pub fn json(answer: &'static str) -> Self {
        Self::start(move |exchange| exchange.json(200, answer))
    }

    /// The same at this address, if it is free.
    pub fn json_at(address: SocketAddr, answer: &'static str) -> Option<Self> {
        let listener = TcpListener::bind(address).ok()?;
        let script = move |exchange: &mut Exchange| {
            if exchange.read_body() {
                exchange.record();
                exchange.json(200, answer);
            }
        };
        let serve = move |shared: Arc<Shared>, stream, number| {
            serve(&shared, stream, number, &script);
        };
        Some(Self::accepting_on(listener, serve))
    }

    /// Answers each request with 200 and the request's body.
    pub fn echo() -> Self {
        Self::start(|exchange| {
            let body = exchange.request.body.clone();
            exchange.answer(200, &[("content-type", "application/octet-stream")], &body);
        })
    }

    /// Streams these events (`data:` lines are made of them) to each request.
    pub fn events(events: &'static [&'static str]) -> Self {
        Self::start(move |exchange| {
            exchange.stream();
            for event in events {
                exchange.event(event);
            }
            exchange.end();
        })
    }

    /// Gives each connection to `script` as a bare socket; nothing is read or recorded.
    pub fn raw(script: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let script = Arc::new(script);
        Self::accepting(move |_, stream, _| script(stream))
    }

    /// As [`Provider::start_at_head`], but `first` gets each connection before anything of it is read,
    /// and keeps it, or gives it back to be served.
    pub fn start_at_connection(
        first: impl Fn(TcpStream) -> Option<TcpStream> + Send + Sync + 'static,
        script: impl Fn(&mut Exchange) + Send + Sync + 'static,
    ) -> Self {
        Self::accepting(move |shared, stream, connection| {
            if let Some(stream) = first(stream) {
                serve(&shared, stream, connection, &script);
            }
        })
    }

    /// Refuses connections, or where `full` is true lets them wait for ever, until the gate is opened;
    /// then it is as [`Provider::start_at_head`] has it.
    pub fn start_late(
        gate: &Gate,
        full: bool,
        script: impl Fn(&mut Exchange) + Send + Sync + 'static,
    ) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("a free port");
        if full {
            socket.listen(0).expect("a socket");
        }
        let address = socket.local_addr().expect("bound").as_socket();
        let address = address.expect("an address of IPv4");
        // What the kernel's queue takes is taken: whoever comes next is never heard.
        let mut queued = Vec::new();
        while full && let Ok(stream) = TcpStream::connect_timeout(&address, FULL) {
            queued.push(stream);
        }
        let shared = Arc::new(Shared::default());
        let provider = Self {
            address,
            shared: Arc::clone(&shared),
            _listener: socket.try_clone().expect("a descriptor").into(),
        };
        let (gate, script) = (gate.clone(), Arc::new(script));
        std::thread::spawn(move || {
            let ends = || shared.stop.load(Ordering::Relaxed);
            while !gate.opens_within(FULL) {
                if ends() {
                    return;
                }
            }
            drop(queued);
            socket.listen(128).expect("a socket");
            let serve = move |shared: Arc<Shared>, stream, number| {
                serve(&shared, stream, number, &*script);
            };
            accept(&socket.into(), &shared, &Arc::new(serve));
        });
        provider
    }

    /// Never accepts: connections wait in the kernel's queue.
    pub fn never_accepting() -> Self {
        let listener = listener();
        Self {
            address: listener.local_addr().expect("bound"),
            shared: Arc::new(Shared {
                seen: Board::default(),
                stop: AtomicBool::new(true),
            }),
            _listener: listener,
        }
    }

    fn accepting(
        connection: impl Fn(Arc<Shared>, TcpStream, usize) + Send + Sync + 'static,
    ) -> Self {
        Self::accepting_on(listener(), connection)
    }

    fn accepting_on(
        listener: TcpListener,
        connection: impl Fn(Arc<Shared>, TcpStream, usize) + Send + Sync + 'static,
    ) -> Self {
        let provider = Self {
            address: listener.local_addr().expect("bound"),
            shared: Arc::default(),
            _listener: listener.try_clone().expect("a descriptor"),
        };
        let shared = Arc::clone(&provider.shared);
        std::thread::spawn(move || accept(&listener, &shared, &Arc::new(connection)));
        provider
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.seen.lock().requests.clone()
    }

    /// Waits until `count` requests have come, and returns all.
    #[track_caller]
    pub fn wait_requests(&self, count: usize) -> Vec<Request> {
        self.shared
            .seen
            .wait(&format!("{count} requests at the model server"), |seen| {
                (seen.requests.len() >= count).then(|| seen.requests.clone())
            })
    }

    /// The one request that has come.
    #[track_caller]
    pub fn only_request(&self) -> Request {
        let mut requests = self.wait_requests(1);
        assert_eq!(requests.len(), 1, "more requests came than one");
        requests.remove(0)
    }

    /// Forgets the requests that have come.
    pub fn forget(&self) {
        self.shared.seen.change(|seen| seen.requests.clear());
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.seen.lock().connections
    }

    /// Waits until `count` connections have come.
    #[track_caller]
    pub fn wait_connections(&self, count: usize) {
        self.shared.seen.wait(
            &format!("{count} connections to the model server"),
            |seen| (seen.connections >= count).then_some(()),
        );
    }

    /// Waits until it takes connections.
    #[track_caller]
    pub fn wait_listening(&self) {
        eventually("the model server to listen", || {
            TcpStream::connect_timeout(&self.address, FULL).ok()
        });
    }

    /// Waits until the other side has ended a connection.
    #[track_caller]
    pub fn wait_end(&self, connection: usize) -> ConnectionEnd {
        self.shared
            .seen
            .wait(&format!("the end of connection {connection}"), |seen| {
                seen.ends
                    .iter()
                    .find(|end| end.connection == connection)
                    .copied()
            })
    }

    /// Connections that the other side has ended so far.
    pub fn ends(&self) -> Vec<ConnectionEnd> {
        self.shared.seen.lock().ends.clone()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(100));
    }
}

/// Gives each connection a thread of its own, until the model server is to stop.
fn accept<C: Fn(Arc<Shared>, TcpStream, usize) + Send + Sync + 'static>(
    listener: &TcpListener,
    shared: &Arc<Shared>,
    connection: &Arc<C>,
) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let _ = stream.set_nodelay(true);
        let number = shared.seen.change(|seen| {
            seen.connections += 1;
            seen.connections - 1
        });
        let (shared, connection) = (Arc::clone(shared), Arc::clone(connection));
        std::thread::spawn(move || connection(shared, stream, number));
    }
}

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")
}

/// An address where nobody listens.
pub fn nobody() -> SocketAddr {
    listener().local_addr().expect("bound")
}

fn serve(
    shared: &Arc<Shared>,
    stream: TcpStream,
    connection: usize,
    script: &(impl Fn(&mut Exchange) + ?Sized),
) {
    let wire = Arc::new(Wire::default());
    let Ok(reader) = stream.try_clone() else {
        return;
    };
    let (from, known) = (Arc::clone(&wire), Arc::clone(shared));
    std::thread::spawn(move || from.read(reader, &known, connection));
    let mut open = true;
    while open {
        let Some(request) = wire.read_head(connection) else {
            break;
        };
        let Ok(stream) = stream.try_clone() else {
            break;
        };
        let mut exchange = Exchange {
            request,
            wire: Arc::clone(&wire),
            stream,
            open: true,
        };
        RECORDING.with_borrow_mut(|recording| *recording = Some(Arc::clone(shared)));
        script(&mut exchange);
        open = exchange.open;
    }
    let _ = stream.shutdown(Shutdown::Both);
}

thread_local! {
    /// Where this connection's thread records its requests.
    static RECORDING: std::cell::RefCell<Option<Arc<Shared>>> = const { std::cell::RefCell::new(None) };
}

// === impl Wire ===

impl Wire {
    fn read(&self, mut stream: TcpStream, shared: &Shared, connection: usize) {
        let mut piece = vec![0; 1 << 16];
        let reset = loop {
            match stream.read(&mut piece) {
                Ok(0) => break false,
                Ok(count) => self.inbox.change(|inbox| {
                    inbox.bytes.extend_from_slice(&piece[..count]);
                }),
                Err(_) => break true,
            }
        };
        let at = Instant::now();
        self.inbox.change(|inbox| inbox.end = Some((at, reset)));
        shared.seen.change(|seen| {
            seen.ends.push(ConnectionEnd {
                connection,
                at,
                reset,
            });
        });
    }

    /// The next request's head; `None` when the connection ends instead.
    fn read_head(&self, connection: usize) -> Option<Request> {
        /// An idle connection ends with its test.
        const IDLE: Duration = Duration::from_secs(120);
        let head =
            self.inbox
                .wait_within(IDLE, |inbox| match find(&inbox.bytes, b"\r\n\r\n") {
                    Some(at) => Some(Some(inbox.bytes.drain(..at + 4).collect::<Vec<u8>>())),
                    None => inbox.end.map(|_| None),
                })??;
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let mut first = lines.next()?.split(' ');
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Some(Request {
            method: first.next()?.to_owned(),
            target: first.next()?.to_owned(),
            headers,
            head,
            body: Vec::new(),
            chunked: false,
            connection,
            at: Instant::now(),
        })
    }

    /// Takes `count` bytes; `None` when the connection ends before.
    fn take(&self, count: usize) -> Option<Vec<u8>> {
        self.inbox.wait_within(DEADLINE, |inbox| {
            if inbox.bytes.len() >= count {
                let rest = inbox.bytes.split_off(count);
                return Some(Some(std::mem::replace(&mut inbox.bytes, rest)));
            }
            inbox.end.map(|_| None)
        })?
    }

    fn take_line(&self) -> Option<String> {
        self.inbox.wait_within(DEADLINE, |inbox| {
            if let Some(at) = find(&inbox.bytes, b"\r\n") {
                let line: Vec<u8> = inbox.bytes.drain(..at + 2).collect();
                return Some(Some(String::from_utf8_lossy(&line[..at]).into_owned()));
            }
            inbox.end.map(|_| None)
        })?
    }
}

// === impl Request ===

impl Request {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        super::header(&self.headers, name)
    }

    /// All headers of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = |(given, _): &&(String, String)| given.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(named)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

// === impl Exchange ===

impl Exchange {
    /// Reads the request's body; `false` when the connection ended in it.
    pub fn read_body(&mut self) -> bool {
        let coded = self.request.header("transfer-encoding").unwrap_or_default();
        if coded.contains("chunked") {
            self.request.chunked = true;
            return self.read_chunks().is_some();
        }
        let length = self
            .request
            .header("content-length")
            .and_then(|it| it.parse().ok());
        match self.wire.take(length.unwrap_or(0)) {
            Some(body) => {
                self.request.body = body;
                true
            }
            None => false,
        }
    }

    fn read_chunks(&mut self) -> Option<()> {
        loop {
            let line = self.wire.take_line()?;
            let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                while !self.wire.take_line()?.is_empty() {}
                return Some(());
            }
            self.request.body.extend(self.wire.take(size)?);
            self.wire.take(2)?;
        }
    }

    /// Shows the request to the test.
    pub fn record(&self) {
        RECORDING.with_borrow(|recording| {
            if let Some(shared) = recording {
                let request = self.request.clone();
                shared.seen.change(|seen| seen.requests.push(request));
            }
        });
    }

    /// Sends bytes as they are; `false` when the other side has left.
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// A whole answer with its length.
    pub fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let mut message = head(status, headers);
        if status >= 200 && !matches!(status, 204 | 304) {
            message.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        message.push_str("\r\n");
        let mut bytes = message.into_bytes();
        bytes.extend_from_slice(body);
        self.raw(bytes);
    }

    /// A whole answer of JSON.
    pub fn json(&mut self, status: u16, body: &str) {
        self.answer(
            status,
            &[("content-type", "application/json")],
            body.as_bytes(),
        );
    }

    /// An answer's head; what follows is the script's affair.
    pub fn head(&mut self, status: u16, headers: &[(&str, &str)]) {
        self.raw(head(status, headers) + "\r\n");
    }

    /// The head of a stream of events in chunks.
    pub fn stream(&mut self) {
        let headers = [
            ("content-type", "text/event-stream"),
            ("transfer-encoding", "chunked"),
        ];
        self.head(200, &headers);
    }

    /// One chunk; `false` when the other side has left.
    pub fn chunk(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.raw(chunk(bytes.as_ref()))
    }

    /// One event with this data, as one chunk.
    pub fn event(&mut self, data: &str) -> bool {
        self.chunk(format!("data: {data}\n\n"))
    }

    /// The last chunk.
    pub fn end(&mut self) {
        self.raw("0\r\n\r\n");
    }

    /// Waits at a gate.
    pub fn wait(&self, gate: &Gate) {
        gate.wait();
    }

    /// Waits until the other side ends the connection.
    pub fn wait_end(&self) {
        self.wire
            .inbox
            .wait("the other side's end of the connection", |inbox| inbox.end);
    }

    /// Takes bytes that come after the request, as they are.
    pub fn take(&self, count: usize) -> Option<Vec<u8>> {
        self.wire.take(count)
    }

    /// Waits until the other side's system has taken all that was sent.
    pub fn wait_taken(&self) {
        eventually("the other side to take what was sent", || {
            let mut unsent: libc::c_int = 0;
            // SAFETY: the call writes one number, which lives through it.
            let asked =
                unsafe { libc::ioctl(self.stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) };
            (asked != 0 || unsent == 0).then_some(())
        });
    }

    /// Ends our sending side only.
    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection after this exchange.
    pub fn close(&mut self) {
        self.open = false;
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Ends the connection with a reset, now.
    pub fn reset(&mut self) {
        self.open = false;
        reset(&self.stream);
    }
}

fn head(status: u16, headers: &[(&str, &str)]) -> String {
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Whatever");
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head
}

/// Ends a connection with a reset, whoever else holds its descriptor.
pub fn reset(stream: &TcpStream) {
    // Connecting a TCP socket to an unspecified address aborts its connection at once; closing it
    // with a linger of zero would wait for the last copy of the descriptor.
    let address = libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_UNSPEC).expect("a small number"),
        sa_data: [0; 14],
    };
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr>()).expect("a small number");
    // SAFETY: the address lives through the call and its size is the one that is said.
    unsafe { libc::connect(stream.as_raw_fd(), &raw const address, size) };
}

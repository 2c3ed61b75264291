//! Whoever reads slowly is written to slowly: a client its upstream, an upstream its client. Nothing piles
//! up between them, and whoever takes nothing at all is left when its time is over.

use crate::streaming::Http2;
use crate::support::gate::{Board, eventually};
use crate::support::{Gate, Gateway, H2Provider, Provider, h2c};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}"#;
const BINARY: (&str, &str) = ("content-type", "application/octet-stream");
const LARGE: usize = 64 << 20;
/// What the kernel's socket buffers of both connections may take, generously.
const IN_SOCKETS: usize = 24 << 20;
/// What one stream may take of weir's own memory, with all that an allocator does.
const GROWTH_MAX: usize = 8 << 20;

fn gateway(provider: &Provider, more: &str) -> Gateway {
    Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{}\", models: [gpt-4o]}}]\n\
         routing: {{default_provider: p}}\n{more}",
        provider.url()
    ))
}

/// Bytes of which each eight are their own number: none can be lost, doubled or moved unseen.
fn numbered(from: usize, bytes: usize) -> Vec<u8> {
    let numbers = (from / 8) as u64..(from + bytes) as u64 / 8;
    numbers.flat_map(u64::to_be_bytes).collect()
}

#[track_caller]
fn assert_numbered(got: &[u8], bytes: usize) {
    assert_eq!(got.len(), bytes);
    let wrong = (0..bytes / 8).find(|n| got[n * 8..n * 8 + 8] != (*n as u64).to_be_bytes());
    assert_eq!(wrong, None, "a number is not in its place");
}

/// What weir's process has in memory, bytes: now, or at its peak since it was forgotten.
fn memory(gateway: &Gateway, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("/proc");
    let line = status.lines().find(|line| line.starts_with(name));
    let size = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    size.expect("a size") << 10
}

/// The same, once it stands still: the vocabularies are loaded, which takes its time.
fn settled(gateway: &Gateway) -> usize {
    const STILL: Duration = Duration::from_millis(700);
    let mut last = (0, Instant::now());
    eventually("weir's memory to stand still", || {
        let now = memory(gateway, "VmRSS:");
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > STILL).then_some(now)
    })
}

/// Forgets the peak so far.
fn forget_peak(gateway: &Gateway) {
    std::fs::write(format!("/proc/{}/clear_refs", gateway.pid()), "5").expect("/proc");
}

/// Waits until a counter stands still, and returns it.
fn standing(counter: &AtomicUsize) -> usize {
    const STILL: Duration = Duration::from_millis(700);
    let mut last = (counter.load(Ordering::Relaxed), Instant::now());
    eventually("the writer to be blocked", || {
        let now = counter.load(Ordering::Relaxed);
        if now != last.0 || now == 0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > STILL).then_some(now)
    })
}

/// A model server that sends as much as it can, and how much that was.
fn flooding() -> (Provider, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let provider = Provider::start(move |exchange| {
        let length = LARGE.to_string();
        exchange.head(200, &[BINARY, ("content-length", &length)]);
        for at in (0..LARGE).step_by(1 << 16) {
            if !exchange.raw(numbered(at, 1 << 16)) {
                return;
            }
            counter.fetch_add(1 << 16, Ordering::Relaxed);
        }
    });
    (provider, sent)
}

/// The same over HTTP/2.
fn flooding_http2() -> (Http2, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let http2 = Http2::start(H2Provider::start(move |exchange| {
        exchange.head(200, &[BINARY]);
        for at in (0..LARGE).step_by(1 << 14) {
            if !exchange.data_as_taken(&numbered(at, 1 << 14)) {
                return;
            }
            counter.fetch_add(1 << 14, Ordering::Relaxed);
        }
        exchange.end();
    }));
    (http2, sent)
}

// === answers ===

fn stops_and_goes_on(weir: &Gateway, sent: &AtomicUsize, http2: bool, taken_max: usize) {
    let before = settled(weir);
    let assert_blocked = || {
        let blocked = standing(sent);
        let growth = settled(weir).saturating_sub(before);
        println!(
            "HTTP/2 down: {http2}: {blocked} bytes left the upstream, {growth} bytes of growth"
        );
        assert!(blocked < taken_max, "{blocked} bytes left the upstream");
        assert!(growth < GROWTH_MAX, "{growth} bytes of growth");
    };
    let body = if http2 {
        let client = h2c::Client::with_window(weir.address(), 1 << 16);
        let json = [("content-type", "application/json")];
        let answer = client.begin("POST", CHAT, &json, ASK.as_bytes());
        assert_blocked();
        // The connection is everybody's.
        assert_eq!(client.request("GET", "/healthz", &[], b"").status, 200);
        let answer = answer.answer();
        assert!(answer.cut.is_none(), "{:?}", answer.cut);
        answer.body
    } else {
        let mut client = weir.client();
        client.post(CHAT, ASK);
        assert_eq!(client.read_head().status, 200);
        assert_blocked();
        let (body, whole) = client.rest();
        assert!(whole);
        body
    };
    assert_numbered(&body, LARGE);
}

#[test]
fn a_client_that_stops_reading_stops_its_upstream_and_then_gets_each_byte() {
    for http2 in [false, true] {
        let (provider, sent) = flooding();
        stops_and_goes_on(&gateway(&provider, ""), &sent, http2, IN_SOCKETS);
    }
}

#[test]
fn a_client_that_stops_reading_stops_a_stream_of_http2_and_then_gets_each_byte() {
    for http2 in [false, true] {
        let (upstream, sent) = flooding_http2();
        stops_and_goes_on(&upstream.gateway, &sent, http2, IN_SOCKETS);
    }
}

/// A connection whose kernel takes little.
fn narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(8 << 10).expect("a socket");
    socket.connect(&address.into()).expect("a connection");
    socket.into()
}

#[test]
fn a_client_that_reads_slowly_but_reads_is_not_left() {
    const BYTES: usize = 1 << 20;
    let (provider, _) = flooding();
    let weir = gateway(&provider, "timeouts: {idle: 800ms}");
    let mut client = narrow(weir.address());
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: w\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ASK}",
        ASK.len()
    );
    client.write_all(request.as_bytes()).expect("taken");
    // 200 KB/s: slower than a quarter of a megabyte in `idle`.
    let (mut got, mut piece) = (0, vec![0; 4 << 10]);
    while got < BYTES {
        let read = client.read(&mut piece).expect("the answer goes on");
        assert!(read > 0, "the answer was cut after {got} bytes");
        got += read;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(weir.records_now().len(), 0, "the answer goes on");
}

#[test]
fn an_http2_client_that_reads_slowly_but_reads_is_not_left() {
    let provider = Provider::start(|exchange| {
        exchange.answer(200, &[BINARY], &numbered(0, 192 << 10));
    });
    let weir = gateway(&provider, "timeouts: {idle: 800ms}");
    let client = h2c::Client::with_window(weir.address(), 2 << 10);
    let json = [("content-type", "application/json")];
    let mut answer = client.begin("POST", CHAT, &json, ASK.as_bytes());
    let mut got = Vec::new();
    // 50 KB/s: slower than 64 KiB in `idle`.
    while let Some(piece) = answer.next_piece() {
        got.extend_from_slice(&piece.expect("the answer goes on"));
        std::thread::sleep(Duration::from_millis(40));
    }
    assert_numbered(&got, 192 << 10);
}

#[test]
fn an_http2_client_that_never_makes_room_is_left_and_its_connection_lives() {
    let (provider, _) = flooding();
    let weir = gateway(&provider, "timeouts: {idle: 500ms}");
    let client = h2c::Client::with_window(weir.address(), 1 << 14);
    let json = [("content-type", "application/json")];
    let answer = client.begin("POST", CHAT, &json, ASK.as_bytes());
    provider.wait_end(0);
    let record = &weir.records(1)[0];
    assert_eq!(record["end"], "client_closed", "{record}");
    weir.wait_value("weir_in_flight", &[], 0.0);
    assert_eq!(client.request("GET", "/healthz", &[], b"").status, 200);
    assert!(answer.answer().cut.is_some());
}

#[test]
fn an_http2_client_that_reads_no_byte_is_left() {
    let (provider, _) = flooding();
    let weir = gateway(&provider, "timeouts: {idle: 500ms}");
    let mut client = narrow(weir.address());
    // The preface, SETTINGS with the largest window, a window of the connection, a request: and no byte
    // of what comes is ever read.
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend_from_slice(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff]);
    hello.extend_from_slice(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0]);
    // GET http w /x, from the static table of HPACK: indexed where it has them.
    let head = [0x82, 0x86, 0x04, 2, b'/', b'x', 0x01, 1, b'w'];
    hello.extend_from_slice(&[0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1]);
    hello.extend_from_slice(&head);
    client.write_all(&hello).expect("taken");
    provider.wait_end(0);
    let record = &weir.records(1)[0];
    assert_eq!(record["end"], "client_closed", "{record}");
    weir.wait_value("weir_in_flight", &[], 0.0);
    weir.wait_value("weir_connections", &[], 0.0);
}

// === uploads that pass through ===

/// A model server that reads nothing of a request but its head until the gate is open.
fn unread(gate: &Gate) -> Provider {
    let gate = gate.clone();
    Provider::raw(move |mut stream| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read(&mut byte), Ok(1)) {
                return;
            }
            head.push(byte[0]);
        }
        gate.opens_within(crate::support::DEADLINE);
        let mut body = vec![0; LARGE];
        if stream.read_exact(&mut body).is_ok() {
            assert_numbered(&body, LARGE);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        }
    })
}

/// Uploads as much as weir takes; the answer's status.
fn upload(weir: SocketAddr, http2: bool, sent: Arc<AtomicUsize>) -> u16 {
    if http2 {
        let client = h2c::Client::connect(weir);
        let length = LARGE.to_string();
        let headers = [BINARY, ("content-length", &*length)];
        return client
            .upload("/v1/files", &headers, numbered(0, LARGE), &sent)
            .status;
    }
    let mut client = crate::support::Client::connect(weir);
    let length = LARGE.to_string();
    client.send_head("POST", "/v1/files", &[BINARY, ("content-length", &length)]);
    for at in (0..LARGE).step_by(1 << 16) {
        client.send(numbered(at, 1 << 16));
        sent.fetch_add(1 << 16, Ordering::Relaxed);
    }
    client.answer().status()
}

fn upload_stops_and_goes_on(weir: &Gateway, http2: bool, gate: &Gate) {
    let before = settled(weir);
    let sent = Arc::new(AtomicUsize::new(0));
    let (address, counter) = (weir.address(), Arc::clone(&sent));
    let client = std::thread::spawn(move || upload(address, http2, counter));
    let blocked = standing(&sent);
    let growth = settled(weir).saturating_sub(before);
    println!("HTTP/2 down: {http2}: {blocked} bytes left the client, {growth} bytes of growth");
    assert!(blocked < IN_SOCKETS, "{blocked} bytes left the client");
    assert!(growth < GROWTH_MAX, "{growth} bytes of growth");
    gate.open();
    assert_eq!(client.join().expect("a client"), 200);
    weir.wait_value("weir_in_flight", &[], 0.0);
}

const UPLOADS: &str = "limits: {body_bytes: 64MiB}";

#[test]
fn an_upstream_that_stops_reading_stops_its_client_and_then_gets_each_byte() {
    for http2 in [false, true] {
        let gate = Gate::new();
        let provider = unread(&gate);
        upload_stops_and_goes_on(&gateway(&provider, UPLOADS), http2, &gate);
    }
}

#[test]
fn an_http2_upstream_that_stops_reading_stops_its_client_and_then_gets_each_byte() {
    for http2 in [false, true] {
        let gate = Gate::new();
        let provider = H2Provider::start_late(&gate, |exchange| {
            assert_numbered(exchange.body(), LARGE);
            exchange.head(200, &[]);
            exchange.end();
        });
        let more = format!("routing: {{default_provider: p}}\n{UPLOADS}");
        let upstream = Http2::start_in(provider, "", &more, |launch| launch);
        upload_stops_and_goes_on(&upstream.gateway, http2, &gate);
    }
}

#[test]
fn the_time_that_an_upstream_takes_to_read_is_not_its_clients() {
    for http2 in [false, true] {
        let gate = Gate::new();
        let provider = unread(&gate);
        let more = format!("{UPLOADS}\ntimeouts: {{client_body: 3s}}");
        let weir = gateway(&provider, &more);
        let (address, sent) = (weir.address(), Arc::<AtomicUsize>::default());
        let counter = Arc::clone(&sent);
        let client = std::thread::spawn(move || upload(address, http2, counter));
        standing(&sent);
        std::thread::sleep(Duration::from_secs(3));
        gate.open();
        assert_eq!(client.join().expect("a client"), 200);
    }
}

#[test]
fn an_upstream_that_never_reads_is_left_when_its_time_is_over() {
    let provider = unread(&Gate::new());
    let weir = gateway(
        &provider,
        &format!("{UPLOADS}\ntimeouts: {{idle: 500ms, first_byte: 700ms}}"),
    );
    let mut client = weir.client();
    let length = LARGE.to_string();
    client.send_head("POST", "/v1/files", &[BINARY, ("content-length", &length)]);
    while client.try_send([0; 1 << 16]).is_ok() {}
    let record = &weir.records(1)[0];
    assert_eq!(record["end"], "refused:upstream_timeout", "{record}");
    weir.wait_value("weir_in_flight", &[], 0.0);
    weir.wait_value("weir_buffered_bytes", &[], 0.0);
}

// === many at once ===

/// By then what is free was given back.
const RETURNED: Duration = Duration::from_secs(25);

/// A model server whose every answer is as large, for thousands of connections.
fn large_answers(runtime: &Runtime, bytes: usize) -> SocketAddr {
    let listener = runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("a free port");
    let address = listener.local_addr().expect("bound");
    let answer: Arc<[u8]> = [
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {bytes}\r\n\r\n")
            .into_bytes(),
        numbered(0, bytes),
    ]
    .concat()
    .into();
    runtime.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut piece = vec![0; 4096];
                // A request's head and body come together, or in two pieces; they are all alike.
                let mut got = Vec::new();
                while !got.ends_with(ASK.as_bytes()) {
                    match socket.read(&mut piece).await {
                        Ok(1..) => {}
                        _ => return,
                    }
                    got.extend_from_slice(&piece);
                    got.retain(|byte| *byte != 0);
                    piece.fill(0);
                }
                let _ = socket.write_all(&answer).await;
                let _ = socket.read(&mut piece).await;
            });
        }
    });
    address
}

/// Has `readers` clients ask for a megabyte each, read nothing until all have asked, and then all of it.
/// Prints what weir's memory was; returns by how much it grew, bytes.
fn slow_readers(readers: usize) -> usize {
    const BYTES: usize = 1_000_000;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let model = large_answers(&runtime, BYTES);
    let weir = Gateway::start(&format!(
        "model_routes: {{gpt-4o: \"http://{model}\"}}\ntimeouts: {{idle: 10m}}\n\
         limits: {{connections: 20000, connections_per_client: 20000, buffered_bytes: 8GiB}}"
    ));
    let before = settled(&weir);
    forget_peak(&weir);
    let (address, begun) = (weir.address(), Arc::new(Board::<usize>::default()));
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let clients: Vec<_> = (0..readers)
        .map(|_| {
            let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
            runtime.spawn(async move {
                let socket = TcpSocket::new_v4().expect("a socket");
                socket.set_recv_buffer_size(8 << 10).expect("a socket");
                let mut socket = socket.connect(address).await.expect("a connection");
                let request = format!(
                    "POST {CHAT} HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-type: application/json\r\n\
                     content-length: {}\r\n\r\n{ASK}",
                    ASK.len()
                );
                socket.write_all(request.as_bytes()).await.expect("taken");
                let mut first = [0; 12];
                socket.read_exact(&mut first).await.expect("an answer");
                assert_eq!(&first, b"HTTP/1.1 200");
                begun.change(|begun| *begun += 1);
                let _ = go.acquire().await.expect("open");
                let mut rest = Vec::with_capacity(BYTES + 2048);
                socket.read_to_end(&mut rest).await.expect("the rest");
                let body = rest.len() - BYTES;
                assert_numbered(&rest[body..], BYTES);
            })
        })
        .collect();
    let mut last = 0;
    while last < readers {
        last = begun
            .wait_within(crate::support::DEADLINE, |begun| {
                (*begun > last).then_some(*begun)
            })
            .expect("more clients have their answer's head");
    }
    let during = settled(&weir) - before;
    let sockets = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let sockets = sockets
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .unwrap_or_default();
    println!(
        "{readers} slow readers: before {before}, all open +{during} = {} a stream; {sockets}",
        during / readers
    );
    // A few at a time: the clients' own memory is this process's.
    for _ in 0..readers {
        go.add_permits(1);
    }
    for client in clients {
        runtime.block_on(client).expect("a client got each byte");
    }
    let peak = memory(&weir, "VmHWM:").saturating_sub(before);
    weir.wait_value("weir_in_flight", &[], 0.0);
    // The allocator gives pages back after ten seconds.
    std::thread::sleep(RETURNED);
    let after = memory(&weir, "VmRSS:").saturating_sub(before);
    println!(
        "{readers} slow readers: peak +{peak} = {} a stream, after +{after}",
        peak / readers
    );
    peak
}

#[test]
fn a_hundred_slow_readers_take_a_bounded_piece_of_memory_each() {
    /// Pingora's own, the pieces that are on their way, and what an allocator keeps.
    const STREAM_BYTES_MAX: usize = 1 << 20;
    let peak = slow_readers(100);
    assert!(peak < 100 * STREAM_BYTES_MAX, "{peak} bytes");
}

#[test]
#[ignore = "a measurement: 5,000 clients, 20,000 descriptors, some minutes in a debug build"]
fn five_thousand_slow_readers() {
    slow_readers(5_000);
}

#[test]
fn what_slow_readers_hold_is_counted_and_leaves_no_room_for_others() {
    let (provider, sent) = flooding();
    let weir = gateway(&provider, "limits: {buffered_bytes: 128KiB}");
    let mut slow = narrow(weir.address());
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: w\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ASK}",
        ASK.len()
    );
    slow.write_all(request.as_bytes()).expect("taken");
    standing(&sent);
    let held = weir.value("weir_buffered_bytes", &[]).unwrap_or_default();
    assert!((128e3..1e6).contains(&held), "{held} bytes are held");
    weir.post(CHAT, ASK).assert_refused(503, "overloaded");
    drop(slow);
    weir.wait_value("weir_buffered_bytes", &[], 0.0);
}

#[test]
fn a_body_that_has_no_room_is_refused_before_it_is_read() {
    let gate = Gate::new();
    let opened = gate.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&opened);
        exchange.json(200, "{}");
    });
    let weir = gateway(&provider, "limits: {buffered_bytes: 1MiB}");
    let mut first = weir.client();
    first.post(CHAT, ASK.replace("Hi", &"x".repeat(800 << 10)));
    provider.wait_requests(1);
    let mut second = weir.client();
    let length = (500 << 10).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("content-length", &*length),
    ];
    second.send_head("POST", CHAT, &headers);
    // Its body never comes.
    second.answer().assert_refused(503, "overloaded");
    assert_eq!(weir.get("/healthz").status(), 200);
    gate.open();
    assert_eq!(first.answer().status(), 200);
    weir.wait_value("weir_buffered_bytes", &[], 0.0);
}

/// Has `clients` upload a prompt of 30 MB at once and asks again as `Retry-After` says; returns how many
/// 503s there were, and by how much weir's memory grew.
fn uploads(clients: usize, cap: &str) -> (usize, usize) {
    const BYTES: usize = 30_000_000;
    // Recorded, each would be kept; without usage, each would be counted.
    let provider = Provider::start_at_head(|exchange| {
        if exchange.read_body() {
            let length = exchange.request.body.len();
            exchange.json(
                200,
                &format!(
                    r#"{{"length":{length},"usage":{{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}}}"#
                ),
            );
        }
    });
    let weir = gateway(&provider, &format!("limits: {{buffered_bytes: {cap}}}"));
    let before = settled(&weir);
    forget_peak(&weir);
    let address = weir.address();
    let prompt: Arc<str> = ASK.replace("Hi", &"Hi there ".repeat(BYTES / 9)).into();
    let gate = Gate::new();
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let (prompt, gate) = (Arc::clone(&prompt), gate.clone());
            std::thread::spawn(move || {
                gate.wait();
                let mut refused = 0;
                loop {
                    let mut client = crate::support::Client::connect(address);
                    let length = prompt.len().to_string();
                    let headers = [
                        ("content-type", "application/json"),
                        ("content-length", &*length),
                    ];
                    client.send_head("POST", CHAT, &headers);
                    // A refusal may come before all is sent: then the rest isn't.
                    for piece in prompt.as_bytes().chunks(1 << 18) {
                        if client.has_answer() || client.try_send(piece).is_err() {
                            break;
                        }
                    }
                    let answer = client.answer();
                    match answer.status() {
                        200 => {
                            assert_eq!(answer.json()["length"], prompt.len());
                            return refused;
                        }
                        503 => answer.assert_refused(503, "overloaded"),
                        other => panic!("{other}: {}", answer.text()),
                    }
                    refused += 1;
                    std::thread::sleep(Duration::from_secs(1));
                }
            })
        })
        .collect();
    gate.open();
    let refused = threads
        .into_iter()
        .map(|it| it.join().expect("a client"))
        .sum();
    let peak = memory(&weir, "VmHWM:").saturating_sub(before);
    weir.wait_value("weir_in_flight", &[], 0.0);
    weir.wait_value("weir_buffered_bytes", &[], 0.0);
    // The allocator gives pages back after ten seconds.
    std::thread::sleep(RETURNED);
    let after = memory(&weir, "VmRSS:").saturating_sub(before);
    println!(
        "{clients} uploads of {BYTES} under {cap}: {refused} × 503, peak +{peak}, after +{after}"
    );
    (refused, peak)
}

#[test]
fn uploads_past_what_may_be_buffered_are_told_to_wait_and_memory_is_bounded() {
    let (refused, peak) = uploads(12, "64MiB");
    assert!(refused > 0, "nobody was told to wait");
    assert!(peak < 160 << 20, "{peak} bytes");
}

#[test]
#[ignore = "a measurement: 6 GB of uploads"]
fn two_hundred_uploads() {
    uploads(200, "256MiB");
}

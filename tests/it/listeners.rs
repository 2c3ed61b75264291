//! Listeners of every kind: who may connect, by what, for whom, how long, and how connections leave
//! when weir does.

use crate::support::{Answer, Authority, Client, Gate, Gateway, Provider, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m"}"#;
const DONE: &str = r#"{"ok":true}"#;
const GET: &str = "GET /healthz HTTP/1.1\r\nHost: w\r\n\r\n";
const LAST_GET: &str = "GET /healthz HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n";
const LAST_POST: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\
     Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"model\":\"m\"}";

fn with(provider: &Provider, more: &str) -> String {
    format!("model_routes: {{m: \"{}\"}}\n{more}", provider.url())
}

fn refused(weir: &Gateway, reason: &str, times: f64) {
    weir.wait_value(
        "weir_connections_refused_total",
        &[("reason", reason)],
        times,
    );
}

/// Sends bytes and reads to the end of the connection.
fn ask(mut socket: impl Read + Write, bytes: impl AsRef<[u8]>) -> String {
    // Whoever is refused may be gone already.
    let _ = socket.write_all(bytes.as_ref());
    let mut answer = Vec::new();
    if let Err(error) = socket.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn tcp(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("weir listens");
    socket
        .set_read_timeout(Some(crate::support::DEADLINE))
        .expect("a socket");
    socket
}

#[track_caller]
fn assert_served(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
}

#[track_caller]
fn assert_closed(answer: &str) {
    assert_eq!(answer, "", "the connection ends without a word");
}

// === Unix sockets ===

#[test]
fn a_unix_socket_is_served_and_whoever_may_open_it_speaks_for_others() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&with(
        &provider,
        "listen: [\"127.0.0.1:0\", {address: \"unix:{folder}/weir.sock\", mode: \"0600\"}]\n",
    ));
    let path = weir.folder().join("weir.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_served(&ask(UnixStream::connect(&path).unwrap(), LAST_POST));
    assert_eq!(weir.records(1)[0]["client_ip"], "127.0.0.1");
    let forwarded = LAST_POST.replace("Host: w", "Host: w\r\nX-Forwarded-For: 192.0.2.7");
    assert_served(&ask(UnixStream::connect(&path).unwrap(), forwarded));
    assert_eq!(weir.records(2)[1]["client_ip"], "192.0.2.7");
    let malformed = ask(UnixStream::connect(&path).unwrap(), "no http\r\n\r\n");
    assert!(malformed.starts_with("HTTP/1.1 400 "), "{malformed}");
    weir.wait_value("weir_connections", &[], 0.0);
}

// === TLS ===

struct Secure {
    weir: Gateway,
    config: Arc<ClientConfig>,
    _authority: Authority,
}

/// weir with TLS on its first listener; `{tls}` in the configuration stands for its settings.
fn secure(provider: &Provider, more: &str) -> Secure {
    let authority = Authority::new();
    let (cert, key) = authority.issue("weir", "/CN=weir", "DNS:weir.test", 30);
    let tls = format!("{{certificates: [{{cert: {cert:?}, key: {key:?}}}]}}");
    let more = if more.contains("listen:") {
        more.replace("{tls}", &tls)
    } else {
        format!("listen: [{{address: \"127.0.0.1:0\", tls: {tls}}}]\n{more}")
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority.ca()).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Secure {
        weir: Gateway::start(&with(provider, &more)),
        config: Arc::new(config),
        _authority: authority,
    }
}

impl Secure {
    fn over<S: Read + Write>(&self, socket: S) -> StreamOwned<ClientConnection, S> {
        let name = ServerName::try_from("weir.test").unwrap();
        let session = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        StreamOwned::new(session, socket)
    }

    fn client(&self) -> StreamOwned<ClientConnection, TcpStream> {
        self.over(tcp(self.weir.address()))
    }
}

/// Reads one answer without a body, or with a short one of this text.
fn answer(socket: &mut impl Read, end: &str) -> String {
    let mut text = String::new();
    let mut piece = [0; 1024];
    while !text.ends_with(end) {
        let count = socket.read(&mut piece).expect("an answer");
        assert!(count > 0, "the connection ended after {text:?}");
        text.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    text
}

#[test]
fn tls_serves_one_request_after_another_and_ends_in_good_form() {
    let provider = Provider::json(DONE);
    let secure = secure(&provider, "");
    let mut client = secure.client();
    for _ in 0..3 {
        client.write_all(GET.as_bytes()).unwrap();
        assert_served(&answer(&mut client, "OK"));
    }
    // Without close_notify, reading to the end would be an error.
    assert_served(&ask(client, LAST_POST));
    assert_eq!(secure.weir.records(1)[0]["client_ip"], "127.0.0.1");
    secure.weir.wait_value("weir_connections", &[], 0.0);
}

#[test]
fn tls_carries_what_is_larger_than_all_buffers_to_a_reader_that_is_slow() {
    const SIZE: usize = 8 << 20;
    let provider =
        Provider::start(|exchange| exchange.json(200, &format!("\"{}\"", "x".repeat(SIZE))));
    let secure = secure(&provider, "");
    let mut client = secure.client();
    client.write_all(LAST_POST.as_bytes()).unwrap();
    // It is ready to be read long before it is read.
    provider.wait_requests(1);
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert!(all.len() > SIZE && all.ends_with(b"xx\""), "{}", all.len());
}

#[test]
fn plaintext_on_a_tls_port_is_told_so() {
    let provider = Provider::json(DONE);
    let secure = secure(&provider, "");
    let mut client = secure.weir.client();
    client.post(CHAT, BODY);
    client.answer().assert_refused(400, "plaintext_on_tls_port");
    refused(&secure.weir, "plaintext_on_tls", 1.0);
    assert!(provider.requests().is_empty());
}

#[test]
fn handshake_and_first_head_have_one_deadline_together() {
    let provider = Provider::json(DONE);
    let secure = secure(&provider, "timeouts: {client_header: 700ms}");
    // Silent, in the middle of a handshake, and after one.
    assert_closed(&ask(tcp(secure.weir.address()), ""));
    assert_closed(&ask(tcp(secure.weir.address()), b"\x16\x03\x01\x02"));
    let mut shy = secure.client();
    shy.conn.complete_io(&mut shy.sock).unwrap();
    assert_closed(&ask(shy, ""));
    let slow = ask(secure.client(), "GET / HTTP/1.1\r\n");
    assert!(slow.starts_with("HTTP/1.1 408 "), "{slow}");
    refused(&secure.weir, "timeout", 2.0);
    secure.weir.wait_value("weir_connections", &[], 0.0);
}

// === the PROXY protocol ===

const PROXIED: &str = "listen: [{address: \"127.0.0.1:0\", proxy_protocol: true}]\n";

fn v2(command: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, u8::try_from(rest.len()).unwrap()]);
    header.extend_from_slice(rest);
    header
}

#[test]
fn a_trusted_proxy_says_whose_connection_it_is() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&with(
        &provider,
        &format!("{PROXIED}trusted_proxies: [127.0.0.0/8]\n"),
    ));
    let source = [192, 0, 2, 9, 10, 0, 0, 1, 1, 2, 3, 4];
    let forwarded = LAST_POST.replace("Host: w", "Host: w\r\nX-Forwarded-For: 6.6.6.6");
    for (number, (header, request, client)) in [
        (
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n".to_vec(),
            LAST_POST,
            "192.0.2.7",
        ),
        (v2(1, &source), LAST_POST, "192.0.2.9"),
        // The peer is the told one now, and may not speak for others.
        (v2(1, &source), &forwarded, "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), LAST_POST, "127.0.0.1"),
        (v2(0, &source), LAST_POST, "127.0.0.1"),
        // The proxy speaks for itself, and may speak for others.
        (v2(0, &[]), &forwarded, "6.6.6.6"),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = [&header, request.as_bytes()].concat();
        assert_served(&ask(tcp(weir.address()), bytes));
        assert_eq!(weir.records(number + 1)[number]["client_ip"], client);
    }
    let seen = provider.requests();
    let told: Vec<_> = seen
        .iter()
        .map(|it| it.header("x-forwarded-for").unwrap_or_default().to_owned())
        .collect();
    assert_eq!(told[0], "192.0.2.7", "{told:?}");
    assert_eq!(told[2], "192.0.2.9", "{told:?}");
}

#[test]
fn who_has_no_proxy_header_or_may_not_have_one_is_let_go() {
    let provider = Provider::json(DONE);
    let trusting = Gateway::start(&with(
        &provider,
        &format!("{PROXIED}trusted_proxies: [127.0.0.0/8]\ntimeouts: {{client_header: 500ms}}\n"),
    ));
    let mut count = 0.0;
    for bytes in [
        LAST_POST,
        "PROXY TCP4 nobody\r\n",
        "PROXY TCP4 192.0.2.7 10.0.0.1 4711 80",
        "\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
    ] {
        assert_closed(&ask(tcp(trusting.address()), bytes));
        count += 1.0;
        refused(&trusting, "proxy_protocol", count);
    }
    let wary = Gateway::start(&with(
        &provider,
        &format!("{PROXIED}trusted_proxies: [10.0.0.0/8]\n"),
    ));
    let header = "PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n";
    assert_closed(&ask(tcp(wary.address()), format!("{header}{LAST_POST}")));
    refused(&wary, "proxy_protocol", 1.0);
    assert!(provider.requests().is_empty());
    // Where it is off, it is no HTTP.
    let off = Gateway::start(&with(&provider, "trusted_proxies: [127.0.0.0/8]\n"));
    let answer = ask(tcp(off.address()), format!("{header}{LAST_POST}"));
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn the_proxy_header_comes_before_tls() {
    let provider = Provider::json(DONE);
    let secure = secure(
        &provider,
        "listen: [{address: \"127.0.0.1:0\", tls: {tls}, proxy_protocol: true}]\n\
         trusted_proxies: [127.0.0.0/8]\n",
    );
    let mut socket = tcp(secure.weir.address());
    socket
        .write_all(b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n")
        .unwrap();
    assert_served(&ask(secure.over(socket), LAST_POST));
    assert_eq!(secure.weir.records(1)[0]["client_ip"], "2001:db8::7");
}

// === caps ===

#[test]
fn a_client_with_too_many_connections_gets_no_more_until_one_is_closed() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&with(
        &provider,
        "limits: {connections_per_client: 2}\ntrusted_proxies: []\n",
    ));
    let mut held: Vec<_> = (0..2)
        .map(|_| {
            let mut client = weir.client();
            client.send(GET);
            assert_eq!(client.answer().status(), 200);
            client
        })
        .collect();
    assert_closed(&ask(tcp(weir.address()), LAST_GET));
    refused(&weir, "per_client", 1.0);
    held.pop();
    weir.wait_value("weir_connections", &[], 1.0);
    assert_served(&ask(tcp(weir.address()), LAST_GET));
    held[0].send(GET);
    assert_eq!(held[0].answer().status(), 200);
}

#[test]
fn a_trusted_proxy_has_no_cap_but_each_of_its_clients_has() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&with(
        &provider,
        "listen: [\"127.0.0.1:0\", {address: \"127.0.0.1:0\", proxy_protocol: true}]\n\
         trusted_proxies: [127.0.0.0/8]\nlimits: {connections_per_client: 1}\n",
    ));
    let addresses = weir.addresses();
    let held: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::connect(addresses[0]);
            client.send(GET);
            assert_eq!(client.answer().status(), 200);
            client
        })
        .collect();
    let told = |source: &str| {
        let mut client = Client::connect(addresses[1]);
        let _ = client.try_send(format!("PROXY TCP6 {source} 2001:db8::1 1 80\r\n{GET}"));
        client.try_read_head().map(|_| client)
    };
    let first = told("2001:db8:1::1");
    assert!(first.is_some());
    assert!(told("2001:db8:1::2").is_none(), "the same network");
    refused(&weir, "per_client", 1.0);
    assert!(told("2001:db8:2::1").is_some());
    drop((first, held));
}

#[test]
fn a_connection_that_is_silent_between_requests_is_closed() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&with(&provider, "timeouts: {keepalive: 300ms}\n"));
    let mut client = weir.client();
    client.send(GET);
    assert_eq!(client.answer().status(), 200);
    assert!(client.try_read_head().is_none());
    weir.wait_value("weir_connections", &[], 0.0);
}

// === leaving ===

/// A model server whose stream ends when the gate opens.
fn waiting(gate: &Gate) -> Provider {
    let gate = gate.clone();
    Provider::start(move |exchange| {
        exchange.wait(&gate);
        exchange.json(200, DONE);
    })
}

#[test]
fn a_weir_that_stops_lets_go_of_who_is_idle_and_loses_no_request() {
    let gate = Gate::new();
    let provider = waiting(&gate);
    let mut weir = Gateway::start(&with(&provider, ""));
    let mut idle = weir.client();
    idle.send(GET);
    assert_eq!(idle.answer().header("connection"), Some("keep-alive"));
    let mut half = weir.client();
    half.send("GET /healthz HTTP/1.1\r\nHo");
    let mut half_later = weir.client();
    half_later.send(format!("{GET}GET /healthz HTTP/1.1\r\nHo"));
    assert_eq!(half_later.answer().status(), 200);
    let mut silent = weir.client();
    let mut busy = weir.client();
    busy.post(CHAT, BODY);
    provider.wait_requests(1);
    weir.wait_value("weir_connections", &[], 5.0);
    weir.signal(libc::SIGTERM);
    weir.wait_log("draining");
    assert!(idle.try_read_head().is_none());
    let address = weir.address();
    eventually("the listener to be closed", || {
        TcpStream::connect(address).err()
    });
    for (client, rest) in [
        (&mut half, "st: w\r\n\r\n"),
        (&mut half_later, "st: w\r\n\r\n"),
        (&mut silent, GET),
    ] {
        client.send(rest);
        assert_last(&client.answer());
        assert!(client.try_read_head().is_none(), "then it is closed");
    }
    assert!(weir.exited().is_none(), "one request is in flight");
    gate.open();
    assert_last(&busy.answer());
    drop(busy);
    assert_eq!(weir.wait_exit().code(), Some(0));
}

#[track_caller]
fn assert_last(answer: &Answer) {
    let told = (answer.status(), answer.header("connection"));
    assert_eq!(told, (200, Some("close")));
}

#[test]
fn an_http2_connection_is_told_and_its_streams_end() {
    let gate = Gate::new();
    let provider = waiting(&gate);
    let mut weir = Gateway::start(&with(&provider, ""));
    let (idle, busy) = (weir.h2_client(), weir.h2_client());
    assert_eq!(idle.request("GET", "/healthz", &[], b"").status, 200);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| busy.post(CHAT, BODY));
        provider.wait_requests(1);
        weir.signal(libc::SIGTERM);
        // The idle one is gone: only the busy one is left.
        weir.wait_value("weir_connections", &[], 1.0);
        gate.open();
        let answer = asked.join().unwrap();
        assert_eq!((answer.status, answer.cut.is_none()), (200, true));
    });
    assert_eq!(weir.wait_exit().code(), Some(0));
}

#[test]
fn who_waits_in_the_queue_of_a_socket_that_is_closed_is_served() {
    let provider = Provider::json(DONE);
    let mut weir = Gateway::start(&with(&provider, "limits: {connections: 1}\n"));
    let mut first = weir.client();
    first.send(GET);
    assert_eq!(first.answer().status(), 200);
    let mut queued: Vec<_> = (0..5)
        .map(|_| {
            let mut client = weir.client();
            client.send(GET);
            client
        })
        .collect();
    weir.signal(libc::SIGTERM);
    for client in &mut queued {
        assert_last(&client.answer());
    }
    drop((first, queued));
    assert_eq!(weir.wait_exit().code(), Some(0));
}

// === heads and bodies that a strict edge doesn't take ===

#[test]
fn what_is_no_sound_request_is_answered_with_the_status_that_says_why() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&with(&provider, ""));
    let fields = |count: usize| "X: 1\r\n".repeat(count - 1);
    let get =
        |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: w\r\n{fields}\r\n");
    let chunks = |chunks: &str| {
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: w\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n{chunks}"
        )
    };
    let target = |bytes: usize| format!("/healthz?{}", "x".repeat(bytes - 9));
    for (request, status) in [
        (get("/healthz", &fields(128)), 200),
        (get("/healthz", &fields(129)), 431),
        (get(&target(16 << 10), ""), 200),
        (get(&target((16 << 10) + 1), ""), 414),
        (get("/healthz", "Expect: 200-ok\r\n"), 417),
        (chunks("zz\r\nx\r\n0\r\n\r\n"), 400),
        (chunks("-1\r\nx\r\n0\r\n\r\n"), 400),
        (chunks("ffffffffffffffffff\r\nx\r\n0\r\n\r\n"), 400),
        (chunks("d\n{\"model\":\"m\"}\r\n0\r\n\r\n"), 400),
        (chunks("d\r\n{\"model\":\"m\"}\n0\r\n\r\n"), 400),
        (chunks("d\r\n{\"model\":\"m\"}xx0\r\n\r\n"), 400),
        (chunks("0xd\r\n{\"model\":\"m\"}\r\n0\r\n\r\n"), 400),
        (chunks("+d\r\n{\"model\":\"m\"}\r\n0\r\n\r\n"), 400),
        (chunks("d\r\n{\"model\":\"m\"}\r\n0\r\n\r\n"), 200),
    ] {
        let mut client = weir.client();
        client.send(&request);
        let shown = &request[..request.len().min(200)];
        let answer = client.answer();
        assert_eq!(answer.status(), status, "{shown:?}: {}", answer.text());
    }
}

#[test]
fn an_upgrade_that_nobody_asked_for_goes_nowhere() {
    let provider = Provider::json(DONE);
    let weir = Gateway::start(&with(&provider, ""));
    for upgrade in ["h2c", "websocket, h2c", "TLS/1.0"] {
        let mut client = weir.client();
        let headers = [
            ("upgrade", upgrade),
            ("connection", "upgrade, http2-settings"),
            ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
            ("content-type", "application/json"),
        ];
        client.request("POST", CHAT, &headers, BODY.as_bytes());
        assert_eq!(client.answer().status(), 200);
    }
    for request in provider.requests() {
        assert_eq!(request.header("upgrade"), None);
        assert_eq!(request.header("http2-settings"), None);
    }
}

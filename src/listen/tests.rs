//! A whole listener on real sockets, in front of a service that says "OK".

use super::caps::Caps;
use super::{Acceptor, Listening, Phase, Refused, Terms, tls};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{Response, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use prometheus::IntGauge;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const ASK: &str = "GET / HTTP/1.1\r\nHost: w\r\n\r\n";
const DEADLINE: Duration = Duration::from_secs(15);
const HOUR: Duration = Duration::from_secs(3600);

/// Says "OK"; to `/wait`, when it is told to.
#[derive(Default)]
struct Greeter {
    asked: Notify,
    go_on: Notify,
}

#[async_trait]
impl ServeHttp for Greeter {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        if session.req_header().uri.path() == "/wait" {
            self.asked.notify_one();
            self.go_on.notified().await;
        }
        let mut response = Response::new(b"OK".to_vec());
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, 2.into());
        response
    }
}

struct Listener {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    terms: Arc<ArcSwap<Terms>>,
    caps: Caps,
    challenges: tls::Challenges,
    app: Arc<Greeter>,
    serving: JoinHandle<std::io::Result<()>>,
}

fn terms() -> Terms {
    Terms {
        tls: None,
        hsts: None,
        h2: true,
        proxy_protocol: false,
        trusted: [].into(),
        header_bytes_max: 64 << 10,
        client_header: HOUR,
        keepalive: HOUR,
        idle_close_delay: HOUR,
        tcp_keepalive: Duration::from_secs(60),
        stall: HOUR,
    }
}

fn listen(phase: Phase) -> Listener {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let listening = Listening::try_from(OwnedFd::from(socket)).unwrap();
    let (phase, watch) = watch::channel(phase);
    let terms = Arc::new(ArcSwap::from_pointee(terms()));
    let caps = Caps::new(IntGauge::new("open", "open").unwrap());
    let challenges = tls::Challenges::default();
    let app = Arc::new(Greeter::default());
    let refused: Refused = Arc::new(|_, _| {});
    let acceptor = Acceptor {
        app: Arc::clone(&app),
        terms: Arc::clone(&terms),
        caps: caps.clone(),
        refused,
        challenges: Some(challenges.clone()),
    };
    Listener {
        address,
        phase,
        terms,
        caps,
        challenges,
        app,
        serving: tokio::spawn(acceptor.serve(listening, watch)),
    }
}

impl Listener {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn wait_connections(&self, count: usize) {
        let reached = async {
            while self.caps.connections() != count {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, reached)
            .await
            .unwrap_or_else(|_| panic!("{} connections, not {count}", self.caps.connections()));
    }
}

/// Sends a request and reads its short answer.
async fn ask(client: &mut TcpStream, request: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    answer(client).await
}

async fn answer(client: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut piece = [0; 1024];
    while !text.ends_with("\r\n\r\nOK") {
        let read = timeout(DEADLINE, client.read(&mut piece)).await;
        let count = read.expect("an answer in time").unwrap();
        assert!(count > 0, "the connection ended after {text:?}");
        text.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    text.to_ascii_lowercase()
}

async fn is_over(client: &mut TcpStream) -> bool {
    let read = timeout(DEADLINE, client.read_u8()).await;
    read.expect("an end in time").is_err()
}

#[tokio::test]
async fn what_waits_while_nothing_is_accepted_is_served_when_something_is() {
    let listener = listen(Phase::Paused);
    for phase in [Phase::Paused, Phase::Draining] {
        listener.phase.send_replace(phase);
        let mut client = listener.connect().await;
        client.write_all(ASK.as_bytes()).await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(listener.caps.connections(), 0);
        listener.phase.send_replace(Phase::Accepting);
        assert!(answer(&mut client).await.contains("connection: keep-alive"));
        drop(client);
        listener.wait_connections(0).await;
    }
    listener.phase.send_replace(Phase::Closing);
    drop(listener.phase);
    listener.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn while_it_drains_a_request_on_an_idle_connection_is_the_last() {
    let listener = listen(Phase::Accepting);
    let mut idle = listener.connect().await;
    assert!(ask(&mut idle, ASK).await.contains("connection: keep-alive"));
    let mut back = listener.connect().await;
    assert!(ask(&mut back, ASK).await.contains("connection: keep-alive"));
    let mut half = listener.connect().await;
    half.write_all(&ASK.as_bytes()[..10]).await.unwrap();
    listener.wait_connections(3).await;
    listener.phase.send_replace(Phase::Draining);
    assert!(ask(&mut idle, ASK).await.contains("connection: close"));
    assert!(is_over(&mut idle).await);
    assert!(
        ask(&mut half, &ASK[10..])
            .await
            .contains("connection: close")
    );
    assert!(is_over(&mut half).await);
    // Taken back, all is as before.
    listener.phase.send_replace(Phase::Accepting);
    assert!(ask(&mut back, ASK).await.contains("connection: keep-alive"));
    let mut new = listener.connect().await;
    assert!(ask(&mut new, ASK).await.contains("connection: keep-alive"));
}

#[tokio::test]
async fn idle_connections_leave_and_half_a_request_is_waited_for() {
    let listener = listen(Phase::Accepting);
    let mut idle = Vec::new();
    for _ in 0..10 {
        let mut client = listener.connect().await;
        ask(&mut client, ASK).await;
        idle.push(client);
    }
    let mut half = listener.connect().await;
    let (more, rest) = ASK.split_at(10);
    ask(&mut half, ASK).await;
    half.write_all(more.as_bytes()).await.unwrap();
    let mut fresh = listener.connect().await;
    let mut busy = listener.connect().await;
    busy.write_all(ASK.replace("/ ", "/wait ").as_bytes())
        .await
        .unwrap();
    listener.app.asked.notified().await;
    listener.wait_connections(13).await;
    let mut quick = terms();
    quick.idle_close_delay = Duration::from_millis(100);
    listener.terms.store(Arc::new(quick));
    listener.phase.send_replace(Phase::Draining);
    for client in &mut idle {
        assert!(is_over(client).await);
    }
    drop(idle);
    listener.wait_connections(3).await;
    for (client, rest) in [(&mut half, rest), (&mut fresh, ASK)] {
        assert!(ask(client, rest).await.contains("connection: close"));
    }
    // It began before the drain: its connection leaves after it.
    listener.app.go_on.notify_one();
    answer(&mut busy).await;
    assert!(is_over(&mut busy).await);
}

#[tokio::test]
async fn an_http2_connection_is_asked_to_go_and_its_streams_end() {
    let listener = listen(Phase::Accepting);
    let (mut send, connection) = h2::client::handshake(listener.connect().await)
        .await
        .unwrap();
    let over = tokio::spawn(connection);
    let request = |path: &str| {
        http::Request::get(format!("http://w{path}"))
            .body(())
            .unwrap()
    };
    let (waiting, _) = send.send_request(request("/wait"), true).unwrap();
    listener.app.asked.notified().await;
    let mut quick = terms();
    quick.idle_close_delay = Duration::ZERO;
    listener.terms.store(Arc::new(quick));
    listener.phase.send_replace(Phase::Draining);
    // GOAWAY: no new streams.
    let refused = async {
        while std::future::poll_fn(|cx| send.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, refused).await.unwrap();
    listener.app.go_on.notify_one();
    let answer = timeout(DEADLINE, waiting).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    assert_eq!(&body.data().await.unwrap().unwrap()[..], b"OK");
    drop((body, send));
    timeout(DEADLINE, over).await.unwrap().unwrap().unwrap();
    listener.wait_connections(0).await;
}

#[tokio::test]
async fn a_socket_that_is_closed_loses_nobody_who_waits_in_its_queue() {
    let listener = listen(Phase::Paused);
    listener.caps.set(1, 0);
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = listener.connect().await;
        client.write_all(ASK.as_bytes()).await.unwrap();
        waiting.push(client);
    }
    listener.phase.send_replace(Phase::Closing);
    for client in &mut waiting {
        assert!(answer(client).await.contains("connection: close"));
    }
    listener.serving.await.unwrap().unwrap();
    assert!(TcpStream::connect(listener.address).await.is_err());
}

#[tokio::test]
async fn an_acme_server_gets_the_answer_and_whoever_else_asks_the_service() {
    let listener = listen(Phase::Accepting);
    listener.challenges.set_http("token", "token.thumbprint");
    let path = "/.well-known/acme-challenge/token";
    let mut client = listener.connect().await;
    ask(&mut client, ASK).await;
    let request = ASK.replace("/ ", &format!("{path} "));
    client.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let read = client.read_to_string(&mut text);
    timeout(DEADLINE, read).await.unwrap().unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\ntoken.thumbprint"), "{text}");
    for other in [
        "/.well-known/acme-challenge/other ",
        "/.well-known/acme-challenge/token/ ",
        "/.well-known/acme-challenge/ ",
        "/x/.well-known/acme-challenge/token ",
    ] {
        let mut client = listener.connect().await;
        ask(&mut client, &ASK.replace("/ ", other)).await;
    }
    let mut client = listener.connect().await;
    ask(&mut client, &request.replace("GET", "POST")).await;
}

#[tokio::test]
async fn new_terms_are_for_connections_that_come() {
    let listener = listen(Phase::Accepting);
    let mut old = listener.connect().await;
    ask(&mut old, ASK).await;
    let mut strict = terms();
    strict.header_bytes_max = 20;
    listener.terms.store(Arc::new(strict));
    ask(&mut old, ASK).await;
    let mut new = listener.connect().await;
    new.write_all(ASK.as_bytes()).await.unwrap();
    let mut text = String::new();
    let read = new.read_to_string(&mut text);
    timeout(DEADLINE, read).await.unwrap().unwrap();
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
}

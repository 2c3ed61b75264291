//! Egress proxies as they are in use, between weir and a model server: what goes through, how many
//! tunnels it takes, and what happens when a proxy goes. Counts are printed.

use crate::support::real_proxy::RealProxy;
use crate::support::tls::TlsFront;
use crate::support::{
    Authority, Client, Exchange, Gate, Gateway, H2Provider, Launch, Provider, eventually,
};
use std::net::SocketAddr;
use std::thread;

const CHAT: &str = "/v1/chat/completions";
const EVENTS: usize = 1000;
const BODY_BYTES: usize = 5_000_000;
/// Requests that [`a_thousand`] makes, and on how many connections of clients.
const REQUESTS: usize = 1000;
const CLIENTS: usize = 4;

fn ask(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[]}}"#)
}

// === a model server that is reached in several ways ===

/// A model server, plainly and behind TLS, in HTTP/1.1 and HTTP/2.
struct World {
    model: Provider,
    /// In the middle of each stream of events.
    middle: Gate,
    authority: Authority,
    tls: TlsFront,
    h2: H2Provider,
    h2_tls: TlsFront,
}

impl World {
    fn new() -> Self {
        let middle = Gate::new();
        let gate = middle.clone();
        let model = Provider::start(move |exchange| answer(exchange, &gate));
        let h2 = H2Provider::start(|exchange| {
            exchange.head(200, &[("content-type", "application/json")]);
            exchange.data("{}", true);
        });
        let authority = Authority::new();
        let tls = authority.front("IP:127.0.0.1", &["http/1.1"], model.address());
        let h2_tls = authority.front("IP:127.0.0.1", &["h2", "http/1.1"], h2.address());
        Self {
            model,
            middle,
            authority,
            tls,
            h2,
            h2_tls,
        }
    }

    /// weir that reaches all of it through this proxy only, at this URL of it. Models are `plain`,
    /// `tls`, `h2`, and `misnamed`, whose certificate names somebody else.
    #[track_caller]
    fn gateway(&self, proxy: &RealProxy, url: &str) -> Gateway {
        let ca = self.authority.ca();
        let yaml = format!(
            "proxy_url: \"{url}\"\negress: {{prewarm: 0}}\nproviders:\n\
             - {{name: plain, base_url: \"http://{plain}\", models: [plain], egress: proxy}}\n\
             - {{name: tls, base_url: \"https://{tls}\", models: [tls], egress: proxy, \
                tls: {{ca: {ca:?}}}}}\n\
             - {{name: misnamed, base_url: \"https://{tls}\", models: [misnamed], egress: proxy, \
                tls: {{ca: {ca:?}, server_name: other.test}}}}\n\
             - {{name: h2, base_url: \"https://{h2}\", models: [h2], egress: proxy, \
                tls: {{ca: {ca:?}}}}}\n",
            plain = self.model.address(),
            tls = self.tls.address(),
            h2 = self.h2_tls.address(),
        );
        trusting(Launch::file(&yaml), proxy).start()
    }
}

/// weir's system trusts whoever signed the proxy's certificate.
fn trusting(launch: Launch, proxy: &RealProxy) -> Launch {
    match proxy.authority() {
        Some(authority) => launch.env("SSL_CERT_FILE", &authority.ca().display().to_string()),
        None => launch,
    }
}

/// Streams where it is asked to, sends large bodies back, says `{}` to all others.
fn answer(exchange: &mut Exchange, middle: &Gate) {
    let body = std::mem::take(&mut exchange.request.body);
    if body.len() > BODY_BYTES {
        exchange.answer(200, &[("content-type", "application/octet-stream")], &body);
    } else if memchr::memmem::find(&body, b"\"stream\":true").is_some() {
        exchange.stream();
        for number in 0..EVENTS {
            if number == EVENTS / 2 {
                middle.wait();
            }
            exchange.event(&event(number));
        }
        exchange.event("[DONE]");
        exchange.end();
    } else {
        exchange.json(200, "{}");
    }
}

fn event(number: usize) -> String {
    format!(
        r#"{{"id":"c","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{{"content":" {number}"}}}}]}}"#
    )
}

// === what goes through ===

fn carries_a_chat_a_stream_and_a_large_body(proxy: &RealProxy) {
    let world = World::new();
    let gateway = world.gateway(proxy, &proxy.url());
    for model in ["plain", "tls"] {
        let answer = gateway.post(CHAT, ask(model));
        assert_eq!(answer.status(), 200, "{model}: {}", answer.text());

        let mut client = gateway.client();
        client.post(
            CHAT,
            format!(r#"{{"model":"{model}","stream":true,"messages":[]}}"#),
        );
        assert_eq!(client.read_head().status, 200, "{model}");
        for number in 0..EVENTS {
            let told = client.read_text_until("\n\n");
            assert_eq!(told, format!("data: {}\n\n", event(number)), "{model}");
            if number + 1 == EVENTS / 2 {
                // The rest isn't sent before the first half has arrived.
                world.middle.open();
            }
        }
        assert_eq!(client.read_text_until("\n\n"), "data: [DONE]\n\n");
        assert!(client.rest().1, "{model}: the stream was cut off");

        let large = large(model);
        client.post(CHAT, &large);
        let answer = client.answer();
        assert_eq!(answer.status(), 200, "{model}");
        assert!(answer.whole && answer.body == large, "{model}: other bytes");
    }
    let records = gateway.records(6);
    assert!(
        records.iter().all(|it| it["road"] == "proxy"),
        "{records:?}"
    );
    told(
        proxy,
        gateway,
        world.model.connections(),
        "chat, SSE and 5 MB",
    );
}

/// A request of just over [`BODY_BYTES`], no piece of it like another.
fn large(model: &str) -> Vec<u8> {
    let mut text = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":""#);
    for number in 0_u64.. {
        if text.len() >= BODY_BYTES {
            break;
        }
        text.push_str(&format!(
            "{:016x}",
            number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ));
    }
    text.push_str(r#""}]}"#);
    text.into_bytes()
}

fn carries_tls_and_http2(proxy: &RealProxy) {
    let world = World::new();
    let gateway = world.gateway(proxy, &proxy.url());
    for model in ["tls", "h2"] {
        let answer = gateway.post(CHAT, ask(model));
        assert_eq!(answer.status(), 200, "{model}: {}", answer.text());
    }
    let spoken = |front: &TlsFront| front.handshakes()[0].protocol.clone();
    assert_eq!(spoken(&world.tls).as_deref(), Some("http/1.1"));
    assert_eq!(spoken(&world.h2_tls).as_deref(), Some("h2"));

    let before = world.model.requests().len();
    gateway
        .post(CHAT, ask("misnamed"))
        .assert_refused(502, "upstream_failed");
    gateway.wait_value("llm_upstream_error_total", &[("error_type", "tls")], 1.0);
    let after = world.model.requests().len();
    assert_eq!(after, before, "whose name is another's gets nothing");
}

// === how many tunnels it takes ===

/// Makes so many requests on a few connections, all of which must be answered.
fn a_thousand(gateway: &Gateway, model: &'static str) {
    let address = gateway.address();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                for number in 0..REQUESTS / CLIENTS {
                    client.post(CHAT, ask(model));
                    let answer = client.answer();
                    assert_eq!(answer.status(), 200, "{number}: {}", answer.text());
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client whose requests are answered");
    }
}

fn needs_a_handful_of_tunnels(proxy: &RealProxy) {
    let world = World::new();
    let gateway = world.gateway(proxy, &proxy.url());
    a_thousand(&gateway, "plain");
    let plain = world.model.connections();
    a_thousand(&gateway, "tls");
    let tls = world.tls.handshakes().len();
    a_thousand(&gateway, "h2");
    let h2 = world.h2_tls.handshakes().len();
    world.h2.wait_requests(REQUESTS);
    eprintln!(
        "{}: {REQUESTS} requests on {CLIENTS} connections of clients each: {plain} tunnels to plain \
         HTTP, {tls} with a TLS handshake to HTTP/1.1, {h2} with one to HTTP/2",
        proxy.url()
    );
    assert_eq!(world.model.requests().len(), 2 * REQUESTS);
    for tunnels in [plain, tls, h2] {
        assert!((1..=2 * CLIENTS).contains(&tunnels), "{tunnels} tunnels");
    }
    told(
        proxy,
        gateway,
        plain + tls + h2,
        "3 times a thousand requests",
    );
}

/// Ends weir and compares what the servers counted with what the proxy's own log tells.
#[track_caller]
fn told(proxy: &RealProxy, gateway: Gateway, connections: usize, what: &str) {
    drop(gateway);
    let url = proxy.url();
    eprintln!("{url}: {what}: {connections} connections at the model server");
    eventually("the proxy's log to tell of as many tunnels", || {
        (proxy.tunnels() == connections).then_some(())
    });
}

/// The same promises of each proxy, as tests of its own.
macro_rules! through {
    ($($name:ident: $proxy:expr;)*) => { $(
        mod $name {
            use super::*;

            #[test]
            fn a_chat_a_stream_and_a_large_body_go_through() {
                if let Some(proxy) = $proxy {
                    carries_a_chat_a_stream_and_a_large_body(&proxy);
                }
            }

            #[test]
            fn tls_is_verified_behind_it_and_http2_is_spoken() {
                if let Some(proxy) = $proxy {
                    carries_tls_and_http2(&proxy);
                }
            }

            #[test]
            fn thousands_of_requests_take_a_handful_of_tunnels() {
                if let Some(proxy) = $proxy {
                    needs_a_handful_of_tunnels(&proxy);
                }
            }
        }
    )* };
}

through! {
    squid: RealProxy::squid(None);
    tinyproxy: RealProxy::tinyproxy(None);
    squid_behind_tls: RealProxy::squid_tls(None);
    pproxy_behind_tls: RealProxy::pproxy(None);
    microsocks: RealProxy::microsocks(None);
    dante: RealProxy::dante();
    dante_resolving: RealProxy::dante().map(RealProxy::resolving);
}

#[test]
fn a_tunnel_that_was_made_ahead_carries_the_first_request_and_a_dead_one_none() {
    let Some(mut proxy) = RealProxy::squid(None) else {
        return;
    };
    let model = Provider::json("{}");
    let yaml = format!(
        "proxy_url: \"{}\"\negress: {{prewarm: 1}}\nproviders:\n\
         - {{name: m, base_url: \"{}\", models: [m], egress: proxy}}\n",
        proxy.url(),
        model.url()
    );
    let start = || {
        let gateway = Gateway::start(&yaml);
        gateway.wait_value("weir_pool_ahead_total", &[("outcome", "made")], 1.0);
        gateway
    };
    let gateway = start();
    assert!(model.requests().is_empty());
    assert_eq!(gateway.post(CHAT, ask("m")).status(), 200);
    assert_eq!(model.connections(), 1, "the one that was made ahead");

    let gateway = start();
    proxy.daemon().start_again();
    assert_eq!(gateway.post(CHAT, ask("m")).status(), 200);
    assert_eq!(model.requests().len(), 2);
}

// === who may ===

const LOGIN: (&str, &str) = ("weir", "pass-word");

/// The right login opens it; a wrong one and none are told apart from all other failures.
fn asks_who_is_there(proxy: &RealProxy) {
    let world = World::new();
    let (user, password) = LOGIN;
    let gateway = world.gateway(proxy, &proxy.url_of(user, password));
    for model in ["plain", "tls"] {
        let answer = gateway.post(CHAT, ask(model));
        assert_eq!(answer.status(), 200, "{model}: {}", answer.text());
    }
    let before = world.model.connections();
    for url in [proxy.url_of(user, "mistaken"), proxy.url()] {
        let gateway = world.gateway(proxy, &url);
        let answer = gateway.post(CHAT, ask("plain"));
        answer.assert_refused(502, "upstream_failed");
        let labels = [("error_type", "proxy_credentials")];
        gateway.wait_value("llm_upstream_error_total", &labels, 1.0);
        let address = proxy.address().to_string();
        let line = gateway.wait_log("a try at an upstream failed");
        assert!(line.contains(&address), "{line}");
        assert!(!answer.text().contains(&address), "{}", answer.text());
        for secret in [password, "mistaken"] {
            assert!(!gateway.log().contains(secret), "{}", gateway.log());
        }
    }
    assert_eq!(
        world.model.connections(),
        before,
        "nobody else came through"
    );
}

#[test]
fn squid_opens_to_the_right_login_only() {
    if let Some(proxy) = RealProxy::squid(Some(LOGIN)) {
        asks_who_is_there(&proxy);
    }
}

#[test]
fn tinyproxy_opens_to_the_right_login_only() {
    if let Some(proxy) = RealProxy::tinyproxy(Some(LOGIN)) {
        asks_who_is_there(&proxy);
    }
}

#[test]
fn squid_behind_tls_opens_to_the_right_login_only() {
    if let Some(proxy) = RealProxy::squid_tls(Some(LOGIN)) {
        asks_who_is_there(&proxy);
    }
}

#[test]
fn pproxy_behind_tls_opens_to_the_right_login_only() {
    if let Some(proxy) = RealProxy::pproxy(Some(LOGIN)) {
        asks_who_is_there(&proxy);
    }
}

#[test]
fn microsocks_opens_to_the_right_login_only() {
    if let Some(proxy) = RealProxy::microsocks(Some(LOGIN)) {
        asks_who_is_there(&proxy);
    }
}

#[test]
fn a_proxy_behind_tls_that_nobody_vouches_for_is_told_nothing() {
    let Some(proxy) = RealProxy::squid_tls(Some(LOGIN)) else {
        return;
    };
    let model = Provider::json("{}");
    let gateway = Gateway::start(&format!(
        "proxy_url: \"{}\"\negress: {{proxied: [127.0.0.1]}}\nmodel_routes: {{m: \"{}\"}}\n",
        proxy.url_of(LOGIN.0, LOGIN.1),
        model.url()
    ));
    let answer = gateway.post(CHAT, ask("m"));
    answer.assert_refused(502, "upstream_failed");
    let line = gateway.wait_log("a try at an upstream failed");
    assert!(line.contains("certificate"), "{line}");
    assert_eq!((model.connections(), proxy.tunnels()), (0, 0));
}

// === who resolves ===

#[test]
fn socks5_is_given_the_address_and_socks5h_the_name() {
    let Some(proxy) = RealProxy::microsocks(None) else {
        return;
    };
    let model = Provider::json("{}");
    let port = model.address().port();
    let asked_for = |url: &str| {
        let gateway = Gateway::start(&format!(
            "proxy_url: \"{url}\"\nproviders:\n\
             - {{name: m, base_url: \"http://localhost:{port}\", models: [m], egress: proxy}}\n"
        ));
        assert_eq!(gateway.post(CHAT, ask("m")).status(), 200, "{url}");
    };
    let told = |proxy: &RealProxy, host: &str| {
        let line = format!("connected to {host}:{port}");
        eventually(&line, || proxy.said(&line).then_some(()));
    };
    asked_for(&proxy.url());
    told(&proxy, "127.0.0.1");
    let proxy = proxy.resolving();
    asked_for(&proxy.url());
    told(&proxy, "localhost");
}

// === what a proxy says of the way on ===

#[test]
fn squid_resolves_the_name_denies_it_or_fails_on_it() {
    let Some(proxy) = RealProxy::squid(None) else {
        return;
    };
    let model = Provider::json("{}");
    let nobody: SocketAddr = crate::support::provider::nobody();
    let gateway = Gateway::start(&format!(
        "proxy_url: \"{}\"\negress: {{proxied: [\".test\"]}}\n\
         model_routes: {{known: \"http://model.test:{}\", denied: \"http://denied.test\", \
         gone: \"http://model.test:{}\"}}\n",
        proxy.url(),
        model.address().port(),
        nobody.port(),
    ));
    assert_eq!(gateway.post(CHAT, ask("known")).status(), 200);
    for (asked, kind) in [("denied", "proxy_denied"), ("gone", "proxy_failed")] {
        gateway
            .post(CHAT, ask(asked))
            .assert_refused(502, "upstream_failed");
        let count = gateway.value("llm_upstream_error_total", &[("error_type", kind)]);
        assert!(count.is_some_and(|it| it >= 1.0), "{kind}: {count:?}");
    }
}

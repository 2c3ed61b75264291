//! How connections to upstreams are made and kept: proxies of all kinds, addresses that fail or
//! move, age, connections made ahead.

use crate::support::dns_server::Known;
use crate::support::socks_proxy::Asked;
use crate::support::tls::TlsFront;
use crate::support::{
    Answer, Authority, Client, DnsServer, ForwardProxy, Gateway, H2Provider, Launch, Provider,
    SocksProxy, eventually,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

fn ask(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[]}}"#)
}

/// One proxy of each kind, all leading to the same model server by the name `far.test`.
struct Proxies {
    provider: Provider,
    http: ForwardProxy,
    behind_tls: ForwardProxy,
    authority: Authority,
    https: TlsFront,
    socks: SocksProxy,
    dns: DnsServer,
}

impl Proxies {
    fn new(provider: Provider) -> Self {
        let (http, behind_tls, socks) = (
            ForwardProxy::start(),
            ForwardProxy::start(),
            SocksProxy::start(),
        );
        let authority = Authority::new();
        let https = authority.front("IP:127.0.0.1", &["http/1.1"], behind_tls.address());
        let target = format!("far.test:{}", provider.address().port());
        http.lead(&target, provider.address());
        behind_tls.lead(&target, provider.address());
        socks.lead(&target, provider.address());
        let dns = DnsServer::start();
        // 203.0.113.0/24 is nobody's (RFC 5737): only the SOCKS proxy knows where it leads.
        dns.lead("far.test", &[[203, 0, 113, 7].into()]);
        socks.lead(
            &format!("203.0.113.7:{}", provider.address().port()),
            provider.address(),
        );
        Self {
            provider,
            http,
            behind_tls,
            authority,
            https,
            socks,
            dns,
        }
    }

    fn url(&self, kind: &str) -> String {
        let address = match kind {
            "http" => self.http.address(),
            "https" => self.https.address(),
            _ => self.socks.address(),
        };
        format!("{kind}://{address}")
    }

    /// Tunnels that were asked for through the proxy of this kind.
    fn tunnels(&self, kind: &str) -> usize {
        match kind {
            "http" => self.http.connects().len(),
            "https" => self.behind_tls.connects().len(),
            _ => self.socks.asked().len(),
        }
    }

    /// weir with the model `far` behind these proxies; it trusts the test's authority.
    fn gateway(&self, proxies: &[String], rest: &str) -> Gateway {
        let port = self.provider.address().port();
        let yaml = format!(
            "proxy_url: {proxies:?}\ndns: {{servers: [\"{}\"]}}\negress: {{prewarm: 0}}\n\
             model_routes: {{far: {{url: \"http://far.test:{port}\", retries: 0}}}}\n{rest}",
            self.dns.address(),
        );
        let ca = self.authority.ca();
        Launch::file(&yaml)
            .env("SSL_CERT_FILE", &ca.display().to_string())
            .start()
    }
}

/// An answer on this client's connection: weir is done with the request before it when it reads the
/// next, so that the upstream's connection is back in the pool.
fn answer(client: &mut Client, body: &str) -> Answer {
    client.post(CHAT, body);
    client.answer()
}

/// Each of these clients sends so many requests on a connection of its own.
fn load(gateway: &Gateway, model: &str, clients: usize, each: usize) {
    let address = gateway.address();
    let model = ask(model);
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let model = model.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                for _ in 0..each {
                    client.post(CHAT, &model);
                    assert_eq!(client.answer().status(), 200);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a client");
    }
}

// === kinds of proxies ===

#[test]
fn each_kind_of_proxy_carries_many_requests_in_a_handful_of_tunnels() {
    const CLIENTS: usize = 4;
    let world = Proxies::new(Provider::json("{}"));
    let mut tunnels = 0;
    for kind in ["http", "https", "socks5", "socks5h"] {
        let before = world.tunnels(kind);
        let gateway = world.gateway(&[world.url(kind)], "");
        load(&gateway, "far", CLIENTS, 100);
        let made = world.tunnels(kind) - before;
        assert!((1..=2 * CLIENTS).contains(&made), "{kind}: {made} tunnels");
        let record = &gateway.records(1)[0];
        assert_eq!(record["road"], "proxy", "{kind}");
        let told = |metric, labels: &[(&str, &str)]| gateway.value(metric, labels).unwrap_or(0.0);
        let handshakes = |which| told("weir_pool_handshakes_total", &[("kind", which)]);
        assert_eq!(handshakes("tunnel"), made as f64, "{kind}");
        assert_eq!(handshakes("tcp"), made as f64, "{kind}");
        let outer = if kind == "https" { made } else { 0 };
        assert_eq!(handshakes("proxy_tls"), outer as f64, "{kind}");
        let ok = [("road", "proxy"), ("outcome", "ok")];
        assert_eq!(told("weir_pool_dials_total", &ok), made as f64, "{kind}");
        let reused = [("road", "proxy"), ("reused", "true")];
        let expected = (CLIENTS * 100 - made) as f64;
        assert_eq!(
            told("weir_pool_requests_total", &reused),
            expected,
            "{kind}"
        );
        tunnels += made;
    }
    assert_eq!(world.provider.connections(), tunnels, "one for each tunnel");
}

#[test]
fn a_megabyte_body_comes_back_whole_through_each_kind_of_proxy() {
    let world = Proxies::new(Provider::echo());
    let filler: String = (0..2_000_000_u32)
        .map(|at| char::from(b'a' + (at % 23) as u8))
        .collect();
    let body = format!(r#"{{"model":"far","messages":[],"filler":"{filler}"}}"#);
    for kind in ["http", "https", "socks5", "socks5h"] {
        let gateway = world.gateway(&[world.url(kind)], "");
        let mut client = gateway.client();
        for _ in 0..3 {
            let answer = answer(&mut client, &body);
            assert_eq!(answer.status(), 200, "{kind}");
            assert!(
                answer.text() == body,
                "{kind}: {} bytes",
                answer.text().len()
            );
        }
        assert_eq!(
            gateway.value("weir_pool_handshakes_total", &[("kind", "tunnel")]),
            Some(1.0)
        );
    }
}

#[test]
fn events_come_one_by_one_through_tls_to_the_proxy() {
    let gate = crate::support::Gate::new();
    let waiting = gate.clone();
    let world = Proxies::new(Provider::start(move |exchange| {
        exchange.stream();
        exchange.event("first");
        // The second is sent when the first has arrived.
        exchange.wait(&waiting);
        for _ in 0..999 {
            exchange.event("more");
        }
        exchange.event("[DONE]");
        exchange.end();
    }));
    let gateway = world.gateway(&[world.url("https")], "");
    let mut client = gateway.client();
    client.post(CHAT, ask("far"));
    client.read_head();
    client.read_text_until("first");
    gate.open();
    client.read_text_until("[DONE]");
}

#[test]
fn tls_goes_through_tls_to_the_model_server() {
    let world = Proxies::new(Provider::json("{}"));
    let front = world
        .authority
        .front("DNS:api.test", &["http/1.1"], world.provider.address());
    world.behind_tls.lead("api.test:443", front.address());
    let yaml = format!(
        "proxy_url: \"{}\"\ndns: {{servers: [\"{}\"]}}\n\
         providers: [{{name: p, base_url: \"https://api.test/v1\", models: [m]}}]\n",
        world.url("https"),
        world.dns.address(),
    );
    let ca = world.authority.ca().display().to_string();
    let gateway = Launch::file(&yaml).env("SSL_CERT_FILE", &ca).start();
    load(&gateway, "m", 1, 20);
    assert_eq!(world.tunnels("https"), 1);
    assert_eq!(world.https.handshakes().len(), 1);
    let inner = front.handshakes();
    assert_eq!(inner.len(), 1);
    assert_eq!(inner[0].server_name.as_deref(), Some("api.test"));
    let outer = &world.https.handshakes()[0];
    assert_eq!(
        outer.protocol.as_deref(),
        Some("http/1.1"),
        "nothing else is offered"
    );
}

#[test]
fn a_proxy_whose_certificate_nobody_trusts_is_told_nothing() {
    let world = Proxies::new(Provider::json("{}"));
    let other = Authority::new();
    let https = other.front("IP:127.0.0.1", &["http/1.1"], world.behind_tls.address());
    let url = format!("https://me:secret@{}", https.address());
    let gateway = world.gateway(&[url], "");
    gateway
        .post(CHAT, ask("far"))
        .assert_refused(502, "upstream_failed");
    let line = gateway.wait_log("proxy_tls");
    assert!(line.contains(&https.address().to_string()), "{line}");
    assert!(!gateway.log().contains("secret"));
    assert!(world.behind_tls.connects().is_empty());
}

#[test]
fn socks5_sends_an_address_and_socks5h_the_name_both_with_the_login() {
    let world = Proxies::new(Provider::json("{}"));
    world.socks.wants("me", "p:w");
    let port = world.provider.address().port();
    for (kind, host) in [("socks5", "203.0.113.7"), ("socks5h", "far.test")] {
        let before = world.socks.asked().len();
        let url = format!("{kind}://me:p%3aw@{}", world.socks.address());
        let gateway = world.gateway(&[url], "");
        assert_eq!(gateway.post(CHAT, ask("far")).status(), 200, "{kind}");
        let expected = Asked {
            target: format!("{host}:{port}"),
            by_name: kind == "socks5h",
            login: Some(("me".to_owned(), "p:w".to_owned())),
        };
        assert_eq!(world.socks.asked()[before..], [expected], "{kind}");
    }
}

#[test]
fn each_no_of_a_socks_proxy_has_its_own_name() {
    let world = Proxies::new(Provider::json("{}"));
    for (reply, word) in [
        (1, "proxy_failed"),
        (2, "proxy_denied"),
        (5, "proxy_failed"),
        (0, "proxy_credentials"),
    ] {
        world.socks.reply(reply);
        if reply == 0 {
            world.socks.wants("me", "secret");
        }
        let url = format!("socks5h://me:wrong-one@{}", world.socks.address());
        let gateway = world.gateway(&[url], "");
        gateway
            .post(CHAT, ask("far"))
            .assert_refused(502, "upstream_failed");
        let labels = [("error_type", word)];
        gateway.wait_value("llm_upstream_error_total", &labels, 1.0);
        assert!(!gateway.log().contains("wrong-one"), "{reply}");
    }
}

// === several proxies ===

#[test]
fn the_next_proxy_is_asked_when_one_is_not_there_and_from_then_on_first() {
    let world = Proxies::new(Provider::json("{}"));
    let nobody = crate::support::provider::nobody();
    let dead = format!("http://user:pass-word@{nobody}");
    let gateway = world.gateway(&[dead, world.url("http"), world.url("socks5h")], "");
    let mut client = gateway.client();
    for _ in 0..5 {
        let answer = answer(&mut client, &ask("far"));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(answer.header("x-weir-attempts"), Some("1"));
    }
    assert_eq!(world.tunnels("http"), 1, "its tunnel is kept");
    assert_eq!(world.tunnels("socks5h"), 0, "the order of the file");
    let dials = |outcome| {
        let labels = [("road", "proxy"), ("outcome", outcome)];
        gateway.value("weir_pool_dials_total", &labels)
    };
    assert_eq!(dials("proxy_unreachable"), Some(1.0), "not asked again");
    assert_eq!(dials("ok"), Some(1.0));
    assert_eq!(
        gateway.value("llm_upstream_error_total", &[]),
        None,
        "no try has failed"
    );
    let line = gateway.wait_log("the next one is asked");
    assert!(line.contains(&nobody.to_string()), "{line}");
    assert!(!gateway.log().contains("pass-word"));
}

#[test]
fn a_proxy_that_cannot_reach_one_endpoint_is_still_the_first_for_others() {
    let world = Proxies::new(Provider::json("{}"));
    let near = world.provider.address();
    // The first proxy knows only the way to `other.test`.
    let first = ForwardProxy::start();
    first.lead("other.test:80", near);
    first.lead(
        &format!("far.test:{}", near.port()),
        crate::support::provider::nobody(),
    );
    let routes = "  other: {url: \"http://other.test\"}\n";
    let yaml = format!(
        "proxy_url: [\"{}\", \"{}\"]\ndns: {{servers: [\"{}\"]}}\nmodel_routes:\n\
         \x20 far: {{url: \"http://far.test:{}\"}}\n{routes}",
        first.url(),
        world.url("http"),
        world.dns.address(),
        near.port(),
    );
    let gateway = Gateway::start(&yaml);
    let mut client = gateway.client();
    for _ in 0..3 {
        assert_eq!(answer(&mut client, &ask("far")).status(), 200);
        assert_eq!(answer(&mut client, &ask("other")).status(), 200);
    }
    assert_eq!(world.tunnels("http"), 1);
    let asked: Vec<String> = first.connects().into_iter().map(|it| it.target).collect();
    let far = format!("far.test:{}", near.port());
    assert_eq!(asked, [far, "other.test:80".to_owned()], "each once");
}

#[test]
fn a_proxys_refusal_is_not_carried_to_the_next_one() {
    let world = Proxies::new(Provider::json("{}"));
    for (status, word) in [(407, "proxy_credentials"), (403, "proxy_denied")] {
        world.http.refuse(status);
        let gateway = world.gateway(&[world.url("http"), world.url("socks5h")], "");
        for _ in 0..3 {
            gateway
                .post(CHAT, ask("far"))
                .assert_refused(502, "upstream_failed");
        }
        assert!(world.socks.asked().is_empty(), "{status}");
        let labels = [("error_type", word)];
        gateway.wait_value("llm_upstream_error_total", &labels, 3.0);
        let told = gateway.count_log("an egress proxy can't be used");
        assert_eq!(
            told,
            usize::from(status == 407),
            "{status}: once, not each time"
        );
    }
}

#[test]
fn when_all_proxies_fail_each_was_asked_once_and_the_request_ends_in_time() {
    let world = Proxies::new(Provider::json("{}"));
    world.http.refuse(503);
    world.behind_tls.refuse(502);
    world.socks.reply(1);
    let urls = [world.url("http"), world.url("https"), world.url("socks5h")];
    let gateway = world.gateway(&urls, "");
    gateway
        .post(CHAT, ask("far"))
        .assert_refused(502, "upstream_failed");
    for kind in ["http", "https", "socks5h"] {
        assert_eq!(world.tunnels(kind), 1, "{kind}");
    }
    gateway.wait_value(
        "llm_upstream_error_total",
        &[("error_type", "proxy_failed")],
        1.0,
    );
    // A second one asks them all again: put last, not left out.
    gateway
        .post(CHAT, ask("far"))
        .assert_refused(502, "upstream_failed");
    assert_eq!(world.tunnels("http"), 2);
}

#[test]
fn what_was_learnt_of_a_proxy_outlives_a_reload() {
    let world = Proxies::new(Provider::json("{}"));
    let nobody = crate::support::provider::nobody();
    let dead = format!("http://{nobody}");
    let urls = [dead, world.url("http")];
    let gateway = world.gateway(&urls, "");
    load(&gateway, "far", 1, 2);
    let port = world.provider.address().port();
    gateway.reload(&format!(
        "proxy_url: {urls:?}\ndns: {{servers: [\"{}\"]}}\negress: {{prewarm: 0}}\n\
         model_routes: {{new: {{url: \"http://far.test:{port}\"}}}}\n",
        world.dns.address()
    ));
    load(&gateway, "new", 1, 3);
    let labels = [("outcome", "proxy_unreachable")];
    assert_eq!(gateway.value("weir_pool_dials_total", &labels), Some(1.0));
    assert_eq!(world.tunnels("http"), 1, "the pool outlives it too");
}

// === addresses ===

/// Two model servers on the same port of two addresses.
fn two_providers() -> (Provider, Provider) {
    loop {
        let first = Provider::json("{}");
        let second = SocketAddr::new(ELSEWHERE, first.address().port());
        // Another test may have that port there.
        if let Some(second) = Provider::json_at(second, "{}") {
            return (first, second);
        }
    }
}

#[test]
fn an_address_that_refuses_is_tried_last_from_then_on() {
    let provider = Provider::start(|exchange| {
        exchange.json(200, "{}");
        // Each request needs a connection.
        exchange.close();
    });
    let dns = DnsServer::start();
    let deaf = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99));
    dns.lead("two.test", &[deaf, HERE]);
    let gateway = Gateway::start(&format!(
        "dns: {{servers: [\"{}\"]}}\nmodel_routes: {{m: \"http://two.test:{}\"}}\n",
        dns.address(),
        provider.address().port()
    ));
    for _ in 0..20 {
        let answer = gateway.post(CHAT, ask("m"));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(answer.header("x-weir-attempts"), Some("1"));
    }
    let dials = gateway.value("weir_pool_dials_total", &[("outcome", "ok")]);
    assert_eq!(dials, Some(20.0));
    let handshakes = gateway.value("weir_pool_handshakes_total", &[("kind", "tcp")]);
    assert_eq!(handshakes, Some(20.0));
}

#[test]
fn equal_addresses_share_the_connections() {
    let (first, second) = two_providers();
    let dns = DnsServer::start();
    dns.lead("two.test", &[HERE, ELSEWHERE]);
    let gateway = Gateway::start(&format!(
        "dns: {{servers: [\"{}\"]}}\nmodel_routes: {{m: \"http://two.test:{}\"}}\n",
        dns.address(),
        first.address().port()
    ));
    load(&gateway, "m", 8, 10);
    let counts = (first.connections(), second.connections());
    assert!(counts.0 >= 1 && counts.1 >= 1, "{counts:?}");
}

#[test]
fn when_a_host_moves_all_new_requests_follow_and_none_fails() {
    let (old, new) = two_providers();
    let dns = DnsServer::start();
    dns.know("moving.test", Known::Addresses(vec![HERE], 1));
    let gateway = Gateway::start(&format!(
        "dns: {{servers: [\"{}\"]}}\nmodel_routes: {{m: \"http://moving.test:{}\"}}\n",
        dns.address(),
        old.address().port()
    ));
    // One client that never pauses: its upstream's connection would live for ever.
    let mut client = gateway.client();
    let mut send = || {
        client.post(CHAT, ask("m"));
        assert_eq!(client.answer().status(), 200);
    };
    (0..50).for_each(|_| send());
    assert_eq!((old.connections(), new.connections()), (1, 0));
    dns.know("moving.test", Known::Addresses(vec![ELSEWHERE], 1));
    eventually("a request at the new address", || {
        send();
        (new.requests().len() == 1).then_some(())
    });
    let moved = old.requests().len();
    (0..50).for_each(|_| send());
    assert_eq!(old.requests().len(), moved, "no request goes back");
    assert_eq!((old.connections(), new.connections()), (1, 1));
}

// === age ===

#[test]
fn a_busy_connection_is_given_up_at_its_age() {
    const AGE: Duration = Duration::from_secs(2);
    let provider = Provider::json("{}");
    let gateway = Gateway::start(&format!(
        "egress: {{connection_max_age: 2s, prewarm: 0}}\nmodel_routes: {{m: \"{}\"}}\n",
        provider.url()
    ));
    let mut client = gateway.client();
    let began = Instant::now();
    while began.elapsed() < 4 * AGE {
        client.post(CHAT, ask("m"));
        assert_eq!(client.answer().status(), 200);
        std::thread::sleep(Duration::from_millis(5));
    }
    let connections = provider.connections();
    // An epoch lasts 0.8 of the age; a connection, and one for each request that took the other
    // epoch while its connection wasn't there yet: a single client never needs two of one epoch.
    assert!((4..=7).contains(&connections), "{connections} connections");
}

#[test]
fn without_an_age_a_busy_connection_stays() {
    let provider = Provider::json("{}");
    let gateway = Gateway::start(&format!(
        "egress: {{connection_max_age: 0s, prewarm: 0}}\nmodel_routes: {{m: \"{}\"}}\n",
        provider.url()
    ));
    load(&gateway, "m", 1, 300);
    assert_eq!(provider.connections(), 1);
}

// === ahead ===

#[test]
fn upstreams_are_connected_to_before_a_request_asks_and_hear_nothing() {
    let (first, second) = (Provider::json("{}"), Provider::json("{}"));
    let gateway = Gateway::start(&format!(
        "egress: {{prewarm: 1}}\nproviders:\n\
         - {{name: a, base_url: \"{}\", models: [a]}}\n\
         - {{name: b, base_url: \"{}\", models: [b]}}\n",
        first.url(),
        second.url()
    ));
    first.wait_connections(1);
    gateway.wait_value("weir_pool_ahead_total", &[("outcome", "made")], 1.0);
    assert!(first.requests().is_empty());
    assert_eq!(gateway.post(CHAT, ask("a")).status(), 200);
    assert_eq!(gateway.post(CHAT, ask("b")).status(), 200);
    assert_eq!(first.connections(), 1, "the request took what was there");
    assert_eq!(second.connections(), 1);
    let used = gateway.value("weir_pool_ahead_total", &[("outcome", "used")]);
    assert_eq!(used, Some(1.0));
}

#[test]
fn tunnels_are_made_ahead_too_and_a_failure_is_only_counted() {
    let world = Proxies::new(Provider::json("{}"));
    let port = world.provider.address().port();
    let ca = world.authority.ca().display().to_string();
    let yaml = format!(
        "proxy_url: \"{}\"\ndns: {{servers: [\"{}\"]}}\negress: {{prewarm: 8}}\nproviders:\n\
         - {{name: a, base_url: \"http://far.test:{port}\", models: [far]}}\n\
         - {{name: b, base_url: \"http://{}\", models: [b]}}\n",
        world.url("https"),
        world.dns.address(),
        crate::support::provider::nobody(),
    );
    let gateway = Launch::file(&yaml).env("SSL_CERT_FILE", &ca).start();
    gateway.wait_value("weir_pool_ahead_total", &[("outcome", "made")], 1.0);
    gateway.wait_value("weir_pool_ahead_total", &[("outcome", "failed")], 1.0);
    load(&gateway, "far", 1, 10);
    assert_eq!(world.tunnels("https"), 1);
    assert_eq!(gateway.value("llm_upstream_error_total", &[]), None);
}

// === HTTP/2 ===

/// A model server of HTTP/2 behind TLS.
fn h2_provider(authority: &Authority) -> (H2Provider, TlsFront) {
    let provider = H2Provider::start(|exchange| {
        exchange.head(200, &[("content-type", "application/json")]);
        exchange.data("{}", true);
    });
    let front = authority.front("DNS:api.test", &["h2", "http/1.1"], provider.address());
    (provider, front)
}

#[test]
fn requests_at_once_share_a_handful_of_http2_connections_also_through_tls_to_a_proxy() {
    const CLIENTS: usize = 50;
    let world = Proxies::new(Provider::json("{}"));
    let ca = world.authority.ca().display().to_string();
    for proxy in [None, Some("http"), Some("https")] {
        let together = Arc::new(Barrier::new(CLIENTS));
        let meet = Arc::clone(&together);
        let provider = H2Provider::start(move |exchange| {
            // All requests are there at the same time.
            meet.wait();
            exchange.head(200, &[("content-type", "application/json")]);
            exchange.data("{}", true);
        });
        let authority = &world.authority;
        let front = authority.front("DNS:api.test", &["h2", "http/1.1"], provider.address());
        let target = format!("api.test:{}", front.address().port());
        world.http.lead(&target, front.address());
        world.behind_tls.lead(&target, front.address());
        world.dns.lead("api.test", &[HERE]);
        let road = match proxy {
            None => "egress: {prewarm: 0}\n".to_owned(),
            Some(kind) => format!(
                "proxy_url: \"{}\"\negress: {{proxied: [api.test], prewarm: 0}}\n",
                world.url(kind)
            ),
        };
        let yaml = format!(
            "{road}dns: {{servers: [\"{}\"]}}\nmodel_routes: {{m: \"https://{target}\"}}\n",
            world.dns.address()
        );
        let gateway = Launch::file(&yaml).env("SSL_CERT_FILE", &ca).start();
        load(&gateway, "m", CLIENTS, 3);
        let handshakes = front.handshakes();
        println!("{proxy:?}: {} handshakes", handshakes.len());
        assert!(
            handshakes.len() <= CLIENTS / 10,
            "{proxy:?}: {}",
            handshakes.len()
        );
        assert_eq!(handshakes[0].protocol.as_deref(), Some("h2"), "{proxy:?}");
        let road = if proxy.is_some() { "proxy" } else { "direct" };
        let open = gateway.value("weir_pool_connections", &[("road", road)]);
        assert!(open >= Some(1.0), "{proxy:?}: {open:?}");
    }
}

#[test]
fn an_http2_upstream_that_moves_takes_no_new_request_on_the_old_connection() {
    let authority = Authority::new();
    let ca = authority.ca().display().to_string();
    let (_provider, old) = h2_provider(&authority);
    let dns = DnsServer::start();
    dns.know("api.test", Known::Addresses(vec![HERE], 1));
    // The name moves to where nobody listens on that port, and then back.
    let gateway = Launch::file(&format!(
        "dns: {{servers: [\"{}\"]}}\n\
         providers: [{{name: p, base_url: \"https://api.test:{}\", breaker: off}}]\n\
         model_routes: {{m: {{targets: [{{provider: p}}], retries: 0}}}}\n",
        dns.address(),
        old.address().port()
    ))
    .env("SSL_CERT_FILE", &ca)
    .start();
    assert_eq!(gateway.post(CHAT, ask("m")).status(), 200);
    dns.know("api.test", Known::Addresses(vec![ELSEWHERE], 1));
    eventually("a request that finds nobody at the new address", || {
        (gateway.post(CHAT, ask("m")).status() == 502).then_some(())
    });
    assert_eq!(old.handshakes().len(), 1);
    dns.know("api.test", Known::Addresses(vec![HERE], 1));
    eventually("a request at the old address", || {
        (gateway.post(CHAT, ask("m")).status() == 200).then_some(())
    });
    assert_eq!(old.handshakes().len(), 2, "on a connection of its own");
}

/// `cargo test --test it -- --ignored --nocapture handshakes_per` prints what connections cost.
#[test]
#[ignore = "a measurement"]
fn handshakes_per_thousand_requests() {
    println!("| road | clients | requests | tcp | tls | proxy_tls | tunnels |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let world = Proxies::new(Provider::json("{}"));
    let ca = world.authority.ca().display().to_string();
    let h1 = world
        .authority
        .front("DNS:api.test", &["http/1.1"], world.provider.address());
    let (_h2_provider, h2) = h2_provider(&world.authority);
    world.dns.lead("api.test", &[HERE]);
    world.dns.lead("near.test", &[HERE]);
    let plain = format!("http://near.test:{}", world.provider.address().port());
    let far = format!("http://far.test:{}", world.provider.address().port());
    let https = |front: &TlsFront| format!("https://api.test:{}", front.address().port());
    let through = |kind: &str| format!("proxy_url: \"{}\"\n", world.url(kind));
    world
        .behind_tls
        .lead(&format!("api.test:{}", h2.address().port()), h2.address());
    world
        .http
        .lead(&format!("api.test:{}", h2.address().port()), h2.address());
    for (road, url, proxy) in [
        ("direct http", plain, String::new()),
        ("direct https h1", https(&h1), String::new()),
        ("direct https h2", https(&h2), String::new()),
        ("http proxy", far.clone(), through("http")),
        (
            "http proxy, https h2",
            https(&h2),
            through("http") + "egress: {proxied: [api.test], prewarm: 0}\n",
        ),
        ("https proxy", far.clone(), through("https")),
        (
            "https proxy, https h2",
            https(&h2),
            through("https") + "egress: {proxied: [api.test], prewarm: 0}\n",
        ),
        ("socks5 proxy", far.clone(), through("socks5")),
        ("socks5h proxy", far, through("socks5h")),
    ] {
        for clients in [1, 50] {
            let yaml = format!(
                "{proxy}dns: {{servers: [\"{}\"]}}\nmodel_routes: {{m: \"{url}\"}}\n",
                world.dns.address()
            );
            let gateway = Launch::file(&yaml).env("SSL_CERT_FILE", &ca).start();
            load(&gateway, "m", clients, 1000 / clients);
            let count = |kind| {
                let labels = [("kind", kind)];
                gateway
                    .value("weir_pool_handshakes_total", &labels)
                    .unwrap_or(0.0)
            };
            println!(
                "| {road} | {clients} | 1000 | {} | {} | {} | {} |",
                count("tcp"),
                count("tls"),
                count("proxy_tls"),
                count("tunnel")
            );
        }
    }
}

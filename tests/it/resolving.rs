//! The resolver is stopped, lies for a moment, moves names or dies, under load: names in use go on to
//! be served. Asked is dnsmasq where it is installed, and the scripted name server for the rest.
//!
//! `WEIR_TEST_OUTAGE_SECONDS` (5) is how long the resolver is away. Counts are printed.

use crate::support::dns_server::Known;
use crate::support::dnsmasq::Dnsmasq;
use crate::support::relay::Relay;
use crate::support::steady::{Steady, Tally};
use crate::support::supervised::said;
use crate::support::{DnsServer, Exchange, Gateway, Launch, Provider, eventually};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const CLIENTS: usize = 4;
const NAMES: [&str; 5] = ["a.test", "b.test", "c.test", "d.test", "e.test"];

fn outage() -> Duration {
    let told = std::env::var("WEIR_TEST_OUTAGE_SECONDS").ok();
    let seconds = told.map_or(5, |text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds)
}

fn ask(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[]}}"#)
}

/// A model server to which each request takes a new connection, and so an address.
fn closing() -> Provider {
    Provider::start(|exchange| {
        exchange.answer(200, &[("connection", "close")], b"{}");
        exchange.close();
    })
}

/// weir's configuration: a model of each name's first letter, at this port.
fn config(servers: &[SocketAddr], port: u16) -> String {
    let servers: Vec<String> = servers.iter().map(|it| format!("\"{it}\"")).collect();
    let models: Vec<String> = NAMES
        .iter()
        .map(|name| format!("{}: \"http://{name}:{port}\"", model(name)))
        .collect();
    format!(
        "dns: {{servers: [{}], min_ttl: 1s, stale: 1h}}\n\
         model_routes: {{{}}}\n",
        servers.join(", "),
        models.join(", ")
    )
}

fn model(name: &str) -> &str {
    &name[..1]
}

fn here() -> Vec<(&'static str, IpAddr)> {
    NAMES.iter().map(|name| (*name, HERE)).collect()
}

/// Asks for all names in turn, all the time.
fn load(gateway: &Gateway) -> Steady {
    Steady::on(gateway.address(), CLIENTS, CHAT, |number| {
        ask(model(NAMES[number % NAMES.len()]))
    })
}

fn tell(what: &str, tally: &Tally) {
    eprintln!(
        "{what}: {} requests answered, {} failed, the slowest took {:?}",
        tally.done,
        tally.failed.len(),
        tally.slowest
    );
}

// === a resolver that says nothing ===

#[test]
fn names_in_use_are_served_while_dnsmasq_is_stopped() {
    let Some(dns) = Dnsmasq::start(&here()) else {
        return;
    };
    let provider = closing();
    let gateway = Gateway::start(&config(&[dns.address()], provider.address().port()));
    let load = load(&gateway);
    load.wait_more(10 * NAMES.len());
    dns.stop();
    let began = Instant::now();
    while began.elapsed() < outage() {
        load.wait_more(10);
    }
    let away = load.now();
    dns.go_on();
    dns.wait_said("query[A]", 2 * NAMES.len());
    load.wait_more(10 * NAMES.len());
    let tally = load.finish();
    tell(&format!("dnsmasq away for {:?}", outage()), &away);
    tally.assert_all_done();
}

#[test]
fn names_in_use_are_served_while_a_resolver_fails_or_says_nothing() {
    for known in [Known::Silence, Known::Failure] {
        let dns = DnsServer::start();
        let know = |known: &Known| {
            for name in NAMES {
                dns.know(name, known.clone());
            }
        };
        know(&Known::Addresses(vec![HERE], 1));
        let provider = closing();
        let gateway = Gateway::start(&config(&[dns.address()], provider.address().port()));
        let load = load(&gateway);
        load.wait_more(10 * NAMES.len());
        know(&known);
        let before = dns.asked(NAMES[0]);
        let began = Instant::now();
        while began.elapsed() < outage() / 2 || dns.asked(NAMES[0]) < before + 2 {
            load.wait_more(10);
            assert!(began.elapsed() < 10 * outage(), "nobody is asked again");
        }
        let tally = load.finish();
        tell(&format!("a resolver of {known:?}"), &tally);
        tally.assert_all_done();
    }
}

#[test]
fn one_dead_name_server_of_two_fails_nothing() {
    let dns = DnsServer::start();
    for name in NAMES {
        dns.know(name, Known::Addresses(vec![HERE], 1));
    }
    let provider = closing();
    // It takes questions, and nobody reads them.
    let deaf = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let deaf = deaf.local_addr().expect("bound");
    let nobody = crate::support::provider::nobody();
    for servers in [
        [deaf, dns.address()],
        [dns.address(), deaf],
        [nobody, dns.address()],
    ] {
        let gateway = Gateway::start(&config(&servers, provider.address().port()));
        let load = load(&gateway);
        let asked = dns.asked(NAMES[0]);
        let began = Instant::now();
        while began.elapsed() < outage() / 2 || dns.asked(NAMES[0]) < asked + 2 {
            load.wait_more(10);
        }
        let tally = load.finish();
        tell("one name server of two is dead", &tally);
        tally.assert_all_done();
    }
}

// === names that go, and come back ===

#[test]
fn a_name_that_is_unknown_for_a_moment_is_served_on() {
    let Some(dns) = Dnsmasq::start(&here()) else {
        return;
    };
    let provider = closing();
    let gateway = Gateway::start(&config(&[dns.address()], provider.address().port()));
    let load = load(&gateway);
    load.wait_more(10 * NAMES.len());
    dns.know(&here()[1..]);
    dns.wait_said(&format!("{} is NXDOMAIN", NAMES[0]), 1);
    load.wait_more(20 * NAMES.len());
    dns.know(&here());
    dns.wait_said(&format!("{} is {HERE}", NAMES[0]), 1);
    load.wait_more(10 * NAMES.len());
    let tally = load.finish();
    tell("a name was unknown for a moment", &tally);
    tally.assert_all_done();
}

// === addresses that change ===

/// Requests by the address that they came to.
struct Moving {
    /// They stop when they are dropped.
    _providers: [Provider; 2],
    relays: Vec<Relay>,
    counts: Arc<[AtomicUsize; 2]>,
}

impl Moving {
    fn new(script: fn(&mut Exchange)) -> Self {
        let counts: Arc<[AtomicUsize; 2]> = Arc::default();
        let provider = |at: usize| {
            let counts = Arc::clone(&counts);
            Provider::start(move |exchange| {
                counts[at].fetch_add(1, Ordering::SeqCst);
                script(exchange);
            })
        };
        let providers = [provider(0), provider(1)];
        let relays = Relay::side_by_side(&[providers[0].address(), providers[1].address()]);
        Self {
            _providers: providers,
            relays,
            counts,
        }
    }

    fn at(&self, place: usize) -> IpAddr {
        self.relays[place].address().ip()
    }

    fn port(&self) -> u16 {
        self.relays[0].address().port()
    }

    fn requests(&self, place: usize) -> usize {
        self.counts[place].load(Ordering::SeqCst)
    }
}

/// All names move from one address to the other under load.
fn follows_a_move(script: fn(&mut Exchange), what: &str) {
    let moving = Moving::new(script);
    let names = |place: usize| -> Vec<(&str, IpAddr)> {
        NAMES.iter().map(|name| (*name, moving.at(place))).collect()
    };
    let Some(dns) = Dnsmasq::start(&names(0)) else {
        return;
    };
    let gateway = Gateway::start(&config(&[dns.address()], moving.port()));
    let load = load(&gateway);
    load.wait_more(20 * NAMES.len());
    assert_eq!(moving.requests(1), 0);
    dns.know(&names(1));
    let changed = Instant::now();
    // The last request that came to the old address, as far as can be seen from outside.
    let mut last = (moving.requests(0), changed);
    eventually("nothing more to come to the old address", || {
        let now = moving.requests(0);
        if now != last.0 {
            last = (now, Instant::now());
        }
        // TTL and a second more, and the same again, which is for a busy machine.
        (last.1.elapsed() > Duration::from_secs(2) && moving.requests(1) > 0).then_some(())
    });
    load.wait_more(40 * NAMES.len());
    let tally = load.finish();
    let took = last.1 - changed;
    tell(what, &tally);
    eprintln!(
        "{what}: the last request to the old address came {took:?} after the change; requests {} \
         and {}, connections {} and {}",
        moving.requests(0),
        moving.requests(1),
        moving.relays[0].connections(),
        moving.relays[1].connections()
    );
    tally.assert_all_done();
    assert_eq!(moving.requests(0), last.0, "something came back");
    assert_eq!(
        moving.requests(0) + moving.requests(1),
        tally.done,
        "each request came to one of them"
    );
    assert!(took < Duration::from_secs(6), "{took:?} for a TTL of 1 s");
}

#[test]
fn new_connections_follow_a_name_that_moves() {
    follows_a_move(
        |exchange| {
            exchange.answer(200, &[("connection", "close")], b"{}");
            exchange.close();
        },
        "a connection for each request",
    );
}

#[test]
fn kept_connections_follow_a_name_that_moves() {
    follows_a_move(
        |exchange| exchange.json(200, "{}"),
        "connections that are kept",
    );
}

// === generations ===

#[test]
fn the_next_generation_knows_the_names_while_the_resolver_is_dead() {
    let dns = DnsServer::start();
    for name in NAMES {
        dns.know(name, Known::Addresses(vec![HERE], 1));
    }
    let provider = closing();
    let yaml = config(&[dns.address()], provider.address().port());
    let more = "upgrade: {probation: 200ms}\n";
    let gateway = Launch::supervised(&format!("{yaml}{more}")).start();
    for name in NAMES {
        assert_eq!(gateway.post(CHAT, ask(model(name))).status(), 200, "{name}");
    }
    for name in NAMES {
        dns.know(name, Known::Silence);
    }
    // The test can fail: who starts without a predecessor knows nothing.
    let other = Gateway::start(&yaml);
    let lost = other.post(CHAT, ask(model(NAMES[0])));
    lost.assert_refused(502, "upstream_failed");

    let load = load(&gateway);
    load.wait_more(5 * NAMES.len());
    for generation in [2, 3] {
        gateway.replace_binary();
        let output = gateway.upgrade();
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(gateway.wait_settled().number, generation);
        load.wait_more(20 * NAMES.len());
    }
    let text = std::fs::read_to_string(gateway.folder().join("weir.yaml")).unwrap();
    gateway.write_config(&format!(
        "{text}headers: {{response: {{set: {{X-Round: \"2\"}}}}}}\n"
    ));
    let output = gateway.reload_by_command();
    assert!(output.status.success(), "{}", said(&output));
    load.wait_more(20 * NAMES.len());
    let answer = gateway.post(CHAT, ask(model(NAMES[0])));
    assert_eq!(
        (answer.status(), answer.header("x-round")),
        (200, Some("2"))
    );
    let tally = load.finish();
    tell("two upgrades and a reload without a resolver", &tally);
    tally.assert_all_done();
}

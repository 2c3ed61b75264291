//! Several egress proxies: one is killed, refuses, is silent or talks out of turn, under load; the next
//! one serves, and the first is used again when it is back. Counts are printed.

use std::time::Duration;

use crate::support::forward_proxy::Reply;
use crate::support::real_proxy::RealProxy;
use crate::support::steady::Steady;
use crate::support::{Exchange, ForwardProxy, Gateway, Provider, eventually};

const CHAT: &str = "/v1/chat/completions";
const CLIENTS: usize = 4;

fn ask() -> String {
    r#"{"model":"m","messages":[]}"#.to_owned()
}

/// weir with these proxies, in this order, and one model behind them.
#[track_caller]
fn gateway(proxies: &[String], model: &Provider, more: &str) -> Gateway {
    let proxies: Vec<String> = proxies.iter().map(|it| format!("\"{it}\"")).collect();
    Gateway::start(&format!(
        "proxy_url: [{}]\negress: {{prewarm: 0}}\nproviders:\n\
         - {{name: m, base_url: \"{}\", models: [m], egress: proxy}}\n{more}\n",
        proxies.join(", "),
        model.url()
    ))
}

/// Asks all the time, on a few connections.
fn load(gateway: &Gateway) -> Steady {
    Steady::on(gateway.address(), CLIENTS, CHAT, |_| ask())
}

fn kept(exchange: &mut Exchange) {
    exchange.json(200, "{}");
}

/// Each request takes a tunnel of its own.
fn closed(exchange: &mut Exchange) {
    exchange.answer(200, &[("connection", "close")], b"{}");
    exchange.close();
}

// === a proxy that goes, and comes back ===

/// Kills the first of two squids under load, starts it again, and kills the second then. Fails may only
/// what had been sent through a squid in the moment of its end: the model server may have it.
fn one_of_two_is_killed(script: fn(&mut Exchange), what: &str) {
    let (Some(mut first), Some(mut second)) = (RealProxy::squid(None), RealProxy::squid(None))
    else {
        return;
    };
    let model = Provider::start(script);
    let gateway = gateway(&[first.url(), second.url()], &model, "");
    let load = load(&gateway);
    load.wait_more(100);
    first.daemon().kill();
    load.wait_more(200);
    let without_first = load.now();
    first.daemon().start_again();
    load.wait_more(100);
    // Only the first can serve from here on.
    second.daemon().kill();
    load.wait_more(200);
    second.daemon().start_again();
    load.wait_more(100);
    let tally = load.finish();
    eprintln!(
        "two squids, {what}: {} requests answered, {} failed ({} while the first was away), the \
         slowest took {:?}; {} connections at the model server",
        tally.done,
        tally.failed.len(),
        without_first.failed.len(),
        tally.slowest,
        model.connections()
    );
    let kills = 2;
    assert!(tally.failed.len() <= kills * CLIENTS, "{tally:?}");
    for (_, text) in &tally.failed {
        assert!(text.contains("it broke the connection"), "{text}");
    }
}

#[test]
fn a_squid_that_is_killed_under_load_costs_only_what_it_held_where_each_request_has_a_tunnel() {
    one_of_two_is_killed(closed, "a tunnel for each request");
}

#[test]
fn a_squid_that_is_killed_under_load_costs_only_what_it_held_where_tunnels_are_kept() {
    one_of_two_is_killed(kept, "tunnels that are kept");
}

#[test]
fn requests_one_after_another_do_not_notice_that_a_squid_is_killed() {
    let (Some(mut first), Some(second)) = (RealProxy::squid(None), RealProxy::squid(None)) else {
        return;
    };
    let model = Provider::start(kept);
    let gateway = gateway(&[first.url(), second.url()], &model, "");
    let mut client = gateway.client();
    let mut served = |count: usize| {
        for _ in 0..count {
            client.post(CHAT, ask());
            let answer = client.answer();
            assert_eq!(answer.status(), 200, "{}", answer.text());
        }
    };
    served(20);
    for _ in 0..3 {
        first.daemon().kill();
        served(20);
        first.daemon().start_again();
        served(20);
    }
    assert_eq!(model.requests().len(), 20 + 3 * 40, "none was sent twice");
}

#[test]
fn a_stream_that_goes_through_the_second_proxy_outlives_the_first_ones_return() {
    let (Some(mut first), Some(second)) = (RealProxy::squid(None), RealProxy::squid(None)) else {
        return;
    };
    let gate = crate::support::Gate::new();
    let middle = gate.clone();
    let model = Provider::start(move |exchange| {
        exchange.stream();
        exchange.event("1");
        middle.wait();
        exchange.event("2");
        exchange.end();
    });
    let gateway = gateway(&[first.url(), second.url()], &model, "");
    first.daemon().kill();
    let mut client = gateway.client();
    client.post(CHAT, ask());
    assert_eq!(client.read_head().status, 200);
    assert_eq!(client.read_text_until("\n\n"), "data: 1\n\n");
    first.daemon().start_again();
    gate.open();
    assert_eq!(client.read_text_until("\n\n"), "data: 2\n\n");
    assert!(client.rest().1, "the stream was cut off");
    drop(gateway);
    eventually("the second's log", || (second.tunnels() == 1).then_some(()));
    assert_eq!(first.tunnels(), 0);
}

// === proxies that are there, and no good ===

/// The second proxy serves what the first one spoils; returns how often the first was asked.
#[track_caller]
fn is_passed_by(first: &ForwardProxy, more: &str) -> usize {
    const REQUESTS: usize = 10;
    let second = ForwardProxy::start();
    let model = Provider::start(closed);
    let gateway = gateway(&[first.url(), second.url()], &model, more);
    for _ in 0..REQUESTS {
        let answer = gateway.post(CHAT, ask());
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_eq!(answer.header("x-weir-attempts"), Some("1"), "one attempt");
    }
    assert_eq!(second.connects().len(), REQUESTS);
    assert_eq!(model.requests().len(), REQUESTS, "none was sent twice");
    first.connects().len()
}

#[test]
fn a_proxy_that_answers_503_is_passed_by() {
    let first = ForwardProxy::start();
    first.refuse(503);
    let asked = is_passed_by(&first, "");
    eprintln!("a proxy that answers 503 was asked for {asked} of 10 tunnels");
    assert!(asked >= 1);
}

#[test]
fn a_proxy_that_is_silent_is_passed_by_and_not_waited_for_again() {
    let first = ForwardProxy::start();
    first.reply(Reply::Silence);
    let asked = is_passed_by(&first, "timeouts: {connect: 4s}");
    eprintln!("a silent proxy was asked for {asked} of 10 tunnels");
    assert_eq!(asked, 1, "waited for it {asked} times");
}

#[test]
fn a_slow_proxy_has_time_left_after_a_silent_one_and_is_asked_first_from_then_on() {
    const REQUESTS: usize = 6;
    let (first, second) = (ForwardProxy::start(), ForwardProxy::start());
    first.reply(Reply::Silence);
    second.reply(Reply::Slow(Duration::from_millis(400)));
    let model = Provider::start(closed);
    let gateway = gateway(&[first.url(), second.url()], &model, "");
    for _ in 0..REQUESTS {
        let answer = gateway.post(CHAT, ask());
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    assert_eq!(first.connects().len(), 1, "it was waited for again");
    assert_eq!(second.connects().len(), REQUESTS);
}

#[test]
fn a_proxy_that_talks_out_of_turn_is_passed_by() {
    for reply in [
        Reply::Bytes(b"HTTP/1.1 200 OK\r\n\r\n!".to_vec()),
        Reply::Bytes(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()),
        Reply::Close,
    ] {
        let first = ForwardProxy::start();
        first.reply(reply.clone());
        let asked = is_passed_by(&first, "");
        eprintln!("a proxy of {reply:?} was asked for {asked} of 10 tunnels");
        assert!(asked >= 1);
    }
}

#[test]
fn a_proxy_that_is_not_there_is_passed_by() {
    let second = ForwardProxy::start();
    let model = Provider::start(closed);
    let nobody = crate::support::provider::nobody();
    let gateway = gateway(&[format!("http://{nobody}"), second.url()], &model, "");
    let load = load(&gateway);
    load.wait_more(100);
    load.finish().assert_all_done();
}

#[test]
fn where_no_proxy_is_good_the_answer_is_502_and_the_log_names_one() {
    let (first, second) = (ForwardProxy::start(), ForwardProxy::start());
    first.refuse(503);
    second.reply(Reply::Bytes(b"HTTP/1.1 200 OK\r\n\r\n!".to_vec()));
    let model = Provider::start(closed);
    let gateway = gateway(&[first.url(), second.url()], &model, "");
    let answer = gateway.post(CHAT, ask());
    answer.assert_refused(502, "upstream_failed");
    let line = gateway.wait_log("a try at an upstream failed");
    let named = [&first, &second].iter().any(|it| {
        let address = it.address().to_string();
        assert!(!answer.text().contains(&address), "{}", answer.text());
        line.contains(&address)
    });
    assert!(named, "{line}");
    assert!(model.requests().is_empty());
    assert!(!first.connects().is_empty() && !second.connects().is_empty());
}

//! Who gets which request: by what it carries, by what requests have in common.

use crate::support::{Gate, Gateway, Provider};

const CHAT: &str = "/v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");

fn servers(count: usize) -> Vec<Provider> {
    (0..count).map(|_| Provider::json("{}")).collect()
}

/// A route over these servers; `more` belongs to it.
fn route(servers: &[Provider], more: &str) -> String {
    let urls: Vec<String> = servers
        .iter()
        .map(|it| format!("\"{}\"", it.url()))
        .collect();
    format!(
        "model_routes: {{m: {{urls: [{}], {more}}}}}\n",
        urls.join(", ")
    )
}

/// Which servers were asked since this was asked last.
fn asked(servers: &[Provider]) -> Vec<usize> {
    let counts = servers.iter().map(|it| it.requests().len()).collect();
    servers.iter().for_each(Provider::forget);
    counts
}

fn turn(conversation: usize, turns: usize) -> String {
    let mut messages = format!(
        r#"{{"role":"system","content":"be kind"}},{{"role":"user","content":"about {conversation}"}}"#
    );
    for turn in 0..turns {
        messages.push_str(&format!(
            r#",{{"role":"assistant","content":"answer {turn}"}},{{"role":"user","content":"and {turn}?"}}"#
        ));
    }
    format!(r#"{{"model":"m","messages":[{messages}]}}"#)
}

#[test]
fn a_conversation_keeps_its_endpoint_however_long_it_grows() {
    let mut servers = servers(4);
    let gateway = Gateway::start(&route(&servers, "balance: hash"));
    let mut met = [0; 4];
    for conversation in 0..40 {
        for turns in 0..4 {
            assert_eq!(gateway.post(CHAT, turn(conversation, turns)).status(), 200);
        }
        let counts = asked(&servers);
        assert!(counts.contains(&4), "{conversation}: {counts:?}");
        met[counts.iter().position(|it| *it == 4).expect("one")] += 1;
    }
    assert!(met.iter().all(|it| *it > 2), "spread: {met:?}");
    // In another order, and by another process, it is the same one.
    gateway.post(CHAT, turn(7, 1));
    let home = asked(&servers).iter().position(|it| *it == 1).expect("one");
    let address = servers[home].address();
    servers.reverse();
    let other = Gateway::start(&route(&servers, "balance: hash"));
    other.post(CHAT, turn(7, 2));
    let home = asked(&servers).iter().position(|it| *it == 1).expect("one");
    assert_eq!(servers[home].address(), address);
}

#[test]
fn what_has_a_header_or_a_user_in_common_goes_the_same_way() {
    for (rule, header, user) in [
        ("{by: header, header: x-session}", "x-session", "same"),
        ("{by: user}", "x-nothing", ""),
    ] {
        let servers = servers(4);
        let gateway = Gateway::start(&route(&servers, &format!("balance: hash, hash: {rule}")));
        let mut met = [0; 4];
        for who in 0..30 {
            for turn in 0..3 {
                let value = format!("session {who}");
                let user = if user.is_empty() {
                    value.clone()
                } else {
                    format!("{user} {turn}")
                };
                let body = format!(
                    r#"{{"model":"m","messages":[{{"role":"user","content":"{turn}"}}],"user":"{user}"}}"#
                );
                let answer = gateway.post_with(CHAT, &[JSON, (header, &value)], &body);
                assert_eq!(answer.status(), 200);
            }
            let counts = asked(&servers);
            assert!(counts.contains(&3), "{rule}: {counts:?}");
            met[counts.iter().position(|it| *it == 3).expect("one")] += 1;
        }
        assert!(met.iter().all(|it| *it > 1), "{rule}: {met:?}");
    }
}

#[test]
fn what_a_request_does_not_have_is_replaced_by_who_asks() {
    let servers = servers(4);
    let rule = "balance: hash, hash: {by: header, header: x-session}";
    let gateway = Gateway::start(&route(&servers, rule));
    for turn in 0..8 {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{turn}"}}]}}"#);
        assert_eq!(gateway.post(CHAT, body).status(), 200);
    }
    assert!(asked(&servers).contains(&8), "all of one address");
}

/// A server that keeps its requests until the gate opens.
fn held(gate: &Gate) -> Provider {
    let gate = gate.clone();
    Provider::start(move |exchange| {
        exchange.wait(&gate);
        exchange.json(200, "{}");
    })
}

#[test]
fn of_two_the_one_that_carries_less_is_asked() {
    let gate = Gate::new();
    let servers = [held(&gate), held(&gate)];
    let gateway = Gateway::start(&route(&servers, "balance: least_loaded"));
    let mut clients = Vec::new();
    for sent in 1..=6 {
        let mut client = gateway.client();
        client.post(CHAT, turn(sent, 0));
        clients.push(client);
        crate::support::eventually("the request to arrive", || {
            let count: usize = servers.iter().map(|it| it.requests().len()).sum();
            (count == sent).then_some(())
        });
        let counts = servers.each_ref().map(|it| it.requests().len());
        assert!(counts[0].abs_diff(counts[1]) <= 1, "{counts:?}");
    }
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().status(), 200);
    }
}

#[test]
fn who_carries_more_than_its_share_is_passed_over() {
    let gate = Gate::new();
    let servers = [held(&gate), held(&gate)];
    let gateway = Gateway::start(&route(&servers, "balance: hash"));
    let mut clients = Vec::new();
    for sent in 1..=8 {
        let mut client = gateway.client();
        client.post(CHAT, turn(1, sent));
        clients.push(client);
        crate::support::eventually("the request to arrive", || {
            let count: usize = servers.iter().map(|it| it.requests().len()).sum();
            (count == sent).then_some(())
        });
    }
    let mut counts = servers.each_ref().map(|it| it.requests().len());
    counts.sort_unstable();
    // 1.25 × ½ × 8.
    assert_eq!(counts, [3, 5]);
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer().status(), 200);
    }
}

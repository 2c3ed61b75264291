//! `weir dns`: what operators see of the resolver, and how they make it forget.

use crate::support::load::model::{self, Model};
use crate::support::supervised::said;
use crate::support::{DnsServer, Gateway, Launch, Provider};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m"}"#;

/// weir in front of a model server whose name only this name server knows; it was asked for once.
fn start(server: &DnsServer, url: &str) -> Gateway {
    server.lead("gpu.corp.example", &[HERE]);
    let url = url.replace("127.0.0.1", "gpu.corp.example");
    let weir = Launch::supervised(&format!(
        "dns: {{servers: [\"{}\"]}}\n\
         model_routes: {{m: \"{url}\"}}\n\
         upgrade: {{probation: 50ms}}\n",
        server.address()
    ))
    .start();
    assert_eq!(weir.post(CHAT, BODY).status(), 200);
    weir.wait_settled();
    weir
}

fn provider() -> Provider {
    Provider::start(|exchange| exchange.answer(200, &[], b"{}"))
}

fn dump(weir: &Gateway) -> Value {
    let output = weir.supervised().command("dns", &["dump", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_dump_tells_names_and_servers_to_people_and_programs() {
    let (server, provider) = (DnsServer::start(), provider());
    let weir = start(&server, &provider.url());
    let known = dump(&weir);
    let name = &known["names"][0];
    assert_eq!(name["name"], "gpu.corp.example");
    assert_eq!(name["addresses"], serde_json::json!(["127.0.0.1"]));
    assert_eq!(name["source"], "dns");
    let fresh = name["fresh_seconds"].as_f64().expect("a number");
    assert!(fresh > 0.0 && fresh <= 300.0, "at most max_ttl: {fresh}");
    let asked = &known["servers"][0];
    assert_eq!(asked["address"], server.address().to_string());
    assert!(asked["queries"].as_u64() > Some(0), "{asked}");
    let table = said(&weir.supervised().command("dns", &["dump"]));
    for text in ["NAME", "gpu.corp.example", "127.0.0.1", "SERVER"] {
        assert!(table.contains(text), "no {text} in\n{table}");
    }
}

#[test]
fn what_is_flushed_is_asked_for_again() {
    let (server, provider) = (DnsServer::start(), provider());
    let weir = start(&server, &provider.url());
    let asked = server.asked("gpu.corp.example");
    for (arguments, sentence) in [
        (
            &["flush", "GPU.corp.example"][..],
            "GPU.corp.example is forgotten",
        ),
        (
            &["flush", "gpu.corp.example"],
            "gpu.corp.example was not known",
        ),
    ] {
        let output = weir.supervised().command("dns", arguments);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(said(&output).trim(), sentence);
    }
    assert_eq!(dump(&weir)["names"], serde_json::json!([]));
    assert_eq!(weir.post(CHAT, BODY).status(), 200);
    assert!(
        server.asked("gpu.corp.example") > asked,
        "it was asked again"
    );
    let output = weir.supervised().command("dns", &["flush"]);
    assert_eq!(said(&output).trim(), "1 name is forgotten");
    let long = "a".repeat(100_000);
    for name in ["", " ", "a..b", "http://a", &long] {
        let output = weir.supervised().command("dns", &["flush", name]);
        assert!(!output.status.success());
        assert!(said(&output).contains("no host name"), "{}", said(&output));
    }
}

#[test]
fn a_flush_reaches_generations_that_drain_and_their_successor_knows_what_they_knew() {
    let (server, model) = (DnsServer::start(), Model::start());
    let weir = start(&server, &model.url());
    let mut stream = weir.client();
    stream.post(CHAT, model::stream_request(0, 0));
    assert_eq!(stream.read_head().status, 200);
    assert_eq!(stream.read_text_until("\n\n"), model::event(0, 0));
    let output = weir.upgrade();
    assert!(output.status.success(), "{}", said(&output));
    let known = dump(&weir);
    assert_eq!(known["names"][0]["source"], "handed over", "{known}");
    let flushed = said(&weir.supervised().command("dns", &["flush"]));
    assert_eq!(flushed.trim(), "1 name is forgotten, in 2 generations");
    model.end_batch(0);
    let (_, whole) = stream.rest();
    assert!(whole);
}

#[test]
fn metrics_tell_lookups_and_queries() {
    let (server, provider) = (DnsServer::start(), provider());
    let weir = start(&server, &provider.url());
    assert_eq!(weir.post(CHAT, BODY).status(), 200);
    let metrics = weir.metrics();
    let value = |line: &str| {
        let found = metrics.lines().find_map(|it| it.strip_prefix(line));
        let found = found.unwrap_or_else(|| panic!("no {line} in\n{metrics}"));
        found.trim().parse::<f64>().expect("a number")
    };
    assert!(value(r#"weir_dns_lookups_total{result="hit"}"#) > 0.0);
    assert_eq!(value(r#"weir_dns_lookups_total{result="failure"}"#), 0.0);
    let at = server.address();
    let found = format!(r#"weir_dns_queries_total{{result="found",server="{at}"}}"#);
    assert!(value(&found) > 0.0);
    let count = format!(r#"weir_dns_query_seconds_count{{server="{at}"}}"#);
    assert!(value(&count) > 0.0);
}

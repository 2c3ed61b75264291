//! Clients that mean harm, or are broken: what they send is refused or understood in one way only,
//! and nobody else notices.

use crate::support::client::Head;
use crate::support::{Client, Gateway, Provider};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m"}"#;
const DONE: &str = r#"{"ok":true}"#;

/// What isn't whole is not waited for.
const QUICK: &str = "timeouts: {client_header: 500ms, client_body: 500ms}";

fn gateway(provider: &Provider, more: &str) -> Gateway {
    Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{}\"}}]\nrouting: {{default_provider: p}}\n{more}",
        provider.url()
    ))
}

/// Sends bytes and reads the first answer's head, if there is one.
fn answered(weir: &Gateway, bytes: impl AsRef<[u8]>) -> (Client, Option<Head>) {
    let mut client = weir.client();
    client.send(bytes);
    let head = client.try_read_head();
    (client, head)
}

/// Refused with a status of the 400s, or by ending the connection.
#[track_caller]
fn assert_not_served(weir: &Gateway, provider: &Provider, bytes: &[u8]) {
    let (_, head) = answered(weir, bytes);
    let shown = String::from_utf8_lossy(bytes);
    if let Some(head) = head {
        assert!(
            (400..500).contains(&head.status) || head.status == 501,
            "{} for {shown:?}",
            head.status
        );
    }
    assert!(
        provider.requests().is_empty(),
        "it went to the upstream: {shown:?}"
    );
}

fn still_serves(weir: &Gateway) {
    assert_eq!(weir.get("/healthz").text(), "OK");
}

// === one meaning only ===

#[test]
fn a_length_that_can_be_read_in_two_ways_is_refused() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, QUICK);
    for framing in [
        "Content-Length: 13\r\nContent-Length: 14",
        "Content-Length: 13, 14",
        "Content-Length: +13",
        "Content-Length: -1",
        "Content-Length: 0x0d",
        "Content-Length: 13a",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding : chunked",
        "Content-Length : 13",
        "Content-Length:\r\n 13",
    ] {
        let request = format!("POST {CHAT} HTTP/1.1\r\nHost: w\r\n{framing}\r\n\r\n{BODY}");
        assert_not_served(&weir, &provider, request.as_bytes());
    }
    still_serves(&weir);
}

#[test]
fn length_and_chunks_together_never_smuggle_a_second_request() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, QUICK);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: w\r\n\r\n";
    for framing in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked",
            5 + smuggled.len()
        ),
        "Transfer-Encoding: chunked\r\nContent-Length: 5".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: 5".to_owned(),
    ] {
        let request =
            format!("POST /first HTTP/1.1\r\nHost: w\r\n{framing}\r\n\r\n0\r\n\r\n{smuggled}");
        let _ = answered(&weir, request);
        let targets: Vec<_> = provider
            .requests()
            .into_iter()
            .map(|it| it.target)
            .collect();
        assert!(
            !targets.contains(&"/smuggled".to_owned()),
            "{framing}: {targets:?}"
        );
        for request in provider.requests() {
            let both = request.header("content-length").is_some()
                && request.header("transfer-encoding").is_some();
            assert!(!both, "both went to the upstream: {framing}");
        }
        provider.forget();
    }
    still_serves(&weir);
}

#[test]
fn broken_chunks_are_refused() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, QUICK);
    for chunks in [
        "ffffffffffffffffff\r\nx\r\n0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "zz\r\nx\r\n0\r\n\r\n",
        "2\r\nxyz\r\n0\r\n\r\n",
        "\r\n",
    ] {
        let request = format!(
            "POST {CHAT} HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
        );
        assert_not_served(&weir, &provider, request.as_bytes());
    }
    // A chunk's size that never ends.
    let mut endless = weir.client();
    endless.send_head("POST", CHAT, &[("transfer-encoding", "chunked")]);
    let mut sent = 0;
    while sent < 4 << 20 && endless.try_send([b'0'; 4096]).is_ok() {
        sent += 4096;
    }
    still_serves(&weir);
    assert!(provider.requests().is_empty());
}

#[test]
fn heads_that_are_no_http_are_refused() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, QUICK);
    for head in [
        &b"GET / HTTP/1.1\nHost: w\n\n"[..],
        b"GET / HTTP/1.1\r\nHost: w\r\nX: a\nY: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: w\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: w\r\n: empty\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: w\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: w\r\nX-\xff: 1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: w\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        assert_not_served(&weir, &provider, head);
    }
    still_serves(&weir);
}

#[test]
fn what_a_path_may_not_hold_arrives_escaped_and_as_one_request() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, QUICK);
    for (path, arrives) in [
        ("/a b", "/a%20b"),
        ("/a\tb", "/a%09b"),
        ("/\u{1}", "/%01"),
        ("/a/../b/./c", "/a/../b/./c"),
        ("/a%0d%0aX:%201", "/a%0d%0aX:%201"),
    ] {
        let (_, head) = answered(&weir, format!("GET {path} HTTP/1.1\r\nHost: w\r\n\r\n"));
        let status = head.expect("an answer").status;
        if status != 400 {
            assert_eq!(provider.only_request().target, arrives);
            provider.forget();
        }
    }
}

#[test]
fn a_head_that_is_refused_is_told_in_openais_shape_and_recorded() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, QUICK);
    for (number, head) in [
        "GET / HTTP/1.1\nHost: w\n\n",
        "GET / HTTP/1.1\r\nHost: w\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: w\r\nno colon\r\n\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = weir.client();
        client.send(head);
        let answer = client.answer();
        answer.assert_refused(400, "invalid_request");
        assert_eq!(answer.header("server"), None);
        assert_eq!(
            weir.records(number + 1)[number]["end"],
            "refused:invalid_request"
        );
    }
}

#[test]
fn a_request_without_host_or_with_two_is_refused() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, QUICK);
    for head in [
        "GET /x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ] {
        assert_not_served(&weir, &provider, head.as_bytes());
    }
}

#[test]
fn a_host_that_is_none_and_a_tunnel_are_refused_in_openais_shape() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, QUICK);
    for (head, status, code) in [
        (
            "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n",
            400,
            "invalid_request",
        ),
        (
            "GET /x HTTP/1.1\r\nHost: a@b/c\r\n\r\n",
            400,
            "invalid_request",
        ),
        (
            "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
            405,
            "method_not_allowed",
        ),
    ] {
        let mut client = weir.client();
        client.send(head);
        let answer = client.answer();
        answer.assert_refused(status, code);
        assert_eq!(answer.header("server"), None, "{head}");
    }
    assert_eq!(provider.requests().len(), 0);
}

#[test]
fn weir_is_no_open_proxy() {
    let provider = Provider::json(DONE);
    let other = Provider::json(r#"{"open":"proxy"}"#);
    let weir = gateway(&provider, QUICK);
    let connect = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", other.address());
    let (_, head) = answered(&weir, connect);
    assert!(head.is_none_or(|head| head.status >= 400));
    let absolute = format!("GET {}/x HTTP/1.1\r\nHost: w\r\n\r\n", other.url());
    let _ = answered(&weir, absolute);
    assert_eq!(other.connections(), 0, "a client chose where weir connects");
    for request in provider.requests() {
        assert_eq!(request.target, "/x", "the upstream got a strange target");
    }
    still_serves(&weir);
}

// === bounds ===

#[test]
fn a_head_past_its_limit_is_431() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, "limits: {header_bytes: 8KiB}");
    let head = |size: usize| {
        let start = "GET /x HTTP/1.1\r\nHost: w\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(size - start.len() - 4))
    };
    let (_, at) = answered(&weir, head(8192));
    assert_eq!(at.unwrap().status, 200);
    let (mut client, past) = answered(&weir, head(8193));
    let past = past.unwrap();
    assert_eq!(
        (past.status, past.header("x-weir-error")),
        (431, Some("header_too_large"))
    );
    let body: serde_json::Value = serde_json::from_slice(&client.rest().0).unwrap();
    assert_eq!(body["error"]["code"], "header_too_large");
    assert_eq!(provider.requests().len(), 1);
    let record = weir.record_where("the refusal", |it| it["status"] == 431);
    assert_eq!(record["end"], "refused:header_too_large");
}

#[test]
fn very_many_headers_are_served_or_refused_but_never_hang() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, "");
    for count in [100, 300, 5000] {
        let headers: String = (0..count).map(|n| format!("X-{n}: 1\r\n")).collect();
        let (_, head) = answered(
            &weir,
            format!("GET /x HTTP/1.1\r\nHost: w\r\n{headers}\r\n"),
        );
        let status = head.expect("an answer").status;
        assert!(
            status == 200 || (400..500).contains(&status),
            "{count}: {status}"
        );
    }
    still_serves(&weir);
}

#[test]
fn a_head_that_trickles_is_408() {
    let provider = Provider::json(DONE);
    let weir = gateway(&provider, "timeouts: {client_header: 300ms}");
    let mut client = weir.client();
    let started = Instant::now();
    client.send("GET /x HTTP/1.1\r\n");
    while client.is_silent_for(Duration::from_millis(50)) {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "it trickles for ever"
        );
        let _ = client.try_send("X: 1\r\n");
    }
    client.answer().assert_refused(408, "client_timeout");
    let record = weir.record_where("the refusal", |it| it["status"] == 408);
    assert_eq!(record["end"], "refused:client_timeout");
}

#[test]
fn connections_that_say_nothing_take_no_place_for_ever() {
    let provider = Provider::json(DONE);
    let weir = gateway(
        &provider,
        "timeouts: {client_header: 300ms}\nlimits: {connections: 4}",
    );
    let mut silent: Vec<_> = (0..4).map(|_| weir.client()).collect();
    // The fifth waits until one of them is let go.
    still_serves(&weir);
    for client in &mut silent {
        assert!(client.try_read_head().is_none());
    }
    weir.wait_value("weir_connections", &[], 0.0);
}

// === HTTP/2 ===

#[test]
fn streams_that_are_reset_at_once_leave_nothing_behind() {
    let provider = Provider::start(|exchange| exchange.wait_end());
    let weir = gateway(&provider, "");
    let client = weir.h2_client();
    let headers = [("content-type", "application/json")];
    for _ in 0..200 {
        client.reset_at_once("POST", CHAT, &headers, BODY.as_bytes());
    }
    drop(client);
    weir.wait_value("weir_in_flight", &[], 0.0);
    weir.wait_value("weir_buffered_bytes", &[], 0.0);
    weir.wait_value("weir_connections", &[], 0.0);
    still_serves(&weir);
}

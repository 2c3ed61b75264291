//! Request bodies: the model is found wherever it stands, and every byte arrives as it was sent.

use crate::support::client::{chunk, find};
use crate::support::provider::Request;
use crate::support::{Answer, Gate, Gateway, Provider};
use serde_json::json;
use std::io::Write;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const DONE: &str = r#"{"ok":true}"#;
const JSON: (&str, &str) = ("content-type", "application/json");
const MIB: usize = 1 << 20;

/// weir with the routes `m` (as it is) and `mapped` (another name upstream), and a default for all
/// else, all to one provider.
struct House {
    weir: Gateway,
    provider: Provider,
}

impl House {
    fn new(more: &str) -> Self {
        Self::before(Provider::json(DONE), more)
    }

    fn before(provider: Provider, more: &str) -> Self {
        let weir = Gateway::start(&format!(
            r#"
providers: [{{name: p, base_url: "{0}"}}]
model_routes:
  m: "{0}"
  mapped: {{targets: [{{provider: p, model: a-longer-name}}]}}
routing: {{default_provider: p}}
{more}
"#,
            provider.url()
        ));
        Self { weir, provider }
    }

    /// Posts JSON and returns the one request that arrived.
    #[track_caller]
    fn arrives(&self, headers: &[(&str, &str)], body: &[u8]) -> (Answer, Request) {
        let answer = self.weir.post_with(CHAT, headers, body);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let request = self.provider.only_request();
        self.provider.forget();
        (answer, request)
    }

    /// Posts JSON that must be refused before any provider sees it.
    #[track_caller]
    fn refuses(&self, headers: &[(&str, &str)], body: &[u8], status: u16, code: &str) -> Answer {
        let answer = self.weir.post_with(CHAT, headers, body);
        let start = String::from_utf8_lossy(&body[..body.len().min(80)]);
        assert_ne!(answer.status(), 200, "it was served: {start}");
        answer.assert_refused(status, code);
        assert!(
            self.provider.requests().is_empty(),
            "the provider was asked"
        );
        answer
    }

    /// Nothing is held when all is over.
    #[track_caller]
    fn assert_settled(&self) {
        self.weir.wait_value("weir_buffered_bytes", &[], 0.0);
        self.weir.wait_value("weir_in_flight", &[], 0.0);
    }
}

/// JSON of exactly `size` bytes that names a model (if it fits), with text that is not all alike.
fn sized(size: usize) -> Vec<u8> {
    let (start, end) = (br#"{"model":"m","messages":""#, br#""}"#);
    let filling = size - start.len() - end.len();
    let mut body = start.to_vec();
    body.extend((0..filling).map(|at| b'a' + u8::try_from(at * 7 % 26).unwrap()));
    body.extend_from_slice(end);
    body
}

/// The sizes at which buffers have their edges.
const SIZES: [usize; 6] = [100, 65_535, 65_536, 65_537, MIB, 32 * MIB];

#[track_caller]
fn assert_same(got: &[u8], sent: &[u8]) {
    assert_eq!(got.len(), sent.len(), "another length arrived");
    assert!(got == sent, "other bytes arrived");
}

// === every byte arrives ===

#[test]
fn a_body_with_its_length_arrives_byte_by_byte() {
    let house = House::new("");
    for size in SIZES {
        let (_, request) = house.arrives(&[JSON], &sized(size));
        assert_same(&request.body, &sized(size));
        assert_eq!(request.header("content-length"), Some(&*size.to_string()));
        assert_eq!(request.header("transfer-encoding"), None);
    }
    house.assert_settled();
}

#[test]
fn a_chunked_body_arrives_byte_by_byte() {
    let house = House::new("");
    for size in SIZES {
        let body = sized(size);
        let mut client = house.weir.client();
        client.send_head("POST", CHAT, &[JSON, ("transfer-encoding", "chunked")]);
        // Chunks of many sizes, none of which divides a buffer.
        let mut rest = &body[..];
        let mut step = 1;
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(step.min(rest.len()));
            client.send_chunk(piece);
            rest = left;
            step = step * 3 + 1;
        }
        client.send_chunk(b"");
        assert_eq!(client.answer().text(), DONE);
        assert_same(&house.provider.only_request().body, &body);
        house.provider.forget();
    }
    house.assert_settled();
}

#[test]
fn a_body_over_http2_arrives_byte_by_byte_with_and_without_its_length() {
    let house = House::new("");
    let client = house.weir.h2_client();
    for size in SIZES {
        let body = sized(size);
        for with_length in [true, false] {
            let length = size.to_string();
            let mut headers = vec![JSON];
            headers.extend(with_length.then_some(("content-length", &*length)));
            let answer = client.request("POST", CHAT, &headers, &body);
            assert_eq!((answer.status, answer.text().as_str()), (200, DONE));
            assert_same(&house.provider.only_request().body, &body);
            house.provider.forget();
        }
    }
    house.assert_settled();
}

#[test]
fn no_body_and_one_byte_arrive_as_they_are() {
    let house = House::new("");
    let (_, empty) = house.arrives(&[], b"");
    assert_eq!(
        (empty.body.len(), empty.header("content-length")),
        (0, Some("0"))
    );
    assert_eq!(house.weir.post_with("/v1/other", &[], b"7").status(), 200);
    assert_eq!(house.provider.only_request().body, b"7");
    house.provider.forget();
    // Chunked, and empty.
    let mut client = house.weir.client();
    client.send_head("POST", CHAT, &[("transfer-encoding", "chunked")]);
    client.send_chunk(b"");
    assert_eq!(client.answer().status(), 200);
    assert!(house.provider.only_request().body.is_empty());
    house.provider.forget();
    // A GET has none, and no length is made up.
    assert_eq!(house.weir.get("/v1/other").status(), 200);
    let get = house.provider.only_request();
    assert_eq!(
        (
            get.header("content-length"),
            get.header("transfer-encoding")
        ),
        (None, None)
    );
    house.provider.forget();
    let h2 = house.weir.h2_client();
    assert_eq!(h2.request("POST", CHAT, &[], b"").status, 200);
    assert!(house.provider.only_request().body.is_empty());
}

#[test]
fn what_no_model_can_be_named_in_streams_through_as_it_comes() {
    let seen_early = Gate::new();
    let early = seen_early.clone();
    let provider = Provider::start_at_head(move |exchange| {
        // The head is here before the body is whole.
        exchange.record();
        early.open();
        assert!(exchange.read_body());
        let body = exchange.request.body.clone();
        exchange.answer(200, &[], &body);
    });
    let house = House::before(provider, "");
    let body: Vec<u8> = (0..300_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let length = body.len().to_string();
    let mut client = house.weir.client();
    let headers = [("content-type", "audio/wav"), ("content-length", &*length)];
    client.send_head("POST", "/v1/audio/transcriptions", &headers);
    client.send(&body[..10]);
    seen_early.wait();
    client.send(&body[10..]);
    let answer = client.answer();
    assert_same(&answer.body, &body);
    let record = &house.weir.records(1)[0];
    assert_eq!(
        (&record["bytes_in"], &record["bytes_out"]),
        (&json!(body.len()), &json!(body.len()))
    );
}

#[test]
fn a_chunked_body_of_unknown_meaning_streams_through_too() {
    let house = House::before(Provider::echo(), "");
    let body: Vec<u8> = (0..100_000_u32).flat_map(|n| n.to_be_bytes()).collect();
    let mut client = house.weir.client();
    let headers = [
        ("content-type", "application/octet-stream"),
        ("transfer-encoding", "chunked"),
    ];
    client.send_head("PUT", "/v1/files/x", &headers);
    for piece in body.chunks(9_999) {
        client.send_chunk(piece);
    }
    client.send_chunk(b"");
    assert_same(&client.answer().body, &body);
    assert!(house.provider.only_request().chunked);
}

// === how large ===

#[test]
fn one_byte_past_the_limit_is_413_before_it_is_read() {
    let house = House::new("limits: {body_bytes: 64KiB}");
    house.arrives(&[JSON], &sized(65_536));
    let mut client = house.weir.client();
    client.send_head("POST", CHAT, &[JSON, ("content-length", "65537")]);
    // No byte of the body was sent: the answer doesn't wait for it.
    client.answer().assert_refused(413, "body_too_large");
    assert!(house.provider.requests().is_empty());
    let record = house
        .weir
        .record_where("the refusal", |it| it["status"] == 413);
    assert_eq!(record["end"], "refused:body_too_large");
    house.assert_settled();
}

#[test]
fn a_client_that_goes_on_sending_gets_its_413_all_the_same() {
    let house = House::new("limits: {body_bytes: 64KiB}");
    let body = sized(8 * MIB);
    let mut client = house.weir.client();
    client.request("POST", CHAT, &[JSON], &body);
    client.answer().assert_refused(413, "body_too_large");
    assert!(house.provider.requests().is_empty());
}

#[test]
fn a_chunked_body_is_refused_when_it_crosses_the_limit() {
    let house = House::new("limits: {body_bytes: 64KiB}");
    for (size, status) in [(65_536, 200), (65_537, 413)] {
        let mut client = house.weir.client();
        client.send_head("POST", CHAT, &[JSON, ("transfer-encoding", "chunked")]);
        let body = sized(size);
        for piece in body.chunks(10_000) {
            client.send_chunk(piece);
        }
        if status == 200 {
            client.send_chunk(b"");
            assert_eq!(client.answer().status(), 200);
            house.provider.forget();
        } else {
            // The last chunk never comes: the answer doesn't wait for it.
            client.answer().assert_refused(413, "body_too_large");
        }
    }
    assert!(house.provider.requests().is_empty());
    house.assert_settled();
}

#[test]
fn one_byte_past_the_limit_over_http2_is_413() {
    let house = House::new("limits: {body_bytes: 64KiB}");
    let client = house.weir.h2_client();
    assert_eq!(client.post(CHAT, sized(65_536)).status, 200);
    house.provider.forget();
    let answer = client.post(CHAT, sized(65_537));
    assert_eq!(
        (answer.status, answer.header("x-weir-error")),
        (413, Some("body_too_large"))
    );
    assert!(house.provider.requests().is_empty());
    // The connection lives on.
    assert_eq!(client.post(CHAT, sized(100)).status, 200);
    house.assert_settled();
}

#[test]
fn a_streamed_body_is_refused_when_it_crosses_the_limit() {
    let house = House::before(Provider::echo(), "limits: {body_bytes: 64KiB}");
    for (size, status) in [(65_536, 200), (65_537, 413)] {
        let mut client = house.weir.client();
        let headers = [
            ("content-type", "audio/wav"),
            ("transfer-encoding", "chunked"),
        ];
        client.send_head("POST", "/v1/audio/transcriptions", &headers);
        for piece in vec![7; size].chunks(10_000) {
            client.send_chunk(piece);
        }
        let _ = client.try_send(chunk(b""));
        let answer = client.answer();
        assert_eq!(answer.status(), status, "{size}");
    }
    house.assert_settled();
}

#[test]
fn all_bodies_together_stay_under_their_cap() {
    let held = Gate::new();
    let gate = held.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&gate);
        exchange.json(200, DONE);
    });
    let house = House::before(provider, "limits: {buffered_bytes: 1MiB}");
    let mut first = house.weir.client();
    first.post(CHAT, sized(MIB));
    house.provider.wait_requests(1);
    let held_bytes = house.weir.value("weir_buffered_bytes", &[]).unwrap();
    assert!(held_bytes >= 1_048_576.0, "{held_bytes}");
    let refused = house.weir.post(CHAT, sized(100));
    refused.assert_refused(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // Without a body there is nothing to hold.
    assert_eq!(house.weir.get("/healthz").status(), 200);
    held.open();
    assert_eq!(first.answer().status(), 200);
    house.assert_settled();
    assert_eq!(house.weir.post(CHAT, sized(100)).status(), 200);
    house.assert_settled();
}

#[test]
fn a_client_that_leaves_in_its_body_leaves_nothing_behind() {
    let house = House::new("");
    for reset in [false, true] {
        let mut client = house.weir.client();
        client.send_head("POST", CHAT, &[JSON, ("content-length", "1000000")]);
        client.send(&sized(1_000_000)[..700_000]);
        house.weir.wait_value("weir_in_flight", &[], 1.0);
        if reset {
            client.reset();
        } else {
            client.close();
        }
        house.assert_settled();
    }
    assert!(house.provider.requests().is_empty());
    let records = house.weir.records(2);
    assert_eq!(records.len(), 2);
    for record in records {
        assert_eq!(record["end"], "client_closed", "{record}");
    }
}

#[test]
fn a_body_that_takes_too_long_is_408() {
    let house = House::new("timeouts: {client_body: 300ms}");
    let mut client = house.weir.client();
    client.send_head("POST", CHAT, &[JSON, ("content-length", "100")]);
    client.send(b"{");
    client.answer().assert_refused(408, "client_timeout");
    // Bytes that trickle don't prolong it.
    let mut client = house.weir.client();
    client.send_head("POST", CHAT, &[JSON, ("content-length", "1000")]);
    let started = std::time::Instant::now();
    while client.is_silent_for(Duration::from_millis(50)) {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "it trickles for ever"
        );
        let _ = client.try_send(b" ");
    }
    client.answer().assert_refused(408, "client_timeout");
    assert!(house.provider.requests().is_empty());
    house.assert_settled();
}

#[test]
fn whoever_expects_100_is_told_to_continue_once() {
    let house = House::new("limits: {body_bytes: 64KiB}");
    let mut client = house.weir.client();
    let headers = [JSON, ("expect", "100-continue"), ("content-length", "200")];
    client.send_head("POST", CHAT, &headers);
    assert_eq!(client.read_head().status, 100);
    client.send(sized(200));
    let head = client.read_head();
    assert_eq!(head.status, 200);
    assert_eq!(client.rest().0, DONE.as_bytes());
    let request = house.provider.only_request();
    assert_eq!(request.header("expect"), None);
    assert_eq!(request.body, sized(200));
    house.provider.forget();
    // The same where the body passes through.
    let mut client = house.weir.client();
    let headers = [
        ("content-type", "audio/wav"),
        ("expect", "100-continue"),
        ("content-length", "200"),
    ];
    client.send_head("POST", "/v1/audio/x", &headers);
    assert_eq!(client.read_head().status, 100);
    client.send(sized(200));
    assert_eq!(client.read_head().status, 200);
    assert_eq!(house.provider.only_request().body, sized(200));
    // What is refused isn't asked for.
    let mut client = house.weir.client();
    let headers = [
        JSON,
        ("expect", "100-continue"),
        ("content-length", "65537"),
    ];
    client.send_head("POST", CHAT, &headers);
    assert_eq!(client.read_head().status, 413);
}

// === where the model stands ===

#[test]
fn the_model_is_found_at_the_start_in_the_middle_and_at_the_end_of_a_megabyte() {
    let house = House::new("");
    let filling = "x\\\"}{][,:é".repeat(MIB / 10);
    for body in [
        format!(r#"{{"model":"mapped","messages":"{filling}"}}"#),
        format!(r#"{{"a":"{filling}", "model" :	"mapped" ,"b":["{filling}"]}}"#),
        format!(
            r#"{{"messages":[{{"model":"no","x":"{filling}"}}],"stream":false,"model":"mapped"}}"#
        ),
    ] {
        let (answer, request) = house.arrives(&[JSON], body.as_bytes());
        assert_eq!(answer.header("x-weir-model"), Some("mapped"));
        let expected = body.replacen(r#""mapped""#, r#""a-longer-name""#, 1);
        assert_same(&request.body, expected.as_bytes());
        assert_eq!(
            request.header("content-length"),
            Some(&*expected.len().to_string())
        );
    }
}

#[test]
fn a_key_or_a_name_that_is_escaped_is_understood() {
    let house = House::new("");
    let body = br#"{"mod\u0065l":"m\u0061pped","n":1}"#;
    let (answer, request) = house.arrives(&[JSON], body);
    assert_eq!(answer.header("x-weir-model"), Some("mapped"));
    assert_eq!(request.text(), r#"{"mod\u0065l":"a-longer-name","n":1}"#);
}

#[test]
fn unknown_fields_and_odd_spacing_arrive_as_they_are() {
    let house = House::new("");
    let body = "\r\n{\t\"future\" : {\"x\": 1e400, \"y\":[ ]} ,\"model\":\"m\",\"n\":0.10,\"ü\":\"\\u00fc\"} \n";
    let (_, request) = house.arrives(&[JSON], body.as_bytes());
    assert_eq!(request.text(), body);
}

#[test]
fn a_body_that_is_no_json_by_its_type_may_still_name_a_model() {
    let house = House::new("");
    for headers in [
        &[][..],
        &[("content-type", "application/x-www-form-urlencoded")],
    ] {
        let (answer, request) = house.arrives(headers, br#"{"model":"mapped"}"#);
        assert_eq!(answer.header("x-weir-model"), Some("mapped"));
        assert_eq!(request.text(), r#"{"model":"a-longer-name"}"#);
    }
}

// === what is refused ===

#[test]
fn a_deciding_field_that_is_there_twice_is_400() {
    let house = House::new("");
    for (body, field) in [
        (r#"{"model":"m","model":"m"}"#, "model"),
        (r#"{"model":"m","x":1,"mod\u0065l":"other"}"#, "model"),
        (r#"{"model":"m","stream":false,"stream":true}"#, "stream"),
    ] {
        let answer = house.refuses(&[JSON], body.as_bytes(), 400, "duplicate_field");
        assert_eq!(answer.json()["error"]["param"], field, "{body}");
    }
    // Further down it is nobody's business.
    house.arrives(&[JSON], br#"{"model":"m","x":{"model":"a","model":"b"}}"#);
    // In a form it decides as well.
    let part = |value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{value}\r\n")
    };
    let form = format!("{}{}--b--\r\n", part("m"), part("mapped"));
    let headers = [("content-type", "multipart/form-data; boundary=b")];
    house.refuses(&headers, form.as_bytes(), 400, "duplicate_field");
}

#[test]
fn what_is_no_json_is_400_and_says_where() {
    let house = House::new("");
    for body in [
        &br#"{"model":"m""#[..],
        br#"{"model":"m"}}"#,
        br#"{"model":"m"} {"model":"n"}"#,
        br#"{"model":"m",}"#,
        br#"{'model':'m'}"#,
        b"{\"model\":\"m\xc3\"}",
        b"hello",
    ] {
        house.refuses(&[JSON], body, 400, "invalid_json");
    }
    house.refuses(&[JSON], br#"{"model":7}"#, 400, "invalid_request");
    // No name is no model: the default provider may judge it.
    house.arrives(&[JSON], br#"{"model":null}"#);
}

#[test]
fn text_that_is_not_utf8_is_the_upstreams_affair_where_it_decides_nothing() {
    let house = House::new("");
    let body = b"{\"model\":\"m\",\"x\":\"\xff\xfe\"}";
    let (_, request) = house.arrives(&[JSON], body);
    assert_same(&request.body, body);
}

#[test]
fn nesting_without_end_is_400() {
    let house = House::new("");
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"model":"m","x":{open}{close}}}"#)
    };
    house.arrives(&[JSON], nested(60).as_bytes());
    house.refuses(&[JSON], nested(1_000_000).as_bytes(), 400, "invalid_json");
    house.refuses(
        &[JSON],
        "[".repeat(5_000_000).as_bytes(),
        400,
        "invalid_json",
    );
    assert_eq!(house.weir.get("/healthz").status(), 200);
}

// === compressed bodies ===

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = ::brotli::CompressorWriter::new(&mut out, 4096, 5, 22);
    encoder.write_all(bytes).unwrap();
    drop(encoder);
    out
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

type Compress = fn(&[u8]) -> Vec<u8>;

const ENCODINGS: [(&str, Compress); 4] = [
    ("gzip", gzip),
    ("zstd", zstd),
    ("br", brotli),
    ("deflate", deflate),
];

#[test]
fn a_compressed_body_names_its_model_and_arrives_as_it_was_sent() {
    let house = House::new("");
    for (encoding, compressed) in ENCODINGS {
        let body = compressed(&sized(MIB));
        let headers = [JSON, ("content-encoding", encoding)];
        let (answer, request) = house.arrives(&headers, &body);
        assert_eq!(answer.header("x-weir-model"), Some("m"), "{encoding}");
        assert_same(&request.body, &body);
        assert_eq!(request.header("content-encoding"), Some(encoding));
    }
    house.assert_settled();
}

#[test]
fn a_compressed_body_of_a_mapped_model_arrives_plain() {
    let house = House::new("");
    for (encoding, compressed) in ENCODINGS {
        let body = compressed(br#"{"x":1,"model":"mapped"}"#);
        let headers = [JSON, ("content-encoding", encoding)];
        let (_, request) = house.arrives(&headers, &body);
        assert_eq!(
            request.text(),
            r#"{"x":1,"model":"a-longer-name"}"#,
            "{encoding}"
        );
        assert_eq!(request.header("content-encoding"), None);
        assert_eq!(request.header("content-length"), Some("31"));
    }
}

#[test]
fn a_body_that_unpacks_to_more_than_the_limit_is_413() {
    let house = House::new("limits: {body_bytes: 1MiB}");
    for (encoding, compressed) in ENCODINGS {
        let headers = [JSON, ("content-encoding", encoding)];
        let (_, request) = house.arrives(&headers, &compressed(&sized(MIB)));
        assert!(request.body.len() < MIB);
        house.refuses(
            &headers,
            &compressed(&sized(MIB + 1)),
            413,
            "body_too_large",
        );
        let bomb = compressed(&vec![b' '; 64 * MIB]);
        assert!(bomb.len() < MIB, "{encoding}: {}", bomb.len());
        house.refuses(&headers, &bomb, 413, "body_too_large");
    }
    house.assert_settled();
}

#[test]
fn what_is_not_compressed_as_it_says_is_400() {
    let house = House::new("");
    for encoding in ["gzip", "zstd", "br", "deflate"] {
        let headers = [JSON, ("content-encoding", encoding)];
        house.refuses(&headers, br#"{"model":"m"}"#, 400, "invalid_request");
    }
    let cut = gzip(&sized(1000));
    let headers = [JSON, ("content-encoding", "gzip")];
    house.refuses(&headers, &cut[..cut.len() / 2], 400, "invalid_request");
    let headers = [JSON, ("content-encoding", "snappy")];
    house.refuses(&headers, br#"{"model":"m"}"#, 400, "invalid_request");
}

#[test]
fn what_follows_a_body_belongs_to_the_next_request() {
    let house = House::new("");
    let mut client = house.weir.client();
    let mut both = Vec::new();
    for n in 0..3 {
        let body = format!(r#"{{"model":"m","n":{n}}}"#);
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nHost: w\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        both.extend_from_slice(head.as_bytes());
        both.extend_from_slice(body.as_bytes());
    }
    client.send(&both);
    for n in 0..3 {
        let head = client.try_read_head();
        assert_eq!(head.map(|head| head.status), Some(200), "of answer {n}");
        assert_eq!(client.rest().0, DONE.as_bytes());
    }
    let bodies: Vec<_> = house
        .provider
        .requests()
        .iter()
        .map(Request::text)
        .collect();
    assert_eq!(
        bodies,
        [0, 1, 2].map(|n| format!(r#"{{"model":"m","n":{n}}}"#))
    );
    assert!(find(&both, b"n\":2").is_some());
}

//! weir asks for the usage of streams in the client's stead; where a provider refuses that, the client
//! doesn't notice.

use crate::streaming::Http2;
use crate::support::{Exchange, Gateway, H2Provider, Provider};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str =
    r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hi there"}]}"#;
const MISTRAL: &str = r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted","input":{"include_usage":true}}]}"#;
const AZURE: &str = r#"{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error","param":null,"code":null}}"#;
const TOO_LONG: &str = r#"{"error":{"message":"This model's maximum context length is 8192 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#;
/// With usage that nobody asked for, as some of those servers do it.
const STREAM: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a whole answer\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":7}}\n\ndata: [DONE]\n\n";

fn config(url: &str) -> String {
    with_key(url, "")
}

fn with_key(url: &str, keys: &str) -> String {
    format!("providers:\n- {{name: p, base_url: \"{url}\", models: [gpt-4o]{keys}}}\n")
}

fn asks(request: &Value) -> bool {
    request["stream_options"]["include_usage"] == true
}

fn streams(exchange: &mut Exchange) {
    exchange.stream();
    exchange.chunk(STREAM);
    exchange.end();
}

/// A refusal that announces more than comes.
fn begin_refusal(exchange: &mut Exchange) {
    let json = ("content-type", "application/json");
    exchange.head(400, &[json, ("content-length", "500")]);
    exchange.raw(AZURE);
}

/// A model server that refuses whoever asks for usage.
fn refusing(status: u16, refusal: &'static str) -> Provider {
    Provider::start(move |exchange| match asks(&exchange.request.json()) {
        true => exchange.json(status, refusal),
        false => streams(exchange),
    })
}

/// Whether the requests that came asked for usage, in order.
fn asked(provider: &Provider) -> Vec<bool> {
    let requests = provider.requests();
    requests.iter().map(|it| asks(&it.json())).collect()
}

#[test]
fn a_refusal_of_weirs_own_making_is_repeated_without_asking_and_remembered() {
    for (status, refusal) in [(422, MISTRAL), (400, AZURE), (400, "")] {
        let provider = refusing(status, refusal);
        let gateway = Gateway::start(&config(&provider.url()));
        let answer = gateway.post(CHAT, ASK);
        assert_eq!((answer.status(), answer.text()), (200, STREAM.to_owned()));
        assert_eq!(asked(&provider), [true, false], "{refusal}");
        assert_eq!(provider.requests()[1].text(), ASK, "as the client sent it");
        assert_eq!(gateway.post(CHAT, ASK).text(), STREAM);
        assert_eq!(gateway.h2_client().post(CHAT, ASK).text(), STREAM);
        assert_eq!(asked(&provider), [true, false, false, false], "remembered");
        for record in gateway.records(3) {
            assert_eq!(
                [&record["status"], &record["attempts"], &record["end"]],
                [&json!(200), &json!(1), &json!("complete")],
                "{record}"
            );
            assert_eq!(record["output_tokens"], 7, "of the answer that came");
        }
        assert_eq!(gateway.value("llm_upstream_error_total", &[]), None);
        gateway.wait_value("weir_buffered_bytes", &[], 0.0);
    }
}

#[test]
fn an_http2_client_doesnt_notice_a_refusal_either() {
    let provider = refusing(422, MISTRAL);
    let gateway = Gateway::start(&config(&provider.url()));
    assert_eq!(gateway.h2_client().post(CHAT, ASK).text(), STREAM);
    assert_eq!(asked(&provider), [true, false]);
}

#[test]
fn a_refusal_for_another_reason_goes_to_the_client_as_it_came() {
    let provider = Provider::start(|exchange| {
        if exchange.request.text().contains("chunks") {
            exchange.head(
                400,
                &[
                    ("content-type", "application/json"),
                    ("transfer-encoding", "chunked"),
                ],
            );
            for piece in TOO_LONG.as_bytes().chunks(7) {
                exchange.chunk(piece);
            }
            return exchange.end();
        }
        exchange.answer(
            400,
            &[("content-type", "application/json"), ("x-ratelimit", "7")],
            TOO_LONG.as_bytes(),
        );
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let answer = gateway.post(CHAT, ASK);
    assert_eq!((answer.status(), answer.text()), (400, TOO_LONG.to_owned()));
    assert_eq!(answer.header("x-ratelimit"), Some("7"));
    let length = TOO_LONG.len().to_string();
    assert_eq!(answer.header("content-length"), Some(&*length));
    let chunks = ASK.replace("Hi there", "chunks");
    let answer = gateway.post(CHAT, &chunks);
    assert_eq!((answer.status(), answer.text()), (400, TOO_LONG.to_owned()));
    let answer = gateway.h2_client().post(CHAT, &chunks);
    assert_eq!((answer.status, answer.text()), (400, TOO_LONG.to_owned()));
    assert_eq!(asked(&provider), [true; 3], "no request is repeated");
    for record in gateway.records(3) {
        assert_eq!(record["bytes_out"], TOO_LONG.len(), "{record}");
        assert_eq!(record["input_tokens"], Value::Null);
    }
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
}

#[test]
fn a_long_refusal_isnt_held_and_not_a_byte_of_it_is_lost() {
    let long = format!("{TOO_LONG}{}stream_options", " ".repeat(1 << 16));
    let refusal = long.clone();
    let provider = Provider::start(move |exchange| exchange.json(400, &refusal));
    let gateway = Gateway::start(&config(&provider.url()));
    assert_eq!(gateway.post(CHAT, ASK).text(), long);
    assert_eq!(gateway.h2_client().post(CHAT, ASK).text(), long);
    assert_eq!(asked(&provider), [true; 2]);
}

#[test]
fn where_the_repeated_request_is_refused_too_the_client_hears_that_and_nothing_is_remembered() {
    let provider = Provider::start(|exchange| match asks(&exchange.request.json()) {
        true => exchange.json(400, AZURE),
        false => exchange.json(400, TOO_LONG),
    });
    let gateway = Gateway::start(&config(&provider.url()));
    for _ in 0..2 {
        let answer = gateway.post(CHAT, ASK);
        assert_eq!((answer.status(), answer.text()), (400, TOO_LONG.to_owned()));
    }
    assert_eq!(asked(&provider), [true, false, true, false]);
}

#[test]
fn a_client_that_asks_for_usage_itself_hears_the_refusal() {
    let provider = refusing(422, MISTRAL);
    let gateway = Gateway::start(&config(&provider.url()));
    let mut ask: Value = serde_json::from_str(ASK).expect("JSON");
    ask["stream_options"] = json!({"include_usage": true});
    let answer = gateway.post(CHAT, ask.to_string());
    assert_eq!((answer.status(), answer.text()), (422, MISTRAL.to_owned()));
    assert_eq!(provider.requests().len(), 1);
}

#[test]
fn a_provider_is_asked_always_or_never_where_the_operator_says_so() {
    let provider = refusing(422, MISTRAL);
    let always = Gateway::start(&with_key(&provider.url(), ", include_usage: always"));
    assert_eq!(always.post(CHAT, ASK).status(), 422);
    assert_eq!(asked(&provider), [true], "and its refusal is the client's");
    provider.forget();
    let never = Gateway::start(&with_key(&provider.url(), ", include_usage: never"));
    assert_eq!(never.post(CHAT, ASK).text(), STREAM);
    assert_eq!(asked(&provider), [false]);
}

#[test]
fn a_reload_doesnt_forget_who_refuses_and_another_endpoint_is_asked_by_itself() {
    let (provider, other) = (refusing(422, MISTRAL), refusing(422, MISTRAL));
    let gateway = Gateway::start(&config(&provider.url()));
    gateway.post(CHAT, ASK);
    gateway.reload(&(config(&provider.url()) + "rate_limit: {rate: 1000}\n"));
    assert_eq!(gateway.post(CHAT, ASK).text(), STREAM);
    assert_eq!(asked(&provider), [true, false, false]);
    gateway.reload(&config(&other.url()));
    assert_eq!(gateway.post(CHAT, ASK).text(), STREAM);
    assert_eq!(asked(&other), [true, false]);
}

#[test]
fn the_model_name_of_a_target_is_kept_when_a_request_is_repeated() {
    let provider = refusing(422, MISTRAL);
    let gateway = Gateway::start(&format!(
        "providers:\n- {{name: p, base_url: \"{}\"}}\n\
         model_routes: {{gpt-4o: {{targets: [{{provider: p, model: own}}]}}}}\n",
        provider.url()
    ));
    assert_eq!(gateway.post(CHAT, ASK).text(), STREAM);
    let models = provider.requests();
    let models: Vec<_> = models.iter().map(|it| it.json()["model"].clone()).collect();
    assert_eq!(models, ["own", "own"]);
}

#[test]
fn an_http2_upstream_that_refuses_with_or_without_trailers_is_understood() {
    for (trailers, http2_client) in [(false, false), (false, true), (true, false), (true, true)] {
        let http2 = Http2::start(H2Provider::start(move |exchange| {
            let headers = [("content-type", "application/json")];
            match (exchange.text().contains("too long"), asks(&exchange.json())) {
                (true, _) => {
                    exchange.head(400, &headers);
                    exchange.data(TOO_LONG, false);
                }
                (_, true) => {
                    exchange.head(422, &headers);
                    exchange.data(MISTRAL, false);
                }
                (_, false) => {
                    exchange.stream();
                    exchange.data(STREAM, false);
                }
            }
            match trailers {
                true => exchange.trailers(),
                false => exchange.end(),
            }
        }));
        let post = |ask: &str| match http2_client {
            true => {
                let answer = http2.gateway.h2_client().post(CHAT, ask);
                (answer.status, answer.text())
            }
            false => {
                let answer = http2.gateway.post(CHAT, ask);
                (answer.status(), answer.text())
            }
        };
        let other = ASK.replace("Hi there", "too long");
        assert_eq!(post(&other), (400, TOO_LONG.to_owned()), "{trailers}");
        assert_eq!(post(ASK), (200, STREAM.to_owned()), "{trailers}");
        assert_eq!(http2.provider.requests(), 3, "one was repeated");
    }
}

#[test]
fn a_refusal_that_breaks_off_is_none_of_weirs_making() {
    let provider = Provider::start(|exchange| {
        begin_refusal(exchange);
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    gateway
        .post(CHAT, ASK)
        .assert_refused(502, "upstream_failed");
    assert_eq!(provider.requests().len(), 1);
    gateway.wait_value("weir_in_flight", &[], 0.0);
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
}

#[test]
fn a_client_that_leaves_while_a_refusal_is_held_back_leaves_nothing_behind() {
    let provider = Provider::start(|exchange| {
        begin_refusal(exchange);
        exchange.wait_end();
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    provider.wait_requests(1);
    client.close();
    provider.wait_end(0);
    let record = &gateway.records(1)[0];
    assert_eq!(record["end"], "client_closed");
    assert_eq!(record["status"], 499, "{record}");
    gateway.wait_value("weir_in_flight", &[], 0.0);
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
}

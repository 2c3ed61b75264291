//! Each token is counted once: as the upstream reports it, else as it was delivered.

use crate::support::{Client, Exchange, Gate, Gateway, Provider, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CHAT: &str = "/v1/chat/completions";
const ASK: &str =
    r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hi there"}]}"#;

fn config(url: &str) -> String {
    format!(
        "providers: [{{name: p, base_url: \"{url}\", breaker: off, \
         models: [gpt-4o, text-embedding-3-small]}}]\n"
    )
}

/// What the reference tokenizer of GPT-4o says.
fn tokens(text: &str) -> usize {
    tiktoken_rs::o200k_base_singleton()
        .encode_ordinary(text)
        .len()
}

/// What OpenAI's rules make of one message: 3, its role, its text, and 3 for the answer.
fn prompt(role: &str, text: &str) -> usize {
    3 + tokens(role) + tokens(text) + 3
}

/// A stream of one chunk.
fn streaming(exchange: &mut Exchange, stream: &str) {
    exchange.stream();
    exchange.chunk(stream);
    exchange.end();
}

#[track_caller]
fn assert_tokens(record: &Value, input: usize, output: usize, source: &str) {
    assert_eq!(
        [
            &record["input_tokens"],
            &record["output_tokens"],
            &record["token_source"]
        ],
        [&json!(input), &json!(output), &json!(source)],
        "{record}"
    );
}

#[track_caller]
fn assert_no_tokens(record: &Value) {
    for field in ["input", "output", "cached", "reasoning"] {
        assert_eq!(record[format!("{field}_tokens")], Value::Null, "{record}");
    }
    assert_eq!(record["token_source"], Value::Null, "{record}");
}

// === what the upstream reports ===

const USAGE: &str = r#"{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18,"prompt_tokens_details":{"cached_tokens":5},"completion_tokens_details":{"reasoning_tokens":3}}"#;

#[test]
fn the_usage_of_a_json_answer_is_believed() {
    let provider = Provider::start(|exchange| {
        let text =
            r#"{"role":"assistant","content":"a text of some more tokens than seven, surely"}"#;
        let choice = format!(r#"{{"index":0,"message":{text},"finish_reason":"stop"}}"#);
        exchange.json(200, &format!(r#"{{"choices":[{choice}],"usage":{USAGE}}}"#));
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let answer = gateway.post(CHAT, r#"{"model":"gpt-4o","messages":[]}"#);
    assert_eq!(
        answer.json()["usage"]["total_tokens"],
        18,
        "the client keeps it"
    );
    let record = &gateway.records(1)[0];
    assert_tokens(record, 11, 7, "upstream");
    assert_eq!(
        (&record["cached_tokens"], &record["reasoning_tokens"]),
        (&json!(5), &json!(3))
    );
    for (kind, value) in [
        ("input", 11.0),
        ("output", 7.0),
        ("cached", 5.0),
        ("reasoning", 3.0),
    ] {
        let labels = [("kind", kind), ("source", "upstream"), ("model", "gpt-4o")];
        gateway.wait_value("llm_token_usage_total", &labels, value);
    }
}

/// One chunk of a stream; `tail` is what stands behind its choices.
fn chunk(delta: &str, finish: &str, tail: &str) -> String {
    format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\
         \"choices\":[{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}]{tail}}}\n\n"
    )
}

/// The stream that a client gets who didn't ask for usage, and the one of a client who did.
fn streams() -> (String, String) {
    let whole = |tail: &str, last: &str| {
        [
            &*chunk(r#"{"role":"assistant","content":""}"#, "null", tail),
            &*chunk(r#"{"content":"Grüße, 堰 😀"}"#, "null", tail),
            &*chunk("{}", "\"stop\"", tail),
            last,
            "data: [DONE]\n\n",
        ]
        .concat()
    };
    let last = format!(
        "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"gpt-4o\",\
         \"choices\":[],\"usage\":{USAGE}}}\n\n"
    );
    (whole("", ""), whole(",\"usage\":null", &last))
}

/// A model server that does as it is asked.
fn honest() -> Provider {
    let (plain, with_usage) = streams();
    Provider::start(move |exchange| {
        let asked = exchange.request.json()["stream_options"]["include_usage"] == true;
        streaming(exchange, if asked { &with_usage } else { &plain });
    })
}

#[test]
fn usage_is_asked_for_and_taken_out_so_that_the_client_gets_the_stream_it_would_have_had() {
    let provider = honest();
    let gateway = Gateway::start(&config(&provider.url()));
    let answer = gateway.post(CHAT, ASK);
    assert_eq!(answer.text(), streams().0);
    assert!(answer.whole);
    let request = provider.only_request();
    let (mut sent, mut given) = (
        request.json(),
        serde_json::from_str::<Value>(ASK).expect("JSON"),
    );
    assert_eq!(sent["stream_options"], json!({"include_usage": true}));
    for body in [&mut sent, &mut given] {
        body.as_object_mut()
            .expect("an object")
            .remove("stream_options");
    }
    assert_eq!(sent, given, "nothing else is changed");
    let record = &gateway.records(1)[0];
    assert_tokens(record, 11, 7, "upstream");
    assert_eq!(record["bytes_in"], ASK.len(), "what the client sent");
    assert_eq!(
        record["bytes_out"],
        answer.body.len(),
        "what the client got"
    );
    assert_eq!(gateway.h2_client().post(CHAT, ASK).text(), streams().0);
}

#[test]
fn a_client_that_asks_for_usage_itself_gets_it_and_nothing_is_changed() {
    let provider = honest();
    let gateway = Gateway::start(&config(&provider.url()));
    let ask = "{ \"stream_options\" : {\"x\": 1, \"include_usage\":\ttrue}, \"model\":\"gpt-4o\",\"stream\":true,\"messages\":[]}";
    let answer = gateway.post(CHAT, ask);
    assert_eq!(answer.text(), streams().1);
    assert_eq!(provider.only_request().text(), ask);
    assert_tokens(&gateway.records(1)[0], 11, 7, "upstream");
}

#[test]
fn a_request_without_stream_is_not_changed() {
    let provider = Provider::json("{}");
    let gateway = Gateway::start(&config(&provider.url()));
    for ask in [
        r#"{ "model":"gpt-4o", "messages":[]}"#,
        r#"{ "model":"gpt-4o", "stream":false, "messages":[]}"#,
        r#"{ "model":"gpt-4o", "stream":null, "messages":[]}"#,
    ] {
        gateway.post(CHAT, ask);
        assert_eq!(provider.requests().last().expect("a request").text(), ask);
    }
}

#[test]
fn the_options_of_a_stream_are_kept_when_usage_is_asked_for() {
    let provider = honest();
    let gateway = Gateway::start(&config(&provider.url()));
    for (given, sent) in [
        ("{}", json!({"include_usage": true})),
        ("null", json!({"include_usage": true})),
        (r#"{"include_usage":false}"#, json!({"include_usage": true})),
        (r#"{"include_usage":null}"#, json!({"include_usage": true})),
        (
            r#"{"include_obfuscation":false}"#,
            json!({"include_obfuscation": false, "include_usage": true}),
        ),
        (
            r#"{"a":{"include_usage":true},"include_usage":false,"z":[1]}"#,
            json!({"a": {"include_usage": true}, "include_usage": true, "z": [1]}),
        ),
    ] {
        let ask =
            format!(r#"{{"model":"gpt-4o","stream_options":{given},"stream":true,"messages":[]}}"#);
        assert_eq!(gateway.post(CHAT, ask).text(), streams().0, "{given}");
        let request = provider.requests().pop().expect("a request");
        assert_eq!(request.json()["stream_options"], sent, "{given}");
        let length = request.header("content-length").expect("a length");
        assert_eq!(length, request.body.len().to_string(), "{given}");
    }
}

#[test]
fn usage_on_the_finish_chunk_is_taken_out_and_the_finish_reason_stays() {
    let with = chunk("{\"content\":\"one\"}", "null", "")
        + &chunk("{}", "\"length\"", &format!(",\"usage\":{USAGE}"))
        + "data: [DONE]\n\n";
    let without = chunk("{\"content\":\"one\"}", "null", "")
        + &chunk("{}", "\"length\"", "")
        + "data: [DONE]\n\n";
    let provider = Provider::start(move |exchange| streaming(exchange, &with));
    let gateway = Gateway::start(&config(&provider.url()));
    assert_eq!(gateway.post(CHAT, ASK).text(), without);
    assert_tokens(&gateway.records(1)[0], 11, 7, "upstream");
}

#[test]
fn usage_on_each_chunk_counts_once_and_the_last_one_wins() {
    let usage = |output: usize| {
        format!(
            ",\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{output},\"total_tokens\":{}}}",
            9 + output
        )
    };
    let stream = |usage: &dyn Fn(usize) -> String| {
        chunk("{\"content\":\"one\"}", "null", &usage(1))
            + &chunk("{\"content\":\" two\"}", "null", &usage(2))
            + &chunk("{}", "\"stop\"", &usage(3))
            + "data: [DONE]\n\n"
    };
    let with = stream(&usage);
    let provider = Provider::start(move |exchange| streaming(exchange, &with));
    let gateway = Gateway::start(&config(&provider.url()));
    assert_eq!(gateway.post(CHAT, ASK).text(), stream(&|_| String::new()));
    assert_tokens(&gateway.records(1)[0], 9, 3, "upstream");
    gateway.wait_value("llm_token_usage_total", &[("kind", "output")], 3.0);
}

// === what is counted ===

#[test]
fn a_json_answer_without_usage_is_counted_as_the_reference_tokenizer_would() {
    const TEXT: &str =
        "Ein Wehr staut den Fluß; 堰は川を測る。 fn main() { println!(\"😀\"); }\n\n  1234567";
    let message = json!({"role": "assistant", "content": TEXT});
    let body = json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
    let provider = Provider::start(move |exchange| exchange.json(200, &body.to_string()));
    let gateway = Gateway::start(&config(&provider.url()));
    let ask = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": TEXT}]});
    gateway.post(CHAT, ask.to_string());
    assert_tokens(
        &gateway.records(1)[0],
        prompt("user", TEXT),
        tokens(TEXT),
        "counted",
    );
}

#[test]
fn a_stream_without_usage_is_counted_as_one_text() {
    const PIECES: [&str; 7] = ["Unbe", "liev", "able", " tok", "en", "iz", "ation 堰堰"];
    let provider = Provider::start(|exchange| {
        exchange.stream();
        for piece in PIECES {
            exchange.chunk(chunk(&json!({"content": piece}).to_string(), "null", ""));
        }
        exchange.chunk(chunk("{}", "\"stop\"", "") + "data: [DONE]\n\n");
        exchange.end();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    gateway.post(CHAT, ASK);
    let record = &gateway.records(1)[0];
    assert_tokens(
        record,
        prompt("user", "Hi there"),
        tokens(&PIECES.concat()),
        "counted",
    );
    assert_eq!(record["end"], "complete");
}

#[test]
fn a_family_without_a_public_vocabulary_is_estimated_and_says_so() {
    let provider = Provider::json(
        r#"{"choices":[{"index":0,"message":{"content":"one two"},"finish_reason":"stop"}]}"#,
    );
    let gateway = Gateway::start(&format!(
        "model_routes: {{\"qwen*\": \"{}\"}}\n",
        provider.url()
    ));
    gateway.post(CHAT, r#"{"model":"qwen-max","messages":[]}"#);
    assert_eq!(gateway.records(1)[0]["token_source"], "estimated");
}

#[test]
fn a_client_that_leaves_pays_for_what_was_delivered_and_for_no_more() {
    let left = Gate::new();
    let gate = left.clone();
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        exchange.chunk(chunk(
            r#"{"content":"Only this was delivered"}"#,
            "null",
            "",
        ));
        exchange.wait(&gate);
        exchange.wait_end();
        // Nobody is there to take it.
        exchange.chunk(chunk(r#"{"content":", and this was not"}"#, "null", ""));
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    client.read_head();
    client.read_text_until("delivered\"");
    client.close();
    left.open();
    let record = &gateway.records(1)[0];
    assert_eq!(record["end"], "client_closed");
    let delivered = tokens("Only this was delivered");
    assert_tokens(record, prompt("user", "Hi there"), delivered, "counted");
    #[expect(clippy::cast_precision_loss, reason = "a few tokens")]
    let delivered = delivered as f64;
    let labels = [("kind", "output"), ("source", "counted")];
    gateway.wait_value("llm_token_usage_total", &labels, delivered);
}

#[test]
fn a_client_that_leaves_before_the_answer_pays_for_its_prompt() {
    let provider = Provider::start(|exchange| {
        exchange.wait_end();
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    provider.wait_requests(1);
    client.close();
    let record = &gateway.records(1)[0];
    let prompt = weir::tokens::prompt::prompt_tokens(
        weir::tokens::prompt::Api::Chat,
        "gpt-4o",
        ASK.as_bytes(),
    );
    assert_eq!(record["input_tokens"], prompt);
    assert_eq!(record["output_tokens"], 0);
    assert_eq!(record["token_source"], "counted");
}

#[test]
fn a_client_that_leaves_after_the_usage_pays_what_the_upstream_says() {
    let (_, with_usage) = streams();
    let without_done = with_usage.replace("data: [DONE]\n\n", "");
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        exchange.chunk(&without_done);
        exchange.wait_end();
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    client.read_head();
    client.read_text_until("\"stop\"");
    client.close();
    let record = &gateway.records(1)[0];
    assert_eq!(record["end"], "client_closed");
    assert_tokens(record, 11, 7, "upstream");
}

#[test]
fn a_compressed_prompt_is_counted_like_a_plain_one() {
    use std::io::Write;
    let provider = Provider::json(r#"{"choices":[]}"#);
    let gateway = Gateway::start(&config(&provider.url()));
    let text = "a prompt that is compressed ".repeat(50);
    let ask = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]});
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(ask.to_string().as_bytes()).expect("memory");
    let body = gzip.finish().expect("memory");
    let headers = [
        ("content-type", "application/json"),
        ("content-encoding", "gzip"),
    ];
    assert_eq!(gateway.post_with(CHAT, &headers, &body).status(), 200);
    let record = &gateway.records(1)[0];
    assert_tokens(record, prompt("user", &text), 0, "counted");
    assert_eq!(record["bytes_in"], body.len());
}

#[test]
fn what_came_before_a_break_is_counted_once() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.chunk(chunk(r#"{"content":"half an answer"}"#, "null", ""));
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    gateway.post(CHAT, ASK);
    let record = &gateway.records(1)[0];
    assert_eq!(
        (&record["end"], &record["status"]),
        (&json!("upstream_broke"), &json!(200))
    );
    assert_tokens(
        record,
        prompt("user", "Hi there"),
        tokens("half an answer"),
        "counted",
    );
}

// === other surfaces ===

#[test]
fn completions_are_metered_reported_and_counted() {
    const TEXT: &str = " there was a weir";
    let provider = Provider::start(|exchange| {
        let choice = format!(r#"{{"index":0,"text":"{TEXT}","finish_reason":"stop"}}"#);
        let usage = match exchange.request.text().contains("report") {
            true => r#","usage":{"prompt_tokens":4,"completion_tokens":5,"total_tokens":9}"#,
            false => "",
        };
        let body = format!(r#"{{"choices":[{choice}]{usage}}}"#);
        match exchange.request.json()["stream"] == true {
            true => streaming(exchange, &format!("data: {body}\n\ndata: [DONE]\n\n")),
            false => exchange.json(200, &body),
        }
    });
    let gateway = Gateway::start(&config(&provider.url()));
    for stream in [false, true] {
        let ask = |prompt: &str| {
            json!({"model": "gpt-4o", "prompt": prompt, "stream": stream}).to_string()
        };
        let before = gateway.records_now().len();
        gateway.post("/v1/completions", ask("report"));
        let records = gateway.records(before + 1);
        assert_tokens(&records[before], 4, 5, "upstream");
        gateway.post("/v1/completions", ask("Once upon a time"));
        let records = gateway.records(before + 2);
        let (input, output) = (tokens("Once upon a time"), tokens(TEXT));
        assert_tokens(&records[before + 1], input, output, "counted");
    }
}

#[test]
fn embeddings_are_metered_reported_and_counted() {
    let provider = Provider::start(|exchange| {
        let usage = match exchange.request.text().contains("report") {
            true => r#","usage":{"prompt_tokens":4,"total_tokens":4}"#,
            false => "",
        };
        let data = r#"[{"object":"embedding","index":0,"embedding":[0.1,0.2]}]"#;
        exchange.json(200, &format!(r#"{{"object":"list","data":{data}{usage}}}"#));
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let cl100k = |text: &str| {
        tiktoken_rs::cl100k_base_singleton()
            .encode_ordinary(text)
            .len()
    };
    let cases = [
        (json!("report"), 4, "upstream"),
        (
            json!("a river of text"),
            cl100k("a river of text"),
            "counted",
        ),
        (
            json!(["a river", "堰"]),
            cl100k("a river") + cl100k("堰"),
            "counted",
        ),
        (json!([1, 2, 3]), 3, "counted"),
    ];
    for (number, (input, tokens, source)) in cases.into_iter().enumerate() {
        let ask = json!({"model": "text-embedding-3-small", "input": input});
        gateway.post("/v1/embeddings", ask.to_string());
        let records = gateway.records(number + 1);
        let record = &records[number];
        assert_tokens(record, tokens, 0, source);
    }
}

// === what is no usage ===

#[test]
fn refusals_of_the_upstream_have_no_tokens() {
    for status in [400, 401, 404, 429, 500, 503] {
        let provider = Provider::start(move |exchange| {
            exchange.json(
                status,
                &format!(r#"{{"error":{{"message":"no"}},"usage":{USAGE}}}"#),
            );
        });
        let gateway = Gateway::start(&config(&provider.url()));
        assert_eq!(gateway.post(CHAT, ASK).status(), status);
        let record = &gateway.records(1)[0];
        assert_eq!(record["status"], status);
        assert_no_tokens(record);
        assert_eq!(
            gateway.value("llm_token_usage_total", &[]),
            None,
            "{status}"
        );
    }
}

// === books that balance ===

#[test]
fn the_metric_is_the_sum_of_the_records() {
    let (plain, with_usage) = streams();
    let provider = Provider::start(move |exchange| {
        let text = exchange.request.text();
        let asked = exchange.request.json()["stream_options"]["include_usage"] == true;
        match () {
            () if text.contains("fail") => exchange.json(500, "{}"),
            () if text.contains("leave") => {
                exchange.stream();
                exchange.chunk(chunk(r#"{"content":"a few words"}"#, "null", ""));
                exchange.wait_end();
                exchange.close();
            }
            () if text.contains("break") => {
                exchange.stream();
                exchange.chunk(chunk(r#"{"content":"a few words more"}"#, "null", ""));
                exchange.close();
            }
            () if text.contains("silent") => streaming(exchange, &plain),
            () => streaming(exchange, if asked { &with_usage } else { &plain }),
        }
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let kinds = ["ok", "fail", "leave", "break", "silent", "nobody"];
    let rounds = 4;
    for _ in 0..rounds {
        for kind in kinds {
            let model = if kind == "nobody" {
                "unknown"
            } else {
                "gpt-4o"
            };
            let messages = json!([{"role": "user", "content": kind}]);
            let ask = json!({"model": model, "stream": true, "messages": messages}).to_string();
            if kind == "leave" {
                let mut client = gateway.client();
                client.post(CHAT, ask);
                client.read_head();
                client.read_text_until("words");
                client.close();
            } else {
                gateway.post(CHAT, ask);
            }
        }
    }
    let records = gateway.records(rounds * kinds.len());
    assert_eq!(records.len(), rounds * kinds.len());
    let mut sums: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for record in &records {
        let Some(source) = record["token_source"].as_str() else {
            continue;
        };
        for kind in ["input", "output", "cached", "reasoning"] {
            *sums.entry((kind, source)).or_default() +=
                record[format!("{kind}_tokens")].as_u64().expect("a number");
        }
    }
    assert!(
        sums[&("output", "upstream")] > 0 && sums[&("output", "counted")] > 0,
        "{sums:?}"
    );
    for ((kind, source), sum) in sums {
        #[expect(clippy::cast_precision_loss, reason = "some hundred tokens")]
        let sum = sum as f64;
        let labels = [("kind", kind), ("source", source)];
        assert_eq!(
            gateway
                .value("llm_token_usage_total", &labels)
                .unwrap_or(0.0),
            sum,
            "{labels:?}"
        );
    }
    #[expect(clippy::cast_precision_loss, reason = "some requests")]
    let count = records.len() as f64;
    gateway.wait_value("llm_requests_total", &[], count);
}

#[test]
fn no_text_of_a_client_becomes_a_label() {
    let provider =
        Provider::json(r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#);
    let url = provider.url();
    let gateway = Gateway::start(&format!(
        "model_routes: {{\"gpt-*\": \"{url}\", fast: gpt-4o}}\n\
         target_map: {{\"/v1/search\": \"{url}\"}}\n\
         providers: [{{name: rest, base_url: \"{url}\"}}]\n\
         routing: {{default_provider: rest}}\n"
    ));
    for (path, model) in [
        (CHAT, "gpt-from-client-1"),
        (CHAT, "fast"),
        (CHAT, "from-client-2"),
        ("/v1/search", "from-client-3"),
        ("/from-client-4", "from-client-5\\\"}"),
    ] {
        let ask = format!(r#"{{"model":"{model}","messages":[],"input":"x"}}"#);
        assert_eq!(gateway.post(path, ask).status(), 200, "{path} {model}");
    }
    gateway.wait_value("llm_requests_total", &[("model", "gpt-*")], 2.0);
    gateway.wait_value("llm_requests_total", &[("model", "other")], 3.0);
    gateway.wait_value(
        "llm_token_usage_total",
        &[("model", "gpt-*"), ("kind", "input")],
        2.0,
    );
    let metrics = gateway.metrics();
    assert!(!metrics.contains("from-client"), "{metrics}");
}

// === one record a request ===

#[test]
fn each_request_has_one_record_however_it_ends() {
    let provider = Provider::start(|exchange| match exchange.request.target.as_str() {
        CHAT if exchange.request.text().contains("leave") => {
            exchange.wait_end();
            exchange.close();
        }
        CHAT if exchange.request.text().contains("break") => exchange.close(),
        "/v1/realtime" => {
            exchange.head(101, &[("connection", "upgrade"), ("upgrade", "websocket")]);
            exchange.raw(b"hello");
            exchange.wait_end();
            exchange.close();
        }
        _ if exchange.request.method == "HEAD" => exchange.head(200, &[("content-length", "5")]),
        _ => exchange.json(200, "{}"),
    });
    let url = provider.url();
    let gateway = Gateway::start(&format!(
        "model_routes: {{gpt-4o: \"{url}\"}}\n\
         target_map: {{\"/v1/realtime\": \"{url}\", \"/v1/files\": \"{url}\"}}\n"
    ));
    let ask = |word: &str| format!(r#"{{"model":"gpt-4o","messages":[],"user":"{word}"}}"#);
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    let mut expect = |end: &'static str| *expected.entry(end).or_default() += 1;

    gateway.post(CHAT, ask("ok"));
    expect("complete");
    gateway.post(CHAT, "{");
    expect("refused:invalid_json");
    gateway.post(CHAT, r#"{"model":"unknown"}"#);
    expect("refused:model_not_found");
    gateway.get("/nowhere");
    expect("refused:no_route");
    gateway.post(CHAT, ask("break"));
    expect("refused:upstream_failed");
    gateway.get("/v1/models");
    expect("complete");
    // A probe is no traffic.
    gateway.get("/healthz");

    let mut client = gateway.client();
    client.request("HEAD", "/v1/files", &[], b"");
    assert_eq!(client.answer_to("HEAD").status(), 200);
    expect("complete");
    // The same connection, again: a record each.
    client.request("GET", "/v1/files", &[], b"");
    assert_eq!(client.answer().status(), 200);
    expect("complete");
    client.close();

    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\nHost: x\n\n");
    client.read_to_end();
    expect("refused:invalid_request");

    let leaving = |count: usize| {
        eventually("the model server to have the request", || {
            let requests = provider.requests();
            let leaving = requests
                .iter()
                .filter(|request| request.text().contains("leave"));
            (leaving.count() == count).then_some(())
        });
    };
    let http2 = gateway.h2_client();
    http2.post(CHAT, ask("ok"));
    expect("complete");
    http2.post_and_cancel(CHAT, ask("leave"), || {
        leaving(1);
    });
    expect("client_closed");
    let mut client = gateway.client();
    client.post(CHAT, ask("leave"));
    leaving(2);
    client.reset();
    expect("client_closed");

    let mut client = upgraded(&gateway);
    assert_eq!(client.read_raw(5), b"hello");
    client.close();

    let count = expected.values().sum::<usize>() + 1;
    let records = gateway.records(count);
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for record in records
        .iter()
        .filter(|record| record["path"] != "/v1/realtime")
    {
        *found
            .entry(record["end"].as_str().expect("a text"))
            .or_default() += 1;
    }
    assert_eq!(found, expected);
    let upgrade: Vec<_> = records
        .iter()
        .filter(|it| it["path"] == "/v1/realtime")
        .collect();
    assert_eq!(upgrade.len(), 1);
    assert_eq!(upgrade[0]["status"], 101, "{}", upgrade[0]);
    // No second record comes late.
    gateway.wait_value("weir_in_flight", &[], 0.0);
    gateway.wait_value("weir_connections", &[], 1.0);
    #[expect(clippy::cast_precision_loss, reason = "some requests")]
    let requests = count as f64;
    gateway.wait_value("llm_requests_total", &[], requests);
    assert_eq!(gateway.records_now().len(), count);
}

#[test]
fn a_client_that_leaves_at_any_moment_is_recorded_as_that_and_no_upstream_is_blamed() {
    let provider = Provider::start(|exchange| {
        exchange.wait_end();
        exchange.close();
    });
    let gateway = Gateway::start(
        &(config(&provider.url())
            + "logging: {level: debug, file: {path: \"{folder}/access.log\"}}\n"),
    );
    let rounds = 20;
    for _ in 0..rounds {
        let mut client = gateway.client();
        client.post(CHAT, ASK);
        client.close();
        // What these two sent may be gone before it is read: then there is no request.
        let mut client = gateway.client();
        client.post(CHAT, ASK);
        client.reset();
        gateway.h2_client().post_and_cancel(CHAT, ASK, || {});
    }
    gateway.records(rounds);
    gateway.wait_value("weir_in_flight", &[], 0.0);
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for record in gateway.records_now() {
        *ends
            .entry(format!("{} {}", record["status"], record["end"]))
            .or_default() += 1;
    }
    let ends: Vec<_> = ends.into_iter().collect();
    let blamed = |record: &Value| record["end"] != "client_closed";
    let other = gateway.records_now().into_iter().find(blamed);
    assert_eq!(ends.len(), 1, "{ends:?}, such as {other:?}");
    assert_eq!(ends[0].0, "499 \"client_closed\"", "{ends:?}");
    assert_eq!(gateway.value("llm_upstream_error_total", &[]), None);
}

fn upgraded(gateway: &Gateway) -> Client {
    let mut client = gateway.client();
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    client.send_head("GET", "/v1/realtime", &headers);
    assert_eq!(client.read_head().status, 101);
    client
}

// === long answers ===

#[test]
fn a_long_answer_that_breaks_is_counted_to_its_last_word() {
    let words = ["water", " über", " \\n", "漢字", " 12345", " the"];
    let long = "over the crest, ".repeat(20_000);
    let mut stream = vec![chunk(&format!(r#"{{"content":"{long}"}}"#), "null", "")];
    let mut text = long;
    for turn in 0..4000 {
        let word = words[turn * 7 % 11 % words.len()];
        stream.push(chunk(&format!(r#"{{"content":"{word}"}}"#), "null", ""));
        text.push_str(&word.replace("\\n", "\n"));
    }
    let provider = Provider::start(move |exchange| {
        exchange.stream();
        for part in stream.chunks(100) {
            exchange.chunk(part.concat());
        }
        exchange.close();
    });
    let gateway = Gateway::start(&config(&provider.url()));
    gateway.post(CHAT, ASK);
    let record = &gateway.records(1)[0];
    assert_tokens(record, prompt("user", "Hi there"), tokens(&text), "counted");
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
}

#[test]
fn what_cannot_be_counted_is_not_called_counted() {
    let provider = Provider::start(|exchange| {
        exchange.stream();
        exchange.chunk(chunk(r#"{"content":"half an answer"}"#, "null", ""));
        exchange.close();
    });
    let url = provider.url();
    let gateway = Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{url}\", breaker: off, models: [\"*\"]}}]\n"
    ));
    let image = json!([{"type": "image_url", "image_url": {"url": "https://a.test/weir.png"}}]);
    let file = json!([{"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD"}}]);
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let chat = |model: &str, content: Value| json!({"model": model, "stream": true, "messages": [{"role": "user", "content": content}]});
    let with_tools = |mut ask: Value| {
        ask["tools"] = tools.clone();
        ask
    };
    let response =
        |more: &str| json!({"model": "gpt-4o", "stream": true, "input": "Hi", more: "resp_1"});
    const RESPONSES: &str = "/v1/responses";
    let cases = [
        (CHAT, chat("gpt-4o", json!("Hi")), "counted"),
        (CHAT, chat("o3", json!("Hi")), "estimated"),
        (CHAT, chat("gpt-5", json!("Hi")), "estimated"),
        (CHAT, chat("gpt-4o", image), "estimated"),
        (CHAT, chat("gpt-4o", file), "estimated"),
        (CHAT, with_tools(chat("gpt-4o", json!("Hi"))), "estimated"),
        (RESPONSES, response("metadata"), "counted"),
        (RESPONSES, response("previous_response_id"), "estimated"),
        (RESPONSES, response("conversation"), "estimated"),
    ];
    for (at, (path, ask, source)) in cases.into_iter().enumerate() {
        gateway.post(path, ask.to_string());
        let record = &gateway.records(at + 1)[at];
        assert_eq!(record["token_source"], source, "{ask}: {record}");
    }
}

// === what a meter holds ===

/// An event of 400 KB, in two halves.
fn long_event() -> (String, String) {
    let content = "over the crest, ".repeat(25_000);
    let event = chunk(
        &format!(r#"{{"content":"{content}"}}"#),
        "null",
        r#","usage":null"#,
    );
    let (left, right) = event.split_at(event.len() / 2);
    (left.to_owned(), right.to_owned())
}

#[test]
fn an_event_that_is_held_is_among_the_buffered_bytes() {
    let gate = Gate::new();
    let provider = Provider::start({
        let gate = gate.clone();
        move |exchange| {
            let (left, right) = long_event();
            exchange.stream();
            exchange.chunk(left);
            exchange.wait(&gate);
            exchange.chunk(right);
            exchange.chunk("data: [DONE]\n\n");
            exchange.end();
        }
    });
    let gateway = Gateway::start(&config(&provider.url()));
    let mut client = gateway.client();
    client.post(CHAT, ASK);
    eventually("half an event is held", || {
        let held = gateway.value("weir_buffered_bytes", &[]).unwrap_or(0.0);
        (held >= 200_000.0).then_some(())
    });
    gate.open();
    let answer = client.answer();
    let (left, right) = long_event();
    let expected = format!("{left}{right}data: [DONE]\n\n").replace(r#","usage":null"#, "");
    assert!(answer.text() == expected, "its usage is taken out");
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
}

#[test]
fn where_weir_may_hold_no_more_an_event_passes_unedited_and_its_text_is_estimated() {
    let provider = Provider::start(|exchange| {
        let (left, right) = long_event();
        exchange.stream();
        exchange.chunk(left);
        exchange.chunk(right);
        exchange.chunk("data: [DONE]\n\n");
        exchange.end();
    });
    let limits = "limits: {buffered_bytes: 64KiB}";
    let gateway = Gateway::start(&format!("{}{limits}\n", config(&provider.url())));
    let answer = gateway.post(CHAT, ASK);
    let (left, right) = long_event();
    assert!(
        answer.text() == format!("{left}{right}data: [DONE]\n\n"),
        "not a byte differs"
    );
    let record = &gateway.records(1)[0];
    assert_eq!(
        (&record["end"], &record["token_source"]),
        (&json!("complete"), &json!("estimated"))
    );
    let output = record["output_tokens"].as_u64().unwrap_or(0) as usize;
    let text = tokens(&"over the crest, ".repeat(25_000));
    assert!(output.abs_diff(text) < text / 4, "{output}, not {text}");
    gateway.wait_value("weir_buffered_bytes", &[], 0.0);
}

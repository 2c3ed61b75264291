//! Books that balance: of very many streams, half of them cut by their clients, each token that was
//! delivered is counted once.
//!
//! Delivered is what weir had handed to the client's connection when the client left. So that this can
//! be known from outside, the model server writes a delta only when the client has read the one before.

use crate::support::gate::Board;
use crate::support::{Exchange, Gateway, Provider};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const CHAT: &str = "/v1/chat/completions";
const STREAMS: usize = 2000;
const CLIENTS: usize = 100;
const DELTAS_MAX: usize = 4;
const SEED: u64 = 7;

/// What becomes of one stream.
struct Stream {
    deltas: usize,
    /// The client leaves when it has read so many; `None` reads all.
    cut: Option<usize>,
    /// The model server reports usage at the end.
    reports: bool,
    progress: Board<Progress>,
}

#[derive(Default)]
struct Progress {
    asked: bool,
    read: usize,
    /// Deltas that the model server has written.
    written: usize,
}

impl Stream {
    fn plan(number: usize, chance: &mut StdRng) -> Self {
        let deltas = chance.random_range(1..=DELTAS_MAX);
        let cut = number
            .is_multiple_of(2)
            .then(|| chance.random_range(0..=deltas));
        Self {
            deltas,
            cut,
            reports: number % 4 == 1,
            progress: Board::default(),
        }
    }

    /// The model server's side.
    fn serve(&self, number: usize, exchange: &mut Exchange) {
        self.progress.change(|it| it.asked = true);
        let last = self.cut.unwrap_or(self.deltas);
        if last > 0 || self.cut.is_none() {
            exchange.stream();
        }
        for delta in 0..last {
            self.progress
                .wait("the client to read", |it| (it.read == delta).then_some(()));
            self.progress.change(|it| it.written += 1);
            exchange.event(&chunk(&word(number, delta), "null"));
        }
        if self.cut.is_some() {
            exchange.wait_end();
            return exchange.close();
        }
        exchange.event(&chunk("", "\"stop\""));
        if self.reports {
            let (input, output) = reported(number);
            exchange.event(&format!(
                r#"{{"choices":[],"usage":{{"prompt_tokens":{input},"completion_tokens":{output}}}}}"#
            ));
        }
        exchange.event("[DONE]");
        exchange.end();
    }

    /// The tokens that weir must have recorded, by what the model server has written.
    fn due(&self, number: usize, ask: &str) -> (usize, usize) {
        if self.reports {
            return reported(number);
        }
        let written = self.progress.lock().written;
        let text: String = (0..written).map(|delta| word(number, delta)).collect();
        let api = weir::tokens::prompt::Api::Chat;
        let prompt = weir::tokens::prompt::prompt_tokens(api, "gpt-4o", ask.as_bytes());
        let output = tiktoken_rs::o200k_base_singleton().encode_ordinary(&text);
        (usize::try_from(prompt).expect("few"), output.len())
    }
}

fn word(number: usize, delta: usize) -> String {
    ["Wehr", " des Flu", "sses 堰", " measured"][(number + delta) % 4].to_owned()
}

/// What the model server says that it used: nothing that could be counted.
fn reported(number: usize) -> (usize, usize) {
    (1000 + number, 10_000 + number)
}

fn chunk(text: &str, finish: &str) -> String {
    format!(
        r#"{{"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish}}}]}}"#
    )
}

fn id(number: usize) -> String {
    format!("01920000-0000-7000-8000-{number:012}")
}

fn ask(number: usize) -> String {
    format!(
        r#"{{"model":"gpt-4o","stream":true,"messages":[{{"role":"user","content":"stream {number}"}}]}}"#
    )
}

/// The client's side of one stream.
fn run(gateway: &Gateway, number: usize, stream: &Stream) {
    let mut client = gateway.client();
    let (id, ask) = (id(number), ask(number));
    let headers = [("content-type", "application/json"), ("x-request-id", &*id)];
    client.request("POST", CHAT, &headers, ask.as_bytes());
    let last = stream.cut.unwrap_or(stream.deltas);
    if last == 0 {
        stream
            .progress
            .wait("the model server to be asked", |it| it.asked.then_some(()));
    } else {
        client.read_head();
    }
    for delta in 0..last {
        client.read_text_until(&format!("\"{}\"", word(number, delta)));
        stream.progress.change(|it| it.read += 1);
    }
    if stream.cut.is_none() {
        client.read_text_until("[DONE]");
        assert!(client.rest().1, "a whole answer");
    }
    // Half of those who leave do so with a reset.
    match number % 4 {
        0 => client.reset(),
        _ => client.close(),
    }
}

#[test]
fn of_two_thousand_streams_half_of_them_cut_each_delivered_token_is_counted_once() {
    let mut chance = StdRng::seed_from_u64(SEED);
    let streams: Arc<Vec<Stream>> = Arc::new(
        (0..STREAMS)
            .map(|number| Stream::plan(number, &mut chance))
            .collect(),
    );
    let served = Arc::clone(&streams);
    let provider = Provider::start(move |exchange| {
        let id = exchange.request.header("x-request-id").expect("an id");
        let number: usize = id[24..].parse().expect("a number");
        served[number].serve(number, exchange);
    });
    let gateway = Gateway::start(&format!(
        "model_routes: {{gpt-4o: \"{}\"}}\ntrusted_proxies: [127.0.0.0/8]\n",
        provider.url()
    ));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(stream) = streams.get(number) else {
                        return;
                    };
                    run(&gateway, number, stream);
                }
            });
        }
    });
    let records = gateway.records(STREAMS);
    let records: HashMap<&str, &Value> = records
        .iter()
        .map(|record| (record["request_id"].as_str().expect("an id"), record))
        .collect();
    assert_eq!(records.len(), STREAMS, "one record a request");
    let mut sums: HashMap<(&str, &str), usize> = HashMap::new();
    for (number, stream) in streams.iter().enumerate() {
        let record = records[&*id(number)];
        let (input, output) = stream.due(number, &ask(number));
        let source = if stream.reports {
            "upstream"
        } else {
            "counted"
        };
        let end = match stream.cut {
            Some(_) => "client_closed",
            None => "complete",
        };
        assert_eq!(
            [
                &record["end"],
                &record["token_source"],
                &record["input_tokens"],
                &record["output_tokens"]
            ],
            [&json!(end), &json!(source), &json!(input), &json!(output)],
            "stream {number}, cut at {:?} of {}: {record}",
            stream.cut,
            stream.deltas
        );
        *sums.entry(("input", source)).or_default() += input;
        *sums.entry(("output", source)).or_default() += output;
    }
    for ((kind, source), sum) in sums {
        let labels = [("kind", kind), ("source", source)];
        #[expect(clippy::cast_precision_loss, reason = "some million tokens")]
        gateway.wait_value("llm_token_usage_total", &labels, sum as f64);
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousand requests")]
    gateway.wait_value("llm_requests_total", &[], STREAMS as f64);
    for gauge in [
        "weir_in_flight",
        "weir_streams",
        "weir_buffered_bytes",
        "weir_connections",
    ] {
        gateway.wait_value(gauge, &[], 0.0);
    }
    assert_eq!(gateway.value("llm_upstream_error_total", &[]), None);
    assert_eq!(gateway.records_now().len(), STREAMS);
}

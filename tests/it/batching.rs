//! Requests for one embedding each that become one call: each gets its own embedding and its part of what
//! was used, and whatever goes wrong with the call, none pays for another.

use crate::keys::sha256;
use crate::sdk;
use crate::streaming::Http2;
use crate::support::{
    Answer, Client, Exchange, Folder, Gate, Gateway, H2Provider, Launch, Provider,
};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

const PATH: &str = "/v1/embeddings";
/// One of them that waits longer than any test takes is sent because all are there.
const LONG: &str = "window: 1s";

fn ask(input: &str) -> String {
    json!({"model": "e", "input": input}).to_string()
}

/// What a model server answers to these inputs: of each its length, and 13 tokens that nobody counts so.
fn vectors(asked: &Value) -> String {
    let base64 = asked["encoding_format"] == "base64";
    let inputs = match &asked["input"] {
        Value::Array(all) => all.clone(),
        one => vec![one.clone()],
    };
    let embedding = |input: &Value| {
        let length = input.as_str().map_or(0, str::len);
        match base64 {
            // Little-endian floats, as OpenAI has them: the length in the first byte.
            true => json!(data_encoding(&[length as f32, 1.0])),
            false => json!([length, 1.0]),
        }
    };
    let data: Vec<Value> = (inputs.iter().enumerate())
        .map(|(index, it)| json!({"object": "embedding", "index": index, "embedding": embedding(it)}))
        .rev()
        .collect();
    let tokens = 13 * inputs.len() + 1;
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    json!({"object": "list", "data": data, "model": "e-2", "usage": usage}).to_string()
}

fn data_encoding(floats: &[f32]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = floats.iter().flat_map(|it| it.to_le_bytes()).collect();
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..4 {
            match place <= three.len() {
                true => text.push(LETTERS[(bits >> (18 - 6 * place) & 63) as usize] as char),
                false => text.push('='),
            }
        }
    }
    text
}

fn embedding(exchange: &mut Exchange) {
    let asked = exchange.request.json();
    exchange.json(200, &vectors(&asked));
}

fn start(url: &str, batch: &str) -> Gateway {
    start_with(url, batch, "")
}

fn start_with(url: &str, batch: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "model_routes: {{e: {{url: \"{url}\", batch: {{{batch}}}{more}}}}}\n"
    ))
}

/// Sends all, and only then looks at the answers.
#[track_caller]
fn together(gateway: &Gateway, bodies: &[String]) -> Vec<Answer> {
    let mut clients: Vec<Client> = bodies.iter().map(|body| sent(gateway, body)).collect();
    clients.iter_mut().map(Client::answer).collect()
}

#[track_caller]
fn sent(gateway: &Gateway, body: &str) -> Client {
    let mut client = gateway.client();
    client.post(PATH, body);
    client
}

#[track_caller]
fn assert_embedded(answer: &Answer, input: &str) {
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let answer = answer.json();
    let expected = json!([{"object": "embedding", "index": 0, "embedding": [input.len(), 1.0]}]);
    assert_eq!(answer["data"], expected, "{input}");
    assert_eq!([&answer["object"], &answer["model"]], ["list", "e-2"]);
}

#[track_caller]
fn assert_batches(gateway: &Gateway, outcome: &str, count: f64) {
    let labels = [("model", "e"), ("outcome", outcome)];
    gateway.wait_value("weir_batches_total", &labels, count);
}

#[track_caller]
fn assert_nothing_is_left(gateway: &Gateway) {
    for gauge in ["weir_in_flight", "weir_buffered_bytes"] {
        gateway.wait_value(gauge, &[], 0.0);
    }
}

const INPUTS: [&str; 4] = [
    "a",
    "a few words",
    "\"quoted\" \\ 堰",
    "the longest of all of these inputs",
];

#[test]
fn requests_that_come_together_are_one_call_and_have_their_own_answers() {
    let provider = Provider::start(embedding);
    let gateway = start(&provider.url(), &format!("{LONG}, size: 4"));
    let answers = together(&gateway, &INPUTS.map(ask));
    for (answer, input) in answers.iter().zip(INPUTS) {
        assert_embedded(answer, input);
        assert_eq!(answer.header("x-weir-attempts"), Some("1"));
    }
    let request = provider.only_request();
    let mut asked: Vec<Value> = request.json()["input"].as_array().expect("a list").clone();
    asked.sort_by_key(|it| it.as_str().map(str::len));
    assert_eq!(
        asked,
        [INPUTS[0], INPUTS[1], INPUTS[2], INPUTS[3]].map(|it| json!(it))
    );
    assert_eq!(request.json()["model"], "e");
    assert_eq!(
        request.header("content-length"),
        Some(&*request.body.len().to_string())
    );
    // What the upstream reported, to the token, each request with its part.
    let told = |answer: &Answer| {
        answer.json()["usage"]["prompt_tokens"]
            .as_u64()
            .expect("usage")
    };
    assert_eq!(answers.iter().map(told).sum::<u64>(), 53);
    assert!(told(&answers[0]) < told(&answers[3]));
    let records = gateway.records(4);
    let mut used: Vec<u64> = records
        .iter()
        .map(|it| it["input_tokens"].as_u64().unwrap())
        .collect();
    let mut parts: Vec<u64> = answers.iter().map(told).collect();
    used.sort_unstable();
    parts.sort_unstable();
    assert_eq!(used, parts);
    for record in &records {
        assert_eq!(
            [&record["attempts"], &record["token_source"]],
            [&json!(1), &json!("upstream")]
        );
        assert_eq!(record["endpoint"], provider.address().to_string());
    }
    let source = [("kind", "input"), ("source", "upstream")];
    gateway.wait_value("llm_token_usage_total", &source, 53.0);
    gateway.wait_value("llm_requests_total", &[("status", "200")], 4.0);
    assert_batches(&gateway, "divided", 1.0);
    gateway.wait_value("weir_batch_requests_sum", &[], 4.0);
    assert_nothing_is_left(&gateway);
}

#[test]
fn limits_budgets_and_books_have_what_the_upstream_reported() {
    let provider = Provider::start(embedding);
    let hash: String = {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"secret");
        digest
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    // A dollar for each token.
    let gateway = Gateway::start(&format!(
        "prices: {{e: {{input: 1000000}}}}\n\
         model_routes: {{e: {{url: \"{}\", batch: {{{LONG}, size: 4}}}}}}\n\
         usage: {{store: sqlite}}\n\
         teams: [{{name: t, limits: {{tokens_per_minute: 1, tokens_burst: 100000}}, \
         budget: {{usd: 100000, per: month}}, keys: [{{name: k, sha256: {hash}}}]}}]\n",
        provider.url()
    ));
    let mut clients = INPUTS.map(|input| {
        let mut client = gateway.client();
        let headers = [
            ("content-type", "application/json"),
            ("authorization", "Bearer secret"),
        ];
        client.request("POST", PATH, &headers, ask(input).as_bytes());
        client
    });
    for (client, input) in clients.iter_mut().zip(INPUTS) {
        assert_embedded(&client.answer(), input);
    }
    assert_eq!(provider.only_request().header("authorization"), None);
    let records = gateway.records(4);
    let cost = |it: &Value| it["cost_usd"].as_f64().expect("a cost");
    assert_eq!(records.iter().map(cost).sum::<f64>(), 53.0);
    gateway.wait_value("llm_cost_usd_total", &[("team", "t")], 53.0);
    let used = [("team", "t"), ("period", "month"), ("key", "")];
    gateway.wait_value("weir_budget_used_ratio", &used, 53.0 / 100_000.0);
    assert_eq!(usage(gateway.folder()), [json!(4), json!(53)]);
    assert_nothing_is_left(&gateway);
}

/// Requests and tokens of prompts, as `weir usage` has them.
#[track_caller]
fn usage(folder: &Folder) -> [Value; 2] {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["usage", "--json", "-c"])
        .arg(folder.join("weir.yaml"))
        .env_clear()
        .output()
        .expect("weir's binary");
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    [rows[0]["requests"].clone(), rows[0]["input"].clone()]
}

#[test]
fn a_request_that_comes_alone_is_sent_as_it_is() {
    let provider = Provider::start(embedding);
    let gateway = start(&provider.url(), "window: 3ms");
    assert_embedded(&gateway.post(PATH, ask("alone")), "alone");
    assert_eq!(provider.only_request().text(), ask("alone"));
    assert_batches(&gateway, "single", 1.0);
    assert_eq!(gateway.records(1)[0]["input_tokens"], 14);
}

#[test]
fn only_what_is_alike_is_put_together() {
    let provider = Provider::start(embedding);
    let gateway = start(&provider.url(), "window: 20ms, size: 2, tokens: 10");
    let long = "one two three four five six seven eight nine ten eleven twelve";
    let bodies = [
        ask("a"),
        json!({"model": "e", "input": "b", "dimensions": 8}).to_string(),
        json!({"model": "e", "input": "b", "encoding_format": "base64"}).to_string(),
        json!({"model": "e", "input": "b", "user": "u"}).to_string(),
        json!({"model": "e", "input": ["a", "b"]}).to_string(),
        ask(long),
        // Together they are more than 10.
        json!({"model": "e", "input": "one two three four five six seven", "user": "v"})
            .to_string(),
        json!({"model": "e", "input": "one two three four five six eight", "user": "v"})
            .to_string(),
    ];
    for answer in together(&gateway, &bodies) {
        assert_eq!(answer.status(), 200);
    }
    let mut clients = [
        ("authorization", "Bearer a"),
        ("authorization", "Bearer b"),
        ("openai-project", "p"),
    ]
    .map(|header| {
        let mut client = gateway.client();
        let headers = [("content-type", "application/json"), header];
        client.request("POST", PATH, &headers, ask("c").as_bytes());
        client
    });
    for client in &mut clients {
        assert_embedded(&client.answer(), "c");
    }
    let requests = provider.requests();
    assert_eq!(requests.len(), bodies.len() + clients.len());
    let mut came: Vec<String> = requests.iter().map(|it| it.text()).collect();
    let mut due: Vec<String> = bodies.to_vec();
    due.extend(vec![ask("c"); clients.len()]);
    came.sort();
    due.sort();
    assert_eq!(came, due, "as they are");
}

#[test]
fn one_that_is_refused_leaves_the_others_alone() {
    let provider = Provider::start(|exchange| match exchange.request.text().contains("bad") {
        true => exchange.json(400, r#"{"error":{"message":"bad"}}"#),
        false => embedding(exchange),
    });
    let gateway = start(&provider.url(), &format!("{LONG}, size: 3"));
    let answers = together(&gateway, &["one", "bad", "two"].map(ask));
    assert_embedded(&answers[0], "one");
    assert_eq!(
        (answers[1].status(), answers[1].text()),
        (400, r#"{"error":{"message":"bad"}}"#.into())
    );
    assert_embedded(&answers[2], "two");
    assert_eq!(provider.requests().len(), 4, "once together, once each");
    assert_batches(&gateway, "undone", 1.0);
    let records = gateway.records(3);
    let used: u64 = records
        .iter()
        .filter_map(|it| it["input_tokens"].as_u64())
        .sum();
    assert_eq!(used, 28);
    assert!(records.iter().all(|it| it["attempts"] == 2), "{records:?}");
    assert_nothing_is_left(&gateway);
}

#[test]
fn an_upstream_that_is_busy_is_so_for_each_and_asked_once() {
    const BUSY: &str = r#"{"error":{"message":"slow down"}}"#;
    let provider = Provider::start(|exchange| exchange.json(429, BUSY));
    let gateway = start_with(&provider.url(), &format!("{LONG}, size: 3"), ", retries: 0");
    for answer in together(&gateway, &["one", "two", "three"].map(ask)) {
        assert_eq!((answer.status(), answer.text()), (429, BUSY.into()));
    }
    assert_eq!(provider.requests().len(), 1);
    assert_batches(&gateway, "shared", 1.0);
    assert_nothing_is_left(&gateway);
}

#[test]
fn whoever_shares_a_busy_answer_goes_on_to_the_next_target() {
    const BUSY: &str = r#"{"error":{"message":"slow down"}}"#;
    let busy = Provider::start(|exchange| exchange.json(503, BUSY));
    let sound = Provider::start(embedding);
    let gateway = Gateway::start(&format!(
        "providers:\n\
         - {{name: a, base_url: \"{}\"}}\n\
         - {{name: b, base_url: \"{}\"}}\n\
         model_routes:\n\
         \x20 e:\n\
         \x20   targets: [{{provider: a, weight: 1000}}, {{provider: b}}]\n\
         \x20   batch: {{{LONG}, size: 3}}\n\
         \x20   retries: 1\n",
        busy.url(),
        sound.url()
    ));
    let inputs = ["one", "two", "three"];
    for (answer, input) in together(&gateway, &inputs.map(ask)).iter().zip(inputs) {
        assert_embedded(answer, input);
        assert_eq!(answer.header("x-weir-attempts"), Some("2"));
    }
    assert_eq!(busy.requests().len(), 1, "it was asked once, for all");
    assert_eq!(sound.requests().len(), 3);
    assert_nothing_is_left(&gateway);
}

#[test]
fn those_who_may_fall_back_to_other_models_are_not_put_together() {
    let provider = Provider::start(embedding);
    let url = provider.url();
    let gateway = Gateway::start(&format!(
        "model_routes:\n\
         \x20 e: {{url: \"{url}\", batch: {{{LONG}, size: 2}}, fallback: [f]}}\n\
         \x20 f: \"{url}\"\n\
         teams:\n\
         - {{name: all, keys: [{{name: k, sha256: {}}}]}}\n\
         - {{name: few, models: [e], keys: [{{name: k, sha256: {}}}]}}\n\
         - {{name: also, models: [e], keys: [{{name: k, sha256: {}}}]}}\n",
        sha256("key-all"),
        sha256("key-few"),
        sha256("key-also"),
    ));
    let mut clients = ["key-all", "key-few", "key-also"].map(|key| {
        let mut client = gateway.client();
        let bearer = format!("Bearer {key}");
        let headers = [
            ("content-type", "application/json"),
            ("authorization", &*bearer),
        ];
        client.request("POST", PATH, &headers, ask(key).as_bytes());
        client
    });
    for (client, key) in clients.iter_mut().zip(["key-all", "key-few", "key-also"]) {
        assert_embedded(&client.answer(), key);
    }
    let alone = ask("key-all");
    assert!(provider.requests().iter().any(|it| it.text() == alone));
    assert_batches(&gateway, "single", 1.0);
    assert_batches(&gateway, "divided", 1.0);
}

#[test]
fn an_answer_with_other_embeddings_than_were_asked_for_is_undone_and_remembered() {
    let provider = Provider::start(|exchange| {
        let asked = exchange.request.json();
        // It has never heard of lists.
        let one =
            json!({"input": asked["input"].as_array().map_or(&asked["input"], |all| &all[0])});
        exchange.json(200, &vectors(&one));
    });
    let gateway = start(&provider.url(), &format!("{LONG}, size: 2"));
    for round in 0..2 {
        let answers = together(&gateway, &["one", "three"].map(ask));
        assert_embedded(&answers[0], "one");
        assert_embedded(&answers[1], "three");
        assert_eq!(provider.requests().len(), 3 + 2 * round);
    }
    gateway.wait_log("isn't one embedding for each");
}

#[test]
fn a_call_that_breaks_is_made_again_for_each() {
    let calls = AtomicUsize::new(0);
    let provider = Provider::start(move |exchange| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => exchange.reset(),
        _ => embedding(exchange),
    });
    let gateway = start(&provider.url(), &format!("{LONG}, size: 3"));
    let answers = together(&gateway, &["one", "two", "three"].map(ask));
    for (answer, input) in answers.iter().zip(["one", "two", "three"]) {
        assert_embedded(answer, input);
    }
    assert_eq!(provider.requests().len(), 4);
    gateway.wait_value("llm_upstream_error_total", &[], 1.0);
    assert_nothing_is_left(&gateway);
}

#[test]
fn whoever_leaves_keeps_nobody_waiting() {
    let gate = Gate::new();
    let answers = gate.clone();
    let provider = Provider::start(move |exchange| {
        exchange.wait(&answers);
        embedding(exchange);
    });
    let gateway = start(&provider.url(), &format!("{LONG}, size: 4"));
    // The first of them, which has begun to gather.
    let first = sent(&gateway, &ask("first"));
    gateway.wait_value("weir_in_flight", &[], 1.0);
    first.close();
    gateway.records(1);
    let mut stays = sent(&gateway, &ask("stays"));
    let leaves = sent(&gateway, &ask("leaves"));
    let mut last = sent(&gateway, &ask("last"));
    let asked = provider.wait_requests(1)[0].json();
    assert_eq!(asked["input"].as_array().map(Vec::len), Some(3), "{asked}");
    leaves.close();
    let left = gateway.records(2);
    assert!(
        left.iter().all(|it| it["end"] == "client_closed"),
        "{left:?}"
    );
    // What is at the upstream is used: counted, as nothing is reported of it alone.
    let used: Vec<Option<u64>> = left.iter().map(|it| it["input_tokens"].as_u64()).collect();
    assert_eq!(used, [None, Some(2)], "{left:?}");
    gate.open();
    assert_embedded(&stays.answer(), "stays");
    assert_embedded(&last.answer(), "last");
    assert_nothing_is_left(&gateway);
}

#[test]
fn a_call_that_nobody_waits_for_is_given_up() {
    let provider = Provider::start(|exchange| {
        exchange.wait_end();
        exchange.close();
    });
    let gateway = start(&provider.url(), &format!("{LONG}, size: 2"));
    let clients = ["one", "two"].map(|input| sent(&gateway, &ask(input)));
    provider.wait_requests(1);
    for client in clients {
        client.close();
    }
    provider.wait_end(0);
    gateway.records(2);
    assert_nothing_is_left(&gateway);
}

#[test]
fn over_http2_it_is_one_stream_and_a_batch_that_hangs_ends_in_time() {
    let hang = AtomicUsize::new(0);
    let provider = H2Provider::start(move |exchange| {
        let asked = exchange.json();
        if asked["input"].to_string().contains("hang") {
            hang.fetch_add(1, Ordering::SeqCst);
            return exchange.wait_cancelled();
        }
        exchange.head(200, &[("content-type", "application/json")]);
        exchange.data(vectors(&asked), false);
        exchange.trailers();
    });
    let http2 = Http2::start_as(
        provider,
        "timeouts: {first_byte: 2s}\n\
         model_routes: {e: {targets: [{provider: p, model: own}], retries: 0, batch: {window: 1s, size: 2}}}\n",
    );
    for (answer, input) in together(&http2.gateway, &["a", "bb"].map(ask))
        .iter()
        .zip(["a", "bb"])
    {
        assert_embedded(answer, input);
    }
    assert_eq!(http2.provider.requests(), 1);
    for answer in together(&http2.gateway, &["hang", "too"].map(ask)) {
        answer.assert_refused(504, "upstream_timeout");
    }
    http2.provider.wait_cancelled(1);
    assert_nothing_is_left(&http2.gateway);
}

const SCRIPT: &str = r#"
import sys
from concurrent.futures import ThreadPoolExecutor
try:
    import openai
except ImportError:
    sys.exit("the openai SDK is missing: pip install openai, or name a Python that has it with WEIR_TEST_PYTHON")

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=30)

def embed(number):
    made = client.embeddings.create(model="e", input="x" * number)
    assert len(made.data) == 1 and made.data[0].index == 0, made
    assert made.data[0].embedding == [float(number), 1.0], (number, made)
    return made.usage.prompt_tokens

with ThreadPoolExecutor(8) as pool:
    used = sum(pool.map(embed, range(1, 9)))
assert used == 8 * 13 + 1, used
try:
    client.embeddings.create(model="e", input="bad")
    sys.exit("what is refused was answered")
except openai.BadRequestError as error:
    assert error.status_code == 400, error
print("all is well")
"#;

/// It asks for base64 by itself.
#[test]
fn the_openai_sdk_has_its_embeddings_from_a_batch() {
    let provider = Provider::start(|exchange| match exchange.request.text().contains("bad") {
        true => exchange.json(400, r#"{"error":{"message":"bad"}}"#),
        false => embedding(exchange),
    });
    let gateway = start(&provider.url(), &format!("{LONG}, size: 8"));
    sdk::runs(
        &gateway,
        SCRIPT,
        &format!("http://{}/v1", gateway.address()),
    );
    assert_batches(&gateway, "divided", 1.0);
    assert_eq!(provider.requests().len(), 2);
}

#[test]
fn what_is_gathered_is_answered_also_when_weir_ends() {
    let provider = Provider::start(embedding);
    let yaml = format!(
        "model_routes: {{e: {{url: \"{}\", batch: {{window: 200ms}}}}}}\n",
        provider.url()
    );
    let mut gateway = Launch::file(&yaml).start();
    let mut client = sent(&gateway, &ask("last"));
    gateway.wait_value("weir_in_flight", &[], 1.0);
    gateway.signal(libc::SIGTERM);
    assert_embedded(&client.answer(), "last");
    assert!(gateway.wait_exit().success());
}

//! What upstreams report corrects what weir counts where they report nothing.

use crate::support::{Exchange, Gateway, Launch, Provider, eventually};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
/// A model without a public vocabulary.
const MODEL: &str = "wonder-1";

fn config(url: &str) -> String {
    format!("model_routes: {{\"wonder-*\": \"{url}\"}}\n")
}

/// A request of so many words; `user` tells the model server what to do.
fn ask(words: usize, user: &str, stream: bool) -> String {
    let content = "water ".repeat(words);
    json!({
        "model": MODEL,
        "stream": stream,
        "user": user,
        "messages": [{"role": "user", "content": content}],
    })
    .to_string()
}

/// Requests until one is recorded as it should be: what is learned is learned beside them.
#[track_caller]
fn until(gateway: &Gateway, what: &str, body: &str, fits: impl Fn(&Value) -> bool) {
    eventually(what, || {
        let before = gateway.records_now().len();
        gateway.post(CHAT, body);
        let record = gateway.records(before + 1).pop().expect("a record");
        assert_eq!(record["token_source"], "estimated", "{record}");
        fits(&record).then_some(())
    });
}

#[test]
fn a_ratio_is_learned_and_outlives_a_reload_and_an_upgrade() {
    // Two tokens a word and three for each of the answer's, where the nearest vocabulary has one.
    let provider = Provider::start(|exchange| {
        let request = exchange.request.json();
        let words = |text: &Value| text.as_str().map_or(0, |text| text.split(' ').count());
        let input = 2 * words(&request["messages"][0]["content"]) + 20;
        let choice = json!({
            "index": 0,
            "message": {"content": "water ".repeat(100)},
            "finish_reason": "stop",
        });
        let mut answer = json!({"choices": [choice]});
        if request["user"] != "silent" {
            answer["usage"] = json!({"prompt_tokens": input, "completion_tokens": 300});
        }
        exchange.json(200, &answer.to_string());
    });
    let config = config(&provider.url());
    let gateway = Launch::supervised(&config).start();
    let silent = ask(500, "silent", false);
    gateway.post(CHAT, &silent);
    let first = &gateway.records(1)[0];
    let before = first["input_tokens"].as_u64().expect("a number");
    assert!((500..530).contains(&before), "{first}");
    for words in 0..64 {
        gateway.post(CHAT, ask(100 + 10 * words, "tells", false));
    }
    // All of them are told of before the next one is asked.
    gateway.records(65);
    let learned = |record: &Value| {
        let tokens = |field: &str| record[field].as_u64().expect("a number");
        (970..1070).contains(&tokens("input_tokens"))
            && (270..330).contains(&tokens("output_tokens"))
    };
    until(&gateway, "twice as many tokens", &silent, learned);
    assert!(gateway.reload_by_command().status.success());
    until(&gateway, "the same after a reload", &silent, learned);
    assert!(gateway.upgrade().status.success());
    until(&gateway, "the same after an upgrade", &silent, learned);
}

/// A stream with one token in each delta; the server of a cut one says nothing of usage.
fn one_by_one(exchange: &mut Exchange) {
    let request = exchange.request.json();
    let deltas: usize = request["user"]
        .as_str()
        .map_or(0, |it| it.parse().unwrap_or(0));
    exchange.stream();
    for number in 0..deltas {
        // A vocabulary of its own: what is one token here is more than one elsewhere.
        exchange.chunk(format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"flurbl{number}\"}},\
             \"finish_reason\":null}}]}}\n\n"
        ));
    }
    if deltas == 33 {
        return exchange.close();
    }
    exchange.chunk(format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n\
         data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{deltas}}}}}\n\n\
         data: [DONE]\n\n"
    ));
    exchange.end();
}

#[test]
fn where_deltas_are_tokens_a_cut_stream_has_as_many_as_came() {
    let provider = Provider::start(one_by_one);
    let gateway = Gateway::start(&config(&provider.url()));
    let cut = || {
        let before = gateway.records_now().len();
        gateway.post(CHAT, ask(3, "33", true));
        let record = gateway.records(before + 1).pop().expect("a record");
        assert_eq!(record["token_source"], "estimated", "{record}");
        record["output_tokens"].as_u64().expect("a number")
    };
    let counted = cut();
    assert!(counted > 66, "{counted}");
    for stream in 0..8 {
        gateway.post(CHAT, ask(3, &(20 + stream).to_string(), true));
    }
    gateway.records(9);
    assert_eq!(cut(), 33);
}

#[test]
fn an_estimate_is_logged_beside_what_was_used_where_that_is_asked_for() {
    let provider = Provider::json(r#"{"choices":[{"index":0,"message":{"content":"ok"}}]}"#);
    let routes = format!("model_routes: {{gpt-4o: \"{}\"}}\n", provider.url());
    let body = |words: usize| {
        let content = "water over the crest, ".repeat(words);
        let messages = json!([{"role": "user", "content": content}]);
        json!({"model": "gpt-4o", "messages": messages}).to_string()
    };
    let gateway = Gateway::start(&format!(
        "{routes}logging: {{estimates: true, file: {{path: \"{{folder}}/access.log\"}}}}\n"
    ));
    // Counted on the spot, counted elsewhere, and too long to be counted.
    for words in [10, 1_200, 20_000] {
        let before = gateway.records_now().len();
        gateway.post(CHAT, body(words));
        let record = gateway.records(before + 1).pop().expect("a record");
        let tokens = |field: &str| record[field].as_u64().expect("a number");
        let (estimate, counted) = (tokens("estimated_input_tokens"), tokens("input_tokens"));
        assert_eq!(record["token_source"], "counted");
        let off = estimate.abs_diff(counted) * 100 / counted;
        assert!(off <= if words > 10_000 { 5 } else { 0 }, "{record}");
    }
    let gateway = Gateway::start(&routes);
    gateway.post(CHAT, body(10));
    assert_eq!(gateway.records(1)[0].get("estimated_input_tokens"), None);
}

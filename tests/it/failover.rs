//! What happens when an upstream can't serve a request: who is tried next, how often, and what the
//! client gets when nobody is left.

use crate::keys::sha256;
use crate::streaming::Http2;
use crate::support::faults::{ANSWER, Fault, RETRY_AFTER_SECS, Reach, healthy};
use crate::support::h2_provider::{H2Exchange, H2Provider};
use crate::support::provider::{Exchange, nobody};
use crate::support::{Gateway, Provider};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";

/// Deadlines that end what hangs soon, and are long beside what doesn't.
const SHORT: &str = "timeouts: {connect: 500ms, first_byte: 700ms, idle: 700ms}\n";

fn chat(model: &str, stream: bool) -> String {
    let prompt = [json!({"role": "user", "content": "Hi"})];
    json!({"model": model, "messages": prompt, "stream": stream}).to_string()
}

/// No breaker: each fault is met anew.
const OFF: &str = ", breaker: off";

/// A model server that answers the first `failures` requests with this status, and is healthy then.
fn failing(
    failures: usize,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
) -> Provider {
    let left = AtomicUsize::new(failures);
    Provider::start(move |exchange| {
        let failed = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        });
        match failed {
            Ok(_) => exchange.answer(status, headers, br#"{"error":{"message":"No."}}"#),
            Err(_) => healthy(exchange),
        }
    })
}

/// Two providers with accounts of weir's own, one behind the other.
fn two(first: &Provider, second: &Provider, more: &str) -> Gateway {
    two_within(SHORT, first, second, more)
}

/// The same with these deadlines.
fn two_within(timeouts: &str, first: &Provider, second: &Provider, more: &str) -> Gateway {
    Gateway::start(&format!(
        "{timeouts}providers:\n\
         - {{name: first, base_url: \"{}/v1\", api_key: sk-first{OFF}}}\n\
         - {{name: second, base_url: \"{}/v1\", api_key: sk-second{OFF}}}\n\
         model_routes:\n  m:\n    targets: [{{provider: first, weight: 1000}}, {{provider: second}}]\n{more}",
        first.url(),
        second.url()
    ))
}

fn failed_tries(record: &Value) -> Vec<(&str, &str)> {
    let tries = record["failed_tries"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    tries
        .iter()
        .map(|it| {
            let provider = it["provider"].as_str().unwrap_or_default();
            (provider, it["error"].as_str().unwrap_or_default())
        })
        .collect()
}

// === each fault ===

#[test]
fn each_fault_before_an_answer_is_made_good_by_the_next_endpoint() {
    for fault in Fault::ALL {
        // 413 is the request's own fault.
        let follows = matches!(fault.reach(), Reach::Nothing | Reach::Refusal);
        if !follows || fault == Fault::EarlyAnswer {
            continue;
        }
        let (broken, sound) = (fault.provider(), Provider::start(healthy));
        // One for each request: what is known of the first server is no reason to spare it.
        let weirs = [two(&broken, &sound, ""), two(&broken, &sound, "")];
        for (weir, stream) in weirs.iter().zip([false, true]) {
            let answer = weir.post(CHAT, chat("m", stream));
            assert_eq!(answer.status(), 200, "{fault:?}: {}", answer.text());
            match stream {
                false => assert_eq!(answer.text(), ANSWER, "{fault:?}"),
                true => assert!(answer.text().ends_with("data: [DONE]\n\n"), "{fault:?}"),
            }
            assert_eq!(answer.header("x-weir-attempts"), Some("2"), "{fault:?}");
            assert_eq!(
                answer.header("x-weir-provider"),
                Some("second"),
                "{fault:?}"
            );
            assert_eq!(answer.header("retry-after"), None, "{fault:?}");
        }
        for request in sound.wait_requests(2) {
            assert_eq!(request.header("authorization"), Some("Bearer sk-second"));
            assert_eq!(request.json()["messages"][0]["content"], "Hi", "{fault:?}");
        }
        for record in weirs.iter().flat_map(|weir| weir.records(1)) {
            assert_eq!(record["attempts"], 2, "{fault:?}: {record}");
            assert_eq!(record["end"], "complete", "{fault:?}: {record}");
            assert_eq!(record["output_tokens"], 1, "{fault:?}: {record}");
            let tries = failed_tries(&record);
            assert_eq!(tries.len(), 1, "{fault:?}: {record}");
            assert_eq!(tries[0].0, "first", "{fault:?}: {record}");
        }
        for gauge in ["weir_in_flight", "weir_buffered_bytes"] {
            for weir in &weirs {
                weir.wait_value(gauge, &[], 0.0);
            }
        }
    }
}

#[test]
fn a_large_body_is_sent_again_whole() {
    let (broken, sound) = (
        Provider::start(|exchange| exchange.json(503, "{}")),
        Provider::start(healthy),
    );
    let weir = two_within("", &broken, &sound, "");
    let prompt = "x".repeat(20 << 20);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": prompt}]}).to_string();
    let answer = weir.post(CHAT, &body);
    assert_eq!(answer.text(), ANSWER);
    for provider in [&broken, &sound] {
        assert!(
            provider.only_request().body == body.as_bytes(),
            "byte for byte"
        );
    }
    weir.wait_value("weir_buffered_bytes", &[], 0.0);
}

#[test]
fn the_last_answer_passes_as_it_came() {
    const PAGE: &str = "<html>down</html>";
    let page = |exchange: &mut Exchange| {
        let headers = [("content-type", "text/html"), ("retry-after", "17")];
        exchange.answer(503, &headers, PAGE.as_bytes());
    };
    let (one, other) = (Provider::start(page), Provider::start(page));
    let weir = two(&one, &other, "    retries: 1\n");
    let answer = weir.post(CHAT, chat("m", false));
    assert_eq!((answer.status(), answer.text().as_str()), (503, PAGE));
    assert_eq!(answer.header("retry-after"), Some("17"));
    assert_eq!(answer.header("content-type"), Some("text/html"));
    assert_eq!(answer.header("x-weir-attempts"), Some("2"));
    assert_eq!(answer.header("x-weir-error"), None, "it is the upstream's");
    let record = &weir.records(1)[0];
    assert_eq!(
        (&record["status"], &record["attempts"]),
        (&json!(503), &json!(2))
    );
    assert_eq!(
        failed_tries(record),
        [("first", "busy"), ("second", "busy")]
    );
}

#[test]
fn a_wrong_request_is_not_tried_elsewhere() {
    for status in [400, 404, 413, 422] {
        let (one, other) = (failing(9, status, &[]), Provider::start(healthy));
        let weir = two(&one, &other, "");
        let answer = weir.post(CHAT, chat("m", false));
        assert_eq!(answer.status(), status);
        assert_eq!(answer.header("x-weir-attempts"), Some("1"));
        assert_eq!(other.requests().len(), 0);
        assert_eq!(weir.records(1)[0]["failed_tries"], Value::Null);
    }
}

#[test]
fn a_credential_of_the_client_is_its_own_affair() {
    for status in [401, 402, 403] {
        let (one, other) = (failing(9, status, &[]), Provider::start(healthy));
        let weir = Gateway::start(&format!(
            "model_routes: {{m: {{urls: [\"{}\", \"{}\"]}}}}",
            one.url(),
            other.url()
        ));
        let statuses = (0..4).map(|_| weir.post(CHAT, chat("m", false)).status());
        let mut statuses: Vec<u16> = statuses.collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, status, status], "in turns, as before");
    }
}

#[test]
fn no_second_try_follows_a_byte_of_an_answer() {
    for fault in Fault::ALL {
        if fault.reach() != Reach::Head || fault == Fault::GzipBomb {
            continue;
        }
        let (broken, sound) = (fault.provider(), Provider::start(healthy));
        let total = "timeouts: {connect: 500ms, first_byte: 700ms, idle: 700ms, total: 2s}\n";
        let weir = Gateway::start(&format!(
            "{total}model_routes:\n  m:\n    fallback: [n]\n    url: \"{}\"\n  n: \"{}\"\n",
            broken.url(),
            sound.url()
        ));
        let mut client = weir.client();
        client.post(CHAT, chat("m", fault.streams()));
        let head = client.read_head();
        let (body, whole) = client.rest();
        let text = String::from_utf8_lossy(&body);
        assert!(!text.contains("[DONE]"), "{fault:?}: {text}");
        assert!(!whole || text.contains("\"error\""), "{fault:?}: {text}");
        assert_eq!(head.header("x-weir-attempts"), Some("1"), "{fault:?}");
        let record = &weir.records(1)[0];
        assert_eq!(record["attempts"], 1, "{fault:?}: {record}");
        assert_eq!(sound.requests().len(), 0, "{fault:?}");
    }
}

// === what is safe to repeat ===

#[test]
fn what_may_have_acted_is_repeated_only_where_that_does_no_harm() {
    for (method, path, fault, tries) in [
        ("POST", "/jobs", Fault::ResetBeforeHead, 1),
        ("POST", "/jobs", Fault::InternalError, 1),
        ("POST", "/jobs", Fault::Silent, 1),
        ("POST", "/jobs", Fault::Refuse, 2),
        ("POST", "/jobs", Fault::Unavailable, 2),
        ("PUT", "/jobs/1", Fault::InternalError, 2),
        ("GET", "/jobs/1", Fault::Silent, 2),
        ("POST", "/v1/embeddings", Fault::InternalError, 2),
    ] {
        let (broken, sound) = (fault.provider(), Provider::echo());
        let weir = Gateway::start(&format!(
            "{SHORT}providers: [{{name: p, urls: [\"{}\", \"{}\"], models: [m]}}]\n\
             routing: {{default_provider: p}}",
            broken.url(),
            sound.url()
        ));
        let mut told = Vec::new();
        for _ in 0..2 {
            let mut client = weir.client();
            client.request(method, path, &[("content-type", "application/json")], b"{}");
            let answer = client.answer_to(method);
            told.push((
                answer.status(),
                answer.header("x-weir-attempts").map(str::to_owned),
            ));
        }
        told.sort();
        let last = told.pop().expect("two answers");
        let first = told.pop().expect("two answers");
        assert_eq!(first, (200, Some("1".into())), "{method} {path} {fault:?}");
        let ok = last.0 == 200;
        assert_eq!(ok, tries == 2, "{method} {path} {fault:?}: {last:?}");
        assert_eq!(last.1, Some(tries.to_string()), "{method} {path} {fault:?}");
    }
}

#[test]
fn the_operator_says_what_is_tried_again() {
    let cases: [(&str, Fault, bool); 6] = [
        ("[connect]", Fault::Refuse, true),
        ("[connect]", Fault::Unavailable, false),
        ("[busy]", Fault::ThrottledSeconds, true),
        ("[busy]", Fault::InternalError, false),
        ("[account]", Fault::PaymentRequired, true),
        ("[]", Fault::ResetBeforeHead, false),
    ];
    for (words, fault, follows) in cases {
        let (broken, sound) = (fault.provider(), Provider::start(healthy));
        let weir = two(&broken, &sound, &format!("    retry_on: {words}\n"));
        let answer = weir.post(CHAT, chat("m", false));
        assert_eq!(
            answer.status() == 200,
            follows,
            "{words} {fault:?}: {}",
            answer.text()
        );
    }
}

// === pauses ===

#[test]
fn the_only_endpoint_is_asked_again_after_a_pause() {
    let provider = failing(2, 500, &[]);
    let weir = Gateway::start(&format!("model_routes: {{m: \"{}\"}}", provider.url()));
    let answer = weir.post(CHAT, chat("m", false));
    assert_eq!((answer.status(), answer.text().as_str()), (200, ANSWER));
    assert_eq!(answer.header("x-weir-attempts"), Some("3"));
    let at: Vec<_> = provider.requests().iter().map(|it| it.at).collect();
    assert!(
        at[1] - at[0] >= Duration::from_millis(50),
        "{:?}",
        at[1] - at[0]
    );
    assert!(
        at[2] - at[1] >= Duration::from_millis(100),
        "{:?}",
        at[2] - at[1]
    );
}

#[test]
fn an_upstream_is_asked_no_sooner_than_it_said() {
    let provider = failing(1, 429, &[("retry-after-ms", "600"), ("retry-after", "1")]);
    let weir = Gateway::start(&format!("model_routes: {{m: \"{}\"}}", provider.url()));
    let answer = weir.post(CHAT, chat("m", false));
    assert_eq!((answer.status(), answer.text().as_str()), (200, ANSWER));
    let at: Vec<_> = provider.requests().iter().map(|it| it.at).collect();
    assert!(
        at[1] - at[0] >= Duration::from_millis(600),
        "{:?}",
        at[1] - at[0]
    );
}

#[test]
fn who_said_when_to_come_back_is_asked_last_in_the_next_round_too() {
    let resting = failing(9, 429, &[("retry-after-ms", "4000")]);
    let broken = failing(1, 500, &[]);
    let weir = two(&resting, &broken, "");
    let answer = weir.post(CHAT, chat("m", false));
    assert_eq!((answer.status(), answer.text().as_str()), (200, ANSWER));
    assert_eq!(resting.requests().len(), 1, "it has no time yet");
    assert_eq!(broken.requests().len(), 2);
}

#[test]
fn who_said_when_to_come_back_is_asked_no_sooner_beside_one_that_is_paused() {
    let (busy, sound) = (Fault::ThrottledSeconds.provider(), Provider::start(healthy));
    let weir = Gateway::start(&format!(
        "providers:\n\
         - {{name: dead, base_url: \"http://{}\", breaker: {{failures: 1}}}}\n\
         - {{name: busy, base_url: \"{}\", api_key: k}}\n\
         - {{name: good, base_url: \"{}\", api_key: k}}\n\
         model_routes:\n\
         \x20 m: {{targets: [{{provider: dead}}, {{provider: busy}}], fallback: [n]}}\n\
         \x20 n: {{targets: [{{provider: good}}]}}\n",
        nobody(),
        busy.url(),
        sound.url()
    ));
    for requests in 1..4 {
        assert_eq!(weir.post(CHAT, chat("m", false)).text(), ANSWER);
        assert_eq!(busy.requests().len(), requests);
    }
}

#[test]
fn who_should_wait_too_long_is_told_so() {
    for fault in [Fault::ThrottledSeconds, Fault::ThrottledDate] {
        let provider = fault.provider();
        let weir = Gateway::start(&format!("model_routes: {{m: \"{}\"}}", provider.url()));
        let answer = weir.post(CHAT, chat("m", false));
        assert_eq!(answer.status(), 429, "{fault:?}");
        assert_eq!(answer.header("x-weir-attempts"), Some("1"), "{fault:?}");
        if fault == Fault::ThrottledSeconds {
            let seconds = RETRY_AFTER_SECS.to_string();
            assert_eq!(answer.header("retry-after"), Some(seconds.as_str()));
        }
        assert_eq!(provider.requests().len(), 1, "{fault:?}");
    }
}

#[test]
fn a_client_that_leaves_in_a_pause_is_not_tried_for_any_more() {
    let provider = failing(9, 429, &[("retry-after", "5")]);
    let weir = Gateway::start(&format!("model_routes: {{m: \"{}\"}}", provider.url()));
    let mut client = weir.client();
    client.post(CHAT, chat("m", false));
    provider.wait_requests(1);
    weir.wait_log("a try at an upstream failed");
    client.close();
    let record = &weir.records(1)[0];
    assert_eq!(record["end"], "client_closed", "{record}");
    assert_eq!(record["attempts"], 1, "{record}");
    assert_eq!(provider.requests().len(), 1);
    weir.wait_value("weir_in_flight", &[], 0.0);
}

#[test]
fn a_client_that_leaves_in_a_pause_is_not_tried_for_where_its_provider_drains() {
    let provider = failing(9, 429, &[("retry-after-ms", "1500")]);
    let weir = Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{}\", on_disconnect: drain}}]\n\
         model_routes: {{m: {{targets: [{{provider: p}}]}}}}",
        provider.url()
    ));
    let mut client = weir.client();
    client.post(CHAT, chat("m", false));
    weir.wait_log("a try at an upstream failed");
    client.close();
    let record = &weir.records(1)[0];
    assert_eq!(record["end"], "client_closed", "{record}");
    assert_eq!(record["attempts"], 1, "{record}");
    assert_eq!(provider.requests().len(), 1);
    weir.wait_value("weir_drains", &[], 0.0);
}

#[test]
fn the_time_of_a_request_ends_its_pauses_too() {
    let provider = failing(9, 429, &[("retry-after", "5")]);
    let weir = Gateway::start(&format!(
        "timeouts: {{total: 500ms}}\nmodel_routes: {{m: \"{}\"}}",
        provider.url()
    ));
    let answer = weir.post(CHAT, chat("m", false));
    answer.assert_refused(504, "upstream_timeout");
    assert_eq!(provider.requests().len(), 1);
}

#[test]
fn retries_that_load_an_upstream_are_a_share_of_the_requests() {
    const REQUESTS: usize = 60;
    let provider = Provider::start(|exchange| exchange.json(500, "{}"));
    let weir = Gateway::start(&format!(
        "limits: {{retry_budget: 0.1}}\n\
         providers: [{{name: p, urls: [\"{0}/a\", \"{0}/b\"]{OFF}}}]\n\
         model_routes: {{m: {{retries: 1, targets: [{{provider: p}}]}}}}",
        provider.url()
    ));
    let weir = Arc::new(weir);
    for _ in 0..REQUESTS {
        assert_eq!(weir.post(CHAT, chat("m", false)).status(), 500);
    }
    let retries = provider.requests().len() - REQUESTS;
    // A tenth, the reserve of ten, and one of the reserve for each second that it took.
    assert!((16..=26).contains(&retries), "{retries}");
    let denied = weir.value("weir_retries_denied_total", &[]);
    assert_eq!(denied, Some((REQUESTS - retries) as f64));
}

#[test]
fn tries_that_reach_nobody_take_nothing_of_the_budget() {
    let sound = Provider::start(healthy);
    let weir = Gateway::start(&format!(
        "limits: {{retry_budget: 0}}\n\
         providers: [{{name: p, urls: [\"http://{}\", \"{}\"]{OFF}}}]\n\
         model_routes: {{m: {{targets: [{{provider: p}}]}}}}",
        nobody(),
        sound.url()
    ));
    for _ in 0..40 {
        assert_eq!(weir.post(CHAT, chat("m", false)).status(), 200);
    }
    assert_eq!(weir.value("weir_retries_denied_total", &[]), Some(0.0));
}

#[test]
fn another_provider_takes_nothing_of_the_budget() {
    let (broken, sound) = (
        Provider::start(|exchange| exchange.json(500, "{}")),
        Provider::start(healthy),
    );
    let weir = Gateway::start(&format!(
        "limits: {{retry_budget: 0}}\n\
         providers:\n\
         - {{name: a, base_url: \"{}\"{OFF}}}\n\
         - {{name: b, base_url: \"{}\"{OFF}}}\n\
         model_routes: {{m: {{targets: [{{provider: a}}, {{provider: b}}]}}}}",
        broken.url(),
        sound.url()
    ));
    for _ in 0..60 {
        assert_eq!(weir.post(CHAT, chat("m", false)).status(), 200);
    }
    assert_eq!(weir.value("weir_retries_denied_total", &[]), Some(0.0));
}

#[test]
fn an_account_that_is_not_accepted_is_shown_once_for_all_endpoints() {
    let (broke, sound) = (Fault::PaymentRequired.provider(), Provider::start(healthy));
    let weir = Gateway::start(&format!(
        "providers:\n\
         - {{name: a, urls: [\"{0}/1\", \"{0}/2\", \"{0}/3\"], api_key: k{OFF}}}\n\
         - {{name: b, base_url: \"{1}\", api_key: k{OFF}}}\n\
         model_routes: {{m: {{targets: [{{provider: a, weight: 1000}}, {{provider: b}}]}}}}",
        broke.url(),
        sound.url()
    ));
    let answer = weir.post(CHAT, chat("m", false));
    assert_eq!(answer.text(), ANSWER);
    assert_eq!(answer.header("x-weir-attempts"), Some("2"));
    assert_eq!(broke.requests().len(), 1);
}

// === other routes ===

#[test]
fn another_model_serves_when_no_target_could() {
    let (broken, sound) = (
        Provider::start(|exchange| exchange.json(500, "{}")),
        Provider::start(healthy),
    );
    let weir = Gateway::start(&format!(
        "model_routes:\n\
         \x20 big: {{url: \"{}\", retries: 0, fallback: [gone, nick]}}\n\
         \x20 gone: \"http://{}\"\n\
         \x20 nick: small-1\n\
         \x20 \"small-*\": \"{}\"\n",
        broken.url(),
        nobody(),
        sound.url()
    ));
    let answer = weir.post(CHAT, chat("big", true));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.header("x-weir-model"), Some("small-*"));
    let attempts = answer.header("x-weir-attempts").expect("the tries");
    assert_eq!(
        sound.only_request().json()["model"],
        "small-1",
        "the name that it has there"
    );
    let record = &weir.records(1)[0];
    assert_eq!(record["model"], "big", "{record}");
    assert_eq!(record["upstream_model"], "small-1", "{record}");
    assert_eq!(record["attempts"].to_string(), attempts);
    assert_eq!(failed_tries(record)[0].1, "status_5xx", "{record}");
    assert!(
        failed_tries(record)[1..]
            .iter()
            .all(|it| it.1 == "connect_refused"),
        "{record}"
    );
}

#[test]
fn a_fallback_is_only_for_whom_its_model_is_allowed() {
    let (broken, sound) = (
        Provider::start(|exchange| exchange.json(500, r#"{"the":"last"}"#)),
        Provider::start(healthy),
    );
    let weir = Gateway::start(&format!(
        "providers:\n\
         - {{name: a, base_url: \"{}\", api_key: k}}\n\
         - {{name: b, base_url: \"{}\", api_key: k}}\n\
         model_routes:\n\
         \x20 big: {{targets: [{{provider: a}}], retries: 0, fallback: [small]}}\n\
         \x20 small: {{targets: [{{provider: b}}]}}\n\
         teams:\n\
         - {{name: all, keys: [{{name: k, sha256: {}}}]}}\n\
         - {{name: few, models: [big], keys: [{{name: k, sha256: {}}}]}}\n",
        broken.url(),
        sound.url(),
        sha256("key-all"),
        sha256("key-few"),
    ));
    let ask = |key: &str| {
        let bearer = format!("Bearer {key}");
        weir.post_with(CHAT, &[("authorization", &bearer)], chat("big", false))
    };
    assert_eq!(ask("key-all").text(), ANSWER);
    let refused = ask("key-few");
    assert_eq!(
        (refused.status(), refused.text().as_str()),
        (500, r#"{"the":"last"}"#)
    );
    assert_eq!(sound.requests().len(), 1);
}

#[test]
fn a_fallback_takes_its_turn_when_it_is_needed() {
    let servers = [(); 3].map(|()| Provider::start(healthy));
    let weir = Gateway::start(&format!(
        "model_routes:\n\
         \x20 big: {{url: \"{}\", fallback: [small]}}\n\
         \x20 small: {{urls: [\"{}\", \"{}\"]}}\n",
        servers[0].url(),
        servers[1].url(),
        servers[2].url()
    ));
    for _ in 0..4 {
        for model in ["big", "small"] {
            assert_eq!(weir.post(CHAT, chat(model, false)).status(), 200);
        }
    }
    let asked = servers.each_ref().map(|server| server.requests().len());
    assert_eq!(asked, [4, 2, 2], "requests for others take nobody's turn");
}

#[test]
fn who_cannot_be_served_is_told_when_the_first_route_can_be_asked_again() {
    let broken = Provider::start(|exchange| exchange.json(500, "{}"));
    let provider = |name: &str, open: &str| {
        let breaker = format!("{{failures: 1, open: {open}}}");
        let url = broken.url();
        format!("- {{name: {name}, base_url: \"{url}\", breaker: {breaker}}}\n")
    };
    let weir = Gateway::start(&format!(
        "providers:\n{}{}\
         model_routes:\n\
         \x20 big: {{targets: [{{provider: a}}], retries: 0, fallback: [small]}}\n\
         \x20 small: {{targets: [{{provider: b}}], retries: 0}}\n",
        provider("a", "100s"),
        provider("b", "1000s")
    ));
    assert_eq!(weir.post(CHAT, chat("big", false)).status(), 500);
    let refused = weir.post(CHAT, chat("big", false));
    refused.assert_refused(503, "breaker_open");
    let wait: u64 = (refused.header("retry-after").expect("a time").parse()).expect("seconds");
    assert!(wait <= 110, "{wait}");
}

// === HTTP/2 ===

#[test]
fn an_http2_upstream_that_fails_is_made_good_for_clients_of_both_versions() {
    type Script = fn(&mut H2Exchange);
    let faults: [(&str, Script); 5] = [
        ("busy", |it| {
            it.head(503, &[("retry-after", "1")]);
            it.data("{\"error\":{}}", true);
        }),
        ("status_5xx", |it| {
            it.head(500, &[]);
            it.end();
        }),
        ("protocol", |it| it.reject(h2::Reason::INTERNAL_ERROR)),
        ("protocol", |it| it.reject(h2::Reason::ENHANCE_YOUR_CALM)),
        ("first_byte_timeout", H2Exchange::wait_cancelled),
    ];
    for (kind, fault) in faults {
        let sound = Provider::start(healthy);
        let other = format!(
            ", timeouts: {{first_byte: 700ms}}}}\n\
             - {{name: q, base_url: \"{}\", models: [other]}}\n\
             model_routes: {{big: {{targets: [{{provider: p}}], retries: 0, fallback: [other]}}",
            sound.url()
        );
        let http2 = Http2::start_with(H2Provider::start(fault), &other, |launch| launch);
        let weir = &http2.gateway;
        let answer = weir.post(CHAT, chat("big", false));
        assert_eq!(answer.text(), ANSWER, "{kind}");
        let answer = weir.h2_client().post(CHAT, chat("big", true));
        assert!(
            answer.text().ends_with("data: [DONE]\n\n"),
            "{kind}: {}",
            answer.text()
        );
        assert_eq!(answer.header("x-weir-attempts"), Some("2"), "{kind}");
        for record in weir.records(2) {
            assert_eq!(failed_tries(&record), [("p", kind)], "{record}");
            assert_eq!(record["end"], "complete", "{record}");
        }
        weir.wait_value("weir_in_flight", &[], 0.0);
        weir.wait_value("weir_buffered_bytes", &[], 0.0);
    }
}

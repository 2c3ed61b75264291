//! Model servers that break, lie or hang, each the only one that could answer: what its client sees, what
//! is recorded of it, that nothing of it stays behind, and that the next request is served as if nothing
//! had been.

use crate::support::faults::{self, ANSWER, ERROR, ONE, Reach};
use crate::support::{Fault, Gate, Gateway, Provider};
use serde_json::Value;

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#;
const ASK_STREAM: &str =
    r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}"#;

/// Short, so that what hangs is over soon; `total` ends only what nothing else does.
const TIMEOUTS: &str =
    "timeouts: {connect: 500ms, first_byte: 600ms, idle: 500ms, total: 2500ms}\n";

/// What a client sees of a fault.
#[derive(Clone, Copy, Debug)]
enum Sees {
    /// A refusal of weir's own.
    Refusal(u16, &'static str),
    /// The upstream's answer as it is, with this status.
    Theirs(u16),
    /// As much of an answer as came, which then breaks.
    Cut,
    /// Events, the last one an error of weir's.
    ErrorEvent,
}

/// How it is told of.
struct Row {
    sees: Sees,
    /// The record's `end`.
    end: &'static str,
    /// The label of the one failed try that is counted.
    error_type: Option<&'static str>,
}

fn row(fault: Fault) -> Row {
    let failed = |error_type| Row {
        sees: Sees::Refusal(502, "upstream_failed"),
        end: "refused:upstream_failed",
        error_type: Some(error_type),
    };
    let late = |error_type| Row {
        sees: Sees::Refusal(504, "upstream_timeout"),
        end: "refused:upstream_timeout",
        error_type: Some(error_type),
    };
    let theirs = |status| Row {
        sees: Sees::Theirs(status),
        end: "complete",
        error_type: None,
    };
    let broke = |sees, error_type| Row {
        sees,
        end: "upstream_broke",
        error_type: Some(error_type),
    };
    match fault {
        Fault::Refuse => failed("connect_refused"),
        Fault::ConnectHangs => failed("connect_timeout"),
        Fault::ResetAtConnect
        | Fault::ResetBeforeHead
        | Fault::CloseBeforeHead
        | Fault::ResetInHead
        | Fault::CloseInHead
        | Fault::HalfCloseBeforeHead => failed("closed"),
        Fault::Silent | Fault::SilentInHead | Fault::TrickledHead | Fault::InterimFlood => {
            late("first_byte_timeout")
        }
        Fault::Garbage
        | Fault::StrangeVersion
        | Fault::LengthIsNoNumber
        | Fault::TwoLengths
        | Fault::GiganticHead
        | Fault::ManyHeaders => failed("protocol"),
        Fault::ThrottledSeconds | Fault::ThrottledDate => theirs(429),
        Fault::Unavailable => theirs(503),
        Fault::InternalError => theirs(500),
        Fault::HtmlError => theirs(502),
        Fault::Unauthorized => theirs(401),
        Fault::PaymentRequired => theirs(402),
        Fault::EarlyAnswer => theirs(413),
        Fault::SilentAfterHead | Fault::SilentInBody => broke(Sees::Cut, "idle_timeout"),
        Fault::TrickledBody | Fault::TrickledChunkHead => broke(Sees::Cut, "total_timeout"),
        Fault::LengthTooLong | Fault::CloseBetweenChunks => broke(Sees::Cut, "closed"),
        Fault::MalformedChunk => broke(Sees::Cut, "protocol"),
        Fault::SilentStream => broke(Sees::ErrorEvent, "idle_timeout"),
        Fault::ResetInStream => broke(Sees::ErrorEvent, "closed"),
        Fault::OnlyComments | Fault::EndlessStream | Fault::EndlessEvent => {
            broke(Sees::ErrorEvent, "total_timeout")
        }
        Fault::EmptyStream => broke(Sees::ErrorEvent, "short_stream"),
        Fault::ErrorInStream | Fault::ErrorFirstInStream => {
            broke(Sees::Theirs(200), "error_in_stream")
        }
        Fault::GzipBomb
        | Fault::NoDone
        | Fault::UnaskedContinue
        | Fault::HalfClose
        | Fault::LengthTooShort
        | Fault::TwoAnswers
        | Fault::Unsolicited => theirs(200),
    }
}

/// An answer, over whichever HTTP it came.
struct Seen {
    status: u16,
    code: Option<String>,
    body: Vec<u8>,
    whole: bool,
}

fn ask(weir: &Gateway, http2: bool, body: &str) -> Seen {
    if http2 {
        let answer = weir.h2_client().post(CHAT, body);
        return Seen {
            status: answer.status,
            code: answer.header("x-weir-error").map(str::to_owned),
            whole: answer.cut.is_none(),
            body: answer.body,
        };
    }
    let answer = weir.post(CHAT, body);
    Seen {
        status: answer.status(),
        code: answer.header("x-weir-error").map(str::to_owned),
        whole: answer.whole,
        body: answer.body,
    }
}

fn question(fault: Fault) -> String {
    match (fault.streams(), fault.wants_large_request()) {
        (true, _) => ASK_STREAM.to_owned(),
        (_, true) => ASK.replace("Hi", &"Hi ".repeat(8 << 20)),
        _ => ASK.to_owned(),
    }
}

/// The error in the last event.
#[track_caller]
fn last_error(stream: &str) -> Value {
    let (_, last) = stream.trim_end().rsplit_once("data: ").expect("an event");
    let last: Value = serde_json::from_str(last).expect("an event of JSON");
    last["error"].clone()
}

#[track_caller]
fn assert_sees(fault: Fault, sees: Sees, seen: &Seen) {
    let tail = &seen.body[seen.body.len().saturating_sub(400)..];
    let text = String::from_utf8_lossy(tail);
    let told = format!("{fault:?}: {} {:?} {text:?}", seen.status, seen.code);
    let error: Option<Value> = serde_json::from_slice(&seen.body).ok();
    match sees {
        Sees::Refusal(status, code) => {
            assert_eq!(
                (seen.status, seen.code.as_deref()),
                (status, Some(code)),
                "{told}"
            );
            let error = &error.expect("JSON")["error"];
            assert_eq!(error["code"], code, "{told}");
            assert!(error["message"].is_string() && seen.whole, "{told}");
        }
        Sees::Theirs(status) => {
            assert_eq!(
                (seen.status, seen.code.as_deref()),
                (status, None),
                "{told}"
            );
            assert!(seen.whole, "{told}");
            match fault {
                Fault::HtmlError => assert!(text.starts_with("<html>"), "{told}"),
                Fault::ErrorInStream => {
                    let both = format!("data: {ONE}\n\ndata: {ERROR}\n\n");
                    assert_eq!(text, both, "{told}");
                }
                Fault::ErrorFirstInStream => {
                    assert_eq!(text, format!("data: {ERROR}\n\n"), "{told}");
                }
                Fault::NoDone => assert!(text.ends_with("\"stop\"}]}\n\n"), "{told}"),
                Fault::GzipBomb => assert_eq!(seen.body[..2], [0x1f, 0x8b], "{told}"),
                _ if status == 200 => assert_eq!(text, ANSWER, "{told}"),
                _ => assert_eq!(error.expect("JSON")["error"]["code"], Value::Null, "{told}"),
            }
        }
        Sees::Cut => {
            assert_eq!((seen.status, seen.whole), (200, false), "{told}");
        }
        Sees::ErrorEvent => {
            assert_eq!((seen.status, seen.whole), (200, true), "{told}");
            let (stream, error) = (text.as_ref(), last_error(&text));
            assert_eq!(error["code"], "upstream_failed", "{told}");
            assert!(!stream.contains("[DONE]"), "{told}");
        }
    }
}

/// The failed tries that were counted, by their type.
fn error_types(weir: &Gateway) -> Vec<(String, f64)> {
    let metrics = weir.metrics();
    let lines = metrics.lines();
    let told = lines.filter_map(|line| {
        let rest = line.strip_prefix("llm_upstream_error_total{error_type=\"")?;
        let (kind, rest) = rest.split_once('"')?;
        let (_, count) = rest.rsplit_once(' ')?;
        Some((kind.to_owned(), count.parse().ok()?))
    });
    told.collect()
}

/// weir with nobody else to ask.
fn gateway(provider: &Provider) -> Gateway {
    Gateway::start(&format!(
        "providers: [{{name: p, base_url: \"{}\", models: [m]}}]\n{TIMEOUTS}",
        provider.url()
    ))
}

#[track_caller]
fn assert_nothing_stays(weir: &Gateway) {
    weir.wait_value("weir_in_flight", &[], 0.0);
    weir.wait_value("weir_buffered_bytes", &[], 0.0);
}

#[track_caller]
fn goes_through(fault: Fault, http2: bool) {
    println!("{fault:?}, HTTP/{}", if http2 { 2 } else { 1 });
    let healed = Gate::new();
    let provider = fault.provider_until(&healed);
    let weir = gateway(&provider);
    let mut row = row(fault);
    let seen = ask(&weir, http2, &question(fault));
    if fault == Fault::EarlyAnswer && seen.status == 504 {
        // weir was already at the piece of the request that nobody took, and looked for no answer.
        (row.sees, row.end) = (
            Sees::Refusal(504, "upstream_timeout"),
            "refused:upstream_timeout",
        );
        row.error_type = Some("first_byte_timeout");
    }
    assert_sees(fault, row.sees, &seen);
    let record = &weir.records(1)[0];
    assert_eq!(record["end"], row.end, "{fault:?}: {record}");
    assert_eq!(record["status"], seen.status, "{fault:?}: {record}");
    if fault == Fault::ResetAtConnect && error_types(&weir)[0].0 == "connect_error" {
        // The reset came before weir had seen the connection.
        row.error_type = Some("connect_error");
    }
    let expected: Vec<_> = row
        .error_type
        .map(|it| (it.to_owned(), 1.0))
        .into_iter()
        .collect();
    assert_eq!(error_types(&weir), expected, "{fault:?}");
    assert_nothing_stays(&weir);
    if matches!(
        fault,
        Fault::LengthTooShort | Fault::TwoAnswers | Fault::Unsolicited
    ) {
        // What nobody asked for ends the connection: it is nobody's answer.
        provider.wait_end(0);
    } else if fault.reach() == Reach::Head && fault.hangs() {
        // Whoever hangs is left.
        provider.wait_end(0);
    }
    healed.open();
    provider.wait_listening();
    for _ in 0..2 {
        let next = ask(&weir, http2, ASK);
        assert_eq!(
            (next.status, String::from_utf8_lossy(&next.body).as_ref()),
            (200, ANSWER),
            "after {fault:?}"
        );
    }
    assert_nothing_stays(&weir);
}

fn all_of(reach: Reach, http2: bool) {
    for fault in Fault::ALL {
        if fault.reach() == reach {
            goes_through(fault, http2);
        }
    }
}

#[test]
fn what_never_comes_to_an_answer_is_refused() {
    all_of(Reach::Nothing, false);
}

#[test]
fn what_never_comes_to_an_answer_is_refused_over_http2() {
    all_of(Reach::Nothing, true);
}

#[test]
fn a_refusal_of_an_upstream_passes_as_it_is() {
    for http2 in [false, true] {
        all_of(Reach::Refusal, http2);
    }
}

#[test]
fn what_breaks_after_its_head_never_looks_whole() {
    all_of(Reach::Head, false);
}

#[test]
fn what_breaks_after_its_head_never_looks_whole_over_http2() {
    all_of(Reach::Head, true);
}

#[test]
fn what_comes_besides_an_answer_reaches_nobody() {
    for http2 in [false, true] {
        all_of(Reach::Whole, http2);
    }
}

#[test]
fn each_dialect_is_told_in_its_own_words() {
    for fault in [
        Fault::Refuse,
        Fault::Silent,
        Fault::Garbage,
        Fault::GiganticHead,
    ] {
        let provider = fault.provider();
        let weir = gateway(&provider);
        let Sees::Refusal(status, code) = row(fault).sees else {
            panic!("{fault:?} is one that is refused");
        };
        let answer = weir.post("/v1/messages", ASK);
        assert_eq!(
            (answer.status(), answer.header("x-weir-error")),
            (status, Some(code)),
            "{fault:?}"
        );
        let told = answer.json();
        assert_eq!(
            (&told["type"], &told["error"]["type"]),
            (&"error".into(), &"api_error".into())
        );
        let answer = weir.post("/v1beta/models/m:generateContent", r#"{"contents":[]}"#);
        assert_eq!(
            (answer.status(), answer.header("x-weir-error")),
            (status, Some(code)),
            "{fault:?}"
        );
        assert_eq!(answer.json()["error"]["code"], status, "{fault:?}");
    }
}

#[test]
fn a_refusals_retry_after_passes_in_both_forms() {
    for fault in [Fault::ThrottledSeconds, Fault::ThrottledDate] {
        let provider = fault.provider();
        let answer = gateway(&provider).post(CHAT, ASK);
        let told = answer
            .header("retry-after")
            .expect("Retry-After")
            .to_owned();
        let seconds = faults::RETRY_AFTER_SECS.to_string();
        assert!(
            told == seconds || told.ends_with(" GMT"),
            "{fault:?}: {told}"
        );
    }
}

/// What weir's process had in memory at its peak since it was forgotten, or has now, bytes.
fn memory(weir: &Gateway, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", weir.pid())).expect("/proc");
    let line = status.lines().find(|line| line.starts_with(name));
    let size = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    size.expect("a size") << 10
}

#[test]
fn what_is_endless_or_unpacks_to_much_takes_a_bounded_piece_of_memory() {
    /// Of one answer: what passes, what its meter holds, and what an allocator keeps of it.
    const GROWTH_MAX: usize = 24 << 20;
    for fault in [
        Fault::GzipBomb,
        Fault::EndlessEvent,
        Fault::GiganticHead,
        Fault::InterimFlood,
    ] {
        let provider = fault.provider();
        let weir = gateway(&provider);
        // The vocabularies are there once something was counted.
        ask(&weir, false, &question(fault));
        assert_nothing_stays(&weir);
        std::fs::write(format!("/proc/{}/clear_refs", weir.pid()), "5").expect("/proc");
        let before = memory(&weir, "VmRSS:");
        ask(&weir, false, &question(fault));
        let peak = memory(&weir, "VmHWM:").saturating_sub(before);
        println!("{fault:?}: {peak} bytes");
        assert!(peak < GROWTH_MAX, "{fault:?}: {peak} bytes");
        assert_nothing_stays(&weir);
    }
}

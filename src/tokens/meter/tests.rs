use bytes::Bytes;

use super::*;
use crate::tokens::count::{Encoding, count};

fn chunk(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn chat(strip: bool) -> Meter {
    Meter::new(Surface::Chat, "gpt-4o", Form::Events, strip)
}

fn said(choice: u32, content: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"index\":{choice},\"delta\":{{\"content\":\"{content}\"}},\
         \"finish_reason\":null}}],\"usage\":null}}\n\n"
    )
}

fn tokens(text: &str) -> u64 {
    count(Encoding::O200k, text)
}

#[test]
fn the_beginning_of_an_event_is_held_only_when_usage_is_stripped() {
    let event = said(0, "Hi");
    let (left, right) = event.split_at(30);
    let mut open = chat(false);
    assert_eq!(open.feed(chunk(left)), left);
    assert_eq!(open.feed(chunk(right)), right);
    let mut strict = chat(true);
    assert_eq!(strict.feed(chunk(left)), "");
    assert_eq!(
        strict.feed(chunk(right)),
        event.replace(",\"usage\":null", "")
    );
}

#[test]
fn what_is_held_when_the_upstream_ends_still_goes_out() {
    let mut meter = chat(true);
    assert_eq!(meter.feed(chunk(": bye")), "");
    assert_eq!(meter.end(), ": bye");
    assert_eq!(meter.end(), "");
}

#[test]
fn an_event_is_complete_for_its_client_before_the_next_one_comes() {
    let mut meter = chat(true);
    for content in ["a", "b"] {
        let event = said(0, content);
        assert_eq!(
            meter.feed(chunk(&event)),
            event.replace(",\"usage\":null", "")
        );
    }
}

#[test]
fn an_event_at_the_cap_is_edited_and_one_past_it_is_only_read() {
    let tail = "\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n";
    let head = "data: {\"choices\":[{\"delta\":{\"content\":\"";
    for (more, edited) in [(0, true), (1, false)] {
        let len = EVENT_BYTES_MAX - head.len() - tail.len() + more;
        let event = format!("{head}{}{tail}", "x ".repeat(len / 2 + 1).split_at(len).0);
        let mut meter = chat(true);
        let mut out = Vec::new();
        for piece in event.as_bytes().chunks(65_536) {
            out.extend_from_slice(&meter.feed(Bytes::copy_from_slice(piece)));
        }
        assert!(meter.usage().is_some(), "{more} past the cap");
        assert!(meter.first_token_seen(), "{more} past the cap");
        assert_eq!(out == event.as_bytes(), !edited, "{more} past the cap");
        assert!(meter.held.capacity() <= HELD_BYTES_KEPT_MAX);
        let next = said(0, "on");
        assert_eq!(
            meter.feed(chunk(&next)),
            next.replace(",\"usage\":null", "")
        );
    }
}

#[test]
fn a_cut_stream_is_told_from_a_whole_one() {
    let finish = |choice: u32| {
        format!("data: {{\"choices\":[{{\"finish_reason\":\"stop\",\"index\":{choice}}}]}}\n\n")
    };
    let mut meter = chat(false);
    let mut after = |text: &str| {
        meter.feed(chunk(text));
        meter.saw_finish()
    };
    assert_eq!(after(": hi\n\n"), Ending::Open);
    assert_eq!(after(&said(0, "a")), Ending::Open);
    assert_eq!(after(&said(1, "b")), Ending::Open);
    assert_eq!(after(&finish(1)), Ending::Open);
    assert_eq!(after(&finish(0)), Ending::Finished);
    assert_eq!(after("data: [DO"), Ending::Finished);
    assert_eq!(after("NE]\n\n"), Ending::Done);
    for (last, end) in [
        (
            "data: {\"choices\":[{\"finish_reason\":\"stop\"}],\"id\":\"x",
            Ending::Open,
        ),
        (
            "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}",
            Ending::Finished,
        ),
        ("data: [DONE]", Ending::Done),
        (": hi", Ending::Open),
    ] {
        let mut cut = chat(false);
        cut.feed(chunk(last));
        cut.end();
        assert_eq!(cut.saw_finish(), end, "{last}");
    }
    assert_eq!(after("data: {\"error\":\"late\"}\n\n"), Ending::Error);
    let mut body = Meter::new(Surface::Chat, "gpt-4o", Form::Body, false);
    body.feed(chunk("{\"choices\":[]"));
    assert_eq!(body.saw_finish(), Ending::Open);
    body.feed(chunk("}"));
    assert_eq!(body.saw_finish(), Ending::Finished);
}

#[test]
fn each_choice_and_field_is_counted_by_itself() {
    let mut meter = chat(false);
    for (choice, content) in [
        (0, "un"),
        (1, "in"),
        (0, "believ"),
        (1, "cred"),
        (0, "able"),
    ] {
        meter.feed(chunk(&said(choice, content)));
    }
    assert!(meter.first_token_seen());
    assert_eq!(meter.delivered(), tokens("unbelievable") + tokens("incred"));
}

#[test]
fn half_of_a_surrogate_pair_at_the_end_counts_as_a_replacement_character() {
    let mut meter = chat(false);
    meter.feed(chunk(&said(0, "Hi \\ud83d")));
    assert_eq!(meter.delivered(), tokens("Hi \u{fffd}"));
}

#[test]
fn the_same_reasoning_under_two_names_counts_once() {
    let mut meter = chat(false);
    let delta = "data: {\"choices\":[{\"delta\":{\"reasoning\":\"So it is\",\
                 \"reasoning_content\":\"So it is\"}}]}\n\n";
    meter.feed(chunk(delta));
    assert_eq!(meter.delivered(), tokens("So it is"));
}

#[test]
fn long_texts_count_as_the_whole_text_would() {
    let words = [
        "water",
        " über",
        " \\n",
        "漢字",
        " 12345",
        "\\ud83c\\udf0a",
        " the",
        "'s",
    ];
    let plain = [
        "water", " über", " \n", "漢字", " 12345", "🌊", " the", "'s",
    ];
    let mut meter = chat(false);
    let mut text = String::new();
    for turn in 0..5000 {
        let word = turn * 7 % 11 % words.len();
        meter.feed(chunk(&said(0, words[word])));
        text.push_str(plain[word]);
    }
    assert_eq!(meter.delivered(), tokens(&text));
}

#[test]
fn no_text_is_counted_by_the_thread_that_feeds_it() {
    use crate::tokens::count::work::spent;
    let word = |turn: usize| ["water", " über", " \\n", "漢字", " 12345", " the"][turn % 6];
    let long = "over the crest, ".repeat(60_000);
    let (mut meter, mut text) = (chat(false), String::new());
    let (to_count, overdue) = std::sync::mpsc::channel::<Overdue>();
    let counting = std::thread::spawn(move || overdue.into_iter().for_each(Overdue::count));
    spent();
    let mut most = 0;
    for turn in 0..20_000 {
        let content = if turn == 10_000 { &long } else { word(turn) };
        meter.feed(chunk(&said(0, content)));
        text.push_str(&content.replace("\\n", "\n"));
        if let Some(overdue) = meter.overdue() {
            to_count.send(overdue).expect("it is counted");
        }
        most = most.max(meter.tally.bytes());
    }
    assert_eq!(spent(), 0, "steps of counting");
    assert!(most <= 96 * 1024, "{most} bytes are kept");
    drop(to_count);
    counting.join().expect("all is counted");
    let usage = meter.settle(|| 7);
    assert_eq!(usage.output, Some(tokens(&text)));
    assert_eq!(usage.source, Source::Counted);
}

#[test]
fn choices_that_alternate_for_long_are_counted_each_by_itself() {
    let mut meter = chat(false);
    for turn in 0..5000 {
        meter.feed(chunk(&said(turn % 2, ["un", "in"][turn as usize % 2])));
        if let Some(overdue) = meter.overdue() {
            overdue.count();
        }
    }
    assert!(meter.tally.bytes() <= 64 * 1024, "{}", meter.tally.bytes());
    let each = tokens(&"un".repeat(2500)) + tokens(&"in".repeat(2500));
    assert_eq!(meter.delivered(), each);
}

#[test]
fn text_that_finds_no_time_to_be_counted_is_estimated() {
    let mut meter = chat(false);
    let text = "over the crest, ".repeat(1000);
    meter.feed(chunk(&said(0, &text)));
    meter.overdue().expect("more than may wait").guess();
    meter.feed(chunk(&said(0, "and down again")));
    let usage = meter.settle(|| 7);
    assert_eq!(usage.source, Source::Estimated);
    let (guessed, counted) = (usage.output.unwrap_or(0), tokens(&text));
    assert!(
        guessed.abs_diff(counted) < counted / 4,
        "{guessed}, {counted}"
    );
}

#[test]
fn text_that_nobody_takes_is_kept_up_to_a_limit_and_estimated_beyond() {
    let piece = "over the crest, ".repeat(4096);
    let mut meter = chat(false);
    for _ in 0..32 {
        meter.feed(chunk(&said(0, &piece)));
    }
    assert!(!meter.tally.is_guessed(), "at the limit");
    meter.feed(chunk(&said(0, "!")));
    assert!(meter.tally.is_guessed(), "one past it");
    assert!(meter.tally.bytes() <= 4 * EVENT_BYTES_MAX);
}

#[test]
fn the_report_settles_and_counts_fill_what_it_leaves_out() {
    let mut meter = chat(false);
    meter.feed(chunk(&said(0, "Hello there")));
    let counted = meter.settle(|| 7);
    assert_eq!(
        (counted.input, counted.output),
        (Some(7), Some(tokens("Hello there")))
    );
    assert_eq!(counted.source, Source::Counted);
    meter.feed(chunk(
        "data: {\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":9}}\n\n",
    ));
    let reported = meter.settle(|| unreachable!("nothing to count"));
    assert_eq!((reported.input, reported.output), (Some(5), Some(9)));
    assert_eq!(reported.source, Source::Upstream);
    let mut other = Meter::new(Surface::Chat, "qwen-plus", Form::Events, false);
    other.feed(chunk(&said(0, "Hello")));
    assert_eq!(other.settle(|| 1).source, Source::Estimated);
}

#[test]
fn half_a_report_is_none() {
    let mut body = Meter::new(Surface::Chat, "gpt-4o", Form::Body, false);
    body.feed(chunk(
        "{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":12",
    ));
    assert_eq!(body.usage(), None);
    body.feed(chunk("3}"));
    assert_eq!(body.usage().and_then(|usage| usage.output), Some(123));
}

#[test]
fn a_body_in_one_piece_says_what_it_says_byte_by_byte() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/openai");
    let golden = std::fs::read_dir(folder).expect("the golden files");
    let mut bodies: Vec<Vec<u8>> = golden
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(".in.json"))
        .map(|path| std::fs::read(path).expect("a golden file"))
        .collect();
    assert!(bodies.len() >= 4, "golden bodies are missing");
    let report = r#""usage":{"prompt_tokens":5,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":2}}"#;
    let said = r#""choices":[{"message":{"content":"a \"b\""},"finish_reason":"stop"}]"#;
    for body in [
        format!("{{{said},{report}}}"),
        format!("{{{report},{said},\"usage\":{{\"prompt_tokens\":6}},\"usage\":null}}"),
        format!("{{\"x_groq\":{{\"id\":1,{report}}},\"response\":{{{said}}},\"usage\":[1]}}"),
        format!("{{{said},{report}}} [] {{{report}}}"),
        format!("{{\"error\":\"late\",\"us\\u0061ge\":1,{said},{report}"),
        format!("[{{{said},{report}}}]"),
        format!("{{{said},\"usage\":{{{:17000}\"prompt_tokens\":1}}}}", ' '),
    ] {
        bodies.push(body.into_bytes());
    }
    let run = |pieces: &mut dyn Iterator<Item = &[u8]>, counted: bool| {
        let mut meter = Meter::new(Surface::Chat, "gpt-4o", Form::Body, false);
        for piece in pieces {
            meter.feed(Bytes::copy_from_slice(piece));
        }
        let early = (meter.saw_finish(), meter.first_token_seen());
        let usage = meter.usage();
        let settled = counted.then(|| meter.settle(|| 7));
        let tokens = counted.then(|| meter.delivered());
        let late = (meter.saw_finish(), meter.first_token_seen());
        assert_eq!((early, usage), (late, meter.usage()));
        (early, usage, settled, tokens)
    };
    let same = |body: &[u8], counted: bool| {
        let whole = run(&mut std::iter::once(body), counted);
        let cut = run(&mut body.chunks(1), counted);
        assert_eq!(whole, cut, "{}", String::from_utf8_lossy(body));
    };
    for body in bodies {
        same(&body, true);
        if body.len() > 4096 {
            continue;
        }
        for at in 0..body.len() {
            same(&body[..at], false);
            for byte in b"\"\\{}[],: 1e\xff" {
                let mut changed = body.clone();
                changed[at] = *byte;
                same(&changed, false);
            }
        }
    }
}

#[test]
fn a_later_empty_report_takes_nothing_back() {
    let mut meter = chat(false);
    meter.feed(chunk(
        "data: {\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":9}}\n\n",
    ));
    meter.feed(chunk("data: {\"usage\":null}\n\ndata: {\"usage\":{}}\n\n"));
    assert_eq!(meter.usage().and_then(|usage| usage.output), Some(9));
}

#[test]
fn a_report_of_zeros_takes_nothing_back_and_is_none_beside_text() {
    const ZEROS: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":0,\
                         \"completion_tokens\":0,\"total_tokens\":0}}\n\n";
    let mut meter = chat(false);
    meter.feed(chunk(ZEROS));
    assert_eq!(meter.usage().and_then(|usage| usage.output), Some(0));
    meter.feed(chunk(
        "data: {\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":9}}\n\n",
    ));
    meter.feed(chunk(ZEROS));
    let usage = meter.settle(|| unreachable!("nothing to count"));
    assert_eq!((usage.input, usage.output), (Some(5), Some(9)));
    let mut meter = chat(false);
    meter.feed(chunk(&said(0, "Hello there")));
    meter.feed(chunk(ZEROS));
    meter.feed(chunk("data: [DONE]\n\n"));
    assert_eq!(meter.usage(), None);
    let usage = meter.settle(|| 7);
    assert_eq!(usage.input, Some(7));
    assert_eq!(usage.output, Some(tokens("Hello there")));
    assert_eq!(usage.source, Source::Counted);
}

#[test]
fn no_output_beside_text_is_counted_whether_a_body_comes_whole_or_in_pieces() {
    let body = r#"{"choices":[{"message":{"content":"Hello there"},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":5,"completion_tokens":0}}"#;
    for size in [1, body.len()] {
        let mut meter = Meter::new(Surface::Chat, "gpt-4o", Form::Body, false);
        for piece in body.as_bytes().chunks(size) {
            meter.feed(Bytes::copy_from_slice(piece));
        }
        assert!(!meter.usage_is_whole());
        let usage = meter.settle(|| unreachable!("the prompt is reported"));
        assert_eq!(usage.input, Some(5));
        assert_eq!(usage.output, Some(tokens("Hello there")));
    }
}

#[test]
fn a_report_in_mid_stream_is_the_truth_only_until_more_text_comes() {
    let report =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n";
    let mut meter = chat(false);
    meter.feed(chunk(&said(0, "Hello")));
    meter.feed(chunk(report));
    assert!(meter.usage_is_whole());
    let more = " there, this is more than two tokens";
    meter.feed(chunk(&said(0, more)));
    assert!(!meter.usage_is_whole());
    let usage = meter.settle(|| unreachable!("the prompt is reported"));
    assert_eq!(usage.output, Some(tokens(&format!("Hello{more}"))));
    assert_eq!(usage.source, Source::Counted);
    meter.feed(chunk("data: [DONE]\n\n"));
    let usage = meter.settle(|| unreachable!("all is reported"));
    assert_eq!((usage.output, usage.source), (Some(2), Source::Upstream));
}

#[test]
fn a_report_beside_the_text_of_its_own_event_speaks_for_it() {
    let mut meter = chat(false);
    for _ in 0..2 {
        meter.feed(chunk(&said(0, "Hello there").replace(
            "null}\n",
            "{\"prompt_tokens\":5,\"completion_tokens\":9}}\n",
        )));
    }
    assert!(meter.usage_is_whole());
    let usage = meter.settle(|| unreachable!("all is reported"));
    assert_eq!((usage.output, usage.source), (Some(9), Source::Upstream));
}

#[test]
fn bytes_that_are_no_json_pass_and_say_nothing() {
    for junk in [
        "<html>}}]]\"",
        "data: {\"choices\":[{]}\n\ndata: ]\n\ndata: \\\n\n",
        "{{{{",
        "\0",
    ] {
        for form in [Form::Body, Form::Events] {
            let mut meter = Meter::new(Surface::Chat, "gpt-4o", form, false);
            let bytes = chunk(&junk.repeat(50));
            assert_eq!(meter.feed(bytes.clone()), bytes);
            assert_eq!((meter.usage(), meter.delivered()), (None, 0), "{junk}");
        }
    }
}

#[test]
fn a_quiet_stream_costs_little_memory() {
    assert!(
        std::mem::size_of::<Meter>() <= 1024,
        "{}",
        std::mem::size_of::<Meter>()
    );
    let mut meter = chat(true);
    for _ in 0..1000 {
        meter.feed(chunk(": ping\n\n"));
    }
    assert_eq!(
        (
            meter.held.capacity(),
            meter.edited.capacity(),
            meter.tally.bytes()
        ),
        (0, 0, 0)
    );
}

#[test]
fn an_event_that_fits_a_shape_says_what_reading_it_would_say() {
    let events = [
        said(0, "Hi"),
        said(0, " \\ud83d"),
        said(1, "").replace("null}],", "\"stop\"}],"),
        said(0, "a").replace("}\n\n", ",\"p\":\"xy\"}\n\n"),
        "data: {\"choices\":[{\"text\":\"a\"}],\"usage\":{\"prompt_tokens\":1}}\n\n".to_owned(),
    ];
    let mut fitted = 0;
    for event in &events {
        for at in 0..event.len() {
            for byte in b"\"\\{}[],:\n\rx1\xff" {
                let mut changed = event.as_bytes().to_vec();
                changed[at] = *byte;
                for strip in [false, true] {
                    let stream = [event.as_bytes(), &changed, event.as_bytes()];
                    let run = |forget: bool| {
                        let mut meter = chat(strip);
                        let mut out = Vec::new();
                        for piece in stream {
                            if forget {
                                meter.shape = Shape::default();
                            }
                            out.extend_from_slice(&meter.feed(Bytes::copy_from_slice(piece)));
                        }
                        out.extend_from_slice(&meter.end());
                        let facts = (meter.usage(), meter.saw_finish(), meter.delivered());
                        (out, facts)
                    };
                    assert_eq!(
                        run(false),
                        run(true),
                        "{}",
                        String::from_utf8_lossy(&changed)
                    );
                    let mut meter = chat(strip);
                    meter.feed(chunk(event));
                    fitted += usize::from(meter.shape.fit(&changed).is_some());
                }
            }
        }
    }
    assert!(fitted > 100, "shapes fit only {fitted} events");
}

#[test]
fn an_invoked_answer_whose_client_leaves_lacks_the_output_of_its_beginning() {
    let mut meter = Meter::new(Surface::Invoke, "anthropic.claude-x", Form::Lines, false);
    meter.feed(chunk(
        "{\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n",
    ));
    assert!(meter.lacks_output());
    meter.feed(chunk(
        "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"text\":\"Upstream and down again\"}}\n",
    ));
    let usage = meter.settle(|| unreachable!("the prompt is reported"));
    assert_eq!(usage.input, Some(9));
    assert_eq!(usage.output, Some(tokens("Upstream and down again")));
    assert_ne!(usage.source, Source::Upstream);
    meter.feed(chunk(
        "{\"type\":\"message_delta\",\"usage\":{\"output_tokens\":4}}\n",
    ));
    assert!(!meter.lacks_output() && meter.usage_is_whole());
}

#[test]
fn an_answer_in_an_unknown_coding_passes_unread() {
    let mut meter = chat(true).decoding(None);
    let event = chunk(&said(0, "Hello"));
    assert_eq!(meter.feed(event.clone()), event);
    assert!(meter.is_blind() && !meter.first_token_seen());
    assert_eq!((meter.saw_finish(), meter.usage()), (Ending::Unread, None));
}

#[test]
fn a_meter_that_lets_go_passes_what_it_held_unedited_and_reads_on() {
    let content = "water ".repeat(600);
    let usage = r#","usage":{"prompt_tokens":5,"completion_tokens":9}"#;
    let event = said(0, &content).replace(r#","usage":null"#, usage);
    let next = said(0, "on");
    let plain = |event: &str| event.replace(usage, "").replace(r#","usage":null"#, "");
    for cut in (0..100)
        .chain(1950..2150)
        .chain(event.len() - 70..event.len())
    {
        for strip in [false, true] {
            let mut meter = chat(strip);
            let mut out = meter.feed(chunk(&event[..cut])).to_vec();
            out.extend_from_slice(&meter.let_go());
            assert!(meter.bytes() <= 2 * HELD_BYTES_KEPT_MAX, "cut at {cut}");
            for piece in [&event[cut..], &next] {
                out.extend_from_slice(&meter.feed(chunk(piece)));
            }
            let expected = match (strip, cut > HELD_BYTES_KEPT_MAX) {
                (false, _) => event.clone() + &next,
                (true, false) => plain(&event) + &plain(&next),
                (true, true) => event.clone() + &plain(&next),
            };
            assert!(out == expected.as_bytes(), "cut at {cut}, strip {strip}");
            assert_eq!(meter.usage().and_then(|usage| usage.input), Some(5));
            assert_eq!(meter.delivered(), tokens(&(content.clone() + "on")));
        }
    }
}

#[test]
fn what_is_not_delivered_or_guessed_is_estimated() {
    for (model, source) in [
        ("gpt-4o", Source::Counted),
        ("o3", Source::Estimated),
        ("gpt-5-mini", Source::Estimated),
        ("gpt-oss-120b", Source::Estimated),
    ] {
        let mut meter = Meter::new(Surface::Chat, model, Form::Events, false);
        meter.feed(chunk(&said(0, "Hello there")));
        assert_eq!(meter.settle(|| 7).source, source, "{model}");
        meter.feed(chunk("data: {\"usage\":{\"completion_tokens\":9}}\n\n"));
        // The upstream's own output is short of nothing.
        assert_eq!(meter.settle(|| 7).source, Source::Counted, "{model}");
    }
}

//! Arbitrary requests and answers: nothing panics, no cut of the bytes changes anything, and what is
//! held stays small.
//!
//! Seeded, so that each run is the same. `WEIR_FUZZ=20` makes it twenty times as long.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use weir_dialect::ir::Unfit;
use weir_dialect::surface::Form;
use weir_dialect::translate::HELD_BYTES_MAX;

use crate::golden::{
    Answer, CLIENTS, Carrier, Client, FEATURES, Got, UPSTREAMS, Upstream, is_stream,
};
use crate::mutate::Mutator;
use crate::recordings;
use crate::seen::{self, Wire};

fn times() -> u64 {
    let said = std::env::var("WEIR_FUZZ").ok();
    said.and_then(|it| it.parse().ok()).unwrap_or(1)
}

fn requests_of(client: &Client) -> Vec<(&'static str, Value)> {
    let read = |feature: &'static str| {
        let body = client.body(feature)?;
        Some((feature, serde_json::from_slice(&body).expect("JSON")))
    };
    FEATURES.into_iter().filter_map(read).collect()
}

#[test]
fn a_request_is_translated_or_refused_whatever_it_is() {
    let all: Vec<Value> = (CLIENTS.iter())
        .flat_map(requests_of)
        .map(|(_, value)| value)
        .collect();
    let mutator = Mutator::of(&all);
    let (mut executions, mut translated) = (0_u64, 0_u64);
    for (number, client) in CLIENTS.iter().enumerate() {
        let bases = requests_of(client);
        if bases.is_empty() {
            continue;
        }
        for round in 0..150 * times() {
            let mut chance = SmallRng::seed_from_u64(round << 8 | number as u64);
            let (feature, base) = &bases[chance.random_range(0..bases.len())];
            let body = match round % 10 {
                0 => mutator.value(&mut chance, 6).to_string().into_bytes(),
                1 => mutator.bytes(&mut chance, base.to_string().as_bytes()),
                _ => {
                    let mut body = base.clone();
                    for _ in 0..chance.random_range(0..4) {
                        mutator.json(&mut chance, &mut body);
                    }
                    body.to_string().into_bytes()
                }
            };
            for upstream in &UPSTREAMS {
                executions += 2;
                translated += u64::from(ask(client, &body, is_stream(feature), upstream));
            }
        }
    }
    println!("{executions} requests, {translated} of them translated");
    assert!(translated * 20 > executions, "some of them make sense");
}

/// A lenient route refuses only what is wrong in itself, and otherwise does what a strict one does.
fn ask(client: &Client, body: &[u8], stream: bool, upstream: &Upstream) -> bool {
    let shown = || {
        let body = String::from_utf8_lossy(body);
        format!("{} to {}: {body}", client.name, upstream.name)
    };
    let strict = client.ask(body, stream, upstream, false);
    let lenient = client.ask(body, stream, upstream, true);
    match (strict, lenient) {
        (Ok(strict), Ok(lenient)) => {
            assert!(
                strict.dropped.is_empty() && lenient.dropped.is_empty(),
                "{}",
                shown()
            );
            assert_eq!(strict.path, lenient.path, "{}", shown());
            assert_eq!(strict.body, lenient.body, "{}", shown());
            assert!(
                upstream.answers.is_none() || serde_json::from_slice::<Value>(&strict.body).is_ok()
            );
            true
        }
        (Err(Unfit::Inexpressible { at, .. }), Ok(lenient)) => {
            assert!(
                !lenient.dropped.is_empty(),
                "{at} was dropped silently: {}",
                shown()
            );
            false
        }
        (Err(_), Err(Unfit::Inexpressible { at, .. })) => {
            panic!("{at} is refused by a lenient route: {}", shown())
        }
        (Err(_), Err(unfit)) => {
            assert!(!unfit.to_string().is_empty());
            false
        }
        (strict, lenient) => panic!("{strict:?} but {lenient:?}: {}", shown()),
    }
}

/// Answers of an upstream: our own, and recorded ones that aren't long.
fn answers_of(upstream: &Upstream) -> Vec<Answer> {
    const RECORDED_BYTES_MAX: usize = 20_000;
    let mut answers: Vec<_> = (FEATURES.into_iter())
        .filter_map(|feature| upstream.answer(feature))
        .collect();
    if let Some(folder) = recordings::folder() {
        let recorded = recordings::cases(&folder).into_iter();
        answers.extend(
            recorded
                .filter(|(_, of, answer)| {
                    of.name == upstream.name && answer.bytes.len() < RECORDED_BYTES_MAX
                })
                .map(|(_, _, answer)| answer),
        );
    }
    answers
}

#[test]
fn an_answer_is_the_same_in_any_cut_whatever_it_is() {
    let (mut executions, mut understood) = (0_u64, 0_u64);
    for (number, upstream) in UPSTREAMS.iter().enumerate() {
        let bases = answers_of(upstream);
        let values: Vec<Value> = (bases.iter())
            .filter(|base| base.wire() != Wire::Body || base.form == Form::Body)
            .filter(|_| upstream.answers.is_some())
            .flat_map(|base| seen::events(base.wire(), &base.bytes))
            .map(|event| event.data)
            .collect();
        let mutator = Mutator::of(&values);
        for round in 0..60 * times() {
            let mut chance = SmallRng::seed_from_u64(round << 8 | number as u64);
            if bases.is_empty() {
                continue;
            }
            let base = &bases[chance.random_range(0..bases.len())];
            let answer = mutated(&mut chance, &mutator, upstream, base);
            for client in &CLIENTS {
                for stream in [false, true] {
                    executions += 2;
                    let cut = cut(&mut chance, &answer);
                    understood += u64::from(answers(client, stream, upstream, &answer, cut));
                }
            }
        }
    }
    println!("{executions} answers, {understood} pairs of them understood");
    assert!(understood * 20 > executions, "some of them make sense");
}

fn cut(chance: &mut SmallRng, answer: &Answer) -> usize {
    match chance.random_range(0..3) {
        0 => 1,
        1 => chance.random_range(1..40),
        _ => chance.random_range(1..answer.bytes.len().max(1) + 2),
    }
}

fn mutated(chance: &mut SmallRng, mutator: &Mutator, upstream: &Upstream, base: &Answer) -> Answer {
    let bytes = match chance.random_range(0..10) {
        0 => {
            let length = chance.random_range(0..400);
            (0..length).map(|_| chance.random()).collect()
        }
        1 | 2 => mutator.bytes(chance, &base.bytes),
        _ if upstream.answers.is_none() => mutator.bytes(chance, &base.bytes),
        _ => mutator.events(chance, base.wire(), &base.bytes),
    };
    Answer {
        form: base.form,
        bytes,
    }
}

/// Feeds it whole and cut; what the client gets is always something it can read.
fn answers(
    client: &Client,
    stream: bool,
    upstream: &Upstream,
    answer: &Answer,
    cut: usize,
) -> bool {
    let feature = if stream { "stream" } else { "text" };
    let Some(body) = client.body(feature) else {
        return false;
    };
    let through = |cut| {
        let translated = client.ask(&body, stream, upstream, false);
        Some(answer.through(translated.ok()?, cut))
    };
    let Some(whole) = through(usize::MAX) else {
        return false;
    };
    let shown = |got: &Got| {
        format!(
            "{} from {}, {:?}:\n{}\ngives {:?}\n{}",
            client.name,
            upstream.name,
            answer.form,
            String::from_utf8_lossy(&answer.bytes),
            got.failed,
            String::from_utf8_lossy(&got.bytes)
        )
    };
    let pieces = through(cut).expect("a request");
    assert!(
        whole == pieces,
        "cut by {cut} it differs, {}\nbut whole {}",
        shown(&pieces),
        shown(&whole)
    );
    if !stream && whole.failed.is_some() {
        assert!(whole.bytes.is_empty(), "{}", shown(&whole));
        return false;
    }
    let wire = if stream { client.stream } else { Wire::Body };
    let read = std::panic::catch_unwind(|| drop(seen::read(client.answers, wire, &whole.bytes)));
    assert!(read.is_ok(), "no client reads that: {}", shown(&whole));
    whole.failed.is_none()
}

#[test]
fn an_endless_event_is_given_up() {
    let client = &CLIENTS[0];
    let body = client.body("stream").expect("a request");
    let mut executions = 0;
    for upstream in &UPSTREAMS {
        let form = match upstream.answer("stream") {
            Some(answer) => answer.form,
            None => continue,
        };
        let Ok(translated) = client.ask(&body, true, upstream, false) else {
            continue;
        };
        let mut translator = Carrier::begin(translated, form);
        // Frames say how long they are: this one is as long as a frame may be.
        let mut piece = vec![b' '; 1 << 20];
        if form == Form::Frames {
            piece[..8].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        }
        let mut out = Vec::new();
        let mut fed = 0;
        while translator.feed(&piece, &mut out).is_ok() && fed <= 2 * HELD_BYTES_MAX {
            fed += piece.len();
            executions += 1;
            // A vector has room for twice what is in it.
            assert!(translator.bytes() <= 2 * HELD_BYTES_MAX);
            piece[..8].fill(b' ');
        }
        assert!(
            fed <= HELD_BYTES_MAX,
            "{} holds without end: {fed} bytes",
            upstream.name
        );
        assert!(!out.is_empty(), "the client is told");
    }
    println!("{executions} pieces");
}

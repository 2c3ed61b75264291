use super::*;

const KEY: Key<'static> = Key {
    provider: "somewhere",
    model: "deepseek-chat",
};

fn prompt(text: u64, wide: bool) -> Prompt {
    Prompt {
        text,
        fixed: 7,
        bytes: text.saturating_mul(4),
        wide_bytes: if wide { text.saturating_mul(3) } else { 0 },
        media: false,
        guessed: false,
        counted: true,
    }
}

/// A draw below 1000, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % 1000
    }
}

/// What a model with these ratios reports, with a scatter of some percent.
fn reported(dice: &mut Dice, prompt: &Prompt, ratios: [u64; 2], beside: u64) -> u64 {
    let by_1000 = ratios[usize::from(prompt.is_wide())] + dice.roll() % 100 - 50;
    prompt.text * by_1000 / 1000 + beside + prompt.fixed
}

fn draw(dice: &mut Dice) -> Prompt {
    let length = 20 + dice.roll() * (1 + dice.roll() % 8);
    prompt(length, dice.roll() < 300)
}

#[test]
fn what_is_reported_is_what_is_estimated_after_some_requests() {
    let calibration = Calibration::default();
    let mut dice = Dice(1);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let (mut sum, mut truth) = (0, 0);
    for number in 0..1000 {
        let prompt = draw(&mut dice);
        let reported = reported(&mut dice, &prompt, [1350, 700], 40);
        let estimate = calibration.input(KEY, &prompt);
        let plain = family(KEY.model).seeded(&prompt);
        if number >= 100 {
            let off = |estimate: u64| estimate.abs_diff(reported) * 1000 / reported;
            before.push(off(plain));
            after.push(off(estimate));
            sum += estimate;
            truth += reported;
        }
        calibration.learn(
            KEY,
            Sample::Input {
                prompt: &prompt,
                reported,
            },
        );
    }
    let middle = |errors: &mut Vec<u64>| {
        errors.sort_unstable();
        (errors[errors.len() / 2], errors[errors.len() * 95 / 100])
    };
    let (before, after) = (middle(&mut before), middle(&mut after));
    println!("p50, p95 in ‰: {before:?} before, {after:?} after; sum {sum}, truth {truth}");
    assert!(after.0 <= 35 && after.1 <= 90, "{after:?}");
    assert!(before.0 > 150, "{before:?}");
    assert!(sum.abs_diff(truth) * 100 <= truth, "{sum}, {truth}");
}

#[test]
fn a_ratio_that_changes_is_learned_anew() {
    let calibration = Calibration::default();
    let mut dice = Dice(2);
    for ratio in [1000, 1600] {
        for _ in 0..1000 {
            let prompt = draw(&mut dice);
            let reported = reported(&mut dice, &prompt, [ratio, ratio], 0);
            calibration.learn(
                KEY,
                Sample::Input {
                    prompt: &prompt,
                    reported,
                },
            );
        }
        let tokens = calibration.input(KEY, &prompt(1000, false));
        assert!(tokens.abs_diff(ratio) <= 60, "{tokens} for {ratio}");
    }
}

#[test]
fn one_absurd_report_does_not_spoil_what_was_learned() {
    let calibration = Calibration::default();
    let learn = |text, reported| {
        let prompt = prompt(text, false);
        let sample = Sample::Input {
            prompt: &prompt,
            reported,
        };
        calibration.learn(KEY, sample);
    };
    (0..300).for_each(|_| learn(1000, 1007));
    let before = calibration.input(KEY, &prompt(1000, false));
    for absurd in [0, u64::MAX, 1 << 53] {
        learn(1000, absurd);
        learn(TOKENS_MAX, absurd);
        learn(u64::MAX / 2, absurd);
    }
    (0..300).for_each(|_| learn(1000, 1007));
    let after = calibration.input(KEY, &prompt(1000, false));
    assert!(after.abs_diff(before) <= 400, "{before}, then {after}");
    for text in [0, 1, 8, 1 << 40, u64::MAX / 8] {
        calibration.input(KEY, &prompt(text, true));
        calibration.output(KEY, true, text, None);
    }
}

#[test]
fn a_model_with_an_own_vocabulary_stays_as_it_is_counted() {
    let calibration = Calibration::default();
    let key = Key {
        model: "gpt-4o",
        ..KEY
    };
    assert!(!calibration.wants(key));
    let prompt = prompt(1000, false);
    for _ in 0..100 {
        let reported = 2000;
        calibration.learn(
            key,
            Sample::Input {
                prompt: &prompt,
                reported,
            },
        );
    }
    assert_eq!(calibration.input(key, &prompt), 1007);
    assert_eq!(calibration.output(key, false, 100, Some(3)), 100);
}

#[test]
fn images_and_estimates_teach_nothing() {
    let calibration = Calibration::default();
    let plain = prompt(1000, false);
    let before = calibration.input(KEY, &plain);
    for prompt in [
        Prompt {
            media: true,
            ..plain
        },
        Prompt {
            counted: false,
            ..plain
        },
        Prompt {
            text: TOKENS_MIN - 1,
            ..plain
        },
    ] {
        let reported = 9000;
        (0..50).for_each(|_| {
            calibration.learn(
                KEY,
                Sample::Input {
                    prompt: &prompt,
                    reported,
                },
            );
        });
    }
    assert_eq!(calibration.input(KEY, &plain), before);
}

#[test]
fn prompts_tell_of_answers_until_answers_do() {
    let calibration = Calibration::default();
    let prompt = prompt(2000, false);
    for _ in 0..100 {
        let reported = 3007;
        calibration.learn(
            KEY,
            Sample::Input {
                prompt: &prompt,
                reported,
            },
        );
    }
    let by_prompts = calibration.output(KEY, false, 1000, None);
    assert!(by_prompts.abs_diff(1500) <= 50, "{by_prompts}");
    for _ in 0..100 {
        let (counted, reported) = (1000, 1200);
        calibration.learn(
            KEY,
            Sample::Output {
                wide: false,
                counted,
                reported,
            },
        );
    }
    let by_answers = calibration.output(KEY, false, 1000, None);
    assert!(by_answers.abs_diff(1200) <= 20, "{by_answers}");
}

#[test]
fn deltas_are_believed_after_some_streams_and_no_longer_after_one_that_differs() {
    let calibration = Calibration::default();
    let learn = |deltas, reported| calibration.learn(KEY, Sample::Deltas { deltas, reported });
    let cut = || calibration.output(KEY, false, 50, Some(70));
    let counted = calibration.output(KEY, false, 50, None);
    for stream in 0..ALIGNED_MIN {
        assert_eq!(cut(), counted, "after {stream} streams");
        learn(100, 101);
        // Too short to tell.
        learn(3, 9);
    }
    assert_eq!(cut(), 70);
    assert_eq!(calibration.output(KEY, false, 50, None), counted);
    for (deltas, reported) in [(100, 105), (100, 99)] {
        (0..ALIGNED_MIN).for_each(|_| learn(100, 100));
        assert_eq!(cut(), 70);
        learn(deltas, reported);
        assert_eq!(cut(), counted, "{deltas} deltas, {reported} tokens");
    }
}

#[test]
fn at_first_each_request_is_wanted_then_fewer_and_fewer() {
    let calibration = Calibration::default();
    let wanted = |requests: u64| (0..requests).filter(|_| calibration.wants(KEY)).count();
    assert_eq!(wanted(2 * SEEN_MIN - 1), 2 * 64 - 1);
    // From the 2 × 64th on every second, then every fourth.
    assert_eq!(wanted(SEEN_MIN), 32);
    assert_eq!(wanted(2 * SEEN_MIN), 32);
    wanted(1 << 20);
    assert_eq!(wanted(100 * SEEN_STEP_MAX), 100);
}

#[test]
fn the_model_that_was_used_longest_ago_makes_room() {
    let calibration = Calibration::default();
    let learn = |model: &str| {
        let key = Key { model, ..KEY };
        let (deltas, reported) = (100, 100);
        calibration.learn(key, Sample::Deltas { deltas, reported });
    };
    learn("kept");
    learn("forgotten");
    for number in 0..MODELS_MAX - 1 {
        learn("kept");
        learn(&format!("m{number}"));
    }
    let known = || {
        let models = calibration.models.lock();
        let names = models.known.values().map(|model| model.name.to_string());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(known().len(), MODELS_MAX);
    assert!(known().contains("kept") && !known().contains("forgotten"));
    learn(&"m".repeat(MODEL_BYTES_MAX + 1));
    assert_eq!(known().len(), MODELS_MAX);
}

#[test]
fn a_successor_knows_what_was_learned() {
    let first = Calibration::default();
    let mut dice = Dice(3);
    for _ in 0..200 {
        let prompt = draw(&mut dice);
        let reported = reported(&mut dice, &prompt, [1300, 800], 20);
        let sample = Sample::Input {
            prompt: &prompt,
            reported,
        };
        first.learn(KEY, sample);
        let (deltas, reported) = (100, 100);
        first.learn(KEY, Sample::Deltas { deltas, reported });
    }
    let state = serde_json::from_str(&first.hand_over().to_string()).unwrap();
    let second = Calibration::default();
    second.take_over(&state);
    for (text, wide) in [(50, false), (1000, true), (5000, false)] {
        let prompt = prompt(text, wide);
        assert_eq!(second.input(KEY, &prompt), first.input(KEY, &prompt));
    }
    assert_eq!(second.output(KEY, false, 50, Some(70)), 70);
    // Who has learned more is believed.
    let prompt = prompt(1000, false);
    let reported = 2007;
    let sample = Sample::Input {
        prompt: &prompt,
        reported,
    };
    (0..300).for_each(|_| second.learn(KEY, sample));
    let learned = second.input(KEY, &prompt);
    second.take_over(&state);
    assert_eq!(second.input(KEY, &prompt), learned);
}

#[test]
fn a_state_that_makes_no_sense_is_left() {
    let calibration = Calibration::default();
    let sums = |n: f64| serde_json::json!([n, 10.0, 0.1, 10.0, 1.0]);
    let state = |fit: Value| serde_json::json!([["p", "m", 1, 1, [fit, fit, fit, fit]]]);
    for nonsense in [
        Value::Null,
        serde_json::json!([1, "x", {}, [], [1, 2]]),
        state(serde_json::json!(["n"])),
        state(sums(-1.0)),
        state(sums(1e300)),
    ] {
        calibration.take_over(&nonsense);
        assert!(calibration.models.lock().known.is_empty(), "{nonsense}");
    }
    calibration.take_over(&state(sums(1.0)));
    assert_eq!(calibration.models.lock().known.len(), 1);
}

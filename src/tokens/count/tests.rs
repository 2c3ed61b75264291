//! The reference tokenizer is the oracle: whatever the text, `count` says what it says.

use std::ops::Range;

use tiktoken_rs::CoreBPE;

use super::classes::{CASELESS, LETTER, LOWER, MARK, NEWLINE, NUMBER, SPACE, SYMBOL, UPPER};
use super::*;

const ENCODINGS: [Encoding; 2] = [Encoding::O200k, Encoding::Cl100k];

/// At least one character of each class, and those that a rule names.
const REPRESENTATIVES: [char; 16] = [
    'A', 'a', 's', 'ǅ', 'ſ', '中', '\u{301}', '1', '\n', '\r', ' ', '\u{a0}', '\'', '/', '!', '😀',
];

fn oracle(encoding: Encoding) -> &'static CoreBPE {
    match encoding {
        Encoding::O200k => tiktoken_rs::o200k_base_singleton(),
        Encoding::Cl100k => tiktoken_rs::cl100k_base_singleton(),
    }
}

#[track_caller]
fn assert_counts(text: &str) {
    for encoding in ENCODINGS {
        let expected = oracle(encoding).encode_ordinary(text).len() as u64;
        assert_eq!(count(encoding, text), expected, "{encoding:?} of {text:?}");
    }
}

/// Calls `visit` with every text of `length` representatives.
fn each_text(length: usize, mut visit: impl FnMut(&str)) {
    let mut text = String::new();
    for index in 0..REPRESENTATIVES.len().pow(length as u32) {
        text.clear();
        let mut rest = index;
        for _ in 0..length {
            text.push(REPRESENTATIVES[rest % REPRESENTATIVES.len()]);
            rest /= REPRESENTATIVES.len();
        }
        visit(&text);
    }
}

/// A fixed sequence of numbers (SplitMix64): the same texts in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % below as u64) as usize
    }

    /// A text of up to `characters` characters: runs of one kind, words, and anything at all.
    fn text(&mut self, characters: usize) -> String {
        const WORDS: [&str; 16] = [
            "the",
            " Token",
            "'s",
            "'LL",
            "don't",
            " 2026",
            "\r\n",
            "  ",
            "\t",
            "//",
            " https://",
            "中文ABC",
            " naïve",
            "الْعَرَبِيَّة",
            "👩‍👩‍👧",
            "<|endoftext|>",
        ];
        const BLOCKS: [Range<u32>; 6] = [
            0..0x80,
            0x80..0x250,
            0x300..0x600,
            0x1e00..0x2070,
            0x4e00..0x9fff,
            0x1_f300..0x1_f700,
        ];
        let goal = 1 + self.roll(characters);
        let mut text = String::new();
        while text.chars().count() < goal {
            match self.roll(5) {
                0 => text.push_str(WORDS[self.roll(WORDS.len())]),
                1 | 2 => text.push(REPRESENTATIVES[self.roll(REPRESENTATIVES.len())]),
                3 => {
                    let block = &BLOCKS[self.roll(BLOCKS.len())];
                    let scalar = block.start + self.roll(block.len()) as u32;
                    let repeats = 1 + self.roll(6);
                    text.extend(char::from_u32(scalar).into_iter().cycle().take(repeats));
                }
                _ => text.extend(char::from_u32(self.roll(0x11_0000) as u32)),
            }
        }
        text
    }
}

/// Texts without a place to split, or with the most merges, as far as known.
fn worst_cases(bytes: usize) -> Vec<(&'static str, String)> {
    let repeated = |unit: &str| unit.repeat(bytes / unit.len());
    let mut dice = Dice(11);
    let random: String = (0..bytes)
        .map(|_| (b'a' + dice.roll(26) as u8) as char)
        .collect();
    let capitals: String = random.to_ascii_uppercase();
    let base64: String = (0..bytes)
        .map(|_| {
            const DIGITS: &[u8; 62] =
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
            DIGITS[dice.roll(62)] as char
        })
        .collect();
    let han: String = (0..bytes / 3)
        .map(|_| char::from_u32(0x4e00 + dice.roll(0x5000) as u32).expect("in the block of Han"))
        .collect();
    let mut cases = vec![
        ("random lower case", random),
        ("random upper case", capitals.clone()),
        ("one Han, then capitals", format!("中{capitals}")),
        ("one mark, then capitals", format!("\u{301}{capitals}")),
        ("base64", base64),
        ("Han", han),
        ("spaces, then a letter", format!("{}x", repeated(" "))),
        ("a line end, then spaces", format!("\n{}x", repeated(" "))),
    ];
    for unit in [
        "a",
        "A",
        " ",
        "\t",
        "\n",
        "\r\n",
        "\u{a0}",
        "\u{3000}",
        "1",
        "^",
        "-",
        "=",
        "/",
        "'",
        "a'",
        "'s",
        "\u{301}",
        "A\u{301}",
        "aA",
        " a",
        " \n",
        "\0",
        "é",
        "中",
        "😀",
        "ſ",
        "ᄀ",
        "\u{10ffff}",
    ] {
        cases.push((unit, repeated(unit)));
    }
    cases
}

#[test]
fn vocabularies_are_whole() {
    assert_eq!(vocabulary(Encoding::O200k).tokens(), 199_998);
    assert_eq!(vocabulary(Encoding::Cl100k).tokens(), 100_256);
    for encoding in ENCODINGS {
        let probe = vocabulary(encoding).longest_probe();
        assert!(
            probe < 100,
            "{encoding:?}: a look-up can read {probe} slots"
        );
    }
}

#[test]
fn every_short_text_counts_as_the_reference_counts_it() {
    for length in 0..=3 {
        each_text(length, assert_counts);
    }
}

#[test]
#[ignore = "half a minute without optimisation"]
fn every_text_of_four_characters_counts_as_the_reference_counts_it() {
    each_text(4, assert_counts);
}

#[test]
#[ignore = "minutes without optimisation"]
fn every_text_of_five_characters_counts_as_the_reference_counts_it() {
    each_text(5, assert_counts);
}

#[test]
fn every_token_is_found_by_its_bytes_and_no_other() {
    for encoding in ENCODINGS {
        let (core, vocabulary) = (oracle(encoding), vocabulary(encoding));
        for rank in 0..vocabulary.tokens() as u32 {
            let mut token = core.decode_bytes(&[rank]).expect("ranks have no gap");
            let length = token.len();
            if length > 1 {
                assert_eq!(vocabulary.rank(&token, 0, length), rank, "{token:?}");
            }
            token.push(0);
            let longer = vocabulary.rank(&token, 0, length + 1);
            if longer != vocabulary::NONE {
                assert_eq!(core.decode_bytes(&[longer]).ok(), Some(token));
            }
        }
    }
}

/// The published patterns, matched by trying everything: two texts that are split differently may
/// still have the same count.
mod patterns {
    use super::*;

    /// Up to so many characters, as many as can be; given back one by one unless `keep`.
    struct Run(u8, usize, usize, bool);

    enum Part {
        Of(Run),
        Slashes,
        Blank,
        Contraction,
        TextEnd,
        NotBeforeInk,
    }
    use Part::*;

    const fn of(classes: u8, least: usize, most: usize) -> Part {
        Of(Run(classes, least, most, false))
    }

    const fn kept(classes: u8, least: usize, most: usize) -> Part {
        Of(Run(classes, least, most, true))
    }

    const ANY: usize = usize::MAX;
    const WHITE: u8 = SPACE | NEWLINE;
    const PREFIX: u8 = MARK | SPACE | SYMBOL;
    const HIGH: u8 = UPPER | CASELESS | MARK;
    const LOW: u8 = LOWER | CASELESS | MARK;

    const O200K: [&[Part]; 9] = [
        &[
            of(PREFIX, 0, 1),
            of(HIGH, 0, ANY),
            of(LOW, 1, ANY),
            Contraction,
        ],
        &[of(PREFIX, 0, 1), of(HIGH, 0, ANY), of(LOW, 1, ANY)],
        &[
            of(PREFIX, 0, 1),
            of(HIGH, 1, ANY),
            of(LOW, 0, ANY),
            Contraction,
        ],
        &[of(PREFIX, 0, 1), of(HIGH, 1, ANY), of(LOW, 0, ANY)],
        &[of(NUMBER, 1, 3)],
        &[Blank, of(MARK | SYMBOL, 1, ANY), Slashes],
        &[of(WHITE, 0, ANY), of(NEWLINE, 1, ANY)],
        &[of(WHITE, 1, ANY), NotBeforeInk],
        &[of(WHITE, 1, ANY)],
    ];

    const CL100K: [&[Part]; 8] = [
        &[Contraction],
        &[kept(PREFIX, 0, 1), kept(LETTER, 1, ANY)],
        &[kept(NUMBER, 1, 3)],
        &[Blank, kept(MARK | SYMBOL, 1, ANY), kept(NEWLINE, 0, ANY)],
        &[kept(WHITE, 1, ANY), TextEnd],
        &[of(WHITE, 0, ANY), of(NEWLINE, 1, 1)],
        &[of(WHITE, 1, ANY), NotBeforeInk],
        &[of(WHITE, 1, 1)],
    ];

    /// The characters that the parts take from `text`.
    fn taken(parts: &[Part], text: &[char]) -> Option<usize> {
        let [part, rest @ ..] = parts else {
            return Some(0);
        };
        let then = |taken_here: usize| Some(taken_here + taken(rest, &text[taken_here..])?);
        let is = |c: &char, classes: u8| CLASSES.of(u32::from(*c)) & classes != 0;
        match part {
            Of(Run(classes, least, most, keep)) => {
                let run = text
                    .iter()
                    .take(*most)
                    .take_while(|c| is(c, *classes))
                    .count();
                let least = if *keep { run.max(*least) } else { *least };
                (least..=run).rev().find_map(then)
            }
            Blank => then(usize::from(text.first() == Some(&' '))).or_else(|| then(0)),
            Slashes => then(
                text.iter()
                    .take_while(|c| matches!(c, '\r' | '\n' | '/'))
                    .count(),
            ),
            TextEnd => text.is_empty().then_some(0),
            NotBeforeInk => text.first().is_none_or(|c| is(c, WHITE)).then_some(0),
            Contraction => {
                let lower: String = text.iter().take(3).flat_map(|c| c.to_lowercase()).collect();
                let lower = lower.replace('ſ', "s");
                let known = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
                known
                    .iter()
                    .find(|known| lower.starts_with(**known))
                    .and_then(|c| then(c.len()))
            }
        }
    }

    /// The lengths in bytes of the pieces of `text`.
    pub fn pieces(encoding: Encoding, text: &str) -> Vec<usize> {
        let characters: Vec<char> = text.chars().collect();
        let mut rest = &*characters;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let forms: &[&[Part]] = match encoding {
                Encoding::O200k => &O200K,
                Encoding::Cl100k => &CL100K,
            };
            let end = forms
                .iter()
                .find_map(|form| taken(form, rest))
                .expect("all text matches");
            pieces.push(rest[..end].iter().map(|c| c.len_utf8()).sum());
            rest = &rest[end..];
        }
        pieces
    }
}

fn scanned(encoding: Encoding, text: &str) -> Vec<usize> {
    let scan = Scan::new(&CLASSES, text.as_bytes());
    let mut start = 0;
    let mut pieces = Vec::new();
    while start < text.len() {
        let end = match encoding {
            Encoding::O200k => scan.o200k(start).end,
            Encoding::Cl100k => scan.cl100k(start).end,
        };
        pieces.push(end - start);
        start = end;
    }
    pieces
}

#[test]
fn every_short_text_is_split_as_the_patterns_split_it() {
    let mut dice = Dice(5);
    let mut texts: Vec<String> = (0..2_000).map(|_| dice.text(30)).collect();
    for length in 1..=4 {
        each_text(length, |text| texts.push(text.to_owned()));
    }
    for contraction in [
        "'S", "'T", "'rE", "'Ve", "'m", "'lL", "'d", "'ſ", "'x", "'l", "'",
    ] {
        texts
            .extend(["", "a", "A", "中", "1", " "].map(|before| format!("{before}{contraction}b")));
    }
    for text in texts {
        for encoding in ENCODINGS {
            let expected = patterns::pieces(encoding, &text);
            assert_eq!(
                scanned(encoding, &text),
                expected,
                "{encoding:?} of {text:?}"
            );
        }
    }
}

#[test]
fn settled_pieces_of_every_short_text_do_not_depend_on_what_follows() {
    each_text(4, |text| {
        for encoding in ENCODINGS {
            let whole = count(encoding, text);
            for (cut, _) in text.char_indices() {
                let (tokens, end) = settled(encoding, &text[..cut]);
                let split = tokens + count(encoding, &text[end..]);
                assert_eq!(
                    split, whole,
                    "{encoding:?} of {text:?} when {cut} bytes arrived"
                );
            }
        }
    });
}

/// `scalars`, each between neighbours of several kinds.
fn assert_scalars(scalars: impl Iterator<Item = char>) {
    let scalars: Vec<char> = scalars.collect();
    for chunk in scalars.chunks(256) {
        let mut text = String::new();
        for c in chunk {
            text.extend([
                'a', *c, 'B', ' ', *c, 'A', *c, '1', *c, '\n', '!', *c, *c, '\'', 's',
            ]);
        }
        assert_counts(&text);
    }
}

#[test]
fn scalar_values_where_the_class_changes_count_as_the_reference_counts_them() {
    let class = |scalar: u32| CLASSES.of(scalar.min(0x10_ffff));
    let changes = (1..0x11_0000_u32)
        .filter(|&scalar| class(scalar) != class(scalar - 1) || class(scalar) != class(scalar + 1));
    assert_scalars(changes.filter_map(char::from_u32));
}

#[test]
#[ignore = "minutes without optimisation"]
fn all_scalar_values_count_as_the_reference_counts_them() {
    assert_scalars((0..0x11_0000).filter_map(char::from_u32));
}

fn fuzz(seed: u64, texts: usize) {
    let mut dice = Dice(seed);
    for _ in 0..texts {
        let text = dice.text(40);
        assert_counts(&text);
        for encoding in ENCODINGS {
            let whole = count(encoding, &text);
            for cut in (0..text.len()).filter(|&cut| text.is_char_boundary(cut)) {
                let (tokens, end) = settled(encoding, &text[..cut]);
                let split = tokens + count(encoding, &text[end..]);
                assert_eq!(
                    split, whole,
                    "{encoding:?} of {text:?} when {cut} bytes arrived"
                );
            }
        }
    }
}

#[test]
fn random_texts_count_as_the_reference_counts_them() {
    fuzz(1, 800);
}

#[test]
#[ignore = "minutes without optimisation"]
fn many_random_texts_count_as_the_reference_counts_them() {
    fuzz(2, 300_000);
}

#[test]
fn worst_cases_up_to_the_longest_piece_count_exactly() {
    for (name, text) in worst_cases(12_000) {
        for encoding in ENCODINGS {
            let expected = oracle(encoding).encode_ordinary(&text).len() as u64;
            assert_eq!(count(encoding, &text), expected, "{encoding:?} of {name:?}");
        }
    }
}

#[test]
fn a_piece_past_the_longest_is_off_by_less_than_a_thousandth() {
    for (name, text) in worst_cases(20_000) {
        for encoding in ENCODINGS {
            let expected = oracle(encoding).encode_ordinary(&text).len() as u64;
            let counted = count(encoding, &text);
            let off = counted.abs_diff(expected);
            let most = (expected / 1000).max(3);
            assert!(
                off <= most,
                "{encoding:?} of {name:?}: {counted}, not {expected}"
            );
        }
    }
}

#[test]
fn work_is_linear_in_the_worst_text() {
    const BYTES: usize = 1 << 16;
    let mut most = 0;
    for encoding in ENCODINGS {
        vocabulary(encoding); // its making isn't measured
        let quarter = worst_cases(BYTES / 4);
        for ((name, whole), (_, quarter)) in worst_cases(BYTES).into_iter().zip(quarter) {
            work::spent();
            count(encoding, &quarter);
            let small = work::spent();
            count(encoding, &whole);
            let large = work::spent();
            let grown = large as f64 / small as f64;
            assert!(
                grown < 4.2,
                "{encoding:?} of {name:?}: four times the text, {grown}× the work"
            );
            most = most.max(large / BYTES as u64);
        }
    }
    assert!(most <= 24, "{most} steps per byte");
}

#[test]
fn a_megabyte_of_spaces_is_only_text() {
    let text = " ".repeat(1 << 20) + "x";
    for encoding in ENCODINGS {
        vocabulary(encoding);
        work::spent();
        let tokens = count(encoding, &text);
        let steps = work::spent() / (1 << 20);
        assert!((1 << 10..1 << 20).contains(&tokens), "{tokens} tokens");
        assert!(steps <= 24, "{steps} steps per byte");
    }
}

#[test]
fn special_tokens_written_out_are_ordinary_text() {
    let text = "<|endoftext|><|start|>".repeat(100);
    assert_counts(&text);
    assert!(
        count(Encoding::O200k, &text) > 500,
        "a client could write its prompt for nothing"
    );
}

#[test]
fn scratch_is_given_back_after_a_long_piece() {
    count(Encoding::O200k, &"^".repeat(100_000));
    assert!(
        merge::scratch_bytes() <= 64 * 1024,
        "{} bytes kept",
        merge::scratch_bytes()
    );
}

#[test]
fn running_equals_the_whole_for_any_cut() {
    let mut dice = Dice(3);
    let mut texts: Vec<String> = (0..12).map(|_| dice.text(9_000)).collect();
    texts.extend(worst_cases(20_000).into_iter().map(|(_, text)| text));
    for text in texts {
        for encoding in ENCODINGS {
            let whole = count(encoding, &text);
            for longest in [7, 20_000] {
                let mut running = Running::new(encoding);
                let mut start = 0;
                while start < text.len() {
                    let mut end = (start + 1 + dice.roll(longest)).min(text.len());
                    while !text.is_char_boundary(end) {
                        end += 1;
                    }
                    running.push(&text[start..end]);
                    start = end;
                }
                let shown: String = text.chars().take(40).collect();
                assert_eq!(
                    running.total(),
                    whole,
                    "{encoding:?} of {shown:?}… by {longest}"
                );
            }
        }
    }
}

#[test]
fn running_keeps_a_bounded_state() {
    for (name, text) in worst_cases(100_000) {
        let mut running = Running::new(Encoding::O200k);
        for delta in text.as_bytes().chunks(400).map(String::from_utf8_lossy) {
            running.push(&delta);
            let waiting = running.waiting();
            assert!(
                waiting <= PIECE_BYTES_MAX + delta.len(),
                "{name:?}: {waiting} bytes wait"
            );
        }
    }
    let mut prose = Running::new(Encoding::O200k);
    for _ in 0..10_000 {
        prose.push(" and so on");
        assert!(
            prose.waiting() < BUFFER_BYTES,
            "{} bytes wait",
            prose.waiting()
        );
    }
}

#[test]
fn running_does_linear_work_over_deltas_of_a_hostile_stream() {
    let text = "^".repeat(1 << 17);
    vocabulary(Encoding::O200k);
    work::spent();
    let mut running = Running::new(Encoding::O200k);
    for _ in 0..text.len() / 4 {
        running.push("^^^^");
    }
    let steps = work::spent() / text.len() as u64;
    assert!(steps <= 24, "{steps} steps per byte");
    assert_eq!(running.total(), count(Encoding::O200k, &text));
}

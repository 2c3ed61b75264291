//! About how many tokens a body holds, at the speed of memory and before it is parsed.
//!
//! A linear model over classes of neighbouring bytes, fitted to `o200k`: within about 2 % for a
//! large mixed document, 10 % for most single kinds of text, 30 % for some scripts. Knows nothing
//! of JSON or models. `weigh` corrects it by samples, `prompt` falls back on it for what isn't JSON.
//! Never to be billed where a count is possible.

/// The estimated tokens of `bytes`: text or JSON in UTF-8, but any bytes are answered. Never more
/// than there are bytes, never 0 for some.
///
/// Bodies that arrive in chunks may be estimated chunk by chunk: each cut adds at most one token or
/// so.
pub fn estimate(bytes: &[u8]) -> u64 {
    if bytes.is_empty() {
        return 0;
    }
    // A chunk's sum fits 32 bits.
    let mut class = Class::Start as u8;
    let mut sum = 0_u64;
    for chunk in bytes.chunks(CHUNK) {
        let mut weight = 0_u32;
        for &byte in chunk {
            let next = CLASSES[usize::from(byte)];
            weight += WEIGHTS[usize::from(class << 4 | next)];
            class = next;
        }
        sum += u64::from(weight);
    }
    (sum / u64::from(UNIT)).clamp(1, bytes.len() as u64)
}

/// Weights are counted in 1/1000 token.
const UNIT: u32 = 1000;
const CHUNK: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Before the first byte.
    Start,
    Lower,
    Upper,
    Digit,
    Space,
    Control,
    Punctuation,
    /// Bytes of a character behind its first.
    Inner,
    /// First bytes of two-byte characters: Latin, Greek, Cyrillic, Hebrew, Arabic.
    Two,
    /// `E0` to `E2`: South Asian scripts, symbols.
    ThreeLow,
    /// `E3`: Kana.
    Kana,
    /// `E4` to `E9`: Han.
    Han,
    /// `EA` to `ED`: Hangul.
    Hangul,
    /// `EE`, `EF`.
    ThreeHigh,
    /// Four-byte characters: emoji.
    Four,
}

static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let class = match byte as u8 {
            b'a'..=b'z' => Class::Lower,
            b'A'..=b'Z' => Class::Upper,
            b'0'..=b'9' => Class::Digit,
            b' ' => Class::Space,
            0..0x20 | 0x7f => Class::Control,
            0x21..0x7f => Class::Punctuation,
            0x80..0xc0 => Class::Inner,
            0xc0..0xe0 => Class::Two,
            0xe0..=0xe2 => Class::ThreeLow,
            0xe3 => Class::Kana,
            0xe4..=0xe9 => Class::Han,
            0xea..=0xed => Class::Hangul,
            0xee | 0xef => Class::ThreeHigh,
            0xf0.. => Class::Four,
        };
        classes[byte] = class as u8;
        byte += 1;
    }
    classes
};

/// What a byte adds, by the class of the byte before it (upper four bits) and its own.
static WEIGHTS: [u32; 256] = {
    use Class::*;
    const ALL: [Class; 15] = [
        Start,
        Lower,
        Upper,
        Digit,
        Space,
        Control,
        Punctuation,
        Inner,
        Two,
        ThreeLow,
        Kana,
        Han,
        Hangul,
        ThreeHigh,
        Four,
    ];
    let mut weights = [0; 256];
    let mut before = 0;
    while before < ALL.len() {
        let mut own = 0;
        while own < ALL.len() {
            weights[before << 4 | own] = weight(ALL[before], ALL[own]);
            own += 1;
        }
        before += 1;
    }
    weights
};

const fn weight(before: Class, own: Class) -> u32 {
    use Class::*;
    let lettered = matches!(before, Lower | Upper);
    let word = if lettered { 0 } else { 600 };
    match own {
        Lower => 105 + word,
        Upper if matches!(before, Lower) => 144 + 1010,
        Upper => 144 + word,
        // The fit gave these nothing, for it knows only short runs. Long ones cost twice as much.
        Digit if matches!(before, Digit) => 150,
        Digit => 2280,
        Space if matches!(before, Space) => 43,
        Start | Space | Inner => 0,
        Control => 971,
        Punctuation if matches!(before, Punctuation) => 73,
        Punctuation => 73 + 510,
        Two => 348,
        ThreeLow => 460,
        Kana => 730,
        Han => 720,
        Hangul => 760,
        ThreeHigh => 620,
        Four => 2660,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::count::{Encoding, count};

    #[track_caller]
    fn assert_near(text: &str, percent: u64) {
        let exact = count(Encoding::O200k, text);
        let off = estimate(text.as_bytes()).abs_diff(exact) * 100 / exact;
        assert!(
            off <= percent,
            "{off} % off: {} for {exact}",
            estimate(text.as_bytes())
        );
    }

    #[test]
    fn common_texts_are_near() {
        assert_near(
            "A weir is a low dam that regulates and measures a river. Unlike a tall dam it lets \
             the water flow over its crest, so the level upstream stays nearly the same through \
             the year, and boats, fish and millers all know what to expect.",
            25,
        );
        assert_near(include_str!("../count/vocabulary.rs"), 15);
        assert_near(
            "堰是一种低矮的水坝，用来调节和测量河流的水位。与高坝不同，水可以从它的顶部流过。",
            25,
        );
        assert_near(
            &r#"{"id":17,"name":"north weir","open":true,"level":2.45},"#.repeat(20),
            25,
        );
    }

    #[test]
    fn an_estimate_lies_between_one_and_the_number_of_bytes() {
        for byte in 0..=255 {
            for length in [1, 2, 3, 100, 3 * CHUNK + 1] {
                let bytes = vec![byte; length];
                let tokens = estimate(&bytes);
                assert!(
                    (1..=length as u64).contains(&tokens),
                    "{tokens} for {length} of {byte}"
                );
            }
        }
        assert_eq!(estimate(b""), 0);
    }

    #[test]
    fn chunks_add_up() {
        let text = include_str!("../count/vocabulary.rs").as_bytes();
        let whole = estimate(text);
        let chunked: u64 = text.chunks(1000).map(estimate).sum();
        assert!(
            chunked.abs_diff(whole) <= 2 * (text.len() as u64 / 1000 + 1),
            "{chunked}, {whole}"
        );
    }

    #[test]
    fn many_digits_are_not_for_free() {
        let digits = "7".repeat(30_000);
        let tokens = estimate(digits.as_bytes());
        assert!(tokens * 5 / 2 > count(Encoding::O200k, &digits), "{tokens}");
    }
}

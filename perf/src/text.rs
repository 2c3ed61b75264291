//! Texts that are hard on whoever counts their tokens, as they stand in a JSON string. The generator
//! sends them.

use clap::ValueEnum;

/// A kind of text.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Text {
    /// Blocks of prose, code, JSON, Chinese and base64 in turns.
    Mixed,
    /// One letter.
    A,
    Spaces,
    Tabs,
    Lines,
    Digits,
    Carets,
    Dashes,
    /// Random lower-case letters without a break.
    Lower,
    /// Random Han characters without a break.
    Han,
    /// Random characters of many scripts.
    Scripts,
    Base64,
}

impl Text {
    /// So many bytes of it, or a character more.
    pub fn of(self, bytes: usize) -> String {
        let repeated = |what: &str| what.repeat(bytes.div_ceil(what.len()));
        match self {
            Self::Mixed => mixed(bytes),
            Self::A => repeated("a"),
            Self::Spaces => repeated(" "),
            Self::Tabs => repeated("\\t"),
            Self::Lines => repeated("\\n"),
            Self::Digits => repeated("7"),
            Self::Carets => repeated("^"),
            Self::Dashes => repeated("-"),
            Self::Lower => random(bytes, |dice| char::from(b'a' + (dice % 26) as u8)),
            Self::Han => random(bytes, |dice| character(0x4e00 + (dice % 20_000) as u32)),
            Self::Scripts => random(bytes, |dice| character(0xa1 + (dice % 0xd000) as u32)),
            Self::Base64 => random(bytes, |dice| {
                const DIGITS: &[u8; 64] =
                    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
                char::from(DIGITS[(dice % 64) as usize])
            }),
        }
    }
}

fn character(code: u32) -> char {
    char::from_u32(code).unwrap_or('\u{a1}')
}

/// The same each time.
fn random(bytes: usize, draw: impl Fn(u64) -> char) -> String {
    let (mut text, mut state) = (String::with_capacity(bytes + 4), 1_u64);
    while text.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.push(draw(state >> 33));
    }
    text
}

fn mixed(bytes: usize) -> String {
    const BLOCKS: [&str; 4] = [
        "A weir is a low dam that regulates and measures a river. Unlike a tall dam it lets the water \
         flow over its crest, so the level upstream stays nearly the same through the year. ",
        "fn level(&self) -> Option<f64> {\\n    self.gauges.iter().map(|gauge| gauge.level).last()\\n}\\n",
        "{\\\"id\\\":17,\\\"name\\\":\\\"north weir\\\",\\\"open\\\":true,\\\"level\\\":2.45},",
        "堰是一种低矮的水坝，用来调节和测量河流的水位。与高坝不同，水可以从它的顶部流过。",
    ];
    let (mut text, mut block) = (String::with_capacity(bytes + 4096), 0);
    while text.len() < bytes {
        text.push_str(&BLOCKS[block % BLOCKS.len()].repeat(10 + block * 7 % 31));
        if block % 9 == 8 {
            text.push_str(&Text::Base64.of(3000));
        }
        block += 1;
    }
    text
}

//! A borrowing scanner over JSON text: the members of one object, each with its place in the bytes.
//!
//! It finds where things are and never builds a document: values are skipped by their brackets and
//! strings, so a megabyte of prompt costs one pass of `memchr`. Nothing is allocated except for a
//! key or a string that is written with escapes. Callers are the dialects and the meter.

mod cursor;
mod unescape;

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

pub(crate) use self::cursor::Cursor;
pub use self::unescape::Unescape;

use self::unescape::{Escape, escape};

/// Brackets inside brackets that are followed; deeper text is refused.
pub const DEPTH_MAX: usize = 512;

/// One `"key": value` of an object; the places are offsets in the scanned bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// The key as text; owned only when it was written with escapes.
    pub key: Cow<'a, str>,
    /// The key with its quotes.
    pub key_at: Range<usize>,
    /// The value, without the white space around it.
    pub value_at: Range<usize>,
}

/// Why bytes are not the JSON that was expected, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Offset of the first byte that can't be right.
    pub at: usize,
    pub what: What,
}

/// The kinds of [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The text ends inside a value.
    Truncated,
    /// A byte that the grammar doesn't allow here.
    Unexpected,
    /// A closing bracket of the wrong kind.
    Bracket,
    /// A key with a control character, a broken escape or invalid UTF-8.
    Key,
    /// More than [`DEPTH_MAX`] brackets are open.
    TooDeep,
    /// Something follows the value.
    Trailing,
}

impl What {
    /// The fault in words, for a caller's error message.
    pub fn text(self) -> &'static str {
        match self {
            What::Truncated => "the text ends inside a value",
            What::Unexpected => "unexpected character",
            What::Bracket => "closing bracket of the wrong kind",
            What::Key => "malformed key",
            What::TooDeep => "nested too deeply",
            What::Trailing => "characters after the end",
        }
    }
}

/// The members of the object that `bytes` is, in order. Ends after the first fault.
///
/// White space around the object is allowed, anything else after it is a fault. `bytes` that are
/// not an object give one fault ([`What::Unexpected`] or [`What::Truncated`]).
pub fn members(bytes: &[u8]) -> Members<'_> {
    Members {
        cursor: Cursor::new(bytes),
        state: State::Start,
    }
}

/// See [`members`].
#[derive(Debug)]
pub struct Members<'a> {
    cursor: Cursor<'a>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    More,
    End,
}

// === impl Members ===

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.step();
        if !matches!(found, Ok(Some(_))) {
            self.state = State::End;
        }
        found.transpose()
    }
}

impl<'a> Members<'a> {
    fn step(&mut self) -> Result<Option<Member<'a>>, Fault> {
        let cursor = &mut self.cursor;
        let another = match self.state {
            State::End => return Ok(None),
            State::Start => cursor.enter(b'{')?,
            State::More => cursor.more(b'{')?,
        };
        if !another {
            cursor.end()?;
            return Ok(None);
        }
        self.state = State::More;
        let key_at = cursor.quoted()?;
        let key = key(cursor.text(key_at.clone())).ok_or(Fault {
            at: key_at.start,
            what: What::Key,
        })?;
        cursor.expect(b':')?;
        let value_at = cursor.skip()?;
        Ok(Some(Member {
            key,
            key_at,
            value_at,
        }))
    }
}

/// Where text ends that means what it says: the offset, from `at` on, of the first byte that is a
/// quote, a backslash, a control character or not ASCII. Gives up after about `len_max` bytes.
#[inline]
fn plain_end(bytes: &[u8], mut at: usize, len_max: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES << 7;
    // Eight bytes at once. Each term has the top bit of its matches; a borrow can only spoil what
    // stands after a match.
    let give_up = at.saturating_add(len_max);
    while let Some(eight) = bytes[at.min(bytes.len())..].first_chunk::<8>() {
        let eight = u64::from_le_bytes(*eight);
        let quote = (eight ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
        let backslash = (eight ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
        let control = eight.wrapping_sub(ONES * 0x20);
        let found = (eight | quote | backslash | control) & TOPS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
        if at >= give_up {
            return at;
        }
    }
    let special = |byte: &u8| !matches!(byte, b' '..=b'~' | 0x7f) || matches!(byte, b'"' | b'\\');
    while bytes.get(at).is_some_and(|byte| !special(byte)) {
        at += 1;
    }
    at
}

/// The place of the one value that `bytes` hold, of whatever kind, with nothing after it.
pub fn value(bytes: &[u8]) -> Result<Range<usize>, Fault> {
    let start = after_space(bytes, 0);
    if start == bytes.len() {
        return Err(Fault {
            at: start,
            what: What::Truncated,
        });
    }
    let end = value_end(bytes, start)?;
    only_space(bytes, end)?;
    Ok(start..end)
}

/// The text of a string value (`value` with its quotes); `None` when it is not one, has a broken
/// escape or is not UTF-8. Half of a surrogate pair is U+FFFD.
pub fn string(value: &[u8]) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr2(b'\\', b'"', inner).is_none() {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    std::str::from_utf8(inner).ok()?;
    well_escaped(inner).then(|| {
        let mut text = String::with_capacity(inner.len());
        let mut unescape = Unescape::default();
        unescape.push(inner, &mut text);
        unescape.end(&mut text);
        Cow::Owned(text)
    })
}

/// A number that is a whole one and not negative, also when written `12.0` or `1e3`.
pub fn whole(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    text.parse::<u64>().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        // 2^53: above it a float no longer names one whole number.
        (number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number))
            .then_some(number as u64)
    })
}

/// A number that is not negative, rounded up to a whole one.
pub fn rounded_up(value: &[u8]) -> Option<u64> {
    whole(value).or_else(|| {
        let text = std::str::from_utf8(value).ok()?;
        let number: f64 = text.parse().ok()?;
        whole(format!("{:.0}", number.ceil()).as_bytes())
    })
}

/// As [`whole`], also of one that is written as a text.
pub fn number(value: &[u8]) -> Option<u64> {
    match string(value) {
        Some(text) => whole(text.trim().as_bytes()),
        None => whole(value),
    }
}

/// `true` or `false`.
pub fn boolean(value: &[u8]) -> Option<bool> {
    match value {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

/// Whether the value is `null`.
pub fn is_null(value: &[u8]) -> bool {
    value == b"null"
}

/// Whether each backslash begins an escape and no quote stands bare.
fn well_escaped(mut inner: &[u8]) -> bool {
    while let Some(at) = memchr2(b'\\', b'"', inner) {
        match (inner[at], escape(&inner[at..])) {
            (b'\\', Escape::Unit(_, len)) => inner = &inner[at + len..],
            _ => return false,
        }
    }
    true
}

fn key(quoted: &[u8]) -> Option<Cow<'_, str>> {
    if quoted.iter().any(|&byte| byte < 0x20) {
        return None;
    }
    string(quoted)
}

/// The end of the string whose opening quote is at `start` (the offset after its closing quote).
///
/// Only quotes are looked for: one is the end unless an odd number of backslashes stands before
/// it. Prompts are full of `\n`, which so cost nothing.
pub fn string_end(bytes: &[u8], start: usize) -> Result<usize, Fault> {
    // Most strings are short.
    let plain = plain_end(bytes, start + 1, 32);
    if bytes.get(plain) == Some(&b'"') {
        return Ok(plain + 1);
    }
    let inner = bytes.get(plain..).unwrap_or_default();
    let mut from = 0;
    for quote in memchr::memchr_iter(b'"', inner) {
        let before = inner[from..quote].iter().rev();
        if before.take_while(|&&byte| byte == b'\\').count() % 2 == 0 {
            return Ok(plain + quote + 1);
        }
        from = quote + 1;
    }
    Err(Fault {
        at: bytes.len(),
        what: What::Truncated,
    })
}

fn value_end(bytes: &[u8], start: usize) -> Result<usize, Fault> {
    match bytes[start] {
        b'"' => string_end(bytes, start),
        b'{' | b'[' => nested_end(bytes, start),
        _ => scalar_end(bytes, start),
    }
}

fn scalar_end(bytes: &[u8], start: usize) -> Result<usize, Fault> {
    let rest = &bytes[start..];
    let len = rest
        .iter()
        .position(|&byte| !SCALAR[usize::from(byte)])
        .unwrap_or(rest.len());
    let good = match &rest[..len] {
        b"true" | b"false" | b"null" => true,
        number => is_number(number),
    };
    match good {
        true => Ok(start + len),
        false => Err(Fault {
            at: start,
            what: What::Unexpected,
        }),
    }
}

/// What numbers and the three words are made of.
const SCALAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8, b'0'..=b'9' | b'a'..=b'z' | b'E' | b'+' | b'-' | b'.');
        byte += 1;
    }
    table
};

fn is_number(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> (usize, &[u8]) {
        let len = text
            .iter()
            .position(|byte| !byte.is_ascii_digit())
            .unwrap_or(text.len());
        (len, &text[len..])
    }
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (len, mut rest) = digits(text);
    if len == 0 || (len > 1 && text[0] == b'0') {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        let (len, after) = digits(fraction);
        if len == 0 {
            return false;
        }
        rest = after;
    }
    if let Some(power) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let power = power
            .strip_prefix(b"+")
            .or_else(|| power.strip_prefix(b"-"))
            .unwrap_or(power);
        let (len, after) = digits(power);
        return len > 0 && after.is_empty();
    }
    rest.is_empty()
}

/// The end of the object or array at `start`: only brackets and strings are looked at inside.
fn nested_end(bytes: &[u8], start: usize) -> Result<usize, Fault> {
    let mut kinds = [0u64; DEPTH_MAX / 64];
    let mut depth = 0;
    let mut at = start;
    loop {
        at += match bytes[at..]
            .iter()
            .position(|&byte| STRUCTURE[usize::from(byte)])
        {
            Some(found) => found,
            None => {
                return Err(Fault {
                    at: bytes.len(),
                    what: What::Truncated,
                });
            }
        };
        match bytes[at] {
            b'"' => {
                at = string_end(bytes, at)?;
                continue;
            }
            open @ (b'{' | b'[') => {
                if depth == DEPTH_MAX {
                    return Err(Fault {
                        at,
                        what: What::TooDeep,
                    });
                }
                let bit = 1u64 << (depth % 64);
                match open {
                    b'{' => kinds[depth / 64] |= bit,
                    _ => kinds[depth / 64] &= !bit,
                }
                depth += 1;
            }
            close => {
                depth -= 1;
                let object = kinds[depth / 64] >> (depth % 64) & 1 == 1;
                if object != (close == b'}') {
                    return Err(Fault {
                        at,
                        what: What::Bracket,
                    });
                }
                if depth == 0 {
                    return Ok(at + 1);
                }
            }
        }
        at += 1;
    }
}

/// Quotes and brackets: all that is looked at inside a value that is only skipped.
pub(crate) const STRUCTURE: [bool; 256] = {
    let mut table = [false; 256];
    table[b'"' as usize] = true;
    table[b'{' as usize] = true;
    table[b'}' as usize] = true;
    table[b'[' as usize] = true;
    table[b']' as usize] = true;
    table
};

fn after_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

fn only_space(bytes: &[u8], at: usize) -> Result<(), Fault> {
    match after_space(bytes, at) {
        end if end == bytes.len() => Ok(()),
        at => Err(Fault {
            at,
            what: What::Trailing,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Result<Vec<(String, &str)>, Fault> {
        members(text.as_bytes())
            .map(|member| member.map(|found| (found.key.into_owned(), &text[found.value_at])))
            .collect()
    }

    fn fault(text: &str) -> (usize, What) {
        let fault = pairs(text).expect_err(text);
        (fault.at, fault.what)
    }

    #[test]
    fn members_are_found_at_depth_one_only() {
        let text = " {\"a\" : 1 ,\"b\":{\"a\":[{\"a\":2}]},\"c\":\"}\\\"]\", \"d\":[ ] } \n";
        let expected = [
            ("a", "1"),
            ("b", "{\"a\":[{\"a\":2}]}"),
            ("c", "\"}\\\"]\""),
            ("d", "[ ]"),
        ];
        let expected: Vec<_> = expected.map(|(key, value)| (key.to_owned(), value)).into();
        assert_eq!(pairs(text).unwrap(), expected);
        assert_eq!(pairs("{}").unwrap(), []);
    }

    #[test]
    fn an_escaped_key_is_the_key_that_it_spells() {
        assert_eq!(pairs(r#"{"mod\u0065l":"x"}"#).unwrap()[0].0, "model");
        assert_eq!(pairs(r#"{"\ud83d\ude00\n":1}"#).unwrap()[0].0, "😀\n");
    }

    #[test]
    fn each_fault_says_where() {
        assert_eq!(fault(""), (0, What::Truncated));
        assert_eq!(fault("[]"), (0, What::Unexpected));
        assert_eq!(fault("{\"a\":1"), (6, What::Truncated));
        assert_eq!(fault("{\"a\":\"x"), (7, What::Truncated));
        assert_eq!(fault("{\"a\":\"x\\"), (8, What::Truncated));
        assert_eq!(fault("{\"a\":[}]}"), (6, What::Bracket));
        assert_eq!(fault("{\"a\":1}x"), (7, What::Trailing));
        assert_eq!(fault("{\"a\":1,}"), (7, What::Unexpected));
        assert_eq!(fault("{\"a\" 1}"), (5, What::Unexpected));
        assert_eq!(fault("{\"a\":tru}"), (5, What::Unexpected));
        assert_eq!(fault("{\"a\":01}"), (5, What::Unexpected));
        assert_eq!(fault("{\"a\":1.}"), (5, What::Unexpected));
        assert_eq!(fault("{\"a\":}"), (5, What::Unexpected));
        assert_eq!(fault("{\"a\n\":1}"), (1, What::Key));
        assert_eq!(fault("{\"\\x\":1}"), (1, What::Key));
        assert_eq!(fault("{a:1}"), (1, What::Unexpected));
        let bad = members(b"{\"\xff\":1}").next().unwrap();
        assert_eq!(
            bad,
            Err(Fault {
                at: 1,
                what: What::Key
            })
        );
    }

    #[test]
    fn depth_is_followed_to_the_limit_and_not_past_it() {
        let nested = |depth| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(pairs(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(
            fault(&nested(DEPTH_MAX + 1)),
            (5 + DEPTH_MAX, What::TooDeep)
        );
        assert_eq!(
            fault(&format!("{{\"a\":{}", "[".repeat(1 << 20))).1,
            What::TooDeep
        );
    }

    #[test]
    fn every_cut_of_an_object_is_a_fault() {
        let text = r#"{"a":"x\"y","b":[1,{"c":null}],"d":-1.5e+3,"e":true}"#;
        assert!(pairs(text).is_ok());
        for end in 0..text.len() {
            assert!(pairs(&text[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn plain_text_ends_at_the_first_byte_that_is_not() {
        for special in [0, b'\n', 0x1f, b'"', b'\\', 0x80, 0xff] {
            for plain in [b' ', b'!', b'#', b'[', b']', b'~', 0x7f] {
                for (at, len) in (0..20).flat_map(|at| (at + 1..24).map(move |len| (at, len))) {
                    let mut bytes = vec![plain; len];
                    bytes[at] = special;
                    assert_eq!(plain_end(&bytes, 0, usize::MAX), at, "{bytes:?}");
                }
            }
        }
        assert_eq!(plain_end(b" ~\x7f!#[]", 1, usize::MAX), 7);
        assert_eq!(plain_end(&[b'x'; 99], 0, 32), 32);
    }

    #[test]
    fn a_string_is_unescaped_once_and_wholly() {
        assert_eq!(string(br#""plain""#), Some("plain".into()));
        assert_eq!(
            string(br#""a\u00e9\n\"\\\/\ud83d\ude00""#),
            Some("aé\n\"\\/😀".into())
        );
        assert_eq!(
            string(br#""\ud83dx\ude00""#),
            Some("\u{fffd}x\u{fffd}".into())
        );
        assert_eq!(
            string(br#""\ud83d\ud83d\ude00""#),
            Some("\u{fffd}😀".into())
        );
        assert_eq!(string(br#""\u12""#), None);
        assert_eq!(string(b"12"), None);
        assert_eq!(string(b"\"\xff\""), None);
    }

    #[test]
    fn numbers_are_whole_or_none() {
        assert_eq!(whole(b"12"), Some(12));
        assert_eq!(whole(b"12.0"), Some(12));
        assert_eq!(whole(b"1e3"), Some(1000));
        assert_eq!(whole(b"18446744073709551615"), Some(u64::MAX));
        for none in [&b"-1"[..], b"1.5", b"\"1\"", b"null", b"", b"1e300", b"inf"] {
            assert_eq!(whole(none), None, "{}", String::from_utf8_lossy(none));
        }
    }

    #[test]
    fn one_value_of_any_kind_is_found() {
        assert_eq!(value(b" [1] "), Ok(1..4));
        assert_eq!(value(b"\"x\""), Ok(0..3));
        assert_eq!(
            value(b" "),
            Err(Fault {
                at: 1,
                what: What::Truncated
            })
        );
        assert_eq!(
            value(b"[1] 2"),
            Err(Fault {
                at: 4,
                what: What::Trailing
            })
        );
    }
}

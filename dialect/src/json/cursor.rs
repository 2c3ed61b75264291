//! A place in JSON text that moves on value by value. It never remembers in what container it is:
//! its callers, the scanner of members and what reads an answer's usage, know.

use std::borrow::Cow;
use std::ops::Range;

use super::{Fault, What};
use super::{after_space, key, only_space, plain_end, rounded_up, scalar_end, string_end};
use super::{value_end, whole};

/// A place in JSON text, for callers that look into some values and skip the others.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    /// The offset of the next byte.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Goes to the offset `at`.
    pub(crate) fn go(&mut self, at: usize) {
        self.at = at;
    }

    /// The next byte that is not white space; it is not consumed.
    #[inline]
    pub(crate) fn peek(&mut self) -> Result<u8, Fault> {
        self.at = after_space(self.bytes, self.at);
        self.bytes
            .get(self.at)
            .copied()
            .ok_or_else(|| self.fault(What::Truncated))
    }

    /// Goes into the container whose bracket `open` must come; whether there is anything in it.
    /// One that is empty is passed.
    #[inline]
    pub(crate) fn enter(&mut self, open: u8) -> Result<bool, Fault> {
        self.expect(open)?;
        let empty = self.peek()? == closing(open);
        self.at += usize::from(empty);
        Ok(!empty)
    }

    /// After a value in a container that began with `open`: whether another one follows. The
    /// container's end is passed.
    #[inline]
    pub(crate) fn more(&mut self, open: u8) -> Result<bool, Fault> {
        let another = match self.peek()? {
            b',' => true,
            byte if byte == closing(open) => false,
            _ => return Err(self.fault(What::Unexpected)),
        };
        self.at += 1;
        Ok(another)
    }

    /// A key as it is written, without its quotes; the value is next.
    #[inline]
    pub(crate) fn raw_key(&mut self) -> Result<&'a [u8], Fault> {
        let key_at = self.quoted()?;
        self.expect(b':')?;
        Ok(&self.bytes[key_at.start + 1..key_at.end - 1])
    }

    /// A key as it is meant; the value is next.
    #[inline]
    pub(crate) fn key(&mut self) -> Result<Cow<'a, [u8]>, Fault> {
        if self.peek()? != b'"' {
            return Err(self.fault(What::Unexpected));
        }
        let end = plain_end(self.bytes, self.at + 1, usize::MAX);
        let found = if self.bytes.get(end) == Some(&b'"') {
            let inner = &self.bytes[self.at + 1..end];
            self.at = end + 1;
            Cow::Borrowed(inner)
        } else {
            self.odd_key()?
        };
        self.expect(b':')?;
        Ok(found)
    }

    /// A key that isn't written as it is meant, or not ASCII, or none.
    #[cold]
    fn odd_key(&mut self) -> Result<Cow<'a, [u8]>, Fault> {
        let key_at = self.quoted()?;
        match key(&self.bytes[key_at.clone()]) {
            Some(Cow::Borrowed(text)) => Ok(Cow::Borrowed(text.as_bytes())),
            Some(Cow::Owned(text)) => Ok(Cow::Owned(text.into_bytes())),
            None => Err(Fault {
                at: key_at.start,
                what: What::Key,
            }),
        }
    }

    /// Passes the next value, whatever it is; gives its place.
    #[inline]
    pub(crate) fn skip(&mut self) -> Result<Range<usize>, Fault> {
        self.peek()?;
        let value_at = self.at..value_end(self.bytes, self.at)?;
        self.at = value_at.end;
        Ok(value_at)
    }

    /// Passes the next value, a string; its inside, as it is written.
    pub(crate) fn string(&mut self) -> Result<&'a [u8], Fault> {
        let at = self.quoted()?;
        Ok(self.text(at.start + 1..at.end - 1))
    }

    /// Passes the next value; what it is as a number that is [`rounded_up`].
    pub(crate) fn rounded_up(&mut self) -> Result<Option<u64>, Fault> {
        let at = self.skip()?;
        Ok(rounded_up(&self.bytes[at]))
    }

    /// Passes the next value; what it is as a [`whole`] number.
    #[inline]
    pub(crate) fn whole(&mut self) -> Result<Option<u64>, Fault> {
        let first = self.peek()?;
        let rest = &self.bytes[self.at..];
        let (mut number, mut len) = (0, 0);
        // So many digits don't overflow.
        for byte in rest.iter().take(19) {
            if !byte.is_ascii_digit() {
                break;
            }
            number = number * 10 + u64::from(byte - b'0');
            len += 1;
        }
        let plain = len == 1 || (len > 1 && first != b'0');
        if plain
            && matches!(
                rest.get(len),
                Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\r')
            )
        {
            self.at += len;
            return Ok(Some(number));
        }
        Ok(whole(&self.bytes[self.skip()?]))
    }

    /// Passes the next value and looks at all of it: none of its places breaks the grammar.
    /// Refuses more than 64 brackets inside brackets, and the key `refused` wherever it is.
    pub(crate) fn walk(&mut self, refused: &[u8]) -> Result<(), Fault> {
        // A bit for each open bracket: whether it is an object's.
        let (mut objects, mut depth) = (0u64, 0);
        loop {
            match self.peek()? {
                b'"' => self.at = string_end(self.bytes, self.at)?,
                open @ (b'{' | b'[') => {
                    if depth == u64::BITS {
                        return Err(self.fault(What::TooDeep));
                    }
                    if self.enter(open)? {
                        objects = objects << 1 | u64::from(open == b'{');
                        depth += 1;
                        if open == b'{' {
                            self.key_but(refused)?;
                        }
                        continue;
                    }
                }
                _ => self.at = scalar_end(self.bytes, self.at)?,
            }
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let open = if objects & 1 == 1 { b'{' } else { b'[' };
                if self.more(open)? {
                    if open == b'{' {
                        self.key_but(refused)?;
                    }
                    break;
                }
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    /// Passes a key that isn't the refused one.
    #[inline]
    fn key_but(&mut self, refused: &[u8]) -> Result<(), Fault> {
        match self.raw_key()? == refused {
            true => Err(self.fault(What::Key)),
            false => Ok(()),
        }
    }

    /// The bytes at a place.
    pub(super) fn text(&self, place: Range<usize>) -> &'a [u8] {
        &self.bytes[place]
    }

    /// Nothing but white space may follow.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        only_space(self.bytes, self.at)
    }

    /// The place of the string that must come, with its quotes.
    #[inline]
    pub(super) fn quoted(&mut self) -> Result<Range<usize>, Fault> {
        if self.peek()? != b'"' {
            return Err(self.fault(What::Unexpected));
        }
        let place = self.at..string_end(self.bytes, self.at)?;
        self.at = place.end;
        Ok(place)
    }

    #[inline]
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.peek()? != byte {
            return Err(self.fault(What::Unexpected));
        }
        self.at += 1;
        Ok(())
    }

    fn fault(&self, what: What) -> Fault {
        Fault { at: self.at, what }
    }
}

/// The bracket that closes what `open` opens.
fn closing(open: u8) -> u8 {
    open + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_sees_the_faults_that_skipping_passes() {
        let walk = |text: &str| {
            let mut cursor = Cursor::new(text.as_bytes());
            cursor.walk(b"no").map(|()| cursor.at())
        };
        for (text, end) in [
            (r#"{"a":[{},[],{"b":[1,"x\"]"]}],"c":null} "#, 39),
            ("[[]]", 4),
            ("\"x\"", 3),
        ] {
            assert_eq!(walk(text), Ok(end), "{text}");
        }
        for (text, at) in [
            ("[{\"a\" 1}]", 6),
            ("[1,]", 3),
            ("[1 2]", 3),
            ("{\"a\":1,}", 7),
            ("[01]", 1),
            ("[{1}]", 2),
        ] {
            assert!(Cursor::new(text.as_bytes()).skip().is_ok(), "{text}");
            let what = What::Unexpected;
            assert_eq!(walk(text), Err(Fault { at, what }), "{text}");
        }
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(walk(r#"[{"a":{"no":1}}]"#).is_err());
        assert!(walk(r#"[{"a":"\"no\":1","not":"no"}]"#).is_ok());
        assert_eq!(walk(&nested(64)), Ok(128));
        assert_eq!(walk(&nested(65)).map_err(|fault| fault.at), Err(64));
    }
}

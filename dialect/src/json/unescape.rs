//! The inside of JSON strings as text, in any pieces.

/// Turns the inside of JSON strings into text, piece by piece, wherever the pieces were cut.
///
/// What is cut (an escape, a character) waits for its rest. A high surrogate also waits over the
/// end of a string, since servers split a pair over two deltas; what never finds its other half
/// becomes U+FFFD, as does anything that is not an escape or not UTF-8.
#[derive(Debug, Clone, Default)]
pub struct Unescape {
    /// The beginning of a cut escape or character.
    cut: [u8; 6],
    cut_len: u8,
    /// A high surrogate without its low one yet.
    high: Option<u16>,
}

// === impl Unescape ===

impl Unescape {
    /// Appends the text of `raw` to `text`.
    pub fn push(&mut self, mut raw: &[u8], text: &mut String) {
        while self.cut_len > 0 && !raw.is_empty() {
            self.cut[usize::from(self.cut_len)] = raw[0];
            self.cut_len += 1;
            raw = &raw[1..];
            let (cut, len) = (self.cut, usize::from(self.cut_len));
            self.cut_len = 0;
            self.run(&cut[..len], text);
        }
        self.run(raw, text);
    }

    /// Nothing follows: what waited becomes U+FFFD.
    pub fn end(&mut self, text: &mut String) {
        self.release(text);
        if std::mem::take(&mut self.cut_len) > 0 {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn run(&mut self, mut raw: &[u8], text: &mut String) {
        while !raw.is_empty() {
            let plain = memchr::memchr(b'\\', raw).unwrap_or(raw.len());
            if plain > 0 {
                self.release(text);
                let cut = self.plain(&raw[..plain], plain == raw.len(), text);
                if cut {
                    return;
                }
                raw = &raw[plain..];
                continue;
            }
            match escape(raw) {
                Escape::Cut => return self.hold(raw),
                Escape::Unit(unit, len) => {
                    self.unit(unit, text);
                    raw = &raw[len..];
                }
                Escape::Broken(len) => {
                    self.release(text);
                    text.push(char::REPLACEMENT_CHARACTER);
                    raw = &raw[len..];
                }
            }
        }
    }

    /// Bytes without an escape; true when the last character waits for its rest.
    fn plain(&mut self, raw: &[u8], last: bool, text: &mut String) -> bool {
        let mut rest = raw;
        loop {
            match std::str::from_utf8(rest) {
                Ok(good) => {
                    text.push_str(good);
                    return false;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(good).unwrap_or_default());
                    match error.error_len() {
                        None if last => {
                            self.hold(bad);
                            return true;
                        }
                        len => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &bad[len.unwrap_or(bad.len())..];
                        }
                    }
                }
            }
        }
    }

    /// One UTF-16 unit of a `\uXXXX`, or a plain escape.
    fn unit(&mut self, unit: u16, text: &mut String) {
        if let (Some(high), 0xDC00..=0xDFFF) = (self.high, unit) {
            self.high = None;
            let code = 0x10000 + ((u32::from(high) - 0xD800) << 10) + (u32::from(unit) - 0xDC00);
            text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            return;
        }
        self.release(text);
        match unit {
            0xD800..=0xDBFF => self.high = Some(unit),
            unit => {
                let char = char::from_u32(u32::from(unit));
                text.push(char.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
    }

    fn release(&mut self, text: &mut String) {
        if self.high.take().is_some() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.cut[..bytes.len()].copy_from_slice(bytes);
        self.cut_len = bytes.len() as u8;
    }
}

pub(super) enum Escape {
    /// A UTF-16 unit and the length of its escape.
    Unit(u16, usize),
    /// So many bytes are no escape.
    Broken(usize),
    /// The escape goes on after the end; fewer than six bytes.
    Cut,
}

/// Reads the escape at the beginning of `raw`, which is a backslash.
pub(super) fn escape(raw: &[u8]) -> Escape {
    let Some(&kind) = raw.get(1) else {
        return Escape::Cut;
    };
    let unit = match kind {
        b'"' | b'\\' | b'/' => kind,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let mut unit = 0u16;
            for place in 2..6 {
                let Some(&digit) = raw.get(place) else {
                    return Escape::Cut;
                };
                let Some(digit) = char::from(digit).to_digit(16) else {
                    return Escape::Broken(place);
                };
                unit = unit << 4 | digit as u16;
            }
            return Escape::Unit(unit, 6);
        }
        _ => return Escape::Broken(1),
    };
    Escape::Unit(u16::from(unit), 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_unescape_to_the_same_text_wherever_they_are_cut() {
        let raw = "é\\u00e9\\ud83d\\ude00漢\\n\\\\x\\ud83d.\\udeff\\q\\u00zz".as_bytes();
        let whole = {
            let (mut unescape, mut text) = (Unescape::default(), String::new());
            unescape.push(raw, &mut text);
            unescape.end(&mut text);
            text
        };
        assert_eq!(whole, "éé😀漢\n\\x\u{fffd}.\u{fffd}\u{fffd}q\u{fffd}zz");
        for first in 0..=raw.len() {
            for second in first..=raw.len() {
                let (mut unescape, mut text) = (Unescape::default(), String::new());
                for piece in [&raw[..first], &raw[first..second], &raw[second..]] {
                    unescape.push(piece, &mut text);
                }
                unescape.end(&mut text);
                assert_eq!(text, whole, "cut at {first} and {second}");
            }
        }
    }
}

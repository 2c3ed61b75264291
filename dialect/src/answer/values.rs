//! Strings, scalars and skipped values of an answer, in any pieces.

use memchr::memchr2;

use super::table::{Role, Says};
use super::{Field, Kind, Lex, Reader, Text, USAGE_BYTES_MAX};
use crate::json::STRUCTURE;
use crate::usage::{Rank, Raw, Sheet};

impl Reader {
    /// Reads on in a string; gives the offset in `bytes` to go on from.
    pub(super) fn string(&mut self, base: usize, bytes: &[u8], mut at: usize) -> usize {
        let from = at;
        loop {
            if self.escaped && at < bytes.len() {
                self.escaped = false;
                at += 1;
            }
            let Some(found) = memchr2(b'"', b'\\', &bytes[at..]) else {
                self.spell(&bytes[from..]);
                if self.skipped > 0 {
                    self.keep_usage(&bytes[from..]);
                }
                return bytes.len();
            };
            at += found;
            if bytes[at] == b'"' {
                break;
            }
            self.escaped = true;
            at += 1;
        }
        self.spell(&bytes[from..at]);
        match self.lex {
            Lex::InKey => self.lex = Lex::Colon,
            Lex::SkipString if self.skipped > 0 => {
                self.keep_usage(&bytes[from..=at]);
                self.lex = Lex::Skip;
            }
            lex => {
                if lex == Lex::String {
                    self.string_ended(base + at);
                }
                match self.role {
                    Role::Error => self.facts.error = true,
                    Role::Finish if !matches!(self.word(), b"" | b"null") => {
                        self.finishing = true;
                        self.facts.finish = true;
                    }
                    Role::Stopped => self.stopped(),
                    _ => {}
                }
                self.value_ended(base + at + 1);
            }
        }
        at + 1
    }

    /// Remembers what a name or a word says, as far as it is short.
    fn spell(&mut self, piece: &[u8]) {
        let heard = matches!(self.role, Role::Type | Role::Finish);
        if self.lex == Lex::InKey || heard {
            self.write(piece);
        }
    }

    fn write(&mut self, piece: &[u8]) {
        let len = usize::from(self.word_len);
        match self.word.get_mut(len..len + piece.len()) {
            Some(free) => {
                free.copy_from_slice(piece);
                self.word_len += piece.len() as u8;
            }
            None => self.word_len = u8::MAX,
        }
    }

    /// The name or word that was spelt; one that is too long is like none that matters.
    fn word(&self) -> &[u8] {
        let len = usize::from(self.word_len);
        self.word.get(..len).unwrap_or(b"?")
    }

    fn string_ended(&mut self, end: usize) {
        match self.role {
            Role::Padding => self.facts.padding = Some((self.string_at, end)),
            Role::Type => {
                self.says = self.table.says(self.word());
                match self.says {
                    Some(Says::Error) => self.facts.error = true,
                    Some(Says::Complete) => self.complete(),
                    Some(Says::Stopped) => self.stopped(),
                    Some(Says::Picture) => {
                        self.picture();
                        self.stopped();
                    }
                    _ => {}
                }
            }
            _ => self.text_until(end),
        }
    }

    fn complete(&mut self) {
        self.stopped();
        self.marks.complete = true;
    }

    fn stopped(&mut self) {
        self.facts.finish = true;
        self.marks.stopped = true;
    }

    pub(super) fn text_until(&mut self, end: usize) {
        if let Role::Text(field) | Role::TextOr(field, _) | Role::Json(field) = self.role
            && self.string_at < end
        {
            let field = match field {
                Field::Arguments(_) => Field::Arguments(self.call.index),
                field => field,
            };
            let at = self.string_at..end;
            self.facts.texts.push(Text {
                choice: self.choice.index,
                field,
                at,
            });
        }
    }

    pub(super) fn scalar(&mut self, base: usize, bytes: &[u8], mut at: usize) -> usize {
        let from = at;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t' => {
                    self.write_number(&bytes[from..at]);
                    self.scalar_ended();
                    self.value_ended(base + at);
                    return at;
                }
                b'0'..=b'9' => {
                    let digit = u32::from(byte - b'0');
                    self.number = self.number.saturating_mul(10).saturating_add(digit);
                }
                _ => {}
            }
            at += 1;
        }
        self.write_number(&bytes[from..]);
        at
    }

    fn write_number(&mut self, piece: &[u8]) {
        if let Role::Count(_) = self.role {
            self.write(piece);
        }
    }

    fn scalar_ended(&mut self) {
        match (self.role, self.scalar) {
            (Role::Error, first) if !matches!(first, b'n' | b'f') => self.facts.error = true,
            (Role::ChoiceIndex, _) if self.kind == Kind::Event => self.choice.index = self.number,
            (Role::CallIndex, _) if self.kind == Kind::Event => self.call.index = self.number,
            (Role::Complete, b't') => self.complete(),
            (Role::Count(count), _) => {
                if let Some(number) = count.read(self.word()) {
                    self.counts.get_or_insert_default().add(count, number);
                }
            }
            _ => {}
        }
    }

    /// Reads on in a value that only its brackets and strings matter of.
    pub(super) fn skip(&mut self, base: usize, bytes: &[u8], at: usize) -> usize {
        let rest = &bytes[at..];
        let found = rest.iter().position(|&byte| STRUCTURE[usize::from(byte)]);
        let next = found.map_or(bytes.len(), |found| at + found + 1);
        self.keep_usage(&bytes[at..next]);
        match found.map(|found| rest[found]) {
            None => {}
            Some(b'"') => self.lex = Lex::SkipString,
            Some(b'{' | b'[') => self.skipped = self.skipped.saturating_add(1),
            Some(_) => {
                self.skipped -= 1;
                if self.skipped == 0 {
                    match self.role {
                        Role::Usage(sheet) => {
                            self.facts.usage_given |= self.depth == 1;
                            let raw = sheet.read(&self.usage);
                            self.report(sheet, &raw);
                        }
                        Role::Json(_) => self.text_until(base + next),
                        _ => {}
                    }
                    self.value_ended(base + next);
                }
            }
        }
        next
    }

    pub(super) fn report(&mut self, sheet: &Sheet, raw: &Raw) {
        let Some(later) = sheet.sum(raw) else { return };
        self.facts.reported = true;
        self.facts.reported_some |= !later.is_zero();
        if later.output.is_some() && (self.reported.is_none() || !later.is_zero()) {
            self.early = sheet.rank == Rank::Early;
        }
        self.reported = Some(match self.reported {
            None => later,
            Some(earlier) if sheet.rank == Rank::Weak => later.updated(earlier),
            Some(earlier) if self.table.cache_beside => earlier.updated_beside(later),
            Some(earlier) => earlier.updated(later),
        });
    }

    pub(super) fn keep_usage(&mut self, piece: &[u8]) {
        if !matches!(self.role, Role::Usage(_)) {
            return;
        }
        if self.usage.len() + piece.len() > USAGE_BYTES_MAX {
            self.usage.clear();
            self.role = Role::Other;
            return;
        }
        self.usage.extend_from_slice(piece);
    }
}

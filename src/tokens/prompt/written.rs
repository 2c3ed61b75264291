//! Values that the model is shown as text: JSON that is written out, words that are joined.

use std::fmt::Display;

use serde::de::{MapAccess, SeqAccess};

use super::Tally;
use super::shape::{Read, Shape, each, key, value};

/// A text, or a value that will be written as one.
pub(super) struct Written<'t>(pub &'t mut Tally);

impl Shape for Written<'_> {
    fn text(&mut self, text: &str) {
        self.0.add_text(text);
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, object: O) -> Result<(), O::Error> {
        let mut json = Json(String::new());
        json.object(object)?;
        self.0.add_text(&json.0);
        Ok(())
    }

    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        let mut json = Json(String::new());
        json.list(list)?;
        self.0.add_text(&json.0);
        Ok(())
    }
}

/// Any value as the shortest JSON.
struct Json(String);

impl Json {
    fn write(&mut self, value: &dyn Display) {
        use std::fmt::Write;
        write!(self.0, "{value}").expect("a string takes all that is written");
    }

    /// Between two elements; the one before has left its comma.
    fn close(&mut self, bracket: char) {
        if self.0.ends_with(',') {
            self.0.pop();
        }
        self.0.push(bracket);
    }
}

impl Shape for Json {
    fn text(&mut self, text: &str) {
        // Quotes, backslashes and line ends are all that needs an escape to count right.
        self.0.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => self.0.extend(['\\', c]),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }

    fn number(&mut self, number: &dyn Display) {
        self.write(number);
    }

    fn word(&mut self, word: &dyn Display) {
        self.write(word);
    }

    fn list<'de, L: SeqAccess<'de>>(&mut self, mut list: L) -> Result<(), L::Error> {
        self.0.push('[');
        while list.next_element_seed(Read(self))?.is_some() {
            self.0.push(',');
        }
        self.close(']');
        Ok(())
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        self.0.push('{');
        while let Some(key) = key(&mut object)? {
            self.text(&key);
            self.0.push(':');
            value(&mut object, self)?;
            self.0.push(',');
        }
        self.close('}');
        Ok(())
    }
}

/// A text, or texts, to be counted with others.
#[derive(Default)]
pub(super) struct Words(pub String);

impl Words {
    /// Without the full stop, which isn't rendered.
    pub(super) fn sentence(&self) -> &str {
        self.0.strip_suffix('.').unwrap_or(&self.0)
    }
}

impl Shape for Words {
    fn text(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.0.push('|');
        }
        self.0.push_str(text);
    }

    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, self)
    }
}

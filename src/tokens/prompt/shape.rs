//! Walks untrusted JSON by the shape that is expected of it, without building a tree: a value of
//! another shape is skipped, whatever is in it, and memory doesn't grow with the body.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What to do with a value of each kind. What isn't said is skipped.
pub(super) trait Shape {
    fn text(&mut self, _text: &str) {}

    fn number(&mut self, _number: &dyn fmt::Display) {}

    /// `true`, `false` or `null`.
    fn word(&mut self, _word: &dyn fmt::Display) {}

    fn list<'de, L: SeqAccess<'de>>(&mut self, mut list: L) -> Result<(), L::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// Reads each element of `list` as `shape`.
pub(super) fn each<'de, L: SeqAccess<'de>>(
    mut list: L,
    shape: &mut impl Shape,
) -> Result<(), L::Error> {
    while list.next_element_seed(Read(shape))?.is_some() {}
    Ok(())
}

/// The next key of `object`.
pub(super) fn key<'de, O: MapAccess<'de>>(
    object: &mut O,
) -> Result<Option<Cow<'de, str>>, O::Error> {
    #[derive(Deserialize)]
    struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

    Ok(object.next_key()?.map(|Key(key)| key))
}

/// The value of the key that was read last, as `shape`.
pub(super) fn value<'de, O: MapAccess<'de>>(
    object: &mut O,
    shape: &mut impl Shape,
) -> Result<(), O::Error> {
    object.next_value_seed(Read(shape))
}

/// Passes over the value of the key that was read last.
pub(super) fn skip<'de, O: MapAccess<'de>>(object: &mut O) -> Result<(), O::Error> {
    object.next_value::<IgnoredAny>().map(drop)
}

/// One value, read as a shape.
pub(super) struct Read<'s, S>(pub &'s mut S);

impl<'de, S: Shape> DeserializeSeed<'de> for Read<'_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de, S: Shape> Visitor<'de> for Read<'_, S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.text(text);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.0.number(&number);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.0.number(&number);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        // As JSON writes it: 1e300 is not 301 digits.
        self.0.number(&serde_json::Value::from(number));
        Ok(())
    }

    fn visit_bool<E>(self, word: bool) -> Result<(), E> {
        self.0.word(&word);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.word(&"null");
        Ok(())
    }

    fn visit_seq<L: SeqAccess<'de>>(self, list: L) -> Result<(), L::Error> {
        self.0.list(list)
    }

    fn visit_map<O: MapAccess<'de>>(self, object: O) -> Result<(), O::Error> {
        self.0.object(object)
    }
}

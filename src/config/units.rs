//! The small values of the file: durations, sizes, numbers, switches and words, each with the
//! sentence that says how it is written.
//!
//! A quoted number is a number too: what `${NAME}` brings is always text. Used by [`super::file`].

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// `30s`, `5m`, `1h`, `250ms`, `1h30m`; `0`.
#[derive(Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

/// `64KiB`, `32MiB`, `100MB`, `4096`: bytes.
#[derive(Clone, Copy)]
pub(super) struct Size(pub(super) u64);

/// A whole number, 0 or more.
#[derive(Clone, Copy)]
pub(super) struct Whole(pub(super) u64);

/// A finite number, 0 or more.
#[derive(Clone, Copy)]
pub(super) struct Fraction(pub(super) f64);

/// `5%`, or `0.05`: a part of a whole, in millionths.
#[derive(Clone, Copy)]
pub(super) struct Part(pub(super) u32);

/// `true` or `false`.
#[derive(Clone, Copy)]
pub(super) struct Flag(pub(super) bool);

/// A text; numbers must be quoted.
#[derive(Clone)]
pub(super) struct Text(pub(super) String);

// === scalars ===

/// A scalar of YAML.
pub(super) enum Scalar<'a> {
    Flag(bool),
    Whole(u64),
    Negative,
    Fraction(f64),
    Text(&'a str),
}

/// Reads a scalar with `read`; `allowed` is the sentence of its mistake.
pub(super) fn scalar<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    allowed: &'static str,
    read: fn(&Scalar<'_>) -> Option<T>,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(ScalarVisitor { allowed, read })
}

struct ScalarVisitor<T> {
    allowed: &'static str,
    read: fn(&Scalar<'_>) -> Option<T>,
}

impl<T> ScalarVisitor<T> {
    fn read<E: serde::de::Error>(&self, scalar: &Scalar<'_>) -> Result<T, E> {
        (self.read)(scalar).ok_or_else(|| E::custom(self.allowed))
    }
}

impl<T> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.allowed)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<T, E> {
        self.read(&Scalar::Flag(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<T, E> {
        self.read(&Scalar::Whole(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<T, E> {
        match u64::try_from(value) {
            Ok(value) => self.read(&Scalar::Whole(value)),
            Err(_) => self.read(&Scalar::Negative),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<T, E> {
        self.read(&Scalar::Fraction(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<T, E> {
        self.read(&Scalar::Text(value))
    }
}

/// A scalar type: its sentence, how it is read, and its schema.
macro_rules! scalars {
    ($($name:ident: $allowed:literal, $read:expr, $schema:tt;)*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                scalar(deserializer, $allowed, $read).map(Self)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

scalars! {
    Span: "a duration such as 250ms, 30s, 5m, 1h, at most ten years", duration, {
        "type": ["string", "integer"],
        "pattern": r"^([0-9]+(ms|s|m|h|d))+$|^0$|\$\{",
        "maximum": 0,
        "minimum": 0
    };
    Size: "a size such as 4096, 64KiB, 32MiB, 100MB", size, {
        "type": ["string", "integer"],
        "pattern": r"^[0-9]+ ?([kKmMgGtT][iI]?)?[bB]?$|\$\{",
        "minimum": 0
    };
    Whole: "a whole number, 0 or more", whole, {
        "type": ["integer", "string"],
        "pattern": r"^[0-9]+$|\$\{",
        "minimum": 0
    };
    Fraction: "a number, 0 or more", fraction, {
        "type": ["number", "string"],
        "pattern": r"^[0-9.]+$|\$\{"
    };
    Part: "a share such as 5% or 0.05, at most 100%", part, {
        "type": ["number", "string"],
        "pattern": r"^[0-9.]+ ?%?$|\$\{"
    };
    Flag: "true or false", flag, {
        "type": ["boolean", "string"],
        "pattern": r"^(true|false|on|off|yes|no)$|\$\{"
    };
    Text: "a text (in quotes if it looks like a number)", text, { "type": "string" };
}

fn text(scalar: &Scalar<'_>) -> Option<String> {
    match scalar {
        Scalar::Text(text) => Some((*text).to_owned()),
        _ => None,
    }
}

fn flag(scalar: &Scalar<'_>) -> Option<bool> {
    match scalar {
        Scalar::Flag(value) => Some(*value),
        Scalar::Text("true" | "on" | "yes") => Some(true),
        Scalar::Text("false" | "off" | "no") => Some(false),
        _ => None,
    }
}

fn whole(scalar: &Scalar<'_>) -> Option<u64> {
    match scalar {
        Scalar::Whole(value) => Some(*value),
        Scalar::Text(text) => digits(text),
        _ => None,
    }
}

fn fraction(scalar: &Scalar<'_>) -> Option<f64> {
    let value = match scalar {
        // Above 2^53 a neighbour is as good.
        Scalar::Whole(value) => *value as f64,
        Scalar::Fraction(value) => *value,
        Scalar::Text(text) => text.parse().ok()?,
        Scalar::Negative | Scalar::Flag(_) => return None,
    };
    (value.is_finite() && value >= 0.0).then_some(value)
}

fn part(scalar: &Scalar<'_>) -> Option<u32> {
    let millionths = match scalar {
        Scalar::Text(text) if text.ends_with('%') => {
            let percent = text.trim_end_matches('%').trim_end();
            fraction(&Scalar::Text(percent))? * 1e4
        }
        other => fraction(other)? * 1e6,
    };
    (millionths <= 1e6).then_some(millionths.round() as u32)
}

fn size(scalar: &Scalar<'_>) -> Option<u64> {
    let text = match scalar {
        Scalar::Whole(value) => return Some(*value),
        Scalar::Text(text) => text.trim(),
        _ => return None,
    };
    let (number, unit) = split_digits(text);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    digits(number)?.checked_mul(factor)
}

/// Units in any order, each after its number.
pub(super) fn duration(scalar: &Scalar<'_>) -> Option<Duration> {
    let mut rest = match scalar {
        Scalar::Whole(0) | Scalar::Text("0") => return Some(Duration::ZERO),
        Scalar::Text(text) if !text.trim().is_empty() => text.trim(),
        _ => return None,
    };
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = split_digits(rest);
        let unit_bytes = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(unit_bytes);
        let factor_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total_ms = total_ms.checked_add(digits(number)?.checked_mul(factor_ms)?)?;
        rest = after;
    }
    let span = Duration::from_millis(total_ms);
    (span <= SPAN_MAX).then_some(span)
}

/// Longer spans could overflow an `Instant`.
const SPAN_MAX: Duration = Duration::from_secs(3650 * 24 * 3600);

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

fn digits(text: &str) -> Option<u64> {
    // `parse` would take a `+` too.
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

// === words ===

/// An enum whose values are words of the file: `NAMES`, their reading and their schema.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(super) enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                const NAMES: &[&str] = &[$($word),*];
                let word = $crate::config::units::scalar(
                    deserializer,
                    concat!("one of" $(, " ", $word)*),
                    |scalar| match scalar {
                        $crate::config::units::Scalar::Text(text) => Some((*text).to_owned()),
                        _ => None,
                    },
                )?;
                match word.as_str() {
                    $($word => Ok(Self::$variant),)*
                    other => Err(serde::de::Error::unknown_variant(other, NAMES)),
                }
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($word),*] })
            }
        }
    };
}
pub(super) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        let read = |text| duration(&Scalar::Text(text)).map(|span| span.as_millis());
        for (text, ms) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("90d", 7_776_000_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(read(text), Some(ms), "{text}");
        }
        for bad in [
            "",
            "5",
            "s",
            "-5s",
            "+5s",
            "1.5s",
            "5 s",
            "5x",
            "5s-",
            "99999999999999999999s",
            "18446744073709551615h",
            "4000d",
            "é",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(duration(&Scalar::Whole(5)), None);
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        let read = |text| size(&Scalar::Text(text));
        for (text, bytes) in [
            ("4096", 4096),
            ("64KiB", 65_536),
            ("32MiB", 33_554_432),
            ("1GiB", 1 << 30),
            ("100MB", 100_000_000),
            ("1 kb", 1000),
            ("7B", 7),
        ] {
            assert_eq!(read(text), Some(bytes), "{text}");
        }
        for bad in ["", "MiB", "-1", "1.5GiB", "1Q", "18446744073709551615KiB"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_share_is_read_as_percent_or_as_a_fraction() {
        let read = |text| part(&Scalar::Text(text));
        for (text, millionths) in [
            ("5%", 50_000),
            ("0.5 %", 5000),
            ("100%", 1_000_000),
            ("0.05", 50_000),
        ] {
            assert_eq!(read(text), Some(millionths), "{text}");
        }
        for bad in ["", "%", "-1%", "101%", "5", "x%"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(part(&Scalar::Fraction(0.25)), Some(250_000));
        assert_eq!(part(&Scalar::Whole(1)), Some(1_000_000));
    }

    #[test]
    fn numbers_and_switches_may_be_quoted() {
        assert_eq!(whole(&Scalar::Text("8000")), Some(8000));
        assert_eq!(whole(&Scalar::Text("+1")), None);
        assert_eq!(fraction(&Scalar::Text("0.5")), Some(0.5));
        assert_eq!(fraction(&Scalar::Text("NaN")), None);
        assert_eq!(fraction(&Scalar::Fraction(f64::INFINITY)), None);
        assert_eq!(flag(&Scalar::Text("off")), Some(false));
        assert_eq!(flag(&Scalar::Whole(1)), None);
    }
}

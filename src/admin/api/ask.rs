//! The small values of questions and answers, each with its form and its schema.

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::time::{Duration, SystemTime};

/// A moment in UTC, as RFC 3339 writes it: `2026-11-27T17:53:30Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub SystemTime);

/// A moment as an operator says it: a date in UTC, a date with time, or how far away it is (`90d`).
/// Whether that is before or after now depends on the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// This one.
    At(SystemTime),
    /// This day, which begins then.
    Day(SystemTime),
    /// So far from now.
    Away(Duration),
}

/// A length of time: a whole number of `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lapse(pub Duration);

/// Several values, in a query with commas between them. Each at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl When {
    /// From then on; days begin at midnight. `None` where there is no such moment.
    pub fn since(self, now: SystemTime) -> Option<SystemTime> {
        match self {
            Self::At(moment) | Self::Day(moment) => Some(moment),
            Self::Away(lapse) => now.checked_sub(lapse),
        }
    }

    /// Up to then; days are over at the next midnight.
    pub fn until(self, now: SystemTime) -> Option<SystemTime> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        match self {
            Self::Day(midnight) => midnight.checked_add(DAY),
            other => other.since(now),
        }
    }

    /// For what will be.
    pub fn ahead(self, now: SystemTime) -> Option<SystemTime> {
        match self {
            Self::At(moment) | Self::Day(moment) => Some(moment),
            Self::Away(lapse) => now.checked_add(lapse),
        }
    }

    fn read(text: &str) -> Option<Self> {
        if let Some(lapse) = Lapse::read(text) {
            return Some(Self::Away(lapse.0));
        }
        if !is_ascii_form(text) {
            return None;
        }
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Some(Self::At(at.to_utc().into()));
        }
        let whole = text.len() == "2026-01-01".len();
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
        let midnight = date.filter(|_| whole)?.and_time(NaiveTime::MIN);
        Some(Self::Day(midnight.and_utc().into()))
    }
}

/// `T` and `Z` as they are mostly written; chrono would take a space too.
fn is_ascii_form(text: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_digit() || b"-:.+TZtz".contains(&c);
    text.bytes().all(allowed)
}

impl Lapse {
    fn read(text: &str) -> Option<Self> {
        const DIGITS_MAX: usize = 6;
        let unit = text.chars().next_back()?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            _ => return None,
        };
        let number = &text[..text.len() - 1];
        let plain = number.len() <= DIGITS_MAX && number.bytes().all(|it| it.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| plain)?;
        Some(Self(Duration::from_secs(number * seconds)))
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A whole number from 1 on, or null. JSON has one kind of number: `5.0` is 5.
///
/// # Errors
/// A sentence that says so.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let float = || number.as_f64().filter(|it| it.fract() == 0.0);
    let whole = number.as_u64().or_else(|| Some(float()? as u64));
    match whole.filter(|it| (1..=NUMBER_MAX).contains(it)) {
        Some(whole) => Ok(Some(whole)),
        None => {
            let wanted = format!("a whole number from 1 to {NUMBER_MAX}");
            Err(D::Error::custom(wanted))
        }
    }
}

/// The largest limit that may be said.
pub const NUMBER_MAX: u64 = 1_000_000_000;

// === forms ===

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let at: DateTime<Utc> = self.0.into();
        serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let wanted = "a date (2026-11-01), a date with time (2026-11-01T12:00:00Z) or how far from now (30d)";
        Self::read(&text).ok_or_else(|| D::Error::custom(wanted))
    }
}

impl<'de> Deserialize<'de> for Lapse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let wanted = "a whole number of s, m, h or d such as 24h";
        Self::read(&text).ok_or_else(|| D::Error::custom(wanted))
    }
}

impl<'de, T: DeserializeOwned + PartialEq> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let mut all = Vec::new();
        for word in text.split(',') {
            let one = serde_json::from_value(word.into()).map_err(D::Error::custom)?;
            if all.contains(&one) {
                return Err(D::Error::custom(format!("{word} twice")));
            }
            all.push(one);
        }
        Ok(Self(all))
    }
}

impl JsonSchema for Moment {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Moment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

const LAPSE: &str = "^[0-9]{1,6}[smhd]$";

impl JsonSchema for Lapse {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Lapse".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": LAPSE, "example": "24h"})
    }
}

impl JsonSchema for When {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "When".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"type": "string", "format": "date"},
            {"type": "string", "format": "date-time"},
            {"type": "string", "pattern": LAPSE},
        ]})
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<T>();
        json_schema!({"type": "array", "items": items, "minItems": 1, "uniqueItems": true})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_times_or_distances() {
        let read = |text: &str| serde_json::from_value::<When>(text.into()).ok();
        let at = |seconds| {
            Some(When::At(
                SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            ))
        };
        let epoch = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(read("1970-01-02"), Some(When::Day(epoch(86_400))));
        assert_eq!(read("1970-01-01T01:00:00+01:00"), at(0));
        assert_eq!(read("1970-01-01T00:00:01Z"), at(1));
        let day = When::Away(Duration::from_secs(86_400));
        assert_eq!(read("1d"), Some(day));
        let now = epoch(100_000);
        assert_eq!(day.since(now), Some(epoch(13_600)));
        assert_eq!(day.until(now), Some(epoch(13_600)));
        assert_eq!(day.ahead(now), Some(epoch(186_400)));
        let date = When::Day(epoch(86_400));
        assert_eq!(date.since(now), Some(epoch(86_400)));
        assert_eq!(date.until(now), Some(epoch(172_800)), "the day is in it");
        for text in [
            "",
            "d",
            "1",
            "-1d",
            "+1d",
            "1.5d",
            "1 d",
            "1w",
            "1234567d",
            "1970-1-2",
            "1970-02-30",
            "1970-01-01 00:00:00Z",
            "1970-01-01T00:00:00",
            " 1970-01-02",
            "١d",
            "tomorrow",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_list_holds_each_value_once() {
        let read = |text: &str| serde_json::from_value::<List<String>>(text.into()).ok();
        assert_eq!(read("a,b").unwrap().0, ["a", "b"]);
        assert!(read("a,a").is_none());
    }

    #[test]
    fn whole_numbers_may_be_written_with_a_point() {
        let read = |text: &str| {
            let mut json = serde_json::Deserializer::from_str(text);
            whole(&mut json).ok()
        };
        assert_eq!(read("5"), Some(Some(5)));
        assert_eq!(read("5.0"), Some(Some(5)));
        assert_eq!(read("1e9"), Some(Some(NUMBER_MAX)));
        assert_eq!(read("null"), Some(None));
        for text in ["0", "-1", "0.5", "1000000001", "1e300", "\"5\"", "true"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn moments_are_written_in_utc() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        let text = serde_json::to_value(Moment(at)).unwrap();
        assert_eq!(text, "1970-01-01T00:00:01.500Z");
    }
}

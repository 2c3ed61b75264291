//! What a host says and asks in one exchange, as the script `draw.lua` takes it, and what it answers.
//! Called by `keeper`.
//!
//! Lua counts in doubles, which are exact up to 2⁵³: amounts of money go in nanodollars, rounded so
//! that nobody gets more.

use super::link::Call;
use redis::{Script, Value};
use std::sync::LazyLock;

/// What all hosts run.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("draw.lua")));
/// Allowances in one exchange: a few hundred microseconds of the server's time.
pub(super) const ALLOWANCES_MAX: usize = 256;
/// What a double can count.
const EXACT_MAX: i64 = 1 << 53;

/// What kind of allowance is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sum that is used up: money of a period, in picodollars.
    Budget,
    /// Things that are held and come back: requests or tokens in flight.
    Slots,
    /// As much in a minute; not all of it at once, but as much as `burst`.
    Rate {
        /// At once after a pause.
        burst: i64,
    },
}

/// The part of one allowance in an exchange. For a rate `has` and `used` mean nothing, and `need` and
/// `want` are how many more; else they are what it should have then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) limit: i64,
    /// How long the server remembers it, ms.
    pub(super) ttl_ms: i64,
    pub(super) used: i64,
    pub(super) has: i64,
    /// A rate's only.
    pub(super) give: i64,
    pub(super) need: i64,
    pub(super) want: i64,
    /// Of what is used, what is so for good; 0 for a rate.
    pub(super) settled: i64,
    /// What is remembered: what others have used for good, or where a rate stood (µs).
    pub(super) told: i64,
}

/// What came back for one allowance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// What this host has now; of a rate how many were drawn, or given where that is negative.
    pub(super) has: i64,
    /// What nobody has.
    pub(super) left: i64,
    /// Used by others; where a rate stands (µs).
    pub(super) told: i64,
    /// What others have and don't use; of a rate the time until more is there (µs).
    pub(super) idle: i64,
    /// What others have used for good; 0 for a rate.
    pub(super) settled: i64,
}

/// Begins an exchange.
#[derive(Clone, Debug)]
pub(super) struct Opening<'a> {
    pub(super) host: &'a str,
    pub(super) number: i64,
    pub(super) heard: i64,
    pub(super) lease_ms: i64,
    pub(super) patience_ms: i64,
    pub(super) leaves: bool,
}

/// What came back for the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A younger exchange of this host has been heard, with this number.
    Old(i64),
    Done {
        hosts: i64,
        /// Nothing is granted for so long: hosts come back to a server that has forgotten.
        waits_ms: i64,
        /// How words stand; see `words`.
        words: String,
        answers: Vec<Answer>,
    },
}

const WINDOW_US: i64 = 60_000_000;

impl Kind {
    /// The letter that the script knows it by.
    pub(super) const fn letter(self) -> &'static str {
        match self {
            Self::Budget => "b",
            Self::Slots => "s",
            Self::Rate { .. } => "r",
        }
    }

    /// How many of ours are one of the server's.
    pub(super) const fn unit(self) -> i64 {
        match self {
            Self::Budget => 1000,
            Self::Slots | Self::Rate { .. } => 1,
        }
    }
}

/// A name on the server. What stands in braces decides which part of a cluster has it: the same for all
/// that one script touches.
pub(super) fn key(prefix: &str, name: &str) -> String {
    format!("{{{prefix}}}:{name}")
}

/// What is said and asked.
pub(super) fn call(prefix: &str, opening: &Opening<'_>, asks: &[Ask]) -> Call {
    let shared = ["hosts", "numbers", "waits", "changes"].map(|it| key(prefix, it));
    let own = asks
        .iter()
        .map(|ask| key(prefix, &format!("a:{}", ask.name)));
    let keys = shared.into_iter().chain(own).collect();
    let mut words = vec![opening.host.to_owned()];
    words.extend(
        [
            opening.number,
            opening.heard,
            opening.lease_ms,
            opening.patience_ms,
        ]
        .map(|it| it.to_string()),
    );
    words.push(if opening.leaves { "1" } else { "0" }.to_owned());
    for ask in asks {
        let unit = ask.kind.unit();
        let down = |amount: i64| amount.div_euclid(unit).clamp(-EXACT_MAX, EXACT_MAX);
        let up = |amount: i64| -down(amount.saturating_neg());
        words.push(ask.kind.letter().to_owned());
        let numbers = match ask.kind {
            Kind::Budget | Kind::Slots => [
                down(ask.limit),
                ask.ttl_ms,
                up(ask.used),
                down(ask.has),
                up(ask.need),
                up(ask.want),
                down(ask.settled),
                down(ask.told),
            ],
            Kind::Rate { burst } => [
                ask.limit.max(1),
                WINDOW_US,
                burst,
                ask.give,
                ask.need,
                ask.want,
                ask.told,
                0,
            ],
        };
        words.extend(numbers.map(|number| number.to_string()));
    }
    Call {
        script: &SCRIPT,
        keys,
        arguments: words,
    }
}

/// What the script answered to these asks; `None` where it isn't an answer of it.
pub(super) fn outcome(reply: &Value, asks: &[Ask]) -> Option<Outcome> {
    let Value::Array(all) = reply else {
        return None;
    };
    if let [Value::BulkString(word), Value::Int(last)] = all.as_slice()
        && word == b"old"
    {
        return Some(Outcome::Old(*last));
    }
    let (head, rest) = all.split_first_chunk::<3>()?;
    let [
        Value::Int(hosts),
        Value::Int(waits_ms),
        Value::BulkString(words),
    ] = head
    else {
        return None;
    };
    let number = |it: &Value| match it {
        Value::Int(number) => Some(*number),
        _ => None,
    };
    let rest: Vec<i64> = rest.iter().map(number).collect::<Option<_>>()?;
    let (answers, more) = rest.as_chunks::<5>();
    if answers.len() != asks.len() || !more.is_empty() {
        return None;
    }
    let answers = asks.iter().zip(answers);
    let answers = answers.map(|(ask, &[has, left, told, idle, settled])| {
        let ours = |amount: i64| amount.saturating_mul(ask.kind.unit());
        Answer {
            has: ours(has),
            left: ours(left),
            told: ours(told),
            idle: ours(idle),
            settled: ours(settled),
        }
    });
    Some(Outcome::Done {
        hosts: (*hosts).max(1),
        waits_ms: *waits_ms,
        words: String::from_utf8(words.clone()).ok()?,
        answers: answers.collect(),
    })
}

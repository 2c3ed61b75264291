//! What a limit's refusal looks like: status, codes and the sentence for the caller, who hears of its own
//! limits and of nobody else's.

use crate::govern::Denied;
use crate::govern::scope::{Measure, Whose};
use crate::govern::settings::Period;
use std::fmt;
use std::time::Duration;

/// The HTTP status.
pub fn status(denied: &Denied) -> u16 {
    match denied {
        Denied::RateLimited(_) | Denied::Rate { .. } | Denied::Budget { .. } => 429,
        Denied::Full { whose, .. } if *whose != Whose::Host => 429,
        // It would be refused for ever: clients try again what is answered with 429.
        Denied::TooLarge { .. } => 400,
        Denied::Unpriced | Denied::Unmetered => 403,
        Denied::InFlight
        | Denied::Unshared { .. }
        | Denied::NoAccount { .. }
        | Denied::Full { .. }
        | Denied::QueueFull { .. } => 503,
    }
}

/// `x-weir-error`.
pub fn code(denied: &Denied) -> &'static str {
    use Measure::{InFlightTokens, Tokens};
    match denied {
        Denied::InFlight | Denied::Unshared { .. } | Denied::NoAccount { .. } => "overloaded",
        Denied::Full {
            whose: Whose::Host, ..
        } => "overloaded",
        Denied::Rate { measure, .. }
        | Denied::Full { measure, .. }
        | Denied::TooLarge { measure, .. } => match measure {
            Tokens | InFlightTokens => "tokens_limited",
            _ => "rate_limited",
        },
        Denied::RateLimited(_) => "rate_limited",
        Denied::Budget { .. } => "budget_exceeded",
        Denied::Unpriced => "unpriced_model",
        Denied::Unmetered => "unmetered",
        Denied::QueueFull { .. } => "queue_full",
    }
}

/// The sentence for the caller.
pub fn sentence(denied: &Denied, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match *denied {
        Denied::RateLimited(_) => f.write_str(
            "Too many requests from this address; wait as Retry-After says and try again.",
        ),
        Denied::Rate { whose, measure, per_minute, wait } => {
            let what = unit(measure);
            write!(
                f,
                "Too many {what}: the limit of this {whose} is {per_minute} {what} a minute; try again \
                 in {}.",
                Seconds(wait)
            )
        }
        Denied::TooLarge { whose, measure, max, tokens } => {
            let at = if measure == Measure::Tokens { "in a minute" } else { "at once" };
            write!(
                f,
                "The request is too large: with its prompt and the longest answer that it allows it \
                 has about {tokens} tokens, and this {whose} may use {max} {at}. It can't be served \
                 later either; shorten the prompt or lower max_tokens."
            )
        }
        Denied::InFlight => f.write_str(
            "The server is at its limit (requests in flight); wait as Retry-After says and try again.",
        ),
        Denied::Full { whose, measure, max } => {
            let what = unit(measure);
            match whose {
                Whose::Host => write!(
                    f,
                    "The server is at its limit ({what} in flight); wait as Retry-After says and try \
                     again."
                ),
                _ => write!(
                    f,
                    "Too many {what} at once: the limit of this {whose} is {max}; try again when \
                     another request has ended."
                ),
            }
        }
        Denied::Budget { whose, per, wait } => {
            let period = match per {
                Period::Total => String::new(),
                per => format!(" of this {}", per.as_str()),
            };
            write!(
                f,
                "You exceeded your current quota: what is left of the budget{period} of this {whose} \
                 doesn't cover the request at its longest answer"
            )?;
            match wait {
                Some(wait) => write!(f, "; the next one begins in {}.", Seconds(wait)),
                None => f.write_str("."),
            }
        }
        Denied::Unshared { whose } => write!(
            f,
            "The server can't learn now what is left of the budget of this {whose}, which other servers \
             spend too; wait as Retry-After says and try again."
        ),
        Denied::NoAccount { whose } => write!(
            f,
            "The server has no room to note what this {whose} spends, and serves nothing under a budget \
             that it can't keep; tell its operator."
        ),
        Denied::Unpriced => f.write_str(
            "The request is under a budget, and nobody has said what its model costs; ask the \
             operator for a price (`prices`).",
        ),
        Denied::Unmetered => f.write_str(
            "The request is under a budget or a limit of tokens, and nobody can tell what it will use \
             (a WebSocket, an answer in the background, a batch, or a path that isn't known); ask the \
             operator, who may allow it (`limits.unmetered`).",
        ),
        Denied::QueueFull { .. } => f.write_str(
            "Too many requests wait already; wait as Retry-After says and try again.",
        ),
    }
}

fn unit(measure: Measure) -> &'static str {
    match measure {
        Measure::Requests | Measure::InFlight => "requests",
        Measure::Tokens | Measure::InFlightTokens => "tokens",
    }
}

/// Seconds, rounded up to tenths below ten and to whole ones above.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.as_nanos().div_ceil(100_000_000);
        match tenths {
            0..100 => write!(f, "{}.{} s", tenths / 10, tenths % 10),
            _ => write!(f, "{} s", tenths.div_ceil(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Said(Denied);

    impl fmt::Display for Said {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            sentence(&self.0, f)
        }
    }

    #[test]
    fn a_sentence_says_whose_limit_it_is_and_how_large() {
        let rate = Said(Denied::Rate {
            whose: Whose::Team,
            measure: Measure::Requests,
            per_minute: 600,
            wait: Duration::from_millis(101),
        });
        assert_eq!(
            rate.to_string(),
            "Too many requests: the limit of this team is 600 requests a minute; try again in 0.2 s."
        );
        let budget = Said(Denied::Budget {
            whose: Whose::Key,
            per: Period::Month,
            wait: Some(Duration::from_secs(3600)),
        });
        assert!(
            budget
                .to_string()
                .contains("budget of this month of this key")
        );
        assert!(budget.to_string().ends_with("begins in 3600 s."));
    }
}

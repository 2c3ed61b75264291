//! `weir keys`: keys made at run time. Asks the running weir; where none runs, changes the file in the
//! `state_dir` of the configuration itself.

use super::File;
use super::ask::{Ask, aligned};
use crate::app::question::{
    self, IssuedKey, KeyLimits, KeyList, KeysAsk, ListedKey, Question, Wish,
};
use crate::app::question::{KeySource, KeyState, Moment, Spending};
use crate::app::{Fault, Source};
use crate::config;
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// Makes, lists, revokes and replaces keys.
#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub struct Keys {
    #[command(flatten)]
    ask: Ask,
    /// Configuration file, for its `teams` and `state_dir` where no running weir is asked [default:
    /// /etc/weir/weir.yaml]
    #[arg(
        short = 'c',
        long = "config",
        visible_short_alias = 'f',
        value_name = "FILE",
        global = true
    )]
    config: Option<std::path::PathBuf>,
    #[command(subcommand)]
    what: What,
}

const WHERE: &str = "\
The running weir at --control is asked, for it is its file. With -c alone, or where no weir runs, the file
in the configuration's state_dir is changed directly. Either way every process of weir knows of it within
a second, without a reload.";

#[derive(Debug, Subcommand)]
enum What {
    /// Make a key and print it, this once: weir keeps only its hash
    New(New),
    /// List all keys, those of the configuration too
    List {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Take a key back
    Revoke {
        /// Which
        #[arg(value_name = "TEAM/NAME", value_parser = called)]
        key: Called,
    },
    /// Give a key a new secret and print it, this once; limits and budgets stay with the key
    Rotate {
        /// Which
        #[arg(value_name = "TEAM/NAME", value_parser = called)]
        key: Called,
        /// How long the secret that it has is good; 0 = not any more, nor any that was replaced before
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = span)]
        overlap: Duration,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct New {
    /// A team of the configuration
    #[arg(long)]
    team: String,
    /// The key's name in logs [default: one that weir finds]
    #[arg(long)]
    name: Option<String>,
    /// A time from now such as 90d, a day (YYYY-MM-DD, UTC) or a moment (RFC 3339) [default: never]
    #[arg(long, value_name = "WHEN", value_parser = expiry)]
    expires: Option<Moment>,
    /// Names or globs of models, of those of its team [default: all of them]
    #[arg(long, value_name = "MODELS", value_delimiter = ',')]
    models: Option<Vec<String>>,
    /// Limits: requests_per_minute=N, tokens_per_minute=N, in_flight=N, in_flight_tokens=N
    #[arg(long, value_name = "LIMITS", value_delimiter = ',', value_parser = limit)]
    limits: Vec<(Limit, u64)>,
    /// Short for --limits requests_per_minute=N
    #[arg(long, value_name = "N")]
    rpm: Option<u64>,
    /// Short for --limits tokens_per_minute=N
    #[arg(long, value_name = "N")]
    tpm: Option<u64>,
    /// US dollars for each day, week, month or year, or in total, such as 10/month; several are allowed
    #[arg(long, value_name = "USD/PERIOD", value_parser = budget)]
    budget: Vec<Spending>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// A key's team and name.
#[derive(Clone, Debug)]
struct Called {
    team: String,
    name: String,
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    RequestsPerMinute,
    TokensPerMinute,
    InFlight,
    InFlightTokens,
}

impl Keys {
    /// Does it, and prints what came of it.
    ///
    /// # Errors
    /// Why it wasn't done.
    pub fn run(self) -> Result<(), Fault> {
        let place = Place {
            ask: self.ask,
            config: self.config,
        };
        match self.what {
            What::New(new) => {
                let json = new.json;
                let wish = new.wish();
                let issued: IssuedKey = place.answer(KeysAsk::New { wish })?;
                print_issued(&issued, json)
            }
            What::List { json } => {
                let list: KeyList = place.answer(KeysAsk::List)?;
                if json {
                    return print_json(&list.keys);
                }
                print!("{}", table(&list.keys));
                Ok(())
            }
            What::Revoke { key } => {
                let done = format!("{}/{} is revoked", key.team, key.name);
                place.answer::<Value>(KeysAsk::Revoke {
                    team: key.team,
                    name: key.name,
                })?;
                println!("{done}");
                Ok(())
            }
            What::Rotate { key, overlap, json } => {
                let issued: IssuedKey = place.answer(KeysAsk::Rotate {
                    team: key.team,
                    name: key.name,
                    overlap_seconds: overlap.as_secs(),
                })?;
                print_issued(&issued, json)
            }
        }
    }
}

/// Who is asked.
struct Place {
    ask: Ask,
    config: Option<std::path::PathBuf>,
}

impl Place {
    fn answer<A: DeserializeOwned>(&self, what: KeysAsk) -> Result<A, Fault> {
        let directly = self.config.is_some() && !self.ask.is_named();
        let question = Question::Keys { what };
        if !directly && self.ask.finds_somebody() {
            let answers = self.ask.answers(&question, false);
            let answer = answers.map_err(Fault::Unusable)?.into_iter().next();
            return answer.ok_or_else(|| Fault::Unusable("weir gave no answer; try again".into()));
        }
        if self.config.is_none() && self.ask.is_named() {
            // Says why nobody answers there.
            self.ask
                .answers::<Value>(&question, false)
                .map_err(Fault::Unusable)?;
        }
        let file = File {
            config: self.config.clone(),
        };
        let source = match file.source() {
            source @ Source::File(_) => source,
            _ => {
                let what = "no weir runs, and there is no /etc/weir/weir.yaml: name the configuration \
                            with -c FILE, or the running weir with --control PATH";
                return Err(Fault::Unusable(what.into()));
            }
        };
        let answer = question::answer_alone(question, &source.load()?);
        super::ask::read(answer).map_err(Fault::Unusable)
    }
}

impl New {
    fn wish(self) -> Wish {
        let mut limits = KeyLimits::default();
        let short = [
            (Limit::RequestsPerMinute, self.rpm),
            (Limit::TokensPerMinute, self.tpm),
        ];
        let short = short
            .into_iter()
            .filter_map(|(limit, count)| Some((limit, count?)));
        for (limit, count) in self.limits.into_iter().chain(short) {
            *match limit {
                Limit::RequestsPerMinute => &mut limits.requests_per_minute,
                Limit::TokensPerMinute => &mut limits.tokens_per_minute,
                Limit::InFlight => &mut limits.in_flight,
                Limit::InFlightTokens => &mut limits.in_flight_tokens,
            } = count;
        }
        Wish {
            team: self.team,
            name: self.name,
            expires: self.expires,
            models: self.models,
            limits,
            budgets: self.budget,
        }
    }
}

// === what is said on the command line ===

fn called(text: &str) -> Result<Called, String> {
    let (team, name) = text.split_once('/').ok_or("a key is called TEAM/NAME")?;
    Ok(Called {
        team: team.to_owned(),
        name: name.to_owned(),
    })
}

fn span(text: &str) -> Result<Duration, String> {
    config::span(text).ok_or_else(|| "a time such as 30m, 24h, 90d; or 0".to_owned())
}

fn expiry(text: &str) -> Result<Moment, String> {
    if let Some(span) = config::span(text) {
        return Ok(Moment(SystemTime::now() + span));
    }
    let moment = config::moment(text);
    moment.map(Moment).ok_or_else(|| {
        "a time such as 90d, a day such as 2027-01-31, or a moment of RFC 3339".to_owned()
    })
}

fn limit(text: &str) -> Result<(Limit, u64), String> {
    const ALLOWED: &str =
        "requests_per_minute=N, tokens_per_minute=N, in_flight=N or in_flight_tokens=N";
    let (name, count) = text.split_once('=').ok_or(ALLOWED)?;
    let limit = match name {
        "requests_per_minute" => Limit::RequestsPerMinute,
        "tokens_per_minute" => Limit::TokensPerMinute,
        "in_flight" => Limit::InFlight,
        "in_flight_tokens" => Limit::InFlightTokens,
        _ => return Err(ALLOWED.into()),
    };
    Ok((limit, count.parse().map_err(|_| ALLOWED)?))
}

fn budget(text: &str) -> Result<Spending, String> {
    const ALLOWED: &str =
        "US dollars and a period, such as 10/month (day, week, month, year, total)";
    let (usd, per) = text.split_once('/').ok_or(ALLOWED)?;
    let usd: f64 = usd.parse().map_err(|_| ALLOWED)?;
    let wish = serde_json::json!({"usd": usd, "per": per});
    serde_json::from_value(wish).map_err(|_| ALLOWED.into())
}

// === what is printed ===

/// The secret alone goes to standard output, so that a script can take it from there.
fn print_issued(issued: &IssuedKey, json: bool) -> Result<(), Fault> {
    if json {
        return print_json(issued);
    }
    println!("{}", issued.key);
    eprintln!(
        "{}/{}: this is its key, shown this once; clients send it as `Authorization: Bearer`{}{}",
        issued.team,
        issued.name,
        issued
            .expires
            .map_or(String::new(), |at| format!("; it expires at {at}")),
        issued.replaced_until.map_or(String::new(), |at| format!(
            "; the one before it is good until {at}"
        )),
    );
    Ok(())
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Fault> {
    let text = serde_json::to_string_pretty(value);
    println!(
        "{}",
        text.map_err(|error| Fault::Unusable(error.to_string()))?
    );
    Ok(())
}

fn table(keys: &[ListedKey]) -> String {
    let heads = [
        "KEY", "SOURCE", "STATE", "CREATED", "EXPIRES", "MODELS", "LIMITS",
    ];
    let mut rows = vec![heads.map(str::to_owned)];
    rows.extend(keys.iter().map(row));
    aligned(&rows)
}

fn row(key: &ListedKey) -> [String; 7] {
    let time = |moment: Option<Moment>| moment.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let state = match (key.state, key.replaced_until) {
        (KeyState::Active, None) => "active".to_owned(),
        (KeyState::Active, Some(until)) => format!("active, and the one before until {until}"),
        (KeyState::Expired, _) => "expired".to_owned(),
        (KeyState::NoTeam, _) => "refused: no such team".to_owned(),
        (KeyState::Shadowed, _) => "refused: the configuration has a key of this name".to_owned(),
    };
    [
        format!("{}/{}", key.team, key.name),
        match key.source {
            KeySource::Configuration => format!("file ({})", key.credential),
            KeySource::Made => "made".to_owned(),
        },
        state,
        time(key.created),
        time(key.expires),
        key.models
            .as_ref()
            .map_or_else(|| "all".to_owned(), |it| it.join(",")),
        question::allowance_in_words(&key.limits, &key.budgets),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_budgets_are_read_as_they_are_told() {
        assert!(matches!(limit("in_flight=5"), Ok((Limit::InFlight, 5))));
        for wrong in ["in_flight", "in_flight=", "in_flight=-1", "x=1", ""] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
        let month = budget("10.5/month").unwrap();
        assert_eq!((month.usd, month.warn), (10.5, vec![0.8]));
        for wrong in ["10", "10/", "/month", "ten/month", "10/hour"] {
            assert!(budget(wrong).is_err(), "{wrong}");
        }
        assert!(expiry("90d").is_ok() && expiry("2999-01-31").is_ok());
        assert!(expiry("2999-01-31T12:00:00+02:00").is_ok());
        for wrong in ["", "soon", "2999-13-01", "90"] {
            assert!(expiry(wrong).is_err(), "{wrong}");
        }
    }
}

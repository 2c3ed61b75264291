//! `prices`, `prices_file`: what tokens cost.

use super::Check;
use crate::config::file::{File, Price, PriceList};
use crate::config::lists::Map;
use crate::config::path::Path;
use crate::config::units::Fraction;
use crate::tokens::settings::{self, Entry, Settings};
use crate::types::Money;
use chrono::NaiveDate;
use std::io::Read;

/// The list that weir comes with.
const SHIPPED: &str = include_str!("../../../conf/prices.yaml");

/// Reads them all.
pub(super) fn prices(file: &File, check: &mut Check<'_>) -> Settings {
    let providers = file.providers.iter().flat_map(|list| list.items());
    let providers = providers.filter_map(|(_, it)| Some(it.name.as_ref()?.0.as_str()));
    let providers: Vec<&str> = providers.collect();
    let path = check.key("prices");
    let mut own = Vec::new();
    for (name, price) in file.prices.iter().flat_map(|map| &map.0) {
        let path = path.key(name);
        let Some(price) = price else {
            check.missing(&path, "a mapping such as {input: 2.50, output: 10.00}");
            continue;
        };
        if name.is_empty() || name.contains(char::is_control) {
            let allowed = "a model's name or glob, or PROVIDER/MODEL";
            check.findings.wrong_because(&path, "no name", allowed);
        }
        own.push(entry(name, &providers, self::price(price, &path, check)));
    }
    let (as_of, list) = match &file.prices_file {
        None => shipped(&providers),
        Some(text) => {
            let path = check.key("prices_file");
            let read = read(&check.folder.join(&text.0));
            match read.and_then(|text| listed(&text, &providers)) {
                Ok(read) => read,
                Err(why) => {
                    let found = format!("{}, {why}", check.findings.found(&path));
                    let allowed =
                        "a file as conf/prices.yaml is one: `as_of: YYYY-MM-DD`, and `models`";
                    check.findings.wrong_because(&path, found, allowed);
                    (String::new(), Vec::new())
                }
            }
        }
    };
    Settings { own, list, as_of }
}

type Listed = (String, Vec<Entry>);

/// What weir comes with.
fn shipped(providers: &[&str]) -> Listed {
    listed(SHIPPED, providers).expect("conf/prices.yaml is read by a test")
}

fn read(path: &std::path::Path) -> Result<String, String> {
    const BYTES_MAX: u64 = 8 << 20;
    let mut text = String::new();
    let file = std::fs::File::open(path);
    file.and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| format!("which can't be read ({error})"))?;
    Ok(text)
}

/// Reads a list of prices.
fn listed(text: &str, providers: &[&str]) -> Result<Listed, String> {
    let list: PriceList = serde_yaml::from_str(text)
        .map_err(|error| format!("which is no list of prices: {error}"))?;
    let as_of = list
        .as_of
        .ok_or("which doesn't say as_of which day it is")?
        .0;
    if NaiveDate::parse_from_str(&as_of, "%Y-%m-%d").is_err() {
        return Err(format!("whose as_of is no day: {as_of:?}"));
    }
    let Map(models) = list.models.ok_or("which has no `models`")?;
    let mut entries = Vec::new();
    for (name, price) in models {
        let price = price.ok_or_else(|| format!("whose model {name:?} has no price"))?;
        let (price, wrong) = converted(&price);
        if let Some(key) = wrong.first() {
            return Err(format!("whose model {name:?} has an impossible `{key}`"));
        }
        entries.push(entry(&name, providers, price));
    }
    Ok((as_of, entries))
}

fn entry(name: &str, providers: &[&str], price: settings::Price) -> Entry {
    let (provider, model) = match name.split_once('/') {
        Some((provider, model)) if providers.contains(&provider) => (Some(provider), model),
        _ => (None, name),
    };
    Entry {
        provider: provider.map(str::to_owned),
        model: model.to_owned(),
        price,
    }
}

fn price(price: &Price, path: &Path, check: &mut Check<'_>) -> settings::Price {
    let (price, wrong) = converted(price);
    for key in wrong {
        let allowed = "US dollars: a number from 0 to 1000000";
        check.findings.wrong(&path.key(key), allowed);
    }
    price
}

/// A price by the token, and the keys whose numbers can't be meant.
fn converted(price: &Price) -> (settings::Price, Vec<&'static str>) {
    const USD_MAX: f64 = 1e6;
    let mut wrong = Vec::new();
    let mut part = |usd: Option<Fraction>, parts: f64, key| {
        let usd = usd?.0;
        let money = Money::at_least(usd / parts).filter(|_| usd <= USD_MAX);
        if money.is_none() {
            wrong.push(key);
        }
        money
    };
    const MILLION: f64 = 1e6;
    let read = settings::Price {
        input: part(price.input, MILLION, "input").unwrap_or_default(),
        cached: part(price.cached, MILLION, "cached"),
        cache_write: part(price.cache_write, MILLION, "cache_write"),
        output: part(price.output, MILLION, "output").unwrap_or_default(),
        reasoning: part(price.reasoning, MILLION, "reasoning"),
        audio_input: part(price.audio_input, MILLION, "audio_input"),
        audio_output: part(price.audio_output, MILLION, "audio_output"),
        image_input: part(price.image_input, MILLION, "image_input"),
        character: part(price.characters, MILLION, "characters").unwrap_or_default(),
        image: part(price.image, 1.0, "image").unwrap_or_default(),
        audio_second: part(price.audio_minute, 60.0, "audio_minute").unwrap_or_default(),
        output_max: price.max_output.map_or(0, |max| max.0),
    };
    (read, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_list_is_sound() {
        let (as_of, entries) = shipped(&[]);
        assert!(as_of.starts_with("20"), "{as_of}");
        assert!(entries.len() > 50, "{}", entries.len());
        for Entry { model, price, .. } in &entries {
            let all = price.input + price.output + price.image;
            let all = all + price.audio_second + price.character;
            assert!(all > Money::ZERO || model.contains("moderation"), "{model}");
            assert!(
                price.cached.is_none_or(|cached| cached <= price.input),
                "{model}"
            );
            assert!(price.output_max < 2_000_000, "{model}");
        }
        let mut names: Vec<_> = entries.iter().map(|it| &it.model).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), entries.len(), "each model once");
    }

    #[test]
    fn a_price_is_exact_by_the_token() {
        let number = |usd| Some(Fraction(usd));
        let (price, wrong) = converted(&Price {
            input: number(0.075),
            output: number(10.0),
            cached: number(0.0075),
            audio_minute: number(0.006),
            ..Price::default()
        });
        assert_eq!(wrong, Vec::<&str>::new());
        assert_eq!(price.input.pico(), 75_000);
        assert_eq!(price.output.pico(), 10_000_000);
        assert_eq!(price.cached.map(Money::pico), Some(7_500));
        assert_eq!(price.audio_second.to_string(), "0.0001");
        let (price, _) = converted(&Price {
            input: number(0.000_000_1),
            audio_minute: number(0.00185),
            ..Price::default()
        });
        assert_eq!(price.input.pico(), 1, "nothing that has a price is free");
        assert_eq!(price.audio_second.pico(), 30_833_334, "nor rounded down");
        let (_, wrong) = converted(&Price {
            input: number(1e7),
            ..Price::default()
        });
        assert_eq!(wrong, ["input"]);
    }

    #[test]
    fn a_file_that_is_no_list_says_why() {
        for (text, why) in [
            ("as_of: 2026-01-01", "models"),
            ("models: {}", "as_of"),
            ("as_of: soon\nmodels: {}", "soon"),
            ("as_of: 2026-01-01\nmodels: {x: {inptu: 1}}", "inptu"),
            ("as_of: 2026-01-01\nmodels: {x: }", "no price"),
            (
                "as_of: 2026-01-01\nmodels: {x: {input: 10000000}}",
                "impossible",
            ),
        ] {
            let error = listed(text, &[]).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}

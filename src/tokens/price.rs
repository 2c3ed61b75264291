//! Tokens → money: what a usage cost, and what a request may cost at most. Exact: a price is a whole
//! number of picodollars a token. It knows no budgets. Called by `proxy`, at admission and at the end.

use super::settings::{Entry, Price, Settings};
use crate::types::Money;
use ahash::AHashMap;
use globset::GlobMatcher;
use std::cmp::Reverse;

/// All prices, ready to be asked.
#[derive(Debug, Default)]
pub struct Prices {
    own: Table,
    list: Table,
}

/// What is paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Billed {
    /// Tokens of the prompt, with those from a cache and those written to one.
    pub input: u64,
    /// Those from a cache.
    pub cached: u64,
    /// Those written to a cache.
    pub cache_write: u64,
    /// Tokens of the answer, with reasoning.
    pub output: u64,
    /// Those of reasoning.
    pub reasoning: u64,
}

#[derive(Debug, Default)]
struct Table {
    /// Of any provider.
    general: Names,
    /// Of one.
    providers: AHashMap<Box<str>, Names>,
}

#[derive(Debug, Default)]
struct Names {
    exact: AHashMap<Box<str>, Price>,
    /// Longest first.
    globs: Vec<(GlobMatcher, Price)>,
}

// === impl Prices ===

impl Prices {
    /// Builds the tables from checked settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            own: Table::new(&settings.own),
            list: Table::new(&settings.list),
        }
    }

    /// The price of a model that a provider serves under this name. The file's own prices come first,
    /// then the list's; within each those of the provider, then an exact name, then the longest glob.
    /// A name that ends in a date (`gpt-4o-2024-08-06`, `claude-opus-4-20250514`) or `-latest`, or begins
    /// with a vendor's (`openai/gpt-4o`), costs what it does without, unless it is listed itself.
    pub fn find(&self, provider: &str, model: &str) -> Option<&Price> {
        self.own
            .find(provider, model)
            .or_else(|| self.list.find(provider, model))
    }

    /// True when nothing has a price.
    pub fn is_empty(&self) -> bool {
        let empty = |table: &Table| {
            let names = table.providers.is_empty() && table.general.exact.is_empty();
            names && table.general.globs.is_empty()
        };
        empty(&self.own) && empty(&self.list)
    }
}

// === impl Price ===

impl Price {
    /// What that much costs.
    pub fn cost(&self, billed: &Billed) -> Money {
        let cached = billed.cached.min(billed.input);
        let cache_write = billed.cache_write.min(billed.input - cached);
        let plain = billed.input - cached - cache_write;
        let reasoning = billed.reasoning.min(billed.output);
        let said = billed.output - reasoning;
        self.input.times(plain)
            + self.cached.unwrap_or(self.input).times(cached)
            + self.cache_write.unwrap_or(self.input).times(cache_write)
            + self.output.times(said)
            + self.reasoning.unwrap_or(self.output).times(reasoning)
    }

    /// What a prompt and an answer of these lengths cost at most, however much of them a cache or
    /// reasoning is.
    pub fn at_most(&self, input: u64, output: u64) -> Money {
        let dearest = |price: Money, others: [Option<Money>; 2]| {
            others.into_iter().flatten().fold(price, Money::max)
        };
        dearest(self.input, [self.cached, self.cache_write]).times(input)
            + dearest(self.output, [self.reasoning, None]).times(output)
    }
}

// === impl Table ===

impl Table {
    fn new(entries: &[Entry]) -> Self {
        let mut table = Self::default();
        for entry in entries {
            let names = match &entry.provider {
                None => &mut table.general,
                Some(provider) => table.providers.entry(provider.as_str().into()).or_default(),
            };
            names.add(&entry.model, entry.price);
        }
        let all = table.providers.values_mut();
        for names in all.chain([&mut table.general]) {
            let length = |(glob, _): &(GlobMatcher, Price)| Reverse(glob.glob().glob().len());
            names.globs.sort_by_key(length);
        }
        table
    }

    fn find(&self, provider: &str, model: &str) -> Option<&Price> {
        let own = self.providers.get(provider);
        own.and_then(|names| names.find(model))
            .or_else(|| self.general.find(model))
    }
}

// === impl Names ===

impl Names {
    fn add(&mut self, model: &str, price: Price) {
        if !model.contains(['*', '?']) {
            self.exact.insert(model.into(), price);
        } else if let Ok(glob) = crate::types::glob::glob(model) {
            // One that can't be read was reported by the check of the configuration.
            self.globs.push((glob.compile_matcher(), price));
        }
    }

    fn find(&self, model: &str) -> Option<&Price> {
        if let Some(price) = self.exact.get(model) {
            return Some(price);
        }
        let bare = model.rsplit_once('/').map_or(model, |(_, name)| name);
        for name in [undated(model), bare, undated(bare)] {
            if let Some(price) = self.exact.get(name) {
                return Some(price);
            }
        }
        let mut globs = self.globs.iter();
        let found = globs.find(|(glob, _)| glob.is_match(model) || glob.is_match(bare));
        found.map(|(_, price)| price)
    }
}

/// The name without a date (`-2024-08-06`, `-20240806`, `@20240806`, `-0613`) or `-latest` at its end.
fn undated(model: &str) -> &str {
    if let Some(name) = model.strip_suffix("-latest") {
        return name;
    }
    let is_part = |byte: u8| byte.is_ascii_digit() || byte == b'-';
    let digits = model
        .bytes()
        .rev()
        .take_while(|byte| is_part(*byte))
        .count();
    let tail = &model[model.len() - digits..];
    for length in [11, 9, 5] {
        let Some(at) = tail.len().checked_sub(length) else {
            continue;
        };
        let date = &tail[at..];
        let numbers: Vec<&str> = date.split('-').skip(1).collect();
        let lengths: Vec<usize> = numbers.iter().map(|number| number.len()).collect();
        let fits = match *lengths.as_slice() {
            [4, 2, 2] => numbers[0].starts_with("20"),
            [8] => numbers[0].starts_with("20"),
            [4] => true,
            _ => false,
        };
        if date.starts_with('-') && fits {
            return &model[..model.len() - length];
        }
    }
    match model.rsplit_once('@') {
        Some((name, date)) if date.len() == 8 && date.bytes().all(|it| it.is_ascii_digit()) => name,
        _ => model,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(input: f64, output: f64) -> Price {
        let a_token = |usd: f64| Money::from_usd(usd / 1e6).unwrap();
        Price {
            input: a_token(input),
            output: a_token(output),
            ..Price::default()
        }
    }

    fn entry(provider: Option<&str>, model: &str, input: f64) -> Entry {
        Entry {
            provider: provider.map(str::to_owned),
            model: model.to_owned(),
            price: price(input, 0.0),
        }
    }

    #[test]
    fn cached_and_written_tokens_are_part_of_the_prompt_and_reasoning_of_the_answer() {
        let mut price = price(2.5, 10.0);
        let billed = Billed {
            input: 1000,
            cached: 600,
            cache_write: 100,
            output: 200,
            reasoning: 50,
        };
        assert_eq!(price.cost(&billed).to_string(), "0.0045");
        price.cached = Money::from_usd(1.25e-6);
        price.cache_write = Money::from_usd(3.0e-6);
        price.reasoning = Money::from_usd(20e-6);
        // 300 × 2.5 + 600 × 1.25 + 100 × 3 + 150 × 10 + 50 × 20, in millionths.
        assert_eq!(price.cost(&billed).to_string(), "0.0043");
        let most = price.at_most(1000, 200);
        assert_eq!(most.to_string(), "0.007");
        assert!(price.cost(&billed) <= most);
        let odd = Billed {
            input: 10,
            cached: 20,
            cache_write: 20,
            output: 1,
            reasoning: 9,
        };
        assert_eq!(
            price.cost(&odd).to_string(),
            "0.0000325",
            "a part is no more than its whole"
        );
    }

    #[test]
    fn the_files_own_prices_win_then_providers_then_exact_names_then_the_longest_glob() {
        let prices = Prices::new(&Settings {
            own: vec![entry(None, "own-*", 1.0), entry(Some("east"), "both", 2.0)],
            list: vec![
                entry(None, "own-model", 3.0),
                entry(None, "both", 4.0),
                entry(None, "gpt-*", 5.0),
                entry(None, "gpt-4o*", 6.0),
                entry(None, "gpt-4o", 7.0),
                entry(None, "claude-opus-4", 8.0),
                entry(None, "gpt-4o-2024-05-13", 9.0),
            ],
            as_of: String::new(),
        });
        for (provider, model, usd) in [
            ("x", "own-model", Some(1.0)),
            ("east", "both", Some(2.0)),
            ("west", "both", Some(4.0)),
            ("x", "gpt-3", Some(5.0)),
            ("x", "gpt-4o-mini", Some(6.0)),
            ("x", "gpt-4o", Some(7.0)),
            ("x", "gpt-4o-2024-08-06", Some(7.0)),
            ("x", "openai/gpt-4o-2024-08-06", Some(7.0)),
            ("x", "gpt-4o-2024-05-13", Some(9.0)),
            ("x", "claude-opus-4-20250514", Some(8.0)),
            ("x", "claude-opus-4@20250514", Some(8.0)),
            ("x", "claude-opus-4-latest", Some(8.0)),
            ("x", "claude-opus-4-1", None),
            ("x", "", None),
        ] {
            let found = prices.find(provider, model).map(|price| price.input);
            let wanted = usd.and_then(|usd| Money::from_usd(usd / 1e6));
            assert_eq!(found, wanted, "{provider}/{model}");
        }
    }

    #[test]
    fn only_dates_are_taken_from_a_name() {
        for (name, plain) in [
            ("gpt-4-0613", "gpt-4"),
            ("o1-2024-12-17", "o1"),
            ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
            ("gemini-2.5-pro", "gemini-2.5-pro"),
            ("qwen3-32", "qwen3-32"),
            ("model-99991231", "model-99991231"),
            ("-0613", ""),
            ("é-2024-12-17", "é"),
            ("", ""),
        ] {
            assert_eq!(undated(name), plain, "{name}");
        }
    }
}

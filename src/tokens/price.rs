//! Tokens → money: what a usage cost, and what a request may cost at most. Exact: a price is a whole
//! number of picodollars a token. It knows no budgets. Called by `proxy`, at admission and at the end.

use super::meter::{Media, Usage};
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
    /// What that much costs. A part is never more than its whole: tokens that would be of several kinds
    /// are sound first, then pictures, then from a cache.
    pub fn cost(&self, usage: &Usage) -> Money {
        let media = &usage.media;
        let input = [
            (media.audio_input, self.audio_input),
            (media.image_input, self.image_input),
            (usage.cached.unwrap_or(0), self.cached),
            (usage.cache_write.unwrap_or(0), self.cache_write),
        ];
        let output = [
            (media.audio_output, self.audio_output),
            (usage.reasoning.unwrap_or(0), self.reasoning),
        ];
        sum(usage.input.unwrap_or(0), self.input, input)
            + sum(usage.output.unwrap_or(0), self.output, output)
            + self.pieces(media)
    }

    /// What that much costs at most, however much of its tokens a cache, reasoning or an answer's sound
    /// are; of the prompt's tokens, where any are sound or pictures, all may be.
    pub fn at_most(&self, usage: &Usage) -> Money {
        let dearest = |price: Money, others: &[Option<Money>]| {
            others.iter().flatten().copied().fold(price, Money::max)
        };
        let media = &usage.media;
        let parts = [
            self.cached,
            self.cache_write,
            self.audio_input.filter(|_| media.audio_input > 0),
            self.image_input.filter(|_| media.image_input > 0),
        ];
        let input = dearest(self.input, &parts);
        let output = dearest(self.output, &[self.reasoning, self.audio_output]);
        input.times(usage.input.unwrap_or(0))
            + output.times(usage.output.unwrap_or(0))
            + self.pieces(&usage.media)
    }

    /// Whether tokens cost anything.
    pub fn is_by_token(&self) -> bool {
        let parts = [self.audio_input, self.audio_output, self.image_input];
        let plain = [Some(self.input), Some(self.output)];
        let mut prices = plain.into_iter().chain(parts).flatten();
        prices.any(|price| price > Money::ZERO)
    }

    /// Whether nothing costs anything that isn't counted in tokens.
    pub fn has_no_pieces(&self) -> bool {
        [self.image, self.audio_second, self.character] == [Money::ZERO; 3]
    }

    /// What isn't counted in tokens.
    fn pieces(&self, media: &Media) -> Money {
        self.image.times(media.images)
            + self.audio_second.times(media.seconds)
            + self.character.times(media.characters)
    }
}

/// What `whole` tokens cost of which these are parts; one without a price of its own costs what the rest
/// does.
fn sum<const N: usize>(whole: u64, price: Money, parts: [(u64, Option<Money>); N]) -> Money {
    let mut rest = whole;
    let mut cost = Money::ZERO;
    for (tokens, price) in parts {
        if let Some(price) = price {
            let tokens = tokens.min(rest);
            rest -= tokens;
            cost += price.times(tokens);
        }
    }
    cost + price.times(rest)
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
    use crate::tokens::media;

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

    fn usage(input: u64, output: u64) -> Usage {
        media::estimated(input, output, Media::default())
    }

    #[test]
    fn cached_and_written_tokens_are_part_of_the_prompt_and_reasoning_of_the_answer() {
        let mut price = price(2.5, 10.0);
        let used = Usage {
            cached: Some(600),
            cache_write: Some(100),
            reasoning: Some(50),
            ..usage(1000, 200)
        };
        assert_eq!(price.cost(&used).to_string(), "0.0045");
        price.cached = Money::from_usd(1.25e-6);
        price.cache_write = Money::from_usd(3.0e-6);
        price.reasoning = Money::from_usd(20e-6);
        // 300 × 2.5 + 600 × 1.25 + 100 × 3 + 150 × 10 + 50 × 20, in millionths.
        assert_eq!(price.cost(&used).to_string(), "0.0043");
        let most = price.at_most(&usage(1000, 200));
        assert_eq!(most.to_string(), "0.007");
        assert!(price.cost(&used) <= most);
    }

    #[test]
    fn a_part_is_no_more_than_its_whole_whatever_is_reported() {
        let all = |it| Usage {
            cached: Some(it),
            cache_write: Some(it),
            reasoning: Some(it),
            media: Media {
                audio_input: it,
                audio_output: it,
                image_input: it,
                ..Media::default()
            },
            ..usage(10, 3)
        };
        let mut price = price(2.5, 10.0);
        assert_eq!(price.cost(&all(u64::MAX)).to_string(), "0.000055");
        price.cached = Money::from_usd(1.25e-6);
        assert_eq!(
            price.cost(&all(20)).to_string(),
            "0.0000425",
            "from a cache"
        );
        price.audio_input = Money::from_usd(40e-6);
        price.audio_output = Money::from_usd(80e-6);
        // Sound is dearer: what could be both is that.
        assert_eq!(price.cost(&all(20)).to_string(), "0.00064");
        // 4 × 40 + 4 × 1.25 + 2 × 2.5, 2 × 80 + 10.
        let mut some = all(4);
        some.media.audio_output = 2;
        assert_eq!(price.cost(&some).to_string(), "0.00034");
        for used in [all(u64::MAX), all(20), some] {
            assert!(price.cost(&used) <= price.at_most(&used));
        }
        // 10 × 2.5, 3 × 80: nothing of the prompt is sound.
        assert_eq!(price.at_most(&usage(10, 3)).to_string(), "0.000265");
        price.input = Money::MAX;
        assert_eq!(price.cost(&usage(u64::MAX, u64::MAX)), Money::MAX);
    }

    #[test]
    fn what_is_no_token_has_its_own_price() {
        let price = Price {
            image: Money::from_pico(3),
            audio_second: Money::from_pico(500),
            character: Money::from_pico(70_000),
            ..Price::default()
        };
        let used = Usage {
            media: Media {
                images: 2,
                seconds: 3,
                characters: 4,
                ..Media::default()
            },
            ..usage(1000, 1000)
        };
        assert_eq!(price.cost(&used).pico(), 281_506);
        assert_eq!(price.at_most(&used).pico(), 281_506);
        assert!(!price.is_by_token());
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

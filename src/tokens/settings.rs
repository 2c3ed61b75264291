//! What tokens cost. Filled by `config::check`.

use crate::types::Money;

/// All prices.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `prices`: wins over the list.
    pub own: Vec<Entry>,
    /// `prices_file`, or the list that weir comes with.
    pub list: Vec<Entry>,
    /// The day of which the list is.
    pub as_of: String,
}

/// One model's price.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Whose price it is; `None` = whoever serves the model.
    pub provider: Option<String>,
    /// The model's name, or a glob.
    pub model: String,
    /// What it costs.
    pub price: Price,
}

/// What a model costs. What isn't known costs as much as what it is a part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// A token of the prompt.
    pub input: Money,
    /// One that comes from a cache; else as `input`.
    pub cached: Option<Money>,
    /// One that is written to a cache; else as `input`.
    pub cache_write: Option<Money>,
    /// A token of the answer.
    pub output: Money,
    /// One that is reasoning; else as `output`.
    pub reasoning: Option<Money>,
    /// A token of the prompt that is sound; else as `input`.
    pub audio_input: Option<Money>,
    /// One of the answer; else as `output`.
    pub audio_output: Option<Money>,
    /// A token of the prompt that is a picture; else as `input`.
    pub image_input: Option<Money>,
    /// An image that is made.
    pub image: Money,
    /// A character that is read out.
    pub character: Money,
    /// A second of sound.
    pub audio_second: Money,
    /// The most tokens that the model answers with; 0 = not known.
    pub output_max: u64,
}

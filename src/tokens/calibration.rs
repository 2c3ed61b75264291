//! What upstreams report against what weir counts: learned for each provider and model, so that a
//! model without a public vocabulary has counts that are about right.
//!
//! Two facts are learned. How many of the model's tokens come for one of the nearest public
//! vocabulary, by the kind of text (`fit`); and whether a stream's deltas are its tokens, as many
//! servers send them: then a stream that is cut has been counted by its server. Neither is ever taken
//! for an upstream's own report. Models with a public vocabulary are left as they are counted.
//!
//! Learning is for the thread that serves nobody, from some of the requests; asking takes a lock for
//! as long as a sum takes. One value serves all snapshots; a successor takes over what was learned.

mod fit;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;

use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::fit::Fit;
use super::estimate::Estimate;
use super::family::{Family, MODEL_BYTES_MAX, family};
use super::prompt::Prompt;

/// See the module.
#[derive(Debug, Default)]
pub struct Calibration {
    models: Mutex<Models>,
    hashes: RandomState,
}

/// Whose tokens: a provider by its name, and the model by the name that the provider knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    pub provider: &'a str,
    pub model: &'a str,
}

/// One thing that an upstream reported, beside weir's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample<'a> {
    /// A prompt. Those with images, with tokens from a cache or without much text teach nothing.
    Input { prompt: &'a Prompt, reported: u64 },
    /// An answer whose text was all delivered: no hidden reasoning. `wide` as its prompt is.
    Output {
        wide: bool,
        counted: u64,
        reported: u64,
    },
    /// A stream that ended well.
    Deltas { deltas: u64, reported: u64 },
}

/// Models that are remembered; then the one that was asked for longest ago makes room.
pub const MODELS_MAX: usize = 1024;

/// The largest request that is counted only to learn from it: 2 ms, 8 of the worst.
pub const LEARNED_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Models {
    known: AHashMap<u64, Model>,
    /// Counts up; a model's last is when it was used.
    now: u64,
}

#[derive(Debug, Clone)]
struct Model {
    provider: Box<str>,
    name: Box<str>,
    used: u64,
    /// Requests that it might have been learned from.
    seen: u64,
    /// Of mostly ASCII, and of other scripts.
    input: [Fit; 2],
    output: [Fit; 2],
    /// Streams in a row whose deltas were their tokens.
    aligned: u32,
}

/// So many requests are learned from at first; each doubling of those that were seen halves the part
/// of the next ones that is,
const SEEN_MIN: u64 = 64;
/// but it is never less than one in so many: what a name stands for may change.
const SEEN_STEP_MAX: u64 = 256;
/// Prompts and answers of fewer tokens teach nothing; neither do those of more, which would weigh as
/// much as all others.
const TOKENS_MIN: u64 = 8;
const TOKENS_MAX: u64 = 32 * 1024;
const TEACHES: RangeInclusive<u64> = TOKENS_MIN..=TOKENS_MAX;
/// Streams in a row before deltas are believed, and how long each must be.
const ALIGNED_MIN: u32 = 8;
const ALIGNED_TOKENS_MIN: u64 = 16;

// === impl Calibration ===

impl Calibration {
    /// Whether it is worth counting this request to learn from it: of a model with an own vocabulary
    /// never, else at first each, later few.
    pub fn wants(&self, key: Key<'_>) -> bool {
        if family(key.model).exact {
            return false;
        }
        let id = self.id(key);
        self.models.lock().change(id, key, |model| {
            model.seen += 1;
            let step = (model.seen / SEEN_MIN).max(1).next_power_of_two();
            model.seen.is_multiple_of(step.min(SEEN_STEP_MAX))
        }) == Some(true)
    }

    /// Learns from one report.
    pub fn learn(&self, key: Key<'_>, sample: Sample<'_>) {
        let id = self.id(key);
        let mut models = self.models.lock();
        models.change(id, key, |model| model.learn(sample));
    }

    /// The tokens of a prompt, as this model has them.
    pub fn input(&self, key: Key<'_>, prompt: &Prompt) -> u64 {
        let family = family(key.model);
        let kind = usize::from(prompt.is_wide());
        let line = self.of(key, family, |model| model.input[kind]);
        match line {
            Some(fit) => fit.apply(seed(family, kind), prompt.text) + prompt.fixed,
            None => family.seeded(prompt),
        }
    }

    /// The tokens of an answer of which `counted` were delivered, by the nearest vocabulary, in
    /// `deltas` pieces if it was a stream; `wide` as its prompt is.
    pub fn output(&self, key: Key<'_>, wide: bool, counted: u64, deltas: Option<u64>) -> u64 {
        let family = family(key.model);
        if family.exact {
            return counted;
        }
        let kind = usize::from(wide);
        let seed = seed(family, kind);
        let known = self.of(key, family, |model| {
            (model.input[kind], model.output[kind], model.aligned)
        });
        match (known, deltas) {
            (Some((_, _, aligned)), Some(deltas)) if aligned >= ALIGNED_MIN => deltas,
            // A model's prompts tell of its answers too.
            (Some((input, output, _)), _) => output.apply(input.ratio(seed), counted),
            (None, _) => (counted as f64 * seed).round() as u64,
        }
    }

    /// An estimate with what was learned.
    pub fn admission(&self, key: Key<'_>, estimate: Estimate) -> Estimate {
        let input = self.input(key, &estimate.prompt);
        Estimate { input, ..estimate }
    }

    /// What the next process needs to go on: a value for [`Calibration::take_over`]. Of the models
    /// that were used last, as far as something is known of them.
    pub fn hand_over(&self) -> Value {
        /// Each is about 300 bytes.
        const HANDED_MAX: usize = 256;
        let models: Vec<Model> = {
            let models = self.models.lock();
            let known = models.known.values();
            let mut known: Vec<&Model> = known.filter(|model| model.knows_something()).collect();
            known.sort_unstable_by_key(|model| std::cmp::Reverse(model.used));
            known.into_iter().take(HANDED_MAX).cloned().collect()
        };
        // The one that was used last comes last, so that it is the last to make room there too.
        models.iter().rev().map(Model::written).collect()
    }

    /// Goes on where another process stands: of each ratio, whoever has learned more of it is believed.
    pub fn take_over(&self, state: &Value) {
        let handed = state.as_array().into_iter().flatten().take(MODELS_MAX);
        for model in handed.filter_map(Model::read) {
            let (provider, name) = (model.provider.clone(), model.name.clone());
            let key = Key {
                provider: &provider,
                model: &name,
            };
            let id = self.id(key);
            self.models.lock().change(id, key, |own| own.join(&model));
        }
    }

    fn id(&self, key: Key<'_>) -> u64 {
        self.hashes.hash_one((key.provider, key.model))
    }

    /// What is known of a model without a vocabulary of its own.
    fn of<T>(&self, key: Key<'_>, family: Family, look: impl FnOnce(&Model) -> T) -> Option<T> {
        if family.exact {
            return None;
        }
        let id = self.id(key);
        let models = self.models.lock();
        models
            .known
            .get(&id)
            .filter(|model| model.is(key))
            .map(look)
    }
}

/// A family's ratio until something is learned.
fn seed(family: Family, kind: usize) -> f64 {
    family.seed.of(kind == 1) as f64 / 1000.0
}

// === impl Models ===

impl Models {
    /// Changes what is known of a model; makes room for a new one. Nothing is kept under a name that
    /// is too long to be one, or of one of two that share a hash.
    fn change<T>(
        &mut self,
        id: u64,
        key: Key<'_>,
        change: impl FnOnce(&mut Model) -> T,
    ) -> Option<T> {
        if key.model.len() > MODEL_BYTES_MAX {
            return None;
        }
        self.now += 1;
        if !self.known.contains_key(&id) {
            if self.known.len() >= MODELS_MAX {
                let oldest = self.known.iter().min_by_key(|(_, model)| model.used);
                let oldest = oldest.map(|(id, _)| *id);
                oldest.map(|id| self.known.remove(&id));
            }
            self.known.insert(id, Model::new(key));
        }
        let model = self.known.get_mut(&id).filter(|model| model.is(key))?;
        model.used = self.now;
        Some(change(model))
    }
}

// === impl Model ===

impl Model {
    fn new(key: Key<'_>) -> Self {
        Self {
            provider: key.provider.into(),
            name: key.model.into(),
            used: 0,
            seen: 0,
            input: [Fit::default(); 2],
            output: [Fit::default(); 2],
            aligned: 0,
        }
    }

    fn is(&self, key: Key<'_>) -> bool {
        *self.provider == *key.provider && *self.name == *key.model
    }

    fn learn(&mut self, sample: Sample<'_>) {
        match sample {
            Sample::Input { prompt, reported } => {
                let useful = !prompt.media && prompt.counted && TEACHES.contains(&prompt.text);
                if useful {
                    let kind = usize::from(prompt.is_wide());
                    self.input[kind].learn(prompt.text, reported.saturating_sub(prompt.fixed));
                }
            }
            Sample::Output {
                wide,
                counted,
                reported,
            } => {
                if TEACHES.contains(&counted) {
                    self.output[usize::from(wide)].learn(counted, reported);
                }
            }
            Sample::Deltas { deltas, reported } => {
                if reported.max(deltas) >= ALIGNED_TOKENS_MIN {
                    // The last token may be one that ends the text, and some are half a character.
                    let most = deltas + 2 + deltas / 50;
                    let aligned = (deltas..=most).contains(&reported);
                    self.aligned = if aligned {
                        self.aligned.saturating_add(1)
                    } else {
                        0
                    };
                }
            }
        }
    }

    fn knows_something(&self) -> bool {
        let fits = self.input.iter().chain(&self.output);
        self.aligned > 0 || fits.into_iter().any(|fit| !fit.is_empty())
    }

    /// Takes over what another process knows better.
    fn join(&mut self, other: &Self) {
        self.seen = self.seen.max(other.seen);
        self.aligned = self.aligned.max(other.aligned);
        let own = self.input.iter_mut().chain(&mut self.output);
        for (own, other) in own.zip(other.input.iter().chain(&other.output)) {
            if other.is_heavier(own) {
                *own = *other;
            }
        }
    }

    fn written(&self) -> Value {
        let fits: Vec<Value> = (self.input.iter().chain(&self.output))
            .map(|fit| fit.written())
            .collect();
        json!([self.provider, self.name, self.seen, self.aligned, fits])
    }

    fn read(state: &Value) -> Option<Self> {
        let mut model = Self::new(Key {
            provider: state[0].as_str()?,
            model: state[1].as_str()?,
        });
        model.seen = state[2].as_u64()?;
        model.aligned = u32::try_from(state[3].as_u64()?).ok()?;
        let fits = model.input.iter_mut().chain(&mut model.output);
        for (fit, state) in fits.zip(state[4].as_array()?) {
            *fit = Fit::read(state)?;
        }
        Some(model)
    }
}

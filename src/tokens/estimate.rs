//! What a request will use, before it is sent: for limits and budgets to decide by.
//!
//! Quick for any body: short texts are counted, of longer ones the rest is estimated by a linear
//! model and samples. Never to be billed where a count or a report is there.
//!
//! Called by the plan of a request; on the threads that serve only up to [`INLINE_BYTES_MAX`].

pub(super) mod linear;
pub(super) mod weigh;

#[cfg(test)]
mod tests;

use self::linear::estimate;
use self::weigh::{Care, SAMPLES_MAX};
use super::family::family;
use super::prompt::length::length;
use super::prompt::{self, Api, Prompt};

/// What a request will use, at most as far as that can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Tokens of the prompt.
    pub input: u64,
    /// Whether `input` is a count in the model's own vocabulary, of a prompt that is all text. Else it is
    /// about right: within a few percent for text to OpenAI's models, as far as the ratio is known for
    /// others; prompts with tools, images or documents can be far from it until something was learned.
    pub exact: bool,
    /// The most tokens that all answers together may have, as the request says; else what the model
    /// commonly has at most.
    pub output_max: u64,
    /// Whether the request says that.
    pub output_said: bool,
    /// How many answers with text it asks for.
    pub answers: u64,
    /// What it was made of, for [`Calibration`](super::calibration::Calibration).
    pub(super) prompt: Prompt,
}

impl Estimate {
    /// Whether it is known that the prompt has nothing but text.
    pub fn is_text(&self) -> bool {
        self.prompt.counted && !self.prompt.media
    }
}

/// The largest body that is worth estimating on a thread that serves. By the speed of the counter that
/// is 0.1 ms of ordinary text and less than 2 ms of the worst, and some 10 ms for 5 MB; what it comes to
/// within a request was not measured.
pub const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Bytes of text that are counted; the rest is estimated.
pub const COUNTED_BYTES_MAX: usize = 32 * 1024;

/// Estimates the request `body` for `model`. Whatever the body is, there is an answer; the time is
/// linear in its length, and a body that can't be read costs no more. May have to wait for the vocabulary.
pub fn admission(api: Api, model: &str, body: &[u8]) -> Estimate {
    seeded(api, model, body, rand::random())
}

/// As [`admission`], but without the vocabulary, which may not be there yet: text by the linear model
/// alone, within about a tenth.
pub fn admission_uncounted(api: Api, model: &str, body: &[u8]) -> Estimate {
    let care = Care {
        exact_bytes_max: 0,
        samples_max: 0,
        bytes: body.len(),
        seed: 0,
    };
    with_care(api, model, body, care)
}

/// As [`admission`], where there is no time for it: by the body's beginning alone, and so many `answers`.
pub fn admission_at_a_glance(model: &str, body: &[u8], answers: u64) -> Estimate {
    let family = family(model);
    let prompt = Prompt {
        text: at_a_glance(body),
        fixed: 0,
        bytes: body.len() as u64,
        wide_bytes: 0,
        media: false,
        guessed: false,
        counted: false,
    };
    Estimate {
        input: family.seeded(&prompt),
        exact: false,
        output_max: answers.saturating_mul(family.output_max.into()),
        output_said: false,
        answers,
        prompt,
    }
}

/// About how many tokens a body has, by its beginning alone.
pub fn at_a_glance(body: &[u8]) -> u64 {
    const SAMPLE_BYTES_MAX: usize = 64 * 1024;
    let sample = &body[..body.len().min(SAMPLE_BYTES_MAX)];
    let tokens = u128::from(estimate(sample)) * body.len() as u128;
    let tokens = tokens.checked_div(sample.len() as u128).unwrap_or(0);
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

/// As [`admission`], with chance as an argument.
fn seeded(api: Api, model: &str, body: &[u8], seed: u64) -> Estimate {
    let care = Care {
        exact_bytes_max: COUNTED_BYTES_MAX,
        samples_max: SAMPLES_MAX,
        bytes: body.len(),
        seed,
    };
    with_care(api, model, body, care)
}

fn with_care(api: Api, model: &str, body: &[u8], care: Care) -> Estimate {
    let family = family(model);
    let (prompt, prompts) = prompt::read(api, family, body, care);
    let said = length(api, body);
    let answers = match api {
        Api::Embeddings => 0,
        _ => prompts.saturating_mul(said.answers),
    };
    let each = said.each.unwrap_or(family.output_max.into());
    Estimate {
        input: family.seeded(&prompt),
        exact: family.exact && prompt.counted && !prompt.guessed,
        output_max: answers.saturating_mul(each),
        output_said: answers == 0 || said.each.is_some(),
        answers,
        prompt,
    }
}

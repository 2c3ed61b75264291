//! How much a model of Anthropic's is to think: a budget of tokens, or as it sees fit with an effort.
//!
//! Source: Anthropic's documentation, "Extended thinking", "Adaptive thinking", "Effort".

use serde_json::{Value, json};

use super::model::Model;
use crate::ir::{Amount, Effort, Fit, Reasoning, Said, Unfit};

/// The least budget of thoughts.
const BUDGET_TOKENS_MIN: u64 = 1024;
/// What is left for an answer beside thoughts where the client limits neither; any model that thinks
/// has several times that.
const ANSWER_TOKENS_MIN: u64 = 4096;

impl Amount {
    /// The model is to think.
    pub(super) fn is_on(self) -> bool {
        !matches!(self, Amount::Default | Amount::Off | Amount::Tokens(0))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Thinking {
    /// `thinking`
    pub thinking: Option<Value>,
    /// `output_config.effort`
    pub effort: Option<&'static str>,
}

impl Thinking {
    /// What was said, as this model knows it. `most` is the most tokens of the answer, its thoughts
    /// included: more where a budget needs it and the client set no limit.
    ///
    /// # Errors
    /// Where it can't think so.
    pub fn of(
        said: Said<Reasoning>,
        model: Model,
        most: &mut Option<u64>,
        fit: &mut Fit,
    ) -> Result<Self, Unfit> {
        let Reasoning { amount, told } = said.value;
        let mut this = Self::default();
        if !amount.is_on() {
            if amount != Amount::Default && model.thinks() {
                this.thinking = Some(json!({"type": "disabled"}));
            }
            return Ok(this);
        }
        if !model.thinks() {
            fit.lacks(said.at)?;
            return Ok(this);
        }
        let budget = match amount {
            Amount::Tokens(tokens) if !model.only_adapts() => Some(tokens.max(BUDGET_TOKENS_MIN)),
            amount if model.adapts() => {
                this.effort = effort(amount);
                None
            }
            amount => Some(budget(amount)),
        };
        let mut thinking = match budget {
            None => json!({"type": "adaptive"}),
            Some(mut budget) => {
                match *most {
                    None if model.is_foreign() => {
                        *most = Some(model.max_tokens().max(budget.saturating_mul(2)));
                    }
                    None => budget = budget.min(model.max_tokens() - ANSWER_TOKENS_MIN),
                    // Thoughts are to leave room for the answer.
                    Some(most) if budget >= most => {
                        budget = most / 2;
                        if budget < BUDGET_TOKENS_MIN {
                            fit.lacks(said.at)?;
                            return Ok(this);
                        }
                    }
                    Some(_) => {}
                }
                json!({"type": "enabled", "budget_tokens": budget})
            }
        };
        if let Some(told) = told {
            thinking["display"] = if told { "summarized" } else { "omitted" }.into();
        }
        this.thinking = Some(thinking);
        Ok(this)
    }

    /// The model thinks.
    pub fn is_on(&self) -> bool {
        (self.thinking.as_ref()).is_some_and(|it| it["type"] != "disabled")
    }

    /// It was told how many tokens at most.
    pub fn has_budget(&self) -> bool {
        (self.thinking.as_ref()).is_some_and(|it| it["type"] == "enabled")
    }
}

/// Anthropic's word. A number of tokens is the effort whose budget it reaches.
fn effort(amount: Amount) -> Option<&'static str> {
    Some(match amount {
        Amount::Default | Amount::Off | Amount::Adaptive => return None,
        Amount::Effort(Effort::Minimal | Effort::Low) | Amount::Tokens(0..2048) => "low",
        Amount::Effort(Effort::Medium) | Amount::Tokens(2048..8192) => "medium",
        Amount::Effort(Effort::High) | Amount::Tokens(8192..32_768) => "high",
        Amount::Effort(Effort::Max) | Amount::Tokens(_) => "max",
    })
}

/// Tokens for an effort, of a model that must be told a number.
fn budget(amount: Amount) -> u64 {
    match amount {
        Amount::Tokens(tokens) => tokens,
        Amount::Effort(Effort::Minimal | Effort::Low) => BUDGET_TOKENS_MIN,
        Amount::Default | Amount::Off | Amount::Adaptive | Amount::Effort(Effort::Medium) => 4096,
        Amount::Effort(Effort::High) => 16_384,
        Amount::Effort(Effort::Max) => 31_999,
    }
}

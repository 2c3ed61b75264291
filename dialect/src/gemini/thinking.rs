//! How much Gemini's models think: a level since generation 3, a number of tokens before.
//!
//! Source: Google's guides "Gemini thinking" and "OpenAI compatibility" (the table of efforts).

use serde_json::{Map, Value};

use crate::ir::{Amount, Effort, Fit, Reasoning, Said, Unfit};

/// A `thinkingConfig`; `None` where there is nothing to say.
///
/// # Errors
/// Where a model can't but think.
pub fn write(said: Said<Reasoning>, model: &str, fit: &mut Fit) -> Result<Option<Value>, Unfit> {
    let Reasoning { amount, told } = said.value;
    let levels = has_levels(model);
    let pro = model.contains("-pro");
    let mut config = Map::new();
    let mut put = |name: &str, value: Value| config.insert(name.to_owned(), value);
    match amount {
        Amount::Default => {}
        Amount::Off if pro => fit.lacks(said.at)?,
        Amount::Off if levels => {
            put("thinkingLevel", "MINIMAL".into());
        }
        Amount::Off => {
            put("thinkingBudget", 0.into());
        }
        // It is so where there are levels.
        Amount::Adaptive if levels => {}
        Amount::Adaptive => {
            put("thinkingBudget", (-1).into());
        }
        Amount::Effort(effort) if levels => {
            put("thinkingLevel", level(effort, model).into());
        }
        Amount::Effort(effort) => {
            let tokens = match effort {
                Effort::Minimal | Effort::Low => 1024,
                Effort::Medium => 8192,
                Effort::High | Effort::Max => 24_576,
            };
            put("thinkingBudget", tokens.into());
        }
        Amount::Tokens(tokens) => {
            put("thinkingBudget", tokens.min(budget_max(model)).into());
        }
    }
    // Who asks for thoughts, in words that can't say whether they are to be told, gets them.
    let asked = !matches!(amount, Amount::Default | Amount::Off);
    match told {
        Some(told) => {
            put("includeThoughts", told.into());
        }
        None if asked => {
            put("includeThoughts", true.into());
        }
        None => {}
    }
    Ok((!config.is_empty()).then_some(Value::Object(config)))
}

/// Whether a model is of generation 3 or later.
pub fn has_levels(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let generation = name.strip_prefix("gemini-").unwrap_or_default();
    let end = generation
        .find(|it: char| !it.is_ascii_digit())
        .unwrap_or(generation.len());
    generation[..end].parse::<u32>().is_ok_and(|it| it >= 3)
}

/// The most that a model takes: it is said as "at most", so that less is right.
fn budget_max(model: &str) -> u64 {
    match model.contains("-flash") {
        true => 24_576,
        false => 32_768,
    }
}

fn level(effort: Effort, model: &str) -> &'static str {
    match effort {
        Effort::Minimal if model.contains("-pro") => "LOW",
        Effort::Minimal => "MINIMAL",
        Effort::Low => "LOW",
        // The first of them has but two.
        Effort::Medium if model.contains("gemini-3-pro") => "HIGH",
        Effort::Medium => "MEDIUM",
        Effort::High | Effort::Max => "HIGH",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(amount: Amount, model: &str) -> Value {
        let said = Said::new("reasoning_effort", Reasoning { amount, told: None });
        let mut fit = Fit::new("gemini", false);
        let config = write(said, model, &mut fit).expect("a configuration");
        config.unwrap_or_default()
    }

    #[test]
    fn efforts_are_levels_or_budgets_by_the_generation() {
        let medium = Amount::Effort(Effort::Medium);
        assert_eq!(
            written(medium, "gemini-2.5-flash"),
            json!({"thinkingBudget": 8192, "includeThoughts": true})
        );
        assert_eq!(
            written(medium, "models/gemini-3.1-pro-preview"),
            json!({"thinkingLevel": "MEDIUM", "includeThoughts": true})
        );
        assert_eq!(
            written(Amount::Off, "gemini-2.5-flash"),
            json!({"thinkingBudget": 0})
        );
        assert_eq!(written(Amount::Default, "gemini-2.5-flash"), Value::Null);
        for (model, tokens) in [("gemini-2.5-flash", 24_576), ("gemini-2.5-pro", 31_999)] {
            assert_eq!(
                written(Amount::Tokens(31_999), model),
                json!({"thinkingBudget": tokens, "includeThoughts": true})
            );
        }
    }
}

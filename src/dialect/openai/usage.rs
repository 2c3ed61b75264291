//! The `usage` object in the spellings of the servers that speak OpenAI's dialect.

use crate::dialect::json;

/// Tokens as an upstream reports them; `None` is "not said".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reported {
    /// All prompt tokens, those from a cache included.
    pub input: Option<u64>,
    /// All tokens of the answer, reasoning included.
    pub output: Option<u64>,
    /// Prompt tokens that came from a cache.
    pub cached: Option<u64>,
    /// Prompt tokens that were written to a cache.
    pub cache_write: Option<u64>,
    /// Tokens of the answer that were reasoning.
    pub reasoning: Option<u64>,
}

// === impl Reported ===

impl Reported {
    /// Reads a `usage` object; `None` when it reports neither input nor output.
    pub fn read(object: &[u8]) -> Option<Reported> {
        let mut raw = Raw::default();
        raw.object(object, 0);
        raw.reported()
    }

    /// What a later report says, and of this one what the later leaves out.
    pub fn updated(self, later: Reported) -> Reported {
        Reported {
            input: later.input.or(self.input),
            output: later.output.or(self.output),
            cached: later.cached.or(self.cached),
            cache_write: later.cache_write.or(self.cache_write),
            reasoning: later.reasoning.or(self.reasoning),
        }
    }
}

/// The numbers as they are written.
#[derive(Default)]
struct Raw {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    /// DeepSeek's and Moonshot's names, beside or instead of the details.
    cached_beside: Option<u64>,
    cache_write: Option<u64>,
    reasoning: Option<u64>,
}

impl Raw {
    fn object(&mut self, object: &[u8], depth: usize) {
        for member in json::members(object).map_while(Result::ok) {
            let value = &object[member.value_at];
            let field = match (depth, &*member.key) {
                (0, "prompt_tokens" | "input_tokens") => &mut self.input,
                (0, "completion_tokens" | "output_tokens") => &mut self.output,
                (0, "total_tokens") => &mut self.total,
                (0, "prompt_cache_hit_tokens" | "cached_tokens") => &mut self.cached_beside,
                (1, "cached_tokens") => &mut self.cached,
                (1, "cache_write_tokens") => &mut self.cache_write,
                (1, "reasoning_tokens") => &mut self.reasoning,
                (
                    0,
                    "prompt_tokens_details"
                    | "input_tokens_details"
                    | "completion_tokens_details"
                    | "output_tokens_details",
                ) => {
                    self.object(value, 1);
                    continue;
                }
                _ => continue,
            };
            if let Some(number) = json::whole(value) {
                *field = Some(number);
            }
        }
    }

    fn reported(self) -> Option<Reported> {
        if self.input.is_none() && self.output.is_none() {
            return None;
        }
        let (input, total) = (self.input.unwrap_or(0), self.total.unwrap_or(0));
        let output = match (self.output, self.reasoning) {
            // xAI counts reasoning outside completion_tokens; the total shows it.
            (Some(output), Some(reasoning))
                if reasoning > 0
                    && input.saturating_add(output).saturating_add(reasoning) == total =>
            {
                Some(output + reasoning)
            }
            (None, _) => self.total.map(|total| total.saturating_sub(input)),
            (output, _) => output,
        };
        Some(Reported {
            input: self.input,
            output,
            cached: self.cached.or(self.cached_beside),
            cache_write: self.cache_write,
            reasoning: self.reasoning,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_read_and_what_is_not_said_stays_unsaid() {
        let usage = br#"{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14,
            "prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":1,"audio_tokens":0},
            "completion_tokens_details":{"reasoning_tokens":2}}"#;
        let expected = Reported {
            input: Some(9),
            output: Some(5),
            cached: Some(4),
            cache_write: Some(1),
            reasoning: Some(2),
        };
        assert_eq!(Reported::read(usage), Some(expected));
        let bare = Reported::read(br#"{"input_tokens":3,"output_tokens":0}"#).unwrap();
        assert_eq!(
            (bare.output, bare.cached, bare.reasoning),
            (Some(0), None, None)
        );
    }

    #[test]
    fn reasoning_outside_the_completion_is_added_only_when_the_total_shows_it() {
        let output = |total: u64, reasoning: u64| {
            let usage = format!(
                "{{\"prompt_tokens\":291,\"completion_tokens\":26,\"total_tokens\":{total},\
                 \"completion_tokens_details\":{{\"reasoning_tokens\":{reasoning}}}}}"
            );
            Reported::read(usage.as_bytes()).and_then(|usage| usage.output)
        };
        assert_eq!(output(513, 196), Some(222));
        assert_eq!(output(317, 20), Some(26));
        assert_eq!(output(317, 0), Some(26));
    }

    #[test]
    fn embeddings_put_nothing_out() {
        let usage = Reported::read(br#"{"prompt_tokens":8,"total_tokens":8}"#).unwrap();
        assert_eq!((usage.input, usage.output), (Some(8), Some(0)));
    }

    #[test]
    fn an_object_without_counts_reports_nothing() {
        for none in [
            &b"{}"[..],
            br#"{"total_tokens":3}"#,
            br#"{"prompt_tokens":null}"#,
            b"3",
        ] {
            assert_eq!(Reported::read(none), None);
        }
    }

    #[test]
    fn a_later_report_wins_and_keeps_what_it_leaves_out() {
        let first = Reported {
            input: Some(5),
            output: Some(1),
            cached: Some(2),
            ..Reported::default()
        };
        let later = Reported {
            input: Some(5),
            output: Some(9),
            ..Reported::default()
        };
        let both = first.updated(later);
        assert_eq!((both.output, both.cached), (Some(9), Some(2)));
    }
}

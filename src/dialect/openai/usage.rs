//! The `usage` object in the spellings of the servers that speak OpenAI's dialect.

use crate::dialect::json::{Cursor, Fault};

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
        // What stands before a fault is believed.
        let _ = raw.object(&mut Cursor::new(object), false);
        raw.reported()
    }

    /// Reads the `usage` object at `cursor` and passes it, unless it is faulty.
    pub(super) fn pass(cursor: &mut Cursor<'_>) -> Result<Option<Reported>, Fault> {
        let mut raw = Raw::default();
        raw.object(cursor, false)?;
        Ok(raw.reported())
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
#[derive(Clone, Copy, Default)]
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
    /// Reads an object: the `usage`, or the details `inside` it.
    fn object(&mut self, cursor: &mut Cursor<'_>, inside: bool) -> Result<(), Fault> {
        let mut another = cursor.enter(b'{')?;
        while another {
            let key = cursor.key()?;
            let field = match (inside, &*key) {
                (false, b"prompt_tokens" | b"input_tokens") => Some(&mut self.input),
                (false, b"completion_tokens" | b"output_tokens") => Some(&mut self.output),
                (false, b"total_tokens") => Some(&mut self.total),
                (false, b"prompt_cache_hit_tokens" | b"cached_tokens") => {
                    Some(&mut self.cached_beside)
                }
                (true, b"cached_tokens") => Some(&mut self.cached),
                (true, b"cache_write_tokens") => Some(&mut self.cache_write),
                (true, b"reasoning_tokens") => Some(&mut self.reasoning),
                (
                    false,
                    b"prompt_tokens_details"
                    | b"input_tokens_details"
                    | b"completion_tokens_details"
                    | b"output_tokens_details",
                ) if cursor.peek()? == b'{' => {
                    self.details(cursor)?;
                    another = cursor.more(b'{')?;
                    continue;
                }
                _ => None,
            };
            match field {
                Some(field) => *field = cursor.whole()?.or(*field),
                None => {
                    cursor.skip()?;
                }
            }
            another = cursor.more(b'{')?;
        }
        Ok(())
    }

    /// Reads details. A fault inside them ends only them, as long as their brackets are right.
    fn details(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        let (before, start) = (*self, cursor.at());
        if self.object(cursor, true).is_ok() {
            return Ok(());
        }
        cursor.go(start);
        let skipped = cursor.skip();
        if skipped.is_err() {
            *self = before;
        }
        skipped.map(drop)
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

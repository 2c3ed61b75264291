//! Reported usage: an object of counts in the spelling that a [`Sheet`] lists.

use crate::json::{self, Cursor, Fault};

/// Tokens as an upstream reports them; `None` is "not said".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reported {
    /// All prompt tokens, those from a cache included (where the table says so, without them).
    pub input: Option<u64>,
    /// All tokens of the answer, reasoning included.
    pub output: Option<u64>,
    /// Prompt tokens that came from a cache.
    pub cached: Option<u64>,
    /// Prompt tokens that were written to a cache.
    pub cache_write: Option<u64>,
    /// Tokens of the answer that were reasoning.
    pub reasoning: Option<u64>,
    /// What of it was sound or pictures.
    pub media: Media,
}

/// What was used of sound and pictures, beside the tokens or as a part of them; 0 is none, or not said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Media {
    /// Prompt tokens that were sound.
    pub audio_input: u64,
    /// Tokens of the answer that were sound.
    pub audio_output: u64,
    /// Prompt tokens that were pictures.
    pub image_input: u64,
    /// Seconds of sound that were heard; a second that has begun is one.
    pub seconds: u64,
    /// Pictures that were made.
    pub images: u64,
    /// Characters that were read out.
    pub characters: u64,
}

/// Where one spelling of usage has which count, and what they come to.
#[derive(Debug)]
pub struct Sheet {
    pub entries: &'static [(&'static str, Entry)],
    /// `None` when the counts report neither input nor output.
    pub sum: fn(&Raw) -> Option<Reported>,
    pub rank: Rank,
}

/// What a report is beside others of the same answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// Of several the last counts.
    Firm,
    /// Its output is none yet: the answer has only begun.
    Early,
    /// Others go before it, whichever came first.
    Weak,
}

/// What a member of usage is.
#[derive(Debug, Clone, Copy)]
pub enum Entry {
    Count(Count),
    /// An object with more.
    Details(&'static [(&'static str, Entry)]),
    /// An array of objects, each with a `tokenCount` of a `modality`; these are known.
    Modalities(&'static [(&'static str, Count)]),
}

/// A count as it is written; what it adds to is for the sheet's sum to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Input,
    /// Prompt tokens that the provider counts outside of [`Count::Input`], or instead of it.
    InputBeside,
    Output,
    /// The same for the answer.
    OutputBeside,
    Total,
    Cached,
    CachedBeside,
    CacheWrite,
    CacheWriteBeside,
    Reasoning,
    /// Prompt tokens that were sound.
    AudioInput,
    /// Those of the answer.
    AudioOutput,
    /// Prompt tokens that were pictures.
    ImageInput,
    /// Seconds of sound, which may be written with a fraction.
    Seconds,
    /// Pictures that were made.
    Images,
}

const COUNTS: usize = Count::Images as usize + 1;

/// What is written above it is no count: no request takes so many tokens, and sums and prices of
/// what does fit stay far from overflowing.
pub const COUNT_TOKENS_MAX: u64 = 1 << 40;

/// The counts of one object, as they are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw {
    numbers: [u64; COUNTS],
    /// A bit for each that is written.
    written: u16,
}

// === impl Reported ===

impl Reported {
    /// Whether nothing in it is more than zero: some servers say so where they don't know.
    pub fn is_zero(&self) -> bool {
        let counts = [
            self.input,
            self.output,
            self.cached,
            self.cache_write,
            self.reasoning,
        ];
        counts.iter().all(|count| count.unwrap_or(0) == 0) && self.media == Media::default()
    }

    /// What a later report says, and of this one what the later leaves out. One that is all zeros
    /// takes nothing back.
    pub fn updated(self, later: Reported) -> Reported {
        if later.is_zero() && !self.is_zero() {
            return Reported {
                input: self.input.or(later.input),
                output: self.output.or(later.output),
                ..self
            };
        }
        Reported {
            input: later.input.or(self.input),
            output: later.output.or(self.output),
            cached: later.cached.or(self.cached),
            cache_write: later.cache_write.or(self.cache_write),
            reasoning: later.reasoning.or(self.reasoning),
            media: self.media.updated(later.media),
        }
    }

    /// The same where input and caches are parts of one sum: one that is all zeros takes nothing
    /// back.
    pub fn updated_beside(self, later: Reported) -> Reported {
        let prompt = [later.input, later.cached, later.cache_write];
        if prompt.iter().all(|count| count.unwrap_or(0) == 0) {
            let rest = Reported {
                input: self.input.or(later.input),
                cached: self.cached.or(later.cached),
                cache_write: self.cache_write.or(later.cache_write),
                ..later
            };
            return self.updated(rest);
        }
        self.updated(later)
    }
}

// === impl Media ===

impl Media {
    fn updated(self, later: Media) -> Media {
        let last = |earlier, later| if later > 0 { later } else { earlier };
        Media {
            audio_input: last(self.audio_input, later.audio_input),
            audio_output: last(self.audio_output, later.audio_output),
            image_input: last(self.image_input, later.image_input),
            seconds: last(self.seconds, later.seconds),
            images: last(self.images, later.images),
            characters: last(self.characters, later.characters),
        }
    }
}

// === impl Count ===

impl Count {
    /// The number that is written for it, if that is one.
    pub(super) fn read(self, value: &[u8]) -> Option<u64> {
        match self {
            Count::Seconds => json::rounded_up(value),
            _ => json::whole(value),
        }
    }

    fn pass(self, cursor: &mut Cursor<'_>) -> Result<Option<u64>, Fault> {
        match self {
            Count::Seconds => cursor.rounded_up(),
            _ => cursor.whole(),
        }
    }
}

// === impl Raw ===

impl Raw {
    /// Adds to a count.
    pub fn add(&mut self, count: Count, number: u64) {
        let before = self.of(count).unwrap_or(0);
        self.write(count, before.saturating_add(number));
    }

    /// What is written for a count.
    pub fn of(&self, count: Count) -> Option<u64> {
        let written = self.written >> count as usize & 1 == 1;
        written.then(|| self.numbers[count as usize])
    }

    /// What is written of sound and pictures.
    pub fn media(&self) -> Media {
        let of = |count| self.of(count).unwrap_or(0);
        Media {
            audio_input: of(Count::AudioInput),
            audio_output: of(Count::AudioOutput),
            image_input: of(Count::ImageInput),
            seconds: of(Count::Seconds),
            images: of(Count::Images),
            characters: 0,
        }
    }

    /// What is written for either count: the first that isn't zero.
    pub fn either(&self, first: Count, second: Count) -> Option<u64> {
        let (first, second) = (self.of(first), self.of(second));
        first.filter(|number| *number > 0).or(second).or(first)
    }

    fn write(&mut self, count: Count, number: u64) {
        if number > COUNT_TOKENS_MAX {
            return;
        }
        self.numbers[count as usize] = number;
        self.written |= 1 << count as usize;
    }
}

// === impl Sheet ===

impl Sheet {
    /// Reads a usage object.
    pub fn read(&self, object: &[u8]) -> Raw {
        let mut raw = Raw::default();
        // What stands before a fault is believed.
        let _ = read(&mut raw, &mut Cursor::new(object), self.entries);
        raw
    }

    /// What the counts come to.
    pub fn sum(&self, raw: &Raw) -> Option<Reported> {
        (self.sum)(raw)
    }

    /// Reads the usage object at `cursor` and passes it, unless it is faulty.
    pub(super) fn pass(&self, cursor: &mut Cursor<'_>) -> Result<Option<Reported>, Fault> {
        let mut raw = Raw::default();
        read(&mut raw, cursor, self.entries)?;
        Ok(self.sum(&raw))
    }
}

/// Reads an object: the usage, or details inside it. Of a count that is there twice, mostly under two
/// names, the first that isn't zero is meant: some servers fill only the names of one API.
fn read(
    raw: &mut Raw,
    cursor: &mut Cursor<'_>,
    entries: &[(&'static str, Entry)],
) -> Result<(), Fault> {
    let mut another = cursor.enter(b'{')?;
    while another {
        let key = cursor.key()?;
        let known = entries.iter().find(|(name, _)| name.as_bytes() == &*key);
        match known.map(|(_, entry)| *entry) {
            Some(Entry::Count(count)) => {
                if let Some(number) = count.pass(cursor)?
                    && raw.of(count).unwrap_or(0) == 0
                {
                    raw.write(count, number);
                }
            }
            Some(Entry::Details(inside)) if cursor.peek()? == b'{' => {
                leniently(raw, cursor, |raw, cursor| read(raw, cursor, inside))?;
            }
            Some(Entry::Modalities(known)) if cursor.peek()? == b'[' => {
                leniently(raw, cursor, |raw, cursor| modalities(raw, cursor, known))?;
            }
            _ => {
                cursor.skip()?;
            }
        }
        another = cursor.more(b'{')?;
    }
    Ok(())
}

/// Reads details. A fault inside them ends only them, as long as their brackets are right.
fn leniently<'a>(
    raw: &mut Raw,
    cursor: &mut Cursor<'a>,
    read: impl FnOnce(&mut Raw, &mut Cursor<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let (before, start) = (*raw, cursor.at());
    if read(raw, cursor).is_ok() {
        return Ok(());
    }
    cursor.go(start);
    let skipped = cursor.skip();
    if skipped.is_err() {
        *raw = before;
    }
    skipped.map(drop)
}

/// Reads an array of counts by modality.
fn modalities(
    raw: &mut Raw,
    cursor: &mut Cursor<'_>,
    known: &[(&'static str, Count)],
) -> Result<(), Fault> {
    let mut another = cursor.enter(b'[')?;
    while another {
        if cursor.peek()? == b'{' {
            modality(raw, cursor, known)?;
        } else {
            cursor.skip()?;
        }
        another = cursor.more(b'[')?;
    }
    Ok(())
}

fn modality(
    raw: &mut Raw,
    cursor: &mut Cursor<'_>,
    known: &[(&'static str, Count)],
) -> Result<(), Fault> {
    let (mut count, mut tokens) = (None, None);
    let mut another = cursor.enter(b'{')?;
    while another {
        match &*cursor.key()? {
            b"modality" if cursor.peek()? == b'"' => {
                // Its name, as one that is a key.
                let name = cursor.string()?;
                let found = known.iter().find(|(known, _)| known.as_bytes() == name);
                count = found.map(|(_, count)| *count);
            }
            b"tokenCount" => tokens = cursor.whole()?,
            _ => {
                cursor.skip()?;
            }
        }
        another = cursor.more(b'{')?;
    }
    if let (Some(count), Some(tokens)) = (count, tokens) {
        raw.add(count, tokens);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Reader;
    use crate::openai::chat;
    use crate::{anthropic, bedrock, cohere, gemini};

    fn reported(object: &[u8]) -> Option<Reported> {
        chat::USAGE.sum(&chat::USAGE.read(object))
    }

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
            media: Media::default(),
        };
        assert_eq!(reported(usage), Some(expected));
        let bare = reported(br#"{"input_tokens":3,"output_tokens":0}"#).unwrap();
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
            reported(usage.as_bytes()).and_then(|usage| usage.output)
        };
        assert_eq!(output(513, 196), Some(222));
        assert_eq!(output(317, 20), Some(26));
        assert_eq!(output(317, 0), Some(26));
    }

    #[test]
    fn of_two_spellings_the_one_that_is_filled_counts() {
        let filled = r#""prompt_tokens":1000,"completion_tokens":500,
            "prompt_tokens_details":{"cached_tokens":40}"#;
        let empty = r#""input_tokens":0,"output_tokens":0,"cached_tokens":0,
            "input_tokens_details":{"cached_tokens":0}"#;
        for usage in [
            format!("{{{filled},{empty}}}"),
            format!("{{{empty},{filled}}}"),
        ] {
            let usage = reported(usage.as_bytes()).unwrap();
            let counts = (usage.input, usage.output, usage.cached);
            assert_eq!(counts, (Some(1000), Some(500), Some(40)));
        }
        let zeros = br#"{"prompt_tokens":0,"input_tokens":0,"output_tokens":0}"#;
        let zeros = reported(zeros).unwrap();
        assert_eq!((zeros.input, zeros.output), (Some(0), Some(0)));
    }

    #[test]
    fn cache_writes_are_read_by_each_name_and_once() {
        for details in [
            r#""cache_creation":{"ephemeral_5m_input_tokens":30},"cache_creation_input_tokens":30"#,
            r#""cache_creation_tokens":30,"cache_creation_input_tokens":30"#,
            r#""cache_creation_tokens":30"#,
            r#""cache_write_tokens":30,"cache_creation_tokens":0"#,
        ] {
            let usage = format!(
                "{{\"prompt_tokens\":50,\"completion_tokens\":1,\
                 \"prompt_tokens_details\":{{{details}}}}}"
            );
            let usage = reported(usage.as_bytes()).unwrap();
            assert_eq!((usage.input, usage.cache_write), (Some(50), Some(30)));
        }
    }

    #[test]
    fn a_count_beyond_all_measure_is_none() {
        for (number, said) in [
            (COUNT_TOKENS_MAX, true),
            (COUNT_TOKENS_MAX + 1, false),
            (u64::MAX, false),
        ] {
            let usage = format!("{{\"prompt_tokens\":{number},\"completion_tokens\":5}}");
            let usage = reported(usage.as_bytes()).unwrap();
            assert_eq!(usage.input, said.then_some(number));
            assert_eq!(usage.output, Some(5));
        }
        let mut raw = Raw::default();
        raw.add(Count::Input, COUNT_TOKENS_MAX);
        raw.add(Count::Input, 1);
        assert_eq!(raw.of(Count::Input), Some(COUNT_TOKENS_MAX));
    }

    #[test]
    fn sums_of_the_largest_counts_do_not_overflow() {
        let most = Raw {
            numbers: [u64::MAX; COUNTS],
            written: u16::MAX,
        };
        let tables = [
            &chat::CHAT,
            &chat::EMBEDDINGS,
            &gemini::GEMINI,
            &anthropic::MESSAGES,
            &cohere::COHERE,
            &bedrock::CONVERSE,
        ];
        for table in tables {
            let sum = (table.sheet.sum)(&most).unwrap();
            assert_eq!(table.whole(sum).input, Some(u64::MAX));
        }
        let max = COUNT_TOKENS_MAX;
        let usage = format!(
            "{{\"candidates\":[],\"usageMetadata\":{{\"promptTokenCount\":{max},\
             \"toolUsePromptTokenCount\":{max},\"thoughtsTokenCount\":{max}}}}}"
        );
        let mut reader = Reader::of_body(&gemini::GEMINI);
        reader.push(0, usage.as_bytes());
        assert_eq!(reader.reported().unwrap().input, Some(2 * max));
    }

    #[test]
    fn embeddings_put_nothing_out() {
        let usage = reported(br#"{"prompt_tokens":8,"total_tokens":8}"#).unwrap();
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
            assert_eq!(reported(none), None);
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

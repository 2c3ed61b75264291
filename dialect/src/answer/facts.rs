//! What an answer says, as far as weir must know it.

use std::ops::Range;

/// Which text of a choice; texts of different fields never join into one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Content,
    /// `reasoning_content`.
    Reasoning,
    /// `reasoning`: servers in transition send the same text under both names.
    ReasoningTwin,
    Refusal,
    /// The text of a completion.
    Text,
    /// The arguments of the tool call with this index.
    Arguments(u32),
}

/// A piece of text, still escaped, at its place in the bytes that were pushed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub choice: u32,
    pub field: Field,
    pub at: Range<usize>,
}

/// What the `choices` of an event are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choices {
    Missing,
    Empty,
    Some,
}

/// What one event, or the body so far, says.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Texts of the last push, in order.
    pub texts: Vec<Text>,
    pub choices: Choices,
    /// An error is reported (`error` that is not `null`, or `type` says so).
    pub error: bool,
    /// A choice got its `finish_reason`, or `type` says that the answer is complete.
    pub finish: bool,
    /// A `usage` at the root that is an object came to its end.
    pub usage_given: bool,
    /// Usage was reported, there or elsewhere.
    pub reported: bool,
    /// … and it was more than zeros.
    pub reported_some: bool,
    /// Places of `usage` members at the root, each with the comma that goes with it.
    pub usage_at: [Option<(usize, usize)>; 2],
    /// The inside of a padding string that some servers add against traffic analysis.
    pub padding: Option<(usize, usize)>,
    /// The outermost value is complete.
    pub closed: bool,
}

/// Which choices began and which finished, over a whole stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    seen: u128,
    finished: u128,
    /// The answer as a whole says that it has ended …
    pub(super) stopped: bool,
    /// … and that nothing follows.
    pub(super) complete: bool,
}

// === impl Facts ===

impl Facts {
    pub(super) fn nothing() -> Facts {
        Facts {
            texts: Vec::new(),
            choices: Choices::Missing,
            error: false,
            finish: false,
            usage_given: false,
            reported: false,
            reported_some: false,
            usage_at: [None; 2],
            padding: None,
            closed: false,
        }
    }

    /// Forgets everything but the room that was taken.
    pub(super) fn clear(&mut self) {
        let mut texts = std::mem::take(&mut self.texts);
        texts.clear();
        if texts.capacity() > TEXTS_KEPT_MAX {
            texts.shrink_to(TEXTS_KEPT_MAX);
        }
        *self = Facts {
            texts,
            ..Facts::nothing()
        };
    }
}

/// Places for texts that stay allocated between events.
const TEXTS_KEPT_MAX: usize = 64;

// === impl Marks ===

impl Marks {
    pub(super) fn choice(&mut self, index: u32, finished: bool) {
        let bit = bit(index);
        self.seen |= bit;
        if finished {
            self.finished |= bit;
        }
    }

    /// Each choice that began has finished, and at least one did.
    pub(super) fn all_finished(self) -> bool {
        self.stopped || (self.finished != 0 && self.seen & !self.finished == 0)
    }
}

/// Choices above the 128 that OpenAI allows are not followed.
fn bit(choice: u32) -> u128 {
    1u128.checked_shl(choice).unwrap_or(0)
}

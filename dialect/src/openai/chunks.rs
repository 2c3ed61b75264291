//! What the streams of chat and of legacy completions have in common: how a chunk begins and ends, and what
//! comes last.

use std::borrow::Cow;

use super::chat::answer_out::{error, usage};
use crate::ir::{Failure, Usage};
use crate::text::string;
use crate::translate::Ask;

/// The chunks of one answer, and what all of them say.
#[derive(Debug)]
pub struct Chunks {
    /// What it calls itself.
    object: &'static str,
    pub id: String,
    pub model: String,
    /// Seconds since 1970.
    pub created: u64,
    /// What was used, as far as it is known.
    pub usage: Option<Usage>,
    /// The client wants that at the end of a stream.
    usage_wanted: bool,
    /// What each chunk begins with; empty before the first.
    head: Vec<u8>,
}

// === impl Chunks ===

impl Chunks {
    /// For one answer, with an id of this kind where the upstream gives none.
    pub fn new(ask: &Ask<'_>, kind: &str, object: &'static str, usage_wanted: bool) -> Self {
        Self {
            object,
            id: format!("{kind}-{}", ask.id),
            model: ask.model.to_owned(),
            created: ask.now,
            usage: None,
            usage_wanted,
            head: Vec::new(),
        }
    }

    /// What the upstream says of its answer goes before what is known of the request.
    pub fn start(
        &mut self,
        id: Option<Cow<'_, str>>,
        model: Option<Cow<'_, str>>,
        created: Option<u64>,
    ) {
        if let Some(id) = id {
            self.id = id.into_owned();
        }
        if let Some(model) = model {
            self.model = model.into_owned();
        }
        self.created = created.unwrap_or(self.created);
    }

    /// Begins a chunk, up to its choices.
    pub fn open(&mut self, out: &mut Vec<u8>) {
        if self.head.is_empty() {
            self.head.extend_from_slice(b"data: {\"id\":");
            string(&mut self.head, &self.id);
            self.head.extend_from_slice(b",\"object\":");
            string(&mut self.head, self.object);
            self.head.extend_from_slice(b",\"created\":");
            self.head
                .extend_from_slice(self.created.to_string().as_bytes());
            self.head.extend_from_slice(b",\"model\":");
            string(&mut self.head, &self.model);
            self.head.extend_from_slice(b",\"choices\":[");
        }
        out.extend_from_slice(&self.head);
    }

    /// Ends a chunk.
    pub fn close(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self.usage_wanted {
            true => b"],\"usage\":null}\n\n",
            false => b"]}\n\n",
        });
    }

    /// The upstream failed.
    pub fn failed(&self, failure: &Failure, out: &mut Vec<u8>) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(error(failure).to_string().as_bytes());
        out.extend_from_slice(b"\n\n");
    }

    /// What was used, where the client wants it, and the last word.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if let (true, Some(used)) = (self.usage_wanted, self.usage) {
            self.open(out);
            out.extend_from_slice(b"],\"usage\":");
            out.extend_from_slice(usage(&used).to_string().as_bytes());
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

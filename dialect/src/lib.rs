//! The dialects that model servers speak: what their bytes mean and how little of them must change.
//!
//! A dialect reads slices and gives back facts, places and edited bytes. It does no I/O, logs
//! nothing and counts neither tokens nor money. `proxy` asks it about requests, `tokens` about
//! answers.
//!
//! Each dialect is a table of where its answers have text, usage and their end:
//! [`openai`], [`anthropic`], [`gemini`], [`ollama`], [`dashscope`], [`cohere`], [`bedrock`].
//!
//! What reads with them:
//! - [`answer`]: what an answer says, read as it passes in any pieces
//! - [`usage`]: reported usage in the spelling of a table
//! - [`shape`]: the repeating form of a stream's events, so that most needn't be read again
//! - [`sse`], [`framing`], [`eventstream`]: where events end
//! - [`json`]: the members of an object, found in one pass
//! - [`multipart`]: the fields of a form upload that name the model

pub mod answer;
pub mod anthropic;
pub mod azure;
pub mod bedrock;
pub mod cohere;
pub mod dashscope;
pub mod eventstream;
pub mod fields;
pub mod framing;
pub mod gemini;
pub mod grpc;
pub mod ir;
pub mod json;
pub mod multipart;
pub mod ollama;
pub mod openai;
pub mod provider;
pub mod shape;
pub mod sse;
pub mod surface;
pub mod table;
pub mod text;
pub mod translate;
#[cfg(test)]
mod trial;
pub mod usage;

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// `body` with each place replaced; the places are in order and don't overlap. Without any it is
/// `body` itself, uncopied.
fn replaced(body: &Bytes, edits: impl Iterator<Item = (Range<usize>, String)>) -> Bytes {
    let mut out: Option<BytesMut> = None;
    let mut from = 0;
    for (at, text) in edits {
        let out = out.get_or_insert_with(|| BytesMut::with_capacity(body.len() + 128));
        out.extend_from_slice(&body[from..at.start]);
        out.extend_from_slice(text.as_bytes());
        from = at.end;
    }
    match out {
        None => body.clone(),
        Some(mut out) => {
            out.extend_from_slice(&body[from..]);
            out.freeze()
        }
    }
}

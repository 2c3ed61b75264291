//! The dialects that model servers speak: what their bytes mean and how little of them must change.
//!
//! A dialect reads slices and gives back facts, places and edited bytes. It does no I/O, logs
//! nothing and counts neither tokens nor money. `proxy` asks it about requests, `tokens` about
//! answers.
//!
//! - [`json`]: the members of an object, found in one pass
//! - [`multipart`]: the fields of a form upload that name the model
//! - [`openai`]: requests and answers of OpenAI's API and of the many servers that speak it
//! - [`sse`]: where server-sent events end

pub mod json;
pub mod multipart;
pub mod openai;
pub mod sse;

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

//! Workers that speak `proto/llm_service.proto`: what they are asked, and what they answer.
//!
//! ```text
//! messages of gRPC ─ first: frames, Reader ─▶ chunks of OpenAI's chat ─ meter ─ answer ─▶ client's answer
//! ```
//!
//! What meters answers reads JSON, so a worker's answer becomes one in OpenAI's dialect first. That it
//! is whole stands in no message but in the status after them: see [`status`].

mod answer_in;
mod embed;
pub mod frame;
pub mod health;
pub mod message;
mod request_out;
pub mod status;

use crate::openai;
use crate::translate::{Ask, Translator};

pub use embed::write as embed_out;
pub use request_out::{headers, write};

/// Reads a worker's answer and writes it in OpenAI's dialect, as a stream with usage at its end.
pub fn first(ask: &Ask<'_>) -> Translator {
    let writer = openai::chat::answer_out::Writer::new(ask, true);
    Translator::of_stream(Box::new(answer_in::Reader::default()), Box::new(writer))
}

/// The same for embeddings, as a whole.
pub fn first_embedded(ask: &Ask<'_>) -> Translator {
    let writer = embed::Writer {
        chat: openai::chat::answer_out::Writer::new(ask, true),
    };
    Translator::of_embedded(Box::new(embed::Reader), Box::new(writer))
}

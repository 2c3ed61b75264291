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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surface::{Form, Surface};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn ask() -> Ask<'static> {
        Ask {
            surface: Surface::Chat,
            path: "/v1/chat/completions",
            query: None,
            body: b"",
            id: "1",
            now: 7,
            model: "m",
        }
    }

    /// What becomes of messages that come in pieces of `cut` bytes.
    fn carried(bytes: &[u8], cut: usize) -> String {
        let mut first = first(&ask());
        first.begin(Form::Grpc);
        let mut out = Vec::new();
        let mut pieces = bytes.chunks(cut);
        if pieces.all(|piece| first.feed(piece, &mut out).is_ok()) {
            // What is wrong with it stands in `out`.
            let _ = first.end(&mut out);
        }
        String::from_utf8(out).expect("text")
    }

    fn recorded() -> Vec<u8> {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/translate");
        let path = format!("{golden}/upstreams/grpc/parallel_tools_stream.frames");
        std::fs::read(path).expect("a golden file")
    }

    #[test]
    fn an_answer_is_the_same_however_it_is_cut() {
        let bytes = recorded();
        let whole = carried(&bytes, bytes.len());
        assert!(whole.contains("call_2") && whole.ends_with("data: [DONE]\n\n"));
        for cut in 1..bytes.len() {
            assert_eq!(carried(&bytes, cut), whole, "pieces of {cut}");
        }
    }

    #[test]
    fn an_answer_that_ends_in_a_message_is_none() {
        let bytes = recorded();
        let cut = carried(&bytes[..bytes.len() - 3], 64);
        assert!(!cut.contains("[DONE]"), "{cut}");
        assert!(cut.contains("in the middle of a message"), "{cut}");
    }

    #[test]
    fn no_bytes_are_too_broken() {
        let (bytes, mut random) = (recorded(), StdRng::seed_from_u64(7));
        for _ in 0..20_000 {
            let mut broken = bytes.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..broken.len());
                broken[at] = random.random();
            }
            let whole = carried(&broken, broken.len());
            assert_eq!(carried(&broken, random.random_range(1..40)), whole);
        }
    }
}

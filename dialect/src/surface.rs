//! Which API an answer belongs to, and in what form it comes.

use crate::answer::table::Table;
use crate::framing::Framer;
use crate::grpc::frame;
use crate::openai::{chat, media, responses};
use crate::usage::Sheet;
use crate::{anthropic, bedrock, cohere, dashscope, eventstream, gemini, ollama, sse};

/// The API that a request is made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    Chat,
    Completions,
    /// Embeddings in OpenAI's dialect.
    Embeddings,
    /// Rerank, in the dialect of whoever: tokens are seldom reported.
    Rerank,
    Responses,
    /// Transcriptions and translations: sound is heard.
    Audio,
    /// A text is read out.
    Speech,
    /// Pictures are made.
    Images,
    /// Anthropic's messages.
    Messages,
    /// Tokens of a prompt are asked for, in Anthropic's dialect.
    MessagesCount,
    /// Gemini's content, whole or streamed.
    Gemini,
    /// Tokens of a prompt are asked for, in Gemini's dialect.
    GeminiCount,
    GeminiEmbed,
    /// Ollama's own chat and completions.
    Ollama,
    OllamaEmbed,
    DashScope,
    Cohere,
    CohereEmbed,
    Converse,
    Invoke,
    /// Anything else: what is reported as OpenAI would is seen, text is not counted.
    Other,
}

/// The form in which an answer comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// One JSON value.
    #[default]
    Body,
    /// One JSON array whose elements come one by one.
    List,
    /// Server-sent events.
    Events,
    /// JSON on each line.
    Lines,
    /// Amazon's event stream.
    Frames,
    /// Messages of gRPC.
    Grpc,
}

// === impl Surface ===

impl Surface {
    /// Where its answers have what.
    pub fn table(self) -> &'static Table {
        match self {
            Surface::Chat | Surface::Completions | Surface::Other => &chat::CHAT,
            Surface::Embeddings | Surface::Rerank => &chat::EMBEDDINGS,
            Surface::Responses => &responses::RESPONSES,
            Surface::Audio | Surface::Speech | Surface::Images => &media::MEDIA,
            Surface::Messages | Surface::MessagesCount => &anthropic::MESSAGES,
            Surface::Gemini | Surface::GeminiCount | Surface::GeminiEmbed => &gemini::GEMINI,
            Surface::Ollama | Surface::OllamaEmbed => &ollama::OLLAMA,
            Surface::DashScope => &dashscope::DASHSCOPE,
            Surface::Cohere | Surface::CohereEmbed => &cohere::COHERE,
            Surface::Converse => &bedrock::CONVERSE,
            Surface::Invoke => &bedrock::INVOKE,
        }
    }

    /// The sheet by which a glance at a body will do.
    pub fn at_a_glance(self) -> Option<&'static Sheet> {
        match self {
            Surface::Chat | Surface::Completions => Some(&chat::USAGE),
            Surface::Embeddings => Some(&chat::TOTALS),
            _ => None,
        }
    }

    /// Its streams report usage when they are asked to.
    pub fn takes_usage_option(self) -> bool {
        matches!(self, Surface::Chat | Surface::Completions)
    }

    /// Its tokens are spent; where they are only asked for, nothing is.
    pub fn spends(self) -> bool {
        !matches!(self, Surface::MessagesCount | Surface::GeminiCount)
    }

    /// Sound or pictures are paid: what its answers don't report, its requests tell.
    pub fn is_media(self) -> bool {
        matches!(self, Surface::Audio | Surface::Speech | Surface::Images)
    }

    /// Its answers have text whose tokens can be counted.
    pub fn has_output(self) -> bool {
        !matches!(
            self,
            Surface::Embeddings
                | Surface::Rerank
                | Surface::Speech
                | Surface::Images
                | Surface::MessagesCount
                | Surface::GeminiCount
                | Surface::GeminiEmbed
                | Surface::OllamaEmbed
                | Surface::CohereEmbed
                | Surface::Other
        )
    }
}

// === impl Form ===

impl Form {
    /// What finds its events.
    pub fn framer(self) -> Option<Framer> {
        match self {
            Form::Body | Form::List => None,
            Form::Events => Some(Framer::Events(sse::Framer::default())),
            Form::Lines => Some(Framer::Lines),
            Form::Frames => Some(Framer::Frames(eventstream::Framer::default())),
            Form::Grpc => Some(Framer::Grpc(frame::Framer::default())),
        }
    }
}

//! The table of dialects: who reads a client's request, and who writes an upstream's.

use crate::ir::{Chat, Embed, Fit, Unfit, What};
use crate::provider::Dialect;
use crate::surface::Surface;
use crate::translate::{Ask, Outgoing, Read, Target};
use crate::{anthropic, azure, bedrock, cohere, dashscope, gemini, grpc, ollama, openai};

/// Reads a client's request by its surface.
///
/// # Errors
/// What is wrong with it.
pub fn read(ask: &Ask<'_>, fit: &mut Fit) -> Result<Read, Unfit> {
    match ask.surface {
        Surface::Chat => openai::chat::request_in::read(ask),
        Surface::Completions => openai::completions::request_in::read(ask, fit),
        Surface::Responses => openai::responses::request_in::read(ask, fit),
        Surface::Embeddings => openai::embed_in::read(ask, fit),
        Surface::Messages => anthropic::request_in::read(ask, fit),
        Surface::Gemini | Surface::GeminiEmbed => gemini::request_in::read(ask, fit),
        Surface::Ollama | Surface::OllamaEmbed => ollama::request_in::read(ask, fit),
        _ => Err(fit.no_such_api()),
    }
}

/// Writes the upstream's request for an answer of a model.
///
/// # Errors
/// What can't be said in the dialect.
pub fn chat_out(chat: Chat, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let dialect = target.provider.dialect;
    for part in chat.messages.iter().flat_map(|message| &message.parts) {
        if let Some(member) = placeless(&part.what, dialect) {
            fit.hints(match member {
                "" => part.at.to_string(),
                member => format!("{}.{member}", part.at),
            });
        }
    }
    let write = match target.provider.dialect {
        Dialect::OpenAi => openai::chat::request_out::write,
        Dialect::Azure => azure::write,
        Dialect::Anthropic => anthropic::request_out::write,
        Dialect::Gemini | Dialect::Vertex => gemini::request_out::write,
        Dialect::Ollama => ollama::request_out::write,
        Dialect::DashScope => dashscope::request_out::write,
        Dialect::Cohere => cohere::request_out::write,
        Dialect::Bedrock => bedrock::request_out::write,
        Dialect::Grpc => grpc::write,
    };
    write(chat, target, fit)
}

/// What of a turn so far a dialect has no place for, though the turn itself goes on: the member, or all of it
/// (empty). It changes nothing of what is asked.
fn placeless(what: &What, dialect: Dialect) -> Option<&'static str> {
    match what {
        // The result's own text mostly says it.
        What::Result(result) if result.error && !dialect.knows_failed_tools() => Some("is_error"),
        // Seals, and what only its provider can read, are for who made them.
        What::Reasoning {
            signature: Some(_), ..
        } if !dialect.knows_seals() => Some("signature"),
        What::Redacted(_) if !dialect.knows_seals() => Some(""),
        What::Call(call) if call.signature.is_some() => match dialect {
            Dialect::Gemini | Dialect::Vertex | Dialect::Grpc => None,
            // Google's place for it in OpenAI's dialect.
            Dialect::OpenAi | Dialect::Azure => None,
            _ => Some("thought_signature"),
        },
        What::Document { name: Some(_), .. } if dialect == Dialect::Gemini => Some("filename"),
        _ => None,
    }
}

/// Writes the upstream's request for embeddings.
///
/// # Errors
/// What can't be said in the dialect.
pub fn embed_out(embed: Embed, target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    let write = match target.provider.dialect {
        Dialect::OpenAi | Dialect::Azure => openai::embed_out::write,
        Dialect::Gemini | Dialect::Vertex => gemini::embed_out::write,
        Dialect::Ollama => ollama::embed_out::write,
        Dialect::DashScope => dashscope::embed_out::write,
        Dialect::Cohere => cohere::embed_out::write,
        Dialect::Grpc => grpc::embed_out,
        Dialect::Anthropic | Dialect::Bedrock => return Err(fit.no_such_api()),
    };
    write(embed, target, fit)
}

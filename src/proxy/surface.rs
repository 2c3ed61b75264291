//! Which API a path belongs to: that decides how its answers are read and in which dialect weir
//! itself speaks on it. Paths under a prefix of `target_map` are known as well.

use crate::tokens::meter::{self, Form};
use crate::tokens::prompt::Api;

/// Which API a path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// One whose answers are metered.
    Metered(meter::Surface),
    /// `/v1/models`
    Models,
    /// `/healthz`
    Health,
    /// Anything else.
    Other,
}

impl Surface {
    /// The surface of a path.
    pub fn of(path: &str) -> Self {
        match path {
            "/healthz" => return Self::Health,
            "/models" | "/v1/models" => return Self::Models,
            _ => {}
        }
        let listed = path.strip_prefix("/v1").unwrap_or(path);
        if listed.starts_with("/models/") && !listed.contains(':') {
            return Self::Models;
        }
        metered(path).map_or(Self::Other, Self::Metered)
    }

    /// How its answers are metered; `None` where they aren't, or spend nothing.
    pub fn metered(self) -> Option<meter::Surface> {
        match self {
            Self::Metered(surface) => Some(surface).filter(|surface| surface.spends()),
            Self::Models | Self::Health | Self::Other => None,
        }
    }

    /// Sound or pictures are paid.
    pub fn is_media(self) -> bool {
        self.metered().is_some_and(meter::Surface::is_media)
    }

    /// False where tokens are only asked for.
    pub fn may_cost(self) -> bool {
        !matches!(self, Self::Metered(surface) if !surface.spends())
    }

    /// Its streams report usage when they are asked to.
    pub fn takes_usage_option(self) -> bool {
        self.metered()
            .is_some_and(meter::Surface::takes_usage_option)
    }

    /// Where in a request's body the prompt lies; `None` where its tokens aren't counted.
    pub fn prompt(self) -> Option<Api> {
        Api::of(self.metered()?)
    }

    /// Its clients expect Anthropic's dialect.
    pub fn is_anthropic(self) -> bool {
        use meter::Surface::{Messages, MessagesCount};
        matches!(self, Self::Metered(Messages | MessagesCount))
    }

    /// Its clients expect Google's dialect.
    pub fn is_google(self) -> bool {
        use meter::Surface::{Gemini, GeminiCount, GeminiEmbed};
        matches!(self, Self::Metered(Gemini | GeminiCount | GeminiEmbed))
    }

    /// The form of an answer with this `Content-Type` to a request for `path`.
    pub fn form(self, content_type: &[u8], path: &str) -> Form {
        let essence = content_type.split(|b| *b == b';').next();
        let essence = essence.unwrap_or_default().trim_ascii();
        let is = |name: &[u8]| essence.eq_ignore_ascii_case(name);
        if is(b"text/event-stream") {
            return Form::Events;
        }
        match self {
            Self::Metered(meter::Surface::Gemini)
                if is(b"application/json") && path.ends_with(":streamGenerateContent") =>
            {
                Form::List
            }
            Self::Metered(meter::Surface::Converse | meter::Surface::Invoke)
                if is(b"application/vnd.amazon.eventstream") =>
            {
                Form::Frames
            }
            Self::Metered(_) if LINES.iter().any(|name| is(name)) => Form::Lines,
            _ => Form::Body,
        }
    }
}

/// The names of JSON on each line.
const LINES: [&[u8]; 4] = [
    b"application/x-ndjson",
    b"application/ndjson",
    b"application/jsonl",
    b"application/stream+json",
];

fn metered(path: &str) -> Option<meter::Surface> {
    use meter::Surface as Of;
    let (rest, last) = path.rsplit_once('/')?;
    if let Some((_, method)) = last.rsplit_once(':') {
        return of_method(rest, method);
    }
    if rest == "/openai/deployments/" {
        return None;
    }
    let before = rest.rsplit_once('/').map_or(rest, |(_, before)| before);
    let deployed = rest
        .strip_prefix("/openai/deployments/")
        .is_some_and(|model| !model.is_empty() && !model.contains('/'));
    let versioned = deployed || is_version(before);
    Some(match (before, last) {
        ("chat", "completions") => Of::Chat,
        ("audio", "transcriptions" | "translations") => Of::Audio,
        ("audio", "speech") => Of::Speech,
        ("images", "generations" | "edits" | "variations") => Of::Images,
        ("messages", "count_tokens") => Of::MessagesCount,
        ("api", "chat" | "generate") => Of::Ollama,
        ("api", "embed" | "embeddings") => Of::OllamaEmbed,
        (_, "converse" | "converse-stream") if is_model(rest) => Of::Converse,
        (_, "invoke" | "invoke-with-response-stream") if is_model(rest) => Of::Invoke,
        ("v1" | "v2", "chat") => Of::Cohere,
        ("v1" | "v2", "embed") => Of::CohereEmbed,
        (_, "completions") if versioned => Of::Completions,
        (_, "embeddings") if versioned => Of::Embeddings,
        (_, "responses") if versioned => Of::Responses,
        (_, "messages") if versioned => Of::Messages,
        (_, "rerank") if versioned => Of::Rerank,
        _ if path.contains("/api/v1/services/") => Of::DashScope,
        _ => return None,
    })
}

/// The method of a Google path, as `…/models/{model}:{method}`.
fn of_method(rest: &str, method: &str) -> Option<meter::Surface> {
    use meter::Surface as Of;
    Some(match method {
        "generateContent" | "streamGenerateContent" => Of::Gemini,
        "countTokens" => Of::GeminiCount,
        "embedContent" | "batchEmbedContents" => Of::GeminiEmbed,
        "predict" if rest.contains("/publishers/google/") => Of::GeminiEmbed,
        "rawPredict" | "streamRawPredict" if rest.contains("/publishers/anthropic/") => {
            Of::Messages
        }
        "rawPredict" | "streamRawPredict" => Of::Chat,
        _ => return None,
    })
}

/// Bedrock's `/model/{model}`.
fn is_model(rest: &str) -> bool {
    let (rest, _) = rest.rsplit_once('/').unwrap_or_default();
    rest.ends_with("/model")
}

/// A segment after which an API begins: none, `v1`, `v1beta`, `beta`, `openai`.
fn is_version(segment: &str) -> bool {
    let numbered = segment
        .strip_prefix('v')
        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    numbered || matches!(segment, "" | "beta" | "openai")
}

#[cfg(test)]
mod tests {
    use super::*;
    use meter::Surface as Of;

    #[test]
    fn a_path_has_its_surface_with_and_without_v1() {
        for (path, surface) in [
            ("/v1/models", Surface::Models),
            ("/models", Surface::Models),
            ("/v1/models/gpt-4o", Surface::Models),
            ("/healthz", Surface::Health),
            ("/v1/healthz", Surface::Other),
            ("/v1/chat/completions/x", Surface::Other),
            ("/x/completions", Surface::Other),
            ("/v1/responses/resp_1", Surface::Other),
            ("/v1/threads/t/messages", Surface::Other),
            ("/v1beta/models/gemini", Surface::Other),
            ("/v1beta/models/gemini:other", Surface::Other),
            ("/model/converse", Surface::Other),
            ("/openai/deployments//embeddings", Surface::Other),
            ("", Surface::Other),
        ] {
            assert_eq!(Surface::of(path), surface, "{path}");
        }
        for (path, surface) in [
            ("/v1/chat/completions", Of::Chat),
            ("/chat/completions", Of::Chat),
            ("/openai/deployments/gpt-4o/chat/completions", Of::Chat),
            ("/compatible-mode/v1/chat/completions", Of::Chat),
            ("/groq/openai/v1/chat/completions", Of::Chat),
            ("/v1/completions", Of::Completions),
            ("/beta/completions", Of::Completions),
            ("/embeddings", Of::Embeddings),
            ("/openai/deployments/e/embeddings", Of::Embeddings),
            ("/v1/responses", Of::Responses),
            ("/responses", Of::Responses),
            ("/openai/responses", Of::Responses),
            ("/v1/audio/transcriptions", Of::Audio),
            ("/v1/audio/speech", Of::Speech),
            ("/v1/images/generations", Of::Images),
            ("/v1/messages", Of::Messages),
            ("/anthropic/v1/messages", Of::Messages),
            ("/v1/messages/count_tokens", Of::MessagesCount),
            ("/v1/models/gemini:generateContent", Of::Gemini),
            ("/v1beta/models/g:streamGenerateContent", Of::Gemini),
            ("/v1beta/models/g:countTokens", Of::GeminiCount),
            (
                "/v1/projects/p/locations/l/publishers/anthropic/models/c:streamRawPredict",
                Of::Messages,
            ),
            ("/api/chat", Of::Ollama),
            ("/ollama/api/generate", Of::Ollama),
            ("/api/embed", Of::OllamaEmbed),
            (
                "/api/v1/services/aigc/text-generation/generation",
                Of::DashScope,
            ),
            ("/v2/chat", Of::Cohere),
            ("/v2/embed", Of::CohereEmbed),
            ("/v2/rerank", Of::Rerank),
            ("/rerank", Of::Rerank),
            ("/model/us.anthropic.claude%3A0/converse", Of::Converse),
            ("/model/m/invoke-with-response-stream", Of::Invoke),
        ] {
            assert_eq!(Surface::of(path), Surface::Metered(surface), "{path}");
        }
    }

    #[test]
    fn the_form_of_an_answer_is_what_its_type_says_and_its_path_allows() {
        let gemini = "/v1beta/models/g:streamGenerateContent";
        for (path, content_type, form) in [
            ("/x", "Text/Event-Stream; charset=utf-8", Form::Events),
            ("/x", "application/x-ndjson", Form::Body),
            ("/api/chat", "application/x-ndjson", Form::Lines),
            ("/api/chat", "application/json; charset=utf-8", Form::Body),
            (gemini, "application/json; charset=UTF-8", Form::List),
            (gemini, "text/event-stream", Form::Events),
            (
                "/v1beta/models/g:generateContent",
                "application/json",
                Form::Body,
            ),
            (
                "/model/m/converse-stream",
                "application/vnd.amazon.eventstream",
                Form::Frames,
            ),
            ("/v1/chat/completions", "", Form::Body),
        ] {
            let surface = Surface::of(path);
            assert_eq!(surface.form(content_type.as_bytes(), path), form, "{path}");
        }
    }
}

//! Which API a path belongs to: that decides how its answers are read and in which dialect weir
//! itself speaks on it. Paths under a prefix of `target_map` are known as well.
//!
//! A path is read as the most lenient server would: decoded (RFC 3986, section 6.2.2), without regard to
//! case, empty segments or a `/` at its end. It goes on as it was written.

use crate::tokens::meter::{self, Form};
use crate::tokens::prompt::Api;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// Which API a path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// One whose answers are metered.
    Metered(meter::Surface),
    /// `/v1/models`
    Models,
    /// `/healthz`
    Health,
    /// One that has models and spends no tokens: moderations, tokenizers.
    Free,
    /// One that is known to spend tokens which nobody reports on it: batches, sessions whose secrets open a
    /// provider to their holder.
    Hidden,
    /// Anything else.
    Other,
}

impl Surface {
    /// The surface of a path.
    pub fn of(path: &str) -> Self {
        of_plain(&plain(path))
    }

    /// True for a path that some servers take for another one, which is known: they decode what stands for a
    /// `/`, or ignore what follows a `;`.
    pub fn is_disguised(path: &str) -> bool {
        if !path.contains(['%', '\\', ';']) {
            return false;
        }
        let bare = percent_decode_str(path).decode_utf8_lossy();
        let bare: Vec<&str> = (bare.split(['/', '\\']))
            .map(|segment| segment.split(';').next().unwrap_or_default())
            .collect();
        let bare = Self::of(&bare.join("/"));
        !matches!(bare, Self::Other | Self::Free) && bare != Self::of(path)
    }

    /// The model stands in its paths and nowhere else.
    pub fn has_model_in_path(self, path: &str) -> bool {
        use meter::Surface::{Converse, Invoke};
        let by_method = || {
            plain(path)
                .rsplit('/')
                .next()
                .is_some_and(|last| last.contains(':'))
        };
        match self {
            Self::Metered(Converse | Invoke) => true,
            Self::Metered(_) => by_method(),
            _ => false,
        }
    }

    /// Requests to it may spend tokens.
    pub fn spends(self) -> bool {
        match self {
            Self::Metered(surface) => surface.spends(),
            Self::Models | Self::Health | Self::Free => false,
            Self::Hidden | Self::Other => true,
        }
    }

    /// How its answers are metered; `None` where they aren't, or spend nothing.
    pub fn metered(self) -> Option<meter::Surface> {
        match self {
            Self::Metered(surface) => Some(surface).filter(|surface| surface.spends()),
            Self::Models | Self::Health | Self::Free | Self::Hidden | Self::Other => None,
        }
    }

    /// Its requests are answered soon and in one piece, and change nothing: they may be sent twice.
    pub fn is_short(self) -> bool {
        use meter::Surface as Of;
        match self {
            Self::Metered(surface) => matches!(
                surface,
                Of::Embeddings
                    | Of::GeminiEmbed
                    | Of::OllamaEmbed
                    | Of::CohereEmbed
                    | Of::Rerank
                    | Of::MessagesCount
                    | Of::GeminiCount
            ),
            Self::Free => true,
            Self::Models | Self::Health | Self::Hidden | Self::Other => false,
        }
    }

    /// Sound or pictures are paid.
    pub fn is_media(self) -> bool {
        self.metered().is_some_and(meter::Surface::is_media)
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
                if is(b"application/json") && plain(path).ends_with(":streamgeneratecontent") =>
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

/// A path as it is compared: what needs no encoding is decoded, letters are small, and there are neither
/// empty segments nor a `/` at the end.
pub fn plain(path: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| !byte.is_ascii_uppercase() && byte != b'%';
    if path.bytes().all(is_plain) && !path.contains("//") && !path.ends_with('/') {
        return Cow::Borrowed(path);
    }
    let (mut plain, mut rest) = (String::with_capacity(path.len()), path);
    while let Some(next) = rest.chars().next() {
        let code = rest.strip_prefix('%').and_then(|rest| rest.get(..2));
        let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let decoded = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        let decoded = decoded.map(char::from).filter(|&it| is_unreserved(it));
        rest = &rest[if decoded.is_some() {
            3
        } else {
            next.len_utf8()
        }..];
        let letter = decoded.unwrap_or(next).to_ascii_lowercase();
        if letter != '/' || !plain.ends_with('/') {
            plain.push(letter);
        }
    }
    if plain.ends_with('/') {
        plain.pop();
    }
    Cow::Owned(plain)
}

/// RFC 3986, section 2.3.
fn is_unreserved(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "-._~".contains(letter)
}

/// The surface of a path that is [`plain`].
fn of_plain(path: &str) -> Surface {
    match path {
        "/healthz" => return Surface::Health,
        "/models" | "/v1/models" => return Surface::Models,
        _ => {}
    }
    let listed = path.strip_prefix("/v1").unwrap_or(path);
    // Before what is listed: Azure's model inference begins with `/models`, too.
    if let Some(surface) = metered(path) {
        return Surface::Metered(surface);
    }
    if listed.starts_with("/models/") && !listed.contains(':') {
        return Surface::Models;
    }
    let mut segments = path.rsplit('/');
    match segments.next().unwrap_or_default() {
        "moderations" | "tokenize" | "detokenize" | "input_tokens" => Surface::Free,
        // What is begun is given up.
        "cancel" => Surface::Other,
        last if HIDDEN_METHODS.iter().any(|method| last.ends_with(method)) => Surface::Hidden,
        _ if path.split('/').any(|segment| HIDDEN.contains(&segment)) => Surface::Hidden,
        _ => Surface::Other,
    }
}

/// Segments of paths where tokens are spent that no answer reports.
const HIDDEN: [&str; 11] = [
    "batches",
    "fine_tuning",
    "realtime",
    "runs",
    "videos",
    // Amazon's.
    "async-invoke",
    "invoke-with-bidirectional-stream",
    "model-invocation-job",
    // Of servers that have one model, which needn't be named.
    "generate",
    "generate_stream",
    "invocations",
];
/// Methods likewise.
const HIDDEN_METHODS: [&str; 4] = [
    ":batchgeneratecontent",
    ":asyncbatchembedcontent",
    ":predictlongrunning",
    ":bidigeneratecontent",
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
        ("fim", "completions") => Of::Completions,
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

/// The method of a [`plain`] Google path, as `…/models/{model}:{method}`.
fn of_method(rest: &str, method: &str) -> Option<meter::Surface> {
    use meter::Surface as Of;
    Some(match method {
        "generatecontent" | "streamgeneratecontent" => Of::Gemini,
        "counttokens" => Of::GeminiCount,
        "embedcontent" | "batchembedcontents" => Of::GeminiEmbed,
        "predict" if rest.contains("/publishers/google/") => Of::GeminiEmbed,
        "rawpredict" | "streamrawpredict" if rest.contains("/publishers/anthropic/") => {
            Of::Messages
        }
        "rawpredict" | "streamrawpredict" => Of::Chat,
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
        .filter(|rest| {
            rest.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
        })
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
            ("/v1/models/org/name", Surface::Models),
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
            ("/models/chat/completions", Of::Chat),
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
    fn a_path_has_its_surface_however_it_is_written() {
        for path in [
            "/v1/chat/%63ompletions",
            "/v1/chat/completions/",
            "//v1//chat/completions//",
            "/V1/Chat/COMPLETIONS",
            "/%76%31/ch%61t/%43ompletions",
        ] {
            assert_eq!(Surface::of(path), Surface::Metered(Of::Chat), "{path}");
            assert!(!Surface::is_disguised(path), "{path}");
        }
        let gemini = "/v1beta/models/G:GenerateContent";
        assert_eq!(Surface::of(gemini), Surface::Metered(Of::Gemini));
        assert_eq!(plain("/a/%"), "/a/%");
        assert_eq!(plain("/a/%4"), "/a/%4");
        assert_eq!(plain("/a/%é1"), "/a/%é1");
        assert_eq!(plain("/A%2fB%25"), "/a%2fb%25");
        assert_eq!((plain("/"), plain("")), ("".into(), "".into()));
    }

    #[test]
    fn a_path_that_some_servers_take_for_a_known_one_is_disguised() {
        for path in [
            "/v1%2Fchat/completions",
            "/v1/chat%2fcompletions",
            "/v1/chat/completions;a=b",
            "/v1/chat%5Ccompletions",
            "/v1\\messages",
            "/v1%2Fbatches",
            "/v1beta%2Fmodels%2Fg:generateContent;x",
        ] {
            assert!(Surface::is_disguised(path), "{path}");
        }
        for path in [
            "/model/arn%3Aaws%3Abedrock%2Fx/converse",
            "/v1/models/org%2Fname",
            "/v1/search/a%2Fb",
            "/v1/search;a",
            "/v1/chat/completions",
            "/v1/x%252Fchat",
        ] {
            assert!(!Surface::is_disguised(path), "{path}");
        }
    }

    #[test]
    fn what_spends_unseen_is_told_from_what_spends_nothing() {
        for (path, surface) in [
            ("/v1/batches", Surface::Hidden),
            ("/v1/messages/batches", Surface::Hidden),
            ("/v1/realtime/client_secrets", Surface::Hidden),
            ("/v1/threads/t/runs", Surface::Hidden),
            ("/v1beta/models/g:batchGenerateContent", Surface::Hidden),
            ("/v1/batches/b/cancel", Surface::Other),
            ("/v1/moderations", Surface::Free),
            ("/tokenize", Surface::Free),
            ("/v1/responses/input_tokens", Surface::Free),
        ] {
            assert_eq!(Surface::of(path), surface, "{path}");
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

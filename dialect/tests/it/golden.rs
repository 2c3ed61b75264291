//! The golden files, and what runs them: a client's request goes out to an upstream, whose answer comes
//! back.
//!
//! `clients/<client>/<feature>.json` is what a client asks, `upstreams/<upstream>/<feature>.*` what an
//! upstream answers; all were written from the providers' references.

use std::path::{Path, PathBuf};

use weir_dialect::provider::{Dialect, Provider};
use weir_dialect::surface::{Form, Surface};
use weir_dialect::translate::{Ask, Target, Translated, Translator, request};

use weir_dialect::ir::{Failure, Unfit};

use crate::seen::{Api, Wire};

/// Each client's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its folder.
    pub name: &'static str,
    pub surface: Surface,
    path: &'static str,
    /// Where its streams are another method.
    stream_path: &'static str,
    stream_query: Option<&'static str>,
    pub answers: Api,
    pub stream: Wire,
    /// What this API has no word for.
    pub lacks: &'static [&'static str],
}

pub const CLIENTS: [Client; 7] = [
    Client {
        name: "chat",
        surface: Surface::Chat,
        path: "/v1/chat/completions",
        stream_path: "/v1/chat/completions",
        stream_query: None,
        answers: Api::Chat,
        stream: Wire::Events,
        lacks: &[],
    },
    Client {
        name: "messages",
        surface: Surface::Messages,
        path: "/v1/messages",
        stream_path: "/v1/messages",
        stream_query: None,
        answers: Api::Messages,
        stream: Wire::Events,
        lacks: &[],
    },
    Client {
        name: "gemini",
        surface: Surface::Gemini,
        path: "/v1beta/models/my-model:generateContent",
        stream_path: "/v1beta/models/my-model:streamGenerateContent",
        stream_query: Some("alt=sse"),
        answers: Api::Gemini,
        stream: Wire::Events,
        lacks: &[],
    },
    Client {
        name: "responses",
        surface: Surface::Responses,
        path: "/v1/responses",
        stream_path: "/v1/responses",
        stream_query: None,
        answers: Api::Responses,
        stream: Wire::Events,
        lacks: &["stop"],
    },
    Client {
        name: "completions",
        surface: Surface::Completions,
        path: "/v1/completions",
        stream_path: "/v1/completions",
        stream_query: None,
        answers: Api::Completions,
        stream: Wire::Events,
        lacks: &[
            "system",
            "tools",
            "tools_stream",
            "parallel_tools",
            "parallel_tools_stream",
            "tool_result",
            "image",
            "schema",
            "reasoning",
            "reasoning_stream",
        ],
    },
    Client {
        name: "ollama-chat",
        surface: Surface::Ollama,
        path: "/api/chat",
        stream_path: "/api/chat",
        stream_query: None,
        answers: Api::Ollama,
        stream: Wire::Lines,
        lacks: &[],
    },
    Client {
        name: "ollama-generate",
        surface: Surface::Ollama,
        path: "/api/generate",
        stream_path: "/api/generate",
        stream_query: None,
        answers: Api::Ollama,
        stream: Wire::Lines,
        lacks: &[
            "tools",
            "tools_stream",
            "parallel_tools",
            "parallel_tools_stream",
            "tool_result",
        ],
    },
];

/// Each upstream's API, at a model of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upstream {
    /// Its folder.
    pub name: &'static str,
    pub dialect: Dialect,
    pub model: &'static str,
    /// `None` where answers are no JSON.
    pub answers: Option<Api>,
}

pub const UPSTREAMS: [Upstream; 9] = [
    Upstream::new("openai", Dialect::OpenAi, "gpt-5.1", Some(Api::Chat)),
    Upstream::new("azure", Dialect::Azure, "gpt-5.1", Some(Api::Chat)),
    Upstream::new(
        "anthropic",
        Dialect::Anthropic,
        "claude-sonnet-4-5",
        Some(Api::Messages),
    ),
    Upstream::new(
        "gemini",
        Dialect::Gemini,
        "gemini-2.5-flash",
        Some(Api::Gemini),
    ),
    Upstream::new("ollama", Dialect::Ollama, "qwen3", Some(Api::Ollama)),
    Upstream::new(
        "dashscope",
        Dialect::DashScope,
        "qwen-plus",
        Some(Api::DashScope),
    ),
    Upstream::new(
        "cohere",
        Dialect::Cohere,
        "command-a-03-2025",
        Some(Api::Cohere),
    ),
    Upstream::new(
        "bedrock",
        Dialect::Bedrock,
        "anthropic.claude-sonnet-4-5-20250929-v1:0",
        Some(Api::Converse),
    ),
    Upstream::new("grpc", Dialect::Grpc, "qwen3", None),
];

pub const FEATURES: [&str; 14] = [
    "text",
    "stream",
    "system",
    "tools",
    "tools_stream",
    "parallel_tools",
    "parallel_tools_stream",
    "tool_result",
    "image",
    "schema",
    "reasoning",
    "reasoning_stream",
    "stop",
    "error",
];

/// An upstream's answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub form: Form,
    pub bytes: Vec<u8>,
}

/// What a client got of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub status: u16,
    pub bytes: Vec<u8>,
    pub failed: Option<Failure>,
}

/// The folder of all golden files.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/translate")
}

/// The environment asks for the files to be written anew.
pub fn blessing() -> bool {
    std::env::var_os("WEIR_BLESS").is_some()
}

/// Whether a feature's answer is streamed.
pub fn is_stream(feature: &str) -> bool {
    feature.ends_with("stream")
}

// === impl Client ===

impl Client {
    /// Its request of that name.
    pub fn body(&self, feature: &str) -> Option<Vec<u8>> {
        let path = folder()
            .join("clients")
            .join(self.name)
            .join(feature.to_owned() + ".json");
        std::fs::read(path).ok()
    }

    /// Its API knows tools.
    pub fn calls(&self) -> bool {
        !self.lacks.contains(&"tools")
    }

    /// Asks an upstream.
    pub fn ask(
        &self,
        body: &[u8],
        stream: bool,
        upstream: &Upstream,
        lenient: bool,
    ) -> Result<Translated, Unfit> {
        let (path, query) = match stream {
            true => (self.stream_path, self.stream_query),
            false => (self.path, None),
        };
        let ask = Ask {
            surface: self.surface,
            path,
            query,
            body,
            id: "0198",
            now: 1_764_300_000,
            model: "my-model",
        };
        let provider = upstream.provider();
        let target = Target {
            provider: &provider,
            model: upstream.model,
            base: "",
            lenient,
            ask_usage: true,
        };
        request(&ask, &target)
    }

    /// The bytes of such requests go to this upstream as they are.
    pub fn passes(&self, upstream: &Upstream) -> bool {
        upstream.provider().speaks(self.surface)
    }
}

// === impl Upstream ===

impl Upstream {
    const fn new(
        name: &'static str,
        dialect: Dialect,
        model: &'static str,
        answers: Option<Api>,
    ) -> Self {
        Self {
            name,
            dialect,
            model,
            answers,
        }
    }

    pub fn provider(&self) -> Provider {
        Provider {
            region: Some("eu-central-1".to_owned()),
            ..Provider::new(self.dialect)
        }
    }

    /// What it answers.
    pub fn answer(&self, feature: &str) -> Option<Answer> {
        let frames = match self.dialect {
            Dialect::Grpc => Form::Grpc,
            _ => Form::Frames,
        };
        let forms = [
            ("json", Form::Body),
            ("sse", Form::Events),
            ("ndjson", Form::Lines),
            ("frames", frames),
            // An error that is no JSON.
            ("txt", Form::Body),
        ];
        let folder = folder().join("upstreams").join(self.name);
        forms.into_iter().find_map(|(kind, form)| {
            let bytes = std::fs::read(folder.join(format!("{feature}.{kind}"))).ok()?;
            Some(Answer { form, bytes })
        })
    }
}

// === impl Answer ===

impl Answer {
    pub fn wire(&self) -> Wire {
        match self.form {
            Form::Events => Wire::Events,
            Form::Lines => Wire::Lines,
            Form::Frames => Wire::Frames,
            _ => Wire::Body,
        }
    }

    /// Goes through a translation in pieces of `cut` bytes.
    pub fn through(&self, translated: Translated, cut: usize) -> Got {
        let mut carrier = Carrier::begin(translated, self.form);
        let mut bytes = Vec::new();
        let fed = self
            .bytes
            .chunks(cut)
            .try_for_each(|piece| carrier.feed(piece, &mut bytes));
        let failed = fed.and_then(|()| carrier.end(&mut bytes)).err();
        Got {
            status: 200,
            bytes,
            failed,
        }
    }
}

/// Carries an answer over, by way of what meters can read where that is needed.
#[derive(Debug)]
pub struct Carrier {
    first: Option<Translator>,
    answer: Translator,
    between: Vec<u8>,
}

// === impl Carrier ===

impl Carrier {
    pub fn begin(translated: Translated, form: Form) -> Self {
        let Translated {
            mut first,
            mut answer,
            ..
        } = translated;
        let form = match &mut first {
            Some(first) => first.begin(form),
            None => form,
        };
        answer.begin(form);
        Self {
            first,
            answer,
            between: Vec::new(),
        }
    }

    pub fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(first) = &mut self.first else {
            return self.answer.feed(piece, out);
        };
        self.between.clear();
        let fed = first.feed(piece, &mut self.between);
        self.answer.feed(&self.between, out)?;
        fed
    }

    pub fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(first) = &mut self.first {
            self.between.clear();
            let ended = first.end(&mut self.between);
            self.answer.feed(&self.between, out)?;
            ended?;
        }
        self.answer.end(out)
    }

    /// It went away in the middle.
    pub fn fails(&mut self, failure: Failure, out: &mut Vec<u8>) {
        self.answer.fails(failure, out);
    }

    pub fn is_ended(&self) -> bool {
        self.answer.is_ended()
    }

    pub fn bytes(&self) -> usize {
        let first = self.first.as_ref().map_or(0, Translator::bytes);
        first + self.between.capacity() + self.answer.bytes()
    }
}

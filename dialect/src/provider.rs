//! A provider, as far as its dialect goes: which API it has, where, and what is peculiar to it.

mod quirks;

pub use quirks::{HOSTS, QUIRKS, dialect_of_host};

use crate::surface::Surface;
use crate::{anthropic, azure, gemini};

/// The API that a provider has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's, and that of the many who speak it.
    OpenAi,
    /// OpenAI's at Azure.
    Azure,
    Anthropic,
    Gemini,
    /// Gemini's at Google Cloud.
    Vertex,
    /// Ollama's own.
    Ollama,
    /// Alibaba's own.
    DashScope,
    /// Cohere's own, version 2.
    Cohere,
    /// Amazon's Converse.
    Bedrock,
    /// Workers that speak `proto/llm_service.proto`.
    Grpc,
}

/// All dialects, in the order in which the configuration lists them.
pub const DIALECTS: [Dialect; 10] = [
    Dialect::OpenAi,
    Dialect::Azure,
    Dialect::Anthropic,
    Dialect::Gemini,
    Dialect::Vertex,
    Dialect::Ollama,
    Dialect::DashScope,
    Dialect::Cohere,
    Dialect::Bedrock,
    Dialect::Grpc,
];

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    pub dialect: Dialect,
    pub quirks: Quirks,
    /// `api_version`: Azure's query, Anthropic's header; `None` for the default.
    pub api_version: Option<String>,
    /// `region` of Vertex and Bedrock.
    pub region: Option<String>,
    /// `project` of Vertex.
    pub project: Option<String>,
}

/// What servers that speak OpenAI's dialect differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// Their name in the configuration.
    pub name: &'static str,
    /// Has `/responses`.
    pub responses: bool,
    /// Has the old `/completions`.
    pub completions: bool,
    /// The field for the most tokens of an answer.
    pub max_tokens: MaxTokens,
    /// Knows `stream_options.include_usage`.
    pub include_usage: bool,
    /// Knows the role `developer`.
    pub developer: bool,
    /// Knows `response_format` of type `json_schema`.
    pub json_schema: bool,
    /// The path of the API where the base URL has none.
    pub root: &'static str,
    /// Fields for a model's thinking.
    pub reasoning: ReasoningField,
}

/// How the most tokens of an answer are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxTokens {
    /// `max_tokens`
    Old,
    /// `max_completion_tokens`
    New,
}

/// How the amount of thinking is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningField {
    /// `reasoning_effort`
    Effort,
    /// `enable_thinking` and `thinking_budget` (DashScope, vLLM's Qwen, SiliconFlow)
    EnableThinking,
    /// `thinking: {type: enabled | disabled}` (Zhipu, Volcengine, Moonshot, DeepSeek)
    ThinkingType,
    /// `reasoning: {effort, max_tokens, exclude}` (OpenRouter)
    Reasoning,
    /// There is none.
    None,
}

/// In which header a provider wants its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyHeader {
    /// `Authorization: Bearer`
    Bearer,
    /// `x-api-key`
    XApiKey,
    /// `api-key`
    ApiKey,
    /// `x-goog-api-key`
    XGoogApiKey,
}

// === impl Dialect ===

impl Dialect {
    /// Its name in the configuration and in errors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Azure => "azure",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Vertex => "vertex",
            Self::Ollama => "ollama",
            Self::DashScope => "dashscope",
            Self::Cohere => "cohere",
            Self::Bedrock => "bedrock",
            Self::Grpc => "grpc",
        }
    }

    /// Has a place for the fact that a tool failed, beside the tool's own words.
    pub fn knows_failed_tools(self) -> bool {
        matches!(
            self,
            Self::Anthropic | Self::Bedrock | Self::Gemini | Self::Vertex | Self::Grpc
        )
    }

    /// Has a place for the seals of thoughts.
    pub fn knows_seals(self) -> bool {
        matches!(
            self,
            Self::Anthropic | Self::Bedrock | Self::Gemini | Self::Vertex | Self::Grpc
        )
    }

    /// Where its key goes.
    pub fn key_header(self) -> KeyHeader {
        match self {
            Self::Azure => KeyHeader::ApiKey,
            Self::Anthropic => KeyHeader::XApiKey,
            Self::Gemini => KeyHeader::XGoogApiKey,
            _ => KeyHeader::Bearer,
        }
    }
}

// === impl Provider ===

impl Provider {
    /// A provider without peculiarities.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            quirks: match dialect {
                Dialect::Azure => Quirks::AZURE,
                _ => Quirks::OPENAI,
            },
            api_version: None,
            region: None,
            project: None,
        }
    }

    /// Whether requests on this surface go to it as they are.
    pub fn speaks(&self, surface: Surface) -> bool {
        use Surface as Of;
        if !is_client_api(surface) {
            return true;
        }
        match self.dialect {
            Dialect::OpenAi => match surface {
                Of::Chat | Of::Embeddings => true,
                Of::Completions => self.quirks.completions,
                Of::Responses => self.quirks.responses,
                _ => false,
            },
            Dialect::Azure => matches!(
                surface,
                Of::Chat | Of::Embeddings | Of::Completions | Of::Responses
            ),
            Dialect::Anthropic => matches!(surface, Of::Messages | Of::MessagesCount),
            Dialect::Gemini | Dialect::Vertex => {
                matches!(surface, Of::Gemini | Of::GeminiCount | Of::GeminiEmbed)
            }
            Dialect::Ollama => matches!(surface, Of::Ollama | Of::OllamaEmbed),
            Dialect::DashScope | Dialect::Cohere | Dialect::Bedrock | Dialect::Grpc => false,
        }
    }
}

/// Where requests go that pass as they are, where it isn't the client's own path below the base URL's: the
/// path, and the query where the client's isn't to be taken.
pub fn reroute(
    provider: &Provider,
    surface: Surface,
    base: &str,
    model: &str,
    client_path: &str,
) -> Option<(String, Option<String>)> {
    if !provider.speaks(surface) {
        return None;
    }
    match provider.dialect {
        Dialect::Azure => match surface {
            Surface::Chat
            | Surface::Completions
            | Surface::Embeddings
            | Surface::Responses
            | Surface::Audio
            | Surface::Speech
            | Surface::Images => Some(azure::path(provider, base, model, client_path)),
            _ => None,
        },
        Dialect::Anthropic => {
            let method = client_path
                .rfind("/messages")
                .map(|at| &client_path[at..])?;
            let known = matches!(surface, Surface::Messages | Surface::MessagesCount);
            known.then(|| (anthropic::path(base, method), None))
        }
        Dialect::Gemini | Dialect::Vertex => {
            let (_, method) = client_path.rsplit_once(':')?;
            let known = matches!(
                surface,
                Surface::Gemini | Surface::GeminiCount | Surface::GeminiEmbed
            );
            // A client of Vertex says it all by itself.
            let whole = client_path.contains("/projects/");
            (known && !whole).then(|| (gemini::path(provider, base, model, method), None))
        }
        _ => None,
    }
}

/// Whether weir reads requests on this surface for providers that don't have it.
pub fn is_client_api(surface: Surface) -> bool {
    use Surface as Of;
    matches!(
        surface,
        Of::Chat
            | Of::Completions
            | Of::Embeddings
            | Of::Responses
            | Of::Messages
            | Of::MessagesCount
            | Of::Gemini
            | Of::GeminiCount
            | Of::GeminiEmbed
            | Of::Ollama
            | Of::OllamaEmbed
    )
}

impl Quirks {
    /// OpenAI itself.
    pub const OPENAI: Quirks = Quirks {
        name: "openai",
        responses: true,
        completions: true,
        max_tokens: MaxTokens::New,
        include_usage: true,
        developer: true,
        json_schema: true,
        root: "/v1",
        reasoning: ReasoningField::Effort,
    };
}

/// The path of an API's method: below the base URL's path, or below `root` where it has none.
pub fn at(base: &str, root: &str, method: &str) -> String {
    match base {
        "" | "/" => format!("{root}{method}"),
        base => format!("{}{method}", base.trim_end_matches('/')),
    }
}

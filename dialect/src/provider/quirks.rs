//! The servers that speak OpenAI's dialect, and which dialect a host has.
//!
//! Sources: each provider's API reference and recordings of its answers. What a provider doesn't document
//! is taken for missing: a request is then translated, or refused with a reason, where it might have been
//! accepted.

use super::{Dialect, MaxTokens, Quirks, ReasoningField};

/// A server of open models, from which the others are told apart.
const PLAIN: Quirks = Quirks {
    name: "openai",
    responses: false,
    completions: false,
    max_tokens: MaxTokens::Old,
    include_usage: true,
    developer: false,
    json_schema: true,
    root: "/v1",
    reasoning: ReasoningField::None,
};

/// All of them; the hosts of each are in [`HOSTS`].
pub const QUIRKS: &[Quirks] = &[
    Quirks::OPENAI,
    Quirks::AZURE,
    Quirks {
        name: "vllm",
        responses: true,
        completions: true,
        reasoning: ReasoningField::Effort,
        ..PLAIN
    },
    Quirks {
        name: "tgi",
        completions: true,
        json_schema: false,
        ..PLAIN
    },
    Quirks {
        name: "llamacpp",
        completions: true,
        ..PLAIN
    },
    // `/responses` came late (0.13.3): what works with every version is to translate.
    Quirks {
        name: "ollama",
        completions: true,
        reasoning: ReasoningField::Effort,
        ..PLAIN
    },
    Quirks {
        name: "deepseek",
        json_schema: false,
        reasoning: ReasoningField::ThinkingType,
        ..PLAIN
    },
    // Usage comes unasked, on the chunk that finishes.
    Quirks {
        name: "zhipu",
        include_usage: false,
        json_schema: false,
        root: "/api/paas/v4",
        reasoning: ReasoningField::ThinkingType,
        ..PLAIN
    },
    Quirks {
        name: "dashscope",
        root: "/compatible-mode/v1",
        reasoning: ReasoningField::EnableThinking,
        ..PLAIN
    },
    Quirks {
        name: "moonshot",
        json_schema: false,
        reasoning: ReasoningField::ThinkingType,
        ..PLAIN
    },
    // Refuses fields that it doesn't know; usage comes unasked.
    Quirks {
        name: "mistral",
        include_usage: false,
        ..PLAIN
    },
    Quirks {
        name: "groq",
        responses: true,
        max_tokens: MaxTokens::New,
        root: "/openai/v1",
        reasoning: ReasoningField::Effort,
        ..PLAIN
    },
    Quirks {
        name: "xai",
        responses: true,
        max_tokens: MaxTokens::New,
        reasoning: ReasoningField::Effort,
        ..PLAIN
    },
    Quirks {
        name: "together",
        completions: true,
        reasoning: ReasoningField::Effort,
        ..PLAIN
    },
    Quirks {
        name: "openrouter",
        responses: true,
        completions: true,
        root: "/api/v1",
        reasoning: ReasoningField::Reasoning,
        ..PLAIN
    },
    Quirks {
        name: "ark",
        responses: true,
        root: "/api/v3",
        reasoning: ReasoningField::ThinkingType,
        ..PLAIN
    },
    // Usage comes unasked, in every chunk.
    Quirks {
        name: "perplexity",
        include_usage: false,
        root: "",
        reasoning: ReasoningField::Effort,
        ..PLAIN
    },
    Quirks {
        name: "fireworks",
        responses: true,
        completions: true,
        root: "/inference/v1",
        reasoning: ReasoningField::Effort,
        ..PLAIN
    },
    Quirks {
        name: "cerebras",
        completions: true,
        max_tokens: MaxTokens::New,
        reasoning: ReasoningField::Effort,
        ..PLAIN
    },
    Quirks {
        name: "siliconflow",
        json_schema: false,
        reasoning: ReasoningField::EnableThinking,
        ..PLAIN
    },
    Quirks {
        name: "nvidia",
        json_schema: false,
        ..PLAIN
    },
    // Gemini's models under OpenAI's dialect.
    Quirks {
        name: "google",
        root: "/v1beta/openai",
        reasoning: ReasoningField::Effort,
        ..PLAIN
    },
];

/// Hosts, with those below them, and the names of their quirks.
pub const HOSTS: &[(&str, &str)] = &[
    ("api.openai.com", "openai"),
    ("openai.azure.com", "azure"),
    ("api.deepseek.com", "deepseek"),
    ("open.bigmodel.cn", "zhipu"),
    ("api.z.ai", "zhipu"),
    ("dashscope.aliyuncs.com", "dashscope"),
    ("dashscope-intl.aliyuncs.com", "dashscope"),
    ("dashscope-us.aliyuncs.com", "dashscope"),
    ("api.moonshot.cn", "moonshot"),
    ("api.moonshot.ai", "moonshot"),
    ("api.mistral.ai", "mistral"),
    ("api.groq.com", "groq"),
    ("api.x.ai", "xai"),
    ("api.together.xyz", "together"),
    ("api.together.ai", "together"),
    ("openrouter.ai", "openrouter"),
    ("volces.com", "ark"),
    ("api.perplexity.ai", "perplexity"),
    ("api.fireworks.ai", "fireworks"),
    ("api.cerebras.ai", "cerebras"),
    ("api.siliconflow.cn", "siliconflow"),
    ("api.siliconflow.com", "siliconflow"),
    ("integrate.api.nvidia.com", "nvidia"),
    ("generativelanguage.googleapis.com", "google"),
];

impl Quirks {
    /// Those of OpenAI's models at Azure, where older versions don't know the role `developer`.
    pub const AZURE: Quirks = Quirks {
        name: "azure",
        developer: false,
        ..Quirks::OPENAI
    };

    /// Those of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        QUIRKS.iter().find(|it| it.name == name).copied()
    }

    /// Those of a provider that is known by its host.
    pub fn of_host(host: &str) -> Option<Self> {
        let known = HOSTS.iter().find(|(known, _)| is_below(host, known));
        known.and_then(|(_, name)| Self::by_name(name))
    }

    /// Knows `top_k`, which OpenAI hasn't.
    pub fn top_k(&self) -> bool {
        matches!(
            self.name,
            "vllm"
                | "llamacpp"
                | "dashscope"
                | "together"
                | "openrouter"
                | "fireworks"
                | "siliconflow"
                | "perplexity"
        )
    }
}

/// The dialect that a well-known host has below a base URL's path; `None` of others.
pub fn dialect_of_host(host: &str, base_path: &str) -> Option<Dialect> {
    let host = host.to_ascii_lowercase();
    let below = |known: &str| is_below(&host, known);
    let begins = |path: &str| {
        (base_path.strip_prefix(path)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if below("api.anthropic.com") {
        return Some(Dialect::Anthropic);
    }
    if Quirks::of_host(&host).is_some() && base_path.split('/').any(|it| it == "anthropic") {
        // Many have both.
        return Some(Dialect::Anthropic);
    }
    if below("generativelanguage.googleapis.com") {
        let compatible = base_path.split('/').any(|segment| segment == "openai");
        return Some(match compatible {
            true => Dialect::OpenAi,
            false => Dialect::Gemini,
        });
    }
    if host.ends_with("aiplatform.googleapis.com") {
        return Some(Dialect::Vertex);
    }
    if below("openai.azure.com") {
        return Some(Dialect::Azure);
    }
    if host.starts_with("bedrock-runtime.") && host.contains(".amazonaws.com") {
        return Some(match begins("/openai") {
            true => Dialect::OpenAi,
            false => Dialect::Bedrock,
        });
    }
    if below("api.cohere.com") || below("api.cohere.ai") {
        return Some(match begins("/compatibility") {
            true => Dialect::OpenAi,
            false => Dialect::Cohere,
        });
    }
    if host.starts_with("dashscope") && host.ends_with(".aliyuncs.com") {
        return Some(match begins("/api/v1") {
            true => Dialect::DashScope,
            false => Dialect::OpenAi,
        });
    }
    Quirks::of_host(&host).map(|_| Dialect::OpenAi)
}

/// Whether it is that host or one below it.
fn is_below(host: &str, known: &str) -> bool {
    let Some(start) = host.len().checked_sub(known.len()) else {
        return false;
    };
    let (before, end) = host.as_bytes().split_at(start);
    end.eq_ignore_ascii_case(known.as_bytes()) && (before.is_empty() || before.ends_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_there_once_and_each_host_has_quirks() {
        for (place, quirks) in QUIRKS.iter().enumerate() {
            let first = QUIRKS.iter().position(|it| it.name == quirks.name);
            assert_eq!(first, Some(place), "{}", quirks.name);
            assert_eq!(Quirks::by_name(quirks.name), Some(*quirks));
        }
        for (host, name) in HOSTS {
            let quirks = Quirks::of_host(host).map(|it| it.name);
            assert_eq!(quirks, Some(*name), "{host}");
        }
        assert_eq!(Quirks::by_name("nobody"), None);
    }

    #[test]
    fn a_known_host_tells_the_dialect() {
        for (host, path, expected) in [
            ("api.openai.com", "/v1", Some(Dialect::OpenAi)),
            ("API.Anthropic.com", "", Some(Dialect::Anthropic)),
            (
                "generativelanguage.googleapis.com",
                "",
                Some(Dialect::Gemini),
            ),
            (
                "generativelanguage.googleapis.com",
                "/v1beta/openai",
                Some(Dialect::OpenAi),
            ),
            (
                "us-central1-aiplatform.googleapis.com",
                "",
                Some(Dialect::Vertex),
            ),
            ("aiplatform.googleapis.com", "", Some(Dialect::Vertex)),
            ("mine.openai.azure.com", "", Some(Dialect::Azure)),
            (
                "bedrock-runtime.eu-west-1.amazonaws.com",
                "",
                Some(Dialect::Bedrock),
            ),
            (
                "bedrock-runtime.us-west-2.amazonaws.com",
                "/openai/v1",
                Some(Dialect::OpenAi),
            ),
            ("api.cohere.com", "/v2", Some(Dialect::Cohere)),
            ("api.cohere.com", "/compatibility/v1", Some(Dialect::OpenAi)),
            (
                "dashscope-intl.aliyuncs.com",
                "/api/v1",
                Some(Dialect::DashScope),
            ),
            (
                "dashscope.aliyuncs.com",
                "/compatible-mode/v1",
                Some(Dialect::OpenAi),
            ),
            (
                "ark.cn-beijing.volces.com",
                "/api/v3",
                Some(Dialect::OpenAi),
            ),
            ("notapi.openai.com", "/v1", None),
            ("xapi.openai.com.example", "/v1", None),
            ("10.0.0.1", "", None),
            ("", "", None),
        ] {
            assert_eq!(dialect_of_host(host, path), expected, "{host}{path}");
        }
    }
}

//! What is known of models by their names: the one table of vocabularies, ratios and rules.
//!
//! A model's name is what clients and upstreams write: any text is answered, at once. Nothing is
//! learned here; what upstreams report corrects the ratios in `calibration`. Asked by the meter,
//! by `prompt` and by `estimate`.

use std::borrow::Cow;

use tiktoken_rs::tokenizer::{Tokenizer, get_tokenizer};

use super::count::Encoding;
use super::prompt::Prompt;
use super::prompt::image::Rule;

/// How the tokens of a model are counted. Small: each meter holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The vocabulary that is nearest.
    pub encoding: Encoding,
    /// Whether it is the model's own. Where it isn't, a count is an estimate and is to be recorded
    /// as one.
    pub exact: bool,
    /// The model's tokens for a thousand of [`Family::encoding`], until something is learned.
    pub seed: Ratio,
    /// Whether its answers have tokens that aren't delivered: thoughts, or marks around them. A count of
    /// what was delivered is then too low, and to be recorded as an estimate.
    pub hides: bool,
    /// The tokens of an answer to a request that sets no limit, as admission assumes them.
    pub output_max: u32,
    pub(super) overhead: Overhead,
    pub(super) image: Rule,
}

/// Thousandths, by the kind of text; see [`Family::seed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// Mostly ASCII.
    pub narrow: u16,
    /// Other scripts.
    pub wide: u16,
}

/// Tokens that are nobody's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overhead {
    /// For each message, its role not included.
    pub message: u16,
    /// For a message with a name.
    pub name: i16,
    /// For each function that may be called.
    pub function: u16,
    /// Around all definitions of functions.
    pub functions: u16,
    /// The answer begins with so many of its own.
    pub reply: u16,
}

/// The family of a model by the name that a client or upstream calls it by: with or without the
/// name of a provider before it (`openai/gpt-4o`, `us.anthropic.claude-…`) or a variant behind it
/// (`gpt-4o:extended`), in any case.
pub fn family(model: &str) -> Family {
    let name = bare(model);
    match own_vocabulary(&name) {
        Some(encoding) => openai(&name, encoding),
        None => (KIN.iter())
            .find(|kin| kin.is_in(&name))
            .map_or(UNKNOWN, |kin| kin.family),
    }
}

impl Family {
    /// The tokens of a prompt by the ratio that is assumed.
    pub fn seeded(&self, prompt: &Prompt) -> u64 {
        let by_1000 = self.seed.of(prompt.is_wide());
        prompt.text.saturating_mul(by_1000) / 1000 + prompt.fixed
    }
}

impl Ratio {
    /// The one for mostly ASCII, or the other.
    pub fn of(self, wide: bool) -> u64 {
        u64::from(if wide { self.wide } else { self.narrow })
    }
}

/// A model's name in lower case without provider, fine-tuning or variant; empty if it is too long
/// to be one.
fn bare(model: &str) -> Cow<'_, str> {
    if model.len() > MODEL_BYTES_MAX {
        return Cow::Borrowed("");
    }
    if model.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(bare(&model.to_ascii_lowercase()).into_owned());
    }
    let name = model.trim().rsplit('/').next().unwrap_or_default();
    let name = name.strip_prefix("openai.").unwrap_or(name);
    let name = name.strip_prefix("ft:").unwrap_or(name);
    Cow::Borrowed(name.split([':', '@', '%']).next().unwrap_or_default())
}

/// No model's name is longer.
pub const MODEL_BYTES_MAX: usize = 256;

// === OpenAI's models: by name, else by the reference's list, else by their look ===

/// The public vocabulary that is the model's own.
fn own_vocabulary(name: &str) -> Option<Encoding> {
    match get_tokenizer(name) {
        Some(Tokenizer::O200kBase | Tokenizer::O200kHarmony) => Some(Encoding::O200k),
        Some(Tokenizer::Cl100kBase) => Some(Encoding::Cl100k),
        Some(_) => None,
        None => unlisted(name),
    }
}

/// OpenAI's models that the reference's list doesn't name.
fn unlisted(name: &str) -> Option<Encoding> {
    const CL100K: [&str; 3] = ["gpt-3", "text-embedding-3", "text-embedding-ada"];
    const O200K: [&str; 7] = [
        "gpt-oss",
        "gpt-realtime",
        "gpt-audio",
        "gpt-image",
        "chatgpt",
        "codex",
        "computer-use-preview",
    ];
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    // `o4-pro` or `gpt-6`, but not `olmo` or `gpt-neox`.
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    if starts(&CL100K) {
        Some(Encoding::Cl100k)
    } else if starts(&O200K) || numbered("gpt-") || numbered("o") {
        Some(Encoding::O200k)
    } else {
        None
    }
}

fn openai(name: &str, encoding: Encoding) -> Family {
    let found = OPENAI.iter().find(|(prefix, ..)| name.starts_with(prefix));
    let (_, image, output_max) = *found.unwrap_or(&("", Rule::FOUR, OUTPUT));
    let mut overhead = PUBLISHED;
    if encoding == Encoding::Cl100k {
        overhead.function = 10;
    }
    if name.starts_with("gpt-oss") {
        // The harmony template begins with a message of its own: so long in recorded answers.
        overhead.reply += 62;
    }
    if name == "gpt-3.5-turbo-0301" {
        // The oldest model lets a name stand for the role.
        (overhead.message, overhead.name) = (4, -1);
    }
    Family {
        encoding,
        exact: true,
        seed: SAME,
        // Those of OpenAI's that think keep their thoughts; gpt-oss delivers them, but not what stands
        // between its channels.
        hides: output_max == THOUGHTS,
        output_max,
        overhead,
        image,
    }
}

/// As OpenAI's cookbook has it, for its newer models.
const PUBLISHED: Overhead = Overhead {
    message: 3,
    name: 1,
    function: 7,
    functions: 12,
    reply: 3,
};

/// What models commonly answer with at most, and what those do that think first.
const OUTPUT: u32 = 4096;
const THOUGHTS: u32 = 16_384;

/// By the start of the model's name, the first that fits: images, and output when none is asked
/// for. The images' rules are OpenAI's published figures; where bills are known to differ from
/// them, the bills'.
const OPENAI: [(&str, Rule, u32); 20] = [
    ("gpt-4o-mini", Rule::tiles(2833, 5667), OUTPUT),
    ("gpt-4.1-mini", Rule::patches(1620), OUTPUT),
    ("gpt-4.1-nano", Rule::patches(2460), OUTPUT),
    ("o4-mini", Rule::patches(1720), THOUGHTS),
    ("o1", Rule::tiles(75, 150), THOUGHTS),
    ("o3", Rule::tiles(75, 150), THOUGHTS),
    ("computer-use-preview", Rule::tiles(65, 129), OUTPUT),
    ("gpt-5-chat", Rule::tiles(70, 140), OUTPUT),
    ("gpt-5-mini", Rule::patches(1200), THOUGHTS),
    ("gpt-5-nano", Rule::patches(1500), THOUGHTS),
    ("gpt-5.2", Rule::patches(1200), THOUGHTS),
    ("gpt-5.3", Rule::patches(1200), THOUGHTS),
    ("gpt-5.4", Rule::patches(1200), THOUGHTS),
    ("gpt-5", Rule::tiles(70, 140), THOUGHTS),
    ("gpt-4", Rule::FOUR, OUTPUT),
    ("gpt-3", Rule::FOUR, OUTPUT),
    ("gpt-oss", Rule::FOUR, THOUGHTS),
    ("codex", Rule::FOUR, THOUGHTS),
    ("gpt-", Rule::FOUR, THOUGHTS),
    ("o", Rule::FOUR, THOUGHTS),
];

// === others: by a word in the name ===

const SAME: Ratio = ratio(1000, 1000);

const fn ratio(narrow: u16, wide: u16) -> Ratio {
    Ratio { narrow, wide }
}

/// A model of which nothing is known.
const UNKNOWN: Family = other(SAME, Rule::FOUR, OUTPUT);

const fn other(seed: Ratio, image: Rule, output_max: u32) -> Family {
    Family {
        encoding: Encoding::O200k,
        exact: false,
        seed,
        hides: output_max == THOUGHTS,
        output_max,
        overhead: PUBLISHED,
        image,
    }
}

const fn with(family: Family, overhead: Overhead) -> Family {
    Family { overhead, ..family }
}

struct Kin {
    word: &'static str,
    /// And this one too, unless it is empty.
    also: &'static str,
    family: Family,
}

impl Kin {
    fn is_in(&self, name: &str) -> bool {
        name.contains(self.word) && name.contains(self.also)
    }
}

const fn kin(word: &'static str, family: Family) -> Kin {
    and(word, "", family)
}

const fn and(word: &'static str, also: &'static str, family: Family) -> Kin {
    Kin { word, also, family }
}

/// Claude's tools come with an introduction of their own; how long it is was not verified.
const CLAUDE_TOOLS: Overhead = Overhead {
    functions: 346,
    ..PUBLISHED
};
/// Gemini counts no more than the parts.
const BARE: Overhead = Overhead {
    message: 0,
    name: 0,
    function: 0,
    functions: 0,
    reply: 0,
};

/// The first that fits. The ratios of Llama, DeepSeek, Qwen, Mistral, Kimi, GLM, MiniMax and Gemma were
/// measured: open vocabularies against `o200k` on prose, code and JSON (narrow) and on Chinese,
/// Japanese, Korean and Russian (wide). Claude's has never been published; its are what users report.
/// All others are guesses, and so are the rules of images of all but OpenAI's models: what upstreams
/// report corrects them.
const KIN: [Kin; 33] = [
    // Named for who taught them, but with another's vocabulary.
    kin("llama", LLAMA),
    kin("qwen", QWEN),
    and("claude", "opus-4-7", CLAUDE_NEWER),
    kin("claude", with(CLAUDE, CLAUDE_TOOLS)),
    and("gemini", "embedding", with(GEMMA, BARE)),
    and("gemini", "2.5", with(GEMINI_THINKS, BARE)),
    and("gemini", "-3", with(GEMINI_THINKS, BARE)),
    kin("gemini", with(GEMMA, BARE)),
    kin("gemma", GEMMA),
    and(
        "deepseek",
        "reason",
        other(ratio(1070, 950), Rule::FOUR, THOUGHTS),
    ),
    and(
        "deepseek",
        "r1",
        other(ratio(1070, 950), Rule::FOUR, THOUGHTS),
    ),
    kin("deepseek", other(ratio(1070, 950), Rule::FOUR, OUTPUT)),
    kin(
        "qwq",
        other(ratio(1010, 1000), Rule::squares(28, 1280), THOUGHTS),
    ),
    kin(
        "qvq",
        other(ratio(1010, 1000), Rule::squares(28, 1280), THOUGHTS),
    ),
    kin("magistral", other(ratio(1065, 1110), PIXTRAL, THOUGHTS)),
    kin("mistral", MISTRAL),
    kin("ministral", MISTRAL),
    kin("mixtral", MISTRAL),
    kin("pixtral", MISTRAL),
    kin("codestral", MISTRAL),
    kin("devstral", MISTRAL),
    kin("kimi", KIMI),
    kin("moonshot", KIMI),
    kin("glm", other(ratio(1000, 960), Rule::FOUR, OUTPUT)),
    kin("minimax", other(ratio(1000, 850), Rule::FOUR, OUTPUT)),
    kin("sonar", LLAMA),
    kin("hermes", LLAMA),
    kin("command", COMMAND),
    kin("embed-", COMMAND),
    kin("grok", other(SAME, Rule::squares(32, 1792), THOUGHTS)),
    kin("phi-", other(ratio(1000, 1300), Rule::FOUR, OUTPUT)),
    kin("titan", other(ratio(1050, 1300), Rule::FOUR, OUTPUT)),
    kin("nova", other(ratio(1050, 1200), Rule::FOUR, OUTPUT)),
];

const LLAMA: Family = other(ratio(1000, 1050), Rule::FOUR, OUTPUT);
const QWEN: Family = other(ratio(1010, 1000), Rule::squares(28, 1280), OUTPUT);
const CLAUDE: Family = other(ratio(1200, 1200), Rule::area(750, 1600), OUTPUT);
const CLAUDE_NEWER: Family = with(
    other(ratio(1500, 1250), Rule::area(750, 1600), OUTPUT),
    CLAUDE_TOOLS,
);
const GEMMA: Family = other(ratio(1100, 930), Rule::Crops { tile: 258 }, OUTPUT);
const GEMINI_THINKS: Family = other(ratio(1100, 930), Rule::Crops { tile: 258 }, THOUGHTS);
const PIXTRAL: Rule = Rule::squares(16, 4096);
const MISTRAL: Family = other(ratio(1065, 1110), PIXTRAL, OUTPUT);
const KIMI: Family = other(ratio(1000, 950), Rule::FOUR, OUTPUT);
const COMMAND: Family = other(ratio(1050, 1100), Rule::FOUR, OUTPUT);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_known_by_any_usual_name() {
        use Encoding::{Cl100k, O200k};
        for (model, encoding, exact) in [
            ("gpt-4o", O200k, true),
            ("GPT-4o-Mini", O200k, true),
            ("openai/gpt-4o-2024-08-06", O200k, true),
            ("openrouter/openai/gpt-4o:extended", O200k, true),
            ("openai.gpt-oss-120b-1:0", O200k, true),
            ("openai.gpt-oss-120b-1%3A0", O200k, true),
            ("gpt-oss:20b", O200k, true),
            ("gpt-4.1-nano", O200k, true),
            ("gpt-4.5", O200k, true),
            ("gpt-5.4-mini", O200k, true),
            ("gpt-6", O200k, true),
            ("o1", O200k, true),
            ("o4-pro", O200k, true),
            ("chatgpt-4o-latest", O200k, true),
            ("codex-mini-latest", O200k, true),
            ("ft:gpt-4o:org:name:id", O200k, true),
            ("ft:gpt-3.5-turbo:org::id", Cl100k, true),
            ("gpt-4", Cl100k, true),
            ("gpt-4-turbo", Cl100k, true),
            ("gpt-3.5-turbo-16k", Cl100k, true),
            ("azure/gpt-35-turbo", Cl100k, true),
            ("text-embedding-3-small", Cl100k, true),
            ("text-embedding-3-large@2024", Cl100k, true),
            ("text-embedding-v3", O200k, false),
            ("claude-sonnet-4-5", O200k, false),
            ("meta-llama/Llama-3.3-70B-Instruct", O200k, false),
            ("deepseek-chat", O200k, false),
            ("gpt-neox-20b", O200k, false),
            ("gpt-2", O200k, false),
            ("olmo-2", O200k, false),
            ("davinci", O200k, false),
            ("", O200k, false),
            ("/", O200k, false),
            ("ft::::", O200k, false),
        ] {
            let family = family(model);
            assert_eq!(
                (family.encoding, family.exact),
                (encoding, exact),
                "{model:?}"
            );
        }
        assert!(!family(&"gpt-4o".repeat(1 << 16)).exact);
    }

    #[test]
    fn other_makers_are_known_by_a_word_in_the_name() {
        for (model, narrow) in [
            ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 1200),
            ("anthropic/claude-opus-4-7", 1500),
            ("models/gemini-2.5-pro", 1100),
            ("google/gemma-3-27b-it", 1100),
            ("deepseek-reasoner", 1070),
            ("deepseek-r1-distill-llama-70b", 1000),
            ("deepseek-r1-distill-qwen-7b", 1010),
            ("accounts/fireworks/models/llama-v3p1-8b-instruct", 1000),
            ("mistralai/Mixtral-8x7B", 1065),
            ("zai-org/GLM-4.6", 1000),
            ("a-model-of-somebody", 1000),
        ] {
            assert_eq!(family(model).seed.narrow, narrow, "{model}");
        }
        assert!(family("deepseek-reasoner").output_max > family("deepseek-chat").output_max);
        assert!(family("o3").output_max > family("gpt-4o").output_max);
        for (model, hides) in [
            ("o3", true),
            ("o4-mini-2025-04-16", true),
            ("gpt-5.4-nano", true),
            ("gpt-oss:20b", true),
            ("codex-mini-latest", true),
            ("gpt-6", true),
            ("gpt-5-chat-latest", false),
            ("gpt-4o", false),
            ("gpt-3.5-turbo", false),
            ("gpt-35-turbo", false),
            ("chatgpt-4o-latest", false),
            ("text-embedding-3-small", false),
        ] {
            assert_eq!(family(model).hides, hides, "{model}");
        }
    }

    #[test]
    fn each_kin_can_be_found() {
        for (at, own) in KIN.iter().enumerate() {
            let name = format!("{}{}", own.word, own.also);
            let first = KIN.iter().position(|kin| kin.is_in(&name));
            assert_eq!(first, Some(at), "{name} is taken by an earlier row");
        }
    }
}

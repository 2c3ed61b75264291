//! What Anthropic's models differ in, as far as a request's form depends on it.
//!
//! Source: Anthropic's documentation, "Models overview", "Extended thinking", "Adaptive thinking",
//! "Structured outputs". A name that isn't understood (of a newer model, or of another server that has
//! this API) is taken to have what is asked of it: the server says if it hasn't.

/// What a model is, by its name: `claude-sonnet-4-5-20250929`, `anthropic.claude-opus-4-6-v1`,
/// `claude-3-5-haiku@20241022`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// `(4, 5)`; `None` where the name doesn't say.
    version: Option<(u32, u32)>,
    family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Opus,
    Sonnet,
    Haiku,
    /// Of Anthropic's, but none of these.
    Other,
    /// Another server's with this API.
    Foreign,
}

// === impl Model ===

impl Model {
    /// Reads a name.
    pub fn of(name: &str) -> Self {
        let claude = name.find("claude").map(|at| &name[at..]);
        let words = || claude.unwrap_or_default().split(['-', '.', '@', '_', ':']);
        let family = match words().find(|it| matches!(*it, "opus" | "sonnet" | "haiku")) {
            Some("opus") => Family::Opus,
            Some("sonnet") => Family::Sonnet,
            Some("haiku") => Family::Haiku,
            _ if claude.is_some() => Family::Other,
            _ => Family::Foreign,
        };
        // A date is no version.
        let number = |word: &str| word.parse::<u32>().ok().filter(|_| word.len() <= 2);
        let mut numbers = words()
            .skip_while(|it| number(it).is_none())
            .map_while(number);
        let version = numbers
            .next()
            .map(|major| (major, numbers.next().unwrap_or(0)));
        Self { version, family }
    }

    fn is_before(self, version: (u32, u32)) -> bool {
        self.version.is_some_and(|it| it < version)
    }

    fn is_from(self, version: (u32, u32)) -> bool {
        match self.version {
            Some(it) => it >= version,
            // Anthropic's own without a number are newer than all that have one in this list.
            None => self.family != Family::Foreign,
        }
    }

    /// Nothing is known of it.
    pub fn is_foreign(self) -> bool {
        self.family == Family::Foreign
    }

    /// The most tokens of an answer where the client didn't limit them. The API must be told a number;
    /// a client of another API that gave none wants no limit but the model's own.
    pub fn max_tokens(self) -> u64 {
        match (self.version, self.family) {
            // What the models of all of those servers can.
            (_, Family::Foreign) => 8192,
            (Some((3, 0)) | Some((0..3, _)), _) => 4096,
            (Some((3, 5)), _) => 8192,
            (Some((4, 0..5)), Family::Opus) => 32_000,
            _ => 64_000,
        }
    }

    /// Can think at all.
    pub fn thinks(self) -> bool {
        !self.is_before((3, 7))
    }

    /// Thinks as much as it sees fit, guided by an effort.
    pub fn adapts(self) -> bool {
        self.is_from((4, 6))
    }

    /// Takes no budget of thoughts, and no temperature, `top_p` or `top_k`.
    pub fn only_adapts(self) -> bool {
        self.is_from((4, 7))
    }

    /// Answers in JSON of a schema, and calls strict tools.
    pub fn has_schemas(self) -> bool {
        match self.family {
            Family::Opus => !self.is_before((4, 1)),
            _ => !self.is_before((4, 5)),
        }
    }

    /// Takes either a temperature or `top_p`.
    pub fn has_one_of_temperature_and_top_p(self) -> bool {
        self.is_from((4, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::Model;

    #[test]
    fn a_models_name_says_its_version() {
        for (name, version) in [
            ("claude-3-haiku-20240307", Some((3, 0))),
            ("claude-3-5-sonnet-latest", Some((3, 5))),
            ("claude-3-7-sonnet@20250219", Some((3, 7))),
            ("claude-sonnet-4-20250514", Some((4, 0))),
            ("anthropic.claude-opus-4-1-20250805-v1:0", Some((4, 1))),
            ("anthropic/claude-sonnet-4.5", Some((4, 5))),
            ("claude-opus-4-6", Some((4, 6))),
            ("kimi-k2-0905", None),
            ("claude-next", None),
        ] {
            assert_eq!(Model::of(name).version, version, "{name}");
        }
        assert!(Model::of("claude-mythos-preview").only_adapts());
        assert!(!Model::of("kimi-k2-0905").adapts());
        assert_eq!(Model::of("kimi-k2-0905").max_tokens(), 8192);
        assert_eq!(Model::of("claude-opus-4-1").max_tokens(), 32_000);
        assert_eq!(Model::of("claude-haiku-4-5").max_tokens(), 64_000);
        assert_eq!(Model::of("claude-3-haiku-20240307").max_tokens(), 4096);
    }
}

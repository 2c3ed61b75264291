//! How long a request says that its answers may be, by the names that its API has for that.
//!
//! A name that an API doesn't know is passed over by its servers, so it bounds nothing; and a value that
//! servers may read in several ways (`"5"`, `-1`, `0`, `1.5`) says nothing, also beside one that does. Both
//! must hold, or whoever is under a budget writes what only weir believes. Names of other servers may make
//! an answer longer all the same: a server that knows several has its own order.
//!
//! Read by dialect's own scanner, which refuses what no server reads and stops at nothing that one may
//! read, such as half a surrogate pair. Called by `estimate` and, for what has no prompt that is known, by
//! `proxy`.

use std::ops::Range;

use super::Api;
use crate::dialect::json;

/// What a request says of its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Tokens of one answer at most; `None` where it doesn't say so in a way that all believe.
    pub each: Option<u64>,
    /// Answers to each prompt.
    pub answers: u64,
}

/// The length that a request `body` asks for.
pub fn length(api: Api, body: &[u8]) -> Length {
    read(names(api), body)
}

/// The length that a body for Bedrock's `InvokeModel` asks for: each family of models has its own form.
pub fn invoked_length(model: &str, body: &[u8]) -> Length {
    let model = model.to_ascii_lowercase();
    let family = INVOKED.iter().find(|(word, _)| model.contains(word));
    read(family.map_or(NONE, |(_, names)| *names), body)
}

/// Where an API has what. The object is a member of the body, or with `""` the body itself.
#[derive(Clone, Copy)]
struct Names {
    /// Objects that hold them.
    within: &'static [&'static str],
    /// Tokens of one answer.
    tokens: &'static [&'static str],
    /// Answers to each prompt.
    answers: &'static [&'static str],
}

const fn names_of(
    within: &'static [&'static str],
    tokens: &'static [&'static str],
    answers: &'static [&'static str],
) -> Names {
    Names {
        within,
        tokens,
        answers,
    }
}

const ITSELF: &[&str] = &[""];
const NONE: Names = names_of(ITSELF, &[], &[]);

fn names(api: Api) -> Names {
    match api {
        Api::Chat => names_of(
            ITSELF,
            &["max_tokens", "max_completion_tokens"],
            &["n", "best_of"],
        ),
        Api::Completions => names_of(ITSELF, &["max_tokens"], &["n", "best_of"]),
        Api::Responses => names_of(ITSELF, &["max_output_tokens"], &[]),
        Api::Messages => names_of(ITSELF, &["max_tokens"], &[]),
        Api::Gemini => names_of(
            &["generationConfig", "generation_config"],
            &["maxOutputTokens", "max_output_tokens"],
            &["candidateCount", "candidate_count"],
        ),
        Api::Ollama => names_of(&["options"], &["num_predict"], &[]),
        Api::DashScope => names_of(&["parameters"], &["max_tokens"], &["n"]),
        Api::Cohere => names_of(ITSELF, &["max_tokens"], &["num_generations"]),
        Api::Converse => names_of(&["inferenceConfig"], &["maxTokens"], &[]),
        Api::Embeddings => NONE,
    }
}

/// By a word in the model's name.
const INVOKED: &[(&str, Names)] = &[
    (
        "anthropic",
        names_of(ITSELF, &["max_tokens", "max_tokens_to_sample"], &[]),
    ),
    (
        "titan",
        names_of(&["textGenerationConfig"], &["maxTokenCount"], &[]),
    ),
    (
        "nova",
        names_of(&["inferenceConfig"], &["maxTokens", "max_new_tokens"], &[]),
    ),
    ("llama", names_of(ITSELF, &["max_gen_len"], &[])),
    ("mistral", names_of(ITSELF, &["max_tokens"], &["n"])),
    (
        "cohere",
        names_of(ITSELF, &["max_tokens"], &["num_generations"]),
    ),
    ("jamba", names_of(ITSELF, &["max_tokens"], &["n"])),
    ("ai21", names_of(ITSELF, &["maxTokens"], &["numResults"])),
    ("deepseek", names_of(ITSELF, &["max_tokens"], &[])),
    (
        "openai",
        names_of(ITSELF, &["max_tokens", "max_completion_tokens"], &["n"]),
    ),
];

/// Names that some server has for the length of an answer, wherever they stand.
const ELSEWHERE: &[&str] = &[
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "maxOutputTokens",
    "maxTokens",
    "max_new_tokens",
    "num_predict",
    "n_predict",
];

fn read(names: Names, body: &[u8]) -> Length {
    let mut found = Found {
        names,
        ..Found::default()
    };
    let whole = found.object(body, names.within.contains(&""));
    Length {
        each: whole.and_then(|()| found.each()),
        answers: found.answers.max(1),
    }
}

/// What was found so far.
struct Found {
    names: Names,
    /// The most that the API's own names say.
    said: Option<u64>,
    /// One of them says what servers read in several ways.
    unclear: bool,
    /// The most that names of other servers say.
    elsewhere: u64,
    answers: u64,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            names: NONE,
            said: None,
            unclear: false,
            elsewhere: 0,
            answers: 1,
        }
    }
}

impl Found {
    /// Reads an object; `own` where the API's names stand in it. `None` where it is none.
    fn object(&mut self, object: &[u8], own: bool) -> Option<()> {
        for member in json::members(object) {
            let member = member.ok()?;
            self.member(&member.key, object, member.value_at, own);
        }
        Some(())
    }

    fn member(&mut self, key: &str, object: &[u8], at: Range<usize>, own: bool) {
        let value = &object[at];
        if own && self.names.tokens.contains(&key) {
            match json::whole(value) {
                Some(tokens) if tokens > 0 => self.said = self.said.max(Some(tokens)),
                _ => self.unclear |= !json::is_null(value),
            }
        } else if ELSEWHERE.contains(&key) {
            self.elsewhere = self.elsewhere.max(json::number(value).unwrap_or(0));
        } else if own && self.names.answers.contains(&key) {
            self.answers = self.answers.max(json::number(value).unwrap_or(1));
        } else if self.names.within.contains(&key) && value.starts_with(b"{") {
            // An object in itself can't be: a name of `within` has no meaning there.
            let _ = self.object(value, true);
        }
    }

    fn each(&self) -> Option<u64> {
        let said = self.said.filter(|_| !self.unclear)?;
        Some(said.max(self.elsewhere))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(api: Api, body: &str) -> Option<u64> {
        length(api, body.as_bytes()).each
    }

    #[test]
    fn each_api_has_its_own_names_at_their_own_place() {
        let all = [
            (Api::Chat, r#"{"max_tokens":5}"#),
            (Api::Chat, r#"{"max_completion_tokens":5}"#),
            (Api::Responses, r#"{"max_output_tokens":5}"#),
            (Api::Gemini, r#"{"generationConfig":{"maxOutputTokens":5}}"#),
            (
                Api::Gemini,
                r#"{"generation_config":{"max_output_tokens":5}}"#,
            ),
            (Api::Ollama, r#"{"options":{"num_predict":5}}"#),
            (Api::DashScope, r#"{"parameters":{"max_tokens":5}}"#),
            (Api::Converse, r#"{"inferenceConfig":{"maxTokens":5}}"#),
        ];
        let shared = [Api::Completions, Api::Messages, Api::Cohere];
        for (own, body) in all {
            for (api, _) in all {
                let same = api == own;
                assert_eq!(each(api, body), same.then_some(5), "{api:?} {body}");
            }
            for api in shared {
                let same = body == all[0].1;
                assert_eq!(each(api, body), same.then_some(5), "{api:?} {body}");
            }
        }
    }

    #[test]
    fn what_servers_read_in_several_ways_says_nothing() {
        for value in ["\"5\"", "-1", "0", "1.5", "[5]", "{}", "true", "1e300"] {
            for body in [
                format!("{{\"max_tokens\":{value}}}"),
                format!("{{\"max_tokens\":5,\"max_completion_tokens\":{value}}}"),
                format!("{{\"max_tokens\":{value},\"max_tokens\":5}}"),
            ] {
                assert_eq!(each(Api::Chat, &body), None, "{body}");
            }
        }
        let null = r#"{"max_tokens":5,"max_completion_tokens":null}"#;
        assert_eq!(each(Api::Chat, null), Some(5));
        assert_eq!(each(Api::Chat, r#"{"max_tokens":1e3}"#), Some(1000));
        for no_json in ["", "[]", "{\"max_tokens\":5", "{\"max_tokens\":5}x"] {
            assert_eq!(each(Api::Chat, no_json), None, "{no_json}");
        }
    }

    #[test]
    fn other_names_make_an_answer_longer_and_never_shorter() {
        for (body, tokens) in [
            (r#"{"max_tokens":5,"n_predict":9}"#, Some(9)),
            (r#"{"max_tokens":5,"max_new_tokens":"9"}"#, Some(9)),
            (r#"{"max_tokens":5,"n_predict":-1}"#, Some(5)),
            (r#"{"max_tokens":5,"n_predict":1}"#, Some(5)),
            (r#"{"n_predict":9}"#, None),
        ] {
            assert_eq!(each(Api::Chat, body), tokens, "{body}");
        }
    }

    #[test]
    fn answers_are_counted_however_their_number_is_written() {
        for (api, body, answers) in [
            (Api::Chat, r#"{"n":3,"n":2}"#, 3),
            (Api::Chat, r#"{"n":"3"}"#, 3),
            (Api::Completions, r#"{"n":2,"best_of":4}"#, 4),
            (Api::Chat, r#"{"n":0}"#, 1),
            (Api::Chat, r#"{"n":null}"#, 1),
            (
                Api::Gemini,
                r#"{"generationConfig":{"candidateCount":2}}"#,
                2,
            ),
            (Api::Gemini, r#"{"candidateCount":2}"#, 1),
            (Api::DashScope, r#"{"parameters":{"n":2}}"#, 2),
            (Api::Messages, r#"{"n":2}"#, 1),
        ] {
            assert_eq!(length(api, body.as_bytes()).answers, answers, "{body}");
        }
    }

    #[test]
    fn each_family_that_bedrock_invokes_has_its_own_form() {
        for (model, body) in [
            ("us.anthropic.claude-sonnet-4", r#"{"max_tokens":5}"#),
            ("anthropic.claude-v2", r#"{"max_tokens_to_sample":5}"#),
            (
                "amazon.titan-text-express",
                r#"{"textGenerationConfig":{"maxTokenCount":5}}"#,
            ),
            (
                "amazon.nova-pro",
                r#"{"inferenceConfig":{"max_new_tokens":5}}"#,
            ),
            ("meta.llama3-70b", r#"{"max_gen_len":5}"#),
            ("ai21.j2-ultra", r#"{"maxTokens":5}"#),
            ("ai21.jamba-1-5-large", r#"{"max_tokens":5}"#),
        ] {
            let said = invoked_length(model, body.as_bytes()).each;
            assert_eq!(said, Some(5), "{model}");
            let unknown = invoked_length("arn:aws:bedrock:x", body.as_bytes()).each;
            assert_eq!(unknown, None, "{model}");
        }
        let other = invoked_length("meta.llama3-70b", br#"{"max_tokens":5}"#).each;
        assert_eq!(other, None);
    }
}

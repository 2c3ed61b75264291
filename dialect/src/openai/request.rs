//! What a JSON request asks for, and the two edits that weir makes to it.
//!
//! Reads the members at depth 1 and copies nothing; a body is changed only where the model's name
//! is mapped or where usage is asked for. Called with the whole body by `proxy`.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use super::opening::Opening;
use crate::json::{self, Fault, Member, What};
use crate::replaced;

/// What weir must know of a request's body. A body that is no object asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The model, if the body names one (`null` names none).
    pub model: Option<Named>,
    /// Other models that may answer instead: `models` of OpenRouter, `fallbacks` of LiteLLM.
    pub others: Vec<String>,
    /// `stream` is `true`, or what servers without a strict schema take for it (`1`, `"true"`).
    pub stream: bool,
    /// `background` likewise: the answer only says that there will be one.
    pub background: bool,
    /// The client itself asks for usage in the stream.
    pub include_usage: bool,
    /// How many answers are asked for: the larger of `n` and `best_of`.
    pub choices: Option<u64>,
    /// What an API for models can't let pass, and another may.
    pub odd: Option<AskedError>,
    /// What it has in common with others.
    pub opening: Opening,
    options: Options,
}

/// A name and where it stands in the body, with its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub at: Range<usize>,
}

/// Where `include_usage: true` would have to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Options {
    /// Nowhere: no object, or options of a form that only the upstream can judge.
    #[default]
    Fixed,
    /// No `stream_options`; this is the end of the last member.
    Absent { end: usize },
    /// `stream_options` is `null`.
    Null(Range<usize>),
    /// An object without `include_usage`; this is the offset after its opening brace.
    Without { inside: usize, empty: bool },
    /// The value of its `include_usage`, which is not `true`.
    Otherwise(Range<usize>),
}

/// Why a body can't be understood safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedError {
    /// Not JSON, at this byte.
    InvalidJson { at: usize, what: &'static str },
    /// A field that decides something is there twice; servers differ in which one they believe.
    DuplicateField(&'static str),
    /// A field is written as only some servers read it: in other case than this.
    OtherCase(&'static str),
    /// The field must be a string.
    NotAString(&'static str),
    /// The field must be a list of at most [`OTHERS_MAX`] names.
    NotNames(&'static str),
    /// Brackets are nested deeper than [`json::DEPTH_MAX`].
    TooDeep,
}

impl From<Fault> for AskedError {
    fn from(fault: Fault) -> Self {
        match fault.what {
            What::TooDeep => AskedError::TooDeep,
            what => AskedError::InvalidJson {
                at: fault.at,
                what: what.text(),
            },
        }
    }
}

/// Reads a whole body.
pub fn read(body: &[u8]) -> Result<Asked, AskedError> {
    let whole = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if whole != Some(&b'{') {
        json::value(body)?;
        return Ok(Asked::default());
    }
    let mut fields = Fields::default();
    for member in json::members(body) {
        fields.take(body, member?)?;
    }
    fields.asked(body)
}

/// More other models than this are refused.
pub const OTHERS_MAX: usize = 64;

/// Fields that decide something. Servers in Go match names without regard to case and believe the last.
const DECIDING: [&str; 17] = [
    "model",
    "models",
    "fallbacks",
    "stream",
    "stream_options",
    "background",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "options",
    "parameters",
    "generationConfig",
    "generation_config",
    "inferenceConfig",
    "textGenerationConfig",
];

/// The members that matter, as places.
#[derive(Default)]
struct Fields {
    model: Option<Range<usize>>,
    others: Vec<String>,
    stream: Option<Range<usize>>,
    background: bool,
    options: Option<Range<usize>>,
    choices: Option<u64>,
    /// Deciding fields that were there, one bit each.
    seen: u32,
    /// The first that was there in other case.
    other_case: Option<usize>,
    /// A list of models that can't be read.
    not_names: Option<&'static str>,
    opening: Opening,
    end: Option<usize>,
}

// === impl Fields ===

impl Fields {
    fn take(&mut self, body: &[u8], member: Member<'_>) -> Result<(), AskedError> {
        let at = member.value_at;
        let value = &body[at.clone()];
        self.end = Some(at.end);
        match &*member.key {
            "model" => once(&mut self.model, at, "model")?,
            "stream" => once(&mut self.stream, at, "stream")?,
            "stream_options" => once(&mut self.options, at, "stream_options")?,
            "background" => self.background |= is_true(value),
            "n" | "best_of" => self.choices = self.choices.max(json::number(value)),
            "models" => self.name("models", value),
            "fallbacks" => self.name("fallbacks", value),
            other => self.opening.see(other, &at),
        }
        self.see(&member.key);
        Ok(())
    }

    fn see(&mut self, key: &str) {
        let same = |name: &&str| key.eq_ignore_ascii_case(name) || is_folded(key, name);
        if let Some(place) = DECIDING.iter().position(same) {
            match DECIDING[place] == key {
                true => self.seen |= 1 << place,
                false => self.other_case = self.other_case.or(Some(place)),
            }
        }
    }

    /// Takes the names of other models: one, a list, or a list of objects that have a `model`.
    fn name(&mut self, field: &'static str, value: &[u8]) {
        /// Names are no longer than this, together.
        const BYTES_MAX: usize = 16 << 10;
        let readable = Some(value).filter(|value| value.len() <= BYTES_MAX);
        let read = readable.and_then(|value| serde_json::from_slice(value).ok());
        let names = match read {
            Some(serde_json::Value::Array(names)) => names,
            Some(serde_json::Value::Null) => return,
            Some(one) => vec![one],
            None => return self.not_names = Some(field),
        };
        for name in names {
            match name.as_str().or_else(|| name["model"].as_str()) {
                Some(name) if self.others.len() < OTHERS_MAX => self.others.push(name.to_owned()),
                _ => self.not_names = Some(field),
            }
        }
    }

    fn odd(&self) -> Option<AskedError> {
        let other_case = self.other_case.map(|place| match self.seen >> place & 1 {
            0 => AskedError::OtherCase(DECIDING[place]),
            _ => AskedError::DuplicateField(DECIDING[place]),
        });
        other_case.or(self.not_names.map(AskedError::NotNames))
    }

    fn asked(self, body: &[u8]) -> Result<Asked, AskedError> {
        let odd = self.odd();
        let stream = self.stream.is_some_and(|at| is_true(&body[at]));
        let (include_usage, options) = match self.options {
            Some(at) => options(body, at)?,
            None => match self.end {
                Some(end) => (false, Options::Absent { end }),
                None => (false, Options::Fixed),
            },
        };
        let model = self.model.filter(|at| !json::is_null(&body[at.clone()]));
        Ok(Asked {
            model: model.map(|at| named(body, at)).transpose()?,
            others: self.others,
            stream,
            background: self.background,
            include_usage,
            choices: self.choices,
            odd,
            opening: self.opening,
            options,
        })
    }
}

/// `true`, or what lax readers (pydantic's, say) take for it.
fn is_true(value: &[u8]) -> bool {
    const WORDS: [&str; 6] = ["true", "1", "yes", "on", "t", "y"];
    let word = json::string(value).unwrap_or(Cow::Borrowed(""));
    let says = WORDS.iter().any(|it| word.trim().eq_ignore_ascii_case(it));
    says || json::boolean(value) == Some(true) || json::whole(value) == Some(1)
}

/// Whether Go takes the key for the name: two letters of other scripts are folded into `s` and `k`.
fn is_folded(key: &str, name: &str) -> bool {
    let folded = key.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    });
    !key.is_ascii() && folded.eq(name.chars().map(|letter| letter.to_ascii_lowercase()))
}

fn once(
    field: &mut Option<Range<usize>>,
    at: Range<usize>,
    name: &'static str,
) -> Result<(), AskedError> {
    match field.replace(at) {
        None => Ok(()),
        Some(_) => Err(AskedError::DuplicateField(name)),
    }
}

fn named(body: &[u8], at: Range<usize>) -> Result<Named, AskedError> {
    let value = &body[at.clone()];
    if !value.starts_with(b"\"") {
        return Err(AskedError::NotAString("model"));
    }
    match json::string(value) {
        Some(name) => Ok(Named {
            name: name.into_owned(),
            at,
        }),
        None => Err(AskedError::InvalidJson {
            at: at.start,
            what: "malformed string",
        }),
    }
}

fn options(body: &[u8], at: Range<usize>) -> Result<(bool, Options), AskedError> {
    let value = &body[at.clone()];
    if json::is_null(value) {
        return Ok((false, Options::Null(at)));
    }
    if !value.starts_with(b"{") {
        return Ok((false, Options::Fixed));
    }
    let (mut include, mut empty) = (None, true);
    for member in json::members(value) {
        let member = member.map_err(|fault| {
            AskedError::from(Fault {
                at: at.start + fault.at,
                ..fault
            })
        })?;
        empty = false;
        if member.key == "include_usage" {
            once(&mut include, member.value_at, "include_usage")?;
        }
    }
    Ok(match include {
        None => (
            false,
            Options::Without {
                inside: at.start + 1,
                empty,
            },
        ),
        Some(include) if is_true(&value[include.clone()]) => (true, Options::Fixed),
        Some(include) => (
            false,
            Options::Otherwise(at.start + include.start..at.start + include.end),
        ),
    })
}

// === impl Asked ===

impl Asked {
    /// The body for the upstream: with `model` as the model's name, if given, and asking for usage
    /// in the stream if `ask_usage` (which does nothing for a request that doesn't stream or
    /// already asks). `body` must be the one that was read. Without an edit it is returned itself;
    /// with one, all other bytes stay as they are.
    pub fn edited(&self, body: &Bytes, model: Option<&str>, ask_usage: bool) -> Bytes {
        let name = match (model, &self.model) {
            (Some(model), Some(named)) if named.name != model => {
                Some((named.at.clone(), quoted(model)))
            }
            _ => None,
        };
        let usage = if ask_usage && self.stream {
            self.usage_edit()
        } else {
            None
        };
        let mut edits = [name, usage];
        edits.sort_by_key(|edit| edit.as_ref().map(|(at, _)| at.start));
        replaced(body, edits.into_iter().flatten())
    }

    /// Whether [`Asked::edited`] can make the upstream report usage that the client didn't ask for.
    pub fn can_ask_usage(&self) -> bool {
        self.stream && self.options != Options::Fixed
    }

    fn usage_edit(&self) -> Option<(Range<usize>, String)> {
        match &self.options {
            Options::Fixed => None,
            Options::Absent { end } => Some((
                *end..*end,
                r#","stream_options":{"include_usage":true}"#.to_owned(),
            )),
            Options::Null(at) => Some((at.clone(), r#"{"include_usage":true}"#.to_owned())),
            Options::Without { inside, empty } => {
                let comma = if *empty { "" } else { "," };
                Some((*inside..*inside, format!(r#""include_usage":true{comma}"#)))
            }
            Options::Otherwise(at) => Some((at.clone(), "true".to_owned())),
        }
    }
}

/// `text` as a JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            char => out.push(char),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(body: &str, model: Option<&str>, ask_usage: bool) -> String {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let asked = read(&body).expect("a good body");
        String::from_utf8(asked.edited(&body, model, ask_usage).to_vec()).expect("text")
    }

    #[test]
    fn what_is_asked_is_found_in_any_order() {
        let body = br#"{"messages":[{"model":"no","stream":false}],"max_tokens":7,"stream":true,
            "n":2,"stream_options":{"include_usage":true},"mod\u0065l":"gp\u0074-4o"}"#;
        let asked = read(body).unwrap();
        let model = asked.model.unwrap();
        assert_eq!(model.name, "gpt-4o");
        assert_eq!(&body[model.at], br#""gp\u0074-4o""#);
        assert!(asked.stream && asked.include_usage);
        assert_eq!((asked.choices, asked.odd), (Some(2), None));
    }

    #[test]
    fn what_lax_servers_take_for_true_is_true() {
        let stream = |value: &str| {
            let body = format!(r#"{{"stream":{value},"background":{value}}}"#);
            let asked = read(body.as_bytes()).unwrap();
            assert_eq!(asked.stream, asked.background, "{value}");
            asked.stream
        };
        for value in [
            "true",
            "1",
            "1.0",
            r#""True""#,
            r#""1""#,
            r#""yes""#,
            r#""on""#,
        ] {
            assert!(stream(value), "{value}");
        }
        for value in [
            "false",
            "0",
            "2",
            "null",
            r#""false""#,
            r#""""#,
            "[true]",
            "{}",
        ] {
            assert!(!stream(value), "{value}");
        }
    }

    #[test]
    fn other_models_are_found_in_every_form() {
        for (body, names) in [
            (
                r#"{"models":["a","b"],"route":"fallback"}"#,
                &["a", "b"][..],
            ),
            (r#"{"models":"a"}"#, &["a"]),
            (r#"{"models":["a"],"models":["b"]}"#, &["a", "b"]),
            (r#"{"fallbacks":[{"model":"a","x":1},"b"]}"#, &["a", "b"]),
            (r#"{"models":null,"fallbacks":[]}"#, &[]),
        ] {
            let asked = read(body.as_bytes()).unwrap();
            assert_eq!(
                (asked.others.as_slice(), asked.odd),
                (names_of(names).as_slice(), None)
            );
        }
        let many = vec!["\"a\""; OTHERS_MAX + 1].join(",");
        for list in [r#"[1]"#, r#"{"a":"b"}"#, "7", &format!("[{many}]")] {
            let asked = read(format!(r#"{{"models":{list}}}"#).as_bytes()).unwrap();
            assert_eq!(asked.odd, Some(AskedError::NotNames("models")), "{list}");
        }
        let most = vec!["\"a\""; OTHERS_MAX].join(",");
        let asked = read(format!(r#"{{"models":[{most}]}}"#).as_bytes()).unwrap();
        assert_eq!((asked.others.len(), asked.odd), (OTHERS_MAX, None));
    }

    fn names_of(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn fields_in_other_case_are_seen() {
        use AskedError::{DuplicateField, OtherCase};
        for (body, odd) in [
            (r#"{"model":"a","Model":"b"}"#, DuplicateField("model")),
            (r#"{"MODEL":"b","model":"a"}"#, DuplicateField("model")),
            (r#"{"Model":"b"}"#, OtherCase("model")),
            (r#"{"generationconfig":{}}"#, OtherCase("generationConfig")),
            ("{\"max_to\u{212a}ens\":1}", OtherCase("max_tokens")),
            ("{\"\u{17f}tream\":1}", OtherCase("stream")),
        ] {
            assert_eq!(read(body.as_bytes()).unwrap().odd, Some(odd), "{body}");
        }
        for body in [
            r#"{"model":"a","x":{"Model":"b"}}"#,
            r#"{"generationConfig":{},"generation_config":{}}"#,
            "{\"m\u{f6}del\":1}",
        ] {
            assert_eq!(read(body.as_bytes()).unwrap().odd, None, "{body}");
        }
    }

    #[test]
    fn a_body_that_is_no_object_names_no_model() {
        assert_eq!(read(b" [1,2]"), Ok(Asked::default()));
        assert_eq!(read(b"\"model\""), Ok(Asked::default()));
        assert_eq!(read(b"{}").unwrap().model, None);
        assert_eq!(read(br#"{"model":null}"#).unwrap().model, None);
        assert_eq!(
            read(b""),
            Err(AskedError::InvalidJson {
                at: 0,
                what: What::Truncated.text()
            })
        );
    }

    #[test]
    fn fields_that_decide_may_not_come_twice() {
        for (body, field) in [
            (r#"{"model":"a","model":"b"}"#, "model"),
            (r#"{"model":"a","m\u006fdel":"a"}"#, "model"),
            (r#"{"stream":true,"stream":true}"#, "stream"),
            (
                r#"{"stream_options":null,"stream_options":{}}"#,
                "stream_options",
            ),
            (
                r#"{"stream_options":{"include_usage":true,"include_usage":false}}"#,
                "include_usage",
            ),
        ] {
            assert_eq!(
                read(body.as_bytes()),
                Err(AskedError::DuplicateField(field)),
                "{body}"
            );
        }
        assert!(read(br#"{"user":"a","user":"b"}"#).is_ok());
    }

    #[test]
    fn mistakes_say_what_and_where() {
        assert_eq!(
            read(br#"{"model":4}"#),
            Err(AskedError::NotAString("model"))
        );
        let deep = format!("{{\"a\":{}", "[".repeat(600));
        assert_eq!(read(deep.as_bytes()), Err(AskedError::TooDeep));
        let at = |body: &[u8]| match read(body) {
            Err(AskedError::InvalidJson { at, .. }) => Some(at),
            _ => None,
        };
        assert_eq!(at(br#"{"model":"a"} x"#), Some(14));
        assert_eq!(at(br#"{"model":"a""#), Some(12));
        assert_eq!(at(br#"{"model":"\x"}"#), Some(9));
        assert_eq!(at(br#"{"stream_options":{"a" 1}}"#), Some(23));
    }

    #[test]
    fn nothing_to_edit_gives_the_same_bytes_without_a_copy() {
        let body = Bytes::from_static(br#"{"model":"a","stream":true}"#);
        let asked = read(&body).unwrap();
        for same in [
            asked.edited(&body, None, false),
            asked.edited(&body, Some("a"), false),
        ] {
            assert_eq!(same.as_ptr(), body.as_ptr());
        }
        let plain = Bytes::from_static(br#"{"model":"a"}"#);
        assert_eq!(read(&plain).unwrap().edited(&plain, None, true), plain);
    }

    #[test]
    fn only_the_name_changes_when_the_model_is_mapped() {
        assert_eq!(
            edited(
                "{ \"x\":1, \"model\" : \"a\" ,\"y\":\"a\"}",
                Some("b\"\\\n"),
                false
            ),
            "{ \"x\":1, \"model\" : \"b\\\"\\\\\\u000a\" ,\"y\":\"a\"}"
        );
    }

    #[test]
    fn usage_is_asked_for_with_the_smallest_edit() {
        for (body, expected) in [
            (
                r#"{"stream":true}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                "{\"stream\":true , \"a\":[] \n}",
                "{\"stream\":true , \"a\":[],\"stream_options\":{\"include_usage\":true} \n}",
            ),
            (
                r#"{"stream_options":null,"stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"stream":true}"#,
            ),
            (
                r#"{"stream_options":{ },"stream":true}"#,
                r#"{"stream_options":{"include_usage":true },"stream":true}"#,
            ),
            (
                r#"{"stream_options":{"x":1},"stream":true}"#,
                r#"{"stream_options":{"include_usage":true,"x":1},"stream":true}"#,
            ),
            (
                r#"{"stream_options":{"include_usage":false,"x":1},"stream":true}"#,
                r#"{"stream_options":{"include_usage":true,"x":1},"stream":true}"#,
            ),
            (
                r#"{"stream_options":"odd","stream":true}"#,
                r#"{"stream_options":"odd","stream":true}"#,
            ),
        ] {
            assert_eq!(edited(body, None, true), expected);
        }
    }

    #[test]
    fn both_edits_are_made_at_once_in_either_order() {
        assert_eq!(
            edited(r#"{"model":"a","stream":true}"#, Some("bb"), true),
            r#"{"model":"bb","stream":true,"stream_options":{"include_usage":true}}"#
        );
        assert_eq!(
            edited(
                r#"{"stream_options":{},"stream":true,"model":"a"}"#,
                Some("bb"),
                true
            ),
            r#"{"stream_options":{"include_usage":true},"stream":true,"model":"bb"}"#
        );
    }
}

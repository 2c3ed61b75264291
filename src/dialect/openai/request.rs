//! What a JSON request asks for, and the two edits that weir makes to it.
//!
//! Reads the members at depth 1 and copies nothing; a body is changed only where the model's name
//! is mapped or where usage is asked for. Called with the whole body by `proxy`.

use std::ops::Range;

use bytes::Bytes;

use crate::dialect::json::{self, Fault, Member, What};
use crate::dialect::replaced;

/// What weir must know of a request's body. A body that is no object asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The model, if the body names one (`null` names none).
    pub model: Option<Named>,
    /// `stream` is `true`.
    pub stream: bool,
    /// The client itself asks for usage in the stream.
    pub include_usage: bool,
    /// The most tokens that the answer may have: `max_completion_tokens`, else `max_tokens`,
    /// else `max_output_tokens`.
    pub max_tokens: Option<u64>,
    /// How many answers are asked for (`n`).
    pub choices: Option<u64>,
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
    /// The field must be a string.
    NotAString(&'static str),
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

/// The members that matter, as places.
#[derive(Default)]
struct Fields {
    model: Option<Range<usize>>,
    stream: Option<Range<usize>>,
    options: Option<Range<usize>>,
    /// By rank: the first that holds a number is believed.
    max_tokens: [Option<u64>; 3],
    choices: Option<u64>,
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
            "max_completion_tokens" => self.max_tokens[0] = json::whole(value),
            "max_tokens" => self.max_tokens[1] = json::whole(value),
            "max_output_tokens" => self.max_tokens[2] = json::whole(value),
            "n" => self.choices = json::whole(value),
            _ => {}
        }
        Ok(())
    }

    fn asked(self, body: &[u8]) -> Result<Asked, AskedError> {
        let stream = self
            .stream
            .is_some_and(|at| json::boolean(&body[at]) == Some(true));
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
            stream,
            include_usage,
            max_tokens: self.max_tokens.into_iter().flatten().next(),
            choices: self.choices,
            options,
        })
    }
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
        Some(include) if json::boolean(&value[include.clone()]) == Some(true) => {
            (true, Options::Fixed)
        }
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
        assert_eq!((asked.max_tokens, asked.choices), (Some(7), Some(2)));
    }

    #[test]
    fn the_newer_name_of_the_token_limit_wins() {
        let limit = |body: &str| read(body.as_bytes()).unwrap().max_tokens;
        assert_eq!(
            limit(r#"{"max_tokens":1,"max_completion_tokens":2}"#),
            Some(2)
        );
        assert_eq!(
            limit(r#"{"max_output_tokens":3,"max_tokens":null}"#),
            Some(3)
        );
        assert_eq!(limit(r#"{"max_tokens":-1}"#), None);
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

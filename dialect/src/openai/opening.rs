//! How a request begins: what the prompts of one conversation have in common however long it grows, and
//! whom the client says that it asks for. Holds places in the body and copies nothing.

use crate::json::{self, Cursor};
use std::borrow::Cow;
use std::ops::Range;

/// Where the parts of a request stand that it has in common with others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opening {
    /// What stands before the conversation: `system`, `instructions`.
    lead: Option<Range<usize>>,
    /// The conversation: `messages`, `input`, `prompt`, `contents`, `inputs`.
    prompt: Option<Range<usize>>,
    user: Option<Range<usize>>,
    cache_key: Option<Range<usize>>,
    metadata: Option<Range<usize>>,
}

impl Opening {
    /// Takes note of a member of the body.
    pub(super) fn see(&mut self, key: &str, at: &Range<usize>) {
        let place = match key {
            "messages" | "input" | "prompt" | "contents" | "inputs" => &mut self.prompt,
            "system" | "instructions" | "systemInstruction" | "system_instruction" => {
                &mut self.lead
            }
            "user" => &mut self.user,
            "prompt_cache_key" => &mut self.cache_key,
            "metadata" => &mut self.metadata,
            _ => return,
        };
        *place = Some(at.clone());
    }

    /// Whom it asks for: `user`, Anthropic's `metadata.user_id`, or else `prompt_cache_key`. `body` is the
    /// one that was read.
    pub fn user<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, str>> {
        let text = |at: &Option<Range<usize>>| {
            let text = json::string(body.get(at.clone()?)?)?;
            (!text.is_empty()).then_some(text)
        };
        let of_metadata = || {
            let metadata = body.get(self.metadata.clone()?)?;
            let members = json::members(metadata).map_while(Result::ok);
            let user_id = members.filter(|it| it.key == "user_id").last()?;
            json::string(&metadata[user_id.value_at]).filter(|it| !it.is_empty())
        };
        let user = text(&self.user).or_else(of_metadata);
        user.or_else(|| text(&self.cache_key))
    }

    /// What all turns of its conversation begin with, as it is written, in two parts that together are no
    /// longer than `bytes_max`: what stands before the conversation, and that up to the end of the first
    /// thing that a user says. `None` where there is no prompt.
    pub fn prefix<'b>(&self, body: &'b [u8], bytes_max: usize) -> Option<[&'b [u8]; 2]> {
        let lead = self.lead.clone().and_then(|at| body.get(at));
        let prompt = self.prompt.clone().and_then(|at| body.get(at));
        if lead.is_none() && prompt.is_none() {
            return None;
        }
        let lead = lead.unwrap_or_default();
        let lead = &lead[..lead.len().min(bytes_max)];
        let prompt = prompt.unwrap_or_default();
        let left = bytes_max - lead.len();
        let end = first_said(prompt, left).unwrap_or(prompt.len());
        Some([lead, &prompt[..end.min(left)]])
    }
}

/// Where the first message of a user's ends; `None` where that is past `bytes_max`, or nowhere.
fn first_said(prompt: &[u8], bytes_max: usize) -> Option<usize> {
    let mut cursor = Cursor::new(prompt);
    if !cursor.enter(b'[').ok()? {
        return None;
    }
    while cursor.at() < bytes_max {
        let at = cursor.skip().ok()?;
        let message = &prompt[at.clone()];
        let mut members = json::members(message).map_while(Result::ok);
        let of_user = |value: &[u8]| json::string(value).is_some_and(|role| role == "user");
        if members.any(|it| it.key == "role" && of_user(&message[it.value_at])) {
            return Some(at.end);
        }
        if !cursor.more(b'[').ok()? {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::request;

    fn prefix(body: &str, bytes_max: usize) -> Option<String> {
        let asked = request::read(body.as_bytes()).expect("sound");
        let parts = asked.opening.prefix(body.as_bytes(), bytes_max)?;
        Some(String::from_utf8(parts.concat()).expect("text"))
    }

    #[test]
    fn a_conversation_that_grows_begins_as_it_began() {
        let body = |later: &str| {
            format!(
                r#"{{"model":"m","messages":[{{"role":"system","content":"s"}},{{"role":"user","content":"u"}}{later}]}}"#
            )
        };
        let first = prefix(&body(""), 1024);
        assert!(
            first.as_deref().is_some_and(|it| it.ends_with(r#""u"}"#)),
            "{first:?}"
        );
        let later = r#",{"role":"assistant","content":"a"},{"role":"user","content":"v"}"#;
        assert_eq!(prefix(&body(later), 1024), first);
        let cut = prefix(&body(""), 10).expect("a prefix");
        assert_eq!(cut.len(), 10);
    }

    #[test]
    fn every_api_has_a_beginning() {
        for (body, expected) in [
            (
                r#"{"system":"s","messages":[{"role":"user","content":"u"},{}]}"#,
                r#""s"[{"role":"user","content":"u"}"#,
            ),
            (r#"{"instructions":"s","input":"u"}"#, r#""s""u""#),
            (r#"{"prompt":"long"}"#, r#""long""#),
            (
                r#"{"contents":[{"role":"user","parts":[]},1]}"#,
                r#"[{"role":"user","parts":[]}"#,
            ),
            (r#"{"input":["a","b"]}"#, r#"["a","b"]"#),
            (r#"{"messages":[]}"#, "[]"),
        ] {
            assert_eq!(prefix(body, 1024).as_deref(), Some(expected), "{body}");
        }
        assert_eq!(prefix(r#"{"model":"m"}"#, 1024), None);
    }

    #[test]
    fn whom_it_asks_for_stands_in_several_places() {
        for (body, expected) in [
            (r#"{"user":"u","prompt_cache_key":"c"}"#, Some("u")),
            (
                r#"{"metadata":{"user_id":"m"},"prompt_cache_key":"c"}"#,
                Some("m"),
            ),
            (r#"{"user":"","prompt_cache_key":"c"}"#, Some("c")),
            (r#"{"user":5,"metadata":[]}"#, None),
            (r"{}", None),
        ] {
            let asked = request::read(body.as_bytes()).expect("sound");
            assert_eq!(
                asked.opening.user(body.as_bytes()).as_deref(),
                expected,
                "{body}"
            );
        }
    }
}

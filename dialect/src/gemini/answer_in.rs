//! An answer of Gemini's API, whole or streamed, read as events.
//!
//! Source: Google's API reference, "GenerateContentResponse", and the types of its SDK for Python. A
//! stream has no last word: its candidates have finished, and it ends. Some models say `finishReason` in
//! each piece, so that the last one counts.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::USAGE;
use super::error;
use super::partial::Partial;
use crate::ir::{Event, Failure, Finish, Logprob, Usage};
use crate::text::Text;
use crate::translate::{Reads, unreadable};

/// See the module.
#[derive(Debug, Default)]
pub struct Reader {
    started: bool,
    usage: Option<Usage>,
    candidates: Vec<Candidate>,
}

/// What is known of one candidate.
#[derive(Debug, Default)]
struct Candidate {
    index: u32,
    /// How many calls it has made.
    calls: u32,
    /// A call whose arguments come piece by piece.
    partial: Option<Partial>,
    finish: Option<Finish>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chunk<'a> {
    #[serde(borrow)]
    candidates: Option<Vec<CandidateSaid<'a>>>,
    prompt_feedback: Option<Feedback>,
    #[serde(borrow)]
    usage_metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    model_version: Option<Text<'a>>,
    #[serde(borrow)]
    response_id: Option<Text<'a>>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    block_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CandidateSaid<'a> {
    index: Option<u32>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
    logprobs_result: Option<Logprobs>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    parts: Option<Vec<Part<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    thought: Option<bool>,
    #[serde(borrow)]
    thought_signature: Option<Text<'a>>,
    #[serde(borrow)]
    function_call: Option<Call<'a>>,
    #[serde(borrow)]
    inline_data: Option<Blob<'a>>,
    #[serde(borrow)]
    file_data: Option<File<'a>>,
    #[serde(borrow)]
    executable_code: Option<Code<'a>>,
    #[serde(borrow)]
    code_execution_result: Option<Ran<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
    partial_args: Option<Vec<Value>>,
    will_continue: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob<'a> {
    #[serde(borrow)]
    mime_type: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    #[serde(borrow)]
    file_uri: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Code<'a> {
    #[serde(borrow)]
    code: Option<Text<'a>>,
    #[serde(borrow)]
    language: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Ran<'a> {
    #[serde(borrow)]
    output: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Logprobs {
    chosen_candidates: Option<Vec<Token>>,
    top_candidates: Option<Vec<Top>>,
}

#[derive(Deserialize)]
struct Top {
    candidates: Option<Vec<Token>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    token: Option<String>,
    log_probability: Option<f64>,
}

// === impl Reader ===

impl Reads for Reader {
    fn event(
        &mut self,
        _name: &[u8],
        data: &[u8],
        to: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Failure> {
        let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(|error| {
            unreadable(format!("an event of its stream can't be read: {error}"))
        })?;
        self.chunk(chunk, to);
        Ok(())
    }

    fn whole(&mut self, body: &[u8], to: &mut dyn FnMut(Event<'_>)) -> Result<(), Failure> {
        let cant =
            |error: serde_json::Error| unreadable(format!("its answer can't be read: {error}"));
        // A stream without `alt=sse` is one array.
        let chunks: Vec<Chunk<'_>> = match body.trim_ascii_start().first() {
            Some(b'[') => serde_json::from_slice(body).map_err(cant)?,
            _ => vec![serde_json::from_slice(body).map_err(cant)?],
        };
        let said =
            |chunk: &Chunk<'_>| chunk.candidates.is_some() || chunk.prompt_feedback.is_some();
        if let Some(error) = chunks.iter().find_map(|chunk| chunk.error.as_ref()) {
            return Err(error::read(0, error));
        }
        if !chunks.iter().any(said) {
            return Err(unreadable("its answer has no `candidates`"));
        }
        for chunk in chunks {
            self.chunk(chunk, to);
        }
        self.finish(to);
        to(Event::End);
        Ok(())
    }

    fn end(&mut self, to: &mut dyn FnMut(Event<'_>)) {
        if !self.candidates.is_empty() && self.candidates.iter().all(|it| it.finish.is_some()) {
            self.finish(to);
            to(Event::End);
        }
    }

    fn failure(&self, status: u16, body: &[u8]) -> Failure {
        error::of_body(status, body)
    }
}

impl Reader {
    fn chunk(&mut self, chunk: Chunk<'_>, to: &mut dyn FnMut(Event<'_>)) {
        if let Some(error) = chunk.error {
            to(Event::Failed(error::read(0, &error)));
            return;
        }
        if !std::mem::replace(&mut self.started, true) {
            let id = chunk.response_id.map(|it| it.0).filter(|it| !it.is_empty());
            let model = chunk
                .model_version
                .map(|it| it.0)
                .filter(|it| !it.is_empty());
            to(Event::Start {
                id,
                model,
                created: None,
            });
        }
        for (place, said) in chunk.candidates.into_iter().flatten().enumerate() {
            let index = said
                .index
                .unwrap_or(u32::try_from(place).unwrap_or(u32::MAX));
            self.candidate(index).take(said, to);
        }
        if chunk
            .prompt_feedback
            .is_some_and(|it| it.block_reason.is_some())
            && self.candidates.is_empty()
        {
            self.candidate(0).finish = Some(Finish::Filter);
        }
        let reported = chunk
            .usage_metadata
            .and_then(|raw| USAGE.sum(&USAGE.read(raw.get().as_bytes())));
        if let Some(reported) = reported {
            let updated = self
                .usage
                .map_or(reported, |before| before.updated(reported));
            self.usage = Some(updated);
            to(Event::Usage(updated));
        }
    }

    fn candidate(&mut self, index: u32) -> &mut Candidate {
        let at = match self.candidates.iter().position(|it| it.index == index) {
            Some(at) => at,
            None => {
                self.candidates.push(Candidate {
                    index,
                    ..Candidate::default()
                });
                self.candidates.len() - 1
            }
        };
        &mut self.candidates[at]
    }

    /// Says how each candidate ended.
    fn finish(&mut self, to: &mut dyn FnMut(Event<'_>)) {
        for it in &mut self.candidates {
            it.end_partial(to);
            let reason = match it.finish.take().unwrap_or(Finish::Other) {
                Finish::Stop if it.calls > 0 => Finish::Calls,
                reason => reason,
            };
            to(Event::Finish {
                choice: it.index,
                reason,
                stop: None,
            });
        }
    }
}

impl Candidate {
    fn take(&mut self, said: CandidateSaid<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let parts = said.content.and_then(|content| content.parts);
        for part in parts.into_iter().flatten() {
            self.part(part, to);
        }
        if let Some(tokens) = said
            .logprobs_result
            .map(logprobs)
            .filter(|it| !it.is_empty())
        {
            let choice = self.index;
            to(Event::Logprobs { choice, tokens });
        }
        if let Some(reason) = said.finish_reason.filter(|it| !it.0.is_empty()) {
            self.finish = Some(finish(&reason.0));
        }
    }

    fn part(&mut self, part: Part<'_>, to: &mut dyn FnMut(Event<'_>)) {
        let choice = self.index;
        let signature = part.thought_signature.map(|it| it.0);
        let mut signature = signature.filter(|it| !it.is_empty());
        if let Some(call) = part.function_call {
            self.call(call, signature, to);
            return;
        }
        let thought = part.thought == Some(true);
        if let Some(text) = part.text.filter(|it| !it.0.is_empty()) {
            let text = text.0;
            if thought {
                to(Event::Reasoning { choice, text });
            } else {
                // It seals the thoughts that led to this text.
                if let Some(signature) = signature.take() {
                    to(Event::Signature { choice, signature });
                }
                to(Event::Text { choice, text });
            }
        }
        if let Some(signature) = signature {
            to(Event::Signature { choice, signature });
        }
        // Pictures of a thought are sketches.
        if let Some(Blob {
            mime_type: Some(media_type),
            data: Some(data),
        }) = part.inline_data.filter(|_| !thought)
        {
            to(Event::Media {
                choice,
                media_type: media_type.0,
                base64: data.0,
            });
        }
        let mut text = |text: String| {
            let text = Cow::Owned(text);
            to(Event::Text { choice, text });
        };
        if let Some(uri) = part.file_data.and_then(|it| it.file_uri) {
            text(uri.0.into_owned());
        }
        if let Some(code) = part.executable_code {
            let language = code.language.unwrap_or_default().0.to_ascii_lowercase();
            text(fenced(&language, &code.code.unwrap_or_default().0));
        }
        if let Some(ran) = part.code_execution_result {
            text(fenced("", &ran.output.unwrap_or_default().0));
        }
    }

    fn call(
        &mut self,
        said: Call<'_>,
        signature: Option<Cow<'_, str>>,
        to: &mut dyn FnMut(Event<'_>),
    ) {
        let choice = self.index;
        if let Some(name) = said.name.filter(|it| !it.0.is_empty()) {
            self.end_partial(to);
            to(Event::Call {
                choice,
                call: self.calls,
                id: said.id.map(|it| it.0).unwrap_or_default(),
                name: name.0,
                signature,
            });
            self.calls += 1;
            let continues = said.will_continue == Some(true);
            match said.args {
                Some(args) if !continues && said.partial_args.is_none() => {
                    let (call, text) = (self.calls - 1, compact(args.get()));
                    to(Event::Arguments { choice, call, text });
                    return;
                }
                args => self.partial = Some(Partial::new(args.map(RawValue::get))),
            }
        }
        if let Some(partial) = &mut self.partial {
            for piece in said.partial_args.into_iter().flatten() {
                partial.take(&piece);
            }
            if said.will_continue != Some(true) {
                self.end_partial(to);
            }
        }
    }

    fn end_partial(&mut self, to: &mut dyn FnMut(Event<'_>)) {
        if let Some(partial) = self.partial.take() {
            to(Event::Arguments {
                choice: self.index,
                call: self.calls.saturating_sub(1),
                text: Cow::Owned(partial.into_text()),
            });
        }
    }
}

fn fenced(language: &str, code: &str) -> String {
    let line = if code.ends_with('\n') { "" } else { "\n" };
    format!("```{language}\n{code}{line}```\n")
}

/// JSON without the white space in which whole answers are laid out.
fn compact(json: &str) -> Cow<'_, str> {
    if !json.contains('\n') {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len());
    let (mut quoted, mut escaped) = (false, false);
    for it in json.chars() {
        match it {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' | '\r' | '\n' if !quoted => continue,
            _ => {}
        }
        out.push(it);
    }
    Cow::Owned(out)
}

fn logprobs(said: Logprobs) -> Vec<Logprob> {
    let one = |it: Token| {
        Some(Logprob {
            token: it.token?,
            logprob: it.log_probability.unwrap_or(0.0),
            bytes: None,
            top: Vec::new(),
        })
    };
    let mut tops = said.top_candidates.into_iter().flatten();
    let chosen = said.chosen_candidates.into_iter().flatten();
    chosen
        .filter_map(|token| {
            let top = tops.next().and_then(|it| it.candidates);
            let mut token = one(token)?;
            token.top = top.into_iter().flatten().filter_map(one).collect();
            Some(token)
        })
        .collect()
}

/// Gemini's words for why an answer ended.
pub fn finish(word: &str) -> Finish {
    match word {
        "STOP" => Finish::Stop,
        "MAX_TOKENS" => Finish::Length,
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION"
        | "MODEL_ARMOR" => Finish::Filter,
        // OTHER, MALFORMED_FUNCTION_CALL, UNEXPECTED_TOOL_CALL, NO_IMAGE and what comes yet.
        _ => Finish::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str) -> Vec<Event<'static>> {
        let (mut reader, mut events) = (Reader::default(), Vec::new());
        for line in answer.lines() {
            let mut to = |event: Event<'_>| events.push(event.into_owned());
            reader
                .event(b"", line.as_bytes(), &mut to)
                .expect("an event");
        }
        reader.end(&mut |event| events.push(event.into_owned()));
        events
    }

    #[test]
    fn arguments_in_pieces_become_one_object() {
        let events = read(concat!(
            r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","willContinue":true},"thoughtSignature":"c2ln"}]}}]}"#,
            "\n",
            r#"{"candidates":[{"content":{"parts":[{"functionCall":{"partialArgs":[{"jsonPath":"$.at.city","stringValue":"Pa","willContinue":true}],"willContinue":true}}]}}]}"#,
            "\n",
            r#"{"candidates":[{"content":{"parts":[{"functionCall":{"partialArgs":[{"jsonPath":"$.at.city","stringValue":"ris"},{"jsonPath":"$.days[1]","numberValue":2}],"willContinue":true}}]}}]}"#,
            "\n",
            r#"{"candidates":[{"content":{"parts":[{"functionCall":{}}]},"finishReason":"STOP"}]}"#,
        ));
        let arguments = events.iter().find_map(|event| match event {
            Event::Arguments { text, .. } => Some(&**text),
            _ => None,
        });
        assert_eq!(
            arguments,
            Some(r#"{"at":{"city":"Paris"},"days":[null,2]}"#)
        );
        assert!(matches!(
            events[events.len() - 2],
            Event::Finish {
                reason: Finish::Calls,
                ..
            }
        ));
        assert_eq!(events.last(), Some(&Event::End));
    }

    #[test]
    fn a_blocked_prompt_is_filtered() {
        let events = read(
            r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":4}}"#,
        );
        assert!(events.contains(&Event::Finish {
            choice: 0,
            reason: Finish::Filter,
            stop: None
        }));
    }

    #[test]
    fn a_stream_without_a_finish_was_cut() {
        let events = read(r#"{"candidates":[{"content":{"parts":[{"text":"Hel"}]}}]}"#);
        assert!(!events.contains(&Event::End), "{events:?}");
    }

    #[test]
    fn only_the_last_of_several_finishes_counts() {
        let events = read(concat!(
            r#"{"candidates":[{"content":{"parts":[{"text":"Hel"}]},"finishReason":"STOP"}]}"#,
            "\n",
            r#"{"candidates":[{"content":{"parts":[{"text":"lo"}]},"finishReason":"MAX_TOKENS"}]}"#,
        ));
        let finishes: Vec<_> = (events.iter())
            .filter(|event| matches!(event, Event::Finish { .. }))
            .collect();
        assert_eq!(
            finishes,
            [&Event::Finish {
                choice: 0,
                reason: Finish::Length,
                stop: None
            }]
        );
    }

    #[test]
    fn a_laid_out_object_loses_only_its_white_space() {
        assert_eq!(
            compact("{\n  \"a b\": \"c \\\" d\\n\"\n}"),
            "{\"a b\":\"c \\\" d\\n\"}"
        );
    }
}

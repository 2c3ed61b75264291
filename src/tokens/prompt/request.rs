//! The fields of a request, by dialect: which hold the prompt, and which the tools.

use std::fmt::Display;

use serde::de::{MapAccess, SeqAccess};

use super::functions::{Format, Tools};
use super::messages::{Content, Document, Images, Messages};
use super::shape::{Shape, each, key, skip, value};
use super::written::Written;
use super::{Api, Tally};

/// A request as far as it was read.
pub(super) struct Request {
    api: Api,
    tally: Tally,
    /// Whether there was a field that is a prompt.
    known: bool,
    /// Whether one of them is answered with text.
    answered: bool,
    /// Whether there was a function to call.
    functions: bool,
    /// Prompts, each of which is answered.
    prompts: u64,
}

/// What a field is.
enum Field {
    /// Messages, after which the answer begins.
    Messages,
    /// Text or parts that are a message of their own: instructions.
    System,
    /// Texts that are the prompt.
    Input,
    /// Texts that are embedded or ranked; of a chat, documents beside the messages.
    Embedded,
    /// Texts beside it.
    Beside,
    /// Parts that are embedded.
    Content,
    Images,
    Tools,
    /// The shape that the answer must have.
    Format,
    /// The same, as a schema alone.
    Schema,
    /// More of the prompt, in a form of its own: an earlier conversation, documents, a template.
    Written,
    /// What only the server has of the prompt.
    Elsewhere,
    /// An object with more fields of this list, or a list of such.
    Inner,
}

/// What a field of a dialect holds; `None` for the many that don't matter.
fn field(api: Api, key: &str) -> Option<Field> {
    use Api::*;
    Some(match (api, key) {
        (Chat | Messages | Ollama | DashScope | Cohere | Converse, "messages")
        | (Responses, "input")
        | (Gemini, "contents") => Field::Messages,
        (Responses, "instructions")
        | (Messages | Ollama | Converse, "system")
        | (Gemini, "systemInstruction" | "system_instruction") => Field::System,
        (Completions | Ollama | DashScope, "prompt") | (Cohere, "message") => Field::Input,
        (Embeddings, "input" | "prompt")
        | (DashScope | Cohere, "texts" | "documents" | "query") => Field::Embedded,
        (Completions | Ollama, "suffix") | (Ollama, "context") => Field::Beside,
        // Gemini's embeddings, Cohere's, DashScope's of several kinds.
        (Gemini, "content") | (Cohere, "inputs") | (DashScope, "contents") => Field::Content,
        (Ollama | Cohere, "images") => Field::Images,
        (_, "tools" | "functions") => Field::Tools,
        (_, "response_format") | (Responses, "text") => Field::Format,
        (Gemini, "generationConfig" | "generation_config" | "requests")
        | (DashScope, "input" | "parameters")
        | (Converse, "toolConfig") => Field::Inner,
        (Gemini, "responseSchema" | "responseJsonSchema") => Field::Schema,
        (Chat, "documents" | "chat_template")
        | (Ollama, "template")
        | (Cohere, "chat_history" | "preamble")
        | (DashScope, "history") => Field::Written,
        (Responses, "previous_response_id" | "conversation" | "prompt")
        | (Gemini, "cachedContent" | "cached_content")
        | (Messages, "container" | "mcp_servers")
        | (Chat, "web_search_options" | "prediction") => Field::Elsewhere,
        _ => return None,
    })
}

impl Request {
    pub(super) fn new(api: Api, tally: Tally) -> Self {
        Self {
            api,
            tally,
            known: false,
            answered: false,
            functions: false,
            prompts: 1,
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// How many prompts will be answered with text: none where all there is will be embedded or ranked.
    pub(super) fn prompts(&self) -> u64 {
        match self.known && !self.answered {
            true => 0,
            false => self.prompts,
        }
    }

    pub(super) fn into_tally(mut self) -> Tally {
        if self.functions {
            self.tally.guess();
            self.tally.add(self.tally.family.overhead.functions.into());
        }
        self.tally
    }

    fn read<'de, O: MapAccess<'de>>(
        &mut self,
        field: Field,
        object: &mut O,
    ) -> Result<(), O::Error> {
        let tally = &mut self.tally;
        match field {
            Field::Messages => {
                (self.known, self.answered) = (true, true);
                tally.add(tally.family.overhead.reply.into());
                value(object, &mut Messages(tally))
            }
            Field::System => {
                tally.add_message();
                value(object, &mut Content(tally))
            }
            Field::Input => {
                (self.known, self.answered) = (true, true);
                let mut input = Input::of(tally);
                value(object, &mut input)?;
                if self.api == Api::Completions {
                    self.prompts = input.prompts();
                }
                Ok(())
            }
            Field::Embedded => {
                self.known = true;
                value(object, &mut Input::of(tally))
            }
            Field::Beside => value(object, &mut Input::of(tally)),
            Field::Content => {
                self.known = true;
                value(object, &mut Content(tally))
            }
            Field::Images => {
                self.known |= self.api == Api::Cohere;
                value(object, &mut Images(tally))
            }
            Field::Tools => {
                let mut tools = Tools { tally, any: false };
                value(object, &mut tools)?;
                self.functions |= tools.any;
                Ok(())
            }
            Field::Format => value(object, &mut Format(tally)),
            Field::Schema | Field::Written => {
                tally.guess();
                value(object, &mut Written(tally))
            }
            Field::Elsewhere => {
                let mut said = Said(false);
                value(object, &mut said)?;
                if said.0 {
                    tally.guess();
                }
                Ok(())
            }
            Field::Inner => value(object, self),
        }
    }
}

impl Shape for Request {
    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, self)
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        while let Some(key) = key(&mut object)? {
            match field(self.api, &key) {
                Some(field) => self.read(field, &mut object)?,
                None => skip(&mut object)?,
            }
        }
        Ok(())
    }
}

/// A text, texts, token numbers, or lists of token numbers; of documents also objects.
struct Input<'t> {
    tally: &'t mut Tally,
    texts: u64,
    lists: u64,
}

impl<'t> Input<'t> {
    fn of(tally: &'t mut Tally) -> Self {
        Self {
            tally,
            texts: 0,
            lists: 0,
        }
    }

    /// How many prompts these are: each text is one, and each list of numbers.
    fn prompts(&self) -> u64 {
        // The list that holds everything is none, unless numbers stand in it.
        let lists = self.lists.saturating_sub(1);
        (self.texts + lists).max(1)
    }
}

impl Shape for Input<'_> {
    fn text(&mut self, text: &str) {
        self.texts += 1;
        self.tally.add_text(text);
    }

    fn number(&mut self, _: &dyn Display) {
        self.tally.add(1);
    }

    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        self.lists += 1;
        each(list, self)
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, object: O) -> Result<(), O::Error> {
        Document(self.tally).object(object)
    }
}

/// Whether there is anything but `null` or the like.
struct Said(bool);

impl Shape for Said {
    fn text(&mut self, text: &str) {
        self.0 |= !text.is_empty();
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        self.0 = true;
        while key(&mut object)?.is_some() {
            skip(&mut object)?;
        }
        Ok(())
    }

    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, self)
    }
}

//! The definitions of functions that a model may call, and of the shape that its answer must have.

use std::borrow::Cow;
use std::fmt::Display;

use serde::de::{MapAccess, SeqAccess};

use super::Tally;
use super::messages::Plain;
use super::shape::{Read, Shape, each, key, skip, value};
use super::written::{Words, Written};

/// Before the properties of an object, and for each of them.
const PROPERTIES: u64 = 3;
const PROPERTY: u64 = 3;
/// For each value of an enumeration, which itself saves so many.
const CHOICE: u64 = 3;
const CHOICES_SAVE: u64 = 3;

/// `tools` (each holds a function) or the older `functions` (each is one). Gemini's hold lists of
/// them, Bedrock's each a specification.
pub(super) struct Tools<'t> {
    pub tally: &'t mut Tally,
    /// Whether there was one.
    pub any: bool,
}

impl Shape for Tools<'_> {
    fn list<'de, L: SeqAccess<'de>>(&mut self, mut list: L) -> Result<(), L::Error> {
        while list
            .next_element_seed(Read(&mut Function::of(self.tally)))?
            .is_some()
        {
            self.any = true;
        }
        Ok(())
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, object: O) -> Result<(), O::Error> {
        self.any = true;
        Function::of(self.tally).object(object)
    }
}

/// What `response_format` says of the answer's shape: its name, and its schema as it is written. No
/// rule is published; this one is near what is billed.
pub(super) struct Format<'t>(pub &'t mut Tally);

impl Shape for Format<'_> {
    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        while let Some(key) = key(&mut object)? {
            match &*key {
                // OpenAI's chat has the first, its Responses the second.
                "json_schema" | "format" => value(&mut object, self)?,
                "name" | "description" => value(&mut object, &mut Plain(self.0))?,
                "schema" => {
                    self.0.guess();
                    value(&mut object, &mut Written(self.0))?;
                }
                _ => skip(&mut object)?,
            }
        }
        Ok(())
    }
}

/// A function's definition, or `{"function": …}`. Rendered as `name:description` and a line for
/// each parameter.
struct Function<'t> {
    tally: &'t mut Tally,
    wrapped: bool,
}

impl<'t> Function<'t> {
    fn of(tally: &'t mut Tally) -> Self {
        Self {
            tally,
            wrapped: false,
        }
    }
}

impl Shape for Function<'_> {
    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, self)
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        let (mut name, mut description) = (Words::default(), Words::default());
        while let Some(key) = key(&mut object)? {
            match &*key {
                "function" | "functionDeclarations" | "function_declarations" | "toolSpec" => {
                    self.wrapped = true;
                    value(&mut object, &mut Function::of(self.tally))?;
                }
                "name" => value(&mut object, &mut name)?,
                "description" => value(&mut object, &mut description)?,
                "parameters"
                | "input_schema"
                | "parametersJsonSchema"
                | "inputSchema"
                | "parameter_definitions" => value(&mut object, &mut Schema(self.tally))?,
                _ => skip(&mut object)?,
            }
        }
        if !self.wrapped {
            self.tally.add(self.tally.family.overhead.function.into());
            let line = match description.sentence() {
                "" => name.0,
                sentence => format!("{}:{sentence}", name.0),
            };
            self.tally.add_text(&line);
        }
        Ok(())
    }
}

/// A JSON schema. OpenAI's rule speaks of one level of properties; deeper ones are counted alike.
struct Schema<'t>(&'t mut Tally);

impl Shape for Schema<'_> {
    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, self)
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        while let Some(key) = key(&mut object)? {
            if is_nested(&key) {
                nested(&key, &mut object, self.0)?;
            } else {
                skip(&mut object)?;
            }
        }
        Ok(())
    }
}

fn is_nested(key: &str) -> bool {
    matches!(
        key,
        "properties" | "$defs" | "definitions" | "items" | "anyOf" | "oneOf" | "allOf" | "json"
    )
}

fn nested<'de, O: MapAccess<'de>>(
    key: &str,
    object: &mut O,
    tally: &mut Tally,
) -> Result<(), O::Error> {
    match key {
        "properties" | "$defs" | "definitions" => value(object, &mut Properties(tally)),
        _ => value(object, &mut Schema(tally)),
    }
}

struct Properties<'t>(&'t mut Tally);

impl Shape for Properties<'_> {
    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        let mut any = false;
        while let Some(name) = key(&mut object)? {
            any = true;
            value(
                &mut object,
                &mut Property {
                    tally: self.0,
                    name,
                },
            )?;
        }
        if any {
            self.0.add(PROPERTIES);
        }
        Ok(())
    }
}

/// Rendered as `name:type:description`.
struct Property<'t, 'n> {
    tally: &'t mut Tally,
    name: Cow<'n, str>,
}

impl Shape for Property<'_, '_> {
    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        let (mut kind, mut description) = (Words::default(), Words::default());
        while let Some(key) = key(&mut object)? {
            match &*key {
                "type" => value(&mut object, &mut kind)?,
                "description" => value(&mut object, &mut description)?,
                "enum" => {
                    let mut choices = Choices {
                        tally: self.tally,
                        count: 0,
                    };
                    value(&mut object, &mut choices)?;
                    let saved = if choices.count > 0 { CHOICES_SAVE } else { 0 };
                    self.tally.fixed -= saved;
                }
                key if is_nested(key) => nested(key, &mut object, self.tally)?,
                _ => skip(&mut object)?,
            }
        }
        self.tally.add(PROPERTY);
        let line = format!("{}:{}:{}", self.name, kind.0, description.sentence());
        self.tally.add_text(&line);
        Ok(())
    }
}

struct Choices<'t> {
    tally: &'t mut Tally,
    count: u64,
}

impl Shape for Choices<'_> {
    fn text(&mut self, text: &str) {
        self.count += 1;
        self.tally.add(CHOICE);
        self.tally.add_text(text);
    }

    fn number(&mut self, _: &dyn Display) {
        self.count += 1;
        self.tally.add(CHOICE + 1);
    }

    fn list<'de, L: SeqAccess<'de>>(&mut self, list: L) -> Result<(), L::Error> {
        each(list, self)
    }
}

//! A JSON object that is read field by field: what nobody took is what nobody understands.

use serde_json::{Map, Value};

use crate::ir::{Said, Unfit};

/// The members of an object at a place of the client's request.
#[derive(Debug)]
pub struct Fields {
    /// Empty for the outermost object.
    at: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Parses a request's body.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub fn of_body(body: &[u8]) -> Result<Self, Unfit> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self {
                at: String::new(),
                map,
            }),
            Ok(_) => Err(invalid("body", "must be a JSON object")),
            Err(error) => Err(invalid("body", &format!("is no valid JSON ({error})"))),
        }
    }

    /// The members of `value`, which stands at `at`.
    ///
    /// # Errors
    /// When it is no object.
    pub fn of(at: String, value: Value) -> Result<Self, Unfit> {
        match value {
            Value::Object(map) => Ok(Self { at, map }),
            _ => Err(invalid(&at, "must be an object")),
        }
    }

    /// The place of a member, as the client would name it.
    pub fn at(&self, name: &str) -> String {
        match self.at.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.at),
        }
    }

    /// The place of the object itself.
    pub fn here(&self) -> &str {
        &self.at
    }

    /// Takes a member; `null` is as good as none.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Looks at a member without taking it.
    pub fn look(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Takes a string.
    ///
    /// # Errors
    /// When it is none.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Unfit> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(&self.at(name), "must be a string")),
        }
    }

    /// Takes a string that must be there.
    ///
    /// # Errors
    /// When it isn't.
    pub fn needed_text(&mut self, name: &str) -> Result<String, Unfit> {
        let at = self.at(name);
        self.text(name)?.ok_or_else(|| invalid(&at, "is missing"))
    }

    /// Takes a whole number of 0 or more.
    ///
    /// # Errors
    /// When it is none.
    pub fn whole(&mut self, name: &str) -> Result<Option<Said<u64>>, Unfit> {
        self.said(name, "must be a whole number of 0 or more", |value| {
            let exact = |number: f64| {
                (number.fract() == 0.0 && (0.0..9e15).contains(&number)).then_some(number as u64)
            };
            value.as_u64().or_else(|| exact(value.as_f64()?))
        })
    }

    /// Takes a number.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(&mut self, name: &str) -> Result<Option<Said<f64>>, Unfit> {
        self.said(name, "must be a number", Value::as_f64)
    }

    /// Takes a truth value.
    ///
    /// # Errors
    /// When it is none.
    pub fn boolean(&mut self, name: &str) -> Result<Option<Said<bool>>, Unfit> {
        self.said(name, "must be true or false", Value::as_bool)
    }

    /// Takes a string with its place.
    ///
    /// # Errors
    /// When it is none.
    pub fn said_text(&mut self, name: &str) -> Result<Option<Said<String>>, Unfit> {
        self.said(name, "must be a string", |value| {
            value.as_str().map(str::to_owned)
        })
    }

    /// Takes what `read` makes of a member.
    ///
    /// # Errors
    /// When it makes nothing of it; `what` says what it should have been.
    pub fn said<T>(
        &mut self,
        name: &str,
        what: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<Said<T>>, Unfit> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let at = self.at(name);
        match read(&value) {
            Some(value) => Ok(Some(Said::new(at, value))),
            None => Err(invalid(&at, what)),
        }
    }

    /// Takes a list.
    ///
    /// # Errors
    /// When it is none.
    pub fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, Unfit> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(invalid(&self.at(name), "must be a list")),
        }
    }

    /// Takes the objects of a list, each with its place.
    ///
    /// # Errors
    /// When it is no list, or has something else.
    pub fn objects(&mut self, name: &str) -> Result<Vec<Fields>, Unfit> {
        let at = self.at(name);
        let list = self.list(name)?.unwrap_or_default();
        (list.into_iter().enumerate())
            .map(|(index, value)| Fields::of(format!("{at}[{index}]"), value))
            .collect()
    }

    /// Takes an object.
    ///
    /// # Errors
    /// When it is none.
    pub fn object(&mut self, name: &str) -> Result<Option<Fields>, Unfit> {
        let at = self.at(name);
        self.take(name)
            .map(|value| Fields::of(at, value))
            .transpose()
    }

    /// Puts back what of a member nobody took.
    pub fn leave(&mut self, name: &str, rest: Fields) {
        if !rest.map.is_empty() {
            self.map.insert(name.to_owned(), Value::Object(rest.map));
        }
    }

    /// Drops a member that says what is so anyway.
    pub fn neutral(&mut self, name: &str, is: impl FnOnce(&Value) -> bool) {
        if self.map.get(name).is_some_and(is) {
            self.map.shift_remove(name);
        }
    }

    /// The members that nobody took.
    pub fn into_map(self) -> Map<String, Value> {
        self.map
    }

    /// All that nobody took, but for `null`s.
    pub fn rest(self) -> impl Iterator<Item = Said<Value>> {
        let at = self.at;
        self.map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(move |(name, value)| {
                let at = match at.is_empty() {
                    true => name,
                    false => format!("{at}.{name}"),
                };
                Said::new(at, value)
            })
    }
}

/// A request that is wrong at `at`.
pub fn invalid(at: &str, what: &str) -> Unfit {
    Unfit::Invalid {
        at: at.to_owned(),
        what: what.to_owned(),
    }
}

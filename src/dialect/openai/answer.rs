//! Reads answers as they pass: which text was said for which choice, the usage, the end.
//!
//! One reader serves both kinds of answer: a whole event of a stream (places are offsets in the
//! event, so that usage can be cut out), and a JSON body that comes in any pieces and is never
//! held. It follows only the members that matter and skips everything else by brackets and
//! strings. It is lenient: what is not JSON says nothing. Keys that a server writes with escapes
//! are not known to it; none does.
//!
//! ```text
//! root ─ choices[] ─ choice ─ delta|message ─ content, reasoning, refusal, tool_calls[] ─ function
//!      ├ usage              └ text, index, finish_reason
//!      ├ response, x_groq ─ usage
//!      └ error, type
//! ```

mod facts;
pub mod glance;
mod roles;
#[cfg(test)]
mod tests;

use memchr::memchr2;

pub use self::facts::{Choices, Facts, Field, Text};

use self::facts::Marks;
use self::roles::{Node, Role, element, role};
use crate::dialect::json::STRUCTURE;
use crate::dialect::openai::usage::Reported;

/// What kind of bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A whole event; choices and tool calls say their index themselves.
    Event,
    /// Pieces of a body; choices and tool calls are what their position says.
    Body,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Reader {
    kind: Kind,
    lex: Lex,
    role: Role,
    nodes: [Node; NODES_MAX],
    depth: u8,
    /// The last byte was a backslash inside a string.
    escaped: bool,
    /// Brackets that are open inside a skipped value.
    skipped: u32,
    /// The name or word being read; longer ones than fit are known to nobody.
    word: [u8; WORD_MAX],
    word_len: u8,
    number: u32,
    scalar: u8,
    string_at: usize,
    key_at: usize,
    comma_at: usize,
    kept: bool,
    cut_open: bool,
    choice: Place,
    /// The current choice has its `finish_reason`.
    finishing: bool,
    call: Place,
    /// The `usage` object as far as it came.
    usage: Vec<u8>,
    facts: Facts,
    marks: Marks,
}

/// Position and index of the current element, and where its texts begin.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    position: u32,
    index: u32,
    texts: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lex {
    Value,
    Key,
    InKey,
    Colon,
    After,
    String,
    Scalar,
    Skip,
    SkipString,
    Closed,
    Broken,
}

/// A longer `usage` object is not one, but an ordinary member; real ones are below 1 KiB.
pub const USAGE_BYTES_MAX: usize = 16 * 1024;
/// Room that is taken at once.
const USAGE_BYTES_USUAL: usize = 256;
const NODES_MAX: usize = 12;
const WORD_MAX: usize = 24;

// === impl Reader ===

impl Reader {
    /// Reads the events of a stream, one after the other.
    pub fn of_events() -> Reader {
        Reader::new(Kind::Event)
    }

    /// Reads one JSON body.
    pub fn of_body() -> Reader {
        Reader::new(Kind::Body)
    }

    /// A new event begins; which choices finished is remembered.
    pub fn begin(&mut self) {
        self.lex = Lex::Value;
        self.role = Role::Root;
        self.depth = 0;
        self.escaped = false;
        self.skipped = 0;
        self.kept = false;
        self.cut_open = false;
        self.facts.clear();
    }

    /// What was said.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Each choice that began has finished, and at least one did.
    pub fn all_finished(&self) -> bool {
        self.marks.all_finished()
    }

    /// Reads `bytes`, whose first one has offset `base`. In a body the places of
    /// [`Facts::texts`] belong to this push alone.
    pub fn push(&mut self, base: usize, bytes: &[u8]) {
        if self.kind == Kind::Body {
            self.facts.texts.clear();
            self.string_at = base;
        }
        let mut at = 0;
        while at < bytes.len() {
            at = match self.lex {
                Lex::Closed | Lex::Broken => break,
                Lex::Skip => self.skip(base, bytes, at),
                Lex::InKey | Lex::String | Lex::SkipString => self.string(base, bytes, at),
                Lex::Scalar => self.scalar(base, bytes, at),
                Lex::Value | Lex::Key | Lex::Colon | Lex::After => {
                    match bytes[at] {
                        b' ' | b'\n' | b'\r' | b'\t' => {}
                        byte => self.mark(base + at, byte),
                    }
                    at + usize::from(self.lex != Lex::Scalar)
                }
            };
        }
        if self.kind == Kind::Body && self.lex == Lex::String {
            self.text_until(base + bytes.len());
        }
    }

    fn new(kind: Kind) -> Reader {
        Reader {
            kind,
            lex: Lex::Value,
            role: Role::Root,
            nodes: [Node::Root; NODES_MAX],
            depth: 0,
            escaped: false,
            skipped: 0,
            word: [0; WORD_MAX],
            word_len: 0,
            number: 0,
            scalar: 0,
            string_at: 0,
            key_at: 0,
            comma_at: 0,
            kept: false,
            cut_open: false,
            choice: Place::default(),
            finishing: false,
            call: Place::default(),
            usage: Vec::new(),
            facts: Facts::nothing(),
            marks: Marks::default(),
        }
    }

    /// One structural byte at offset `at`.
    fn mark(&mut self, at: usize, byte: u8) {
        match (self.lex, byte) {
            (Lex::Value, b'"') => {
                self.word_len = 0;
                self.string_at = at + 1;
                self.lex = match self.role {
                    Role::Text(_) | Role::Type | Role::Padding => Lex::String,
                    _ => Lex::SkipString,
                };
            }
            (Lex::Value, b'{' | b'[') => self.open(byte),
            (Lex::Key, b'"') => {
                self.word_len = 0;
                self.key_at = at;
                self.lex = Lex::InKey;
                if std::mem::take(&mut self.cut_open) {
                    self.extend_cut(at);
                }
            }
            (Lex::Colon, b':') => {
                let word = self
                    .word
                    .get(..usize::from(self.word_len))
                    .unwrap_or_default();
                self.role = self.node().map_or(Role::Other, |node| role(node, word));
                self.lex = Lex::Value;
            }
            (Lex::After, b',') => {
                self.comma_at = at;
                self.next_element();
            }
            (Lex::Value | Lex::Key | Lex::After, b'}' | b']') => self.close(at),
            (Lex::Value, b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                self.scalar = byte;
                self.number = 0;
                self.lex = Lex::Scalar;
            }
            _ => self.lex = Lex::Broken,
        }
    }

    fn node(&self) -> Option<Node> {
        self.nodes
            .get(usize::from(self.depth).checked_sub(1)?)
            .copied()
    }

    fn open(&mut self, byte: u8) {
        let object = byte == b'{';
        let node = match (self.role, object) {
            (Role::Root, true) => Some(Node::Root),
            (Role::Choices, false) => Some(Node::Choices),
            (Role::Choice, true) => Some(Node::Choice),
            (Role::Delta, true) => Some(Node::Delta),
            (Role::Calls, false) => Some(Node::Calls),
            (Role::Call, true) => Some(Node::Call),
            (Role::Function, true) => Some(Node::Function),
            (Role::Text(field), false) => Some(Node::Parts(field)),
            (Role::Part(field), true) => Some(Node::Part(field)),
            (Role::Holder, true) => Some(Node::Holder),
            _ => None,
        };
        let texts = self.facts.texts.len();
        match node {
            Some(node) if usize::from(self.depth) < NODES_MAX => {
                self.nodes[usize::from(self.depth)] = node;
                self.depth += 1;
                match node {
                    Node::Choices => {
                        self.facts.choices = Choices::Empty;
                        self.choice.position = 0;
                    }
                    Node::Choice => {
                        self.facts.choices = Choices::Some;
                        self.choice.index = self.choice.position;
                        self.choice.texts = texts;
                        self.finishing = false;
                    }
                    Node::Calls => self.call.position = 0,
                    Node::Call => {
                        self.call.index = self.call.position;
                        self.call.texts = texts;
                    }
                    // The function of old is a call without an index.
                    Node::Function if self.under(Node::Delta) => self.call = Place::default(),
                    _ => {}
                }
                self.lex = if object { Lex::Key } else { Lex::Value };
                self.role = element(node);
            }
            _ => {
                if self.role == Role::Error {
                    self.facts.error = true;
                }
                if self.role == Role::Usage {
                    self.usage.clear();
                    self.usage.reserve(USAGE_BYTES_USUAL);
                    self.keep_usage(&[byte]);
                }
                self.skipped = 1;
                self.lex = Lex::Skip;
            }
        }
    }

    /// Whether the container around the current one is `node`.
    fn under(&self, node: Node) -> bool {
        usize::from(self.depth)
            .checked_sub(2)
            .is_some_and(|around| self.nodes[around] == node)
    }

    fn next_element(&mut self) {
        match self.node() {
            Some(node @ (Node::Choices | Node::Calls | Node::Parts(_))) => {
                match node {
                    Node::Choices => self.choice.position += 1,
                    Node::Calls => self.call.position += 1,
                    _ => {}
                }
                self.role = element(node);
                self.lex = Lex::Value;
            }
            Some(_) => self.lex = Lex::Key,
            None => self.lex = Lex::Broken,
        }
    }

    fn close(&mut self, at: usize) {
        let Some(node) = self.node() else {
            self.lex = Lex::Broken;
            return;
        };
        self.depth -= 1;
        if self.kind == Kind::Event {
            match node {
                Node::Choice => {
                    let choice = self.choice;
                    for text in &mut self.facts.texts[choice.texts..] {
                        text.choice = choice.index;
                    }
                }
                Node::Call => {
                    let call = self.call;
                    for text in &mut self.facts.texts[call.texts..] {
                        text.field = Field::Arguments(call.index);
                    }
                }
                _ => {}
            }
        }
        if node == Node::Choice {
            self.marks.choice(self.choice.index, self.finishing);
        }
        self.role = Role::Other;
        self.value_ended(at + 1);
    }

    /// A value ended before offset `end`.
    fn value_ended(&mut self, end: usize) {
        self.lex = Lex::After;
        match (self.depth, self.role) {
            (0, _) => {
                self.facts.closed = true;
                self.lex = Lex::Closed;
            }
            (1, Role::Usage) => self.cut(end),
            (1, _) => self.kept = true,
            _ => {}
        }
    }

    /// The `usage` member that ends at `end` and the comma that would be left over.
    fn cut(&mut self, end: usize) {
        let start = if self.kept {
            self.comma_at
        } else {
            self.key_at
        };
        self.cut_open = !self.kept;
        if let Some(free) = self.facts.usage_at.iter_mut().find(|cut| cut.is_none()) {
            *free = Some((start, end));
        }
    }

    /// Nothing stands before the cut member, so the comma after it goes too.
    fn extend_cut(&mut self, end: usize) {
        if let Some((_, last)) = self.facts.usage_at.iter_mut().flatten().last() {
            *last = end;
        }
    }

    /// Reads on in a string; gives the offset in `bytes` to go on from.
    fn string(&mut self, base: usize, bytes: &[u8], mut at: usize) -> usize {
        let from = at;
        loop {
            if self.escaped && at < bytes.len() {
                self.escaped = false;
                at += 1;
            }
            let Some(found) = memchr2(b'"', b'\\', &bytes[at..]) else {
                self.spell(&bytes[from..]);
                if self.skipped > 0 {
                    self.keep_usage(&bytes[from..]);
                }
                return bytes.len();
            };
            at += found;
            if bytes[at] == b'"' {
                break;
            }
            self.escaped = true;
            at += 1;
        }
        self.spell(&bytes[from..at]);
        match self.lex {
            Lex::InKey => self.lex = Lex::Colon,
            Lex::SkipString if self.skipped > 0 => {
                self.keep_usage(&bytes[from..=at]);
                self.lex = Lex::Skip;
            }
            lex => {
                if lex == Lex::String {
                    self.string_ended(base + at);
                }
                match self.role {
                    Role::Error => self.facts.error = true,
                    Role::Finish => {
                        self.finishing = true;
                        self.facts.finish = true;
                    }
                    _ => {}
                }
                self.value_ended(base + at + 1);
            }
        }
        at + 1
    }

    /// Remembers what a name or a word says, as far as it is short.
    fn spell(&mut self, piece: &[u8]) {
        if self.lex != Lex::InKey && self.role != Role::Type {
            return;
        }
        let len = usize::from(self.word_len);
        match self.word.get_mut(len..len + piece.len()) {
            Some(free) => {
                free.copy_from_slice(piece);
                self.word_len += piece.len() as u8;
            }
            None => self.word_len = u8::MAX,
        }
    }

    fn string_ended(&mut self, end: usize) {
        match self.role {
            Role::Padding => self.facts.padding = Some((self.string_at, end)),
            Role::Type => match self
                .word
                .get(..usize::from(self.word_len))
                .unwrap_or_default()
            {
                b"error" | b"response.failed" => self.facts.error = true,
                b"response.completed" | b"response.incomplete" | b"message_stop" => {
                    self.facts.finish = true;
                    self.marks.complete = true;
                }
                _ => {}
            },
            _ => self.text_until(end),
        }
    }

    fn text_until(&mut self, end: usize) {
        if let Role::Text(field) = self.role
            && self.string_at < end
        {
            let field = match field {
                Field::Arguments(_) => Field::Arguments(self.call.index),
                field => field,
            };
            let at = self.string_at..end;
            self.facts.texts.push(Text {
                choice: self.choice.index,
                field,
                at,
            });
        }
    }

    fn scalar(&mut self, base: usize, bytes: &[u8], mut at: usize) -> usize {
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t' => {
                    self.scalar_ended();
                    self.value_ended(base + at);
                    return at;
                }
                b'0'..=b'9' => {
                    let digit = u32::from(byte - b'0');
                    self.number = self.number.saturating_mul(10).saturating_add(digit);
                }
                _ => {}
            }
            at += 1;
        }
        at
    }

    fn scalar_ended(&mut self) {
        match (self.role, self.scalar) {
            (Role::Error, first) if !matches!(first, b'n' | b'f') => self.facts.error = true,
            (Role::ChoiceIndex, _) if self.kind == Kind::Event => self.choice.index = self.number,
            (Role::CallIndex, _) if self.kind == Kind::Event => self.call.index = self.number,
            _ => {}
        }
    }

    /// Reads on in a value that only its brackets and strings matter of.
    fn skip(&mut self, base: usize, bytes: &[u8], at: usize) -> usize {
        let rest = &bytes[at..];
        let found = rest.iter().position(|&byte| STRUCTURE[usize::from(byte)]);
        let next = found.map_or(bytes.len(), |found| at + found + 1);
        self.keep_usage(&bytes[at..next]);
        match found.map(|found| rest[found]) {
            None => {}
            Some(b'"') => self.lex = Lex::SkipString,
            Some(b'{' | b'[') => self.skipped = self.skipped.saturating_add(1),
            Some(_) => {
                self.skipped -= 1;
                if self.skipped == 0 {
                    if self.role == Role::Usage {
                        self.report();
                    }
                    self.value_ended(base + next);
                }
            }
        }
        next
    }

    fn report(&mut self) {
        self.facts.usage_given |= self.depth == 1;
        if let Some(later) = Reported::read(&self.usage) {
            let facts = &mut self.facts;
            facts.reported = Some(facts.reported.unwrap_or_default().updated(later));
        }
    }

    fn keep_usage(&mut self, piece: &[u8]) {
        if self.role != Role::Usage {
            return;
        }
        if self.usage.len() + piece.len() > USAGE_BYTES_MAX {
            self.usage.clear();
            self.role = Role::Other;
            return;
        }
        self.usage.extend_from_slice(piece);
    }
}

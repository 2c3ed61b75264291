//! Reads answers as they pass: which text was said for which choice, the usage, the end.
//!
//! One reader serves every dialect, whose [`Table`] says which members matter and what for, and both
//! kinds of answer: a whole event of a stream (places are offsets in the event, so that usage can be
//! cut out), and a JSON body that comes in any pieces and is never held. It skips everything else by
//! brackets and strings. It is lenient: what is not JSON says nothing. Keys that a server writes with
//! escapes are not known to it; none does. The meter calls it.

mod facts;
pub mod table;
#[cfg(test)]
mod tests;
mod values;

pub use self::facts::{Choices, Facts, Field, Text};

use self::facts::Marks;
use self::table::{Inside, Node, Place, Role, Says, Table};
use crate::usage::{Count, Raw, Reported};

/// A place between the elements of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// The list hasn't begun.
    Outside,
    /// An element may follow.
    Before,
    /// A comma must come before the next element.
    After,
}

impl Gap {
    /// What must stand before a last element.
    pub fn closing(self) -> &'static str {
        match self {
            Gap::Outside => "[",
            Gap::Before => "",
            Gap::After => ",",
        }
    }
}

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
    table: &'static Table,
    kind: Kind,
    lex: Lex,
    role: Role,
    nodes: [&'static Node; NODES_MAX],
    depth: u8,
    /// The outermost value is a list of what else would be outermost.
    listed: bool,
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
    choice: Ordinal,
    /// The current choice has its `finish_reason`.
    finishing: bool,
    call: Ordinal,
    /// What the event's `type` tells of it.
    says: Option<Says>,
    /// The `usage` object as far as it came.
    usage: Vec<u8>,
    /// Counts that stand outside such an object.
    counts: Option<Box<Raw>>,
    reported: Option<Reported>,
    early: bool,
    facts: Facts,
    marks: Marks,
}

/// Position and index of the current element, and where its texts begin.
#[derive(Debug, Clone, Copy, Default)]
struct Ordinal {
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
/// The longest `type` that means something is below it.
const WORD_MAX: usize = 48;

/// The outermost array of a body that is listed.
static LIST: Node = Node::array(Role::Other);

// === impl Reader ===

impl Reader {
    /// Reads the events of a stream, one after the other.
    pub fn of_events(table: &'static Table) -> Reader {
        Reader::new(Kind::Event, table, table.event)
    }

    /// Reads one JSON body.
    pub fn of_body(table: &'static Table) -> Reader {
        Reader::new(Kind::Body, table, table.body)
    }

    /// A new event begins; which choices finished is remembered.
    pub fn begin(&mut self) {
        self.kind = Kind::Event;
        self.lex = Lex::Value;
        self.role = Role::Into(self.table.event);
        self.depth = 0;
        self.escaped = false;
        self.skipped = 0;
        self.kept = false;
        self.cut_open = false;
        self.choice = Ordinal::default();
        self.says = None;
        // Those of an event that broke off.
        self.counts = None;
        self.facts.clear();
    }

    /// As [`Reader::begin`], for an event that is too long to be there at once and comes in pieces,
    /// as a body does.
    pub fn begin_long(&mut self) {
        self.begin();
        self.kind = Kind::Body;
    }

    /// What was reported so far: of several reports the last, field by field.
    pub fn reported(&self) -> Option<Reported> {
        self.reported
    }

    /// What was found without this reader; what it reads itself counts as later.
    pub fn believe(&mut self, reported: Reported) {
        self.reported = Some(reported);
    }

    /// The output that was reported is only that of the answer's beginning.
    pub fn is_early(&self) -> bool {
        self.early
    }

    /// Where in a list of objects the next byte stands; `None` where it is no list, inside of an
    /// element, or at the list's end.
    pub fn gap(&self) -> Option<Gap> {
        match (self.depth, self.lex) {
            (0, Lex::Value) if self.table.listed && self.kind == Kind::Body => Some(Gap::Outside),
            (1, Lex::Value) if self.listed => Some(Gap::Before),
            (1, Lex::After) if self.listed => Some(Gap::After),
            _ => None,
        }
    }

    /// The answer as a whole said that it is complete.
    pub fn is_complete(&self) -> bool {
        self.marks.complete
    }

    /// The event or body that was begun has not come to its end.
    pub fn is_midway(&self) -> bool {
        match self.lex {
            Lex::Closed | Lex::Broken => false,
            Lex::Value => self.depth > 0,
            _ => true,
        }
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
        let open = match self.lex {
            Lex::String => true,
            Lex::Skip | Lex::SkipString => matches!(self.role, Role::Json(_)),
            _ => false,
        };
        if self.kind == Kind::Body && open {
            self.text_until(base + bytes.len());
        }
    }

    fn new(kind: Kind, table: &'static Table, root: &'static Node) -> Reader {
        Reader {
            table,
            kind,
            lex: Lex::Value,
            role: Role::Into(root),
            nodes: [root; NODES_MAX],
            depth: 0,
            listed: false,
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
            choice: Ordinal::default(),
            finishing: false,
            call: Ordinal::default(),
            says: None,
            usage: Vec::new(),
            counts: None,
            reported: None,
            early: false,
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
                    Role::Text(_) | Role::TextOr(..) | Role::Json(_) => Lex::String,
                    Role::Type | Role::Padding => Lex::String,
                    _ => Lex::SkipString,
                };
            }
            (Lex::Value, b'{' | b'[') => self.open(at, byte),
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
                self.role = self.node().map_or(Role::Other, |node| node.member(word));
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
                self.word_len = 0;
                self.lex = Lex::Scalar;
            }
            _ => self.lex = Lex::Broken,
        }
    }

    fn node(&self) -> Option<&'static Node> {
        self.nodes
            .get(usize::from(self.depth).checked_sub(1)?)
            .copied()
    }

    fn open(&mut self, at: usize, byte: u8) {
        let object = byte == b'{';
        let listed = self.depth == 0 && self.lists(object);
        let node = match self.role {
            Role::Into(_) if listed => Some(&LIST),
            Role::Into(node) | Role::TextOr(_, node) => Some(node),
            _ => None,
        };
        let fits = |node: &&Node| matches!(node.inside, Inside::Members(_)) == object;
        match node.filter(fits) {
            Some(node) if usize::from(self.depth) < NODES_MAX => {
                self.nodes[usize::from(self.depth)] = node;
                self.depth += 1;
                self.enter(node);
                self.role = self.element(node);
                self.lex = if object { Lex::Key } else { Lex::Value };
            }
            _ => {
                match self.role {
                    Role::Error => self.facts.error = true,
                    Role::Usage(_) => {
                        self.usage.clear();
                        self.usage.reserve(USAGE_BYTES_USUAL);
                        self.keep_usage(&[byte]);
                    }
                    Role::Json(_) => self.string_at = at,
                    _ => {}
                }
                self.skipped = 1;
                self.lex = Lex::Skip;
            }
        }
    }

    /// Whether the outermost value is a list.
    fn lists(&mut self, object: bool) -> bool {
        self.listed = self.table.listed && self.kind == Kind::Body && !object;
        self.listed
    }

    /// Notes where in the answer `node` begins.
    fn enter(&mut self, node: &Node) {
        let texts = self.facts.texts.len();
        match node.place {
            Place::Plain => {}
            Place::Choices => {
                self.facts.choices = Choices::Empty;
                self.choice.position = 0;
            }
            Place::Choice => {
                self.facts.choices = Choices::Some;
                self.choice.index = self.choice.position;
                self.choice.texts = texts;
                self.finishing = false;
            }
            Place::Calls => self.call.position = 0,
            Place::Call => {
                self.call.index = self.call.position;
                self.call.texts = texts;
            }
            Place::LoneCall => self.call = Ordinal::default(),
            Place::Picture => self.picture(),
        }
    }

    fn picture(&mut self) {
        let counts = self.counts.get_or_insert_default();
        counts.add(Count::Images, 1);
    }

    /// What an element of `node` is for.
    fn element(&self, node: &Node) -> Role {
        match node.element() {
            Some(_) if std::ptr::eq(node, &LIST) => Role::Into(self.table.body),
            Some(role) => role,
            None => Role::Other,
        }
    }

    fn next_element(&mut self) {
        let Some(node) = self.node() else {
            self.lex = Lex::Broken;
            return;
        };
        if node.element().is_none() {
            self.lex = Lex::Key;
            return;
        }
        match node.place {
            Place::Choices => self.choice.position += 1,
            Place::Calls => self.call.position += 1,
            _ => {}
        }
        self.role = self.element(node);
        self.lex = Lex::Value;
    }

    fn close(&mut self, at: usize) {
        let Some(node) = self.node() else {
            self.lex = Lex::Broken;
            return;
        };
        self.depth -= 1;
        if self.kind == Kind::Event {
            match node.place {
                Place::Choice => {
                    let choice = self.choice;
                    for text in &mut self.facts.texts[choice.texts..] {
                        text.choice = choice.index;
                    }
                }
                Place::Call => {
                    let call = self.call;
                    for text in &mut self.facts.texts[call.texts..] {
                        text.field = Field::Arguments(call.index);
                    }
                }
                _ => {}
            }
        }
        if node.place == Place::Choice {
            self.marks.choice(self.choice.index, self.finishing);
        }
        if self.depth == u8::from(self.listed) {
            self.object_ended();
        }
        self.role = Role::Other;
        self.value_ended(at + 1);
    }

    /// An outermost object ended.
    fn object_ended(&mut self) {
        if let Some(counts) = self.counts.take() {
            self.report(self.table.sheet, &counts);
        }
        match self.says {
            _ if self.kind == Kind::Body => {}
            Some(Says::Silent) => self.facts.texts.clear(),
            Some(Says::Text(field)) => {
                for text in &mut self.facts.texts {
                    text.field = field;
                }
            }
            _ => {}
        }
    }

    /// A value ended before offset `end`.
    fn value_ended(&mut self, end: usize) {
        self.lex = Lex::After;
        match (self.depth, self.role) {
            (0, _) => {
                self.facts.closed = true;
                self.lex = Lex::Closed;
            }
            (1, Role::Usage(_)) => self.cut(end),
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
}

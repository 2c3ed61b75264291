//! What the members of an answer are for: the tables that dialects write and the reader follows.
//!
//! A table is a tree of static containers. What no container names is skipped, whatever it holds.

use super::Field;
use crate::usage::{Count, Reported, Sheet};

/// All that is read of one dialect's answers.
#[derive(Debug)]
pub struct Table {
    /// The outermost object of a body.
    pub body: &'static Node,
    /// The outermost object of an event in a stream.
    pub event: &'static Node,
    /// A body may also be an array of such objects: a stream by other means.
    pub listed: bool,
    /// What the `type` of an event tells of it.
    pub types: &'static [(&'static str, Says)],
    /// What the [`Role::Count`]s of one outermost object come to.
    pub sheet: &'static Sheet,
    /// The prompt's tokens are reported without those that a cache gave or took.
    pub cache_beside: bool,
    /// Each event reports the usage so far, and may repeat the text so far: texts aren't counted.
    pub repeats: bool,
}

/// A container whose members or elements matter.
#[derive(Debug)]
pub struct Node {
    pub place: Place,
    pub inside: Inside,
    /// A bit for each length that a member's name has: most keys are none of them.
    lengths: u64,
}

/// What is in a container.
#[derive(Debug)]
pub enum Inside {
    Members(&'static [(&'static str, Role)]),
    Elements(Role),
}

/// What a container is to the texts in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Plain,
    /// An array of choices (or of blocks, whose texts don't join either).
    Choices,
    Choice,
    /// An array of tool calls.
    Calls,
    Call,
    /// A call that has no index.
    LoneCall,
    /// A picture that was made.
    Picture,
}

/// What the value at hand is for.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    /// It is gone into, if its bracket is of the right kind.
    Into(&'static Node),
    /// A string is text.
    Text(Field),
    /// A string is text, a container is gone into.
    TextOr(Field, &'static Node),
    /// A string is text, of an object or array each byte is.
    Json(Field),
    ChoiceIndex,
    CallIndex,
    /// A string that says why the choice ended.
    Finish,
    /// `true`: the whole answer has ended, and nothing follows.
    Complete,
    /// A string: the whole answer has ended; its usage may follow.
    Stopped,
    Usage(&'static Sheet),
    Count(Count),
    /// Anything but `null` and `false` is an error.
    Error,
    Type,
    Padding,
    Other,
}

/// What a `type` tells of its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Error,
    /// The whole answer has ended, and nothing that matters follows.
    Complete,
    /// The whole answer has ended; more of the kind may follow.
    Stopped,
    /// The same, and it brought a picture.
    Picture,
    /// Its texts are of this kind.
    Text(Field),
    /// Its texts are none (sound, or what was said before).
    Silent,
}

// === impl Node ===

impl Node {
    /// An object of which these members matter.
    pub const fn object(members: &'static [(&'static str, Role)]) -> Node {
        let (mut lengths, mut at) = (0, 0);
        while at < members.len() {
            lengths |= 1 << members[at].0.len();
            at += 1;
        }
        Node {
            place: Place::Plain,
            inside: Inside::Members(members),
            lengths,
        }
    }

    /// An array whose elements are for this.
    pub const fn array(element: Role) -> Node {
        Node {
            place: Place::Plain,
            inside: Inside::Elements(element),
            lengths: 0,
        }
    }

    /// The same in another place.
    pub const fn at(self, place: Place) -> Node {
        let Node {
            inside, lengths, ..
        } = self;
        Node {
            place,
            inside,
            lengths,
        }
    }

    /// What the member `key` is for.
    #[inline]
    pub(super) fn member(&self, key: &[u8]) -> Role {
        if key.len() >= 64 || self.lengths >> key.len() & 1 == 0 {
            return Role::Other;
        }
        let Inside::Members(members) = self.inside else {
            return Role::Other;
        };
        let known = members.iter().find(|(name, _)| name.as_bytes() == key);
        known.map_or(Role::Other, |(_, role)| *role)
    }

    /// What an element is for; `None` of an object.
    pub(super) fn element(&self) -> Option<Role> {
        match self.inside {
            Inside::Members(_) => None,
            Inside::Elements(role) => Some(role),
        }
    }
}

// === impl Table ===

impl Table {
    /// A table without any of the peculiarities.
    pub const fn new(
        body: &'static Node,
        event: &'static Node,
        types: &'static [(&'static str, Says)],
        sheet: &'static Sheet,
    ) -> Table {
        Table {
            body,
            event,
            listed: false,
            types,
            sheet,
            cache_beside: false,
            repeats: false,
        }
    }

    /// All that a report says, with the prompt's tokens in one sum.
    pub fn whole(&self, reported: Reported) -> Reported {
        if !self.cache_beside {
            return reported;
        }
        let (cached, cache_write) = (reported.cached, reported.cache_write);
        let beside = cached.unwrap_or(0).saturating_add(cache_write.unwrap_or(0));
        Reported {
            input: reported.input.map(|input| input.saturating_add(beside)),
            ..reported
        }
    }

    /// What a `type` tells of its event.
    pub(super) fn says(&self, word: &[u8]) -> Option<Says> {
        let known = self.types.iter().find(|(name, _)| name.as_bytes() == word);
        known.map(|(_, says)| *says)
    }
}

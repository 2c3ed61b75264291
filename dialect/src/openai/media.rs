//! What transcriptions, speech and images answer.
//!
//! Usage may be in seconds instead of tokens (`"type": "duration"`, or the `duration` of a verbose
//! transcription): that reports no tokens. Pictures are counted.

use super::chat::USAGE;
use crate::answer::Field;
use crate::answer::table::{Node, Place, Role, Says, Table};
use crate::usage::Count;

/// `/v1/audio/…` and `/v1/images/…`.
pub static MEDIA: Table = Table::new(&BODY, &EVENT, TYPES, &USAGE);

static BODY: Node = Node::object(&[
    ("text", Role::Text(Field::Text)),
    ("usage", Role::Usage(&USAGE)),
    ("duration", Role::Count(Count::Seconds)),
    ("data", Role::Into(&PICTURES)),
    ("error", Role::Error),
]);
static PICTURES: Node = Node::array(Role::Into(&PICTURE));
static PICTURE: Node = Node::object(&[]).at(Place::Picture);
static EVENT: Node = Node::object(&[
    ("type", Role::Type),
    ("delta", Role::Text(Field::Text)),
    ("usage", Role::Usage(&USAGE)),
    ("error", Role::Error),
]);

const TYPES: &[(&str, Says)] = &[
    ("transcript.text.done", Says::Complete),
    ("speech.audio.done", Says::Complete),
    ("image_generation.completed", Says::Picture),
    ("image_edit.completed", Says::Picture),
    ("error", Says::Error),
];

//! What transcriptions, speech and images answer.
//!
//! Usage may be in seconds instead of tokens (`"type": "duration"`): that reports no tokens.

use super::chat::USAGE;
use crate::dialect::answer::Field;
use crate::dialect::answer::table::{Node, Role, Says, Table};

/// `/v1/audio/…` and `/v1/images/…`.
pub static MEDIA: Table = Table::new(&BODY, &EVENT, TYPES, &USAGE);

static BODY: Node = Node::object(&[
    ("text", Role::Text(Field::Text)),
    ("usage", Role::Usage(&USAGE)),
    ("error", Role::Error),
]);
static EVENT: Node = Node::object(&[
    ("type", Role::Type),
    ("delta", Role::Text(Field::Text)),
    ("usage", Role::Usage(&USAGE)),
    ("error", Role::Error),
]);

const TYPES: &[(&str, Says)] = &[
    ("transcript.text.done", Says::Complete),
    ("speech.audio.done", Says::Complete),
    ("image_generation.completed", Says::Stopped),
    ("image_edit.completed", Says::Stopped),
    ("error", Says::Error),
];

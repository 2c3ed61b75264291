//! Who is asking.

use super::settings::{Key, Team};
use std::sync::Arc;

/// Who is asking: a key of a team.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The team.
    pub team: Arc<Team>,
    /// Its key.
    pub key: Arc<Key>,
}

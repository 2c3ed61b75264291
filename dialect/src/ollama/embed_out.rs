//! A request for embeddings written for Ollama's API.

use crate::ir::{Embed, Fit, Unfit};
use crate::translate::{Outgoing, Target};

/// Writes a request.
///
/// # Errors
/// What can't be said.
pub fn write(_embed: Embed, _target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    Err(fit.no_such_api())
}

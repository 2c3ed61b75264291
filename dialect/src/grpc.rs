//! Workers that speak `proto/llm_service.proto`.

use crate::ir::{Chat, Fit, Unfit};
use crate::translate::{Outgoing, Target};

/// Writes a request.
///
/// # Errors
/// What can't be said.
pub fn write(_chat: Chat, _target: &Target<'_>, fit: &mut Fit) -> Result<Outgoing, Unfit> {
    Err(fit.no_such_api())
}

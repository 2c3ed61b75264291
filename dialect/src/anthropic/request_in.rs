//! A client's Messages request, read into the form between dialects.

use crate::ir::{Fit, Unfit};
use crate::translate::{Ask, Read};

/// Reads a body.
///
/// # Errors
/// What is wrong with it.
pub fn read(_ask: &Ask<'_>, fit: &mut Fit) -> Result<Read, Unfit> {
    Err(fit.no_such_api())
}

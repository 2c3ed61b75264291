//! The usage of a whole JSON body at a glance: nothing is remembered, no text is looked for.
//!
//! It decides nothing that the [`Reader`](crate::answer::Reader) would decide differently: where the
//! grammar is broken in any place that the reader would look at, it says that it doesn't know.

use crate::answer::USAGE_BYTES_MAX;
use crate::json::{Cursor, Fault};
use crate::usage::{Reported, Sheet};

/// What `body` reports in the spelling of `sheet` (of several reports the last, field by field);
/// `None` where there is no report, or where only the reader can tell.
pub fn usage(body: &[u8], sheet: &Sheet) -> Option<Reported> {
    let mut found = None;
    let mut cursor = Cursor::new(body);
    object(&mut cursor, sheet, true, &mut found).ok()?;
    found
}

/// Looks through the root, or through a `holder` of usage in it.
fn object(
    cursor: &mut Cursor<'_>,
    sheet: &Sheet,
    root: bool,
    found: &mut Option<Reported>,
) -> Result<(), Unknown> {
    let mut another = cursor.enter(b'{')?;
    while another {
        let key = cursor.raw_key()?;
        match (key, cursor.peek()?) {
            (b"usage", b'{') => {
                let start = cursor.at();
                let later = sheet.pass(cursor)?;
                if cursor.at() - start > USAGE_BYTES_MAX {
                    return Err(Unknown);
                }
                if let Some(later) = later {
                    *found = Some(found.unwrap_or_default().updated(later));
                }
            }
            // Usage inside is for the reader.
            (b"choices", b'[') if root => cursor.walk(b"usage")?,
            (b"response" | b"x_groq", b'{') if root => object(cursor, sheet, false, found)?,
            _ => {
                cursor.skip()?;
            }
        }
        another = cursor.more(b'{')?;
    }
    Ok(())
}

/// Only the reader can tell.
struct Unknown;

impl From<Fault> for Unknown {
    fn from(_: Fault) -> Unknown {
        Unknown
    }
}

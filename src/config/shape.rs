//! The tree as the file's own types, with every mistake of form.
//!
//! Serde stops at the first mistake; here it is noted, taken out of the tree, and reading begins
//! again, so that one run tells all. Called by [`super::parse`].

use super::file::File;
use super::findings::Findings;
use super::path::Path;
use super::tree::take_out;
use serde_yaml::Value;

/// Reads the file's types from a tree; what couldn't be read is missing from them and in
/// `findings`.
pub(super) fn read(mut tree: Value, findings: &mut Findings) -> File {
    if tree.is_null() {
        return File::default();
    }
    while findings.len() < MISTAKES_MAX {
        let error = match serde_path_to_error::deserialize::<_, File>(&tree) {
            Ok(file) => return file,
            Err(error) => error,
        };
        let mut path = Path::from(error.path());
        report(&path, &error.inner().to_string(), findings);
        while !take_out(&mut tree, &path) {
            match path.parent() {
                Some(parent) => path = parent,
                None => return File::default(),
            }
        }
    }
    File::default()
}

/// After so many mistakes the rest isn't looked at.
const MISTAKES_MAX: usize = 200;

/// Translates serde's sentence: `…, expected WHAT IS ALLOWED`, or only what is allowed.
fn report(path: &Path, message: &str, findings: &mut Findings) {
    let allowed = match message.rsplit_once(", expected ") {
        Some((_, allowed)) => allowed,
        None => message,
    };
    let words: Vec<&str> = allowed.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown field ") {
        findings.unknown_key(path, &words);
    } else if message.starts_with("unknown variant ") {
        findings.wrong_word(path, words.join(", "), words.iter().copied());
    } else if allowed.starts_with("struct ") {
        findings.wrong(path, "a mapping");
    } else {
        findings.wrong(path, allowed);
    }
}

//! Globs of models' names, as they stand in the configuration wherever models are named.

/// True for a pattern with `*` or `?`.
pub fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// A model's glob: `*` any text (a `/` too, as in `org/model`), `?` one character, nothing else special.
///
/// # Errors
/// What globset says of the pattern.
pub fn glob(pattern: &str) -> Result<globset::Glob, globset::Error> {
    let mut escaped = String::with_capacity(pattern.len());
    for c in pattern.chars() {
        if matches!(c, '[' | ']' | '{' | '}' | '\\' | '!') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    globset::GlobBuilder::new(&escaped)
        .literal_separator(false)
        .backslash_escape(true)
        .build()
}

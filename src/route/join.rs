//! The URL that an upstream is asked for, from its base URL and the client's path.

/// Joins an upstream's base path with the client's path and query.
///
/// A base with a path of its own replaces a leading `/v1` of the client's path; a base without one
/// keeps the client's path whole. The query is kept as it came.
///
/// ```
/// # use weir::route::join;
/// assert_eq!(join("/api/paas/v4", "/v1/embeddings", None), "/api/paas/v4/embeddings");
/// assert_eq!(join("", "/v1/embeddings", Some("a=1")), "/v1/embeddings?a=1");
/// ```
pub fn join(base: &str, path: &str, query: Option<&str>) -> String {
    let rest = if base.is_empty() {
        path
    } else {
        match path.strip_prefix("/v1") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
            _ => path,
        }
    };
    let mut joined =
        String::with_capacity(base.len() + rest.len() + query.map_or(0, |q| q.len() + 1) + 1);
    joined.push_str(base);
    joined.push_str(rest);
    if joined.is_empty() {
        joined.push('/');
    }
    if let Some(query) = query {
        joined.push('?');
        joined.push_str(query);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn a_base_with_a_path_replaces_v1_and_a_bare_base_keeps_it() {
        for (base, path, joined) in [
            ("/v1", "/v1/chat/completions", "/v1/chat/completions"),
            ("/v1", "/chat/completions", "/v1/chat/completions"),
            ("/api/v3", "/chat/completions", "/api/v3/chat/completions"),
            ("", "/v1/embeddings", "/v1/embeddings"),
            ("", "/", "/"),
            ("/v1", "/v1", "/v1"),
            ("/v1", "/v1/", "/v1/"),
            ("/v1", "/v1beta/models/x:y", "/v1/v1beta/models/x:y"),
            ("/v1", "/v10/x", "/v1/v10/x"),
        ] {
            assert_eq!(join(base, path, None), joined, "{base} + {path}");
        }
    }

    #[test]
    fn the_query_is_kept() {
        assert_eq!(
            join("/v1", "/v1/files", Some("limit=2&after=")),
            "/v1/files?limit=2&after="
        );
    }
}

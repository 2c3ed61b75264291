//! How names are written: as keys of the cache, and as the whole names that servers are asked for.

use std::borrow::Cow;
use std::net::IpAddr;

/// A name has at most so many bytes in text, without the root's dot (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// And each of its labels at most so many.
const LABEL_BYTES_MAX: usize = 63;

/// The key of `host`: lower case, without the brackets of an IPv6 literal. The root's dot stays
/// only where it says something: at names that would be searched for without it.
pub(crate) fn key(host: &str, ndots: impl FnOnce() -> u8) -> Cow<'_, str> {
    let bare = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host);
    let bare = match bare.strip_suffix('.') {
        Some(whole) if dots(whole) >= usize::from(ndots()) => whole,
        _ => bare,
    };
    if bare.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}

/// The address that `key` is, where it is a literal.
pub(crate) fn literal(key: &str) -> Option<IpAddr> {
    // Only what ends in a digit or has a colon can be one: most names cost one look.
    let last = *key.as_bytes().last()?;
    let maybe = last.is_ascii_digit() || key.contains(':');
    maybe.then(|| key.parse().ok()).flatten()
}

/// Whether a server can be asked for `key`. An IPv6 address with a zone, for one, is no name.
pub(crate) fn is_name(key: &str) -> bool {
    let whole = key.strip_suffix('.').unwrap_or(key);
    let fits = !whole.is_empty() && whole.len() <= NAME_BYTES_MAX;
    fits && whole.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let odd = |byte: u8| byte <= b' ' || byte == 0x7f || b"\\:%/[]@".contains(&byte);
    !label.is_empty() && label.len() <= LABEL_BYTES_MAX && !label.bytes().any(odd)
}

/// The whole names that `key` may mean, in the order in which they are asked for: by the search
/// list first and then as it is, where it has fewer than `ndots` dots; else only as it is. So
/// does the C library, but for one thing: it searches for a name with many dots as well, after
/// all else failed, which sends the names of the world to servers of one's own.
pub(crate) fn candidates(key: &str, search: &[String], ndots: u8) -> Vec<String> {
    if key.ends_with('.') {
        return vec![key.to_owned()];
    }
    let as_it_is = format!("{key}.");
    if dots(key) >= usize::from(ndots) {
        return vec![as_it_is];
    }
    let listed = search.iter().map(|domain| match domain.as_str() {
        "" => as_it_is.clone(),
        domain => format!("{key}.{domain}."),
    });
    let mut names: Vec<String> = listed.filter(|name| is_name(name)).collect();
    if !names.contains(&as_it_is) {
        names.push(as_it_is);
    }
    names
}

fn dots(name: &str) -> usize {
    name.bytes().filter(|byte| *byte == b'.').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roots_dot_stays_where_the_name_would_be_searched_for() {
        for (host, ndots, written) in [
            ("api.example", 1, "api.example"),
            ("API.Example.", 1, "api.example"),
            ("db", 1, "db"),
            ("db.", 1, "db."),
            ("db.", 0, "db"),
            ("api.example.", 5, "api.example."),
            ("[2001:DB8::1]", 1, "2001:db8::1"),
            ("", 1, ""),
            (".", 1, "."),
        ] {
            assert_eq!(key(host, || ndots), written, "{host} with ndots {ndots}");
        }
    }

    #[test]
    fn what_no_server_can_be_asked_for_is_no_name() {
        let long = |labels: usize| vec!["a".repeat(49); labels].join(".");
        for name in [
            "a",
            "a.",
            "_dns.a-b.example",
            "1.2.3",
            "bücher.example",
            &long(5),
            &"a".repeat(63),
        ] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "a..b",
            ".a",
            "a..",
            "a b",
            "fe80::1%eth0",
            "::1",
            "a/b",
            "a\\.b",
            "a\0",
            &format!("{}.aaaa", long(5)),
            &"a".repeat(64),
        ] {
            assert!(!is_name(name), "{name}");
        }
        assert_eq!(long(5).len() + 4, 253, "at the limit");
        assert!(is_name(&format!("{}.aaa", long(5))));
    }

    #[test]
    fn names_with_few_dots_are_searched_for_and_others_are_not() {
        let search = ["corp.example".to_owned(), "example".to_owned()];
        let names = |key, ndots| candidates(key, &search, ndots);
        assert_eq!(names("db", 1), ["db.corp.example.", "db.example.", "db."]);
        assert_eq!(names("db.", 1), ["db."]);
        assert_eq!(names("db", 0), ["db."]);
        assert_eq!(names("a.b", 1), ["a.b."]);
        assert_eq!(
            names("a.b", 2),
            ["a.b.corp.example.", "a.b.example.", "a.b."]
        );
        assert_eq!(names("a.b.", 2), ["a.b."]);
        assert_eq!(candidates("db", &[], 1), ["db."]);
        assert_eq!(candidates("db", &[String::new()], 1), ["db."]);
        let long = vec!["a".repeat(61); 4].join(".");
        assert_eq!(
            candidates(&long, &search, 5),
            [format!("{long}.")],
            "too long"
        );
    }
}

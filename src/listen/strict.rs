//! What Pingora's HTTP/1 parser would let through, or refuse without a word that a client's SDK
//! understands: a head is checked here, where it can be refused in form and told.

use super::head::Fault;
use std::mem::MaybeUninit;

/// Far more than any client of a model has.
const HEADERS_MAX: usize = 128;
const TARGET_BYTES_MAX: usize = 16 << 10;

/// Checks a complete head.
///
/// # Errors
/// What is wrong with it.
pub fn check(head: &[u8]) -> Result<(), Fault> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooLarge),
        Ok(_) | Err(_) => return Err(Fault::Malformed),
    }
    check_framing(request.headers, request.version == Some(0))?;
    check_expectation(request.headers)?;
    let target = request.path.unwrap_or_default();
    if target.len() > TARGET_BYTES_MAX {
        return Err(Fault::LongTarget);
    }
    let mut hosts = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"));
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some()
        || (host.is_none() && request.version == Some(1))
        || host.is_some_and(|host| !is_host(host.value))
    {
        return Err(Fault::Host);
    }
    // Its target has a form of its own.
    if request.method == Some("CONNECT") {
        return Err(Fault::Connect);
    }
    if target.starts_with('/') || target == "*" {
        return Ok(());
    }
    // Absolute form: the target's authority decides, and Host must be the same.
    let uri: http::Uri = target.parse().map_err(|_| Fault::Malformed)?;
    let authority = uri.scheme().and(uri.authority()).ok_or(Fault::Malformed)?;
    match host {
        Some(host)
            if !host
                .value
                .eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            Err(Fault::Host)
        }
        _ => Ok(()),
    }
}

/// `uri-host [ ":" port ]` (RFC 9110, section 7.2), which may be empty.
fn is_host(value: &[u8]) -> bool {
    let is_authority = || http::uri::Authority::try_from(value).is_ok();
    value.is_empty() || !value.contains(&b'@') && is_authority()
}

/// One length, or chunks, or nothing: what two servers could read differently is how requests are
/// smuggled (RFC 9112, sections 6.1, 6.3 and 11.2).
fn check_framing(headers: &[httparse::Header<'_>], http10: bool) -> Result<(), Fault> {
    let named = |name: &'static str| {
        let same = move |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        headers.iter().filter(same)
    };
    let mut lengths = named("content-length");
    let mut codings = named("transfer-encoding");
    let (length, coding) = (lengths.next(), codings.next());
    let is_number = |value: &[u8]| !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let sound = lengths.next().is_none()
        && codings.next().is_none()
        && !(length.is_some() && coding.is_some())
        && length.is_none_or(|header| is_number(header.value))
        && coding.is_none_or(|header| !http10 && header.value.eq_ignore_ascii_case(b"chunked"));
    if sound { Ok(()) } else { Err(Fault::Malformed) }
}

/// What else is expected, some server behind might do and another not: a way to make them read
/// different requests.
fn check_expectation(headers: &[httparse::Header<'_>]) -> Result<(), Fault> {
    let met = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("expect"))
        .all(|header| header.value.eq_ignore_ascii_case(b"100-continue"));
    if met { Ok(()) } else { Err(Fault::Expectation) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_taken_or_refused_as_the_rfc_says() {
        let refused = |head: &str| check(format!("{head}\r\n\r\n").as_bytes()).err();
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a"), None);
        assert_eq!(refused("GET / HTTP/1.0"), None);
        assert_eq!(refused("OPTIONS * HTTP/1.1\r\nHost: a"), None);
        assert_eq!(refused("GET http://a/x HTTP/1.1\r\nHost: A"), None);
        assert_eq!(
            refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12"),
            None
        );
        assert_eq!(
            refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked"),
            None
        );
        assert_eq!(refused("GET / HTTP/1.1"), Some(Fault::Host));
        assert_eq!(
            refused("GET / HTTP/1.1\r\nHost: a\r\nhost: a"),
            Some(Fault::Host)
        );
        assert_eq!(
            refused("GET http://a/x HTTP/1.1\r\nHost: b"),
            Some(Fault::Host)
        );
        for host in [
            "a b", "a@b", "a/b", "a\\b", "a?b", "[::1", "a, b", "a\"b", "http://a",
        ] {
            let found = refused(&format!("GET / HTTP/1.1\r\nHost: {host}"));
            assert_eq!(found, Some(Fault::Host), "{host}");
        }
        for host in [
            "",
            "a",
            "a:80",
            "[::1]:8080",
            "127.0.0.1:1",
            "a_b.c-d",
            "xn--a-0ga.x",
        ] {
            let found = refused(&format!("GET / HTTP/1.1\r\nHost: {host}"));
            assert_eq!(found, None, "{host}");
        }
        assert_eq!(
            refused("CONNECT a:1 HTTP/1.1\r\nHost: a:1"),
            Some(Fault::Connect)
        );
        for malformed in [
            "GET nowhere HTTP/1.1\r\nHost: a",
            "GET / HTTP/1.1\r\nHost: a\r\nbad name: x",
            "GET / HTTP/1.1\r\nHost: a\r\nx: a\0b",
            "GET / HTTP/2.0\r\nHost: a",
            "GET / HTTP/1.1\r\nHost: a\r\n folded: x",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked",
        ] {
            assert_eq!(refused(malformed), Some(Fault::Malformed), "{malformed}");
        }
    }

    #[test]
    fn what_is_expected_must_be_what_is_done() {
        let expecting = |what: &str| {
            check(format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: {what}\r\n\r\n").as_bytes())
        };
        assert_eq!(expecting("100-Continue"), Ok(()));
        for what in ["y 100-continue", "100-continue, x", "", "200-ok"] {
            assert_eq!(expecting(what), Err(Fault::Expectation), "{what}");
        }
    }

    #[test]
    fn a_target_at_the_limit_is_taken_and_one_past_it_is_not() {
        let target = |bytes: usize| {
            let path = "x".repeat(bytes - 1);
            check(format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
        };
        assert_eq!(target(TARGET_BYTES_MAX), Ok(()));
        assert_eq!(target(TARGET_BYTES_MAX + 1), Err(Fault::LongTarget));
    }

    #[test]
    fn one_header_too_many_is_too_large() {
        let head = |count: usize| {
            let more = "a: b\r\n".repeat(count - 1);
            format!("GET / HTTP/1.1\r\nHost: a\r\n{more}\r\n")
        };
        assert_eq!(check(head(HEADERS_MAX).as_bytes()), Ok(()));
        assert_eq!(
            check(head(HEADERS_MAX + 1).as_bytes()),
            Err(Fault::TooLarge)
        );
    }
}

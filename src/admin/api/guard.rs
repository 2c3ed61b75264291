//! Who may ask, and who may change something.
//!
//! | listener | without `admin.token` | with it |
//! | --- | --- | --- |
//! | Unix socket | everything: its file's mode says who may | the token for everything |
//! | loopback address | what only tells | the token for everything |
//! | any other address | health and metrics | the token for everything |
//!
//! Health is open to all. A browser on this host could be made to ask a loopback address by a page
//! whose name was given that address (DNS rebinding): without a token only requests whose `Host` is
//! an address or `localhost` are answered there, and none of them can change anything.

use super::super::Settings;
use super::problem::Problem;
use crate::types::Secret;
use crate::types::socket::Address;
use http::{HeaderMap, StatusCode, Uri, header};
use std::net::IpAddr;

/// Decides by the listener, the token and the request's head.
pub(super) struct Guard {
    token: Option<Secret<String>>,
    listener: Listener,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    Unix,
    Loopback,
    Network,
}

/// What a path asks of who looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing.
    Nothing,
    /// The token, where one is set.
    Token,
    /// The token, or a listener that stands for it.
    Leave,
}

/// What a request may do.
#[derive(Clone, Debug)]
pub(super) enum Leave {
    /// Everything.
    All,
    /// Ask.
    Look,
    /// Nothing, and why.
    None(Problem),
}

impl Leave {
    pub(super) fn to_change(&self) -> Result<(), Problem> {
        match self {
            Self::All => Ok(()),
            Self::Look => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "without a token nothing is changed over TCP: set `admin.token`, or give \
                 `admin.address` a unix: path",
            )),
            Self::None(problem) => Err(problem.clone()),
        }
    }
}

impl Guard {
    pub(super) fn new(settings: &Settings) -> Self {
        let listener = match &settings.socket.address {
            Address::Unix(_) => Listener::Unix,
            Address::Tcp(address) if address.ip().to_canonical().is_loopback() => {
                Listener::Loopback
            }
            Address::Tcp(_) => Listener::Network,
        };
        Self {
            token: settings.token.clone(),
            listener,
        }
    }

    /// What a request with this head may do.
    pub(super) fn leave(&self, needs: Needs, headers: &HeaderMap, uri: &Uri) -> Leave {
        if needs == Needs::Nothing {
            return Leave::Look;
        }
        if let Some(token) = &self.token {
            let shown = bearer(headers);
            return if shown.is_some_and(|it| same(it, token.expose().as_bytes())) {
                Leave::All
            } else {
                Leave::None(Problem::no_token())
            };
        }
        if needs == Needs::Token {
            return Leave::Look;
        }
        match self.listener {
            Listener::Unix => Leave::All,
            Listener::Loopback if is_this_host(headers, uri) => Leave::Look,
            Listener::Loopback => Leave::None(Problem::new(
                StatusCode::FORBIDDEN,
                "without a token only requests to an address or to localhost are answered, so that no \
                 page in a browser can ask under a name of its own: set `admin.token`",
            )),
            Listener::Network => Leave::None(Problem::new(
                StatusCode::FORBIDDEN,
                "the API needs a token where other hosts can connect: set `admin.token`",
            )),
        }
    }
}

/// The one bearer token of a head.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"Bearer ";
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (one, None) = (all.next()?.as_bytes(), all.next()) else {
        return None;
    };
    let (scheme, token) = one.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token)
}

/// Asked for under no name, or under one that no DNS server gives.
fn is_this_host(headers: &HeaderMap, uri: &Uri) -> bool {
    let given = headers.get(header::HOST).map(|host| host.as_bytes());
    let host = match (uri.host(), given) {
        (Some(host), _) => host.to_owned(),
        (None, None | Some(b"")) => return true,
        (None, Some(host)) => match http::uri::Authority::try_from(host) {
            Ok(authority) => authority.host().to_owned(),
            Err(_) => return false,
        },
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

/// Compares in a time that depends on the lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    let different = a.iter().zip(b).fold(0, |bits, (a, b)| bits | (a ^ b));
    a.len() == b.len() && std::hint::black_box(different) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::socket::Socket;
    use http::HeaderValue;

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same(b"token", b"token"));
        assert!(!same(b"token", b"tokem"));
        assert!(!same(b"toke", b"token"));
        assert!(!same(b"", b"token"));
    }

    fn guard(address: &str, token: Option<&str>) -> Guard {
        Guard::new(&Settings {
            socket: Socket::at(address.parse().unwrap()),
            token: token.map(|it| Secret::new(it.to_owned())),
        })
    }

    fn leave(guard: &Guard, headers: &[(header::HeaderName, &'static str)]) -> &'static str {
        let headers = headers.iter().map(|(name, value)| {
            let value = HeaderValue::from_static(value);
            (name.clone(), value)
        });
        let uri = Uri::from_static("/api/keys");
        match guard.leave(Needs::Leave, &headers.collect(), &uri) {
            Leave::All => "all",
            Leave::Look => "look",
            Leave::None(_) => "none",
        }
    }

    #[test]
    fn without_a_token_the_listener_decides() {
        assert_eq!(leave(&guard("unix:/run/a", None), &[]), "all");
        assert_eq!(leave(&guard("127.0.0.1:1", None), &[]), "look");
        assert_eq!(leave(&guard("[::1]:1", None), &[]), "look");
        assert_eq!(leave(&guard("[::ffff:127.0.0.1]:1", None), &[]), "look");
        assert_eq!(leave(&guard("0.0.0.0:1", None), &[]), "none");
        assert_eq!(leave(&guard("192.0.2.1:1", None), &[]), "none");
    }

    #[test]
    fn no_name_of_a_page_stands_for_this_host() {
        let guard = guard("127.0.0.1:9900", None);
        for (host, expected) in [
            ("127.0.0.1:9900", "look"),
            ("[::1]:9900", "look"),
            ("LocalHost", "look"),
            ("", "look"),
            ("evil.example:9900", "none"),
            ("127.0.0.1.evil.example", "none"),
            ("localhost.evil.example", "none"),
        ] {
            assert_eq!(leave(&guard, &[(header::HOST, host)]), expected, "{host}");
        }
    }

    #[test]
    fn with_a_token_nothing_else_counts() {
        const NAME: header::HeaderName = header::AUTHORIZATION;
        for address in ["unix:/run/a", "127.0.0.1:1", "0.0.0.0:1"] {
            let guard = guard(address, Some("t0k"));
            assert_eq!(leave(&guard, &[]), "none");
            assert_eq!(leave(&guard, &[(NAME, "Bearer t0k")]), "all");
            assert_eq!(leave(&guard, &[(NAME, "bearer t0k")]), "all");
            assert_eq!(leave(&guard, &[(NAME, "Bearer t0")]), "none");
            assert_eq!(leave(&guard, &[(NAME, "Basic t0k")]), "none");
            assert_eq!(leave(&guard, &[(NAME, "t0k")]), "none");
            let twice = [(NAME, "Bearer t0k"), (NAME, "Bearer t0k")];
            assert_eq!(leave(&guard, &twice), "none");
        }
    }
}

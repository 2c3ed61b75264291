//! `shared_state`: where the hosts of one weir meet, and what each does when nobody is there.

use crate::types::Secret;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How hosts share their allowances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedState {
    /// Where the server is.
    pub server: Server,
    /// What a host does without it, once its leases are used up.
    pub on_down: OnDown,
    /// Begins the name of each key on the server.
    pub prefix: String,
    /// How long the unused part of what a host was granted is kept for it when nothing is heard of it.
    pub lease: Duration,
}

/// What a host does when nobody can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// It goes on with an equal share of what was left when it last heard.
    Local,
    /// It refuses what it has no lease for.
    Refuse,
}

/// A server that speaks Redis' protocol: `redis://[[user]:password@]host[:port][/db]`, or `rediss` for
/// TLS. It is shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// TLS or plain TCP.
    pub tls: bool,
    /// Name or address (IPv6 without brackets).
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Who logs in; `None` is the server's default user.
    pub user: Option<String>,
    /// The password, if there is one.
    pub password: Option<Secret<String>>,
    /// The number of the database.
    pub database: u32,
}

// === impl Server ===

impl Server {
    /// Its port where the URL names none.
    const PORT: u16 = 6379;
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let (host, port, database) = (&self.host, self.port, self.database);
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}/{database}")
        } else {
            write!(f, "{scheme}://{host}:{port}/{database}")
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Server {
    type Err = &'static str;

    /// Reads a URL. User and password are percent-encoded where they have to be.
    ///
    /// # Errors
    /// A sentence that says how such a URL is written; it has nothing of the text in it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a URL such as redis://:password@host:6379/0, or rediss:// for TLS";
        let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(FORM),
        };
        if rest.contains(['?', '#']) {
            return Err("a URL without `?` and `#` (in a password they are %3F and %23)");
        }
        let (user_info, rest) = match rest.rsplit_once('@') {
            Some((user_info, rest)) => (Some(user_info), rest),
            None => (None, rest),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match path {
            "" => 0,
            number => number
                .parse()
                .map_err(|_| "the number of a database after the host")?,
        };
        let authority: http::uri::Authority = authority.parse().map_err(|_| FORM)?;
        let host = authority.host().trim_matches(['[', ']']);
        let port = match authority.port() {
            None if authority.as_str().len() > authority.host().len() => {
                return Err("a port from 1 to 65535");
            }
            None => Self::PORT,
            Some(port) => Some(port.as_u16())
                .filter(|port| *port > 0)
                .ok_or("a port from 1 to 65535")?,
        };
        if host.is_empty() {
            return Err(FORM);
        }
        let decoded = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| "a user and a password in UTF-8")
        };
        let (user, password) = match user_info {
            None => (None, None),
            Some(both) => {
                let (user, password) = both.split_once(':').ok_or(
                    "a password after a colon, as in redis://:password@host or redis://user:password@host",
                )?;
                let user = Some(decoded(user)?).filter(|user| !user.is_empty());
                (user, Some(Secret::new(decoded(password)?)))
            }
        };
        Ok(Self {
            tls,
            host: host.to_ascii_lowercase(),
            port,
            user,
            password: password.filter(|password| !password.expose().is_empty()),
            database,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_who() {
        let server: Server = "redis://127.0.0.1".parse().unwrap();
        assert_eq!((server.port, server.database, server.tls), (6379, 0, false));
        assert_eq!((server.user, server.password), (None, None));
        let server: Server = "rediss://ana:p%40ss%2F@[::1]:7000/3".parse().unwrap();
        assert_eq!((server.host.as_str(), server.port), ("::1", 7000));
        assert_eq!(server.user.as_deref(), Some("ana"));
        assert_eq!(server.password.as_ref().unwrap().expose(), "p@ss/");
        assert_eq!(
            format!("{server} {server:?}"),
            "rediss://[::1]:7000/3 rediss://[::1]:7000/3"
        );
        let server: Server = "redis://:secret@Cache.example".parse().unwrap();
        assert_eq!((server.user, server.host.as_str()), (None, "cache.example"));
    }

    #[test]
    fn what_is_no_such_url_is_refused_without_its_text() {
        for text in [
            "127.0.0.1:6379",
            "http://host",
            "redis://",
            "redis://host:0",
            "redis://host:99999",
            "redis://host:",
            "redis://host/x",
            "redis://host/0?timeout=1",
            "redis://secret@host",
            "redis://a:%ff@host",
        ] {
            let why = text.parse::<Server>().unwrap_err();
            assert!(!why.contains("secret@"), "{why}");
        }
    }
}

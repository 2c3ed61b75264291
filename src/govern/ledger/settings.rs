//! Where usage is kept, and how. Filled by `config::check`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How the ledger is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `state_dir`: the journal is in its folder `usage`.
    pub state_dir: PathBuf,
    /// Where single requests and sums of days are kept.
    pub store: Store,
    /// How long single requests are kept; sums of days stay.
    pub retain: Duration,
    /// How often what was written is made durable; `None` = when the system does.
    pub fsync: Option<Duration>,
    /// A segment of the journal is closed past this size.
    pub segment_bytes_max: u64,
    /// A segment of the journal is closed past this age.
    pub segment_age_max: Duration,
}

impl Settings {
    /// The folder of the journal.
    pub fn journal(&self) -> PathBuf {
        self.state_dir.join("usage")
    }

    /// The file of [`Store::Sqlite`].
    pub fn sqlite(&self) -> PathBuf {
        self.state_dir.join("usage.sqlite")
    }
}

/// A kind of store.
#[derive(Clone, Debug, PartialEq)]
pub enum Store {
    /// A file in `state_dir`.
    Sqlite,
    /// A database that several hosts may share.
    Postgres(Box<Postgres>),
}

/// A database. Its `Debug` shows no password.
#[derive(Clone, PartialEq)]
pub struct Postgres {
    /// Host, user, password and all that isn't TLS.
    pub config: tokio_postgres::Config,
    /// How it is reached.
    pub tls: Tls,
    /// `sslrootcert`: the authorities, instead of the system's.
    pub roots: Option<PathBuf>,
}

/// `sslmode`, with the meaning that libpq gives it: where `sslrootcert` names authorities, the server's
/// certificate must be of one of them in every mode that speaks TLS. A Unix socket is plaintext in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Plaintext.
    Disable,
    /// Plaintext; where that is refused, TLS.
    Allow,
    /// TLS; where that fails, plaintext.
    Prefer,
    /// TLS; without `sslrootcert` nobody's certificate is looked at.
    Require,
    /// TLS with a certificate of a known authority.
    VerifyCa,
    /// The same, in the server's name.
    VerifyFull,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres({:?}, {self})", self.tls)
    }
}

/// Where it is, without user and password.
impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use tokio_postgres::config::Host;
        f.write_str("postgres://")?;
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match host {
                Host::Tcp(name) => write!(f, "{comma}{name}")?,
                Host::Unix(path) => write!(f, "{comma}{}", path.display())?,
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl FromStr for Store {
    type Err = &'static str;

    /// Reads `sqlite`, or a `postgres://` URL as libpq has it.
    ///
    /// # Errors
    /// A sentence that says what is allowed; never what was found, which holds a password.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "sqlite" {
            return Ok(Self::Sqlite);
        }
        /// `sslrootcert`: the system's authorities.
        const SYSTEM: &str = "system";
        const ALLOWED: &str =
            "sqlite, or postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full";
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|it| text.starts_with(it))
        {
            return Err(ALLOWED);
        }
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut tls, mut roots, mut rest) = (None, None, Vec::new());
        for parameter in query.split('&').filter(|it| !it.is_empty()) {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("sslmode", mode) => tls = Some(mode.parse()?),
                ("sslrootcert", path) => {
                    let path = percent_encoding::percent_decode_str(path).decode_utf8();
                    roots = Some(PathBuf::from(&*path.map_err(|_| ALLOWED)?));
                }
                _ => rest.push(parameter),
            }
        }
        let tls = match (tls, &roots) {
            (None | Some(Tls::VerifyFull), Some(path)) if *path == *SYSTEM => {
                roots = None;
                Tls::VerifyFull
            }
            (Some(_), Some(path)) if *path == *SYSTEM => {
                return Err(
                    "sslrootcert=system: with sslmode=verify-full, as anybody may have a \
                     certificate of the system's authorities",
                );
            }
            (tls, _) => tls.unwrap_or(Tls::Prefer),
        };
        let mut config: tokio_postgres::Config = format!("{base}?{}", rest.join("&"))
            .parse()
            .map_err(|_| ALLOWED)?;
        if config.get_hosts().is_empty() {
            return Err(ALLOWED);
        }
        if config.get_application_name().is_none() {
            config.application_name("weir");
        }
        Ok(Self::Postgres(Box::new(Postgres { config, tls, roots })))
    }
}

impl FromStr for Tls {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return Err("sslmode: disable, allow, prefer, require, verify-ca or verify-full"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_read_and_never_shows_its_password() {
        assert_eq!("sqlite".parse(), Ok(Store::Sqlite));
        let url = "postgres://weir:s3cret@db.corp.example:5433/usage?sslmode=verify-full&sslrootcert=/a%20b.pem";
        let Ok(Store::Postgres(postgres)) = url.parse() else {
            panic!("no store");
        };
        assert_eq!(postgres.tls, Tls::VerifyFull);
        assert_eq!(postgres.roots, Some("/a b.pem".into()));
        assert_eq!(postgres.config.get_ports(), [5433]);
        assert_eq!(postgres.to_string(), "postgres://db.corp.example/usage");
        assert!(!format!("{postgres:?}").contains("s3cret"));
        for (query, tls) in [
            ("", Tls::Prefer),
            ("?sslmode=allow", Tls::Allow),
            ("?sslrootcert=system", Tls::VerifyFull),
        ] {
            let Ok(Store::Postgres(postgres)) = format!("postgres://u@h/d{query}").parse() else {
                panic!("no store: {query}");
            };
            assert_eq!((postgres.tls, postgres.roots), (tls, None), "{query}");
        }
        for bad in [
            "",
            "mysql://h/d",
            "postgres://",
            "postgres://u@h/d?sslmode=maybe",
            "postgres://u@h/d?sslrootcert=system&sslmode=verify-ca",
        ] {
            assert!(bad.parse::<Store>().is_err(), "{bad}");
        }
    }
}

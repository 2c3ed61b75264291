//! TLS of a listener. Filled by `config::check`.

use std::path::PathBuf;
use std::time::Duration;

/// `listen[].tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Picked by server name: exact, then wildcard; the first is the default. Empty only where ACME
    /// gets them.
    pub certificates: Vec<Certificate>,
    /// Certificates that weir gets for itself (RFC 8555).
    pub acme: Option<Acme>,
    /// TLS 1.2 is spoken beside 1.3.
    pub tls12: bool,
    /// Whether clients show a certificate, and who must have signed it.
    pub client_auth: ClientAuth,
    /// `Strict-Transport-Security: max-age`; zero for no such header.
    pub hsts: Duration,
}

/// A chain and its key, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate, then those that signed it.
    pub cert: PathBuf,
    /// Its private key (PKCS #8, PKCS #1 or SEC 1).
    pub key: PathBuf,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Not asked for.
    None,
    /// Asked for; one that is shown must be signed by an authority in this PEM file.
    Optional(PathBuf),
    /// Without one the handshake fails.
    Required(PathBuf),
}

/// `listen[].tls.acme`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// URL of the ACME server's directory.
    pub directory: String,
    /// Who is told about trouble with the account.
    pub email: Option<String>,
    /// Names that the certificate is for; never empty, lower case, no wildcards.
    pub domains: Vec<String>,
    /// PEM file of the authorities that the ACME server itself is verified by; `None` for the system's.
    pub ca: Option<PathBuf>,
}

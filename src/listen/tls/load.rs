//! Settings of a listener's TLS made into what handshakes need. Reads every file and checks it, so
//! that a mistake is found by `weir check` and not by a client. Called at start and at every reload;
//! blocks on files. Never gets a certificate itself: ACME leaves them in the state directory.

use super::challenges::{self, Challenges};
use super::resolver::{ByName, OfChallenges};
use super::settings::{Acme, Certificate, ClientAuth, Settings};
use super::tickets::Tickets;
use super::{chain, pem};
use aws_lc_rs::digest::{self, SHA256};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, InconsistentKeys, RootCertStore};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A certificate that has less than this left is warned of. One that ACME renews by itself only where less
/// than a third of its life is left, too: some live for six days.
const WARN: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What a listener and its clients agree by. Never changes.
#[derive(Clone, Debug)]
pub struct Tls {
    /// For clients of HTTP.
    pub(super) config: Arc<ServerConfig>,
    /// For an ACME server that asks by tls-alpn-01: no client certificate, no tickets, no HTTP.
    pub(super) challenge: Option<Arc<ServerConfig>>,
    /// Looks at clients' certificates; `None` where none is asked for.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// There is a certificate to show.
    pub(super) ready: bool,
}

impl Tls {
    /// There is a certificate to show; `false` until ACME got the first one.
    pub fn ready(&self) -> bool {
        self.ready
    }
}

/// TLS that can be used, and what to tell of it.
#[derive(Debug)]
pub struct Loaded {
    /// For handshakes.
    pub tls: Arc<Tls>,
    /// All certificates of servers, in their order.
    pub certificates: Vec<Info>,
    /// What will be a mistake soon, or is one that can be lived with.
    pub warnings: Vec<String>,
    /// Every file that was, or would be, read: a change of one is worth a reload.
    pub files: Vec<PathBuf>,
}

/// A certificate in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Where it was read.
    pub path: PathBuf,
    /// ACME got it, and will renew it.
    pub acme: bool,
    /// Whom it is for: DNS names in lower case, and addresses.
    pub names: Vec<String>,
    /// When the first certificate of its chain expires.
    pub not_after: SystemTime,
}

/// Something wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub path: PathBuf,
    /// What was found in it; goes on from its name.
    pub found: String,
    /// What to do about it.
    pub advice: String,
}

impl Mistake {
    /// Found in the file.
    pub fn new(path: &Path, found: impl Into<String>, advice: &str) -> Self {
        Self {
            path: path.to_owned(),
            found: found.into(),
            advice: advice.to_owned(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "{path}: {}; {}", self.found, self.advice)
    }
}

impl std::error::Error for Mistake {}

/// Where the certificate of an ACME listener is: key and chain together, in PEM, mode 0600.
pub fn acme_certificate(state_dir: &Path, acme: &Acme) -> PathBuf {
    let first = acme.domains.first().map_or("none", String::as_str);
    let folder = state_dir.join("acme").join("certificates");
    folder.join(format!("{first}.pem"))
}

/// Reads and checks all files, and makes TLS of them. `h2`: the listener speaks HTTP/2 too.
///
/// # Errors
/// All mistakes that were found, in the order of the settings.
pub fn load(
    settings: &Settings,
    h2: bool,
    state_dir: &Path,
    tickets: &Tickets,
    challenges: &Challenges,
    now: SystemTime,
) -> Result<Loaded, Vec<Mistake>> {
    let mut reading = Reading::default();
    for certificate in &settings.certificates {
        reading.certificate(certificate, now);
    }
    if let Some(acme) = &settings.acme {
        reading.acme(&acme_certificate(state_dir, acme), acme, now);
    }
    let authorities = reading.authorities(&settings.client_auth, now);
    let (verifier, scope) = match authorities.map(|it| Policy::new(&settings.client_auth, it)) {
        Some(Ok(policy)) => (policy.verifier, policy.scope),
        Some(Err(mistake)) => {
            reading.mistakes.push(mistake);
            (None, Vec::new())
        }
        None => (None, Vec::new()),
    };
    if !reading.mistakes.is_empty() {
        return Err(reading.mistakes);
    }
    let ready = !reading.by_name.is_empty();
    let built = config(settings.tls12, verifier.clone()).and_then(|mut config| {
        config.cert_resolver = Arc::new(reading.by_name);
        config.ticketer = tickets.ticketer(&scope);
        config.send_tls13_tickets = 1;
        config.alpn_protocols = if h2 { vec![b"h2".to_vec()] } else { Vec::new() };
        config.alpn_protocols.push(b"http/1.1".to_vec());
        let challenge = match &settings.acme {
            Some(_) => Some(Arc::new(challenge_config(challenges)?)),
            None => None,
        };
        Ok((Arc::new(config), challenge))
    });
    // Depends on nothing that was read; said all the same and not taken for granted.
    let (config, challenge) = built.map_err(|error| {
        let said = format!("TLS can't be set up: {error}");
        vec![Mistake::new(Path::new("TLS"), said, "report this")]
    })?;
    Ok(Loaded {
        tls: Arc::new(Tls {
            config,
            challenge,
            verifier,
            ready,
        }),
        certificates: reading.certificates,
        warnings: reading.warnings,
        files: reading.files,
    })
}

/// The cryptography of listeners: aws-lc, with the post-quantum hybrid first
/// (draft-ietf-tls-ecdhe-mlkem). All its suites have forward secrecy and are AEAD.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..default_provider()
    }
}

/// What every listener has in common. No session cache: tickets do it, and they survive the process.
fn config(
    tls12: bool,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, Error> {
    let versions: &[_] = if tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(versions)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName::default()));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    // Our order: AES-256 first. Whoever asks a model has AES in hardware.
    config.ignore_client_order = true;
    Ok(config)
}

fn challenge_config(challenges: &Challenges) -> Result<ServerConfig, Error> {
    let mut config = config(true, None)?;
    config.cert_resolver = Arc::new(OfChallenges(challenges.clone()));
    config.alpn_protocols = vec![challenges::ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Who may come in, and the scope of the tickets that prove it.
struct Policy {
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    scope: Vec<u8>,
}

impl Policy {
    fn new(
        client_auth: &ClientAuth,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, Mistake> {
        let (mode, path) = match client_auth {
            ClientAuth::None => {
                return Ok(Self {
                    verifier: None,
                    scope: b"none".to_vec(),
                });
            }
            ClientAuth::Optional(path) => ("optional", path),
            ClientAuth::Required(path) => ("required", path),
        };
        let scope = scope(mode, &authorities);
        let refused = |said: &dyn fmt::Display| {
            Mistake::new(
                path,
                format!("can't be used to verify clients: {said}"),
                "name a PEM file with the authorities that sign the clients' certificates",
            )
        };
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(|error| refused(&error))?;
        }
        let roots = Arc::new(roots);
        let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::new(provider()));
        let builder = match client_auth {
            ClientAuth::Optional(_) => builder.allow_unauthenticated(),
            _ => builder,
        };
        let verifier = builder.build().map_err(|error| refused(&error))?;
        Ok(Self {
            verifier: Some(verifier),
            scope,
        })
    }
}

/// The mode, and what the authorities are: the order in their file means nothing.
fn scope(mode: &str, authorities: &[CertificateDer<'_>]) -> Vec<u8> {
    let digests = authorities.iter().map(|it| digest::digest(&SHA256, it));
    let mut digests: Vec<_> = digests.map(|it| it.as_ref().to_vec()).collect();
    digests.sort();
    digests.dedup();
    let mut scope = mode.as_bytes().to_vec();
    scope.push(0);
    scope.extend(digests.concat());
    scope
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    by_name: ByName,
    certificates: Vec<Info>,
    mistakes: Vec<Mistake>,
    warnings: Vec<String>,
    files: Vec<PathBuf>,
}

impl Reading {
    fn certificate(&mut self, certificate: &Certificate, now: SystemTime) {
        let Certificate { cert, key } = certificate;
        self.files.extend([cert.clone(), key.clone()]);
        let chain = pem::read(cert).and_then(|bytes| pem::certificates(cert, &bytes));
        let secret = pem::read(key).and_then(|bytes| pem::key(key, &bytes));
        let leaf = match &chain {
            Ok(chain) => chain::check(cert, chain, now),
            Err(_) => Err(Vec::new()),
        };
        self.warn_of_mode(key);
        match (chain, leaf, secret) {
            (Ok(chain), Ok(leaf), Ok(secret)) => match certified(cert, key, chain, secret) {
                Ok(certified) => self.take(cert, false, leaf, &certified, now),
                Err(mistake) => self.mistakes.push(mistake),
            },
            (chain, leaf, secret) => {
                self.mistakes.extend(chain.err());
                self.mistakes.extend(leaf.err().into_iter().flatten());
                self.mistakes.extend(secret.err());
            }
        }
    }

    /// What ACME left. Nothing about it is a mistake of whoever wrote the settings: ACME makes it good.
    fn acme(&mut self, path: &Path, acme: &Acme, now: SystemTime) {
        self.files.push(path.to_owned());
        let domains = acme.domains.join(", ");
        if !path.exists() {
            self.warnings.push(format!(
                "{}: there is no certificate for {domains} yet; handshakes fail until ACME got one",
                path.display()
            ));
            return;
        }
        let usable = pem::read(path)
            .and_then(|bytes| Ok((pem::certificates(path, &bytes)?, pem::key(path, &bytes)?)))
            .map_err(|mistake| vec![mistake])
            .and_then(|(chain, key)| {
                let leaf = chain::check(path, &chain, now)?;
                let certified = certified(path, path, chain, key).map_err(|it| vec![it])?;
                Ok((leaf, certified))
            });
        match usable {
            Ok((leaf, certified)) => {
                let lacks: Vec<_> = acme
                    .domains
                    .iter()
                    .filter(|it| !leaf.names.contains(it))
                    .collect();
                if !lacks.is_empty() {
                    self.warnings.push(format!(
                        "{}: the certificate isn't for {lacks:?} yet; ACME has to get another",
                        path.display()
                    ));
                }
                self.take(path, true, leaf, &certified, now);
            }
            Err(mistakes) => self.warnings.extend(mistakes.iter().map(|mistake| {
                format!(
                    "{}: {}; not used, ACME has to get another for {domains}",
                    mistake.path.display(),
                    mistake.found
                )
            })),
        }
    }

    fn take(
        &mut self,
        path: &Path,
        acme: bool,
        leaf: chain::Leaf,
        certified: &Arc<CertifiedKey>,
        now: SystemTime,
    ) {
        let taken = self.by_name.add(&leaf.names, certified);
        if !taken.is_empty() {
            self.warnings.push(format!(
                "{}: {} already has a certificate that stands before this one; that one is shown",
                path.display(),
                taken.join(", ")
            ));
        }
        let left = leaf.not_after.duration_since(now).unwrap_or_default();
        let life = leaf.not_after.duration_since(leaf.not_before);
        let soon = match acme {
            true => WARN.min(life.unwrap_or_default() / 3),
            false => WARN,
        };
        if left < soon {
            let days = left.as_secs() / (24 * 60 * 60);
            self.warnings.push(format!(
                "{}: expires in {days} days; renew it",
                path.display()
            ));
        }
        self.certificates.push(Info {
            path: path.to_owned(),
            acme,
            names: leaf.names,
            not_after: leaf.not_after,
        });
    }

    fn warn_of_mode(&mut self, key: &Path) {
        let Ok(about) = key.metadata() else { return };
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            self.warnings.push(format!(
                "{}: everyone on this host can open the private key (mode {mode:04o}); chmod 0600",
                key.display()
            ));
        }
    }

    /// The authorities of clients; `None` after a mistake.
    fn authorities(
        &mut self,
        client_auth: &ClientAuth,
        now: SystemTime,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let path = match client_auth {
            ClientAuth::None => return Some(Vec::new()),
            ClientAuth::Optional(path) | ClientAuth::Required(path) => path,
        };
        self.files.push(path.clone());
        let all = pem::read(path).and_then(|bytes| pem::certificates(path, &bytes));
        let all = match all {
            Ok(all) => all,
            Err(mistake) => {
                self.mistakes.push(mistake);
                return None;
            }
        };
        // webpki doesn't look at the time of an authority: those out of theirs are left out here.
        let (mut usable, mut refused) = (Vec::new(), Vec::new());
        for authority in all {
            match chain::authority(&authority, now) {
                Ok(()) => usable.push(authority),
                Err(said) => refused.push(said),
            }
        }
        if usable.is_empty() {
            self.mistakes.push(Mistake::new(
                path,
                format!("has no authority in it: {}", refused.join("; ")),
                "name a PEM file with the authorities that sign the clients' certificates",
            ));
            return None;
        }
        let path = path.display();
        let warnings = refused
            .iter()
            .map(|said| format!("{path}: {said}; it is left out"));
        self.warnings.extend(warnings);
        Some(usable)
    }
}

/// A chain with its key.
fn certified(
    cert: &Path,
    key: &Path,
    chain: Vec<CertificateDer<'static>>,
    secret: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, Mistake> {
    CertifiedKey::from_der(chain, secret, &provider())
        .map(Arc::new)
        .map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Mistake::new(
                key,
                format!("is not the key of the certificate in {}", cert.display()),
                "name the key that the certificate was asked for with; the first certificate of the \
                 file must be the server's",
            ),
            Error::InvalidCertificate(error) => Mistake::new(
                cert,
                format!("holds a certificate that can't be used: {error:?}"),
                "have it made again, as X.509 version 3",
            ),
            error => Mistake::new(
                key,
                format!("holds a private key that can't be used: {error}"),
                "make one of ECDSA P-256, or RSA of at least 2048 bits, in PKCS #8",
            ),
        })
}

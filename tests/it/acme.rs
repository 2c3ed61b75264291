//! Certificates that weir gets for itself: from a server that misbehaves on demand, and from Pebble,
//! which is real, where it is installed.
//!
//! Most tests run the renewal alone, with a host of their own that shows the proofs; the last run
//! the whole program.

use crate::support::acme_server::{AcmeServer, Misdeed};
use crate::support::gate::Board;
use crate::support::{Authority, DnsServer, Folder, Gateway, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use weir::listen::acme::{Error, Event, Kind, Renewal};
use weir::listen::tls::Challenges;
use weir::listen::tls::settings::Acme;

const DAY: Duration = Duration::from_secs(24 * 3600);
const BOTH: [Kind; 2] = [Kind::TlsAlpn01, Kind::Http01];

/// A host that the names lead to: it shows proofs and nothing else.
struct Host {
    challenges: Challenges,
    http: SocketAddr,
    tls: SocketAddr,
}

/// Everything that the renewal of one certificate needs.
struct Setup {
    host: Host,
    folder: Folder,
    wanted: Acme,
    offers: Vec<Kind>,
    /// The clock is so late.
    later: Duration,
}

/// A renewal at work; it is dropped with this.
struct Running {
    events: Arc<Board<Vec<Event>>>,
    runtime: Option<tokio::runtime::Runtime>,
    task: tokio::task::JoinHandle<()>,
}

// === impl Host ===

impl Host {
    fn start() -> Self {
        let challenges = Challenges::default();
        let [http, tls] = std::array::from_fn(|_| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")
        });
        let host = Self {
            http: http.local_addr().expect("bound"),
            tls: tls.local_addr().expect("bound"),
            challenges: challenges.clone(),
        };
        // Both end with the tests' process.
        let known = challenges.clone();
        std::thread::spawn(move || {
            for client in http.incoming().flatten() {
                let _ = show_http(client, &known);
            }
        });
        std::thread::spawn(move || {
            let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut config = ServerConfig::builder_with_provider(crypto)
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(Proofs(challenges)));
            config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
            let config = Arc::new(config);
            for mut client in tls.incoming().flatten() {
                let mut tls = ServerConnection::new(Arc::clone(&config)).expect("sound");
                while tls.is_handshaking() && tls.complete_io(&mut client).is_ok() {}
            }
        });
        host
    }
}

fn show_http(mut client: TcpStream, challenges: &Challenges) -> std::io::Result<()> {
    let mut line = String::new();
    let mut reader = BufReader::new(client.try_clone()?);
    reader.read_line(&mut line)?;
    // A connection that is closed with unread bytes may lose the answer.
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = line.split(' ').nth(1).unwrap_or_default();
    let token = path.strip_prefix("/.well-known/acme-challenge/");
    let (status, body) = match token.and_then(|token| challenges.http(token)) {
        Some(proof) => (200, proof),
        None => (404, String::new()),
    };
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 {status} -\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[derive(Debug)]
struct Proofs(Challenges);

impl ResolvesServerCert for Proofs {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.alpn(hello.server_name()?)
    }
}

// === impl Setup ===

impl Setup {
    /// For `a.test` and `b.test`; the server looks at the host.
    fn new(server: &AcmeServer) -> Self {
        let setup = Self::at(server.directory(), Some(server.ca()));
        server.look_at(Some(setup.host.http), Some(setup.host.tls));
        setup
    }

    fn at(directory: String, ca: Option<PathBuf>) -> Self {
        Self {
            host: Host::start(),
            folder: Folder::new(),
            wanted: Acme {
                directory,
                email: Some("ops@a.test".to_owned()),
                domains: ["a.test", "b.test"].map(str::to_owned).into(),
                ca,
            },
            offers: BOTH.into(),
            later: Duration::ZERO,
        }
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn certificate(&self) -> PathBuf {
        self.state().join("acme/certificates/a.test.pem")
    }

    fn pause(&self) -> PathBuf {
        self.state().join("acme/pause-a.test.json")
    }

    fn account(&self) -> PathBuf {
        let files = std::fs::read_dir(self.state().join("acme")).expect("a folder");
        files
            .map(|file| file.expect("a file").path())
            .find(|path| path.display().to_string().contains("/account-"))
            .expect("an account")
    }

    fn run(&self) -> Running {
        self.run_with(None)
    }

    /// With one more certificate, after the first.
    fn run_with(&self, other: Option<&[String]>) -> Running {
        let other = other.map(|domains| Acme {
            domains: domains.to_vec(),
            ..self.wanted.clone()
        });
        let events = Arc::<Board<Vec<Event>>>::default();
        let (told, later) = (Arc::clone(&events), self.later);
        let renewal = Renewal {
            wanted: [self.wanted.clone()].into_iter().chain(other).collect(),
            state_dir: self.state(),
            offers: self.offers.clone(),
            challenges: self.host.challenges.clone(),
            clock: Arc::new(move || SystemTime::now() + later),
            told: Arc::new(move |event| told.change(|events| events.push(event))),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let task = runtime.spawn(async move {
            renewal.run().await;
        });
        Running {
            events,
            runtime: Some(runtime),
            task,
        }
    }

    /// Runs until there is a new certificate: the file.
    #[track_caller]
    fn issued(&self) -> Vec<u8> {
        match self.run().first() {
            Event::Issued {
                domains,
                path,
                not_after,
            } => {
                assert_eq!(
                    (domains, &path),
                    (self.wanted.domains.clone(), &self.certificate())
                );
                assert!(not_after > SystemTime::now());
            }
            event @ Event::Failed { .. } => panic!("{event:?}"),
        }
        assert!(nothing_is_shown(&self.host.challenges), "a proof is left");
        std::fs::read(self.certificate()).expect("the certificate")
    }

    /// Runs until there is none: why, and when it is tried again.
    #[track_caller]
    fn failed(&self) -> (Error, Duration) {
        let before = std::fs::read(self.certificate()).ok();
        let found = match self.run().first() {
            Event::Failed {
                error, again_in, ..
            } => (error, again_in),
            event @ Event::Issued { .. } => panic!("{event:?}"),
        };
        let after = std::fs::read(self.certificate()).ok();
        assert_eq!(before, after, "the old certificate was touched");
        // The next attempt of this test is not to wait for it.
        let _ = std::fs::remove_file(self.pause());
        assert!(nothing_is_shown(&self.host.challenges), "a proof is left");
        found
    }
}

fn nothing_is_shown(challenges: &Challenges) -> bool {
    let shown = challenges.export();
    shown["http"] == serde_json::json!({}) && shown["alpn"] == serde_json::json!({})
}

// === impl Running ===

impl Running {
    #[track_caller]
    fn first(&self) -> Event {
        self.events
            .wait("what becomes of the certificate", |events| {
                events.first().cloned()
            })
    }

    /// Drops the renewal wherever it is.
    fn end(mut self) {
        self.drop_it();
    }

    fn drop_it(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            self.task.abort();
            drop(runtime);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drop_it();
    }
}

fn mode(path: &Path) -> u32 {
    let about = std::fs::metadata(path).expect("it is there");
    about.permissions().mode() & 0o777
}

#[test]
fn the_first_certificate_comes_by_tls_alpn_01() {
    let server = AcmeServer::start();
    let setup = Setup::new(&server);
    let pem = setup.issued();
    assert_eq!(server.tried(), ["tls-alpn-01", "tls-alpn-01"]);
    assert_eq!(server.contact(), serde_json::json!(["mailto:ops@a.test"]));
    let text = String::from_utf8(pem).expect("text");
    assert!(text.starts_with("-----BEGIN PRIVATE KEY-----"), "{text}");
    assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(mode(&setup.certificate()), 0o600);
    assert_eq!(mode(&setup.account()), 0o600);
    assert_eq!(mode(&setup.state().join("acme")), 0o700);
    assert_eq!(mode(&setup.state().join("acme/certificates")), 0o700);
}

#[test]
fn http_01_does_where_the_other_cannot_be() {
    let server = AcmeServer::start();
    let mut setup = Setup::new(&server);
    server.offer(&["dns-01", "http-01"]);
    setup.issued();
    assert_eq!(server.tried(), ["http-01", "http-01"]);
    // The same where weir has no TLS to show it with.
    server.offer(&["tls-alpn-01", "http-01"]);
    setup.offers = vec![Kind::Http01];
    setup.wanted.domains.pop();
    setup.issued();
    assert_eq!(server.tried(), ["http-01", "http-01", "http-01"]);
}

#[test]
fn a_server_that_offers_nothing_of_ours_is_told_of() {
    let server = AcmeServer::start();
    server.offer(&["dns-01"]);
    let (error, _) = Setup::new(&server).failed();
    let said = error.to_string();
    assert!(
        said.contains("for a.test the ACME server offers only dns-01"),
        "{said}"
    );
}

#[test]
fn a_sound_certificate_is_left_alone_and_the_server_asked_when_to_renew() {
    let server = AcmeServer::start();
    let setup = Setup::new(&server);
    let first = setup.issued();
    let now = SystemTime::now();
    server.suggest(now + 50 * DAY, now + 52 * DAY);
    let running = setup.run();
    server.wait_request("GET /renewal/");
    running.end();
    assert_eq!(server.orders().len(), 1);
    assert_eq!(
        std::fs::read(setup.certificate()).expect("it is there"),
        first
    );
}

#[test]
fn it_is_renewed_when_the_server_says_so_and_told_what_it_replaces() {
    let server = AcmeServer::start();
    let setup = Setup::new(&server);
    let first = setup.issued();
    let now = SystemTime::now();
    server.suggest(now - 2 * DAY, now - DAY);
    assert_ne!(setup.issued(), first);
    let orders = server.orders();
    let [(_, None), (_, Some(replaced))] = &*orders else {
        panic!("{orders:?}");
    };
    let asked = format!("GET /renewal/{replaced}");
    assert!(
        server.requests().contains(&asked),
        "{:?}",
        server.requests()
    );
    assert_eq!(server.accounts(), 1, "the account is kept");
}

#[test]
fn without_advice_it_is_renewed_when_a_third_is_left() {
    let server = AcmeServer::start();
    let mut setup = Setup::new(&server);
    let first = setup.issued();
    setup.later = 61 * DAY;
    assert_ne!(setup.issued(), first);
    assert_eq!(server.orders().len(), 2);
}

#[test]
fn other_domains_get_another_certificate_at_once() {
    let server = AcmeServer::start();
    let mut setup = Setup::new(&server);
    setup.issued();
    setup.wanted.domains = vec!["a.test".to_owned(), "c.test".to_owned()];
    setup.issued();
    let orders = server.orders();
    assert_eq!(orders[1].0, ["a.test", "c.test"]);
}

#[test]
fn a_file_that_is_no_certificate_is_replaced() {
    let server = AcmeServer::start();
    let setup = Setup::new(&server);
    setup.issued();
    std::fs::write(setup.certificate(), "scratched").expect("written");
    setup.issued();
    assert_eq!(server.orders().len(), 2);
}

#[test]
fn a_bad_nonce_and_a_slow_signature_are_lived_with() {
    let server = AcmeServer::start();
    let setup = Setup::new(&server);
    server.misbehave(Misdeed::BadNonce);
    server.misbehave(Misdeed::BadNonce);
    server.misbehave(Misdeed::Slow(2));
    setup.issued();
    assert_eq!(server.misdeeds_left(), 0);
    assert_eq!(server.orders().len(), 1);
}

#[test]
fn a_rate_limit_is_respected_and_the_old_certificate_stays() {
    let server = AcmeServer::start();
    let mut setup = Setup::new(&server);
    setup.issued();
    setup.later = 61 * DAY;
    server.misbehave(Misdeed::RateLimited(36_000));
    let (error, again_in) = setup.failed();
    assert!(again_in >= Duration::from_secs(36_000), "{again_in:?}");
    let said = error.to_string();
    let expected = "the ACME server refuses an order for the names: too many certificates already \
                    issued (rateLimited)";
    assert_eq!(said, expected);
    setup.issued();
}

#[test]
fn a_failure_holds_up_the_next_process_too() {
    let server = AcmeServer::start();
    let mut setup = Setup::new(&server);
    server.misbehave(Misdeed::RateLimited(3600));
    let failed = setup.run();
    assert!(matches!(failed.first(), Event::Failed { .. }));
    failed.end();
    let asked = server.requests().len();
    // Another that is due shows that the first has been looked at.
    let other = ["b.test".to_owned()];
    let running = setup.run_with(Some(&other));
    assert!(matches!(running.first(), Event::Issued { domains, .. } if domains == other));
    running.end();
    assert!(!setup.certificate().exists(), "it was tried");
    assert_eq!(server.orders().len(), 1);
    assert!(server.requests().len() > asked);
    setup.later = Duration::from_secs(3601);
    setup.issued();
    assert!(!setup.pause().exists(), "the failure is over");
}

#[test]
fn a_name_that_cannot_be_proved_is_named() {
    let server = AcmeServer::start();
    let setup = Setup::new(&server);
    server.misbehave(Misdeed::Invalid);
    let (error, again_in) = setup.failed();
    assert!(again_in >= Duration::from_secs(60), "{again_in:?}");
    let said = error.to_string();
    assert!(
        said.contains("validate a.test by tls-alpn-01: it doesn't look right"),
        "{said}"
    );
    server.look_at(None, None);
    let said = setup.failed().0.to_string();
    assert!(said.contains("nothing listens there"), "{said}");
    assert!(said.contains("port 443"), "{said}");
}

#[test]
fn what_must_not_be_used_is_not_kept() {
    let server = AcmeServer::start();
    let setup = Setup::new(&server);
    for (misdeed, expected) in [
        (Misdeed::WrongChain, "its chain doesn't hold"),
        (Misdeed::WrongName, "it isn't for a.test"),
    ] {
        server.misbehave(misdeed);
        let said = setup.failed().0.to_string();
        assert!(said.contains(expected), "{said}");
        assert!(!setup.certificate().exists(), "it was kept");
    }
    server.sign_for(Duration::ZERO);
    let said = setup.failed().0.to_string();
    assert!(said.contains("expired already"), "{said}");
}

#[test]
fn a_server_that_is_down_is_left_alone_as_long_as_it_asks() {
    let server = AcmeServer::start();
    let mut setup = Setup::new(&server);
    server.misbehave(Misdeed::ErrorPage);
    let (error, again_in) = setup.failed();
    assert!(again_in >= Duration::from_secs(7200), "{again_in:?}");
    let said = error.to_string();
    assert!(said.contains("/directory answers 503"), "{said}");
    // Nobody listens on a port that was given back.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let gone = listener.local_addr().expect("bound");
    drop(listener);
    setup.wanted.directory = format!("https://{gone}/directory");
    let said = setup.failed().0.to_string();
    assert!(said.contains("is acme.directory right"), "{said}");
}

#[test]
fn a_server_with_a_certificate_of_nobody_we_know_is_not_talked_to() {
    let server = AcmeServer::start();
    let mut setup = Setup::new(&server);
    let other = Authority::new();
    for ca in [None, Some(other.ca())] {
        setup.wanted.ca = ca;
        let (error, _) = setup.failed();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
    assert_eq!(server.requests(), [""; 0]);
    setup.wanted.ca = Some("/nowhere.pem".into());
    let said = setup.failed().0.to_string();
    assert!(said.contains("acme.ca /nowhere.pem"), "{said}");
}

#[test]
fn an_account_that_the_server_refuses_is_named_with_its_file() {
    for forget in [false, true] {
        let server = AcmeServer::start();
        let mut setup = Setup::new(&server);
        setup.issued();
        server.end_accounts(forget);
        setup.later = 61 * DAY;
        let (error, _) = setup.failed();
        let Error::AccountRefused { path, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(*path, setup.account());
        // What the sentence advises helps.
        std::fs::rename(path, setup.folder.join("old.json")).expect("moved away");
        setup.issued();
        assert_eq!(server.accounts(), 2);
    }
}

#[test]
fn an_account_file_that_is_none_is_not_overwritten() {
    let server = AcmeServer::start();
    let mut setup = Setup::new(&server);
    setup.issued();
    setup.later = 61 * DAY;
    let path = setup.account();
    for text in ["", "{}", "{\"directory\": 1"] {
        std::fs::write(&path, text).expect("written");
        let (error, _) = setup.failed();
        assert!(matches!(error, Error::Account { .. }), "{error:?}");
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), text);
    }
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let server = AcmeServer::start();
    let setup = Setup::new(&server);
    // Root may write everywhere, but not below a file.
    std::fs::write(setup.state(), "a file").expect("written");
    let (error, again_in) = setup.failed();
    assert!(again_in >= Duration::from_secs(60), "{again_in:?}");
    let said = error.to_string();
    assert!(
        said.contains(&setup.state().display().to_string()),
        "{said}"
    );
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn dropped_midway_it_leaves_nothing_half() {
    let server = AcmeServer::start();
    let setup = Setup::at(server.directory(), Some(server.ca()));
    // The server waits: nobody has told it where to look.
    let running = setup.run();
    server.wait_request("POST /name/0/tls-alpn-01");
    assert!(!nothing_is_shown(&setup.host.challenges), "nothing to see");
    running.end();
    assert!(nothing_is_shown(&setup.host.challenges), "a proof is left");
    assert!(!setup.certificate().exists());
    server.look_at(Some(setup.host.http), Some(setup.host.tls));
    setup.issued();
    assert_eq!(server.accounts(), 1);
}

#[test]
fn one_process_at_a_time_talks_to_the_server() {
    let server = AcmeServer::start();
    let setup = Setup::at(server.directory(), Some(server.ca()));
    let first = setup.run();
    server.wait_request("POST /name/0/tls-alpn-01");
    let second = setup.run();
    first.end();
    server.look_at(Some(setup.host.http), Some(setup.host.tls));
    assert!(matches!(second.first(), Event::Issued { .. }));
    assert_eq!(server.accounts(), 1);
}

// === a real server ===

/// Pebble (Debian's `pebble`), which looks at names through a name server of the test's.
struct Pebble {
    child: Child,
    directory: String,
    authority: Authority,
}

impl Pebble {
    /// `None` where it isn't installed.
    fn start(host: &Host, names: &DnsServer) -> Option<Self> {
        let authority = Authority::new();
        // Leaves server.pem and server.key beside ca.pem.
        let _front = authority.front("IP:127.0.0.1", &[], host.http);
        let folder = authority.ca().parent().expect("a folder").to_owned();
        let address = free_address();
        let config = serde_json::json!({"pebble": {
            "listenAddress": address.to_string(),
            "managementListenAddress": "",
            "certificate": folder.join("server.pem"),
            "privateKey": folder.join("server.key"),
            "httpPort": host.http.port(),
            "tlsPort": host.tls.port(),
        }});
        std::fs::write(folder.join("pebble.json"), config.to_string()).expect("written");
        let child = Command::new("pebble")
            .args(["-strict", "-dnsserver", &names.address().to_string()])
            .arg("-config")
            .arg(folder.join("pebble.json"))
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let pebble = match child {
            Ok(child) => Self {
                child,
                directory: format!("https://{address}/dir"),
                authority,
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("Pebble doesn't start: {error}"),
        };
        eventually("Pebble", || TcpStream::connect(address).ok());
        Some(pebble)
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_server_signs_by_either_challenge_and_refuses_what_it_cannot_see() {
    let mut setup = Setup::at(String::new(), None);
    let names = DnsServer::start();
    for name in ["a", "tls-alpn-01.b", "http-01.b", "c", "d"] {
        names.lead(&format!("{name}.test"), &[Ipv4Addr::LOCALHOST.into()]);
    }
    let Some(pebble) = Pebble::start(&setup.host, &names) else {
        eprintln!("skipped: Pebble isn't installed (Debian: apt-get install pebble)");
        return;
    };
    setup.wanted.directory.clone_from(&pebble.directory);
    setup.wanted.ca = Some(pebble.authority.ca());
    for kind in BOTH {
        setup.offers = vec![kind];
        // Names that it hasn't seen before.
        setup.wanted.domains = vec!["a.test".to_owned(), format!("{}.b.test", kind.name())];
        setup.issued();
    }
    setup.offers = BOTH.into();
    setup.wanted.domains.push("c.test".to_owned());
    setup.issued();
    // A host that shows nothing.
    let hidden = Setup {
        host: Host::start(),
        folder: Folder::new(),
        wanted: Acme {
            domains: vec!["d.test".to_owned()],
            ..setup.wanted.clone()
        },
        offers: vec![Kind::Http01],
        later: Duration::ZERO,
    };
    match hidden.run().first() {
        Event::Failed {
            error: Error::Validation { domain, .. },
            ..
        } => assert_eq!(domain, "d.test"),
        event => panic!("{event:?}"),
    }
}

// === the whole program ===

fn config(server: &AcmeServer, tls: SocketAddr) -> String {
    format!(
        "listen:
  - {{address: \"{tls}\", tls: {{acme: {{directory: \"{}\", domains: [a.test], ca: {:?}}}}}}}
  - \"127.0.0.1:0\"
state_dir: \"{{folder}}/state\"
model_routes: {{m: \"http://127.0.0.1:9\"}}
",
        server.directory(),
        server.ca()
    )
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound")
}

/// One GET over TLS, trusting only this authority: what comes back, or why not.
fn get_by_tls(address: SocketAddr, root: &str, path: &str) -> Result<String, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(root.as_bytes()).expect("a certificate");
    roots.add(root).expect("an authority");
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("a.test").expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("sound");
    let stream = TcpStream::connect(address).map_err(|error| text(&error))?;
    let mut stream = rustls::StreamOwned::new(tls, stream);
    let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .map_err(|error| text(&error))?;
    let mut answer = String::new();
    // Whether it says goodbye isn't asked here.
    let _ = stream.read_to_string(&mut answer);
    (!answer.is_empty())
        .then_some(answer)
        .ok_or("no answer".to_owned())
}

#[test]
fn weir_gets_a_certificate_and_serves_with_it() {
    for (kind, offered) in [("tls-alpn-01", Kind::TlsAlpn01), ("http-01", Kind::Http01)] {
        let server = AcmeServer::start();
        server.offer(&[offered.name()]);
        let weir = Gateway::start(&config(&server, free_address()));
        let [tls, http] = *weir.addresses() else {
            panic!("{:?}", weir.addresses());
        };
        assert!(
            get_by_tls(tls, server.root(), "/v1/models").is_err(),
            "too early"
        );
        server.look_at(Some(http), Some(tls));
        let answer = eventually("an answer over TLS", || {
            get_by_tls(tls, server.root(), "/v1/models").ok()
        });
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(server.tried(), [kind]);
        let kept = weir.folder().join("state/acme/certificates/a.test.pem");
        assert_eq!(mode(&kept), 0o600);
    }
}

#[test]
fn weir_starts_again_with_the_certificate_it_has() {
    let server = AcmeServer::start();
    let address = free_address();
    let mut weir = Gateway::start(&config(&server, address));
    server.look_at(Some(weir.addresses()[1]), Some(weir.addresses()[0]));
    eventually("an answer over TLS", || {
        get_by_tls(weir.addresses()[0], server.root(), "/v1/models").ok()
    });
    let file = "state/acme/certificates/a.test.pem";
    let kept = std::fs::read(weir.folder().join(file)).expect("the certificate");
    weir.signal(libc::SIGTERM);
    weir.wait_exit();
    let state = weir.folder().join("state").display().to_string();
    let yaml = config(&server, free_address()).replace("{folder}/state", &state);
    let again = Gateway::start(&yaml);
    let answer = get_by_tls(again.addresses()[0], server.root(), "/v1/models");
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(
        std::fs::read(weir.folder().join(file)).expect("it is there"),
        kept
    );
    assert_eq!(server.orders().len(), 1);
}

//! Certificates that openssl made, real sockets, and clients of rustls in the same process.

use super::challenges::ALPN;
use super::settings::{Acme, Certificate, ClientAuth};
use super::*;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error, NamedGroup, RootCertStore,
    SignatureScheme, SupportedProtocolVersion,
};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// No handshake of these takes longer, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(30);

/// A certificate authority, and a folder for all that it makes.
struct Authority {
    folder: PathBuf,
}

impl Authority {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("weir-tls-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let authority = Self { folder };
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 60 -subj /CN=ca \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign \
             -keyout ca.key -out ca.pem",
        );
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn openssl(&self, arguments: &str) {
        self.openssl_with(arguments.split_whitespace());
    }

    fn openssl_with<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(&self.folder);
        let output = command.output().expect("openssl is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// `NAME.pem` and `NAME.key`, signed by `by` (`ca`), with these extensions.
    fn issue(&self, name: &str, by: &str, subject: &str, extensions: &str) -> Certificate {
        self.issue_with(
            "ec -pkeyopt ec_paramgen_curve:P-256",
            name,
            by,
            subject,
            extensions,
        )
    }

    fn issue_with(
        &self,
        key: &str,
        name: &str,
        by: &str,
        subject: &str,
        extensions: &str,
    ) -> Certificate {
        self.write("extensions", extensions);
        let newkey = format!("req -newkey {key} -nodes -keyout {name}.key -out {name}.csr -utf8");
        let subject = ["-multivalue-rdn", "-subj", subject];
        self.openssl_with(newkey.split_whitespace().chain(subject));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {by}.pem -CAkey {by}.key -CAcreateserial -days 30 \
             -extfile extensions -out {name}.pem"
        ));
        self.named(name)
    }

    /// One that expired long ago.
    fn issue_expired(&self, name: &str, subject: &str) -> Certificate {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key \
             -out {name}.csr -subj {subject}"
        ));
        self.write("index.txt", "");
        self.write(
            "ca.conf",
            "[ca]\ndefault_ca=x\n[x]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\n\
             default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\norganizationName=optional\n\
             [e]\nbasicConstraints=CA:FALSE\nsubjectAltName=DNS:a.test\n",
        );
        self.openssl(&format!(
            "ca -batch -config ca.conf -extensions e -cert ca.pem -keyfile ca.key -in {name}.csr \
             -out {name}.pem -startdate 20200101000000Z -enddate 20200201000000Z -notext"
        ));
        self.named(name)
    }

    fn server(&self, name: &str, names: &str) -> Certificate {
        let extensions = format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n");
        self.issue(name, "ca", &format!("/CN={name}"), &extensions)
    }

    fn person(&self, name: &str, subject: &str) -> Certificate {
        self.issue(
            name,
            "ca",
            subject,
            "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n",
        )
    }

    fn named(&self, name: &str) -> Certificate {
        Certificate {
            cert: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        }
    }

    fn client_auth(&self, mode: &str) -> ClientAuth {
        match mode {
            "none" => ClientAuth::None,
            "optional" => ClientAuth::Optional(self.path("ca.pem")),
            _ => ClientAuth::Required(self.path("ca.pem")),
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn settings(certificates: &[&Certificate]) -> Settings {
    Settings {
        certificates: certificates.iter().map(|it| (*it).clone()).collect(),
        acme: None,
        tls12: true,
        client_auth: ClientAuth::None,
        hsts: Duration::ZERO,
    }
}

fn now() -> SystemTime {
    SystemTime::now()
}

fn load_at(settings: &Settings, now: SystemTime) -> Result<Loaded, Vec<Mistake>> {
    let (tickets, challenges) = (Tickets::new(now), Challenges::default());
    load(
        settings,
        true,
        Path::new("/nowhere"),
        &tickets,
        &challenges,
        now,
    )
}

fn loaded(settings: &Settings) -> Arc<Tls> {
    load_at(settings, now()).unwrap().tls
}

fn shared(settings: &Settings, tickets: &Tickets) -> Arc<Tls> {
    let challenges = Challenges::default();
    let loaded = load(settings, true, Path::new("/"), tickets, &challenges, now());
    loaded.unwrap().tls
}

/// A client that takes any certificate, and speaks what it is told to.
fn client(
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&Certificate>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(load::provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    match own {
        Some(own) => {
            let chain = CertificateDer::pem_file_iter(&own.cert).unwrap();
            let chain = chain.map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    }
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = load::provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What the client saw.
#[derive(Debug)]
struct Seen {
    /// The server's own certificate, in DER.
    certificate: Vec<u8>,
    group: Option<NamedGroup>,
    alpn: Option<Vec<u8>>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// Both sides of one handshake, and of one byte each way after it, so that tickets arrive.
async fn meet_at(
    tls: &Tls,
    client: &Arc<ClientConfig>,
    name: &str,
    now: SystemTime,
) -> (Result<Secured, Fault>, Result<Seen, Option<Error>>) {
    let (near, far) = pair().await;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::clone(client));
    let server = async {
        match handshake(far, tls, now).await {
            Ok((mut stream, secured)) => {
                let _ = stream.write_all(b"s").await;
                let _ = stream.read_u8().await;
                Ok(secured)
            }
            Err(failed) => Err(failed.fault),
        }
    };
    let client = async {
        let tls_error = |error: std::io::Error| {
            let inner = error.into_inner()?.downcast::<Error>().ok()?;
            Some(*inner)
        };
        let mut stream = connector.connect(name, near).await.map_err(tls_error)?;
        stream.read_u8().await.map_err(tls_error)?;
        stream.write_all(b"c").await.map_err(tls_error)?;
        let connection = stream.get_ref().1;
        Ok(Seen {
            certificate: connection.peer_certificates().unwrap()[0].to_vec(),
            group: connection
                .negotiated_key_exchange_group()
                .map(|it| it.name()),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
        })
    };
    let both = async { tokio::join!(server, client) };
    tokio::time::timeout(DEADLINE, both).await.expect("in time")
}

async fn meet(
    tls: &Tls,
    client: &Arc<ClientConfig>,
    name: &str,
) -> (Result<Secured, Fault>, Result<Seen, Option<Error>>) {
    meet_at(tls, client, name, now()).await
}

fn der(certificate: &Certificate) -> Vec<u8> {
    CertificateDer::from_pem_file(&certificate.cert)
        .unwrap()
        .to_vec()
}

// === Names ===

#[tokio::test]
async fn certificates_are_picked_by_name_exact_then_wildcard_then_the_first() {
    let authority = Authority::new();
    let default = authority.server("default", "DNS:default.test,IP:127.0.0.1");
    let wildcard = authority.server("wildcard", "DNS:*.a.test");
    let exact = authority.server("exact", "DNS:X.a.test");
    let tls = loaded(&settings(&[&default, &wildcard, &exact]));
    let client = Arc::new(client(&[&TLS13], None));
    for (name, expected) in [
        ("x.a.test", &exact),
        ("X.A.test", &exact),
        ("y.a.test", &wildcard),
        ("z.y.a.test", &default),
        ("a.test", &default),
        ("elsewhere.test", &default),
        // An address is no server name: none is sent.
        ("127.0.0.1", &default),
    ] {
        let (secured, seen) = meet(&tls, &client, name).await;
        assert_eq!(seen.unwrap().certificate, der(expected), "{name}");
        let sent = (name != "127.0.0.1").then(|| name.to_lowercase());
        assert_eq!(secured.unwrap().server_name, sent);
    }
}

#[tokio::test]
async fn a_client_that_verifies_is_satisfied_with_the_chain() {
    let authority = Authority::new();
    authority.issue(
        "between",
        "ca",
        "/CN=between",
        "basicConstraints=critical,CA:TRUE\n",
    );
    let leaf = authority.issue("leaf", "between", "/CN=leaf", "subjectAltName=DNS:a.test\n");
    let chain = authority.read("leaf.pem") + &authority.read("between.pem");
    authority.write("leaf.pem", chain);
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(authority.path("ca.pem")).unwrap();
    roots.add(root).unwrap();
    let strict = ClientConfig::builder_with_provider(Arc::new(load::provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (secured, seen) = meet(&loaded(&settings(&[&leaf])), &Arc::new(strict), "a.test").await;
    seen.unwrap();
    assert!(secured.unwrap().identity.is_none());
}

#[tokio::test]
async fn a_reload_shows_the_new_certificate_and_takes_the_old_tickets() {
    let authority = Authority::new();
    let (old, new) = (
        authority.server("old", "DNS:a.test"),
        authority.server("new", "DNS:a.test"),
    );
    let tickets = Tickets::new(now());
    let before = shared(&settings(&[&old]), &tickets);
    let live = arc_swap::ArcSwap::new(before);
    let known = Arc::new(client(&[&TLS13], None));
    let (_, seen) = meet(&live.load_full(), &known, "a.test").await;
    assert_eq!(seen.unwrap().certificate, der(&old));
    live.store(shared(&settings(&[&new]), &tickets));
    let stranger = Arc::new(client(&[&TLS13], None));
    let (_, seen) = meet(&live.load_full(), &stranger, "a.test").await;
    assert_eq!(seen.unwrap().certificate, der(&new));
    let (secured, _) = meet(&live.load_full(), &known, "a.test").await;
    assert!(secured.unwrap().resumed);
}

#[test]
fn two_certificates_of_one_name_are_a_warning_and_the_first_is_shown() {
    let authority = Authority::new();
    let (one, two) = (
        authority.server("one", "DNS:a.test,DNS:b.test"),
        authority.server("two", "DNS:b.test"),
    );
    let loaded = load_at(&settings(&[&one, &two]), now()).unwrap();
    let [warning] = &*loaded.warnings else {
        panic!("{:?}", loaded.warnings);
    };
    assert!(warning.contains("two.pem: b.test already has"), "{warning}");
    assert_eq!(loaded.certificates[0].names, ["a.test", "b.test"]);
    let files = [&one.cert, &one.key, &two.cert, &two.key];
    assert_eq!(loaded.files.iter().collect::<Vec<_>>(), files);
}

// === What is spoken ===

#[tokio::test]
async fn the_post_quantum_group_is_taken_and_protocols_as_offered() {
    let authority = Authority::new();
    let server = authority.server("server", "DNS:a.test");
    let tls = loaded(&settings(&[&server]));
    for (offered, h2) in [
        (vec!["http/1.1", "h2"], true),
        (vec!["http/1.1"], false),
        (vec![], false),
    ] {
        let mut client = client(&[&TLS13], None);
        client.alpn_protocols = offered.iter().map(|it| it.as_bytes().to_vec()).collect();
        let (secured, seen) = meet(&tls, &Arc::new(client), "a.test").await;
        let (secured, seen) = (secured.unwrap(), seen.unwrap());
        assert_eq!(seen.group, Some(NamedGroup::X25519MLKEM768));
        assert_eq!(secured.group, "X25519MLKEM768");
        assert_eq!(secured.h2, h2);
        assert_eq!(secured.version, "TLSv1.3");
        assert_eq!(secured.cipher, "TLS13_AES_256_GCM_SHA384");
    }
}

#[tokio::test]
async fn a_listener_without_h2_does_not_agree_on_it() {
    let authority = Authority::new();
    let server = authority.server("server", "DNS:a.test");
    let (tickets, challenges) = (Tickets::new(now()), Challenges::default());
    let tls = load(
        &settings(&[&server]),
        false,
        Path::new("/"),
        &tickets,
        &challenges,
        now(),
    );
    let mut client = client(&[&TLS13], None);
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (secured, seen) = meet(&tls.unwrap().tls, &Arc::new(client), "a.test").await;
    assert_eq!(seen.unwrap().alpn.as_deref(), Some(&b"http/1.1"[..]));
    assert!(!secured.unwrap().h2);
}

#[tokio::test]
async fn an_unknown_protocol_ends_in_an_alert() {
    let authority = Authority::new();
    let tls = loaded(&settings(&[&authority.server("server", "DNS:a.test")]));
    for versions in [[&TLS12], [&TLS13]] {
        for offered in [&["imap"][..], &["imap", "acme-tls/1"], &["acme-tls/1"]] {
            let mut client = client(&versions, None);
            client.alpn_protocols = offered.iter().map(|it| it.as_bytes().to_vec()).collect();
            let (secured, seen) = meet(&tls, &Arc::new(client), "a.test").await;
            assert_eq!(secured.unwrap_err(), Fault::NoSharedProtocol);
            let alert = Error::AlertReceived(AlertDescription::NoApplicationProtocol);
            assert_eq!(seen.unwrap_err(), Some(alert));
        }
    }
}

#[tokio::test]
async fn tls12_is_spoken_where_it_is_allowed_with_forward_secrecy_only() {
    let authority = Authority::new();
    let server = authority.server("server", "DNS:a.test");
    let mut settings = settings(&[&server]);
    let client = Arc::new(client(&[&TLS12], None));
    let secured = meet(&loaded(&settings), &client, "a.test").await.0.unwrap();
    assert_eq!(secured.version, "TLSv1.2");
    assert_eq!(secured.cipher, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384");
    settings.tls12 = false;
    let fault = meet(&loaded(&settings), &client, "a.test")
        .await
        .0
        .unwrap_err();
    assert_eq!(fault, Fault::NoSharedVersion);
}

/// What a client sends that knows this version at most, and RSA and ECDHE with CBC.
fn old_hello(version: u8, signature_algorithms: bool) -> Vec<u8> {
    let mut hello = vec![3, version];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend([0, 4, 0xc0, 0x13, 0, 0x2f]);
    hello.extend([1, 0]);
    if signature_algorithms {
        hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    }
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

#[tokio::test]
async fn tls11_and_older_are_refused_with_an_alert() {
    const ALERT: u8 = 21;
    const HANDSHAKE_FAILURE: u8 = 40;
    const PROTOCOL_VERSION: u8 = 70;
    let authority = Authority::new();
    let tls = loaded(&settings(&[&authority.server("server", "DNS:a.test")]));
    for version in [0, 1, 2] {
        for (signature_algorithms, expected) in
            [(true, PROTOCOL_VERSION), (false, HANDSHAKE_FAILURE)]
        {
            let (mut client, server) = pair().await;
            let hello = old_hello(version, signature_algorithms);
            client.write_all(&hello).await.unwrap();
            let failed = handshake(server, &tls, now()).await.unwrap_err();
            assert_eq!(failed.fault, Fault::NoSharedVersion);
            let mut alert = [0; 7];
            client.read_exact(&mut alert).await.unwrap();
            assert_eq!((alert[0], alert[6]), (ALERT, expected));
        }
    }
}

#[tokio::test]
async fn plaintext_is_told_that_this_is_tls() {
    let authority = Authority::new();
    let tls = loaded(&settings(&[&authority.server("server", "DNS:a.test")]));
    let (mut client, server) = pair().await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        .await
        .unwrap();
    let failed = handshake(server, &tls, now()).await.unwrap_err();
    assert_eq!(failed.fault, Fault::Plaintext);
    let response = failed.fault.response().unwrap();
    failed.stream.unwrap().write_all(&response).await.unwrap();
    let mut heard = vec![0; response.len()];
    client.read_exact(&mut heard).await.unwrap();
    let heard = String::from_utf8(heard).unwrap();
    assert!(heard.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{heard}");
    assert!(heard.contains("connection: close\r\n"), "{heard}");
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("https://")
    );
}

#[tokio::test]
async fn a_hello_that_trickles_is_ended_by_the_callers_deadline() {
    let authority = Authority::new();
    let tls = loaded(&settings(&[&authority.server("server", "DNS:a.test")]));
    let hello = old_hello(3, true);
    for part in [&hello[..0], &hello[..1], &hello[..hello.len() - 1]] {
        let (mut client, server) = pair().await;
        client.write_all(part).await.unwrap();
        if !part.is_empty() {
            server.readable().await.unwrap();
        }
        tokio::time::pause();
        let late = tokio::time::timeout(DEADLINE, handshake(server, &tls, now())).await;
        tokio::time::resume();
        assert!(late.is_err());
        // Dropped, so closed: what we see is an end or a reset.
        assert!(matches!(client.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn a_hello_that_claims_to_be_huge_is_refused_at_once() {
    let authority = Authority::new();
    let tls = loaded(&settings(&[&authority.server("server", "DNS:a.test")]));
    for (claimed, refused) in [
        ([0, 0xff, 0xff], false),
        ([1, 0, 0], true),
        ([0xff; 3], true),
    ] {
        let (mut client, server) = pair().await;
        let mut record = vec![0x16, 3, 1, 0x10, 0, 1];
        record.extend(claimed);
        record.resize(5 + 0x1000, 0);
        client.write_all(&record).await.unwrap();
        client.shutdown().await.unwrap();
        let fault = handshake(server, &tls, now()).await.unwrap_err().fault;
        // The largest that is allowed is waited for; here its client leaves.
        assert_eq!(fault == Fault::Reset, !refused, "{claimed:?}: {fault:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_a_reset_and_one_that_breaks_the_rules_is_not() {
    let authority = Authority::new();
    let tls = loaded(&settings(&[&authority.server("server", "DNS:a.test")]));
    for (sent, label) in [
        (&b""[..], "reset"),
        (&[0x16, 3, 1][..], "reset"),
        (&[0x16, 3, 1, 0, 4, 2, 0, 0, 0][..], "other"),
        (&[0x16, 9, 9, 0, 0, 0, 0][..], "other"),
    ] {
        let (mut client, server) = pair().await;
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let fault = handshake(server, &tls, now()).await.unwrap_err().fault;
        assert_eq!(fault.label(), label, "{sent:?}: {fault:?}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn unix_sockets_do_as_well() {
    let authority = Authority::new();
    let tls = loaded(&settings(&[&authority.server("server", "DNS:a.test")]));
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    let connector = TlsConnector::from(Arc::new(client(&[&TLS13], None)));
    let name = ServerName::try_from("a.test").unwrap();
    let (server, client) = tokio::join!(handshake(far, &tls, now()), connector.connect(name, near));
    client.unwrap();
    assert_eq!(server.unwrap().1.version, "TLSv1.3");
}

// === Tickets ===

#[tokio::test]
async fn a_session_goes_on_in_a_process_that_took_over_the_ring() {
    let authority = Authority::new();
    let server = authority.server("server", "DNS:a.test");
    for version in [&TLS12, &TLS13] {
        let ours = Tickets::new(now());
        let client = Arc::new(client(&[version], None));
        let first = shared(&settings(&[&server]), &ours);
        assert!(!meet(&first, &client, "a.test").await.0.unwrap().resumed);
        let theirs = Tickets::new(now());
        let second = shared(&settings(&[&server]), &theirs);
        // Made before the ring came: what is in use must see it.
        theirs.import(&ours.export()).unwrap();
        assert!(meet(&second, &client, "a.test").await.0.unwrap().resumed);
        let stranger = shared(&settings(&[&server]), &Tickets::new(now()));
        let (secured, seen) = meet(&stranger, &client, "a.test").await;
        assert!(!secured.unwrap().resumed, "an unknown key: full handshake");
        seen.unwrap();
    }
}

#[tokio::test]
async fn a_ticket_is_worth_nothing_under_another_policy() {
    let authority = Authority::new();
    let other = Authority::new();
    let server = authority.server("server", "DNS:a.test");
    let ana = authority.person("ana", "/O=search/CN=ana");
    let tickets = Tickets::new(now());
    let with = |client_auth| Settings {
        client_auth,
        ..settings(&[&server])
    };
    let optional = shared(&with(authority.client_auth("optional")), &tickets);
    let required = shared(&with(authority.client_auth("required")), &tickets);
    let none = shared(&with(ClientAuth::None), &tickets);
    let elsewhere = shared(&with(other.client_auth("optional")), &tickets);
    for version in [&TLS12, &TLS13] {
        let anonymous = Arc::new(client(&[version], None));
        for policy in [&none, &optional] {
            meet(policy, &anonymous, "a.test").await.0.unwrap();
            let (secured, seen) = meet(&required, &anonymous, "a.test").await;
            assert_eq!(secured.unwrap_err(), Fault::NoCertificate);
            seen.unwrap_err();
        }
        let anonymous = Arc::new(client(&[version], None));
        for (policy, expected) in [(&optional, false), (&optional, true), (&elsewhere, false)] {
            let secured = meet(policy, &anonymous, "a.test").await.0.unwrap();
            assert_eq!(
                secured.resumed, expected,
                "other authorities, another policy"
            );
        }
        let ana = Arc::new(client(&[version], Some(&ana)));
        meet(&optional, &ana, "a.test").await.0.unwrap();
        let secured = meet(&required, &ana, "a.test").await.0.unwrap();
        assert!(!secured.resumed);
        let secured = meet(&required, &ana, "a.test").await.0.unwrap();
        assert!(secured.resumed, "by the same policy");
        assert_eq!(secured.identity.unwrap().subject, "CN=ana,O=search");
        let fault = meet(&elsewhere, &ana, "a.test").await.0.unwrap_err();
        assert_eq!(fault.label(), "bad_certificate", "{fault}");
    }
}

#[tokio::test]
async fn a_ticket_does_not_outlive_the_certificate_that_it_was_given_for() {
    let authority = Authority::new();
    let server = authority.server("server", "DNS:a.test");
    let ana = authority.person("ana", "/CN=ana");
    let tls = loaded(&Settings {
        client_auth: authority.client_auth("required"),
        ..settings(&[&server])
    });
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(client(&[version], Some(&ana)));
        meet(&tls, &client, "a.test").await.0.unwrap();
        let later = now() + 29 * DAY;
        let secured = meet_at(&tls, &client, "a.test", later).await.0.unwrap();
        assert!(secured.resumed);
        let expired = now() + 31 * DAY;
        let fault = meet_at(&tls, &client, "a.test", expired)
            .await
            .0
            .unwrap_err();
        let Fault::BadCertificate(said) = &fault else {
            panic!("{fault:?}");
        };
        assert!(said.contains("expired"), "{said}");
    }
}

// === Clients' certificates ===

#[tokio::test]
async fn who_comes_in_with_which_certificate() {
    let authority = Authority::new();
    let other = Authority::new();
    let server = authority.server("server", "DNS:a.test");
    let ana = authority.person("ana", "/O=search/CN=ana");
    let stranger = other.person("stranger", "/CN=stranger");
    let expired = authority.issue_expired("expired", "/CN=expired");
    let known = Ok(Some("CN=ana,O=search"));
    let bad = Err("bad_certificate");
    for (mode, shown, expected) in [
        ("none", None, Ok(None)),
        ("none", Some(&ana), Ok(None)),
        ("none", Some(&expired), Ok(None)),
        ("optional", None, Ok(None)),
        ("optional", Some(&ana), known),
        ("optional", Some(&stranger), bad),
        ("optional", Some(&expired), bad),
        ("required", None, Err("no_certificate")),
        ("required", Some(&ana), known),
        ("required", Some(&stranger), bad),
        ("required", Some(&expired), bad),
    ] {
        let tls = loaded(&Settings {
            client_auth: authority.client_auth(mode),
            ..settings(&[&server])
        });
        for version in [&TLS12, &TLS13] {
            let client = Arc::new(client(&[version], shown));
            let (secured, seen) = meet(&tls, &client, "a.test").await;
            let who = secured.map(|it| it.identity.map(|it| it.subject.clone()));
            let who = who.as_ref().map(Option::as_deref).map_err(Fault::label);
            assert_eq!(who, expected, "{mode} {shown:?} {version:?}");
            assert_eq!(seen.is_ok(), expected.is_ok(), "{mode} {shown:?}");
        }
    }
}

#[test]
fn a_subject_is_written_as_rfc_4514_says() {
    let authority = Authority::new();
    for (given, expected) in [
        ("/O=search/CN=ana", "CN=ana,O=search"),
        (
            "/DC=test/DC=corp/CN=Users/CN=ana",
            "CN=ana,CN=Users,DC=corp,DC=test",
        ),
        (
            "/C=AT/ST=Wien/L=Wien/O=A, B/OU=x\\+y/CN=\"q\" <a;b>",
            "CN=\\\"q\\\" \\<a\\;b\\>,OU=x\\+y,O=A\\, B,L=Wien,ST=Wien,C=AT",
        ),
        ("/CN= ana ", "CN=\\ ana\\ "),
        ("/CN=#1=a\\\\", "CN=\\#1=a\\\\"),
        ("/CN=Jürgen/UID=7", "UID=7,CN=Jürgen"),
        ("/CN=a\tb", "CN=a\\09b"),
        (
            "/emailAddress=a@b.test/CN=ana",
            "CN=ana,emailAddress=a@b.test",
        ),
        ("/title=Dr/CN=ana", "CN=ana,2.5.4.12=#0C024472"),
        ("/CN=ana+UID=7", "CN=ana+UID=7"),
    ] {
        let person = authority.person("person", given);
        let identity = identity::read(&CertificateDer::from(der(&person))).unwrap();
        assert_eq!(identity.subject, expected, "{given}");
    }
}

#[test]
fn a_subject_is_what_openssl_prints_for_whoever_writes_the_settings() {
    let authority = Authority::new();
    let given = "/DC=test/O=A, B/OU=#1/CN=Jürgen <x>/emailAddress=a@b.test";
    let person = authority.person("person", given);
    let printed = authority.openssl_with([
        "x509",
        "-in",
        "person.pem",
        "-noout",
        "-subject",
        "-nameopt",
        "RFC2253,-esc_msb",
    ]);
    let identity = identity::read(&CertificateDer::from(der(&person))).unwrap();
    assert_eq!(printed.trim(), format!("subject={}", identity.subject));
}

#[test]
fn uris_are_read_and_what_could_be_two_people_is_refused() {
    let authority = Authority::new();
    let with = |name: &str, names: &str| {
        let extensions = format!("subjectAltName={names}\n");
        let person = authority.issue(name, "ca", "/CN=ana", &extensions);
        identity::read(&CertificateDer::from(der(&person)))
    };
    let identity = with(
        "both",
        "URI:spiffe://a.test/ana,URI:https://a.test/,URI:spiffe://a.test/ana,DNS:a.test",
    );
    let identity = identity.unwrap();
    assert_eq!(identity.uris, ["spiffe://a.test/ana", "https://a.test/"]);
    assert!(identity.not_after > now() + 29 * DAY && identity.not_after < now() + 31 * DAY);
    let two = with("two", "URI:spiffe://a.test/ana,URI:SPIFFE://a.test/ben");
    assert_eq!(two.unwrap_err(), "it has two SPIFFE IDs");
    // openssl makes no extension twice: another's number is changed into it.
    let placeholder = "2.5.29.99=DER:30088206612E74657374\nsubjectAltName=DNS:b.test\n";
    let twice = authority.issue("twice", "ca", "/CN=ana", placeholder);
    let mut twice = der(&twice);
    let at = memchr::memmem::find(&twice, &[0x55, 0x1d, 99]).unwrap();
    twice[at + 2] = 17;
    let twice = identity::read(&CertificateDer::from(twice));
    assert!(twice.unwrap_err().contains("twice"));
    for (name, inside) in [
        ("nul-in-uri", "30 07 86 05 61 3A 62 00 63"),
        ("nul-in-dns", "30 05 82 03 61 00 62"),
        ("space-in-uri", "30 05 86 03 61 20 62"),
    ] {
        let hex: String = inside.split(' ').collect();
        let extensions = format!("2.5.29.17=DER:{hex}\n");
        let person = authority.issue(name, "ca", "/CN=ana", &extensions);
        let read = identity::read(&CertificateDer::from(der(&person)));
        assert!(read.is_err(), "{name}: {read:?}");
    }
    let der = der(&authority.named("both"));
    assert!(identity::read(&CertificateDer::from(&der[..der.len() - 1])).is_err());
    assert!(identity::read(&CertificateDer::from([der, vec![0]].concat())).is_err());
}

// === Mistakes ===

/// All that is said of these settings.
fn mistakes(settings: &Settings) -> String {
    mistakes_at(settings, now())
}

fn mistakes_at(settings: &Settings, now: SystemTime) -> String {
    let mistakes = load_at(settings, now).expect_err("a mistake");
    let said: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    said.join("\n")
}

#[test]
fn every_mistake_in_a_file_is_named() {
    let authority = Authority::new();
    let good = authority.server("good", "DNS:a.test");
    let other = authority.server("other", "DNS:a.test");
    let text = authority.read("good.pem");
    let key = authority.read("good.key");
    let encoded = text.lines().nth(1).unwrap();
    authority.openssl("x509 -in good.pem -outform DER -out good.der");
    authority.openssl("pkey -in good.key -aes128 -passout pass:x -out locked.key");
    let large = format!("{text}{}", " ".repeat(1 << 20));
    for (name, cert, key, said) in [
        (
            "absent",
            None,
            Some(key.clone()),
            "absent.pem: can't be read: No such file",
        ),
        (
            "nokey",
            Some(text.clone()),
            None,
            "nokey.key: can't be read: No such file",
        ),
        (
            "empty",
            Some(String::new()),
            Some(key.clone()),
            "empty.pem: is empty",
        ),
        (
            "emptykey",
            Some(text.clone()),
            Some("\n".into()),
            "emptykey.key: is empty",
        ),
        (
            "prose",
            Some("hello".into()),
            Some(key.clone()),
            "prose.pem: is not a PEM file",
        ),
        (
            "swapped",
            Some(key.clone()),
            Some(text.clone()),
            "swapped.pem: has no such block",
        ),
        (
            "swapped",
            Some(key.clone()),
            Some(text.clone()),
            "swapped.key: has no such block",
        ),
        (
            "cut",
            Some(text.replace("-----END CERTIFICATE-----", "")),
            Some(key.clone()),
            "cut.pem: is damaged",
        ),
        (
            "base64",
            Some(text.replace(encoded, "!!!!")),
            Some(key.clone()),
            "base64.pem: is damaged",
        ),
        (
            "garbage",
            Some(text.replace(encoded, &"A".repeat(64))),
            Some(key.clone()),
            "garbage.pem: block 1 is no X.509 certificate",
        ),
        (
            "locked",
            Some(text.clone()),
            Some(authority.read("locked.key")),
            "locked.key: holds a private key under a passphrase",
        ),
        (
            "wrongkey",
            Some(text.clone()),
            Some(authority.read("other.key")),
            "wrongkey.key: is not the key of the certificate in",
        ),
        (
            "large",
            Some(large),
            Some(key.clone()),
            "large.pem: is larger than 1048576 bytes",
        ),
    ] {
        for (ending, content) in [("pem", cert), ("key", key)] {
            if let Some(content) = content {
                authority.write(&format!("{name}.{ending}"), content);
            }
        }
        let all = mistakes(&settings(&[&authority.named(name)]));
        assert!(all.contains(said), "{name}: {all}");
    }
    let der = Certificate {
        cert: authority.path("good.der"),
        ..good.clone()
    };
    assert!(mistakes(&settings(&[&der])).contains("good.der: is DER, not PEM"));
    load_at(&settings(&[&good, &other]), now()).unwrap();
}

#[test]
fn every_mistake_in_a_chain_is_named() {
    let authority = Authority::new();
    authority.issue(
        "between",
        "ca",
        "/CN=between",
        "basicConstraints=critical,CA:TRUE\n",
    );
    let leaf = authority.issue("leaf", "between", "/CN=leaf", "subjectAltName=DNS:a.test\n");
    let (own, between, ca) = (
        authority.read("leaf.pem"),
        authority.read("between.pem"),
        authority.read("ca.pem"),
    );
    let with = |chain: String| {
        authority.write("leaf.pem", chain);
        load_at(&settings(&[&leaf]), now()).map_err(|it| it[0].to_string())
    };
    with(own.clone() + &between).unwrap();
    with(own.clone() + &between + &ca).unwrap();
    let said = with(own.clone() + &ca + &between).unwrap_err();
    let expected = "certificate 1 (CN=leaf) was not signed by the next one (CN=ca), but by \
                    CN=between, which is certificate 3";
    assert!(said.contains(expected), "{said}");
    let said = with(between.clone() + &own).unwrap_err();
    assert!(said.contains("leaf.pem: is in the wrong order"), "{said}");
    // The same name, another key.
    authority.issue(
        "impostor",
        "ca",
        "/CN=between",
        "basicConstraints=critical,CA:TRUE\n",
    );
    let said = with(own + &authority.read("impostor.pem")).unwrap_err();
    assert!(said.contains("has a broken link: certificate 1"), "{said}");
}

#[test]
fn times_names_keys_and_purposes_are_looked_at() {
    let authority = Authority::new();
    let good = authority.server("good", "DNS:a.test");
    let san = "subjectAltName=DNS:a.test\n";
    let (later, earlier) = (now() + 31 * DAY, now() - 2 * DAY);
    let said = mistakes_at(&settings(&[&good]), later);
    assert!(
        said.contains("good.pem: certificate 1 (CN=good) expired at 20"),
        "{said}"
    );
    assert!(said.contains("; renew it"), "{said}");
    let said = mistakes_at(&settings(&[&good]), earlier);
    assert!(said.contains("is not valid before 20"), "{said}");
    let plain = "basicConstraints=CA:FALSE\n";
    let nameless = authority.issue("nameless", "ca", "/CN=a.test", plain);
    let said = mistakes(&settings(&[&nameless]));
    assert!(
        said.contains("nameless.pem: has no names: CN=a.test"),
        "{said}"
    );
    let weak = authority.issue_with("rsa:1024", "weak", "ca", "/CN=weak", san);
    let said = mistakes(&settings(&[&weak]));
    assert!(
        said.contains("weak.pem: has an RSA key of 1024 bits"),
        "{said}"
    );
    let usage = format!("{san}extendedKeyUsage=clientAuth\n");
    let person = authority.issue("person", "ca", "/CN=person", &usage);
    let said = mistakes(&settings(&[&person]));
    assert!(said.contains("person.pem: is not for servers"), "{said}");
    let curve = authority.issue_with("ed448", "curve", "ca", "/CN=curve", san);
    let said = mistakes(&settings(&[&curve]));
    assert!(said.contains("curve.pem: has a key of a kind"), "{said}");
    for (name, key) in [
        ("rsa", "rsa:2048"),
        ("p384", "ec -pkeyopt ec_paramgen_curve:P-384"),
        ("ed25519", "ed25519"),
    ] {
        let certificate = authority.issue_with(key, name, "ca", "/CN=it", san);
        load_at(&settings(&[&certificate]), now()).unwrap();
    }
    // All at once.
    let said = mistakes_at(&settings(&[&nameless, &weak]), later);
    assert_eq!(said.lines().count(), 4, "{said}");
}

#[test]
fn what_expires_soon_is_a_warning() {
    let authority = Authority::new();
    let settings = settings(&[&authority.server("server", "DNS:a.test")]);
    let warnings = |after| load_at(&settings, now() + after).unwrap().warnings;
    // It lives for 30 days.
    assert_eq!(warnings(15 * DAY), [""; 0]);
    assert_eq!(warnings(17 * DAY).len(), 1);
    let [warning] = &*warnings(21 * DAY) else {
        panic!("one warning");
    };
    assert!(
        warning.ends_with("server.pem: expires in 8 days; renew it"),
        "{warning}"
    );
}

#[test]
fn a_key_that_everyone_can_read_is_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let authority = Authority::new();
    let server = authority.server("server", "DNS:a.test");
    std::fs::set_permissions(&server.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = load_at(&settings(&[&server]), now()).unwrap().warnings;
    assert!(
        warnings[0].contains("(mode 0644); chmod 0600"),
        "{warnings:?}"
    );
}

#[test]
fn authorities_of_clients_are_looked_at_too() {
    let authority = Authority::new();
    let server = authority.server("server", "DNS:a.test");
    let with = |path: &Path| Settings {
        client_auth: ClientAuth::Required(path.to_owned()),
        ..settings(&[&server])
    };
    let said = mistakes(&with(&authority.path("none.pem")));
    assert!(said.contains("none.pem: can't be read"), "{said}");
    let said = mistakes(&with(&authority.write("empty.pem", "")));
    assert!(said.contains("empty.pem: is empty"), "{said}");
    let said = mistakes(&with(&server.cert));
    assert!(
        said.contains("has no authority in it: CN=server is no authority"),
        "{said}"
    );
    let said = mistakes_at(&with(&authority.path("ca.pem")), now() + 61 * DAY);
    assert!(
        said.contains("has no authority in it: CN=ca expired at"),
        "{said}"
    );
    let both = authority.read("server.pem") + &authority.read("ca.pem");
    let loaded = load_at(&with(&authority.write("both.pem", both)), now()).unwrap();
    assert!(loaded.warnings[0].contains("both.pem: CN=server is no authority"));
    assert!(loaded.files.contains(&authority.path("both.pem")));
}

// === ACME ===

fn with_acme(client_auth: ClientAuth) -> Settings {
    Settings {
        acme: Some(Acme {
            directory: "https://acme.test/".to_owned(),
            email: None,
            domains: vec!["a.test".to_owned(), "b.test".to_owned()],
            ca: None,
        }),
        client_auth,
        ..settings(&[])
    }
}

#[tokio::test]
async fn an_acme_listener_starts_without_a_certificate_and_takes_the_one_that_comes() {
    let authority = Authority::new();
    let settings = with_acme(ClientAuth::None);
    let (tickets, challenges) = (Tickets::new(now()), Challenges::default());
    let state_dir = authority.path("state");
    let load = || load(&settings, true, &state_dir, &tickets, &challenges, now()).unwrap();
    let client = Arc::new(client(&[&TLS13], None));
    let before = load();
    assert!(before.warnings[0].contains("no certificate for a.test, b.test yet"));
    let path = state_dir.join("acme/certificates/a.test.pem");
    assert_eq!(before.files, std::slice::from_ref(&path));
    assert!(!before.tls.ready());
    let fault = meet(&before.tls, &client, "a.test").await.0.unwrap_err();
    assert_eq!(fault, Fault::NotReady);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "half of a file").unwrap();
    let damaged = load();
    assert!(damaged.warnings[0].contains("a.test.pem: is not a PEM file"));
    assert!(!damaged.tls.ready());
    let server = authority.server("server", "DNS:a.test");
    let both = authority.read("server.key") + &authority.read("server.pem");
    std::fs::write(&path, both).unwrap();
    let after = load();
    assert!(after.warnings[0].contains("isn't for [\"b.test\"] yet"));
    assert!(after.certificates[0].acme);
    let (_, seen) = meet(&after.tls, &client, "a.test").await;
    assert_eq!(seen.unwrap().certificate, der(&server));
}

#[tokio::test]
async fn an_acme_server_gets_the_challenges_certificate_in_whichever_process() {
    let authority = Authority::new();
    // The listener asks for certificates; an ACME server has none.
    let settings = with_acme(authority.client_auth("required"));
    let answer = authority.issue(
        "answer",
        "ca",
        "/CN=answer",
        "subjectAltName=DNS:a.test\n1.3.6.1.5.5.7.1.31=critical,DER:0403010203\n",
    );
    authority.openssl("pkcs8 -topk8 -nocrypt -in answer.key -outform DER -out answer.der");
    let key = std::fs::read(authority.path("answer.der")).unwrap();
    let ours = Challenges::default();
    let other = authority.server("other", "DNS:a.test");
    assert!(
        ours.set_alpn("a.test", &der(&other), &key).is_err(),
        "of another key"
    );
    ours.set_alpn("A.test", &der(&answer), &key).unwrap();
    let theirs = Challenges::default();
    theirs.import(&ours.export()).unwrap();
    let tickets = Tickets::new(now());
    let tls = load(&settings, true, Path::new("/"), &tickets, &theirs, now());
    let tls = tls.unwrap().tls;
    for version in [&TLS12, &TLS13] {
        let mut validator = client(&[version], None);
        validator.alpn_protocols = vec![ALPN.to_vec()];
        let validator = Arc::new(validator);
        let (secured, seen) = meet(&tls, &validator, "a.test").await;
        let (secured, seen) = (secured.unwrap(), seen.unwrap());
        assert!(secured.acme_challenge && !secured.h2 && !secured.resumed);
        assert_eq!(seen.certificate, der(&answer));
        assert_eq!(seen.alpn.as_deref(), Some(ALPN));
        let again = meet(&tls, &validator, "a.test").await.0.unwrap();
        assert!(!again.resumed, "no tickets for challenges");
        let fault = meet(&tls, &validator, "b.test").await.0.unwrap_err();
        assert_eq!(fault, Fault::NotReady);
        let mut browser = client(&[version], None);
        browser.alpn_protocols = vec![ALPN.to_vec(), b"h2".to_vec()];
        let fault = meet(&tls, &Arc::new(browser), "a.test")
            .await
            .0
            .unwrap_err();
        assert_eq!(fault, Fault::NotReady, "another protocol: no challenge");
    }
    theirs.clear("a.test");
    let mut validator = client(&[&TLS13], None);
    validator.alpn_protocols = vec![ALPN.to_vec()];
    let fault = meet(&tls, &Arc::new(validator), "a.test")
        .await
        .0
        .unwrap_err();
    assert_eq!(fault, Fault::NotReady);
}

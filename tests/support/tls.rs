//! TLS in front of a plaintext server, with certificates of an authority of the test's own.
//!
//! `openssl` makes the certificates; what comes out of TLS goes to the server byte by byte.

use super::folder::Folder;
use super::gate::Board;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

/// A certificate authority in a folder of its own.
pub struct Authority {
    folder: Folder,
}

/// A server of TLS on a port of its own.
pub struct TlsFront {
    address: SocketAddr,
    handshakes: Arc<Board<Vec<Handshake>>>,
}

/// What a client said in its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The server's name, if it sent one.
    pub server_name: Option<String>,
    /// What both speak, if they agreed on something.
    pub protocol: Option<String>,
}

// === impl Authority ===

impl Authority {
    /// Makes the authority.
    pub fn new() -> Self {
        let authority = Self {
            folder: Folder::new(),
        };
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tests \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign \
             -keyout ca.key -out ca.pem",
        );
        authority
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A TLS server for these names (`DNS:a.test,IP:127.0.0.1`) and protocols, in front of `to`.
    pub fn front(&self, names: &str, protocols: &[&str], to: SocketAddr) -> TlsFront {
        self.folder.write(
            "extensions",
            format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n"),
        );
        self.openssl(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server \
             -keyout server.key -out server.csr",
        );
        self.openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 \
             -extfile extensions -out server.pem",
        );
        let chain = CertificateDer::pem_file_iter(self.folder.join("server.pem"))
            .expect("the certificate")
            .map(|certificate| certificate.expect("a certificate"))
            .collect();
        let key = PrivateKeyDer::from_pem_file(self.folder.join("server.key")).expect("the key");
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate with its key");
        config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        TlsFront::start(Arc::new(config), to)
    }

    /// A certificate that it signs, and its key, in files of this name. `subject` such as
    /// `/O=search/CN=ana`, `names` such as `DNS:a.test,URI:spiffe://test/a`.
    pub fn issue(&self, file: &str, subject: &str, names: &str, days: i32) -> (PathBuf, PathBuf) {
        self.folder.write(
            "extensions",
            format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n"),
        );
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj {subject} \
             -keyout {file}.key -out {file}.csr",
        ));
        self.openssl(&format!(
            "x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} \
             -extfile extensions -out {file}.pem",
        ));
        let path = |end: &str| self.folder.join(&format!("{file}.{end}"));
        (path("pem"), path("key"))
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path())
            .output()
            .expect("openssl is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {said}");
    }
}

// === impl TlsFront ===

impl TlsFront {
    fn start(config: Arc<ServerConfig>, to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let handshakes = Arc::default();
        let known = Arc::clone(&handshakes);
        // Ends with the tests' process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (config, known) = (Arc::clone(&config), Arc::clone(&known));
                std::thread::spawn(move || connection(config, client, to, &known));
            }
        });
        Self {
            address,
            handshakes,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The handshakes that were completed.
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.handshakes.lock().clone()
    }
}

fn connection(
    config: Arc<ServerConfig>,
    mut client: TcpStream,
    to: SocketAddr,
    known: &Board<Vec<Handshake>>,
) {
    let _ = client.set_nodelay(true);
    let mut tls = ServerConnection::new(config).expect("a sound configuration");
    while tls.is_handshaking() {
        if tls.complete_io(&mut client).is_err() {
            return;
        }
    }
    known.change(|known| {
        known.push(Handshake {
            server_name: tls.server_name().map(str::to_owned),
            protocol: tls
                .alpn_protocol()
                .map(|it| String::from_utf8_lossy(it).into_owned()),
        });
    });
    let Ok(server) = TcpStream::connect(to) else {
        return;
    };
    let _ = server.set_nodelay(true);
    let (Ok(mut from_server), Ok(mut to_client)) = (server.try_clone(), client.try_clone()) else {
        return;
    };
    let tls = Arc::new(Mutex::new(tls));
    let shared = Arc::clone(&tls);
    let back = std::thread::spawn(move || {
        let mut piece = vec![0; 1 << 14];
        while let Ok(count @ 1..) = from_server.read(&mut piece) {
            let mut tls = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if tls.writer().write_all(&piece[..count]).is_err() || !flush(&mut tls, &mut to_client)
            {
                break;
            }
        }
        let mut tls = shared.lock().unwrap_or_else(PoisonError::into_inner);
        tls.send_close_notify();
        flush(&mut tls, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    forth(&tls, &mut client, server);
    let _ = back.join();
}

/// Decrypts until the client's end.
fn forth(tls: &Mutex<ServerConnection>, client: &mut TcpStream, mut server: TcpStream) {
    let mut sealed = vec![0; 1 << 14];
    let mut plain = vec![0; 1 << 15];
    let mut count = 0;
    loop {
        let mut rest = &sealed[..count];
        loop {
            let mut tls = tls.lock().unwrap_or_else(PoisonError::into_inner);
            if !rest.is_empty() && tls.read_tls(&mut rest).is_err() {
                break;
            }
            if tls.process_new_packets().is_err() || !flush(&mut tls, client) {
                break;
            }
            while let Ok(count @ 1..) = tls.reader().read(&mut plain) {
                if server.write_all(&plain[..count]).is_err() {
                    return;
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        count = match client.read(&mut sealed) {
            Ok(count @ 1..) => count,
            _ => break,
        };
    }
    let _ = server.shutdown(Shutdown::Both);
}

fn flush(tls: &mut ServerConnection, client: &mut TcpStream) -> bool {
    while tls.wants_write() {
        if tls.write_tls(client).is_err() {
            return false;
        }
    }
    true
}

//! A client of HTTPS that says what it agreed on.

use super::DEADLINE;
use super::tls::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;

/// How a client is to shake hands.
pub struct Settings<'a> {
    pub authority: &'a Authority,
    /// What it shows of itself.
    pub certificate: Option<(PathBuf, PathBuf)>,
    pub protocols: &'a [&'a str],
    pub versions: &'a [&'static SupportedProtocolVersion],
}

/// A connection that is secure.
pub struct TlsClient {
    tls: ClientConnection,
    socket: TcpStream,
}

impl Settings<'_> {
    /// With the usual versions and no certificate.
    pub fn new(authority: &Authority) -> Settings<'_> {
        Settings {
            authority,
            certificate: None,
            protocols: &["http/1.1"],
            versions: rustls::ALL_VERSIONS,
        }
    }

    /// A configuration; clients of one configuration share their tickets.
    pub fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.authority.ca()).expect("the authority");
        roots.add(ca).expect("an authority");
        let provider = rustls::crypto::CryptoProvider {
            kx_groups: vec![
                rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768,
                rustls::crypto::aws_lc_rs::kx_group::X25519,
            ],
            ..rustls::crypto::aws_lc_rs::default_provider()
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain =
                    vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
                let key = PrivateKeyDer::from_pem_file(key).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = self
            .protocols
            .iter()
            .map(|it| it.as_bytes().to_vec())
            .collect();
        Arc::new(config)
    }
}

impl TlsClient {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// What TLS or the socket says.
    pub fn connect(
        config: &Arc<ClientConfig>,
        address: SocketAddr,
        name: &str,
    ) -> std::io::Result<Self> {
        let mut socket = TcpStream::connect_timeout(&address, DEADLINE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a configuration");
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Self { tls, socket })
    }

    /// The server's certificate.
    pub fn certificate(&self) -> Vec<u8> {
        let chain = self.tls.peer_certificates().expect("a certificate");
        chain[0].to_vec()
    }

    /// How the key was agreed on.
    pub fn group(&self) -> String {
        let group = self.tls.negotiated_key_exchange_group();
        group
            .map(|it| format!("{:?}", it.name()))
            .unwrap_or_default()
    }

    /// The protocol that both speak.
    pub fn protocol(&self) -> Option<String> {
        let protocol = self.tls.alpn_protocol()?;
        Some(String::from_utf8_lossy(protocol).into_owned())
    }

    /// The handshake was cut short by a ticket.
    pub fn resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// One GET on a connection that ends with it; the answer as text, its head too.
    ///
    /// # Errors
    /// What TLS or the socket says.
    pub fn get(&mut self, path: &str) -> std::io::Result<String> {
        let mut stream = rustls::Stream::new(&mut self.tls, &mut self.socket);
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

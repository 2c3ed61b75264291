//! A client's handshake: who it is, what it will speak, or why there is no agreement.
//!
//! **Bounds.** Time is the caller's: one deadline around [`handshake()`]; dropping it closes the
//! connection. Memory is rustls's: a handshake message is at most 64 KiB, its buffer grows by 4 KiB
//! steps as bytes come and is given back, and records are at most 18 KiB. What we send before the
//! client is known is our own certificate chain.

use super::challenges;
use super::identity;
use super::load::Tls;
use crate::listen::head::refusal;
use crate::types::identity::Identity;
use rustls::pki_types::UnixTime;
use rustls::server::{Acceptor, ClientHello};
use rustls::{
    AlertDescription, CertificateError, Error, HandshakeKind, PeerIncompatible, ProtocolVersion,
    ServerConnection,
};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// What was agreed with a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secured {
    /// HTTP/2 will be spoken (ALPN), else HTTP/1.1.
    pub h2: bool,
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The suite's name in IANA's registry.
    pub cipher: &'static str,
    /// How the key was agreed on: `X25519MLKEM768`, …; `unknown` when TLS 1.2 was resumed.
    pub group: &'static str,
    /// The name that the client asked for, in lower case.
    pub server_name: Option<String>,
    /// By a ticket; no certificate was shown by either side.
    pub resumed: bool,
    /// Who the client is, where it showed a certificate, now or when it got its ticket.
    pub identity: Option<Arc<Identity>>,
    /// An ACME server saw what it came for: the connection is to be closed.
    pub acme_challenge: bool,
}

/// Why there is no agreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first byte is no TLS record's: HTTP, most likely.
    Plaintext,
    /// The client speaks no version of TLS that we do.
    NoSharedVersion,
    /// The client speaks neither HTTP/2 nor HTTP/1.1 (ALPN).
    NoSharedProtocol,
    /// ACME hasn't got us a certificate yet, or the challenge that was asked for isn't there.
    NotReady,
    /// The client has to show a certificate and did not.
    NoCertificate,
    /// The client's certificate can't be accepted.
    BadCertificate(String),
    /// The client didn't like what we showed it.
    Refused(String),
    /// It took longer than the caller allows.
    Timeout,
    /// The client left.
    Reset,
    /// Whatever else breaks TLS.
    Other(String),
}

/// A handshake that failed.
#[derive(Debug)]
pub struct Failed<S> {
    /// Why.
    pub fault: Fault,
    /// The connection, to be answered ([`Fault::response`]) and closed without a reset; an alert has
    /// been written to it already where TLS has one.
    pub stream: Option<S>,
}

/// Makes a connection secure.
///
/// # Errors
/// Why the client and we didn't come to terms. The caller's deadline is [`Fault::Timeout`].
pub async fn handshake<S>(
    mut stream: S,
    tls: &Tls,
    now: SystemTime,
) -> Result<(TlsStream<S>, Secured), Failed<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    const RECORD_HANDSHAKE: u8 = 0x16;
    let first = match stream.read_u8().await {
        Ok(first) => first,
        Err(error) => return Err(Failed::new(Fault::of(&error, tls), None)),
    };
    if first != RECORD_HANDSHAKE {
        return Err(Failed::new(Fault::Plaintext, Some(stream)));
    }
    let mut acceptor = Acceptor::default();
    if let Err(error) = acceptor.read_tls(&mut [first].as_slice()) {
        return Err(Failed::new(Fault::of(&error, tls), Some(stream)));
    }
    let mut hello = LazyConfigAcceptor::new(acceptor, stream);
    let start = match (&mut hello).await {
        Ok(start) => start,
        Err(error) => return Err(Failed::new(Fault::of(&error, tls), hello.take_io())),
    };
    let challenge = tls
        .challenge
        .as_ref()
        .filter(|_| asks(&start.client_hello()));
    let config = challenge.unwrap_or(&tls.config);
    let done = start.into_stream(Arc::clone(config)).into_fallible().await;
    let stream = match done {
        Ok(stream) => stream,
        Err((error, stream)) => {
            let fault = match Fault::of(&error, tls) {
                Fault::Other(_) if challenge.is_some() => Fault::NotReady,
                fault => fault,
            };
            return Err(Failed::new(fault, Some(stream)));
        }
    };
    match secured(stream.get_ref().1, tls, challenge.is_some(), now) {
        Ok(secured) => Ok((stream, secured)),
        Err(fault) => Err(Failed::new(fault, Some(stream.into_inner().0))),
    }
}

/// RFC 8737, section 4: the protocol is offered, and no other.
fn asks(hello: &ClientHello<'_>) -> bool {
    hello
        .alpn()
        .is_some_and(|protocols| protocols.eq([challenges::ALPN]))
}

fn secured(
    connection: &ServerConnection,
    tls: &Tls,
    acme_challenge: bool,
    now: SystemTime,
) -> Result<Secured, Fault> {
    let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    let suite = connection.negotiated_cipher_suite();
    let group = connection.negotiated_key_exchange_group();
    Ok(Secured {
        h2: connection.alpn_protocol() == Some(b"h2"),
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "unknown",
        },
        cipher: suite
            .and_then(|it| it.suite().as_str())
            .unwrap_or("unknown"),
        group: group.and_then(|it| it.name().as_str()).unwrap_or("unknown"),
        server_name: connection.server_name().map(str::to_owned),
        resumed,
        identity: if acme_challenge {
            // Whoever asks is no client: it was not asked for a certificate.
            None
        } else {
            client(connection, tls, resumed, now)?
        },
        acme_challenge,
    })
}

/// Who the client is. A ticket remembers the client's certificates and not how long they are good
/// for: on resumption they are verified anew.
fn client(
    connection: &ServerConnection,
    tls: &Tls,
    resumed: bool,
    now: SystemTime,
) -> Result<Option<Arc<Identity>>, Fault> {
    let Some(verifier) = &tls.verifier else {
        return Ok(None);
    };
    let Some((own, others)) = connection.peer_certificates().and_then(<[_]>::split_first) else {
        // rustls has seen to it in a full handshake; a ticket's scope has in a resumed one.
        return if verifier.client_auth_mandatory() {
            Err(Fault::NoCertificate)
        } else {
            Ok(None)
        };
    };
    if resumed {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        verifier
            .verify_client_cert(own, others, UnixTime::since_unix_epoch(since))
            .map_err(|error| Fault::of_tls(&error, tls))?;
    }
    identity::read(own)
        .map(|identity| Some(Arc::new(identity)))
        .map_err(|said| Fault::BadCertificate(said.to_owned()))
}

// === impl Fault ===

impl<S> Failed<S> {
    fn new(fault: Fault, stream: Option<S>) -> Self {
        Self { fault, stream }
    }
}

impl Fault {
    /// Its value in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::NoSharedVersion => "no_shared_version",
            Self::NoSharedProtocol => "no_shared_protocol",
            Self::NotReady => "not_ready",
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate(_) => "bad_certificate",
            Self::Refused(_) => "refused",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Other(_) => "other",
        }
    }

    /// The answer to a client that speaks plaintext, in OpenAI's shape; the connection ends after it.
    /// Every other fault has TLS's own alert, or nobody to tell.
    pub fn response(&self) -> Option<Vec<u8>> {
        if *self != Self::Plaintext {
            return None;
        }
        Some(refusal(
            400,
            "plaintext_on_tls_port",
            "This port speaks TLS: use https:// in the address.",
        ))
    }

    fn of(error: &io::Error, tls: &Tls) -> Self {
        if let Some(error) = error.get_ref().and_then(|it| it.downcast_ref::<Error>()) {
            return Self::of_tls(error, tls);
        }
        match error.kind() {
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected => Self::Reset,
            ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Other(error.to_string()),
        }
    }

    fn of_tls(error: &Error, tls: &Tls) -> Self {
        match error {
            Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                // rustls looks for it first: what has no such extension is older than TLS 1.2.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
            ) => Self::NoSharedVersion,
            Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::NoSharedVersion,
            Error::NoApplicationProtocol => Self::NoSharedProtocol,
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(error) => Self::BadCertificate(said(error)),
            Error::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            // What rustls says when the resolver has no certificate.
            Error::General(_) if !tls.ready => Self::NotReady,
            error => Self::Other(error.to_string()),
        }
    }
}

fn said(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "it was not signed by an authority of client_ca".to_owned()
        }
        error => error.to_string(),
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plaintext => f.write_str("the client speaks plaintext on a TLS port"),
            Self::NoSharedVersion => f.write_str("the client speaks no version of TLS that we do"),
            Self::NoSharedProtocol => {
                f.write_str("the client offers neither HTTP/2 nor HTTP/1.1 (ALPN)")
            }
            Self::NotReady => f.write_str("there is no certificate from ACME for it yet"),
            Self::NoCertificate => f.write_str("the client showed no certificate"),
            Self::BadCertificate(said) => write!(f, "the client's certificate: {said}"),
            Self::Refused(said) => write!(f, "the client ended the handshake: {said}"),
            Self::Timeout => f.write_str("the handshake took too long"),
            Self::Reset => f.write_str("the client left"),
            Self::Other(said) => f.write_str(said),
        }
    }
}

impl std::error::Error for Fault {}

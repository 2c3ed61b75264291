//! A provider's certificates, read from PEM files. Called when a configuration is built.

use super::Tls;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;

impl Tls {
    /// Reads the files that `tls:` names: the roots that replace the system's, and the client's
    /// certificate with its key.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn load(
        server_name: Option<String>,
        verify: bool,
        ca: Option<&Path>,
        client: Option<(&Path, &Path)>,
    ) -> Result<Self, String> {
        let ca = match ca {
            Some(path) => {
                let roots = certificates(path)?;
                let roots: Vec<_> = roots
                    .into_iter()
                    .map(|der| WrappedX509::new(der, parse_x509))
                    .collect();
                Some(Arc::from(roots))
            }
            None => None,
        };
        let client = match client {
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("{}: no private key: {error}", key.display()))?;
                Some(Arc::new(CertKey::new(chain, key.secret_der().to_vec())))
            }
            None => None,
        };
        Ok(Self {
            server_name,
            verify,
            ca,
            client,
        })
    }
}

/// The certificates of a PEM file, each known to be one: Pingora panics on others.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let named = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let mut all = Vec::new();
    for der in CertificateDer::pem_file_iter(path).map_err(|error| named(&error))? {
        let der = der.map_err(|error| named(&error))?.to_vec();
        X509Certificate::from_der(&der).map_err(|_| named(&"not a certificate"))?;
        all.push(der);
    }
    if all.is_empty() {
        return Err(named(&"no certificate in it"));
    }
    Ok(all)
}

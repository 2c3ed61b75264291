//! PEM files of certificates and keys, read whole and within bounds. What is wrong with one is said
//! so that whoever made it knows what to do.

use super::load::Mistake;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// No chain and no list of authorities is larger: the system's own list has a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A file's bytes.
pub fn read(path: &Path) -> Result<Vec<u8>, Mistake> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| {
        // One past the limit, so that the limit itself is allowed.
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) if bytes.len() as u64 <= FILE_BYTES_MAX => Ok(bytes),
        Ok(_) => Err(Mistake::new(
            path,
            format!("is larger than {FILE_BYTES_MAX} bytes"),
            "name the PEM file that was meant",
        )),
        Err(error) => {
            let what = match error.kind() {
                ErrorKind::NotFound => "correct the path, or put the file there",
                ErrorKind::PermissionDenied => {
                    "let the user that weir runs as read it (chown, chmod, or a group)"
                }
                _ => "name a PEM file that can be read",
            };
            Err(Mistake::new(path, format!("can't be read: {error}"), what))
        }
    }
}

/// All certificates in it, at least one. They are not looked into.
pub fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Mistake> {
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(bytes).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(nothing(path, bytes, "certificate", "CERTIFICATE")),
        Err(error) => Err(Mistake::new(
            path,
            format!("is damaged: {error}"),
            "copy it again: each block goes from its BEGIN line to its END line, in Base64",
        )),
    }
}

/// The first private key in it.
pub fn key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, Mistake> {
    match PrivateKeyDer::from_pem_slice(bytes) {
        Ok(key) => Ok(key),
        Err(_) if holds(bytes, b"ENCRYPTED") => Err(Mistake::new(
            path,
            "holds a private key under a passphrase",
            "weir can't ask for one: write the key without it (openssl pkey -in FILE -out NEW), \
             mode 0600",
        )),
        Err(pem::Error::NoItemsFound) => Err(nothing(path, bytes, "private key", "PRIVATE KEY")),
        Err(error) => Err(Mistake::new(
            path,
            format!("is damaged: {error}"),
            "copy it again: from the BEGIN line to the END line, in Base64",
        )),
    }
}

/// Says what a file is in which there is no PEM block of the kind.
fn nothing(path: &Path, bytes: &[u8], noun: &str, label: &str) -> Mistake {
    const DER_SEQUENCE: u8 = 0x30;
    let (found, advice) = if bytes.iter().all(u8::is_ascii_whitespace) {
        ("is empty", "write it again".to_owned())
    } else if bytes[0] == DER_SEQUENCE && !holds(bytes, b"-----BEGIN") {
        (
            "is DER, not PEM",
            "convert it (openssl x509 or openssl pkey, with -inform der)".to_owned(),
        )
    } else if !holds(bytes, b"-----BEGIN") {
        (
            "is not a PEM file",
            format!("name one with a block BEGIN {label}"),
        )
    } else {
        (
            "has no such block",
            format!("name one with a block BEGIN {label}"),
        )
    };
    Mistake::new(path, format!("{found}: there is no {noun} in it"), &advice)
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    memchr::memmem::find(bytes, text).is_some()
}

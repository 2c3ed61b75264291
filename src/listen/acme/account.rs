//! The account at an ACME server: a key in a file, and the URL that the server knows it by. The key
//! is on disk before the server hears of it, so that no crash leaves an account that nobody has the
//! key of. Called before an order, and before the server is asked when to renew.

use super::aside::Aside;
use super::client::Client;
use super::error::Error;
use super::refusal;
use super::store;
use crate::listen::tls::settings::Acme;
use instant_acme::{Account, Key};
use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is kept of an account.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// The server's directory.
    directory: String,
    /// The account's URL; none until the server has answered.
    #[serde(default)]
    url: Option<String>,
    /// Whom the server was told to write to.
    #[serde(default)]
    email: Option<String>,
    /// The private key, PKCS #8 in PEM.
    key: String,
}

/// The account that these settings mean; registered where it isn't yet.
pub(super) async fn open(aside: &Aside, wanted: &Acme, client: &Client) -> Result<Account, Error> {
    let path = aside.store().account(&wanted.directory);
    let mut kept = match load(aside, &path, &wanted.directory).await? {
        Some(kept) => kept,
        None => {
            let kept = Kept::new(&wanted.directory)?;
            kept.save(aside, &path).await?;
            kept
        }
    };
    let builder = Account::builder_with_http(Box::new(client.clone()));
    let refused = |step, error| refusal::of(step, error, client, &path);
    let account = match &kept.url {
        Some(url) => {
            let key = kept.pkcs8(&path)?;
            let account = builder.from_parts(url.clone(), key, kept.directory.clone());
            account
                .await
                .map_err(|error| refused("the request for its directory", error))?
        }
        None => {
            let key =
                Key::from_pkcs8_der(kept.pkcs8(&path)?).map_err(|error| unusable(&path, &error))?;
            let der = PrivateKeyDer::Pkcs8(kept.pkcs8(&path)?);
            let (account, _) = builder
                .create_from_key((key, der), kept.directory.clone())
                .await
                .map_err(|error| refused("the registration of an account", error))?;
            kept.url = Some(account.id().to_owned());
            kept.save(aside, &path).await?;
            account
        }
    };
    if kept.email != wanted.email {
        let contact = wanted.email.as_ref().map(|it| format!("mailto:{it}"));
        let contacts: Vec<_> = contact.iter().map(String::as_str).collect();
        match account.update_contacts(&contacts).await {
            Ok(()) => {
                kept.email.clone_from(&wanted.email);
                kept.save(aside, &path).await?;
            }
            // Certificates are to be had without it.
            Err(error) => {
                let error = refused("the account's e-mail address", error);
                tracing::warn!(%error, "the ACME account's contact stays as it was");
            }
        }
    }
    Ok(account)
}

async fn load(aside: &Aside, path: &Path, directory: &str) -> Result<Option<Kept>, Error> {
    let from = path.to_owned();
    let Some(text) = aside.run(move || store::read(&from)).await? else {
        return Ok(None);
    };
    let kept: Kept = serde_json::from_str(&text).map_err(|error| unusable(path, &error))?;
    if kept.directory != directory {
        let why = format!("it is for {}", kept.directory);
        return Err(unusable(path, &why));
    }
    Ok(Some(kept))
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Account {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

// === impl Kept ===

impl Kept {
    fn new(directory: &str) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(|error| Error::Crypto(error.to_string()))?;
        Ok(Self {
            directory: directory.to_owned(),
            url: None,
            email: None,
            key: key.serialize_pem(),
        })
    }

    fn pkcs8(&self, path: &Path) -> Result<PrivatePkcs8KeyDer<'static>, Error> {
        PrivatePkcs8KeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| unusable(path, &format!("key: {error}")))
    }

    async fn save(&self, aside: &Aside, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).map_err(|error| unusable(path, &error))?;
        let path: PathBuf = path.to_owned();
        aside.run(move || store::replace(&path, &text)).await
    }
}

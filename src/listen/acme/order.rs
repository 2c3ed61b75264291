//! One certificate from order to chain (RFC 8555 section 7.4): prove each name, send the request,
//! fetch what was signed. Dropping the future at any point leaves nothing behind here, and at the
//! server an order that runs out by itself. Called by the renewal.

use super::challenge::{Kind, Shown};
use super::client::Client;
use super::error::Error;
use super::refusal;
use crate::listen::tls::Challenges;
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use std::path::Path;
use std::time::Duration;

/// For the server to look at all names.
const VALIDATION: RetryPolicy = patience(Duration::from_secs(180));

/// For the server to sign.
const SIGNING: RetryPolicy = patience(Duration::from_secs(300));

const fn patience(timeout: Duration) -> RetryPolicy {
    RetryPolicy::new()
        .initial_delay(Duration::from_millis(250))
        .backoff(1.5)
        .timeout(timeout)
}

/// What is asked for, of whom and how.
pub(super) struct Request<'a> {
    pub(super) account: &'a Account,
    /// Of the account.
    pub(super) file: &'a Path,
    pub(super) client: &'a Client,
    pub(super) domains: &'a [String],
    /// How names can be proved, the best first.
    pub(super) offers: &'a [Kind],
    pub(super) challenges: &'a Challenges,
    /// The certificate that the new one follows, where the server wants to know (RFC 9773 section 5).
    pub(super) replaces: Option<CertificateIdentifier<'static>>,
}

impl Request<'_> {
    /// The private key, then the chain, in PEM; not yet checked.
    pub(super) async fn issue(self) -> Result<String, Error> {
        let mut order = self.order().await?;
        if order.state().status == OrderStatus::Pending {
            // Until the order is ready: what the server looks for, possibly more than once.
            let shown = self.answer(&mut order).await?;
            self.wait_ready(&mut order, &shown).await?;
        }
        let key = KeyPair::generate().map_err(|error| Error::Crypto(error.to_string()))?;
        let request = signing_request(self.domains, &key)
            .map_err(|error| Error::Crypto(error.to_string()))?;
        let step = "to sign the certificate";
        order
            .finalize_csr(&request)
            .await
            .map_err(|error| self.refused(step, error))?;
        let chain = order
            .poll_certificate(&SIGNING)
            .await
            .map_err(|error| self.refused(step, error))?;
        Ok(format!("{}{chain}", key.serialize_pem()))
    }

    async fn order(&self) -> Result<Order, Error> {
        let names: Vec<_> = self
            .domains
            .iter()
            .map(|domain| Identifier::Dns(domain.clone()))
            .collect();
        let step = "an order for the names";
        if let Some(replaces) = &self.replaces {
            let order = NewOrder::new(&names).replaces(replaces.clone());
            match self.account.new_order(&order).await {
                Ok(order) => return Ok(order),
                // Somebody has replaced it already, or the server has forgotten it: what is left is
                // an order as any other.
                Err(instant_acme::Error::Api(problem)) if is_about_replacing(&problem) => {}
                Err(error) => return Err(self.refused(step, error)),
            }
        }
        let order = self.account.new_order(&NewOrder::new(&names)).await;
        order.map_err(|error| self.refused(step, error))
    }

    /// Shows what the server wants to see for every name that isn't proved yet, and says so.
    async fn answer(&self, order: &mut Order) -> Result<Vec<(Kind, Shown)>, Error> {
        let step = "a proof that the names are ours";
        let mut shown = Vec::new();
        let mut names = order.authorizations();
        while let Some(name) = names.next().await {
            let mut name = name.map_err(|error| self.refused(step, error))?;
            let domain = name.identifier().to_string();
            match name.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => {
                    return Err(Error::Refused {
                        step,
                        problem: format!("its authorization of {domain} is {status:?}")
                            .to_lowercase(),
                        wait: None,
                    });
                }
            }
            let Some(kind) = self.choose(&name) else {
                return Err(Error::NoChallenge {
                    domain,
                    offered: name
                        .challenges
                        .iter()
                        .map(|it| kind_name(&it.r#type))
                        .collect(),
                });
            };
            let Some(mut challenge) = name.challenge(kind.to_acme()) else {
                continue;
            };
            let proof = challenge.key_authorization();
            let token = &challenge.token;
            shown.push((
                kind,
                Shown::new(self.challenges, kind, &domain, token, &proof)?,
            ));
            match challenge.set_ready().await {
                Ok(()) => {}
                Err(instant_acme::Error::Api(problem)) if challenge_failed(&problem) => {
                    return Err(Error::Validation {
                        domain,
                        challenge: kind.name(),
                        problem: refusal::sentence(&problem),
                    });
                }
                Err(error) => return Err(self.refused(step, error)),
            }
        }
        Ok(shown)
    }

    /// The first of ours that the server offers.
    fn choose(&self, name: &instant_acme::AuthorizationState) -> Option<Kind> {
        let offered = |kind: &&Kind| {
            let kind = kind.to_acme();
            name.challenges.iter().any(|it| it.r#type == kind)
        };
        self.offers.iter().find(offered).copied()
    }

    async fn wait_ready(&self, order: &mut Order, shown: &[(Kind, Shown)]) -> Result<(), Error> {
        let step = "a proof that the names are ours";
        match order.poll_ready(&VALIDATION).await {
            Ok(OrderStatus::Ready) => return Ok(()),
            Ok(_) | Err(instant_acme::Error::Api(_)) => {}
            Err(error) => return Err(self.refused(step, error)),
        }
        // The order only says that it is invalid; each name says why.
        let mut names = order.authorizations();
        while let Some(name) = names.next().await {
            let mut name = name.map_err(|error| self.refused(step, error))?;
            let domain = name.identifier().to_string();
            let state = name.refresh().await;
            let state = state.map_err(|error| self.refused(step, error))?;
            for challenge in &state.challenges {
                if let Some(problem) = &challenge.error {
                    let tried = shown
                        .iter()
                        .map(|(kind, _)| *kind)
                        .find(|kind| kind.to_acme() == challenge.r#type);
                    return Err(Error::Validation {
                        domain,
                        challenge: tried.unwrap_or(Kind::Http01).name(),
                        problem: refusal::sentence(problem),
                    });
                }
            }
        }
        Err(Error::Refused {
            step,
            problem: "the order has become invalid".to_owned(),
            wait: self.client.take_wait(),
        })
    }

    fn refused(&self, step: &'static str, error: instant_acme::Error) -> Error {
        refusal::of(step, error, self.client, self.file)
    }
}

/// PKCS #10, for these names and with nothing else in it.
fn signing_request(domains: &[String], key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new(domains)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

fn is_about_replacing(problem: &instant_acme::Problem) -> bool {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    [":alreadyReplaced", ":malformed"]
        .iter()
        .any(|it| kind.ends_with(it))
}

/// Kinds of problems that a failed look at our host ends with (RFC 8555 section 6.7).
fn challenge_failed(problem: &instant_acme::Problem) -> bool {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    [":connection", ":dns", ":incorrectResponse", ":tls", ":caa"]
        .iter()
        .any(|it| kind.ends_with(it))
}

fn kind_name(kind: &instant_acme::ChallengeType) -> String {
    use instant_acme::ChallengeType;
    match kind {
        ChallengeType::Http01 => "http-01".to_owned(),
        ChallengeType::Dns01 => "dns-01".to_owned(),
        ChallengeType::TlsAlpn01 => "tls-alpn-01".to_owned(),
        ChallengeType::DeviceAttest01 => "device-attest-01".to_owned(),
        ChallengeType::Unknown(name) => name.clone(),
        _ => "another".to_owned(),
    }
}

//! An access token for Vertex by a service account: what is sent for it, and what comes back.
//!
//! Source: Google's "Using OAuth 2.0 for server to server applications" and RFC 7523. Pure: no clock, no
//! network. Who asks for a token and when lies elsewhere.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, json};

/// A service account's key, ready to sign.
pub struct ServiceAccount {
    email: String,
    key_id: Option<String>,
    token_uri: String,
    project: Option<String>,
    key: RsaKeyPair,
}

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// What goes behind `Authorization: Bearer`.
    pub secret: String,
    /// Seconds from when it was given.
    pub expires_in: u64,
}

/// What is wrong with a key file or with an answer; never tells a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenError(String);

/// What the token is for.
pub const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// The media type of [`ServiceAccount::form`].
pub const FORM_TYPE: &str = "application/x-www-form-urlencoded";
/// How long an assertion is good; Google allows an hour.
const ASSERTION_SECONDS: u64 = 3600;
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const GRANT: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";

#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: Option<String>,
    client_email: Option<String>,
    private_key: Option<String>,
    private_key_id: Option<String>,
    token_uri: Option<String>,
    project_id: Option<String>,
}

// === impl ServiceAccount ===

impl ServiceAccount {
    /// Reads the JSON file that Google gives out.
    ///
    /// # Errors
    /// When it isn't one, or its key is no RSA key in PKCS#8.
    pub fn parse(file: &[u8]) -> Result<Self, TokenError> {
        // serde_json's own words may tell a piece of the file.
        let said: KeyFile = serde_json::from_slice(file)
            .map_err(|error| wrong(&format!("is no JSON object (line {})", error.line())))?;
        if said.kind.as_deref() != Some("service_account") {
            return Err(wrong("has not the `type` service_account"));
        }
        let email = said
            .client_email
            .ok_or_else(|| wrong("has no `client_email`"))?;
        let pem = said
            .private_key
            .ok_or_else(|| wrong("has no `private_key`"))?;
        let der = der(&pem).ok_or_else(|| {
            wrong("has a `private_key` that is no PEM block of the kind PRIVATE KEY")
        })?;
        let key = RsaKeyPair::from_pkcs8(&der)
            .map_err(|_| wrong("has a `private_key` that is no RSA key in PKCS#8"))?;
        Ok(Self {
            email,
            key_id: said.private_key_id,
            token_uri: said.token_uri.unwrap_or_else(|| TOKEN_URI.to_owned()),
            project: said.project_id,
            key,
        })
    }

    /// Where tokens are asked for: a whole URL.
    pub fn token_uri(&self) -> &str {
        &self.token_uri
    }

    /// The project that it belongs to.
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// The body of a request for a token, to be sent as [`FORM_TYPE`]; `now` in seconds since 1970.
    ///
    /// # Errors
    /// When the key can't sign.
    pub fn form(&self, now: u64) -> Result<String, TokenError> {
        let assertion = self.assertion(now)?;
        Ok(format!("grant_type={GRANT}&assertion={assertion}"))
    }

    /// The signed claim to be this account (RFC 7519, RS256).
    fn assertion(&self, now: u64) -> Result<String, TokenError> {
        let mut header = json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.key_id {
            header["kid"] = id.as_str().into();
        }
        let claims = json!({
            "iss": self.email,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut assertion = format!("{}.{}", encode(&header), encode(&claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                assertion.as_bytes(),
                &mut signature,
            )
            .map_err(|_| wrong("has a `private_key` that can't sign"))?;
        assertion.push('.');
        URL_SAFE_NO_PAD.encode_string(&signature, &mut assertion);
        Ok(assertion)
    }

    /// The key by which signatures can be checked, in DER.
    pub fn public_key(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccount")
            .field("email", &self.email)
            .field("key_id", &self.key_id)
            .field("token_uri", &self.token_uri)
            .finish_non_exhaustive()
    }
}

/// Reads the answer to [`ServiceAccount::form`].
///
/// # Errors
/// What the server says is wrong, or that it says nothing of use.
pub fn read(status: u16, body: &[u8]) -> Result<AccessToken, TokenError> {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| said[name].as_str().filter(|text| !text.is_empty());
    if let (200..=299, Some(secret)) = (status, text("access_token")) {
        // RFC 6749, section 5.1: it may be left out; Google's last an hour.
        let expires_in = said["expires_in"].as_u64().unwrap_or(ASSERTION_SECONDS);
        return Ok(AccessToken {
            secret: secret.to_owned(),
            expires_in,
        });
    }
    let why = match (text("error"), text("error_description")) {
        (Some(error), Some(description)) => format!("{error}: {description}"),
        (Some(why), None) | (None, Some(why)) => why.to_owned(),
        (None, None) => "without a reason".to_owned(),
    };
    Err(TokenError(format!(
        "the token server answered {status}: {why}"
    )))
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TokenError {}

fn wrong(what: &str) -> TokenError {
    TokenError(format!("the service account's key file {what}"))
}

/// The bytes in a PEM block (RFC 7468).
fn der(pem: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once("-----BEGIN PRIVATE KEY-----")?;
    let (base64, _) = rest.split_once("-----END PRIVATE KEY-----")?;
    let base64: String = base64.split_ascii_whitespace().collect();
    STANDARD.decode(base64).ok()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    fn key_file() -> Value {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der: Pkcs8V1Der<'_> = key.as_der().expect("its bytes");
        let base64 = STANDARD.encode(der.as_ref());
        let lines: Vec<_> = (base64.as_bytes().chunks(64))
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            lines.join("\n")
        );
        json!({
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "k1",
            "private_key": pem,
            "client_email": "weir@p.iam.gserviceaccount.com",
            "token_uri": "https://oauth2.googleapis.com/token",
        })
    }

    #[test]
    fn an_assertion_is_signed_by_the_key_of_the_file() {
        let file = key_file().to_string();
        let account = ServiceAccount::parse(file.as_bytes()).expect("an account");
        assert_eq!(account.project(), Some("p"));
        let form = account.form(1_700_000_000).expect("a form");
        let assertion = form
            .strip_prefix(
                "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=",
            )
            .expect("the grant's type");
        let (signed, signature) = assertion.rsplit_once('.').expect("a signature");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, account.public_key())
            .verify(signed.as_bytes(), &signature)
            .expect("a good signature");
        let part = |part: &str| -> Value {
            let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64");
            serde_json::from_slice(&bytes).expect("JSON")
        };
        let (header, claims) = signed.split_once('.').expect("two parts");
        assert_eq!(
            part(header),
            json!({"alg": "RS256", "typ": "JWT", "kid": "k1"})
        );
        assert_eq!(
            part(claims),
            json!({
                "iss": "weir@p.iam.gserviceaccount.com",
                "scope": "https://www.googleapis.com/auth/cloud-platform",
                "aud": "https://oauth2.googleapis.com/token",
                "iat": 1_700_000_000,
                "exp": 1_700_003_600,
            })
        );
    }

    #[test]
    fn a_bad_file_is_named_without_its_secret() {
        let mut file = key_file();
        file["private_key"] =
            "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----".into();
        let error = ServiceAccount::parse(file.to_string().as_bytes()).expect_err("a bad key");
        assert_eq!(
            error.to_string(),
            "the service account's key file has a `private_key` that is no RSA key in PKCS#8"
        );
        let error = ServiceAccount::parse(br#"{"type":"authorized_user"}"#).expect_err("a user");
        assert!(error.to_string().contains("service_account"), "{error}");
    }

    #[test]
    fn an_answer_is_a_token_or_a_reason() {
        let token = read(
            200,
            br#"{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}"#,
        )
        .expect("a token");
        assert_eq!((&*token.secret, token.expires_in), ("ya29.x", 3599));
        assert!(!format!("{token:?}").contains("ya29"));
        let error = read(
            400,
            br#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#,
        )
        .expect_err("a refusal");
        assert_eq!(
            error.to_string(),
            "the token server answered 400: invalid_grant: Invalid JWT Signature."
        );
    }
}

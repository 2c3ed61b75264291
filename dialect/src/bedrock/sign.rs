//! Amazon's signature of requests, version 4.
//!
//! Source: AWS Identity and Access Management user guide, "AWS Signature Version 4 for API requests".

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SigningSettings, sign as sign_request,
};
use aws_sigv4::sign::v4;

/// The service whose requests these are.
pub const SERVICE: &str = "bedrock";

/// Where nobody says another: Bedrock began there.
pub const REGION: &str = "us-east-1";

/// The region in a host's name, such as `bedrock-runtime.eu-west-1.amazonaws.com`.
pub fn region_of(host: &str) -> Option<&str> {
    let (_, rest) = host.split_once('.')?;
    let (region, domain) = rest.split_once('.')?;
    domain.starts_with("amazonaws.com").then_some(region)
}

/// Who signs.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub access: &'a str,
    pub secret: &'a str,
    /// Of keys that are lent for a time.
    pub session: Option<&'a str>,
}

/// What is signed, and for where.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    pub host: &'a str,
    /// As it is sent, encoded.
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// Further headers that are to be signed; without `host`.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
    pub region: &'a str,
    pub service: &'a str,
}

/// Shows no secret.
impl std::fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// The headers to add: `authorization`, `x-amz-date` and, with a session, `x-amz-security-token`.
///
/// # Errors
/// When the request is none that can be signed: what is wrong, in a clause.
pub fn sign(
    request: &Request<'_>,
    keys: Keys<'_>,
    now: SystemTime,
) -> Result<Vec<(String, String)>, String> {
    let mut credentials = Credentials::builder()
        .access_key_id(keys.access)
        .secret_access_key(keys.secret)
        .provider_name("weir");
    if let Some(session) = keys.session {
        credentials = credentials.session_token(session);
    }
    let identity = credentials.build().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(request.region)
        .name(request.service)
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| error.to_string())?
        .into();
    let query = request.query.map(|it| format!("?{it}")).unwrap_or_default();
    let url = format!("https://{}{}{query}", request.host, request.path);
    let headers = std::iter::once(("host", request.host)).chain(request.headers.iter().copied());
    let body = SignableBody::Bytes(request.body);
    let signable = SignableRequest::new(request.method, url, headers, body)
        .map_err(|error| error.to_string())?;
    let (signed, _) = sign_request(signable, &params)
        .map_err(|error| error.to_string())?
        .into_parts();
    let (headers, _) = signed.into_parts();
    Ok(headers
        .into_iter()
        .map(|header| (header.name().to_owned(), header.value().to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const KEYS: Keys<'_> = Keys {
        access: "AKIDEXAMPLE",
        secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        session: None,
    };

    /// 2015-08-30T12:36:00Z, the time of Amazon's published examples.
    fn then() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_440_938_160)
    }

    fn signature(request: &Request<'_>, keys: Keys<'_>) -> Vec<(String, String)> {
        let mut headers = sign(request, keys, then()).expect("a signature");
        headers.sort();
        headers
    }

    #[test]
    fn the_published_examples_are_signed_as_published() {
        for (method, expected) in [
            (
                "GET",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "POST",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
        ] {
            let request = Request {
                method,
                host: "example.amazonaws.com",
                path: "/",
                query: None,
                headers: &[],
                body: b"",
                region: "us-east-1",
                service: "service",
            };
            let authorization = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders=host;x-amz-date, Signature={expected}"
            );
            let expected = [
                ("authorization".to_owned(), authorization),
                ("x-amz-date".to_owned(), "20150830T123600Z".to_owned()),
            ];
            assert_eq!(signature(&request, KEYS), expected, "{method}");
        }
    }

    #[test]
    fn a_path_that_is_encoded_is_signed_as_botocore_does() {
        let request = Request {
            method: "POST",
            host: "bedrock-runtime.us-east-1.amazonaws.com",
            path: "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse",
            query: None,
            headers: &[("content-type", "application/json")],
            body: b"{\"messages\":[]}",
            region: "us-east-1",
            service: SERVICE,
        };
        let keys = Keys {
            session: Some("SESSION"),
            ..KEYS
        };
        // Computed by botocore 1.44.8 (`SigV4Auth`).
        let authorization = "AWS4-HMAC-SHA256 \
            Credential=AKIDEXAMPLE/20150830/us-east-1/bedrock/aws4_request, \
            SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, \
            Signature=92d5efe3b087851b712234adf33070e12f2d49e0543610f150743253e9ec863c";
        let expected = [
            ("authorization", authorization),
            ("x-amz-date", "20150830T123600Z"),
            ("x-amz-security-token", "SESSION"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(signature(&request, keys), expected);
    }
}

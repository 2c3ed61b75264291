//! Other providers' seals of thoughts, carried through a client of Gemini's API.
//!
//! `thoughtSignature` is bytes: SDKs decode its base64 and encode it anew, in the URL's alphabet. The
//! seals of others are texts of any form, so that they are wrapped as the bytes of their text.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// With and without padding.
const ANY: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Before thoughts that only the provider can read.
const REDACTED: &str = "redacted:";

/// What a seal is.
#[derive(Debug, PartialEq, Eq)]
pub enum Seal {
    Signature(String),
    Redacted(String),
}

/// A seal as bytes in base64.
pub fn wrap(signature: &str) -> String {
    STANDARD.encode(signature)
}

/// The same of thoughts that only the provider can read.
pub fn wrap_redacted(data: &str) -> String {
    STANDARD.encode(format!("{REDACTED}{data}"))
}

/// What was wrapped; Gemini's own seals are as they were.
pub fn unwrap(said: &str) -> Seal {
    let said = standard(said);
    let text = ANY
        .decode(&said)
        .ok()
        .and_then(|it| String::from_utf8(it).ok());
    match text.filter(|text| !text.is_empty() && !text.contains(char::is_control)) {
        None => Seal::Signature(said),
        Some(text) => match text.strip_prefix(REDACTED) {
            Some(data) => Seal::Redacted(data.to_owned()),
            None => Seal::Signature(text),
        },
    }
}

/// Base64 of the URL's alphabet or the usual one (JSON of Protocol Buffers takes both, padded or not)
/// in the usual one, padded.
pub fn standard(base64: &str) -> String {
    let mut said: String = base64
        .chars()
        .map(|it| match it {
            '-' => '+',
            '_' => '/',
            it => it,
        })
        .collect();
    while !said.is_empty() && !said.len().is_multiple_of(4) {
        said.push('=');
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_of_any_form_survive_a_client_that_encodes_them_anew() {
        for seal in ["c2ln", "gAAA_-x==", "not base64 at all", "ErUBCkYIBxgC+/=="] {
            let anew = wrap(seal).replace('+', "-").replace('/', "_");
            assert_eq!(unwrap(&anew), Seal::Signature(seal.to_owned()));
            let anew = wrap_redacted(seal).replace('+', "-").replace('=', "");
            assert_eq!(unwrap(&anew), Seal::Redacted(seal.to_owned()));
        }
    }

    #[test]
    fn a_seal_of_geminis_own_is_as_it_was() {
        let own = "CiMBjz1rX25KieIB4d4AwFn8/WbsHTRNHBXso88Ptemw";
        assert_eq!(unwrap(own), Seal::Signature(own.to_owned()));
    }
}

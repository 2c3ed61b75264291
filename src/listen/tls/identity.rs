//! The identity in a client's certificate, read strictly: what two readers could understand in two
//! ways is refused. Called after a handshake, so the certificate is signed by an authority that the
//! operator trusts; verifies nothing itself.

use super::chain;
use crate::types::identity::Identity;
use rustls::pki_types::CertificateDer;
use std::fmt::Write;
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Reads a client's own certificate.
///
/// # Errors
/// Why it names nobody for certain.
pub fn read(der: &CertificateDer<'_>) -> Result<Identity, &'static str> {
    let Ok(([], certificate)) = X509Certificate::from_der(der) else {
        return Err("not an X.509 certificate");
    };
    Ok(Identity {
        subject: distinguished_name(certificate.subject())?,
        uris: uris(&certificate)?,
        not_after: chain::system_time(certificate.validity().not_after),
    })
}

/// RFC 4514, section 2: the last part first, `,` between parts, `+` within one.
fn distinguished_name(name: &X509Name<'_>) -> Result<String, &'static str> {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        let mut types = Vec::new();
        for (at, attribute) in part.iter().enumerate() {
            if types.contains(&attribute.attr_type()) {
                return Err("its subject has one attribute twice in one part");
            }
            types.push(attribute.attr_type());
            if at > 0 {
                text.push('+');
            }
            push_attribute(&mut text, attribute)?;
        }
    }
    Ok(text)
}

/// Section 2.3: names that everyone knows, else the number with the value as it was encoded.
fn push_attribute(
    text: &mut String,
    attribute: &AttributeTypeAndValue<'_>,
) -> Result<(), &'static str> {
    let number = attribute.attr_type().to_id_string();
    let known = match number.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        // Not in RFC 4514, but openssl and people write them so.
        "1.2.840.113549.1.9.1" => "emailAddress",
        "2.5.4.5" => "serialNumber",
        _ => "",
    };
    if known.is_empty() {
        text.push_str(&number);
        text.push_str("=#");
        let encoded = attribute.attr_value().to_der_vec();
        for byte in encoded.map_err(|_| "its subject can't be read")? {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02X}");
        }
    } else {
        text.push_str(known);
        text.push('=');
        push_escaped(text, &decode(attribute.attr_value())?);
    }
    Ok(())
}

/// A string of one of X.520's types.
fn decode(value: &Any<'_>) -> Result<String, &'static str> {
    const UNREADABLE: &str = "its subject has a text that can't be read";
    let text = match value.tag() {
        Tag::Utf8String => str::from_utf8(value.data).ok().map(str::to_owned),
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString if value.data.is_ascii() => {
            str::from_utf8(value.data).ok().map(str::to_owned)
        }
        // Whether it is Latin-1 is known for ASCII only.
        Tag::T61String if value.data.is_ascii() => {
            str::from_utf8(value.data).ok().map(str::to_owned)
        }
        Tag::BmpString if value.data.len().is_multiple_of(2) => {
            let units = value.data.chunks_exact(2);
            let units: Vec<_> = units.map(|it| u16::from_be_bytes([it[0], it[1]])).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    };
    let text = text.ok_or(UNREADABLE)?;
    if text.contains('\0') {
        return Err("its subject has a NUL in it");
    }
    Ok(text)
}

/// Section 2.4. Control characters are written in hexadecimal, so that no log line breaks.
fn push_escaped(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', c]),
            '#' if at == 0 => text.push_str("\\#"),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
            c => text.push(c),
        }
    }
}

fn uris(certificate: &X509Certificate<'_>) -> Result<Vec<String>, &'static str> {
    let alternatives = certificate
        .subject_alternative_name()
        .map_err(|_| "its alternative names can't be read, or are there twice")?;
    let mut uris = Vec::new();
    for name in alternatives.iter().flat_map(|it| &it.value.general_names) {
        let text = match name {
            GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
                text
            }
            _ => continue,
        };
        if text.contains('\0') {
            return Err("one of its alternative names has a NUL in it");
        }
        if let GeneralName::URI(uri) = name {
            if !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("one of its URIs has a character that no URI has");
            }
            if !uris.iter().any(|known| known == uri) {
                uris.push((*uri).to_owned());
            }
        }
    }
    // SPIFFE's X509-SVID, section 2: exactly one.
    if uris.iter().filter(|uri| spiffe(uri)).count() > 1 {
        return Err("it has two SPIFFE IDs");
    }
    Ok(uris)
}

/// Schemes are alike in either case (RFC 3986, section 3.1).
fn spiffe(uri: &str) -> bool {
    const SCHEME: &str = "spiffe:";
    uri.get(..SCHEME.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(SCHEME))
}

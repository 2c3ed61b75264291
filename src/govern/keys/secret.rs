//! Secrets and what is kept of them.

use crate::types::Secret;
use crate::types::digest::Digest;
use aws_lc_rs::{digest, rand};

/// What a secret is known by.
pub fn digest(secret: &[u8]) -> Digest {
    let hash = digest::digest(&digest::SHA256, secret);
    // The array is as long as the hash.
    hash.as_ref().try_into().unwrap_or_default()
}

/// How secrets of weir's own begin, so that scanners for leaked ones can tell.
const PREFIX: &str = "weir-";
/// With 62 letters to choose from more than 256 bits.
const LETTERS: usize = 44;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new secret: letters and digits, so that no header, shell or URL changes it.
///
/// # Errors
/// The system has no randomness to give.
pub fn fresh() -> Result<Secret<String>, String> {
    let mut secret = PREFIX.to_owned();
    secret.push_str(&letters(LETTERS)?);
    Ok(Secret::new(secret))
}

/// So many letters and digits by chance.
pub fn letters(count: usize) -> Result<String, String> {
    let mut text = String::with_capacity(count);
    let mut bytes = [0; 64];
    while text.len() < count {
        rand::fill(&mut bytes).map_err(|_| "the system has no random numbers".to_owned())?;
        // Of 256 values the last 8 would make the first letters likelier.
        let even = bytes.iter().filter(|byte| **byte < 248);
        let chosen = even.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
        text.extend(chosen.take(count - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_no_twins_and_need_no_quotes() {
        let (one, two) = (fresh().unwrap(), fresh().unwrap());
        assert_ne!(one.expose(), two.expose());
        let letters = one.expose().strip_prefix(PREFIX).unwrap();
        assert_eq!(letters.len(), LETTERS);
        assert!(letters.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}

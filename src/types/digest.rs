//! SHA-256 of something, as digits.

/// A SHA-256.
pub type Digest = [u8; 32];

/// 64 hexadecimal digits in either case; `None` for anything else.
pub fn of_hex(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != 2 * digest.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(digest)
}

/// The digits of a digest, in lower case.
pub fn to_hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_written_and_read_back() {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"abc");
        let abc: Digest = digest.as_ref().try_into().unwrap();
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(to_hex(&abc), text);
        assert_eq!(of_hex(&text.to_uppercase()), Some(abc));
        for wrong in ["", &text[1..], &format!("{text}0"), &text.replace('b', "g")] {
            assert_eq!(of_hex(wrong), None, "{wrong}");
        }
        assert_eq!(of_hex(&"é".repeat(32)), None);
    }
}

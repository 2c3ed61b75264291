//! What sound, speech and pictures come to by the request alone, for whoever must know before they are
//! answered, or whose answer doesn't say. Upper estimates: a client that is charged by one has sent
//! what could have cost that. They never read on in what they don't know. Called by `proxy`.

use super::meter::{Media, Source, Usage};
use crate::dialect::json;

/// Sound of an unknown kind is no denser: 16 kbit/s. Music is ten times as dense, and so is charged as
/// ten times as long as it is.
const SOUND_BYTES_A_SECOND: u64 = 2000;
/// Models hear a second of sound as so many tokens, and nobody speaks faster than so many.
const SOUND_TOKENS_A_SECOND: u64 = 10;
/// A byte of a text that is read out becomes so many tokens of sound: a model says 20 a second, and
/// nobody reads slower than 10 letters.
const SPEECH_TOKENS_A_BYTE: u64 = 2;
/// A picture that is made, of the dearest size and quality of gpt-image-1.
const PICTURE_TOKENS: u64 = 6240;
/// A picture that is looked at closely, of any size.
const SHOWN_TOKENS: u64 = 6500;

/// Sound that is to be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sound<'a> {
    /// The file.
    File(&'a [u8]),
    /// It passed unread: so many bytes.
    Bytes(u64),
    /// Its length is known.
    Seconds(u64),
}

/// What it costs to write that down, by the second or by the token.
pub fn heard(sound: Sound<'_>) -> Usage {
    let seconds = match sound {
        Sound::File(file) => wav_seconds(file).unwrap_or_else(|| seconds(file.len() as u64)),
        Sound::Bytes(bytes) => seconds(bytes),
        Sound::Seconds(seconds) => seconds,
    };
    let tokens = seconds.saturating_mul(SOUND_TOKENS_A_SECOND);
    estimated(
        tokens,
        tokens,
        Media {
            audio_input: tokens,
            seconds,
            ..Media::default()
        },
    )
}

/// What it costs to read out the text of this request, whose `input` that is, by the character or by
/// the token. `prompt` is the tokens of the whole request.
pub fn read_out(body: &[u8], prompt: u64) -> Usage {
    let texts = json::members(body).map_while(Result::ok);
    let texts = texts.filter(|member| member.key == "input");
    let (mut characters, mut bytes) = (0, 0u64);
    for text in texts.filter_map(|member| json::string(&body[member.value_at])) {
        characters += text.chars().count() as u64;
        bytes += text.len() as u64;
    }
    let said = bytes.saturating_mul(SPEECH_TOKENS_A_BYTE);
    estimated(
        prompt,
        said,
        Media {
            audio_output: said,
            characters,
            ..Media::default()
        },
    )
}

/// What `made` pictures cost for a prompt and so many that are shown, by the piece or by the token.
pub fn pictures(prompt: u64, shown: u64, made: u64) -> Usage {
    let shown = shown.saturating_mul(SHOWN_TOKENS);
    estimated(
        prompt.saturating_add(shown),
        made.saturating_mul(PICTURE_TOKENS),
        Media {
            image_input: shown,
            images: made,
            ..Media::default()
        },
    )
}

/// An estimate of so many tokens.
pub fn estimated(input: u64, output: u64, media: Media) -> Usage {
    Usage {
        input: Some(input),
        output: Some(output),
        cached: None,
        cache_write: None,
        reasoning: None,
        media,
        source: Source::Estimated,
    }
}

fn seconds(bytes: u64) -> u64 {
    bytes.div_ceil(SOUND_BYTES_A_SECOND)
}

/// How long a file of plain samples lasts (RIFF WAVE, PCM); `None` of every other, and of one whose head
/// contradicts itself.
fn wav_seconds(file: &[u8]) -> Option<u64> {
    const CHUNKS_MAX: usize = 32;
    /// PCM, floats, and whichever the head's extension tells.
    const PLAIN: [u16; 3] = [1, 3, 0xfffe];
    let word = |at: usize| Some(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));
    if !file.starts_with(b"RIFF") || file.get(8..12)? != b"WAVE" {
        return None;
    }
    let mut at = 12;
    let mut rate = None;
    for _ in 0..CHUNKS_MAX {
        let (name, inside) = (file.get(at..at + 4)?, at + 8);
        if name == b"data" {
            // Who streams a file doesn't know its length: what came counts.
            let bytes = file.len().checked_sub(inside)? as u64;
            return Some(bytes.div_ceil(rate?));
        }
        if name == b"fmt " {
            let (kind, channels, bits) = (word(inside)?, word(inside + 2)?, word(inside + 14)?);
            let (samples, told) = (long(inside + 4)?, long(inside + 8)?);
            let bytes = u64::from(samples) * u64::from(channels) * u64::from(bits / 8);
            let sound = PLAIN.contains(&kind) && bytes > 0 && bytes == u64::from(told);
            rate = sound.then_some(bytes);
        }
        let size = usize::try_from(long(at + 4)?).ok()?;
        at = inside.checked_add(size)?.checked_add(size % 2)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8000 samples of 16 bits a second, with a chunk between that nobody knows.
    fn wav(bytes: usize) -> Vec<u8> {
        let mut file =
            b"RIFF\xff\xff\xff\xffWAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0\x01\0\x01\0".to_vec();
        for number in [8000u32, 16000] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        file.extend_from_slice(b"\x02\0\x10\0data\xff\xff\xff\xff");
        file.resize(file.len() + bytes, 0);
        file
    }

    fn length(file: &[u8]) -> u64 {
        heard(Sound::File(file)).media.seconds
    }

    #[test]
    fn a_file_of_samples_lasts_as_long_as_its_bytes_and_any_other_as_long_as_it_may() {
        assert_eq!(length(&wav(16000)), 1);
        assert_eq!(length(&wav(16001)), 2);
        assert_eq!(length(&wav(0)), 0);
        assert_eq!(length(&[0; 2000]), 1);
        assert_eq!(length(&[0; 2001]), 2);
        assert_eq!(length(b""), 0);
        let most = heard(Sound::Bytes(u64::MAX));
        assert_eq!(most.media.seconds, u64::MAX / SOUND_BYTES_A_SECOND + 1);
    }

    #[test]
    fn a_head_that_contradicts_itself_or_ends_is_not_believed() {
        let file = wav(40_000);
        let by_bytes = (file.len() as u64).div_ceil(SOUND_BYTES_A_SECOND);
        // The kind, the channels, both rates, the bits.
        for at in [32, 34, 36, 40, 46] {
            let mut odd = file.clone();
            odd[at] ^= 0x40;
            assert_eq!(length(&odd), by_bytes, "byte {at}");
        }
        for end in 0..file.len() - 40_000 {
            assert!(length(&file[..end]) <= 1, "cut at {end}");
        }
        let mut silent = file;
        silent[34..48].fill(0);
        assert_eq!(length(&silent), by_bytes, "no rate at all");
    }

    #[test]
    fn a_text_is_as_long_as_its_characters() {
        let body = r#"{"voice":"input","input":"Gr\u00fc\u00df dich","x":{"input":"no"}}"#;
        let usage = read_out(body.as_bytes(), 5);
        assert_eq!((usage.media.characters, usage.input), (9, Some(5)));
        assert_eq!((usage.media.audio_output, usage.output), (22, Some(22)));
        assert_eq!(read_out(b"no JSON", 0).media, Media::default());
    }
}

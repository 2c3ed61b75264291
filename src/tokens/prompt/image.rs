//! What an image costs: by its size, which is read from the first bytes of a data URL, and by the
//! model's rule. Never looks at more of an image than its header, never fetches one.

/// How a model counts images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tokens) enum Rule {
    /// So much for an image, and so much for each square of 512 pixels after it was shrunk into
    /// 2048 × 2048 and its short side to 768.
    Tiles { image: u32, tile: u32 },
    /// One token for each square of 32 pixels, at most [`PATCHES_MAX`], times this by 1000.
    Patches { by_1000: u32 },
    /// One token for each square of so many pixels, at most so many tokens.
    Squares { side: u32, most: u32 },
    /// One token for so many pixels wherever they lie, at most so many tokens.
    Area { pixels: u32, most: u32 },
    /// So much for a small image, and for each tile of a larger one, whose side is two thirds of
    /// the image's shorter one.
    Crops { tile: u32 },
}

const PATCHES_MAX: u64 = 1536;
/// 2048 × 768, the most that is left of an image.
const TILES_MAX: u64 = 8;
/// Sides of at most so many pixels make an image a small one.
const CROP_WHOLE: u32 = 384;
/// An image twice as wide as high.
const CROPS_MAX: u64 = 6;

impl Rule {
    /// GPT-4o, 4.1 and 4.5; also taken for models of which nothing is known.
    pub(in crate::tokens) const FOUR: Rule = Rule::tiles(85, 170);

    pub(in crate::tokens) const fn tiles(image: u32, tile: u32) -> Self {
        Self::Tiles { image, tile }
    }

    pub(in crate::tokens) const fn patches(by_1000: u32) -> Self {
        Self::Patches { by_1000 }
    }

    pub(in crate::tokens) const fn squares(side: u32, most: u32) -> Self {
        Self::Squares { side, most }
    }

    pub(in crate::tokens) const fn area(pixels: u32, most: u32) -> Self {
        Self::Area { pixels, most }
    }

    /// The tokens of an image. One of unknown size counts as the largest; `low` is the detail that
    /// the request asked for.
    pub(super) fn tokens(self, size: Option<Size>, low: bool) -> u64 {
        let many = |each: u32, most: u64, count: fn(Size) -> u64| {
            u64::from(each) * size.map_or(most, count)
        };
        match self {
            Self::Tiles { image, .. } if low => image.into(),
            Self::Tiles { image, tile } => u64::from(image) + many(tile, TILES_MAX, Size::tiles),
            Self::Patches { by_1000 } => {
                let patches = size.map_or(PATCHES_MAX, |size| size.squares(32).min(PATCHES_MAX));
                (patches * u64::from(by_1000)).div_ceil(1000)
            }
            Self::Squares { side, most } => {
                let most = u64::from(most);
                size.map_or(most, |size| size.squares(side.into()).min(most))
            }
            Self::Area { pixels, most } => {
                let most = u64::from(most);
                size.map_or(most, |size| size.area().div_ceil(pixels.into()).min(most))
            }
            Self::Crops { tile } => many(tile, CROPS_MAX, Size::crops),
        }
    }
}

/// Pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tokens) struct Size {
    width: u32,
    height: u32,
}

impl Size {
    /// The size of the image that `url` holds, if it holds one that is known.
    pub(super) fn of_url(url: &str) -> Option<Self> {
        let (head, data) = url.split_once(',')?;
        let encoded = head.get(..5)?.eq_ignore_ascii_case("data:") && head.ends_with(";base64");
        Self::of_base64(encoded.then_some(data)?)
    }

    /// The size of an image in base64: PNG, JPEG, GIF or WebP.
    pub(super) fn of_base64(data: &str) -> Option<Self> {
        let bytes = Base64(data.as_bytes());
        let size = match [bytes.at(0)?, bytes.at(1)?] {
            [0x89, b'P'] => Self {
                width: bytes.big(16, 4)?,
                height: bytes.big(20, 4)?,
            },
            [b'G', b'I'] => Self {
                width: bytes.little(6, 2)?,
                height: bytes.little(8, 2)?,
            },
            [b'R', b'I'] => Self::of_webp(bytes)?,
            [0xff, 0xd8] => Self::of_jpeg(bytes)?,
            _ => return None,
        };
        (size.width > 0 && size.height > 0).then_some(size)
    }

    fn of_webp(bytes: Base64<'_>) -> Option<Self> {
        let fourteen = |at| Some(bytes.little(at, 2)? & 0x3fff);
        match bytes.at(15)? {
            b'X' => Some(Self {
                width: bytes.little(24, 3)? + 1,
                height: bytes.little(27, 3)? + 1,
            }),
            b'L' => {
                let bits = bytes.little(21, 4)?;
                Some(Self {
                    width: (bits & 0x3fff) + 1,
                    height: (bits >> 14 & 0x3fff) + 1,
                })
            }
            b' ' => Some(Self {
                width: fourteen(26)?,
                height: fourteen(28)?,
            }),
            _ => None,
        }
    }

    /// Steps over the segments until the frame's header.
    fn of_jpeg(bytes: Base64<'_>) -> Option<Self> {
        let mut at = 2;
        for _ in 0..JPEG_SEGMENTS_MAX {
            let marker = bytes.at(at + 1)?;
            if bytes.at(at)? != 0xff {
                return None;
            }
            // C4, C8 and CC among the frames' numbers mean other things.
            if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
                return Some(Self {
                    height: bytes.big(at + 5, 2)?,
                    width: bytes.big(at + 7, 2)?,
                });
            }
            at += match marker {
                0xff => 1,
                _ => 2 + bytes.big(at + 2, 2)? as usize,
            };
        }
        None
    }

    fn tiles(self) -> u64 {
        let (mut width, mut height) = (u64::from(self.width), u64::from(self.height));
        let mut shrink = |side: u64, most: u64| {
            if side > most {
                width = (width * most / side).max(1);
                height = (height * most / side).max(1);
            }
            width.min(height)
        };
        let short = shrink(u64::from(self.width.max(self.height)), 2048);
        shrink(short, 768);
        width.div_ceil(512) * height.div_ceil(512)
    }

    fn squares(self, side: u64) -> u64 {
        let (width, height) = (u64::from(self.width), u64::from(self.height));
        width.div_ceil(side) * height.div_ceil(side)
    }

    fn area(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    fn crops(self) -> u64 {
        if self.width.max(self.height) <= CROP_WHOLE {
            return 1;
        }
        let side = u64::from(self.width.min(self.height)) * 2 / 3;
        self.squares(side.max(1)).min(CROPS_MAX)
    }
}

/// More segments before its frame has no picture that a camera took.
const JPEG_SEGMENTS_MAX: usize = 256;

/// Base64 that is decoded where it is read.
#[derive(Clone, Copy)]
struct Base64<'a>(&'a [u8]);

impl Base64<'_> {
    fn at(self, at: usize) -> Option<u8> {
        let group = self.0.get(at / 3 * 4..)?;
        let six = |index: usize| Self::value(*group.get(index)?);
        Some(match at % 3 {
            0 => six(0)? << 2 | six(1)? >> 4,
            1 => six(1)? << 4 | six(2)? >> 2,
            _ => six(2)? << 6 | six(3)?,
        })
    }

    fn value(digit: u8) -> Option<u8> {
        match digit {
            b'A'..=b'Z' => Some(digit - b'A'),
            b'a'..=b'z' => Some(digit - b'a' + 26),
            b'0'..=b'9' => Some(digit - b'0' + 52),
            b'+' | b'-' => Some(62),
            b'/' | b'_' => Some(63),
            _ => None,
        }
    }

    fn big(self, at: usize, bytes: usize) -> Option<u32> {
        (at..at + bytes).try_fold(0, |sum: u32, at| Some(sum << 8 | u32::from(self.at(at)?)))
    }

    fn little(self, at: usize, bytes: usize) -> Option<u32> {
        (at..at + bytes)
            .rev()
            .try_fold(0, |sum: u32, at| Some(sum << 8 | u32::from(self.at(at)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::family::family;
    use super::*;

    fn url(mime: &str, bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut url = format!("data:{mime};base64,");
        for group in bytes.chunks(3) {
            let word = group
                .iter()
                .fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
            let word = word << (8 * (3 - group.len()));
            for place in (0..=group.len()).map(|index| 18 - 6 * index) {
                url.push(DIGITS[(word >> place & 63) as usize] as char);
            }
        }
        url
    }

    fn png(width: u32, height: u32) -> String {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        bytes.extend(width.to_be_bytes());
        bytes.extend(height.to_be_bytes());
        url("image/png", &bytes)
    }

    #[test]
    fn sizes_are_read_from_headers() {
        let size = Some(Size {
            width: 640,
            height: 480,
        });
        assert_eq!(Size::of_url(&png(640, 480)), size);
        assert_eq!(
            Size::of_url(&url("image/gif", b"GIF89a\x80\x02\xe0\x01")),
            size
        );
        let mut jpeg = b"\xff\xd8\xff\xe1\xc0\x02".to_vec();
        jpeg.resize(4 + 0xc002, 0xff);
        jpeg.extend(b"\xff\xff\xc4\x00\x02\xff\xc2\x00\x11\x08\x01\xe0\x02\x80");
        assert_eq!(Size::of_url(&url("image/jpeg", &jpeg)), size);
        let webp = |rest: &[u8]| url("image/webp", &[b"RIFF\0\0\0\0WEBPVP8", rest].concat());
        let extended = b"X\x0a\0\0\0\0\0\0\0\x7f\x02\0\xdf\x01\0";
        assert_eq!(Size::of_url(&webp(extended)), size);
        let lossless = b"L\0\0\0\0\x2f\x7f\xc2\x77\0";
        assert_eq!(Size::of_url(&webp(lossless)), size);
        let lossy = b" \0\0\0\0\0\0\0\x9d\x01\x2a\x80\x02\xe0\x01";
        assert_eq!(Size::of_url(&webp(lossy)), size);
    }

    #[test]
    fn cut_or_senseless_images_have_no_size() {
        let whole = png(640, 480);
        for end in 0..whole.len() {
            assert_eq!(Size::of_url(&whole[..end]), None, "{end} characters");
        }
        let endless = url("image/jpeg", &[0xff, 0xd8].repeat(4_000));
        for url in [
            &*endless,
            "https://example.com/a,b.png",
            "data:,x",
            "data:image/é;base64,é",
            "",
        ] {
            assert_eq!(Size::of_url(url), None);
        }
        assert_eq!(Size::of_url(&png(0, 5)), None);
    }

    #[test]
    fn images_cost_what_is_published() {
        let of = |model: &str| family(model).image;
        let size = |width, height| Some(Size { width, height });
        let four = of("openai/gpt-4o-2024-08-06");
        assert_eq!(four.tokens(size(1024, 1024), false), 765);
        assert_eq!(four.tokens(size(2048, 4096), false), 1105);
        assert_eq!(four.tokens(size(4096, 8192), true), 85);
        assert_eq!(four.tokens(size(1, 1), false), 255);
        assert_eq!(four.tokens(None, false), 85 + 8 * 170);
        let mini = of("gpt-4.1-mini");
        assert_eq!(mini.tokens(size(1024, 1024), false), 1659);
        assert_eq!(mini.tokens(size(u32::MAX, u32::MAX), false), 2489);
        assert_eq!(of("gpt-4o-mini").tokens(size(512, 512), false), 2833 + 5667);
        assert_eq!(of("some-other-model"), Rule::FOUR);
        // Anthropic: (width × height) / 750. Google: a small image is 258, one of 960 × 540 has
        // six tiles.
        let claude = of("claude-sonnet-4-5");
        assert_eq!(claude.tokens(size(1000, 1000), false), 1334);
        let gemini = of("gemini-2.5-flash");
        assert_eq!(gemini.tokens(size(384, 384), false), 258);
        assert_eq!(gemini.tokens(size(960, 540), false), 6 * 258);
        assert_eq!(of("qwen2.5-vl-72b").tokens(size(280, 140), false), 50);
    }

    #[test]
    fn no_image_costs_more_than_one_of_unknown_size() {
        for model in [
            "gpt-4o",
            "gpt-5-mini",
            "claude-opus-4-7",
            "gemini-2.0-flash",
            "qwen-vl-max",
            "pixtral-12b",
        ] {
            let rule = family(model).image;
            for (width, height) in [
                (1, 1),
                (1, u32::MAX),
                (u32::MAX, 1),
                (u32::MAX, u32::MAX),
                (400, 385),
            ] {
                let tokens = rule.tokens(Some(Size { width, height }), false);
                assert!(
                    (1..=rule.tokens(None, false)).contains(&tokens),
                    "{model}: {tokens}"
                );
            }
        }
    }
}

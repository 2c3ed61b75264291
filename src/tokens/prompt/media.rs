//! What images, documents and sound in a request cost: by rules, never as the base64 that holds them.
//!
//! Images have rules by model. Of documents and sound no header is read: a document has so many
//! pages, a sound lasts so long, as is usual for its size. Both are guesses.

use serde::de::MapAccess;

use super::Tally;
use super::image::Size;
use super::shape::{Shape, key, skip, value};
use super::written::Words;

/// An image: its address, its data, or an object that holds either.
#[derive(Default)]
pub(super) struct Image {
    size: Option<Size>,
    low: bool,
}

impl Image {
    /// Reads the value at hand and adds its tokens.
    pub(super) fn add<'de, O: MapAccess<'de>>(
        object: &mut O,
        tally: &mut Tally,
    ) -> Result<(), O::Error> {
        let mut image = Self::default();
        value(object, &mut image)?;
        tally.add_media(tally.family.image.tokens(image.size, image.low));
        Ok(())
    }

    /// The tokens of one that is there by its data alone.
    pub(super) fn tokens_of(data: &str, tally: &Tally) -> u64 {
        let mut image = Self::default();
        image.text(data);
        tally.family.image.tokens(image.size, image.low)
    }
}

impl Shape for Image {
    fn text(&mut self, data: &str) {
        self.size = Size::of_url(data).or_else(|| Size::of_base64(data));
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        while let Some(key) = key(&mut object)? {
            match &*key {
                "url" => value(&mut object, self)?,
                "detail" => {
                    let mut detail = Words::default();
                    value(&mut object, &mut detail)?;
                    self.low = detail.0 == "low";
                }
                // Bedrock: {"format", "source": {"bytes"}}.
                "source" | "bytes" => value(&mut object, self)?,
                _ => skip(&mut object)?,
            }
        }
        Ok(())
    }
}

/// Data with its kind beside it: Anthropic's `source`, Gemini's `inlineData` and `fileData`, a
/// file's `file_data`. Text in it is text.
pub(super) struct Source<'t> {
    tally: &'t mut Tally,
    /// As the field around it says, where nothing inside does.
    kind: Kind,
    base64_bytes: usize,
    size: Option<Size>,
    plain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Image,
    Document,
    Sound,
    Video,
    /// Text that was encoded.
    Text,
}

impl<'t> Source<'t> {
    /// Reads the value at hand and adds its tokens.
    pub(super) fn add<'de, O: MapAccess<'de>>(
        object: &mut O,
        tally: &'t mut Tally,
        kind: Kind,
    ) -> Result<(), O::Error> {
        let mut source = Self {
            tally,
            kind,
            base64_bytes: 0,
            size: None,
            plain: false,
        };
        value(object, &mut source)?;
        if !source.plain {
            let tokens = source.tokens();
            source.tally.add_media(tokens);
        }
        Ok(())
    }

    fn tokens(&self) -> u64 {
        let bytes = self.base64_bytes as u64 / 4 * 3;
        match self.kind {
            Kind::Image => self.tally.family.image.tokens(self.size, false),
            Kind::Document => (bytes.div_ceil(PAGE_BYTES)).clamp(1, PAGES_MAX) * PAGE,
            Kind::Sound => bytes.div_ceil(SOUND_BYTES) * SOUND,
            Kind::Video => bytes.div_ceil(VIDEO_BYTES) * VIDEO,
            Kind::Text => bytes / 4,
        }
    }
}

/// A page's usual size in a PDF, and its tokens: text and picture.
const PAGE_BYTES: u64 = 64 * 1024;
const PAGE: u64 = 1500;
const PAGES_MAX: u64 = 1000;
/// A second of sound and its tokens, as Gemini counts; likewise of video.
const SOUND_BYTES: u64 = 16_000;
const SOUND: u64 = 32;
const VIDEO_BYTES: u64 = 250_000;
const VIDEO: u64 = 263;

impl Kind {
    fn of_mime(mime: &str) -> Option<Self> {
        let mime = mime.as_bytes();
        let starts = |with: &str| {
            (mime.get(..with.len()))
                .is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
        };
        match () {
            () if starts("image/") => Some(Self::Image),
            () if starts("audio/") => Some(Self::Sound),
            () if starts("video/") => Some(Self::Video),
            () if starts("text/") || starts("application/json") => Some(Self::Text),
            () if starts("application/") => Some(Self::Document),
            () => None,
        }
    }
}

impl Shape for Source<'_> {
    /// A data URL or bare base64; of any other address nothing is known.
    fn text(&mut self, data: &str) {
        if let Some(url) = data.strip_prefix("data:") {
            self.kind = Kind::of_mime(url).unwrap_or(self.kind);
            self.base64_bytes = url.find(',').map_or(0, |comma| url.len() - comma - 1);
            self.size = Size::of_url(data);
        } else if !data.contains("://") {
            self.base64_bytes = data.len();
            self.size = Size::of_base64(data);
        }
    }

    fn object<'de, O: MapAccess<'de>>(&mut self, mut object: O) -> Result<(), O::Error> {
        let (mut mime, mut kind, mut data) = (Words::default(), Words::default(), Words::default());
        while let Some(key) = key(&mut object)? {
            match &*key {
                "media_type" | "mimeType" | "mime_type" => value(&mut object, &mut mime)?,
                "type" => value(&mut object, &mut kind)?,
                // What it is may be said behind it.
                "data" => value(&mut object, &mut data)?,
                "url" | "file_data" | "bytes" => value(&mut object, self)?,
                "content" => {
                    self.plain = true;
                    value(&mut object, &mut super::messages::Content(self.tally))?;
                }
                "source" => value(&mut object, self)?,
                _ => skip(&mut object)?,
            }
        }
        if kind.0 == "text" {
            self.plain = true;
            self.tally.add_text(&data.0);
        } else if !data.0.is_empty() {
            self.text(&data.0);
        }
        self.kind = Kind::of_mime(&mime.0).unwrap_or(self.kind);
        Ok(())
    }
}

//! Compressed answers, decompressed beside their way to the client for the meter to read.
//!
//! What it makes at once fits a small buffer that is read and used again. A body that grows beyond all
//! measure is given up: it still passes, unread. Memory is what the coding itself asks for, 32 KiB
//! (gzip, deflate) to [`ZSTD_WINDOW_LOG_MAX`] or brotli's 16 MiB.

use std::io::Write;

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState, SliceWrapper};
use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

/// How an answer is compressed (RFC 9110, section 8.4.1; RFC 7932; RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// A body may always become as long as this …
const GROWN_BYTES_FREE: u64 = 8 * 1024 * 1024;
/// … and so many times as long as it came. Events about one token each shrink to a thirtieth.
const GROWTH_MAX: u64 = 200;
/// Longer windows are refused, as RFC 9659 has it: 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// What is made at once.
const PIECE_BYTES: usize = 16 * 1024;
/// About what the state of gzip's and deflate's decoders takes, their window of 32 KiB with it.
const INFLATE_BYTES: usize = 44 * 1024;

// === impl Coding ===

impl Coding {
    /// The coding of this name; `None` of several, and of names that nobody registered.
    pub fn named(name: &[u8]) -> Option<Coding> {
        let is = |known: &str| name.trim_ascii().eq_ignore_ascii_case(known.as_bytes());
        match () {
            () if is("gzip") || is("x-gzip") => Some(Coding::Gzip),
            () if is("deflate") => Some(Coding::Deflate),
            () if is("br") => Some(Coding::Brotli),
            () if is("zstd") => Some(Coding::Zstd),
            () => None,
        }
    }
}

/// Decompresses one answer as it passes.
pub(super) struct Decoder {
    kind: Kind,
    room: Box<[u8]>,
    bytes_in: u64,
    bytes_out: u64,
}

enum Kind {
    Gzip(MultiGzDecoder<Vec<u8>>),
    /// It hasn't begun: its first byte tells whether it is wrapped as RFC 1950 has it, or bare as some
    /// servers send it.
    Deflate,
    Inflate(Decompress),
    Brotli(Box<Brotli>),
    Zstd(DCtx<'static>),
    /// Nothing of it is read any more.
    GivenUp,
}

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

/// What one step did.
struct Step {
    read: usize,
    made: usize,
    over: bool,
}

// === impl Decoder ===

impl Decoder {
    pub(super) fn new(coding: Coding) -> Decoder {
        let kind = match coding {
            Coding::Gzip => Kind::Gzip(MultiGzDecoder::new(Vec::new())),
            Coding::Deflate => Kind::Deflate,
            Coding::Brotli => {
                let room = StandardAlloc::default;
                // Strict: as RFC 7932 has it. Large windows, which it doesn't know, take up to 1 GiB.
                Kind::Brotli(Box::new(BrotliState::new_strict(room(), room(), room())))
            }
            Coding::Zstd => zstd().map_or(Kind::GivenUp, Kind::Zstd),
        };
        Decoder {
            kind,
            room: vec![0; PIECE_BYTES].into(),
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// A coding that nobody here knows: given up from the first.
    pub(super) fn unknown() -> Decoder {
        Decoder {
            kind: Kind::GivenUp,
            room: Box::default(),
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// The room that it takes: more, once the data have said how long their window is.
    pub(super) fn bytes(&self) -> usize {
        let state = match &self.kind {
            Kind::Gzip(decoder) => INFLATE_BYTES + decoder.get_ref().capacity(),
            Kind::Inflate(_) => INFLATE_BYTES,
            Kind::Brotli(state) => size_of::<Brotli>() + state.ringbuffer.slice().len(),
            Kind::Zstd(decoder) => decoder.sizeof(),
            Kind::Deflate | Kind::GivenUp => 0,
        };
        self.room.len() + state
    }

    /// Nothing of it is read any more.
    pub(super) fn give_up(&mut self) {
        self.kind = Kind::GivenUp;
        self.room = Box::default();
    }

    /// It was given up: it isn't what it says, or grew beyond all measure.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.kind, Kind::GivenUp)
    }

    /// Takes the next compressed bytes; `read` gets what they make, in small pieces.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut read: impl FnMut(&[u8])) {
        if let (Kind::Deflate, Some(first)) = (&self.kind, bytes.first()) {
            const DEFLATED: u8 = 8;
            self.kind = Kind::Inflate(Decompress::new(first & 0x0f == DEFLATED));
        }
        self.bytes_in += bytes.len() as u64;
        loop {
            let step = match &mut self.kind {
                Kind::Gzip(_) => return self.gunzip(bytes, read),
                Kind::Inflate(decoder) => inflate(decoder, bytes, &mut self.room),
                Kind::Brotli(state) => unbrotli(state, bytes, &mut self.room),
                Kind::Zstd(decoder) => unzstd(decoder, bytes, &mut self.room),
                Kind::Deflate | Kind::GivenUp => return,
            };
            let Some(step) = step.filter(|step| self.grows(step.made)) else {
                return self.give_up();
            };
            read(&self.room[..step.made]);
            bytes = &bytes[step.read..];
            let full = step.made == self.room.len();
            if step.over || (bytes.is_empty() && !full) {
                return;
            }
            if step.read == 0 && step.made == 0 {
                // It wants nothing and gives nothing.
                self.give_up();
            }
        }
    }

    /// gzip has its own loop: its decoder writes, at most 32 KiB for each write.
    fn gunzip(&mut self, mut bytes: &[u8], mut read: impl FnMut(&[u8])) {
        while let Kind::Gzip(decoder) = &mut self.kind {
            let done = bytes.is_empty();
            let step = match done {
                true => decoder.flush().map(|()| 0),
                false => decoder.write(bytes),
            };
            let made = std::mem::take(decoder.get_mut());
            read(&made);
            let fits = self.grows(made.len());
            match step {
                Ok(_) if done && fits => {
                    self.give_back(made);
                    return;
                }
                Ok(taken) if fits && taken > 0 => bytes = &bytes[taken..],
                _ => self.give_up(),
            }
            self.give_back(made);
        }
    }

    /// The room that gzip's decoder writes into.
    fn give_back(&mut self, mut made: Vec<u8>) {
        made.clear();
        if let Kind::Gzip(decoder) = &mut self.kind {
            *decoder.get_mut() = made;
        }
    }

    /// Whether so much more is still within measure.
    fn grows(&mut self, made: usize) -> bool {
        self.bytes_out += made as u64;
        self.bytes_out <= GROWN_BYTES_FREE + self.bytes_in.saturating_mul(GROWTH_MAX)
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("bytes_in", &self.bytes_in)
            .field("bytes_out", &self.bytes_out)
            .field("given_up", &self.is_given_up())
            .finish_non_exhaustive()
    }
}

fn zstd() -> Option<DCtx<'static>> {
    let mut decoder = DCtx::try_create()?;
    let limit = DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX);
    decoder.set_parameter(limit).ok()?;
    Some(decoder)
}

fn inflate(decoder: &mut Decompress, bytes: &[u8], room: &mut [u8]) -> Option<Step> {
    let (read, made) = (decoder.total_in(), decoder.total_out());
    let status = decoder
        .decompress(bytes, room, FlushDecompress::None)
        .ok()?;
    let over = match status {
        Status::StreamEnd => true,
        // No room or no input: the next push goes on.
        Status::BufError => decoder.total_in() == read && decoder.total_out() == made,
        Status::Ok => false,
    };
    Some(Step {
        read: (decoder.total_in() - read) as usize,
        made: (decoder.total_out() - made) as usize,
        over,
    })
}

fn unbrotli(state: &mut Brotli, bytes: &[u8], room: &mut [u8]) -> Option<Step> {
    let (mut left, mut read) = (bytes.len(), 0);
    let (mut free, mut made, mut total) = (room.len(), 0, 0);
    let result = BrotliDecompressStream(
        &mut left, &mut read, bytes, &mut free, &mut made, room, &mut total, state,
    );
    let over = match result {
        BrotliResult::ResultFailure => return None,
        BrotliResult::ResultSuccess => true,
        BrotliResult::NeedsMoreInput => read == bytes.len() && made < room.len(),
        BrotliResult::NeedsMoreOutput => false,
    };
    Some(Step { read, made, over })
}

fn unzstd(decoder: &mut DCtx<'_>, bytes: &[u8], room: &mut [u8]) -> Option<Step> {
    let (mut input, mut output) = (InBuffer::around(bytes), OutBuffer::around(room));
    decoder.decompress_stream(&mut output, &mut input).ok()?;
    let (read, made) = (input.pos(), output.pos());
    let over = read == bytes.len() && made < PIECE_BYTES;
    Some(Step { read, made, over })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(coding: Coding, text: &[u8]) -> Vec<u8> {
        use flate2::Compression;
        let mut out = Vec::new();
        match coding {
            Coding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(&mut out, Compression::default());
                encoder.write_all(text).expect("a vector takes all");
                encoder.finish().expect("a vector takes all");
            }
            Coding::Deflate => {
                let mut encoder = flate2::write::ZlibEncoder::new(&mut out, Compression::default());
                encoder.write_all(text).expect("a vector takes all");
                encoder.finish().expect("a vector takes all");
            }
            Coding::Brotli => {
                let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 5, 22);
                encoder.write_all(text).expect("a vector takes all");
            }
            Coding::Zstd => out = zstd::encode_all(text, 3).expect("a vector takes all"),
        }
        out
    }

    const CODINGS: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

    fn decoded<'a>(coding: Coding, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Decoder) {
        let (mut decoder, mut out) = (Decoder::new(coding), Vec::new());
        for piece in pieces {
            decoder.push(piece, |made| out.extend_from_slice(made));
        }
        (out, decoder)
    }

    #[test]
    fn what_was_compressed_is_read_wherever_it_is_cut() {
        let mut text = Vec::new();
        for turn in 0..20_000u32 {
            text.extend_from_slice(
                format!("data: {}\n\n", turn.wrapping_mul(2_654_435_761)).as_bytes(),
            );
        }
        for coding in CODINGS {
            let bytes = compressed(coding, &text);
            for size in [1, 7, 1000, bytes.len()] {
                let (out, decoder) = decoded(coding, bytes.chunks(size));
                assert!(out == text, "{coding:?} in pieces of {size}");
                assert!(!decoder.is_given_up());
            }
        }
        let mut bare = flate2::write::DeflateEncoder::new(Vec::new(), Default::default());
        bare.write_all(&text).expect("a vector takes all");
        let bare = bare.finish().expect("a vector takes all");
        assert!(decoded(Coding::Deflate, bare.chunks(100)).0 == text);
    }

    #[test]
    fn what_is_flushed_is_read_at_once() {
        let event = b"data: {\"a\":1}\n\n";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), Default::default());
        let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("an encoder");
        let mut brotli = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
        let mut decoders = CODINGS.map(Decoder::new);
        for turn in 1..=5 {
            let pieces = [
                {
                    gzip.write_all(event)
                        .and_then(|()| gzip.flush())
                        .expect("flushed");
                    std::mem::take(gzip.get_mut())
                },
                {
                    zlib.write_all(event)
                        .and_then(|()| zlib.flush())
                        .expect("flushed");
                    std::mem::take(zlib.get_mut())
                },
                {
                    brotli
                        .write_all(event)
                        .and_then(|()| brotli.flush())
                        .expect("flushed");
                    std::mem::take(brotli.get_mut())
                },
                {
                    zstd.write_all(event)
                        .and_then(|()| zstd.flush())
                        .expect("flushed");
                    std::mem::take(zstd.get_mut())
                },
            ];
            for (decoder, piece) in decoders.iter_mut().zip(&pieces) {
                let mut out = Vec::new();
                decoder.push(piece, |made| out.extend_from_slice(made));
                assert_eq!(out, event, "turn {turn}");
            }
        }
    }

    #[test]
    fn a_bomb_is_given_up_at_its_measure_and_made_in_small_pieces() {
        let bomb = vec![b' '; 64 << 20];
        for coding in CODINGS {
            let bytes = compressed(coding, &bomb);
            let (mut decoder, mut made, mut largest) = (Decoder::new(coding), 0, 0);
            decoder.push(&bytes, |piece| {
                made += piece.len() as u64;
                largest = largest.max(piece.len());
            });
            let measure = GROWN_BYTES_FREE + bytes.len() as u64 * GROWTH_MAX;
            assert!(measure < bomb.len() as u64, "{coding:?} is no bomb");
            assert!(decoder.is_given_up(), "{coding:?}");
            assert!(made <= measure + 64 * 1024, "{coding:?} made {made}");
            assert!(largest <= 64 * 1024, "{coding:?} made {largest} at once");
            decoder.push(&bytes, |_| panic!("{coding:?} goes on"));
        }
        let at = compressed(Coding::Gzip, &bomb[..GROWN_BYTES_FREE as usize]);
        assert!(
            !decoded(Coding::Gzip, std::iter::once(&at[..]))
                .1
                .is_given_up()
        );
    }

    #[test]
    fn a_brotli_window_at_16_mib_is_followed_and_a_large_one_is_refused() {
        let mut at = Vec::new();
        let mut encoder = brotli::CompressorWriter::new(&mut at, 4096, 5, 24);
        encoder.write_all(b"upstream").expect("a vector takes all");
        drop(encoder);
        let (out, decoder) = decoded(Coding::Brotli, at.chunks(1));
        assert!(out == b"upstream" && !decoder.is_given_up());
        // The mark of large windows, then the window's bits: 25, and 30 for 1 GiB.
        for bits in [25, 30] {
            let header = [0x11, bits];
            let (_, decoder) = decoded(Coding::Brotli, std::iter::once(&header[..]));
            assert!(decoder.is_given_up(), "a window of {bits} bits");
        }
    }

    #[test]
    fn what_is_not_what_it_says_is_given_up() {
        for coding in CODINGS {
            let (out, decoder) = decoded(coding, [&b"\xff{\"usage\":1}"[..]; 20].into_iter());
            assert!(out.is_empty() && decoder.is_given_up(), "{coding:?}");
        }
        for (name, coding) in [
            ("gzip", Some(Coding::Gzip)),
            (" BR ", Some(Coding::Brotli)),
            ("gzip, br", None),
            ("identity", None),
        ] {
            assert_eq!(Coding::named(name.as_bytes()), coding);
        }
    }
}

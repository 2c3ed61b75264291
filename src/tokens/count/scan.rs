//! Where the encodings cut text into pieces before they merge bytes: both splitting rules, written
//! by hand from the published patterns, without backtracking over more than one run.
//!
//! A scan never looks outside the window it was given and never merges; `count` walks the pieces.

use super::classes::{
    CASELESS, Classes, LETTER, LOWER, MARK, NEWLINE, NUMBER, SPACE, SYMBOL, UPPER,
};
use super::work;

/// One piece that starts where the scan was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it ends (exclusive), always past its start.
    pub end: usize,
    /// How far the scan looked: if this is the end of the window, more text might move `end`.
    pub reach: usize,
}

/// A window of text (whole UTF-8 characters) and the classes to read it by.
#[derive(Clone, Copy)]
pub(super) struct Scan<'a> {
    classes: &'a Classes,
    window: &'a [u8],
}

impl<'a> Scan<'a> {
    pub(super) fn new(classes: &'a Classes, window: &'a [u8]) -> Self {
        Self { classes, window }
    }

    /// The `o200k` piece at `start`, which is the start of a character inside the window.
    ///
    /// ```text
    /// [^\r\n\p{L}\p{N}]? [UPPER|CASELESS|MARK]* [LOWER|CASELESS|MARK]+ CONTRACTION?
    /// | [^\r\n\p{L}\p{N}]? [UPPER|CASELESS|MARK]+ [LOWER|CASELESS|MARK]* CONTRACTION?
    /// | \p{N}{1,3} | ' '?[^\s\p{L}\p{N}]+[\r\n/]* | \s*[\r\n]+ | \s+(?!\S) | \s+
    /// CONTRACTION = (?i:'s|'t|'re|'ve|'m|'ll|'d)
    /// ```
    #[inline]
    pub(super) fn o200k(&self, start: usize) -> Piece {
        let (class, width) = self.at(start);
        let next = start + width;
        if class & LETTER != 0 {
            return self.contracted(self.word(start).expect("a letter is a word"));
        }
        match class {
            NUMBER => self.number(start),
            NEWLINE => self.white(start, Tail::Split),
            // A mark is a prefix only of a word of the first form; otherwise it is a word itself.
            MARK => match self.word(next) {
                Some(word) if word.first_form => self.contracted(word),
                Some(word) => self.contracted(Word { end: next, ..word }),
                None => self.contracted(Word {
                    end: next,
                    reach: next,
                    first_form: true,
                }),
            },
            _ => match self.word(next) {
                Some(word) => self.contracted(word),
                None => self.symbols_or_white(start, class, next, Tail::Split),
            },
        }
    }

    /// The `cl100k` piece at `start`, which is the start of a character inside the window.
    ///
    /// ```text
    /// '(?i:[sdmt]|ll|ve|re) | [^\r\n\p{L}\p{N}]?+\p{L}++ | \p{N}{1,3}+
    /// | ' '?[^\s\p{L}\p{N}]++[\r\n]*+ | \s++$ | \s*[\r\n] | \s+(?!\S) | \s
    /// ```
    #[inline]
    pub(super) fn cl100k(&self, start: usize) -> Piece {
        let (class, width) = self.at(start);
        let next = start + width;
        if class & LETTER != 0 {
            return ending(self.run(start, LETTER));
        }
        match class {
            NUMBER => return self.number(start),
            NEWLINE => return self.white(start, Tail::Whole),
            _ => {}
        }
        // Text that ends amid a contraction ends amid a word as well: no need to look further.
        let contraction = self.contraction(start);
        if contraction > start {
            return ending(contraction);
        }
        let end = self.run(next, LETTER);
        if end > next {
            return ending(end);
        }
        self.symbols_or_white(start, class, next, Tail::Whole)
    }

    /// The class and the width of the character at `at`; nothing (0, 0) at the window's end.
    #[inline(always)]
    fn at(&self, at: usize) -> (u8, usize) {
        work::spend(1);
        match self.window.get(at) {
            Some(&byte) if byte < 0x80 => (self.classes.of_ascii(byte), 1),
            Some(&lead) => self.wide(at, lead),
            None => (0, 0),
        }
    }

    #[inline]
    fn wide(&self, at: usize, lead: u8) -> (u8, usize) {
        let rest = |offset: usize| u32::from(self.window[at + offset] & 0x3f);
        let lead = u32::from(lead);
        let (scalar, width) = match lead {
            0..0xe0 => ((lead & 0x1f) << 6 | rest(1), 2),
            0xe0..0xf0 => ((lead & 0x0f) << 12 | rest(1) << 6 | rest(2), 3),
            _ => (
                (lead & 0x07) << 18 | rest(1) << 12 | rest(2) << 6 | rest(3),
                4,
            ),
        };
        (self.classes.of(scalar), width)
    }

    /// The end of the run of characters in `classes` that starts at `start`.
    #[inline(always)]
    fn run(&self, start: usize, classes: u8) -> usize {
        let mut end = start;
        loop {
            let (class, width) = self.at(end);
            if class & classes == 0 {
                return end;
            }
            end += width;
        }
    }

    /// An `o200k` word without prefix and contraction: of the first form if it can be, else of the
    /// second (capitals only).
    #[inline(always)]
    fn word(&self, start: usize) -> Option<Word> {
        let (mut end, mut caseless_end) = (start, start);
        let after = loop {
            let (class, width) = self.at(end);
            if class & (UPPER | CASELESS | MARK) == 0 {
                break class;
            }
            end += width;
            if class != UPPER {
                caseless_end = end;
            }
        };
        if after == LOWER {
            let end = self.run(end, LOWER | CASELESS | MARK);
            return Some(Word {
                end,
                reach: end,
                first_form: true,
            });
        }
        // No lower case letter follows: the first form gives back capitals until it can end in a
        // caseless letter or mark.
        if caseless_end > start {
            return Some(Word {
                end: caseless_end,
                reach: end,
                first_form: true,
            });
        }
        (end > start).then_some(Word {
            end,
            reach: end,
            first_form: false,
        })
    }

    #[inline(always)]
    fn contracted(&self, word: Word) -> Piece {
        if self.window.get(word.end) != Some(&b'\'') {
            return Piece {
                end: word.end,
                reach: word.reach,
            };
        }
        let reach = word.reach.max(word.end + CONTRACTION_BYTES);
        Piece {
            end: self.contraction(word.end),
            reach,
        }
    }

    /// The end of the contraction at `start`, or `start`. `ſ` (U+017F) is an `s` to a pattern that
    /// ignores case.
    fn contraction(&self, start: usize) -> usize {
        let rest = &self.window[start..];
        let folded = |at: usize| rest.get(at).map(u8::to_ascii_lowercase);
        if folded(0) != Some(b'\'') {
            return start;
        }
        match (folded(1), folded(2)) {
            (Some(b's' | b't' | b'm' | b'd'), _) => start + 2,
            (Some(b'l'), Some(b'l')) | (Some(b'v' | b'r'), Some(b'e')) => start + 3,
            (Some(0xc5), Some(0xbf)) => start + 3,
            _ => start,
        }
    }

    fn number(&self, start: usize) -> Piece {
        let mut end = start;
        for _ in 0..3 {
            let (class, width) = self.at(end);
            if class != NUMBER {
                break;
            }
            end += width;
        }
        ending(end)
    }

    fn symbols_or_white(&self, start: usize, class: u8, next: usize, tail: Tail) -> Piece {
        if class & (SYMBOL | MARK) != 0 {
            return self.symbols(next, tail);
        }
        let (class, width) = self.at(next);
        if self.window[start] == b' ' && class & (SYMBOL | MARK) != 0 {
            return self.symbols(next + width, tail);
        }
        self.white(start, tail)
    }

    /// The rest of a piece of symbols, with the line ends that follow it.
    fn symbols(&self, start: usize, tail: Tail) -> Piece {
        let mut end = self.run(start, SYMBOL | MARK);
        loop {
            work::spend(1);
            match self.window.get(end) {
                Some(b'\r' | b'\n') => end += 1,
                Some(b'/') if tail == Tail::Split => end += 1,
                _ => return ending(end),
            }
        }
    }

    /// White space: up to its last line end; else all at the end of the text; else all but the last
    /// character, which begins the next piece.
    fn white(&self, start: usize, tail: Tail) -> Piece {
        let (mut end, mut last, mut newline_end) = (start, start, start);
        loop {
            let (class, width) = self.at(end);
            if class & (SPACE | NEWLINE) == 0 {
                break;
            }
            last = end;
            end += width;
            if class == NEWLINE {
                newline_end = end;
            }
        }
        let at_end = end == self.window.len();
        let cut = if at_end && tail == Tail::Whole {
            end
        } else if newline_end > start {
            newline_end
        } else if at_end || last == start {
            end
        } else {
            last
        };
        Piece {
            end: cut,
            reach: end,
        }
    }
}

/// The bytes of the longest contraction: no scan looks further past an apostrophe.
const CONTRACTION_BYTES: usize = 3;

struct Word {
    end: usize,
    reach: usize,
    first_form: bool,
}

/// Where the two encodings differ on what ends a text or a piece of symbols.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// `o200k`: white space at the end of the text still splits at its last line end, and symbols
    /// take slashes among the line ends that follow.
    Split,
    /// `cl100k`: white space at the end of the text is one piece.
    Whole,
}

fn ending(end: usize) -> Piece {
    Piece { end, reach: end }
}

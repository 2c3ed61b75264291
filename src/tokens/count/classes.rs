//! The classes of characters that both encodings split text by: one byte per character, read by two
//! table look-ups.
//!
//! The tables are taken from `regex-syntax`, the crate that the reference tokenizer's own regular
//! expressions are compiled with, so the two agree by construction when Unicode moves on. They are
//! built once; nothing here is a regular expression at run time. Used by `scan` alone.

use regex_syntax::hir::{Class, HirKind};

/// Upper and title case letters (`Lu`, `Lt`).
pub(super) const UPPER: u8 = 1;
/// Lower case letters (`Ll`).
pub(super) const LOWER: u8 = 1 << 1;
/// Letters without case (`Lm`, `Lo`).
pub(super) const CASELESS: u8 = 1 << 2;
/// Combining marks (`M`).
pub(super) const MARK: u8 = 1 << 3;
/// Numbers (`N`).
pub(super) const NUMBER: u8 = 1 << 4;
/// `\r` and `\n`.
pub(super) const NEWLINE: u8 = 1 << 5;
/// All other white space.
pub(super) const SPACE: u8 = 1 << 6;
/// All that is left: punctuation, symbols, controls, unassigned.
pub(super) const SYMBOL: u8 = 1 << 7;

/// Any letter (`L`).
pub(super) const LETTER: u8 = UPPER | LOWER | CASELESS;

const TABLES: [(&str, u8); 6] = [
    (r"[\p{Lu}\p{Lt}]", UPPER),
    (r"\p{Ll}", LOWER),
    (r"[\p{Lm}\p{Lo}]", CASELESS),
    (r"\p{M}", MARK),
    (r"\p{N}", NUMBER),
    (r"\s", SPACE),
];

const CODE_POINTS: usize = 0x11_0000;
const BLOCK: usize = 256;

/// The class of every character: a table for ASCII, and blocks of 256 characters (equal ones stored
/// once, about 30 KB) for the rest.
pub(super) struct Classes {
    ascii: [u8; 128],
    block_of: Vec<u16>,
    blocks: Vec<u8>,
}

impl Classes {
    pub(super) fn new() -> Self {
        let mut all = vec![SYMBOL; CODE_POINTS];
        for (pattern, class) in TABLES {
            for (first, last) in ranges(pattern) {
                all[first as usize..=last as usize].fill(class);
            }
        }
        all[usize::from(b'\r')] = NEWLINE;
        all[usize::from(b'\n')] = NEWLINE;

        let mut blocks: Vec<u8> = Vec::new();
        let mut block_of = Vec::with_capacity(CODE_POINTS / BLOCK);
        for block in all.chunks(BLOCK) {
            let known = blocks.chunks(BLOCK).position(|other| other == block);
            let index = known.unwrap_or(blocks.len() / BLOCK);
            if known.is_none() {
                blocks.extend_from_slice(block);
            }
            block_of.push(u16::try_from(index).expect("4352 blocks fit"));
        }
        let mut ascii = [0; 128];
        ascii.copy_from_slice(&all[..128]);
        Self {
            ascii,
            block_of,
            blocks,
        }
    }

    /// The class of the ASCII character `byte`, which must be below 128.
    #[inline(always)]
    pub(super) fn of_ascii(&self, byte: u8) -> u8 {
        self.ascii[usize::from(byte & 0x7f)]
    }

    /// The class of a scalar value.
    #[inline(always)]
    pub(super) fn of(&self, scalar: u32) -> u8 {
        let block = usize::from(self.block_of[(scalar >> 8) as usize]);
        self.blocks[block * BLOCK + (scalar & 0xff) as usize]
    }
}

fn ranges(pattern: &str) -> Vec<(char, char)> {
    let parsed = regex_syntax::parse(pattern).expect("a constant pattern, parsed in every test");
    match parsed.kind() {
        HirKind::Class(Class::Unicode(class)) => class
            .ranges()
            .iter()
            .map(|range| (range.start(), range.end()))
            .collect(),
        other => unreachable!("the constant pattern {pattern} is a Unicode class, not {other:?}"),
    }
}

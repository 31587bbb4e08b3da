//! The class of a character, for split patterns: letter, number, white space, line end or other. The tables are made from the regex
//! engine's own `\p{L}`, `\p{N}` and `\s` when they are first needed, and so agree with it.

use regex_syntax::hir::{Class, HirKind};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Neither letter nor number nor white space.
pub(super) const OTHER: u8 = 0;
/// `\p{L}`.
pub(super) const LETTER: u8 = 1;
/// `\p{N}`.
pub(super) const NUMBER: u8 = 2;
/// `\s`, but not a line end.
pub(super) const SPACE: u8 = 3;
/// `\r` and `\n`, which are `\s` too.
pub(super) const LINE_END: u8 = 4;
/// No character: the text ends here.
pub(super) const END: u8 = 5;

const BLOCK: usize = 256;

/// The class of every character: of ASCII directly, of others by blocks of 256, most of which are equal.
#[derive(Debug)]
pub(super) struct Classes {
    ascii: [u8; 128],
    block_of: Vec<u16>,
    blocks: Vec<[u8; BLOCK]>,
}

static CLASSES: LazyLock<Option<Classes>> = LazyLock::new(Classes::new);

impl Classes {
    /// The tables; `None` if the regex engine was built without Unicode's classes.
    pub(super) fn get() -> Option<&'static Self> {
        CLASSES.as_ref()
    }

    fn new() -> Option<Self> {
        let mut all = vec![OTHER; char::MAX as usize + 1];
        for (pattern, class) in [(r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", SPACE)] {
            let hir = regex_syntax::Parser::new().parse(pattern).ok()?;
            let HirKind::Class(Class::Unicode(ranges)) = hir.kind() else { return None };
            for range in ranges.iter() {
                all[range.start() as usize..=range.end() as usize].fill(class);
            }
        }
        all['\r' as usize] = LINE_END;
        all['\n' as usize] = LINE_END;

        let (mut block_of, mut blocks) = (vec![], vec![]);
        let mut seen: HashMap<[u8; BLOCK], u16> = HashMap::new();
        for chunk in all.chunks_exact(BLOCK) {
            let block: [u8; BLOCK] = chunk.try_into().ok()?;
            let index = *seen.entry(block).or_insert_with(|| {
                blocks.push(block);
                (blocks.len() - 1) as u16
            });
            block_of.push(index);
        }
        let ascii = all[..128].try_into().ok()?;
        Some(Self { ascii, block_of, blocks })
    }

    /// The class of the character that begins at byte `at` of valid UTF-8, and its length in bytes.
    #[inline]
    pub(super) fn at(&self, text: &[u8], at: usize) -> (u8, usize) {
        match text.get(at) {
            None => (END, 0),
            Some(&byte) if byte < 128 => (self.ascii[usize::from(byte)], 1),
            Some(&first) => self.wide(text, at, first),
        }
    }

    fn wide(&self, text: &[u8], at: usize, first: u8) -> (u8, usize) {
        let bits = |k: usize| usize::from(text.get(at + k).copied().unwrap_or(0) & 0x3F);
        let first = usize::from(first);
        let (code, bytes) = if first < 0xE0 {
            ((first & 0x1F) << 6 | bits(1), 2)
        } else if first < 0xF0 {
            ((first & 0x0F) << 12 | bits(1) << 6 | bits(2), 3)
        } else {
            ((first & 0x07) << 18 | bits(1) << 12 | bits(2) << 6 | bits(3), 4)
        };
        let block = self.block_of.get(code / BLOCK).copied().unwrap_or(0);
        (self.blocks[usize::from(block)][code % BLOCK], bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_of_the_engines_class() {
        let classes = Classes::get().unwrap();
        let parse = |p: &str| regex_syntax::Parser::new().parse(p).unwrap();
        let hirs = [parse(r"\p{L}"), parse(r"\p{N}"), parse(r"\s")];
        let holds = |i: usize, c: char| match hirs[i].kind() {
            HirKind::Class(Class::Unicode(u)) => u
                .ranges()
                .binary_search_by(|r| {
                    if r.end() < c {
                        std::cmp::Ordering::Less
                    } else if r.start() > c {
                        std::cmp::Ordering::Greater
                    } else {
                        std::cmp::Ordering::Equal
                    }
                })
                .is_ok(),
            _ => unreachable!(),
        };
        for c in '\0'..=char::MAX {
            let text = c.to_string();
            let (class, bytes) = classes.at(text.as_bytes(), 0);
            assert_eq!(bytes, text.len());
            let expected = if holds(0, c) {
                LETTER
            } else if holds(1, c) {
                NUMBER
            } else if matches!(c, '\r' | '\n') {
                LINE_END
            } else if holds(2, c) {
                SPACE
            } else {
                OTHER
            };
            assert_eq!(class, expected, "{c:?}");
        }
        assert_eq!(classes.at(b"", 0), (END, 0));
        assert!(classes.blocks.len() < 300, "{}", classes.blocks.len());
    }
}

//! The split patterns of GPT-2 and of GPT-4's family, written out: where the piece that begins at a byte ends. Every other
//! pattern is left to the regex engine.
//!
//! Both match at every character, so that the pieces are the text; both look ahead but never back, so that a text cut between
//! two pieces splits into the same pieces. `tests/tokenizer_split.rs` compares them with the regex engine.

use super::classes::{Classes, END, LETTER, LINE_END, NUMBER, OTHER, SPACE};

/// A split pattern that is written out here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// GPT-2's.
    Gpt2,
    /// GPT-4's, with at most so many digits in a piece.
    Gpt4 {
        /// 3 in GPT-4 and Llama 3, 2 in nanochat and here, 1 in Qwen 2.
        digits: u8,
    },
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const GPT2_BY_LENGTH: &str =
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// As in Llama 3 (`\p{N}{1,3}`) and Qwen 2 (`\p{N}`), with `DIGITS` for what differs.
const LLAMA: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Known {
    /// The pattern with exactly this text.
    pub(super) fn find(regex: &str) -> Option<Self> {
        if regex == GPT2 || regex == GPT2_BY_LENGTH {
            return Some(Self::Gpt2);
        }
        for (digits, text) in
            [(1, r"\p{N}{1,1}"), (1, r"\p{N}"), (2, r"\p{N}{1,2}"), (3, r"\p{N}{1,3}")]
        {
            let ours = super::SPLIT_REGEX.replace(r"\p{N}{1,2}", text);
            if regex == ours || regex == LLAMA.replace("DIGITS", text) {
                return Some(Self::Gpt4 { digits });
            }
        }
        None
    }
}

/// Where pieces end.
pub(super) trait Pattern: Copy {
    /// The end of the piece of `text` that begins at `at`, which is less than the text's length; `text` is valid UTF-8.
    fn end(self, text: &[u8], at: usize) -> usize;
}

/// [`Known::Gpt2`].
#[derive(Clone, Copy)]
pub(super) struct Gpt2(pub(super) &'static Classes);

impl Pattern for Gpt2 {
    #[allow(
        clippy::inline_always,
        reason = "the body of the hottest loop; without it, one of its copies becomes a call"
    )]
    #[inline(always)]
    fn end(self, text: &[u8], at: usize) -> usize {
        let first = text[at];
        if first == b'\''
            && let Some(end) = contraction(text, at + 1, false)
        {
            return end;
        }
        let (mut class, mut next) = self.0.at(text, at);
        next += at;
        if first == b' ' {
            let (after, bytes) = self.0.at(text, next);
            if matches!(after, LETTER | NUMBER | OTHER) {
                (class, next) = (after, next + bytes);
            }
        }
        match class {
            LETTER => letters(self.0, text, next),
            NUMBER | OTHER => run(self.0, text, next, class),
            _ => spaces(self.0, text, at, false),
        }
    }
}

/// [`Known::Gpt4`].
#[derive(Clone, Copy)]
pub(super) struct Gpt4 {
    pub(super) classes: &'static Classes,
    pub(super) digits: u8,
}

impl Pattern for Gpt4 {
    #[allow(
        clippy::inline_always,
        reason = "the body of the hottest loop; without it, one of its copies becomes a call"
    )]
    #[inline(always)]
    fn end(self, text: &[u8], at: usize) -> usize {
        let (class, bytes) = self.classes.at(text, at);
        let next = at + bytes;
        match class {
            LETTER => return letters(self.classes, text, next),
            NUMBER => return self.numbers(text, next),
            OTHER if text[at] == b'\'' => {
                if let Some(end) = contraction(text, next, true) {
                    return end;
                }
            }
            _ => {}
        }
        // One character that is no letter, number or line end may begin a word.
        let (after, after_bytes) = self.classes.at(text, next);
        if after == LETTER && class != LINE_END {
            return letters(self.classes, text, next + after_bytes);
        }
        let others = match class {
            OTHER => Some(next),
            _ if text[at] == b' ' && after == OTHER => Some(next + after_bytes),
            _ => None,
        };
        let Some(others) = others else { return spaces(self.classes, text, at, true) };
        let mut end = run(self.classes, text, others, OTHER);
        while matches!(text.get(end), Some(b'\r' | b'\n')) {
            end += 1;
        }
        end
    }
}

impl Gpt4 {
    fn numbers(self, text: &[u8], mut at: usize) -> usize {
        for _ in 1..self.digits {
            let (class, bytes) = self.classes.at(text, at);
            if class != NUMBER {
                break;
            }
            at += bytes;
        }
        at
    }
}

/// The end of `s`, `d`, `m`, `t`, `ll`, `ve` or `re` at `at`. In any case, `ſ` (U+017F) is an s.
fn contraction(text: &[u8], at: usize, any_case: bool) -> Option<usize> {
    let lower = |b: u8| if any_case { b.to_ascii_lowercase() } else { b };
    let first = lower(*text.get(at)?);
    match first {
        b's' | b'd' | b'm' | b't' => Some(at + 1),
        b'l' | b'v' | b'r' => {
            let second = if first == b'l' { b'l' } else { b'e' };
            (lower(*text.get(at + 1)?) == second).then_some(at + 2)
        }
        0xC5 if any_case && text.get(at + 1) == Some(&0xBF) => Some(at + 2),
        _ => None,
    }
}

/// The end of the letters that begin at `at`, eight bytes at a time while they are ASCII.
#[inline]
fn letters(classes: &Classes, text: &[u8], mut at: usize) -> usize {
    loop {
        while let Some(eight) = text.get(at..at + 8) {
            let mut word = [0; 8];
            word.copy_from_slice(eight);
            let letters = ascii_letters(u64::from_le_bytes(word));
            at += letters;
            if letters < 8 {
                break;
            }
        }
        match classes.at(text, at) {
            (LETTER, bytes) => at += bytes,
            _ => return at,
        }
    }
}

/// How many of the eight bytes, from the lowest on, are ASCII letters before the first that is not.
#[inline]
fn ascii_letters(bytes: u64) -> usize {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const ONE: u64 = 0x0101_0101_0101_0101;
    // Of the lower seven bits in lower case: adding carries into the high bit from 'a' on, or from beyond 'z' on.
    let lower = (bytes | (ONE * 0x20)) & !HIGH;
    let from_a = lower + ONE * (0x80 - b'a' as u64);
    let beyond_z = lower + ONE * (0x7F - b'z' as u64);
    let is_letter = from_a & !beyond_z & !bytes & HIGH;
    ((is_letter ^ HIGH).trailing_zeros() / 8) as usize
}

/// The end of the characters of one class that begin at `at`.
#[inline]
fn run(classes: &Classes, text: &[u8], mut at: usize, class: u8) -> usize {
    loop {
        match classes.at(text, at) {
            (found, bytes) if found == class => at += bytes,
            _ => return at,
        }
    }
}

/// White space from `at` on: to its last line end if `lines`, else all of it at the end of the text, else all but its last
/// character, which belongs to what follows, unless it is the only one.
fn spaces(classes: &Classes, text: &[u8], at: usize, lines: bool) -> usize {
    let (mut end, mut last, mut line_end) = (at, at, None);
    let after = loop {
        let (class, bytes) = classes.at(text, end);
        if !matches!(class, SPACE | LINE_END) {
            break class;
        }
        last = end;
        end += bytes;
        if class == LINE_END {
            line_end = Some(end);
        }
    };
    match line_end {
        Some(line_end) if lines => line_end,
        _ if after == END || last == at => end,
        _ => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_eight_bytes() {
        for byte in 0..=255u8 {
            for place in 0..8 {
                let mut bytes = *b"aZmQzAkY";
                bytes[place] = byte;
                let expected = if byte.is_ascii_alphabetic() { 8 } else { place };
                assert_eq!(ascii_letters(u64::from_le_bytes(bytes)), expected, "{byte} at {place}");
            }
        }
    }

    #[test]
    fn patterns_are_known_by_their_text() {
        assert_eq!(Known::find(crate::SPLIT_REGEX), Some(Known::Gpt4 { digits: 2 }));
        assert_eq!(Known::find(GPT2), Some(Known::Gpt2));
        assert_eq!(Known::find(r"\w+|\s+"), None);
    }
}

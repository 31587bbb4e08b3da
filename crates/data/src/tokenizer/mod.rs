//! The byte-level BPE tokenizer: what it is and what it does with text and ids. Its file is that of the `tokenizers` crate.
//! Texts are encoded by our own encoder where it knows the split pattern, else by that crate, which is slower.

mod choose;
mod classes;
mod count;
mod encode;
mod file;
mod key;
mod learn;
mod merges;
mod report;
mod split;
mod table;
mod train;

pub use report::Compression;
pub use train::{BpeSettings, BpeStats, TOKENIZER, train_bpe};

use crate::pack::Tokens;
use crate::{Error, Result, Token};
use choose::Way;
use encode::Lent;
use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// The regex that cuts text into the pieces inside which merges happen.
///
/// # Source
/// nanochat's tokenizer: GPT-4's pattern with at most two digits per piece.
pub const SPLIT_REGEX: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// The special tokens, last in the vocabulary, in this order.
pub const SPECIAL_TOKENS: [&str; 9] = [
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
];

/// Names of the token that begins a document; the first that a file has is taken.
const BOS_NAMES: [&str; 3] = ["<|bos|>", "<|begin_of_text|>", "<|endoftext|>"];

/// Texts beyond this many bytes are encoded by several threads.
const PART_BYTES: usize = 1 << 20;

/// Bytes of texts whose tokens share memory, at most, so that one allocation serves many texts; a text that waits for long in a
/// packer's buffer keeps no more than that.
pub(crate) const GROUP_BYTES: usize = 1 << 16;

/// A byte-level BPE tokenizer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokenizer(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    inner: tokenizers::Tokenizer,
    way: Way,
    /// The bytes of every id; a special token has the bytes of its name here.
    bytes: Vec<Vec<u8>>,
    special: Vec<bool>,
    bos: u32,
    digest: String,
    json: String,
}

fn failed(reason: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::Tokenizer { reason: reason.into(), hint: hint.into() }
}

impl Tokenizer {
    /// Writes the canonical `tokenizer.json`, which Python's `tokenizers` reads too.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(farthing_base::files::write(path.as_ref(), &[self.0.json.as_bytes()])?)
    }

    /// The ids of `text`, without BOS. A special token's name in the text is encoded as text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_to`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 1);
        self.encode_to(text, &mut ids)?;
        Ok(ids)
    }

    /// Appends the ids of `text` to `out`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the split regex of a tokenizer that [`Tokenizer::slow_because`] speaks of gives up.
    ///
    /// # Cost
    /// Time in proportion to the text, whatever it is, and no memory but that of the ids; with a slow tokenizer, about
    /// a hundred bytes for each byte of the text.
    pub fn encode_to(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        self.encode_with(text, &mut self.0.way.lend(), out)
    }

    fn encode_with<T: Token>(
        &self,
        text: &str,
        lent: &mut Option<Lent<'_>>,
        out: &mut Vec<T>,
    ) -> Result<()> {
        self.0.way.encode(&self.0.inner, text, lent, out).map_err(|e| {
            failed(
                format!("a text of {} bytes cannot be encoded: {e}", text.len()),
                "cut the text into smaller documents",
            )
        })
    }

    /// Cuts `text` into parts of about `about_bytes` each, whose ids, one after another, are those of the text. A part is longer
    /// where the text has no safe place to cut; there is always at least one.
    ///
    /// A safe place is between an ASCII letter and a space: every piece that holds a letter ends with its letters, and no piece
    /// depends on what is before it. A text that the slow way must encode is one part.
    pub fn parts<'a>(&self, text: &'a str, about_bytes: usize) -> Vec<&'a str> {
        let about_bytes = about_bytes.max(1);
        if text.len() <= about_bytes || !self.0.way.can_cut(text) {
            return vec![text];
        }
        let (mut parts, mut rest) = (vec![], text);
        while rest.len() > about_bytes {
            let safe = rest.as_bytes()[about_bytes - 1..]
                .windows(2)
                .position(|w| w[0].is_ascii_alphabetic() && w[1] == b' ');
            let Some(cut) = safe else { break };
            let (part, after) = rest.split_at(about_bytes + cut);
            parts.push(part);
            rest = after;
        }
        parts.push(rest);
        parts
    }

    /// [`Tokenizer::encode`] of every text on all cores, results in the order of the texts. A long text is encoded by several
    /// cores too.
    ///
    /// # Errors
    /// The first error in that order.
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>> {
        // What a thread remembers is lent for several texts in a row, so that it stays in that core's cache.
        let all: Vec<Result<Vec<u32>>> = texts
            .par_iter()
            .with_max_len(64)
            .map_init(
                || self.0.way.lend(),
                |lent, text| {
                    let mut ids = Vec::with_capacity(text.as_ref().len() / 4 + 1);
                    self.encode_on_all_cores(text.as_ref(), lent, &mut ids).map(|()| ids)
                },
            )
            .collect();
        all.into_iter().collect()
    }

    /// [`Tokenizer::encode_batch`] for who takes the documents one after another: those that are short share memory.
    pub(crate) fn encode_shared<T: Token, S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
    ) -> Result<Vec<Tokens<T>>> {
        let mut groups = vec![];
        let (mut start, mut bytes) = (0, 0);
        for (i, text) in texts.iter().enumerate() {
            let more = text.as_ref().len();
            // A long text is a group of its own: a short one that waits must not keep its tokens.
            if i > start && bytes + more > GROUP_BYTES {
                groups.push((&texts[start..i], bytes));
                (start, bytes) = (i, 0);
            }
            bytes += more;
        }
        groups.push((&texts[start..], bytes));
        let encoded: Vec<Result<Vec<Tokens<T>>>> = groups
            .par_iter()
            .with_max_len(4)
            .map_init(
                || self.0.way.lend(),
                |lent, (texts, bytes)| {
                    let mut ids = Vec::with_capacity(bytes / 4 + 1);
                    let mut ends = Vec::with_capacity(texts.len());
                    for text in *texts {
                        self.encode_on_all_cores(text.as_ref(), lent, &mut ids)?;
                        ends.push(ids.len());
                    }
                    let ids = Arc::new(ids);
                    let starts = std::iter::once(0).chain(ends.iter().copied());
                    Ok(starts
                        .zip(&ends)
                        .map(|(start, &end)| Tokens::of(&ids, start, end))
                        .collect())
                },
            )
            .collect();
        let encoded: Result<Vec<_>> = encoded.into_iter().collect();
        Ok(encoded?.into_iter().flatten().collect())
    }

    /// [`Tokenizer::encode_with`], a long text on several cores.
    fn encode_on_all_cores<T: Token>(
        &self,
        text: &str,
        lent: &mut Option<Lent<'_>>,
        out: &mut Vec<T>,
    ) -> Result<()> {
        let parts = if text.len() < 2 * PART_BYTES { vec![] } else { self.parts(text, PART_BYTES) };
        if parts.len() < 2 {
            return self.encode_with(text, lent, out);
        }
        let encode = |lent: &mut Option<Lent<'_>>, part: &&str| {
            let mut ids = Vec::with_capacity(part.len() / 4 + 1);
            self.encode_with(part, lent, &mut ids).map(|()| ids)
        };
        let ids: Vec<Result<Vec<T>>> =
            parts.par_iter().map_init(|| self.0.way.lend(), encode).collect();
        for part in ids {
            out.extend_from_slice(&part?);
        }
        Ok(())
    }

    /// Why texts are encoded by the `tokenizers` crate instead of the faster encoder; `None` if they are not.
    pub fn slow_because(&self) -> Option<&str> {
        self.0.way.slow_because()
    }

    /// The bytes that `ids` stand for. Special tokens are spelled out; an id outside the vocabulary gives U+FFFD.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        let unknown = "\u{FFFD}".as_bytes();
        ids.iter()
            .flat_map(|&id| self.0.bytes.get(id as usize).map_or(unknown, Vec::as_slice))
            .copied()
            .collect()
    }

    /// [`Tokenizer::decode_bytes`] as text; bytes that are not UTF-8 (a character cut in two) become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids)).into_owned()
    }

    /// The token that begins every document.
    pub fn bos(&self) -> u32 {
        self.0.bos
    }

    /// Entries in all, V.
    pub fn vocab_size(&self) -> usize {
        self.0.bytes.len()
    }

    /// The id of a token by its name in the file, for example `<|user_start|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.0.inner.token_to_id(token)
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.special.get(id as usize).copied().unwrap_or(false)
    }

    /// For each id the number of raw bytes it stands for; 0 for special tokens.
    ///
    /// Of the bytes, not of the decoded text: a token that is half a character counts what it is, where its text would be
    /// U+FFFD, three bytes.
    pub fn token_bytes(&self) -> Vec<u32> {
        let lengths = self.0.bytes.iter().zip(&self.0.special);
        lengths.map(|(bytes, &special)| if special { 0 } else { bytes.len() as u32 }).collect()
    }

    /// BLAKE3 of the canonical file.
    pub fn digest(&self) -> &str {
        &self.0.digest
    }
}

/// Byte-level tokenizers spell each byte as one printable character: printable Latin-1 as itself, the other
/// bytes, in order, as the characters from U+0100 on.
fn chars_of_bytes() -> [char; 256] {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = '\u{100}'..;
    std::array::from_fn(|b| {
        let c = char::from(b as u8);
        if printable(b as u8) { c } else { others.next().unwrap_or(c) }
    })
}

/// The other way round, for whole tokens.
struct Spelling(std::collections::BTreeMap<char, u8>);

impl Spelling {
    fn new() -> Self {
        Self(chars_of_bytes().iter().zip(0..=255).map(|(&c, b)| (c, b)).collect())
    }

    /// The bytes that a token of the model spells; `None` if a character of it is no byte.
    fn bytes(&self, token: &str) -> Option<Vec<u8>> {
        token.chars().map(|c| self.0.get(&c).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_tokens_are_those_of_each_text() {
        let settings = BpeSettings { vocab_size: 280, ..BpeSettings::default() };
        let text = |_| Ok("the more the merrier, the sooner the better".to_string());
        let (tokenizer, _) = Tokenizer::train((0..3).map(text), &settings).unwrap();
        let words = ["the ", "sooner ", "merrier, ", "\u{e9}t\u{e9} ", "12345 "];
        let mut texts: Vec<String> =
            (0..300).map(|i| (0..i * 7).map(|k| words[(i + k) % words.len()]).collect()).collect();
        // One that several cores encode, between short ones.
        let long = "better and better, ".repeat(150_000);
        texts.extend(["the ".into(), long, String::new(), "sooner ".into()]);
        for texts in [&texts[..], &texts[..1], &[]] {
            let expected = tokenizer.encode_batch(texts).unwrap();
            let narrow = tokenizer.encode_shared::<u16, _>(texts).unwrap();
            let wide = tokenizer.encode_shared::<u32, _>(texts).unwrap();
            assert_eq!((narrow.len(), wide.len()), (texts.len(), texts.len()));
            for (i, ids) in expected.iter().enumerate() {
                assert!(wide[i].held() <= GROUP_BYTES.max(ids.len()), "document {i}");
                assert_eq!(wide[i].as_slice(), ids);
                assert!(
                    narrow[i].as_slice().iter().map(|&id| u32::from(id)).eq(ids.iter().copied())
                );
            }
        }
    }
}

//! The byte-level BPE tokenizer: training, files, encoding, decoding, and how many bytes each token stands for.
//! Merging is done by the `tokenizers` crate, whose file format it keeps.

use crate::files::write_atomic;
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, ModelWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

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

/// Bytes that are always in the vocabulary.
const BYTES: usize = 256;

/// How to train.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BpeSettings {
    /// V: entries in all, the 256 bytes and the 9 special tokens included.
    pub vocab_size: usize,
    /// Training stops reading after this many characters.
    pub max_chars: u64,
    /// Documents are cut here, so that a long one does not outweigh many.
    pub document_chars: usize,
}

impl Default for BpeSettings {
    fn default() -> Self {
        Self { vocab_size: 32_768, max_chars: 2_000_000_000, document_chars: 10_000 }
    }
}

impl BpeSettings {
    /// Whether the settings mean something.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self) -> Result<()> {
        let least = BYTES + SPECIAL_TOKENS.len();
        if self.vocab_size < least || u32::try_from(self.vocab_size).is_err() {
            return Err(Error::Config {
                what: format!("a vocabulary of {} entries cannot be trained", self.vocab_size),
                hint: format!(
                    "vocab_size must be at least {least}: 256 bytes and 9 special tokens"
                ),
            });
        }
        if self.max_chars == 0 || self.document_chars == 0 {
            return Err(Error::Config {
                what: format!(
                    "max_chars = {} and document_chars = {} leave no text to train on",
                    self.max_chars, self.document_chars
                ),
                hint: "both must be at least 1".into(),
            });
        }
        Ok(())
    }
}

/// What training read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BpeStats {
    /// Documents, the last one perhaps cut.
    pub documents: u64,
    /// Characters used, after cutting.
    pub chars: u64,
}

/// A byte-level BPE tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
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
    /// Trains on `texts`: V − 9 entries by the `tokenizers` crate's trainer, then the special tokens.
    /// The result depends on the texts and the settings alone, not on the number of threads.
    ///
    /// # Errors
    /// The first error among `texts`; [`Error::Config`]; [`Error::Tokenizer`] when the text is too small or too uniform
    /// for that many entries, with the number it yields.
    ///
    /// # Cost
    /// Memory for the distinct pieces of the text and their merges, not for the text.
    pub fn train(
        texts: impl Iterator<Item = Result<String>> + Send,
        settings: &BpeSettings,
    ) -> Result<(Self, BpeStats)> {
        settings.check()?;
        let entries = settings.vocab_size - SPECIAL_TOKENS.len();
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        let split = Split::new(
            SplitPattern::Regex(SPLIT_REGEX.into()),
            SplitDelimiterBehavior::Isolated,
            false,
        )
        .map_err(|e| {
            failed(e.to_string(), "this is a fault of this crate: the split regex is fixed")
        })?;
        let byte_level = ByteLevel::new(false, false, false);
        inner.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
            PreTokenizerWrapper::Split(split),
            PreTokenizerWrapper::ByteLevel(byte_level),
        ]))));
        inner.with_decoder(Some(DecoderWrapper::ByteLevel(byte_level)));
        let mut trainer = TrainerWrapper::BpeTrainer(
            BpeTrainer::builder()
                .show_progress(false)
                .min_frequency(0)
                .vocab_size(entries)
                .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
                .build(),
        );
        let (mut stats, mut fault) = (BpeStats::default(), None);
        let cut = Cut { texts, settings, stats: &mut stats, fault: &mut fault };
        inner
            .train(&mut trainer, cut)
            .map_err(|e| failed(e.to_string(), "the text could not be cut into pieces"))?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        let found = inner.get_vocab_size(false);
        if found != entries {
            return Err(failed(
                format!(
                    "{} characters of text yield a vocabulary of {} entries, {} were asked for",
                    stats.chars,
                    found + SPECIAL_TOKENS.len(),
                    settings.vocab_size
                ),
                format!(
                    "set vocab_size to at most {}, or give more text",
                    found + SPECIAL_TOKENS.len()
                ),
            ));
        }
        inner.add_special_tokens(&SPECIAL_TOKENS.map(|t| AddedToken::from(t, true)));
        let this = Self::wrap(inner).map_err(|(reason, hint)| failed(reason, hint))?;
        Ok((this, stats))
    }

    /// Reads a `tokenizer.json`: one of ours, or any byte-level BPE tokenizer with `<|bos|>` or `<|endoftext|>`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::TokenizerFile`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let bad = |reason, hint| Error::TokenizerFile { path: path.into(), reason, hint };
        let inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| {
            bad(format!("it does not parse: {e}"), "the file is damaged or of another format; rerun the stage that wrote it, or copy it again")
        })?;
        Self::wrap(inner).map_err(|(reason, hint)| bad(reason, hint))
    }

    fn wrap(mut inner: tokenizers::Tokenizer) -> Result<Self, (String, &'static str)> {
        const HINT: &str = "give a byte-level BPE tokenizer, such as GPT-2's or one trained here";
        if !matches!(inner.get_model(), ModelWrapper::BPE(_)) {
            return Err(("its model is not BPE".into(), HINT));
        }
        let json = inner.to_string(true).map_err(|e| (e.to_string(), HINT))?;
        // `<|bos|>` inside a text is text, not a document boundary.
        inner.set_encode_special_tokens(true);
        let added: BTreeMap<u32, AddedToken> =
            inner.get_added_tokens_decoder().into_iter().collect();
        let vocab: BTreeMap<u32, String> =
            inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        let size = vocab.last_key_value().map_or(0, |(&id, _)| id as usize + 1);
        if size != vocab.len() {
            return Err((
                format!("its {} tokens have ids up to {}", vocab.len(), size.saturating_sub(1)),
                "ids must be 0, 1, 2, … without holes",
            ));
        }
        let from_char = byte_of_char();
        let (mut bytes, mut special) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for (id, token) in &vocab {
            let added = added.get(id);
            special.push(added.is_some_and(|t| t.special));
            if added.is_some() {
                bytes.push(token.clone().into_bytes());
            } else {
                let raw: Option<Vec<u8>> =
                    token.chars().map(|c| from_char.get(&c).copied()).collect();
                bytes.push(
                    raw.ok_or_else(|| (format!("token {id}, {token:?}, is not byte-level"), HINT))?,
                );
            }
        }
        let bos = ["<|bos|>", "<|endoftext|>"].iter().find_map(|t| inner.token_to_id(t));
        let bos = bos.ok_or((
            "it has neither <|bos|> nor <|endoftext|>".into(),
            "rows need a token that begins every document; add <|bos|> as a special token",
        ))?;
        let digest = blake3::hash(json.as_bytes()).to_hex().to_string();
        Ok(Self { inner, bytes, special, bos, digest, json })
    }

    /// Writes the canonical `tokenizer.json`, which Python's `tokenizers` reads too.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomic(path.as_ref(), &[self.json.as_bytes()])
    }

    /// The ids of `text`, without BOS. A special token's name in the text is encoded as text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the split regex gives up on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        encoding.map(|e| e.get_ids().to_vec()).map_err(|e| {
            failed(
                format!("a text of {} bytes cannot be encoded: {e}", text.len()),
                "cut the text into smaller documents",
            )
        })
    }

    /// [`Tokenizer::encode`] of every text on all cores, results in the order of the texts.
    ///
    /// # Errors
    /// The first error in that order.
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>> {
        let all: Vec<Result<Vec<u32>>> =
            texts.par_iter().map(|text| self.encode(text.as_ref())).collect();
        all.into_iter().collect()
    }

    /// The bytes that `ids` stand for. Special tokens are spelled out; an id outside the vocabulary gives U+FFFD.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        let unknown = "\u{FFFD}".as_bytes();
        ids.iter()
            .flat_map(|&id| self.bytes.get(id as usize).map_or(unknown, Vec::as_slice))
            .copied()
            .collect()
    }

    /// [`Tokenizer::decode_bytes`] as text; bytes that are not UTF-8 (a character cut in two) become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids)).into_owned()
    }

    /// The token that begins every document.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// Entries in all, V.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// The id of a token by its name in the file, for example `<|user_start|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// For each id the number of raw bytes it stands for; 0 for special tokens.
    pub fn token_bytes(&self) -> Vec<u32> {
        let lengths = self.bytes.iter().zip(&self.special);
        lengths.map(|(bytes, &special)| if special { 0 } else { bytes.len() as u32 }).collect()
    }

    /// BLAKE3 of the canonical file.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// Cuts documents and the whole, and remembers the first fault, because the trainer takes plain texts.
struct Cut<'a, I> {
    texts: I,
    settings: &'a BpeSettings,
    stats: &'a mut BpeStats,
    fault: &'a mut Option<Error>,
}

impl<I: Iterator<Item = Result<String>>> Iterator for Cut<'_, I> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let left = self.settings.max_chars - self.stats.chars;
        if left == 0 || self.fault.is_some() {
            return None;
        }
        let mut text = match self.texts.next()? {
            Ok(text) => text,
            Err(fault) => {
                *self.fault = Some(fault);
                return None;
            }
        };
        let limit = (self.settings.document_chars as u64).min(left) as usize;
        let mut chars = 0;
        let mut end = None;
        for (at, _) in text.char_indices() {
            if chars == limit {
                end = Some(at);
                break;
            }
            chars += 1;
        }
        if let Some(end) = end {
            text.truncate(end);
        }
        self.stats.documents += 1;
        self.stats.chars += chars as u64;
        Some(text)
    }
}

/// Byte-level tokenizers spell each byte as one printable character: printable Latin-1 as itself, the other
/// bytes, in order, as the characters from U+0100 on.
fn byte_of_char() -> BTreeMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = '\u{100}'..;
    (0..=255u8)
        .filter_map(|b| {
            let c = if printable(b) { Some(char::from(b)) } else { others.next() };
            c.map(|c| (c, b))
        })
        .collect()
}

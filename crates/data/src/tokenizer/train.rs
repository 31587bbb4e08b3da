//! Training: texts are cut and counted, merges are learnt from the counts, and a tokenizer is made of them.

use super::classes::Classes;
use super::count::Counts;
use super::learn::{Learnt, learn};
use super::split::Known;
use super::{SPECIAL_TOKENS, SPLIT_REGEX, Tokenizer, chars_of_bytes, failed};
use crate::{Error, Progress, Result, Silent, TextColumn, Texts};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

/// The tokenizer's name in the directory that [`train_bpe`] writes.
pub const TOKENIZER: &str = "tokenizer.json";

const FAULT: &str =
    "this is a fault of this crate: the pattern and the trainer's words are its own";

/// Bytes of text that are read for each thread while the last are counted.
const BATCH_BYTES: usize = 4 << 20;

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

impl Tokenizer {
    /// Trains on `texts`: V − 9 entries, then the special tokens. The result depends on the texts and the settings alone, not on
    /// the number of threads, and is the file that the `tokenizers` crate's trainer makes of them.
    ///
    /// # Errors
    /// The first error among `texts`; [`Error::Config`]; [`Error::Tokenizer`] when the text is too small or too uniform
    /// for that many entries, with the number it yields.
    ///
    /// # Cost
    /// Memory for the distinct pieces of the text and their merges, and for a few megabytes of text for each thread.
    pub fn train(
        texts: impl Iterator<Item = Result<String>> + Send,
        settings: &BpeSettings,
    ) -> Result<(Self, BpeStats)> {
        Self::train_watched(texts, None, settings, &mut Silent)
    }

    /// [`Tokenizer::train`], which says how far it is: in documents of `documents` if all will be read, else in characters; then
    /// in merges.
    ///
    /// # Errors
    /// As [`Tokenizer::train`].
    pub fn train_watched(
        texts: impl Iterator<Item = Result<String>> + Send,
        documents: Option<u64>,
        settings: &BpeSettings,
        progress: &mut dyn Progress,
    ) -> Result<(Self, BpeStats)> {
        let (this, stats) = Self::train_at_most(texts, documents, settings, progress)?;
        let found = this.vocab_size();
        if found != settings.vocab_size {
            return Err(failed(
                format!(
                    "{} characters of text yield a vocabulary of {found} entries, {} were asked for",
                    stats.chars, settings.vocab_size
                ),
                format!("set vocab_size to at most {found}, or give more text"),
            ));
        }
        Ok((this, stats))
    }

    /// [`Tokenizer::train_watched`], with fewer entries than were asked for where the text is too small or too uniform for them.
    ///
    /// # Errors
    /// The first error among `texts`; [`Error::Config`].
    pub(crate) fn train_at_most(
        texts: impl Iterator<Item = Result<String>> + Send,
        documents: Option<u64>,
        settings: &BpeSettings,
        progress: &mut dyn Progress,
    ) -> Result<(Self, BpeStats)> {
        settings.check()?;
        let entries = settings.vocab_size - SPECIAL_TOKENS.len();
        let (counts, stats) = count(texts, documents, settings, progress)?;

        let mut byte_order: [u8; 256] = std::array::from_fn(|b| b as u8);
        let chars = chars_of_bytes();
        byte_order.sort_by_key(|&b| chars[usize::from(b)]);
        progress.total(Some((entries - BYTES) as u64), "merges");
        let learnt = learn(&counts.into_sorted(), &byte_order, entries, || progress.advance(1));
        let this = assemble(&learnt).and_then(Self::wrap);
        Ok((this.map_err(|(reason, hint)| failed(reason, hint))?, stats))
    }
}

/// Trains a tokenizer on one column of parquet files and writes `out/tokenizer.json`. `text` is the column's name, or a
/// [`TextColumn`] with a filter. A text that is too small or too uniform for as many entries as are asked for yields fewer.
///
/// # Errors
/// Those of [`Texts`] and [`Tokenizer::train`], too little text apart; [`Error::Tokenizer`] for none; [`Error::Io`].
pub fn train_bpe<'a, P: AsRef<Path>>(
    files: &[P],
    text: impl Into<TextColumn<'a>>,
    settings: &BpeSettings,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<(Tokenizer, BpeStats)> {
    settings.check()?;
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let text = text.into();
    let texts = Texts::open(files, text.name)?.with_filter(text.filter)?;
    // With a filter the number of documents that will be read is not known.
    let documents = text.filter.is_empty().then(|| texts.rows());
    let (tokenizer, stats) = Tokenizer::train_at_most(texts, documents, settings, progress)?;
    if stats.chars == 0 {
        return Err(Error::Tokenizer {
            reason: format!("there is no text to make {} entries of", settings.vocab_size),
            hint: "give some, or let the filter keep some".into(),
        });
    }
    tokenizer.save(out.join(TOKENIZER))?;
    Ok((tokenizer, stats))
}

/// Reads texts and counts their pieces; the next are read while the last are counted.
fn count(
    texts: impl Iterator<Item = Result<String>> + Send,
    documents: Option<u64>,
    settings: &BpeSettings,
    progress: &mut dyn Progress,
) -> Result<(Counts, BpeStats)> {
    let classes =
        Classes::get().ok_or_else(|| failed("the regex engine has no Unicode classes", FAULT))?;
    let Some(Known::Gpt4 { digits }) = Known::find(SPLIT_REGEX) else {
        return Err(failed("the split pattern is not one that is written out", FAULT));
    };
    // That many documents cannot reach the limit on characters, so that all will be read.
    let all = documents
        .filter(|d| d.saturating_mul(settings.document_chars as u64) <= settings.max_chars);
    match all {
        Some(all) => progress.total(Some(all), "documents"),
        None => progress.total(Some(settings.max_chars), "characters"),
    }
    progress.message("counting words");
    let batch_bytes = BATCH_BYTES * rayon::current_num_threads().max(1);
    let (mut stats, mut fault) = (BpeStats::default(), None);
    let mut counts = Counts::default();
    let mut cut = Cut { texts, settings, stats: &mut stats, fault: &mut fault };
    let mut read = || {
        let (mut batch, mut bytes, before) = (vec![], 0, cut.stats.chars);
        while bytes < batch_bytes {
            let Some(text) = cut.next() else { break };
            // What it takes in memory: an empty one is something, too.
            bytes += text.capacity() + size_of::<String>();
            batch.push(text);
        }
        let chars = cut.stats.chars - before;
        progress.advance(if all.is_some() { batch.len() as u64 } else { chars });
        batch
    };
    let mut batch = read();
    while !batch.is_empty() {
        (batch, ()) = rayon::join(&mut read, || counts.add(&batch, classes, digits));
    }
    match fault {
        Some(fault) => Err(fault),
        None => Ok((counts, stats)),
    }
}

/// What was learnt as a tokenizer of the `tokenizers` crate.
fn assemble(learnt: &Learnt) -> Result<tokenizers::Tokenizer, (String, &'static str)> {
    let chars = chars_of_bytes();
    let spell = |bytes: &Vec<u8>| bytes.iter().map(|&b| chars[usize::from(b)]).collect::<String>();
    let names: Vec<String> = learnt.tokens.iter().map(spell).collect();
    let name = |id: u32| names[id as usize].clone();
    let merges = learnt.merges.iter().map(|&(a, b)| (name(a), name(b))).collect();
    let vocab: Vocab = names.iter().cloned().zip(0..).collect();
    let model = BPE::builder().vocab_and_merges(vocab, merges).build();
    let mut inner = tokenizers::Tokenizer::new(model.map_err(|e| (e.to_string(), FAULT))?);
    let (regex, isolated) =
        (SplitPattern::Regex(SPLIT_REGEX.into()), SplitDelimiterBehavior::Isolated);
    let split = Split::new(regex, isolated, false).map_err(|e| (e.to_string(), FAULT))?;
    let byte_level = ByteLevel::new(false, false, false);
    inner.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(byte_level),
    ]))));
    inner.with_decoder(Some(DecoderWrapper::ByteLevel(byte_level)));
    inner.add_special_tokens(&SPECIAL_TOKENS.map(|t| AddedToken::from(t, true)));
    Ok(inner)
}

/// Cuts documents and the whole, and remembers the first fault.
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
            // In memory of its own: what is cut off a long one would be held with it.
            text = text[..end].to_owned();
        }
        self.stats.documents += 1;
        self.stats.chars += chars as u64;
        Some(text)
    }
}

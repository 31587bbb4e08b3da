//! Tokenizer files: a `tokenizer.json`, or GPT-2's two files, checked before anything is made of them.

use super::choose::Way;
use super::{BOS_NAMES, Parts, Spelling, Tokenizer};
use crate::{Error, Result};
use farthing_base::files;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, ModelWrapper, PostProcessorWrapper, PreTokenizerWrapper};

const HINT: &str = "give a byte-level BPE tokenizer, such as GPT-2's or one trained here";
const DAMAGED: &str =
    "the file is damaged or of another format; rerun the stage that wrote it, or copy it again";

/// Why a file is refused, and what to do.
type Refusal = (String, &'static str);

/// The most bytes that a normalizer may make of one: more than any of Unicode's forms does, one after another.
const MOST_GROWTH: f64 = 64.0;

/// How many bytes a normalizer can make of each, at most; and how many it adds to a text.
///
/// # Source
/// Unicode Standard Annex 15: the longest compatibility decomposition makes 33 bytes of 3.
fn growth(normalizer: &Value) -> f64 {
    let text = |of: &Value| of.as_str().map_or(0, str::len) as f64;
    match normalizer["type"].as_str().unwrap_or_default() {
        "Sequence" => {
            let parts = normalizer["normalizers"].as_array().map_or(&[][..], Vec::as_slice);
            parts.iter().map(growth).product()
        }
        "Replace" => {
            let (content, pattern) = (text(&normalizer["content"]), &normalizer["pattern"]);
            // A regex may match nothing at all, before and after each byte.
            let least = pattern.get("String").map_or(0.0, text);
            if least > 0.0 { (content / least).max(1.0) } else { 1.0 + content }
        }
        "Prepend" => 1.0 + text(&normalizer["prepend"]),
        "NFC" | "NFD" | "Lowercase" => 3.0,
        "NFKC" | "NFKD" | "Nmt" | "Precompiled" | "BertNormalizer" => 11.0,
        "ByteLevel" => 2.0,
        _ => 1.0,
    }
}

/// What is checked before the `tokenizers` crate sees a file.
#[derive(Deserialize)]
struct View {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Model {
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

/// Where a tokenizer is.
enum Files {
    Json(PathBuf),
    Gpt2 { merges: PathBuf, vocab: PathBuf },
}

impl Files {
    fn find(path: &Path) -> Result<Self> {
        let about = std::fs::metadata(path).map_err(Error::io("read", path))?;
        let one_of = |names: &[&str]| names.iter().map(|n| path.join(n)).find(|p| p.exists());
        if !about.is_dir() {
            return Ok(Self::Json(path.into()));
        }
        if let Some(json) = one_of(&[crate::TOKENIZER]) {
            return Ok(Self::Json(json));
        }
        let merges = one_of(&["vocab.bpe", "merges.txt"]);
        match (merges, one_of(&["encoder.json", "vocab.json"])) {
            (Some(merges), Some(vocab)) => Ok(Self::Gpt2 { merges, vocab }),
            _ => Err(Error::TokenizerFile {
                path: path.into(),
                reason: "the folder holds neither tokenizer.json nor GPT-2's two files".into(),
                hint: "give tokenizer.json, or vocab.bpe or merges.txt with encoder.json or vocab.json",
            }),
        }
    }
}

/// Puts BOS before a text. Other programs know of it by nothing else.
fn bos_first(name: &str, id: u32) -> Option<PostProcessorWrapper> {
    let template = TemplateProcessing::builder()
        .try_single(format!("{name}:0 $A:0"))
        .and_then(|builder| builder.try_pair(format!("{name}:0 $A:0 {name}:1 $B:1")))
        .ok()?
        .special_tokens(vec![(name.to_owned(), id)])
        .build();
    Some(PostProcessorWrapper::Template(template.ok()?))
}

impl Tokenizer {
    /// The canonical `tokenizer.json` for other programs, in which BOS begins a text, unless the tokenizer says itself what surrounds one.
    /// [`Tokenizer::load`] reads it as the same tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn json_with_bos(&self) -> Result<String> {
        let failed = |e: &dyn std::fmt::Display| Error::Tokenizer {
            reason: format!("it cannot be written: {e}"),
            hint: HINT.into(),
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(&self.0.json).map_err(|e| failed(&e))?;
        if inner.get_post_processor().is_none() {
            inner.with_post_processor(bos_first(&self.decode(&[self.bos()]), self.bos()));
        }
        inner.to_string(true).map_err(|e| failed(&e))
    }

    /// Reads a tokenizer: a `tokenizer.json`, one of ours or any byte-level BPE tokenizer with `<|bos|>`, `<|begin_of_text|>`
    /// or `<|endoftext|>`; or a folder that holds one, or that holds GPT-2's files (`vocab.bpe` or `merges.txt`, and
    /// `encoder.json` or `vocab.json`).
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::TokenizerFile`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        match Files::find(path.as_ref())? {
            Files::Json(json) => Self::load_json(&json),
            Files::Gpt2 { merges, vocab } => Self::load_gpt2(&merges, &vocab),
        }
    }

    /// The files that [`Tokenizer::load`] would read.
    ///
    /// # Errors
    /// [`Error::Io`] when there is nothing at `path`; [`Error::TokenizerFile`] when a folder holds no tokenizer.
    pub fn files(path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        Ok(match Files::find(path.as_ref())? {
            Files::Json(json) => vec![json],
            Files::Gpt2 { merges, vocab } => vec![merges, vocab],
        })
    }

    fn load_json(path: &Path) -> Result<Self> {
        let bytes = files::read(path).map_err(Error::io("read", path))?;
        Self::parse(&bytes).map_err(|(reason, hint)| Error::TokenizerFile {
            path: path.into(),
            reason,
            hint,
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let damaged = |e: &dyn std::fmt::Display| (format!("it does not parse: {e}"), DAMAGED);
        let view: View = serde_json::from_slice(bytes).map_err(|e| damaged(&e))?;
        // The crate would slice merges at the prefix's length wherever that falls.
        let affix = |affix: &Option<String>| affix.as_ref().is_some_and(|a| !a.is_empty());
        if affix(&view.model.continuing_subword_prefix) || affix(&view.model.end_of_word_suffix) {
            return Err(("its words have prefixes or suffixes".into(), HINT));
        }
        if let Some(dropout) = view.model.dropout.filter(|d| *d != 0.0) {
            let reason = format!("its dropout of {dropout} makes every encoding different");
            return Err((reason, "set `dropout` to null in the file"));
        }
        let grows = growth(&view.normalizer);
        if grows.is_nan() || grows > MOST_GROWTH {
            let reason = format!("its normalizer can make {grows:.0} bytes of one of the text");
            return Err((reason, "take the replacements out of its `normalizer`"));
        }
        let inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| damaged(&e))?;
        // The crate numbers added tokens itself and only warns when the file says otherwise.
        for Added { id, content } in &view.added_tokens {
            let given = inner.token_to_id(content);
            if given != Some(*id) {
                let instead = given.map_or("none".into(), |g| g.to_string());
                let reason = format!(
                    "added token {content:?} has id {id}, but its place gives it {instead}"
                );
                return Err((
                    reason,
                    "number the added tokens on from the vocabulary, in the order in which they stand",
                ));
            }
        }
        Self::wrap(inner)
    }

    /// GPT-2's own two files.
    fn load_gpt2(merges: &Path, vocab: &Path) -> Result<Self> {
        let read = |path: &Path| files::read_to_string(path).map_err(Error::io("read", path));
        let bad = |path: &Path| {
            let path = path.to_path_buf();
            move |(reason, hint)| Error::TokenizerFile { path, reason, hint }
        };
        let ids: BTreeMap<String, u32> = serde_json::from_str(&read(vocab)?)
            .map_err(|e| (format!("it does not parse: {e}"), DAMAGED))
            .map_err(bad(vocab))?;
        let text = read(merges)?;
        let mut pairs = vec![];
        for (i, line) in text.lines().enumerate() {
            if i == 0 && line.starts_with("#version") || line.is_empty() {
                continue;
            }
            let mut words = line.split(' ');
            let (Some(a), Some(b), None) = (words.next(), words.next(), words.next()) else {
                let reason = format!("line {} is not two tokens: {line:?}", i + 1);
                return Err(bad(merges)((reason, DAMAGED)));
            };
            pairs.push((a.to_string(), b.to_string()));
        }
        let names = ids.clone();
        let ids: Vocab = ids.into_iter().collect();
        let model = BPE::builder().vocab_and_merges(ids, pairs).build();
        let model = model
            .map_err(|e| (format!("it does not go with {}: {e}", vocab.display()), DAMAGED))
            .map_err(bad(merges))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(ByteLevel::new(
            false, true, true,
        ))));
        inner.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::default())));
        let special = BOS_NAMES.iter().filter(|name| names.contains_key(**name));
        let special: Vec<_> = special.map(|name| AddedToken::from(*name, true)).collect();
        inner.add_special_tokens(&special);
        Self::wrap(inner).map_err(bad(vocab))
    }

    pub(super) fn wrap(mut inner: tokenizers::Tokenizer) -> Result<Self, Refusal> {
        if !matches!(inner.get_model(), ModelWrapper::BPE(_)) {
            return Err(("its model is not BPE".into(), HINT));
        }
        let added: BTreeMap<u32, AddedToken> =
            inner.get_added_tokens_decoder().into_iter().collect();
        let all: BTreeSet<(u32, String)> =
            inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        let size = all.last().map_or(0, |&(id, _)| id as usize + 1);
        if let Some((place, (id, token))) = all.iter().enumerate().find(|(i, t)| *i != t.0 as usize)
        {
            return Err((
                format!(
                    "its {} tokens have ids up to {}: {token:?} has {id} where {place} is expected",
                    all.len(),
                    size.saturating_sub(1)
                ),
                "ids must be 0, 1, 2, … each once",
            ));
        }
        let bos = BOS_NAMES.iter().find_map(|t| Some((*t, inner.token_to_id(t)?)));
        // What was written for other programs is the same tokenizer.
        let ours = bos.and_then(|(name, id)| bos_first(name, id));
        if ours.is_some() && inner.get_post_processor() == ours.as_ref() {
            inner.with_post_processor(None::<PostProcessorWrapper>);
        }
        // After the check of the ids: writing goes through all up to the highest.
        let json = inner.to_string(true).map_err(|e| (e.to_string(), HINT))?;
        // `<|bos|>` inside a text is text, not a document boundary.
        inner.set_encode_special_tokens(true);
        // What a file says of batches for inference must not cut or pad documents.
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        inner.with_post_processor(None::<PostProcessorWrapper>);

        let spelling = Spelling::new();
        let (mut bytes, mut special) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for (id, token) in &all {
            let added = added.get(id);
            special.push(added.is_some_and(|t| t.special));
            if added.is_some() {
                bytes.push(token.clone().into_bytes());
            } else {
                let spelt = spelling.bytes(token);
                bytes.push(
                    spelt.ok_or_else(|| {
                        (format!("token {id}, {token:?}, is not byte-level"), HINT)
                    })?,
                );
            }
        }
        let (_, bos) = bos.ok_or_else(|| {
            (
                format!("it has neither {}", BOS_NAMES.join(" nor ")),
                "rows need a token that begins every document; add <|bos|> as a special token",
            )
        })?;
        let digest = blake3::hash(json.as_bytes()).to_hex().to_string();
        let way = Way::choose(&json);
        Ok(Self(Arc::new(Parts { inner, way, bytes, special, bos, digest, json })))
    }
}

//! Chooses how texts are encoded: by our own encoder if it gives exactly the ids of the `tokenizers` crate for this file, else by
//! that crate.

use super::Spelling;
use super::classes::Classes;
use super::encode::{Encoder, Lent, Split};
use super::merges::Merges;
use super::split::Known;
use crate::Token;
use aho_corasick::AhoCorasick;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use tokenizers::{NormalizedString, Normalizer};

/// How texts become ids.
#[derive(Debug)]
pub(super) enum Way {
    /// By our encoder.
    Fast {
        encoder: Box<Encoder>,
        /// Added tokens that are not special, and so are found in text: a text that holds one goes the slow way.
        added: Option<AhoCorasick>,
        /// Whether text that is not ASCII is normalised to NFC first.
        nfc: bool,
    },
    /// By the `tokenizers` crate, and why.
    Slow(String),
}

/// What decides, out of a canonical `tokenizer.json`.
#[derive(Deserialize)]
struct View {
    added_tokens: Vec<Added>,
    normalizer: Value,
    pre_tokenizer: Value,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    content: String,
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    ignore_merges: bool,
    vocab: BTreeMap<String, u32>,
    merges: Vec<(String, String)>,
}

impl Way {
    /// Decides by the canonical file.
    pub(super) fn choose(json: &str) -> Self {
        Self::fast(json).unwrap_or_else(Self::Slow)
    }

    fn fast(json: &str) -> Result<Self, String> {
        let view: View = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let nfc = match &view.normalizer {
            Value::Null => false,
            Value::Object(n) if n.get("type") == Some(&"NFC".into()) => true,
            other => return Err(format!("its normalizer is {}", kind(other))),
        };
        let split = split(&view.pre_tokenizer)?;
        let added: Vec<_> =
            view.added_tokens.iter().filter(|t| !t.special).map(|t| &t.content).collect();
        let added = if added.is_empty() {
            None
        } else {
            Some(AhoCorasick::new(added).map_err(|e| e.to_string())?)
        };
        Ok(Self::Fast { encoder: Box::new(encoder(split, &view.model)?), added, nfc })
    }

    /// What [`Way::encode`] needs, for any number of texts one after another.
    pub(super) fn lend(&self) -> Option<Lent<'_>> {
        match self {
            Self::Fast { encoder, .. } => Some(encoder.lend()),
            Self::Slow(_) => None,
        }
    }

    /// Appends the ids of `text`.
    pub(super) fn encode<T: Token>(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
        lent: &mut Option<Lent<'_>>,
        out: &mut Vec<T>,
    ) -> tokenizers::Result<()> {
        if let (Self::Fast { encoder, added, nfc }, Some(lent)) = (self, lent) {
            let mut normal = None;
            if *nfc
                && !text.is_ascii()
                && let Some(normalizer) = inner.get_normalizer()
            {
                let mut string = NormalizedString::from(text);
                normalizer.normalize(&mut string)?;
                normal = Some(string);
            }
            let fed = normal.as_ref().map_or(text, |n| n.get());
            let holds = |text: &str| added.as_ref().is_some_and(|a| a.is_match(text));
            // An added token is looked for in the text, or in the normalised text: whichever, it is then not found here.
            if !holds(text) && (normal.is_none() || !holds(fed)) {
                encoder.encode(fed, lent, out);
                return Ok(());
            }
        }
        out.extend(inner.encode_fast(text, false)?.get_ids().iter().map(|&id| T::new(id)));
        Ok(())
    }

    /// Whether the ids of parts are the ids of the whole.
    pub(super) fn can_cut(&self, text: &str) -> bool {
        match self {
            Self::Fast { encoder, added, nfc } => {
                encoder.can_cut()
                    && (!nfc || text.is_ascii())
                    && !added.as_ref().is_some_and(|a| a.is_match(text))
            }
            Self::Slow(_) => false,
        }
    }

    pub(super) fn slow_because(&self) -> Option<&str> {
        match self {
            Self::Fast { .. } => None,
            Self::Slow(reason) => Some(reason),
        }
    }
}

fn kind(part: &Value) -> String {
    part["type"].as_str().unwrap_or("of no type").to_string()
}

/// The split that a pre-tokenizer amounts to, if it ends in bytes.
fn split(part: &Value) -> Result<Split, String> {
    let classes = Classes::get().ok_or("the regex engine has no Unicode classes")?;
    let known = |pattern| Split::Known(pattern, classes);
    match part["type"].as_str() {
        Some("ByteLevel") => {
            if part["add_prefix_space"] != Value::Bool(false) {
                return Err("it puts a space before each text".into());
            }
            let regex = part["use_regex"] != Value::Bool(false);
            Ok(if regex { known(Known::Gpt2) } else { Split::Whole })
        }
        Some("Sequence") => {
            let parts = part["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice);
            let [first, last] = parts else {
                return Err(format!("its pre-tokenizer is a sequence of {}", parts.len()));
            };
            if first["type"] != "Split" || !matches!(split(last), Ok(Split::Whole)) {
                return Err(format!("its pre-tokenizer is {} and {}", kind(first), kind(last)));
            }
            // The patterns match everywhere, so that nothing is between their matches and nothing is removed.
            let (behavior, invert) = (&first["behavior"], &first["invert"]);
            if !(behavior == "Isolated" || behavior == "Removed" && invert == &Value::Bool(true)) {
                return Err(format!("its split is {behavior}, inverted {invert}"));
            }
            let regex = first["pattern"]["Regex"].as_str().unwrap_or_default();
            let pattern = Known::find(regex).ok_or_else(|| {
                format!("its split pattern is not known to this version: {regex}")
            })?;
            Ok(known(pattern))
        }
        _ => Err(format!("its pre-tokenizer is {}", kind(part))),
    }
}

fn encoder(split: Split, model: &Model) -> Result<Encoder, String> {
    let spelling = Spelling::new();
    let size = model.vocab.values().max().map_or(0, |&id| id as usize + 1);
    // Checked before: there are no holes, so that this is no more than the file's size.
    let mut bytes = vec![vec![]; size];
    let mut of_byte = [None; 256];
    for (token, &id) in &model.vocab {
        let Some(spelt) = spelling.bytes(token) else { continue };
        if let [byte] = spelt[..] {
            of_byte[usize::from(byte)] = Some(id);
        }
        bytes[id as usize] = spelt;
    }
    let id = |token: &str| model.vocab.get(token).copied().ok_or(format!("it lacks {token:?}"));
    let mut merges = Vec::with_capacity(model.merges.len());
    for (left, right) in &model.merges {
        merges.push((id(left)?, id(right)?, id(&format!("{left}{right}"))?));
    }
    let mut all = [0; 256];
    for (byte, id) in of_byte.iter().enumerate() {
        all[byte] = id.ok_or_else(|| format!("byte {byte:#04x} has no token"))?;
    }
    let tokens = (0..size as u32).filter(|&id| !bytes[id as usize].is_empty()).collect::<Vec<_>>();
    Ok(Encoder::new(
        split,
        Merges::new(&all, &merges),
        bytes,
        tokens.into_iter(),
        model.ignore_merges,
    ))
}

//! How well a tokenizer compresses: bytes per token over texts, for as many tokenizers as are to be compared.

use super::Tokenizer;
use crate::Result;

/// What texts became.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compression {
    /// Texts encoded.
    pub documents: u64,
    /// Their UTF-8 bytes.
    pub bytes: u64,
    /// Their tokens, without BOS.
    pub tokens: u64,
}

impl Compression {
    /// Bytes per token; 0 without tokens.
    pub fn bytes_per_token(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.bytes as f64 / self.tokens as f64 }
    }
}

/// Texts that are encoded at a time.
const CHUNK_BYTES: u64 = 8 << 20;

impl Tokenizer {
    /// What each of `tokenizers` makes of the first `max_bytes` of `texts`, whole documents.
    ///
    /// # Errors
    /// The first error among the texts, or of [`Tokenizer::encode_batch`].
    pub fn compressions(
        tokenizers: &[&Tokenizer],
        texts: impl IntoIterator<Item = Result<String>>,
        max_bytes: u64,
    ) -> Result<Vec<Compression>> {
        let mut all = vec![Compression::default(); tokenizers.len()];
        let (mut texts, mut seen) = (texts.into_iter(), 0);
        while seen < max_bytes {
            let (mut chunk, mut bytes) = (vec![], 0);
            while bytes < CHUNK_BYTES && seen + bytes < max_bytes {
                let Some(text) = texts.next() else { break };
                let text = text?;
                bytes += text.len() as u64;
                chunk.push(text);
            }
            if chunk.is_empty() {
                break;
            }
            seen += bytes;
            for (tokenizer, sum) in tokenizers.iter().zip(&mut all) {
                sum.documents += chunk.len() as u64;
                sum.bytes += bytes;
                let ids = tokenizer.encode_batch(&chunk)?;
                sum.tokens += ids.iter().map(|ids| ids.len() as u64).sum::<u64>();
            }
        }
        Ok(all)
    }
}

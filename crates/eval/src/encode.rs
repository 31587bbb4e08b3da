//! The seam between text and tokens: what evaluation needs of a tokenizer.

use crate::{Error, Result};

/// Turns texts into tokens.
pub trait Encode {
    /// The tokens of each text, in the order of the texts, without BOS.
    ///
    /// # Errors
    /// [`Error::Encode`].
    fn encode_all(&self, texts: &[String]) -> Result<Vec<Vec<u32>>>;

    /// The token that begins every sequence, and fills the ends of short ones.
    fn bos(&self) -> u32;
}

impl Encode for farthing_data::Tokenizer {
    fn encode_all(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        self.encode_batch(texts).map_err(|e| Error::Encode { source: e.into() })
    }

    fn bos(&self) -> u32 {
        Self::bos(self)
    }
}

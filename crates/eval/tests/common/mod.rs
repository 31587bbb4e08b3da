//! Fakes whose scores can be computed by hand: a tokenizer of bytes, and a model that is a formula on pairs of tokens.

#![allow(dead_code, reason = "each test file uses a part")]

use farthing_eval::{Batch, Encode, IGNORE, LanguageModel, Result, Scores};
use std::cell::RefCell;

/// The token that the byte tokenizer begins with.
pub(crate) const BOS: u32 = 256;

/// UTF-8 bytes as tokens; remembers the texts it saw.
#[derive(Default)]
pub(crate) struct Bytes {
    pub(crate) seen: RefCell<Vec<String>>,
}

impl Encode for Bytes {
    fn encode_all(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        self.seen.borrow_mut().extend_from_slice(texts);
        Ok(texts.iter().map(|t| t.bytes().map(u32::from).collect()).collect())
    }

    fn bos(&self) -> u32 {
        BOS
    }
}

/// loss(a, b) and prediction(a, b) at each position with input a and target b.
pub(crate) struct Pairs {
    pub(crate) loss: fn(i32, i32) -> f64,
    pub(crate) prediction: fn(i32, i32) -> i32,
    /// The (rows, tokens) of each batch.
    pub(crate) shapes: Vec<(usize, usize)>,
}

impl Pairs {
    pub(crate) fn new(loss: fn(i32, i32) -> f64, prediction: fn(i32, i32) -> i32) -> Self {
        Self { loss, prediction, shapes: Vec::new() }
    }
}

impl LanguageModel for Pairs {
    fn score(&mut self, batch: &Batch, predictions: bool, scores: &mut Scores) -> Result<()> {
        self.shapes.push((batch.rows(), batch.tokens()));
        scores.reset(batch.inputs().len(), predictions);
        for (i, (&a, &b)) in batch.inputs().iter().zip(batch.targets()).enumerate() {
            if b != IGNORE {
                scores.losses[i] = (self.loss)(a, b);
                if predictions {
                    scores.predictions[i] = (self.prediction)(a, b);
                }
            }
        }
        Ok(())
    }
}

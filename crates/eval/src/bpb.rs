//! Bits per byte: how well a model predicts held-out text, whatever its tokenizer. Reads batches up to a budget of tokens.

use crate::language_model::score;
use crate::{Batch, BoxError, Error, IGNORE, LanguageModel, Result, Scores};
use farthing_data::{Progress, Rows};
use serde::{Deserialize, Serialize};
use std::f64::consts::LN_2;

/// The result of [`bits_per_byte`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BitsPerByte {
    /// nats / (ln 2 · bytes).
    pub bits_per_byte: f64,
    /// The sum of the losses of targets that stand for bytes.
    pub nats: f64,
    /// The bytes that these targets stand for.
    pub bytes: u64,
    /// Their number.
    pub targets: u64,
    /// Positions evaluated, targets without bytes included.
    pub tokens: u64,
}

/// What bits per byte are made of, so that several ranks can count a part each.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Nats {
    /// As [`BitsPerByte::nats`].
    pub nats: f64,
    /// As [`BitsPerByte::bytes`].
    pub bytes: u64,
    /// As [`BitsPerByte::targets`].
    pub targets: u64,
    /// As [`BitsPerByte::tokens`].
    pub tokens: u64,
}

impl Nats {
    /// nats / (ln 2 · bytes).
    ///
    /// # Errors
    /// [`Error::NoBytes`].
    pub fn bits_per_byte(self) -> Result<BitsPerByte> {
        let Self { nats, bytes, targets, tokens } = self;
        if bytes == 0 {
            return Err(Error::NoBytes { tokens });
        }
        let bits_per_byte = nats / (LN_2 * bytes as f64);
        Ok(BitsPerByte { bits_per_byte, nats, bytes, targets, tokens })
    }
}

/// Σ nats / (ln 2 · Σ bytes) over the targets that stand for at least one byte.
///
/// Takes whole rows, in order, while they fit in `budget_tokens`, and stops earlier when there are no more. Rows of the last
/// batch that exceed the budget are not counted, so the number does not depend on how the rows are cut into batches.
/// `token_bytes` holds each token's raw bytes, 0 for special tokens.
///
/// # Numerics
/// Sums are f64, one target after the other.
///
/// # Errors
/// The first error among `batches` or of the model; [`Error::Config`] when the budget is smaller than one row;
/// [`Error::Token`] for a target outside `token_bytes`; [`Error::NotFinite`]; [`Error::NoBytes`].
///
/// # Source
/// nanochat's `evaluate_bpb`, with raw bytes where it first counted decoded text.
pub fn bits_per_byte(
    model: &mut dyn LanguageModel,
    batches: impl Iterator<Item = Result<Batch>>,
    token_bytes: &[u32],
    budget_tokens: u64,
    progress: &mut dyn Progress,
) -> Result<BitsPerByte> {
    let sum = count_nats(model, batches, token_bytes, budget_tokens, progress)?;
    if sum.tokens == 0 {
        return Err(no_row(budget_tokens));
    }
    sum.bits_per_byte()
}

/// The error for a budget of less than a row.
pub fn no_row(budget_tokens: u64) -> Error {
    Error::Config {
        what: format!("no row fits in {budget_tokens} tokens to evaluate"),
        hint: "evaluate at least as many tokens as one row has, on held-out rows".into(),
    }
}

/// The sums of [`bits_per_byte`], which may be of no row at all.
///
/// # Errors
/// As [`bits_per_byte`], but for what is wrong with the sums.
pub fn count_nats(
    model: &mut dyn LanguageModel,
    batches: impl Iterator<Item = Result<Batch>>,
    token_bytes: &[u32],
    budget_tokens: u64,
    progress: &mut dyn Progress,
) -> Result<Nats> {
    let (mut sum, mut scores) = (Nats::default(), Scores::default());
    progress.total(Some(budget_tokens), "tokens");
    for batch in batches {
        let batch = batch?;
        let tokens = batch.tokens();
        let left = (budget_tokens - sum.tokens) / tokens as u64;
        let rows = (batch.rows() as u64).min(left) as usize;
        if rows == 0 {
            break;
        }
        score(model, &batch, false, &mut scores)?;
        let targets = batch.targets().chunks_exact(tokens).take(rows);
        for (row, (targets, losses)) in targets.zip(scores.losses.chunks_exact(tokens)).enumerate()
        {
            for (position, (&token, &loss)) in targets.iter().zip(losses).enumerate() {
                if token == IGNORE {
                    continue;
                }
                let bytes = usize::try_from(token).ok().and_then(|t| token_bytes.get(t));
                let vocab = token_bytes.len();
                let &bytes =
                    bytes.ok_or(Error::Token { token: token.into(), row, position, vocab })?;
                if bytes == 0 {
                    continue;
                }
                if !loss.is_finite() {
                    let place =
                        format!("at position {position} of a row, after {} tokens", sum.tokens);
                    return Err(Error::NotFinite { loss, place });
                }
                sum.nats += loss;
                sum.bytes += u64::from(bytes);
                sum.targets += 1;
            }
            sum.tokens += tokens as u64;
        }
        progress.advance((rows * tokens) as u64);
        if rows < batch.rows() {
            break;
        }
    }
    Ok(sum)
}

/// Packed rows of T + 1 tokens, in their order, as batches of at most `batch_rows` rows of T positions.
///
/// # Errors
/// Each batch is an [`Error::Rows`] when its rows cannot be read; [`Error::Config`] when `batch_rows` is 0.
pub fn batches(rows: &Rows, batch_rows: usize) -> impl Iterator<Item = Result<Batch>> + '_ {
    batches_of(rows, 0..rows.len(), batch_rows)
}

/// [`batches`] of some of the rows.
///
/// # Errors
/// As [`batches`].
pub fn batches_of(
    rows: &Rows,
    of: std::ops::Range<u64>,
    batch_rows: usize,
) -> impl Iterator<Item = Result<Batch>> + '_ {
    let tokens = rows.row_tokens().saturating_sub(1);
    let mut buffer = vec![0; rows.row_tokens()];
    let starts = of.clone().step_by(batch_rows.max(1));
    starts.map(move |start| {
        if batch_rows == 0 {
            return Err(Error::Config {
                what: "a batch of 0 rows cannot be evaluated".into(),
                hint: "evaluate at least 1 row at once".into(),
            });
        }
        let range = start..of.end.min(start + batch_rows as u64);
        let n = (range.end - range.start) as usize;
        let (mut inputs, mut targets) =
            (Vec::with_capacity(n * tokens), Vec::with_capacity(n * tokens));
        for i in range {
            rows.fill(i, &mut buffer).map_err(|e| Error::Rows { source: BoxError::from(e) })?;
            inputs.extend_from_slice(&buffer[..tokens]);
            if let Some(chat) = rows.chat() {
                chat.mask(&mut buffer[1..]);
            }
            targets.extend_from_slice(&buffer[1..]);
        }
        Ok(Batch::new(tokens, inputs, targets)?)
    })
}

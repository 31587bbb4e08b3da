//! Documents as rows, for who evaluates text that nobody packed: every token of a document is a target once.

use crate::{Batch, IGNORE, Result};

/// Lengths of rows are multiples of this, so that a model sees few shapes.
const STEP: usize = 32;

/// Batches of about `batch_tokens` positions over documents, each given as its tokens without BOS.
///
/// A document begins with BOS and is cut into pieces of at most `seq_len` targets; the last token of a piece is the first input of the next, which sees no more
/// of what came before. Pieces of about one length share a batch; ends are filled up with BOS and have no targets.
///
/// # Errors
/// None but for sizes of 0, [`Error::Batch`](crate::Error::Batch).
pub fn document_batches(
    documents: &[Vec<u32>],
    bos: u32,
    seq_len: usize,
    batch_tokens: usize,
) -> Result<Vec<Batch>> {
    let mut pieces: Vec<Vec<i32>> = Vec::new();
    for document in documents {
        let all: Vec<i32> = std::iter::once(bos)
            .chain(document.iter().copied())
            .map(|token| token as i32)
            .collect();
        let starts = (0..all.len() - 1).step_by(seq_len.max(1));
        pieces.extend(starts.map(|at| all[at..all.len().min(at + seq_len + 1)].to_vec()));
    }
    // Stable: of pieces of one length the earlier document is first.
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    let (mut batches, mut rest) = (Vec::new(), pieces.as_slice());
    while let Some(longest) = rest.first() {
        let tokens = (longest.len() - 1).next_multiple_of(STEP).min(seq_len);
        let rows = (batch_tokens / tokens).clamp(1, rest.len());
        let (members, others) = rest.split_at(rows);
        let (mut inputs, mut targets) =
            (vec![bos as i32; rows * tokens], vec![IGNORE; rows * tokens]);
        for (i, piece) in members.iter().enumerate() {
            let row = i * tokens..i * tokens + piece.len() - 1;
            inputs[row.clone()].copy_from_slice(&piece[..piece.len() - 1]);
            targets[row].copy_from_slice(&piece[1..]);
        }
        batches.push(Batch::new(tokens, inputs, targets)?);
        rest = others;
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_a_target_once_and_sees_its_document_alone() {
        let documents: Vec<Vec<u32>> =
            [1, 40, 0, 100, 33].iter().map(|&n| (0..n).collect()).collect();
        for (seq_len, batch_tokens) in [(40, 90), (40, 1), (1_000, 4_096), (7, 64), (1, 8)] {
            let batches = document_batches(&documents, 999, seq_len, batch_tokens).unwrap();
            let mut counts = vec![0; 100];
            for batch in &batches {
                assert!(batch.tokens() <= seq_len);
                assert!(batch.rows() == 1 || batch.rows() * batch.tokens() <= batch_tokens);
                for (&input, &target) in batch.inputs().iter().zip(batch.targets()) {
                    if target != IGNORE {
                        counts[target as usize] += 1;
                        let before = if target == 0 { 999 } else { target - 1 };
                        assert_eq!(input, before);
                    }
                }
            }
            let expected: Vec<usize> =
                (0..100).map(|t| documents.iter().filter(|d| d.len() > t).count()).collect();
            assert_eq!(counts, expected, "T {seq_len}, {batch_tokens} tokens in a batch");
        }
        assert!(document_batches(&[vec![]], 0, 16, 16).unwrap().is_empty());
    }
}

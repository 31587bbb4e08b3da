//! How sequences of many lengths become batches of rows of one length: the longest first, so that rows of a batch are about
//! equally long and little is padding; lengths in steps of 32, so that a model sees few shapes.

use super::Sequence;
use crate::{Batch, IGNORE, Result};

/// Row lengths are multiples of this.
const STEP: usize = 32;

/// Which sequences share a batch, as indices, and the positions per row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) members: Vec<usize>,
    pub(crate) tokens: usize,
}

/// Groups sequences of these lengths so that each group has about `batch_tokens` positions, and at least one member.
pub(crate) fn groups(lengths: &[usize], batch_tokens: usize) -> Vec<Group> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut groups = Vec::new();
    let mut rest = order.as_slice();
    while let Some(&longest) = rest.first() {
        // The last token is a target only.
        let tokens = (lengths[longest] - 1).max(1).next_multiple_of(STEP);
        let rows = (batch_tokens / tokens).clamp(1, rest.len());
        let (members, others) = rest.split_at(rows);
        groups.push(Group { members: members.to_vec(), tokens });
        rest = others;
    }
    groups
}

/// The members' tokens, filled up with BOS, and as targets those that are scored.
pub(crate) fn batch(group: &Group, sequences: &[Sequence], bos: u32) -> Result<Batch> {
    let length = group.tokens;
    let n = group.members.len() * length;
    let (mut inputs, mut targets) = (vec![bos as i32; n], vec![IGNORE; n]);
    let rows = inputs.chunks_exact_mut(length).zip(targets.chunks_exact_mut(length));
    for (&member, (inputs, targets)) in group.members.iter().zip(rows) {
        let Sequence { tokens, start } = &sequences[member];
        for (to, &id) in inputs.iter_mut().zip(&tokens[..tokens.len() - 1]) {
            *to = id as i32;
        }
        for (to, &id) in targets[start - 1..].iter_mut().zip(&tokens[*start..]) {
            *to = id as i32;
        }
    }
    Ok(Batch::new(length, inputs, targets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_sequence_once_within_the_budget() {
        let lengths: Vec<usize> = (0..100).map(|i| 2 + (i * 37) % 150).collect();
        let all = groups(&lengths, 256);
        let mut members: Vec<usize> = all.iter().flat_map(|g| g.members.clone()).collect();
        members.sort_unstable();
        assert_eq!(members, (0..100).collect::<Vec<_>>());
        for group in &all {
            assert_eq!(group.tokens % 32, 0);
            assert!(group.members.iter().all(|&i| lengths[i] - 1 <= group.tokens));
            assert!(group.members.len() == 1 || group.members.len() * group.tokens <= 256);
        }
        assert_eq!(
            groups(&[34, 33], 1),
            [Group { members: vec![0], tokens: 64 }, Group { members: vec![1], tokens: 32 }]
        );
    }

    #[test]
    fn a_batch_has_targets_only_where_tokens_are_scored() {
        let sequences = [
            Sequence { tokens: vec![9, 1, 2, 3], start: 2 },
            Sequence { tokens: vec![9, 4], start: 2 },
        ];
        let group = Group { members: vec![1, 0], tokens: 4 };
        let batch = batch(&group, &sequences, 9).unwrap();
        assert_eq!(batch.inputs(), [9, 9, 9, 9, 9, 1, 2, 9]);
        assert_eq!(batch.targets(), [-1, -1, -1, -1, -1, 2, 3, -1]);
    }
}

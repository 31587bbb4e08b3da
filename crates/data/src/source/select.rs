//! Which of a source's files are trained on and which is held out.

use super::ShardRange;
use crate::{Error, Result};

/// Indices to train on and to hold out, of `n` files.
pub(crate) fn select(
    range: &ShardRange,
    n: usize,
    source: &str,
) -> Result<(Vec<usize>, Vec<usize>)> {
    let files = if n == 1 { "file" } else { "files" };
    let wrong = |what: String, hint: &str| Err(Error::Selection { what, hint: hint.into() });
    let val = range.val.unwrap_or(n - 1);
    if val >= n {
        return wrong(
            format!("shards.val = {val}, but `{source}` has {n} {files}, numbered from 0"),
            "leave `val` out to hold out the last file",
        );
    }
    let end = match range.count {
        Some(count) => range.first.saturating_add(count),
        None => n,
    };
    if end > n {
        return wrong(
            format!(
                "files {}..{end} of `{source}` were asked for, it has {n} {files}",
                range.first
            ),
            "lower shards.first or shards.count",
        );
    }
    let train: Vec<usize> = (range.first..end).filter(|&i| i != val).collect();
    if train.is_empty() {
        return wrong(
            format!(
                "`{source}` has {n} {files}; with file {val} held out, none is left to train on"
            ),
            "give at least two files, or choose another one to hold out (shards.val)",
        );
    }
    Ok((train, vec![val]))
}

//! Which of a source's files are trained on and which are held out: what `shards` says, else the splits that files are named after,
//! else the last file; of a single file, a share of its rows.

use super::ShardRange;
use crate::{Error, Result};

/// Of a single file one row in so many is held out, the last ones, and never more than [`MOST_ROWS`].
const SHARE: u64 = 10;

/// Rows that are held out of a single file, at most.
const MOST_ROWS: u64 = 10_000;

/// What was chosen of a source's files, by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) train: Vec<usize>,
    /// Of a single file, the same one: [`Selected::shared`].
    pub(crate) val: Vec<usize>,
    /// Files of another split, which are neither trained on nor held out.
    pub(crate) unused: Vec<usize>,
    pub(crate) why: Why,
}

/// Why these are held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// `shards.val` says so; the flag tells whether files are trained on that are named after a split to hold out.
    Asked(bool),
    /// They are named so.
    Named(Split),
    /// It is the last one.
    Last,
    /// There is one file, of which the last rows are held out.
    Share,
}

/// What a file's name says that it is for. Where there are several to hold out, the first of them is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Split {
    Train,
    Validation,
    Eval,
    Test,
}

impl Split {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Eval => "eval",
            Self::Test => "test",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "train" | "training" => Self::Train,
            "validation" | "valid" | "val" | "dev" | "devel" | "development" | "heldout"
            | "holdout" => Self::Validation,
            "eval" | "evaluation" => Self::Eval,
            "test" | "tests" | "testing" => Self::Test,
            _ => return None,
        })
    }

    /// The split that a path is named after: by a whole word of its last part that says so (`test-00000-of-00002.parquet`), else of
    /// the folder around it (`data/test/0.parquet`), and so on. Words end where letters do: `latest` and `contest` are none. A part
    /// that names two splits names none.
    pub(crate) fn of(path: &str) -> Option<Self> {
        path.rsplit(['/', '\\']).find_map(|part| {
            let part = part.to_lowercase().replace("held-out", "heldout");
            let words = part.replace("held_out", "heldout");
            let mut found = words.split(|c: char| !c.is_alphabetic()).filter_map(Self::of_word);
            let first = found.next()?;
            found.all(|other| other == first).then_some(first)
        })
    }
}

impl Selected {
    /// Whether training and held-out text are rows of one file.
    pub(crate) fn shared(&self) -> bool {
        self.why == Why::Share
    }

    /// What enters the key of whoever keeps the result, beside the contents of the files, those to train on first: where the line
    /// between them is. Nothing where it is before the last one, as it always was when there were no others.
    pub(crate) fn mark(&self) -> Option<String> {
        match self.why {
            Why::Share => Some(format!("held out: 1 row in {SHARE}, at most {MOST_ROWS}")),
            _ if self.val.len() != 1 => Some(format!("held out: {} files", self.val.len())),
            _ => None,
        }
    }
}

/// How many of a single file's rows are held out; `None` where there is nothing to divide.
pub(crate) fn held_out_rows(rows: u64) -> Option<u64> {
    (rows >= 2).then(|| (rows / SHARE).clamp(1, MOST_ROWS))
}

/// What to train on and what to hold out, of files with these paths.
pub(crate) fn select<S: AsRef<str>>(
    range: &ShardRange,
    paths: &[S],
    source: &str,
) -> Result<Selected> {
    let n = paths.len();
    let splits = splits(paths);
    if let Some(val) = range.val {
        if val >= n {
            return wrong(
                format!("shards.val = {val}, but `{source}` has {}, numbered from 0", files(n)),
                "leave `val` out to hold out the last file",
            );
        }
        let mut train = in_range(range, &(0..n).collect::<Vec<_>>(), source)?;
        train.retain(|&i| i != val);
        if train.is_empty() {
            return nothing_left(n, val, source);
        }
        let misnamed = train.iter().any(|&i| splits[i].is_some_and(|s| s != Split::Train));
        let unused = vec![];
        return Ok(Selected { train, val: vec![val], unused, why: Why::Asked(misnamed) });
    }
    let of =
        |split: Split| -> Vec<usize> { (0..n).filter(|&i| splits[i] == Some(split)).collect() };
    let to_train_on = |i: &usize| splits[*i].is_none_or(|split| split == Split::Train);
    let pool: Vec<usize> = (0..n).filter(to_train_on).collect();
    let held_out = [Split::Validation, Split::Eval, Split::Test];
    // Where every file is named so, the names say nothing about which is which.
    let first = held_out.into_iter().find(|&split| !of(split).is_empty());
    if let Some(split) = first.filter(|_| !pool.is_empty()) {
        let val = of(split);
        let others = |i: &usize| splits[*i].is_some_and(|s| s != Split::Train && s != split);
        let unused = (0..n).filter(others).collect();
        let train = in_range(range, &pool, source)?;
        if train.is_empty() {
            return wrong(
                format!("shards.first = {} leaves no file of `{source}` to train on", range.first),
                "lower shards.first",
            );
        }
        return Ok(Selected { train, val, unused, why: Why::Named(split) });
    }
    let mut train = in_range(range, &(0..n).collect::<Vec<_>>(), source)?;
    if n == 1 && train == [0] {
        return Ok(Selected { train, val: vec![0], unused: vec![], why: Why::Share });
    }
    let val = n.saturating_sub(1);
    train.retain(|&i| i != val);
    if train.is_empty() {
        return nothing_left(n, val, source);
    }
    Ok(Selected { train, val: vec![val], unused: vec![], why: Why::Last })
}

/// What each path is named after, below the folders that all of them lie in: those say nothing about which is which.
fn splits<S: AsRef<str>>(paths: &[S]) -> Vec<Option<Split>> {
    let folder = |path: &str| path.rfind(['/', '\\']).map_or(0, |end| end + 1);
    let first = paths.first().map_or("", AsRef::as_ref);
    let mut common = &first[..folder(first)];
    for path in paths {
        while !path.as_ref().starts_with(common) {
            common = &common[..folder(common.trim_end_matches(['/', '\\']))];
        }
    }
    paths.iter().map(|path| Split::of(&path.as_ref()[common.len()..])).collect()
}

/// Those of `pool` that `first` and `count` mean.
fn in_range(range: &ShardRange, pool: &[usize], source: &str) -> Result<Vec<usize>> {
    let end = range.count.map_or(pool.len(), |count| range.first.saturating_add(count));
    if end > pool.len() {
        return wrong(
            format!(
                "files {}..{end} of `{source}` were asked for, it has {}",
                range.first,
                files(pool.len())
            ),
            "lower shards.first or shards.count",
        );
    }
    Ok(pool.get(range.first..end).unwrap_or_default().to_vec())
}

fn files(n: usize) -> String {
    format!("{n} {}", if n == 1 { "file" } else { "files" })
}

fn nothing_left<T>(n: usize, val: usize, source: &str) -> Result<T> {
    let hint = if n == 1 {
        "leave shards.val out, and a share of the file's rows is held out"
    } else {
        "give at least two files, or choose another one to hold out (shards.val)"
    };
    let files = files(n);
    wrong(
        format!("`{source}` has {files}; with file {val} held out, none is left to train on"),
        hint,
    )
}

fn wrong<T>(what: String, hint: &str) -> Result<T> {
    Err(Error::Selection { what, hint: hint.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_splits_are_whole_words() {
        for (path, split) in [
            ("train-00000-of-00002.parquet", Some(Split::Train)),
            ("data/test/0.parquet", Some(Split::Test)),
            ("TEST.parquet", Some(Split::Test)),
            ("wiki.valid.parquet", Some(Split::Validation)),
            ("wiki_held_out_3.parquet", Some(Split::Validation)),
            ("en-dev2.parquet", Some(Split::Validation)),
            ("a b/eval/x.parquet", Some(Split::Eval)),
            ("test/train-0.parquet", Some(Split::Train)),
            ("latest.parquet", None),
            ("contest-validated-0.parquet", None),
            ("pretraining/devices.parquet", None),
            ("train-test-0.parquet", None),
            ("val/train_val.parquet", Some(Split::Validation)),
        ] {
            assert_eq!(Split::of(path), split, "{path}");
        }
    }

    fn chosen(range: ShardRange, paths: &[&str]) -> (Vec<usize>, Vec<usize>, Vec<usize>, Why) {
        let Selected { train, val, unused, why } = select(&range, paths, "x").unwrap();
        (train, val, unused, why)
    }

    #[test]
    fn names_decide_where_they_differ() {
        let all = ShardRange::default();
        let both = ["test-0.parquet", "train-0.parquet", "train-1.parquet"];
        let named = Why::Named(Split::Test);
        assert_eq!(chosen(all, &both), (vec![1, 2], vec![0], vec![], named));
        let three = ["dev/0", "dev/1", "test/0", "train/0", "other/0"];
        let named = Why::Named(Split::Validation);
        assert_eq!(chosen(all, &three), (vec![3, 4], vec![0, 1], vec![2], named));
        let evals = ["a-eval", "a-test", "a-x"];
        assert_eq!(chosen(all, &evals), (vec![2], vec![0], vec![1], Why::Named(Split::Eval)));
        // `first` and `count` count what is left to train on.
        let one = ShardRange { first: 1, count: Some(1), val: None };
        assert_eq!(chosen(one, &both).0, [2]);
        let error = select(&ShardRange { first: 2, ..one }, &both, "x").unwrap_err().to_string();
        assert!(error.contains("files 2..3 of `x` were asked for, it has 2 files"), "{error}");
        // Folders that all have in common, and names that all have, say nothing.
        let below = ["/test/a", "/test/b", "/test/train"];
        assert_eq!(chosen(all, &below), (vec![0, 1], vec![2], vec![], Why::Last));
        assert_eq!(chosen(all, &["test1", "test2"]), (vec![0], vec![1], vec![], Why::Last));
        assert_eq!(chosen(all, &["contest", "latest"]).3, Why::Last);
        // `val` goes before names.
        let asked = ShardRange { val: Some(2), ..all };
        assert_eq!(chosen(asked, &both), (vec![0, 1], vec![2], vec![], Why::Asked(true)));
        let asked = ShardRange { val: Some(0), ..all };
        assert_eq!(chosen(asked, &both).3, Why::Asked(false));
    }

    #[test]
    fn one_file_is_divided() {
        let all = ShardRange::default();
        assert_eq!(chosen(all, &["a"]), (vec![0], vec![0], vec![], Why::Share));
        assert_eq!(chosen(ShardRange { count: Some(1), ..all }, &["a"]).3, Why::Share);
        let error = select(&ShardRange { val: Some(0), ..all }, &["a"], "x").unwrap_err();
        assert!(error.to_string().contains("none is left to train on"), "{error}");
        let rows = [0, 1, 2, 19, 50, 4_000, 1 << 40].map(held_out_rows);
        let some = [1, 1, 5, 400, 10_000].map(Some);
        assert_eq!(rows[..2], [None, None]);
        assert_eq!(rows[2..], some);
    }

    #[test]
    fn what_is_divided_otherwise_has_another_mark() {
        let mark = |paths: &[&str]| select(&ShardRange::default(), paths, "x").unwrap().mark();
        assert_eq!(mark(&["a", "b"]), None);
        assert_eq!(mark(&["test", "train"]), None);
        assert!(mark(&["a"]).is_some());
        assert_ne!(mark(&["test-0", "test-1", "train"]), mark(&["test-0", "train-1", "train"]));
    }
}

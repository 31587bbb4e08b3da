//! Describes in words what a source comes to, before anything of it is copied.

use super::remote::Chosen;
use super::select::{Selected, Split, Why};
use crate::local::{Format, Found};
use std::path::Path;

/// Names of files that are listed before the rest is counted.
const MOST_NAMES: usize = 3;

/// Which files of a source are trained on, what is held out, and what is neither.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// Files to train on, as a user knows them: a path, a path in a dataset, a URL. A single file that is divided is one of them.
    pub train: Vec<String>,
    /// Files that are held out; none where rows of a single one are.
    pub val: Vec<String>,
    /// What is held out, in words, with its names.
    pub held_out: String,
    /// Why that.
    pub why: String,
    /// What is neither trained on nor held out though it is there, each with its reason.
    pub left_out: Vec<String>,
    /// The formats of the files that are written as parquet, since they are not; `None` where all are.
    pub read_as: Option<String>,
    pub(super) mark: Option<String>,
}

impl Survey {
    pub(super) fn local(found: &Found, selected: &Selected, base: &Path) -> Self {
        let shown = |path: &Path| path.strip_prefix(base).unwrap_or(path).display().to_string();
        let names: Vec<String> = found.files.iter().map(|path| shown(path)).collect();
        let mut this = Self::of(&names, selected);
        this.left_out
            .extend(found.left_out.iter().map(|l| format!("{}: {}", shown(&l.path), l.why)));
        this
    }

    pub(super) fn remote(chosen: &Chosen) -> Self {
        Self::of(&chosen.names, &chosen.selected).read_as(&chosen.formats)
    }

    /// Notes in which formats files are read: other ones give other texts of the same bytes. Nothing where it is parquet, as it was when
    /// there were no others.
    #[must_use]
    pub(super) fn read_as(mut self, each: &[Format]) -> Self {
        let mut kinds = each.to_vec();
        kinds.sort();
        kinds.dedup();
        let names = |formats: &[Format]| formats.iter().map(|f| f.name()).collect::<Vec<_>>();
        let others: Vec<_> = kinds.iter().copied().filter(|f| *f != Format::Parquet).collect();
        if !others.is_empty() {
            self.read_as = Some(names(&others).join(" and "));
            let each = names(if kinds.len() == 1 { &kinds } else { each }).join(", ");
            let marks = self.mark.take().into_iter().chain([format!("read as {each}")]);
            self.mark = Some(marks.collect::<Vec<_>>().join("; "));
        }
        self
    }

    fn of(names: &[String], selected: &Selected) -> Self {
        let pick = |chosen: &[usize]| chosen.iter().map(|&i| names[i].clone()).collect::<Vec<_>>();
        let train = pick(&selected.train);
        let val = if selected.shared() { vec![] } else { pick(&selected.val) };
        let held_out = match selected.why {
            Why::Share => format!("the last rows of {}, 1 in 10", train[0]),
            _ => listed(&val),
        };
        let why = match selected.why {
            Why::Asked(false) => "shards.val says so".into(),
            Why::Asked(true) => {
                let misnamed: Vec<String> = train
                    .iter()
                    .filter(|name| Split::of(name).is_some_and(|split| split != Split::Train))
                    .cloned()
                    .collect();
                format!(
                    "shards.val says so; {} by name to be held out, and trained on",
                    is(&misnamed)
                )
            }
            Why::Named(split) => format!("by name the {} split", split.name()),
            Why::Last => "the last file, since none is named after a split".into(),
            Why::Share => "there is one file".into(),
        };
        let unused = pick(&selected.unused);
        let left_out = unused.iter().map(|name| {
            let split = Split::of(name).map_or("another", Split::name);
            format!("{name}: it is by name the {split} split")
        });
        let left_out = left_out.collect();
        Self { left_out, read_as: None, mark: selected.mark(), train, val, held_out, why }
    }
}

/// A few names, and how many more.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn is(names: &[String]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", listed(names))
}

//! One line of offsets over several texts (the pipeline file and each `--set`), so that a value that came from any of
//! them can be pointed at after everything has been merged.

use std::ops::Range;

/// Offsets into the concatenation of all sources.
pub(crate) type Span = Range<usize>;

/// The texts, each starting where the one before it ended, plus one.
#[derive(Default)]
pub(crate) struct Sources {
    list: Vec<Source>,
    /// How many of them are files: those that are laid over come first, the one that is named last.
    pub(crate) files: usize,
}

/// One text.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) base: usize,
}

impl Sources {
    pub(crate) fn add(&mut self, name: String, text: String) {
        let base = self.list.last().map_or(0, |s| s.base + s.text.len() + 1);
        self.list.push(Source { name, text, base });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Source> {
        self.list.iter()
    }

    /// The source that a span lies in, and the span inside of it, on character boundaries.
    pub(crate) fn locate(&self, span: &Span) -> Option<(usize, Span)> {
        let index = self.list.iter().rposition(|s| s.base <= span.start)?;
        let source = &self.list[index];
        let start =
            source.text.floor_char_boundary((span.start - source.base).min(source.text.len()));
        let end = (span.end.saturating_sub(source.base)).clamp(start, source.text.len());
        Some((index, start..source.text.ceil_char_boundary(end)))
    }

    /// The file that is named on the command line.
    pub(crate) fn named(&self) -> Option<&Source> {
        self.list.get(self.files.saturating_sub(1))
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Source> {
        self.list.get(index)
    }
}

//! Which format a file of text is in: by its name, and where that is wrong, by its first bytes.

use farthing_base::files;

use std::io::Read;
use std::path::Path;

/// What a file of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Format {
    /// Read as it is; every other one is written anew as this.
    Parquet,
    /// An object in a line, one of whose keys holds the text.
    JsonLines,
    /// A document, or several with a separator between them.
    Text,
    /// A table with names in its first line, fields apart by commas.
    Csv,
    /// The same, fields apart by tabs.
    Tsv,
}

impl Format {
    /// What a name says, whatever its case: its extension, or that before `.gz` or `.zst`.
    pub(crate) fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let unpacked = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst"));
        let (_, extension) = unpacked.unwrap_or(&name).rsplit_once('.')?;
        match extension {
            // Compressed as a whole it cannot be read from its end.
            "parquet" if unpacked.is_none() => Some(Self::Parquet),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "txt" => Some(Self::Text),
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            _ => None,
        }
    }

    /// How a file is read that was chosen: what its name does not say is parquet, or an error that says what it is instead.
    pub(crate) fn of(path: &Path) -> Self {
        match Self::of_name(path) {
            Some(format) if !begins_as_parquet(path) => format,
            _ => Self::Parquet,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::JsonLines => "JSON lines",
            Self::Text => "text",
            Self::Csv => "CSV",
            Self::Tsv => "TSV",
        }
    }

    /// A glob that takes files of this format alone.
    pub(crate) fn glob(self) -> &'static str {
        match self {
            Self::Parquet => "*.parquet",
            Self::JsonLines => "*.jsonl",
            Self::Text => "*.txt",
            Self::Csv => "*.csv",
            Self::Tsv => "*.tsv",
        }
    }

    /// Whether one of several fields holds the text.
    pub(crate) fn has_fields(self) -> bool {
        matches!(self, Self::JsonLines | Self::Csv | Self::Tsv)
    }
}

/// By its first bytes.
pub(crate) fn begins_as_parquet(path: &Path) -> bool {
    let mut magic = [0; 4];
    files::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"PAR1"
}

/// How a file is compressed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packed {
    Gzip,
    Zstd,
}

impl Packed {
    /// By the first bytes.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        if head.starts_with(&[0x1F, 0x8B]) {
            Some(Self::Gzip)
        } else if head.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
            Some(Self::Zstd)
        } else {
            None
        }
    }

    /// What a name says.
    pub(crate) fn of_name(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?;
        [("gz", Self::Gzip), ("zst", Self::Zstd)]
            .into_iter()
            .find(|(name, _)| extension.eq_ignore_ascii_case(name))
            .map(|(_, packed)| packed)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// What a file is that stands for another one, and how to bring that.
pub(crate) fn pointer(text: &str) -> Option<(&'static str, &'static str)> {
    if text.starts_with("version https://git-lfs") {
        return Some((
            "it is a pointer of Git LFS, which stands for the file",
            "fetch what it stands for: `git lfs pull` in its repository",
        ));
    }
    text.starts_with("/annex/objects/").then_some((
        "it is a pointer of git-annex, which stands for the file",
        "fetch what it stands for: `git annex get` in its repository",
    ))
}

/// Whether a text begins as a web page does.
pub(crate) fn is_web_page(text: &str) -> bool {
    let begins = |tag: &str| text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    begins("<html") || begins("<!doc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_formats() {
        for (name, format) in [
            ("a.parquet", Some(Format::Parquet)),
            ("b/A.JSONL", Some(Format::JsonLines)),
            ("a.b.ndjson.gz", Some(Format::JsonLines)),
            ("a.txt.ZST", Some(Format::Text)),
            ("a.csv", Some(Format::Csv)),
            ("a.tsv.gz", Some(Format::Tsv)),
            ("a.parquet.gz", None),
            ("a.tar.gz", None),
            ("a.gz", None),
            ("a.txt.bz2", None),
            ("txt", None),
            ("a.txt/b", None),
        ] {
            assert_eq!(Format::of_name(Path::new(name)), format, "{name}");
        }
    }
}

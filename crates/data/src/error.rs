//! The one error type of the crate: what is wrong, where, with the numbers, and beside the message a hint.

use farthing_base::shown::without_secrets;
use farthing_base::tensors::TensorError;
use farthing_base::{BatchError, FileError, Hint};
use std::borrow::Cow;
use std::path::PathBuf;

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong between a source of text and a batch.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read, write or map a file.
    #[error(transparent)]
    Io(#[from] FileError),
    /// A source of data names a scheme or a form that this version does not read.
    #[error("source `{}` is not one this version reads", without_secrets(given))]
    UnknownSource {
        /// The source as written.
        given: String,
    },
    /// A source is of a kind that this version reads, but is written wrongly.
    #[error("source `{}` cannot be read: {reason}", without_secrets(given))]
    Address {
        /// The source as written.
        given: String,
        /// What is wrong with it.
        reason: String,
        /// How it is written.
        hint: &'static str,
    },
    /// Nothing in a dataset of the Hub matches.
    #[error("no parquet file of the commit {commit} matches `{}`", without_secrets(given))]
    NoRemoteFiles {
        /// The source as written.
        given: String,
        /// The commit that was listed.
        commit: String,
        /// "did you mean", or what there is.
        hint: String,
    },
    /// A server understood a request and refused it: no token, a gated dataset, a name that is not there.
    #[error("{reason}: {} answered {status}", without_secrets(url))]
    Refused {
        /// What was asked for, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it means.
        reason: String,
        /// What to change.
        hint: String,
    },
    /// A server was not there, or did not deliver, for as many attempts as are made.
    #[error(
        "{} cannot be fetched: {}; gave up after {attempts} attempts in a row",
        without_secrets(url),
        without_secrets(reason)
    )]
    Unreachable {
        /// What was asked for, without its query.
        url: String,
        /// How often in a row nothing came.
        attempts: u32,
        /// Why the last attempt failed.
        reason: String,
    },
    /// A server's answer is not what the protocol says.
    #[error("the answer of {} cannot be used: {}", without_secrets(url), without_secrets(reason))]
    Answer {
        /// What was asked for, without its query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A server delivers other bytes than were announced or pinned; they are thrown away.
    #[error(
        "{name} of {} is not what it should be: found {found}, expected {expected}",
        without_secrets(url)
    )]
    WrongBytes {
        /// The file.
        name: String,
        /// Where it was fetched.
        url: String,
        /// Its digest or size as announced or pinned.
        expected: String,
        /// What arrived.
        found: String,
    },
    /// A server delivers another file than the one that was to be fetched; it is thrown away.
    #[error("{} is not what was to be fetched: {found}", without_secrets(url))]
    OtherFile {
        /// What was asked for, without its query.
        url: String,
        /// What came, or what is wrong with it.
        found: String,
    },
    /// A token would be sent to another machine for everybody on the way to read.
    #[error("{} is not encrypted, and the token would be sent to it", without_secrets(url))]
    OpenToken {
        /// What was to be asked for, without its query.
        url: String,
    },
    /// The network is needed, and the settings forbid it.
    #[error("{}, and HF_HUB_OFFLINE is set", without_secrets(what))]
    Offline {
        /// What is missing.
        what: String,
        /// How to get it.
        hint: String,
    },
    /// A pin, the record of what a remote source was, cannot be used.
    #[error("the pin of `{}` cannot be used: {reason}", without_secrets(source_text))]
    Pin {
        /// The source or the file that it pins.
        source_text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The work ended early because the caller's [`Progress`](crate::Progress) asked for it.
    #[error("stopped on request")]
    Stopped,
    /// A path or pattern matches no file of text.
    #[error("no file of text matches `{pattern}`")]
    NoFiles {
        /// The path or glob as written.
        pattern: String,
        /// The directory that relative paths start at.
        base: PathBuf,
    },
    /// A file, a folder or a link cannot be the source that it was named as, or a source has nothing that can be read.
    #[error("{what}")]
    Source {
        /// Which, and what is wrong with it.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A source was there, and what leads to it leads nowhere now.
    #[error("{what}")]
    Gone {
        /// Which, and where it leads.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A file is not parquet at all.
    #[error("{} is not parquet: {found}", without_secrets(name))]
    NotParquet {
        /// The file's path, or its URL.
        name: String,
        /// What it seems to be.
        found: String,
        /// What to do.
        hint: String,
    },
    /// A file of text in another format than parquet cannot be read, or one of its documents cannot.
    #[error("{}{}: {what}", path.display(), line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Document {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, where one can be told.
        line: Option<u64>,
        /// What is wrong with it.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A file with certificates of authorities cannot be used.
    #[error("the certificates of {} cannot be used: {reason}", path.display())]
    Certificates {
        /// The variable of the environment that names it.
        variable: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A server's certificate is not trusted. Asking again does not help.
    #[error("{url} cannot be trusted: {reason}")]
    Untrusted {
        /// What was asked for, without its query.
        url: String,
        /// What is wrong with the certificate.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The selection of files leaves none to train on, or none to hold out.
    #[error("{}", without_secrets(what))]
    Selection {
        /// What is left over, with the numbers.
        what: String,
        /// What to change.
        hint: String,
    },
    /// A parquet file, or a table of another format, has no column of that name.
    #[error("{} has no column `{column}`; its columns are {}", path.display(), found.join(", "))]
    MissingColumn {
        /// The parquet file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// The columns there are.
        found: Vec<String>,
        /// "did you mean", or how to name another column.
        hint: String,
    },
    /// The column is there but does not hold text, or, for a score, numbers.
    #[error("column `{column}` of {} holds {found}, expected {expected}", path.display())]
    ColumnType {
        /// The parquet file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// Its Arrow type.
        found: String,
        /// What it must hold.
        expected: &'static str,
    },
    /// A column of a parquet file is compressed in a way that is not built in.
    #[error("column `{column}` of {} is compressed with {found}", path.display())]
    Compression {
        /// The parquet file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The compression, as parquet names it.
        found: String,
    },
    /// A parquet file is damaged: its footer, or one of its row groups.
    #[error("{}{}{} cannot be read: {reason}", path.display(), row_group.map(|g| format!(", row group {g},")).unwrap_or_default(), row.map(|r| format!(" row {r},")).unwrap_or_default())]
    Parquet {
        /// The parquet file.
        path: PathBuf,
        /// The row group, if the footer could be read.
        row_group: Option<usize>,
        /// The row that cannot be read, counted in the file, where one can be told.
        row: Option<u64>,
        /// The reader's reason.
        reason: String,
    },
    /// A text is not UTF-8.
    #[error("{}, row group {row_group}, row {row} is not UTF-8 from its byte {at} on", path.display())]
    InvalidUtf8 {
        /// The parquet file.
        path: PathBuf,
        /// The row group.
        row_group: usize,
        /// The row, counted in the file.
        row: u64,
        /// Bytes of the text that are UTF-8.
        at: usize,
    },
    /// A parquet file could not be written.
    #[error("cannot write {}: {reason}", path.display())]
    WriteParquet {
        /// The parquet file.
        path: PathBuf,
        /// The writer's reason.
        reason: String,
    },
    /// A tokenizer file cannot be used.
    #[error("tokenizer {} cannot be used: {reason}", path.display())]
    TokenizerFile {
        /// The file, usually `tokenizer.json`.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// Training or encoding failed inside the tokenizer.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What went wrong, with the numbers.
        reason: String,
        /// What to change.
        hint: String,
    },
    /// A setting is outside the range in which it means something.
    #[error("{what}")]
    Config {
        /// The setting and its value.
        what: String,
        /// The range.
        hint: String,
    },
    /// A shard is not whole, not a shard, or not what was written.
    #[error("shard {0}")]
    Shard(#[source] TensorError),
    /// A manifest cannot be read or contradicts its shards.
    #[error("manifest {} cannot be used: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// A batch was asked for whose shape the rows do not have.
    #[error("{what}")]
    BatchShape {
        /// Both shapes.
        what: String,
        /// What to change.
        hint: String,
    },
    /// Sizes that make no batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The operating system refused to start a thread.
    #[error("cannot start a thread for {purpose}: {source}")]
    Thread {
        /// What it was to do.
        purpose: &'static str,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// A row holds a token that the vocabulary does not have.
    #[error(
        "row {row} holds token {token} at position {position}, but the vocabulary has {vocab} entries"
    )]
    TokenOutOfRange {
        /// The row's index over all shards.
        row: u64,
        /// The position in the row.
        position: usize,
        /// The token found.
        token: u32,
        /// Entries in the vocabulary.
        vocab: usize,
    },
    /// Packing ended without a single whole row.
    #[error("{documents} documents with {tokens} tokens do not fill one row of {row_tokens}")]
    NoRows {
        /// Documents read.
        documents: u64,
        /// Tokens read, BOS included.
        tokens: u64,
        /// Tokens per row.
        row_tokens: usize,
    },
}

farthing_base::debug_with_hint!(Error);

impl Hint for Error {
    fn hint(&self) -> Option<Cow<'_, str>> {
        let hint: &str = match self {
            Self::Io(error) => return error.hint(),
            Self::Batch(error) => return error.hint(),
            Self::NoFiles { base, .. } => {
                return Some(
                    format!(
                        "give a file of text (parquet, .jsonl, .txt, .csv), a directory that holds some, or a glob; relative paths start at {}",
                        base.display()
                    )
                    .into(),
                );
            }
            Self::Certificates { variable, .. } => {
                return Some(
                    format!(
                        "{variable} names a file in PEM format, or a folder of them; unset it to use the system's certificates"
                    )
                    .into(),
                );
            }
            &Self::Address { hint, .. }
            | &Self::TokenizerFile { hint, .. }
            | &Self::Untrusted { hint, .. } => hint,
            Self::Source { hint, .. }
            | Self::Gone { hint, .. }
            | Self::NotParquet { hint, .. }
            | Self::Document { hint, .. }
            | Self::NoRemoteFiles { hint, .. }
            | Self::Refused { hint, .. }
            | Self::Offline { hint, .. }
            | Self::Selection { hint, .. }
            | Self::MissingColumn { hint, .. }
            | Self::Tokenizer { hint, .. }
            | Self::Config { hint, .. }
            | Self::BatchShape { hint, .. } => hint,
            Self::UnknownSource { .. } => {
                "use `hf://datasets/ORG/NAME`, `https://…/file.parquet`, `embedded://world`, or the path of a file of text (parquet, .jsonl, .txt, .csv), of a directory of them, or a glob such as `text/*.parquet`"
            }
            Self::Unreachable { .. } => {
                "check the network and rerun; what has arrived is kept, and the next run goes on from there"
            }
            Self::Answer { .. } => "check HF_ENDPOINT and any proxy between here and there",
            Self::WrongBytes { .. } => {
                "the file changed, or something between here and there changes it; to take it as it is now, remove its pin from the lock file"
            }
            Self::OpenToken { .. } => {
                "use an `https://` address (HF_ENDPOINT), or leave the token out; where the network is yours alone, FARTHING_OPEN_TOKEN=1 sends it all the same"
            }
            Self::OtherFile { .. } => {
                "look at the URL in a browser: a login page, a proxy's page or a server's error may have come instead of the file; nothing of it was kept"
            }
            Self::Pin { .. } => {
                "undo the change to the lock file, or delete it to have it written anew"
            }
            Self::Stopped => "run again to go on from here",
            Self::ColumnType { .. } => "name another column",
            Self::Compression { .. } => {
                "write the file with zstd, snappy, gzip, lz4, brotli or no compression"
            }
            Self::Parquet { .. } => "the file is damaged or not parquet; fetch it again",
            Self::InvalidUtf8 { .. } => {
                "the file is damaged, or its writer did not write text; fetch it again, or leave the file out"
            }
            Self::WriteParquet { .. } => "check the disk's free space",
            Self::Shard(TensorError::Size { .. }) => {
                "the write or the copy was cut short; delete the directory it is in and rerun, only packing restarts"
            }
            Self::Shard(TensorError::Header { .. }) => {
                "this is not a shard written by this version, or it is damaged; delete the directory it is in and rerun, only packing restarts"
            }
            Self::Shard(_) => "delete the directory it is in and rerun, only packing restarts",
            Self::Manifest { .. } => {
                "delete the directory it is in and rerun the stage that wrote it"
            }
            Self::Thread { .. } => {
                "the limit on processes or memory is reached; `ulimit -u` shows the first"
            }
            Self::TokenOutOfRange { .. } => "pack with the tokenizer that the model is built for",
            Self::NoRows { .. } => "give more text or shorter rows",
        };
        Some(hint.into())
    }
}

impl From<TensorError> for Error {
    fn from(error: TensorError) -> Self {
        match error {
            TensorError::File(error) => Self::Io(error),
            error => Self::Shard(error),
        }
    }
}

impl Error {
    /// Whether a source on this machine is not there any more: moved, deleted, or on a disk that is not mounted.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::NoFiles { .. } | Self::Gone { .. } => true,
            Self::Io(error) => is_absent(&error.source),
            _ => false,
        }
    }

    /// An [`Error::Io`] for `map_err`.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let refused = FileError::at(action, path);
        move |source| refused(source).into()
    }
}

/// Whether nothing is there.
pub(crate) fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as E;
    matches!(error.kind(), E::NotFound | E::NotADirectory | E::InvalidInput | E::InvalidFilename)
}

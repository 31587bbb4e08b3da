//! [`Pack`]: from parquet files and a tokenizer to a folder of shards.

use super::packing::pack_as;
use super::resume;
use crate::digests::digest_files;
use crate::local::{self, LocalAddress};
use crate::{
    Error, MANIFEST, MANIFEST_FORMAT, Manifest, PackSettings, Progress, Result, Rows, Silent,
    TextFilter, Texts, TokenType, Tokenizer,
};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Names how documents become rows, in the digest of the input: another value wherever the same input gives other rows.
const PACKING: &str = "farthing-packing-2";

/// All that rows depend on beside text and tokenizer, as one value: [`Pack::config`]. It enters the digest of the input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackConfig {
    /// The column that holds the text.
    pub text_column: String,
    /// Which documents are packed.
    #[serde(skip_serializing_if = "TextFilter::is_empty")]
    pub filter: TextFilter,
    /// How large a shard's data may become; it has one row at least.
    pub shard_bytes: usize,
    /// Rows and rule.
    pub settings: PackSettings,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self {
            text_column: "text".into(),
            filter: TextFilter::default(),
            shard_bytes: Pack::SHARD_BYTES,
            settings: PackSettings::default(),
        }
    }
}

/// Text on its way into rows: `Pack::text("dir/*.parquet").tokenizer(&t).row_tokens(2048).to("rows")?`.
pub struct Pack<'a> {
    text: Text,
    digests: Option<Vec<String>>,
    tokenizer: Option<&'a Tokenizer>,
    config: PackConfig,
    progress: Option<&'a mut dyn Progress>,
}

/// Where text is.
enum Text {
    Pattern(String),
    Files(Vec<PathBuf>),
}

impl<'a> Pack<'a> {
    /// Bytes of a shard's rows, at most, if it is not said.
    pub const SHARD_BYTES: usize = 100_000_000;

    /// Of a parquet file, a folder of them, or a glob, in the order of their names.
    pub fn text(pattern: impl Into<String>) -> Self {
        Self::of(Text::Pattern(pattern.into()))
    }

    /// Of these parquet files, in this order.
    pub fn files<P: AsRef<Path>>(files: &[P]) -> Self {
        Self::of(Text::Files(files.iter().map(|file| file.as_ref().to_owned()).collect()))
    }

    fn of(text: Text) -> Self {
        let config = PackConfig::default();
        Self { text, digests: None, tokenizer: None, config, progress: None }
    }

    /// Digests of the files that are known, so that each file is read once: `digests[i]` is the BLAKE3 of file `i`, in hex, as
    /// [`digest_file`](crate::digest_file) and [`FileEntry::blake3`](crate::FileEntry::blake3) have it. The rows are the same.
    #[must_use]
    pub fn digests(self, digests: Vec<String>) -> Self {
        Self { digests: Some(digests), ..self }
    }

    /// By which text becomes tokens. It must be said.
    #[must_use]
    pub fn tokenizer(self, tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer: Some(tokenizer), ..self }
    }

    /// All settings at once, instead of those that follow.
    #[must_use]
    pub fn config(self, config: PackConfig) -> Self {
        Self { config, ..self }
    }

    /// The column that holds the text, `text` if it is not said.
    #[must_use]
    pub fn column(mut self, name: impl Into<String>) -> Self {
        self.config.text_column = name.into();
        self
    }

    /// Which documents are packed.
    #[must_use]
    pub fn filter(mut self, filter: TextFilter) -> Self {
        self.config.filter = filter;
        self
    }

    /// T, the positions that a model sees, 2,048 if it is not said. Rows have one token more, the last target.
    #[must_use]
    pub fn row_tokens(mut self, context: usize) -> Self {
        self.config.settings.context = context;
        self
    }

    /// All settings of packing, T among them.
    #[must_use]
    pub fn settings(mut self, settings: PackSettings) -> Self {
        self.config.settings = settings;
        self
    }

    /// How large a shard's data may become; it has one row at least.
    #[must_use]
    pub fn shard_bytes(mut self, bytes: usize) -> Self {
        self.config.shard_bytes = bytes;
        self
    }

    /// Who is told how far packing is, and may stop it.
    #[must_use]
    pub fn progress(self, progress: &'a mut dyn Progress) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// Encodes and packs into `out/rows_00000.safetensors`, … and `out/manifest.json`, which is written last.
    ///
    /// Called again on a folder that it finished, with the same input, it verifies the shards and returns; on one that it was killed in, it
    /// goes on after the last shard that was whole, from the resume point that lies beside the shards. The bytes are the same either way,
    /// and for any number of threads.
    ///
    /// # Errors
    /// [`Error::NoFiles`] and [`Error::Source`] for a pattern that leads to no parquet file; [`Error::Config`] without a tokenizer, for
    /// settings that mean nothing, and for fewer digests than files; [`Error::Manifest`] when `out` holds another packing, which is left
    /// alone; [`Error::NoRows`] when the text does not fill one row; [`Error::Stopped`] soon after the progress asks for it; those of
    /// [`Texts`], [`Tokenizer::encode_batch`] and of writing shards.
    ///
    /// # Cost
    /// The caller's pool reads, encodes and packs, one more thread writes. Memory for the packer's buffer, and some tens of megabytes of
    /// text, tokens and rows on their way; a document longer than that is in memory as a whole.
    pub fn to(self, out: impl AsRef<Path>) -> Result<Manifest> {
        let (out, config, silent) = (out.as_ref(), self.config, &mut Silent);
        let progress = self.progress.unwrap_or(silent);
        let wrong = |what: String, hint: &str| Err(Error::Config { what, hint: hint.into() });
        let Some(tokenizer) = self.tokenizer else {
            return wrong(
                "text is to be packed without a tokenizer".into(),
                "give one to `tokenizer`",
            );
        };
        config.settings.check()?;
        let files = match self.text {
            Text::Files(files) => files,
            Text::Pattern(pattern) => {
                local::find(&LocalAddress::new(&pattern, &pattern), Path::new(""))?.files
            }
        };
        if let Some(digests) = self.digests.as_ref().filter(|all| all.len() != files.len()) {
            let what = format!("{} files come with {} digests", files.len(), digests.len());
            return wrong(what, "give one digest for each file, in their order");
        }
        let texts = Texts::open(&files, &config.text_column)?.with_filter(&config.filter)?;
        let digests = match self.digests {
            Some(digests) => digests,
            None => digest_files(&files, progress)?,
        };
        let key = input_key(&digests, tokenizer, &config)?;
        fs::create_dir_all(out).map_err(Error::io("create", out))?;
        if out.join(MANIFEST).exists() {
            return finished(out, &key, progress);
        }
        match TokenType::for_vocab(tokenizer.vocab_size()) {
            TokenType::U16 => pack_as::<u16>(texts, tokenizer, &config, out, &key, progress),
            TokenType::U32 => pack_as::<u32>(texts, tokenizer, &config, out, &key, progress),
        }
    }
}

/// [`Pack`] for whoever has its settings as one value.
///
/// # Errors
/// Those of [`Pack::to`].
pub fn pack<P: AsRef<Path>>(
    files: &[P],
    tokenizer: &Tokenizer,
    config: &PackConfig,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Manifest> {
    Pack::files(files).tokenizer(tokenizer).config(config.clone()).progress(progress).to(out)
}

/// A digest of everything that the rows depend on.
fn input_key(digests: &[String], tokenizer: &Tokenizer, config: &PackConfig) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let config = serde_json::to_string(config).map_err(|e| Error::Config {
        what: format!("the pack settings cannot be written: {e}"),
        hint: "this is a fault of this crate".into(),
    })?;
    let mut part = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    part(MANIFEST_FORMAT);
    part(PACKING);
    part(&config);
    part(tokenizer.digest());
    for digest in digests {
        part(digest);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The manifest of a directory that is finished, if it is the packing that is asked for and undamaged.
fn finished(out: &Path, key: &str, progress: &mut dyn Progress) -> Result<Manifest> {
    let rows = Rows::open(out)?;
    if rows.manifest().input != key {
        return Err(Error::Manifest {
            path: out.join(MANIFEST),
            reason: "it belongs to another packing: its text, tokenizer or settings differ".into(),
        });
    }
    rows.verify_watched(progress)?;
    resume::remove(out)?;
    Ok(rows.manifest().clone())
}

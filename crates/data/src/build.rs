//! From parquet files to a tokenizer, and from parquet files and a tokenizer to shards: the two long functions of this crate.

use crate::rows::{MANIFEST, MANIFEST_FORMAT, Manifest, ManifestShard, Rows};
use crate::shard::{ShardBuffer, TokenType};
use crate::{
    BpeSettings, BpeStats, Error, PackSettings, Packer, Progress, Result, Texts, Tokenizer,
    digest_file,
};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The tokenizer's name in the directory that [`train_bpe`] writes.
pub const TOKENIZER: &str = "tokenizer.json";

/// Texts encoded at a time: enough for all cores, little memory.
const ENCODE_TEXTS: usize = 1_024;
const ENCODE_BYTES: usize = 8 << 20;

/// Trains a tokenizer on one column of parquet files and writes `out/tokenizer.json`.
///
/// # Errors
/// Those of [`Texts`] and [`Tokenizer::train`]; [`Error::Io`].
pub fn train_bpe<P: AsRef<Path>>(
    files: &[P],
    text_column: &str,
    settings: &BpeSettings,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<(Tokenizer, BpeStats)> {
    settings.check()?;
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let texts = Texts::open(files, text_column)?;
    let documents = Some(texts.rows());
    let (tokenizer, stats) = Tokenizer::train_watched(texts, documents, settings, progress)?;
    tokenizer.save(out.join(TOKENIZER))?;
    Ok((tokenizer, stats))
}

/// How to pack parquet files into shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackConfig {
    /// The column that holds the text.
    pub text_column: String,
    /// About how large a shard's data may become.
    pub shard_bytes: usize,
    /// Rows and rule.
    pub settings: PackSettings,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self {
            text_column: "text".into(),
            shard_bytes: 100_000_000,
            settings: PackSettings::default(),
        }
    }
}

/// Encodes and packs one column of parquet files into `out/rows_00000.safetensors`, … and `out/manifest.json`, which is
/// written last.
///
/// Called again on a directory that it finished, with the same input, it verifies the shards and returns; on one that
/// it was killed in, it begins again. The bytes are the same either way, and for any number of threads.
///
/// # Errors
/// [`Error::Manifest`] when `out` holds another packing, which is left alone; [`Error::NoRows`] when the text does not fill one
/// row; those of [`Texts`], [`Tokenizer::encode_batch`] and of writing shards.
///
/// # Cost
/// Memory for one shard, the packer's buffer, and a few megabytes of text being encoded.
pub fn pack<P: AsRef<Path>>(
    files: &[P],
    tokenizer: &Tokenizer,
    config: &PackConfig,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Manifest> {
    config.settings.check()?;
    let mut texts = Texts::open(files, &config.text_column)?;
    let key = input_key(files, tokenizer, config)?;
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    if out.join(MANIFEST).exists() {
        return finished(out, &key);
    }
    clear(out)?;

    let row_tokens = config.settings.row_tokens();
    let kind = TokenType::for_vocab(tokenizer.vocab_size());
    let shard_rows = (config.shard_bytes / (row_tokens * kind.bytes())).max(1);
    let mut packer = Packer::new(&config.settings, tokenizer.bos())?;
    let mut writer = Writer { out, buffer: ShardBuffer::new(kind, row_tokens), shards: vec![] };
    progress.total(Some(texts.rows()), "documents");
    let (mut text_bytes, mut skipped) = (0u64, 0);
    loop {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while chunk.len() < ENCODE_TEXTS && bytes < ENCODE_BYTES {
            let Some(text) = texts.next() else { break };
            let text = text?;
            bytes += text.len();
            chunk.push(text);
        }
        if chunk.is_empty() {
            break;
        }
        text_bytes += bytes as u64;
        let documents = chunk.len() as u64;
        for tokens in tokenizer.encode_batch(&chunk)? {
            packer.push(tokens, &mut |row| {
                writer.buffer.push(row);
                Ok(())
            })?;
            // Between documents, so that the statistics in the header are those of whole documents.
            if writer.buffer.rows() >= shard_rows {
                writer.write(tokenizer, &config.settings, packer.stats())?;
            }
        }
        progress.advance(documents + texts.nulls() - skipped);
        skipped = texts.nulls();
    }
    let stats = packer.finish(&mut |row| {
        writer.buffer.push(row);
        Ok(())
    })?;
    if writer.buffer.rows() > 0 {
        writer.write(tokenizer, &config.settings, &stats)?;
    }
    if stats.rows == 0 {
        return Err(Error::NoRows {
            documents: stats.documents,
            tokens: stats.tokens_in,
            row_tokens,
        });
    }
    let manifest = Manifest {
        format: MANIFEST_FORMAT.into(),
        input: key,
        tokenizer: tokenizer.digest().into(),
        vocab: tokenizer.vocab_size(),
        bos: tokenizer.bos(),
        row_tokens,
        rows: stats.rows,
        settings: config.settings.clone(),
        stats,
        null_texts: texts.nulls(),
        text_bytes,
        shards: writer.shards,
    };
    manifest.write(out)?;
    Ok(manifest)
}

struct Writer<'a> {
    out: &'a Path,
    buffer: ShardBuffer,
    shards: Vec<ManifestShard>,
}

impl Writer<'_> {
    fn write(
        &mut self,
        tokenizer: &Tokenizer,
        settings: &PackSettings,
        stats: &crate::PackStats,
    ) -> Result<()> {
        let file = format!("rows_{:05}.safetensors", self.shards.len());
        let path = self.out.join(&file);
        let blake3 = self.buffer.write(&path, tokenizer.digest(), settings, stats)?;
        self.shards.push(ManifestShard { file, rows: self.buffer.rows() as u64, blake3 });
        self.buffer.clear();
        Ok(())
    }
}

/// A digest of everything that the rows depend on.
fn input_key<P: AsRef<Path>>(
    files: &[P],
    tokenizer: &Tokenizer,
    config: &PackConfig,
) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let config = serde_json::to_string(config).map_err(|e| Error::Config {
        what: format!("the pack settings cannot be written: {e}"),
        hint: "this is a fault of this crate".into(),
    })?;
    let mut part = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    part(MANIFEST_FORMAT);
    part(&config);
    part(tokenizer.digest());
    for file in files {
        part(&digest_file(file)?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The manifest of a directory that is finished, if it is the packing that is asked for and undamaged.
fn finished(out: &Path, key: &str) -> Result<Manifest> {
    let rows = Rows::open(out)?;
    if rows.manifest().input != key {
        return Err(Error::Manifest {
            path: out.join(MANIFEST),
            reason: "it belongs to another packing: its text, tokenizer or settings differ".into(),
        });
    }
    rows.verify()?;
    Ok(rows.manifest().clone())
}

/// Removes what an interrupted call left: shards without a manifest. Other files are not touched.
fn clear(out: &Path) -> Result<()> {
    let mut left: Vec<PathBuf> = vec![];
    for entry in fs::read_dir(out).map_err(Error::io("list", out))? {
        let entry = entry.map_err(Error::io("list", out))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let ours = name.strip_prefix("rows_").is_some_and(|rest| {
            rest.ends_with(".safetensors") || rest.ends_with(".safetensors.tmp")
        });
        if ours {
            left.push(entry.path());
        }
    }
    for path in left {
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

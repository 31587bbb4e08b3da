//! [`Pack`]: from parquet files and a tokenizer to a folder of shards.

use super::Packer;
use super::encoding::{Document, Mark, encode_texts};
use super::resume;
use super::shard_writer::{Label, ShardWriter};
use super::tokens::Token;
use crate::digests::digest_files;
use crate::local::{self, LocalAddress};
use crate::{
    Error, MANIFEST, MANIFEST_FORMAT, Manifest, ManifestShard, PackSettings, Progress, Result,
    Rows, Silent, TextFilter, Texts, TokenType, Tokenizer,
};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Names how documents become rows, in the digest of the input: another value wherever the same input gives other rows.
const PACKING: &str = "farthing-packing-2";

/// Bytes of rows that are hashed and written together.
const BLOCK_BYTES: usize = 1 << 18;

/// What the rows depend on beside text and tokenizer, as it enters the digest of the input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    text_column: String,
    #[serde(skip_serializing_if = "TextFilter::is_empty")]
    filter: TextFilter,
    shard_bytes: usize,
    settings: PackSettings,
}

impl Default for Config {
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
    config: Config,
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
        let config = Config::default();
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

/// Packs with tokens of one type, once everything is found to be in order.
fn pack_as<T: Token>(
    mut texts: Texts,
    tokenizer: &Tokenizer,
    config: &Config,
    out: &Path,
    key: &str,
    progress: &mut dyn Progress,
) -> Result<Manifest> {
    let mut packing = Packing::<T>::begin(out, key, tokenizer, config)?;
    clear(out, &packing.shards)?;
    progress.total(Some(texts.rows()), "documents");
    let from = packing.mark;
    if packing.shards.is_empty() {
        progress.message("packing");
    } else {
        progress.message(&format!("going on after shard {}", packing.shards.len() - 1));
        progress.advance(from.read.rows());
    }
    packing.rows(false)?;
    texts.go_to(from.position)?;
    let end = encode_texts(texts, from, tokenizer, progress, |document| packing.take(document))?;
    packing.mark = end;
    packing.rows(true)?;
    packing.finish()
}

/// The packing end of the line: a packer, and where its rows go.
struct Packing<'a, T: Token> {
    out: &'a Path,
    key: &'a str,
    tokenizer: &'a Tokenizer,
    settings: &'a PackSettings,
    packer: Packer<T>,
    /// Rows of a shard, and those of the one that is open.
    shard_rows: usize,
    open_rows: usize,
    /// Those that were written when packing began.
    shards: Vec<ManifestShard>,
    writer: ShardWriter,
    mark: Mark,
}

impl<'a, T: Token> Packing<'a, T> {
    /// At the resume point of `out`, or at the beginning.
    fn begin(
        out: &'a Path,
        key: &'a str,
        tokenizer: &'a Tokenizer,
        config: &'a Config,
    ) -> Result<Self> {
        let settings = &config.settings;
        let bos = T::new(tokenizer.bos());
        let point = resume::load(out, key, settings, bos)?;
        let (packer, shards, mark) = match point {
            Some(point) => (point.packer, point.shards, point.mark),
            None => (Packer::new(settings, bos)?, vec![], Mark::default()),
        };
        let label = Label {
            out: out.into(),
            input: key.into(),
            tokenizer: tokenizer.digest().into(),
            tokens: T::TYPE,
            settings: settings.clone(),
        };
        let writer = ShardWriter::start(label, shards.clone())?;
        Ok(Self {
            out,
            key,
            tokenizer,
            settings,
            packer,
            shard_rows: (config.shard_bytes / (settings.row_tokens() * size_of::<T>())).max(1),
            open_rows: 0,
            shards,
            writer,
            mark,
        })
    }

    fn take(&mut self, document: Document<T>) -> Result<()> {
        self.mark = document.mark;
        self.packer.add(document.tokens);
        self.rows(false)
    }

    /// Takes every row that can be filled. A shard that becomes full is ended, with the resume point after it.
    fn rows(&mut self, at_end: bool) -> Result<()> {
        while self.packer.fill_row(at_end) {
            self.open_rows += 1;
            let full = self.open_rows == self.shard_rows;
            if full || size_of_val(self.packer.whole_rows()) >= BLOCK_BYTES {
                self.write_rows()?;
            }
            if full {
                self.open_rows = 0;
                let point = resume::Snapshot::new(self.mark, &self.packer);
                self.writer.end_shard(self.packer.stats(), Some(point))?;
            }
        }
        Ok(())
    }

    /// Writes the rows that wait in the packer.
    fn write_rows(&mut self) -> Result<()> {
        self.writer.rows(self.packer.whole_rows())?;
        self.packer.clear_rows();
        Ok(())
    }

    /// Writes the last shard and the manifest.
    fn finish(mut self) -> Result<Manifest> {
        self.write_rows()?;
        if self.open_rows > 0 {
            self.writer.end_shard(self.packer.stats(), None)?;
        }
        let shards = self.writer.finish()?;
        let row_tokens = self.settings.row_tokens();
        let stats = self.packer.end();
        if stats.rows == 0 {
            return Err(Error::NoRows {
                documents: stats.documents,
                tokens: stats.tokens_in,
                row_tokens,
            });
        }
        let manifest = Manifest {
            format: MANIFEST_FORMAT.into(),
            input: self.key.into(),
            tokenizer: self.tokenizer.digest().into(),
            vocab: self.tokenizer.vocab_size(),
            bos: self.tokenizer.bos(),
            row_tokens,
            rows: stats.rows,
            settings: self.settings.clone(),
            stats,
            read: self.mark.read,
            chat: None,
            shards,
        };
        manifest.write(self.out)?;
        resume::remove(self.out)?;
        Ok(manifest)
    }
}

/// A digest of everything that the rows depend on.
fn input_key(digests: &[String], tokenizer: &Tokenizer, config: &Config) -> Result<String> {
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

/// Removes what an interrupted call left and no resume point counts: shards, and files half written. Other files are not touched.
fn clear(out: &Path, keep: &[ManifestShard]) -> Result<()> {
    let mut left: Vec<PathBuf> = vec![];
    for entry in fs::read_dir(out).map_err(Error::io("list", out))? {
        let entry = entry.map_err(Error::io("list", out))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let shard = name.strip_prefix("rows_").is_some_and(|rest| {
            rest.ends_with(".safetensors") || rest.ends_with(".safetensors.tmp")
        });
        let ours = shard || name == format!("{MANIFEST}.tmp") || name == resume::TEMPORARY;
        if ours && !keep.iter().any(|shard| *shard.file == *name) {
            left.push(entry.path());
        }
    }
    for path in left {
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BpeSettings, PackRule, Position, Remainder, Shard};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A tokenizer of bytes; nothing is encoded here, only its size, BOS and digest matter.
    fn tokenizer() -> Tokenizer {
        let text = |_| Ok("a few words of text".to_string());
        let settings = BpeSettings { vocab_size: 265, ..BpeSettings::default() };
        Tokenizer::train((0..3).map(text), &settings).unwrap().0
    }

    fn mark(row: u64) -> Mark {
        Mark { position: Position { file: 0, row }, ..Mark::default() }
    }

    fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        let name = |p: &Path| p.file_name().unwrap().to_string_lossy().into_owned();
        entries.map(|p| (name(&p), fs::read(&p).unwrap())).collect()
    }

    /// Packs `lengths[..until]` as a process would that is killed after document `until`; the last one finishes.
    fn run<T: Token>(
        dir: &Path,
        tokenizer: &Tokenizer,
        config: &Config,
        lengths: &[u32],
        until: usize,
    ) {
        let mut packing = Packing::<T>::begin(dir, "key", tokenizer, config).unwrap();
        clear(dir, &packing.shards).unwrap();
        packing.rows(false).unwrap();
        let from = packing.mark.position.row as usize;
        for (i, &length) in lengths.iter().enumerate().take(until).skip(from) {
            let mark = mark(i as u64 + 1);
            let tokens: Vec<T> = (0..length).map(|t| T::new(t % 250)).collect();
            packing.take(Document { tokens: tokens.into(), mark }).unwrap();
        }
        if until == lengths.len() {
            packing.rows(true).unwrap();
            packing.finish().unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5))]
        /// Killed any number of times, after any documents, what is finished in the end has the bytes of a run that was not.
        #[test]
        fn kills_do_not_change_a_byte(
            rule in prop::sample::select(vec![
                PackRule::OldestFirst, PackRule::BestFitCrop, PackRule::BestFitCropFirst, PackRule::GreedyCrop,
            ]),
            requeue in any::<bool>(),
            lengths in prop::collection::vec(prop_oneof![4 => 0u32..60, 1 => 0u32..900], 300..500),
            mut kills in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            damage in any::<prop::sample::Index>(),
        ) {
            let remainder = if requeue { Remainder::Requeue } else { Remainder::Discard };
            let settings = PackSettings { rule, context: 31, buffer_documents: 20, remainder };
            let config = Config { settings, shard_bytes: 3_000, ..Config::default() };
            let tokenizer = tokenizer();
            let (plain, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            run::<u16>(plain.path(), &tokenizer, &config, &lengths, lengths.len());
            let expected = files(plain.path());
            prop_assert!(expected.len() > 4);
            // 46 rows of 32 tokens; only the last shard may have fewer.
            let shards: Vec<_> = expected.keys().filter(|name| name.starts_with("rows_")).collect();
            for name in &shards[..shards.len() - 1] {
                prop_assert_eq!(Shard::open(plain.path().join(name)).unwrap().rows(), 46);
            }

            let mut first = None;
            kills.sort_by_key(|kill| kill.index(lengths.len()));
            for kill in &kills {
                run::<u16>(killed.path(), &tokenizer, &config, &lengths, kill.index(lengths.len()));
                // The first shard is never written twice.
                let now = fs::metadata(killed.path().join("rows_00000.safetensors"));
                let now = now.and_then(|m| m.modified()).ok();
                prop_assert!(first.is_none() || first == now);
                first = now;
            }
            // What a kill leaves of a file that was being written.
            fs::write(killed.path().join("rows_00001.safetensors.tmp"), b"half").unwrap();
            fs::write(killed.path().join("resume.bin.tmp"), b"half").unwrap();
            run::<u16>(killed.path(), &tokenizer, &config, &lengths, lengths.len());
            prop_assert_eq!(&files(killed.path()), &expected);

            // Four bytes a token, for vocabularies that need them: the same rows.
            let wide = tempfile::tempdir().unwrap();
            let config_wide = Config { shard_bytes: 2 * config.shard_bytes, ..config.clone() };
            for until in [lengths.len() / 2, lengths.len()] {
                run::<u32>(wide.path(), &tokenizer, &config_wide, &lengths, until);
            }
            for name in &shards {
                let [narrow, wide] = [plain.path(), wide.path()].map(|dir| Shard::open(dir.join(name)).unwrap());
                prop_assert_eq!(wide.token_type(), TokenType::U32);
                wide.verify().unwrap();
                prop_assert_eq!(wide.rows(), narrow.rows());
                for i in 0..narrow.rows() {
                    prop_assert_eq!(wide.row(i).unwrap().to_vec(), narrow.row(i).unwrap().to_vec());
                }
            }

            // A damaged resume point is as good as none.
            let again = tempfile::tempdir().unwrap();
            run::<u16>(again.path(), &tokenizer, &config, &lengths, lengths.len() - 1);
            let path = again.path().join("resume.bin");
            let mut bytes = fs::read(&path).unwrap();
            let at = damage.index(bytes.len());
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            prop_assert!(resume::load::<u16>(again.path(), "key", &config.settings, 0).unwrap().is_none());
            fs::write(&path, &bytes[..at]).unwrap();
            run::<u16>(again.path(), &tokenizer, &config, &lengths, lengths.len());
            prop_assert_eq!(&files(again.path()), &expected);
        }
    }

    #[test]
    fn a_failed_write_loses_nothing_and_other_input_does_not_go_on() {
        let settings = PackSettings { context: 31, buffer_documents: 5, ..PackSettings::default() };
        let config = Config { settings, shard_bytes: 1_000, ..Config::default() };
        let tokenizer = tokenizer();
        let dir = tempfile::tempdir().unwrap();
        let mut packing = Packing::<u16>::begin(dir.path(), "key", &tokenizer, &config).unwrap();
        // As on a full disk: the third shard cannot be written.
        fs::create_dir(dir.path().join("rows_00002.safetensors.tmp")).unwrap();
        let error = (0..200).find_map(|i| {
            let mark = mark(i + 1);
            packing.take(Document { tokens: vec![7; 40].into(), mark }).err()
        });
        drop(packing);
        let error = error.unwrap().to_string();
        assert!(error.contains("cannot create") && error.contains("rows_00002"), "{error}");
        fs::remove_dir(dir.path().join("rows_00002.safetensors.tmp")).unwrap();

        let packing = Packing::<u16>::begin(dir.path(), "key", &tokenizer, &config).unwrap();
        assert_eq!(packing.shards.len(), 2);
        let other = Packing::<u16>::begin(dir.path(), "other", &tokenizer, &config).unwrap();
        assert!(other.shards.is_empty());
        // What is given up in the middle of a shard leaves nothing of it.
        let mut packing = Packing::<u16>::begin(dir.path(), "key", &tokenizer, &config).unwrap();
        while packing.open_rows < 12 {
            packing.take(Document { tokens: vec![7; 40].into(), mark: mark(1) }).unwrap();
        }
        packing.write_rows().unwrap();
        let half = dir.path().join("rows_00002.safetensors.tmp");
        assert!(half.exists());
        drop(packing);
        assert!(!half.exists());

        // A shard that is not what was written is not built upon.
        fs::write(dir.path().join("rows_00000.safetensors"), b"rubbish").unwrap();
        let again = Packing::<u16>::begin(dir.path(), "key", &tokenizer, &config).unwrap();
        assert!(again.shards.is_empty());
    }
}

//! Packing under way: a packer, and the shards that its rows are written to.

use super::Packer;
use super::encoding::{Document, Mark, encode_texts};
use super::resume;
use super::shard_writer::{Label, ShardWriter};
use super::to_rows::PackConfig;
use super::tokens::Token;
use crate::{
    Error, MANIFEST, MANIFEST_FORMAT, Manifest, ManifestShard, PackSettings, Progress, Result,
    Texts, Tokenizer,
};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of rows that are hashed and written together.
const BLOCK_BYTES: usize = 1 << 18;

/// Packs with tokens of one type, once everything is found to be in order.
pub(super) fn pack_as<T: Token>(
    mut texts: Texts,
    tokenizer: &Tokenizer,
    config: &PackConfig,
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
        config: &'a PackConfig,
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
    use crate::{BpeSettings, PackRule, Position, Remainder, Shard, TokenType};
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
        config: &PackConfig,
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
            let config = PackConfig { settings, shard_bytes: 3_000, ..PackConfig::default() };
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
            let config_wide = PackConfig { shard_bytes: 2 * config.shard_bytes, ..config.clone() };
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
        let config = PackConfig { settings, shard_bytes: 1_000, ..PackConfig::default() };
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

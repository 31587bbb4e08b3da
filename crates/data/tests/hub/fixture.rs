//! A dataset of a few parquet files on the stand-in, and a fetcher with little patience for it.

use crate::common::write_parquet;
use crate::hub::server::{Hub, REPO};
use arrow::array::StringArray;
use farthing_data::{Error, FetchSettings, Fetcher, Files, HubSettings, Silent};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const TOKEN: &str = "hf_secret";

/// Text that does not compress to nothing.
pub(crate) fn parquet(seed: u64) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let texts: Vec<String> = (0..300)
        .map(|_| {
            let word = |x: &mut u64| {
                *x ^= *x << 13;
                *x ^= *x >> 7;
                *x ^= *x << 17;
                format!("{x:016x} ")
            };
            (0..40).map(|_| word(&mut x)).collect()
        })
        .collect();
    write_parquet(&path, vec![("text", Arc::new(StringArray::from(texts)))], 100);
    std::fs::read(path).unwrap()
}

pub(crate) fn shard(i: u64) -> String {
    format!("shard_{i:05}.parquet")
}

/// A dataset of `n` shards and a note.
pub(crate) fn dataset(n: u64) -> Vec<(String, Vec<u8>)> {
    let shards = (0..n).map(|i| (shard(i), parquet(i)));
    shards.chain([("README.md".to_owned(), b"a note".to_vec())]).collect()
}

pub(crate) struct Place {
    pub(crate) hub: Hub,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) fetcher: Fetcher,
    pub(crate) settings: FetchSettings,
}

impl Place {
    /// Five shards, the last one held out.
    pub(crate) fn new() -> Self {
        Self::with(dataset(5))
    }

    pub(crate) fn with(files: Vec<(String, Vec<u8>)>) -> Self {
        let hub = Hub::start(files);
        let dir = tempfile::tempdir().unwrap();
        let fetcher = Fetcher::new(patience(&hub, dir.path()));
        let source = format!("hf://datasets/{REPO}");
        let settings = FetchSettings { source, ..FetchSettings::default() };
        Self { hub, dir, fetcher, settings }
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Another fetcher on the same cache, which knows nothing.
    pub(crate) fn stranger(&self) -> Fetcher {
        Fetcher::new(self.fetcher.settings.clone())
    }

    pub(crate) fn fetch(&mut self) -> Result<Files, Error> {
        let out = self.out();
        self.fetcher.fetch(&self.settings, self.dir.path(), &out, &mut Silent)
    }

    /// The cache folder of the dataset.
    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache/datasets--org--name")
    }

    /// Whole files in the cache; what is under way does not count.
    pub(crate) fn blobs(&self) -> Vec<String> {
        names(&self.cache().join("blobs")).into_iter().filter(|n| !n.contains('.')).collect()
    }

    /// Checks that `out` holds exactly these bytes in this order.
    pub(crate) fn holds(&self, files: &Files, train: &[Vec<u8>], val: &[Vec<u8>]) {
        let read = |paths: Vec<PathBuf>| -> Vec<Vec<u8>> {
            paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
        };
        assert!(read(files.train_paths(self.out())) == train, "{files:?}");
        assert!(read(files.val_paths(self.out())) == val, "{files:?}");
        assert_eq!(Files::load(self.out()).unwrap(), *files);
        for entry in files.train.iter().chain(&files.val) {
            let digest = farthing_data::digest_file(self.out().join(&entry.file)).unwrap();
            assert_eq!(digest, entry.blake3);
        }
    }

    /// Nothing that looks whole is there.
    pub(crate) fn holds_nothing(&self) {
        assert!(self.blobs().is_empty(), "{:?}", self.blobs());
        let out = names(&self.out());
        assert!(out.is_empty(), "{out:?}");
    }
}

/// Settings for tests: the same rules with shorter waits.
pub(crate) fn patience(hub: &Hub, dir: &Path) -> HubSettings {
    let mut settings = HubSettings::new(&hub.endpoint, dir.join("cache"), dir.join("downloads"));
    settings.token = Some(TOKEN.into());
    settings.stall_timeout = Duration::from_millis(400);
    settings.first_wait = Duration::from_millis(5);
    settings.longest_wait = Duration::from_secs(2);
    settings.attempts = 4;
    settings
}

/// The names in a folder, sorted; none where there is no folder.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return vec![] };
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

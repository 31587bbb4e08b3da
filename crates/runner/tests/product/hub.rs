//! A pipeline whose text is a dataset of the Hub, on a stand-in for it: what is downloaded when, what the lock file holds still,
//! and what happens without a network.

use std::fs;

use farthing_data::world::WorldSettings;
use farthing_data::{FetchSettings, Files, Silent};

use crate::harness::{Output, Place};
use crate::server::{Act, Hub};
use crate::stderr::read_to_line;

const FAR: &str = "\
[pipeline]
name   = \"nano\"
format = 1

[stage.fetch]
uses   = \"fetch-parquet\"
source = \"hf://datasets/org/name\"
exec   = { connections = 2 }

[stage.tokenizer]
uses       = \"train-bpe\"
inputs     = { text = \"fetch.train\" }
vocab_size = 300
";

/// A pipeline, and the Hub it reads.
struct Far {
    place: Place,
    hub: Hub,
}

fn shard(i: usize) -> String {
    format!("shard_{i:05}.parquet")
}

/// Three files of the embedded world of this seed.
fn shards(seed: u64) -> Vec<(String, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let world =
        WorldSettings { train_shards: 2, documents_per_shard: 100, val_documents: 20, seed };
    let source = "embedded://world".into();
    let settings = FetchSettings { source, world, ..FetchSettings::default() };
    let files: Files =
        farthing_data::fetch(&settings, dir.path(), dir.path(), &mut Silent).unwrap();
    let all = files.train.iter().chain(&files.val).enumerate();
    all.map(|(i, file)| (shard(i), fs::read(dir.path().join(&file.file)).unwrap())).collect()
}

impl Far {
    fn new() -> Self {
        let far = Self { place: Place::new(), hub: Hub::start(shards(1)) };
        far.place.file(FAR);
        far
    }

    fn spawn(&self, args: &[&str], more: &[(&str, &str)]) -> std::process::Child {
        let (home, caches) = (self.place.path("hf"), self.place.path("caches"));
        let mut vars = vec![
            ("HF_ENDPOINT", self.hub.endpoint.as_str()),
            ("HF_HOME", home.to_str().unwrap()),
            ("XDG_CACHE_HOME", caches.to_str().unwrap()),
        ];
        vars.extend(more);
        let all: Vec<&str> = ["p.toml"].iter().chain(args).copied().collect();
        self.place.spawn_with(&all, &vars)
    }

    /// Runs the pipeline; what was asked for before is forgotten.
    fn go(&self, args: &[&str], more: &[(&str, &str)]) -> Output {
        self.hub.heal();
        self.place.output(self.spawn(args, more))
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.place.path("p.lock")).unwrap()
    }

    fn remove(&self, name: &str) {
        fs::remove_dir_all(self.place.path(name)).unwrap();
    }

    /// Checks that the stage's outputs are these files.
    fn holds(&self, files: &[(String, Vec<u8>)]) {
        let entry = self.place.entry("fetch");
        for (i, (name, bytes)) in files.iter().enumerate() {
            let port = if i + 1 < files.len() { "train" } else { "val" };
            let path = entry.join(port).join(format!("{i:05}-{name}"));
            assert!(fs::read(&path).unwrap() == *bytes, "{}", path.display());
        }
    }
}

#[test]
fn a_dataset_is_pinned_and_fetched_once() {
    let far = Far::new();
    let plan = far.go(&["--plan"], &[]);
    assert!(plan.stdout.contains("its source is not pinned yet"), "{}", plan.screen());
    assert!(plan.stdout.contains("the first run asks what it holds and pins it in p.lock"));
    assert_eq!(far.hub.log(), [], "a plan needs no network");
    assert!(!far.place.path("p.lock").exists());

    let first = far.go(&[], &[]);
    assert_eq!(first.ran(), ["fetch", "tokenizer"]);
    let old = shards(1);
    far.holds(&old);
    let commit = far.lock().lines().find(|l| l.starts_with("commit")).unwrap().to_owned();
    let pinned = format!(
        "  fetch: hf://datasets/org/name at {}: 3 files, pinned in p.lock",
        &commit[10..18]
    );
    assert!(first.stderr.contains(&pinned), "{}", first.stderr);
    for i in 0..3 {
        assert!(first.stderr.contains(&format!("  fetch: {}: ", shard(i))), "{}", first.stderr);
    }
    let log = far.place.last_run().join("stages/fetch/log.txt");
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("pinned in p.lock") && log.contains("2 files to train on"), "{log}");

    // Again: nobody is asked, also where the dataset has moved on.
    let newest = far.hub.commit(shards(2));
    let lock = far.lock();
    let again = far.go(&[], &[]);
    assert!(again.ran().is_empty());
    assert_eq!(far.hub.log(), []);
    let plan = far.go(&["--plan"], &[]);
    assert!(plan.stdout.contains("3 files, "), "{}", plan.screen());
    assert!(plan.stdout.contains("; all of them in the cache"), "{}", plan.screen());

    // Without the store the files come from Hugging Face's cache, offline too.
    far.remove("store");
    let offline = [("HF_HUB_OFFLINE", "1")];
    assert_eq!(far.go(&[], &offline).ran(), ["fetch", "tokenizer"]);
    assert_eq!(far.hub.log(), []);
    far.holds(&old);

    // Without either they are fetched again, as of the pinned commit.
    far.remove("store");
    far.remove("hf");
    assert_eq!(far.go(&[], &[]).ran(), ["fetch", "tokenizer"]);
    let asked = far.hub.log();
    assert!(!asked.is_empty() && asked.iter().all(|r| !r.path.contains(&newest)), "{asked:?}");
    assert!(asked.iter().all(|r| !r.path.starts_with("/api/")), "nothing is resolved again");
    far.holds(&old);
    assert_eq!(far.lock(), lock, "the lock file is written once");

    // Deleting the lock file is how a pipeline moves on.
    fs::remove_file(far.place.path("p.lock")).unwrap();
    let moved = far.go(&[], &[]);
    assert_eq!(moved.ran(), ["fetch", "tokenizer"]);
    assert!(far.lock().contains(&newest));
    // And where nothing moved, nothing runs.
    fs::remove_file(far.place.path("p.lock")).unwrap();
    assert!(far.go(&[], &[]).ran().is_empty());
}

#[test]
fn without_a_network_the_error_says_what_is_missing() {
    let far = Far::new();
    let offline = [("HF_HUB_OFFLINE", "1")];
    let refused = |what: &str| {
        let output = far.go(&[], &offline);
        assert_eq!(output.code, Some(2), "{}", output.screen());
        let fault = output.fault();
        assert!(
            fault.contains(what) && fault.contains("hint: run once where there is a network"),
            "{fault}"
        );
        assert_eq!(far.hub.log(), []);
    };
    refused("what `hf://datasets/org/name` holds has never been asked, and HF_HUB_OFFLINE is set");
    far.go(&["--until", "fetch"], &[]);
    far.remove("store");
    far.remove("hf");
    refused(
        "3 of 3 files of `hf://datasets/org/name` are not in the cache, and HF_HUB_OFFLINE is set",
    );

    // The lock file is checked before anything runs.
    fs::write(far.place.path("p.lock"), far.lock().replace("sha256:", "sha255:")).unwrap();
    let output = far.go(&[], &[]);
    assert_eq!(output.code, Some(2), "{}", output.screen());
    assert!(output.fault().contains("is no digest"), "{}", output.fault());
    assert_eq!(far.hub.log(), []);
}

#[test]
fn a_server_that_refuses_fails_the_stage() {
    let far = Far::new();
    far.hub.always("/revision/", Act::Status(401, vec![("x-error-code", "RepoNotFound".into())]));
    let output = far.place.output(far.spawn(&[], &[]));
    assert_eq!(output.code, Some(1), "{}", output.screen());
    let fault = output.fault();
    assert!(fault.contains("stage `fetch` failed") && fault.contains("HF_TOKEN"), "{fault}");
    assert!(!far.place.path("p.lock").exists(), "what is not known is not pinned");
    assert_eq!(far.go(&[], &[]).ran(), ["fetch", "tokenizer"]);
}

#[test]
fn files_of_the_web_are_pinned_by_what_they_are() {
    let far = Far::new();
    let source = format!("{}/web/shard_{{00000..00002}}.parquet", far.hub.cdn);
    far.place.edit("hf://datasets/org/name", &source);
    assert_eq!(far.go(&["--until", "fetch"], &[]).ran(), ["fetch"]);
    far.holds(&shards(1));
    assert_eq!(far.hub.log().len(), 3, "each came once");
    far.hub.commit(shards(2));
    assert!(far.go(&["--until", "fetch"], &[]).ran().is_empty());
    assert_eq!(far.hub.log(), []);
    far.remove("store");
    far.remove("caches");
    let output = far.go(&["--until", "fetch"], &[]);
    assert_eq!(output.code, Some(1), "{}", output.screen());
    let fault = output.fault();
    assert!(fault.contains("is not what it should be: found "), "{fault}");
    assert!(fault.contains("remove its pin from the lock file"), "{fault}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_in_the_middle_of_a_file_leaves_what_a_rerun_goes_on_from() {
    let far = Far::new();
    far.hub.script("file=shard_00001", [Act::Drip(2_000)]);
    let mut child = far.spawn(&["--until", "fetch"], &[]);
    // Every five seconds there is a line for the total and one for each file under way.
    read_to_line(&mut child, "  fetch: shard_00001.parquet: 2.");
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let stopped = far.place.output(child);
    assert_eq!(stopped.code, Some(130), "{}", stopped.screen());
    assert!(stopped.stderr.contains("stopped in stage `fetch`"), "{}", stopped.screen());
    assert_eq!(far.go(&["--until", "fetch"], &[]).ran(), ["fetch"]);
    let ranges: Vec<_> = far.hub.downloads(&shard(1)).into_iter().map(|r| r.range).collect();
    let [Some(range)] = &ranges[..] else { panic!("{ranges:?}") };
    let from = range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-'));
    assert!(from.unwrap().parse::<usize>().unwrap() > 2_000, "{range}");
    far.holds(&shards(1));
}

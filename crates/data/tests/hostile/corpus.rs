//! The corpus of the fuzz targets, each file as it is and with small changes: what the fuzzer once found stays found.

use crate::fuzz;
use crate::memory::peak;
use farthing_base::random::Congruential;
use std::fs;
use std::path::Path;

fn run(target: &str, check: impl Fn(&[u8], &Path)) {
    let dir = tempfile::tempdir().unwrap();
    fuzz::manifest_folder(dir.path());
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(&corpus).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 10, "{} files in {}", paths.len(), corpus.display());
    let mut state = Congruential(1);
    let mut random = |below: usize| (state.next_u64() >> 33) as usize % below.max(1);
    for path in paths {
        let good = fs::read(&path).unwrap();
        for change in 0..40 {
            let mut input = good.clone();
            if change > 0 && !input.is_empty() {
                let at = random(input.len());
                match random(4) {
                    0 => input[at] ^= 1 << random(8),
                    1 => drop(input.remove(at)),
                    2 => input.insert(at, b"0919[]{}\",:-"[random(12)]),
                    _ => input.truncate(at),
                }
            }
            let ((), bytes) = peak(|| check(&input, dir.path()));
            assert!(bytes < 4 << 20, "{} took {bytes} bytes", path.display());
        }
    }
}

#[test]
fn shard_headers_of_the_corpus() {
    run("shard_header", fuzz::shard_header);
}

#[test]
fn manifests_of_the_corpus() {
    run("manifest", fuzz::manifest);
}

/// The corpus would test nothing if its good files were no longer good.
#[test]
fn the_good_ones_open() {
    let dir = tempfile::tempdir().unwrap();
    fuzz::manifest_folder(dir.path());
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    fuzz::manifest(&fs::read(corpus.join("manifest/good")).unwrap(), dir.path());
    assert_eq!(farthing_data::Rows::open(dir.path()).unwrap().len(), 6);
    for name in ["good_u16", "good_u32", "whole_file"] {
        fuzz::shard_header(&fs::read(corpus.join("shard_header").join(name)).unwrap(), dir.path());
        let shard = farthing_data::Shard::open(dir.path().join("fuzzed.safetensors")).unwrap();
        assert_eq!(shard.rows(), 3, "{name}");
    }
}

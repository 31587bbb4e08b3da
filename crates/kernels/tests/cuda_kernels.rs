//! Every kernel that ships is executed: the conformance bodies launch each entry of each committed PTX file on the emulator, where every
//! access is checked, and compare what it computes with the f64 reference.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use farthing_kernels::conformance::BODIES;
use farthing_kernels::cuda::{Cuda, emulated::Emulator};

/// What no conformance body reaches, and the test that executes it.
const ELSEWHERE: &[(&str, &str)] =
    &[("product_f32", "cuda_product.rs: no operation multiplies f32")];

/// The kernels of every file in `ptx/`, each with its file.
fn committed() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx");
    let mut kernels = Vec::new();
    for target in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if !target.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().path()) {
            let text = std::fs::read_to_string(&file).unwrap();
            let entries = text.lines().filter_map(|line| {
                let (_, rest) = line.split_once(".entry ")?;
                Some(rest.trim_end_matches(['(', ')', ' ', '{']).to_owned())
            });
            let file = file.strip_prefix(&target).unwrap().display().to_string();
            kernels.extend(entries.map(|name| (name, file.clone())));
        }
    }
    kernels.sort();
    kernels
}

#[test]
fn every_committed_kernel_is_launched_by_a_conformance_body() {
    let emulator = Arc::new(Emulator::new());
    let cuda = Cuda::on_emulator(emulator.clone()).unwrap();
    let mut launched = BTreeSet::new();
    for (_, body) in BODIES {
        // What a body finds wrong is for `conformance.rs`, which runs it too.
        let _ = body(&cuda);
        launched.extend(emulator.take_launches().into_iter().map(|(name, _)| name));
    }
    let elsewhere = |name: &str| ELSEWHERE.iter().any(|(kernel, _)| *kernel == name);
    let committed = committed();
    let never: Vec<_> = committed
        .iter()
        .filter(|(name, _)| !launched.contains(&**name) && !elsewhere(name))
        .collect();
    assert!(never.is_empty(), "executed by no test: {never:?}");
    assert!(committed.len() >= 68, "{} kernels", committed.len());
    for (kernel, _) in ELSEWHERE {
        assert!(!launched.contains(kernel), "{kernel} is reached now: take it from ELSEWHERE");
    }
}

#[test]
fn a_name_is_one_kernel() {
    let names = committed();
    for pair in names.windows(2) {
        assert_ne!(pair[0].0, pair[1].0, "in {} and {}", pair[0].1, pair[1].1);
    }
}

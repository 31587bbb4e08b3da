//! Lion through the whole product: the pipeline beside it runs, its state is in the checkpoint, a wrong key is refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot get its data fails")]

use std::path::Path;

use farthing_kernels::{Device, DeviceKind, ParamId, Params, SlabSpec, open};
use farthing_optim::{Hyper, OptimizerKind};
use farthing_runner::App;
use lion_example::{Lion, LionKeys};

const PIPELINE: &str = include_str!("../lion.toml");

/// Runs the pipeline in a folder, its model and its data made small.
fn run(dir: &Path, more: &[&str]) -> u8 {
    let file = dir.join("lion.toml");
    std::fs::write(&file, PIPELINE).unwrap();
    let store = dir.join("store");
    let runs = dir.join("runs");
    let mut args = vec!["runner".to_owned(), file.display().to_string()];
    args.extend(["--store".into(), store.display().to_string()]);
    args.extend(["--runs".into(), runs.display().to_string()]);
    let small = [
        "fetch.world={ train_shards = 1, documents_per_shard = 300, val_documents = 40 }",
        "tokenizer.vocab_size=400",
        "pack.row_tokens=64",
        "train.model.depth=2",
        "train.schedule.batch_tokens=512",
        "train.schedule.steps=60",
        "train.evaluate={ every_steps = 10, tokens = 2_048 }",
    ];
    for set in small.iter().chain(more) {
        args.extend(["--set".into(), (*set).into()]);
    }
    App::standard().optimizer::<Lion>("lion").run(args)
}

/// Every file under a folder.
fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// The losses of the only run in a folder.
fn losses(dir: &Path) -> Vec<f64> {
    let mut found = vec![];
    files(&dir.join("runs"), &mut found);
    let metrics = found.iter().find(|f| f.ends_with("stages/train/metrics.jsonl")).unwrap();
    std::fs::read_to_string(metrics)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter_map(|line| line["loss"].as_f64())
        .collect()
}

#[test]
fn it_knows_nothing_of_ranks_and_runs_on_several() {
    let on = |ranks: usize| {
        let dir = tempfile::tempdir().unwrap();
        let resources = format!("train.resources={{ ranks = {ranks} }}");
        // Six rows, so that two and three ranks can share them.
        let more = ["train.schedule.batch_tokens=384", "train.schedule.steps=10", &resources];
        assert_eq!(run(dir.path(), &more), 0, "{ranks} ranks");
        losses(dir.path())
    };
    let one = on(1);
    for ranks in [2, 3] {
        let many = on(ranks);
        assert_eq!(many.len(), one.len());
        let apart = one.iter().zip(&many).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-3, "{ranks} ranks: {apart}: {one:?} and {many:?}");
    }
}

#[test]
fn the_pipeline_trains_with_it() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(dir.path(), &[]), 0);
    let losses = losses(dir.path());
    assert!(losses.len() >= 60, "{losses:?}");
    assert!(losses[losses.len() - 1] < losses[0] - 0.3, "{losses:?}");
}

#[test]
fn a_key_that_it_lacks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(dir.path(), &["train.optim.matrices.eps=1e-8"]), 2);
}

/// Against the paper's two lines in f64, on every device that is here.
#[test]
fn its_steps_are_the_papers() {
    let (p0, n) = ([0.5, -1.0, 0.25, 2.0, -0.125, 0.0], 6);
    let devices = [DeviceKind::Reference, DeviceKind::Cpu];
    for dev in devices.map(|kind| open(kind, 1).unwrap()) {
        let dev: &dyn Device = &*dev;
        let spec = SlabSpec {
            group: "g".into(),
            params: vec![ParamId(0)],
            names: vec!["w".into()],
            shape: [2, 3].into(),
        };
        let keys = LionKeys { betas: [0.9, 0.99] };
        let mut lion = Lion::build(keys, dev, &spec).unwrap();
        let mut params = Params::new(dev, vec![spec]).unwrap();
        dev.write_f64(params.slab(0).weight, &p0).unwrap();
        let (mut p, mut m) = (p0, [0.0; 6]);
        for step in 1..=5 {
            let g: [f64; 6] =
                std::array::from_fn(|i| ((i as u64 * 7 + step * 3) % 11) as f64 - 5.5);
            let mut slab = params.slab(0);
            dev.write_f64(slab.grad.reborrow(), &g).unwrap();
            let hyper = Hyper { step, lr: 0.01, weight_decay: 0.1, momentum: 0.0 };
            lion.step(dev, &mut slab, &hyper).unwrap();
            for i in 0..n {
                let u: f64 = 0.9 * m[i] + 0.1 * g[i];
                p[i] -= 0.01 * (u.signum() + 0.1 * p[i]);
                m[i] = 0.99 * m[i] + 0.01 * g[i];
            }
        }
        let got = dev.read_f64(params.slab(0).weight.view()).unwrap();
        for (got, want) in got.iter().zip(p) {
            assert!((got - want).abs() < 1e-6, "{}: {got} against {want}", dev.name());
        }
    }
}

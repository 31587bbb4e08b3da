//! A small training from the outside: it learns, goes on where it was cut off, and says what is wrong.

use std::num::NonZeroUsize;

use farthing_data::Batch;
use farthing_kernels::cpu::Cpu;
use farthing_kernels::traced::Traced;
use farthing_model::{ModelConfig, Preset};
use farthing_optim::Registry;
use farthing_train::{Batches, Checkpoints, Error, Recipe, Result, Setup, Trainer, TrainerState};

const VOCAB: usize = 64;
const TOKENS: usize = 16;

fn setup(registry: &Registry) -> Setup {
    let (aspect_ratio, head_dim) = (Some(16), Some(16));
    let model =
        ModelConfig { aspect_ratio, head_dim, ..ModelConfig::new(Preset::Nanochat202607, 2) };
    let mut recipe = Recipe::new(model);
    recipe.schedule.batch_tokens = Some(4 * TOKENS as u64);
    recipe.schedule.steps = Some(12);
    Setup::new(&recipe, registry, VOCAB, TOKENS).unwrap()
}

/// Rows that count upwards, each from another token; the same ones for the same step.
struct Counting {
    batch: Batch,
    next: i32,
}

impl Counting {
    fn from(step: u64, rows: usize) -> Self {
        Self { batch: Batch::zeroed(rows, TOKENS).unwrap().with_order(), next: 4 * step as i32 }
    }
}

impl Batches for Counting {
    fn next_batch(&mut self) -> Option<Result<&Batch>> {
        let row = |first: i32| (0..TOKENS as i32).map(move |t| (7 * first + t) % VOCAB as i32);
        let rows = self.next..self.next + self.batch.rows() as i32;
        self.next = rows.end;
        let inputs: Vec<i32> = rows.flat_map(row).collect();
        let targets: Vec<i32> = inputs.iter().map(|id| (id + 1) % VOCAB as i32).collect();
        self.batch.fill(&inputs, &targets).unwrap();
        Some(Ok(&self.batch))
    }
}

/// The weights' file after `steps` steps, cut off and resumed after each of `cuts`.
fn trained(steps: u64, cuts: &[u64]) -> Vec<u8> {
    let (registry, dir) = (Registry::standard(), tempfile::tempdir().unwrap());
    let (cpu, checkpoints) =
        (Cpu::new(2).unwrap(), Checkpoints::new(dir.path(), NonZeroUsize::MIN));
    let mut trainer = Trainer::new(&cpu, setup(&registry), &registry, 2).unwrap();
    trainer.initialize(5).unwrap();
    let mut batches = Counting::from(0, 2);
    let mut losses = Vec::new();
    while trainer.progress().step < steps {
        losses.push(trainer.step(&mut batches).unwrap().loss.unwrap());
        if cuts.contains(&trainer.progress().step) {
            trainer.save(&checkpoints).unwrap();
            trainer = Trainer::new(&cpu, setup(&registry), &registry, 2).unwrap();
            assert!(trainer.restore(&checkpoints, |e| panic!("{e}")).unwrap());
            batches = Counting::from(trainer.progress().step, 2);
        }
    }
    assert!(losses.first() > losses.last(), "it learns nothing: {losses:?}");
    let file = dir.path().join("weights.safetensors");
    trainer.save_weights(&file).unwrap();
    std::fs::read(file).unwrap()
}

#[test]
fn training_that_was_cut_off_is_bit_equal_to_training_that_was_not() {
    let whole = trained(8, &[]);
    assert!(whole == trained(8, &[3]) && whole == trained(8, &[1, 2, 7]));
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before_it() {
    let (registry, dir) = (Registry::standard(), tempfile::tempdir().unwrap());
    let cpu = Cpu::new(1).unwrap();
    let checkpoints = Checkpoints::new(dir.path(), NonZeroUsize::new(2).unwrap());
    let mut trainer = Trainer::new(&cpu, setup(&registry), &registry, 4).unwrap();
    assert!(!trainer.restore(&checkpoints, |e| panic!("{e}")).unwrap(), "there is none yet");
    trainer.initialize(5).unwrap();
    let mut batches = Counting::from(0, 4);
    for _ in 0..3 {
        trainer.step(&mut batches).unwrap();
        trainer.save(&checkpoints).unwrap();
    }
    assert_eq!(checkpoints.newest_before(2).unwrap(), None, "two are kept, of steps 2 and 3");
    let newest = checkpoints.newest_before(4).unwrap().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let mut said = Vec::new();
    assert!(trainer.restore(&checkpoints, |e| said.push(e.to_string())).unwrap());
    assert_eq!((trainer.progress().step, said.len()), (2, 1));
    assert_eq!(
        trainer.progress().micro_batch_rows,
        Some(4),
        "what the checkpoint was written with"
    );
    assert!(!newest.exists() && newest.with_extension("refused").exists());
}

type Change = fn(&mut Setup);

#[test]
fn a_checkpoint_of_another_training_is_passed_over() {
    let (registry, dir) = (Registry::standard(), tempfile::tempdir().unwrap());
    let cpu = Cpu::new(1).unwrap();
    let checkpoints = Checkpoints::new(dir.path(), NonZeroUsize::MIN);
    let mut trainer = Trainer::new(&cpu, setup(&registry), &registry, 4).unwrap();
    trainer.initialize(5).unwrap();
    let fresh = weights(&mut trainer, dir.path());
    let mut batches = Counting::from(0, 4);
    for _ in 0..3 {
        trainer.step(&mut batches).unwrap();
    }
    trainer.save(&checkpoints).unwrap();
    let path = checkpoints.newest_before(99).unwrap().unwrap();
    let good = std::fs::read(&path).unwrap();
    let steps = setup(&registry).plan.steps;

    let changes: [(Change, &str); 4] = [
        (|s| s.plan.steps += 1, "it is of a training of "),
        (|s| s.plan.batch_tokens *= 2, "it is of a training of "),
        // Fewer steps than are done.
        (|s| s.plan.steps = 2, "this one is of 2 steps"),
        (|s| s.gpt = other_model(&s.gpt), "a model of another configuration"),
    ];
    for (change, what) in changes {
        std::fs::write(&path, &good).unwrap();
        let mut setup = setup(&registry);
        change(&mut setup);
        let mut other = Trainer::new(&cpu, setup, &registry, 4).unwrap();
        other.initialize(5).unwrap();
        let mut said = Vec::new();
        assert!(!other.restore(&checkpoints, |e| said.push(e.to_string())).unwrap());
        assert!(said.len() == 1 && said[0].contains(what), "{said:?}");
        assert!(!path.exists() && path.with_extension("refused").exists());
    }
    // One that says that it has done more than there is to do, and one whose state is no number: nothing of them stays.
    let text = |from: &str, to: &str| {
        let at = good.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let beyond = text("\\\"step\\\":3", "\\\"step\\\":9");
    assert!(steps > 9 && beyond != good);
    let state = {
        let mut bytes = good.clone();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes
    };
    for (bytes, what) in [(beyond, "its state is of step 9"), (state, " is NaN")] {
        std::fs::write(&path, sealed(bytes)).unwrap();
        let mut other = Trainer::new(&cpu, self::setup(&registry), &registry, 4).unwrap();
        other.initialize(5).unwrap();
        let mut said = Vec::new();
        assert!(!other.restore(&checkpoints, |e| said.push(e.to_string())).unwrap());
        assert!(said.len() == 1 && said[0].contains(what), "{said:?}");
        assert!(weights(&mut other, dir.path()) == fresh, "something of it stays");
    }
    std::fs::write(&path, &good).unwrap();
    assert!(trainer.restore(&checkpoints, |e| panic!("{e}")).unwrap());
}

fn weights(trainer: &mut Trainer<'_>, dir: &std::path::Path) -> Vec<u8> {
    let path = dir.join("weights");
    trainer.save_weights(&path).unwrap();
    std::fs::read(path).unwrap()
}

/// Of the same tensors, with another base of the rotary angles.
fn other_model(gpt: &farthing_model::Gpt) -> farthing_model::Gpt {
    let mut config = gpt.config().clone();
    config.rope_base *= 2.0;
    farthing_model::Gpt::new(config).unwrap()
}

/// The bytes of a checkpoint with the checksum that they have now.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let mark = b"\"farthing.blake3\":\"";
    let at = bytes.windows(mark.len()).position(|w| w == mark).unwrap() + mark.len();
    bytes[at..at + 64].fill(b'0');
    let digest = blake3::hash(&bytes).to_hex();
    bytes[at..at + 64].copy_from_slice(digest.as_bytes());
    bytes
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    struct Some2(Batch, usize);
    impl Batches for Some2 {
        fn next_batch(&mut self) -> Option<Result<&Batch>> {
            self.1 = self.1.checked_sub(1)?;
            Some(Ok(&self.0))
        }
    }
    let registry = Registry::standard();
    let cpu = Cpu::new(1).unwrap();
    let odd = Trainer::new(&cpu, setup(&registry), &registry, 3).map(drop).unwrap_err();
    assert_eq!(odd.to_string(), "micro-batches of 3 rows, but a step has 4 rows");
    let mut trainer = Trainer::new(&cpu, setup(&registry), &registry, 2).unwrap();
    trainer.initialize(1).unwrap();
    let ids = [3; 2 * TOKENS];
    let batch = Batch::new(TOKENS, ids, ids).unwrap().with_order();
    let short = trainer.step(&mut Some2(batch, 1)).unwrap_err();
    assert!(matches!(short, Error::BatchesEnded { step: 1, got: 1, wanted: 2 }), "{short}");
    let other =
        trainer.step(&mut Some2(Batch::zeroed(1, TOKENS).unwrap().with_order(), 2)).unwrap_err();
    assert_eq!(other.to_string(), "a micro-batch of 1 rows, expected 2");
    assert_eq!(trainer.progress().step, 0, "nothing was updated");
}

#[test]
fn checkpoints_from_before_micro_batches_were_recorded_are_read() {
    let numbers = r#"{"step":3,"tokens":96,"last_loss":4.5,"first_bpb":2.0,"last_bpb":1.5,"best":null,"seconds":1.0,"train_seconds":0.5}"#;
    let progress: TrainerState = serde_json::from_str(numbers).unwrap();
    assert_eq!((progress.step, progress.micro_batch_rows), (3, None));
}

#[test]
fn a_step_waits_once_uploads_once_a_micro_batch_and_allocates_nothing() {
    let registry = Registry::standard();
    let traced = Traced::new(Box::new(Cpu::new(1).unwrap()));
    let mut trainer = Trainer::new(&traced, setup(&registry), &registry, 1).unwrap();
    trainer.initialize(5).unwrap();
    let mut batches = Counting::from(0, 1);
    for _ in 0..3 {
        traced.clear();
        trainer.step(&mut batches).unwrap();
        let totals = traced.summary();
        let calls = |op| totals.iter().find(|total| total.op == op).map_or(0, |total| total.calls);
        assert_eq!((calls("read"), calls("alloc"), calls("synchronize")), (1, 0, 0), "{totals:?}");
        // Inputs, targets and their order go together, for each of four micro-batches.
        assert_eq!(calls("write"), 4);
    }
}

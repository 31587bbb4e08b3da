//! A training on several ranks: the same as on one but for rounding, the same bits for the same number, one checkpoint for any number.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::path::Path;

use farthing_base::tensors::{Dtype, TensorFile};
use farthing_comm::{Comm, Control, Threads};
use farthing_data::Batch;
use farthing_kernels::cpu::Cpu;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::reference::Reference;
use farthing_kernels::{Device, DeviceKind, Mut, Params, Ref, open};
use farthing_model::{ModelConfig, Preset, save_model};
use farthing_optim::Registry;
use farthing_train::{Batches, Checkpoints, Recipe, Result, Setup, Trainer};

use crate::golden;

const VOCAB: usize = 67;
const TOKENS: usize = 16;
const ROWS: usize = 12;

pub(crate) fn setup(registry: &Registry, preset: Preset) -> Setup {
    let (aspect_ratio, head_dim) = (Some(16), Some(16));
    let model = ModelConfig { aspect_ratio, head_dim, ..ModelConfig::new(preset, 3) };
    let mut recipe = Recipe::new(model);
    recipe.schedule.batch_tokens = Some((ROWS * TOKENS) as u64);
    recipe.schedule.steps = Some(12);
    Setup::new(&recipe, registry, VOCAB, TOKENS).unwrap()
}

/// Rows of a step, one after the other; row r of step s counts upwards by a rule of (s, r) alone.
pub(crate) struct Counting {
    batch: Batch,
    step: usize,
    /// The rank's rows of a step, and the next of them.
    own: std::ops::Range<usize>,
    next: usize,
}

impl Counting {
    pub(crate) fn new(trainer: &Trainer<'_>, comm: &dyn Comm) -> Self {
        let each = ROWS / comm.ranks();
        let own = comm.rank() * each..(comm.rank() + 1) * each;
        let batch = Batch::zeroed(trainer.micro_batch_rows(), TOKENS).unwrap().with_order();
        Self { batch, step: trainer.progress().step as usize, next: own.start, own }
    }
}

impl Batches for Counting {
    fn next_batch(&mut self) -> Option<Result<&Batch>> {
        if self.next == self.own.end {
            (self.step, self.next) = (self.step + 1, self.own.start);
        }
        let (rows, step) = (self.next..self.next + self.batch.rows(), self.step);
        self.next = rows.end;
        let row = move |r: usize| (0..TOKENS).map(move |t| ((5 * step + 7 * r + t) % VOCAB) as i32);
        let inputs: Vec<i32> = rows.flat_map(row).collect();
        let targets: Vec<i32> = inputs.iter().map(|id| (id + 1) % VOCAB as i32).collect();
        self.batch.fill(&inputs, &targets).unwrap();
        Some(Ok(&self.batch))
    }
}

/// Runs `body` on every rank, and returns what each returned.
pub(crate) fn on_ranks<T: Send>(ranks: usize, body: impl Fn(&dyn Comm) -> T + Sync) -> Vec<T> {
    let body = &body;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            Threads::new(ranks).into_iter().map(|comm| scope.spawn(move || body(&comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Ranks whose engine sends in turn with what the device does.
struct InTurn<'a>(&'a dyn Comm);

impl Control for InTurn<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }
    fn ranks(&self) -> usize {
        self.0.ranks()
    }
    fn gather(&self, own: &[u8]) -> farthing_comm::Result<Vec<Vec<u8>>> {
        self.0.gather(own)
    }
    fn broadcast(&self, bytes: &[u8]) -> farthing_comm::Result<Vec<u8>> {
        self.0.broadcast(bytes)
    }
    fn watch(&self, during: &'static str) -> farthing_comm::Result<()> {
        self.0.watch(during)
    }
}

impl Comm for InTurn<'_> {
    fn in_stream(&self) -> bool {
        true
    }
    fn reduce_scatter(
        &self,
        dev: &dyn Device,
        own: Mut<'_>,
        all: Ref<'_>,
        block: usize,
    ) -> farthing_comm::Result<()> {
        self.0.reduce_scatter(dev, own, all, block)
    }
    fn all_gather(
        &self,
        dev: &dyn Device,
        all: Mut<'_>,
        block: usize,
    ) -> farthing_comm::Result<()> {
        self.0.all_gather(dev, all, block)
    }
    fn all_reduce(&self, dev: &dyn Device, values: Mut<'_>) -> farthing_comm::Result<()> {
        self.0.all_reduce(dev, values)
    }
}

pub(crate) struct Run {
    pub(crate) losses: Vec<f64>,
    norms: Vec<f64>,
}

/// Steps up to `steps`, from the newest checkpoint of `dir` or from the start; then a checkpoint, and the weights beside it.
pub(crate) fn train(dev: &dyn Device, comm: &dyn Comm, dir: &Path, rows: usize, steps: u64) -> Run {
    let (registry, preset) = (Registry::standard(), Preset::Nanochat202607);
    let checkpoints = Checkpoints::new(dir, NonZeroUsize::MIN);
    let setup = setup(&registry, preset);
    let mut trainer = Trainer::on_ranks(dev, comm, setup, &registry, rows).unwrap();
    if !trainer.restore(&checkpoints, |e| panic!("{e}")).unwrap() {
        trainer.initialize(5).unwrap();
    }
    let mut batches = Counting::new(&trainer, comm);
    let mut run = Run { losses: vec![], norms: vec![] };
    while trainer.progress().step < steps {
        let step = trainer.step(&mut batches).unwrap();
        run.losses.push(step.loss.unwrap());
        run.norms.push(step.grad_norm.unwrap());
    }
    trainer.save(&checkpoints).unwrap();
    trainer.save_weights(&dir.join("weights.safetensors")).unwrap();
    run
}

fn on_cpus(ranks: usize, dir: &Path, rows: usize, steps: u64) -> Run {
    let body = |comm: &dyn Comm| train(&Cpu::new(1).unwrap(), comm, dir, rows, steps);
    let mut all = on_ranks(ranks, body);
    let first = all.remove(0);
    assert!(all.iter().all(|other| other.losses == first.losses && other.norms == first.norms));
    first
}

pub(crate) fn weights(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("weights.safetensors")).unwrap()
}

/// The only checkpoint of a folder.
fn checkpoint(dir: &Path) -> TensorFile {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("step-"))
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    TensorFile::open(&files.remove(0)).unwrap()
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn losses_are_those_of_one_rank_but_for_rounding() {
    let dir = || tempfile::tempdir().unwrap();
    let one = on_cpus(1, dir().path(), 1, 10);
    assert!(one.losses[9] < one.losses[0] - 0.02, "it learns nothing: {:?}", one.losses);
    for (ranks, rows) in [(2, 1), (2, 6), (3, 2), (4, 1), (6, 2), (12, 1)] {
        let many = on_cpus(ranks, dir().path(), rows, 10);
        let (losses, norms) = (apart(&one.losses, &many.losses), apart(&one.norms, &many.norms));
        assert!(losses < 1e-5 && norms < 1e-4, "{ranks} ranks: losses {losses}, norms {norms}");
    }
}

#[test]
fn in_f64_ranks_differ_by_nothing_but_rounding() {
    let run = |ranks: usize, rows: usize| {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = on_ranks(ranks, |comm| train(&Reference::new(), comm, dir.path(), rows, 4));
        runs.remove(0)
    };
    let one = run(1, 4);
    for (ranks, rows) in [(2, 3), (3, 4)] {
        let many = run(ranks, rows);
        let (losses, norms) = (apart(&one.losses, &many.losses), apart(&one.norms, &many.norms));
        assert!(losses < 1e-12 && norms < 1e-10, "{ranks} ranks: losses {losses}, norms {norms}");
    }
}

/// The steps that nanochat itself took, from the same weights, as `farthing-optim`'s golden tests hold one rank to them.
#[test]
fn thirty_steps_of_nanochat_on_one_two_and_four_ranks() {
    const CASE: &str = "july-30";
    let theirs =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../optim/tests/golden/july-30.safetensors");
    let theirs = TensorFile::open(&theirs).unwrap();
    assert_eq!(theirs.info("losses").unwrap().dtype, Dtype::F64);
    let theirs: Vec<f64> = theirs
        .bytes("losses")
        .unwrap()
        .as_chunks()
        .0
        .iter()
        .map(|x| f64::from_le_bytes(*x))
        .collect();
    let registry = Registry::standard();
    let setup = || {
        let mut recipe = Recipe::new(golden::model(CASE, 4, 32, 64));
        recipe.schedule.batch_tokens = Some(4 * golden::TOKENS as u64);
        recipe.schedule.steps = Some(30);
        Setup::new(&recipe, &registry, golden::VOCAB, golden::TOKENS).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first.safetensors");
    let (cpu, gpt) = (Cpu::new(2).unwrap(), setup().gpt);
    let mut params = Params::new(&cpu, gpt.single_group()).unwrap();
    golden::fill(CASE, golden::Style::Start, &gpt, &cpu, &mut params);
    save_model(&first, &gpt, &cpu, params.weights(), 0, &[], &BTreeMap::new()).unwrap();

    let run = |ranks: usize| {
        let mut runs = on_ranks(ranks, |comm| {
            let cpu = Cpu::new(1).unwrap();
            let mut trainer = Trainer::on_ranks(&cpu, comm, setup(), &registry, 1).unwrap();
            trainer.load_weights(&first).unwrap();
            let each = 4 / comm.ranks();
            let mut batches = Given {
                batch: Batch::zeroed(1, golden::TOKENS).unwrap().with_order(),
                rows: (0..30)
                    .flat_map(|step| {
                        let own = comm.rank() * each..(comm.rank() + 1) * each;
                        own.map(move |row| (step, row))
                    })
                    .collect(),
            };
            (0..30).map(|_| trainer.step(&mut batches).unwrap().loss.unwrap()).collect()
        });
        let losses: Vec<f64> = runs.remove(0);
        losses
    };
    let one = run(1);
    for (ranks, losses) in [(1, one.clone()), (2, run(2)), (4, run(4))] {
        let to_one = apart(&losses, &one);
        let relative = |(ours, theirs): (&f64, &f64)| (ours - theirs).abs() / theirs;
        let to_theirs = losses.iter().zip(&theirs).map(relative).fold(0.0, f64::max);
        assert!(to_one < 1e-5 && to_theirs < 1e-5, "{ranks} ranks: {to_one:e}, {to_theirs:e}");
    }
}

/// Rows of the golden case by (step, row).
struct Given {
    batch: Batch,
    rows: VecDeque<(u64, usize)>,
}

impl Batches for Given {
    fn next_batch(&mut self) -> Option<Result<&Batch>> {
        let (step, row) = self.rows.pop_front()?;
        let label = format!("july-30/step-{step}");
        let (inputs, targets) =
            golden::exact::batch(&label, 4, golden::TOKENS, golden::VOCAB, false);
        let range = row * golden::TOKENS..(row + 1) * golden::TOKENS;
        self.batch.fill(&inputs[range.clone()], &targets[range]).unwrap();
        Some(Ok(&self.batch))
    }
}

#[test]
fn the_same_number_of_ranks_gives_the_same_bits() {
    let dirs = [(); 4].map(|()| tempfile::tempdir().unwrap());
    for dir in &dirs[..2] {
        on_cpus(3, dir.path(), 2, 8);
    }
    // Cut off after the third step, and gone on with from the checkpoint.
    on_cpus(3, dirs[2].path(), 2, 3);
    on_cpus(3, dirs[2].path(), 2, 8);
    let first = weights(dirs[0].path());
    assert!(first == weights(dirs[1].path()), "another run");
    assert!(first == weights(dirs[2].path()), "a run that was cut off");
    // And whether arrays are sent beside what is computed or in turn.
    let dir = dirs[3].path();
    on_ranks(3, |comm| train(&Cpu::new(1).unwrap(), &InTurn(comm), dir, 2, 8));
    assert!(first == weights(dir), "sent in turn");
}

#[test]
fn a_checkpoint_is_the_same_whatever_the_number_of_ranks_and_any_other_goes_on_from_it() {
    let written = |ranks: usize| {
        let dir = tempfile::tempdir().unwrap();
        on_cpus(ranks, dir.path(), 1, 0);
        (weights(dir.path()), checkpoint(dir.path()))
    };
    let (weights_of_one, of_one) = written(1);
    assert!(of_one.names().iter().any(|name| name.ends_with("second")), "{:?}", of_one.names());
    for ranks in [2, 3, 4, 12] {
        let (weights, of_many) = written(ranks);
        assert!(weights == weights_of_one, "first weights on {ranks} ranks");
        assert_eq!(of_many.names(), of_one.names());
        for name in of_one.names() {
            assert_eq!(of_many.info(&name).unwrap(), of_one.info(&name).unwrap());
            assert!(of_many.bytes(&name).unwrap() == of_one.bytes(&name).unwrap(), "{name}");
        }
    }

    let whole = on_cpus(1, tempfile::tempdir().unwrap().path(), 1, 10);
    let dir = tempfile::tempdir().unwrap();
    let mut losses = Vec::new();
    for (ranks, until) in [(3, 2), (1, 4), (4, 5), (12, 7), (2, 10)] {
        losses.extend(on_cpus(ranks, dir.path(), 1, until).losses);
    }
    let apart = apart(&losses, &whole.losses);
    assert!(apart < 1e-5, "{apart}: {losses:?} and {:?}", whole.losses);
}

#[test]
fn state_that_is_restored_and_saved_again_is_the_same() {
    // After some steps, so that no state is zero.
    let dir = tempfile::tempdir().unwrap();
    on_cpus(2, dir.path(), 1, 3);
    let before = checkpoint(dir.path());
    on_cpus(4, dir.path(), 1, 3);
    let after = checkpoint(dir.path());
    let mut states = 0;
    for name in before.names() {
        let bytes = before.bytes(&name).unwrap();
        assert!(bytes == after.bytes(&name).unwrap(), "{name}");
        states += usize::from(name.starts_with("state.") && bytes.iter().any(|b| *b != 0));
    }
    assert!(states > 10, "{states} tensors of state");
}

#[test]
fn each_rank_holds_its_part() {
    let held = |ranks: usize| {
        let bytes = on_ranks(ranks, |comm| {
            let (cpu, registry) = (Cpu::new(1).unwrap(), Registry::standard());
            let setup = setup(&registry, Preset::Nanochat202607);
            Trainer::on_ranks(&cpu, comm, setup, &registry, 1).unwrap().bytes()
        });
        bytes.iter().map(|bytes| bytes.state).collect::<Vec<u64>>()
    };
    let all = held(1)[0];
    for ranks in [2, 3, 4] {
        let parts = held(ranks);
        let (least, most) = (*parts.iter().min().unwrap(), *parts.iter().max().unwrap());
        let sum: u64 = parts.iter().sum();
        // Slabs of one to three matrices cannot be even; what every rank has are vectors and gates.
        assert!(sum >= all && sum < all + all / 10, "{ranks} ranks: {parts:?} of {all}");
        assert!(most < all * 7 / 10 && least > 0, "{ranks} ranks: {parts:?} of {all}");
    }
}

#[test]
fn two_emulated_gpus_train_as_one() {
    let run = |ranks: usize| {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = on_ranks(ranks, |comm| {
            let dev = Cuda::emulated().unwrap();
            let (registry, preset) = (Registry::standard(), Preset::Nanochat202607);
            let mut recipe = Recipe::new(ModelConfig {
                aspect_ratio: Some(16),
                head_dim: Some(16),
                ..ModelConfig::new(preset, 2)
            });
            recipe.schedule.batch_tokens = Some(2 * TOKENS as u64);
            recipe.schedule.steps = Some(3);
            let setup = Setup::new(&recipe, &registry, VOCAB, TOKENS).unwrap();
            let mut trainer = Trainer::on_ranks(&dev, comm, setup, &registry, 1).unwrap();
            trainer.initialize(5).unwrap();
            let mut batches = Counting::new(&trainer, comm);
            batches.own = if ranks == 1 { 0..2 } else { comm.rank()..comm.rank() + 1 };
            batches.next = batches.own.start;
            let step = |_| trainer.step(&mut batches).unwrap().loss.unwrap();
            let losses: Vec<f64> = (0..3).map(step).collect();
            trainer.save_weights(&dir.path().join("weights.safetensors")).unwrap();
            losses
        });
        runs.remove(0)
    };
    let (one, two) = (run(1), run(2));
    assert!(apart(&one, &two) < 1e-4, "{one:?} and {two:?}");
}

#[test]
fn ranks_that_do_not_divide_a_step_are_refused() {
    let (registry, dev) = (Registry::standard(), open(DeviceKind::Cpu, 1).unwrap());
    let fault = |ranks: usize, rows: usize| {
        let comms = Threads::new(ranks);
        let setup = setup(&registry, Preset::Nanochat202607);
        let made = Trainer::on_ranks(&*dev, &comms[0], setup, &registry, rows);
        made.map(drop).unwrap_err().to_string()
    };
    assert_eq!(fault(5, 1), "a step of 12 rows on 5 ranks");
    assert_eq!(fault(3, 3), "micro-batches of 3 rows, but each rank's part of a step has 4 rows");
}

//! What one of N ranks holds of a model of six layers, counted by the allocator: master weights and optimizer state fall as 1/N. Run with `--nocapture` it prints the table.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "the figures are there to be read")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use farthing_kernels::Params;
use farthing_kernels::cpu::Cpu;
use farthing_model::{ModelConfig, Preset};
use farthing_optim::{Optimizers, Registry, shard};
use farthing_train::{Recipe, Setup};

/// Counts the bytes that this thread has and has not given back; tensors of host devices are among them.
struct Counting;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

fn count(change: impl FnOnce(usize) -> usize) {
    let _ = LIVE.try_with(|live| live.set(change(live.get())));
}

// SAFETY: passes every call on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|live| live.wrapping_add(layout.size()));
        // SAFETY: the caller's promises are System's conditions.
        unsafe { System.alloc(layout) }
    }
    // Pages that are zero are not there until they are written.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(|live| live.wrapping_add(layout.size()));
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        count(|live| live.wrapping_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of a rank.
#[derive(Clone, Copy, Debug)]
struct Held {
    masters: usize,
    /// Weights to compute with where they are apart from the masters, gradients, and the part of them that is summed here.
    others: usize,
    state: usize,
    scratch: usize,
}

fn held(rank: usize, ranks: usize) -> Held {
    let (registry, dev) = (Registry::standard(), Cpu::new(1).unwrap());
    let mut recipe = Recipe::new(ModelConfig::new(Preset::Nanochat202607, 6));
    recipe.schedule.batch_tokens = Some(4 * 512);
    recipe.schedule.steps = Some(1);
    let Setup { groups, slabs, plan, schedule, .. } =
        Setup::new(&recipe, &registry, 32_768, 512).unwrap();
    let blocks = shard(&registry, &groups, &slabs, rank, ranks).unwrap();
    let of_slabs = slabs.len();
    let before = LIVE.get();
    let params = Params::sharded(&dev, slabs, &blocks).unwrap();
    let with_params = LIVE.get();
    let mut optimizers =
        Optimizers::new(&registry, &dev, &groups, &plan, &schedule, &params).unwrap();
    let (params_bytes, optimizers_bytes) = (with_params - before, LIVE.get() - with_params);
    let bytes = |slab| params.own_master(slab).unwrap().shape().elements() * size_of::<f32>();
    let masters: usize = (0..of_slabs).map(bytes).sum();
    let state: usize = optimizers.state().iter().map(|state| state.tensor.bytes()).sum();
    // What tensors say that they have is what was allocated.
    assert!(params_bytes.abs_diff(params.bytes()) < params_bytes / 100);
    Held {
        masters,
        others: params_bytes - masters,
        state,
        scratch: optimizers_bytes.checked_sub(state).unwrap(),
    }
}

#[test]
fn masters_and_state_fall_as_one_of_n() {
    let mb = |bytes: usize| format!("{:>10.1}", bytes as f64 / 1e6);
    eprintln!(
        "MB of a rank of N: masters, state, scratch of optimizers, other weights and gradients"
    );
    let one = held(0, 1);
    for ranks in [1, 2, 4] {
        let all: Vec<Held> = (0..ranks).map(|rank| held(rank, ranks)).collect();
        for (rank, held) in all.iter().enumerate() {
            let Held { masters, others, state, scratch } = *held;
            eprintln!(
                "N {ranks} rank {rank} {}{}{}{}",
                mb(masters),
                mb(state),
                mb(scratch),
                mb(others)
            );
        }
        let sum = |of: fn(&Held) -> usize| all.iter().map(of).sum::<usize>();
        let most = |of: fn(&Held) -> usize| all.iter().map(of).max().unwrap();
        for (of, whole) in [
            ((|held| held.masters) as fn(&Held) -> usize, one.masters),
            (|held| held.state, one.state),
        ] {
            // What every rank has, vectors and gates, is little.
            assert!(sum(of) >= whole && sum(of) < whole + whole / 100, "{all:?}");
            // Six matrices are not even among four.
            assert!(most(of) < (whole / ranks) * 11 / 10, "{all:?}");
        }
    }
}

//! A training step, an evaluation and a generated token allocate nothing, on the host or on the device.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{BOTH, Model, Tokens, config, variants};
use farthing_kernels::reference::Reference;

/// Counts this thread's allocations; tensors of host devices are among them.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: passes every call on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are System's conditions.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(f: impl FnOnce()) -> usize {
    let before = COUNT.get();
    f();
    COUNT.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1u8; 10]))), 1);
}

#[test]
fn a_training_step_allocates_nothing() {
    for config in BOTH.map(|preset| config(preset, 20)).into_iter().chain(variants(20)) {
        let dev = Reference::new();
        let mut model = Model::new(&dev, config.clone(), 2, 20);
        let tokens = Tokens::new(2, 20, 1);
        let batch = tokens.batch();
        let count = allocations(|| {
            model.params.zero_grads(&dev).unwrap();
            model.train(&batch, 0.01);
            model.train(&batch, 0.01);
        });
        assert_eq!(count, 0, "{config:?}");
    }
}

#[test]
fn an_evaluation_allocates_nothing() {
    for preset in BOTH {
        let dev = Reference::new();
        let mut model = Model::new(&dev, config(preset, 20), 2, 20);
        let batch = Tokens::new(2, 20, 1).batch();
        let (mut losses, mut predictions) = (vec![0.0; 40], vec![0; 40]);
        let count = allocations(|| {
            let weights = model.params.weights();
            model.gpt.evaluate(&dev, weights, &mut model.ws, &batch, true).unwrap();
            model.ws.read_losses(&dev, &mut losses).unwrap();
            model.ws.read_predictions(&dev, &mut predictions).unwrap();
        });
        assert_eq!(count, 0, "{preset:?}");
    }
}

#[test]
fn a_generated_token_allocates_nothing() {
    for preset in BOTH {
        let dev = Reference::new();
        let model = Model::new(&dev, config(preset, 20), 1, 20);
        let mut generator = model.gpt.generator(&dev, model.params.weights(), 20).unwrap();
        let sampling = farthing_model::Sampling {
            temperature: 1.0,
            top_k: Some(5),
            top_p: Some(0.9),
            min_p: Some(0.01),
            repetition_penalty: Some(1.2),
            seed: 3,
        };
        let count = allocations(|| {
            generator.feed(&[1, 2, 3]).unwrap();
            let token = generator.draw(&sampling).unwrap();
            generator.feed(&[token]).unwrap();
        });
        assert_eq!(count, 0, "{preset:?}");
    }
}

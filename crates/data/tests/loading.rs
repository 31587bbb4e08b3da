//! Loading: which rows a step has, on any rank, after any resumption, prefetched or not.

use crate::common;

use common::packed;
use farthing_data::{Batch, BatchReader, Error, Order, Prefetch, Rows};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const T: usize = 64;

fn rows() -> (tempfile::TempDir, Rows) {
    let p = packed();
    let rows = Rows::open(p.dir.path().join("rows")).unwrap();
    (p.dir, rows)
}

fn parts(steps: std::ops::Range<u64>, batch: usize, micro: usize) -> Vec<farthing_data::Part> {
    steps.flat_map(|s| (0..batch).step_by(micro).map(move |j| (s, j..j + micro))).collect()
}

#[test]
fn prefetched_batches_are_those_that_are_read_at_any_step_and_depth() {
    let (_dir, rows) = rows();
    let batch = Batch::new(4, T, rows.vocab()).unwrap();
    // A step of 12 rows divides no epoch, so that batches cross its border.
    let order = Order::new(rows.len(), 12, 9).unwrap();
    assert_ne!(rows.len() % 12, 0);
    let reader = BatchReader::new(rows.clone(), order).unwrap();
    let border = rows.len() / 12;
    for (start, ahead) in [(0, 1), (border - 1, 2), (3 * border, 7)] {
        let parts = parts(start..start + 4, 12, 4);
        let mut ahead =
            Prefetch::new(reader.clone(), parts.clone().into_iter(), &batch, ahead).unwrap();
        let (mut direct, mut one) = (reader.clone(), batch.clone());
        for (step, range) in parts {
            direct.read(step, range, &mut one).unwrap();
            assert_eq!(ahead.next_batch().unwrap().unwrap(), &one);
        }
        assert!(ahead.next_batch().is_none());
        assert!(ahead.next_batch().is_none());
    }
    assert!(Prefetch::new(reader, std::iter::empty(), &batch, 0).is_err());
}

#[test]
fn an_error_comes_in_its_place_and_ends_the_batches() {
    let (_dir, rows) = rows();
    let order = Order::new(rows.len(), 8, 9).unwrap();
    let batch = Batch::new(4, T, rows.vocab()).unwrap();
    let reader = BatchReader::new(rows, order).unwrap();
    let parts = vec![(0, 0..4), (0, 4..8), (1, 6..10), (2, 0..4)];
    let mut batches = Prefetch::new(reader, parts.into_iter(), &batch, 2).unwrap();
    assert!(batches.next_batch().unwrap().is_ok());
    assert!(batches.next_batch().unwrap().is_ok());
    let error = batches.next_batch().unwrap().unwrap_err();
    assert!(matches!(error, Error::BatchShape { .. }), "{error}");
    assert!(batches.next_batch().is_none());
}

#[test]
fn prefetching_is_bounded_and_ends_when_it_is_dropped() {
    let (_dir, rows) = rows();
    let order = Order::new(rows.len(), 4, 9).unwrap();
    let batch = Batch::new(4, T, rows.vocab()).unwrap();
    let reader = BatchReader::new(rows, order).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let parts = (0..u64::MAX).map(move |step| {
        count.fetch_add(1, Ordering::SeqCst);
        (step, 0..4)
    });
    let mut batches = Prefetch::new(reader, parts, &batch, 3).unwrap();
    batches.next_batch().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    // The one in use, three ahead, and one part taken for which no buffer is free.
    let taken = asked.load(Ordering::SeqCst);
    assert!((1..=5).contains(&taken), "{taken} parts were taken");
    drop(batches);
    // The thread owned the parts, and with them the other handle.
    assert_eq!(Arc::strong_count(&asked), 1);
}

#[test]
fn a_panic_in_the_thread_is_not_the_end_of_the_data() {
    let (_dir, rows) = rows();
    let order = Order::new(rows.len(), 4, 9).unwrap();
    let batch = Batch::new(4, T, rows.vocab()).unwrap();
    let reader = BatchReader::new(rows, order).unwrap();
    let parts = (0..3u64).map(|step| {
        assert!(step < 1, "a fault in the parts");
        (step, 0..4)
    });
    let mut batches = Prefetch::new(reader, parts, &batch, 1).unwrap();
    assert!(batches.next_batch().unwrap().is_ok());
    let next =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batches.next_batch().is_none()));
    assert!(next.is_err());
}

#[test]
fn a_batch_without_sorting_is_otherwise_the_same() {
    let (_dir, rows) = rows();
    let order = Order::new(rows.len(), 4, 9).unwrap();
    let mut reader = BatchReader::new(rows.clone(), order).unwrap();
    let mut sorted = Batch::new(4, T, rows.vocab()).unwrap();
    let mut unsorted = Batch::unsorted(4, T, rows.vocab()).unwrap();
    reader.read(5, 0..4, &mut sorted).unwrap();
    reader.read(5, 0..4, &mut unsorted).unwrap();
    assert_eq!((sorted.inputs(), sorted.targets()), (unsorted.inputs(), unsorted.targets()));
    assert_eq!((sorted.sorted().len(), unsorted.sorted().len()), (4 * T, 0));
    let mut narrow = Batch::unsorted(4, T, 300).unwrap();
    let error = reader.read(5, 0..4, &mut narrow).unwrap_err();
    assert!(matches!(error, Error::TokenOutOfRange { vocab: 300, .. }), "{error}");
}

proptest! {
    /// Whatever the ranks, their number at each start, and where training stops and goes on, the rows seen are those of one
    /// process that never stopped: each row once per epoch.
    #[test]
    fn any_resumption_on_any_ranks_sees_the_same_rows(
        n in 1u64..400,
        batch in 1usize..40,
        legs in prop::collection::vec((1usize..9, 1u64..30), 1..6),
        seed in any::<u64>(),
    ) {
        let order = Order::new(n, batch, seed).unwrap();
        let mut seen = vec![];
        let mut step = 0;
        for (ranks, steps) in legs {
            let ranks = ranks.min(batch);
            // A fresh order, as after a restart: nothing but (n, batch, seed, step) is carried over.
            let order = Order::new(n, batch, seed).unwrap();
            for step in step..step + steps {
                for rank in 0..ranks {
                    seen.extend(order.share(rank, ranks).unwrap().map(|j| order.row(step, j)));
                }
            }
            step += steps;
        }
        let straight: Vec<u64> = (0..step).flat_map(|step| order.batch(step)).collect();
        prop_assert_eq!(&seen, &straight);
        for epoch in seen.chunks_exact(n as usize) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            prop_assert_eq!(epoch, (0..n).collect::<Vec<_>>());
        }
        for (at, j) in (0..step).flat_map(|s| (0..batch).map(move |j| (s, j))).step_by(7) {
            let position = at * batch as u64 + j as u64;
            prop_assert_eq!(order.epoch(at, j), position / n);
        }
    }
}

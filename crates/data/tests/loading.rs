//! Loading: which rows a step has, on any rank, after any resumption, prefetched or not.

use crate::common;

use common::packed;
use farthing_data::{Error, Order, Rows};
use proptest::prelude::*;

const T: usize = 64;

fn rows() -> (tempfile::TempDir, Rows) {
    let p = packed();
    let rows = Rows::open(p.dir.path().join("rows")).unwrap();
    (p.dir, rows)
}

#[test]
fn batches_are_the_rows_of_the_order_at_any_step_and_depth() {
    let (_dir, rows) = rows();
    // A step of 12 rows divides no epoch, so that batches cross its border.
    let order = Order::new(rows.len(), 12, 9).unwrap();
    assert_ne!(rows.len() % 12, 0);
    let border = rows.len() / 12;
    for (start, ahead, ranks) in [(0, 1, 1), (border - 1, 2, 3), (3 * border, 7, 2)] {
        for rank in 0..ranks {
            let loader = rows.batches(12).seed(9).from_step(start).until_step(start + 4);
            let mut batches = loader.rank(rank, ranks).micro_batches(2).ahead(ahead).into_iter();
            let share = order.share(rank, ranks).unwrap();
            for step in start..start + 4 {
                for first in share.clone().step_by(2) {
                    let batch = batches.next().unwrap().unwrap();
                    assert_eq!((batch.rows(), batch.tokens(), batch.order()), (2, T, None));
                    for b in 0..2 {
                        let row = rows.row(order.row(step, first + b)).unwrap().to_vec();
                        let row: Vec<i32> = row.into_iter().map(|id| id as i32).collect();
                        assert_eq!(batch.inputs()[b * T..][..T], row[..T]);
                        assert_eq!(batch.targets()[b * T..][..T], row[1..]);
                    }
                }
            }
            assert!(batches.next().is_none());
            assert!(batches.next().is_none());
        }
    }
}

#[test]
fn batches_may_be_kept_and_come_without_end() {
    let (_dir, rows) = rows();
    let epoch = rows.len() as usize / 4 + 1;
    let kept: Vec<_> =
        rows.batches(4).seed(9).into_iter().take(2 * epoch).map(Result::unwrap).collect();
    let order = Order::new(rows.len(), 4, 9).unwrap();
    for (step, batch) in kept.iter().enumerate() {
        let first = rows.row(order.row(step as u64, 0)).unwrap().to_vec();
        assert!(first.iter().zip(&batch.inputs()[..T]).all(|(a, b)| *a as i32 == *b));
    }
}

#[test]
fn an_error_comes_in_its_place_and_ends_the_batches() {
    let (_dir, rows) = rows();
    // The largest id that some step does not have, and a later one has.
    let highest = |batch: &farthing_data::Batch| *batch.inputs().iter().max().unwrap();
    let all = || rows.batches(2).seed(9).until_step(40).micro_batches(1);
    let ids: Vec<i32> = all().into_iter().map(|batch| highest(&batch.unwrap())).collect();
    let most = *ids.iter().max().unwrap();
    let first = ids.iter().position(|id| *id == most).unwrap();
    let mut batches = all().vocab(most as usize).into_iter();
    // The targets of a row may have a larger one than its inputs.
    let good = batches.by_ref().take_while(Result::is_ok).count();
    assert!(good <= first && batches.next().is_none(), "{good} of {first}");
    let error = all().vocab(most as usize).into_iter().find_map(Result::err).unwrap();
    assert!(matches!(error, Error::TokenOutOfRange { .. }), "{error}");
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

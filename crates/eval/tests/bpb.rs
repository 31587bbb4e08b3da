//! Bits per byte against sums done by hand.

use crate::common;

use common::Pairs;
use farthing_base::BatchError;
use farthing_base::Hint;
use farthing_data::{Progress, Silent};
use farthing_eval::{Batch, Error, IGNORE, Result, bits_per_byte};
use std::f64::consts::LN_2;

/// Bytes of tokens 0 to 3; token 3 is special.
const TOKEN_BYTES: [u32; 4] = [1, 2, 5, 0];

/// A loss of ln 2 · (a + 2b): a + 2b bits.
fn model() -> Pairs {
    Pairs::new(|a, b| LN_2 * f64::from(a + 2 * b), |_, b| b)
}

fn batch(rows: &[(&[i32], &[i32])]) -> Result<Batch> {
    let tokens = rows[0].0.len();
    let inputs: Vec<i32> = rows.iter().flat_map(|row| row.0.to_vec()).collect();
    let targets: Vec<i32> = rows.iter().flat_map(|row| row.1.to_vec()).collect();
    Ok(Batch::new(tokens, inputs, targets)?)
}

const A: (&[i32], &[i32]) = (&[3, 0, 1], &[0, 1, 2]);
const B: (&[i32], &[i32]) = (&[3, 2, 0], &[2, 3, IGNORE]);

#[test]
fn bits_are_summed_over_targets_with_bytes_and_divided_by_their_bytes() {
    // A: bits 3, 2, 5 over 1 + 2 + 5 bytes. B: bits 7 over 5 bytes; the special and the ignored target count nothing.
    let one = bits_per_byte(&mut model(), [batch(&[A])].into_iter(), &TOKEN_BYTES, 3, &mut Silent);
    let one = one.unwrap();
    assert!((one.bits_per_byte - 10.0 / 8.0).abs() < 1e-15);
    assert_eq!((one.bytes, one.targets, one.tokens), (8, 3, 3));
    let both =
        bits_per_byte(&mut model(), [batch(&[A, B])].into_iter(), &TOKEN_BYTES, 6, &mut Silent);
    let both = both.unwrap();
    assert!((both.bits_per_byte - 17.0 / 13.0).abs() < 1e-15);
    assert_eq!((both.bytes, both.targets, both.tokens), (13, 4, 6));
}

#[test]
fn how_rows_are_cut_into_batches_does_not_matter() {
    let whole = || vec![batch(&[A, B, A, B, B])];
    let pairs = || vec![batch(&[A, B]), batch(&[A, B]), batch(&[B])];
    let single = || [A, B, A, B, B].map(|row| batch(&[row])).into_iter().collect::<Vec<_>>();
    // Budgets that end between rows, inside one, and beyond the last.
    for budget in [3, 6, 8, 9, 12, 15, 1000] {
        let results = [whole(), pairs(), single()].map(|batches| {
            bits_per_byte(&mut model(), batches.into_iter(), &TOKEN_BYTES, budget, &mut Silent)
                .unwrap()
        });
        assert_eq!(results[0].tokens, (budget / 3 * 3).min(15), "budget {budget}");
        assert_eq!(results[0], results[1], "budget {budget}");
        assert_eq!(results[0], results[2], "budget {budget}");
    }
}

#[test]
fn progress_ends_at_what_was_evaluated() {
    struct Count(u64, Option<u64>);
    impl Progress for Count {
        fn total(&mut self, total: Option<u64>, unit: &'static str) {
            assert_eq!(unit, "tokens");
            self.1 = total;
        }
        fn advance(&mut self, n: u64) {
            self.0 += n;
        }
    }
    let mut count = Count(0, None);
    let batches = [batch(&[A, B]), batch(&[A, B])];
    bits_per_byte(&mut model(), batches.into_iter(), &TOKEN_BYTES, 10, &mut count).unwrap();
    assert_eq!((count.0, count.1), (9, Some(10)));
}

#[test]
fn faults_are_told_apart() {
    let run = |model: &mut Pairs, row, budget| {
        bits_per_byte(model, [batch(&[row])].into_iter(), &TOKEN_BYTES, budget, &mut Silent)
    };
    let error = run(&mut model(), A, 2).unwrap_err();
    assert_eq!(
        error.with_hint(),
        "no row fits in 2 tokens to evaluate\nhint: evaluate at least as many tokens as one row has, on held-out rows"
    );
    let error = run(&mut model(), (&[0], &[4]), 1).unwrap_err();
    assert!(matches!(error, Error::Token { token: 4, vocab: 4, .. }), "{error}");
    let error = run(&mut model(), (&[0], &[-2]), 1).unwrap_err();
    assert!(matches!(error, Error::Batch(BatchError::Token { id: -2, .. })), "{error}");
    let error = run(&mut model(), (&[0], &[3]), 1).unwrap_err();
    assert!(matches!(error, Error::NoBytes { tokens: 1 }), "{error}");
    let error = run(&mut Pairs::new(|_, _| f64::NAN, |_, b| b), A, 3).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
    let empty = bits_per_byte(&mut model(), [].into_iter(), &TOKEN_BYTES, 3, &mut Silent);
    assert!(matches!(empty.unwrap_err(), Error::Config { .. }));
}

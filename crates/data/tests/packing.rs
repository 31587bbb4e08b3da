//! What packing promises, on random documents and on FineWeb-edu's distribution of lengths.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use farthing_data::{PackSettings, PackStats, Packer, Remainder};
use proptest::prelude::*;

const BOS: u32 = 0;

fn settings(context: usize, buffer_documents: usize, remainder: Remainder) -> PackSettings {
    PackSettings { context, buffer_documents, remainder, ..PackSettings::default() }
}

fn pack(settings: &PackSettings, documents: &[Vec<u32>]) -> (Vec<Vec<u32>>, PackStats) {
    let mut rows = vec![];
    let mut sink = |row: &[u32]| {
        rows.push(row.to_vec());
        Ok(())
    };
    let mut packer = Packer::new(settings, BOS).unwrap();
    for document in documents {
        packer.push(document.clone(), &mut sink).unwrap();
    }
    let stats = packer.finish(&mut sink).unwrap();
    (rows, stats)
}

/// Documents in which every token is unique, so that each can be followed.
fn numbered(lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut next = 1;
    lengths
        .iter()
        .map(|&n| {
            let document = (next..next + n as u32).collect();
            next += n as u32;
            document
        })
        .collect()
}

proptest! {
    #[test]
    fn every_token_is_accounted_for(
        context in 1usize..70,
        buffer in 1usize..40,
        requeue in any::<bool>(),
        lengths in prop::collection::vec(prop_oneof![0usize..12, 0usize..80, 0usize..400], 0..120),
    ) {
        let remainder = if requeue { Remainder::Requeue } else { Remainder::Discard };
        let settings = settings(context, buffer, remainder);
        let documents = numbered(&lengths);
        let (rows, stats) = pack(&settings, &documents);
        let cap = context + 1;

        // Where each token of the input lies; pieces are runs between BOS tokens.
        let total: usize = lengths.iter().sum();
        let mut seen = vec![0u32; total + 1];
        let document_of: Vec<usize> = std::iter::once(usize::MAX)
            .chain(lengths.iter().enumerate().flat_map(|(i, &n)| std::iter::repeat_n(i, n)))
            .collect();
        let firsts: Vec<u32> = documents.iter().filter_map(|d| d.first().copied()).collect();
        let (mut bos, mut heads) = (0u64, 0u64);
        for row in &rows {
            prop_assert_eq!(row.len(), cap);
            prop_assert_eq!(row[0], BOS);
            for (i, &token) in row.iter().enumerate() {
                if token == BOS {
                    bos += 1;
                    continue;
                }
                seen[token as usize] += 1;
                if firsts.binary_search(&token).is_ok() {
                    // A document begins with BOS …
                    prop_assert_eq!(row[i - 1], BOS);
                    heads += 1;
                }
                if row[i - 1] != BOS {
                    // … and inside a piece the text goes on without a gap, in one document.
                    prop_assert_eq!(row[i - 1] + 1, token);
                    prop_assert_eq!(
                        document_of[row[i - 1] as usize], document_of[token as usize]
                    );
                }
            }
        }
        let kept: u64 = seen[1..].iter().map(|&n| u64::from(n)).sum();
        prop_assert!(seen[1..].iter().all(|&n| n <= 1), "a token is in two rows");

        let full = lengths.iter().filter(|&&n| n > 0).count() as u64;
        prop_assert_eq!(stats.documents, full);
        prop_assert_eq!(stats.empty_documents, lengths.len() as u64 - full);
        prop_assert_eq!(stats.tokens_in, total as u64 + full);
        prop_assert_eq!(stats.rows, rows.len() as u64);
        prop_assert_eq!(stats.tokens_kept, kept + heads);
        prop_assert_eq!(stats.bos_added, bos - heads);
        prop_assert_eq!(
            stats.tokens_in,
            stats.tokens_kept + stats.tokens_cropped + stats.tokens_dropped_at_end
        );
        prop_assert!(stats.tokens_dropped_at_end < cap as u64);
        if requeue {
            prop_assert_eq!(stats.tokens_cropped, 0);
        } else {
            prop_assert_eq!(stats.continuation_tokens, 0);
            prop_assert!(stats.tokens_cropped >= stats.bound_tokens);
        }
        if !rows.is_empty() {
            prop_assert_eq!(stats.utilisation(cap), 1.0);
        }
        // The same documents give the same rows.
        prop_assert_eq!(pack(&settings, &documents).0, rows);
    }
}

/// FineWeb-edu's lengths: a logarithm that is piecewise linear in a normal variable (see the README).
fn fineweb_lengths(n: usize) -> Vec<usize> {
    let mut state = 11u64;
    let mut unit = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (0..n)
        .map(|_| {
            let z = (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
            let log = match z {
                z if z < 0.0 => 6.4618 + 1.1438 * z,
                z if z < 1.281_55 => 6.4618 + (7.5671 - 6.4618) / 1.281_55 * z,
                z if z < 2.326_35 => {
                    7.5671 + (8.9441 - 7.5671) / (2.326_35 - 1.281_55) * (z - 1.281_55)
                }
                z => 8.9441 + 1.3575 * (z - 2.326_35),
            };
            (log.exp().round() as usize).clamp(1, 262_142)
        })
        .collect()
}

#[test]
fn loss_is_at_the_bound_on_fineweb_lengths() {
    let lengths = fineweb_lengths(200_000);
    let run = |remainder| {
        let settings = settings(2048, 1000, remainder);
        let mut packer = Packer::new(&settings, BOS).unwrap();
        let mut sink = |_: &[u32]| Ok(());
        for &n in &lengths {
            packer.push(vec![1; n], &mut sink).unwrap();
        }
        packer.finish(&mut sink).unwrap()
    };
    let discard = run(Remainder::Discard);
    let (lost, bound) = (100.0 * discard.lost_share(), 100.0 * discard.bound_share());
    assert!((20.0..26.0).contains(&bound), "the generator is off: bound {bound:.2}%");
    assert!(lost - bound <= 0.15, "lost {lost:.3}%, bound {bound:.3}%");
    assert_eq!(discard.utilisation(2049), 1.0);

    let requeue = run(Remainder::Requeue);
    assert_eq!(requeue.tokens_cropped, 0);
    assert!(requeue.tokens_dropped_at_end < 2049);
    let added = requeue.bos_added as f64 / requeue.tokens_kept as f64;
    assert!(added < 0.001, "{:.4}% BOS added", 100.0 * added);
}

#[test]
fn settings_without_meaning_are_refused() {
    assert!(Packer::new(&settings(0, 10, Remainder::Requeue), BOS).is_err());
    assert!(Packer::new(&settings(usize::MAX, 10, Remainder::Requeue), BOS).is_err());
    assert!(Packer::new(&settings(10, 0, Remainder::Requeue), BOS).is_err());
}

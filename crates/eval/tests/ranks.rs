//! Evaluations over ranks: every rank has the result of one rank alone, to the last bit, and each batch and item is somebody's work once.

use crate::common;

use common::{Bytes, Pairs};
use farthing_comm::{Control, Threads};
use farthing_data::Silent;
use farthing_eval::core::{Bundle, CoreReport, CoreSettings, evaluate, evaluate_on_ranks};
use farthing_eval::{Batch, BitsPerByte, Error, Result, bits_per_byte, bits_per_byte_on_ranks};

/// What `of` gives on each of several ranks, and what each model was asked for.
fn on<T: Send>(ranks: usize, of: impl Fn(&dyn Control) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let of = &of;
        let ends = Threads::new(ranks).into_iter();
        let all: Vec<_> = ends.map(|end| scope.spawn(move || of(&end))).collect();
        all.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Losses whose sum depends on its order.
fn model() -> Pairs {
    Pairs::new(|a, b| f64::from(1 + a * 31 + b).sqrt(), |_, b| b)
}

const TOKENS: usize = 5;
const TOKEN_BYTES: [u32; 16] = [1, 0, 3, 4, 2, 1, 7, 1, 1, 2, 9, 1, 1, 5, 1, 6];

/// Rows in batches of three; the last may have fewer.
fn batches(rows: usize) -> impl Iterator<Item = Result<Batch>> {
    let all: Vec<usize> = (0..rows).collect();
    let of = |rows: &[usize]| {
        let tokens = |more: usize| -> Vec<i32> {
            let positions = rows.iter().flat_map(|row| (0..TOKENS).map(move |t| (*row, t)));
            positions.map(|(row, t)| ((row * 7 + (t + more) * 5) % 16) as i32).collect()
        };
        Ok(Batch::new(TOKENS, tokens(0), tokens(1))?)
    };
    all.chunks(3).map(of).collect::<Vec<_>>().into_iter()
}

#[test]
fn bits_per_byte_are_those_of_one_rank_on_every_rank() {
    for (rows, budget) in [(1, 5), (3, 100), (7, 35), (13, 64), (14, 1_000), (24, 100)] {
        let one =
            bits_per_byte(&mut model(), batches(rows), &TOKEN_BYTES, budget, &mut Silent).unwrap();
        for ranks in 1..6 {
            let all: Vec<(BitsPerByte, usize)> = on(ranks, |ranks| {
                let mut model = model();
                let (batches, budget) = (batches(rows), budget);
                let found = bits_per_byte_on_ranks(
                    ranks,
                    &mut model,
                    batches,
                    &TOKEN_BYTES,
                    budget,
                    &mut Silent,
                );
                (found.unwrap(), model.shapes.len())
            });
            assert!(all.iter().all(|(found, _)| *found == one), "{rows} rows, {ranks} ranks");
            let counted = (budget as usize / TOKENS).min(rows);
            let scored: Vec<usize> = all.iter().map(|(_, scored)| *scored).collect();
            assert_eq!(scored.iter().sum::<usize>(), counted.div_ceil(3), "each batch once");
            let (least, most) = (scored.iter().min().unwrap(), scored.iter().max().unwrap());
            assert!(most - least <= 1, "{scored:?}");
        }
    }
}

#[test]
fn what_a_rank_fails_of_ends_the_others() {
    let all = on(3, |ranks| {
        let mut model =
            if ranks.rank() == 1 { Pairs::new(|_, _| f64::NAN, |_, b| b) } else { model() };
        bits_per_byte_on_ranks(ranks, &mut model, batches(20), &TOKEN_BYTES, 100, &mut Silent)
    });
    assert!(matches!(all[1], Err(Error::NotFinite { .. })), "{:?}", all[1]);
    for rank in [0, 2] {
        assert!(matches!(all[rank], Err(Error::Comm(_))), "{:?}", all[rank]);
    }
    let none = on(2, |ranks| {
        bits_per_byte_on_ranks(ranks, &mut model(), batches(4), &TOKEN_BYTES, 4, &mut Silent)
    });
    assert!(none.iter().all(|found| matches!(found, Err(Error::Config { .. }))), "{none:?}");
}

/// Three tasks, of which one has more items than are in memory at once, and one fewer than ranks.
fn bundle(folder: &std::path::Path) -> Bundle {
    let choices = |i: usize| {
        format!(r#"{{"query": "item {i}", "choices": ["b{i}", "a", "ae"], "gold": {}}}"#, i % 3)
    };
    let texts = |i: usize| format!(r#"{{"context": "b{i}", "continuation": "aei"}}"#);
    let lines =
        |n: usize, of: &dyn Fn(usize) -> String| (0..n).map(of).collect::<Vec<_>>().join("\n");
    let schema = r#"{"context_options": ["xb", "xxa"], "continuation": "u", "gold": 1}"#;
    for (name, text) in [
        ("choices.jsonl", lines(530, &choices)),
        ("texts.jsonl", lines(7, &texts)),
        ("schema.jsonl", format!("{schema}\n{schema}")),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let task = |label: &str, kind: &str, shots: usize| {
        format!(
            r#"{{"label": "{label}", "uri": "{label}.jsonl", "task_type": "{kind}", "num_fewshot": {shots}, "random_baseline": 10}}"#
        )
    };
    let tasks = [
        task("choices", "multiple_choice", 1),
        task("texts", "language_modeling", 2),
        task("schema", "schema", 0),
    ];
    std::fs::write(folder.join("tasks.json"), format!("[{}]", tasks.join(","))).unwrap();
    Bundle::open(folder).unwrap()
}

#[test]
fn items_are_dealt_out_and_every_rank_has_the_whole_report() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(folder.path());
    let settings = CoreSettings { batch_tokens: 128, ..CoreSettings::default() };
    let text = Bytes::default();
    let one = evaluate(&mut model(), &text, &bundle, &settings, &mut Silent).unwrap();
    let sorted = |mut seen: Vec<String>| {
        seen.sort();
        seen
    };
    let wanted = sorted(text.seen.into_inner());
    assert!(one.tasks.iter().any(|task| task.correct > 0 && task.correct < task.items));
    for ranks in 1..5 {
        let all: Vec<(CoreReport, Vec<String>)> = on(ranks, |ranks| {
            let text = Bytes::default();
            let report =
                evaluate_on_ranks(ranks, &mut model(), &text, &bundle, &settings, &mut Silent);
            (report.unwrap(), text.seen.into_inner())
        });
        assert!(all.iter().all(|(report, _)| *report == one), "{ranks} ranks");
        let seen = sorted(all.into_iter().flat_map(|(_, seen)| seen).collect());
        assert!(seen == wanted, "each prompt once on {ranks} ranks");
    }
}

//! Figures out of metrics, and the pages.

use farthing_train::Record;

use super::chart;
use super::page;
use super::table::{Comparison, Row, Spread};
use crate::stages::report::records::{BpbRecord, CoreRecord};

fn train(last: f64) -> Vec<Record> {
    let lines = [
        r#"{"record":"run","parameters":{"a":1000,"b":234},"tokens":400,"batch_tokens":4,"flops_per_token":1e6}"#
            .to_owned(),
        r#"{"record":"eval","step":0,"val_bpb":2.5,"val_loss":5}"#.to_owned(),
        r#"{"record":"step","step":1,"loss":4.0,"seconds":3.0}"#.to_owned(),
        r#"{"record":"eval","step":50,"val_bpb":1.5,"val_loss":3}"#.to_owned(),
        format!(r#"{{"record":"eval","step":100,"val_bpb":{last},"val_loss":2}}"#),
        r#"{"record":"final","tokens_per_s":1234.5,"train_seconds":65.0,"memory_bytes":5000000}"#
            .to_owned(),
    ];
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn three() -> Comparison {
    let bpb: BpbRecord = serde_json::from_str(r#"{"record":"bpb","bpb":0.9,"tokens":10}"#).unwrap();
    let core: CoreRecord =
        serde_json::from_str(r#"{"record":"core","core":0.1,"accuracy":0.5,"chance":0.25}"#)
            .unwrap();
    Comparison::new(
        "a < b".into(),
        vec![
            Row::new("v=base,d=4", train(1.0), vec![], vec![]),
            Row::new("v=wide|er,d=4", train(0.8), vec![bpb], vec![core]),
            Row::new("v=none,d=4", vec![], vec![], vec![]),
        ],
    )
}

#[test]
fn figures_and_cells() {
    let three = three();
    assert_eq!(three.figures(), [("base, 4".to_owned(), 1.0), ("wide|er, 4".to_owned(), 0.9)]);
    assert_eq!(three.best(), Some(1));
    let pictures = chart::draw(&three).unwrap();
    insta::assert_snapshot!(page::markdown(&three, &pictures));
}

#[test]
fn labels_without_axes_are_stages() {
    let row = |label| Row::new(label, train(1.0), vec![], vec![]);
    let mixed = Comparison::new("t".into(), vec![row("base"), row("v=a")]);
    assert_eq!(mixed.axes, ["stage"]);
    assert_eq!(mixed.name(&mixed.rows[1]), "v=a");
    assert_eq!(mixed.variants.len(), 2);
}

#[test]
fn pages() {
    let three = three();
    let pictures = chart::draw(&three).unwrap();
    // Over steps, FLOPs and time, a line for each of the two that looked at held-out text.
    let files: Vec<_> = pictures.iter().map(chart::Picture::file).collect();
    assert_eq!(files, ["bpb.svg", "bpb-flops.svg", "bpb-time.svg"]);
    for picture in &pictures {
        for colour in ["#6B7682", "#2F7DE0"] {
            let line = format!("stroke=\"{colour}\" stroke-width=\"8\" points");
            assert_eq!(picture.wide.matches(&line).count(), 1, "{colour}");
            assert_eq!(picture.narrow.matches(&line).count(), 1, "{colour}");
        }
        assert!(picture.standalone().starts_with("<svg width=\"880\""));
    }
    let html = page::html(&three, &pictures);
    assert!(html.contains("<title>a &lt; b</title>"));
    assert!(html.contains("<strong>0.9000</strong>"));
    let none = Comparison::new("t".into(), vec![Row::new("a", vec![], vec![], vec![])]);
    assert!(chart::draw(&none).unwrap().is_empty());
}

/// A training of a depth and a seed, as its metrics have them.
fn seeded(depth: u64, seed: u64, last: f64) -> Row {
    let mut records = train(last);
    let run = serde_json::json!({ "record": "run", "seed": seed, "config": { "model": { "depth": depth } },
        "parameters": { "a": 10 }, "tokens": 400, "batch_tokens": 4, "flops_per_token": 1e6 });
    records[0] = serde_json::from_value(run).unwrap();
    Row::new(&format!("d={depth},s={seed}"), records, vec![], vec![])
}

#[test]
fn trainings_that_differ_by_their_seeds_are_one_variant_with_mean_and_spread() {
    let rows = vec![seeded(4, 1, 1.0), seeded(4, 2, 1.2), seeded(6, 1, 0.8), seeded(6, 2, 0.8)];
    let seeds = Comparison::new("t".into(), rows);
    // Whatever the axis is called.
    assert_eq!(seeds.axes, ["d"]);
    let names: Vec<_> = seeds.variants.iter().map(|v| v.names.join(",")).collect();
    assert_eq!(names, ["4", "6"]);
    assert_eq!(seeds.variants[1].changes, ["model.depth 4 → 6"]);
    let figures = seeds.figures();
    let figure = |name: &str| figures.iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!(figure("4, 2"), 1.2);
    assert!((figure("4: mean") - 1.1).abs() < 1e-12);
    // √((0.1² + 0.1²) / (2 − 1)).
    assert!((figure("4: spread") - 0.02f64.sqrt()).abs() < 1e-12);
    assert_eq!(figure("6: spread"), 0.0);
    let pictures = chart::draw(&seeds).unwrap();
    // Each training is a line, each variant a name and a colour.
    assert_eq!(pictures[0].wide.matches("stroke=\"#2F7DE0\" stroke-width=\"8\" points").count(), 2);
    insta::assert_snapshot!(page::markdown(&seeds, &pictures));
    assert_eq!(Spread::of([f64::NAN].into_iter()), None);
    assert_eq!(Spread::of([2.0].into_iter()).unwrap().deviation, None);
}

#[test]
fn an_axis_that_changes_more_than_the_seed_is_no_axis_of_seeds() {
    // Another key beside the seed.
    let rows = vec![seeded(4, 1, 1.0), seeded(6, 2, 0.8)];
    let both = |rows: Vec<Row>| {
        let rows = rows.into_iter().zip(["x=1", "x=2"]);
        let rows = rows.map(|(row, label)| Row { label: label.into(), ..row });
        Comparison::new("t".into(), rows.collect())
    };
    assert_eq!(both(rows).variants.len(), 2);
    // The same seed twice, of other data, say.
    assert_eq!(both(vec![seeded(4, 1, 1.0), seeded(4, 1, 0.8)]).variants.len(), 2);
    // Seeds that the metrics don't name.
    let unnamed = |label| Row::new(label, train(1.0), vec![], vec![]);
    assert_eq!(both(vec![unnamed("a"), unnamed("b")]).variants.len(), 2);
    let seeds = both(vec![seeded(4, 1, 1.0), seeded(4, 2, 0.8)]);
    assert_eq!((seeds.variants.len(), seeds.axes.len()), (1, 0));
    let text = page::markdown(&seeds, &[]);
    assert!(text.contains("| all | 2 | 0.9000 ± 0.1414 |"), "{text}");
}

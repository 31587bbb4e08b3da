//! Figures out of metrics, and the pages.

use farthing_train::Record;

use super::chart;
use super::page;
use super::table::{Comparison, Row};
use crate::stages::report::records::{BpbRecord, CoreRecord};

fn train(last: f64) -> Vec<Record> {
    let lines = [
        r#"{"record":"run","parameters":{"a":1000,"b":234}}"#.to_owned(),
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
    assert_eq!(three.best().unwrap().label, "v=wide|er,d=4");
    insta::assert_snapshot!(page::markdown(&three, true));
}

#[test]
fn labels_without_axes_are_stages() {
    let row = |label| Row::new(label, train(1.0), vec![], vec![]);
    let mixed = Comparison::new("t".into(), vec![row("base"), row("v=a")]);
    assert_eq!(mixed.head()[0], "stage");
    assert_eq!(mixed.names(&mixed.rows[1]), ["v=a"]);
}

#[test]
fn pages() {
    let three = three();
    let chart = chart::draw(&three).unwrap().unwrap();
    // A line for each of the two that looked at held-out text.
    for colour in ["#6B7682", "#2F7DE0"] {
        let line = format!("stroke=\"{colour}\" stroke-width=\"8\" points");
        assert_eq!(chart.matches(&line).count(), 1, "{colour}");
    }
    let html = page::html(&three, Some(&chart));
    assert!(html.contains("<title>a &lt; b</title>"));
    assert!(html.contains("<strong>0.9000</strong>"));
    assert!(chart::standalone(&chart).starts_with("<svg width=\"880\""));
    let none = Comparison::new("t".into(), vec![Row::new("a", vec![], vec![], vec![])]);
    assert!(chart::draw(&none).unwrap().is_none());
}

//! `matrix`: what a table is multiplied into, who follows it, and what is refused.

use insta::assert_snapshot;

use crate::harness::{Output, Place};

/// Two axes: a list on the first stage, named variants on the second.
const GRID: &str = r#"
[vars]
word = "hey"

[stage.join]
uses   = "join"
inputs = { texts = "trim.text", counts = "count.metrics" }
expect = { "counts.letters" = { min = 1 } }

[stage.hi]
uses   = "write"
matrix = { lines = [2, 1] }
text   = "${word}${lines} "
lines  = "${lines}"

[stage.trim]
uses   = "trim"
inputs = { text = "hi.text" }

[stage.count]
uses   = "count"
inputs = { text = "shout.text" }

[stage.shout]
uses = "write"
text = "go"

[stage.shout.matrix.style]
plain = {}
loud  = { style.upper = true, text = "go ${word}" }
"#;

fn joined(place: &Place, output: &Output) -> String {
    assert_eq!(output.code, 0, "{}", output.screen());
    let runs = std::fs::read_dir(place.path("runs/p")).unwrap();
    let last =
        runs.map(|e| e.unwrap().path()).max_by_key(|p| p.metadata().unwrap().modified().unwrap());
    let all = std::fs::read_to_string(last.unwrap().join("all")).unwrap();
    // The order of JSON keys is a library's affair.
    all.replace(",\"step\":0", "").replace("\"step\":0,", "")
}

#[test]
fn stages_are_multiplied_and_gathered() {
    let place = Place::with(GRID);
    assert_snapshot!("matrix_plan", place.go(&["--plan"]).screen());
    let run = place.go(&[]);
    assert_eq!(
        joined(&place, &run),
        "texts lines=2: hey2/hey2\ntexts lines=1: hey1\n\
         counts style=plain: {\"letters\":2}\ncounts style=loud: {\"letters\":5}\n"
    );
    assert_snapshot!("matrix_run", run.screen());
    assert_eq!(place.go(&[]).ran(), Vec::<String>::new());
}

#[test]
fn a_new_value_runs_what_it_adds() {
    let place = Place::with(GRID);
    place.go(&[]);
    place.file(&GRID.replace("[2, 1]", "[2, 3, 1]"));
    assert_eq!(place.go(&[]).ran(), ["hi@lines=3", "trim@lines=3", "join"]);
    // The label is what the reader is told: a renamed variant is another input of the join, and the same work.
    place.file(&GRID.replace("[2, 1]", "[2, 3, 1]").replace("loud ", "shrill "));
    assert_eq!(place.go(&[]).ran(), ["join"]);
}

#[test]
fn stages_are_selected_by_table_and_by_name() {
    let place = Place::with(GRID);
    assert_eq!(place.go(&["--until", "trim@lines=1"]).ran(), ["hi@lines=1", "trim@lines=1"]);
    assert_eq!(place.go(&["--until", "trim"]).ran(), ["hi@lines=2", "trim@lines=2"]);
    assert_eq!(place.go(&["--only", "shout"]).ran(), ["shout@style=plain", "shout@style=loud"]);
    assert_eq!(place.go(&["--only", "hi", "--force", "hi@lines=2"]).ran(), ["hi@lines=2"]);
    assert_snapshot!(place.go(&["--only", "shuot"]).screen());
}

#[test]
fn one_variant_can_be_named() {
    let place = Place::with(&GRID.replace("\"shout.text\"", "\"shout@style=loud.text\""));
    let run = place.go(&[]);
    assert!(joined(&place, &run).ends_with("counts count: {\"letters\":5}\n"));
}

#[test]
fn axes_of_two_sources_cross() {
    let place = Place::with(
        r#"
[stage.a]
uses   = "write"
matrix = { x = ["p", "q"] }
text   = "${x}"
[stage.b]
uses   = "slow"
matrix = { steps = [1, 2] }
steps  = "${steps}"
[stage.c]
uses   = "count"
inputs = { text = "a.text", rows = "b.rows" }
[stage.join]
uses   = "join"
inputs = { texts = "a.text", counts = "c.metrics" }
"#,
    );
    let run = place.go(&[]);
    let labels: Vec<String> = joined(&place, &run)
        .lines()
        .map(|line| line.split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(
        labels,
        [
            "texts x=p",
            "texts x=q",
            "counts x=p,steps=1",
            "counts x=p,steps=2",
            "counts x=q,steps=1",
            "counts x=q,steps=2"
        ]
    );
}

fn refused(stages: &str) -> String {
    let output = Place::with(stages).go(&[]);
    assert_eq!(output.code, 2, "{}", output.screen());
    output.screen()
}

#[test]
fn faults_of_axes() {
    assert_snapshot!(refused(
        r#"
[vars]
lines = 3
[stage.a]
uses   = "write"
text   = "x"
matrix = { unused = [1, 2], lines = [1], "a b" = [1], none = [], twice = [1, 1], deep = [[1]], odd = 3, sign = [-1] }
[stage.b]
uses   = "write"
text   = "x"
matrix = [1]
[stage.c]
uses   = "write"
text   = "x"
[stage.c.matrix.v]
one = { matrix = { w = [1] } }
two = 2
"#
    ));
}

#[test]
fn a_fault_of_every_variant_is_said_once() {
    assert_snapshot!(refused(
        r#"
[stage.a]
uses   = "write"
matrix = { n = [1, 2, 3] }
txet   = "${n} ${m}"
[stage.b]
uses   = "write"
text   = "x"
[stage.b.matrix.v]
good = { lines = 2 }
bad  = { limes = 2 }
zero = { lines = 0 }
[stage.c]
uses   = "trim"
inputs = { text = "b.txt" }
"#
    ));
}

#[test]
fn names_that_clash_and_products_that_explode() {
    assert_snapshot!(refused(
        r#"
[stage.a]
uses   = "write"
matrix = { n = [1, 2] }
text   = "${n}"
[stage.b]
uses   = "slow"
matrix = { n = [1, 2] }
steps  = "${n}"
[stage.c]
uses   = "count"
inputs = { text = "a.text", rows = "b.rows" }
[stage.d]
uses   = "write"
text   = "${i}${j}${k}"
matrix = { i = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], j = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], k = [0, 1, 2] }
"#
    ));
}

//! The comparison as Markdown and as one HTML file that needs nothing beside it.

use std::fmt::Write;

use super::chart::Picture;
use super::table::{Comparison, Row, Spread, Variant};
use crate::progress::format::{bytes, count, duration};
use crate::runs::sign::MARK;
use crate::stages::report::escape::{html as esc, markdown as md};
use crate::stages::report::html::document;
use crate::stages::report::model::short;

/// A table of texts; the first `names` columns are words, the others numbers.
struct Grid {
    names: usize,
    /// Whether the last column has long texts, which may break anywhere.
    long: bool,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// The row whose first number is the best.
    best: Option<usize>,
}

pub(super) fn markdown(comparison: &Comparison, pictures: &[Picture]) -> String {
    let mut out = format!("# {}\n\n{MARK}\n\n", md(&comparison.title));
    let mut table = |title: &str, grid: &Grid| {
        if !title.is_empty() {
            let _ = write!(out, "\n## {title}\n\n");
        }
        let cells = |cells: &[String]| {
            format!("| {} |\n", cells.iter().map(|cell| md(cell)).collect::<Vec<_>>().join(" | "))
        };
        out.push_str(&cells(&grid.head));
        let rule = |i| if i < grid.names { "---" } else { "---:" };
        let rules: Vec<_> = (0..grid.head.len()).map(rule).collect();
        let _ = writeln!(out, "| {} |", rules.join(" | "));
        grid.rows.iter().for_each(|row| out.push_str(&cells(row)));
    };
    table("", &all(comparison));
    if let Some(changes) = changes(comparison) {
        table("What each changes", &changes);
    }
    if comparison.has_seeds() {
        table("Every training", &each(comparison));
    }
    for picture in pictures {
        let _ = write!(out, "\n![{}]({})\n", picture.about(), picture.file());
    }
    out
}

pub(super) fn html(comparison: &Comparison, pictures: &[Picture]) -> String {
    let mut body = format!("<h1>{}</h1>\n{MARK}\n<h2>Side by side</h2>\n", esc(&comparison.title));
    table(&mut body, &all(comparison));
    if comparison.has_seeds() {
        body.push_str(
            "<p class=\"note\">± is the standard deviation over seeds, with n − 1.</p>\n\
             <details><summary>Every training</summary>\n",
        );
        table(&mut body, &each(comparison));
        body.push_str("</details>\n");
    }
    if let Some(changes) = changes(comparison) {
        body.push_str("<h2>What each changes</h2>\n");
        table(&mut body, &changes);
    }
    if !pictures.is_empty() {
        body.push_str("<h2>Held-out text</h2>\n");
    }
    for picture in pictures {
        let _ = writeln!(body, "<figure>\n{}{}</figure>", picture.wide, picture.narrow);
    }
    document(&comparison.title, &body)
}

fn table(out: &mut String, grid: &Grid) {
    let class = |i: usize| match i < grid.names {
        true if grid.long && i + 1 == grid.head.len() => " class=\"long\"",
        true => "",
        false => " class=\"n\"",
    };
    out.push_str("<div class=\"scroll\"><table class=\"dense\">\n<thead><tr>");
    for (i, name) in grid.head.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", class(i), esc(name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (row, cells) in grid.rows.iter().enumerate() {
        out.push_str("<tr>");
        for (i, cell) in cells.iter().enumerate() {
            let cell = esc(cell);
            let strong = i == grid.names && grid.best == Some(row);
            let cell = if strong { format!("<strong>{cell}</strong>") } else { cell };
            let _ = write!(out, "<td{}>{cell}</td>", class(i));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".into())
}

/// A number with its spread, written by `number`.
fn spread(found: Option<Spread>, number: impl Fn(f64) -> String) -> String {
    or_dash(found.map(|Spread { mean, deviation }| match deviation {
        Some(deviation) => format!("{} ± {}", number(mean), number(deviation)),
        None => number(mean),
    }))
}

/// A variant in a row, with means over its seeds.
fn all(comparison: &Comparison) -> Grid {
    let name =
        if comparison.axes.is_empty() { vec!["training".into()] } else { comparison.axes.clone() };
    let names = name.len();
    let mut head = name;
    if comparison.has_seeds() {
        head.push("seeds".into());
    }
    head.extend(["bits per byte".into(), "against the first".into()]);
    let tasks = comparison.rows.iter().any(|row| row.accuracy.is_some());
    if tasks {
        head.push("accuracy".into());
    }
    head.extend(["tokens/s", "training time", "FLOPs", "memory", "parameters"].map(String::from));
    let first = comparison.variants.first();
    let first = first.and_then(|first| comparison.spread(first, |row| row.bpb));
    let rows = comparison.variants.iter().map(|variant| {
        let mut cells = variant.names.clone();
        if cells.is_empty() {
            cells.push("all".into());
        }
        if comparison.has_seeds() {
            cells.push(variant.rows.len().to_string());
        }
        let of = |figure: fn(&Row) -> Option<f64>| comparison.spread(variant, figure);
        let mean = |figure: fn(&Row) -> Option<f64>, number: &dyn Fn(f64) -> String| {
            or_dash(of(figure).map(|spread| number(spread.mean)))
        };
        let bpb = of(|row| row.bpb);
        cells.push(spread(bpb, |x| format!("{x:.4}")));
        let against = bpb.zip(first).map(|(bpb, first)| 100.0 * (bpb.mean / first.mean - 1.0));
        cells.push(or_dash(against.filter(|x| x.is_finite()).map(|x| format!("{x:+.2}%"))));
        if tasks {
            cells.push(spread(of(|row| row.accuracy), |x| format!("{:.1}%", 100.0 * x)));
        }
        cells.push(mean(|row| row.tokens_per_s, &|x| count(x.round() as u64)));
        cells.push(mean(|row| row.seconds, &duration));
        cells.push(mean(|row| row.flops, &short));
        cells.push(mean(|row| row.memory, &bytes));
        cells.push(mean(|row| Some(row.parameters as f64), &short));
        cells
    });
    let rows = rows.collect();
    let names = names + usize::from(comparison.has_seeds());
    Grid { names, long: false, head, rows, best: comparison.best() }
}

/// A training in a row.
fn each(comparison: &Comparison) -> Grid {
    let rows = comparison.rows.iter().map(|row| {
        vec![
            comparison.name(row),
            or_dash(row.bpb.map(|x| format!("{x:.4}"))),
            or_dash(row.accuracy.map(|x| format!("{:.1}%", 100.0 * x))),
            or_dash(row.seconds.map(duration)),
        ]
    });
    let head = ["training", "bits per byte", "accuracy", "training time"].map(String::from);
    Grid { names: 1, long: false, head: head.into(), rows: rows.collect(), best: None }
}

/// What sets each variant apart from the first; `None` where none says so.
fn changes(comparison: &Comparison) -> Option<Grid> {
    let name = |variant: &Variant| variant.names.join(", ");
    let first = comparison.variants.first()?;
    let changed = comparison.variants.iter().skip(1);
    let rows: Vec<_> = changed
        .map(|variant| {
            let changes = match variant.changes[..] {
                [] => "no key of the training".to_owned(),
                _ => variant.changes.join("; "),
            };
            vec![name(variant), changes]
        })
        .collect();
    let any = comparison.variants.iter().any(|variant| !variant.changes.is_empty());
    let head = vec!["variant".into(), format!("against {}", name(first))];
    any.then_some(Grid { names: 2, long: true, head, rows, best: None })
}

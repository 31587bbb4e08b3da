//! The comparison as Markdown and as one HTML file that needs nothing beside it.

use std::fmt::Write;

use super::table::Comparison;
use crate::runs::sign::MARK;
use crate::stages::report::escape::{html as esc, markdown as md};
use crate::stages::report::html::document;

pub(super) fn markdown(comparison: &Comparison, chart: bool) -> String {
    let mut out = format!("# {}\n\n{MARK}\n\n", md(&comparison.title));
    let head = comparison.head();
    let _ = writeln!(out, "| {} |", head.iter().map(|h| md(h)).collect::<Vec<_>>().join(" | "));
    let rule = |i| if i < comparison.name_columns() { "---" } else { "---:" };
    let _ = writeln!(out, "| {} |", (0..head.len()).map(rule).collect::<Vec<_>>().join(" | "));
    for row in &comparison.rows {
        let cells: Vec<String> = comparison.cells(row).iter().map(|cell| md(cell)).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    if chart {
        out.push_str("\n![Bits per byte of held-out text over the steps, by training](bpb.svg)\n");
    }
    out
}

pub(super) fn html(comparison: &Comparison, chart: Option<&str>) -> String {
    let mut body = format!("<h1>{}</h1>\n{MARK}\n", esc(&comparison.title));
    body.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    let names = comparison.name_columns();
    let class = |i: usize| if i < names { "" } else { " class=\"n\"" };
    for (i, name) in comparison.head().iter().enumerate() {
        let _ = write!(body, "<th{}>{}</th>", class(i), esc(name));
    }
    body.push_str("</tr></thead>\n<tbody>\n");
    let best = comparison.best().map(|row| row.label.as_str());
    for row in &comparison.rows {
        body.push_str("<tr>");
        for (i, cell) in comparison.cells(row).iter().enumerate() {
            let cell = esc(cell);
            let strong = i == names && best == Some(row.label.as_str());
            let cell = if strong { format!("<strong>{cell}</strong>") } else { cell };
            let _ = write!(body, "<td{}>{cell}</td>", class(i));
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</tbody></table></div>\n");
    if let Some(chart) = chart {
        let _ = writeln!(body, "<h2>Held-out text</h2>\n<figure>\n{chart}</figure>");
    }
    document(&comparison.title, &body)
}

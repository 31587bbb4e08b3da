//! The report as one HTML file that needs nothing beside it: no script, no font, no picture from elsewhere.

use std::fmt::Write;

use super::chart::{self, Layout};
use super::escape::html as esc;
use super::model::{Course, Fact, Model, Rates, percent, spread};
use super::records::Pack;
use crate::Result;
use crate::progress::format::count;
use crate::runs::sign::MARK;

/// Evaluations listed at most.
const EVALS: usize = 12;

/// Browsers refuse whatever this does not name, should a text ever get past the escaping.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

pub(super) fn render(model: &Model) -> Result<String> {
    let mut body = format!("<h1>{}</h1>\n", esc(&model.title));
    if model.is_empty() {
        body.push_str("<p>No input of this report is connected, so it has nothing to show.</p>\n");
    }
    facts(&mut body, "facts headline", &model.headline);
    let _ = writeln!(body, "{MARK}");
    course(&mut body, "Loss", &model.course)?;
    rates(&mut body, model);
    course(&mut body, "Learning to answer", &model.chat)?;
    beside_gpt2(&mut body, model);
    tasks(&mut body, model);
    samples(&mut body, model);
    if !model.tokenizer.is_empty() {
        body.push_str("<h2>Tokenizer</h2>\n");
        facts(&mut body, "facts", &model.tokenizer);
    }
    if !model.held_out.is_empty() {
        body.push_str("<h2>Held-out text</h2>\n");
        table(&mut body, &["stage", "held out"], "--", &model.held_out, |(stage, text)| {
            vec![stage.clone(), text.clone()]
        });
    }
    packing(&mut body, model);
    parameters(&mut body, model);
    configuration(&mut body, model);
    Ok(document(&model.title, &body))
}

/// A whole page around a body that is HTML already.
pub(in crate::stages) fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{}</style>\n\
         </head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        esc(title),
        include_str!("style.css"),
    )
}

fn facts(out: &mut String, class: &str, facts: &[Fact]) {
    if facts.is_empty() {
        return;
    }
    let _ = writeln!(out, "<dl class=\"{class}\">");
    for fact in facts {
        let _ = write!(out, "<div><dt>{}</dt><dd>{}", esc(fact.name), esc(&fact.value));
        if !fact.note.is_empty() {
            let _ = write!(out, "<small>{}</small>", esc(&fact.note));
        }
        out.push_str("</dd></div>\n");
    }
    out.push_str("</dl>\n");
}

fn course(out: &mut String, title: &str, course: &Course) -> Result<()> {
    if course.is_empty() {
        return Ok(());
    }
    let _ = writeln!(out, "<h2>{title}</h2>");
    if let Some(curve) = &course.curve {
        out.push_str("<figure>\n");
        out.push_str(&chart::draw(curve, Layout::WIDE, "curve wide")?);
        out.push_str(&chart::draw(curve, Layout::NARROW, "curve narrow")?);
        out.push_str("</figure>\n");
    }
    if !course.evals.is_empty() {
        let shown = spread(&course.evals, EVALS);
        let number = |x: Option<f64>| x.map_or_else(|| "–".into(), |x| format!("{x:.4}"));
        out.push_str("<details><summary>Evaluations on held-out text</summary>\n");
        table(out, &["step", "bits per byte", "held-out loss"], "rrr", shown, |e| {
            vec![count(e.step), number(e.val_bpb), number(e.val_loss)]
        });
        out.push_str("</details>\n");
    }
    Ok(())
}

fn rates(out: &mut String, model: &Model) {
    if model.rates.is_empty() {
        return;
    }
    out.push_str("<details><summary>Learning rates</summary>\n");
    let head = ["group", "first step", "highest", "last step"];
    table(out, &head, "-rrr", model.rates.iter(), |r| {
        let [first, highest, last] = [r.first, r.highest, r.last].map(Rates::shown);
        vec![r.group.clone(), first, highest, last]
    });
    out.push_str("</details>\n");
}

fn beside_gpt2(out: &mut String, model: &Model) {
    if model.beside_gpt2.is_empty() {
        return;
    }
    out.push_str("<h2>CORE beside GPT-2</h2>\n<div class=\"tasks\" role=\"table\">\n");
    let most = model.beside_gpt2.iter().map(|(_, core)| *core).fold(0.0, f64::max);
    for (i, (name, core)) in model.beside_gpt2.iter().enumerate() {
        let share = if most > 0.0 { 100.0 * core.max(0.0) / most } else { 0.0 };
        let others = if i > 0 { " below" } else { "" };
        let _ = writeln!(
            out,
            "<div class=\"task\" role=\"row\"><span role=\"cell\">{}</span>\
             <span class=\"track{others}\" role=\"presentation\"><i style=\"width:{share:.2}%\"></i></span>\
             <span class=\"value\" role=\"cell\">{core:.4}</span></div>",
            esc(name),
        );
    }
    out.push_str("</div>\n");
}

fn tasks(out: &mut String, model: &Model) {
    if model.tasks.is_empty() {
        return;
    }
    out.push_str("<h2>Tasks</h2>\n<p class=\"key\"><i class=\"bar\"></i> accuracy <i class=\"chance\"></i> chance</p>\n");
    out.push_str("<div class=\"tasks\" role=\"table\">\n");
    for task in &model.tasks {
        let share = |x: f64| 100.0 * x.clamp(0.0, 1.0);
        let about = format!(
            "{} examples, chance {}, centred {:.3}",
            count(task.examples),
            percent(task.baseline),
            task.centered
        );
        let below = if task.accuracy < task.baseline { " below" } else { "" };
        let _ = writeln!(
            out,
            "<div class=\"task\" role=\"row\" title=\"{}\"><span role=\"cell\">{}<small>{}</small></span>\
             <span class=\"track{below}\" role=\"presentation\"><i style=\"width:{:.2}%\"></i><b style=\"left:{:.2}%\"></b></span>\
             <span class=\"value\" role=\"cell\">{}</span></div>",
            esc(&about),
            esc(&task.name),
            esc(&task.kind.replace('_', " ")),
            share(task.accuracy),
            share(task.baseline),
            percent(task.accuracy),
        );
    }
    out.push_str("</div>\n<details><summary>Figures</summary>\n");
    let head = ["task", "accuracy", "chance", "centred", "examples"];
    table(out, &head, "-rrrr", model.tasks.iter(), |t| {
        vec![
            t.name.clone(),
            percent(t.accuracy),
            percent(t.baseline),
            format!("{:.3}", t.centered),
            count(t.examples),
        ]
    });
    out.push_str("</details>\n");
}

fn samples(out: &mut String, model: &Model) {
    if model.samples.is_empty() {
        return;
    }
    out.push_str("<h2>Samples</h2>\n");
    for sample in &model.samples {
        let _ = write!(
            out,
            "<blockquote><p><strong>{}</strong>{}</p>",
            esc(&sample.prompt),
            esc(sample.continuation()),
        );
        if let Some(temperature) = sample.temperature {
            let _ = write!(out, "<footer>temperature {temperature}</footer>");
        }
        out.push_str("</blockquote>\n");
    }
}

fn packing(out: &mut String, model: &Model) {
    if model.packs.is_empty() {
        return;
    }
    out.push_str("<h2>Packing</h2>\n");
    let head = [
        "split",
        "documents",
        "tokens",
        "rows",
        "lost",
        "bound",
        "in continuations",
        "utilisation",
    ];
    table(out, &head, "-rrrrrrr", model.packs.iter(), |p| {
        vec![
            p.split.clone(),
            count(p.documents),
            count(p.tokens_in),
            format!("{} × {}", count(p.rows), count(p.row_tokens)),
            percent(p.lost),
            percent(p.bound),
            percent(p.continuation),
            percent(p.utilisation),
        ]
    });
    out.push_str(
        "<p class=\"note\">Bound: what must be lost if no document is split over rows.</p>\n",
    );
    for pack in model.packs.iter().filter(|p| !p.lengths.is_empty()) {
        lengths(out, pack);
    }
}

fn lengths(out: &mut String, pack: &Pack) {
    let most = pack.lengths.iter().map(|l| l.documents).max().unwrap_or(0).max(1);
    let _ = write!(
        out,
        "<figure class=\"lengths\"><figcaption>Documents by length in tokens ({})</figcaption>\n<div>\n",
        esc(&pack.measured())
    );
    for l in &pack.lengths {
        let height = 100.0 * l.documents as f64 / most as f64;
        let about = format!("{} documents of {} to {} tokens", count(l.documents), l.from, l.to);
        let _ = writeln!(
            out,
            "<div title=\"{about}\"><span><i style=\"height:{height:.2}%\"></i></span><small>{}</small></div>",
            super::model::short(l.from as f64).replace(' ', ""),
        );
    }
    out.push_str("</div></figure>\n");
}

fn parameters(out: &mut String, model: &Model) {
    if model.parameters.is_empty() {
        return;
    }
    out.push_str("<h2>Parameters</h2>\n");
    table(out, &["group", "parameters"], "-r", model.parameters.iter(), |(name, n)| {
        vec![name.clone(), count(*n)]
    });
}

fn configuration(out: &mut String, model: &Model) {
    if model.config.is_empty() && model.built.is_empty() {
        return;
    }
    out.push_str("<h2 class=\"screen\">Configuration</h2>\n");
    pairs(out, "The model as built", &model.built);
    pairs(out, "Every key of the training", &model.config);
}

fn pairs(out: &mut String, title: &str, pairs: &[(String, String)]) {
    if !pairs.is_empty() {
        let _ = writeln!(out, "<details><summary>{title}</summary>");
        table(out, &["key", "value"], "--", pairs, |(key, value)| vec![key.clone(), value.clone()]);
        out.push_str("</details>\n");
    }
}

/// A table; `align` has a letter per column, `r` for numbers. Cells are escaped here.
fn table<T>(
    out: &mut String,
    head: &[&str],
    align: &str,
    rows: impl IntoIterator<Item = T>,
    cells: impl Fn(T) -> Vec<String>,
) {
    let class = |c: char| if c == 'r' { " class=\"n\"" } else { "" };
    out.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    for (name, c) in head.iter().zip(align.chars()) {
        let _ = write!(out, "<th{}>{name}</th>", class(c));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for (cell, c) in cells(row).iter().zip(align.chars()) {
            let _ = write!(out, "<td{}>{}</td>", class(c), esc(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

//! The report as Markdown, with the curve as a picture beside it.

use std::fmt::Write;

use super::escape::{markdown as esc, markdown_line};
use super::model::{Course, Fact, Model, Rates, percent, spread};
use crate::progress::format::count;
use crate::runs::sign::MARK;

/// Evaluations listed at most.
const EVALS: usize = 12;

pub(super) fn render(model: &Model) -> String {
    let mut out = format!("# {}\n", esc(&model.title));
    if model.is_empty() {
        out.push_str("\nNo input of this report is connected, so it has nothing to show.\n");
    }
    facts(&mut out, &model.headline);
    let _ = writeln!(out, "\n{MARK}");
    course(&mut out, "Loss", "loss.svg", &model.course);
    if !model.rates.is_empty() {
        out.push_str("\n## Learning rates\n");
        let head = ["group", "first step", "highest", "last step"];
        table(&mut out, &head, "-rrr", model.rates.iter(), |r| {
            let [first, highest, last] = [r.first, r.highest, r.last].map(Rates::shown);
            vec![esc(&r.group), first, highest, last]
        });
    }
    course(&mut out, "Learning to answer", "chat.svg", &model.chat);
    if !model.beside_gpt2.is_empty() {
        out.push_str("\n## CORE beside GPT-2\n");
        table(&mut out, &["model", "CORE"], "-r", &model.beside_gpt2, |(name, core)| {
            vec![esc(name), format!("{core:.4}")]
        });
    }
    tasks(&mut out, model);
    samples(&mut out, model);
    if !model.tokenizer.is_empty() {
        out.push_str("\n## Tokenizer\n");
        facts(&mut out, &model.tokenizer);
    }
    if !model.held_out.is_empty() {
        out.push_str("\n## Held-out text\n");
        table(&mut out, &["stage", "held out"], "--", &model.held_out, |(stage, text)| {
            vec![esc(stage), esc(text)]
        });
    }
    packing(&mut out, model);
    if !model.parameters.is_empty() {
        out.push_str("\n## Parameters\n");
        table(&mut out, &["group", "parameters"], "-r", model.parameters.iter(), |(name, n)| {
            vec![esc(name), count(*n)]
        });
    }
    pairs(&mut out, "Model", &model.built);
    pairs(&mut out, "Configuration of the training", &model.config);
    out
}

fn pairs(out: &mut String, title: &str, pairs: &[(String, String)]) {
    if !pairs.is_empty() {
        let _ = write!(out, "\n## {title}\n");
        table(out, &["key", "value"], "--", pairs, |(key, value)| vec![esc(key), esc(value)]);
    }
}

fn facts(out: &mut String, facts: &[Fact]) {
    if !facts.is_empty() {
        table(out, &["", "", ""], "---", facts.iter(), |f| {
            vec![f.name.to_owned(), format!("**{}**", esc(&f.value)), esc(&f.note)]
        });
    }
}

fn course(out: &mut String, title: &str, picture: &str, course: &Course) {
    if course.is_empty() {
        return;
    }
    let _ = write!(out, "\n## {title}\n");
    if course.curve.is_some() {
        let _ = write!(
            out,
            "\n![Training loss and bits per byte of held-out text over the steps]({picture})\n"
        );
    }
    if !course.evals.is_empty() {
        let shown = spread(&course.evals, EVALS);
        let number = |x: Option<f64>| x.map_or_else(|| "–".into(), |x| format!("{x:.4}"));
        table(out, &["step", "bits per byte", "held-out loss"], "rrr", shown, |e| {
            vec![count(e.step), number(e.val_bpb), number(e.val_loss)]
        });
    }
}

fn tasks(out: &mut String, model: &Model) {
    if model.tasks.is_empty() {
        return;
    }
    out.push_str("\n## Tasks\n");
    let head = ["task", "type", "accuracy", "chance", "centred", "examples"];
    table(out, &head, "--rrrr", model.tasks.iter(), |t| {
        vec![
            esc(&t.name),
            esc(&t.kind),
            percent(t.accuracy),
            percent(t.baseline),
            format!("{:.3}", t.centered),
            count(t.examples),
        ]
    });
}

fn samples(out: &mut String, model: &Model) {
    if model.samples.is_empty() {
        return;
    }
    out.push_str("\n## Samples\n");
    for (i, sample) in model.samples.iter().enumerate() {
        if i > 0 {
            // Two quotations in a row would be one.
            out.push_str("\n<!-- -->\n");
        }
        out.push('\n');
        let text = sample.continuation();
        let mut lines: Vec<String> = text.split('\n').map(markdown_line).collect();
        let prompt = esc(&sample.prompt);
        if !prompt.is_empty() {
            let space = if text.starts_with(char::is_whitespace) { " " } else { "" };
            lines[0] = format!("**{prompt}**{space}{}", lines[0]);
        }
        let quoted: Vec<_> = lines.iter().map(|l| format!("> {l}").trim_end().to_owned()).collect();
        out.push_str(&quoted.join("\\\n").replace(">\\\n", ">\n").replace("\\\n>\n", "\n>\n"));
        out.push('\n');
        if let Some(temperature) = sample.temperature {
            let _ = write!(out, ">\n> *temperature {temperature}*\n");
        }
    }
}

fn packing(out: &mut String, model: &Model) {
    if model.packs.is_empty() {
        return;
    }
    out.push_str("\n## Packing\n");
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
            esc(&p.split),
            count(p.documents),
            count(p.tokens_in),
            format!("{} × {}", count(p.rows), count(p.row_tokens)),
            percent(p.lost),
            percent(p.bound),
            percent(p.continuation),
            percent(p.utilisation),
        ]
    });
    out.push_str("\nBound: what must be lost if no document is split over rows.\n");
    for pack in model.packs.iter().filter(|p| !p.lengths.is_empty()) {
        let _ = write!(out, "\nDocument lengths ({}):\n", esc(&pack.measured()));
        table(out, &["tokens", "documents"], "rr", pack.lengths.iter(), |l| {
            vec![format!("{} – {}", count(l.from), count(l.to)), count(l.documents)]
        });
    }
}

/// A table; `align` has a letter per column, `r` for numbers.
fn table<T>(
    out: &mut String,
    head: &[&str],
    align: &str,
    rows: impl IntoIterator<Item = T>,
    cells: impl Fn(T) -> Vec<String>,
) {
    let rule = align.chars().map(|c| if c == 'r' { "---:" } else { "---" });
    let _ =
        write!(out, "\n| {} |\n| {} |\n", head.join(" | "), rule.collect::<Vec<_>>().join(" | "));
    for row in rows {
        let _ = writeln!(out, "| {} |", cells(row).join(" | "));
    }
}

//! The table of `docs/performance.md`: what a micro-batch was estimated to take, and what it took.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail};

use super::summary::{Ratio, Summary};
use super::{between, cells};

pub(super) const FILE: &str = "docs/performance.md";
const BEGIN: &str = "<!-- measured -->\n";
const END: &str = "<!-- /measured -->";
const HEAD: &str = "| part of one micro-batch (24 layers) | work | ms on paper | ms measured |\n| --- | --- | ---: | ---: |\n";

/// The document with a run's figures; as it was, if the run did not time d24.
pub(super) fn entered(doc: &str, summary: &Summary, gpu: &str) -> Result<String> {
    let Some(step) = &summary.d24 else { return Ok(doc.to_owned()) };
    let (head, table, tail) = between(doc, FILE, BEGIN, END)?;
    let mut measured: BTreeMap<&str, f64> =
        step.paper.iter().map(|one| (one.row.as_str(), one.ms)).collect();
    let mut text = format!(
        "Measured on {}: {gpu}, commit {}, `{}` of `cargo xtask gpu-bundle`, where `gpu_step --depth 24 --rows 16` gives the last column. The figures on paper are for an H100.\n\n{HEAD}",
        summary.date, summary.commit, summary.command
    );
    for [row, work, paper] in rows(table) {
        let ms = match measured.remove(row.trim_matches('*')) {
            Some(ms) => format!("{ms:.1}"),
            None => "not measured".to_owned(),
        };
        let _ = writeln!(text, "| {row} | {work} | {paper} | {ms} |");
    }
    if let Some((row, _)) = measured.first_key_value() {
        bail!(
            "gpu_step measured `{row}`, which is no row of {FILE}\n  hint: the rows are named in crates/optim/examples/gpu_step"
        );
    }
    text.push_str(
        "\nOne micro-batch of 16 rows, forward and backward, without the optimizer; nanochat on the same GPU in the same run, compiled, with FlexAttention in place of FlashAttention-3.\n\n\
         | model | ours, ms | nanochat bf16, ms | ours / nanochat | nanochat fp8, ms | ours / nanochat fp8 |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for (model, Ratio { ours_ms, nanochat_bf16_ms, bf16, nanochat_fp8_ms, fp8 }) in
        [("d12", summary.ratio.d12), ("d24", summary.ratio.d24)]
    {
        let figure = |x: Option<f64>, digits: usize| {
            x.map_or_else(|| "not measured".to_owned(), |x| format!("{x:.digits$}"))
        };
        let _ = writeln!(
            text,
            "| {model} | {} | {} | {} | {} | {} |",
            figure(ours_ms, 1),
            figure(nanochat_bf16_ms, 1),
            figure(bf16, 3),
            figure(nanochat_fp8_ms, 1),
            figure(fp8, 3)
        );
    }
    Ok(format!("{head}{BEGIN}{text}{END}{tail}"))
}

/// The first three cells of the estimate's rows.
fn rows(table: &str) -> impl Iterator<Item = [&str; 3]> {
    let table = table.split_once(HEAD).map_or("", |(_, rows)| rows);
    table.lines().map_while(cells).filter_map(|cells| match cells[..] {
        [row, work, paper, _] => Some([row, work, paper]),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::SUMMARY;
    use super::*;

    fn committed() -> String {
        std::fs::read_to_string(crate::workspace::root().join(FILE)).unwrap()
    }

    fn empty() -> String {
        format!(
            "before\n{BEGIN}From paper.\n\n{HEAD}| head | 9.9 TF | 26 | not yet |\n| gaps | | 3.3 | not yet |\n| **sum** | | **362** | not yet |\n{END}\nafter\n"
        )
    }

    #[test]
    fn a_run_fills_the_column_and_a_later_one_replaces_it() {
        let (summary, gpu) = Summary::parse(SUMMARY).unwrap();
        let doc = entered(&empty(), &summary, &gpu).unwrap();
        for line in [
            "| head | 9.9 TF | 26 | 24.1 |",
            "| gaps |  | 3.3 | not measured |",
            "| **sum** |  | **362** | 400.5 |",
            "| d24 | 400.5 | 400.0 | 1.001 | 320.0 | 1.250 |",
            "| d12 | 60.0 | not measured |",
            "Measured on 2026-12-01: NVIDIA H200, commit 0123abc, `./run.sh out`",
            "FlexAttention",
        ] {
            assert!(doc.contains(line), "{line}: {doc}");
        }
        assert!(
            doc.starts_with("before\n") && doc.ends_with("after\n") && !doc.contains("not yet")
        );
        let (later, _) = Summary::parse(&SUMMARY.replace("24.06", "11")).unwrap();
        let doc = entered(&doc, &later, &gpu).unwrap();
        assert!(
            doc.contains("| head | 9.9 TF | 26 | 11.0 |") && doc.matches("| d24 |").count() == 1,
            "{doc}"
        );
    }

    #[test]
    fn a_run_without_d24_changes_nothing_and_an_unknown_row_is_refused() {
        let (mut summary, gpu) = Summary::parse(&SUMMARY.replace("\"head\"", "\"heads\"")).unwrap();
        let error = entered(&empty(), &summary, &gpu).unwrap_err().to_string();
        assert!(error.contains("`heads`"), "{error}");
        summary.d24 = None;
        assert_eq!(entered(&empty(), &summary, &gpu).unwrap(), empty());
    }

    /// Every row of the document gets its figure from `gpu_step`, and it has no other.
    #[test]
    fn the_committed_rows_are_those_that_gpu_step_measures() {
        let doc = committed();
        let (_, table, _) = between(&doc, FILE, BEGIN, END).unwrap();
        let source = crate::workspace::root().join("crates/optim/examples/gpu_step/table.rs");
        let source = std::fs::read_to_string(source).unwrap();
        let (_, list) = source.split_once("fn paper(").expect("gpu_step has its rows in `paper`");
        let names: Vec<&str> = rows(table).map(|[row, ..]| row.trim_matches('*')).collect();
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(list.contains(&format!("\"{name}\"")), "gpu_step does not measure `{name}`");
        }
    }
}

//! What a run on a GPU enters into the documents: the table of kernels in `docs/gpu.md`, what each passed and when, or that it has run in the
//! emulator only; and the figures of `docs/performance.md`.
//!
//! A row that names a device carries the digest of the PTX that ran there, so that it cannot outlive it. A kernel that failed costs its own
//! row.

mod performance;
mod summary;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

use crate::ptx::Manifest;
use crate::workspace;
use summary::Summary;

const FILE: &str = "docs/gpu.md";
const BEGIN: &str = "<!-- kernels -->\n";
const END: &str = "<!-- /kernels -->";
const EMULATOR: &str = "the emulator only";
/// Hexadecimal digits of a digest that a row shows.
const DIGITS: usize = 12;

/// By PTX file and kernel: where it ran.
type Rows = BTreeMap<(String, String), String>;

/// `cargo xtask gpu-doc RESULTS`: enters what a run of the bundle's `run.sh` launched and measured.
pub(crate) fn record(results: &Path) -> Result<()> {
    let read = |name: &str| {
        let path = results.join(name);
        fs::read_to_string(&path).map_err(|error| {
            anyhow!(
                "cannot read {}: {error}\n  hint: RESULTS is the folder that the bundle's run.sh was given",
                path.display()
            )
        })
    };
    let ran = Manifest::parse(&read("MANIFEST.toml")?).context("in the results' MANIFEST.toml")?;
    let (summary, gpu) = Summary::parse(&read("summary.json")?)?;
    let kernels = read_doc(FILE)?;
    let entered = entered(&kernels, &ran, &summary, &gpu)?;
    let entered = updated(&entered, &committed_manifest()?)?;
    let figures = read_doc(performance::FILE)?;
    let measured = performance::entered(&figures, &summary, &gpu)?;
    if summary.d24.is_none() {
        println!("d24 was not timed: {} stays as it is", performance::FILE);
    }
    write_doc(FILE, &kernels, &entered)?;
    write_doc(performance::FILE, &figures, &measured)
}

/// What `docs/gpu.md` should say, if it says something else.
pub(crate) fn drift(manifest: &Manifest) -> Result<Option<String>> {
    let doc = read_doc(FILE)?;
    Ok((updated(&doc, manifest)? != doc)
        .then(|| format!("{FILE} has not the kernels of crates/kernels/ptx\n  hint: run `cargo xtask ptx` and commit {FILE}")))
}

/// Brings the table up to date with the kernels there are.
pub(crate) fn refresh(manifest: &Manifest) -> Result<()> {
    let doc = read_doc(FILE)?;
    write_doc(FILE, &doc, &updated(&doc, manifest)?)
}

fn read_doc(file: &str) -> Result<String> {
    fs::read_to_string(workspace::root().join(file)).with_context(|| format!("cannot read {file}"))
}

fn write_doc(file: &str, old: &str, new: &str) -> Result<()> {
    if old == new {
        return Ok(());
    }
    let target = workspace::root().join(file);
    let partial = target.with_extension("partial");
    fs::write(&partial, new)
        .and_then(|()| fs::rename(&partial, &target))
        .with_context(|| format!("cannot write {file}"))?;
    println!("wrote {file}");
    Ok(())
}

fn committed_manifest() -> Result<Manifest> {
    let path = workspace::root().join("crates/kernels/ptx/MANIFEST.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Manifest::parse(&text).with_context(|| format!("in {}", path.display()))
}

/// The document with the table of the manifest's kernels: rows of a device stay where the PTX is still what ran there.
fn updated(doc: &str, manifest: &Manifest) -> Result<String> {
    let (head, table, tail) = between(doc, FILE, BEGIN, END)?;
    let known = rows(table);
    let mut text = String::from("| kernel | PTX | has run on |\n| --- | --- | --- |\n");
    for (file, kernel, digest) in kernels(manifest) {
        let ran = known
            .get(&(file.clone(), kernel.clone()))
            .filter(|ran| ran.contains(&format!(", PTX {digest}: ")))
            .map_or(EMULATOR, String::as_str);
        let _ = writeln!(text, "| `{kernel}` | {file} | {ran} |");
    }
    Ok(format!("{head}{BEGIN}{text}{END}{tail}"))
}

/// The document with what a run's kernels passed; `ran` is the PTX that the run had.
fn entered(doc: &str, ran: &Manifest, summary: &Summary, gpu: &str) -> Result<String> {
    let (head, table, tail) = between(doc, FILE, BEGIN, END)?;
    let mut known = rows(table);
    for (file, kernel, digest) in kernels(ran) {
        if let Some(verdict) = summary.verdict(&kernel) {
            let ran = format!("{gpu}, {}, PTX {digest}: {verdict}", summary.date);
            known.insert((file, kernel), ran);
        }
    }
    let mut text = String::new();
    for ((file, kernel), ran) in &known {
        let _ = writeln!(text, "| `{kernel}` | {file} | {ran} |");
    }
    Ok(format!("{head}{BEGIN}{text}{END}{tail}"))
}

/// Each kernel with its PTX file and the beginning of that file's digest.
fn kernels(manifest: &Manifest) -> impl Iterator<Item = (String, String, String)> {
    manifest.source.iter().flat_map(|(path, record)| {
        let (folder, name) = path.split_once('/').unwrap_or(("sm80", path));
        let file = format!("{folder}/{}.ptx", name.trim_end_matches(".cu"));
        let digest: String = record.ptx.chars().take(DIGITS).collect();
        record.kernels.keys().map(move |kernel| (file.clone(), kernel.clone(), digest.clone()))
    })
}

/// A document before, between and after two marks.
fn between<'d>(
    doc: &'d str,
    file: &str,
    begin: &str,
    end: &str,
) -> Result<(&'d str, &'d str, &'d str)> {
    let split = || {
        let (head, rest) = doc.split_once(begin)?;
        let (table, tail) = rest.split_once(end)?;
        Some((head, table, tail))
    };
    split().with_context(|| format!("{file} has no lines `{}` and `{end}`", begin.trim()))
}

/// The cells of a line of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    Some(line.trim().strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect())
}

fn rows(table: &str) -> Rows {
    table
        .lines()
        .filter_map(|line| match cells(line)?[..] {
            [kernel, file, ran] => {
                let kernel = kernel.strip_prefix('`')?.strip_suffix('`')?;
                Some(((file.to_owned(), kernel.to_owned()), ran.to_owned()))
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::summary::tests::SUMMARY;
    use super::*;

    fn manifest(digest: &str) -> Manifest {
        let text = format!(
            "[tools]\n[source.\"a.cu\"]\nflags = []\nptx_version = \"7.8\"\nptx = \"{digest}\"\n[source.\"a.cu\".inputs]\n\
             [source.\"a.cu\".kernels.fill]\n[source.\"a.cu\".kernels.cast]\n\
             [source.\"a.cu\".kernels.mean]\n[source.\"a.cu\".kernels.gone]\n"
        );
        Manifest::parse(&text).unwrap()
    }

    const EMPTY: &str = "before\n<!-- kernels -->\n<!-- /kernels -->\nafter\n";

    #[test]
    fn a_new_kernel_has_run_in_the_emulator_only() {
        let doc = updated(EMPTY, &manifest("00112233445566")).unwrap();
        assert!(
            doc.contains("| `fill` | sm80/a.ptx | the emulator only |\n")
                && doc.ends_with("after\n"),
            "{doc}"
        );
        assert_eq!(updated(&doc, &manifest("00112233445566")).unwrap(), doc, "and stays as it is");
        let claimed = doc.replacen(EMULATOR, "my desk", 1);
        assert_eq!(
            updated(&claimed, &manifest("00112233445566")).unwrap(),
            doc,
            "a claim without a digest is not kept"
        );
        assert!(updated("no marks", &manifest("00")).is_err());
    }

    #[test]
    fn what_ran_on_a_device_is_entered_and_falls_back_with_the_ptx() {
        let old = manifest("00112233445566");
        let (summary, gpu) = Summary::parse(SUMMARY).unwrap();
        let doc = updated(&entered(EMPTY, &old, &summary, &gpu).unwrap(), &old).unwrap();
        // A failure costs its own row.
        for row in [
            "| `fill` | sm80/a.ptx | NVIDIA H200, 2026-12-01, PTX 001122334455: conformance, same bits |",
            "| `mean` | sm80/a.ptx | NVIDIA H200, 2026-12-01, PTX 001122334455: FAILED in mean: off by 3 / of 2 |",
            "| `cast` | sm80/a.ptx | NVIDIA H200, 2026-12-01, PTX 001122334455: same bits (mean failed, which launches it) |",
            "| `gone` | sm80/a.ptx | the emulator only |",
        ] {
            assert!(doc.contains(row), "{row}: {doc}");
        }
        assert_eq!(updated(&doc, &old).unwrap(), doc, "and stays as it is");
        let changed = updated(&doc, &manifest("ff112233445566")).unwrap();
        assert!(!changed.contains("H200"), "{changed}");
    }

    #[test]
    fn a_run_of_older_ptx_says_nothing_of_todays() {
        let (summary, gpu) = Summary::parse(SUMMARY).unwrap();
        let doc = entered(EMPTY, &manifest("00112233445566"), &summary, &gpu).unwrap();
        let doc = updated(&doc, &manifest("ff112233445566")).unwrap();
        assert!(
            !doc.contains("H200") && doc.contains("| `fill` | sm80/a.ptx | the emulator only |")
        );
    }

    /// A kernel without a row fails here.
    #[test]
    fn the_committed_table_has_every_committed_kernel() {
        assert_eq!(drift(&committed_manifest().unwrap()).unwrap(), None);
    }
}

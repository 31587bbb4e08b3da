//! The table of kernels in `docs/gpu.md`: which have run on a GPU, and which in the emulator only.
//!
//! A row that names a device carries the digest of the PTX that ran there, so that it cannot outlive it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use crate::ptx::Manifest;
use crate::workspace;

const FILE: &str = "docs/gpu.md";
const BEGIN: &str = "<!-- kernels -->\n";
const END: &str = "<!-- /kernels -->";
const EMULATOR: &str = "the emulator only";
/// Hexadecimal digits of a digest that a row shows.
const DIGITS: usize = 12;

/// By PTX file and kernel: where it ran.
type Rows = BTreeMap<(String, String), String>;

/// `cargo xtask gpu-doc RESULTS`: enters what a run of the bundle's `run.sh` launched.
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
    let doc = read_doc()?;
    let now = committed_manifest()?;
    let entered = entered(&doc, &ran, &read("summary.md")?, &read("same_bits.log")?)?;
    let text = updated(&entered, &now)?;
    write_doc(&doc, &text)
}

/// What `docs/gpu.md` should say, if it says something else.
pub(crate) fn drift(manifest: &Manifest) -> Result<Option<String>> {
    let doc = read_doc()?;
    Ok((updated(&doc, manifest)? != doc)
        .then(|| format!("{FILE} has not the kernels of crates/kernels/ptx\n  hint: run `cargo xtask ptx` and commit {FILE}")))
}

/// Brings the table up to date with the kernels there are.
pub(crate) fn refresh(manifest: &Manifest) -> Result<()> {
    let doc = read_doc()?;
    write_doc(&doc, &updated(&doc, manifest)?)
}

fn read_doc() -> Result<String> {
    fs::read_to_string(workspace::root().join(FILE)).with_context(|| format!("cannot read {FILE}"))
}

fn write_doc(old: &str, new: &str) -> Result<()> {
    if old == new {
        return Ok(());
    }
    let target = workspace::root().join(FILE);
    let partial = target.with_extension("partial");
    fs::write(&partial, new)
        .and_then(|()| fs::rename(&partial, &target))
        .with_context(|| format!("cannot write {FILE}"))?;
    println!("wrote {FILE}");
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
    let (head, table, tail) = parts(doc)?;
    let known = rows(table);
    let mut text = String::from("| kernel | PTX | has run on |\n| --- | --- | --- |\n");
    for (file, kernel, digest) in kernels(manifest) {
        let ran = known
            .get(&(file.clone(), kernel.clone()))
            .filter(|ran| ran.ends_with(&format!(", PTX {digest}")))
            .map_or(EMULATOR, String::as_str);
        let _ = writeln!(text, "| `{kernel}` | {file} | {ran} |");
    }
    Ok(format!("{head}{BEGIN}{text}{END}{tail}"))
}

/// The document with what a run launched: `summary` begins with its date and device, `log` names a kernel at the start of a line.
fn entered(doc: &str, ran: &Manifest, summary: &str, log: &str) -> Result<String> {
    let (head, table, tail) = parts(doc)?;
    let mut first = summary.lines().next().unwrap_or_default().splitn(3, ", ");
    let (Some(date), Some(device)) = (first.next(), first.next()) else {
        bail!("summary.md does not begin with a date and a device")
    };
    for part in ["conformance", "same_bits"] {
        if !summary.contains(&format!("| {part} | passed |")) {
            bail!("summary.md does not say that {part} passed: no kernel is entered");
        }
    }
    let launched: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" launches, "))
        .filter_map(|line| line.split_once(": ").map(|(kernel, _)| kernel))
        .collect();
    let mut known = rows(table);
    for (file, kernel, digest) in kernels(ran) {
        if launched.contains(&kernel.as_str()) {
            known.insert((file, kernel), format!("{device}, {date}, PTX {digest}"));
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

/// The document before, in and after the table.
fn parts(doc: &str) -> Result<(&str, &str, &str)> {
    let split = || {
        let (head, rest) = doc.split_once(BEGIN)?;
        let (table, tail) = rest.split_once(END)?;
        Some((head, table, tail))
    };
    split().with_context(|| format!("{FILE} has no lines `{}` and `{END}`", BEGIN.trim()))
}

fn rows(table: &str) -> Rows {
    table
        .lines()
        .filter_map(|line| {
            let mut cells =
                line.trim().strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim);
            let kernel = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some(((cells.next()?.to_owned(), kernel.to_owned()), cells.next()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(digest: &str) -> Manifest {
        let text = format!(
            "[tools]\n[source.\"a.cu\"]\nflags = []\nptx_version = \"7.8\"\nptx = \"{digest}\"\n[source.\"a.cu\".inputs]\n\
             [source.\"a.cu\".kernels.fill]\n[source.\"a.cu\".kernels.cast]\n"
        );
        Manifest::parse(&text).unwrap()
    }

    const EMPTY: &str = "before\n<!-- kernels -->\n<!-- /kernels -->\nafter\n";
    const SUMMARY: &str = "2026-12-01, NVIDIA H200, `./run.sh`\n\n| part | result | time |\n| conformance | passed | 9 s |\n| same_bits | passed | 9 s |\n";

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
        let log = "running 3 tests\nfill: exact, 3 launches, 0 differ, in 0 bytes\ntest x ... ok\n";
        let doc = updated(&entered(EMPTY, &old, SUMMARY, log).unwrap(), &old).unwrap();
        assert!(
            doc.contains("| `fill` | sm80/a.ptx | NVIDIA H200, 2026-12-01, PTX 001122334455 |"),
            "{doc}"
        );
        assert!(doc.contains("| `cast` | sm80/a.ptx | the emulator only |"), "{doc}");
        let changed = updated(&doc, &manifest("ff112233445566")).unwrap();
        assert!(!changed.contains("H200"), "{changed}");
    }

    #[test]
    fn a_run_that_failed_enters_nothing() {
        for part in ["conformance | passed", "same_bits | passed"] {
            let failed = SUMMARY.replace(part, "FAILED");
            assert!(entered(EMPTY, &manifest("00"), &failed, "").is_err());
        }
        assert!(entered(EMPTY, &manifest("00"), SUMMARY, "").is_ok());
        assert!(entered(EMPTY, &manifest("00"), "", "").is_err());
    }

    /// A kernel without a row fails here.
    #[test]
    fn the_committed_table_has_every_committed_kernel() {
        assert_eq!(drift(&committed_manifest().unwrap()).unwrap(), None);
    }
}

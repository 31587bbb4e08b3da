//! `cargo xtask ptx`: from `crates/kernels/cu/` to the committed `crates/kernels/ptx/`, and the check that both agree.
//!
//! Everything is compiled from a copy of `cu/` in a temporary folder, so that a source whose output depends on its path shows as drift on the
//! next check. The PTX is assembled for every architecture it is meant for, to record registers, spills and memory in the manifest.

mod assemble;
mod committed;
mod compile;
mod flags;
mod fused;
mod manifest;
mod packages;
mod sass;
mod set;
mod source;
mod symbols;
mod toolkit;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, bail};

use self::assemble::Fusing;
pub(crate) use self::manifest::Manifest;
use self::manifest::Record;
pub(crate) use self::sass::run as sass;
use self::source::Source;
use self::toolkit::Toolkit;
use crate::{gpu_doc, workspace};

/// One source compiled and assembled.
struct Built {
    ptx: String,
    record: Record,
    /// What `--check` refuses although it compiles: spills, warnings about serialised wgmma, products fused against their text.
    complaints: Vec<String>,
}

/// Regenerates the committed PTX, or checks it.
pub(crate) fn run(check: bool, toolkit: Option<&Path>) -> Result<()> {
    let kernels = workspace::root().join("crates/kernels");
    let toolkit = Toolkit::find(toolkit, &kernels.join("cu/requirements.txt"))?;
    let sources = source::list(&kernels.join("cu"))?;
    let built = build_all(&toolkit, &kernels.join("cu"), &sources)?;

    let mut records = BTreeMap::new();
    let mut files = BTreeMap::new();
    let mut complaints = Vec::new();
    for (source, built) in sources.iter().zip(built) {
        files.insert(source.ptx_path(), built.ptx);
        complaints.extend(built.complaints);
        records.insert(source.path.clone(), built.record);
    }
    let manifest = Manifest { tools: Toolkit::versions(), source: records };
    files.insert(manifest::FILE.to_owned(), manifest.print());

    let folder = kernels.join("ptx");
    if check {
        complaints.extend(committed::drift(&folder, &files)?);
        complaints.extend(gpu_doc::drift(&manifest)?);
    } else {
        for change in committed::write(&folder, &files)? {
            println!("{change}");
        }
        gpu_doc::refresh(&manifest)?;
        print!("{}", manifest.table());
    }
    if complaints.is_empty() {
        let kernels: usize = manifest.source.values().map(|record| record.kernels.len()).sum();
        println!(
            "{} sources, {kernels} kernels: {}",
            sources.len(),
            if check { "as committed, no spills" } else { "no spills" }
        );
        return Ok(());
    }
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    let what =
        if check { "refused" } else { "written, but `cargo xtask ptx --check` would refuse" };
    bail!("{what}: {} complaints above", complaints.len())
}

/// Compiles and assembles every source, a few at a time, from a copy of `cu`.
fn build_all(toolkit: &Toolkit, cu: &Path, sources: &[Source]) -> Result<Vec<Built>> {
    let copy = tempfile::tempdir().context("cannot make a temporary folder")?;
    source::copy_folder(cu, copy.path())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(sources.len());
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<Result<Built>>>> =
        sources.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((source, slot)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    sources.get(i).zip(done.get(i))
                } {
                    let built = build(toolkit, copy.path(), source);
                    if let Ok(mut slot) = slot.lock() {
                        *slot = Some(built);
                    }
                }
            });
        }
    });
    let mut all = Vec::new();
    let mut failures = Vec::new();
    for (source, slot) in sources.iter().zip(done) {
        match slot.into_inner().ok().flatten() {
            Some(Ok(built)) => all.push(built),
            Some(Err(error)) => failures.push(format!("{}: {error:#}", source.path)),
            None => failures.push(format!("{}: its thread ended early", source.path)),
        }
    }
    if failures.is_empty() { Ok(all) } else { Err(anyhow!("{}", failures.join("\n\n"))) }
}

fn build(toolkit: &Toolkit, cu: &Path, source: &Source) -> Result<Built> {
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let raw = compile::nvcc(toolkit, cu, source, scratch.path())?;
    let ptx = compile::normalise(&raw, source)?;
    symbols::check(&ptx)?;

    let mut record = Record {
        flags: source.flags(),
        ptx_version: source.set.version().to_owned(),
        ptx: source::digest(ptx.as_bytes()),
        inputs: source.inputs.clone(),
        kernels: symbols::kernels(&ptx).into_iter().map(|name| (name, BTreeMap::new())).collect(),
    };
    let mut complaints = Vec::new();
    for &architecture in source.set.architectures() {
        let report = assemble::ptxas(toolkit, &ptx, architecture, Fusing::Allowed, scratch.path())?;
        for (kernel, usage) in report.kernels {
            if usage.spill_bytes > 0 {
                complaints.push(format!(
                    "{}: {kernel} spills {} bytes on {architecture} ({} registers)\n  \
                     hint: hold less per thread, or give it more registers with __launch_bounds__",
                    source.path, usage.spill_bytes, usage.registers
                ));
            }
            record
                .kernels
                .get_mut(&kernel)
                .with_context(|| format!("ptxas reports {kernel}, which the PTX does not have"))?
                .insert(architecture.to_owned(), usage);
        }
        complaints.extend(
            report
                .warnings
                .iter()
                .map(|warning| format!("{}: on {architecture} ptxas says: {warning}", source.path)),
        );
        if architecture == fused::ARCHITECTURE {
            let fused = fused::complaints(toolkit, &ptx, scratch.path())?;
            complaints
                .extend(fused.iter().map(|complaint| format!("{}: {complaint}", source.path)));
        }
    }
    Ok(Built { ptx, record, complaints })
}

//! `cargo xtask sass`: the machine code that ptxas makes of a committed kernel, for whoever wants to see what the GPU will run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::assemble::Fusing;
use super::packages::{self, Packages};
use super::toolkit::Toolkit;
use super::{assemble, committed, manifest, symbols};
use crate::workspace;

/// Prints `kernel` for `architecture`: its instructions, and how many of each kind there are.
pub(crate) fn run(kernel: &str, architecture: &str, toolkit: Option<&Path>) -> Result<()> {
    let kernels = workspace::root().join("crates/kernels");
    let (path, ptx) = find(&kernels.join("ptx"), kernel)?;
    let toolkit = Toolkit::find(toolkit, &kernels.join("cu/requirements.txt"))?;
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let report = assemble::ptxas(&toolkit, &ptx, architecture, Fusing::Allowed, scratch.path())?;
    let listing = disassemble(&kernels, &scratch.path().join(assemble::CUBIN))?;
    let code = section(&listing, kernel)
        .with_context(|| format!("the disassembler shows no `{kernel}` in what ptxas made"))?;
    println!("{code}\n");
    let usage = report.kernels.get(kernel).copied().unwrap_or_default();
    println!("{kernel} of {path} for {architecture}: {} registers", usage.registers);
    print!("{}", table(code));
    Ok(())
}

/// The committed file that has `kernel`, and its text.
fn find(folder: &Path, kernel: &str) -> Result<(String, String)> {
    let mut names = Vec::new();
    for path in committed::present(folder)? {
        if path == manifest::FILE {
            continue;
        }
        let file = folder.join(&path);
        let ptx =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let here = symbols::kernels(&ptx);
        if here.iter().any(|name| name == kernel) {
            return Ok((path, ptx));
        }
        names.extend(here);
    }
    names.sort();
    bail!("no kernel `{kernel}`\n  hint: there are {}", names.join(", "))
}

/// What nvdisasm prints of `cubin`.
fn disassemble(kernels: &Path, cubin: &Path) -> Result<String> {
    let folder = packages::fetch(&Packages {
        name: "cuda-disassembler",
        what: "the CUDA disassembler",
        megabytes: 5,
        requirements: &kernels.join("cu/requirements-disassembler.txt"),
        instead: "read the PTX: nothing else needs the disassembler",
    })?;
    let tool = folder.join(packages::INSIDE).join("bin/nvdisasm");
    let output = Command::new(&tool)
        .arg("--print-code")
        .arg(cubin)
        .output()
        .with_context(|| format!("cannot run {}", tool.display()))?;
    if !output.status.success() {
        bail!("nvdisasm failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("nvdisasm printed no text")
}

/// The labels and instructions of one kernel.
fn section<'a>(listing: &'a str, kernel: &str) -> Option<&'a str> {
    let label = format!("\n.text.{kernel}:\n");
    let (_, code) = listing.split_once(&label)?;
    Some(code.split_once("\n//---").map_or(code, |(code, _)| code).trim_end())
        .filter(|code| !code.is_empty())
}

/// How many instructions of each kind, the most frequent first.
fn table(code: &str) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in code.lines() {
        let Some((_, instruction)) = line.split_once("*/") else { continue };
        let mut words = instruction.split_whitespace().filter(|word| !word.starts_with('@'));
        if let Some(opcode) = words.next() {
            *counts.entry(opcode.trim_end_matches(';')).or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let mut text = String::new();
    for (opcode, count) in counts {
        let _ = writeln!(text, "{count:7}  {opcode}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    // nvdisasm 13.2.51's own words, shortened.
    const LISTING: &str = "\t.target\tsm_90a\n\n\n//--------------------- .text.one     -----\n\
        one:\n.text.one:\n        /*0000*/                   LDC R1, c[0x0][0x28] ;\n\
        .L_x_2:\n        /*0010*/                   LDG.E.128 R4, desc[UR8][R4.64] ;\n        /*0020*/               @!P0 BRA `(.L_x_2) ;\n\
        \x20       /*0030*/                   LDG.E.128 R8, desc[UR8][R4.64] ;\n        /*0040*/                   EXIT ;\n.L_x_3:\n\n\
        //--------------------- .text.two     -----\ntwo:\n.text.two:\n        /*0000*/                   EXIT ;\n";

    #[test]
    fn a_kernels_code_ends_where_the_next_begins() {
        let one = section(LISTING, "one").unwrap();
        assert!(one.starts_with("        /*0000*/") && one.ends_with(".L_x_3:"), "{one}");
        assert_eq!(section(LISTING, "two").unwrap().lines().count(), 1);
        assert!(section(LISTING, "on").is_none());
    }

    #[test]
    fn instructions_are_counted_without_their_guards() {
        let table = table(section(LISTING, "one").unwrap());
        assert_eq!(table, "      2  LDG.E.128\n      1  BRA\n      1  EXIT\n      1  LDC\n");
    }

    #[test]
    fn a_name_that_no_kernel_has_gets_those_there_are() {
        let folder = workspace::root().join("crates/kernels/ptx");
        let error = find(&folder, "rms_nrom").unwrap_err().to_string();
        assert!(
            error.contains("no kernel `rms_nrom`") && error.contains("attention_64"),
            "{error}"
        );
        assert_eq!(find(&folder, "adamw").unwrap().0, "sm80/update.ptx");
    }
}

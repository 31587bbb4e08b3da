//! ptxas: whether the PTX assembles for an architecture, and what each kernel takes there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::manifest::Usage;
use super::toolkit::Toolkit;

/// What ptxas said about one file for one architecture.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) kernels: BTreeMap<String, Usage>,
    /// C75xx: the compiler gave up on overlapping wgmma, or the like.
    pub(crate) warnings: Vec<String>,
}

/// The binary in the scratch folder.
pub(crate) const CUBIN: &str = "kernels.cubin";

/// Whether ptxas may make one instruction of a product and a sum that have no rounding of their own. The driver's compiler may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fusing {
    Allowed,
    Forbidden,
}

/// Assembles `ptx` for `architecture`; the binary is left in `scratch` as [`CUBIN`].
pub(crate) fn ptxas(
    toolkit: &Toolkit,
    ptx: &str,
    architecture: &str,
    fusing: Fusing,
    scratch: &Path,
) -> Result<Report> {
    let name = "kernels.ptx";
    fs::write(scratch.join(name), ptx)
        .with_context(|| format!("cannot write {}", scratch.join(name).display()))?;
    let output = Command::new(toolkit.ptxas())
        .args(["-v", "-O3", "--fmad", if fusing == Fusing::Allowed { "true" } else { "false" }])
        .args(["--gpu-name", architecture, "--output-file", CUBIN, name])
        .current_dir(scratch)
        .output()
        .with_context(|| format!("cannot run {}", toolkit.ptxas().display()))?;
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("ptxas refuses it for {architecture}\n{}", explain(&said, ptx));
    }
    for line in
        said.lines().filter(|line| line.starts_with("ptxas warning") && !has_performance_code(line))
    {
        eprintln!("{architecture}: {line}");
    }
    parse(&said)
}

/// ptxas' errors, each with the kernel and the text of the line it means.
fn explain(said: &str, ptx: &str) -> String {
    let lines: Vec<&str> = ptx.lines().collect();
    let mut text = String::new();
    for error in said.lines().filter(|line| line.contains("error") || line.contains("fatal")) {
        text.push_str(error.trim());
        text.push('\n');
        let number = error.split_once("line ").and_then(|(_, rest)| {
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
        });
        if let Some((number, line)) = number.and_then(|n| Some((n, lines.get(n.checked_sub(1)?)?)))
        {
            let kernel =
                lines[..number].iter().rev().find_map(|line| super::symbols::kernels(line).pop());
            let kernel = kernel.unwrap_or_else(|| "outside any kernel".to_owned());
            let _ = writeln!(text, "  {kernel}: {}", line.trim());
        }
    }
    if said.contains("PTX ISA") {
        text.push_str(
            "  hint: the file is declared an older PTX version, so that older drivers load it; write the kernel without this instruction, \
             or raise the set's version in xtask/src/ptx/set.rs and the drivers that docs/gpu.md promises",
        );
    }
    text
}

/// Reads the output of `ptxas -v`.
fn parse(said: &str) -> Result<Report> {
    let mut report = Report::default();
    let mut current: Option<(String, Usage)> = None;
    for line in said.lines() {
        if has_performance_code(line) {
            report.warnings.push(line.trim().to_owned());
        } else if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or(rest);
            current = Some((name.to_owned(), Usage::default()));
        } else if let Some((_, usage)) = &mut current {
            if line.contains("bytes stack frame") {
                usage.stack_bytes = number_before(line, " bytes stack frame")?;
                usage.spill_bytes = number_before(line, " bytes spill stores")?
                    + number_before(line, " bytes spill loads")?;
            } else if let Some((_, used)) = line.split_once("Used ") {
                usage.registers = number_before(used, " registers")?;
                usage.shared_bytes = if used.contains(" bytes smem") {
                    number_before(used, " bytes smem")?
                } else {
                    0
                };
                report.kernels.extend(current.take());
            }
        }
    }
    if let Some((name, _)) = current {
        bail!("ptxas did not say what {name} uses:\n{said}");
    }
    if report.kernels.is_empty() {
        bail!("ptxas named no kernel:\n{said}");
    }
    Ok(report)
}

/// Whether a line carries a code C75xx.
fn has_performance_code(line: &str) -> bool {
    line.split("(C75").skip(1).any(|rest| {
        rest.get(..3).is_some_and(|code| {
            code.ends_with(')') && code[..2].bytes().all(|b| b.is_ascii_digit())
        })
    })
}

/// The number that ends just before `what`.
fn number_before(line: &str, what: &str) -> Result<u32> {
    let before = line.split_once(what).map(|(before, _)| before).unwrap_or_default();
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits
        .parse()
        .with_context(|| format!("no number before `{what}` in ptxas' line `{}`", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // ptxas 13.0.88's own words; `big` was made to spill by asking for 2,048 threads per multiprocessor.
    const SAMPLE: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'plain' for 'sm_80'
ptxas info    : Function properties for plain
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 15 registers, used 0 barriers, 360 bytes cmem[0]
ptxas info    : Compile time = 5.227 ms
ptxas info    : Compiling entry function 'big' for 'sm_80'
ptxas info    : Function properties for big
    312 bytes stack frame, 412 bytes spill stores, 416 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 312 bytes cumulative stack size, 144 bytes smem, 360 bytes cmem[0]
ptxas info    : Compile time = 16.602 ms
";

    #[test]
    fn usage_is_read_per_kernel() {
        let report = parse(SAMPLE).unwrap();
        let big = Usage { registers: 32, spill_bytes: 828, shared_bytes: 144, stack_bytes: 312 };
        assert_eq!(report.kernels["big"], big);
        assert_eq!(report.kernels["plain"], Usage { registers: 15, ..Usage::default() });
        assert!(report.warnings.is_empty());
    }

    #[test]
    fn performance_warnings_are_kept() {
        let warning = "ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to \
                       insufficient register resources for the wgmma pipeline in the function 'gemm'";
        let report = parse(&format!("{warning}\n{SAMPLE}")).unwrap();
        assert_eq!(report.warnings, [warning]);
        assert!(!has_performance_code("(C75) (C7x10) (C7610)"));
    }

    #[test]
    fn output_of_another_shape_is_an_error() {
        for sample in [
            "",
            "ptxas info : 0 bytes gmem",
            &SAMPLE[..400],
            &SAMPLE.replace("312 bytes stack", "many bytes stack"),
        ] {
            assert!(parse(sample).is_err(), "{sample}");
        }
    }

    #[test]
    fn a_refusal_names_the_kernel_and_the_line() {
        let ptx = ".version 7.8\n.visible .entry one(\n)\n{\n}\n.visible .entry two(\n)\n{\n\tfence.mbarrier_init.release.cluster;\n}\n";
        let said = "ptxas k.ptx, line 9; error   : Feature 'fence.mbarrier_init' requires PTX ISA .version 8.0 or later\n\
                    ptxas fatal   : Ptx assembly aborted due to errors";
        let text = explain(said, ptx);
        assert!(
            text.contains("two: fence.mbarrier_init.release.cluster;") && text.contains("hint:"),
            "{text}"
        );
    }
}

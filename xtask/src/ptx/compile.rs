//! From one source to the PTX that is committed: nvcc, then its version line lowered and a line that says where it comes from.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::source::Source;
use super::toolkit::Toolkit;

/// Runs nvcc on a source of the folder `cu` and returns what it wrote.
pub(crate) fn nvcc(
    toolkit: &Toolkit,
    cu: &Path,
    source: &Source,
    scratch: &Path,
) -> Result<String> {
    let out = scratch.join("out.ptx");
    let output = Command::new(toolkit.nvcc())
        .args(source.flags())
        .arg("-o")
        .arg(&out)
        .arg(&source.path)
        .current_dir(cu)
        .env_remove("NVCC_PREPEND_FLAGS")
        .env_remove("NVCC_APPEND_FLAGS")
        .output()
        .with_context(|| format!("cannot run {}", toolkit.nvcc().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("nvcc failed\n{}{}", said.trim_end(), hint(&said));
    }
    if !said.trim().is_empty() {
        eprintln!("{}: nvcc says:\n{}", source.path, said.trim_end());
    }
    fs::read_to_string(&out).with_context(|| format!("nvcc wrote no {}", out.display()))
}

/// What to do about the failures that are the machine's rather than the source's.
fn hint(said: &str) -> &'static str {
    if said.contains("gcc: No such file")
        || said.contains("cc1plus")
        || said.contains("Failed to preprocess host")
    {
        "\n  hint: nvcc preprocesses with gcc and its C++ half: install g++ (gcc alone does not suffice), or name another with NVCC_CCBIN"
    } else if said.contains("unsupported GNU version") {
        "\n  hint: this nvcc knows gcc up to 15: name an older one with NVCC_CCBIN"
    } else {
        ""
    }
}

/// The committed form of nvcc's output.
pub(crate) fn normalise(raw: &str, source: &Source) -> Result<String> {
    let mut text = format!(
        "// From crates/kernels/cu/{} by `cargo xtask ptx`: not edited by hand.\n",
        source.path
    );
    text.push_str(&lower_version(raw, source.set.version())?);
    Ok(text)
}

/// Rewrites the one `.version` line; ptxas says later whether the code needs more.
fn lower_version(ptx: &str, version: &str) -> Result<String> {
    let mut text = String::with_capacity(ptx.len());
    let mut rewritten = 0;
    for line in ptx.lines() {
        if let Some(theirs) = line.strip_prefix(".version ") {
            if parse_version(theirs)? < parse_version(version)? {
                bail!("nvcc wrote PTX version {theirs}, older than {version}");
            }
            text.push_str(".version ");
            text.push_str(version);
            rewritten += 1;
        } else {
            text.push_str(line.trim_end());
        }
        text.push('\n');
    }
    if rewritten != 1 {
        bail!("nvcc's PTX has {rewritten} lines `.version`, expected 1");
    }
    Ok(text)
}

fn parse_version(text: &str) -> Result<(u32, u32)> {
    let parse = || {
        let (major, minor) = text.trim().split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    parse().with_context(|| format!("`{text}` is not a PTX version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_line_is_lowered_and_nothing_else() {
        let ptx = "//\n.version 9.0\n.target sm_80\n// .version 9.0 in a comment\n";
        let lowered = lower_version(ptx, "7.8").unwrap();
        assert_eq!(lowered, ptx.replacen("9.0", "7.8", 1));
    }

    #[test]
    fn an_odd_version_line_is_refused() {
        for (ptx, what) in [
            ("", "0 lines"),
            (".version 9.0\n.version 9.0\n", "2 lines"),
            (".version 7.5\n", "older than 7.8"),
            (".version nine\n", "not a PTX version"),
        ] {
            let error = format!("{:#}", lower_version(ptx, "7.8").unwrap_err());
            assert!(error.contains(what), "{error}");
        }
        assert!(lower_version(".version 10.0\n", "7.8").is_ok());
    }
}

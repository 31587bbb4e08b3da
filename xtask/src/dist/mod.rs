//! Binaries for people who have no Rust: a dynamic one for each target that the toolchain has, checked, with checksums beside them. `elf` reads what a file asks of
//! a system, `loads` has a finished one load a library.

mod elf;
mod loads;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::{cargo, root, target};

/// The oldest C library that a binary for Linux asks for: of Debian 10, Ubuntu 18.10, RHEL 8 and whatever is newer.
const GLIBC: (u32, u32) = (2, 28);

/// More than this is a slip, such as symbols that were kept.
const MOST_BYTES: u64 = 40_000_000;

/// What can be made where the toolchain has it; the first has to be.
const TARGETS: [&str; 3] =
    ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin"];

const INSTALL: &str = "hint: `python3 -m pip install cargo-zigbuild ziglang` in a virtual environment that is on the path, or `cargo install --locked cargo-zigbuild` \
     and zig from your system's packages";

/// Builds every target, checks what came out, and writes checksums. `build` is cargo's folder for it, which takes about 2 GB.
///
/// # Errors
/// cargo-zigbuild or zig is missing; the first target does not build; a binary is not what it should be.
pub(crate) fn run(out: Option<PathBuf>, build: Option<PathBuf>) -> Result<()> {
    find_tools()?;
    let out = match out {
        Some(out) => std::path::absolute(out)?,
        None => target()?.join("farthing"),
    };
    let build = match build {
        Some(build) => std::path::absolute(build)?,
        None => target()?.join("dist-build"),
    };
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let has = installed()?;
    let mut sums = String::new();
    for (i, triple) in TARGETS.into_iter().enumerate() {
        if let Some(why) = lacking(triple, &has).filter(|_| i > 0) {
            println!("{triple}: skipped, {why}");
            continue;
        }
        let made = compile(triple, &build)?;
        let bytes = fs::read(&made).with_context(|| format!("cannot read {}", made.display()))?;
        let about = check(triple, &bytes)?;
        let name = format!("runner-{}-{triple}", env!("CARGO_PKG_VERSION"));
        let to = out.join(&name);
        // A copy keeps the file's mode.
        fs::copy(&made, &to).with_context(|| format!("cannot write {}", to.display()))?;
        if runs_here(triple) {
            println!("{name}: {}", loads::check(&to)?);
        }
        println!("{name}: {:.1} MB, {about}", bytes.len() as f64 / 1e6);
        writeln!(sums, "{}  {name}", sha256(&bytes))?;
    }
    let beside = out.join("SHA256SUMS");
    fs::write(&beside, sums).with_context(|| format!("cannot write {}", beside.display()))?;
    println!("checksums: {}, for `sha256sum --check`", beside.display());
    Ok(())
}

/// cargo-zigbuild, and the zig that it finds.
fn find_tools() -> Result<()> {
    let answers = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !answers("cargo-zigbuild", &["--version"]) {
        bail!("cargo-zigbuild is not on the path; it links against an old C library\n{INSTALL}");
    }
    let own = std::env::var("CARGO_ZIGBUILD_ZIG_PATH").ok();
    let named = own.is_some_and(|zig| answers(&zig, &["version"]));
    let module = ["-m", "ziglang", "version"];
    let found = named || answers("zig", &["version"]);
    if !(found || answers("python3", &module) || answers("python", &module)) {
        bail!(
            "zig is not on the path, nor Python's package ziglang; cargo-zigbuild links with it\n{INSTALL}"
        );
    }
    Ok(())
}

/// The targets whose standard library this toolchain has.
fn installed() -> Result<Vec<String>> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output = Command::new(rustc).args(["--print", "sysroot"]).current_dir(root()).output();
    let output = output.context("cannot run rustc")?;
    let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let libraries = libraries.join("lib/rustlib");
    let has = |triple: &&str| libraries.join(triple).join("lib").is_dir();
    Ok(TARGETS.into_iter().filter(has).map(str::to_owned).collect())
}

/// Why a target cannot be made here.
fn lacking(triple: &str, has: &[String]) -> Option<String> {
    if !has.iter().any(|one| one == triple) {
        return Some(format!("the toolchain lacks it: `rustup target add {triple}`"));
    }
    let frameworks = triple.ends_with("-apple-darwin") && std::env::var_os("SDKROOT").is_none();
    frameworks.then(|| "Apple's frameworks are needed: set SDKROOT to an SDK of Xcode's".to_owned())
}

/// Whether a target's binary runs on the machine that this program runs on.
fn runs_here(triple: &str) -> bool {
    let (arch, system) = (std::env::consts::ARCH, std::env::consts::OS);
    system == "linux" && triple == format!("{arch}-unknown-linux-gnu")
}

fn compile(triple: &str, build: &Path) -> Result<PathBuf> {
    let linux = triple.ends_with("-linux-gnu");
    let (major, minor) = GLIBC;
    let versioned = if linux { format!("{triple}.{major}.{minor}") } else { triple.to_owned() };
    let mut zigbuild = Command::new(cargo());
    zigbuild
        .args(["zigbuild", "--locked", "--profile", "dist"])
        .args(["--package", "farthing-runner", "--bin", "runner", "--target", &versioned])
        .arg("--target-dir")
        .arg(build)
        .current_dir(root());
    let status = zigbuild.status().context("cannot start cargo zigbuild")?;
    if !status.success() {
        bail!("{triple} does not build");
    }
    Ok(build.join(triple).join("dist/runner"))
}

/// What a binary is, in a few words.
///
/// # Errors
/// It is too large, has symbols, is no dynamic program or asks for a newer C library.
fn check(triple: &str, bytes: &[u8]) -> Result<String> {
    if bytes.len() as u64 > MOST_BYTES {
        bail!("{triple}: {} bytes, expected at most {MOST_BYTES}", bytes.len());
    }
    if !triple.ends_with("-linux-gnu") {
        return Ok("not looked into further".to_owned());
    }
    let elf = elf::read(bytes).with_context(|| format!("{triple}: not a program for Linux"))?;
    let Some(interpreter) = &elf.interpreter else {
        bail!("{triple}: a static program, which cannot load a GPU's driver");
    };
    if elf.symbols {
        bail!("{triple}: symbols were not stripped");
    }
    match elf.glibc {
        Some(asks) if asks > GLIBC => {
            bail!("{triple}: asks for glibc {}.{}, expected {GLIBC:?} at most", asks.0, asks.1)
        }
        Some((major, minor)) => {
            Ok(format!("dynamic ({interpreter}), stripped, asks for glibc {major}.{minor} at most"))
        }
        None => bail!("{triple}: asks for no version of glibc"),
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_is_not_there_is_named_with_what_to_do() {
        let has = ["x86_64-unknown-linux-gnu".to_owned()];
        assert_eq!(lacking(TARGETS[0], &has), None);
        let why = lacking(TARGETS[1], &has).unwrap();
        assert!(why.contains("rustup target add aarch64-unknown-linux-gnu"), "{why}");
    }

    #[test]
    fn what_is_too_large_static_or_no_program_is_refused() {
        let refused = |bytes: &[u8]| format!("{:#}", check(TARGETS[0], bytes).unwrap_err());
        assert!(refused(b"#!/bin/sh\n").contains("not a program for Linux"));
        assert!(refused(&vec![0; MOST_BYTES as usize + 1]).contains("at most 40000000"));
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        if own.len() as u64 <= MOST_BYTES && cfg!(all(target_os = "linux", target_env = "gnu")) {
            // A program of tests has its symbols, and asks for the C library of this machine.
            let said = refused(&own);
            assert!(said.contains("symbols") || said.contains("glibc"), "{said}");
        }
    }

    #[test]
    fn a_checksum_is_that_of_sha256sum() {
        // printf abc | sha256sum
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), known);
    }
}

//! Builds the bundle's executables with cargo, and finds them in what cargo says.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Kind, Part};
use crate::workspace;

/// An executable, and its name in the bundle.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Built {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// A target in cargo's metadata and messages.
#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

/// A package of the workspace, in cargo's metadata.
#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

/// Refuses to begin when a part is not among its package's targets.
pub(super) fn check_targets(parts: &[Part]) -> Result<()> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let metadata: Metadata =
        serde_json::from_slice(&workspace::metadata()?).context("cannot read cargo metadata")?;
    let missing = missing(parts, &metadata.packages);
    if !missing.is_empty() {
        bail!(
            "the workspace lacks what the bundle is made of: {}\n  hint: PARTS in xtask/src/gpu_bundle/mod.rs lists it, run.sh beside it calls it",
            missing.join(", ")
        );
    }
    Ok(())
}

fn missing(parts: &[Part], packages: &[Package]) -> Vec<String> {
    let there = |part: &Part| {
        packages.iter().filter(|package| package.name == part.package).any(|package| {
            package.targets.iter().any(|target| {
                target.name == part.name && target.kind.iter().any(|kind| kind == part.kind.name())
            })
        })
    };
    parts
        .iter()
        .filter(|part| !there(part))
        .map(|part| format!("{} `{}` of {}", part.kind.name(), part.name, part.package))
        .collect()
}

/// Builds the parts in the release profile. Tests and examples apart: `cargo test --example` would make a test of the example.
pub(super) fn executables(parts: &[Part]) -> Result<Vec<Built>> {
    let tests = cargo(&["test", "--no-run"], parts, Kind::Test)?;
    let examples = cargo(&["build"], parts, Kind::Example)?;
    find(parts, &(tests + &examples))
}

/// Runs a command of cargo on the parts of one kind; returns its messages.
fn cargo(command: &[&str], parts: &[Part], kind: Kind) -> Result<String> {
    let mut cargo = Command::new(workspace::cargo());
    cargo.args(command);
    // Of the whole workspace: of one package alone, dependencies would be built anew with the features that it alone asks for.
    cargo.args(["--workspace", "--release", "--message-format=json-render-diagnostics"]);
    for part in parts.iter().filter(|part| part.kind == kind) {
        cargo.arg(format!("--{}", kind.name())).arg(part.name);
    }
    let output = cargo
        .current_dir(workspace::root())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo could not build the bundle's {}s", kind.name());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The parts' executables in cargo's messages, one JSON object a line.
fn find(parts: &[Part], messages: &str) -> Result<Vec<Built>> {
    #[derive(Deserialize)]
    struct Message {
        target: Option<Target>,
        executable: Option<PathBuf>,
    }
    let mut built = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line)
            .with_context(|| format!("cannot read cargo's message {line}"))?;
        let (Some(target), Some(path)) = (message.target, message.executable) else { continue };
        let wanted = parts.iter().find(|part| {
            part.name == target.name && target.kind.iter().any(|kind| kind == part.kind.name())
        });
        if let Some(part) = wanted {
            built.push(Built { name: part.name.to_owned(), path });
        }
    }
    for part in parts {
        if built.iter().filter(|built| built.name == part.name).count() != 1 {
            bail!("cargo did not name one executable of the {} `{}`", part.kind.name(), part.name);
        }
    }
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [Part; 2] = [
        Part { package: "p", kind: Kind::Test, name: "one" },
        Part { package: "q", kind: Kind::Example, name: "two" },
    ];

    #[test]
    fn what_is_missing_is_named_with_its_kind_and_package() {
        let package = |name: &str, targets: &[(&str, &str)]| Package {
            name: name.into(),
            targets: targets
                .iter()
                .map(|(kind, name)| Target { kind: vec![(*kind).into()], name: (*name).into() })
                .collect(),
        };
        let p = package("p", &[("test", "one"), ("example", "two")]);
        assert!(missing(&PARTS, &[p, package("q", &[("example", "two")])]).is_empty());
        let p = package("p", &[("test", "one"), ("example", "two")]);
        assert_eq!(missing(&PARTS, &[p, package("q", &[("bin", "two")])]), ["example `two` of q"]);
    }

    #[test]
    fn executables_are_found_among_cargos_messages() {
        let messages = "\
Compiling something
{\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"lib\"],\"name\":\"one\"},\"executable\":null}
{\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"test\"],\"name\":\"one\"},\"executable\":\"/t/deps/one-1f\"}
{\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"example\"],\"name\":\"two\"},\"executable\":\"/t/examples/two\"}
{\"reason\":\"build-finished\",\"success\":true}
";
        let built = find(&PARTS, messages).unwrap();
        assert_eq!(built[0], Built { name: "one".into(), path: "/t/deps/one-1f".into() });
        assert_eq!(built[1].path, PathBuf::from("/t/examples/two"));
        let error = find(&PARTS, messages.lines().next().unwrap()).unwrap_err();
        assert!(error.to_string().contains("test `one`"), "{error}");
    }
}

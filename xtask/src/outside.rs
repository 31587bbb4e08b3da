//! The crates that are of use alone, as a program outside of this workspace has them: packaged, unpacked, and built against with the features that
//! somebody would choose. No registry has them, so that the program takes its place: each package is patched in by its path.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{cargo, root, target};

/// What is packaged: the crates that are of use alone, and what they stand on.
const PACKAGES: [&str; 5] =
    ["farthing-base", "farthing-data", "farthing-kernels", "farthing-optim", "ptx-emulator"];

/// A program outside: its name, what it depends on, what it does.
const PROGRAMS: [(&str, &str, &str); 4] = [
    (
        "reads-rows",
        "farthing-data = { version = \"0.1\", default-features = false, features = [\"rows\"] }",
        "let dir = std::env::args().nth(1).unwrap_or_default();
    for batch in farthing_data::Rows::open(dir)?.batches(8).seed(1337).from_step(0).until_step(9) {
        println!(\"{:?}\", batch?.inputs().first());
    }",
    ),
    (
        "packs-text",
        "farthing-data = { version = \"0.1\", default-features = false, features = [\"text\"] }",
        "let tokenizer = farthing_data::Tokenizer::load(\"tokenizer.json\")?;
    let rows = farthing_data::Pack::text(\"text/*.parquet\").tokenizer(&tokenizer).row_tokens(2048).to(\"rows\")?;
    println!(\"{}\", rows.rows);",
    ),
    (
        "fetches-text",
        "farthing-data = \"0.1\"",
        "let source = farthing_data::FetchSettings { source: \"embedded://world\".into(), ..Default::default() };
    farthing_data::fetch(&source, \".\".as_ref(), \"text\".as_ref(), &mut farthing_data::Silent)?;",
    ),
    (
        "optimizes",
        "farthing-optim = \"0.1\"",
        "println!(\"{:?}\", farthing_optim::Registry::standard().names());",
    ),
];

/// The example of a crate outside has to be shorter than this.
const MOST_LINES: usize = 60;

/// Packages the crates and checks the programs against them; builds and runs the example of a crate with a stage and an optimizer of its own.
///
/// # Errors
/// What cargo says: a package that is not whole, a program that does not compile.
pub(crate) fn run() -> Result<()> {
    let place = target()?.join("outside");
    let packages = PACKAGES.iter().flat_map(|name| ["-p", name]);
    let mut package = Command::new(cargo());
    package.args(["package", "--no-verify", "--allow-dirty", "--quiet"]).args(packages);
    succeed(package.arg("--target-dir").arg(&place).current_dir(root()), "packaging")?;
    let mut patch = String::new();
    let unpacked = place.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    for name in PACKAGES {
        let whole = format!("{name}-{}", env!("CARGO_PKG_VERSION"));
        let archive = place.join("package").join(format!("{whole}.crate"));
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&archive).arg("-C").arg(&unpacked);
        succeed(&mut tar, "unpacking")?;
        writeln!(patch, "{name} = {{ path = \"{}\" }}", unpacked.join(whole).display())?;
    }
    let profile = place.join("profile.toml");
    write(&profile, &release_profile(&fs::read_to_string(root().join("Cargo.toml"))?)?)?;
    for (name, dependency, body) in PROGRAMS {
        let program = place.join(name);
        let manifest = format!(
            "[package]\nname = \"{name}\"\nedition = \"2024\"\n\n[dependencies]\n{dependency}\n\n[workspace]\n\n[patch.crates-io]\n{patch}"
        );
        let main = format!(
            "fn main() -> Result<(), Box<dyn std::error::Error>> {{\n    {body}\n    Ok(())\n}}\n"
        );
        write(&program.join("Cargo.toml"), &manifest)?;
        write(&program.join("src/main.rs"), &main)?;
        // The versions that are tested here.
        fs::copy(root().join("Cargo.lock"), program.join("Cargo.lock"))?;
        // What lints have checked of registries' crates, in the workspace's target folder, is not checked again: versions and profiles are the same.
        let mut check = Command::new(cargo());
        check.args(["check", "--release", "--quiet", "--config"]).arg(&profile);
        check.arg("--target-dir").arg(target()?);
        succeed(check.current_dir(&program), name)?;
        println!("{name}: builds against {dependency}");
    }
    own_runner(&profile)
}

/// `examples/outside`: a crate with a stage and an optimizer of its own, built as somebody else's would be, and its pipeline run. What it is built from registries
/// is taken from the workspace's target folder, since versions and profiles are the same.
fn own_runner(profile: &Path) -> Result<()> {
    let example = root().join("examples/outside");
    let manifest = example.join("Cargo.toml");
    let source = fs::read_to_string(example.join("src/main.rs"))?;
    let lines = source.lines().count();
    if lines >= MOST_LINES {
        bail!(
            "examples/outside has {lines} lines of Rust, and is to show that {MOST_LINES} are too many"
        );
    }
    fs::copy(root().join("Cargo.lock"), example.join("Cargo.lock"))?;
    let mut build = Command::new(cargo());
    build.args(["build", "--release", "--quiet", "--offline", "--config"]).arg(profile);
    build.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(target()?);
    succeed(&mut build, "the build of examples/outside")?;
    let dir = tempfile::tempdir()?;
    let mut run = Command::new(target()?.join("release/outside-example"));
    run.arg(example.join("outside.toml")).env_remove("FARTHING_STORE").env_remove("FARTHING_RUNS");
    run.arg("--store").arg(dir.path().join("store")).arg("--runs").arg(dir.path().join("runs"));
    let output = run.output().context("cannot start examples/outside")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // Both are its own: the figure of its stage, and the rule that its training had.
    for own in ["count: runs", "times", "train: done"] {
        if !output.status.success() || !said.contains(own) {
            bail!("examples/outside does not run as it should; it says:\n{said}");
        }
    }
    println!(
        "examples/outside: a stage and an optimizer of its own in {lines} lines; its pipeline runs"
    );
    Ok(())
}

/// The part of a manifest that says how a release is built, for a crate outside of its workspace.
fn release_profile(manifest: &str) -> Result<String> {
    let manifest: toml::Table = manifest.parse().context("cannot read Cargo.toml")?;
    let release = manifest.get("profile").and_then(|profile| profile.get("release"));
    let release = release.context("Cargo.toml has no profile.release")?.clone();
    let profile = toml::Table::from_iter([("release".to_owned(), release)]);
    Ok(toml::Table::from_iter([("profile".to_owned(), profile.into())]).to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn succeed(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status();
    if !status.with_context(|| format!("cannot start {what}"))?.success() {
        bail!("{what} failed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_the_workspaces_own() {
        let manifest = "[workspace]\n[profile.release]\nlto = false\n[profile.release.package]\ntoml.opt-level = 1\n[profile.dist]\nlto = true\n";
        let profile: toml::Table = release_profile(manifest).unwrap().parse().unwrap();
        let release = profile["profile"]["release"].as_table().unwrap();
        assert_eq!(release["lto"].as_bool(), Some(false));
        assert_eq!(release["package"]["toml"]["opt-level"].as_integer(), Some(1));
        assert!(profile["profile"].get("dist").is_none());
        assert!(release_profile("[workspace]").is_err());
    }
}

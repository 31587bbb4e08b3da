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

/// Packages the crates and checks the programs against them.
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
        let mut check = Command::new(cargo());
        check.args(["check", "--quiet", "--target-dir"]).arg(place.join("build"));
        succeed(check.current_dir(&program), name)?;
        println!("{name}: builds against {dependency}");
    }
    Ok(())
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

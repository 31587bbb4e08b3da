//! What is committed in `crates/kernels/ptx/` against what it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const HINT: &str = "hint: run `cargo xtask ptx` and commit crates/kernels/ptx";

/// How the files of the folder differ from `files` (by path below it), one complaint per file.
pub(crate) fn drift(folder: &Path, files: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    let present = present(folder)?;
    for (path, wanted) in files {
        let name = format!("crates/kernels/ptx/{path}");
        if !present.contains(path) {
            complaints.push(format!("{name} is missing\n  {HINT}"));
            continue;
        }
        let committed = read(&folder.join(path))?;
        if committed != *wanted {
            complaints.push(format!(
                "{name} is not what its source compiles to\n{}  {HINT}",
                first_difference(&committed, wanted)
            ));
        }
    }
    for path in present.iter().filter(|path| !files.contains_key(*path)) {
        complaints.push(format!("crates/kernels/ptx/{path} has no source\n  {HINT}"));
    }
    Ok(complaints)
}

/// Makes the folder hold exactly `files`; says what it changed.
pub(crate) fn write(folder: &Path, files: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut changes = Vec::new();
    let present = present(folder)?;
    for (path, text) in files {
        let target = folder.join(path);
        if present.contains(path) && read(&target)? == *text {
            continue;
        }
        let parent = target.parent().unwrap_or(folder);
        let cannot = || format!("cannot write {}", target.display());
        fs::create_dir_all(parent).with_context(cannot)?;
        let partial = target.with_extension("partial");
        fs::write(&partial, text).with_context(cannot)?;
        fs::rename(&partial, &target).with_context(cannot)?;
        changes.push(format!("wrote crates/kernels/ptx/{path}"));
    }
    for path in present.iter().filter(|path| !files.contains_key(*path)) {
        let target = folder.join(path);
        fs::remove_file(&target).with_context(|| format!("cannot remove {}", target.display()))?;
        changes.push(format!("removed crates/kernels/ptx/{path}, which has no source"));
    }
    Ok(changes)
}

/// The PTX files and the manifest of the folder, by path below it.
pub(crate) fn present(folder: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (below, ending) in [("", "MANIFEST.toml"), ("sm80/", ".ptx"), ("sm90a/", ".ptx")] {
        let at = folder.join(below);
        if !at.exists() {
            continue;
        }
        for entry in fs::read_dir(&at).with_context(|| format!("cannot read {}", at.display()))? {
            let name = entry.with_context(|| format!("cannot read {}", at.display()))?.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(ending) {
                found.insert(format!("{below}{name}"));
            }
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The first line that differs, from both sides.
fn first_difference(committed: &str, wanted: &str) -> String {
    let (mut ours, mut theirs) = (committed.lines(), wanted.lines());
    for number in 1.. {
        let (ours, theirs) = (ours.next(), theirs.next());
        if ours != theirs {
            let show =
                |line: Option<&str>| line.map_or("(end)".to_owned(), |line| line.trim().to_owned());
            return format!(
                "  line {number}, committed: {}\n  line {number}, compiled:  {}\n",
                show(ours),
                show(theirs)
            );
        }
        if ours.is_none() {
            break;
        }
    }
    "  only line endings differ\n".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx::manifest::{FILE, Manifest};
    use crate::ptx::{source, symbols};
    use crate::workspace;

    fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn drift_names_each_file_and_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = files(&[("MANIFEST.toml", "m\n"), ("sm80/a.ptx", "one\ntwo\n")]);
        assert_eq!(drift(folder.path(), &wanted).unwrap().len(), 2);
        assert_eq!(write(folder.path(), &wanted).unwrap().len(), 2);
        assert!(drift(folder.path(), &wanted).unwrap().is_empty());
        assert!(write(folder.path(), &wanted).unwrap().is_empty(), "nothing is written twice");

        fs::write(folder.path().join("sm80/a.ptx"), "one\n2\n").unwrap();
        fs::write(folder.path().join("sm80/old.ptx"), "").unwrap();
        let complaints = drift(folder.path(), &wanted).unwrap().join("\n");
        for part in [
            "sm80/a.ptx is not",
            "line 2, committed: 2",
            "line 2, compiled:  two",
            "old.ptx has no source",
            "cargo xtask ptx",
        ] {
            assert!(complaints.contains(part), "{complaints}");
        }
        write(folder.path(), &wanted).unwrap();
        assert!(drift(folder.path(), &wanted).unwrap().is_empty());
    }

    /// Stale PTX fails here without a CUDA toolkit: the manifest's digests are the committed files'.
    #[test]
    fn the_committed_ptx_belongs_to_the_committed_sources() {
        let kernels = workspace::root().join("crates/kernels");
        let manifest = Manifest::parse(&read(&kernels.join("ptx").join(FILE)).unwrap()).unwrap();
        let sources = source::list(&kernels.join("cu")).unwrap();
        let mut expected = BTreeSet::from([FILE.to_owned()]);
        for source in &sources {
            let name = &source.path;
            let record =
                manifest.source.get(name).unwrap_or_else(|| panic!("cu/{name} has no PTX\n{HINT}"));
            assert_eq!(
                record.inputs, source.inputs,
                "cu/{name} or a header of it changed after its PTX was made\n{HINT}"
            );
            assert_eq!(record.flags, source.flags(), "cu/{name}\n{HINT}");
            assert_eq!(record.ptx_version, source.set.version(), "cu/{name}\n{HINT}");
            let ptx = read(&kernels.join("ptx").join(source.ptx_path())).unwrap();
            assert_eq!(
                record.ptx,
                source::digest(ptx.as_bytes()),
                "ptx/{} was edited\n{HINT}",
                source.ptx_path()
            );
            symbols::check(&ptx).unwrap();
            let mut named = symbols::kernels(&ptx);
            named.sort();
            assert_eq!(named, record.kernels.keys().cloned().collect::<Vec<_>>());
            for (kernel, usages) in &record.kernels {
                assert_eq!(usages.keys().collect::<Vec<_>>(), architectures(source), "{kernel}");
                assert!(usages.values().all(|usage| usage.spill_bytes == 0), "{kernel} spills");
            }
            expected.insert(source.ptx_path());
        }
        assert_eq!(
            manifest.source.len(),
            sources.len(),
            "the manifest has a source that is gone\n{HINT}"
        );
        assert_eq!(present(&kernels.join("ptx")).unwrap(), expected, "{HINT}");
        assert_eq!(
            manifest.print(),
            read(&kernels.join("ptx").join(FILE)).unwrap(),
            "the manifest was edited\n{HINT}"
        );
    }

    fn architectures(source: &source::Source) -> Vec<&'static str> {
        let mut names = source.set.architectures().to_vec();
        names.sort_unstable();
        names
    }

    /// What the emulator refuses is not tested by anyone: it has to know every instruction that ships.
    #[test]
    fn the_emulator_takes_every_committed_kernel() {
        let kernels = workspace::root().join("crates/kernels");
        for source in source::list(&kernels.join("cu")).unwrap() {
            let ptx = read(&kernels.join("ptx").join(source.ptx_path())).unwrap();
            let module = ptx_emulator::Module::parse(&ptx)
                .unwrap_or_else(|error| panic!("{}: {error}", source.path));
            for name in symbols::kernels(&ptx) {
                module.kernel(&name).unwrap_or_else(|error| panic!("{}: {error}", source.path));
            }
        }
    }
}

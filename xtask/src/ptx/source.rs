//! The sources: which there are, what each includes, and their digests. Reads files only; knows no compiler.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::flags;
use super::set::Set;

/// One `.cu` file.
pub(crate) struct Source {
    /// Below `cu/`, with `/`: `memory.cu`, `sm90a/gemm.cu`.
    pub(crate) path: String,
    pub(crate) set: Set,
    own_flags: Vec<String>,
    /// The digest of the source and of every file it includes with quotes, by path below `cu/`.
    pub(crate) inputs: BTreeMap<String, String>,
}

impl Source {
    pub(crate) fn flags(&self) -> Vec<String> {
        flags::all(self.set, &self.own_flags)
    }

    /// Where its PTX is, below `ptx/`: `sm80/memory.ptx`.
    pub(crate) fn ptx_path(&self) -> String {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        format!("{}/{}.ptx", self.set.folder(), name.trim_end_matches(".cu"))
    }
}

/// BLAKE3, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Every source in `cu` and `cu/sm90a`, by path.
pub(crate) fn list(cu: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for (folder, set) in [("", Set::Sm80), ("sm90a/", Set::Sm90a)] {
        let at = cu.join(folder);
        if !folder.is_empty() && !at.exists() {
            continue;
        }
        let entries = fs::read_dir(&at).with_context(|| format!("cannot read {}", at.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", at.display()))?;
            let Ok(name) = entry.file_name().into_string() else {
                bail!("{} has a name that is not UTF-8", entry.path().display())
            };
            if Path::new(&name).extension().is_some_and(|ending| ending == "cu") {
                let path = format!("{folder}{name}");
                sources.push(read(cu, path.clone(), set).with_context(|| format!("in cu/{path}"))?);
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    if sources.is_empty() {
        bail!("no *.cu in {}", cu.display());
    }
    Ok(sources)
}

fn read(cu: &Path, path: String, set: Set) -> Result<Source> {
    let text = read_text(&cu.join(&path))?;
    let own_flags = flags::of_source(&text)?;
    let mut inputs = BTreeMap::new();
    let mut waiting = BTreeSet::from([path.clone()]);
    while let Some(name) = waiting.pop_first() {
        let text = read_text(&cu.join(&name))?;
        for header in included(&text) {
            let header = beside(&name, header)?;
            if !inputs.contains_key(&header) && header != name {
                waiting.insert(header);
            }
        }
        inputs.insert(name, digest(text.as_bytes()));
    }
    Ok(Source { path, set, own_flags, inputs })
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What a text includes with quotes. `<…>` is the toolkit's, whose version the manifest records.
fn included(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let name = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?;
        name.trim_start().strip_prefix('"')?.split('"').next()
    })
}

/// The path below `cu/` of what `from` includes as `name`, `..` resolved.
fn beside(from: &str, name: &str) -> Result<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "." => {}
            ".." if parts.pop().is_some() => {}
            ".." | "" => bail!(
                "{from} includes \"{name}\", outside crates/kernels/cu\n  hint: headers of the toolkit are included with <…>"
            ),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Copies the files of `from` and of its folders to `to`, which exists.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let cannot = || format!("cannot copy {}", from.display());
    for entry in fs::read_dir(from).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().with_context(cannot)?.is_dir() {
            fs::create_dir(&target).with_context(cannot)?;
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(cannot)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_headers_count_once() {
        let folder = tempfile::tempdir().unwrap();
        let cu = folder.path();
        fs::create_dir(cu.join("sm90a")).unwrap();
        fs::write(cu.join("a.cuh"), "#pragma once\n#include \"b.cuh\"\n#include <cstdint>\n")
            .unwrap();
        fs::write(cu.join("b.cuh"), "# include \"a.cuh\"\n").unwrap();
        fs::write(cu.join("one.cu"), "#include \"a.cuh\"\n").unwrap();
        fs::write(cu.join("sm90a/two.cu"), "// nvcc: -DX\n#include \"../b.cuh\"\n").unwrap();
        let sources = list(cu).unwrap();
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].inputs.keys().collect::<Vec<_>>(), ["a.cuh", "b.cuh", "one.cu"]);
        assert_eq!(
            sources[1].inputs.keys().collect::<Vec<_>>(),
            ["a.cuh", "b.cuh", "sm90a/two.cu"]
        );
        assert_eq!(
            (sources[1].ptx_path(), sources[1].set),
            ("sm90a/two.ptx".to_owned(), Set::Sm90a)
        );
        assert!(sources[1].flags().contains(&"-DX".to_owned()));
    }

    #[test]
    fn an_include_from_elsewhere_is_refused() {
        assert_eq!(beside("sm90a/x.cu", "../common.cuh").unwrap(), "common.cuh");
        assert!(beside("x.cu", "../common.cuh").is_err());
        assert!(beside("x.cu", "/usr/include/x.h").is_err());
    }
}

//! Whether ptxas fuses products with sums where the text of a kernel leaves it nothing to fuse.
//!
//! `ptx_emulator::exactness` says which kernels a GPU has to run bit for bit as the emulator does. Here ptxas is asked: the machine code of such
//! a kernel must be the same when fusing is forbidden.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::assemble::{self, Fusing};
use super::toolkit::Toolkit;

/// What it is compared on: an architecture of both sets.
pub(crate) const ARCHITECTURE: &str = "sm_90a";

/// Complaints about exact kernels of `ptx` that are other code when fusing is forbidden. The binary where it is allowed lies in `scratch`; the
/// other takes its place.
pub(crate) fn complaints(toolkit: &Toolkit, ptx: &str, scratch: &Path) -> Result<Vec<String>> {
    let exactness = ptx_emulator::exactness(ptx).context("the emulator cannot read it")?;
    let exact: Vec<&String> =
        exactness.iter().filter(|(_, found)| found.exact()).map(|(kernel, _)| kernel).collect();
    if exact.is_empty() {
        return Ok(Vec::new());
    }
    let code = || {
        let cubin = scratch.join(assemble::CUBIN);
        let bytes = fs::read(&cubin).with_context(|| format!("cannot read {}", cubin.display()))?;
        machine_code(&bytes)
    };
    let allowed = code()?;
    assemble::ptxas(toolkit, ptx, ARCHITECTURE, Fusing::Forbidden, scratch)?;
    let forbidden = code()?;
    let mut complaints = Vec::new();
    for kernel in exact {
        let (Some(allowed), Some(forbidden)) = (allowed.get(kernel), forbidden.get(kernel)) else {
            bail!("ptxas made no code of {kernel}");
        };
        if allowed != forbidden {
            complaints.push(format!(
                "{kernel} is other code on {ARCHITECTURE} when ptxas may not fuse, though its text has nothing to fuse\n  \
                 hint: crates/ptx-emulator/src/exactness.rs overlooks something: compare `cargo xtask sass {kernel}` with its PTX"
            ));
        }
    }
    Ok(complaints)
}

/// The bytes of each kernel's instructions in a cubin, which is a 64-bit ELF file with a section `.text.KERNEL` for each.
fn machine_code(elf: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let number = |at: usize, bytes: usize| -> Result<usize> {
        let field = at.checked_add(bytes).and_then(|end| elf.get(at..end));
        let field = field.context("the cubin ends within a table")?;
        Ok(field.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
    };
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("the cubin is no 64-bit ELF file");
    }
    // Section headers: where they are, the size of one, how many, and which one has the names.
    let (table, size) = (number(0x28, 8)?, number(0x3a, 2)?);
    let (count, names) = (number(0x3c, 2)?, number(0x3e, 2)?);
    let section = |i: usize| -> Result<(usize, &[u8])> {
        let header = table.saturating_add(i * size);
        let (from, bytes) = (number(header + 0x18, 8)?, number(header + 0x20, 8)?);
        let nobits = number(header + 4, 4)? == 8;
        let end = from.checked_add(if nobits { 0 } else { bytes });
        let contents = end.and_then(|end| elf.get(from..end));
        Ok((number(header, 4)?, contents.context("a section of the cubin is beyond its end")?))
    };
    let (_, names) = section(names)?;
    let mut code = BTreeMap::new();
    for i in 0..count {
        let (name, contents) = section(i)?;
        let name = names.get(name..).unwrap_or_default().split(|&byte| byte == 0).next();
        if let Some(kernel) = name.and_then(|name| name.strip_prefix(b".text.")) {
            code.insert(String::from_utf8_lossy(kernel).into_owned(), contents.to_vec());
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with these sections, the names' first.
    fn elf(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut names = vec![0];
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(0x40, 0);
        let mut headers = Vec::new();
        let mut section = |file: &mut Vec<u8>, name: usize, contents: &[u8]| {
            let mut header = vec![0; 0x40];
            header[..4].copy_from_slice(&(name as u32).to_le_bytes());
            header[0x18..0x20].copy_from_slice(&file.len().to_le_bytes());
            header[0x20..0x28].copy_from_slice(&contents.len().to_le_bytes());
            file.extend_from_slice(contents);
            headers.extend(header);
        };
        for (name, contents) in sections {
            section(&mut file, names.len(), contents);
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        section(&mut file, 0, &names);
        let table = file.len().to_le_bytes();
        file.extend(headers);
        file[0x28..0x30].copy_from_slice(&table);
        file[0x3a] = 0x40;
        file[0x3c] = sections.len() as u8 + 1;
        file[0x3e] = sections.len() as u8;
        file
    }

    #[test]
    fn code_is_found_by_the_kernels_name() {
        let file = elf(&[(".text.one", b"abc"), (".nv.info", b"x"), (".text.two", b"")]);
        let code = machine_code(&file).unwrap();
        assert_eq!(code.len(), 2);
        assert_eq!((&code["one"][..], &code["two"][..]), (&b"abc"[..], &b""[..]));
    }

    #[test]
    fn what_is_cut_or_no_elf_file_is_refused() {
        let file = elf(&[(".text.one", b"abc")]);
        for end in [0, 5, 0x3f, 0x41, file.len() - 0x30] {
            assert!(machine_code(&file[..end]).is_err(), "{end}");
        }
        assert!(machine_code(b"no ELF file").is_err());
    }
}

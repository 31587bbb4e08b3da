//! What a program for Linux asks of a system, out of its file: who loads it, and which versions of the C library. 64 bits, little endian; nothing else is made.

use anyhow::{Result, bail};

/// A program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Elf {
    /// Who loads it and its libraries; `None` of a static program.
    pub(super) interpreter: Option<String>,
    /// Whether it has symbols that only debuggers read.
    pub(super) symbols: bool,
    /// The newest version of glibc that it asks for.
    pub(super) glibc: Option<(u32, u32)>,
}

const INTERPRETER: u32 = 3;
const SYMBOLS: u32 = 2;

/// Reads a file.
///
/// # Errors
/// It is no such program, or is cut off.
pub(super) fn read(bytes: &[u8]) -> Result<Elf> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        bail!("no ELF of 64 bits, little endian");
    }
    let mut elf = Elf { interpreter: None, symbols: false, glibc: None };
    let (at, size, n) = (word(bytes, 32)?, half(bytes, 54)?, half(bytes, 56)?);
    for i in 0..n {
        let header = place(at, i, size)?;
        if int(bytes, header)? == INTERPRETER {
            let from = place(word(bytes, header + 8)?, 0, 0)?;
            let Some(path) = bytes.get(from..) else { bail!("cut off at byte {from}") };
            let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
            elf.interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    let (at, size, n) = (word(bytes, 40)?, half(bytes, 58)?, half(bytes, 60)?);
    for i in 0..n {
        elf.symbols |= int(bytes, place(at, i, size)? + 4)? == SYMBOLS;
    }
    elf.glibc = versions(bytes);
    Ok(elf)
}

/// The newest `GLIBC_x.y` among the names of versions, each of which ends with a zero.
fn versions(bytes: &[u8]) -> Option<(u32, u32)> {
    const NAME: &[u8] = b"\0GLIBC_";
    let mut newest = None;
    for at in 0..bytes.len().saturating_sub(NAME.len()) {
        if !bytes[at..].starts_with(NAME) {
            continue;
        }
        let text = bytes[at + NAME.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).unwrap_or_default();
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        if let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) {
            newest = newest.max(Some((major, minor)));
        }
    }
    newest
}

fn place(at: u64, i: u16, size: u16) -> Result<usize> {
    let at = at.checked_add(u64::from(i) * u64::from(size)).map(usize::try_from);
    match at {
        Some(Ok(at)) if at < usize::MAX / 2 => Ok(at),
        _ => bail!("a table beyond the file's end"),
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    match bytes.get(at..at + N).map(<[u8; N]>::try_from) {
        Some(Ok(field)) => Ok(field),
        _ => bail!("cut off at byte {at}"),
    }
}

fn half(bytes: &[u8], at: usize) -> Result<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn int(bytes: &[u8], at: usize) -> Result<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Result<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one segment and one section.
    fn program(segment: u32, section: u32, names: &[u8]) -> Vec<u8> {
        let mut bytes = [0; 64 + 56 + 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[40] = 120;
        (bytes[54], bytes[56], bytes[58], bytes[60]) = (56, 1, 64, 1);
        bytes[64..68].copy_from_slice(&segment.to_le_bytes());
        bytes[72] = 184;
        bytes[124..128].copy_from_slice(&section.to_le_bytes());
        [&bytes[..], b"/lib/ld.so\0", names].concat()
    }

    #[test]
    fn loader_symbols_and_versions_are_read() {
        let names = b"x\0GLIBC_2.9\0GLIBC_2.28\0GLIBC_2.3.4\0GLIBC_PRIVATE\0";
        let whole = read(&program(INTERPRETER, 1, names)).unwrap();
        let loader = Some("/lib/ld.so".to_owned());
        assert_eq!(whole, Elf { interpreter: loader, symbols: false, glibc: Some((2, 28)) });
        let bare = read(&program(1, SYMBOLS, b"")).unwrap();
        assert_eq!(bare, Elf { interpreter: None, symbols: true, glibc: None });
    }

    #[test]
    fn what_is_cut_off_or_lies_is_refused_at_any_place() {
        let whole = program(INTERPRETER, 1, b"");
        for end in 0..184 {
            assert!(read(&whole[..end]).is_err(), "{end}");
        }
        for at in [32, 40] {
            let mut lies = whole.clone();
            lies[at..at + 8].fill(0xff);
            assert!(read(&lies).is_err(), "{at}");
        }
    }
}

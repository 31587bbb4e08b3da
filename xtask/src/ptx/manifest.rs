//! `crates/kernels/ptx/MANIFEST.toml`: from what, with what, and what each kernel takes on each architecture.
//!
//! Printed by hand, one line per fact, so that a diff reads; parsed as any TOML.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

/// Its place below `ptx/`.
pub(crate) const FILE: &str = "MANIFEST.toml";

/// The file.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Version by tool.
    pub(crate) tools: BTreeMap<String, String>,
    /// By path below `cu/`.
    pub(crate) source: BTreeMap<String, Record>,
}

/// One source and its PTX.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// nvcc's, in order.
    pub(crate) flags: Vec<String>,
    /// What the PTX is declared to be.
    pub(crate) ptx_version: String,
    /// The PTX's digest.
    pub(crate) ptx: String,
    /// Digest by path below `cu/`, of the source and of what it includes.
    pub(crate) inputs: BTreeMap<String, String>,
    /// By kernel, then by architecture.
    pub(crate) kernels: BTreeMap<String, BTreeMap<String, Usage>>,
}

/// What a kernel takes on one architecture: registers per thread, bytes per thread of spills (stores and loads) and stack, bytes per block of
/// static shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Usage {
    pub(crate) registers: u32,
    pub(crate) spill_bytes: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) stack_bytes: u32,
}

impl Manifest {
    /// Reads the file's text.
    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The file's text.
    pub(crate) fn print(&self) -> String {
        let mut text = String::from(
            "# Written by `cargo xtask ptx`, compared by `cargo xtask ptx --check`. Digests are BLAKE3; bytes are per thread, shared memory per block.\n\n[tools]\n",
        );
        for (tool, version) in &self.tools {
            line(&mut text, tool, &quoted(version));
        }
        for (path, record) in &self.source {
            let path = quoted(path);
            let flags: Vec<String> = record.flags.iter().map(|flag| quoted(flag)).collect();
            let _ = write!(text, "\n[source.{path}]\n");
            line(&mut text, "flags", &format!("[{}]", flags.join(", ")));
            line(&mut text, "ptx_version", &quoted(&record.ptx_version));
            line(&mut text, "ptx", &quoted(&record.ptx));
            let _ = write!(text, "\n[source.{path}.inputs]\n");
            for (input, digest) in &record.inputs {
                line(&mut text, &quoted(input), &quoted(digest));
            }
            for (kernel, usages) in &record.kernels {
                let _ = write!(text, "\n[source.{path}.kernels.{kernel}]\n");
                for (architecture, usage) in usages {
                    let Usage { registers, spill_bytes, shared_bytes, stack_bytes } = usage;
                    line(
                        &mut text,
                        architecture,
                        &format!(
                            "{{ registers = {registers}, spill_bytes = {spill_bytes}, shared_bytes = {shared_bytes}, stack_bytes = {stack_bytes} }}"
                        ),
                    );
                }
            }
        }
        text
    }

    /// Registers and shared memory per kernel, for the screen.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for (path, record) in &self.source {
            let _ = writeln!(text, "{path}");
            for (kernel, usages) in &record.kernels {
                let _ = write!(text, "  {kernel:<28}");
                for (architecture, usage) in usages {
                    let _ = write!(text, "  {architecture}: {} registers", usage.registers);
                    for (bytes, what) in [
                        (usage.shared_bytes, "shared"),
                        (usage.stack_bytes, "stack"),
                        (usage.spill_bytes, "SPILLED"),
                    ] {
                        if bytes > 0 {
                            let _ = write!(text, ", {bytes} B {what}");
                        }
                    }
                }
                text.push('\n');
            }
        }
        text
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{key} = {value}");
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        let usage = Usage { registers: 40, spill_bytes: 0, shared_bytes: 4096, stack_bytes: 16 };
        let by_architecture =
            BTreeMap::from([("sm_80".into(), usage), ("sm_90a".into(), Usage::default())]);
        let record = Record {
            flags: vec!["-O3".into(), "-DNAME=\"a b\\c\"".into()],
            ptx_version: "7.8".into(),
            ptx: "00ff".into(),
            inputs: BTreeMap::from([
                ("a.cu".into(), "01".into()),
                ("sm90a/b.cuh".into(), "02".into()),
            ]),
            kernels: BTreeMap::from([
                ("fill".into(), by_architecture),
                ("none".into(), BTreeMap::new()),
            ]),
        };
        let manifest = Manifest {
            tools: BTreeMap::from([("nvcc".into(), "13.0.88".into())]),
            source: BTreeMap::from([("a.cu".into(), record)]),
        };
        let text = manifest.print();
        assert_eq!(Manifest::parse(&text).unwrap(), manifest, "{text}");
        assert!(text.contains(
            "sm_80 = { registers = 40, spill_bytes = 0, shared_bytes = 4096, stack_bytes = 16 }\n"
        ));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(Manifest::parse("[tools]\n[source]\n[other]\n").is_err());
    }
}

//! On what and from what a run was made, as far as the system says: for `run.json` and the report, never for a key.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::progress::format::bytes;
use crate::resources::available_threads;

/// A machine, in words that anybody may read: no names of people, hosts or folders.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's model; the architecture where the system does not say.
    pub(crate) processor: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// 0 where the system does not say.
    #[serde(default)]
    pub(crate) memory_bytes: u64,
    /// `linux`, `macos`, …
    pub(crate) system: String,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory = memory.and_then(|kb| kb.split(' ').next()?.parse::<u64>().ok());
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: available_threads(),
            memory_bytes: memory.unwrap_or(0) << 10,
            system: std::env::consts::OS.to_owned(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { processor, cores, memory_bytes, system } = self;
        let s = if *cores == 1 { "" } else { "s" };
        write!(f, "{processor}, {cores} core{s}")?;
        if *memory_bytes > 0 {
            write!(f, ", {} of memory", bytes(*memory_bytes as f64))?;
        }
        write!(f, ", {system}")
    }
}

/// The GPUs that this process sees, as CUDA takes their names; none where the system does not say.
pub(crate) fn gpus() -> Vec<String> {
    let names = std::env::var("CUDA_VISIBLE_DEVICES").ok().filter(|names| !names.is_empty());
    if let Some(names) = names {
        return names.split(',').map(|name| name.trim().to_owned()).collect();
    }
    let found = std::fs::read_dir("/proc/driver/nvidia/gpus");
    (0..found.map_or(0, Iterator::count)).map(|i| i.to_string()).collect()
}

/// Bytes of memory that this process may fill, by the machine or by what a container or a batch queue allows; 0 where the system does not say.
pub(crate) fn memory_limit() -> u64 {
    let allowed = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let allowed = allowed
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    let all = Machine::here().memory_bytes;
    allowed
        .filter(|bytes| *bytes > 0)
        .fold(all, |least, bytes| if least == 0 { bytes } else { least.min(bytes) })
}

/// The commit of the Git repository that a file is in, if it is in one and Git is installed.
pub(crate) fn commit(file: &Path) -> Option<String> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut git = Command::new("git");
    git.arg("-C").arg(folder.unwrap_or(Path::new(".")));
    git.args(["rev-parse", "--verify", "--quiet", "HEAD"]);
    let output = git.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let commit = text.trim();
    let is_commit = commit.len() >= 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
    (output.status.success() && is_commit).then(|| commit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_processor_and_a_folder_without_git_no_commit() {
        let here = Machine::here();
        assert!(!here.processor.is_empty() && here.cores > 0, "{here}");
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(commit(&dir.path().join("p.toml")), None);
    }
}

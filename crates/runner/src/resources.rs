//! What a stage may use of the machine. Of all this only the class of a device that is not the processor is part of a cache key, because it computes in other
//! types: the same bytes come out, to rounding, however many threads or GPUs there are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a stage computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Accelerator {
    /// The processor.
    #[default]
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// The kernels of NVIDIA GPUs, executed on the processor with every access checked: slow, for trying kernels.
    Emulated,
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Emulated => "emulated",
        })
    }
}

/// A stage's `resources` table after defaults and `--threads`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Where to compute.
    pub device: Accelerator,
    /// GPUs to use; 0 without any.
    pub gpus: u32,
    /// Ranks on the processor, or on as many emulated GPUs; at least 1.
    pub ranks: usize,
    /// Threads of each rank for work on the CPU, at least 1.
    pub threads: usize,
}

impl Resources {
    /// Ranks in all: a GPU is one.
    pub fn all_ranks(&self) -> usize {
        self.ranks.max(self.gpus as usize)
    }
}

/// More ranks than this on one machine are a slip.
const MOST_RANKS: usize = 256;

/// Threads in all, of all ranks: no machine has so many, and a system that is asked for more starts them for minutes or not at all.
pub(crate) const MOST_THREADS: usize = 4_096;

impl Default for Resources {
    fn default() -> Self {
        Self { device: Accelerator::Cpu, gpus: 0, ranks: 1, threads: available_threads() }
    }
}

/// The table as a file spells it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResourcesTable {
    /// Where to compute.
    #[serde(default)]
    device: Accelerator,
    /// GPUs to compute on; 1 with `device = "cuda"` when absent.
    gpus: Option<u32>,
    /// Ranks on the processor, or on as many emulated GPUs; 1 when absent.
    ranks: Option<usize>,
    /// Threads of each rank for work on the processor; all cores when absent.
    threads: Option<usize>,
}

impl ResourcesTable {
    /// Fills in the defaults; `--threads` wins over the file.
    ///
    /// # Errors
    /// A sentence when the keys contradict each other.
    pub(crate) fn resolve(&self, threads: Option<usize>) -> Result<Resources, String> {
        let gpus = match (self.device, self.gpus) {
            (Accelerator::Cpu | Accelerator::Emulated, None | Some(0)) => 0,
            (Accelerator::Cpu | Accelerator::Emulated, Some(n)) => {
                return Err(format!("`gpus = {n}` needs `device = \"cuda\"`"));
            }
            (Accelerator::Cuda, Some(0)) => {
                return Err("`device = \"cuda\"` needs at least one GPU, got `gpus = 0`".to_owned());
            }
            (Accelerator::Cuda, n) => n.unwrap_or(1),
        };
        let ranks = match (self.device, self.ranks) {
            (_, Some(0)) => return Err("`ranks = 0`, expected at least 1".to_owned()),
            (_, Some(n)) if n > MOST_RANKS => {
                return Err(format!("`ranks = {n}`, expected at most {MOST_RANKS}"));
            }
            (Accelerator::Cuda, Some(n)) => {
                return Err(format!(
                    "`ranks = {n}` with `device = \"cuda\"`: each of its `gpus` is a rank"
                ));
            }
            (_, n) => n.unwrap_or(1),
        };
        let threads = match threads.or(self.threads) {
            Some(0) => return Err("`threads = 0`, expected at least 1".to_owned()),
            Some(n) if n.saturating_mul(ranks) > MOST_THREADS => {
                let each =
                    if ranks > 1 { format!(" on each of {ranks} ranks") } else { String::new() };
                return Err(format!("{n} threads{each}, expected at most {MOST_THREADS} in all"));
            }
            Some(n) => n,
            None => (available_threads() / ranks).max(1),
        };
        Ok(Resources { device: self.device, gpus, ranks, threads })
    }
}

fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

//! What a stage may use of the machine. Of all this only the class of a device that is not the processor is part of a cache key, because it computes in other
//! types: the same bytes come out, to rounding, however many threads or GPUs there are.

use std::sync::LazyLock;

use farthing_comm::Launch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a stage computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
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

/// What carries arrays among ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RankEngine {
    /// Memory: ranks are threads of one process.
    #[default]
    Threads,
    /// MPI: ranks are processes that `mpirun` or `srun` has started.
    Mpi,
    /// NCCL, among GPUs: ranks are threads of one process, or processes that a launcher has started.
    Nccl,
}

impl From<RankEngine> for farthing_comm::Engine {
    fn from(engine: RankEngine) -> Self {
        match engine {
            RankEngine::Threads => Self::Threads,
            RankEngine::Mpi => Self::Mpi,
            RankEngine::Nccl => Self::Nccl,
        }
    }
}

/// A stage's `resources` table after defaults, `--threads` and what a launcher has started.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Resources {
    /// Where to compute.
    pub device: Accelerator,
    /// GPUs to use; 0 without any.
    pub gpus: u32,
    /// Ranks on the processor, or on as many emulated GPUs; at least 1.
    pub ranks: usize,
    /// What carries arrays among ranks.
    pub engine: RankEngine,
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

/// More memory than this is a slip.
const MOST_MEMORY_GB: f64 = 1e6;

impl Default for Resources {
    fn default() -> Self {
        Self {
            device: Accelerator::Cpu,
            gpus: 0,
            ranks: 1,
            engine: RankEngine::Threads,
            threads: available_threads(),
        }
    }
}

/// The table as a file spells it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResourcesTable {
    /// Where to compute.
    #[serde(default)]
    device: Accelerator,
    /// GPUs to compute on, over all machines; 1 with `device = "cuda"` when absent.
    gpus: Option<u32>,
    /// Ranks on the processor, or on as many emulated GPUs; 1 when absent.
    ranks: Option<usize>,
    /// What carries arrays among ranks: as ranks were started, when absent.
    engine: Option<RankEngine>,
    /// The fewest ranks, or GPUs, to go on with where a launcher starts fewer than are asked for; as many as that when absent.
    min_ranks: Option<usize>,
    /// Threads of each rank for work on the processor; all cores when absent, or a part of them with `--jobs`.
    threads: Option<usize>,
    /// GB of memory that the stage needs: it is not begun beside others that leave less. As much as its plan says when absent.
    memory_gb: Option<f64>,
}

/// What a stage claims of the machine, so far as its file or the command line says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Claims {
    /// Threads of each rank.
    pub(crate) threads: Option<usize>,
    pub(crate) memory_bytes: Option<u64>,
}

impl ResourcesTable {
    /// What the stage claims; `--threads` wins over the file.
    ///
    /// # Errors
    /// A sentence when it is nothing that a stage could need.
    pub(crate) fn claims(&self, threads: Option<usize>) -> Result<Claims, String> {
        let memory = match self.memory_gb {
            Some(gb) if !(gb > 0.0 && gb <= MOST_MEMORY_GB) => {
                return Err(format!(
                    "`memory_gb = {gb}`, expected more than 0 and at most 1,000,000"
                ));
            }
            gb => gb.map(|gb| (gb * 1e9) as u64),
        };
        Ok(Claims { threads: threads.or(self.threads), memory_bytes: memory })
    }

    /// Fills in the defaults; `--threads` wins over the file, and what a launcher has started has to be what the file asks for.
    ///
    /// # Errors
    /// A sentence when the keys contradict each other, or the launcher.
    pub(crate) fn resolve(
        &self,
        threads: Option<usize>,
        launch: Option<&Launch>,
    ) -> Result<Resources, String> {
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
        let all = self.started(ranks.max(gpus as usize), launch)?;
        let launch = launch.filter(|_| all > 1);
        let (gpus, ranks) = if gpus > 0 { (all as u32, 1) } else { (0, all) };
        let engine = self.engine(launch)?;
        // Of those, on this machine.
        let here = launch.map_or(ranks, |launch| launch.local_ranks.unwrap_or(1));
        let threads = match threads.or(self.threads) {
            Some(0) => return Err("`threads = 0`, expected at least 1".to_owned()),
            Some(n) if n.saturating_mul(here) > MOST_THREADS => {
                let each =
                    if here > 1 { format!(" on each of {here} ranks") } else { String::new() };
                return Err(format!("{n} threads{each}, expected at most {MOST_THREADS} in all"));
            }
            Some(n) => n,
            None => (available_threads() / here).max(1),
        };
        Ok(Resources { device: self.device, gpus, ranks, engine, threads })
    }

    /// How many ranks there will be, if the file asks for `wanted`.
    fn started(&self, wanted: usize, launch: Option<&Launch>) -> Result<usize, String> {
        let least = self.min_ranks.unwrap_or(wanted);
        if least == 0 || least > wanted {
            return Err(format!("`min_ranks = {least}`, expected 1 to {wanted}"));
        }
        match launch {
            // What needs no other rank runs on the first.
            Some(_) if wanted == 1 => Ok(1),
            Some(launch) if !(least..=wanted).contains(&launch.ranks) => {
                let asked = if least == wanted {
                    wanted.to_string()
                } else {
                    format!("{least} to {wanted}")
                };
                Err(format!(
                    "{} has started {} ranks, and {asked} are asked for",
                    launch.launcher, launch.ranks
                ))
            }
            Some(launch) => Ok(launch.ranks),
            None => Ok(wanted),
        }
    }

    fn engine(&self, launch: Option<&Launch>) -> Result<RankEngine, String> {
        match (self.engine, self.device, launch) {
            (Some(RankEngine::Nccl), Accelerator::Cpu | Accelerator::Emulated, _) => {
                Err("`engine = \"nccl\"` joins GPUs, and needs `device = \"cuda\"`".to_owned())
            }
            (Some(RankEngine::Threads), _, Some(launch)) => Err(format!(
                "`engine = \"threads\"` joins threads of one process, and {} has started {}",
                launch.launcher, launch.ranks
            )),
            (Some(engine), ..) => Ok(engine),
            (None, Accelerator::Cuda, _) => Ok(RankEngine::Nccl),
            (None, _, Some(_)) => Ok(RankEngine::Mpi),
            (None, _, None) => Ok(RankEngine::Threads),
        }
    }
}

/// Cores that this process may use, asked for once: the answer is made of several files, and a sweep has hundreds of stages.
pub(crate) fn available_threads() -> usize {
    static CORES: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    *CORES
}

//! What of this machine the stages at work hold: cores, memory, GPUs, and how many they are at all.

use crate::grammar::Declared;
use crate::machine::Machine;
use crate::{Accelerator, Resources};

/// What a stage needs while it works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    cores: usize,
    gpus: usize,
    memory_bytes: u64,
}

/// What there is, and what is free of it.
#[derive(Debug)]
pub(crate) struct Room {
    /// Stages side by side at most.
    most: usize,
    at_work: usize,
    cores: usize,
    gpus: usize,
    free_gpus: Vec<String>,
    /// As many bytes as can be, where the system does not say.
    memory_bytes: u64,
    held: Need,
}

/// How the machine is shared out: `jobs` is what the command line says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    cores: usize,
    jobs: Option<usize>,
}

impl Shares {
    pub(crate) fn new(jobs: Option<usize>) -> Self {
        Self { cores: Machine::here().cores, jobs }
    }

    /// Whether stages can run side by side at all.
    pub(crate) fn one_by_one(self) -> bool {
        self.jobs == Some(1)
    }

    /// A stage's resources, with its part of the cores where neither its file nor the command line says how many it takes and several stages are to
    /// share them.
    pub(crate) fn resources(self, stage: &Declared) -> Resources {
        let mut resources = stage.resources.clone();
        if let (Some(jobs @ 2..), None) = (self.jobs, stage.claims.threads) {
            resources.threads = (self.cores / jobs / resources.ranks).max(1);
        }
        resources
    }

    /// What a stage holds while it works. A stage that does not say how many threads it takes has all cores, or its part of them; one that waits for
    /// a network has none; one that computes on GPUs has a core for each.
    pub(crate) fn need(self, stage: &Declared, planned_bytes: Option<u64>) -> Need {
        let resources = self.resources(stage);
        let cores = match (stage.claims.threads, self.jobs) {
            (Some(threads), _) => threads * resources.ranks,
            (None, _) if stage.kind.waits => 0,
            (None, _) if resources.device == Accelerator::Cuda => resources.gpus as usize,
            (None, Some(jobs @ 2..)) => self.cores / jobs,
            (None, _) => self.cores,
        };
        let memory_bytes = stage.claims.memory_bytes.or(planned_bytes).unwrap_or(0);
        Need { cores, gpus: resources.gpus as usize, memory_bytes }
    }

    /// The machine, free. Stages of one process see the same GPUs, so that these are one stage's at a time.
    pub(crate) fn room(self, of_processes: bool) -> Room {
        let memory_bytes = Some(crate::machine::memory_limit()).filter(|bytes| *bytes > 0);
        let gpus = if of_processes { crate::machine::gpus() } else { Vec::new() };
        Room {
            most: self.jobs.unwrap_or(usize::MAX),
            at_work: 0,
            cores: self.cores,
            gpus: gpus.len(),
            free_gpus: gpus,
            memory_bytes: memory_bytes.unwrap_or(u64::MAX),
            held: Need::default(),
        }
    }
}

impl Room {
    /// Takes what a stage needs, if it is free, and gives the names of its GPUs. What the machine does not have is given to a stage that is alone.
    /// GPUs that are not known are one stage's at a time.
    pub(crate) fn take(&mut self, need: Need) -> Option<Vec<String>> {
        let held = self.held;
        let all = Need {
            cores: held.cores + need.cores,
            gpus: held.gpus + need.gpus,
            memory_bytes: held.memory_bytes.saturating_add(need.memory_bytes),
        };
        let gpus_fit = need.gpus == 0 || held.gpus == 0 || all.gpus <= self.gpus;
        let fits = self.at_work < self.most
            && all.cores <= self.cores
            && gpus_fit
            && all.memory_bytes <= self.memory_bytes;
        if !fits && self.at_work > 0 {
            return None;
        }
        self.at_work += 1;
        self.held = all;
        let n = need.gpus.min(self.free_gpus.len());
        Some(self.free_gpus.drain(..n).collect())
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&mut self, need: Need, gpus: Vec<String>) {
        self.at_work -= 1;
        self.held.cores -= need.cores;
        self.held.gpus -= need.gpus;
        self.held.memory_bytes = self.held.memory_bytes.saturating_sub(need.memory_bytes);
        self.free_gpus.extend(gpus);
        self.free_gpus.sort();
    }

    /// All GPUs, free or not.
    pub(crate) fn gpus(&self) -> usize {
        self.gpus
    }

    /// How many stages are at work.
    pub(crate) fn at_work(&self) -> usize {
        self.at_work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(most: usize) -> Room {
        let free_gpus = ["0", "1"].map(str::to_owned).to_vec();
        let (cores, memory_bytes, held) = (4, 100, Need::default());
        Room { most, at_work: 0, cores, gpus: 2, free_gpus, memory_bytes, held }
    }

    const fn need(cores: usize, gpus: usize, memory_bytes: u64) -> Need {
        Need { cores, gpus, memory_bytes }
    }

    #[test]
    fn what_is_held_is_never_more_than_there_is() {
        for (first, second, both) in [
            (need(2, 0, 0), need(2, 0, 0), true),
            (need(3, 0, 0), need(2, 0, 0), false),
            (need(4, 0, 0), need(0, 0, 0), true),
            (need(0, 1, 0), need(0, 1, 0), true),
            (need(0, 2, 0), need(0, 1, 0), false),
            (need(1, 0, 60), need(1, 0, 40), true),
            (need(1, 0, 60), need(1, 0, 41), false),
        ] {
            let mut room = room(9);
            let one = room.take(first).unwrap();
            let two = room.take(second);
            assert_eq!(two.is_some(), both, "{first:?} and {second:?}");
            // No GPU is two stages'.
            assert!(one.iter().all(|gpu| !two.iter().flatten().any(|other| gpu == other)));
            room.give_back(first, one);
            if let Some(two) = two {
                room.give_back(second, two);
            }
            assert_eq!((room.at_work(), room.held), (0, Need::default()));
            assert_eq!(room.free_gpus, ["0", "1"]);
        }
        let mut one = room(1);
        assert!(one.take(need(1, 0, 0)).is_some());
        assert!(one.take(need(1, 0, 0)).is_none(), "as --jobs says");
    }

    #[test]
    fn what_is_too_large_for_the_machine_runs_alone() {
        let (large, small) = (need(64, 8, u64::MAX), need(1, 0, 1));
        let mut room = room(9);
        let gpus = room.take(large).unwrap();
        assert!(room.take(small).is_none());
        room.give_back(large, gpus);
        assert!(room.take(small).is_some());
        assert!(room.take(large).is_none());
    }

    #[test]
    fn gpus_that_nobody_counted_are_one_stage_s_at_a_time() {
        let mut room = Room { gpus: 0, free_gpus: Vec::new(), ..room(9) };
        let gpus = room.take(need(1, 1, 0)).unwrap();
        assert!(gpus.is_empty() && room.take(need(1, 1, 0)).is_none());
        assert!(room.take(need(1, 0, 0)).is_some(), "beside one that needs none");
        room.give_back(need(1, 1, 0), gpus);
        assert!(room.take(need(1, 4, 0)).is_some());
    }
}

//! The rows of a micro-batch by the memory that is free: as many as a rank's device has room for, counted by the code that trains ([`super::dry`]).

use std::cell::RefCell;
use std::collections::BTreeMap;

use farthing_comm::{Comm, PlannedComm};
use farthing_kernels::Device;
use farthing_optim::Registry;
use farthing_train::{Error, Setup};

use super::config::Precision;
use super::dry;
use super::plan::planned;
use crate::progress::format::bytes;
use crate::{Resources, Result};

/// A device keeps a part of this size of its memory: for what no plan counts, such as the buffers and the code of libraries.
const MARGIN: u64 = 16;

/// What can be used of `free` bytes of a memory of `all`.
pub(super) fn usable(free: u64, all: u64) -> u64 {
    free.saturating_sub(all / MARGIN)
}

/// How many bytes a training takes on each of its ranks, by the rows of its micro-batches.
pub(super) struct Sizes<'a> {
    setup: &'a Setup,
    registry: &'a Registry,
    precision: Option<Precision>,
    resources: &'a Resources,
    known: RefCell<BTreeMap<usize, u64>>,
}

/// Rows of a micro-batch, and what the training takes with them.
type Rows = (usize, u64);

impl<'a> Sizes<'a> {
    pub(super) fn new(
        setup: &'a Setup,
        registry: &'a Registry,
        precision: Option<Precision>,
        resources: &'a Resources,
    ) -> Self {
        Self { setup, registry, precision, resources, known: RefCell::default() }
    }

    /// With micro-batches of so many rows, which divide a rank's.
    pub(super) fn bytes(&self, rows: usize) -> Result<u64> {
        if let Some(known) = self.known.borrow().get(&rows) {
            return Ok(*known);
        }
        let dev = planned(self.resources, self.precision);
        let comm = PlannedComm::new(self.resources.all_ranks());
        dry::step(&dev, &comm, self.setup.clone(), self.registry, rows, |_| {})?;
        let bytes = dev.peak_bytes();
        self.known.borrow_mut().insert(rows, bytes);
        Ok(bytes)
    }

    /// The largest divisor of a rank's rows up to `most` with which the training takes at most `usable` bytes; where one row takes more already, no rows and what that takes.
    pub(super) fn largest(&self, most: usize, usable: u64) -> Result<Rows> {
        let own = self.setup.rows / self.resources.all_ranks();
        let divisors: Vec<usize> =
            (1..=most.min(own)).filter(|rows| own.is_multiple_of(*rows)).collect();
        let Some((&one, _)) = divisors.split_first() else { return Ok((0, self.bytes(1)?)) };
        let mut found = (0, self.bytes(one)?);
        // More rows never take less.
        let (mut fits, mut ends) = (0, divisors.len());
        while fits < ends {
            let at = fits.midpoint(ends);
            let (rows, bytes) = (divisors[at], self.bytes(divisors[at])?);
            if bytes <= usable {
                found = (rows, bytes);
                fits = at + 1;
            } else {
                ends = at;
            }
        }
        Ok(found)
    }

    /// As many as before, where that is a divisor still and fits; else the largest.
    fn choose(&self, most: usize, again: Option<usize>, usable: u64) -> Result<Rows> {
        let own = self.setup.rows / self.resources.all_ranks();
        let again = again.filter(|rows| *rows > 0 && own.is_multiple_of(*rows));
        let again = again.map(|rows| Ok::<_, anyhow::Error>((rows, self.bytes(rows)?)));
        match again.transpose()? {
            Some((rows, bytes)) if bytes <= usable => Ok((rows, bytes)),
            _ => self.largest(most, usable),
        }
    }

    /// The rows of a micro-batch on every rank, by the rank that has the least memory free: rank 0 chooses. `again` are those before the last checkpoint, at rank 0. With them a line to log. A collective.
    ///
    /// # Errors
    /// A micro-batch of one row does not fit. What the device, or another rank, says.
    pub(super) fn agree(
        &self,
        dev: &dyn Device,
        comm: &dyn Comm,
        most: usize,
        again: Option<usize>,
    ) -> Result<(usize, String)> {
        let room = dev.room().map_err(Error::from)?;
        // A device that does not say has room for all.
        let own = room.map_or(f64::INFINITY, |room| usable(room.free_bytes, room.bytes) as f64);
        let all = comm.exchange(&[own]).map_err(Error::from)?;
        let (rank, least) = (0..).zip(all).min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, own));
        let chosen =
            if comm.rank() == 0 { self.choose(most, again, least as u64)? } else { (0, 0) };
        let said = comm.broadcast(&serde_json::to_vec(&chosen)?).map_err(Error::from)?;
        let (rows, takes): Rows = serde_json::from_slice(&said)?;
        let of = match comm.ranks() {
            1 => dev.name().to_owned(),
            ranks => format!("rank {rank} of {ranks}, which has the least"),
        };
        let [takes, least] = [takes as f64, least].map(bytes);
        if rows == 0 {
            anyhow::bail!(
                "with micro-batches of one row the training takes {takes}, and {least} of the memory of {of} can be used\n\
                 hint: end what else uses it, or train a smaller model, or on more ranks; `exec.micro_batch_rows = 1` tries all the same"
            );
        }
        let why = if again == Some(rows) { ", as before" } else { "" };
        let line = format!(
            "micro-batches of {rows} rows{why}: {takes} of the {least} of the memory of {of} that can be used"
        );
        Ok((rows, line))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use farthing_comm::{One, Threads};
    use farthing_kernels::cuda::Cuda;
    use farthing_kernels::cuda::emulated::Emulator;
    use farthing_kernels::reference::Reference;
    use farthing_model::{ModelConfig, Preset};
    use farthing_train::Recipe;

    use super::*;
    use crate::Accelerator;

    /// Twelve rows of a step.
    fn setup(registry: &Registry) -> Setup {
        let (aspect_ratio, head_dim) = (Some(16), Some(16));
        let model =
            ModelConfig { aspect_ratio, head_dim, ..ModelConfig::new(Preset::Nanochat202607, 2) };
        let mut recipe = Recipe::new(model);
        recipe.schedule.batch_tokens = Some(12 * 32);
        recipe.schedule.steps = Some(3);
        Setup::new(&recipe, registry, 96, 32).unwrap()
    }

    fn resources(ranks: usize) -> Resources {
        Resources { device: Accelerator::Emulated, ranks, ..Resources::default() }
    }

    /// An emulated GPU that has so many bytes beside what it takes itself, and the margin.
    fn with(usable: u64) -> Cuda {
        let own = Cuda::on_emulator(Arc::new(Emulator::new())).unwrap();
        let own = (&own as &dyn Device).room().unwrap().unwrap();
        let taken = own.bytes - own.free_bytes;
        let bytes = (usable + taken) * MARGIN / (MARGIN - 1) + MARGIN;
        Cuda::on_emulator(Arc::new(Emulator::with_memory(bytes as usize))).unwrap()
    }

    #[test]
    fn as_many_rows_as_a_device_has_room_for_and_they_do_fit() {
        let registry = Registry::standard();
        let (setup, resources) = (setup(&registry), resources(1));
        let sizes = Sizes::new(&setup, &registry, None, &resources);
        let of = |rows| sizes.bytes(rows).unwrap();
        let all: Vec<u64> = [1, 2, 3, 4, 6, 12].map(of).to_vec();
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        let choose = |usable: u64, most, again| {
            let dev = with(usable);
            let (rows, line) = sizes.agree(&dev, &One, most, again)?;
            assert!(line.starts_with(&format!("micro-batches of {rows} rows")), "{line}");
            // What was counted is what is taken, and there is room for it.
            dry::step(&dev, &One, setup.clone(), &registry, rows, |_| {})?;
            Ok::<_, anyhow::Error>(rows)
        };
        for (rows, next) in [(1, 2), (3, 4), (4, 6), (6, 12)] {
            assert_eq!(choose(of(rows), 12, None).unwrap(), rows);
            assert_eq!(choose(of(next) - 64, 12, None).unwrap(), rows);
        }
        assert_eq!(choose(of(12) * 2, 12, None).unwrap(), 12);
        // No more than is asked for at most; as before, where that divides and fits.
        assert_eq!(choose(of(12), 5, None).unwrap(), 4);
        assert_eq!(choose(of(12), 12, Some(2)).unwrap(), 2);
        assert_eq!(choose(of(12), 12, Some(5)).unwrap(), 12);
        assert_eq!(choose(of(4), 12, Some(6)).unwrap(), 4);
        let none = choose(of(1) - 64, 12, None).unwrap_err().to_string();
        assert!(none.contains("with micro-batches of one row the training takes"), "{none}");
        assert!(none.contains("hint: end what else uses it"), "{none}");
        // A device that does not say.
        assert_eq!(sizes.agree(&Reference::new(), &One, 12, None).unwrap().0, 12);
    }

    #[test]
    fn the_rank_with_the_least_memory_decides_and_rank_0_chooses_for_all() {
        let registry = Registry::standard();
        let (setup, resources) = (setup(&registry), resources(2));
        let of = |rows| Sizes::new(&setup, &registry, None, &resources).bytes(rows).unwrap();
        let memory = [of(6), of(3)];
        let run = |memory: [u64; 2], again: [Option<usize>; 2]| {
            std::thread::scope(|scope| {
                let ranks: Vec<_> = Threads::new(2)
                    .into_iter()
                    .zip(memory)
                    .zip(again)
                    .map(|((comm, memory), again)| {
                        let (setup, registry, resources) = (&setup, &registry, &resources);
                        scope.spawn(move || {
                            let sizes = Sizes::new(setup, registry, None, resources);
                            sizes.agree(&with(memory), &comm, 6, again).map_err(|e| e.to_string())
                        })
                    })
                    .collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
            })
        };
        let said = run(memory, [None; 2]);
        assert!(said.iter().all(|said| said.as_ref().unwrap().0 == 3), "{said:?}");
        assert!(said[0].as_ref().unwrap().1.contains("rank 1 of 2, which has the least"));
        let [a, b] = memory;
        assert!(run([b, a], [None; 2]).iter().all(|said| said.as_ref().unwrap().0 == 3));
        // What rank 0 has read counts.
        let said = run([a, a], [Some(2), None]);
        assert!(said.iter().all(|said| said.as_ref().unwrap().0 == 2), "{said:?}");
        assert!(run([a, 1], [None; 2]).iter().all(Result::is_err));
    }
}

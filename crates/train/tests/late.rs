//! A training over an engine that is as late as it may be: what it has begun to send is nowhere until it is waited for. Such is NCCL in a stream of its own.

use std::sync::Mutex;

use farthing_comm::{Comm, Control, Pending};
use farthing_kernels::cpu::Cpu;
use farthing_kernels::traced::Traced;
use farthing_kernels::{Device, Mut, Ref};
use farthing_model::Preset;
use farthing_optim::Registry;
use farthing_train::Trainer;

use crate::ranks::{Counting, on_ranks, setup, train, weights};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Did {
    BeginsGather,
    HasGathered,
    BeginsSum,
    HasSummed,
    SumsSmall,
}

/// Has everything ready when it begins, keeps it to itself, and leaves no number where it belongs until somebody waits.
struct Late<'a> {
    inner: &'a dyn Comm,
    device: &'a Traced,
    /// What it did, and how many matrix products there had been.
    did: Mutex<Vec<(Did, u64)>>,
    /// What it can't do.
    fails: Option<Did>,
}

impl Late<'_> {
    fn note(&self, did: Did) -> farthing_comm::Result<()> {
        let totals = self.device.summary();
        let products = totals.iter().filter(|total| total.op.starts_with("linear"));
        self.did.lock().unwrap().push((did, products.map(|total| total.calls).sum()));
        if self.fails == Some(did) {
            let what = "no network".to_owned();
            return Err(farthing_comm::Error::Argument { during: "sending", what });
        }
        Ok(())
    }

    /// Takes away what is in an array; waiting puts it back.
    fn keep<'a>(
        &'a self,
        dev: &'a dyn Device,
        mut array: Mut<'a>,
        end: Did,
    ) -> farthing_comm::Result<Pending<'a, Mut<'a>>> {
        let mut bytes = vec![0; array.shape().elements() * array.dtype().bytes()];
        dev.read(&mut bytes, array.view())?;
        dev.fill(array.reborrow(), f64::NAN)?;
        Ok(Pending::new(move || {
            self.note(end)?;
            dev.write(array.reborrow(), &bytes)?;
            Ok(array)
        }))
    }
}

impl Control for Late<'_> {
    fn rank(&self) -> usize {
        self.inner.rank()
    }
    fn ranks(&self) -> usize {
        self.inner.ranks()
    }
    fn gather(&self, own: &[u8]) -> farthing_comm::Result<Vec<Vec<u8>>> {
        self.inner.gather(own)
    }
    fn broadcast(&self, bytes: &[u8]) -> farthing_comm::Result<Vec<u8>> {
        self.inner.broadcast(bytes)
    }
    fn watch(&self, during: &'static str) -> farthing_comm::Result<()> {
        self.inner.watch(during)
    }
}

impl Comm for Late<'_> {
    fn in_stream(&self) -> bool {
        true
    }
    fn reduce_scatter(
        &self,
        dev: &dyn Device,
        own: Mut<'_>,
        all: Ref<'_>,
        block: usize,
    ) -> farthing_comm::Result<()> {
        self.inner.reduce_scatter(dev, own, all, block)
    }
    fn all_gather(
        &self,
        dev: &dyn Device,
        all: Mut<'_>,
        block: usize,
    ) -> farthing_comm::Result<()> {
        self.inner.all_gather(dev, all, block)
    }
    fn begin_reduce_scatter<'a>(
        &'a self,
        dev: &'a dyn Device,
        mut own: Mut<'a>,
        all: Ref<'a>,
        block: usize,
    ) -> farthing_comm::Result<Pending<'a, Mut<'a>>> {
        self.note(Did::BeginsSum)?;
        self.inner.reduce_scatter(dev, own.reborrow(), all, block)?;
        self.keep(dev, own, Did::HasSummed)
    }
    fn begin_all_gather<'a>(
        &'a self,
        dev: &'a dyn Device,
        mut all: Mut<'a>,
        block: usize,
    ) -> farthing_comm::Result<Pending<'a, Mut<'a>>> {
        self.note(Did::BeginsGather)?;
        self.inner.all_gather(dev, all.reborrow(), block)?;
        self.keep(dev, all, Did::HasGathered)
    }
    fn all_reduce(&self, dev: &dyn Device, values: Mut<'_>) -> farthing_comm::Result<()> {
        self.note(Did::SumsSmall)?;
        self.inner.all_reduce(dev, values)
    }
}

#[test]
fn weights_come_in_under_the_forward_pass_and_gradients_leave_under_the_last_backward_pass() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let on_cpu = on_ranks(2, |comm| train(&Cpu::new(1).unwrap(), comm, dirs[0].path(), 3, 3));
    // Two micro-batches in a step of each rank.
    let late = on_ranks(2, |comm| {
        let device = Traced::new(Box::new(Cpu::new(1).unwrap()));
        let late = Late { inner: comm, device: &device, did: Mutex::default(), fails: None };
        let run = train(&device, &late, dirs[1].path(), 3, 3);
        (run, late.did.into_inner().unwrap())
    });
    assert!(weights(dirs[0].path()) == weights(dirs[1].path()), "other bits");
    for ((run, did), other) in late.iter().zip(&on_cpu) {
        assert_eq!(run.losses, other.losses);
        // Each step ends with the sums of what is on every rank.
        let steps = did.split(|(did, _)| *did == Did::SumsSmall).filter(|step| !step.is_empty());
        let steps: Vec<_> = steps.collect();
        let of = |step: &[(Did, u64)], wanted: Did| -> Vec<u64> {
            step.iter().filter(|(did, _)| *did == wanted).map(|(_, at)| *at).collect()
        };
        assert_eq!(steps.len(), 3, "{did:?}");
        assert!(of(steps[0], Did::BeginsGather).is_empty(), "nothing was updated yet");
        for step in &steps[1..] {
            let [begun, had] = [Did::BeginsGather, Did::HasGathered].map(|did| of(step, did));
            let (first, last) = (begun[0], *step.last().map(|(_, at)| at).unwrap());
            assert!(begun.len() > 3 && begun.iter().all(|at| *at == first), "{step:?}");
            assert!(begun.len() == had.len() && had.is_sorted(), "{step:?}");
            // Waited for one by one, within the first forward pass, which has less than a third of a step of two micro-batches.
            let forward = first + (last - first) / 6;
            let waits = had.iter().collect::<std::collections::BTreeSet<_>>().len();
            assert!(waits > 3 && had.iter().all(|at| *at <= forward), "{had:?} of {first}..{last}");
        }
        let mut start = 0_u64;
        for step in &steps {
            let [begun, had] = [Did::BeginsSum, Did::HasSummed].map(|did| of(step, did));
            let last = *had.last().unwrap();
            assert!(begun.len() > 3 && had.len() == begun.len(), "{step:?}");
            // In the second half of the products, while there are more, and waited for after the last.
            assert!(begun[0] > start.midpoint(last), "{begun:?} of {start}..{last}");
            start = last;
            let early = begun.iter().filter(|at| **at < last).count();
            assert!(early * 2 > begun.len(), "{begun:?} of ..{last}");
            assert!(had.iter().all(|at| *at == last), "{had:?}");
        }
    }
}

#[test]
fn what_an_engine_fails_at_is_told_and_nothing_more_is_asked_of_it() {
    for (fails, asked) in [(Did::BeginsSum, 1), (Did::BeginsGather, 1), (Did::HasGathered, 0)] {
        let told = on_ranks(2, |comm| {
            let device = Traced::new(Box::new(Cpu::new(1).unwrap()));
            let late =
                Late { inner: comm, device: &device, did: Mutex::default(), fails: Some(fails) };
            let (registry, preset) = (Registry::standard(), Preset::Nanochat202607);
            let setup = setup(&registry, preset);
            let mut trainer = Trainer::on_ranks(&device, &late, setup, &registry, 3).unwrap();
            trainer.initialize(5).unwrap();
            let mut batches = Counting::new(&trainer, &late);
            let error = (0..2).find_map(|_| trainer.step(&mut batches).err()).unwrap();
            let did = late.did.lock().unwrap();
            (error.to_string(), did.iter().filter(|(did, _)| *did == fails).count())
        });
        for (error, times) in told {
            assert!(error.contains("no network"), "{fails:?}: {error}");
            assert!(asked == 0 || times == asked, "{fails:?}: asked {times} times");
        }
    }
}

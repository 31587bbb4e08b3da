//! Where the ranks of a stage are: threads of this process, or the processes that a launcher has started. How all of them do their part.

use std::sync::Arc;

use anyhow::Context;
use farthing_comm::{Comm, Control, Job, One, Threads};
use farthing_kernels::Device;

use crate::crew::{self, Crew};
use crate::{Extras, Lacking, PlanCtx, RankEngine, Resources, Result};

/// Where a rank is.
pub(crate) enum Seat<'a> {
    /// There is no other.
    Alone,
    /// One of several threads of this process.
    Thread(Threads),
    /// One of several processes.
    Process(&'a Job),
}

impl Seat<'_> {
    /// Which of the ranks on this machine it is.
    pub(crate) fn local_rank(&self) -> usize {
        match self {
            Self::Alone => 0,
            Self::Thread(end) => end.rank(),
            Self::Process(job) => job.launch().local_rank,
        }
    }

    /// What joins it to the others for a few bytes.
    pub(crate) fn control(self) -> Arc<dyn Control> {
        match self {
            Self::Alone => Arc::new(One),
            Self::Thread(end) => Arc::new(end),
            Self::Process(job) => job.control(),
        }
    }

    /// What joins it to the others for arrays of a device.
    pub(crate) fn comm<'d>(
        self,
        engine: RankEngine,
        dev: &'d dyn Device,
    ) -> farthing_comm::Result<Box<dyn Comm + 'd>> {
        Ok(match self {
            Self::Alone => Box::new(One),
            #[cfg(feature = "nvidia")]
            Self::Thread(end) if engine == RankEngine::Nccl => {
                let patience = farthing_comm::Patience::default();
                Box::new(farthing_comm::Nccl::new(Arc::new(end), dev, patience)?)
            }
            Self::Thread(end) => Box::new(end),
            Self::Process(job) => job.comm(engine.into(), dev)?,
        })
    }
}

/// Has all ranks of a stage do their part: the first what `lead` says, here; the others what `follow` says, in threads of their own, or what `order` says, in their processes.
///
/// # Errors
/// Of what any rank says, what went wrong first.
pub(crate) fn everywhere<T>(
    resources: &Resources,
    extras: &Extras,
    order: impl FnOnce() -> crew::Order,
    lead: impl FnOnce(Seat<'_>) -> Result<T>,
    follow: impl Fn(Seat<'_>) -> Result<()> + Sync,
) -> Result<T> {
    let ranks = resources.all_ranks();
    if ranks == 1 {
        return lead(Seat::Alone);
    }
    if let Some(job) = Crew::job(extras) {
        crew::say(job, &order())?;
        return lead(Seat::Process(job));
    }
    let mut ends = Threads::new(ranks).into_iter();
    let first = ends.next().context("a job has at least one rank")?;
    std::thread::scope(|scope| {
        let follow = &follow;
        let mut others = Vec::new();
        for end in ends {
            let thread = std::thread::Builder::new().name(format!("rank {}", end.rank()));
            let spawned = thread.spawn_scoped(scope, move || follow(Seat::Thread(end)));
            others.push(spawned.context("starting the thread of a rank")?);
        }
        // Its end is gone with it: whoever still waits for the first rank hears that.
        let led = lead(Seat::Thread(first));
        let joined = others.into_iter().map(|rank| match rank.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let (led, done) = match led {
            Ok(led) => (Some(led), Ok(())),
            Err(error) => (None, Err(error)),
        };
        first_cause([done].into_iter().chain(joined))?;
        led.context("the first rank is done")
    })
}

/// What a stage on several ranks lacks before anything runs: a launcher, and what `open` opens of the device of a rank on this machine. A sweep opens it once: `how`
/// says what else `open` depends on.
pub(crate) fn preflight(
    resources: &Resources,
    ctx: &PlanCtx,
    how: &str,
    open: impl FnOnce(usize) -> Result<Box<dyn Device>>,
) -> Result<()> {
    let launched = ctx.extras().get::<Crew>().is_some_and(Crew::is_expected);
    let ranks = resources.all_ranks();
    // The last of the GPUs that this process opens is there if all are.
    let last = if launched || resources.gpus == 0 { 0 } else { ranks - 1 };
    let Resources { device, threads, .. } = resources;
    let what = format!("{device} {last}, {threads} threads, {how}");
    ctx.tried(&what, || open(last).map(drop))?;
    if ranks > 1 && resources.engine == RankEngine::Mpi && !launched {
        return Err(Lacking(format!(
            "its `resources` ask for `engine = \"mpi\"`, and no mpirun has started this process\n\
             hint: start it with `mpirun -n {ranks}` before the command, or leave `engine` out"
        ))
        .into());
    }
    Ok(())
}

/// Of what all ranks said, what went wrong first: a rank that is only missed by the others has something else to say.
fn first_cause(results: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let mut missed = None;
    for error in results.into_iter().filter_map(Result::err) {
        let comm = error.chain().find_map(crate::failure::comm);
        if !comm.is_some_and(farthing_comm::Error::is_only_missed) {
            return Err(error);
        }
        missed.get_or_insert(error);
    }
    missed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use anyhow::anyhow;
    use farthing_kernels::reference::Reference;

    use super::*;
    use crate::Accelerator;
    use crate::ctx::Measured;

    fn missed(lost: usize) -> Result<()> {
        let error =
            farthing_comm::Error::Lost { lost, ranks: 3, rank: 0, during: "broadcast".into() };
        Err(farthing_train::Error::from(error).into())
    }

    #[test]
    fn a_sweep_opens_a_device_once_and_hears_each_time_that_there_is_none() {
        let ctx = PlanCtx::new(
            0,
            Vec::new(),
            BTreeMap::new(),
            Vec::new(),
            BTreeMap::new(),
            Arc::default(),
            Measured::default(),
        );
        let opened = Cell::new(0);
        let one = |resources: &Resources, how| {
            preflight(resources, &ctx, how, |_| {
                opened.set(opened.get() + 1);
                Ok(Box::new(Reference::new()))
            })
        };
        let cpu = Resources {
            device: Accelerator::Cpu,
            gpus: 0,
            ranks: 1,
            engine: RankEngine::Threads,
            threads: 2,
        };
        for _ in 0..200 {
            one(&cpu, "f32").unwrap();
        }
        assert_eq!(opened.get(), 1);
        for other in [
            Resources { threads: 3, ..cpu.clone() },
            Resources { device: Accelerator::Emulated, ..cpu.clone() },
            Resources { device: Accelerator::Cuda, gpus: 2, ..cpu.clone() },
        ] {
            one(&other, "f32").unwrap();
        }
        one(&cpu, "bf16").unwrap();
        assert_eq!(opened.get(), 5);
        let none = Resources { threads: 4, ..cpu };
        for i in 0..3 {
            let said = preflight(&none, &ctx, "f32", |_| Err(anyhow!("no room for variant {i}")));
            assert_eq!(said.unwrap_err().to_string(), format!("no room for variant {i}"));
        }
    }

    #[test]
    fn what_a_rank_failed_of_is_told_and_not_that_it_was_missed() {
        let cause = || Err(anyhow!("no room left"));
        for results in [
            vec![missed(2), missed(2), cause()],
            vec![missed(1), cause(), missed(1)],
            vec![cause(), missed(0), Err(anyhow!("another"))],
        ] {
            assert_eq!(first_cause(results).unwrap_err().to_string(), "no room left");
        }
        let only_missed = first_cause(vec![missed(1), Ok(()), missed(0)]).unwrap_err();
        assert!(only_missed.to_string().starts_with("rank 1 of 3 is gone"), "{only_missed}");
        assert!(first_cause(vec![Ok(()), Ok(())]).is_ok());
    }
}

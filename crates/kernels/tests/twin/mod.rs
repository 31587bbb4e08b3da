//! Two machines as one: whatever is asked of it is asked of both, and after each launch all of their memory is compared.
//!
//! Addresses are the first machine's. Where the second differs, it is given the first's bytes, so that each launch is judged by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farthing_kernels::cuda::driver::{Arg, Driver, Event, Kernel, Properties};
use farthing_kernels::{Error, Place, Result};
use ptx_emulator::Exactness;

/// What was found about one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) launches: usize,
    /// Launches after which the machines differed.
    pub(crate) differing: usize,
    /// Bytes that differed, over all launches.
    pub(crate) bytes: usize,
    /// Whether the kernel's arithmetic is exact, so that any difference is a fault of one of the machines.
    pub(crate) exact: bool,
}

/// Two machines as one.
pub(crate) struct Twin {
    first: Arc<dyn Driver>,
    second: Arc<dyn Driver>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the first machine's address: the second's, and the bytes there.
    allocations: BTreeMap<u64, (u64, usize)>,
    verdicts: BTreeMap<&'static str, Verdict>,
}

impl Twin {
    pub(crate) fn new(first: Arc<dyn Driver>, second: Arc<dyn Driver>) -> Self {
        Self { first, second, state: Mutex::default() }
    }

    /// By kernel.
    pub(crate) fn verdicts(&self) -> BTreeMap<&'static str, Verdict> {
        self.state().verdicts.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The second machine's address for the first's.
    fn second_address(&self, op: &'static str, address: u64) -> Result<u64> {
        let state = self.state();
        let within = state.allocations.range(..=address).next_back();
        match within {
            Some((&start, &(second, bytes))) if address - start <= bytes as u64 => {
                Ok(second + (address - start))
            }
            _ => Err(Error::Driver {
                op,
                device: "twin",
                what: format!("no memory at {address:#x}"),
            }),
        }
    }

    /// Bytes of all memory in which the machines differ; the second is then given the first's.
    fn reconcile(&self) -> Result<usize> {
        let allocations = self.state().allocations.clone();
        let mut differing = 0;
        for (first, (second, bytes)) in allocations {
            let (mut ours, mut theirs) = (vec![0; bytes], vec![0; bytes]);
            self.first.read(&mut ours, first)?;
            self.second.read(&mut theirs, second)?;
            let unequal = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
            if unequal > 0 {
                differing += unequal;
                self.second.write(second, &ours)?;
            }
        }
        Ok(differing)
    }
}

/// Whether each result of a kernel is given by IEEE 754 and its text alone: no approximation, no sum in an order that is the hardware's own
/// (matrix instructions, floating-point atomics), no product that an assembler may fuse with the sum it goes into.
pub(crate) fn exact(kernel: &Kernel) -> bool {
    let all = ptx_emulator::exactness(kernel.module.ptx).expect("the text of a loaded module");
    all.get(kernel.name).is_some_and(Exactness::exact)
}

impl Driver for Twin {
    fn name(&self) -> &'static str {
        "twin"
    }

    fn place(&self) -> Place {
        self.first.place()
    }

    /// The first's: grids are sized by it, so that both launch the same.
    fn properties(&self) -> &Properties {
        self.first.properties()
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let first = self.first.alloc(bytes)?;
        let second = self.second.alloc(bytes)?;
        // What nobody has written yet may be anything, and would differ.
        self.first.zero(first, bytes)?;
        self.second.zero(second, bytes)?;
        self.state().allocations.insert(first, (second, bytes));
        Ok(first)
    }

    fn free(&self, address: u64) {
        if let Some((second, _)) = self.state().allocations.remove(&address) {
            self.second.free(second);
        }
        self.first.free(address);
    }

    fn write(&self, dst: u64, src: &[u8]) -> Result<()> {
        self.first.write(dst, src)?;
        self.second.write(self.second_address("write", dst)?, src)
    }

    fn read(&self, dst: &mut [u8], src: u64) -> Result<()> {
        self.first.read(dst, src)
    }

    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        self.first.copy(dst, src, bytes)?;
        self.second.copy(
            self.second_address("copy", dst)?,
            self.second_address("copy", src)?,
            bytes,
        )
    }

    fn zero(&self, dst: u64, bytes: usize) -> Result<()> {
        self.first.zero(dst, bytes)?;
        self.second.zero(self.second_address("zero", dst)?, bytes)
    }

    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        let translate = |arg: &Arg| match *arg {
            Arg::Address(0) => Ok(Arg::Address(0)),
            Arg::Address(address) => self.second_address(kernel.name, address).map(Arg::Address),
            other => Ok(other),
        };
        let theirs = args.iter().map(translate).collect::<Result<Vec<_>>>()?;
        self.first.launch(kernel, blocks, args)?;
        self.second.launch(kernel, blocks, &theirs)?;
        let bytes = self.reconcile()?;
        let mut state = self.state();
        let new = || Verdict { exact: exact(kernel), ..Verdict::default() };
        let verdict = state.verdicts.entry(kernel.name).or_insert_with(new);
        verdict.launches += 1;
        verdict.differing += usize::from(bytes > 0);
        verdict.bytes += bytes;
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        self.first.synchronize()?;
        self.second.synchronize()
    }

    fn record(&self) -> Result<Event> {
        self.first.record()
    }

    fn elapsed_s(&self, from: Event, to: Event) -> Result<f64> {
        self.first.elapsed_s(from, to)
    }
}

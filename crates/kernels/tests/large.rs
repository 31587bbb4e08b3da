//! The bodies of `conformance::large` can fail: on machines that are wrong about one kernel, in the emulator, at small sizes. And they say
//! so where memory is missing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use farthing_kernels::Result;
use farthing_kernels::conformance::{Body, Mismatch, large};
use farthing_kernels::cpu::Cpu;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::driver::{Arg, Driver, Kernel};
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::cuda::gemm::HostGemm;
use farthing_kernels::cuda::watched::Watched;

/// An emulator that is wrong about one kernel: as if an index had wrapped around, the end of what it writes first lands on the beginning.
struct Wrong {
    emulator: Emulator,
    about: &'static str,
    /// From which launch on; all of them at 0.
    from: usize,
    launches: AtomicUsize,
    sizes: std::sync::Mutex<std::collections::BTreeMap<u64, usize>>,
}

impl Wrong {
    fn new(about: &'static str, from: usize) -> Self {
        Self {
            emulator: Emulator::new(),
            about,
            from,
            launches: AtomicUsize::new(0),
            sizes: std::sync::Mutex::default(),
        }
    }

    /// The allocation that holds an address.
    fn around(&self, address: u64) -> Option<(u64, usize)> {
        let sizes = self.sizes.lock().expect("no panic before");
        let (&start, &bytes) = sizes.range(..=address).next_back()?;
        (address < start + bytes as u64).then_some((start, bytes))
    }
}

impl Driver for Wrong {
    delegate!(emulator: place, properties, write, read, copy, zero, synchronize, record, elapsed_s);
    fn name(&self) -> &'static str {
        "wrong"
    }
    fn alloc(&self, bytes: usize) -> Result<u64> {
        let address = self.emulator.alloc(bytes)?;
        self.sizes.lock().expect("no panic before").insert(address, bytes);
        Ok(address)
    }
    fn free(&self, address: u64) {
        self.sizes.lock().expect("no panic before").remove(&address);
        self.emulator.free(address);
    }
    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        self.emulator.launch(kernel, blocks, args)?;
        if kernel.name != self.about || self.launches.fetch_add(1, Relaxed) < self.from {
            return Ok(());
        }
        let first = args.iter().find_map(|arg| match arg {
            Arg::Address(address) => Some(*address),
            _ => None,
        });
        let Some((start, bytes)) = first.and_then(|address| self.around(address)) else {
            return Ok(());
        };
        let some = bytes.min(16);
        let mut end = vec![0; some];
        self.emulator.read(&mut end, start + (bytes - some) as u64)?;
        // Where there is no more than that, or the same, another exponent.
        end[some - 1] ^= 1;
        self.emulator.write(start, &end)
    }
}

fn cuda(driver: Arc<dyn Driver>) -> Cuda {
    let gemm = HostGemm::new(driver.clone()).expect("the host multiplies");
    Cuda::new(driver, Box::new(gemm)).expect("memory for the device's scratch")
}

/// The kernels that a body launches, which passes.
fn launched(name: &str, body: Body) -> BTreeSet<&'static str> {
    let watched = Watched::new(Arc::new(Emulator::new()));
    let outcome = body(&cuda(watched.clone()));
    assert!(outcome.is_ok(), "{name}: {outcome:?}");
    watched.take_launched()
}

/// What a fill leaves has to be overwritten.
fn poisons(kernel: &str) -> bool {
    kernel.starts_with("fill_")
}

#[test]
fn a_wrong_kernel_fails_every_body_that_launches_it() {
    let mut seen = 0;
    for &(name, body) in large::TOY.iter().filter(|(name, _)| !name.ends_with("_repeated")) {
        // To a backward what the forward left is given: another body judges that.
        let given = |kernel: &str| name == "attention_backward_long" && kernel == "attention_16";
        let judged = |kernel: &&str| !poisons(kernel) && !given(kernel);
        for kernel in launched(name, body).into_iter().filter(judged) {
            let outcome = body(&cuda(Arc::new(Wrong::new(kernel, 0))));
            let told = matches!(outcome, Err(Mismatch::Differs { .. } | Mismatch::Wrong { .. }));
            assert!(told, "{name} does not see that {kernel} is wrong: {outcome:?}");
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen} pairs of a body and a kernel");
}

#[test]
fn a_kernel_that_is_not_the_same_twice_fails_what_is_repeated() {
    let mut seen = 0;
    for &(name, body) in large::TOY.iter().filter(|(name, _)| name.ends_with("_repeated")) {
        for kernel in launched(name, body).into_iter().filter(|kernel| !poisons(kernel)) {
            // Right at first: no other body would see that.
            let outcome = body(&cuda(Arc::new(Wrong::new(kernel, 1))));
            let Err(Mismatch::Wrong { what, .. }) = &outcome else {
                panic!("{name} does not see that {kernel} changes: {outcome:?}")
            };
            assert!(what.contains("left other bits than the first call"), "{kernel}: {what}");
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen} pairs of a body and a kernel");
}

#[test]
fn a_device_without_the_memory_says_so_and_is_not_wrong() {
    let small = Emulator::with_memory((1 << 20) + 4096);
    let cuda = cuda(Arc::new(small));
    for &(name, body) in large::TOY {
        let outcome = body(&cuda);
        let Err(Mismatch::NotRun { why, .. }) = &outcome else { panic!("{name}: {outcome:?}") };
        assert!(why.contains("could not allocate"), "{name}: {why}");
    }
    // The host would promise the memory, and then end the process.
    let cpu = Cpu::new(1).expect("a thread");
    for &(name, body) in large::LARGE.iter().filter(|(name, _)| name.contains("beyond")) {
        assert!(matches!(body(&cpu), Err(Mismatch::NotRun { .. })), "{name}");
    }
}

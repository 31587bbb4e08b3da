//! The emulator as a driver, with a module of one's own in place of one that ships.

use std::sync::Arc;

use farthing_kernels::Result;
use farthing_kernels::cuda::driver::{Arg, Driver, Kernel, Module};
use farthing_kernels::cuda::emulated::Emulator;

/// The emulator, with a module of its own in place of one of attention's.
pub(crate) struct Mutant {
    pub(crate) emulator: Arc<Emulator>,
    pub(crate) original: &'static str,
    pub(crate) module: &'static Module,
}

impl Driver for Mutant {
    delegate!(emulator: name, place, properties, alloc, free, write, read, copy, zero, synchronize, record, elapsed_s);
    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        let &Kernel { name, threads, shared_bytes, .. } = kernel;
        let mutated = kernel.module.name == self.original;
        let module = if mutated { self.module } else { kernel.module };
        let kernel = Box::leak(Box::new(Kernel { module, name, threads, shared_bytes }));
        self.emulator.launch(kernel, blocks, args)
    }
}

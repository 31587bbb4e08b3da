//! The emulator as a driver, with a module of one's own in place of one that ships.

use std::sync::Arc;

use farthing_kernels::cuda::driver::{Arg, Driver, Event, Kernel, Module, Properties};
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::{Place, Result};

/// The emulator, with a module of its own in place of one of attention's.
pub(crate) struct Mutant {
    pub(crate) emulator: Arc<Emulator>,
    pub(crate) original: &'static str,
    pub(crate) module: &'static Module,
}

impl Driver for Mutant {
    fn name(&self) -> &'static str {
        self.emulator.name()
    }
    fn place(&self) -> Place {
        self.emulator.place()
    }
    fn properties(&self) -> &Properties {
        self.emulator.properties()
    }
    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.emulator.alloc(bytes)
    }
    fn free(&self, address: u64) {
        self.emulator.free(address);
    }
    fn write(&self, dst: u64, src: &[u8]) -> Result<()> {
        self.emulator.write(dst, src)
    }
    fn read(&self, dst: &mut [u8], src: u64) -> Result<()> {
        self.emulator.read(dst, src)
    }
    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        self.emulator.copy(dst, src, bytes)
    }
    fn zero(&self, dst: u64, bytes: usize) -> Result<()> {
        self.emulator.zero(dst, bytes)
    }
    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        let &Kernel { name, threads, shared_bytes, .. } = kernel;
        let mutated = kernel.module.name == self.original;
        let module = if mutated { self.module } else { kernel.module };
        let kernel = Box::leak(Box::new(Kernel { module, name, threads, shared_bytes }));
        self.emulator.launch(kernel, blocks, args)
    }
    fn synchronize(&self) -> Result<()> {
        self.emulator.synchronize()
    }
    fn record(&self) -> Result<Event> {
        self.emulator.record()
    }
    fn elapsed_s(&self, from: Event, to: Event) -> Result<f64> {
        self.emulator.elapsed_s(from, to)
    }
}

//! A machine that notes which kernels are launched on it, so that a report can say of each what it was part of.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::driver::{Arg, Driver, Event, Kernel, Properties};
use crate::{Place, Result};

/// A driver, and the names of what was launched through it. A launch that the driver refuses counts too: it was asked for.
pub struct Noted {
    driver: Arc<dyn Driver>,
    launched: Mutex<BTreeSet<&'static str>>,
}

impl Noted {
    /// Nothing is noted yet.
    pub fn new(driver: Arc<dyn Driver>) -> Self {
        Self { driver, launched: Mutex::default() }
    }

    /// The kernels launched since the last call, each once, by name.
    pub fn take(&self) -> BTreeSet<&'static str> {
        std::mem::take(&mut self.launched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Driver for Noted {
    fn name(&self) -> &'static str {
        self.driver.name()
    }

    fn place(&self) -> Place {
        self.driver.place()
    }

    fn properties(&self) -> &Properties {
        self.driver.properties()
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.driver.alloc(bytes)
    }

    fn free(&self, address: u64) {
        self.driver.free(address);
    }

    fn write(&self, dst: u64, src: &[u8]) -> Result<()> {
        self.driver.write(dst, src)
    }

    fn read(&self, dst: &mut [u8], src: u64) -> Result<()> {
        self.driver.read(dst, src)
    }

    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        self.driver.copy(dst, src, bytes)
    }

    fn zero(&self, dst: u64, bytes: usize) -> Result<()> {
        self.driver.zero(dst, bytes)
    }

    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        self.launched.lock().unwrap_or_else(PoisonError::into_inner).insert(kernel.name);
        self.driver.launch(kernel, blocks, args)
    }

    fn synchronize(&self) -> Result<()> {
        self.driver.synchronize()
    }

    fn record(&self) -> Result<Event> {
        self.driver.record()
    }

    fn elapsed_s(&self, from: Event, to: Event) -> Result<f64> {
        self.driver.elapsed_s(from, to)
    }
}

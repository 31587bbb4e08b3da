//! The emulator as a driver: every launch is executed on the host, with each access checked.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ptx_emulator::{Arg as Word, Counters, Memory, Module, Options, Pointer};

use super::driver::{Arg, Driver, Event, Kernel, Properties};
use crate::{Error, Place, Result, Room};

/// The name in messages.
const NAME: &str = "emulated";

/// What it has, so that a size that no host holds is refused as a GPU refuses it.
const MEMORY_BYTES: usize = 1 << 34;

/// A machine that exists in this process only, of compute capability 8.0 or what is asked for.
pub struct Emulator {
    properties: Properties,
    options: Options,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    memory: Memory,
    /// Bytes of each live allocation.
    sizes: HashMap<u64, usize>,
    modules: HashMap<&'static str, Module>,
    events: HashMap<Event, Instant>,
    launches: Vec<(&'static str, Counters)>,
}

impl Emulator {
    /// A machine of 16 GiB with all of the emulator's checks on.
    pub fn new() -> Self {
        Self::with_memory(MEMORY_BYTES)
    }

    /// A machine that has so many bytes: what is allocated, and no more, is taken from the host, a quarter more than asked.
    pub fn with_memory(memory_bytes: usize) -> Self {
        let options = Options { block_races: true, ..Options::default() };
        Self {
            properties: Properties {
                model: "PTX emulator".into(),
                capability: (8, 0),
                multiprocessors: 4,
                memory_bytes,
            },
            options,
            state: Mutex::default(),
        }
    }

    /// What was launched since the last call, each with its counters, in order.
    pub fn take_launches(&self) -> Vec<(&'static str, Counters)> {
        std::mem::take(&mut self.state().launches)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Emulator {
    fn default() -> Self {
        Self::new()
    }
}

fn failed(op: &'static str, source: &ptx_emulator::Error) -> Error {
    Error::Driver { op, device: NAME, what: source.to_string() }
}

impl Driver for Emulator {
    fn name(&self) -> &'static str {
        NAME
    }

    fn place(&self) -> Place {
        Place::Emulated
    }

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let mut state = self.state();
        let used = state.sizes.values().sum::<usize>();
        if bytes > self.properties.memory_bytes.saturating_sub(used) {
            return Err(Error::OutOfMemory { device: NAME, bytes });
        }
        let address = state.memory.alloc(bytes).address();
        state.sizes.insert(address, bytes);
        Ok(address)
    }

    fn free(&self, address: u64) {
        let mut state = self.state();
        state.sizes.remove(&address);
        // Only an address that is not from `alloc` is refused; there is no one to tell.
        let _ = state.memory.free(Pointer::from_address(address));
    }

    fn room(&self) -> Result<Option<Room>> {
        let (bytes, used) = (self.properties.memory_bytes, self.state().sizes.values().sum());
        let free_bytes = bytes.saturating_sub(used) as u64;
        Ok(Some(Room { free_bytes, bytes: bytes as u64 }))
    }

    fn write(&self, dst: u64, src: &[u8]) -> Result<()> {
        self.state().write("write", dst, src)
    }

    fn read(&self, dst: &mut [u8], src: u64) -> Result<()> {
        let bytes = self.state().read("read", src, dst.len())?;
        dst.copy_from_slice(&bytes);
        Ok(())
    }

    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        let mut state = self.state();
        let values = state.read("copy", src, bytes)?;
        state.write("copy", dst, &values)
    }

    fn zero(&self, dst: u64, bytes: usize) -> Result<()> {
        self.state().write("zero", dst, &vec![0; bytes])
    }

    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        let mut state = self.state();
        let State { memory, modules, launches, .. } = &mut *state;
        let failed = |e| failed(kernel.name, &e);
        if !modules.contains_key(kernel.module.name) {
            let module = Module::parse(kernel.module.ptx).map_err(failed)?;
            modules.insert(kernel.module.name, module);
        }
        let module = &modules[kernel.module.name];
        let words: Vec<Word> =
            args.iter().map(|arg| arg.with_bytes(|bytes| Word::Bytes(bytes.to_vec()))).collect();
        let threads = [kernel.threads, 1, 1];
        let counters = module
            .kernel(kernel.name)
            .and_then(|k| {
                k.launch(blocks, threads, kernel.shared_bytes, &words, memory, &self.options)
            })
            .map_err(failed)?;
        launches.push((kernel.name, counters));
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn record(&self) -> Result<Event> {
        let event = Event::new();
        self.state().events.insert(event, Instant::now());
        Ok(event)
    }

    fn elapsed_s(&self, from: Event, to: Event) -> Result<f64> {
        let mut state = self.state();
        let mut at = |event: Event| {
            state.events.remove(&event).ok_or_else(|| Error::Driver {
                op: "elapsed_s",
                device: NAME,
                what: format!("{event:?} is not of this machine, or was used before"),
            })
        };
        let from = at(from)?;
        Ok(at(to)?.saturating_duration_since(from).as_secs_f64())
    }
}

impl State {
    fn write(&mut self, op: &'static str, dst: u64, src: &[u8]) -> Result<()> {
        self.memory.write(Pointer::from_address(dst), src).map_err(|e| failed(op, &e))
    }

    fn read(&self, op: &'static str, src: u64, bytes: usize) -> Result<Vec<u8>> {
        self.memory.read(Pointer::from_address(src), bytes).map_err(|e| failed(op, &e))
    }
}

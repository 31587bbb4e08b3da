//! A stream beside a GPU's own, and the events by which the two wait for each other. The host waits for neither.
//!
//! An event is recorded in one stream and waited for in the other; a wait is for what had been recorded when it was asked for, so that the event can be recorded again at once (NVIDIA's "CUDA
//! Driver API", `cuStreamWaitEvent`). Not yet run on a GPU.

use std::collections::HashMap;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys as cu;

use super::api::SUCCESS;
use super::driver::{Beside, Driver as _, Event};
use super::nvidia::Nvidia;
use crate::{Error, Result};

/// A stream beside a GPU's own.
pub(super) struct Side<'a> {
    gpu: &'a Nvidia,
    stream: cu::CUstream,
    events: Mutex<Events>,
}

/// Moments that somebody may wait for still, and events that can be recorded again.
#[derive(Default)]
struct Events {
    marked: HashMap<Event, cu::CUevent>,
    idle: Vec<cu::CUevent>,
}

// SAFETY: the driver's handles may be used from any thread that has made the context current, and each method does.
unsafe impl Send for Side<'_> {}
// SAFETY: the driver's functions may be called from several threads at once; our own state is behind a lock.
unsafe impl Sync for Side<'_> {}

impl<'a> Side<'a> {
    /// # Errors
    /// [`Error::Driver`].
    pub(super) fn new(gpu: &'a Nvidia) -> Result<Self> {
        gpu.enter("beside")?;
        let mut stream = ptr::null_mut();
        let apart = cu::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes one handle; it is destroyed on drop.
        gpu.done("beside", unsafe { (gpu.api().cuStreamCreate)(&raw mut stream, apart) })?;
        Ok(Self { gpu, stream, events: Mutex::default() })
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an event in `stream`, one that nobody waits for or a new one.
    fn record(&self, op: &'static str, stream: cu::CUstream) -> Result<cu::CUevent> {
        let idle = self.events().idle.pop();
        let event = match idle {
            Some(event) => event,
            None => {
                let mut event = ptr::null_mut();
                let untimed = cu::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
                // SAFETY: writes one handle; it is destroyed on drop.
                let made = unsafe { (self.gpu.api().cuEventCreate)(&raw mut event, untimed) };
                self.gpu.done(op, made)?;
                event
            }
        };
        // SAFETY: an event and a stream of this context.
        let recorded = unsafe { (self.gpu.api().cuEventRecord)(event, stream) };
        if recorded != SUCCESS {
            self.events().idle.push(event);
        }
        self.gpu.done(op, recorded).map(|()| event)
    }

    /// Has `stream` wait for an event, which is idle from then on.
    fn wait(&self, op: &'static str, stream: cu::CUstream, event: cu::CUevent) -> Result<()> {
        // SAFETY: an event and a stream of this context; the flags must be 0.
        let status = unsafe { (self.gpu.api().cuStreamWaitEvent)(stream, event, 0) };
        self.events().idle.push(event);
        self.gpu.done(op, status)
    }
}

impl Beside for Side<'_> {
    fn cuda_stream(&self) -> Result<usize> {
        self.gpu.enter("cuda_stream")?;
        Ok(self.stream as usize)
    }

    fn follow(&self) -> Result<()> {
        self.gpu.enter("follow")?;
        let event = self.record("follow", self.gpu.stream())?;
        self.wait("follow", self.stream, event)
    }

    fn mark(&self) -> Result<Event> {
        self.gpu.enter("mark")?;
        let (event, moment) = (self.record("mark", self.stream)?, Event::new());
        self.events().marked.insert(moment, event);
        Ok(moment)
    }

    fn join(&self, moment: Event) -> Result<()> {
        self.gpu.enter("join")?;
        let event = self.events().marked.remove(&moment).ok_or_else(|| Error::Driver {
            op: "join",
            device: self.gpu.name(),
            what: format!("{moment:?} is not of this stream, or was waited for before"),
        })?;
        self.wait("join", self.gpu.stream(), event)
    }
}

impl Drop for Side<'_> {
    fn drop(&mut self) {
        // What is under way in a stream that is destroyed is done all the same. There is no one to tell of a failure.
        if self.gpu.enter("beside").is_err() {
            return;
        }
        let Events { marked, idle } = std::mem::take(&mut *self.events());
        let api = self.gpu.api();
        // SAFETY: made above, destroyed once.
        unsafe {
            for event in idle.into_iter().chain(marked.into_values()) {
                let _ = (api.cuEventDestroy_v2)(event);
            }
            let _ = (api.cuStreamDestroy_v2)(self.stream);
        }
    }
}

//! `Nccl`: ranks on NVIDIA's GPUs. Arrays travel by NCCL in a stream beside the device's own, so that the host waits for nothing and the device for what it needs; a few bytes travel by whatever
//! else joins the ranks.

mod api;
mod collectives;

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use api::{Api, Config, Handle, IN_PROGRESS, SUCCESS, UniqueId};
use farthing_kernels::Device;
use farthing_kernels::cuda::driver::{Beside, Event};

use crate::{Control, Error, Patience, Result};

/// How often a communicator that is under way is asked how it is.
const ASK: Duration = Duration::from_millis(100);

/// One rank's end of a job on GPUs, each rank with one of its own.
///
/// A collective is launched in a stream of its own and not waited for by the host: it begins when all that the device was asked for before is done, and the device waits for it where that is asked
/// for ([`Comm`](crate::Comm)). A thread asks NCCL and the other ranks how they are; where something is wrong, or a collective has not ended after
/// [`Patience::deadline`], it ends the communicator, so that whoever waits for the device goes on, and the next call says what was wrong.
///
/// # Numerics
/// The same bits on every rank, and in every run of N ranks where NCCL chooses the same way: the sums are NCCL's own, whose order is not that of ranks.
pub struct Nccl<'d> {
    control: Arc<dyn Control>,
    dev: &'d dyn Device,
    beside: Box<dyn Beside + 'd>,
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
}

struct Shared {
    api: Api,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    comm: Handle,
    /// The first collective since the last time that the host knew all to be done.
    under_way: Option<(Instant, &'static str)>,
    collectives: u64,
    failed: Option<Failed>,
    closing: bool,
}

// SAFETY: a communicator may be used by any thread, one at a time but for asking how it is and ending it; the lock sees to that.
unsafe impl Send for State {}

/// What went wrong, as often as it is asked.
#[derive(Clone)]
enum Failed {
    Library {
        during: &'static str,
        what: String,
    },
    Late {
        during: &'static str,
        seconds: u64,
    },
    /// Another rank, which the control says again.
    Control,
}

impl<'d> Nccl<'d> {
    /// Whether the library is there: its version, as it numbers them; 21803 is 2.18.3.
    ///
    /// # Errors
    /// [`Error::Library`].
    pub fn find() -> Result<i32> {
        Api::load().map(|api| api.version)
    }

    /// This rank's end. A collective.
    ///
    /// # Errors
    /// [`Error::Library`]: there is no NCCL, or the device has no stream for it; [`Error::Engine`]; [`Error::Lost`] and its like.
    pub fn new(control: Arc<dyn Control>, dev: &'d dyn Device, patience: Patience) -> Result<Self> {
        let api = Api::load()?;
        let beside = dev.beside()?.ok_or_else(|| {
            Error::library(
                format!("NCCL joins GPUs, and {} is none", dev.name()),
                "leave `engine` out, or set `device = \"cuda\"`",
            )
        })?;
        let during = "making a communicator";
        let mut id = UniqueId([0; 128]);
        if control.rank() == 0 {
            // SAFETY: writes one id.
            let status = unsafe { (api.unique_id)(&raw mut id) };
            done(&api, during, status, std::ptr::null_mut())?;
        }
        let said = control.broadcast(&id.0)?;
        id.0.copy_from_slice(said.get(..128).ok_or_else(|| Error::Argument {
            during,
            what: format!("an id of {} bytes", said.len()),
        })?);
        let mut comm = std::ptr::null_mut();
        let mut config = Config::at_once();
        let (rank, ranks) = (control.rank() as i32, control.ranks() as i32);
        // SAFETY: writes one handle; the device's context is this thread's, which has made a stream in it.
        let mut status =
            unsafe { (api.init_rank)(&raw mut comm, ranks, id, rank, &raw mut config) };
        let begun = Instant::now();
        let joined = loop {
            match status {
                SUCCESS => break Ok(()),
                IN_PROGRESS => {}
                other => break done(&api, during, other, comm),
            }
            if let Err(error) = control.watch(during) {
                break Err(error);
            }
            if begun.elapsed() > patience.first {
                break Err(Failed::Late { during, seconds: begun.elapsed().as_secs() }
                    .error(control.rank()));
            }
            std::thread::sleep(Duration::from_millis(5));
            // SAFETY: writes one number, of a communicator that is being made.
            let asked = unsafe { (api.async_error)(comm, &raw mut status) };
            if asked != SUCCESS {
                status = asked;
            }
        };
        if let Err(error) = joined {
            if !comm.is_null() {
                // SAFETY: made above, ended once.
                let _ = unsafe { (api.abort)(comm) };
            }
            return Err(error);
        }
        let state = State { comm, under_way: None, collectives: 0, failed: None, closing: false };
        let shared = Arc::new(Shared { api, state: Mutex::new(state), changed: Condvar::new() });
        let (watched, of_watcher) = (Arc::clone(&shared), Arc::clone(&control));
        let watch = move || watched.watch(&*of_watcher, patience);
        let mut nccl = Self { control, dev, beside, shared, watcher: None };
        let watcher = std::thread::Builder::new().name("nccl".to_owned()).spawn(watch);
        nccl.watcher = Some(watcher.map_err(|e| Error::Engine {
            during,
            library: "the system",
            what: e.to_string(),
        })?);
        Ok(nccl)
    }

    /// Launches what `call` says with the communicator and the stream, after all that the device was asked for; returns the moment of its end.
    fn launch(
        &self,
        during: &'static str,
        call: impl FnOnce(&Api, Handle, *mut c_void) -> i32,
    ) -> Result<Event> {
        self.beside.follow()?;
        let stream = std::ptr::with_exposed_provenance_mut(self.beside.cuda_stream()?);
        let mut state = self.shared.lock();
        self.sound(&state)?;
        state.collectives += 1;
        state.under_way.get_or_insert((Instant::now(), during));
        let comm = state.comm;
        let mut status = call(&self.shared.api, comm, stream);
        let begun = Instant::now();
        // Work that NCCL prepares in a thread of its own is launched when this ends.
        while status == IN_PROGRESS {
            let waited = self.shared.changed.wait_timeout(state, Duration::from_micros(200));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            self.sound(&state)?;
            // SAFETY: writes one number, of a communicator that has not ended.
            let asked = unsafe { (self.shared.api.async_error)(comm, &raw mut status) };
            if asked != SUCCESS {
                status = asked;
            }
            if status == IN_PROGRESS && begun.elapsed() > Duration::from_secs(5) {
                self.control.watch(during)?;
            }
        }
        done(&self.shared.api, during, status, comm)?;
        drop(state);
        Ok(self.beside.mark()?)
    }

    fn sound(&self, state: &State) -> Result<()> {
        match &state.failed {
            None => Ok(()),
            Some(Failed::Control) => {
                self.control.watch("a collective of NCCL")?;
                Err(Failed::Late { during: "a collective of NCCL", seconds: 0 }.error(self.rank()))
            }
            Some(failed) => Err(failed.error(self.rank())),
        }
    }

    /// What was launched has ended where the host has read what came after it, as it has before it calls this.
    fn settle(&self) -> Result<()> {
        let mut state = self.shared.lock();
        state.under_way = None;
        self.sound(&state)
    }
}

impl Failed {
    fn error(&self, rank: usize) -> Error {
        match self {
            Self::Library { during, what } => {
                Error::Engine { during, library: "NCCL", what: what.clone() }
            }
            Self::Late { during, seconds } => Error::Late {
                rank,
                seconds: *seconds,
                during: (*during).to_owned(),
                late: "all ranks answer, and it does not end".to_owned(),
            },
            Self::Control => Error::Engine {
                during: "a collective",
                library: "NCCL",
                what: "another rank stopped".to_owned(),
            },
        }
    }
}

fn done(api: &Api, during: &'static str, status: i32, comm: Handle) -> Result<()> {
    match status {
        SUCCESS => Ok(()),
        _ => Err(Error::Engine { during, library: "NCCL", what: api.describe(status, comm) }),
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after a communicator until it is closed; ends it where something is wrong.
    fn watch(&self, control: &dyn Control, patience: Patience) {
        let mut state = self.lock();
        while !state.closing {
            state = self.changed.wait_timeout(state, ASK).unwrap_or_else(PoisonError::into_inner).0;
            if state.closing || state.failed.is_some() {
                continue;
            }
            let mut status = SUCCESS;
            // SAFETY: writes one number, of a communicator that has not ended.
            let asked = unsafe { (self.api.async_error)(state.comm, &raw mut status) };
            let status = if asked == SUCCESS { status } else { asked };
            // The first builds connections.
            let most = if state.collectives <= 1 { patience.first } else { patience.deadline };
            let during = state.under_way.map_or("a collective", |(_, during)| during);
            let failed = if !matches!(status, SUCCESS | IN_PROGRESS) {
                Some(Failed::Library { during, what: self.api.describe(status, state.comm) })
            } else if control.watch(during).is_err() {
                Some(Failed::Control)
            } else {
                let late = state.under_way.filter(|(begun, _)| begun.elapsed() > most);
                late.map(|(begun, during)| Failed::Late {
                    during,
                    seconds: begun.elapsed().as_secs(),
                })
            };
            if let Some(failed) = failed {
                state.failed = Some(failed);
                // SAFETY: has not ended; no call is made with it after this one.
                let _ = unsafe { (self.api.abort)(state.comm) };
                self.changed.notify_all();
            }
        }
    }
}

impl Control for Nccl<'_> {
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn ranks(&self) -> usize {
        self.control.ranks()
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.settle()?;
        self.control.gather(own)
    }

    fn broadcast(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.settle()?;
        self.control.broadcast(bytes)
    }

    fn watch(&self, during: &'static str) -> Result<()> {
        self.sound(&self.shared.lock())?;
        self.control.watch(during)
    }
}

impl Drop for Nccl<'_> {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_all();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
        let state = self.shared.lock();
        if state.failed.is_some() {
            return;
        }
        // What was launched is done before the communicator ends; where a rank is gone that would be never.
        let peaceful =
            self.control.watch("ending a communicator").is_ok() && self.dev.synchronize().is_ok();
        let api = &self.shared.api;
        // SAFETY: has not ended, and ends here.
        unsafe {
            if peaceful && (api.finalize)(state.comm) != SUCCESS {
                let (begun, mut status) = (Instant::now(), IN_PROGRESS);
                while status == IN_PROGRESS && begun.elapsed() < Duration::from_secs(10) {
                    std::thread::sleep(Duration::from_millis(1));
                    if (api.async_error)(state.comm, &raw mut status) != SUCCESS {
                        break;
                    }
                }
            }
            let _ = if peaceful { (api.destroy)(state.comm) } else { (api.abort)(state.comm) };
        }
    }
}

//! `Mpi`: ranks that an MPI launcher has started. MPI moves bytes between two ranks and nothing else; sums are ours, in the order of ranks, so that Open MPI and MPICH give the
//! same bits as [`Threads`](crate::Threads). (The library's own `Reduce_scatter_block` differs from such a sum in 20–41% of elements at four ranks, and between the two.)

mod api;

use std::ffi::c_int;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::{Api, Request};
use farthing_kernels::{DType, Device, Mut, Ref};

use crate::comm::{host_bytes, own_block, place};
use crate::sum::in_order;
use crate::{Comm, Control, Error, Launch, Peers, Result};

/// What to do where rank 0 can't find its own address.
const NAME_IT: &str = "set MASTER_ADDR to an address of the machine of rank 0 that all others can reach (mpirun -x MASTER_ADDR)";

/// Bytes on their way to, or from, a rank.
type Way = (usize, Box<[u8]>);

/// Bytes of a block that travel at once.
const PIECE: usize = 4 << 20;

/// MPI, started, in a process that a launcher of it began.
pub struct MpiWorld {
    api: Api,
    rank: usize,
    ranks: usize,
    /// On this machine, where the launcher says so.
    local_ranks: Option<usize>,
    /// Threads take turns; whether MPI has ended.
    turn: Mutex<bool>,
}

impl MpiWorld {
    /// Loads MPI and starts it, once in a process.
    ///
    /// # Errors
    /// [`Error::Library`]: there is none, it is not the launcher's, or it knows of another job than the launcher.
    pub fn start(launch: &Launch) -> Result<Self> {
        let api = Api::load(launch.launcher)?;
        let (rank, ranks) = api.start()?;
        if (rank, ranks) != (launch.rank, launch.ranks) {
            return Err(Error::library(
                format!(
                    "{} says that this is rank {rank} of {ranks}, {} that it is {} of {}",
                    api.kind(),
                    launch.launcher,
                    launch.rank,
                    launch.ranks
                ),
                "start with the mpirun of the MPI that is installed, or name the other's library in FARTHING_MPI",
            ));
        }
        Ok(Self { api, rank, ranks, local_ranks: launch.local_ranks, turn: Mutex::default() })
    }

    /// The library in its own words.
    pub fn version(&self) -> &str {
        self.api.version.lines().next().unwrap_or_default()
    }

    /// The address of rank 0 that all others can reach, at rank 0, and nothing elsewhere: the loopback where they are on its machine. A collective.
    ///
    /// # Errors
    /// [`Error::Library`], [`Error::Meeting`].
    pub fn reachable(&self, patience: Duration) -> Result<String> {
        const NAME: usize = 256;
        let mut own = self.api.machine().into_bytes();
        own.resize(NAME, 0);
        let mut names = vec![own.clone(); self.ranks];
        let watch = deadline(patience, "bringing ranks together");
        if self.rank == 0 {
            let receive = names.iter_mut().enumerate().skip(1);
            let mut receive: Vec<(usize, &mut [u8])> =
                receive.map(|(rank, name)| (rank, name.as_mut_slice())).collect();
            self.trade("meeting", &[], &mut receive, &watch)?;
        } else {
            self.trade("meeting", &[(0, &own)], &mut [], &watch)?;
            return Ok(String::new());
        }
        // Containers may have one name; then the launcher knows better.
        let other = names.iter().find(|name| **name != own);
        let other = match (other, self.local_ranks) {
            (_, Some(here)) if here == self.ranks => return Ok("127.0.0.1".to_owned()),
            (None, None) => return Ok("127.0.0.1".to_owned()),
            (None, Some(here)) => {
                let (ranks, own) = (self.ranks, String::from_utf8_lossy(&own).into_owned());
                let own = own.trim_end_matches('\0');
                let what = format!(
                    "{here} of {ranks} ranks are on this machine, and all machines are called `{own}`"
                );
                return Err(Error::meeting(what, NAME_IT));
            }
            (Some(other), _) => other,
        };
        let other = String::from_utf8_lossy(other);
        let other = other.trim_end_matches('\0');
        // Nothing is sent: the system says by which of its addresses it would be.
        let route = || {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect((other, 9))?;
            Ok::<_, std::io::Error>(socket.local_addr()?.ip().to_string())
        };
        route().map_err(|e| {
            Error::meeting(format!("rank 0 finds no way to the machine `{other}`: {e}"), NAME_IT)
        })
    }

    /// Rank 0's bytes at everybody, at most 4 KiB, before there are [`Peers`]. A collective.
    ///
    /// # Errors
    /// [`Error::Library`], [`Error::Meeting`].
    pub fn announce(&self, bytes: &[u8], patience: Duration) -> Result<Vec<u8>> {
        const MOST: usize = 4_096;
        let mut all = vec![0; MOST];
        let watch = deadline(patience, "bringing ranks together");
        if self.rank == 0 {
            all[..2].copy_from_slice(&(bytes.len().min(MOST - 2) as u16).to_le_bytes());
            for (to, from) in all[2..].iter_mut().zip(bytes) {
                *to = *from;
            }
            let send: Vec<(usize, &[u8])> = (1..self.ranks).map(|rank| (rank, &all[..])).collect();
            self.trade("meeting", &send, &mut [], &watch)?;
        } else {
            self.trade("meeting", &[], &mut [(0, &mut all)], &watch)?;
        }
        let length = usize::from(u16::from_le_bytes([all[0], all[1]])).min(MOST - 2);
        Ok(all[2..2 + length].to_vec())
    }

    /// Ends MPI, once all ranks have done their work. Without it the launcher takes the end of a process for a failure.
    pub fn finish(&self) {
        let mut ended = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *ended, true) {
            // SAFETY: started, not ended, and nothing is on its way. There is nobody to tell of a failure.
            let _ = unsafe { (self.api.finalize)() };
        }
    }

    /// Sends and receives, each with its rank, and waits for all. `watch` is asked while it waits, with how long that has been.
    fn trade(
        &self,
        during: &'static str,
        send: &[(usize, &[u8])],
        receive: &mut [(usize, &mut [u8])],
        watch: &dyn Fn(Duration) -> Result<()>,
    ) -> Result<()> {
        let ended = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return Err(Error::Argument { during, what: "MPI has ended".to_owned() });
        }
        // MPI is never given the caller's memory: what is on its way when a rank is lost stays with it.
        let sent: Vec<Way> = send.iter().map(|(rank, bytes)| (*rank, (*bytes).into())).collect();
        let mut received: Vec<Way> =
            receive.iter().map(|(rank, bytes)| (*rank, vec![0; bytes.len()].into())).collect();
        let mut requests: Vec<Request> = Vec::new();
        let mut traded = self.start_and_wait(during, &sent, &mut received, &mut requests, watch);
        if matches!(traded, Err(Error::Engine { .. })) {
            // A rank that is gone says more than a connection that broke, wherever MPI noticed that.
            let patience = Instant::now() + Duration::from_secs(2);
            while Instant::now() < patience {
                if let Err(missed) = watch(Duration::ZERO) {
                    traded = Err(missed);
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if traded.is_err() {
            std::mem::forget((sent, received, requests));
            return traded;
        }
        for ((_, to), (_, from)) in receive.iter_mut().zip(&received) {
            to.copy_from_slice(from);
        }
        Ok(())
    }

    fn start_and_wait(
        &self,
        during: &'static str,
        send: &[Way],
        receive: &mut [Way],
        requests: &mut Vec<Request>,
        watch: &dyn Fn(Duration) -> Result<()>,
    ) -> Result<()> {
        const TAG: c_int = 7;
        let Api { isend, irecv, test, byte, world, status_ignore, .. } = &self.api;
        let done = |status: c_int| match status {
            0 => Ok(()),
            _ => Err(Error::Engine {
                during,
                library: self.api.kind(),
                what: self.api.describe(status),
            }),
        };
        // Requests are written to while they are under way, so that they do not move.
        requests.resize(send.len() + receive.len(), 0);
        let mut slots = requests.iter_mut();
        for (rank, bytes) in receive {
            let (Some(slot), n) = (slots.next(), bytes.len() as c_int) else { break };
            let to = bytes.as_mut_ptr().cast();
            // SAFETY: memory that stays where it is until the request has ended, or for good.
            done(unsafe { irecv(to, n, *byte, *rank as c_int, TAG, *world, slot) })?;
        }
        for (rank, bytes) in send {
            let (Some(slot), n) = (slots.next(), bytes.len() as c_int) else { break };
            let from = bytes.as_ptr().cast();
            // SAFETY: likewise.
            done(unsafe { isend(from, n, *byte, *rank as c_int, TAG, *world, slot) })?;
        }
        let (begun, mut asked) = (Instant::now(), Instant::now());
        let mut open: Vec<usize> = (0..requests.len()).collect();
        let mut idle = 0_u32;
        while !open.is_empty() {
            let before = open.len();
            let mut failed = Ok(());
            open.retain(|&at| {
                let mut ended = 0;
                // SAFETY: a request of ours that has not ended.
                let status = unsafe { test(&raw mut requests[at], &raw mut ended, *status_ignore) };
                if let Err(error) = done(status) {
                    failed = Err(error);
                }
                ended == 0
            });
            failed?;
            if open.len() < before {
                idle = 0;
                continue;
            }
            idle += 1;
            // Ranks may share cores: whoever waits gives way.
            match idle {
                ..50 => std::hint::spin_loop(),
                50..2_000 => std::thread::yield_now(),
                _ => std::thread::sleep(Duration::from_micros(100)),
            }
            if asked.elapsed() > Duration::from_millis(50) {
                asked = Instant::now();
                watch(begun.elapsed())?;
            }
        }
        Ok(())
    }
}

fn deadline(patience: Duration, doing: &'static str) -> impl Fn(Duration) -> Result<()> {
    move |waited| {
        if waited < patience {
            return Ok(());
        }
        let what = format!("{doing}: nothing has come for {} s", waited.as_secs());
        Err(Error::meeting(what, "see whether all ranks have started, and what they say"))
    }
}

/// One rank's end of a job under MPI, on any device: arrays that are not in this process's memory pass through it.
///
/// # Numerics
/// As [`Comm`] says: the bits of [`Threads`](crate::Threads) with as many ranks.
pub struct Mpi {
    world: Arc<MpiWorld>,
    peers: Arc<Peers>,
    calls: Mutex<u64>,
}

impl Mpi {
    /// This process's end.
    pub fn new(world: Arc<MpiWorld>, peers: Arc<Peers>) -> Self {
        Self { world, peers, calls: Mutex::default() }
    }

    /// Comes to a collective: refuses when another rank has come to another one.
    fn enter(&self, during: &'static str, dtype: DType, n: usize, block: usize) -> Result<()> {
        let what = format!("{during} of {n} {dtype:?} in blocks of {block}");
        self.peers.enter(&what);
        let (rank, ranks) = (self.rank(), self.ranks());
        let mut own = what.clone().into_bytes();
        own.resize(WHAT, b' ');
        let mut theirs = vec![own.clone(); ranks];
        let others = || (0..ranks).filter(|&other| other != rank);
        let send: Vec<(usize, &[u8])> = others().map(|other| (other, &own[..])).collect();
        let receive = theirs.iter_mut().enumerate().filter(|(other, _)| *other != rank);
        let mut receive: Vec<(usize, &mut [u8])> =
            receive.map(|(other, bytes)| (other, bytes.as_mut_slice())).collect();
        self.trade(during, &send, &mut receive)?;
        match theirs.iter().position(|other| *other != own) {
            None => Ok(()),
            Some(other) => {
                let there = String::from_utf8_lossy(&theirs[other]).trim_end().to_owned();
                Err(Error::Differs { rank, here: what, other, there })
            }
        }
    }

    fn trade(
        &self,
        during: &'static str,
        send: &[(usize, &[u8])],
        receive: &mut [(usize, &mut [u8])],
    ) -> Result<()> {
        let patience = self.peers.patience();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = if *calls == 0 { patience.first } else { patience.deadline };
        *calls += 1;
        let watch = |waited: Duration| {
            self.peers.watch(during)?;
            if waited < patience { Ok(()) } else { Err(self.peers.late(waited)) }
        };
        self.world.trade(during, send, receive, &watch)
    }

    /// Every other rank gets its part of `send`, a part for each, and each `receive`s one from every other: parts of one length for each pair, at most a piece.
    fn deal(&self, during: &'static str, send: &[&[u8]], receive: &mut [Vec<u8>]) -> Result<()> {
        let other = |rank: &usize| *rank != self.rank();
        let send: Vec<(usize, &[u8])> = (0..send.len())
            .filter(other)
            .map(|rank| (rank, send[rank]))
            .filter(|(_, bytes)| !bytes.is_empty())
            .collect();
        let mut receive: Vec<(usize, &mut [u8])> = receive
            .iter_mut()
            .enumerate()
            .filter(|(rank, bytes)| other(rank) && !bytes.is_empty())
            .map(|(rank, bytes)| (rank, bytes.as_mut_slice()))
            .collect();
        if send.is_empty() && receive.is_empty() {
            return Ok(());
        }
        self.trade(during, &send, &mut receive)
    }
}

/// Bytes of what a rank says of its call.
const WHAT: usize = 96;

/// The piece of `bytes` that begins `start` in.
fn piece(bytes: &[u8], start: usize) -> &[u8] {
    let start = start.min(bytes.len());
    &bytes[start..bytes.len().min(start + PIECE)]
}

impl Control for Mpi {
    fn rank(&self) -> usize {
        self.world.rank
    }

    fn ranks(&self) -> usize {
        self.world.ranks
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.peers.gather(own)
    }

    fn broadcast(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.peers.broadcast(bytes)
    }

    fn watch(&self, during: &'static str) -> Result<()> {
        self.peers.watch(during)
    }
}

impl Comm for Mpi {
    fn reduce_scatter(
        &self,
        dev: &dyn Device,
        own: Mut<'_>,
        all: Ref<'_>,
        block: usize,
    ) -> Result<()> {
        let (during, dtype, n) = ("reduce_scatter", all.dtype(), all.shape().elements());
        let range = own_block(self, during, n, block, Some(own.shape().elements()))?;
        self.enter(during, dtype, n, block)?;
        let all = host_bytes(dev, all)?;
        let (ranks, width) = (self.ranks(), dtype.bytes());
        let blocks: Vec<&[u8]> = (0..ranks)
            .map(|rank| place(rank, n, block))
            .map(|at| &all[at.start * width..at.end * width])
            .collect();
        let mut sum = vec![0; range.len() * width];
        for start in (0..block * width).step_by(PIECE) {
            let send: Vec<&[u8]> = blocks.iter().map(|block| piece(block, start)).collect();
            let mine = send[self.rank()];
            let mut parts = vec![vec![0; mine.len()]; ranks];
            parts[self.rank()].copy_from_slice(mine);
            self.deal(during, &send, &mut parts)?;
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let at = start.min(sum.len());
            in_order(during, dtype, &mut sum[at..at + mine.len()], &parts)?;
        }
        Ok(dev.write(own, &sum)?)
    }

    fn all_gather(&self, dev: &dyn Device, all: Mut<'_>, block: usize) -> Result<()> {
        let (during, dtype) = ("all_gather", all.dtype());
        let n = all.shape().elements();
        let mut all = all.reshape([n])?;
        let range = own_block(self, during, n, block, None)?;
        self.enter(during, dtype, n, block)?;
        let (ranks, width) = (self.ranks(), dtype.bytes());
        let own = host_bytes(dev, all.view().rows(range)?)?.into_owned();
        for start in (0..block * width).step_by(PIECE) {
            let send = vec![piece(&own, start); ranks];
            let length = |rank| place(rank, n, block).len() * width;
            let mut parts: Vec<Vec<u8>> = (0..ranks)
                .map(|rank| vec![0; length(rank).saturating_sub(start).min(PIECE)])
                .collect();
            self.deal(during, &send, &mut parts)?;
            for (rank, part) in parts.iter().enumerate() {
                if rank != self.rank() && !part.is_empty() {
                    let at = place(rank, n, block).start + start / width;
                    let to = all.reborrow().rows(at..at + part.len() / width)?;
                    dev.write(to, part)?;
                }
            }
        }
        Ok(())
    }

    fn all_reduce(&self, dev: &dyn Device, values: Mut<'_>) -> Result<()> {
        let (during, dtype, n) = ("all_reduce", values.dtype(), values.shape().elements());
        self.enter(during, dtype, n, n)?;
        let own = host_bytes(dev, values.view())?.into_owned();
        let mut sum = vec![0; own.len()];
        for start in (0..own.len()).step_by(PIECE) {
            let mine = piece(&own, start);
            let mut parts = vec![mine.to_vec(); self.ranks()];
            self.deal(during, &vec![mine; self.ranks()], &mut parts)?;
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            in_order(during, dtype, &mut sum[start..start + mine.len()], &parts)?;
        }
        Ok(dev.write(values, &sum)?)
    }
}

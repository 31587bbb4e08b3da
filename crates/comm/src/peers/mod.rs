//! `Peers`: ranks that are separate processes. Each has a connection to rank 0, which carries a few bytes, a regular sign of life, and news of what went wrong.

mod frame;
mod meet;
mod secret;

use std::collections::VecDeque;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use frame::Frame;
pub use meet::About;
use meet::Meeting;
pub use secret::Secret;

use crate::{Control, Error, Result};

/// How long ranks wait for each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// Until all are there.
    pub meeting: Duration,
    /// In the first collectives on arrays, while libraries find their ways.
    pub first: Duration,
    /// In each collective after.
    pub deadline: Duration,
    /// For a sign of life; one is sent four times as often at least.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let [meeting, first, deadline, silence] = [300, 300, 100, 30].map(Duration::from_secs);
        Self { meeting, first, deadline, silence }
    }
}

/// One rank's end of a job whose ranks are processes, on one machine or several.
///
/// A thread for each connection listens, one sends a sign of life. A rank that is gone is noticed at once, one whose process is stopped after
/// [`Patience::silence`], one that computes on and does not come after [`Patience::deadline`].
pub struct Peers {
    rank: usize,
    ranks: usize,
    patience: Patience,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Of the other end of each connection: all ranks but the first there, rank 0 elsewhere.
    links: Vec<Link>,
}

struct Link {
    rank: usize,
    stream: TcpStream,
    /// Held while a frame is written.
    write: Mutex<TcpStream>,
}

struct State {
    /// In the order of links.
    heard: Vec<Heard>,
    /// The collective that this rank has come to.
    at: (u64, String),
    closing: bool,
}

/// What a connection has brought.
struct Heard {
    queue: VecDeque<(u64, u8, Vec<u8>)>,
    /// Bytes in the queue.
    queued: usize,
    last: Instant,
    /// The collective that the other rank has come to.
    at: (u64, String),
    /// Whether nothing is read, because too much is there already.
    held: bool,
    ended: Option<Ended>,
}

#[derive(Clone)]
enum Ended {
    Gone,
    Failed(String),
    Done,
}

/// Bytes of a connection that wait to be asked for; more stay with the sender.
const MOST_QUEUED: usize = 256 << 20;

const GATHER: u8 = 1;
const BROADCAST: u8 = 2;

/// What a rank's last words may be.
const MOST_WORDS: usize = 16 << 10;

/// How long they may take to be heard.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Peers {
    /// A socket for rank 0, on the interface of this address alone; port 0 for any that is free.
    ///
    /// # Errors
    /// [`Error::Meeting`].
    pub fn listen(host: &str, port: u16) -> Result<TcpListener> {
        meet::listen(host, port)
    }

    /// Rank 0 of `ranks`, once all others are there. `log` hears of waiting, and of connections that are none of the job's.
    ///
    /// # Errors
    /// [`Error::Meeting`]: some have not come in time, or run something else.
    pub fn lead(
        listener: &TcpListener,
        ranks: usize,
        secret: &Secret,
        about: &About,
        patience: Patience,
        log: &dyn Fn(&str),
    ) -> Result<Self> {
        let meeting = Meeting { ranks, about, patience: patience.meeting, log };
        let streams = meet::lead(listener, secret, &meeting)?;
        Self::over((1..).zip(streams).collect(), 0, ranks, patience)
    }

    /// Another rank, once rank 0 has let it in. `secret` is asked before each attempt, `None` being "not yet".
    ///
    /// # Errors
    /// [`Error::Meeting`]: rank 0 was not found in time, is something else, or runs something else; what `secret` says.
    pub fn join(
        address: (&str, u16),
        (rank, ranks): (usize, usize),
        secret: &dyn Fn() -> Result<Option<Secret>>,
        about: &About,
        patience: Patience,
        log: &dyn Fn(&str),
    ) -> Result<Self> {
        let meeting = Meeting { ranks, about, patience: patience.meeting, log };
        let stream = meet::join(address, rank, secret, &meeting)?;
        Self::over(vec![(0, stream)], rank, ranks, patience)
    }

    fn over(
        streams: Vec<(usize, TcpStream)>,
        rank: usize,
        ranks: usize,
        patience: Patience,
    ) -> Result<Self> {
        let failed = |e: std::io::Error| {
            Error::meeting(format!("rank {rank} cannot use its connection: {e}"), "start again")
        };
        let links = streams.into_iter().map(|(rank, stream)| {
            stream.set_read_timeout(None)?;
            stream.set_write_timeout(Some(patience.silence))?;
            let write = Mutex::new(stream.try_clone()?);
            Ok(Link { rank, stream, write })
        });
        let links: Vec<Link> = links.collect::<std::io::Result<_>>().map_err(failed)?;
        let heard = || Heard {
            queue: VecDeque::new(),
            queued: 0,
            last: Instant::now(),
            at: (0, "nothing yet".to_owned()),
            held: false,
            ended: None,
        };
        let state = State {
            heard: links.iter().map(|_| heard()).collect(),
            at: (0, "nothing yet".to_owned()),
            closing: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), links });
        let mut peers = Self { rank, ranks, patience, shared, threads: vec![] };
        for index in 0..peers.shared.links.len() {
            let shared = Arc::clone(&peers.shared);
            peers.start("peer", move || shared.listen(index)).map_err(failed)?;
        }
        let (shared, every) = (Arc::clone(&peers.shared), patience.silence / 4);
        peers.start("beat", move || shared.beat(every)).map_err(failed)?;
        Ok(peers)
    }

    fn start(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        self.threads.push(thread);
        Ok(())
    }

    /// How long to wait.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// Tells the others that this rank stops, and why: they stop with it.
    pub fn fail(&self, why: &str) {
        let end = why.floor_char_boundary(MOST_WORDS);
        for index in 0..self.shared.links.len() {
            self.shared.say(index, &Frame::Failed(why[..end].to_owned()));
        }
    }

    /// Tells the others that this rank has done its work.
    pub fn finish(&self) {
        for index in 0..self.shared.links.len() {
            self.shared.say(index, &Frame::Bye);
        }
    }

    /// Comes to a collective of an engine's own, which others count too.
    pub(crate) fn enter(&self, during: &str) {
        let mut state = self.shared.lock();
        state.at = (state.at.0 + 1, during.to_owned());
    }

    /// What there is to say of ranks that have not come to where this one is, after `waited`.
    pub(crate) fn late(&self, waited: Duration) -> Error {
        let state = self.shared.lock();
        let own = state.at.0;
        let behind = |(link, heard): (&Link, &Heard)| {
            (heard.at.0 < own).then(|| format!("rank {} is in {} still", link.rank, heard.at.1))
        };
        let late: Vec<String> =
            self.shared.links.iter().zip(&state.heard).filter_map(behind).collect();
        let late = match (late.is_empty(), self.rank) {
            (false, _) => late.join(", "),
            (true, 0) => "all others have come to it, and it does not end".to_owned(),
            (true, _) => "rank 0 has come to it, and it does not end".to_owned(),
        };
        let during = state.at.1.clone();
        Error::Late { rank: self.rank, seconds: waited.as_secs(), during, late }
    }

    /// The first reason not to wait any longer. A rank that has done its work is one for who waits for a word of it.
    fn trouble(&self, state: &State, during: &str, waits_for: Option<usize>) -> Result<()> {
        let links = || self.shared.links.iter().zip(&state.heard).enumerate();
        for (_, (link, heard)) in links() {
            if let Some(Ended::Failed(why)) = &heard.ended {
                return Err(Error::Stopped { rank: link.rank, why: why.clone() });
            }
        }
        let (rank, ranks) = (self.rank, self.ranks);
        for (index, (link, heard)) in links() {
            let done = matches!(heard.ended, Some(Ended::Done));
            if heard.ended.is_some() && (!done || waits_for == Some(index)) {
                let during = during.to_owned();
                return Err(Error::Lost { lost: link.rank, ranks, rank, during });
            }
            let silent = heard.last.elapsed();
            if !done && !heard.held && silent > self.patience.silence {
                let (silent, seconds) = (link.rank, silent.as_secs());
                return Err(Error::Silent {
                    silent,
                    ranks,
                    rank,
                    seconds,
                    during: during.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// What link `index` sends for the collective that this rank is in.
    fn receive(&self, index: usize, during: u8, until: Option<Instant>) -> Result<Vec<u8>> {
        let begun = Instant::now();
        let mut state = self.shared.lock();
        loop {
            let at = state.at.clone();
            let heard = &mut state.heard[index];
            if let Some((sequence, call, bytes)) = heard.queue.pop_front() {
                heard.queued -= bytes.len();
                self.shared.changed.notify_all();
                if (sequence, call) == (at.0, during) {
                    return Ok(bytes);
                }
                let name = |call, sequence| {
                    let name = if call == GATHER { "gather" } else { "broadcast" };
                    format!("{name} as its collective {sequence}")
                };
                return Err(Error::Differs {
                    rank: self.rank,
                    here: name(during, at.0),
                    other: self.shared.links[index].rank,
                    there: name(call, sequence),
                });
            }
            self.trouble(&state, &at.1, Some(index))?;
            if until.is_some_and(|until| Instant::now() >= until) {
                drop(state);
                return Err(self.late(begun.elapsed().max(self.patience.deadline)));
            }
            let wait = Duration::from_millis(200).min(self.patience.silence / 4);
            let waited = self.shared.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn send(&self, index: usize, during: u8, bytes: &[u8]) -> Result<()> {
        if bytes.len() > frame::MOST {
            let what = format!("{} bytes at once, at most {}", bytes.len(), frame::MOST);
            return Err(Error::Argument { during: "gather or broadcast", what });
        }
        let sequence = self.shared.lock().at.0;
        if !self.shared.say(index, &Frame::Data { sequence, during, bytes: bytes.to_vec() }) {
            let state = self.shared.lock();
            self.trouble(&state, &state.at.1, Some(index))?;
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a frame; whether that went well. A connection that takes nothing for long is over.
    fn say(&self, index: usize, frame: &Frame) -> bool {
        let link = &self.links[index];
        let mut stream = link.write.lock().unwrap_or_else(PoisonError::into_inner);
        let said = frame::write(&mut *stream, frame).is_ok();
        drop(stream);
        if !said {
            self.lock().heard[index].ended.get_or_insert(Ended::Gone);
            self.changed.notify_all();
        }
        said
    }

    /// Reads one connection until it ends.
    fn listen(&self, index: usize) {
        let mut stream = &self.links[index].stream;
        loop {
            let read =
                frame::read(&mut stream, &mut || self.lock().heard[index].last = Instant::now());
            let mut state = self.lock();
            let heard = &mut state.heard[index];
            match read {
                Ok(Frame::Beat { sequence, during }) => heard.at = (sequence, during),
                Ok(Frame::Data { sequence, during, bytes }) => {
                    heard.queued += bytes.len();
                    heard.queue.push_back((sequence, during, bytes));
                }
                Ok(Frame::Failed(why)) => heard.ended = Some(Ended::Failed(why)),
                Ok(Frame::Bye) => heard.ended = Some(Ended::Done),
                Err(_) => drop(heard.ended.get_or_insert(Ended::Gone)),
            }
            let over = heard.ended.is_some();
            self.changed.notify_all();
            while state.heard[index].queued > MOST_QUEUED && !state.closing {
                state.heard[index].held = true;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let heard = &mut state.heard[index];
            if std::mem::take(&mut heard.held) {
                heard.last = Instant::now();
            }
            if over {
                return;
            }
        }
    }

    /// Gives signs of life until the end.
    fn beat(&self, every: Duration) {
        loop {
            let state = self.lock();
            let waited = self.changed.wait_timeout_while(state, every, |state| !state.closing);
            let state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.closing {
                return;
            }
            let (sequence, during) = state.at.clone();
            let open: Vec<usize> =
                (0..self.links.len()).filter(|&i| state.heard[i].ended.is_none()).collect();
            drop(state);
            for index in open {
                self.say(index, &Frame::Beat { sequence, during: during.clone() });
            }
        }
    }
}

impl Control for Peers {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.enter("gather");
        if self.rank != 0 {
            self.send(0, GATHER, own)?;
            return Ok(Vec::new());
        }
        let until = Instant::now() + self.patience.deadline;
        let mut all = vec![own.to_vec()];
        for index in 0..self.shared.links.len() {
            all.push(self.receive(index, GATHER, Some(until))?);
        }
        Ok(all)
    }

    /// The others wait for rank 0 as long as its process answers: what it does meanwhile may take as long as it takes.
    fn broadcast(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        self.enter("broadcast");
        if self.rank != 0 {
            return self.receive(0, BROADCAST, None);
        }
        for index in 0..self.shared.links.len() {
            self.send(index, BROADCAST, bytes)?;
        }
        Ok(bytes.to_vec())
    }

    fn watch(&self, during: &'static str) -> Result<()> {
        self.trouble(&self.shared.lock(), during, None)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.changed.notify_all();
        for link in &self.shared.links {
            let _ = link.stream.shutdown(Shutdown::Write);
        }
        // What was said last is lost where a connection ends before the other side has read it: it gets a moment to end it.
        let open = |state: &mut State| state.heard.iter().any(|heard| heard.ended.is_none());
        drop(self.shared.changed.wait_timeout_while(state, LAST_WORDS, open));
        for link in &self.shared.links {
            let _ = link.stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

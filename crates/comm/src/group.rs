//! `Group`: a meeting point for the threads of N ranks. Each thread shows some memory. Once all have arrived, each may read what the others show; once all have read, they leave.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use farthing_kernels::DType;

use crate::{Error, Result};

/// What a rank called. All must have called the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Call {
    pub(crate) during: &'static str,
    /// Elements, elements of a block and their type, where lengths must be equal.
    pub(crate) array: Option<(usize, usize, DType)>,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.array {
            None => f.write_str(self.during),
            Some((elements, block, dtype)) => {
                write!(f, "{} of {elements} {dtype:?} in blocks of {block}", self.during)
            }
        }
    }
}

/// Host memory that a rank shows to the others.
#[derive(Clone, Copy)]
struct Shown {
    call: Call,
    address: *const u8,
    bytes: usize,
}

// SAFETY: an address and a length; what may be done with them is said where they are used.
unsafe impl Send for Shown {}

#[derive(Default)]
struct Meeting {
    shown: Vec<Option<Shown>>,
    /// Ranks that have come, and that have read and gone on.
    come: usize,
    left: usize,
    /// Meetings so far.
    number: u64,
    /// The first rank that will not come any more.
    lost: Option<usize>,
}

/// Where N ranks meet.
pub(crate) struct Group {
    ranks: usize,
    meeting: Mutex<Meeting>,
    changed: Condvar,
}

impl Group {
    pub(crate) fn new(ranks: usize) -> Self {
        let meeting = Meeting { shown: vec![None; ranks], ..Meeting::default() };
        Self { ranks, meeting: Mutex::new(meeting), changed: Condvar::new() }
    }

    pub(crate) fn ranks(&self) -> usize {
        self.ranks
    }

    /// Shows `bytes` and waits for all others. They are read by others until the returned value is dropped, which waits until all have read.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Differs`].
    ///
    /// # Safety
    /// `address..address + bytes` is initialised host memory that nobody writes until the returned value, or this call in case of an error, is over.
    pub(crate) unsafe fn meet(
        &self,
        rank: usize,
        call: Call,
        address: *const u8,
        bytes: usize,
    ) -> Result<Met<'_>> {
        let mut meeting = self.lock();
        meeting.shown[rank] = Some(Shown { call, address, bytes });
        meeting.come += 1;
        if meeting.come == self.ranks {
            self.changed.notify_all();
        }
        while meeting.come < self.ranks {
            if let Some(lost) = meeting.lost {
                meeting.shown[rank] = None;
                meeting.come -= 1;
                let during = call.during.to_owned();
                return Err(Error::Lost { lost, ranks: self.ranks, rank, during });
            }
            meeting = self.changed.wait(meeting).unwrap_or_else(PoisonError::into_inner);
        }
        let shown: Vec<Shown> = meeting.shown.iter().copied().flatten().collect();
        drop(meeting);
        let met = Met { group: self, shown };
        match met.shown.iter().position(|other| other.call != call) {
            None => Ok(met),
            Some(other) => {
                let (here, there) = (call.to_string(), met.shown[other].call.to_string());
                Err(Error::Differs { rank, here, other, there })
            }
        }
    }

    /// Says that a rank will not come any more.
    pub(crate) fn lose(&self, rank: usize) {
        self.lock().lost.get_or_insert(rank);
        self.changed.notify_all();
    }

    /// Refuses when a rank will not come any more.
    pub(crate) fn watch(&self, rank: usize, during: &'static str) -> Result<()> {
        match self.lock().lost {
            Some(lost) => {
                Err(Error::Lost { lost, ranks: self.ranks, rank, during: during.to_owned() })
            }
            None => Ok(()),
        }
    }

    fn leave(&self) {
        let mut meeting = self.lock();
        meeting.left += 1;
        if meeting.left == self.ranks {
            meeting.shown.fill(None);
            (meeting.come, meeting.left) = (0, 0);
            meeting.number += 1;
            self.changed.notify_all();
            return;
        }
        let number = meeting.number;
        while meeting.number == number {
            meeting = self.changed.wait(meeting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Meeting> {
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all ranks show, while none has gone on.
pub(crate) struct Met<'a> {
    group: &'a Group,
    shown: Vec<Shown>,
}

impl Met<'_> {
    /// What rank `rank` shows.
    pub(crate) fn of(&self, rank: usize) -> &[u8] {
        let Shown { address, bytes, .. } = self.shown[rank];
        // SAFETY: `meet` was promised that this is initialised host memory which nobody writes until its own `Met` is over, and that waits, in
        // `leave`, for this one.
        unsafe { std::slice::from_raw_parts(address, bytes) }
    }
}

impl Drop for Met<'_> {
    fn drop(&mut self) {
        self.group.leave();
    }
}

//! A lock per key that dies with its process: the operating system holds it on an open file, so nothing stale is ever
//! left behind.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::{Cancel, Result};

/// Held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, waiting for another process if it must; `waiting` is told once, with that process's id.
    ///
    /// # Errors
    /// The file cannot be opened, or Ctrl-C was pressed while waiting.
    pub(crate) fn take(path: &Path, cancel: &Cancel, waiting: impl FnOnce(&str)) -> Result<Self> {
        let about = || format!("locking {}", path.display());
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(about)?;
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(error).with_context(about),
                Err(TryLockError::WouldBlock) => {}
            }
            if let Some(tell) = waiting.take() {
                let mut holder = String::new();
                // The id is for the reader alone; where it cannot be read, the wait is the same.
                let _ = file.read_to_string(&mut holder);
                tell(holder.trim());
            }
            cancel.check()?;
            std::thread::sleep(Duration::from_millis(100));
        }
        file.set_len(0).with_context(about)?;
        file.rewind().with_context(about)?;
        write!(file, "{}", std::process::id()).with_context(about)?;
        Ok(Self { _file: file })
    }
}

//! Metrics of a stage at work, in the run's folder while they come: lines that are whole are copied there every few seconds, and entered for TensorBoard.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::events::{self, Events};

/// Between looks.
const EVERY: Duration = Duration::from_secs(2);

/// Follows until dropped, and to the last line then.
pub(crate) struct Follow {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Follow {
    /// Follows files, each with where it is copied to. What a disk refuses is tried again at the next look; the work goes on.
    pub(super) fn start(files: Vec<(PathBuf, PathBuf)>) -> Self {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let mut tails: Vec<Tail> = files.into_iter().map(Tail::new).collect();
        let told = Arc::clone(&over);
        let follow = move || {
            let (over, wake) = &*told;
            let mut is_over = over.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let last = *is_over;
                for tail in &mut tails {
                    let _ = tail.more();
                }
                if last {
                    return;
                }
                is_over =
                    wake.wait_timeout(is_over, EVERY).unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(follow).ok();
        Self { over, thread }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One file under way.
struct Tail {
    from: PathBuf,
    to: PathBuf,
    /// Bytes that are copied.
    copied: u64,
    out: Option<(File, Events)>,
}

impl Tail {
    fn new((from, to): (PathBuf, PathBuf)) -> Self {
        Self { from, to, copied: 0, out: None }
    }

    /// Copies the whole lines that are new. A file that has become shorter was cut back to a checkpoint, and is copied anew.
    fn more(&mut self) -> io::Result<()> {
        let Ok(mut from) = File::open(&self.from) else { return Ok(()) };
        let length = from.metadata()?.len();
        if length < self.copied {
            (self.copied, self.out) = (0, None);
        }
        if length == self.copied {
            return Ok(());
        }
        from.seek(SeekFrom::Start(self.copied))?;
        let mut new = Vec::new();
        from.take(length - self.copied).read_to_end(&mut new)?;
        let Some(end) = new.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let new = &new[..=end];
        let (copy, events) = match &mut self.out {
            Some(out) => out,
            None => {
                let out = (File::create(&self.to)?, Events::create(&events::path(&self.to))?);
                self.out.insert(out)
            }
        };
        let written = copy
            .write_all(new)
            .and_then(|()| new.split(|byte| *byte == b'\n').try_for_each(|line| events.line(line)));
        match written {
            Ok(()) => self.copied += new.len() as u64,
            Err(_) => (self.copied, self.out) = (0, None),
        }
        written
    }
}

/// Copies a metrics file that is whole, and enters it for TensorBoard unless that was done while it came.
///
/// # Errors
/// The disk refuses.
pub(super) fn keep(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::copy(from, to)?;
    let events = events::path(to);
    if !events.exists() {
        let mut events = Events::create(&events)?;
        let text = std::fs::read(from)?;
        text.split(|byte| *byte == b'\n').try_for_each(|line| events.line(line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_copied_as_they_come_and_anew_after_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("metrics.jsonl"));
        let mut tail = Tail::new((from.clone(), to.clone()));
        tail.more().unwrap();
        assert!(!to.exists());
        for (text, copied) in [
            ("{\"step\":1,\"x\":1}\n{\"st", "{\"step\":1,\"x\":1}\n"),
            (
                "{\"step\":1,\"x\":1}\n{\"step\":2,\"x\":3}\n",
                "{\"step\":1,\"x\":1}\n{\"step\":2,\"x\":3}\n",
            ),
            ("{\"step\":1,\"x\":5}\n", "{\"step\":1,\"x\":5}\n"),
        ] {
            std::fs::write(&from, text).unwrap();
            tail.more().unwrap();
            assert_eq!(std::fs::read_to_string(&to).unwrap(), copied);
        }
        let live = std::fs::read(events::path(&to)).unwrap();
        std::fs::remove_file(events::path(&to)).unwrap();
        keep(&from, &to).unwrap();
        // But for the times.
        assert_eq!(std::fs::read(events::path(&to)).unwrap().len(), live.len());
    }

    #[test]
    fn the_last_line_is_there_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("metrics.jsonl"));
        let follow = Follow::start(vec![(from.clone(), to.clone())]);
        std::fs::write(&from, "{\"step\":9}\n").unwrap();
        drop(follow);
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "{\"step\":9}\n");
    }
}

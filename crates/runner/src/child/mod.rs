//! Runs a stage in a process of its own, by starting this program once more. If the stage crashes, or the kernel kills it for using too much memory, only that stage ends, and the error names the
//! signal.
//!
//! The two processes talk over a socket, which is the child's standard input, with one line of JSON for each [`Order`] and each [`Word`]. If the parent dies, the socket closes and the child ends.
//! The parent holds the lock of the stage's key and the child holds a second one beside it: whoever takes over from a dead parent waits until its child is gone.

mod ended;
mod entry;
mod host;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::grammar::Written;
use crate::progress::CountState;
use crate::{Figure, Resources, failure};

pub(crate) use entry::{is_child, serve};
pub(crate) use host::{Host, run};

/// The variable that makes a process the child of the one whose number it has.
const PARENT: &str = "FARTHING_STAGE_OF";

/// What the child is told.
#[derive(Serialize, Deserialize)]
enum Order {
    /// First of all.
    Task(Box<Task>),
    /// That the parent is there still, after the child has its lock.
    Go,
    /// To stop, because of this signal; 0 without one.
    Stop(i32),
}

/// What the child says.
#[derive(Serialize, Deserialize)]
enum Word {
    /// It has its lock.
    Hello,
    /// A line for the screen and the log.
    Line(String),
    Count(CountState),
    Done {
        summary: Vec<(String, Figure)>,
        origins: BTreeMap<String, String>,
    },
    Stopped,
    Failed(failure::Told),
}

/// A stage and all that it is given.
#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) stage: String,
    pub(crate) kind: String,
    pub(crate) written: Written,
    pub(crate) seed: u64,
    pub(crate) resources: Resources,
    pub(crate) resumed: bool,
    pub(crate) inputs: BTreeMap<String, PathBuf>,
    pub(crate) many: Vec<(String, String, PathBuf)>,
    pub(crate) digests: Vec<(PathBuf, String)>,
    pub(crate) dir: PathBuf,
    pub(crate) figures_before: BTreeMap<String, String>,
    /// The pipeline's file, beside which sources are pinned.
    pub(crate) pipeline: PathBuf,
    /// Values that are written down by their names.
    pub(crate) hidden: Vec<(String, String)>,
    pub(crate) store: PathBuf,
    pub(crate) key: String,
}

/// Writes a line.
fn say(mut to: &UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads lines, as they come.
#[derive(Default)]
struct Lines {
    /// What has come of the next one.
    begun: Vec<u8>,
    whole: std::collections::VecDeque<Vec<u8>>,
}

impl Lines {
    /// The next line; `None` at the end of all, or where nothing has come for as long as the socket waits, which `is_over` tells apart.
    fn next<T: DeserializeOwned>(
        &mut self,
        mut from: &UnixStream,
        is_over: &mut bool,
    ) -> io::Result<Option<T>> {
        let mut bytes = [0; 1 << 14];
        while self.whole.is_empty() {
            let n = match from.read(&mut bytes) {
                Ok(0) => {
                    *is_over = true;
                    return Ok(None);
                }
                Ok(n) => n,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(None),
                    // Whoever is gone without having read all is gone.
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                        *is_over = true;
                        return Ok(None);
                    }
                    _ => return Err(error),
                },
            };
            for byte in &bytes[..n] {
                if *byte == b'\n' {
                    self.whole.push_back(std::mem::take(&mut self.begun));
                } else {
                    self.begun.push(*byte);
                }
            }
        }
        let line = self.whole.pop_front().unwrap_or_default();
        Ok(Some(serde_json::from_slice(&line)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive_whole_however_they_are_cut() {
        let (a, b) = UnixStream::pair().unwrap();
        a.set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        let (mut lines, mut is_over) = (Lines::default(), false);
        let mut next = |is_over: &mut bool| lines.next::<Word>(&a, is_over).unwrap();
        assert!(next(&mut is_over).is_none() && !is_over);
        let long = "ä\n".repeat(40_000);
        let mut all = serde_json::to_vec(&Word::Line(long.clone())).unwrap();
        all.extend(b"\n\"Hello\"\n\"Stop");
        let writer = std::thread::spawn(move || {
            all.chunks(7_001).for_each(|part| (&b).write_all(part).unwrap());
            b
        });
        let mut heard = Vec::new();
        while heard.len() < 2 {
            heard.extend(next(&mut is_over));
        }
        assert!(matches!(&heard[0], Word::Line(line) if *line == long));
        assert!(matches!(heard[1], Word::Hello));
        drop(writer.join().unwrap());
        // Half a word is none.
        while !is_over {
            assert!(next(&mut is_over).is_none());
        }
    }
}

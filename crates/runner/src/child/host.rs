//! The parent's side: starts the child, tells it what to do and when to stop, and hears what it says.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use super::ended::{OutOfMemory, told};
use super::{Lines, Order, PARENT, Task, Word, say};
use crate::failure::Told;
use crate::{Cancelled, Ctx, Result, StageProgress};

/// How this program is started once more: with the same arguments, so that it comes to the same place.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    args: Vec<OsString>,
}

/// Between looks at whether to stop, and whether the child is there.
const TICK: Duration = Duration::from_millis(20);

/// Lines that an error of a child that died has of its last ones.
const LAST: usize = 3;

impl Host {
    /// That of this process.
    pub(crate) fn here() -> Self {
        Self { args: std::env::args_os().collect() }
    }

    /// The child, its end of the socket being its standard input. `devices` are the GPUs that it may see, if not all.
    fn start(&self, devices: Option<&str>) -> Result<(Kept, UnixStream)> {
        let (ours, its) = UnixStream::pair().context("making a socket")?;
        // That of this process, whatever lies under its name by now.
        let program = if cfg!(target_os = "linux") {
            "/proc/self/exe".into()
        } else {
            std::env::current_exe().context("looking for this program")?
        };
        let mut command = Command::new(&program);
        if let Some((name, rest)) = self.args.split_first() {
            command.arg0(name).args(rest);
        }
        if let Some(devices) = devices {
            command.env("CUDA_VISIBLE_DEVICES", devices);
        }
        command
            .env(PARENT, std::process::id().to_string())
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().context("starting a process for the stage")?;
        Ok((Kept(child), ours))
    }
}

/// A child that does not outlive its use.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        // It is over, as a rule.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a stage in a child; what it gives is in `ctx` afterwards.
///
/// # Errors
/// What the stage said that failed; how its process ended; it could not be started.
pub(crate) fn run(host: &Host, task: Task, devices: Option<&str>, ctx: &mut Ctx) -> Result<()> {
    let before = OutOfMemory::so_far();
    let (mut child, socket) = host.start(devices)?;
    let last = Arc::new(Mutex::new(VecDeque::new()));
    let (over, readers) = mpsc::channel::<()>();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.0.stdout.take().map(|out| Box::new(out) as Box<dyn Read + Send>),
        child.0.stderr.take().map(|err| Box::new(err) as Box<dyn Read + Send>),
    ];
    for stream in streams.into_iter().flatten() {
        let (last, over, log) = (Arc::clone(&last), over.clone(), ctx.watch.log_of());
        let read = move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if line.is_empty() {
                    continue;
                }
                log.line(&line);
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                last.push_back(line);
                if last.len() > LAST {
                    last.pop_front();
                }
            }
            drop(over);
        };
        let thread = std::thread::Builder::new().name("output of a stage".to_owned());
        thread.spawn(read).context("starting a thread")?;
    }
    drop(over);
    let heard = listen(&mut child, &socket, task, ctx)?;
    match heard {
        Some(Word::Done { summary, origins }) => {
            // Who has said so has nothing more to do; what it wrote last is on its way.
            let _ = readers.recv_timeout(Duration::from_millis(200));
            (ctx.summary, ctx.origins) = (summary, origins);
            Ok(())
        }
        Some(Word::Stopped) => Err(stopped(ctx)),
        Some(Word::Failed(told)) => Err(told.into_error()),
        _ => {
            let status = child.0.wait().context("waiting for the stage's process")?;
            let _ = readers.recv_timeout(Duration::from_millis(500));
            let last = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Err(told(status, &last, before).into_error())
        }
    }
}

/// Why the stage has stopped: because this process was asked to, or somebody asked its own alone.
fn stopped(ctx: &Ctx) -> anyhow::Error {
    // What is sent to all processes of a terminal may reach the child first.
    for _ in 0..20 {
        if ctx.cancel.requested() {
            return Cancelled.into();
        }
        std::thread::sleep(TICK);
    }
    let said = "somebody asked the stage's process to stop, and not the run\nhint: run again to go on from there";
    Told { said: vec![said.to_owned()], may_pass: true, code: 1 }.into_error()
}

/// Hears the child until it has said how the stage ended, or is gone.
fn listen(child: &mut Kept, socket: &UnixStream, task: Task, ctx: &Ctx) -> Result<Option<Word>> {
    let talk = "talking to the stage's process";
    socket.set_read_timeout(Some(TICK)).context(talk)?;
    // A child that is gone by now has an end that is told below.
    let _ = say(socket, &Order::Task(Box::new(task)));
    let (mut lines, mut is_over, mut stopped) = (Lines::default(), false, false);
    let mut gone: Option<Instant> = None;
    let mut count: Option<(u64, StageProgress)> = None;
    while !is_over {
        if !stopped && ctx.cancel.requested() {
            stopped = true;
            let _ = say(socket, &Order::Stop(ctx.cancel.signal().unwrap_or(0)));
        }
        let word = match lines.next::<Word>(socket, &mut is_over) {
            Ok(word) => word,
            Err(error) => return Err(anyhow!(error).context(talk)),
        };
        match word {
            None => {
                // A process of its own that it has started may hold the socket open.
                if child.0.try_wait().context(talk)?.is_some() {
                    let since = *gone.get_or_insert_with(Instant::now);
                    is_over |= since.elapsed() > 5 * TICK;
                }
            }
            Some(Word::Hello) => drop(say(socket, &Order::Go)),
            Some(Word::Line(line)) => ctx.watch.log(&line),
            Some(Word::Count(state)) => {
                let known = count.as_ref().filter(|(serial, _)| *serial == state.serial);
                let progress = match known {
                    Some((_, progress)) => progress.clone(),
                    None => ctx.watch.progress(state.total, &state.unit),
                };
                let serial = state.serial;
                progress.apply(state);
                count = Some((serial, progress));
            }
            Some(end) => return Ok(Some(end)),
        }
    }
    Ok(None)
}

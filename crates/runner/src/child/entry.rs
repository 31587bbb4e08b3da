//! The child's side: takes its lock, does the one stage that it was started for, and says how that went.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use anyhow::{Context, anyhow};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Lines, Order, PARENT, Task, Word, say};
use crate::cache::Cache;
use crate::cli::err;
use crate::crew::Crew;
use crate::grammar::Written;
use crate::hidden::Hidden;
use crate::kind::{Job, Kind};
use crate::progress::{CountState, Remote, Screen, Watch};
use crate::run::caught;
use crate::{App, Cancel, Cancelled, Ctx, LockFile, Result, failure};

/// Whether this process was started for a stage. One that was killed just after it started this one is not its parent any more, and has left its socket;
/// a program that a stage starts has the variable too.
pub(crate) fn is_child() -> bool {
    let Ok(parent) = std::env::var(PARENT) else { return false };
    is_parent(&parent) || is_socket(&std::io::stdin()).unwrap_or(false)
}

fn is_parent(id: &str) -> bool {
    id.parse() == Ok(std::os::unix::process::parent_id())
}

fn is_socket(file: &impl AsFd) -> std::io::Result<bool> {
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    Ok(file.metadata()?.file_type().is_socket())
}

/// Does the stage. The exit code, which nobody looks at who has heard the words.
pub(crate) fn serve(app: App) -> u8 {
    if !std::env::var(PARENT).is_ok_and(|id| is_parent(&id)) {
        let hint = "hint: a stage that starts a runner gives it a standard input of its own";
        err(&Hidden::default(), &format!("error: the run of this stage is gone\n{hint}\n"));
        return 2;
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let Ok(socket) = socket.map(Arc::new) else { return 2 };
    let cancel = Cancel::default();
    // Who ends it alone has it stop like its parent; who presses Ctrl-C means both.
    crate::signals::listen(&cancel, &Screen::silent());
    let Some((task, go)) = hear(&socket, &cancel) else { return 2 };
    let voice = Arc::new(Voice { socket, speaks: Mutex::default() });
    let word = match work(app, task, &go, &voice, &cancel) {
        Ok(word) => word,
        Err(error) if error.is::<Cancelled>() => Word::Stopped,
        Err(error) => Word::Failed(failure::Told::of(&error)),
    };
    u8::from(voice.say(&word).is_err())
}

/// The task, and who says when to begin. From here on a parent that is gone ends this process.
fn hear(socket: &Arc<UnixStream>, cancel: &Cancel) -> Option<(Task, mpsc::Receiver<()>)> {
    let (mut lines, mut is_over) = (Lines::default(), false);
    let Ok(Some(Order::Task(task))) = lines.next(socket, &mut is_over) else { return None };
    let (tell, go) = mpsc::channel();
    let (socket, cancel) = (Arc::clone(socket), cancel.clone());
    let listen = move || {
        loop {
            match lines.next(&socket, &mut is_over) {
                Ok(Some(Order::Go)) => drop(tell.send(())),
                Ok(Some(Order::Stop(0))) => cancel.request(),
                Ok(Some(Order::Stop(signal))) => cancel.request_by(signal),
                Ok(Some(Order::Task(_))) => {}
                // At once: nobody else waits for it, and its folder is somebody else's as soon as its lock is free.
                _ => signal_hook::low_level::exit(1),
            }
        }
    };
    std::thread::Builder::new().name("parent".to_owned()).spawn(listen).ok()?;
    Some((*task, go))
}

fn work(
    app: App,
    task: Task,
    go: &mpsc::Receiver<()>,
    voice: &Arc<Voice>,
    cancel: &Cancel,
) -> Result<Word> {
    let App { kinds, mut extras, .. } = app;
    let cache = Cache::at(&task.store, Screen::silent());
    let _in_use = cache.in_use();
    let _lock = cache.lock_of_child(&task.key, cancel)?;
    let gone = "the process that started this one is gone";
    voice.say(&Word::Hello).context(gone)?;
    go.recv().context(gone)?;
    let kind = kinds.get(task.kind.as_str());
    let kind =
        kind.with_context(|| format!("this program has no stages of kind `{}`", task.kind))?;
    let job = job(kind, &task.written)?;
    extras.insert(LockFile::of(&task.pipeline).hiding(Hidden::new(task.hidden)));
    extras.insert(Crew::new(false));
    let port = |name: &str| kind.input(name).map(|port| port.name);
    let many = task.many.into_iter().filter_map(|(p, label, path)| Some((port(&p)?, label, path)));
    let mut ctx = Ctx {
        seed: task.seed,
        resources: task.resources,
        resumed: task.resumed,
        inputs: task.inputs,
        many: many.collect(),
        digests: task.digests.into_iter().collect(),
        dir: task.dir,
        extras: Arc::new(extras),
        cancel: cancel.clone(),
        watch: Watch::remote(Arc::clone(voice) as Arc<dyn Remote>),
        summary: Vec::new(),
        figures_before: task.figures_before,
        origins: std::collections::BTreeMap::new(),
    };
    let result = caught(|| job.run(&mut ctx));
    let Ctx { summary, origins, watch, .. } = ctx;
    // Its last count comes before the last word.
    drop(watch);
    result.map(|()| Word::Done { summary, origins })
}

/// The stage's settings, read as the parent has read them.
fn job(kind: &Kind, written: &Written) -> Result<Box<dyn Job>> {
    let about = "reading the stage's settings once more";
    let line = |text: &str| format!("t = {text}\n");
    let (config, exec) = (line(&written.config), written.exec.as_deref().map(line));
    let exec = exec.as_deref().map(value).transpose().context(about)?;
    let mut job = (kind.build)(value(&config).context(about)?, exec).context(about)?;
    let connected: Vec<&str> = written.connected.iter().map(String::as_str).collect();
    job.connect(&connected)?;
    Ok(job)
}

/// The one value of a line.
fn value(line: &str) -> Result<Spanned<DeValue<'_>>> {
    let value = DeTable::parse(line)?.into_inner().into_iter().next().map(|(_, value)| value);
    value.ok_or_else(|| anyhow!("the line is empty"))
}

/// Tells the parent, a line at a time, whichever thread speaks.
struct Voice {
    socket: Arc<UnixStream>,
    speaks: Mutex<()>,
}

impl Voice {
    fn say(&self, word: &Word) -> std::io::Result<()> {
        let _one = self.speaks.lock().unwrap_or_else(PoisonError::into_inner);
        say(&self.socket, word)
    }
}

impl Remote for Voice {
    fn line(&self, text: &str) {
        // A parent that is gone ends this process by itself.
        let _ = self.say(&Word::Line(text.to_owned()));
    }

    fn count(&self, state: CountState) {
        let _ = self.say(&Word::Count(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::sample::Sample;

    #[test]
    fn settings_are_read_as_they_were_written() {
        let config = "{prompts = [\"a.\\\"b\\u007F\"], \"max_tokens\" = 0x1_0, temperature = 1e-3}";
        let written =
            Written { config: config.to_owned(), exec: Some("{}".to_owned()), connected: vec![] };
        let read = job(&Kind::of::<Sample>(), &written).unwrap().config().unwrap();
        assert_eq!(read["max_tokens"], 16);
        assert_eq!(read["prompts"][0], "a.\"b\u{7f}");
        assert_eq!(read["temperature"], 0.001);
        for wrong in ["", "{", "{}\n[x]\ny = 1"] {
            let written = Written { config: wrong.to_owned(), ..written.clone() };
            assert!(job(&Kind::of::<Sample>(), &written).is_err(), "{wrong}");
        }
    }
}

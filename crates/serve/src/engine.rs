//! The model's thread: takes jobs as places are free, and gives each text a token in a step. A job whose client is gone makes room.

use std::sync::mpsc::{Receiver, SyncSender};

use farthing_talk::{Finish, Likely, Model, Session, TextRequest};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::Result;

/// A prompt and what is to be made of it.
pub(crate) struct Job {
    pub(crate) prompt: Vec<u32>,
    pub(crate) tasks: Vec<TextRequest>,
    /// Closed when the client is gone. Holds at most a piece for each token that was asked for.
    pub(crate) reply: UnboundedSender<Said>,
    /// Its place in the queue, until it is started or given up.
    pub(crate) waits: OwnedSemaphorePermit,
}

/// What becomes of a job.
pub(crate) enum Said {
    /// More of one of its texts.
    Made { which: usize, token: u32, text: String, finish: Option<Finish>, likely: Option<Likely> },
    /// It cannot be done.
    Failed(String),
}

/// Whose text is in a place.
struct Owner {
    reply: UnboundedSender<Said>,
    which: usize,
}

/// Works until nobody can ask any more.
pub(crate) fn run(
    model: &Model,
    places: usize,
    context: usize,
    jobs: &Receiver<Job>,
    ready: &SyncSender<()>,
) -> Result<()> {
    let mut session = Session::new(model, places, context)?;
    let _ = ready.send(());
    let mut owners: Vec<Option<Owner>> = (0..places).map(|_| None).collect();
    let mut next: Option<Job> = None;
    loop {
        if next.is_none() && session.is_idle() {
            let Ok(job) = jobs.recv() else { return Ok(()) };
            next = Some(job);
        }
        while let Some(job) = next.take().or_else(|| jobs.try_recv().ok()) {
            if job.reply.is_closed() {
                continue;
            }
            if job.tasks.len() > session.free() {
                next = Some(job);
                break;
            }
            let Job { prompt, tasks, reply, waits } = job;
            drop(waits);
            match session.start(&prompt, tasks) {
                Ok(places) => {
                    for (which, place) in places.into_iter().enumerate() {
                        owners[place] = Some(Owner { reply: reply.clone(), which });
                    }
                }
                Err(e) => drop(reply.send(Said::Failed(e.to_string()))),
            }
        }
        for (place, owner) in owners.iter_mut().enumerate() {
            if owner.as_ref().is_some_and(|owner| owner.reply.is_closed()) {
                session.end(place);
                *owner = None;
            }
        }
        let stepped = session.step(&mut |made| {
            if let Some(Owner { reply, which }) = &owners[made.place] {
                // Whoever is gone is found out before the next step.
                let _ = reply.send(Said::Made {
                    which: *which,
                    token: made.token,
                    text: made.text,
                    finish: made.finish,
                    likely: made.likely,
                });
            }
            if made.finish.is_some() {
                owners[made.place] = None;
            }
        });
        if let Err(e) = stepped {
            for (place, owner) in owners.iter_mut().enumerate() {
                session.end(place);
                if let Some(owner) = owner.take() {
                    let _ = owner.reply.send(Said::Failed(e.to_string()));
                }
            }
        }
    }
}

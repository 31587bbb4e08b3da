//! `runner generate`: continues a prompt, or every line that is typed or piped in. What the model writes goes to standard output as it comes, everything else to standard
//! error.

use std::time::Instant;

use anyhow::Context;
use farthing_talk::{Model, Session, visible};

use super::find::{Kept, Which};
use super::options::{BrokenOff, Drawing, each_line, say, tell};
use crate::Result;
use crate::progress::format::count;

/// Continues texts with a trained model
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    kept: Kept,
    /// The text to continue; without it, every line of the standard input is one
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    #[command(flatten)]
    drawing: Drawing,
    /// Continuations of each prompt, made at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    samples: u32,
}

pub(crate) fn generate(args: &Args) -> Result<()> {
    args.drawing.check()?;
    let model = args.which.load(args.kept, &tell)?.model;
    if let Some(prompt) = &args.prompt {
        return args.continue_text(&model, prompt, 0);
    }
    let mut number = 0;
    each_line("type the beginning of a text and press Enter; Ctrl-D ends", &mut |line| {
        args.continue_text(&model, line, number)?;
        number += u64::from(args.samples);
        Ok(())
    })
}

impl Args {
    /// Streams the continuations of one prompt: the first as it comes, each other from when those before it are done.
    fn continue_text(&self, model: &Model, prompt: &str, number: u64) -> Result<()> {
        let (samples, max_tokens) = (self.samples as usize, self.drawing.max_tokens as usize);
        let prompt = model.prompt(prompt)?;
        let began = Instant::now();
        let mut session = Session::new(model, samples, prompt.len() + max_tokens)?;
        let task = |i: u64| self.drawing.task(number + i);
        session.start(&prompt, (0..u64::from(self.samples)).map(task).collect())?;
        let (fed, began) = (began.elapsed().as_secs_f64(), Instant::now());
        let mut out =
            Out { waiting: vec![String::new(); samples], done: vec![false; samples], at: 0 };
        out.head()?;
        let (mut tokens, mut longest, mut written) = (0, 0, Ok(()));
        while !session.is_idle() {
            longest += 1;
            session
                .step(&mut |made| {
                    tokens += 1;
                    out.waiting[made.place].push_str(&visible(&made.text));
                    out.done[made.place] = made.finish.is_some();
                })
                .context(BrokenOff)?;
            written = out.flush();
            if written.is_err() {
                break;
            }
        }
        written?;
        let took = began.elapsed().as_secs_f64();
        tell(&format!(
            "{} tokens in {took:.1} s, {:.1} tokens/s; the prompt's {} in {fed:.1} s",
            count(tokens),
            tokens as f64 / took.max(f64::MIN_POSITIVE),
            count(prompt.len() as u64)
        ));
        if prompt.len() + longest > model.context() {
            tell(&format!(
                "the model was trained on texts of {} tokens and saw no more than the last so many",
                count(model.context() as u64)
            ));
        }
        Ok(())
    }
}

/// Samples on their way to standard output, one after another.
struct Out {
    waiting: Vec<String>,
    done: Vec<bool>,
    at: usize,
}

impl Out {
    /// What stands before a sample.
    fn head(&self) -> Result<()> {
        let n = self.done.len();
        if n > 1 && self.at < n { say(&format!("── {} of {n}\n", self.at + 1)) } else { Ok(()) }
    }

    /// Writes what there is of the samples whose turn it is.
    fn flush(&mut self) -> Result<()> {
        while let Some(waiting) = self.waiting.get_mut(self.at) {
            say(&std::mem::take(waiting))?;
            if !self.done[self.at] {
                break;
            }
            say("\n")?;
            self.at += 1;
            self.head()?;
        }
        Ok(())
    }
}

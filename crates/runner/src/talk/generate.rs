//! `runner generate`: continues a prompt, or every line that is typed or piped in. What the model writes goes to standard output as it comes, everything else to standard
//! error.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::time::Instant;

use anyhow::{Context, bail};
use farthing_model::Sampling;
use farthing_talk::{Model, Session, Task, visible};

use super::find::Which;
use crate::Result;
use crate::progress::format::count;

/// Continues texts with a trained model
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// The text to continue; without it, every line of the standard input is one
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Tokens to add, unless the model ends the text
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_tokens: u32,
    /// 0 takes the most likely token, 1 draws with the model's own probabilities
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f64,
    /// Draw from this many most likely tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the fewest most likely tokens whose probabilities sum to this
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Draw from tokens with at least this times the probability of the most likely one
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Above 1, tokens that the text has become less likely
    #[arg(long, value_name = "R")]
    repetition_penalty: Option<f64>,
    /// Draws depend on it: each further sample, and each line, takes the next
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// A string at which the text ends (repeatable)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Continuations of each prompt, made at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    samples: u32,
}

/// More bytes than this are no line.
const MOST_LINE_BYTES: u64 = 1 << 20;

/// Who reads what the model says is gone.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(crate) struct Closed;

pub(crate) fn generate(args: &Args) -> Result<()> {
    args.sampling(0).check()?;
    let tell = |line: &str| {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    };
    let model = args.which.load(&tell)?;
    if let Some(prompt) = &args.prompt {
        return args.continue_text(&model, prompt, args.seed, &tell);
    }
    let stdin = std::io::stdin();
    let typed = stdin.is_terminal();
    if typed {
        tell("type the beginning of a text and press Enter; Ctrl-D ends");
    }
    let (mut lines, mut seed) = (stdin.lock(), args.seed);
    for number in 1.. {
        if typed {
            let _ = write!(std::io::stderr().lock(), "> ");
        }
        let mut line = Vec::new();
        let read = lines.by_ref().take(MOST_LINE_BYTES + 1).read_until(b'\n', &mut line);
        if read.context("reading standard input")? == 0 {
            break;
        }
        if line.len() as u64 > MOST_LINE_BYTES {
            bail!(
                "line {number} of standard input is longer than {MOST_LINE_BYTES} bytes\nhint: shorten it"
            );
        }
        let Ok(line) = String::from_utf8(line) else {
            bail!(
                "line {number} of standard input is not UTF-8\nhint: convert it, with iconv for example"
            );
        };
        let line = line.strip_suffix('\n').unwrap_or(&line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        args.continue_text(&model, line, seed, &tell)?;
        seed = seed.wrapping_add(u64::from(args.samples));
    }
    Ok(())
}

impl Args {
    fn sampling(&self, seed: u64) -> Sampling {
        let &Self { temperature, top_k, top_p, min_p, repetition_penalty, .. } = self;
        Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed }
    }

    /// Streams the continuations of one prompt: the first as it comes, each other from when those before it are done.
    fn continue_text(
        &self,
        model: &Model,
        prompt: &str,
        seed: u64,
        tell: &dyn Fn(&str),
    ) -> Result<()> {
        let (samples, max_tokens) = (self.samples as usize, self.max_tokens as usize);
        let prompt = model.prompt(prompt)?;
        let began = Instant::now();
        let mut session = Session::new(model, samples, prompt.len() + max_tokens)?;
        let task = |i: u64| Task {
            sampling: self.sampling(seed.wrapping_add(i)),
            max_tokens,
            stop: self.stop.clone(),
        };
        session.start(&prompt, (0..u64::from(self.samples)).map(task).collect())?;
        let (fed, began) = (began.elapsed().as_secs_f64(), Instant::now());
        let mut out =
            Out { waiting: vec![String::new(); samples], done: vec![false; samples], at: 0 };
        out.head()?;
        let (mut tokens, mut longest, mut written) = (0, 0, Ok(()));
        while !session.is_idle() {
            longest += 1;
            session.step(&mut |made| {
                tokens += 1;
                out.waiting[made.place].push_str(&visible(&made.text));
                out.done[made.place] = made.finish.is_some();
            })?;
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

/// Writes to standard output at once.
fn say(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("writing to standard output\nhint: look at where it leads"),
    }
}

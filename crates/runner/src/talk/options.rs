//! What the commands that talk have in common: how a text is drawn, and lines of the standard input.

use std::io::{BufRead, IsTerminal, Read, Write};

use anyhow::{Context, bail};
use farthing_model::Sampling;
use farthing_talk::TextRequest;

use crate::Result;

/// How a text is drawn.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Drawing {
    /// Tokens to add, unless the model ends the text
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) max_tokens: u32,
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
    /// Draws depend on it: each further text takes the next
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(super) seed: u64,
    /// A string at which the text ends (repeatable)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl Drawing {
    /// A text with the seed of its number.
    pub(super) fn task(&self, number: u64) -> TextRequest {
        let &Self { temperature, top_k, top_p, min_p, repetition_penalty, .. } = self;
        let seed = self.seed.wrapping_add(number);
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed };
        TextRequest {
            stop: self.stop.clone(),
            ..TextRequest::new(sampling, self.max_tokens as usize)
        }
    }

    /// Refuses numbers that make no sense, before a model is loaded.
    pub(super) fn check(&self) -> Result<()> {
        Ok(self.task(0).sampling.check()?)
    }
}

/// More bytes than this are no line.
const MOST_LINE_BYTES: u64 = 1 << 20;

/// Calls `each` for every line of the standard input; who types them is told `how`.
pub(super) fn each_line(how: &str, each: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    let stdin = std::io::stdin();
    let typed = stdin.is_terminal();
    if typed {
        tell(how);
    }
    let mut lines = stdin.lock();
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
        each(line.strip_suffix('\r').unwrap_or(line))?;
    }
    Ok(())
}

/// Who reads what the model says is gone.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(crate) struct Closed;

/// What was begun could not be finished, through no fault of what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("it broke off midway")]
pub(crate) struct BrokenOff;

/// Writes to standard output at once.
pub(super) fn say(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written
            .context("writing to standard output\nhint: look at where it leads")
            .context(BrokenOff),
    }
}

/// A line for who watches.
pub(super) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

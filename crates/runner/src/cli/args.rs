//! What may stand on the command line, and the command that goes on where one stopped.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::places::PlaceArgs;
use crate::resources::MOST_THREADS;
use crate::{commands, talk};

/// Runs the stages that a pipeline file declares; what ran before with the same config and inputs is not run again
#[derive(Parser)]
#[command(
    name = "runner",
    version,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true
)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    /// The pipeline file
    pub(super) file: Option<PathBuf>,
    /// Show what would run and why, and run nothing; with a stage's name, that stage alone in full
    #[arg(long, value_name = "STAGE", num_args = 0..=1, default_missing_value = "", conflicts_with = "graph")]
    pub(super) plan: Option<String>,
    /// Print the graph of stages, and run nothing
    #[arg(long, value_name = "FORMAT")]
    pub(super) graph: Option<Graph>,
    /// Set a key for this run: STAGE.KEY=VALUE, vars.NAME=VALUE or pipeline.KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Run this stage alone; its inputs must be in the cache
    #[arg(long, value_name = "STAGE", conflicts_with_all = ["from", "until"])]
    pub(super) only: Option<String>,
    /// Run this stage and those that read it
    #[arg(long, value_name = "STAGE")]
    pub(super) from: Option<String>,
    /// Run this stage and those that it reads
    #[arg(long, value_name = "STAGE")]
    pub(super) until: Option<String>,
    /// Run this stage again although it is cached (repeatable)
    #[arg(long, value_name = "STAGE")]
    pub(super) force: Vec<String>,
    /// Compare the bytes of cached outputs with their digests, not the sizes alone
    #[arg(long)]
    pub(super) verify: bool,
    /// Threads for work on the CPU [default: all]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(super) threads: Option<usize>,
    /// Run up to N stages side by side, each with its part of the cores [default: as many as fit beside each other, by the `resources` they ask for]
    #[arg(long, value_name = "N", value_parser = jobs)]
    pub(super) jobs: Option<usize>,
    /// After a failure, run whatever does not depend on it; after one of a matrix's variants that is so in any case
    #[arg(long)]
    pub(super) keep_going: bool,
    #[command(flatten)]
    pub(super) places: PlaceArgs,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show the kinds of stages with their ports
    List,
    /// Continue texts with a trained model
    Generate(Box<talk::GenerateArgs>),
    /// Talk with a model that was finetuned to chat
    Chat(Box<talk::ChatArgs>),
    /// Evaluate a model: CORE, bits per byte of texts
    Eval(Box<talk::EvalArgs>),
    /// Serve a trained model over HTTP
    #[cfg(feature = "serve")]
    Serve(Box<talk::ServeArgs>),
    #[command(flatten)]
    Other(commands::Command),
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Graph {
    /// For Graphviz
    Dot,
    /// For Markdown
    Mermaid,
}

impl Args {
    /// With the file where it belongs: in `runner --plan FILE`, the option takes it for the name of a stage.
    pub(super) fn settled(mut self) -> Self {
        if self.file.is_none() && self.plan.as_ref().is_some_and(|plan| !plan.is_empty()) {
            self.file = self.plan.replace(String::new()).map(PathBuf::from);
        }
        self
    }
}

/// What `--threads` says.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(0) => Err("0 threads do no work; leave --threads out to use every core".to_owned()),
        Ok(n) if n > MOST_THREADS => Err(format!(
            "{n} threads, at most {MOST_THREADS} can be asked for; leave --threads out to use every core"
        )),
        Ok(n) => Ok(n),
        Err(error) => Err(format!("{error}; leave --threads out to use every core")),
    }
}

/// What `--jobs` says.
fn jobs(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(0) => {
            Err("0 stages at a time do nothing; leave --jobs out to run those that fit".to_owned())
        }
        Ok(n) => Ok(n),
        Err(error) => Err(format!("{error}; leave --jobs out to run those that fit")),
    }
}

/// The command that goes on where this one stopped: the same one, without `--force`, which would start from nothing.
pub(super) fn resume_command(program: &str, args: &Args) -> String {
    let mut words = vec![program.to_owned()];
    words.extend(args.file.iter().map(|f| f.display().to_string()));
    let mut flag = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.extend([name.to_owned(), value]);
        }
    };
    args.set.iter().for_each(|set| flag("--set", Some(set.clone())));
    flag("--only", args.only.clone());
    flag("--from", args.from.clone());
    flag("--until", args.until.clone());
    flag("--threads", args.threads.map(|n| n.to_string()));
    flag("--jobs", args.jobs.map(|n| n.to_string()));
    for (name, path) in [("--store", &args.places.store), ("--runs", &args.places.runs)] {
        flag(name, path.as_ref().map(|path| path.display().to_string()));
    }
    words.extend(args.keep_going.then(|| "--keep-going".to_owned()));
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell takes it.
pub(super) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

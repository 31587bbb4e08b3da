//! The commands beside running a pipeline: finding one's way (`describe`, `schema`, `init`, completions, the manual) and keeping house (`gc`, `runs`, `show`,
//! `diff`). Each makes a text; the command line prints it.

mod describe;
mod init;
mod schema;

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Subcommand;
use farthing_base::names::did_you_mean;

use crate::cache::Cache;
use crate::cache::gc::{self, GcArgs};
use crate::hidden::Hidden;
use crate::places::PlaceArgs;
use crate::progress::Screen;
use crate::runs::{diff, list, watch};
use crate::{App, Result};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show every key of a kind of stage: type, default, unit and what it is for
    Describe {
        /// The kind, as in `uses = "KIND"`
        kind: String,
    },
    /// Print the JSON Schema of pipeline files, for editors and checks
    Schema,
    /// Write a commented pipeline for text of your own
    Init {
        /// The file to write; it must not be there
        #[arg(default_value = "pipeline.toml")]
        file: PathBuf,
    },
    /// Show what in a store no pipeline uses any more, and delete it on request
    Gc(GcArgs),
    /// List the runs, the newest last
    Runs {
        /// Of this pipeline alone
        pipeline: Option<String>,
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// Show a run: what each stage did, from what, with which figures
    Show {
        /// Its folder, its name or the end of that; a pipeline's name means the newest
        run: String,
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// Watch a run that another terminal, or a cluster, has started
    Watch {
        /// As for `show`; the newest of all when absent
        run: Option<String>,
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// Set runs side by side: configuration, data, figures, machine
    Diff {
        /// Two or more, as for `show`
        #[arg(num_args = 2.., required = true)]
        runs: Vec<String>,
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the page of the manual, in roff
    Man {
        /// Of this command alone
        command: Option<String>,
    },
}

/// Runs a command and gives what it prints; `line` is the whole command line.
///
/// # Errors
/// Whatever is wrong with what was asked for.
pub(crate) fn run(command: &Command, app: &App, line: clap::Command) -> Result<String> {
    match command {
        Command::Describe { kind } => {
            let found = app.kinds.get(kind.as_str()).ok_or_else(|| {
                let hint = did_you_mean(kind, app.kinds.keys().copied())
                    .unwrap_or_else(|| "`runner list` shows the kinds".to_owned());
                anyhow!("no kind of stage is called `{kind}`\nhint: {hint}")
            })?;
            Ok(describe::kind(found))
        }
        Command::Schema => schema::text(&app.kinds),
        Command::Init { file } => init::write(file),
        Command::Gc(args) => {
            let places = args.places();
            let cache = Cache::at(&places.store, Screen::of_stderr(Hidden::default()));
            gc::run(&cache, args)
        }
        Command::Runs { pipeline, places } => {
            list::runs(&places.of(None).runs, pipeline.as_deref())
        }
        Command::Show { run, places } => list::show(&places.of(None).runs, run),
        Command::Watch { run, places } => watch::watch(&places.of(None).runs, run.as_deref()),
        Command::Diff { runs, places } => diff::diff(&places.of(None).runs, runs),
        Command::Completions { shell } => Ok(completions(*shell, line)),
        Command::Man { command } => manual(line, command.as_deref()),
    }
}

fn completions(shell: clap_complete::Shell, mut line: clap::Command) -> String {
    let name = line.get_name().to_owned();
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut line, name, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn manual(line: clap::Command, command: Option<&str>) -> Result<String> {
    let name = line.get_name().to_owned();
    let page = match command {
        None => line,
        Some(wanted) => {
            let names: Vec<String> =
                line.get_subcommands().map(|c| c.get_name().to_owned()).collect();
            let found = line.find_subcommand(wanted).cloned().ok_or_else(|| {
                let names = names.iter().map(String::as_str);
                let hint = did_you_mean(wanted, names)
                    .unwrap_or_else(|| "`runner --help` lists the commands".to_owned());
                anyhow!("no command is called `{wanted}`\nhint: {hint}")
            })?;
            found.bin_name(format!("{name} {wanted}")).display_name(format!("{name}-{wanted}"))
        }
    };
    let mut out = Vec::new();
    clap_mangen::Man::new(page).render(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

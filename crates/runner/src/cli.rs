//! The command line: arguments in, screens and an exit code out.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand, ValueEnum};

use crate::cache::Cache;
use crate::grammar::{self, Pipeline, Setting};
use crate::hidden::Hidden;
use crate::plan::Selection;
use crate::progress::Screen;
use crate::resources::MOST_THREADS;
use crate::run::{Setup, lacking, run as run_stages};
use crate::runs::{Lineage, RunFolder};
use crate::{
    App, Cancel, Extras, LockFile, Result, encoding, failure, plan_screen, result_screen, talk,
};

/// Everything went well.
const DONE: u8 = 0;
/// A stage failed.
const FAILED: u8 = 1;
/// The pipeline file or the command line is at fault.
const BAD_INPUT: u8 = 2;

/// Runs the stages that a pipeline file declares; what ran before with the same config and inputs is not run again
#[derive(Parser)]
#[command(
    name = "runner",
    version,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true
)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The pipeline file
    file: Option<PathBuf>,
    /// Show what would run and why, and run nothing
    #[arg(long, conflicts_with = "graph")]
    plan: bool,
    /// Print the graph of stages, and run nothing
    #[arg(long, value_name = "FORMAT")]
    graph: Option<Graph>,
    /// Set a key for this run: STAGE.KEY=VALUE, vars.NAME=VALUE or pipeline.KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Run this stage alone; its inputs must be in the cache
    #[arg(long, value_name = "STAGE", conflicts_with_all = ["from", "until"])]
    only: Option<String>,
    /// Run this stage and those that read it
    #[arg(long, value_name = "STAGE")]
    from: Option<String>,
    /// Run this stage and those that it reads
    #[arg(long, value_name = "STAGE")]
    until: Option<String>,
    /// Run this stage again although it is cached (repeatable)
    #[arg(long, value_name = "STAGE")]
    force: Vec<String>,
    /// Compare the bytes of cached outputs with their digests, not the sizes alone
    #[arg(long)]
    verify: bool,
    /// Threads for work on the CPU [default: all]
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
    /// Where outputs are cached
    #[arg(long, value_name = "DIR", default_value = "store")]
    store: PathBuf,
    /// Where runs leave their logs, metrics and reports
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Show the kinds of stages with their ports
    List,
    /// Continue texts with a trained model
    Generate(Box<talk::GenerateArgs>),
    /// Talk with a model that was finetuned to chat
    Chat(Box<talk::ChatArgs>),
    /// Serve a trained model over HTTP
    #[cfg(feature = "serve")]
    Serve(Box<talk::ServeArgs>),
}

#[derive(Clone, Copy, ValueEnum)]
enum Graph {
    /// For Graphviz
    Dot,
    /// For Markdown
    Mermaid,
}

/// A pipeline that somebody wrote is a hundredth of this.
const MOST_FILE_BYTES: u64 = 16 << 20;

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

/// Runs a command line and returns the exit code.
pub(crate) fn run(app: App, argv: &[OsString]) -> u8 {
    let args = match Args::try_parse_from(argv) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are asked for, and everything else is bad input.
            let _ = error.print();
            return if error.use_stderr() { BAD_INPUT } else { DONE };
        }
    };
    match &args.command {
        Some(Command::List) => return out(&plan_screen::list(&app.kinds), DONE),
        Some(Command::Generate(args)) => return ended(talk::generate(args)),
        Some(Command::Chat(args)) => return ended(talk::chat(args)),
        #[cfg(feature = "serve")]
        Some(Command::Serve(args)) => return ended(talk::serve(args)),
        None => {}
    }
    let nothing = Hidden::default();
    let Some(file) = &args.file else {
        err(&nothing, "error: no pipeline file was given\nhint: run `runner --help`\n");
        return BAD_INPUT;
    };
    let App { kinds, mut extras } = app;
    let text = match text(file) {
        Ok(text) => text,
        Err(screen) => {
            err(&nothing, &screen);
            return BAD_INPUT;
        }
    };
    let texts = args.set.iter().chain([&text]).map(String::as_str);
    let environment = grammar::environment(texts);
    let token = farthing_data::HubSettings::from_env().token;
    let hidden = Hidden::of(&environment, token, &args.set);
    extras.insert(LockFile::of(file).hiding(hidden.clone()));
    let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
    let setting = Setting {
        kinds: &kinds,
        extras: &extras,
        threads: args.threads,
        environment: &environment,
        hidden: &hidden,
    };
    let pipeline = match grammar::read(&file.display().to_string(), text, &args.set, &setting) {
        Ok(pipeline) => pipeline,
        Err(faults) => {
            // What is quoted in it has lost its control sequences; the screen's own are colours.
            write_err(&faults.render(colours()));
            return BAD_INPUT;
        }
    };
    match args.graph {
        Some(Graph::Dot) => out(&hidden.shown(&plan_screen::dot(&pipeline)), DONE),
        Some(Graph::Mermaid) => out(&hidden.shown(&plan_screen::mermaid(&pipeline)), DONE),
        None => {
            let program = argv.first().map(|p| p.to_string_lossy().into_owned());
            let program = program.unwrap_or_default();
            match work((pipeline, digest), file, &args, extras, &hidden, &program) {
                Ok(code) => code,
                Err(error) => {
                    err(&hidden, &format!("error: {}\n", failure::lines(&error).join("\n")));
                    BAD_INPUT
                }
            }
        }
    }
}

/// The exit code of a command that talks, whose error is shown; that nobody reads on is none.
fn ended(result: Result<()>) -> u8 {
    match result {
        Err(error) if !error.is::<talk::Closed>() => {
            err(&Hidden::default(), &format!("error: {}\n", failure::lines(&error).join("\n")));
            BAD_INPUT
        }
        _ => DONE,
    }
}

/// Whether standard error shows colours: on a terminal that has them, unless `NO_COLOR` or the like forbids it.
fn colours() -> bool {
    !matches!(anstream::AutoStream::choice(&std::io::stderr()), anstream::ColorChoice::Never)
}

/// The text of a pipeline file, or the error screen.
fn text(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let bytes = farthing_base::files::read_at_most(file, MOST_FILE_BYTES).map_err(|error| {
        let hint = if file.is_dir() { "name a file in it" } else { "check the path" };
        format!("error: cannot read the pipeline file {shown}: {error}\nhint: {hint}\n")
    })?;
    encoding::text(bytes)
        .map_err(|fault| format!("error: cannot read the pipeline file {shown}: {fault}\n"))
}

/// Plans or runs.
fn work(
    (pipeline, file_digest): (Pipeline, String),
    file: &Path,
    args: &Args,
    extras: Extras,
    hidden: &Hidden,
    program: &str,
) -> Result<u8> {
    let selection = Selection {
        only: args.only.clone(),
        from: args.from.clone(),
        until: args.until.clone(),
        force: args.force.clone(),
    };
    let screen = Screen::of_stderr(hidden.clone());
    let setup = Setup {
        cache: Cache::at(&args.store, screen.clone()),
        selected: selection.resolve(&pipeline)?,
        verify: args.verify,
        extras: Arc::new(extras),
        cancel: Cancel::default(),
        screen,
    };
    let shown = file.display().to_string();
    if args.plan {
        let Setup { selected, cache, verify, extras, .. } = &setup;
        let (screen, sound) =
            plan_screen::plan(&pipeline, &shown, selected, cache, *verify, extras)?;
        return Ok(out(&hidden.shown(&screen), if sound { DONE } else { BAD_INPUT }));
    }
    let lacking = lacking(&pipeline, &setup)?;
    if !lacking.is_empty() {
        let screens: Vec<String> =
            lacking.iter().map(|e| format!("error: {}\n", failure::lines(e).join("\n"))).collect();
        err(hidden, &screens.join("\n"));
        return Ok(BAD_INPUT);
    }
    setup.cache.prepare()?;
    let folder = RunFolder::create(&args.runs, &pipeline.name, hidden.clone())?;
    let lineage = Lineage {
        pipeline: pipeline.name.clone(),
        file: shown,
        file_digest,
        set: args.set.clone(),
        seed: pipeline.seed,
        runner: env!("CARGO_PKG_VERSION"),
        started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        status: "running",
        seconds: 0.0,
        stages: Vec::new(),
        running: None,
    };
    stop_on_ctrl_c(&setup.cancel, &setup.screen);
    let outcome = run_stages(pipeline, &setup, &folder, lineage)?;
    let talk = |folder: &Path| {
        let command = talk::command(folder).to_owned();
        let words = [program.to_owned(), command, folder.display().to_string()];
        words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
    };
    let code = out(&hidden.shown(&result_screen::result(&outcome, &folder.path, talk)), DONE);
    let Some((stage, error)) = &outcome.failure else { return Ok(code) };
    err(hidden, &result_screen::failed(stage, error, &resume_command(program, args)));
    Ok(FAILED)
}

/// The first Ctrl-C asks the stage to stop, the second ends the process.
fn stop_on_ctrl_c(cancel: &Cancel, screen: &Screen) {
    let (cancel, screen) = (cancel.clone(), screen.clone());
    let handler = move || {
        if cancel.requested() {
            std::process::exit(i32::from(FAILED));
        }
        cancel.request();
        screen.line("stopping as soon as the stage can; press Ctrl-C again to stop at once");
    };
    // Fails where another handler is in place: then that one decides.
    let _ = ctrlc::set_handler(handler);
}

/// The command that goes on where this one stopped: the same one, without `--force`, which would start from nothing.
fn resume_command(program: &str, args: &Args) -> String {
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
    for (name, path, default) in [("--store", &args.store, "store"), ("--runs", &args.runs, "runs")]
    {
        flag(name, (path != Path::new(default)).then(|| path.display().to_string()));
    }
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a POSIX shell takes it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Prints a screen, and gives `code` if that went well. A reader that left early (`runner list | head`) is no error.
fn out(text: &str, code: u8) -> u8 {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            write_err(&format!(
                "error: cannot write to standard output: {error}\n\
                 hint: look at where it leads; what stages did is kept\n"
            ));
            if code == DONE { FAILED } else { code }
        }
        _ => code,
    }
}

/// Prints an error screen, but for what is hidden.
fn err(hidden: &Hidden, text: &str) {
    write_err(&hidden.shown(text));
}

fn write_err(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

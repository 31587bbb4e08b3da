//! The command line: arguments in, screens and an exit code out.

mod args;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{CommandFactory, Parser};
use farthing_base::names::nearest;
use farthing_comm::Launch;

pub(crate) use args::threads;
use args::{Args, Command, Graph, quote, resume_command};

use crate::ahead::Ahead;
use crate::cache::Cache;
use crate::crew::{self, Crew, Started};
use crate::grammar::{self, Declared, Pipeline, Setting};
use crate::hidden::Hidden;
use crate::plan::Selection;
use crate::progress::Screen;
use crate::run::{Planned, Setup, Shares, run as run_stages};
use crate::runs::{Lineage, RunFolder, Status};
use crate::{
    App, Cancel, Cancelled, Extras, LockFile, Result, ahead, commands, encoding, failure, machine,
    plan_screen, result_screen, signals, talk,
};

/// Everything went well.
const DONE: u8 = 0;
/// A stage failed.
const FAILED: u8 = 1;
/// The pipeline file or the command line is at fault.
const BAD_INPUT: u8 = 2;

/// A pipeline that somebody wrote is a hundredth of this.
const MOST_FILE_BYTES: u64 = 16 << 20;

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
        Some(Command::Other(command)) => {
            let text = commands::run(command, &app, Args::command());
            return text.map_or_else(|error| ended(Err(error)), |text| out(&text, DONE));
        }
        Some(Command::Chat(args)) => return ended(talk::chat(args)),
        Some(Command::Eval(args)) => return ended(talk::eval(args)),
        #[cfg(feature = "serve")]
        Some(Command::Serve(args)) => return ended(talk::serve(args)),
        None => {}
    }
    let nothing = Hidden::default();
    let args = args.settled();
    let Some(file) = &args.file else {
        err(&nothing, "error: no pipeline file was given\nhint: run `runner --help`\n");
        return BAD_INPUT;
    };
    #[cfg(unix)]
    let host = app.host();
    let App { kinds, mut extras, .. } = app;
    let launch = match crew::launched() {
        Ok(launch) => launch,
        Err(error) => return ended(Err(error)),
    };
    // What all ranks find out alike, the first one says.
    let first = launch.as_ref().is_none_or(|launch| launch.rank == 0);
    let read = text(file).map_err(|what| {
        format!("error: cannot read the pipeline file {}: {what}\n", file.display())
    });
    let files = match read.and_then(|whole| grammar::chain(file, whole, text)) {
        Ok(files) => files,
        Err(screen) => {
            if first {
                err(&nothing, &screen);
            }
            return BAD_INPUT;
        }
    };
    let texts = files.iter().map(|file| &file.text);
    let texts = args.set.iter().chain(texts).map(String::as_str);
    let environment = grammar::environment(texts);
    let token = farthing_data::HubSettings::from_env().token;
    let hidden = Hidden::of(&environment, token, &args.set);
    extras.insert(LockFile::of(file).hiding(hidden.clone()));
    let mut digest = blake3::Hasher::new();
    for file in &files {
        digest.update(file.text.as_bytes());
    }
    let digest = digest.finalize().to_hex().to_string();
    let read = |extras: &Extras| {
        let setting = Setting {
            kinds: &kinds,
            extras,
            threads: args.threads,
            launch: launch.as_ref(),
            environment: &environment,
            hidden: &hidden,
        };
        grammar::read(files.clone(), &args.set, &setting)
    };
    let pipeline = match read(&extras) {
        Ok(pipeline) => pipeline,
        Err(faults) => {
            // What is quoted in it has lost its control sequences; the screen's own are colours.
            if first {
                write_err(&faults.render(colours()));
            }
            return BAD_INPUT;
        }
    };
    if let Some(launch) = launch.clone().filter(|launch| launch.rank > 0) {
        if args.graph.is_some() || args.plan.is_some() {
            return DONE;
        }
        let store = args.places.of(Some(file)).store;
        let started = Started::new(launch, &pipeline, store, &digest, &args.set);
        return started.map_or(BAD_INPUT, |started| crew::follow(&started, &extras));
    }
    extras.insert(Crew::new(launch.is_some()));
    match args.graph {
        Some(Graph::Dot) => out(&hidden.shown(&plan_screen::dot(&pipeline)), DONE),
        Some(Graph::Mermaid) => out(&hidden.shown(&plan_screen::mermaid(&pipeline)), DONE),
        None => {
            let program = argv.first().map(|p| p.to_string_lossy().into_owned());
            let program = program.unwrap_or_default();
            let again = |extras: &Extras| read(extras).ok();
            #[cfg(not(unix))]
            let host = ();
            match work(
                (pipeline, digest),
                host,
                again,
                launch.clone(),
                file,
                &args,
                extras,
                &hidden,
                &program,
            ) {
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
            if error.is::<talk::BrokenOff>() { FAILED } else { BAD_INPUT }
        }
        _ => DONE,
    }
}

/// Whether standard error shows colours: on a terminal that has them, unless `NO_COLOR` or the like forbids it.
fn colours() -> bool {
    !matches!(anstream::AutoStream::choice(&std::io::stderr()), anstream::ColorChoice::Never)
}

/// The text of a pipeline file, or what is wrong with it and a hint.
fn text(file: &Path) -> Result<String, String> {
    let bytes = farthing_base::files::read_at_most(file, MOST_FILE_BYTES).map_err(|error| {
        let hint = if file.is_dir() {
            "name a file in it".to_owned()
        } else {
            meant(file).unwrap_or_else(|| "check the path".to_owned())
        };
        format!("{error}\nhint: {hint}")
    })?;
    encoding::text(bytes)
}

/// What somebody may have meant by the name of a file that is not there: a pipeline beside it or, of a single word, a command.
fn meant(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if folder.is_none() {
        let line = Args::command();
        let commands = line.get_subcommands().map(clap::Command::get_name);
        if let Some(command) = nearest(name, commands) {
            return Some(format!("did you mean the command `{command}`?"));
        }
    }
    let beside = std::fs::read_dir(folder.unwrap_or(Path::new("."))).ok()?.flatten();
    let names = beside.filter_map(|entry| entry.file_name().into_string().ok());
    let is_pipeline = |name: &String| Path::new(name).extension().is_some_and(|e| e == "toml");
    let pipelines: Vec<String> = names.filter(is_pipeline).collect();
    let near = nearest(name, pipelines.iter().map(String::as_str))?;
    Some(format!("did you mean `{}`?", file.with_file_name(near).display()))
}

/// Plans or runs; `again` reads the pipeline once more.
fn work(
    (pipeline, file_digest): (Pipeline, String),
    #[cfg(unix)] host: Option<crate::child::Host>,
    #[cfg(not(unix))] (): (),
    again: impl Fn(&Extras) -> Option<Pipeline>,
    launch: Option<Launch>,
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
    let places = args.places.of(Some(file));
    let launcher = launch.as_ref().map(|launch| launch.launcher.words(launch.ranks) + " ");
    let started = launch.map(|launch| {
        Started::new(launch, &pipeline, places.store.clone(), &file_digest, &args.set)
    });
    let started = started.transpose()?;
    let setup = Setup {
        cache: Cache::at(&places.store, screen.clone()),
        selected: selection.resolve(&pipeline)?,
        verify: args.verify,
        extras: Arc::new(extras),
        cancel: Cancel::default(),
        screen,
        store_of_runs: places.store_of_runs(),
        // The ranks that a launcher started do one thing at a time.
        shares: Shares::new(if started.is_some() { Some(1) } else { args.jobs }),
        keep_going: args.keep_going,
        file: file.to_owned(),
        // What a launcher started is one process of a job, and does its work itself.
        #[cfg(unix)]
        host: host.filter(|_| started.is_none()),
    };
    let shown = file.display().to_string();
    let Setup { selected, cache, verify, extras, .. } = &setup;
    let ahead = ahead::look(&pipeline, cache, selected, *verify, extras);
    if let Some(only) = &args.plan {
        let only = Some(only.as_str()).filter(|only| !only.is_empty());
        let (screen, sound) = plan_screen::plan(&pipeline, &shown, &ahead, only, cache, *verify)?;
        // The process ends now. To free what is known of some hundred stages one by one would take a tenth of the plan's time.
        std::mem::forget((pipeline, ahead));
        return Ok(out(&hidden.shown(&screen), if sound { DONE } else { BAD_INPUT }));
    }
    let refusals: Vec<&anyhow::Error> = ahead.iter().flat_map(|stage| &stage.refusals).collect();
    if !refusals.is_empty() {
        let screens: Vec<String> = refusals
            .into_iter()
            .map(|e| format!("error: {}\n", failure::lines(e).join("\n")))
            .collect();
        err(hidden, &screens.join("\n"));
        return Ok(BAD_INPUT);
    }
    // A store that has everything need not be writable.
    if started.is_some() || ahead.iter().any(Ahead::is_to_run) {
        setup.cache.prepare()?;
    }
    if let Some(started) = &started
        && let Err(error) = Crew::lead(&setup.extras, started, &|line| setup.screen.line(line))
    {
        err(hidden, &format!("error: {}\n", failure::lines(&error).join("\n")));
        return Ok(crew::code(&error));
    }
    let _in_use = setup.cache.in_use();
    let folder = run_folder(&pipeline, &ahead, &places.runs, hidden)?;
    let planned = planned(&pipeline, ahead, &setup);
    let lineage = Lineage {
        pipeline: pipeline.name.clone(),
        file: shown,
        file_digest,
        set: args.set.clone(),
        seed: pipeline.seed,
        dollars_per_hour: pipeline.dollars_per_hour,
        runner: env!("CARGO_PKG_VERSION").to_owned(),
        commit: machine::commit(file),
        machine: machine::Machine::here(),
        started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        status: Status::Begun,
        seconds: 0.0,
        stages: Vec::new(),
        begun: Vec::new(),
        failed: BTreeMap::new(),
        not_run: BTreeMap::new(),
    };
    signals::listen(&setup.cancel, &setup.screen);
    let again = || again(&setup.extras);
    let outcome = run_stages(pipeline, &setup, &folder, lineage, &planned, &again);
    folder.end();
    Crew::end(
        &setup.extras,
        match &outcome {
            Ok(outcome) => outcome.failures.first().map(|(_, error)| error),
            Err(error) => Some(error),
        },
    );
    let outcome = outcome?;
    let talk = |folder: &Path| {
        let command = talk::command(folder).to_owned();
        let words = [program.to_owned(), command, folder.display().to_string()];
        words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
    };
    let code = out(&hidden.shown(&result_screen::result(&outcome, &folder.path, talk)), DONE);
    let failures = &outcome.failures;
    let stopped = failures.iter().any(|(_, error)| error.is::<Cancelled>());
    let Some((_, first)) = failures.first() else { return Ok(code) };
    let resume = launcher.unwrap_or_default() + &resume_command(program, args);
    err(hidden, &result_screen::failed(failures, &resume));
    let signal = setup.cancel.signal().filter(|_| stopped);
    Ok(signal.map_or_else(|| crew::code(first), signals::exit_code))
}

/// What is known of each stage that is to run: its memory where others may run beside it, its time where somebody looks.
fn planned(pipeline: &Pipeline, ahead: Vec<Ahead>, setup: &Setup) -> Vec<Planned> {
    let stages = pipeline.stages.iter().zip(ahead);
    let of = |(stage, ahead): (&Declared, Ahead)| {
        let Some(job) = stage.job.as_ref().filter(|_| ahead.is_to_run()) else {
            return Planned::default();
        };
        let resources = setup.shares.resources(stage);
        // What cannot be counted is no reason not to run.
        let memory = (!setup.shares.one_by_one()).then(|| job.memory(&resources, &ahead.ctx));
        let time = setup.screen.is_narrow().then(|| job.estimate(&resources, &ahead.ctx));
        let seconds = time.and_then(|time| time.ok()?).map(|e| f64::midpoint(e.low_s, e.high_s));
        Planned { memory_bytes: memory.and_then(|bytes| bytes.ok()?), seconds }
    };
    stages.map(of).collect()
}

/// The folder of this run; of one that takes everything from the cache, the folder of the run that has it already.
fn run_folder(
    pipeline: &Pipeline,
    ahead: &[Ahead],
    runs: &Path,
    hidden: &Hidden,
) -> Result<RunFolder> {
    let mut cached = Vec::new();
    for (stage, ahead) in pipeline.stages.iter().zip(ahead) {
        if let Some(record) = ahead.record() {
            cached.push((stage.name.as_str(), record.key.as_str()));
        }
    }
    let whole = !ahead.iter().any(Ahead::is_to_run);
    let name = &pipeline.name;
    let earlier = whole.then(|| RunFolder::earlier(runs, name, &cached, hidden.clone())).flatten();
    earlier.map_or_else(|| RunFolder::create(runs, name, hidden.clone()), Ok)
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
pub(crate) fn err(hidden: &Hidden, text: &str) {
    write_err(&hidden.shown(text));
}

fn write_err(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

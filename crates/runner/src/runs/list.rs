//! `runner runs` and `runner show`: what was run, from the lineages that runs leave.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};

use super::{Lineage, RUN, Status, folders, is_alive, lineage, minute};
use crate::Result;
use crate::plan_screen::SHORT_KEY;
use crate::progress::format::duration;
use crate::table::Table;

/// Every run under a folder, the newest last.
///
/// # Errors
/// There are none.
pub(crate) fn runs(root: &Path, pipeline: Option<&str>) -> Result<String> {
    let mut all: Vec<(PathBuf, Lineage)> = Vec::new();
    for folder in pipelines(root) {
        if pipeline.is_some_and(|name| !folder.ends_with(name)) {
            continue;
        }
        all.extend(
            folders(&folder).into_iter().filter_map(|run| Some((run.clone(), lineage(&run)?))),
        );
    }
    if all.is_empty() {
        let of = pipeline.map_or_else(String::new, |name| format!(" of `{name}`"));
        bail!(
            "there are no runs{of} in {}\nhint: runs lie beside their pipeline file; name another folder with --runs DIR",
            root.display()
        );
    }
    all.sort_by(|(a, one), (b, two)| (one.started, a).cmp(&(two.started, b)));
    let mut table = Table::default();
    table.row(["started (UTC)", "pipeline", "status", "time", "stages", "seed", "run"]);
    for (run, lineage) in &all {
        let ran = lineage.stages.iter().filter(|stage| stage.status != "cached").count();
        table.row([
            &minute(lineage.started),
            &lineage.pipeline,
            status(run, lineage),
            &duration(lineage.seconds),
            &format!("{ran} of {} ran", lineage.stages.len()),
            &lineage.seed.to_string(),
            &run.display().to_string(),
        ]);
    }
    Ok(table.lines(0).iter().fold(String::new(), |out, line| out + line + "\n"))
}

/// How a run ended, or that it is at work.
pub(super) fn status(run: &Path, lineage: &Lineage) -> &'static str {
    match lineage.status {
        Status::Begun if is_alive(run) => "running",
        Status::Begun => "died",
        Status::Done => "done",
        Status::Failed => "failed",
        Status::Stopped => "stopped",
    }
}

/// One run in full.
///
/// # Errors
/// There is no such run, or several.
pub(crate) fn show(root: &Path, which: &str) -> Result<String> {
    let (run, lineage) = find(root, which)?;
    let mut out = String::new();
    let mut head = Table::default();
    let Lineage { pipeline, file, seed, runner, machine, started, seconds, .. } = &lineage;
    head.row(["run", &run.display().to_string()]);
    head.row(["pipeline", &format!("{pipeline} ({file})")]);
    if !lineage.set.is_empty() {
        head.row(["set", &lineage.set.join("  ")]);
    }
    head.row(["seed", &seed.to_string()]);
    head.row(["started", &format!("{} UTC", minute(*started))]);
    head.row(["status", &format!("{} after {}", status(&run, &lineage), duration(*seconds))]);
    for begun in &lineage.begun {
        head.row(["begun", &begun.name]);
    }
    for (name, error) in &lineage.failed {
        head.row(["failed", &format!("{name}: {}", error.lines().next().unwrap_or_default())]);
    }
    for (name, because) in &lineage.not_run {
        head.row(["not run", &format!("{name}, since {because} failed")]);
    }
    if let Some(commit) = &lineage.commit {
        head.row(["commit", commit]);
    }
    head.row(["made by", &format!("farthing {runner}")]);
    if machine.cores > 0 {
        head.row(["machine", &machine.to_string()]);
    }
    push(&mut out, &head);
    let mut table = Table::default();
    table.row(["stage", "kind", "status", "time", "key", "why"]);
    for stage in &lineage.stages {
        let key = stage.key.get(..SHORT_KEY).unwrap_or(&stage.key);
        let time = duration(stage.seconds);
        table.row([&stage.name, &stage.kind, &stage.status, &time, key, &stage.reason]);
    }
    out.push('\n');
    push(&mut out, &table);
    let mut figures = Table::default();
    for stage in &lineage.stages {
        for (i, (name, value)) in stage.summary.iter().enumerate() {
            let value = value.to_string();
            let first = value.lines().next().unwrap_or_default();
            figures.row([if i == 0 { stage.name.as_str() } else { "" }, name, first]);
        }
    }
    out.push('\n');
    push(&mut out, &figures);
    Ok(crate::hidden::Hidden::default().shown(&out))
}

fn push(out: &mut String, table: &Table) {
    for line in table.lines(0) {
        let _ = writeln!(out, "{line}");
    }
}

/// The folders of pipelines under the folder of all runs.
fn pipelines(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

/// The newest run of all pipelines.
///
/// # Errors
/// There is none.
pub(super) fn newest(root: &Path) -> Result<(PathBuf, Lineage)> {
    let all = pipelines(root).into_iter().flat_map(|folder| folders(&folder));
    let newest = all.max_by(|a, b| a.file_name().cmp(&b.file_name()));
    let found = newest.and_then(|run| Some((run.clone(), lineage(&run)?)));
    found.ok_or_else(|| {
        anyhow!(
            "there are no runs in {}\nhint: runs lie beside their pipeline file; name another folder with --runs DIR",
            root.display()
        )
    })
}

/// The run that is meant: a folder, the name of one or the end of that, or the newest of a pipeline.
///
/// # Errors
/// None is, or several are.
pub(super) fn find(root: &Path, which: &str) -> Result<(PathBuf, Lineage)> {
    let given = Path::new(which);
    let newest = |folder: &Path| folders(folder).pop();
    let mut found: Vec<PathBuf> = Vec::new();
    if given.join(RUN).is_file() {
        found.push(given.to_owned());
    } else if let Some(run) = newest(given).or_else(|| newest(&root.join(which))) {
        found.push(run);
    } else if !which.is_empty() {
        let all = pipelines(root).into_iter().flat_map(|folder| folders(&folder));
        found.extend(all.filter(|run| {
            run.file_name().is_some_and(|name| name.to_string_lossy().ends_with(which))
        }));
    }
    match &found[..] {
        [run] => {
            let lineage = lineage(run).ok_or_else(|| {
                anyhow!(
                    "{} is no lineage of a run\nhint: `runner runs` lists the runs that can be read",
                    run.join(RUN).display()
                )
            })?;
            Ok((run.clone(), lineage))
        }
        [] => bail!(
            "no run is called `{which}` in {}\nhint: `runner runs` lists them",
            root.display()
        ),
        several => {
            let names: Vec<String> = several.iter().map(|run| run.display().to_string()).collect();
            bail!("`{which}` may be one of {}\nhint: write more of its name", names.join(", "))
        }
    }
}

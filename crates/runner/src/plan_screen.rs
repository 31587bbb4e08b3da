//! The screens that run nothing: `--plan`, `--graph` and `runner list`.

use std::collections::BTreeMap;
use std::fmt::Write;

use schemars::SchemaGenerator;

use crate::ahead::{Ahead, is_of_machine};
use crate::cache::identity::differences;
use crate::cache::{Cache, Lookup};
use crate::failure;
use crate::grammar::Pipeline;
use crate::kind::Kind;
use crate::plan::{Action, Assessed, behind, named};
use crate::progress::format::{duration, number};
use crate::table::{Table, wrapped};
use crate::{Before, Estimate, PlanLine, Port, Result};

/// Characters of a key that are shown.
pub(crate) const SHORT_KEY: usize = 10;

/// `--plan`: the screen, and whether nothing but this machine would refuse the run. The first of a table's variants is shown in full, the others by what
/// sets them apart; `only` names a stage that is shown alone, in full.
///
/// # Errors
/// No stage has the name.
pub(crate) fn plan(
    pipeline: &Pipeline,
    file: &str,
    ahead: &[Ahead],
    only: Option<&str>,
    cache: &Cache,
    verify: bool,
) -> Result<(String, bool)> {
    let chosen = only.map(|name| named("--plan", name, pipeline)).transpose()?;
    let mut table = Table::default();
    let mut notes: Vec<Vec<String>> = Vec::new();
    let mut sound = true;
    let mut firsts: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let (mut cached, mut to_run, mut waiting, mut short) = (0, 0, 0, 0);
    for (index, (stage, ahead)) in pipeline.stages.iter().zip(ahead).enumerate() {
        let key = ahead.seen.as_ref().and_then(|seen| seen.key.as_ref());
        let key = key.map(|key| key[..SHORT_KEY].to_owned()).unwrap_or_default();
        let (state, key) = match ahead.seen.as_ref().map(|seen| &seen.action) {
            None => ("cannot run", String::new()),
            Some(Action::Cached(_)) => ("cached", key),
            Some(Action::Run) => ("will run", key),
            Some(Action::Waits(on)) => ("waits", format!("depends on {}", on.join(", "))),
            Some(Action::Absent) if stage.skip => ("skipped", key),
            Some(Action::Absent) => ("left out", key),
        };
        match ahead.seen.as_ref().map(|seen| &seen.action) {
            Some(Action::Cached(_)) => cached += 1,
            Some(Action::Run) | None => to_run += 1,
            Some(Action::Waits(_)) => waiting += 1,
            Some(Action::Absent) => {}
        }
        sound &= ahead.faults().next().is_none();
        let reason = ahead.seen.as_ref().map_or("", |seen| seen.reason.as_str());
        let first = firsts.entry(&stage.base).or_insert_with(|| (index, reason.to_owned()));
        let is_first = first.0 == index;
        let why = if is_first { reason.to_owned() } else { apart(pipeline, index, first, reason) };
        if chosen.as_ref().is_some_and(|chosen| !chosen.contains(&index)) {
            continue;
        }
        table.row([&stage.name, stage.kind.name, state, &key, &why]);
        let in_full = is_first || chosen.is_some();
        short += usize::from(!in_full);
        let (lines, planned) = note(pipeline, index, ahead, in_full, cache, verify);
        sound &= planned;
        notes.push(lines);
    }
    let mut out = format!("pipeline {} ({file}), seed {}\n\n", pipeline.name, pipeline.seed);
    for (line, notes) in table.lines(2).iter().zip(&notes) {
        out.push_str(line);
        out.push('\n');
        for note in notes {
            out.push_str(note);
            out.push('\n');
        }
    }
    let n = pipeline.stages.len();
    let s = if n == 1 { "" } else { "s" };
    let _ = write!(out, "\n{n} stage{s}: {cached} cached, {to_run} to run");
    if waiting > 0 {
        let _ = write!(out, ", {waiting} waiting for those");
    }
    out.push('\n');
    out.push_str(&total(pipeline, ahead));
    if short > 0 {
        let s = if short == 1 { "" } else { "s" };
        let _ = writeln!(out, "{short} variant{s} in short; `--plan STAGE` shows one in full");
    }
    Ok((out, sound))
}

/// How long all that is to run may take, as far as stages say, and what that costs.
fn total(pipeline: &Pipeline, ahead: &[Ahead]) -> String {
    let mut all = Estimate::default();
    let mut known = 0;
    for (stage, ahead) in pipeline.stages.iter().zip(ahead) {
        let runs = ahead.is_to_run() && ahead.faults().next().is_none();
        let job = stage.job.as_ref().filter(|_| runs);
        // What keeps it from being known is said where the stage plans.
        if let Some(Ok(Some(one))) = job.map(|job| job.estimate(&stage.resources, &ahead.ctx)) {
            all = Estimate { low_s: all.low_s + one.low_s, high_s: all.high_s + one.high_s };
            known += 1;
        }
    }
    if known == 0 {
        return String::new();
    }
    let range =
        |low: String, high: String| if low == high { low } else { format!("{low} to {high}") };
    let Estimate { low_s, high_s } = all;
    let s = if known == 1 { "" } else { "s" };
    let time = range(duration(low_s), duration(high_s));
    let cost = pipeline.dollars_per_hour.map(|price| {
        let [low, high] = [low_s, high_s].map(|s| format!("${:.2}", price * s / 3_600.0));
        format!(", {} at ${} an hour", range(low, high), number(price))
    });
    format!("total: about {time} for {known} training{s}{}\n", cost.unwrap_or_default())
}

/// What is said under a stage, and whether it could plan.
fn note(
    pipeline: &Pipeline,
    index: usize,
    ahead: &Ahead,
    in_full: bool,
    cache: &Cache,
    verify: bool,
) -> (Vec<String>, bool) {
    let stage = &pipeline.stages[index];
    let mut lines = Vec::new();
    let mut errors: Vec<&anyhow::Error> = ahead.refusals.iter().collect();
    let planned = stage.job.as_ref().filter(|_| in_full);
    let planned = planned.map(|job| job.plan(&stage.resources, &ahead.ctx));
    if let Some(Ok(planned)) = &planned {
        let instead = ahead.seen.as_ref().map(|seen| instead(pipeline, index, seen, cache, verify));
        let mut inner = Table::default();
        // What refuses it is said once.
        let refused =
            |line: &&PlanLine| errors.iter().any(|e| failure::said(e).contains(&line.text));
        for line in instead.iter().flatten().chain(planned).filter(|line| !refused(line)) {
            inner.row([&line.name, &line.text]);
        }
        lines.extend(inner.lines(6));
    }
    // What keeps it from planning keeps it from running, as a rule, and is said once.
    let (sound, failed) = match &planned {
        Some(Err(error)) => (is_of_machine(error), Some(error)),
        _ => (true, None),
    };
    let cause = |error: &anyhow::Error| failure::said(error);
    if let Some(failed) = failed
        && !errors.iter().any(|error| cause(error).contains(&cause(failed)))
    {
        errors.push(failed);
    }
    for error in errors {
        let text = failure::in_full(error);
        let own = format!("stage `{}` cannot run: ", stage.name);
        let text = text.strip_prefix(&own).unwrap_or(&text);
        let what = if is_of_machine(error) { "this machine cannot run it" } else { "cannot run" };
        lines.extend(format!("{what}: {text}").lines().map(|line| format!("      {line}")));
    }
    (lines, sound)
}

/// What sets a variant apart from the first of its table: its reason where that is another one, and its config.
fn apart(
    pipeline: &Pipeline,
    index: usize,
    (first, first_reason): &(usize, String),
    reason: &str,
) -> String {
    let (stage, first) = (&pipeline.stages[index], &pipeline.stages[*first]);
    let mut words = if reason == first_reason { Vec::new() } else { vec![reason.to_owned()] };
    words.extend(differences(&first.config, &stage.config));
    if stage.seed != first.seed {
        words.push(format!("seed {} → {}", first.seed, stage.seed));
    }
    words.join("; ")
}

/// How to go on from what a stage made the last time, which is there still and serves no more.
fn instead(
    pipeline: &Pipeline,
    index: usize,
    seen: &Assessed,
    cache: &Cache,
    verify: bool,
) -> Vec<PlanLine> {
    let stage = &pipeline.stages[index];
    if !matches!(seen.action, Action::Run | Action::Waits(_)) {
        return Vec::new();
    }
    let (Some(job), Some(last)) = (&stage.job, cache.last(&pipeline.name, &stage.name)) else {
        return Vec::new();
    };
    let ports = stage.kind.outputs;
    let whole = |key: String| matches!(cache.lookup(&key, &last, ports, verify), Lookup::Whole(_));
    if last.kind != stage.kind.name || !last.key().is_some_and(whole) {
        return Vec::new();
    }
    let inputs = last.inputs.iter().map(|(port, input)| (port.as_str(), input.from.as_str()));
    job.instead(&Before { stage: &stage.name, config: &last.config, inputs: inputs.collect() })
}

/// `--graph dot`.
pub(crate) fn dot(pipeline: &Pipeline) -> String {
    let mut out =
        format!("digraph \"{}\" {{\n  rankdir = LR;\n  node [shape = box];\n", pipeline.name);
    for stage in &pipeline.stages {
        let _ = writeln!(
            out,
            "  \"{}\" [label = \"{}\\n{}\"];",
            stage.name, stage.name, stage.kind.name
        );
    }
    edges(pipeline, |from, to, label| {
        let attributes = if label.is_empty() {
            "style = dashed".to_owned()
        } else {
            format!("label = \"{label}\"")
        };
        let _ = writeln!(out, "  \"{from}\" -> \"{to}\" [{attributes}];");
    });
    out.push_str("}\n");
    out
}

/// `--graph mermaid`.
pub(crate) fn mermaid(pipeline: &Pipeline) -> String {
    let mut out = String::from("flowchart LR\n");
    let mut ids = BTreeMap::new();
    for (i, stage) in pipeline.stages.iter().enumerate() {
        // Names may be Mermaid's own words (`end`); numbers are not.
        ids.insert(stage.name.as_str(), format!("s{i}"));
        let _ = writeln!(out, "  s{i}[\"{}<br/>{}\"]", stage.name, stage.kind.name);
    }
    edges(pipeline, |from, to, label| {
        let arrow = if label.is_empty() { "-.->".to_owned() } else { format!("-->|{label}|") };
        let _ = writeln!(out, "  {} {arrow} {}", ids[from], ids[to]);
    });
    out
}

/// Each pair of stages with the ports between them; no ports where only `needs` connects them.
fn edges(pipeline: &Pipeline, mut each: impl FnMut(&str, &str, &str)) {
    for stage in &pipeline.stages {
        for up in behind(stage) {
            let ports = stage.inputs.iter().filter(|e| e.from == up);
            let label = ports.map(|e| e.from_port.name).collect::<Vec<_>>().join(", ");
            each(&pipeline.stages[up].name, &stage.name, &label);
        }
    }
}

/// `runner list`: what there is, with the names of keys; `runner describe` says what they mean.
pub(crate) fn list(kinds: &BTreeMap<&'static str, Kind>) -> String {
    if kinds.is_empty() {
        return "no stage kinds are registered\n".to_owned();
    }
    let mut out = String::new();
    for kind in kinds.values() {
        let about = if kind.about.is_empty() { String::new() } else { format!(": {}", kind.about) };
        let _ = writeln!(out, "{}{about}", kind.name);
        let mut table = Table::default();
        ports(&mut table, "in", kind.inputs);
        ports(&mut table, "out", kind.outputs);
        for line in table.lines(2) {
            out.push_str(&line);
            out.push('\n');
        }
        listed(&mut out, "figures", kind.figures);
        let mut generator = SchemaGenerator::default();
        let named = [("keys", kind.config_schema), ("exec", kind.exec_schema)];
        for (what, schema) in named {
            let schema = schema(&mut generator).to_value();
            let keys: Vec<&str> = schema["properties"]
                .as_object()
                .map(|keys| keys.keys().map(String::as_str).collect())
                .unwrap_or_default();
            listed(&mut out, what, &keys);
        }
        out.push('\n');
    }
    out.push_str("`runner describe KIND` says what the keys mean\n");
    out
}

/// Names behind what they are, in lines that fit.
pub(crate) fn listed(out: &mut String, what: &str, names: &[&str]) {
    let lines = if names.is_empty() { Vec::new() } else { wrapped(&names.join(", "), 86) };
    for (i, line) in lines.iter().enumerate() {
        let _ = writeln!(out, "  {:8} {line}", if i == 0 { what } else { "" });
    }
}

pub(crate) fn ports(table: &mut Table, direction: &str, ports: &[Port]) {
    for port in ports {
        let optional = match (port.optional, port.many) {
            (false, false) => "",
            (true, false) => " (optional)",
            (false, true) => " (any number)",
            (true, true) => " (optional, any number)",
        };
        table.row([direction, port.name, &format!("{}{optional}", port.kind)]);
    }
}

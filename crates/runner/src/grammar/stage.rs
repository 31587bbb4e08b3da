//! The `[stage.NAME]` tables: takes out the runner's own keys and gives the rest to the stage's strict struct.

use std::collections::{BTreeMap, BTreeSet};

use farthing_base::names::did_you_mean;
use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::edges::{self, Wanted};
use super::fault::Fault;
use super::matrix::{self, Coord, Variant};
use super::source::Span;
use super::tree::{Value, find, non_finite, type_name};
use super::vars::Vars;
use super::{Declared, Setting, Written, expect_table, is_plain, plain_name_fault, strict, tree};
use crate::failure;
use crate::kind::{Job, Kind};
use crate::resources::{Claims, ResourcesTable};
use crate::retry::Retry;
use crate::stage::At;
use crate::{Extras, Resources};

/// A stage as read, its edges resolved to indices in the list of all stages.
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) at: Span,
    /// `None` where the table has faults, which are in the list.
    pub(super) declared: Option<Declared>,
    /// Where each edge and each need is written.
    pub(super) places: Vec<(usize, Span)>,
}

/// What a first look at a table gives: enough for other stages' edges to be checked.
pub(super) struct Header {
    pub(super) name: String,
    /// The table's name.
    pub(super) base: String,
    /// Where on the axes of the matrices above it.
    pub(super) coords: Vec<Coord>,
    pub(super) at: Span,
    /// `None` where it is missing or unknown, which is a fault already.
    pub(super) kind: Option<Kind>,
    pub(super) kind_at: Option<Span>,
    /// Whether it is left out of every run.
    pub(super) skip: bool,
}

/// All headers, found by what they are called.
#[derive(Default)]
pub(super) struct Headers {
    list: Vec<Header>,
    named: BTreeMap<String, usize>,
    of_table: BTreeMap<String, Vec<usize>>,
}

impl Headers {
    fn push(&mut self, header: Header) {
        let i = self.list.len();
        self.named.entry(header.name.clone()).or_insert(i);
        self.of_table.entry(header.base.clone()).or_default().push(i);
        self.list.push(header);
    }

    /// The first stage of that name.
    pub(super) fn named(&self, name: &str) -> Option<usize> {
        self.named.get(name).copied()
    }

    /// The stages that a table stands for.
    pub(super) fn of_table(&self, name: &str) -> &[usize] {
        self.of_table.get(name).map_or(&[], Vec::as_slice)
    }
}

impl std::ops::Deref for Headers {
    type Target = [Header];

    fn deref(&self) -> &[Header] {
        &self.list
    }
}

/// Reads every stage, in the order of the file.
pub(super) fn read_all<'a>(
    table: Option<Value<'a>>,
    seed: u64,
    vars: &mut Vars<'a>,
    setting: &Setting<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<Draft> {
    let tables = tables(table, faults);
    for (name, at, _) in &tables {
        if !is_plain(name) || ["vars", "pipeline"].contains(&name.as_str()) {
            faults.push(plain_name_fault("stage", name, at.clone()));
        }
    }
    let variants = matrix::expand(tables, vars, setting, faults);
    // What is wrong with a table is said once, not for every stage that it stands for.
    let mut reported: BTreeMap<String, BTreeSet<(usize, usize)>> = BTreeMap::new();
    let mut headers = Headers::default();
    for variant in &variants {
        let mut found = Vec::new();
        headers.push(header(variant, setting, &mut found));
        matrix::keep_new(found, reported.entry(variant.base.clone()).or_default(), faults);
    }
    let mut drafts = Vec::new();
    for (i, variant) in variants.into_iter().enumerate() {
        let mut found = Vec::new();
        drafts.push(read_one(i, variant.table, &headers, seed, vars, setting, &mut found));
        matrix::keep_new(found, reported.entry(variant.base).or_default(), faults);
    }
    drafts
}

/// Each stage's name, its place and its table, in the order of the file.
fn tables<'a>(table: Option<Value<'a>>, faults: &mut Vec<Fault>) -> Vec<(String, Span, Value<'a>)> {
    let Some(table) = table else {
        let help = "add one: `[stage.NAME]` with `uses = \"…\"`; `runner list` shows the kinds";
        faults.push(Fault::new("the file has no stages", 0..0, "").help(help.to_owned()));
        return Vec::new();
    };
    if expect_table(&table, "`stage`", faults).is_none() {
        return Vec::new();
    }
    let DeValue::Table(table) = table.into_inner() else { return Vec::new() };
    let mut list = Vec::new();
    for (key, value) in table {
        if expect_table(&value, &format!("`stage.{}`", key.get_ref()), faults).is_some() {
            list.push((key.get_ref().to_string(), key.span(), value));
        }
    }
    list.sort_by_key(|(_, at, _)| at.start);
    list
}

fn header(variant: &Variant<'_>, setting: &Setting<'_>, faults: &mut Vec<Fault>) -> Header {
    let Variant { name, base, coords, at, table } = variant;
    let uses = match table.get_ref() {
        DeValue::Table(table) => table.get("uses"),
        _ => None,
    };
    let mut kind = None;
    match uses.map(|u| (u.get_ref(), u.span())) {
        None => {
            let title = format!("stage `{name}` does not say what it `uses`");
            let help = "add `uses = \"KIND\"`; `runner list` shows the kinds".to_owned();
            faults.push(Fault::new(title, at.clone(), "").help(help));
        }
        Some((DeValue::String(given), span)) => {
            kind = setting.kinds.get(given.as_ref()).copied();
            if kind.is_none() {
                let help = did_you_mean(given, setting.kinds.keys().copied());
                let fault =
                    Fault::new(format!("unknown kind of stage `{given}`"), span, "").help(help);
                faults.push(fault.help("`runner list` shows the kinds".to_owned()));
            }
        }
        Some((other, span)) => {
            let title = format!("`uses` is {}", type_name(other));
            faults.push(Fault::new(title, span, "expected the name of a kind"));
        }
    }
    let kind_at = uses.map(toml::Spanned::span);
    let skip = match table.get_ref() {
        DeValue::Table(table) => table.get("skip").map(|skip| (skip.get_ref(), skip.span())),
        _ => None,
    };
    let skip = match skip {
        None => false,
        Some((DeValue::Boolean(skip), _)) => *skip,
        Some((other, span)) => {
            let title = format!("`skip` is {}", type_name(other));
            faults.push(Fault::new(title, span, "expected true or false"));
            false
        }
    };
    Header {
        name: name.clone(),
        base: base.clone(),
        coords: coords.clone(),
        at: at.clone(),
        kind,
        kind_at,
        skip,
    }
}

fn read_one<'a>(
    index: usize,
    table: Value<'a>,
    headers: &Headers,
    seed: u64,
    vars: &Vars<'a>,
    setting: &Setting<'_>,
    faults: &mut Vec<Fault>,
) -> Draft {
    let header = &headers[index];
    let before = faults.len();
    let span = table.span();
    let mut keys = match table.into_inner() {
        DeValue::Table(keys) => keys,
        _ => DeTable::new(),
    };
    keys.remove("uses");
    keys.remove("skip");
    if let Some((key, _)) = keys.remove_entry("extends") {
        let help = "write it at the top of the file, above every table".to_owned();
        faults.push(Fault::new("a stage has no `extends`", key.span(), "").help(help));
    }
    let wanted = Wanted {
        inputs: keys.remove("inputs"),
        needs: keys.remove("needs"),
        expect: keys.remove("expect"),
    };
    let edges = edges::resolve(&wanted, header, headers, vars, faults);
    let resources = resources(keys.remove("resources"), header, vars, setting, faults);
    let seed = keys.remove("seed").map_or(Some(seed), |own| own_seed(&own, header, faults));
    let retry = keys.remove("retry").and_then(|table| retry(&table, header, vars, faults));
    let exec = keys.remove("exec");
    let connected: Vec<&str> = edges.inputs.iter().map(|edge| edge.port.name).collect();
    let job = header.kind.and_then(|kind| {
        job(kind, keys, span, exec.as_ref(), &connected, header, vars, setting.extras, faults)
    });
    let mut draft = Draft {
        name: header.name.clone(),
        at: header.at.clone(),
        declared: None,
        places: edges.places,
    };
    if faults.len() == before
        && let (Some(kind), Some((resources, claims)), Some(seed), Some((job, config, written))) =
            (header.kind, resources, seed, job)
    {
        draft.declared = Some(Declared {
            name: header.name.clone(),
            base: header.base.clone(),
            kind,
            config,
            written,
            job: Some(job),
            inputs: edges.inputs,
            needs: edges.needs,
            resources,
            claims,
            seed,
            retry,
            skip: header.skip,
            expect: edges.expect,
        });
    }
    draft
}

/// How often a stage is tried; faults are in the list.
fn retry(
    table: &Value<'_>,
    header: &Header,
    vars: &Vars<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Retry> {
    let read = |v: Value<'_>| Retry::deserialize(ValueDeserializer::from(v)).map(drop);
    let owner = format!("`retry` of stage `{}`", header.name);
    let found = strict::faults(read, table, &owner, vars);
    if !found.is_empty() {
        faults.extend(found);
        return None;
    }
    let retry = Retry::deserialize(ValueDeserializer::from(table.clone())).ok()?;
    if let Some((key, title)) = retry.fault() {
        let at = find(table, key).unwrap_or_else(|| table.span());
        faults.push(Fault::new(title, at, format!("in {owner}")));
        return None;
    }
    Some(retry)
}

/// A seed that the stage has in place of the pipeline's.
fn own_seed(value: &Value<'_>, header: &Header, faults: &mut Vec<Fault>) -> Option<u64> {
    if let Some(kind) = header.kind.filter(|kind| !kind.uses_seed) {
        let title = format!("a seed changes nothing in `{}`", kind.name);
        let help = "take it out: the same config and inputs give the same bytes".to_owned();
        faults.push(Fault::new(title, value.span(), "").help(help));
        return None;
    }
    let seed = match value.get_ref() {
        DeValue::Integer(seed) => u64::from_str_radix(seed.as_str(), seed.radix()).ok(),
        _ => None,
    };
    if seed.is_none() {
        let title = format!("`seed` is {}", type_name(value.get_ref()));
        let label = "expected a whole number, 0 or above";
        faults.push(Fault::new(title, value.span(), label));
    }
    seed
}

fn resources(
    table: Option<Value<'_>>,
    header: &Header,
    vars: &Vars<'_>,
    setting: &Setting<'_>,
    faults: &mut Vec<Fault>,
) -> Option<(Resources, Claims)> {
    let Some(table) = table else {
        let table = ResourcesTable::default();
        let resolved = both(&table, setting);
        let fault = |title| Fault::new(title, header.at.clone(), "as the command line says");
        return resolved.map_err(|title| faults.push(fault(title))).ok();
    };
    let read = |v: Value<'_>| ResourcesTable::deserialize(ValueDeserializer::from(v)).map(drop);
    let owner = format!("`resources` of stage `{}`", header.name);
    let found = strict::faults(read, &table, &owner, vars);
    if !found.is_empty() {
        faults.extend(found);
        return None;
    }
    let span = table.span();
    let table = ResourcesTable::deserialize(ValueDeserializer::from(table)).ok()?;
    match both(&table, setting) {
        Ok((found, _)) if found.all_ranks() > 1 && header.kind.is_some_and(|kind| !kind.ranks) => {
            let kind = header.kind.map_or("", |kind| kind.name);
            let (title, help) = if found.gpus > 1 {
                (format!("`{kind}` computes on one GPU"), "set `gpus = 1`")
            } else {
                (format!("`{kind}` computes on one rank"), "leave `ranks` out")
            };
            faults.push(Fault::new(title, span, format!("in {owner}")).help(help.to_owned()));
            None
        }
        Ok(found) => Some(found),
        Err(title) => {
            faults.push(Fault::new(title, span, format!("in {owner}")));
            None
        }
    }
}

fn both(table: &ResourcesTable, setting: &Setting<'_>) -> Result<(Resources, Claims), String> {
    let resources = table.resolve(setting.threads, setting.launch)?;
    Ok((resources, table.claims(setting.threads)?))
}

fn job<'a>(
    kind: Kind,
    keys: DeTable<'a>,
    span: Span,
    exec: Option<&Value<'_>>,
    connected: &[&str],
    header: &Header,
    vars: &Vars<'a>,
    extras: &Extras,
    faults: &mut Vec<Fault>,
) -> Option<(Box<dyn Job>, serde_json::Value, Written)> {
    let mut table = toml::Spanned::new(span, DeValue::Table(keys));
    let owner = format!("stage `{}` (`{}`)", header.name, kind.name);
    let before = faults.len();
    let mut infinite = Vec::new();
    non_finite(&table, &mut infinite);
    for span in infinite {
        faults.push(Fault::new("a setting must be a finite number", span, ""));
    }
    // Most tables are sound as they stand; what is wrong with one is looked for when it is refused.
    let mut built = (kind.build)(table.clone(), exec.cloned());
    if built.is_err() || faults.len() > before {
        vars.texts_where_wanted(kind.read_config, &mut table);
        faults.extend(strict::faults(kind.read_config, &table, &owner, vars));
        if let Some(exec) = exec {
            let owner = format!("`exec` of stage `{}`", header.name);
            faults.extend(strict::faults(kind.read_exec, exec, &owner, vars));
        }
        if faults.len() > before {
            return None;
        }
        built = (kind.build)(table.clone(), exec.cloned());
    }
    let mut job = match built {
        Ok(job) => job,
        Err(error) => {
            let span = error.span().unwrap_or_else(|| header.at.clone());
            faults.push(Fault::new(error.message(), span, format!("in {owner}")));
            return None;
        }
    };
    let written = Written {
        config: tree::written(table.get_ref()),
        exec: exec.map(|exec| tree::written(exec.get_ref())),
        connected: connected.iter().map(|&port| port.to_owned()).collect(),
    };
    if let Err(error) = job.connect(connected).and_then(|()| job.check(extras)) {
        faults.push(check_fault(&error, &table, header));
        return None;
    }
    match job.config() {
        Ok(config) => Some((job, config, written)),
        Err(error) => {
            let title = format!("the config of {owner} does not serialise: {error}");
            faults.push(Fault::new(title, header.at.clone(), ""));
            None
        }
    }
}

/// What a stage's own check found, at the key it names or at the stage.
fn check_fault(error: &anyhow::Error, table: &Value<'_>, header: &Header) -> Fault {
    let owner = format!("in stage `{}`", header.name);
    if let Some(At { key, message, hint }) = error.downcast_ref() {
        let span = find(table, key).unwrap_or_else(|| header.at.clone());
        return Fault::new(message.as_str(), span, owner).help(hint.clone());
    }
    let fault = Fault::new(failure::said(error), header.at.clone(), owner);
    failure::hints(error).into_iter().fold(fault, Fault::help)
}

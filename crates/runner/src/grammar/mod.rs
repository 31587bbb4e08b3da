//! The grammar of a pipeline file: TOML text in, a checked graph of stages out, or every fault at once with its place.
//! Nothing here looks at the cache or runs anything.

mod edges;
mod extends;
mod fault;
mod matrix;
mod order;
mod set;
mod source;
mod stage;
mod strict;
mod tree;
mod vars;

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::hidden::Hidden;
use crate::kind::{Job, Kind};
use crate::resources::Claims;
use crate::retry::Retry;
use crate::{Extras, Port, Resources};

pub(crate) use extends::{PipelineText, chain};
use fault::{Fault, Faults, suggest};
use source::Sources;
use tree::{Value, type_name};
use vars::Vars;
pub(crate) use vars::{Environment, environment};

/// The version of the grammar that this crate reads.
const FORMAT: i64 = 1;

/// A pipeline without faults, its stages in an order in which they can run.
pub(crate) struct Pipeline {
    pub(crate) name: String,
    pub(crate) seed: u64,
    /// What an hour of the machine costs.
    pub(crate) dollars_per_hour: Option<f64>,
    pub(crate) stages: Vec<Declared>,
}

/// One `[stage.NAME]` table, or one of the stages that a table with a `matrix` stands for.
pub(crate) struct Declared {
    /// `train`, or `train@depth=4`.
    pub(crate) name: String,
    /// The table's name.
    pub(crate) base: String,
    pub(crate) kind: Kind,
    /// The typed config after defaults.
    pub(crate) config: serde_json::Value,
    /// Its own keys, as another process can read them.
    pub(crate) written: Written,
    /// Taken when the stage runs.
    pub(crate) job: Option<Box<dyn Job>>,
    pub(crate) inputs: Vec<Edge>,
    /// Stages to run first, for another reason than their outputs.
    pub(crate) needs: Vec<usize>,
    pub(crate) resources: Resources,
    pub(crate) claims: Claims,
    /// Its own, or the pipeline's.
    pub(crate) seed: u64,
    pub(crate) retry: Option<Retry>,
    /// Left out of every run, until the file says otherwise.
    pub(crate) skip: bool,
    pub(crate) expect: Vec<Expectation>,
}

/// A stage's own keys, each table in one line of TOML, and the ports that are connected.
#[derive(Clone, Debug, Default, Deserialize, serde::Serialize)]
pub(crate) struct Written {
    pub(crate) config: String,
    pub(crate) exec: Option<String>,
    pub(crate) connected: Vec<String>,
}

/// An input port and where it comes from.
pub(crate) struct Edge {
    pub(crate) port: &'static Port,
    pub(crate) from: usize,
    pub(crate) from_port: &'static Port,
    /// Of an edge into a port that takes many: its place among them, and what sets the stage behind it apart.
    pub(crate) variant: Option<(usize, String)>,
}

impl Edge {
    /// The edge's name among the inputs of its stage: the port, numbered where it takes many.
    pub(crate) fn name(&self) -> String {
        match &self.variant {
            None => self.port.name.to_owned(),
            Some((i, label)) => format!("{}[{i:04}] {label}", self.port.name),
        }
    }
}

/// A bound on a figure of the stage behind an input port.
#[derive(Clone, Debug)]
pub(crate) struct Expectation {
    pub(crate) port: String,
    pub(crate) figure: String,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
}

impl Pipeline {
    /// The stage of that name, or all those that the table of that name stands for.
    pub(crate) fn named(&self, name: &str) -> Vec<usize> {
        let is = |s: &Declared| s.name == name || s.base == name;
        (0..self.stages.len()).filter(|&i| is(&self.stages[i])).collect()
    }
}

/// What the grammar needs to know of the application and the command line.
pub(crate) struct Setting<'s> {
    pub(crate) kinds: &'s BTreeMap<&'static str, Kind>,
    pub(crate) extras: &'s Extras,
    pub(crate) threads: Option<usize>,
    /// What a launcher has started, if it is more than this process.
    pub(crate) launch: Option<&'s farthing_comm::Launch>,
    pub(crate) environment: &'s Environment,
    pub(crate) hidden: &'s Hidden,
}

/// Reads a pipeline.
///
/// # Errors
/// Every fault of the file and of the `--set`s.
pub(crate) fn read(
    files: Vec<PipelineText>,
    sets: &[String],
    setting: &Setting<'_>,
) -> Result<Pipeline, Faults> {
    let mut sources = Sources::default();
    sources.files = files.len();
    for PipelineText { name, text } in files {
        sources.add(name, text);
    }
    for set in sets {
        sources.add("--set".to_owned(), set.clone());
    }
    let mut list = Vec::new();
    let pipeline = parse(&sources, setting, &mut list);
    match pipeline {
        Some(pipeline) if list.is_empty() => Ok(pipeline),
        _ => Err(Faults { sources, list, hidden: setting.hidden.clone() }),
    }
}

fn parse(sources: &Sources, setting: &Setting<'_>, faults: &mut Vec<Fault>) -> Option<Pipeline> {
    let files = sources.files;
    let mut root = DeTable::new();
    for file in sources.iter().take(files) {
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        for error in &errors {
            let at = error.span().unwrap_or(0..0);
            let at = at.start + file.base..at.end + file.base;
            faults.push(Fault::new(error.message(), at, ""));
        }
        let mut table = table.into_inner();
        if file.base > 0 {
            table = tree::shift_table(table, file.base);
        }
        match table.remove("extends").map(|value| (value.span(), value.into_inner())) {
            None | Some((_, DeValue::String(_))) => {}
            Some((span, other)) => {
                let title = format!("`extends` is {}", type_name(&other));
                faults.push(Fault::new(title, span, "expected the path of a pipeline file"));
            }
        }
        tree::merge(&mut root, table);
    }
    if !faults.is_empty() {
        return None;
    }
    for source in sources.iter().skip(files) {
        set::apply(&mut root, source, faults);
    }
    top_level(&root, faults);

    let table = match root.remove("vars").map(|v| (v.span(), v.into_inner())) {
        None => DeTable::new(),
        Some((_, DeValue::Table(table))) => table,
        Some((span, other)) => {
            faults.push(Fault::new(
                format!("`vars` is {}", type_name(&other)),
                span,
                "expected a table",
            ));
            DeTable::new()
        }
    };
    let mut vars = Vars::new(table, setting.environment);
    let heading = heading(root.remove("pipeline"), &mut vars, faults);
    let seed = heading.as_ref().map_or(0, |heading| heading.seed);
    let stages = stage::read_all(root.remove("stage"), seed, &mut vars, setting, faults);
    faults.extend(vars.too_much());
    let stages = order::arrange(stages, faults)?;
    let Heading { name, dollars_per_hour, .. } = heading?;
    Some(Pipeline { name, seed, dollars_per_hour, stages })
}

/// Faults every table that has no meaning.
fn top_level(root: &DeTable<'_>, faults: &mut Vec<Fault>) {
    for key in root.keys() {
        let name = key.get_ref().as_ref();
        match name {
            "pipeline" | "vars" | "stage" => {}
            _ => {
                let help = suggest(name, ["pipeline", "vars", "stage"], "tables of a pipeline");
                let fault =
                    Fault::new(format!("unknown table `{name}`"), key.span(), "").help(help);
                faults.push(fault.help(format!("a stage is written `[stage.{name}]`")));
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Heading {
    name: String,
    /// Checked before the rest is read.
    #[serde(rename = "format")]
    _format: i64,
    #[serde(default)]
    seed: u64,
    dollars_per_hour: Option<f64>,
}

/// The `[pipeline]` table.
fn heading<'a>(
    table: Option<Value<'a>>,
    vars: &mut Vars<'a>,
    faults: &mut Vec<Fault>,
) -> Option<Heading> {
    let Some(mut table) = table else {
        let help = "start it with\n[pipeline]\nname   = \"…\"\nformat = 1";
        faults
            .push(Fault::new("the file has no `[pipeline]` table", 0..0, "").help(help.to_owned()));
        return None;
    };
    vars.substitute(&mut table, faults);
    let read = |v: Value<'_>| Heading::deserialize(ValueDeserializer::from(v)).map(drop);
    vars.texts_where_wanted(read, &mut table);
    let found = strict::faults(read, &table, "`[pipeline]`", vars);
    // A later grammar may have other keys: its version is the first thing to say.
    if let DeValue::Table(keys) = table.get_ref()
        && let Some(format) = keys.get("format")
        && let Some(version) = format.get_ref().as_integer()
        && version.as_str().parse() != Ok(FORMAT)
    {
        let title =
            format!("this file has format {version}, and this runner reads format {FORMAT}");
        let help =
            format!("write `format = {FORMAT}`, or use the runner that the file was made for");
        faults.push(Fault::new(title, format.span(), "").help(help));
        return None;
    }
    if !found.is_empty() {
        faults.extend(found);
        return None;
    }
    let name_at = tree::find(&table, "name").unwrap_or_else(|| table.span());
    let price_at = tree::find(&table, "dollars_per_hour").unwrap_or_else(|| table.span());
    let heading = Heading::deserialize(ValueDeserializer::from(table)).ok()?;
    if !is_plain(&heading.name) {
        faults.push(plain_name_fault("pipeline", &heading.name, name_at));
        return None;
    }
    if heading.dollars_per_hour.is_some_and(|price| !(0.0..1e9).contains(&price)) {
        let title = "`dollars_per_hour` is no price".to_owned();
        faults.push(Fault::new(title, price_at, "expected a number, 0 or above"));
        return None;
    }
    Some(heading)
}

/// Whether a name can be a folder's name everywhere.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn plain_name_fault(what: &str, name: &str, span: source::Span) -> Fault {
    Fault::new(format!("`{name}` is no name for a {what}"), span, "")
        .help("names are made of A-Z a-z 0-9 - _ . and start with a letter or digit".to_owned())
}

/// A table's value, or a fault.
fn expect_table<'v, 'a>(
    value: &'v Spanned<DeValue<'a>>,
    what: &str,
    faults: &mut Vec<Fault>,
) -> Option<&'v DeTable<'a>> {
    if let DeValue::Table(table) = value.get_ref() {
        return Some(table);
    }
    let title = format!("{what} is {}", type_name(value.get_ref()));
    faults.push(Fault::new(title, value.span(), "expected a table"));
    None
}

//! `matrix`: one table of the file that stands for several stages. Each axis is a list of values, used as `${axis}` inside the
//! stage, or a table of named variants, each with the keys that it changes. A stage that reads one made so is multiplied
//! with it, unless the port takes many.
//!
//! ```toml
//! [stage.train]
//! matrix = { depth = [4, 6] }            # train@depth=4, train@depth=6
//! model  = { depth = "${depth}" }
//!
//! [stage.train.matrix.variant]           # train@variant=baseline, train@variant=swiglu
//! baseline = {}
//! swiglu   = { model.mlp = "swiglu" }
//! ```

use std::collections::{BTreeMap, BTreeSet};

use toml::de::{DeTable, DeValue};

use super::fault::Fault;
use super::source::Span;
use super::tree::{Value, merge, type_name};
use super::vars::{Local, Vars};
use super::{Setting, expect_table, is_plain};

/// The most stages that one table may stand for.
const MOST: usize = 256;

/// A stage of the file, or one of those that a table with a matrix stands for.
pub(super) struct Variant<'a> {
    /// `train`, or `train@depth=4`.
    pub(super) name: String,
    /// The table's name.
    pub(super) base: String,
    /// Where on each axis; empty for a stage without.
    pub(super) coords: Vec<Coord>,
    pub(super) at: Span,
    /// With the variant's keys laid over it and every `${}` replaced.
    pub(super) table: Value<'a>,
}

/// A place on an axis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Coord {
    pub(super) axis: String,
    pub(super) label: String,
}

struct Axis<'a> {
    name: String,
    at: Span,
    /// The table that declares it.
    stage: usize,
    points: Vec<Point<'a>>,
}

struct Point<'a> {
    label: String,
    /// What `${axis}` means.
    value: DeValue<'a>,
    /// Laid over the table of the stage that declares the axis.
    over: DeTable<'a>,
    at: Span,
}

/// Replaces vars in every table and multiplies those that have a matrix or read from one that has.
pub(super) fn expand<'a>(
    mut tables: Vec<(String, Span, Value<'a>)>,
    vars: &mut Vars<'a>,
    setting: &Setting<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<Variant<'a>> {
    let mut axes = Vec::new();
    for (stage, (name, _, table)) in tables.iter_mut().enumerate() {
        let DeValue::Table(keys) = table.get_mut() else { continue };
        if let Some(mut matrix) = keys.remove("matrix") {
            vars.substitute(&mut matrix, faults);
            let declared = declare(matrix, stage, vars, faults);
            unused(&declared, name, table, faults);
            axes.extend(declared);
        }
    }
    let spread = if axes.is_empty() {
        vec![BTreeSet::new(); tables.len()]
    } else {
        spread(&tables, &axes, vars, setting)
    };
    let mut variants = Vec::new();
    for ((stage, (name, at, table)), mine) in tables.into_iter().enumerate().zip(spread) {
        let mine: Vec<&Axis<'a>> = mine.into_iter().map(|i| &axes[i]).collect();
        if let Some(fault) = clash(&mine, &name).or_else(|| too_many(&mine, &name)) {
            faults.push(fault);
            continue;
        }
        let mut reported = BTreeSet::new();
        for points in product(&mine) {
            let mut variant = build(stage, &name, &at, &table, &points);
            let local = points.iter().map(|(axis, point)| Local {
                name: axis.name.clone(),
                value: point.value.clone(),
                at: point.at.clone(),
            });
            vars.set_locals(local.collect());
            let mut found = Vec::new();
            vars.substitute(&mut variant.table, &mut found);
            keep_new(found, &mut reported, faults);
            variants.push(variant);
        }
        vars.set_locals(Vec::new());
    }
    variants
}

/// Keeps the faults at places where no earlier variant of the same table had one.
pub(super) fn keep_new(
    found: Vec<Fault>,
    reported: &mut BTreeSet<(usize, usize)>,
    faults: &mut Vec<Fault>,
) {
    let place = |fault: &Fault| (fault.span().start, fault.span().end);
    let new: Vec<Fault> = found.into_iter().filter(|f| !reported.contains(&place(f))).collect();
    reported.extend(new.iter().map(place));
    faults.extend(new);
}

/// The axes of one `matrix`, in the order of the file.
fn declare<'a>(
    matrix: Value<'a>,
    stage: usize,
    vars: &Vars<'a>,
    faults: &mut Vec<Fault>,
) -> Vec<Axis<'a>> {
    if expect_table(&matrix, "`matrix`", faults).is_none() {
        return Vec::new();
    }
    let DeValue::Table(table) = matrix.into_inner() else { return Vec::new() };
    let mut axes: Vec<Axis<'a>> = Vec::new();
    for (key, value) in table {
        let (name, at) = (key.get_ref().to_string(), key.span());
        if !is_plain(&name) || name.contains('.') {
            let fault = Fault::new(format!("`{name}` is no name for an axis"), at, "");
            let help = "names of axes are made of A-Z a-z 0-9 - _";
            faults.push(fault.help(help.to_owned()));
            continue;
        }
        if let Some(var) = vars.place(&name) {
            let fault = Fault::new(format!("axis `{name}` is a var too"), at, "");
            let help = "give one of them another name: `${…}` could mean either".to_owned();
            faults.push(fault.also(var, "the var").help(help));
            continue;
        }
        let points = points(&name, value, faults);
        if let Some(points) = points {
            axes.push(Axis { name, at, stage, points });
        }
    }
    axes.sort_by_key(|axis| axis.at.start);
    axes
}

/// The points of an axis; `None` where there are faults.
fn points<'a>(axis: &str, value: Value<'a>, faults: &mut Vec<Fault>) -> Option<Vec<Point<'a>>> {
    let span = value.span();
    let mut points: Vec<Point<'a>> = Vec::new();
    let before = faults.len();
    match value.into_inner() {
        DeValue::Array(list) => {
            for entry in list {
                let at = entry.span();
                let Some(label) = label(entry.get_ref()) else {
                    let title =
                        format!("a value of axis `{axis}` is {}", type_name(entry.get_ref()));
                    let fault = Fault::new(title, at, "expected a string, a number or a boolean");
                    let help = format!("name variants of many keys: `[stage.….matrix.{axis}]`");
                    faults.push(fault.help(help));
                    continue;
                };
                let value = entry.into_inner();
                points.push(Point { label, value, over: DeTable::new(), at });
            }
        }
        DeValue::Table(table) => {
            for (key, keys) in table {
                let (label, at) = (key.get_ref().to_string(), key.span());
                if expect_table(&keys, &format!("variant `{label}`"), faults).is_none() {
                    continue;
                }
                let DeValue::Table(over) = keys.into_inner() else { continue };
                if let Some((key, _)) = over.get_key_value("matrix") {
                    let title = "a variant has no `matrix` of its own";
                    faults.push(Fault::new(title, key.span(), ""));
                }
                points.push(Point {
                    value: DeValue::String(label.clone().into()),
                    label,
                    over,
                    at,
                });
            }
            points.sort_by_key(|point| point.at.start);
        }
        other => {
            let title = format!("axis `{axis}` is {}", type_name(&other));
            let fault = Fault::new(title, span.clone(), "expected a list, or a table of variants");
            faults.push(fault.help(format!("write `matrix = {{ {axis} = [4, 6] }}`")));
        }
    }
    for (i, point) in points.iter().enumerate() {
        if !is_plain(&point.label) {
            let title = format!("`{}` is no name for a variant", point.label);
            let help = "names are made of A-Z a-z 0-9 - _ . and start with a letter or digit";
            faults.push(Fault::new(title, point.at.clone(), "").help(help.to_owned()));
        }
        if let Some(first) = points[..i].iter().find(|p| p.label == point.label) {
            let title = format!("`{}` stands twice on axis `{axis}`", point.label);
            faults
                .push(Fault::new(title, point.at.clone(), "").also(first.at.clone(), "here first"));
        }
    }
    if points.is_empty() && faults.len() == before {
        let fault = Fault::new(format!("axis `{axis}` has no values"), span, "");
        faults.push(fault.help("give at least one, or take the axis out".to_owned()));
    }
    (faults.len() == before).then_some(points)
}

/// How a value stands in a stage's name.
fn label(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(i) => Some(i.to_string()),
        DeValue::Float(x) => Some(x.as_str().to_owned()),
        DeValue::Boolean(b) => Some(b.to_string()),
        _ => None,
    }
}

/// Faults an axis whose values the stage makes no use of: its variants would be one stage under several names.
fn unused(axes: &[Axis<'_>], name: &str, table: &Value<'_>, faults: &mut Vec<Fault>) {
    for axis in axes {
        let changes = |point: &Point<'_>| !point.over.is_empty();
        if axis.points.iter().any(changes) || mentions(table, &format!("${{{}}}", axis.name)) {
            continue;
        }
        let title = format!("axis `{}` changes nothing in stage `{name}`", axis.name);
        let help = format!("use it: `KEY = \"${{{}}}\"`", axis.name);
        faults.push(Fault::new(title, axis.at.clone(), "").help(help));
    }
}

fn mentions(value: &Value<'_>, what: &str) -> bool {
    match value.get_ref() {
        DeValue::String(text) => text.contains(what),
        DeValue::Array(list) => list.iter().any(|v| mentions(v, what)),
        DeValue::Table(table) => table.values().any(|v| mentions(v, what)),
        _ => false,
    }
}

/// For each table the axes that it is multiplied along: its own and those of what it reads.
fn spread<'a>(
    tables: &[(String, Span, Value<'a>)],
    axes: &[Axis<'_>],
    vars: &mut Vars<'a>,
    setting: &Setting<'_>,
) -> Vec<BTreeSet<usize>> {
    let mut places = BTreeMap::new();
    for (i, (name, ..)) in tables.iter().enumerate() {
        places.entry(name.as_str()).or_insert(i);
    }
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); tables.len()];
    for (stage, (_, _, table)) in tables.iter().enumerate() {
        for up in reads(table, &places, vars, setting) {
            readers[up].push(stage);
        }
    }
    let own = |stage| {
        let mine = axes.iter().enumerate().filter(move |(_, axis)| axis.stage == stage);
        mine.map(|(i, _)| i).collect::<BTreeSet<_>>()
    };
    let mut spread: Vec<BTreeSet<usize>> = (0..tables.len()).map(own).collect();
    // Whoever has axes hands them on; a stage that has new ones does so again.
    let mut open: Vec<usize> = (0..tables.len()).filter(|&i| !spread[i].is_empty()).collect();
    while let Some(up) = open.pop() {
        let above = spread[up].clone();
        for &stage in &readers[up] {
            let before = spread[stage].len();
            spread[stage].extend(&above);
            if spread[stage].len() > before {
                open.push(stage);
            }
        }
    }
    spread
}

/// The tables behind the inputs of a table, as far as they can be read, those of ports that take many left out.
fn reads<'a>(
    table: &Value<'a>,
    places: &BTreeMap<&str, usize>,
    vars: &mut Vars<'a>,
    setting: &Setting<'_>,
) -> BTreeSet<usize> {
    let DeValue::Table(keys) = table.get_ref() else { return BTreeSet::new() };
    let kind = keys.get("uses").and_then(|uses| uses.get_ref().as_str());
    let kind = kind.and_then(|uses| setting.kinds.get(uses));
    let many = |port: &str| kind.and_then(|k| k.input(port)).is_some_and(|p| p.many);
    let Some(mut inputs) = keys.get("inputs").cloned() else { return BTreeSet::new() };
    // Whatever is wrong with them is said when they are read for good.
    vars.substitute(&mut inputs, &mut Vec::new());
    let DeValue::Table(inputs) = inputs.get_ref() else { return BTreeSet::new() };
    let stages = inputs.iter().filter(|(port, _)| !many(port.get_ref())).filter_map(|(_, from)| {
        let (stage, _) = from.get_ref().as_str()?.rsplit_once('.')?;
        places.get(stage).copied()
    });
    stages.collect()
}

/// Two axes of one name.
fn clash(axes: &[&Axis<'_>], stage: &str) -> Option<Fault> {
    axes.iter().enumerate().find_map(|(i, axis)| {
        let first = axes[..i].iter().find(|a| a.name == axis.name)?;
        let title = format!("stage `{stage}` would have two axes named `{}`", axis.name);
        let help = "give one of them another name".to_owned();
        let fault = Fault::new(title, axis.at.clone(), "").also(first.at.clone(), "the other");
        Some(fault.help(help))
    })
}

fn too_many(axes: &[&Axis<'_>], stage: &str) -> Option<Fault> {
    let n = axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.points.len()));
    let last = axes.last()?;
    if n.is_some_and(|n| n <= MOST) {
        return None;
    }
    let n = n.map_or_else(|| "countless".to_owned(), |n| n.to_string());
    let title = format!("stage `{stage}` would stand for {n} stages");
    let help = format!("a table may stand for {MOST} at most");
    Some(Fault::new(title, last.at.clone(), "").help(help))
}

type Points<'p, 'a> = Vec<(&'p Axis<'a>, &'p Point<'a>)>;

/// Every choice of one point per axis, the last axis fastest; one empty choice where there is no axis.
fn product<'p, 'a>(axes: &[&'p Axis<'a>]) -> Vec<Points<'p, 'a>> {
    let mut choices: Vec<Points<'p, 'a>> = vec![Vec::new()];
    for &axis in axes {
        let with = |choice: &Points<'p, 'a>| {
            let choice = choice.clone();
            axis.points.iter().map(move |point| {
                let mut longer = choice.clone();
                longer.push((axis, point));
                longer
            })
        };
        choices = choices.iter().flat_map(with).collect();
    }
    choices
}

fn build<'a>(
    stage: usize,
    base: &str,
    at: &Span,
    table: &Value<'a>,
    points: &Points<'_, 'a>,
) -> Variant<'a> {
    let coord = |(axis, point): &(&Axis<'a>, &Point<'a>)| Coord {
        axis: axis.name.clone(),
        label: point.label.clone(),
    };
    let coords: Vec<Coord> = points.iter().map(coord).collect();
    let suffix = words(&coords);
    let name = if suffix.is_empty() { base.to_owned() } else { format!("{base}@{suffix}") };
    let mut table = table.clone();
    for (_, point) in points.iter().filter(|(axis, _)| axis.stage == stage) {
        if let DeValue::Table(keys) = table.get_mut() {
            merge(keys, point.over.clone());
        }
    }
    Variant { name, base: base.to_owned(), coords, at: at.clone(), table }
}

/// `depth=4,width=2`.
pub(super) fn words(coords: &[Coord]) -> String {
    let words: Vec<String> = coords.iter().map(|c| format!("{}={}", c.axis, c.label)).collect();
    words.join(",")
}

/// Whether two stages can stand for the same point: no axis that both have tells them apart.
pub(super) fn agree(a: &[Coord], b: &[Coord]) -> bool {
    a.iter().all(|x| b.iter().all(|y| x.axis != y.axis || x.label == y.label))
}

//! The edges of the graph as a stage's table spells them: `inputs`, `needs` and `expect`, checked against the ports and
//! figures that the kinds declare.

use farthing_base::names::nearest;
use serde::Deserialize;
use toml::de::{DeValue, ValueDeserializer};

use super::fault::{Fault, suggest};
use super::matrix::{Coord, agree, words};
use super::source::Span;
use super::stage::{Header, Headers};
use super::tree::{Value, type_name};
use super::vars::Vars;
use super::{Edge, Expectation, expect_table, strict};
use crate::Port;

/// The three keys, taken out of a stage's table.
pub(super) struct Wanted<'a> {
    pub(super) inputs: Option<Value<'a>>,
    pub(super) needs: Option<Value<'a>>,
    pub(super) expect: Option<Value<'a>>,
}

/// What they say, where it could be resolved.
#[derive(Default)]
pub(super) struct Edges {
    pub(super) inputs: Vec<Edge>,
    pub(super) needs: Vec<usize>,
    pub(super) expect: Vec<Expectation>,
    pub(super) places: Vec<(usize, Span)>,
}

pub(super) fn resolve(
    wanted: &Wanted<'_>,
    header: &Header,
    headers: &Headers,
    vars: &Vars<'_>,
    faults: &mut Vec<Fault>,
) -> Edges {
    let mut edges = Edges::default();
    let given = inputs(wanted.inputs.as_ref(), header, headers, &mut edges, faults);
    missing_ports(&given, wanted.inputs.as_ref(), header, headers, faults);
    needs(wanted.needs.as_ref(), header, headers, &mut edges, faults);
    if let Some(expect) = &wanted.expect {
        edges.expect = expectations(expect, &given, header, headers, vars, faults);
    }
    // Ports in the kind's order, so that neither the file's order nor a merge changes a key; those of one port stay in theirs.
    if let Some(kind) = header.kind {
        let rank = |edge: &Edge| kind.inputs.iter().position(|p| p.name == edge.port.name);
        edges.inputs.sort_by_key(rank);
    }
    edges
}

/// Each connected port's name and the stage behind it, if that is known.
type Given = Vec<(String, Option<usize>)>;

fn inputs(
    table: Option<&Value<'_>>,
    header: &Header,
    headers: &Headers,
    edges: &mut Edges,
    faults: &mut Vec<Fault>,
) -> Given {
    let mut given = Given::new();
    let Some(table) = table.and_then(|t| expect_table(t, "`inputs`", faults)) else { return given };
    for (port, from) in table {
        let name = port.get_ref().to_string();
        let target = target(from, header, headers, faults);
        let behind = target.as_ref().map_or(&[][..], |(behind, _)| behind.as_slice());
        edges.places.extend(behind.iter().map(|index| (*index, from.span())));
        given.push((name.clone(), behind.first().copied()));
        let Some(kind) = header.kind else { continue };
        let Some(wanted) = kind.input(&name) else {
            let help = suggest(&name, kind.inputs.iter().map(|p| p.name), "its inputs");
            let title = format!("stage kind `{}` has no input `{name}`", kind.name);
            let mut fault = Fault::new(title, port.span(), "").help(help);
            if kind.inputs.is_empty() {
                fault = fault.help("it reads nothing".to_owned());
            }
            faults.push(fault);
            continue;
        };
        let Some((behind, out)) = target else { continue };
        if behind.len() > 1 && !wanted.many {
            let names: Vec<&str> = behind.iter().map(|&i| headers[i].name.as_str()).collect();
            let title = format!("input `{name}` takes one stage, and here are several");
            let help = format!("name one of {}", names.join(", "));
            faults.push(Fault::new(title, from.span(), "").help(help));
            continue;
        }
        for (i, index) in behind.into_iter().enumerate() {
            let Some(from_port) = connect(wanted, index, &out, from, header, headers, faults)
            else {
                break;
            };
            // Who can do without what is skipped does.
            if headers[index].skip && (wanted.optional || wanted.many) {
                continue;
            }
            let variant = wanted.many.then(|| (i, apart(&headers[index], header)));
            edges.inputs.push(Edge { port: wanted, from: index, from_port, variant });
        }
    }
    given
}

/// What sets a stage apart among those that a port of `reader` takes: where it stands on the axes that the reader has not.
fn apart(stage: &Header, reader: &Header) -> String {
    let shared = |coord: &&Coord| !reader.coords.iter().any(|c| c.axis == coord.axis);
    let coords: Vec<Coord> = stage.coords.iter().filter(shared).cloned().collect();
    if coords.is_empty() { stage.name.clone() } else { words(&coords) }
}

/// The output port `out` of a stage, if it is there and carries what the input takes.
fn connect(
    wanted: &Port,
    index: usize,
    out: &str,
    from: &Value<'_>,
    header: &Header,
    headers: &[Header],
    faults: &mut Vec<Fault>,
) -> Option<&'static Port> {
    let upstream = &headers[index];
    let up_kind = upstream.kind?;
    let Some(found) = up_kind.output(out) else {
        let help = suggest(out, up_kind.outputs.iter().map(|p| p.name), "its outputs");
        let title = format!("stage `{}` (`{}`) has no output `{out}`", upstream.name, up_kind.name);
        faults.push(Fault::new(title, from.span(), "").help(help));
        return None;
    };
    if found.kind == wanted.kind {
        return Some(found);
    }
    let title = format!(
        "input `{}` of stage `{}` takes {}, and `{}.{out}` is {}",
        wanted.name, header.name, wanted.kind, upstream.name, found.kind
    );
    let mut fault = Fault::new(title, from.span(), format!("this is {}", found.kind));
    if let Some(at) = &upstream.kind_at {
        fault = fault.also(at.clone(), format!("`{}` is made by this kind", upstream.name));
    }
    faults.push(fault.help(who_makes(wanted.kind, header, headers)));
    None
}

/// Ports of this file's other tables that carry a kind.
fn who_makes(kind: &str, reader: &Header, headers: &[Header]) -> Option<String> {
    let mut makers: Vec<String> = headers
        .iter()
        .filter(|h| h.base != reader.base)
        .filter_map(|h| Some((h, h.kind?)))
        .flat_map(|(h, k)| {
            let ports = k.outputs.iter().filter(|p| p.kind == kind);
            ports.map(|p| format!("`{}.{}`", h.base, p.name))
        })
        .collect();
    makers.dedup();
    (!makers.is_empty()).then(|| format!("{kind} in this file: {}", makers.join(", ")))
}

/// The stages that a name means to a reader: the one of that name, or those of that table that stand where the reader
/// stands.
fn instances(name: &str, reader: &Header, headers: &Headers) -> Vec<usize> {
    if let Some(exact) = headers.named(name) {
        return vec![exact];
    }
    let fits = |i: &usize| agree(&headers[*i].coords, &reader.coords);
    headers.of_table(name).iter().copied().filter(fits).collect()
}

/// The names of the file's tables, but for one.
fn others<'h>(headers: &'h [Header], but: &str) -> Vec<&'h str> {
    let mut names: Vec<&str> = headers.iter().map(|h| h.base.as_str()).collect();
    names.dedup();
    names.retain(|name| *name != but);
    names
}

/// The stages and the port that `"stage.port"` names.
fn target(
    from: &Value<'_>,
    header: &Header,
    headers: &Headers,
    faults: &mut Vec<Fault>,
) -> Option<(Vec<usize>, String)> {
    let example = "write `PORT = \"STAGE.PORT\"`".to_owned();
    let DeValue::String(text) = from.get_ref() else {
        let title = format!("an input is {}", type_name(from.get_ref()));
        faults.push(Fault::new(title, from.span(), "expected a string").help(example));
        return None;
    };
    let Some((stage, port)) = text.rsplit_once('.') else {
        let title = format!("`{text}` names no output port");
        let known = headers.iter().find(|h| h.base == **text).and_then(|h| h.kind);
        let ports = known.map(|k| k.outputs).unwrap_or_default();
        let help = match ports.first() {
            Some(port) => format!("did you mean `{text}.{}`?", port.name),
            None => example,
        };
        faults.push(Fault::new(title, from.span(), "").help(help));
        return None;
    };
    let behind = instances(stage, header, headers);
    if behind.is_empty() {
        let help = suggest(stage, others(headers, &header.base), "stages of this file");
        let title = format!("no stage named `{stage}`");
        let label = format!("read by stage `{}`", header.name);
        faults.push(Fault::new(title, from.span(), label).help(help));
        return None;
    }
    Some((behind, port.to_owned()))
}

fn missing_ports(
    given: &Given,
    inputs: Option<&Value<'_>>,
    header: &Header,
    headers: &[Header],
    faults: &mut Vec<Fault>,
) {
    let Some(kind) = header.kind else { return };
    let absent = |name: &str| !given.iter().any(|(g, _)| nearest(g, [name]).is_some());
    for port in kind.inputs.iter().filter(|p| !p.optional && absent(p.name)) {
        let title =
            format!("stage `{}` lacks the input `{}` ({})", header.name, port.name, port.kind);
        let at = inputs.map_or_else(|| header.at.clone(), toml::Spanned::span);
        let help = format!("add `{} = \"STAGE.PORT\"` to its `inputs`", port.name);
        faults
            .push(Fault::new(title, at, "").help(help).help(who_makes(port.kind, header, headers)));
    }
}

fn needs(
    value: Option<&Value<'_>>,
    header: &Header,
    headers: &Headers,
    edges: &mut Edges,
    faults: &mut Vec<Fault>,
) {
    let Some(value) = value else { return };
    let DeValue::Array(list) = value.get_ref() else {
        let title = format!("`needs` is {}", type_name(value.get_ref()));
        let help = "write `needs = [\"STAGE\"]`".to_owned();
        faults.push(Fault::new(title, value.span(), "expected an array of stages").help(help));
        return;
    };
    for entry in list {
        let Some(name) = entry.get_ref().as_str() else {
            let title = format!("an entry of `needs` is {}", type_name(entry.get_ref()));
            faults.push(Fault::new(title, entry.span(), "expected the name of a stage"));
            continue;
        };
        let behind = instances(name, header, headers);
        if behind.is_empty() {
            let help = suggest(name, others(headers, &header.base), "stages of this file");
            faults
                .push(Fault::new(format!("no stage named `{name}`"), entry.span(), "").help(help));
            continue;
        }
        if behind.iter().any(|index| edges.needs.contains(index)) {
            faults.push(Fault::new(format!("`{name}` stands twice in `needs`"), entry.span(), ""));
            continue;
        }
        edges.places.extend(behind.iter().map(|&index| (index, entry.span())));
        edges.needs.extend(behind);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bound {
    min: Option<f64>,
    max: Option<f64>,
}

fn expectations(
    value: &Value<'_>,
    given: &Given,
    header: &Header,
    headers: &[Header],
    vars: &Vars<'_>,
    faults: &mut Vec<Fault>,
) -> Vec<Expectation> {
    let Some(table) = expect_table(value, "`expect`", faults) else { return Vec::new() };
    let mut list = Vec::new();
    for (key, bound) in table {
        let name = key.get_ref();
        let Some((port, figure)) = name.split_once('.') else {
            let title = format!("`{name}` names no figure");
            let help = "write `\"PORT.FIGURE\" = { min = 0.5 }`, with the quotes".to_owned();
            faults.push(Fault::new(title, key.span(), "").help(help));
            continue;
        };
        let Some((_, upstream)) = given.iter().find(|(g, _)| g == port) else {
            let names = given.iter().map(|(g, _)| g.as_str());
            let help = suggest(port, names, "its inputs");
            let title =
                format!("stage `{}` has no input `{port}` to expect anything of", header.name);
            faults.push(Fault::new(title, key.span(), "").help(help));
            continue;
        };
        let figures = upstream.and_then(|i| headers[i].kind).map_or(&[][..], |k| k.figures);
        if !figures.is_empty() && !figures.contains(&figure) {
            let help = suggest(figure, figures.iter().copied(), "its figures");
            let title = format!("what is behind input `{port}` gives no figure `{figure}`");
            faults.push(Fault::new(title, key.span(), "").help(help));
            continue;
        }
        let read = |v: Value<'_>| Bound::deserialize(ValueDeserializer::from(v)).map(drop);
        let found = strict::faults(read, bound, "`expect`", vars);
        if !found.is_empty() {
            faults.extend(found);
            continue;
        }
        let Ok(Bound { min, max }) = Bound::deserialize(ValueDeserializer::from(bound.clone()))
        else {
            continue;
        };
        if min.is_none() && max.is_none() || min > max && max.is_some() {
            let title = format!("nothing can meet or miss the bound on `{name}`");
            let help = "give `min`, `max` or both, `min` not above `max`".to_owned();
            faults.push(Fault::new(title, bound.span(), "").help(help));
            continue;
        }
        list.push(Expectation { port: port.to_owned(), figure: figure.to_owned(), min, max });
    }
    list
}

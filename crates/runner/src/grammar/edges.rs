//! The edges of the graph as a stage's table spells them: `inputs`, `needs` and `expect`, checked against the ports and
//! figures that the kinds declare.

use serde::Deserialize;
use toml::de::{DeValue, ValueDeserializer};

use super::fault::{Fault, suggest};
use super::source::Span;
use super::stage::Header;
use super::tree::{Value, type_name};
use super::vars::Vars;
use super::{Edge, Expectation, expect_table, strict};

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
    headers: &[Header],
    vars: &Vars<'_>,
    faults: &mut Vec<Fault>,
) -> Edges {
    let mut edges = Edges::default();
    let given = inputs(wanted.inputs.as_ref(), header, headers, &mut edges, faults);
    missing_ports(&given, wanted.inputs.as_ref(), header, headers, faults);
    needs(wanted.needs.as_ref(), headers, &mut edges, faults);
    if let Some(expect) = &wanted.expect {
        edges.expect = expectations(expect, &given, header, headers, vars, faults);
    }
    // Ports in the kind's order, so that neither the file's order nor a merge changes a key.
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
    headers: &[Header],
    edges: &mut Edges,
    faults: &mut Vec<Fault>,
) -> Given {
    let mut given = Given::new();
    let Some(table) = table.and_then(|t| expect_table(t, "`inputs`", faults)) else { return given };
    for (port, from) in table {
        let name = port.get_ref().to_string();
        let target = target(from, header, headers, faults);
        edges.places.extend(target.as_ref().map(|(index, _)| (*index, from.span())));
        given.push((name.clone(), target.as_ref().map(|(index, _)| *index)));
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
        let Some((index, out)) = target else { continue };
        let upstream = &headers[index];
        let Some(up_kind) = upstream.kind else { continue };
        let Some(found) = up_kind.output(&out) else {
            let help = suggest(&out, up_kind.outputs.iter().map(|p| p.name), "its outputs");
            let title =
                format!("stage `{}` (`{}`) has no output `{out}`", upstream.name, up_kind.name);
            faults.push(Fault::new(title, from.span(), "").help(help));
            continue;
        };
        if found.kind != wanted.kind {
            let title = format!(
                "input `{name}` of stage `{}` takes {}, and `{}.{out}` is {}",
                header.name, wanted.kind, upstream.name, found.kind
            );
            let mut fault = Fault::new(title, from.span(), format!("this is {}", found.kind));
            if let Some(at) = &upstream.kind_at {
                fault = fault.also(at.clone(), format!("`{}` is made by this kind", upstream.name));
            }
            faults.push(fault.help(who_makes(wanted.kind, headers)));
            continue;
        }
        edges.inputs.push(Edge { port: wanted, from: index, from_port: found });
    }
    given
}

/// Ports of this file that carry a kind.
fn who_makes(kind: &str, headers: &[Header]) -> Option<String> {
    let makers: Vec<String> = headers
        .iter()
        .filter_map(|h| Some((h, h.kind?)))
        .flat_map(|(h, k)| {
            let ports = k.outputs.iter().filter(|p| p.kind == kind);
            ports.map(|p| format!("`{}.{}`", h.name, p.name))
        })
        .collect();
    (!makers.is_empty()).then(|| format!("{kind} in this file: {}", makers.join(", ")))
}

/// The stage and port that `"stage.port"` names.
fn target(
    from: &Value<'_>,
    header: &Header,
    headers: &[Header],
    faults: &mut Vec<Fault>,
) -> Option<(usize, String)> {
    let example = "write `PORT = \"STAGE.PORT\"`".to_owned();
    let DeValue::String(text) = from.get_ref() else {
        let title = format!("an input is {}", type_name(from.get_ref()));
        faults.push(Fault::new(title, from.span(), "expected a string").help(example));
        return None;
    };
    let Some((stage, port)) = text.rsplit_once('.') else {
        let title = format!("`{text}` names no output port");
        let known = headers.iter().find(|h| h.name == **text).and_then(|h| h.kind);
        let ports = known.map(|k| k.outputs).unwrap_or_default();
        let help = match ports.first() {
            Some(port) => format!("did you mean `{text}.{}`?", port.name),
            None => example,
        };
        faults.push(Fault::new(title, from.span(), "").help(help));
        return None;
    };
    let Some(index) = headers.iter().position(|h| h.name == stage) else {
        let others = headers.iter().filter(|h| h.name != header.name).map(|h| h.name.as_str());
        let help = suggest(stage, others, "stages of this file");
        let title = format!("no stage named `{stage}`");
        let label = format!("read by stage `{}`", header.name);
        faults.push(Fault::new(title, from.span(), label).help(help));
        return None;
    };
    Some((index, port.to_owned()))
}

fn missing_ports(
    given: &Given,
    inputs: Option<&Value<'_>>,
    header: &Header,
    headers: &[Header],
    faults: &mut Vec<Fault>,
) {
    let Some(kind) = header.kind else { return };
    let absent = |name: &str| {
        !given.iter().any(|(g, _)| g == name || strsim::damerau_levenshtein(g, name) <= 1)
    };
    for port in kind.inputs.iter().filter(|p| !p.optional && absent(p.name)) {
        let title =
            format!("stage `{}` lacks the input `{}` ({})", header.name, port.name, port.kind);
        let at = inputs.map_or_else(|| header.at.clone(), toml::Spanned::span);
        let help = format!("add `{} = \"STAGE.PORT\"` to its `inputs`", port.name);
        faults.push(Fault::new(title, at, "").help(help).help(who_makes(port.kind, headers)));
    }
}

fn needs(
    value: Option<&Value<'_>>,
    headers: &[Header],
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
        let Some(index) = headers.iter().position(|h| h.name == name) else {
            let names = headers.iter().map(|h| h.name.as_str());
            let help = suggest(name, names, "stages of this file");
            faults
                .push(Fault::new(format!("no stage named `{name}`"), entry.span(), "").help(help));
            continue;
        };
        if edges.needs.contains(&index) {
            faults.push(Fault::new(format!("`{name}` stands twice in `needs`"), entry.span(), ""));
            continue;
        }
        edges.needs.push(index);
        edges.places.push((index, entry.span()));
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

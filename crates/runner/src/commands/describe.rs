//! `runner describe KIND`: every key of a kind of stage, from the types that read it and their doc comments.

use std::fmt::Write;

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::kind::Kind;
use crate::plan_screen::{listed, ports};
use crate::resources::ResourcesTable;
use crate::table::{Table, wrapped};

/// A key as a reader wants it.
struct Key {
    /// Dotted; a name that the file chooses is `NAME`.
    name: String,
    kind: String,
    default: String,
    unit: &'static str,
    about: String,
}

/// The whole screen.
pub(super) fn kind(kind: &Kind) -> String {
    let mut generator = SchemaGenerator::default();
    let config = (kind.config_schema)(&mut generator).to_value();
    let exec = (kind.exec_schema)(&mut generator).to_value();
    let resources = ResourcesTable::json_schema(&mut generator).to_value();
    let definitions = Value::Object(generator.take_definitions(true));
    let mut out = format!("{}: {}\n", kind.name, kind.about);
    let mut table = Table::default();
    ports(&mut table, "in", kind.inputs);
    ports(&mut table, "out", kind.outputs);
    for line in table.lines(2) {
        let _ = writeln!(out, "{line}");
    }
    listed(&mut out, "figures", kind.figures);
    section(&mut out, "keys of its own, which decide what is made", &keys(&config, &definitions));
    section(
        &mut out,
        "`exec`: how it is made, which changes no result",
        &keys(&exec, &definitions),
    );
    if kind.computes {
        let keys = keys(&resources, &definitions);
        section(&mut out, "`resources`: where it computes", &keys);
    }
    out
}

/// Keys under a heading, each with a line of facts and a sentence.
fn section(out: &mut String, heading: &str, keys: &[Key]) {
    if keys.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{heading}");
    let width = keys.iter().map(|key| key.name.chars().count()).max().unwrap_or(0);
    for Key { name, kind, default, unit, about } in keys {
        let facts = [kind.as_str(), default, unit].into_iter().filter(|fact| !fact.is_empty());
        let _ = writeln!(out, "  {name:width$}  {}", facts.collect::<Vec<_>>().join(", "));
        for line in wrapped(about, 92) {
            let _ = writeln!(out, "      {line}");
        }
    }
}

/// The keys of a table, those of tables inside it behind it.
fn keys(table: &Value, definitions: &Value) -> Vec<Key> {
    let mut found = Vec::new();
    walk(table, definitions, "", 0, &mut found);
    found
}

/// Tables deeper than this are no settings.
const MOST_DEPTH: usize = 6;

fn walk(table: &Value, definitions: &Value, above: &str, depth: usize, found: &mut Vec<Key>) {
    let table = &resolved(table, definitions);
    let nothing = Map::new();
    let properties = table["properties"].as_object().unwrap_or(&nothing);
    let required = |name: &str| {
        table["required"].as_array().is_some_and(|list| list.iter().any(|key| key == name))
    };
    for (name, schema) in properties {
        let inner = &resolved(schema, definitions);
        let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        let is_table = inner["properties"].is_object();
        let tables = Some(&inner["additionalProperties"]).filter(|inner| inner.is_object());
        let given = schema.get("default").or_else(|| inner.get("default"));
        let default = match given {
            _ if required(name) => "required".to_owned(),
            _ if is_table || tables.is_some() => String::new(),
            Some(Value::Null) | None => "optional".to_owned(),
            Some(value) => format!("default {}", toml(value)),
        };
        let about = schema["description"].as_str().or_else(|| inner["description"].as_str());
        found.push(Key {
            kind: words(schema, definitions),
            default,
            unit: unit(name),
            about: sentence(about.unwrap_or_default()),
            name: path.clone(),
        });
        if depth < MOST_DEPTH {
            if is_table {
                walk(inner, definitions, &path, depth + 1, found);
            } else if let Some(each) = tables {
                walk(each, definitions, &format!("{path}.NAME"), depth + 1, found);
            }
        }
    }
}

/// A schema behind its reference, and without the null that an absent key is; descriptions of the outside stay.
fn resolved(schema: &Value, definitions: &Value) -> Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return resolved(&definitions[name], definitions);
    }
    let some = |list: &Value| {
        let list = list.as_array()?;
        let mut rest = list.iter().filter(|one| one["type"] != "null");
        let first = rest.next()?;
        rest.next().is_none().then(|| resolved(first, definitions))
    };
    some(&schema["anyOf"]).or_else(|| some(&schema["allOf"])).unwrap_or_else(|| schema.clone())
}

/// A type in words that are nobody's programming language.
fn words(schema: &Value, definitions: &Value) -> String {
    let schema = &resolved(schema, definitions);
    let choices = |list: &Value| {
        let each = list.as_array()?.iter().map(|one| one["const"].as_str().map(str::to_owned));
        each.collect::<Option<Vec<String>>>()
    };
    let listed = schema["enum"]
        .as_array()
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>());
    let mixed = schema["oneOf"].as_array().map(|list| {
        let each = list.iter().flat_map(|one| {
            let names = one["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
            names.chain(one["const"].as_str()).map(str::to_owned).collect::<Vec<_>>()
        });
        each.collect::<Vec<_>>()
    });
    if let Some(names) = choices(&schema["oneOf"]).or(listed).or(mixed) {
        let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        return names.join(" or ");
    }
    if let Some(list) = schema["anyOf"].as_array() {
        let each: Vec<String> = list
            .iter()
            .filter(|one| one["type"] != "null")
            .map(|one| words(one, definitions))
            .collect();
        return each.join(" or ");
    }
    let one = match &schema["type"] {
        Value::Array(list) => list.iter().find(|t| *t != "null").and_then(Value::as_str),
        other => other.as_str(),
    };
    match one {
        Some("integer") => "whole number".to_owned(),
        Some("number") => "number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("string") => "text".to_owned(),
        Some("array") => {
            let items = &schema["items"];
            let n = schema["minItems"].as_u64().filter(|n| schema["maxItems"] == *n);
            let n = n.map_or_else(String::new, |n| format!("{n} "));
            format!("list of {n}{}", plural(&words(items, definitions)))
        }
        Some("object") if schema["properties"].is_object() => "table".to_owned(),
        Some("object") => "tables by name".to_owned(),
        _ => "any value".to_owned(),
    }
}

fn plural(words: &str) -> String {
    match words {
        "text" => "texts".to_owned(),
        "table" => "tables".to_owned(),
        words if words.ends_with("number") => format!("{words}s"),
        other => other.to_owned(),
    }
}

/// A value as a file writes it.
fn toml(value: &Value) -> String {
    match value {
        Value::Number(n) => {
            let whole = n.as_u64().map(|n| crate::progress::format::count(n).replace(',', "_"));
            whole.or_else(|| Some(n.as_f64()?.to_string())).unwrap_or_else(|| n.to_string())
        }
        other => other.to_string(),
    }
}

/// What names of numbers end in, and what they count.
const UNITS: [(&str, &str); 11] = [
    ("s", "seconds"),
    ("bytes", "bytes"),
    ("tokens", "tokens"),
    ("steps", "steps"),
    ("rows", "rows"),
    ("chars", "characters"),
    ("documents", "documents"),
    ("frac", "a share of 1"),
    ("fraction", "a share of 1"),
    ("layers", "layers"),
    ("shard", "documents"),
];

/// What a number counts, by its name.
fn unit(name: &str) -> &'static str {
    let ends = |end: &str| name == end || name.ends_with(&format!("_{end}"));
    UNITS.iter().find(|(end, _)| ends(end)).map_or("", |(_, unit)| unit)
}

/// The first sentence of a doc comment, without the links of a programmer's page.
fn sentence(about: &str) -> String {
    let text = about.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let text = without_links(&text);
    let mut ends = text.match_indices(". ").map(|(at, _)| at);
    let end = ends.find(|&at| {
        let next = text[at + 2..].chars().next();
        next.is_some_and(|c| c.is_uppercase() || c == '`')
    });
    text[..end.map_or(text.len(), |at| at + 1)].trim().to_owned()
}

/// `[words](target)` and ``[`Name`]`` as words.
fn without_links(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let (before, inside) = rest.split_at(open);
        out.push_str(before);
        let inside = &inside[1..];
        let Some(close) = inside.find(']') else {
            rest = &rest[open..];
            break;
        };
        let (words, after) = (&inside[..close], &inside[close + 1..]);
        let target = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        match target {
            Some((_, after)) => {
                out.push_str(words);
                rest = after;
            }
            None if words.starts_with('`') => {
                out.push_str(words);
                rest = after;
            }
            None => {
                out.push('[');
                rest = inside;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_for_people() {
        for (doc, said) in [
            ("As [`Group::lr`](crate::Group::lr). More.", "As `Group::lr`."),
            ("Where it starts ([1, 1] in January). Then", "Where it starts ([1, 1] in January)."),
            ("T. It is\nthe rows'.\n\n# Errors\nNone.", "T."),
            ("0.5 is half", "0.5 is half"),
        ] {
            assert_eq!(sentence(doc), said);
        }
    }
}

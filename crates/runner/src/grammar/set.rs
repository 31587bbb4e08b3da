//! `--set train.model.depth=20`: a fragment of TOML laid over the file. The value is read as TOML; a bare word that is
//! no TOML value is a string.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, suggest};
use super::source::{Source, Span};
use super::tree::{Value, merge, shift_table};

/// Lays one `--set` over the document.
pub(crate) fn apply<'a>(root: &mut DeTable<'a>, source: &'a Source, faults: &mut Vec<Fault>) {
    match read(source) {
        Ok(fragment) => {
            if let Some(fragment) = address(root, fragment, faults) {
                merge(root, fragment);
            }
        }
        Err(fault) => faults.push(*fault),
    }
}

/// The fragment as a table, spans shifted to its source.
fn read(source: &Source) -> Result<DeTable<'_>, Box<Fault>> {
    let text = source.text.as_str();
    let whole = source.base..source.base + text.len();
    let fault = |title: String, span: Span| {
        let example = "write `--set STAGE.KEY=VALUE`, as in `--set train.model.depth=20`";
        Box::new(Fault::new(title, span, "").help(example.to_owned()))
    };
    let Some(equals) = text.find('=') else {
        return Err(fault(format!("`--set {text}` has no `=`"), whole));
    };
    if let Ok(table) = DeTable::parse(text) {
        return Ok(shift_table(table.into_inner(), source.base));
    }
    let key = text[..equals].trim();
    let word = text[equals + 1..].trim();
    // `key = 0` in place of the whole, to learn whether the key or the value is at fault.
    let probe = format!("{} = 0", &text[..equals]);
    let Ok(probe) = DeTable::parse(&probe).map(Spanned::into_inner) else {
        return Err(fault(
            format!("`{key}` is not a dotted key"),
            whole.start..whole.start + equals,
        ));
    };
    let at = source.base + text.len() - text[equals + 1..].trim_start().len();
    let span = at..at + word.len();
    if word.is_empty() || word.starts_with(['"', '\'', '[', '{']) || word.contains('\n') {
        let message = DeValue::parse(word).err().map(|e| format!(": {}", e.message()));
        let title = format!("the value of `--set` is not TOML{}", message.unwrap_or_default());
        return Err(fault(title, span));
    }
    let value = Spanned::new(span, DeValue::String(word.to_owned().into()));
    Ok(along(&probe, value, source.base))
}

/// A table with one value, under the same keys as the probe's 0.
fn along<'a>(probe: &DeTable<'_>, value: Value<'a>, base: usize) -> DeTable<'a> {
    let Some((key, inner)) = probe.iter().next() else { return DeTable::new() };
    let span = key.span().start + base..key.span().end + base;
    let value = match inner.get_ref() {
        DeValue::Table(inner) => {
            Spanned::new(span.clone(), DeValue::Table(along(inner, value, base)))
        }
        _ => value,
    };
    DeTable::from_iter([(Spanned::new(span, key.get_ref().to_string().into()), value)])
}

/// Checks that the fragment speaks of something in the file, and puts a stage's keys under `stage`.
fn address<'a>(
    root: &DeTable<'a>,
    fragment: DeTable<'a>,
    faults: &mut Vec<Fault>,
) -> Option<DeTable<'a>> {
    let table_of = |name: &str| match root.get(name).map(Spanned::get_ref) {
        Some(DeValue::Table(table)) => Some(table),
        _ => None,
    };
    let mut out = DeTable::new();
    for (key, value) in fragment {
        let name = key.get_ref().to_string();
        if !value.get_ref().is_table() {
            let title = format!("`--set {name}=…` names no key");
            let help = format!("write `--set {name}.KEY=VALUE`");
            faults.push(Fault::new(title, key.span(), "").help(help));
            return None;
        }
        if name == "vars" {
            let known = table_of("vars");
            if let DeValue::Table(table) = value.get_ref() {
                for var in table.keys() {
                    if !known.is_some_and(|t| t.contains_key(var.get_ref().as_ref())) {
                        let names = known.into_iter().flat_map(DeTable::keys);
                        let help = suggest(
                            var.get_ref(),
                            names.map(|k| &**k.get_ref()),
                            "vars of this file",
                        );
                        let title = format!("no var named `{}`", var.get_ref());
                        faults.push(Fault::new(title, var.span(), "not in `[vars]`").help(help));
                        return None;
                    }
                }
            }
            out.insert(key, value);
        } else if name == "pipeline" {
            out.insert(key, value);
        } else {
            let known = table_of("stage");
            if !known.is_some_and(|t| t.contains_key(name.as_str())) {
                let names = known.into_iter().flat_map(DeTable::keys).map(|k| &**k.get_ref());
                let help = suggest(&name, names.chain(["vars", "pipeline"]), "stages of this file");
                let title = format!("no stage named `{name}`");
                faults.push(Fault::new(title, key.span(), "set here").help(help));
                return None;
            }
            let span = key.span();
            let inner = DeTable::from_iter([(key, value)]);
            let stage = Spanned::new(span.clone(), "stage".into());
            out.insert(stage, Spanned::new(span, DeValue::Table(inner)));
        }
    }
    Some(out)
}

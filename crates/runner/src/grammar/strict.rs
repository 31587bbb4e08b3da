//! Reading a table into a strict struct and finding every fault in it. Serde stops at the first; so each time the entry
//! to blame is taken out and the rest is read again.

use farthing_base::names::nearest;
use toml::Spanned;
use toml::de::{DeValue, Error};

use super::fault::{Fault, suggest};
use super::tree::{Value, remove_at};
use super::vars::Vars;

/// More faults than anyone reads, so that the search ends.
const MOST: usize = 40;

/// Every fault that `read` finds in a table; none if it reads. `owner` says whose table it is.
pub(crate) fn faults(
    read: fn(Value<'_>) -> Result<(), Error>,
    table: &Value<'_>,
    owner: &str,
    vars: &Vars<'_>,
) -> Vec<Fault> {
    let mut table = table.clone();
    let mut found = Vec::new();
    // Keys whose absence is no news: taken out above, or misspelt.
    let mut forgiven: Vec<String> = Vec::new();
    while found.len() < MOST {
        let Err(error) = read(table.clone()) else { break };
        let span = error.span().unwrap_or_else(|| table.span());
        let names = quoted(error.message());
        let missing = error.message().starts_with("missing field");
        if !(missing && names.first().is_some_and(|name| forgiven.iter().any(|f| f == name))) {
            found.push(describe(error.message(), &names, &span, &table, owner, vars));
        }
        let Some(removed) = remove_at(&mut table, &span) else { break };
        if error.message().starts_with("unknown field") {
            let meant = nearest(&removed, names.iter().skip(1).copied());
            forgiven.extend(meant.map(str::to_owned));
        }
        forgiven.push(removed);
    }
    found
}

/// The words between backticks.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

fn describe(
    message: &str,
    names: &[&str],
    span: &std::ops::Range<usize>,
    table: &Value<'_>,
    owner: &str,
    vars: &Vars<'_>,
) -> Fault {
    let (given, known) = names.split_first().unwrap_or((&"", &[]));
    let choices = || suggest(given, known.iter().copied(), "known here");
    let fault = if message.starts_with("unknown field") {
        Fault::new(format!("unknown key `{given}`"), span.clone(), format!("in {owner}"))
            .help(choices())
    } else if message.starts_with("unknown variant") {
        let title = format!("unknown value `{given}`");
        Fault::new(title, span.clone(), format!("in {owner}")).help(choices())
    } else if message.starts_with("missing field") {
        let at = header(span, table);
        Fault::new(format!("the key `{given}` is missing"), at, format!("in {owner}"))
            .help(format!("add `{given} = …`"))
    } else {
        Fault::new(message.to_owned(), span.clone(), format!("in {owner}"))
    };
    match vars.origin(span) {
        Some((name, set)) => fault.also(set, format!("`${{{name}}}` is set here")),
        None => fault,
    }
}

/// For a key that is not there: the header of its table, or the place that serde blames.
fn header(span: &std::ops::Range<usize>, table: &Value<'_>) -> std::ops::Range<usize> {
    fn search(value: &Value<'_>, span: &std::ops::Range<usize>) -> Option<std::ops::Range<usize>> {
        let DeValue::Table(table) = value.get_ref() else { return None };
        table.iter().find_map(|(key, value): (&Spanned<_>, _)| {
            if value.span() == *span { Some(key.span()) } else { search(value, span) }
        })
    }
    search(table, span).unwrap_or_else(|| span.clone())
}

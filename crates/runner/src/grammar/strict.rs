//! Reads a table into a strict struct and finds every fault in it. Serde stops at the first one; so we take out the entry that caused it and read the rest again.

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
        Fault::new(plain(message), span.clone(), format!("in {owner}"))
    };
    match vars.origin(span) {
        Some((name, set)) => fault.also(set, format!("`${{{name}}}` is set here")),
        None => fault,
    }
}

/// What serde says of a value of the wrong type, in words that are nobody's programming language.
fn plain(message: &str) -> String {
    let parts = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "));
    let Some((given, wanted)) = parts.and_then(|parts| parts.split_once(", expected ")) else {
        return message.to_owned();
    };
    let whole = |name: &str| {
        let bits = name.strip_prefix(['u', 'i']).unwrap_or_default();
        bits == "size" || bits.parse::<u8>().is_ok()
    };
    let wanted = match wanted {
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "string" | "path string" => "text in quotes".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        name if name.starts_with("struct ") => "a table".to_owned(),
        name if name.starts_with("a nonzero ") => "a whole number, 1 or above".to_owned(),
        name if whole(name) && name.starts_with('u') => "a whole number, 0 or above".to_owned(),
        name if whole(name) => "a whole number".to_owned(),
        other => other.to_owned(),
    };
    let given = match given.split_once(' ') {
        Some(("integer" | "boolean" | "string", value)) => value.to_owned(),
        Some(("floating", value)) => value.trim_start_matches("point ").to_owned(),
        _ if given == "sequence" => "a list".to_owned(),
        _ if given == "map" => "a table".to_owned(),
        _ => given.to_owned(),
    };
    format!("expected {wanted}, got {given}")
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

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn types_are_said_in_plain_words() {
        for (message, said) in [
            (
                "invalid type: string \"x\", expected usize",
                "expected a whole number, 0 or above, got \"x\"",
            ),
            (
                "invalid value: integer `-3`, expected u64",
                "expected a whole number, 0 or above, got `-3`",
            ),
            (
                "invalid value: integer `0`, expected a nonzero usize",
                "expected a whole number, 1 or above, got `0`",
            ),
            (
                "invalid type: floating point `1.5`, expected i64",
                "expected a whole number, got `1.5`",
            ),
            ("invalid type: integer `3`, expected a sequence", "expected a list, got `3`"),
            ("invalid type: map, expected f64", "expected a number, got a table"),
            (
                "invalid type: boolean `true`, expected struct ModelConfig",
                "expected a table, got `true`",
            ),
            ("a price is wanted", "a price is wanted"),
        ] {
            assert_eq!(plain(message), said);
        }
    }
}

//! Operations on parsed TOML that keep each value's place: shifting, merging, looking up.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::source::Span;

/// A value and where it stands.
pub(crate) type Value<'a> = Spanned<DeValue<'a>>;

/// Moves every span by a source's base.
pub(crate) fn shift(value: Value<'_>, by: usize) -> Value<'_> {
    let moved = |span: Span| span.start + by..span.end + by;
    let span = moved(value.span());
    let inner = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(shift_table(table, by)),
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(|v| shift(v, by)).collect()),
        other => other,
    };
    Spanned::new(span, inner)
}

/// Moves every span of a table.
pub(crate) fn shift_table(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    let shift_key = |key: Spanned<DeString<'_>>| {
        let span = key.span();
        (span.start + by..span.end + by, key.into_inner().into_owned())
    };
    table
        .into_iter()
        .map(|(key, value)| {
            let (span, key) = shift_key(key);
            (Spanned::new(span, DeString::from(key)), shift(value, by))
        })
        .collect()
}

/// Lays `over` on `base`: tables merge key by key, everything else replaces.
pub(crate) fn merge<'a>(base: &mut DeTable<'a>, over: DeTable<'a>) {
    for (key, value) in over {
        let below = base.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut);
        match (below, value) {
            (Some(DeValue::Table(below)), value) if value.get_ref().is_table() => {
                if let DeValue::Table(value) = value.into_inner() {
                    merge(below, value);
                }
            }
            (_, value) => {
                base.remove(key.get_ref().as_ref());
                base.insert(key, value);
            }
        }
    }
}

/// The place of a dotted key, or of the deepest table on the way to it.
pub(crate) fn find(root: &Value<'_>, dotted: &str) -> Option<Span> {
    let mut at = root;
    let mut place = None;
    for name in dotted.split('.') {
        let DeValue::Table(table) = at.get_ref() else { break };
        let Some((key, value)) = table.get_key_value(name) else { break };
        place = Some(if value.get_ref().is_table() { key.span() } else { value.span() });
        at = value;
    }
    place
}

/// Puts another value where one stands that `new` has one for; whether there was such a one.
pub(crate) fn replace_at<'a>(
    value: &mut Value<'a>,
    span: &Span,
    new: &impl Fn(&DeValue<'a>) -> Option<DeValue<'a>>,
) -> bool {
    if value.span() == *span
        && let Some(new) = new(value.get_ref())
    {
        *value.get_mut() = new;
        return true;
    }
    match value.get_mut() {
        DeValue::Table(table) => table.iter_mut().any(|(_, inner)| replace_at(inner, span, new)),
        DeValue::Array(array) => array.iter_mut().any(|inner| replace_at(inner, span, new)),
        _ => false,
    }
}

/// Removes the innermost entry that a span blames (its key, or its value or a part of that) and returns its name.
pub(crate) fn remove_at(value: &mut Value<'_>, span: &Span) -> Option<String> {
    let DeValue::Table(table) = value.get_mut() else { return None };
    let within = |outer: &Span| outer.start <= span.start && span.end <= outer.end;
    for (_, inner) in table.iter_mut() {
        if let Some(name) = remove_at(inner, span) {
            return Some(name);
        }
    }
    let (key, _) = table.iter().find(|(k, v)| within(&k.span()) || within(&v.span()))?;
    let name = key.get_ref().to_string();
    table.remove(name.as_str());
    Some(name)
}

/// A value in one line of TOML, numbers as they are written.
pub(crate) fn written(value: &DeValue<'_>) -> String {
    let mut line = String::new();
    write(value, &mut line);
    line
}

fn write(value: &DeValue<'_>, line: &mut String) {
    let text = |text: &str| {
        // What JSON leaves as it is and TOML does not.
        serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
    };
    match value {
        DeValue::String(given) => *line += &text(given),
        DeValue::Integer(given) => {
            *line += match given.radix() {
                2 => "0b",
                8 => "0o",
                16 => "0x",
                _ => "",
            };
            *line += given.as_str();
        }
        DeValue::Float(given) => *line += given.as_str(),
        DeValue::Boolean(given) => *line += if *given { "true" } else { "false" },
        DeValue::Datetime(given) => *line += &given.to_string(),
        DeValue::Array(list) => {
            line.push('[');
            for (i, item) in list.iter().enumerate() {
                *line += if i == 0 { "" } else { ", " };
                write(item.get_ref(), line);
            }
            line.push(']');
        }
        DeValue::Table(table) => {
            line.push('{');
            for (i, (key, value)) in table.iter().enumerate() {
                *line += if i == 0 { "" } else { ", " };
                *line += &text(key.get_ref());
                *line += " = ";
                write(value.get_ref(), line);
            }
            line.push('}');
        }
    }
}

/// A name of the value's type with its article.
pub(crate) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Every float of a value that is not finite: JSON, and so the cache key, could not tell them apart.
pub(crate) fn non_finite(value: &Value<'_>, found: &mut Vec<Span>) {
    match value.get_ref() {
        DeValue::Float(x) if !x.as_str().parse::<f64>().is_ok_and(f64::is_finite) => {
            found.push(value.span());
        }
        DeValue::Table(table) => table.values().for_each(|v| non_finite(v, found)),
        DeValue::Array(array) => array.iter().for_each(|v| non_finite(v, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let text = "a = 'x\"\\'\nb.c = [0x1F, -3, 1_000, 0b101]\n\"d e\" = 1e-3\nf = 1979-05-27T07:32:00Z\n\
                    g = [{h = true}, {}]\ni = \"\\u0000\\t\\u007F\\nä\"\nj = -0.0\nk = +1.5E+2\n";
        let table = DeTable::parse(text).unwrap().into_inner();
        let line = format!("t = {}", written(&DeValue::Table(table)));
        assert_eq!(line.lines().count(), 1);
        let again: toml::Table = line.parse().unwrap();
        assert_eq!(again["t"], toml::Value::Table(text.parse().unwrap()));
    }
}

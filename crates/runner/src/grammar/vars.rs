//! `${name}` and `${env:NAME}`. If a string consists of nothing else, it is replaced by the variable's value, with its type; inside a longer string, the value's text is inserted. `$${` stands for
//! `${`. A replaced value keeps the place where it is used, and remembers where the variable was set, and its text in case a string is wanted there.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, suggest};
use super::source::Span;
use super::tree::{Value, replace_at, type_name};

/// The vars of a file, and where they were used.
pub(crate) struct Vars<'a> {
    table: DeTable<'a>,
    environment: &'a Environment,
    /// Where a value stands that was not a string, what TOML writes for it, and its text. In a matrix, a place has several values.
    texts: Vec<(Span, String, String)>,
    /// (where used, name, where set)
    uses: Vec<(Span, String, Span)>,
    /// The vars being resolved, to find one that is made of itself.
    open: Vec<String>,
    /// Bytes that replacing has made so far.
    made: usize,
    /// What is wrong if that was too much; nothing is replaced from then on.
    too_much: Option<Fault>,
    /// Where a stage stands on the axes of its matrix; they come before the file's vars.
    locals: Vec<Local<'a>>,
}

/// Vars that stand in one another's values; a chain of more is a slip.
const MOST_DEPTH: usize = 16;

/// What all values that are put in place of `${…}` may have in bytes, however often each is used.
const MOST_BYTES: usize = 16 << 20;

/// What putting one value in place costs at least, be it empty.
const LEAST_BYTES: usize = 64;

/// A name that means something in one stage alone.
pub(crate) struct Local<'a> {
    pub(crate) name: String,
    pub(crate) value: DeValue<'a>,
    /// Where the value is written.
    pub(crate) at: Span,
}

impl<'a> Vars<'a> {
    pub(crate) fn new(table: DeTable<'a>, environment: &'a Environment) -> Self {
        let (uses, open, locals, texts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { table, environment, texts, uses, open, made: 0, too_much: None, locals }
    }

    /// Puts text where `read` wants a string and a var gave a number, a date or the like: `DAY=2024-05-01` is a date or a name, as it is
    /// used.
    pub(crate) fn texts_where_wanted(
        &self,
        read: fn(Value<'_>) -> Result<(), toml::de::Error>,
        value: &mut Value<'a>,
    ) {
        for _ in 0..=self.texts.len() {
            let Err(error) = read(value.clone()) else { return };
            let wanted = ["expected a string", "expected path string", "expected string"];
            let (Some(span), true) =
                (error.span(), wanted.iter().any(|words| error.message().ends_with(words)))
            else {
                return;
            };
            let text_of = |old: &DeValue<'a>| {
                let old = self.text("", old);
                let mut texts = self.texts.iter();
                let found =
                    texts.find(|(used, toml, _)| *used == span && Some(toml) == old.as_ref());
                found.map(|(.., text)| DeValue::String(text.clone().into()))
            };
            if !replace_at(value, &span, &text_of) {
                return;
            }
        }
    }

    /// What the axes of the stage that comes next are called and mean.
    pub(crate) fn set_locals(&mut self, locals: Vec<Local<'a>>) {
        self.locals = locals;
    }

    /// Where the file sets a var.
    pub(crate) fn place(&self, name: &str) -> Option<Span> {
        self.table.get_key_value(name).map(|(key, _)| key.span())
    }

    /// That vars grow beyond all measure, if they do: said once for the whole file.
    pub(crate) fn too_much(&mut self) -> Option<Fault> {
        self.too_much.take()
    }

    /// Replaces everywhere below a value.
    pub(crate) fn substitute(&mut self, value: &mut Value<'a>, faults: &mut Vec<Fault>) {
        if self.too_much.is_some() {
            return;
        }
        let span = value.span();
        match value.get_mut() {
            DeValue::Table(table) => {
                for (_, value) in table.iter_mut() {
                    self.substitute(value, faults);
                }
            }
            DeValue::Array(array) => {
                for value in array.iter_mut() {
                    self.substitute(value, faults);
                }
            }
            DeValue::String(text) if text.contains("${") => {
                let text = text.to_string();
                match self.expand(&text, &span, faults) {
                    Ok(new) => *value.get_mut() = new,
                    Err(fault) => faults.push(*fault),
                }
            }
            _ => {}
        }
    }

    /// The var used at a place and where it was set, for a second label.
    pub(crate) fn origin(&self, span: &Span) -> Option<(&str, Span)> {
        let hit = |used: &Span| used.start <= span.start && span.end <= used.end;
        self.uses.iter().find(|(used, ..)| hit(used)).map(|(_, name, set)| (&**name, set.clone()))
    }

    fn expand(
        &mut self,
        text: &str,
        span: &Span,
        faults: &mut Vec<Fault>,
    ) -> Result<DeValue<'a>, Box<Fault>> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at - 1]);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let Some(len) = rest[at..].find('}') else {
                let help = "close it, or write `$${` for a literal `${`".to_owned();
                return Err(Box::new(Fault::new("`${` without `}`", span.clone(), "").help(help)));
            };
            let name = &rest[at + 2..at + len];
            let value = self.value(name, span, faults)?;
            self.made += bytes_of(&value);
            if self.made > MOST_BYTES && self.too_much.is_none() {
                let place = self.place(name).unwrap_or_else(|| span.clone());
                let mib = MOST_BYTES >> 20;
                let title = format!("var `{name}` makes more than {mib} MiB of this file's values");
                let help = "each `${…}` stands for a whole value: let vars name each other less";
                let fault = Fault::new(title, place, "").also(span.clone(), "used here");
                self.too_much = Some(fault.help(help.to_owned()));
            }
            if self.too_much.is_some() {
                return Ok(DeValue::String(text.to_owned().into()));
            }
            let after = &rest[at + len + 1..];
            let text = self.text(name, &value);
            if out.is_empty() && after.is_empty() && at == 0 {
                // The values of an axis have their types on purpose.
                let axis = self.locals.iter().any(|local| local.name == name);
                if !axis && !matches!(value, DeValue::String(_)) {
                    let both = self.text("", &value).zip(text);
                    self.texts.extend(both.map(|(toml, text)| (span.clone(), toml, text)));
                }
                return Ok(value);
            }
            let Some(text) = text else {
                let title = format!("`${{{name}}}` is {}, which has no text", type_name(&value));
                let help = "use it as the whole string, to take its value".to_owned();
                return Err(Box::new(Fault::new(title, span.clone(), "").help(help)));
            };
            out.push_str(&text);
            rest = after;
        }
        out.push_str(rest);
        Ok(DeValue::String(out.into()))
    }

    /// What a value reads as inside a string: what the environment has, to the letter; what the file has, as TOML writes it.
    fn text(&self, name: &str, value: &DeValue<'_>) -> Option<String> {
        if let DeValue::String(text) = value {
            return Some(text.to_string());
        }
        let variable = name.strip_prefix("env:").and_then(|name| self.environment.get(name));
        if let Some(Some(text)) = variable {
            return Some(text.clone());
        }
        match value {
            DeValue::Integer(i) => Some(i.to_string()),
            DeValue::Float(x) => Some(x.as_str().to_owned()),
            DeValue::Boolean(b) => Some(b.to_string()),
            DeValue::Datetime(time) => Some(time.to_string()),
            _ => None,
        }
    }

    fn value(
        &mut self,
        name: &str,
        span: &Span,
        faults: &mut Vec<Fault>,
    ) -> Result<DeValue<'a>, Box<Fault>> {
        if let Some(variable) = name.strip_prefix("env:") {
            let found = self.environment.get(variable);
            let Some(Some(text)) = found else {
                let (what, help) = match found {
                    Some(_) => ("is not UTF-8", "write it in UTF-8".to_owned()),
                    None => ("is not set", format!("run `{variable}=… runner …`")),
                };
                let title = format!("environment variable `{variable}` {what}");
                let help = format!("{help}, or put the value under `[vars]`");
                return Err(Box::new(Fault::new(title, span.clone(), "used here").help(help)));
            };
            // As with `--set`: a TOML value if it reads as one, a string otherwise.
            return Ok(match DeValue::parse(text).map(Spanned::into_inner) {
                Ok(value) if !matches!(value, DeValue::Table(_) | DeValue::Array(_)) => value,
                _ => DeValue::String(text.as_str().into()),
            });
        }
        if let Some(local) = self.locals.iter().find(|local| local.name == name) {
            self.uses.push((span.clone(), name.to_owned(), local.at.clone()));
            return Ok(local.value.clone());
        }
        let Some((key, value)) = self.table.get_key_value(name) else {
            let known = self.table.keys().map(|k| &**k.get_ref());
            let known = known.chain(self.locals.iter().map(|local| &*local.name));
            let help = suggest(name, known, "vars of this file");
            let title = format!("no var named `{name}`");
            return Err(Box::new(Fault::new(title, span.clone(), "used here").help(help)));
        };
        let set = key.span();
        if self.open.iter().any(|open| open == name) {
            let title = format!("var `{name}` is made of itself");
            return Err(Box::new(Fault::new(title, set, "")));
        }
        if self.open.len() >= MOST_DEPTH {
            let title = format!("var `{name}` stands {MOST_DEPTH} vars deep in others");
            let help = "write its value where it is used, or let fewer vars name each other";
            return Err(Box::new(Fault::new(title, set, "").help(help.to_owned())));
        }
        let mut value = value.clone();
        self.open.push(name.to_owned());
        self.substitute(&mut value, faults);
        self.open.pop();
        self.uses.push((span.clone(), name.to_owned(), set));
        Ok(value.into_inner())
    }
}

/// About what a value takes in memory.
fn bytes_of(value: &DeValue<'_>) -> usize {
    LEAST_BYTES
        + match value {
            DeValue::String(text) => text.len(),
            DeValue::Array(array) => array.iter().map(|v| bytes_of(v.get_ref())).sum(),
            DeValue::Table(table) => {
                table.iter().map(|(key, v)| key.get_ref().len() + bytes_of(v.get_ref())).sum()
            }
            _ => 0,
        }
}

/// What is set in the environment; none for what is no text.
pub(crate) type Environment = BTreeMap<String, Option<String>>;

/// The values of every environment variable that the texts name, read once, before anything is parsed.
pub(crate) fn environment<'t>(texts: impl Iterator<Item = &'t str>) -> Environment {
    let mut found = BTreeMap::new();
    for text in texts {
        for piece in text.split("${env:").skip(1) {
            let name = piece.split('}').next().unwrap_or_default();
            // No variable has such a name, and the system must not be asked for it.
            if name.is_empty() || name.contains(['=', '\0']) {
                continue;
            }
            if let Some(value) = std::env::var_os(name) {
                found.insert(name.to_owned(), value.into_string().ok());
            }
        }
    }
    found
}

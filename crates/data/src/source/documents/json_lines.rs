//! JSON lines: an object in each, one key of which holds the text.

use super::{Input, MOST_BYTES, Named, OTHER_KEY, Reader, listed};
use crate::Result;
use farthing_base::names::did_you_mean;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::io::{BufRead, Read};

/// The lines of a file, each an object.
pub(super) struct JsonLines {
    file: Named,
    input: Input,
    key: String,
    /// Lines that were read.
    line: u64,
    buffer: Vec<u8>,
}

impl JsonLines {
    pub(super) fn open(file: &Named, key: &str) -> Result<Self> {
        let input = file.open()?;
        Ok(Self { file: file.clone(), input, key: key.into(), line: 0, buffer: vec![] })
    }

    /// Reads the next line that is not blank; none at the end.
    fn advance(&mut self) -> Result<bool> {
        loop {
            self.buffer.clear();
            let mut some = self.input.by_ref().take(MOST_BYTES as u64 + 1);
            let read = some.read_until(b'\n', &mut self.buffer);
            if read.map_err(|e| self.file.unread(e))? == 0 {
                return Ok(false);
            }
            self.line += 1;
            if self.buffer.len() > MOST_BYTES {
                return Err(self.file.too_long(self.line, "write each object in a line"));
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn document(&self) -> Result<Option<String>> {
        let Ok(line) = std::str::from_utf8(&self.buffer) else {
            return self.file.utf8(self.line, self.buffer.clone()).map(Some);
        };
        let mut json = serde_json::Deserializer::from_str(line);
        let found = Key(&self.key).deserialize(&mut json).and_then(|found| {
            json.end()?;
            Ok(found)
        });
        let wrong = |what: String, hint: String| Err(self.file.wrong(Some(self.line), what, hint));
        let found = match found {
            Ok(found) => found,
            Err(error) if line.trim_start().starts_with('[') && self.line == 1 => {
                let hint =
                    "write each element of the array in a line of its own: `jq -c '.[]' FILE`";
                return wrong(format!("it is no JSON object: {}", words(&error)), hint.into());
            }
            Err(error) if error.is_data() => {
                let hint = format!("write an object in each line: {{\"{}\": \"…\"}}", self.key);
                return wrong(format!("it is no JSON object: {}", words(&error)), hint);
            }
            Err(error) => {
                let hint = "write an object in each line, as `json.dumps` does, or leave it out";
                return wrong(format!("it is not JSON: {}", words(&error)), hint.into());
            }
        };
        match found {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null(())) => Ok(None),
            Some(Value::Other(_)) => {
                let what =
                    format!("the value of `{}` is {}, not a string", self.key, self.kind(line));
                wrong(what, OTHER_KEY.into())
            }
            None => {
                let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
                let keys = value.as_object().into_iter().flat_map(|object| object.keys());
                let keys = || keys.clone().map(String::as_str);
                let hint = did_you_mean(&self.key, keys()).unwrap_or_else(|| OTHER_KEY.into());
                let found = match listed(keys()) {
                    none if none.is_empty() => "it has none".into(),
                    found => format!("its keys are {}", found.join(", ")),
                };
                wrong(format!("there is no key `{}`; {found}", self.key), hint)
            }
        }
    }

    fn kind(&self, line: &str) -> &'static str {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        match value.get(&self.key) {
            Some(serde_json::Value::Array(_)) => "an array",
            Some(serde_json::Value::Object(_)) => "an object",
            Some(serde_json::Value::Bool(_)) => "true or false",
            _ => "a number",
        }
    }
}

impl Reader for JsonLines {
    fn next_document(&mut self) -> Result<Option<Option<String>>> {
        if self.advance()? { self.document().map(Some) } else { Ok(None) }
    }
}

/// The words of an error in a line of its own.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((words, column)) => format!("{words} at column {column}"),
        None => text,
    }
}

/// What a key holds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Null(()),
    Other(IgnoredAny),
}

/// Reads the value of one key of an object, the last where there are several, and passes over the others.
struct Key<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is) = map.next_key_seed(Is(self.0))? {
            if is {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a key is this one.
struct Is<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

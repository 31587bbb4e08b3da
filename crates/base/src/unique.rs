//! Reads JSON and refuses objects in which a name appears twice. Parsers differ in which of the two they take, and two programs reading one file could see different things.

use std::collections::BTreeSet;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Whether every object of a JSON text has each name once.
///
/// # Errors
/// What is no JSON, and the first name that stands twice.
pub fn check(json: &[u8]) -> serde_json::Result<()> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    Once.deserialize(&mut reader)?;
    reader.end()
}

/// Any value, of which nothing is kept.
#[derive(Clone, Copy)]
struct Once;

impl<'de> DeserializeSeed<'de> for Once {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value_seed(self)?;
            if let Some(twice) = names.replace(name) {
                return Err(A::Error::custom(format!("`{twice}` stands twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_stands_twice_is_found_at_any_depth() {
        for fine in ["{}", r#"{"a": {"a": [1, {"a": null}], "b": "a"}, "b": 1.5}  "#, "[true]"] {
            check(fine.as_bytes()).unwrap();
        }
        for (twice, name) in [
            (r#"{"a": 1, "b": 2, "a": 1}"#, "a"),
            (r#"{"__metadata__": {"k": "1", "k": "2"}}"#, "k"),
            (r#"[{"x": {"y": 1, "\u0079": 2}}]"#, "y"),
        ] {
            let error = check(twice.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{name}` stands twice")), "{error}");
        }
        for wrong in ["", "{", "{} x", r#"{"a" 1}"#] {
            assert!(check(wrong.as_bytes()).is_err(), "{wrong}");
        }
        // Nesting is bounded by the parser.
        assert!(check("[".repeat(100_000).as_bytes()).is_err());
    }
}

//! The field names of a configuration struct, asked of its `Deserialize`, so that unknown keys are refused with a list of
//! the known ones whether or not the struct denies them itself. Nothing is deserialised.

use std::fmt;

use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

/// The fields of `T`; empty for a struct without any; `None` when `T` takes keys that it does not list (a map, a flattened struct).
pub(crate) fn keys_of<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    match T::deserialize(Asked) {
        Err(Answer(fields)) => fields,
        Ok(_) => Some(&[]),
    }
}

/// A deserializer that holds no data and answers with the fields it was asked for.
struct Asked;

#[derive(Debug)]
struct Answer(Option<&'static [&'static str]>);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fields {:?}", self.0)
    }
}

impl std::error::Error for Answer {}

impl de::Error for Answer {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Self(None)
    }
}

impl<'de> Deserializer<'de> for Asked {
    type Error = Answer;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Answer> {
        Err(Answer(Some(fields)))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Answer> {
        Err(Answer(None))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::keys_of;

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only the names are asked for")]
    struct Some2 {
        alpha: f64,
        #[serde(rename = "b")]
        beta: f64,
    }

    #[derive(Deserialize)]
    struct Nothing {}

    #[test]
    fn names_are_those_of_a_file() {
        assert_eq!(keys_of::<Some2>(), Some(&["alpha", "b"][..]));
        assert_eq!(keys_of::<Nothing>(), Some(&[][..]));
        assert_eq!(keys_of::<serde_json::Value>(), None);
    }
}

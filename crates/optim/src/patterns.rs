//! `Patterns`: globs on the names of parameters, compiled when they are first asked and never again, however often they are copied.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};

use crate::{Error, Result};

/// Globs on dotted names, as [`resolve`](crate::resolve) reads them; a name matches when one of them does.
///
/// Copies share what is compiled: hundreds of variants of a training, whose groups are copies of a preset's, compile its globs once.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Vec<String>")]
pub struct Patterns {
    texts: Vec<String>,
    compiled: Arc<OnceLock<GlobSet>>,
}

impl Patterns {
    /// The compiled set, for names whose dots are slashes.
    ///
    /// # Errors
    /// [`Error::Pattern`], which names `group`.
    pub(crate) fn compiled(&self, group: &str) -> Result<&GlobSet> {
        if let Some(set) = self.compiled.get() {
            return Ok(set);
        }
        let mut set = GlobSetBuilder::new();
        for pattern in &self.texts {
            set.add(glob(group, pattern)?);
        }
        let set = set.build().map_err(|e| Error::Pattern {
            group: group.to_owned(),
            pattern: self.texts.join(", "),
            what: e.kind().to_string(),
        })?;
        Ok(self.compiled.get_or_init(|| set))
    }
}

/// The texts.
impl Deref for Patterns {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.texts
    }
}

impl From<Vec<String>> for Patterns {
    fn from(texts: Vec<String>) -> Self {
        Self { texts, compiled: Arc::default() }
    }
}

impl Serialize for Patterns {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.texts.serialize(serializer)
    }
}

impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

/// As a list of texts.
impl JsonSchema for Patterns {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Vec::<String>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<String>::json_schema(generator)
    }
}

/// Dots are separators, as slashes are in a path; a slash in a pattern can match nothing and is refused.
fn glob(group: &str, pattern: &str) -> Result<Glob> {
    let fault = |what: String| Error::Pattern {
        group: group.to_owned(),
        pattern: pattern.to_owned(),
        what,
    };
    if pattern.is_empty() || pattern.contains(['/', '\\']) {
        return Err(fault("names are segments joined by dots".into()));
    }
    if pattern.split('.').any(|segment| segment.contains("**") && segment != "**") {
        return Err(fault("`**` must be a whole segment".into()));
    }
    let path = pattern.replace('.', "/");
    let glob = GlobBuilder::new(&path).literal_separator(true).backslash_escape(false).build();
    glob.map_err(|e| fault(e.kind().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_what_is_compiled_and_a_fault_names_whoever_asks() {
        let patterns = Patterns::from(vec!["h.*.w".to_owned()]);
        let copy = patterns.clone();
        assert!(patterns.compiled("a").unwrap().is_match("h/3/w"));
        assert!(std::ptr::eq(patterns.compiled("a").unwrap(), copy.compiled("b").unwrap()));
        let faulty = Patterns::from(vec!["h.[".to_owned()]);
        for group in ["a", "b"] {
            let said = faulty.compiled(group).unwrap_err().to_string();
            assert!(said.contains(&format!("`{group}`")) && said.contains("h.["), "{said}");
        }
    }

    #[test]
    fn they_are_written_as_the_list_that_they_are_read_from() {
        let text = r#"["a.**","b"]"#;
        let patterns: Patterns = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&patterns).unwrap(), text);
        let mut generator = SchemaGenerator::default();
        let of_list = Vec::<String>::json_schema(&mut generator);
        assert_eq!(Patterns::json_schema(&mut generator), of_list);
        // Compiled or not.
        patterns.compiled("g").unwrap();
        assert_eq!(patterns, Patterns::from(vec!["a.**".to_owned(), "b".to_owned()]));
    }
}

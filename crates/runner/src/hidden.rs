//! Keeps secrets off the screen and out of files: a value that a pipeline takes from the environment is shown by its name, and of a URL only the path and host are shown. Control sequences are
//! spelled out.

use std::borrow::Cow;
use std::sync::Arc;

use farthing_base::shown::{printable, without_secrets};
use serde_json::Value;

use crate::grammar::Environment;

/// Values of fewer characters are no secrets, and stand in other words.
const LEAST: usize = 6;

/// The values to hide, and their names. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hidden(Arc<Vec<Secret>>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Secret {
    value: String,
    /// `${env:NAME}`.
    name: String,
}

/// The value is not shown.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Hidden {
    /// Of the environment's values that a pipeline names, of the token for the Hub, and of what the command line sets under a name that
    /// speaks of a secret.
    pub(crate) fn of(environment: &Environment, token: Option<String>, sets: &[String]) -> Self {
        let named = environment.iter();
        let named = named.filter_map(|(name, value)| Some((format!("env:{name}"), value.clone()?)));
        let token = token.map(|token| ("env:HF_TOKEN".to_owned(), token));
        Self::new(named.chain(token).chain(sets.iter().filter_map(|set| secret(set))))
    }

    /// Values by what they are called. Numbers, dates and yes or no are no secrets.
    pub(crate) fn new(values: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut secrets: Vec<Secret> = values
            .into_iter()
            .map(|(name, value)| (name, value.trim().to_owned()))
            .filter(|(_, value)| {
                let letters = value.chars().any(char::is_alphabetic);
                letters && value.chars().count() >= LEAST && value.parse::<f64>().is_err()
            })
            .map(|(name, value)| Secret { value, name: format!("${{{name}}}") })
            .collect();
        // A value that holds another one is hidden as a whole.
        secrets.sort_by(|a, b| b.value.len().cmp(&a.value.len()).then_with(|| a.cmp(b)));
        secrets.dedup_by(|a, b| a.value == b.value);
        Self(Arc::new(secrets))
    }

    /// What [`Hidden::new`] takes.
    #[cfg(unix)]
    pub(crate) fn values(&self) -> Vec<(String, String)> {
        let name = |name: &str| name.trim_start_matches("${").trim_end_matches('}').to_owned();
        self.0.iter().map(|secret| (name(&secret.name), secret.value.clone())).collect()
    }

    /// A text with names in place of values.
    pub(crate) fn named<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for Secret { value, name } in self.0.iter() {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), name).into();
            }
        }
        text
    }

    /// A text with as many `*` in place of values as they have bytes.
    pub(crate) fn with_stars(&self, text: &str) -> String {
        let stars = |text: String, Secret { value, .. }: &Secret| {
            text.replace(value.as_str(), &"*".repeat(value.len()))
        };
        self.0.iter().fold(text.to_owned(), stars)
    }

    /// The other way round, for what this crate wrote with names.
    pub(crate) fn revealed(&self, text: &str) -> String {
        let all = self.0.iter();
        all.fold(text.to_owned(), |text, Secret { value, name }| text.replace(name, value))
    }

    /// A text as it is shown and logged.
    pub(crate) fn shown(&self, text: &str) -> String {
        printable(&without_secrets(&self.named(text))).into_owned()
    }

    /// Hides in every text of a JSON value; names of keys stay. Whether there was anything to hide.
    pub(crate) fn hide(&self, value: &mut Value) -> bool {
        let any = |all: bool, value: &mut Value| self.hide(value) | all;
        match value {
            Value::String(text) => {
                let named = self.named(text);
                let shown = without_secrets(&named);
                let other = (shown != *text).then(|| shown.into_owned());
                other.map(|shown| *text = shown).is_some()
            }
            Value::Array(list) => list.iter_mut().fold(false, any),
            Value::Object(map) => map.values_mut().fold(false, any),
            _ => false,
        }
    }
}

/// What `--set` gives, if its name says that it is to be kept.
fn secret(set: &str) -> Option<(String, String)> {
    const WORDS: [&str; 8] =
        ["token", "secret", "password", "passwd", "apikey", "api_key", "credential", "signature"];
    let (key, value) = set.split_once('=')?;
    let last = key.rsplit('.').next()?.trim().to_ascii_lowercase();
    let value = value.trim().trim_matches(['"', '\'']);
    WORDS.iter().any(|word| last.contains(word)).then(|| (key.trim().to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hidden() -> Hidden {
        let values = [
            ("env:TOKEN", "hunter2secret"),
            ("env:DEPTH", "1234567"),
            ("env:X", "ab"),
            ("env:ALL", "is hunter2secret"),
        ];
        Hidden::new(values.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    #[test]
    fn values_are_called_by_their_names() {
        let hidden = hidden();
        for (text, shown) in [
            ("hunter2secret", "${env:TOKEN}"),
            ("it is hunter2secret\u{1b}[0m", "it ${env:ALL}\\u{1b}[0m"),
            ("1234567 abab", "1234567 abab"),
            ("http://h/hunter2secret/a?t=hunter2secret", "http://h/${env:TOKEN}/a?…"),
        ] {
            assert_eq!(hidden.shown(text), shown);
        }
        let text = "https://h/hunter2secret/x";
        assert_eq!(hidden.revealed(&hidden.named(text)), text);
        assert!(!format!("{hidden:?}").contains("hunter2"));
        #[cfg(unix)]
        assert_eq!(Hidden::new(hidden.values()).shown(text), hidden.shown(text));
    }

    #[test]
    fn the_command_line_may_set_secrets() {
        let sets =
            ["vars.api_token=hunter2secret", "train.steps=1234567", "x.password='pass word'"];
        let hidden = Hidden::of(&Environment::new(), None, &sets.map(str::to_owned));
        assert_eq!(hidden.shown(sets[0]), "vars.api_token=${vars.api_token}");
        assert_eq!(hidden.shown(sets[1]), sets[1]);
        assert_eq!(hidden.shown("pass word"), "${x.password}");
        assert_eq!(hidden.with_stars(sets[0]), "vars.api_token=*************");
    }

    #[test]
    fn every_text_of_a_value_is_looked_at() {
        let mut value =
            json!({ "hunter2secret": ["http://u:p@h/?q", { "a": "hunter2secret", "n": 3 }] });
        let shown = json!({ "hunter2secret": ["http://…@h/?…", { "a": "${env:TOKEN}", "n": 3 }] });
        assert!(hidden().hide(&mut value));
        assert_eq!(value, shown);
        assert!(!hidden().hide(&mut value));
    }
}

//! What a stage's bytes depend on: its kind, version, config, seed and the content of its inputs. The key is a digest of
//! that; two identities side by side say why a stage runs again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::digest::parts_digest;

/// Everything that enters a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) kind: String,
    pub(crate) version: u32,
    /// The typed config after defaults, as it is written down: without what is hidden.
    pub(crate) config: Value,
    /// The config as it is, where that is another one. Nothing of an entry.
    #[serde(skip)]
    pub(crate) own: Option<Value>,
    /// `None` where the stage makes no use of it.
    pub(crate) seed: Option<u64>,
    pub(crate) inputs: BTreeMap<String, Input>,
    /// The class of the device that computes it, where that is not the processor; absent otherwise, and where nothing is computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    /// The content of the files from outside that the config names; `None` where it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sources: Option<String>,
    /// Figures of stages before that are part of what it writes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) figures: BTreeMap<String, String>,
    /// What the config calls its sources. Not in the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
    /// What is yet to be learnt of its sources. Nothing of an entry.
    #[serde(skip)]
    pub(crate) unknown: Unknown,
}

/// Why the content of a stage's sources is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// It is.
    #[default]
    No,
    /// They are on a network and yet to be asked for.
    Unpinned,
    /// There is no store yet, in which anything could be cached, so they need not be read.
    Unread,
    /// They are not there, or something keeps them from being read; the flag tells which.
    Gone { absent: bool },
}

/// What an input port read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Input {
    /// `stage.port`; a renamed stage changes no key.
    pub(crate) from: String,
    /// `None` where the stage behind it has yet to run.
    pub(crate) digest: Option<String>,
}

impl Identity {
    /// The key, once every input is known.
    pub(crate) fn key(&self) -> Option<String> {
        if matches!(self.unknown, Unknown::Unpinned | Unknown::Unread) {
            return None;
        }
        // A sweep asks for hundreds of keys that cannot be known yet.
        let inputs: Option<Vec<_>> = self
            .inputs
            .iter()
            .map(|(port, input)| Some([port.as_str(), input.digest.as_deref()?]))
            .collect();
        let inputs = inputs?.concat();
        let version = self.version.to_string();
        let config = canonical(self.own.as_ref().unwrap_or(&self.config));
        let seed = self.seed.map_or("no seed".to_owned(), |s| s.to_string());
        let mut parts = vec!["farthing stage 1", &*self.kind, &version, &config, &seed];
        parts.extend(inputs);
        parts.extend(self.sources.as_deref());
        let device = self.device.as_ref().map(|device| format!("on {device}"));
        parts.extend(device.as_deref());
        if !self.figures.is_empty() {
            parts.push("figures");
            parts.extend(self.figures.iter().flat_map(|(name, text)| [name.as_str(), text]));
        }
        Some(parts_digest(parts.into_iter().map(str::as_bytes))[..32].to_owned())
    }

    /// Whether what was written down is what is written down of `other`, names of stages and sources apart.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        let digests = |this: &Self| -> Vec<(String, Option<String>)> {
            this.inputs.iter().map(|(port, input)| (port.clone(), input.digest.clone())).collect()
        };
        (&self.kind, self.version, self.seed) == (&other.kind, other.version, other.seed)
            && self.config == other.config
            && (&self.device, &self.sources) == (&other.device, &other.sources)
            && self.figures == other.figures
            && digests(self) == digests(other)
    }

    /// Whether an earlier run of the same stage did the same to sources of the same name, whatever they held.
    pub(crate) fn same_but_for_sources(&self, old: &Self) -> bool {
        let digests = |this: &Self| -> Vec<Option<String>> {
            this.inputs.values().map(|input| input.digest.clone()).collect()
        };
        self.origin.is_some()
            && self.origin == old.origin
            && (&self.kind, self.version, self.seed) == (&old.kind, old.version, old.seed)
            && self.config == old.config
            && digests(self) == digests(old)
    }

    /// What differs from an earlier run of the same stage, in words; empty if nothing does.
    pub(crate) fn changes_since(&self, old: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        if self.kind != old.kind {
            return vec![format!("kind changed: {} → {}", old.kind, self.kind)];
        }
        if self.version != old.version {
            changes.push(format!("stage version {} → {}", old.version, self.version));
        }
        let config = differences(&old.config, &self.config);
        changes.extend(config.map(|config| format!("config changed: {config}")));
        if old.device != self.device {
            let name = |device: &Option<String>| device.clone().unwrap_or_else(|| "cpu".into());
            changes.push(format!("device changed: {} → {}", name(&old.device), name(&self.device)));
        }
        if let (Some(old), Some(new)) = (old.seed, self.seed)
            && old != new
        {
            changes.push(format!("seed changed: {old} → {new}"));
        }
        if self.unknown == Unknown::No && self.sources != old.sources {
            changes.push("the content of its source files changed".to_owned());
        }
        for (port, input) in &self.inputs {
            let stage = input.from.rsplit_once('.').map_or(&*input.from, |(stage, _)| stage);
            let port_name = port.split('[').next().unwrap_or(port);
            match old.inputs.get(port) {
                None => changes.push(format!("input {port_name} is new (stage {stage})")),
                Some(was) if input.digest.is_some() && was.digest != input.digest => {
                    changes.push(format!("input {port_name} changed (stage {stage})"));
                }
                Some(_) => {}
            }
        }
        let gone = old.inputs.keys().filter(|port| !self.inputs.contains_key(*port));
        changes.extend(gone.map(|port| format!("input {port} is gone")));
        changes
    }
}

/// JSON with sorted keys, whatever features of `serde_json` are on.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let inner: Vec<String> = sorted
                .into_iter()
                .map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), canonical(v)))
                .collect();
            format!("{{{}}}", inner.join(","))
        }
        Value::Array(list) => {
            let inner: Vec<String> = list.iter().map(canonical).collect();
            format!("[{}]", inner.join(","))
        }
        other => other.to_string(),
    }
}

/// What differs between two configs, in a few words.
pub(crate) fn differences(old: &Value, new: &Value) -> Option<String> {
    let mut list = all_differences(old, new);
    let more = list.len().saturating_sub(3);
    list.truncate(3);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    (!list.is_empty()).then(|| format!("{}{more}", list.join(", ")))
}

/// All that differs between two configs, a leaf each.
pub(crate) fn all_differences(old: &Value, new: &Value) -> Vec<String> {
    let mut list = Vec::new();
    if old != new {
        compare(old, new, "", &mut list);
    }
    list
}

/// Leaves that differ of two values that do, as `path old → new`.
fn compare(old: &Value, new: &Value, path: &str, changes: &mut Vec<String>) {
    if let (Value::Object(a), Value::Object(b)) = (old, new) {
        let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let [a, b] = [a, b].map(|map| map.get(key).unwrap_or(&Value::Null));
            if a != b {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(a, b, &inner, changes);
            }
        }
    } else {
        changes.push(format!("{path} {} → {}", short(old), short(new)));
    }
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::Null => return "none".to_owned(),
        other => canonical(other),
    };
    if text.chars().count() <= 40 {
        return text;
    }
    text.chars().take(39).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn identity(config: Value, rows: Option<&str>) -> Identity {
        let input = Input { from: "pack.train".into(), digest: rows.map(str::to_owned) };
        Identity {
            kind: "train".into(),
            version: 1,
            config,
            own: None,
            seed: Some(1),
            inputs: [("rows".to_owned(), input)].into(),
            device: None,
            sources: None,
            figures: BTreeMap::new(),
            origin: None,
            unknown: Unknown::No,
        }
    }

    #[test]
    fn keys_follow_content_alone() {
        let one = identity(json!({ "a": 1, "b": { "d": 2, "c": 0.1 } }), Some("x"));
        let mut two = identity(json!({ "b": { "c": 0.1, "d": 2 }, "a": 1 }), Some("x"));
        two.inputs.get_mut("rows").unwrap().from = "elsewhere.train".into();
        assert_eq!(one.key(), two.key());
        for other in [
            identity(json!({ "a": 1.0 }), Some("x")),
            identity(one.config.clone(), Some("y")),
            Identity { version: 2, ..one.clone() },
            Identity { seed: None, ..one.clone() },
            Identity { device: Some("cuda".into()), ..one.clone() },
            Identity { kind: "other".into(), ..one.clone() },
            Identity { sources: Some("z".into()), ..one.clone() },
            Identity { figures: [("f.n".into(), "b".into())].into(), ..one.clone() },
        ] {
            assert_ne!(one.key(), other.key(), "{other:?}");
        }
        assert_eq!(identity(json!({}), None).key(), None);
        let named = Identity { origin: Some("text".into()), ..one.clone() };
        assert_eq!(named.key(), one.key(), "what sources are called");
        assert_eq!(Identity { unknown: Unknown::Unpinned, ..one.clone() }.key(), None);
        assert_eq!(Identity { unknown: Unknown::Unread, ..one }.key(), None);
    }

    #[test]
    fn changes_in_words() {
        let old = identity(json!({ "model": { "depth": 4 }, "lr": 0.02, "gone": true }), Some("x"));
        let new = identity(json!({ "model": { "depth": 6 }, "lr": 0.02 }), Some("y"));
        assert_eq!(
            new.changes_since(&old),
            [
                "config changed: gone true → none, model.depth 4 → 6",
                "input rows changed (stage pack)"
            ]
        );
        assert!(old.changes_since(&old).is_empty());
        let elsewhere = Identity { device: Some("cuda".into()), ..old.clone() };
        assert_eq!(elsewhere.changes_since(&old), ["device changed: cpu → cuda"]);
    }
}

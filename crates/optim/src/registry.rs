//! `Registry`: which optimizer each `uses` means. Explicit, without linker magic; a user's rule stands beside ours.

use std::collections::BTreeMap;

use farthing_kernels::{Device, SlabSpec};
use serde_json::{Map, Value};

use crate::keys::keys_of;
use crate::{AdamW, Error, Grain, Group, Muon, NorMuon, Optimizer, OptimizerKind, Result};

type Build = fn(&str, &Map<String, Value>, &dyn Device, &SlabSpec) -> Result<Box<dyn Optimizer>>;

/// A kind without its type.
struct Entry {
    keys: Option<&'static [&'static str]>,
    grain: Grain,
    canonical: fn(&str, &Map<String, Value>) -> Result<Value>,
    build: Build,
}

/// The optimizers there are, by the name that `uses` gives.
pub struct Registry {
    entries: BTreeMap<String, Entry>,
}

impl Registry {
    /// No optimizer.
    pub fn empty() -> Self {
        Self { entries: BTreeMap::new() }
    }

    /// `adamw`, `muon`, `normuon`.
    #[must_use]
    pub fn standard() -> Self {
        Self::empty()
            .register::<AdamW>("adamw")
            .register::<Muon>("muon")
            .register::<NorMuon>("normuon")
    }

    /// With one more; a name registered before now means the new one.
    #[must_use]
    pub fn register<K: OptimizerKind>(mut self, name: &str) -> Self {
        let entry = Entry {
            keys: keys_of::<K::Config>(),
            grain: K::GRAIN,
            canonical: canonical::<K>,
            build: |uses, options, dev, spec| K::build(config::<K>(uses, options)?, dev, spec),
        };
        self.entries.insert(name.to_owned(), entry);
        self
    }

    /// Every name, sorted.
    pub fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// The keys of `name` beside those that every group has; `None` when it takes any.
    ///
    /// # Errors
    /// [`Error::UnknownOptimizer`].
    pub fn keys(&self, name: &str) -> Result<Option<&'static [&'static str]>> {
        Ok(self.entry(name)?.keys)
    }

    /// How finely `name`'s slabs may be divided among ranks.
    ///
    /// # Errors
    /// [`Error::UnknownOptimizer`].
    pub fn grain(&self, name: &str) -> Result<Grain> {
        Ok(self.entry(name)?.grain)
    }

    /// Checks an optimizer's own keys, without a device.
    ///
    /// # Errors
    /// [`Error::UnknownOptimizer`], [`Error::UnknownKey`], [`Error::Config`], [`Error::Value`].
    pub fn check(&self, name: &str, options: &Map<String, Value>) -> Result<()> {
        self.canonical(name, options).map(drop)
    }

    /// The checked keys with every default written out: what a cache keys on.
    ///
    /// # Errors
    /// As [`Registry::check`].
    pub fn canonical(&self, name: &str, options: &Map<String, Value>) -> Result<Value> {
        (self.entry(name)?.canonical)(name, options)
    }

    /// Checks every group's keys and writes out their defaults: equal groups serialise equally, however they were written.
    ///
    /// # Errors
    /// [`Error::Group`] with the first group at fault, as [`Registry::check`].
    pub fn complete(&self, mut groups: Vec<Group>) -> Result<Vec<Group>> {
        for group in &mut groups {
            let checked = self.canonical(&group.uses, &group.options);
            if let Value::Object(options) = checked.map_err(|e| e.in_group(&group.name))? {
                group.options = options;
            }
        }
        Ok(groups)
    }

    /// Builds the optimizer of one slab.
    ///
    /// # Errors
    /// As [`Registry::check`]; out of memory; a shape that the rule does not update.
    pub fn build(
        &self,
        name: &str,
        options: &Map<String, Value>,
        dev: &dyn Device,
        spec: &SlabSpec,
    ) -> Result<Box<dyn Optimizer>> {
        (self.entry(name)?.build)(name, options, dev, spec)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries
            .get(name)
            .ok_or_else(|| Error::UnknownOptimizer { name: name.to_owned(), known: self.names() })
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::standard()
    }
}

fn config<K: OptimizerKind>(uses: &str, options: &Map<String, Value>) -> Result<K::Config> {
    let keys = keys_of::<K::Config>();
    let known = || keys.unwrap_or_default().iter().map(|&k| k.to_owned()).collect();
    if let Some(keys) = keys
        && let Some(key) = options.keys().find(|key| !keys.contains(&key.as_str()))
    {
        return Err(Error::UnknownKey { uses: uses.to_owned(), key: key.clone(), known: known() });
    }
    let config = serde_json::from_value(Value::Object(options.clone())).map_err(|e| {
        Error::Config { uses: uses.to_owned(), what: e.to_string(), known: known() }
    })?;
    K::check(&config)?;
    Ok(config)
}

fn canonical<K: OptimizerKind>(uses: &str, options: &Map<String, Value>) -> Result<Value> {
    let config = config::<K>(uses, options)?;
    serde_json::to_value(config).map_err(|e| Error::Config {
        uses: uses.to_owned(),
        what: e.to_string(),
        known: vec![],
    })
}

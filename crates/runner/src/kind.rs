//! A [`Stage`] with its types erased, so that the runner can hold all of them in one registry.

use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use crate::{
    Before, Ctx, Estimate, Extras, Given, PlanCtx, PlanLine, Port, Promise, Resources, Result,
    Stage,
};

type Value<'a> = Spanned<DeValue<'a>>;
type ParseResult<T> = std::result::Result<T, toml::de::Error>;

/// What the registry knows of a kind of stage.
#[derive(Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "each is a constant of the trait, by its name")]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) version: u32,
    pub(crate) inputs: &'static [Port],
    pub(crate) outputs: &'static [Port],
    pub(crate) figures: &'static [&'static str],
    /// Of stages before it.
    pub(crate) reads_figures: &'static [&'static str],
    pub(crate) uses_seed: bool,
    pub(crate) computes: bool,
    pub(crate) ranks: bool,
    pub(crate) waits: bool,
    /// What keys its table has, and its `exec`.
    pub(crate) config_schema: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) exec_schema: fn(&mut SchemaGenerator) -> Schema,
    /// Reads the stage's own keys; called again without the faulty keys to find all of them.
    pub(crate) read_config: fn(Value<'_>) -> ParseResult<()>,
    /// Reads the `exec` table.
    pub(crate) read_exec: fn(Value<'_>) -> ParseResult<()>,
    /// Reads both for good.
    pub(crate) build: fn(Value<'_>, Option<Value<'_>>) -> ParseResult<Box<dyn Job>>,
}

impl Kind {
    pub(crate) fn of<S: Stage>() -> Self {
        Self {
            name: S::KIND,
            about: S::ABOUT,
            version: S::VERSION,
            inputs: S::INPUTS,
            outputs: S::OUTPUTS,
            figures: S::FIGURES,
            reads_figures: S::READS_FIGURES,
            uses_seed: S::USES_SEED,
            computes: S::COMPUTES,
            ranks: S::RANKS,
            waits: S::WAITS,
            config_schema: S::Config::json_schema,
            exec_schema: S::Exec::json_schema,
            read_config: |v| S::Config::deserialize(ValueDeserializer::from(v)).map(drop),
            read_exec: |v| S::Exec::deserialize(ValueDeserializer::from(v)).map(drop),
            build: build::<S>,
        }
    }

    pub(crate) fn input(&self, name: &str) -> Option<&'static Port> {
        self.inputs.iter().find(|p| p.name == name)
    }

    pub(crate) fn output(&self, name: &str) -> Option<&'static Port> {
        self.outputs.iter().find(|p| p.name == name)
    }
}

/// A stage of a pipeline with its settings read.
pub(crate) trait Job: Send + Sync {
    /// The config after defaults.
    fn config(&self) -> Result<serde_json::Value>;
    /// The config as the cache key has it, where that is not [`Job::config`].
    fn key(&self, extras: &Extras) -> Result<Option<serde_json::Value>>;
    /// Completes the config by the names of the inputs that are connected.
    fn connect(&mut self, inputs: &[&str]) -> Result<()>;
    fn check(&self, extras: &Extras) -> Result<()>;
    /// Files from outside of the pipeline that enter the key.
    fn sources(&self) -> Result<Vec<PathBuf>>;
    /// What the config calls them.
    fn origin(&self) -> Option<String>;
    /// Files from outside that an output will have copies of.
    fn files(&self, port: &str) -> Vec<PathBuf>;
    /// What sources on a network are pinned to; `None` before [`Job::resolve`].
    fn pins(&self, extras: &Extras) -> Result<Option<Vec<String>>>;
    fn resolve(&self, ctx: &Ctx) -> Result<()>;
    fn promises(&self, given: &Given<'_>) -> Vec<Promise>;
    /// How to go on from what was made with another config.
    fn instead(&self, before: &Before<'_>) -> Vec<PlanLine>;
    fn plan(&self, resources: &Resources, ctx: &PlanCtx) -> Result<Vec<PlanLine>>;
    fn estimate(&self, resources: &Resources, ctx: &PlanCtx) -> Result<Option<Estimate>>;
    fn memory(&self, resources: &Resources, ctx: &PlanCtx) -> Result<Option<u64>>;
    fn preflight(&self, resources: &Resources, ctx: &PlanCtx) -> Result<()>;
    fn run(self: Box<Self>, ctx: &mut Ctx) -> Result<()>;
}

struct Settings<S: Stage> {
    config: S::Config,
    exec: S::Exec,
}

fn build<S: Stage>(config: Value<'_>, exec: Option<Value<'_>>) -> ParseResult<Box<dyn Job>> {
    let config = S::Config::deserialize(ValueDeserializer::from(config))?;
    let exec = match exec {
        Some(exec) => S::Exec::deserialize(ValueDeserializer::from(exec))?,
        None => S::Exec::default(),
    };
    Ok(Box::new(Settings::<S> { config, exec }))
}

impl<S: Stage> Job for Settings<S> {
    fn config(&self) -> Result<serde_json::Value> {
        S::written(&self.config)
    }

    fn key(&self, extras: &Extras) -> Result<Option<serde_json::Value>> {
        S::key(&self.config, extras)
    }

    fn connect(&mut self, inputs: &[&str]) -> Result<()> {
        S::connect(&mut self.config, inputs)
    }

    fn check(&self, extras: &Extras) -> Result<()> {
        S::check(&self.config, extras)
    }

    fn sources(&self) -> Result<Vec<PathBuf>> {
        S::sources(&self.config)
    }

    fn origin(&self) -> Option<String> {
        S::origin(&self.config)
    }

    fn files(&self, port: &str) -> Vec<PathBuf> {
        S::files(&self.config, port)
    }

    fn pins(&self, extras: &Extras) -> Result<Option<Vec<String>>> {
        S::pins(&self.config, extras)
    }

    fn resolve(&self, ctx: &Ctx) -> Result<()> {
        S::resolve(&self.config, &self.exec, ctx)
    }

    fn promises(&self, given: &Given<'_>) -> Vec<Promise> {
        S::promises(&self.config, given)
    }

    fn instead(&self, before: &Before<'_>) -> Vec<PlanLine> {
        S::instead(&self.config, before)
    }

    fn plan(&self, resources: &Resources, ctx: &PlanCtx) -> Result<Vec<PlanLine>> {
        S::plan(&self.config, &self.exec, resources, ctx)
    }

    fn estimate(&self, resources: &Resources, ctx: &PlanCtx) -> Result<Option<Estimate>> {
        S::estimate(&self.config, resources, ctx)
    }

    fn memory(&self, resources: &Resources, ctx: &PlanCtx) -> Result<Option<u64>> {
        S::memory(&self.config, &self.exec, resources, ctx)
    }

    fn preflight(&self, resources: &Resources, ctx: &PlanCtx) -> Result<()> {
        S::preflight(&self.config, &self.exec, resources, ctx)
    }

    fn run(self: Box<Self>, ctx: &mut Ctx) -> Result<()> {
        S::run(self.config, self.exec, ctx)
    }
}

//! The seam between the runner and the work: what a kind of stage declares and does.

use std::borrow::Cow;
use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use farthing_base::Hint;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Ctx, Extras, PlanCtx, Resources, Result};

/// An end of an edge: a file or a directory that a stage reads or writes.
///
/// An output port is the file or directory `ctx.output(name)`, whatever is inside. Kinds are compared when the graph
/// is built, so that a tokenizer is never read as rows. Three kinds mean something to the runner: `"metrics"` files are
/// copied to the run's folder as `metrics.jsonl`, `"results"` folders beside them, and `"report"` folders are copied into it whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The port's name in pipeline files.
    pub name: &'static str,
    /// What travels along it: `"parquet files"`, `"tokenizer"`, `"packed rows"`, `"checkpoint"`, `"metrics"`, …
    pub kind: &'static str,
    /// Whether a pipeline may leave an input unconnected, or the stage an output unwritten.
    pub optional: bool,
    /// Whether an input takes every stage that a table with a `matrix` stands for: see [`Ctx::inputs`].
    pub many: bool,
}

impl Port {
    /// The same port, optional.
    #[must_use]
    pub const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// The same input, for any number of stages.
    #[must_use]
    pub const fn many(self) -> Self {
        Self { many: true, ..self }
    }
}

/// A port that must be there.
pub const fn port(name: &'static str, kind: &'static str) -> Port {
    Port { name, kind, optional: false, many: false }
}

/// One kind of work, pure in (config, inputs, seed): the same key gives the same bytes.
pub trait Stage: 'static {
    /// The stage's own keys in its `[stage.NAME]` table, which enter the cache key after defaults are filled in. Put
    /// `#[serde(deny_unknown_fields)]` on it and on every struct inside, and never `#[serde(flatten)]`, which would
    /// accept unknown keys in silence. The names `uses inputs needs matrix seed resources retry skip exec expect` are taken.
    type Config: DeserializeOwned + Serialize + JsonSchema + Send + Sync;
    /// Settings that say how and not what (connections, checkpoint interval): the `exec` table, never in the key.
    /// [`NoExec`] for none.
    type Exec: DeserializeOwned + JsonSchema + Default + Send + Sync;
    /// The name in `uses = "…"`.
    const KIND: &'static str;
    /// One line for `runner list`.
    const ABOUT: &'static str = "";
    /// Raise when the same config and inputs would now give other bytes.
    const VERSION: u32;
    /// What the stage reads.
    const INPUTS: &'static [Port];
    /// What the stage writes.
    const OUTPUTS: &'static [Port];
    /// Figures of the stages before it, by name, that [`Ctx::figures_before`] gives; they are part of the key.
    const READS_FIGURES: &'static [&'static str] = &[];
    /// Whether the pipeline's seed changes the bytes, and so belongs in the key.
    const USES_SEED: bool = true;
    /// Whether the device of its `resources` computes the bytes. Then the class of a device that is not the processor belongs in the key, since it
    /// computes in other types; how many threads or GPUs there are does not.
    const COMPUTES: bool = false;
    /// Whether it can compute on several ranks.
    const RANKS: bool = false;
    /// Whether it waits for a network or a disk most of the time, so that it takes no core from the stages that run beside it.
    const WAITS: bool = false;
    /// The names of the figures the stage gives with [`Ctx::summary`]; if any are listed, a pipeline that expects another
    /// one is faulted before anything runs.
    const FIGURES: &'static [&'static str] = &[];

    /// The config with its defaults, as it is shown and kept. A stage whose config is a [`serde_json::Value`] before it is text gives that, which
    /// is quicker.
    ///
    /// # Errors
    /// It does not serialise.
    fn written(config: &Self::Config) -> Result<serde_json::Value> {
        // Through text, so that an f32 of 0.02 is 0.02 and not the f64 next to it.
        Ok(serde_json::from_str(&serde_json::to_string(config)?)?)
    }

    /// The config as the cache key has it, where that takes what the application registered: with the defaults of a registered rule written out, so
    /// that spelling one out changes nothing, and changing one does. `None` for the config as it serialises.
    ///
    /// # Errors
    /// As [`Stage::check`].
    fn key(_config: &Self::Config, _extras: &Extras) -> Result<Option<serde_json::Value>> {
        Ok(None)
    }

    /// Completes the config with what depends on which inputs the pipeline connects, given by their names. Called once, before everything
    /// else; what it sets is in the key as if it had been written.
    ///
    /// # Errors
    /// A key that makes no sense beside these inputs; an [`At`] error is shown at the key it names.
    fn connect(_config: &mut Self::Config, _inputs: &[&str]) -> Result<()> {
        Ok(())
    }

    /// Rejects a config that parses but cannot work; runs before any stage does. An [`At`] error is shown at the key it
    /// names.
    ///
    /// # Errors
    /// Whatever is wrong with the config.
    fn check(_config: &Self::Config, _extras: &Extras) -> Result<()> {
        Ok(())
    }

    /// Files outside of the pipeline that the config names and the stage reads. Their contents enter the key, in this order,
    /// so that a change of one is noticed; paths and times do not. A file is read again only when its size or time changed.
    ///
    /// # Errors
    /// The files cannot be found. Where the config has an [`Stage::origin`], the outputs of the last time serve instead.
    fn sources(_config: &Self::Config) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    /// What the config calls its sources, as it was written. With it, what a stage made of them the last time is found again when they
    /// are not there any more. Never in the key. `None` where nothing is to be found so.
    fn origin(_config: &Self::Config) -> Option<String> {
        None
    }

    /// The files outside of the pipeline that an output port will have copies of, as far as they are known before: a stage that
    /// reads the port can look at them before anything is copied.
    fn files(_config: &Self::Config, _port: &str) -> Vec<PathBuf> {
        Vec::new()
    }

    /// What the sources on a network that the config names are pinned to, as digests, which enter the key beside those of
    /// [`Stage::sources`]; `None` where that is not known yet and [`Stage::resolve`] has to find out. Asks no network: plans
    /// call it too.
    ///
    /// # Errors
    /// What was noted cannot be read.
    fn pins(_config: &Self::Config, _extras: &Extras) -> Result<Option<Vec<String>>> {
        Ok(Some(Vec::new()))
    }

    /// Finds out what [`Stage::pins`] could not say, and notes it where the next run finds it. Called before the key of a
    /// stage that is to run is needed; there are no inputs and outputs yet.
    ///
    /// # Errors
    /// Whatever keeps it from being known; the stage fails then.
    fn resolve(_config: &Self::Config, _exec: &Self::Exec, _ctx: &Ctx) -> Result<()> {
        Ok(())
    }

    /// What is known of an output before it is made, so that the stages that read it can plan: a tokenizer's vocabulary, a
    /// row's length, a model's configuration. `given` is what the stages before promise of the inputs.
    fn promises(_config: &Self::Config, _given: &Given<'_>) -> Vec<Promise> {
        Vec::new()
    }

    /// What `--plan` adds where the stage runs although it ran before with another config, whose outputs are there still: how to go on from
    /// those instead, if there is a way.
    fn instead(_config: &Self::Config, _before: &Before<'_>) -> Vec<PlanLine> {
        Vec::new()
    }

    /// What `--plan` prints under the stage: parameters, tokens, FLOPs, estimates. Inputs may not exist yet;
    /// [`PlanCtx::input`] gives those that do, [`PlanCtx::promise`] what is known of all.
    ///
    /// # Errors
    /// Whatever makes the plan impossible; `--plan` shows it under the stage and fails.
    fn plan(
        _config: &Self::Config,
        _exec: &Self::Exec,
        _resources: &Resources,
        _ctx: &PlanCtx,
    ) -> Result<Vec<PlanLine>> {
        Ok(Vec::new())
    }

    /// About how long the stage would take on the machine that its `resources` name, for the plan's total. Asked of every variant of a matrix, so it has
    /// to be quick; `None` where nothing is known, or not worth a word.
    ///
    /// # Errors
    /// As [`Stage::plan`].
    fn estimate(
        _config: &Self::Config,
        _resources: &Resources,
        _ctx: &PlanCtx,
    ) -> Result<Option<Estimate>> {
        Ok(None)
    }

    /// Bytes of memory that the stage will hold on the processor's side, as far as they are known before it runs: stages run side by side only where
    /// all of theirs fits into the machine. `None` where nothing is known, or it is little.
    ///
    /// # Errors
    /// As [`Stage::plan`]; the stage counts as one of which nothing is known.
    fn memory(
        _config: &Self::Config,
        _exec: &Self::Exec,
        _resources: &Resources,
        _ctx: &PlanCtx,
    ) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Refuses work that is known to fail before any stage has run: a device that this machine lacks, a config that
    /// contradicts what is promised of the inputs. Called for each stage that is to run.
    ///
    /// # Errors
    /// Whatever the stage lacks; nothing runs then. What another machine may have is a [`Lacking`].
    fn preflight(
        _config: &Self::Config,
        _exec: &Self::Exec,
        _resources: &Resources,
        _ctx: &PlanCtx,
    ) -> Result<()> {
        Ok(())
    }

    /// Does the work: writes every output that is not optional under [`Ctx::output`].
    ///
    /// # Errors
    /// Whatever stops the work. What is in the output folder by then is handed back on the next attempt.
    fn run(config: Self::Config, exec: Self::Exec, ctx: &mut Ctx) -> Result<()>;
}

/// What a stage was the last time.
#[derive(Clone, Debug)]
pub struct Before<'a> {
    /// The stage's name.
    pub stage: &'a str,
    /// Its config as the key had it.
    pub config: &'a serde_json::Value,
    /// Its inputs: port, and `stage.port` that it read.
    pub inputs: BTreeMap<&'a str, &'a str>,
}

/// A fact that is certain of an output port before the stage has run.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    /// The output port.
    pub port: &'static str,
    /// What it says: `"vocab_size"`, `"row_tokens"`, `"model"`.
    pub fact: &'static str,
    /// The number, or whatever the fact is.
    pub value: Value,
}

impl Promise {
    /// A fact of a port.
    pub fn new(port: &'static str, fact: &'static str, value: impl Into<Value>) -> Self {
        Self { port, fact, value: value.into() }
    }
}

/// Promises of a stage's inputs, each with the input port that its output is connected to.
pub(crate) type Promises = Vec<(&'static str, Promise)>;

/// What is promised of a stage's inputs. Worked out when it is first asked for.
pub struct Given<'a>(LazyCell<Promises, Box<dyn FnOnce() -> Promises + 'a>>);

impl<'a> Given<'a> {
    pub(crate) fn new(find: impl FnOnce() -> Promises + 'a) -> Self {
        Self(LazyCell::new(Box::new(find)))
    }

    /// A fact about what is connected to an input port.
    pub fn fact(&self, port: &str, fact: &str) -> Option<&Value> {
        let found = self.0.iter().find(|(input, promise)| *input == port && promise.fact == fact);
        found.map(|(_, promise)| &promise.value)
    }

    /// All facts about what is connected to an input port.
    pub fn facts(&self, port: &str) -> impl Iterator<Item = &Promise> {
        self.0.iter().filter(move |(input, _)| *input == port).map(|(_, promise)| promise)
    }
}

/// The `exec` table of a stage that has no such settings.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoExec {}

/// One line of `--plan`: a name and what is said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLine {
    /// What the line is about; may be empty.
    pub name: String,
    /// What it says.
    pub text: String,
}

impl PlanLine {
    /// A line of `--plan`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// A range of seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// At least about this.
    pub low_s: f64,
    /// At most about this.
    pub high_s: f64,
}

/// What keeps a stage from running on this machine and not on every other, such as a GPU that is not there: a run is refused, a plan says so in words and goes
/// well.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lacking(pub String);

/// A fault of one config key, for [`Stage::check`]: the screen shows the key's line in the pipeline file.
#[derive(Clone, thiserror::Error)]
#[error("{message}")]
pub struct At {
    /// The key, dotted where it is nested: `model.depth`.
    pub key: String,
    /// What is wrong, with the numbers.
    pub message: String,
    /// How to fix it.
    pub hint: Option<String>,
}

impl At {
    /// A fault of `key`.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into(), hint: None }
    }

    /// A library's error as a fault of `key`, with its hint.
    pub fn of(key: impl Into<String>, error: &impl Hint) -> Self {
        // A device's error has its hint in its message still.
        let (message, hints) = crate::failure::split(&error.to_string());
        let hint = error.hint().map(Cow::into_owned).or_else(|| hints.into_iter().next());
        Self { key: key.into(), message, hint }
    }

    /// The same fault with a way to fix it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

farthing_base::debug_with_hint!(At);

impl Hint for At {
    fn hint(&self) -> Option<Cow<'_, str>> {
        self.hint.as_deref().map(Cow::Borrowed)
    }
}

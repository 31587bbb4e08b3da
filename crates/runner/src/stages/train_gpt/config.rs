//! The keys of a `train-gpt` stage, and their canonical form for the cache: every preset and default written out, so that
//! spelling one out changes nothing.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use anyhow::anyhow;

use farthing_model::{Gpt, ModelConfig};
use farthing_optim::{Group, GroupKeys, OptimPreset, Registry, ScheduleKeys, merge, resolve};
use farthing_train::{Recipe, Setup, listed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use crate::{Accelerator, At, Resources, Result};

/// What is trained and how. Every number that is absent is the preset's.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The model: preset, depth, and any number of the recipe.
    pub model: ModelConfig,
    /// How activations are stored; what the device does by itself where it is absent (f32 on a CPU).
    #[serde(default)]
    pub precision: Option<Precision>,
    /// T that the rows must have. Without it T is whatever the rows have; with it rows of another length are refused. It
    /// decides nothing else, and so stays out of the cache key.
    #[serde(default)]
    pub seq_len: Option<usize>,
    /// Horizon, batch, and how rates, momentum and decay run.
    #[serde(default)]
    pub schedule: ScheduleKeys,
    /// Optimizer groups, by name, laid over the preset's.
    #[serde(default)]
    pub optim: BTreeMap<String, GroupKeys>,
    /// When and how much to evaluate on held-out rows during training.
    #[serde(default)]
    pub evaluate: EvaluateConfig,
    /// Whether the weights that had the fewest bits per byte of held-out text during training are an output too: `best`.
    #[serde(default)]
    pub keep_best: bool,
}

/// The float type of activations and of weights as they are multiplied. Master weights, statistics and sums are f32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits, rounded where a GPU stores them. On a CPU this is for studying numerics: it is slower than f32.
    Bf16,
}

/// Evaluation on held-out rows during training; the first and the last step are always evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateConfig {
    /// Steps between evaluations.
    pub every_steps: u64,
    /// Tokens of each, at most what is held out.
    pub tokens: u64,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self { every_steps: 250, tokens: 524_288 }
    }
}

/// How, not what: none of it enters the cache key.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainExec {
    /// Rows per micro-batch, a divisor of a step's rows. When absent, on a GPU as many as its free memory has room for, or as many as before the checkpoint that is gone on from; on the
    /// processor chosen from the row length. Another number sums gradients in another order, so the last bits of the weights may differ.
    pub micro_batch_rows: Option<usize>,
    /// Seconds between checkpoints. When absent 60, or a hundred times what writing the last one took if that is longer, so that at most 1% of the time goes into them.
    pub checkpoint_every_s: Option<f64>,
    /// Steps between checkpoints, beside the seconds; by the seconds alone when absent.
    pub checkpoint_every_steps: Option<NonZeroU64>,
    /// Checkpoints kept while training, at least 1.
    pub keep_checkpoints: NonZeroUsize,
}

impl Default for TrainExec {
    fn default() -> Self {
        Self {
            micro_batch_rows: None,
            checkpoint_every_s: None,
            checkpoint_every_steps: None,
            keep_checkpoints: NonZeroUsize::MIN.saturating_add(1),
        }
    }
}

/// The time between checkpoints, if nothing is said and they are cheap.
const CHECKPOINT_INTERVAL: Duration = Duration::from_mins(1);
/// How many times as long training goes on as a checkpoint takes.
const CHECKPOINT_SHARE: u32 = 100;

/// Tokens of a micro-batch that the automatic choice stays under where a processor computes: enough that matrix products run at
/// full rate, few enough that activations stay small beside weights.
const MICRO_BATCH_TOKENS: usize = 4_096;

/// Rows of a micro-batch, as far as they are known before there is a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum MicroRows {
    Exactly(usize),
    /// The largest divisor of a rank's rows up to this one that the device's free memory has room for.
    AtMost(usize),
}

impl MicroRows {
    /// The most that it may be.
    pub(crate) fn most(self) -> usize {
        match self {
            Self::Exactly(rows) | Self::AtMost(rows) => rows,
        }
    }
}

impl TrainExec {
    /// Rows per micro-batch: as asked, or on a processor the largest divisor of a rank's rows of a step that stays under the usual number of tokens, and on a GPU what its memory has room for.
    /// Never depends on the number of threads.
    pub(crate) fn micro_batch_rows(
        &self,
        setup: &Setup,
        resources: &Resources,
    ) -> Result<MicroRows> {
        let ranks = resources.all_ranks();
        let whose = if resources.gpus > 0 { "GPUs" } else { "ranks" };
        if !setup.rows.is_multiple_of(ranks) {
            anyhow::bail!(
                "a step has {} rows, which {ranks} {whose} cannot share evenly\n\
                 hint: use a number of {whose} that divides {}, or change `schedule.batch_tokens`",
                setup.rows,
                setup.rows
            );
        }
        let own = setup.rows / ranks;
        let of = if ranks == 1 { "a step".to_owned() } else { format!("each of {ranks} {whose}") };
        match self.micro_batch_rows {
            Some(rows) if rows == 0 || !own.is_multiple_of(rows) => anyhow::bail!(
                "exec.micro_batch_rows is {rows}, but {of} has {own} rows\n\
                 hint: use a divisor of {own}, or leave it out"
            ),
            Some(rows) => Ok(MicroRows::Exactly(rows)),
            None => {
                let usual = setup.micro_batch_rows(MICRO_BATCH_TOKENS, ranks);
                Ok(match resources.device {
                    Accelerator::Cpu => MicroRows::Exactly(usual),
                    Accelerator::Emulated => MicroRows::AtMost(usual),
                    Accelerator::Cuda => MicroRows::AtMost(own),
                })
            }
        }
    }

    /// The time from one checkpoint to the next, if writing the last one took `cost`.
    pub(crate) fn checkpoint_interval(&self, cost: Duration) -> Result<Duration> {
        let Some(seconds) = self.checkpoint_every_s else {
            return Ok(CHECKPOINT_INTERVAL.max(cost.saturating_mul(CHECKPOINT_SHARE)));
        };
        Duration::try_from_secs_f64(seconds).map_err(|_| {
            anyhow!(
                "exec.checkpoint_every_s is {seconds}\n\
                 hint: a number of seconds, 0 for a checkpoint after every step"
            )
        })
    }
}

impl TrainConfig {
    /// What is trained, without when and how it is looked at.
    pub(crate) fn recipe(&self) -> Recipe {
        let Self { model, schedule, optim, .. } = self.clone();
        Recipe { model, schedule, optim }
    }

    /// The optimizers' side of the model's preset.
    pub(crate) fn preset(&self) -> OptimPreset {
        self.recipe().preset()
    }

    /// What follows from these keys and the data.
    pub(crate) fn setup(&self, registry: &Registry, vocab: usize, seq_len: usize) -> Result<Setup> {
        if let Some(asked) = self.seq_len.filter(|asked| *asked != seq_len) {
            let than = if asked > seq_len { "longer" } else { "shorter" };
            anyhow::bail!(
                "a sequence of {asked} tokens is {than} than the rows, which hold {seq_len}\n\
                 hint: pack rows of that length with `row_tokens = {asked}`, or set `seq_len = {seq_len}`"
            );
        }
        Ok(Setup::new(&self.recipe(), registry, vocab, seq_len)?)
    }

    /// Faults that need no data: keys of groups, domains of numbers.
    pub(crate) fn check(&self, registry: &Registry) -> Result<()> {
        // Any vocabulary and row length will do: they come with the data.
        let built = self.model.resolve(65_536, self.seq_len.unwrap_or(2_048)).and_then(Gpt::new);
        let gpt = built.map_err(|e| {
            let key = match &e {
                farthing_model::Error::Config { key: "seq_len", .. } => "seq_len".to_owned(),
                farthing_model::Error::Config { key, .. } => format!("model.{key}"),
                _ => "model".to_owned(),
            };
            At::of(key, &e)
        })?;
        self.schedule.schedule(self.preset()).map_err(|e| At::of("schedule", &e))?;
        // A misspelt optimizer comes first: what its group lacks follows from it.
        for (name, uses) in self.optim.iter().filter_map(|(n, keys)| Some((n, keys.uses.as_ref()?)))
        {
            registry.keys(uses).map_err(|e| At::of(format!("optim.{name}.uses"), &e))?;
        }
        let groups = merge(self.preset().groups(), &self.optim).map_err(|e| match &e {
            farthing_optim::Error::MissingKey { group, .. } => At::of(format!("optim.{group}"), &e),
            _ => At::of("optim", &e),
        })?;
        for group in &groups {
            let key = format!("optim.{}", group.name);
            registry.check(&group.uses, &group.options).map_err(|e| {
                use farthing_optim::Error;
                match &e {
                    Error::UnknownKey { key: k, known, .. } => {
                        At::new(format!("{key}.{k}"), e.to_string()).hint(format!(
                            "a group's keys are {}; `{}` adds {}",
                            GroupKeys::COMMON.join(", "),
                            group.uses,
                            known.join(", ")
                        ))
                    }
                    _ => At::of(&key, &e),
                }
            })?;
        }
        if let Err(e) = resolve(&groups, &listed(&gpt)) {
            use farthing_optim::Error;
            let group = match &e {
                Error::MatchesNothing { group, .. } | Error::Pattern { group, .. } => Some(group),
                // Of several groups, the file's own is the one to change.
                Error::MatchedTwice { groups, .. } => {
                    groups.iter().find(|group| self.optim.contains_key(*group))
                }
                _ => None,
            };
            let own = group.filter(|group| self.optim.contains_key(*group));
            let key = own.map_or("optim".to_owned(), |group| format!("optim.{group}"));
            return Err(At::of(key, &e).into());
        }
        if self.evaluate.every_steps == 0 {
            let fault = At::new("evaluate.every_steps", "0 steps between evaluations");
            return Err(fault.hint("at least 1; the last step is evaluated in any case").into());
        }
        Ok(())
    }

    /// Every preset and default written out, those of the registered rules too; `None` where these have none to add, so that it is what is written of the config
    /// anyway.
    pub(crate) fn canonical(&self, registry: &Registry) -> Result<Option<Value>> {
        let groups = merge(self.preset().groups(), &self.optim)?;
        let complete = registry.complete(groups.clone())?;
        if complete == groups { Ok(None) } else { self.with_groups(complete).map(Some) }
    }

    /// Every preset and default written out, but for those of rules.
    pub(crate) fn written(&self) -> Result<Value> {
        self.with_groups(merge(self.preset().groups(), &self.optim)?)
    }

    fn with_groups(&self, groups: Vec<Group>) -> Result<Value> {
        // The vocabulary and the row length belong to the inputs, whose digests are in the key; what the preset derives
        // from the row length stays as the file has it.
        let mut model = serde_json::to_value(self.model.resolve(65_536, 2_048)?)?;
        if let Value::Object(fields) = &mut model {
            fields.remove("vocab_size");
            fields.remove("seq_len");
        }
        model["short_window"] = json!(self.model.short_window);
        model["preset"] = json!(self.model.preset);
        let preset = self.preset();
        // By name, and without where the settings come from: what the preset says may be spelled out.
        let mut optim = serde_json::Map::new();
        for group in groups {
            let mut keys = serde_json::to_value(&group)?;
            if let Value::Object(fields) = &mut keys {
                fields.remove("name");
                fields.remove("origin");
            }
            optim.insert(group.name, keys);
        }
        let mut canonical = json!({
            "schedule": self.schedule.schedule(preset)?,
            "scaling": self.schedule.scaling(preset),
            "batch_tokens": self.schedule.batch_tokens,
            "steps": self.schedule.steps,
            "evaluate": self.evaluate,
        });
        // Moved, since `json!` writes out once more what it is given.
        canonical["model"] = model;
        canonical["optim"] = optim.into();
        // What is off is absent: a key from before it could be on stays as it was.
        if self.precision == Some(Precision::Bf16) {
            canonical["precision"] = json!(Precision::Bf16);
        }
        if self.keep_best {
            canonical["keep_best"] = json!(true);
        }
        Ok(canonical)
    }
}

impl Serialize for TrainConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.written().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use farthing_kernels::{Device, Slab, SlabSpec, Tensor};
    use farthing_optim::{Hyper, Optimizer, OptimizerKind};

    use super::*;

    #[test]
    fn checkpoints_take_a_hundredth_of_the_time_unless_somebody_says_how_often() {
        let interval = |of: Option<f64>, cost: u64| {
            let exec = TrainExec { checkpoint_every_s: of, ..TrainExec::default() };
            exec.checkpoint_interval(Duration::from_secs(cost)).map(|every| every.as_secs()).ok()
        };
        assert_eq!(interval(None, 0), Some(60));
        assert_eq!(interval(None, 3), Some(300));
        assert_eq!(interval(None, u64::MAX), Some(u64::MAX));
        assert_eq!(interval(Some(10.0), 3), Some(10));
        assert_eq!(interval(Some(0.0), 3), Some(0));
        assert_eq!(interval(Some(f64::NAN), 3), None);
    }

    /// A rule with one key, whose default is `N` tenths.
    struct Rule<const N: u32>;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Keys<const N: u32> {
        #[serde(default = "tenths::<N>")]
        damping: f64,
    }

    fn tenths<const N: u32>() -> f64 {
        f64::from(N) / 10.0
    }

    impl<const N: u32> Optimizer for Rule<N> {
        fn step(
            &mut self,
            _: &dyn Device,
            _: &mut Slab<'_>,
            _: &Hyper,
        ) -> farthing_optim::Result<()> {
            Ok(())
        }

        fn state(&mut self) -> Vec<(String, &mut Tensor)> {
            vec![]
        }
    }

    impl<const N: u32> OptimizerKind for Rule<N> {
        type Config = Keys<N>;

        fn build(
            _: Keys<N>,
            _: &dyn Device,
            _: &SlabSpec,
        ) -> farthing_optim::Result<Box<dyn Optimizer>> {
            Ok(Box::new(Self))
        }
    }

    fn key(registry: &Registry, group: &Value) -> Value {
        let config: TrainConfig = serde_json::from_value(json!({
            "model": {"preset": "nanochat-2026-07", "depth": 2},
            "optim": {"matrices": group},
        }))
        .unwrap();
        let canonical = config.canonical(registry).unwrap();
        canonical.unwrap_or_else(|| serde_json::to_value(&config).unwrap())
    }

    #[test]
    fn a_default_that_is_spelled_out_is_the_same_key_and_one_that_is_changed_in_code_is_not() {
        let plain = |registry| key(registry, &json!({"uses": "rule", "lr": 0.1}));
        let spelled = |registry| key(registry, &json!({"uses": "rule", "lr": 0.1, "damping": 0.3}));
        let (three, four) = (
            Registry::standard().register::<Rule<3>>("rule"),
            Registry::standard().register::<Rule<4>>("rule"),
        );
        assert_eq!(plain(&three), spelled(&three));
        assert_ne!(plain(&three), plain(&four));
        assert_eq!(spelled(&three), spelled(&four));
    }

    #[test]
    fn the_presets_own_rules_have_no_defaults_to_write_out() {
        // So that keys of entries from before defaults entered the key are what they were.
        for preset in ["nanochat-2026-01", "nanochat-2026-07"] {
            let config: TrainConfig =
                serde_json::from_value(json!({"model": {"preset": preset, "depth": 2}})).unwrap();
            assert_eq!(config.canonical(&Registry::standard()).unwrap(), None, "{preset}");
            // The key is made of what was written as text: no number may change on the way.
            let as_typed = serde_json::to_value(&config).unwrap();
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), as_typed, "{preset}");
        }
    }
}

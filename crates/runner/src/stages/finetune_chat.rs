//! `finetune-chat`: teaches a trained model to answer, using conversations. The model learns what the assistant says; everything else is only read.

use std::path::{Path, PathBuf};

use anyhow::Context;
use farthing_base::FileError;
use farthing_data::world::{Split, World};
use farthing_data::{ChatTokens, Conversation, Conversations, Rows, Tokenizer, pack_chat};
use farthing_model::{Checkpoint, GptConfig};
use farthing_optim::{GroupKeys, OptimPreset, Schedule, merge};
use farthing_train::{Finetune, MODEL_FILE, Setup};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

use super::loaded::no_gpt2;
use super::train_gpt::{
    self, EvaluateConfig, Learn, Precision, TrainExec, Work, keep_tokenizer, preflight,
};
use super::watch::{Watched, cut_off};
use crate::progress::format::count;
use crate::{
    At, Ctx, Estimate, Extras, Given, PlanCtx, PlanLine, Port, Promise, Resources, Result, Stage,
    port,
};

/// The embedded world's own conversations.
const WORLD: &str = "embedded://world";

/// Where none are held out by name, one conversation in so many is.
const HELD_OUT: u64 = 20;

/// Conversations that a plan guesses the length of all by.
const LOOKED_AT: usize = 1_000;

/// The stage's keys.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Files of JSON lines, each a conversation with its `messages`, relative to the working directory; or `embedded://world`. One, or a list.
    // What the files hold counts, by way of `sources`.
    #[serde(deserialize_with = "one_or_more", serialize_with = "without_paths")]
    #[schemars(with = "OneOrMore")]
    pub conversations: Vec<String>,
    /// The same, held out to evaluate on; absent, every 20th of `conversations`.
    #[serde(
        default,
        deserialize_with = "one_or_more",
        serialize_with = "without_paths",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "OneOrMore")]
    pub val: Vec<String>,
    /// Of the embedded world: its seed, and how many conversations.
    #[serde(default)]
    pub world: WorldKeys,
    /// How often each conversation is learned from.
    #[serde(default = "one")]
    pub epochs: f64,
    /// Tokens of a step, rounded down to whole rows.
    #[serde(default = "batch_tokens")]
    pub batch_tokens: u64,
    /// Whose optimizer groups and rates: the preset that the model was trained with.
    #[serde(default)]
    pub preset: OptimPreset,
    /// Learning rates as a part of those of the model's training.
    #[serde(default = "lr_frac")]
    pub lr_frac: f64,
    /// The part of the steps, at the end, in which rates fall to 0.
    #[serde(default = "warmdown_frac")]
    pub warmdown_frac: f64,
    /// Optimizer groups, by name, laid over the preset's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub optim: BTreeMap<String, GroupKeys>,
    /// When and how much to evaluate on conversations that are held out.
    #[serde(default)]
    pub evaluate: EvaluateConfig,
    /// How activations are stored; what the device does by itself where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
}

/// Which conversations of which world.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorldKeys {
    /// As that of the text that the model was trained on.
    pub seed: u64,
    /// How many.
    pub conversations: u64,
}

impl Default for WorldKeys {
    fn default() -> Self {
        Self { seed: 1337, conversations: 4_000 }
    }
}

fn one() -> f64 {
    1.0
}

fn batch_tokens() -> u64 {
    524_288
}

fn lr_frac() -> f64 {
    0.8
}

fn warmdown_frac() -> f64 {
    0.5
}

/// How a file may write a list of one.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(more) => more,
    })
}

fn without_paths<S: Serializer>(sources: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(sources.iter().map(|s| if s == WORLD { WORLD } else { "file" }))
}

impl Config {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let all = self.conversations.iter().chain(&self.val);
        all.filter(|source| *source != WORLD).map(Path::new)
    }

    /// The conversations of some sources, one after another.
    fn read(
        &self,
        sources: &[String],
        split: Split,
    ) -> impl Iterator<Item = farthing_data::Result<Conversation>> {
        let WorldKeys { seed, conversations } = self.world;
        sources.iter().cloned().flat_map(move |source| {
            let all: Box<dyn Iterator<Item = farthing_data::Result<Conversation>>> =
                if source == WORLD {
                    let world = World::new(seed);
                    Box::new((0..conversations).map(move |i| Ok(world.conversation(split, i))))
                } else {
                    match Conversations::open(Path::new(&source)) {
                        Ok(lines) => Box::new(lines),
                        Err(e) => Box::new(std::iter::once(Err(e))),
                    }
                };
            all
        })
    }

    /// Packs what is learned from, or what is held out.
    fn pack(
        &self,
        held_out: bool,
        tokenizer: &Tokenizer,
        context: usize,
        ctx: &Ctx,
    ) -> Result<Rows> {
        let (name, what) = if held_out { ("val", "held out") } else { ("train", "to learn from") };
        let out = ctx.scratch()?.join(name);
        let mut watched = Watched::new(ctx, "conversations");
        let packed = if self.val.is_empty() {
            let all = self.read(&self.conversations, Split::Train).zip(1..);
            // What cannot be read is told in either case.
            let of = move |(talk, n): &(farthing_data::Result<Conversation>, u64)| {
                talk.is_err() || n.is_multiple_of(HELD_OUT) == held_out
            };
            pack_chat(all.filter(of).map(|(talk, _)| talk), tokenizer, context, &out, &mut watched)
        } else {
            let (sources, split) = if held_out {
                (&self.val, Split::Val)
            } else {
                (&self.conversations, Split::Train)
            };
            pack_chat(self.read(sources, split), tokenizer, context, &out, &mut watched)
        };
        let manifest = match packed {
            Err(farthing_data::Error::NoRows { .. }) => anyhow::bail!(
                "there is no conversation {what}\n\
                 hint: give at least {HELD_OUT} in `conversations`, of which every {HELD_OUT}th is held out, or others in `val`"
            ),
            packed => {
                packed.map_err(cut_off).with_context(|| format!("packing conversations {what}"))?
            }
        };
        let stats = &manifest.stats;
        let cut = match stats.tokens_cropped {
            0 => String::new(),
            n => format!(", {} tokens cut off conversations longer than a row", count(n)),
        };
        ctx.log(format!(
            "{name}: {} conversations in {} rows, {:.1}% padding{cut}",
            count(stats.documents),
            count(manifest.rows),
            100.0 * stats.bos_added as f64 / (manifest.rows * manifest.row_tokens as u64) as f64,
        ));
        Ok(Rows::open(out)?)
    }

    /// The training as far as it is known before its rows are packed; `None` where the model isn't known yet.
    fn setup(&self, ctx: &PlanCtx) -> Result<Option<Setup>> {
        let Some(model) = train_gpt::model_of(ctx)? else { return Ok(None) };
        let tokenizer = ctx.input("bpe").map(Tokenizer::load).transpose()?;
        let rows = self.about_rows(tokenizer.as_ref(), model.seq_len)?;
        let (vocab, seq_len) = (model.vocab_size, model.seq_len);
        let registry = train_gpt::registry(ctx.extras())?;
        self.learn(model, rows).setup(registry, vocab, seq_len).map(Some)
    }

    /// About how many rows of `context` + 1 tokens there will be to learn from, by a first look at the conversations. A tokenizer that isn't made yet is taken to have
    /// four bytes in a token.
    fn about_rows(&self, tokenizer: Option<&Tokenizer>, context: usize) -> Result<u64> {
        let chat = tokenizer.map(ChatTokens::of).transpose()?;
        let (mut seen, mut tokens) = (0u64, 0u64);
        for talk in self.read(&self.conversations, Split::Train).take(LOOKED_AT) {
            let messages = talk?.messages;
            let found = match tokenizer.zip(chat.as_ref()) {
                Some((tokenizer, chat)) => chat.render(tokenizer, &messages)?.len(),
                None => messages.iter().map(|m| m.content.bytes() / 4 + 2).sum::<usize>() + 1,
            };
            seen += 1;
            tokens += found.min(context + 1) as u64;
        }
        let mut all = 0;
        for source in &self.conversations {
            all += if source == WORLD {
                self.world.conversations
            } else {
                Conversations::about_how_many(Path::new(source))?
            };
        }
        if self.val.is_empty() {
            all -= all / HELD_OUT;
        }
        Ok((all * tokens).div_ceil((seen * (context as u64 + 1)).max(1)).max(1))
    }

    /// What is trained, over as many rows.
    fn learn(&self, model: GptConfig, rows: u64) -> Learn {
        let seq_len = model.seq_len as u64;
        let step_rows = (self.batch_tokens / seq_len).max(1);
        let steps = (self.epochs * rows as f64 / step_rows as f64).ceil().max(1.0) as u64;
        let how = Finetune {
            preset: self.preset,
            lr_frac: self.lr_frac,
            batch_tokens: step_rows * seq_len,
            steps,
            schedule: Schedule { warmdown_frac: self.warmdown_frac, ..Finetune::schedule() },
            optim: self.optim.clone(),
        };
        Learn::Chat(model, how)
    }
}

/// Finetunes a model on conversations. Its folder has a chat template, by which it is known for a model to chat with.
#[derive(Debug)]
pub struct FinetuneChat;

impl Stage for FinetuneChat {
    type Config = Config;
    type Exec = TrainExec;
    const KIND: &'static str = "finetune-chat";
    const ABOUT: &'static str = "teaches a trained model to answer, from conversations";
    const VERSION: u32 = 4;
    const COMPUTES: bool = true;
    const RANKS: bool = true;
    const INPUTS: &'static [Port] = &[port("model", "checkpoint"), port("bpe", "tokenizer")];
    const OUTPUTS: &'static [Port] =
        &[port("checkpoint", "checkpoint"), port("metrics", "metrics")];
    const FIGURES: &'static [&'static str] =
        &["bpb_start", "bpb_end", "loss", "tokens", "tokens_per_s", "parameters"];

    fn key(config: &Config, extras: &Extras) -> Result<Option<serde_json::Value>> {
        // The groups' numbers, whether the preset or the file says them.
        let groups = merge(config.preset.groups(), &config.optim)?;
        let mut key = serde_json::to_value(config)?;
        key["optim"] = serde_json::to_value(train_gpt::registry(extras)?.complete(groups)?)?;
        Ok(Some(key))
    }

    fn check(config: &Config, extras: &Extras) -> Result<()> {
        let fault = |key: &str, what: String, hint: &str| Err(At::new(key, what).hint(hint).into());
        let files = "a file of JSON lines, a list of them, or \"embedded://world\"";
        if config.conversations.is_empty() {
            return fault("conversations", "no file".into(), files);
        }
        for (key, sources) in [("conversations", &config.conversations), ("val", &config.val)] {
            if let Some(wrong) =
                sources.iter().find(|s| s.is_empty() || s.as_str() != WORLD && s.contains("://"))
            {
                return fault(key, format!("`{wrong}` is no file"), files);
            }
        }
        if config.world.conversations == 0 || config.world.conversations > 1_000_000_000 {
            let what = format!("{} conversations", config.world.conversations);
            return fault("world.conversations", what, "from 1 to 1,000,000,000");
        }
        if !(config.epochs > 0.0 && config.epochs <= 1e6) {
            return fault(
                "epochs",
                format!("{} epochs", config.epochs),
                "above 0; 1 to 3 are usual",
            );
        }
        if config.batch_tokens == 0 || config.batch_tokens > 1 << 40 {
            let what = format!("a step of {} tokens", config.batch_tokens);
            return fault("batch_tokens", what, "at least a row; 524,288 for many conversations");
        }
        if !(config.lr_frac > 0.0 && config.lr_frac.is_finite()) {
            return fault(
                "lr_frac",
                format!("{} of the rates", config.lr_frac),
                "above 0; 0.8 by default",
            );
        }
        if !(0.0..=1.0).contains(&config.warmdown_frac) {
            let what = format!("{} of the steps", config.warmdown_frac);
            return fault("warmdown_frac", what, "from 0 to 1; 0.5 by default");
        }
        if config.evaluate.every_steps == 0 {
            let what = "0 steps between evaluations".to_owned();
            return fault(
                "evaluate.every_steps",
                what,
                "at least 1; the last step is evaluated in any case",
            );
        }
        let groups =
            merge(config.preset.groups(), &config.optim).map_err(|e| At::of("optim", &e))?;
        for group in groups.iter().filter(|group| config.optim.contains_key(&group.name)) {
            let checked = train_gpt::registry(extras)?.check(&group.uses, &group.options);
            checked.map_err(|e| At::of(format!("optim.{}", group.name), &e))?;
        }
        Ok(())
    }

    fn sources(config: &Config) -> Result<Vec<PathBuf>> {
        for path in config.paths() {
            if !path.is_file() {
                let gone = FileError::at("open", path)(std::io::ErrorKind::NotFound.into());
                return Err(farthing_data::Error::from(gone).into());
            }
        }
        Ok(config.paths().map(Path::to_owned).collect())
    }

    fn origin(config: &Config) -> Option<String> {
        let paths: Vec<String> = config.paths().map(|path| path.display().to_string()).collect();
        (!paths.is_empty()).then(|| paths.join(" "))
    }

    fn promises(_: &Config, given: &Given<'_>) -> Vec<Promise> {
        train_gpt::promises_of("model", "checkpoint", given)
    }

    fn plan(
        config: &Config,
        exec: &TrainExec,
        resources: &Resources,
        ctx: &PlanCtx,
    ) -> Result<Vec<PlanLine>> {
        no_gpt2(ctx)?;
        let found = ctx.input("model").map(|model| Checkpoint::peek(&model.join(MODEL_FILE)));
        let begins = match found {
            Some(Ok((_, step))) => {
                format!("that of input `model`, trained for {} steps", count(step))
            }
            _ => "that of input `model`, once it is made".to_owned(),
        };
        let times =
            if config.epochs == 1.0 { "once".into() } else { format!("{} times", config.epochs) };
        let lines = vec![
            PlanLine::new("begins with", begins),
            PlanLine::new("learns", format!("what the assistant says, {times}")),
        ];
        match config.setup(ctx)? {
            Some(mut setup) => {
                // How many steps there are is a guess, and said as one.
                setup.plan.explanation.retain(|line| !line.contains(" steps of "));
                let precision = config.precision;
                train_gpt::lines_of(setup, lines, "about ", precision, exec, resources, ctx)
            }
            None => Ok(lines),
        }
    }

    fn estimate(config: &Config, resources: &Resources, ctx: &PlanCtx) -> Result<Option<Estimate>> {
        let setup = ctx.kept(|| config.setup(ctx))?.and_then(Option::as_ref);
        setup.map(|setup| train_gpt::estimate(setup, resources, ctx)).transpose()
    }

    fn memory(
        config: &Config,
        exec: &TrainExec,
        resources: &Resources,
        ctx: &PlanCtx,
    ) -> Result<Option<u64>> {
        let setup = || config.setup(ctx);
        train_gpt::memory_of(setup, config.precision, exec, resources, ctx)
    }

    fn preflight(
        config: &Config,
        exec: &TrainExec,
        resources: &Resources,
        ctx: &PlanCtx,
    ) -> Result<()> {
        no_gpt2(ctx)?;
        exec.checkpoint_interval(std::time::Duration::ZERO)?;
        for path in config.paths() {
            // A first look, before hours of training.
            if let Some(first) = Conversations::open(path)?.next() {
                first?;
            }
        }
        if let Some(bpe) = ctx.input("bpe") {
            ChatTokens::of(&Tokenizer::load(bpe)?)?;
        }
        preflight(config.precision, resources, ctx)
    }

    fn run(config: Config, exec: TrainExec, ctx: &mut Ctx) -> Result<()> {
        let tokenizer = super::tokenizer(ctx)?;
        let path = ctx.input("model")?.join(MODEL_FILE);
        let (model, _) =
            Checkpoint::peek(&path).map_err(|e| super::unreadable("reading input `model`", &e))?;
        let out = ctx.output("checkpoint");
        keep_tokenizer(&tokenizer, &out)?;
        super::write_template(&out)?;
        let train = config.pack(false, &tokenizer, model.seq_len, ctx)?;
        let val = config.pack(true, &tokenizer, model.seq_len, ctx)?;
        let rows = train.len();
        let work = Work {
            train,
            val,
            learn: config.learn(model, rows),
            precision: config.precision,
            evaluate: config.evaluate,
            keep_best: false,
            config: serde_json::to_value(&config)?,
        };
        work.run(&tokenizer, exec, ctx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_their_key_and_paths_stay_out_of_the_key() {
        let config = |text: &str| toml::from_str::<Config>(text).unwrap();
        for (text, key) in [
            ("conversations = []", "conversations"),
            ("conversations = 'https://x/y.jsonl'", "conversations"),
            ("conversations = 'a'\nval = ''", "val"),
            ("conversations = 'a'\nepochs = 0.0", "epochs"),
            ("conversations = 'a'\nepochs = nan", "epochs"),
            ("conversations = 'a'\nbatch_tokens = 0", "batch_tokens"),
            ("conversations = 'a'\nlr_frac = -1.0", "lr_frac"),
            ("conversations = 'a'\nwarmdown_frac = 2.0", "warmdown_frac"),
            ("conversations = 'a'\nevaluate = { every_steps = 0 }", "evaluate.every_steps"),
            ("conversations = 'a'\nworld = { conversations = 0 }", "world.conversations"),
        ] {
            let error = FinetuneChat::check(&config(text), &Extras::default()).unwrap_err();
            assert_eq!(error.downcast_ref::<At>().unwrap().key, key, "{text}");
        }
        assert!(toml::from_str::<Config>("conversations = 'a'\nepoch = 2").is_err());
        let plain =
            serde_json::to_value(config("conversations = ['a', 'embedded://world']")).unwrap();
        assert_eq!(plain["conversations"], serde_json::json!(["file", WORLD]));
        let other = config("conversations = ['b/c', 'embedded://world']\nepochs = 1.0");
        assert_eq!(serde_json::to_value(other).unwrap(), plain);
        let gone = config("conversations = 'no/such.jsonl'");
        let error = FinetuneChat::sources(&gone).unwrap_err();
        assert!(error.to_string().contains("no/such.jsonl"), "{error}");
    }
}

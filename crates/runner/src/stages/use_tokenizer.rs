//! `use-tokenizer`: a tokenizer that exists already, in place of one that is trained.

use std::path::PathBuf;

use farthing_data::Tokenizer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::progress::format::count;
use crate::{
    At, Ctx, Extras, Given, NoExec, PlanCtx, PlanLine, Port, Promise, Resources, Result, Stage,
    port,
};

/// The stage's keys.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A `tokenizer.json`, or a folder with one or with GPT-2's files, relative to the working directory.
    // Its content counts, by way of `sources`.
    #[serde(skip_serializing)]
    pub path: PathBuf,
}

/// Checks a tokenizer file and hands it on as `bpe`.
///
/// The file's content enters the cache key, so that an edited one is noticed; where it lies does not.
#[derive(Debug)]
pub struct UseTokenizer;

impl Stage for UseTokenizer {
    type Config = Config;
    type Exec = NoExec;
    const KIND: &'static str = "use-tokenizer";
    const ABOUT: &'static str = "a tokenizer that exists already";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[port("bpe", "tokenizer")];
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] = &["vocab_size"];

    fn check(config: &Config, _extras: &Extras) -> Result<()> {
        if config.path.as_os_str().is_empty() {
            let fault = At::new("path", "the tokenizer's path is empty");
            return Err(fault.hint("a tokenizer.json, or a folder with GPT-2's files").into());
        }
        Ok(())
    }

    fn sources(config: &Config) -> Result<Vec<PathBuf>> {
        // A file that is not there keeps nobody from planning; `preflight` asks for it.
        Ok(Tokenizer::files(&config.path)?)
    }

    fn origin(config: &Config) -> Option<String> {
        Some(config.path.display().to_string())
    }

    fn promises(config: &Config, _: &Given<'_>) -> Vec<Promise> {
        let tokenizer = Tokenizer::load(&config.path).ok();
        let promise = |t: Tokenizer| Promise::new("bpe", "vocab_size", t.vocab_size() as u64);
        tokenizer.map(promise).into_iter().collect()
    }

    fn plan(
        config: &Config,
        _exec: &NoExec,
        _resources: &Resources,
        _ctx: &PlanCtx,
    ) -> Result<Vec<PlanLine>> {
        let text = match Tokenizer::load(&config.path) {
            Ok(t) => format!("{} entries", count(t.vocab_size() as u64)),
            Err(error) => error.to_string(),
        };
        Ok(vec![PlanLine::new("tokenizer", text)])
    }

    fn preflight(
        config: &Config,
        _exec: &NoExec,
        _resources: &Resources,
        _ctx: &PlanCtx,
    ) -> Result<()> {
        Ok(Tokenizer::load(&config.path).map(drop)?)
    }

    fn run(config: Config, _exec: NoExec, ctx: &mut Ctx) -> Result<()> {
        let tokenizer = Tokenizer::load(&config.path)?;
        tokenizer.save(ctx.output("bpe"))?;
        ctx.log(format!("{} entries", count(tokenizer.vocab_size() as u64)));
        if let Some(reason) = tokenizer.slow_because() {
            ctx.log(format!(
                "encoding with it is several times slower than with others, because {reason}"
            ));
        }
        ctx.summary("vocab_size", tokenizer.vocab_size());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farthing_data::BpeSettings;

    #[test]
    fn a_file_is_handed_on_and_a_missing_one_is_named_before_anything_runs() {
        let dir = tempfile::tempdir().unwrap();
        let settings = BpeSettings { vocab_size: 270, ..BpeSettings::default() };
        let texts = std::iter::once(Ok("the more the merrier".to_string()));
        let (tokenizer, _) = Tokenizer::train(texts, &settings).unwrap();
        let config = Config { path: dir.path().join("mine.json") };
        tokenizer.save(&config.path).unwrap();

        let given = Given::new(Vec::new);
        assert_eq!(UseTokenizer::sources(&config).unwrap(), std::slice::from_ref(&config.path));
        assert_eq!(UseTokenizer::promises(&config, &given)[0].value, 270);
        let mut ctx = Ctx::detached(dir.path(), []);
        UseTokenizer::run(config, NoExec {}, &mut ctx).unwrap();
        assert_eq!(Tokenizer::load(ctx.output("bpe")).unwrap().digest(), tokenizer.digest());
        assert_eq!(ctx.figures().len(), UseTokenizer::FIGURES.len());

        let missing = Config { path: dir.path().join("other.json") };
        let error = UseTokenizer::sources(&missing).unwrap_err();
        assert!(error.downcast_ref().is_some_and(farthing_data::Error::is_absent), "{error}");
        assert!(UseTokenizer::promises(&missing, &given).is_empty());
        let error = UseTokenizer::run(missing, NoExec {}, &mut ctx).unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("other.json"), "{error}");
        let empty = Config { path: PathBuf::new() };
        let error = UseTokenizer::check(&empty, &Extras::default()).unwrap_err();
        assert_eq!(error.downcast_ref::<At>().unwrap().key, "path");
    }
}

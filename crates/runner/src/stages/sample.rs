//! `sample`: continues prompts with a trained model.

use farthing_model::Sampling;
use farthing_talk::visible;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::loaded::{Loaded, no_gpt2};
use super::{device, seat};
use crate::{At, Ctx, Extras, NoExec, PlanCtx, Port, Resources, Result, Stage, port};

/// The stage's keys.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Texts to continue; an empty one starts a document.
    pub prompts: Vec<String>,
    /// Tokens to add to each; a document may end earlier.
    #[serde(default = "max_tokens")]
    pub max_tokens: usize,
    /// 0 takes the most probable token, 1 samples from the model's own distribution.
    #[serde(default)]
    pub temperature: f64,
    /// Samples from this many most probable tokens; from all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
}

/// Tokens that a text can be continued by: keys and values of all are kept.
const MOST_TOKENS: usize = 1 << 20;

fn max_tokens() -> usize {
    64
}

/// Continues prompts.
pub struct Sample;

impl Stage for Sample {
    type Config = Config;
    type Exec = NoExec;
    const KIND: &'static str = "sample";
    const ABOUT: &'static str = "continues prompts with a trained model";
    const VERSION: u32 = 2;
    const COMPUTES: bool = true;
    const INPUTS: &'static [Port] = &[port("model", "checkpoint"), port("bpe", "tokenizer")];
    const OUTPUTS: &'static [Port] = &[port("text", "text")];

    fn check(config: &Config, _: &Extras) -> Result<()> {
        let fault = |key: &str, what: String, hint: &str| Err(At::new(key, what).hint(hint).into());
        if config.prompts.is_empty() {
            return fault(
                "prompts",
                "no prompt".into(),
                "give at least one; \"\" starts a document",
            );
        }
        if config.max_tokens == 0 {
            return fault("max_tokens", "0 tokens to add".into(), "at least 1");
        }
        if config.max_tokens > MOST_TOKENS {
            let what = format!("{} tokens to add", config.max_tokens);
            return fault("max_tokens", what, "at most 1,048,576");
        }
        if !(config.temperature >= 0.0 && config.temperature.is_finite()) {
            let what = format!("a temperature of {}", config.temperature);
            return fault("temperature", what, "0 (greedy) or above");
        }
        if config.top_k == Some(0) {
            return fault("top_k", "0 tokens to choose from".into(), "at least 1, or leave it out");
        }
        Ok(())
    }

    fn preflight(_: &Config, _: &NoExec, resources: &Resources, ctx: &PlanCtx) -> Result<()> {
        no_gpt2(ctx)?;
        seat::preflight(resources, ctx, "", |rank| device::open_of(resources, rank))
    }

    fn run(config: Config, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let Loaded { dev, gpt, params, tokenizer } = Loaded::open(ctx)?;
        let bos = tokenizer.bos();
        let progress = ctx.progress(config.prompts.len() as u64, "prompts");
        let mut out = ctx.metrics("text")?;
        for (i, prompt) in config.prompts.iter().enumerate() {
            ctx.check_cancelled()?;
            let mut tokens = vec![bos];
            tokenizer.encode_to(prompt, &mut tokens)?;
            let sampling = Sampling {
                temperature: config.temperature,
                top_k: config.top_k,
                seed: ctx.seed.wrapping_add(i as u64),
                ..Sampling::GREEDY
            };
            let room = tokens.len() + config.max_tokens;
            let mut generator = gpt.generator(dev.as_ref(), params.weights(), room)?;
            let new = generator.generate(&tokens, config.max_tokens, &sampling, |t| t == bos)?;
            let text = tokenizer.decode(&new);
            let shown = format!("{prompt}{text}");
            ctx.log(visible(&shown));
            out.write(&json!({
                "prompt": prompt, "text": text, "temperature": config.temperature,
            }))?;
            ctx.summary(format!("sample {}", i + 1), one_line(&visible(&shown)));
            progress.advance(1);
        }
        Ok(())
    }
}

/// The beginning of a text, on one line.
fn one_line(text: &str) -> String {
    const MOST: usize = 160;
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(MOST) {
        line.truncate(end);
        line.push('…');
    }
    line
}

//! `eval-bpb`: bits per byte of a model on held-out rows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::evaluation::{self, What, bits};
use super::{device, seat, watch::Watched};
use crate::{At, Ctx, Extras, NoExec, PlanCtx, Port, Resources, Result, Stage, port};

/// The stage's keys.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Tokens to evaluate, at most what is held out; the recipe's 80 · 524,288 by default.
    #[serde(default = "tokens")]
    pub tokens: u64,
}

fn tokens() -> u64 {
    80 * 524_288
}

/// Evaluates bits per byte.
pub struct EvalBpb;

impl Stage for EvalBpb {
    type Config = Config;
    type Exec = NoExec;
    const KIND: &'static str = "eval-bpb";
    const ABOUT: &'static str = "bits per byte of a model on held-out rows";
    const VERSION: u32 = 3;
    const COMPUTES: bool = true;
    const RANKS: bool = true;
    const INPUTS: &'static [Port] =
        &[port("model", "checkpoint"), port("val", "packed rows"), port("bpe", "tokenizer")];
    const OUTPUTS: &'static [Port] = &[port("metrics", "metrics")];
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] = &["bpb", "loss", "tokens"];

    fn check(config: &Config, _: &Extras) -> Result<()> {
        if config.tokens == 0 {
            return Err(At::new("tokens", "0 tokens to evaluate").hint("at least one row").into());
        }
        Ok(())
    }

    fn preflight(_: &Config, _: &NoExec, resources: &Resources, ctx: &PlanCtx) -> Result<()> {
        seat::preflight(resources, ctx, "", |rank| device::open_of(resources, rank))
    }

    fn run(config: Config, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let what = What::Bits { rows: ctx.input("val")?.to_owned(), tokens: config.tokens };
        let result = evaluation::on_ranks(ctx, what, |loaded, ranks| {
            let rows = super::rows(ctx, "val", &loaded.tokenizer)?;
            bits(loaded, &rows, config.tokens, ranks, &mut Watched::new(ctx, "tokens"))
        })?;
        let loss = result.nats / result.targets as f64;
        ctx.metrics("metrics")?.write(&json!({
            "record": "bpb", "bpb": result.bits_per_byte, "loss": loss,
            "tokens": result.tokens, "bytes": result.bytes,
        }))?;
        ctx.summary("bpb", result.bits_per_byte);
        ctx.summary("loss", loss);
        ctx.summary("tokens", result.tokens);
        Ok(())
    }
}

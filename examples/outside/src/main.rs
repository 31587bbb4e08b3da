//! A runner with a stage and an optimizer of its own.

use farthing_kernels::{Device, Expr, Slab, SlabSpec, Tensor};
use farthing_optim::{self as optim, Hyper, Optimizer, OptimizerKind};
use farthing_runner::{App, Ctx, NoExec, Port, Result, Stage, port};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Steps of one length, in the direction of the gradient's signs.
struct SignSgd([Expr; 1]);

#[derive(Serialize, Deserialize)]
struct NoKeys {}

impl OptimizerKind for SignSgd {
    type Config = NoKeys;
    fn build(_: NoKeys, _: &dyn Device, _: &SlabSpec) -> optim::Result<Box<dyn Optimizer>> {
        Ok(Box::new(Self([Expr::old(0) - Expr::scalar(0) * Expr::input(0).sign()])))
    }
}

impl Optimizer for SignSgd {
    fn step(&mut self, dev: &dyn Device, slab: &mut Slab<'_>, now: &Hyper) -> optim::Result<()> {
        Ok(dev.map(&self.0, &mut [slab.weight.reborrow()], &[slab.grad.view()], &[now.lr])?)
    }
    fn state(&mut self) -> Vec<(String, &mut Tensor)> {
        vec![]
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// The word to look for.
    word: String,
}

/// How often samples have a word.
struct CountWord;

impl Stage for CountWord {
    type Config = Keys;
    type Exec = NoExec;
    const KIND: &'static str = "count-word";
    const ABOUT: &'static str = "counts a word in samples";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[port("text", "text")];
    const OUTPUTS: &'static [Port] = &[port("count", "text")];
    fn run(keys: Keys, _: NoExec, ctx: &mut Ctx) -> Result<()> {
        let count = std::fs::read_to_string(ctx.input("text")?)?.matches(&keys.word).count();
        ctx.summary("times", count as u64);
        Ok(std::fs::write(ctx.output("count"), format!("{count}\n"))?)
    }
}

fn main() -> std::process::ExitCode {
    App::standard().stage::<CountWord>().optimizer::<SignSgd>("sign-sgd").main()
}

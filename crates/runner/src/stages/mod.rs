//! The product's stages, each a thin adapter over one of the other crates.

pub mod eval_bpb;
pub mod eval_core;
pub mod fetch_parquet;
pub mod pack_bestfit;
pub mod report;
pub mod sample;
pub mod train_bpe;
pub mod train_gpt;

mod device;
mod loaded;
mod watch;

use farthing_data::{Rows, Tokenizer};
use farthing_optim::Registry;

use crate::{App, Ctx, Result};

/// Registers the stages and optimizers that come with farthing.
#[must_use]
pub fn standard_stages(app: App) -> App {
    app.extra(Registry::standard())
        .stage::<fetch_parquet::FetchParquet>()
        .stage::<train_bpe::TrainBpe>()
        .stage::<pack_bestfit::PackBestfit>()
        .stage::<train_gpt::TrainGpt>()
        .stage::<eval_bpb::EvalBpb>()
        .stage::<eval_core::EvalCore>()
        .stage::<sample::Sample>()
        .stage::<report::Report>()
}

/// The tokenizer behind the port `bpe`.
fn tokenizer(ctx: &Ctx) -> Result<Tokenizer> {
    Ok(Tokenizer::load(ctx.input("bpe")?)?)
}

/// Refuses rows that were packed with another tokenizer than the one at hand.
fn check_rows(rows: &Rows, tokenizer: &Tokenizer, port: &str) -> Result<()> {
    let packed_with = &rows.manifest().tokenizer;
    if packed_with != tokenizer.digest() {
        anyhow::bail!(
            "the rows of `{port}` in {} were packed with tokenizer {packed_with}, the one connected is {}\n\
             hint: connect `bpe` to the tokenizer that the rows were packed with",
            rows.dir().display(),
            tokenizer.digest()
        );
    }
    Ok(())
}

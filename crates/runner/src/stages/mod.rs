//! The product's stages, each a thin adapter over one of the other crates.

pub mod compare;
pub mod eval_bpb;
pub mod eval_core;
pub mod export_model;
pub mod fetch_parquet;
pub mod finetune_chat;
pub mod import_model;
pub mod pack_bestfit;
pub mod report;
pub mod sample;
pub mod train_bpe;
pub mod train_gpt;
pub mod use_tokenizer;

pub(crate) mod core_bundle;
pub(crate) mod device;
pub(crate) mod evaluation;
pub(crate) mod loaded;
pub(crate) mod seat;
mod watch;

use std::path::Path;

use anyhow::Context;
use farthing_data::{CHAT_TEMPLATE, CHAT_TEMPLATE_FILE, Rows, Tokenizer};
use farthing_optim::Registry;

use self::watch::{Watched, cut_off};
use crate::{App, Ctx, Result};

/// Registers the stages and optimizers that come with farthing.
#[must_use]
pub fn standard_stages(app: App) -> App {
    app.extra(Registry::standard())
        .stage::<fetch_parquet::FetchParquet>()
        .stage::<train_bpe::TrainBpe>()
        .stage::<use_tokenizer::UseTokenizer>()
        .stage::<pack_bestfit::PackBestfit>()
        .stage::<import_model::ImportModel>()
        .stage::<train_gpt::TrainGpt>()
        .stage::<finetune_chat::FinetuneChat>()
        .stage::<eval_bpb::EvalBpb>()
        .stage::<eval_core::EvalCore>()
        .stage::<sample::Sample>()
        .stage::<export_model::ExportModel>()
        .stage::<report::Report>()
        .stage::<compare::Compare>()
}

/// The name of the tokenizer in a model's folder.
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";

/// Says of a model's folder that it was finetuned to chat.
fn write_template(folder: &Path) -> Result<()> {
    farthing_base::files::write(&folder.join(CHAT_TEMPLATE_FILE), &[CHAT_TEMPLATE.as_bytes()])
        .with_context(|| format!("writing into {}", folder.display()))
}

/// Says it of a copy in `out` too, if a model's folder says it. What the template says is ours to say: that there is one is what counts.
fn keep_template(model: Option<&Path>, out: &Path) -> Result<()> {
    let chats = model.is_some_and(|folder| folder.join(CHAT_TEMPLATE_FILE).is_file());
    if chats { write_template(out) } else { Ok(()) }
}

/// The tokenizer behind the port `bpe`.
fn tokenizer(ctx: &Ctx) -> Result<Tokenizer> {
    Ok(Tokenizer::load(ctx.input("bpe")?)?)
}

/// An input that cannot be read. A library does not know where its file comes from, so its hints give way to the runner's.
fn unreadable(what: &str, error: &dyn std::error::Error) -> anyhow::Error {
    let (said, _) = crate::failure::split(&error.to_string());
    anyhow::anyhow!(
        "{what}: {said}\nhint: run again with --verify, which finds damaged outputs of earlier stages and makes them again"
    )
}

/// The packed rows behind a port, every byte compared with its checksum: a training is longer than reading its data once.
fn rows(ctx: &Ctx, port: &str, tokenizer: &Tokenizer) -> Result<Rows> {
    let mut watched = Watched::new(ctx, "bytes");
    let rows = Rows::open(ctx.input(port)?)
        .and_then(|rows| rows.verify_watched(&mut watched).map(|()| rows))
        .map_err(|e| match e {
            farthing_data::Error::Stopped => cut_off(e),
            e => unreadable(&format!("reading input `{port}`"), &e),
        })?;
    check_rows(&rows, tokenizer, port)?;
    Ok(rows)
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

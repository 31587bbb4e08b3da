//! An evaluation of a model on one rank or several: what `eval-bpb` and `eval-core` have all of them do. Rows and items are dealt out; every rank has a whole model.

use std::path::PathBuf;

use anyhow::Context;
use farthing_comm::Control;
use farthing_data::{Progress, Rows, Silent};
use farthing_eval::core::{Bundle, CoreReport, CoreSettings, evaluate_on_ranks};
use farthing_eval::{BitsPerByte, batches, bits_per_byte_on_ranks};
use serde::{Deserialize, Serialize};

use super::loaded::Evaluated;
use super::seat::{self, Seat};
use super::{device, train_gpt::MODEL_FILE};
use crate::{Ctx, Resources, Result, crew};

/// Positions that a batch of rows stays under.
const BATCH_TOKENS: usize = 4_096;

/// What is evaluated, as ranks without a screen are told it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum What {
    /// So many tokens of packed rows.
    Bits { rows: PathBuf, tokens: u64 },
    /// Tasks.
    Core { tasks: PathBuf, settings: CoreSettings },
}

/// What all ranks are told; those in other processes have nothing else.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    what: What,
    model: PathBuf,
    bpe: PathBuf,
    resources: Resources,
}

/// Opens the model behind the ports `model` and `bpe` on every rank of a stage: on the first, `lead` evaluates it; the others take part.
///
/// # Errors
/// What any rank says.
pub(super) fn on_ranks<T>(
    ctx: &Ctx,
    what: What,
    lead: impl FnOnce(&Evaluated, &dyn Control) -> Result<T>,
) -> Result<T> {
    let task = Task {
        what,
        model: ctx.input("model")?.join(MODEL_FILE),
        bpe: ctx.input("bpe")?.to_owned(),
        resources: ctx.resources.clone(),
    };
    let first = |seat: Seat<'_>| {
        let dev = device::open_of(&ctx.resources, seat.local_rank())?;
        lead(&Evaluated::of_ports(ctx, dev)?, &*seat.control())
    };
    let order = || crew::Order::Evaluate(task.clone());
    seat::everywhere(&ctx.resources, ctx.extras(), order, first, |seat| task.follow(seat))
}

impl Task {
    /// The part of a rank that is not the first.
    ///
    /// # Errors
    /// What the first rank can read cannot be read here; another rank is gone.
    pub(crate) fn follow(&self, seat: Seat<'_>) -> Result<()> {
        let Self { what, model, bpe, resources } = self;
        let dev = device::open_of(resources, seat.local_rank())?;
        let ranks = seat.control();
        let reads = || format!("rank {} reads what rank 0 has read", ranks.rank());
        let loaded = Evaluated::of_files(model, bpe, dev).with_context(reads)?;
        match what {
            What::Bits { rows, tokens } => {
                let rows = Rows::open(rows).with_context(reads)?;
                bits(&loaded, &rows, *tokens, &*ranks, &mut Silent).map(drop)
            }
            What::Core { tasks, settings } => {
                let tasks = Bundle::open(tasks).with_context(reads)?;
                core(&loaded, &tasks, settings, &*ranks, &mut Silent).map(drop)
            }
        }
    }
}

/// Bits per byte of rows, on every rank.
pub(super) fn bits(
    loaded: &Evaluated,
    rows: &Rows,
    tokens: u64,
    ranks: &dyn Control,
    progress: &mut dyn Progress,
) -> Result<BitsPerByte> {
    let row_tokens = rows.row_tokens() - 1;
    let budget = tokens.min(rows.len() * row_tokens as u64);
    let batches = batches(rows, (BATCH_TOKENS / row_tokens).max(1));
    let (mut model, token_bytes) = (loaded.scorer()?, loaded.tokenizer.token_bytes());
    let result =
        bits_per_byte_on_ranks(ranks, model.as_mut(), batches, &token_bytes, budget, progress)?;
    Ok(result)
}

/// Accuracy on tasks, on every rank.
pub(super) fn core(
    loaded: &Evaluated,
    tasks: &Bundle,
    settings: &CoreSettings,
    ranks: &dyn Control,
    progress: &mut dyn Progress,
) -> Result<CoreReport> {
    let mut model = loaded.scorer()?;
    let text = &loaded.tokenizer;
    Ok(evaluate_on_ranks(ranks, model.as_mut(), text, tasks, settings, progress)?)
}

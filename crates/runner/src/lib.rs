//! Runs pipelines of typed, cached stages: reads a pipeline file, plans what has to be done, keeps results in a cache keyed by content, shows progress, and provides the `runner` command line.
//!
//! Only this crate deals with TOML, the screen and processes. The work is done elsewhere: a [`Stage`] is a thin adapter over one of the other crates, and an [`App`] is the list of stages
//! that a binary offers.
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod ahead;
mod app;
mod cache;
mod cancel;
#[cfg(unix)]
mod child;
mod cli;
mod commands;
mod crew;
mod ctx;
mod encoding;
mod expect;
mod extras;
mod failure;
mod figure;
mod grammar;
mod hidden;
mod kind;
mod lock_file;
mod machine;
mod metrics;
mod places;
mod plan;
mod plan_screen;
mod progress;
mod resources;
mod result_screen;
mod retry;
mod run;
mod runs;
mod signals;
mod stage;
pub mod stages;
mod table;
mod talk;

pub use app::App;
pub use cancel::{Cancel, Cancelled};
pub use ctx::{Ctx, PlanCtx};
pub use extras::Extras;
pub use figure::Figure;
pub use lock_file::LockFile;
pub use metrics::Metrics;
pub use progress::StageProgress;
pub use resources::{Accelerator, RankEngine, Resources};
pub use stage::{
    At, Before, Estimate, Given, Lacking, NoExec, PlanLine, Port, Promise, Stage, port,
};

/// What a stage returns. Library errors keep their `hint:` lines on the way to the screen.
pub type Result<T, E = anyhow::Error> = std::result::Result<T, E>;

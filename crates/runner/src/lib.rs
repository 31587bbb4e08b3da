//! Pipelines of typed, cached stages: the grammar of a pipeline file, the plan, the content-keyed cache, the
//! progress display and the `runner` command line.
//!
//! This crate is the only one that knows TOML, the screen and processes. It does no arithmetic of its own: a
//! [`Stage`] is a thin adapter over one of the other crates, and [`App`] is the explicit registry of them.
//!
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
pub use progress::Progress;
pub use resources::{Accelerator, Engine, Resources};
pub use stage::{At, Before, Estimate, Lacking, NoExec, PlanLine, Port, Promise, Stage, port};

/// What a stage returns. Library errors keep their `hint:` lines on the way to the screen.
pub type Result<T, E = anyhow::Error> = std::result::Result<T, E>;

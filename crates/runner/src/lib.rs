//! Pipelines of typed, cached stages: the grammar of a pipeline file, the plan, the content-keyed cache, the
//! progress display and the `runner` command line.
//!
//! This crate is the only one that knows TOML, the screen and processes. It does no arithmetic of its own: a
//! [`Stage`] is a thin adapter over one of the other crates, and [`App`] is the explicit registry of them.
//!
//! ```
//! use farthing_runner::{App, Ctx, Port, Result, Stage, port};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Greeting {
//!     name: String,
//! }
//!
//! struct Greet;
//!
//! impl Stage for Greet {
//!     type Config = Greeting;
//!     type Exec = farthing_runner::NoExec;
//!     const KIND: &'static str = "greet";
//!     const ABOUT: &'static str = "writes a greeting";
//!     const VERSION: u32 = 1;
//!     const INPUTS: &'static [Port] = &[];
//!     const OUTPUTS: &'static [Port] = &[port("text", "text")];
//!
//!     fn run(config: Greeting, _exec: farthing_runner::NoExec, ctx: &mut Ctx) -> Result<()> {
//!         std::fs::write(ctx.output("text"), format!("hello {}\n", config.name))?;
//!         Ok(())
//!     }
//! }
//!
//! let dir = tempfile::tempdir()?;
//! let file = dir.path().join("hello.toml");
//! std::fs::write(&file, "[pipeline]\nname = 'hello'\nformat = 1\n[stage.hi]\nuses = 'greet'\nname = 'you'\n")?;
//! let store = dir.path().join("store");
//! let runs = dir.path().join("runs");
//! let args = ["runner", file.to_str().unwrap(), "--store", store.to_str().unwrap(), "--runs", runs.to_str().unwrap()];
//! assert_eq!(App::new().stage::<Greet>().run(args), 0);
//! # Ok::<(), std::io::Error>(())
//! ```

mod app;
mod cache;
mod cancel;
mod cli;
mod ctx;
mod expect;
mod extras;
mod failure;
mod figure;
mod grammar;
mod kind;
mod metrics;
mod plan;
mod plan_screen;
mod progress;
mod resources;
mod result_screen;
mod run;
mod runs;
mod stage;
pub mod stages;
mod table;

pub use app::App;
pub use cancel::{Cancel, Cancelled};
pub use ctx::{Ctx, PlanCtx};
pub use extras::Extras;
pub use figure::Figure;
pub use metrics::Metrics;
pub use progress::Progress;
pub use resources::{Accelerator, Resources};
pub use stage::{At, NoExec, PlanLine, Port, Stage, port};

/// What a stage returns. Library errors keep their `hint:` lines on the way to the screen.
pub type Result<T, E = anyhow::Error> = std::result::Result<T, E>;

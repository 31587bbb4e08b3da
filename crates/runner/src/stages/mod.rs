//! The product's stages, each a thin adapter over one of the other crates.

pub mod report;

use crate::App;

/// Registers the stages that come with farthing.
#[must_use]
pub fn standard_stages(app: App) -> App {
    app.stage::<report::Report>()
}

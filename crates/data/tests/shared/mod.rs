//! Data outside the repository, if it is there: `FARTHING_SHARED`, or `shared` beside the checkout or above it.
#![allow(
    clippy::print_stderr,
    dead_code,
    reason = "says why a test skips; no test file uses all of it"
)]

use std::path::PathBuf;

/// A path under `data` in there; `None`, with the reason printed, if it is absent.
pub(crate) fn data(path: &str) -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let near = ["../../../shared", "../../../../shared"].map(|up| root.join(up));
    let named = std::env::var_os("FARTHING_SHARED").map(PathBuf::from);
    let found =
        named.into_iter().chain(near).map(|dir| dir.join("data").join(path)).find(|p| p.exists());
    if found.is_none() {
        eprintln!(
            "skipped: data/{path} is absent; FARTHING_SHARED names the folder that holds `data`"
        );
    }
    found
}

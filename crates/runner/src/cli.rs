//! The command line.
use crate::App;
use std::ffi::OsString;
pub(crate) fn run(_app: App, _args: Vec<OsString>) -> u8 {
    2
}

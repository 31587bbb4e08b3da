//! The `runner` binary: the standard stages behind the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    farthing_runner::App::standard().main()
}

//! The runner, with Lion beside the optimizers that come with it.

use std::process::ExitCode;

fn main() -> ExitCode {
    farthing_runner::App::standard().optimizer::<lion_example::Lion>("lion").main()
}

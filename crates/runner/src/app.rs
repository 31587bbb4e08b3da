//! The registry of stage kinds and the entry point of a binary. Registration is explicit: a user's own stages and
//! optimizers come in through a `main` of their own.

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;

use farthing_optim::{OptimizerKind, Registry};

use crate::kind::Kind;
use crate::{Extras, Stage, stages};

/// Stage kinds and extras, and the command line over them.
#[derive(Default)]
pub struct App {
    pub(crate) kinds: BTreeMap<&'static str, Kind>,
    pub(crate) extras: Extras,
    /// Whether this program, started once more, comes to this application.
    children: bool,
}

impl App {
    /// An application without stages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An application with the stages that come with farthing.
    #[must_use]
    pub fn standard() -> Self {
        stages::standard_stages(Self::new())
    }

    /// How a stage is run in a process of its own, if it is.
    #[cfg(unix)]
    pub(crate) fn host(&self) -> Option<crate::child::Host> {
        self.children.then(crate::child::Host::here)
    }

    /// Adds a kind of stage, in place of an earlier one of the same name.
    #[must_use]
    pub fn stage<S: Stage>(mut self) -> Self {
        self.kinds.insert(S::KIND, Kind::of::<S>());
        self
    }

    /// Adds a value that stages find by its type, in place of an earlier one.
    #[must_use]
    pub fn extra<T: Any + Send + Sync>(mut self, value: T) -> Self {
        self.extras.insert(value);
        self
    }

    /// Adds an optimizer, so that `uses = "name"` in a group means it, in place of an earlier one of the same name.
    #[must_use]
    pub fn optimizer<K: OptimizerKind>(mut self, name: &str) -> Self {
        if let Some(registry) = self.extras.get_mut_or_default::<Registry>() {
            *registry = std::mem::take(registry).register::<K>(name);
        }
        self
    }

    /// Has stages run in processes of their own, as [`App::main`] does, so that one that crashes takes nothing else along. For that this program is started
    /// once more with its own arguments, and has to come to [`App::run`] of the same application without having done anything by then. Without it, and
    /// where there are no Unix sockets, stages are threads of this process.
    #[must_use]
    pub fn with_processes(mut self) -> Self {
        self.children = true;
        self
    }

    /// The extras so far, to add to one of them.
    pub fn extras_mut(&mut self) -> &mut Extras {
        &mut self.extras
    }

    /// Runs the command line of this process.
    #[must_use]
    pub fn main(self) -> ExitCode {
        ExitCode::from(self.with_processes().run(std::env::args_os()))
    }

    /// Runs a command line, its first argument being the program's name, and returns the exit code: 0 done, 1 a stage
    /// failed, 2 bad input, 75 another rank is missing, 128 and its number after a signal.
    pub fn run(self, args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
        let argv: Vec<OsString> = args.into_iter().map(Into::into).collect();
        #[cfg(unix)]
        crate::signals::survive_large_files();
        #[cfg(unix)]
        if self.children && crate::child::is_child() {
            return crate::child::serve(self);
        }
        crate::cli::run(self, &argv)
    }
}

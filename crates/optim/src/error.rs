//! What can be wrong with groups, schedules and optimizers, said with names and figures, and beside the message a hint.

use std::borrow::Cow;

use farthing_base::Hint;
use farthing_base::names::did_you_mean;
use farthing_kernels::Shape;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a group, a plan or an update was refused.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device refused or failed.
    #[error(transparent)]
    Kernels(#[from] farthing_kernels::Error),
    /// `uses` names no registered optimizer.
    #[error("no optimizer is called `{name}`")]
    UnknownOptimizer {
        /// The name given.
        name: String,
        /// The names registered.
        known: Vec<String>,
    },
    /// A key that the optimizer does not have.
    #[error("optimizer `{uses}` has no key `{key}`")]
    UnknownKey {
        /// The optimizer.
        uses: String,
        /// The key given.
        key: String,
        /// The optimizer's keys.
        known: Vec<String>,
    },
    /// The optimizer's keys could not be read: a value of another type, a key missing.
    #[error("optimizer `{uses}`: {what}")]
    Config {
        /// The optimizer.
        uses: String,
        /// What serde said.
        what: String,
        /// The optimizer's keys.
        known: Vec<String>,
    },
    /// A value outside what its key allows.
    #[error("{key} is {value}")]
    Value {
        /// The key, with its group where there is one.
        key: String,
        /// The value given.
        value: String,
        /// What it may be.
        hint: String,
    },
    /// A rule's state cannot be divided as its slabs are.
    #[error("`{uses}` has state `{state}` of shape {got} for {parameters} parameters")]
    State {
        /// The rule.
        uses: String,
        /// The state's name.
        state: String,
        /// Its shape.
        got: Shape,
        /// Parameters of the slab that it was built for.
        parameters: usize,
    },
    /// A group's keys are wrong.
    #[error("group `{group}`: {source}")]
    Group {
        /// The group.
        group: String,
        /// What is wrong.
        source: Box<Error>,
    },
    /// A rule was given a parameter whose shape it does not update.
    #[error(
        "optimizer `{uses}` of group `{group}` cannot update {parameter}: its shape is {shape}, expected {expected}"
    )]
    Unsuitable {
        /// The optimizer.
        uses: &'static str,
        /// The group.
        group: String,
        /// The parameter's name.
        parameter: String,
        /// Its shape.
        shape: Shape,
        /// What the rule updates.
        expected: &'static str,
    },
    /// A slab other than the one the optimizer was built for.
    #[error("optimizer `{uses}` was built for a slab of shape {expected}, given one of {got}")]
    Slab {
        /// The optimizer.
        uses: &'static str,
        /// The shape it was built for.
        expected: Shape,
        /// The slab's shape.
        got: Shape,
    },
    /// A group lacks a key that it must have.
    #[error("group `{group}` has no `{key}`")]
    MissingKey {
        /// The group.
        group: String,
        /// The key.
        key: &'static str,
        /// Why it is needed.
        hint: String,
    },
    /// A pattern is no glob.
    #[error("group `{group}`: pattern `{pattern}`: {what}")]
    Pattern {
        /// The group.
        group: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        what: String,
    },
    /// A group of the file matches no parameter.
    #[error("group `{group}` matches no parameter (patterns: {})", patterns.join(", "))]
    MatchesNothing {
        /// The group.
        group: String,
        /// Its patterns.
        patterns: Vec<String>,
        /// What may be meant.
        hint: String,
    },
    /// A parameter belongs to several groups.
    #[error("parameter {parameter} is matched by {} groups: {}", groups.len(), groups.join(", "))]
    MatchedTwice {
        /// The parameter.
        parameter: String,
        /// The groups.
        groups: Vec<String>,
    },
    /// A parameter belongs to no group.
    #[error("parameter {parameter} is matched by no group (groups: {})", groups.join(", "))]
    Unmatched {
        /// The parameter.
        parameter: String,
        /// The groups there are.
        groups: Vec<String>,
    },
    /// The numbers of a run do not make one.
    #[error("{what}")]
    Plan {
        /// What does not fit, with the figures.
        what: String,
        /// What to change.
        hint: String,
    },
    /// A failure of an optimizer from outside this crate.
    #[error(transparent)]
    Foreign(Box<dyn std::error::Error + Send + Sync>),
}

farthing_base::debug_with_hint!(Error);

impl Hint for Error {
    fn hint(&self) -> Option<Cow<'_, str>> {
        let hint: &str = match self {
            // It stands in the message still.
            Self::Kernels(e) => return e.hint(),
            Self::Foreign(error) => return error.downcast_ref::<Self>()?.hint(),
            Self::Group { source, .. } => return source.hint(),
            Self::UnknownOptimizer { name, known } => return Some(suggest(name, known).into()),
            Self::UnknownKey { key, known, .. } => return Some(suggest(key, known).into()),
            Self::Config { known, .. } => {
                return Some(format!("its keys are {}", known.join(", ")).into());
            }
            Self::Value { hint, .. }
            | Self::MissingKey { hint, .. }
            | Self::MatchesNothing { hint, .. }
            | Self::Plan { hint, .. } => hint,
            Self::Unsuitable { .. } => {
                "match this parameter in a group that uses another optimizer, such as `adamw`"
            }
            Self::Slab { .. } => "build one optimizer for each slab of `Params::specs`",
            Self::State { .. } => {
                "a rule of grain `Matrix` has state with an entry for each parameter on its first axis, one of grain `Element` state of the slab's shape"
            }
            Self::Pattern { .. } => {
                "`*` stands for anything within a segment between dots, `**` for any number of segments"
            }
            Self::MatchedTwice { .. } => "narrow the patterns so that one group matches it",
            Self::Unmatched { .. } => "add a group whose `params` match it",
        };
        Some(hint.into())
    }
}

impl Error {
    /// Says which group it concerns, where it does not already.
    pub(crate) fn in_group(self, group: &str) -> Self {
        match self {
            Self::UnknownOptimizer { .. }
            | Self::UnknownKey { .. }
            | Self::Config { .. }
            | Self::Value { .. }
            | Self::Foreign(_) => Self::Group { group: group.to_owned(), source: Box::new(self) },
            other => other,
        }
    }
}

/// "did you mean `x`? there are: …", the first half only where something is near.
fn suggest(given: &str, known: &[String]) -> String {
    let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    match did_you_mean(given, known.iter().map(String::as_str)) {
        Some(meant) => format!("{meant} there are: {list}"),
        None => format!("there are: {list}"),
    }
}

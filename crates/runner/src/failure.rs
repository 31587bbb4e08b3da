//! How an error is shown: the message, then its causes, then all their hints at the end. A hint is a value of a library's error ([`Hint`]). In the runner's own messages, and in those of stages from
//! other crates, it is a line that starts with `hint: `.

use std::borrow::Cow;
use std::error::Error;

use farthing_base::tensors::TensorError;
use farthing_base::{FileError, Hint};
use serde::{Deserialize, Serialize};

use crate::At;

/// What one error advises, apart from its causes: as a value, if it is of a type that is known here.
fn advice<'a>(cause: &'a (dyn Error + 'static)) -> Option<Cow<'a, str>> {
    fn of<'a, E: Hint + 'static>(cause: &'a (dyn Error + 'static)) -> Option<Cow<'a, str>> {
        cause.downcast_ref::<E>()?.hint()
    }
    let ask = [
        of::<At>,
        of::<FileError>,
        of::<TensorError>,
        of::<farthing_comm::Error>,
        of::<farthing_data::Error>,
        of::<farthing_kernels::Error>,
        of::<farthing_model::Error>,
        of::<farthing_optim::Error>,
        of::<farthing_eval::Error>,
        of::<farthing_train::Error>,
        of::<farthing_talk::Error>,
    ];
    #[cfg(feature = "serve")]
    let ask = ask.into_iter().chain([of::<farthing_serve::Error>
        as for<'b> fn(&'b (dyn Error + 'static)) -> Option<Cow<'b, str>>]);
    ask.into_iter().find_map(|of| of(cause))
}

/// What went wrong between ranks, if that is what an error is.
pub(crate) fn comm<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a farthing_comm::Error> {
    use farthing_eval::Error as Eval;
    use farthing_train::Error as Train;

    match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(Train::Comm(error) | Train::Eval(Eval::Comm(error))), _)
        | (_, Some(Eval::Comm(error))) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// What an error says, and its hints: lines of the message and the value.
fn apart(cause: &(dyn Error + 'static)) -> (String, Vec<String>) {
    let (said, mut hints) = split(&cause.to_string());
    hints.extend(advice(cause).map(Cow::into_owned).filter(|hint| !hints.contains(hint)));
    (said, hints)
}

/// The lines of a message without those that are hints, and these.
pub(crate) fn split(text: &str) -> (String, Vec<String>) {
    let hint = |line: &str| line.trim_start().strip_prefix("hint: ").map(str::to_owned);
    let said: Vec<&str> = text.lines().filter(|line| hint(line).is_none()).collect();
    (said.join("\n"), text.lines().filter_map(hint).collect())
}

/// The hints of an error and all its causes, none twice.
pub(crate) fn hints(error: &anyhow::Error) -> Vec<String> {
    let mut hints: Vec<String> = Vec::new();
    for hint in error.chain().flat_map(|cause| apart(cause).1) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    hints
}

/// An error and its causes in one line, without hints, and without repeating a cause that is quoted already.
pub(crate) fn said(error: &anyhow::Error) -> String {
    let mut all = String::new();
    for cause in error.chain() {
        let (said, _) = apart(cause);
        if !all.contains(&said) {
            let between = if all.is_empty() { "" } else { ": " };
            all.extend([between, &said]);
        }
    }
    all
}

/// The same with the hints, each on a line of its own.
pub(crate) fn in_full(error: &anyhow::Error) -> String {
    hints(error).iter().fold(said(error), |text, hint| format!("{text}\nhint: {hint}"))
}

/// The lines of an error, hints last, without repeating a cause that its message already quotes.
pub(crate) fn lines(error: &anyhow::Error) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (depth, cause) in error.chain().enumerate() {
        let (said, _) = apart(cause);
        if !lines.iter().any(|line| line.contains(&said)) {
            let prefix = if depth == 0 { "" } else { "caused by: " };
            lines.extend(format!("{prefix}{said}").lines().map(str::to_owned));
        }
    }
    lines.extend(hints(error).into_iter().map(|hint| format!("hint: {hint}")));
    lines
}

/// Everything that several looks at the same thing found wrong, as one error: each with its hints, in their order.
///
/// # Errors
/// What was found.
pub(crate) fn all_of(looks: impl IntoIterator<Item = crate::Result<()>>) -> crate::Result<()> {
    let mut found: Vec<anyhow::Error> = looks.into_iter().filter_map(Result::err).collect();
    match found.len() {
        0 => Ok(()),
        1 => Err(found.swap_remove(0)),
        _ => {
            let texts: Vec<String> = found.iter().map(in_full).collect();
            Err(anyhow::anyhow!("{}", texts.join("\n")))
        }
    }
}

/// An error that another process has said, or the way in which it ended: each cause with its hints, and what it means for whoever hears it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    /// From the whole to the first cause.
    pub(crate) said: Vec<String>,
    pub(crate) may_pass: bool,
    /// The exit code of a run that fails of it.
    pub(crate) code: u8,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.said.last().map_or("", String::as_str))
    }
}

impl Error for Told {}

impl Told {
    /// What this process would say of an error.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let cause = |cause| {
            let (said, hints) = apart(cause);
            hints.iter().fold(said, |text, hint| format!("{text}\nhint: {hint}"))
        };
        Self {
            said: error.chain().map(cause).collect(),
            may_pass: may_pass(error),
            code: crate::crew::code(error),
        }
    }

    /// The same error here.
    pub(crate) fn into_error(self) -> anyhow::Error {
        let mut outer = self.said.clone();
        outer.pop();
        let first = anyhow::Error::from(self);
        outer.into_iter().rev().fold(first, anyhow::Error::context)
    }
}

/// Whether the same again may end otherwise, because what failed is a disk, a network or somebody's patience, or because the error itself advises
/// to run again.
pub(crate) fn may_pass(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind;

    if let Some(told) = error.chain().find_map(|cause| cause.downcast_ref::<Told>()) {
        return told.may_pass;
    }
    let passes = |cause: &(dyn Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        // What is not there, not allowed or not what it should be stays so until somebody mends it.
        let lasting = matches!(
            io,
            None | Some(
                ErrorKind::NotFound
                    | ErrorKind::PermissionDenied
                    | ErrorKind::InvalidData
                    | ErrorKind::InvalidInput
                    | ErrorKind::UnexpectedEof
                    | ErrorKind::AlreadyExists
                    | ErrorKind::IsADirectory
                    | ErrorKind::NotADirectory
                    | ErrorKind::Unsupported
            )
        );
        let network = matches!(
            cause.downcast_ref(),
            Some(farthing_data::Error::Unreachable { .. } | farthing_data::Error::Stopped)
        );
        let missed = comm(cause).is_some_and(farthing_comm::Error::is_only_missed);
        !lasting || network || missed || cause.is::<crate::Cancelled>()
    };
    error.chain().any(passes) || hints(error).iter().any(|hint| hint.starts_with("run again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_and_hints_come_last() {
        let error = anyhow::anyhow!("row 812 is short\nhint: delete the shard")
            .context("reading shard 3")
            .context("reading shard 3 failed: row 812 is short");
        assert_eq!(
            lines(&error),
            ["reading shard 3 failed: row 812 is short", "hint: delete the shard"]
        );
    }

    #[test]
    fn a_cause_that_is_quoted_is_said_once_in_a_line_too() {
        let gone = FileError::at("open", "a.txt")(std::io::ErrorKind::NotFound.into());
        let error = anyhow::Error::from(gone).context("stage `a` cannot run");
        assert_eq!(said(&error), "stage `a` cannot run: cannot open a.txt: entity not found");
        let hint = "check that the path exists, that its permissions allow this, and that the disk is not full";
        assert_eq!(in_full(&error), format!("{}\nhint: {hint}", said(&error)));
    }

    #[test]
    fn what_would_fail_again_is_told_from_what_may_pass() {
        use std::io::{Error, ErrorKind};
        let io = |kind: ErrorKind| anyhow::Error::from(Error::from(kind)).context("reading a");
        let lost =
            farthing_comm::Error::Lost { lost: 1, ranks: 2, rank: 0, during: "gather".to_owned() };
        let lost = farthing_train::Error::from(lost);
        for (error, passes) in [
            (io(ErrorKind::StorageFull), true),
            (io(ErrorKind::TimedOut), true),
            (io(ErrorKind::NotFound), false),
            (io(ErrorKind::InvalidData), false),
            (crate::Cancelled.into(), true),
            (anyhow::anyhow!("a file changed\nhint: run again when nobody writes to it"), true),
            (anyhow::anyhow!("row 812 is short"), false),
            (lost.into(), true),
        ] {
            assert_eq!(may_pass(&error), passes, "{error:#}");
        }
    }

    #[test]
    fn what_another_process_said_reads_as_it_would_here() {
        use std::io::{Error, ErrorKind};
        let stopped = anyhow::Error::from(farthing_data::Error::Stopped).context("packing `train`");
        let full = anyhow::Error::from(Error::from(ErrorKind::StorageFull));
        let full = full.context("writing a\nhint: make room").context("packing");
        for error in [stopped, full, anyhow::anyhow!("row 812 is short\nhint: delete it")] {
            let sent = serde_json::to_string(&Told::of(&error)).unwrap();
            let heard = serde_json::from_str::<Told>(&sent).unwrap().into_error();
            assert_eq!(lines(&heard), lines(&error));
            assert_eq!(said(&heard), said(&error));
            assert_eq!(may_pass(&heard), may_pass(&error));
            assert_eq!(crate::crew::code(&heard), crate::crew::code(&error));
        }
    }

    #[test]
    fn hints_that_are_values_are_found_at_any_depth_and_said_once() {
        let stopped = || farthing_data::Error::Stopped;
        let hint = "hint: run again to go on from here";
        assert_eq!(lines(&stopped().into()), ["stopped on request", hint]);
        let wrapped = anyhow::Error::from(stopped()).context("packing `train`");
        let expected = ["packing `train`", "caused by: stopped on request", hint];
        assert_eq!(lines(&wrapped), expected);
        // One library's error within another's, which advises the same.
        let rows = farthing_eval::Error::Rows { source: Box::new(stopped()) };
        let expected = ["the held-out rows could not be read: stopped on request", hint];
        assert_eq!(lines(&rows.into()), expected);
        let both = anyhow::Error::from(stopped()).context(format!("packing\n{hint}"));
        assert_eq!(lines(&both), ["packing", "caused by: stopped on request", hint]);
    }
}

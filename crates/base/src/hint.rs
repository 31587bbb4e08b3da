//! What to do about an error, as a value beside its message. A library says what helps; whoever shows the error decides how it looks and
//! which command to name.

use std::borrow::Cow;

/// An error that may know what helps.
pub trait Hint: std::error::Error {
    /// What to do about it: lowercase, no full stop, without the word "hint". The message (`Display`) does not repeat it.
    fn hint(&self) -> Option<Cow<'_, str>>;

    /// The message and, where there is a hint, a line `hint: …`, for programs that show errors as they are.
    fn with_hint(&self) -> String {
        match self.hint() {
            Some(hint) => format!("{self}\nhint: {hint}"),
            None => self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("row {0} is short")]
    struct Short(u32);

    impl Hint for Short {
        fn hint(&self) -> Option<Cow<'_, str>> {
            (self.0 > 0).then(|| format!("delete row {}", self.0).into())
        }
    }

    #[test]
    fn a_hint_is_a_line_of_its_own_or_nothing() {
        assert_eq!(Short(8).with_hint(), "row 8 is short\nhint: delete row 8");
        assert_eq!(Short(0).with_hint(), "row 0 is short");
    }
}

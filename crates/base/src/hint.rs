//! Advice that belongs to an error but is kept apart from its message. A library says what would help; whoever shows the error decides how it looks and which command to name.

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

/// Shows an error with [`Hint::with_hint`] where its `Debug` is asked for, too: it is what `main` prints of a `Result<_, Box<dyn Error>>`,
/// and what `unwrap` panics with.
#[macro_export]
macro_rules! debug_with_hint {
    ($error:ty) => {
        impl ::std::fmt::Debug for $error {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&$crate::Hint::with_hint(self))
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(thiserror::Error)]
    #[error("row {0} is short")]
    struct Short(u32);

    impl Hint for Short {
        fn hint(&self) -> Option<Cow<'_, str>> {
            (self.0 > 0).then(|| format!("delete row {}", self.0).into())
        }
    }

    crate::debug_with_hint!(Short);

    #[test]
    fn main_and_unwrap_show_the_hint() {
        let boxed: Box<dyn std::error::Error> = Box::new(Short(8));
        assert_eq!(format!("{boxed:?}"), "row 8 is short\nhint: delete row 8");
        assert_eq!(format!("{:?}", Short(0)), "row 0 is short");
    }

    #[test]
    fn a_hint_is_a_line_of_its_own_or_nothing() {
        assert_eq!(Short(8).with_hint(), "row 8 is short\nhint: delete row 8");
        assert_eq!(Short(0).with_hint(), "row 0 is short");
    }
}

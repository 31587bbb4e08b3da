//! The figures a stage gives for the final screen, the report and `expect`.

use serde::{Deserialize, Serialize};

use crate::progress::format;

/// One figure of a stage's summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Figure {
    /// A number, which `expect` can bound.
    Number(f64),
    /// Words, for the reader only.
    Text(String),
}

impl Figure {
    /// The number, where the figure is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(x) => Some(*x),
            Self::Text(_) => None,
        }
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(x) => f.write_str(&format::number(*x)),
            Self::Text(text) => f.write_str(text),
        }
    }
}

macro_rules! from_number {
    ($($t:ty),*) => {
        $(impl From<$t> for Figure {
            fn from(x: $t) -> Self {
                Self::Number(x as f64)
            }
        })*
    };
}
from_number!(f32, f64, u32, u64, usize, i32, i64);

impl From<&str> for Figure {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Figure {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

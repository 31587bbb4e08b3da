//! Generates text with a trained model: prompts go in, text comes out as it is written, for several prompts at once. Terminals, networks and command lines are left to other crates.
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod error;
mod model;
mod session;
mod stops;
mod terminal;
mod utf8;

pub use error::{Error, Result};
pub use model::{Model, turn};
pub use session::{Finish, Likely, Made, Session, TextRequest};
pub use stops::Stops;
pub use terminal::visible;
pub use utf8::Utf8;

//! Text from a trained model: prompts in, text out as it comes, several at once. It knows no terminal, no network and no command line.
#![doc = include_str!("../README.md")]

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

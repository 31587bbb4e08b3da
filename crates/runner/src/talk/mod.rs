//! Using a trained model from the command line. `find` locates the model that a folder means, `generate` continues prompts, `chat` holds a conversation, `serve` answers over HTTP, and `eval` measures.
//! `options` is what they share, `name` what a served model is called.

mod chat;
mod eval;
mod find;
mod generate;
#[cfg(feature = "serve")]
mod name;
mod options;
#[cfg(feature = "serve")]
mod serve;

pub(crate) use chat::{Args as ChatArgs, chat};
pub(crate) use eval::{Args as EvalArgs, eval};
pub(crate) use find::command;
pub(crate) use generate::{Args as GenerateArgs, generate};
pub(crate) use options::{BrokenOff, Closed};
#[cfg(feature = "serve")]
pub(crate) use serve::{Args as ServeArgs, serve};

//! Talking to a trained model from the command line: `find` says which model a folder means, `generate` continues prompts, `chat` converses, `options` is what
//! they share, `serve` lets others ask, `eval` measures.

mod chat;
mod eval;
mod find;
mod generate;
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

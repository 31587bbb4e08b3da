//! Talking to a trained model from the command line: `find` says which model a folder means, `generate` continues prompts, `chat` converses, `options` is what
//! they share.

mod chat;
mod find;
mod generate;
mod options;

pub(crate) use chat::{Args as ChatArgs, chat};
pub(crate) use find::command;
pub(crate) use generate::{Args as GenerateArgs, generate};
pub(crate) use options::Closed;

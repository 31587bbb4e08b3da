//! Talking to a trained model from the command line: `find` says which model a folder means, `generate` continues prompts.

mod find;
mod generate;

pub(crate) use generate::{Args as GenerateArgs, Closed, generate};

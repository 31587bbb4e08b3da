#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod bpb;
pub mod core;
mod encode;
mod error;
mod gpt;
mod gpt2;
mod language_model;
mod python_random;
mod texts;

pub use bpb::{BitsPerByte, Nats, batches, batches_of, bits_per_byte, count_nats, no_row};
pub use encode::Encode;
pub use error::{BoxError, Error, Result};
pub use farthing_base::{Batch, IGNORE};
pub use gpt::GptScorer;
pub use gpt2::Gpt2Scorer;
pub use language_model::{LanguageModel, Scores};
pub use texts::document_batches;

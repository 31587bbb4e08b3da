//! From text to rows of T + 1 tokens that begin with BOS: text is read and encoded, documents are laid into rows by a [rule](PackRule),
//! and rows are written to shards, from where an interrupted call goes on.

mod bits;
mod buffer;
mod encoding;
mod packer;
mod packing;
mod resume;
mod rule;
mod shard_writer;
mod state;
mod to_rows;
mod tokens;

pub use packer::Packer;
pub(crate) use shard_writer::{Label, ShardWriter};
pub use to_rows::{Pack, PackConfig, pack};
pub use tokens::Token;
pub(crate) use tokens::Tokens;

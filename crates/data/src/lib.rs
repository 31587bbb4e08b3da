#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod batch;
mod build;
mod chat;
mod error;
mod feed;
mod files;
mod many;
mod order;
mod pack;
mod prefetch;
mod progress;
mod resume;
mod rows;
mod shard;
mod source;
mod text;
mod token;
mod tokenizer;
pub mod world;
mod writer;

pub use batch::{Batch, BatchReader};
pub use build::{PackConfig, TOKENIZER, pack, pack_with_digests, train_bpe};
pub use chat::{
    CHAT_TEMPLATE, CHAT_TEMPLATE_FILE, ChatTokens, Content, Conversation, Conversations, Message,
    Part as ContentPart, PartKind, Role, pack_chat,
};
pub use error::{Error, Result};
pub use files::digest_file;
pub use order::Order;
pub use pack::{LengthCount, Lengths, PackRule, PackSettings, PackStats, Packer, Remainder};
pub use prefetch::{Part, Prefetch};
pub use progress::{Progress, Silent};
pub use rows::{MANIFEST, MANIFEST_FORMAT, Manifest, ManifestShard, Rows};
pub use shard::{Row, SHARD_FORMAT, Shard};
pub use source::{
    FILES, FetchSettings, Fetcher, FileEntry, Files, HubSettings, Pin, PinnedFile, ShardRange,
    Survey, fetch, is_remote, local_files,
};
pub use text::{Position, ReadStats, TextColumn, TextFile, TextFilter, Texts};
pub use token::{Token, TokenType};
pub use tokenizer::{BpeSettings, BpeStats, Compression, SPECIAL_TOKENS, SPLIT_REGEX, Tokenizer};

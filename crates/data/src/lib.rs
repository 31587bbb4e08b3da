#![cfg_attr(
    not(feature = "fetch"),
    allow(dead_code, reason = "formats and addresses of which fetching alone reads all")
)]
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod error;
mod progress;
mod rows;
mod side_by_side;

#[cfg(feature = "text")]
mod chat;
#[cfg(feature = "text")]
mod digests;
#[cfg(feature = "text")]
mod local;
#[cfg(feature = "text")]
mod pack;
#[cfg(feature = "text")]
mod text;
#[cfg(feature = "text")]
mod tokenizer;
#[cfg(feature = "text")]
pub mod world;

#[cfg(feature = "fetch")]
mod source;

pub use error::{Error, Result};
pub use progress::{Progress, Silent};
pub use rows::{
    Batch, ChatTokens, LengthCount, Lengths, LoadedBatch, Loader, LoaderIter, MANIFEST,
    MANIFEST_FORMAT, Manifest, ManifestShard, Order, PackRule, PackSettings, PackStats, ReadStats,
    Remainder, Row, Rows, SHARD_FORMAT, Shard, TokenType,
};

#[cfg(feature = "text")]
pub use chat::{
    CHAT_TEMPLATE, CHAT_TEMPLATE_FILE, Content, ContentPart, Conversation, Conversations, Message,
    PartKind, Role, pack_chat,
};
#[cfg(feature = "text")]
pub use digests::digest_file;
#[cfg(feature = "text")]
pub use local::{FILES, FileEntry, Files};
#[cfg(feature = "text")]
pub use pack::{Pack, PackConfig, Packer, Token, pack};
#[cfg(feature = "text")]
pub use text::{Position, TextColumn, TextFile, TextFilter, Texts};
#[cfg(feature = "text")]
pub use tokenizer::{
    BpeSettings, BpeStats, Compression, SPECIAL_TOKENS, SPLIT_REGEX, TOKENIZER, Tokenizer,
    train_bpe,
};

#[cfg(feature = "fetch")]
pub use source::{
    FetchSettings, Fetcher, HubSettings, Pin, PinnedFile, ShardRange, Survey, fetch, is_remote,
    local_files,
};

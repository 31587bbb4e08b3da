//! Conversations as rows: as many whole ones as fit, then BOS to the end. A conversation that is longer than a row is cut to it.

use super::{ChatTokens, Conversation};
use crate::pack::{Label, ShardWriter};
use crate::{
    Error, MANIFEST_FORMAT, Manifest, PackRule, PackSettings, Packer, Progress, ReadStats,
    Remainder, Result, Token, TokenType, Tokenizer,
};
use rayon::prelude::*;
use std::path::Path;

/// Conversations that are encoded at a time.
const AT_ONCE: usize = 1_024;

/// Tokens of rows that are written together.
const BLOCK_TOKENS: usize = 1 << 17;

/// Conversations to choose from when a row is filled, as many as nanochat has.
const BUFFER: usize = 100;

/// Encodes conversations and packs them into rows of `context` + 1 tokens in the folder `out`, which is made anew. Batches of these rows have −1 for every
/// target that the assistant does not say.
///
/// # Errors
/// The first error among `conversations`; [`Error::NoRows`] when there are none; [`Error::Tokenizer`] for a tokenizer without the special tokens of
/// conversations; [`Error::Stopped`] soon after `progress` asks for it; [`Error::Io`].
///
/// # Source
/// The packing of nanochat's `chat_sft`: the longest conversation of 100 that fits comes next, nothing is cut to fill a row.
pub fn pack_chat(
    conversations: impl Iterator<Item = Result<Conversation>>,
    tokenizer: &Tokenizer,
    context: usize,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Manifest> {
    let chat = ChatTokens::of(tokenizer)?;
    let settings = PackSettings {
        rule: PackRule::BestFitPad,
        context,
        buffer_documents: BUFFER,
        remainder: Remainder::Discard,
    };
    settings.check()?;
    if out.exists() {
        std::fs::remove_dir_all(out).map_err(Error::io("remove", out))?;
    }
    std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let packing = Packing { tokenizer, chat, settings, out, progress };
    match TokenType::for_vocab(tokenizer.vocab_size()) {
        TokenType::U16 => packing.run::<u16>(conversations),
        TokenType::U32 => packing.run::<u32>(conversations),
    }
}

struct Packing<'a> {
    tokenizer: &'a Tokenizer,
    chat: ChatTokens,
    settings: PackSettings,
    out: &'a Path,
    progress: &'a mut dyn Progress,
}

impl Packing<'_> {
    fn run<T: Token>(
        self,
        mut conversations: impl Iterator<Item = Result<Conversation>>,
    ) -> Result<Manifest> {
        let Self { tokenizer, chat, settings, out, progress } = self;
        progress.total(None, "conversations");
        let mut packer = Packer::new(&settings, T::new(chat.bos))?;
        let mut input = blake3::Hasher::new();
        let label = Label {
            out: out.into(),
            input: String::new(),
            tokenizer: tokenizer.digest().into(),
            tokens: T::TYPE,
            settings: settings.clone(),
        };
        let mut writer = ShardWriter::start(label, vec![])?;
        let mut more = true;
        while more {
            let some: Vec<Conversation> =
                conversations.by_ref().take(AT_ONCE).collect::<Result<_>>()?;
            more = some.len() == AT_ONCE;
            let encoded: Vec<Result<Vec<u32>>> =
                some.par_iter().map(|talk| chat.render(tokenizer, &talk.messages)).collect();
            for ids in encoded {
                let ids = ids?;
                for id in &ids {
                    input.update(&id.to_le_bytes());
                }
                // The packer brings BOS itself.
                packer.add(ids[1..].iter().map(|id| T::new(*id)).collect::<Vec<T>>().into());
                while packer.fill_row(false) {
                    if packer.whole_rows().len() >= BLOCK_TOKENS {
                        writer.rows(packer.whole_rows())?;
                        packer.clear_rows();
                    }
                }
            }
            progress.advance(some.len() as u64);
            if progress.stopped() {
                return Err(Error::Stopped);
            }
        }
        while packer.fill_row(true) {}
        writer.rows(packer.whole_rows())?;
        packer.clear_rows();
        writer.end_shard(packer.stats(), None)?;
        let (shards, stats) = (writer.finish()?, packer.end());
        let row_tokens = settings.row_tokens();
        if stats.rows == 0 {
            let (documents, tokens) = (stats.documents, stats.tokens_in);
            return Err(Error::NoRows { documents, tokens, row_tokens });
        }
        let manifest = Manifest {
            format: MANIFEST_FORMAT.into(),
            input: input.finalize().to_hex().to_string(),
            tokenizer: tokenizer.digest().into(),
            vocab: tokenizer.vocab_size(),
            bos: chat.bos,
            row_tokens,
            rows: stats.rows,
            settings,
            stats,
            read: ReadStats::default(),
            chat: Some(chat),
            shards,
        };
        manifest.write(out)?;
        Ok(manifest)
    }
}

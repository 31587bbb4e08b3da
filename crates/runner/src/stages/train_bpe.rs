//! `train-bpe`: a byte-level BPE tokenizer from parquet files of text.

use std::path::PathBuf;

use anyhow::Context;
use farthing_data::{
    BpeSettings, Compression, TOKENIZER, TextColumn, TextFile, TextFilter, Texts, Tokenizer,
    train_bpe,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fetch_parquet::parquet_files;
use super::watch::Watched;
use crate::progress::format::count;
use crate::{
    At, Ctx, Extras, Given, NoExec, PlanCtx, PlanLine, Port, Promise, Resources, Result, Stage,
    port,
};

/// The stage's keys; the recipe's by default.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// V: entries in all, the 256 bytes and the 9 special tokens included; a text that is too small for them yields fewer.
    pub vocab_size: usize,
    /// Characters to train on, at most.
    pub max_chars: u64,
    /// Documents are cut to this many characters.
    pub document_chars: usize,
    /// The column that holds the text.
    pub text_column: String,
    /// Which documents to read: `min_score` and `score_column`, `language` and `language_column`, `min_chars`, `max_chars`.
    #[serde(skip_serializing_if = "TextFilter::is_empty")]
    pub filter: TextFilter,
}

impl Default for Config {
    fn default() -> Self {
        let BpeSettings { vocab_size, max_chars, document_chars } = BpeSettings::default();
        let (text_column, filter) = ("text".into(), TextFilter::default());
        Self { vocab_size, max_chars, document_chars, text_column, filter }
    }
}

impl Config {
    fn settings(&self) -> BpeSettings {
        let Self { vocab_size, max_chars, document_chars, .. } = *self;
        BpeSettings { vocab_size, max_chars, document_chars }
    }
}

/// Text whose bytes per token are measured.
const SAMPLE_BYTES: u64 = 16 << 20;

/// Trains a tokenizer; the port `bpe` is its `tokenizer.json`. A tokenizer connected to `reference`, such as GPT-2's by way of
/// `use-tokenizer`, is compared by the bytes per token that it makes of the same text.
#[derive(Debug)]
pub struct TrainBpe;

impl Stage for TrainBpe {
    type Config = Config;
    type Exec = NoExec;
    const KIND: &'static str = "train-bpe";
    const ABOUT: &'static str = "a byte-level BPE tokenizer from text";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] =
        &[port("text", "parquet files"), port("reference", "tokenizer").optional()];
    const OUTPUTS: &'static [Port] =
        &[port("bpe", "tokenizer"), port("metrics", "metrics").optional()];
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] =
        &["vocab_size", "bytes_per_token", "reference_bytes_per_token", "documents", "chars"];

    fn promises(config: &Config, _: &Given<'_>) -> Vec<Promise> {
        vec![Promise::new("bpe", "vocab_size", config.vocab_size as u64)]
    }

    fn check(config: &Config, _extras: &Extras) -> Result<()> {
        const LEAST: usize = 256 + farthing_data::SPECIAL_TOKENS.len();
        if config.vocab_size < LEAST {
            let what = format!("a vocabulary of {} entries has no room", config.vocab_size);
            let hint = format!("at least {LEAST}: the 256 bytes and the 9 special tokens");
            return Err(At::new("vocab_size", what).hint(hint).into());
        }
        if config.max_chars == 0 || config.document_chars == 0 {
            let key = if config.max_chars == 0 { "max_chars" } else { "document_chars" };
            return Err(At::new(key, "0 characters leave no text to train on")
                .hint("at least 1")
                .into());
        }
        check_column(&config.text_column)?;
        check_filter(&config.filter)?;
        // Whatever else the library minds.
        Ok(config.settings().check()?)
    }

    fn plan(config: &Config, _: &NoExec, _: &Resources, ctx: &PlanCtx) -> Result<Vec<PlanLine>> {
        look(ctx.files("text"), &config.text_column, &config.filter).map(|()| Vec::new())
    }

    fn preflight(config: &Config, _: &NoExec, _: &Resources, ctx: &PlanCtx) -> Result<()> {
        look(ctx.files("text"), &config.text_column, &config.filter)
    }

    fn run(config: Config, _exec: NoExec, ctx: &mut Ctx) -> Result<()> {
        let files = parquet_files(ctx, "text")?;
        let staged = ctx.scratch()?;
        let (tokenizer, stats) = train_bpe(
            &files,
            TextColumn { name: &config.text_column, filter: &config.filter },
            &config.settings(),
            &staged,
            &mut Watched::new(ctx, "documents"),
        )?;
        let (from, to) = (staged.join(TOKENIZER), ctx.output("bpe"));
        std::fs::rename(&from, &to)
            .with_context(|| format!("moving {} to {}", from.display(), to.display()))?;

        let texts = Texts::open(&files, &config.text_column)?.with_filter(&config.filter)?;
        let reference = ctx.input_if_any("reference").map(Tokenizer::load).transpose()?;
        let both: Vec<&Tokenizer> = std::iter::once(&tokenizer).chain(&reference).collect();
        let compressions = Tokenizer::compressions(&both, texts, SAMPLE_BYTES)?;
        let mut each = compressions.iter().map(Compression::bytes_per_token);
        let bytes_per_token = each.next().unwrap_or_default();
        let reference = each.next();
        ctx.metrics("metrics")?.write(&json!({
            "record": "tokenizer", "vocab_size": tokenizer.vocab_size(), "documents": stats.documents,
            "chars": stats.chars, "bytes_per_token": bytes_per_token,
            "reference_bytes_per_token": reference,
        }))?;
        if tokenizer.vocab_size() < config.vocab_size {
            ctx.log(format!(
                "the text yields {} entries, {} were asked for: it is small, or says much the same again and again",
                count(tokenizer.vocab_size() as u64),
                count(config.vocab_size as u64)
            ));
        }
        ctx.log(format!(
            "{} entries from {} characters in {} documents, {bytes_per_token:.3} bytes per token",
            count(tokenizer.vocab_size() as u64),
            count(stats.chars),
            count(stats.documents),
        ));
        if let Some(reference) = reference {
            ctx.log(format!(
                "the reference makes {reference:.3} bytes per token of the same text; this tokenizer {:+.1}%",
                100.0 * (bytes_per_token / reference - 1.0)
            ));
            ctx.summary("reference_bytes_per_token", reference);
        }
        ctx.summary("vocab_size", tokenizer.vocab_size());
        ctx.summary("bytes_per_token", bytes_per_token);
        ctx.summary("documents", stats.documents);
        ctx.summary("chars", stats.chars);
        Ok(())
    }
}

/// The fault of a column without a name.
pub(super) fn check_column(name: &str) -> Result<()> {
    if name.is_empty() {
        let fault = At::new("text_column", "the column that holds the text has no name");
        return Err(fault.hint("leave `text_column` out if it is `text`").into());
    }
    Ok(())
}

/// Whether files that will be copied have the columns, by their footers.
pub(super) fn look(files: &[PathBuf], column: &str, filter: &TextFilter) -> Result<()> {
    // Of what is no parquet the stage that copies it has said so.
    Ok(TextFile::check_columns(files, column, filter)?)
}

/// The fault of a filter that means nothing.
pub(super) fn check_filter(filter: &TextFilter) -> Result<()> {
    filter.check().map_err(|e| At::of("filter", &e).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::fetch_parquet::{Exec, FetchParquet};

    #[test]
    fn a_tokenizer_of_the_world() {
        let dir = tempfile::tempdir().unwrap();
        let world = "source = 'embedded://world'\n\
            world = { train_shards = 1, documents_per_shard = 300, val_documents = 10 }";
        let mut fetch = Ctx::detached(dir.path(), []);
        FetchParquet::run(toml::from_str(world).unwrap(), Exec::default(), &mut fetch).unwrap();
        let small = dir.path().join("small");
        std::fs::create_dir(&small).unwrap();
        let mut ctx = Ctx::detached(&small, [("text", fetch.output("train"))]);
        let config = Config { vocab_size: 300, ..Config::default() };
        TrainBpe::run(config, NoExec {}, &mut ctx).unwrap();
        assert_eq!(ctx.figures().len(), TrainBpe::FIGURES.len() - 1);

        let inputs = [("text", fetch.output("train")), ("reference", ctx.output("bpe"))];
        let mut ctx = Ctx::detached(dir.path(), inputs);
        let config = Config { vocab_size: 512, ..Config::default() };
        TrainBpe::run(config, NoExec {}, &mut ctx).unwrap();

        let tokenizer = Tokenizer::load(ctx.output("bpe")).unwrap();
        assert_eq!(tokenizer.vocab_size(), 512);
        let figure =
            |name: &str| ctx.figures().iter().find(|(n, _)| n == name).unwrap().1.number().unwrap();
        assert_eq!(figure("documents"), 300.0);
        assert!(figure("bytes_per_token") > 1.5, "{}", figure("bytes_per_token"));
        assert!(figure("reference_bytes_per_token") < figure("bytes_per_token"));
        assert_eq!(ctx.figures().len(), TrainBpe::FIGURES.len());
        let record = std::fs::read_to_string(ctx.output("metrics")).unwrap();
        assert!(record.starts_with("{\"bytes_per_token\":"), "{record}");
    }

    #[test]
    fn a_missing_column_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let world = "source = 'embedded://world'\n\
            world = { train_shards = 1, documents_per_shard = 20, val_documents = 10 }";
        let mut fetch = Ctx::detached(dir.path(), []);
        FetchParquet::run(toml::from_str(world).unwrap(), Exec::default(), &mut fetch).unwrap();
        let mut ctx = Ctx::detached(dir.path(), [("text", fetch.output("train"))]);
        let config = Config { text_column: "texts".into(), ..Config::default() };
        let error = TrainBpe::run(config, NoExec {}, &mut ctx).unwrap_err();
        let error = crate::failure::lines(&error).join("\n");
        assert!(error.contains("has no column `texts`"), "{error}");
        assert!(error.contains("hint: did you mean `text`?"), "{error}");
    }

    #[test]
    fn faults_name_their_key() {
        for (text, key) in [
            ("vocab_size = 264", "vocab_size"),
            ("max_chars = 0", "max_chars"),
            ("document_chars = 0", "document_chars"),
            ("text_column = ''", "text_column"),
            ("filter = { min_chars = 2, max_chars = 1 }", "filter"),
        ] {
            let config: Config = toml::from_str(text).unwrap();
            let error = TrainBpe::check(&config, &Extras::default()).unwrap_err();
            assert_eq!(error.downcast_ref::<At>().unwrap().key, key);
        }
        TrainBpe::check(&Config::default(), &Extras::default()).unwrap();
        assert!(toml::from_str::<Config>("vocab = 512").is_err());
    }
}

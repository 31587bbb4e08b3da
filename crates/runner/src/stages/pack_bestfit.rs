//! `pack-bestfit`: text, encoded and packed into rows of T + 1 tokens that begin with BOS, without padding.

use std::path::PathBuf;

use anyhow::Context;
use farthing_data::{Manifest, Pack, PackRule, PackSettings, Remainder, TextFilter, Tokenizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fetch_parquet::parquet_files;
use super::train_bpe::{check_column, check_filter, look};
use super::watch::Watched;
use crate::progress::format::count;
use crate::{
    At, Cancelled, Ctx, Extras, Given, NoExec, PlanCtx, PlanLine, Port, Promise, Resources, Result,
    Stage, port,
};

/// The stage's keys.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// T, the positions that a model sees; rows have one token more.
    pub row_tokens: usize,
    /// How documents are laid into rows.
    #[serde(default)]
    pub rule: PackRule,
    /// What becomes of the part of a document that is cut off at the end of a row.
    #[serde(default)]
    pub remainder: Remainder,
    /// Documents to choose from.
    #[serde(default = "buffer_documents")]
    pub buffer_documents: usize,
    /// How large a shard's data may become.
    #[serde(default = "shard_bytes")]
    pub shard_bytes: usize,
    /// The column that holds the text.
    #[serde(default = "text_column")]
    pub text_column: String,
    /// Which documents to pack: `min_score` and `score_column`, `language` and `language_column`, `min_chars`, `max_chars`.
    #[serde(default, skip_serializing_if = "TextFilter::is_empty")]
    pub filter: TextFilter,
}

fn buffer_documents() -> usize {
    PackSettings::default().buffer_documents
}

fn shard_bytes() -> usize {
    Pack::SHARD_BYTES
}

fn text_column() -> String {
    "text".into()
}

impl Config {
    fn settings(&self) -> PackSettings {
        PackSettings {
            rule: self.rule,
            context: self.row_tokens,
            buffer_documents: self.buffer_documents,
            remainder: self.remainder,
        }
    }
}

/// Packs the text to train on and the text held out.
#[derive(Debug)]
pub struct PackBestfit;

impl Stage for PackBestfit {
    type Config = Config;
    type Exec = NoExec;
    const KIND: &'static str = "pack-bestfit";
    const ABOUT: &'static str = "text as rows of tokens without padding";
    const VERSION: u32 = 4;
    const INPUTS: &'static [Port] =
        &[port("train", "parquet files"), port("val", "parquet files"), port("bpe", "tokenizer")];
    const OUTPUTS: &'static [Port] = &[
        port("train", "packed rows"),
        port("val", "packed rows"),
        port("metrics", "metrics").optional(),
    ];
    const USES_SEED: bool = false;
    const FIGURES: &'static [&'static str] =
        &["rows", "tokens", "lost_percent", "bound_percent", "utilisation_percent", "val_rows"];

    fn promises(config: &Config, _: &Given<'_>) -> Vec<Promise> {
        let promise = |port| Promise::new(port, "row_tokens", config.row_tokens as u64);
        vec![promise("train"), promise("val")]
    }

    fn check(config: &Config, _extras: &Extras) -> Result<()> {
        const MOST: usize = 1 << 24;
        if !(1..=MOST).contains(&config.row_tokens) {
            let what = format!("rows of {} tokens cannot be packed", config.row_tokens);
            let hint = "between 1 and 16,777,216; the model's context";
            return Err(At::new("row_tokens", what).hint(hint).into());
        }
        if config.buffer_documents == 0 {
            let fault =
                At::new("buffer_documents", "a buffer of 0 documents has nothing to choose from");
            return Err(fault.hint("at least 1; 1,000 loses little").into());
        }
        if config.shard_bytes == 0 {
            let fault = At::new("shard_bytes", "a shard of 0 bytes holds no row");
            return Err(fault.hint("100_000_000 by default").into());
        }
        check_column(&config.text_column)?;
        check_filter(&config.filter)?;
        // Whatever else the library minds.
        Ok(config.settings().check()?)
    }

    fn plan(config: &Config, _: &NoExec, _: &Resources, ctx: &PlanCtx) -> Result<Vec<PlanLine>> {
        look_at_both(config, ctx).map(|()| Vec::new())
    }

    fn preflight(config: &Config, _: &NoExec, _: &Resources, ctx: &PlanCtx) -> Result<()> {
        look_at_both(config, ctx)
    }

    fn run(config: Config, _exec: NoExec, ctx: &mut Ctx) -> Result<()> {
        let tokenizer = Tokenizer::load(ctx.input("bpe")?)?;
        let mut metrics = ctx.metrics("metrics")?;
        let mut manifests = Vec::new();
        for split in ["train", "val"] {
            let files = parquet_files(ctx, split)?;
            let out = ctx.output(split);
            let digest = |file: &PathBuf| ctx.digest(file).map(str::to_owned);
            let digests: Option<Vec<_>> = files.iter().map(digest).collect();
            let mut watched = Watched::new(ctx, "documents");
            let packing = Pack::files(&files)
                .tokenizer(&tokenizer)
                .column(&config.text_column)
                .filter(config.filter.clone())
                .settings(config.settings())
                .shard_bytes(config.shard_bytes)
                .progress(&mut watched);
            let packing = match digests {
                Some(digests) => packing.digests(digests),
                None => packing,
            };
            let packed = packing.to(&out);
            if matches!(packed, Err(farthing_data::Error::Stopped)) {
                return Err(Cancelled.into());
            }
            // Text that is too small has no place in a file: whose it is, is said here.
            let of = match (&packed, &files[..]) {
                (Err(farthing_data::Error::NoRows { .. }), [first, rest @ ..]) => {
                    let more = match rest.len() {
                        0 => String::new(),
                        n => format!(" and {n} more"),
                    };
                    format!(", {}{more}", first.display())
                }
                _ => String::new(),
            };
            let manifest = packed.with_context(|| format!("packing `{split}`{of}"))?;
            let rejected = match manifest.read.rejected() {
                0 => String::new(),
                n => format!(" ({} filtered out)", count(n)),
            };
            ctx.log(format!(
                "{split}: {} rows of {} tokens from {} documents{rejected}, {:.2}% of the tokens lost",
                count(manifest.rows),
                count(manifest.row_tokens as u64),
                count(manifest.stats.documents),
                100.0 * manifest.stats.lost_share(),
            ));
            metrics.write(&record(split, &manifest))?;
            manifests.push(manifest);
            ctx.check_cancelled()?;
        }
        let [train, val] = &manifests[..] else { return Ok(()) };
        ctx.summary("rows", train.rows);
        ctx.summary("tokens", train.rows * train.row_tokens as u64);
        ctx.summary("lost_percent", 100.0 * train.stats.lost_share());
        ctx.summary("bound_percent", 100.0 * train.stats.bound_share());
        let utilisation = train.stats.utilisation(train.row_tokens);
        ctx.summary("utilisation_percent", 100.0 * utilisation);
        ctx.summary("val_rows", val.rows);
        Ok(())
    }
}

fn look_at_both(config: &Config, ctx: &PlanCtx) -> Result<()> {
    look(ctx.files("train"), &config.text_column, &config.filter)?;
    // Most often both come from one stage, which has the files of both.
    if ctx.files("val") != ctx.files("train") {
        look(ctx.files("val"), &config.text_column, &config.filter)?;
    }
    Ok(())
}

fn record(split: &str, manifest: &Manifest) -> Value {
    let stats = &manifest.stats;
    json!({
        "record": "pack", "split": split, "documents": stats.documents, "tokens_in": stats.tokens_in,
        "tokens_kept": stats.tokens_kept, "tokens_cropped": stats.tokens_cropped,
        "tokens_dropped_at_end": stats.tokens_dropped_at_end, "text_bytes": manifest.read.text_bytes,
        "read": manifest.read, "rows": manifest.rows,
        "row_tokens": manifest.row_tokens, "lost": stats.lost_share(), "bound": stats.bound_share(),
        "utilisation": stats.utilisation(manifest.row_tokens), "continuation": stats.continuation_share(),
        "lengths": stats.lengths.buckets().collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::fetch_parquet::{Exec, FetchParquet};
    use crate::stages::train_bpe::{self, TrainBpe};
    use farthing_data::Rows;

    #[test]
    fn the_world_in_rows() {
        let dir = tempfile::tempdir().unwrap();
        let world = "source = 'embedded://world'\n\
            world = { train_shards = 1, documents_per_shard = 300, val_documents = 50 }";
        let mut fetch = Ctx::detached(dir.path(), []);
        FetchParquet::run(toml::from_str(world).unwrap(), Exec::default(), &mut fetch).unwrap();
        let mut bpe = Ctx::detached(dir.path(), [("text", fetch.output("train"))]);
        let config = train_bpe::Config { vocab_size: 400, ..train_bpe::Config::default() };
        TrainBpe::run(config, NoExec {}, &mut bpe).unwrap();

        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let inputs = [
            ("train", fetch.output("train")),
            ("val", fetch.output("val")),
            ("bpe", bpe.output("bpe")),
        ];
        let mut ctx = Ctx::detached(&out, inputs);
        PackBestfit::run(toml::from_str("row_tokens = 64").unwrap(), NoExec {}, &mut ctx).unwrap();
        let rows = Rows::open(ctx.output("train")).unwrap();
        rows.verify().unwrap();
        assert_eq!(rows.row_tokens(), 65);
        assert_eq!(rows.manifest().settings.remainder, Remainder::Requeue);
        assert_eq!(rows.manifest().stats.documents, 300);
        assert!(!Rows::open(ctx.output("val")).unwrap().is_empty());
        let figures: Vec<_> = ctx.figures().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(figures, PackBestfit::FIGURES);

        let metrics = std::fs::read_to_string(ctx.output("metrics")).unwrap();
        let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
        assert_eq!((&first["split"], &first["documents"]), (&json!("train"), &json!(300)));
        let lengths = first["lengths"].as_array().unwrap().iter();
        assert_eq!(lengths.map(|l| l["documents"].as_u64().unwrap()).sum::<u64>(), 300);
        assert_eq!(first["utilisation"], json!(1.0));
    }

    #[test]
    fn a_request_to_stop_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let world = "source = 'embedded://world'\n\
            world = { train_shards = 1, documents_per_shard = 300, val_documents = 50 }";
        let mut fetch = Ctx::detached(dir.path(), []);
        FetchParquet::run(toml::from_str(world).unwrap(), Exec::default(), &mut fetch).unwrap();
        let mut bpe = Ctx::detached(dir.path(), [("text", fetch.output("train"))]);
        let config = train_bpe::Config { vocab_size: 400, ..train_bpe::Config::default() };
        TrainBpe::run(config, NoExec {}, &mut bpe).unwrap();
        let train = fetch.output("train");
        let inputs = [("train", train.clone()), ("val", train), ("bpe", bpe.output("bpe"))];
        let mut ctx = Ctx::detached(dir.path().join("out"), inputs);
        std::fs::create_dir(dir.path().join("out")).unwrap();
        ctx.cancel().request();
        let config = toml::from_str("row_tokens = 64").unwrap();
        let error = PackBestfit::run(config, NoExec {}, &mut ctx).unwrap_err();
        assert!(error.is::<Cancelled>(), "{error:#}");
    }

    #[test]
    fn faults_name_their_key() {
        for (text, key) in [
            ("row_tokens = 0", "row_tokens"),
            ("row_tokens = 64\nbuffer_documents = 0", "buffer_documents"),
            ("row_tokens = 64\nshard_bytes = 0", "shard_bytes"),
            ("row_tokens = 64\ntext_column = ''", "text_column"),
            ("row_tokens = 64\nfilter = { score_column = 'int_score' }", "filter"),
        ] {
            let config: Config = toml::from_str(text).unwrap();
            let error = PackBestfit::check(&config, &Extras::default()).unwrap_err();
            assert_eq!(error.downcast_ref::<At>().unwrap().key, key);
        }
        assert!(toml::from_str::<Config>("").is_err());
        assert!(toml::from_str::<Config>("row_tokens = 64\nrule = 'newest-first'").is_err());
        assert!(toml::from_str::<Config>("row_tokens = 64\nfilter = { score = 3 }").is_err());
        // A stage without a filter keeps the key that it had before there were any.
        let config: Config = toml::from_str("row_tokens = 64").unwrap();
        assert!(!serde_json::to_string(&config).unwrap().contains("filter"));
    }
}

//! Whether a finished binary loads a GPU's driver: it is started beside the stand-in for one that the tests of farthing-kernels have, on a machine that is said to
//! have no GPU. What it says then is the driver's word; a program that cannot load libraries would say that there is no driver.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::root;

/// What the runner says when the stand-in has told it so.
const TOLD: &str = "the driver sees no GPU";

/// The smallest pipeline that asks for a GPU before anything runs.
const PIPELINE: &str = r#"
[pipeline]
name   = "gpu"
format = 1
[stage.fetch]
uses   = "fetch-parquet"
source = "embedded://world"
world  = { train_shards = 1, documents_per_shard = 100, val_documents = 10 }
[stage.tokenizer]
uses       = "train-bpe"
inputs     = { text = "fetch.train" }
vocab_size = 400
[stage.pack]
uses       = "pack-bestfit"
inputs     = { train = "fetch.train", val = "fetch.val", bpe = "tokenizer.bpe" }
row_tokens = 64
[stage.train]
uses      = "train-gpt"
inputs    = { train = "pack.train", val = "pack.val", bpe = "tokenizer.bpe" }
resources = { device = "cuda" }
model     = { depth = 2, aspect_ratio = 32, head_dim = 32 }
schedule  = { batch_tokens = 512, steps = 2 }
"#;

/// Starts a binary beside the stand-in, and says what it answered.
///
/// # Errors
/// It says anything else, or the stand-in cannot be compiled.
pub(super) fn check(runner: &Path) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let library = dir.path().join("libcuda.so.1");
    let source = root().join("crates/kernels/tests/stand_in/cuda.c");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-pthread", "-o"]).arg(&library).arg(source);
    if !cc.status().context("cannot start cc, which makes the stand-in for a driver")?.success() {
        bail!("the stand-in for a driver does not compile");
    }
    let file = dir.path().join("gpu.toml");
    fs::write(&file, PIPELINE)?;
    let mut start = Command::new(runner);
    start.arg(&file).arg("--plan").env("LD_LIBRARY_PATH", dir.path()).env("STAND_IN", "devices=0");
    start.current_dir(dir.path()).env_remove("FARTHING_STORE").env_remove("FARTHING_RUNS");
    let output = start.output().with_context(|| format!("cannot start {}", runner.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if !said.contains(TOLD) {
        bail!("{} does not load the stand-in for a driver; it says:\n{said}", runner.display());
    }
    Ok(format!("loads libcuda (a stand-in said: {TOLD})"))
}

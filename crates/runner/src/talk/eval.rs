//! `runner eval`: CORE, and bits per byte of texts, of any model that a folder has.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use farthing_data::Texts;
use farthing_eval::core::{Bundle, CoreReport, CoreSettings, evaluate};
use farthing_eval::{BitsPerByte, Encode, Nats, count_nats, document_batches};
use serde_json::{Value, json};

use super::find::Which;
use super::options::{say, tell};
use crate::Result;
use crate::hidden::Hidden;
use crate::progress::format::amount;
use crate::progress::{Screen, StageProgress, Watch};
use crate::stages::core_bundle::{self, PUBLISHED};
use crate::stages::eval_core::{task_line, write_results};
use crate::stages::loaded::Evaluated;

/// Evaluates a model: ours, or a GPT-2 in the layout of transformers
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// CORE: the published tasks, or those of a folder, a zip or a URL
    #[arg(long, value_name = "BUNDLE", num_args = 0..=1, default_missing_value = PUBLISHED)]
    core: Option<String>,
    /// Bits per byte of texts: `.parquet` with a column `text`, `.jsonl` with a key `text`, else one document a file
    #[arg(long, value_name = "FILE", num_args = 1..)]
    bpb: Vec<PathBuf>,
    /// Items of each task of CORE [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "core")]
    max_per_task: Option<u32>,
    /// Write the results, with a record of every item, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write CORE's table, as nanochat's evaluation writes it, with its JSON beside it, into a folder
    #[arg(long, value_name = "FOLDER", requires = "core")]
    csv: Option<PathBuf>,
}

pub(crate) fn eval(args: &Args) -> Result<()> {
    if args.core.is_none() && args.bpb.is_empty() {
        bail!("nothing to evaluate\nhint: --core for tasks, --bpb FILE for bits per byte of text");
    }
    // What is missing is said before anything is fetched or loaded.
    args.which.look()?;
    let sources = args.bpb.iter().map(|path| Source::open(path)).collect::<Result<Vec<_>>>()?;
    let bundle = args.core.as_deref().map(|bundle| {
        let watch = Watch::start("bundle", Screen::of_stderr(Hidden::default()), None);
        core_bundle::open_unpinned(bundle, &mut Display::new(&watch), &tell)
    });
    let bundle = bundle.transpose()?;
    let (loaded, _) = args.which.open(&tell, &Evaluated::of_files)?;
    tell(&loaded.described());
    let mut results = json!({});
    if !sources.is_empty() {
        let bpb = bits(&loaded, sources)?;
        say(&format!(
            "bits per byte {:.6}, loss {:.6} over {}\n",
            bpb.bits_per_byte,
            bpb.nats / bpb.targets.max(1) as f64,
            amount(bpb.bytes, "bytes")
        ))?;
        results["bpb"] = serde_json::to_value(bpb)?;
    }
    if let Some(bundle) = bundle {
        let report = core(&loaded, &bundle, args.max_per_task)?;
        for task in &report.tasks {
            say(&format!("{}\n", task_line(task)))?;
        }
        let line = report.beside_gpt2().unwrap_or_else(|| format!("CORE {:.6}", report.core));
        say(&format!("{line}\n"))?;
        if let Some(n) = args.max_per_task {
            say(&format!("of {n} items a task at most: published figures are of all\n"))?;
        }
        if let Some(folder) = &args.csv {
            write_results(folder, &report)?;
        }
        results["core"] = serde_json::to_value(report)?;
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty::<Value>(&results)? + "\n";
        farthing_base::files::write(path, &[text.as_bytes()])
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn core(loaded: &Evaluated, bundle: &Bundle, max_per_task: Option<u32>) -> Result<CoreReport> {
    let watch = Watch::start("core", Screen::of_stderr(Hidden::default()), None);
    let max_per_task = max_per_task.map(|n| n as usize);
    let settings = CoreSettings { max_per_task, ..CoreSettings::default() };
    let mut display = Display::new(&watch);
    let mut scorer = loaded.scorer()?;
    Ok(evaluate(scorer.as_mut(), &loaded.tokenizer, bundle, &settings, &mut display)?)
}

/// Bytes of documents that are tokens at once.
const CHUNK_BYTES: usize = 4 << 20;
/// Positions that a batch stays under.
const BATCH_TOKENS: usize = 4_096;

/// Bits per byte of documents, each by itself: see [`document_batches`].
fn bits(loaded: &Evaluated, sources: Vec<Source>) -> Result<BitsPerByte> {
    let watch = Watch::start("bpb", Screen::of_stderr(Hidden::default()), None);
    let total: u64 = sources.iter().map(|source| source.bytes).sum();
    let progress = watch.progress(total, "bytes");
    let tokenizer = &loaded.tokenizer;
    let (mut scorer, token_bytes) = (loaded.scorer()?, tokenizer.token_bytes());
    let mut sum = Nats::default();
    let mut score = |texts: &mut Vec<String>| -> Result<()> {
        let documents = tokenizer.encode_all(texts)?;
        let bytes: usize = texts.iter().map(String::len).sum();
        texts.clear();
        let batches =
            document_batches(&documents, tokenizer.bos(), loaded.context(), BATCH_TOKENS)?;
        // All of them: positions are counted per batch, since batches differ in the length of their rows.
        for batch in batches {
            let positions = batch.inputs().len() as u64;
            let one = std::iter::once(Ok(batch));
            let more = count_nats(
                scorer.as_mut(),
                one,
                &token_bytes,
                positions,
                &mut farthing_data::Silent,
            )?;
            sum.nats += more.nats;
            sum.bytes += more.bytes;
            sum.targets += more.targets;
            sum.tokens += more.tokens;
        }
        progress.advance(bytes as u64);
        Ok(())
    };
    for source in sources {
        let (mut texts, mut bytes) = (Vec::new(), 0);
        source.each(&mut |text| {
            bytes += text.len();
            texts.push(text);
            if bytes < CHUNK_BYTES {
                return Ok(());
            }
            bytes = 0;
            score(&mut texts)
        })?;
        score(&mut texts)?;
    }
    Ok(sum.bits_per_byte()?)
}

/// A file of documents.
struct Source {
    path: PathBuf,
    bytes: u64,
}

/// The longest document, and the longest line.
const MOST_BYTES: u64 = 1 << 30;

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let said = || {
            format!("reading {}\nhint: name files of text, JSON lines or parquet", path.display())
        };
        let about = std::fs::metadata(path).with_context(said)?;
        if !about.is_file() {
            bail!("{} is no file\nhint: name files of text, JSON lines or parquet", path.display());
        }
        Ok(Self { path: path.to_owned(), bytes: about.len() })
    }

    /// Calls `f` with every document.
    fn each(&self, f: &mut dyn FnMut(String) -> Result<()>) -> Result<()> {
        let extension = self.path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "parquet" => {
                let mut texts = Texts::open(std::slice::from_ref(&self.path), "text")?;
                while let Some(text) = texts.next_text() {
                    f(text?)?;
                }
                Ok(())
            }
            "jsonl" => self.each_line(f),
            _ => {
                let bytes = farthing_base::files::read_at_most(&self.path, MOST_BYTES)
                    .with_context(|| format!("reading {}", self.path.display()))?;
                let text = String::from_utf8(bytes).map_err(|e| self.not_utf8(1, &e))?;
                f(text)
            }
        }
    }

    fn each_line(&self, f: &mut dyn FnMut(String) -> Result<()>) -> Result<()> {
        let path = self.path.display();
        let file =
            farthing_base::files::open(&self.path).with_context(|| format!("reading {path}"))?;
        let mut lines = BufReader::new(file);
        for number in 1.. {
            let mut line = Vec::new();
            let read = lines.by_ref().take(MOST_BYTES).read_until(b'\n', &mut line);
            if read.with_context(|| format!("reading {path}"))? == 0 {
                break;
            }
            let line = String::from_utf8(line).map_err(|e| self.not_utf8(number, &e))?;
            if line.trim().is_empty() {
                continue;
            }
            let value: Value = serde_json::from_str(&line).with_context(|| {
                format!("line {number} of {path} is no JSON\nhint: a line is an object with a key `text`")
            })?;
            let Some(text) = value["text"].as_str() else {
                bail!(
                    "line {number} of {path} has no `text`\nhint: a line is an object with a key `text`"
                );
            };
            f(text.to_owned())?;
        }
        Ok(())
    }

    fn not_utf8(&self, line: u64, error: &std::string::FromUtf8Error) -> anyhow::Error {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!(
            "{} is not UTF-8: byte {at} from line {line} on\nhint: convert it, with iconv for example",
            self.path.display()
        )
    }
}

/// A display as the data and eval crates know progress.
struct Display<'a> {
    watch: &'a Watch,
    progress: StageProgress,
}

impl<'a> Display<'a> {
    fn new(watch: &'a Watch) -> Self {
        Self { watch, progress: watch.progress(0, "prompts") }
    }
}

impl farthing_data::Progress for Display<'_> {
    fn total(&mut self, total: Option<u64>, unit: &'static str) {
        self.progress = self.watch.progress(total.unwrap_or(0), unit);
    }

    fn advance(&mut self, n: u64) {
        self.progress.advance(n);
    }

    fn part(&mut self, name: &str, done: u64, total: Option<u64>) {
        self.progress.part(name, done, total);
    }

    fn message(&mut self, text: &str) {
        self.progress.message(text);
    }
}

//! Finds the model that a folder stands for, and its tokenizer. The folder may be a checkpoint, an export, a run, or a training still under way.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use farthing_base::names::did_you_mean;
use farthing_data::{CHAT_TEMPLATE_FILE, Tokenizer};
use farthing_kernels::Device;
use farthing_kernels::cpu::{Compact, Cpu};
use farthing_model::Gpt2Config;
use farthing_talk::{Error, Model};
use farthing_train::{Checkpoints, MODEL_FILE};
use serde::Deserialize;
use serde_json::Value;

use crate::ctx::SCRATCH;
use crate::stages::TOKENIZER_FILE;
use crate::{Accelerator, Resources, Result, stages};

/// What the command line says of a model.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Which {
    /// The folder of a checkpoint, of an export, or of a run (of a training under way, its newest checkpoint), or a model's file
    dir: PathBuf,
    /// The stage whose model is meant, where a run has several [default: the last that trained]
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// The model's tokenizer [default: the one beside it]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = On::Cpu)]
    device: On,
    /// Threads for work on the CPU [default: all]
    #[arg(long, value_name = "N", value_parser = crate::cli::threads)]
    threads: Option<usize>,
}

/// A device by its name.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum On {
    /// This processor
    Cpu,
    /// An NVIDIA GPU
    Cuda,
    /// The kernels of a GPU on the processor, slowly
    Emulated,
}

/// How the weights that a text is multiplied with are kept.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Kept {
    /// The type that weights are kept in for decoding on the processor: fewer bytes, more tokens per second, less exactly
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    weights: Weights,
}

/// A type of weights by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Weights {
    /// As in the file
    F32,
    /// Half the bytes, each off by at most 0.2%
    Bf16,
    /// A quarter of the bytes, each off by at most 0.4% of its row's largest
    Int8,
}

/// Makes something of a model's file, its tokenizer and a device.
pub(crate) type Opens<'a, T> = dyn Fn(&Path, &Path, Box<dyn Device>) -> Result<T> + 'a;

/// A model that was found.
#[derive(Debug, PartialEq)]
struct Found {
    model: PathBuf,
    /// What is not obvious about it.
    note: Option<String>,
}

/// A model that was loaded.
pub(crate) struct Loaded {
    pub(crate) model: Model,
    /// Whether it was finetuned to chat.
    pub(crate) chats: bool,
    /// Its file.
    pub(crate) path: PathBuf,
}

/// Whether a model's file, of a training that is done or under way, is of a model that was finetuned to chat: there is a template beside it.
fn is_chat(model: &Path) -> bool {
    let folder = model.parent().unwrap_or(Path::new(""));
    beside(folder).into_iter().any(|place| place.join(CHAT_TEMPLATE_FILE).is_file())
}

/// Where the files beside a model are: in its folder, or in the output that a training under way will have.
fn beside(folder: &Path) -> [PathBuf; 2] {
    [folder.to_owned(), folder.parent().unwrap_or(Path::new("")).join("checkpoint")]
}

/// The command that talks to the model in a folder.
pub(crate) fn command(folder: &Path) -> &'static str {
    if folder.join(CHAT_TEMPLATE_FILE).is_file() { "chat" } else { "generate" }
}

impl Which {
    /// What the model is called, without where it is.
    #[cfg(feature = "serve")]
    pub(crate) fn name(&self) -> String {
        super::name::of(&self.dir, self.stage.as_deref())
    }

    /// Loads the model that is meant; `tell` hears what is not obvious.
    pub(crate) fn load(&self, kept: Kept, tell: &dyn Fn(&str)) -> Result<Loaded> {
        let compact = match kept.weights {
            Weights::F32 => None,
            Weights::Bf16 => Some(Compact::Bf16),
            Weights::Int8 => Some(Compact::Int8),
        };
        if compact.is_some() && !matches!(self.device, On::Cpu) {
            bail!("--weights is for the processor\nhint: leave out --weights, or --device");
        }
        let open = |model: &Path, tokenizer: &Path, dev: Box<dyn Device>| {
            refuse_gpt2(model)?;
            let opened = match compact {
                None => Model::open(model, tokenizer, dev),
                Some(kind) => {
                    let threads = self.threads.unwrap_or(Resources::default().threads);
                    Model::open_compact(model, tokenizer, Cpu::new(threads)?, kind)
                }
            };
            opened.map_err(hinted)
        };
        let (model, path) = self.open(tell, &open)?;
        Ok(Loaded { chats: is_chat(&path), model, path })
    }

    /// Looks whether there is a model, and reads nothing of it.
    pub(crate) fn look(&self) -> Result<()> {
        find(&self.dir, self.stage.as_deref()).map(drop)
    }

    /// Opens the model that is meant, its tokenizer and the device, and gives the model's file beside what `open` made of them; `tell` hears what is not obvious.
    pub(crate) fn open<T>(&self, tell: &dyn Fn(&str), open: &Opens<'_, T>) -> Result<(T, PathBuf)> {
        let device = match self.device {
            On::Cpu => Accelerator::Cpu,
            On::Cuda => Accelerator::Cuda,
            On::Emulated => Accelerator::Emulated,
        };
        let threads = self.threads.unwrap_or(Resources::default().threads);
        // A training deletes old checkpoints while it writes new ones.
        for attempt in 0.. {
            let Found { model, note } = find(&self.dir, self.stage.as_deref())?;
            let tokenizer = self.tokenizer.clone().map_or_else(|| tokenizer_of(&model), Ok)?;
            let opened = open(&model, &tokenizer, stages::device::of_command(device, threads)?);
            if attempt < ATTEMPTS && opened.is_err() && !model.exists() {
                continue;
            }
            if let Some(note) = note {
                tell(&note);
            }
            return Ok((opened?, model));
        }
        bail!("the checkpoints in {} are gone before they are read", self.dir.display())
    }
}

/// Refuses a model that generates nothing.
fn refuse_gpt2(model: &Path) -> Result<()> {
    if Gpt2Config::is_beside(model) {
        bail!(
            "{} is a GPT-2, which can be evaluated and nothing else\nhint: `runner eval`",
            model.display()
        );
    }
    Ok(())
}

/// How often a checkpoint may vanish before it is read.
const ATTEMPTS: usize = 5;

/// The runner names the flag.
fn hinted(error: Error) -> anyhow::Error {
    let wrong = matches!(error, Error::Vocabulary { .. });
    let error = anyhow::Error::from(error);
    if wrong {
        error.context(
            "the tokenizer is another model's\nhint: name the right one with --tokenizer FILE",
        )
    } else {
        error
    }
}

fn is_model(path: &Path) -> bool {
    path.join(MODEL_FILE).is_file()
}

fn find(dir: &Path, stage: Option<&str>) -> Result<Found> {
    let plain = |model: PathBuf| Ok(Found { model, note: None });
    if dir.is_file() {
        return plain(dir.to_owned());
    }
    if is_model(dir) {
        return plain(dir.join(MODEL_FILE));
    }
    if dir.join(RUN).is_file() {
        return of_run(dir, stage);
    }
    if let Some(found) = of_entry(dir) {
        return Ok(found);
    }
    let entries = std::fs::read_dir(dir)
        .with_context(|| format!("{} is no model's folder\nhint: {HINT}", dir.display()))?;
    let runs = entries.filter_map(|entry| Some(entry.ok()?.path()));
    match runs.filter(|run| run.join(RUN).is_file()).max_by_key(|run| age(run)) {
        Some(newest) => of_run(&newest, stage),
        None => bail!(
            "{} is no model's folder: there is no {MODEL_FILE}, no {RUN} of a run and no checkpoint of a training in it\nhint: {HINT}",
            dir.display()
        ),
    }
}

/// What the later of two runs has more of: its name begins with the second in which it began, and within one, what it wrote last counts.
fn age(run: &Path) -> (String, Option<SystemTime>, String) {
    let name = run.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let second = name.rsplit_once('-').map_or(name.as_str(), |(second, _)| second).to_owned();
    let written = std::fs::metadata(run.join(RUN)).and_then(|file| file.modified()).ok();
    (second, written, name)
}

pub(super) const RUN: &str = "run.json";
const HINT: &str = "name the folder that the last lines of a run show, or the folder of a run, `runs/NAME/TIME-ID`";

/// The model in a stage's folder in the store, done or under way.
fn of_entry(entry: &Path) -> Option<Found> {
    for port in ["checkpoint", "export"] {
        if is_model(&entry.join(port)) {
            return Some(Found { model: entry.join(port).join(MODEL_FILE), note: None });
        }
    }
    let kept = Checkpoints::new(entry.join(SCRATCH), NonZeroUsize::MIN);
    let model = kept.newest_before(u64::MAX).ok().flatten()?;
    let step = farthing_model::Checkpoint::peek(&model).map(|(_, step)| step).ok();
    let step = step.map_or_else(String::new, |step| format!(", after {step} steps"));
    Some(Found {
        model,
        note: Some(format!("the newest checkpoint of a training that is not done{step}")),
    })
}

/// What is read of a run's lineage.
#[derive(Deserialize)]
struct Run {
    stages: Vec<Ran>,
    /// Earlier versions called it `running`.
    #[serde(default, alias = "running", deserialize_with = "crate::runs::one_or_many")]
    begun: Vec<Ran>,
}

#[derive(Deserialize)]
struct Ran {
    name: String,
    folder: PathBuf,
}

fn of_run(dir: &Path, stage: Option<&str>) -> Result<Found> {
    let path = dir.join(RUN);
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let run: Run = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no lineage of a run\nhint: {HINT}", path.display()))?;
    let mut found: Vec<(String, Found)> = Vec::new();
    for ran in run.stages.iter().chain(&run.begun) {
        let there = placed(dir, &ran.folder).and_then(|entry| of_entry(&entry));
        found.extend(there.map(|model| (ran.name.clone(), model)));
    }
    let names: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
    let export = |model: &Found| model.model.parent().is_some_and(|p| p.ends_with("export"));
    let chosen = match stage {
        Some(stage) => found.into_iter().rfind(|(name, _)| name == stage).ok_or_else(|| {
            let hint = did_you_mean(stage, names.iter().map(String::as_str))
                .unwrap_or_else(|| format!("stages with a model: {}", names.join(", ")));
            anyhow!("no stage `{stage}` of the run {} has a model\nhint: {hint}", dir.display())
        })?,
        None => {
            let trained = found.iter().rposition(|(_, model)| !export(model));
            let last = trained.unwrap_or(found.len().saturating_sub(1));
            if found.is_empty() {
                bail!(
                    "the run {} has no model yet\nhint: a training leaves its first checkpoint after a minute, or after `exec.checkpoint_every_s`",
                    dir.display()
                );
            }
            found.swap_remove(last)
        }
    };
    let (name, mut model) = chosen;
    let others: Vec<&String> = names.iter().filter(|other| **other != name).collect();
    if stage.is_none() && !others.is_empty() {
        let others = others.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let own = model.note.map_or_else(String::new, |note| format!(", {note}"));
        model.note =
            Some(format!("the model of stage {name}{own}; --stage names another: {others}"));
    }
    Ok(model)
}

/// A stage's folder, done or under way: as the run wrote it, from here or from where the run was started, somewhere above its own folder.
fn placed(run: &Path, folder: &Path) -> Option<PathBuf> {
    let mut partial = folder.as_os_str().to_owned();
    partial.push(".partial");
    let either = |base: &Path| {
        [folder, Path::new(&partial)].into_iter().map(|f| base.join(f)).find(|p| p.is_dir())
    };
    let run = std::fs::canonicalize(run).ok()?;
    either(Path::new("")).or_else(|| run.ancestors().find_map(either))
}

/// The tokenizer of a model's file: beside it, beside the output that a training under way will have, or the one that the stage's record names.
fn tokenizer_of(model: &Path) -> Result<PathBuf> {
    let folder = model.parent().unwrap_or(Path::new(""));
    let above = folder.parent().unwrap_or(Path::new(""));
    let places = beside(folder).map(|place| place.join(TOKENIZER_FILE));
    if let Some(found) = places.into_iter().find(|place| place.is_file()) {
        return Ok(found);
    }
    // GPT-2's two files.
    if Tokenizer::files(folder).is_ok() {
        return Ok(folder.to_owned());
    }
    recorded(above).ok_or_else(|| {
        anyhow!(
            "there is no {TOKENIZER_FILE} beside {}\nhint: name the tokenizer that the model was trained with: --tokenizer FILE",
            model.display()
        )
    })
}

/// The tokenizer that a stage read, found by its digest among the other entries of the store: entries of earlier versions don't carry it.
fn recorded(entry: &Path) -> Option<PathBuf> {
    let record = |entry: &Path| -> Option<Value> {
        serde_json::from_slice(&std::fs::read(entry.join("stage.json")).ok()?).ok()
    };
    let own = record(entry)?;
    let digest = own["identity"]["inputs"]["bpe"]["digest"].as_str()?;
    let entries = std::fs::read_dir(entry.parent()?).ok()?;
    let mut others: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    others.sort();
    let made = |other: &PathBuf| {
        record(other).is_some_and(|r| r["outputs"]["bpe"]["digest"].as_str() == Some(digest))
    };
    others.into_iter().find(made).map(|other| other.join("bpe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with empty files.
    fn place(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        dir
    }

    fn found(dir: &Path, at: &str, stage: Option<&str>) -> String {
        let found = find(&dir.join(at), stage).unwrap();
        let path = std::fs::canonicalize(found.model).unwrap();
        let dir = std::fs::canonicalize(dir).unwrap();
        let path = path.strip_prefix(dir).unwrap().display().to_string();
        path + &found.note.map_or_else(String::new, |note| format!(" ({note})"))
    }

    #[test]
    fn a_folder_means_the_model_in_it() {
        let dir = place(&[
            "store/stages/a/checkpoint/model.safetensors",
            "store/stages/b/export/model.safetensors",
            "store/stages/c.partial/.scratch/step-0000000010.safetensors",
            "store/stages/c.partial/.scratch/step-0000000020.safetensors",
            "store/stages/c.partial/.scratch/step-0000000030.safetensors.tmp",
            "store/stages/d.partial/log",
        ]);
        let at = |path| found(dir.path(), path, None);
        let a = "store/stages/a/checkpoint/model.safetensors";
        assert_eq!(at(a), a);
        assert_eq!(at("store/stages/a/checkpoint"), a);
        assert_eq!(at("store/stages/a"), a);
        assert_eq!(at("store/stages/b"), "store/stages/b/export/model.safetensors");
        let c = "store/stages/c.partial/.scratch/step-0000000020.safetensors (the newest checkpoint of a training that is not done)";
        assert_eq!(at("store/stages/c.partial"), c);
        for none in ["store", "store/stages/d.partial", "absent"] {
            let error = find(&dir.path().join(none), None).unwrap_err();
            assert!(format!("{error:#}").contains("is no model's folder"), "{error:#}");
        }

        // A run, started where the store is, looked at from elsewhere.
        let write = |run: &str, text: &str| {
            let run = dir.path().join("runs/p").join(run);
            std::fs::create_dir_all(&run).unwrap();
            std::fs::write(run.join("run.json"), text).unwrap();
        };
        let stage = |name: &str, key: &str| {
            format!(r#"{{"name": "{name}", "folder": "store/stages/{key}"}}"#)
        };
        let all = [stage("fetch", "d"), stage("one", "a"), stage("export", "b")].join(",");
        write("2026-1", &format!(r#"{{"stages": [{all}]}}"#));
        assert_eq!(
            at("runs/p/2026-1"),
            format!("{a} (the model of stage one; --stage names another: export)")
        );
        let named = found(dir.path(), "runs/p/2026-1", Some("export"));
        assert_eq!(named, "store/stages/b/export/model.safetensors");
        let error =
            find(&dir.path().join("runs/p/2026-1"), Some("exprot")).unwrap_err().to_string();
        assert!(error.ends_with("hint: did you mean `export`?"), "{error}");
        write("2026-2", &format!(r#"{{"stages": [], "running": {}}}"#, stage("train", "c")));
        assert_eq!(at("runs/p/2026-2"), c);
        assert_eq!(at("runs/p"), c, "the newest run");
        write("2026-3", r#"{"stages": []}"#);
        assert!(
            find(&dir.path().join("runs/p"), None)
                .unwrap_err()
                .to_string()
                .contains("has no model yet")
        );
        write("2026-4", "{");
        assert!(
            find(&dir.path().join("runs/p"), None).unwrap_err().to_string().contains("no lineage")
        );
    }

    #[test]
    fn a_tokenizer_is_beside_its_model_or_known_by_its_digest() {
        let dir = place(&[
            "stages/new/checkpoint/tokenizer.json",
            "stages/new/checkpoint/model.safetensors",
            "stages/old/checkpoint/model.safetensors",
            "stages/bare/checkpoint/model.safetensors",
        ]);
        let stages = dir.path().join("stages");
        let write = |entry: &str, text: &str| {
            std::fs::create_dir_all(stages.join(entry)).unwrap();
            std::fs::write(stages.join(entry).join("stage.json"), text).unwrap();
        };
        write("old", r#"{"identity": {"inputs": {"bpe": {"digest": "x"}}}}"#);
        write("t1", r#"{"outputs": {"bpe": {"digest": "y"}}}"#);
        write("t2", r#"{"outputs": {"bpe": {"digest": "x"}}}"#);
        let of = |model: &str| tokenizer_of(&stages.join(model));
        assert_eq!(of("new/checkpoint/m").unwrap(), stages.join("new/checkpoint/tokenizer.json"));
        assert_eq!(of("new/.scratch/m").unwrap(), stages.join("new/checkpoint/tokenizer.json"));
        assert_eq!(of("old/checkpoint/m").unwrap(), stages.join("t2/bpe"));
        let error = of("bare/checkpoint/m").unwrap_err().to_string();
        assert!(error.contains("--tokenizer FILE"), "{error}");
    }
}

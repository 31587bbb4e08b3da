//! What a running stage is given: its inputs, its output folder, the seed, and ways to speak to whoever watches.

use std::any::Any;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};

use crate::progress::{StageProgress, Watch};
use crate::stage::Promises;
use crate::{Cancel, Cancelled, Extras, Figure, Metrics, Resources, Result};

/// Handed to [`Stage::run`](crate::Stage::run).
pub struct Ctx {
    /// The stage's seed: its own, or the pipeline's.
    pub seed: u64,
    /// What the stage may use of the machine.
    pub resources: Resources,
    /// Whether an earlier attempt at the same work was cut off and left its output folder: look for a checkpoint.
    pub resumed: bool,
    pub(crate) inputs: BTreeMap<String, PathBuf>,
    /// Of ports that take many: (port, what sets the stage behind it apart, path), in the order of the file.
    pub(crate) many: Vec<(&'static str, String, PathBuf)>,
    /// Of the files behind the ports.
    pub(crate) digests: BTreeMap<PathBuf, String>,
    pub(crate) dir: PathBuf,
    pub(crate) extras: Arc<Extras>,
    pub(crate) cancel: Cancel,
    pub(crate) watch: Watch,
    pub(crate) summary: Vec<(String, Figure)>,
    /// Of stages before: (stage and figure, text).
    pub(crate) figures_before: BTreeMap<String, String>,
    pub(crate) origins: BTreeMap<String, String>,
}

impl Ctx {
    /// A context outside of a pipeline, silent, for tests of one stage: outputs go to `dir`, which must exist.
    pub fn detached<'a>(
        dir: impl Into<PathBuf>,
        inputs: impl IntoIterator<Item = (&'a str, PathBuf)>,
    ) -> Self {
        Self {
            seed: 0,
            resources: Resources::default(),
            resumed: false,
            inputs: inputs.into_iter().map(|(port, path)| (port.to_owned(), path)).collect(),
            many: Vec::new(),
            digests: BTreeMap::new(),
            dir: dir.into(),
            extras: Arc::default(),
            cancel: Cancel::default(),
            watch: Watch::silent(),
            summary: Vec::new(),
            figures_before: BTreeMap::new(),
            origins: BTreeMap::new(),
        }
    }

    /// The same context with these extras.
    #[must_use]
    pub fn with_extras(self, extras: Arc<Extras>) -> Self {
        Self { extras, ..self }
    }

    /// The file or folder behind an input port.
    ///
    /// # Errors
    /// The port is optional and not connected; use [`Ctx::input_if_any`] for those.
    pub fn input(&self, port: &str) -> Result<&Path> {
        self.input_if_any(port).ok_or_else(|| {
            anyhow!("input `{port}` is not connected\nhint: add it to the stage's `inputs`")
        })
    }

    /// The file or folder behind an input port, if the pipeline connects it.
    pub fn input_if_any(&self, port: &str) -> Option<&Path> {
        self.inputs.get(port).map(PathBuf::as_path)
    }

    /// The files or folders behind an input port that takes many, each with what sets the stage behind it apart
    /// (`variant=swiglu`), in the order of the file.
    pub fn inputs(&self, port: &str) -> Vec<(&str, &Path)> {
        let of_port = self.many.iter().filter(|(name, ..)| *name == port);
        of_port.map(|(_, label, path)| (label.as_str(), path.as_path())).collect()
    }

    /// The BLAKE3 digest, in hex, of a file behind an input port, taken when the stage before was done: a stage need not read a
    /// file twice to know whether it is the same as before. `None` outside of a pipeline.
    pub fn digest(&self, file: &Path) -> Option<&str> {
        self.digests.get(file).map(String::as_str)
    }

    /// The files that the stage behind an input port wrote there; none outside of a pipeline.
    pub(crate) fn recorded(&self, input: &Path) -> impl Iterator<Item = PathBuf> {
        self.digests.keys().filter(move |file| file.starts_with(input)).cloned()
    }

    /// Where an output port's file or folder belongs. The stage creates it; the folder around it exists.
    pub fn output(&self, port: &str) -> PathBuf {
        self.dir.join(port)
    }

    /// A folder for what only a resumed attempt needs, such as checkpoints of a training under way. It survives a
    /// crash and is deleted when the stage succeeds.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn scratch(&self) -> Result<PathBuf> {
        let dir = self.dir.join(SCRATCH);
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }

    /// Starts the JSON-lines file of a `"metrics"` output port afresh.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn metrics(&self, port: &str) -> Result<Metrics> {
        Metrics::create(&self.output(port))
    }

    /// Opens the JSON-lines file of an earlier attempt, dropping records whose `step` is above `last_step`.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn resume_metrics(&self, port: &str, last_step: u64) -> Result<Metrics> {
        Metrics::resume(&self.output(port), last_step)
    }

    /// Starts a progress display over `total` units (0 where unknown), in place of an earlier one.
    pub fn progress(&self, total: u64, unit: &str) -> StageProgress {
        self.watch.progress(total, unit)
    }

    /// Prints a line on the screen and in the stage's `log.txt`.
    pub fn log(&self, line: impl AsRef<str>) {
        self.watch.log(line.as_ref());
    }

    /// Gives a figure for the final screen, the lineage and `expect`; the last value of a key counts.
    pub fn summary(&mut self, key: impl Into<String>, value: impl Into<Figure>) {
        let key = key.into();
        let value = value.into();
        match self.summary.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) => *old = value,
            None => self.summary.push((key, value)),
        }
    }

    /// The figures given so far.
    pub fn figures(&self) -> &[(String, Figure)] {
        &self.summary
    }

    /// The figures of all stages before that [`Stage::READS_FIGURES`](crate::Stage::READS_FIGURES) names, as `(stage, figure, text)`;
    /// none outside of a pipeline.
    pub fn figures_before(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.figures_before.iter().filter_map(|(name, text)| {
            let (stage, figure) = name.rsplit_once('.')?;
            Some((stage, figure, text.as_str()))
        })
    }

    /// Notes what a file of an output is a copy of, so that an error of whoever reads it later names that.
    pub fn copied(&mut self, output: &Path, of: impl Into<String>) {
        if let Ok(name) = output.strip_prefix(&self.dir) {
            self.origins.insert(name.to_string_lossy().into_owned(), of.into());
        }
    }

    /// Whether Ctrl-C was pressed; poll it between steps, leave a checkpoint and return [`Cancelled`].
    pub fn cancelled(&self) -> bool {
        self.cancel.requested()
    }

    /// Fails once Ctrl-C was pressed: `ctx.check_cancelled()?`.
    ///
    /// # Errors
    /// [`Cancelled`] after a request to stop.
    pub fn check_cancelled(&self) -> Result<(), Cancelled> {
        self.cancel.check()
    }

    /// The flag behind [`Ctx::cancelled`], to hand to a thread.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// A value that the application registered with [`App::extra`](crate::App::extra).
    pub fn extra<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.extras.get()
    }

    /// Everything that the application registered.
    pub fn extras(&self) -> &Extras {
        &self.extras
    }
}

/// The name of the folder behind [`Ctx::scratch`].
pub(crate) const SCRATCH: &str = ".scratch";

/// Handed to [`Stage::plan`](crate::Stage::plan) and [`Stage::preflight`](crate::Stage::preflight).
pub struct PlanCtx {
    /// The stage's seed: its own, or the pipeline's.
    pub seed: u64,
    connected: Vec<&'static str>,
    inputs: BTreeMap<String, PathBuf>,
    promises: Promises,
    files: BTreeMap<&'static str, Vec<PathBuf>>,
    extras: Arc<Extras>,
    measured: Measured,
    kept: OnceCell<Box<dyn Any>>,
}

/// What plans have measured of this machine, shared by all stages of a look ahead.
pub(crate) type Measured = Arc<Mutex<BTreeMap<String, f64>>>;

impl PlanCtx {
    /// `promises` are those of the stages before, each with the input port that its output is connected to.
    pub(crate) fn new(
        seed: u64,
        connected: Vec<&'static str>,
        inputs: BTreeMap<String, PathBuf>,
        promises: Promises,
        files: BTreeMap<&'static str, Vec<PathBuf>>,
        extras: Arc<Extras>,
        measured: Measured,
    ) -> Self {
        let kept = OnceCell::new();
        Self { seed, connected, inputs, promises, files, extras, measured, kept }
    }

    /// What a stage works out once for all that it is asked about one plan: always of the one type.
    ///
    /// # Errors
    /// It cannot be made, which is not remembered.
    pub(crate) fn kept<T: Any>(&self, make: impl FnOnce() -> Result<T>) -> Result<Option<&T>> {
        if self.kept.get().is_none() {
            // Nobody has set it in between: this is no thread's but ours.
            let _ = self.kept.set(Box::new(make()?));
        }
        Ok(self.kept.get().and_then(|kept| kept.downcast_ref()))
    }

    /// A measurement that is made once for all stages.
    pub(crate) fn once(&self, what: &str, measure: impl FnOnce() -> Result<f64>) -> Result<f64> {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = measured.get(what) {
            return Ok(*known);
        }
        let found = measure()?;
        measured.insert(what.to_owned(), found);
        Ok(found)
    }

    /// What this machine is asked once for all stages, if it goes well; who is refused is refused each time, in words of its own.
    ///
    /// # Errors
    /// Of what is tried.
    pub(crate) fn tried(&self, what: &str, attempt: impl FnOnce() -> Result<()>) -> Result<()> {
        self.once(what, || attempt().map(|()| 1.0)).map(drop)
    }

    /// The files outside of the pipeline that the stage behind an input port will copy, as far as they are known and not copied yet.
    pub fn files(&self, port: &str) -> &[PathBuf] {
        self.files.get(port).map_or(&[], Vec::as_slice)
    }

    /// Whether the pipeline connects an input port.
    pub fn is_connected(&self, port: &str) -> bool {
        self.connected.contains(&port)
    }

    /// A number that the stage behind an input port promised of it, made or not.
    pub fn promise(&self, port: &str, fact: &str) -> Option<u64> {
        self.fact(port, fact)?.as_u64()
    }

    /// What the stage behind an input port promised of it, made or not.
    pub fn fact(&self, port: &str, fact: &str) -> Option<&serde_json::Value> {
        let found = self.promises.iter().find(|(input, p)| *input == port && p.fact == fact);
        found.map(|(_, p)| &p.value)
    }

    /// The file or folder behind an input port, if it is in the cache already.
    pub fn input(&self, port: &str) -> Option<&Path> {
        self.inputs.get(port).map(PathBuf::as_path)
    }

    /// A value that the application registered.
    pub fn extra<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.extras.get()
    }

    /// Everything that the application registered.
    pub fn extras(&self) -> &Extras {
        &self.extras
    }
}

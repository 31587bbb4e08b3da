//! Checkpoints: one tensor file with a model's weights under nanochat's names, its configuration, and any state that a trainer adds.
//!
//! The file alone is enough to load the model, because the configuration is in its metadata. Tensors that are not parameters have names starting with [`STATE_PREFIX`]; whoever wrote them knows
//! what they mean.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use farthing_base::tensors::{TensorError, TensorFile, TensorWriter, WHOLE_CHECKSUM};
use farthing_kernels::{DType, Device, Mut, Params, Part, Ref, Shape, Weights};

use crate::layout::{Layout, Place};
use crate::tensors::{found, found_float, tensor};
use crate::{Error, Gpt, GptConfig, Result};

/// How the names of tensors begin that are not parameters.
pub const STATE_PREFIX: &str = "state.";

const FORMAT: &str = "farthing.format";
const CONFIG: &str = "farthing.config";
const STEP: &str = "farthing.step";
/// The name of the file's [`Layout`], where it is not our own.
pub(crate) const LAYOUT: &str = "farthing.layout";
/// Layers whose tensors are looked for, however few there are.
const MOST_LAYERS: usize = 1 << 12;
/// The version of the format that this crate writes and reads.
const FORMAT_VERSION: &str = "1";

/// A tensor to save beside the weights.
#[derive(Clone)]
pub struct Extra<'a> {
    /// Its name, which begins with [`STATE_PREFIX`].
    pub name: String,
    /// Its elements, on the device.
    pub tensor: Ref<'a>,
}

/// Writes a checkpoint: master weights, configuration, step, `extra` tensors and `metadata`. The file is whole or not there.
///
/// # Numerics
/// Master weights as they are: F32, or F64 on the reference device.
///
/// # Errors
/// [`Error::File`] for a bad name in `extra` or `metadata`, or where the system refuses; [`Error::Kernel`].
pub fn save_model(
    path: &Path,
    gpt: &Gpt,
    dev: &dyn Device,
    weights: Weights<'_>,
    step: u64,
    extra: &[Extra<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let listed: Vec<(&str, DType, Shape)> =
        extra.iter().map(|e| (&*e.name, e.tensor.dtype(), e.tensor.shape())).collect();
    let dtype = dev.master_dtype();
    let mut writer = CheckpointWriter::create(path, gpt, dtype, step, &listed, metadata)?;
    for spec in gpt.params() {
        writer.write_view(dev, weights.master(spec.id)?)?;
    }
    for extra in extra {
        writer.write_view(dev, extra.tensor)?;
    }
    writer.finish()
}

/// A checkpoint being written, whose tensors may come in pieces: every parameter in the model's order, then the tensors beside them. Dropped before
/// [`CheckpointWriter::finish`], it leaves nothing.
pub struct CheckpointWriter {
    writer: TensorWriter,
    host: Vec<u8>,
}

impl CheckpointWriter {
    /// Starts a file of all parameters, of type `dtype`, and of `extra` tensors, whose names begin with [`STATE_PREFIX`].
    ///
    /// # Errors
    /// [`Error::File`] for a bad name in `extra` or `metadata`, or where the system refuses.
    pub fn create(
        path: &Path,
        gpt: &Gpt,
        dtype: DType,
        step: u64,
        extra: &[(&str, DType, Shape)],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let refuse = |what: String| TensorError::Write { path: path.to_owned(), what };
        let mut tensors = Vec::new();
        for spec in gpt.params() {
            tensors.push(tensor(&spec.name, dtype, spec.shape).map_err(refuse)?);
        }
        for &(name, dtype, shape) in extra {
            if !name.starts_with(STATE_PREFIX) {
                let what = format!("tensor `{name}` must be named `{STATE_PREFIX}…`");
                return Err(refuse(what).into());
            }
            tensors.push(tensor(name, dtype, shape).map_err(refuse)?);
        }
        let config = serde_json::to_string(gpt.config())
            .map_err(|e| refuse(format!("the configuration as JSON: {e}")))?;
        let mut all = metadata.clone();
        let own = [(FORMAT, FORMAT_VERSION.to_owned()), (CONFIG, config), (STEP, step.to_string())];
        for (key, value) in own {
            if all.insert(key.into(), value).is_some() {
                return Err(refuse(format!("metadata `{key}` is reserved")).into());
            }
        }
        let writer = TensorWriter::create(path, &tensors, &all)?;
        Ok(Self { writer, host: vec![] })
    }

    /// The next bytes of the tensors, little-endian.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.writer.write(bytes)?)
    }

    /// The next elements, from a device.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Kernel`].
    pub fn write_view(&mut self, dev: &dyn Device, view: Ref<'_>) -> Result<()> {
        for view in pieces(view)? {
            self.host.resize(view.shape().elements() * view.dtype().bytes(), 0);
            dev.read(&mut self.host, view)?;
            self.writer.write(&self.host)?;
        }
        Ok(())
    }

    /// Writes the checksum, syncs, and gives the file its name.
    ///
    /// # Errors
    /// [`Error::File`], also when bytes are missing.
    pub fn finish(self) -> Result<()> {
        Ok(self.writer.finish()?)
    }
}

/// Elements that pass through the host at a time.
pub const PIECE: usize = 1 << 22;

/// A tensor as one-dimensional views of at most [`PIECE`] elements.
fn pieces(view: Ref<'_>) -> Result<impl Iterator<Item = Ref<'_>>> {
    let n = view.shape().elements();
    let flat = view.reshape([n])?;
    // The ranges are within 0..n, so `rows` refuses none of them.
    Ok((0..n).step_by(PIECE).filter_map(move |start| flat.rows(start..n.min(start + PIECE)).ok()))
}

/// A checkpoint opened and verified.
pub struct Checkpoint {
    file: TensorFile,
    config: GptConfig,
    layout: Layout,
    step: u64,
}

impl Checkpoint {
    /// Opens a checkpoint, verifies its checksum and reads its configuration.
    ///
    /// # Errors
    /// As [`TensorFile::open`]; [`Error::Metadata`] when it is not a checkpoint of this format; [`Error::Config`].
    pub fn open(path: &Path) -> Result<Self> {
        let opened = Self::of(TensorFile::open(path)?)?;
        if !opened.file.has_checksum() {
            return Err(Error::Metadata {
                path: path.to_owned(),
                key: WHOLE_CHECKSUM,
                what: "is missing".into(),
                hint: "the file was changed after it was written; use an earlier checkpoint",
            });
        }
        Ok(opened)
    }

    /// The configuration and the step of a checkpoint by its header alone. Nothing else of the file is looked at.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], but for the checksum.
    pub fn peek(path: &Path) -> Result<(GptConfig, u64)> {
        let Self { config, step, .. } = Self::of(TensorFile::peek(path)?)?;
        Ok((config, step))
    }

    fn of(file: TensorFile) -> Result<Self> {
        let path = file.path();
        let bad =
            |key, what: String, hint| Error::Metadata { path: path.to_owned(), key, what, hint };
        let foreign = "this is not a checkpoint of farthing; weights of other programs can be loaded into a known configuration with load_weights";
        let get = |key| file.metadata(key).ok_or_else(|| bad(key, "is missing".into(), foreign));
        let format = get(FORMAT)?;
        if format != FORMAT_VERSION {
            let what = format!("is `{format}`, this program reads `{FORMAT_VERSION}`");
            return Err(bad(FORMAT, what, "use the version of the program that wrote it"));
        }
        let config: GptConfig = serde_json::from_str(get(CONFIG)?).map_err(|e| {
            bad(
                CONFIG,
                format!("cannot be read: {e}"),
                "use the version of the program that wrote it",
            )
        })?;
        config.check()?;
        let layout = Layout::of(&file)?;
        layout.check(&config)?;
        // A layer has a tensor at least. Which one a few layers lack is said when they are looked for; the names of many are not made.
        let tensors = file.names().len();
        if config.depth > tensors.max(MOST_LAYERS) {
            let what = format!("announces {} layers, the file has {tensors} tensors", config.depth);
            return Err(bad(CONFIG, what, "the file is damaged; use an earlier checkpoint"));
        }
        let step = get(STEP)?.parse();
        let step = step.map_err(|e| bad(STEP, format!("is no number: {e}"), foreign))?;
        Ok(Self { file, config, layout, step })
    }

    /// The configuration of the model in it.
    pub fn config(&self) -> &GptConfig {
        &self.config
    }

    /// The step after which it was written.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// A metadata entry.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.file.metadata(key)
    }

    /// How its tensors are named and laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The file behind it.
    pub(crate) fn file(&self) -> &TensorFile {
        &self.file
    }

    /// What makes the file a checkpoint: format, configuration, step.
    pub(crate) fn own_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        [FORMAT, CONFIG, STEP].into_iter().filter_map(|key| Some((key, self.file.metadata(key)?)))
    }

    /// The names of tensors that are not parameters.
    pub fn state_names(&self) -> Vec<String> {
        self.file.names().into_iter().filter(|name| name.starts_with(STATE_PREFIX)).collect()
    }

    /// Whether the checkpoint has the weights of a model, and that they are numbers.
    ///
    /// # Errors
    /// As [`load_weights`], but for the device's.
    pub fn check(&self, gpt: &Gpt) -> Result<()> {
        check_weights(&self.file, gpt)
    }

    /// Whether the checkpoint has a tensor of this shape that is not a parameter, and its floats are numbers.
    ///
    /// # Errors
    /// As [`Checkpoint::load_state`], and [`Error::NotFinite`].
    pub fn check_state(&self, name: &str, shape: Shape) -> Result<()> {
        let (dtype, found) = found(&self.file, name)?;
        check_shape(&self.file, name, found, shape)?;
        if dtype == DType::I32 { Ok(()) } else { check_finite(&self.file, name) }
    }

    /// Copies the weights to a device and refreshes their compute copies; on several ranks, those that this rank has.
    ///
    /// # Errors
    /// As [`load_weights`].
    pub fn load(&self, gpt: &Gpt, dev: &dyn Device, params: &mut Params) -> Result<()> {
        load_weights(&self.file, gpt, dev, params)
    }

    /// Copies a tensor that is not a parameter to a device.
    ///
    /// # Errors
    /// [`Error::File`] when it is missing; [`Error::ParameterShape`] when `dst` has another shape; [`Error::ElementType`]; [`Error::Kernel`].
    pub fn load_state(&self, name: &str, dev: &dyn Device, dst: Mut<'_>) -> Result<()> {
        let shape = dst.shape();
        copy_part(&self.file, name, shape, 0..shape.elements(), dev, dst)
    }

    /// Copies the elements `range` of a tensor of shape `shape` that is not a parameter to a device.
    ///
    /// # Errors
    /// As [`Checkpoint::load_state`]; [`Error::Kernel`] also when `dst` has another length than `range`.
    pub fn load_state_part(
        &self,
        name: &str,
        shape: Shape,
        range: Range<usize>,
        dev: &dyn Device,
        dst: Mut<'_>,
    ) -> Result<()> {
        copy_part(&self.file, name, shape, range, dev, dst)
    }
}

/// Copies the weights of a model from any safetensors file with the recipe's names, and refreshes the compute copies.
///
/// # Errors
/// [`Error::ParameterShape`], [`Error::File`] when one is missing, [`Error::Unknown`], [`Error::ElementType`], [`Error::NotFinite`], before anything is written;
/// [`Error::Kernel`].
pub fn load_weights(
    file: &TensorFile,
    gpt: &Gpt,
    dev: &dyn Device,
    params: &mut Params,
) -> Result<()> {
    check_weights(file, gpt)?;
    let layout = Layout::of(file)?;
    for spec in gpt.params() {
        let Some(Part { range, master }) = params.part_mut(spec.id)? else { continue };
        match layout.place(gpt.config(), spec) {
            Place::Constant(value) => dev.fill(master, value)?,
            Place::Stored { name, shape } => {
                // Rows that no token has may be left out.
                let stored = range.start.min(shape.elements())..range.end.min(shape.elements());
                let flat = master.reshape([range.len()])?;
                let all = stored.len() == range.len();
                let (there, rest) = flat.split_rows(stored.len())?;
                if all || !stored.is_empty() {
                    copy_part(file, &name, shape, stored, dev, there)?;
                }
                if !all {
                    dev.fill(rest, 0.0)?;
                }
            }
        }
    }
    Ok(params.refresh_compute(dev)?)
}

/// Whether a file has every parameter of a model, in its shape, of floats that are numbers, and nothing else beside what is called
/// [`STATE_PREFIX`]. Nothing is allocated for what the model would take.
///
/// # Errors
/// Those of [`load_weights`], but for the device's.
fn check_weights(file: &TensorFile, gpt: &Gpt) -> Result<()> {
    let layout = Layout::of(file)?;
    layout.check(gpt.config())?;
    let mut known: Vec<String> = Vec::new();
    for spec in gpt.params() {
        if let Place::Stored { name, shape } = layout.place(gpt.config(), spec) {
            check_shape(file, &name, found(file, &name)?.1, shape)?;
            found_float(file, &name)?;
            known.push(name);
        }
    }
    known.sort_unstable();
    let is_known =
        |name: &String| name.starts_with(STATE_PREFIX) || known.binary_search(name).is_ok();
    if let Some(name) = file.names().into_iter().find(|name| !is_known(name)) {
        return Err(Error::Unknown { path: file.path().to_owned(), name });
    }
    known.iter().try_for_each(|name| check_finite(file, name))
}

/// Refuses a tensor with an element that is no number or infinite: whatever is computed from it is nothing.
pub(crate) fn check_finite(file: &TensorFile, name: &str) -> Result<()> {
    let (dtype, _) = found_float(file, name)?;
    let width = dtype.bytes();
    let bytes = file.bytes(name)?;
    // A sign and an exponent of ones, in the upper bytes; whole chunks, so that the compiler makes vectors of it.
    let fine = match dtype {
        DType::F64 => bytes.as_chunks::<8>().0.iter().all(|b| f64::from_le_bytes(*b).is_finite()),
        DType::F32 => bytes.as_chunks::<4>().0.iter().all(|b| f32::from_le_bytes(*b).is_finite()),
        _ => bytes.chunks_exact(width).all(|b| widen(b).is_finite()),
    };
    if fine {
        return Ok(());
    }
    let mut values = bytes.chunks_exact(width).map(widen).enumerate();
    let (at, value) = values.find(|(_, value)| !value.is_finite()).unwrap_or((0, f64::NAN));
    let (path, name) = (file.path().to_owned(), name.to_owned());
    Err(Error::NotFinite { path, name, at, value })
}

/// A model and its weights from a checkpoint alone, each parameter in a slab of its own.
///
/// # Errors
/// As [`Checkpoint::open`] and [`Checkpoint::load`].
pub fn load_model(path: &Path, dev: &dyn Device) -> Result<(Gpt, Params)> {
    let checkpoint = Checkpoint::open(path)?;
    let gpt = Gpt::new(checkpoint.config().clone())?;
    // Before memory for what the configuration promises is asked for: does the file have it?
    check_weights(&checkpoint.file, &gpt)?;
    let mut params = Params::new(dev, gpt.single_group())?;
    checkpoint.load(&gpt, dev, &mut params)?;
    Ok((gpt, params))
}

pub(crate) fn check_shape(
    file: &TensorFile,
    name: &str,
    found: Shape,
    expected: Shape,
) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let (path, name) = (file.path().to_owned(), name.to_owned());
    Err(Error::ParameterShape { path, name, found: found.into(), expected: expected.into() })
}

/// Copies elements of one tensor to `dst`, converting between float types where they differ.
fn copy_part(
    file: &TensorFile,
    name: &str,
    shape: Shape,
    range: Range<usize>,
    dev: &dyn Device,
    dst: Mut<'_>,
) -> Result<()> {
    let (dtype, found_shape) = found(file, name)?;
    check_shape(file, name, found_shape, shape)?;
    let (n, width) = (range.len(), dtype.bytes());
    let mut rest = dst.reshape([n])?;
    let bytes = &file.bytes(name)?[range.start * width..range.end * width];
    if dtype == rest.dtype() {
        return Ok(dev.write(rest, bytes)?);
    }
    found_float(file, name)?;
    for piece in bytes.chunks(PIECE * width) {
        let values: Vec<f64> = piece.chunks_exact(width).map(widen).collect();
        let (head, tail) = rest.split_rows(values.len())?;
        dev.write_f64(head, &values)?;
        rest = tail;
    }
    Ok(())
}

/// A little-endian float of 2 (bf16), 4 or 8 bytes.
pub(crate) fn widen(bytes: &[u8]) -> f64 {
    match *bytes {
        [a, b] => f32::from_le_bytes([0, 0, a, b]) as f64,
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]) as f64,
        [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => f64::NAN,
    }
}

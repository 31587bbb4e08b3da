//! GPT-2's weights from a file in the layout of `transformers`, in the form that the forward pass computes with.
//!
//! Who reads the residual stream reads it through a layer norm, y = (x − mean) / √(var + ε) · γ + β. So three things of it are done once, here:
//! - everything that is added to the stream (tables, output projections, their biases) is taken with its mean over the channels removed: then the stream's mean is 0;
//! - the same is scaled by s = √(2⁻²³ / ε): then an RMS norm of the stream, which adds 2⁻²³ to the mean square, is the norm with ε;
//! - γ and β go into the weights and the bias of what comes next: w·γ and b + w·β.
//!
//! What is left of a layer norm is an RMS norm without weights, which every device has.

use std::collections::BTreeSet;
use std::path::Path;

use farthing_base::tensors::TensorFile;
use farthing_kernels::{DType, Device, Tensor};

use super::Gpt2Config;
use crate::checkpoint::{check_finite, check_shape, widen};
use crate::tensors::found_float;
use crate::{Error, Result};

/// What an RMS norm adds to the mean square.
const RMS_EPSILON: f64 = 1.0 / (1 << 23) as f64;
/// Columns of a matrix that are turned into rows at a time.
const COLUMNS: usize = 256;

/// y = x · wᵀ + bias.
pub(super) struct Affine {
    /// (out, in).
    pub(super) weight: Tensor,
    /// (1, out): a table of one row, that `embed` copies to every row of a result.
    pub(super) bias: Tensor,
}

/// One block.
pub(super) struct Block {
    /// Queries, keys and values.
    pub(super) qkv: [Affine; 3],
    pub(super) attn_proj: Affine,
    pub(super) fc: Affine,
    pub(super) mlp_proj: Affine,
}

/// All weights, on a device.
pub(super) struct Weights {
    /// (V, C).
    pub(super) tokens: Tensor,
    /// (n_positions, C).
    pub(super) positions: Tensor,
    pub(super) blocks: Vec<Block>,
    /// The last norm and the tied head.
    pub(super) head: Affine,
}

impl Weights {
    /// Reads a file. Everything is checked before anything is allocated.
    ///
    /// # Errors
    /// As [`Gpt2::open`](super::Gpt2::open).
    pub(super) fn read(config: &Gpt2Config, path: &Path, dev: &dyn Device) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let found = Found::checked(&file, config)?;
        let reader = Reader { found, dev };
        let c = config.n_embd;
        let mut blocks = Vec::with_capacity(config.n_layer);
        for layer in 0..config.n_layer {
            blocks.push(reader.block(layer)?);
        }
        let scale = (RMS_EPSILON / config.layer_norm_epsilon).sqrt();
        Ok(Self {
            tokens: reader.table("wte.weight", scale)?,
            positions: reader.table("wpe.weight", scale)?,
            blocks,
            head: reader.head(c)?,
        })
    }
}

/// Whether a file has the whole model.
pub(super) fn check(config: &Gpt2Config, path: &Path) -> Result<()> {
    Found::checked(&TensorFile::open(path)?, config).map(drop)
}

/// A file that has the whole model.
#[derive(Clone, Copy)]
struct Found<'a> {
    file: &'a TensorFile,
    prefix: &'static str,
    config: &'a Gpt2Config,
}

impl<'a> Found<'a> {
    fn checked(file: &'a TensorFile, config: &'a Gpt2Config) -> Result<Self> {
        let prefix = if file.info("wte.weight").is_err() { "transformer." } else { "" };
        let found = Self { file, prefix, config };
        found.check().map(|()| found)
    }

    /// Every tensor of the model and its shape.
    fn expected(&self) -> Vec<(String, Vec<usize>)> {
        let &Gpt2Config { n_layer, n_embd: c, n_positions, vocab_size, .. } = self.config;
        let m = self.config.inner();
        let mut all = vec![
            ("wte.weight".to_owned(), vec![vocab_size, c]),
            ("wpe.weight".to_owned(), vec![n_positions, c]),
            ("ln_f.weight".to_owned(), vec![c]),
            ("ln_f.bias".to_owned(), vec![c]),
        ];
        for layer in 0..n_layer {
            let parts: [(&str, &[usize], usize); 6] = [
                ("ln_1", &[c], c),
                ("attn.c_attn", &[c, 3 * c], 3 * c),
                ("attn.c_proj", &[c, c], c),
                ("ln_2", &[c], c),
                ("mlp.c_fc", &[c, m], m),
                ("mlp.c_proj", &[m, c], c),
            ];
            for (part, shape, outs) in parts {
                all.push((format!("h.{layer}.{part}.weight"), shape.to_vec()));
                all.push((format!("h.{layer}.{part}.bias"), vec![outs]));
            }
        }
        all
    }

    /// Whether the file has every tensor, in its shape, of floats that are numbers, and nothing else but what `transformers` once kept beside them.
    fn check(&self) -> Result<()> {
        // A layer has tensors: the names of many are not made for a file of a few.
        let there = self.file.names().len();
        if self.config.n_layer > there {
            return Err(Error::Metadata {
                path: Gpt2Config::file(self.file.path()),
                key: "n_layer",
                what: format!("is {}, the weights are {there} tensors", self.config.n_layer),
                hint: "config.json and model.safetensors must be of one model",
            });
        }
        let mut known = BTreeSet::new();
        for (name, shape) in self.expected() {
            let name = self.name(&name);
            let found = found_float(self.file, &name)?.1;
            let shape = farthing_kernels::Shape::from_dims(&shape).unwrap_or(found);
            check_shape(self.file, &name, found, shape)?;
            known.insert(name);
        }
        // The causal mask, and a copy of the tied head.
        let beside = |name: &str| {
            name == "lm_head.weight"
                || name.ends_with(".attn.bias")
                || name.ends_with(".attn.masked_bias")
        };
        if let Some(name) = self.file.names().into_iter().find(|n| !known.contains(n) && !beside(n))
        {
            return Err(Error::Unknown { path: self.file.path().to_owned(), name });
        }
        known.iter().try_for_each(|name| check_finite(self.file, name))
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A vector of the file.
    fn vector(&self, name: &str) -> Result<Vec<f64>> {
        Ok(self.matrix(name)?.to_vec())
    }

    fn matrix(&self, name: &str) -> Result<Matrix<'a>> {
        let name = self.name(name);
        let (dtype, shape) = found_float(self.file, &name)?;
        let cols = shape.last().copied().unwrap_or(1);
        Ok(Matrix { bytes: self.file.bytes(&name)?, dtype, cols })
    }
}

/// Brings the weights of a file into the form that is computed with.
struct Reader<'a> {
    found: Found<'a>,
    dev: &'a dyn Device,
}

impl Reader<'_> {
    /// A table whose rows are added to the stream.
    fn table(&self, name: &str, scale: f64) -> Result<Tensor> {
        let matrix = self.found.matrix(name)?;
        let (rows, cols) = (matrix.rows(), matrix.cols);
        let mut out = self.dev.activations([rows, cols])?;
        for row in 0..rows {
            let mut values = matrix.row(row);
            center(&mut values, scale);
            self.dev.write_f64(out.view_mut().rows(row..row + 1)?, &values)?;
        }
        Ok(out)
    }

    fn block(&self, layer: usize) -> Result<Block> {
        let c = self.found.config.n_embd;
        let scale = (RMS_EPSILON / self.found.config.layer_norm_epsilon).sqrt();
        let name = |part: &str| format!("h.{layer}.{part}");
        let part = |i: usize| self.reading(&name("ln_1"), &name("attn.c_attn"), i * c..(i + 1) * c);
        let inner = 0..self.found.config.inner();
        Ok(Block {
            qkv: [part(0)?, part(1)?, part(2)?],
            attn_proj: self.writing(&name("attn.c_proj"), scale)?,
            fc: self.reading(&name("ln_2"), &name("mlp.c_fc"), inner)?,
            mlp_proj: self.writing(&name("mlp.c_proj"), scale)?,
        })
    }

    /// Some outputs of a matrix (in, out) behind a layer norm.
    fn reading(&self, norm: &str, of: &str, outs: std::ops::Range<usize>) -> Result<Affine> {
        let gain = self.found.vector(&format!("{norm}.weight"))?;
        let shift = self.found.vector(&format!("{norm}.bias"))?;
        let matrix = self.found.matrix(&format!("{of}.weight"))?;
        let mut bias = self.found.vector(&format!("{of}.bias"))?[outs.clone()].to_vec();
        let ins = matrix.rows();
        let mut weight = self.dev.activations([outs.len(), ins])?;
        for first in outs.clone().step_by(COLUMNS) {
            let columns = first..outs.end.min(first + COLUMNS);
            let mut rows = matrix.transposed(columns.clone());
            for (row, at) in rows.chunks_exact_mut(ins).zip(columns.start - outs.start..) {
                bias[at] += row.iter().zip(&shift).map(|(w, b)| w * b).sum::<f64>();
                row.iter_mut().zip(&gain).for_each(|(w, g)| *w *= g);
            }
            let to = columns.start - outs.start..columns.end - outs.start;
            self.dev.write_f64(weight.view_mut().rows(to)?, &rows)?;
        }
        self.affine(weight, &bias)
    }

    /// A matrix (in, out) whose result is added to the stream.
    fn writing(&self, of: &str, scale: f64) -> Result<Affine> {
        let matrix = self.found.matrix(&format!("{of}.weight"))?;
        let mut bias = self.found.vector(&format!("{of}.bias"))?;
        center(&mut bias, scale);
        let (ins, outs) = (matrix.rows(), matrix.cols);
        let means: Vec<f64> =
            (0..ins).map(|row| matrix.row(row).iter().sum::<f64>() / outs as f64).collect();
        let mut weight = self.dev.activations([outs, ins])?;
        for first in (0..outs).step_by(COLUMNS) {
            let columns = first..outs.min(first + COLUMNS);
            let mut rows = matrix.transposed(columns.clone());
            for row in rows.chunks_exact_mut(ins) {
                row.iter_mut().zip(&means).for_each(|(w, mean)| *w = scale * (*w - mean));
            }
            self.dev.write_f64(weight.view_mut().rows(columns)?, &rows)?;
        }
        self.affine(weight, &bias)
    }

    /// The embeddings again, behind the last norm.
    fn head(&self, c: usize) -> Result<Affine> {
        let (gain, shift) = (self.found.vector("ln_f.weight")?, self.found.vector("ln_f.bias")?);
        let matrix = self.found.matrix("wte.weight")?;
        let rows = matrix.rows();
        let mut weight = self.dev.activations([rows, c])?;
        let mut bias = vec![0.0; rows];
        for (row, bias) in bias.iter_mut().enumerate() {
            let mut values = matrix.row(row);
            *bias = values.iter().zip(&shift).map(|(w, b)| w * b).sum();
            values.iter_mut().zip(&gain).for_each(|(w, g)| *w *= g);
            self.dev.write_f64(weight.view_mut().rows(row..row + 1)?, &values)?;
        }
        self.affine(weight, &bias)
    }

    fn affine(&self, weight: Tensor, bias: &[f64]) -> Result<Affine> {
        let mut row = self.dev.activations([1, bias.len()])?;
        self.dev.write_f64(row.view_mut(), bias)?;
        Ok(Affine { weight, bias: row })
    }
}

/// Removes the mean, and scales.
fn center(values: &mut [f64], scale: f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    for value in values {
        *value = scale * (*value - mean);
    }
}

/// Floats of a file, row by row.
struct Matrix<'a> {
    bytes: &'a [u8],
    dtype: DType,
    cols: usize,
}

impl Matrix<'_> {
    fn rows(&self) -> usize {
        self.bytes.len() / (self.dtype.bytes() * self.cols)
    }

    fn row(&self, row: usize) -> Vec<f64> {
        let width = self.dtype.bytes();
        let bytes = &self.bytes[row * self.cols * width..(row + 1) * self.cols * width];
        bytes.chunks_exact(width).map(widen).collect()
    }

    fn to_vec(&self) -> Vec<f64> {
        self.bytes.chunks_exact(self.dtype.bytes()).map(widen).collect()
    }

    /// These columns as rows, one after another.
    fn transposed(&self, columns: std::ops::Range<usize>) -> Vec<f64> {
        let (rows, width) = (self.rows(), self.dtype.bytes());
        let mut out = vec![0.0; columns.len() * rows];
        for row in 0..rows {
            let from = (row * self.cols + columns.start) * width;
            let bytes = &self.bytes[from..from + columns.len() * width];
            for (i, value) in bytes.chunks_exact(width).map(widen).enumerate() {
                out[i * rows + row] = value;
            }
        }
        out
    }
}

//! A trained model for others to use: the weights of a checkpoint alone, in the float type and the layout asked for, from file to file. No
//! device is needed.

use std::collections::BTreeMap;
use std::path::Path;

use farthing_base::tensors::{TensorError, TensorWriter};
use farthing_kernels::{Bf16, DType};

use crate::checkpoint::{LAYOUT, check_finite, check_shape, widen};
use crate::layout::{Layout, Place};
use crate::params::ParamSpec;
use crate::tensors::{found_float, tensor};
use crate::{Checkpoint, Error, Gpt, Result};

/// Elements that are converted at a time.
const PIECE: usize = 1 << 20;

/// A parameter's elements in a file: those that are stored, and the value of all others.
struct Values<'a> {
    bytes: &'a [u8],
    width: usize,
    others: f64,
}

impl Checkpoint {
    /// Whether the model can be written in a layout without a loss: configuration and weights have nothing that it lacks.
    ///
    /// # Errors
    /// [`Error::Inexpressible`] with the feature; those of [`Checkpoint::export`].
    pub fn fits(&self, layout: Layout) -> Result<()> {
        layout.check(self.config())?;
        let gpt = Gpt::new(self.config().clone())?;
        for spec in gpt.params() {
            let Place::Constant(value) = layout.place(self.config(), spec) else { continue };
            let Values { bytes, width, .. } = self.values(spec)?;
            let other = bytes.chunks_exact(width).map(widen).find(|x| *x != value);
            if let Some(other) = other {
                let what = format!("it has {other}, not {value} everywhere");
                return Err(layout.lacks(&spec.name, what));
            }
        }
        Ok(())
    }

    /// Writes the weights, without optimizer state, as `dtype` (F32 or BF16) and in a layout, to a file that [`load_model`](crate::load_model)
    /// opens, with `more` metadata. The file is whole or not there.
    ///
    /// # Numerics
    /// BF16 rounds to nearest, ties to even.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) for another `dtype`, a tensor that is missing, or where the system refuses;
    /// [`Error::Inexpressible`], as [`Checkpoint::fits`];
    /// [`Error::ElementType`](crate::Error::ElementType), [`Error::ParameterShape`](crate::Error::ParameterShape),
    /// [`Error::NotFinite`](crate::Error::NotFinite), also of a number that `dtype` has not.
    pub fn export(
        &self,
        path: &Path,
        dtype: DType,
        layout: Layout,
        more: &[(&str, &str)],
    ) -> Result<()> {
        let refuse = |what: String| TensorError::Write { path: path.to_owned(), what };
        if !matches!(dtype, DType::F32 | DType::BF16) {
            return Err(
                refuse(format!("weights are exported as F32 or BF16, not {dtype:?}")).into()
            );
        }
        let gpt = Gpt::new(self.config().clone())?;
        let mut tensors = Vec::new();
        let mut stored = Vec::new();
        for spec in gpt.params() {
            self.values(spec)?;
            if let Place::Stored { name, shape } = layout.place(self.config(), spec) {
                tensors.push(tensor(&name, dtype, shape).map_err(refuse)?);
                stored.push((spec, shape.elements()));
            }
        }
        self.fits(layout)?;
        let own = self.own_metadata();
        let mut metadata: BTreeMap<String, String> =
            own.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        metadata.extend(layout.name().map(|name| (LAYOUT.to_owned(), name.to_owned())));
        metadata.extend(more.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())));
        let mut writer = TensorWriter::create(path, &tensors, &metadata)?;
        let mut out = Vec::new();
        let put = |out: &mut Vec<u8>, value: f64| match dtype {
            DType::BF16 => out.extend_from_slice(bytemuck::bytes_of(&Bf16::from_f64(value))),
            _ => out.extend_from_slice(&(value as f32).to_le_bytes()),
        };
        for (spec, elements) in stored {
            let Values { bytes, width, others } = self.values(spec)?;
            let found = elements.min(bytes.len() / width);
            let mut at = 0;
            for piece in bytes[..found * width].chunks(PIECE * width) {
                out.clear();
                for value in piece.chunks_exact(width).map(widen) {
                    if !(value as f32).is_finite() {
                        let (path, name) = (self.file().path().to_owned(), spec.name.clone());
                        let value = f64::from(value as f32);
                        return Err(Error::NotFinite { path, name, at, value });
                    }
                    at += 1;
                    put(&mut out, value);
                }
                writer.write(&out)?;
            }
            for begin in (found..elements).step_by(PIECE) {
                out.clear();
                (begin..elements.min(begin + PIECE)).for_each(|_| put(&mut out, others));
                writer.write(&out)?;
            }
        }
        Ok(writer.finish()?)
    }

    /// A parameter's elements, which are numbers and as many as there should be.
    fn values(&self, spec: &ParamSpec) -> Result<Values<'_>> {
        let file = self.file();
        match self.layout().place(self.config(), spec) {
            Place::Constant(others) => Ok(Values { bytes: &[], width: 4, others }),
            Place::Stored { name, shape } => {
                let (dtype, found) = found_float(file, &name)?;
                check_shape(file, &name, found, shape)?;
                check_finite(file, &name)?;
                let (bytes, width) = (file.bytes(&name)?, dtype.bytes());
                Ok(Values { bytes, width, others: 0.0 })
            }
        }
    }
}

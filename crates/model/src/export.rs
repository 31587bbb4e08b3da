//! A trained model for others to use: the weights of a checkpoint alone, in the float type asked for, from file to file. No
//! device is needed.

use std::collections::BTreeMap;
use std::path::Path;

use farthing_base::tensors::{TensorError, TensorWriter};
use farthing_kernels::{Bf16, DType};

use crate::checkpoint::{check_finite, check_shape, widen};
use crate::tensors::{found_float, tensor};
use crate::{Checkpoint, Error, Gpt, Result};

/// Elements that are converted at a time.
const PIECE: usize = 1 << 20;

impl Checkpoint {
    /// Writes the weights, without optimizer state, as `dtype` (F32 or BF16) to a file that [`load_model`](crate::load_model)
    /// opens. The file is whole or not there.
    ///
    /// # Numerics
    /// BF16 rounds to nearest, ties to even.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) for another `dtype`, a tensor that is missing, or where the system refuses;
    /// [`Error::ElementType`](crate::Error::ElementType), [`Error::ParameterShape`](crate::Error::ParameterShape),
    /// [`Error::NotFinite`](crate::Error::NotFinite), also of a number that `dtype` has not.
    pub fn export(&self, path: &Path, dtype: DType) -> Result<()> {
        let refuse = |what: String| TensorError::Write { path: path.to_owned(), what };
        if !matches!(dtype, DType::F32 | DType::BF16) {
            return Err(
                refuse(format!("weights are exported as F32 or BF16, not {dtype:?}")).into()
            );
        }
        let gpt = Gpt::new(self.config().clone())?;
        let file = self.file();
        let mut tensors = Vec::new();
        for spec in gpt.params() {
            let (_, shape) = found_float(file, &spec.name)?;
            check_shape(file, &spec.name, shape, spec.shape)?;
            check_finite(file, &spec.name)?;
            tensors.push(tensor(&spec.name, dtype, shape).map_err(refuse)?);
        }
        let metadata: BTreeMap<String, String> =
            self.own_metadata().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut writer = TensorWriter::create(path, &tensors, &metadata)?;
        let mut out = Vec::new();
        for info in &tensors {
            let width = found_float(file, &info.name)?.0.bytes();
            let mut at = 0;
            for piece in file.bytes(&info.name)?.chunks(PIECE * width) {
                out.clear();
                for value in piece.chunks_exact(width).map(widen) {
                    if !(value as f32).is_finite() {
                        let (path, name) = (file.path().to_owned(), info.name.clone());
                        return Err(Error::NotFinite {
                            path,
                            name,
                            at,
                            value: f64::from(value as f32),
                        });
                    }
                    at += 1;
                    match dtype {
                        DType::BF16 => {
                            let rounded = Bf16::from_f64(value);
                            out.extend_from_slice(bytemuck::bytes_of(&rounded));
                        }
                        _ => out.extend_from_slice(&(value as f32).to_le_bytes()),
                    }
                }
                writer.write(&out)?;
            }
        }
        Ok(writer.finish()?)
    }
}

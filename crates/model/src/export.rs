//! A trained model for others to use: the weights of a checkpoint alone, in the float type asked for, from file to file. No
//! device is needed.

use std::collections::BTreeMap;
use std::path::Path;

use farthing_kernels::{Bf16, DType};

use crate::checkpoint::widen;
use crate::tensor_file::{TensorInfo, TensorWriter};
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
    /// [`Error::Write`] for another `dtype`; [`Error::Missing`]; [`Error::ElementType`]; [`Error::Io`].
    pub fn export(&self, path: &Path, dtype: DType) -> Result<()> {
        if !matches!(dtype, DType::F32 | DType::BF16) {
            let what = format!("weights are exported as F32 or BF16, not {dtype:?}");
            return Err(Error::Write { path: path.to_owned(), what });
        }
        let gpt = Gpt::new(self.config().clone())?;
        let file = self.file();
        let mut tensors = Vec::new();
        for spec in gpt.params() {
            let found = file.info(&spec.name)?;
            if !matches!(found.dtype, DType::F64 | DType::F32 | DType::BF16) {
                let found = format!("{:?}", found.dtype);
                return Err(Error::ElementType {
                    path: file.path().to_owned(),
                    name: spec.name.clone(),
                    found,
                });
            }
            tensors.push(TensorInfo { name: spec.name.clone(), dtype, shape: found.shape });
        }
        let metadata: BTreeMap<String, String> =
            self.own_metadata().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut writer = TensorWriter::create(path, &tensors, &metadata)?;
        let mut out = Vec::new();
        for info in &tensors {
            let width = file.info(&info.name)?.dtype.bytes();
            for piece in file.bytes(&info.name)?.chunks(PIECE * width) {
                out.clear();
                for value in piece.chunks_exact(width).map(widen) {
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
        writer.finish()
    }
}

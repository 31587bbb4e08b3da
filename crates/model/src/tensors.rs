//! Tensor files as this crate uses them: element types and shapes in the words of `farthing-kernels`.

use farthing_base::tensors::{Dtype, TensorError, TensorFile, TensorInfo};
use farthing_kernels::{DType, Shape};

use crate::{Error, Result};

/// The type and shape of a tensor in a file.
pub(crate) fn found(file: &TensorFile, name: &str) -> Result<(DType, Shape)> {
    let info = file.info(name)?;
    let dtype = match info.dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::BF16 => DType::BF16,
        Dtype::I32 => DType::I32,
        other => return Err(not_loaded(file, name, &other)),
    };
    let shape = Shape::from_dims(&info.shape).ok_or_else(|| TensorError::Header {
        path: file.path().to_owned(),
        reason: format!("`{name}` has {} dimensions, at most 4", info.shape.len()),
    })?;
    Ok((dtype, shape))
}

/// The same of a tensor whose elements are floats.
pub(crate) fn found_float(file: &TensorFile, name: &str) -> Result<(DType, Shape)> {
    match found(file, name)? {
        (DType::I32, _) => Err(not_loaded(file, name, &DType::I32)),
        float => Ok(float),
    }
}

fn not_loaded(file: &TensorFile, name: &str, found: &dyn std::fmt::Debug) -> Error {
    let (path, name, found) = (file.path().to_owned(), name.to_owned(), format!("{found:?}"));
    Error::ElementType { path, name, found }
}

/// A tensor to write.
///
/// # Errors
/// What stands in no file of ours: a type that training does not keep.
pub(crate) fn tensor(name: &str, dtype: DType, shape: Shape) -> Result<TensorInfo, String> {
    let dtype = match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::BF16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
        other => return Err(format!("elements of {other:?}")),
    };
    Ok(TensorInfo { name: name.to_owned(), dtype, shape: shape.to_vec() })
}

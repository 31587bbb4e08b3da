//! `TensorWriter` and `TensorFile`: named tensors in one safetensors file that is either whole or not there.
//!
//! Written under a temporary name, synced, renamed. Equal content gives equal bytes: metadata is sorted. The metadata entry
//! `farthing.blake3` is the BLAKE3 of the whole file with the entry's own 64 digits read as zeros, so that one flipped bit anywhere is found.
//! Knows nothing of models.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use farthing_kernels::{DType, Shape};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};

use crate::{Error, Result};

/// The metadata entry with the checksum.
const CHECKSUM: &str = "farthing.blake3";
/// What stands before the checksum in the header: in no JSON string can these quotes appear unescaped.
const CHECKSUM_MARK: &[u8] = b"\"farthing.blake3\":\"";
const DIGITS: usize = blake3::OUT_LEN * 2;
/// Bytes of the header's length.
const LENGTH_BYTES: usize = 8;

/// One tensor of a file.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions.
    pub shape: Shape,
}

impl TensorInfo {
    fn bytes(&self) -> usize {
        self.shape.elements() * self.dtype.bytes()
    }
}

/// A file being written: the tensors were announced, their bytes follow in that order. Dropped before [`TensorWriter::finish`], it leaves nothing.
pub struct TensorWriter {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    /// Where the checksum's digits go.
    digits_at: u64,
    /// Bytes of tensors that are still to come.
    missing: usize,
    finished: bool,
}

impl TensorWriter {
    /// Starts a file of these tensors and this metadata.
    ///
    /// # Errors
    /// [`Error::Write`] when a name occurs twice or is reserved; [`Error::Io`].
    pub fn create(
        path: &Path,
        tensors: &[TensorInfo],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let header = header(path, tensors, metadata)?;
        let digits_at = mark(&header).unwrap_or(0) as u64;
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let partial = path.with_file_name(name);
        let file = File::create(&partial).map_err(io(&partial, "create"))?;
        let mut writer = Self {
            path: path.to_owned(),
            partial,
            file: BufWriter::with_capacity(1 << 20, file),
            hasher: blake3::Hasher::new(),
            digits_at,
            missing: 0,
            finished: false,
        };
        writer.put(&header)?;
        writer.missing = tensors.iter().map(TensorInfo::bytes).sum();
        Ok(writer)
    }

    /// The next bytes of the tensors, in the order they were announced, little-endian; in pieces of any size.
    ///
    /// # Errors
    /// [`Error::Write`] when there are more bytes than announced; [`Error::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(missing) = self.missing.checked_sub(bytes.len()) else {
            let what = format!("{} bytes where {} were left", bytes.len(), self.missing);
            return Err(Error::Write { path: self.path.clone(), what });
        };
        self.missing = missing;
        self.put(bytes)
    }

    /// Writes the checksum, syncs, and gives the file its name.
    ///
    /// # Errors
    /// [`Error::Write`] when bytes are missing; [`Error::Io`].
    pub fn finish(mut self) -> Result<()> {
        if self.missing != 0 {
            let what = format!("{} announced bytes did not come", self.missing);
            return Err(Error::Write { path: self.path.clone(), what });
        }
        let digits = self.hasher.finalize().to_hex();
        let fail = io(&self.partial, "write");
        self.file.seek(SeekFrom::Start(self.digits_at)).map_err(&fail)?;
        self.file.write_all(digits.as_bytes()).map_err(&fail)?;
        self.file.flush().map_err(&fail)?;
        self.file.get_ref().sync_all().map_err(io(&self.partial, "sync"))?;
        fs::rename(&self.partial, &self.path).map_err(io(&self.path, "rename into place"))?;
        self.finished = true;
        sync_folder(&self.path)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(io(&self.partial, "write"))
    }
}

impl Drop for TensorWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing can be done about a failure here, and a partial file is overwritten by the next writer.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// A rename is on disk only when its folder is.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(io(folder, "sync"))?;
    }
    Ok(())
}

fn io(path: &Path, action: &'static str) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path: path.clone(), action, source }
}

/// Length, JSON and padding, with zeros for the checksum.
fn header(
    path: &Path,
    tensors: &[TensorInfo],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let refuse = |what: String| Error::Write { path: path.to_owned(), what };
    let mut head = serde_json::Map::new();
    let mut texts = serde_json::Map::new();
    texts.insert(CHECKSUM.into(), "0".repeat(DIGITS).into());
    for (key, value) in metadata {
        if texts.insert(key.clone(), value.clone().into()).is_some() {
            return Err(refuse(format!("metadata `{key}` is reserved")));
        }
    }
    head.insert("__metadata__".into(), texts.into());
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.bytes();
        let entry = serde_json::json!({
            "dtype": safetensors_name(tensor.dtype).ok_or_else(|| refuse(format!("elements of {:?}", tensor.dtype)))?,
            "shape": tensor.shape.to_vec(),
            "data_offsets": [start, end],
        });
        if head.insert(tensor.name.clone(), entry).is_some() {
            return Err(refuse(format!(
                "tensor `{}` occurs twice, or its name is reserved",
                tensor.name
            )));
        }
        start = end;
    }
    let mut json = serde_json::Value::Object(head).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(LENGTH_BYTES), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

fn mark(header: &[u8]) -> Option<usize> {
    let at = header.windows(CHECKSUM_MARK.len()).position(|w| w == CHECKSUM_MARK)?;
    let digits = at + CHECKSUM_MARK.len();
    (digits + DIGITS <= header.len()).then_some(digits)
}

fn safetensors_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::BF16 => "BF16",
        DType::I32 => "I32",
        _ => return None,
    })
}

/// A file opened for reading, mapped into memory and verified.
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    /// Where the tensors' bytes begin.
    data: usize,
    has_checksum: bool,
}

impl TensorFile {
    /// Maps a file, checks that it is whole and, where it has a checksum, that no bit of it has changed.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Header`], [`Error::Checksum`]. No header, however hostile, makes it allocate more than the file's own size.
    ///
    /// # Cost
    /// Reads the file once.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |what: String| Error::Header { path: path.to_owned(), what };
        let file = File::open(path).map_err(io(path, "open"))?;
        let length = file.metadata().map_err(io(path, "read"))?.len();
        if length < LENGTH_BYTES as u64 {
            return Err(bad(format!("{length} bytes, fewer than a header")));
        }
        // SAFETY: files of ours appear by rename and are never written in place; whoever truncates one that is mapped breaks the
        // rule that nothing is overwritten, and is stopped by the system (SIGBUS), not let through.
        let map = unsafe { Mmap::map(&file) }.map_err(io(path, "map"))?;
        let (header_bytes, header) =
            SafeTensors::read_metadata(&map).map_err(|e| bad(describe(&e, &map)))?;
        let data = LENGTH_BYTES + header_bytes;
        let mut opened = Self { path: path.to_owned(), map, header, data, has_checksum: false };
        opened.has_checksum = opened.verify()?;
        Ok(opened)
    }

    /// Whether there was a checksum, and it was right. Files of other programs have none.
    fn verify(&self) -> Result<bool> {
        let expected = self.metadata(CHECKSUM);
        let (Some(expected), Some(at)) = (expected, mark(&self.map[..self.data])) else {
            return Ok(false);
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.map[..at]);
        hasher.update(&[b'0'; DIGITS]);
        hasher.update(&self.map[at + DIGITS..]);
        let found = hasher.finalize().to_hex().to_string();
        if found == expected {
            return Ok(true);
        }
        let (path, expected) = (self.path.clone(), expected.to_owned());
        Err(Error::Checksum { path, found, expected })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file carries a checksum (which was verified).
    pub fn has_checksum(&self) -> bool {
        self.has_checksum
    }

    /// A metadata entry.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The tensors' names, in the order of their bytes.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// What is said of a tensor.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::ElementType`] and [`Error::Header`] for a type or rank that this crate has no name for.
    pub fn info(&self, name: &str) -> Result<TensorInfo> {
        let info = self.raw(name)?;
        let dtype = match info.dtype {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::BF16,
            Dtype::I32 => DType::I32,
            other => {
                let (path, found) = (self.path.clone(), format!("{other:?}"));
                return Err(Error::ElementType { path, name: name.into(), found });
            }
        };
        let shape = Shape::from_dims(&info.shape).ok_or_else(|| Error::Header {
            path: self.path.clone(),
            what: format!("`{name}` has {} dimensions, at most 4", info.shape.len()),
        })?;
        Ok(TensorInfo { name: name.into(), dtype, shape })
    }

    /// A tensor's bytes, little-endian.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let (start, end) = self.raw(name)?.data_offsets;
        // `read_metadata` checked that all offsets lie within the file.
        Ok(&self.map[self.data + start..self.data + end])
    }

    fn raw(&self, name: &str) -> Result<&safetensors::tensor::TensorInfo> {
        let missing = || Error::Missing { path: self.path.clone(), name: name.into() };
        self.header.info(name).ok_or_else(missing)
    }
}

/// The parser's words, with the figures that they lack.
fn describe(error: &safetensors::SafeTensorError, file: &[u8]) -> String {
    let mut length = [0; LENGTH_BYTES];
    length.copy_from_slice(&file[..LENGTH_BYTES]);
    let header = u64::from_le_bytes(length);
    format!("{error} (the file has {} bytes, its header is to have {header})", file.len())
}

//! Tensor files with a checksum: safetensors that appear by rename and are mapped into memory to be read.
//!
//! [`TensorWriter`] knows its tensors when it starts, and its checksum covers the whole file, header included; [`TensorFile`] reads such files,
//! and those of other programs. [`GrowingWriter`] learns how long its tensor is when it ends, and writes the header last, in the room left for
//! it, with a checksum of the data; [`Mapped`] is the part of reading that both share. Equal content gives equal bytes: keys are sorted.
//! What tensors mean is somebody else's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
pub use safetensors::Dtype;
use safetensors::tensor::{Metadata, SafeTensors};
use serde_json::{Map, Value, json};

use crate::files::{self, NewFile};
use crate::{FileError, Hint, unique};

/// The metadata entry with the checksum of a whole file: its BLAKE3, with the entry's own 64 digits read as zeros.
pub const WHOLE_CHECKSUM: &str = "farthing.blake3";
/// The metadata entry with the checksum of the bytes behind the header.
pub const DATA_CHECKSUM: &str = "data_blake3";

/// What stands before the checksum in the header: in no JSON string can these quotes appear unescaped.
const CHECKSUM_MARK: &[u8] = b"\"farthing.blake3\":\"";
const DIGITS: usize = blake3::OUT_LEN * 2;
/// Bytes of the header's length, which a file begins with.
const LENGTH_BYTES: usize = 8;
const BUFFER_BYTES: usize = 1 << 20;

/// A result whose error is [`TensorError`].
pub type Result<T, E = TensorError> = std::result::Result<T, E>;

/// Why a tensor file could not be written or read.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is shorter or longer than its header says.
    #[error("{} has {found} bytes, expected {expected}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes that the header announces, itself included.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The header cannot be parsed or contradicts itself or the file.
    #[error("{} has a bad header: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// The bytes are not those that were written.
    #[error("{} is damaged: its {part} has the checksum {found}, expected {expected}", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// "content", "data" or "header".
        part: &'static str,
        /// The BLAKE3 digest that was recorded.
        expected: String,
        /// The digest of what is there.
        found: String,
    },
    /// There is no tensor of that name.
    #[error("{}: tensor `{name}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// What was to be written contradicts itself: a name twice, bytes that do not fit a shape.
    #[error("{}: cannot write: {what}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        what: String,
    },
}

crate::debug_with_hint!(TensorError);

impl Hint for TensorError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::File(error) => error.hint(),
            Self::Size { .. } | Self::Header { .. } => {
                Some("the file was cut or is of another kind; restore it from a copy".into())
            }
            Self::Checksum { .. } => {
                Some("the file was damaged after it was written; restore it from a copy".into())
            }
            Self::Missing { .. } | Self::Write { .. } => None,
        }
    }
}

/// Compares digests and names what differs.
///
/// # Errors
/// [`TensorError::Checksum`].
pub fn compare(path: &Path, part: &'static str, expected: &str, found: &str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (expected.to_owned(), found.to_owned());
    Err(TensorError::Checksum { path: path.to_owned(), part, expected, found })
}

/// One tensor of a file.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// The header of these tensors, its length first, filled up with spaces to `room` bytes or, without one, to a multiple of 8.
fn header(
    tensors: &[TensorInfo],
    metadata: Map<String, Value>,
    room: Option<usize>,
) -> Result<Vec<u8>, String> {
    let mut head = Map::new();
    head.insert("__metadata__".into(), metadata.into());
    let mut start = 0;
    for tensor in tensors {
        let TensorInfo { name, dtype, shape } = tensor;
        let end = start + tensor.bytes();
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        if head.insert(name.clone(), entry).is_some() {
            return Err(format!("tensor `{name}` occurs twice, or its name is reserved"));
        }
        start = end;
    }
    let mut json = Value::Object(head).to_string().into_bytes();
    let length = room.map_or(json.len().next_multiple_of(LENGTH_BYTES), |r| r - LENGTH_BYTES);
    if json.len() > length {
        return Err(format!("it has {} bytes, there is room for {length}", json.len()));
    }
    json.resize(length, b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

fn texts<'a>(metadata: impl IntoIterator<Item = (&'a str, &'a str)>) -> Map<String, Value> {
    metadata.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
}

/// A file that is written and hashed at once.
#[derive(Debug)]
struct Output {
    file: BufWriter<NewFile>,
    hasher: blake3::Hasher,
}

impl Output {
    fn create(path: &Path) -> Result<Self> {
        let file = BufWriter::with_capacity(BUFFER_BYTES, NewFile::create(path)?);
        Ok(Self { file, hasher: blake3::Hasher::new() })
    }

    fn path(&self) -> &Path {
        self.file.get_ref().path()
    }

    /// Adds bytes at the end that the hash does not cover.
    fn skip(&mut self, bytes: &[u8]) -> Result<()> {
        let wrote = self.file.write_all(bytes);
        Ok(wrote.map_err(self.file.get_ref().refused("write"))?)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.skip(bytes)
    }

    /// Writes `bytes` over what is at `at`, and gives the file its name.
    fn finish(mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut write = || {
            self.file.seek(SeekFrom::Start(at))?;
            self.file.write_all(bytes)?;
            self.file.flush()
        };
        let wrote = write();
        let (file, _) = self.file.into_parts();
        wrote.map_err(file.refused("write"))?;
        Ok(file.finish()?)
    }
}

/// A file being written: the tensors were announced, their bytes follow in that order. Dropped before [`TensorWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct TensorWriter {
    out: Output,
    /// Where the checksum's digits go.
    digits_at: u64,
    /// Bytes of tensors that are still to come.
    missing: usize,
}

impl TensorWriter {
    /// Starts a file of these tensors and this metadata.
    ///
    /// # Errors
    /// [`TensorError::Write`] when a name occurs twice or is reserved; [`TensorError::File`].
    pub fn create(
        path: &Path,
        tensors: &[TensorInfo],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let refuse = |what| TensorError::Write { path: path.to_owned(), what };
        let mut texts = texts(metadata.iter().map(|(key, value)| (&**key, &**value)));
        if texts.insert(WHOLE_CHECKSUM.into(), "0".repeat(DIGITS).into()).is_some() {
            return Err(refuse(format!("metadata `{WHOLE_CHECKSUM}` is reserved")));
        }
        let header = header(tensors, texts, None).map_err(refuse)?;
        let digits_at = mark(&header).unwrap_or(0) as u64;
        let mut out = Output::create(path)?;
        out.put(&header)?;
        Ok(Self { out, digits_at, missing: tensors.iter().map(TensorInfo::bytes).sum() })
    }

    /// The next bytes of the tensors, in the order they were announced, little-endian; in pieces of any size.
    ///
    /// # Errors
    /// [`TensorError::Write`] when there are more bytes than announced; [`TensorError::File`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(missing) = self.missing.checked_sub(bytes.len()) else {
            let what = format!("{} bytes where {} were left", bytes.len(), self.missing);
            return Err(TensorError::Write { path: self.out.path().to_owned(), what });
        };
        self.missing = missing;
        self.out.put(bytes)
    }

    /// Writes the checksum, syncs, and gives the file its name.
    ///
    /// # Errors
    /// [`TensorError::Write`] when bytes are missing; [`TensorError::File`].
    pub fn finish(self) -> Result<()> {
        if self.missing != 0 {
            let what = format!("{} announced bytes did not come", self.missing);
            return Err(TensorError::Write { path: self.out.path().to_owned(), what });
        }
        let digits = self.out.hasher.finalize().to_hex();
        self.out.finish(self.digits_at, digits.as_bytes())
    }
}

/// A file of one tensor whose length is known last: bytes stream to the disk behind room for the header. Dropped before
/// [`GrowingWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct GrowingWriter {
    out: Output,
    room: usize,
    bytes: u64,
}

impl GrowingWriter {
    /// Starts the file with `room` bytes (at least 8) for the header, its length included.
    ///
    /// # Errors
    /// [`TensorError::File`].
    pub fn create(path: &Path, room: usize) -> Result<Self> {
        let mut out = Output::create(path)?;
        out.skip(&vec![b' '; room])?;
        Ok(Self { out, room, bytes: 0 })
    }

    /// The next bytes of the tensor, little-endian.
    ///
    /// # Errors
    /// [`TensorError::File`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.out.put(bytes)
    }

    /// Bytes of the tensor so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the header, with the checksum of the data under [`DATA_CHECKSUM`], syncs, and gives the file its name. Returns the digest of the
    /// header.
    ///
    /// # Errors
    /// [`TensorError::Header`] when it does not fit its room; [`TensorError::Write`] when the tensor has other bytes than came;
    /// [`TensorError::File`].
    pub fn finish(self, tensor: TensorInfo, metadata: &BTreeMap<&str, String>) -> Result<String> {
        if tensor.bytes() as u64 != self.bytes {
            let what = format!("{} bytes came for a tensor of {}", self.bytes, tensor.bytes());
            return Err(TensorError::Write { path: self.out.path().to_owned(), what });
        }
        let mut texts = texts(metadata.iter().map(|(key, value)| (*key, &**value)));
        let digest = self.out.hasher.finalize().to_hex();
        texts.insert(DATA_CHECKSUM.into(), digest.as_str().into());
        let header = header(&[tensor], texts, Some(self.room))
            .map_err(|reason| TensorError::Header { path: self.out.path().to_owned(), reason })?;
        let digest = blake3::hash(&header[LENGTH_BYTES..]).to_hex().to_string();
        self.out.finish(0, &header)?;
        Ok(digest)
    }
}

/// A file mapped into memory whose header lies within it. What the header says is the caller's to parse and to check.
///
/// The file must not be changed while it is mapped: files that appear by rename are never written again.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    map: Mmap,
    /// Where the tensors' bytes begin.
    data: usize,
}

impl Mapped {
    /// Maps a file whose header is to have at most `most` bytes.
    ///
    /// # Errors
    /// [`TensorError::File`]; [`TensorError::Size`] when the file ends within its header; [`TensorError::Header`]. A length that lies costs no
    /// allocation.
    pub fn open(path: &Path, most: u64) -> Result<Self> {
        let bad = |reason: String| TensorError::Header { path: path.to_owned(), reason };
        let file = files::open(path).map_err(FileError::at("open", path))?;
        let found = file.metadata().map_err(FileError::at("read the size of", path))?.len();
        if found < LENGTH_BYTES as u64 {
            return Err(bad(format!("the file has {found} bytes, a header has at least 8")));
        }
        // SAFETY: the mapping is read-only, and files of ours appear by rename and are never written in place; whoever truncates one that is
        // mapped breaks the rule that nothing is overwritten, and is stopped by the system (SIGBUS), not let through.
        let map = unsafe { Mmap::map(&file) }.map_err(FileError::at("map", path))?;
        let mut length = [0; LENGTH_BYTES];
        length.copy_from_slice(&map[..LENGTH_BYTES]);
        let length = u64::from_le_bytes(length);
        if length > most {
            return Err(bad(format!("it announces {length} bytes, at most {most} are allowed")));
        }
        let expected = length + LENGTH_BYTES as u64;
        if expected > found {
            return Err(TensorError::Size { path: path.to_owned(), expected, found });
        }
        Ok(Self { path: path.to_owned(), map, data: expected as usize })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The JSON of the header, with the spaces behind it.
    pub fn header(&self) -> &[u8] {
        &self.map[LENGTH_BYTES..self.data]
    }

    /// The tensors' bytes.
    pub fn data(&self) -> &[u8] {
        &self.map[self.data..]
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Where [`Mapped::data`] begins in the file.
    pub fn data_start(&self) -> usize {
        self.data
    }
}

/// What the safetensors library reads at most.
const MOST_HEADER_BYTES: u64 = 100_000_000;

/// A file opened for reading, mapped into memory and verified.
#[derive(Debug)]
pub struct TensorFile {
    mapped: Mapped,
    header: Metadata,
    has_checksum: bool,
}

impl TensorFile {
    /// Maps a file, checks that it is whole and, where it has a checksum, that no bit of it has changed.
    ///
    /// # Errors
    /// [`TensorError::File`], [`TensorError::Size`], [`TensorError::Header`], [`TensorError::Checksum`]. No header, however hostile, makes it
    /// allocate more than the file's own size.
    ///
    /// # Cost
    /// Reads the file once.
    pub fn open(path: &Path) -> Result<Self> {
        let mut opened = Self::peek(path)?;
        opened.has_checksum = opened.verify()?;
        Ok(opened)
    }

    /// As [`TensorFile::open`], without a look at the tensors' bytes: for who wants to know what a file says of itself.
    ///
    /// # Errors
    /// As [`TensorFile::open`], without the checksum.
    ///
    /// # Cost
    /// Reads the header.
    pub fn peek(path: &Path) -> Result<Self> {
        let mapped = Mapped::open(path, MOST_HEADER_BYTES)?;
        if let Err(e) = unique::check(mapped.header()) {
            return Err(TensorError::Header { path: path.to_owned(), reason: e.to_string() });
        }
        let (_, header) = SafeTensors::read_metadata(&mapped.map).map_err(|e| {
            let (header, all) = (mapped.header().len(), mapped.map.len());
            let reason = format!("{e} (the file has {all} bytes, {header} of them its header)");
            TensorError::Header { path: path.to_owned(), reason }
        })?;
        Ok(Self { mapped, header, has_checksum: false })
    }

    /// Whether there was a checksum, and it was right. Files of other programs have none.
    fn verify(&self) -> Result<bool> {
        let Mapped { path, map, data } = &self.mapped;
        let expected = self.metadata(WHOLE_CHECKSUM);
        let (Some(expected), Some(at)) = (expected, mark(&map[..*data])) else { return Ok(false) };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&map[..at]);
        hasher.update(&[b'0'; DIGITS]);
        hasher.update(&map[at + DIGITS..]);
        compare(path, "content", expected, &hasher.finalize().to_hex()).map(|()| true)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.mapped.path
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
    /// [`TensorError::Missing`].
    pub fn info(&self, name: &str) -> Result<TensorInfo> {
        let info = self.raw(name)?;
        Ok(TensorInfo { name: name.into(), dtype: info.dtype, shape: info.shape.clone() })
    }

    /// A tensor's bytes, little-endian.
    ///
    /// # Errors
    /// [`TensorError::Missing`].
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let (start, end) = self.raw(name)?.data_offsets;
        // `read_metadata` checked that all offsets lie within the file.
        Ok(&self.mapped.data()[start..end])
    }

    fn raw(&self, name: &str) -> Result<&safetensors::tensor::TensorInfo> {
        let missing = || TensorError::Missing { path: self.path().to_owned(), name: name.into() };
        self.header.info(name).ok_or_else(missing)
    }
}

fn mark(header: &[u8]) -> Option<usize> {
    let at = header.windows(CHECKSUM_MARK.len()).position(|w| w == CHECKSUM_MARK)?;
    let digits = at + CHECKSUM_MARK.len();
    (digits + DIGITS <= header.len()).then_some(digits)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tensor(name: &str, shape: &[usize]) -> TensorInfo {
        TensorInfo { name: name.into(), dtype: Dtype::U16, shape: shape.into() }
    }

    #[test]
    fn what_is_written_is_read_and_every_flipped_bit_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let metadata = BTreeMap::from([("k".to_owned(), "v \"quoted\"".to_owned())]);
        let tensors = [tensor("b", &[2, 2]), tensor("a", &[1])];
        let mut writer = TensorWriter::create(&path, &tensors, &metadata).unwrap();
        for piece in [&[1, 0, 2, 0, 3][..], &[0, 4, 0, 5, 0]] {
            writer.write(piece).unwrap();
        }
        writer.finish().unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert!(file.has_checksum());
        assert_eq!(file.names(), ["b", "a"]);
        assert_eq!(file.info("b").unwrap(), tensors[0]);
        assert_eq!(file.bytes("a").unwrap(), [5, 0]);
        assert_eq!(file.metadata("k"), Some("v \"quoted\""));
        assert!(matches!(file.info("c"), Err(TensorError::Missing { .. })));

        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            // A flip in the entry's own name leaves a file without a checksum.
            assert!(
                TensorFile::open(&path).is_ok_and(|f| !f.has_checksum())
                    || TensorFile::open(&path).is_err()
            );
            fs::write(&path, &good[..at]).unwrap();
            assert!(TensorFile::open(&path).is_err());
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let entry = |name: &str, at: usize| {
            format!(
                "\"{name}\":{{\"dtype\":\"U16\",\"shape\":[1],\"data_offsets\":[{at},{}]}}",
                at + 2
            )
        };
        let metadata = "\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}";
        for (json, twice) in [
            (format!("{{{},{}}}", entry("a", 0), entry("a", 0)), "a"),
            (format!("{{{},{},{}}}", entry("a", 0), entry("b", 2), entry("a", 4)), "a"),
            // The same name, spelt otherwise.
            (format!("{{{},{}}}", entry("a", 0), entry("\\u0061", 2)), "a"),
            (format!("{{{metadata},{}}}", entry("a", 0)), "k"),
        ] {
            let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
            bytes.extend(json.as_bytes());
            bytes.extend([0; 6]);
            fs::write(&path, &bytes[..8 + json.len() + if json.contains("\"b\"") { 6 } else { 2 }])
                .unwrap();
            let error = TensorFile::open(&path).unwrap_err();
            assert!(matches!(error, TensorError::Header { .. }), "{error}");
            assert!(error.to_string().contains(&format!("`{twice}` stands twice")), "{error}");
        }
    }

    #[test]
    fn a_growing_file_has_its_header_in_front_and_a_checksum_of_its_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        let mut writer = GrowingWriter::create(&path, 256).unwrap();
        writer.write(&[1, 0, 2, 0]).unwrap();
        assert_eq!(writer.bytes(), 4);
        let digest = writer.finish(tensor("rows", &[2, 1]), &BTreeMap::new()).unwrap();
        let mapped = Mapped::open(&path, 1 << 20).unwrap();
        assert_eq!((mapped.data_start(), mapped.data()), (256, &[1, 0, 2, 0][..]));
        assert_eq!(blake3::hash(mapped.header()).to_hex().to_string(), digest);
        let file = TensorFile::open(&path).unwrap();
        let data = blake3::hash(mapped.data()).to_hex();
        assert_eq!((file.has_checksum(), file.metadata(DATA_CHECKSUM)), (false, Some(&*data)));

        let short = GrowingWriter::create(&path, 256).unwrap();
        let refused = short.finish(tensor("rows", &[2, 1]), &BTreeMap::new());
        assert!(matches!(refused, Err(TensorError::Write { .. })));
        let narrow = GrowingWriter::create(&path, 64).unwrap();
        let refused = narrow.finish(tensor("rows", &[0]), &BTreeMap::new());
        assert!(matches!(refused, Err(TensorError::Header { .. })));
        assert!(Mapped::open(&path, 1 << 20).is_ok(), "what was there stands");
        assert!(matches!(Mapped::open(&path, 100), Err(TensorError::Header { .. })));
    }
}

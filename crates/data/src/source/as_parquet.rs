//! Documents of other formats, written as a parquet file of one column, or of a single file as two: one to train on, one held out.

use super::documents::{Named, documents};
use super::{FetchSettings, FileEntry, Files, entry, share};
use crate::local::Format;
use crate::{Error, Progress, Result};
use arrow::array::{ArrayRef, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use farthing_base::files::NewFile;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use std::path::Path;
use std::sync::Arc;

/// Documents that are written at a time, and the bytes after which they are.
const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 16 << 20;

/// Writes a file's documents as a parquet file of one column.
///
/// # Errors
/// [`Error::Document`], [`Error::MissingColumn`], [`Error::Io`], [`Error::WriteParquet`], [`Error::Stopped`].
pub(crate) fn convert(
    from: &Named,
    format: Format,
    settings: &FetchSettings,
    to: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut documents = documents(from, format, settings)?;
    write(&mut documents, settings.text_column(), to, progress, &mut |_, _| {}).map(drop)
}

/// Writes the two parts of a single file: its documents are counted first, and every one of them is read then.
///
/// # Errors
/// Those of [`convert`], and [`Error::Selection`].
pub(crate) fn divide(
    from: &Named,
    format: Format,
    settings: &FetchSettings,
    name: &str,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Files> {
    progress.total(None, "documents");
    let mut rows = 0;
    for document in documents(from, format, settings)? {
        document?;
        rows += 1;
        if rows % BATCH_ROWS as u64 == 0 {
            progress.advance(BATCH_ROWS as u64);
            if progress.stopped() {
                return Err(Error::Stopped);
            }
        }
    }
    let val = share::enough(&settings.source, rows)?;
    progress.total(Some(rows), "documents");
    let mut documents = documents(from, format, settings)?;
    let mut part = |which: &str, n: u64| -> Result<FileEntry> {
        let to = share::part_path(out, name, which);
        let n_documents = usize::try_from(n).unwrap_or(usize::MAX);
        let mut some = documents.by_ref().take(n_documents);
        let advance = &mut |progress: &mut dyn Progress, n| progress.advance(n);
        let written = write(&mut some, settings.text_column(), &to, progress, advance)?;
        if written != n {
            let what = format!("it had {rows} documents a moment ago, and has fewer now");
            return Err(from.wrong(None, what, "run again when nobody writes it"));
        }
        entry(&to)
    };
    let train = vec![part(share::TRAIN, rows - val)?];
    let val = vec![part(share::HELD_OUT, val)?];
    Ok(Files { train, val, tasks: None })
}

/// Writes documents, and returns how many they were.
fn write(
    documents: &mut dyn Iterator<Item = Result<Option<String>>>,
    column: &str,
    to: &Path,
    progress: &mut dyn Progress,
    advance: &mut dyn FnMut(&mut dyn Progress, u64),
) -> Result<u64> {
    let failed = |e: ParquetError| Error::WriteParquet { path: to.into(), reason: e.to_string() };
    let schema = Arc::new(Schema::new(vec![Field::new(column, DataType::Utf8, true)]));
    let mut out = NewFile::create(to)?;
    // Documents are seldom equal: a dictionary of them is work for nothing.
    let properties = share::properties().set_dictionary_enabled(false).build();
    let mut writer =
        ArrowWriter::try_new(&mut out, schema.clone(), Some(properties)).map_err(failed)?;
    let mut done = 0;
    loop {
        if progress.stopped() {
            return Err(Error::Stopped);
        }
        let (mut texts, mut rows, mut bytes) = (StringBuilder::new(), 0, 0);
        while rows < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some(document) = documents.next() else { break };
            let document = document?;
            bytes += document.as_ref().map_or(0, String::len);
            texts.append_option(document);
            rows += 1;
        }
        if rows == 0 {
            break;
        }
        let texts: ArrayRef = Arc::new(texts.finish());
        let batch = RecordBatch::try_new(schema.clone(), vec![texts])
            .map_err(|e| failed(ParquetError::from(e)))?;
        writer.write(&batch).map_err(failed)?;
        share::end_group(&mut writer).map_err(failed)?;
        done += rows as u64;
        advance(progress, rows as u64);
    }
    writer.close().map_err(failed)?;
    out.finish()?;
    Ok(done)
}

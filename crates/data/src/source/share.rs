//! Divides a single parquet file into two: most of its rows to train on, the last ones held out.

use super::select::held_out_rows;
use super::{FileEntry, Files, entry};
use crate::text::contained;
use crate::{Error, Progress, Result, TextFile};
use arrow::record_batch::RecordBatch;
use farthing_base::files;
use farthing_base::files::NewFile;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};

use std::io::Write;
use std::path::{Path, PathBuf};

/// Rows of a row group, at most, and the bytes after which it is ended.
const GROUP_ROWS: usize = 10_000;
const GROUP_BYTES: usize = 64 << 20;

/// Rows that are read at a time.
const BATCH_ROWS: usize = 256;

/// Refuses a source without rows to train on, or without rows to hold out.
pub(super) fn something(source: &str, train: u64, val: u64) -> Result<()> {
    let what = match (train, val) {
        (0, _) => "train on",
        (_, 0) => "hold out",
        _ => return Ok(()),
    };
    Err(Error::Selection {
        what: format!("the files of `{source}` to {what} have no rows"),
        hint: "leave empty files out, or choose others (shards)".into(),
    })
}

/// How many rows of a single file are held out.
pub(super) fn enough(source: &str, rows: u64) -> Result<u64> {
    held_out_rows(rows).ok_or_else(|| Error::Selection {
        what: format!(
            "`{source}` is one file, and its rows are {rows}; with one held out, none is left to train on"
        ),
        hint: "give more text, or a second file to hold out".into(),
    })
}

/// Writes the two parts of `from` into `out`, and says which is which. Columns that hold neither text nor numbers are left behind.
pub(super) fn divide(
    from: &Path,
    source: &str,
    name: &str,
    out: &Path,
    progress: &mut dyn Progress,
) -> Result<Files> {
    let (metadata, columns) = TextFile::readable(from)?;
    let rows = TextFile::count(from)?;
    let val = enough(source, rows)?;
    if columns.is_empty() {
        let found = metadata.schema().fields().iter().map(|f| f.name().clone()).collect();
        let hint = "name a file with a column of text that is not compressed with LZO".into();
        return Err(Error::MissingColumn { path: from.into(), column: "text".into(), found, hint });
    }
    progress.total(Some(rows), "rows");
    let mut part = |which: &str, first: u64, n: u64| -> Result<FileEntry> {
        let to = part_path(out, name, which);
        write(from, &metadata, &columns, (first, n), &to, progress)?;
        entry(&to)
    };
    let train = vec![part(TRAIN, 0, rows - val)?];
    let val = vec![part(HELD_OUT, rows - val, val)?];
    Ok(Files { train, val, tasks: None })
}

/// How files are written here.
pub(super) fn properties() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
}

/// What the two parts are called.
pub(super) const TRAIN: &str = "train";
pub(super) const HELD_OUT: &str = "held-out";

/// Where a part of the file `name` is written.
pub(super) fn part_path(out: &Path, name: &str, which: &str) -> PathBuf {
    let stem = name.strip_suffix(".parquet").unwrap_or(name);
    out.join(format!("{stem}.{which}.parquet"))
}

/// Ends a row group that has become large.
pub(super) fn end_group<W: Write + Send>(writer: &mut ArrowWriter<W>) -> Result<(), ParquetError> {
    if writer.in_progress_size() > GROUP_BYTES { writer.flush() } else { Ok(()) }
}

fn write(
    from: &Path,
    metadata: &ArrowReaderMetadata,
    columns: &[usize],
    (first, n): (u64, u64),
    to: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    let failed = |e: ParquetError| Error::WriteParquet { path: to.into(), reason: e.to_string() };
    let damaged = |row: u64, e: &dyn std::fmt::Display| Error::Parquet {
        path: from.into(),
        row_group: None,
        row: Some(row),
        reason: e.to_string(),
    };
    let input = files::open(from).map_err(Error::io("open", from))?;
    let mask = ProjectionMask::leaves(metadata.parquet_schema(), columns.iter().copied());
    let mut reader = contained(|| {
        ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata.clone())
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .with_offset(usize::try_from(first).unwrap_or(usize::MAX))
            .with_limit(usize::try_from(n).unwrap_or(usize::MAX))
            .build()
    })
    .map_err(|e| damaged(first, &e))?;
    let mut out = NewFile::create(to)?;
    let schema = arrow::array::RecordBatchReader::schema(&reader);
    let mut writer =
        ArrowWriter::try_new(&mut out, schema, Some(properties().build())).map_err(failed)?;
    let mut done = 0;
    loop {
        if progress.stopped() {
            return Err(Error::Stopped);
        }
        let batch: Option<RecordBatch> =
            contained(|| reader.next().transpose().map_err(ParquetError::from))
                .map_err(|e| damaged(first + done, &e))?;
        let Some(batch) = batch else { break };
        writer.write(&batch).map_err(failed)?;
        end_group(&mut writer).map_err(failed)?;
        done += batch.num_rows() as u64;
        progress.advance(batch.num_rows() as u64);
    }
    if done != n {
        return Err(damaged(first + done, &format!("it ends after {done} of {n} rows")));
    }
    writer.close().map_err(failed)?;
    Ok(out.finish()?)
}

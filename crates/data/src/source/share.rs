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
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};

use std::io::Write;
use std::path::{Path, PathBuf};

/// Rows of a row group, at most, and the bytes after which it is ended.
const GROUP_ROWS: usize = 10_000;
const GROUP_BYTES: usize = 64 << 20;

/// Rows that are read at a time, at most, and the bytes that they are to have, about.
const BATCH_ROWS: usize = 16;
const BATCH_BYTES: usize = 16 << 20;

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
    let open = |from: u64, batch_rows: usize| {
        let input = input.try_clone()?;
        let mask = ProjectionMask::leaves(metadata.parquet_schema(), columns.iter().copied());
        contained(|| {
            ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata.clone())
                .with_projection(mask)
                .with_batch_size(batch_rows)
                .with_offset(usize::try_from(first + from).unwrap_or(usize::MAX))
                .with_limit(usize::try_from(n - from).unwrap_or(usize::MAX))
                .build()
        })
    };
    let mut batch_rows = batch_rows(metadata, columns);
    let mut reader = open(0, batch_rows).map_err(|e| damaged(first, &e))?;
    let mut out = NewFile::create(to)?;
    let schema = arrow::array::RecordBatchReader::schema(&reader);
    let mut writer =
        ArrowWriter::try_new(&mut out, schema, Some(properties().build())).map_err(failed)?;
    let mut done = 0;
    loop {
        if progress.stopped() {
            return Err(Error::Stopped);
        }
        let batch: Result<Option<RecordBatch>, _> =
            contained(|| reader.next().transpose().map_err(ParquetError::from));
        let batch = match batch {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(e) if batch_rows == 1 => return Err(damaged(first + done, &e)),
            // Long documents can be too much for one batch; and of damaged ones this finds the row.
            Err(_) => {
                batch_rows = 1;
                reader = open(done, batch_rows).map_err(|e| damaged(first + done, &e))?;
                continue;
            }
        };
        writer.write(&batch).map_err(failed)?;
        end_group(&mut writer).map_err(failed)?;
        done += batch.num_rows() as u64;
        progress.advance(batch.num_rows() as u64);
        let bytes = batch.get_array_memory_size();
        if batch_rows > 1 && bytes > 4 * BATCH_BYTES && done < n {
            batch_rows = (batch.num_rows() * BATCH_BYTES / bytes).max(1);
            reader = open(done, batch_rows).map_err(|e| damaged(first + done, &e))?;
        }
    }
    if done != n {
        return Err(damaged(first + done, &format!("it ends after {done} of {n} rows")));
    }
    writer.close().map_err(failed)?;
    Ok(out.finish()?)
}

/// Rows that have about [`BATCH_BYTES`], by what the footer says of the row group with the longest ones.
fn batch_rows(metadata: &ArrowReaderMetadata, columns: &[usize]) -> usize {
    let of_group = |group: &RowGroupMetaData| {
        let chunks = columns.iter().filter_map(|&column| group.columns().get(column));
        let bytes = chunks.map(|chunk| {
            // Any value of a dictionary, which precedes the data, may stand in each row.
            let dictionary = chunk.dictionary_page_offset();
            let repeated = dictionary.map_or(0, |at| chunk.data_page_offset().saturating_sub(at));
            chunk.uncompressed_size().max(0) / group.num_rows().max(1) + repeated.max(0)
        });
        bytes.fold(0, i64::saturating_add)
    };
    let longest = metadata.metadata().row_groups().iter().map(of_group).max().unwrap_or(0);
    (BATCH_BYTES / usize::try_from(longest).unwrap_or(usize::MAX).max(1)).clamp(1, BATCH_ROWS)
}

//! Tables: `.csv` and `.tsv`, whose first row names their columns.

use super::{Input, MOST_BYTES, Named, Reader, listed, newlines};
use crate::local::Format;
use crate::{Error, Result};
use farthing_base::names::did_you_mean;
use std::io::{BufRead, Cursor, Read};

/// The rows of a table whose first row names its columns.
pub(super) struct Table {
    file: Named,
    rows: csv::Reader<Fenced>,
    columns: usize,
    column: usize,
    record: csv::ByteRecord,
}

/// What a table's bytes are followed by: a row that no table has. Where a quote is not closed, it is part of a field instead.
const FENCE: &[u8] = b"\n\0\x01the end of the table\x01\0\n";

/// The bytes of a table and the fence; at most `left` of them at a time, so that a quote that is not closed does not fill the memory.
struct Fenced {
    bytes: std::io::Chain<Input, Cursor<&'static [u8]>>,
    left: usize,
}

impl Read for Fenced {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        let room = out.len().min(self.left);
        let read = self.bytes.read(&mut out[..room])?;
        self.left -= read;
        Ok(read)
    }
}

const QUOTES: &str =
    "a field with a comma, a tab or a line break stands in quotes, and a quote in it is doubled";

/// What to do about a table whose one name has another separator in it.
fn apart(names: &[String], format: Format) -> Option<String> {
    let [name] = names else { return None };
    let found = [';', '\t', '|', ','].into_iter().find(|&c| name.contains(c))?;
    let (usual, other) =
        if format == Format::Tsv { ("tabs", "a .csv") } else { ("commas", "a .tsv") };
    let like = match (found, format) {
        ('\t', Format::Csv) | (',', Format::Tsv) => format!(", or call it {other}"),
        _ => String::new(),
    };
    Some(format!(
        "its fields seem to be apart by {found:?}; write it with {usual} between them{like}"
    ))
}

impl Table {
    pub(super) fn open(file: &Named, column: &str, format: Format) -> Result<Self> {
        let bytes = file.open()?.chain(Cursor::new(FENCE));
        let rows = csv::ReaderBuilder::new()
            .delimiter(if format == Format::Tsv { b'\t' } else { b',' })
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(1 << 16)
            .from_reader(Fenced { bytes, left: 0 });
        let record = csv::ByteRecord::new();
        let mut this = Self { file: file.clone(), rows, columns: 0, column: 0, record };
        if !this.advance()? {
            let hint = format!("its first line names its columns, and one of them is `{column}`");
            return Err(file.wrong(None, "it is empty", hint));
        }
        let names = this.record.iter().map(|name| file.utf8(1, name.to_vec()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        let Some(at) = names.iter().position(|name| name == column) else {
            let other = "name the one that holds the text: `text_column`, here and where it is read after this; the first line has the names";
            let meant = did_you_mean(column, names.iter().map(String::as_str));
            let apart = apart(&names, format);
            return Err(Error::MissingColumn {
                path: file.name.clone(),
                column: column.into(),
                found: listed(names.iter().map(String::as_str)),
                hint: apart.or(meant).unwrap_or_else(|| other.into()),
            });
        };
        (this.columns, this.column) = (names.len(), at);
        Ok(this)
    }

    /// Reads a row; none at the end.
    fn advance(&mut self) -> Result<bool> {
        let start = self.rows.position().byte();
        self.rows.get_mut().left = MOST_BYTES;
        match self.rows.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => {
                let hint = QUOTES;
                return Err(self.file.wrong(None, "a quote is not closed", hint));
            }
            Err(error) => {
                let csv::ErrorKind::Io(error) = error.into_kind() else {
                    return Err(self.file.wrong(None, "it is no table", QUOTES));
                };
                if error.kind() == std::io::ErrorKind::FileTooLarge {
                    return Err(self.file.too_long(self.line_at(start)?, QUOTES));
                }
                return Err(self.file.unread(error));
            }
        }
        let fence = FENCE.trim_ascii();
        if self.record.len() == 1 && &self.record[0] == fence {
            return Ok(false);
        }
        if self.record.iter().next_back().is_some_and(|last| last.ends_with(FENCE)) {
            let line = self.line_at(start)?;
            let what = "a quote of the row that begins here is not closed";
            return Err(self.file.wrong(Some(line), what, QUOTES));
        }
        Ok(true)
    }

    fn document(&self) -> Result<Option<String>> {
        let start = self.record.position().map_or(0, csv::Position::byte);
        let (found, columns) = (self.record.len(), self.columns);
        if found != columns {
            let s = if found == 1 { "" } else { "s" };
            let what = format!("the row has {found} field{s}, the first one names {columns}");
            return Err(self.file.wrong(Some(self.line_at(start)?), what, QUOTES));
        }
        let field = &self.record[self.column];
        match std::str::from_utf8(field) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => self.file.utf8(self.line_at(start)?, field.to_vec()).map(Some),
        }
    }

    /// The line of the row that begins at a byte, or after the line breaks there. It is counted when an error asks for it.
    fn line_at(&self, start: u64) -> Result<u64> {
        let mut input = self.file.open()?;
        let (mut line, mut left) = (1, start);
        loop {
            let bytes = self.file.filled(&mut input)?;
            let n = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if n == 0 {
                break;
            }
            line += newlines(&bytes[..n]);
            input.consume(n);
            left -= n as u64;
        }
        for byte in input.bytes() {
            match byte.map_err(|e| self.file.unread(e))? {
                b'\n' => line += 1,
                b'\r' => {}
                _ => break,
            }
        }
        Ok(line)
    }
}

impl Reader for Table {
    fn next_document(&mut self) -> Result<Option<Option<String>>> {
        if self.advance()? { self.document().map(Some) } else { Ok(None) }
    }
}

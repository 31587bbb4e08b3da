//! Reads and encodes text, chunk by chunk: while one chunk of documents is packed, the next is encoded and the one after it is read.
//! All of it runs on the caller's thread pool, where no thread waits while there is work. Three chunks are in memory at a time, and
//! documents keep the order of the files.

use super::tokens::{Token, Tokens};
use crate::text::{Group, Groups, Row};
use crate::{Error, Position, Progress, ReadStats, Result, Texts, Tokenizer};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of text that travel together: little memory, and enough work that what a core must fetch again when it turns from one kind of
/// work to another does not show. The first chunk is small, because until it is read there is nothing else to do.
const CHUNK_BYTES: usize = if cfg!(test) { 4 << 10 } else { 24 << 20 };
const FIRST_BYTES: usize = if cfg!(test) { 4 << 10 } else { 4 << 20 };

/// Rows that make a chunk, however little text they have.
const CHUNK_ROWS: u64 = 1 << 16;

/// What was read until after a document, and where to go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    pub(crate) position: Position,
    /// From the start of the first file.
    pub(crate) read: ReadStats,
}

/// A document as tokens, BOS not included.
pub(crate) struct Document<T> {
    pub(crate) tokens: Tokens<T>,
    pub(crate) mark: Mark,
}

/// Reads, encodes and gives to `take`, in their order, all documents of `texts`, which were opened at `from`. Returns where reading
/// ended.
///
/// # Errors
/// That of `take` if it fails, else the first of reading and encoding; what was read before it is packed, as it would have been
/// document by document. [`Error::Stopped`].
pub(crate) fn encode_texts<T: Token>(
    texts: Texts,
    from: Mark,
    tokenizer: &Tokenizer,
    progress: &mut dyn Progress,
    mut take: impl FnMut(Document<T>) -> Result<()> + Send,
) -> Result<Mark> {
    let mut reading = Reading { groups: texts.into_groups(), open: VecDeque::new() };
    let mut read = from.read;
    let beats = || {
        let (mut ready, mut tokens): (Vec<Part>, _) = (vec![], vec![].into_iter());
        let mut parts = reading.chunk(FIRST_BYTES);
        let mut seen = read.rows();
        while !(ready.is_empty() && parts.is_empty()) {
            if progress.stopped() {
                return Err(Error::Stopped);
            }
            let pack = || {
                let give = |part: Part| part.give(&mut tokens, &mut read, &mut take);
                std::mem::take(&mut ready).into_iter().try_for_each(give)
            };
            // The first is done here, the others by whichever threads have nothing to do.
            let ((packed, next), encoded) = rayon::join(
                || rayon::join(pack, || reading.chunk(CHUNK_BYTES)),
                || encode(&mut parts, tokenizer),
            );
            packed?;
            progress.advance(read.rows() - seen);
            seen = read.rows();
            (ready, tokens) = (std::mem::replace(&mut parts, next), encoded?.into_iter());
        }
        Ok(Mark { position: reading.groups.position(), read })
    };
    // Inside the pool from the first beat to the last, so that it is entered once.
    rayon::join(beats, || ()).0
}

/// Row groups that are being read, in their order. Those before the last one are small, as their footers have it.
struct Reading {
    groups: Groups,
    open: VecDeque<Part>,
}

impl Reading {
    /// The next texts, about `most` bytes; nothing once reading has ended.
    fn chunk(&mut self, most: usize) -> Vec<Part> {
        let announced = |part: &Part| part.group.as_ref().map_or(0, Group::bytes);
        let (mut bytes, mut rows) = (self.open.iter().map(announced).sum::<u64>(), 0);
        while bytes < most as u64 && rows < CHUNK_ROWS {
            let Some(group) = self.groups.next() else { break };
            bytes += group.bytes();
            rows += group.rows();
            self.open.push_back(Part { group: Some(group), ..Part::default() });
        }
        // The first goes on in any case; the others have what it leaves over. Only dictionaries whose texts come again and again make
        // so much more of a row group than its footer announces.
        let held = AtomicUsize::new(0);
        let unbounded = AtomicUsize::new(0);
        self.open.par_iter_mut().enumerate().with_max_len(1).for_each(|(i, part)| {
            part.read(if i == 0 { &unbounded } else { &held }, most);
        });
        let mut chunk = vec![];
        while let Some(part) = self.open.front_mut() {
            let group = part.group.take();
            chunk.push(std::mem::take(part));
            if group.is_some() {
                part.group = group;
                break;
            }
            self.open.pop_front();
        }
        chunk
    }
}

/// The tokens of the texts of `parts`, one after another.
fn encode<T: Token>(parts: &mut [Part], tokenizer: &Tokenizer) -> Result<Vec<Tokens<T>>> {
    let texts: Vec<&String> = parts.iter().flat_map(|part| &part.texts).collect();
    tokenizer.encode_shared(&texts)
}

/// What was read of a row group and is not packed.
#[derive(Default)]
struct Part {
    /// The rest of the row group.
    group: Option<Group>,
    texts: Vec<String>,
    /// What was read until after each text, from the part's beginning, and until its end.
    marks: Vec<Mark>,
    read: ReadStats,
    /// What comes after the texts.
    fault: Option<Error>,
}

impl Part {
    /// Goes on with the row group, to its end or until `held`, to which it adds the bytes of its texts, is `most`.
    fn read(&mut self, held: &AtomicUsize, most: usize) {
        let Some(group) = &mut self.group else { return };
        held.fetch_add(self.texts.iter().map(String::len).sum(), Ordering::Relaxed);
        while held.load(Ordering::Relaxed) < most {
            match group.next() {
                Some(Row::Text(text)) => {
                    held.fetch_add(text.len(), Ordering::Relaxed);
                    self.read.count_read(&text);
                    self.texts.push(text);
                    self.marks.push(Mark { position: group.at(), read: self.read });
                }
                Some(Row::Rejected(rejected)) => self.read.count_rejected(rejected),
                Some(Row::Fault(fault)) => {
                    (self.fault, self.group) = (Some(fault), None);
                    return;
                }
                None => {
                    self.group = None;
                    return;
                }
            }
        }
    }

    /// Gives to `take` a document for each text; their tokens are the next of `tokens`. `read` is what was read before, and
    /// afterwards also for them.
    fn give<T: Token>(
        self,
        tokens: &mut impl Iterator<Item = Tokens<T>>,
        read: &mut ReadStats,
        take: &mut impl FnMut(Document<T>) -> Result<()>,
    ) -> Result<()> {
        for (mut mark, tokens) in self.marks.into_iter().zip(tokens) {
            mark.read += *read;
            take(Document { tokens, mark })?;
        }
        *read += self.read;
        self.fault.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BpeSettings, Silent, TextFilter};
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;
    use std::fs::File;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    /// Rows whose texts are few and come again and again, so that a page is a few numbers and many times as much text; some are null.
    fn corpus(dir: &Path, rows: usize) -> PathBuf {
        let long = "they went to the sea and to the sea and ".repeat(40);
        let texts = [Some(""), Some("they"), None, Some(&long), Some("went to the sea")];
        let text = (0..rows).map(|i| texts[(i + i / 4) % 5]).collect::<StringArray>();
        let score = (0..rows).map(|i| (i % 11 > 0).then_some(i as i64 % 5));
        let columns: Vec<(&str, ArrayRef)> =
            vec![("text", Arc::new(text)), ("score", Arc::new(score.collect::<Int64Array>()))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(700))
            .set_data_page_row_count_limit(90)
            .set_write_batch_size(10)
            .build();
        let path = dir.join(format!("{rows}.parquet"));
        let file = File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        path
    }

    /// Documents and where reading stands after each, one after another.
    fn plainly(mut texts: Texts, tokenizer: &Tokenizer) -> (Vec<(Vec<u32>, Mark)>, Mark) {
        let mut documents = vec![];
        while let Some(text) = texts.next_text() {
            let tokens = tokenizer.encode(&text.unwrap()).unwrap();
            documents.push((tokens, Mark { position: texts.position(), read: *texts.stats() }));
        }
        (documents, Mark { position: texts.position(), read: *texts.stats() })
    }

    #[test]
    fn documents_and_marks_are_those_of_reading_one_after_another() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = [1500, 1, 333].map(|rows| corpus(dir.path(), rows)).into();
        let settings = BpeSettings { vocab_size: 280, ..BpeSettings::default() };
        let text = |_| Ok("they went to the sea and to the sea".to_string());
        let (tokenizer, _) = Tokenizer::train((0..3).map(text), &settings).unwrap();
        for min_score in [None, Some(2.0), Some(9.0)] {
            let filter = TextFilter { min_score, ..TextFilter::default() };
            let open = || Texts::open(&paths, "text").unwrap().with_filter(&filter).unwrap();
            let (expected, end) = plainly(open(), &tokenizer);
            assert_eq!(end.read.rows(), 1834);
            assert_eq!(end.position, Position { file: 3, row: 0 });
            // From the start, and from after a document in the middle of a page.
            for from in [0, expected.len() / 3] {
                let mark = from.checked_sub(1).map_or(Mark::default(), |i| expected[i].1);
                let mut texts = open();
                texts.go_to(mark.position).unwrap();
                let mut found = vec![];
                let take = |document: Document<u32>| {
                    found.push((document.tokens.as_slice().to_vec(), document.mark));
                    Ok(())
                };
                let last = encode_texts(texts, mark, &tokenizer, &mut Silent, take).unwrap();
                assert_eq!(last, end);
                assert!(found == expected[from..], "{min_score:?}, from document {from}");
            }
        }
    }
}

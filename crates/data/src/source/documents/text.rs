//! Plain text: a file that is one document, or several with a separator between them.

use super::{Input, Named, Reader, newlines};
use crate::{Error, Result};
use aho_corasick::AhoCorasick;
use std::io::{BufRead, Read};

/// What is read of text without line breaks before a separator is looked for.
const PIECE_BYTES: u64 = 1 << 16;

/// A text, or the pieces of one between separators. `\r\n` is read as `\n`.
pub(super) struct Text {
    file: Named,
    input: Input,
    /// What finds the separator, and its length.
    separator: Option<(AhoCorasick, usize)>,
    /// Whether the separator ends with a line break: then the last one of the file is no part of a document.
    ends_lines: bool,
    most: usize,
    /// The line that `buffer` begins in.
    line: u64,
    /// What was read and not returned, and how much of it was searched.
    buffer: Vec<u8>,
    searched: usize,
    too_long: bool,
}

impl Text {
    pub(super) fn open(file: &Named, separator: Option<&str>, most: usize) -> Result<Self> {
        let separator = separator.map(|s| s.replace("\r\n", "\n"));
        let find = |s: &String| {
            let find = AhoCorasick::new([s]).map_err(|e| Error::Config {
                what: format!("separator {s:?} cannot be looked for: {e}"),
                hint: "give a shorter one".into(),
            })?;
            Ok::<_, Error>((find, s.len()))
        };
        Ok(Self {
            file: file.clone(),
            input: file.open()?,
            ends_lines: separator.as_ref().is_some_and(|s| s.ends_with('\n')),
            separator: separator.as_ref().map(find).transpose()?,
            most,
            line: 1,
            buffer: vec![],
            searched: 0,
            too_long: false,
        })
    }

    /// Whether the document that failed has more bytes than it may.
    pub(super) fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// Takes what is before the first separator, if there is one, with the line breaks up to where the next piece begins.
    fn cut(&mut self) -> Option<(Vec<u8>, u64)> {
        let (find, length) = self.separator.as_ref()?;
        let Some(at) = find.find(&self.buffer[self.searched..]) else {
            // A carriage return may yet become a line break, and a separator may begin in what is here.
            self.searched = self.buffer.len().saturating_sub(*length).max(self.searched);
            return None;
        };
        let at = self.searched + at.start();
        let rest = self.buffer.split_off(at + length);
        let mut piece = std::mem::replace(&mut self.buffer, rest);
        let lines = newlines(&piece);
        piece.truncate(at);
        self.searched = 0;
        Some((piece, lines))
    }
}

impl Reader for Text {
    fn next_document(&mut self) -> Result<Option<Option<String>>> {
        loop {
            if let Some((piece, lines)) = self.cut() {
                let line = self.line;
                self.line += lines;
                // Between two separators in a row there is nothing.
                if !piece.is_empty() {
                    return self.file.utf8(line, piece).map(|text| Some(Some(text)));
                }
                continue;
            }
            if self.buffer.len() > self.most {
                self.too_long = true;
                let hint = "say what stands between documents (separator)";
                return Err(self.file.too_long(self.line, hint));
            }
            let before = self.buffer.len();
            let mut some = self.input.by_ref().take(PIECE_BYTES);
            let read = some.read_until(b'\n', &mut self.buffer);
            if read.map_err(|e| self.file.unread(e))? == 0 {
                let mut rest = std::mem::take(&mut self.buffer);
                self.searched = 0;
                if self.ends_lines && rest.last() == Some(&b'\n') {
                    rest.pop();
                }
                let rest = Some(rest).filter(|rest| !rest.is_empty());
                return rest.map(|rest| self.file.utf8(self.line, rest).map(Some)).transpose();
            }
            // What was read ends after its first line break.
            if self.buffer.len() > before && self.buffer.ends_with(b"\r\n") {
                self.buffer.truncate(self.buffer.len() - 2);
                self.buffer.push(b'\n');
            }
        }
    }
}

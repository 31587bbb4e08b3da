//! Conversations from files of JSON lines.

use super::{Conversation, Message};
use crate::{Error, Result};
use farthing_base::files;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// More bytes than this are no conversation.
const MOST_LINE_BYTES: u64 = 64 << 20;

/// The conversations of a file, one to a line: `{"messages": [{"role": "user", "content": "…"}, …]}`, or the list alone. Other keys are left aside, empty
/// lines too.
#[derive(Debug)]
pub struct Conversations {
    path: PathBuf,
    lines: BufReader<File>,
    line: u64,
    done: bool,
}

impl Conversations {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = files::open(path).map_err(Error::io("open", path))?;
        Ok(Self { path: path.to_owned(), lines: BufReader::new(file), line: 0, done: false })
    }

    /// About how many there are in a file: its lines, counted at its beginning and taken to be as long further on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn about_how_many(path: &Path) -> Result<u64> {
        const LOOKED_AT: u64 = 64 << 20;
        let file = files::open(path).map_err(Error::io("open", path))?;
        let all = file.metadata().map_err(Error::io("read", path))?.len();
        let (mut lines, mut seen) = (0u64, 0u64);
        for line in BufReader::new(file.take(LOOKED_AT)).split(b'\n') {
            let line = line.map_err(Error::io("read", path))?;
            lines += u64::from(!line.trim_ascii().is_empty());
            seen += line.len() as u64 + 1;
        }
        let share = if seen < all { all as f64 / seen as f64 } else { 1.0 };
        Ok((lines as f64 * share).round() as u64)
    }

    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::Document {
            path: self.path.clone(),
            line: Some(self.line),
            what: what.into(),
            hint: r#"a line is a conversation: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}"#.into(),
        }
    }

    /// The next line that is not empty.
    fn read(&mut self) -> Result<Option<Conversation>> {
        let mut text = Vec::new();
        loop {
            text.clear();
            self.line += 1;
            let mut line = self.lines.by_ref().take(MOST_LINE_BYTES + 1);
            let read = line.read_until(b'\n', &mut text);
            if read.map_err(Error::io("read", &self.path))? == 0 {
                return Ok(None);
            }
            if text.len() as u64 > MOST_LINE_BYTES {
                return Err(self.wrong(format!("it is longer than {MOST_LINE_BYTES} bytes")));
            }
            if !text.trim_ascii().is_empty() {
                break;
            }
        }
        let text = text.trim_ascii();
        let parsed = if text.starts_with(b"[") {
            serde_json::from_slice::<Vec<Message>>(text).map(|messages| Conversation { messages })
        } else {
            serde_json::from_slice(text)
        };
        let conversation = parsed.map_err(|e| self.wrong(format!("it is no conversation: {e}")))?;
        match conversation.fault() {
            Some(fault) => Err(self.wrong(fault)),
            None => Ok(Some(conversation)),
        }
    }
}

impl Iterator for Conversations {
    type Item = Result<Conversation>;

    /// The next conversation; nothing comes after an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let read = self.read();
        self.done = !matches!(read, Ok(Some(_)));
        read.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<Conversation>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chat.jsonl");
        std::fs::write(&path, text).unwrap();
        Conversations::open(&path)?.collect()
    }

    #[test]
    fn lines_are_conversations() {
        let talk = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "model": "x"}]"#;
        let text = format!("{talk}\r\n\n  \n{{\"source\": 3, \"messages\": {talk}}}");
        let all = read(text.as_bytes()).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], all[1]);
        assert_eq!(read(b"").unwrap(), []);
    }

    #[test]
    fn what_is_no_conversation_is_told_with_its_line() {
        for (text, what) in [
            (&b"\n{"[..], "chat.jsonl, line 2: it is no conversation"),
            (b"{}", "line 1: it is no conversation: missing field `messages`"),
            (b"[]", "line 1: it has no turn of a user"),
            (br#"[{"role": "tool", "content": "a"}]"#, "unknown variant `tool`"),
            (b"[{\"role\": \"user\", \"content\": \"\xff\"}]", "line 1: it is no conversation"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}

//! Turns text in UTF-16, as Windows writes it, into UTF-8 while it is read.

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_16BE, UTF_16LE};
use std::io::Read;

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 1 << 14;

/// What is not UTF-16, though its mark says so.
#[derive(Debug, thiserror::Error)]
#[error("its text is not UTF-16, as its mark says")]
pub(super) struct Malformed {
    /// The line in which it is.
    pub(super) line: u64,
}

/// Bytes of UTF-16, read as UTF-8.
pub(super) struct Utf16<R> {
    bytes: R,
    decoder: Decoder,
    piece: Vec<u8>,
    text: Vec<u8>,
    /// How much of `text` was read.
    at: usize,
    line: u64,
    ended: bool,
}

impl Utf16<()> {
    /// The encoding that the first bytes of a text mark it with.
    pub(super) fn marked(head: &[u8]) -> Option<&'static Encoding> {
        match head {
            [0xFF, 0xFE, ..] => Some(UTF_16LE),
            [0xFE, 0xFF, ..] => Some(UTF_16BE),
            _ => None,
        }
    }
}

impl<R: Read> Utf16<R> {
    /// Of bytes after the mark.
    pub(super) fn new(encoding: &'static Encoding, bytes: R) -> Self {
        let decoder = encoding.new_decoder_without_bom_handling();
        let (piece, text) = (vec![0; PIECE_BYTES], vec![]);
        Self { bytes, decoder, piece, text, at: 0, line: 1, ended: false }
    }

    /// The next text; none at the end.
    fn refill(&mut self) -> std::io::Result<()> {
        self.at = 0;
        self.text.clear();
        while self.text.is_empty() && !self.ended {
            let n = self.bytes.read(&mut self.piece)?;
            self.ended = n == 0;
            // There are no more than there is room for.
            let room = self.decoder.max_utf8_buffer_length_without_replacement(n);
            self.text.resize(room.unwrap_or(4 * PIECE_BYTES), 0);
            let (result, _, written) = self.decoder.decode_to_utf8_without_replacement(
                &self.piece[..n],
                &mut self.text,
                self.ended,
            );
            self.text.truncate(written);
            self.line += super::newlines(&self.text);
            if let DecoderResult::Malformed(..) = result {
                return Err(std::io::Error::other(Malformed { line: self.line }));
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.text.len() {
            self.refill()?;
        }
        let n = out.len().min(self.text.len() - self.at);
        out[..n].copy_from_slice(&self.text[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

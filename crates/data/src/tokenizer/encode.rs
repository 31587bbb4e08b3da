//! The encoder: text to ids, piece by piece. A piece that is a token is looked up; one that is not is merged, and remembered.

use super::classes::Classes;
use super::key::{Key, SHORT, hash, key};
use super::merges::{Merges, Work};
use super::split::{Gpt2, Gpt4, Known, Pattern};
use super::table::Table;
use crate::Token;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Pieces that each thread remembers: about a megabyte, which stays in its cache.
const REMEMBERED: usize = 1 << 15;

/// Tokens of a remembered piece.
const REMEMBERED_TOKENS: usize = 3;

/// Text to ids, for a byte-level BPE model with a split pattern that is written out.
#[derive(Debug)]
pub(super) struct Encoder {
    split: Split,
    merges: Merges,
    /// The bytes of every token.
    bytes: Vec<Vec<u8>>,
    /// Pieces of up to [`SHORT`] bytes that are one token.
    short: Table<Key>,
    /// Longer ones.
    long: HashMap<Vec<u8>, u32>,
    longest: usize,
    /// What threads have given back, with the number that each has in its pool.
    idle: Mutex<Vec<(Option<usize>, Scratch)>>,
}

/// How text is cut into pieces.
#[derive(Debug, Clone, Copy)]
pub(super) enum Split {
    /// By a pattern that is written out.
    Known(Known, &'static Classes),
    /// Not at all.
    Whole,
}

/// What one thread writes while it encodes.
#[derive(Debug)]
struct Scratch {
    remembered: Vec<Remembered>,
    work: Work,
}

/// A scratch that an encoder lends, and has back when this is dropped.
pub(super) struct Lent<'a> {
    encoder: &'a Encoder,
    /// `None` only while dropping.
    scratch: Option<Scratch>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let thread = rayon::current_thread_index();
        self.encoder.idle().extend(self.scratch.take().map(|scratch| (thread, scratch)));
    }
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    key: Key,
    tokens: u32,
    ids: [u32; REMEMBERED_TOKENS],
}

impl Encoder {
    /// `tokens` are the pieces that stand for themselves when they are a whole piece; if not all do by the merges alone,
    /// `all` says that they do nevertheless.
    pub(super) fn new(
        split: Split,
        merges: Merges,
        bytes: Vec<Vec<u8>>,
        tokens: impl Iterator<Item = u32>,
        all: bool,
    ) -> Self {
        let mut this = Self {
            split,
            merges,
            bytes: vec![],
            short: Table::new(bytes.len()),
            long: HashMap::new(),
            longest: 0,
            idle: Mutex::new(vec![]),
        };
        let (mut work, mut merged): (_, Vec<u32>) = (Work::default(), vec![]);
        for id in tokens {
            let piece = &bytes[id as usize];
            merged.clear();
            if !all {
                this.merges.merge(piece, &bytes, &mut work, &mut merged);
            }
            if piece.is_empty() || !(all || merged == [id]) {
                continue;
            }
            this.longest = this.longest.max(piece.len());
            if piece.len() <= SHORT {
                this.short.insert(key(piece, 0, piece.len()), id);
            } else {
                this.long.insert(piece.clone(), id);
            }
        }
        this.bytes = bytes;
        this
    }

    /// What [`Encoder::encode`] needs; for several texts one after another. A thread is lent what it had last, if it is there: that is
    /// in its core's cache, and what another thread had would come from the other core's, line by line.
    pub(super) fn lend(&self) -> Lent<'_> {
        let thread = rayon::current_thread_index();
        let mut idle = self.idle();
        let own = idle.iter().rposition(|(last, _)| *last == thread);
        let any = own.or(idle.len().checked_sub(1));
        let scratch = any.map(|i| idle.swap_remove(i).1);
        drop(idle);
        Lent { encoder: self, scratch: Some(scratch.unwrap_or_default()) }
    }

    /// Appends the ids of `text`.
    pub(super) fn encode<T: Token>(&self, text: &str, lent: &mut Lent<'_>, out: &mut Vec<T>) {
        let scratch = lent.scratch.get_or_insert_default();
        let text = text.as_bytes();
        match self.split {
            Split::Known(Known::Gpt2, classes) => {
                self.pieces(Gpt2(classes), text, scratch, out);
            }
            Split::Known(Known::Gpt4 { digits }, classes) => {
                self.pieces(Gpt4 { classes, digits }, text, scratch, out);
            }
            Split::Whole if text.is_empty() => {}
            Split::Whole => self.piece(text, 0, text.len(), scratch, out),
        }
    }

    /// Whether the pieces of a text cut between a letter and a space are the pieces of its parts.
    pub(super) fn can_cut(&self) -> bool {
        matches!(self.split, Split::Known(..))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Option<usize>, Scratch)>> {
        // Nothing that is pushed here can be left half done.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pieces<T: Token>(
        &self,
        pattern: impl Pattern,
        text: &[u8],
        scratch: &mut Scratch,
        out: &mut Vec<T>,
    ) {
        let mut at = 0;
        while at < text.len() {
            let end = pattern.end(text, at);
            self.piece(text, at, end, scratch, out);
            at = end;
        }
    }

    #[inline]
    fn piece<T: Token>(
        &self,
        text: &[u8],
        at: usize,
        end: usize,
        scratch: &mut Scratch,
        out: &mut Vec<T>,
    ) {
        if end - at <= SHORT {
            let key = key(text, at, end - at);
            match self.short.get(key) {
                Some(id) => out.push(T::new(id)),
                None => self.remembered(key, &text[at..end], scratch, out),
            }
            return;
        }
        self.long_piece(&text[at..end], scratch, out);
    }

    #[cold]
    #[inline(never)]
    fn long_piece<T: Token>(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<T>) {
        let whole = if piece.len() <= self.longest { self.long.get(piece) } else { None };
        match whole {
            Some(&id) => out.push(T::new(id)),
            None => self.merges.merge(piece, &self.bytes, &mut scratch.work, out),
        }
    }

    #[inline(never)]
    fn remembered<T: Token>(
        &self,
        key: Key,
        piece: &[u8],
        scratch: &mut Scratch,
        out: &mut Vec<T>,
    ) {
        let slot = &mut scratch.remembered[(hash(key) >> 40) as usize % REMEMBERED];
        if slot.key == key {
            out.extend(slot.ids[..slot.tokens as usize].iter().map(|&id| T::new(id)));
            return;
        }
        let begin = out.len();
        self.merges.merge(piece, &self.bytes, &mut scratch.work, out);
        let ids = &out[begin..];
        if ids.len() <= REMEMBERED_TOKENS {
            slot.key = key;
            slot.tokens = ids.len() as u32;
            slot.ids.iter_mut().zip(ids).for_each(|(slot, token)| *slot = token.id());
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        let empty = Remembered { key: 0, tokens: 0, ids: [0; REMEMBERED_TOKENS] };
        Self { remembered: vec![empty; REMEMBERED], work: Work::default() }
    }
}

//! Unpacks one block of Snappy: a varint of the length, then literals and copies of what came before. The raw format alone: no frames,
//! no checksums, and no part of a block that is damaged.
//!
//! In English text, literals and copies follow one another without a pattern and give less than five bytes each, so that a decoder which
//! branches on the kind of each spends most of its time on branches foretold wrongly. Here the hot loop (`block`) asks of each tag only
//! whether it is unusual, which is nearly always false:
//! - How far the next tag would be, if a byte was a tag, is computed beforehand for `BLOCK` bytes at a time, in a loop that becomes vector
//!   code. What is left is one load and one addition from tag to tag, and that chain bounds the speed.
//! - Length and offset come from a table, whatever the kind; the source is chosen by a conditional move; and each element copies
//!   `WIDE` bytes, of which the next one overwrites what is too much.
//!
//! What is unusual (longer than `WIDE`, overlapping what it writes, a 4-byte offset, damaged), and both ends of the block, go to
//! `element`, which is plain and checks everything.

use std::hint::select_unpredictable;
use std::ptr;

/// Bytes that the hot loop copies for each element, and the longest element that it takes.
const WIDE: usize = 32;

/// The longest element but for literals with extra bytes of length.
const LONGEST: usize = 64;

/// Room that the output must have beyond the block.
pub(super) const SLACK: usize = LONGEST;

/// Input bytes whose distances are computed at a time: few beside the first-level cache.
const BLOCK: usize = 1024;

/// The most that a byte can become: a copy of 64 bytes takes 3.
pub(super) const EXPANSION: u64 = 22;

/// Why a block cannot be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    /// The length in front is missing, unfinished, or does not fit into 32 bits.
    #[error("a snappy block does not begin with its length")]
    Preamble,
    #[error("a snappy block of {0} bytes lies where another length was announced")]
    Length(usize),
    #[error("a snappy literal goes on beyond its block")]
    Literal,
    #[error("a snappy block holds more than the length in front of it")]
    Overrun,
    /// Zero, or before the beginning of the output.
    #[error("a snappy copy refers to what is not there")]
    Offset,
    #[error("a snappy block ends too early")]
    Short,
}

/// Where a block is unpacked to: the first `len` bytes are there.
struct Output<'a> {
    bytes: &'a mut [u8],
    len: usize,
    /// How many there will be; [`SLACK`] more have room.
    expected: usize,
}

/// Fills the first `expected` bytes of `out`, which has [`SLACK`] bytes more, by what `input` holds. The rest of `out` holds anything
/// afterwards.
///
/// # Errors
/// [`Damage`]; `out` then holds anything.
///
/// # Panics
/// If `out` is too short.
///
/// # Source
/// The format: `format_description.txt` of Google's Snappy.
pub(super) fn decompress(input: &[u8], out: &mut [u8], expected: usize) -> Result<(), Damage> {
    assert!(out.len() >= SLACK && out.len() - SLACK >= expected);
    let (stated, mut at) = preamble(input)?;
    if stated != expected {
        return Err(Damage::Length(stated));
    }
    let mut out = Output { bytes: out, len: 0, expected };
    while at < input.len() && out.len < LONGEST {
        at += element(&input[at..], &mut out)?;
    }
    let mut distances = [0; BLOCK];
    while let Some(left) = input.len().checked_sub(at + WIDE)
        && left >= 32
        && out.len <= expected
    {
        // Whole rounds of `measure`.
        let size = left.min(BLOCK) & !31;
        at += block(&input[at..], &mut distances[..size], &mut out)?;
    }
    while at < input.len() {
        at += element(&input[at..], &mut out)?;
    }
    match out.len {
        n if n < expected => Err(Damage::Short),
        n if n > expected => Err(Damage::Overrun),
        _ => Ok(()),
    }
}

/// The length in front, and how many bytes it takes.
fn preamble(input: &[u8]) -> Result<(usize, usize), Damage> {
    let mut value = 0;
    for (i, &byte) in input.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7F) << (7 * i);
        if byte < 0x80 {
            let value = u32::try_from(value).map_err(|_| Damage::Preamble)?;
            return Ok((value as usize, i + 1));
        }
    }
    Err(Damage::Preamble)
}

/// Unpacks the element at the head of `input`, with every check; its size in `input`.
fn element(input: &[u8], out: &mut Output<'_>) -> Result<usize, Damage> {
    let (&tag, rest) = input.split_first().ok_or(Damage::Short)?;
    let (kind, high) = (usize::from(tag & 3), usize::from(tag >> 2));
    let extra = [high.saturating_sub(59), 1, 2, 4][kind];
    let (number, rest) = rest.split_at_checked(extra).ok_or(Damage::Short)?;
    let number = number.iter().rev().fold(0, |n, &byte| n << 8 | usize::from(byte));
    let (len, offset) = match kind {
        0 if extra == 0 => (1 + high, 0),
        0 => (number.saturating_add(1), 0),
        1 => (4 + (high & 7), high >> 3 << 8 | number),
        _ => (1 + high, number),
    };
    if len > out.expected.saturating_sub(out.len) {
        return Err(Damage::Overrun);
    }
    let (begin, end) = (out.len, out.len + len);
    if kind == 0 {
        out.bytes[begin..end].copy_from_slice(rest.get(..len).ok_or(Damage::Literal)?);
        out.len = end;
        return Ok(1 + extra + len);
    }
    if offset == 0 || offset > begin {
        return Err(Damage::Offset);
    }
    // A copy that overlaps what it writes repeats it: each round doubles what there is.
    let from = begin - offset;
    while out.len < end {
        let n = (end - out.len).min(out.len - from);
        out.bytes.copy_within(from..from + n, out.len);
        out.len += n;
    }
    Ok(1 + extra)
}

/// Unpacks the elements whose tags are among the first `distances.len()` bytes of `input`, and returns how many bytes they took. Stops
/// when there is more than expected, by at most `WIDE` bytes.
fn block(input: &[u8], distances: &mut [u8], out: &mut Output<'_>) -> Result<usize, Damage> {
    // What the steps below rely on.
    assert!(distances.len() + WIDE <= input.len());
    assert!(out.len >= LONGEST && out.bytes.len() - SLACK >= out.expected);
    measure(input, distances);
    let (mut at, mut len) = (0, out.len);
    while let Some(&distance) = distances.get(at)
        && len <= out.expected
    {
        // SAFETY: `at` is below `distances.len()`, so that a tag and `WIDE` bytes more are in `input`; `len` is at least `LONGEST`, and
        // `WIDE` bytes more are in the output, because `len` ≤ `expected` and `SLACK` ≥ `WIDE`. Input and output are different slices.
        let longer = unsafe { step(input.as_ptr().add(at), out.bytes.as_mut_ptr(), len) };
        if let Some(longer) = longer {
            (at, len) = (at + usize::from(distance), longer);
            continue;
        }
        out.len = len;
        at += element(&input[at..], out)?;
        len = out.len;
    }
    out.len = len;
    Ok(at)
}

/// Sets each of `distances` to the size of the element whose tag the byte in its place would be; of those that `step` refuses it is
/// wrong. The inner loop has a fixed length so that it becomes vector code.
fn measure(input: &[u8], distances: &mut [u8]) {
    for (to, from) in distances.chunks_exact_mut(32).zip(input.chunks_exact(32)) {
        for (to, &tag) in to.iter_mut().zip(from) {
            let kind = tag & 3;
            *to = 1 + kind + if kind == 0 { 1 + (tag >> 2) } else { 0 };
        }
    }
}

/// What a tag says: the offset is `base` + (the two bytes after the tag & `mask`).
///
/// A literal's offset is its length, so that it passes for a copy that does not overlap; that of a tag which `step` must refuse is zero,
/// which always overlaps.
#[derive(Clone, Copy)]
#[repr(align(8))] // found by a shift
struct Tag {
    len: u16,
    base: u16,
    mask: u16,
}

static TAGS: [Tag; 256] = {
    let mut tags = [Tag { len: 0, base: 0, mask: 0 }; 256];
    let mut tag = 0;
    while tag < 256 {
        let (len, base, mask) = match (tag & 3, 1 + (tag >> 2)) {
            (1, n) => (4 + (n - 1) % 8, (tag >> 5) << 8, 0xFF),
            (0, n) if n as usize <= WIDE => (n, n, 0),
            (2, n) if n as usize <= WIDE => (n, 0, 0xFFFF),
            (_, n) => (n, 0, 0),
        };
        tags[tag as usize] = Tag { len, base, mask };
        tag += 1;
    }
    tags
};

/// Unpacks the element at `from` to `out + len`, unless it is unusual; the new length.
///
/// # Safety
/// `from` must be readable for 1 + `WIDE` bytes. `out` must be readable and writable for `len` + `WIDE` bytes, and `len` at least
/// `LONGEST`; the two must not overlap.
#[inline]
unsafe fn step(from: *const u8, out: *mut u8, len: usize) -> Option<usize> {
    // SAFETY: 3 is below 1 + `WIDE`.
    let [tag, low, high] = unsafe { from.cast::<[u8; 3]>().read() };
    let kind = tag & 3;
    let Tag { len: n, base, mask } = TAGS[usize::from(tag)];
    let offset = usize::from(base + (u16::from_le_bytes([low, high]) & mask));
    let n = usize::from(n);
    // One comparison for `n` ≤ `offset` and `offset` ≤ `len`, because `n` ≤ `LONGEST` ≤ `len`.
    if offset.wrapping_sub(n) > len - n {
        return None;
    }
    // SAFETY: 0 < `offset` ≤ `len`, so that `WIDE` bytes from either source, and from the target on, are in their slices. What is read
    // from `out + len` on, which may not be there yet, does not count: the element is `n` ≤ `offset` bytes. `ptr::copy` allows the
    // overlap.
    unsafe {
        let to = out.add(len);
        let copied = to.sub(offset).cast_const();
        let source = select_unpredictable(kind == 0, from.add(1), copied);
        ptr::copy(source, to, WIDE);
    }
    Some(len + n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ours, in memory that has not a byte more than it must.
    fn ours(input: &[u8], expected: usize) -> Result<Vec<u8>, Damage> {
        let mut out = vec![0xA5; expected + SLACK].into_boxed_slice();
        decompress(input, &mut out, expected)?;
        Ok(out[..expected].to_vec())
    }

    /// That ours does what the `snap` crate does, errors included.
    fn compare(input: &[u8]) -> Result<(), TestCaseError> {
        let stated = snap::raw::decompress_len(input).unwrap_or(0).min(1 << 20);
        let theirs = snap::raw::Decoder::new().decompress_vec(input);
        // The input too lies in memory of its own length.
        let input: Box<[u8]> = input.into();
        match (ours(&input, stated), theirs) {
            (Ok(ours), Ok(theirs)) => prop_assert!(ours == theirs),
            (ours, theirs) => prop_assert_eq!(ours.is_err(), theirs.is_err()),
        }
        Ok(())
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(text).unwrap()
    }

    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let words = prop::collection::vec(
            prop::sample::select(vec!["the ", "of ", "and ", "reading ", "a", "zebra, "]),
            0..700,
        );
        prop_oneof![
            words.prop_map(|words| words.concat().into_bytes()),
            prop::collection::vec(any::<u8>(), 0..3000),
            prop::collection::vec(0u8..3, 0..3000),
            (prop::collection::vec(any::<u8>(), 1..70), 1usize..200)
                .prop_map(|(unit, n)| unit.repeat(n)),
        ]
    }

    /// An element of a stream that no encoder would write: its kind, length and offset are what they are.
    fn elements() -> impl Strategy<Value = Vec<u8>> {
        let literal = (1usize..90, 0usize..5).prop_map(|(n, extra)| {
            let mut bytes = match extra {
                0 if n <= 60 => vec![(n as u8 - 1) << 2],
                extra => {
                    let extra = extra.max(1);
                    let mut head = vec![(59 + extra as u8) << 2];
                    head.extend(&(n as u32 - 1).to_le_bytes()[..extra]);
                    head
                }
            };
            bytes.extend((0..n).map(|i| i as u8));
            bytes
        });
        let copy = (1usize..4, 0u8..64, prop_oneof![1u32..80, 0u32..5000]).prop_map(
            |(kind, n, offset)| {
                let offset = offset.to_le_bytes();
                match kind {
                    1 => vec![1 | n << 2 & 0x1C | (offset[1] & 7) << 5, offset[0]],
                    2 => vec![2 | n << 2, offset[0], offset[1]],
                    _ => vec![3 | n << 2, offset[0], offset[1], offset[2], offset[3]],
                }
            },
        );
        prop_oneof![literal, copy]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn what_was_packed_comes_back(text in texts()) {
            prop_assert!(ours(&packed(&text), text.len()) == Ok(text));
        }

        #[test]
        fn damage_is_damage_to_the_snap_crate_too(
            text in texts(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            let mut input = packed(&text);
            for (at, byte) in changes {
                let at = at.index(input.len());
                input[at] = byte;
            }
            if !whole {
                input.truncate(cut.index(input.len()));
            }
            compare(&input)?;
        }

        #[test]
        fn streams_that_no_encoder_writes(elements in prop::collection::vec(elements(), 0..400), length in 0usize..30_000, exact in any::<bool>()) {
            let body = elements.concat();
            let mut input = vec![];
            let length = if exact { unpacked(&body) } else { length };
            let mut rest = length;
            while rest >= 0x80 {
                input.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            input.push(rest as u8);
            input.extend(body);
            compare(&input)?;
        }
    }

    /// Bytes that a body gives, as long as its offsets are right.
    fn unpacked(mut body: &[u8]) -> usize {
        let mut sum = 0;
        while let Some(&tag) = body.first() {
            let (kind, high) = (usize::from(tag & 3), usize::from(tag >> 2));
            let extra = [high.saturating_sub(59), 1, 2, 4][kind];
            let number = body[1..=extra].iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
            let len = match kind {
                0 if extra > 0 => number + 1,
                1 => 4 + (high & 7),
                _ => 1 + high,
            };
            sum += len;
            body = &body[1 + extra + if kind == 0 { len } else { 0 }..];
        }
        sum
    }

    #[test]
    fn every_offset_and_length_near_the_width() {
        let start: Vec<u8> = (0..150).collect();
        for offset in 1u8..=70 {
            for len in 1u8..=64 {
                // Enough behind it that the hot loop takes it.
                let mut input = vec![0; 2];
                let total = 150 + usize::from(len) + 100;
                input[0] = total as u8 | 0x80;
                input[1] = (total >> 7) as u8;
                input.extend([60 << 2, 149]);
                input.extend(&start);
                input.extend([2 | (len - 1) << 2, offset, 0]);
                input.extend([60 << 2, 99]);
                input.extend([7; 100]);
                let mut expected = start.clone();
                for _ in 0..len {
                    expected.push(expected[expected.len() - usize::from(offset)]);
                }
                expected.extend([7; 100]);
                assert_eq!(ours(&input, total).as_ref(), Ok(&expected), "{offset} {len}");
            }
        }
    }

    #[test]
    fn lengths_that_lie() {
        let input = packed(&b"some text, some more text, and some text".repeat(20));
        let stated = snap::raw::decompress_len(&input).unwrap();
        assert_eq!(ours(&input, stated - 1), Err(Damage::Length(stated)));
        assert_eq!(ours(&[], 0), Err(Damage::Preamble));
        assert_eq!(ours(&[0x80; 9], 0), Err(Damage::Preamble));
        assert_eq!(ours(&[0xFF, 0xFF, 0xFF, 0xFF, 0x1F], 0), Err(Damage::Preamble));
        assert_eq!(ours(&[0], 0), Ok(vec![]));
        assert_eq!(ours(&[5], 5), Err(Damage::Short));
        // The last element of a long block gives one byte too many.
        let text = b"abcdefgh".repeat(40);
        let mut input = vec![0xBF, 2, 61 << 2, 63, 1];
        input.extend(&text);
        assert_eq!(ours(&input, 319), Err(Damage::Overrun));
    }
}

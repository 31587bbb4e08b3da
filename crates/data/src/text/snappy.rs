//! Unpacks one block of Snappy: a varint of the length, then literals and copies of what came before. The raw format alone: no frames,
//! no checksums, and no part of a block that is damaged.
//!
//! In English text, literals and copies follow one another without a pattern and give less than five bytes each, so that a decoder which
//! branches on the kind of each spends most of its time on branches foretold wrongly. Here the hot loop (`run`) asks of each tag only
//! whether it is unusual, which is nearly always false:
//! - What the element at a tag would be, how many bytes it takes and gives and how far behind them they lie, is computed for every byte as
//!   if it was a tag, for `BLOCK` of them at a time (`Plan`). That is vector code, cheaper than deciding it tag by tag.
//! - Where the machine has a shuffle of bytes, how far it is to the tag after the next is computed beforehand as well, so that the chain
//!   from tag to tag, a load and an addition, has one link for two elements.
//! - A literal passes for a copy whose source is chosen by a conditional move; and each element copies `WIDE` bytes, of which the next one
//!   overwrites what is too much.
//!
//! What is unusual (longer than `WIDE`, overlapping what it writes, a 4-byte offset, damaged), and both ends of the input, go to
//! `element`, which is plain and checks everything.

#![allow(clippy::inline_always, reason = "compiled once for each kind of vectors, as a whole")]

use pulp::Arch;
use std::hint::select_unpredictable;
use std::ptr;

/// Bytes that the hot loop copies for each element, and the longest element that it takes.
const WIDE: usize = 32;

/// The longest element but for literals with extra bytes of length.
const LONGEST: usize = 64;

/// Room that the output must have beyond the block.
pub(super) const SLACK: usize = 2 * WIDE;

/// Input bytes that are planned at a time: what is said of them is little beside the first-level cache.
const BLOCK: usize = 512;

/// Bytes that are planned together, and beyond a block: the second element of a pair lies there.
const STRIDE: usize = 64;

/// Bytes of input that must come after a block: two elements of `WIDE` bytes with their tags.
const AHEAD: usize = 2 * (1 + WIDE);

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
    decompress_on(Arch::new(), input, out, expected)
}

/// [`decompress`] with what this machine, or one with less, is able to do.
fn decompress_on(arch: Arch, input: &[u8], out: &mut [u8], expected: usize) -> Result<(), Damage> {
    assert!(out.len() >= SLACK && out.len() - SLACK >= expected);
    let (stated, mut at) = preamble(input)?;
    if stated != expected {
        return Err(Damage::Length(stated));
    }
    let mut out = Output { bytes: out, len: 0, expected };
    while at < input.len() && out.len < LONGEST {
        at += element(&input[at..], &mut out)?;
    }
    at += match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(simd) => simd.vectorize(
            #[inline(always)]
            || blocks(&input[at..], &mut out, Some(*simd)),
        ),
        #[cfg(target_arch = "x86_64")]
        Arch::V3(simd) => simd.vectorize(
            #[inline(always)]
            || blocks(&input[at..], &mut out, Some(simd)),
        ),
        _ => blocks(&input[at..], &mut out, None),
    }?;
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

/// What shuffles bytes, where it is known how.
#[cfg(target_arch = "x86_64")]
type Shuffle = pulp::x86::V3;
#[cfg(not(target_arch = "x86_64"))]
type Shuffle = std::convert::Infallible;

/// Unpacks nearly all of `input`, which begins with a tag, block by block, and returns how many bytes that took. Stops when there is more
/// than expected, by at most 2 · `WIDE` bytes.
#[inline(always)]
fn blocks(input: &[u8], out: &mut Output<'_>, shuffle: Option<Shuffle>) -> Result<usize, Damage> {
    let mut plan = Plan {
        size: [0; BLOCK + STRIDE],
        pair: [0; BLOCK],
        len: [0; BLOCK + STRIDE],
        offset: [0; BLOCK + STRIDE],
    };
    let mut at = 0;
    while let Some(left) = input.len().checked_sub(at + AHEAD)
        && left >= STRIDE
        && out.len >= LONGEST
        && out.len <= out.expected
    {
        let bytes = left.min(BLOCK) / STRIDE * STRIDE;
        plan.fill(&input[at..], bytes);
        if let Some(shuffle) = shuffle {
            plan.pair(bytes, shuffle);
        }
        at += run(&input[at..], &plan, bytes, out, shuffle.is_some())?;
    }
    Ok(at)
}

/// The elements of a block: of each byte, what it is if it is a tag.
#[repr(align(64))]
struct Plan {
    /// Bytes that the element takes. Of those that `step` refuses it is wrong.
    size: [u8; BLOCK + STRIDE],
    /// Bytes that it and the element after it take.
    pair: [u8; BLOCK],
    /// Bytes that it gives.
    len: [u8; BLOCK + STRIDE],
    /// How far behind them they lie. That of a literal is its length, so that it passes for a copy that does not overlap; that of what
    /// `step` must refuse is zero, which always overlaps.
    offset: [u16; BLOCK + STRIDE],
}

impl Plan {
    /// Plans the first `bytes`, whole strides, and one stride more. Loops over arrays, without a branch, so that they become vector code.
    #[inline(always)]
    fn fill(&mut self, input: &[u8], bytes: usize) {
        let end = bytes + STRIDE;
        let tags = input[..end].as_chunks::<STRIDE>().0;
        let lows = input[1..][..end].as_chunks::<STRIDE>().0;
        let highs = input[2..][..end].as_chunks::<STRIDE>().0;
        let sizes = self.size.as_chunks_mut::<STRIDE>().0;
        let lens = self.len.as_chunks_mut::<STRIDE>().0;
        let offsets = self.offset.as_chunks_mut::<STRIDE>().0;
        for (i, ((tags, lows), highs)) in tags.iter().zip(lows).zip(highs).enumerate() {
            let (sizes, lens, offsets) = (&mut sizes[i], &mut lens[i], &mut offsets[i]);
            // An offset's bytes.
            let (mut low, mut high) = ([0; STRIDE], [0; STRIDE]);
            for j in 0..STRIDE {
                let (kind, n) = (tags[j] & 3, 1 + (tags[j] >> 2));
                let is = |k| u8::from(kind == k).wrapping_neg();
                sizes[j] = 1 + kind + (is(0) & n);
                lens[j] = is(1) & (4 + ((n - 1) & 7)) | !is(1) & n;
                let fits = u8::from(n <= WIDE as u8).wrapping_neg();
                let (literal, near, far) = (is(0) & fits, is(1), is(2) & fits);
                low[j] = literal & n | (near | far) & lows[j];
                high[j] = near & (tags[j] >> 5) | far & highs[j];
            }
            for j in 0..STRIDE {
                offsets[j] = u16::from_le_bytes([low[j], high[j]]);
            }
        }
    }

    /// What follows from `size` for pairs. Of those whose first element is refused it is wrong.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn pair(&mut self, bytes: usize, shuffle: Shuffle) {
        /// A shuffle looks up 16 bytes among 16.
        const LANE: usize = 16;
        let avx2 = shuffle.avx2;
        let splat = |byte: u8| pulp::cast::<[u8; 32], _>([byte; 32]);
        let places: [u8; 32] = std::array::from_fn(|i| (i % LANE) as u8);
        for i in (0..bytes).step_by(32) {
            let sizes = |from: usize| -> std::arch::x86_64::__m256i {
                let mut sizes = [0; 32];
                sizes.copy_from_slice(&self.size[from..from + 32]);
                pulp::cast(sizes)
            };
            let mut sum = sizes(i);
            // Where the second element lies, from the beginning of the lane: at most 15 + 1 + `WIDE`, in four lanes.
            let mut second = avx2._mm256_add_epi8(sum, pulp::cast(places));
            for lane in 0..4 {
                // The shuffle gives 0 where the highest bit is set: where it is another lane's turn, once 112 are added.
                let place = avx2._mm256_adds_epu8(second, splat(112));
                let found = avx2._mm256_shuffle_epi8(sizes(i + LANE * lane), place);
                sum = avx2._mm256_add_epi8(sum, found);
                second = avx2._mm256_sub_epi8(second, splat(LANE as u8));
            }
            self.pair[i..i + 32].copy_from_slice(&pulp::cast::<_, [u8; 32]>(sum));
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn pair(&mut self, _: usize, never: Shuffle) {
        match never {}
    }
}

/// Unpacks the elements whose tags are among the first `bytes` of `input`, for which there is `plan`, and returns how many bytes they took.
/// Stops when there is more than expected, by at most 2 · `WIDE` bytes. `pairs`: whether the plan has them.
#[inline(always)]
fn run(
    input: &[u8],
    plan: &Plan,
    bytes: usize,
    out: &mut Output<'_>,
    pairs: bool,
) -> Result<usize, Damage> {
    // What the steps below rely on.
    assert!(bytes <= BLOCK && bytes + AHEAD <= input.len());
    assert!(out.len >= LONGEST && out.bytes.len() - SLACK >= out.expected);
    let (mut at, mut len) = (0, out.len);
    while at < bytes && len <= out.expected {
        // SAFETY: `at` is below `bytes`, so that the plan knows it, and `AHEAD` bytes more are in `input`; `len` is at least `LONGEST`, and
        // `SLACK` bytes more are in the output, because `len` ≤ `expected`. Input and output are different slices.
        let first = unsafe { step(input.as_ptr(), at, plan, out.bytes.as_mut_ptr(), len) };
        if let Some(longer) = first {
            let second = at + usize::from(plan.size[at]);
            len = longer;
            if !pairs {
                at = second;
                continue;
            }
            // SAFETY: what the first step took is no longer than a tag and `WIDE` bytes, and as much more is in `input` and known to the
            // plan; what it gave is no longer than `WIDE`, and as much more is in the output.
            let both = unsafe { step(input.as_ptr(), second, plan, out.bytes.as_mut_ptr(), len) };
            if let Some(longer) = both {
                at += usize::from(plan.pair[at]);
                len = longer;
                continue;
            }
            at = second;
        }
        out.len = len;
        at += element(&input[at..], out)?;
        len = out.len;
    }
    out.len = len;
    Ok(at)
}

/// Unpacks the element at `input + at` to `out + len`, unless it is unusual; the new length.
///
/// # Safety
/// `at` must be in the plan's strides, and 1 + `WIDE` bytes readable from there. `out` must be readable and writable for `len` + `WIDE`
/// bytes, and `len` at least `LONGEST`; the two must not overlap.
#[inline(always)]
unsafe fn step(
    input: *const u8,
    at: usize,
    plan: &Plan,
    out: *mut u8,
    len: usize,
) -> Option<usize> {
    // SAFETY: `at` is below `BLOCK` + `STRIDE`.
    let (n, offset) = unsafe { (*plan.len.get_unchecked(at), *plan.offset.get_unchecked(at)) };
    let (n, offset) = (usize::from(n), usize::from(offset));
    // One comparison for `n` ≤ `offset` and `offset` ≤ `len`, because `n` ≤ `LONGEST` ≤ `len`.
    if offset.wrapping_sub(n) > len - n {
        return None;
    }
    // SAFETY: 0 < `offset` ≤ `len`, so that `WIDE` bytes from either source, and from the target on, are in their slices. What is read
    // from `out + len` on, which may not be there yet, does not count: the element is `n` ≤ `offset` bytes. `ptr::copy` allows the
    // overlap.
    unsafe {
        let tag = input.add(at);
        let to = out.add(len);
        let copied = to.sub(offset).cast_const();
        let source = select_unpredictable((*tag).is_multiple_of(4), tag.add(1), copied);
        ptr::copy(source, to, WIDE);
    }
    Some(len + n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ours, in memory that has not a byte more than it must, the same whatever the machine is able to do.
    fn ours(input: &[u8], expected: usize) -> Result<Vec<u8>, Damage> {
        let mut archs = vec![Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
            archs.extend(pulp::x86::V4::try_new().map(Arch::V4));
        }
        let unpacked = archs.into_iter().map(|arch| {
            let mut out = vec![0xA5; expected + SLACK].into_boxed_slice();
            decompress_on(arch, input, &mut out, expected)?;
            Ok(out[..expected].to_vec())
        });
        let mut unpacked: Vec<_> = unpacked.collect();
        unpacked.dedup();
        assert_eq!(unpacked.len(), 1, "machines differ");
        unpacked.remove(0)
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// Each length of literal, with a copy or another literal after it, at every place of a block; nothing is damaged.
        #[test]
        fn all_that_the_hot_loop_takes(
            elements in prop::collection::vec((1usize..4, 1usize..41, any::<prop::sample::Index>()), 1..900),
        ) {
            let (mut body, mut given) = (vec![60 << 2, 69], 70);
            body.extend(0..70u8);
            for (kind, n, offset) in elements {
                let offset = 1 + offset.index(given.min(if kind == 1 { 2047 } else { 65_535 }));
                let [low, high, ..] = offset.to_le_bytes();
                given += match kind {
                    1 => {
                        body.extend([1 | (n as u8 % 8) << 2 | high << 5, low]);
                        4 + n % 8
                    }
                    2 => {
                        body.extend([2 | (n as u8 - 1) << 2, low, high]);
                        n
                    }
                    _ => {
                        body.push((n as u8 - 1) << 2);
                        body.extend((0..n).map(|i| (given + i) as u8));
                        n
                    }
                };
            }
            let mut input = vec![given as u8 | 0x80, (given >> 7) as u8 | 0x80, (given >> 14) as u8];
            input.extend(body);
            prop_assert!(ours(&input, given).is_ok());
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

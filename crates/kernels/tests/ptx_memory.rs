//! `cu/memory.cu` in the emulator: every kernel at odd sizes, at aligned and misaligned starts, over poisoned memory, with the traffic counted.

use std::sync::LazyLock;

use farthing_kernels::Bf16;
use ptx_emulator::{Arg, Counters, Memory, Module, Options, Pointer};

static MODULE: LazyLock<Module> = LazyLock::new(|| {
    Module::parse(include_str!("../ptx/sm80/memory.ptx")).expect("the committed PTX parses")
});

/// Around whole 16-byte groups, whole warps, whole blocks and whole grids of 3 blocks (of 4 or 8 elements per thread).
const SIZES: [usize; 15] = [1, 3, 4, 7, 8, 9, 31, 256, 257, 2047, 2048, 3072, 6144, 6145, 20_011];
/// Elements that a view skips at the start of its tensor: 16-byte aligned for every element size, and not.
const STARTS: [usize; 5] = [0, 1, 3, 4, 8];
const GUARD: usize = 9;

fn launch(kernel: &str, args: &[Arg], memory: &mut Memory) -> Counters {
    let options = Options { block_races: true, ..Options::default() };
    MODULE
        .kernel(kernel)
        .and_then(|kernel| kernel.launch([3, 1, 1], [256, 1, 1], 0, args, memory, &options))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// `start + n + GUARD` poisoned elements and the address of the element `start`.
fn poisoned<T: ptx_emulator::Element + Copy>(
    memory: &mut Memory,
    poison: T,
    start: usize,
    n: usize,
) -> (Pointer, Pointer) {
    let whole = memory.upload(&vec![poison; start + n + GUARD]);
    (whole, whole.offset((start * size_of::<T>()) as i64))
}

/// What stands at `whole` is poison but for `expected` from `start` on.
fn assert_only<T>(
    memory: &Memory,
    whole: Pointer,
    poison: T,
    start: usize,
    expected: &[T],
    what: &str,
) where
    T: ptx_emulator::Element + Copy + PartialEq + std::fmt::Debug,
{
    let n = expected.len();
    let found: Vec<T> = memory.read(whole, start + n + GUARD).expect("all was written");
    assert_eq!(&found[start..start + n], expected, "{what}");
    assert!(
        found[..start].iter().chain(&found[start + n..]).all(|&x| x == poison),
        "{what}: wrote beside it"
    );
}

/// Values whose rounding to bf16 goes down, up, to even on a tie, to infinity, and among the denormals.
fn values(n: usize) -> Vec<f32> {
    let edges = [
        0.0,
        -0.0,
        1.0,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        -1.0 - 1.1 / 256.0,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MIN_POSITIVE,
        1e-40,
        -1e-45,
        3.39e38,
        65_504.0,
    ];
    let random = |i: usize| f32::from_bits((i as u32).wrapping_mul(0x9e37_79b9) & 0xbfff_ffff);
    (0..n).map(|i| edges.get(i).copied().unwrap_or_else(|| random(i))).collect()
}

#[test]
fn fill_writes_every_element_and_no_other() {
    for (n, start) in SIZES.into_iter().flat_map(|n| STARTS.map(|start| (n, start))) {
        let what = format!("n = {n}, start = {start}");
        let mut memory = Memory::new();
        let (whole, at) = poisoned(&mut memory, 0xdead_u16, start, n);
        launch("fill_u16", &[at.into(), 0xbeef_u16.into(), (n as i64).into()], &mut memory);
        assert_only(&memory, whole, 0xdead, start, &vec![0xbeef_u16; n], &what);

        let (whole, at) = poisoned(&mut memory, 0xdead_beef_u32, start, n);
        launch("fill_u32", &[at.into(), 0x8765_4321_u32.into(), (n as i64).into()], &mut memory);
        assert_only(&memory, whole, 0xdead_beef, start, &vec![0x8765_4321_u32; n], &what);
    }
}

#[test]
fn casts_round_to_even_and_widen_exactly() {
    for (n, start) in SIZES.into_iter().flat_map(|n| STARTS.map(|start| (n, start))) {
        let what = format!("n = {n}, start = {start}");
        let x = values(n);
        let narrow: Vec<u16> = x.iter().map(|&x| bytemuck::cast(Bf16::from_f32(x))).collect();
        let wide: Vec<u32> = narrow.iter().map(|&bits| u32::from(bits) << 16).collect();
        // One start for both pointers, then one for the result alone.
        for from in [start, 0] {
            let mut memory = Memory::new();
            let read = |memory: &mut Memory, bytes: usize| memory.alloc(bytes);
            let input = read(&mut memory, (from + n) * 4).offset(from as i64 * 4);
            memory.write(input, &x).expect("it was allocated");
            let (whole, at) = poisoned(&mut memory, 0xdead_u16, start, n);
            launch("cast_f32_bf16", &[at.into(), input.into(), (n as i64).into()], &mut memory);
            assert_only(&memory, whole, 0xdead, start, &narrow, &what);

            let input = read(&mut memory, (from + n) * 2).offset(from as i64 * 2);
            memory.write(input, &narrow).expect("it was allocated");
            let (whole, at) = poisoned(&mut memory, 0xdead_beef_u32, start, n);
            launch("cast_bf16_f32", &[at.into(), input.into(), (n as i64).into()], &mut memory);
            assert_only(&memory, whole, 0xdead_beef, start, &wide, &what);
        }
    }
}

#[test]
fn a_nan_stays_a_nan() {
    let mut memory = Memory::new();
    let nans = [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0xffff_ffff_u32].map(f32::from_bits);
    let input = memory.upload(&nans);
    let output = memory.alloc(8);
    launch("cast_f32_bf16", &[output.into(), input.into(), 4_i64.into()], &mut memory);
    let found: Vec<u16> = memory.read(output, 4).expect("it was written");
    assert_eq!(found, [0x7fff; 4], "the instruction's own NaN");

    let narrow = [0x7fc0, 0xffc1, 0x7f81, 0x7fff_u16];
    let input = memory.upload(&narrow);
    let output = memory.alloc(16);
    launch("cast_bf16_f32", &[output.into(), input.into(), 4_i64.into()], &mut memory);
    let found: Vec<u32> = memory.read(output, 4).expect("it was written");
    assert_eq!(found, narrow.map(|bits| u32::from(bits) << 16));
}

#[test]
fn each_byte_moves_once_and_coalesced() {
    let n = 6 * 2048;
    let mut memory = Memory::new();
    let wide = memory.upload(&values(n));
    let narrow = memory.alloc(n * 2);
    let to_bf16 =
        launch("cast_f32_bf16", &[narrow.into(), wide.into(), (n as i64).into()], &mut memory);
    let to_f32 =
        launch("cast_bf16_f32", &[wide.into(), narrow.into(), (n as i64).into()], &mut memory);
    let fill = launch("fill_u16", &[narrow.into(), 1_u16.into(), (n as i64).into()], &mut memory);
    for (counters, read, written) in [(to_bf16, 4, 2), (to_f32, 2, 4), (fill, 0, 2)] {
        assert_eq!(counters.global_load.bytes, (read * n) as u64);
        assert_eq!(counters.global_store.bytes, (written * n) as u64);
        assert_eq!(counters.global_load.sectors * 32, counters.global_load.bytes);
        assert_eq!(counters.global_store.sectors * 32, counters.global_store.bytes);
    }
}

//! PTX that is damaged or means harm: an error, no panic, no large allocation.

#![allow(clippy::unwrap_used, reason = "a test's helper may fail the test")]
#![allow(
    clippy::precedence,
    clippy::precedence_bits,
    clippy::manual_midpoint,
    clippy::cast_abs_to_unsigned,
    clippy::verbose_bit_mask,
    clippy::manual_is_multiple_of,
    clippy::needless_range_loop,
    clippy::eq_op,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::nonminimal_bool,
    reason = "references are written as their definitions read"
)]
#![allow(
    clippy::items_after_statements,
    clippy::type_complexity,
    reason = "a table's type stands beside the table"
)]
#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    clippy::unreadable_literal,
    reason = "PTX is put together from pieces"
)]

mod common;
use common::{Numbers, fault, text};
use proptest::prelude::*;
use ptx_emulator::{Arg, Error, FaultKind, Memory, Module, Options, Swizzle, TensorMap};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts what is allocated at a time, so that "no large allocation" is a number.
struct Counting;
static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(p, layout, size) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// No test here may need more than this in one piece.
const MOST: usize = 64 << 20;

fn load(text: &str) -> Result<(), Error> {
    let module = Module::parse(text)?;
    let names: Vec<String> = module.kernels().map(str::to_owned).collect();
    names.iter().try_for_each(|n| module.kernel(n).map(|_| ()))
}

fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n.reg .b32 %r<8>;\n.reg .pred %p<4>;\n{body}\nret;\n}}\n"
    )
}

fn refused(text: &str, expected: &str) {
    let e = load(text).expect_err(expected).to_string();
    assert!(e.contains(expected), "{e}\nwhere `{expected}` was expected");
    assert!(LARGEST.load(Relaxed) < MOST, "an allocation of {} bytes", LARGEST.load(Relaxed));
}

#[test]
fn truncated_at_every_byte() {
    // The small file at each byte; the large ones at each byte of their first and last parts and at strides between.
    for name in ["elementwise", "rmsnorm", "opcodes", "attention", "hopper"] {
        let whole = text(name);
        assert!(whole.is_ascii());
        let every = name == "elementwise";
        let ends = (0..whole.len())
            .filter(|i| every || *i < 3000 || *i + 400 > whole.len() || i % 997 == 0);
        for end in ends {
            match load(&whole[..end]) {
                Err(e) => assert!(!e.to_string().is_empty()),
                // Between two kernels the text so far is a whole module.
                Ok(()) => {
                    let count = |c| whole[..end].matches(c).count();
                    assert_eq!(count('{'), count('}'), "{name} cut at {end} passes");
                }
            }
        }
    }
    assert!(LARGEST.load(Relaxed) < MOST, "an allocation of {} bytes", LARGEST.load(Relaxed));
}

#[test]
fn sizes_beyond_reason() {
    refused(&kernel(".shared .align 16 .b8 s[1099511627776];"), "static shared memory");
    refused(&kernel(".shared .align 16 .b8 s[18446744073709551615];"), "static shared memory");
    refused(&kernel(".shared .b64 s[2305843009213693952];"), "");
    refused(&kernel(".local .align 16 .b8 s[1099511627776];"), "local memory");
    refused(".version 8.0\n.target sm_80\n.global .b8 g[1099511627776];", "global variables");
    refused(
        ".version 8.0\n.target sm_80\n.const .align 4096 .b8 g[268435457];",
        "global variables",
    );
    refused(".version 8.0\n.target sm_80\n.shared .b8 g[1099511627776];", "static shared memory");
    refused(
        ".version 8.0\n.target sm_80\n.entry k(.param .b8 p[1099511627776]) { ret; }",
        "parameters of more than",
    );
    // Four billion registers declared cost nothing; as many used are refused.
    load(&kernel(".reg .b32 %x<4294967295>;\nmov.b32 %x4294967294, 0;")).unwrap();
    let mut many = String::from(".reg .b32 %x<4294967295>;\n");
    (0..70_000).for_each(|i| many += &format!("mov.b32 %x{i}, 0;\n"));
    refused(&kernel(&many), "registers");
    // Constants take room too.
    let mut many = String::new();
    (0..70_000).for_each(|i| many += &format!("mov.b32 %r0, {i};\n"));
    refused(&kernel(&many), "registers and constants");
    // At the launch.
    let module = Module::parse(&kernel("")).unwrap();
    let mut memory = Memory::new();
    for (grid, block, shared) in [
        ([u32::MAX; 3], [1; 3], 0),
        ([1; 3], [u32::MAX; 3], 0),
        ([1, 1, 1], [1024, 2, 1], 0),
        ([0, 1, 1], [32, 1, 1], 0),
        ([1, 1, 1], [32, 1, 0], 0),
        ([1, 1, 1], [32, 1, 1], u32::MAX),
    ] {
        let r = module.kernel("k").unwrap().launch(
            grid,
            block,
            shared,
            &[],
            &mut memory,
            &Options::default(),
        );
        assert!(matches!(r, Err(Error::Launch { .. })), "{grid:?} {block:?} {shared}");
    }
    let local = Module::parse(&kernel(".local .align 16 .b8 s[524288];")).unwrap();
    let r = local.kernel("k").unwrap().launch(
        [1; 3],
        [1024, 1, 1],
        0,
        &[],
        &mut memory,
        &Options::default(),
    );
    assert!(matches!(r, Err(Error::Launch { .. })));
    assert!(LARGEST.load(Relaxed) < MOST, "an allocation of {} bytes", LARGEST.load(Relaxed));
}

#[test]
fn branches_to_nowhere_and_calls() {
    refused(&kernel("bra NOWHERE;"), "no label `NOWHERE`");
    refused(&kernel("@%p0 bra %r0;"), "no label");
    refused(&kernel("A:\nA:\n"), "twice");
    refused(&kernel("{ IN: }\nbra IN;"), "no label `IN`");
    refused(&kernel("brx.idx %r0, T;"), "no list of labels");
    refused(&kernel("T: .branchtargets A, B;\nA:\nbrx.idx %r0, T;"), "no label `B`");
    refused(&kernel("call k;"), "functions are not called");
    refused(
        ".version 8.0\n.target sm_80\n.func f() { call f; ret; }\n.entry k() { call f; ret; }",
        "functions are not called",
    );
    refused(&kernel("mov.b32 %r0, %r8;"), "`%r8` is not declared");
    refused(&kernel("mov.b32 %r0, %r00;"), "not declared");
    refused(&kernel("@%r0 ret;"), "not a predicate");
    refused(&kernel("frobnicate.b32 %r0, %r1;"), "frobnicate");
    refused(&kernel("add.f99 %r0, %r1, %r2;"), "add.f99");
    refused(&kernel("add.s32 %r0, %r1;"), "operands");
    refused(&kernel("ld.global.v3.u32 {%r0,%r1,%r2}, [%r3];"), "ld.global.v3");
    // A switch beyond its list is a fault of the thread.
    let module =
        Module::parse(&kernel("mov.u32 %r0, 9;\nT: .branchtargets A, A;\nbrx.idx %r0, T;\nA:"))
            .unwrap();
    let mut memory = Memory::new();
    let r = module.kernel("k").unwrap().launch(
        [1; 3],
        [32, 1, 1],
        0,
        &[],
        &mut memory,
        &Options::default(),
    );
    assert!(matches!(fault(r).kind, FaultKind::Operand { .. }));
}

#[test]
fn deep_nesting_and_long_lines() {
    let deep = "[".repeat(100_000);
    assert!(load(&kernel(&format!("ld.global.u32 %r0, {deep};"))).is_err());
    let deep = "{".repeat(100_000);
    assert!(load(&kernel(&deep)).is_err());
    assert!(load(&kernel(&format!("mov.b32 {deep} %r0, %r1;"))).is_err());
    load(&kernel(&format!("{}{}", "{".repeat(10_000), "}".repeat(10_000)))).unwrap();
    let e = load(&kernel(&"x".repeat(1 << 20))).unwrap_err().to_string();
    assert!(e.len() < 2000, "an error of {} bytes", e.len());
    for text in
        ["", "\0", "\u{feff}.version 8.0", "/*", "\"", "@", ".version", ".version 8.0 .target", "ä"]
    {
        assert!(load(text).is_err() || text.is_empty(), "{text:?}");
    }
}

/// Runs every kernel of a module that survived damage, with little patience.
fn survive(text: &str) {
    let Ok(module) = Module::parse(text) else { return };
    let names: Vec<String> = module.kernels().map(str::to_owned).collect();
    for name in names {
        let Ok(kernel) = module.kernel(&name) else { continue };
        let mut memory = Memory::new();
        let a = memory.upload(&vec![0u32; 16_384]);
        let map = TensorMap::new(a, 2, &[128, 128], &[256], &[64, 64], Swizzle::Bytes128).unwrap();
        let options = Options { step_limit: 20_000, ..Options::default() };
        // The signatures of the kernels used here; the wrong ones are refused.
        let signatures: [&[Arg]; 4] = [
            &[],
            &[a.into(), a.into(), 1.0f32.into(), 100i32.into()],
            &[a.into(), a.into(), 2i32.into(), 264i32.into(), 1.0f32.into()],
            &[map.clone().into(), map.into(), a.into(), 128i32.into(), 256i32.into()],
        ];
        for args in signatures {
            // Any outcome but a panic.
            let _ = kernel.launch([2, 1, 1], [128, 1, 1], 49_152, args, &mut memory, &options);
        }
    }
}

#[test]
fn damaged_words_run_to_an_error_or_an_end() {
    for (name, times) in [("elementwise", 2000), ("rmsnorm", 400), ("hopper", 400)] {
        let whole = text(name);
        let words: Vec<&str> = whole.split_inclusive([' ', '\t', '\n', ',', ';']).collect();
        let mut numbers = Numbers(1);
        for _ in 0..times {
            let mut changed = words.clone();
            for _ in 0..=numbers.bits() % 3 {
                let mut any = || numbers.bits() as usize % words.len();
                let (i, j) = (any(), any());
                match numbers.bits() % 3 {
                    0 => changed[i] = words[j],
                    1 => changed.swap(i, j),
                    _ => changed[i] = "",
                }
            }
            survive(&changed.concat());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_module_or_an_error(body in "[ -~\n]{0,200}") {
        let _ = load(&kernel(&body));
        let _ = load(&body);
    }

    #[test]
    fn any_operands_of_a_real_mnemonic(
        name in prop::sample::select(vec![
            "add.s32", "mad.wide.u16", "cvt.rn.bf16x2.f32", "ld.global.v4.f32", "st.shared.b64", "shfl.sync.bfly.b32",
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16",
            "cp.async.cg.shared.global", "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes",
            "mbarrier.try_wait.parity.shared.b64", "bar.sync", "setp.lt.and.f32", "lop3.b32", "brx.idx", "atom.shared.cas.b32",
        ]),
        operands in prop::collection::vec("(%r[0-9]|%p[0-5]|-?[0-9]{1,20}|0x[0-9a-f]{1,20}|0f[0-9a-f]{8}|\\{%r0, %r1\\}|\\[%r0\\+[0-9]{1,20}\\]|\\[%r1\\]|_|%r0\\|%p0)", 0..7),
    ) {
        survive(&kernel(&format!("{name} {};", operands.join(", "))));
    }
}

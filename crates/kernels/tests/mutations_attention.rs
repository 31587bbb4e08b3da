//! How much the tests of attention see: one change at a time to the PTX that ships, run through the launch code as the tests run it.
//! Each mutation's outcome is asserted; those that are not caught say why.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

#[path = "common/attention.rs"]
mod attention;
mod common;

use std::sync::Arc;

use attention::{Call, call};
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::driver::{Arg, Driver, Event, Kernel, Module, Properties};
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::cuda::gemm::HostGemm;
use farthing_kernels::{AttentionShape, Device, Error, Place, Result};

const PTX: &str = include_str!("../ptx/sm80/attention.ptx");
const KERNEL: &str = "attention_64";

/// The `nth` (from 0) instruction of the kernel with this opcode whose last operand ends so becomes `to`, where {0}, {1}, … are its
/// operands.
struct Edit(&'static str, &'static str, usize, &'static str);

struct Mutation {
    what: &'static str,
    edits: &'static [Edit],
    outcome: &'static str,
}

const fn m(what: &'static str, edits: &'static [Edit], outcome: &'static str) -> Mutation {
    Mutation { what, edits, outcome }
}

const IN_FLIGHT: &str = "used in flight";
const RACE: &str = "data race";
const BOUNDS: &str = "out of bounds";
const UNWRITTEN: &str = "uninitialised";
const WRONG: &str = "wrong result";
const BYTES: &str = "other bytes than stated";
const BANKS: &str = "bank conflicts";

const MUTATIONS: &[Mutation] = &[
    // Waits.
    m("queries are not waited for", &[Edit("cp.async.wait_group", "1", 0, "")], IN_FLIGHT),
    m(
        "a tile's wait leaves one group in flight",
        &[Edit("cp.async.wait_group", "0", 0, "cp.async.wait_group 1;")],
        IN_FLIGHT,
    ),
    m("queries' copies are not committed", &[Edit("cp.async.commit_group", "", 0, "")], IN_FLIGHT),
    m(
        "the next tile's copies are not committed",
        &[Edit("cp.async.commit_group", "", 2, "")],
        IN_FLIGHT,
    ),
    // Barriers.
    m(
        "no barrier between the queries' wait and their use",
        &[Edit("bar.sync", "0", 0, "")],
        UNWRITTEN,
    ),
    m("no barrier between a tile's wait and its use", &[Edit("bar.sync", "0", 1, "")], IN_FLIGHT),
    m(
        "no barrier between results' way into shared memory and out",
        &[Edit("bar.warp.sync", "-1", 0, "")],
        "not caught: the lanes of a warp run in step here",
    ),
    // Stages.
    m(
        "the next tile goes where this one is",
        &[Edit("add.s32", "16384", 1, "mov.b32 {0}, {1};")],
        IN_FLIGHT,
    ),
    m("results go where the last tile is", &[Edit("not.b32", "", 1, "mov.b32 {0}, {1};")], RACE),
    // Swizzles.
    m("queries are copied without one", &[Edit("xor.b32", "", 0, "mov.b32 {0}, {2};")], WRONG),
    m("keys are read without one", &[Edit("xor.b32", "", 5, "mov.b32 {0}, {2};")], WRONG),
    m("values are read without one", &[Edit("xor.b32", "", 9, "mov.b32 {0}, {1};")], WRONG),
    m(
        "there is none",
        &[
            Edit("xor.b32", "", 12, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 11, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 10, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 9, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 8, "mov.b32 {0}, {2};"),
            Edit("xor.b32", "", 7, "mov.b32 {0}, {2};"),
            Edit("xor.b32", "", 6, "mov.b32 {0}, {2};"),
            Edit("xor.b32", "", 5, "mov.b32 {0}, {2};"),
            Edit("xor.b32", "", 4, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 3, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 2, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 1, "mov.b32 {0}, {1};"),
            Edit("xor.b32", "", 0, "mov.b32 {0}, {2};"),
        ],
        BANKS,
    ),
    // Masks.
    m(
        "a column's diagonal is masked",
        &[Edit("setp.gt.s32", "", 12, "setp.ge.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        "a column's window is one key short",
        &[Edit("setp.lt.s32", "", 12, "setp.le.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        "a tile with one key outside is not masked",
        &[Edit("mov.u32", "63", 0, "mov.u32 {0}, 62;")],
        WRONG,
    ),
    m(
        "the diagonal's tile is not masked",
        &[Edit("setp.ne.s32", "0", 0, "setp.ge.s32 {0}, {1}, 0;")],
        WRONG,
    ),
    m(
        "every tile is masked",
        &[Edit("setp.ne.s32", "0", 0, "setp.lt.s32 {0}, {1}, 0;")],
        "not caught: the result is the same, only instructions are lost",
    ),
    // Bounds.
    m(
        "a tile of which the window reaches one key is left out",
        &[
            Edit("add.s32", "63", 2, "add.s32 {0}, {1}, 62;"),
            Edit("add.s32", "63", 1, "add.s32 {0}, {1}, 62;"),
            Edit("add.s32", "16128", 0, "add.s32 {0}, {1}, 15872;"),
        ],
        WRONG,
    ),
    m(
        "one tile too many",
        &[
            Edit("add.s32", "63", 2, "add.s32 {0}, {1}, 127;"),
            Edit("add.s32", "63", 1, "add.s32 {0}, {1}, 127;"),
            Edit("add.s32", "16128", 0, "add.s32 {0}, {1}, 32512;"),
        ],
        BYTES,
    ),
    m(
        "queries beyond the last are read",
        &[Edit("setp.lt.s32", "", 3, "setp.ne.s32 {0}, {1}, -1;")],
        BOUNDS,
    ),
    m(
        "keys before the first are read",
        &[Edit("setp.gt.s32", "-1", 2, "setp.ne.s32 {0}, {1}, 1000000;")],
        BOUNDS,
    ),
    m(
        "keys that are not there are read",
        &[Edit("selp.b32", "%p15", 0, "mov.b32 {0}, 16;")],
        BYTES,
    ),
    m(
        "an lse beyond the last query is written",
        &[Edit("setp.ge.s32", "", 1, "setp.lt.s32 {0}, {1}, 0;")],
        RACE,
    ),
    m(
        "a result beyond the last query is written",
        &[Edit("setp.ge.s32", "", 3, "setp.lt.s32 {0}, {1}, 0;")],
        BOUNDS,
    ),
    // Initial values and the softmax.
    m(
        "the maximum starts at 0",
        &[Edit("mov.f32", "0fFF800000", 0, "mov.f32 {0}, 0f00000000;")],
        WRONG,
    ),
    m(
        "the maximum is not subtracted",
        &[Edit("neg.f32", "", 0, "mov.f32 {0}, 0f00000000;")],
        WRONG,
    ),
    m(
        "sums are not rescaled when the maximum grows",
        &[Edit("ex2.approx.ftz.f32", "", 0, "mov.f32 {0}, 0f3F800000;")],
        WRONG,
    ),
    m(
        "the maximum is over half of a row's lanes",
        &[Edit("shfl.sync.bfly.b32", "", 0, "mov.b32 {0}, {1};")],
        WRONG,
    ),
    m(
        "the sum is over half of a row's lanes",
        &[Edit("shfl.sync.bfly.b32", "", 4, "mov.b32 {0}, {1};")],
        WRONG,
    ),
    // Indices.
    m(
        "every query head has keys of its own",
        &[Edit("div.s32", "", 1, "mov.b32 {0}, {1};")],
        BOUNDS,
    ),
    m("queries are the first positions", &[Edit("sub.s32", "", 2, "mov.b32 {0}, 0;")], WRONG),
];

/// The emulator, with a module of its own in place of attention's.
struct Mutant {
    emulator: Arc<Emulator>,
    module: &'static Module,
}

impl Driver for Mutant {
    fn name(&self) -> &'static str {
        self.emulator.name()
    }
    fn place(&self) -> Place {
        self.emulator.place()
    }
    fn properties(&self) -> &Properties {
        self.emulator.properties()
    }
    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.emulator.alloc(bytes)
    }
    fn free(&self, address: u64) {
        self.emulator.free(address);
    }
    fn write(&self, dst: u64, src: &[u8]) -> Result<()> {
        self.emulator.write(dst, src)
    }
    fn read(&self, dst: &mut [u8], src: u64) -> Result<()> {
        self.emulator.read(dst, src)
    }
    fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        self.emulator.copy(dst, src, bytes)
    }
    fn zero(&self, dst: u64, bytes: usize) -> Result<()> {
        self.emulator.zero(dst, bytes)
    }
    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        let &Kernel { name, threads, shared_bytes, .. } = kernel;
        assert_eq!(
            (kernel.module.name, name),
            ("attention", KERNEL),
            "what is mutated is what runs"
        );
        let module = self.module;
        let kernel = Box::leak(Box::new(Kernel { module, name, threads, shared_bytes }));
        self.emulator.launch(kernel, blocks, args)
    }
    fn synchronize(&self) -> Result<()> {
        self.emulator.synchronize()
    }
    fn record(&self) -> Result<Event> {
        self.emulator.record()
    }
    fn elapsed_s(&self, from: Event, to: Event) -> Result<f64> {
        self.emulator.elapsed_s(from, to)
    }
}

/// The module's text with one edit to the kernel.
fn edited(text: &str, &Edit(opcode, tail, nth, to): &Edit) -> String {
    let mut inside = false;
    let mut seen = 0;
    let lines = text.lines().map(|line| {
        if line.contains(".entry ") {
            inside = line.contains(&format!(".entry {KERNEL}("));
        }
        let (op, operands) =
            line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        let operands: Vec<&str> = operands.trim().trim_end_matches(';').split(", ").collect();
        let last = operands.last().copied().unwrap_or_default();
        let found = inside
            && op.trim_end_matches(';') == opcode
            && if tail.is_empty() { true } else { last == tail };
        seen += usize::from(found);
        if !found || seen != nth + 1 {
            return line.to_owned();
        }
        // A shuffle's first operand is `value|predicate`.
        let first = |operand: &str| operand.split('|').next().unwrap_or_default().to_owned();
        operands.iter().enumerate().fold(to.to_owned(), |to, (i, operand)| {
            to.replace(&format!("{{{i}}}"), &first(operand))
        })
    });
    let text: String = lines.map(|line| line + "\n").collect();
    assert!(seen > nth, "{KERNEL} has {seen} of {opcode} … {tail}, not {nth}");
    text
}

/// Calls with which every branch decides something: windows that end at and beside the edge of a tile, queries after a cache, grouped
/// heads, scores that exp cannot hold, also below 0 alone.
fn calls() -> [(Call, Option<f64>); 5] {
    [
        (call((2, 70, 81), (2, 1, 64), 65), None),
        (call((1, 130, 130), (2, 2, 64), 126), None),
        (call((1, 65, 129), (1, 1, 64), 63), None),
        (call((1, 200, 200), (1, 1, 64), 150), Some(8.0)),
        (call((1, 70, 70), (1, 1, 64), 0), Some(8.0)),
    ]
}

fn outcome(ptx: String) -> &'static str {
    let module = Box::leak(Box::new(Module { name: "mutated", ptx: ptx.leak() }));
    for (call, scale) in calls() {
        let emulator = Arc::new(Emulator::new());
        let mutant = Arc::new(Mutant { emulator: emulator.clone(), module });
        let gemm = HostGemm::new(mutant.clone()).unwrap();
        let dev: &dyn Device = &Cuda::new(mutant, Box::new(gemm)).unwrap();
        let inputs = call.inputs();
        let inputs = if scale.is_some() { inputs.rounded() } else { inputs };
        let at = AttentionShape { scale: scale.unwrap_or(call.shape().scale), ..call.shape() };
        let got = match call.run(dev, &inputs, at) {
            Ok(got) => got,
            Err(Error::Driver { what, .. }) => {
                return [
                    ("in flight", IN_FLIGHT),
                    ("data race", RACE),
                    ("out of bounds", BOUNDS),
                    ("before anything was written", UNWRITTEN),
                ]
                .into_iter()
                .find_map(|(words, outcome)| what.contains(words).then_some(outcome))
                .unwrap_or_else(|| panic!("{what}"));
            }
            Err(error) => panic!("{error}"),
        };
        if call.wrong(&inputs, at, &got).is_some() {
            return WRONG;
        }
        let (_, counters) = emulator.take_launches().pop().unwrap();
        if counters.bank_conflicts > 0 {
            return BANKS;
        }
        let (out, lse) = call.stored_bytes();
        let bytes = (counters.global_load.bytes, counters.global_store.bytes);
        if bytes != (call.loaded_bytes(), out + lse) {
            return BYTES;
        }
    }
    "not caught"
}

#[test]
fn the_kernel_as_it_is_passes() {
    assert_eq!(outcome(PTX.to_owned()), "not caught");
}

#[test]
fn every_mutation_has_the_outcome_it_is_known_for() {
    let mut differ = String::new();
    for &Mutation { what, edits, outcome: expected } in MUTATIONS {
        let got = outcome(edits.iter().fold(PTX.to_owned(), |text, edit| edited(&text, edit)));
        if !expected.starts_with(got) {
            differ += &format!("{what}: {got}, expected {expected}\n");
        }
    }
    assert!(differ.is_empty(), "{differ}");
    let caught = MUTATIONS.iter().filter(|m| !m.outcome.starts_with("not caught")).count();
    assert!(caught >= 8 && MUTATIONS.len() - caught <= 2, "{caught} of {}", MUTATIONS.len());
}

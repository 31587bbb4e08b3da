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
use farthing_kernels::reference::Reference;
use farthing_kernels::{AttentionShape, Error, Place, Result};

const FORWARD: &str = include_str!("../ptx/sm80/attention.ptx");
const BACKWARD: &str = include_str!("../ptx/sm80/attention_backward.ptx");

const F: &str = "attention_64";
const Q: &str = "attention_queries_64";
const K: &str = "attention_keys_64";

/// The `nth` (from 0) instruction of the kernel with this opcode whose last operand ends so becomes `to`, where {0}, {1}, … are its
/// operands.
struct Edit(&'static str, &'static str, usize, &'static str);

struct Mutation {
    kernel: &'static str,
    what: &'static str,
    edits: &'static [Edit],
    outcome: &'static str,
}

const fn m(
    kernel: &'static str,
    what: &'static str,
    edits: &'static [Edit],
    outcome: &'static str,
) -> Mutation {
    Mutation { kernel, what, edits, outcome }
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
    m(F, "queries are not waited for", &[Edit("cp.async.wait_group", "1", 0, "")], IN_FLIGHT),
    m(
        F,
        "a tile's wait leaves one group in flight",
        &[Edit("cp.async.wait_group", "0", 0, "cp.async.wait_group 1;")],
        IN_FLIGHT,
    ),
    m(
        F,
        "queries' copies are not committed",
        &[Edit("cp.async.commit_group", "", 0, "")],
        IN_FLIGHT,
    ),
    m(
        F,
        "the next tile's copies are not committed",
        &[Edit("cp.async.commit_group", "", 2, "")],
        IN_FLIGHT,
    ),
    // Barriers.
    m(
        F,
        "no barrier between the queries' wait and their use",
        &[Edit("bar.sync", "0", 0, "")],
        UNWRITTEN,
    ),
    m(
        F,
        "no barrier between a tile's wait and its use",
        &[Edit("bar.sync", "0", 1, "")],
        IN_FLIGHT,
    ),
    m(
        F,
        "no barrier between results' way into shared memory and out",
        &[Edit("bar.warp.sync", "-1", 0, "")],
        "not caught: the lanes of a warp run in step here",
    ),
    // Stages.
    m(
        F,
        "the next tile goes where this one is",
        &[Edit("shl.b32", "14", 0, "shl.b32 {0}, {1}, 13;")],
        IN_FLIGHT,
    ),
    m(F, "results go where the last tile is", &[Edit("not.b32", "", 1, "mov.b32 {0}, {1};")], RACE),
    // Swizzles.
    m(F, "queries are copied without one", &[Edit("xor.b32", "", 0, "mov.b32 {0}, {2};")], WRONG),
    m(F, "keys are read without one", &[Edit("xor.b32", "", 5, "mov.b32 {0}, {2};")], WRONG),
    m(F, "values are read without one", &[Edit("xor.b32", "", 9, "mov.b32 {0}, {1};")], WRONG),
    m(
        F,
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
        F,
        "a column's diagonal is masked",
        &[Edit("setp.gt.s32", "", 12, "setp.ge.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        F,
        "a column's window is one key short",
        &[Edit("setp.lt.s32", "", 12, "setp.le.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        F,
        "a tile with one key outside is not masked",
        &[Edit("mov.u32", "63", 0, "mov.u32 {0}, 62;")],
        WRONG,
    ),
    m(
        F,
        "the diagonal's tile is not masked",
        &[Edit("setp.ne.s32", "0", 0, "setp.ge.s32 {0}, {1}, 0;")],
        WRONG,
    ),
    m(
        F,
        "every tile is masked",
        &[Edit("setp.ne.s32", "0", 0, "setp.lt.s32 {0}, {1}, 0;")],
        "not caught: the result is the same, only instructions are lost",
    ),
    // Bounds.
    m(
        F,
        "a tile of which the window reaches one key is left out",
        &[Edit("add.s32", "63", 1, "add.s32 {0}, {1}, 62;")],
        WRONG,
    ),
    m(F, "one tile too many", &[Edit("add.s32", "63", 1, "add.s32 {0}, {1}, 127;")], BYTES),
    m(
        F,
        "queries beyond the last are read",
        &[Edit("setp.lt.s32", "", 3, "setp.ne.s32 {0}, {1}, -1;")],
        BOUNDS,
    ),
    m(
        F,
        "keys before the first are read",
        &[Edit("setp.gt.s32", "-1", 2, "setp.ne.s32 {0}, {1}, 1000000;")],
        BOUNDS,
    ),
    m(
        F,
        "keys that are not there are read",
        &[Edit("selp.b32", "%p15", 0, "mov.b32 {0}, 16;")],
        BYTES,
    ),
    m(
        F,
        "an lse beyond the last query is written",
        &[Edit("setp.ge.s32", "", 1, "setp.lt.s32 {0}, {1}, 0;")],
        RACE,
    ),
    m(
        F,
        "a result beyond the last query is written",
        &[Edit("setp.ge.s32", "", 3, "setp.lt.s32 {0}, {1}, 0;")],
        BOUNDS,
    ),
    // Initial values and the softmax.
    m(
        F,
        "the maximum starts at 0",
        &[Edit("mov.f32", "0fFF800000", 0, "mov.f32 {0}, 0f00000000;")],
        WRONG,
    ),
    m(
        F,
        "the maximum is not subtracted",
        &[Edit("neg.f32", "", 0, "mov.f32 {0}, 0f00000000;")],
        WRONG,
    ),
    m(
        F,
        "sums are not rescaled when the maximum grows",
        &[Edit("ex2.approx.ftz.f32", "", 0, "mov.f32 {0}, 0f3F800000;")],
        WRONG,
    ),
    m(
        F,
        "the maximum is over half of a row's lanes",
        &[Edit("shfl.sync.bfly.b32", "", 0, "mov.b32 {0}, {1};")],
        WRONG,
    ),
    m(
        F,
        "the sum is over half of a row's lanes",
        &[Edit("shfl.sync.bfly.b32", "", 4, "mov.b32 {0}, {1};")],
        WRONG,
    ),
    // Indices.
    m(
        F,
        "every query head has keys of its own",
        &[Edit("div.s32", "", 1, "mov.b32 {0}, {1};")],
        BOUNDS,
    ),
    m(F, "queries are the first positions", &[Edit("sub.s32", "", 2, "mov.b32 {0}, 0;")], WRONG),
    // The gradient by queries.
    m(Q, "queries are not waited for", &[Edit("cp.async.wait_group", "1", 0, "")], IN_FLIGHT),
    m(
        Q,
        "a tile's wait leaves one group in flight",
        &[Edit("cp.async.wait_group", "0", 0, "cp.async.wait_group 1;")],
        IN_FLIGHT,
    ),
    m(
        Q,
        "no barrier between the queries' wait and their use",
        &[Edit("bar.sync", "0", 0, "")],
        UNWRITTEN,
    ),
    m(
        Q,
        "no barrier between a tile's wait and its use",
        &[Edit("bar.sync", "0", 1, "")],
        IN_FLIGHT,
    ),
    m(
        Q,
        "a column's diagonal is masked",
        &[Edit("setp.gt.s32", "", 8, "setp.ge.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        Q,
        "a column's window is one key short",
        &[Edit("setp.lt.s32", "", 8, "setp.le.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        Q,
        "a tile with one key outside is not masked",
        &[Edit("mov.u32", "63", 0, "mov.u32 {0}, 62;")],
        WRONG,
    ),
    m(
        Q,
        "a tile of which the window reaches one key is left out",
        &[Edit("add.s32", "63", 1, "add.s32 {0}, {1}, 62;")],
        WRONG,
    ),
    m(
        Q,
        "statistics beyond the last query are read",
        &[Edit("setp.ge.s32", "", 0, "setp.lt.s32 {0}, {1}, 0;")],
        BOUNDS,
    ),
    m(Q, "delta is not subtracted", &[Edit("sub.f32", "", 0, "mov.f32 {0}, {1};")], WRONG),
    m(
        Q,
        "a row's lse is not in powers of two",
        &[Edit("mul.f32", "0f3FB8AA3B", 0, "mov.f32 {0}, {1};")],
        WRONG,
    ),
    // The gradients by keys and values.
    m(
        K,
        "a tile's wait leaves one group in flight",
        &[Edit("cp.async.wait_group", "0", 0, "cp.async.wait_group 1;")],
        IN_FLIGHT,
    ),
    m(K, "keys' copies are not committed", &[Edit("cp.async.commit_group", "", 0, "")], IN_FLIGHT),
    m(
        K,
        "the next tile's copies are not committed",
        &[Edit("cp.async.commit_group", "", 1, "")],
        IN_FLIGHT,
    ),
    m(
        K,
        "no barrier between a tile's wait and its use",
        &[Edit("bar.sync", "0", 0, "")],
        UNWRITTEN,
    ),
    m(
        K,
        "the next tile goes where this one is",
        &[Edit("mul.lo.s32", "16896", 0, "mov.u32 {0}, 0;")],
        IN_FLIGHT,
    ),
    m(K, "keys are read without a swizzle", &[Edit("xor.b32", "", 1, "mov.b32 {0}, {1};")], WRONG),
    m(
        K,
        "a column's diagonal is masked",
        &[Edit("setp.gt.s32", "", 10, "setp.ge.s32 {0}, {1}, {2};")],
        WRONG,
    ),
    m(
        K,
        "a tile with one query outside is not masked",
        &[Edit("mov.u32", "63", 0, "mov.u32 {0}, 62;")],
        WRONG,
    ),
    m(
        K,
        "a tile of which one query sees a key is left out",
        &[Edit("add.s32", "63", 1, "add.s32 {0}, {1}, 62;")],
        IN_FLIGHT,
    ),
    m(
        K,
        "the last query that sees a key is left out",
        &[Edit("add.s32", "64", 0, "add.s32 {0}, {1}, 63;")],
        WRONG,
    ),
    m(
        K,
        "statistics beyond the last query are read",
        &[Edit("selp.b32", "%p15", 1, "mov.b32 {0}, 4;")],
        BYTES,
    ),
    m(K, "the group's first head alone", &[Edit("div.u32", "", 2, "mov.b32 {0}, 0;")], WRONG),
    m(K, "delta is not subtracted", &[Edit("sub.f32", "", 0, "mov.f32 {0}, {1};")], WRONG),
    m(
        K,
        "no barrier between results' way into shared memory and out",
        &[Edit("bar.warp.sync", "-1", 1, "")],
        "not caught: the lanes of a warp run in step here",
    ),
];

/// The emulator, with a module of its own in place of one of attention's.
struct Mutant {
    emulator: Arc<Emulator>,
    original: &'static str,
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
        let mutated = kernel.module.name == self.original;
        let module = if mutated { self.module } else { kernel.module };
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
fn edited(kernel: &str, text: &str, &Edit(opcode, tail, nth, to): &Edit) -> String {
    let mut inside = false;
    let mut seen = 0;
    let lines = text.lines().map(|line| {
        if line.contains(".entry ") {
            inside = line.contains(&format!(".entry {kernel}("));
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
    assert!(seen > nth, "{kernel} has {seen} of {opcode} … {tail}, not {nth}");
    text
}

/// Calls with which every branch decides something: windows that end at and beside the edge of a tile, queries after a cache, grouped
/// heads, scores that exp cannot hold, also below 0 alone.
const FORWARD_CALLS: [(Call, Option<f64>); 5] = [
    (call((2, 70, 81), (2, 1, 64), 65), None),
    (call((1, 130, 130), (2, 2, 64), 126), None),
    (call((1, 65, 129), (1, 1, 64), 63), None),
    (call((1, 200, 200), (1, 1, 64), 150), Some(8.0)),
    (call((1, 70, 70), (1, 1, 64), 0), Some(8.0)),
];

/// As FORWARD_CALLS; a small scale spreads a row's probability evenly, so that one key too many shows.
const BACKWARD_CALLS: [(Call, Option<f64>); 4] = [
    (call((2, 70, 70), (2, 1, 64), 65), None),
    (call((1, 192, 192), (2, 2, 64), 126), Some(0.01)),
    (call((1, 65, 65), (1, 1, 64), 64), None),
    (call((1, 129, 129), (1, 1, 64), 1), None),
];

/// A device whose forward or backward module is this text.
fn device(original: &'static str, ptx: &'static str) -> (Arc<Emulator>, Cuda) {
    let emulator = Arc::new(Emulator::new());
    let module = Box::leak(Box::new(Module { name: "mutated", ptx }));
    let mutant = Arc::new(Mutant { emulator: emulator.clone(), original, module });
    let gemm = HostGemm::new(mutant.clone()).unwrap();
    (emulator, Cuda::new(mutant, Box::new(gemm)).unwrap())
}

/// What a failed launch is called.
fn fault(error: &Error) -> &'static str {
    let text = error.to_string();
    [
        ("in flight", IN_FLIGHT),
        ("data race", RACE),
        ("out of bounds", BOUNDS),
        ("before anything was written", UNWRITTEN),
    ]
    .into_iter()
    .find_map(|(words, outcome)| text.contains(words).then_some(outcome))
    .unwrap_or_else(|| panic!("{text}"))
}

fn forward_outcome(ptx: &'static str) -> &'static str {
    for (call, scale) in FORWARD_CALLS {
        let (emulator, dev) = device("attention", ptx);
        let inputs = call.inputs();
        let inputs = if scale.is_some() { inputs.rounded() } else { inputs };
        let at = AttentionShape { scale: scale.unwrap_or(call.shape().scale), ..call.shape() };
        let got = match call.run(&dev, &inputs, at) {
            Ok(got) => got,
            Err(error) => return fault(&error),
        };
        if call.wrong(&inputs, at, &got).is_some() {
            return WRONG;
        }
        let (name, counters) = emulator.take_launches().pop().unwrap();
        assert_eq!(name, F);
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

fn backward_outcome(ptx: &'static str) -> &'static str {
    for (call, scale) in BACKWARD_CALLS {
        let (emulator, dev) = device("attention_backward", ptx);
        let inputs = call.inputs();
        let at = AttentionShape { scale: scale.unwrap_or(call.shape().scale), ..call.shape() };
        let saved = call.saved(&inputs, at);
        let got = match call.gradients(&dev, &inputs, &saved, at) {
            Ok(got) => got,
            Err(error) => return fault(&error),
        };
        let expected = call.gradients(&Reference::new(), &inputs, &saved, at).unwrap();
        if call.wrong_gradients(&expected, &got).is_some() {
            return WRONG;
        }
        let launches = emulator.take_launches();
        let [_, (queries, q), (keys, k)] = &launches[..] else { panic!("three launches") };
        assert_eq!((*queries, *keys), (Q, K));
        if q.bank_conflicts + k.bank_conflicts > 0 {
            return BANKS;
        }
        if (q.global_load.bytes, k.global_load.bytes) != call.loaded_backward_bytes() {
            return BYTES;
        }
    }
    "not caught"
}

fn outcome(kernel: &str, edits: &[Edit]) -> &'static str {
    let original = if kernel == F { FORWARD } else { BACKWARD };
    let text = edits.iter().fold(original.to_owned(), |text, edit| edited(kernel, &text, edit));
    if kernel == F { forward_outcome(text.leak()) } else { backward_outcome(text.leak()) }
}

#[test]
fn the_kernels_as_they_are_pass() {
    for kernel in [F, Q] {
        assert_eq!(outcome(kernel, &[]), "not caught");
    }
}

#[test]
fn every_mutation_has_the_outcome_it_is_known_for() {
    let mut differ = String::new();
    for &Mutation { kernel, what, edits, outcome: expected } in MUTATIONS {
        let got = outcome(kernel, edits);
        if !expected.starts_with(got) {
            differ += &format!("{kernel}: {what}: {got}, expected {expected}\n");
        }
    }
    assert!(differ.is_empty(), "{differ}");
    let caught = MUTATIONS.iter().filter(|m| !m.outcome.starts_with("not caught")).count();
    assert!(MUTATIONS.len() - caught <= 3, "{caught} of {} are caught", MUTATIONS.len());
}

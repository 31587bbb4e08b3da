//! What the tests of the pointwise kernels see: mutations of the PTX that ships, one at a time, each run as its kernel's tests run it,
//! through the launch code. Caught is what ends in a fault of the emulator, in a result that the reference refuses, or in memory
//! touched that is not the operation's.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]
#![allow(clippy::print_stderr, reason = "the table is for who reads the test's output")]

use crate::placed;

use std::sync::Arc;

use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::driver::{Arg, Driver, Kernel, Module};
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::cuda::gemm::HostGemm;
use farthing_kernels::{Device, Result};
use placed::Failure;
use placed::bodies::{self, Body};

/// One change to one kernel.
struct Mutation {
    kernel: &'static str,
    kind: &'static str,
    what: &'static str,
    /// The text, which of its occurrences in the kernel (from 0), and what comes instead.
    from: &'static str,
    nth: usize,
    to: &'static str,
    outcome: &'static str,
    /// For those that are not caught.
    why: &'static str,
}

const fn m(
    [kernel, kind, what]: [&'static str; 3],
    (from, nth, to): (&'static str, usize, &'static str),
    outcome: &'static str,
) -> Mutation {
    Mutation { kernel, kind, what, from, nth, to, outcome, why: "" }
}

const fn missed(
    what: [&'static str; 3],
    change: (&'static str, usize, &'static str),
    why: &'static str,
) -> Mutation {
    Mutation { why, ..m(what, change, "not caught") }
}

const ROW: &str = "rms_norm_warp";
const LONG: &str = "rms_norm_block";
const MIX: &str = "mix_backward";
const SHARES: &str = "add_partials";
const RELU: &str = "relu2";
const ADAM: &str = "adamw";
const EMBED: &str = "embed";
const EMBEDS: &str = "embed_backward";
const HEADS: &str = "embed_backward_heads";
const SMEAR: &str = "smear_backward";
const PRODUCT: &str = "product_bf16";

const MUTATIONS: &[Mutation] = &[
    m(
        [LONG, "barrier", "none before the warps' sums are read"],
        ("bar.sync 	0;", 0, ""),
        "uninitialised read",
    ),
    m(
        [LONG, "barrier", "the same, element by element"],
        ("bar.sync 	0;", 1, ""),
        "uninitialised read",
    ),
    m(
        [LONG, "initialisation", "the warps' sums are not stored"],
        ("st.shared.f32 	[%r3], %f12;", 0, ""),
        "uninitialised read",
    ),
    m(
        [LONG, "index", "the warps' sums are 8 bytes apart"],
        ("shr.u32 	%r21, %r1, 3;", 0, "shr.u32 %r21, %r1, 2;"),
        "out of bounds",
    ),
    m(
        [LONG, "bound", "a sum more than there are warps"],
        ("setp.gt.u32 	%p22, %r4, 7;", 0, "setp.gt.u32 %p22, %r4, 8;"),
        "out of bounds",
    ),
    m(
        [LONG, "bound", "a piece more where a row goes beyond the registers"],
        ("setp.lt.s32 	%p15, %r226, %r17;", 0, "setp.le.s32 %p15, %r226, %r17;"),
        "out of bounds",
    ),
    m(
        [LONG, "tail", "beyond the registers, the sum skips every other piece"],
        ("add.s32 	%r226, %r226, 2048;", 0, "add.s32 %r226, %r226, 4096;"),
        "wrong result",
    ),
    m(
        [LONG, "shuffle", "a step of the butterfly twice"],
        ("mov.u32 	%r94, 16;", 0, "mov.u32 %r94, 8;"),
        "wrong result",
    ),
    m(
        [LONG, "shuffle", "a mask of half the warp"],
        ("mov.u32 	%r95, -1;", 0, "mov.u32 %r95, 65535;"),
        "part of a warp",
    ),
    missed(
        [LONG, "race", "a warp of threads store rstd, not one thread"],
        ("setp.ne.s32 	%p50, %r220, 0;", 0, "setp.ge.s32 %p50, %r220, 32;"),
        "every thread of the block has the same bits, so that it does not matter which of them store",
    ),
    m(
        [ROW, "barrier", "none before a block's rstd are gathered"],
        ("bar.sync 	0;", 0, ""),
        "uninitialised read",
    ),
    m(
        [ROW, "bound", "a row more than there are"],
        ("setp.lt.s64 	%p4, %rd2, %rd28;", 0, "setp.le.s64 %p4, %rd2, %rd28;"),
        "out of bounds",
    ),
    m(
        [ROW, "bound", "an rstd more than there are rows"],
        ("setp.ge.s64 	%p50, %rd24, %rd71;", 0, "setp.gt.s64 %p50, %rd24, %rd71;"),
        "out of bounds",
    ),
    m(
        [ROW, "constant", "no epsilon"],
        ("mov.f32 	%f192, 0f34000000;", 0, "mov.f32 %f192, 0f00000000;"),
        "wrong result",
    ),
    m(
        [MIX, "race", "blocks stride by one block"],
        ("mul.lo.s64 	%rd9, %rd47, %rd7;", 0, "mov.u64 %rd9, %rd7;"),
        "data race",
    ),
    m(
        [MIX, "tail", "what is left of eight is skipped"],
        ("@%p11 bra 	$L__BB1_24;", 0, "bra $L__BB1_24;"),
        "wrong result",
    ),
    m(
        [MIX, "index", "the second sum's shares on top of the first's"],
        ("add.s32 	%r140, %r139, %r3;", 0, "mov.u32 %r140, %r3;"),
        "wrong result",
    ),
    m([MIX, "barrier", "none in the second sum"], ("bar.sync 	0;", 1, ""), "uninitialised read"),
    m(
        [MIX, "bound", "y's alignment is not looked at"],
        ("setp.ne.s64 	%p6, %rd41, 0;", 0, "setp.ne.s64 %p6, 0, 0;"),
        "misaligned",
    ),
    m(
        [SHARES, "bound", "a share more than there are"],
        ("setp.ge.s32 	%p3, %r7, %r6;", 0, "setp.gt.s32 %p3, %r7, %r6;"),
        "wrong result",
    ),
    m(
        [SHARES, "initialisation", "threads without a share start with anything"],
        ("mov.f32 	%f36, 0f00000000;", 0, ""),
        "wrong result",
    ),
    m(
        [SHARES, "race", "two threads add the sum"],
        ("setp.ne.s32 	%p17, %r7, 0;", 0, "and.b32 %r7, %r7, 191; setp.ne.s32 %p17, %r7, 0;"),
        "wrong result",
    ),
    m(
        [RELU, "bound", "an element more than there are"],
        ("setp.ge.s64 	%p5, %rd37, %rd15;", 0, "setp.gt.s64 %p5, %rd37, %rd15;"),
        "out of bounds",
    ),
    m(
        [RELU, "bound", "x's alignment is not looked at"],
        ("setp.ne.s64 	%p2, %rd20, 0;", 0, "setp.ne.s64 %p2, 0, 0;"),
        "misaligned",
    ),
    m(
        [RELU, "tail", "it starts at twice its place"],
        ("shl.b64 	%rd30, %rd35, 3;", 0, "shl.b64 %rd30, %rd35, 4;"),
        "wrong result",
    ),
    m(
        [ADAM, "index", "pieces are 32 bytes apart"],
        ("shl.b64 	%rd61, %rd8, 4;", 0, "shl.b64 %rd61, %rd8, 5;"),
        "out of bounds",
    ),
    m(
        [ADAM, "constant", "no eps"],
        ("fma.rn.f32 	%f46, %f45, %f7, %f8;", 0, "mul.f32 %f46, %f45, %f7;"),
        "wrong result",
    ),
    m(
        [EMBED, "bound", "an id more than there are"],
        ("setp.ge.s32 	%p5, %r1, %r2;", 0, "setp.gt.s32 %p5, %r1, %r2;"),
        "out of bounds",
    ),
    m(
        [EMBED, "bound", "always eight rows"],
        ("min.s64 	%rd25, %rd24, 8;", 0, "mov.u64 %rd25, 8;"),
        "out of bounds",
    ),
    m(
        [EMBEDS, "bound", "no run goes on behind a warp's places"],
        ("setp.eq.s32 	%p32, %r21, %r151;", 0, "setp.eq.s32 %p32, %r21, -2;"),
        "wrong result",
    ),
    m(
        [EMBEDS, "initialisation", "the table's own values are not read"],
        ("@%p33 bra 	$L__BB1_17;", 0, "bra $L__BB1_17;"),
        "wrong result",
    ),
    m(
        [EMBEDS, "bound", "a place before the first is looked up"],
        ("or.pred  	%p19, %p17, %p18;", 0, "mov.pred %p19, %p18;"),
        "out of bounds",
    ),
    m(
        [EMBEDS, "barrier", "none before other warps' heads are read"],
        ("bar.sync 	0;", 0, ""),
        "uninitialised read",
    ),
    m(
        [HEADS, "bound", "a run takes its heads in each piece that it crosses"],
        ("@%p21 bra 	$L__BB2_68;", 0, ""),
        "data race",
    ),
    m(
        [HEADS, "bound", "the last head is left out"],
        ("setp.gt.s32 	%p29, %r205, %r19;", 0, "setp.ge.s32 %p29, %r205, %r19;"),
        "wrong result",
    ),
    m(
        [HEADS, "barrier", "none before the warps' sums are added"],
        ("bar.sync 	0;", 0, ""),
        "uninitialised read",
    ),
    missed(
        [SMEAR, "barrier", "no `__syncwarp` before the logits' gradients are read"],
        ("bar.warp.sync 	-1;", 0, ""),
        "lanes of a warp run in step here",
    ),
    m(
        [SMEAR, "barrier", "none before the warps' sums are added"],
        ("bar.sync 	0;", 0, ""),
        "uninitialised read",
    ),
    m(
        [SMEAR, "barrier", "none before the warps' sums are written anew"],
        ("bar.sync 	0;", 1, ""),
        "data race",
    ),
    m(
        [SMEAR, "bound", "a sequence's first position reads the one before it"],
        ("setp.lt.s32 	%p7, %r9, 1;", 0, "setp.lt.s32 %p7, %r9, 0;"),
        "out of bounds",
    ),
    m(
        [SMEAR, "initialisation", "a block's sums start anew with each of its parts"],
        ("setp.eq.s32 	%p57, %r221, %r184;", 0, "setp.eq.s32 %p57, 0, 0;"),
        "wrong result",
    ),
    m(
        [PRODUCT, "barrier", "none before the tiles are read"],
        ("bar.sync 	0;", 0, ""),
        "uninitialised read",
    ),
    m(
        [PRODUCT, "barrier", "none before the tiles are filled again"],
        ("bar.sync 	0;", 1, ""),
        "data race",
    ),
    m(
        [PRODUCT, "bound", "a row more than there are"],
        ("setp.lt.s32 	%p60, %r23, %r29;", 0, "setp.le.s32 %p60, %r23, %r29;"),
        "out of bounds",
    ),
    m(
        [PRODUCT, "index", "the other half's columns are the first half's"],
        ("ld.shared.f32 	%f112, [%r250+64];", 0, "ld.shared.f32 %f112, [%r250];"),
        "wrong result",
    ),
    m(
        [PRODUCT, "tail", "terms that are left of four are skipped"],
        ("@%p56 bra 	$L__BB0_48;", 0, "bra $L__BB0_48;"),
        "wrong result",
    ),
    m(
        [PRODUCT, "initialisation", "what is added to is not read"],
        ("setp.eq.s32 	%p62, %r34, 0;", 0, "setp.eq.s32 %p62, 0, 0;"),
        "wrong result",
    ),
];

const MODULES: [(&str, &str); 6] = [
    ("norm", include_str!("../ptx/sm80/norm.ptx")),
    ("pointwise", include_str!("../ptx/sm80/pointwise.ptx")),
    ("update", include_str!("../ptx/sm80/update.ptx")),
    ("embedding", include_str!("../ptx/sm80/embedding.ptx")),
    ("smear", include_str!("../ptx/sm80/smear.ptx")),
    ("product", include_str!("../ptx/sm80/product.ptx")),
];

const BODIES: [(&str, Body); 11] = [
    (ROW, bodies::rms_norm),
    (LONG, bodies::rms_norm),
    (MIX, bodies::mix_backward),
    (SHARES, bodies::mix_backward),
    (RELU, bodies::relu2),
    (ADAM, bodies::adamw),
    (EMBED, bodies::embed),
    (EMBEDS, bodies::embed_backward),
    (HEADS, bodies::embed_backward),
    (SMEAR, bodies::smear_backward),
    (PRODUCT, bodies::product),
];

impl Mutation {
    /// The module's name and the text of it with the change made.
    fn made(&self) -> (&'static str, String) {
        let entry = format!(".visible .entry {}(", self.kernel);
        let find = |&&(_, ptx): &&(&str, &'static str)| ptx.contains(&entry);
        let &(module, ptx) = MODULES.iter().find(find).unwrap();
        let start = ptx.find(&entry).unwrap();
        let end = start + ptx[start..].find("\n}").unwrap();
        let (from, nth, kernel) = (self.from, self.nth, self.kernel);
        let found = ptx[start..end].match_indices(from).nth(nth);
        let at = start
            + found
                .unwrap_or_else(|| {
                    panic!("{kernel} has no `{from}` number {nth}: the PTX is new, this is not")
                })
                .0;
        (module, format!("{}{}{}", &ptx[..at], self.to, &ptx[at + from.len()..]))
    }

    /// What becomes of it, in a few words.
    fn run(&self) -> &'static str {
        let (name, ptx) = self.made();
        let ptx: &'static str = Box::leak(ptx.into_boxed_str());
        let module: &'static Module = Box::leak(Box::new(Module { name, ptx }));
        let machine = Arc::new(Mutant { emulator: Emulator::new(), module });
        let gemm = HostGemm::new(machine.clone()).unwrap();
        let cuda = Cuda::new(machine, Box::new(gemm)).unwrap();
        let (_, body) = BODIES.iter().find(|(kernel, _)| *kernel == self.kernel).unwrap();
        match body(&cuda as &dyn Device) {
            Ok(()) => "not caught",
            Err(Failure::Differs(_)) => "wrong result",
            Err(Failure::Touched(_)) => "memory around touched",
            Err(Failure::Refused(e)) => fault(&e.to_string()),
        }
    }
}

/// A fault of the emulator, by what its message says.
fn fault(message: &str) -> &'static str {
    let known = [
        ("data race", "data race"),
        ("before anything was written", "uninitialised read"),
        ("out of bounds", "out of bounds"),
        ("is not aligned", "misaligned"),
        ("deadlock", "deadlock"),
        ("which its mask", "part of a warp"),
    ];
    let fault = known.iter().find(|(says, _)| message.contains(says));
    fault.unwrap_or_else(|| panic!("neither a fault nor a result: {message}")).1
}

/// The emulator, with another text for one module.
struct Mutant {
    emulator: Emulator,
    module: &'static Module,
}

impl Driver for Mutant {
    delegate!(emulator: name, place, properties, alloc, free, write, read, copy, zero, synchronize, record, elapsed_s);
    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        if kernel.module.name != self.module.name {
            return self.emulator.launch(kernel, blocks, args);
        }
        let &Kernel { name, threads, shared_bytes, .. } = kernel;
        let kernel = Box::new(Kernel { module: self.module, name, threads, shared_bytes });
        self.emulator.launch(Box::leak(kernel), blocks, args)
    }
}

#[test]
fn mutations_end_as_the_table_says() {
    let mut wrong = Vec::new();
    let mut caught = 0;
    eprintln!("| # | kernel | kind | mutation | outcome |\n| --- | --- | --- | --- | --- |");
    for (i, mutation) in MUTATIONS.iter().enumerate() {
        let Mutation { kernel, kind, what, outcome, why, .. } = mutation;
        let got = mutation.run();
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        eprintln!("| {} | `{kernel}` | {kind} | {what} | {got}{why} |", i + 1);
        caught += usize::from(got != "not caught");
        if got != *outcome {
            wrong.push(format!("{kernel}, {what}: {got}, expected {outcome}"));
        }
    }
    eprintln!("{caught} of {} are caught", MUTATIONS.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The table means something only if the kernels as they are pass where their mutations fail.
#[test]
fn nothing_is_caught_in_the_kernels_as_they_are() {
    for (kernel, body) in BODIES {
        if let Err(failure) = body(&Cuda::emulated().unwrap()) {
            panic!("{kernel}: {failure}");
        }
    }
}

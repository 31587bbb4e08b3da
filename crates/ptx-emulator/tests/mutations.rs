//! How much the emulator sees: mutations of real kernels, one at a time, each as a test of the kernel would run it.
//! Caught is what ends in a fault or in a result that the reference refuses. The table is `MUTATIONS.md`.

use crate::common;
use common::matrix::{Attention, gemm};
use common::{Numbers, relative, text, wide};
use ptx_emulator::{Arg, Error, FaultKind, Memory, Module, Options};

#[derive(Clone, Copy)]
struct Mutation {
    kernel: &'static str,
    kind: &'static str,
    what: &'static str,
    from: &'static str,
    /// Which occurrence in the kernel, from 0.
    nth: usize,
    to: &'static str,
    /// For those that are not caught.
    why: &'static str,
}

const fn m(
    kernel: &'static str,
    kind: &'static str,
    what: &'static str,
    from: &'static str,
    nth: usize,
    to: &'static str,
) -> Mutation {
    Mutation { kernel, kind, what, from, nth, to, why: "" }
}

const fn missed(m: Mutation, why: &'static str) -> Mutation {
    Mutation { why, ..m }
}

const A: &str = "attention_64";
const E: &str = "scaled_relu2";
const G: &str = "gemm_ring";
const N: &str = "rmsnorm_block";

const MUTATIONS: &[Mutation] = &[
    m(N, "barrier", "none before the partial sums are read", "bar.sync 	0;", 0, ""),
    m(N, "barrier", "none before the scale is read", "bar.sync 	0;", 1, ""),
    m(
        N,
        "barrier",
        "one inside of `if (threadIdx.x == 0)`",
        "ld.shared.f32 	%f109",
        0,
        "bar.sync 0; ld.shared.f32 %f109",
    ),
    m(N, "initialisation", "the partial sums are not stored", "st.shared.f32 	[%r90], %f8;", 0, ""),
    m(
        N,
        "index",
        "partial sums eight bytes apart",
        "shr.u32 	%r87, %r161, 3;",
        0,
        "shr.u32 %r87, %r161, 2;",
    ),
    m(
        N,
        "index",
        "a chunk is 8 bytes instead of 16",
        "shl.b64 	%rd29, %rd28, 4;",
        0,
        "shl.b64 %rd29, %rd28, 3;",
    ),
    m(
        N,
        "bound",
        "one chunk more in each row",
        "setp.ge.s32 	%p1, %r161, %r2;",
        0,
        "setp.gt.s32 %p1, %r161, %r2;",
    ),
    m(
        N,
        "race",
        "two warps write the scale",
        "setp.ne.s32 	%p12, %r161, 0;",
        0,
        "setp.ge.s32 %p12, %r161, 64;",
    ),
    m(N, "index", "a step of the butterfly twice", "mov.u32 	%r71, 16;", 0, "mov.u32 %r71, 8;"),
    m(E, "bound", "`i > n` for `i >= n` at the start", "setp.ge.s32 	%p1", 0, "setp.gt.s32 %p1"),
    m(E, "bound", "`i <= n` for `i < n` in the loop", "setp.lt.s32 	%p2", 0, "setp.le.s32 %p2"),
    m(
        E,
        "index",
        "elements eight bytes apart",
        "mul.wide.s32 	%rd5, %r10, 4;",
        0,
        "mul.wide.s32 %rd5, %r10, 8;",
    ),
    m(
        E,
        "race",
        "blocks stride by one block: elements are updated twice",
        "mul.lo.s32 	%r3, %r9, %r1;",
        0,
        "mov.u32 %r3, %r1;",
    ),
    m(A, "wait", "none for Q and K", "cp.async.wait_group 1;", 0, ""),
    m(
        A,
        "wait",
        "V's leaves one group more in flight",
        "cp.async.wait_group 1;",
        1,
        "cp.async.wait_group 2;",
    ),
    m(A, "wait", "K's copies are not committed", "cp.async.commit_group;", 1, ""),
    m(A, "barrier", "none between K's wait and its use", "bar.sync 	0;", 0, ""),
    m(A, "barrier", "none before K is fetched anew", "bar.sync 	0;", 1, ""),
    m(A, "barrier", "none between V's wait and its use", "bar.sync 	0;", 2, ""),
    m(A, "barrier", "none before V is fetched anew", "bar.sync 	0;", 3, ""),
    m(
        A,
        "swizzle",
        "Q is read without it",
        "xor.b32  	%r473, %r472, %r470;",
        0,
        "mov.u32 %r473, %r472;",
    ),
    m(
        A,
        "swizzle",
        "a quarter of Q is written without it",
        "xor.b32  	%r152, %r149, %r151;",
        0,
        "mov.u32 %r152, %r151;",
    ),
    m(
        A,
        "bound",
        "the diagonal is masked in one column",
        "setp.le.s32 	%p29, %r1190, %r1200;",
        0,
        "setp.lt.s32 %p29, %r1190, %r1200;",
    ),
    m(
        A,
        "bound",
        "rows of Q beyond the end are fetched",
        "min.s32 	%r147, %r146, %r3;",
        0,
        "mov.u32 %r147, %r146;",
    ),
    m(
        A,
        "initialisation",
        "the running maximum starts with anything",
        "mov.f32 	%f983, 0fFF800000;",
        0,
        "",
    ),
    m(G, "wait", "the products do not wait for their tiles", "@!done bra again;", 5, ""),
    m(G, "wait", "a tile is fetched into a stage in use", "@!done bra again;", 3, ""),
    m(
        G,
        "wait",
        "fewer bytes expected than come",
        "mov.u32 	%r272, 24576;",
        0,
        "mov.u32 %r272, 16384;",
    ),
    m(
        G,
        "wait",
        "always for the first phase's parity",
        "and.b32  	%r47, %r52, 1;",
        0,
        "and.b32 %r47, %r52, 0;",
    ),
    m(
        G,
        "wait",
        "a stage is never handed back",
        "mbarrier.arrive.shared::cta.b64 _, [%r88];",
        0,
        "",
    ),
    m(
        G,
        "wait",
        "wgmma's leaves one group in flight",
        "wgmma.wait_group.sync.aligned 0;",
        0,
        "wgmma.wait_group.sync.aligned 1;",
    ),
    m(G, "barrier", "none after the mbarriers are made", "bar.sync 	0;", 0, ""),
    m(G, "barrier", "a stage is handed back by the first warp alone", "bar.sync 1, 128;", 0, ""),
    m(
        G,
        "swizzle",
        "none in the descriptor of A",
        "or.b64  	%rd6, %rd16, 4611686293305360384;",
        0,
        "or.b64 %rd6, %rd16, 274877972480;",
    ),
    m(
        G,
        "swizzle",
        "groups of eight rows 512 bytes apart",
        "or.b64  	%rd7, %rd17, 4611686293305360384;",
        0,
        "or.b64 %rd7, %rd17, 4611686155866406912;",
    ),
    m(
        G,
        "initialisation",
        "an mbarrier is not made",
        "mbarrier.init.shared::cta.b64 [%r34], %r39;",
        0,
        "",
    ),
    missed(
        m(
            G,
            "initialisation",
            "no fence after the mbarriers are made",
            "fence.mbarrier_init.release.cluster;",
            0,
            "",
        ),
        "threads and copies see shared memory in one order here",
    ),
    missed(
        m(G, "wait", "no `wgmma.fence`", "wgmma.fence.sync.aligned;", 0, ""),
        "registers are written and read in program order here",
    ),
];

fn mutate(mutation: &Mutation) -> String {
    let file = match mutation.kernel {
        A => "attention",
        E => "elementwise",
        G => "hopper",
        _ => "rmsnorm",
    };
    let whole = text(file);
    let entry = whole.find(&format!(".entry {}(", mutation.kernel)).unwrap();
    let end = whole[entry + 1..].find(".entry").map_or(whole.len(), |next| entry + 1 + next);
    let kernel = &whole[entry..end];
    let (at, _) = kernel
        .match_indices(mutation.from)
        .nth(mutation.nth)
        .unwrap_or_else(|| panic!("`{}` is not in {}", mutation.from, mutation.kernel));
    let at = entry + at;
    format!("{}{}{}", &whole[..at], mutation.to, &whole[at + mutation.from.len()..])
}

/// The error of the kernel's result, relative to the tolerance of its test.
fn error(module: &Module, kernel: &str) -> Result<f64, Error> {
    let options = Options::default();
    let mut memory = Memory::new();
    match kernel {
        A => {
            let a = Attention { batch: 1, time: 130, heads: 1, dim: 64, window: 0 };
            let mut numbers = Numbers(130);
            let [q, k, v] = [0; 3].map(|_| numbers.bf16(a.size()));
            let (out, lse, _) = a.run(module, &q, &k, &v)?;
            let (want, want_lse) = a.reference(&q, &k, &v);
            let e = relative(out.iter().map(|x| wide(*x) as f64), want) / 4e-3;
            Ok(e.max(relative(lse.iter().map(|x| *x as f64), want_lse) / 1e-4))
        }
        G => Ok(gemm(module, G, 64, 128, 384)?.0 / 3e-3),
        E => {
            // Fewer than threads and more: both of the kernel's bounds decide.
            let mut worst: f64 = 0.0;
            for n in [300usize, 768] {
                let mut numbers = Numbers(n as u64);
                let (x, y) = (numbers.f32(n), numbers.f32(n));
                let (dx, dy) = (memory.upload(&x), memory.upload(&y));
                let args = [dy.into(), dx.into(), 0.5f32.into(), (n as i32).into()];
                module.kernel(E)?.launch(
                    [3, 1, 1],
                    [128, 1, 1],
                    0,
                    &args,
                    &mut memory,
                    &options,
                )?;
                let got: Vec<f32> = memory.read(dy, n)?;
                let want = x.iter().zip(&y).map(|(x, y)| {
                    let r = x.max(0.0);
                    ((0.5 * r) as f64 * r as f64 + *y as f64) as f32 as f64
                });
                worst = worst.max(relative(got.iter().map(|x| *x as f64), want) / 1e-7);
            }
            Ok(worst)
        }
        _ => {
            let (rows, columns) = (5usize, 264usize);
            let x = Numbers(3).bf16(rows * columns);
            let (dx, dy) = (memory.upload(&x), memory.alloc(2 * rows * columns));
            let args: [Arg; 5] = [
                dy.into(),
                dx.into(),
                (rows as i32).into(),
                (columns as i32).into(),
                1e-6f32.into(),
            ];
            module.kernel(N)?.launch(
                [rows as u32, 1, 1],
                [128, 1, 1],
                0,
                &args,
                &mut memory,
                &options,
            )?;
            let got: Vec<u16> = memory.read(dy, rows * columns)?;
            let mut want = Vec::new();
            for row in x.chunks(columns) {
                let mean =
                    row.iter().map(|v| (wide(*v) as f64).powi(2)).sum::<f64>() / columns as f64;
                want.extend(row.iter().map(|v| wide(*v) as f64 / (mean + 1e-6).sqrt()));
            }
            Ok(relative(got.iter().map(|x| wide(*x) as f64), want) / 2f64.powi(-9))
        }
    }
}

fn outcome(mutation: &Mutation) -> String {
    let module =
        Module::parse(&mutate(mutation)).unwrap_or_else(|e| panic!("{}: {e}", mutation.what));
    match error(&module, mutation.kernel) {
        Ok(e) if e < 1.0 => "**not caught**".into(),
        Ok(_) => "wrong result".into(),
        Err(Error::Fault(f)) => match f.kind {
            FaultKind::OutOfBounds { .. } => "out of bounds",
            FaultKind::Misaligned { .. } => "misaligned",
            FaultKind::Uninitialised { .. } => "uninitialised read",
            FaultKind::InFlight { .. } => "used in flight",
            FaultKind::Race { .. } => "data race",
            FaultKind::Deadlock { .. } => "deadlock",
            FaultKind::StepLimit { .. } => "step limit",
            FaultKind::Convergence { .. } => "part of a warp",
            FaultKind::Operand { .. } => "operand",
            _ => "another fault",
        }
        .into(),
        Err(Error::Memory(_)) => "output not written".into(),
        Err(e) => panic!("{}: {e}", mutation.what),
    }
}

#[test]
fn the_kernels_as_they_are_pass() {
    for (file, kernel) in [("attention", A), ("elementwise", E), ("hopper", G), ("rmsnorm", N)] {
        let e = error(&Module::parse(&text(file)).unwrap(), kernel).unwrap();
        assert!(e < 1.0, "{kernel}: {e} of the tolerance");
    }
}

#[test]
fn the_table_of_mutations() {
    let mut table = String::from(
        "| # | kernel | kind | mutation | outcome |\n| --- | --- | --- | --- | --- |\n",
    );
    let mut caught = 0;
    for (i, mutation) in MUTATIONS.iter().enumerate() {
        let outcome = outcome(mutation);
        let missed = outcome.contains("not caught");
        assert_eq!(missed, !mutation.why.is_empty(), "{}: {outcome}", mutation.what);
        caught += usize::from(!missed);
        let why = if missed { format!(": {}", mutation.why) } else { String::new() };
        table += &format!(
            "| {} | `{}` | {} | {} | {outcome}{why} |\n",
            i + 1,
            mutation.kernel,
            mutation.kind,
            mutation.what
        );
    }
    table += &format!("\n{caught} of {} are caught.\n", MUTATIONS.len());
    assert!(caught >= 18, "{table}");
    let committed = include_str!("../MUTATIONS.md");
    assert!(
        committed.ends_with(&table),
        "MUTATIONS.md is of another day; it should end with\n{table}"
    );
}

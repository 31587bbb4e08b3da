//! What the emulator is for: races, uninitialised reads, deadlocks, endless loops and copies used too early, each named
//! with kernel, block, thread and PTX line. Beside each fault stands the same kernel put right.

use crate::common;
use common::fault;
use ptx_emulator::{Counters, Fault, FaultKind, Memory, Module, Options, Pointer, Result};

fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
         .reg .b32 %r<32>;\n.reg .b64 %l<16>;\n.reg .pred %p<8>;\n.reg .f32 %f<8>;\n\
         .shared .align 16 .b8 s[1024];\n\
         mov.u32 %r0, %tid.x;\nmov.u32 %r1, s;\nshl.b32 %r2, %r0, 2;\nadd.u32 %r3, %r1, %r2;\n\
         ld.param.u64 %l0, [out];\nld.param.u64 %l1, [in];\n\
         mul.wide.u32 %l2, %r0, 4;\nadd.u64 %l3, %l0, %l2;\nadd.u64 %l4, %l1, %l2;\n{body}\nret;\n}}\n"
    )
}

struct Run {
    result: Result<Counters>,
    out: Vec<u32>,
}

/// `blocks` blocks of `threads`; the input holds 0, 1, 2, ….
fn run_with(body: &str, blocks: u32, threads: u32, options: &Options) -> Run {
    let module = Module::parse(&kernel(body)).unwrap_or_else(|e| panic!("{e}"));
    let mut memory = Memory::new();
    let input: Vec<u32> = (0..256).collect();
    let (out, input): (Pointer, Pointer) = (memory.upload(&[0u32; 256]), memory.upload(&input));
    let result = module.kernel("k").unwrap().launch(
        [blocks, 1, 1],
        [threads, 1, 1],
        0,
        &[out.into(), input.into()],
        &mut memory,
        options,
    );
    Run { result, out: memory.read(out, 256).unwrap() }
}

fn run(body: &str, threads: u32) -> Run {
    run_with(body, 1, threads, &Options::default())
}

/// The line of the kernel that starts with `text`, 1-based; the `nth` of several.
fn line_of(body: &str, text: &str, nth: usize) -> u32 {
    let all = kernel(body);
    let mut lines = all.lines().enumerate().filter(|(_, l)| l.starts_with(text));
    lines.nth(nth).unwrap().0 as u32 + 1
}

fn located(f: &Fault, body: &str, text: &str, nth: usize, thread: u32) {
    assert_eq!(f.kernel, "k", "{f}");
    assert_eq!((f.block, f.thread), ([0, 0, 0], [thread, 0, 0]), "{f}");
    assert_eq!(f.line, line_of(body, text, nth), "{f}");
    assert!(f.text.starts_with(text), "{f}");
    let shown = f.to_string();
    assert!(
        shown.starts_with(&format!(
            "kernel k, block (0, 0, 0), thread ({thread}, 0, 0), line {}",
            f.line
        )),
        "{shown}"
    );
}

/// Each thread leaves a number in shared memory and reads that of the thread 32 further on.
fn exchange(between: &str) -> String {
    format!(
        "st.shared.u32 [%r3], %r0;\n{between}\nxor.b32 %r4, %r2, 128;\nadd.u32 %r4, %r1, %r4;\n\
         ld.shared.u32 %r5, [%r4];\nst.global.u32 [%l3], %r5;"
    )
}

#[test]
fn shared_memory_needs_a_barrier_between_warps() {
    let right = run(&exchange("bar.sync 0;"), 64);
    right.result.unwrap();
    assert_eq!(right.out[..64], (0..64).map(|i| i ^ 32).collect::<Vec<u32>>());
    // Without it the first warp reads what the second has not written yet ...
    let body = exchange("");
    let f = fault(run(&body, 64).result);
    assert!(matches!(f.kind, FaultKind::Uninitialised { .. }), "{f}");
    located(&f, &body, "ld.shared", 0, 0);
    // ... or overwrites what it may still read: the race, whatever the order in which warps happen to run.
    let body = format!("{}\nst.shared.u32 [%r3], %r5;", exchange("bar.sync 0;"));
    let f = fault(run(&body, 64).result);
    let FaultKind::Race { what, place } = &f.kind else { panic!("{f}") };
    assert!(what.contains("warp 1 reads what warp 0 wrote"), "{f}");
    assert!(place.contains("shared memory + 0"), "{f}");
    located(&f, &body, "ld.shared", 0, 32);
    let body = format!("{}\nbar.sync 0;\nst.shared.u32 [%r3], %r5;", exchange("bar.sync 0;"));
    run(&body, 64).result.unwrap();
}

#[test]
fn two_warps_must_not_write_one_word() {
    let body = "and.b32 %r4, %r0, 31;\nshl.b32 %r4, %r4, 2;\nadd.u32 %r4, %r1, %r4;\nst.shared.u32 [%r4], %r0;";
    let f = fault(run(body, 64).result);
    let FaultKind::Race { what, .. } = &f.kind else { panic!("{f}") };
    assert!(what.contains("warp 1 writes what warp 0 wrote"), "{f}");
    located(&f, body, "st.shared", 0, 32);
    // One warp may: its lanes run in step. Atomics may.
    run(body, 32).result.unwrap();
    run("st.shared.u32 [%r3], 0;\nbar.sync 0;\natom.shared.add.u32 %r5, [%r1], 1;", 64)
        .result
        .unwrap();
    let off = Options { races: false, ..Options::default() };
    run_with(body, 1, 64, &off).result.unwrap();
}

#[test]
fn a_named_barrier_orders_only_those_who_meet_there() {
    // Warps 0 and 1 meet at barrier 1; warp 2 reads without having been there.
    let body = "setp.ge.u32 %p0, %r0, 64;\n@%p0 bra OTHER;\nst.shared.u32 [%r3], %r0;\nbar.sync 1, 64;\nbra END;\n\
                OTHER:\nld.shared.u32 %r5, [%r1+4];\nEND:";
    let f = fault(run(body, 96).result);
    assert!(matches!(f.kind, FaultKind::Race { .. }), "{f}");
    located(&f, body, "ld.shared", 0, 64);
    let body = body
        .replace("bar.sync 1, 64;", "bar.sync 1, 96;")
        .replace("ld.sh", "bar.sync 1, 96;\nld.sh");
    run(&body, 96).result.unwrap();
}

#[test]
fn reads_of_memory_that_nobody_wrote() {
    let body = "ld.shared.u32 %r5, [%r3+64];\nst.global.u32 [%l3], %r5;";
    let f = fault(run(body, 32).result);
    assert!(matches!(f.kind, FaultKind::Uninitialised { bytes: 4, .. }), "{f}");
    located(&f, body, "ld.shared", 0, 0);
    // Global memory: a byte of a word is missing, for one thread only.
    let body = "setp.eq.u32 %p0, %r0, 7;\n@!%p0 st.global.u32 [%l6], %r0;\n@%p0 st.global.u16 [%l6], %r0;\n\
                ld.global.u32 %r5, [%l6];";
    let text = kernel(&format!("add.u64 %l6, %l1, %l2;\n{body}"));
    let module = Module::parse(&text).unwrap();
    let mut memory = Memory::new();
    let fresh = memory.alloc(256);
    let args = [fresh.into(), fresh.into()];
    let launch = |memory: &mut Memory, options: &Options| {
        module.kernel("k").unwrap().launch([1, 1, 1], [32, 1, 1], 0, &args, memory, options)
    };
    let f = fault(launch(&mut memory, &Options::default()));
    assert!(matches!(f.kind, FaultKind::Uninitialised { .. }), "{f}");
    assert_eq!(
        (f.thread, f.line),
        ([7, 0, 0], text.lines().position(|l| l.starts_with("ld.global")).unwrap() as u32 + 1)
    );
    launch(&mut memory, &Options { uninitialised: false, ..Options::default() }).unwrap();
    // The host is told too.
    assert!(memory.read::<u32>(fresh, 32).unwrap_err().to_string().contains("never written"));
}

#[test]
fn deadlocks_say_who_waits_where() {
    // The second warp never comes to barrier 1.
    let body = "setp.ge.u32 %p0, %r0, 32;\n@%p0 bra OTHER;\nbar.sync 1, 64;\nbra END;\nOTHER:\nbar.sync 2, 64;\nEND:";
    let f = fault(run(body, 64).result);
    let FaultKind::Deadlock { waiting } = &f.kind else { panic!("{f}") };
    let lines = [line_of(body, "bar.sync 1", 0), line_of(body, "bar.sync 2", 0)];
    assert!(waiting.contains(&format!("warp 0 waits for a barrier at line {}", lines[0])), "{f}");
    assert!(waiting.contains(&format!("warp 1 waits for a barrier at line {}", lines[1])), "{f}");
    located(&f, body, "bar.sync 1", 0, 0);
    // An mbarrier for two arrivals that gets one.
    let body = "setp.ne.u32 %p0, %r0, 0;\n@%p0 bra WAIT;\nmbarrier.init.shared.b64 [%r1], 2;\n\
                mbarrier.arrive.shared.b64 %l6, [%r1];\nWAIT:\nbar.sync 0;\nAGAIN:\n\
                mbarrier.try_wait.parity.shared.b64 %p1, [%r1], 0;\n@!%p1 bra AGAIN;";
    let f = fault(run(body, 64).result);
    let FaultKind::Deadlock { waiting } = &f.kind else { panic!("{f}") };
    assert!(waiting.contains("an mbarrier"), "{f}");
    located(&f, body, "mbarrier.try_wait", 0, 0);
    run(&body.replace("[%r1], 2;", "[%r1], 1;"), 64).result.unwrap();
}

#[test]
fn an_endless_loop_meets_the_step_limit() {
    let body = "AGAIN:\nadd.u32 %r4, %r4, 1;\nbra AGAIN;";
    let options = Options { step_limit: 10_000, ..Options::default() };
    let f = fault(run_with(body, 1, 32, &options).result);
    assert_eq!(f.kind, FaultKind::StepLimit { limit: 10_000 });
    assert!([line_of(body, "add.u32 %r4", 0), line_of(body, "bra", 0)].contains(&f.line), "{f}");
    // Spinning on memory that no other warp will change is the same.
    let body = "st.shared.u32 [%r1], 0;\nAGAIN:\nld.volatile.shared.u32 %r4, [%r1];\nsetp.eq.u32 %p0, %r4, 0;\n@%p0 bra AGAIN;";
    let f = fault(run_with(body, 1, 32, &options).result);
    assert!(matches!(f.kind, FaultKind::StepLimit { .. }), "{f}");
}

#[test]
fn a_part_of_a_warp_at_an_instruction_for_all_of_it() {
    for what in [
        "bar.sync 0;",
        "shfl.sync.idx.b32 %r5, %r0, 0, 31, 0xffffffff;",
        "bar.warp.sync 0xffffffff;",
    ] {
        let body = format!(
            "setp.ge.u32 %p0, %r0, 16;\n@%p0 bra END;\n{what}\nbar.warp.sync 0xffff;\nEND:\nadd.u32 %r4, %r0, 1;\nst.global.u32 [%l3], %r4;"
        );
        let f = fault(run(&body, 32).result);
        assert!(matches!(f.kind, FaultKind::Convergence { .. }), "{f}");
        located(&f, &body, &what[..8], 0, 0);
    }
}

#[test]
fn bounds_alignment_and_traps() {
    for (body, at, thread) in [
        ("st.shared.u32 [%r3+900], %r0;", "st.shared", 31),
        ("ld.global.u32 %r5, [%l4+1000];", "ld.global", 6),
        ("add.u64 %l5, %l1, %l2;\nst.global.u32 [%l5+-4], %r0;", "st.global", 0),
        ("mov.u64 %l5, 0;\nld.global.u32 %r5, [%l5];", "ld.global", 0),
        ("ld.param.u64 %l5, [in+8];", "ld.param.u64 %l5", 0),
    ] {
        let f = fault(run(body, 32).result);
        assert!(matches!(f.kind, FaultKind::OutOfBounds { .. }), "{f}");
        located(&f, body, at, 0, thread);
    }
    let body = "setp.eq.u32 %p0, %r0, 3;\n@%p0 add.u64 %l4, %l4, 2;\nld.global.u32 %r5, [%l4];";
    let f = fault(run(body, 32).result);
    assert!(matches!(f.kind, FaultKind::Misaligned { bytes: 4, .. }), "{f}");
    located(&f, body, "ld.global", 0, 3);
    let body = "setp.eq.u32 %p0, %r0, 5;\n@%p0 trap;";
    let f = fault(run(body, 32).result);
    assert_eq!(f.kind, FaultKind::Trap);
    located(&f, body, "@%p0 trap", 0, 5);
}

#[test]
fn cp_async_is_visible_after_its_wait_and_to_others_after_a_barrier() {
    let copy = |after_commit: &str, from: &str| {
        format!(
            "st.shared.u32 [%r3], 77;\nbar.sync 0;\nshl.b32 %r4, %r0, 2;\ncp.async.ca.shared.global [%r3], [%l4], 4;\n\
             cp.async.commit_group;\n{after_commit}\nxor.b32 %r5, %r2, {from};\nadd.u32 %r5, %r1, %r5;\n\
             ld.shared.u32 %r6, [%r5];\nst.global.u32 [%l3], %r6;"
        )
    };
    let r = run(&copy("cp.async.wait_group 0;\nbar.sync 0;", "128"), 64);
    r.result.unwrap();
    assert_eq!(r.out[..64], (0..64).map(|i| i ^ 32).collect::<Vec<u32>>());
    run(&copy("cp.async.wait_all;", "0"), 64).result.unwrap();
    // Its own lane without the wait, and with a wait that leaves one group open.
    for wait in ["", "cp.async.wait_group 1;"] {
        let body = copy(wait, "0");
        let f = fault(run(&body, 64).result);
        assert!(matches!(f.kind, FaultKind::InFlight { .. }), "{f}");
        located(&f, &body, "ld.shared", 0, 0);
    }
    // A wait is for the waiting thread alone. Without the barrier the first warp reads what was there before, and the
    // second warp's copy into the same place races with that.
    let body = copy("cp.async.wait_group 0;", "128");
    let f = fault(run(&body, 64).result);
    let FaultKind::Race { what, .. } = &f.kind else { panic!("{f}") };
    assert!(what.contains("warp 1 writes what warp 0 read"), "{f}");
    located(&f, &body, "cp.async.ca", 0, 32);
    // Groups complete in order: with two in flight, waiting for all but one gives the first and not the second.
    let two = |offset: u32| {
        format!(
            "cp.async.ca.shared.global [%r3], [%l4], 4;\ncp.async.commit_group;\n\
             cp.async.ca.shared.global [%r3+256], [%l4], 4;\ncp.async.commit_group;\ncp.async.wait_group 1;\n\
             ld.shared.u32 %r6, [%r3+{offset}];\nst.global.u32 [%l3], %r6;"
        )
    };
    run(&two(0), 32).result.unwrap();
    assert!(matches!(fault(run(&two(256), 32).result).kind, FaultKind::InFlight { .. }));
}

#[test]
fn a_bulk_copy_is_visible_after_its_mbarrier() {
    let body = "setp.ne.u32 %p0, %r0, 0;\n@%p0 bra READY;\nmbarrier.init.shared.b64 [%r1+512], 1;\n\
                mbarrier.arrive.expect_tx.shared.b64 %l6, [%r1+512], 256;\n\
                cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%l1], 256, [%r1+512];\nREADY:\n\
                bar.sync 0;\nAGAIN:\nmbarrier.try_wait.parity.shared.b64 %p1, [%r1+512], 0;\n@!%p1 bra AGAIN;\n\
                ld.shared.u32 %r5, [%r3];\nst.global.u32 [%l3], %r5;";
    let r = run(body, 64);
    r.result.unwrap();
    assert_eq!(r.out[..64], (0..64).collect::<Vec<u32>>());
    let no_wait = body
        .replace("@!%p1 bra AGAIN;", "")
        .replace("mbarrier.try_wait.parity.shared.b64 %p1, [%r1+512], 0;", "");
    let f = fault(run(&no_wait, 64).result);
    assert!(matches!(f.kind, FaultKind::InFlight { .. }), "{f}");
    located(&f, &no_wait, "ld.shared", 0, 0);
    // The other parity is that of the phase before: it is complete at once.
    let early = body.replace("[%r1+512], 0;", "[%r1+512], 1;");
    assert!(matches!(fault(run(&early, 64).result).kind, FaultKind::InFlight { .. }));
    // Fewer bytes expected than come, or more: the phase never ends.
    for bytes in ["240", "272"] {
        let wrong = body.replace("[%r1+512], 256;", &format!("[%r1+512], {bytes};"));
        assert!(
            matches!(fault(run(&wrong, 64).result).kind, FaultKind::Deadlock { .. }),
            "{bytes}"
        );
    }
}

#[test]
fn blocks_that_meet_in_global_memory_when_asked() {
    let body = "st.global.u32 [%l3], %r0;";
    let options = Options { block_races: true, ..Options::default() };
    run_with(body, 1, 64, &options).result.unwrap();
    run_with(body, 2, 64, &Options::default()).result.unwrap();
    let f = fault(run_with(body, 2, 64, &options).result);
    assert!(matches!(f.kind, FaultKind::Race { .. }), "{f}");
    assert_eq!(f.line, line_of(body, "st.global", 0));
    run_with("red.global.add.u32 [%l0], 1;", 2, 64, &options).result.unwrap();
}

#[test]
fn the_fault_is_that_of_the_lowest_block_whatever_the_threads() {
    let body = "mov.u32 %r7, %ctaid.x;\nsetp.lt.u32 %p0, %r7, 5;\n@%p0 bra END;\ntrap;\nEND:\nadd.u32 %r8, %r0, 1;";
    for parallel in [false, true] {
        for _ in 0..20 {
            let options = Options { parallel, ..Options::default() };
            let f = fault(run_with(body, 64, 32, &options).result);
            assert_eq!(f.block, [5, 0, 0], "{f}");
        }
    }
}

//! What touches memory or other lanes, instruction by instruction, against values worked out by hand: loads and stores of
//! every width, address spaces, atomics at their edges, shuffles, votes, matrix moves, small copies, and the counters.

use ptx_emulator::{Counters, Memory, Module, Options};

/// One warp (or `threads`) runs `body`; `%l0` is the output, `%l1` the input, `%r0` the thread.
fn run(body: &str, threads: u32, input: &[u32], words: usize) -> (Vec<u32>, Counters) {
    let text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.const .align 4 .u32 table[4] = {{10, 20, 30, 40}};\n\
         .global .align 8 .u64 cell = 5;\n\
         .visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
         .reg .b16 %h<8>;\n.reg .b32 %r<40>;\n.reg .b64 %l<20>;\n.reg .pred %p<8>;\n.reg .f32 %f<8>;\n\
         .shared .align 16 .b8 s[4096];\n.local .align 16 .b8 mine[32];\n\
         mov.u32 %r0, %tid.x;\nmov.u32 %r1, s;\nld.param.u64 %l0, [out];\nld.param.u64 %l1, [in];\n\
         mul.wide.u32 %l2, %r0, 4;\nadd.u64 %l3, %l0, %l2;\nadd.u64 %l4, %l1, %l2;\n{body}\nret;\n}}\n"
    );
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}"));
    let mut memory = Memory::new();
    let out = memory.upload(&vec![0xdead_beefu32; words]);
    let args = [out.into(), memory.upload(input).into()];
    let kernel = module.kernel("k").unwrap_or_else(|e| panic!("{e}"));
    let options = Options::default();
    let c = kernel
        .launch([1; 3], [threads, 1, 1], 0, &args, &mut memory, &options)
        .unwrap_or_else(|e| panic!("{e}"));
    (memory.read(out, words).unwrap(), c)
}

/// One lane's value for each lane.
fn lanes(body: &str) -> Vec<u32> {
    run(&format!("{body}\nst.global.u32 [%l3], %r9;"), 32, &(0..32).collect::<Vec<u32>>(), 32).0
}

#[test]
fn loads_and_stores_of_every_width() {
    let input = [0x8081_fe7f, 0xffff_8000, 0x0123_4567, 0x89ab_cdef];
    for (load, want) in [
        ("ld.global.u8 %r9, [%l1+2];", 0x81),
        ("ld.global.s8 %r9, [%l1+2];", 0xffff_ff81),
        ("ld.global.s8 %r9, [%l1];", 0x7f),
        ("ld.global.u16 %r9, [%l1+4];", 0x8000),
        ("ld.global.s16 %r9, [%l1+4];", 0xffff_8000),
        ("ld.global.b16 %h1, [%l1]; mov.b32 %r9, {%h1, %h1};", 0xfe7f_fe7f),
        ("ld.global.u32 %r9, [%l1+8];", 0x0123_4567),
        ("ld.global.b64 %l9, [%l1+8]; shr.u64 %l9, %l9, 32; cvt.u32.u64 %r9, %l9;", 0x89ab_cdef),
        ("ld.global.s32 %l9, [%l1+4]; shr.u64 %l9, %l9, 32; cvt.u32.u64 %r9, %l9;", 0xffff_ffff),
        ("ld.global.v2.u32 {%r8, %r9}, [%l1+8];", 0x89ab_cdef),
        ("ld.global.v4.u32 {%r6, %r7, %r9, %r8}, [%l1];", 0x0123_4567),
        ("ld.global.v4.u8 {%r6, %r9, %r7, %r8}, [%l1];", 0xfe),
        ("ld.global.v2.u64 {%l8, %l9}, [%l1]; cvt.u32.u64 %r9, %l9;", 0x0123_4567),
        ("ld.u32 %r9, [%l1+12];", 0x89ab_cdef),
        ("ld.const.u32 %r9, [table+8];", 30),
        ("mov.u64 %l9, table; cvta.const.u64 %l9, %l9; ld.u32 %r9, [%l9+4];", 20),
        ("ld.global.u32 %r9, [cell];", 5),
        ("st.local.u32 [mine+4], 77; ld.local.u32 %r9, [mine+4];", 77),
        (
            "mov.u64 %l9, mine; cvta.local.u64 %l9, %l9; st.u32 [%l9], 78; ld.local.u32 %r9, [mine];",
            78,
        ),
        ("st.shared.v2.u32 [s+8], {1, 2}; ld.shared.u32 %r9, [s+12];", 2),
        (
            "mov.u64 %l9, s; cvta.shared.u64 %l9, %l9; st.u32 [%l9+4], 79; ld.shared.u32 %r9, [s+4];",
            79,
        ),
        ("st.shared.u32 [s], -1; st.shared.u8 [s+1], 0; ld.shared.u32 %r9, [s];", 0xffff_00ff),
        (
            "st.shared.u32 [s], -1; mov.u32 %r8, 0x12345678; st.shared.u16 [s+2], %r8; ld.shared.u32 %r9, [s];",
            0x5678_ffff,
        ),
    ] {
        let body = format!("{load}\nst.global.u32 [%l0], %r9;");
        assert_eq!(run(&body, 1, &input, 1).0[0], want, "{load}");
    }
    // Where an address points.
    for (space, address, want) in [
        ("global", "mov.u64 %l9, %l1;", 1),
        ("shared", "mov.u64 %l9, %l1;", 0),
        ("shared", "mov.u64 %l9, s; cvta.shared.u64 %l9, %l9;", 1),
        ("global", "mov.u64 %l9, s; cvta.shared.u64 %l9, %l9;", 0),
        ("local", "mov.u64 %l9, mine; cvta.local.u64 %l9, %l9;", 1),
    ] {
        let body = format!(
            "{address} isspacep.{space} %p1, %l9; selp.u32 %r9, 1, 0, %p1; st.global.u32 [%l0], %r9;"
        );
        assert_eq!(run(&body, 1, &input, 1).0[0], want, "{space} {address}");
    }
}

#[test]
fn atomics_at_their_edges_in_both_memories() {
    let one = 0x3f80_0000u32;
    // Instruction, what is there, operands, what is there afterwards.
    let table: &[(&str, u32, &str, u32)] = &[
        ("add.u32", u32::MAX, "2", 1),
        ("add.s32", 0x7fff_ffff, "1", 0x8000_0000),
        ("min.s32", 1, "-1", u32::MAX),
        ("min.u32", 1, "-1", 1),
        ("max.s32", u32::MAX, "0", 0),
        ("max.u32", u32::MAX, "0", u32::MAX),
        ("and.b32", 0xff00_ff00, "0x0ff00ff0", 0x0f00_0f00),
        ("or.b32", 0xff00_0000, "1", 0xff00_0001),
        ("xor.b32", 0xffff_0000, "-1", 0x0000_ffff),
        ("inc.u32", 5, "5", 0),
        ("inc.u32", 4, "5", 5),
        ("inc.u32", 9, "5", 0),
        ("dec.u32", 0, "5", 5),
        ("dec.u32", 6, "5", 5),
        ("dec.u32", 3, "5", 2),
        ("exch.b32", 3, "4", 4),
        ("cas.b32", 3, "3, 9", 9),
        ("cas.b32", 3, "4, 9", 3),
        ("add.f32", one, "0f3F800000", 0x4000_0000),
        ("add.f32", 0x7f7f_ffff, "0f7F7FFFFF", 0x7f80_0000),
        ("add.f32", 0x7f80_0000, "0fFF800000", 0x7fff_ffff),
        ("add.noftz.f16x2", 0x3c00_7bff, "0x3c007bff", 0x4000_7c00),
        ("add.noftz.bf16x2", 0x3f80_3f80, "0x3b803f80", 0x3f80_4000), // 1 + 2^-8 ties to even
    ];
    for (op, before, operands, after) in table {
        for (space, address) in [("global", "%l0"), ("shared", "s")] {
            let body = format!(
                "st.{space}.u32 [{address}], {before};\natom.{space}.{op} %r9, [{address}], {operands};\n\
                 ld.{space}.u32 %r8, [{address}];\nst.global.u32 [%l0], %r8;\nst.global.u32 [%l0+4], %r9;"
            );
            assert_eq!(run(&body, 1, &[0], 2).0, [*after, *before], "{op} in {space}");
        }
        if !op.starts_with("exch") && !op.starts_with("cas") {
            let body =
                format!("st.global.u32 [%l0], {before};\nred.global.{op} [%l0], {operands};");
            assert_eq!(run(&body, 1, &[0], 1).0, [*after], "red {op}");
        }
    }
    // Subnormals: kept in shared memory, flushed in global memory.
    for (space, address, after) in [("global", "%l0", 0), ("shared", "s", 2)] {
        let body = format!(
            "st.{space}.u32 [{address}], 1;\natom.{space}.add.f32 %f1, [{address}], 0f00000001;\nld.{space}.u32 %r8, [{address}];\nst.global.u32 [%l0], %r8;"
        );
        assert_eq!(run(&body, 1, &[0], 1).0, [after], "{space}");
    }
    for (op, operands, want) in [
        ("add.u64", "%l9", 0x1_0000_0004u64),
        ("max.s64", "-1", 5),
        ("max.u64", "-1", u64::MAX),
        ("cas.b64", "5, -2", u64::MAX - 1),
        ("exch.b64", "7", 7),
    ] {
        let body = format!(
            "mov.u64 %l9, 0xffffffff;\natom.global.{op} %l8, [cell], {operands};\nld.global.u64 %l8, [cell];\nst.global.u64 [%l0], %l8;"
        );
        let got = run(&body, 1, &[0], 2).0;
        assert_eq!(got[0] as u64 | (got[1] as u64) << 32, want, "{op}");
    }
    // All lanes at one address, one after another.
    let (out, _) = run(
        "st.global.u32 [%l0], 0;\natom.global.add.u32 %r9, [%l0], 1;\nadd.u64 %l3, %l3, 4;\nst.global.u32 [%l3], %r9;",
        32,
        &[0],
        33,
    );
    let mut old = out[1..].to_vec();
    old.sort_unstable();
    assert_eq!((out[0], old), (32, (0..32).collect()));
}

#[test]
fn shuffles_votes_and_reductions() {
    // Clamp and segment in the last operand but one, as the manual's formulas have them.
    let all: Vec<u32> = (0..32).collect();
    let each = |f: &dyn Fn(u32) -> u32| all.iter().map(|i| f(*i)).collect::<Vec<u32>>();
    for (form, want) in [
        ("shfl.sync.up.b32 %r9, %r0, 1, 0, -1;", each(&|i| i.saturating_sub(1))),
        (
            "shfl.sync.up.b32 %r9, %r0, 3, 0x1800, -1;",
            each(&|i| if i % 8 >= 3 { i - 3 } else { i }),
        ),
        ("shfl.sync.down.b32 %r9, %r0, 5, 31, -1;", each(&|i| if i + 5 < 32 { i + 5 } else { i })),
        (
            "shfl.sync.down.b32 %r9, %r0, 2, 0x1c03, -1;",
            each(&|i| if i % 4 + 2 < 4 { i + 2 } else { i }),
        ),
        ("shfl.sync.bfly.b32 %r9, %r0, 17, 31, -1;", each(&|i| i ^ 0x11)),
        ("shfl.sync.idx.b32 %r9, %r0, 40, 31, -1;", each(&|_| 8)),
        ("shfl.sync.idx.b32 %r9, %r0, 1, 0x1807, -1;", each(&|i| i / 8 * 8 + 1)),
        (
            "shfl.sync.up.b32 %r8|%p1, %r0, 3, 0, -1; selp.u32 %r9, 1, 0, %p1;",
            each(&|i| u32::from(i >= 3)),
        ),
        ("setp.lt.u32 %p1, %r0, 5; vote.sync.ballot.b32 %r9, %p1, -1;", each(&|_| 31)),
        ("setp.lt.u32 %p1, %r0, 5; vote.sync.ballot.b32 %r9, !%p1, -1;", each(&|_| !31)),
        (
            "setp.lt.u32 %p1, %r0, 5; vote.sync.any.pred %p2, %p1, -1; selp.u32 %r9, 1, 0, %p2;",
            each(&|_| 1),
        ),
        (
            "setp.lt.u32 %p1, %r0, 5; vote.sync.all.pred %p2, %p1, -1; selp.u32 %r9, 1, 0, %p2;",
            each(&|_| 0),
        ),
        (
            "setp.lt.u32 %p1, %r0, 50; vote.sync.uni.pred %p2, %p1, -1; selp.u32 %r9, 1, 0, %p2;",
            each(&|_| 1),
        ),
        ("shr.u32 %r8, %r0, 3; match.any.sync.b32 %r9, %r8, -1;", each(&|i| 0xff << (i / 8 * 8))),
        ("match.all.sync.b32 %r9|%p1, %r1, -1;", each(&|_| u32::MAX)),
        ("match.all.sync.b32 %r9|%p1, %r0, -1;", each(&|_| 0)),
        ("redux.sync.add.u32 %r9, %r0, -1;", each(&|_| 496)),
        ("sub.s32 %r8, %r0, 16; redux.sync.min.s32 %r9, %r8, -1;", each(&|_| 16u32.wrapping_neg())),
        ("sub.s32 %r8, %r0, 16; redux.sync.max.u32 %r9, %r8, -1;", each(&|_| u32::MAX)),
        ("redux.sync.xor.b32 %r9, %r0, -1;", each(&|_| 0)),
        ("mov.u32 %r9, %laneid;", all.clone()),
        ("mov.u32 %r9, %lanemask_lt;", each(&|i| (1 << i) - 1)),
        ("mov.u32 %r9, %lanemask_ge;", each(&|i| u32::MAX << i)),
        ("mov.u32 %r9, %lanemask_eq;", each(&|i| 1 << i)),
        ("activemask.b32 %r9;", each(&|_| u32::MAX)),
        ("elect.sync %r8|%p1, -1; selp.u32 %r9, 1, 0, %p1;", each(&|i| u32::from(i == 0))),
        // Diverged: each half among itself.
        (
            "setp.lt.u32 %p1, %r0, 16;\n@%p1 bra LOW;\nredux.sync.add.u32 %r9, %r0, 0xffff0000;\nbra END;\nLOW:\nredux.sync.add.u32 %r9, %r0, 0xffff;\nEND:",
            each(&|i| if i < 16 { 120 } else { 376 }),
        ),
    ] {
        assert_eq!(lanes(form), want, "{form}");
    }
}

#[test]
fn matrices_move_by_rows_and_columns() {
    // 8 x 8 matrices of b16 whose elements say where they are: matrix, row, column.
    let fill = "mul.lo.u32 %r2, %r0, 16; add.u32 %r2, %r1, %r2; shl.b32 %r3, %r0, 3;\n\
                or.b32 %r4, %r3, 0x10000; or.b32 %r4, %r4, %r3;\n\
                st.shared.v4.u32 [%r2], {%r10, %r11, %r12, %r13};";
    let prepare = "shl.b32 %r10, %r0, 3; mov.b32 %r14, 0x10001; mul.lo.u32 %r10, %r10, %r14; add.u32 %r13, %r10, 0x70006;\n\
                   add.u32 %r12, %r10, 0x50004; add.u32 %r11, %r10, 0x30002; add.u32 %r10, %r10, 0x10000;";
    for (count, list) in [(1, "{%r20}"), (2, "{%r20, %r21}"), (4, "{%r20, %r21, %r22, %r23}")] {
        for trans in [false, true] {
            let t = if trans { ".trans" } else { "" };
            let stores: String = (0..count)
                .map(|i| format!("st.global.u32 [%l5+{}], %r{};\n", 4 * i, 20 + i))
                .collect();
            let body = format!(
                "{prepare}\n{fill}\nbar.warp.sync -1;\nldmatrix.sync.aligned.m8n8.x{count}{t}.shared.b16 {list}, [%r2];\n\
                 mul.wide.u32 %l5, %r0, {}; add.u64 %l5, %l0, %l5;\n{stores}",
                4 * count
            );
            let (out, _) = run(&body, 32, &[0], 32 * count);
            for lane in 0..32 {
                for i in 0..count {
                    let element = |j: usize| {
                        let (row, column) = (lane / 4, lane % 4 * 2 + j);
                        let (row, column) = if trans { (column, row) } else { (row, column) };
                        (i * 64 + row * 8 + column) as u32
                    };
                    assert_eq!(
                        out[lane * count + i],
                        element(0) | element(1) << 16,
                        "x{count}{t} lane {lane}"
                    );
                }
            }
            // stmatrix is the way back.
            let body = format!(
                "{prepare}\n{fill}\nbar.warp.sync -1;\nldmatrix.sync.aligned.m8n8.x{count}{t}.shared.b16 {list}, [%r2];\n\
                 add.u32 %r5, %r2, 512;\nstmatrix.sync.aligned.m8n8.x{count}{t}.shared.b16 [%r5], {list};\nbar.warp.sync -1;\n\
                 setp.ge.u32 %p1, %r0, {};\n@%p1 bra END;\nld.shared.v4.u32 {{%r16, %r17, %r18, %r19}}, [%r5];\n\
                 mul.wide.u32 %l5, %r0, 16; add.u64 %l5, %l0, %l5;\nst.global.v4.u32 [%l5], {{%r16, %r17, %r18, %r19}};\nEND:",
                8 * count
            );
            let (out, _) = run(&body, 32, &[0], 32 * count);
            let want: Vec<u32> =
                (0..32 * count as u32).map(|w| 2 * w | (2 * w + 1) << 16).collect();
            assert_eq!(out, want, "stmatrix x{count}{t}");
        }
    }
}

#[test]
fn small_copies_fill_with_zeros() {
    let input: Vec<u32> = (1..=8).collect();
    for (copy, want) in [
        ("cp.async.ca.shared.global [s], [%l1], 4;", [1, 9, 9, 9]),
        ("cp.async.ca.shared.global [s], [%l1], 8;", [1, 2, 9, 9]),
        ("cp.async.cg.shared.global [s], [%l1], 16;", [1, 2, 3, 4]),
        ("cp.async.cg.shared.global [s], [%l1+16], 16, 8;", [5, 6, 0, 0]),
        ("cp.async.cg.shared.global [s], [%l1+16], 16, 0;", [0; 4]),
        ("mov.u32 %r5, 4; cp.async.ca.shared.global [s], [%l1], 8, %r5;", [1, 0, 9, 9]),
        ("setp.eq.u32 %p1, 0, 0; cp.async.cg.shared.global [s], [%l1], 16, %p1;", [0; 4]),
    ] {
        let body = format!(
            "st.shared.v4.u32 [s], {{9, 9, 9, 9}};\n{copy}\ncp.async.wait_all;\nld.shared.v4.u32 {{%r16, %r17, %r18, %r19}}, [s];\nst.global.v4.u32 [%l0], {{%r16, %r17, %r18, %r19}};"
        );
        assert_eq!(run(&body, 1, &input, 4).0, want, "{copy}");
    }
}

#[test]
fn sectors_and_banks_counted_by_hand() {
    let input = vec![0; 4096];
    // A warp's 4-byte loads at a stride in bytes: bytes, sectors of 32.
    for (stride, offset, sectors) in
        [(4u32, 0, 4u64), (4, 4, 5), (8, 0, 8), (16, 0, 16), (32, 0, 32), (128, 0, 32), (0, 0, 1)]
    {
        let body = format!(
            "mul.wide.u32 %l5, %r0, {stride}; add.u64 %l5, %l1, %l5;\nld.global.u32 %r5, [%l5+{offset}];"
        );
        let (_, c) = run(&body, 32, &input, 1);
        let t = c.global_load;
        assert_eq!(
            (t.requests, t.bytes, t.sectors),
            (1, 128, sectors),
            "stride {stride} + {offset}"
        );
    }
    // Descending addresses touch the same sectors; two warps count each for itself; a predicate leaves lanes out.
    let (_, c) = run(
        "sub.u32 %r5, 31, %r0; mul.wide.u32 %l5, %r5, 4; add.u64 %l5, %l1, %l5;\nld.global.u32 %r5, [%l5];",
        32,
        &input,
        1,
    );
    assert_eq!((c.global_load.sectors, c.global_load.efficiency()), (4, 1.0));
    let (_, c) = run("ld.global.v4.u32 {%r5, %r6, %r7, %r8}, [%l1];", 64, &input, 1);
    assert_eq!((c.global_load.requests, c.global_load.bytes, c.global_load.sectors), (2, 1024, 2));
    let (_, c) = run("setp.lt.u32 %p1, %r0, 8;\n@%p1 ld.global.u32 %r5, [%l4];", 32, &input, 1);
    assert_eq!((c.global_load.bytes, c.global_load.sectors), (32, 1));
    // Shared memory: lanes whose words lie in one bank take turns.
    for (stride, extra) in [(4u32, 0u64), (8, 1), (12, 0), (128, 31), (132, 0), (0, 0)] {
        let body = format!(
            "mul.lo.u32 %r5, %r0, {stride}; rem.u32 %r5, %r5, 4096; add.u32 %r5, %r1, %r5;\nst.shared.u32 [%r5], 1;"
        );
        let (_, c) = run(&body, if stride == 132 { 31 } else { 32 }, &input, 1);
        assert_eq!(c.bank_conflicts, extra, "stride {stride}");
    }
}

//! Attention by mma.sync and products by wgmma, as nvcc makes them, and mma of every type, against f64.

use crate::common;
use common::matrix::{Attention, gemm};
use common::{Numbers, module, relative, wide};
use ptx_emulator::{Class, Memory, Module, Options, Swizzle, TensorMap};

#[test]
fn attention_at_both_widths_with_and_without_window_and_at_odd_lengths() {
    let module = module("attention");
    for (batch, time, heads, dim, window) in [
        (1, 192, 2, 64, 0),
        (2, 100, 1, 64, 30),
        (1, 130, 1, 128, 0),
        (1, 128, 2, 128, 70),
        (1, 1, 1, 64, 0),
    ] {
        let a = Attention { batch, time, heads, dim, window };
        let mut numbers = Numbers(time as u64);
        let [q, k, v] = [0; 3].map(|_| numbers.bf16(a.size()));
        let (out, lse, counters) = a.run(&module, &q, &k, &v).unwrap();
        let (want, want_lse) = a.reference(&q, &k, &v);
        let error = relative(out.iter().map(|x| wide(*x) as f64), want);
        // Probabilities and outputs are rounded to 8 bits.
        assert!(error < 4e-3, "out: {error}");
        let error = relative(lse.iter().map(|x| *x as f64), want_lse);
        assert!(error < 1e-4, "lse: {error}");
        assert!(counters.class(Class::Matrix) > 0);
        assert_eq!(counters.bank_conflicts, 0, "the swizzle spreads the columns over the banks");
    }
}

#[test]
fn wgmma_with_a_ring_of_bulk_copies() {
    let (error, counters) = gemm(&module("hopper"), "gemm_ring", 128, 256, 384).unwrap();
    assert!(error < 3e-3, "{error}");
    // Each block fetches its rows of A and B once.
    assert_eq!(counters.global_load.bytes, 4 * (64 + 128) * 384 * 2);
    assert_eq!(counters.global_load.efficiency(), 1.0);
}

#[test]
fn wgmma_with_a_from_registers_and_b_transposed() {
    let (error, _) = gemm(&module("hopper"), "gemm_registers", 64, 256, 128).unwrap();
    assert!(error < 3e-3, "{error}");
}

/// A small format by its fields: values of all codes.
fn decode(format: &str, code: u64) -> f64 {
    let (exponent, mantissa) = match format {
        "f16" => (5, 10),
        "bf16" => (8, 7),
        "tf32" => (8, 23),
        "e4m3" => (4, 3),
        "e5m2" => (5, 2),
        "u8" => return code as u8 as f64,
        _ => return code as u8 as i8 as f64,
    };
    let bias = (1 << (exponent - 1)) - 1;
    let (e, f) = (code >> mantissa & ((1 << exponent) - 1), code & ((1 << mantissa) - 1));
    let unit = 2f64.powi(-mantissa);
    let v = if e == 0 {
        f as f64 * unit * 2f64.powi(1 - bias)
    } else {
        (1.0 + f as f64 * unit) * 2f64.powi(e as i32 - bias)
    };
    if code >> (exponent + mantissa) & 1 == 1 { -v } else { v }
}

/// A random code of moderate size, so that no sum overflows and f32 sums of its products are nearly exact.
fn code(format: &str, bits: u64) -> u64 {
    let bits = bits >> 8;
    match format {
        "f16" => bits & 0x8000 | 0x3800 | bits & 0x07ff,
        "bf16" => bits & 0x8000 | 0x3f00 | bits & 0xff,
        // The lower 13 bits are not looked at.
        "tf32" => bits & 0x8000_0000 | 0x3f00_0000 | bits & 0x00ff_e000,
        "e4m3" => bits & 0x80 | 0x30 | bits & 0x0f,
        "e5m2" => bits & 0x80 | 0x38 | bits & 0x07,
        _ => bits & 0xff,
    }
}

#[test]
fn mma_of_every_shape_and_type() {
    let mut forms = vec![
        ("m16n8k8", 8, "f16", "f16", "f32"),
        ("m16n8k16", 16, "f16", "f16", "f32"),
        ("m16n8k8", 8, "f16", "f16", "f16"),
        ("m16n8k16", 16, "f16", "f16", "f16"),
        ("m16n8k8", 8, "bf16", "bf16", "f32"),
        ("m16n8k16", 16, "bf16", "bf16", "f32"),
        ("m16n8k4", 4, "tf32", "tf32", "f32"),
        ("m16n8k8", 8, "tf32", "tf32", "f32"),
    ];
    for a in ["s8", "u8"] {
        for b in ["s8", "u8"] {
            forms.extend([("m16n8k16", 16, a, b, "s32"), ("m16n8k32", 32, a, b, "s32")]);
        }
    }
    for a in ["e4m3", "e5m2"] {
        forms.extend(["e4m3", "e5m2"].map(|b| ("m16n8k32", 32, a, b, "f32")));
    }
    for (shape, k, at, bt, ct) in forms {
        let width = match at {
            "f16" | "bf16" => 16,
            "tf32" => 32,
            _ => 8,
        };
        let per = 32 / width;
        let (na, nb) = (16 * k / per / 32, 8 * k / per / 32);
        let nc = if ct == "f16" { 2 } else { 4 };
        let mut numbers = Numbers(k as u64);
        let a: Vec<u64> = (0..16 * k).map(|_| code(at, numbers.bits())).collect();
        let b: Vec<u64> = (0..8 * k).map(|_| code(bt, numbers.bits())).collect();
        let c: Vec<u64> = (0..16 * 8)
            .map(|_| match ct {
                "f16" => code("f16", numbers.bits()),
                "f32" => 0x3f80_0000 | numbers.bits() & 0x007f_0000,
                _ => numbers.bits() & 0xffff,
            })
            .collect();
        // The manual's fragments, of 4-byte registers: lane 4 g + t holds row g or g + 8 of A and column g of B.
        let mut input: Vec<u32> = Vec::new();
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            let mut push = |f: &dyn Fn(usize) -> u64, count: usize| {
                let bits = 32 / count;
                input.push(
                    (0..count)
                        .map(|j| (f(j) as u32) << if count == 1 { 0 } else { bits * j })
                        .sum(),
                );
            };
            for i in 0..na {
                push(&|j| a[(g + 8 * (i % 2)) * k + t * per + j + 4 * per * (i / 2)], per);
            }
            for i in 0..nb {
                push(&|j| b[g * k + t * per + j + 4 * per * i], per);
            }
            for i in 0..nc {
                if ct == "f16" {
                    push(&|j| c[(g + 8 * i) * 8 + 2 * t + j], 2);
                } else {
                    push(&|_| c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2], 1);
                }
            }
        }
        let total = na + nb + nc;
        let list = |from: usize, n: usize| {
            (from..from + n).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ")
        };
        let mut text = format!(
            ".version 8.4\n.target sm_89\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
             .reg .b32 %r<40>; .reg .b64 %l<6>;\nld.param.u64 %l0, [out]; ld.param.u64 %l1, [in];\nmov.u32 %r30, %tid.x;\n\
             mul.wide.u32 %l2, %r30, {}; add.u64 %l1, %l1, %l2;\nmul.wide.u32 %l2, %r30, {}; add.u64 %l0, %l0, %l2;\n",
            4 * total,
            4 * nc
        );
        for i in 0..total {
            text += &format!("ld.global.b32 %r{i}, [%l1+{}];\n", 4 * i);
        }
        text += &format!(
            "mma.sync.aligned.{shape}.row.col.{ct}.{at}.{bt}.{ct} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
            list(20, nc),
            list(0, na),
            list(na, nb),
            list(na + nb, nc)
        );
        for i in 0..nc {
            text += &format!("st.global.b32 [%l0+{}], %r{};\n", 4 * i, 20 + i);
        }
        text += "ret;\n}\n";
        let module = Module::parse(&text).unwrap();
        let mut memory = Memory::new();
        let (out, input) = (memory.alloc(32 * nc * 4), memory.upload(&input));
        module
            .kernel("k")
            .unwrap()
            .launch(
                [1; 3],
                [32, 1, 1],
                0,
                &[out.into(), input.into()],
                &mut memory,
                &Options::default(),
            )
            .unwrap();
        let got: Vec<u32> = memory.read(out, 32 * nc).unwrap();
        for row in 0..16 {
            for column in 0..8 {
                let dot: f64 = (0..k)
                    .map(|i| decode(at, a[row * k + i]) * decode(bt, b[column * k + i]))
                    .sum();
                let lane = row % 8 * 4 + column / 2;
                let start = c[row * 8 + column];
                let (value, exact, near) = match ct {
                    "f16" => {
                        let h = got[lane * nc + row / 8] >> (16 * (column % 2)) & 0xffff;
                        let exact = dot + decode("f16", start);
                        (
                            decode("f16", h as u64),
                            exact,
                            exact.abs() * 2f64.powi(-10) + 2f64.powi(-9),
                        )
                    }
                    "f32" => {
                        let x = f32::from_bits(got[lane * nc + row / 8 * 2 + column % 2]);
                        (x as f64, dot + f32::from_bits(start as u32) as f64, 1e-3)
                    }
                    _ => {
                        let x = got[lane * nc + row / 8 * 2 + column % 2] as i32;
                        (x as f64, dot + start as f64, 0.0)
                    }
                };
                assert!(
                    (value - exact).abs() <= near,
                    "{shape} {at} {bt} {ct} at ({row}, {column}): {value}, not {exact}"
                );
            }
        }
    }
}

#[test]
fn boxes_of_tensors_swizzled_and_beyond_the_edges() {
    // 20 rows of 40 u16 in rows of 48; boxes of 16 rows, from inside and from before and behind every edge.
    let (rows, columns, pitch) = (20i64, 40i64, 48i64);
    let tensor: Vec<u16> = (0..rows * pitch).map(|i| i as u16 + 1).collect();
    let text = ".version 8.0\n.target sm_90\n.address_size 64\n\
        .visible .entry k(.param .u64 out, .param .align 64 .b8 map[128], .param .s32 x, .param .s32 y, .param .u32 bytes)\n{\n\
        .reg .b32 %r<20>; .reg .b64 %l<8>; .reg .pred %p<4>;\n.shared .align 1024 .b8 s[2048]; .shared .align 8 .b64 full;\n\
        ld.param.u64 %l0, [out]; ld.param.s32 %r1, [x]; ld.param.s32 %r2, [y]; ld.param.u32 %r3, [bytes];\n\
        mov.b64 %l1, map; cvta.param.u64 %l1, %l1; mov.u32 %r0, %tid.x; setp.ne.u32 %p1, %r0, 0;\n@%p1 bra WAIT;\n\
        mbarrier.init.shared.b64 [full], 1; mbarrier.arrive.expect_tx.shared.b64 %l2, [full], %r3;\n\
        cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [s], [%l1, {%r1, %r2}], [full];\n\
        WAIT:\nbar.warp.sync -1;\nAGAIN:\nmbarrier.try_wait.parity.shared.b64 %p2, [full], 0;\n@!%p2 bra AGAIN;\n\
        shl.b32 %r4, %r0, 4;\nLOOP:\nsetp.ge.u32 %p3, %r4, %r3;\n@%p3 ret;\nmov.u32 %r5, s; add.u32 %r5, %r5, %r4;\n\
        ld.shared.v4.u32 {%r6, %r7, %r8, %r9}, [%r5];\ncvt.u64.u32 %l3, %r4; add.u64 %l3, %l0, %l3;\n\
        st.global.v4.u32 [%l3], {%r6, %r7, %r8, %r9};\nadd.u32 %r4, %r4, 512;\nbra LOOP;\n}\n";
    let module = Module::parse(text).unwrap();
    for (swizzle, inner) in [
        (Swizzle::None, 24usize),
        (Swizzle::Bytes32, 16),
        (Swizzle::Bytes64, 32),
        (Swizzle::Bytes128, 64),
    ] {
        for (x, y) in [(0, 0), (3, 5), (-5, -3), (30, 10), (-100, 0), (0, 20)] {
            let mut memory = Memory::new();
            let base = memory.upload(&tensor);
            let shape = [columns as u64, rows as u64];
            let extent = [inner as u32, 16];
            let map =
                TensorMap::new(base, 2, &shape, &[2 * pitch as u64], &extent, swizzle).unwrap();
            let bytes = inner * 16 * 2;
            let out = memory.alloc(bytes);
            let args = [out.into(), map.into(), x.into(), y.into(), (bytes as u32).into()];
            let kernel = module.kernel("k").unwrap();
            let c = kernel
                .launch([1; 3], [32, 1, 1], 0, &args, &mut memory, &Options::default())
                .unwrap();
            let got: Vec<u16> = memory.read(out, inner * 16).unwrap();
            let mut present = 0;
            for r in 0..16usize {
                for i in 0..inner {
                    let (row, column) = (y as i64 + r as i64, x as i64 + i as i64);
                    let inside = (0..rows).contains(&row) && (0..columns).contains(&column);
                    present += u64::from(inside);
                    let want = if inside { tensor[(row * pitch + column) as usize] } else { 0 };
                    // Chunks of 8 elements change places by the number of their 128-byte line.
                    let chunk = i / 8
                        ^ match swizzle {
                            Swizzle::Bytes32 => r / 4 % 2,
                            Swizzle::Bytes64 => r / 2 % 4,
                            Swizzle::Bytes128 => r % 8,
                            _ => 0,
                        };
                    assert_eq!(
                        got[r * inner + chunk * 8 + i % 8],
                        want,
                        "{swizzle:?} from ({x}, {y}): {r}, {i}"
                    );
                }
            }
            assert_eq!(c.global_load.bytes, 2 * present);
        }
    }
}

/// One product with both factors from shared memory, K innermost, no swizzle: 8 x 8 pieces of 128 bytes.
#[test]
fn wgmma_of_other_widths_types_and_signs() {
    for (n, ty, signs, keep) in [
        (8usize, "bf16", [1, 1], true),
        (24, "f16", [1, -1], false),
        (96, "f16", [-1, -1], true),
        (256, "bf16", [-1, 1], true),
    ] {
        let mut numbers = Numbers(n as u64);
        let a: Vec<u64> = (0..64 * 16).map(|_| code(ty, numbers.bits())).collect();
        let b: Vec<u64> = (0..n * 16).map(|_| code(ty, numbers.bits())).collect();
        // Row i, column k: piece (i / 8, k / 8), the two pieces of a row group side by side.
        let pieces = |x: &[u64], rows: usize| {
            let mut out = vec![0u16; rows * 16];
            for i in 0..rows {
                for k in 0..16 {
                    out[(i / 8 * 2 + k / 8) * 64 + i % 8 * 8 + k % 8] = x[i * 16 + k] as u16;
                }
            }
            out
        };
        let mut input = pieces(&a, 64);
        input.extend(pieces(&b, n));
        let accumulators = n / 2;
        let list: Vec<String> = (0..accumulators).map(|i| format!("%f{i}")).collect();
        let mut text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k(.param .u64 out, .param .u64 in)\n{{\n\
             .reg .f32 %f<128>; .reg .b32 %r<20>; .reg .b64 %l<12>; .reg .pred %p<3>;\n.shared .align 128 .b8 s[{bytes}];\n\
             ld.param.u64 %l0, [out]; ld.param.u64 %l1, [in]; mov.u32 %r0, %tid.x;\nshl.b32 %r1, %r0, 4;\nLOOP:\n\
             cvt.u64.u32 %l2, %r1; add.u64 %l2, %l1, %l2; ld.global.v4.u32 {{%r2, %r3, %r4, %r5}}, [%l2];\n\
             mov.u32 %r6, s; add.u32 %r7, %r6, %r1; st.shared.v4.u32 [%r7], {{%r2, %r3, %r4, %r5}};\n\
             add.u32 %r1, %r1, 2048; setp.lt.u32 %p1, %r1, {bytes};\n@%p1 bra LOOP;\nbar.sync 0;\n\
             fence.proxy.async;\nshr.u32 %r6, %r6, 4; cvt.u64.u32 %l3, %r6;\n\
             or.b64 %l4, %l3, {descriptor}; add.u64 %l5, %l4, 128;\nsetp.ne.u32 %p2, {keep}, 0;\n",
            bytes = 2 * input.len(),
            descriptor = (128u64 >> 4) << 16 | (256u64 >> 4) << 32,
            keep = u32::from(keep),
        );
        for f in &list {
            text += &format!("mov.f32 {f}, 0f40000000;\n");
        }
        text += &format!(
            "wgmma.fence.sync.aligned;\nwgmma.mma_async.sync.aligned.m64n{n}k16.f32.{ty}.{ty} {{{}}}, %l4, %l5, %p2, {}, {}, 0, 0;\n\
             wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n\
             mul.wide.u32 %l6, %r0, {}; add.u64 %l6, %l0, %l6;\n",
            list.join(", "),
            signs[0],
            signs[1],
            4 * accumulators
        );
        for (i, f) in list.iter().enumerate() {
            text += &format!("st.global.f32 [%l6+{}], {f};\n", 4 * i);
        }
        text += "ret;\n}\n";
        let module = Module::parse(&text).unwrap();
        let mut memory = Memory::new();
        let (out, input) = (memory.alloc(64 * n * 4), memory.upload(&input));
        let kernel = module.kernel("k").unwrap();
        kernel
            .launch(
                [1; 3],
                [128, 1, 1],
                0,
                &[out.into(), input.into()],
                &mut memory,
                &Options::default(),
            )
            .unwrap();
        let got: Vec<f32> = memory.read(out, 64 * n).unwrap();
        for row in 0..64 {
            for column in 0..n {
                let dot: f64 = (0..16)
                    .map(|k| decode(ty, a[row * 16 + k]) * decode(ty, b[column * 16 + k]))
                    .sum();
                let want = dot * (signs[0] * signs[1]) as f64 + if keep { 2.0 } else { 0.0 };
                // Warp w has rows 16 w to 16 w + 15, each lane as in mma.
                let thread = row / 16 * 32 + row % 8 * 4 + column % 8 / 2;
                let slot = column / 8 * 4 + row % 16 / 8 * 2 + column % 2;
                let x = got[thread * accumulators + slot] as f64;
                assert!(
                    (x - want).abs() < 1e-3,
                    "n {n} {ty} at ({row}, {column}): {x}, not {want}"
                );
            }
        }
    }
}

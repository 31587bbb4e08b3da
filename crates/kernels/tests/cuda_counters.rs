//! Memory traffic of the `cuda` device's kernels, counted by the emulator: the bytes that their docs state, and no sector that is not
//! full. What a GPU makes of them in time is not seen here.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use crate::common;

use std::sync::Arc;

use common::Draw;
use farthing_kernels::cuda::driver::{Arg, Driver, Kernel, Module};
use farthing_kernels::cuda::{Cuda, emulated::Emulator};
use farthing_kernels::{AdamWHyper, Coef, DType, Device, Shape, Tensor};
use ptx_emulator::Counters;

/// An emulated device whose counters are seen, and tensors of drawn values on it.
struct Bench {
    emulator: Arc<Emulator>,
    cuda: Cuda,
    draw: Draw,
}

impl Bench {
    fn new() -> Self {
        let emulator = Arc::new(Emulator::new());
        let cuda = Cuda::on_emulator(emulator.clone()).unwrap();
        Self { emulator, cuda, draw: Draw::new(9) }
    }

    fn dev(&self) -> &dyn Device {
        &self.cuda
    }

    fn tensor(&mut self, dtype: DType, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        let values = self.draw.normals(shape.elements());
        let mut tensor = self.dev().alloc(dtype, shape).unwrap();
        self.dev().write_f64(tensor.view_mut(), &values).unwrap();
        tensor
    }

    fn bf16(&mut self, shape: impl Into<Shape>) -> Tensor {
        self.tensor(DType::BF16, shape)
    }

    fn f32(&mut self, shape: impl Into<Shape>) -> Tensor {
        self.tensor(DType::F32, shape)
    }

    /// The launches of one call.
    fn launches(&self, call: impl FnOnce(&dyn Device)) -> Vec<(&'static str, Counters)> {
        self.emulator.take_launches();
        call(self.dev());
        self.emulator.take_launches()
    }

    /// The counters of a call that is one launch of this kernel.
    fn counters(&self, kernel: &str, call: impl FnOnce(&dyn Device)) -> Counters {
        let mut launches = self.launches(call);
        assert_eq!(launches.len(), 1, "{launches:?}");
        let (name, counters) = launches.pop().unwrap();
        assert_eq!(name, kernel);
        counters
    }
}

/// Exactly these bytes, in sectors that are full.
fn coalesced(counters: &Counters, read: usize, written: usize) {
    let (load, store) = (counters.global_load, counters.global_store);
    assert_eq!((load.bytes, store.bytes), (read as u64, written as u64));
    assert_eq!((load.efficiency(), store.efficiency()), (1.0, 1.0), "{load:?}, {store:?}");
}

const N: usize = 64;
const C: usize = 1024;

#[test]
fn rms_norm_at_64_by_1024_moves_what_its_docs_state_and_no_more() {
    let mut b = Bench::new();
    let (x, mut y, mut rstd) = (b.bf16([N, C]), b.bf16([N, C]), b.f32([N]));
    let counters = b.counters("rms_norm_warp", |d| {
        d.rms_norm(y.view_mut(), rstd.view_mut(), x.view()).unwrap();
    });
    coalesced(&counters, N * 2 * C, N * (2 * C + 4));
}

#[test]
fn mix_norm_at_64_by_1024_moves_what_its_docs_state_and_no_more() {
    let mut b = Bench::new();
    let (x, y) = (b.bf16([N, C]), b.bf16([N, C]));
    let (mut out, mut normed, mut rstd) = (b.bf16([N, C]), b.bf16([N, C]), b.f32([N]));
    let (a, bb) = (b.f32([1]), b.f32([1]));
    let mut run = |a: Coef<'_>, c: Coef<'_>| {
        b.counters("mix_norm_warp", |d| {
            let outs = (out.view_mut(), normed.view_mut(), rstd.view_mut());
            d.mix_norm(outs.0, outs.1, outs.2, x.view(), a, y.view(), c).unwrap();
        })
    };
    let plain = run(Coef::ONE, Coef { parameter: None, times: 0.5 });
    coalesced(&plain, N * 4 * C, N * (4 * C + 4));
    // Parameters: a sector for each of the 64 warps and two parameters, whatever the lanes that ask for it.
    let counters = run(Coef::new(a.view(), 1.0), Coef::new(bb.view(), 0.5));
    assert_eq!(counters.global_load.sectors, plain.global_load.sectors + 2 * N as u64);
    assert_eq!(counters.global_load.requests, plain.global_load.requests + 2 * N as u64);
    assert_eq!(counters.global_store, plain.global_store);
}

#[test]
fn rms_norm_backward_reads_dx_only_to_add_to_it() {
    let mut b = Bench::new();
    let (dy, y, rstd, mut dx) = (b.bf16([N, C]), b.bf16([N, C]), b.f32([N]), b.bf16([N, C]));
    for accumulate in [false, true] {
        let counters = b.counters("rms_norm_backward_warp", |d| {
            let (dx, rstd) = (dx.view_mut(), rstd.view());
            d.rms_norm_backward(dx, dy.view(), y.view(), rstd, accumulate).unwrap();
        });
        let (read, stored) = (N * C * if accumulate { 6 } else { 4 }, counters.global_store);
        // A sector for each row's rstd.
        assert_eq!(counters.global_load.sectors as usize, read / 32 + N);
        assert_eq!((stored.bytes as usize, stored.efficiency()), (N * C * 2, 1.0));
    }
}

/// Rows of a block each: what is kept in registers is read once, what is beyond them twice.
#[test]
fn rows_are_read_once_up_to_8192_columns() {
    let mut b = Bench::new();
    for (c, read) in [(4096, 2 * 4096), (8192, 2 * 8192), (10_240, 2 * 10_240 + 2 * 2048)] {
        let (x, mut y, mut rstd) = (b.bf16([4, c]), b.bf16([4, c]), b.f32([4]));
        let counters = b.counters("rms_norm_block", |d| {
            d.rms_norm(y.view_mut(), rstd.view_mut(), x.view()).unwrap();
        });
        let (load, store) = (counters.global_load, counters.global_store);
        assert_eq!((load.bytes as usize, load.efficiency()), (4 * read, 1.0), "C {c}");
        assert_eq!(store.bytes as usize, 4 * (2 * c + 4), "C {c}");
        // And one sector for each row's rstd.
        assert_eq!(store.sectors as usize, 4 * (2 * c / 32 + 1), "C {c}");
    }
}

#[test]
fn elementwise_kernels_move_what_their_docs_state() {
    let mut b = Bench::new();
    let n = 3 * 2048;
    let (mut p, mut q, x, z) = (b.bf16([n]), b.bf16([n]), b.bf16([n]), b.bf16([n]));
    let relu2 = b.counters("relu2", |d| d.relu2(p.view_mut(), x.view()).unwrap());
    coalesced(&relu2, 2 * n, 2 * n);
    let back = b.counters("relu2_backward", |d| d.relu2_backward(p.view_mut(), x.view()).unwrap());
    coalesced(&back, 4 * n, 2 * n);
    let swiglu = b.counters("swiglu", |d| d.swiglu(p.view_mut(), x.view(), z.view()).unwrap());
    coalesced(&swiglu, 4 * n, 2 * n);
    let back = b.counters("swiglu_backward", |d| {
        d.swiglu_backward(p.view_mut(), q.view_mut(), x.view(), z.view()).unwrap();
    });
    coalesced(&back, 6 * n, 4 * n);
    let half = Coef { parameter: None, times: 0.5 };
    let mix = b.counters("mix", |d| d.mix(p.view_mut(), x.view(), half, z.view(), half).unwrap());
    coalesced(&mix, 4 * n, 2 * n);
}

#[test]
fn adamw_reads_16_bytes_an_element_and_writes_12() {
    let mut b = Bench::new();
    let n = 5 * 1024;
    let (mut p, mut m, mut v, g) = (b.f32([n]), b.f32([n]), b.f32([n]), b.f32([n]));
    let hyper =
        AdamWHyper { lr: 0.1, beta1: 0.8, beta2: 0.95, eps: 1e-10, weight_decay: 0.1, step: 1 };
    let counters = b.counters("adamw", |d| {
        d.adamw(p.view_mut(), m.view_mut(), v.view_mut(), g.view(), hyper).unwrap();
    });
    coalesced(&counters, 16 * n, 12 * n);
}

/// mix_backward reads an operand only for its sum.
#[test]
fn a_sum_that_no_one_asks_for_costs_nothing() {
    let mut b = Bench::new();
    let n = 4 * 2048;
    let (mut dx, mut dy, x, y) = (b.bf16([n]), b.bf16([n]), b.bf16([n]), b.bf16([n]));
    let (mut da, mut db) = (b.f32([1]), b.f32([1]));
    let half = Coef { parameter: None, times: 0.5 };
    for (with_a, with_b) in [(false, false), (true, false), (false, true), (true, true)] {
        let launches = b.launches(|d| {
            let da = with_a.then(|| da.view_mut());
            let db = with_b.then(|| db.view_mut());
            let (dx, dy) = (dx.view_mut(), dy.view_mut());
            d.mix_backward(dx, dy, da, db, x.view(), half, y.view(), half).unwrap();
        });
        let sums = usize::from(with_a) + usize::from(with_b);
        let (name, counters) = &launches[0];
        assert_eq!(*name, "mix_backward");
        let (load, store) = (counters.global_load, counters.global_store);
        assert_eq!((load.bytes as usize, load.efficiency()), (n * (4 + 2 * sums), 1.0));
        // Four blocks, each with its share of each sum.
        assert_eq!(store.bytes as usize, 4 * n + 4 * 4 * sums);
        match launches.get(1) {
            None => assert_eq!(sums, 0),
            Some((name, counters)) => {
                assert_eq!(*name, "add_partials");
                // Four shares of each sum, and the gradient that is added to.
                assert_eq!(counters.global_load.bytes as usize, sums * (4 * 4 + 4));
                assert_eq!(counters.global_store.bytes as usize, 4 * sums);
            }
        }
    }
}

#[test]
fn look_ups_move_what_their_docs_state() {
    let mut b = Bench::new();
    let (n, v, c) = (128, 50, 768);
    let (table, mut out) = (b.bf16([v, c]), b.bf16([n, c]));
    let ids: Vec<i32> = (0..n).map(|i| (i * i % v) as i32).collect();
    let mut order: Vec<i32> = (0..n as i32).collect();
    order.sort_by_key(|&n| (ids[n as usize], n));
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let (ids, order) = (common::indices(b.dev(), &ids), common::indices(b.dev(), &order));
    let counters =
        b.counters("embed", |d| d.embed(out.view_mut(), table.view(), ids.view()).unwrap());
    coalesced(&counters, n * (2 * c + 4), n * 2 * c);

    let mut dtable = b.f32([v, c]);
    let counters = b.counters("embed_backward", |d| {
        d.embed_backward(dtable.view_mut(), out.view(), ids.view(), order.view()).unwrap();
    });
    let rows = 2 * c * n + 4 * c * distinct.len();
    let (load, store) = (counters.global_load, counters.global_store);
    assert_eq!((store.bytes as usize, store.efficiency()), (4 * c * distinct.len(), 1.0));
    // Each place's row and id are looked up for each 128 columns, and those beside the places of each of four warps, but at the ends; and
    // the last place's once more, by a warp behind.
    assert_eq!(load.bytes as usize - rows, (8 * n + 8 * (2 * 4 - 1)) * 6);
}

/// The instructions that follow one another in an operation: of each launch, those of the warp with the most.
fn chain(launches: &[(&'static str, Counters)]) -> u64 {
    launches.iter().map(|(_, counters)| counters.longest_warp).sum()
}

#[test]
fn the_time_of_embed_backward_is_not_that_of_the_most_frequent_id() {
    let mut b = Bench::new();
    let (v, c) = (4096, 128);
    let mut run = |n: usize, id: fn(usize) -> usize| {
        let (mut dtable, dout) = (b.f32([v, c]), b.bf16([n, c]));
        let ids: Vec<i32> = (0..n).map(|i| id(i) as i32).collect();
        let order: Vec<i32> = (0..n as i32).collect();
        let (ids, order) = (common::indices(b.dev(), &ids), common::indices(b.dev(), &order));
        let launches = b.launches(|d| {
            d.embed_backward(dtable.view_mut(), dout.view(), ids.view(), order.view()).unwrap();
        });
        chain(&launches)
    };
    let (one, distinct) = (|_| 0, |i| i);
    // 2,048 rows of one id take no longer than as many of an id each, and twice as many no longer than these, but for the sums of pieces,
    // of which a warp has every eighth.
    let (hot, cold, hotter) = (run(2048, one), run(2048, distinct), run(4096, one));
    assert!(hot < cold, "{hot}, {cold}");
    assert!(hotter < hot + 100, "{hot}, {hotter}");
    // A run that crosses borders, among others.
    let mixed = run(2048, |i| if i < 1500 { 0 } else { i });
    assert!(mixed < cold + 300, "{mixed}, {cold}");
}

#[test]
fn the_time_of_the_gates_weights_is_not_that_of_their_partial_sums() {
    let mut b = Bench::new();
    let (k, d, g) = (1, 8, 4);
    let mut run = |n: usize| {
        let (dv, ve, x) = (b.bf16([n, k, d]), b.bf16([n, k, d]), b.bf16([n, g]));
        let (gate, w, mut dw) = (b.f32([n, k]), b.bf16([k, g]), b.f32([k, g]));
        let (mut dve, mut dx) = (b.bf16([n, k, d]), b.bf16([n, g]));
        let launches = b.launches(|dev| {
            let (dve, dw, dx) = (dve.view_mut(), dw.view_mut(), dx.view_mut());
            let (dv, ve, gate) = (dv.view(), ve.view(), gate.view());
            dev.value_gate_backward(dve, dw, dx, dv, ve, gate, x.view(), w.view(), 3.0).unwrap();
        });
        assert_eq!(launches[0].0, "value_gate_backward");
        assert!(launches[1..].iter().all(|launch| launch.0 == "value_gate_weights"));
        chain(&launches[1..])
    };
    // A partial sum of each 32 rows: 64, 128 and 1,024 of them.
    let [few, more, most] = [2048, 4096, 32_768].map(&mut run);
    assert!(more <= 2 * few && most <= more + 20, "{few}, {more}, {most}");
}

#[test]
fn smear_moves_what_its_docs_state() {
    let mut b = Bench::new();
    let (t, c, g) = (64, 1024, 24);
    let (x, dout, w, lambda) = (b.bf16([1, t, c]), b.bf16([1, t, c]), b.bf16([1, g]), b.f32([1]));
    let (mut out, mut gate) = (b.bf16([1, t, c]), b.f32([1, t]));
    let counters = b.counters("smear", |d| {
        let (out, gate) = (out.view_mut(), gate.view_mut());
        d.smear(out, gate, x.view(), None, w.view(), lambda.view()).unwrap();
    });
    let (load, store) = (counters.global_load, counters.global_store);
    assert_eq!(store.bytes as usize, t * (2 * c + 4));
    // The first row has none before it: it reads itself, and neither the gate's weights nor lambda, which each lane of the others reads.
    assert_eq!(load.bytes as usize, (t - 1) * (4 * c + 4 * g + 32 * 4) + 2 * c);

    let (mut dw, mut dlambda) = (b.f32([1, g]), b.f32([1]));
    let launches = b.launches(|d| {
        let (dx, dw, dlambda) = (out.view_mut(), dw.view_mut(), dlambda.view_mut());
        let (x, gate) = (x.view(), gate.view());
        d.smear_backward(dx, dw, dlambda, dout.view(), x, gate, w.view(), lambda.view()).unwrap();
    });
    let [(_, rows), (name, sums)] = &launches[..] else { panic!("{launches:?}") };
    assert_eq!(*name, "smear_sums");
    // 8 blocks of 8 rows, each with its share of dw and dlambda.
    assert_eq!(rows.global_store.bytes as usize, t * 2 * c + 8 * (g + 1) * 4);
    let least = t * (8 * c + 2 * g) - 4 * c;
    let read = rows.global_load.bytes as usize;
    // Every lane reads its row's gate and the next one's, and of w the elements that it needs.
    assert!((least..least + t * (2 * 32 * 4 + 2 * g) + 8 * 256 * 4).contains(&read), "{read}");
    assert_eq!(sums.global_load.bytes as usize, (8 + 1) * (g + 1) * 4);
}

static STRIDED: Module = Module { name: "strided", ptx: include_str!("kernels/strided.ptx") };
static RMS_NORM_STRIDED: Kernel =
    Kernel { module: &STRIDED, name: "rms_norm_strided", threads: 256, shared_bytes: 0 };

/// The same operation, each lane reading its own stretch of the row: right, and a sixteenth as good.
#[test]
fn a_strided_variant_is_shown_up() {
    let mut b = Bench::new();
    let (x, mut y, mut rstd) = (b.bf16([N, C]), b.bf16([N, C]), b.f32([N]));
    let good = b.counters("rms_norm_warp", |d| {
        d.rms_norm(y.view_mut(), rstd.view_mut(), x.view()).unwrap();
    });
    let (good_y, good_rstd) = (common::values(b.dev(), &y), common::values(b.dev(), &rstd));

    let address = |tensor: &Tensor| Arg::Address(tensor.view().address() as u64);
    let (n, c, inverse) = (Arg::I64(N as i64), Arg::I32(C as i32), Arg::F32(1.0 / C as f32));
    let args = [address(&y), address(&rstd), address(&x), n, c, inverse];
    b.emulator.take_launches();
    b.emulator.launch(&RMS_NORM_STRIDED, [N as u32 / 8, 1, 1], &args).unwrap();
    let (_, strided) = b.emulator.take_launches().pop().unwrap();
    assert!(common::relative(&common::values(b.dev(), &y), &good_y) < 1e-2);
    assert!(common::relative(&common::values(b.dev(), &rstd), &good_rstd) < 1e-6);

    // It asks twice for what the other keeps, and each two bytes cost a sector.
    assert_eq!(strided.global_load.bytes, 2 * good.global_load.bytes);
    assert_eq!(strided.global_store.bytes, good.global_store.bytes);
    assert_eq!(strided.global_load.efficiency(), 2.0 / 32.0);
    assert!(strided.global_store.efficiency() < 0.07);
    assert_eq!(strided.global_load.sectors, 32 * good.global_load.sectors);
}

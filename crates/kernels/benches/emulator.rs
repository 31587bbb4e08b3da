//! Lane-instructions per second of kernels that ship, in the emulator, through the launch code and with every check on.
//!
//! `cargo bench -p farthing-kernels --bench emulator`

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing to report")]

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::{AttentionShape, Device, Shape, Tensor};

/// Activations with values in −1..1.
fn tensor(dev: &dyn Device, shape: impl Into<Shape>) -> Tensor {
    let mut tensor = dev.activations(shape).unwrap();
    let n = tensor.shape().elements();
    let values: Vec<f64> = (0..n).map(|i| (i * 37 % 101) as f64 / 51.0 - 1.0).collect();
    dev.write_f64(tensor.view_mut(), &values).unwrap();
    tensor
}

/// Times `call`, in the lane-instructions that its launches took.
fn measure(c: &mut Criterion, name: &str, emulator: &Emulator, mut call: impl FnMut()) {
    emulator.take_launches();
    call();
    let lanes =
        emulator.take_launches().iter().map(|(_, counters)| counters.lane_instructions).sum();
    let mut group = c.benchmark_group("lane_instructions");
    group
        .throughput(Throughput::Elements(lanes))
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    group.bench_function(name, |b| {
        b.iter(|| {
            call();
            emulator.take_launches()
        });
    });
    group.finish();
}

fn elementwise(c: &mut Criterion) {
    let emulator = Arc::new(Emulator::new());
    let dev: &dyn Device = &Cuda::on_emulator(emulator.clone()).unwrap();
    let x = tensor(dev, [512, 2048]);
    let mut y = dev.activations([512, 2048]).unwrap();
    measure(c, "relu2", &emulator, || dev.relu2(y.view_mut(), x.view()).unwrap());
}

fn attention(c: &mut Criterion) {
    let emulator = Arc::new(Emulator::new());
    let dev: &dyn Device = &Cuda::on_emulator(emulator.clone()).unwrap();
    for d in [64, 128] {
        let (t, h) = (512, 4);
        let [q, k, v, dout] = [(); 4].map(|()| tensor(dev, [1, t, h, d]));
        let [mut out, mut dq, mut dk, mut dv] =
            [(); 4].map(|()| dev.activations([1, t, h, d]).unwrap());
        let [mut lse, mut delta] = [(); 2].map(|()| dev.master([1, h, t]).unwrap());
        let at = AttentionShape { window: usize::MAX, scale: 1.0 / (d as f64).sqrt() };
        measure(c, &format!("attention_{d}"), &emulator, || {
            dev.attention(out.view_mut(), lse.view_mut(), q.view(), k.view(), v.view(), at)
                .unwrap();
        });
        measure(c, &format!("attention_backward_{d}"), &emulator, || {
            dev.attention_backward(
                dq.view_mut(),
                dk.view_mut(),
                dv.view_mut(),
                delta.view_mut(),
                dout.view(),
                out.view(),
                lse.view(),
                q.view(),
                k.view(),
                v.view(),
                at,
            )
            .unwrap();
        });
    }
}

criterion_group!(emulator, elementwise, attention);
criterion_main!(emulator);

//! Properties of attention: what a window and a key/value cache must not change.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use crate::common;

use common::{Draw, relative, tensor};
use farthing_kernels::{AttentionShape, Device, DeviceKind, Tensor, open};

/// Devices, and how close two ways to one result have to be.
fn devices() -> [(Box<dyn Device>, f64); 2] {
    [(open(DeviceKind::Reference, 1).unwrap(), 1e-14), (open(DeviceKind::Cpu, 2).unwrap(), 2e-6)]
}

struct Call<'d> {
    dev: &'d dyn Device,
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

impl<'d> Call<'d> {
    fn new(dev: &'d dyn Device, [b, t, h, k, d]: [usize; 5]) -> Self {
        let mut draw = Draw::new(11);
        let mut normal = |heads| tensor(dev, [b, t, heads, d], &draw.normals(b * t * heads * d));
        let (q, k, v) = (normal(h), normal(k), normal(k));
        Self { dev, q, k, v }
    }

    fn at(&self, window: usize) -> AttentionShape {
        AttentionShape { window, scale: 1.0 / (self.q.shape()[3] as f64).sqrt() }
    }

    /// out and lse, of the last `t` queries.
    fn last(&self, t: usize, window: usize) -> (Vec<f64>, Vec<f64>) {
        let [b, s, h, d] = *self.q.shape() else { unreachable!() };
        let q = if t == s {
            self.q.view()
        } else {
            assert_eq!(b, 1);
            self.q.view().at(0).unwrap().rows(s - t..s).unwrap().reshape([1, t, h, d]).unwrap()
        };
        let mut out = self.dev.activations([b, t, h, d]).unwrap();
        let mut lse = self.dev.master([b, h, t]).unwrap();
        let outs = (out.view_mut(), lse.view_mut());
        let at = self.at(window);
        self.dev.attention(outs.0, outs.1, q, self.k.view(), self.v.view(), at).unwrap();
        (self.dev.read_f64(out.view()).unwrap(), self.dev.read_f64(lse.view()).unwrap())
    }

    /// dq, dk and dv of the sum of `out`.
    fn gradients(&self, window: usize) -> [Vec<f64>; 3] {
        let [b, t, h, d] = *self.q.shape() else { unreachable!() };
        let (out, lse) = self.last(t, window);
        let ones = tensor(self.dev, [b, t, h, d], &vec![1.0; b * t * h * d]);
        let out = tensor(self.dev, [b, t, h, d], &out);
        let lse = tensor(self.dev, [b, h, t], &lse);
        let mut grads = [self.q.shape(), self.k.shape(), self.v.shape()]
            .map(|shape| self.dev.activations(shape).unwrap());
        let mut delta = self.dev.master([b, h, t]).unwrap();
        let [dq, dk, dv] = &mut grads;
        self.dev
            .attention_backward(
                dq.view_mut(),
                dk.view_mut(),
                dv.view_mut(),
                delta.view_mut(),
                ones.view(),
                out.view(),
                lse.view(),
                self.q.view(),
                self.k.view(),
                self.v.view(),
                self.at(window),
            )
            .unwrap();
        grads.map(|g| self.dev.read_f64(g.view()).unwrap())
    }
}

#[test]
fn a_window_that_covers_everything_is_no_window() {
    for (dev, tolerance) in devices() {
        let call = Call::new(&*dev, [2, 150, 4, 2, 16]);
        let full = call.last(150, usize::MAX);
        for window in [149, 150, 192, 1000] {
            let windowed = call.last(150, window);
            assert!(relative(&windowed.0, &full.0) <= tolerance, "{} {window}", dev.name());
            assert!(relative(&windowed.1, &full.1) <= tolerance, "{} {window}", dev.name());
            for (windowed, full) in call.gradients(window).iter().zip(call.gradients(usize::MAX)) {
                assert!(relative(windowed, &full) <= 10.0 * tolerance, "{} {window}", dev.name());
            }
        }
        let short = call.last(150, 148);
        assert!(relative(&short.0, &full.0) > 1e-5, "one key fewer must show");
    }
}

#[test]
fn fewer_queries_than_keys_are_the_last_ones() {
    for (dev, tolerance) in devices() {
        let call = Call::new(&*dev, [1, 300, 3, 1, 16]);
        for window in [0, 5, 128, usize::MAX] {
            let (out, lse) = call.last(300, window);
            for t in [1, 2, 70, 299] {
                let (last, last_lse) = call.last(t, window);
                let from = (300 - t) * 3 * 16;
                assert!(relative(&last, &out[from..]) <= tolerance, "{} {window} {t}", dev.name());
                for h in 0..3 {
                    let expected = &lse[h * 300 + 300 - t..(h + 1) * 300];
                    let got = &last_lse[h * t..(h + 1) * t];
                    assert!(relative(got, expected) <= tolerance, "{} {window} {t}", dev.name());
                }
            }
        }
    }
}

#[test]
fn keys_outside_the_window_do_not_matter() {
    for (dev, _) in devices() {
        let mut call = Call::new(&*dev, [1, 200, 2, 2, 8]);
        let (clean, _) = call.last(70, 30);
        // Position 99 is seen by no query from 130 on.
        let large: Vec<f64> =
            (0..100 * 2 * 8).map(|i| if i % 2 == 0 { 1e6 } else { -1e6 }).collect();
        for tensor in [&mut call.k, &mut call.v] {
            let rows = tensor.view_mut().at(0).unwrap().rows(0..100).unwrap();
            dev.write_f64(rows, &large).unwrap();
        }
        assert_eq!(call.last(70, 30).0, clean, "{}", dev.name());
        assert_ne!(call.last(70, 31).0, clean, "{}: one key more must show", dev.name());
    }
}

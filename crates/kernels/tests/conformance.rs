//! Every operation's conformance body, a test each, on every device present.
#![allow(clippy::print_stderr, reason = "a device that is skipped says why")]

use crate::wanted;

use farthing_kernels::conformance::{self, BODIES, Body, Mismatch, large};
use farthing_kernels::{DeviceKind, open};

use wanted::{Wanted, wanted};

/// The devices, and the threads to open them with: `cpu` on one thread and on several.
const DEVICES: [(DeviceKind, usize); 5] = [
    (DeviceKind::Reference, 1),
    (DeviceKind::Cpu, 1),
    (DeviceKind::Cpu, 3),
    (DeviceKind::Emulated, 1),
    (DeviceKind::Cuda(0), 1),
];

fn on_every_device(name: &str, body: Body) {
    for (kind, threads) in DEVICES.into_iter().filter(|&(kind, _)| wanted(kind) != Wanted::No) {
        match open(kind, threads) {
            Ok(dev) => match body(&*dev) {
                Ok(error) => eprintln!("{name} on {kind}, {threads} threads: {error:.1e}"),
                Err(mismatch) => panic!("{kind}, {threads} threads: {mismatch}"),
            },
            Err(reason) if wanted(kind) == Wanted::Required => {
                panic!("{name}: {kind} was asked for: {reason}")
            }
            Err(reason) => eprintln!("{name}: skipped {kind}: {reason}"),
        }
    }
}

/// What is large, at small sizes: its own code, on every device.
#[test]
fn large_bodies_at_small_sizes() {
    for &(name, body) in large::TOY {
        on_every_device(name, body);
    }
}

/// What a CPU does in seconds, and why not the rest.
const LARGE_ON_CPU: [(&str, Option<&str>); 10] = [
    ("attention_long", None),
    ("attention_backward_long", None),
    ("logits_wide", Some("a quarter of a minute on two cores")),
    ("attention_repeated", Some("100 times attention_long and its backward: minutes")),
    ("reductions_repeated", Some("half a minute on two cores")),
    ("elementwise_beyond_32_bits", Some(OF_ITS_OWN)),
    ("norms_beyond_32_bits", Some(OF_ITS_OWN)),
    ("embedding_beyond_32_bits", Some(OF_ITS_OWN)),
    ("logits_beyond_32_bits", Some(OF_ITS_OWN)),
    ("sums_beyond_32_bits", Some(OF_ITS_OWN)),
];

const OF_ITS_OWN: &str = "operands of 8 GiB are for a device whose memory is its own";

#[test]
fn large_bodies() {
    let names: Vec<&str> = large::LARGE.iter().map(|&(name, _)| name).collect();
    assert_eq!(names, LARGE_ON_CPU.map(|(name, _)| name));
    for kind in [DeviceKind::Cpu, DeviceKind::Cuda(0)] {
        if wanted(kind) == Wanted::No {
            continue;
        }
        let dev = match open(kind, 0) {
            Ok(dev) => dev,
            Err(reason) if wanted(kind) == Wanted::Required => {
                panic!("{kind} was asked for: {reason}")
            }
            Err(reason) => {
                eprintln!("skipped {kind}: {reason}");
                continue;
            }
        };
        for (&(name, body), (_, skipped)) in large::LARGE.iter().zip(LARGE_ON_CPU) {
            match skipped.filter(|_| kind == DeviceKind::Cpu) {
                Some(reason) => eprintln!("{name}: skipped {kind}: {reason}"),
                None => match body(&*dev) {
                    Ok(error) => eprintln!("{name} on {kind}: {error:.1e}"),
                    Err(not_run @ Mismatch::NotRun { .. }) => {
                        eprintln!("{name}: skipped {kind}: {not_run}");
                    }
                    Err(mismatch) => panic!("{kind}: {mismatch}"),
                },
            }
        }
    }
}

macro_rules! bodies {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            on_every_device(stringify!($name), conformance::$name);
        })*

        #[test]
        fn every_body_is_a_test_here() {
            let tests = [$(stringify!($name)),*];
            let bodies: Vec<&str> = BODIES.iter().map(|&(name, _)| name).collect();
            assert_eq!(tests[..], bodies[..]);
        }
    };
}

bodies! {
    write_read refusals copy cast fill
    linear linear_dx linear_dw embed embed_backward
    rotary_norm rotary_norm_backward value_gate value_gate_backward attention attention_backward
    cross_entropy argmax sum sum_squares
    rms_norm rms_norm_backward mix mix_norm mix_backward smear smear_backward relu2 relu2_backward
    linear_relu2 linear_dx_relu2
    swiglu swiglu_backward map
    adamw nesterov equilibrate_rows polar_express renormalize variance_reduce cautious_update
}

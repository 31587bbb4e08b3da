//! Every operation's conformance body, a test each, on every device present.
#![allow(clippy::print_stderr, reason = "a device that is skipped says why")]

mod wanted;

use farthing_kernels::conformance::{self, BODIES, Body};
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
    write_read copy cast fill refusals
    linear linear_dx linear_dw embed embed_backward
    rotary_norm rotary_norm_backward value_gate value_gate_backward attention attention_backward
    cross_entropy argmax sum sum_squares
    rms_norm rms_norm_backward mix mix_norm mix_backward smear smear_backward relu2 relu2_backward
    swiglu swiglu_backward map
    adamw nesterov equilibrate_rows polar_express renormalize variance_reduce cautious_update
}

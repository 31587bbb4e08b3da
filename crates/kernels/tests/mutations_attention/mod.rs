//! How much the tests of attention see: one change at a time to the PTX that ships, run through the launch code as the tests run it.
//! Each mutation's outcome is asserted; those that are not caught say why.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use crate::common::attention;
mod backward;
mod edit;
mod forward;
mod mutant;
mod prepare;

use std::fmt::Write as _;
use std::sync::Arc;

use attention::{Call, call};
use edit::{BANKS, BOUNDS, BYTES, IN_FLIGHT, Mutation, RACE, UNWRITTEN, WRONG, edited};
use farthing_kernels::conformance::{self, Mismatch};
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::driver::Module;
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::cuda::gemm::HostGemm;
use farthing_kernels::reference::Reference;
use farthing_kernels::{AttentionShape, Error};
use mutant::Mutant;

const FORWARD: &str = include_str!("../../ptx/sm80/attention.ptx");
const BACKWARD: &str = include_str!("../../ptx/sm80/attention_backward.ptx");
const ROTARY: &str = include_str!("../../ptx/sm80/rotary.ptx");
const VALUE_GATE: &str = include_str!("../../ptx/sm80/value_gate.ptx");

/// Calls with which every branch decides something: windows that end at and beside the edge of a tile, queries after a cache, grouped
/// heads, scores that exp cannot hold, also below 0 alone.
const FORWARD_CALLS: [(Call, Option<f64>); 5] = [
    (call((2, 70, 81), (2, 1, 64), 65), None),
    (call((1, 130, 130), (2, 2, 64), 126), None),
    (call((1, 65, 129), (1, 1, 64), 63), None),
    (call((1, 200, 200), (1, 1, 64), 150), Some(8.0)),
    (call((1, 70, 70), (1, 1, 64), 0), Some(8.0)),
];

/// As `FORWARD_CALLS`; a small scale spreads a row's probability evenly, so that one key too many shows.
const BACKWARD_CALLS: [(Call, Option<f64>); 4] = [
    (call((2, 70, 70), (2, 1, 64), 65), None),
    (call((1, 192, 192), (2, 2, 64), 126), Some(0.01)),
    (call((1, 65, 65), (1, 1, 64), 64), None),
    (call((1, 129, 129), (1, 1, 64), 1), None),
];

/// A device whose forward or backward module is this text.
fn device(original: &'static str, ptx: &'static str) -> (Arc<Emulator>, Cuda) {
    let emulator = Arc::new(Emulator::new());
    let module = Box::leak(Box::new(Module { name: "mutated", ptx }));
    let mutant = Arc::new(Mutant { emulator: emulator.clone(), original, module });
    let gemm = HostGemm::new(mutant.clone()).unwrap();
    (emulator, Cuda::new(mutant, Box::new(gemm)).unwrap())
}

/// What a failed launch is called.
fn fault(error: &Error) -> &'static str {
    let text = error.to_string();
    [
        ("in flight", IN_FLIGHT),
        ("data race", RACE),
        ("out of bounds", BOUNDS),
        ("before anything was written", UNWRITTEN),
    ]
    .into_iter()
    .find_map(|(words, outcome)| text.contains(words).then_some(outcome))
    .unwrap_or_else(|| panic!("{text}"))
}

fn forward_outcome(ptx: &'static str) -> &'static str {
    for (call, scale) in FORWARD_CALLS {
        let (emulator, dev) = device("attention", ptx);
        let inputs = call.inputs();
        let inputs = if scale.is_some() { inputs.rounded() } else { inputs };
        let at = AttentionShape { scale: scale.unwrap_or(call.shape().scale), ..call.shape() };
        let got = match call.run(&dev, &inputs, at) {
            Ok(got) => got,
            Err(error) => return fault(&error),
        };
        if call.wrong(&inputs, at, &got).is_some() {
            return WRONG;
        }
        let (name, counters) = emulator.take_launches().pop().unwrap();
        assert_eq!(name, "attention_64");
        if counters.bank_conflicts > 0 {
            return BANKS;
        }
        let (out, lse) = call.stored_bytes();
        let bytes = (counters.global_load.bytes, counters.global_store.bytes);
        if bytes != (call.loaded_bytes(), out + lse) {
            return BYTES;
        }
    }
    "not caught"
}

fn backward_outcome(ptx: &'static str) -> &'static str {
    for (call, scale) in BACKWARD_CALLS {
        let (emulator, dev) = device("attention_backward", ptx);
        let inputs = call.inputs();
        let at = AttentionShape { scale: scale.unwrap_or(call.shape().scale), ..call.shape() };
        let saved = call.saved(&inputs, at);
        let got = match call.gradients(&dev, &inputs, &saved, at) {
            Ok(got) => got,
            Err(error) => return fault(&error),
        };
        let expected = call.gradients(&Reference::new(), &inputs, &saved, at).unwrap();
        if call.wrong_gradients(&expected, &got).is_some() {
            return WRONG;
        }
        let launches = emulator.take_launches();
        let [_, (queries, q), (keys, k)] = &launches[..] else { panic!("three launches") };
        assert_eq!((*queries, *keys), ("attention_queries_64", "attention_keys_64"));
        if q.bank_conflicts + k.bank_conflicts > 0 {
            return BANKS;
        }
        if (q.global_load.bytes, k.global_load.bytes) != call.loaded_backward_bytes() {
            return BYTES;
        }
    }
    "not caught"
}

/// What the conformance body of the operation makes of a kernel of it.
fn conformance_outcome(kernel: &str, ptx: &'static str) -> &'static str {
    let module = if kernel.starts_with("rotary") { "rotary" } else { "value_gate" };
    let body = match kernel.trim_end_matches("_plain") {
        "rotary_norm" => conformance::rotary_norm,
        "rotary_norm_backward" => conformance::rotary_norm_backward,
        "value_gate" => conformance::value_gate,
        _ => conformance::value_gate_backward,
    };
    let (_, dev) = device(module, ptx);
    match body(&dev) {
        Ok(_) => "not caught",
        Err(Mismatch::Refused { source, .. }) => fault(&source),
        Err(_) => WRONG,
    }
}

fn outcome(Mutation { kernel, edits, .. }: &Mutation) -> &'static str {
    let original = match *kernel {
        "attention_64" => FORWARD,
        "attention_queries_64" | "attention_keys_64" => BACKWARD,
        kernel if kernel.starts_with("rotary") => ROTARY,
        _ => VALUE_GATE,
    };
    let edits = edits.iter().fold(original.to_owned(), |text, edit| edited(kernel, &text, edit));
    let text = edits.leak();
    match *kernel {
        "attention_64" => forward_outcome(text),
        "attention_queries_64" | "attention_keys_64" => backward_outcome(text),
        kernel => conformance_outcome(kernel, text),
    }
}

#[test]
fn the_kernels_as_they_are_pass() {
    assert_eq!(forward_outcome(FORWARD), "not caught");
    assert_eq!(backward_outcome(BACKWARD), "not caught");
    for (kernel, ptx) in [("rotary_norm", ROTARY), ("value_gate", VALUE_GATE)] {
        assert_eq!(conformance_outcome(kernel, ptx), "not caught");
    }
}

#[test]
fn every_mutation_has_the_outcome_it_is_known_for() {
    let mut differ = String::new();
    let mutations =
        || forward::MUTATIONS.iter().chain(backward::MUTATIONS).chain(prepare::MUTATIONS);
    for mutation in mutations() {
        let (got, Mutation { kernel, what, outcome: expected, .. }) = (outcome(mutation), mutation);
        if !expected.starts_with(got) {
            let _ = writeln!(differ, "{kernel}: {what}: {got}, expected {expected}");
        }
    }
    assert!(differ.is_empty(), "{differ}");
    let missed = mutations().filter(|m| m.outcome.starts_with("not caught")).count();
    assert!(missed <= 3, "{missed} of {} are not caught", mutations().count());
}

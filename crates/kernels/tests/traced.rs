//! `Traced` passes every operation on unchanged, and writes down what it saw.
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use farthing_base::Hint;
use farthing_kernels::conformance::{BODIES, run_all};
use farthing_kernels::reference::Reference;
use farthing_kernels::traced::{Call, Traced};
use farthing_kernels::{Device, Error, Memory};

fn traced() -> Traced {
    Traced::new(Box::new(Reference::new()))
}

/// 2 × 3 by (5, 3)ᵀ in f64.
fn one_linear(dev: &dyn Device) {
    let (mut y, x, w) = (
        dev.activations([2, 5]).unwrap(),
        dev.activations([2, 3]).unwrap(),
        dev.activations([5, 3]).unwrap(),
    );
    dev.linear(y.view_mut(), x.view(), w.view(), false).unwrap();
}

#[test]
fn every_operation_passes_through_and_is_seen() {
    let dev = traced();
    for (name, outcome) in run_all(&dev) {
        assert_eq!(outcome.unwrap(), 0.0, "{name}");
    }
    let seen: Vec<&str> = dev.summary().iter().map(|total| total.op).collect();
    for (name, _) in BODIES {
        let ops = match *name {
            "write_read" => vec!["alloc", "write", "read", "synchronize"],
            "refusals" => vec![],
            op => vec![op],
        };
        for op in ops {
            assert!(seen.contains(&op), "{op} is not among {seen:?}");
        }
    }
}

#[test]
fn calls_and_totals_have_the_figures() {
    let dev = traced();
    one_linear(&dev);
    one_linear(&dev);
    let calls = dev.calls();
    let ops: Vec<&str> = calls.iter().map(|call| call.op).collect();
    assert_eq!(ops, ["alloc", "alloc", "alloc", "linear", "alloc", "alloc", "alloc", "linear"]);
    assert!(calls.is_sorted_by_key(|call: &Call| call.start));
    let total = *dev.summary().iter().find(|total| total.op == "linear").unwrap();
    assert_eq!((total.calls, total.bytes), (2, 2 * 8 * (10 + 6 + 15)));
    let seconds: f64 = [calls[3], calls[7]].iter().map(|call| call.duration.as_secs_f64()).sum();
    assert!((total.seconds - seconds).abs() < 1e-9);
    dev.clear();
    assert!(dev.calls().is_empty() && dev.summary().is_empty());
}

#[test]
fn a_full_ring_keeps_the_latest_and_totals_keep_all() {
    let dev = Traced::with_capacity(Box::new(Reference::new()), 3);
    one_linear(&dev);
    dev.synchronize().unwrap();
    let ops: Vec<&str> = dev.calls().iter().map(|call| call.op).collect();
    assert_eq!(ops, ["alloc", "linear", "synchronize"]);
    assert_eq!(dev.summary().iter().map(|total| total.calls).sum::<u64>(), 5);
    let none = Traced::with_capacity(Box::new(Reference::new()), 0);
    one_linear(&none);
    assert!(none.calls().is_empty());
    assert_eq!(none.summary().len(), 2);
}

#[test]
fn the_chrome_trace_is_json_and_appears_whole() {
    let dev = traced();
    one_linear(&dev);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace.json");
    dev.write_chrome_trace(&path).unwrap();
    let trace: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert_eq!(events.len(), 5);
    assert_eq!(events[0]["args"]["name"], "reference");
    assert_eq!((&events[4]["name"], &events[4]["args"]["bytes"]), (&"linear".into(), &248.into()));
    let micros = dev.calls()[3].duration.as_secs_f64() * 1e6;
    assert!((events[4]["dur"].as_f64().unwrap() - micros).abs() < 1e-6);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no partial file is left");
}

#[test]
fn a_missing_directory_is_an_error_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing").join("trace.json");
    let error = traced().write_chrome_trace(&path).unwrap_err();
    assert!(matches!(error, Error::Io(_)));
    let message = error.with_hint();
    assert!(message.contains("missing/trace.json") && message.contains("\nhint: "), "{message}");
}

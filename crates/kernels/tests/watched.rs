//! `Watched`: what goes through it is done all the same; kernels are noted, memory is counted, and while it records, each piece of work is written
//! down with its time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::driver::Driver;
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::cuda::gemm::HostGemm;
use farthing_kernels::cuda::watched::{Watched, Work};
use farthing_kernels::{Coef, Device};

struct Machine {
    emulator: Arc<Emulator>,
    watched: Arc<Watched>,
    cuda: Cuda,
}

fn machine() -> Machine {
    let emulator = Arc::new(Emulator::new());
    let watched = Watched::new(emulator.clone());
    let gemm = watched.gemm(Box::new(HostGemm::new(emulator.clone()).unwrap()));
    let cuda = Cuda::new(watched.clone(), gemm).unwrap();
    Machine { emulator, watched, cuda }
}

#[test]
fn each_piece_is_written_down_in_order_and_done() {
    let Machine { emulator, watched, cuda } = machine();
    let dev: &dyn Device = &cuda;
    // Too large a product for the kernel of ours, so that the matrix product's own way is seen.
    let (mut x, mut w) = (dev.activations([64, 32]).unwrap(), dev.activations([32, 32]).unwrap());
    let (mut y, mut z) = (dev.activations([64, 32]).unwrap(), dev.activations([64, 32]).unwrap());
    dev.write_f64(x.view_mut(), &[1.0; 2048]).unwrap();
    dev.write_f64(w.view_mut(), &[0.5; 1024]).unwrap();
    emulator.take_launches();
    watched.start().unwrap();
    dev.linear(y.view_mut(), x.view(), w.view(), false).unwrap();
    dev.relu2(z.view_mut(), y.view()).unwrap();
    dev.mix(y.view_mut(), z.view(), Coef::ONE, z.view(), Coef::ONE).unwrap();
    dev.copy(z.view_mut(), y.view()).unwrap();
    let values = dev.read_f64(z.view()).unwrap();
    let recording = watched.stop().unwrap();
    assert_eq!(values, vec![512.0; 2048], "the work is done: 2 · (32 · 0.5)²");

    let kernels: Vec<&str> = recording
        .pieces
        .iter()
        .filter_map(|piece| if let Work::Kernel(name) = piece.work { Some(name) } else { None })
        .collect();
    let launched: Vec<&str> = emulator.take_launches().iter().map(|(name, _)| *name).collect();
    assert_eq!(kernels, launched, "what the machine launched, and nothing else");
    let noted = watched.take_launched();
    assert!(kernels.iter().all(|kernel| noted.contains(kernel)), "{noted:?}");
    assert!(watched.take_launched().is_empty(), "what was taken is forgotten");
    let kinds: Vec<String> = recording
        .pieces
        .iter()
        .map(|piece| match piece.work {
            Work::Product(product) => format!("{}x{}x{}", product.m, product.n, product.k),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(
        kinds,
        ["64x32x32", "Kernel(\"relu2\")", "Kernel(\"mix\")", "Copy(4096)", "Read(4096)"]
    );
    assert!(recording.pieces.is_sorted_by_key(|piece| piece.asked));
    assert!(recording.pieces.iter().all(|piece| piece.seconds >= 0.0));
    assert!(
        recording.gaps() >= 0.0,
        "pieces lie within the recording, side by side: {recording:?}"
    );
}

#[test]
fn nothing_is_written_down_unless_it_is_asked_for() {
    let Machine { watched, cuda, .. } = machine();
    let dev: &dyn Device = &cuda;
    let mut x = dev.activations([8]).unwrap();
    dev.fill(x.view_mut(), 1.0).unwrap();
    assert!(watched.stop().unwrap().pieces.is_empty());
    watched.start().unwrap();
    dev.fill(x.view_mut(), 2.0).unwrap();
    assert_eq!(watched.stop().unwrap().pieces.len(), 1);
    dev.fill(x.view_mut(), 3.0).unwrap();
    assert!(watched.stop().unwrap().pieces.is_empty());
}

#[test]
fn memory_is_counted_as_it_comes_and_goes() {
    let Machine { watched, cuda, .. } = machine();
    let dev: &dyn Device = &cuda;
    let (before, _) = watched.bytes();
    let first = dev.master([1000]).unwrap();
    drop(dev.master([500]).unwrap());
    assert_eq!(watched.bytes(), (before + 4000, before + 6000));
    watched.forget_peak();
    assert_eq!(watched.bytes(), (before + 4000, before + 4000));
    drop(first);
    assert_eq!(watched.bytes().0, before);
    assert_eq!(watched.properties().model, "PTX emulator");
}

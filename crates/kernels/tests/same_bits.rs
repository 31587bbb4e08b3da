//! Every launch of the conformance bodies on a GPU and in the emulator, from the same bytes: after each, all memory is compared.
//!
//! Where a kernel's arithmetic is exact, a difference fails. Where it is not (approximate functions, matrix instructions), differences are
//! printed, and `conformance.rs` bounds them. Without a GPU the comparison itself is tested: on two emulators, and on one that lies.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "what was compared, and why not")]

#[macro_use]
mod delegate;
mod twin;
mod wanted;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use farthing_kernels::conformance::{BODIES, Mismatch};
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::driver::{Arg, Driver, Kernel, Module, Properties};
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::cuda::gemm::HostGemm;
use farthing_kernels::cuda::nvidia::Nvidia;
use farthing_kernels::{DeviceKind, Result};

use twin::{Twin, Verdict, exact};
use wanted::{Wanted, wanted};

/// Runs the conformance bodies named by `only`, or all, on both machines.
fn compare(
    first: Arc<dyn Driver>,
    second: Arc<dyn Driver>,
    only: &[&str],
) -> BTreeMap<&'static str, Verdict> {
    let twin = Arc::new(Twin::new(first, second));
    let gemm = HostGemm::new(twin.clone()).expect("the host multiplies");
    let cuda = Cuda::new(twin.clone(), Box::new(gemm)).expect("memory for the device's scratch");
    for (name, body) in BODIES.iter().filter(|(name, _)| only.is_empty() || only.contains(name)) {
        match body(&cuda) {
            // How far a result is from the reference is for `conformance.rs` to say.
            Ok(_) | Err(Mismatch::Differs { .. }) => {}
            Err(mismatch) => panic!("{name}: {mismatch}"),
        }
    }
    drop(cuda);
    twin.verdicts()
}

/// Fails where exact kernels differ; prints the rest.
fn judge(verdicts: &BTreeMap<&'static str, Verdict>) -> std::result::Result<(), String> {
    let mut wrong = Vec::new();
    println!(); // The harness leaves its line open.
    for (kernel, verdict) in verdicts {
        let Verdict { launches, differing, bytes, exact } = verdict;
        let kind = if *exact { "exact" } else { "approximate" };
        println!("{kernel}: {kind}, {launches} launches, {differing} differ, in {bytes} bytes");
        if *exact && *differing > 0 {
            wrong.push(*kernel);
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("differ, though their arithmetic is exact: {}", wrong.join(", ")))
    }
}

/// The first GPU, or `None` with the reason printed; a GPU that was asked for and is not there fails.
fn gpu() -> Option<Nvidia> {
    match (Nvidia::open(0), wanted(DeviceKind::Cuda(0))) {
        (Ok(gpu), _) => Some(gpu),
        (Err(reason), Wanted::Required) => panic!("cuda:0 was asked for: {reason}"),
        (Err(reason), _) => {
            eprintln!("skipped cuda:0: {reason}");
            None
        }
    }
}

/// Says which GPU the other tests run on. `run.sh` of the bundle asks this first.
#[test]
fn device() {
    if let Some(gpu) = gpu() {
        let Properties { model, capability: (major, minor), multiprocessors, memory_bytes } =
            gpu.properties();
        let gib = *memory_bytes as f64 / f64::from(1 << 30);
        println!(
            "device: {model} (capability {major}.{minor}; {multiprocessors} multiprocessors; {gib:.1} GiB)"
        );
    }
}

#[test]
fn the_gpu_gives_the_emulators_bits() {
    if let Some(gpu) = gpu() {
        let verdicts = compare(Arc::new(Emulator::new()), Arc::new(gpu), &[]);
        judge(&verdicts).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

/// An emulator that changes one bit of the first argument's memory after each launch of one kernel.
struct Liar {
    honest: Emulator,
    about: &'static str,
}

impl Driver for Liar {
    delegate!(honest: place, properties, alloc, free, write, read, copy, zero, synchronize, record, elapsed_s);
    fn name(&self) -> &'static str {
        "liar"
    }
    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        self.honest.launch(kernel, blocks, args)?;
        let first = args.iter().find_map(|arg| match arg {
            Arg::Address(address) => Some(*address),
            _ => None,
        });
        if let Some(address) = first.filter(|_| kernel.name == self.about) {
            let mut byte = [0];
            self.honest.read(&mut byte, address)?;
            self.honest.write(address, &[byte[0] ^ 1])?;
        }
        Ok(())
    }
}

/// Bodies that launch little, for the tests of the comparison itself.
const FEW: [&str; 3] = ["fill", "relu2", "sum"];

#[test]
fn two_emulators_give_the_same_bits() {
    let verdicts = compare(Arc::new(Emulator::new()), Arc::new(Emulator::new()), &FEW);
    assert!(verdicts.len() >= 3, "{verdicts:?}");
    for (kernel, verdict) in &verdicts {
        assert!(verdict.launches > 0 && verdict.differing == 0, "{kernel}: {verdict:?}");
    }
    judge(&verdicts).unwrap();
}

#[test]
fn one_changed_bit_is_seen_and_laid_at_its_kernels_door() {
    let honest = compare(Arc::new(Emulator::new()), Arc::new(Emulator::new()), &FEW);
    let (&about, _) = honest.iter().find(|(_, verdict)| verdict.exact).expect("an exact kernel");
    let liar = Liar { honest: Emulator::new(), about };
    let verdicts = compare(Arc::new(Emulator::new()), Arc::new(liar), &FEW);
    for (kernel, verdict) in &verdicts {
        let expected = if *kernel == about { verdict.launches } else { 0 };
        assert_eq!((verdict.differing, verdict.bytes), (expected, expected), "{kernel}");
    }
    assert!(judge(&verdicts).unwrap_err().ends_with(about));
}

#[test]
fn what_is_exact_is_read_from_the_instructions() {
    static MODULE: Module = Module {
        name: "made",
        ptx: ".version 7.8\n.target sm_80\n.visible .entry plain(\n)\n{\n\tfma.rn.f32 %f1, %f2, %f3, %f4;\n\tatom.global.add.u32 %r1, [%rd1], 1;\n// ex2.approx\n}\n\
              .visible .entry root(\n)\n{\n\t@%p1 rsqrt.approx.ftz.f32 \t%f1, %f2;\n}\n\
              .visible .entry plainer()\n{\n\tmma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1};\n}\n\
              .visible .entry adds()\n{\n\tred.global.add.f32 [%rd1], %f1;\n}\n\
              .visible .entry fuses()\n{\n\tmul.f32 %f1, %f2, %f3;\n\tadd.f32 %f4, %f1, %f5;\n}\n\
              .visible .entry keeps()\n{\n\tmul.rn.f32 %f1, %f2, %f3;\n\tadd.f32 %f4, %f1, %f5;\n}\n",
    };
    let kernel = |name| Kernel { module: &MODULE, name, threads: 32, shared_bytes: 0 };
    assert!(exact(&kernel("plain")) && exact(&kernel("keeps")));
    for name in ["root", "plainer", "adds", "fuses", "absent"] {
        assert!(!exact(&kernel(name)), "{name}");
    }
}

/// Every committed kernel is free of what an assembler may fuse, or is compared within a tolerance for reasons of its own: no kernel is
/// approximate only because of how it is written.
#[test]
fn no_committed_kernel_is_kept_from_exactness_by_a_product_that_may_be_fused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx");
    let (mut exact, mut wrong) = (0, Vec::new());
    for set in ["sm80", "sm90a"].map(|set| folder.join(set)) {
        for file in std::fs::read_dir(set).into_iter().flatten() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for (name, found) in ptx_emulator::exactness(&text).unwrap() {
                exact += usize::from(found.exact());
                if let (None, [first, ..]) = (found.approximate, &found.contractions[..]) {
                    let sums = found.contractions.len();
                    let (sum, product) = (first.sum, first.product);
                    wrong.push(format!(
                        "{name}: {sums} sums, the first on line {sum}, of line {product}"
                    ));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "products may be fused with sums; write fmaf or __fmul_rn:\n{}",
        wrong.join("\n")
    );
    assert!(exact >= 37, "{exact} kernels are exact");
}

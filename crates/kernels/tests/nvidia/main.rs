//! The GPU's driver and cuBLASLt as this crate calls them, against stand-ins (`stand_in/*.c`) that are built here and stricter than
//! the real ones: what opening says on every kind of machine, what is launched with which arguments, what is waited for and what
//! is given back. Each case runs in a process of its own, because a library is loaded for good. What the stand-ins cannot show is
//! whether a kernel, or NVIDIA's libraries, do on a GPU what is expected of them: `same_bits.rs` does, where there is one.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "the cases' results")]

mod launches;
mod opening;
mod products;
mod streams;
mod tools;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use farthing_base::Hint;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::cublaslt::CublasLt;
use farthing_kernels::cuda::driver::{Arg, Driver, Kernel, Module};
use farthing_kernels::cuda::nvidia::Nvidia;
use farthing_kernels::{Bf16, Device, DeviceKind, Result, Shape, conformance, open};

static MEMORY: Module = Module { name: "memory", ptx: include_str!("../../ptx/sm80/memory.ptx") };
static FILL: Kernel = Kernel { module: &MEMORY, name: "fill_u32", threads: 256, shared_bytes: 0 };

/// Folders with stand-ins: a driver and cuBLASLt, a driver that lacks a function, a text called a driver, and nothing.
struct Folders {
    whole: PathBuf,
    alone: PathBuf,
    lacking: PathBuf,
    text: PathBuf,
    empty: PathBuf,
}

static FOLDERS: LazyLock<Folders> = LazyLock::new(|| {
    // In cargo's own folder, because nobody removes what a static holds.
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stand_in");
    let folder = |name: &str| {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).expect("a folder among cargo's temporary files");
        folder
    };
    let (whole, alone, lacking) = (folder("whole"), folder("alone"), folder("lacking"));
    let (text, empty) = (folder("text"), folder("empty"));
    let cuda = |to: &Path, more: &[&str]| build("cuda.c", &to.join("libcuda.so.1"), more);
    cuda(&whole, &[]);
    cuda(&alone, &[]);
    cuda(&lacking, &["-DWITHOUT_cuEventElapsedTime"]);
    build("cublaslt.c", &whole.join("libcublasLt.so.12"), &["-ldl"]);
    std::fs::write(text.join("libcuda.so.1"), "a text\n".repeat(100)).expect("a text");
    Folders { whole, alone, lacking, text, empty }
});

/// A library appears by rename: another run of this test may be using the one that is there.
fn build(source: &str, to: &Path, more: &[&str]) {
    let partial = to.with_extension(format!("{}.partial", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in").join(source);
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-pthread", "-o"]);
    cc.arg(&partial).arg(source);
    let output = cc.args(more).output().expect("the C compiler that links Rust programs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&partial, to).expect("a library under its name");
}

/// Runs a case of [`child`] with the libraries of `folder` on a machine of these `settings`; what it printed.
fn run(case: &str, folder: &Path, settings: &str) -> Vec<String> {
    let output = Command::new(std::env::current_exe().expect("this test's own file"))
        .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env_clear()
        .env("LD_LIBRARY_PATH", folder)
        .env("STAND_IN", settings)
        .env("CASE", case)
        .output()
        .expect("a process");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{case}, {settings}:\n{out}\n{err}");
    // The harness begins the line of a test that prints at once.
    let lines = out.lines().map(|line| line.strip_prefix("test child ... ").unwrap_or(line));
    lines.filter_map(|line| line.strip_prefix("> ")).map(str::to_owned).collect()
}

/// Whether this machine has NVIDIA's own driver, which a folder without one does not hide.
fn has_a_driver() -> bool {
    let here = open(DeviceKind::Cuda(0), 0).err().map(|error| error.with_hint());
    let has = !here.is_some_and(|error| error.contains("there is no NVIDIA driver"));
    if has {
        eprintln!("skipped: this machine has a driver of its own");
    }
    has
}

#[test]
#[ignore = "a case of the other tests, in a process of its own"]
fn child() {
    let Ok(case) = std::env::var("CASE") else {
        return eprintln!("skipped: the other tests run it, one case each");
    };
    let outcome = match case.as_str() {
        "memory" => launches::memory(),
        "launches" => launches::launches(),
        "refused launches" => launches::refused_launches(),
        "fault" => launches::fault(),
        "operations" => products::operations(),
        "products" => products::products(),
        "refusals" => products::refusals(),
        "fp8" => products::fp8(),
        "events" => streams::events(),
        "beside" => streams::beside(),
        "room" => streams::room(),
        other => {
            let ordinal = other.strip_prefix("open ").and_then(|n| n.parse().ok());
            open(DeviceKind::Cuda(ordinal.expect("a case that is known")), 0).map(|dev| {
                println!("> {} at {:?}", dev.name(), dev.place());
            })
        }
    };
    if let Err(error) = outcome {
        error.with_hint().lines().for_each(|line| println!("> {line}"));
    }
}

/// Every committed kernel's parameters are found, as many as its text declares.
#[test]
fn every_committed_kernel_declares_parameters_that_launches_can_be_held_to() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx/sm80");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).expect("the committed PTX") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("a text");
        let module: &'static Module =
            Box::leak(Box::new(Module { name: "file", ptx: text.leak() }));
        for entry in module.ptx.split(".entry ").skip(1) {
            let (name, rest) = entry.split_once('(').expect("a list of parameters");
            let list = rest.split(')').next().expect("the list's end");
            let kernel: &'static Kernel =
                Box::leak(Box::new(Kernel { module, name, threads: 1, shared_bytes: 0 }));
            let parameters = kernel.parameters().expect("parameters");
            assert_eq!(parameters.len(), list.matches(".param").count(), "{name}");
            assert!(parameters.iter().all(|bytes| [2, 4, 8].contains(bytes)), "{name}");
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} kernels");
}

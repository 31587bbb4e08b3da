//! The GPU's driver and cuBLASLt as this crate calls them, against stand-ins (`stand_in/*.c`) that are built here and stricter than
//! the real ones: what opening says on every kind of machine, what is launched with which arguments, what is waited for and what
//! is given back. Each case runs in a process of its own, because a library is loaded for good. What the stand-ins cannot show is
//! whether a kernel, or NVIDIA's libraries, do on a GPU what is expected of them: `same_bits.rs` does, where there is one.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "the cases' results")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use farthing_base::Hint;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::cublaslt::CublasLt;
use farthing_kernels::cuda::driver::{Arg, Driver, Kernel, Module};
use farthing_kernels::cuda::nvidia::Nvidia;
use farthing_kernels::{Bf16, Device, DeviceKind, Result, Shape, conformance, open};

static MEMORY: Module = Module { name: "memory", ptx: include_str!("../ptx/sm80/memory.ptx") };
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
        "memory" => memory(),
        "launches" => launches(),
        "refused launches" => refused_launches(),
        "fault" => fault(),
        "operations" => operations(),
        "products" => products(),
        "refusals" => refusals(),
        "fp8" => fp8(),
        "events" => events(),
        "beside" => beside(),
        "room" => room(),
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

#[test]
fn a_machine_with_a_gpu_opens() {
    let opened = run("open 0", &FOLDERS.whole, "");
    assert_eq!(opened[0], "cuda:0 at Cuda(0)");
    let opened = run("open 17", &FOLDERS.whole, "devices=18");
    assert_eq!(opened[0], "cuda:17 at Cuda(17)");
    // The oldest that will do.
    let opened = run("open 0", &FOLDERS.whole, "version=12000 major=8");
    assert_eq!(opened[0], "cuda:0 at Cuda(0)");
}

#[test]
fn every_machine_that_cannot_is_told_why() {
    let whole = FOLDERS.whole.as_path();
    let lacking = format!(
        "cuda:0 cannot be opened: {} has no function cuEventElapsedTime: it is too old, or not NVIDIA's driver",
        "libcuda.so.1"
    );
    let cases: [(&str, &Path, &str, &str, &str); 11] = [
        (
            "open 0",
            &FOLDERS.lacking,
            "",
            &lacking,
            "install NVIDIA's driver, release 520 or newer, or use cpu",
        ),
        (
            "open 0",
            whole,
            "version=11040",
            "cuda:0 cannot be opened: the driver is of CUDA 11.4, the kernels need 11.8 or newer",
            "install NVIDIA's driver, release 520 or newer, or use cpu",
        ),
        (
            "open 0",
            whole,
            "stub=1",
            "cuda:0 cannot be opened: libcuda.so.1 is a toolkit's stub, not the driver",
            "take the toolkit's `stubs` folder out of LD_LIBRARY_PATH",
        ),
        (
            "open 0",
            whole,
            "init=100",
            "cuda:0 cannot be opened: the driver sees no GPU",
            "run nvidia-smi to see which GPUs there are, or use cpu",
        ),
        (
            "open 0",
            whole,
            "init=999",
            "cuda:0 cannot be opened: starting the driver: status 999",
            "run nvidia-smi; it should name the GPU",
        ),
        (
            "open 0",
            whole,
            "devices=0",
            "cuda:0 cannot be opened: the driver sees no GPU",
            "run nvidia-smi to see which GPUs there are, or use cpu",
        ),
        (
            "open 1",
            whole,
            "",
            "cuda:1 cannot be opened: there is one GPU, cuda:0",
            "run nvidia-smi to see which GPUs there are, or use cpu",
        ),
        (
            "open 4294967295",
            whole,
            "devices=8",
            "cuda:4294967295 cannot be opened: there are 8 GPUs, cuda:0 to cuda:7",
            "run nvidia-smi to see which GPUs there are, or use cpu",
        ),
        (
            "open 0",
            whole,
            "major=7 minor=5",
            "cuda:0 cannot be opened: Stand-in 0 has compute capability 7.5, the kernels need 8.0",
            "use a GPU of the Ampere generation or newer, or cpu",
        ),
        (
            "open 0",
            whole,
            "retain=1",
            "cuda:0 cannot be opened: making a context: CUDA_ERROR_INVALID_VALUE",
            "run nvidia-smi; it should name the GPU",
        ),
        (
            "open 0",
            whole,
            "lt=old",
            "cuda:0 cannot be opened: libcublasLt.so.12 does not start: CUBLAS_STATUS_NOT_INITIALIZED",
            "install CUDA 12's libcublas, or `pip install nvidia-cublas-cu12` in an active virtual environment",
        ),
    ];
    for (case, folder, settings, what, hint) in cases {
        let told: Vec<_> = run(case, folder, settings)
            .into_iter()
            .filter(|line| !line.starts_with("left"))
            .collect();
        assert_eq!(told, [what.to_owned(), format!("hint: {hint}")], "{settings}");
    }
}

#[test]
fn a_machine_without_a_driver_is_told_where_it_was_looked_for() {
    if has_a_driver() {
        return;
    }
    let told = run("open 0", &FOLDERS.empty, "");
    assert!(
        told[0].starts_with(
            "cuda:0 cannot be opened: there is no NVIDIA driver: looked for libcuda.so.1 and libcuda.so by name"
        ),
        "{told:?}"
    );
    let hint = "hint: install NVIDIA's driver, release 520 or newer, or use cpu";
    assert_eq!(told[1], hint);
    let told = run("open 0", &FOLDERS.text, "");
    assert!(
        told[0].starts_with(
            "cuda:0 cannot be opened: there is no NVIDIA driver: libcuda.so.1 could not be loaded: "
        ),
        "{told:?}"
    );
    assert_eq!(told[1], hint);
}

#[test]
fn a_machine_without_cublaslt_is_told_where_it_was_looked_for() {
    // A driver of CUDA 11 asks for a cuBLASLt that is seldom installed any more.
    let told = run("open 0", &FOLDERS.alone, "version=11080");
    let begin =
        "cuda:0 cannot be opened: there is no cuBLASLt: looked for libcublasLt.so.11 by name";
    assert!(told.iter().any(|line| line.starts_with(begin)), "{told:?}");
    let all_given_back = "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules";
    assert!(told.iter().any(|line| line == all_given_back), "{told:?}");
}

#[test]
fn cublaslt_is_found_where_python_packages_put_it() {
    let env = tempfile::tempdir().expect("a temporary folder");
    let (packages, bin) =
        (env.path().join("lib/python3.11/site-packages/nvidia/cublas/lib"), env.path().join("bin"));
    std::fs::create_dir_all(&packages).and_then(|()| std::fs::create_dir(&bin)).expect("folders");
    build("cublaslt.c", &packages.join("libcublasLt.so.12"), &["-ldl"]);
    std::fs::write(bin.join("python3"), "").expect("a file");
    // Behind two links, the second of which leads out of the environment that has the library.
    let (linked, made_with) = (env.path().join("linked/bin"), env.path().join("base/bin"));
    let venv = env.path().join("venv");
    let in_venv = venv.join("lib/python3.11/site-packages/nvidia");
    for folder in [&linked, &made_with, &venv.join("bin"), &in_venv] {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    std::fs::write(made_with.join("python3"), "").expect("a file");
    let link = |from: &str, to: PathBuf| std::os::unix::fs::symlink(from, to).expect("a link");
    link("../../venv/bin/python3", linked.join("python3"));
    link("../../base/bin/python3", venv.join("bin/python3"));
    link("../../../../../lib/python3.11/site-packages/nvidia/cublas", in_venv.join("cublas"));
    let case = ["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"];
    for (variable, value) in [
        ("VIRTUAL_ENV", env.path()),
        ("CONDA_PREFIX", env.path()),
        ("PATH", &bin),
        ("PATH", &linked),
    ] {
        let output = Command::new(std::env::current_exe().expect("this test's own file"))
            .args(case)
            .env_clear()
            .env("LD_LIBRARY_PATH", &FOLDERS.alone)
            .env("CASE", "open 0")
            .env(variable, value)
            .output()
            .expect("a process");
        let out = String::from_utf8_lossy(&output.stdout);
        assert!(out.contains("> cuda:0 at Cuda(0)"), "{variable}={}: {out}", value.display());
    }
}

/// Bytes go and come back, through buffers that are used in turn while nothing was waited for.
fn memory() -> Result<()> {
    let gpu = Nvidia::open(0)?;
    let n = 9 * (1 << 20) + 12345;
    let bytes: Vec<u8> =
        (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (a, b) = (gpu.alloc(n)?, gpu.alloc(n)?);
    assert!(a % 256 == 0 && b % 256 == 0);
    gpu.write(a, &bytes)?;
    gpu.zero(b, n)?;
    gpu.copy(b + 5, a, n - 5)?;
    let mut back = vec![0xff; n];
    gpu.read(&mut back, b)?;
    assert!(back[..5] == [0; 5] && back[5..] == bytes[..n - 5]);
    // A write of a moment ago does not reach a copy that was launched before it.
    gpu.copy(b, a, 4)?;
    gpu.write(a, &[1, 2, 3, 4])?;
    gpu.free(a);
    let mut first = [0; 4];
    gpu.read(&mut first, b)?;
    assert_eq!(first, bytes[..4]);
    // Another thread has to make the context its own.
    std::thread::scope(|scope| scope.spawn(|| gpu.read(&mut back, b)).join().expect("no panic"))?;
    let all = gpu.alloc(1 << 40);
    println!("> {}", all.err().map(|e| e.with_hint()).unwrap_or_default().replace('\n', "; "));
    let outside = gpu.copy(b, 4096, 1);
    println!("> {}", outside.err().map(|e| e.to_string()).unwrap_or_default());
    gpu.free(b);
    gpu.free(b);
    Ok(())
}

#[test]
fn memory_is_written_read_and_given_back() {
    assert_eq!(
        run("memory", &FOLDERS.alone, ""),
        [
            "cuda:0 could not allocate 1099511627776 bytes; hint: lower the rows per micro-batch, or close other programs",
            "copy: cuda:0: CUDA_ERROR_INVALID_VALUE",
            "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules",
        ]
    );
}

/// Arguments of every width, packed.
static WIDE: Kernel = Kernel {
    module: &Module {
        name: "wide",
        ptx: ".version 7.8\n.target sm_80\n.visible .entry wide(\n.param .u64 a,\n.param .s64 b,\n.param .s32 c,\n\
              .param .u32 d,\n.param .u16 e,\n.param .f32 f,\n.param .f64 g\n)\n{ ret; }\n.visible .entry none()\n{ ret; }\n",
    },
    name: "wide",
    threads: 96,
    shared_bytes: 100_000,
};
static NONE: Kernel = Kernel { module: WIDE.module, name: "none", threads: 32, shared_bytes: 0 };

fn launches() -> Result<()> {
    let gpu = Nvidia::open(0)?;
    let memory = gpu.alloc(64)?;
    gpu.zero(memory, 64)?;
    let args = [Arg::Address(memory + 4), Arg::U32(0x0102_0304), Arg::I64(3)];
    gpu.launch(&FILL, [2, 1, 1], &args)?;
    gpu.launch(&FILL, [1, 1, 1], &args)?;
    let args = [
        Arg::Address(memory),
        Arg::I64(-2),
        Arg::I32(-3),
        Arg::U32(4),
        Arg::U16(0xfff5),
        Arg::F32(-1.5),
        Arg::F64(0.1),
    ];
    gpu.launch(&WIDE, [3, 4, 5], &args)?;
    gpu.launch(&NONE, [1, 1, 1], &[])?;
    let mut words = [0; 20];
    gpu.read(&mut words, memory)?;
    assert_eq!(words, [0, 0, 0, 0, 4, 3, 2, 1, 4, 3, 2, 1, 4, 3, 2, 1, 0, 0, 0, 0]);
    gpu.free(memory);
    Ok(())
}

#[test]
fn launches_carry_their_grid_and_arguments_and_a_module_is_loaded_once() {
    assert_eq!(
        run("launches", &FOLDERS.alone, ""),
        [
            "loaded a module",
            "launch fill_u32 (2,1,1) x (256,1,1), 0 shared: address 01020304 0000000000000003",
            "launch fill_u32 (1,1,1) x (256,1,1), 0 shared: address 01020304 0000000000000003",
            "loaded a module",
            "launch wide (3,4,5) x (96,1,1), 100000 shared: address fffffffffffffffe fffffffd 00000004 fff5 bfc00000 \
             3fb999999999999a",
            "launch none (1,1,1) x (32,1,1), 0 shared:",
            "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules",
        ]
    );
}

fn refused_launches() -> Result<()> {
    static ABSENT: Kernel = Kernel { module: &MEMORY, name: "fill", threads: 256, shared_bytes: 0 };
    static LARGE: Kernel =
        Kernel { shared_bytes: 300_000, name: "fill_u16", module: &MEMORY, threads: 1 };
    static WIDE_BLOCK: Kernel =
        Kernel { threads: 2048, name: "fill_u16", module: &MEMORY, shared_bytes: 0 };
    static BROKEN: Module = Module { name: "broken", ptx: ".entry broken()\n{\nnonsense;\n}\n" };
    static NOT_COMPILED: Kernel =
        Kernel { module: &BROKEN, name: "broken", threads: 1, shared_bytes: 0 };
    let gpu = Nvidia::open(0)?;
    let one = [1, 1, 1];
    let fill = [Arg::Address(0), Arg::U16(0), Arg::I64(0)];
    for refused in [
        gpu.launch(&FILL, one, &[Arg::Address(0), Arg::U32(0)]),
        gpu.launch(&FILL, one, &[Arg::Address(0), Arg::I64(0), Arg::I64(0)]),
        gpu.launch(&FILL, one, &[Arg::Address(0); 99]),
        gpu.launch(&ABSENT, one, &[]),
        gpu.launch(&LARGE, one, &fill),
        gpu.launch(&WIDE_BLOCK, [1, 70_000, 1], &fill),
        gpu.launch(&NOT_COMPILED, one, &[]),
        gpu.synchronize(),
    ] {
        println!(
            "> {}",
            refused.err().map_or("done".into(), |e| e.with_hint().replace('\n', "; "))
        );
    }
    Ok(())
}

#[test]
fn launches_that_do_not_fit_are_refused_before_they_harm() {
    let told = run("refused launches", &FOLDERS.alone, "");
    let told: Vec<_> = told.iter().filter(|line| !line.starts_with("loaded a module")).collect();
    assert!(told[2].starts_with("fill_u32: cuda:0: arguments of [8, 8, 8"), "{}", told[2]);
    let rest: Vec<_> = told[..2].iter().chain(&told[3..]).map(|line| line.as_str()).collect();
    assert_eq!(
        rest,
        [
            "fill_u32: cuda:0: arguments of [8, 4] bytes for parameters of [8, 4, 8] bytes",
            "fill_u32: cuda:0: arguments of [8, 8, 8] bytes for parameters of [8, 4, 8] bytes",
            "fill: cuda:0: memory.ptx declares no such kernel that can be launched",
            "fill_u16: cuda:0: asks for 300000 bytes of shared memory per block, this GPU has 232448",
            "fill_u16: cuda:0: launch of 1×70000×1 blocks of 2048 threads with 0 bytes of shared memory: \
             CUDA_ERROR_INVALID_VALUE",
            "broken: cuda:0: broken.ptx was not compiled: CUDA_ERROR_INVALID_PTX (a PTX JIT compilation failed); ptxas \
             application ptx input, line 3; fatal: nonsense",
            "done",
            "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules",
        ]
    );
}

fn fault() -> Result<()> {
    static FAULT: Kernel = Kernel {
        module: &Module { name: "fault", ptx: ".visible .entry fault()\n{ ret; }\n" },
        name: "fault",
        threads: 1,
        shared_bytes: 0,
    };
    let gpu: &dyn Device = &Cuda::open(0)?;
    let tensor = gpu.activations([4])?;
    let driver = Nvidia::open(0)?;
    driver.launch(&FAULT, [1, 1, 1], &[])?;
    println!("> launched");
    let later = driver.synchronize();
    println!("> {}", later.err().map(|e| e.with_hint().replace('\n', "; ")).unwrap_or_default());
    gpu.read_f64(tensor.view()).map(|_| ())
}

#[test]
fn a_kernels_fault_reaches_the_next_who_waits_and_all_after() {
    let after = "CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered) in a kernel launched before; no later \
                 call will succeed";
    let hint = "hint: set CUDA_LAUNCH_BLOCKING=1 to have the launch itself fail, or use the device `emulated`, which names \
                the line";
    let told = run("fault", &FOLDERS.whole, "");
    assert_eq!(
        told[1..5],
        [
            "launch fault (1,1,1) x (1,1,1), 0 shared:".into(),
            "launched".into(),
            format!("synchronize: cuda:0: {after}; {hint}"),
            told[4].clone(),
        ]
    );
    assert!(
        told.contains(&format!("read: cuda:0: {after}")) && told.contains(&hint.into()),
        "{told:?}"
    );
}

/// The bodies of `conformance.rs` whose kernels the stand-in knows.
fn operations() -> Result<()> {
    let cuda = Cuda::open(0)?;
    for (name, body) in conformance::BODIES {
        let known = ["write_read", "copy", "cast", "fill", "linear", "linear_dx", "linear_dw"];
        if known.contains(name) {
            match body(&cuda) {
                Ok(_) => println!("> {name} conforms"),
                Err(mismatch) => println!("> {mismatch}"),
            }
        }
    }
    Ok(())
}

#[test]
fn operations_conform_through_the_drivers_calls() {
    let told = run("operations", &FOLDERS.whole, "");
    let told: Vec<_> = told
        .iter()
        .filter(|line| !line.starts_with("launch") && !line.starts_with("heuristic"))
        .collect();
    assert_eq!(
        told,
        [
            "write_read conforms",
            "copy conforms",
            "loaded a module",
            "cast conforms",
            "fill conforms",
            "loaded a module",
            "linear conforms",
            "linear_dx conforms",
            "linear_dw conforms",
            "left of cuBLASLt: 0",
            "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules",
        ]
    );
}

/// Products that the library is asked for.
fn products() -> Result<()> {
    let gpu: &dyn Device = &Cuda::open(0)?;
    let (x, w) = (gpu.activations([48, 40])?, gpu.activations([24, 40])?);
    let mut y = gpu.activations([48, 24])?;
    for accumulate in [false, true, false] {
        gpu.linear(y.view_mut(), x.view(), w.view(), accumulate)?;
    }
    // Another alignment is another choice: these rows begin 80 bytes after an allocation.
    let longer = gpu.activations([49, 40])?;
    gpu.linear(y.view_mut(), longer.view().rows(1..49)?, w.view(), false)?;
    gpu.notes().iter().for_each(|note| println!("> {note}"));
    Ok(())
}

/// What a training step multiplies, of sizes and at addresses that a library may not take: linear layers and their gradients by their
/// conformance bodies, and Muon's iteration of gates.
fn refusals() -> Result<()> {
    operations()?;
    let cuda = Cuda::open(0)?;
    let dev: &dyn Device = &cuda;
    println!("> gates");
    let shape = Shape::from([2, 12, 12]);
    let (mut x, mut scratch) =
        (dev.master(shape)?, dev.master([dev.polar_express_scratch(shape)])?);
    dev.polar_express(x.view_mut(), scratch.view_mut(), 1.01, &[[3.0, -2.0, 0.5]])?;
    dev.synchronize()?;
    println!("> {} kinds refused", cuda.fallbacks().len());
    Ok(())
}

#[test]
fn no_product_that_a_library_refuses_ends_a_step() {
    for (settings, refused) in [
        ("", false),
        ("lt=picky", true),
        ("lt=none", true),
        ("lt=invalid", true),
        ("lt=late", true),
    ] {
        let told = run("refusals", &FOLDERS.whole, settings);
        for op in ["linear", "linear_dx", "linear_dw"] {
            assert!(told.contains(&format!("{op} conforms")), "{settings}: {told:?}");
        }
        // The gates ask no library at all.
        let gates = told.iter().position(|line| line == "gates").expect("the gates' turn");
        let count = |what: &str| told[gates..].iter().filter(|line| line.starts_with(what)).count();
        assert_eq!((count("launch product_bf16 "), count("heuristic")), (2 * 3, 0), "{settings}");
        assert!(told.contains(&"0 kinds refused".into()), "{settings}: {told:?}");
        let ours = told[..gates].iter().filter(|line| line.starts_with("launch product_")).count();
        let asked = told[..gates].iter().filter(|line| line.starts_with("heuristic")).count();
        assert!(ours > 0 && asked > 0, "{settings}: {ours} of ours, {asked} of the library's");
        assert!(told.contains(&"left of cuBLASLt: 0".into()), "{settings}: {told:?}");
        // What is refused is multiplied by us, and said.
        let noted = run("products", &FOLDERS.whole, settings);
        let notes = noted.iter().filter(|line| line.ends_with("by a slower kernel of our own"));
        assert_eq!(notes.count() > 0, refused, "{settings}: {noted:?}");
    }
    let told = run("products", &FOLDERS.whole, "lt=broken");
    let broken = "gemm: cuda:0: product of m=48, n=24, k=40, a Bf16 aligned to 256, b Bf16ᵀ aligned to 256, c Bf16 aligned to 256: \
                  launching it: CUBLAS_STATUS_EXECUTION_FAILED";
    assert!(told.iter().any(|line| line == broken), "{told:?}");
}

#[test]
fn an_algorithm_is_chosen_once_per_shape_and_alignment() {
    let told = run("products", &FOLDERS.whole, "");
    assert_eq!(
        told,
        [
            "heuristic for 24 x 48 x 40",
            "heuristic for 24 x 48 x 40",
            "left of cuBLASLt: 0",
            "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules",
        ]
    );
    let told = run("products", &FOLDERS.whole, "lt=none");
    let refused = |alignment, times| {
        format!(
            "cuda:0: product of m=48, n=24, k=40, a Bf16 aligned to {alignment}, b Bf16ᵀ aligned to 256, c Bf16 aligned to 256: no \
             algorithm has these sizes and types; multiplied {times} by a slower kernel of our own"
        )
    };
    let notes: Vec<_> = told.iter().filter(|line| line.starts_with("cuda:0")).collect();
    assert_eq!(notes, [&refused(256, "3 times"), &refused(16, "once")]);
    let heuristics = told.iter().filter(|line| line.starts_with("heuristic")).count();
    assert_eq!(heuristics, 2, "a refusal is remembered: {told:?}");
    assert!(told.iter().any(|line| line == "left of cuBLASLt: 0"), "{told:?}");
}

fn fp8() -> Result<()> {
    let gpu = Arc::new(Nvidia::open(0)?);
    let gemm = CublasLt::open(gpu.clone())?;
    // e4m3: 0x38 is 1, 0x40 is 2, 0xb8 is −1, 0x30 is 0.5.
    let a = [[0x38, 0x40, 0xb8], [0x30, 0x38, 0x38]];
    let b = [[0x38, 0x38, 0x38], [0x40, 0x30, 0xb8], [0, 0x40, 0], [0x38, 0, 0]];
    let [at_a, at_b, at_c] = [6, 12, 16].map(|bytes| gpu.alloc(bytes));
    let (at_a, at_b, at_c) = (at_a?, at_b?, at_c?);
    gpu.write(at_a, a.as_flattened())?;
    gpu.write(at_b, b.as_flattened())?;
    gemm.multiply_fp8([2, 4, 3], at_c, at_a, at_b)?;
    let mut c = [Bf16::from_f32(0.0); 8];
    gpu.read(bytemuck::cast_slice_mut(&mut c), at_c)?;
    println!("> {:?}", c.map(Bf16::to_f32));
    for address in [at_a, at_b, at_c] {
        gpu.free(address);
    }
    Ok(())
}

#[test]
fn fp8_products_take_rows_by_rows() {
    let told = run("fp8", &FOLDERS.whole, "");
    assert_eq!(
        told,
        [
            "heuristic for 4 x 2 x 3, fast",
            "[2.0, 4.0, 4.0, 1.0, 2.5, 0.5, 2.0, 0.5]",
            "left of cuBLASLt: 0",
            "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules",
        ]
    );
}

/// The stand-in's clock counts pieces of work, a millisecond each.
fn events() -> Result<()> {
    let (gpu, other) = (Nvidia::open(0)?, Nvidia::open(0)?);
    let memory = gpu.alloc(16)?;
    for pieces in [3, 0, 7] {
        let from = gpu.record()?;
        for _ in 0..pieces {
            gpu.zero(memory, 16)?;
        }
        let to = gpu.record()?;
        println!("> {:.3}", gpu.elapsed_s(from, to)?);
        assert!(gpu.elapsed_s(from, to).is_err(), "both are forgotten");
    }
    let (here, there) = (gpu.record()?, other.record()?);
    assert!(gpu.elapsed_s(here, there).is_err(), "of another machine");
    let last = gpu.record()?;
    assert!(gpu.elapsed_s(last, last).is_err(), "one moment given twice");
    gpu.free(memory);
    Ok(())
}

#[test]
fn events_are_timed_forgotten_and_used_again() {
    assert_eq!(
        run("events", &FOLDERS.alone, ""),
        [
            "0.003",
            "0.000",
            "0.007",
            "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules",
        ]
    );
}

fn room() -> Result<()> {
    let gpu = Nvidia::open(0)?;
    let memory = gpu.alloc(1 << 20)?;
    println!("> {:?}", gpu.room()?);
    gpu.free(memory);
    // As a device says it, which has memory of its own.
    let dev = open(DeviceKind::Cuda(0), 0)?;
    let (before, own) = (dev.room()?.expect("a GPU knows"), dev.master([1 << 18])?);
    let after = dev.room()?.expect("a GPU knows");
    println!("> {} less", before.free_bytes - after.free_bytes);
    assert_eq!(own.bytes(), 1 << 20);
    Ok(())
}

#[test]
fn free_memory_is_what_neither_we_nor_others_have_taken() {
    let told = run("room", &FOLDERS.whole, "memory=67108864 busy=1000000");
    let free = 67_108_864 - (1 << 20) - 1_000_000;
    assert_eq!(told[0], format!("Some(Room {{ free_bytes: {free}, bytes: 67108864 }})"));
    assert!(told.contains(&"1048576 less".to_owned()), "{told:?}");
}

/// Work of another library: the machine's memory is the host's, eight words of it are added to the eight behind them.
extern "C" fn add_up(words: *mut u32) {
    println!("> the library works");
    // SAFETY: the allocation of `beside`, which nothing else touches meanwhile.
    let words = unsafe { std::slice::from_raw_parts_mut(words, 16) };
    let (from, to) = words.split_at_mut(8);
    to.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
}

fn beside() -> Result<()> {
    type Call = unsafe extern "C" fn(usize, extern "C" fn(*mut u32), usize) -> u32;
    let gpu = Nvidia::open(0)?;
    let memory = gpu.alloc(64)?;
    let side = gpu.beside()?.expect("a stream");
    // SAFETY: the stand-in, which is loaded already, and its own function.
    let (library, stream) =
        (unsafe { libloading::Library::new("libcuda.so.1") }, side.cuda_stream()?);
    let library = library.expect("the stand-in");
    // SAFETY: likewise.
    let call = unsafe { library.get::<Call>(b"stand_in_call") }.expect("its own function");
    let fill = |value| {
        let args = [Arg::Address(memory), Arg::U32(value), Arg::I64(8)];
        gpu.launch(&FILL, [1, 1, 1], &args)
    };
    gpu.zero(memory, 64)?;
    for value in [7, 30] {
        fill(value)?;
        side.follow()?;
        // SAFETY: a stream of this context; the memory outlives what is launched, which is waited for below.
        assert_eq!(unsafe { call(stream, add_up, memory as usize) }, 0);
        let moment = side.mark()?;
        // Beside it: other memory.
        gpu.zero(memory + 60, 0)?;
        side.join(moment)?;
        assert!(side.join(moment).is_err(), "a moment is waited for once");
        fill(100)?;
    }
    let mut words = [0u32; 16];
    gpu.read(bytemuck::cast_slice_mut(&mut words), memory)?;
    println!("> {words:?}");
    gpu.free(memory);
    Ok(())
}

/// What a stream does late unless it is waited for, and what another does at once unless it has to wait: both give the same, in the same order of calls.
#[test]
fn another_librarys_work_waits_for_the_gpus_and_the_gpu_for_it_and_the_host_for_neither() {
    for eager in ["0", "1"] {
        let told = run("beside", &FOLDERS.alone, &format!("log=1 eager={eager}"));
        let told: Vec<&str> =
            told.iter().map(|line| line.split(" (").next().unwrap_or(line)).collect();
        let works: &[&str] = &["the library works"];
        let (early, late) = if eager == "1" { (works, &works[..0]) } else { (&works[..0], works) };
        let round =
            ["launch fill_u32", "event 0 is recorded in stream 0", "stream 1 waits for event 0"];
        let end =
            ["event 0 is recorded in stream 1", "stream 0 waits for event 0", "launch fill_u32"];
        let round = [&round, early, &end].concat();
        // Both rounds' work is done when somebody reads, in its turn.
        let last = [
            "[100, 100, 100, 100, 100, 100, 100, 100, 37, 37, 37, 37, 37, 37, 37, 37]",
            "left: 0 device blocks, 0 pinned, 0 streams, 0 events, 0 modules",
        ];
        let want = [&["loaded a module"], &*round, &round, late, late, &last].concat();
        assert_eq!(told, want, "eager={eager}");
    }
}

/// An example that `cargo test` has built, though `cargo test --test nvidia` has not.
fn example(name: &str) -> Option<PathBuf> {
    let this = std::env::current_exe().expect("this test's own file");
    let program =
        this.ancestors().nth(2).expect("the profile's folder").join("examples").join(name);
    if !program.exists() {
        eprintln!("skipped: {} is not built", program.display());
        return None;
    }
    Some(program)
}

/// `examples/conform.rs` on a machine of these settings: its status, its own lines, its JSON.
fn conform(settings: &str, arguments: &[&str]) -> Option<(i32, Vec<String>, serde_json::Value)> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("conform.json");
    let mut command = Command::new(example("conform")?);
    command.args(arguments).arg("--json").arg(&file).env_clear();
    command.env("LD_LIBRARY_PATH", &FOLDERS.whole).env("STAND_IN", settings);
    let output = command.output().expect("a process");
    let out = String::from_utf8_lossy(&output.stdout);
    let lines = out.lines().filter(|line| !line.starts_with("> ")).map(str::to_owned).collect();
    let json = std::fs::read_to_string(&file).expect("what was found");
    let json = serde_json::from_str(&json).expect("JSON");
    Some((output.status.code().expect("a status"), lines, json))
}

#[test]
fn a_body_that_loses_the_context_costs_its_own_row_only() {
    let only = ["--only", "copy,cast,fill,linear"];
    let Some((status, lines, json)) = conform("faulty=cast_f32_bf16", &only) else { return };
    let rows = |json: &serde_json::Value| -> Vec<(String, serde_json::Value)> {
        let bodies = json["bodies"].as_array().expect("bodies").iter();
        bodies
            .map(|body| (body["name"].as_str().expect("a name").into(), body["passed"].clone()))
            .collect()
    };
    let passed = |names: &[(&str, serde_json::Value)]| -> Vec<(String, serde_json::Value)> {
        names.iter().map(|(name, passed)| ((*name).to_owned(), passed.clone())).collect()
    };
    assert_eq!(status, 1, "{lines:?}");
    let (yes, no, none) = (true.into(), false.into(), serde_json::Value::Null);
    let [yes, no]: [serde_json::Value; 2] = [yes, no];
    assert_eq!(
        rows(&json),
        passed(&[
            ("copy", yes.clone()),
            ("cast", no.clone()),
            ("fill", yes.clone()),
            ("linear", yes.clone()),
        ])
    );
    assert_eq!(json["device"]["model"], "Stand-in 0");
    assert_eq!(json["bodies"][1]["kernels"], serde_json::json!(["cast_f32_bf16"]));
    assert!(json["bodies"][1]["why"].as_str().is_some_and(|why| why.contains("ILLEGAL_ADDRESS")));
    assert!(lines[1].starts_with("cast: FAILED, ") && lines.len() == 4, "{lines:?}");

    // Where no new context is to be had, the rest says so, and is not said to have failed.
    let Some((status, lines, json)) = conform("faulty=cast_f32_bf16 fatal=1", &only) else {
        return;
    };
    assert_eq!(status, 1, "{lines:?}");
    assert_eq!(
        rows(&json),
        passed(&[("copy", yes), ("cast", no), ("fill", none.clone()), ("linear", none)])
    );
    assert_eq!(
        lines[2..],
        ["fill", "linear"].map(|name| format!(
            "{name}: not run: the context is lost, and a new process ended with status 2"
        ))
    );
}

#[test]
fn without_cublaslt_only_products_fail() {
    let Some(program) = example("conform") else { return };
    let mut command = Command::new(program);
    command.args(["--only", "fill,linear"]).env_clear().env("STAND_IN", "version=11080");
    let output = command.env("LD_LIBRARY_PATH", &FOLDERS.alone).output().expect("a process");
    let out = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = out.lines().filter(|line| !line.starts_with("> ")).collect();
    assert_eq!(output.status.code(), Some(1));
    assert!(lines[0].starts_with("fill: passed, "), "{out}");
    assert!(lines[1].starts_with("linear: FAILED, "), "{out}");
    assert!(lines[1].contains("there is no cuBLASLt: looked for libcublasLt.so.11"), "{out}");
}

/// `examples/ceilings.rs` is built by `cargo test`, though not by `cargo test --test nvidia`.
#[test]
fn ceilings_are_printed_as_json_and_as_a_table_or_with_the_reason_why_not() {
    let Some(program) = example("ceilings") else { return };
    let run_in = |folder: &Path, settings: &str, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).env_clear().env("LD_LIBRARY_PATH", folder);
        command.env("STAND_IN", settings).output().expect("a process")
    };
    let run = |settings: &str, arguments: &[&str]| run_in(&FOLDERS.whole, settings, arguments);
    let own = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().filter(|line| !line.starts_with("> ")).map(str::to_owned).collect()
    };
    let measured = run("lt=idle memory=1073741824", &["--rows", "48"]);
    let (lines, err) = (own(&measured.stdout), String::from_utf8_lossy(&measured.stderr));
    assert_eq!(measured.status.code(), Some(0), "{err}");
    let end = lines.iter().position(|line| line == "}").expect("the end of the JSON");
    let json: serde_json::Value = serde_json::from_str(&lines[..=end].concat()).expect("JSON");
    assert_eq!(json["model"], "Stand-in 0");
    // A piece of work takes the stand-in a millisecond: 128 MiB read and written.
    assert_eq!(json["memory"]["copy_read_and_written_gb_per_s"], 268.4);
    // With 48 rows in all, a head has no more at a time.
    assert_eq!(json["products"].as_array().map(Vec::len), Some(2 * (11 + 3 + 6)));
    assert_eq!(json["left_out"], serde_json::json!([]));
    // The library's first choice takes two milliseconds, its last one, and one of its four is none: 2·48·6144·1536 operations.
    for kind in ["bf16", "fp8"] {
        let of = |what: &str| json["products"][0][format!("{kind}_{what}")].clone();
        assert_eq!((of("tflops"), of("best_tflops")), (0.453.into(), 0.906.into()), "{kind}");
        assert_eq!((of("best_index"), of("candidates")), (2.into(), 3.into()), "{kind}");
    }
    let row = "| d24: mlp in | 48 × 6144 × 1536 | x·wᵀ | 0.453 | 0.906 | 3 of 3 | 0.453, 0.906 | |";
    assert!(lines[end..].iter().any(|line| line == row), "{lines:?}");
    let rows = |lines: &[String]| lines.iter().filter(|line| line.starts_with("| ")).count();
    assert_eq!(rows(&lines[end..]), 2 + 2 + 40);
    // Rows are seen when they are measured.
    assert_eq!(rows(&own(&measured.stderr)), 2 + 2 + 40);

    // With a file for the JSON, standard output is the table. An older GPU has no fp8.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("ceilings.json");
    let name = file.to_str().expect("a name in UTF-8");
    let older = run("lt=idle major=8 memory=1073741824", &["--rows", "48", "--json", name]);
    let lines = own(&older.stdout);
    assert_eq!((older.status.code(), rows(&lines)), (Some(0), lines.len()), "{lines:?}");
    let json = || -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(&file).expect("a file")).expect("JSON")
    };
    let written = json();
    assert!(written["products"][39]["fp8_tflops"].is_null(), "{written}");
    assert!(written["products"][39]["bf16_best_tflops"].is_number(), "{written}");
    assert_eq!(
        written["left_out"],
        serde_json::json!(["fp8: it takes cuBLASLt and compute capability 8.9"])
    );
    // Without the library there are copies to measure.
    let without = run_in(&FOLDERS.alone, "version=11080", &["--json", name]);
    assert_eq!((without.status.code(), rows(&own(&without.stdout))), (Some(0), 2 + 2));
    let left_out = json()["left_out"][0].as_str().expect("a reason").to_owned();
    assert!(left_out.contains("there is no cuBLASLt: looked for libcublasLt.so.11"), "{left_out}");
    // In the emulator there is one way to multiply.
    let emulated = run("", &["--device", "emulated", "--toy", "--json", name]);
    assert_eq!((emulated.status.code(), rows(&own(&emulated.stdout))), (Some(0), 2 + 2 + 23));
    assert_eq!(json()["left_out"][0], "choices: the host multiplies in one way");

    for (settings, arguments, told) in [
        (
            "devices=0",
            [].as_slice(),
            "nothing is measured: cuda:0 cannot be opened: the driver sees no GPU",
        ),
        (
            "",
            ["--device", "emulated"].as_slice(),
            "nothing is measured: the emulator would take hours",
        ),
        ("", ["--device", "cpu"].as_slice(), "nothing is measured: cpu runs no PTX"),
        ("", ["--rows", "0"].as_slice(), "error: invalid value '0' for '--rows <ROWS>'"),
    ] {
        let refused = run(settings, arguments);
        let err = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{err}");
        assert!(err.starts_with(told), "{err}");
    }
    // What the library refuses is a row that says so, and the next is measured.
    let failed = run("lt=none memory=1073741824", &["--rows", "48"]);
    assert_eq!(failed.status.code(), Some(1));
    let lines = own(&failed.stdout);
    let failures = lines.iter().filter(|line| line.contains(" | failed | | | none | |")).count();
    assert_eq!(failures, 40);
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

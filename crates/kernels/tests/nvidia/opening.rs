//! What opening says on every kind of machine.

use super::*;

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

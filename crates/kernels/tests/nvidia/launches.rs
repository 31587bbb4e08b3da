//! Memory, launches, and a kernel that faults.

use super::*;

/// Bytes go and come back, through buffers that are used in turn while nothing was waited for.
pub(super) fn memory() -> Result<()> {
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

pub(super) fn launches() -> Result<()> {
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

pub(super) fn refused_launches() -> Result<()> {
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

pub(super) fn fault() -> Result<()> {
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

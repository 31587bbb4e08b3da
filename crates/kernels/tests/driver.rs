//! The seam between launch code and the machine that runs it, on the emulated machine: memory, events, launches, and what reaches
//! the caller when a kernel or a call goes wrong. `nvidia` holds the other machine to the same.

use std::sync::{Arc, Mutex};

use farthing_kernels::cpu::Cpu;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::cuda::driver::{Arg, Driver, Kernel, Module};
use farthing_kernels::cuda::emulated::Emulator;
use farthing_kernels::cuda::gemm::{Gemm, HostGemm, Matrix, Product};
use farthing_kernels::{DType, Device, Error, Memory, Place, Result, Shape};

const ONE: [u32; 3] = [1, 1, 1];

/// out[i] = i for 64 threads, whatever `out` has room for; line 10 is the store.
static COUNT: Kernel = Kernel {
    module: &Module {
        name: "count",
        ptx: ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry count(.param .u64 out)\n{\n\
              .reg .b32 %r<2>; .reg .b64 %rd<4>;\nld.param.u64 %rd1, [out]; cvta.to.global.u64 %rd1, %rd1;\n\
              mov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;\nst.global.u32 [%rd3], %r1;\nret;\n}\n",
    },
    name: "count",
    threads: 64,
    shared_bytes: 0,
};

fn message<T>(outcome: Result<T>) -> String {
    outcome.err().map_or_else(|| "done".into(), |error| error.to_string())
}

#[test]
fn bytes_go_and_come_back() {
    let machine = Emulator::new();
    let (a, b) = (machine.alloc(300).unwrap(), machine.alloc(7).unwrap());
    assert!(a % 256 == 0 && b % 256 == 0 && a != b);
    let bytes: Vec<u8> = (0..300).map(|i| i as u8).collect();
    machine.write(a, &bytes).unwrap();
    machine.zero(a + 10, 3).unwrap();
    machine.copy(b, a + 8, 7).unwrap();
    let mut back = [1; 7];
    machine.read(&mut back, b).unwrap();
    assert_eq!(back, [8, 9, 0, 0, 0, 13, 14]);
    machine.synchronize().unwrap();
}

#[test]
fn what_was_never_written_or_is_not_there_is_no_result() {
    let machine = Emulator::new();
    let a = machine.alloc(16).unwrap();
    machine.write(a, &[1; 8]).unwrap();
    let mut back = [0; 16];
    let never = message(machine.read(&mut back, a));
    assert!(
        never.starts_with("read: emulated: ") && never.contains("was never written"),
        "{never}"
    );
    let beyond = message(machine.write(a + 12, &[0; 5]));
    assert!(beyond.contains("the allocation has 16 bytes"), "{beyond}");
    let nowhere = message(machine.zero(0, 1));
    assert!(nowhere.contains("a null pointer?"), "{nowhere}");
}

#[test]
fn freed_memory_is_gone_once_and_other_memory_stays() {
    let machine = Emulator::new();
    let (a, b) = (machine.alloc(4).unwrap(), machine.alloc(4).unwrap());
    machine.write(b, &[7; 4]).unwrap();
    machine.free(a);
    machine.free(a);
    machine.free(b + 1);
    let after = message(machine.write(a, &[0; 4]));
    assert!(after.starts_with("write: emulated: ") && after.contains("it was freed"), "{after}");
    let launched = message(machine.launch(&COUNT, ONE, &[Arg::Address(a)]));
    assert!(launched.contains("it was freed"), "{launched}");
    let mut back = [0; 4];
    machine.read(&mut back, b).unwrap();
    assert_eq!(back, [7; 4]);
    assert_ne!(
        machine.alloc(4).unwrap(),
        a,
        "an address is not given twice: a late use is still seen"
    );
}

#[test]
fn a_kernels_fault_says_which_block_thread_and_line() {
    let machine = Emulator::new();
    let room = machine.alloc(40 * 4).unwrap();
    let fault = machine.launch(&COUNT, ONE, &[Arg::Address(room)]).unwrap_err();
    assert!(matches!(fault, Error::Driver { op: "count", device: "emulated", .. }), "{fault:?}");
    let fault = fault.to_string();
    assert!(
        fault.starts_with("count: emulated: kernel count, block (0, 0, 0), thread (40, 0, 0), line 10: 4 bytes at allocation")
            && fault.contains("st.global.u32 [%rd3], %r1"),
        "{fault}"
    );
    // The machine is not lost by it.
    let room = machine.alloc(64 * 4).unwrap();
    machine.launch(&COUNT, ONE, &[Arg::Address(room)]).unwrap();
    let mut back = [0u32; 64];
    machine.read(bytemuck::cast_slice_mut(&mut back), room).unwrap();
    assert!(back.iter().copied().eq(0..64));
}

#[test]
fn launches_that_do_not_fit_their_kernel_are_refused() {
    static ABSENT: Kernel = Kernel { name: "counts", ..COUNT_PARTS };
    static CUT: Kernel =
        Kernel { module: &Module { name: "cut", ptx: ".version 7.8\n.target" }, ..COUNT_PARTS };
    const COUNT_PARTS: Kernel =
        Kernel { module: COUNT.module, name: "count", threads: 64, shared_bytes: 0 };
    let machine = Emulator::new();
    let room = machine.alloc(256).unwrap();
    for (case, refused) in [
        ("no argument", machine.launch(&COUNT, ONE, &[])),
        ("two", machine.launch(&COUNT, ONE, &[Arg::Address(room), Arg::U32(1)])),
        ("a narrow one", machine.launch(&COUNT, ONE, &[Arg::U32(1)])),
        ("no such kernel", machine.launch(&ABSENT, ONE, &[Arg::Address(room)])),
        ("no PTX", machine.launch(&CUT, ONE, &[Arg::Address(room)])),
    ] {
        assert!(matches!(refused, Err(Error::Driver { .. })), "{case}: {refused:?}");
    }
    assert!(machine.take_launches().is_empty(), "nothing of it ran");
}

#[test]
fn the_widths_of_parameters_are_read_from_the_ptx() {
    static MIXED: Kernel = Kernel {
        module: &Module {
            name: "mixed",
            ptx: ".visible .entry mixed_more(\n.param .u64 a\n)\n.entry mixed (\n\t.param .u64 mixed_0,\n\t.param .u16 mixed_1, \
                  .param .f64 mixed_2,.param .b32 mixed_3\n)\n{ret;}\n.entry array(.param .align 64 .b8 map[128])\n{ret;}\n",
        },
        name: "mixed",
        threads: 1,
        shared_bytes: 0,
    };
    assert_eq!(MIXED.parameters(), Some(vec![8, 2, 8, 4]));
    let other = |name| Kernel { module: MIXED.module, name, threads: 1, shared_bytes: 0 };
    assert_eq!(other("mixed_more").parameters(), Some(vec![8]));
    assert_eq!(other("mix").parameters(), None);
    assert_eq!(other("array").parameters(), None, "no argument is an array");
}

#[test]
fn memory_that_is_not_there_is_an_error_and_dropped_tensors_give_theirs_back() {
    let emulator = Arc::new(Emulator::with_memory(3 << 20));
    let cuda = Cuda::on_emulator(emulator.clone()).unwrap();
    let dev: &dyn Device = &cuda;
    let mebibyte = || dev.master([1 << 18]);
    for _ in 0..5 {
        let (_first, second) = (mebibyte().unwrap(), mebibyte());
        assert!(second.is_ok(), "of three, one is the device's own");
        let third = mebibyte().err().unwrap();
        assert!(
            matches!(third, Error::OutOfMemory { device: "emulated", bytes: 0x10_0000 }),
            "{third}"
        );
    }
    let beyond = cuda.alloc(DType::F32, Shape::from([usize::MAX, 2])).err().unwrap();
    assert!(matches!(beyond, Error::OutOfMemory { bytes: usize::MAX, .. }), "{beyond}");
    // A tensor keeps its machine, also when the device is gone.
    let kept = mebibyte().unwrap();
    drop(cuda);
    assert!(emulator.alloc(2 << 20).is_ok() && emulator.alloc(1).is_err());
    drop(kept);
    assert!(emulator.alloc(1 << 20).is_ok());
}

#[test]
fn tensors_of_another_place_are_refused() {
    let (cuda, cpu) = (Cuda::emulated().unwrap(), Cpu::new(1).unwrap());
    let (dev, there): (&dyn Device, &dyn Device) = (&cuda, &cpu);
    let mut host = there.alloc(DType::BF16, Shape::from([4])).unwrap();
    let mut here = dev.alloc(DType::BF16, Shape::from([4])).unwrap();
    let wrong = |outcome: Result<()>, got: Place, expected: Place| {
        let error = outcome.unwrap_err();
        let Error::Place { got: found, expected: wanted, .. } = error else { panic!("{error}") };
        assert_eq!((found, wanted), (got, expected));
    };
    wrong(dev.copy(here.view_mut(), host.view()), Place::Host, Place::Emulated);
    wrong(dev.fill(host.view_mut(), 1.0), Place::Host, Place::Emulated);
    wrong(there.copy(host.view_mut(), here.view()), Place::Emulated, Place::Host);
    assert!(matches!(here.view().host_bytes(), Err(Error::Place { .. })));
}

#[test]
fn moments_are_timed_once_and_on_their_own_machine() {
    let (machine, other) = (Emulator::new(), Emulator::new());
    let (from, to) = (machine.record().unwrap(), machine.record().unwrap());
    let seconds = machine.elapsed_s(from, to).unwrap();
    assert!((0.0..60.0).contains(&seconds), "{seconds}");
    assert!(machine.elapsed_s(from, to).is_err(), "both are forgotten");
    let (here, there) = (machine.record().unwrap(), other.record().unwrap());
    let error = message(machine.elapsed_s(here, there));
    assert!(error.contains("is not of this machine, or was used before"), "{error}");
    let here = machine.record().unwrap();
    assert!(machine.elapsed_s(here, here).is_err(), "one moment given twice");
}

#[test]
fn products_of_types_that_no_machine_has_are_refused() {
    use DType::{BF16, F32, F64, I32};
    let machine = Arc::new(Emulator::new());
    let gemm = HostGemm::new(machine.clone()).unwrap();
    let address = machine.alloc(4096).unwrap();
    machine.zero(address, 4096).unwrap();
    let matrix = |dtype| Matrix { address, dtype, transposed: false };
    let of = |a, b, c| Product {
        m: 2,
        n: 2,
        k: 2,
        a: matrix(a),
        b: matrix(b),
        c: Matrix { address: address + 1024, ..matrix(c) },
        accumulate: false,
    };
    for (a, b, c) in [(BF16, BF16, BF16), (BF16, BF16, F32), (F32, F32, F32)] {
        gemm.multiply(&of(a, b, c)).unwrap();
    }
    for (a, b, c) in [(BF16, F32, F32), (F32, F32, BF16), (F64, F64, F64), (I32, I32, I32)] {
        let error = gemm.multiply(&of(a, b, c)).unwrap_err();
        assert!(
            matches!(&error, Error::Unsupported { op: "gemm", dtypes, .. } if *dtypes == [c, a, b]),
            "{error}"
        );
    }
}

/// A machine that writes down what is launched, and runs it on the emulator.
struct Noted {
    emulator: Emulator,
    launches: Mutex<Vec<String>>,
}

impl Driver for Noted {
    delegate!(emulator: name, place, properties, alloc, free, write, read, copy, zero, synchronize, record, elapsed_s);
    fn launch(&self, kernel: &'static Kernel, blocks: [u32; 3], args: &[Arg]) -> Result<()> {
        let widths: Vec<usize> = args.iter().map(Arg::bytes).collect();
        assert_eq!(kernel.parameters(), Some(widths), "{}: as wide as its parameters", kernel.name);
        let noted: Vec<String> = args
            .iter()
            .map(|arg| match arg {
                Arg::Address(address) => format!("+{}", address & 0xff_ffff),
                other => format!("{other:?}"),
            })
            .collect();
        let line = format!("{} {} {}", kernel.name, blocks[0], noted.join(" "));
        self.launches.lock().expect("no panic while noting").push(line);
        self.emulator.launch(kernel, blocks, args)
    }
}

#[test]
fn fill_and_cast_launch_what_their_views_say() {
    let noted = Arc::new(Noted { emulator: Emulator::new(), launches: Mutex::default() });
    let gemm = HostGemm::new(noted.clone()).unwrap();
    let cuda = Cuda::new(noted.clone(), Box::new(gemm)).unwrap();
    let dev: &dyn Device = &cuda;
    let mut narrow = dev.activations([1000]).unwrap();
    let mut wide = dev.master([1000]).unwrap();
    let mut ids = dev.alloc(DType::I32, Shape::from([3])).unwrap();
    dev.fill(narrow.view_mut().rows(3..1000).unwrap(), 1.0).unwrap();
    dev.fill(wide.view_mut(), -2.0).unwrap();
    dev.fill(ids.view_mut(), -1.0).unwrap();
    dev.fill(wide.view_mut().rows(5..5).unwrap(), 9.0).unwrap();
    dev.cast(wide.view_mut().rows(1..4).unwrap(), narrow.view().rows(2..5).unwrap()).unwrap();
    dev.cast(narrow.view_mut().rows(0..2).unwrap(), wide.view().rows(0..2).unwrap()).unwrap();
    assert_eq!(
        *noted.launches.lock().unwrap(),
        [
            "fill_u16 1 +6 U16(16256) I64(997)",
            "fill_u32 1 +0 U32(3221225472) I64(1000)",
            "fill_u32 1 +0 U32(4294967295) I64(3)",
            "cast_bf16_f32 1 +4 +4 I64(3)",
            "cast_f32_bf16 1 +0 +0 I64(2)",
        ]
    );
    let narrow = dev.read_f64(narrow.view()).unwrap();
    assert_eq!(narrow[..4], [-2.0, 0.0, 0.0, 1.0]);
    assert!(narrow[4..].iter().all(|&x| x == 1.0));
    assert_eq!(dev.read_f64(wide.view()).unwrap()[..5], [-2.0, 0.0, 1.0, 1.0, -2.0]);
    assert_eq!(dev.read_f64(ids.view()).unwrap(), [-1.0; 3]);
}

#[test]
fn a_cast_between_equal_types_is_a_copy_and_f64_does_not_exist_here() {
    let dev = Cuda::emulated().unwrap();
    let dev: &dyn Device = &dev;
    let mut a = dev.master([2]).unwrap();
    let mut b = dev.master([2]).unwrap();
    dev.write_f64(b.view_mut(), &[0.1, -0.0]).unwrap();
    dev.cast(a.view_mut(), b.view()).unwrap();
    let mut bits = [0; 8];
    dev.read(&mut bits, a.view()).unwrap();
    assert_eq!(bits, *bytemuck::bytes_of(&[0.1f32, -0.0]));
    let mut double = dev.alloc(DType::F64, Shape::from([2])).unwrap();
    for refused in [
        dev.cast(double.view_mut(), b.view()),
        dev.cast(a.view_mut(), double.view()),
        dev.fill(double.view_mut(), 0.0),
    ] {
        assert!(
            matches!(refused, Err(Error::Unsupported { device: "emulated", .. })),
            "{refused:?}"
        );
    }
}

/// As the docs of `cast` and `fill` state, and each byte in the fewest sectors.
#[test]
fn fill_and_cast_move_each_element_once() {
    let emulator = Arc::new(Emulator::new());
    let cuda = Cuda::on_emulator(emulator.clone()).unwrap();
    let dev: &dyn Device = &cuda;
    let n = 64 * 1024;
    let (mut narrow, mut wide) = (dev.activations([n]).unwrap(), dev.master([n]).unwrap());
    emulator.take_launches();
    dev.fill(narrow.view_mut(), 1.0).unwrap();
    dev.fill(wide.view_mut(), 1.0).unwrap();
    dev.cast(wide.view_mut(), narrow.view()).unwrap();
    dev.cast(narrow.view_mut(), wide.view()).unwrap();
    let launches = emulator.take_launches();
    let moved: Vec<_> = launches
        .iter()
        .map(|(name, c)| {
            (*name, c.global_load.bytes as usize / n, c.global_store.bytes as usize / n)
        })
        .collect();
    assert_eq!(
        moved,
        [("fill_u16", 0, 2), ("fill_u32", 0, 4), ("cast_bf16_f32", 2, 4), ("cast_f32_bf16", 4, 2)]
    );
    for (name, counters) in &launches {
        for traffic in [counters.global_load, counters.global_store] {
            assert_eq!(traffic.bytes, 32 * traffic.sectors, "{name}: whole sectors");
        }
    }
}

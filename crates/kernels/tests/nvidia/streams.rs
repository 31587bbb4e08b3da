//! Events, free memory, and work beside the GPU's own.

use super::*;

/// The stand-in's clock counts pieces of work, a millisecond each.
pub(super) fn events() -> Result<()> {
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

pub(super) fn room() -> Result<()> {
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

pub(super) fn beside() -> Result<()> {
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

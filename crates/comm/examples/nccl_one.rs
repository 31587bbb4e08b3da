//! NCCL on one GPU, in a job of one rank: that the library is found, that its arguments and its places in memory are taken as they are meant, and that its work
//! is done in its turn among the device's own, and beside it. What two GPUs say to each other it cannot show.
//!
//! `nccl_one --device cuda:0 [--json FILE]`. Ends with 0, with 1 where something is wrong, with 3 where there is no NCCL.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use farthing_base::Hint;
use farthing_comm::{Comm, Nccl, Patience, Result, Threads};
use farthing_kernels::{DType, Device, DeviceKind, Shape, open};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value =
        |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    let name = value("--device").map_or("cuda:0", String::as_str);
    let version = match Nccl::find() {
        Ok(version) => version,
        Err(error) => {
            println!("skipped: {}", error.with_hint());
            return ExitCode::from(3);
        }
    };
    println!("NCCL {}.{}.{}", version / 10_000, version % 10_000 / 100, version % 100);
    let checked = name
        .parse::<DeviceKind>()
        .and_then(|kind| open(kind, 1))
        .map_err(Into::into)
        .and_then(|dev| checks(&*dev));
    match checked {
        Ok(seconds) => {
            println!("passed, a communicator in {seconds:.2} s");
            let json = format!("{{\"version\": {version}, \"communicator_s\": {seconds:.3}}}\n");
            match value("--json").map(|file| std::fs::write(file, json)) {
                Some(Err(error)) => {
                    eprintln!("error: {error}");
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            eprintln!("error: {}", error.with_hint());
            ExitCode::FAILURE
        }
    }
}

/// All checks; the seconds that a communicator took.
fn checks(dev: &dyn Device) -> Result<f64> {
    let began = Instant::now();
    let alone = Threads::new(1).pop().map(Arc::new);
    let Some(alone) = alone else { return Ok(0.0) };
    let nccl = Nccl::new(alone, dev, Patience::default())?;
    let took = began.elapsed().as_secs_f64();
    let mut wrong = String::new();
    for dtype in [DType::F32, DType::BF16] {
        for (n, block) in [(1_000_003, 1_000_003), (1_000_003, 1_000_100), (8, 8), (3, 40)] {
            let values: Vec<f64> = (0..n).map(|i| f64::from(i % 97) - 48.0).collect();
            let n = values.len();
            let mut all = dev.alloc(dtype, Shape::from([n]))?;
            dev.write_f64(all.view_mut(), &values)?;
            let mut own = dev.alloc(dtype, Shape::from([n]))?;
            nccl.reduce_scatter(dev, own.view_mut(), all.view(), block)?;
            nccl.all_gather(dev, own.view_mut(), block)?;
            nccl.all_reduce(dev, own.view_mut())?;
            let found = dev.read_f64(own.view())?;
            if found != values {
                let _ =
                    writeln!(wrong, "{n} elements of {dtype:?} in blocks of {block} have changed");
            }
        }
    }
    // Its turn: what is filled before is what it takes, what it leaves is what is copied after, without a wait between.
    let n = 1 << 22;
    let (mut from, mut to) = (dev.master([n])?, dev.master([n])?);
    for round in 0..200 {
        dev.fill(from.view_mut(), f64::from(round))?;
        nccl.all_reduce(dev, from.view_mut())?;
        dev.copy(to.view_mut(), from.view())?;
        nccl.all_gather(dev, to.view_mut(), n)?;
        dev.fill(from.view_mut(), -1.0)?;
    }
    if dev.read_f64(to.view())?.iter().any(|x| *x != 199.0) {
        wrong.push_str("a collective was not done in its turn\n");
    }
    // Beside what the device does: what is filled before is what is summed, and it is read when it is there.
    let (mut sum, mut other) = (dev.master([n])?, dev.master([n])?);
    for round in 0..200 {
        dev.fill(from.view_mut(), f64::from(round))?;
        let summed = nccl.begin_reduce_scatter(dev, sum.view_mut(), from.view(), n)?;
        dev.fill(other.view_mut(), -2.0)?;
        let summed = summed.wait()?;
        dev.copy(to.view_mut(), summed.view())?;
    }
    if dev.read_f64(to.view())?.iter().any(|x| *x != 199.0) {
        wrong.push_str("a collective was not done beside the device's work\n");
    }
    drop(nccl);
    dev.synchronize()?;
    if wrong.is_empty() {
        return Ok(took);
    }
    let what = wrong.trim_end().replace('\n', "; ");
    Err(farthing_comm::Error::Argument { during: "NCCL on one GPU", what })
}

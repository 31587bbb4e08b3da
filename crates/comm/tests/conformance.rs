//! What every engine must do, against the definition: with one to eight ranks, blocks that are short, missing or empty, on every device that is here.

use farthing_comm::{Comm, One, PlannedComm, Threads};
use farthing_kernels::cpu::Cpu;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::reference::Reference;
use farthing_kernels::{DType, Device, Shape};

/// Runs `body` on every rank, each with a device of its own.
fn on_ranks<C: Comm>(
    comms: Vec<C>,
    open: &(dyn Fn() -> Box<dyn Device> + Sync),
    body: &(dyn Fn(&dyn Device, &dyn Comm) + Sync),
) {
    std::thread::scope(|scope| {
        for comm in comms {
            scope.spawn(move || body(&*open(), &comm));
        }
    });
}

/// Element `i` of rank `rank`: small whole numbers, whose sums are exact in every type.
fn value(rank: usize, i: usize) -> f64 {
    ((rank * 7 + i * 3) % 11) as f64 - 4.0
}

/// (elements, elements of a block).
fn lengths(ranks: usize) -> Vec<(usize, usize)> {
    vec![
        (0, 5),
        (ranks * 64, 64),
        (ranks * 3, 3),
        // The last block is short; all but the first are missing; one too few.
        (ranks * 5 - 2, 5),
        (4, 9),
        (7 * (ranks - 1), 7),
        (ranks * 3_001, 3_001),
    ]
}

pub(crate) fn body(dev: &dyn Device, comm: &dyn Comm) {
    let (rank, ranks) = (comm.rank(), comm.ranks());
    let sum = |i: usize| (0..ranks).map(|r| value(r, i)).sum::<f64>();
    for dtype in [dev.master_dtype(), dev.compute_dtype()] {
        for (n, block) in lengths(ranks) {
            let own = (rank * block).min(n)..((rank + 1) * block).min(n);
            let what = format!("{n} elements in blocks of {block}, rank {rank} of {ranks}");
            let mine: Vec<f64> = (0..n).map(|i| value(rank, i)).collect();
            let mut all = dev.alloc(dtype, Shape::from([n])).unwrap();
            dev.write_f64(all.view_mut(), &mine).unwrap();

            let mut part = dev.alloc(dtype, Shape::from([own.len()])).unwrap();
            comm.reduce_scatter(dev, part.view_mut(), all.view(), block).unwrap();
            let want: Vec<f64> = own.clone().map(sum).collect();
            assert_eq!(dev.read_f64(part.view()).unwrap(), want, "{what}");
            assert_eq!(dev.read_f64(all.view()).unwrap(), mine, "what was sent stays: {what}");

            comm.all_gather(dev, all.view_mut(), block).unwrap();
            let want: Vec<f64> = (0..n).map(|i| value(i / block, i)).collect();
            assert_eq!(dev.read_f64(all.view()).unwrap(), want, "{what}");

            // Begun one after the other, with other work between, and waited for the other way round.
            let mut again = dev.alloc(dtype, Shape::from([n])).unwrap();
            dev.write_f64(all.view_mut(), &mine).unwrap();
            dev.write_f64(again.view_mut(), &mine).unwrap();
            dev.fill(part.view_mut(), -1.0).unwrap();
            let summed = comm.begin_reduce_scatter(dev, part.view_mut(), all.view(), block);
            let mut other = dev.alloc(dtype, Shape::from([n + 1])).unwrap();
            dev.fill(other.view_mut(), 3.0).unwrap();
            let gathered = comm.begin_all_gather(dev, again.view_mut(), block).unwrap();
            let gathered = gathered.wait().unwrap();
            assert_eq!(dev.read_f64(gathered.view()).unwrap(), want, "{what}");
            let summed = summed.unwrap().wait().unwrap();
            let want: Vec<f64> = own.clone().map(sum).collect();
            assert_eq!(dev.read_f64(summed.view()).unwrap(), want, "{what}");

            dev.write_f64(all.view_mut(), &mine).unwrap();
            comm.all_reduce(dev, all.view_mut()).unwrap();
            let want: Vec<f64> = (0..n).map(sum).collect();
            assert_eq!(dev.read_f64(all.view()).unwrap(), want, "{what}");
        }
    }
    let said = vec![rank as u8; rank];
    let heard = comm.gather(&said).unwrap();
    let want: Vec<Vec<u8>> = (0..ranks).map(|r| vec![r as u8; r]).collect();
    assert_eq!(heard, if rank == 0 { want } else { vec![] });
    let word: &[u8] = if rank == 0 { b"go" } else { b"" };
    assert_eq!(comm.broadcast(word).unwrap(), b"go");
    assert_eq!(comm.broadcast(b"").unwrap(), b"");
    let numbers: Vec<f64> = (0..ranks).flat_map(|r| [r as f64, 0.5]).collect();
    assert_eq!(comm.exchange(&[rank as f64, 0.5]).unwrap(), numbers);
}

#[test]
fn one_rank() {
    on_ranks(vec![One], &|| Box::new(Reference::new()), &body);
    on_ranks(vec![One], &|| Box::new(Cpu::new(1).unwrap()), &body);
}

#[test]
fn threads_on_the_processor() {
    for ranks in 1..=8 {
        on_ranks(Threads::new(ranks), &|| Box::new(Cpu::new(1).unwrap()), &body);
    }
    on_ranks(Threads::new(3), &|| Box::new(Reference::new()), &body);
}

#[test]
fn threads_with_memory_that_is_no_memory_of_the_process() {
    for ranks in [1, 2, 3] {
        on_ranks(Threads::new(ranks), &|| Box::new(Cuda::emulated().unwrap()), &body);
    }
}

#[test]
fn sums_have_the_same_bits_on_every_rank_and_every_time() {
    let bits = std::sync::Mutex::new(Vec::new());
    for _ in 0..5 {
        on_ranks(Threads::new(4), &|| Box::new(Cpu::new(1).unwrap()), &|dev, comm| {
            let n = 10_007;
            let scale = [1e8, -1e8, 1.0, 3e-5][comm.rank()];
            let mine: Vec<f64> = (0..n).map(|i| scale * (i as f64).sin()).collect();
            let mut all = dev.master([n]).unwrap();
            dev.write_f64(all.view_mut(), &mine).unwrap();
            comm.all_reduce(dev, all.view_mut()).unwrap();
            bits.lock().unwrap().push(all.view().slice::<f32>().unwrap().to_vec());
        });
    }
    let bits = bits.into_inner().unwrap();
    assert!(bits.len() == 20 && bits.iter().all(|other| *other == bits[0]));
}

#[test]
fn what_would_be_sent_is_counted() {
    let cpu = Cpu::new(1).unwrap();
    let (dev, comm): (&dyn Device, _) = (&cpu, PlannedComm::new(8));
    let mut all = dev.alloc(DType::F32, Shape::from([800])).unwrap();
    let mut own = dev.alloc(DType::F32, Shape::from([100])).unwrap();
    comm.reduce_scatter(dev, own.view_mut(), all.view(), 100).unwrap();
    comm.all_gather(dev, all.view_mut(), 100).unwrap();
    comm.all_reduce(dev, all.view_mut()).unwrap();
    let sent = comm.sent();
    assert_eq!((sent.collectives, sent.gradients, sent.weights), (3, 3 * 2_800, 2_800));
}

//! What goes wrong between ranks is said on every one of them, and nobody waits for ever.

use farthing_comm::{Comm, Control, Error, One, Threads};
use farthing_kernels::Device;
use farthing_kernels::cpu::Cpu;

#[test]
fn a_rank_that_is_gone_is_named_by_all_others() {
    let said: Vec<String> = std::thread::scope(|scope| {
        let rank = |comm: Threads| {
            if comm.rank() == 1 {
                return "gone".to_owned();
            }
            comm.gather(b"here").and_then(|_| comm.broadcast(b"")).unwrap_err().to_string()
        };
        let ranks: Vec<_> =
            Threads::new(3).into_iter().map(|comm| scope.spawn(move || rank(comm))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert_eq!(said[0], "rank 1 of 3 is gone; rank 0 waited for it in gather");
    // Rank 2 may hear of rank 1, or of rank 0, which gave up because of it.
    assert!(said[2].ends_with("of 3 is gone; rank 2 waited for it in gather"), "{}", said[2]);
}

#[test]
fn a_rank_that_panics_is_gone_too() {
    let mut comms = Threads::new(2);
    let (second, first) = (comms.pop().unwrap(), comms.pop().unwrap());
    let panics = std::thread::spawn(move || {
        let _own = second;
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    let error = first.broadcast(b"x").unwrap_err();
    assert!(matches!(error, Error::Lost { lost: 1, rank: 0, .. }), "{error}");
    assert!(panics.join().is_err());
}

#[test]
fn ranks_that_call_different_things_are_told() {
    let said: Vec<String> = std::thread::scope(|scope| {
        let rank = |comm: Threads| {
            let cpu = Cpu::new(1).unwrap();
            let dev: &dyn Device = &cpu;
            let mut values = dev.master([4 + comm.rank() / 2]).unwrap();
            comm.all_reduce(dev, values.view_mut()).unwrap_err().to_string()
        };
        let ranks: Vec<_> =
            Threads::new(3).into_iter().map(|comm| scope.spawn(move || rank(comm))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    let of = |n| format!("all_reduce of {n} F32 in blocks of {n}");
    assert_eq!(said[0], format!("rank 0 called {}, rank 2 {}", of(4), of(5)));
    assert_eq!(said[1], format!("rank 1 called {}, rank 2 {}", of(4), of(5)));
    assert_eq!(said[2], format!("rank 2 called {}, rank 0 {}", of(5), of(4)));
}

#[test]
fn lengths_that_do_not_fit_are_refused_before_anybody_waits() {
    let cpu = Cpu::new(1).unwrap();
    let dev: &dyn Device = &cpu;
    let all = dev.master([10]).unwrap();
    let mut own = dev.master([3]).unwrap();
    let comm = &Threads::new(2)[0];
    let short = comm.reduce_scatter(dev, own.view_mut(), all.view(), 4).unwrap_err();
    assert_eq!(short.to_string(), "reduce_scatter: 10 elements in 2 blocks of 4");
    let other = comm.reduce_scatter(dev, own.view_mut(), all.view(), 5).unwrap_err();
    assert_eq!(other.to_string(), "reduce_scatter: room for 3 elements, rank 0's block has 5");
    let one = One.reduce_scatter(dev, own.view_mut(), all.view(), 10).unwrap_err();
    assert_eq!(one.to_string(), "reduce_scatter: room for 3 elements, rank 0's block has 10");
}

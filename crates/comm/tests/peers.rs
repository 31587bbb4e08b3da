//! Ranks that are processes, here as threads with sockets between them: what they say arrives, and whatever can go wrong between them is said.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use farthing_base::Hint;
use farthing_comm::{About, Control, Error, Patience, Peers, Secret};

const SECRET: &str = "the secret of a test";

fn about(program: &str) -> About {
    vec![("the program".to_owned(), program.to_owned())]
}

fn patience() -> Patience {
    let [meeting, first, deadline, silence] = [20, 20, 20, 20].map(Duration::from_secs);
    Patience { meeting, first, deadline, silence }
}

fn listener() -> (TcpListener, u16) {
    let listener = Peers::listen("127.0.0.1", 0).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn join(port: u16, rank: usize, ranks: usize, patience: Patience) -> farthing_comm::Result<Peers> {
    let secret = || Secret::new(SECRET).map(Some);
    Peers::join(("127.0.0.1", port), (rank, ranks), &secret, &about("1"), patience, &|_| ())
}

/// Runs `body` on every rank; what they return, in order.
fn on_ranks<R: Send>(ranks: usize, patience: Patience, body: impl Fn(Peers) -> R + Sync) -> Vec<R> {
    let (listener, port) = listener();
    let (body, listener) = (&body, &listener);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..ranks)
            .map(|rank| scope.spawn(move || body(join(port, rank, ranks, patience).unwrap())))
            .collect();
        let secret = Secret::new(SECRET).unwrap();
        let first = Peers::lead(listener, ranks, &secret, &about("1"), patience, &|_| ()).unwrap();
        let first = body(first);
        let others = others.into_iter().map(|rank| rank.join().unwrap());
        std::iter::once(first).chain(others).collect()
    })
}

#[test]
fn bytes_go_to_the_first_and_from_the_first() {
    for ranks in [2, 5] {
        on_ranks(ranks, patience(), |peers| {
            let rank = peers.rank();
            for round in 0..20 {
                let all = peers.gather(&vec![rank as u8; rank * round]).unwrap();
                let want = (0..ranks).map(|r| vec![r as u8; r * round]).collect::<Vec<_>>();
                assert_eq!(all, if rank == 0 { want } else { vec![] });
                assert_eq!(
                    peers.broadcast(&vec![7; if rank == 0 { round } else { 0 }]).unwrap(),
                    vec![7; round]
                );
            }
            // More than a connection holds, sent before anybody reads.
            let large = vec![rank as u8; 40 << 20];
            let all = peers.gather(&large).unwrap();
            assert!(all.iter().enumerate().all(|(r, bytes)| *bytes == vec![r as u8; 40 << 20]));
            peers.watch("here").unwrap();
            peers.broadcast(b"").unwrap();
            peers.finish();
        });
    }
}

#[test]
fn a_rank_that_ends_is_named() {
    let said = on_ranks(3, patience(), |peers| match peers.rank() {
        1 => String::new(),
        _ => {
            let error = loop {
                if let Err(error) = peers.gather(b"here").and_then(|_| peers.broadcast(b"")) {
                    break error;
                }
            };
            peers.fail(&error.to_string());
            error.to_string()
        }
    });
    assert_eq!(said[0], "rank 1 of 3 is gone; rank 0 waited for it in gather");
    assert_eq!(said[2], format!("rank 0 stopped: {}", said[0]));
}

#[test]
fn what_a_rank_failed_of_reaches_the_others() {
    let said = on_ranks(3, patience(), |peers| {
        if peers.rank() == 2 {
            peers.fail("the disk is full");
            return String::new();
        }
        let error = peers.gather(b"").and_then(|_| peers.broadcast(b"")).unwrap_err();
        peers.fail("rank 2 of 3 stopped: the disk is full");
        error.to_string()
    });
    assert_eq!(said[0], "rank 2 stopped: the disk is full");
    assert_eq!(said[1], "rank 0 stopped: rank 2 of 3 stopped: the disk is full");
}

#[test]
fn one_that_answers_and_does_not_come_is_named_with_what_it_does() {
    let short = Patience { deadline: Duration::from_secs(2), ..patience() };
    let given_up = std::sync::Barrier::new(2);
    let said = on_ranks(2, short, |peers| {
        let error = (peers.rank() == 0).then(|| peers.gather(b"").unwrap_err());
        given_up.wait();
        error
    });
    let error = said[0].as_ref().unwrap();
    assert_eq!(
        error.with_hint(),
        "rank 0 has waited 2 s in gather; rank 1 is in nothing yet still\n\
         hint: look at what that rank is doing; FARTHING_DEADLINE_S sets for how long it is waited for"
    );
}

#[test]
fn ranks_that_call_different_things_are_told() {
    let said = on_ranks(2, patience(), |peers| match peers.rank() {
        0 => peers.gather(b"").err().or_else(|| peers.gather(b"").err()),
        _ => {
            peers.gather(b"").unwrap();
            let waits = peers.broadcast(b"");
            waits.err()
        }
    });
    // Rank 1 waits for what never comes, until rank 0 is gone.
    assert!(matches!(said[1], Some(Error::Lost { lost: 0, .. })), "{:?}", said[1]);
    assert!(said[0].is_some());
}

#[test]
fn who_does_not_know_the_secret_gets_nowhere_and_keeps_nobody_waiting() {
    let (listener, port) = listener();
    let log = Mutex::new(Vec::new());
    let peers = std::thread::scope(|scope| {
        let strangers = scope.spawn(move || {
            // One says nothing, one is a browser, one sends what is no proof, one hangs up, one has another secret.
            let silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut browser = TcpStream::connect(("127.0.0.1", port)).unwrap();
            browser.write_all(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(8)).unwrap();
            let mut garbage = TcpStream::connect(("127.0.0.1", port)).unwrap();
            garbage.write_all(&[&b"farthing/1\r\n"[..], &[255; 4_000]].concat()).unwrap();
            drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
            let secret = || Secret::new("another secret of 16").map(Some);
            let brief = Patience { meeting: Duration::from_millis(600), ..patience() };
            let refused =
                Peers::join(("127.0.0.1", port), (1, 2), &secret, &about("1"), brief, &|_| ());
            let refused = refused.err().unwrap().to_string();
            assert!(
                refused.ends_with("rank 0 does not take this rank's secret for its own"),
                "{refused}"
            );
            let own = join(port, 1, 2, patience()).unwrap();
            // What rank 0 sent to a stranger is its greeting and no more.
            let mut said = Vec::new();
            let _ = browser.read_to_end(&mut said);
            assert!(said.len() <= 44, "{said:?}");
            drop(silent);
            own
        });
        let secret = Secret::new(SECRET).unwrap();
        let say = |line: &str| log.lock().unwrap().push(line.to_owned());
        // `say` is called on this thread alone.
        let first = Peers::lead(&listener, 2, &secret, &about("1"), patience(), &say).unwrap();
        (first, strangers.join().unwrap())
    });
    assert_eq!(peers.0.patience(), peers.1.patience());
    let log = log.into_inner().unwrap().join("\n");
    for why in ["it speaks another protocol", "it does not know the job's secret", "it hung up"] {
        assert!(log.contains(why), "{log}");
    }
}

#[test]
fn ranks_that_run_something_else_are_refused_on_both_sides() {
    for (rank, ranks, program, what) in [
        (1, 2, "2", "the program differs: rank 0 has 1, rank 1 2"),
        (1, 3, "1", "rank 1 is one of 3, rank 0 of 2"),
    ] {
        let (listener, port) = listener();
        let secret = || Secret::new(SECRET).map(Some);
        std::thread::scope(|scope| {
            let about_it = about(program);
            let other = scope.spawn(move || {
                Peers::join(
                    ("127.0.0.1", port),
                    (rank, ranks),
                    &secret,
                    &about_it,
                    patience(),
                    &|_| (),
                )
                .err()
                .map(|e| e.to_string())
            });
            let secret = Secret::new(SECRET).unwrap();
            let first = Peers::lead(&listener, 2, &secret, &about("1"), patience(), &|_| ());
            assert_eq!(first.err().map(|e| e.to_string()).as_deref(), Some(what));
            assert_eq!(other.join().unwrap().as_deref(), Some(what));
        });
    }
}

#[test]
fn a_rank_that_never_comes_and_one_that_finds_nobody_are_told() {
    let brief = Patience { meeting: Duration::from_millis(300), ..patience() };
    let (listener, port) = listener();
    let secret = Secret::new(SECRET).unwrap();
    let alone = Peers::lead(&listener, 4, &secret, &about("1"), brief, &|_| ()).err().unwrap();
    assert_eq!(alone.to_string(), "ranks 1, 2 and 3 of 4 have not come within 0 s");
    drop(listener);
    let nobody = join(port, 1, 2, brief).err().unwrap().with_hint();
    assert!(
        nobody.contains(&format!("has not reached rank 0 at 127.0.0.1:{port} within 0 s: ")),
        "{nobody}"
    );
    assert!(nobody.contains("MASTER_ADDR and MASTER_PORT"), "{nobody}");
}

#[test]
fn an_address_that_is_taken_or_not_of_this_machine_is_refused() {
    let (_listener, port) = listener();
    let taken = Peers::listen("127.0.0.1", port).unwrap_err().with_hint();
    assert!(
        taken.contains("cannot listen") && taken.contains("set MASTER_PORT to a free one"),
        "{taken}"
    );
    let foreign = Peers::listen("192.0.2.1", 0).unwrap_err().with_hint();
    assert!(
        foreign.contains("set MASTER_ADDR to an address of the machine of rank 0"),
        "{foreign}"
    );
    let unknown = Peers::listen("no.such.machine.invalid", 1).unwrap_err().to_string();
    assert!(
        unknown.starts_with("the address of rank 0 is `no.such.machine.invalid`: "),
        "{unknown}"
    );
}

#[test]
fn what_listens_and_is_no_rank_is_named() {
    let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = other.accept().unwrap();
            stream.write_all(&b"220 mail.example ESMTP\r\n".repeat(4)).unwrap();
            let _ = stream.read(&mut [0; 1]);
        });
        let error = join(port, 1, 2, patience()).err().unwrap().to_string();
        let wanted =
            format!("what listens at 127.0.0.1:{port} is not rank 0: it speaks another protocol");
        assert_eq!(error, wanted);
    });
}

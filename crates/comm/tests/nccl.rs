//! The engine `nccl` against stand-ins for NCCL and for the GPU's driver, which are built here: ranks are processes of this program, started as torchrun starts them. What
//! stand-ins cannot show stands at their heads.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "what ranks say")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use farthing_base::Hint;
use farthing_comm::{About, Engine, Job, Launch, Nccl, Patience, Peers, Threads};
use farthing_kernels::cpu::Cpu;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::{Device, Shape};

use crate::conformance::body;

/// What a rank of a job does.
const CASE: &str = "FARTHING_TEST_NCCL";

/// Folders with stand-ins: all of them, none of NCCL, one of NCCL that lacks a function.
struct Folders {
    root: PathBuf,
    whole: PathBuf,
    without: PathBuf,
    lacking: PathBuf,
}

static FOLDERS: LazyLock<Folders> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stand_in_nccl");
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in/nccl.c");
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/stand_in");
    let folder = |name: &str| {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        build(&kernels.join("cuda.c"), &folder.join("libcuda.so.1"), &[]);
        build(&kernels.join("cublaslt.c"), &folder.join("libcublasLt.so.12"), &["-ldl"]);
        folder
    };
    let (whole, without, lacking) = (folder("whole"), folder("without"), folder("lacking"));
    let nccl = |to: &Path, more: &[&str]| {
        build(&own, &to.join("libnccl.so.2"), &[&["-ldl", "-lrt"], more].concat());
    };
    nccl(&whole, &[]);
    nccl(&lacking, &["-DWITHOUT_ncclAllReduce"]);
    Folders { root, whole, without, lacking }
});

/// A library appears by rename: another run of this test may be using the one that is there.
pub(crate) fn build(source: &Path, to: &Path, more: &[&str]) {
    let partial = to.with_extension(format!("{}.partial", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-pthread", "-o"]);
    let output = cc.arg(&partial).arg(source).args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&partial, to).unwrap();
}

/// Starts `case` on every rank; what they say, in order.
fn ranks(n: usize, case: &str, libraries: &Path, stand_in: &str) -> Vec<(Output, String)> {
    // The port of a socket that was free a moment ago.
    let port = Peers::listen("127.0.0.1", 0).unwrap().local_addr().unwrap().port();
    let secret = tempfile::tempdir_in(&FOLDERS.root).unwrap();
    let start = |rank: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "nccl::a_rank_of_a_job", "--nocapture", "--test-threads=1"]);
        command
            .env(CASE, case)
            .env("LD_LIBRARY_PATH", libraries)
            .env("STAND_IN", stand_in)
            .env("SECRET_FILE", secret.path().join("secret"))
            .envs([("RANK", rank.to_string()), ("WORLD_SIZE", n.to_string())])
            .envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port.to_string())])
            .env_remove("CUDA_VISIBLE_DEVICES")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let started: Vec<Child> = (0..n).map(start).collect();
    let outputs = started.into_iter().map(|child| child.wait_with_output().unwrap());
    outputs
        .map(|output| {
            let [out, err] =
                [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
            let said = format!("{out}\n{err}");
            (output, said)
        })
        .collect()
}

fn patience() -> Patience {
    let [meeting, first, deadline, silence] = [60, 4, 4, 20].map(Duration::from_secs);
    Patience { meeting, first, deadline, silence }
}

/// Does nothing unless a test has started it.
#[test]
fn a_rank_of_a_job() {
    let Ok(case) = std::env::var(CASE) else { return };
    let launch = Launch::of(&|name| std::env::var(name).ok()).unwrap().unwrap();
    let (rank, last) = (launch.rank, launch.ranks - 1);
    let about: About = vec![];
    let secret = PathBuf::from(std::env::var_os("SECRET_FILE").unwrap());
    let say = |line: &str| eprintln!("{line}");
    let job = Job::start(launch, Engine::Nccl, &secret, &about, patience(), &say).unwrap();
    let cuda = Cuda::open(0).unwrap();
    let dev: &dyn Device = &cuda;
    let stop = |error: farthing_comm::Error| -> ! {
        println!("rank {rank} says: {}", error.with_hint());
        job.fail(&error.to_string());
        std::process::exit(3);
    };
    let comm = match job.comm(Engine::Nccl, dev) {
        Ok(comm) => comm,
        Err(error) => stop(error),
    };
    let mut values = dev.master([1000]).unwrap();
    match case.as_str() {
        "conformance" => {
            body(dev, &*comm);
            // Launched, and not waited for before more is launched.
            let mut wide = dev.master([3 * 1000 * (last + 1)]).unwrap();
            for round in 0..20 {
                let n = wide.view().shape().elements();
                dev.write_f64(wide.view_mut(), &vec![f64::from(round); n]).unwrap();
                comm.all_reduce(dev, wide.view_mut()).unwrap();
                comm.all_gather(dev, wide.view_mut(), 3000).unwrap();
            }
            let want = 19.0 * (last + 1) as f64;
            assert!(dev.read_f64(wide.view()).unwrap().iter().all(|x| *x == want));
            if last > 0 {
                let other = Cpu::new(1).unwrap();
                let mut host =
                    (&other as &dyn Device).alloc(dev.master_dtype(), Shape::from([3])).unwrap();
                let refused = comm.all_reduce(&other, host.view_mut()).unwrap_err().to_string();
                assert_eq!(refused, "all_reduce: arrays on cpu, the communicator's are on cuda:0");
            }
            drop(comm);
        }
        "order" => {
            let (n, own) = (2_000 * (last + 1), 2_000);
            let (mut all, mut sum) = (dev.master([n]).unwrap(), dev.master([own]).unwrap());
            let mut weights = dev.master([n]).unwrap();
            println!("> the device fills");
            dev.fill(all.view_mut(), (rank + 1) as f64).unwrap();
            let summed = comm.begin_reduce_scatter(dev, sum.view_mut(), all.view(), own).unwrap();
            dev.fill(weights.view_mut(), rank as f64).unwrap();
            let gathered = comm.begin_all_gather(dev, weights.view_mut(), own).unwrap();
            dev.fill(values.view_mut(), 9.0).unwrap();
            println!("> the device reads what was gathered");
            let found = dev.read_f64(gathered.wait().unwrap().view()).unwrap();
            assert!(found.iter().enumerate().all(|(i, x)| *x == (i / own) as f64));
            println!("> the device reads what was summed");
            let found = dev.read_f64(summed.wait().unwrap().view()).unwrap();
            let want = ((last + 1) * (last + 2) / 2) as f64;
            assert!(found.iter().all(|x| *x == want));
            println!("> the end");
            drop(comm);
        }
        // The last rank ends, or does not come, and the others are in a collective.
        "killed" if rank == last => std::process::abort(),
        "late" if rank == last => std::thread::sleep(Duration::from_secs(12)),
        _ => {
            let mut rounds = 0;
            let error = loop {
                let round = comm.all_reduce(dev, values.view_mut());
                // Whoever reads waits for the collective, until the engine gives it up.
                let round = round.and_then(|()| Ok(dev.read_f64(values.view())?));
                if let Err(error) = round.and_then(|_| comm.exchange(&[0.0])) {
                    break error;
                }
                rounds += 1;
                assert!(rounds < 10_000, "nothing went wrong");
            };
            drop(comm);
            stop(error);
        }
    }
    job.finish();
}

#[test]
fn conformance_on_one_to_four_ranks() {
    for n in [1, 2, 3, 4] {
        for (rank, (output, said)) in ranks(n, "conformance", &FOLDERS.whole, "").iter().enumerate()
        {
            assert!(output.status.success(), "rank {rank} of {n}: {said}");
            let peaceful = said.contains("> a communicator ended in peace");
            assert!(peaceful || n == 1, "rank {rank} of {n}: {said}");
        }
    }
}

#[test]
fn collectives_are_in_a_stream_of_their_own_after_what_they_need_and_before_what_needs_them() {
    for eager in ["eager=0", "eager=1"] {
        for (rank, (output, said)) in
            ranks(2, "order", &FOLDERS.whole, &format!("log=1 {eager}")).iter().enumerate()
        {
            assert!(output.status.success(), "rank {rank}, {eager}: {said}");
            // The harness begins the first line.
            let (_, said) = said.split_once("> the device fills\n").unwrap();
            let lines = said.lines().map(|line| line.split(" (").next().unwrap_or(line));
            let told: Vec<&str> = lines
                .take_while(|line| *line != "> the end")
                .filter(|line| !line.contains("module"))
                .collect();
            let want = [
                "> launch fill_u32",
                // What is summed is there; then the sum; its end is marked, and nobody waits for it yet.
                "> event 0 is recorded in stream 0",
                "> stream 1 waits for event 0",
                "> reduce_scatter in stream 1",
                "> event 0 is recorded in stream 1",
                "> launch fill_u32",
                "> event 1 is recorded in stream 0",
                "> stream 1 waits for event 1",
                "> all_gather in stream 1",
                "> event 1 is recorded in stream 1",
                "> launch fill_u32",
                "> the device reads what was gathered",
                "> stream 0 waits for event 1",
                "> the device reads what was summed",
                "> stream 0 waits for event 0",
            ];
            assert_eq!(told, want, "rank {rank}, {eager}: {said}");
        }
    }
    // The same numbers where the stream does everything as early as it may.
    for n in [1, 3] {
        for (rank, (output, said)) in
            ranks(n, "conformance", &FOLDERS.whole, "eager=1").iter().enumerate()
        {
            assert!(output.status.success(), "rank {rank} of {n}: {said}");
        }
    }
}

#[test]
fn a_rank_that_is_gone_or_late_is_named_and_who_waits_for_the_gpu_goes_on() {
    let said = ranks(3, "killed", &FOLDERS.whole, "");
    let wanted = "rank 0 says: rank 2 of 3 is gone; rank 0 waited for it in ";
    assert!(said[0].1.contains(wanted), "{}", said[0].1);
    assert!(
        said[1].1.contains("rank 1 says: rank 0 stopped: rank 2 of 3 is gone"),
        "{}",
        said[1].1
    );
    let said = ranks(2, "late", &FOLDERS.whole, "");
    let wanted =
        "rank 0 says: rank 0 has waited 4 s in all_reduce; all ranks answer, and it does not end";
    assert!(said[0].1.contains(wanted), "{}", said[0].1);
}

#[test]
fn what_the_library_says_of_a_collective_that_went_on_is_told() {
    let said = ranks(2, "error", &FOLDERS.whole, "nccl=error");
    let wanted =
        "NCCL says: remote process exited or there was a network error (socket closed by peer)";
    assert!(said.iter().any(|(_, said)| said.contains(wanted)), "{}", said[0].1);
    let said = ranks(2, "never", &FOLDERS.whole, "nccl=never");
    let wanted = "has waited 4 s in making a communicator; all ranks answer, and it does not end";
    assert!(said.iter().any(|(_, said)| said.contains(wanted)), "{}", said[0].1);
}

#[test]
fn a_library_that_is_missing_lacking_or_old_is_named_with_what_to_do() {
    for (libraries, stand_in, what) in [
        (&FOLDERS.without, "", "there is no NCCL: looked for libnccl.so.2 and libnccl.so by name"),
        (&FOLDERS.lacking, "", "has no function ncclAllReduce: it is too old, or not NCCL"),
        (&FOLDERS.whole, "nccl=old", "libnccl.so.2 is NCCL 2.7.8"),
    ] {
        for (_, said) in ranks(2, "conformance", libraries, stand_in) {
            assert!(said.contains(what), "{said}");
            assert!(said.contains("hint: install NCCL 2.14 or newer"), "{said}");
        }
    }
    // Engines are of the machine's kind.
    let cpu = Cpu::new(1).unwrap();
    let control = std::sync::Arc::new(Threads::new(1).remove(0));
    let none = Nccl::new(control, &cpu, patience()).err().unwrap();
    assert!(matches!(none, farthing_comm::Error::Library { .. }), "{none}");
}

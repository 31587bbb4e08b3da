//! The engine `mpi` under real launchers, Open MPI's and MPICH's, where they are installed: this program starts itself under `mpirun`. With FARTHING_NEEDS_MPI set (as in CI)
//! one that is missing is a failure. FARTHING_TEST_MPI5 names the folder of an MPI that has the common ABI too (`bin/mpirun`, `lib/libmpi_abi.so.1`).
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "what ranks say, and what was skipped"
)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use farthing_comm::{About, Comm, Engine, Job, Launch, MpiWorld, Patience, Threads};
use farthing_kernels::cpu::Cpu;
use farthing_kernels::cuda::Cuda;
use farthing_kernels::{Device, rounded::Rounded};

use crate::conformance::body;

const LAUNCHERS: [&str; 2] = ["mpirun.openmpi", "mpirun.mpich"];

/// What a rank of a job does.
const CASE: &str = "FARTHING_TEST_CASE";

fn installed(launcher: &str) -> bool {
    let found = Command::new(launcher).arg("--version").output().is_ok();
    if !found {
        assert!(std::env::var_os("FARTHING_NEEDS_MPI").is_none(), "there is no {launcher}");
        eprintln!("skipped: there is no {launcher}");
    }
    found
}

/// Runs `case` on every rank.
fn mpirun(launcher: &str, ranks: usize, case: &str, more: &[(&str, String)]) -> Output {
    let mut command = Command::new(launcher);
    if launcher.ends_with("openmpi") {
        command.args(["--oversubscribe", "--quiet"]);
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    let exe = std::env::current_exe().unwrap();
    command.arg("-n").arg(ranks.to_string()).arg(exe);
    command.args(["--exact", "mpi::a_rank_of_a_job", "--nocapture", "--test-threads=1"]);
    command.env(CASE, case).envs(more.iter().map(|(name, value)| (name, value)));
    for name in ["RANK", "WORLD_SIZE", "MASTER_ADDR", "FARTHING_MPI"] {
        if !more.iter().any(|(set, _)| *set == name) {
            command.env_remove(name);
        }
    }
    command.output().unwrap()
}

/// All launchers that are here, each with what its ranks are told: the third has a library of MPI 5's ABI.
fn launchers() -> Vec<(String, Vec<(&'static str, String)>)> {
    let own = LAUNCHERS.into_iter().filter(|launcher| installed(launcher));
    let mut all: Vec<_> = own.map(|launcher| (launcher.to_owned(), vec![])).collect();
    match std::env::var("FARTHING_TEST_MPI5") {
        Ok(folder) => {
            let library = format!("{folder}/lib/libmpi_abi.so.1");
            all.push((format!("{folder}/bin/mpirun"), vec![("FARTHING_MPI", library)]));
        }
        Err(_) => eprintln!("skipped: FARTHING_TEST_MPI5 names no MPI with the common ABI"),
    }
    all
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}\n{err}")
}

fn patience() -> Patience {
    let [meeting, first, deadline, silence] = [60, 6, 6, 5].map(Duration::from_secs);
    Patience { meeting, first, deadline, silence }
}

fn job() -> farthing_comm::Result<Job> {
    let launch = Launch::of(&|name| std::env::var(name).ok())?.expect("a launcher");
    let about: About = vec![("the program".to_owned(), "this one".to_owned())];
    Job::start(launch, Engine::Mpi, Path::new(""), &about, patience(), &|line| eprintln!("{line}"))
}

/// Sums of numbers that no two orders of addition give alike.
fn digest(dev: &dyn Device, comm: &dyn Comm) -> String {
    let n = 3_000_007;
    let scale = [1e8, -1e8, 1.0, 3e-5][comm.rank() % 4];
    let mine: Vec<f64> = (0..n).map(|i| scale * (i as f64).sin()).collect();
    let mut all = dev.master([n]).unwrap();
    dev.write_f64(all.view_mut(), &mine).unwrap();
    let block = n.div_ceil(comm.ranks());
    let own = (comm.rank() * block).min(n)..((comm.rank() + 1) * block).min(n);
    let mut part = dev.master([own.len()]).unwrap();
    comm.reduce_scatter(dev, part.view_mut(), all.view(), block).unwrap();
    dev.copy(all.view_mut().rows(own).unwrap(), part.view()).unwrap();
    comm.all_gather(dev, all.view_mut(), block).unwrap();
    let bits = all.view().slice::<f32>().unwrap().iter().map(|x| u64::from(x.to_bits()));
    let digest = bits.fold(0_u64, |hash, bits| (hash ^ bits).wrapping_mul(0x100_0000_01b3));
    format!("bits of {} ranks: {digest:016x}", comm.ranks())
}

/// Does nothing unless a launcher has started it.
#[test]
fn a_rank_of_a_job() {
    let Ok(case) = std::env::var(CASE) else { return };
    // A job of one rank has no need of MPI.
    if case == "world" {
        let launch = Launch::of(&|name| std::env::var(name).ok()).unwrap().unwrap();
        return match MpiWorld::start(&launch) {
            Ok(world) => {
                println!("started: {}", world.version());
                world.finish();
            }
            Err(error) => {
                println!("refused: {error}");
                std::process::exit(3);
            }
        };
    }
    let job = match job() {
        Ok(job) => job,
        Err(error) => {
            println!("refused: {error}");
            std::process::exit(3);
        }
    };
    let cpu = Cpu::new(1).unwrap();
    let rank = job.launch().rank;
    let comm = job.comm(Engine::Mpi, &cpu).unwrap();
    match case.as_str() {
        "conformance" => {
            body(&cpu, &*comm);
            let rounded = Rounded::new(Box::new(Cpu::new(1).unwrap())).unwrap();
            body(&rounded, &*comm);
            body(&Cuda::emulated().unwrap(), &*comm);
            println!("{}", digest(&cpu, &*comm));
            drop(comm);
            job.finish();
        }
        "differ" => {
            let mut values = (&cpu as &dyn Device).master([4 + rank / 2]).unwrap();
            let error = comm.all_reduce(&cpu, values.view_mut()).unwrap_err();
            println!("rank {rank} says: {error}");
            // All have said it before the launcher ends those that are left.
            std::thread::sleep(Duration::from_secs(1));
            std::process::exit(3);
        }
        // The last rank does not come, and answers.
        "late" if rank == 1 => std::thread::sleep(Duration::from_secs(20)),
        "late" => {
            let mut values = (&cpu as &dyn Device).master([1000]).unwrap();
            let error = comm.all_reduce(&cpu, values.view_mut()).unwrap_err();
            println!("rank {rank} says: {error}");
            std::process::exit(3);
        }
        other => panic!("no case {other}"),
    }
}

#[test]
fn conformance_under_both_launchers_with_the_bits_of_threads() {
    for ranks in [1, 2, 4] {
        let threads: Vec<String> = std::thread::scope(|scope| {
            let rank = |comm: Threads| digest(&Cpu::new(1).unwrap(), &comm);
            let ranks: Vec<_> = Threads::new(ranks)
                .into_iter()
                .map(|comm| scope.spawn(move || rank(comm)))
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        for (launcher, more) in launchers() {
            let output = mpirun(&launcher, ranks, "conformance", &more);
            let said = text(&output);
            assert!(output.status.success(), "{launcher} with {ranks} ranks: {said}");
            let told = said.lines().filter(|line| line.contains(&threads[0])).count();
            assert_eq!(told, ranks, "{launcher}: {} expected, {said}", threads[0]);
        }
    }
}

#[test]
fn ranks_that_call_different_things_are_told() {
    for (launcher, more) in launchers() {
        let said = text(&mpirun(&launcher, 3, "differ", &more));
        let of = |n| format!("all_reduce of {n} F32 in blocks of {n}");
        let wanted = format!("rank 0 says: rank 0 called {}, rank 2 {}", of(4), of(5));
        assert!(said.contains(&wanted), "{launcher}: {said}");
    }
}

#[test]
fn a_rank_that_does_not_come_is_named_with_what_it_does() {
    for (launcher, more) in launchers() {
        let said = text(&mpirun(&launcher, 2, "late", &more));
        let wanted = "rank 0 says: rank 0 has waited 6";
        assert!(said.contains(wanted), "{launcher}: {said}");
        assert!(said.contains("rank 1 is in nothing yet still"), "{launcher}: {said}");
    }
}

#[test]
fn the_other_mpi_is_refused() {
    if LAUNCHERS.into_iter().all(installed) {
        let with = |launcher, library: &str| {
            text(&mpirun(launcher, 2, "conformance", &[("FARTHING_MPI", library.to_owned())]))
        };
        let said = with(LAUNCHERS[0], "libmpich.so.12");
        assert!(said.contains("and the launcher is Open MPI's mpirun"), "{said}");
        let said = with(LAUNCHERS[1], "libmpi.so.40");
        assert!(said.contains("and the launcher is MPICH's mpirun"), "{said}");
    }
    for launcher in LAUNCHERS.into_iter().filter(|launcher| installed(launcher)) {
        let none = [("FARTHING_MPI", "libnone.so".to_owned())];
        let said = text(&mpirun(launcher, 2, "conformance", &none));
        let wanted = "refused: there is no MPI library: looked for libnone.so";
        assert!(said.contains(wanted), "{launcher}: {said}");
    }
}

/// A process alone, as MPICH's launcher would start one, with the stand-in for a library of MPI 5's ABI under `name`.
#[cfg(target_os = "linux")]
fn with_the_common_abi(name: &str, settings: &str, say: Option<&str>) -> Output {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in/mpi_abi.c");
    crate::nccl::build(&source, &folder.path().join(name), &[]);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "mpi::a_rank_of_a_job", "--nocapture", "--test-threads=1"]);
    command.env(CASE, "world").env("STAND_IN", settings);
    command.env("LD_LIBRARY_PATH", folder.path()).envs([("PMI_RANK", "0"), ("PMI_SIZE", "1")]);
    for variable in ["RANK", "WORLD_SIZE", "MASTER_ADDR", "FARTHING_MPI"] {
        command.env_remove(variable);
    }
    if let Some(library) = say {
        command.env("FARTHING_MPI", library);
    }
    command.output().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn a_library_with_the_abi_of_mpi_5_is_called_with_its_own_handles() {
    let output = with_the_common_abi("libmpi_abi.so.1", "", Some("libmpi_abi.so.1"));
    let said = text(&output);
    assert!(output.status.success() && said.contains("> the library has ended"), "{said}");
    // Found by its name too, where there is no other.
    if Command::new(LAUNCHERS[1]).arg("--version").output().is_err() {
        let output = with_the_common_abi("libmpi_abi.so.0", "", None);
        assert!(output.status.success(), "{}", text(&output));
    }
    for (settings, wanted) in [
        (
            "abi=0",
            "refused: libmpi_abi.so.0 is A stand-in of no maker: version 0.0 of MPI's ABI, 1 is known",
        ),
        (
            "abi=2",
            "refused: libmpi_abi.so.0 is A stand-in of no maker: version 2.0 of MPI's ABI, 1 is known",
        ),
        // The library says which of its ABI it is not.
        (
            "abi=-1",
            "refused: libmpi_abi.so.0 is A stand-in of no maker: of an ABI that is not known",
        ),
        ("threads=1024", "refused: MPI was built without threads"),
    ] {
        let output = with_the_common_abi("libmpi_abi.so.0", settings, Some("libmpi_abi.so.0"));
        let said = text(&output);
        assert!(said.contains(wanted) && !output.status.success(), "{settings}: {said}");
    }
}

//! Which rank a launcher has made this process, by the environment that it sets.

use crate::{Error, Result};

/// Who has started this process as one of several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Launcher {
    /// `torchrun --no-python`, or anything else that sets `RANK` and `WORLD_SIZE`.
    Torchrun,
    /// `mpirun` of Open MPI.
    OpenMpi,
    /// `mpirun` of MPICH, Intel MPI or MVAPICH.
    Mpich,
    /// `srun`.
    Slurm,
}

impl std::fmt::Display for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Torchrun => "torchrun",
            Self::OpenMpi => "Open MPI's mpirun",
            Self::Mpich => "MPICH's mpirun",
            Self::Slurm => "srun",
        })
    }
}

impl Launcher {
    /// The words that start so many ranks, before the program's own.
    pub fn words(self, ranks: usize) -> String {
        match self {
            Self::Torchrun => "torchrun --no-python".to_owned(),
            Self::OpenMpi | Self::Mpich => format!("mpirun -n {ranks}"),
            Self::Slurm => "srun".to_owned(),
        }
    }
}

/// This process among those that were started together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launch {
    /// Who started it.
    pub launcher: Launcher,
    /// Which of them it is.
    pub rank: usize,
    /// How many there are.
    pub ranks: usize,
    /// Which of those on this machine it is: the number of its GPU.
    pub local_rank: usize,
    /// How many are on this machine, where that is said.
    pub local_ranks: Option<usize>,
    /// Where rank 0 listens, as far as the environment says so: host and port.
    pub address: Option<(String, u16)>,
}

/// The port of rank 0 where nothing else is said, torchrun's own default.
const PORT: u16 = 29_500;

impl Launch {
    /// What the environment says: `None` for a process that was started alone.
    ///
    /// In this order: `RANK` with `WORLD_SIZE`; Open MPI's and MPICH's own; Slurm's of an `srun` step. A batch script of Slurm has `SLURM_PROCID` and `SLURM_NTASKS` too, and is
    /// one process: only a step has `SLURM_STEP_NUM_TASKS`.
    ///
    /// # Errors
    /// [`Error::Launch`] for an environment that contradicts itself.
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let env = Env(variable);
        let found = match (env.number("RANK")?, env.number("WORLD_SIZE")?) {
            (Some(rank), Some(ranks)) => {
                // Without LOCAL_RANK, RANK may count machines, as PyTorchJob of Kubernetes has it: a rank each then.
                let local = env.number("LOCAL_RANK")?.unwrap_or(0);
                let of_machine = env.number("LOCAL_WORLD_SIZE")?;
                Some((Launcher::Torchrun, rank, ranks, local, of_machine))
            }
            (Some(_), None) => return Err(Env::half("RANK", "WORLD_SIZE")),
            (None, Some(_)) => return Err(Env::half("WORLD_SIZE", "RANK")),
            (None, None) => env.mpi()?.or(env.step()?),
        };
        let Some((launcher, rank, ranks, local_rank, of_machine)) = found else { return Ok(None) };
        if rank >= ranks {
            return Err(Error::launch(
                format!("{launcher} says that this is rank {rank} of {ranks}"),
                "ranks count from 0; unset what an earlier shell has left",
            ));
        }
        let address = env.address(launcher)?;
        let local_ranks = of_machine;
        Ok(Some(Self { launcher, rank, ranks, local_rank, local_ranks, address }))
    }
}

type Found = (Launcher, usize, usize, usize, Option<usize>);

struct Env<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Env<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            Error::launch(
                format!("{name} is `{text}`, expected a whole number"),
                "unset it to run alone, or let the launcher set it",
            )
        })
    }

    fn half(has: &str, lacks: &str) -> Error {
        Error::launch(
            format!("{has} is set and {lacks} is not"),
            "set both (and LOCAL_RANK, MASTER_ADDR, MASTER_PORT) for one of several ranks, or unset it to run alone",
        )
    }

    fn mpi(&self) -> Result<Option<Found>> {
        let (rank, ranks) = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
        if let (Some(rank), Some(ranks)) = (self.number(rank)?, self.number(ranks)?) {
            let local = self.number("OMPI_COMM_WORLD_LOCAL_RANK")?.unwrap_or(0);
            let of_machine = self.number("OMPI_COMM_WORLD_LOCAL_SIZE")?;
            return Ok(Some((Launcher::OpenMpi, rank, ranks, local, of_machine)));
        }
        let (Some(rank), Some(ranks)) = (self.number("PMI_RANK")?, self.number("PMI_SIZE")?) else {
            return Ok(None);
        };
        let local = match self.number("MPI_LOCALRANKID")? {
            Some(local) => local,
            None => self.number("SLURM_LOCALID")?.unwrap_or(0),
        };
        Ok(Some((Launcher::Mpich, rank, ranks, local, self.number("MPI_LOCALNRANKS")?)))
    }

    fn step(&self) -> Result<Option<Found>> {
        let Some(ranks) = self.number("SLURM_STEP_NUM_TASKS")? else { return Ok(None) };
        let Some(rank) = self.number("SLURM_PROCID")? else { return Ok(None) };
        let local = self.number("SLURM_LOCALID")?.unwrap_or(0);
        let machines = self.number::<usize>("SLURM_STEP_NUM_NODES")?;
        let of_machine = machines.filter(|&machines| machines == 1).map(|_| ranks);
        Ok(Some((Launcher::Slurm, rank, ranks, local, of_machine)))
    }

    fn address(&self, launcher: Launcher) -> Result<Option<(String, u16)>> {
        let port = match self.number("MASTER_PORT")? {
            // The agent of torchrun listens at its port itself.
            Some(port) if self.text("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True") => {
                u16::checked_add(port, 1).unwrap_or(port - 1)
            }
            Some(port) => port,
            None => PORT,
        };
        let host = self.text("MASTER_ADDR").or_else(|| match launcher {
            Launcher::Slurm => first_host(&self.text("SLURM_STEP_NODELIST")?),
            _ => None,
        });
        match (host, launcher) {
            (None, Launcher::Torchrun) => Err(Self::half("RANK", "MASTER_ADDR")),
            (host, _) => Ok(host.map(|host| (host, port))),
        }
    }
}

/// The first machine of a list as Slurm writes them: `gpu[03-05,09],login1` begins with `gpu03`.
fn first_host(list: &str) -> Option<String> {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let Some(inside) = rest.strip_prefix('[') else { return Some(name.to_owned()) };
    let (inside, after) = inside.split_once(']')?;
    let number = inside.split([',', '-']).next()?;
    let tail = after.split([',', '[']).next()?;
    Some(format!("{name}{number}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Option<Launch>> {
        Launch::of(&|name| {
            pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn found(
        pairs: &[(&str, &str)],
    ) -> (Launcher, usize, usize, usize, Option<usize>, Option<String>) {
        let launch = of(pairs).unwrap().unwrap();
        let at = launch.address.map(|(host, port)| format!("{host}:{port}"));
        (launch.launcher, launch.rank, launch.ranks, launch.local_rank, launch.local_ranks, at)
    }

    #[test]
    fn each_launcher_is_known_by_what_it_sets() {
        let torchrun = [
            ("RANK", "9"),
            ("WORLD_SIZE", "16"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "8"),
            ("MASTER_ADDR", "10.0.0.1"),
            ("MASTER_PORT", "4000"),
        ];
        let at = Some("10.0.0.1:4000".to_owned());
        assert_eq!(found(&torchrun), (Launcher::Torchrun, 9, 16, 1, Some(8), at));
        let agent = [&torchrun[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat();
        assert_eq!(found(&agent).5.unwrap(), "10.0.0.1:4001");
        let open = [
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "3"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
        ];
        assert_eq!(found(&open), (Launcher::OpenMpi, 3, 4, 3, Some(4), None));
        let mpich = [("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "0")];
        assert_eq!(found(&mpich), (Launcher::Mpich, 0, 2, 0, None, None));
        let srun = [
            ("SLURM_STEP_NUM_TASKS", "16"),
            ("SLURM_PROCID", "8"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_STEP_NUM_NODES", "2"),
            ("SLURM_STEP_NODELIST", "gpu[03-04]"),
        ];
        let at = Some("gpu03:29500".to_owned());
        assert_eq!(found(&srun), (Launcher::Slurm, 8, 16, 0, None, at));
    }

    #[test]
    fn a_process_that_was_started_alone_is_one() {
        assert_eq!(of(&[]).unwrap(), None);
        // A batch script, an allocation's shell, a stray address.
        let batch = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "16"), ("SLURM_LOCALID", "0")];
        assert_eq!(of(&batch).unwrap(), None);
        assert_eq!(of(&[("MASTER_ADDR", "10.0.0.1"), ("LOCAL_RANK", "0")]).unwrap(), None);
        assert_eq!(of(&[("RANK", ""), ("WORLD_SIZE", " ")]).unwrap(), None);
    }

    #[test]
    fn an_environment_that_contradicts_itself_is_refused() {
        let address = ("MASTER_ADDR", "localhost");
        for (pairs, what) in [
            (vec![("RANK", "1")], "RANK is set and WORLD_SIZE is not"),
            (vec![("WORLD_SIZE", "2")], "WORLD_SIZE is set and RANK is not"),
            (vec![("RANK", "1"), ("WORLD_SIZE", "2")], "RANK is set and MASTER_ADDR is not"),
            (vec![("RANK", "one"), ("WORLD_SIZE", "2")], "RANK is `one`, expected a whole number"),
            (vec![("RANK", "-1"), ("WORLD_SIZE", "2")], "RANK is `-1`, expected a whole number"),
            (
                vec![("RANK", "2"), ("WORLD_SIZE", "2"), address],
                "torchrun says that this is rank 2 of 2",
            ),
            (
                vec![("RANK", "0"), ("WORLD_SIZE", "2"), address, ("MASTER_PORT", "70000")],
                "MASTER_PORT is `70000`, expected a whole number",
            ),
        ] {
            assert_eq!(of(&pairs).unwrap_err().to_string(), what);
        }
    }

    #[test]
    fn the_first_machine_of_a_list() {
        for (list, first) in [
            ("node1", "node1"),
            ("node1,node2", "node1"),
            ("gpu[03-05,09],login1", "gpu03"),
            ("gpu[7,9]", "gpu7"),
            ("rack1-[1-2]-gpu,other", "rack1-1-gpu"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(first), "{list}");
        }
        assert_eq!(first_host("gpu[03"), None);
    }
}

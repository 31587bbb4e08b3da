//! `Job`: the processes that a launcher has started together, once they have come together.

use std::path::Path;
use std::sync::Arc;

use farthing_kernels::Device;

#[cfg(feature = "nvidia")]
use crate::Nccl;
use crate::{About, Comm, Control, Error, Launch, One, Patience, Peers, Result, Secret};
#[cfg(unix)]
use crate::{Mpi, MpiWorld};

/// What carries arrays among ranks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Engine {
    /// Memory that threads of one process share.
    Threads,
    /// MPI: any device, whose arrays pass through the host.
    Mpi,
    /// NCCL: NVIDIA's GPUs.
    Nccl,
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Threads => "threads",
            Self::Mpi => "mpi",
            Self::Nccl => "nccl",
        })
    }
}

/// The environment variable with the secret of a job.
pub const SECRET: &str = "FARTHING_SECRET";

/// This process as one of a job's ranks, joined to the others for as long as it lives.
pub struct Job {
    launch: Launch,
    #[cfg(unix)]
    mpi: Option<Arc<MpiWorld>>,
    peers: Option<Arc<Peers>>,
}

impl Job {
    /// Comes together with the other ranks, once in a process.
    ///
    /// Rank 0 listens at the address of the launch on that interface alone; under MPI it tells the others where. Who joins proves to know the job's secret: that of
    /// `FARTHING_SECRET`, else under MPI one that rank 0 draws and MPI carries, else one that rank 0 draws and leaves in `secret_file` (mode 0600, where
    /// all ranks see it) until all are there.
    ///
    /// # Errors
    /// [`Error::Library`], [`Error::Meeting`]; [`Error::Launch`] where nothing says where rank 0 is.
    pub fn start(
        launch: Launch,
        engine: Engine,
        secret_file: &Path,
        about: &About,
        patience: Patience,
        log: &dyn Fn(&str),
    ) -> Result<Self> {
        let own = std::env::var(SECRET).ok().map(|text| Secret::new(&text)).transpose()?;
        if launch.ranks == 1 {
            return Ok(Self {
                launch,
                #[cfg(unix)]
                mpi: None,
                peers: None,
            });
        }
        #[cfg(unix)]
        if engine == Engine::Mpi {
            return Self::start_mpi(launch, own, about, patience, log);
        }
        let Some((host, port)) = launch.address.clone() else {
            return Err(Error::launch(
                format!("nothing says where rank 0 of {} is", launch.ranks),
                format!(
                    "set MASTER_ADDR, and MASTER_PORT, on all ranks, or let MPI carry the arrays ({engine} is what does)"
                ),
            ));
        };
        let (rank, ranks) = (launch.rank, launch.ranks);
        let peers = if rank == 0 {
            let listener = Peers::listen(&host, port)?;
            let (secret, left) = match own {
                Some(secret) => (secret, None),
                None => leave(secret_file).map(|(secret, left)| (secret, Some(left)))?,
            };
            let peers = Peers::lead(&listener, ranks, &secret, about, patience, log);
            drop(left);
            peers?
        } else {
            let secret = || match &own {
                Some(secret) => Ok(Some(secret.clone())),
                None => left_in(secret_file),
            };
            Peers::join((&host, port), (rank, ranks), &secret, about, patience, log)?
        };
        Ok(Self {
            launch,
            #[cfg(unix)]
            mpi: None,
            peers: Some(Arc::new(peers)),
        })
    }

    #[cfg(unix)]
    fn start_mpi(
        launch: Launch,
        own: Option<Secret>,
        about: &About,
        patience: Patience,
        log: &dyn Fn(&str),
    ) -> Result<Self> {
        let world = MpiWorld::start(&launch)?;
        let (rank, ranks) = (launch.rank, launch.ranks);
        let reachable = world.reachable(patience.meeting);
        let peers = if rank == 0 {
            // Where nothing is said, a port that is free: nobody has to agree on one.
            let at = launch.address.clone().map_or_else(|| reachable.map(|host| (host, 0)), Ok);
            let listener = at.and_then(|(host, port)| Peers::listen(&host, port));
            let drawn = Secret::draw()?;
            let at = listener.as_ref().ok().and_then(|listener| listener.local_addr().ok());
            let said = at.map(|at| format!("{} {} {drawn}", at.ip(), at.port()));
            world.announce(said.unwrap_or_default().as_bytes(), patience.meeting)?;
            let secret = own.map_or_else(|| Secret::new(&drawn), Ok)?;
            Peers::lead(&listener?, ranks, &secret, about, patience, log)?
        } else {
            reachable?;
            let said = world.announce(&[], patience.meeting)?;
            let said = String::from_utf8_lossy(&said).into_owned();
            let mut words = said.split(' ');
            let (Some(host), Some(port), Some(drawn)) =
                (words.next(), words.next().and_then(|port| port.parse().ok()), words.next())
            else {
                return Err(Error::meeting("rank 0 listens nowhere", "see what rank 0 says"));
            };
            let secret = own.map_or_else(|| Secret::new(drawn), Ok)?;
            let secret = || Ok(Some(secret.clone()));
            Peers::join((host, port), (rank, ranks), &secret, about, patience, log)?
        };
        Ok(Self { launch, mpi: Some(Arc::new(world)), peers: Some(Arc::new(peers)) })
    }

    /// How this process was started.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// What joins this rank to the others for a few bytes.
    pub fn control(&self) -> Arc<dyn Control> {
        match &self.peers {
            Some(peers) => Arc::<Peers>::clone(peers),
            None => Arc::new(One),
        }
    }

    /// This rank's end of what carries arrays of a device. A collective.
    ///
    /// # Errors
    /// [`Error::Library`]: the engine is not there, or cannot be among these processes; as [`Nccl::new`].
    pub fn comm<'d>(&self, engine: Engine, dev: &'d dyn Device) -> Result<Box<dyn Comm + 'd>> {
        let Some(peers) = &self.peers else { return Ok(Box::new(One)) };
        match engine {
            #[cfg(unix)]
            Engine::Mpi => match &self.mpi {
                Some(world) => Ok(Box::new(Mpi::new(Arc::clone(world), Arc::clone(peers)))),
                None => Err(unfit(engine)),
            },
            #[cfg(feature = "nvidia")]
            Engine::Nccl => {
                let control: Arc<dyn Control> = Arc::<Peers>::clone(peers);
                Ok(Box::new(Nccl::new(control, dev, peers.patience())?))
            }
            _ => {
                let _ = dev;
                Err(unfit(engine))
            }
        }
    }

    /// Tells the other ranks that this one stops, and why.
    pub fn fail(&self, why: &str) {
        if let Some(peers) = &self.peers {
            peers.fail(why);
        }
    }

    /// Parts from the others, all work being done. Without it they, and the launcher, take this rank for one that failed.
    pub fn finish(&self) {
        if let Some(peers) = &self.peers {
            peers.finish();
        }
        #[cfg(unix)]
        if let Some(world) = &self.mpi {
            world.finish();
        }
    }
}

fn unfit(engine: Engine) -> Error {
    Error::library(
        format!("this build has no engine `{engine}` that joins processes"),
        "build with the feature `nvidia` for NCCL, or use MPI",
    )
}

/// A file that is deleted when it has served.
struct Left(std::path::PathBuf);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Draws a secret and leaves it in a file that its owner alone can read.
fn leave(file: &Path) -> Result<(Secret, Left)> {
    use std::io::Write;
    let drawn = Secret::draw()?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| tempfile::NamedTempFile::new_in(folder))
        .and_then(|mut new| new.write_all(drawn.as_bytes()).map(|()| new))
        .and_then(|new| new.persist(file).map_err(|e| e.error));
    written.map_err(|e| {
        Error::meeting(
            format!("rank 0 cannot leave the job's secret in {}: {e}", file.display()),
            format!(
                "give every rank the same secret in {SECRET} (`openssl rand -hex 32` draws one)"
            ),
        )
    })?;
    Ok((Secret::new(&drawn)?, Left(file.to_owned())))
}

/// The secret that rank 0 has left, if it has.
fn left_in(file: &Path) -> Result<Option<Secret>> {
    let unusable = |what: String| {
        Error::meeting(
            format!("the job's secret in {} cannot be used: {what}", file.display()),
            format!(
                "give every rank the same secret in {SECRET} (`openssl rand -hex 32` draws one)"
            ),
        )
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let found = std::fs::symlink_metadata(file);
        if let Ok(found) = found {
            if !found.is_file() {
                return Err(unusable("it is no file".to_owned()));
            }
            if found.permissions().mode() & 0o077 != 0 {
                return Err(unusable("others than its owner can read or change it".to_owned()));
            }
        }
    }
    match std::fs::read_to_string(file) {
        Ok(text) => Secret::new(&text).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unusable(e.to_string())),
    }
}

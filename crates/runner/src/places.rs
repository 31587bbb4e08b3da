//! Where a pipeline's store and runs are: beside its file, so that it finds them from whatever folder it is started in.

use std::path::{Path, PathBuf};

/// `--store` and `--runs`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct PlaceArgs {
    /// Where outputs are cached [default: `$FARTHING_STORE`, else `store` beside the pipeline file]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Where runs leave their logs, metrics and reports [default: `$FARTHING_RUNS`, else `runs` beside the pipeline file]
    #[arg(long, value_name = "DIR")]
    pub(crate) runs: Option<PathBuf>,
}

/// The folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) store: PathBuf,
    pub(crate) runs: PathBuf,
}

impl PlaceArgs {
    /// Those of a pipeline file; without one, those of the working directory.
    pub(crate) fn of(&self, file: Option<&Path>) -> Places {
        let environment = |name: &str| {
            let found = std::env::var_os(name).filter(|value| !value.is_empty());
            found.map(PathBuf::from)
        };
        // What is read from a pipe has no folder.
        let folder = file.filter(|file| file.is_file()).and_then(Path::parent);
        let beside = |name: &str| folder.unwrap_or(Path::new("")).join(name);
        let place = |given: &Option<PathBuf>, variable: &str, name: &str| {
            given.clone().or_else(|| environment(variable)).unwrap_or_else(|| beside(name))
        };
        Places {
            store: place(&self.store, "FARTHING_STORE", "store"),
            runs: place(&self.runs, "FARTHING_RUNS", "runs"),
        }
    }
}

impl Places {
    /// The store as a run writes it down: as seen from the folder that has both, which may be moved, else from the root.
    pub(crate) fn store_of_runs(&self) -> PathBuf {
        let (Ok(store), Ok(runs)) =
            (std::path::absolute(&self.store), std::path::absolute(&self.runs))
        else {
            return self.store.clone();
        };
        let both = runs.parent().filter(|above| above.parent().is_some());
        let inside = both.and_then(|above| store.strip_prefix(above).ok().map(Path::to_owned));
        inside.unwrap_or(store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_beside_its_pipeline_unless_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.toml");
        std::fs::write(&file, "").unwrap();
        let args = PlaceArgs::default();
        let places = args.of(Some(&file));
        assert_eq!(places.runs, dir.path().join("runs"));
        assert_eq!(places.store_of_runs(), Path::new("store"));
        assert_eq!(args.of(None).runs, Path::new("runs"));
        assert_eq!(args.of(Some(&dir.path().join("absent"))).runs, Path::new("runs"));
        let named = PlaceArgs { store: Some("/data/store".into()), runs: None }.of(Some(&file));
        assert_eq!(named.store_of_runs(), Path::new("/data/store"));
    }
}

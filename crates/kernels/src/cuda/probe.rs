//! Finding NVIDIA's libraries on a machine: by name through the system's loader, then in the folders where toolkits and Python
//! packages put them. Nothing here calls into a library.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use libloading::Library;

/// The driver, by the names it is installed under. `libcuda.so` comes last: in a toolkit's `stubs` it is an empty shell.
pub(super) const DRIVER: &[&str] = &["libcuda.so.1", "libcuda.so"];

/// cuBLASLt for a driver of this CUDA version (12040 is 12.4), best first. A library runs on drivers of its own major
/// version and later ones.
pub(super) fn cublaslt_names(driver_version: i32) -> &'static [&'static str] {
    match driver_version / 1000 {
        ..12 => &["libcublasLt.so.11"],
        12 => &["libcublasLt.so.12", "libcublasLt.so.11"],
        _ => &["libcublasLt.so.13", "libcublasLt.so.12"],
    }
}

/// A loaded library.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) library: Library,
    /// Its file, or the name that the system's loader knew it by.
    pub(super) from: String,
}

/// Why there is no library.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing {
    names: Vec<String>,
    folders: Vec<PathBuf>,
    /// Files that are there and could not be loaded, with the reason.
    broken: Vec<String>,
}

impl Missing {
    /// "libcuda.so.1 was not found …", in one line.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for broken in &self.broken {
            let _ = write!(text, "{broken}; ");
        }
        let _ = write!(
            text,
            "looked for {} by name (LD_LIBRARY_PATH, ld.so.cache)",
            self.names.join(" and ")
        );
        if !self.folders.is_empty() {
            let folders: Vec<_> = self.folders.iter().map(|f| f.display().to_string()).collect();
            let _ = write!(text, " and in {}", folders.join(", "));
        }
        text
    }
}

/// Loads the first of `names` that the system's loader knows or that lies in one of `folders`.
pub(super) fn load(names: &[&str], folders: &[PathBuf]) -> Result<Found, Missing> {
    let mut broken = Vec::new();
    let mut try_to_load = |file: &OsStr| {
        // SAFETY: these libraries' initialisers only register themselves.
        match unsafe { Library::new(file) } {
            Ok(library) => Some(Found { library, from: file.to_string_lossy().into_owned() }),
            Err(error) => {
                // What is not there is no more than not there; else the file itself is at fault.
                let reason = std::error::Error::source(&error);
                let error = reason.map_or_else(|| error.to_string(), ToString::to_string);
                if !error.contains("No such file or directory") {
                    broken.push(format!("{} could not be loaded: {error}", file.display()));
                }
                None
            }
        }
    };
    let by_name = names.iter().find_map(|name| try_to_load(OsStr::new(name)));
    let found = by_name.or_else(|| {
        let files = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
        files.filter(|file| file.is_file()).find_map(|file| try_to_load(file.as_os_str()))
    });
    found.ok_or_else(|| Missing {
        names: names.iter().map(ToString::to_string).collect(),
        folders: folders.to_vec(),
        broken,
    })
}

/// A library of NVIDIA's, by the first of `names` that the system's loader knows or that lies where toolkits and Python's packages put them, and where it was
/// found.
///
/// # Errors
/// Where it was looked for, in one line.
pub fn library(names: &[&str]) -> Result<(Library, String), String> {
    let found = load(names, &Machine::here().toolkit_folders()).map_err(|e| e.describe())?;
    Ok((found.library, found.from))
}

/// Where to look: the environment, and the file system below a root that tests replace.
pub(super) struct Machine<'a> {
    pub(super) variable: &'a dyn Fn(&str) -> Option<OsString>,
    pub(super) root: PathBuf,
}

impl Machine<'_> {
    /// This one.
    pub(super) fn here() -> Self {
        Machine { variable: &|name| std::env::var_os(name), root: "/".into() }
    }

    /// Folders that hold the driver where the loader does not look: WSL, NixOS, containers.
    pub(super) fn driver_folders(&self) -> Vec<PathBuf> {
        let folders = [
            "usr/lib/wsl/lib",
            "run/opengl-driver/lib",
            "usr/local/nvidia/lib64",
            "usr/lib/x86_64-linux-gnu",
            "usr/lib/aarch64-linux-gnu",
            "usr/lib64",
        ];
        existing(folders.map(|folder| self.root.join(folder)))
    }

    /// Folders of toolkits, then of Python packages: CUDA_HOME and CUDA_PATH, /usr/local/cuda and its versioned siblings
    /// (newest first), /opt/cuda; then [`Machine::package_folders`].
    pub(super) fn toolkit_folders(&self) -> Vec<PathBuf> {
        let mut toolkits: Vec<PathBuf> =
            ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|name| self.path(name)).collect();
        let local = self.root.join("usr/local");
        toolkits.push(local.join("cuda"));
        toolkits.extend(children(&local, "cuda-"));
        toolkits.push(self.root.join("opt/cuda"));
        let lib = |toolkit: PathBuf| [toolkit.join("lib64"), toolkit.join("lib")];
        let mut folders: Vec<PathBuf> = toolkits.into_iter().flat_map(lib).collect();

        folders.extend(self.path("CONDA_PREFIX").map(|prefix| prefix.join("lib")));
        folders.extend(self.package_folders());
        existing(folders)
    }

    pub(super) fn path(&self, variable: &str) -> Option<PathBuf> {
        (self.variable)(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// A list of paths, of which empty ones, which would mean the working directory, are left out.
    pub(super) fn paths(&self, variable: &str) -> Vec<PathBuf> {
        let value = (self.variable)(variable).unwrap_or_default();
        std::env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()).collect()
    }
}

/// Folders that are there, each once, in order, by whichever name comes first.
fn existing(folders: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut is_new = |folder: &Path| folder.canonicalize().is_ok_and(|real| seen.insert(real));
    folders.into_iter().filter(|folder| folder.is_dir() && is_new(folder)).collect()
}

/// What lies in a folder under names that begin so, the highest name first: 13.0 before 12.9, and numbers as numbers.
pub(super) fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort_by_cached_key(|name| std::cmp::Reverse((numbers(name), name.clone())));
    names.into_iter().map(|name| folder.join(name)).collect()
}

fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn machine<'a>(root: &Path, variable: &'a dyn Fn(&str) -> Option<OsString>) -> Machine<'a> {
        Machine { variable, root: root.to_path_buf() }
    }

    fn folders(root: &Path, names: &[&str]) {
        for name in names {
            fs::create_dir_all(root.join(name)).unwrap();
        }
    }

    #[test]
    fn toolkits_come_newest_first_and_python_packages_after_them() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        folders(
            root,
            &[
                "usr/local/cuda-9.2/lib64",
                "usr/local/cuda-12.4/lib64",
                "usr/local/cuda-12.10/lib64",
                "usr/local/other/lib64",
                "home/cuda/lib64",
                "env/lib/python3.11/site-packages/nvidia/cublas/lib",
                "env/lib/python3.11/site-packages/nvidia/cu13/lib",
                "env/lib/python3.11/site-packages/nvidia/nothing",
                "usr/bin",
                "usr/lib/python3.12/dist-packages/nvidia/cublas/lib",
            ],
        );
        fs::write(root.join("usr/bin/python3"), "").unwrap();
        let variable = |name: &str| match name {
            "CUDA_HOME" => Some(root.join("home/cuda").into_os_string()),
            "CUDA_PATH" => Some(OsString::new()),
            "VIRTUAL_ENV" => Some(root.join("env").into_os_string()),
            "PATH" => Some(root.join("usr/bin").into_os_string()),
            _ => None,
        };
        let found = machine(root, &variable).toolkit_folders();
        let found: Vec<_> =
            found.iter().map(|f| f.strip_prefix(root).unwrap().to_str().unwrap()).collect();
        assert_eq!(
            found,
            [
                "home/cuda/lib64",
                "usr/local/cuda-12.10/lib64",
                "usr/local/cuda-12.4/lib64",
                "usr/local/cuda-9.2/lib64",
                "env/lib/python3.11/site-packages/nvidia/cu13/lib",
                "env/lib/python3.11/site-packages/nvidia/cublas/lib",
                "usr/lib/python3.12/dist-packages/nvidia/cublas/lib",
            ]
        );
    }

    #[test]
    fn an_empty_machine_has_no_folders() {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path(), &|_| None);
        assert!(machine.toolkit_folders().is_empty() && machine.driver_folders().is_empty());
    }

    #[test]
    fn a_library_is_chosen_by_what_the_driver_can_run() {
        assert_eq!(cublaslt_names(11080), ["libcublasLt.so.11"]);
        assert_eq!(cublaslt_names(12040), ["libcublasLt.so.12", "libcublasLt.so.11"]);
        assert_eq!(cublaslt_names(13000), ["libcublasLt.so.13", "libcublasLt.so.12"]);
        assert_eq!(cublaslt_names(14010), ["libcublasLt.so.13", "libcublasLt.so.12"]);
    }

    #[test]
    fn what_is_nowhere_is_an_error_that_says_where_it_was_looked_for() {
        let root = tempfile::tempdir().unwrap();
        let places = [root.path().to_path_buf()];
        let missing = load(&["libfarthing-none.so.1", "libfarthing-none.so"], &places).unwrap_err();
        assert_eq!(
            missing.describe(),
            format!(
                "looked for libfarthing-none.so.1 and libfarthing-none.so by name (LD_LIBRARY_PATH, \
                 ld.so.cache) and in {}",
                root.path().display()
            )
        );
    }

    #[test]
    fn a_file_that_is_no_library_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("libfarthing-text.so.1");
        fs::write(&file, "not a library, though it is called one: some text that is long enough")
            .unwrap();
        let missing =
            load(&["libfarthing-text.so.1"], &[root.path().to_path_buf()]).unwrap_err().describe();
        assert!(
            missing.starts_with(&format!("{} could not be loaded: ", file.display())),
            "{missing}"
        );
        assert!(missing.contains("; looked for libfarthing-text.so.1 by name"), "{missing}");
    }

    #[test]
    fn the_first_folder_wins_and_a_broken_file_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let [broken, good] = ["broken", "good"].map(|name| root.path().join(name));
        fs::create_dir_all(&broken).unwrap();
        fs::create_dir_all(&good).unwrap();
        fs::write(broken.join("libfarthing-empty.so.1"), "").unwrap();
        let source = root.path().join("empty.c");
        fs::write(&source, "int farthing_empty(void) { return 7; }\n").unwrap();
        let file = good.join("libfarthing-empty.so.1");
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&file).arg(&source).status();
        assert!(built.is_ok_and(|s| s.success()), "a C compiler links Rust programs too");
        let found = load(&["libfarthing-empty.so.1"], &[broken, good]).unwrap();
        assert_eq!(found.from, file.to_str().unwrap());
        // SAFETY: the function above.
        let seven = unsafe { found.library.get::<unsafe extern "C" fn() -> i32>("farthing_empty") };
        // SAFETY: likewise.
        assert_eq!(unsafe { seven.unwrap()() }, 7);
        // SAFETY: no symbol of that library is a table of these.
        let table = unsafe { super::super::api::Api::load(&found.library) };
        assert_eq!(table.err(), Some("cuInit"));
    }
}

//! Finds the folders in which Python packages are installed: the prefixes of every Python that the environment leads to. None of these Pythons is run.
//!
//! The `python3` on a PATH is often far from its packages. It may be a link to the one of a virtual environment, which is itself a link to the Python that made the environment; or it may be
//! a script of pyenv's. So links are followed one at a time, and the prefix of every stop is searched.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::probe::{Machine, children};

/// Links that are followed from one file, as many as Linux follows.
const MOST_LINKS: usize = 40;

/// What a Python is called.
const NAMES: [&str; 2] = ["python3", "python"];

impl Machine<'_> {
    /// Folders where NVIDIA's wheels put libraries: below the entries of PYTHONPATH; in the virtual environment, conda's, those of each Python
    /// in PATH, and the user's own.
    pub(super) fn package_folders(&self) -> Vec<PathBuf> {
        let mut found = Prefixes { machine: self, prefixes: Vec::new() };
        for prefix in ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| self.path(name)) {
            found.add(&prefix);
        }
        for bin in self.paths("PATH") {
            found.meet_pythons(&bin);
        }
        let user = self.path("PYTHONUSERBASE");
        for prefix in user.into_iter().chain(self.path("HOME").map(|home| home.join(".local"))) {
            found.add(&prefix);
        }
        let mut folders: Vec<PathBuf> =
            self.paths("PYTHONPATH").iter().flat_map(|packages| libraries(packages)).collect();
        folders.extend(found.prefixes.iter().flat_map(|prefix| packages(prefix)));
        folders
    }
}

/// Libraries in the packages of one Python.
fn packages(prefix: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for lib in ["lib", "lib64"] {
        for python in children(&prefix.join(lib), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                folders.extend(libraries(&python.join(packages)));
            }
        }
    }
    // What conda installs is for the whole environment, not for Python alone.
    if prefix.join("conda-meta").is_dir() {
        folders.push(prefix.join("lib"));
    }
    folders
}

/// Libraries in one folder of packages: NVIDIA's own wheels, and those of PyTorch that carry theirs.
fn libraries(packages: &Path) -> Vec<PathBuf> {
    let wheels = children(&packages.join("nvidia"), "");
    wheels.into_iter().chain([packages.join("torch")]).map(|wheel| wheel.join("lib")).collect()
}

/// Prefixes, each once, in the order in which they were met.
struct Prefixes<'m> {
    machine: &'m Machine<'m>,
    prefixes: Vec<PathBuf>,
}

impl Prefixes<'_> {
    /// A prefix, and those that it is built on.
    fn add(&mut self, prefix: &Path) {
        if self.prefixes.iter().any(|met| met == prefix) {
            return;
        }
        self.prefixes.push(prefix.to_path_buf());
        if let Some(home) = home(prefix) {
            self.meet_pythons(&home);
        }
        // Debian's Python is in /usr, and what is installed for everyone in /usr/local.
        if prefix == self.machine.root.join("usr") {
            self.add(&self.machine.root.join("usr/local"));
        }
    }

    /// The Pythons of one folder of programs.
    fn meet_pythons(&mut self, bin: &Path) {
        // A link that leads nowhere still leads through places.
        let pythons = NAMES.map(|name| bin.join(name));
        for python in pythons.iter().filter(|python| python.symlink_metadata().is_ok()) {
            for place in places(python) {
                self.meet(&place);
            }
        }
    }

    fn meet(&mut self, python: &Path) {
        let Some(bin) = python.parent() else { return };
        let Some(prefix) = bin.parent() else { return };
        self.add(prefix);
        // pyenv's, asdf's and mise's `shims` hold programs that choose among these.
        if bin.file_name() == Some(OsStr::new("shims")) {
            for versions in ["versions", "installs/python"] {
                for version in children(&prefix.join(versions), "") {
                    self.add(&version);
                }
            }
        }
    }
}

/// The folder of the Python that a virtual environment was made with, as its `pyvenv.cfg` has it.
fn home(prefix: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(prefix.join("pyvenv.cfg")).ok()?;
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "home").then(|| PathBuf::from(value.trim()))
    };
    text.lines().find_map(value)
}

/// A path, then where each link on it leads, one after another, links of folders too. The last is where the file is.
fn places(path: &Path) -> Vec<PathBuf> {
    let mut places = vec![std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())];
    for _ in 0..=MOST_LINKS {
        let (next, was_a_link) = follow(&places[places.len() - 1]);
        if places.contains(&next) {
            break;
        }
        places.push(next);
        if !was_a_link {
            break;
        }
    }
    places
}

/// A path with the first link on it replaced by what that says, or without `.` and `..` where there is none, and whether there was one.
fn follow(path: &Path) -> (PathBuf, bool) {
    let mut walked = PathBuf::new();
    let mut rest = path.components();
    while let Some(component) = rest.next() {
        if step(&mut walked, component) {
            continue;
        }
        if let Ok(target) = std::fs::read_link(&walked) {
            walked.pop();
            let mut target = target.components();
            let mut ahead = target.clone();
            while let Some(component) = ahead.next() {
                if !matches!(component, Component::CurDir | Component::ParentDir) {
                    break;
                }
                step(&mut walked, component);
                target = ahead.clone();
            }
            return (walked.join(target.as_path()).join(rest.as_path()), true);
        }
    }
    (walked, false)
}

/// Goes on by one component from a folder on whose way no link is left, so that the one above it is the one that is named. Whether that was
/// `.` or `..`, which are no links.
fn step(walked: &mut PathBuf, component: Component<'_>) -> bool {
    match component {
        Component::CurDir => {}
        Component::ParentDir => {
            walked.pop();
        }
        component => {
            walked.push(component);
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A file system with these folders and files (`/` at a folder's end), and links.
    fn tree(entries: &[&str], links: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for entry in entries {
            let path = root.path().join(entry);
            fs::create_dir_all(if entry.ends_with('/') { &path } else { path.parent().unwrap() })
                .unwrap();
            if !entry.ends_with('/') {
                fs::write(&path, "").unwrap();
            }
        }
        for (link, target) in links {
            let link = root.path().join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            // What begins with `/` is below the root too.
            let target =
                target.strip_prefix('/').map_or_else(|| target.into(), |t| root.path().join(t));
            symlink(target, link).unwrap();
        }
        root
    }

    /// The folders that are looked in and are there, with `variables` set, their values below the root.
    fn found(root: &Path, variables: &[(&str, &str)]) -> Vec<String> {
        let below = |value: &str| -> OsString {
            let paths = value.split(':').map(|path| root.join(path));
            std::env::join_paths(paths).unwrap()
        };
        let variable = |name: &str| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| below(value))
        };
        let machine = Machine { variable: &variable, root: root.to_path_buf() };
        let folders = machine.toolkit_folders();
        folders.iter().map(|f| f.strip_prefix(root).unwrap().display().to_string()).collect()
    }

    const CUBLAS: &str = "lib/python3.12/site-packages/nvidia/cublas/lib";

    fn packages_of(prefixes: &[&str]) -> Vec<String> {
        prefixes.iter().map(|prefix| format!("{prefix}/{CUBLAS}")).collect()
    }

    #[test]
    fn packages_are_where_a_link_leads_through_and_where_it_ends() {
        let [a, b] = ["opt/x/.venv", "usr"].map(|prefix| format!("{prefix}/{CUBLAS}/"));
        let root = tree(
            &[&a, &b, "usr/bin/python3.12"],
            &[
                ("usr/local/bin/python3", "/opt/x/.venv/bin/python3"),
                ("opt/x/.venv/bin/python3", "python"),
                ("opt/x/.venv/bin/python", "../../../../usr/bin/python3.12"),
            ],
        );
        let met = found(root.path(), &[("PATH", "usr/local/bin")]);
        assert_eq!(met, packages_of(&["opt/x/.venv", "usr"]));
    }

    #[test]
    fn links_of_folders_are_followed_too() {
        let a = format!("mnt/env/{CUBLAS}/");
        let root = tree(
            &[&a, "mnt/env/bin/python3"],
            &[("home/bin", "/data/bin"), ("data/bin", "../mnt/env/bin")],
        );
        assert_eq!(found(root.path(), &[("PATH", "home/bin")]), packages_of(&["mnt/env"]));
    }

    #[test]
    fn a_loop_ends() {
        let a = format!("a/{CUBLAS}/");
        let links = [
            ("a/bin/python3", "/b/bin/python3"),
            ("b/bin/python3", "../../a/bin/python3"),
            // One that grows with each step.
            ("c/bin/python3", "python3/python3"),
            ("d/bin/python3", "python3"),
        ];
        let root = tree(&[&a], &links);
        let met = found(root.path(), &[("PATH", "d/bin:c/bin:b/bin")]);
        assert_eq!(met, packages_of(&["a"]));
        assert!(places(&root.path().join("c/bin/python3")).len() <= MOST_LINKS + 2);
    }

    #[test]
    fn a_link_that_leads_nowhere_leads_through_places() {
        let a = format!("a/{CUBLAS}/");
        let links = [("bin/python3", "/a/bin/python3"), ("a/bin/python3", "/gone/bin/python3")];
        let root = tree(&[&a], &links);
        assert_eq!(found(root.path(), &[("PATH", "bin")]), packages_of(&["a"]));
    }

    #[test]
    fn a_virtual_environment_says_what_it_was_made_with() {
        let [a, b] = ["base", "env"].map(|prefix| format!("{prefix}/{CUBLAS}/"));
        let root = tree(&[&a, &b, "base/bin/python3"], &[]);
        let home = root.path().join("base/bin");
        let text = format!(
            "version = 3.12\nhome = {}\ninclude-system-site-packages = true\n",
            home.display()
        );
        fs::write(root.path().join("env/pyvenv.cfg"), text).unwrap();
        assert_eq!(found(root.path(), &[("VIRTUAL_ENV", "env")]), packages_of(&["env", "base"]));
        // And one that names itself.
        let text = format!("home={}\n", root.path().join("env/bin").display());
        fs::write(root.path().join("env/pyvenv.cfg"), text).unwrap();
        assert_eq!(found(root.path(), &[("VIRTUAL_ENV", "env")]), packages_of(&["env"]));
    }

    #[test]
    fn other_customs_of_where_packages_go() {
        // Beside one another under PYTHONPATH, as `pip install --target` leaves them.
        let root = tree(&["a/nvidia/cublas/lib/", "b/torch/lib/"], &[]);
        let met = found(root.path(), &[("PYTHONPATH", "b:a")]);
        assert_eq!(met, ["b/torch/lib", "a/nvidia/cublas/lib"]);
        // Fedora's lib64; Debian's /usr/local for a Python in /usr.
        let root = tree(
            &[
                "usr/bin/python3",
                "usr/lib64/python3.9/site-packages/nvidia/cublas/lib/",
                "usr/local/lib/python3.11/dist-packages/nvidia/cu13/lib/",
            ],
            &[],
        );
        let met = found(root.path(), &[("PATH", "usr/bin")]);
        assert_eq!(
            met,
            [
                "usr/lib64/python3.9/site-packages/nvidia/cublas/lib",
                "usr/local/lib/python3.11/dist-packages/nvidia/cu13/lib",
            ]
        );
        // pyenv's scripts, the newest version first; conda's own libraries; what a user installed.
        let [old, new] = ["3.9.18", "3.12.1"].map(|v| format!("pyenv/versions/{v}/{CUBLAS}/"));
        let user = format!("base/{CUBLAS}/");
        let root = tree(
            &[
                &old,
                &new,
                &user,
                "pyenv/shims/python3",
                "conda/bin/python",
                "conda/conda-meta/",
                "conda/lib/",
            ],
            &[],
        );
        let variables = [("PATH", "pyenv/shims:conda/bin"), ("PYTHONUSERBASE", "base")];
        let mut expected =
            packages_of(&["pyenv/versions/3.12.1", "pyenv/versions/3.9.18", "conda", "base"]);
        expected[2] = "conda/lib".into();
        assert_eq!(found(root.path(), &variables), expected);
    }
}

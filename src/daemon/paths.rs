//! Where a cluster keeps things.
use std::path::{Path, PathBuf};

/// What disappears at reboot: sockets and records of what runs.
const RUN: &str = "/run/coracle";
/// What stays.
const DATA: &str = "/var/lib/coracle";

/// The directories of one cluster.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Its name.
    pub cluster: String,
    /// Durable: objects, keys, images, pods' files.
    pub data: PathBuf,
    /// `/run/coracle/<cluster>`.
    pub run: PathBuf,
}

impl Paths {
    /// `data` if given, else where the running cluster says, else the default.
    pub fn new(cluster: &str, data: Option<&Path>) -> Paths {
        let run = Path::new(RUN).join(cluster);
        let known = || std::fs::read_link(run.join("data")).ok();
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let data = data.map(absolute).or_else(known).unwrap_or_else(|| Path::new(DATA).join(cluster));
        Paths { cluster: cluster.to_owned(), data, run }
    }

    /// The API for the command line.
    pub fn socket(&self) -> PathBuf {
        self.run.join("coracle.sock")
    }

    /// Process id of the daemon; locked while it lives.
    pub fn pid_file(&self) -> PathBuf {
        self.run.join("daemon.pid")
    }

    /// A link to the data directory, so that verbs which only know the name find it.
    pub fn data_link(&self) -> PathBuf {
        self.run.join("data")
    }

    /// For kubectl.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// What `up --detach` writes instead of standing on a terminal.
    pub fn log(&self) -> PathBuf {
        self.data.join("daemon.log")
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// A tmpfs, whatever `/run` is: files that must not reach a disk.
    pub fn memory(&self) -> PathBuf {
        self.run.join("memory")
    }

    /// Directory above all clusters' run directories.
    pub fn run_root() -> &'static Path {
        Path::new(RUN)
    }

    /// Directory above all clusters' data, by default.
    pub fn data_root() -> &'static Path {
        Path::new(DATA)
    }

    /// The cgroup of everything that the cluster runs.
    pub fn cgroup(&self) -> String {
        format!("coracle/{}", self.cluster)
    }
}

/// Whether a name can be a cluster's: it becomes part of paths, links and cgroups.
///
/// Errors: a sentence that says what is allowed.
pub fn check_name(name: &str) -> Result<(), String> {
    const LONGEST: usize = 40;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edges = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.len() <= LONGEST && name.chars().all(plain) && name.starts_with(edges) && name.ends_with(edges) {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be a cluster's name: up to {LONGEST} lower-case letters, digits and -, at both ends a letter or digit"
    ))
}

/// `coracle`, or `coracle-<name>`: what kubectl calls the context.
pub fn context_name(cluster: &str) -> String {
    if cluster == "default" { "coracle".into() } else { format!("coracle-{cluster}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_meant_from_here() {
        let paths = Paths::new("x", Some(Path::new("state")));
        assert_eq!(paths.data, std::env::current_dir().unwrap().join("state"));
    }
}

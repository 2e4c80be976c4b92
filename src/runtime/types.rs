//! What callers say about sandboxes, containers and exec sessions, and what they are told.
use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxResources, Spec};
use serde::{Deserialize, Serialize};

/// Where the pod's processes find their network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// A fresh network namespace (its loopback is up), held open by the shim.
    New,
    /// The namespace bound at this path: the node's own, for `hostNetwork`.
    Join(PathBuf),
}

/// A memory file system all containers of the pod can share (bind-mount `path` into them).
/// It is mounted in the shim's own mount namespace, so that it is gone when the shim is;
/// from outside it is reached as `/proc/<sandbox pid>/root/<path>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute host path of the mount point; created when missing.
    pub path: PathBuf,
    /// Upper limit in bytes; `None` leaves the kernel's default (half of memory).
    pub size: Option<u64>,
    /// Permission bits of its root, e.g. `0o1777`.
    pub mode: u32,
}

/// A pod's sandbox: the namespaces and the cgroup its containers share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxSpec {
    /// The pod's uid; names the socket and everything else.
    pub id: String,
    /// Pod name, for people and for `list`.
    pub name: String,
    /// Pod namespace, for people and for `list`.
    pub namespace: String,
    /// Durable directory of the pod; `exits/` in it belongs to the shim.
    pub dir: PathBuf,
    /// Host name in the pod's UTS namespace. Empty with `hostNetwork`: keep the node's.
    pub hostname: String,
    /// New network namespace, or one to join.
    pub network: Network,
    /// The pod's cgroup relative to every controller's mount (`coracle/<cluster>/<node>/kubepods/…/pod<uid>`).
    pub cgroup: String,
    /// Where the shim itself lives: outside the pod, so that the pod's limits are the pod's.
    pub shim_cgroup: String,
    /// Limits of the pod as a whole.
    #[serde(default)]
    pub resources: Option<LinuxResources>,
    /// Namespaced kernel settings, `net.ipv4.ip_unprivileged_port_start` -> `0`.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Memory volumes and `/dev/shm`.
    #[serde(default)]
    pub tmpfs: Vec<Tmpfs>,
    /// Kept for the caller; `list` gives them back.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A created sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The pod's uid.
    pub id: String,
    /// Process id of the shim, which holds the namespaces.
    pub pid: i32,
    /// `/proc/<pid>/ns/net`.
    pub netns: PathBuf,
    /// As it was asked for.
    pub spec: SandboxSpec,
}

/// One attempt at running one container.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Unique in the pod; names the cgroup under the pod's.
    pub name: String,
    /// 0, 1, 2 … one more each restart.
    pub attempt: u32,
    /// Bundle directory: receives `config.json`, `rootfs/`, `upper/`, `work/`, `state.json`.
    pub dir: PathBuf,
    /// Unpacked image layers, top first. Empty: `spec.root.path` is used as it is.
    pub lower: Vec<PathBuf>,
    /// The OCI runtime spec, written to the bundle as it is performed. `process.user` is numeric;
    /// `linux.cgroupsPath` and `root.path` are filled in here.
    pub spec: Spec,
    /// Log file in CRI format; its directory is created.
    pub log: PathBuf,
    /// Keep a standard input that `attach` can write to.
    pub stdin: bool,
    /// Give it a terminal.
    pub tty: bool,
}

/// A program to run in a running container.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// Container name.
    pub container: String,
    /// Program and arguments; the program is looked up in the container's `PATH`.
    pub args: Vec<String>,
    /// `KEY=value` pairs on top of the container's own.
    pub env_extra: Vec<String>,
    /// Run it on a terminal of its own.
    pub tty: bool,
    /// Give it a standard input.
    pub stdin: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// 0..=255; 128 + signal number when a signal ended it.
    pub code: i32,
    /// The signal, if one did.
    pub signal: Option<i32>,
}

/// What is known after a container ended; a file `exits/<name>.<attempt>.json` in the pod's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// Container name.
    pub name: String,
    /// Which attempt.
    pub attempt: u32,
    /// 0..=255; 128 + signal; 137 if its shim died and nobody saw it end.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed in its cgroup for want of memory.
    pub oom_killed: bool,
    /// False if nobody saw it end (its shim was killed): `code` is then a guess.
    pub known: bool,
    /// When its program was executed.
    pub started_at: jiff::Timestamp,
    /// When it was reaped.
    pub finished_at: jiff::Timestamp,
}

/// A container as the shim (or, after the shim's death, the disk) knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    /// Container name.
    pub name: String,
    /// Which attempt.
    pub attempt: u32,
    /// Process id of its init as the host sees it.
    pub pid: i32,
    /// Its bundle directory.
    pub bundle: PathBuf,
    /// When its program was executed.
    pub started_at: jiff::Timestamp,
    /// `None` while it runs.
    pub exit: Option<ExitRecord>,
}

impl ContainerState {
    /// Still running?
    pub fn running(&self) -> bool {
        self.exit.is_none()
    }
}

/// A sandbox as found: created by this process or by one before it.
#[derive(Clone, Debug)]
pub struct SandboxState {
    /// As it was asked for.
    pub spec: SandboxSpec,
    /// Process id of the shim; `None` if it is dead (then no container of it runs).
    pub pid: Option<i32>,
    /// Every attempt not yet removed, sorted by name and attempt.
    pub containers: Vec<ContainerState>,
}

impl SandboxState {
    /// `/proc/<pid>/ns/net` while the shim lives.
    pub fn netns(&self) -> Option<PathBuf> {
        self.pid.map(|p| PathBuf::from(format!("/proc/{p}/ns/net")))
    }
}

/// What happened in a sandbox, in the order it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// The program was executed.
    Started { name: String, attempt: u32, pid: i32, at: jiff::Timestamp },
    /// Its init ended and was reaped; the record is on disk already.
    Exited(ExitRecord),
    /// The shim itself is gone; `state` tells what is left.
    SandboxDied,
}

/// Why the runtime could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container's program could not be executed. `code` is 126 (found, not executable), 127 (not found) or
    /// 128 (the set-up before it failed); `message` is worded as container runtimes word it:
    /// `exec: "foo": executable file not found in $PATH`.
    #[error("{message}")]
    Start { code: i32, message: String },
    /// No such sandbox.
    #[error("sandbox {0} not found")]
    NoSandbox(String),
    /// No such (running) container in the sandbox.
    #[error("container {0} not found or not running")]
    NoContainer(String),
    /// The sandbox's shim is dead: nothing can run in it any more; destroy it and make another.
    #[error("the shim of sandbox {0} is gone")]
    Gone(String),
    /// The spec asks for something that cannot be.
    #[error("invalid spec: {0}")]
    Invalid(String),
    /// exec_sync took longer than it was given; the program was killed.
    #[error("command timed out after {0:?}")]
    Timeout(std::time::Duration),
    /// The shim answered with an error.
    #[error("{0}")]
    Shim(String),
    /// A cgroup could not be made, limited or removed.
    #[error("cgroup {path}: {reason}")]
    Cgroup { path: String, reason: String },
    /// A system call failed while doing what `context` says.
    #[error("{context}: {source}")]
    Io {
        context: String,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err(Error::io(|| …))`: an I/O error with what was being done.
    pub fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let context = context.into();
        move |source| Error::Io { context, source }
    }
}

/// Results of this room.
pub type Result<T> = std::result::Result<T, Error>;

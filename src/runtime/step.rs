//! The steps of a container's set-up: data that can be printed, sent to the new process, and performed there.
use std::fmt;
use std::path::PathBuf;

use nix::mount::MsFlags;
use serde::{Deserialize, Serialize};

use crate::sys::{CapSets, Device, MountAttr, attr};

/// One thing a fresh process does on its way to becoming a container, or a program in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Prefer (or spare) it when memory runs out. Without CAP_SYS_RESOURCE a lower value than ours is not to be had.
    OomScore(i32),
    /// Write `0` ("me") into each of these files.
    JoinCgroup(Vec<PathBuf>),
    /// A cgroup namespace whose root is the cgroup it is in now.
    CgroupNamespace,
    /// Enter these namespaces (`CLONE_NEW*`) of a running container.
    JoinContainer(i32),
    /// A resource limit by its OCI name.
    Limit { name: String, soft: u64, hard: u64 },
    /// Stop our mounts from being seen outside.
    SlaveMounts,
    /// The image's layers (top first) under a writable one, mounted at `root`.
    Overlay { lower: Vec<PathBuf>, upper: PathBuf, work: PathBuf, root: PathBuf },
    /// Use a directory as it is: bind it on itself, for `/` must be a mount point.
    PlainRoot { root: PathBuf },
    /// Take hold of something on the host, to be attached after the host is out of sight.
    Take { slot: usize, source: PathBuf, recursive: bool, attr: MountAttr },
    /// Make `root` the root; nothing of the host is reachable by a name afterwards.
    Pivot { root: PathBuf },
    /// Attach what was taken; the mount point (a directory or an empty file) is made when missing.
    Attach { slot: usize, target: PathBuf },
    /// A file system of the kernel's. `flags` are `MS_*`.
    Mount { fstype: String, source: PathBuf, target: PathBuf, flags: u64, data: String },
    /// A special file.
    Node { path: PathBuf, device: Device },
    /// A symbolic link.
    Link { path: PathBuf, target: PathBuf },
    /// Make a file or directory of the kernel's unreadable, if it is there. The `/dev/null` for that was taken before:
    /// the container's own may be one that others can replace.
    Mask { slot: usize, path: PathBuf },
    /// Make a file or directory of the kernel's read-only, if it is there.
    ReadOnly(PathBuf),
    /// The root file system read-only.
    ReadOnlyRoot,
    /// A session of its own, so that signals to ours do not reach it.
    Session,
    /// A terminal (owned by this user) for standard streams.
    Terminal(u32),
    /// Give the standard streams to this user.
    Stdio(u32),
    /// Working directory, made when missing.
    Directory(PathBuf),
    /// Who it is.
    User { uid: u32, gid: u32, groups: Vec<u32>, umask: u32, caps: CapSets },
    /// Be killed by the kernel when the shim dies. After `User`, which would reset it.
    DieWithShim,
    /// No privileges by exec.
    NoNewPrivileges,
    /// The seccomp program that was sent along.
    Seccomp,
    /// Become the program.
    Exec { args: Vec<String>, env: Vec<String> },
}

/// Why a set-up failed, with the exit code a shell would have given it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// 126, 127 or 128: see `Error::Start`.
    pub code: i32,
    pub message: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::OomScore(score) => write!(f, "oom_score_adj {score}"),
            Step::JoinCgroup(files) => {
                let files: Vec<_> = files.iter().map(|p| p.to_string_lossy()).collect();
                write!(f, "join cgroup {}", files.join(" "))
            }
            Step::CgroupNamespace => f.write_str("new cgroup namespace"),
            Step::JoinContainer(flags) => {
                let flags = nix::sched::CloneFlags::from_bits_truncate(*flags);
                write!(f, "join {flags:?}")
            }
            Step::Limit { name, soft, hard } => write!(f, "limit {name} {soft} {hard}"),
            Step::SlaveMounts => f.write_str("slave mounts"),
            Step::ReadOnlyRoot => f.write_str("read-only /"),
            Step::Session => f.write_str("new session"),
            Step::Terminal(uid) => write!(f, "terminal of {uid}"),
            Step::Stdio(uid) => write!(f, "streams to {uid}"),
            Step::Directory(path) => write!(f, "directory {}", path.display()),
            Step::User { uid, gid, groups, caps, .. } => {
                write!(f, "user {uid} group {gid} {groups:?} caps {:#x} of {:#x}", caps.effective, caps.bounding)
            }
            Step::DieWithShim => f.write_str("die with the shim"),
            Step::NoNewPrivileges => f.write_str("no new privileges"),
            Step::Seccomp => f.write_str("seccomp"),
            Step::Exec { args, .. } => write!(f, "exec {args:?}"),
            files => files.fmt_file(f),
        }
    }
}

impl Step {
    /// The steps about mounts and files.
    fn fmt_file(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Overlay { lower, upper, root, .. } => {
                write!(f, "mount overlay of {} layers and {} on {}", lower.len(), upper.display(), root.display())
            }
            Step::PlainRoot { root } => write!(f, "bind root {}", root.display()),
            Step::Take { slot, source, attr, .. } => {
                let ro = if attr.set & attr::RDONLY != 0 { " read-only" } else { "" };
                write!(f, "take #{slot} {}{ro}", source.display())
            }
            Step::Pivot { root } => write!(f, "pivot root to {}", root.display()),
            Step::Attach { slot, target } => write!(f, "attach #{slot} to {}", target.display()),
            Step::Mount { fstype, target, flags, data, .. } => {
                let flags = MsFlags::from_bits_truncate(*flags);
                write!(f, "mount {fstype} on {} {flags:?} {data:?}", target.display())
            }
            Step::Node { path, device: d } => {
                write!(f, "node {} {}:{} {:o}", path.display(), d.major, d.minor, d.mode)
            }
            Step::Link { path, target } => {
                write!(f, "link {} -> {}", path.display(), target.display())
            }
            Step::Mask { path, .. } => write!(f, "mask {}", path.display()),
            Step::ReadOnly(path) => write!(f, "read-only {}", path.display()),
            _ => Ok(()), // `fmt` says the others
        }
    }
}

//! The pod's own namespaces, made by the shim in itself.
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;
use serde::{Deserialize, Serialize};

use crate::runtime::types::{Network, SandboxSpec, Tmpfs};
use crate::sys;

/// The record of a sandbox, written before its shim is started: `<run dir>/pods/<id>.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::runtime) struct Record {
    pub spec: SandboxSpec,
    /// Files the shim writes `0` into to enter its own cgroup.
    pub entrances: Vec<PathBuf>,
}

/// The part of the record the shim needs: what it does not parse costs it no memory.
#[derive(Deserialize)]
pub(super) struct OwnRecord {
    pub spec: OwnSpec,
    pub entrances: Vec<PathBuf>,
}

#[derive(Deserialize)]
pub(super) struct OwnSpec {
    pub dir: PathBuf,
    hostname: String,
    network: Network,
    #[serde(default)]
    sysctls: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    tmpfs: Vec<Tmpfs>,
}

/// As unlikely a victim as can be had: without it nobody knows how the containers ended. The kernel lets only
/// CAP_SYS_RESOURCE go below what we inherited; then the shim keeps that.
const OOM_SCORE: &str = "-999";

/// An error with what was being done.
fn doing<T>(what: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

/// Enter the shim's cgroup. Where it has gone already, its node or cluster has, and nobody would ever end a shim outside.
pub(super) fn enter(entrances: &[PathBuf]) -> Result<(), String> {
    entrances.iter().try_for_each(|file| doing(&format!("entering {}", file.display()), fs::write(file, "0")))
}

/// Make the namespaces. Anything that fails fails the sandbox, but for OOM protection.
pub(super) fn set_up(spec: &OwnSpec) -> Result<(), String> {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        note!("oom_score_adj {OOM_SCORE}: {error}, done without");
    }
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    match &spec.network {
        Network::New => flags |= CloneFlags::CLONE_NEWNET,
        Network::Join(path) => {
            let what = format!("joining {}", path.display());
            let ns = doing(&what, File::open(path))?;
            doing(&what, setns(ns, CloneFlags::CLONE_NEWNET).map_err(Into::into))?;
        }
    }
    doing("unshare", unshare(flags).map_err(Into::into))?;
    doing("mounts", mounts(&spec.tmpfs))?;
    if spec.network == Network::New {
        doing("loopback", sys::loopback_up())?;
    }
    if !spec.hostname.is_empty() {
        doing("hostname", sethostname(&spec.hostname).map_err(Into::into))?;
    }
    for (name, value) in &spec.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        doing(&format!("sysctl {name}"), fs::write(path, value))?;
    }
    Ok(())
}

fn mounts(tmpfs: &[Tmpfs]) -> io::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    for volume in tmpfs {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&volume.path)?;
        let mut data = format!("mode={:o}", volume.mode);
        if let Some(size) = volume.size {
            data.push_str(&format!(",size={size}"));
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), &volume.path, Some("tmpfs"), flags, Some(data.as_str()))?;
    }
    Ok(())
}

//! A cluster's part of the cgroup tree where systemd owns the tree.
//!
//! On cgroup v2 every part of the tree has one writer, and systemd hands parts over by delegation
//! (<https://systemd.io/CGROUP_DELEGATION>). A cluster gets a transient scope, `coracle-<cluster>.scope`, with all of
//! it below, the daemon too; only there are controllers handed down. The scope lives for as long as anybody is in it:
//! after a `kill -9` of the daemon its pods keep it, and the next daemon finds it. A daemon that is a service enters the
//! scope as well: systemd puts the new main process of a restarted service into the service's own cgroup, which the
//! kernel refuses once that hands controllers down to pods that run on.
//!
//! On v1, and without systemd, the tree begins at the mounts and nobody need be asked.
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcgroups::common::{AnyCgroupManager, CgroupConfig, CgroupManager, create_cgroup_manager};
use libcgroups::systemd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::cgroup;
use super::types::{Error, Result};

const MOUNT: &str = "/sys/fs/cgroup";
/// Where services are; it is there anyway, so nothing of ours is left when the scope is gone.
const SLICE: &str = "system.slice";
/// The daemon's leaf: who hands controllers down may have no processes of its own.
const LEAF: &str = "daemon";
/// Where systemd keeps what it knows of such a unit, for as long as it knows it.
const UNITS: &str = "/run/systemd/transient";
/// How long systemd may take to forget a scope that has become empty: it has much to read when hundreds of mounts have
/// just gone too, and some machines are slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// A scope may be on its way out when it is entered: seen once, done at the next try.
const TRIES: usize = 3;

/// Makes every cgroup path of this process one below the cluster's scope, where there are scopes. Before anything else
/// is asked of cgroups; the same cluster again is fine.
pub fn settle(cluster: &str) {
    if systemd::booted() && Path::new(MOUNT).join("cgroup.controllers").exists() {
        cgroup::begin_at(Path::new(SLICE).join(unit(cluster)));
    }
}

/// Moves this process into the cluster's scope, which is made if it is not there. Blocks for some 20 ms.
pub fn enter(cluster: &str) -> Result<()> {
    let Some(scope) = directory(cluster)? else { return Ok(()) };
    let mut entered = try_enter(cluster, &scope);
    for _ in 1..TRIES {
        if entered.is_ok() {
            break;
        }
        tracing::debug!(scope = %scope.display(), ?entered, "waiting for the old scope to go");
        until_forgotten(cluster)?;
        entered = try_enter(cluster, &scope);
    }
    entered
}

fn try_enter(cluster: &str, scope: &Path) -> Result<()> {
    if !known(cluster).exists() {
        // Left of an earlier scope, if it is empty; after the deadline nobody is killed for it.
        cgroup::remove_tree(scope, Instant::now()).ok();
    }
    if !scope.is_dir() {
        let this = nix::unistd::Pid::this();
        manager(cluster)?.add_task(this).map_err(|e| error(cluster, e))?;
    }
    let leaf = scope.join(LEAF);
    let moved = match fs::create_dir(&leaf) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => fs::write(leaf.join("cgroup.procs"), "0"),
    };
    moved.map_err(Error::io(format!("entering {}", leaf.display())))
}

/// Gives the scope back when the cluster's cgroups are gone, and waits until it is no more.
///
/// systemd removes the directory of a scope that has become empty, unless the last process has not quite left it: then
/// it forgets the scope and leaves the directory. What it left, and a shim that the daemon was just starting, go here.
pub fn release(cluster: &str) -> Result<()> {
    let Some(scope) = directory(cluster)?.filter(|scope| scope.exists()) else { return Ok(()) };
    manager(cluster)?.remove().map_err(|e| error(cluster, e))?;
    until_forgotten(cluster)?;
    cgroup::remove_tree(&scope, Instant::now() + PATIENCE).map_err(|e| error(cluster, e))?;
    match known(cluster).exists() {
        true => Err(error(cluster, format!("systemd keeps it: systemctl reset-failed {}", unit(cluster)))),
        false => Ok(()),
    }
}

/// There while systemd knows the scope.
fn known(cluster: &str) -> PathBuf {
    Path::new(UNITS).join(unit(cluster))
}

fn unit(cluster: &str) -> String {
    format!("coracle-{cluster}.scope")
}

/// The scope's directory, if this process was settled below one.
fn directory(cluster: &str) -> Result<Option<PathBuf>> {
    let root = match cgroup::layout()? {
        cgroup::Layout::V2 { root } => root,
        cgroup::Layout::V1(_) => return Ok(None),
    };
    Ok(root.ends_with(unit(cluster)).then(|| root.clone()))
}

/// libcgroups speaks to systemd for us. It calls what it makes a container, in the description too.
fn manager(cluster: &str) -> Result<AnyCgroupManager> {
    create_cgroup_manager(CgroupConfig {
        cgroup_path: format!("{SLICE}:coracle:{cluster}").into(),
        systemd_cgroup: true,
        container_name: format!("of the coracle cluster {cluster}"),
    })
    .map_err(|e| error(cluster, e))
}

/// Until systemd does not know the scope any more, or patience is gone.
fn until_forgotten(cluster: &str) -> Result<()> {
    let known = known(cluster);
    let waited = wait_gone(&known, Instant::now() + PATIENCE);
    waited.map_err(Error::io(format!("watching {}", known.display())))
}

fn wait_gone(path: &Path, deadline: Instant) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    inotify.add_watch(path.parent().unwrap_or(path), AddWatchFlags::IN_DELETE)?;
    while path.exists() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(1..) => drop(inotify.read_events()),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn error(cluster: &str, reason: impl ToString) -> Error {
    Error::Cgroup { path: unit(cluster), reason: reason.to_string() }
}

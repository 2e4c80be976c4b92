//! Taking a cluster off the host, by name: works with the daemon alive, hung, dead, or never having come up.
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnetwork::Ipv4Network;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ground;
use super::lock;
use super::paths::Paths;
use super::settings::Settings;
use crate::net::{self, Cluster};
use crate::runtime::{cgroup, scope};

/// How long a daemon may take to end after SIGTERM before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends the daemon and removes everything of the cluster but its data directory; that too with `purge`. Goes on after a
/// failure and reports them all at the end. Returns whether there was anything at all.
pub async fn down(paths: &Paths, purge: bool) -> Result<bool> {
    let known = ground::is_data_directory(&paths.data);
    ensure!(known, "{} is no data directory of a cluster: nothing was done", paths.data.display());
    scope::settle(&paths.cluster);
    let anything = end_daemon(paths).await? || paths.run.exists() || (purge && paths.data.exists());
    let cluster = cluster(paths);
    let mut failures = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{what}: {error:#}"));
        }
    };
    note("processes and cgroups", remove_cgroups(paths));
    note("network", net::teardown(&cluster).await.map_err(Into::into));
    note("mounts", unmount_below(&paths.data));
    note("run directory", remove_run(paths));
    if purge {
        note("data directory", remove_tree(&paths.data));
        remove_if_empty(Paths::data_root());
    }
    ensure!(failures.is_empty(), "not everything could be removed:\n  {}", failures.join("\n  "));
    Ok(anything)
}

/// Asks with SIGTERM, insists with SIGKILL. Its lock says when it is gone.
async fn end_daemon(paths: &Paths) -> Result<bool> {
    let file = paths.pid_file();
    let Some(pid) = lock::held_by(&file) else { return Ok(false) };
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(errno) => return Err(errno).with_context(|| format!("ending the daemon, process {pid}")),
        }
        let file = file.clone();
        let free = tokio::task::spawn_blocking(move || lock::wait_free(&file));
        if let Ok(waited) = tokio::time::timeout(PATIENCE, free).await {
            waited??;
            return Ok(true);
        }
    }
    anyhow::bail!("process {pid} does not end")
}

/// The names and addresses the network room needs; ranges do not matter for removal.
fn cluster(paths: &Paths) -> Cluster {
    let settings = Settings::load(&paths.data).ok().flatten();
    let any = || Ipv4Network::from(std::net::Ipv4Addr::UNSPECIFIED);
    Cluster {
        name: paths.cluster.clone(),
        underlay: settings.as_ref().and_then(|settings| settings.underlay).unwrap_or_else(any),
        pod_cidr: settings.as_ref().map_or_else(any, |settings| settings.pod_cidr),
        service_cidr: settings.as_ref().map_or_else(any, |settings| settings.service_cidr),
        mtu: super::run::UNDERLAY_MTU,
    }
}

/// All processes of the cluster, shims too, are in its cgroup; ending them first frees everything else.
fn remove_cgroups(paths: &Paths) -> Result<()> {
    cgroup::remove(&paths.cgroup())?;
    cgroup::remove_empty(paths.cgroup().split('/').next().unwrap_or_default())?;
    scope::release(&paths.cluster)?;
    Ok(())
}

/// Unmounts what is mounted below a directory, deepest first.
fn unmount_below(dir: &Path) -> Result<()> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("reading mounts")?;
    let targets = text.lines().filter_map(|line| line.split(' ').nth(4));
    let mut targets: Vec<&str> = targets.filter(|target| Path::new(target).starts_with(dir)).collect();
    targets.sort_unstable_by_key(|target| std::cmp::Reverse(target.len()));
    for target in targets {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(errno) => return Err(errno).with_context(|| format!("unmounting {target}")),
        }
    }
    Ok(())
}

fn remove_run(paths: &Paths) -> Result<()> {
    unmount_below(&paths.run)?;
    remove_tree(&paths.run)?;
    remove_if_empty(Paths::run_root());
    Ok(())
}

pub(super) fn remove_tree(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// A directory shared with other clusters goes with the last of them.
fn remove_if_empty(dir: &Path) {
    if let Err(error) = std::fs::remove_dir(dir) {
        tracing::debug!(dir = %dir.display(), "kept: {error}");
    }
}

//! A pod's volumes: what must be in them (`payload`, pure), how it gets to disk (`disk`), and which of them a
//! container sees where (here).
//!
//! Files from the API are kept as the kubelet keeps them: the data lives in a directory with a fresh name, `..data`
//! is a symlink to it, and the visible names are symlinks through `..data`. Replacing one symlink by rename changes
//! all files at once; a container never sees half of an update.
//!
//! Files from the API lie in a tmpfs, to which [`MEMORY`] in the pod's directory leads: secrets and tokens never reach
//! a disk. Left out: volumes that need a driver (CSI, NFS, persistent claims), block devices, and size limits on disk.
mod disk;
mod payload;

pub use disk::{host_path, make_empty, write};
pub use payload::{Files, TokenKey, payload, tokens};

use super::{env, oci::Bind, spec};
use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// In a pod's directory: a symlink to its part of the node's tmpfs.
pub const MEMORY: &str = "memory";

/// How a volume is provided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Empty,
    /// An emptyDir in memory, mounted by the sandbox.
    Memory,
    Host,
    /// Files from the API.
    Files,
    Unsupported,
}

pub fn kind(volume: &Volume) -> Kind {
    let files = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some();
    match (&volume.empty_dir, &volume.host_path) {
        (Some(empty), _) if empty.medium.as_deref() == Some("Memory") => Kind::Memory,
        (Some(_), _) => Kind::Empty,
        (_, Some(_)) => Kind::Host,
        _ if files => Kind::Files,
        _ => Kind::Unsupported,
    }
}

pub fn list(pod: &Pod) -> &[Volume] {
    spec::spec(pod).volumes.as_deref().unwrap_or_default()
}

/// Whether files show the pod's labels or annotations.
pub fn show_metadata(pod: &Pod) -> bool {
    let projected =
        |v: &Volume| v.projected.iter().flat_map(|p| p.sources.iter().flatten()).any(|s| s.downward_api.is_some());
    list(pod).iter().any(|volume| volume.downward_api.is_some() || projected(volume))
}

/// Where a volume is on the host.
pub fn place(volume: &Volume, pod_dir: &Path) -> PathBuf {
    match (&volume.host_path, kind(volume)) {
        (Some(host), _) => PathBuf::from(&host.path),
        (None, Kind::Files) => pod_dir.join(MEMORY).join(&volume.name),
        (None, _) => pod_dir.join("volumes").join(&volume.name),
    }
}

/// The bind mounts of a container's `volumeMounts`, in the order of their depth. Blocking: resolves and makes subPaths;
/// what lies in memory only the `shim` sees where it is mounted.
pub fn binds(
    pod: &Pod,
    container: &Container,
    pod_dir: &Path,
    known: &BTreeMap<String, String>,
    shim: Option<i32>,
) -> Result<Vec<Bind>, String> {
    let mut binds = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = list(pod).iter().find(|volume| volume.name == mount.name);
        let volume = volume.ok_or_else(|| format!("volume {:?} not found", mount.name))?;
        let place = place(volume, pod_dir);
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => Some(path.clone()),
            (_, Some(path)) if !path.is_empty() => Some(env::expand(path, known)),
            _ => None,
        };
        let files = kind(volume) == Kind::Files;
        let seen = match shim {
            Some(pid) if kind(volume) == Kind::Memory => PathBuf::from(format!("/proc/{pid}/root{}", place.display())),
            _ => place.clone(),
        };
        // The shim follows no symlink in what it binds; nor does anybody once a subPath is found.
        let from = match sub {
            Some(sub) => disk::sub_path(&seen, &sub, !files).map_err(|why| {
                format!(
                    "failed to prepare subPath for volumeMount {:?} of container {:?}: {why}",
                    mount.name, container.name
                )
            })?,
            None => place
                .canonicalize()
                .map_err(|e| format!("mounting {} at {}: {e}", place.display(), mount.mount_path))?,
        };
        binds.push(Bind {
            from,
            to: mount.mount_path.clone(),
            // Files from the API are written by us alone.
            read_only: mount.read_only == Some(true) || files,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => "HostToContainer",
                Some("Bidirectional") => "Bidirectional",
                _ => "None",
            },
        });
    }
    binds.sort_by_key(|bind| bind.to.matches('/').count());
    Ok(binds)
}

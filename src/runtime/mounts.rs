//! Mounts of an OCI spec as steps.
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use oci_spec::runtime::Mount;

use super::cgroup::Layout;
use super::step::Step;
use super::types::{Error, Result};
use crate::sys::{MountAttr, attr};

/// What the words of a mount's `options` mean.
struct Options {
    bind: bool,
    recursive: bool,
    attr: MountAttr,
    flags: MsFlags,
    /// What is not a flag goes to the file system.
    data: Vec<String>,
}

fn options(words: &[String]) -> Options {
    let mut o = Options {
        bind: false,
        recursive: false,
        attr: MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() },
        flags: MsFlags::empty(),
        data: Vec::new(),
    };
    for word in words {
        match word.as_str() {
            "bind" => o.bind = true,
            "rbind" => (o.bind, o.recursive) = (true, true),
            "rro" => {
                o.attr.recursive = true;
                o.attr.set |= attr::RDONLY;
            }
            "slave" | "rslave" => o.attr.propagation = libc::MS_SLAVE,
            "private" | "rprivate" => o.attr.propagation = libc::MS_PRIVATE,
            // Mounts made in a container never travel to the host: it sees the host as a slave.
            "shared" | "rshared" => o.attr.propagation = 0,
            other => match flag(other) {
                Some((ms, bit, set)) => {
                    o.flags.set(ms, set);
                    let mask = if bit & attr::ATIME != 0 { attr::ATIME } else { bit };
                    o.attr.clear |= if set && bit & attr::ATIME == 0 { 0 } else { mask };
                    o.attr.set = (o.attr.set & !mask) | if set { bit } else { 0 };
                }
                None => o.data.push(other.to_owned()),
            },
        }
    }
    o
}

/// A word that is a mount flag: as `MS_*`, as `MOUNT_ATTR_*`, and whether it sets or clears.
fn flag(word: &str) -> Option<(MsFlags, u64, bool)> {
    Some(match word {
        "ro" => (MsFlags::MS_RDONLY, attr::RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, attr::RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, attr::NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, attr::NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, attr::NODEV, true),
        "dev" => (MsFlags::MS_NODEV, attr::NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, attr::NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, attr::NOEXEC, false),
        "noatime" => (MsFlags::MS_NOATIME, attr::NOATIME, true),
        "nodiratime" => (MsFlags::MS_NODIRATIME, attr::NODIRATIME, true),
        "relatime" => (MsFlags::MS_RELATIME, 0, true),
        "strictatime" => (MsFlags::MS_STRICTATIME, 0, true),
        "sync" => (MsFlags::MS_SYNCHRONOUS, 0, true),
        "dirsync" => (MsFlags::MS_DIRSYNC, 0, true),
        "defaults" => (MsFlags::empty(), 0, true),
        _ => return None,
    })
}

/// Steps before the root is changed (what comes from the host is taken hold of) and after it.
pub(super) fn plan(mounts: &[Mount], layout: &Layout) -> Result<(Vec<Step>, Vec<Step>)> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for mount in mounts {
        let target = mount.destination().clone();
        if !target.is_absolute() {
            let target = target.display();
            return Err(Error::Invalid(format!("mount destination {target} is not absolute")));
        }
        let o = options(mount.options().as_deref().unwrap_or_default());
        let fstype = mount.typ().clone().unwrap_or_default();
        if o.bind || fstype == "bind" {
            let source = mount.source().clone().unwrap_or_default();
            if !source.is_absolute() {
                let source = source.display();
                return Err(Error::Invalid(format!("mount source {source} is not absolute")));
            }
            let slot = before.len();
            before.push(Step::Take { slot, source, recursive: o.recursive, attr: o.attr });
            after.push(Step::Attach { slot, target });
        } else if fstype == "cgroup" || fstype == "cgroup2" {
            after.extend(cgroup_mounts(&target, o.flags, layout));
        } else {
            after.push(Step::Mount {
                source: mount.source().clone().unwrap_or_else(|| PathBuf::from(&fstype)),
                fstype,
                target,
                flags: o.flags.bits(),
                data: o.data.join(","),
            });
        }
    }
    Ok((before, after))
}

/// The container's own view of its cgroups: one mount on v2, a directory of mounts on v1.
fn cgroup_mounts(target: &Path, flags: MsFlags, layout: &Layout) -> Vec<Step> {
    let mount = |fstype: &str, target: PathBuf, flags: MsFlags, data: &str| Step::Mount {
        fstype: fstype.into(),
        source: fstype.into(),
        target,
        flags: flags.bits(),
        data: data.into(),
    };
    match layout {
        Layout::V2 { .. } => vec![mount("cgroup2", target.into(), flags, "")],
        Layout::V1(hierarchies) => {
            let hidden = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            let mut steps = vec![mount("tmpfs", target.into(), hidden, "mode=755")];
            for h in hierarchies {
                let Some(name) = h.root.file_name() else {
                    continue;
                };
                steps.push(mount("cgroup", target.join(name), flags, &h.controllers.join(",")));
            }
            if flags.contains(MsFlags::MS_RDONLY) {
                steps.push(Step::ReadOnly(target.into()));
            }
            steps
        }
    }
}

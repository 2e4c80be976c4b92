//! An OCI runtime spec as the steps of a fresh process. Pure: the host's cgroup layout is an argument.
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::{Capability, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Process, Spec};

use super::cgroup::Layout;
use super::step::Step;
use super::types::{ContainerSpec, Error, Result};
use crate::sys::{CapSets, Device, DeviceKind, MountAttr};

/// Special files every container has: name, major, minor.
const DEVICES: &[(&str, u64, u64)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];
const DEFAULT_UMASK: u32 = 0o022;

/// How to bring a container about: the namespaces its process is cloned into, and what that process then does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `CLONE_NEW*`.
    pub clone_flags: i32,
    /// In order; the last one is `Exec`.
    pub steps: Vec<Step>,
}

fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    spec.linux()
        .as_ref()
        .and_then(|l| l.namespaces().as_ref())
        .is_some_and(|all| all.iter().any(|n| n.typ() == kind && n.path().is_none()))
}

fn process(spec: &Spec) -> Result<&Process> {
    spec.process().as_ref().ok_or_else(|| Error::Invalid("no process".into()))
}

/// The steps of a container's init. The network, IPC and UTS namespaces are those of the shim it is cloned from,
/// whatever the spec says of them. `cgroup` is relative to the controllers' mounts.
pub fn plan(container: &ContainerSpec, cgroup: &str, layout: &Layout) -> Result<Plan> {
    let spec = &container.spec;
    let process = process(spec)?;
    let mut steps = limits(process);
    if layout.clone_into(cgroup).is_none() {
        steps.push(Step::JoinCgroup(layout.entrances(cgroup)));
    }
    if has_namespace(spec, LinuxNamespaceType::Cgroup) {
        steps.push(Step::CgroupNamespace);
    }
    steps.push(Step::SlaveMounts);
    let root = root(container, &mut steps)?;
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let (before, after) = super::mounts::plan(mounts, layout)?;
    let (nulls, hidden) = hidden(spec, before.len());
    steps.extend(before);
    steps.extend(nulls);
    steps.push(Step::Pivot { root });
    for step in after {
        let fresh =
            matches!(&step, Step::Mount { fstype, target, .. } if fstype == "tmpfs" && target == Path::new("/dev"));
        steps.push(step);
        if fresh {
            steps.extend(devices(spec));
        }
    }
    steps.extend(hidden);
    steps.push(directory(process)); // while it can still be made
    if spec.root().as_ref().and_then(|r| r.readonly()) == Some(true) {
        steps.push(Step::ReadOnlyRoot);
    }
    steps.extend(finish(spec, process, container.tty));
    let clone_flags = match has_namespace(spec, LinuxNamespaceType::Pid) {
        true => libc::CLONE_NEWNS | libc::CLONE_NEWPID,
        false => libc::CLONE_NEWNS,
    };
    Ok(Plan { clone_flags, steps })
}

/// The steps of another program in a running container: `process` is the container's, with what differs put in.
pub fn plan_exec(spec: &Spec, process: &Process, tty: bool, cgroup: &str, layout: &Layout) -> Result<Vec<Step>> {
    let mut steps = limits(process);
    if layout.clone_into(cgroup).is_none() {
        steps.push(Step::JoinCgroup(layout.entrances(cgroup)));
    }
    let mut namespaces = libc::CLONE_NEWNS;
    if has_namespace(spec, LinuxNamespaceType::Cgroup) {
        namespaces |= libc::CLONE_NEWCGROUP;
    }
    steps.push(Step::JoinContainer(namespaces));
    steps.push(directory(process));
    steps.extend(finish(spec, process, tty));
    Ok(steps)
}

/// What is inherited by everything later, and needs the host's `/proc`.
fn limits(process: &Process) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(score) = process.oom_score_adj() {
        steps.push(Step::OomScore(score));
    }
    for limit in process.rlimits().iter().flatten() {
        steps.push(Step::Limit {
            // The type's text is its OCI name, RLIMIT_NOFILE and so on.
            name: limit.typ().to_string(),
            soft: limit.soft(),
            hard: limit.hard(),
        });
    }
    steps
}

fn root(container: &ContainerSpec, steps: &mut Vec<Step>) -> Result<PathBuf> {
    if container.lower.is_empty() {
        let root = container.spec.root().as_ref().map(|r| r.path().clone());
        let root = root.ok_or_else(|| Error::Invalid("no layers and no root".into()))?;
        let root = container.dir.join(root); // an absolute path stays what it is
        steps.push(Step::PlainRoot { root: root.clone() });
        return Ok(root);
    }
    let root = container.dir.join("rootfs");
    steps.push(Step::Overlay {
        lower: container.lower.clone(),
        upper: container.dir.join("upper"),
        work: container.dir.join("work"),
        root: root.clone(),
    });
    Ok(root)
}

/// What a fresh `/dev` is filled with, at once: a volume may come on top of it or of something in it, and what others can
/// change at the same time is no place to make devices in.
fn devices(spec: &Spec) -> Vec<Step> {
    let dev = |name: &str| Path::new("/dev").join(name);
    let mut steps: Vec<Step> = DEVICES
        .iter()
        .map(|&(name, major, minor)| Step::Node {
            path: dev(name),
            device: Device { kind: DeviceKind::Char, major, minor, mode: 0o666, uid: 0, gid: 0 },
        })
        .collect();
    let own = spec.linux().as_ref().and_then(|l| l.devices().as_ref());
    let standard: HashSet<PathBuf> = DEVICES.iter().map(|d| dev(d.0)).collect();
    steps.extend(own.into_iter().flatten().filter(|d| !standard.contains(d.path())).map(node));
    steps.extend(LINKS.iter().map(|&(name, target)| Step::Link { path: dev(name), target: target.into() }));
    steps
}

fn node(device: &LinuxDevice) -> Step {
    let kind = match device.typ() {
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        _ => DeviceKind::Char,
    };
    Step::Node {
        path: device.path().clone(),
        device: Device {
            kind,
            major: device.major().unsigned_abs(),
            minor: device.minor().unsigned_abs(),
            mode: device.file_mode().unwrap_or(0o666),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        },
    }
}

/// Steps before the root is changed (a `/dev/null` for each masked path, from slot `first` on) and after it.
fn hidden(spec: &Spec, first: usize) -> (Vec<Step>, Vec<Step>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let Some(linux) = spec.linux() else {
        return (before, after);
    };
    for (slot, path) in (first..).zip(linux.masked_paths().iter().flatten()) {
        before.push(Step::Take { slot, source: "/dev/null".into(), recursive: false, attr: MountAttr::default() });
        after.push(Step::Mask { slot, path: path.into() });
    }
    after.extend(linux.readonly_paths().iter().flatten().map(|p| Step::ReadOnly(p.into())));
    (before, after)
}

/// From the finished file system to the program. Without `no_new_privs` the seccomp filter must go in while we still have
/// CAP_SYS_ADMIN; with it, as late as possible.
fn finish(spec: &Spec, process: &Process, tty: bool) -> Vec<Step> {
    let user = process.user();
    let mut steps = vec![Step::Session];
    steps.push(match tty {
        true => Step::Terminal(user.uid()),
        false => Step::Stdio(user.uid()),
    });
    let seccomp = spec.linux().as_ref().is_some_and(|l| l.seccomp().is_some());
    let locked = process.no_new_privileges() == Some(true);
    if seccomp && !locked {
        steps.push(Step::Seccomp);
    }
    steps.push(Step::User {
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask().unwrap_or(DEFAULT_UMASK),
        caps: capabilities(process),
    });
    steps.push(Step::DieWithShim);
    if locked {
        steps.push(Step::NoNewPrivileges);
        if seccomp {
            steps.push(Step::Seccomp);
        }
    }
    steps.push(Step::Exec {
        args: process.args().clone().unwrap_or_default(),
        env: process.env().clone().unwrap_or_default(),
    });
    steps
}

fn directory(process: &Process) -> Step {
    Step::Directory(match process.cwd().is_absolute() {
        true => process.cwd().clone(),
        false => "/".into(),
    })
}

fn capabilities(process: &Process) -> CapSets {
    let mask = |set: &Option<HashSet<Capability>>| {
        set.iter()
            .flatten()
            .filter_map(|c| caps::Capability::from_str(&format!("CAP_{c}")).ok())
            .fold(0, |mask, c| mask | c.bitmask())
    };
    let Some(sets) = process.capabilities() else {
        return CapSets::default();
    };
    CapSets {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        permitted: mask(sets.permitted()),
        inheritable: mask(sets.inheritable()),
        ambient: mask(sets.ambient()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cgroup::Hierarchy;
    use crate::runtime::perform::{Context, perform};
    use crate::sys::Recorder;

    fn container(tty: bool) -> ContainerSpec {
        let spec = serde_json::json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs", "readonly": true },
            "process": {
                "cwd": "/srv", "user": { "uid": 7, "gid": 8, "additionalGids": [9] }, "args": ["/bin/app", "-v"],
                "env": ["A=b"], "oomScoreAdj": 999, "noNewPrivileges": true,
                "capabilities": { "bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"] },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 2 }],
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"] },
                { "destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"] },
                { "destination": "/etc/conf", "type": "bind", "source": "/pod/conf", "options": ["rbind", "ro", "noatime"] },
            ],
            "linux": {
                "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "cgroup" }],
                "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
                "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" },
            },
        });
        ContainerSpec {
            name: "app".into(),
            attempt: 0,
            dir: "/b".into(),
            lower: vec!["/l/2".into(), "/l/1".into()],
            spec: serde_json::from_value(spec).unwrap(),
            log: "/log".into(),
            stdin: false,
            tty,
        }
    }

    fn layout() -> Layout {
        Layout::V1(vec![Hierarchy { controllers: vec!["memory".into()], root: "/cg/memory".into() }])
    }

    /// What the kernel would be asked for.
    fn recorded(steps: &[Step]) -> Vec<String> {
        let mut recorder = Recorder::default();
        let mut context = Context { seccomp: &[0; 16], note: &mut |_| (), terminal: &mut |_| () };
        perform(steps, &mut recorder, &mut context).unwrap();
        recorder.lines
    }

    fn golden(name: &str, text: String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/runtime/golden").join(name);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap_or_default(), "{name}: UPDATE=1 rewrites it");
    }

    #[test]
    fn a_container_is_planned_and_performed_as_written_down() {
        let plan = plan(&container(false), "pod/app", &layout()).unwrap();
        let steps: Vec<String> = plan.steps.iter().map(Step::to_string).collect();
        golden("container.steps", steps.join("\n") + "\n");
        golden("container.calls", recorded(&plan.steps).join("\n") + "\n");
    }

    #[test]
    fn a_program_in_a_container_is_planned_as_written_down() {
        let spec = container(true).spec;
        let process = spec.process().clone().unwrap();
        let steps = plan_exec(&spec, &process, true, "pod/app", &layout()).unwrap();
        golden("exec.calls", recorded(&steps).join("\n") + "\n");
    }

    #[test]
    fn on_v2_nobody_walks_into_a_cgroup() {
        let v2 = Layout::V2 { root: "/cg".into() };
        let plan = plan(&container(false), "pod/app", &v2).unwrap();
        assert!(!plan.steps.iter().any(|s| matches!(s, Step::JoinCgroup(_))));
    }
}

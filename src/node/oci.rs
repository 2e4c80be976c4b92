//! From a container's manifest and its image to the OCI runtime specification that is written as `config.json`. Pure.
use super::{
    env::{self, Facts},
    resources, security,
    security::{Accounts, User},
    sources::Sources,
    spec,
};
use crate::{image::Image, runtime::seccomp};
use k8s_openapi::api::core::v1::{Container, Pod};
use oci_spec::runtime::{Capability, Spec};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Open files a container may have; what systemd gives services for a hard limit.
const MAX_FILES: u64 = 1_048_576;

/// Annotations of the specification: what adoption after a restart wants to know.
pub const IMAGE: &str = "coracle.io/image";
pub const IMAGE_ID: &str = "coracle.io/image-id";

/// A bind mount into the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    pub from: PathBuf,
    pub to: String,
    pub read_only: bool,
    /// `None`, `HostToContainer` or `Bidirectional`.
    pub propagation: &'static str,
}

/// Everything the specification is made from.
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub image: &'a Image,
    pub accounts: &'a Accounts,
    pub sources: &'a Sources,
    pub facts: &'a Facts,
    /// The feature gate.
    pub memory_qos: bool,
    /// Volumes and the files the kubelet makes, in the order they are mounted.
    pub binds: &'a [Bind],
}

/// Makes the specification. Errors are worded as the kubelet's CreateContainerConfigError.
pub fn spec(inputs: &Inputs<'_>) -> Result<Spec, String> {
    let Inputs { pod, container, image, .. } = inputs;
    let config = image.config.config().clone().unwrap_or_default();
    let image_user = config.user().clone().unwrap_or_default();
    let user = security::user(pod, container, &image_user, inputs.accounts)?;
    let set = env::environment(pod, container, inputs.sources, inputs.facts)?;
    let known: BTreeMap<String, String> = set.iter().cloned().collect();
    let args = arguments(container, &config, &known);
    if args.is_empty() {
        return Err("no command specified".into());
    }
    let cwd = container.working_dir.clone().filter(|dir| !dir.is_empty());
    let cwd = cwd.or(config.working_dir().clone().filter(|dir| !dir.is_empty()));
    let privileged = security::privileged(container);
    let capabilities = security::capabilities(container);
    // A program that is executed by another user than root starts with none; saying so keeps config.json honest.
    let effective = if user.uid == 0 { json!(capabilities) } else { json!([]) };
    let read_only = security::context(container).read_only_root_filesystem == Some(true);
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": container.tty == Some(true),
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
            "args": args,
            "env": variables(&config, set, &user, container.tty == Some(true), pod),
            "cwd": cwd.unwrap_or_else(|| "/".into()),
            "capabilities": {
                "bounding": capabilities, "permitted": effective, "effective": effective,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": MAX_FILES, "soft": MAX_FILES}],
            "noNewPrivileges": !security::may_escalate(container),
            "oomScoreAdj": resources::oom_score_adj(pod, container, inputs.facts.memory),
        },
        "root": {"path": "rootfs", "readonly": read_only},
        "mounts": mounts(inputs.binds, privileged),
        "annotations": {IMAGE: image.reference, IMAGE_ID: image.id},
        "linux": {
            "resources": resources::container(container, inputs.memory_qos.then_some(inputs.facts.memory)),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
        },
    });
    confine(&mut spec["linux"], pod, container, privileged, &capabilities);
    serde_json::from_value(spec).map_err(|e| format!("making config.json: {e}"))
}

/// Masked and read-only paths, the seccomp filter, and devices.
fn confine(
    linux: &mut Value,
    pod: &Pod,
    container: &Container,
    privileged: bool,
    capabilities: &std::collections::BTreeSet<String>,
) {
    let unmasked = security::context(container).proc_mount.as_deref() == Some("Unmasked");
    if !privileged && !unmasked {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    if security::seccomp(pod, container) == "RuntimeDefault" {
        let set: Vec<Capability> =
            capabilities.iter().filter_map(|name| serde_json::from_value(json!(name)).ok()).collect();
        linux["seccomp"] = json!(seccomp::default_profile(&set));
    }
    linux["resources"]["devices"] = match privileged {
        true => json!([{"allow": true, "access": "rwm"}]),
        false => json!([{"allow": false, "access": "rwm"}]),
    };
}

/// The command line: the manifest's, else the image's, as the table in Kubernetes' documentation has it.
fn arguments(container: &Container, config: &oci_spec::image::Config, known: &BTreeMap<String, String>) -> Vec<String> {
    let expand = |list: &[String]| list.iter().map(|arg| env::expand(arg, known)).collect::<Vec<_>>();
    let command = container.command.as_deref().filter(|list| !list.is_empty()).map(expand);
    let args = container.args.as_deref().filter(|list| !list.is_empty()).map(expand);
    let (entrypoint, cmd) = (config.entrypoint().clone(), config.cmd().clone());
    let (first, rest) = match (command, args) {
        (Some(command), args) => (command, args.unwrap_or_default()),
        (None, Some(args)) => (entrypoint.unwrap_or_default(), args),
        (None, None) => (entrypoint.unwrap_or_default(), cmd.unwrap_or_default()),
    };
    first.into_iter().chain(rest).collect()
}

/// `KEY=value` lines: the image's, HOSTNAME, the manifest's; the last of a name wins and only it is kept.
fn variables(
    config: &oci_spec::image::Config,
    set: Vec<(String, String)>,
    user: &User,
    tty: bool,
    pod: &Pod,
) -> Vec<String> {
    let mut lines: Vec<String> = config.env().clone().unwrap_or_default();
    let has = |lines: &[String], key: &str| lines.iter().any(|line| line.split('=').next() == Some(key));
    if !has(&lines, "PATH") {
        lines.push(PATH.into());
    }
    lines.push(format!("HOSTNAME={}", spec::hostname(pod)));
    if tty && !has(&lines, "TERM") {
        lines.push("TERM=xterm".into());
    }
    if !has(&lines, "HOME") {
        lines.push(format!("HOME={}", user.home.as_deref().unwrap_or("/")));
    }
    for (key, value) in set {
        lines.retain(|line| line.split('=').next() != Some(&key));
        lines.push(format!("{key}={value}"));
    }
    lines
}

fn mounts(binds: &[Bind], privileged: bool) -> Vec<Value> {
    let access = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        // Also in the host's network: the host's own comes with debugfs, tracefs and bpffs below it.
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", access]}),
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", access]}),
    ];
    // A mount hides what lies below it, so the outer ones come first, whoever wants them. Not a read-only /dev: in there
    // the mount points of the node's own would have to be made.
    let mut binds: Vec<&Bind> = binds.iter().collect();
    binds.sort_by_key(|bind| (bind.read_only && bind.to == "/dev", Path::new(&bind.to).components().count()));
    mounts.extend(binds.into_iter().map(|bind| {
        let propagation = match bind.propagation {
            "HostToContainer" => "rslave",
            "Bidirectional" => "rshared",
            _ => "rprivate",
        };
        let access = if bind.read_only { "ro" } else { "rw" };
        json!({"destination": bind.to, "type": "bind", "source": bind.from,
            "options": ["rbind", propagation, access]})
    }));
    mounts
}
